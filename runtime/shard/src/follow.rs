//! Following a centre: what it has ordered, this edge's own changes and those of others, goes into the base in its order.
//!
//! An entry whose id its fragment has at a lower sequence contributes nothing, whoever sent it. Own changes leave the pending ones when their entries come; a
//! pending event whose id an entry of somebody else brings is void, since the centre will not order it again. The views of whatever was touched become
//! the new base and what is pending still.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{MutexGuard, RwLockUpgradableReadGuard};
use selvedge_core::change::Change;
use selvedge_core::fragment::{Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::sync::Entry;
use selvedge_core::value::Timestamp;
use selvedge_core::view::{Cursor, Seen};

use crate::disk::{FragmentWrite, HistoryEntry};
use crate::erasure::kept;
use crate::maps::{HashMap, HashSet};
use crate::pending::{Body, Held, PendingChange, apply_all};
use crate::profiles::Follow;
use crate::{Cell, ShardError, Shards, State};

/// An entry of the centre's log, as an edge follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The entry.
    pub entry: Entry,
    /// Of this edge's own changes: the number in its outbox.
    pub own: Option<u64>,
}

/// A change on its way into the base.
struct Item {
    seq: u64,
    change: Arc<PendingChange>,
    /// Whether it is pending, so that the view has it.
    pending: bool,
}

/// The changes of one fragment, and what they come to.
struct Touched {
    items: Vec<Item>,
    base: Arc<Fragment>,
    /// The base without them.
    before: Arc<Fragment>,
    /// The ids of its events, if they are at hand.
    seen: Option<Arc<Seen>>,
    folded: Folded,
    /// Whether they are the first of its pending changes and nothing else, so that the view stays as it is.
    first_pending: bool,
}

impl Touched {
    /// What the fragment's history gets of them.
    fn history(&self, identifier: &Identifier) -> Vec<HistoryEntry> {
        kept(identifier, self.before.erased, self.items.iter().map(|item| (item.seq, &item.change)))
    }
}

/// What a fold begins with.
enum Start {
    /// The base becomes that of the view: all its pending changes go in, and nothing else. And the base as it is, with the ids that the view knows.
    View(Arc<Fragment>, Held),
    /// A base that is in memory, with the ids at hand.
    Memory(Held),
    /// It is to be read.
    Disk,
}

impl Shards {
    /// Moves the base along the centre's log. Entries follow the cursor without a gap, in its epoch; a base that holds nothing follows in any epoch.
    ///
    /// When it returns the entries are in the base and in every view; pending changes up to the highest own number among them are gone, and so are
    /// those that they make void. On an error nothing has moved but what the next call repeats. Calls for one shard wait for one another, calls
    /// for several do not. Blocks on the disk.
    pub fn follow(&self, shard: ShardId, epoch: u32, entries: &[Ordered]) -> Result<(), ShardError> {
        let cell = self.held_cell(shard)?;
        let _moves = cell.moves.lock();
        follows(shard, cell.cursor(), epoch, entries)?;
        if entries.is_empty() {
            return Ok(());
        }
        let to = cell.place.read().after(epoch, entries.iter().map(|ordered| &ordered.entry))?;
        let groups = self.read_entries(shard, cell, entries)?;
        let rows = cell.rows.upgradable_read();
        let touched = self.fold_groups(cell, groups)?;
        let _rows = RwLockUpgradableReadGuard::upgrade(rows);
        self.write_touched(shard, to.clone(), &touched)?;
        let mut state = cell.state.lock();
        let own = entries.iter().filter_map(|ordered| ordered.own).max().unwrap_or(0);
        self.show_touched(&mut state, &touched, own, to.cursor.seq)?;
        cell.go(to);
        drop(state);
        cell.count(touched.iter().map(|(identifier, touched)| (identifier, &*touched.before, &*touched.base)));
        Ok(())
    }

    pub(crate) fn held_cell(&self, shard: ShardId) -> Result<&Cell, ShardError> {
        let cell = self.cell(shard);
        if cell.held { Ok(cell) } else { Err(ShardError::NotHeld(shard.0)) }
    }

    /// Reads and observes entries, by fragment. What is pending was observed when it came.
    fn read_entries(
        &self,
        shard: ShardId,
        cell: &Cell,
        entries: &[Ordered],
    ) -> Result<HashMap<Identifier, Vec<Item>>, ShardError> {
        let mut groups: HashMap<Identifier, Vec<Item>> = HashMap::default();
        let pending: Vec<_> = {
            let state = cell.state.lock();
            let of_local = |ordered: &Ordered| {
                // An erasure may have replaced the bytes: the log's hold.
                let own = ordered.own.and_then(|local| state.pending.of_local(local));
                own.filter(|own| *own.change.bytes == *ordered.entry.bytes).cloned()
            };
            entries.iter().map(of_local).collect()
        };
        for (Ordered { entry, .. }, own) in entries.iter().zip(pending) {
            if let Some(own) = own {
                let item = Item { seq: entry.seq, change: own.change, pending: true };
                groups.entry(own.identifier).or_default().push(item);
                continue;
            }
            let change = Change::decode(&entry.bytes)?;
            let Some(identifier) = change.fragment() else { continue };
            if identifier.shard() != shard {
                let detail = format!("entry {} of shard {} is of {identifier}, of another shard", entry.seq, shard.0);
                return Err(ShardError::Corrupt(detail));
            }
            let Some(body) = self.body(&change) else { continue };
            let change_read = Arc::new(PendingChange { bytes: Arc::clone(&entry.bytes), body });
            let item = Item { seq: entry.seq, change: change_read, pending: false };
            match groups.get_mut(identifier) {
                Some(items) => items.push(item),
                None => drop(groups.insert(identifier.clone(), vec![item])),
            }
        }
        Ok(groups)
    }

