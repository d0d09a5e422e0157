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
    /// Where the logs stood when it was taken in: what else belongs to it is below, whoever has said it.
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
        (own.kept > 0 && (own.epoch, own.kept) >= self.key()).then_some(edge.seen_at)
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

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_core::event::{Event, EventKind};

    fn identifier(text: &str) -> Identifier {
        Identifier::stored(text).expect("an identifier")
    }

    fn event(of: &str, id: &str, received: i64) -> Change {
        let event = Event {
            kind: EventKind::Track,
            name: "A".into(),
            message_id: id.into(),
            at: Timestamp(0),
            received_at: Timestamp(received),
            claimed: false,
            payload: "{}".into(),
        };
        Change::Event { fragment: identifier(of), event }
    }

    fn erase(of: &str, erasure: u8, at: i64) -> Change {
        Change::Erase { fragment: identifier(of), erasure: [erasure; 16], at: Timestamp(at) }
    }

    fn withdraw(of: &str, ids: &[&str]) -> Change {
        let id = |id: &&str| Change::said_id(&event(of, id, 0).encode()).expect("an id");
        Change::Withdraw { fragment: identifier(of), erasure: [1; 16], ids: ids.iter().map(id).collect() }
    }

    fn add(of_shard: &mut OfShard, seq: u64, change: &Change) {
        assert!(of_shard.add(Erased::of(1, seq, change).expect("a note")).is_none());
    }

    #[test]
    fn an_erasure_takes_what_is_before_it_and_what_was_said_by_then_and_a_withdrawal_its_events() {
        let mut of_shard = OfShard::default();
        add(&mut of_shard, 10, &erase("user:1", 1, 100));
        add(&mut of_shard, 20, &erase("user:1", 2, 50));
        add(&mut of_shard, 30, &withdraw("household:h1", &["a", "b"]));
        add(&mut of_shard, 31, &withdraw("household:h1", &["c"]));
        let takes = |seq, change: &Change| of_shard.takes(seq, &change.encode()).expect("a change");
        let erased = Some(Taken::Erased([2; 16]));
        assert_eq!(takes(Some(19), &event("user:1", "a", 999)), erased);
        assert_eq!(takes(Some(21), &event("user:1", "a", 100)), erased, "by the latest instant");
        assert_eq!(takes(None, &event("user:1", "a", 100)), erased);
        assert_eq!(
            (takes(Some(21), &event("user:1", "a", 101)), takes(None, &event("user:1", "a", 101))),
            (None, None)
        );
        assert_eq!(takes(None, &event("user:2", "a", 0)), None);
        for (id, taken) in [("a", Some(Taken::Withdrawn)), ("c", Some(Taken::Withdrawn)), ("d", None)] {
            assert_eq!(takes(None, &event("household:h1", id, 999)), taken);
            assert_eq!(takes(Some(1), &event("household:h1", id, 0)), taken);
        }
        assert!(of_shard.takes(None, &[]).is_ok_and(|taken| taken.is_none()));
        assert_eq!(of_shard.due(30).iter().map(|erased| erased.seq).collect::<Vec<_>>(), [10, 20, 30]);
        for key in [(1, 10), (1, 20)] {
            of_shard.change(key, &|erased| erased.log_at = Some(Timestamp(1)));
        }
        of_shard.change((1, 10), &|erased| erased.snapshots_at = Some(Timestamp(1)));
        assert_eq!(of_shard.due(30).iter().map(|erased| erased.seq).collect::<Vec<_>>(), [20, 30]);
    }

    #[test]
    fn each_edge_is_heard_once_of_each_though_it_is_there_first() {
        let mut of_shard = OfShard::default();
        let seqs = |all: Vec<Erased>| all.iter().map(|erased| erased.seq).collect::<Vec<_>>();
        assert!(!of_shard.unheard("one", (1, 5)));
        add(&mut of_shard, 10, &erase("user:1", 1, 100));
        assert!(of_shard.unheard("one", (1, 9)) && seqs(of_shard.hear("one", (1, 9))).is_empty());
        assert!(!of_shard.unheard("one", (1, 9)));
        assert_eq!(seqs(of_shard.hear("one", (1, 40))), [10]);
        // The edge has passed it before the centre's copy came to it.
        add(&mut of_shard, 30, &erase("user:2", 2, 100));
        assert!(of_shard.unheard("one", (1, 40)));
        assert_eq!(seqs(of_shard.hear("one", (1, 40))), [30]);
        assert_eq!(seqs(of_shard.hear("two", (2, 1))), [10, 30], "in a later epoch");
        of_shard.change((1, 10), &|erased| erased.edges = [("three".to_owned(), Timestamp(1))].into());
        assert_eq!(seqs(of_shard.hear("three", (1, 40))), [30]);
    }

    #[test]
    fn ten_thousand_are_remembered_and_the_oldest_go_once_nobody_may_come_back() {
        let mut of_shard = OfShard::default();
        let (most, long_ago) = (ERASED_MAX as u64, clock::now().plus_ms(-2 * ABSENCE.as_millis() as i64));
        let done = |change: Change, seq: u64| {
            let erased = Erased::of(1, seq, &change).expect("a note");
            Erased { log_at: Some(long_ago), snapshots_at: Some(long_ago), ..erased }
        };
        add(&mut of_shard, 1, &withdraw("household:h1", &["open"]));
        for seq in 2..=most {
            assert!(of_shard.add(done(erase(&format!("user:{seq}"), 1, 100), seq)).is_none());
        }
        assert!(of_shard.add(done(erase("user:2", 2, 100), most + 1)).is_none(), "the oldest is not done");
        let now = clock::now();
        of_shard.change((1, 1), &|erased| (erased.log_at, erased.snapshots_at) = (Some(now), Some(now)));
        assert!(of_shard.add(done(erase("user:3", 2, 100), most + 2)).is_none(), "somebody may come back");
        of_shard.change((1, 1), &|erased| erased.snapshots_at = Some(long_ago));
        let gone = of_shard.add(done(erase("user:4", 2, 100), most + 3)).map(|gone| gone.seq);
        let next = of_shard.add(done(erase("user:5", 2, 100), most + 4)).map(|gone| gone.seq);
        assert_eq!((gone, next), (Some(1), Some(2)));
        let takes = |change: &Change| of_shard.takes(None, &change.encode()).expect("a change");
        assert_eq!(takes(&event("household:h1", "open", 0)), None);
        assert_eq!(takes(&event("user:2", "a", 0)), Some(Taken::Erased([2; 16])), "the later one is there");
    }

    #[test]
    fn a_note_survives_its_bytes_and_one_from_before_withdrawals_is_read() {
        for change in [erase("user:1", 1, 100), withdraw("household:h1", &["a", "b"])] {
            let erased = Erased::of(1, 7, &change).expect("a note");
            let bytes = serde_json::to_vec(&erased).expect("bytes");
            let read: Erased = serde_json::from_slice(&bytes).expect("a note");
            assert_eq!((read.withdraws.clone(), read.key(), read.at), (erased.withdraws.clone(), (1, 7), erased.at));
            assert_eq!(read.takes_everything().is_some(), erased.withdraws.is_none());
        }
        let text = r#"{"fragment":"user:1","erasure":"x","at":1,"epoch":1,"seq":2,"log_at":null,"snapshots_at":null}"#;
        assert!(serde_json::from_str::<Erased>(text).is_ok_and(|read| read.withdraws.is_none()));
    }
}
