//! The wiring of an edge that follows a centre. Read [`run`] and [`Follower::begin`].

use std::fs;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use selvedge_central::{Committed, RedbLog};
use selvedge_core::sync::backoff::Backoff;
use selvedge_shard::{Observer, Shards};
use tokio::time::{Duration, sleep, timeout};

use crate::app::{house, runtime, serve, threads};
use crate::auth::Keys;
use crate::backfill;
use crate::config::{EdgeConfig, UplinkConfig};
use crate::edge::{Edge, House};
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::release::Given;
use crate::serve::{DRAIN, End};
use crate::sync::client::{Centre, Refusal};
use crate::sync::wire::{Controlled, Registered};
use crate::sync::{self, Uplink};

/// The note under which the outbox keeps what the centre said of itself.
const REGISTERED: &str = "registered";
/// How long an edge that has worked before waits for its centre when it starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs an edge until it is told to end.
pub fn run(config: EdgeConfig, uplink: UplinkConfig) -> Result<()> {
    let started = Instant::now();
    crate::central::install_tls();
    let metrics = Arc::new(Metrics::install().context("install metrics")?);
    let end = Arc::new(End::default());
    let runtime = runtime()?;
    let begun = runtime.block_on(async {
        end.listen()?;
        tokio::select! {
            begun = Follower::begin(&config, &uplink, metrics, &end) => begun.map(Some),
            () = end.wanted() => Ok(None),
        }
    })?;
    let Some(follower) = begun else {
        runtime.shutdown_timeout(DRAIN);
        return end.outcome();
    };
    let served = runtime.block_on(serve(&follower.house, Arc::clone(&follower.gate), &config, &end, started));
    // What serves now may not be what served first.
    let edge = runtime.block_on(follower.gate.enter());
    runtime.shutdown_timeout(DRAIN);
    let finished = follower.finish(edge);
    served.and(finished)?;
    end.outcome()
}

/// An edge that follows a centre, without its listeners.
pub struct Follower {
    pub gate: Arc<Gate>,
    pub house: Arc<House>,
    pub uplink: Arc<Uplink>,
    durable: JoinHandle<()>,
}

impl Follower {
    /// Registers with the centre, opens what is kept, and begins to follow. Waits for a centre that is away where nothing is kept yet.
    pub async fn begin(
        config: &EdgeConfig,
        uplink: &UplinkConfig,
        metrics: Arc<Metrics>,
        end: &Arc<End>,
    ) -> Result<Self> {
        let (path, ending) = (config.data.join("outbox.redb"), Arc::clone(end));
        let data = config.data.clone();
        let (outbox, committed) = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
            sync::open_outbox(&path, ending)
        })
        .await??;
        let centre = Centre::new(uplink)?;
        let plugins = config.data.join("plugins");
        let mut registered = introduce(&centre, &outbox.log, uplink).await?;
        offer(&centre, config, &mut registered).await?;
        let release = &registered.released.release;
        let bundle = sync::releases::fetch(&centre, &registered.cluster, &plugins, release).await?;
        let (config, upward, ending) = (config.clone(), uplink.clone(), Arc::clone(end));
        let opened = tokio::task::spawn_blocking(move || -> Result<Self> {
            let keys = Keys::of_centre(&config.keys, &registered.keys)?;
            let held = registered.shards;
            let loaded = bundle.load(threads())?;
            let log = Arc::clone(&outbox.log);
            let observer = Arc::new(loaded.observer(&metrics));
            let shards = Arc::new(Shards::open_holding(
                &config.data.join("shards"),
                &registered.cluster,
                config.cache_bytes,
                Arc::clone(&observer) as Arc<dyn Observer>,
                Arc::new(config.namespaces.clone()),
                &|shard| held.holds(shard),
            )?);
            // In memory a change is about three times as large as in the outbox.
            shards.bound_pending(usize::try_from(upward.outbox_bytes.saturating_mul(3)).unwrap_or(usize::MAX));
            let uplink = Arc::new(Uplink::begin(centre, &upward, registered, outbox, &shards, plugins)?);
            let house = house(&config, keys, metrics, log, uplink.cluster.clone(), Some(Arc::clone(&uplink)), None)?;
            let house = Arc::new(house);
            let edge = Arc::new(Edge::assemble(Arc::clone(&house), loaded, observer, Arc::clone(&shards))?);
            uplink.keep_backfill(backfill::Thread::spawn(
                Arc::clone(&edge.backfill),
                shards,
                Arc::clone(&edge.metrics),
                Some(ending),
            )?);
            let durable = std::thread::Builder::new().name("outbox".into()).spawn({
                // It must not hold the outbox, whose end it waits for.
                let uplink = Arc::downgrade(&uplink);
                move || note_durable(&uplink, &committed)
            })?;
            Ok(Self { gate: Arc::new(Gate::new(edge)), house, uplink, durable })
        });
        let follower = opened.await??;
        // It ends with the runtime.
        tokio::spawn(sync::run(Arc::clone(&follower.uplink), Arc::clone(&follower.gate), Arc::clone(end)));
        Ok(follower)
    }

    /// Brings everything to the disk. To be called with what serves now once the runtime has ended, and with it whoever holds the edge. Blocks.
    pub fn finish(self, edge: Arc<Edge>) -> Result<()> {
        let Self { gate, house, uplink, durable } = self;
        let flushed = edge.decided.flush(&edge.shards, &house.log).map_err(anyhow::Error::from);
        drop(uplink.take_backfill());
        let checkpointed = sync::checkpoint::make(&uplink, &edge);
        drop((edge, gate, house, uplink));
        let _ = durable.join();
        flushed.and(checkpointed)
    }
}

