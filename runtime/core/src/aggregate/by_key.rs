//! Summaries by key: the mean order by category, the last visit by store.
//!
//! Exact up to twice [`KEYS_MAX`] keys. Beyond it the half with the fewest contributions gives way into a rest, as with sums by key.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::merge::Merge;
use super::state::{Contribution, When};
use super::summary::Summary;
use super::{heap_bytes, insert_tight};

/// Keys that are kept for sure.
pub(crate) const KEYS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OfKey {
    key: CompactString,
    contributions: u64,
    summary: Summary,
}

/// Summaries by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByKey {
    /// Ascending by the key's bytes.
    keys: Vec<OfKey>,
    /// How many contributions the keys had that gave way.
    given_way: u64,
}

impl ByKey {
    /// Takes in a contribution to its key, by what the operator makes of it.
    pub(crate) fn add(&mut self, of: &Merge, contribution: &Contribution, when: &When) {
        let Contribution { state, value, .. } = *contribution;
        let held = self.entry(&contribution.key, of);
        held.contributions += 1;
        of.apply_to(&mut held.summary, &Contribution { state, key: CompactString::const_new(""), value }, when, true);
        self.settle();
    }

    /// Takes in others.
    pub(crate) fn join(&mut self, of: &Merge, other: &Self) {
        for OfKey { key, contributions, summary } in &other.keys {
            let held = self.entry(key, of);
            held.contributions += contributions;
            of.join_to(&mut held.summary, summary, true);
            self.settle();
        }
        self.given_way += other.given_way;
    }

    fn entry(&mut self, key: &CompactString, of: &Merge) -> &mut OfKey {
        let index = self.keys.binary_search_by(|held| held.key.cmp(key)).unwrap_or_else(|gap| {
            let fresh = OfKey { key: key.clone(), contributions: 0, summary: of.empty_summary() };
            insert_tight(&mut self.keys, gap, fresh);
            gap
        });
        &mut self.keys[index]
    }

    fn settle(&mut self) {
        if self.keys.len() <= 2 * KEYS_MAX {
            return;
        }
        let mut order: Vec<(std::cmp::Reverse<u64>, usize)> =
            self.keys.iter().map(|held| std::cmp::Reverse(held.contributions)).zip(0..).collect();
        order.sort_unstable();
        let mut kept = vec![false; self.keys.len()];
        order.iter().take(KEYS_MAX).for_each(|(_, index)| kept[*index] = true);
        let mut kept = kept.into_iter();
        self.keys.retain(|held| {
            let keep = kept.next().unwrap_or(false);
            self.given_way += if keep { 0 } else { held.contributions };
            keep
        });
    }

    /// Every key with its summary, ascending by the key's bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CompactString, &Summary)> {
        self.keys.iter().map(|held| (&held.key, &held.summary))
    }

    /// A key's summary.
    pub(crate) fn get(&self, key: &str) -> Option<&Summary> {
        let found = self.keys.binary_search_by(|held| held.key.as_str().cmp(key)).ok()?;
        Some(&self.keys[found].summary)
    }

    /// The number of keys that are kept.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key gave way.
    pub(crate) fn exact(&self) -> bool {
        self.given_way == 0
    }

    /// Elements held.
    pub(crate) fn cells(&self) -> usize {
        self.keys.iter().map(|held| held.summary.cells()).sum()
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let held: usize = self.keys.iter().map(|held| heap_bytes(&held.key) + held.summary.weight()).sum();
        self.keys.capacity() * size_of::<OfKey>() + held
    }
}
