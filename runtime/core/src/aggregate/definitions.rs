//! The definitions of all active plugins, compiled once: every name resolved to its state and window.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::custom::CustomOperators;
use super::definition::{Definition, DefinitionError};
use super::merge::Merge;
use super::operator::Operator;
use super::reading::{Reading, Source, Span};
use super::series::Need;
use super::state::{Applied, Contribution, State, When};
use super::window::Window;
use crate::time::{BusinessTime, Calendar, Moment};
use crate::value::{Kind, Timestamp};

/// The definitions of all active plugins, compiled, with the calendar by which they are cut.
#[derive(Clone, Debug)]
pub struct Definitions {
    time: BusinessTime,
    merges: Vec<Merge>,
    readings: Vec<Reading>,
    by_name: FxHashMap<String, u16>,
    /// The calendars that windows need.
    calendars: Vec<Calendar>,
}

impl Definitions {
    /// No aggregates yet.
    pub fn new(time: BusinessTime) -> Self {
        Self { time, merges: Vec::new(), readings: Vec::new(), by_name: FxHashMap::default(), calendars: Vec::new() }
    }

    /// Adds a plugin's definitions, and its functions for operators of its own. Returns, for each in order, the position of its stored
    /// state; none for a derived one.
    pub fn add(
        &mut self,
        plugin: &str,
        definitions: &[Definition],
        custom: Option<&Arc<dyn CustomOperators>>,
    ) -> Result<Vec<Option<u16>>, DefinitionError> {
        let mut states = Vec::with_capacity(definitions.len());
        for (definition, position) in definitions.iter().zip(0_u32..) {
            if definition.operator.derived() {
                states.push(None);
                continue;
            }
            let custom = match definition.operator {
                Operator::Custom => {
                    let custom =
                        custom.ok_or_else(|| fault(definition, "the plugin exports no custom-aggregates".into()))?;
                    Some((Arc::clone(custom), position))
                }
                _ => None,
            };
            states.push(Some(self.merges.len() as u16));
            self.merges.push(Merge::new(definition.operator.clone(), definition.kind, custom));
        }
        let own = Own { definitions, states: &states };
        for (definition, state) in definitions.iter().zip(&states) {
            let fault = |detail: String| fault(definition, detail);
            for window in &definition.windows {
                let span = self.span(definition, *window, &own).map_err(fault)?;
                let source = own.source(definition, *state, span).map_err(fault)?;
                self.note_need(definition, *state, *window, &own);
                let name = match window {
                    Window::Lifetime => format!("{plugin}.{}", definition.name),
                    _ => format!("{plugin}.{}_{window}", definition.name),
                };
                if self.by_name.insert(name.clone(), self.readings.len() as u16).is_some() {
                    return Err(fault(format!("{name:?} is defined twice; rename one or drop a window")));
                }
                self.readings.push(Reading {
                    name,
                    kind: definition.operator.reads_as(definition.kind),
                    keyed: definition.operator.lists_keys(),
                    listed: definition.operator.lists_values(),
                    unit: definition.unit.clone(),
                    history: definition.history && Some(*window) == definition.shown_by_day(),
                    source,
                });
            }
        }
        Ok(states)
    }

    fn span(&mut self, definition: &Definition, window: Window, own: &Own<'_>) -> Result<Span, String> {
        if let Some(calendar) = definition.calendar(window) {
            let known = self.calendars.iter().position(|known| *known == calendar);
            let slot = known.unwrap_or_else(|| {
                self.calendars.push(calendar);
                self.calendars.len() - 1
            });
            let previous = matches!(window, Window::Previous(_) | Window::PreviousBillingCycle);
            return Ok(if previous { Span::Previous(slot) } else { Span::ToDate(slot) });
        }
        Ok(match window {
            Window::Sliding(width_ms) => Span::Sliding(width_ms),
            Window::Last(count) => Span::Last(usize::from(count)),
            Window::Session => {
                let name = definition.sessions.as_deref().unwrap_or_default();
                let sessions = |other: &Definition| matches!(other.operator, Operator::Sessions { .. });
                let (state, other) = own.find(name, sessions, "a sessions")?;
                let Operator::Sessions { gap_ms } = other.operator else {
                    return Err(format!("{name:?} is no sessions"));
                };
                Span::Session { state, gap_ms }
            }
            _ => Span::Lifetime,
        })
    }

