//! The public listener as its callers meet it: keys, ingestion, decisions, and every kind of bad input, which changes nothing.

use selvedge_tests::edge::{PUBLISHABLE, SECRET, WRITE, agent};
use selvedge_tests::{TestEdge, TestEdgeBuilder};
use serde_json::{Value, json};

fn viewed(id: &str, category: &str) -> Value {
    json!({"type": "track", "event": "Product Viewed", "messageId": id, "properties": {"product_id": "x", "category": category}})
}

/// A call for the hero, which would rather wait for a busy machine than fall back.
fn hero(user: &str) -> Value {
    json!({"visitor": {"userId": user}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000})
}

fn first_offer(decision: &Value) -> &str {
    decision["slots"][0]["offers"][0]["id"].as_str().unwrap()
}

#[test]
fn an_event_that_comes_with_a_decide_call_counts_in_that_very_decision() {
    let edge = TestEdge::start();
    let before = edge.decide(&hero("ada"));
    assert_eq!(first_offer(&before), "regency-cakestand", "by value alone");
    let mut call = hero("ada");
    call["events"] =
        json!([viewed("v-1", "toys"), viewed("v-2", "toys"), viewed("v-2", "toys"), {"type": "track", "event": ""}]);
    let with_events = edge.decide(&call);
    assert_eq!(first_offer(&with_events), "wooden-train");
    assert_eq!((&with_events["events"]["accepted"], &with_events["events"]["duplicates"]), (&json!(2), &json!(1)));
    let rejected = &with_events["events"]["rejected"][0];
    assert_eq!(
        (&rejected["index"], &rejected["code"], &rejected["pointer"]),
        (&json!(3), &json!("event_name_missing"), &json!("/event"))
    );
    assert_eq!(with_events["meta"]["ack"], "applied");
    // The very next call sees them too, and the plugin's hash says who decided.
    assert_eq!(first_offer(&edge.decide(&hero("ada"))), "wooden-train");
    assert!(with_events["meta"]["plugins"]["retail"].as_str().unwrap().starts_with("sha256:"));
    let reasons = &with_events["slots"][0]["offers"][0]["reasons"];
    assert_eq!(reasons, &json!(["category-affinity"]));
}

#[test]
fn what_was_bought_and_is_kept_is_not_offered_until_it_is_returned() {
    let edge = TestEdge::start();
    let order = |event: &str, id: &str| {
        json!({"type": "track", "event": event, "messageId": id, "userId": "ada",
               "properties": {"order_id": "o-1", "products": [{"product_id": "22423", "price": 12.75, "quantity": 1, "category": "kitchen"}]}})
    };
    edge.batch(&[order("Order Completed", "b-1")]);
    let mut call = hero("ada");
    call["explain"] = true.into();
    let stand = |bought: &Value| {
        assert_eq!(first_offer(bought), "enamel-kettle");
        let candidates = bought["slots"][0]["candidates"].as_array().unwrap();
        candidates.iter().find(|candidate| candidate["id"] == "regency-cakestand").unwrap().clone()
    };
    let told = json!({"id": "regency-cakestand", "outcome": "left-out", "step": "ranking", "reason": "already-bought"});
    assert_eq!(stand(&edge.decide(&call)), told, "names and reasons");
    let values = stand(&edge.post(SECRET, "/v1/decide", &call.to_string()).ok());
    assert!(values["priority"].is_number(), "the secret key sees values: {values}");
    edge.batch(&[order("Order Refunded", "b-2")]);
    assert_eq!(first_offer(&edge.decide(&hero("ada"))), "regency-cakestand");
}

#[test]
fn slots_of_one_answer_never_repeat_an_offer_and_an_empty_one_falls_back() {
    let edge = TestEdge::start();
    let call = json!({"visitor": {"anonymousId": "a-1"}, "slots": [{"slot": "home-hero", "count": 3}, {"slot": "home-grid", "count": 100}, {"slot": "home-hero"}], "deadlineMs": 10_000});
    let decision = edge.decide(&call);
    let slots = decision["slots"].as_array().unwrap();
    let ids: Vec<&str> = slots[..2]
        .iter()
        .flat_map(|slot| slot["offers"].as_array().unwrap())
        .map(|offer| offer["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 15);
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), 15);
    assert_eq!((&slots[2]["fallback"], &slots[2]["offers"][0]["id"]), (&json!(true), &json!("gift-card")));
}

