//! Decisions under a catalogue's policy: eligibility, arbitration, caps, suppression, hold-outs, and what an explanation says of them.

use selvedge_tests::TestCentreBuilder;
use selvedge_tests::cluster::{caught_up, eventually};
use selvedge_tests::edge::{PUBLISHABLE, SECRET, TestEdge, TestEdgeBuilder, WRITE};
use selvedge_tests::{only, plugins};
use serde_json::{Value, json};

/// An edge with this catalogue and, where asked for, the retail plugin.
fn edge(catalogue: &Value, retail: bool) -> (TestEdge, [tempfile::TempDir; 2]) {
    let (folder, plugins) = (tempfile::tempdir().unwrap(), only("retail"));
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue.to_string()).unwrap();
    let builder = TestEdgeBuilder::default().without_catalog().arguments(&["--catalog", file.to_str().unwrap()]);
    let builder = if retail { builder.plugins(plugins.path()) } else { builder.without_plugins() };
    (builder.start(), [folder, plugins])
}

/// An offer of this value, and what else is said of it.
pub fn offer(id: &str, value: u32, more: Value) -> Value {
    let mut offer = json!({"id": id, "value": value, "content": {"title": id}});
    offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    offer
}

/// A catalogue of these offers with one slot, and what else is said in it.
pub fn catalogue(offers: Vec<Value>, more: Value) -> Value {
    let mut catalogue =
        json!({"offers": offers, "slots": [{"slot": "hero", "fallback": {"content": {"title": "fallback"}}}]});
    catalogue.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    catalogue
}

/// Asks for the offers of the slot; `more` goes into the call.
fn decide(edge: &TestEdge, visitor: Value, more: Value) -> Value {
    let mut ask = json!({"visitor": visitor, "slots": [{"slot": "hero", "count": 5}], "deadlineMs": 10_000});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    edge.post(SECRET, "/v1/decide", &ask.to_string()).ok()
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["slots"][0]["offers"].as_array().unwrap().iter().filter_map(|offer| offer["id"].as_str()).collect()
}

fn user(id: &str) -> Value {
    json!({"userId": id})
}

/// What an explanation says of a candidate.
fn candidate<'a>(answer: &'a Value, id: &str) -> &'a Value {
    let candidates = answer["slots"][0]["candidates"].as_array().unwrap();
    candidates.iter().find(|candidate| candidate["id"] == id).unwrap_or_else(|| panic!("no {id} in {answer}"))
}

#[test]
fn a_cap_is_seen_by_the_very_next_request_under_every_identifier_and_ends_with_its_window() {
    let caps = json!({"caps": [{"most": 2, "window": "1h"}]});
    let catalogue = catalogue(vec![offer("kettle", 5, caps), offer("rose", 3, json!({}))], json!({}));
    let (edge, _folders) = edge(&catalogue, false);
    edge.batch(&[json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "traits": {}, "timestamp": "2026-01-05T09:00:00Z"})]);
    let at = |text: &str, more: Value| {
        let mut ask = json!({"at": text});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask
    };
    let none = json!({});
    assert_eq!(ids(&decide(&edge, user("ada"), at("2026-01-05T10:00:30Z", none.clone()))), ["kettle", "rose"]);
    assert_eq!(
        ids(&decide(&edge, json!({"anonymousId": "a-1"}), at("2026-01-05T10:10:00Z", none.clone()))),
        ["kettle", "rose"]
    );
    let third = decide(&edge, user("ada"), at("2026-01-05T10:20:00Z", json!({"explain": true, "dryRun": true})));
    assert_eq!(ids(&third), ["rose"]);
    let capped = candidate(&third, "kettle");
    assert_eq!((&capped["outcome"], &capped["step"]), (&json!("capped"), &json!("cap")), "{capped}");
    // Counted by minutes: free at the end of the first one's minute, an hour on.
    assert_eq!(capped["until"], "2026-01-05T11:01:00Z", "{capped}");
    let dry = |text: &str| at(text, json!({"dryRun": true}));
    assert_eq!(ids(&decide(&edge, user("ada"), dry("2026-01-05T11:00:59Z"))), ["rose"]);
    assert_eq!(ids(&decide(&edge, user("ada"), dry("2026-01-05T11:01:00Z"))), ["kettle", "rose"]);
    assert_eq!(ids(&decide(&edge, user("bob"), dry("2026-01-05T10:20:00Z"))), ["kettle", "rose"]);
}

