//! The cases beside the sample plugins, which their authors run natively, in the real edge: what visitors did, and what must come of it.

use selvedge_tests::{TestEdgeBuilder, only, root, test_guest};
use serde_json::{Value, json};

/// Runs every case of a plugin; gives how many values were compared.
fn run(plugin: &str) -> usize {
    let mut compared = 0;
    for entry in std::fs::read_dir(root().join("plugins").join(plugin).join("cases")).unwrap() {
        let path = entry.unwrap().path();
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let folder = only(plugin);
        if let Some(config) = case["config"].as_str() {
            std::fs::write(folder.path().join(format!("{plugin}.toml")), config).unwrap();
        }
        let zone = case["timeZone"].as_str().unwrap_or("UTC");
        let builder = TestEdgeBuilder::default().without_catalog().plugins(folder.path());
        let edge = builder.arguments(&["--time-zone", zone]).start();
        let mut events = case["events"].as_array().unwrap().clone();
        if events.is_empty() {
            // There is no profile of somebody who did nothing.
            events.push(json!({"type": "identify", "timestamp": "2020-01-01T00:00:00Z"}));
        }
        for (index, event) in events.iter_mut().enumerate() {
            event["userId"] = "1".into();
            event["messageId"] = format!("m-{index}").into();
        }
        assert_eq!(edge.batch(&events)["accepted"], events.len(), "{}", path.display());
        let profile = edge.profile("user:1", Some(case["at"].as_str().unwrap_or("2026-11-01T00:00:00Z")));
        for (of, names) in [("aggregates", &case["aggregates"]), ("scores", &case["scores"])] {
            for (name, expected) in names.as_object().into_iter().flatten() {
                let value = &profile[of][name]["value"];
                assert!(same(value, expected), "{name} is {value}, not {expected}, in {}", path.display());
                compared += 1;
            }
        }
    }
    compared
}

/// Equal, numbers to nine digits.
fn same(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Number(value), Value::Number(expected)) => {
            let (value, expected) = (value.as_f64().unwrap(), expected.as_f64().unwrap());
            (value - expected).abs() <= expected.abs() * 1e-9
        }
        (Value::Array(values), Value::Array(expected)) => {
            values.len() == expected.len() && values.iter().zip(expected).all(|(value, expected)| same(value, expected))
        }
        (Value::Object(value), Value::Object(expected)) => {
            value.keys().eq(expected.keys()) && value.iter().all(|(key, value)| same(value, &expected[key]))
        }
        _ => value == expected,
    }
}

#[test]
fn what_authors_try_natively_holds_in_the_edge() {
    assert!(run("engagement") >= 45);
    assert!(run("retail") >= 20);
}

#[test]
fn an_operator_that_breaks_a_law_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lawless.wasm"), test_guest("lawless")).unwrap();
    let error = TestEdgeBuilder::default().without_catalog().plugins(folder.path()).fails();
    assert!(error.contains("plugin lawless: aggregate \"newest\" merge(a, b) is not merge(b, a)"), "{error}");
}
