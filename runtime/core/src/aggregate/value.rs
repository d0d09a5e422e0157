//! What readings say: values, and their JSON.

use compact_str::CompactString;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::exactness::Exactness;
use crate::value::{DecimalText, Timestamp};

/// A value and how near it is to the truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The value.
    pub value: Value,
    /// How near it is.
    pub exactness: Exactness,
}

impl Read {
    pub(crate) fn exact(value: Value) -> Self {
        Self { value, exactness: Exactness::Exact }
    }

    pub(crate) fn absent() -> Self {
        Self::exact(Value::Absent)
    }

    pub(crate) fn backfilling() -> Self {
        Self { value: Value::Absent, exactness: Exactness::Backfilling }
    }
}

/// What a reading says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// There is none.
    Absent,
    /// A count or whole number.
    Integer(i128),
    /// In units of 10⁻⁶.
    Decimal(i128),
    /// A floating-point number.
    Number(f64),
    /// An instant.
    Instant(Timestamp),
    /// A key.
    Text(CompactString),
    /// Keys with whole-number weights, heaviest first.
    Integers(Vec<(CompactString, i64)>),
    /// Keys with weights in units of 10⁻⁶, heaviest first.
    Decimals(Vec<(CompactString, i64)>),
    /// Keys with floating-point weights, heaviest first.
    Numbers(Vec<(CompactString, f64)>),
    /// Keys with instants, latest first.
    Instants(Vec<(CompactString, Timestamp)>),
    /// A list of single values.
    List(Vec<Value>),
}

#[derive(Serialize)]
struct Weighted<'a, W> {
    key: &'a str,
    weight: W,
}

/// As JSON: numbers with exactly their digits, instants as RFC 3339, keys with weights as a list of objects.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn list<S: Serializer, W: Copy, T: Serialize>(
            serializer: S,
            weights: &[(CompactString, W)],
            form: impl Fn(W) -> T,
        ) -> Result<S::Ok, S::Error> {
            serializer
                .collect_seq(weights.iter().map(|(key, weight)| Weighted { key: key.as_str(), weight: form(*weight) }))
        }
        match self {
            Self::Absent => serializer.serialize_none(),
            Self::Integer(value) => number(value.to_string()).serialize(serializer),
            Self::Decimal(value) => number(DecimalText(*value).to_string()).serialize(serializer),
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Instant(at) => serializer.collect_str(at),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integers(weights) => list(serializer, weights, |weight| weight),
            Self::Decimals(weights) => {
                list(serializer, weights, |weight| number(DecimalText(i128::from(weight)).to_string()))
            }
            Self::Numbers(weights) => list(serializer, weights, |weight| weight),
            Self::Instants(instants) => list(serializer, instants, |at| at.to_string()),
            Self::List(values) => serializer.collect_seq(values),
        }
    }
}

/// A JSON number with exactly these digits.
fn number(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A single number, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// There is none, or it does not fit.
    Absent,
    /// A whole number, units of 10⁻⁶, or milliseconds, as the reading's kind says.
    Fixed(i64),
    /// A floating-point number.
    Float(f64),
}

/// The weight of one key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// A whole number, or units of 10⁻⁶, as the reading's kind says.
    Fixed(i64),
    /// A floating-point number.
    Number(f64),
}
