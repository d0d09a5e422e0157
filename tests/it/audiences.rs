//! Audiences: shown on the profile, and counted over an edge.

use selvedge_tests::edge::{SECRET, TestEdge, TestEdgeBuilder};
use selvedge_tests::{agent, only, process::answer, process::command};
use serde_json::{Value, json};

/// An edge with audiences by trait, by score, and by what only a request says.
fn edge() -> (TestEdge, [tempfile::TempDir; 2]) {
    let catalogue = json!({
        "offers": [{"id": "rose", "content": {}}],
        "slots": [{"slot": "hero", "fallback": {"content": {}}}],
        "audiences": [
            {"name": "gold", "condition": "trait.tier == \"gold\""},
            {"name": "kept", "condition": "score.retail.p_alive > 0.9 && !audience(\"gold\")"},
            {"name": "here", "condition": "ctx.page.path == \"/\""},
        ],
    });
    let (folder, plugins) = (tempfile::tempdir().unwrap(), only("retail"));
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue.to_string()).unwrap();
    let builder = TestEdgeBuilder::default().without_catalog().plugins(plugins.path());
    (builder.arguments(&["--catalog", file.to_str().unwrap()]).start(), [folder, plugins])
}

fn count(edge: &TestEdge, name: &str, query: &str) -> Value {
    edge.admin_get(&format!("/admin/v1/audiences/{name}/count{query}")).ok()
}

#[test]
fn a_profile_names_the_audiences_that_somebody_is_in_now() {
    let (edge, _folders) = edge();
    let identify = |tier: &str| {
        edge.batch(&[
            json!({"type": "identify", "userId": "ada", "traits": {"tier": tier}, "timestamp": "2026-01-05T10:00:00Z"}),
        ])
    };
    identify("gold");
    assert_eq!(edge.profile("user:ada", None)["audiences"], json!(["gold"]));
    edge.batch(&[json!({"type": "track", "userId": "bob", "event": "Order Completed", "properties": {"total": 5}})]);
    assert_eq!(edge.profile("user:bob", None)["audiences"], json!(["kept"]));
    assert_eq!(
        edge.profile("user:bob", Some("2100-01-01T00:00:00Z"))["audiences"],
        json!(["kept"]),
        "bought once: never inactive"
    );
    edge.batch(&[
        json!({"type": "identify", "userId": "ada", "traits": {"tier": "basic"}, "timestamp": "2026-01-06T10:00:00Z"}),
    ]);
    assert_eq!(edge.profile("user:ada", None)["audiences"], json!([]));
    assert_eq!(edge.profile("user:ada", Some("2026-01-05T12:00:00Z"))["audiences"], json!(["gold"]), "as of then");
}

#[test]
fn an_audience_is_counted_over_all_or_a_sample_with_the_error_stated() {
    let (edge, _folders) = edge();
    // Every third one is gold; every fifth has two identifiers and is one person all the same; households are nobody.
    let people: Vec<Value> = (0..1_500)
        .map(|user| {
            let mut event = json!({"type": "identify", "userId": format!("u-{user}"), "traits": {"tier": if user % 3 == 0 { "gold" } else { "basic" }},
                "context": {"entities": {"household": format!("h-{}", user / 2)}}});
            if user % 5 == 0 {
                event["anonymousId"] = format!("a-{user}").into();
            }
            event
        })
        .collect();
    edge.batches(&people);
    let all = count(&edge, "gold", "");
    assert_eq!((&all["count"], &all["persons"], &all["exact"]), (&json!(500), &json!(1_500), &json!(true)), "{all}");
    assert_eq!(
        (&all["low"], &all["high"], &all["standardError"], &all["looked"]),
        (&json!(500), &json!(500), &json!(0.0), &json!(1_800)),
        "{all}"
    );
    let some = count(&edge, "gold", "?sample=600");
    assert_eq!((&some["exact"], &some["of"]), (&json!(false), &json!(1_800)), "{some}");
    let number = |of: &str| some[of].as_f64().unwrap();
    assert!((450.0..750.0).contains(&number("looked")), "{some}");
    assert!(number("low") <= 500.0 && 500.0 <= number("high") && number("low") < number("high"), "{some}");
    assert!((1_200.0..1_800.0).contains(&number("persons")) && number("standardError") > 0.0, "{some}");
    assert_eq!(count(&edge, "gold", "?sample=600")["count"], some["count"], "the same ones each time");
    assert_eq!(count(&edge, "here", "")["count"], 0, "what only a request says is missing");
    // Whoever is erased is nobody.
    assert_eq!(edge.delete(SECRET, "/v1/profiles/user:u-0").status, 202);
    assert_eq!(count(&edge, "gold", "")["count"], 499);

    let refused = |path: &str| answer(agent().get(format!("{}/admin/v1/audiences/{path}", edge.admin)).call());
    assert_eq!(refused("gold-card/count").problem(), (404, "unknown_audience"));
    assert!(refused("gould/count").text.contains("did you mean \\\"gold\\\""), "{}", refused("gould/count").text);
    assert_eq!(refused("gold/count?sample=0").problem(), (400, "query_invalid"));
    let said = |more: &[&str]| {
        let mut arguments = vec!["catalogue", "audience", "gold", "--admin", &edge.admin];
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let output = command(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&[]).trim(), "gold: 499 of 1499 persons (33.3%)");
    assert!(said(&["--sample", "600"]).contains("with 95% certainty"));
}
