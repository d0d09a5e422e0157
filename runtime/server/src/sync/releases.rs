//! Releases at an edge: what the centre has released is fetched, compiled and checked beside what serves, then takes its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use selvedge_core::change::Change;
use selvedge_core::release::Release;
use selvedge_shard::Observer;

use super::Uplink;
use super::client::Centre;
use super::wire::Released;
use crate::app::threads;
use crate::backfill;
use crate::edge::Edge;
use crate::gate::Gate;
use crate::release::{Bundle, hash, hex, parse_hash};
use crate::serve::End;

/// How long requests under way may take when a release takes the place of another; new ones wait for so long.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// Sees to it that the newest release runs, where the centre has a newer one: before anything is folded that follows its activation.
pub async fn keep_up(uplink: &Arc<Uplink>, gate: &Arc<Gate>, end: &Arc<End>, activations: &[Arc<[u8]>]) {
    let running = uplink.running.lock().seq;
    let said = uplink.control_head.load(Ordering::Relaxed);
    let other = activations.iter().any(|activation| **activation != **uplink.activation.lock());
    if said <= running && !other {
        return;
    }
    // One that was tried and does not load is not tried again, until there is another.
    if said <= uplink.refused.load(Ordering::Relaxed) {
        return;
    }
    let released = match uplink.centre.release(&uplink.cluster).await {
        Ok(released) if released.seq > running => released,
        Ok(_) => return,
        Err(error) => return uplink.note_error("asking for the release", &error),
    };
    let seq = released.seq;
    match take(uplink, gate, end, released).await {
        Ok(true) => {
            *uplink.release_error.lock() = None;
            tracing::info!(release = seq, "a new release serves");
        }
        Ok(false) => {}
        Err(error) => {
            let text = format!("release {seq}: {error:#}");
            tracing::error!("{text}; the one before goes on");
            *uplink.release_error.lock() = Some(text);
            uplink.refused.store(seq, Ordering::Relaxed);
        }
    }
    uplink.reportable.notify_one();
}

/// Puts a release in place of the one that serves. False where requests did not end in time: it is tried again.
async fn take(uplink: &Arc<Uplink>, gate: &Arc<Gate>, end: &Arc<End>, released: Released) -> Result<bool> {
    let kept = uplink.ready.lock().take().filter(|(seq, _)| *seq == released.seq);
    let loaded = match kept {
        Some((_, loaded)) => loaded,
        None => {
            let bundle = fetch(&uplink.centre, &uplink.cluster, &uplink.plugins, &released.release).await?;
            tokio::task::spawn_blocking(move || bundle.load(threads())).await??
        }
    };
    let Some(mut closed) = gate.close(PATIENCE).await else {
        *uplink.ready.lock() = Some((released.seq, loaded));
        return Ok(false);
    };
    uplink.keep_backfill(None);
    let activation = Change::Activate(loaded.activation.clone()).encode();
    let before = closed.serving();
    let next = tokio::task::spawn_blocking(move || -> Result<Edge> {
        let observer = Arc::new(loaded.observer(&before.metrics));
        let shards = before.shards.renew(Arc::clone(&observer) as Arc<dyn Observer>)?;
        Edge::assemble(Arc::clone(&before.house), loaded, observer, Arc::new(shards))
    });
    let next = Arc::new(next.await??);
    let (backfill, shards, metrics) = (Arc::clone(&next.backfill), Arc::clone(&next.shards), Arc::clone(&next.metrics));
    closed.replace(next);
    drop(closed);
    uplink.keep_backfill(Some(backfill::Thread::spawn(backfill, shards, metrics, Some(Arc::clone(end)))?));
    *uplink.running.lock() = released;
    *uplink.activation.lock() = activation;
    Ok(true)
}