#[test]
fn at_and_dry_run_are_for_the_secret_key_and_do_what_they_say() {
    let edge = TestEdge::start();
    let event = |id: &str, at: &str, category: &str| json!({"type": "track", "event": "Product Added", "messageId": id, "userId": "ada", "timestamp": at, "properties": {"category": category}});
    edge.batch(&[
        event("1", "2026-01-01T00:00:00Z", "garden"),
        event("2", "2026-01-02T00:00:00Z", "toys"),
        event("3", "2026-01-02T00:00:00Z", "toys"),
    ]);
    let mut call = hero("ada");
    call["at"] = "2026-01-01T12:00:00Z".into();
    assert_eq!(edge.post(WRITE, "/v1/decide", &call.to_string()).problem(), (403, "key_not_allowed"));
    let past = edge.post(SECRET, "/v1/decide", &call.to_string()).ok();
    assert_eq!(first_offer(&past), "copper-watering-can");
    call["at"] = "2026-01-02T12:00:00Z".into();
    assert_eq!(first_offer(&edge.post(SECRET, "/v1/decide", &call.to_string()).ok()), "wooden-train");
    // Recorded as of their instants.
    let decided = &edge.profile("user:ada", None)["offers"]["copper-watering-can"];
    assert_eq!((&decided["decided"], &decided["lastDecidedAt"]), (&json!(1), &json!("2026-01-01T12:00:00Z")));
    assert!(edge.profile("user:ada", Some("2026-01-01T06:00:00Z"))["offers"].as_object().unwrap().is_empty());

    let mut trial = hero("ada");
    trial["dryRun"] = true.into();
    // As of an instant: the events of the call move it, in a trial as in earnest.
    let mut early = trial.clone();
    early["at"] = "2026-01-01T12:00:00Z".into();
    assert_eq!(first_offer(&edge.post(SECRET, "/v1/decide", &early.to_string()).ok()), "copper-watering-can");
    early["events"] = json!([{"type": "page", "messageId": "8", "userId": "ada", "timestamp": "2026-01-02T12:00:00Z"}]);
    assert_eq!(
        first_offer(&edge.post(SECRET, "/v1/decide", &early.to_string()).ok()),
        "wooden-train",
        "both toys count by then"
    );
    trial["events"] = json!([
        event("1", "2026-01-03T00:00:00Z", "kitchen"),
        event("9", "2026-01-03T00:00:00Z", "kitchen"),
        event("9", "2026-01-03T00:00:00Z", "kitchen")
    ]);
    let before = edge.profile("user:ada", None);
    let tried = edge.post(SECRET, "/v1/decide", &trial.to_string()).ok();
    assert_eq!((&tried["events"]["accepted"], &tried["events"]["duplicates"]), (&json!(1), &json!(2)));
    let after = edge.profile("user:ada", None);
    assert_eq!(
        (&before["aggregates"]["retail.category_affinity"]["value"][0]["key"], &before["offers"]),
        (&after["aggregates"]["retail.category_affinity"]["value"][0]["key"], &after["offers"])
    );
    call["at"] = "2150-01-01T00:00:00Z".into();
    assert_eq!(edge.post(SECRET, "/v1/decide", &call.to_string()).problem(), (400, "timestamp_in_future"));
    call["dryRun"] = true.into();
    edge.post(SECRET, "/v1/decide", &call.to_string()).ok();
}

