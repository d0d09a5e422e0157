//! What one shard's log has erased and withdrawn: notes in the order of the log, and whose entries they take away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use selvedge_central::NOTES_MAX;
use selvedge_core::change::{Change, ChangeError};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};

use super::edges::{ABSENCE, EDGES_MAX, Known};
use crate::clock;
use crate::erasures::{hex16, unhex16};

/// Notes of one shard that are remembered, once they are done and nobody may come back from before them.
const ERASED_MAX: usize = NOTES_MAX - 1_000;

/// The place of an entry: epoch and sequence.
pub type Key = (u32, u64);

/// One fragment's erasure, or what an erasure has withdrawn from an entity; as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Erased {
    pub fragment: Identifier,
    pub erasure: String,
    /// When it was asked for; of a withdrawal, when the centre took it in.
    pub at: Timestamp,
    pub epoch: u32,
    pub seq: u64,
    /// The ids of the events that it withdraws; none of an erasure, which takes everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdraws: Option<Vec<[u8; 16]>>,
    /// When the log held nothing of it any more.
    pub log_at: Option<Timestamp>,
    /// When no snapshot did.
    pub snapshots_at: Option<Timestamp>,
    /// When each edge was first heard to have it, by name.
    #[serde(default)]
    pub edges: BTreeMap<String, Timestamp>,
    /// Up to here the logs hold what another centre has withdrawn for it.
    #[serde(skip)]
    pub after: Arc<Vec<(ShardId, Cursor)>>,
}

impl Erased {
    /// The note of an entry; none of one that takes nothing away.
    pub fn of(epoch: u32, seq: u64, change: &Change) -> Option<Self> {
        let (fragment, erasure, at, withdraws) = match change {
            Change::Erase { fragment, erasure, at } => (fragment, erasure, *at, None),
            Change::Withdraw { fragment, erasure, ids } => (fragment, erasure, clock::now(), Some(ids.clone())),
            _ => return None,
        };
        Some(Self {
            fragment: fragment.clone(),
            erasure: hex16(erasure),
            at,
            epoch,
            seq,
            withdraws,
            log_at: None,
            snapshots_at: None,
            edges: BTreeMap::new(),
            after: Arc::default(),
        })
    }

    pub fn key(&self) -> Key {
        (self.epoch, self.seq)
    }

    /// The erasure's id, where it takes everything.
    pub fn takes_everything(&self) -> Option<[u8; 16]> {
        if self.withdraws.is_none() { unhex16(&self.erasure) } else { None }
    }

    /// When an edge was last heard that has it, by what is kept of its reports: another centre may have heard it.
    pub fn reported(&self, edge: &Known) -> Option<Timestamp> {
        let mut shards = edge.report.iter().flat_map(|report| &report.shards);
        let own = shards.find(|of_shard| of_shard.shard == self.fragment.shard())?;
        ((own.epoch, own.seq) >= self.key()).then_some(edge.seen_at)
    }

    fn is_open(&self) -> bool {
        self.log_at.is_none() || self.snapshots_at.is_none()
    }
}

/// Why an entry is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// By this erasure of its owner.
    Erased([u8; 16]),
    /// It is withdrawn.
    Withdrawn,
}

/// What is taken away of one owner.
#[derive(Debug, Default)]
struct Takes {
    /// Everything before a sequence, or said by an instant; and the erasure that says so.
    erased: Option<(u64, Timestamp, [u8; 16])>,
    /// Events by their ids.
    withdrawn: HashSet<[u8; 16]>,
}

impl Takes {
    fn take(&mut self, erased: &Erased) {
        if let Some(ids) = &erased.withdraws {
            self.withdrawn.extend(ids);
        } else if let Some(erasure) = erased.takes_everything() {
            let (seq, at, _) = self.erased.unwrap_or((0, Timestamp(i64::MIN), erasure));
            self.erased = Some((seq.max(erased.seq), at.max(erased.at), erasure));
        }
    }

    fn takes(&self, seq: Option<u64>, bytes: &[u8]) -> Result<Option<Taken>, ChangeError> {
        if !self.withdrawn.is_empty() && Change::said_id(bytes).is_some_and(|id| self.withdrawn.contains(&id)) {
            return Ok(Some(Taken::Withdrawn));
        }
        let Some((before, at, erasure)) = self.erased else { return Ok(None) };
        let taken = seq.is_some_and(|seq| seq < before) || Change::decode(bytes)?.is_before(at);
        Ok(taken.then_some(Taken::Erased(erasure)))
    }
}

