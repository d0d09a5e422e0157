//! What a plugin was given: columns told as paths and values, for explanations.
//!
//! Told from the very columns that are handed over, so it cannot say more or less than they do. Nothing calls it but for somebody who asks why.

use std::io::Write as _;

use super::{OfferReads, VisitorReads};
use crate::columns::{Cell, Columns, Keys, Shape};
use crate::read::Read;
use crate::value::{Decimal, Kind, Timestamp};

impl VisitorReads {
    /// What columns of these reads say, as a JSON object of paths and values; absent ones are null. `keys` are those of the call.
    pub fn given(&self, columns: &Columns, keys: &Keys) -> String {
        let mut json = Vec::new();
        given(&mut json, &self.reads, &self.names, &self.shape, (columns, 0), keys);
        String::from_utf8(json).unwrap_or_default()
    }
}

impl OfferReads {
    /// What each row of columns of these reads says, as a JSON object of paths and values; absent ones are null. `keys` are those of the call.
    pub fn given(&self, columns: &Columns, rows: usize, keys: &Keys) -> GivenRows {
        let (mut json, mut ends) = (Vec::new(), Vec::with_capacity(rows));
        for row in 0..rows {
            given(&mut json, &self.reads, &self.names, &self.shape, (columns, row), keys);
            ends.push(json.len());
        }
        GivenRows { json: String::from_utf8(json).unwrap_or_default(), ends }
    }
}

/// What rows say, each as a JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenRows {
    /// One after the other.
    json: String,
    ends: Vec<usize>,
}

impl GivenRows {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let row = self.json.get(start..*end).unwrap_or_default();
            start = *end;
            row
        })
    }
}

/// Bytes of a path with its value, about.
const ENTRY_BYTES: usize = 32;

/// The names of reads as JSON texts: their paths, with the kind where another read has the same path.
pub(super) fn names(reads: &[Read]) -> Vec<Box<str>> {
    let name = |Read { path, kind, .. }: &Read| match reads.iter().filter(|other| other.path == *path).count() {
        1 => serde_json::Value::from(path.as_str()).to_string().into(),
        _ => serde_json::Value::from(format!("{path} as {}", kind.name())).to_string().into(),
    };
    reads.iter().map(name).collect()
}

/// Writes what a row says.
fn given(
    json: &mut Vec<u8>,
    reads: &[Read],
    names: &[Box<str>],
    shape: &Shape,
    (columns, row): (&Columns, usize),
    keys: &Keys,
) {
    json.reserve(ENTRY_BYTES * reads.len() + 2);
    json.push(b'{');
    for (column, (read, name)) in reads.iter().zip(names).enumerate() {
        if column > 0 {
            json.push(b',');
        }
        json.extend_from_slice(name.as_bytes());
        json.push(b':');
        if read.many() {
            json.push(b'[');
            for (index, cell) in shape.cells(columns, column, row).iter().enumerate() {
                if index > 0 {
                    json.push(b',');
                }
                write(json, read, cell.as_ref(), keys);
            }
            json.push(b']');
        } else {
            write(json, read, shape.scalar(columns, column, row).as_ref(), keys);
        }
    }
    json.push(b'}');
}

/// Writes a cell in the form in which a caller would write it. Into memory nothing fails to be written.
fn write(json: &mut Vec<u8>, read: &Read, cell: Option<&Cell>, keys: &Keys) {
    let Some(cell) = cell else { return json.extend_from_slice(b"null") };
    let _ = match (cell, read.kind) {
        // Finite: nothing else is let in.
        (Cell::F64(value), _) => serde_json::to_writer(json, value).map_err(Into::into),
        (Cell::S64(units), Kind::Decimal) => write!(json, "{}", Decimal(*units)),
        (Cell::S64(at), Kind::Instant) => write!(json, "\"{}\"", Timestamp(*at)),
        (Cell::S64(day), Kind::Day) => write!(json, "\"{}\"", date(*day)),
        (Cell::S64(value), _) => write!(json, "{value}"),
        (Cell::Code(code), Kind::Flag) => write!(json, "{}", *code != 0),
        (Cell::Code(code), Kind::Choice) => {
            serde_json::to_writer(json, &read.choices.get(*code as usize)).map_err(Into::into)
        }
        (Cell::Code(handle), _) => serde_json::to_writer(json, &keys.get(*handle)).map_err(Into::into),
        (Cell::Text(text), _) => serde_json::to_writer(json, text).map_err(Into::into),
    };
}

/// A day, counted from 1970-01-01.
fn date(day: i64) -> String {
    let date = jiff::Span::new().try_days(day).and_then(|days| jiff::civil::date(1970, 1, 1).checked_add(days));
    date.map_or_else(|_| format!("day {day}"), |date| date.to_string())
}
