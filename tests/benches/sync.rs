//! How fast events are taken durably, and how soon one edge decides by what another has taken. Prints figures; `postgres` as an argument puts the centre on a private
//! PostgreSQL.

#![allow(clippy::unwrap_used)] // a bench's panic is its answer

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::cluster::{TestCentreBuilder, caught_up};
use selvedge_tests::edge::{TestEdge, WRITE, agent};
use selvedge_tests::{TestEdgeBuilder, only};
use serde_json::{Value, json};
use ureq::Agent;

#[path = "../../runtime/central/tests/support/postgres.rs"]
#[allow(dead_code)] // the log's own tests use the rest
mod postgres;

/// Users of the load.
const USERS: u64 = 10_000;
/// How long each load lasts.
const LASTS: Duration = Duration::from_secs(5);
/// Probes of how soon an event counts elsewhere.
const PROBES: usize = 1_000;

fn order(id: u64) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": format!("o-{id}"), "userId": format!("u-{}", id % USERS),
           "timestamp": "2026-01-01T00:00:00Z", "properties": {"order_id": format!("o-{id}"), "total": 1.5}})
}

fn send(agent: &Agent, edge: &str, first: u64, count: u64) -> String {
    let events: Vec<Value> = (first..first + count).map(order).collect();
    let body = json!({ "batch": events }).to_string();
    let url = format!("{edge}/v1/batch");
    let mut answer = agent.post(url).header("authorization", format!("Bearer {WRITE}")).send(body).unwrap();
    let token = answer.headers().get("x-selvedge-token").map(|token| token.to_str().unwrap().to_owned());
    let text = answer.body_mut().read_to_string().unwrap();
    assert_eq!(answer.status(), 200, "{text}");
    token.unwrap_or_default()
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms", at(0.5), at(0.99), at(1.0))
}

/// Callers that send one call after another, each waiting for durability.
fn ingestion(edge: &TestEdge, next: &AtomicU64, callers: usize, together: u64) -> String {
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let times: Vec<Duration> = std::thread::scope(|threads| {
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                threads.spawn(|| {
                    let (agent, mut times) = (agent(), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let first = next.fetch_add(together, Ordering::Relaxed);
                        let sent = Instant::now();
                        send(&agent, &edge.public, first, together);
                        times.push(sent.elapsed());
                    }
                    times
                })
            })
            .collect();
        std::thread::sleep(LASTS);
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let events = times.len() as u64 * together;
    format!("{:.0} events/s, {}", events as f64 / began.elapsed().as_secs_f64(), percentiles(times))
}

/// Sends about so many events a second to one edge, in calls of ten, until it is told to stop.
fn load(edge: &str, per_second: u64, next: &AtomicU64, stop: &AtomicBool) {
    let (agent, began) = (agent(), Instant::now());
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = began + Duration::from_secs_f64(sent as f64 / per_second as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        send(&agent, edge, next.fetch_add(10, Ordering::Relaxed), 10);
        sent += 10;
    }
}

/// From the acknowledgement of an event at one edge to the answer of a decision at another that counts it.
fn visibility(one: &TestEdge, two: &TestEdge, next: &AtomicU64, per_second: u64) -> String {
    let stop = AtomicBool::new(false);
    let times = std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| load(&one.public, per_second / 2, next, &stop));
        }
        let agent = agent();
        let mut times = Vec::with_capacity(PROBES);
        for probe in 0..PROBES as u64 {
            let id = next.fetch_add(1, Ordering::Relaxed);
            let token = send(&agent, &one.public, id, 1);
            let acknowledged = Instant::now();
            let ask = json!({"visitor": {"userId": format!("u-{}", id % USERS)}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000});
            let request =
                agent.post(format!("{}/v1/decide", two.public)).header("authorization", format!("Bearer {WRITE}"));
            let mut answer = request.header("x-selvedge-token", token).send(ask.to_string()).unwrap();
            let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
            times.push(acknowledged.elapsed());
            assert_eq!(answer["meta"]["caughtUp"], true, "probe {probe}: {answer}");
        }
        stop.store(true, Ordering::Relaxed);
        times
    });
    percentiles(times)
}

fn main() {
    let plugins = only("retail");
    let next = AtomicU64::new(0);
    let run = TestEdgeBuilder::default().plugins(plugins.path()).start();
    println!("run, batches of 100 over 8 connections: {}", ingestion(&run, &next, 8, 100));
    println!("run, single events over 32 connections: {}", ingestion(&run, &next, 32, 1));
    drop(run);
    let database = std::env::args().any(|argument| argument == "postgres").then(postgres::Postgres::start);
    let mut builder = TestCentreBuilder::default().plugins(Some(plugins.path()));
    if let Some(database) = &database {
        builder = builder.store(&database.database("selvedge"));
    }
    let store = if database.is_some() { "PostgreSQL" } else { "redb" };
    let centre = builder.start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    println!(
        "centre on {store}, 1,000 events/s: counts at another edge after {}",
        visibility(&one, &two, &next, 1_000)
    );
    println!("edge, batches of 100 over 8 connections: {}", ingestion(&one, &next, 8, 100));
    let began = Instant::now();
    caught_up(&centre, &one);
    println!("  its centre has them {:.1} s later", began.elapsed().as_secs_f64());
    println!("edge, single events over 32 connections: {}", ingestion(&one, &next, 32, 1));
}
