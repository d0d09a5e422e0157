//! Replacements: a shard's base from a snapshot, made beside the one that serves and put in its place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use selvedge_core::activation::Layout;
use selvedge_core::change::Change;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::view::Cursor;

use crate::block::{CorruptBlock, plain_entries};
use crate::disk::{FORMAT, Fresh, Move, Row};
use crate::hash::Sums;
use crate::maps::HashMap;
use crate::origins::Place;
use crate::pending::{Held, PendingChange, Queued};
use crate::record::{self, Head};
use crate::snapshot::{Chunk, PieceBytes, SnapshotHead};
use crate::walk::Piece;
use crate::{Cell, ShardError, Shards, State};

/// A base in the making. One that is dropped leaves nothing behind.
pub struct Replacement {
    fresh: Fresh,
    layout: Layout,
    sums: Sums,
    taken: BTreeSet<u32>,
    /// The highest sequence that came.
    last: u64,
    /// Whether a chunk was found bad when some of it was written.
    spoiled: bool,
}

/// A change of an outbox that is to be pending.
type Outgoing = (u64, Identifier, Arc<PendingChange>);

impl Replacement {
    /// The head of a base that holds nothing, in an epoch: for a shard that follows its log from the beginning.
    pub fn nothing(&self, epoch: u32) -> SnapshotHead {
        SnapshotHead {
            shard: self.fresh.shard(),
            cursor: Cursor { epoch, seq: 0 },
            checksum: 0,
            format: FORMAT,
            layout: self.layout.clone(),
            origins: Vec::new(),
            fragments: 0,
            chunks: 0,
            states: 0,
            past: 0,
        }
    }

    /// Takes a chunk of a snapshot, in any order; one that was taken already changes nothing. What is not what was written is refused, and changes
    /// nothing that serves: a chunk that is damaged may be fetched again, one that is whole and yet wrong spoils the replacement. Blocks on the disk.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), ShardError> {
        let chunk = Chunk::decode(self.fresh.shard(), chunk)?;
        if self.taken.contains(&chunk.index) {
            return Ok(());
        }
        let was_spoiled = std::mem::replace(&mut self.spoiled, true);
        let Self { fresh, layout, sums, last, .. } = self;
        fresh.write(|put| {
            chunk.for_each(|identifier, piece| {
                if identifier.shard() != fresh.shard() {
                    return Err(ShardError::Snapshot(format!("a chunk holds {identifier}, of another shard")));
                }
                *last = check(layout, sums, identifier, &piece)?.max(*last);
                match piece {
                    PieceBytes::Record(_, bytes) => put(Row::Record(identifier, bytes)),
                    PieceBytes::Block(_, seq, bytes) => put(Row::Block(identifier, seq, bytes)),
                    PieceBytes::Ids(_, ids) => {
                        ids.into_iter().try_for_each(|(id_hash, seq)| put(Row::Id(identifier, id_hash, seq)))
                    }
                }
            })
        })?;
        self.spoiled = was_spoiled;
        self.taken.insert(chunk.index);
        Ok(())
    }

    /// Whether everything that a head speaks of is there, and nothing else.
    fn check(&self, head: &SnapshotHead) -> Result<(), ShardError> {
        let bad = |why: String| Err(ShardError::Snapshot(why));
        if head.format != FORMAT {
            return bad(format!(
                "its form is {}, this program keeps {FORMAT}; upgrade whichever is older",
                head.format
            ));
        }
        if head.shard != self.fresh.shard() || self.spoiled || self.last > head.cursor.seq {
            return bad("its chunks are not those of its head; take another one".into());
        }
        let taken = (self.taken.len(), self.taken.last().map_or(0, |last| last.saturating_add(1)));
        if taken != (head.chunks as usize, head.chunks) {
            return bad(format!("{} of its {} chunks were taken; take the others", self.taken.len(), head.chunks));
        }
        // States of another layout are not compared: they are folded again.
        let states = head.layout != self.layout || self.sums.states == head.states;
        if self.sums.fragments != head.fragments || self.sums.past != head.past || !states {
            return bad("its chunks do not come to what its head says; take another one".into());
        }
        Ok(())
    }
}

