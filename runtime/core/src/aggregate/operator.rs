//! Operators: how contributions are merged, and how a value is derived from others. `docs/aggregates.md` is their reference.

use super::parameters::Parameters;
use crate::value::{Decimal, Kind};

/// The order by which [`Operator::First`] and [`Operator::Last`] choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By the event's instant, then by the key (ascending bytes).
    Instant,
    /// By the event's calendar day in the business time zone.
    Day,
}

/// How an aggregate comes about. The first are stored, those with `of` are derived from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The number of contributions.
    Count,
    /// The sum of the values.
    Sum,
    /// The mean of the values, rounded half to even.
    Mean,
    /// The variance of the values.
    Variance {
        /// Of a sample (n - 1) rather than of everything there is.
        sample: bool,
    },
    /// Its square root.
    StandardDeviation {
        /// Likewise.
        sample: bool,
    },
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// The value that comes first in an order; values that share the first place are added up. Of kind key: the key itself.
    First(Order),
    /// The value that comes last in an order; values that share the last place are added up. Of kind key: the key itself.
    Last(Order),
    /// The first values.
    FirstK {
        /// How many.
        count: usize,
    },
    /// The last values, newest first.
    LastK {
        /// How many.
        count: usize,
    },
    /// The number of distinct keys.
    Distinct,
    /// The number of distinct calendar days, business time, on which there was a contribution.
    DistinctDays,
    /// The distinct keys seen last, newest first.
    Unique {
        /// How many.
        count: usize,
    },
    /// How many values lie in each bucket.
    Histogram {
        /// The upper bounds of the buckets, ascending, each inclusive, in the representation of the kind.
        bounds: Vec<i64>,
    },
    /// The lower quantile.
    Quantile {
        /// Its rank, in millionths.
        q_millionths: u32,
    },
    /// A sum for every key.
    SumByKey,
    /// The number of contributions for every key.
    CountByKey,
    /// Another operator for every key.
    ByKey(Box<Operator>),
    /// A sum in which a value counts half after each half-life.
    DecayedSum {
        /// Milliseconds after which a value counts half.
        half_life_ms: i64,
    },
    /// A decayed sum for every key.
    DecayedSumByKey {
        /// Milliseconds after which a value counts half.
        half_life_ms: i64,
    },
    /// The number of sessions.
    Sessions {
        /// Milliseconds without an event after which a session is over.
        gap_ms: i64,
    },
    /// The plugin's own.
    Custom,
    /// Derived: one aggregate divided by another, rounded half to even.
    Ratio {
        /// The numerator.
        of: String,
        /// The denominator; where it is 0 the ratio is absent.
        per: String,
        /// Decimals kept, at most 6.
        decimals: u32,
    },
    /// Derived: a quantile of the values of another quantile.
    QuantileOf {
        /// A `quantile`.
        of: String,
        /// Its rank, in millionths.
        q_millionths: u32,
    },
    /// Derived: whole units of time since an instant.
    Since {
        /// An aggregate of kind instant.
        of: String,
        /// Milliseconds of the unit.
        unit_ms: i64,
    },
    /// Derived: calendar days, business time, since an instant.
    CalendarDaysSince {
        /// An aggregate of kind instant.
        of: String,
    },
    /// Derived: the number of keys of an aggregate by key.
    KeyCount {
        /// A `sum-by-key` or the like.
        of: String,
    },
    /// Derived: one sum by key less another, key by key.
    Difference {
        /// A `sum-by-key`.
        of: String,
        /// A `sum-by-key` of the same kind.
        less: String,
    },
    /// Derived: the heaviest keys of a sum by key.
    Top {
        /// A `sum-by-key` or `count-by-key`.
        of: String,
        /// How many.
        count: usize,
    },
    /// Derived: the heaviest key alone.
    MostFrequent {
        /// A `sum-by-key` or `count-by-key`.
        of: String,
    },
    /// Derived: the lightest key alone.
    LeastFrequent {
        /// A `sum-by-key` or `count-by-key`.
        of: String,
    },
    /// Derived: days in a row.
    DayStreak {
        /// A `distinct-days`.
        of: String,
        /// The longest ever, instead of the one that is not broken yet.
        longest: bool,
    },
    /// Derived: something of the session under way.
    Session {
        /// A `sessions`.
        of: String,
        /// What.
        what: SessionValue,
    },
    /// Derived: how a count or sum moves.
    Trend {
        /// A `count` or `sum`.
        of: String,
        /// How that is measured.
        trend: Trend,
    },
}

