//! The local profile shards: what this edge knows of each identifier.
//!
//! [`Shards`] holds, for each of the 64 virtual shards, the *base* (a deterministic fold of the log up to a cursor, on disk), the
//! *pending* changes (this edge's own, not yet in the base, in memory) and the *views* (base + pending, cached). It promises:
//!
//! - a change admitted is in the view that the very next reader gets;
//! - an event's id counts once per identifier, whether it is pending or in the base;
//! - the cursor never moves backwards and never commits apart from its data;
//! - a slow load never overwrites a newer view.
//!
//! [`Shards::profile`] joins the fragments of one person at read; [`Shards::link`] and [`Shards::unlink`] say who is one.
//!
//! It does not order or persist changes itself: admission hands them to an [`Outbox`] under the shard's lock, so the log's order is
//! the order of admission, and [`Shards::advance`] is told when the log has them. It knows neither HTTP nor plugins: what plugins
//! contribute comes through [`Observer`].

mod cache;
mod disk;
mod links;
mod pending;
mod profiles;
mod record;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use rustc_hash::FxBuildHasher;
use selvedge_core::aggregate::Definitions;
use selvedge_core::change::{Change, ChangeError};
use selvedge_core::event::{Event, Refusal};
use selvedge_core::fragment::{Bounds, Effects, EventRef, Fragment};
use selvedge_core::identity::{Identifier, Namespaces, ShardId};
use selvedge_core::links::Word;
use selvedge_core::value::Timestamp;
use selvedge_core::view::{Cursor, Seen, View};

use crate::cache::Cache;
use crate::disk::{Disk, FragmentWrite, HistoryEntry};
use crate::pending::{Body, Held, Pending, PendingChange, PendingFragment};
use crate::record::{Record, StoredRecord};

pub use crate::links::Unlinked;
pub use crate::profiles::Profile;

/// Bytes of changes that may be pending, over all shards, about.
pub const PENDING_BYTES_MAX: usize = 48 * 1024 * 1024;

/// What can go wrong in a shard.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShardError {
    /// sled failed.
    #[error("the shards on disk failed: {0}")]
    Disk(String),
    /// Something on disk is not what was written.
    #[error("corrupt on disk: {0}")]
    Corrupt(String),
    /// A change of the log cannot be read.
    #[error(transparent)]
    Change(ChangeError),
    /// A value has outgrown what a shard can hold.
    #[error("{0} is too large to be stored")]
    TooLarge(String),
    /// The outbox did not take the changes.
    #[error("the outbox failed: {0}")]
    Outbox(String),
}

/// Tells what plugins make of events. Its answers depend on the event and the activation only.
pub trait Observer: Send + Sync {
    /// The active definitions.
    fn definitions(&self) -> &Definitions;
    /// The tag of the active activation.
    fn activation(&self) -> u64;
    /// What an event does to its fragment. An event that could not be observed has the effects that it has all the same, and failures.
    fn observe(&self, event: &Event) -> Effects;
}

/// Takes changes in the order in which they were admitted.
pub trait Outbox {
    /// Appends to shards' logs, so that after a crash all of it is there or none; the error is for people.
    fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), String>;
}

/// A change that is ready to be admitted: observed and encoded.
#[derive(Debug)]
pub struct Prepared {
    identifier: Identifier,
    change: PendingChange,
}

impl Prepared {
    /// An event with its effects.
    pub fn event(identifier: Identifier, event: Event, effects: Effects) -> Self {
        let reference = EventRef::from(&event);
        let bytes = Change::Event { fragment: identifier.clone(), event }.encode().into();
        Self { identifier, change: PendingChange { bytes, body: Body::Event { event: reference, effects } } }
    }

    /// Offers that were decided.
    pub fn decided(identifier: Identifier, offers: Vec<selvedge_core::change::DecidedOffer>) -> Self {
        let bytes = Change::Decided { fragment: identifier.clone(), offers: offers.clone() }.encode().into();
        Self { identifier, change: PendingChange { bytes, body: Body::Decided(offers) } }
    }

    /// One half of a link.
    fn link(identifier: Identifier, other: Identifier, word: Word) -> Self {
        let change = Change::Link { fragment: identifier.clone(), other: other.clone(), word };
        Self { identifier, change: PendingChange { bytes: change.encode().into(), body: Body::Link { other, word } } }
    }

