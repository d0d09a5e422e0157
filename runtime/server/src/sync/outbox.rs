//! The outbox: this edge's own changes on its disk, until the centre has them for good.

use std::path::Path;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result};
use selvedge_central::{Committed, LogError, RedbLog};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::Origin;
use selvedge_core::sync::forwarder::Boots;

use crate::ids::random_name;
use crate::serve::End;

/// The note under which the starts of this edge are kept.
const BOOTS: &str = "boots";
/// Bytes of a segment: what is trimmed frees its room one by one.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// The outbox as it was opened.
pub struct Outbox {
    pub log: Arc<RedbLog>,
    pub boots: Boots,
}

/// Opens the outbox and begins a start of this edge. Tells of whatever is committed to it from here on.
pub fn open(path: &Path, end: Arc<End>) -> Result<(Outbox, mpsc::Receiver<Vec<Committed>>)> {
    let (commits, committed) = mpsc::channel();
    let on_commit = Box::new(move |committed: &[Committed]| {
        // The receiver ends after the log.
        let _ = commits.send(committed.to_vec());
    });
    let on_failure = Box::new(move |error: LogError| end.fail(format!("the outbox: {error}")));
    let log = RedbLog::open_with(path, &random_name()?, SEGMENT_BYTES, on_commit, on_failure)?;
    let mut boots = match log.note(BOOTS)? {
        Some(bytes) => Boots::decode(&bytes)?,
        None => Boots::default(),
    };
    let heads = log.heads()?;
    let trimmed = ShardId::all().map(|shard| log.trimmed(shard)).collect::<Result<Vec<_>, _>>()?;
    let origin = Origin(getrandom::u64().context("read randomness")?.max(1));
    let last = |shard: ShardId| heads.get(usize::from(shard.0)).map_or(0, |head| head.seq);
    boots.begin(origin, last, |shard| trimmed.get(usize::from(shard.0)).copied().unwrap_or(0))?;
    // Before the first change of this start.
    log.keep_note(BOOTS, &boots.encode())?;
    Ok((Outbox { log: Arc::new(log), boots }, committed))
}

/// Changes of an outbox, with their numbers.
pub type Held = Vec<(u64, Vec<u8>)>;

/// All changes of a shard that the outbox holds, with their numbers. Blocks on the disk.
pub fn held_changes(outbox: &RedbLog, shard: ShardId) -> Result<Held> {
    let mut held = Vec::new();
    let mut after = 0;
    loop {
        let entries = outbox.read(shard, after, READ_BYTES)?;
        let Some(last) = entries.last() else { return Ok(held) };
        after = last.seq;
        held.extend(entries.into_iter().map(|entry| (entry.seq, entry.bytes)));
    }
}
