//! The scalar values that a plugin reads and answers.

use crate::bindings::Kind;

/// A fixed-point number in units of 10⁻⁶: money in the currency's main unit, quantities. Exact: it never passes through a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(pub i64);

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self(0);
    /// One.
    pub const ONE: Self = Self(1_000_000);

    /// The product, rounded half to even at the sixth decimal; none where it does not fit.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let exact = i128::from(self.0) * i128::from(other.0);
        let scale = i128::from(Self::ONE.0);
        let (quotient, twice_rest) = (exact.div_euclid(scale), 2 * exact.rem_euclid(scale));
        let up = twice_rest > scale || (twice_rest == scale && quotient % 2 != 0);
        i64::try_from(quotient + i128::from(up)).ok().map(Self)
    }

    /// The negative; none where it is out of range.
    pub fn checked_neg(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }

    /// The sum; none where it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The nearest float, for formulas whose result is not money.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl core::ops::Neg for Decimal {
    type Output = Self;

    /// The negative. The very smallest value has none: a plugin that meets it panics; see [`checked_neg`](Self::checked_neg).
    fn neg(self) -> Self {
        Self(self.0.checked_neg().expect("a decimal's negative is out of range; use checked_neg"))
    }
}

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub i64);

/// A calendar day in the business time zone, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

/// A text that can be compared and handed back, but not looked into: a product, a category. Valid within one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub(crate) u32);

/// An enum whose variants stand for texts; derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a type that a plugin can use here",
    note = "values are f64, i64, Decimal, Instant, Day, bool, Key, String, or an enum of texts",
    note = "for an enum of texts derive Choice: `#[derive(Choice)] enum … {{ #[choice(\"Product Viewed\")] ProductViewed, … }}`"
)]
pub trait Choice: Sized + Copy + 'static {
    /// The texts, in the order of the variants.
    const CHOICES: &'static [&'static str];
    /// The variants, in the same order.
    const VARIANTS: &'static [Self];
    /// The variant's position.
    fn code(self) -> u32;
}

/// For plugins that give no reasons or never pass over an event: an enum without variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

impl Choice for Never {
    const CHOICES: &'static [&'static str] = &[];
    const VARIANTS: &'static [Self] = &[];

    fn code(self) -> u32 {
        match self {}
    }
}

/// A type of which an aggregate can hold values.
pub trait Amount: Copy {
    /// How the host names it.
    const KIND: Kind;
    /// As the host stores it.
    fn units(self) -> i64;
}

impl Amount for i64 {
    const KIND: Kind = Kind::Integer;

    fn units(self) -> i64 {
        self
    }
}

impl Amount for Decimal {
    const KIND: Kind = Kind::Decimal;

    fn units(self) -> i64 {
        self.0
    }
}

impl Amount for Instant {
    const KIND: Kind = Kind::Instant;

    fn units(self) -> i64 {
        self.0
    }
}

impl Amount for Key {
    const KIND: Kind = Kind::Key;

    fn units(self) -> i64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_rounded_half_to_even_and_overflow_is_seen() {
        assert_eq!(Decimal(2_550_000).checked_mul(Decimal(6_000_000)), Some(Decimal(15_300_000)));
        assert_eq!(Decimal(1).checked_mul(Decimal(500_000)), Some(Decimal(0)));
        assert_eq!(Decimal(3).checked_mul(Decimal(500_000)), Some(Decimal(2)));
        assert_eq!(Decimal(-3).checked_mul(Decimal(500_000)), Some(Decimal(-2)));
        assert_eq!(Decimal(i64::MAX).checked_mul(Decimal(2_000_000)), None);
        assert_eq!((Decimal(i64::MIN).checked_neg(), -Decimal(3)), (None, Decimal(-3)));
    }
}
