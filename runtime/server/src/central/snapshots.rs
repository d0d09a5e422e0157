//! Snapshots at the centre: made from its copy of the shards, and read back into it.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use selvedge_central::{LogError, SnapshotChunk, SnapshotId, SnapshotManifest};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::manifest::{Chunk, Manifest};
use selvedge_shard::{ShardError, Shards, SnapshotHead};
use tokio::sync::mpsc;

use super::Centre;

/// Bytes of a chunk before it is compressed, about.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// What the protocol says of a snapshot that is kept; `reads` is the version of changes that everybody reads, so that none in it is newer.
pub fn manifest(kept: &SnapshotManifest, reads: u16) -> Manifest {
    Manifest {
        shard: kept.id.shard,
        epoch: kept.epoch,
        seq: kept.seq,
        checksum: kept.checksum,
        reads,
        head: kept.head.clone(),
        chunks: kept.chunks.iter().map(|chunk| Chunk { bytes: chunk.bytes, hash: chunk.hash }).collect(),
    }
}

/// Makes a snapshot, unless somebody else, here or at another centre over the same store, has a newer one or is making it. Gives up to where the newest goes.
pub async fn make_if_newer(centre: &Arc<Centre>, shards: &Arc<Shards>, shard: ShardId) -> Result<u64> {
    let _alone = centre.copy.snapshotting.lock().await;
    let kept = centre.log.snapshot(shard).await?.map_or(0, |kept| kept.seq);
    if kept > 0 && kept >= shards.cursor(shard).seq {
        centre.copy.note_snapshot(shard, kept);
        return Ok(kept);
    }
    match make(centre, shards, shard).await {
        Err(error) if matches!(error.downcast_ref(), Some(LogError::Snapshot(_))) => {
            tracing::warn!(shard = shard.0, "another centre was faster with a snapshot: {error}");
            let kept = centre.log.snapshot(shard).await?.map_or(0, |kept| kept.seq);
            centre.copy.note_snapshot(shard, kept);
            Ok(kept)
        }
        made => made,
    }
}

/// Makes a snapshot of a shard as the copy has it, and keeps it. Gives its sequence.
async fn make(centre: &Arc<Centre>, shards: &Arc<Shards>, shard: ShardId) -> Result<u64> {
    let id = SnapshotId { shard, number: getrandom::u64().context("read randomness")? };
    let (chunks, mut made) = mpsc::channel::<Vec<u8>>(2);
    let export = {
        let shards = Arc::clone(shards);
        tokio::task::spawn_blocking(move || {
            shards.export(shard, CHUNK_BYTES, &mut |chunk| {
                chunks.blocking_send(chunk).map_err(|_| ShardError::Disk("the snapshot was given up".into()))
            })
        })
    };
    let mut list = Vec::new();
    while let Some(chunk) = made.recv().await {
        let described = Chunk::of(&chunk).context("a chunk of a snapshot is larger than it may be")?;
        let index = u32::try_from(list.len())?;
        list.push(SnapshotChunk { bytes: described.bytes, hash: described.hash });
        centre.log.put_chunk(id, index, chunk).await?;
    }
    let head: SnapshotHead = export.await??;
    let (cursor, checksum) = (head.cursor, head.checksum);
    let manifest =
        SnapshotManifest { id, epoch: cursor.epoch, seq: cursor.seq, checksum, head: head.encode(), chunks: list };
    centre.log.put_snapshot(manifest).await?;
    centre.copy.note_snapshot(shard, cursor.seq);
    tracing::info!(shard = shard.0, seq = cursor.seq, fragments = head.fragments, "snapshot made");
    Ok(cursor.seq)
}

/// Loads the newest snapshot of a shard into the copy; empties the shard where there is none.
pub async fn load(centre: &Arc<Centre>, shards: &Arc<Shards>, shard: ShardId) -> Result<()> {
    let Some(kept) = centre.log.snapshot(shard).await? else {
        let shards = Arc::clone(shards);
        return Ok(tokio::task::spawn_blocking(move || shards.reset(shard)).await??);
    };
    let mut replacement = {
        let shards = Arc::clone(shards);
        tokio::task::spawn_blocking(move || shards.begin_replacement(shard)).await??
    };
    for (index, described) in (0_u32..).zip(&kept.chunks) {
        let Some(bytes) = centre.log.chunk(kept.id, index).await? else {
            bail!("a snapshot of shard {} went while it was read; there is a newer one", shard.0);
        };
        let described = Chunk { bytes: described.bytes, hash: described.hash };
        ensure!(
            described.is_of(&bytes),
            "chunk {index} of the snapshot of shard {} is damaged; make a new one",
            shard.0
        );
        replacement = tokio::task::spawn_blocking(move || replacement.take(&bytes).map(|()| replacement)).await??;
    }
    let mut head = SnapshotHead::decode(&kept.head)?;
    // What it holds is a beginning of the log in this epoch too.
    head.cursor.epoch = kept.epoch;
    let shards = Arc::clone(shards);
    Ok(tokio::task::spawn_blocking(move || shards.replace(replacement, &head, 0, Vec::new())).await??)
}