/// Registers with the centre. An edge that has worked before does without for now, where the centre does not answer; a new one waits.
async fn introduce(centre: &Centre, outbox: &RedbLog, uplink: &UplinkConfig) -> Result<Registered> {
    let kept = outbox.note(REGISTERED)?;
    let kept: Option<Registered> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let kept = kept.map(|kept| brought_up(kept, outbox)).transpose()?;
    // Also where it is to hold other shards now: what its outbox has is of that log.
    let cluster = kept.as_ref().map(|kept| kept.cluster.clone());
    let kept = kept.filter(|kept| uplink.shards.is_none_or(|shards| shards == kept.shards));
    let register = sync::introduction(&uplink.name, uplink.shards);
    let mut backoff = Backoff::new(getrandom::u64()?);
    let began = Instant::now();
    loop {
        let error = match timeout(PATIENCE, centre.register(&register, cluster.as_deref())).await {
            Ok(Ok(registered)) => {
                let bytes = serde_json::to_vec(&registered)?;
                outbox.keep_note(REGISTERED, &bytes)?;
                return Ok(registered);
            }
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("it does not answer"),
        };
        if error.downcast_ref::<Refusal>().is_some() {
            bail!(error);
        }
        if let Some(kept) = &kept
            && began.elapsed() >= PATIENCE / 5
        {
            tracing::warn!("the centre cannot be reached ({error:#}); serving what is known");
            return Ok(kept.clone());
        }
        tracing::warn!("waiting for the centre at {}: {error:#}", uplink.central);
        sleep(Duration::from_millis(backoff.fail())).await;
    }
}

/// What was kept when the edge registered, with what it heard since.
fn brought_up(mut kept: Registered, outbox: &RedbLog) -> Result<Registered> {
    if let Some(released) = sync::releases::kept(outbox)?.filter(|released| released.seq > kept.released.seq) {
        kept.released = released;
    }
    let known = kept.released.control.as_ref().map(Controlled::at);
    let newer = |controlled: &Controlled| known.is_none_or(|known| controlled.at() > known);
    if let Some(controlled) = sync::control::kept(outbox)?.filter(newer) {
        kept.released.control = Some(controlled);
    }
    Ok(kept)
}

/// Has the centre release what this edge was given at its start, where that is new. What the log held before is the centre's to say.
async fn offer(centre: &Centre, config: &EdgeConfig, registered: &mut Registered) -> Result<()> {
    let (plugins, catalog, zone) = (config.plugins.clone(), config.catalog.clone(), config.time_zone.clone());
    let read = tokio::task::spawn_blocking(move || Given::read(plugins.as_deref(), catalog.as_deref(), zone));
    let given = read.await??;
    if given.is_empty() || given.clone().over(&registered.released.release).release == registered.released.release {
        return Ok(());
    }
    match centre.offer(&registered.cluster, &given.body()?).await {
        Ok(released) => registered.released = released,
        Err(error) if error.downcast_ref::<Refusal>().is_some() => bail!(error),
        Err(error) => tracing::warn!(
            "plugins, catalogue and time zone that were given are not released: the centre cannot be reached ({error:#})"
        ),
    }
    Ok(())
}

/// Tells the forwarders what is durable, as long as there is an outbox.
fn note_durable(uplink: &Weak<Uplink>, committed: &mpsc::Receiver<Vec<Committed>>) {
    while let Ok(batch) = committed.recv() {
        let Some(uplink) = uplink.upgrade() else { return };
        for Committed { shard, first_seq, count } in batch {
            uplink.on_durable(shard, first_seq + count as u64 - 1);
        }
    }
}
