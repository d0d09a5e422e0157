//! What a profile was: former values of traits, and aggregates by day.

use selvedge_tests::edge::{PUBLISHABLE, SECRET};
use selvedge_tests::{TestEdge, TestEdgeBuilder};
use serde_json::{Value, json};

fn order(who: (&str, &str), id: &str, at: &str, total: f64) -> Value {
    let mut event = json!({"type": "track", "event": "Order Completed", "messageId": id, "timestamp": at, "properties": {"order_id": id, "total": total}});
    event[who.0] = who.1.into();
    event
}

fn history(edge: &TestEdge, query: &str) -> Value {
    edge.get(SECRET, &format!("/v1/profiles/user:ada?{query}")).ok()["history"].clone()
}

fn london() -> TestEdge {
    TestEdgeBuilder::default().arguments(&["--time-zone", "Europe/London"]).start()
}

/// A series as pairs.
fn days(history: &Value, name: &str) -> Vec<(String, Value)> {
    let points = history["aggregates"][name]["days"].as_array().unwrap();
    points
        .iter()
        .map(|point| {
            assert_eq!(point["exact"], true);
            (point["day"].as_str().unwrap().to_owned(), point["value"].clone())
        })
        .collect()
}

fn expected(days: &[(&str, f64)]) -> Vec<(String, Value)> {
    days.iter()
        .map(|(day, value)| ((*day).to_owned(), serde_json::from_str::<Value>(&value.to_string()).unwrap()))
        .collect()
}

#[test]
fn an_aggregate_that_is_marked_has_a_value_for_each_day() {
    let edge = london();
    let (ada, browser) = (("userId", "ada"), ("anonymousId", "a-1"));
    edge.batch(&[
        order(ada, "3", "2026-06-03T12:00:00Z", 30.5),
        order(ada, "1", "2026-05-31T22:59:59Z", 10.0),
        // Midnight in London is at 23:00 UTC: the first of June.
        order(browser, "2", "2026-05-31T23:00:00Z", 20.25),
        order(ada, "wrong", "2026-06-02T12:00:00Z", 1000.0),
        json!({"type": "track", "event": "Undone", "messageId": "r", "userId": "ada", "timestamp": "2026-06-05T12:00:00Z", "context": {"retracts": "wrong"}}),
        json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "timestamp": "2026-06-05T12:00:00Z"}),
    ]);
    let whole = history(&edge, "history=aggregates&at=2026-06-06T09:00:00Z");
    let revenue = [
        ("2026-05-31", 10.0),
        ("2026-06-01", 30.25),
        ("2026-06-02", 30.25),
        ("2026-06-03", 60.75),
        ("2026-06-04", 60.75),
        ("2026-06-05", 60.75),
        ("2026-06-06", 60.75),
    ];
    assert_eq!(days(&whole, "retail.revenue"), expected(&revenue));
    let orders = days(&whole, "retail.orders");
    assert_eq!((orders.len(), &orders[0].1, &orders[1].1, &orders[6].1), (7, &json!(1), &json!(2), &json!(3)));
    // What is not marked has none, nor have its windows.
    let marked = whole["aggregates"].as_object().unwrap().keys().filter(|name| name.starts_with("retail."));
    assert_eq!(marked.count(), 2);
    assert!(whole.get("traits").is_none());
    // The last days only; and as of before the retraction, when the original counted.
    let two = history(&edge, "history=aggregates&days=2&at=2026-06-04T09:00:00Z");
    assert_eq!(days(&two, "retail.revenue"), expected(&[("2026-06-03", 1060.75), ("2026-06-04", 1060.75)]));
    // In the middle of a day the day's value is the one at that instant, and agrees with the profile's own.
    let part = edge.get(SECRET, "/v1/profiles/user:ada?history=aggregates&days=1&at=2026-06-03T11:59:59Z").ok();
    assert_eq!(
        part["history"]["aggregates"]["retail.revenue"]["days"][0]["value"],
        part["aggregates"]["retail.revenue"]["value"]
    );
    // By now years may have gone by: a point for each day asked for.
    edge.batch(&[order(ada, "old", "2024-07-01T12:00:00Z", 1.0)]);
    let long = history(&edge, "history=aggregates&days=800&at=2026-06-06T09:00:00Z");
    let long = days(&long, "retail.revenue");
    assert_eq!(
        (long.len(), long[0].0.as_str(), &long[0].1, &long[705].1),
        (706, "2024-07-01", &json!(1), &json!(61.75))
    );
    assert_eq!(days(&history(&edge, "history=aggregates"), "retail.revenue").len(), 90);
}

#[test]
fn former_values_of_traits_are_kept_with_their_time_and_source() {
    let edge = london();
    let identify = |id: &str, at: &str, country: Value| json!({"type": "identify", "userId": "ada", "messageId": id, "timestamp": at, "traits": {"country": country}});
    edge.batch(&[
        identify("2", "2026-01-02T00:00:00Z", json!("Spain")),
        identify("1", "2026-01-01T00:00:00Z", json!("France")),
        identify("3", "2026-01-03T00:00:00Z", json!("Spain")),
        identify("5", "2026-01-05T00:00:00Z", Value::Null),
        json!({"type": "track", "event": "Imported", "userId": "ada", "messageId": "4", "timestamp": "2026-01-04T00:00:00Z",
               "context": {"source": "crm", "traits": {"country": "Italy", "tier": {"name": "gold"}}}}),
        identify("wrong", "2026-01-06T00:00:00Z", json!("Narnia")),
        json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "timestamp": "2026-01-07T00:00:00Z", "context": {"retracts": "wrong"}}),
    ]);
    let claim = json!({"anonymousId": "a-1", "timestamp": "2026-01-08T00:00:00Z", "traits": {"country": "Malta"}});
    edge.post(PUBLISHABLE, "/v1/identify", &claim.to_string()).ok();
    let word = |value: Value, source: &str, day: u8| json!({"value": value, "source": source, "at": format!("2026-01-0{day}T00:00:00Z")});
    let mut claimed = word(json!("Malta"), "identify", 8);
    claimed["claimed"] = true.into();
    let country = json!([
        claimed,
        word(Value::Null, "identify", 5),
        word(json!("Italy"), "crm", 4),
        word(json!("Spain"), "identify", 2),
        word(json!("France"), "identify", 1)
    ]);
    let whole = history(&edge, "history=traits");
    assert_eq!(whole, json!({"traits": {"country": country, "tier": [word(json!({"name": "gold"}), "crm", 4)]}}));
    let early = history(&edge, "history=traits,aggregates&days=1&at=2026-01-03T00:00:00Z");
    assert_eq!(
        early["traits"],
        json!({"country": [word(json!("Spain"), "identify", 2), word(json!("France"), "identify", 1)]})
    );
    assert_eq!(days(&early, "retail.revenue"), expected(&[("2026-01-03", 0.0)]));
    // Who asks for no history gets none; who asks wrongly is told how.
    assert!(edge.profile("user:ada", None).get("history").is_none());
    for query in [
        "history=offers",
        "days=5",
        "history=aggregates&days=801",
        "history=aggregates&days=0",
        "history=traits&days=5",
    ] {
        assert_eq!(
            edge.get(SECRET, &format!("/v1/profiles/user:ada?{query}")).problem(),
            (400, "query_invalid"),
            "{query}"
        );
    }
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:nobody?history=traits").problem(), (404, "profile_not_found"));
}
