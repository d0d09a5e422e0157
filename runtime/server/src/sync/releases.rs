//! Releases at an edge: what the centre has released is fetched, compiled and checked beside what serves, then takes its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use selvedge_central::RedbLog;
use selvedge_core::release::Release;
use selvedge_shard::Observer;

use super::client::Centre;
use super::control;
use super::wire::Released;
use super::{Uplink, jittered};
use crate::app::threads;
use crate::backfill;
use crate::budgets;
use crate::catalogue::document::{Checked, check, in_words};
use crate::edge::Edge;
use crate::gate::Gate;
use crate::release::{Bundle, Loaded, hash, hex, parse_hash};
use crate::serve::End;

/// What errors here are about.
const WHAT: &str = "a new release";
/// How long requests under way may take when a release takes the place of another; new ones wait for so long.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long they are left alone where they did not end.
const PAUSE: Duration = Duration::from_secs(10);
/// Within about so long all edges fetch a release.
const SPREAD: Duration = Duration::from_millis(200);
/// How long after a failure the centre is asked again, about.
const RETRY: Duration = Duration::from_secs(5);

/// The bytes of a release's plugins: from this edge's disk, or from the centre.
pub async fn fetch(centre: &Centre, cluster: &str, folder: &Path, release: &Release) -> Result<Bundle> {
    let mut bundle = Bundle { release: release.clone(), components: BTreeMap::new() };
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    for plugin in &release.plugins {
        let sha256 = parse_hash(&plugin.sha256)?;
        let path = folder.join(format!("{}.wasm", hex(&sha256)));
        let kept = fs::read(&path).ok().filter(|bytes| hash(bytes) == sha256);
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                let bytes =
                    centre.blob(cluster, sha256).await.with_context(|| format!("fetch plugin {}", plugin.name))?;
                let fresh = path.with_extension("new");
                fs::write(&fresh, &bytes)
                    .and_then(|()| fs::rename(&fresh, &path))
                    .with_context(|| format!("keep {}", path.display()))?;
                bytes
            }
        };
        bundle.components.insert(sha256, bytes);
    }
    Ok(bundle)
}

/// Sees to it that the newest release runs, where the centre has another: it is fetched and compiled beside what serves, and put in place between two
/// rounds of entries. Entries that were folded before an edge runs their release wait for their history, like any other that is new.
pub async fn keep_up(uplink: &Arc<Uplink>, gate: &Arc<Gate>, end: &Arc<End>) {
    let ready = uplink.ready.lock().take();
    if let Some(ready) = ready {
        if Instant::now() < ready.not_before {
            *uplink.ready.lock() = Some(ready);
            return;
        }
        let seq = ready.released.seq;
        match replace(uplink, gate, end, ready).await {
            Ok(true) => {
                *uplink.release_error.lock() = None;
                tracing::info!(release = seq, "a new release serves");
                uplink.reportable.notify_one();
            }
            Ok(false) => tracing::info!(release = seq, "a new release waits: requests under way do not end"),
            Err(error) => end.fail(format!("release {seq} could not take its place: {error:#}")),
        }
        return;
    }
    let said = *uplink.control_head.lock();
    if said == *uplink.asked.lock() || uplink.preparing.swap(true, Ordering::AcqRel) {
        return;
    }
    let (uplink, gate) = (Arc::clone(uplink), Arc::clone(gate));
    tokio::spawn(async move {
        // Not all edges at once.
        tokio::time::sleep(jittered(SPREAD)).await;
        match prepare(&uplink, &gate).await {
            Ok(()) => {
                uplink.clear_error(WHAT);
                *uplink.asked.lock() = said;
            }
            Err(error) => {
                uplink.note_error(WHAT, &error);
                tokio::time::sleep(jittered(RETRY)).await;
            }
        }
        uplink.preparing.store(false, Ordering::Release);
        uplink.reportable.notify_one();
    });
}

