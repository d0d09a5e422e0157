//! The central log: what everybody agrees on.
//!
//! For each shard an ordered, gapless, durable sequence of changes. Everything else on an edge can be rebuilt from it. This crate owns
//! order and durability; it does not look into the changes, which are bytes to it, and it knows neither shards' state nor HTTP.
//!
//! One process appends (an edge with its embedded centre); the trait is narrow, so that a database can take its place.

mod redb;

use std::sync::Arc;

use selvedge_core::identity::ShardId;
use selvedge_core::view::Cursor;
use tokio::sync::oneshot;

pub use self::redb::RedbLog;

/// Why the log could not serve.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// The log was closed, or failed before.
    #[error("the log is closed")]
    Closed,
}

/// An entry of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
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

/// The ordered log of changes.
pub trait CentralLog: Send + Sync {
    /// A random name of this very log, so that a client can tell it from another at the same address.
    fn id(&self) -> String;

    /// The last entry of each shard, by position.
    fn heads(&self) -> Result<Vec<Cursor>, LogError>;

    /// Appends changes to shards, each in order, behind everything appended to it before: after a crash all of them are there or none.
    /// Returns at once; what is not durable when the process dies is lost, so whoever promises durability waits for a
    /// [`barrier`](Self::barrier).
    fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), LogError>;

    /// A barrier behind everything appended so far, by whomever.
    fn barrier(&self) -> Barrier;

    /// The entries of a shard after a sequence, in order, up to about so many bytes (at least one entry, if there is one).
    fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError>;
}
