//! The centre's log as a trait: what a store must promise.

use std::path::Path;

use async_trait::async_trait;
use selvedge_core::change::Digest;
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::sync::{Entry, Head, Origin, Push, Pushed};
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};

use crate::LogError;

/// The control shard: catalogue, plugins, configuration.
pub const CONTROL: ShardId = ShardId(SHARDS);
/// How many shards the centre orders: the data shards and [`CONTROL`].
pub const LOGS: u16 = SHARDS + 1;
/// Bytes of a change at most.
pub const CHANGE_BYTES_MAX: usize = selvedge_core::sync::bounds::CHANGE_BYTES_MAX;
/// Changes of a push at most.
pub const PUSH_CHANGES_MAX: usize = 10_000;
/// Bytes of a chunk of a snapshot at most.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Chunks of a snapshot at most.
pub const CHUNKS_MAX: usize = 65_536;
/// Bytes of a blob at most.
pub const BLOB_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a note at most.
pub const NOTE_BYTES_MAX: usize = 1024 * 1024;
/// Notes that one question gives at most.
pub const NOTES_MAX: usize = 10_000;
/// The note that tells of [gaps](Gap); [`decode_gaps`] reads it.
pub const GAPS: &str = "gaps";
/// Gaps that are remembered, the newest.
pub const GAPS_MAX: usize = 1_000;

/// A push with what the log needs to know of its changes, which it does not look into.
#[derive(Clone, Debug)]
pub struct SealedPush {
    /// The push.
    pub push: Push,
    /// One for each change, in order.
    pub digests: Vec<Digest>,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The entries after the sequence asked for, in order, without a gap; none where that is the head.
    Entries {
        /// The log's epoch.
        epoch: u32,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Some of what was asked for is gone; a snapshot has it.
    Trimmed {
        /// The first entry that is left.
        first: u64,
    },
}

/// Names a snapshot while it is made and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotId {
    /// Whose.
    pub shard: ShardId,
    /// Drawn at random by whoever makes it, so that two that are made at once do not mix.
    pub number: u64,
}

/// A chunk of a snapshot, as its manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Its length.
    pub bytes: u32,
    /// XXH3 of its bytes.
    pub hash: u128,
}

/// A snapshot of a shard: what was at a place of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// Its name.
    pub id: SnapshotId,
    /// The epoch in which it is valid. The store moves it on when the log's epoch changes: what it holds is still a beginning of the log.
    pub epoch: u32,
    /// The last entry that it holds.
    pub seq: u64,
    /// The log's checksum at that entry.
    pub checksum: u64,
    /// What its maker says to its reader.
    pub head: Vec<u8>,
    /// Its chunks, in order.
    pub chunks: Vec<SnapshotChunk>,
}

/// Up to where the centre calls its log stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StablePolicy {
    /// What is committed is stable: the store survives what is to be survived.
    #[default]
    Commit,
    /// What [`CentralLog::set_stable`] said, as a backup does: edges keep what a restore of the newest backup would lose.
    Backup,
}

/// Numbers of an origin that the centre never got and nobody has any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose log.
    pub shard: ShardId,
    /// Whose changes.
    pub origin: Origin,
    /// The first that is missing.
    pub first: u64,
    /// The last that is missing.
    pub last: u64,
}

/// How far a long operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, as far as it is known.
    pub total: u64,
}

/// The ordered log of all shards, and what belongs to it.
///
/// A future that is dropped leaves its operation done or not done, never half.
#[async_trait]
pub trait CentralLog: Send + Sync {
    /// A random name of this very log, made when it was first opened; an edge of another is told apart by it.
    fn id(&self) -> &str;

    /// Where every log stands, by shard; [`LOGS`] of them.
    async fn heads(&self) -> Result<Vec<Head>, LogError>;

    /// Appends pushes, in order, each by itself as a whole or not at all; says what became of each. What was taken is durable when this returns.
    ///
    /// A push in another epoch is not taken; one that does not begin at the origin's watermark is [behind](Pushed::Behind), unless it skips a gap,
    /// which is then noted under [`GAPS`]. The centre's own changes have no watermark. A change whose id the shard has seen is not appended
    /// again; it is answered with the sequence of the first one, and counts for the watermark.
    ///
    /// An error tells nothing: what was sent may be in the log. Sent again, it is told apart by the watermark.
    async fn append(&self, pushes: Vec<SealedPush>) -> Result<Vec<Pushed>, LogError>;

