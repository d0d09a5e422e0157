//! Erasure: a person's fragments forget everything, in memory and on disk.
//!
//! An `Erase` takes effect by its place in the log: what is ordered before it goes, whatever it says of its times. What is ordered behind it and was said by its
//! instant contributes nothing and is not kept; what was said later begins the fragment anew. Both follow from the log alone, and from no payload of what went: so
//! a base that has followed the log from its beginning after the payloads were replaced equals one that has seen them.
//!
//! What stays of a fragment: that it was erased, when, and the hashes of its events' ids, so that a late duplicate is still known.
//!
//! A `Withdraw` takes events out of a fragment by their ids, payloads and all, as if they had never been. The ids are known from there on: what comes behind it under
//! one of them is a duplicate like any other.

use std::sync::Arc;

use selvedge_core::change::Change;
use selvedge_core::event::Event;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::Identifier;
use selvedge_core::value::Timestamp;

use crate::disk::HistoryEntry;
use crate::maps::{HashMap, HashSet};
use crate::pending::{Body, Held, PendingChange};
use crate::{Outbox, Prepared, ShardError, Shards};

impl Shards {
    /// Erases a person: everyone who is one with an identifier by what is known now. Gives whom it concerns, once all of it is in the outbox, in one append; the
    /// views are empty from here on. May block on the disk.
    pub fn erase(
        &self,
        identifier: &Identifier,
        erasure: [u8; 16],
        at: Timestamp,
        outbox: &dyn Outbox,
    ) -> Result<Vec<Identifier>, ShardError> {
        // So that no link joins another fragment meanwhile.
        let _linking = self.linking.lock();
        let identifiers = self.group(identifier)?.identifiers;
        self.admit_together(&identifiers, outbox, &|identifier, _| {
            Some(Prepared::erase(identifier.clone(), erasure, at))
        })?;
        Ok(identifiers)
    }

    /// Withdraws events from an entity, for an erasure: they are out of the views from here on, and their ids stay known. May block on the disk.
    pub fn withdraw(
        &self,
        entity: &Identifier,
        erasure: [u8; 16],
        ids: &[[u8; 16]],
        outbox: &dyn Outbox,
    ) -> Result<(), ShardError> {
        // One by one: each is as large as a change may be.
        for change in Change::withdrawals(entity, erasure, ids) {
            let Change::Withdraw { ids, .. } = &change else { continue };
            let (bytes, body) = (change.encode().into(), Body::Withdraw(ids.as_slice().into()));
            self.admit(entity.shard(), vec![Prepared::new(entity.clone(), bytes, body)], outbox)?;
        }
        Ok(())
    }

    /// When what is known of an identifier was last erased. May block on the disk.
    pub fn erased_at(&self, identifier: &Identifier) -> Result<Option<Timestamp>, ShardError> {
        Ok(self.load(identifier)?.fragment.erased)
    }