#[test]
fn decisions_are_on_the_profile_at_once_and_survive() {
    let edge = TestEdge::start();
    for _ in 0..3 {
        edge.decide(&hero("ada"));
    }
    let decided = |edge: &TestEdge| edge.profile("user:ada", None)["offers"]["regency-cakestand"]["decided"].clone();
    assert_eq!(decided(&edge), 3);
    let shown = json!({"type": "track", "event": "Offer Shown", "userId": "ada", "properties": {"offer_id": "regency-cakestand"}});
    edge.batch(&[shown]);
    let edge = edge.restart_as(TestEdgeBuilder::default());
    assert_eq!(decided(&edge), 3);
    assert_eq!(edge.profile("user:ada", None)["offers"]["regency-cakestand"]["shown"], 1);
}

#[test]
fn each_key_opens_what_it_should_and_nothing_else() {
    let edge = TestEdge::start();
    edge.batch(&[json!({"type": "identify", "userId": "ada", "traits": {"tier": "gold"}})]);
    // Profiles are for the secret key.
    assert_eq!(edge.get(PUBLISHABLE, "/v1/profiles/user:ada").problem(), (403, "key_not_allowed"));
    assert_eq!(edge.get(WRITE, "/v1/profiles/user:ada").problem(), (403, "key_not_allowed"));
    assert_eq!(edge.get("sk_other_001", "/v1/profiles/user:ada").problem(), (401, "key_unknown"));
    let trait_value = edge.get(SECRET, "/v1/profiles/user:ada").ok();
    assert_eq!(
        (&trait_value["traits"]["tier"]["value"], &trait_value["traits"]["tier"]["source"]),
        (&json!("gold"), &json!("identify"))
    );
    // A browser speaks for its anonymous id; the user id that it claims gives it nothing of that user.
    let bought = json!({"type": "track", "event": "Order Completed", "userId": "ada", "properties": {"products": [{"product_id": "22423", "price": 1}]}});
    edge.batch(&[bought]);
    let mut claim = hero("ada");
    claim["visitor"]["anonymousId"] = "a-1".into();
    let claim = claim.to_string();
    assert_eq!(first_offer(&edge.post(PUBLISHABLE, "/v1/decide", &claim).ok()), "regency-cakestand");
    assert_eq!(first_offer(&edge.post(WRITE, "/v1/decide", &claim).ok()), "copper-watering-can");
    let only_user = json!({"visitor": {"userId": "ada"}, "slots": [{"slot": "home-hero"}]}).to_string();
    assert_eq!(edge.post(PUBLISHABLE, "/v1/decide", &only_user).problem(), (400, "anonymous_id_missing"));
    let event =
        json!({"event": "Product Viewed", "userId": "ada", "anonymousId": "a-2", "properties": {"category": "toys"}})
            .to_string();
    edge.post(PUBLISHABLE, "/v1/track", &event).ok();
    assert_eq!(edge.aggregate("user:ada", "retail.category_affinity"), json!([]));
    assert_eq!(edge.aggregate("anonymous:a-2", "retail.category_affinity")[0]["key"], "toys");
    // Without a key there is nothing.
    assert_eq!(edge.post_with(&[], "/v1/decide", claim.as_bytes()).problem(), (401, "key_missing"));
    assert_eq!(edge.post_with(&[], "/v1/track", event.as_bytes()).problem(), (401, "key_missing"));
    // A key in the query is no key.
    assert_eq!(edge.post_with(&[], "/v1/decide?key=wk_test_0001", claim.as_bytes()).problem(), (401, "key_missing"));
}

