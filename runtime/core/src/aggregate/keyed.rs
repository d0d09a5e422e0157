//! Sums by key: quantities by product, amounts by store.
//!
//! Exact up to twice [`KEYS_MAX`] keys. Beyond it the lightest half gives way, their amounts go into a rest, and readings say `exact: false`:
//! from there on the result depends on the order of events, which is the log's, the same on every replica.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::{heap_bytes, insert_tight};

/// Keys that are kept for sure. At twice as many the lightest give way, all at once, so that each new key costs little.
pub(crate) const KEYS_MAX: usize = 4096;

/// Sums by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keyed {
    /// (key, sum), ascending by the key's bytes.
    sums: Vec<(CompactString, i64)>,
    /// What is known of the keys that gave way; present once one has.
    rest: Option<Box<Rest>>,
    /// Whether a sum ran over 64 bits and was held at the limit.
    saturated: bool,
}

/// Keys that gave way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rest {
    /// What they added up to.
    sum: i128,
    /// How many there were; one that came back and went again counts again.
    keys: u64,
    /// What any one key may have lost at most: the heaviest of each time that keys gave way.
    lost: i128,
}

impl Keyed {
    /// Adds to a key's sum.
    pub(crate) fn add(&mut self, key: &str, amount: i64) {
        match self.position(key) {
            Ok(found) => {
                let sum = &mut self.sums[found].1;
                self.saturated |= sum.checked_add(amount).is_none();
                *sum = sum.saturating_add(amount);
            }
            Err(gap) => {
                insert_tight(&mut self.sums, gap, (CompactString::from(key), amount));
                if self.sums.len() > 2 * KEYS_MAX {
                    self.drop_lightest();
                }
            }
        }
    }

    /// Takes in other sums: what adding the amounts of both gives, as far as both are exact.
    pub(crate) fn join(&mut self, other: &Self) {
        other.sums.iter().for_each(|(key, sum)| self.add(key, *sum));
        if let Some(other) = &other.rest {
            let rest = self.rest.get_or_insert_default();
            rest.sum += other.sum;
            rest.keys += other.keys;
            rest.lost += other.lost;
        }
        self.saturated |= other.saturated;
    }

    /// A key's sum; 0 where there is none.
    pub(crate) fn get(&self, key: &str) -> i64 {
        self.position(key).map_or(0, |found| self.sums[found].1)
    }

    /// The number of keys that are kept.
    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }

    /// These sums less others, key by key, heaviest first, equal ones ascending by the key's bytes; and whether one ran over 64 bits.
    pub(crate) fn less(&self, other: &Self) -> (Vec<(CompactString, i64)>, bool) {
        let only_there = other.sums.iter().filter(|(key, _)| self.position(key).is_err());
        let keys = self.sums.iter().chain(only_there).map(|(key, _)| key);
        let mut saturated = false;
        let difference = |key: &CompactString| {
            let (of, less) = (self.get(key), other.get(key));
            saturated |= of.checked_sub(less).is_none();
            (key.clone(), of.saturating_sub(less))
        };
        let mut less: Vec<_> = keys.map(difference).collect();
        less.sort_unstable_by(by_weight);
        (less, saturated)
    }

    /// The heaviest keys, heaviest first, equal ones ascending by the key's bytes.
    pub(crate) fn top(&self, count: usize) -> Vec<(CompactString, i64)> {
        let mut order: Vec<&(CompactString, i64)> = self.sums.iter().collect();
        if count < order.len() && count > 0 {
            order.select_nth_unstable_by(count - 1, |a, b| by_weight(a, b));
        }
        order.truncate(count);
        order.sort_unstable_by(|a, b| by_weight(a, b));
        order.into_iter().cloned().collect()
    }

    /// By how much any sum may be off; none where one ran over 64 bits.
    pub(crate) fn off(&self) -> Option<i128> {
        if self.saturated { None } else { Some(self.rest.as_ref().map_or(0, |rest| rest.lost)) }
    }

    /// By how much the number of keys may be off.
    pub(crate) fn keys_off(&self) -> u64 {
        self.rest.as_ref().map_or(0, |rest| rest.keys)
    }

    /// Every key with its sum, ascending by the key's bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(CompactString, i64)> {
        self.sums.iter()
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.sums.capacity() * size_of::<(CompactString, i64)>()
            + self.sums.iter().map(|(key, _)| heap_bytes(key)).sum::<usize>()
    }

    fn position(&self, key: &str) -> Result<usize, usize> {
        self.sums.binary_search_by(|entry| entry.0.as_str().cmp(key))
    }

    fn drop_lightest(&mut self) {
        let mut order: Vec<usize> = (0..self.sums.len()).collect();
        order.sort_by_key(|index| (std::cmp::Reverse(self.sums[*index].1.unsigned_abs()), *index));
        let mut kept = vec![false; self.sums.len()];
        order.iter().take(KEYS_MAX).for_each(|index| kept[*index] = true);
        let (mut kept, mut rest, mut heaviest) = (kept.into_iter(), self.rest.take().unwrap_or_default(), 0);
        self.sums.retain(|(_, sum)| {
            let keep = kept.next().unwrap_or(false);
            if !keep {
                rest.sum += i128::from(*sum);
                rest.keys += 1;
                heaviest = heaviest.max(i128::from(*sum).abs());
            }
            keep
        });
        rest.lost += heaviest;
        self.rest = Some(rest);
    }
}

