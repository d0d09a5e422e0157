//! Views in memory: the only file that names moka.
//!
//! What moka holds of a fragment is a cell, in which its newest view stands: most changes put another view into the cell and leave moka alone. A view is published
//! only over an older one, so a slow load never overwrites a newer view. moka has no threads of its own: [`Cache::maintain`] wants to be called about
//! once a second.
//!
//! A *front* table, one place for each hash, holds the cells that were asked for last: reading moka costs as much as a plugin's call, so of a few reads of a
//! place only one goes there, for it to know what is wanted. A place is filled, as views are published, under the lock of the fragment's shard. So it
//! never holds a cell that another one has replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use moka::notification::RemovalCause;
use parking_lot::RwLock;
use selvedge_core::identity::Identifier;
use selvedge_core::view::View;

use crate::profiles::{Joined, Slot};

/// What is kept beside each value, by moka and in its cell, about.
const ENTRY_BYTES: usize = 320;
/// A view that nobody asked for in this time goes.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// Of so many reads of a place in the front moka sees one.
const SEEN_EVERY: u8 = 32;
/// Bytes of the budget for each place in the front, and the bounds of their number.
const PLACE_BYTES: u64 = 16 * 1024;
const PLACES: (u64, u64) = (1 << 10, 1 << 17);
/// A cell is weighed anew once what it holds has grown or shrunk by one part in so many.
const WEIGHED_WITHIN: u32 = 8;

/// The share of the budget that joined profiles may take: one in so many parts.
const JOINED_SHARE: u64 = 4;

/// Views by identifier, and profiles of several fragments, joined, by each of their identifiers; within a budget of bytes.
pub(crate) struct Cache {
    views: moka::sync::Cache<Identifier, Arc<Cell>>,
    front: Arc<Front>,
    joined: moka::sync::Cache<Identifier, Arc<Slot>>,
}

/// Where a fragment's view stands as long as it is in memory.
struct Cell {
    identifier: Identifier,
    view: RwLock<Arc<View>>,
    /// Bytes, about, as moka knows them.
    weight: AtomicU32,
}

impl Cell {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }
}

struct Place {
    cell: RwLock<Option<Arc<Cell>>>,
    reads: AtomicU8,
}

struct Front(Box<[Place]>);

impl Front {
    fn new(bytes_max: u64) -> Self {
        let places = (bytes_max / PLACE_BYTES).clamp(PLACES.0, PLACES.1).next_power_of_two();
        Self((0..places).map(|_| Place { cell: RwLock::default(), reads: AtomicU8::new(0) }).collect())
    }

    fn place(&self, identifier: &Identifier) -> &Place {
        // The lowest bits name the shard. Whoever makes them collide sends others to moka.
        let at = (identifier.fixed_hash() >> 16) as usize & (self.0.len() - 1);
        &self.0[at]
    }

    fn put(&self, cell: &Arc<Cell>) {
        *self.place(&cell.identifier).cell.write() = Some(Arc::clone(cell));
    }

    fn remove(&self, cell: &Arc<Cell>) {
        let mut held = self.place(&cell.identifier).cell.write();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, cell)) {
            *held = None;
        }
    }
}

