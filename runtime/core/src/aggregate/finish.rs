//! Finishing: from a summary to a value, and how far a value may be from the truth where a window cuts a tile.

use compact_str::CompactString;

use super::by_key::ByKey;
use super::custom::Finished;
use super::exactness::{Exactness, Off};
use super::merge::Merge;
use super::moments::Moments;
use super::operator::Operator;
use super::quantiles::{self, Quantiles};
use super::summary::Summary;
use super::value::Value;
use crate::value::{Decimal, DecimalText, Kind, Timestamp, divide_half_even};

/// A single number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    /// In the representation of the reading's kind.
    Fixed(i128),
    Number(f64),
}

/// A fixed value in the form of a kind.
pub(crate) fn scaled(kind: Kind, value: i128) -> Value {
    match kind {
        Kind::Decimal => Value::Decimal(value),
        Kind::Instant => i64::try_from(value).map_or(Value::Absent, |ms| Value::Instant(Timestamp(ms))),
        _ => Value::Integer(value),
    }
}

/// Keys with fixed weights in the form of a kind.
pub(crate) fn weights(kind: Kind, weights: Vec<(CompactString, i64)>) -> Value {
    match kind {
        Kind::Decimal => Value::Decimals(weights),
        _ => Value::Integers(weights),
    }
}

/// The value of a summary; `kind` is the reading's.
pub(crate) fn finish(merge: &Merge, summary: &Summary, kind: Kind) -> Value {
    match summary {
        Summary::Placed(Some(placed)) if kind == Kind::Key => Value::Text(placed.place.1.clone()),
        Summary::Several(several) => {
            let value = |(_, key, value): &(i64, CompactString, i64)| match kind {
                Kind::Key => Value::Text(key.clone()),
                _ => scaled(kind, i128::from(*value)),
            };
            let entries = several.entries().iter();
            Value::List(match merge.operator {
                Operator::LastK { .. } => entries.rev().map(value).collect(),
                _ => entries.map(value).collect(),
            })
        }
        Summary::Distinct(distinct) => Value::Integer(i128::from(distinct.count())),
        Summary::Days(days) => Value::Integer(i128::from(days.count())),
        Summary::Recent(recent) => Value::List(recent.keys().cloned().map(Value::Text).collect()),
        Summary::Histogram(counts) => histogram(merge, counts),
        Summary::Keyed(keyed) => weights(kind, keyed.top(usize::MAX)),
        Summary::ByKey(by_key) => keys(merge, by_key, kind),
        Summary::Custom(state) => {
            let Some((custom, aggregate)) = &merge.custom else { return Value::Absent };
            match (custom.finish(*aggregate, state), kind) {
                (Ok(Finished::Number(value)), Kind::Number) if value.is_finite() => Value::Number(value),
                (Ok(Finished::Fixed(value)), kind) if kind != Kind::Number => scaled(kind, i128::from(value)),
                _ => Value::Absent,
            }
        }
        Summary::Moments(_) | Summary::Extreme(_) | Summary::Placed(_) | Summary::Quantiles(_) => {
            match of_key(merge, summary) {
                None => Value::Absent,
                Some(Scalar::Fixed(value)) => scaled(kind, value),
                Some(Scalar::Number(value)) => Value::Number(value),
            }
        }
    }
}

/// The number that a summary of single values comes to: its own value, or that of one key.
pub(crate) fn of_key(merge: &Merge, summary: &Summary) -> Option<Scalar> {
    match (summary, &merge.operator) {
        (Summary::Moments(moments), Operator::Variance { sample }) => {
            moments.variance(*sample).map(|variance| Scalar::Number(variance / (unit(merge.kind) * unit(merge.kind))))
        }
        (Summary::Moments(moments), Operator::StandardDeviation { sample }) => {
            moments.variance(*sample).map(|variance| Scalar::Number(libm::sqrt(variance) / unit(merge.kind)))
        }
        (Summary::Moments(moments), _) => mean(moments, merge.kind).map(Scalar::Fixed),
        (Summary::Extreme(held), _) => held.map(|value| Scalar::Fixed(i128::from(value))),
        (Summary::Placed(held), _) => held.as_ref().map(|placed| Scalar::Fixed(placed.value)),
        (Summary::Quantiles(quantiles), Operator::Quantile { q_millionths }) => {
            quantiles.quantile(*q_millionths, 0, 0).map(|value| Scalar::Fixed(i128::from(value)))
        }
        _ => None,
    }
}

/// Units per 1 of a kind.
fn unit(kind: Kind) -> f64 {
    if kind == Kind::Decimal { Decimal::SCALE as f64 } else { 1.0 }
}

/// In units of 10⁻⁶.
fn mean(moments: &Moments, kind: Kind) -> Option<i128> {
    let scale = if kind == Kind::Decimal { 1 } else { i128::from(Decimal::SCALE) };
    (moments.count > 0).then(|| divide_half_even(moments.sum.saturating_mul(scale), i128::from(moments.count)))
}