    /// Whose change it is.
    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    /// When it happened, of an event.
    pub fn at(&self) -> Option<Timestamp> {
        match &self.change.body {
            Body::Event { event, .. } => Some(event.at),
            Body::Decided(_) | Body::Link { .. } => None,
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Accepted,
    /// Its id was seen before; it counts once.
    Duplicate,
    /// It cannot be taken.
    Refused(Refusal),
}

/// The shards of this edge.
pub struct Shards {
    disk: Disk,
    cache: Cache,
    observer: Arc<dyn Observer>,
    cells: Vec<Cell>,
    pending_bytes: AtomicUsize,
    namespaces: Arc<Namespaces>,
    /// Held from the check of a link to its admission.
    linking: Mutex<()>,
}

/// One shard.
struct Cell {
    state: Mutex<State>,
    /// Held while the shard's rows on disk change, shared while they are read: nobody reads half a write.
    rows: RwLock<()>,
    loaded: Condvar,
    epoch: AtomicU32,
    seq: AtomicU64,
}

impl Cell {
    fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch.load(Ordering::Acquire), seq: self.seq.load(Ordering::Acquire) }
    }
}

#[derive(Default)]
struct State {
    pending: Pending,
    revision: u64,
    /// Fragments that are being loaded, and whether they changed meanwhile.
    loading: HashMap<Identifier, bool, FxBuildHasher>,
}

impl State {
    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }
}

impl Shards {
    /// Opens the shards in a directory, for a log of this name. `cache_bytes` bounds the views in memory.
    pub fn open(
        path: &Path,
        log_id: &str,
        cache_bytes: u64,
        observer: Arc<dyn Observer>,
        namespaces: Arc<Namespaces>,
    ) -> Result<Self, ShardError> {
        let disk = Disk::open(path, log_id)?;
        let cells = ShardId::all().map(|shard| {
            let cursor = disk.cursor(shard)?;
            Ok(Cell {
                state: Mutex::default(),
                rows: RwLock::new(()),
                loaded: Condvar::new(),
                epoch: AtomicU32::new(cursor.epoch),
                seq: AtomicU64::new(cursor.seq),
            })
        });
        let cells = cells.collect::<Result<_, ShardError>>()?;
        let (cache, pending_bytes, linking) = (Cache::new(cache_bytes), AtomicUsize::new(0), Mutex::new(()));
        Ok(Self { disk, cache, observer, cells, pending_bytes, namespaces, linking })
    }

    /// Up to where a shard's log is in the base.
    pub fn cursor(&self, shard: ShardId) -> Cursor {
        self.cell(shard).cursor()
    }

    /// Bytes of changes that are pending, about.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// Whether more is pending than may be: nothing new should be admitted until some of it is in the base.
    pub fn overloaded(&self) -> bool {
        self.pending_bytes() > PENDING_BYTES_MAX
    }

    /// Whether an event's id counts already for an identifier.
    pub fn knows(&self, identifier: &Identifier, id_hash: [u8; 16]) -> Result<bool, ShardError> {
        let pending = self.cell(identifier.shard()).state.lock().pending.holds(identifier, id_hash);
        Ok(pending || self.disk.seen(identifier, &id_hash)?.is_some())
    }

    /// The cached view of an identifier. Never touches the disk.
    pub fn cached(&self, identifier: &Identifier) -> Option<Arc<View>> {
        self.cache.get(identifier)
    }

    /// The view of an identifier; an empty one where nothing is known. May block on the disk: concurrent loads of one identifier are
    /// one load.
    pub fn load(&self, identifier: &Identifier) -> Result<Arc<View>, ShardError> {
        let cell = self.cell(identifier.shard());
        loop {
            let mut state = cell.state.lock();
            if let Some(view) = self.cache.get(identifier) {
                return Ok(view);
            }
            if let Some(pending) = state.pending.get(identifier) {
                let held = pending.held();
                return Ok(self.publish(&mut state, identifier, held));
            }
            if state.loading.contains_key(identifier) {
                cell.loaded.wait(&mut state);
                continue;
            }
            state.loading.insert(identifier.clone(), false);
            drop(state);
            let fragment = {
                let _rows = cell.rows.read();
                self.read_base(identifier).map(|(fragment, _)| fragment)
            };
            let mut state = cell.state.lock();
            let changed = state.loading.remove(identifier).unwrap_or(true);
            cell.loaded.notify_all();
            let fragment = fragment?;
            if !changed {
                let seen = (fragment.events == 0).then(Arc::default);
                return Ok(self.publish(&mut state, identifier, Held { fragment, seen }));
            }
        }
    }

