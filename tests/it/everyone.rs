//! What decisions know about everyone: budgets on one edge and over several, and the report on offers and experiments.

use std::collections::BTreeSet;

use selvedge_tests::cluster::{TestCentre, TestCentreBuilder, eventually};
use selvedge_tests::edge::{SECRET, TestEdge, TestEdgeBuilder};
use selvedge_tests::process::command;
use serde_json::{Value, json};

use crate::decisions::{catalogue, offer};

const VISITORS: usize = 40;

/// Offers of which one may be chosen so many times in all.
fn limited(most: u64, counts: &str, window: &str) -> Value {
    let budget = json!({"caps": [{"per": "everyone", "counts": counts, "most": most, "window": window}]});
    catalogue(vec![offer("kettle", 5, budget)], json!({}))
}

fn written(catalogue: &Value) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue.to_string()).unwrap();
    (folder, file)
}

fn edge(catalogue: &Value) -> (TestEdge, tempfile::TempDir) {
    let (folder, file) = written(catalogue);
    let builder = TestEdgeBuilder::default().without_catalog().without_plugins();
    (builder.arguments(&["--catalog", file.to_str().unwrap()]).start(), folder)
}

fn centre(catalogue: &Value) -> (TestCentre, tempfile::TempDir) {
    let (folder, file) = written(catalogue);
    (TestCentreBuilder::default().catalog(&file).plugins(None).start(), folder)
}

fn ask(edge: &TestEdge, visitor: &str, more: Value) -> Value {
    let mut ask =
        json!({"visitor": {"userId": visitor}, "slots": [{"slot": "hero", "count": 5}], "deadlineMs": 10_000});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    edge.post(SECRET, "/v1/decide", &ask.to_string()).ok()
}

fn visitor(number: usize) -> String {
    format!("u-{}", number % VISITORS)
}

/// Whether anything is chosen for somebody.
fn chooses(edge: &TestEdge, visitor: &str) -> bool {
    ask(edge, visitor, json!({}))["slots"][0]["fallback"] == false
}

/// How many of so many calls in a row something is chosen in.
fn chosen(edge: &TestEdge, calls: usize) -> u64 {
    (0..calls).filter(|call| chooses(edge, &visitor(*call))).count() as u64
}

/// The same, several at a time.
fn chosen_at_once(edge: &TestEdge, callers: usize, calls: usize) -> u64 {
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(|| chosen(edge, calls))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    })
}

fn feedback(visitor: &str, act: &str, offer: &str, id: &str) -> Value {
    json!({"type": "track", "event": format!("Offer {act}"), "userId": visitor, "messageId": id, "properties": {"offer_id": offer}})
}

fn report(admin: impl Fn(&str) -> selvedge_tests::Answer) -> Value {
    admin("/admin/v1/report").ok()
}

#[test]
fn a_budget_is_spent_to_the_last_and_never_exceeded_on_one_edge() {
    // Long enough that purses are brought up several times meanwhile, as counts become changes and these are folded.
    const MOST: u64 = 6_000;
    let (edge, _folder) = edge(&limited(MOST, "decided", "lifetime"));
    assert_eq!(chosen_at_once(&edge, 4, MOST as usize / 2), MOST);
    let answer = ask(&edge, "eve", json!({"explain": true}));
    let candidate = &answer["slots"][0]["candidates"][0];
    assert_eq!((&candidate["outcome"], &candidate["step"]), (&json!("capped"), &json!("cap")), "{answer}");
    eventually("the report has all of it", || report(|path| edge.admin_get(path))["total"]["decided"] == MOST);
    // It is spent after a start, too; and a limit that is raised gives what it adds.
    let edge = edge.kill_and_restart();
    assert_eq!(chosen(&edge, 50), 0);
    assert_eq!(report(|path| edge.admin_get(path))["total"]["decided"], MOST);
    let put = |most: u64| {
        let body = limited(most, "decided", "lifetime").to_string();
        let agent = selvedge_tests::edge::agent();
        let put = agent.put(format!("{}/admin/v1/catalogue", edge.admin)).content_type("application/json");
        selvedge_tests::process::answer(put.header("if-match", "*").send(body.as_str())).ok();
    };
    put(MOST + 7);
    assert_eq!(chosen_at_once(&edge, 3, 20), 7);
    put(MOST);
    assert_eq!(chosen(&edge, 10), 0);
}

