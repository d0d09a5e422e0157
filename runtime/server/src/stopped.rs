//! Which offers are stopped here: the kill switch as decisions read it.
//!
//! A decision asks one flag whether any is; only where one is does it look at the offers, by their position in the catalogue that it decides by.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use compact_str::CompactString;
use parking_lot::Mutex;
use selvedge_core::catalog::Catalog;

/// The offers that are stopped, whatever catalogue runs.
#[derive(Default)]
pub struct StoppedOffers(Mutex<State>);

#[derive(Default)]
struct State {
    ids: BTreeSet<CompactString>,
    /// Of the catalogues that run or are previewed.
    switches: Vec<Weak<Switches>>,
}

/// The same by position in one catalogue.
pub struct Switches {
    any: AtomicBool,
    offers: Box<[(CompactString, AtomicBool)]>,
}

impl StoppedOffers {
    /// Switches for the offers of a catalogue. They follow as long as somebody holds them.
    pub fn follow(&self, catalog: &Catalog) -> Arc<Switches> {
        let mut state = self.0.lock();
        let offers = catalog.offers.iter().map(|offer| (offer.id.clone(), AtomicBool::new(false)));
        let switches = Arc::new(Switches { any: AtomicBool::new(false), offers: offers.collect() });
        switches.set(&state.ids);
        state.switches.retain(|known| known.strong_count() > 0);
        state.switches.push(Arc::downgrade(&switches));
        switches
    }

    /// Stops these offers and no others.
    pub fn replace(&self, ids: BTreeSet<CompactString>) {
        let mut state = self.0.lock();
        if state.ids != ids {
            state.ids = ids;
            state.tell();
        }
    }

    /// Stops one, or starts it.
    pub fn switch(&self, id: &CompactString, stopped: bool) {
        let mut state = self.0.lock();
        let moved = if stopped { state.ids.insert(id.clone()) } else { state.ids.remove(id) };
        if moved {
            state.tell();
        }
    }

    /// Those that are stopped.
    pub fn ids(&self) -> BTreeSet<CompactString> {
        self.0.lock().ids.clone()
    }
}

impl State {
    fn tell(&self) {
        self.switches.iter().filter_map(Weak::upgrade).for_each(|switches| switches.set(&self.ids));
    }
}

impl Switches {
    fn set(&self, ids: &BTreeSet<CompactString>) {
        for (id, stopped) in &self.offers {
            stopped.store(ids.contains(id), Ordering::Relaxed);
        }
        self.any.store(!ids.is_empty(), Ordering::Release);
    }

    /// Whether any offer may be stopped.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether the offer at a position is stopped.
    pub fn is_stopped(&self, offer: usize) -> bool {
        self.any() && self.offers.get(offer).is_some_and(|(_, stopped)| stopped.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = r#"
        [[offers]]
        id = "kettle"
        content = {}
        [[offers]]
        id = "rose"
        content = {}
    "#;

    #[test]
    fn every_catalogue_heeds_what_is_stopped() {
        let catalog = Catalog::from_toml(CATALOG).expect("a catalogue");
        let stopped = StoppedOffers::default();
        let before = stopped.follow(&catalog);
        let of = |switches: &Switches| [0, 1, 2].map(|offer| switches.is_stopped(offer));
        assert!(!before.any());
        stopped.switch(&"rose".into(), true);
        let after = stopped.follow(&catalog);
        assert_eq!((of(&before), of(&after)), ([false, true, false], [false, true, false]));
        stopped.replace(["kettle".into()].into());
        assert_eq!((of(&before), of(&after)), ([true, false, false], [true, false, false]));
        stopped.switch(&"kettle".into(), false);
        stopped.switch(&"kettle".into(), false);
        assert!(!before.any() && !after.any() && stopped.ids().is_empty());
    }
}
