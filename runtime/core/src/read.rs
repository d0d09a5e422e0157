//! Declared reads: what a plugin may name, and how a JSON value becomes a cell of the declared kind.
//!
//! `docs/plugins.md` is the reference of the paths.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::columns::{Cell, Keys};
use crate::event::text_of;
use crate::limits;
use crate::time::BusinessTime;
use crate::value::{Decimal, Kind, Timestamp};

/// One value that a plugin reads, as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where it comes from, such as `agg:retail.orders`.
    pub path: String,
    /// The type that the plugin expects.
    pub kind: Kind,
    /// The texts of a choice.
    pub choices: Vec<String>,
}

/// A declared read that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read {path:?}: {detail}")]
pub struct ReadError {
    /// The path as declared.
    pub path: String,
    /// What is wrong and the mend.
    pub detail: String,
}

impl Read {
    /// A fault of this read.
    pub fn fault(&self, detail: impl Into<String>) -> ReadError {
        ReadError { path: self.path.clone(), detail: detail.into() }
    }

    /// Whether it is a list column.
    pub fn many(&self) -> bool {
        self.path.contains("[]")
    }

    /// The source and the rest of the path: `agg:retail.orders` is `agg` and `retail.orders`; `now` is `now` and nothing.
    pub fn split(&self) -> (&str, &str) {
        self.path.split_once(':').unwrap_or((&self.path, ""))
    }

    /// The cell for a JSON value; none for null and for a text that is no declared choice. The error says what was expected.
    pub fn cell(&self, raw: &RawValue, time: &BusinessTime, keys: &mut Keys) -> Result<Option<Cell>, &'static str> {
        let json = raw.get();
        let text = || text_of(raw);
        // Numbers may stand in quotes, as many shops send them.
        let number = || match json.as_bytes().first() {
            Some(b'"') => text(),
            Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(json)),
            _ => None,
        };
        if json == "null" {
            return Ok(None);
        }
        let cell = match self.kind {
            Kind::Number => {
                number().and_then(|text| text.parse::<f64>().ok()).filter(|value| value.is_finite()).map(Cell::F64)
            }
            Kind::Integer => {
                let whole = |decimal: Decimal| (decimal.0 % Decimal::SCALE == 0).then_some(decimal.0 / Decimal::SCALE);
                let parse = |text: Cow<'_, str>| {
                    text.parse::<i64>().ok().or_else(|| Decimal::parse(&text).ok().and_then(whole))
                };
                number().and_then(parse).map(Cell::S64)
            }
            Kind::Decimal => number().and_then(|text| Decimal::parse(&text).ok()).map(|decimal| Cell::S64(decimal.0)),
            Kind::Instant => text().and_then(|text| Timestamp::parse(&text).ok()).map(|at| Cell::S64(at.0)),
            Kind::Day => text().and_then(|text| Timestamp::parse(&text).ok()).map(|at| Cell::S64(time.day(at))),
            Kind::Flag => match json {
                "true" => Some(Cell::Code(1)),
                "false" => Some(Cell::Code(0)),
                _ => None,
            },
            Kind::Choice => return text().map(|text| self.choice(&text)).ok_or(self.expected()),
            Kind::Key => number()
                .or_else(text)
                .filter(|text| text.len() <= limits::KEY_BYTES_MAX)
                .map(|text| Cell::Code(keys.intern(&text))),
            Kind::Text => text().map(|text| Cell::Text(text.into_owned())),
        };
        cell.map(Some).ok_or(self.expected())
    }

    /// The code of a declared choice.
    pub fn choice(&self, text: &str) -> Option<Cell> {
        self.choices.iter().position(|choice| choice == text).map(|code| Cell::Code(code as u32))
    }

    fn expected(&self) -> &'static str {
        match self.kind {
            Kind::Number => "is not a finite number",
            Kind::Integer => "is not a whole number of at most 64 bits",
            Kind::Decimal => "is not a decimal number up to about 9.2 trillion either way",
            Kind::Instant | Kind::Day => "is not an RFC 3339 instant such as 2026-01-05T10:00:00Z",
            Kind::Flag => "is not true or false",
            Kind::Choice | Kind::Text => "is not a text",
            Kind::Key => "is not a text (or number) of at most 256 bytes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(kind: Kind, json: &str) -> Result<Option<Cell>, &'static str> {
        let read = Read { path: "event:properties.a".into(), kind, choices: vec!["x".into(), "y".into()] };
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        read.cell(&raw, &BusinessTime::new("UTC").expect("UTC"), &mut Keys::default())
    }

    #[test]
    fn a_json_value_becomes_a_cell_of_its_kind_or_says_what_was_expected() {
        assert_eq!(cell(Kind::Decimal, "12.75"), Ok(Some(Cell::S64(12_750_000))));
        assert_eq!(cell(Kind::Decimal, "\"12.75\""), Ok(Some(Cell::S64(12_750_000))));
        assert_eq!(cell(Kind::Decimal, "null"), Ok(None));
        assert!(cell(Kind::Decimal, "1e30").is_err());
        assert!(cell(Kind::Decimal, "\"12,75\"").is_err());
        assert!(cell(Kind::Decimal, "true").is_err());
        assert_eq!(cell(Kind::Integer, "3.0"), Ok(Some(Cell::S64(3))));
        assert!(cell(Kind::Integer, "3.5").is_err());
        assert_eq!(cell(Kind::Number, "1e3"), Ok(Some(Cell::F64(1000.0))));
        assert!(cell(Kind::Number, "\"NaN\"").is_err());
        assert!(cell(Kind::Number, "\"inf\"").is_err());
        assert_eq!(cell(Kind::Flag, "true"), Ok(Some(Cell::Code(1))));
        assert_eq!(cell(Kind::Choice, "\"y\""), Ok(Some(Cell::Code(1))));
        assert_eq!(cell(Kind::Choice, "\"z\""), Ok(None));
        assert!(cell(Kind::Choice, "1").is_err());
        assert_eq!(cell(Kind::Key, "22423"), Ok(Some(Cell::Code(0))));
        assert!(cell(Kind::Key, &format!("{:?}", "k".repeat(257))).is_err());
        assert_eq!(cell(Kind::Day, "\"1970-01-02T00:00:00Z\""), Ok(Some(Cell::S64(1))));
        assert_eq!(cell(Kind::Text, r#""a\nb""#), Ok(Some(Cell::Text("a\nb".into()))));
    }
}
