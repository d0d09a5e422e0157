//! The scalar values of the domain: fixed-point decimals, instants, and the kinds that a plugin may declare.
//!
//! Owns their text forms. Knows nothing of JSON documents, aggregates or time zones.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A fixed-point number in units of 10⁻⁶: money in the currency's main unit, quantities.
///
/// It is parsed from decimal text and never passes through a binary float, so sums of prices are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decimal(pub i64);

/// Why a text is not a [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// The text is not a JSON number.
    #[error("not a decimal number")]
    Malformed,
    /// The number does not fit 64 bits in units of 10⁻⁶ (about ±9.2 × 10¹²).
    #[error("out of range: at most about 9.2 trillion either way")]
    Overflow,
}

impl Decimal {
    /// Units per 1.
    pub const SCALE: i64 = 1_000_000;
    const DECIMALS: i32 = 6;

    /// A whole number.
    ///
    /// Returns none where it does not fit.
    pub fn from_integer(value: i64) -> Option<Self> {
        value.checked_mul(Self::SCALE).map(Self)
    }

    /// Parses the text of a JSON number, exponent included, rounding half to even at the sixth decimal.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let dot_without_digits = mantissa.contains('.') && fraction.is_empty();
        if whole.is_empty() || dot_without_digits || !digits_only(whole) || !digits_only(fraction) {
            return Err(DecimalError::Malformed);
        }
        // `place` is the power of ten of the current digit in units of 10⁻⁶.
        let mut place = whole.len() as i32 - 1 + exponent + Self::DECIMALS;
        let mut units: i128 = 0;
        let mut first_dropped = None;
        let mut dropped_rest = false;
        for digit in whole.bytes().chain(fraction.bytes()).map(|byte| byte - b'0') {
            if place >= 0 {
                if digit != 0 && place > 19 {
                    return Err(DecimalError::Overflow);
                }
                if digit != 0 {
                    units += i128::from(digit) * 10_i128.pow(place as u32);
                }
            } else if place == -1 {
                first_dropped = Some(digit);
            } else {
                dropped_rest |= digit != 0;
            }
            place -= 1;
        }
        units += i128::from(match first_dropped {
            Some(5) if !dropped_rest => units % 2 == 1,
            Some(digit) => digit >= 5,
            None => false,
        });
        let signed = if negative { -units } else { units };
        i64::try_from(signed).map(Self).map_err(|_| DecimalError::Overflow)
    }

    /// The product of two decimals, rounded half to even; none where it does not fit.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let exact = i128::from(self.0) * i128::from(other.0);
        i64::try_from(divide_half_even(exact, i128::from(Self::SCALE))).ok().map(Self)
    }

    /// The nearest binary float, for reading only: a value never comes back from it.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::SCALE as f64
    }
}

/// An exponent beyond ±400 changes nothing any more: the number is out of range or zero.
fn parse_exponent(text: &str) -> Result<i32, DecimalError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DecimalError::Malformed);
    }
    let magnitude = digits.parse::<i32>().unwrap_or(i32::MAX).min(400);
    Ok(if text.starts_with('-') { -magnitude } else { magnitude })
}

/// `numerator / denominator`, rounded half to even once from the exact quotient. The denominator is positive.
pub fn divide_half_even(numerator: i128, denominator: i128) -> i128 {
    let quotient = numerator.div_euclid(denominator);
    let twice_rest = 2 * numerator.rem_euclid(denominator);
    let up = twice_rest > denominator || (twice_rest == denominator && quotient % 2 != 0);
    quotient + i128::from(up)
}

/// Writes an amount in units of 10⁻⁶ as the shortest exact decimal text, which is also a JSON number.
pub struct DecimalText(pub i128);

impl fmt::Display for DecimalText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let scale = Decimal::SCALE as u128;
        let (whole, mut fraction) = (magnitude / scale, magnitude % scale);
        if self.0 < 0 {
            out.write_str("-")?;
        }
        write!(out, "{whole}")?;
        if fraction == 0 {
            return Ok(());
        }
        let mut width = Decimal::DECIMALS as usize;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        write!(out, ".{fraction:0width$}")
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        DecimalText(i128::from(self.0)).fmt(out)
    }
}

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

/// The text is not an RFC 3339 date and time with an offset, from the years 1900 to 2199.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant such as 2026-01-05T10:00:00Z")]
pub struct TimestampError;

impl Timestamp {
    /// The span in which instants are accepted, so that arithmetic on windows cannot overflow.
    const EARLIEST: i64 = -2_208_988_800_000;
    const LATEST: i64 = 7_258_118_400_000;

