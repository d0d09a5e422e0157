//! Plugins that misbehave, files that are not what they should be: the fallback or a clear refusal, and nothing else changed.

use std::path::{Path, PathBuf};

use selvedge_tests::{TestEdge, TestEdgeBuilder, plugins, test_guest, test_guests};
use serde_json::{Value, json};

const CATALOG: &str = "[[offers]]\nid = \"one\"\nvalue = 2\ncontent = {}\n[[offers]]\nid = \"two\"\nvalue = 1\ncontent = {}\n\
                       [[slots]]\nslot = \"hero\"\nfallback = \"two\"\n";

/// An edge with the plugin that does on demand what no plugin may, and the folder that it is started from.
pub fn faulty() -> (TestEdge, tempfile::TempDir) {
    let folder = folder("faulty.wasm", &test_guest("faulty"));
    let catalog = folder.path().join("catalog.toml");
    std::fs::write(&catalog, CATALOG).unwrap();
    let builder = TestEdgeBuilder::default().without_catalog().plugins(folder.path());
    (builder.arguments(&["--catalog", catalog.to_str().unwrap()]).start(), folder)
}

fn decide(edge: &TestEdge, context: Value) -> Value {
    edge.decide(
        &json!({"visitor": {"userId": "ada"}, "slots": [{"slot": "hero"}], "context": context, "deadlineMs": 10_000}),
    )
}

fn failures(edge: &TestEdge, stage: &str, kind: &str) -> Option<f64> {
    // The exporter writes labels in the order in which they were given.
    edge.metric(&format!("selvedge_plugin_failures_total{{plugin=\"faulty\",stage=\"{stage}\",kind=\"{kind}\"}}"))
}

#[test]
fn a_plugin_that_fails_in_a_request_costs_the_visitor_nothing_but_the_fallback() {
    let (edge, _folder) = faulty();
    let good = decide(&edge, json!({}));
    assert_eq!((&good["slots"][0]["fallback"], &good["slots"][0]["offers"][0]["id"]), (&json!(false), &json!("one")));
    let faults = [
        ("reject", "rejected"),
        ("fail", "failed"),
        ("panic", "trapped"),
        ("loop", "out_of_fuel"),
        ("allocate", "out_of_memory"),
        ("recurse", "trapped"),
        ("flood", "out_of_memory"),
        ("many", "bad_output"),
        ("nan", "bad_output"),
        ("short", "bad_output"),
    ];
    for (fault, kind) in faults {
        let before = failures(&edge, "rank", kind).unwrap_or(0.0);
        let answer = decide(&edge, json!({"fault": fault}));
        let slot = &answer["slots"][0];
        assert_eq!((&slot["fallback"], &slot["offers"][0]["id"]), (&json!(true), &json!("two")), "{fault}");
        assert_eq!(slot["offers"][0]["reasons"], json!(["fallback"]));
        assert_eq!(failures(&edge, "rank", kind), Some(before + 1.0), "{fault} is {kind}");
    }
    // Lines beyond the limit are dropped; the answer is good all the same.
    assert_eq!(decide(&edge, json!({"fault": "chatter"}))["slots"][0]["fallback"], false);
    // The next request has a fresh instance and knows nothing of it.
    assert_eq!(decide(&edge, json!({}))["slots"][0]["offers"][0]["id"], "one");
    let (_, log) = edge.stop();
    assert!(log.contains("panicked at") && log.contains("faulty/src/lib.rs:") && log.contains("as asked"), "{log}");
}

#[test]
fn a_plugin_that_fails_to_score_leaves_its_scores_absent() {
    let (edge, _folder) = faulty();
    let faults = [
        ("reject", "rejected"),
        ("fail", "failed"),
        ("panic", "trapped"),
        ("loop", "out_of_fuel"),
        ("allocate", "out_of_memory"),
        ("nan", "bad_output"),
    ];
    let identify =
        |fault: &str| json!({"type": "identify", "userId": format!("u-{fault}"), "traits": {"fault": fault}});
    edge.batch(&[vec![identify("none")], faults.iter().map(|(fault, _)| identify(fault)).collect()].concat());
    let scored = |user: &str| edge.profile(&format!("user:u-{user}"), None)["scores"]["faulty.one"]["value"].clone();
    assert_eq!(scored("none"), 1.0);
    for (fault, kind) in faults {
        assert_eq!(scored(fault), Value::Null, "{fault}");
        assert_eq!(failures(&edge, "score", kind), Some(1.0), "{fault} is {kind}");
    }
}

