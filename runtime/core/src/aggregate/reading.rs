//! Readings: every name under which an aggregate can be read, resolved to its state and window once, evaluated at an instant.

use compact_str::CompactString;
use rustc_hash::FxHashMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::operator::{Definition, DefinitionError, Operator};
use super::state::{Contribution, Merge, State, When};
use super::window::Window;
use crate::time::{BusinessTime, DAY_MS, Moment, Period};
use crate::value::{DecimalText, Kind, Timestamp, divide_half_even};

/// What a reading says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// There is none.
    Absent,
    /// A count or whole number.
    Integer(i128),
    /// In units of 10⁻⁶.
    Decimal(i128),
    /// An instant.
    Instant(Timestamp),
    /// A key.
    Text(CompactString),
    /// Keys with whole-number weights, heaviest first.
    Integers(Vec<(CompactString, i64)>),
    /// Keys with weights in units of 10⁻⁶, heaviest first.
    Decimals(Vec<(CompactString, i64)>),
    /// Keys with floating-point weights, heaviest first.
    Numbers(Vec<(CompactString, f64)>),
}

#[derive(Serialize)]
struct Weighted<'a, W> {
    key: &'a str,
    weight: W,
}

/// As JSON: numbers with exactly their digits, instants as RFC 3339, keys with weights as a list of objects.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn list<S: Serializer, W: Copy, T: Serialize>(
            serializer: S,
            weights: &[(CompactString, W)],
            form: impl Fn(W) -> T,
        ) -> Result<S::Ok, S::Error> {
            serializer
                .collect_seq(weights.iter().map(|(key, weight)| Weighted { key: key.as_str(), weight: form(*weight) }))
        }
        match self {
            Self::Absent => serializer.serialize_none(),
            Self::Integer(value) => number(value.to_string()).serialize(serializer),
            Self::Decimal(value) => number(DecimalText(*value).to_string()).serialize(serializer),
            Self::Instant(at) => serializer.collect_str(at),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integers(weights) => list(serializer, weights, |weight| weight),
            Self::Decimals(weights) => {
                list(serializer, weights, |weight| number(DecimalText(i128::from(weight)).to_string()))
            }
            Self::Numbers(weights) => list(serializer, weights, |weight| weight),
        }
    }
}

/// A JSON number with exactly these digits.
fn number(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The weight of one key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// A whole number, or units of 10⁻⁶, as the reading's kind says.
    Fixed(i64),
    /// A floating-point number.
    Number(f64),
}

/// Where a reading comes from; states by position.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Sum { state: u16, window: Window },
    Held { state: u16 },
    Decayed { state: u16, half_life_ms: i64 },
    Ratio { of: u16, per: u16, decimals: u32 },
    DaysSince { of: u16 },
    CalendarDaysSince { of: u16 },
    KeyCount { of: u16 },
    Difference { of: u16, less: u16 },
    Top { of: u16, count: usize },
}

/// One name under which an aggregate can be read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// `PLUGIN.NAME` or `PLUGIN.NAME_WINDOW`.
    pub name: String,
    /// The type of its value, or of its entries' weights where it is keyed.
    pub kind: Kind,
    /// Whether it is a list of keys with weights.
    pub keyed: bool,
    /// The unit shown beside it.
    pub unit: Option<String>,
    /// Whether its values by day may be asked for: of a definition that says so, the lifetime, or the first of its windows.
    pub history: bool,
    source: Source,
}

/// The definitions of all active plugins, compiled, with the calendar by which they are cut.
#[derive(Clone, Debug)]
pub struct Definitions {
    time: BusinessTime,
    merges: Vec<Merge>,
    readings: Vec<Reading>,
    by_name: FxHashMap<String, u16>,
    /// The periods of the calendar that windows need.
    periods: Vec<Period>,
}

impl Definitions {
    /// No aggregates yet.
    pub fn new(time: BusinessTime) -> Self {
        Self { time, merges: Vec::new(), readings: Vec::new(), by_name: FxHashMap::default(), periods: Vec::new() }
    }