/// What is read of the session under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionValue {
    /// When it began.
    StartedAt,
    /// How many events it has.
    Events,
    /// How many whole seconds lie between its first event and its last.
    Seconds,
}

/// How a movement is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// The window's sum divided by that of the window before it.
    Ratio,
    /// The slope of the least-squares line through the sums of the window's equal parts, per part.
    Slope {
        /// How many parts.
        parts: u32,
    },
    /// The window's sum less the mean of those before it, in their standard deviations.
    Deviation {
        /// How many windows before it.
        baseline: u32,
    },
}

impl Trend {
    /// How many windows it looks back on, with its own.
    pub(crate) fn windows(self) -> i64 {
        match self {
            Self::Ratio => 2,
            Self::Slope { .. } => 1,
            Self::Deviation { baseline } => i64::from(baseline) + 1,
        }
    }
}

const OPERATORS: &str = "count, sum, mean, variance, standard-deviation, min, max, first, last, first-k, last-k, distinct, distinct-days, \
                         unique, histogram, quantile, decayed-sum, sessions, custom; sum, count, mean, variance, standard-deviation, \
                         min, max, first, last, quantile and decayed-sum also as …-by-key; and, derived from others, ratio, quantile, seconds-since, \
                         hours-since, days-since, calendar-days-since, key-count, difference, top, most-frequent, least-frequent, day-streak, \
                         longest-day-streak, session-started-at, session-events, session-seconds, trend-ratio, trend-slope, \
                         trend-deviation";

/// Elements of lists that may be asked for.
const COUNT_MAX: u64 = 100;
/// Buckets of a histogram, less one.
const BOUNDS_MAX: usize = 64;
const SECOND_MS: i64 = 1000;
const HOUR_MS: i64 = 3_600_000;

impl Operator {
    /// Reads a declaration. `kind` is that of the contributed values.
    pub(crate) fn parse(name: &str, parameters: &mut Parameters<'_>, kind: Kind) -> Result<Self, String> {
        let unknown = || {
            let names = OPERATORS.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-');
            let near = names.map(|known| (strsim::jaro_winkler(known, name), known)).max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = near.filter(|(near, _)| *near > 0.85).map(|(_, known)| format!("; did you mean {known:?}?"));
            format!("unknown operator {name:?}{}; this host knows {OPERATORS}", hint.unwrap_or_default())
        };
        Ok(match name {
            "count" => Self::Count,
            "sum" => Self::Sum,
            "mean" => Self::Mean,
            "variance" => Self::Variance { sample: parameters.sample()? },
            "standard-deviation" => Self::StandardDeviation { sample: parameters.sample()? },
            "min" => Self::Min,
            "max" => Self::Max,
            "first" => Self::First(parameters.order()?),
            "last" => Self::Last(parameters.order()?),
            "first-k" => Self::FirstK { count: parameters.number("count", 1, COUNT_MAX, None)? as usize },
            "last-k" => Self::LastK { count: parameters.number("count", 1, COUNT_MAX, None)? as usize },
            "distinct" => Self::Distinct,
            "distinct-days" => Self::DistinctDays,
            "unique" => Self::Unique { count: parameters.number("count", 1, COUNT_MAX, None)? as usize },
            "histogram" => Self::Histogram { bounds: bounds(parameters.need("bounds")?, kind)? },
            "quantile" => {
                let q_millionths = parameters.q()?;
                match parameters.take("of") {
                    Some(of) => Self::QuantileOf { of: of.to_owned(), q_millionths },
                    None => Self::Quantile { q_millionths },
                }
            }
            "sum-by-key" => Self::SumByKey,
            "count-by-key" => Self::CountByKey,
            "decayed-sum" => Self::DecayedSum { half_life_ms: parameters.duration("half-life", None)? },
            "decayed-sum-by-key" => Self::DecayedSumByKey { half_life_ms: parameters.duration("half-life", None)? },
            "sessions" => Self::Sessions { gap_ms: parameters.duration("gap", Some("30m"))? },
            "custom" => Self::Custom,
            "ratio" => Self::Ratio {
                of: parameters.of()?,
                per: parameters.need("per")?.into(),
                decimals: parameters.number("decimals", 0, 6, Some(6))? as u32,
            },
            "seconds-since" => Self::Since { of: parameters.of()?, unit_ms: SECOND_MS },
            "hours-since" => Self::Since { of: parameters.of()?, unit_ms: HOUR_MS },
            "days-since" => Self::Since { of: parameters.of()?, unit_ms: crate::time::DAY_MS },
            "calendar-days-since" => Self::CalendarDaysSince { of: parameters.of()? },
            "key-count" => Self::KeyCount { of: parameters.of()? },
            "difference" => Self::Difference { of: parameters.of()?, less: parameters.need("less")?.into() },
            "top" => {
                Self::Top { of: parameters.of()?, count: parameters.number("count", 1, COUNT_MAX, None)? as usize }
            }
            "most-frequent" => Self::MostFrequent { of: parameters.of()? },
            "least-frequent" => Self::LeastFrequent { of: parameters.of()? },
            "day-streak" => Self::DayStreak { of: parameters.of()?, longest: false },
            "longest-day-streak" => Self::DayStreak { of: parameters.of()?, longest: true },
            "session-started-at" => Self::Session { of: parameters.of()?, what: SessionValue::StartedAt },
            "session-events" => Self::Session { of: parameters.of()?, what: SessionValue::Events },
            "session-seconds" => Self::Session { of: parameters.of()?, what: SessionValue::Seconds },
            "trend-ratio" => Self::Trend { of: parameters.of()?, trend: Trend::Ratio },
            "trend-slope" => {
                let parts = parameters.number("parts", 2, 100, Some(7))? as u32;
                Self::Trend { of: parameters.of()?, trend: Trend::Slope { parts } }
            }
            "trend-deviation" => {
                let baseline = parameters.number("baseline", 2, 52, Some(8))? as u32;
                Self::Trend { of: parameters.of()?, trend: Trend::Deviation { baseline } }
            }
            _ => {
                let of = name.strip_suffix("-by-key").ok_or_else(unknown)?;
                let of = Self::parse(of, parameters, kind).map_err(|_| unknown())?;
                let fits = matches!(
                    of,
                    Self::Mean
                        | Self::Variance { .. }
                        | Self::StandardDeviation { .. }
                        | Self::Min
                        | Self::Max
                        | Self::First(_)
                        | Self::Last(_)
                        | Self::Quantile { .. }
                );
                if !fits {
                    return Err(unknown());
                }
                Self::ByKey(Box::new(of))
            }
        })
    }

