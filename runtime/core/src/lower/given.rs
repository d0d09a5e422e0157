//! What a plugin was given: columns told as paths and values, for explanations.
//!
//! Told from the very columns that are handed over, so it cannot say more or less than they do. Nothing calls it but for somebody who asks why.

use std::borrow::Cow;

use super::{OfferReads, VisitorReads};
use crate::columns::{Cell, Columns, Keys, Shape};
use crate::read::Read;
use crate::value::{Decimal, Kind, Timestamp};

impl VisitorReads {
    /// What columns of these reads say, as a JSON object of paths and values; absent ones are null. `keys` are those of the call.
    pub fn given(&self, columns: &Columns, keys: &Keys) -> String {
        given(&self.reads, &self.shape, columns, 0, keys)
    }
}

impl OfferReads {
    /// What one row of columns of these reads says, as a JSON object of paths and values; absent ones are null. `keys` are those of the call.
    pub fn given(&self, columns: &Columns, row: usize, keys: &Keys) -> String {
        given(&self.reads, &self.shape, columns, row, keys)
    }
}

fn given(reads: &[Read], shape: &Shape, columns: &Columns, row: usize, keys: &Keys) -> String {
    let mut text = String::from("{");
    for (column, read) in reads.iter().enumerate() {
        if column > 0 {
            text.push(',');
        }
        text += &json_text(&name(reads, column));
        text.push(':');
        let cells = shape.cells(columns, column, row);
        match (read.many(), cells.as_slice()) {
            (false, [cell, ..]) => text += &json(read, cell.as_ref(), keys),
            (false, []) => text += "null",
            (true, cells) => {
                let elements: Vec<String> = cells.iter().map(|cell| json(read, cell.as_ref(), keys)).collect();
                text += &format!("[{}]", elements.join(","));
            }
        }
    }
    text.push('}');
    text
}

/// The path of a read, with its kind where another read has the same path.
fn name(reads: &[Read], column: usize) -> Cow<'_, str> {
    let Read { path, kind, .. } = &reads[column];
    match reads.iter().filter(|other| other.path == *path).count() {
        1 => Cow::Borrowed(path),
        _ => Cow::Owned(format!("{path} as {}", kind.name())),
    }
}

/// A cell in the form in which a caller would write it.
fn json(read: &Read, cell: Option<&Cell>, keys: &Keys) -> String {
    match (cell, read.kind) {
        (None, _) => "null".to_owned(),
        // Finite: nothing else is let in.
        (Some(Cell::F64(value)), _) => serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()),
        (Some(Cell::S64(units)), Kind::Decimal) => Decimal(*units).to_string(),
        (Some(Cell::S64(at)), Kind::Instant) => json_text(&Timestamp(*at).to_string()),
        (Some(Cell::S64(day)), Kind::Day) => json_text(&date(*day)),
        (Some(Cell::S64(value)), _) => value.to_string(),
        (Some(Cell::Code(code)), Kind::Flag) => (*code != 0).to_string(),
        (Some(Cell::Code(code)), Kind::Choice) => {
            read.choices.get(*code as usize).map_or_else(|| "null".to_owned(), |choice| json_text(choice))
        }
        (Some(Cell::Code(handle)), _) => keys.get(*handle).map_or_else(|| "null".to_owned(), |key| json_text(key)),
        (Some(Cell::Text(text)), _) => json_text(text),
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A day, counted from 1970-01-01.
fn date(day: i64) -> String {
    let date = jiff::Span::new().try_days(day).and_then(|days| jiff::civil::date(1970, 1, 1).checked_add(days));
    date.map_or_else(|_| format!("day {day}"), |date| date.to_string())
}
