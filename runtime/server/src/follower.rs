//! The wiring of an edge that follows a centre. Read [`run`].

use std::fs;
use std::sync::{Arc, Weak, mpsc};
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
use crate::edge::{Edge, LogOutbox};
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::serve::{DRAIN, End};
use crate::sync::client::{Centre, Refusal};
use crate::sync::wire::Registered;
use crate::sync::{self, Uplink};

/// The note under which the outbox keeps what the centre said of itself.
const REGISTERED: &str = "registered";
/// How long an edge that has worked before waits for its centre when it starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs an edge until it is told to end.
pub fn run(config: EdgeConfig, uplink: UplinkConfig) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(&config.data).with_context(|| format!("create {}", config.data.display()))?;
    crate::central::install_tls();
    let metrics = Arc::new(Metrics::install().context("install metrics")?);
    let end = Arc::new(End::default());
    let runtime = runtime()?;
    let (outbox, committed) = sync::open_outbox(&config.data.join("outbox.redb"), Arc::clone(&end))?;
    let centre = Centre::new(&uplink)?;
    let plugins = config.data.join("plugins");
    let begun = runtime.block_on(async {
        tokio::select! {
            begun = async {
                let registered = introduce(&centre, &outbox.log, &uplink).await?;
                let release = &registered.released.release;
                let bundle = sync::releases::fetch(&centre, &registered.cluster, &plugins, release).await?;
                Ok::<_, anyhow::Error>((registered, bundle))
            } => begun.map(Some),
            ended = end.wanted() => ended.map(|()| None),
        }
    })?;
    let Some((registered, bundle)) = begun else { return end.outcome() };
    let keys = Keys::of_centre(config.keys.clone(), registered.keys.clone())?;
    let held = registered.shards;
    let loaded = bundle.load(threads())?;

    let log = Arc::clone(&outbox.log);
    let observer = Arc::new(loaded.observer(&metrics));
    let namespaces = Arc::new(config.namespaces.clone());
    let shards = Arc::new(Shards::open_holding(
        &config.data.join("shards"),
        &registered.cluster,
        config.cache_bytes,
        Arc::clone(&observer) as Arc<dyn Observer>,
        Arc::clone(&namespaces),
        &|shard| held.holds(shard),
    )?);
    // In memory a change is about three times as large as in the outbox.
    shards.bound_pending(usize::try_from(uplink.outbox_bytes.saturating_mul(3)).unwrap_or(usize::MAX));
    let uplink = Uplink::begin(centre, &uplink, registered, outbox, &shards, plugins)?;
    let uplink = Arc::new(uplink);
    let house = house(&config, keys, metrics, log, uplink.cluster.clone(), Some(Arc::clone(&uplink)))?;
    let edge = Arc::new(Edge::assemble(Arc::new(house), loaded, observer, Arc::clone(&shards))?);
    uplink.keep_backfill(backfill::Thread::spawn(
        Arc::clone(&edge.backfill),
        shards,
        Arc::clone(&edge.metrics),
        Some(Arc::clone(&end)),
    )?);
    let durable = std::thread::Builder::new().name("outbox".into()).spawn({
        // It must not hold the outbox, whose end it waits for.
        let uplink = Arc::downgrade(&uplink);
        move || note_durable(&uplink, &committed)
    })?;

    let house = Arc::clone(&edge.house);
    let gate = Arc::new(Gate::new(edge));
    let served = runtime.block_on(async {
        let syncing = tokio::spawn(sync::run(Arc::clone(&uplink), Arc::clone(&gate), Arc::clone(&end)));
        let served = serve(&house, Arc::clone(&gate), &config, &end, started).await;
        syncing.abort();
        served
    });
    // What serves now may not be what served first.
    let edge = runtime.block_on(gate.enter());
    runtime.shutdown_timeout(DRAIN);
    let flushed = edge.decided.flush(&edge.shards, &LogOutbox(&house.log)).map_err(anyhow::Error::from);
    drop(uplink.take_backfill());
    let checkpointed = sync::checkpoint::make(&uplink, &edge);
    drop((edge, gate, house, uplink));
    let _ = durable.join();
    served.and(flushed).and(checkpointed)?;
    end.outcome()
}

/// Registers with the centre. An edge that has worked before does without for now, where the centre does not answer; a new one waits.
async fn introduce(centre: &Centre, outbox: &RedbLog, uplink: &UplinkConfig) -> Result<Registered> {
    let kept = outbox.note(REGISTERED)?;
    let kept: Option<Registered> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
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

/// Tells the forwarders what is durable, as long as there is an outbox.
fn note_durable(uplink: &Weak<Uplink>, committed: &mpsc::Receiver<Vec<Committed>>) {
    while let Ok(batch) = committed.recv() {
        let Some(uplink) = uplink.upgrade() else { return };
        for Committed { shard, first_seq, count } in batch {
            uplink.on_durable(shard, first_seq + count as u64 - 1);
        }
    }
}