    /// Whether contributions name a key.
    pub fn keyed(&self) -> bool {
        matches!(
            self,
            Self::Distinct
                | Self::Unique { .. }
                | Self::SumByKey
                | Self::CountByKey
                | Self::ByKey(_)
                | Self::DecayedSumByKey { .. }
        )
    }

    /// Whether the value is a list of keys with weights.
    pub(crate) fn lists_keys(&self) -> bool {
        matches!(
            self,
            Self::Top { .. }
                | Self::Difference { .. }
                | Self::DecayedSumByKey { .. }
                | Self::SumByKey
                | Self::CountByKey
                | Self::ByKey(_)
                | Self::Histogram { .. }
        )
    }

    /// Whether the value is a list of single values.
    pub(crate) fn lists_values(&self) -> bool {
        matches!(self, Self::FirstK { .. } | Self::LastK { .. } | Self::Unique { .. })
    }

    /// Whether the value is no list.
    pub(crate) fn single(&self) -> bool {
        !self.lists_keys() && !self.lists_values()
    }

    /// Whether a contribution may name a key: to break ties, or for the plugin's own use.
    pub fn takes_key(&self) -> bool {
        matches!(self, Self::First(_) | Self::Last(_) | Self::FirstK { .. } | Self::LastK { .. } | Self::Custom)
    }

    /// Whether the value is computed from other aggregates, so that nothing may be contributed.
    pub fn derived(&self) -> bool {
        matches!(
            self,
            Self::Ratio { .. }
                | Self::QuantileOf { .. }
                | Self::Since { .. }
                | Self::CalendarDaysSince { .. }
                | Self::KeyCount { .. }
                | Self::Difference { .. }
                | Self::Top { .. }
                | Self::MostFrequent { .. }
                | Self::LeastFrequent { .. }
                | Self::DayStreak { .. }
                | Self::Session { .. }
                | Self::Trend { .. }
        )
    }