#[test]
fn a_budget_counts_what_was_accepted_and_is_whole_again_the_next_day() {
    let (edge, _folder) = edge(&limited(3, "accepted", "day"));
    assert_eq!(chosen(&edge, 10), 10, "decisions are not what it counts");
    let accepts = |ids: std::ops::Range<usize>| -> Vec<Value> {
        ids.map(|id| feedback(&visitor(id), "Accepted", "kettle", &format!("a-{id}"))).collect()
    };
    edge.batch(&accepts(0..2));
    // The same once more counts once.
    edge.batch(&accepts(0..2));
    eventually("they are counted", || report(|path| edge.admin_get(path))["total"]["accepted"] == 2);
    assert!(chooses(&edge, "ada"));
    edge.batch(&accepts(2..3));
    eventually("the third closes it", || !chooses(&edge, "ada"));
    let answer = ask(&edge, "ada", json!({"explain": true}));
    let until = answer["slots"][0]["candidates"][0]["until"].as_str().unwrap().to_owned();
    assert!(until.ends_with("T00:00:00Z"), "{answer}");
}

#[test]
fn edges_share_a_budget_and_one_that_is_cut_off_spends_its_share_and_no_more() {
    const MOST: u64 = 60;
    let (mut centre, _folder) = centre(&limited(MOST, "decided", "lifetime"));
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    // Nothing is spent before the centre has said how many they are.
    for edge in [&one, &two] {
        eventually("the edge has heard", || chooses(edge, "first"));
    }
    // The first one may have been told that it is alone.
    let one = one.kill_and_restart();
    eventually("it has heard of the other", || chooses(&one, "again"));
    let spent = |edges: &[&TestEdge]| -> u64 {
        let decided = |edge: &&TestEdge| report(|path| edge.admin_get(path))["total"]["decided"].as_u64().unwrap();
        edges.iter().map(decided).max().unwrap()
    };
    eventually("both know of both", || spent(&[&one]) >= 2 && spent(&[&two]) >= 2);
    let before = spent(&[&one, &two]);
    centre.kill();
    // What each was told last may be a second old: its share is of what was left then.
    let alone = |edge: &TestEdge| chosen_at_once(edge, 2, MOST as usize);
    let (first, second) = (alone(&one), alone(&two));
    assert!(first < MOST && second < MOST && first + second + before <= MOST + 2, "{first} + {second} + {before}");
    assert!(first + second >= (MOST - before) / 2, "{first} + {second}");
    // One that starts while the centre is away knows of nobody.
    let two = two.kill_and_restart();
    assert_eq!(chosen(&two, 20), 0);
    let centre = centre.restart();
    eventually("the rest is spent once they hear of each other again", || {
        chosen(&one, 5);
        chosen(&two, 5);
        spent(&[&one, &two]) >= MOST
    });
    eventually("and then nothing is", || chosen(&one, 20) + chosen(&two, 20) == 0);
    eventually("all of them count the same", || {
        let at_centre = report(|path| centre.admin_get(path))["total"]["decided"].as_u64().unwrap();
        at_centre == spent(&[&one]) && at_centre == spent(&[&two])
    });
    let all = spent(&[&one, &two]);
    assert!((MOST..=MOST + MOST / 2).contains(&all), "{all}");
}

