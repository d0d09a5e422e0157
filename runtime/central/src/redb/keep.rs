//! What the centre keeps besides the log: snapshots, blobs, notes. What is large lies in pieces that redb stores without waste.

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use selvedge_core::identity::ShardId;
use selvedge_core::view::Cursor;

use super::{corrupt, store};
use crate::LogError;
use crate::central::{GAPS, Gap, NOTES_MAX, SnapshotChunk, SnapshotId, SnapshotManifest, check_manifest, with_gaps};

/// Manifests by shard and age: 0 is the newest, 1 the one before.
pub(super) const SNAPSHOTS: TableDefinition<(u16, u8), &[u8]> = TableDefinition::new("snapshots");
/// Pieces of chunks by shard, number, chunk and piece.
pub(super) const CHUNKS: TableDefinition<(u16, u64, u32, u32), &[u8]> = TableDefinition::new("chunks");
/// Pieces of blobs.
pub(super) const BLOBS: TableDefinition<([u8; 32], u32), &[u8]> = TableDefinition::new("blobs");
pub(super) const NOTES: TableDefinition<&str, &[u8]> = TableDefinition::new("notes");

/// Bytes of a piece: a little less than a power of two, which is what redb makes room for.
const PIECE_BYTES: usize = 64 * 1024 - 512;

pub(super) fn create(write: &WriteTransaction) -> Result<(), LogError> {
    write.open_table(SNAPSHOTS).map_err(store)?;
    write.open_table(CHUNKS).map_err(store)?;
    write.open_table(BLOBS).map_err(store)?;
    write.open_table(NOTES).map_err(store)?;
    Ok(())
}

/// The pieces of what is large; one of nothing.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let empty = bytes.is_empty().then_some((0, bytes));
    empty.into_iter().chain((0..).zip(bytes.chunks(PIECE_BYTES)))
}

pub(super) fn put_chunk(write: &WriteTransaction, id: SnapshotId, index: u32, bytes: &[u8]) -> Result<(), LogError> {
    let mut table = write.open_table(CHUNKS).map_err(store)?;
    let (shard, number) = (id.shard.0, id.number);
    // Of a longer one that was put before, nothing stays.
    table.retain_in((shard, number, index, 0)..=(shard, number, index, u32::MAX), |_, _| false).map_err(store)?;
    for (piece, bytes) in pieces(bytes) {
        table.insert((shard, number, index, piece), bytes).map_err(store)?;
    }
    Ok(())
}

pub(super) fn chunk(read: &ReadTransaction, id: SnapshotId, index: u32) -> Result<Option<Vec<u8>>, LogError> {
    let table = read.open_table(CHUNKS).map_err(store)?;
    let (shard, number) = (id.shard.0, id.number);
    let mut whole = None;
    for row in table.range((shard, number, index, 0)..=(shard, number, index, u32::MAX)).map_err(store)? {
        whole.get_or_insert_with(Vec::new).extend_from_slice(row.map_err(store)?.1.value());
    }
    Ok(whole)
}

fn manifest_at(
    table: &impl ReadableTable<(u16, u8), &'static [u8]>,
    shard: u16,
    age: u8,
) -> Result<Option<SnapshotManifest>, LogError> {
    let Some(bytes) = table.get((shard, age)).map_err(store)? else { return Ok(None) };
    postcard::from_bytes(bytes.value()).map(Some).map_err(|_| corrupt("a snapshot's manifest"))
}

fn encode(manifest: &SnapshotManifest) -> Result<Vec<u8>, LogError> {
    postcard::to_stdvec(manifest).map_err(store)
}

/// The newest snapshot of a shard.
pub(super) fn newest(read: &ReadTransaction, shard: ShardId) -> Result<Option<SnapshotManifest>, LogError> {
    manifest_at(&read.open_table(SNAPSHOTS).map_err(store)?, shard.0, 0)
}

pub(super) fn put_snapshot(
    write: &WriteTransaction,
    manifest: &SnapshotManifest,
    head: Cursor,
) -> Result<(), LogError> {
    let shard = manifest.id.shard.0;
    let mut table = write.open_table(SNAPSHOTS).map_err(store)?;
    let before = manifest_at(&table, shard, 0)?;
    check_manifest(manifest, head, before.as_ref())?;
    check_chunks(write, manifest)?;
    table.insert((shard, 0), encode(manifest)?.as_slice()).map_err(store)?;
    let mut kept = vec![manifest.id.number];
    if let Some(before) = before {
        kept.push(before.id.number);
        table.insert((shard, 1), encode(&before)?.as_slice()).map_err(store)?;
    }
    drop(table);
    drop_chunks(write, shard, &kept)
}