/// What one shard's log has erased and withdrawn.
#[derive(Debug, Default)]
pub struct OfShard {
    pub all: BTreeMap<Key, Erased>,
    open: BTreeSet<Key>,
    owners: HashMap<Box<str>, Takes>,
    /// Up to where each edge was heard.
    heard: HashMap<String, Key>,
}

impl OfShard {
    /// Adds one, unless it is there. Gives the oldest, where there are too many and nobody may come back from before it.
    pub fn add(&mut self, erased: Erased) -> Option<Erased> {
        let key = erased.key();
        if self.all.contains_key(&key) {
            return None;
        }
        self.owners.entry(erased.fragment.as_str().into()).or_default().take(&erased);
        if erased.is_open() {
            self.open.insert(key);
        }
        // An edge may be there before it is known here.
        let before = (key.0, key.1.saturating_sub(1));
        self.heard.values_mut().for_each(|heard| *heard = before.min(*heard));
        self.all.insert(key, erased);
        if self.all.len() > ERASED_MAX { self.forget_oldest() } else { None }
    }

    fn forget_oldest(&mut self) -> Option<Erased> {
        let absent = i64::try_from(ABSENCE.as_millis()).unwrap_or(i64::MAX);
        let old = |erased: &Erased| erased.snapshots_at.is_some_and(|at| at < clock::now().plus_ms(-absent));
        let gone = self.all.first_entry().filter(|oldest| !oldest.get().is_open() && old(oldest.get()))?.remove();
        let mut left = Takes::default();
        self.all.values().filter(|erased| erased.fragment == gone.fragment).for_each(|erased| left.take(erased));
        if left.erased.is_none() && left.withdrawn.is_empty() {
            self.owners.remove(gone.fragment.as_str());
        } else {
            self.owners.insert(gone.fragment.as_str().into(), left);
        }
        Some(gone)
    }

    /// Whether nothing is taken away.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Whether an entry is taken away: one at a place of the log, or one that is not there yet.
    pub fn takes(&self, seq: Option<u64>, bytes: &[u8]) -> Result<Option<Taken>, ChangeError> {
        let takes = Change::owner(bytes).and_then(|owner| self.owners.get(owner));
        takes.map_or(Ok(None), |takes| takes.takes(seq, bytes))
    }

    /// Whether an event is withdrawn from an entity.
    pub fn has_withdrawn(&self, entity: &Identifier, id: &[u8; 16]) -> bool {
        self.owners.get(entity.as_str()).is_some_and(|takes| takes.withdrawn.contains(id))
    }

    /// What is not done yet, of what stands up to a sequence.
    pub fn due(&self, reached: u64) -> Vec<Erased> {
        self.open.iter().filter(|(_, seq)| *seq <= reached).filter_map(|key| self.all.get(key)).cloned().collect()
    }

    /// Changes one. Gives what it is now.
    pub fn change(&mut self, key: Key, change: &dyn Fn(&mut Erased)) -> Option<Erased> {
        let erased = self.all.get_mut(&key)?;
        change(erased);
        if !erased.is_open() {
            self.open.remove(&key);
        }
        Some(erased.clone())
    }

    /// Whether there may be some that an edge has by now and was not heard to have.
    pub fn unheard(&self, edge: &str, to: Key) -> bool {
        !self.all.is_empty() && self.heard.get(edge).is_none_or(|heard| *heard < to)
    }

    /// Notes that an edge is there. Gives what it was not heard to have before.
    pub fn hear(&mut self, edge: &str, to: Key) -> Vec<Erased> {
        if self.heard.len() >= EDGES_MAX && !self.heard.contains_key(edge) {
            self.heard.clear();
        }
        let from = self.heard.insert(edge.to_owned(), to).map_or(Bound::Unbounded, Bound::Excluded);
        if matches!(from, Bound::Excluded(from) if from >= to) {
            return Vec::new();
        }
        let passed = self.all.range((from, Bound::Included(to))).map(|(_, erased)| erased);
        passed.filter(|erased| !erased.edges.contains_key(edge)).cloned().collect()
    }
}