#[test]
fn segments_ways_of_authentication_and_compression_work() {
    let edge = TestEdge::start();
    let event = |id: &str| json!({"event": "Product Viewed", "userId": "ada", "messageId": id, "properties": {"category": "toys"}});
    // base64 of "wk_test_0001:"
    edge.post_with(&[("authorization", "Basic d2tfdGVzdF8wMDAxOg==")], "/v1/track", event("1").to_string().as_bytes())
        .ok();
    let mut in_body = event("2");
    in_body["writeKey"] = WRITE.into();
    edge.post_with(&[], "/v1/track", in_body.to_string().as_bytes()).ok();
    edge.post_with(&[("x-api-key", WRITE)], "/v1/track", event("3").to_string().as_bytes()).ok();
    let batch = json!({"batch": [{"type": "page", "name": "Home", "userId": "ada", "messageId": "4"}], "writeKey": WRITE, "sentAt": "2026-01-01T00:00:00Z"});
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, batch.to_string().as_bytes()).unwrap();
    edge.post_with(&[("content-encoding", "gzip")], "/v1/batch", &packed.finish().unwrap()).ok();
    for path in ["/v1/identify", "/v1/page", "/v1/screen", "/v1/i", "/v1/p", "/v1/s"] {
        edge.post(WRITE, path, &json!({"userId": "ada", "traits": {"a": 1}}).to_string()).ok();
    }
    let applied = edge.post(WRITE, "/v1/track?ack=applied", &event("5").to_string()).ok();
    assert_eq!(applied, json!({"success": true, "accepted": 1, "duplicates": 0, "rejected": []}));
    assert_eq!(edge.post(WRITE, "/v1/track?ack=soon", &event("6").to_string()).problem(), (400, "query_invalid"));
    let weight = edge.aggregate("user:ada", "retail.category_affinity")[0]["weight"].as_f64().unwrap();
    assert!((weight - 4.0).abs() < 1e-3, "{weight}");
}

