//! Erasures as an edge keeps them: what was asked for here, how far it is, and the log of an edge that is its own centre.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use selvedge_central::RedbLog;
use selvedge_core::change::Change;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock;

/// The note beside the log.
const NOTE: &str = "erasures";
/// Erasures that are remembered, the newest.
const RECEIPTS_MAX: usize = 1_000;
/// Bytes of the log that are looked through at once.
const READ_BYTES: usize = 1024 * 1024;

/// How far an erasure is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    pub id: String,
    pub at: String,
    /// Whom it concerns.
    pub identifiers: Vec<Identifier>,
    /// Whether every copy has it.
    pub done: bool,
    pub copies: Vec<CopyReceipt>,
}

/// One copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyReceipt {
    /// `(log)`, `(snapshots)`, or an edge's name.
    pub copy: String,
    pub done: bool,
    /// When it was first known to be done.
    pub at: Option<String>,
}

impl Receipt {
    pub fn new(id: String, at: Timestamp, identifiers: Vec<Identifier>, copies: Vec<CopyReceipt>) -> Self {
        let done = copies.iter().all(|copy| copy.done);
        Self { id, at: at.to_string(), identifiers, done, copies }
    }
}

/// An erasure that was asked for here.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Asked {
    id: String,
    at: Timestamp,
    identifiers: Vec<Identifier>,
    /// When the log of this very edge held nothing of it any more, where that is the log.
    log_at: Option<Timestamp>,
}

/// Those that were asked for here, oldest first. Kept beside the log.
#[derive(Default)]
pub struct Erasures(Mutex<Vec<Asked>>);

impl Erasures {
    /// Reads what is kept.
    pub fn open(log: &RedbLog) -> Result<Self> {
        let kept = log.note(NOTE)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self(Mutex::new(kept.unwrap_or_default())))
    }

    /// Keeps that one was asked for, or whom it concerns after all. Blocks on the disk.
    pub fn ask(&self, log: &RedbLog, id: String, at: Timestamp, identifiers: Vec<Identifier>) -> Result<()> {
        let mut all = self.0.lock();
        all.retain(|asked| asked.id != id);
        all.push(Asked { id, at, identifiers, log_at: None });
        let gone = all.len().saturating_sub(RECEIPTS_MAX);
        all.drain(..gone);
        Ok(log.keep_note(NOTE, &serde_json::to_vec(&*all)?)?)
    }

    /// How far one is at an edge that is its own centre; of one that follows a centre, that the centre does not have it yet.
    pub fn receipt(&self, id: &str, own_centre: bool) -> Option<Receipt> {
        let all = self.0.lock();
        let Asked { id, at, identifiers, log_at } = all.iter().find(|asked| asked.id == id)?.clone();
        let done = |copy: &str, at: Option<Timestamp>| CopyReceipt {
            copy: copy.to_owned(),
            done: at.is_some(),
            at: at.map(|at| at.to_string()),
        };
        let mut copies = vec![done("(log)", log_at)];
        if own_centre {
            // Its views forgot in the same moment in which it was admitted.
            copies.push(done("run", Some(at)));
        }
        Some(Receipt::new(id, at, identifiers, copies))
    }

    /// Replaces in the log of an edge that is its own centre what was erased and is not replaced yet. Blocks on the disk.
    pub fn clean(&self, log: &RedbLog) -> Result<()> {
        let open: Vec<Asked> = self.0.lock().iter().filter(|asked| asked.log_at.is_none()).cloned().collect();
        let mut owners: Vec<&Identifier> = open.iter().flat_map(|asked| &asked.identifiers).collect();
        owners.sort_unstable();
        owners.dedup();
        let mut shards: Vec<ShardId> = owners.iter().map(|owner| owner.shard()).collect();
        shards.sort_unstable();
        shards.dedup();
        // Of what was asked for and is not durable yet, the log does not say so.
        let mut found = BTreeSet::new();
        for shard in shards {
            let of_shard: Vec<&str> =
                owners.iter().filter(|owner| owner.shard() == shard).map(|owner| owner.as_str()).collect();
            found.extend(clean_shard(log, shard, &of_shard)?);
        }
        let mut all = self.0.lock();
        for asked in all.iter_mut().filter(|asked| asked.log_at.is_none() && found.contains(&asked.id)) {
            asked.log_at = Some(clock::now());
        }
        Ok(log.keep_note(NOTE, &serde_json::to_vec(&*all)?)?)
    }
}

/// Replaces the entries of some fragments before the last erasure of each. Gives the erasures that it has found.
fn clean_shard(log: &RedbLog, shard: ShardId, owners: &[&str]) -> Result<BTreeSet<String>> {
    let (mut last, mut found) = (BTreeMap::new(), BTreeSet::new());
    for_each(log, shard, |seq, bytes| {
        if Change::erases(bytes)
            && let Some(owner) = Change::owner(bytes).filter(|owner| owners.contains(owner))
        {
            last.insert(owner.to_owned(), seq);
            if let Change::Erase { erasure, .. } = Change::decode(bytes)? {
                found.insert(hex16(&erasure));
            }
        }
        Ok(None)
    })?;
    for_each(log, shard, |seq, bytes| {
        let before = Change::owner(bytes).and_then(|owner| last.get(owner)).is_some_and(|last| seq < *last);
        if before { Ok(Change::erased(bytes)?) } else { Ok(None) }
    })?;
    Ok(found)
}

/// An erasure's id as text.
pub fn hex16(erasure: &[u8; 16]) -> String {
    erasure.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn for_each(log: &RedbLog, shard: ShardId, mut take: impl FnMut(u64, &[u8]) -> Result<Option<Vec<u8>>>) -> Result<()> {
    let mut after = 0;
    loop {
        let entries = log.read(shard, after, READ_BYTES)?;
        let Some(last) = entries.last() else { return Ok(()) };
        after = last.seq;
        let mut replaced = Vec::new();
        for entry in &entries {
            replaced.extend(take(entry.seq, &entry.bytes)?.map(|left| (entry.seq, left)));
        }
        if !replaced.is_empty() {
            log.erase(shard, replaced).wait_blocking()?;
        }
    }
}

/// Does so on a thread of its own. What is cut off is done after the next start.
pub fn clean_behind(erasures: &Arc<Erasures>, log: &Arc<RedbLog>) {
    let (erasures, log) = (Arc::clone(erasures), Arc::clone(log));
    let cleaned = move || {
        if let Err(error) = erasures.clean(&log) {
            tracing::error!("what was erased stays in the log for now: {error:#}; it is tried again after a start");
        }
    };
    let _ = std::thread::Builder::new().name("erase".into()).spawn(cleaned);
}
