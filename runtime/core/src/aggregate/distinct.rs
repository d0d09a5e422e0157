//! Counting distinct keys, and distinct days.
//!
//! [`Distinct`] keeps the [`HASHES_MAX`] smallest 64-bit hashes: exact up to that many keys, beyond it the bottom-k estimate
//! `(k - 1) / h_k` with h_k the k-th smallest hash as a fraction of the hash space; its relative standard error is about
//! 1/√(k - 2) = 1.6%. Source: Bar-Yossef et al., "Counting distinct elements in a data stream", RANDOM 2002. Unlike
//! a counter-based sketch it begins as the exact set and its merge is set union, so any order gives equal bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::insert_tight;

/// Hashes that are kept of a lifetime, or of a window when it is read.
pub(crate) const HASHES_MAX: usize = 4096;
/// Hashes that are kept of each instant and tile of a series.
pub(crate) const HASHES_IN_SERIES_MAX: usize = 512;

/// A set of keys, by hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Distinct {
    /// The smallest hashes, ascending.
    hashes: Vec<u64>,
    /// Whether a hash was left out.
    truncated: bool,
}

impl Distinct {
    /// Adds a key; keeps the smallest `most` hashes.
    pub(crate) fn insert(&mut self, key: &str, most: usize) {
        self.insert_hash(xxhash_rust::xxh3::xxh3_64(key.as_bytes()), most);
    }

    fn insert_hash(&mut self, hash: u64, most: usize) {
        if self.truncated && self.hashes.last().is_some_and(|limit| hash > *limit) {
            return;
        }
        if let Err(gap) = self.hashes.binary_search(&hash) {
            insert_tight(&mut self.hashes, gap, hash);
            if self.hashes.len() > most {
                self.hashes.pop();
                self.truncated = true;
            }
        }
    }

    /// Takes in another set: what inserting the keys of both gives.
    ///
    /// A truncated set knows nothing of hashes above its largest, so neither does what it is joined to.
    pub(crate) fn join(&mut self, other: &Self, most: usize) {
        let limit = |set: &Self| set.hashes.last().copied().filter(|_| set.truncated).unwrap_or(u64::MAX);
        let limit = limit(self).min(limit(other));
        self.truncated |= other.truncated;
        let known = self.hashes.partition_point(|hash| *hash <= limit);
        self.hashes.truncate(known);
        if self.truncated && self.hashes.last() != Some(&limit) {
            // It is the other's largest.
            self.hashes.push(limit);
        }
        other.hashes.iter().filter(|hash| **hash <= limit).for_each(|hash| self.insert_hash(*hash, most));
    }

    /// Hashes held.
    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The standard error of the number as a share of it; none where it is exact.
    pub(crate) fn standard_error(&self) -> Option<f64> {
        self.truncated.then(|| 1.0 / libm::sqrt(self.hashes.len().saturating_sub(2).max(1) as f64))
    }

    /// The number of keys.
    pub(crate) fn count(&self) -> u64 {
        let kept = self.hashes.len() as u64;
        match self.hashes.last() {
            Some(largest) if self.truncated => {
                let fraction = (*largest as f64 + 1.0) / 18_446_744_073_709_551_616.0;
                ((kept - 1) as f64 / fraction) as u64
            }
            _ => kept,
        }
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.hashes.capacity() * size_of::<u64>()
    }
}

/// On disk: one byte for `truncated`, then the hashes as eight bytes each (they do not compress).
impl Serialize for Distinct {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(1 + self.hashes.len() * 8);
        bytes.push(u8::from(self.truncated));
        self.hashes.iter().for_each(|hash| bytes.extend_from_slice(&hash.to_be_bytes()));
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'de [u8]>::deserialize(deserializer)?;
        let (truncated, hashes) = bytes.split_first().ok_or_else(|| de::Error::custom("empty set of hashes"))?;
        let (hashes, rest) = hashes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(de::Error::custom("cut set of hashes"));
        }
        Ok(Self { hashes: hashes.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect(), truncated: *truncated != 0 })
    }
}

/// A set of calendar days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Days {
    /// Days since 1970-01-01, ascending, each but the first as its distance from the one before.
    steps: Vec<i64>,
}

impl Days {
    /// Adds a day.
    pub(crate) fn insert(&mut self, day: i64) {
        let mut before = 0;
        for (index, step) in self.steps.iter_mut().enumerate() {
            let here = before + *step;
            if here == day {
                return;
            }
            if here > day {
                *step = here - day;
                self.steps.insert(index, day - before);
                return;
            }
            before = here;
        }
        self.steps.push(day - before);
    }

    /// Takes in another set.
    pub(crate) fn join(&mut self, other: &Self) {
        let mut day = 0;
        for step in &other.steps {
            day += step;
            self.insert(day);
        }
    }

