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
//! It does not order or persist changes itself: admission hands them to an [`Outbox`] under the shard's lock, so the outbox's order is
//! the order of admission. Where the outbox is the log, [`Shards::advance`] is told when the log has them; an edge that follows a centre
//! passes on what that has ordered, its own changes and those of others, to [`Shards::follow`]. It knows neither HTTP nor plugins: what plugins
//! contribute comes through [`Observer`].

mod admission;
mod backfill;
mod base;
mod block;
mod cache;
mod disk;
mod erasure;
mod everyone;
mod follow;
mod hash;
mod links;
mod maps;
mod origins;
mod outstanding;
mod overlay;
mod pending;
mod profiles;
mod record;
mod refold;
mod replacement;
mod snapshot;
mod walk;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use selvedge_core::activation::Layout;
use selvedge_core::aggregate::Definitions;
use selvedge_core::change::ChangeError;
use selvedge_core::effects::Effects;
use selvedge_core::event::Event;
use selvedge_core::fragment::Folded;
use selvedge_core::identity::{Identifier, Namespaces, ShardId};
use selvedge_core::offers::everyone::Tally;
use selvedge_core::sync::Origin;
use selvedge_core::view::{Cursor, Seen, View};

use crate::cache::{Cache, Found};
use crate::disk::{Disk, Move};
use crate::maps::HashMap;
use crate::origins::Place;
use crate::pending::{Held, Pending};

pub use crate::admission::{Prepared, Verdict};
pub use crate::backfill::{Unfinished, Walk};
pub use crate::disk::Storage;
pub use crate::everyone::Still;
pub use crate::follow::Ordered;
pub use crate::hash::StateHash;
pub use crate::links::Unlinked;
pub use crate::origins::{Applied, ORIGINS_MAX};
pub use crate::outstanding::Outstanding;
pub use crate::profiles::Profile;
use crate::profiles::{Follow, Slot};
pub use crate::replacement::Replacement;
pub use crate::snapshot::{CHUNK_EXPANDED_MAX, HEAD_BYTES_MAX, SnapshotHead};
use crate::walk::Piece;

/// Bytes of changes that may be pending, over all shards, about, unless told otherwise.
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
    /// Entries that do not follow what the base holds.
    #[error(
        "shard {shard}: the base ends at {at:?}, the entries begin at {from:?}; follow on from there, or start from a snapshot"
    )]
    Gap {
        /// Whose.
        shard: u16,
        /// The cursor.
        at: Cursor,
        /// The first entry, or where the order breaks.
        from: Cursor,
    },
    /// What was written may not be on the disk. The process must not go on: nobody can tell what is.
    #[error(
        "the shards on disk could not be made durable: {0}; mend the disk and start anew, nothing acknowledged is lost"
    )]
    NotDurable(String),
    /// A snapshot that cannot be used.
    #[error("the snapshot cannot be used: {0}")]
    Snapshot(String),
    /// A shard of which this edge has no base.
    #[error("shard {0} is not held by this edge; name it among the shards that it is to hold, and start anew")]
    NotHeld(u16),
}

/// Tells what plugins make of events. Its answers depend on the event and the activation only.
pub trait Observer: Send + Sync {
    /// The active definitions.
    fn definitions(&self) -> &Definitions;
    /// By what states are folded now.
    fn layout(&self) -> &Layout;
    /// What an event does to its fragment. An event that could not be observed has the effects that it has all the same, and failures.
    fn observe(&self, event: &Event) -> Effects;
}

/// Takes changes in the order in which they were admitted.
pub trait Outbox {
    /// Appends to shards' logs, so that after a crash all of it is there or none; the error is for people.
    fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), String>;
}

/// The shards of this edge.
pub struct Shards {
    disk: Arc<Disk>,
    cache: Cache,
    cache_bytes: u64,
    observer: Arc<dyn Observer>,
    cells: Vec<Cell>,
    pending_bytes: AtomicUsize,
    pending_bytes_max: AtomicUsize,
    namespaces: Arc<Namespaces>,
    /// Held from the check of a link to its admission.
    linking: Mutex<()>,
    /// Fragments that were read while their history waits to be folded.
    wanted: Mutex<VecDeque<Identifier>>,
    /// How often a base was replaced by one that waits for its history.
    replaced: Mutex<u64>,
}

