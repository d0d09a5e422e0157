//! What a centre does to its logs, for edges that follow it.

use selvedge_core::sync::{Entry, mix};

use super::*;

/// The centre's logs, as far as an edge can tell.
#[derive(Default)]
pub(super) struct Centre {
    entries: HashMap<ShardId, Vec<Entry>>,
    pub(super) ids: HashMap<(ShardId, [u8; 16]), u64>,
    /// Whose entries it has replaced, and up to when it replaces what comes late.
    erased: HashMap<Identifier, Timestamp>,
    /// What it has withdrawn, of whom.
    withdrawn: HashSet<(Identifier, [u8; 16])>,
}

impl Centre {
    /// Takes a change, unless its id is there. Gives its sequence, or that of the first one.
    pub(super) fn take(&mut self, shard: ShardId, origin: Origin, number: u64, bytes: &[u8]) -> u64 {
        let id = Change::digest(bytes).expect("a change").id;
        if let Some(seq) = id.and_then(|id| self.ids.get(&(shard, id))) {
            return *seq;
        }
        let change = Change::decode(bytes).expect("a change");
        let erased = change.fragment().and_then(|fragment| self.erased.get(fragment)).copied();
        let late = erased.is_some_and(|erased| change.is_before(erased)) || self.takes_back(&change);
        let left = if late { Change::erased(bytes).expect("a change") } else { None };
        let entries = self.entries.entry(shard).or_default();
        let seq = entries.len() as u64 + 1;
        entries.push(Entry { seq, origin, number, bytes: left.as_deref().unwrap_or(bytes).into() });
        self.ids.extend(id.map(|id| ((shard, id), seq)));
        seq
    }

    pub(super) fn of(&self, shard: ShardId) -> &[Entry] {
        self.entries.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// Whether it has withdrawn an event.
    fn takes_back(&self, change: &Change) -> bool {
        let Change::Event { fragment, event } = change else { return false };
        self.withdrawn.contains(&(fragment.clone(), event.id_hash()))
    }

    /// Orders a change of its own.
    fn say(&mut self, of: &Identifier, change: &Change) {
        let entries = self.entries.entry(of.shard()).or_default();
        let (seq, bytes) = (entries.len() as u64 + 1, change.encode().into());
        entries.push(Entry { seq, origin: Origin::CENTRE, number: 0, bytes });
    }

    pub(super) fn withdraw(&mut self, of: &Identifier, ids: &[[u8; 16]]) {
        Change::withdrawals(of, [7; 16], ids).iter().for_each(|change| self.say(of, change));
        self.withdrawn.extend(ids.iter().map(|id| (of.clone(), *id)));
    }

    /// Replaces what erasures take away by what they leave, and withdraws what it shared with entities.
    pub(super) fn sweep(&mut self, shard: ShardId) {
        for (entity, id) in self.replace(shard) {
            if !self.withdrawn.contains(&(entity.clone(), id)) {
                self.withdraw(&entity, &[id]);
            }
        }
        let mut entries = self.entries.remove(&shard).unwrap_or_default();
        for entry in &mut entries {
            if self.takes_back(&Change::decode(&entry.bytes).expect("a change")) {
                entry.bytes = Change::erased(&entry.bytes).expect("a change").expect("an event").into();
            }
        }
        self.entries.insert(shard, entries);
    }

    /// Gives what of it was said of entities too.
    fn replace(&mut self, shard: ShardId) -> Vec<(Identifier, [u8; 16])> {
        let mut shared = Vec::new();
        let Some(entries) = self.entries.get_mut(&shard) else { return shared };
        for at in 0..entries.len() {
            let Change::Erase { fragment, at: instant, .. } = Change::decode(&entries[at].bytes).expect("a change")
            else {
                continue;
            };
            for (index, entry) in entries.iter_mut().enumerate() {
                let change = Change::decode(&entry.bytes).expect("a change");
                if change.fragment() == Some(&fragment)
                    && (index < at || change.is_before(instant))
                    && let Some(left) = Change::erased(&entry.bytes).expect("a change")
                {
                    if let (Change::Event { event, .. }, false) = (&change, fragment.is_entity()) {
                        shared.extend(event.entities().into_iter().map(|entity| (entity, event.id_hash())));
                    }
                    entry.bytes = left.into();
                }
            }
            let erased = self.erased.entry(fragment).or_insert(instant);
            *erased = instant.max(*erased);
        }
        shared
    }

    pub(super) fn checksum(&self, shard: ShardId, upto: u64) -> u64 {
        let mixed = self.of(shard)[..upto as usize].iter();
        let envelope = |entry: &Entry| Change::digest(&entry.bytes).expect("a change").envelope;
        mixed.fold(0, |sum, entry| sum.wrapping_add(mix(entry.seq, envelope(entry))))
    }
}