    /// Brings everything into memory that admitting events of an identifier needs. May block on the disk.
    pub fn prepare(&self, identifier: &Identifier) -> Result<(), ShardError> {
        let cell = self.cell(identifier.shard());
        let view = self.load(identifier)?;
        if view.seen.is_some() || view.fragment.events > Seen::EVENTS_MAX {
            return Ok(());
        }
        // Ids on disk are all there are only while nothing is pending; a change in between shows in the revision.
        if cell.state.lock().pending.get(identifier).is_some() {
            return Ok(());
        }
        let seen = {
            let _rows = cell.rows.read();
            Arc::new(self.disk.all_seen(identifier)?)
        };
        let mut state = cell.state.lock();
        if self.cache.get(identifier).is_some_and(|held| held.revision == view.revision) {
            self.publish(&mut state, identifier, Held { fragment: Arc::clone(&view.fragment), seen: Some(seen) });
        }
        Ok(())
    }

    /// Whether [`Self::prepare`] has nothing to do: admitting an event of an identifier will not touch the disk, except for one lookup
    /// where the fragment has too many events to keep their ids at hand.
    pub fn prepared(&self, identifier: &Identifier) -> bool {
        self.cache.get(identifier).is_some_and(|view| view.seen.is_some() || view.fragment.events > Seen::EVENTS_MAX)
    }

    /// The state of an identifier as of an instant: a fold of the events up to it, whatever came later.
    ///
    /// Offers decided after the instant's minute do not count.
    pub fn as_of(&self, identifier: &Identifier, at: Timestamp) -> Result<Fragment, ShardError> {
        let mut fragment = Fragment::empty(self.observer.definitions());
        self.history(identifier, |mut change| {
            match &mut change {
                Change::Event { event, .. } if event.at > at => return,
                Change::Decided { offers, .. } => offers.retain(|decided| decided.minute <= at),
                // Who is who is not a matter of time: it is what is known now.
                Change::Event { .. } | Change::Link { .. } | Change::Activate(_) => {}
            }
            self.fold(&mut fragment, &change);
        })?;
        Ok(fragment)
    }

    /// Hands over all changes of an identifier that are kept, those in the base in log order, then the pending ones.
    pub fn history(&self, identifier: &Identifier, mut take: impl FnMut(Change)) -> Result<(), ShardError> {
        let cell = self.cell(identifier.shard());
        let (history, pending) = {
            // The rows cannot change between the two looks, so no change is seen twice or not at all.
            let _rows = cell.rows.read();
            let pending: Vec<_> = {
                let state = cell.state.lock();
                let changes = state.pending.get(identifier).map(|fragment| fragment.changes.iter().cloned().collect());
                changes.unwrap_or_default()
            };
            (self.disk.history(identifier)?, pending)
        };
        // Events of a write that has been made and not yet been taken out of pending.
        let awaited: HashSet<_, FxBuildHasher> = pending.iter().filter_map(|change| change.body.id_hash()).collect();
        let mut seen: HashSet<[u8; 16], FxBuildHasher> = HashSet::default();
        history.for_each(|_, change| {
            seen.extend(id_hash(&change).filter(|hash| awaited.contains(hash)));
            take(change);
        })?;
        for change in pending.iter().filter(|change| change.body.id_hash().is_none_or(|hash| !seen.contains(&hash))) {
            take(Change::decode(&change.bytes)?);
        }
        Ok(())
    }

