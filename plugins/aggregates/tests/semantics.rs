//! What expressions mean, by what they count: each row is a condition or a value, an event's properties, and what comes of it.

use aggregates::Aggregates;
use selvedge_guest::testing::{Observed, Visitor};
use serde_json::{Value, json};

/// What one event comes to under one definition, whose value is read as `aggregates.a`.
fn outcome(definition: &str, properties: &Value) -> Value {
    let config = format!("[[aggregate]]\nname = \"a\"\nevent = \"E\"\n{definition}");
    let mut visitor = Visitor::<Aggregates>::new(&config);
    let event = json!({
        "type": "track", "event": "E", "timestamp": "2026-01-05T10:00:00Z", "messageId": "m-1",
        "traits": {"plan": "gold"}, "context": {"page": {"path": "/cart"}}, "properties": properties,
    });
    match visitor.observe(event) {
        Observed::Contributed(_) => visitor.aggregate("aggregates.a", "2026-01-06T00:00:00Z"),
        other => json!(format!("{other:?}")),
    }
}

/// Whether a condition is met.
fn met(condition: &str, properties: &Value) -> bool {
    match outcome(&format!("operator = \"count\"\nwhere = {}", json!(condition)), properties) {
        Value::Number(count) => count.as_u64() == Some(1),
        other => panic!("{condition} of {properties}: {other}"),
    }
}

#[test]
fn conditions_mean_what_cel_says() {
    let full = json!({
        "n": 10, "d": 2.5, "zero": 0, "text": "banana", "word": "x y", "yes": true, "no": false, "other": "kiwi",
        "quoted": "12.50", "list": [1, 2, 3], "empty": [], "nothing": null,
    });
    let table = [
        // Constants and flags.
        ("true", true),
        ("false", false),
        ("properties.yes", true),
        ("properties.no", false),
        ("properties.no == false", true),
        ("false == properties.no", true),
        ("properties.yes != true", false),
        ("!properties.no", true),
        // Numbers, exact.
        ("properties.n == 10", true),
        ("10 == properties.n", true),
        ("properties.n == 10.0", true),
        ("properties.n != 10", false),
        ("properties.n > 9.999999", true),
        ("properties.n >= 10 && properties.n <= 10", true),
        ("properties.n < 10 || properties.n > 10", false),
        ("properties.d * 4 == properties.n - properties.zero", true),
        ("properties.n - properties.d == 7.5", true),
        ("-properties.d < -2", true),
        ("- - properties.d == 2.5", true),
        ("properties.quoted == 12.5", true),
        ("properties.n in [1, 10, 100]", true),
        ("properties.n in [1, 100]", false),
        ("properties.d + 0.1 + 0.2 == 2.8", true),
        ("0.1 + 0.2 == 0.3", true),
        ("(properties.n > 5 ? 1 : 2) == 1", true),
        ("properties.n > 5 ? properties.yes : properties.no", true),
        // Texts.
        ("properties.text == 'banana'", true),
        ("properties.text == \"apple\"", false),
        ("properties.text != 'apple'", true),
        ("properties.text in ['apple', 'banana']", true),
        ("!(properties.text in ['apple', 'pear'])", true),
        ("properties.other != 'banana' && properties.text == 'banana'", true),
        ("properties['text'] == 'banana'", true),
        ("properties.text.startsWith('ban')", true),
        ("properties.text.endsWith('ban')", false),
        ("properties.text.contains('nan')", true),
        ("properties.word.contains(' ')", true),
        ("traits.plan == 'gold' && context.page.path == '/cart'", true),
        ("name == 'E' && type == 'track' && messageId != 'm-2'", true),
        // Precedence.
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("!false && true", true),
        ("1 + 2 * 3 == 7", true),
        // Lists.
        ("size(properties.list[]) == 3", true),
        ("properties.list[].size() == 3", true),
        ("size(properties.empty[]) == 0", true),
        ("size(properties.missing[]) == 0", true),
        // What is missing: has() tells, everything else is not met, and neither is its opposite.
        ("has(properties.n)", true),
        ("has(properties.missing)", false),
        ("has(properties.nothing)", false),
        ("!has(properties.missing)", true),
        ("properties.missing == 1", false),
        ("properties.missing != 1", false),
        ("!(properties.missing == 1)", false),
        ("properties.missing == 'a'", false),
        ("properties.missing != 'a'", false),
        ("!(properties.missing == 'a')", false),
        ("!(properties.missing in ['a'])", false),
        ("properties.missing.contains('a')", false),
        ("!properties.missing.contains('a')", false),
        ("!properties.missing", false),
        ("properties.missing > 1 ? true : true", false),
        ("properties.missing + 1 > 0", false),
        // One side decides, whichever it is.
        ("properties.missing == 1 || true", true),
        ("true || properties.missing == 1", true),
        ("!(properties.missing == 1 && false)", true),
        ("!(false && properties.missing == 1)", true),
        ("properties.missing == 1 || false", false),
        ("!(properties.missing == 1 || false)", false),
        ("has(properties.missing) && properties.missing > 1 || properties.n > 1", true),
        ("has(properties.missing) ? properties.missing > 1 : properties.n > 1", true),
    ];
    for (condition, expected) in table {
        assert_eq!(met(condition, &full), expected, "{condition}");
    }
}

