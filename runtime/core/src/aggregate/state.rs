//! The stored state of one aggregate, and what one event adds to it.

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::decay::Decayed;
use super::series::Series;
use super::sessions::Sessions;
use super::summary::Summary;
use super::sums::Sums;
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
pub enum State {
    /// Of count and sum.
    Sum(Summed),
    /// Of operators whose contributions merge into summaries.
    Summary(Summarised),
    /// Of decayed sums.
    #[allow(private_interfaces)] // its insides stay within this module
    Decayed(Shared<Decayed>),
    /// Of sessions.
    #[allow(private_interfaces)]
    Sessions(Shared<Sessions>),
    /// Not there yet: it is being computed from the history.
    Backfilling,
}

/// A sum, of the lifetime and by time. It takes little room: most have only the first, and hardly any of these is more than 64 bits.
#[derive(Clone, Debug, Default)]
pub struct Summed(Sum);

#[derive(Clone, Debug, Default)]
enum Sum {
    /// There was no contribution.
    #[default]
    None,
    /// Of the lifetime only.
    Total(i64),
    /// What is no `i64`, or amounts by time beside it.
    Whole(Shared<Whole>),
}

#[derive(Clone, Debug, Default)]
struct Whole {
    /// None once there is nothing but room for it.
    total: SumTotal,
    series: Sums,
}

/// A sum of 128 bits in the room of one of 64.
#[derive(Clone, Debug, Default)]
enum SumTotal {
    #[default]
    None,
    Small(i64),
    Large(Box<i128>),
}

impl SumTotal {
    fn get(&self) -> Option<i128> {
        match self {
            Self::None => None,
            Self::Small(sum) => Some((*sum).into()),
            Self::Large(sum) => Some(**sum),
        }
    }
}

impl From<Option<i128>> for SumTotal {
    fn from(sum: Option<i128>) -> Self {
        sum.map_or(Self::None, |sum| i64::try_from(sum).map_or_else(|_| Self::Large(sum.into()), Self::Small))
    }
}

impl Summed {
    /// Of the lifetime; present once there was a contribution.
    pub(crate) fn total(&self) -> Option<i128> {
        match &self.0 {
            Sum::None => None,
            Sum::Total(total) => Some((*total).into()),
            Sum::Whole(whole) => whole.total.get(),
        }
    }

    /// Amounts by time, where a window needs them.
    #[inline]
    pub(crate) fn series(&self) -> &Sums {
        static NOTHING: Sums = Sums::NOTHING;
        match &self.0 {
            Sum::Whole(whole) => &whole.series,
            Sum::None | Sum::Total(_) => &NOTHING,
        }
    }

    /// Puts a total in the place of another.
    pub(crate) fn set_total(&mut self, total: Option<i128>) {
        match (&mut self.0, total.map(i64::try_from)) {
            (Sum::Whole(whole), _) => whole.total = total.into(),
            (held, None) => *held = Sum::None,
            (held, Some(Ok(total))) => *held = Sum::Total(total),
            (_, Some(Err(_))) => self.whole().total = total.into(),
        }
    }

    /// Adds to the total.
    pub(crate) fn add(&mut self, amount: i128) {
        self.set_total(Some(self.total().unwrap_or(0) + amount));
    }

    /// The amounts by time, to be changed.
    pub(crate) fn series_mut(&mut self) -> &mut Sums {
        &mut self.whole().series
    }

    fn whole(&mut self) -> &mut Whole {
        let total = self.total();
        if let Sum::None | Sum::Total(_) = &self.0 {
            self.0 = Sum::Whole(Whole { total: total.into(), series: Sums::default() }.into());
        }
        let Sum::Whole(whole) = &mut self.0 else { unreachable!("it is whole by now") };
        whole
    }

    fn weight(&self) -> usize {
        let of_whole = |whole: &Whole| {
            whole.series.weight() + if matches!(whole.total, SumTotal::Large(_)) { size_of::<i128>() } else { 0 }
        };
        match &self.0 {
            Sum::Whole(whole) => shared_bytes::<Whole>() + whole.weight(of_whole),
            Sum::None | Sum::Total(_) => 0,
        }
    }
}

/// Of a total alone.
impl From<Option<i128>> for Summed {
    fn from(total: Option<i128>) -> Self {
        let mut summed = Self::default();
        summed.set_total(total);
        summed
    }
}

/// By what it holds, wherever that stands.
impl PartialEq for Summed {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Sum::Whole(one), Sum::Whole(other)) if one.is(other) => true,
            _ => self.total() == other.total() && self.series() == other.series(),
        }
    }
}

impl Eq for Summed {}

impl Serialize for Summed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.total(), self.series()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Summed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (total, series) = <(Option<i128>, Sums)>::deserialize(deserializer)?;
        if series == Sums::NOTHING {
            return Ok(total.into());
        }
        Ok(Self(Sum::Whole(Whole { total: total.into(), series }.into())))
    }
}

/// Summaries, of the lifetime and by time; no place of their own is taken as long as there are none.
#[derive(Clone, Debug, Default)]
pub struct Summarised(Option<Shared<Parts>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    total: Option<Summary>,
    series: Option<Series>,
}