    /// Tells the stored states that a window hangs on what of the past it needs.
    fn note_need(&mut self, definition: &Definition, state: Option<u16>, window: Window, own: &Own<'_>) {
        let mut need = Need {
            reach_ms: window.reach_ms(),
            last: if let Window::Last(count) = window { usize::from(count) } else { 0 },
        };
        if let Operator::Trend { trend, .. } = &definition.operator {
            need.reach_ms *= trend.windows();
        }
        let sources = definition.operator.sources().into_iter().filter_map(|name| own.position(name));
        for state in state.into_iter().chain(sources) {
            let merge = &mut self.merges[usize::from(state)];
            merge.need.widen(need);
            merge.lifetime |= window == Window::Lifetime;
        }
    }

    /// The business time zone.
    pub fn time(&self) -> &BusinessTime {
        &self.time
    }

    /// The calendars around an instant, as far as windows need them. `text` gives the visitor's traits as text.
    pub fn moment(&self, at: Timestamp, text: impl Fn(&str) -> Option<String>) -> Moment {
        self.time.moment(at, &self.calendars, text)
    }

    /// Every reading, in declared order.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The position of a name in [`Self::readings`].
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).map(|index| usize::from(*index))
    }

    /// The state of every stored aggregate before any event.
    pub fn empty_states(&self) -> Vec<State> {
        self.merges.iter().map(Merge::empty).collect()
    }

    /// Merges what one event contributes. Entries that name no state are left out: the plugin host refuses them before. One that is not
    /// `trusted` never asks for another fold: where it comes too late it is counted as well as it can be.
    pub fn apply(
        &self,
        states: &mut [State],
        contributions: &[Contribution],
        at: Timestamp,
        id_hash: &[u8; 16],
        trusted: bool,
    ) -> Applied {
        let mut applied = Applied::Well;
        if contributions.is_empty() {
            return applied;
        }
        let when = self.when(at, id_hash, trusted);
        for contribution in contributions {
            applied = applied.max(self.apply_one(states, contribution, &when));
        }
        applied
    }

    /// When an event happened, as merges need it.
    pub(crate) fn when(&self, at: Timestamp, id_hash: &[u8; 16], trusted: bool) -> When {
        let tie = id_hash.first_chunk().map_or(0, |head| u64::from_be_bytes(*head));
        When { at, day: self.time.day(at), tie, trusted }
    }

    #[inline]
    pub(crate) fn apply_one(&self, states: &mut [State], contribution: &Contribution, when: &When) -> Applied {
        let index = usize::from(contribution.state);
        match (self.merges.get(index), states.get_mut(index)) {
            (Some(merge), Some(state)) => merge.apply(state, contribution, when),
            _ => Applied::Well,
        }
    }

    /// Takes the states of another history into these: what folding the events of both gives, as far as readings say `exact`. Gives the
    /// number of plugins' own operators that failed.
    pub fn join(&self, states: &mut [State], others: &[State]) -> u64 {
        let joined = self.merges.iter().zip(states).zip(others);
        joined.filter_map(|((merge, state), other)| (!merge.join(state, other)).then_some(1)).sum()
    }

    pub(crate) fn merge(&self, state: u16) -> &Merge {
        &self.merges[usize::from(state)]
    }
}

fn fault(definition: &Definition, detail: String) -> DefinitionError {
    DefinitionError { name: definition.name.clone(), detail }
}

/// One plugin's definitions with the positions of their states.
struct Own<'d> {
    definitions: &'d [Definition],
    states: &'d [Option<u16>],
}