    /// The entries of a shard after a sequence, in order, up to about so many bytes; at least one, if there is one.
    async fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Read, LogError>;

    /// Waits until one of these shards is elsewhere than was seen, further or in another epoch, and gives all heads. Returns at once where that is so
    /// already; nothing is missed between two calls.
    async fn wait_head(&self, seen: &[(ShardId, Cursor)]) -> Result<Vec<Head>, LogError>;

    /// The last number taken of an origin; 0 of one that is not known.
    async fn watermark(&self, shard: ShardId, origin: Origin) -> Result<u64, LogError>;

    /// Keeps a chunk of a snapshot that is being made.
    async fn put_chunk(&self, id: SnapshotId, index: u32, bytes: Vec<u8>) -> Result<(), LogError>;

    /// Makes a snapshot, whose chunks are there, the shard's newest. The one before is kept, so that its readers can end; older ones go, and so does what
    /// never became one.
    async fn put_snapshot(&self, manifest: SnapshotManifest) -> Result<(), LogError>;

    /// The newest snapshot of a shard.
    async fn snapshot(&self, shard: ShardId) -> Result<Option<SnapshotManifest>, LogError>;

    /// A chunk of a snapshot; none where the snapshot is gone.
    async fn chunk(&self, id: SnapshotId, index: u32) -> Result<Option<Vec<u8>>, LogError>;

    /// Removes every snapshot of a shard but the newest, whoever reads it: for what an erasure must not leave.
    async fn drop_older_snapshots(&self, shard: ShardId) -> Result<(), LogError>;

    /// Removes the entries up to a sequence, but none that the newest snapshot does not hold; gives the first that is left.
    async fn trim(&self, shard: ShardId, up_to: u64) -> Result<u64, LogError>;

    /// Begins another epoch in all shards, and gives it. It is the second of the change since 1970, or the next number if that is higher: one
    /// backup restored twice gives two epochs.
    async fn bump_epoch(&self) -> Result<u32, LogError>;

    /// Puts other bytes in place of entries' bytes; gives how many were there. The caller sees to it that envelopes stay, and with them the checksum;
    /// sequence, origin and number stay, and so do the ids: a late duplicate is still known.
    async fn erase(&self, shard: ShardId, replacements: Vec<(u64, Vec<u8>)>) -> Result<u64, LogError>;

    /// Keeps a blob under its SHA-256. The caller has computed it.
    async fn put_blob(&self, sha256: [u8; 32], bytes: Vec<u8>) -> Result<(), LogError>;

    /// A blob.
    async fn blob(&self, sha256: [u8; 32]) -> Result<Option<Vec<u8>>, LogError>;

    /// Keeps a note under its name, in place of the one before.
    async fn put_note(&self, name: &str, bytes: Vec<u8>) -> Result<(), LogError>;

    /// Forgets a note.
    async fn remove_note(&self, name: &str) -> Result<(), LogError>;

    /// A note.
    async fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError>;