/// What was found of an identifier.
pub(crate) enum Found {
    /// In the front, or nowhere.
    Settled(Option<Arc<View>>),
    /// Behind it: [`Cache::bring_forward`] puts it there.
    Behind(Arc<View>),
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let weigh_joined = |identifier: &Identifier, slot: &Arc<Slot>| {
            // The members share one.
            let shared = slot.get().map_or(0, |joined| joined.weight() / joined.identifiers.len().max(1));
            u32::try_from(ENTRY_BYTES + identifier.as_str().len() + shared).unwrap_or(u32::MAX)
        };
        let joined_max = bytes_max / JOINED_SHARE;
        let front = Arc::new(Front::new(bytes_max - joined_max));
        let removed = Arc::clone(&front);
        let views = moka::sync::Cache::builder()
            .max_capacity(bytes_max - joined_max)
            .weigher(|_, cell: &Arc<Cell>| cell.weight.load(Ordering::Relaxed))
            .eviction_listener(move |_, cell, cause| {
                if cause != RemovalCause::Replaced {
                    removed.remove(&cell);
                }
            });
        let joined = moka::sync::Cache::builder().max_capacity(joined_max).weigher(weigh_joined);
        Self { views: views.time_to_idle(IDLE).build(), front, joined: joined.time_to_idle(IDLE).build() }
    }

    pub(crate) fn get(&self, identifier: &Identifier) -> Found {
        let place = self.front.place(identifier);
        if let Some(cell) = &*place.cell.read()
            && cell.identifier == *identifier
            && !place.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(SEEN_EVERY)
        {
            return Found::Settled(Some(cell.view()));
        }
        match self.views.get(identifier) {
            Some(cell) if place.cell.read().as_ref().is_some_and(|held| Arc::ptr_eq(held, &cell)) => {
                Found::Settled(Some(cell.view()))
            }
            Some(cell) => Found::Behind(cell.view()),
            None => Found::Settled(None),
        }
    }

    /// Puts a cell where it is found at once. To be called under its shard's lock.
    pub(crate) fn bring_forward(&self, identifier: &Identifier) {
        if let Some(cell) = self.views.get(identifier) {
            self.front.put(&cell);
        }
    }

    /// The joined profile of an identifier, if it is up to all its fragments.
    pub(crate) fn joined(&self, identifier: &Identifier) -> Option<Arc<Joined>> {
        self.joined.get(identifier)?.get()
    }

    /// Keeps a joined profile under one of its identifiers.
    pub(crate) fn keep_joined(&self, identifier: &Identifier, slot: Arc<Slot>) {
        self.joined.insert(identifier.clone(), slot);
    }

    /// Puts a view in place of an older one. To be called under its shard's lock.
    pub(crate) fn publish(&self, view: Arc<View>) {
        let seen = view.seen.as_ref().map_or(0, |seen| seen.weight());
        let bytes = ENTRY_BYTES + view.identifier.as_str().len() + view.fragment.weight() + seen;
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX);
        let held = {
            let in_front = self.front.place(&view.identifier).cell.read();
            in_front.as_ref().filter(|cell| cell.identifier == view.identifier).cloned()
        };
        let Some(cell) = held.or_else(|| self.views.get(&view.identifier)) else {
            let (identifier, weight) = (view.identifier.clone(), AtomicU32::new(weight));
            let cell = Arc::new(Cell { identifier: identifier.clone(), view: RwLock::new(view), weight });
            self.front.put(&cell);
            return self.views.insert(identifier, cell);
        };
        {
            let mut held = cell.view.write();
            if held.revision >= view.revision {
                return;
            }
            *held = view;
        }
        let known = cell.weight.load(Ordering::Relaxed);
        if weight.abs_diff(known) > known / WEIGHED_WITHIN {
            cell.weight.store(weight, Ordering::Relaxed);
            self.views.insert(cell.identifier.clone(), cell);
        }
    }

    /// Does the housekeeping that is due.
    pub(crate) fn maintain(&self) {
        self.views.run_pending_tasks();
        self.joined.run_pending_tasks();
    }

    /// Views held, and their bytes, about.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.views.entry_count(), self.views.weighted_size() + self.joined.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_core::fragment::Fragment;

    fn view(revision: u64) -> Arc<View> {
        let identifier = Identifier::stored("user:1").expect("an identifier");
        Arc::new(View { identifier, fragment: Arc::new(Fragment::default()), revision, seen: None })
    }

    #[test]
    fn an_older_view_never_takes_the_place_of_a_newer() {
        let cache = Cache::new(1 << 20);
        cache.publish(view(2));
        cache.publish(view(1));
        assert_eq!(held(&cache, "user:1"), Some(2));
        cache.publish(view(3));
        assert_eq!(held(&cache, "user:1"), Some(3));
    }

    fn held(cache: &Cache, identifier: &str) -> Option<u64> {
        match cache.get(&Identifier::stored(identifier).expect("an identifier")) {
            Found::Settled(view) => view.map(|view| view.revision),
            Found::Behind(view) => Some(view.revision),
        }
    }

    #[test]
    fn whoever_shares_a_place_in_the_front_is_found_all_the_same() {
        let cache = Cache::new(64 << 20);
        let identifiers = || (0..8000).map(|user| Identifier::stored(&format!("user:{user}")).expect("an identifier"));
        for (identifier, revision) in identifiers().zip(1..) {
            cache.publish(Arc::new(View { identifier, fragment: Arc::default(), revision, seen: None }));
        }
        let mut behind = 0;
        for _ in 0..2 * SEEN_EVERY {
            for (identifier, revision) in identifiers().zip(1..) {
                assert_eq!(held(&cache, identifier.as_str()), Some(revision));
                if matches!(cache.get(&identifier), Found::Behind(_)) {
                    behind += 1;
                    cache.bring_forward(&identifier);
                    let again = cache.get(&identifier);
                    assert!(matches!(again, Found::Settled(Some(view)) if view.revision == revision));
                }
            }
        }
        assert!(behind > 0, "some share a place");
        // What goes from moka goes from the front.
        let gone = Identifier::stored("user:7").expect("an identifier");
        cache.bring_forward(&gone);
        cache.views.invalidate(&gone);
        cache.maintain();
        assert_eq!(held(&cache, "user:7"), None);
    }

    #[test]
    fn the_budget_holds() {
        let cache = Cache::new(10_000);
        for user in 0..1000 {
            let identifier = Identifier::stored(&format!("user:{user}")).expect("an identifier");
            cache.publish(Arc::new(View {
                identifier,
                fragment: Arc::new(Fragment::default()),
                revision: 1,
                seen: None,
            }));
        }
        cache.maintain();
        assert!(cache.usage().1 <= 10_000, "{:?}", cache.usage());
    }
}