impl Summarised {
    /// Of a total alone, where anything reads it.
    pub(crate) fn new(total: Option<Summary>) -> Self {
        Self(total.map(|total| Parts { total: Some(total), series: None }.into()))
    }

    /// Of the lifetime, where anything reads it.
    pub(crate) fn total(&self) -> Option<&Summary> {
        self.0.as_deref()?.total.as_ref()
    }

    /// By time, where a window needs them; present once there was a contribution.
    pub(crate) fn series(&self) -> Option<&Series> {
        self.0.as_deref()?.series.as_ref()
    }

    /// Whether there is neither.
    pub(crate) fn is_empty(&self) -> bool {
        self.total().is_none() && self.series().is_none()
    }

    /// Both, to be changed.
    pub(crate) fn parts(&mut self) -> (&mut Option<Summary>, &mut Option<Series>) {
        let Parts { total, series } = &mut **self.0.get_or_insert_default();
        (total, series)
    }

    fn weight(&self) -> usize {
        let of_parts = |parts: &Parts| {
            parts.total.as_ref().map_or(0, Summary::weight) + parts.series.as_ref().map_or(0, Series::weight)
        };
        self.0.as_ref().map_or(0, |parts| shared_bytes::<Parts>() + parts.weight(of_parts))
    }
}

impl PartialEq for Summarised {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => one == other,
            _ => (self.total(), self.series()) == (other.total(), other.series()),
        }
    }
}

impl Eq for Summarised {}

impl Serialize for Summarised {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.total(), self.series()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Summarised {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (total, series) = <(Option<Summary>, Option<Series>)>::deserialize(deserializer)?;
        let held = total.is_some() || series.is_some();
        Ok(Self(held.then(|| Parts { total, series }.into())))
    }
}

/// Bytes of what is shared, beside its own heap bytes, about.
fn shared_bytes<T>() -> usize {
    // Beside the value its owners are counted, and it is remembered what it weighs.
    size_of::<T>() + 3 * size_of::<usize>()
}

impl State {
    /// Heap bytes, about; for the cache's budget.
    pub fn weight(&self) -> usize {
        match self {
            Self::Sum(summed) => summed.weight(),
            Self::Summary(summaries) => summaries.weight(),
            Self::Decayed(decayed) => shared_bytes::<Decayed>() + decayed.weight(Decayed::weight),
            Self::Sessions(sessions) => shared_bytes::<Sessions>() + sessions.weight(Sessions::weight),
            Self::Backfilling => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::series::Need;

    #[test]
    fn a_state_is_small_because_a_profile_has_many() {
        assert!(size_of::<State>() <= 16, "{} bytes", size_of::<State>());
    }

    #[test]
    fn sums_are_stored_and_compared_as_what_they_hold() {
        for total in
            [None, Some(0), Some(-1), Some(7), Some(i128::MAX), Some(i128::MIN), Some(1 << 64), Some(-(1 << 64) - 5)]
        {
            let alone = Summed::from(total);
            assert_eq!((alone.total(), alone.series()), (total, &Sums::NOTHING));
            let bytes = postcard::to_allocvec(&State::Sum(alone.clone())).expect("bytes");
            assert_eq!(bytes, postcard::to_allocvec(&(0_u8, total, Sums::default())).expect("bytes"));
            assert_eq!(postcard::from_bytes::<State>(&bytes).expect("read"), State::Sum(alone.clone()));
            // A place was made, with nothing in it.
            let mut roomy = alone.clone();
            let _ = roomy.series_mut();
            assert!(matches!(roomy.0, Sum::Whole(_)) && roomy == alone);
            assert_eq!(postcard::to_allocvec(&State::Sum(roomy.clone())).expect("bytes"), bytes);
            let when = When { at: Timestamp(7), day: 0, tie: 0, trusted: true };
            roomy.series_mut().insert(&when, 5, Need { reach_ms: 1000, last: 0 });
            roomy.set_total(total);
            assert!(roomy != alone && roomy.total() == total);
            let bytes = postcard::to_allocvec(&roomy).expect("bytes");
            assert_eq!(postcard::from_bytes::<Summed>(&bytes).expect("read"), roomy);
        }
    }

    #[test]
    fn summaries_are_stored_and_compared_as_what_they_hold() {
        let none = Summarised::default();
        let bytes = postcard::to_allocvec(&State::Summary(none.clone())).expect("bytes");
        assert_eq!(bytes, [1, 0, 0]);
        assert!(postcard::from_bytes::<Summarised>(&bytes[1..]).expect("read").0.is_none());
        let mut roomy = none.clone();
        let _ = roomy.parts();
        assert!(roomy.0.is_some() && roomy == none);
        let some = Summarised::new(Some(Summary::Extreme(Some(7))));
        assert!(some != roomy);
        let bytes = postcard::to_allocvec(&some).expect("bytes");
        assert_eq!(postcard::from_bytes::<Summarised>(&bytes).expect("read"), some);
    }
}