/// One shard. Its locks are taken in the order in which they stand here.
struct Cell {
    /// Held by whoever moves the base, one after another.
    moves: Mutex<()>,
    /// Held while the shard's rows on disk change, shared while they are read: nobody reads half a write.
    rows: RwLock<()>,
    state: Mutex<State>,
    loaded: Condvar,
    /// Where the base stands; the cursor also beside it, for whoever wants nothing else.
    place: RwLock<Place>,
    epoch: AtomicU32,
    seq: AtomicU64,
    /// Views with lower revisions are of a base that was replaced.
    floor: AtomicU64,
    /// Whether there is a base at all.
    held: bool,
    /// What the base comes to over everyone, once somebody has asked.
    tally: Mutex<Option<Tally>>,
}

impl Cell {
    fn new(place: Place, held: bool) -> Self {
        Self {
            moves: Mutex::new(()),
            rows: RwLock::new(()),
            state: Mutex::default(),
            loaded: Condvar::new(),
            epoch: AtomicU32::new(place.cursor.epoch),
            seq: AtomicU64::new(place.cursor.seq),
            place: RwLock::new(place),
            floor: AtomicU64::new(0),
            held,
            tally: Mutex::default(),
        }
    }

    fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch.load(Ordering::Acquire), seq: self.seq.load(Ordering::Acquire) }
    }

    /// The base has moved, and everybody may know.
    fn go(&self, to: Move) {
        let mut place = self.place.write();
        place.go(to);
        self.show_cursor(place.cursor);
    }

    /// Another base stands here.
    fn stand(&self, at: Place) {
        let mut place = self.place.write();
        *place = at;
        self.show_cursor(place.cursor);
    }

    fn show_cursor(&self, cursor: Cursor) {
        self.epoch.store(cursor.epoch, Ordering::Release);
        self.seq.store(cursor.seq, Ordering::Release);
    }
}

