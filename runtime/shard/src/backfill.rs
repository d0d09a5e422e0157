//! Backfill: folding histories under definitions that are new or have changed, while everything is served.
//!
//! A record says by what each of its states was folded. What another activation folded is taken over as it is; the rest waits, says nothing and takes nothing
//! in, until [`Shards::backfill`] has folded the history. There is nothing to be lost: whatever stops it, the records still say what is missing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use selvedge_core::activation::Layout;
use selvedge_core::fragment::{Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;

use crate::pending::{Held, apply_all};
use crate::record::{Head, Record};
use crate::{ShardError, Shards, State};

/// Fragments that were read while they wait, and are taken first.
const WANTED_MAX: usize = 256;
/// How often a fold is overtaken by new changes before these are made to wait for it.
const OVERTAKEN_MAX: usize = 3;

/// What waits on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Fragments of which something waits.
    pub fragments: u64,
    /// What is missing from some of them: positions in the layout.
    pub parts: Vec<usize>,
}

/// How far a walk over all fragments has come.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    shard: u16,
    after: Option<Identifier>,
}

/// A record that waits for its history.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting {
    /// Which of the bases that a shard has had.
    base: u64,
    /// The last change in it.
    seq: u64,
}

impl Shards {
    /// Whether records may wait for their history.
    pub fn unsettled(&self) -> Result<bool, ShardError> {
        Ok(self.disk.settled()?.as_deref() != Some(&bytes(self.observer.layout())))
    }

    /// How often a base was replaced: a walk that began before the last time has not seen all.
    pub fn replaced(&self) -> u64 {
        *self.replaced.lock()
    }

    /// Says that no record waits any more, so that the next start need not look; unless a base was replaced since a walk began.
    pub fn settle(&self, begun: u64) -> Result<(), ShardError> {
        let replaced = self.replaced.lock();
        if *replaced == begun { self.disk.settle(Some(&bytes(self.observer.layout()))) } else { Ok(()) }
    }

    /// Forgets that all records have a layout that is no longer in force, before the first one is written under this one.
    pub(crate) fn begin_layout(&self) -> Result<(), ShardError> {
        if self.unsettled()? { self.disk.settle(None) } else { Ok(()) }
    }

    /// Counts what waits. Blocks on the disk.
    pub fn unfinished(&self) -> Result<Unfinished, ShardError> {
        let layout = self.observer.layout();
        let mut unfinished = Unfinished::default();
        for shard in ShardId::all() {
            self.disk.heads(shard, None, |_, head| {
                if !head.layout.covers(layout) {
                    unfinished.fragments += 1;
                    let missing = head.layout.missing(layout);
                    let new: Vec<usize> = missing.filter(|part| !unfinished.parts.contains(part)).collect();
                    unfinished.parts.extend(new);
                }
                true
            })?;
        }
        unfinished.parts.sort_unstable();
        Ok(unfinished)
    }

