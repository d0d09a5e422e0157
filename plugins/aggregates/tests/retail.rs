//! The cases of the retail plugin, answered by definitions instead of its code: every aggregate must come to the same value.

use aggregates::Aggregates;
use selvedge_guest::testing::Visitor;
use serde_json::Value;

/// Retail's own cases that say what the example does not: amounts of orders without products, and orders in another currency.
const OTHERWISE: [&str; 2] = ["amounts-without-products.json", "one-currency.json"];

#[test]
fn the_cases_of_the_retail_plugin_hold_without_its_code() {
    let definitions = include_str!("../examples/online-retail.toml");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../retail/cases");
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).expect("retail's cases") {
        let path = entry.expect("a case").path();
        if OTHERWISE.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        eprintln!("{}", path.display());
        let text = std::fs::read_to_string(&path).expect("a case's text");
        let case: Value = serde_json::from_str(&text).expect("JSON");
        let zone = case["timeZone"].as_str().unwrap_or("UTC");
        let mut visitor = Visitor::<Aggregates>::new(definitions).time_zone(zone);
        for event in case["events"].as_array().into_iter().flatten() {
            visitor.observe(event.clone());
        }
        let at = case["at"].as_str().unwrap_or("2198-01-01T00:00:00Z");
        for (name, expected) in case["aggregates"].as_object().into_iter().flatten() {
            let name = name.replace("retail.", "aggregates.");
            let value = visitor.aggregate(&name, at);
            assert!(alike(&value, expected), "{name} is {value}, not {expected}");
            compared += 1;
        }
    }
    assert!(compared >= 30, "{compared} values");
}

/// Equal, floats to nine digits, as `check_case` of the SDK compares.
fn alike(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Array(values), Value::Array(expected)) => {
            values.len() == expected.len()
                && values.iter().zip(expected).all(|(value, expected)| alike(value, expected))
        }
        (Value::Object(value), Value::Object(expected)) => {
            value.len() == expected.len() && value.iter().all(|(key, value)| alike(value, &expected[key]))
        }
        _ => {
            value == expected
                || value.as_f64().zip(expected.as_f64()).is_some_and(|(a, b)| (a - b).abs() <= b.abs() * 1e-9)
        }
    }
}
