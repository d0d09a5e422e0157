//! Power cuts: whatever was acknowledged as durable is there afterwards, and counts once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::edge::{WRITE, agent};
use selvedge_tests::{TestEdge, TestEdgeBuilder, orders, root};
use serde_json::{Value, json};

/// Users over several shards.
const USERS: u64 = 20;

fn order(id: u64) -> Value {
    orders::order(id, USERS)
}

fn totals(edge: &TestEdge) -> (u64, f64) {
    orders::totals(edge, USERS)
}

/// Kills the edge at ten moments while three clients write, each waiting for durability.
#[test]
fn nothing_durably_acknowledged_is_lost_or_counted_twice() {
    let mut edge = TestEdge::start();
    let next = Arc::new(AtomicU64::new(0));
    let mut acknowledged: Vec<u64> = Vec::new();
    for round in 0..10_u64 {
        let cut = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (next, cut, written) = (Arc::clone(&next), Arc::clone(&cut), Arc::clone(&written));
                let url = format!("{}/v1/batch", edge.public);
                std::thread::spawn(move || {
                    let (agent, mut done) = (agent(), Vec::new());
                    while !cut.load(Ordering::Relaxed) {
                        let first = next.fetch_add(5, Ordering::Relaxed);
                        let ids: Vec<u64> = (first..first + 5).collect();
                        let body = json!({"batch": ids.iter().map(|id| order(*id)).collect::<Vec<_>>()}).to_string();
                        let sent = agent.post(&url).header("authorization", format!("Bearer {WRITE}")).send(body);
                        // Only a whole answer acknowledges.
                        let Ok(mut answer) = sent else { break };
                        let Ok(text) = answer.body_mut().read_to_string() else { break };
                        assert_eq!(answer.status(), 200, "{text}");
                        written.fetch_add(5, Ordering::Relaxed);
                        done.extend(ids);
                    }
                    done
                })
            })
            .collect();
        // Cut after a different number of acknowledged events each time.
        let until = 20 + round * 17;
        while written.load(Ordering::Relaxed) < until && writers.iter().any(|writer| !writer.is_finished()) {
            std::thread::yield_now();
        }
        edge.kill();
        cut.store(true, Ordering::Relaxed);
        acknowledged.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        edge = edge.kill_and_restart();
        let (orders, revenue) = totals(&edge);
        assert!(
            orders >= acknowledged.len() as u64,
            "{orders} of {} acknowledged orders, round {round}",
            acknowledged.len()
        );
        assert_eq!(revenue, orders as f64 * 1.5, "counted twice, round {round}");
    }
    // Sending everything again, as clients that got no answer do, brings every order in exactly once.
    let all: Vec<Value> = (0..next.load(Ordering::Relaxed)).map(order).collect();
    edge.batches(&all);
    assert_eq!(totals(&edge), (all.len() as u64, all.len() as f64 * 1.5));
    eprintln!("{} orders acknowledged over ten cuts, {} sent", acknowledged.len(), all.len());
}

fn decided(edge: &TestEdge) -> u64 {
    let profile = edge.profile("user:ada", None);
    let offers = profile["offers"].as_object().into_iter().flat_map(|offers| offers.values());
    offers.filter_map(|offer| offer["decided"].as_u64()).sum()
}

/// Decisions that come thick gather for a while before they become changes.
#[test]
fn of_decisions_that_gather_a_crash_takes_the_last_ones_only_and_doubles_none() {
    let edge = TestEdge::start();
    let (began, mut told, mut long_ago) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(6) {
        let answer = edge.decide(&json!({"visitor": {"userId": "ada"}, "slots": [{"slot": "home-hero"}]}));
        told += answer["slots"][0]["offers"].as_array().map_or(0, |offers| offers.len() as u64);
        if began.elapsed() < Duration::from_secs(3) {
            long_ago = told;
        }
    }
    assert_eq!(decided(&edge), told);
    let edge = edge.kill_and_restart();
    let kept = decided(&edge);
    eprintln!("{kept} of {told} decisions kept");
    assert!((long_ago..=told).contains(&kept), "{kept} of {told} kept, {long_ago} of them older than three seconds");
    // Whatever became of them meanwhile, and of what a second crash finds.
    assert_eq!(decided(&edge.kill_and_restart()), kept);
}

#[test]
fn shards_that_are_damaged_or_gone_are_rebuilt_from_the_log() {
    let edge = TestEdge::start();
    let orders: Vec<Value> = (0..200).map(order).collect();
    edge.batches(&orders);
    let (data, _) = edge.stop();
    std::fs::remove_dir_all(data.path().join("shards")).unwrap();
    let edge = TestEdgeBuilder::default().start_in(data);
    assert_eq!(totals(&edge), (200, 300.0));
    assert_eq!(edge.batches(&orders), (0, 200));
    let (data, _) = edge.stop();
    // In the middle of sled's file.
    let path = data.path().join("shards/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    bytes[middle / 2..middle / 2 + 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(data.path().join("shards/conf"), b"damaged").unwrap();
    let edge = TestEdgeBuilder::default().start_in(data);
    assert_eq!(totals(&edge), (200, 300.0));
}

#[test]
fn another_plugin_configuration_or_time_zone_folds_everything_again() {
    let edge = TestEdge::start();
    let order = |id: &str, at: &str, currency: &str| {
        json!({"type": "track", "event": "Order Completed", "messageId": id, "userId": "ada", "timestamp": at,
               "properties": {"order_id": id, "total": 10, "currency": currency}})
    };
    edge.batch(&[order("1", "2026-05-31T22:30:00Z", "GBP"), order("2", "2026-05-31T23:30:00Z", "EUR")]);
    let read = |edge: &TestEdge, name: &str| {
        edge.profile("user:ada", Some("2026-06-01T12:00:00Z"))["aggregates"][name]["value"].clone()
    };
    assert_eq!((read(&edge, "retail.revenue"), read(&edge, "retail.purchase_days")), (json!(20), json!(1)));
    assert_eq!(read(&edge, "retail.revenue_mtd"), 0);
    // Midnight in London is at 23:00 UTC: the second order is of the first of June there.
    let edge = edge.restart_as(TestEdgeBuilder::default().arguments(&["--time-zone", "Europe/London"]));
    edge.backfilled();
    assert_eq!(
        (read(&edge, "retail.revenue_mtd"), edge.aggregate("user:ada", "retail.purchase_days")),
        (json!(10), json!(2))
    );
    let pounds = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("target/plugins/retail.wasm"), pounds.path().join("retail.wasm")).unwrap();
    std::fs::write(pounds.path().join("retail.toml"), "currency = \"GBP\"").unwrap();
    let edge = edge.restart_as(TestEdgeBuilder::default().plugins(pounds.path()));
    edge.backfilled();
    assert_eq!(edge.aggregate("user:ada", "retail.revenue"), 10);
    assert_eq!(edge.profile("user:ada", None)["aggregates"]["retail.revenue"]["unit"], "GBP");
}

#[test]
fn a_second_process_on_the_same_data_is_told_so() {
    let edge = TestEdge::start();
    let output = std::process::Command::new(selvedge_tests::edge::binary())
        .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
        .arg(edge.data())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("open in another process"), "{text}");
}
