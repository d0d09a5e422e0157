//! Reach: which stored states a reading looks at, and how far back.

use super::definitions::Definitions;
use super::evaluate::Extent;
use super::reading::{Reading, Source, Span};
use super::series::Range;
use super::state::State;
use crate::time::Moment;

/// What a reading looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Stored states by position.
    pub states: Vec<u16>,
    /// The last instant before its window, in milliseconds; none for the lifetime.
    pub began: Option<i64>,
}

impl Definitions {
    /// Which stored states a reading looks at, and since when.
    pub fn reach(&self, reading: &Reading, states: &[State], moment: &Moment) -> Reach {
        let (looked_at, span) = match &reading.source {
            Source::Sum { state, span }
            | Source::Summary { state, span }
            | Source::Quantile { state, span, .. }
            | Source::Sessions { state, span } => (vec![*state], *span),
            Source::Decayed { state, .. } | Source::DecayedSum { state, .. } => (vec![*state], Span::Lifetime),
            Source::Ratio { of, per, span, .. } => (vec![*of, *per], *span),
            Source::Difference { of, less, span } => (vec![*of, *less], *span),
            Source::KeyCount { of, span } | Source::Top { of, span, .. } | Source::Frequent { of, span, .. } => {
                (vec![*of], *span)
            }
            Source::Since { of, .. }
            | Source::CalendarDaysSince { of }
            | Source::DayStreak { of, .. }
            | Source::Session { of, .. } => (vec![*of], Span::Lifetime),
            Source::Trend { of, width_ms, trend, .. } => {
                (vec![*of], Span::Sliding(width_ms.saturating_mul(trend.windows())))
            }
        };
        let began = match self.extent(span, states, moment) {
            Ok(Extent::All) => None,
            Ok(Extent::Part(Range::Between(after, _)) | Extent::Unsure(Range::Between(after, _))) => Some(after),
            // The last so many may be of any age; none are of none.
            Ok(Extent::Part(range) | Extent::Unsure(range)) => {
                Some(if range == Range::EMPTY { i64::MAX } else { i64::MIN })
            }
            Err(_) => Some(i64::MAX),
        };
        Reach { states: looked_at, began }
    }
}