    /// The days, ascending.
    fn iter(&self) -> impl Iterator<Item = i64> {
        self.steps.iter().scan(0, |day, step| {
            *day += step;
            Some(*day)
        })
    }

    /// The longest run of consecutive days, and the run that ends on a day or the day before it: it is not broken before the day is over.
    pub(crate) fn runs(&self, today: i64) -> (u64, u64) {
        let (mut longest, mut run, mut last) = (0, 0, None);
        for day in self.iter() {
            run = if last == Some(day - 1) { run + 1 } else { 1 };
            longest = longest.max(run);
            last = Some(day);
        }
        let current = last.filter(|last| (today - 1..=today).contains(last)).map_or(0, |_| run);
        (longest, current)
    }

    /// The number of days.
    pub(crate) fn count(&self) -> u64 {
        self.steps.len() as u64
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.steps.capacity() * size_of::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn distinct_is_exact_up_to_its_bound_and_within_its_error_beyond() {
        let mut distinct = Distinct::default();
        for key in 0..HASHES_MAX {
            distinct.insert(&format!("key-{key}"), HASHES_MAX);
            distinct.insert(&format!("key-{key}"), HASHES_MAX);
        }
        assert_eq!((distinct.count(), distinct.standard_error()), (HASHES_MAX as u64, None));
        for key in HASHES_MAX..50_000 {
            distinct.insert(&format!("key-{key}"), HASHES_MAX);
        }
        let (count, error) = (distinct.count(), distinct.standard_error().expect("an estimate"));
        assert!((count as f64 - 50_000.0).abs() < 50_000.0 * 3.0 * error && error < 0.016, "{count}");
    }

    #[test]
    fn sets_that_overlap_join_to_the_set_of_both() {
        for keys in [100, HASHES_MAX, 3 * HASHES_MAX] {
            let set = |keys: std::ops::Range<usize>| {
                let mut set = Distinct::default();
                keys.for_each(|key| set.insert(&format!("key-{key}"), HASHES_MAX));
                set
            };
            let mut joined = set(0..keys / 2 + 10);
            joined.join(&set(keys / 2..keys), HASHES_MAX);
            assert_eq!(joined, set(0..keys), "{keys}");
        }
    }

    #[test]
    fn small_truncated_sets_join_to_an_estimate_of_all() {
        let part = |keys: std::ops::Range<usize>| {
            let mut set = Distinct::default();
            keys.for_each(|key| set.insert(&format!("key-{key}"), HASHES_IN_SERIES_MAX));
            set
        };
        let parts: Vec<_> = (0..10).map(|index| part(index * 900..index * 900 + 1_000)).collect();
        let mut joined = Distinct::default();
        parts.iter().for_each(|part| joined.join(part, HASHES_MAX));
        let mut backwards = Distinct::default();
        parts.iter().rev().for_each(|part| backwards.join(part, HASHES_MAX));
        assert_eq!(joined, backwards);
        let (count, error) = (joined.count() as f64, joined.standard_error().expect("an estimate"));
        assert!((count - 9_100.0).abs() < 9_100.0 * 3.0 * error, "{count} ± {error}");
    }

    #[test]
    fn a_run_of_days_is_not_broken_before_the_day_is_over() {
        let mut days = Days::default();
        [10, 11, 12, 20, 21].iter().for_each(|day| days.insert(*day));
        assert_eq!([days.runs(20), days.runs(21), days.runs(22), days.runs(23)], [(3, 0), (3, 2), (3, 2), (3, 0)]);
        assert_eq!(Days::default().runs(5), (0, 0));
    }

    #[test]
    fn a_cut_set_of_hashes_is_refused() {
        let bytes = postcard::to_allocvec(&Distinct { hashes: vec![1, 2], truncated: false }).expect("encode");
        assert!(postcard::from_bytes::<Distinct>(&bytes).is_ok());
        assert!(postcard::from_bytes::<Distinct>(&[3, 0, 1, 2]).is_err());
        assert!(postcard::from_bytes::<Distinct>(&[0]).is_err());
    }

    proptest! {
        #[test]
        fn days_are_a_set(days in prop::collection::vec(-1000_i64..20_000, 0..60)) {
            let mut set = Days::default();
            days.iter().for_each(|day| set.insert(*day));
            let naive: BTreeSet<_> = days.iter().collect();
            prop_assert_eq!(set.count(), naive.len() as u64);
            let mut again = Days::default();
            days.iter().rev().for_each(|day| again.insert(*day));
            prop_assert_eq!(&set, &again);
            let (left, right) = days.split_at(days.len() / 3);
            let part = |days: &[i64]| {
                let mut part = Days::default();
                days.iter().for_each(|day| part.insert(*day));
                part
            };
            let mut joined = part(left);
            joined.join(&part(right));
            prop_assert_eq!(set, joined);
        }
    }
}