/// Whether a piece is what it says. Gives the highest sequence in it.
fn check(layout: &Layout, sums: &mut Sums, identifier: &Identifier, piece: &PieceBytes<'_>) -> Result<u64, ShardError> {
    let bad = |what: &str| ShardError::Snapshot(format!("{what} of {identifier} is not what was written"));
    match piece {
        PieceBytes::Record(_, bytes) => {
            let head = Head::decode(bytes)?;
            let covers = head.layout.covers(layout);
            if head.layout.engine != layout.engine {
                // Folded again from the history when it is read.
                sums.add(identifier, &Piece::Record { bytes, state: &[], covers });
                return Ok(head.seq);
            }
            let (_, mut fragment) = record::decode(bytes)?;
            let carried;
            let state = if head.layout == *layout {
                record::state(bytes)?
            } else {
                fragment.states = head.layout.carry(fragment.states.into_inner(), layout).into();
                carried = postcard::to_allocvec(&fragment).map_err(|_| bad("the record"))?;
                &carried
            };
            sums.add(identifier, &Piece::Record { bytes, state, covers });
            Ok(head.seq)
        }
        PieceBytes::Block(_, first, bytes) => {
            let entries = plain_entries(bytes).map_err(|CorruptBlock| bad("the history"))?;
            let ascending = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let own = |bytes: &[u8]| Change::decode(bytes).is_ok_and(|change| change.fragment() == Some(identifier));
            // The first ones may have been withdrawn since.
            if entries.first().is_none_or(|(seq, _)| seq < first)
                || !ascending
                || !entries.iter().all(|(_, bytes)| own(bytes))
            {
                return Err(bad("the history"));
            }
            sums.add(identifier, &Piece::Block { seq: *first, bytes, entries: &entries });
            Ok(entries.last().map_or(0, |(seq, _)| *seq))
        }
        PieceBytes::Ids(_, ids) => {
            sums.add(identifier, &Piece::Ids(ids));
            Ok(ids.iter().map(|(_, seq)| *seq).max().unwrap_or(0))
        }
    }
}

impl Shards {
    /// Begins another base for a shard, beside the one that serves.
    pub fn begin_replacement(&self, shard: ShardId) -> Result<Replacement, ShardError> {
        self.held_cell(shard)?;
        let (fresh, layout) = (self.disk.fresh(shard)?, self.observer.layout().clone());
        let (sums, taken) = (Sums::default(), BTreeSet::new());
        Ok(Replacement { fresh, layout, sums, taken, last: 0, spoiled: false })
    }

    /// Puts a replacement that has taken all chunks in the place of a shard's base.
    ///
    /// `pending` is what of the outbox up to the number `upto_local` the new base does not hold; what was admitted since stays pending too. Whatever is in
    /// memory of the shard is made again when it is asked for. When this returns the new base is durable and the old one gone; whatever interrupts it
    /// leaves one of the two, whole. States of another layout wait for their history: run the backfill where [`Self::unsettled`] says so. Blocks on the disk;
    /// readers of the shard wait while its pending changes are put on the new base.
    pub fn replace(
        &self,
        replacement: Replacement,
        head: &SnapshotHead,
        upto_local: u64,
        pending: Vec<(u64, Vec<u8>)>,
    ) -> Result<(), ShardError> {
        replacement.check(head)?;
        let shard = head.shard;
        let cell = self.held_cell(shard)?;
        let _moves = cell.moves.lock();
        let given = self.outgoing(shard, pending)?;
        let mut place = Place::new(head.cursor, head.checksum);
        place.origins.extend(head.origins.iter().copied());
        if replacement.sums.waiting > 0 || replacement.layout != *self.observer.layout() {
            let mut replaced = self.replaced.lock();
            *replaced += 1;
            self.disk.settle(None)?;
        }
        self.put_in(cell, replacement.fresh, place, upto_local, given)
    }