#[test]
fn concurrent_calls_of_one_person_never_go_over_a_cap() {
    let caps = json!({"caps": [{"most": 10, "window": "day"}]});
    let (edge, _folders) = edge(&catalogue(vec![offer("kettle", 5, caps)], json!({})), false);
    edge.batch(&[json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "traits": {}})]);
    let shown: usize = std::thread::scope(|scope| {
        let ask = |visitor: Value| {
            let edge = &edge;
            scope.spawn(move || (0..40).filter(|_| !ids(&decide(edge, visitor.clone(), json!({}))).is_empty()).count())
        };
        let callers = [user("ada"), json!({"anonymousId": "a-1"}), user("ada"), json!({"anonymousId": "a-1"})].map(ask);
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    assert_eq!(shown, 10);
}

#[test]
fn across_edges_a_cap_is_held_by_each_and_by_all_once_a_decision_has_travelled() {
    const MOST: u64 = 3;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.json");
    let caps = json!({"caps": [{"most": MOST, "window": "lifetime"}]});
    std::fs::write(&file, catalogue(vec![offer("kettle", 5, caps)], json!({})).to_string()).unwrap();
    let centre = TestCentreBuilder::default().catalog(&file).plugins(None).start();
    let edges = [centre.edge("one").start(), centre.edge("two").start()];
    edges[0].batch(&[json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "traits": {}})]);
    edges.iter().for_each(|edge| caught_up(&centre, edge));
    let shown: Vec<u64> = std::thread::scope(|scope| {
        let ask = |edge: usize, visitor: Value| {
            let edge = &edges[edge];
            scope.spawn(move || {
                (0..20).filter(|_| !ids(&decide(edge, visitor.clone(), json!({}))).is_empty()).count() as u64
            })
        };
        let callers = [0, 1].map(|edge| [ask(edge, user("ada")), ask(edge, json!({"anonymousId": "a-1"}))]);
        callers.into_iter().map(|of| of.into_iter().map(|caller| caller.join().unwrap()).sum()).collect()
    });
    let all: u64 = shown.iter().sum();
    assert!(shown.iter().all(|of| *of <= MOST), "never over it on one edge: {shown:?}");
    assert!((MOST..=2 * MOST).contains(&all), "{shown:?}");
    eventually("both edges know of all decisions", || {
        let decided = |edge: &TestEdge| edge.profile("user:ada", None)["offers"]["kettle"]["decided"].as_u64();
        edges.iter().all(|edge| decided(edge) == Some(all))
    });
    edges.iter().for_each(|edge| assert!(ids(&decide(edge, user("ada"), json!({}))).is_empty()));
}

#[test]
fn a_household_shares_its_cap() {
    let caps = json!({"caps": [{"per": "household", "most": 2, "window": "day"}]});
    let (edge, _folders) = edge(&catalogue(vec![offer("kettle", 5, caps)], json!({})), false);
    for member in ["ada", "bob", "eve"] {
        let home = if member == "eve" { "h-2" } else { "h-1" };
        edge.batch(&[json!({"type": "identify", "userId": member, "traits": {"household": home}})]);
    }
    let shows = |member: &str| ids(&decide(&edge, user(member), json!({}))).len();
    assert_eq!((shows("ada"), shows("bob"), shows("ada"), shows("bob"), shows("eve")), (1, 1, 0, 0, 1));
}

#[test]
fn conditions_and_audiences_say_who_may_be_offered_what_and_are_explained() {
    let offers = vec![
        offer("gold-card", 9, json!({"eligible": "trait.tier == \"gold\""})),
        offer("local", 5, json!({"audiences": ["near"]})),
        offer("rose", 3, json!({})),
    ];
    let near =
        json!({"audiences": [{"name": "near", "condition": "distance_km(trait.lat, trait.lon, 51.5, -0.12) < 20"}]});
    let (edge, _folders) = edge(&catalogue(offers, near), false);
    edge.batch(&[
        json!({"type": "identify", "userId": "ada", "traits": {"tier": "gold", "lat": 51.4, "lon": -0.1}}),
        json!({"type": "identify", "userId": "bob", "traits": {"tier": "basic", "lat": 48.8, "lon": 2.3}}),
    ]);
    assert_eq!(ids(&decide(&edge, user("ada"), json!({}))), ["gold-card", "local", "rose"]);
    let bob = decide(&edge, user("bob"), json!({"explain": true}));
    assert_eq!(ids(&bob), ["rose"]);
    assert_eq!(candidate(&bob, "gold-card")["outcome"], "not-eligible");
    assert_eq!(candidate(&bob, "gold-card")["inputs"]["trait.tier"], "basic");
    assert_eq!(candidate(&bob, "local")["outcome"], "not-in-audience");
    // A word in the very call counts in it.
    let upgraded = json!({"events": [{"type": "identify", "traits": {"tier": "gold"}}]});
    assert_eq!(ids(&decide(&edge, user("bob"), upgraded)), ["gold-card", "rose"]);
    // Nobody knows anything of her.
    assert_eq!(ids(&decide(&edge, user("eve"), json!({}))), ["rose"]);
}

