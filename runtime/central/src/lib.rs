//! The central log: what everybody agrees on.
//!
//! For each shard an ordered, gapless, durable sequence of changes. Everything else can be rebuilt from it. This crate owns order and
//! durability; it does not look into the changes, which are bytes to it, and it knows neither shards' state nor HTTP.
//!
//! Two roles. [`CentralLog`] is the centre's: it takes changes of many edges, knows which it has taken before, and keeps what edges bootstrap
//! from; [`RedbCentral`] holds it in one file, `PostgresCentral` in a database that several centres share. [`RedbLog`] is what one process
//! appends to itself: the log of an edge with its embedded centre, and the outbox of an edge that follows a centre.

mod central;
mod postgres;
mod redb;
mod tail;

use selvedge_core::identity::ShardId;
use tokio::sync::oneshot;

pub use self::central::{
    BLOB_BYTES_MAX, CHANGE_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, CONTROL, CentralLog, GAPS, GAPS_MAX, Gap, LOGS,
    NOTE_BYTES_MAX, NOTES_MAX, PUSH_CHANGES_MAX, Progress, Read, SealedPush, SnapshotChunk, SnapshotId,
    SnapshotManifest, StablePolicy, decode_gaps,
};
pub use self::postgres::{PostgresCentral, PostgresOptions};
pub use self::redb::{CentralOptions, DigestOf, Noted, RedbCentral, RedbLog};

/// Why the log could not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Another process has it open.
    #[error("{0} is open in another process; stop that one, or use another data directory")]
    InUse(String),
    /// Written by a version whose format this one does not read.
    #[error("{0} has format {1}, this version reads {2}; open it with the version that wrote it")]
    Format(String, u32, u32),
    /// The store failed; whoever waits for durability does not get it.
    #[error("the log failed: {0}")]
    Store(String),
    /// The database cannot be reached, or broke off. What was asked may have happened or not; it may be asked again.
    #[error("the database does not answer: {0}; try again")]
    Unavailable(String),
    /// The log was closed, or failed before.
    #[error("the log is closed")]
    Closed,
    /// Larger than the log keeps.
    #[error("{what} has {size}, at most {max} are kept")]
    TooLarge {
        /// What it is.
        what: String,
        /// How large.
        size: usize,
        /// What is allowed.
        max: usize,
    },
    /// The snapshot cannot be kept; one that can is there, or must be made again.
    #[error("the snapshot was not kept: {0}")]
    Snapshot(String),
    /// An entry that is in the log cannot be read.
    #[error("entry {seq} of shard {shard}: {reason}")]
    Entry {
        /// Whose log.
        shard: u16,
        /// Which entry.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// What this store does not do itself.
    #[error("{0}")]
    Unsupported(String),
    /// What was configured cannot work.
    #[error("{0}")]
    Configuration(String),
}

/// An entry of a log that one process appends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEntry {
    /// Counted from 1, without gaps.
    pub seq: u64,
    /// The change's bytes.
    pub bytes: Vec<u8>,
}

/// Entries of one shard that a commit made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Whose.
    pub shard: ShardId,
    /// The sequence of the first one.
    pub first_seq: u64,
    /// How many.
    pub count: usize,
}

/// Resolves once everything appended before it is durable, or cannot be.
#[derive(Debug)]
pub struct Barrier(oneshot::Receiver<Result<(), LogError>>);

impl Barrier {
    /// Waits without blocking the thread.
    pub async fn wait(self) -> Result<(), LogError> {
        self.0.await.unwrap_or(Err(LogError::Closed))
    }

    /// Waits, blocking the thread.
    pub fn wait_blocking(self) -> Result<(), LogError> {
        self.0.blocking_recv().unwrap_or(Err(LogError::Closed))
    }
}