#[derive(Default)]
struct State {
    pending: Pending,
    revision: u64,
    /// Fragments that are being loaded, and whether they changed meanwhile.
    loading: HashMap<Identifier, bool>,
    /// The joined profiles in which fragments are.
    joined: HashMap<Identifier, Weak<Slot>>,
    /// How many of them there were after the last clearing.
    joined_kept: usize,
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
        Self::open_holding(path, log_id, cache_bytes, observer, namespaces, &|_| true)
    }

    /// The same, with a base for some shards only. The views of the others are what is pending; what an earlier start held of them is forgotten.
    pub fn open_holding(
        path: &Path,
        log_id: &str,
        cache_bytes: u64,
        observer: Arc<dyn Observer>,
        namespaces: Arc<Namespaces>,
        held: &dyn Fn(ShardId) -> bool,
    ) -> Result<Self, ShardError> {
        let disk = Arc::new(Disk::open(path, log_id, cache_bytes)?);
        disk.write_behind()?;
        let cells = ShardId::all().map(|shard| {
            let held = held(shard);
            if !held {
                disk.clear(shard)?;
            }
            Ok(Cell::new(disk.place(shard)?, held))
        });
        let cells = cells.collect::<Result<_, ShardError>>()?;
        let (cache, pending_bytes, linking) = (Cache::new(cache_bytes), AtomicUsize::new(0), Mutex::new(()));
        let wanted = Mutex::default();
        let pending_bytes_max = AtomicUsize::new(PENDING_BYTES_MAX);
        let shards = Self {
            disk,
            cache,
            cache_bytes,
            observer,
            cells,
            pending_bytes,
            pending_bytes_max,
            namespaces,
            linking,
            wanted,
            replaced: Mutex::default(),
        };
        shards.begin_layout()?;
        Ok(shards)
    }

    /// The same shards folded by another observer: bases as they are on disk, what is pending observed anew, nothing in memory. Whoever calls sees to it that nobody
    /// uses the ones before from here on. Blocks on the disk.
    pub fn renew(&self, observer: Arc<dyn Observer>) -> Result<Self, ShardError> {
        let cells = self.cells.iter().map(|cell| {
            let renewed = Cell::new(cell.place.read().clone(), cell.held);
            // What happened with offers is the same, whatever folds it.
            *renewed.tally.lock() = cell.tally.lock().take();
            renewed
        });
        let cells = cells.collect();
        let shards = Self {
            disk: Arc::clone(&self.disk),
            cache: Cache::new(self.cache_bytes),
            cache_bytes: self.cache_bytes,
            observer,
            cells,
            pending_bytes: AtomicUsize::new(0),
            pending_bytes_max: AtomicUsize::new(self.pending_bytes_max.load(Ordering::Relaxed)),
            namespaces: Arc::clone(&self.namespaces),
            linking: Mutex::new(()),
            wanted: Mutex::default(),
            replaced: Mutex::default(),
        };
        shards.begin_layout()?;
        for (shard, cell) in ShardId::all().zip(&self.cells) {
            let (next_local, pending) = {
                let state = cell.state.lock();
                let queued = state.pending.first(usize::MAX);
                let pending = queued.map(|queued| (queued.local, queued.change.bytes.to_vec())).collect();
                (state.pending.next_local(), pending)
            };
            shards.begin_pending(shard, next_local)?;
            shards.restore_pending(shard, pending)?;
        }
        Ok(shards)
    }

    /// Whether this edge has a base of a shard.
    pub fn holds(&self, shard: ShardId) -> bool {
        self.cell(shard).held
    }

    /// Up to where a shard's log is in the base.
    pub fn cursor(&self, shard: ShardId) -> Cursor {
        self.cell(shard).cursor()
    }

    /// The same, with the sum of [`mix`](selvedge_core::sync::mix) over all entries up to there. Only [`Self::follow`] keeps the sum: it says nothing of a base
    /// that [`Self::advance`] or [`Self::recover`] moved.
    pub fn place(&self, shard: ShardId) -> (Cursor, u64) {
        let place = self.cell(shard).place.read();
        (place.cursor, place.checksum)
    }

    /// The checksum of a shard's log up to the cursor; see [`Self::place`].
    pub fn checksum(&self, shard: ShardId) -> u64 {
        self.place(shard).1
    }

    /// The highest number of an origin's changes that the base has followed; 0 where nothing came of it, or nothing for very long.
    pub fn applied(&self, shard: ShardId, origin: Origin) -> u64 {
        self.cell(shard).place.read().origins.get(&origin).map_or(0, |applied| applied.number)
    }

    /// The number in the outbox of the last change that was admitted to a shard.
    pub fn admitted(&self, shard: ShardId) -> u64 {
        self.cell(shard).state.lock().pending.next_local() - 1
    }

    /// Bytes of changes that are pending, about.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// Whether more is pending than may be: nothing new should be admitted until some of it is in the base.
    pub fn overloaded(&self) -> bool {
        self.pending_bytes() > self.pending_bytes_max.load(Ordering::Relaxed)
    }

    /// Sets how much may be pending: for an edge, whose changes are pending until its centre has them.
    pub fn bound_pending(&self, bytes: usize) {
        self.pending_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Whether an event's id counts already for an identifier.
    pub fn knows(&self, identifier: &Identifier, id_hash: [u8; 16]) -> Result<bool, ShardError> {
        let pending = self.cell(identifier.shard()).state.lock().pending.holds(identifier, id_hash);
        Ok(pending || self.disk.seen(identifier, &id_hash)?.is_some())
    }

    /// The cached view of an identifier. Never touches the disk.
    pub fn cached(&self, identifier: &Identifier) -> Option<Arc<View>> {
        let cell = self.cell(identifier.shard());
        let view = match self.cache.get(identifier) {
            Found::Settled(view) => view?,
            Found::Behind(view) => {
                // Another time, where the shard is busy; whoever has the lock already asks in vain.
                if let Some(_state) = cell.state.try_lock() {
                    self.cache.bring_forward(identifier);
                }
                view
            }
        };
        (view.revision >= cell.floor.load(Ordering::Acquire)).then_some(view)
    }

    /// The view of an identifier; an empty one where nothing is known. May block on the disk: concurrent loads of one identifier are
    /// one load.
    pub fn load(&self, identifier: &Identifier) -> Result<Arc<View>, ShardError> {
        let cell = self.cell(identifier.shard());
        loop {
            let mut state = cell.state.lock();
            if let Some(view) = self.cached(identifier) {
                return Ok(view);
            }
            if let Some(pending) = state.pending.get(identifier) {
                let held = pending.held();
                return Ok(self.publish(&mut state, identifier, held, Some(&|_| Folded::Counted)));
            }
            if state.loading.contains_key(identifier) {
                cell.loaded.wait(&mut state);
                continue;
            }
            state.loading.insert(identifier.clone(), false);
            drop(state);
            let held = {
                let _rows = cell.rows.read();
                self.read_held(identifier)
            };
            let mut state = cell.state.lock();
            let changed = state.loading.remove(identifier).unwrap_or(true);
            cell.loaded.notify_all();
            let (held, _) = held?;
            if !changed {
                if held.fragment.is_backfilling() {
                    self.want(identifier);
                }
                return Ok(self.publish(&mut state, identifier, held, Some(&|_| Folded::Counted)));
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
        if self.cached(identifier).is_some_and(|held| held.revision == view.revision) {
            let held = Held { fragment: Arc::clone(&view.fragment), seen: Some(seen) };
            self.publish(&mut state, identifier, held, Some(&|_| Folded::Counted));
        }
        Ok(())
    }

    /// Whether [`Self::prepare`] has nothing to do: admitting an event of an identifier will not touch the disk, except for one lookup
    /// where the fragment has too many events to keep their ids at hand.
    pub fn prepared(&self, identifier: &Identifier) -> bool {
        self.cached(identifier).is_some_and(|view| view.seen.is_some() || view.fragment.events > Seen::EVENTS_MAX)
    }

    /// Does the housekeeping that is due; call it about once a second.
    pub fn maintain(&self) {
        for cell in &self.cells {
            let mut state = cell.state.lock();
            // Once they have doubled: what no cache holds any more is forgotten.
            if state.joined.len() > 2 * state.joined_kept + 64 {
                state.joined.retain(|_, slot| slot.strong_count() > 0);
                state.joined_kept = state.joined.len();
            }
        }
        self.cache.maintain();
    }

    /// Hands everything on disk to the operating system; a start after this has little to recover. Blocks.
    pub fn flush(&self) -> Result<(), ShardError> {
        self.disk.flush()
    }

    /// Makes everything that the bases hold durable, and says up to where: how far the changes of `own` origins are in. What it covers need not be kept
    /// elsewhere for this edge's sake. A failure is fatal: see [`ShardError::NotDurable`]. Blocks.
    pub fn checkpoint(&self, own: &[Origin]) -> Result<Vec<Covered>, ShardError> {
        let held = ShardId::all().filter(|shard| self.holds(*shard));
        let covered = held.map(|shard| {
            let place = self.cell(shard).place.read();
            let number = |origin: &Origin| Some((*origin, place.origins.get(origin)?.number));
            Covered { shard, cursor: place.cursor, applied: own.iter().filter_map(number).collect() }
        });
        // What is shown is written, so what is written next covers it.
        let covered = covered.collect();
        self.disk.sync()?;
        self.disk.drop_replaced()?;
        Ok(covered)
    }

    /// Views in memory, their bytes (about), and bytes on disk.
    pub fn usage(&self) -> Usage {
        let (views, view_bytes) = self.cache.usage();
        Usage { views, view_bytes, pending_bytes: self.pending_bytes() as u64, disk_bytes: self.disk.size_on_disk() }
    }

    /// Bytes of what is stored, by what it is for. Reads everything: for an operator's question, not for a gauge. Blocks.
    pub fn storage(&self) -> Result<Storage, ShardError> {
        self.disk.storage()
    }

    fn cell(&self, shard: ShardId) -> &Cell {
        &self.cells[usize::from(shard.0)]
    }

    /// Puts a view in place of an older one. `change` does to a join what was done to the fragment since the last view; none where the join must be
    /// made again.
    fn publish(
        &self,
        state: &mut MutexGuard<'_, State>,
        identifier: &Identifier,
        held: Held,
        change: Option<Follow<'_>>,
    ) -> Arc<View> {
        let Held { fragment, seen } = held;
        let revision = state.next_revision();
        let view = Arc::new(View { identifier: identifier.clone(), fragment, revision, seen });
        self.cache.publish(Arc::clone(&view));
        match state.joined.get(identifier).map(Weak::upgrade) {
            Some(Some(slot)) => slot.follow(&view, change),
            Some(None) => drop(state.joined.remove(identifier)),
            None => {}
        }
        view
    }

    /// The newest state of a fragment, under its shard's lock; none where the rows must be read for it and are not at rest.
    fn current(&self, state: &State, identifier: &Identifier, rows_at_rest: bool) -> Result<Option<Held>, ShardError> {
        if let Some(pending) = state.pending.get(identifier) {
            return Ok(Some(pending.held()));
        }
        if let Some(view) = self.cached(identifier) {
            return Ok(Some(Held { fragment: Arc::clone(&view.fragment), seen: view.seen.clone() }));
        }
        if !rows_at_rest {
            return Ok(None);
        }
        // Seldom: it was evicted since it was loaded.
        self.read_held(identifier).map(|(held, _)| Some(held))
    }
}

/// What a checkpoint covers of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Whose.
    pub shard: ShardId,
    /// Up to where the log is in.
    pub cursor: Cursor,
    /// The highest numbers of origins that are in.
    pub applied: Vec<(Origin, u64)>,
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

#[cfg(test)]
mod tests;