#[test]
fn priorities_are_a_product_of_factors_and_some_offers_come_first_whatever_they_are() {
    let offers = vec![
        offer("a", 4, json!({"lever": 0.5})),
        offer("b", 3, json!({"category": "garden"})),
        offer("must", 1, json!({"mandatory": true, "purpose": "ads"})),
        offer("service", 0, json!({"transactional": true, "caps": []})),
    ];
    let slots = json!({"slots": [{"slot": "hero", "fallback": {"content": {}}, "context_weights": [{"when": "ctx.weather == \"sun\"", "factor": 0.5, "categories": ["garden"]}]}]});
    let (edge, _folders) = edge(&catalogue(offers, slots), false);
    let ask = |more: Value| decide(&edge, user("ada"), more);
    assert_eq!(ids(&ask(json!({}))), ["service", "b", "a"]);
    edge.batch(&[json!({"type": "identify", "userId": "ada", "traits": {}, "context": {"consent": {"ads": true}}})]);
    assert_eq!(ids(&ask(json!({}))), ["service", "must", "b", "a"]);
    let sunny = ask(json!({"context": {"weather": "sun"}, "explain": true}));
    assert_eq!(ids(&sunny), ["service", "must", "a", "b"]);
    let factors = &candidate(&sunny, "b")["factors"];
    assert_eq!(factors, &json!({"propensity": 1.0, "context": 0.5, "value": 3.0, "lever": 1.0}));
}

#[test]
fn a_fridge_brings_its_kit_at_once_and_never_itself_again_until_it_is_returned() {
    let offers = vec![
        offer("fridge", 9, json!({"product_ids": ["F-100"], "suppress": {"after": "purchase", "for": "forever"}})),
        offer(
            "water-kit",
            5,
            json!({"product_ids": ["W-100"], "suppress": {}, "eligible": "agg.retail.units_kept[\"F-100\"] > 0"}),
        ),
        offer("rose", 1, json!({})),
    ];
    let mut catalogue = catalogue(offers, json!({}));
    catalogue["slots"][0]["ranker"] = json!("retail");
    let (edge, _folders) = edge(&catalogue, true);
    let ask = |events: Value| decide(&edge, user("ada"), json!({"events": events}));
    let lines = json!([{"product_id": "F-100", "price": 499, "quantity": 1}]);
    assert!(!ids(&ask(json!([]))).contains(&"water-kit"));
    let bought = json!([{"type": "track", "event": "Order Completed", "messageId": "o-1", "properties": {"order_id": "1", "products": lines}}]);
    let answer = ask(bought);
    assert!(ids(&answer).contains(&"water-kit") && !ids(&answer).contains(&"fridge"), "{answer}");
    let returned = json!([{"type": "track", "event": "Order Refunded", "messageId": "r-1", "properties": {"order_id": "1", "products": lines}}]);
    let answer = ask(returned);
    assert!(ids(&answer).contains(&"fridge") && !ids(&answer).contains(&"water-kit"), "{answer}");
}

#[test]
fn what_was_put_away_stays_away_and_what_somebody_has_too() {
    let (edge, _folders) =
        edge(&catalogue(vec![offer("kettle", 5, json!({})), offer("rose", 3, json!({}))], json!({})), false);
    let dismiss = |offer: &str, reason: Value| json!({"events": [{"type": "track", "event": "Offer Dismissed", "properties": {"offer_id": offer, "reason": reason}}], "explain": true});
    let answer = decide(&edge, user("ada"), dismiss("kettle", Value::Null));
    assert_eq!(ids(&answer), ["rose"]);
    assert_eq!(candidate(&answer, "kettle")["outcome"], "suppressed-dismissed");
    let answer = decide(&edge, user("ada"), dismiss("rose", json!("already_bought")));
    assert_eq!(candidate(&answer, "rose")["outcome"], "suppressed-already-bought");
    assert_eq!(answer["slots"][0]["fallback"], true);
    assert_eq!(ids(&decide(&edge, user("bob"), json!({}))), ["kettle", "rose"]);
}

