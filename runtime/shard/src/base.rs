//! The base: what of the log is folded in, on disk.
//!
//! It moves in the log's order: by [`Shards::follow`] where a centre orders the changes, else by [`Shards::advance`] while the process runs and by
//! [`Shards::recover`] after a start. Each move carries the cursor with its data.
//!
//! A write that a crash cut off may have left records, history and ids beyond the cursor. Nobody reads them: a record that is ahead is folded again from
//! the history up to the cursor.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use selvedge_core::change::Change;
use selvedge_core::fragment::{Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use selvedge_core::view::{Cursor, Seen};

use crate::disk::{FragmentWrite, Kept, Move};
use crate::erasure::kept;
use crate::maps::HashMap;
use crate::pending::{Held, PendingChange, Queued};
use crate::record::Head;
use crate::{ShardError, Shards};

/// What comes into the base of one fragment.
struct Moving {
    /// With their sequences.
    changes: Vec<(u64, Arc<PendingChange>)>,
    /// The base without them, and with them.
    before: Arc<Fragment>,
    base: Arc<Fragment>,
    /// The ids of its events, if they are at hand.
    seen: Option<Arc<Seen>>,
    folded: Folded,
}

impl Shards {
    /// Moves the first pending changes of a shard into the base: the log has ordered them, with consecutive sequences from `first_seq`.
    /// Keeps neither the checksum nor what is applied of each origin: its log has one.
    pub fn advance(&self, shard: ShardId, first_seq: u64, count: usize) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let _moves = cell.moves.lock();
        let definitions = self.observer.definitions();
        let mut moving: HashMap<Identifier, Moving> = HashMap::default();
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
                match moving.get_mut(identifier) {
                    Some(moving) => moving.changes.push((seq, Arc::clone(change))),
                    None => {
                        let Some(pending) = state.pending.get(identifier) else { continue };
                        let (before, seen) = (Arc::clone(&pending.base), pending.seen.clone());
                        let changes = vec![(seq, Arc::clone(change))];
                        let new = Moving { changes, before, base: Arc::default(), seen, folded: Folded::Counted };
                        moving.insert(identifier.clone(), new);
                    }
                }
            }
            for (identifier, moving) in &mut moving {
                match state.pending.base_after(identifier, moving.changes.len(), definitions) {
                    Some(base) => moving.base = base,
                    None => moving.folded = Folded::Refold,
                }
            }
        }
        self.refold_moving(&mut moving, cell.cursor().seq)?;
        let cursor = Cursor { epoch: cell.cursor().epoch, seq: first_seq + count as u64 - 1 };
        let to = Move { cursor, ..Move::default() };
        self.write(shard, to.clone(), &moving)?;
        cell.count(moving.iter().map(|(identifier, moving)| (identifier, &*moving.before, &*moving.base)));
        {
            let mut state = cell.state.lock();
            let bases = moving.into_iter().map(|(identifier, moving)| (identifier, moving.base));
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
        let mut moving: HashMap<Identifier, Moving> = HashMap::default();
        for (seq, bytes) in entries {
            let change = Change::decode(bytes)?;
            let Some(identifier) = change.fragment() else { continue };
            if !moving.contains_key(identifier) {
                let (Held { fragment: before, seen }, _) = self.read_held(identifier)?;
                let (changes, base) = (Vec::new(), Arc::clone(&before));
                let new = Moving { changes, before, base, seen, folded: Folded::Counted };
                moving.insert(identifier.clone(), new);
            }
            let Some(moving) = moving.get_mut(identifier) else { continue };
            let Some(body) = self.body(&change) else { continue };
            let folded = body.apply(Arc::make_mut(&mut moving.base), self.observer.definitions());
            moving.folded = moving.folded.max(folded);
            moving.changes.push((*seq, Arc::new(PendingChange { bytes: bytes.as_slice().into(), body })));
        }
        let _rows = cell.rows.write();
        // The history is whole up to the cursor. What a cut write left beyond it comes again in these entries.
        self.refold_moving(&mut moving, cursor.seq)?;
        let to = Move { cursor: Cursor { epoch: cursor.epoch, seq: *last }, ..Move::default() };
        self.write(shard, to.clone(), &moving)?;
        cell.count(moving.iter().map(|(identifier, moving)| (identifier, &*moving.before, &*moving.base)));
        cell.go(to);
        Ok(())
    }

    /// Folds those again from their history that must be, with what comes into their bases. The rows are at rest.
    fn refold_moving(&self, moving: &mut HashMap<Identifier, Moving>, upto: u64) -> Result<(), ShardError> {
        for (identifier, moving) in moving.iter_mut().filter(|(_, moving)| moving.folded == Folded::Refold) {
            let changes = moving.changes.iter().map(|(_, change)| Arc::clone(change)).collect();
            let past = self.past_of(identifier, upto, changes)?.since(moving.before.erased);
            moving.base = Arc::new(self.refold(&past, Timestamp(i64::MAX))?);
        }
        Ok(())
    }

    /// The base of a fragment on disk, as of the cursor, and the last change in it. What was folded by other plugins waits for its history; what another
    /// engine folded, or what is ahead of the cursor, is folded again here and now.
    pub(crate) fn read_base(&self, identifier: &Identifier) -> Result<(Arc<Fragment>, u64), ShardError> {
        self.read_held(identifier).map(|(held, seq)| (held.fragment, seq))
    }

    /// The same, with the ids of its events where the record has them.
    pub(crate) fn read_held(&self, identifier: &Identifier) -> Result<(Held, u64), ShardError> {
        let Some(kept) = self.disk.record(identifier)? else {
            // Of whom there is no record there are no ids; of whom there is one there may be, though no event counts any more.
            let fragment = Arc::new(Fragment::empty(self.observer.definitions()));
            return Ok((Held { fragment, seen: Some(Arc::default()) }, 0));
        };
        let seen = kept.seen()?;
        let (fragment, seq) = self.folded(identifier, kept)?;
        let seen = seen.filter(|_| fragment.events <= Seen::EVENTS_MAX);
        Ok((Held { fragment, seen }, seq))
    }

    /// The state of a record as of the cursor, and the last change in it.
    fn folded(&self, identifier: &Identifier, kept: Kept) -> Result<(Arc<Fragment>, u64), ShardError> {
        let (Head { layout: of_states, seq, .. }, layout) = (kept.head.clone(), self.observer.layout());
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

    /// Writes what moves into bases.
    fn write(&self, shard: ShardId, to: Move, moving: &HashMap<Identifier, Moving>) -> Result<(), ShardError> {
        let layout = self.observer.layout();
        let writes = moving.iter().map(|(identifier, moving)| {
            let Moving { changes, before, base, seen, .. } = moving;
            let entries = kept(identifier, before.erased, changes.iter().map(|(seq, change)| (*seq, change)));
            let seq = entries.last().map_or(to.cursor.seq, |entry| entry.seq);
            let before = Some(&**before);
            FragmentWrite { identifier, layout, seq, before, fragment: base, entries, seen: seen.clone() }
        });
        let writes = writes.collect();
        self.disk.write(shard, to, writes)
    }
}