/// Counts by upper bound, in the order of the bounds.
fn histogram(merge: &Merge, counts: &[u64]) -> Value {
    let Operator::Histogram { bounds } = &merge.operator else { return Value::Absent };
    let text = |bound: &i64| match merge.kind {
        Kind::Decimal => DecimalText(i128::from(*bound)).to_string().into(),
        _ => bound.to_string().into(),
    };
    let names = bounds.iter().map(text).chain([CompactString::const_new("inf")]);
    Value::Integers(names.zip(counts.iter().map(|count| i64::try_from(*count).unwrap_or(i64::MAX))).collect())
}

/// Every key with what its summary comes to, heaviest first, equal ones ascending by the key's bytes.
fn keys(merge: &Merge, by_key: &ByKey, kind: Kind) -> Value {
    let Some(of) = merge.of_key() else { return Value::Absent };
    let scalars = by_key.iter().filter_map(|(key, summary)| Some((key.clone(), of_key(of, summary)?)));
    if kind == Kind::Number {
        let number = |(key, scalar)| if let Scalar::Number(value) = scalar { Some((key, value)) } else { None };
        let mut numbers: Vec<(CompactString, f64)> = scalars.filter_map(number).collect();
        numbers.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        return Value::Numbers(numbers);
    }
    let fixed =
        |(key, scalar)| if let Scalar::Fixed(value) = scalar { Some((key, i64::try_from(value).ok()?)) } else { None };
    let mut fixed: Vec<(CompactString, i64)> = scalars.filter_map(fixed).collect();
    fixed.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    match kind {
        Kind::Instant => Value::Instants(fixed.into_iter().map(|(key, at)| (key, Timestamp(at))).collect()),
        kind => weights(kind, fixed),
    }
}

/// How far the value of `inside` may be from that of `inside` and any part of `astride`; none where that has no measure.
pub(crate) fn distance(merge: &Merge, inside: &Summary, astride: &Summary, q_millionths: u32) -> Option<Exactness> {
    match (inside, astride, &merge.operator) {
        // These only grow or only shrink with what is added: the truth lies between without and with all of it.
        (Summary::Extreme(_) | Summary::Distinct(_) | Summary::Days(_), ..) => {
            let mut with = inside.clone();
            merge.join_to(&mut with, astride, false);
            let number = |summary: &Summary| match summary {
                Summary::Extreme(held) => held.map(i128::from),
                Summary::Distinct(distinct) => {
                    distinct.standard_error().is_none().then(|| i128::from(distinct.count()))
                }
                Summary::Days(days) => Some(i128::from(days.count())),
                _ => None,
            };
            Some(Exactness::within((number(&with)? - number(inside)?).abs()))
        }
        // Adding values between low and high moves a mean towards them, and no further.
        (Summary::Moments(held), Summary::Moments(more), Operator::Mean) => {
            let mean_inside = mean(held, merge.kind)?;
            let scale = if merge.kind == Kind::Decimal { 1 } else { i128::from(Decimal::SCALE) };
            let (low, high) = (i128::from(more.low) * scale, i128::from(more.high) * scale);
            Some(Exactness::within((mean_inside - low).max(high - mean_inside).max(0)))
        }
        // A variance lies between 0 and a quarter of the squared range (Popoviciu's inequality); of a sample twice that at most.
        (Summary::Moments(held), Summary::Moments(more), operator) if held.count > 0 => {
            let (low, high) = (held.low.min(more.low), held.high.max(more.high));
            let range = (high as f64 - low as f64) / unit(merge.kind);
            let (Operator::Variance { sample } | Operator::StandardDeviation { sample }) = operator else {
                return None;
            };
            let most = range * range / if *sample { 2.0 } else { 4.0 };
            let variance = held.variance(*sample)? / (unit(merge.kind) * unit(merge.kind));
            let (value, most) = match operator {
                Operator::Variance { .. } => (variance, most),
                _ => (libm::sqrt(variance), libm::sqrt(most)),
            };
            Some(Exactness::Off(Off::Number(value.max(most - value))))
        }
        (Summary::Quantiles(held), Summary::Quantiles(more), _) => quantile_distance(held, more.count(), q_millionths),
        _ => None,
    }
}

/// Between all that is unknown standing below, and all of it above.
fn quantile_distance(held: &Quantiles, unknown: u64, q_millionths: u32) -> Option<Exactness> {
    let at = |below, above| held.quantile(q_millionths, below, above).map(i128::from);
    let (low, value, high) = (at(unknown, 0)?, at(0, 0)?, at(0, unknown)?);
    let off = (value - low).max(high - value);
    let rounding = if held.exact() { 0 } else { quantiles::off(low.abs().max(high.abs())) };
    Some(Exactness::within(off + rounding))
}
