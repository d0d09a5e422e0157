//! Profiles backfilled per second after a change of configuration, by the one thread that does it; and decisions meanwhile.
//!
//! Small profiles of two orders and a view each; and the UCI Online Retail data where `SELVEDGE_BENCH_DATA` names it (4,372 customers, 25,900 invoices of
//! 20 lines on average).

#![allow(clippy::unwrap_used)] // a bench that fails says so

use std::path::Path;

use selvedge_tests::edge::{WRITE, agent};
use selvedge_tests::{TestEdge, TestEdgeBuilder, root};
use serde_json::{Value, json};

const PROFILES: usize = 20_000;

fn main() {
    let pounds = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("target/plugins/retail.wasm"), pounds.path().join("retail.wasm")).unwrap();
    std::fs::write(pounds.path().join("retail.toml"), "horizon_days = 30").unwrap();

    let edge = TestEdge::start();
    let event = |index: usize| {
        let (profile, kind) = (index / 3, index % 3);
        let mut event = json!({"type": "track", "messageId": format!("m-{index}"), "userId": format!("u-{profile}"),
                               "timestamp": format!("2026-0{}-01T00:00:00Z", 1 + kind)});
        if kind == 2 {
            event["event"] = "Product Viewed".into();
            event["properties"] = json!({"product_id": "22423", "category": "kitchen"});
        } else {
            event["event"] = "Order Completed".into();
            event["properties"] = json!({"order_id": index.to_string(), "products": [{"product_id": "22423", "price": 2.5, "quantity": 2}]});
        }
        event
    };
    edge.batches(&(0..3 * PROFILES).map(event).collect::<Vec<_>>());
    let idle = decisions(&edge, &|_| true);
    let edge = edge.restart_as(TestEdgeBuilder::default().plugins(pounds.path()));
    let quiet = edge.backfilled();
    let edge = edge.restart_as(TestEdgeBuilder::default());
    let busy = decisions(&edge, &|edge| edge.admin_get("/admin/v1/backfill").ok()["state"] == "running");
    let loaded = edge.backfilled();
    println!("\n{PROFILES} profiles of three events");
    println!("{:<52}{:>10}", "backfilled per second", quiet["perSecond"]);
    println!("{:<52}{:>10}", "the same, beside one caller who decides", loaded["perSecond"]);
    println!("{:<52}{:>10}", "elapsedUs of a decision, median, nothing waits", idle);
    println!("{:<52}{:>10}", "the same, beside the backfill", busy);
    drop(edge);

    let mut results = json!({"small_per_second": quiet["perSecond"], "small_loaded_per_second": loaded["perSecond"]});
    if let Ok(data) = std::env::var("SELVEDGE_BENCH_DATA") {
        let edge = TestEdge::start();
        let report = edge.import(Path::new(&data), "online-retail.toml");
        let edge = edge.restart_as(TestEdgeBuilder::default().plugins(pounds.path()));
        let done = edge.backfilled();
        println!("{} invoices of Online Retail", report["accepted"]);
        println!("{:<52}{:>10}", "profiles", done["total"]);
        println!("{:<52}{:>10}", "backfilled per second", done["perSecond"]);
        results["online_retail_per_second"] = done["perSecond"].clone();
    }
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("backfill.json"), results.to_string()).unwrap();
}

/// The median time of decisions for visitors who come for the first time, as long as it is asked for.
fn decisions(edge: &TestEdge, more: &dyn Fn(&TestEdge) -> bool) -> u64 {
    let agent = agent();
    let mut elapsed = Vec::new();
    for visitor in 0..2_000 {
        if !more(edge) {
            break;
        }
        let body = json!({"visitor": {"userId": format!("u-{visitor}")}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000}).to_string();
        let call = agent.post(format!("{}/v1/decide", edge.public)).header("authorization", format!("Bearer {WRITE}"));
        let answer: Value =
            serde_json::from_str(&call.send(body).unwrap().body_mut().read_to_string().unwrap()).unwrap();
        elapsed.push(answer["meta"]["elapsedUs"].as_u64().unwrap());
    }
    elapsed.sort_unstable();
    elapsed.get(elapsed.len() / 2).copied().unwrap_or_default()
}
