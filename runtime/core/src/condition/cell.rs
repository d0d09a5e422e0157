//! Values as they are read: what JSON says, borrowed, and what aggregates come to.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::value::Timestamp;

/// A value that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'e> {
    /// Nothing, or nothing that can be used.
    Missing,
    Flag(bool),
    /// A number that the host worked out.
    Number(f64),
    /// A number of JSON, as it stands too.
    Written(f64, &'e str),
    Text(Cow<'e, str>),
    List(Vec<Cell<'e>>),
    /// There, but nothing to compare with.
    Object,
}

impl<'e> Cell<'e> {
    /// What a JSON value says.
    pub(super) fn of_json(json: &'e str) -> Self {
        match json.as_bytes().first() {
            Some(b'[') => {
                let elements: Result<Vec<&'e RawValue>, _> = serde_json::from_str(json);
                let element = |raw: &'e RawValue| match raw.get().as_bytes().first() {
                    Some(b'[') => Self::Object,
                    _ => Self::of_json(raw.get()),
                };
                elements.map_or(Self::Missing, |elements| Self::List(elements.into_iter().map(element).collect()))
            }
            Some(b'{') => Self::Object,
            Some(b'"') => match json.get(1..json.len() - 1) {
                Some(plain) if !plain.contains('\\') => Self::Text(Cow::Borrowed(plain)),
                _ => serde_json::from_str(json).map_or(Self::Missing, |text: String| Self::Text(text.into())),
            },
            Some(b't') => Self::Flag(true),
            Some(b'f') => Self::Flag(false),
            _ => match json.parse::<f64>() {
                Ok(number) if number.is_finite() => Self::Written(number, json),
                _ => Self::Missing,
            },
        }
    }

    /// Numbers may stand in quotes, as many shops send them.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) | Self::Written(number, _) => Some(*number),
            Self::Text(text) if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                text.parse().ok().filter(|number: &f64| number.is_finite())
            }
            _ => None,
        }
    }

    /// Numbers are texts where they are used so: many ids are made of digits.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Written(_, written) => Some(written),
            _ => None,
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(*flag) } else { None }
    }

    /// An instant as RFC 3339, in milliseconds.
    pub(super) fn instant(&self) -> Option<f64> {
        let Self::Text(text) = self else { return None };
        Timestamp::parse(text).ok().map(|at| at.0 as f64)
    }

    pub(super) fn size(&self) -> Option<f64> {
        match self {
            Self::List(elements) => Some(elements.len() as f64),
            Self::Text(text) => Some(text.chars().count() as f64),
            _ => None,
        }
    }

    pub(super) fn elements(&self) -> Option<&[Self]> {
        if let Self::List(elements) = self { Some(elements) } else { None }
    }

    /// Whether two values say the same; none where one is missing or nothing to compare with.
    pub(super) fn same(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Missing | Self::Object | Self::List(_), _) | (_, Self::Missing | Self::Object | Self::List(_)) => {
                None
            }
            (Self::Flag(one), Self::Flag(other)) => Some(one == other),
            (Self::Flag(_), _) | (_, Self::Flag(_)) => Some(false),
            (Self::Text(_), _) | (_, Self::Text(_)) => Some(self.text() == other.text()),
            _ => Some(self.number() == other.number()),
        }
    }

    /// As JSON, for people.
    pub(super) fn to_json(&self) -> String {
        match self {
            Self::Missing => "null".to_owned(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => serde_json::Value::from(*number).to_string(),
            Self::Written(_, written) => (*written).to_owned(),
            Self::Text(text) => serde_json::Value::from(text.as_ref()).to_string(),
            Self::List(elements) => {
                let elements: Vec<_> = elements.iter().map(Self::to_json).collect();
                format!("[{}]", elements.join(","))
            }
            Self::Object => "{}".to_owned(),
        }
    }
}
