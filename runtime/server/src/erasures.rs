//! Erasures as an edge keeps them: what was asked for here, how far it is, and the log of an edge that is its own centre.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use selvedge_central::RedbLog;
use selvedge_core::change::Change;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use selvedge_shard::Shards;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::edge::LogOutbox;

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

    /// Replaces in the log of an edge that is its own centre what was erased and is not replaced yet, with the copies at entities. Blocks on the disk.
    pub fn clean(&self, log: &RedbLog, shards: &Shards) -> Result<()> {
        let open: Vec<Asked> = self.0.lock().iter().filter(|asked| asked.log_at.is_none()).cloned().collect();
        let mut owners: BTreeMap<ShardId, BTreeSet<&str>> = BTreeMap::new();
        for owner in open.iter().flat_map(|asked| &asked.identifiers) {
            owners.entry(owner.shard()).or_default().insert(owner.as_str());
        }
        // Of what was asked for and is not durable yet, the log does not say so.
        let (mut found, mut shared) = (BTreeSet::new(), Shared::default());
        let mut erased = Vec::new();
        for (shard, owners) in owners {
            let last = last_erasures(log, shard, &owners, &mut found)?;
            gather(log, shard, &last, &mut shared)?;
            erased.push((shard, last));
        }
        // The copies first: it is the person's entries that tell of them.
        withdraw(log, shards, &shared)?;
        for (shard, last) in erased {
            for_each(log, shard, |seq, bytes| {
                let before =
                    Change::owner(bytes).and_then(|owner| last.get(owner)).is_some_and(|(last, _)| seq < *last);
                if before { Ok(Change::erased(bytes)?) } else { Ok(None) }
            })?;
        }
        let mut all = self.0.lock();
        for asked in all.iter_mut().filter(|asked| asked.log_at.is_none() && found.contains(&asked.id)) {
            asked.log_at = Some(clock::now());
        }
        Ok(log.keep_note(NOTE, &serde_json::to_vec(&*all)?)?)
    }
}

/// The last erasure of each owner: its sequence and its id.
type Last = BTreeMap<String, (u64, [u8; 16])>;

/// Finds the last erasure of each owner, and adds the ids of all.
fn last_erasures(log: &RedbLog, shard: ShardId, owners: &BTreeSet<&str>, found: &mut BTreeSet<String>) -> Result<Last> {
    let mut last = Last::new();
    for_each(log, shard, |seq, bytes| {
        if Change::erases(bytes)
            && Change::owner(bytes).is_some_and(|owner| owners.contains(owner))
            && let Change::Erase { fragment, erasure, .. } = Change::decode(bytes)?
        {
            found.insert(hex16(&erasure));
            last.insert(fragment.as_str().to_owned(), (seq, erasure));
        }
        Ok(None)
    })?;
    Ok(last)
}

/// Gathers what was shared by events before the last erasure of each owner.
fn gather(log: &RedbLog, shard: ShardId, last: &Last, shared: &mut Shared) -> Result<()> {
    for_each(log, shard, |seq, bytes| {
        let by = Change::owner(bytes).and_then(|owner| last.get(owner)).filter(|(last, _)| seq < *last);
        if let Some((_, erasure)) = by {
            shared.add(*erasure, &Change::decode(bytes)?);
        }
        Ok(None)
    })
}

/// Withdraws from entities what was shared with them, and replaces that in their log.
fn withdraw(log: &RedbLog, shards: &Shards, shared: &Shared) -> Result<()> {
    let mut withdrawn: BTreeMap<ShardId, BTreeMap<&str, BTreeSet<[u8; 16]>>> = BTreeMap::new();
    for ((erasure, entity), ids) in shared.iter() {
        let all: Vec<[u8; 16]> = ids.iter().copied().collect();
        shards.withdraw(entity, *erasure, &all, &LogOutbox(log))?;
        let of_shard = withdrawn.entry(entity.shard()).or_default();
        of_shard.entry(entity.as_str()).or_default().extend(all);
    }
    // Whatever came before is durable with it, so it is found.
    log.barrier().wait_blocking()?;
    for (shard, of_shard) in withdrawn {
        for_each(log, shard, |_, bytes| {
            let ids = Change::owner(bytes).and_then(|owner| of_shard.get(owner));
            let gone = ids.zip(Change::said_id(bytes)).is_some_and(|(ids, id)| ids.contains(&id));
            if gone { Ok(Change::erased(bytes)?) } else { Ok(None) }
        })?;
    }
    Ok(())
}

/// Which events were shared with entities, by the erasure that takes them away and the entity.
#[derive(Default)]
pub struct Shared(BTreeMap<([u8; 16], Identifier), BTreeSet<[u8; 16]>>);

impl Shared {
    /// Adds what a change of a person, which an erasure takes away, had shared.
    pub fn add(&mut self, erasure: [u8; 16], change: &Change) {
        let Change::Event { fragment, event } = change else { return };
        // An entity shares nothing: what it has is of persons.
        if fragment.is_entity() {
            return;
        }
        for entity in event.entities() {
            self.0.entry((erasure, entity)).or_default().insert(event.id_hash());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&([u8; 16], Identifier), &BTreeSet<[u8; 16]>)> {
        self.0.iter()
    }
}

/// An erasure's id as text.
pub fn hex16(erasure: &[u8; 16]) -> String {
    erasure.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id that a text stands for.
pub fn unhex16(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes) } else { None }
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
pub fn clean_behind(erasures: &Arc<Erasures>, log: &Arc<RedbLog>, shards: &Arc<Shards>) {
    let (erasures, log, shards) = (Arc::clone(erasures), Arc::clone(log), Arc::clone(shards));
    let cleaned = move || {
        if let Err(error) = erasures.clean(&log, &shards) {
            tracing::error!("what was erased stays in the log for now: {error:#}; it is tried again after a start");
        }
    };
    let _ = std::thread::Builder::new().name("erase".into()).spawn(cleaned);
}