    /// Adds a plugin's definitions. Returns, for each in order, the position of its stored state; none for a derived one.
    pub fn add(&mut self, plugin: &str, definitions: &[Definition]) -> Result<Vec<Option<u16>>, DefinitionError> {
        let mut states = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let stored = !definition.operator.derived();
            states.push(stored.then_some(self.merges.len() as u16));
            if stored {
                self.merges.push(Merge { operator: definition.operator.clone(), reach_ms: definition.reach_ms() });
            }
        }
        for (definition, state) in definitions.iter().zip(&states) {
            let fault = |detail: String| DefinitionError { name: definition.name.clone(), detail };
            for window in &definition.windows {
                let source = source(definition, *state, *window, definitions, &states).map_err(fault)?;
                let name = match window {
                    Window::Lifetime => format!("{plugin}.{}", definition.name),
                    _ => format!("{plugin}.{}_{window}", definition.name),
                };
                if self.by_name.insert(name.clone(), self.readings.len() as u16).is_some() {
                    return Err(fault(format!("{name:?} is defined twice; rename one or drop a window")));
                }
                if let Some(period) = window.period().filter(|period| !self.periods.contains(period)) {
                    self.periods.push(period);
                }
                let keyed = matches!(source, Source::Top { .. } | Source::Difference { .. } | Source::Decayed { .. })
                    || definition.operator == Operator::SumByKey;
                self.readings.push(Reading {
                    name,
                    kind: definition.kind,
                    keyed,
                    unit: definition.unit.clone(),
                    history: definition.history && Some(*window) == definition.shown_by_day(),
                    source,
                });
            }
        }
        Ok(states)
    }

    /// The business time zone.
    pub fn time(&self) -> &BusinessTime {
        &self.time
    }

    /// The calendar around an instant, as far as windows need it.
    pub fn moment(&self, at: Timestamp) -> Moment {
        self.time.moment(at, &self.periods)
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
        self.merges.iter().filter_map(Merge::empty).collect()
    }

    /// Merges what one event contributes. Entries that name no state are left out: the plugin host refuses them before.
    pub fn apply(&self, states: &mut [State], contributions: &[Contribution], at: Timestamp) {
        if contributions.is_empty() {
            return;
        }
        let when = When { at, day: self.time.day(at) };
        for contribution in contributions {
            let index = usize::from(contribution.state);
            if let (Some(merge), Some(state)) = (self.merges.get(index), states.get_mut(index)) {
                merge.apply(state, contribution, when);
            }
        }
    }

    /// Takes the states of another history into these: what folding the events of both gives, as far as readings say `exact`.
    pub fn join(&self, states: &mut [State], others: &[State]) {
        for ((merge, state), other) in self.merges.iter().zip(states).zip(others) {
            merge.join(state, other);
        }
    }

    /// Evaluates a reading at an instant and says whether the value is exact.
    ///
    /// The states must be those of a fold up to that instant: a reading looks at an event's time only through its window.
    pub fn evaluate(&self, reading: &Reading, states: &[State], moment: &Moment) -> (Value, bool) {
        let state_of = |index: u16| states.get(usize::from(index));
        let scaled = |value: i128| match reading.kind {
            Kind::Decimal => Value::Decimal(value),
            Kind::Instant => i64::try_from(value).map_or(Value::Absent, |ms| Value::Instant(Timestamp(ms))),
            _ => Value::Integer(value),
        };
        let weights = |weights: Vec<(CompactString, i64)>| match reading.kind {
            Kind::Decimal => Value::Decimals(weights),
            _ => Value::Integers(weights),
        };
        match reading.source {
            Source::Sum { state, window } => match (state_of(state), window.bounds(moment)) {
                (Some(State::Sum { total, .. }), None) => (scaled(total.unwrap_or(0)), true),
                (Some(State::Sum { series, .. }), Some((opens_after, closes_after))) => {
                    let (sum, exact) = series.sum_after(opens_after);
                    let (after, after_exact) = series.sum_after(closes_after);
                    (scaled(sum - after), exact && after_exact)
                }
                _ => (Value::Absent, true),
            },
            Source::Held { state } => match state_of(state) {
                Some(State::Extreme(Some(value))) => (scaled(i128::from(*value)), true),
                Some(State::Placed(Some(placed))) if reading.kind == Kind::Key => {
                    (Value::Text(placed.place.1.clone()), true)
                }
                Some(State::Placed(Some(placed))) => (scaled(placed.value), true),
                Some(State::Distinct(distinct)) => {
                    let (count, exact) = distinct.count();
                    (scaled(i128::from(count)), exact)
                }
                Some(State::Days(days)) => (scaled(i128::from(days.count())), true),
                Some(State::Keyed(keyed)) => (weights(keyed.top(usize::MAX)), keyed.exact()),
                _ => (Value::Absent, true),
            },
            Source::Decayed { state, half_life_ms } => match state_of(state) {
                Some(State::Decayed(decayed)) => {
                    (Value::Numbers(decayed.all(moment.at.0, half_life_ms)), decayed.exact())
                }
                _ => (Value::Absent, true),
            },
            Source::Ratio { of, per, decimals } => ratio(state_of(of), state_of(per), decimals),
            Source::DaysSince { of } => {
                let days = instant_of(state_of(of)).map(|since| moment.at.0.saturating_sub(since).div_euclid(DAY_MS));
                (days.map_or(Value::Absent, |days| Value::Integer(i128::from(days))), true)
            }
            Source::CalendarDaysSince { of } => {
                let days = instant_of(state_of(of)).map(|since| moment.day - self.time.day(Timestamp(since)));
                (days.map_or(Value::Absent, |days| Value::Integer(i128::from(days))), true)
            }
            Source::KeyCount { of } => match state_of(of) {
                Some(State::Keyed(keyed)) => (scaled(keyed.len() as i128), keyed.exact()),
                _ => (Value::Absent, true),
            },
            Source::Difference { of, less } => match (state_of(of), state_of(less)) {
                (Some(State::Keyed(of)), Some(State::Keyed(less))) => {
                    (weights(of.less(less)), of.exact() && less.exact())
                }
                _ => (Value::Absent, true),
            },
            Source::Top { of, count } => match state_of(of) {
                Some(State::Keyed(keyed)) => (weights(keyed.top(count)), keyed.exact()),
                _ => (Value::Absent, true),
            },
        }
    }

    /// Whether a reading waits for its history to be folded: its value is absent until then.
    pub fn backfilling(&self, reading: &Reading, states: &[State]) -> bool {
        let waits = |state: u16| matches!(states.get(usize::from(state)), Some(State::Backfilling));
        match reading.source {
            Source::Sum { state, .. } | Source::Held { state } | Source::Decayed { state, .. } => waits(state),
            Source::Ratio { of, per, .. } => waits(of) || waits(per),
            Source::Difference { of, less } => waits(of) || waits(less),
            Source::DaysSince { of }
            | Source::CalendarDaysSince { of }
            | Source::KeyCount { of }
            | Source::Top { of, .. } => waits(of),
        }
    }

    /// The weight of one key of a keyed reading; none for a reading without keys.
    pub fn weight(&self, reading: &Reading, states: &[State], key: &str, moment: &Moment) -> Option<Weight> {
        match reading.source {
            Source::Held { state } | Source::Top { of: state, .. } => match states.get(usize::from(state))? {
                State::Keyed(keyed) => Some(Weight::Fixed(keyed.get(key))),
                _ => None,
            },
            Source::Difference { of, less } => match (states.get(usize::from(of))?, states.get(usize::from(less))?) {
                (State::Keyed(of), State::Keyed(less)) => {
                    Some(Weight::Fixed(of.get(key).saturating_sub(less.get(key))))
                }
                _ => None,
            },
            Source::Decayed { state, half_life_ms } => match states.get(usize::from(state))? {
                State::Decayed(decayed) => Some(Weight::Number(decayed.get(key, moment.at.0, half_life_ms))),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Where one window of a definition is read from.
fn source(
    definition: &Definition,
    state: Option<u16>,
    window: Window,
    all: &[Definition],
    states: &[Option<u16>],
) -> Result<Source, String> {
    let find = |name: &str, fits: fn(&Definition) -> bool, wanted: &str| {
        all.iter()
            .zip(states)
            .find(|(other, _)| other.name == name && fits(other))
            .and_then(|(other, state)| Some((state.as_ref().copied()?, other)))
            .ok_or_else(|| format!("{name:?} is not {wanted} among this plugin's stored aggregates"))
    };
    let instant = |other: &Definition| other.kind == Kind::Instant;
    let sums_by_key = |other: &Definition| other.operator == Operator::SumByKey;
    let same_kind = |of: &str| {
        let (state, other) = find(of, sums_by_key, "a sum-by-key")?;
        if other.kind == definition.kind {
            return Ok(state);
        }
        Err(format!("its kind is {}, that of {of:?} is {}", definition.kind.name(), other.kind.name()))
    };
    Ok(match (&definition.operator, state) {
        (Operator::Count | Operator::Sum, Some(state)) => Source::Sum { state, window },
        (Operator::DecayedSumByKey { half_life_ms }, Some(state)) => {
            Source::Decayed { state, half_life_ms: *half_life_ms }
        }
        (_, Some(state)) => Source::Held { state },
        (Operator::Ratio { of, per, decimals }, None) => {
            let money = |other: &Definition| other.operator == Operator::Sum && other.kind == Kind::Decimal;
            let count = |other: &Definition| {
                matches!(other.operator, Operator::Count | Operator::Sum | Operator::Distinct | Operator::DistinctDays)
                    && other.kind == Kind::Integer
            };
            let (of, per) = (find(of, money, "a sum of decimals")?.0, find(per, count, "a count")?.0);
            Source::Ratio { of, per, decimals: *decimals }
        }
        (Operator::DaysSince { of }, None) => Source::DaysSince { of: find(of, instant, "an instant")?.0 },
        (Operator::CalendarDaysSince { of }, None) => {
            Source::CalendarDaysSince { of: find(of, instant, "an instant")?.0 }
        }
        (Operator::KeyCount { of }, None) => Source::KeyCount { of: find(of, sums_by_key, "a sum-by-key")?.0 },
        (Operator::Difference { of, less }, None) => Source::Difference { of: same_kind(of)?, less: same_kind(less)? },
        (Operator::Top { of, count }, None) => Source::Top { of: same_kind(of)?, count: *count },
        (stored, None) => return Err(format!("{stored:?} has no state")),
    })
}

fn ratio(of: Option<&State>, per: Option<&State>, decimals: u32) -> (Value, bool) {
    let (count, exact) = match per {
        Some(State::Sum { total, .. }) => (total.unwrap_or(0), true),
        Some(State::Distinct(distinct)) => {
            let (count, exact) = distinct.count();
            (i128::from(count), exact)
        }
        Some(State::Days(days)) => (i128::from(days.count()), true),
        _ => (0, true),
    };
    match of {
        Some(State::Sum { total: Some(total), .. }) if count > 0 => {
            let step = 10_i128.pow(6 - decimals);
            (Value::Decimal(divide_half_even(*total, count * step) * step), exact)
        }
        _ => (Value::Absent, exact),
    }
}

fn instant_of(state: Option<&State>) -> Option<i64> {
    match state? {
        State::Extreme(held) => *held,
        State::Placed(held) => i64::try_from(held.as_ref()?.value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        definitions.apply(&mut held, &order("a", 10_000_000), at);
        definitions.apply(&mut held, &order("b", 10_000_005), at);
        definitions.apply(&mut held, &order("b", 5), at);
        let read = |name: &str, moment: &str| {
            let moment = definitions.moment(Timestamp::parse(moment).expect("an instant"));
            let reading = &definitions.readings()[definitions.find(name).expect("a reading")];
            definitions.evaluate(reading, &held, &moment).0
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
            definitions.add("t", &[define("n", "count", &[], &windows, Kind::Integer)]).expect("a definition");
            minutes.sort_unstable();
            let instants: Vec<i64> = minutes.iter().map(|minute| 1_262_304_000_000 + minute * 60_000).collect();
            let until = read_at.index(instants.len());
            let at = instants[until];
            let mut states = definitions.empty_states();
            let one = [Contribution { state: 0, key: "".into(), value: 1 }];
            let before: Vec<i64> = instants.iter().copied().filter(|instant| *instant <= at).collect();
            before.iter().for_each(|instant| definitions.apply(&mut states, &one, Timestamp(*instant)));
            let moment = definitions.moment(Timestamp(at));
            for (reading, (back, period)) in definitions.readings().iter().zip([0, 1].into_iter().flat_map(|back| Period::ALL.map(|period| (back, period)))) {
                let (value, exact) = definitions.evaluate(reading, &states, &moment);
                let naive = before.iter().filter(|instant| numbered(period, **instant) == numbered(period, at) - back).count();
                prop_assert_eq!((value, exact), (Value::Integer(naive as i128), true), "{} at {}", &reading.name, Timestamp(at));
            }
        }
    }

    #[test]
    fn a_definition_that_leans_on_nothing_is_refused() {
        let refused =
            |definition: Definition| london().add("shop", &[definition]).expect_err("leans on nothing").to_string();
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
        assert!(london().add("shop", &twice).expect_err("one name twice").to_string().contains("defined twice"));
    }
}