    /// Admits one change each to fragments in whatever shards, with one append.
    pub(crate) fn admit_together(
        &self,
        identifiers: &[Identifier],
        outbox: &dyn Outbox,
        make: &dyn Fn(&Identifier, &Held) -> Option<Prepared>,
    ) -> Result<(), ShardError> {
        if self.try_together(identifiers, outbox, make, false)? {
            return Ok(());
        }
        // A fragment was evicted since it was loaded: its rows are read at rest, and rows are locked before the states.
        let mut shards: Vec<_> = identifiers.iter().map(Identifier::shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let _rows: Vec<_> = shards.into_iter().map(|shard| self.cell(shard).rows.read()).collect();
        self.try_together(identifiers, outbox, make, true).map(drop)
    }

    /// The same, unless rows are needed for it that are not at rest: then nothing has happened.
    fn try_together(
        &self,
        identifiers: &[Identifier],
        outbox: &dyn Outbox,
        make: &dyn Fn(&Identifier, &Held) -> Option<Prepared>,
        rows_at_rest: bool,
    ) -> Result<bool, ShardError> {
        let mut identifiers: Vec<&Identifier> = identifiers.iter().collect();
        // Always in the order of the shards, so that nobody waits in a circle.
        identifiers.sort_by_key(|identifier| identifier.shard());
        let mut states = Vec::new();
        for identifier in &identifiers {
            if states.last().is_none_or(|(shard, _)| *shard != identifier.shard()) {
                states.push((identifier.shard(), self.cell(identifier.shard()).state.lock()));
            }
        }
        let mut bases: HashMap<Identifier, Held> = HashMap::default();
        let mut changes: Vec<Vec<Prepared>> = states.iter().map(|_| Vec::new()).collect();
        for identifier in identifiers {
            let Some(place) = states.iter().position(|(shard, _)| *shard == identifier.shard()) else { continue };
            let Some(held) = self.current(&states[place].1, identifier, rows_at_rest)? else { return Ok(false) };
            changes[place].extend(make(identifier, &held));
            bases.insert(identifier.clone(), held);
        }
        let bytes =
            states.iter().zip(&changes).filter(|(_, changes)| !changes.is_empty()).map(|((shard, _), changes)| {
                (*shard, changes.iter().map(|prepared| Arc::clone(&prepared.change.bytes)).collect())
            });
        outbox.append(bytes.collect()).map_err(ShardError::Outbox)?;
        for ((_, state), changes) in states.iter_mut().zip(changes) {
            let outlook = self.outlook(&bases, changes.iter());
            self.take(state, changes.into_iter(), &bases, outlook);
        }
        Ok(true)
    }
}

impl Prepared {
    /// That a fragment is erased.
    fn erase(identifier: Identifier, erasure: [u8; 16], at: Timestamp) -> Self {
        let bytes = Change::Erase { fragment: identifier.clone(), erasure, at }.encode().into();
        Self::new(identifier, bytes, Body::Erase { erasure, at })
    }

    /// Whoever admits an event to a fragment knows of its erasure, so it was received later, whatever the clocks say.
    pub(crate) fn after_erasure(&mut self, fragment: &Fragment) -> Result<(), ShardError> {
        let Body::Event { event, effects } = &self.change.body else { return Ok(()) };
        let Some(erased) = fragment.erased.filter(|erased| event.received_at <= *erased) else { return Ok(()) };
        let Change::Event { fragment, event } = Change::decode(&self.change.bytes)? else { return Ok(()) };
        *self = Self::event(fragment, Event { received_at: erased.plus_ms(1), ..event }, effects.clone());
        Ok(())
    }
}

/// What a fragment's history gets of changes in the order of the log, given when it was erased before them: of the last erasure that, and of what came then
/// whatever counts and is not withdrawn; of the rest the ids.
pub(crate) fn kept<'c>(
    identifier: &Identifier,
    erased: Option<Timestamp>,
    changes: impl Iterator<Item = (u64, &'c Arc<PendingChange>)>,
) -> Vec<HistoryEntry> {
    let mut erased = erased;
    let mut entries: Vec<HistoryEntry> = Vec::new();
    for (seq, change) in changes {
        let mut bytes = Some(Arc::clone(&change.bytes));
        match &change.body {
            Body::Erase { erasure, at } => {
                entries.iter_mut().for_each(|entry| entry.bytes = None);
                // It says up to when, whatever an earlier one said that goes with the history.
                if let Some(later) = erased.filter(|erased| erased > at) {
                    let (fragment, erasure) = (identifier.clone(), *erasure);
                    bytes = Some(Change::Erase { fragment, erasure, at: later }.encode().into());
                }
                erased = erased.max(Some(*at));
            }
            Body::Withdraw(ids) => {
                let ids: HashSet<&[u8; 16]> = ids.iter().collect();
                let gone = |entry: &&mut HistoryEntry| entry.id_hash.as_ref().is_some_and(|id| ids.contains(id));
                entries.iter_mut().filter(gone).for_each(|entry| entry.bytes = None);
                // All that it does is done by then.
                bytes = None;
            }
            body if !body.counts(erased) => bytes = None,
            _ => {}
        }
        let withdraws = if let Body::Withdraw(ids) = &change.body { Some(Arc::clone(ids)) } else { None };
        entries.push(HistoryEntry { seq, bytes, id_hash: change.body.id_hash(), withdraws });
    }
    entries
}
