//! Filling a shard anew: from the newest snapshot, or from the log's beginning where there is none. What is held is served meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use selvedge_core::change::CHANGE_VERSION;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::backoff::Backoff;
use selvedge_core::view::Cursor;
use selvedge_shard::SnapshotHead;

use super::outbox::{Held, held_changes};
use super::{Uplink, jittered};
use crate::gate::Gate;

/// Within this time a base that was filled is not filled again.
const SOON: Duration = Duration::from_secs(5);

/// Tries until it is done.
pub async fn run(uplink: Arc<Uplink>, gate: Arc<Gate>, shard: ShardId) {
    let what = format!("loading shard {}", shard.0);
    let mut backoff = Backoff::new(getrandom::u64().unwrap_or(1));
    // A base that must be made anew as soon as it was made is not helped by haste.
    let before = uplink.cell(shard).lock().filled.replace(Instant::now());
    if before.is_some_and(|before| before.elapsed() < SOON) {
        tokio::time::sleep(jittered(SOON)).await;
    }
    loop {
        // Few at once, here and at the centre.
        let Ok(_place) = uplink.bootstraps.acquire().await else { return };
        match fill(&uplink, &gate, shard).await {
            Ok(()) => {
                uplink.clear_error(&what);
                break;
            }
            Err(error) => uplink.note_error(&what, &error),
        }
        drop(_place);
        tokio::time::sleep(Duration::from_millis(backoff.fail())).await;
    }
    uplink.bases_moved();
    // The stream passes over this shard until it is asked for again. Those that end together are asked for together.
    if uplink.filling.fetch_sub(1, Ordering::AcqRel) == 1 {
        uplink.restart.notify_one();
        // States that were folded by other plugins wait for their history.
        let edge = gate.enter().await;
        let again = tokio::task::spawn_blocking(move || uplink.backfill_again(&edge)).await;
        if let Ok(Err(error)) = again {
            tracing::error!("the backfill after a snapshot: {error:#}");
        }
    }
}

async fn fill(uplink: &Arc<Uplink>, gate: &Arc<Gate>, shard: ShardId) -> Result<()> {
    let snapshot = uplink.centre.snapshot(&uplink.cluster, shard).await?;
    let contact = uplink.now();
    uplink.cell(shard).lock().replica.on_contact(contact);
    let Some((number, manifest)) = snapshot else { return empty(uplink, gate, shard).await };
    ensure!(
        manifest.reads <= CHANGE_VERSION,
        "the snapshot needs a reader of version {}, this build reads {CHANGE_VERSION}; upgrade selvedge at this edge",
        manifest.reads
    );
    let edge = gate.enter().await;
    let mut replacement = tokio::task::spawn_blocking(move || edge.shards.begin_replacement(shard)).await??;
    for (index, chunk) in manifest.chunks.iter().enumerate() {
        let bytes = uplink.centre.chunk(&uplink.cluster, shard, number, index).await?;
        let bytes =
            bytes.context("a newer snapshot has taken the place of the one that was loaded; beginning again")?;
        ensure!(chunk.is_of(&bytes), "chunk {index} of the snapshot is not what its manifest names");
        let contact = uplink.now();
        uplink.cell(shard).lock().replica.on_contact(contact);
        replacement = tokio::task::spawn_blocking(move || replacement.take(&bytes).map(|()| replacement)).await??;
    }
    let mut head = SnapshotHead::decode(&manifest.head)?;
    // What it holds is a beginning of the log in this epoch too.
    head.cursor.epoch = manifest.epoch;
    ensure!(head.shard == shard && head.cursor == manifest.cursor(), "the snapshot is not what its manifest names");
    let (uplink, edge) = (Arc::clone(uplink), gate.enter().await);
    tokio::task::spawn_blocking(move || -> Result<()> {
        let (up_to, changes) = lacking(&uplink, shard, &head)?;
        edge.shards.replace(replacement, &head, up_to, changes)?;
        begin_again(&uplink, shard, edge.shards.place(shard));
        Ok(())
    })
    .await?
}

/// There is no snapshot: the shard begins at nothing.
async fn empty(uplink: &Arc<Uplink>, gate: &Arc<Gate>, shard: ShardId) -> Result<()> {
    let (uplink, edge) = (Arc::clone(uplink), gate.enter().await);
    tokio::task::spawn_blocking(move || -> Result<()> {
        let epoch = {
            let cell = uplink.cell(shard).lock();
            cell.replica.head().map_or(cell.log_epoch, |head| head.epoch)
        };
        if edge.shards.cursor(shard).seq > 0 {
            let replacement = edge.shards.begin_replacement(shard)?;
            let head = replacement.nothing(epoch);
            let (up_to, changes) = lacking(&uplink, shard, &head)?;
            edge.shards.replace(replacement, &head, up_to, changes)?;
        }
        begin_again(&uplink, shard, (Cursor { epoch, seq: 0 }, 0));
        Ok(())
    })
    .await?
}

/// What of the outbox a new base does not hold, and up to which number that was looked at.
fn lacking(uplink: &Uplink, shard: ShardId, head: &SnapshotHead) -> Result<(u64, Held)> {
    let held = head.origins.iter().filter_map(|(origin, applied)| uplink.boots.local(shard, *origin, applied.number));
    let held = held.max().unwrap_or(0);
    let mut changes = held_changes(&uplink.outbox, shard)?;
    let up_to = changes.last().map_or(held, |(local, _)| *local);
    changes.retain(|(local, _)| *local > held);
    Ok((up_to, changes))
}

fn begin_again(uplink: &Uplink, shard: ShardId, (cursor, checksum): (Cursor, u64)) {
    let mut cell = uplink.cell(shard).lock();
    cell.replica.on_bootstrapped(cursor, checksum);
    // What the old base had of this edge the new one may lack: it is pushed again, and told apart by its numbers.
    cell.forwarder.on_epoch(cursor.epoch);
    cell.settled = 0;
    uplink.pushable.notify_one();
}
