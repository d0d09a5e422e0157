//! Summaries: what a set of contributions adds up to under one operator, without their times. They merge; [`Merge`](super::merge::Merge) says how.

use serde::{Deserialize, Serialize};

use super::by_key::ByKey;
use super::distinct::{Days, Distinct};
use super::heap_bytes;
use super::keyed::Keyed;
use super::moments::Moments;
use super::quantiles::Quantiles;
use super::recent::{Recent, Several};
use super::state::Placed;

/// What a set of contributions adds up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Summary {
    /// Of mean, variance and standard-deviation.
    Moments(Box<Moments>),
    /// Of min and max.
    Extreme(Option<i64>),
    /// Of first and last.
    Placed(Option<Placed>),
    /// Of first-k and last-k.
    Several(Several),
    /// Of distinct.
    Distinct(Distinct),
    /// Of distinct-days.
    Days(Days),
    /// Of unique.
    Recent(Recent),
    /// Of histogram: how many values lie in each bucket, the last beyond all bounds.
    Histogram(Vec<u64>),
    /// Of quantile.
    Quantiles(Quantiles),
    /// Of sum-by-key and count-by-key.
    Keyed(Keyed),
    /// Of any other operator by key.
    ByKey(ByKey),
    /// Of a plugin's own operator.
    Custom(Vec<u8>),
}

impl Summary {
    /// Elements held, for the bound on a series.
    pub(crate) fn cells(&self) -> usize {
        1 + match self {
            Self::Moments(_) | Self::Extreme(_) | Self::Placed(_) => 0,
            Self::Several(several) => several.entries().len(),
            Self::Distinct(distinct) => distinct.len(),
            Self::Days(days) => days.count() as usize,
            Self::Recent(recent) => recent.len(),
            Self::Histogram(counts) => counts.len(),
            Self::Quantiles(quantiles) => quantiles.len(),
            Self::Keyed(keyed) => keyed.len(),
            Self::ByKey(by_key) => by_key.cells(),
            Self::Custom(state) => state.len() / 16,
        }
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Moments(_) => size_of::<Moments>(),
            Self::Extreme(_) => 0,
            Self::Placed(placed) => placed.as_ref().map_or(0, |placed| heap_bytes(&placed.place.1)),
            Self::Several(several) => several.weight(),
            Self::Distinct(distinct) => distinct.weight(),
            Self::Days(days) => days.weight(),
            Self::Recent(recent) => recent.weight(),
            Self::Histogram(counts) => counts.capacity() * size_of::<u64>(),
            Self::Quantiles(quantiles) => quantiles.weight(),
            Self::Keyed(keyed) => keyed.weight(),
            Self::ByKey(by_key) => by_key.weight(),
            Self::Custom(state) => state.capacity(),
        }
    }
}