#[test]
fn who_is_held_out_gets_the_fallback_or_nothing_and_stays_so() {
    let offers = || vec![offer("kettle", 5, json!({}))];
    for (answers, fallback) in [("fallback", true), ("nothing", false)] {
        let all = json!({"holdout": {"percent": 100, "salt": "s", "answers": answers}});
        let (edge, _folders) = edge(&catalogue(offers(), all), false);
        let answer = decide(&edge, user("ada"), json!({"explain": true}));
        assert_eq!(answer["slots"][0]["fallback"], fallback, "{answer}");
        assert_eq!(answer["slots"][0]["offers"].as_array().unwrap().len(), usize::from(fallback));
        assert_eq!(candidate(&answer, "kettle")["outcome"], "held-out");
    }
    let half = json!({"holdout": {"percent": 50, "salt": "s"}});
    let (edge, _folders) = edge(&catalogue(offers(), half), false);
    let held = |user: &str| ids(&decide(&edge, json!({"userId": user}), json!({}))).is_empty();
    let first: Vec<bool> = (0..200).map(|user| held(&format!("u-{user}"))).collect();
    let share = first.iter().filter(|held| **held).count();
    assert!((60..=140).contains(&share), "{share} of 200");
    let again: Vec<bool> = (0..200).map(|user| held(&format!("u-{user}"))).collect();
    assert_eq!(first, again);
}

#[test]
fn an_answer_is_of_different_categories_and_content_is_of_its_channel() {
    let offers = vec![
        offer("a", 9, json!({"category": "kitchen"})),
        offer("b", 8, json!({"category": "kitchen"})),
        json!({"id": "c", "value": 7, "category": "garden", "channels": {"web": {"content": {"title": "on the web"}}, "email": {"content": {"title": "in a letter"}}}}),
    ];
    let mut catalogue = catalogue(offers, json!({}));
    catalogue["slots"][0]["per_category"] = json!(1);
    let (edge, _folders) = edge(&catalogue, false);
    let web = decide(&edge, user("ada"), json!({"explain": true}));
    assert_eq!(ids(&web), ["a", "c"]);
    assert_eq!(candidate(&web, "b")["outcome"], "too-many-of-its-category");
    let email = decide(&edge, user("ada"), json!({"channel": "email"}));
    assert_eq!(email["slots"][0]["offers"][1]["content"]["title"], "in a letter");
}