#[test]
fn a_plugin_that_fails_to_observe_keeps_the_event_and_counts_the_failure() {
    let (edge, _folder) = faulty();
    let event = |id: &str, fault: &str| json!({"type": "track", "event": "Fault", "messageId": id, "userId": "ada", "timestamp": "2026-01-01T00:00:00Z", "properties": {"fault": fault}});
    let faults = ["none", "reject", "fail", "panic", "loop", "allocate", "recurse", "flood", "none"];
    let events: Vec<Value> = faults.iter().enumerate().map(|(index, fault)| event(&index.to_string(), fault)).collect();
    assert_eq!(edge.batch(&events)["accepted"], faults.len());
    assert_eq!(edge.aggregate("user:ada", "faulty.events"), 2, "only the good ones contribute");
    // A fold of the history comes to the same, in this process and in the next.
    let folded = |edge: &TestEdge| {
        edge.profile("user:ada", Some("2026-01-01T00:00:00Z"))["aggregates"]["faulty.events"]["value"].clone()
    };
    assert_eq!(folded(&edge), 2);
    for (kind, count) in
        [("rejected", 1.0), ("failed", 1.0), ("trapped", 2.0), ("out_of_fuel", 2.0), ("out_of_memory", 1.0)]
    {
        assert_eq!(failures(&edge, "observe", kind), Some(count), "{kind}");
    }
    let edge = edge.kill_and_restart();
    assert_eq!(edge.aggregate("user:ada", "faulty.events"), 2);
}

#[test]
fn an_instance_that_serves_again_knows_nothing_of_the_event_before() {
    let (edge, _folder) = faulty();
    let event = |index: usize| {
        let user = format!("u-{}", index % 3);
        json!({"type": "track", "event": "Fault", "messageId": format!("m-{index}"), "userId": user, "properties": {"fault": "remember"}})
    };
    for calls in 0..4 {
        assert_eq!(edge.batch(&(10 * calls..10 * calls + 10).map(event).collect::<Vec<_>>())["accepted"], 10);
    }
    let counted: i64 =
        (0..3).map(|user| edge.aggregate(&format!("user:u-{user}"), "faulty.events").as_i64().unwrap()).sum();
    assert_eq!((counted, failures(&edge, "observe", "rejected")), (40, None));
}

fn fails_with(folder: &Path) -> String {
    TestEdgeBuilder::default().without_catalog().plugins(folder).fails()
}

/// A folder with one file.
fn folder(name: &str, bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    folder
}

#[test]
fn a_file_that_is_no_plugin_is_refused_at_the_start_with_the_cause() {
    let retail = std::fs::read(plugins().join("retail.wasm")).unwrap();
    let refused = |bytes: &[u8], cause: &str| {
        let text = fails_with(folder("mine.wasm", bytes).path());
        assert!(text.contains("plugin mine") && text.contains(cause), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("error:")).count(), 1, "{text}");
    };
    refused(b"not wasm at all", "is not WebAssembly");
    let mut cut = retail.clone();
    cut.truncate(retail.len() / 2);
    refused(&cut, "not a valid WebAssembly component");
    let mut flipped = retail.clone();
    flipped[200] ^= 0xff;
    refused(&flipped, "");
    refused(&wat::parse_str("(module)").unwrap(), "is a core module");
    refused(&wat::parse_str("(component)").unwrap(), "does not export selvedge:plugin/plugin@0.1.0");
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "get-arguments" (func (result (list string)))))))"#;
    refused(&wat::parse_str(wasi).unwrap(), "imports wasi:cli/environment@0.2.0");
    let newer =
        r#"(component (import "selvedge:plugin/log@0.9.0" (instance (export "log" (func (param "message" string))))))"#;
    refused(
        &wat::parse_str(newer).unwrap(),
        "is built for selvedge:plugin/log@0.9.0, this host serves selvedge:plugin/log@0.1.0",
    );
}