#[test]
fn edges_that_decide_at_once_overshoot_by_no_more_than_what_is_said() {
    const MOST: u64 = 12_000;
    /// What an edge does is known to the others after so long at the most.
    const KNOWN_MS: u64 = 3_000;
    let (centre, _folder) = centre(&limited(MOST, "decided", "lifetime"));
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    for edge in [&one, &two] {
        eventually("the edge has heard", || chooses(edge, "first"));
    }
    let began = std::time::Instant::now();
    // When each decision was made, in milliseconds.
    let until_spent = |edge: &TestEdge| {
        let mut at = Vec::new();
        let now = || u64::try_from(began.elapsed().as_millis()).unwrap();
        // Refused for longer than what the others do takes to be known: it is spent.
        while now() < at.last().copied().unwrap_or(0) + 2 * KNOWN_MS {
            if chooses(edge, &visitor(at.len())) {
                at.push(now());
            }
        }
        at
    };
    let (first, second) = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(|| until_spent(&one)), scope.spawn(|| until_spent(&two)));
        (first.join().unwrap(), second.join().unwrap())
    });
    let count = |of: &[u64]| of.len() as u64;
    let all = count(&first) + count(&second);
    assert!(count(&first) <= MOST && count(&second) <= MOST, "{} and {}", first.len(), second.len());
    // At most what the other one spends before it is known, half of it, and one for each.
    let most_at_once = |of: &[u64]| {
        let within = |at: usize| of.partition_point(|when| *when < of[at] + KNOWN_MS) - at;
        (0..of.len()).map(within).max().unwrap_or(0) as u64
    };
    let over = (most_at_once(&first) + most_at_once(&second)) / 2 + 2;
    println!("{} + {} of {MOST}; at most {over} over", first.len(), second.len());
    assert!(all + 4 >= MOST && all <= MOST + over, "{all} of {MOST}, {over}");
    eventually("the centre has all of it", || {
        report(|path| centre.admin_get(path))["total"]["decided"].as_u64().unwrap() >= all
    });
}

#[test]
fn edges_of_some_shards_are_told_what_is_spent_in_others() {
    const MOST: u64 = 30;
    let (centre, _folder) = centre(&limited(MOST, "decided", "lifetime"));
    let low = centre.edge("low").arguments(&["--shards", "0-31"]).start();
    let high = centre.edge("high").arguments(&["--shards", "32-63"]).start();
    let mut all = 0;
    eventually("both together have spent all of it", || {
        all += chosen(&low, 5) + chosen(&high, 5);
        all >= MOST
    });
    eventually("and then nothing is", || {
        let more = chosen(&low, VISITORS) + chosen(&high, VISITORS);
        all += more;
        more == 0
    });
    assert!((MOST..=MOST + MOST / 2).contains(&all), "{all}");
    let of = |edge: &TestEdge| report(|path| edge.admin_get(path));
    eventually("the parts add up at the centre", || {
        let parts = [of(&low), of(&high)].iter().map(|part| part["total"]["decided"].as_u64().unwrap()).sum::<u64>();
        let whole = report(|path| centre.admin_get(path));
        assert_eq!((&whole["shards"], &of(&low)["shards"]), (&json!(64), &json!(32)));
        whole["total"]["decided"] == parts && parts == all
    });
}