/// Whether all chunks that a manifest names are there, in their lengths.
fn check_chunks(write: &WriteTransaction, manifest: &SnapshotManifest) -> Result<(), LogError> {
    let table = write.open_table(CHUNKS).map_err(store)?;
    let SnapshotId { shard, number } = manifest.id;
    let mut lengths: Vec<Option<u64>> = vec![None; manifest.chunks.len()];
    for row in table.range((shard.0, number, 0, 0)..=(shard.0, number, u32::MAX, u32::MAX)).map_err(store)? {
        let (key, piece) = row.map_err(store)?;
        let Some(length) = usize::try_from(key.value().2).ok().and_then(|index| lengths.get_mut(index)) else {
            return Err(LogError::Snapshot("it has chunks that its manifest does not name".into()));
        };
        *length = Some(length.unwrap_or(0) + piece.value().len() as u64);
    }
    let there =
        |(SnapshotChunk { bytes, .. }, length): (&SnapshotChunk, &Option<u64>)| *length == Some(u64::from(*bytes));
    match manifest.chunks.iter().zip(&lengths).position(|chunk| !there(chunk)) {
        Some(index) => Err(LogError::Snapshot(format!("its chunk {index} is not there, or has another length"))),
        None => Ok(()),
    }
}

fn drop_chunks(write: &WriteTransaction, shard: u16, kept: &[u64]) -> Result<(), LogError> {
    let mut table = write.open_table(CHUNKS).map_err(store)?;
    let all = (shard, 0, 0, 0)..=(shard, u64::MAX, u32::MAX, u32::MAX);
    table.retain_in(all, |key, _| kept.contains(&key.1)).map_err(store)
}

pub(super) fn drop_older(write: &WriteTransaction, shard: ShardId) -> Result<(), LogError> {
    let mut table = write.open_table(SNAPSHOTS).map_err(store)?;
    table.remove((shard.0, 1)).map_err(store)?;
    let newest = manifest_at(&table, shard.0, 0)?;
    drop(table);
    drop_chunks(write, shard.0, &newest.map(|manifest| manifest.id.number).into_iter().collect::<Vec<_>>())
}

/// Moves all snapshots into another epoch.
pub(super) fn move_snapshots(write: &WriteTransaction, epoch: u32) -> Result<(), LogError> {
    let mut table = write.open_table(SNAPSHOTS).map_err(store)?;
    let mut keys = Vec::new();
    for row in table.iter().map_err(store)? {
        keys.push(row.map_err(store)?.0.value());
    }
    for (shard, age) in keys {
        if let Some(mut manifest) = manifest_at(&table, shard, age)? {
            manifest.epoch = epoch;
            table.insert((shard, age), encode(&manifest)?.as_slice()).map_err(store)?;
        }
    }
    Ok(())
}

pub(super) fn put_blob(write: &WriteTransaction, sha256: [u8; 32], bytes: &[u8]) -> Result<(), LogError> {
    let mut table = write.open_table(BLOBS).map_err(store)?;
    table.retain_in((sha256, 0)..=(sha256, u32::MAX), |_, _| false).map_err(store)?;
    for (piece, bytes) in pieces(bytes) {
        table.insert((sha256, piece), bytes).map_err(store)?;
    }
    Ok(())
}

pub(super) fn blob(read: &ReadTransaction, sha256: [u8; 32]) -> Result<Option<Vec<u8>>, LogError> {
    let table = read.open_table(BLOBS).map_err(store)?;
    let mut whole = None;
    for row in table.range((sha256, 0)..=(sha256, u32::MAX)).map_err(store)? {
        whole.get_or_insert_with(Vec::new).extend_from_slice(row.map_err(store)?.1.value());
    }
    Ok(whole)
}

pub(super) fn put_note(write: &WriteTransaction, name: &str, bytes: &[u8]) -> Result<(), LogError> {
    write.open_table(NOTES).map_err(store)?.insert(name, bytes).map_err(store)?;
    Ok(())
}

pub(super) fn remove_note(write: &WriteTransaction, name: &str) -> Result<(), LogError> {
    write.open_table(NOTES).map_err(store)?.remove(name).map_err(store)?;
    Ok(())
}

pub(super) fn note(read: &ReadTransaction, name: &str) -> Result<Option<Vec<u8>>, LogError> {
    let table = read.open_table(NOTES).map_err(store)?;
    Ok(table.get(name).map_err(store)?.map(|bytes| bytes.value().to_vec()))
}

pub(super) fn notes(read: &ReadTransaction, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LogError> {
    let table = read.open_table(NOTES).map_err(store)?;
    let mut notes = Vec::new();
    for row in table.range(prefix..).map_err(store)? {
        let (name, bytes) = row.map_err(store)?;
        if !name.value().starts_with(prefix) || notes.len() >= NOTES_MAX {
            break;
        }
        notes.push((name.value().to_owned(), bytes.value().to_vec()));
    }
    Ok(notes)
}

pub(super) fn note_gaps(write: &WriteTransaction, gaps: &[Gap]) -> Result<(), LogError> {
    let mut table = write.open_table(NOTES).map_err(store)?;
    let note = with_gaps(table.get(GAPS).map_err(store)?.map(|note| note.value().to_vec()).as_deref(), gaps);
    table.insert(GAPS, note.as_slice()).map_err(store)?;
    Ok(())
}
