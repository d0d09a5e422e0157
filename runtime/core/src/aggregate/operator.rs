//! Operators: how contributions are merged, and how a value is derived from others. `docs/aggregates.md` is their reference.

use super::window::{Window, parse_duration_ms};
use crate::value::Kind;

/// The order by which [`Operator::First`] and [`Operator::Last`] choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By the event's instant, then by the key (ascending bytes).
    Instant,
    /// By the event's calendar day in the business time zone.
    Day,
}

/// How an aggregate comes about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The number of contributions.
    Count,
    /// The sum of the values.
    Sum,
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// The value that comes first in an order; values that share the first place are added up. Of kind key: the key itself.
    First(Order),
    /// The value that comes last in an order; values that share the last place are added up. Of kind key: the key itself.
    Last(Order),
    /// The number of distinct keys.
    Distinct,
    /// The number of distinct calendar days, business time, on which there was a contribution.
    DistinctDays,
    /// A sum for every key.
    SumByKey,
    /// A sum for every key, in which a value counts half after each half-life.
    DecayedSumByKey {
        /// Milliseconds after which a value counts half.
        half_life_ms: i64,
    },
    /// Derived: one aggregate divided by another, both of their lifetime, rounded half to even.
    Ratio {
        /// The numerator.
        of: String,
        /// The denominator; where it is 0 the ratio is absent.
        per: String,
        /// Decimals kept, at most 6.
        decimals: u32,
    },
    /// Derived: whole days of 24 hours since an instant.
    DaysSince {
        /// An aggregate of kind instant.
        of: String,
    },
    /// Derived: calendar days, business time, since an instant.
    CalendarDaysSince {
        /// An aggregate of kind instant.
        of: String,
    },
    /// Derived: the number of keys of a sum by key.
    KeyCount {
        /// A `sum-by-key`.
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
        /// A `sum-by-key`.
        of: String,
        /// How many.
        count: usize,
    },
}

/// One aggregate as a plugin declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name without the plugin's.
    pub name: String,
    /// How it comes about.
    pub operator: Operator,
    /// In which windows it is read; never empty.
    pub windows: Vec<Window>,
    /// The type of its value.
    pub kind: Kind,
    /// The unit shown beside it.
    pub unit: Option<String>,
    /// Whether its values by day may be asked for.
    pub history: bool,
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("aggregate {name:?}: {detail}")]
pub struct DefinitionError {
    /// The aggregate, as declared.
    pub name: String,
    /// What is wrong and the mend.
    pub detail: String,
}

/// An operator's parameters by name, each of which must be used.
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn take(&mut self, name: &str) -> Option<&'a str> {
        let index = self.0.iter().position(|(key, _)| *key == name)?;
        Some(self.0.remove(index).1)
    }

    fn need(&mut self, name: &str) -> Result<&'a str, String> {
        self.take(name).ok_or_else(|| format!("the parameter {name:?} is missing"))
    }

    fn order(&mut self) -> Result<Order, String> {
        match self.take("by") {
            None | Some("instant") => Ok(Order::Instant),
            Some("day") => Ok(Order::Day),
            Some(other) => Err(format!("by = {other:?} is unknown; use instant or day")),
        }
    }
}

const OPERATORS: &str = "count, sum, min, max, first, last, distinct, distinct-days, sum-by-key, decayed-sum-by-key, \
                         ratio, days-since, calendar-days-since, key-count, difference, top";

