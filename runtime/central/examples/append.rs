//! How fast the centre's log takes changes in: `cargo run --release -p selvedge-central --example append -- redb:FOLDER | postgres://…`.
//!
//! Callers push batches of changes of 300 bytes, each with an id, to all shards; then one caller pushes single changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge_central::{
    CentralLog, CentralOptions, LogError, PostgresCentral, PostgresOptions, RedbCentral, SealedPush,
};
use selvedge_core::change::Digest;
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::sync::{Origin, Push, Pushed};

const CALLERS: u64 = 8;
const BATCH: usize = 100;
const CHANGE_BYTES: usize = 300;

/// The change's hash stands in for its id and its envelope.
fn digest(bytes: &[u8]) -> Digest {
    let (id, envelope) = bytes.split_at(16);
    let mut hash = [0; 8];
    hash.copy_from_slice(&envelope[..8]);
    let mut known = [0; 16];
    known.copy_from_slice(id);
    Digest { shard: None, id: Some(known), envelope: u64::from_le_bytes(hash) }
}

/// Changes whose bytes neither repeat nor compress.
struct Changes(u64);

impl Changes {
    fn next(&mut self) -> Arc<[u8]> {
        let mut bytes = Vec::with_capacity(CHANGE_BYTES + 8);
        while bytes.len() < CHANGE_BYTES {
            // SplitMix64: every state gives another number.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        bytes.truncate(CHANGE_BYTES);
        bytes.into()
    }
}

/// Pushes until the time is over; gives how many changes, and how long each push took.
async fn caller(
    log: Arc<dyn CentralLog>,
    epoch: u32,
    origin: u64,
    batch: usize,
    until: Instant,
) -> Result<(u64, Vec<Duration>), LogError> {
    let mut changes = Changes(origin);
    let mut watermarks = vec![0; usize::from(SHARDS)];
    let (mut taken, mut times) = (0, Vec::new());
    let mut shard = u16::try_from(origin % u64::from(SHARDS)).unwrap_or(0);
    while Instant::now() < until {
        shard = (shard + 1) % SHARDS;
        let predecessor = watermarks[usize::from(shard)];
        let changes: Vec<_> = (0..batch).map(|_| changes.next()).collect();
        let digests = changes.iter().map(|change| digest(change)).collect();
        let push = Push { shard: ShardId(shard), epoch, origin: Origin(origin), predecessor, skips: false, changes };
        let started = Instant::now();
        let answers = log.append(vec![SealedPush { push, digests }]).await?;
        times.push(started.elapsed());
        let [Pushed::Taken { seqs }] = &answers[..] else {
            return Err(LogError::Configuration(format!("not taken: {answers:?}")));
        };
        watermarks[usize::from(shard)] += seqs.len() as u64;
        taken += seqs.len() as u64;
    }
    Ok((taken, times))
}

async fn measure(
    log: &Arc<dyn CentralLog>,
    epoch: u32,
    callers: u64,
    batch: usize,
    seconds: u64,
) -> Result<(), LogError> {
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let mut origin = [0; 8];
        getrandom::fill(&mut origin).map_err(|error| LogError::Configuration(error.to_string()))?;
        let origin = u64::from_le_bytes(origin).max(1);
        tasks.spawn(caller(Arc::clone(log), epoch, origin, batch, until));
    }
    let (mut taken, mut times) = (0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (count, some) = done.map_err(|error| LogError::Configuration(error.to_string()))??;
        taken += count;
        times.extend(some);
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or_default();
    println!(
        "{callers} callers, pushes of {batch}: {:.0} changes/s; a push takes p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}",
        taken as f64 / started.elapsed().as_secs_f64(),
        at(500),
        at(990),
        at(999),
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), LogError> {
    let mut arguments = std::env::args().skip(1);
    let usage = || LogError::Configuration("usage: append redb:FOLDER | postgres://… [SECONDS]".into());
    let store = arguments.next().ok_or_else(usage)?;
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10);
    let log: Arc<dyn CentralLog> = match store.strip_prefix("redb:") {
        Some(folder) => {
            let options = CentralOptions::new("bench", Arc::new(|_, bytes: &[u8]| Ok(digest(bytes))));
            let started = Instant::now();
            let log = RedbCentral::open(&std::path::Path::new(folder).join("central.redb"), &options)?;
            println!("opened in {:.2?}", started.elapsed());
            Arc::new(log)
        }
        None => Arc::new(PostgresCentral::open(&PostgresOptions::new(store, "bench")).await?),
    };
    let heads = log.heads().await?;
    let entries: u64 = heads.iter().map(|head| head.seq).sum();
    let epoch = heads.first().map_or(1, |head| head.epoch);
    println!("{entries} entries so far");
    measure(&log, epoch, CALLERS, BATCH, seconds).await?;
    measure(&log, epoch, 1, BATCH, 3).await?;
    measure(&log, epoch, 1, 1, 3).await?;
    measure(&log, epoch, 32, 1, 3).await
}
