//! Decisions for persons of eight identifiers, beside persons of one with the same history: from memory, and after a restart from the disk.
//!
//! By the time that the server itself measures (`meta.elapsedUs`), the two kinds in turn, so that the machine's moods strike both.

#![allow(clippy::unwrap_used)] // a bench that fails says so

use selvedge_tests::edge::{SECRET, WRITE, agent};
use selvedge_tests::{TestEdge, TestEdgeBuilder, root};
use serde_json::{Value, json};

const PERSONS: usize = 400;
const FRAGMENTS: usize = 8;
const ORDERS: usize = 24;
const ROUNDS: usize = 10;

fn main() {
    let edge = TestEdge::start();
    let mut events = Vec::new();
    for person in 0..PERSONS {
        for order in 0..ORDERS {
            let products: Vec<_> = (0..4)
                .map(|line| json!({"product_id": format!("p-{}", (person * 7 + order * 5 + line) % 500), "price": 2.5, "quantity": 1, "category": "kitchen"}))
                .collect();
            let event = |who: &str, id: String| {
                json!({"type": "track", "event": "Order Completed", "messageId": format!("{who}-{person}-{order}"), who: id,
                       "timestamp": format!("2026-{:02}-{:02}T10:00:00Z", 1 + order % 9, 1 + person % 28), "properties": {"products": products}})
            };
            events.push(event("userId", format!("one-{person}")));
            events.push(match order % FRAGMENTS {
                0 => event("userId", format!("many-{person}")),
                fragment => event("anonymousId", format!("a-{person}-{fragment}")),
            });
        }
    }
    edge.batches(&events);
    for person in 0..PERSONS {
        for fragment in 1..FRAGMENTS {
            let pair =
                json!({"identifiers": [format!("user:many-{person}"), format!("anonymous:a-{person}-{fragment}")]});
            edge.post(SECRET, "/v1/identities/link", &pair.to_string()).ok();
        }
    }
    let kinds = ["one", "many"];
    let mut warm = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for person in 0..PERSONS {
            for (kind, elapsed) in kinds.iter().zip(&mut warm) {
                let us = decide(&edge, &format!("{kind}-{person}"));
                // The first round fills the memory.
                if round > 0 {
                    elapsed.push(us);
                }
            }
        }
    }
    let edge = edge.restart_as(TestEdgeBuilder::default());
    // The first decisions of a process are its own.
    (0..200).for_each(|stranger| _ = decide(&edge, &format!("stranger-{stranger}")));
    let mut cold = [Vec::new(), Vec::new()];
    for person in 0..PERSONS {
        for (kind, elapsed) in kinds.iter().zip(&mut cold) {
            elapsed.push(decide(&edge, &format!("{kind}-{person}")));
        }
    }
    let [(one, one_99), (many, many_99)] = warm.map(spread);
    let [(one_cold, one_cold_99), (many_cold, many_cold_99)] = cold.map(spread);
    println!("\n{PERSONS} persons of one identifier and {PERSONS} of {FRAGMENTS}, {ORDERS} orders each; one slot");
    println!("{:<44}{:>10}{:>10}", "elapsedUs", "median", "p99");
    println!("{:<44}{one:>10}{one_99:>10}", "one identifier, in memory");
    println!("{:<44}{many:>10}{many_99:>10}", "eight identifiers, in memory");
    println!("{:<44}{one_cold:>10}{one_cold_99:>10}", "one identifier, from the disk");
    println!("{:<44}{many_cold:>10}{many_cold_99:>10}", "eight identifiers, from the disk");
    println!("in memory eight cost {:.2} times one", many as f64 / one as f64);
    let results =
        json!({"one_p50_us": one, "eight_p50_us": many, "one_cold_p50_us": one_cold, "eight_cold_p50_us": many_cold});
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("identity.json"), results.to_string()).unwrap();
}

fn decide(edge: &TestEdge, user: &str) -> u64 {
    thread_local!(static AGENT: ureq::Agent = agent());
    let body = json!({"visitor": {"userId": user}, "slots": [{"slot": "home-hero"}]}).to_string();
    let sent = AGENT.with(|agent| {
        let url = format!("{}/v1/decide", edge.public);
        agent.post(url).header("authorization", format!("Bearer {WRITE}")).send(body)
    });
    let text = sent.unwrap().body_mut().read_to_string().unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["slots"][0]["fallback"], false, "{text}");
    answer["meta"]["elapsedUs"].as_u64().unwrap()
}

/// The median and the 99th percentile.
fn spread(mut elapsed: Vec<u64>) -> (u64, u64) {
    elapsed.sort_unstable();
    (elapsed[elapsed.len() / 2], elapsed[elapsed.len() * 99 / 100])
}
