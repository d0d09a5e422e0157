//! A centre and its edges: what one takes the others have, whoever is killed, and all hold the same.

use selvedge_tests::cluster::{EDGE_KEY, TestCentre, TestCentreBuilder, caught_up, eventually};
use selvedge_tests::edge::{PUBLISHABLE, SECRET, TestEdge, TestEdgeBuilder, WRITE};
use serde_json::{Value, json};

/// Users over several shards.
const USERS: u64 = 20;

fn order(id: u64) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": format!("o-{id}"), "userId": format!("u-{}", id % USERS),
           "timestamp": "2026-01-01T00:00:00Z", "properties": {"order_id": format!("o-{id}"), "total": 1.5}})
}

fn orders(ids: std::ops::Range<u64>) -> Vec<Value> {
    ids.map(order).collect()
}

/// Orders and revenue of all users.
fn totals(edge: &TestEdge) -> (u64, f64) {
    let profiles = (0..USERS).map(|user| edge.profile(&format!("user:u-{user}"), None));
    profiles.fold((0, 0.0), |(orders, revenue), profile| {
        let value = |name: &str| profile["aggregates"][name]["value"].as_f64().unwrap_or(0.0);
        (orders + value("retail.orders") as u64, revenue + value("retail.revenue"))
    })
}

fn has_all(edge: &TestEdge, count: u64) {
    eventually("the edge has all orders", || totals(edge).0 >= count);
    assert_eq!(totals(edge), (count, count as f64 * 1.5));
}

#[test]
fn what_one_edge_takes_the_others_have() {
    let centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    assert_eq!(one.batches(&orders(0..100)), (100, 0));
    assert_eq!(two.batches(&orders(100..150)), (50, 0));
    // The same ids through another edge count once; which edge takes them first is a matter of time.
    two.batches(&orders(0..10));
    for edge in [&one, &two] {
        has_all(edge, 150);
    }
    let profile = two.profile("user:u-3", None);
    assert_eq!(profile["meta"]["state"], "live");
    // An identifier that is linked at one edge is one person at the other.
    let link = json!({"type": "identify", "userId": "u-3", "anonymousId": "a-3", "messageId": "link-3", "traits": {"plan": "gold"}});
    one.batch(&[link]);
    eventually("the link arrives", || two.profile("anonymous:a-3", None)["identifiers"][0] == "user:u-3");
    assert_eq!(two.profile("anonymous:a-3", None)["traits"]["plan"]["value"], "gold");
    // Decisions are counted wherever they were made.
    let decided = one.decide(&json!({"visitor": {"userId": "u-3"}, "slots": [{"slot": "home-hero"}]}));
    let offer = decided["slots"][0]["offers"][0]["id"].as_str().unwrap().to_owned();
    eventually("the decision is counted", || two.profile("user:u-3", None)["offers"][&offer]["decided"] == 1);
    caught_up(&centre, &one);
    caught_up(&centre, &two);
    assert_eq!(centre.verified(), 3);
}

#[test]
fn an_edge_that_begins_anew_takes_snapshots_and_what_follows() {
    let centre = TestCentre::start();
    let one = centre.edge("one").start();
    one.batches(&orders(0..200));
    caught_up(&centre, &one);
    centre.snapshot_all();
    one.batches(&orders(200..260));
    caught_up(&centre, &one);
    // What the snapshots hold may go from the log.
    for shard in 0..64 {
        centre.admin_post(&format!("/admin/v1/shards/{shard}/trim"), "").ok();
    }
    let status = centre.status();
    assert!(status["shards"].as_array().unwrap().iter().any(|shard| shard["first"].as_u64().unwrap() > 1));
    let two = centre.edge("two").start();
    has_all(&two, 260);
    caught_up(&centre, &two);
    assert_eq!(centre.verified(), 3);
}

#[test]
fn an_edge_answers_alone_and_hands_over_what_it_took() {
    let mut centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    one.batches(&orders(0..50));
    has_all(&two, 50);
    centre.kill();
    // Both go on alone; each knows its own.
    one.batches(&orders(50..100));
    two.batches(&orders(100..130));
    assert_eq!(totals(&one).0, 100);
    assert_eq!(totals(&two).0, 80);
    let decision = one.decide(&json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}]}));
    assert_eq!(decision["slots"][0]["fallback"], false);
    // One is killed and starts while the centre is away: what it acknowledged is there.
    let one = one.kill_and_restart();
    assert_eq!(totals(&one).0, 100);
    assert_ne!(one.profile("user:u-1", None)["meta"]["state"], "live");
    let stale = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}], "maxStalenessMs": 10, "onStale": "fail"});
    assert_eq!(one.post(WRITE, "/v1/decide", &stale.to_string()).problem(), (412, "too_stale"));
    let centre = centre.restart();
    for edge in [&one, &two] {
        has_all(edge, 130);
        caught_up(&centre, edge);
    }
    eventually("both are live again", || {
        [&one, &two].iter().all(|edge| edge.profile("user:u-1", None)["meta"]["state"] == "live")
    });
    assert_eq!(centre.verified(), 3);
}

