//! The stored state of one aggregate, and what one event adds to it.

use std::ops::{Deref, DerefMut};

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::decay::Decayed;
use super::series::{Series, Sums};
use super::sessions::Sessions;
use super::summary::Summary;
use crate::shared::Shared;
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

/// The stored state of one aggregate. Copies share what is large in it: of the hundreds that a profile has, an event changes a few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(private_interfaces)] // the variants' insides stay within this module
pub enum State {
    /// Of count and sum.
    Sum {
        /// The lifetime sum; present once there was a contribution.
        total: SumTotal,
        /// Amounts by time, where a window needs them.
        series: Apart<Sums>,
    },
    /// Of operators whose contributions merge into summaries.
    Summary {
        /// Of the lifetime, where anything reads it.
        total: Option<Shared<Summary>>,
        /// By time, where a window needs them; present once there was a contribution.
        series: Option<Shared<Series>>,
    },
    /// Of decayed sums.
    Decayed(Shared<Decayed>),
    /// Of sessions.
    Sessions(Shared<Sessions>),
    /// Not there yet: it is being computed from the history.
    Backfilling,
}

/// A sum, if there is one. It takes little room: hardly any is more than 64 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SumTotal(Total);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Total {
    #[default]
    None,
    Small(i64),
    /// What is no `i64`.
    Large(Box<i128>),
}

impl SumTotal {
    pub(crate) fn get(&self) -> Option<i128> {
        match &self.0 {
            Total::None => None,
            Total::Small(sum) => Some((*sum).into()),
            Total::Large(sum) => Some(**sum),
        }
    }
}

impl From<Option<i128>> for SumTotal {
    fn from(sum: Option<i128>) -> Self {
        let total = |sum: i128| i64::try_from(sum).map_or_else(|_| Total::Large(sum.into()), Total::Small);
        Self(sum.map_or(Total::None, total))
    }
}

impl Serialize for SumTotal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SumTotal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<i128>::deserialize(deserializer).map(Self::from)
    }
}

/// A value with a place of its own in memory, which copies share until one changes it, and none as long as nothing is in it; it is stored and compared as
/// what it holds.
#[derive(Clone, Debug)]
pub struct Apart<T>(Option<Shared<T>>);

/// What a value is before anything is in it.
pub(crate) trait Nothing: Default + PartialEq + 'static {
    /// The one that all share who hold nothing.
    fn nothing() -> &'static Self;
}

impl<T> Apart<T> {
    fn weight(&self, weigh: impl FnOnce(&T) -> usize) -> usize {
        self.0.as_ref().map_or(0, |held| shared_bytes::<T>() + held.weight(weigh))
    }
}

impl<T> Default for Apart<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Nothing> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(held) => held,
            None => T::nothing(),
        }
    }
}

impl<T: Nothing + Clone> DerefMut for Apart<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Nothing> PartialEq for Apart<T> {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => one == other,
            _ => **self == **other,
        }
    }
}

impl<T: Nothing + Eq> Eq for Apart<T> {}

impl<T: Nothing + Serialize> Serialize for Apart<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Nothing + Deserialize<'de>> Deserialize<'de> for Apart<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let held = T::deserialize(deserializer)?;
        Ok(Self((held != *T::nothing()).then(|| held.into())))
    }
}

/// Bytes of what is shared, beside its own heap bytes, about.
fn shared_bytes<T>() -> usize {
    // Beside the value its owners are counted, and it is remembered what it weighs.
    size_of::<T>() + 3 * size_of::<usize>()
}

fn weight<T>(held: Option<&Shared<T>>, weigh: impl FnOnce(&T) -> usize) -> usize {
    held.map_or(0, |held| shared_bytes::<T>() + held.weight(weigh))
}

impl State {
    /// Heap bytes, about; for the cache's budget.
    pub fn weight(&self) -> usize {
        match self {
            Self::Sum { total, series } => {
                series.weight(Sums::weight) + if matches!(total.0, Total::Large(_)) { size_of::<i128>() } else { 0 }
            }
            Self::Summary { total, series } => {
                weight(total.as_ref(), Summary::weight) + weight(series.as_ref(), Series::weight)
            }
            Self::Decayed(decayed) => weight(Some(decayed), Decayed::weight),
            Self::Sessions(sessions) => weight(Some(sessions), Sessions::weight),
            Self::Backfilling => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_small_because_a_profile_has_many() {
        assert!(size_of::<State>() <= 24, "{} bytes", size_of::<State>());
    }

    #[test]
    fn totals_and_what_stands_apart_are_stored_as_what_they_hold() {
        for sum in
            [None, Some(0), Some(-1), Some(7), Some(i128::MAX), Some(i128::MIN), Some(1 << 64), Some(-(1 << 64) - 5)]
        {
            let total = SumTotal::from(sum);
            assert_eq!(total.get(), sum);
            let bytes = postcard::to_allocvec(&total).expect("bytes");
            assert_eq!(bytes, postcard::to_allocvec(&sum).expect("bytes"));
            assert_eq!(postcard::from_bytes::<SumTotal>(&bytes).expect("read"), total);
        }
        let mut apart = Apart::<Sums>::default();
        let nothing = apart.clone();
        let bytes = postcard::to_allocvec(&nothing).expect("bytes");
        assert_eq!(bytes, postcard::to_allocvec(&Sums::default()).expect("bytes"));
        assert!(postcard::from_bytes::<Apart<Sums>>(&bytes).expect("read").0.is_none());
        // A place was made, with nothing in it.
        let _ = &mut *apart;
        assert!(apart.0.is_some() && apart == nothing);
    }
}
