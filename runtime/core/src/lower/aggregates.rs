//! Aggregates as a plugin reads them: which reading a path means, and its value as cells.

use compact_str::CompactString;

use super::{INSTANTS, TEXTS, instant_cell, need_kind, text_cell};
use crate::aggregate::{Definitions, Number, Reading, State, Value};
use crate::columns::{Cell, Keys};
use crate::read::{Read, ReadError};
use crate::time::{BusinessTime, Moment};
use crate::value::{Decimal, Kind, Timestamp};

/// What of the elements of a list is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Value,
    Key,
    Weight,
}

/// The position of a reading that fits a scalar column.
pub(super) fn scalar_reading(read: &Read, name: &str, definitions: &Definitions) -> Result<usize, ReadError> {
    let index = find_reading(read, name, definitions)?;
    let reading = &definitions.readings()[index];
    if reading.keyed {
        return Err(read.fault(
            "is an aggregate by key; read all of it, as in agg:NAME[].key and agg:NAME[].weight, or of an offer one entry, as in \
             agg:NAME[offer:category]",
        ));
    }
    if reading.listed {
        return Err(read.fault("is a list; read it as agg:NAME[]"));
    }
    need_kind(read, kinds_of(reading))?;
    Ok(index)
}

/// `NAME[]`, `NAME[].key`, `NAME[].weight`.
pub(super) fn list_reading(read: &Read, path: &str, definitions: &Definitions) -> Result<(usize, Part), ReadError> {
    let (name, part) = path.split_once("[]").unwrap_or((path, ""));
    let index = find_reading(read, name, definitions)?;
    let reading = &definitions.readings()[index];
    let part = match (part, reading.listed, reading.keyed) {
        ("", true, _) => Part::Value,
        (".key", _, true) => Part::Key,
        (".weight", _, true) => Part::Weight,
        (_, true, _) => return Err(read.fault("is a list of single values; read it as agg:NAME[]")),
        (_, _, true) => return Err(read.fault("is an aggregate by key; read agg:NAME[].key or agg:NAME[].weight")),
        _ => return Err(read.fault("is a single value; read it without []")),
    };
    need_kind(read, if let Part::Key = part { TEXTS } else { kinds_of(reading) })?;
    Ok((index, part))
}

pub(super) fn find_reading(read: &Read, name: &str, definitions: &Definitions) -> Result<usize, ReadError> {
    definitions.find(name).ok_or_else(|| read.fault("no active plugin defines this aggregate"))
}

/// The kinds as which a reading's value or weights can be read.
pub(super) fn kinds_of(reading: &Reading) -> &'static [Kind] {
    match reading.kind {
        Kind::Instant => INSTANTS,
        Kind::Decimal => &[Kind::Decimal, Kind::Number],
        Kind::Integer => &[Kind::Integer, Kind::Number],
        Kind::Key => TEXTS,
        _ => &[Kind::Number],
    }
}

/// The elements of a list, or one half of the elements of an aggregate by key.
pub(super) fn elements(value: &Value, part: Part) -> Vec<Value> {
    fn halves<W: Copy>(weights: &[(CompactString, W)], part: Part, weight: impl Fn(W) -> Value) -> Vec<Value> {
        let half = |(key, of): &(CompactString, W)| match part {
            Part::Key => Value::Text(key.clone()),
            Part::Value | Part::Weight => weight(*of),
        };
        weights.iter().map(half).collect()
    }
    match value {
        Value::List(values) => values.clone(),
        Value::Integers(weights) => halves(weights, part, |weight| Value::Integer(weight.into())),
        Value::Decimals(weights) => halves(weights, part, |weight| Value::Decimal(weight.into())),
        Value::Numbers(weights) => halves(weights, part, Value::Number),
        Value::Instants(weights) => halves(weights, part, Value::Instant),
        _ => Vec::new(),
    }
}

/// A reading of some states in a declared kind.
#[inline]
pub(super) fn aggregate_cell(
    read: &Read,
    index: usize,
    states: &[State],
    definitions: &Definitions,
    moment: &Moment,
    keys: &mut Keys,
) -> Option<Cell> {
    let reading = &definitions.readings()[index];
    match (definitions.number(reading, states, moment), read.kind, reading.kind) {
        (None, ..) => {
            let value = definitions.evaluate(reading, states, moment).value;
            value_cell(read, &value, definitions.time(), keys)
        }
        (Some(Number::Absent), ..) => None,
        (Some(Number::Fixed(value)), Kind::Number, Kind::Decimal) => Some(Cell::F64(Decimal(value).to_f64())),
        (Some(Number::Fixed(value)), Kind::Number, _) => Some(Cell::F64(value as f64)),
        (Some(Number::Fixed(at)), _, Kind::Instant) => Some(instant_cell(read, Timestamp(at), definitions.time())),
        (Some(Number::Fixed(value)), ..) => Some(Cell::S64(value)),
        (Some(Number::Float(value)), ..) => Some(Cell::F64(value)),
    }
}

/// A reading's value in a declared kind; one that does not fit 64 bits is absent.
pub(super) fn value_cell(read: &Read, value: &Value, time: &BusinessTime, keys: &mut Keys) -> Option<Cell> {
    match (value, read.kind) {
        (Value::Text(text), _) => text_cell(read, text, keys),
        (Value::Number(value), Kind::Number) => Some(Cell::F64(*value)),
        (Value::Integer(value), Kind::Number) => Some(Cell::F64(*value as f64)),
        (Value::Decimal(value), Kind::Number) => Some(Cell::F64(*value as f64 / Decimal::SCALE as f64)),
        (Value::Integer(value) | Value::Decimal(value), _) => i64::try_from(*value).ok().map(Cell::S64),
        (Value::Instant(at), _) => Some(instant_cell(read, *at, time)),
        _ => None,
    }
}
