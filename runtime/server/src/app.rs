//! The wiring: the only place that knows every part. Read [`run`].

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use selvedge_central::{Committed, LogError, RedbLog};
use selvedge_core::activation::Activation;
use selvedge_core::catalog::Catalog;
use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use selvedge_core::time::BusinessTime;
use selvedge_plugin_host::{CatalogReads, Component, Engine, EngineConfig, Plugin, PluginSet};
use selvedge_shard::{Observer, ShardError, Shards};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

use crate::admin;
use crate::auth::Keys;
use crate::backfill::Backfill;
use crate::config::RunConfig;
use crate::dead_letters::DeadLetters;
use crate::decided::Decided;
use crate::edge::{self, Edge, LogOutbox};
use crate::ids::{Ids, random_name};
use crate::metrics::Metrics;
use crate::observer::PluginObserver;
use crate::tokens::Tokens;

/// How often counts of decisions become changes, and housekeeping is done.
const TICK: Duration = Duration::from_secs(1);
/// How long a closing edge waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of the log that are folded at once after a start.
const RECOVER_BYTES: usize = 1024 * 1024;
/// How long a connection may take to send a request's head, and may idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections of each listener at once.
const PUBLIC_CONNECTIONS: usize = 8192;
const ADMIN_CONNECTIONS: usize = 256;
/// Bodies of more than a few KiB in memory at once, about a MiB each.
const BODIES: usize = 64;
/// Histories that are folded at once for questions about the past.
const HISTORIES: usize = 2;
/// Bodies that are worked on at once beside the request path.
const LARGE_BODIES: usize = 4;
/// Threads that may block. Each runs at most one invocation of the plugins, so the pool of instances is sized by it.
const BLOCKING_THREADS: usize = 48;
/// Threads beside them that fold.
const FOLDING_THREADS: usize = 4;

/// Runs an edge with an embedded centre until it is told to end.
pub fn run(config: RunConfig) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(&config.data).with_context(|| format!("create {}", config.data.display()))?;
    let keys = Keys::open(&config.data, config.keys.clone())?;
    let metrics = Arc::new(Metrics::install().context("install metrics")?);
    let time = BusinessTime::new(&config.time_zone)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let plugins =
        Arc::new(load_plugins(config.plugins.as_deref(), time, workers + BLOCKING_THREADS + FOLDING_THREADS)?);
    let catalog = load_catalog(config.catalog.as_deref())?;
    let catalog_reads = CatalogReads::resolve(&plugins, &catalog)?;
    let activation = Activation::new(plugins.schema().definitions.time(), plugins.active());
    let states: Vec<usize> = plugins.plugins().iter().map(Plugin::states).collect();
    let layout = activation.layout(&states);
    let observer = Arc::new(PluginObserver::new(Arc::clone(&plugins), layout, Arc::clone(&metrics)));

    let namespaces = Arc::new(config.namespaces.clone());
    let tokens = Tokens::new(&config.tokens)?;
    if config.trust_browsers {
        tracing::warn!(
            "trust_browsers is on: whoever names a user in a browser is taken for them, and sees their offers; for production sign tokens instead"
        );
    }

    let end = Arc::new(End::default());
    let (commits, committed) = mpsc::channel();
    let log = open_log(&config.data.join("log.redb"), commits, Arc::clone(&end))?;
    let shards = Shards::open(
        &config.data.join("shards"),
        &log.id(),
        config.cache_bytes,
        Arc::clone(&observer) as Arc<dyn Observer>,
        Arc::clone(&namespaces),
    )?;
    let shards = Arc::new(shards);
    activate(&log, &activation)?;
    recover(&log, &shards)?;
    // What was committed up to here is in the base already.
    while committed.try_recv().is_ok() {}

    let plugin_hashes: serde_json::Map<String, serde_json::Value> =
        plugins.plugins().iter().map(|plugin| (plugin.name().to_owned(), plugin.hash().into())).collect();
    let named = plugins.plugins().iter().filter(|plugin| plugin.states() > 0).map(|plugin| plugin.name().to_owned());
    let backfill = Arc::new(Backfill::new(named.collect(), !shards.unsettled()?));
    let edge = Arc::new(Edge {
        keys,
        tokens,
        trust_browsers: config.trust_browsers,
        namespaces,
        trait_sources: config.trait_sources.clone(),
        entities: plugins.entities(),
        plugin_hashes: serde_json::value::to_raw_value(&plugin_hashes)?,
        plugins,
        observer,
        catalog,
        catalog_reads,
        shards: Arc::clone(&shards),
        log: Arc::clone(&log),
        decided: Decided::new(),
        dead_letters: DeadLetters::default(),
        metrics: Arc::clone(&metrics),
        backfill: Arc::clone(&backfill),
        ids: Ids::new().context("read randomness")?,
        serving: AtomicBool::new(true),
        bodies: Arc::new(Semaphore::new(BODIES)),
        large_bodies: Semaphore::new(LARGE_BODIES),
        histories: Arc::new(Semaphore::new(HISTORIES)),
    });
    let applier = std::thread::Builder::new().name("apply".into()).spawn({
        let (shards, end) = (Arc::clone(&shards), Arc::clone(&end));
        move || apply(&shards, &committed, &end)
    })?;
    let (stop, stopped) = mpsc::channel();
    let backfiller = std::thread::Builder::new().name("backfill".into()).spawn({
        let (shards, end) = (Arc::clone(&shards), Arc::clone(&end));
        move || {
            let unsettled = shards.unsettled();
            let outcome =
                unsettled.and_then(|wanted| if wanted { backfill.run(&shards, &metrics, &stopped) } else { Ok(()) });
            outcome.unwrap_or_else(|error| end.fail(format!("backfill: {error}")));
        }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(Arc::clone(&edge), &config, &end, started));
    runtime.shutdown_timeout(DRAIN);

    // Everything that was accepted goes to the log, then the log to the base, then the base to the disk.
    let flushed = edge.decided.flush(&shards, &LogOutbox(&log)).map_err(anyhow::Error::from);
    drop(edge);
    drop(log);
    drop(stop);
    let backfilled = backfiller.join().map_err(|_| anyhow::anyhow!("the backfilling thread panicked"));
    let applied = applier.join().map_err(|_| anyhow::anyhow!("the applying thread panicked"));
    shards.flush()?;
    served.and(flushed).and(applied).and(backfilled)?;
    end.outcome()
}

