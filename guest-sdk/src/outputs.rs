//! Outputs: aggregates to contribute to, scores, judgements on offers, failures.

use core::cell::RefCell;
use core::marker::PhantomData;

use crate::bindings::{Aggregate, Contributions, Failure, Kind, Ranking, Score};
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
}

/// The type of a field in a struct that derives [`Aggregates`](macro@crate::Aggregates).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    note = "use Count, Sum<Decimal>, Min<T>, Max<T>, First<T>, Last<T>, Distinct, DistinctDays, SumByKey<T>, DecayedSumByKey, \
            Ratio, DaysSince, CalendarDaysSince, KeyCount, Difference<T> or Top<T>"
)]
pub trait AggregateField {
    /// How the host names its operator.
    const OPERATOR: &'static str;
    /// The type of its value.
    const KIND: Kind;
    /// The handle of the aggregate at a position.
    fn at(position: u32) -> Self;
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

handle!(
    /// The number of contributions. Has windows.
    Count, "count", Kind::Integer
);
handle!(
    /// The sum of the values. Has windows.
    Sum<T: Amount>, "sum", T::KIND
);
handle!(
    /// The smallest value.
    Min<T: Amount>, "min", T::KIND
);
handle!(
    /// The largest value.
    Max<T: Amount>, "max", T::KIND
);
handle!(
    /// The earliest value, by the event's instant or (`by = "day"`) its calendar day; values that share the place add up.
    First<T: Amount>, "first", T::KIND
);
handle!(
    /// The latest value, by the event's instant or (`by = "day"`) its calendar day; values that share the place add up.
    Last<T: Amount>, "last", T::KIND
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
    /// A sum for every key.
    SumByKey<T: Amount>, "sum-by-key", T::KIND
);
handle!(
    /// A sum for every key in which a value counts half after each `half_life`.
    DecayedSumByKey, "decayed-sum-by-key", Kind::Number
);
handle!(
    /// Derived: the sum `of` divided by the count `per`, rounded half to even at `decimals`.
    Ratio, "ratio", Kind::Decimal
);
handle!(
    /// Derived: whole days of 24 hours since the instant `of`.
    DaysSince, "days-since", Kind::Integer
);
handle!(
    /// Derived: calendar days, business time, since the instant `of`.
    CalendarDaysSince, "calendar-days-since", Kind::Integer
);
handle!(
    /// Derived: the number of keys of the sum by key `of`.
    KeyCount,
    "key-count",
    Kind::Integer
);
handle!(
    /// Derived: the sum by key `of` less the sum by key `less`, key by key.
    Difference<T: Amount>,
    "difference",
    T::KIND
);
handle!(
    /// Derived: the `count` heaviest keys of the sum by key `of`.
    Top<T: Amount>, "top", T::KIND
);

impl Count {
    /// Counts one.
    pub fn increment(&self) {
        contribute(self.position, None, 1);
    }
}

impl<T: Amount> Sum<T> {
    /// Adds a value.
    pub fn add(&self, value: T) {
        contribute(self.position, None, value.units());
    }
}

impl<T: Amount> Min<T> {
    /// Takes a value into account.
    pub fn add(&self, value: T) {
        contribute(self.position, None, value.units());
    }
}

impl<T: Amount> Max<T> {
    /// Takes a value into account.
    pub fn add(&self, value: T) {
        contribute(self.position, None, value.units());
    }
}

impl<T: Amount> First<T> {
    /// Takes a value into account; between equal instants the smaller key comes first.
    pub fn add(&self, value: T, key: Option<Key>) {
        contribute(self.position, key, value.units());
    }
}

impl<T: Amount> Last<T> {
    /// Takes a value into account; between equal instants the greater key comes last.
    pub fn add(&self, value: T, key: Option<Key>) {
        contribute(self.position, key, value.units());
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

impl<T: Amount> SumByKey<T> {
    /// Adds a value to a key's sum.
    pub fn add(&self, key: Key, value: T) {
        contribute(self.position, Some(key), value.units());
    }
}

impl DecayedSumByKey {
    /// Adds a weight to a key's sum.
    pub fn add(&self, key: Key, weight: Decimal) {
        contribute(self.position, Some(key), weight.0);
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