    /// Admits changes of one shard, in order: those that count are in the views and in the outbox when this returns, the rest says why
    /// not. May block on the disk for fragments that are not in memory; [`Self::load`] them before.
    pub fn admit(
        &self,
        shard: ShardId,
        changes: Vec<Prepared>,
        outbox: &dyn Outbox,
    ) -> Result<Vec<Verdict>, ShardError> {
        let cell = self.cell(shard);
        let mut state = cell.state.lock();
        let mut bases: HashMap<Identifier, Held, FxBuildHasher> = HashMap::default();
        for prepared in &changes {
            if !bases.contains_key(&prepared.identifier) {
                bases.insert(prepared.identifier.clone(), self.current(&state, &prepared.identifier)?);
            }
        }
        let verdicts = self.judge(&state, &changes, &bases)?;
        let accepted = || changes.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Accepted);
        let bytes: Vec<_> = accepted().map(|(prepared, _)| Arc::clone(&prepared.change.bytes)).collect();
        if bytes.is_empty() {
            return Ok(verdicts);
        }
        outbox.append(vec![(shard, bytes)]).map_err(ShardError::Outbox)?;
        let accepted = changes.into_iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Accepted);
        self.take(&mut state, accepted.map(|(prepared, _)| prepared), &bases);
        Ok(verdicts)
    }

    /// Makes changes that the outbox has pending, on top of their fragments as they stand, and publishes the views.
    fn take(
        &self,
        state: &mut MutexGuard<'_, State>,
        changes: impl Iterator<Item = Prepared>,
        bases: &HashMap<Identifier, Held, FxBuildHasher>,
    ) {
        let (definitions, mut touched, mut weight) =
            (self.observer.definitions(), HashSet::<_, FxBuildHasher>::default(), 0);
        for Prepared { identifier, change } in changes {
            weight += change.weight();
            // Every identifier has its base.
            let held = || bases.get(&identifier).cloned().unwrap_or_default();
            state.pending.push(&identifier, change, held, definitions);
            touched.insert(identifier);
        }
        self.pending_bytes.fetch_add(weight, Ordering::Relaxed);
        for identifier in touched {
            if let Some(changed) = state.loading.get_mut(&identifier) {
                *changed = true;
            }
            if let Some(held) = state.pending.get(&identifier).map(PendingFragment::held) {
                self.publish(state, &identifier, held);
            }
        }
    }

    /// Which changes count: each id once, and within the bounds of a profile, each judged as if those before it had been folded.
    fn judge(
        &self,
        state: &State,
        changes: &[Prepared],
        bases: &HashMap<Identifier, Held, FxBuildHasher>,
    ) -> Result<Vec<Verdict>, ShardError> {
        let mut fresh: HashSet<(&Identifier, [u8; 16]), FxBuildHasher> = HashSet::default();
        let mut bounds: HashMap<&Identifier, Bounds, FxBuildHasher> = HashMap::default();
        let mut verdicts = Vec::with_capacity(changes.len());
        for Prepared { identifier, change } in changes {
            let Body::Event { event, effects } = &change.body else {
                verdicts.push(Verdict::Accepted);
                continue;
            };
            // Every identifier has its base.
            let Some(Held { fragment, seen }) = bases.get(identifier) else { continue };
            let on_disk = || match seen {
                Some(seen) if !seen.may_hold(&event.id_hash) => Ok(false),
                _ => self.disk.seen(identifier, &event.id_hash).map(|seq| seq.is_some()),
            };
            let known = state.pending.holds(identifier, event.id_hash)
                || fresh.contains(&(identifier, event.id_hash))
                || on_disk()?;
            if known {
                verdicts.push(Verdict::Duplicate);
                continue;
            }
            let bounds = bounds.entry(identifier).or_insert_with(|| Bounds::of(fragment));
            verdicts.push(match bounds.admit(event.at, effects) {
                Ok(()) => {
                    fresh.insert((identifier, event.id_hash));
                    Verdict::Accepted
                }
                Err(refusal) => Verdict::Refused(refusal),
            });
        }
        Ok(verdicts)
    }

    /// Moves the first pending changes of a shard into the base: the log has ordered them, with consecutive sequences from `first_seq`.
    /// Calls for one shard must not overlap.
    pub fn advance(&self, shard: ShardId, first_seq: u64, count: usize) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let definitions = self.observer.definitions();
        let mut histories: HashMap<Identifier, Vec<HistoryEntry>, FxBuildHasher> = HashMap::default();
        let mut bases: HashMap<Identifier, Arc<Fragment>, FxBuildHasher> = HashMap::default();
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
                if let Some(base) = state.pending.base_after(identifier, entries.len(), definitions) {
                    bases.insert(identifier.clone(), base);
                }
            }
        }
        let cursor = Cursor { epoch: cell.cursor().epoch, seq: first_seq + count as u64 - 1 };
        {
            let _rows = cell.rows.write();
            let written = bases.iter().map(|(identifier, fragment)| (identifier, fragment, 0));
            self.write(shard, cursor, &histories, written)?;
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
        let mut histories: HashMap<Identifier, Vec<HistoryEntry>, FxBuildHasher> = HashMap::default();
        let mut bases: HashMap<Identifier, (Arc<Fragment>, u64), FxBuildHasher> = HashMap::default();
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
            // A write that a crash cut off may have got as far as this fragment, but not to the cursor.
            if *seq > *folded {
                self.fold(Arc::make_mut(base), &change);
            }
        }
        let _rows = cell.rows.write();
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

    /// Does the housekeeping that is due; call it about once a second.
    pub fn maintain(&self) {
        self.cache.maintain();
    }

    /// Hands everything on disk to the operating system; a start after this has little to recover. Blocks.
    pub fn flush(&self) -> Result<(), ShardError> {
        self.disk.flush()
    }

    /// Views in memory, their bytes (about), and bytes on disk.
    pub fn usage(&self) -> Usage {
        let (views, view_bytes) = self.cache.usage();
        Usage { views, view_bytes, pending_bytes: self.pending_bytes() as u64, disk_bytes: self.disk.size_on_disk() }
    }

    fn cell(&self, shard: ShardId) -> &Cell {
        &self.cells[usize::from(shard.0)]
    }

    fn publish(&self, state: &mut MutexGuard<'_, State>, identifier: &Identifier, held: Held) -> Arc<View> {
        let Held { fragment, seen } = held;
        let revision = state.next_revision();
        let view = Arc::new(View { identifier: identifier.clone(), fragment, revision, seen });
        self.cache.publish(Arc::clone(&view));
        view
    }

    /// The newest state of a fragment, under its shard's lock.
    fn current(&self, state: &State, identifier: &Identifier) -> Result<Held, ShardError> {
        if let Some(pending) = state.pending.get(identifier) {
            return Ok(pending.held());
        }
        if let Some(view) = self.cache.get(identifier) {
            return Ok(Held { fragment: Arc::clone(&view.fragment), seen: view.seen.clone() });
        }
        // Seldom: it was evicted since it was loaded. A fragment that is being written is pending, so these rows are whole.
        self.read_base(identifier).map(|(fragment, _)| Held { fragment, seen: None })
    }

    /// The base of a fragment on disk and the last change in it; folded again from its history where it was folded under another
    /// activation.
    fn read_base(&self, identifier: &Identifier) -> Result<(Arc<Fragment>, u64), ShardError> {
        let empty = || Fragment::empty(self.observer.definitions());
        let Some(bytes) = self.disk.record(identifier)? else { return Ok((Arc::new(empty()), 0)) };
        // The form of the states may differ under another activation, so the tag is looked at first.
        let (activation, seq) = StoredRecord::tags(&bytes)?;
        if activation == self.observer.activation() {
            return Ok((Arc::new(StoredRecord::decode(&bytes)?.fragment), seq));
        }
        let mut fragment = empty();
        self.disk.history(identifier)?.for_each(|entry, change| {
            if entry <= seq {
                self.fold(&mut fragment, &change);
            }
        })?;
        Ok((Arc::new(fragment), seq))
    }

    fn fold(&self, fragment: &mut Fragment, change: &Change) {
        match change {
            Change::Event { event, .. } => {
                let effects = self.observer.observe(event);
                fragment.apply_event(self.observer.definitions(), &EventRef::from(event), &effects);
            }
            Change::Decided { offers, .. } => fragment.apply_decided(offers),
            Change::Link { other, word, .. } => fragment.apply_link(other, *word),
            Change::Activate(_) => {}
        }
    }

    /// Writes fragments, each with its state and the last change that was in it before.
    fn write<'f>(
        &self,
        shard: ShardId,
        cursor: Cursor,
        histories: &HashMap<Identifier, Vec<HistoryEntry>, FxBuildHasher>,
        bases: impl Iterator<Item = (&'f Identifier, &'f Arc<Fragment>, u64)>,
    ) -> Result<(), ShardError> {
        let activation = self.observer.activation();
        let mut writes: Vec<FragmentWrite<'_>> = Vec::new();
        for (identifier, fragment, folded) in bases {
            let entries = histories.get(identifier).map_or(&[][..], Vec::as_slice);
            let seq = entries.last().map_or(cursor.seq, |entry| entry.seq).max(folded);
            writes.push(FragmentWrite { identifier, record: Record { activation, seq, fragment }, entries });
        }
        self.disk.write(shard, cursor, &writes)
    }
}

/// Figures for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct Usage {
    pub views: u64,
    pub view_bytes: u64,
    pub pending_bytes: u64,
    pub disk_bytes: u64,
}

fn id_hash(change: &Change) -> Option<[u8; 16]> {
    match change {
        Change::Event { event, .. } => Some(event.id_hash()),
        Change::Decided { .. } | Change::Link { .. } | Change::Activate(_) => None,
    }
}

#[cfg(test)]
mod tests;
