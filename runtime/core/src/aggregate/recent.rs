//! Lists by time: the distinct keys seen last, and the first or last values.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::heap_bytes;

/// Distinct keys by when each was seen last, newest first; equal instants ascending by the key's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recent(Vec<(i64, CompactString)>);

impl Recent {
    /// Notes that a key was seen; keeps `most` keys.
    ///
    /// A key that gave way has as many newer ones before it as are kept, and those only get newer: nothing is forgotten that could count.
    pub(crate) fn see(&mut self, key: &CompactString, at: i64, most: usize) {
        if let Some(held) = self.0.iter().position(|(_, held)| held == key) {
            if self.0[held].0 >= at {
                return;
            }
            self.0.remove(held);
        }
        let gap = self.0.partition_point(|(seen, held)| (-seen, held) < (-at, key));
        if gap < most {
            self.0.truncate(most - 1);
            self.0.insert(gap, (at, key.clone()));
        }
    }

    /// Takes in another list.
    pub(crate) fn join(&mut self, other: &Self, most: usize) {
        other.0.iter().for_each(|(at, key)| self.see(key, *at, most));
    }

    /// The keys, newest first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &CompactString> {
        self.0.iter().map(|(_, key)| key)
    }

    /// Elements held.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let keys: usize = self.0.iter().map(|(_, key)| heap_bytes(key)).sum();
        self.0.capacity() * size_of::<(i64, CompactString)>() + keys
    }
}

/// (instant, key, value): what stands first or last, in that order.
pub(crate) type Entry = (i64, CompactString, i64);

/// The first or the last values, ascending by instant, key and value. Equal ones are all kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Several(Vec<Entry>);

impl Several {
    /// Takes in a value; keeps the first `most`, or the last.
    pub(crate) fn add(&mut self, entry: Entry, most: usize, last: bool) {
        let gap = self.0.partition_point(|held| *held <= entry);
        self.0.insert(gap, entry);
        if self.0.len() > most {
            self.0.remove(if last { 0 } else { most });
        }
    }

    /// Takes in another list.
    pub(crate) fn join(&mut self, other: &Self, most: usize, last: bool) {
        other.0.iter().for_each(|entry| self.add(entry.clone(), most, last));
    }

    /// The entries, ascending.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let keys: usize = self.0.iter().map(|(_, key, _)| heap_bytes(key)).sum();
        self.0.capacity() * size_of::<Entry>() + keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_newest_keys_are_kept_in_any_order(seen in prop::collection::vec((0_i64..50, 0_u8..12), 0..60), cut in any::<prop::sample::Index>()) {
            let list = |seen: &[(i64, u8)]| {
                let mut list = Recent::default();
                seen.iter().for_each(|(at, key)| list.see(&CompactString::from(key.to_string()), *at, 5));
                list
            };
            let mut naive = BTreeMap::new();
            seen.iter().for_each(|(at, key)| { let last = naive.entry(key.to_string()).or_insert(*at); *last = (*last).max(*at); });
            let mut naive: Vec<(i64, String)> = naive.into_iter().map(|(key, at)| (-at, key)).collect();
            naive.sort();
            let naive: Vec<String> = naive.into_iter().take(5).map(|(_, key)| key).collect();
            let kept: Vec<String> = list(&seen).keys().map(ToString::to_string).collect();
            prop_assert_eq!(kept, naive);
            let (left, right) = seen.split_at(cut.index(seen.len() + 1).min(seen.len()));
            let mut joined = list(right);
            joined.join(&list(left), 5);
            prop_assert_eq!(joined, list(&seen));
        }

        #[test]
        fn the_first_and_last_values_are_kept_in_any_order(values in prop::collection::vec((0_i64..9, 0_u8..3, 0_i64..4), 0..40), last in any::<bool>()) {
            let entry = |(at, key, value): &(i64, u8, i64)| (*at, CompactString::from(key.to_string()), *value);
            let mut list = Several::default();
            values.iter().for_each(|value| list.add(entry(value), 4, last));
            let mut naive: Vec<Entry> = values.iter().map(entry).collect();
            naive.sort();
            let from = if last { naive.len().saturating_sub(4) } else { 0 };
            let naive: Vec<Entry> = naive.into_iter().skip(from).take(4).collect();
            prop_assert_eq!(list.entries(), &naive[..]);
        }
    }
}
