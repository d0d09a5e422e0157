//! The wiring of an edge: the only place that knows every part. Read [`run`] (an edge that is its own centre).

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use selvedge_central::{Committed, LogError, RedbLog};
use selvedge_core::activation::Activation;
use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use selvedge_shard::{Observer, ShardError, Shards};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::admin;
use crate::auth::Keys;
use crate::backfill;
use crate::catalogue::Publisher;
use crate::config::EdgeConfig;
use crate::dead_letters::DeadLetters;
use crate::decided::Decided;
use crate::edge::{self, Edge, Entrance, House};
use crate::erasures::{self, Erasures};
use crate::gate::Gate;
use crate::ids::{Ids, random_name};
use crate::metrics::Metrics;
use crate::records::Records;
use crate::release::{Bundle, Loaded};
use crate::serve::{ADMIN_CONNECTIONS, DRAIN, End, PUBLIC_CONNECTIONS, Stop, listen, listener, routed};
use crate::sync::{self, Uplink};
use crate::tokens::Tokens;

/// How often counts of decisions become changes, and housekeeping is done.
const TICK: Duration = Duration::from_secs(1);
/// In how many steps the counts of a second do.
const STEPS: u32 = 8;
/// Changes that are moved into the base of a shard together.
const ADVANCE_MOST: usize = 64;
/// Bytes of the log that are folded at once after a start.
const RECOVER_BYTES: usize = 1024 * 1024;
/// Bodies of more than a few KiB in memory at once, about a MiB each.
const BODIES: usize = 64;
/// Histories that are folded at once for questions about the past.
const HISTORIES: usize = 2;
/// Bodies that are worked on at once beside the request path.
const LARGE_BODIES: usize = 4;
/// Batches of decisions that are under way at once, each deciding for one visitor after the other.
const DECISION_BATCHES: usize = 4;
/// Audiences that are counted at once: each looks at every profile.
const AUDIENCE_COUNTS: usize = 1;
/// Threads that may block. Each runs at most one invocation of the plugins, so the pool of instances is sized by it.
const BLOCKING_THREADS: usize = 48;
/// Threads beside them that fold.
const FOLDING_THREADS: usize = 4;

/// Runs an edge with an embedded centre until it is told to end.
pub fn run(config: EdgeConfig) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(&config.data).with_context(|| format!("create {}", config.data.display()))?;
    let keys = Keys::open(&config.data, config.keys.clone())?;
    let metrics = Arc::new(Metrics::install().context("install metrics")?);
    let time_zone = config.time_zone.as_deref().unwrap_or("UTC");
    let bundle = Bundle::read(config.plugins.as_deref(), config.catalog.as_deref(), time_zone)?;

    let end = Arc::new(End::default());
    let (commits, committed) = mpsc::channel();
    let log = open_log(&config.data.join("log.redb"), commits, Arc::clone(&end))?;
    let runtime = runtime()?;
    let publisher = Arc::new(Publisher::own(Arc::clone(&log)));
    let loaded = runtime.block_on(load(bundle, config.catalog.is_some(), &publisher))?;
    let cluster = log.id();
    let house = house(&config, keys, metrics, Arc::clone(&log), cluster, None, Some(Arc::clone(&publisher)))?;
    let house = Arc::new(house);
    let observer = Arc::new(loaded.observer(&house.metrics));
    let shards = Arc::new(Shards::open(
        &config.data.join("shards"),
        &house.cluster,
        config.cache_bytes,
        Arc::clone(&observer) as Arc<dyn Observer>,
        Arc::clone(&house.namespaces),
    )?);
    activate(&log, &loaded.activation)?;
    recover(&log, &shards)?;
    // What was committed up to here is in the base already.
    while committed.try_recv().is_ok() {}

    let edge = Arc::new(Edge::assemble(house, loaded, observer, Arc::clone(&shards))?);
    let applier = std::thread::Builder::new().name("apply".into()).spawn({
        let (shards, end) = (Arc::clone(&shards), Arc::clone(&end));
        move || apply(&shards, &committed, &end)
    })?;
    // What a crash has cut off.
    erasures::clean_behind(&edge.erasures, &log, &shards);
    let backfilling = backfill::Thread::spawn(
        Arc::clone(&edge.backfill),
        Arc::clone(&shards),
        Arc::clone(&edge.metrics),
        Some(Arc::clone(&end)),
    )?;
    // What serves now may not be what serves later.
    let house = Arc::clone(&edge.house);
    let gate = Arc::new(Gate::new(edge));
    publisher.serve_behind(&gate);
    let served = runtime.block_on(async {
        end.listen()?;
        publisher.tell_stopped().await;
        tokio::spawn(Arc::clone(&publisher).keep_schedule());
        serve(&house, Arc::clone(&gate), &config, &end, started).await
    });
    runtime.shutdown_timeout(DRAIN);

    // Everything that was accepted goes to the log, then the log to the base, then the base to the disk.
    let flushed = house.decided.flush(&shards, &log).map_err(anyhow::Error::from);
    drop((gate, house, publisher, log));
    drop(backfilling);
    let applied = applier.join().map_err(|_| anyhow::anyhow!("the applying thread panicked"));
    shards.flush()?;
    served.and(flushed).and(applied)?;
    end.outcome()
}

