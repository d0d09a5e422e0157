//! New definitions over a history: served meanwhile, computed in the background, visible on the admin listener.

use std::path::Path;

use selvedge_tests::{TestEdge, TestEdgeBuilder, root};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The retail plugin with a configuration of its own.
fn retail(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), config);
    folder
}

fn copy(into: &Path, config: &str) {
    std::fs::copy(root().join("target/plugins/retail.wasm"), into.join("retail.wasm")).unwrap();
    std::fs::write(into.join("retail.toml"), config).unwrap();
}

fn order(customer: usize, id: usize, currency: &str) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": format!("o-{id}"), "userId": format!("u-{customer}"),
           "timestamp": format!("2026-01-01T00:00:0{}Z", id % 2), "context": {"traits": {"seen": id}},
           "properties": {"order_id": format!("o-{id}"), "total": 2, "currency": currency}})
}

/// Customers, each with an order in pounds and one in euros.
const CUSTOMERS: usize = 3_000;

fn shop() -> TestEdge {
    let edge = TestEdge::start();
    let orders = (0..2 * CUSTOMERS).map(|id| order(id / 2, id, if id % 2 == 0 { "GBP" } else { "EUR" }));
    edge.batches(&orders.collect::<Vec<_>>());
    edge
}

fn revenue(edge: &TestEdge, customer: usize) -> Value {
    edge.profile(&format!("user:u-{customer}"), None)["aggregates"]["retail.revenue"].clone()
}

#[test]
fn a_changed_configuration_is_computed_from_the_history_while_everything_is_served() {
    let edge = shop();
    let settled = edge.backfilled();
    assert_eq!((&settled["state"], &settled["total"]), (&json!("idle"), &json!(0)));
    let pounds = retail("currency = \"GBP\"");
    let edge = edge.restart_as(TestEdgeBuilder::default().plugins(pounds.path()));
    // Whatever is read is either whole or says that it waits; traits and the past are there at once.
    let mut waiting = 0;
    for customer in (0..CUSTOMERS).rev().step_by(50) {
        let profile = edge.profile(&format!("user:u-{customer}"), None);
        assert_eq!(profile["traits"]["seen"]["value"], 2 * customer + 1);
        let revenue = &profile["aggregates"]["retail.revenue"];
        if revenue["backfilling"] == true {
            assert_eq!((&revenue["value"], &revenue["exact"]), (&Value::Null, &json!(false)));
            waiting += 1;
        } else {
            assert_eq!(revenue, &json!({"value": 2, "unit": "GBP", "exact": true}));
        }
        let past = edge.profile(&format!("user:u-{customer}"), Some("2026-01-02T00:00:00Z"));
        assert_eq!(past["aggregates"]["retail.revenue"], json!({"value": 2, "unit": "GBP", "exact": true}));
        edge.decide(&json!({"visitor": {"userId": format!("u-{customer}")}, "slots": [{"slot": "home-hero"}]}));
    }
    edge.batch(&[order(7, 90_000, "GBP"), order(8, 90_001, "EUR")]);
    let done = edge.backfilled();
    eprintln!("{waiting} of 60 reads met a profile that waited; {done}");
    assert_eq!((&done["left"], &done["plugins"]), (&json!(0), &json!(["retail"])));
    assert_eq!((revenue(&edge, 7)["value"].clone(), revenue(&edge, 8)["value"].clone()), (json!(4), json!(2)));
    for customer in (0..CUSTOMERS).step_by(97) {
        assert_eq!(revenue(&edge, customer), json!({"value": 2, "unit": "GBP", "exact": true}));
    }
    assert_eq!(edge.metric("selvedge_backfill_fragments_left"), Some(0.0));
    assert!(edge.metric("selvedge_backfill_fragments_done_total") > Some(0.0));
    // Once is enough.
    let edge = edge.restart_as(TestEdgeBuilder::default().plugins(pounds.path()));
    assert_eq!(edge.backfilled()["total"], 0);
}

#[test]
fn a_backfill_that_is_killed_continues_at_the_next_start() {
    let edge = shop();
    let pounds = retail("currency = \"GBP\"");
    let mut edge = edge.restart_as(TestEdgeBuilder::default().plugins(pounds.path()));
    let mut rounds = 0;
    while edge.admin_get("/admin/v1/backfill").ok()["state"] != "idle" && rounds < 20 {
        edge = edge.kill_and_restart();
        rounds += 1;
    }
    edge.backfilled();
    eprintln!("{rounds} kills");
    for customer in 0..CUSTOMERS {
        assert_eq!(revenue(&edge, customer)["value"], 2, "{customer}");
    }
}