#[test]
fn the_report_tells_the_funnel_and_what_a_hold_out_is_worth() {
    let offers = vec![
        offer("kettle", 5, json!({"campaign": "spring"})),
        offer("rose", 3, json!({"variants": [{"id": "red"}, {"id": "white"}]})),
    ];
    let more = json!({"campaigns": [{"id": "spring", "name": "Spring"}], "holdout": {"percent": 50, "salt": "s"}});
    let (edge, _folder) = edge(&catalogue(offers, more));
    let mut treated = BTreeSet::new();
    for number in 0..VISITORS {
        // Everybody comes twice, the second time under another identifier: one person is exposed once.
        let (user, anonymous) = (visitor(number), format!("a-{number}"));
        if chooses(&edge, &user) {
            treated.insert(number);
        }
        edge.batch(&[json!({"type": "identify", "userId": user, "anonymousId": anonymous, "traits": {}})]);
        let again = json!({"visitor": {"anonymousId": anonymous}, "slots": [{"slot": "hero"}], "deadlineMs": 10_000});
        edge.post(SECRET, "/v1/decide", &again.to_string()).ok();
    }
    assert!((5..VISITORS - 5).contains(&treated.len()), "{treated:?}");
    let of_act = |act: &str, some: &dyn Fn(usize) -> bool| -> Vec<Value> {
        let some = treated.iter().filter(|number| some(**number));
        some.map(|number| feedback(&visitor(*number), act, "kettle", &format!("{act}-{number}"))).collect()
    };
    let (shown, clicked, accepted) = (
        of_act("Shown", &|_| true),
        of_act("Clicked", &|number| number % 2 == 0),
        of_act("Accepted", &|number| number % 4 == 0),
    );
    for events in [&shown, &clicked, &accepted, &clicked] {
        edge.batch(events);
    }
    let count = treated.len() as u64;
    let funnel = |decided: u64, rest: [usize; 3]| json!({"decided": decided, "shown": rest[0], "clicked": rest[1], "accepted": rest[2]});
    let of_kettle = funnel(2 * count, [shown.len(), clicked.len(), accepted.len()]);
    let mut told = Value::Null;
    eventually("the report has all of it", || {
        told = report(|path| edge.admin_get(path));
        told["offers"][0]["total"] == of_kettle
            && told["offers"][1]["total"]["decided"] == count
            && told["persons"] == VISITORS
    });
    assert_eq!((&told["shards"], &told["of"], &told["timeZone"]), (&json!(64), &json!(64), &json!("UTC")));
    assert_eq!(told["offers"][0]["channels"], json!([{"channel": "web", "total": of_kettle}]));
    assert_eq!((&told["offers"][0]["campaign"], &told["offers"][0]["known"]), (&json!("spring"), &json!(true)));
    assert_eq!(told["campaigns"], json!([{"id": "spring", "name": "Spring", "total": of_kettle}]));
    assert_eq!(told["channels"][0]["total"]["decided"], 3 * count);
    let days = told["days"].as_array().unwrap();
    let decided: u64 = days.iter().map(|day| day["decided"].as_u64().unwrap()).sum();
    assert_eq!(decided, 3 * count, "{days:?}");

    let experiments = told["experiments"].as_array().unwrap();
    let [holdout, variants] = &experiments[..] else { panic!("{experiments:?}") };
    assert_eq!((&holdout["name"], &holdout["baseline"]), (&json!("holdout"), &json!("held")));
    let held = &holdout["arms"][0];
    assert_eq!(
        (&held["exposed"], &held["converted"], &held["lift"]),
        (&json!(VISITORS as u64 - count), &json!(0), &Value::Null)
    );
    let arm = &holdout["arms"][1];
    assert_eq!(
        (&arm["arm"], &arm["exposed"], &arm["converted"]),
        (&json!("treated"), &json!(count), &json!(accepted.len()))
    );
    let difference = arm["difference"]["value"].as_f64().unwrap();
    assert!((difference - accepted.len() as f64 / count as f64).abs() < 1e-9, "{arm}");
    assert!(
        arm["difference"]["low"].as_f64().unwrap() < difference
            && arm["difference"]["high"].as_f64().unwrap() > difference
    );
    assert_eq!(
        (&variants["kind"], &variants["of"], &variants["baseline"]),
        (&json!("variants"), &json!("rose"), &json!("red"))
    );
    let exposed: u64 = variants["arms"].as_array().unwrap().iter().map(|arm| arm["exposed"].as_u64().unwrap()).sum();
    assert_eq!(exposed, count);

    let brief = edge.admin_get("/admin/v1/report?days=0&experiments=false").ok();
    assert_eq!((&brief["days"], &brief["experiments"], &brief["total"]), (&json!([]), &Value::Null, &told["total"]));
    assert_eq!(edge.admin_get("/admin/v1/report?days=99").problem(), (400, "query_invalid"));
    assert_eq!(edge.admin_get("/admin/v1/report?weeks=2").problem(), (400, "query_invalid"));
    let printed = command(&["report", "--url", &edge.admin].map(str::to_owned)).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    for line in ["offer", "kettle", "spring", "holdout (against held)", "treated", "40 persons"] {
        assert!(printed.contains(line), "no {line} in\n{printed}");
    }
    println!("{printed}");
    // Who is erased is nobody's count any more.
    let gone = visitor(*treated.first().unwrap());
    assert_eq!(edge.delete(SECRET, &format!("/v1/profiles/user:{gone}")).status / 100, 2);
    eventually("nothing of them is left in it", || {
        let told = report(|path| edge.admin_get(path));
        told["persons"] == VISITORS - 1 && told["offers"][0]["total"]["decided"] == 2 * count - 2
    });
}