/// Loads what files say, by the catalogue that is named among them where the log never held it, else by the one in force.
async fn load(mut bundle: Bundle, is_named: bool, publisher: &Publisher) -> Result<Loaded> {
    publisher.refresh().await?;
    let given = std::mem::take(&mut bundle.release.catalog);
    let is_given = is_named && publisher.is_new(&given).await?;
    let version = publisher.in_force().version;
    bundle.release.catalog = if is_given { given.clone() } else { publisher.release().1.catalog };
    let loaded = tokio::task::spawn_blocking(move || bundle.load(threads())).await?;
    let loaded = loaded.with_context(|| match (is_given, version) {
        (false, version @ 1..) => {
            format!("with catalogue version {version}, which is in force (--catalog gives another)")
        }
        _ => "what was given".to_owned(),
    })?;
    if is_given {
        publisher.begin(&given).await?;
    }
    Ok(loaded)
}

/// Threads that may invoke plugins at once.
pub fn threads() -> usize {
    workers() + BLOCKING_THREADS + FOLDING_THREADS
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

pub fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(workers()).max_blocking_threads(BLOCKING_THREADS).enable_all().build()?)
}

/// What an edge keeps whatever it runs.
pub fn house(
    config: &EdgeConfig,
    keys: Keys,
    metrics: Arc<Metrics>,
    log: Arc<RedbLog>,
    cluster: String,
    uplink: Option<Arc<Uplink>>,
    publisher: Option<Arc<Publisher>>,
) -> Result<House> {
    if config.trust_browsers {
        tracing::warn!(
            "trust_browsers is on: whoever names a user in a browser is taken for them, and sees their offers; for production sign tokens instead"
        );
    }
    // Only what no other edge goes by may gather.
    let decided = if uplink.is_none() { Decided::open(&log)? } else { Decided::new() };
    Ok(House {
        erasures: Arc::new(Erasures::open(&log)?),
        keys,
        tokens: Tokens::new(&config.tokens)?,
        trust_browsers: config.trust_browsers,
        namespaces: Arc::new(config.namespaces.clone()),
        trait_sources: config.trait_sources.clone(),
        log,
        cluster,
        stopped: uplink.as_ref().map_or_else(Arc::default, |uplink| Arc::clone(&uplink.stopped)),
        uplink,
        publisher,
        decided,
        ledger: Arc::default(),
        records: Records::new(config.decision_records),
        dead_letters: DeadLetters::default(),
        metrics,
        ids: Ids::new().context("read randomness")?,
        serving: AtomicBool::new(true),
        bodies: Arc::new(Semaphore::new(BODIES)),
        large_bodies: Semaphore::new(LARGE_BODIES),
        decision_batches: Arc::new(Semaphore::new(DECISION_BATCHES)),
        histories: Arc::new(Semaphore::new(HISTORIES)),
        audience_counts: Arc::new(Semaphore::new(AUDIENCE_COUNTS)),
    })
}

fn open_log(path: &Path, commits: mpsc::Sender<Vec<Committed>>, end: Arc<End>) -> Result<Arc<RedbLog>> {
    let on_commit = Box::new(move |committed: &[Committed]| {
        // The receiver ends after the log.
        let _ = commits.send(committed.to_vec());
    });
    let on_failure = Box::new(move |error: LogError| end.fail(error.to_string()));
    Ok(Arc::new(RedbLog::open(path, &random_name()?, on_commit, on_failure)?))
}

