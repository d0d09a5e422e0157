//! The base: what of the log is folded in, on disk.
//!
//! It moves in the log's order, by [`Shards::advance`] while the process runs and by [`Shards::recover`] after a start, and each move carries the
//! cursor with its data.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use selvedge_core::change::Change;
use selvedge_core::fragment::{Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use selvedge_core::view::Cursor;

use crate::disk::{FragmentWrite, HistoryEntry};
use crate::pending::PendingChange;
use crate::record::{self, Head, Record};
use crate::{ShardError, Shards};

impl Shards {
    /// Moves the first pending changes of a shard into the base: the log has ordered them, with consecutive sequences from `first_seq`.
    /// Calls for one shard must not overlap.
    pub fn advance(&self, shard: ShardId, first_seq: u64, count: usize) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let definitions = self.observer.definitions();
        let mut histories: HashMap<Identifier, Vec<HistoryEntry>> = HashMap::default();
        let mut bases: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
        let mut again = Vec::new();
        // From here on, so that nobody puts another base under these changes before they are written.
        let _rows = cell.rows.write();
        {
            let state = cell.state.lock();
            if state.pending.first(count).count() != count {
                return Err(ShardError::Corrupt(format!(
                    "shard {}: the log ordered changes that are not pending",
                    shard.0
                )));
            }
            for ((identifier, change), seq) in state.pending.first(count).zip(first_seq..) {
                let entry = HistoryEntry { seq, bytes: Arc::clone(&change.bytes), id_hash: change.body.id_hash() };
                histories.entry(identifier.clone()).or_default().push(entry);
            }
            for (identifier, entries) in &histories {
                match state.pending.base_after(identifier, entries.len(), definitions) {
                    Some(Ok(base)) => drop(bases.insert(identifier.clone(), base)),
                    Some(Err(changes)) => again.push((identifier.clone(), changes)),
                    None => {}
                }
            }
        }
        for (identifier, changes) in again {
            let whole = self.refold(&self.past_of(&identifier, u64::MAX, changes)?, Timestamp(i64::MAX))?;
            bases.insert(identifier, Arc::new(whole));
        }
        let cursor = Cursor { epoch: cell.cursor().epoch, seq: first_seq + count as u64 - 1 };
        let written = bases.iter().map(|(identifier, fragment)| (identifier, fragment, 0));
        self.write(shard, cursor, &histories, written)?;
        {
            let mut state = cell.state.lock();
            let weight = state.pending.advance(count, bases);
            self.pending_bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        cell.seq.store(cursor.seq, Ordering::Release);
        Ok(())
    }

    /// Folds entries of the log that no pending change stands for: after a start, what the base does not hold yet. Entries must
    /// follow the cursor without a gap.
    pub fn recover(&self, shard: ShardId, entries: &[(u64, Vec<u8>)]) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let cursor = cell.cursor();
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else { return Ok(()) };
        if *first != cursor.seq + 1 {
            let detail = format!("shard {}: the log continues at {first}, the base ends at {}", shard.0, cursor.seq);
            return Err(ShardError::Corrupt(detail));
        }
        let mut histories: HashMap<Identifier, Vec<HistoryEntry>> = HashMap::default();
        let mut bases: HashMap<Identifier, (Arc<Fragment>, u64)> = HashMap::default();
        let mut folded_in: HashMap<Identifier, (Vec<Arc<PendingChange>>, Folded)> = HashMap::default();
        for (seq, bytes) in entries {
            let change = Change::decode(bytes)?;
            let Some(identifier) = change.fragment().cloned() else { continue };
            if !bases.contains_key(&identifier) {
                bases.insert(identifier.clone(), self.read_base(&identifier)?);
            }
            let Some((base, folded)) = bases.get_mut(&identifier) else { continue };
            let hash = id_hash(&change);
            let entry = HistoryEntry { seq: *seq, bytes: bytes.as_slice().into(), id_hash: hash };
            histories.entry(identifier.clone()).or_default().push(entry);
            let Some(body) = self.body(&change) else { continue };
            let (changes, worst) = folded_in.entry(identifier).or_insert((Vec::new(), Folded::Counted));
            // A write that a crash cut off may have got as far as this fragment, but not to the cursor.
            if *seq > *folded {
                *worst = (*worst).max(body.apply(Arc::make_mut(base), self.observer.definitions()));
            }
            changes.push(Arc::new(PendingChange { bytes: Arc::default(), body }));
        }
        let _rows = cell.rows.write();
        for (identifier, (changes, _)) in folded_in.into_iter().filter(|(_, (_, worst))| *worst == Folded::Refold) {
            let Some((base, _)) = bases.get_mut(&identifier) else { continue };
            // The history is whole up to the cursor. What a cut write left beyond it, in the history or in the record, comes again in
            // these entries.
            *base = Arc::new(self.refold(&self.past_of(&identifier, cursor.seq, changes)?, Timestamp(i64::MAX))?);
        }
        let written = bases.iter().map(|(identifier, (base, folded))| (identifier, base, *folded));
        self.write(shard, Cursor { epoch: cursor.epoch, seq: *last }, &histories, written)?;
        cell.seq.store(*last, Ordering::Release);
        Ok(())
    }

    /// Forgets a shard's base, which the log will rebuild.
    pub fn reset(&self, shard: ShardId) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let _rows = cell.rows.write();
        self.disk.clear(shard)?;
        cell.seq.store(0, Ordering::Release);
        Ok(())
    }

    /// The base of a fragment on disk and the last change in it. What was folded by other plugins waits for its history; what another engine folded
    /// is folded again here and now.
    pub(crate) fn read_base(&self, identifier: &Identifier) -> Result<(Arc<Fragment>, u64), ShardError> {
        let Some(bytes) = self.disk.record(identifier)? else {
            return Ok((Arc::new(Fragment::empty(self.observer.definitions())), 0));
        };
        let (head, layout) = (Head::decode(&bytes)?, self.observer.layout());
        if head.layout.engine != layout.engine {
            let past = self.past_of(identifier, head.seq, Vec::new())?;
            return Ok((Arc::new(self.refold(&past, Timestamp(i64::MAX))?), head.seq));
        }
        let (head, mut fragment) = record::decode(&bytes)?;
        if head.layout != *layout {
            fragment.states = head.layout.carry(fragment.states, layout);
            fragment.mart.prune(self.observer.definitions());
        }
        Ok((Arc::new(fragment), head.seq))
    }

    /// Writes fragments, each with its state and the last change that was in it before.
    fn write<'f>(
        &self,
        shard: ShardId,
        cursor: Cursor,
        histories: &HashMap<Identifier, Vec<HistoryEntry>>,
        bases: impl Iterator<Item = (&'f Identifier, &'f Arc<Fragment>, u64)>,
    ) -> Result<(), ShardError> {
        let layout = self.observer.layout();
        let mut writes: Vec<FragmentWrite<'_>> = Vec::new();
        for (identifier, fragment, folded) in bases {
            let entries = histories.get(identifier).map_or(&[][..], Vec::as_slice);
            let seq = entries.last().map_or(cursor.seq, |entry| entry.seq).max(folded);
            writes.push(FragmentWrite { identifier, record: Record { layout, seq, fragment }, entries });
        }
        self.disk.write(shard, cursor, &writes)
    }
}

/// The hash of an event's id.
pub(crate) fn id_hash(change: &Change) -> Option<[u8; 16]> {
    match change {
        Change::Event { event, .. } => Some(event.id_hash()),
        Change::Decided { .. } | Change::Link { .. } | Change::Mart { .. } | Change::Activate(_) => None,
    }
}