    /// Parses RFC 3339, cutting what is finer than a millisecond.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        // jiff reads more than RFC 3339 (such as a space-separated or bracketed form); the shape is checked first.
        let bytes = text.as_bytes();
        let has_shape = bytes.len() >= 20
            && bytes[4] == b'-'
            && bytes[7] == b'-'
            && matches!(bytes[10], b'T' | b't')
            && bytes[13] == b':'
            && bytes[16] == b':'
            && !text.contains([',', '['])
            && has_offset(bytes);
        if !has_shape {
            return Err(TimestampError);
        }
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimestampError)?;
        let millis = instant.as_millisecond();
        if (Self::EARLIEST..Self::LATEST).contains(&millis) { Ok(Self(millis)) } else { Err(TimestampError) }
    }

    /// This instant moved by a number of milliseconds.
    pub fn plus_ms(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// Whether a text ends with an offset of RFC 3339: `Z`, or hours and minutes of a day either way.
fn has_offset(text: &[u8]) -> bool {
    match text {
        [.., b'Z' | b'z'] => true,
        [.., b'+' | b'-', ten_h @ b'0'..=b'2', h @ b'0'..=b'9', b':', b'0'..=b'5', b'0'..=b'9'] => {
            (*ten_h, *h) <= (b'2', b'3')
        }
        _ => false,
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with milliseconds only where there are any.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(out, "{instant}"),
            Err(_) => write!(out, "{}ms", self.0),
        }
    }
}

/// The type of a value that a plugin reads or defines; `wit/types.wit` documents each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // one line each in wit/types.wit, which is the contract
pub enum Kind {
    Number,
    Integer,
    Decimal,
    Instant,
    Day,
    Flag,
    Choice,
    Key,
    Text,
}

impl Kind {
    /// The kind's name in declarations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::Instant => "instant",
            Self::Day => "day",
            Self::Flag => "flag",
            Self::Choice => "choice",
            Self::Key => "key",
            Self::Text => "text",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_are_exact_and_round_half_to_even() {
        let units = |text| Decimal::parse(text).map(|decimal| decimal.0);
        assert_eq!(units("139.12"), Ok(139_120_000));
        assert_eq!(units("-0.001"), Ok(-1_000));
        assert_eq!(units("0.0000005"), Ok(0));
        assert_eq!(units("0.0000015"), Ok(2));
        assert_eq!(units("0.00000050001"), Ok(1));
        assert_eq!(units("-0.0000015"), Ok(-2));
        assert_eq!(units("1.5e3"), Ok(1_500_000_000));
        assert_eq!(units("15E-1"), Ok(1_500_000));
        assert_eq!(units("0e999999999"), Ok(0));
        assert_eq!(units("1e-999999999"), Ok(0));
        assert_eq!(units("9223372036854.775807"), Ok(i64::MAX));
        assert_eq!(units("-9223372036854.775808"), Ok(i64::MIN));
        assert_eq!(units("9223372036854.775808"), Err(DecimalError::Overflow));
        assert_eq!(units("1e300"), Err(DecimalError::Overflow));
        for text in ["", "-", ".5", "5.", "1e", "1e+", "0x1", "1,5", "NaN", "+1", "1.-2", " 1"] {
            assert_eq!(units(text), Err(DecimalError::Malformed), "{text}");
        }
    }

    #[test]
    fn the_quotient_is_rounded_once_half_to_even() {
        assert_eq!(divide_half_even(5, 2), 2);
        assert_eq!(divide_half_even(7, 2), 4);
        assert_eq!(divide_half_even(-5, 2), -2);
        assert_eq!(divide_half_even(-7, 2), -4);
        assert_eq!(divide_half_even(-8, 3), -3);
    }

    #[test]
    fn instants_read_and_write_rfc_3339() {
        let shown = |text: &str| Timestamp::parse(text).map(|instant| instant.to_string());
        assert_eq!(shown("2010-12-01T08:26:00Z").as_deref(), Ok("2010-12-01T08:26:00Z"));
        assert_eq!(shown("2010-12-01T08:26:00.5+01:00").as_deref(), Ok("2010-12-01T07:26:00.5Z"));
        for text in ["2010-12-01", "2010-12-01T08:26:00", "yesterday", "2010-13-01T00:00:00Z", "1899-12-31T23:59:59Z"] {
            assert_eq!(Timestamp::parse(text), Err(TimestampError), "{text}");
        }
        for lax in [
            "2010-12-01T08:26:00+01",
            "2010-12-01T08:26:00+25:59",
            "2010-12-01T08:26:00+01:60",
            "2010-12-01T08:26:00,5Z",
        ] {
            assert_eq!(Timestamp::parse(lax), Err(TimestampError), "{lax}");
        }
        assert!(Timestamp::parse("2010-12-01 08:26:00Z").is_err());
        assert!(Timestamp::parse("2010-12-01T08:26:00Z[UTC]").is_err());
    }

    proptest! {
        #[test]
        fn a_decimal_survives_its_text(units in any::<i64>()) {
            prop_assert_eq!(Decimal::parse(&Decimal(units).to_string()), Ok(Decimal(units)));
        }

        #[test]
        fn parsing_a_decimal_never_panics(text in "[-+0-9.eE]{0,40}") {
            let _ = Decimal::parse(&text);
        }
    }
}