    /// The notes whose names begin so, by name, the first [`NOTES_MAX`].
    async fn notes(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LogError>;

    /// Says up to where the log is stable; never backwards, never beyond the head. Without effect under [`StablePolicy::Commit`].
    async fn set_stable(&self, heads: &[(ShardId, u64)]) -> Result<(), LogError>;

    /// Writes a consistent copy to a file that is not there yet, while the log serves, and gives the heads that it holds. Whoever opens
    /// the copy opens another epoch. Under [`StablePolicy::Backup`] these heads become stable.
    async fn backup(
        &self,
        to: &Path,
        progress: Box<dyn FnMut(Progress) + Send>,
    ) -> Result<Vec<(ShardId, Cursor)>, LogError>;
}

/// Reads the note [`GAPS`].
pub fn decode_gaps(bytes: &[u8]) -> Vec<Gap> {
    // Written by this crate alone; another version's is not worth a failure.
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// The note [`GAPS`] with further ones.
pub(crate) fn with_gaps(note: Option<&[u8]>, more: &[Gap]) -> Vec<u8> {
    let mut gaps = note.map(decode_gaps).unwrap_or_default();
    gaps.extend_from_slice(more);
    let gone = gaps.len().saturating_sub(GAPS_MAX);
    gaps.drain(..gone);
    postcard::to_stdvec(&gaps).unwrap_or_default()
}

/// What a store knows when it looks at a push.
pub(crate) struct Standing {
    /// The log's epoch.
    pub epoch: u32,
    /// The log's last entry.
    pub head: u64,
    /// The origin's watermark.
    pub watermark: u64,
}

/// Why a push is not taken; none where it is.
pub(crate) fn judge(sealed: &SealedPush, standing: &Standing) -> Option<Pushed> {
    let push = &sealed.push;
    if push.epoch != standing.epoch {
        return Some(Pushed::Epoch { epoch: standing.epoch });
    }
    if push.origin != Origin::CENTRE
        && push.predecessor != standing.watermark
        && !(push.skips && push.predecessor > standing.watermark)
    {
        return Some(Pushed::Behind { watermark: standing.watermark, head: standing.head });
    }
    None
}

/// Why a push can never be taken, whatever the log holds; looked at before anything else.
pub(crate) fn refuse(sealed: &SealedPush) -> Option<Pushed> {
    let push = &sealed.push;
    let refused = |index: usize, reason: String| Some(Pushed::Refused { index, reason });
    if push.shard.0 >= LOGS {
        return refused(0, format!("there is no shard {}; the last is {}", push.shard.0, CONTROL.0));
    }
    if push.changes.len() > PUSH_CHANGES_MAX {
        return refused(PUSH_CHANGES_MAX, format!("a push holds at most {PUSH_CHANGES_MAX} changes"));
    }
    if sealed.digests.len() != push.changes.len() {
        return refused(sealed.digests.len().min(push.changes.len()), "the change has no digest".into());
    }
    // The databases count in signed numbers.
    if push.predecessor > i64::MAX.unsigned_abs() - PUSH_CHANGES_MAX as u64 {
        return refused(0, "the number is out of range".into());
    }
    for (index, (change, digest)) in push.changes.iter().zip(&sealed.digests).enumerate() {
        if change.len() > CHANGE_BYTES_MAX {
            return refused(index, format!("a change has at most {CHANGE_BYTES_MAX} bytes, this one {}", change.len()));
        }
        if let Some(shard) = digest.shard.filter(|shard| *shard != push.shard) {
            return refused(index, format!("it belongs to shard {}, not {}", shard.0, push.shard.0));
        }
    }
    None
}

/// The epoch after one.
pub(crate) fn next_epoch(epoch: u32) -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    epoch.saturating_add(1).max(u32::try_from(now).unwrap_or(0))
}

/// Refuses what is larger than it may be.
pub(crate) fn bounded(what: &str, size: usize, max: usize) -> Result<(), LogError> {
    if size > max { Err(LogError::TooLarge { what: what.to_owned(), size, max }) } else { Ok(()) }
}

/// Refuses a manifest that cannot become a shard's newest.
pub(crate) fn check_manifest(
    manifest: &SnapshotManifest,
    head: Cursor,
    newest: Option<&SnapshotManifest>,
) -> Result<(), LogError> {
    bounded("the snapshot's list of chunks", manifest.chunks.len(), CHUNKS_MAX)?;
    bounded("the snapshot's head", manifest.head.len(), NOTE_BYTES_MAX)?;
    if manifest.epoch != head.epoch {
        return Err(LogError::Snapshot(format!(
            "it was made in epoch {}, the log is in {}; make it again",
            manifest.epoch, head.epoch
        )));
    }
    if manifest.seq > head.seq {
        return Err(LogError::Snapshot(format!(
            "it ends at {}, the log at {}; it is of another log",
            manifest.seq, head.seq
        )));
    }
    match newest {
        Some(newest) if newest.id == manifest.id => {
            Err(LogError::Snapshot("there is one of this number; draw another".into()))
        }
        Some(newest) if newest.seq > manifest.seq => Err(LogError::Snapshot(format!(
            "there is one that ends at {}, this one ends at {}; nothing to do",
            newest.seq, manifest.seq
        ))),
        _ => Ok(()),
    }
}

/// Whether a shard is one that the centre orders.
pub(crate) fn known(shard: ShardId) -> Result<usize, LogError> {
    if shard.0 < LOGS {
        Ok(usize::from(shard.0))
    } else {
        Err(LogError::Configuration(format!("there is no shard {}; the last is {}", shard.0, CONTROL.0)))
    }
}
