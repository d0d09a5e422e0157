//! Retractions over HTTP: what an order that is taken back leaves behind, which is nothing.

use selvedge_tests::edge::{PUBLISHABLE, SECRET, WRITE};
use selvedge_tests::{TestEdge, TestEdgeBuilder};
use serde_json::{Value, json};

fn order(id: &str, at: &str, total: f64) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": id, "userId": "ada", "timestamp": at,
           "properties": {"order_id": id, "total": total, "products": [{"product_id": format!("p-{id}"), "price": total, "quantity": 1}]},
           "context": {"traits": {"last_order": id}, "consent": {"mail": id != "wrong"}}})
}

fn retraction(id: &str, at: &str, retracts: &str) -> Value {
    json!({"type": "track", "event": "Order Retracted", "messageId": id, "userId": "ada", "timestamp": at, "context": {"retracts": retracts}})
}

/// Everything of a profile that events decide.
fn state(edge: &TestEdge, of: &str, at: Option<&str>) -> Value {
    let profile = edge.profile(of, at);
    json!({"aggregates": profile["aggregates"], "traits": profile["traits"], "consent": profile["consent"], "offers": profile["offers"]})
}

/// An instant after everything, so that windows are read alike.
const LATER: &str = "2026-03-01T00:00:00Z";

#[test]
fn an_order_that_is_retracted_never_was() {
    let (kept, other) = (order("kept", "2026-01-02T10:00:00Z", 10.0), order("other", "2026-01-20T10:00:00Z", 5.5));
    let wrong = order("wrong", "2026-01-10T10:00:00Z", 100.0);
    let shown = json!({"type": "track", "event": "Offer Shown", "messageId": "shown", "userId": "ada", "timestamp": "2026-01-11T10:00:00Z",
                       "properties": {"offer_id": "kettle"}});
    let takes_back = [
        retraction("r1", "2026-02-01T10:00:00Z", "wrong"),
        retraction("r2", "2026-02-01T10:00:00Z", "shown"),
        retraction("r3", "2026-02-02T10:00:00Z", "wrong"),
    ];
    let never = TestEdge::start();
    never.batch(&[kept.clone(), other.clone()]);
    let expected = state(&never, "user:ada", Some(LATER));
    assert_eq!(expected["aggregates"]["retail.revenue"]["value"], 15.5);

    let edge = TestEdge::start();
    edge.batch(&[kept.clone(), wrong.clone(), shown.clone()]);
    assert_eq!(edge.aggregate("user:ada", "retail.revenue"), 110);
    edge.batch(std::slice::from_ref(&other));
    let before = state(&edge, "user:ada", Some("2026-01-31T00:00:00Z"));
    assert_eq!(before["aggregates"]["retail.revenue"]["value"], 115.5);
    assert_eq!(before["offers"]["kettle"]["shown"], 1);
    edge.batch(&takes_back);
    assert_eq!(state(&edge, "user:ada", Some(LATER)), expected);
    assert_eq!(edge.aggregate("user:ada", "retail.revenue"), 15.5);
    assert_eq!(state(&edge, "user:ada", Some("2026-01-31T00:00:00Z")), before, "the past is as it was");
    let again = edge.batch(&[wrong.clone(), takes_back[0].clone()]);
    assert_eq!((&again["duplicates"], edge.aggregate("user:ada", "retail.revenue")), (&json!(2), json!(15.5)));
    let edge = edge.kill_and_restart();
    assert_eq!(state(&edge, "user:ada", Some(LATER)), expected);
    assert_eq!(edge.aggregate("user:ada", "retail.revenue"), 15.5);

    // The retraction first, and over two identifiers that are linked in the end; each names its own.
    let early = TestEdge::start();
    early.batch(&takes_back);
    early.batch(&[wrong.clone(), shown, other]);
    assert_eq!(early.aggregate("user:ada", "retail.revenue"), 5.5);
    let mut anonymous = kept.clone();
    anonymous.as_object_mut().unwrap().remove("userId");
    anonymous["anonymousId"] = "a-1".into();
    // The same id of another identifier is another event.
    let mut namesake = anonymous.clone();
    namesake["messageId"] = "wrong".into();
    namesake["properties"]["order_id"] = "namesake".into();
    early.batch(&[anonymous, namesake, json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "messageId": "i", "timestamp": "2026-01-21T10:00:00Z"})]);
    assert_eq!(early.aggregate("user:ada", "retail.revenue"), 25.5);
    early.batch(&[json!({"type": "track", "event": "Undone", "messageId": "r4", "anonymousId": "a-1", "timestamp": "2026-02-01T10:00:00Z", "context": {"retracts": "wrong"}})]);
    assert_eq!(early.aggregate("user:ada", "retail.revenue"), 15.5);
    let (data, _) = early.stop();
    std::fs::remove_dir_all(data.path().join("shards")).unwrap();
    let early = TestEdgeBuilder::default().start_in(data);
    assert_eq!(early.aggregate("anonymous:a-1", "retail.revenue"), 15.5);
}

