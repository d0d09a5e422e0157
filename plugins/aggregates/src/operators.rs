//! What each operator takes: the one place of this plugin that knows operators by name.
//!
//! The host is who knows operators. One that is not in this table is passed on as it stands, with whatever its definition gives, so that
//! a newer host's operators work here too.

use selvedge_guest::bindings::Kind;

/// Whether something must, may or must not be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it there is no contribution.
    Needed,
    /// It may be given; where it is absent in an event, there is a contribution all the same.
    Optional,
    /// It would have no meaning.
    None,
}

/// What an operator takes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Whether it is computed from other aggregates, so that it counts no events.
    pub derived: bool,
    /// Amounts.
    pub value: Need,
    /// Keys.
    pub key: Need,
    /// The type of its value where the definition does not say.
    pub kind: Kind,
}

const fn counting(value: Need, key: Need, kind: Kind) -> Operator {
    Operator { derived: false, value, key, kind }
}

const fn derived(kind: Kind) -> Operator {
    Operator { derived: true, value: Need::None, key: Need::None, kind }
}

/// What an operator takes; none of one that this plugin does not know. `of` is whether its definition names another aggregate.
pub fn find(name: &str, of: bool) -> Option<Operator> {
    use Need::{Needed, None, Optional};
    Some(match name {
        "quantile" if of => derived(Kind::Decimal),
        "count" | "distinct-days" | "sessions" => counting(None, None, Kind::Integer),
        "sum" | "mean" | "variance" | "standard-deviation" | "min" | "max" | "histogram" | "quantile" => {
            counting(Needed, None, Kind::Decimal)
        }
        "decayed-sum" => counting(Needed, None, Kind::Number),
        "first" | "last" | "first-k" | "last-k" => counting(Needed, Optional, Kind::Decimal),
        "distinct" | "count-by-key" => counting(None, Needed, Kind::Integer),
        "unique" => counting(None, Needed, Kind::Key),
        "sum-by-key"
        | "mean-by-key"
        | "min-by-key"
        | "max-by-key"
        | "first-by-key"
        | "last-by-key"
        | "variance-by-key"
        | "standard-deviation-by-key"
        | "quantile-by-key" => counting(Needed, Needed, Kind::Decimal),
        "decayed-sum-by-key" => counting(Needed, Needed, Kind::Number),
        "seconds-since"
        | "hours-since"
        | "days-since"
        | "calendar-days-since"
        | "key-count"
        | "day-streak"
        | "longest-day-streak"
        | "session-events"
        | "session-seconds" => derived(Kind::Integer),
        "session-started-at" => derived(Kind::Instant),
        "ratio" | "difference" | "top" => derived(Kind::Decimal),
        "most-frequent" | "least-frequent" => derived(Kind::Key),
        "trend-ratio" | "trend-slope" | "trend-deviation" => derived(Kind::Number),
        _ => return Option::None,
    })
}