/// Asks for many at once; gives the lines.
fn decide_all(edge: &TestEdge, key: &str, body: &Value) -> Vec<Value> {
    let answer = edge.post(key, "/v1/decide/batch", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_batch_decides_for_each_visitor_in_order_and_counts_like_any_decision() {
    let caps = json!({"caps": [{"most": 2, "window": "day"}], "audiences": ["gold"]});
    let gold = json!({"audiences": [{"name": "gold", "condition": "trait.tier == \"gold\""}]});
    let (edge, _folder) = edge(&catalogue(vec![offer("kettle", 5, caps), offer("rose", 3, json!({}))], gold), false);
    let known: Vec<Value> = (0..1_000)
        .step_by(2)
        .map(|user| json!({"type": "identify", "userId": format!("u-{user}"), "traits": {"tier": "gold"}}))
        .collect();
    edge.batches(&known);
    let visitors: Vec<Value> = (0..1_000).map(|index| user(&format!("u-{index}"))).collect();
    let slots = json!([{"slot": "hero", "count": 5}]);
    let ask = json!({"visitors": visitors, "slots": slots, "channel": "email"});
    for round in 0..3 {
        let lines = decide_all(&edge, WRITE, &ask);
        assert_eq!(lines.len(), 1_000);
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(line["visitor"], visitors[index]);
            assert!(line["decisionId"].is_string() && line["meta"]["version"].is_string(), "{line}");
            let expected = if index % 2 == 0 && round < 2 { vec!["kettle", "rose"] } else { vec!["rose"] };
            assert_eq!(ids(line), expected, "{round} {line}");
        }
    }
    assert_eq!(edge.profile("user:u-0", None)["offers"]["kettle"]["decided"], 2);
    // A rehearsal counts nothing, and says why.
    let dry = json!({"visitors": [user("new")], "slots": slots, "dryRun": true, "explain": true});
    let line = &decide_all(&edge, SECRET, &dry)[0];
    assert_eq!(candidate(line, "kettle")["outcome"], "not-in-audience");
    assert_eq!(edge.profile("user:new", None), Value::Null);
}

#[test]
fn a_batch_refuses_a_visitor_in_their_line_and_a_bad_call_as_a_whole() {
    let (edge, _folder) = edge(&catalogue(vec![offer("rose", 3, json!({}))], json!({})), false);
    let slots = json!([{"slot": "hero"}]);
    let visitors = json!([user("ada"), {}, 7, {"userId": ""}, {"mail": "a@b.example"}, {"anonymousId": "a-1"}]);
    let lines = decide_all(&edge, WRITE, &json!({"visitors": visitors, "slots": slots}));
    let faults: Vec<(&Value, &Value)> =
        lines.iter().map(|line| (&line["error"]["code"], &line["error"]["pointer"])).collect();
    assert_eq!(faults[0], (&Value::Null, &Value::Null));
    assert_eq!(faults[1], (&json!("visitor_missing"), &json!("/visitors/1")));
    assert_eq!(faults[2], (&json!("wrong_type"), &json!("/visitors/2")));
    assert_eq!(faults[3], (&json!("identifier_invalid"), &json!("/visitors/3/userId")));
    assert_eq!(faults[4], (&json!("wrong_type"), &json!("/visitors/4")));
    assert_eq!(lines[2]["visitor"], 7);
    assert_eq!(ids(&lines[5]), ["rose"]);
    let refused = |key: &str, body: &Value| {
        let answer = edge.post(key, "/v1/decide/batch", &body.to_string());
        let (status, code) = answer.problem();
        (status, code.to_owned(), answer.json["pointer"].as_str().unwrap_or_default().to_owned())
    };
    let of = |status: u16, code: &str, pointer: &str| (status, code.to_owned(), pointer.to_owned());
    let one = json!([user("ada")]);
    let many: Vec<Value> = (0..1_001).map(|index| user(&index.to_string())).collect();
    assert_eq!(refused(PUBLISHABLE, &json!({"visitors": one, "slots": slots})), of(403, "key_not_allowed", ""));
    assert_eq!(refused(WRITE, &json!({"slots": slots})), of(400, "visitors_missing", "/visitors"));
    assert_eq!(refused(WRITE, &json!({"visitors": many, "slots": slots})), of(413, "too_many", "/visitors"));
    assert_eq!(refused(WRITE, &json!({"visitors": one})), of(400, "slots_missing", "/slots"));
    let unknown = json!({"visitors": one, "slots": [{"slot": "hero"}, {"slot": "zero"}]});
    assert_eq!(refused(WRITE, &unknown), of(404, "unknown_slot", "/slots/1/slot"));
    let dry = json!({"visitors": one, "slots": slots, "dryRun": true});
    assert_eq!(refused(WRITE, &dry), of(403, "key_not_allowed", ""));
    let context = json!({"visitors": one, "slots": slots, "context": 7});
    assert_eq!(refused(WRITE, &context), of(400, "wrong_type", "/context"));
}

/// The record of a decision as the admin listener has it.
fn recorded(edge: &TestEdge, answer: &Value) -> selvedge_tests::edge::Answer {
    edge.admin_get(&format!("/admin/v1/decisions/{}", answer["decisionId"].as_str().unwrap()))
}

#[test]
fn a_decision_is_kept_where_it_is_sent_or_explained_and_says_afterwards_why() {
    let caps = json!({"caps": [{"most": 1, "window": "day"}], "eligible": "trait.tier != \"none\""});
    let (edge, _folder) =
        edge(&catalogue(vec![offer("kettle", 5, caps), offer("rose", 3, json!({}))], json!({})), false);
    edge.batch(&[json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "traits": {"tier": "gold"}})]);
    let sent = decide(&edge, user("ada"), json!({"channel": "email"}));
    let record = recorded(&edge, &sent).ok();
    assert_eq!((&record["visitor"], &record["channel"]), (&json!("user:ada"), &json!("email")), "{record}");
    assert_eq!(record["identifiers"].as_array().unwrap().len(), 2);
    assert_eq!((&record["explained"], &record["validUntil"]), (&json!(false), &sent["validUntil"]));
    assert_eq!(record["slots"][0]["offers"][0]["id"], "kettle");
    assert_eq!(record["catalogue"]["version"], 1);
    // Asked with a key that may not know, it is kept all the same.
    let ask = json!({"visitor": user("ada"), "slots": [{"slot": "hero", "count": 5}], "explain": true});
    let explained = edge.decide(&ask);
    assert_eq!(candidate(&explained, "kettle").get("inputs"), None);
    let record = recorded(&edge, &explained).ok();
    let kettle = candidate(&record, "kettle");
    assert_eq!((&kettle["outcome"], &kettle["step"]), (&json!("capped"), &json!("cap")), "{record}");
    assert_eq!(kettle["inputs"]["trait.tier"], "gold");
    assert_eq!(candidate(&record, "rose")["factors"]["value"], 3.0);
    let why = edge.admin_get("/admin/v1/decisions?offer=kettle").ok();
    assert_eq!(why["outcomes"], json!({"capped": 1, "chosen": 1}), "{why}");
    assert_eq!(why["samples"], json!({"capped": [explained["decisionId"]], "chosen": [sent["decisionId"]]}), "{why}");
    let later = edge.admin_get("/admin/v1/decisions?offer=kettle&since=2100-01-01T00:00:00Z").ok();
    assert_eq!((&later["decisions"], &later["outcomes"]), (&json!(0), &json!({})));
    // A rehearsal is in its answer only, and what nobody has decided is not known.
    let dry = decide(&edge, user("ada"), json!({"dryRun": true, "explain": true}));
    assert_eq!(recorded(&edge, &dry).problem(), (404, "unknown_decision"));
    assert_eq!(edge.admin_get("/admin/v1/decisions/nobody").problem(), (404, "unknown_decision"));
    assert_eq!(edge.admin_get("/admin/v1/decisions").problem(), (400, "query_invalid"));
    // The same for people.
    let explain = |more: &[&str]| {
        let id = explained["decisionId"].as_str().unwrap();
        let mut command = std::process::Command::new(selvedge_tests::edge::binary());
        let output = command.args(["explain", id, "--url", &edge.admin]).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = explain(&[]);
    assert!(text.contains("user:ada") && text.contains("kettle: capped at cap until"), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&explain(&["--json"])).unwrap(), record);
    // Who is erased is gone from here too.
    assert_eq!(edge.delete(SECRET, "/v1/profiles/anonymous:a-1").status, 202);
    assert_eq!(recorded(&edge, &explained).problem(), (404, "unknown_decision"));
}