#[test]
fn an_offer_without_a_score_is_as_likely_as_everyone_takes_it() {
    let offers = vec![offer("kettle", 5, json!({})), offer("rose", 3, json!({}))];
    let rates = json!({"response": {"counts": "clicked", "prior": 0.1, "weight": 10}});
    let (centre, _folder) = centre(&catalogue(offers, rates));
    let whole = centre.edge("whole").start();
    let part = centre.edge("part").arguments(&["--shards", "0-31"]).start();
    let factors = |edge: &TestEdge, visitor: &str, offer: usize| -> Value {
        let answer = ask(edge, visitor, json!({"explain": true, "dryRun": true}));
        answer["slots"][0]["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .find(|of| of["id"] == ["kettle", "rose"][offer])
            .unwrap()["factors"]
            .clone()
    };
    // Without any data: the prior.
    let kettle = factors(&whole, "u-1", 0);
    assert_eq!(
        (&kettle["propensity"], &kettle["response"]),
        (&json!(0.1), &json!({"responses": 0, "shown": 0, "prior": 0.1, "weight": 10.0}))
    );
    let first = |edge: &TestEdge, visitor: &str| {
        ask(edge, visitor, json!({"dryRun": true}))["slots"][0]["offers"][0]["id"].clone()
    };
    assert_eq!(first(&whole, "u-1"), "kettle");
    let mut events = Vec::new();
    for number in 0..VISITORS {
        let of = |act: &str, offer: &str| feedback(&visitor(number), act, offer, &format!("{act}-{offer}-{number}"));
        events.extend([of("Shown", "kettle"), of("Shown", "rose")]);
        if number % 4 == 0 {
            events.push(of("Clicked", "rose"));
        }
    }
    whole.batch(&events);
    let held = (0..VISITORS).map(visitor).find(|visitor| chooses(&part, visitor)).unwrap();
    // 40 were shown each, 10 clicked on the rose: (10 + 0.1 × 10) ÷ (40 + 10), and 1 ÷ 50 for the kettle.
    for (edge, visitor) in [(&whole, "u-1"), (&part, held.as_str())] {
        eventually("the rates arrive", || {
            factors(edge, visitor, 1)["response"]["shown"] == 40 && factors(edge, visitor, 0)["response"]["shown"] == 40
        });
        assert_eq!(
            (&factors(edge, visitor, 1)["propensity"], &factors(edge, visitor, 0)["propensity"]),
            (&json!(0.22), &json!(0.02))
        );
        assert_eq!(first(edge, visitor), "rose");
    }
    // They are there from the start on.
    let whole = whole.kill_and_restart();
    eventually("they are added up anew", || factors(&whole, "u-1", 1)["propensity"] == 0.22);
}