/// Writes to every shard's log what folds from here on, where that differs from what folded last.
fn activate(log: &RedbLog, activation: &Activation) -> Result<()> {
    let bytes: Arc<[u8]> = Change::Activate(activation.clone()).encode().into();
    let before = log.note("activation")?;
    if before.as_deref() == Some(&*bytes) {
        return Ok(());
    }
    if let Some(Ok(Change::Activate(before))) = before.as_deref().map(Change::decode) {
        let changes = before.changes(activation).join(", ");
        tracing::warn!("{changes}: what that concerns is folded from the history, and reads as backfilling until then");
    }
    log.append(ShardId::all().map(|shard| (shard, vec![Arc::clone(&bytes)])).collect())?;
    log.barrier().wait_blocking()?;
    // Were the process to die before this, the next start would write the same activation once more, which changes nothing.
    Ok(log.keep_note("activation", &bytes)?)
}

/// Brings the base of every shard up to the head of its log, several shards at once.
fn recover(log: &RedbLog, shards: &Shards) -> Result<()> {
    let started = Instant::now();
    let heads: Vec<_> = ShardId::all().zip(log.heads()?).collect();
    let (next, folded) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        while let Some((shard, head)) = heads.get(next.fetch_add(1, Ordering::Relaxed)) {
            folded.fetch_add(recover_shard(log, shards, *shard, head.seq)?, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers().min(FOLDING_THREADS)).map(|_| scope.spawn(work)).collect();
        let end = |thread: ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that folds the log panicked")))
        };
        threads.into_iter().map(end).fold(Ok(()), Result::and)
    })?;
    let folded = folded.into_inner();
    if folded > usize::from(selvedge_core::identity::SHARDS) {
        tracing::info!(changes = folded, took = ?started.elapsed(), "folded what the base did not hold");
    }
    Ok(())
}

/// Brings the base of one shard up to the head of its log. Gives how many changes that took.
fn recover_shard(log: &RedbLog, shards: &Shards, shard: ShardId, head: u64) -> Result<usize> {
    let (mut folded, mut rebuilt) = (0, false);
    if shards.cursor(shard).seq > head {
        tracing::warn!(shard = shard.0, "the base is ahead of the log; it is rebuilt");
        shards.reset(shard)?;
    }
    while shards.cursor(shard).seq < head {
        let at = shards.cursor(shard).seq;
        let entries = log.read(shard, at, RECOVER_BYTES)?;
        if entries.is_empty() {
            bail!("shard {}: the log says that it ends at {head} but has nothing after {at}", shard.0);
        }
        folded += entries.len();
        let entries: Vec<_> = entries.into_iter().map(|entry| (entry.seq, entry.bytes)).collect();
        match shards.recover(shard, &entries) {
            // The base is a cache that the log can rebuild.
            Err(error @ (ShardError::Corrupt(_) | ShardError::Disk(_))) if !rebuilt => {
                tracing::error!(%error, shard = shard.0, "the base is damaged; it is rebuilt from the log");
                rebuilt = true;
                shards.reset(shard)?;
            }
            outcome => outcome?,
        }
    }
    Ok(folded)
}