    /// Folds changes onto their fragments' bases, those that count. The rows are at rest.
    fn fold_groups(
        &self,
        cell: &Cell,
        groups: HashMap<Identifier, Vec<Item>>,
    ) -> Result<HashMap<Identifier, Touched>, ShardError> {
        let starts: Vec<_> = {
            let state = cell.state.lock();
            groups.iter().map(|(identifier, items)| self.start(&state, identifier, items)).collect()
        };
        let mut touched = HashMap::with_capacity_and_hasher(groups.len(), Default::default());
        for ((identifier, items), (start, first_pending)) in groups.into_iter().zip(starts) {
            let held = match start {
                Start::View(base, Held { fragment: before, seen }) => {
                    let whole = Touched { items, base, before, seen, folded: Folded::Counted, first_pending };
                    touched.insert(identifier, whole);
                    continue;
                }
                Start::Memory(held) => held,
                Start::Disk => self.read_held(&identifier)?.0,
            };
            let seq = cell.cursor().seq;
            let items = self.that_count(&identifier, items, &held, seq)?;
            if items.is_empty() {
                continue;
            }
            let (mut base, before, seen) = (Arc::clone(&held.fragment), held.fragment, held.seen);
            let changes = || items.iter().map(|item| &item.change);
            let folded = apply_all(changes(), Arc::make_mut(&mut base), self.observer.definitions());
            if folded == Folded::Refold {
                let past = self.past_of(&identifier, seq, changes().cloned().collect())?.since(before.erased);
                base = Arc::new(self.refold(&past, Timestamp(i64::MAX))?);
            }
            touched.insert(identifier, Touched { items, base, before, seen, folded, first_pending });
        }
        Ok(touched)
    }

    /// What the fold of a fragment's changes begins with, and whether these are the first of its pending ones.
    fn start(&self, state: &State, identifier: &Identifier, items: &[Item]) -> (Start, bool) {
        let Some(pending) = state.pending.get(identifier) else {
            let held = self.cached(identifier);
            let memory = |view: Arc<selvedge_core::view::View>| {
                Start::Memory(Held { fragment: Arc::clone(&view.fragment), seen: view.seen.clone() })
            };
            return (held.map_or(Start::Disk, memory), false);
        };
        let first = items.len() <= pending.changes.len()
            && items.iter().zip(&pending.changes).all(|(item, change)| Arc::ptr_eq(&item.change, change));
        if first && items.len() == pending.changes.len() {
            let before = Held { fragment: Arc::clone(&pending.base), seen: pending.seen.clone() };
            return (Start::View(Arc::clone(&pending.view), before), true);
        }
        (Start::Memory(Held { fragment: Arc::clone(&pending.base), seen: pending.seen.clone() }), first)
    }

    /// Leaves out events whose ids the fragment has at a lower sequence. What a cut write left beyond the cursor is not there yet.
    fn that_count(
        &self,
        identifier: &Identifier,
        items: Vec<Item>,
        held: &Held,
        cursor: u64,
    ) -> Result<Vec<Item>, ShardError> {
        let mut ids: HashSet<[u8; 16]> = HashSet::default();
        let (mut count, several) = (Vec::with_capacity(items.len()), items.len() > 1);
        for item in items {
            let Some(id_hash) = item.change.body.id_hash() else {
                ids.extend(item.change.body.ids());
                count.push(item);
                continue;
            };
            if several && !ids.insert(id_hash) {
                continue;
            }
            // What is pending was judged when it came, and by every write since.
            let new = item.pending
                || held.seen.as_ref().is_some_and(|seen| !seen.may_hold(&id_hash))
                || self.disk.seen(identifier, &id_hash)?.is_none_or(|seq| seq > cursor);
            if new {
                count.push(item);
            }
        }
        Ok(count)
    }

    fn write_touched(
        &self,
        shard: ShardId,
        to: crate::disk::Move,
        touched: &HashMap<Identifier, Touched>,
    ) -> Result<(), ShardError> {
        let layout = self.observer.layout();
        let writes = touched.iter().map(|(identifier, touched)| {
            let entries = touched.history(identifier);
            let seq = entries.last().map_or(to.cursor.seq, |entry| entry.seq);
            let (before, fragment) = (Some(&*touched.before), &touched.base);
            FragmentWrite { identifier, layout, seq, before, fragment, entries, seen: touched.seen.clone() }
        });
        let writes = writes.collect();
        self.disk.write(shard, to, writes)
    }

