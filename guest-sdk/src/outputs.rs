//! Outputs: aggregates to contribute to, scores, judgements on offers, failures.

use core::cell::RefCell;
use core::marker::PhantomData;

use crate::bindings::{Aggregate, Contributions, Failure, Kind, Ranking, Score};
use crate::custom::{CustomOperator, Functions};
use crate::values::{Amount, Choice, Decimal, Key};

/// What stands for "no key" and "no reason".
const NONE: u32 = u32::MAX;

/// Why a stage ends without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop<S = crate::values::Never> {
    /// The event is passed over for a declared reason: counted, nothing else.
    Skip(S),
    /// The input is outside what the plugin is made for; the text is for the operator.
    Rejected(String),
    /// Something inside the plugin went wrong; the text is for its author.
    Internal(String),
}

impl<S> Stop<S> {
    /// The failure, with a skip handed to `skip`.
    pub fn failure<T>(self, skip: impl FnOnce(S) -> T) -> Result<T, Failure> {
        match self {
            Self::Skip(reason) => Ok(skip(reason)),
            Self::Rejected(text) => Err(Failure::Rejected(text)),
            Self::Internal(text) => Err(Failure::Internal(text)),
        }
    }
}

/// A struct whose fields are aggregates; derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not define aggregates",
    note = "derive it: `#[derive(Aggregates)] struct … {{ orders: Count, revenue: Sum<Decimal>, … }}`"
)]
pub trait Aggregates: Sized {
    /// The definitions, in the order of the fields.
    fn declare() -> Vec<Aggregate>;
    /// The handles to contribute through.
    fn handles() -> Self;
    /// The functions of the field at a position, where its operator is the plugin's own.
    #[doc(hidden)]
    fn functions(position: u32) -> Option<Functions> {
        let _ = position;
        None
    }
}

/// The type of a field in a struct that derives [`Aggregates`](macro@crate::Aggregates).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    note = "use Count, Sum<Decimal>, Mean<T>, Variance<T>, StandardDeviation<T>, Min<T>, Max<T>, First<T>, Last<T>, FirstK<T>, LastK<T>, \
            Distinct, DistinctDays, Unique, Histogram<T>, Quantile<T>, DecayedSum, Sessions or Custom<T>",
    note = "by key use CountByKey, SumByKey<T>, MeanByKey<T>, MinByKey<T>, MaxByKey<T>, FirstByKey<T>, LastByKey<T>, VarianceByKey<T>, \
            StandardDeviationByKey<T>, QuantileByKey<T> or DecayedSumByKey",
    note = "derived from others are Ratio, QuantileOf<T>, SecondsSince, HoursSince, DaysSince, CalendarDaysSince, KeyCount, \
            Difference<T>, Top<T>, MostFrequent, LeastFrequent, DayStreak, LongestDayStreak, SessionStartedAt, SessionEvents, \
            SessionSeconds, TrendRatio, TrendSlope and TrendDeviation"
)]
pub trait AggregateField {
    /// How the host names its operator.
    const OPERATOR: &'static str;
    /// The type of its value.
    const KIND: Kind;
    /// The handle of the aggregate at a position.
    fn at(position: u32) -> Self;
    /// The functions of an operator of the plugin's own.
    #[doc(hidden)]
    fn functions() -> Option<Functions> {
        None
    }
}

std::thread_local! {
    /// What the current call has contributed. One call at a time, so one place.
    static CONTRIBUTED: RefCell<Contributions> = const { RefCell::new(empty()) };
}

const fn empty() -> Contributions {
    Contributions { aggregates: Vec::new(), values: Vec::new(), keys: Vec::new(), skipped: Vec::new() }
}

fn contribute(position: u32, key: Option<Key>, value: i64) {
    CONTRIBUTED.with_borrow_mut(|contributed| {
        contributed.aggregates.push(position);
        contributed.values.push(value);
        contributed.keys.push(key.map_or(NONE, |key| key.0));
    });
}

