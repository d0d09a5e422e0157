//! The stored state of one aggregate, and what one event adds to it.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::decay::Decayed;
use super::series::{Series, Sums};
use super::sessions::Sessions;
use super::summary::Summary;
use crate::value::Timestamp;

/// What one event adds to one aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// The position of the stored state in [`Definitions`](super::Definitions).
    pub state: u16,
    /// The key, where the operator takes one; else empty.
    pub key: CompactString,
    /// The amount in the representation of the aggregate's kind.
    pub value: i64,
}

/// When the contributing event happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When {
    pub(crate) at: Timestamp,
    pub(crate) day: i64,
    /// Tells events of one instant apart.
    pub(crate) tie: u64,
    /// Whether it may cost a fold of the whole history to count it exactly.
    pub(crate) trusted: bool,
}

/// What became of an event's contributions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applied {
    /// They count.
    #[default]
    Well,
    /// A plugin's own operator failed on some of them; those count nowhere.
    Failed,
    /// They came too late for a state that has forgotten their time: the history has to be folded again, in the order of time.
    Late,
}

/// A value with its place in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub(crate) place: (i64, CompactString),
    pub(crate) value: i128,
}

/// The stored state of one aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(private_interfaces)] // the variants' insides stay within this module
pub enum State {
    /// Of count and sum.
    Sum {
        /// The lifetime sum; present once there was a contribution.
        total: Option<i128>,
        /// Amounts by time, where a window needs them.
        series: Sums,
    },
    /// Of operators whose contributions merge into summaries.
    Summary {
        /// Of the lifetime, where anything reads it.
        total: Option<Summary>,
        /// By time, where a window needs them; present once there was a contribution.
        series: Option<Box<Series>>,
    },
    /// Of decayed sums.
    Decayed(Decayed),
    /// Of sessions.
    Sessions(Sessions),
    /// Not there yet: it is being computed from the history.
    Backfilling,
}

impl State {
    /// Heap bytes, about; for the cache's budget.
    pub fn weight(&self) -> usize {
        match self {
            Self::Sum { series, .. } => series.weight(),
            Self::Summary { total, series } => {
                let series = series.as_ref().map_or(0, |series| size_of::<Series>() + series.weight());
                total.as_ref().map_or(0, Summary::weight) + series
            }
            Self::Decayed(decayed) => decayed.weight(),
            Self::Sessions(sessions) => sessions.weight(),
            Self::Backfilling => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_small_because_a_profile_has_many() {
        assert!(size_of::<State>() <= 96, "{} bytes", size_of::<State>());
    }
}