/// Why the process ends: a signal, or a failure that it must not outlive.
#[derive(Default)]
struct End {
    wanted: Notify,
    failure: parking_lot::Mutex<Option<String>>,
}

impl End {
    fn fail(&self, detail: String) {
        tracing::error!(detail, "this edge cannot go on");
        self.failure.lock().get_or_insert(detail);
        self.wanted.notify_one();
    }

    fn outcome(&self) -> Result<()> {
        match self.failure.lock().take() {
            None => Ok(()),
            Some(detail) => {
                bail!("{detail}; everything acknowledged is in the log, start again when the cause is mended")
            }
        }
    }
}

fn load_plugins(folder: Option<&Path>, time: BusinessTime, threads: usize) -> Result<PluginSet> {
    let mut files: Vec<PathBuf> = Vec::new();
    if let Some(folder) = folder {
        for entry in fs::read_dir(folder).with_context(|| format!("read the plugins in {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                files.push(path);
            }
        }
    }
    files.sort();
    let instances_max = u32::try_from(threads * (files.len() + 1))?;
    let engine = Engine::new(EngineConfig { instances_max, ..EngineConfig::default() })?;
    let mut components = Vec::with_capacity(files.len());
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wasm = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let config = path.with_extension("toml");
        let config = if config.exists() {
            fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?
        } else {
            String::new()
        };
        let component = Component::load(&engine, &name, &wasm, &config)?;
        tracing::info!(plugin = component.name(), version = component.version(), compiled_in = ?component.compile_time, "loaded");
        components.push(component);
    }
    Ok(PluginSet::resolve(engine, components, time)?)
}