#[test]
fn bad_input_is_named_and_changes_nothing() {
    let edge = TestEdge::start();
    let known = edge.metric("selvedge_events_total{outcome=\"accepted\"}");
    let problem = |path: &str, body: &str| {
        let answer = edge.post(WRITE, path, body);
        let pointer = answer.json["pointer"].as_str().unwrap_or_default().to_owned();
        let (status, code) = answer.problem();
        (status, code.to_owned(), pointer)
    };
    let expect = |path: &str, body: Value, status: u16, code: &str, pointer: &str| {
        assert_eq!(problem(path, &body.to_string()), (status, code.to_owned(), pointer.to_owned()), "{path} {body}");
    };
    assert_eq!(problem("/v1/decide", "{\"visitor\": ").0, 400);
    assert_eq!(problem("/v1/decide", "").1, "malformed_json");
    assert_eq!(problem("/v1/batch", "[1, 2").1, "malformed_json");
    assert_eq!(problem("/v1/track", "{} trailing").1, "malformed_json");
    assert_eq!(problem("/v1/decide", &format!("{} trailing", hero("ada"))).1, "malformed_json");
    let slots = json!([{"slot": "home-hero"}]);
    expect("/v1/decide", json!({"slots": slots}), 400, "visitor_missing", "/visitor");
    expect("/v1/decide", json!({"visitor": null, "slots": slots}), 400, "visitor_missing", "/visitor");
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": ""}, "slots": slots}),
        400,
        "identifier_invalid",
        "/visitor/userId",
    );
    expect("/v1/decide", json!({"visitor": {"userId": 7}, "slots": slots}), 400, "wrong_type", "/visitor/userId");
    expect("/v1/decide", json!({"visitor": {"userId": "a"}}), 400, "slots_missing", "/slots");
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": [{"slot": "home-hero"}, {"slot": "home-hreo"}]}),
        404,
        "unknown_slot",
        "/slots/1/slot",
    );
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": [{"slot": "home-hero", "count": 0}]}),
        400,
        "count_invalid",
        "/slots/0/count",
    );
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": [{"slot": "home-hero", "count": 101}]}),
        400,
        "count_invalid",
        "/slots/0/count",
    );
    let many: Vec<_> = (0..33).map(|_| json!({"slot": "home-hero"})).collect();
    expect("/v1/decide", json!({"visitor": {"userId": "a"}, "slots": many}), 413, "too_many", "/slots");
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": slots, "dryrun": true}),
        400,
        "unknown_field",
        "/dryrun",
    );
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": slots, "context": [1]}),
        400,
        "wrong_type",
        "/context",
    );
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": slots, "deadlineMs": 0}),
        400,
        "deadline_invalid",
        "/deadlineMs",
    );
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": slots, "onStale": "wait"}),
        400,
        "wrong_type",
        "/onStale",
    );
    let events: Vec<_> = (0..101).map(|index| viewed(&index.to_string(), "toys")).collect();
    expect(
        "/v1/decide",
        json!({"visitor": {"userId": "a"}, "slots": slots, "events": events}),
        413,
        "too_many",
        "/events",
    );
    expect("/v1/track", json!({"userId": "a"}), 422, "event_name_missing", "/event");
    expect("/v1/track", json!({"event": "A"}), 422, "identifier_missing", "/anonymousId");
    expect(
        "/v1/track",
        json!({"event": "A", "userId": "a", "timestamp": "05.01.2026"}),
        422,
        "timestamp_invalid",
        "/timestamp",
    );
    expect(
        "/v1/track",
        json!({"event": "A", "userId": "a", "timestamp": "2150-01-01T00:00:00Z"}),
        422,
        "timestamp_in_future",
        "/timestamp",
    );
    expect(
        "/v1/track",
        json!({"event": "Order Completed", "userId": "a", "properties": {"products": [{}, {"price": "a lot"}]}}),
        422,
        "wrong_type",
        "/properties/products/1/price",
    );
    expect(
        "/v1/track",
        json!({"event": "Offer Shown", "userId": "a"}),
        422,
        "offer_id_missing",
        "/properties/offer_id",
    );
    expect("/v1/batch", json!({"batch": [], "sentAt": "yesterday"}), 400, "timestamp_invalid", "/sentAt");
    let large = json!({"event": "A", "userId": "a", "properties": {"a": "x".repeat(256 * 1024)}});
    expect("/v1/track", large, 413, "event_too_large", "");
    let huge = json!({"batch": [], "context": {"a": "x".repeat(1024 * 1024)}});
    expect("/v1/batch", huge, 413, "body_too_large", "");
    // The call's context is kept with every event of it.
    let inherited =
        json!({"batch": vec![json!({"type": "page", "userId": "a"}); 100], "context": {"a": "x".repeat(30_000)}});
    expect("/v1/batch", inherited, 413, "context_too_large", "/context");
    let inherited = json!({"batch": [{"type": "page", "userId": "a"}], "context": {"a": "x".repeat(256 * 1024)}});
    let answer = edge.post(WRITE, "/v1/batch", &inherited.to_string()).ok();
    assert_eq!(
        (&answer["rejected"][0]["code"], &answer["rejected"][0]["pointer"]),
        (&json!("event_too_large"), &json!("/context"))
    );
    expect("/v1/batch", json!({"batch": 5}), 400, "wrong_type", "/batch");
    expect("/v1/batch", json!({}), 400, "field_missing", "");
    expect("/v1/batch", json!({"batch": [], "writeKey": 5}), 400, "wrong_type", "/writeKey");
    let slot = edge.post(WRITE, "/v1/decide", &json!({"visitor": {"userId": "a"}, "slots": ["home-hero"]}).to_string());
    assert!(slot.text.contains(r#"an object such as {\"slot\": \"home-hero\"}"#), "{}", slot.text);
    expect("/v1/group", json!({"userId": "a"}), 422, "group_id_missing", "/groupId");
    expect("/v1/identify", json!({"userId": "a", "context": {"traits": [1]}}), 422, "wrong_type", "/context/traits");
    // What is quoted is quoted briefly.
    let long = edge.post(
        WRITE,
        "/v1/track",
        &json!({"event": "A", "userId": "a", "timestamp": "9".repeat(100_000)}).to_string(),
    );
    assert!(long.json["code"] == "timestamp_invalid" && long.text.len() < 1_000, "{}", long.text);
    let count = json!({"batch": vec![json!({"type": "page", "userId": "a"}); 2_501]});
    expect("/v1/batch", count, 413, "too_many", "/batch");
    // What swells when it is unpacked is measured unpacked.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &vec![b' '; 64 * 1024 * 1024]).unwrap();
    let bomb = edge.post_with(
        &[("authorization", "Bearer wk_test_0001"), ("content-encoding", "gzip")],
        "/v1/batch",
        &packed.finish().unwrap(),
    );
    assert_eq!(bomb.problem(), (413, "body_too_large"));
    assert_eq!(
        edge.post_with(&[("authorization", "Bearer wk_test_0001")], "/v1/batch", b"{\"batch\": [\"\xff\"]}").problem(),
        (400, "malformed_json")
    );
    assert_eq!(edge.get(SECRET, "/v1/profiles/cookie:1").problem(), (400, "identifier_invalid"));
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:%FF").problem(), (400, "identifier_invalid"));
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:a?at=now").problem(), (400, "timestamp_invalid"));
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:a?as_of=now").problem(), (400, "query_invalid"));
    assert_eq!(edge.get(SECRET, "/v2/anything").problem(), (404, "no_such_path"));
    assert_eq!(edge.get(SECRET, "/v1/decide").problem(), (405, "method_not_allowed"));
    // Of a batch, what is good counts; what is not is listed, in the dead letters and in the metric.
    let mixed = edge.batch(&[
        viewed("1", "toys"),
        json!({"type": "track"}),
        json!("text"),
        json!({"type": "track", "event": "A", "userId": "b", "messageId": "m"}),
    ]);
    assert_eq!((&mixed["accepted"], mixed["rejected"].as_array().unwrap().len()), (&json!(1), 3));
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:a").problem(), (404, "profile_not_found"));
    let accepted = edge.metric("selvedge_events_total{outcome=\"accepted\"}");
    assert_eq!((known, accepted), (Some(0.0), Some(1.0)));
    let letters = edge.admin_get("/admin/v1/dead-letters").ok();
    assert_eq!(letters["deadLetters"][0]["code"], "malformed_event");
    let single =
        letters["deadLetters"].as_array().unwrap().iter().filter(|letter| letter["code"] == "offer_id_missing");
    assert_eq!(single.count(), 1, "of the endpoints for one event too");
    assert!(edge.metric("selvedge_events_rejected_total{code=\"malformed_event\"}") >= Some(1.0));
    assert_eq!(edge.metric("selvedge_requests_failed_total{code=\"unknown_slot\"}"), Some(1.0));
}

#[test]
fn only_configured_origins_may_call_from_a_page() {
    let edge = TestEdgeBuilder::default().arguments(&["--cors-origin", "https://shop.example"]).start();
    let ask = |origin: &str| {
        let request = agent().options(format!("{}/v1/decide", edge.public)).header("origin", origin);
        let request = request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type");
        let answer = request.call().unwrap();
        answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(ask("https://shop.example").as_deref(), Some("https://shop.example"));
    assert_eq!(ask("https://evil.example"), None);
}

#[test]
fn health_readiness_and_metrics_answer() {
    let edge = TestEdge::start();
    let health = edge.get(PUBLISHABLE, "/healthz").ok();
    assert_eq!((&health["status"], health["log"].as_str().unwrap().len()), (&json!("ok"), 32));
    edge.get(PUBLISHABLE, "/readyz").ok();
    edge.decide(&hero("ada"));
    assert_eq!(edge.metric("selvedge_decisions_total{outcome=\"personalised\"}"), Some(1.0));
    assert!(edge.metric("selvedge_decide_seconds_count") == Some(1.0));
    // Metrics are not for the public listener.
    assert_eq!(edge.get(SECRET, "/metrics").problem(), (404, "no_such_path"));
}

#[test]
fn an_admin_listener_that_others_can_reach_wants_the_secret_key() {
    let edge = TestEdgeBuilder::default().admin("0.0.0.0:0").start();
    assert_eq!(edge.admin_get("/metrics").problem(), (401, "key_missing"));
    let answer = agent()
        .get(format!("{}/metrics", edge.admin))
        .header("authorization", format!("Bearer {SECRET}"))
        .call()
        .unwrap();
    assert_eq!(answer.status(), 200);
}