#[test]
fn entities_named_alike_and_rehearsals_honour_retractions() {
    let edge = TestEdge::start();
    let of_household = |mut event: Value| {
        event["context"]["entities"] = json!({"household": "h1"});
        event
    };
    edge.batch(&[
        of_household(order("a", "2026-01-02T10:00:00Z", 10.0)),
        of_household(order("b", "2026-01-03T10:00:00Z", 20.0)),
        order("c", "2026-01-04T10:00:00Z", 40.0),
    ]);
    edge.batch(&[
        of_household(retraction("r1", "2026-01-05T10:00:00Z", "a")),
        retraction("r2", "2026-01-05T10:00:00Z", "b"),
    ]);
    // The second names the visitor only.
    assert_eq!(edge.aggregate("household:h1", "retail.revenue"), 20);
    assert_eq!(edge.aggregate("user:ada", "retail.revenue"), 40);

    let rehearse = |events: Value| {
        let call = json!({"visitor": {"userId": "ada"}, "slots": [{"slot": "home-hero"}], "dryRun": true, "events": events, "deadlineMs": 10_000});
        edge.post(SECRET, "/v1/decide", &call.to_string()).ok()
    };
    let viewed = |id: &str, category: &str| json!({"type": "track", "event": "Product Added", "messageId": id, "properties": {"product_id": "x", "category": category}});
    let hero = |answer: &Value| answer["slots"][0]["offers"][0]["id"].clone();
    let (plain, toys) = (hero(&rehearse(json!([]))), rehearse(json!([viewed("v", "toys")])));
    assert_ne!(hero(&toys), plain);
    let undone = rehearse(
        json!([viewed("v", "toys"), {"type": "track", "event": "Undone", "messageId": "u", "context": {"retracts": "v"}}]),
    );
    assert_eq!((hero(&undone), &undone["events"]["accepted"]), (plain.clone(), &json!(2)));
    // What really happened is taken back in a rehearsal only there.
    edge.batch(&[json!({"type": "track", "event": "Product Added", "messageId": "real", "userId": "ada", "properties": {"product_id": "x", "category": "toys"}})]);
    let rehearsed =
        rehearse(json!([{"type": "track", "event": "Undone", "messageId": "u", "context": {"retracts": "real"}}]));
    assert_eq!((hero(&rehearsed), hero(&rehearse(json!([])))), (plain, hero(&toys)));
}

#[test]
fn who_may_not_retract_is_told_so_by_field() {
    let edge = TestEdge::start();
    let refused = |key: &str, context: Value| {
        let event = json!({"event": "Undone", "anonymousId": "a-1", "context": context});
        let answer = edge.post(key, "/v1/track", &event.to_string());
        (answer.problem().1.to_owned(), answer.json["pointer"].as_str().unwrap().to_owned())
    };
    let at = |code: &str| (code.to_owned(), "/context/retracts".to_owned());
    assert_eq!(refused(PUBLISHABLE, json!({"retracts": "m"})), at("retraction_not_allowed"));
    assert_eq!(refused(WRITE, json!({"retracts": 7})), at("wrong_type"));
    assert_eq!(refused(WRITE, json!({"retracts": "x".repeat(101)})), at("message_id_invalid"));
    assert_eq!(refused(WRITE, json!({"retracts": ""})), at("message_id_invalid"));
    let trusting = TestEdgeBuilder::default().arguments(&["--trust-browsers"]).start();
    let event = json!({"event": "Undone", "anonymousId": "a-1", "context": {"retracts": "m"}});
    trusting.post(PUBLISHABLE, "/v1/track", &event.to_string()).ok();
    // One profile holds so many, and the rest is refused.
    let many: Vec<Value> = (0..4_097)
        .map(|index| retraction(&format!("r{index}"), "2026-01-01T00:00:00Z", &format!("m{index}")))
        .collect();
    let (first, second) = many.split_at(2_048);
    assert_eq!(edge.batch(first)["accepted"], 2_048);
    let answer = edge.batch(second);
    assert_eq!(answer["accepted"], 2_048);
    assert_eq!(
        (&answer["rejected"][0]["code"], &answer["rejected"][0]["pointer"]),
        (&json!("too_many_retractions"), &json!("/context/retracts"))
    );
}