fn load_catalog(path: Option<&Path>) -> Result<Catalog> {
    let Some(path) = path else { return Ok(Catalog::default()) };
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Catalog::from_toml(&text).with_context(|| format!("catalogue {}", path.display()))
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

/// Brings the base of every shard up to the head of its log.
fn recover(log: &RedbLog, shards: &Shards) -> Result<()> {
    let started = Instant::now();
    let mut folded = 0;
    for (shard, head) in ShardId::all().zip(log.heads()?) {
        let mut rebuilt = false;
        if shards.cursor(shard).seq > head.seq {
            tracing::warn!(shard = shard.0, "the base is ahead of the log; it is rebuilt");
            shards.reset(shard)?;
        }
        while shards.cursor(shard).seq < head.seq {
            let entries = log.read(shard, shards.cursor(shard).seq, RECOVER_BYTES)?;
            if entries.is_empty() {
                bail!(
                    "shard {}: the log says that it ends at {} but has nothing after {}",
                    shard.0,
                    head.seq,
                    shards.cursor(shard).seq
                );
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
    }
    if folded > usize::from(selvedge_core::identity::SHARDS) {
        tracing::info!(changes = folded, took = ?started.elapsed(), "folded what the base did not hold");
    }
    Ok(())
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
        for (shard, (first_seq, count)) in by_shard {
            if let Err(error) = shards.advance(shard, first_seq, count) {
                return end.fail(error.to_string());
            }
        }
    }
}

async fn serve(edge: Arc<Edge>, config: &RunConfig, end: &Arc<End>, started: Instant) -> Result<()> {
    let public = listen(config.listen).await?;
    let admin = listen(config.admin).await?;
    let (public_at, admin_at) = (public.local_addr()?, admin.local_addr()?);
    let stop = Arc::new(Notify::new());
    let routes = edge::router(Arc::clone(&edge), config.cors_origins.clone());
    let mut public = tokio::spawn(listener(public, routes, Arc::clone(&stop), PUBLIC_CONNECTIONS));
    let mut admin = tokio::spawn(listener(
        admin,
        admin::router(Arc::clone(&edge), !admin_at.ip().is_loopback()),
        Arc::clone(&stop),
        ADMIN_CONNECTIONS,
    ));
    let ticker = tokio::spawn(tick(Arc::clone(&edge), Arc::clone(end)));
    tracing::info!(after = ?started.elapsed(), "ready");
    println!(
        "{}",
        serde_json::json!({"ready": true, "public": format!("http://{public_at}"), "admin": format!("http://{admin_at}")})
    );

    tokio::select! {
        signal = signal() => signal?,
        () = end.wanted.notified() => {}
    }
    tracing::info!("ending: no new requests; those under way are answered");
    edge.serving.store(false, Ordering::Relaxed);
    stop.notify_waiters();
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

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Serves connections until it is told to stop, then those that are under way.
///
/// A connection has so long to send a request's head, also the next one's; more connections than a listener takes wait to be accepted.
async fn listener(listener: TcpListener, routes: Router, stop: Arc<Notify>, connections_max: usize) {
    let places = Arc::new(Semaphore::new(connections_max));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let stopped = stop.notified();
    tokio::pin!(stopped);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (connection, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stopped => break,
        };
        let Ok((connection, _)) = connection else {
            // Out of file descriptors, most likely: those that end make room.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Answers are small and wanted at once. A connection that refuses the option still works.
        let _ = connection.set_nodelay(true);
        let served = http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes.clone()));
        let served = graceful.watch(served);
        tokio::spawn(async move {
            // A connection that breaks is its client's affair.
            let _ = served.await;
            drop(place);
        });
    }
    // Whoever comes now is told so at once, and asks another edge.
    drop(listener);
    graceful.shutdown().await;
}

async fn signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Once a second: counts of decisions become changes, caches do their housekeeping, gauges are taken.
async fn tick(edge: Arc<Edge>, end: Arc<End>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let edge = Arc::clone(&edge);
        let done = tokio::task::spawn_blocking(move || {
            let flushed = edge.decided.flush(&edge.shards, &LogOutbox(&edge.log));
            edge.shards.maintain();
            edge.metrics.maintain(edge.shards.usage());
            flushed
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => end.fail(error.to_string()),
            Err(error) => end.fail(format!("housekeeping: {error}")),
        }
    }
}
