//! Quantiles: exact up to [`VALUES_MAX`] values, beyond it within 1% of the value, whatever the distribution.
//!
//! DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019) with
//! γ = (1 + α) / (1 - α), α = 1%. Values are 64-bit integers, so at most 2,200 bins a sign can occur and none ever has to be collapsed: the
//! state is a function of the set of values alone, and its merge is the sum of counts. (Sketch crates keep floating-point sums beside
//! the bins, whose bytes depend on the order.)

use serde::{Deserialize, Serialize};

use super::insert_tight;

/// Values up to which a quantile is exact.
pub(crate) const VALUES_MAX: usize = 128;
/// The relative error beyond it, of the true value.
const RELATIVE_ERROR: f64 = 0.01;
const GAMMA: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);

/// By how much a value that a bin stands for may be off: the error is a share of the true value, and the value is rounded.
pub(crate) fn off(value: i128) -> i128 {
    libm::ceil(value.abs() as f64 * RELATIVE_ERROR / (1.0 - RELATIVE_ERROR) + 0.5) as i128
}

/// A set of values with their numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Quantiles {
    /// Every value, ascending.
    Values(Vec<i64>),
    /// (bin, count), ascending by the values that the bins stand for.
    Bins(Vec<(i16, u64)>),
}

impl Default for Quantiles {
    fn default() -> Self {
        Self::Values(Vec::new())
    }
}

impl Quantiles {
    /// Takes in a value.
    pub(crate) fn add(&mut self, value: i64) {
        match self {
            Self::Values(values) if values.len() < VALUES_MAX => {
                let gap = values.partition_point(|held| *held <= value);
                insert_tight(values, gap, value);
            }
            Self::Values(_) => {
                self.spread();
                self.add(value);
            }
            Self::Bins(bins) => count(bins, bin(value), 1),
        }
    }

    /// Takes in another set.
    pub(crate) fn join(&mut self, other: &Self) {
        match other {
            Self::Values(values) => values.iter().for_each(|value| self.add(*value)),
            Self::Bins(others) => {
                self.spread();
                if let Self::Bins(bins) = self {
                    others.iter().for_each(|(bin, number)| count(bins, *bin, *number));
                }
            }
        }
    }

    fn spread(&mut self) {
        if let Self::Values(values) = self {
            let mut bins = Vec::new();
            values.iter().for_each(|value| count(&mut bins, bin(*value), 1));
            *self = Self::Bins(bins);
        }
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Values(values) => values.len() as u64,
            Self::Bins(bins) => bins.iter().map(|(_, number)| number).sum(),
        }
    }

    /// The lower quantile, x of rank ⌊1 + q (n - 1)⌋, where `below` values more stand before all others and `above` behind them: what
    /// a quantile may be when so many are not known. q is in millionths. None where there is no value at that rank.
    pub(crate) fn quantile(&self, q_millionths: u32, below: u64, above: u64) -> Option<i64> {
        let number = (self.count() + below + above).checked_sub(1)?;
        let rank = (u128::from(number) * u128::from(q_millionths) / 1_000_000) as u64;
        let mut left = rank.checked_sub(below)?;
        match self {
            Self::Values(values) => values.get(usize::try_from(left).ok()?).copied(),
            Self::Bins(bins) => bins.iter().find_map(|(bin, number)| {
                let here = left < *number;
                left = left.saturating_sub(*number);
                here.then(|| middle(*bin))
            }),
        }
    }

    /// Whether every value is known.
    pub(crate) fn exact(&self) -> bool {
        matches!(self, Self::Values(_))
    }

    /// Elements held.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Bins(bins) => bins.len(),
        }
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Values(values) => values.capacity() * size_of::<i64>(),
            Self::Bins(bins) => bins.capacity() * size_of::<(i16, u64)>(),
        }
    }
}

fn count(bins: &mut Vec<(i16, u64)>, bin: i16, number: u64) {
    match bins.binary_search_by_key(&bin, |entry| entry.0) {
        Ok(found) => bins[found].1 += number,
        Err(gap) => insert_tight(bins, gap, (bin, number)),
    }
}

/// The bin of a value: 0 for zero, else ±(1 + ⌈log_γ |value|⌉).
fn bin(value: i64) -> i16 {
    if value == 0 {
        return 0;
    }
    let position = libm::ceil(libm::log(value.unsigned_abs() as f64) / libm::log(GAMMA)) as i16 + 1;
    if value > 0 { position } else { -position }
}

/// The value that a bin stands for: 2γ^i / (γ + 1).
fn middle(bin: i16) -> i64 {
    if bin == 0 {
        return 0;
    }
    let magnitude = libm::round(2.0 * libm::pow(GAMMA, f64::from(bin.unsigned_abs() - 1)) / (GAMMA + 1.0)) as i64;
    if bin > 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantiles(values: &[i64]) -> Quantiles {
        let mut quantiles = Quantiles::default();
        values.iter().for_each(|value| quantiles.add(*value));
        quantiles
    }

    #[test]
    fn the_extremes_of_64_bits_have_bins() {
        for value in [0, 1, -1, 7, i64::MAX, i64::MIN] {
            let stands_for = middle(bin(value));
            let off = (stands_for as f64 - value as f64).abs();
            assert!(off <= (value as f64).abs() * 0.01 + 0.5, "{value} becomes {stands_for}");
        }
        assert_eq!(quantiles(&[]).quantile(500_000, 0, 0), None);
    }

    proptest! {
        #[test]
        fn parts_in_any_order_join_to_the_whole_within_the_error(
            values in prop::collection::vec(prop_oneof![-1_000_i64..1_000, -1_000_000_000_000_i64..1_000_000_000_000], 1..400),
            cut in any::<prop::sample::Index>(),
            q in 0_u32..=1_000_000,
        ) {
            let whole = quantiles(&values);
            let (left, right) = values.split_at(cut.index(values.len()));
            let mut joined = quantiles(right);
            joined.join(&quantiles(left));
            prop_assert_eq!(&joined, &whole);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = ((sorted.len() - 1) as u64 * u64::from(q) / 1_000_000) as usize;
            let (naive, value) = (sorted[rank] as f64, whole.quantile(q, 0, 0).expect("a value") as f64);
            let error = if whole.exact() { 0.0 } else { off(value as i128) as f64 };
            prop_assert!((value - naive).abs() <= error, "{value} is not {naive}");
        }
    }
}
