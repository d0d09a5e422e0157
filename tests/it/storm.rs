//! Storms: processes are killed at random while clients write through all edges, each waiting for durability. Nothing acknowledged is lost, nothing counts
//! twice, and all copies hold the same in the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::cluster::{PATIENCE, TestCentre, TestCentreBuilder, caught_up, eventually};
use selvedge_tests::edge::{TestEdge, WRITE, agent};
use serde_json::{Value, json};

/// Users over several shards.
const USERS: u64 = 100;
/// Events of one call.
const TOGETHER: u64 = 5;
/// Events that may be written between two kills: enough to be in the midst of it.
const BETWEEN: u64 = 300;

fn order(id: u64) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": format!("o-{id}"), "userId": format!("u-{}", id % USERS),
           "timestamp": "2026-01-01T00:00:00Z", "properties": {"order_id": format!("o-{id}"), "total": 1.5}})
}

fn totals(edge: &TestEdge) -> (u64, f64) {
    let profiles = (0..USERS).map(|user| edge.profile(&format!("user:u-{user}"), None));
    profiles.fold((0, 0.0), |(orders, revenue), profile| {
        let value = |name: &str| profile["aggregates"][name]["value"].as_f64().unwrap_or(0.0);
        (orders + value("retail.orders") as u64, revenue + value("retail.revenue"))
    })
}

/// Kills of one storm: so many by default, more where the environment says so.
fn kills() -> u64 {
    std::env::var("SELVEDGE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(40)
}

/// A generator that a seed repeats: SplitMix64, by Sebastiano Vigna.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (drawn ^ (drawn >> 31)) % most
    }
}

/// Writes through whichever edges there are until it is told to stop; gives what was acknowledged.
fn write(
    urls: &Mutex<Vec<String>>,
    (next, most): (&AtomicU64, &AtomicU64),
    stop: &AtomicBool,
    mut random: Random,
) -> Vec<u64> {
    let (agent, mut acknowledged) = (agent(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        if next.load(Ordering::Relaxed) >= most.load(Ordering::Relaxed) {
            std::thread::yield_now();
            continue;
        }
        let url = {
            let urls = urls.lock().unwrap();
            urls[random.below(urls.len() as u64) as usize].clone()
        };
        let first = next.fetch_add(TOGETHER, Ordering::Relaxed);
        let ids: Vec<u64> = (first..first + TOGETHER).collect();
        let body = json!({"batch": ids.iter().map(|id| order(*id)).collect::<Vec<_>>()}).to_string();
        let sent = agent.post(format!("{url}/v1/batch")).header("authorization", format!("Bearer {WRITE}")).send(body);
        // Only a whole answer acknowledges.
        let Ok(mut answer) = sent else { continue };
        let Ok(text) = answer.body_mut().read_to_string() else { continue };
        match answer.status().as_u16() {
            200 => acknowledged.extend(ids),
            503 => {}
            status => panic!("{status}: {text}"),
        }
    }
    acknowledged
}

fn storm(centre: TestCentre, seed: u64) {
    eprintln!("seed {seed}; SELVEDGE_KILLS={} kills", kills());
    let mut random = Random(seed);
    let mut centre = centre;
    let mut edges: Vec<TestEdge> = ["one", "two", "three"].iter().map(|name| centre.edge(name).start()).collect();
    let urls = Mutex::new(edges.iter().map(|edge| edge.public.clone()).collect::<Vec<_>>());
    let (next, most, stop) = (AtomicU64::new(0), AtomicU64::new(BETWEEN), AtomicBool::new(false));
    let acknowledged: Vec<u64> = std::thread::scope(|threads| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let random = Random(seed.wrapping_add(writer));
                threads.spawn(|| write(&urls, (&next, &most), &stop, random))
            })
            .collect();
        for kill in 0..kills() {
            // Somewhere in what it does: while it opens, takes, applies, makes a checkpoint or loads a snapshot.
            let until = Instant::now() + Duration::from_millis(random.below(400));
            while Instant::now() < until {
                std::thread::yield_now();
            }
            match random.below(8) {
                0 => centre.kill_and_restart(),
                // A disk that is lost for good is none of this: what was acknowledged on it alone is lost with it.
                1 => {
                    let shard = random.below(64);
                    let _ = centre.admin_post(&format!("/admin/v1/shards/{shard}/snapshot"), "");
                    let _ = centre.admin_post(&format!("/admin/v1/shards/{shard}/trim"), "");
                }
                _ => {
                    let place = random.below(edges.len() as u64) as usize;
                    let edge = edges.remove(place).kill_and_restart();
                    urls.lock().unwrap()[place] = edge.public.clone();
                    edges.insert(place, edge);
                }
            }
            most.fetch_add(BETWEEN, Ordering::Relaxed);
            assert!(writers.iter().all(|writer| !writer.is_finished()), "a writer gave up at kill {kill}");
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    // Sending everything again, as clients that got no answer do, through another edge, brings every order in exactly once.
    let all: Vec<Value> = (0..next.load(Ordering::Relaxed)).map(order).collect();
    let before = totals(&edges[0]).0;
    eprintln!("{} acknowledged of {} sent; one edge has {before}", acknowledged.len(), all.len());
    eventually("everything acknowledged is everywhere", || {
        edges.iter().all(|edge| totals(edge).0 >= acknowledged.len() as u64)
    });
    for edge in &edges {
        caught_up(&centre, edge);
        let (orders, revenue) = totals(edge);
        assert_eq!(revenue, orders as f64 * 1.5, "counted twice");
    }
    edges[1].batches(&all);
    let whole = (all.len() as u64, all.len() as f64 * 1.5);
    let asked = Instant::now();
    while let Some(edge) = edges.iter().find(|edge| totals(edge) != whole) {
        let found: Vec<_> = edges.iter().map(totals).collect();
        let doing = edge.admin_get("/admin/v1/status").text;
        assert!(asked.elapsed() < 2 * PATIENCE, "{found:?}, not {whole:?}: {doing}; {:#}", centre.status()["edges"]);
    }
    for edge in &edges {
        caught_up(&centre, edge);
    }
    // An edge that begins with nothing comes to the same.
    let fresh = centre.edge("fresh").start();
    eventually("every order is at the fresh edge", || totals(&fresh) == whole);
    caught_up(&centre, &fresh);
    assert_eq!(centre.verified(), 5);
}

#[test]
fn a_storm_of_kills_loses_nothing_on_redb() {
    let seed = std::env::var("SELVEDGE_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let plugins = selvedge_tests::only("retail");
    storm(TestCentreBuilder::default().plugins(Some(plugins.path())).start(), seed);
}

#[test]
fn a_storm_of_kills_loses_nothing_on_postgresql() {
    let database = crate::postgres::Postgres::start();
    let store = database.database("selvedge");
    let plugins = selvedge_tests::only("retail");
    let builder = TestCentreBuilder::default().plugins(Some(plugins.path())).store(&store);
    storm(builder.start(), 11);
}