#[test]
fn plugins_say_what_they_were_given_and_what_it_took() {
    let offers = vec![
        offer(
            "kettle",
            5,
            json!({"category": "kitchen", "product_ids": ["K-100"], "eligible": "score.retail.p_alive > 0.5"}),
        ),
        offer("rose", 3, json!({"category": "garden"})),
    ];
    let (edge, _folders) = edge(&catalogue(offers, json!({})), true);
    let order = json!({"order_id": "o-1", "coupon": "never-declared", "products": [{"product_id": "K-200", "category": "kitchen", "price": 13.5, "quantity": 2}]});
    let events = json!([{"type": "track", "event": "Order Completed", "properties": order, "context": {"traits": {"mood": "never-declared"}}}]);
    let told = json!({"explain": true, "context": {"page": "never-declared"}, "events": events});
    let answer = decide(&edge, user("ada"), told);
    let stages = answer["stages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let [score, rank] = stages.as_slice() else { panic!("{answer}") };
    assert_eq!(
        (&score["plugin"], &score["stage"], &rank["stage"]),
        (&json!("retail"), &json!("score"), &json!("rank"))
    );
    assert!(score["fuel"].as_u64() > Some(0) && rank["fuel"].as_u64() > Some(0), "{answer}");
    assert_eq!(score["hash"], answer["meta"]["plugins"]["retail"]);
    let inputs = &score["inputs"];
    assert_eq!(
        (&inputs["agg:retail.gross_revenue"], &inputs["agg:retail.purchase_days"]),
        (&json!(27.0), &json!(1)),
        "{inputs}"
    );
    assert_eq!((&inputs["config:alpha"], &score["scores"]["retail.p_alive"]), (&json!(4.414), &json!(1.0)), "{score}");
    let kettle = &rank["offers"]["kettle"];
    assert_eq!(
        (&kettle["offer:value"], &kettle["agg:retail.units_kept[offer:product_ids]"]),
        (&json!(5.0), &json!(0)),
        "{rank}"
    );
    assert!(kettle["agg:retail.category_affinity[offer:category]"].as_f64() > Some(0.0), "{rank}");
    assert!(!answer["stages"].to_string().contains("never-declared"), "{answer}");
    // Asked once more, when its scores stand beside its columns, it says the same.
    let again = decide(&edge, user("ada"), json!({"explain": true}));
    assert_eq!(again["stages"][0], *score);
    // For the secret key only; in the record for whoever asks afterwards.
    let ask = json!({"visitor": user("ada"), "slots": [{"slot": "hero", "count": 5}], "explain": true});
    let explained = edge.decide(&ask);
    assert_eq!(explained.get("stages"), None);
    let record = recorded(&edge, &explained).ok();
    assert_eq!(record["stages"][0], *score);
    let id = explained["decisionId"].as_str().unwrap();
    let output = std::process::Command::new(selvedge_tests::edge::binary())
        .args(["explain", id, "--url", &edge.admin])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["score of plugin retail", "agg:retail.gross_revenue = 27", "kettle: ", "→  retail.p_alive = 1"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // Nobody asks, nobody is told.
    assert_eq!(decide(&edge, user("ada"), json!({})).get("stages"), None);
}

#[test]
fn all_decisions_are_kept_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue(vec![offer("rose", 3, json!({}))], json!({})).to_string()).unwrap();
    let builder = TestEdgeBuilder::default().without_catalog().without_plugins();
    let edge = builder.arguments(&["--catalog", file.to_str().unwrap(), "--decision-records", "all"]).start();
    let answer = decide(&edge, user("ada"), json!({}));
    assert_eq!(recorded(&edge, &answer).ok()["slots"][0]["offers"][0]["id"], "rose");
    let why = edge.admin_get("/admin/v1/decisions?offer=kettle").ok();
    assert_eq!((&why["decisions"], &why["unexplained"]), (&json!(1), &json!(1)));
}