#[test]
fn values_are_exact_and_each_element_contributes() {
    let order = json!({"total": 0.1, "n": 3, "items": [
        {"sku": "a", "price": 0.1, "quantity": 3, "new": true},
        {"sku": "b", "price": 2.55, "quantity": 6},
        {"sku": "c", "quantity": 1},
        {"price": 1, "quantity": 2, "new": false},
    ]});
    let value = |definition: &str| outcome(definition, &order);
    let sum = |value: &str| format!("operator = \"sum\"\nvalue = {}", json!(value));
    assert_eq!(value(&sum("properties.total")), json!(0.1));
    assert_eq!(value(&sum("properties.items[].price * properties.items[].quantity")), json!(17.6));
    assert_eq!(value(&sum("-(properties.items[].price * properties.items[].quantity)")), json!(-17.6));
    // A scalar beside a list counts for each element; a missing price leaves out its element.
    assert_eq!(value(&sum("properties.items[].price + properties.total")), json!(3.95));
    assert_eq!(value(&sum("has(properties.items[].price) ? properties.items[].price : 100")), json!(103.65));
    assert_eq!(value(&sum("properties.total * 0.000005")), json!(0), "half a unit rounds to even");
    assert_eq!(value(&sum("properties.total * 0.000015")), json!(0.000002));
    assert_eq!(value(&sum("size(properties.items[].sku)")), json!(4));
    assert_eq!(value("operator = \"sum\"\nvalue = 2.5"), json!(2.5));
    assert_eq!(value("operator = \"sum\"\nkind = \"integer\"\nvalue = \"properties.n * 2 - 1\""), json!(5));
    assert_eq!(value("operator = \"sum\"\nkind = \"integer\"\nvalue = \"size(properties.items[].sku)\""), json!(4));
    assert_eq!(value("operator = \"count\"\nwhere = \"properties.items[].quantity > 1\""), json!(3));
    assert_eq!(value("operator = \"count\"\nwhere = \"properties.items[].new\""), json!(1));
    assert_eq!(value("operator = \"count\"\nwhere = \"!properties.items[].new\""), json!(1));
    assert_eq!(value("operator = \"distinct\"\nkey = \"properties.items[].sku\""), json!(3));
    assert_eq!(
        value("operator = \"distinct\"\nkey = \"has(properties.code) ? properties.code : messageId\""),
        json!(1)
    );
    assert_eq!(value("operator = \"max\"\nkind = \"instant\"\nvalue = \"timestamp\""), json!("2026-01-05T10:00:00Z"));
    assert_eq!(value("operator = \"last\"\nkey = \"traits.plan\""), json!("gold"));
    assert_eq!(
        value("operator = \"sum-by-key\"\nvalue = \"properties.items[].quantity\"\nkey = \"properties.items[].sku\""),
        json!([{"key": "b", "weight": 6}, {"key": "a", "weight": 3}, {"key": "c", "weight": 1}])
    );
    // Without its tie-breaking key the last value counts all the same.
    assert_eq!(value("operator = \"last\"\nvalue = \"properties.total\"\nkey = \"properties.missing\""), json!(0.1));
}

#[test]
fn a_number_out_of_range_rejects_the_event_and_names_the_aggregate() {
    let failed = |definition: &str| outcome(definition, &json!({"n": 9_000_000_000_000_i64, "i": i64::MAX}));
    for definition in [
        "operator = \"sum\"\nvalue = \"properties.n * 2\"",
        "operator = \"sum\"\nvalue = \"properties.n + properties.n\"",
        "operator = \"sum\"\nvalue = \"-properties.n - properties.n\"",
        "operator = \"sum\"\nkind = \"integer\"\nvalue = \"properties.i * 2\"",
        "operator = \"count\"\nwhere = \"properties.n * 1000 > 0\"",
    ] {
        let text = failed(definition).to_string();
        assert!(text.contains("Failed") && text.contains("aggregate \\\\\\\"a\\\\\\\""), "{definition}: {text}");
    }
}

#[test]
fn a_value_of_another_type_is_refused_where_it_stands() {
    let refused = |condition: &str, properties: Value| {
        outcome(&format!("operator = \"count\"\nwhere = {}", json!(condition)), &properties).to_string()
    };
    assert!(refused("properties.n > 1", json!({"n": "many"})).contains("Refused(\\\"/properties/n\\\")"));
    assert!(refused("properties.t == 'a'", json!({"t": 5})).contains("Refused(\\\"/properties/t\\\")"));
    assert!(refused("properties.f", json!({"f": "true"})).contains("Refused(\\\"/properties/f\\\")"));
    assert!(refused("properties.a[].n > 1", json!({"a": [{}, {"n": []}]})).contains("/properties/a/1/n"));
}

#[test]
fn events_are_told_apart_by_name_and_type() {
    let config = r#"
[[aggregate]]
name = "pages"
operator = "count"
event = "$page"

[[aggregate]]
name = "visits"
operator = "count"
event = ["$page", "Seen"]
where = "name != 'Imprint'"

[[aggregate]]
name = "sources"
operator = "sum"
kind = "integer"
[[aggregate.from]]
event = "Seen"
value = 1
[[aggregate.from]]
event = ["$identify", "Bought"]
where = "has(traits.plan) || type == 'track'"
value = 10
"#;
    let mut visitor = Visitor::<Aggregates>::new(config);
    for event in [
        json!({"type": "page", "name": "Seen"}),
        json!({"type": "page", "name": "Imprint"}),
        json!({"type": "page"}),
        json!({"type": "track", "event": "Seen"}),
        json!({"type": "track", "event": "Bought"}),
        json!({"type": "identify", "traits": {"plan": "gold"}}),
        json!({"type": "identify", "traits": {}}),
        json!({"type": "screen", "name": "Seen"}),
    ] {
        let mut event = event;
        event["timestamp"] = "2026-01-05T10:00:00Z".into();
        visitor.observe(event);
    }
    let values = ["pages", "visits", "sources"]
        .map(|name| visitor.aggregate(&format!("aggregates.{name}"), "2026-01-06T00:00:00Z"));
    assert_eq!(values, [json!(3), json!(3), json!(21)]);
}