/// Moves what the log has ordered into the base, in order, as long as there is a log.
fn apply(shards: &Shards, committed: &mpsc::Receiver<Vec<Committed>>, end: &End) {
    while let Ok(mut batch) = committed.recv() {
        // What was committed meanwhile is applied together: a fragment is written once, however often it changed.
        batch.extend(committed.try_iter().flatten());
        let mut by_shard: std::collections::BTreeMap<ShardId, (u64, usize)> = std::collections::BTreeMap::new();
        for Committed { shard, first_seq, count } in batch {
            by_shard.entry(shard).or_insert((first_seq, 0)).1 += count;
        }
        // The control shard is no base's.
        by_shard.remove(&ShardId::CONTROL);
        let mut moved = 0;
        for (shard, (mut first_seq, mut count)) in by_shard {
            // Not all at once: the shard is locked meanwhile.
            while count > 0 {
                let some = count.min(ADVANCE_MOST);
                if let Err(error) = shards.advance(shard, first_seq, some) {
                    return end.fail(error.to_string());
                }
                (first_seq, count, moved) = (first_seq + some as u64, count - some, moved + some);
                // Whoever answers comes first; but not after every shard, since each turn costs as much as moving a change.
                if moved >= ADVANCE_MOST {
                    moved = 0;
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// Serves until the process is to end.
pub async fn serve(
    house: &House,
    gate: Arc<Gate>,
    config: &EdgeConfig,
    end: &Arc<End>,
    started: Instant,
) -> Result<()> {
    let public = listen(config.listen).await?;
    let admin = listen(config.admin).await?;
    let (public_at, admin_at) = (public.local_addr()?, admin.local_addr()?);
    let stop = Arc::<Stop>::default();
    let routes = edge::router(Arc::clone(&gate), config.cors_origins.clone());
    let entrance = Entrance::new(Arc::clone(&gate), routes);
    let mut public = tokio::spawn(listener(public, None, entrance, Arc::clone(&stop), PUBLIC_CONNECTIONS));
    let routes = admin::router(Arc::clone(&gate), house.publisher.clone(), !admin_at.ip().is_loopback());
    let mut admin = tokio::spawn(listener(admin, None, routed(routes), Arc::clone(&stop), ADMIN_CONNECTIONS));
    let ticker = tokio::spawn(tick(gate, Arc::clone(end)));
    tracing::info!(after = ?started.elapsed(), "ready");
    println!(
        "{}",
        serde_json::json!({"ready": true, "public": format!("http://{public_at}"), "admin": format!("http://{admin_at}")})
    );

    end.wanted().await;
    tracing::info!("ending: no new requests; those under way are answered");
    house.serving.store(false, Ordering::Relaxed);
    stop.tell();
    // A client that keeps its connection open does not keep the process.
    let drained = tokio::time::timeout(DRAIN, async { (&mut public).await.and((&mut admin).await) }).await;
    if drained.is_err() {
        tracing::warn!("connections were still open after {DRAIN:?}");
        public.abort();
        admin.abort();
    }
    ticker.abort();
    Ok(())
}

/// Once a second: counts of decisions become changes, caches do their housekeeping, gauges are taken.
pub async fn tick(gate: Arc<Gate>, end: Arc<End>) {
    let mut ticks = tokio::time::interval(TICK / STEPS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // A few shards at a time, and of these some visitors: what requests wait for is spread over the second.
        for step in 0..STEPS {
            ticks.tick().await;
            for shard in ShardId::all().filter(|shard| u32::from(shard.0) % STEPS == step) {
                if let Err(error) = second(&gate, shard).await {
                    end.fail(format!("{error:#}"));
                }
            }
        }
        let edge = gate.enter().await;
        let done = tokio::task::spawn_blocking(move || {
            edge.shards.maintain();
            if let Some(uplink) = &edge.uplink {
                uplink.watch();
                edge.metrics.follows(uplink.is_connected(), &sync::report(uplink, &edge));
            }
            edge.metrics.maintain(edge.shards.usage());
            // One that follows a centre does so whenever it has heard from there.
            if edge.uplink.is_some() { Ok(()) } else { edge.renew_everyone() }
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what is known of everyone is not brought up"),
            Err(error) => end.fail(format!("housekeeping: {error}")),
        }
    }
}

/// Makes changes of what was decided for a shard's visitors, unless it is to gather. The gate is asked for each slice, so that nobody waits at it for all of them.
async fn second(gate: &Gate, shard: ShardId) -> Result<()> {
    let edge = gate.enter().await;
    edge.decided.second(shard, &edge.log)?;
    drop(edge);
    loop {
        let edge = gate.enter().await;
        let absent = edge.decided.absent(shard, &edge.shards);
        if !absent.is_empty() {
            let shards = Arc::clone(&edge.shards);
            let load = move || absent.iter().for_each(|visitor| drop(shards.load(visitor)));
            tokio::task::spawn_blocking(load).await?;
        }
        if !edge.decided.flush_some(shard, &edge.shards, &edge.log)? {
            return Ok(());
        }
        drop(edge);
        tokio::task::yield_now().await;
    }
}
