//! Views in memory: the only file that names moka.
//!
//! A view is published only over an older one, so a slow load never overwrites a newer view. moka has no threads of its own:
//! [`Cache::maintain`] wants to be called about once a second.

use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use selvedge_core::identity::Identifier;
use selvedge_core::view::View;

use crate::profiles::{Joined, Slot};

/// What moka keeps beside each value, about.
const ENTRY_BYTES: usize = 200;
/// A view that nobody asked for in this time goes.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// The share of the budget that joined profiles may take: one in so many parts.
const JOINED_SHARE: u64 = 4;

/// Views by identifier, and profiles of several fragments, joined, by each of their identifiers; within a budget of bytes.
pub(crate) struct Cache {
    views: moka::sync::Cache<Identifier, Arc<View>>,
    joined: moka::sync::Cache<Identifier, Arc<Slot>>,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let weigh = |identifier: &Identifier, view: &Arc<View>| {
            let seen = view.seen.as_ref().map_or(0, |seen| seen.weight());
            let bytes = ENTRY_BYTES + identifier.as_str().len() + view.fragment.weight() + seen;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let weigh_joined = |identifier: &Identifier, slot: &Arc<Slot>| {
            // The members share one.
            let shared = slot.get().map_or(0, |joined| joined.weight() / joined.identifiers.len().max(1));
            u32::try_from(ENTRY_BYTES + identifier.as_str().len() + shared).unwrap_or(u32::MAX)
        };
        let joined_max = bytes_max / JOINED_SHARE;
        let views = moka::sync::Cache::builder().max_capacity(bytes_max - joined_max).weigher(weigh);
        let joined = moka::sync::Cache::builder().max_capacity(joined_max).weigher(weigh_joined);
        Self { views: views.time_to_idle(IDLE).build(), joined: joined.time_to_idle(IDLE).build() }
    }

    pub(crate) fn get(&self, identifier: &Identifier) -> Option<Arc<View>> {
        self.views.get(identifier)
    }

    /// The joined profile of an identifier, if it is up to all its fragments.
    pub(crate) fn joined(&self, identifier: &Identifier) -> Option<Arc<Joined>> {
        self.joined.get(identifier)?.get()
    }

    /// Keeps a joined profile under one of its identifiers.
    pub(crate) fn keep_joined(&self, identifier: &Identifier, slot: Arc<Slot>) {
        self.joined.insert(identifier.clone(), slot);
    }

    /// Puts a view in place of an older one.
    pub(crate) fn publish(&self, view: Arc<View>) {
        self.views.entry_by_ref(&view.identifier).and_compute_with(|held| match held {
            Some(held) if held.value().revision >= view.revision => Op::Nop,
            _ => Op::Put(Arc::clone(&view)),
        });
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
        let held = |cache: &Cache| cache.get(&view(0).identifier).map(|view| view.revision);
        assert_eq!(held(&cache), Some(2));
        cache.publish(view(3));
        assert_eq!(held(&cache), Some(3));
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