    /// The next fragments of which something waits, up to so many; none at the end of the walk. Blocks on the disk.
    pub fn next_unfinished(&self, walk: &mut Walk, most: usize) -> Result<Vec<Identifier>, ShardError> {
        let mut found = Vec::new();
        for shard in ShardId::all().skip(usize::from(walk.shard)) {
            if shard.0 != walk.shard {
                *walk = Walk { shard: shard.0, after: None };
            }
            let after = walk.after.take();
            let mut last = after.clone();
            self.disk.heads(shard, after.as_ref(), |identifier, head| {
                last = Some(identifier.clone());
                if !head.layout.covers(self.observer.layout()) {
                    found.push(identifier);
                }
                found.len() < most
            })?;
            walk.after = last;
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    /// A fragment that was read while it waits.
    pub fn wanted(&self) -> Option<Identifier> {
        self.wanted.lock().pop_front()
    }

    /// Says that a fragment was read while it waits. Where too many were, it is found by the walk.
    pub(crate) fn want(&self, identifier: &Identifier) {
        let mut wanted = self.wanted.lock();
        if wanted.len() < WANTED_MAX && !wanted.contains(identifier) {
            wanted.push_back(identifier.clone());
        }
    }

    /// Folds a fragment's history under the definitions in force, and puts the result in place of what waits: on disk, under its pending changes, in
    /// memory. Gives whether anything waited. Blocks on the disk.
    pub fn backfill(&self, identifier: &Identifier) -> Result<bool, ShardError> {
        let cell = self.cell(identifier.shard());
        for _ in 0..OVERTAKEN_MAX {
            let (past, waiting) = {
                let _rows = cell.rows.read();
                let Some(waiting) = self.waits(identifier)? else { return Ok(false) };
                (self.past_of(identifier, waiting.seq, Vec::new())?, waiting)
            };
            let fragment = self.refold(&past, Timestamp(i64::MAX))?;
            let _rows = cell.rows.write();
            let mut state = cell.state.lock();
            if self.waits(identifier)? == Some(waiting) {
                return self.put_in_place(&mut state, identifier, waiting.seq, fragment).map(|()| true);
            }
        }
        let _rows = cell.rows.write();
        let Some(Waiting { seq, .. }) = self.waits(identifier)? else { return Ok(false) };
        let fragment = self.refold(&self.past_of(identifier, seq, Vec::new())?, Timestamp(i64::MAX))?;
        let mut state = cell.state.lock();
        self.put_in_place(&mut state, identifier, seq, fragment).map(|()| true)
    }

    /// Does the same for several fragments of one shard, with one write. Gives the number of those that waited and are done, and those that it could
    /// not do, which are left to [`Self::backfill`].
    pub fn backfill_together(
        &self,
        shard: ShardId,
        identifiers: &[Identifier],
    ) -> Result<(usize, Vec<Identifier>), ShardError> {
        let cell = self.cell(shard);
        let mut left = Vec::new();
        let mut folded = Vec::with_capacity(identifiers.len());
        for identifier in identifiers {
            let past = {
                let _rows = cell.rows.read();
                let waits = self.waits(identifier);
                let past = |waiting: Waiting| Ok((self.past_of(identifier, waiting.seq, Vec::new())?, waiting));
                waits.and_then(|waiting| waiting.map(past).transpose())
            };
            let fold = |(past, waiting)| Ok((identifier, waiting, self.refold(&past, Timestamp(i64::MAX))?));
            match past.and_then(|past| past.map(fold).transpose()) {
                Ok(done) => folded.extend(done),
                Err(ShardError::Corrupt(_) | ShardError::Change(_)) => left.push(identifier.clone()),
                Err(error) => return Err(error),
            }
        }
        let _rows = cell.rows.write();
        let mut state = cell.state.lock();
        let mut still = Vec::with_capacity(folded.len());
        for (identifier, waiting, fragment) in folded {
            match self.waits(identifier)? {
                Some(now) if now == waiting => still.push((identifier, waiting.seq, fragment)),
                Some(_) => left.push(identifier.clone()),
                None => {}
            }
        }
        let layout = self.observer.layout();
        let records = still
            .iter()
            .map(|(identifier, seq, fragment)| (*identifier, Record { layout, seq: *seq, fragment, seen: None }));
        self.disk.replace(shard, records)?;
        let done = still.len();
        for (identifier, seq, fragment) in still {
            self.show_in_place(&mut state, identifier, seq, fragment)?;
        }
        Ok((done, left))
    }

    /// What of a fragment waits for its history, up to the cursor.
    fn waits(&self, identifier: &Identifier) -> Result<Option<Waiting>, ShardError> {
        let Some(Head { layout, seq, .. }) = self.disk.head(identifier)? else { return Ok(None) };
        let cell = self.cell(identifier.shard());
        let waiting = Waiting { base: cell.floor.load(Ordering::Acquire), seq: seq.min(cell.cursor().seq) };
        Ok((!layout.covers(self.observer.layout())).then_some(waiting))
    }

    /// Replaces a base that holds the same changes, wherever it stands. The rows and the state are locked, since a record may be read under either lock.
    fn put_in_place(
        &self,
        state: &mut MutexGuard<'_, State>,
        identifier: &Identifier,
        seq: u64,
        fragment: Fragment,
    ) -> Result<(), ShardError> {
        let record = Record { layout: self.observer.layout(), seq, fragment: &fragment, seen: None };
        self.disk.replace(identifier.shard(), [(identifier, record)].into_iter())?;
        self.show_in_place(state, identifier, seq, fragment)
    }

    /// The same in memory.
    fn show_in_place(
        &self,
        state: &mut MutexGuard<'_, State>,
        identifier: &Identifier,
        seq: u64,
        fragment: Fragment,
    ) -> Result<(), ShardError> {
        let base = Arc::new(fragment);
        // Whoever has read the old one and not published it reads again.
        if let Some(changed) = state.loading.get_mut(identifier) {
            *changed = true;
        }
        let pending = state.pending.get(identifier).map(|pending| pending.changes.iter().cloned().collect::<Vec<_>>());
        let held = if let Some(changes) = pending {
            let mut view = Fragment::clone(&base);
            if apply_all(changes.iter(), &mut view, self.observer.definitions()) == Folded::Refold {
                view = self.refold(&self.past_of(identifier, seq, changes)?, Timestamp(i64::MAX))?;
            }
            state.pending.rebase(identifier, base);
            state.pending.show(identifier, Arc::new(view))
        } else {
            let seen = self.cached(identifier).map(|view| view.seen.clone());
            // What nobody looks at does not drive anything out of the cache.
            let joined = state.joined.contains_key(identifier);
            (seen.is_some() || joined).then(|| Held { fragment: base, seen: seen.flatten() })
        };
        if let Some(held) = held {
            self.publish(state, identifier, held, None);
        }
        Ok(())
    }
}

/// A layout as it is kept.
fn bytes(layout: &Layout) -> Vec<u8> {
    // Encoding plain data to memory cannot fail; an empty text would only cause a look at all records.
    postcard::to_allocvec(layout).unwrap_or_default()
}
