//! Checkpoints: the bases on disk for good, and the outbox without what neither a crash here nor one at the centre can lose.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use selvedge_core::identity::ShardId;
use selvedge_core::view::Cursor;

use super::{CHECKPOINTS, Uplink, jittered};
use crate::edge::Edge;
use crate::gate::Gate;
use crate::serve::End;

/// How often, about.
const EVERY: Duration = Duration::from_secs(10);

/// Makes checkpoints until the process ends.
pub async fn run(uplink: Arc<Uplink>, gate: Arc<Gate>, end: Arc<End>) {
    loop {
        uplink.beat(CHECKPOINTS);
        tokio::time::sleep(jittered(EVERY)).await;
        let (uplink, edge) = (Arc::clone(&uplink), gate.enter().await);
        match tokio::task::spawn_blocking(move || make(&uplink, &edge)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return end.fail(format!("checkpoint: {error:#}")),
            Err(error) => return end.fail(format!("checkpoint: {error}")),
        }
    }
}

/// Makes one. Blocks on the disk.
pub fn make(uplink: &Uplink, edge: &Edge) -> Result<()> {
    let covered = edge.shards.checkpoint(&[])?;
    let mut trims = Vec::new();
    for shard in ShardId::all() {
        let mut cell = uplink.cell(shard).lock();
        let droppable = if uplink.shards.holds(shard) {
            let Some(cursor) = covered.iter().find(|covered| covered.shard == shard).map(|covered| covered.cursor)
            else {
                continue;
            };
            cell.kept = cursor;
            let Some(head) = cell.replica.head().copied() else { continue };
            // Of another epoch, or of a base that was replaced since.
            if cursor.epoch != head.epoch
                || cursor.epoch != cell.forwarder.epoch()
                || cursor.seq > cell.replica.cursor().seq
            {
                continue;
            }
            cell.forwarder.droppable(cursor, &head)
        } else {
            // There is no base here, so no checkpoint has to cover it.
            let Some(head) = cell.beside else { continue };
            cell.forwarder.droppable(Cursor { epoch: head.epoch, seq: u64::MAX }, &head)
        };
        if droppable > cell.trimmed {
            cell.trimmed = droppable;
            trims.push((shard, droppable));
        }
    }
    if trims.is_empty() {
        return Ok(());
    }
    uplink.outbox.trim(&trims).wait_blocking()?;
    for (shard, local) in trims {
        uplink.cell(shard).lock().forwarder.on_trimmed(local);
    }
    Ok(())
}
