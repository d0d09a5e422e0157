//! Exponentially decayed sums by key: an amount counts half after each half-life.
//!
//! Forward decay (Cormode et al., "Forward decay", ICDE 2009) on a grid of half-lives: an amount at instant `k·h + r` is stored under period k
//! as the integer `amount · round(2^(r/h) · 2³²)`. Stored values are integers, so any order of events gives equal bytes; the
//! rounding is at most 2⁻³³ of an amount. At instant t the value is `Σ S_k · 2^(k - t/h)`.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::{heap_bytes, insert_tight};
use crate::value::Decimal;

/// Keys that are kept for sure. At twice as many those that weigh least give way, all at once, so that each new key costs little.
pub(crate) const KEYS_MAX: usize = 256;
/// Half-lives after which an amount is dropped: it has fallen below 2⁻⁶⁴ of itself.
const PERIODS_MAX: i64 = 64;

/// (period, scaled sum), ascending.
type Periods = Vec<(i64, i128)>;

/// Decayed sums by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decayed {
    /// Ascending by the key's bytes.
    keys: Vec<(CompactString, Periods)>,
    /// The newest period seen.
    newest: Option<i64>,
    /// What any one key may have lost at most, rounded up (10⁻⁶): the heaviest of each time that keys gave way. None before one has.
    lost: Option<i64>,
}

impl Decayed {
    /// Adds an amount (10⁻⁶) to a key at an instant.
    pub(crate) fn add(&mut self, key: &str, amount: i64, at: i64, half_life_ms: i64) {
        let (period, rest) = (at.div_euclid(half_life_ms), at.rem_euclid(half_life_ms));
        if self.reaches(period) {
            // At most 2³³, so the product stays far below 128 bits for as long as anyone lives.
            let growth = libm::round(libm::exp2(rest as f64 / half_life_ms as f64) * 4_294_967_296.0) as i128;
            self.put(key, period, i128::from(amount) * growth, half_life_ms);
        }
    }

    /// Takes in other sums: what adding the amounts of both gives, as far as both are exact.
    pub(crate) fn join(&mut self, other: &Self, half_life_ms: i64) {
        if let Some(newest) = other.newest {
            self.reaches(newest);
        }
        for (key, periods) in &other.keys {
            for (period, scaled) in periods {
                if self.reaches(*period) {
                    self.put(key, *period, *scaled, half_life_ms);
                }
            }
        }
        if let Some(lost) = other.lost {
            self.lost = Some(self.lost.unwrap_or(0).saturating_add(lost));
        }
    }

    /// Whether a period is near enough to the newest to count; one that is the newest itself drops what lies too far back.
    fn reaches(&mut self, period: i64) -> bool {
        let newest = self.newest.map_or(period, |newest| newest.max(period));
        if self.newest != Some(newest) {
            self.newest = Some(newest);
            self.keys.retain_mut(|(_, periods)| {
                periods.retain(|(period, _)| newest - period < PERIODS_MAX);
                !periods.is_empty()
            });
        }
        newest - period < PERIODS_MAX
    }

    fn put(&mut self, key: &str, period: i64, scaled: i128, half_life_ms: i64) {
        match self.keys.binary_search_by(|entry| entry.0.as_str().cmp(key)) {
            Ok(found) => {
                let periods = &mut self.keys[found].1;
                match periods.binary_search_by_key(&period, |entry| entry.0) {
                    Ok(same) => periods[same].1 += scaled,
                    Err(gap) => insert_tight(periods, gap, (period, scaled)),
                }
            }
            Err(gap) => {
                insert_tight(&mut self.keys, gap, (CompactString::from(key), vec![(period, scaled)]));
                if self.keys.len() > 2 * KEYS_MAX {
                    self.drop_lightest(half_life_ms);
                }
            }
        }
    }

    /// A key's decayed sum at an instant; 0 where there is none.
    pub(crate) fn get(&self, key: &str, at: i64, half_life_ms: i64) -> f64 {
        self.keys
            .binary_search_by(|entry| entry.0.as_str().cmp(key))
            .map_or(0.0, |found| value(&self.keys[found].1, at, half_life_ms))
    }