/// Confirms a decision; gives the offers, each with the reason why it is withdrawn.
fn confirm(edge: &TestEdge, answer: &Value) -> Vec<(String, Option<String>)> {
    let id = answer["decisionId"].as_str().unwrap();
    let confirmed = edge.post(WRITE, &format!("/v1/decisions/{id}/confirm"), "").ok();
    assert_eq!(confirmed["decisionId"], id);
    let verdict = |offer: &Value| {
        let reason = offer["reason"].as_str().map(str::to_owned);
        assert_eq!(offer["valid"], reason.is_none(), "{offer}");
        (offer["id"].as_str().unwrap().to_owned(), reason)
    };
    confirmed["offers"].as_array().unwrap().iter().map(verdict).collect()
}

fn verdicts(of: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    of.iter().map(|(id, reason)| ((*id).to_owned(), reason.map(str::to_owned))).collect()
}

#[test]
fn what_is_to_be_sent_holds_until_something_happens() {
    let offers = vec![
        offer(
            "kettle",
            5,
            json!({"caps": [{"most": 1, "window": "30d"}], "eligible": "trait.tier == \"gold\" && ctx.weather == \"sun\""}),
        ),
        offer("rose", 3, json!({})),
    ];
    let (edge, _folder) = edge(&catalogue(offers, json!({})), false);
    let identify = |user: &str, more: Value| {
        let mut event = json!({"type": "identify", "userId": user, "traits": {"tier": "gold"}});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        edge.batch(&[event]);
    };
    let email = json!({"channel": "email", "context": {"weather": "sun"}});
    let days_ago = |days: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days)).to_string();
    let ask = |name: &str| {
        identify(name, json!({"timestamp": days_ago(3)}));
        let answer = decide(&edge, user(name), email.clone());
        assert_eq!(ids(&answer), ["kettle", "rose"]);
        assert!(answer["validUntil"].is_string(), "{answer}");
        answer
    };
    let both = verdicts(&[("kettle", None), ("rose", None)]);
    // Its own count does not stand in its way, however often it is asked; another one's does.
    let ada = ask("ada");
    assert_eq!(confirm(&edge, &ada), both);
    assert_eq!(confirm(&edge, &ada), both);
    let second = decide(&edge, user("ada"), email.clone());
    assert_eq!(ids(&second), ["rose"]);
    assert_eq!(confirm(&edge, &ada), both);
    // Decided somewhere else meanwhile, when the first was not known there.
    let bob = ask("bob");
    let earlier = json!({"channel": "email", "context": {"weather": "sun"}, "at": days_ago(2)});
    let old = decide(&edge, user("bob"), earlier);
    assert_eq!(ids(&old)[0], "kettle", "it was free then");
    assert_eq!(confirm(&edge, &bob), verdicts(&[("kettle", Some("capped")), ("rose", None)]));
    assert_eq!(confirm(&edge, &old), verdicts(&[("kettle", Some("expired")), ("rose", Some("expired"))]));
    // Another tier, a dismissal, an opt-out.
    let eve = ask("eve");
    identify("eve", json!({"traits": {"tier": "basic"}}));
    assert_eq!(confirm(&edge, &eve), verdicts(&[("kettle", Some("not-eligible")), ("rose", None)]));
    edge.batch(&[
        json!({"type": "track", "userId": "eve", "event": "Offer Dismissed", "properties": {"offer_id": "rose"}}),
    ]);
    assert_eq!(confirm(&edge, &eve)[1].1.as_deref(), Some("suppressed-dismissed"));
    let out = ask("out");
    identify("out", json!({"context": {"consent": {"channel:email": false}}}));
    assert_eq!(confirm(&edge, &out)[1].1.as_deref(), Some("channel-opted-out"));
    // Somebody throws the switch.
    let mia = ask("mia");
    let stop = format!("{}/admin/v1/offers/rose/stop", edge.admin);
    assert_eq!(selvedge_tests::edge::agent().post(stop).send_empty().unwrap().status(), 200);
    assert_eq!(confirm(&edge, &mia), verdicts(&[("kettle", None), ("rose", Some("disabled"))]));
    let unknown = edge.post(WRITE, "/v1/decisions/nobody/confirm", "");
    assert_eq!(unknown.problem(), (404, "unknown_decision"));
    let id = mia["decisionId"].as_str().unwrap();
    let browser = edge.post(PUBLISHABLE, &format!("/v1/decisions/{id}/confirm"), "");
    assert_eq!(browser.problem(), (403, "key_not_allowed"));
}