    /// Forgets a shard's base, so that it follows the log from the beginning. What is pending stays so.
    pub fn reset(&self, shard: ShardId) -> Result<(), ShardError> {
        let cell = self.held_cell(shard)?;
        let _moves = cell.moves.lock();
        let place = Place::new(Cursor { epoch: cell.cursor().epoch, seq: 0 }, 0);
        self.put_in(cell, self.disk.fresh(shard)?, place, 0, Vec::new())
    }

    /// Reads and observes changes of an outbox, but for those that are pending as they are.
    fn outgoing(&self, shard: ShardId, changes: Vec<(u64, Vec<u8>)>) -> Result<Vec<Outgoing>, ShardError> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        {
            let state = self.cell(shard).state.lock();
            for (local, bytes) in changes {
                match state.pending.of_local(local).filter(|queued| *queued.change.bytes == *bytes) {
                    Some(Queued { local, identifier, change }) => {
                        known.push((*local, identifier.clone(), Arc::clone(change)));
                    }
                    None => unknown.push((local, bytes)),
                }
            }
        }
        known.extend(self.read_outstanding(shard, unknown)?);
        known.sort_by_key(|(local, ..)| *local);
        Ok(known)
    }

    /// Lets a fresh tree serve.
    fn put_in(
        &self,
        cell: &Cell,
        fresh: Fresh,
        place: Place,
        upto_local: u64,
        given: Vec<Outgoing>,
    ) -> Result<(), ShardError> {
        fresh.stand(&Move {
            cursor: place.cursor,
            checksum: Some(place.checksum),
            origins: place.origins.iter().map(|(origin, applied)| (*origin, *applied)).collect(),
            forgotten: Vec::new(),
        })?;
        // Whole and durable before it is named.
        self.disk.sync()?;
        {
            let _rows = cell.rows.write();
            let mut state = cell.state.lock();
            self.disk.serve(fresh)?;
            self.forget_views(cell, &mut state);
            cell.stand(place);
            // Of another base.
            *cell.tally.lock() = None;
            self.put_pending(cell, &mut state, upto_local, given)?;
        }
        self.disk.sync()?;
        self.disk.drop_replaced()
    }

    /// Nothing that is in memory of a shard holds any more.
    fn forget_views(&self, cell: &Cell, state: &mut MutexGuard<'_, State>) {
        cell.floor.store(state.next_revision(), Ordering::Release);
        state.loading.values_mut().for_each(|changed| *changed = true);
        for (_, slot) in state.joined.drain() {
            if let Some(slot) = slot.upgrade() {
                slot.drop_joined();
            }
        }
    }

    /// Puts pending changes on a new base: those given, and those admitted with higher numbers than `upto_local`.
    fn put_pending(
        &self,
        cell: &Cell,
        state: &mut MutexGuard<'_, State>,
        upto_local: u64,
        given: Vec<Outgoing>,
    ) -> Result<(), ShardError> {
        let (before, weight) = state.pending.drain();
        self.pending_bytes.fetch_sub(weight, Ordering::Relaxed);
        let since = before.into_iter().filter(|queued| queued.local > upto_local);
        let since = since.map(|Queued { local, identifier, change }| (local, identifier, change));
        let given = given.into_iter().filter(|(local, ..)| *local <= upto_local);
        let mut touched: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
        let seq = cell.cursor().seq;
        let mut weight = 0;
        for (local, identifier, change) in given.chain(since) {
            if self.is_held_already(state, &identifier, &change, seq)? {
                continue;
            }
            let held = match touched.get(&identifier) {
                // Its first pending change has brought its ids.
                Some(base) => Held { fragment: Arc::clone(base), seen: None },
                None => self.read_held(&identifier)?.0,
            };
            weight += change.weight();
            let base = Arc::clone(&held.fragment);
            state.pending.push_as(local, &identifier, &change, || held);
            touched.entry(identifier).or_insert(base);
        }
        self.pending_bytes.fetch_add(weight, Ordering::Relaxed);
        for (identifier, base) in touched {
            self.rest_on(state, &identifier, &base, &[], seq, None)?;
        }
        Ok(())
    }
}