    /// Brings memory up to what was written. The rows are at rest, and hold the log up to `seq`.
    fn show_touched(
        &self,
        state: &mut MutexGuard<'_, State>,
        touched: &HashMap<Identifier, Touched>,
        own: u64,
        seq: u64,
    ) -> Result<(), ShardError> {
        let mut void = HashSet::default();
        for (identifier, Touched { items, .. }) in touched {
            let ids = items.iter().filter(|item| !item.pending).flat_map(|item| item.change.body.ids());
            void.extend(ids.filter(|id| state.pending.holds(identifier, *id)).map(|id| (identifier.clone(), id)));
        }
        let mut left = state.pending.leave(own, &void);
        self.pending_bytes.fetch_sub(left.weight, Ordering::Relaxed);
        for (identifier, touched) in touched {
            if let Some(changed) = state.loading.get_mut(identifier) {
                *changed = true;
            }
            let went = left.counts.remove(identifier).unwrap_or(0);
            if touched.first_pending && went == touched.items.len() {
                state.pending.rebase(identifier, Arc::clone(&touched.base));
                state.pending.take_settled(identifier);
                continue;
            }
            let new = || touched.items.iter().filter(|item| !item.pending).map(|item| &item.change);
            let ids: Vec<_> = new().flat_map(|change| change.body.ids()).collect();
            // A join follows where nothing went but what came.
            let pending = touched.items.iter().filter(|item| item.pending).count();
            let joins = went == pending
                && touched.folded == Folded::Counted
                && new().all(|change| change.body.joins(&touched.base));
            let apply = |joined: &mut Fragment| apply_all(new(), joined, self.observer.definitions());
            self.rest_on(state, identifier, &touched.base, &ids, seq, joins.then_some(&apply as Follow<'_>))?;
        }
        for identifier in left.counts.keys() {
            let Some(base) = state.pending.get(identifier).map(|pending| Arc::clone(&pending.base)) else { continue };
            self.rest_on(state, identifier, &base, &[], seq, None)?;
        }
        Ok(())
    }

    /// Shows what a base and the pending changes on it come to, now that one of them has changed. `ids` are those that the base has got; `change` is what a
    /// join makes of it. The rows are at rest, and hold the log up to `seq`.
    pub(crate) fn rest_on(
        &self,
        state: &mut MutexGuard<'_, State>,
        identifier: &Identifier,
        base: &Arc<Fragment>,
        ids: &[[u8; 16]],
        seq: u64,
        change: Option<Follow<'_>>,
    ) -> Result<(), ShardError> {
        let mut change = change;
        state.pending.remember(identifier, ids);
        let held = if let Some(settled) = state.pending.take_settled(identifier) {
            let few = base.events <= Seen::EVENTS_MAX;
            Some(Held { fragment: Arc::clone(base), seen: settled.seen.filter(|_| few) })
        } else if let Some(pending) = state.pending.get(identifier) {
            let mut view = Arc::clone(base);
            let folded = apply_all(pending.changes.iter(), Arc::make_mut(&mut view), self.observer.definitions());
            // What the base gets below a pending erasure or load may not count in the view.
            let covers = |change: &Arc<PendingChange>| matches!(change.body, Body::Erase { .. } | Body::Mart(_));
            let covered = pending.changes.iter().any(covers);
            if folded != Folded::Counted || covered {
                change = None;
            }
            if folded == Folded::Refold {
                let changes = pending.changes.iter().cloned().collect();
                let whole = self.refold(&self.past_of(identifier, seq, changes)?, Timestamp(i64::MAX))?;
                view = Arc::new(whole);
            }
            state.pending.rebase(identifier, Arc::clone(base));
            state.pending.show(identifier, view)
        } else {
            let view = self.cached(identifier);
            let seen = view.as_ref().and_then(|view| view.seen.clone()).filter(|_| base.events <= Seen::EVENTS_MAX);
            if let Some(seen) = &seen {
                ids.iter().for_each(|id_hash| seen.insert(id_hash));
            }
            // What nobody looks at does not drive anything out of the cache.
            let shown = view.is_some() || state.joined.contains_key(identifier);
            shown.then(|| Held { fragment: Arc::clone(base), seen })
        };
        if let Some(held) = held {
            self.publish(state, identifier, held, change);
        }
        Ok(())
    }
}

/// Whether entries follow a cursor.
fn follows(shard: ShardId, at: Cursor, epoch: u32, entries: &[Ordered]) -> Result<(), ShardError> {
    let starts = at.seq == 0 || at.epoch == epoch;
    match (at.seq + 1..).zip(entries).find(|(seq, ordered)| !starts || ordered.entry.seq != *seq) {
        Some((_, ordered)) => {
            Err(ShardError::Gap { shard: shard.0, at, from: Cursor { epoch, seq: ordered.entry.seq } })
        }
        None => Ok(()),
    }
}