impl Operator {
    fn parse(name: &str, parameters: &mut Parameters<'_>) -> Result<Self, String> {
        Ok(match name {
            "count" => Self::Count,
            "sum" => Self::Sum,
            "min" => Self::Min,
            "max" => Self::Max,
            "first" => Self::First(parameters.order()?),
            "last" => Self::Last(parameters.order()?),
            "distinct" => Self::Distinct,
            "distinct-days" => Self::DistinctDays,
            "sum-by-key" => Self::SumByKey,
            "decayed-sum-by-key" => {
                let text = parameters.need("half-life")?;
                let half_life_ms = parse_duration_ms(text)
                    .filter(|ms| (60_000..=400 * crate::time::DAY_MS).contains(ms))
                    .ok_or_else(|| format!("the half-life {text:?} is not a duration from 1m to 400d"))?;
                Self::DecayedSumByKey { half_life_ms }
            }
            "ratio" => {
                let decimals = parameters.take("decimals").unwrap_or("6");
                let decimals = decimals
                    .parse()
                    .ok()
                    .filter(|decimals| *decimals <= 6)
                    .ok_or_else(|| format!("decimals = {decimals:?} is not a number from 0 to 6"))?;
                Self::Ratio { of: parameters.need("of")?.into(), per: parameters.need("per")?.into(), decimals }
            }
            "days-since" => Self::DaysSince { of: parameters.need("of")?.into() },
            "calendar-days-since" => Self::CalendarDaysSince { of: parameters.need("of")?.into() },
            "key-count" => Self::KeyCount { of: parameters.need("of")?.into() },
            "difference" => {
                Self::Difference { of: parameters.need("of")?.into(), less: parameters.need("less")?.into() }
            }
            "top" => {
                let count = parameters.need("count")?;
                let count = count
                    .parse()
                    .ok()
                    .filter(|count| (1..=100).contains(count))
                    .ok_or_else(|| format!("count = {count:?} is not a number from 1 to 100"))?;
                Self::Top { of: parameters.need("of")?.into(), count }
            }
            other => return Err(format!("unknown operator {other:?}; this host knows {OPERATORS}")),
        })
    }

    /// Whether contributions name a key.
    pub fn keyed(&self) -> bool {
        matches!(self, Self::Distinct | Self::SumByKey | Self::DecayedSumByKey { .. })
    }

    /// Whether the value is a list of keys with weights.
    fn listed(&self) -> bool {
        matches!(self, Self::SumByKey | Self::DecayedSumByKey { .. } | Self::Difference { .. } | Self::Top { .. })
    }

    /// Whether a contribution may name a key to break ties.
    pub fn placed(&self) -> bool {
        matches!(self, Self::First(_) | Self::Last(_))
    }

    /// Whether the value is computed from other aggregates, so that nothing may be contributed.
    pub fn derived(&self) -> bool {
        matches!(
            self,
            Self::Ratio { .. }
                | Self::DaysSince { .. }
                | Self::CalendarDaysSince { .. }
                | Self::KeyCount { .. }
                | Self::Difference { .. }
                | Self::Top { .. }
        )
    }

    fn kinds(&self) -> &'static [Kind] {
        match self {
            Self::Count
            | Self::Distinct
            | Self::DistinctDays
            | Self::DaysSince { .. }
            | Self::CalendarDaysSince { .. }
            | Self::KeyCount { .. } => &[Kind::Integer],
            Self::Sum | Self::SumByKey | Self::Difference { .. } | Self::Top { .. } => &[Kind::Integer, Kind::Decimal],
            Self::Min | Self::Max | Self::First(Order::Day) | Self::Last(Order::Day) => {
                &[Kind::Integer, Kind::Decimal, Kind::Instant]
            }
            Self::First(Order::Instant) | Self::Last(Order::Instant) => {
                &[Kind::Integer, Kind::Decimal, Kind::Instant, Kind::Key]
            }
            Self::DecayedSumByKey { .. } => &[Kind::Number],
            Self::Ratio { .. } => &[Kind::Decimal],
        }
    }
}