/// Fetches and compiles the release in force, if it is another than the one that serves. One that does not load is told, and not tried again.
async fn prepare(uplink: &Arc<Uplink>, gate: &Gate) -> Result<()> {
    let released = uplink.centre.release(&uplink.cluster).await?;
    control::take(uplink, released.control.as_ref());
    let running = uplink.running.lock().release.clone();
    if released.release == running {
        uplink.running.lock().seq = released.seq;
        *uplink.release_error.lock() = None;
        return Ok(());
    }
    if (&released.release.plugins, &released.release.time_zone) == (&running.plugins, &running.time_zone) {
        return take_catalog(uplink, gate, released).await;
    }
    tracing::info!(release = released.seq, "a new release is prepared");
    let bundle = fetch(&uplink.centre, &uplink.cluster, &uplink.plugins, &released.release).await?;
    match tokio::task::spawn_blocking(move || bundle.load(threads())).await? {
        Ok(loaded) => *uplink.ready.lock() = Some(Ready { released, loaded, not_before: Instant::now() }),
        Err(error) => {
            let text = format!("release {}: {error:#}", released.seq);
            tracing::error!("{text}; the one before goes on");
            *uplink.release_error.lock() = Some(text);
        }
    }
    Ok(())
}

/// Has another catalogue decide. Nothing folds by it, so nobody waits.
async fn take_catalog(uplink: &Arc<Uplink>, gate: &Gate, released: Released) -> Result<()> {
    let plugins = Arc::clone(&gate.enter().await.plugins);
    let text = released.release.catalog.clone();
    match tokio::task::spawn_blocking(move || check(&text, &plugins)).await? {
        Ok(Checked { catalog, reads }) => {
            budgets::prepare(&gate.enter().await, &catalog).await;
            gate.swap(|edge| edge.with_catalog(catalog, reads)).await;
            *uplink.release_error.lock() = None;
            tracing::info!(release = released.seq, "a new catalogue serves");
            keep(uplink, released).await?;
        }
        Err(faults) => {
            let text = format!("release {}: the catalogue: {}", released.seq, in_words(&faults));
            tracing::error!("{text}; the one before goes on");
            *uplink.release_error.lock() = Some(text);
        }
    }
    Ok(())
}

/// Notes what runs, for a start without the centre.
async fn keep(uplink: &Arc<Uplink>, released: Released) -> Result<()> {
    *uplink.running.lock() = released.clone();
    let uplink = Arc::clone(uplink);
    tokio::task::spawn_blocking(move || keep_released(&uplink.outbox, &released)).await?
}

/// The note under which the outbox keeps what ran last.
const RUNNING: &str = "released";

fn keep_released(outbox: &RedbLog, released: &Released) -> Result<()> {
    Ok(outbox.keep_note(RUNNING, &serde_json::to_vec(released)?)?)
}

/// What ran last, as far as it was kept.
pub fn kept(outbox: &RedbLog) -> Result<Option<Released>> {
    Ok(outbox.note(RUNNING)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Puts a release in place of the one that serves. False where requests did not end in time: it is tried again later.
async fn replace(uplink: &Arc<Uplink>, gate: &Arc<Gate>, end: &Arc<End>, ready: Ready) -> Result<bool> {
    let before = uplink.take_backfill();
    tokio::task::spawn_blocking(move || drop(before)).await?;
    let Some(mut closed) = gate.close(PATIENCE).await else {
        *uplink.ready.lock() = Some(Ready { not_before: Instant::now() + PAUSE, ..ready });
        let edge = gate.enter().await;
        let uplink = Arc::clone(uplink);
        tokio::task::spawn_blocking(move || uplink.backfill_again(&edge)).await??;
        return Ok(false);
    };
    let Ready { released, loaded, .. } = ready;
    // A shard that was filled meanwhile may have begun it again: it must not write what the next one reads.
    let (before, again) = (closed.serving(), uplink.take_backfill());
    let next = tokio::task::spawn_blocking(move || -> Result<Edge> {
        drop(again);
        let observer = Arc::new(loaded.observer(&before.metrics));
        let shards = before.shards.renew(Arc::clone(&observer) as Arc<dyn Observer>)?;
        Edge::assemble(Arc::clone(&before.house), loaded, observer, Arc::new(shards))
    });
    let next = Arc::new(next.await??);
    let (backfill, shards, metrics) = (Arc::clone(&next.backfill), Arc::clone(&next.shards), Arc::clone(&next.metrics));
    closed.replace(next);
    drop(closed);
    uplink.keep_backfill(backfill::Thread::spawn(backfill, shards, metrics, Some(Arc::clone(end)))?);
    keep(uplink, released).await?;
    Ok(true)
}

/// A release that is loaded and waits to take its place.
pub struct Ready {
    released: Released,
    loaded: Loaded,
    /// Requests under way did not end: so long is waited before they are held up again.
    not_before: Instant,
}