    /// All keys, heaviest first, equal ones ascending by the key's bytes.
    pub(crate) fn all(&self, at: i64, half_life_ms: i64) -> Vec<(CompactString, f64)> {
        let mut all: Vec<_> =
            self.keys.iter().map(|(key, periods)| (key.clone(), value(periods, at, half_life_ms))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all
    }

    /// By how much any key's sum may be off; none where every key is still there.
    pub(crate) fn off(&self) -> Option<f64> {
        self.lost.map(|lost| Decimal(lost).to_f64())
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let list = |periods: &Periods| periods.capacity() * size_of::<(i64, i128)>();
        let lists: usize = self.keys.iter().map(|(key, periods)| heap_bytes(key) + list(periods)).sum();
        self.keys.capacity() * size_of::<(CompactString, Periods)>() + lists
    }

    fn drop_lightest(&mut self, half_life_ms: i64) {
        let at = self.newest.unwrap_or(0) * half_life_ms;
        let weights = self.keys.iter().map(|(_, periods)| libm::fabs(value(periods, at, half_life_ms)));
        let mut order: Vec<(f64, usize)> = weights.zip(0..).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut kept = vec![false; self.keys.len()];
        order.iter().take(KEYS_MAX).for_each(|(_, index)| kept[*index] = true);
        let mut kept = kept.into_iter();
        self.keys.retain(|_| kept.next().unwrap_or(false));
        let heaviest = order.get(KEYS_MAX).map_or(0.0, |(weight, _)| libm::ceil(weight * Decimal::SCALE as f64));
        self.lost = Some(self.lost.unwrap_or(0).saturating_add(heaviest as i64));
    }
}

fn value(periods: &Periods, at: i64, half_life_ms: i64) -> f64 {
    let (period_now, rest) = (at.div_euclid(half_life_ms), at.rem_euclid(half_life_ms));
    let sum: f64 =
        periods.iter().map(|(period, scaled)| *scaled as f64 * libm::exp2((period - period_now) as f64)).sum();
    let since_period = libm::exp2(-(rest as f64) / half_life_ms as f64);
    sum * since_period / (4_294_967_296.0 * Decimal::SCALE as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 24 * 3_600_000;

    #[test]
    fn an_amount_counts_half_after_a_half_life() {
        let mut decayed = Decayed::default();
        decayed.add("kitchen", 5 * Decimal::SCALE, 1_000 * DAY + 12_345, 30 * DAY);
        let at = |days: i64| decayed.get("kitchen", (1_000 + days) * DAY + 12_345, 30 * DAY);
        assert!((at(0) - 5.0).abs() < 1e-9);
        assert!((at(30) - 2.5).abs() < 1e-9);
        assert!((at(90) - 0.625).abs() < 1e-9);
        assert_eq!(decayed.get("garden", 1_000 * DAY, 30 * DAY), 0.0);
    }

    #[test]
    fn past_the_bound_the_lightest_give_way() {
        let mut decayed = Decayed::default();
        for key in 0..2 * KEYS_MAX {
            decayed.add(&format!("{key:04}"), (1 + key as i64 % 2) * Decimal::SCALE, 0, DAY);
        }
        assert_eq!(decayed.off(), None);
        decayed.add("light", Decimal::SCALE / 2, 0, DAY);
        assert_eq!(decayed.off(), Some(1.0));
        assert_eq!((decayed.get("light", 0, DAY), decayed.get("0000", 0, DAY)), (0.0, 0.0));
        assert_eq!((decayed.keys.len(), decayed.get("0001", 0, DAY)), (KEYS_MAX, 2.0));
    }

    proptest! {
        #[test]
        fn any_order_gives_equal_bytes_and_the_naive_value(
            entries in prop::collection::vec((0_u8..5, 1_i64..9, 0_i64..400), 1..60),
        ) {
            let add_all = |entries: &mut dyn Iterator<Item = &(u8, i64, i64)>| {
                let mut decayed = Decayed::default();
                for (key, amount, day) in entries {
                    decayed.add(&key.to_string(), amount * Decimal::SCALE, day * DAY + 77, 30 * DAY);
                }
                decayed
            };
            let one = add_all(&mut entries.iter());
            prop_assert_eq!(&one, &add_all(&mut entries.iter().rev()));
            let (left, right) = entries.split_at(entries.len() / 3);
            let mut joined = add_all(&mut left.iter());
            joined.join(&add_all(&mut right.iter()), 30 * DAY);
            prop_assert_eq!(&one, &joined, "parts joined");
            let now = 400 * DAY;
            for key in 0_u8..5 {
                let naive: f64 = entries
                    .iter()
                    .filter(|entry| entry.0 == key)
                    .map(|(_, amount, day)| *amount as f64 * libm::exp2(-((now - day * DAY - 77) as f64) / (30 * DAY) as f64))
                    .sum();
                let value = one.get(&key.to_string(), now, 30 * DAY);
                prop_assert!((value - naive).abs() <= 1e-8 * naive.max(1e-6), "{value} is not {naive}");
            }
        }
    }
}
