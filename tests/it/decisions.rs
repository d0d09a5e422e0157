//! Decisions under a catalogue's policy: eligibility, arbitration, caps, suppression, hold-outs, and what an explanation says of them.

use selvedge_tests::edge::{PUBLISHABLE, SECRET, TestEdge, TestEdgeBuilder, WRITE};
use serde_json::{Value, json};

/// An edge with this catalogue and, where asked for, the retail plugin.
fn edge(catalogue: &Value, retail: bool) -> (TestEdge, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue.to_string()).unwrap();
    let builder = TestEdgeBuilder::default().without_catalog().arguments(&["--catalog", file.to_str().unwrap()]);
    // Kept until the edge has read it.
    let plugins = retail.then(|| selvedge_tests::only("retail"));
    let builder = match &plugins {
        Some(plugins) => builder.plugins(plugins.path()),
        None => builder.without_plugins(),
    };
    (builder.start(), folder)
}

fn offer(id: &str, value: u32, more: Value) -> Value {
    let mut offer = json!({"id": id, "value": value, "content": {"title": id}});
    offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    offer
}

fn catalogue(offers: Vec<Value>, more: Value) -> Value {
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
    let (edge, _folder) = edge(&catalogue, false);
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
    let (edge, _folder) = edge(&catalogue(vec![offer("kettle", 5, caps)], json!({})), false);
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
fn a_household_shares_its_cap() {
    let caps = json!({"caps": [{"per": "household", "most": 2, "window": "day"}]});
    let (edge, _folder) = edge(&catalogue(vec![offer("kettle", 5, caps)], json!({})), false);
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
    let (edge, _folder) = edge(&catalogue(offers, near), false);
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
    let (edge, _folder) = edge(&catalogue(offers, slots), false);
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
    let (edge, _folder) = edge(&catalogue, true);
    let ask = |events: Value| decide(&edge, user("ada"), json!({"events": events}));
    let lines = json!([{"product_id": "F-100", "price": 499, "quantity": 1}]);
    assert_eq!(ids(&ask(json!([]))).contains(&"water-kit"), false);
    let bought = json!([{"type": "track", "event": "Order Completed", "messageId": "o-1", "properties": {"order_id": "1", "products": lines}}]);
    let answer = ask(bought);
    assert!(ids(&answer).contains(&"water-kit") && !ids(&answer).contains(&"fridge"), "{answer}");
    let returned = json!([{"type": "track", "event": "Order Refunded", "messageId": "r-1", "properties": {"order_id": "1", "products": lines}}]);
    let answer = ask(returned);
    assert!(ids(&answer).contains(&"fridge") && !ids(&answer).contains(&"water-kit"), "{answer}");
}

#[test]
fn what_was_put_away_stays_away_and_what_somebody_has_too() {
    let (edge, _folder) =
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
        let (edge, _folder) = edge(&catalogue(offers(), all), false);
        let answer = decide(&edge, user("ada"), json!({"explain": true}));
        assert_eq!(answer["slots"][0]["fallback"], fallback, "{answer}");
        assert_eq!(answer["slots"][0]["offers"].as_array().unwrap().len(), usize::from(fallback));
        assert_eq!(candidate(&answer, "kettle")["outcome"], "held-out");
    }
    let half = json!({"holdout": {"percent": 50, "salt": "s"}});
    let (edge, _folder) = edge(&catalogue(offers(), half), false);
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
    let (edge, _folder) = edge(&catalogue, false);
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
