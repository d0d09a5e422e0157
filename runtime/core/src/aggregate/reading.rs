//! Readings: every name under which an aggregate can be read.

use super::operator::{SessionValue, Trend};
use crate::value::Kind;

/// One name under which an aggregate can be read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// `PLUGIN.NAME` or `PLUGIN.NAME_WINDOW`.
    pub name: String,
    /// The type of its value, or of its entries' weights where it is keyed.
    pub kind: Kind,
    /// Whether it is a list of keys with weights.
    pub keyed: bool,
    /// Whether it is a list of single values.
    pub listed: bool,
    /// The unit shown beside it.
    pub unit: Option<String>,
    /// Whether it has a value for each past day.
    pub history: bool,
    pub(crate) source: Source,
}

/// A window, compiled: calendars by their position in the definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Lifetime,
    Sliding(i64),
    ToDate(usize),
    Previous(usize),
    Session { state: u16, gap_ms: i64 },
    Last(usize),
}

/// Where a reading comes from; states by position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Sum { state: u16, span: Span },
    Summary { state: u16, span: Span },
    Quantile { state: u16, span: Span, q_millionths: u32 },
    Sessions { state: u16, span: Span },
    Decayed { state: u16, half_life_ms: i64 },
    DecayedSum { state: u16, half_life_ms: i64 },
    Ratio { of: u16, per: u16, scale: i128, decimals: u32, span: Span },
    Since { of: u16, unit_ms: i64 },
    CalendarDaysSince { of: u16 },
    KeyCount { of: u16, span: Span },
    Difference { of: u16, less: u16, span: Span },
    Top { of: u16, count: usize, span: Span },
    Frequent { of: u16, most: bool, span: Span },
    DayStreak { of: u16, longest: bool },
    Session { of: u16, gap_ms: i64, what: SessionValue },
    Trend { of: u16, width_ms: i64, trend: Trend, scale: f64 },
}

impl Reading {
    /// The stored state that it hangs on, of a reading that looks at no other.
    pub(crate) fn state(&self) -> Option<u16> {
        match self.source {
            Source::Sum { state, span } | Source::Summary { state, span } if !matches!(span, Span::Session { .. }) => {
                Some(state)
            }
            _ => None,
        }
    }
}