    /// Whether it is read in other windows than the lifetime.
    pub(crate) fn windowed(&self) -> bool {
        !matches!(
            self,
            Self::DecayedSum { .. }
                | Self::DecayedSumByKey { .. }
                | Self::Since { .. }
                | Self::CalendarDaysSince { .. }
                | Self::DayStreak { .. }
                | Self::Session { .. }
        )
    }

    /// The kinds that may be declared.
    pub(crate) fn kinds(&self) -> &'static [Kind] {
        const INTEGER: &[Kind] = &[Kind::Integer];
        const AMOUNT: &[Kind] = &[Kind::Integer, Kind::Decimal];
        const SCALAR: &[Kind] = &[Kind::Integer, Kind::Decimal, Kind::Instant];
        const PLACED: &[Kind] = &[Kind::Integer, Kind::Decimal, Kind::Instant, Kind::Key];
        const NUMBER: &[Kind] = &[Kind::Number];
        match self {
            Self::Count
            | Self::Distinct
            | Self::DistinctDays
            | Self::CountByKey
            | Self::Sessions { .. }
            | Self::Since { .. }
            | Self::CalendarDaysSince { .. }
            | Self::KeyCount { .. }
            | Self::DayStreak { .. }
            | Self::Session { what: SessionValue::Events | SessionValue::Seconds, .. } => INTEGER,
            Self::Session { what: SessionValue::StartedAt, .. } => &[Kind::Instant],
            Self::Sum
            | Self::Mean
            | Self::Variance { .. }
            | Self::StandardDeviation { .. }
            | Self::Histogram { .. }
            | Self::SumByKey
            | Self::Difference { .. }
            | Self::Top { .. } => AMOUNT,
            Self::Min
            | Self::Max
            | Self::Quantile { .. }
            | Self::QuantileOf { .. }
            | Self::First(Order::Day)
            | Self::Last(Order::Day) => SCALAR,
            Self::First(Order::Instant) | Self::Last(Order::Instant) | Self::FirstK { .. } | Self::LastK { .. } => {
                PLACED
            }
            Self::Unique { .. } | Self::MostFrequent { .. } | Self::LeastFrequent { .. } => &[Kind::Key],
            Self::ByKey(of) => match **of {
                Self::First(_) | Self::Last(_) => SCALAR,
                ref other => other.kinds(),
            },
            Self::DecayedSum { .. } | Self::DecayedSumByKey { .. } | Self::Trend { .. } => NUMBER,
            Self::Custom => &[Kind::Integer, Kind::Decimal, Kind::Instant, Kind::Number],
            Self::Ratio { .. } => &[Kind::Decimal],
        }
    }

    /// The kind of a reading's value, or of its weights, given the declared one.
    pub(crate) fn reads_as(&self, declared: Kind) -> Kind {
        match self {
            Self::Mean => Kind::Decimal,
            Self::Variance { .. } | Self::StandardDeviation { .. } => Kind::Number,
            Self::Histogram { .. } => Kind::Integer,
            Self::ByKey(of) => of.reads_as(declared),
            _ => declared,
        }
    }

    /// The aggregates that it is derived from.
    pub(crate) fn sources(&self) -> Vec<&str> {
        match self {
            Self::Ratio { of, per, .. } => vec![of, per],
            Self::Difference { of, less } => vec![of, less],
            Self::QuantileOf { of, .. }
            | Self::Since { of, .. }
            | Self::CalendarDaysSince { of }
            | Self::KeyCount { of }
            | Self::Top { of, .. }
            | Self::MostFrequent { of }
            | Self::LeastFrequent { of }
            | Self::DayStreak { of, .. }
            | Self::Session { of, .. }
            | Self::Trend { of, .. } => vec![of],
            _ => Vec::new(),
        }
    }
}

/// Ascending bounds, separated by blanks or commas, in the representation of a kind.
fn bounds(text: &str, kind: Kind) -> Result<Vec<i64>, String> {
    let wrong = || format!("bounds = {text:?} are not 1 to {BOUNDS_MAX} ascending numbers such as \"10 50 100\"");
    let bound = |text: &str| match kind {
        Kind::Decimal => Decimal::parse(text).ok().map(|decimal| decimal.0),
        _ => text.parse().ok(),
    };
    let words = text.split([' ', ',']).filter(|word| !word.is_empty());
    let bounds: Vec<i64> = words.map(bound).collect::<Option<_>>().ok_or_else(wrong)?;
    let ascend = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    if bounds.is_empty() || bounds.len() > BOUNDS_MAX || !ascend { Err(wrong()) } else { Ok(bounds) }
}