#[test]
fn a_faulty_configuration_or_catalogue_is_refused_with_the_place() {
    let retail = std::fs::read(plugins().join("retail.wasm")).unwrap();
    let configured = folder("retail.wasm", &retail);
    std::fs::write(configured.path().join("retail.toml"), "alhpa = 4.414").unwrap();
    assert!(fails_with(configured.path()).contains("unknown key \"alhpa\"; did you mean \"alpha\"?"));
    std::fs::write(configured.path().join("retail.toml"), "alpha = \"much\"").unwrap();
    let text = fails_with(configured.path());
    assert!(text.contains("config:alpha") && text.contains("not a finite number"), "{text}");

    let starts_with = |arguments: &[&str]| TestEdgeBuilder::default().without_catalog().arguments(arguments).fails();
    let catalog = folder("catalog.toml", CATALOG.replace("fallback", "falback").as_bytes());
    let text = starts_with(&["--catalog", catalog.path().join("catalog.toml").to_str().unwrap()]);
    assert!(text.contains("did you mean \"fallback\"?"), "{text}");
    let config = folder("selvedge.toml", b"time_zoen = \"UTC\"");
    let text = starts_with(&["--config", config.path().join("selvedge.toml").to_str().unwrap()]);
    assert!(text.contains("unknown key \"time_zoen\"; did you mean \"time_zone\"?"), "{text}");
    assert!(starts_with(&["--time-zone", "Europe/Londn"]).contains("unknown time zone \"Europe/Londn\""));
    assert!(fails_with(Path::new("/no/such/folder")).contains("/no/such/folder"));
    let ranker = folder("catalog.toml", CATALOG.replace("fallback = ", "ranker = \"nobody\"\nfallback = ").as_bytes());
    let text = starts_with(&["--catalog", ranker.path().join("catalog.toml").to_str().unwrap()]);
    assert!(text.contains("no active plugin of that name ranks"), "{text}");
}

#[test]
fn two_plugins_that_rank_must_be_told_apart() {
    let both = tempfile::tempdir().unwrap();
    std::fs::copy(plugins().join("retail.wasm"), both.path().join("retail.wasm")).unwrap();
    std::fs::copy(test_guests().join("faulty.wasm"), both.path().join("faulty.wasm")).unwrap();
    let catalog = folder("catalog.toml", CATALOG.as_bytes());
    let path = catalog.path().join("catalog.toml");
    let builder = || {
        TestEdgeBuilder::default()
            .without_catalog()
            .plugins(both.path())
            .arguments(&["--catalog", path.to_str().unwrap()])
    };
    assert!(builder().fails().contains("slot \"hero\" must name its ranker: add ranker = \"faulty\" or \"retail\""));
    std::fs::write(&path, CATALOG.replace("fallback = ", "ranker = \"retail\"\nfallback = ")).unwrap();
    let edge = builder().start();
    let offer = &decide(&edge, json!({"fault": "panic"}))["slots"][0]["offers"][0];
    assert_eq!((&offer["id"], &offer["reasons"]), (&json!("one"), &json!(["offer-value"])));
}

/// What is kept of compiled code in a folder.
fn kept_code(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let of_version = inside(&folder.join("modules")).flat_map(|version| inside(&version).collect::<Vec<_>>());
    of_version.filter(|file| file.extension().is_none()).collect()
}

#[test]
fn compiled_plugins_are_kept_and_what_is_damaged_is_compiled_anew() {
    let code = tempfile::tempdir().unwrap();
    let builder = TestEdgeBuilder::default().arguments(&["--code-cache", code.path().to_str().unwrap()]);
    let edge = builder.start();
    let ask = json!({"visitor": {"userId": "ada"}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000});
    let shown = edge.decide(&ask)["slots"][0]["offers"][0]["id"].clone();
    assert!(shown.is_string());
    let files = kept_code(code.path());
    assert!(!files.is_empty());
    let written = |file: &PathBuf| file.metadata().unwrap().modified().unwrap();
    let first: Vec<_> = files.iter().map(written).collect();
    let edge = edge.kill_and_restart();
    assert_eq!(edge.decide(&ask)["slots"][0]["offers"][0]["id"], shown);
    assert_eq!(files.iter().map(written).collect::<Vec<_>>(), first, "taken as it is");
    files.iter().for_each(|file| std::fs::write(file, b"damaged").unwrap());
    let edge = edge.kill_and_restart();
    assert_eq!(edge.decide(&ask)["slots"][0]["offers"][0]["id"], shown);
    assert!(files.iter().all(|file| file.metadata().unwrap().len() > 1_000), "compiled anew");
    // A place that is none changes nothing but the time that it takes.
    let nowhere = code.path().join("file");
    std::fs::write(&nowhere, b"").unwrap();
    let builder = TestEdgeBuilder::default().arguments(&["--code-cache", nowhere.to_str().unwrap()]);
    let edge = builder.start();
    assert_eq!(edge.decide(&ask)["slots"][0]["offers"][0]["id"], shown);
    let (_data, log) = edge.stop();
    assert!(log.contains("compiled plugins are not kept"), "{log}");
}
