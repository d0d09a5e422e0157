//! Moments: count, sum and sum of squares of whole numbers, exactly; for means and variances.

use serde::{Deserialize, Serialize};

/// What is known of a set of values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(crate) struct Moments {
    pub(crate) count: u64,
    pub(crate) sum: i128,
    /// None once it has outgrown 128 bits; the variance is absent from there on.
    squares: Option<u128>,
    /// Of any value; meaningless while there is none.
    pub(crate) low: i64,
    pub(crate) high: i64,
}

/// On disk a single value, which is what most instants have, stands for itself.
#[derive(Serialize, Deserialize)]
enum Stored {
    One(i64),
    Some { count: u64, sum: i128, squares: Option<u128>, low: i64, high: i64 },
}

impl From<Moments> for Stored {
    fn from(Moments { count, sum, squares, low, high }: Moments) -> Self {
        if count == 1 { Self::One(low) } else { Self::Some { count, sum, squares, low, high } }
    }
}

impl From<Stored> for Moments {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::One(value) => Self::one(value),
            Stored::Some { count, sum, squares, low, high } => Self { count, sum, squares, low, high },
        }
    }
}

impl Moments {
    fn one(value: i64) -> Self {
        let square = u128::from(value.unsigned_abs()).pow(2);
        Self { count: 1, sum: i128::from(value), squares: Some(square), low: value, high: value }
    }

    /// Takes in a value.
    pub(crate) fn add(&mut self, value: i64) {
        self.join(&Self::one(value));
    }

    /// Takes in another set.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.count == 0 {
            return self.clone_from(other);
        }
        if other.count == 0 {
            return;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.squares = self.squares.zip(other.squares).and_then(|(one, other)| one.checked_add(other));
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }

    /// The mean squared distance from the mean, in squares of units; of a sample with one degree of freedom less. Absent for too few values.
    ///
    /// The squares around the mean's whole part are summed in integers, so nothing cancels out; only the fraction's part is a float.
    pub(crate) fn variance(&self, sample: bool) -> Option<f64> {
        let degrees = self.count.checked_sub(u64::from(sample)).filter(|degrees| *degrees > 0)?;
        let (count, squares) = (i128::from(self.count), i128::try_from(self.squares?).ok()?);
        let whole = self.sum.div_euclid(count);
        let rest = (self.sum - whole * count) as f64;
        let around = whole.checked_mul(self.sum + (self.sum - whole * count))?;
        let around = squares.checked_sub(around)? as f64 - rest * rest / self.count as f64;
        Some(around.max(0.0) / degrees as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moments(values: &[i64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add(*value));
        moments
    }

    #[test]
    fn a_variance_needs_enough_values_and_does_not_cancel() {
        assert_eq!(moments(&[]).variance(false), None);
        assert_eq!((moments(&[5]).variance(false), moments(&[5]).variance(true)), (Some(0.0), None));
        let far = 1_000_000_000_000_000;
        assert_eq!(moments(&[far + 1, far + 2, far + 3, far + 4]).variance(false), Some(1.25));
        assert_eq!(moments(&[-far - 1, -far - 2]).variance(true), Some(0.5));
        assert_eq!(moments(&[i64::MIN; 5]).variance(false), None, "beyond 128 bits");
    }

    proptest! {
        #[test]
        fn parts_join_to_the_whole(values in prop::collection::vec(-1_000_000_i64..1_000_000, 1..60), cut in any::<prop::sample::Index>()) {
            let whole = moments(&values);
            let (left, right) = values.split_at(cut.index(values.len()));
            let mut joined = moments(left);
            joined.join(&moments(right));
            prop_assert_eq!(&joined, &whole);
            let mean = values.iter().sum::<i64>() as f64 / values.len() as f64;
            let naive = values.iter().map(|value| (*value as f64 - mean).powi(2)).sum::<f64>() / values.len() as f64;
            let variance = whole.variance(false).expect("a value");
            prop_assert!((variance - naive).abs() <= naive.abs() * 1e-9 + 1e-6, "{variance} is not {naive}");
        }
    }
}