impl Definition {
    /// Reads a declaration; the fault names the culprit and the mend.
    pub fn parse(
        name: &str,
        operator: &str,
        parameters: &[(String, String)],
        windows: &[String],
        kind: Kind,
        unit: Option<String>,
    ) -> Result<Self, DefinitionError> {
        let fault = |detail: String| DefinitionError { name: name.to_owned(), detail };
        let well_formed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(well_formed) {
            return Err(fault("the name may hold lower-case letters, digits and _".into()));
        }
        let mut left = Parameters(parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect());
        let operator = Operator::parse(operator, &mut left).map_err(fault)?;
        let history = match left.take("history") {
            None => false,
            Some("daily") if operator.listed() => {
                return Err(fault("only an aggregate of a single value has a daily history".into()));
            }
            Some("daily") => true,
            Some(other) => return Err(fault(format!("history = {other:?} is unknown; use daily"))),
        };
        if let Some((unknown, _)) = left.0.first() {
            return Err(fault(format!("the operator has no parameter {unknown:?}")));
        }
        if !operator.kinds().contains(&kind) {
            let kinds: Vec<_> = operator.kinds().iter().map(|kind| kind.name()).collect();
            return Err(fault(format!("the kind is {}; this operator gives {}", kind.name(), kinds.join(" or "))));
        }
        let mut parsed = Vec::with_capacity(windows.len().max(1));
        for text in windows {
            let window = Window::parse(text).map_err(|error| fault(error.to_string()))?;
            if parsed.contains(&window) {
                return Err(fault(format!("the window {text:?} stands twice")));
            }
            parsed.push(window);
        }
        if parsed.is_empty() {
            parsed.push(Window::Lifetime);
        }
        if parsed != [Window::Lifetime] && !matches!(operator, Operator::Count | Operator::Sum) {
            return Err(fault("only count and sum have windows".into()));
        }
        Ok(Self { name: name.to_owned(), operator, windows: parsed, kind, unit, history })
    }

    /// The window whose values by day may be asked for, where any are.
    pub(super) fn shown_by_day(&self) -> Option<Window> {
        self.windows
            .iter()
            .copied()
            .find(|window| *window == Window::Lifetime)
            .or_else(|| self.windows.first().copied())
    }

    /// The longest reach of its windows; 0 where no event times are needed.
    pub fn reach_ms(&self) -> i64 {
        self.windows.iter().map(|window| window.reach_ms()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(operator: &str, parameters: &[(&str, &str)], windows: &[&str], kind: Kind) -> String {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let windows: Vec<_> = windows.iter().map(|window| window.to_string()).collect();
        let error =
            Definition::parse("a", operator, &parameters, &windows, kind, None).expect_err("a faulty definition");
        error.to_string()
    }

    #[test]
    fn a_faulty_definition_names_its_culprit() {
        let holds = |text: String, part: &str| assert!(text.contains("\"a\"") && text.contains(part), "{text}");
        holds(fault("median", &[], &[], Kind::Integer), "unknown operator \"median\"");
        holds(fault("sum", &[], &["8w"], Kind::Integer), "unknown window \"8w\"");
        holds(fault("sum", &[], &["7d", "7d"], Kind::Integer), "stands twice");
        holds(fault("sum", &[], &["24h", "1d"], Kind::Integer), "stands twice");
        holds(fault("sum", &[], &[], Kind::Text), "gives integer or decimal");
        holds(fault("max", &[], &["7d"], Kind::Integer), "only count and sum");
        holds(fault("sum", &[("by", "day")], &[], Kind::Integer), "no parameter \"by\"");
        holds(fault("first", &[("by", "week")], &[], Kind::Integer), "instant or day");
        holds(fault("ratio", &[("of", "b")], &[], Kind::Decimal), "\"per\" is missing");
        holds(fault("top", &[("of", "b"), ("count", "0")], &[], Kind::Integer), "1 to 100");
        holds(fault("sum", &[("history", "weekly")], &[], Kind::Integer), "use daily");
        holds(fault("sum-by-key", &[("history", "daily")], &[], Kind::Integer), "a single value");
        holds(fault("decayed-sum-by-key", &[("half-life", "soon")], &[], Kind::Number), "not a duration");
        assert!(Definition::parse("A b", "sum", &[], &[], Kind::Integer, None).is_err());
    }
}