/// Runs `observe` and takes what it contributed; a skip takes nothing but its reason.
pub fn collect<S: Choice>(observe: impl FnOnce() -> Result<(), Stop<S>>) -> Result<Contributions, Failure> {
    CONTRIBUTED.replace(empty());
    let outcome = observe();
    let contributed = CONTRIBUTED.replace(empty());
    match outcome {
        Ok(()) => Ok(contributed),
        Err(stop) => stop.failure(|skip| Contributions { skipped: vec![skip.code()], ..empty() }),
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident $(<$type:ident: $bound:ident>)?, $operator:literal, $kind:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name $(<$type: $bound>)? {
            #[allow(dead_code)] // derived aggregates take no contributions
            position: u32,
            $(kind: PhantomData<$type>,)?
        }

        impl $(<$type: $bound>)? AggregateField for $name $(<$type>)? {
            const OPERATOR: &'static str = $operator;
            const KIND: Kind = $kind;

            fn at(position: u32) -> Self {
                Self { position, $(kind: PhantomData::<$type>,)? }
            }
        }
    };
}

/// Handles that take a value.
macro_rules! of_values {
    ($($(#[$doc:meta])* $name:ident, $operator:literal;)+) => {$(
        handle!($(#[$doc])* $name<T: Amount>, $operator, T::KIND);

        impl<T: Amount> $name<T> {
            /// Takes a value into account.
            pub fn add(&self, value: T) {
                contribute(self.position, None, value.units());
            }
        }
    )+};
}

/// Handles that take a value, and a key that orders those of one instant.
macro_rules! of_placed {
    ($($(#[$doc:meta])* $name:ident, $operator:literal;)+) => {$(
        handle!($(#[$doc])* $name<T: Amount>, $operator, T::KIND);

        impl<T: Amount> $name<T> {
            /// Takes a value into account; of those at one instant the one with the smaller key stands before the other.
            pub fn add(&self, value: T, key: Option<Key>) {
                contribute(self.position, key, value.units());
            }
        }
    )+};
}

/// Handles that take a key and a value.
macro_rules! of_keys_and_values {
    ($($(#[$doc:meta])* $name:ident, $operator:literal;)+) => {$(
        handle!($(#[$doc])* $name<T: Amount>, $operator, T::KIND);

        impl<T: Amount> $name<T> {
            /// Takes a value of a key into account.
            pub fn add(&self, key: Key, value: T) {
                contribute(self.position, Some(key), value.units());
            }
        }
    )+};
}

/// Handles of derived aggregates, which take nothing.
macro_rules! derived {
    ($($(#[$doc:meta])* $name:ident $(<$type:ident: $bound:ident>)?, $operator:literal, $kind:expr;)+) => {
        $(handle!($(#[$doc])* $name $(<$type: $bound>)?, $operator, $kind);)+
    };
}

of_values! {
    /// The sum of the values.
    Sum, "sum";
    /// The mean of the values.
    Mean, "mean";
    /// The variance of the values; `estimate = "sample"` for that of a sample.
    Variance, "variance";
    /// Its square root.
    StandardDeviation, "standard-deviation";
    /// The smallest value.
    Min, "min";
    /// The largest value.
    Max, "max";
    /// How many values lie in each bucket; `bounds = "10 50 100"` are their upper bounds.
    Histogram, "histogram";
    /// The lower quantile of rank `q = "0.95"`.
    Quantile, "quantile";
}

of_placed! {
    /// The earliest value, by the event's instant or (`by = "day"`) its calendar day; values that share the place add up.
    First, "first";
    /// The latest value, by the event's instant or (`by = "day"`) its calendar day; values that share the place add up.
    Last, "last";
    /// The first `count` values.
    FirstK, "first-k";
    /// The last `count` values, newest first.
    LastK, "last-k";
}

of_keys_and_values! {
    /// A sum for every key.
    SumByKey, "sum-by-key";
    /// A mean for every key.
    MeanByKey, "mean-by-key";
    /// The smallest value of every key.
    MinByKey, "min-by-key";
    /// The largest value of every key.
    MaxByKey, "max-by-key";
    /// The earliest value of every key.
    FirstByKey, "first-by-key";
    /// The latest value of every key.
    LastByKey, "last-by-key";
    /// The variance of every key's values.
    VarianceByKey, "variance-by-key";
    /// Its square root.
    StandardDeviationByKey, "standard-deviation-by-key";
    /// The lower quantile of rank `q` of every key's values.
    QuantileByKey, "quantile-by-key";
}

handle!(
    /// The number of contributions.
    Count, "count", Kind::Integer
);
handle!(
    /// The number of distinct keys.
    Distinct, "distinct", Kind::Integer
);
handle!(
    /// The number of distinct calendar days, business time, with a contribution.
    DistinctDays, "distinct-days", Kind::Integer
);
handle!(
    /// The `count` distinct keys seen last, newest first.
    Unique, "unique", Kind::Key
);
handle!(
    /// The number of contributions of every key.
    CountByKey, "count-by-key", Kind::Integer
);
handle!(
    /// A sum in which a value counts half after each `half_life`.
    DecayedSum, "decayed-sum", Kind::Number
);
handle!(
    /// A sum for every key in which a value counts half after each `half_life`.
    DecayedSumByKey, "decayed-sum-by-key", Kind::Number
);
handle!(
    /// The number of sessions: stretches of events no further than `gap` (30m) apart. Name it as `sessions` of an aggregate with the
    /// window `session`.
    Sessions, "sessions", Kind::Integer
);

/// An aggregate with an operator of the plugin's own; export the stage `custom`.
#[derive(Debug)]
pub struct Custom<O: CustomOperator> {
    position: u32,
    operator: PhantomData<O>,
}

impl<O: CustomOperator> AggregateField for Custom<O> {
    const OPERATOR: &'static str = "custom";
    const KIND: Kind = O::KIND;

    fn at(position: u32) -> Self {
        Self { position, operator: PhantomData }
    }

    fn functions() -> Option<Functions> {
        Some(Functions::of::<O>())
    }
}

impl<O: CustomOperator> Custom<O> {
    /// Takes a contribution into account.
    pub fn add(&self, value: i64, key: Option<Key>) {
        contribute(self.position, key, value);
    }
}

derived! {
    /// Derived: the sum `of` divided by the count `per`, rounded half to even at `decimals`.
    Ratio, "ratio", Kind::Decimal;
    /// Derived: the quantile of rank `q` of the values of the quantile `of`.
    QuantileOf<T: Amount>, "quantile", T::KIND;
    /// Derived: whole seconds since the instant `of`.
    SecondsSince, "seconds-since", Kind::Integer;
    /// Derived: whole hours since the instant `of`.
    HoursSince, "hours-since", Kind::Integer;
    /// Derived: whole days of 24 hours since the instant `of`.
    DaysSince, "days-since", Kind::Integer;
    /// Derived: calendar days, business time, since the instant `of`.
    CalendarDaysSince, "calendar-days-since", Kind::Integer;
    /// Derived: the number of keys of the aggregate by key `of`.
    KeyCount, "key-count", Kind::Integer;
    /// Derived: the sum by key `of` less the sum by key `less`, key by key.
    Difference<T: Amount>, "difference", T::KIND;
    /// Derived: the `count` heaviest keys of the sum by key `of`.
    Top<T: Amount>, "top", T::KIND;
    /// Derived: the heaviest key of the sum or count by key `of`.
    MostFrequent, "most-frequent", Kind::Key;
    /// Derived: the lightest key of the sum or count by key `of`.
    LeastFrequent, "least-frequent", Kind::Key;
    /// Derived: how many days in a row the distinct-days `of` have reached, up to today or yesterday.
    DayStreak, "day-streak", Kind::Integer;
    /// Derived: the longest such row ever.
    LongestDayStreak, "longest-day-streak", Kind::Integer;
    /// Derived: when the session of the sessions `of` that is under way began.
    SessionStartedAt, "session-started-at", Kind::Instant;
    /// Derived: how many events it has.
    SessionEvents, "session-events", Kind::Integer;
    /// Derived: how many seconds lie between its first event and its last.
    SessionSeconds, "session-seconds", Kind::Integer;
    /// Derived: the count or sum `of` in the window, divided by that of the window before it.
    TrendRatio, "trend-ratio", Kind::Number;
    /// Derived: the slope of the line through the sums of the window's `parts`.
    TrendSlope, "trend-slope", Kind::Number;
    /// Derived: how many standard deviations the window's sum lies above the mean of the `baseline` windows before it.
    TrendDeviation, "trend-deviation", Kind::Number;
}

impl Count {
    /// Counts one.
    pub fn increment(&self) {
        contribute(self.position, None, 1);
    }
}

impl Distinct {
    /// Adds a key to the set.
    pub fn insert(&self, key: Key) {
        contribute(self.position, Some(key), 0);
    }
}

impl DistinctDays {
    /// Adds the event's day to the set.
    pub fn mark(&self) {
        contribute(self.position, None, 0);
    }
}

impl Unique {
    /// Notes that a key was seen.
    pub fn see(&self, key: Key) {
        contribute(self.position, Some(key), 0);
    }
}

impl CountByKey {
    /// Counts one for a key.
    pub fn increment(&self, key: Key) {
        contribute(self.position, Some(key), 1);
    }
}

impl DecayedSum {
    /// Adds a weight.
    pub fn add(&self, weight: Decimal) {
        contribute(self.position, None, weight.0);
    }
}

impl DecayedSumByKey {
    /// Adds a weight to a key's sum.
    pub fn add(&self, key: Key, weight: Decimal) {
        contribute(self.position, Some(key), weight.0);
    }
}

impl Sessions {
    /// Notes that there was an event.
    pub fn mark(&self) {
        contribute(self.position, None, 0);
    }
}

/// A struct of optional numbers, each a score; derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not define scores",
    note = "derive it: `#[derive(Scores)] struct … {{ churn_risk: Option<f64>, … }}`"
)]
pub trait Scores: Sized {
    /// The definitions, in the order of the fields.
    fn declare() -> Vec<Score>;
    /// The values, in the same order.
    fn values(self) -> Vec<Option<f64>>;
}

/// For plugins that score nothing.
impl Scores for () {
    fn declare() -> Vec<Score> {
        Vec::new()
    }

    fn values(self) -> Vec<Option<f64>> {
        Vec::new()
    }
}

/// A judgement on one offer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rank<R = crate::values::Never> {
    /// Higher is offered first.
    pub priority: f64,
    /// Whether it may be offered at all.
    pub eligible: bool,
    /// The main reason.
    pub reason: Option<R>,
}

impl<R> Rank<R> {
    /// May be offered, the higher the priority the sooner.
    pub fn offer(priority: f64) -> Self {
        Self { priority, eligible: true, reason: None }
    }

    /// May not be offered.
    pub fn leave_out(reason: R) -> Self {
        Self { priority: 0.0, eligible: false, reason: Some(reason) }
    }

    /// Adds the main reason.
    pub fn because(self, reason: R) -> Self {
        Self { reason: Some(reason), ..self }
    }
}

/// Judgements as the host takes them.
pub fn ranking<R: Choice>(ranks: &[Rank<R>]) -> Ranking {
    Ranking {
        priorities: ranks.iter().map(|rank| rank.priority).collect(),
        eligible: ranks.iter().map(|rank| rank.eligible).collect(),
        reasons: ranks.iter().map(|rank| rank.reason.map_or(NONE, Choice::code)).collect(),
    }
}