impl<'d> Own<'d> {
    /// A stored aggregate by its name.
    fn find(
        &self,
        name: &str,
        fits: impl Fn(&Definition) -> bool,
        wanted: &str,
    ) -> Result<(u16, &'d Definition), String> {
        let mut stored = self.definitions.iter().zip(self.states).filter_map(|(other, state)| Some(((*state)?, other)));
        stored
            .find(|(_, other)| other.name == name && fits(other))
            .ok_or_else(|| format!("{name:?} is not {wanted} among this plugin's stored aggregates"))
    }

    fn position(&self, name: &str) -> Option<u16> {
        self.find(name, |_| true, "").ok().map(|(state, _)| state)
    }

    /// Where a definition is read from in one window.
    fn source(&self, definition: &Definition, state: Option<u16>, span: Span) -> Result<Source, String> {
        let instant = |of: &str| {
            let fits = |other: &Definition| {
                matches!(other.operator, Operator::Min | Operator::Max | Operator::First(_) | Operator::Last(_))
                    && other.kind == Kind::Instant
            };
            Ok::<_, String>(self.find(of, fits, "an instant")?.0)
        };
        let sums_by_key = |other: &Definition| matches!(other.operator, Operator::SumByKey | Operator::CountByKey);
        let same_kind = |of: &str| {
            let (state, other) = self.find(of, sums_by_key, "a sum-by-key or count-by-key")?;
            if other.kind == definition.kind {
                return Ok(state);
            }
            Err(format!("its kind is {}, that of {of:?} is {}", definition.kind.name(), other.kind.name()))
        };
        let frequent = |of: &str, most| {
            let (of, _) = self.find(of, sums_by_key, "a sum-by-key or count-by-key")?;
            Ok::<_, String>(Source::Frequent { of, most, span })
        };
        if let Some(state) = state {
            return Ok(match definition.operator {
                Operator::Count | Operator::Sum => Source::Sum { state, span },
                Operator::Sessions { .. } => Source::Sessions { state, span },
                Operator::DecayedSum { half_life_ms } => Source::DecayedSum { state, half_life_ms },
                Operator::DecayedSumByKey { half_life_ms } => Source::Decayed { state, half_life_ms },
                Operator::Quantile { q_millionths } => Source::Quantile { state, span, q_millionths },
                _ => Source::Summary { state, span },
            });
        }
        Ok(match &definition.operator {
            Operator::Ratio { of, per, decimals } => {
                let sum = |other: &Definition| matches!(other.operator, Operator::Count | Operator::Sum);
                let count = |other: &Definition| {
                    matches!(
                        other.operator,
                        Operator::Count | Operator::Sum | Operator::Distinct | Operator::DistinctDays
                    ) && other.kind == Kind::Integer
                };
                let (of, other) = self.find(of, sum, "a sum or count")?;
                let scale = if other.kind == Kind::Decimal { 1 } else { 1_000_000 };
                Source::Ratio { of, per: self.find(per, count, "a count")?.0, scale, decimals: *decimals, span }
            }
            Operator::QuantileOf { of, q_millionths } => {
                let fits = |other: &Definition| {
                    matches!(other.operator, Operator::Quantile { .. }) && other.kind == definition.kind
                };
                let (state, _) = self.find(of, fits, "a quantile of this kind")?;
                Source::Quantile { state, span, q_millionths: *q_millionths }
            }
            Operator::Since { of, unit_ms } => Source::Since { of: instant(of)?, unit_ms: *unit_ms },
            Operator::CalendarDaysSince { of } => Source::CalendarDaysSince { of: instant(of)? },
            Operator::KeyCount { of } => {
                let by_key = |other: &Definition| sums_by_key(other) || matches!(other.operator, Operator::ByKey(_));
                Source::KeyCount { of: self.find(of, by_key, "an aggregate by key")?.0, span }
            }
            Operator::Difference { of, less } => {
                Source::Difference { of: same_kind(of)?, less: same_kind(less)?, span }
            }
            Operator::Top { of, count } => Source::Top { of: same_kind(of)?, count: *count, span },
            Operator::MostFrequent { of } => frequent(of, true)?,
            Operator::LeastFrequent { of } => frequent(of, false)?,
            Operator::DayStreak { of, longest } => {
                let days = |other: &Definition| other.operator == Operator::DistinctDays;
                Source::DayStreak { of: self.find(of, days, "a distinct-days")?.0, longest: *longest }
            }
            Operator::Session { of, what } => {
                let sessions = |other: &Definition| matches!(other.operator, Operator::Sessions { .. });
                let (of, other) = self.find(of, sessions, "a sessions")?;
                let Operator::Sessions { gap_ms } = other.operator else {
                    return Err(format!("{of:?} is no sessions"));
                };
                Source::Session { of, gap_ms, what: *what }
            }
            Operator::Trend { of, trend } => {
                let sum = |other: &Definition| matches!(other.operator, Operator::Count | Operator::Sum);
                let (of, other) = self.find(of, sum, "a sum or count")?;
                let Span::Sliding(width_ms) = span else {
                    return Err("a trend is read in sliding windows only".into());
                };
                let scale = if other.kind == Kind::Decimal { 1e6 } else { 1.0 };
                Source::Trend { of, width_ms, trend: *trend, scale }
            }
            stored => return Err(format!("{stored:?} has no state")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Exactness, Read, Value};
    use crate::time::Period;
    use proptest::prelude::*;

    fn define(name: &str, operator: &str, parameters: &[(&str, &str)], windows: &[&str], kind: Kind) -> Definition {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let windows: Vec<_> = windows.iter().map(|window| window.to_string()).collect();
        Definition::parse(name, operator, &parameters, &windows, kind, None).expect("a good definition")
    }

    fn london() -> Definitions {
        Definitions::new(BusinessTime::new("Europe/London").expect("a zone"))
    }

    #[test]
    fn derived_aggregates_follow_their_sources() {
        let mut definitions = london();
        let states = definitions
            .add(
                "shop",
                &[
                    define(
                        "average",
                        "ratio",
                        &[("of", "gross"), ("per", "orders"), ("decimals", "5")],
                        &[],
                        Kind::Decimal,
                    ),
                    define("gross", "sum", &[], &["lifetime", "1h", "ytd"], Kind::Decimal),
                    define("orders", "distinct", &[], &[], Kind::Integer),
                    define("last_at", "max", &[], &[], Kind::Instant),
                    define("days", "days-since", &[("of", "last_at")], &[], Kind::Integer),
                    define("calendar_days", "calendar-days-since", &[("of", "last_at")], &[], Kind::Integer),
                ],
                None,
            )
            .expect("good definitions");
        assert_eq!(states, [None, Some(0), Some(1), Some(2), None, None]);
        let names: Vec<_> = definitions.readings().iter().map(|reading| reading.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "shop.average",
                "shop.gross",
                "shop.gross_1h",
                "shop.gross_ytd",
                "shop.orders",
                "shop.last_at",
                "shop.days",
                "shop.calendar_days"
            ]
        );
        let mut held = definitions.empty_states();
        let at = Timestamp::parse("2011-05-31T22:30:00Z").expect("an instant");
        let order = |key: &str, value: i64| {
            vec![
                Contribution { state: 0, key: "".into(), value },
                Contribution { state: 1, key: key.into(), value: 0 },
                Contribution { state: 2, key: "".into(), value: at.0 },
            ]
        };
        definitions.apply(&mut held, &order("a", 10_000_000), at, &[0; 16], true);
        definitions.apply(&mut held, &order("b", 10_000_005), at, &[0; 16], true);
        definitions.apply(&mut held, &order("b", 5), at, &[0; 16], true);
        let read = |name: &str, moment: &str| {
            let moment = definitions.moment(Timestamp::parse(moment).expect("an instant"), |_| None);
            let reading = &definitions.readings()[definitions.find(name).expect("a reading")];
            definitions.evaluate(reading, &held, &moment).value
        };
        let soon = "2011-05-31T23:30:00Z";
        // 20.00001 / 2 = 10.000005, whose half at the fifth decimal goes to the even side.
        assert_eq!(read("shop.average", soon), Value::Decimal(10_000_000));
        assert_eq!(read("shop.gross_1h", "2011-05-31T23:29:59.999Z"), Value::Decimal(20_000_010));
        assert_eq!(read("shop.gross_1h", soon), Value::Decimal(0), "the window is open at its start");
        assert_eq!(read("shop.gross_ytd", soon), Value::Decimal(20_000_010));
        assert_eq!(read("shop.gross_ytd", "2012-01-01T00:00:00Z"), Value::Decimal(0));
        assert_eq!(read("shop.orders", soon), Value::Integer(2));
        assert_eq!(read("shop.days", soon), Value::Integer(0));
        assert_eq!(read("shop.calendar_days", soon), Value::Integer(1), "midnight in London was at 23:00 UTC");
    }

    /// The period of the wall clock that an instant lies in, counted from wherever: found without any arithmetic of instants.
    fn numbered(period: Period, at: i64) -> i64 {
        let zone = jiff::tz::TimeZone::get("Europe/London").expect("a zone");
        let date = jiff::Timestamp::from_millisecond(at).expect("an instant").to_zoned(zone).date();
        let (year, month) = (i64::from(date.year()), i64::from(date.month()) - 1);
        let days = i64::from((date - jiff::civil::date(1969, 12, 29)).get_days());
        match period {
            Period::Hour => at.div_euclid(3_600_000),
            Period::Day => days,
            Period::Week => days.div_euclid(7),
            Period::Month => year * 12 + month,
            Period::Quarter => year * 4 + month / 3,
            Period::Year => year,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        /// Events over three years with their changes of the clocks, read at any instant.
        #[test]
        fn calendar_windows_agree_with_the_calendar(
            mut minutes in prop::collection::vec(0_i64..3 * 366 * 24 * 60, 1..400),
            read_at in any::<prop::sample::Index>(),
        ) {
            let windows = ["htd", "dtd", "wtd", "mtd", "qtd", "ytd", "previous-hour", "previous-day", "previous-week", "previous-month", "previous-quarter", "previous-year"];
            let mut definitions = london();
            definitions.add("t", &[define("n", "count", &[], &windows, Kind::Integer)], None).expect("a definition");
            minutes.sort_unstable();
            let instants: Vec<i64> = minutes.iter().map(|minute| 1_262_304_000_000 + minute * 60_000).collect();
            let until = read_at.index(instants.len());
            let at = instants[until];
            let mut states = definitions.empty_states();
            let one = [Contribution { state: 0, key: "".into(), value: 1 }];
            let before: Vec<i64> = instants.iter().copied().filter(|instant| *instant <= at).collect();
            before.iter().for_each(|instant| { definitions.apply(&mut states, &one, Timestamp(*instant), &[0; 16], true); });
            let moment = definitions.moment(Timestamp(at), |_| None);
            for (reading, (back, period)) in definitions.readings().iter().zip([0, 1].into_iter().flat_map(|back| Period::ALL.map(|period| (back, period)))) {
                let Read { value, exactness } = definitions.evaluate(reading, &states, &moment);
                let naive = before.iter().filter(|instant| numbered(period, **instant) == numbered(period, at) - back).count();
                prop_assert_eq!((value, exactness), (Value::Integer(naive as i128), Exactness::Exact), "{} at {}", &reading.name, Timestamp(at));
            }
        }
    }

    #[test]
    fn a_definition_that_leans_on_nothing_is_refused() {
        let refused = |definition: Definition| {
            london().add("shop", &[definition], None).expect_err("leans on nothing").to_string()
        };
        assert!(
            refused(define("days", "days-since", &[("of", "last")], &[], Kind::Integer))
                .contains("\"last\" is not an instant")
        );
        assert!(
            refused(define("top", "top", &[("of", "units"), ("count", "3")], &[], Kind::Integer)).contains("\"units\"")
        );
        let twice = [
            define("a", "sum", &[], &["lifetime", "7d"], Kind::Integer),
            define("a_7d", "sum", &[], &[], Kind::Integer),
        ];
        assert!(london().add("shop", &twice, None).expect_err("one name twice").to_string().contains("defined twice"));
    }
}