#[test]
fn a_token_reads_elsewhere_what_was_written_here() {
    let centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    for id in 0..50 {
        let body = json!({ "batch": [order(id)] }).to_string();
        let answer = one.post(WRITE, "/v1/batch", &body);
        let token = answer.header("x-selvedge-token").unwrap().to_owned();
        let ask = json!({"visitor": {"userId": format!("u-{}", id % USERS)}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000});
        let headers = [("authorization", format!("Bearer {WRITE}")), ("x-selvedge-token", token)];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let decision = two.post_with(&headers, "/v1/decide", ask.to_string().as_bytes()).ok();
        assert_eq!(decision["meta"]["caughtUp"], true, "{decision}");
        let user = two.profile(&format!("user:u-{}", id % USERS), None);
        assert_eq!(user["aggregates"]["retail.orders"]["value"], id / USERS + 1);
    }
    let wrong = [("authorization", "Bearer wk_test_0001"), ("x-selvedge-token", "nonsense")];
    let ask = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}]}).to_string();
    assert_eq!(two.post_with(&wrong, "/v1/decide", ask.as_bytes()).problem(), (400, "token_invalid"));
}

/// Decides for every user; gives for whom this edge has something to decide by.
fn held(edge: &TestEdge) -> Vec<u64> {
    let holds = |user: &u64| {
        let ask = json!({"visitor": {"userId": format!("u-{user}")}, "slots": [{"slot": "home-hero"}]});
        let decision = edge.decide(&ask);
        let state = decision["meta"]["state"].as_str().unwrap();
        assert!(["live", "not-held"].contains(&state), "{state}");
        assert_eq!(decision["slots"][0]["fallback"], state == "not-held");
        state == "live"
    };
    (0..USERS).filter(holds).collect()
}

#[test]
fn an_edge_may_hold_some_shards() {
    let centre =
        TestCentreBuilder::default().arguments(&["--edge-key", EDGE_KEY, "--edge-key", "ek_half_0001@0-31"]).start();
    let whole = centre.edge("whole").start();
    let half = centre.edge("half").arguments(&["--shards", "0-31"]).start();
    let scoped = TestEdgeBuilder::following(&centre.url, "ek_half_0001", "scoped").start();
    whole.batches(&orders(0..40));
    for edge in [&half, &scoped] {
        caught_up(&centre, edge);
        let held = held(edge);
        assert!(!held.is_empty() && held.len() < USERS as usize, "{held:?}");
    }
    // What it takes for shards that it does not hold goes to the centre.
    half.batches(&orders(40..80));
    has_all(&whole, 80);
    // An edge whose key does not open a shard takes nothing for it, and what it takes is not held up.
    let held = held(&scoped);
    let events: Vec<Value> = orders(80..100);
    let answer = scoped.batch(&events);
    let refused = answer["rejected"].as_array().unwrap();
    assert_eq!((answer["accepted"].as_u64(), refused.len()), (Some(held.len() as u64), events.len() - held.len()));
    assert!(refused.iter().all(|refused| refused["code"] == "shard_not_served"), "{answer}");
    has_all(&whole, 80 + held.len() as u64);
    assert_eq!(centre.verified(), 4);
    // A key opens its shards and no others.
    let too_many = TestEdgeBuilder::following(&centre.url, "ek_half_0001", "greedy").arguments(&["--shards", "0-40"]);
    let too_many = too_many.fails();
    assert!(too_many.contains("shard_out_of_scope"), "{too_many}");
    let stranger = TestEdgeBuilder::following(&centre.url, "ek_wrong_001", "stranger").fails();
    assert!(stranger.contains("key_unknown"), "{stranger}");
}

#[test]
fn an_edge_of_another_log_is_refused() {
    let (centre, other) = (TestCentre::start(), TestCentre::start());
    let edge = centre.edge("one").start();
    edge.batches(&orders(0..20));
    let (data, _) = edge.stop();
    // The same data directory at another centre: it would take one log for another's.
    let arguments =
        ["edge", "--data", &data.path().display().to_string(), "--central", &other.url, "--edge-key", EDGE_KEY];
    let output = selvedge_tests::process::command(&arguments.map(str::to_owned)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("other_cluster"), "{said}");
}

#[test]
fn callers_keys_come_from_the_centre() {
    let centre = TestCentre::start();
    let edge = centre.edge("one").start();
    let ask = json!({"visitor": {"anonymousId": "a-1"}, "slots": [{"slot": "home-hero"}]}).to_string();
    assert_eq!(edge.post(PUBLISHABLE, "/v1/decide", &ask).status, 200);
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:nobody").problem(), (404, "profile_not_found"));
    assert_eq!(edge.post("wk_wrong_0001", "/v1/decide", &ask).problem(), (401, "key_unknown"));
}
