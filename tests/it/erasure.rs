//! Erasing a person: nothing of them is left at any edge, in the log or in snapshots, nothing late brings them back, and they may begin anew.

use selvedge_core::change::Change;
use selvedge_core::identity::Identifier;
use selvedge_core::sync::frame::Frame;
use selvedge_tests::cluster::{EDGE_KEY, TestCentre, caught_up, eventually};
use selvedge_tests::edge::{SECRET, TestEdge, TestEdgeBuilder, agent};
use serde_json::{Value, json};

const EVA: [&str; 2] = ["user:eva", "anonymous:a-eva"];

fn order(id: &str, user: &str) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": id, "userId": user,
           "properties": {"order_id": id, "total": 2.5, "note": "confidential"}})
}

fn linked(id: &str) -> Value {
    json!({"type": "identify", "userId": "eva", "anonymousId": "a-eva", "messageId": id, "traits": {"plan": "confidential"}})
}

fn gone(edge: &TestEdge) -> bool {
    EVA.iter().all(|id| {
        ["", "?at=2026-01-01T00:00:00Z", "?history=aggregates"]
            .iter()
            .all(|query| edge.get(SECRET, &format!("/v1/profiles/{id}{query}")).status == 404)
    })
}

fn erase(edge: &TestEdge, id: &str) -> Value {
    let answer = edge.delete(SECRET, &format!("/v1/profiles/{id}"));
    assert_eq!(answer.status, 202, "{}", answer.text);
    let body: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(body["receipts"], format!("/v1/erasures/{}", body["id"].as_str().unwrap()));
    body
}

fn receipt(edge: &TestEdge, erased: &Value) -> Value {
    edge.get(SECRET, erased["receipts"].as_str().unwrap()).ok()
}

/// What the centre's log holds of a fragment.
fn in_log(centre: &TestCentre, of: &str) -> Vec<Change> {
    let shard = Identifier::stored(of).unwrap().shard();
    let status = centre.status();
    let epoch = status["shards"][usize::from(shard.0)]["epoch"].as_u64().unwrap();
    let url = format!("{}/sync/v1/shards/{}/changes?epoch={epoch}&after=0", centre.url, shard.0);
    let mut answer = agent().get(url).header("authorization", format!("Bearer {EDGE_KEY}")).call().unwrap();
    let bytes = answer.body_mut().read_to_vec().unwrap();
    let Frame::Changes { entries, .. } = Frame::decode(&bytes).unwrap() else { panic!("not changes") };
    let own = entries.iter().filter(|entry| Change::owner(&entry.bytes) == Some(of));
    own.map(|entry| Change::decode(&entry.bytes).unwrap()).collect()
}