#[test]
fn what_a_plugin_finds_unfit_by_now_is_withdrawn() {
    let offers = vec![offer("kettle", 5, json!({"product_ids": ["K-100"]})), offer("rose", 3, json!({}))];
    let (edge, _folders) = edge(&catalogue(offers, json!({})), true);
    let answer = decide(&edge, user("ada"), json!({"channel": "email"}));
    assert_eq!(confirm(&edge, &answer), verdicts(&[("kettle", None), ("rose", None)]));
    edge.batch(&[json!({"type": "track", "userId": "ada", "event": "Order Completed",
        "properties": {"order_id": "1", "products": [{"product_id": "K-100", "price": 24.5, "quantity": 1}]}})]);
    assert_eq!(confirm(&edge, &answer), verdicts(&[("kettle", Some("left-out")), ("rose", None)]));
}

#[test]
fn a_suppression_with_a_duration_ends_on_time_and_begins_anew_with_each_purchase() {
    let offers = vec![
        offer("filter", 5, json!({"product_ids": ["W-200"], "suppress": {"for": "30d"}})),
        offer("rose", 3, json!({})),
    ];
    let catalogue =
        catalogue(offers, json!({"slots": [{"slot": "hero", "fallback": {"content": {}}, "ranker": "retail"}]}));
    let (folder, both) = (tempfile::tempdir().unwrap(), only("retail"));
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue.to_string()).unwrap();
    // When a product was bought last, without code.
    std::fs::copy(plugins().join("aggregates.wasm"), both.path().join("aggregates.wasm")).unwrap();
    let bought_at = "[[aggregate]]\nname = \"last_bought_at\"\noperator = \"max-by-key\"\nkind = \"instant\"\nevent = \"Order Completed\"\n\
                     value = \"timestamp\"\nkey = \"properties.products[].product_id\"\n";
    std::fs::write(both.path().join("aggregates.toml"), bought_at).unwrap();
    let builder = TestEdgeBuilder::default().without_catalog().plugins(both.path());
    let edge = builder.arguments(&["--catalog", file.to_str().unwrap()]).start();
    let order = |id: &str, at: &str| {
        edge.batch(&[
            json!({"type": "track", "userId": "ada", "event": "Order Completed", "messageId": id, "timestamp": at,
            "properties": {"order_id": id, "products": [{"product_id": "W-200", "price": 19, "quantity": 1}]}}),
        ]);
    };
    let asked = |at: &str| decide(&edge, user("ada"), json!({"at": at, "dryRun": true, "explain": true}));
    order("o-1", "2026-01-05T10:00:00Z");
    let first = asked("2026-02-04T09:59:59Z");
    let filter = candidate(&first, "filter");
    assert_eq!(
        (&filter["outcome"], &filter["until"]),
        (&json!("suppressed-bought"), &json!("2026-02-04T10:00:00Z")),
        "{filter}"
    );
    let over = asked("2026-02-04T10:00:00Z");
    assert_ne!(candidate(&over, "filter")["step"], "suppression", "{over}");
    order("o-2", "2026-02-10T10:00:00Z");
    assert_eq!(candidate(&asked("2026-03-12T09:59:59Z"), "filter")["outcome"], "suppressed-bought");
    assert_ne!(candidate(&asked("2026-03-12T10:00:00Z"), "filter")["step"], "suppression");
    assert_eq!(
        edge.profile("user:ada", None)["aggregates"]["aggregates.last_bought_at"]["value"],
        json!([{"key": "W-200", "weight": "2026-02-10T10:00:00Z"}])
    );
}

#[test]
fn what_is_to_be_sent_is_valid_for_a_day_at_most() {
    let offers = vec![
        offer("kettle", 5, json!({"valid": {"until": "2026-01-05T15:00:00Z"}, "eligible": "trait.tier == \"gold\""})),
        offer("rose", 3, json!({})),
    ];
    let quiet = json!({"channels": [{"channel": "email", "quiet": {"from": "22:00", "until": "07:00"}}]});
    let (edge, _folder) = edge(&catalogue(offers, quiet), false);
    edge.batch(&[
        json!({"type": "identify", "userId": "ada", "traits": {"tier": "gold"}, "timestamp": "2026-01-01T00:00:00Z"}),
    ]);
    let until = |name: &str, channel: &str| {
        let at = json!({"at": "2026-01-05T10:00:00Z", "channel": channel, "dryRun": true});
        decide(&edge, user(name), at)["validUntil"].clone()
    };
    assert_eq!(until("ada", "email"), "2026-01-05T15:00:00Z", "the offer ends");
    assert_eq!(until("bob", "email"), "2026-01-05T22:00:00Z", "it is quiet");
    assert_eq!(until("bob", "call-center"), "2026-01-06T10:00:00Z");
    assert_eq!(until("bob", "web"), Value::Null);
}