fn by_weight(a: &(CompactString, i64), b: &(CompactString, i64)) -> std::cmp::Ordering {
    b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_keys_come_first_and_ties_by_bytes() {
        let mut keyed = Keyed::default();
        for (key, amount) in [("b", 2), ("a", 2), ("c", 5), ("a", 0), ("d", -1)] {
            keyed.add(key, amount);
        }
        let top = |count| keyed.top(count).into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>();
        assert_eq!(top(3), ["c", "a", "b"]);
        assert_eq!(top(9), ["c", "a", "b", "d"]);
        assert_eq!(top(0), Vec::<String>::new());
        assert_eq!((keyed.get("c"), keyed.get("z")), (5, 0));
        assert_eq!((keyed.off(), keyed.keys_off()), (Some(0), 0));
    }

    #[test]
    fn a_difference_has_the_keys_of_both() {
        let (mut bought, mut returned) = (Keyed::default(), Keyed::default());
        bought.add("a", 5);
        bought.add("b", 2);
        returned.add("a", 1);
        returned.add("c", 3);
        let less: Vec<_> = bought.less(&returned).0.into_iter().map(|(key, sum)| (key.to_string(), sum)).collect();
        assert_eq!(less, [("a".into(), 4), ("b".into(), 2), ("c".into(), -3)]);
    }

    #[test]
    fn sums_join_key_by_key() {
        let sums = |entries: &[(&str, i64)]| {
            let mut keyed = Keyed::default();
            entries.iter().for_each(|(key, amount)| keyed.add(key, *amount));
            keyed
        };
        let mut joined = sums(&[("a", 2), ("b", 3)]);
        joined.join(&sums(&[("b", -1), ("c", 0)]));
        assert_eq!(joined, sums(&[("a", 2), ("b", 2), ("c", 0)]));
        let full: Vec<_> = (0..2 * KEYS_MAX).map(|key| format!("{key:05}")).collect();
        let full = sums(&full.iter().map(|key| (key.as_str(), 10)).collect::<Vec<_>>());
        let mut over = sums(&[("heavy", 99)]);
        over.join(&full);
        assert_eq!((over.len(), over.off(), over.get("heavy")), (KEYS_MAX, Some(10), 99));
    }

    #[test]
    fn past_the_bound_the_lightest_give_way() {
        let mut keyed = Keyed::default();
        for key in 0..2 * KEYS_MAX {
            keyed.add(&format!("{key:05}"), 10);
        }
        keyed.add("heavy", 99);
        assert_eq!((keyed.sums.len(), keyed.get("heavy"), keyed.get("00000")), (KEYS_MAX, 99, 10));
        let keys = KEYS_MAX as u64 + 1;
        assert_eq!(keyed.rest, Some(Box::new(Rest { sum: 10 * i128::from(keys), keys, lost: 10 })));
    }

    #[test]
    fn a_sum_over_64_bits_is_held_and_said() {
        let mut keyed = Keyed::default();
        keyed.add("a", i64::MAX);
        keyed.add("a", 1);
        assert_eq!((keyed.get("a"), keyed.off()), (i64::MAX, None));
    }
}
