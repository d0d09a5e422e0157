//! The base: what of the log is folded in, on disk.
//!
//! It moves in the log's order: by [`Shards::follow`] where a centre orders the changes, else by [`Shards::advance`] while the process runs and by
//! [`Shards::recover`] after a start. Each move carries the cursor with its data.
//!
//! A write that a crash cut off may have left records, history and ids beyond the cursor. Nobody reads them: a record that is ahead is folded again from
//! the history up to the cursor.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use selvedge_core::change::Change;
use selvedge_core::fragment::{Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use selvedge_core::view::Cursor;

use crate::disk::{FragmentWrite, HistoryEntry, Move};
use crate::erasure::kept;
use crate::pending::{PendingChange, Queued};
use crate::record::Head;
use crate::{ShardError, Shards};

/// Changes of one fragment with their sequences.
type InOrder = Vec<(u64, Arc<PendingChange>)>;

impl Shards {
    /// Moves the first pending changes of a shard into the base: the log has ordered them, with consecutive sequences from `first_seq`.
    /// Keeps neither the checksum nor what is applied of each origin: its log has one.
    pub fn advance(&self, shard: ShardId, first_seq: u64, count: usize) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let _moves = cell.moves.lock();
        let definitions = self.observer.definitions();
        let mut histories: HashMap<Identifier, Vec<HistoryEntry>> = HashMap::default();
        let mut ordered: HashMap<Identifier, InOrder> = HashMap::default();
        let mut bases: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
        let mut before: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
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
            for (Queued { identifier, change, .. }, seq) in state.pending.first(count).zip(first_seq..) {
                ordered.entry(identifier.clone()).or_default().push((seq, Arc::clone(change)));
            }
            for (identifier, changes) in ordered {
                let base = state.pending.get(&identifier).map(|fragment| Arc::clone(&fragment.base));
                let erased = base.as_ref().and_then(|base| base.erased);
                before.extend(base.map(|base| (identifier.clone(), base)));
                let entries = kept(&identifier, erased, changes.iter().map(|(seq, change)| (*seq, change)));
                histories.insert(identifier.clone(), entries);
                match state.pending.base_after(&identifier, changes.len(), definitions) {
                    Some(Ok(base)) => drop(bases.insert(identifier, base)),
                    Some(Err(changes)) => again.push((identifier, changes)),
                    None => {}
                }
            }
        }
        for (identifier, changes) in again {
            let erased = before.get(&identifier).and_then(|before| before.erased);
            let past = self.past_of(&identifier, cell.cursor().seq, changes)?.since(erased);
            let whole = self.refold(&past, Timestamp(i64::MAX))?;
            bases.insert(identifier, Arc::new(whole));
        }
        let cursor = Cursor { epoch: cell.cursor().epoch, seq: first_seq + count as u64 - 1 };
        let to = Move { cursor, ..Move::default() };
        self.write(shard, to.clone(), histories, &before, bases.iter())?;
        {
            let mut state = cell.state.lock();
            let weight = state.pending.advance(count, bases);
            self.pending_bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        cell.go(to);
        Ok(())
    }

    /// Folds entries of the log that no pending change stands for: after a start, what the base does not hold yet. Entries must
    /// follow the cursor without a gap.
    pub fn recover(&self, shard: ShardId, entries: &[(u64, Vec<u8>)]) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let _moves = cell.moves.lock();
        let cursor = cell.cursor();
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else { return Ok(()) };
        if *first != cursor.seq + 1 {
            return Err(ShardError::Gap { shard: shard.0, at: cursor, from: Cursor { seq: *first, ..cursor } });
        }
        let mut histories: HashMap<Identifier, Vec<HistoryEntry>> = HashMap::default();
        let mut bases: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
        let mut before: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
        let mut folded_in: HashMap<Identifier, (InOrder, Folded)> = HashMap::default();
        for (seq, bytes) in entries {
            let change = Change::decode(bytes)?;
            let Some(identifier) = change.fragment().cloned() else { continue };
            if !bases.contains_key(&identifier) {
                let base = self.read_base(&identifier)?.0;
                before.insert(identifier.clone(), Arc::clone(&base));
                bases.insert(identifier.clone(), base);
            }
            let Some(base) = bases.get_mut(&identifier) else { continue };
            let Some(body) = self.body(&change) else { continue };
            let (changes, worst) = folded_in.entry(identifier).or_insert((Vec::new(), Folded::Counted));
            *worst = (*worst).max(body.apply(Arc::make_mut(base), self.observer.definitions()));
            changes.push((*seq, Arc::new(PendingChange { bytes: bytes.as_slice().into(), body })));
        }
        for (identifier, (changes, _)) in &folded_in {
            let erased = before.get(identifier).and_then(|before| before.erased);
            let entries = kept(identifier, erased, changes.iter().map(|(seq, change)| (*seq, change)));
            histories.insert(identifier.clone(), entries);
        }
        let _rows = cell.rows.write();
        for (identifier, (changes, _)) in folded_in.into_iter().filter(|(_, (_, worst))| *worst == Folded::Refold) {
            // The history is whole up to the cursor. What a cut write left beyond it comes again in these entries.
            let changes = changes.into_iter().map(|(_, change)| change).collect();
            let erased = before.get(&identifier).and_then(|before| before.erased);
            let past = self.past_of(&identifier, cursor.seq, changes)?.since(erased);
            let whole = self.refold(&past, Timestamp(i64::MAX))?;
            bases.insert(identifier, Arc::new(whole));
        }
        let to = Move { cursor: Cursor { epoch: cursor.epoch, seq: *last }, ..Move::default() };
        self.write(shard, to.clone(), histories, &before, bases.iter())?;
        cell.go(to);
        Ok(())
    }

    /// The base of a fragment on disk, as of the cursor, and the last change in it. What was folded by other plugins waits for its history; what another
    /// engine folded, or what is ahead of the cursor, is folded again here and now.
    pub(crate) fn read_base(&self, identifier: &Identifier) -> Result<(Arc<Fragment>, u64), ShardError> {
        let Some(kept) = self.disk.record(identifier)? else {
            return Ok((Arc::new(Fragment::empty(self.observer.definitions())), 0));
        };
        let (Head { layout: of_states, seq }, layout) = (kept.head.clone(), self.observer.layout());
        let cursor = self.cell(identifier.shard()).cursor().seq;
        if of_states.engine != layout.engine || seq > cursor {
            let seq = seq.min(cursor);
            // An erasure that is ahead has taken the history already, with what said of an earlier one.
            let same = of_states.engine == layout.engine;
            let erased = if same { kept.fragment()?.erased } else { None };
            let past = self.past_of(identifier, seq, Vec::new())?.since(erased);
            return Ok((Arc::new(self.refold(&past, Timestamp(i64::MAX))?), seq));
        }
        let mut fragment = kept.fragment()?;
        if of_states != *layout {
            let carried = Arc::make_mut(&mut fragment);
            let states = std::mem::take(&mut carried.states).into_inner();
            carried.states = of_states.carry(states, layout).into();
            carried.mart.prune(self.observer.definitions());
        }
        Ok((fragment, seq))
    }

    /// Writes fragments, each with its state; `before` are those without the changes.
    pub(crate) fn write<'f>(
        &self,
        shard: ShardId,
        to: Move,
        mut histories: HashMap<Identifier, Vec<HistoryEntry>>,
        before: &HashMap<Identifier, Arc<Fragment>>,
        bases: impl Iterator<Item = (&'f Identifier, &'f Arc<Fragment>)>,
    ) -> Result<(), ShardError> {
        let layout = self.observer.layout();
        let writes = bases.map(|(identifier, fragment)| {
            let entries = histories.remove(identifier).unwrap_or_default();
            let seq = entries.last().map_or(to.cursor.seq, |entry| entry.seq);
            let before = before.get(identifier).map(Arc::as_ref);
            FragmentWrite { identifier, layout, seq, before, fragment, entries }
        });
        let writes = writes.collect();
        self.disk.write(shard, to, writes)
    }
}