#[test]
fn a_person_is_erased_everywhere_and_may_begin_anew() {
    let mut centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    one.batch(&[linked("l-1"), order("o-1", "eva"), order("o-2", "eva"), order("k-1", "karl")]);
    eventually("the other edge has it", || !gone(&two));
    caught_up(&centre, &one);
    centre.snapshot_all();

    // An edge that is away takes an event, and is away when the erasure is ordered.
    centre.kill();
    two.batch(&[order("late", "eva"), order("k-2", "karl")]);
    let (data, _) = two.stop();
    let centre = centre.restart();
    let erased = erase(&one, "anonymous:a-eva");
    assert_eq!(erased["identifiers"], json!(EVA));
    assert!(gone(&one));
    eventually("the centre has replaced it", || {
        let copies = receipt(&one, &erased)["copies"].clone();
        copies.as_array().unwrap().iter().filter(|copy| copy["copy"] != "two").all(|copy| copy["done"] == true)
            && copies.as_array().unwrap().len() == 4
    });
    assert_eq!(receipt(&one, &erased)["done"], false, "one edge is away");
    for of in EVA {
        let left = in_log(&centre, of);
        assert!(left.iter().all(|change| matches!(change, Change::Erase { .. } | Change::Erased { .. })), "{left:?}");
        assert!(left.iter().any(|change| matches!(change, Change::Erased { .. })));
    }

    let two = centre.edge("two").start_in(data);
    eventually("every copy says so", || receipt(&one, &erased)["done"] == true);
    eventually("what the edge took for others arrives", || {
        one.profile("user:karl", None)["aggregates"]["retail.orders"]["value"] == 2
    });
    caught_up(&centre, &one);
    caught_up(&centre, &two);
    assert!(gone(&one) && gone(&two), "what comes late brings nothing back");
    assert_eq!(
        receipt(&two, &erased),
        centre.admin_get(&format!("/admin/v1/erasures/{}", erased["id"].as_str().unwrap())).ok()
    );
    let left = in_log(&centre, "user:eva");
    assert!(left.iter().all(|change| matches!(change, Change::Erase { .. } | Change::Erased { .. })), "{left:?}");
    let exported = agent().get(format!("{}/v1/export", centre.url)).header("authorization", format!("Bearer {SECRET}"));
    let exported = exported.call().unwrap().body_mut().read_to_string().unwrap();
    assert!(exported.contains("k-2") && exported.contains("erasure"), "{exported}");
    assert!(exported.lines().all(|line| line.contains("erasure") || !line.contains("eva")), "{exported}");

    // An edge that begins with the snapshots has nothing either, and all hold the same.
    for shard in 0..64 {
        centre.admin_post(&format!("/admin/v1/shards/{shard}/trim"), "").ok();
    }
    let three = centre.edge("three").start();
    caught_up(&centre, &three);
    assert!(gone(&three));
    assert_eq!(centre.verified(), 4);

    // A known id stays known; a new one begins the profile anew, alone.
    let answer = two.batch(&[order("o-1", "eva"), order("new", "eva")]);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(1)));
    eventually("the new event arrives", || one.get(SECRET, "/v1/profiles/user:eva").status == 200);
    let profile = one.profile("user:eva", None);
    assert_eq!(
        (&profile["identifiers"], &profile["aggregates"]["retail.orders"]["value"]),
        (&json!(["user:eva"]), &json!(1))
    );
    assert!(profile["traits"]["plan"].is_null());
    [&one, &two, &three].iter().for_each(|edge| caught_up(&centre, edge));
    assert_eq!(centre.verified(), 4);
}

#[test]
fn an_edge_that_is_its_own_centre_erases_its_log() {
    let edge = TestEdge::start();
    edge.batch(&[linked("l-1"), order("o-1", "eva"), order("k-1", "karl")]);
    let erased = erase(&edge, "user:eva");
    assert!(gone(&edge));
    eventually("the log is clean", || receipt(&edge, &erased)["done"] == true);
    let exported = |edge: &TestEdge| edge.get(SECRET, "/v1/export").text;
    let kept = |edge: &TestEdge| exported(edge).lines().filter(|line| !line.contains("erasure")).collect::<String>();
    assert!(kept(&edge).contains("k-1") && !kept(&edge).contains("eva"));
    assert!(exported(&edge).contains(r#""profile":"user:eva""#), "who keeps a copy is told");
    // Also from the log alone.
    let (data, _) = edge.stop();
    std::fs::remove_dir_all(data.path().join("shards")).unwrap();
    let edge = TestEdgeBuilder::default().start_in(data);
    assert!(gone(&edge) && edge.aggregate("user:karl", "retail.orders") == 1);
    assert_eq!(receipt(&edge, &erased)["done"], true);
    let answer = edge.batch(&[order("o-1", "eva"), order("new", "eva")]);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(1)));
    assert_eq!(edge.aggregate("user:eva", "retail.orders"), 1);
}

#[test]
fn erasing_needs_the_secret_key_and_an_identifier() {
    let edge = TestEdge::start();
    assert_eq!(edge.delete("wk_test_0001", "/v1/profiles/user:eva").status, 403);
    assert_eq!(edge.delete(SECRET, "/v1/profiles/nobody").status, 400);
    // Of whom nothing is known, something may be under way.
    assert_eq!(edge.delete(SECRET, "/v1/profiles/user:nobody").status, 202);
    assert_eq!(edge.get(SECRET, &format!("/v1/erasures/{}", "0".repeat(32))).problem(), (404, "no_such_erasure"));
    assert_eq!(edge.get(SECRET, "/v1/erasures/7").problem(), (400, "erasure_invalid"));
}
