//! Decisions over imported profiles, by the time that the server itself measures (`meta.elapsedUs`), and what the import took.
//!
//! Data: the full Online Retail file where it is given or on this machine, else as many generated orders. One client, one call at a time, in the
//! same machine as the server: medians, not peaks. The peaks are for the load harness.

#![allow(clippy::unwrap_used)] // a bench that fails says so

use selvedge_tests::edge::{WRITE, agent};
use selvedge_tests::{TestEdge, TestEdgeBuilder, root};
use serde_json::{Value, json};

const CALLS: usize = 5_000;

fn main() {
    let edge = TestEdgeBuilder::default().arguments(&["--time-zone", "Europe/London"]).start();
    let given = std::env::var_os("SELVEDGE_BENCH_DATA").map(std::path::PathBuf::from);
    let beside = root().join("../shared/data/online-retail/online-retail.csv.gz");
    let (data, seconds, users) = match given.or_else(|| beside.exists().then_some(beside)) {
        Some(path) => {
            let report = edge.import(&path, "online-retail.toml");
            let seconds = report["seconds"].as_f64().unwrap();
            (
                "Online Retail, 25,900 orders of 541,909 lines",
                seconds,
                (12_346..18_288).map(|id| id.to_string()).collect::<Vec<_>>(),
            )
        }
        None => {
            let users: Vec<String> = (0..4_000).map(|user| format!("u-{user}")).collect();
            let started = std::time::Instant::now();
            edge.batches(&generated(&users));
            (
                "25,900 generated orders of 20 lines (--data FILE takes the real ones)",
                started.elapsed().as_secs_f64(),
                users,
            )
        }
    };
    // Of the import alone: what decisions add comes after.
    let (resident, disk) = (edge.memory_kib("VmHWM") / 1024, edge.disk_bytes() / 1024 / 1024);
    let slots = json!([{"slot": "home-hero"}, {"slot": "home-grid", "count": 4}]);
    let decide = |user: &str| json!({"visitor": {"userId": user}, "slots": slots});
    let with_event = |user: &str| {
        let event = json!({"type": "track", "event": "Product Viewed", "properties": {"product_id": "22423", "category": "kitchen"}});
        json!({"visitor": {"userId": user}, "slots": slots, "events": [event]})
    };
    let cold = measure(&edge, &users, &decide);
    let warm = measure(&edge, &users, &decide);
    let event = measure(&edge, &users, &with_event);

    println!("\n{data}; two slots, {} offers, the retail plugin in a fresh instance per call", 14);
    println!("{:<44}{:>10}{:>10}", "elapsedUs", "median", "p99");
    for (name, (median, p99)) in
        [("decide, profiles first touched", cold), ("decide", warm), ("decide with one event", event)]
    {
        println!("{name:<44}{median:>10}{p99:>10}");
    }
    println!(
        "import {seconds:.1} s ({:.0} orders/s, durably acknowledged), {resident} MiB resident at most, {disk} MiB on disk",
        25_900.0 / seconds
    );
    let results = json!({
        "data": data,
        "rows": [
            {"name": "decide_first_touch", "p50_us": cold.0, "p99_us": cold.1},
            {"name": "decide", "p50_us": warm.0, "p99_us": warm.1},
            {"name": "decide_event", "p50_us": event.0, "p99_us": event.1},
        ],
        "import": {"seconds": seconds, "orders_per_second": 25_900.0 / seconds, "rss_mib": resident, "disk_mib": disk},
    });
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("first_decision.json"), results.to_string()).unwrap();
}

/// The median and the 99th percentile of the server's own time, over one connection.
fn measure(edge: &TestEdge, users: &[String], call: &dyn Fn(&str) -> Value) -> (u64, u64) {
    let (agent, url) = (agent(), format!("{}/v1/decide", edge.public));
    let mut elapsed: Vec<u64> = (0..CALLS)
        .map(|index| {
            // A step that visits everyone in an order that is not the file's.
            let user = &users[index * 7 % users.len()];
            let sent = agent.post(&url).header("authorization", format!("Bearer {WRITE}")).send(call(user).to_string());
            let text = sent.unwrap().body_mut().read_to_string().unwrap();
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["slots"][0]["fallback"], false, "{text}");
            answer["meta"]["elapsedUs"].as_u64().unwrap()
        })
        .collect();
    elapsed.sort_unstable();
    (elapsed[CALLS / 2], elapsed[CALLS * 99 / 100])
}

fn generated(users: &[String]) -> Vec<Value> {
    let order = |index: usize| {
        let line = |line: usize| json!({"product_id": format!("p-{}", (index * 31 + line * 17) % 3_000), "name": "A thing for the house", "price": 2.95, "quantity": 1 + line % 6});
        json!({"type": "track", "event": "Order Completed", "messageId": format!("g-{index}"), "userId": users[index % users.len()],
               "timestamp": format!("2026-01-{:02}T{:02}:00:00Z", 1 + index / 1000, index % 24),
               "properties": {"order_id": format!("g-{index}"), "products": (0..20).map(line).collect::<Vec<_>>()}})
    };
    (0..25_900).map(order).collect()
}
