//! Decisions under a catalogue's policy: eligibility, arbitration, caps, suppression, hold-outs, and what an explanation says of them.

use selvedge_tests::edge::{SECRET, TestEdge, TestEdgeBuilder};
use selvedge_tests::only;
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
