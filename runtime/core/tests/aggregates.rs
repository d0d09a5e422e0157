//! Every operator in every window against a naive reference that keeps all events: permuted, duplicated, delayed, split over identifiers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selvedge_core::aggregate::{
    Applied, Contribution, Definition, Definitions, Exactness, Number, Off, State, Value, Weight,
};
use selvedge_core::time::{BusinessTime, Moment};
use selvedge_core::value::{Kind, Timestamp, divide_half_even};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const TILE: i64 = 15 * MINUTE;
const GAP: i64 = 30 * MINUTE;
/// 2010-10-28T00:00:00Z: three days before the clocks go back in London.
const BEGIN: i64 = 1_288_224_000_000;
const BUSINESS: &str = "Europe/London";
const VISITOR: &str = "America/New_York";
const ANCHOR: i64 = 30;
const BOUNDS: [i64; 3] = [-10, 0, 100];

const WINDOWS: &[&str] = &[
    "lifetime",
    "90m",
    "3d",
    "40d",
    "htd",
    "dtd",
    "previous-day",
    "wtd",
    "mtd",
    "previous-month",
    "ytd",
    "billing-cycle",
    "previous-billing-cycle",
    "session",
    "last-3",
];

/// (name, operator, parameters, windows, kind)
type Spec = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str], Kind);

const SPECS: &[Spec] = &[
    ("count", "count", &[], WINDOWS, Kind::Integer),
    ("sum", "sum", &[], WINDOWS, Kind::Integer),
    (
        "own",
        "sum",
        &[("time-zone", "visitor")],
        &["htd", "dtd", "previous-day", "wtd", "mtd", "billing-cycle"],
        Kind::Decimal,
    ),
    ("mean", "mean", &[], WINDOWS, Kind::Integer),
    ("variance", "variance", &[], &["lifetime", "3d", "mtd", "last-3"], Kind::Integer),
    ("deviation", "standard-deviation", &[("estimate", "sample")], &["lifetime", "3d"], Kind::Decimal),
    ("min", "min", &[], WINDOWS, Kind::Integer),
    ("max", "max", &[], &["lifetime", "3d", "previous-month"], Kind::Decimal),
    ("first", "first", &[], &["lifetime", "3d", "dtd"], Kind::Integer),
    ("last", "last", &[], &["lifetime", "3d", "previous-day"], Kind::Integer),
    ("first_day", "first", &[("by", "day")], &["lifetime", "40d"], Kind::Integer),
    ("last_key", "last", &[], &["lifetime", "90m"], Kind::Key),
    ("first_three", "first-k", &[("count", "3")], &["lifetime", "3d"], Kind::Integer),
    ("last_three", "last-k", &[("count", "3")], &["lifetime", "mtd"], Kind::Integer),
    ("distinct", "distinct", &[], WINDOWS, Kind::Integer),
    ("days", "distinct-days", &[], &["lifetime", "40d", "mtd"], Kind::Integer),
    ("unique", "unique", &[("count", "3")], &["lifetime", "3d"], Kind::Key),
    ("histogram", "histogram", &[("bounds", "-10 0 100")], &["lifetime", "3d"], Kind::Integer),
    ("q90", "quantile", &[("q", "0.9")], &["lifetime", "3d", "wtd"], Kind::Integer),
    ("q50", "quantile", &[("q", "0.5"), ("of", "q90")], &["lifetime", "40d"], Kind::Integer),
    ("sums", "sum-by-key", &[], &["lifetime", "3d", "mtd", "session", "last-3"], Kind::Integer),
    ("counts", "count-by-key", &[], &["lifetime", "3d"], Kind::Integer),
    ("means", "mean-by-key", &[], &["lifetime", "3d"], Kind::Integer),
    ("maxima", "max-by-key", &[], &["lifetime", "40d"], Kind::Integer),
    ("lasts", "last-by-key", &[], &["lifetime", "previous-day"], Kind::Integer),
    (
        "ratio",
        "ratio",
        &[("of", "sum"), ("per", "count"), ("decimals", "3")],
        &["lifetime", "3d", "mtd"],
        Kind::Decimal,
    ),
    ("top", "top", &[("of", "sums"), ("count", "2")], &["lifetime", "mtd"], Kind::Integer),
    ("less", "difference", &[("of", "sums"), ("less", "counts")], &["lifetime", "3d"], Kind::Integer),
    ("most", "most-frequent", &[("of", "counts")], &["lifetime", "3d"], Kind::Key),
    ("least", "least-frequent", &[("of", "counts")], &["lifetime"], Kind::Key),
    ("keys", "key-count", &[("of", "sums")], &["lifetime", "3d"], Kind::Integer),
    ("decayed", "decayed-sum", &[("half-life", "2d")], &["lifetime"], Kind::Number),
    ("sessions", "sessions", &[("gap", "30m")], &["lifetime", "3d", "dtd", "previous-day"], Kind::Integer),
    ("session_at", "session-started-at", &[("of", "sessions")], &["lifetime"], Kind::Instant),
    ("session_events", "session-events", &[("of", "sessions")], &["lifetime"], Kind::Integer),
    ("session_seconds", "session-seconds", &[("of", "sessions")], &["lifetime"], Kind::Integer),
    ("last_at", "max", &[], &["lifetime"], Kind::Instant),
    ("hours_since", "hours-since", &[("of", "last_at")], &["lifetime"], Kind::Integer),
    ("streak", "day-streak", &[("of", "days")], &["lifetime"], Kind::Integer),
    ("longest", "longest-day-streak", &[("of", "days")], &["lifetime"], Kind::Integer),
    ("trend", "trend-ratio", &[("of", "sum")], &["3d"], Kind::Number),
    ("slope", "trend-slope", &[("of", "count"), ("parts", "4")], &["8d"], Kind::Number),
    ("unusual", "trend-deviation", &[("of", "sum"), ("baseline", "4")], &["2d"], Kind::Number),
    ("unusual_own", "trend-deviation", &[("of", "own"), ("baseline", "4")], &["2d"], Kind::Number),
    ("last_seen", "last", &[], &["lifetime", "3d"], Kind::Instant),
    ("earliest", "first", &[("by", "day")], &["lifetime"], Kind::Instant),
];

fn definitions() -> &'static Definitions {
    static DEFINITIONS: OnceLock<Definitions> = OnceLock::new();
    DEFINITIONS.get_or_init(|| {
        let define = |(name, operator, parameters, windows, kind): &Spec| {
            let mut parameters: Vec<(String, String)> =
                parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            if windows.contains(&"session") {
                parameters.push(("sessions".into(), "sessions".into()));
            }
            let windows: Vec<String> = windows.iter().map(|window| (*window).into()).collect();
            Definition::parse(name, operator, &parameters, &windows, *kind, None).expect(name)
        };
        let all: Vec<Definition> = SPECS.iter().map(define).collect();
        let mut definitions = Definitions::new(BusinessTime::new(BUSINESS).expect("a zone"));
        definitions.add("t", &all, None).expect("good definitions");
        definitions
    })
}

/// An event that contributes its key and value to every stored aggregate, and its instant to `last_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: i64,
    id: u16,
    key: u8,
    value: i64,
}

impl Event {
    fn key(&self) -> String {
        format!("k{}", self.key)
    }

    fn hash(&self) -> [u8; 16] {
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&self.id.to_be_bytes());
        hash
    }

    fn apply(&self, states: &mut [State]) -> Applied {
        let stored = SPECS.iter().filter(|spec| !is_derived(spec));
        let contribution = |(state, spec): (u16, &Spec)| Contribution {
            state,
            key: self.key().into(),
            value: if spec.4 == Kind::Instant { self.at } else { self.value },
        };
        let without_key = |mut contribution: Contribution| {
            if contribution_takes_no_key(stored_name(contribution.state)) {
                contribution.key = "".into();
            }
            contribution
        };
        let contributions: Vec<_> = (0..).zip(stored).map(contribution).map(without_key).collect();
        definitions().apply(states, &contributions, Timestamp(self.at), &self.hash(), true)
    }
}

fn stored_name(state: u16) -> &'static str {
    SPECS.iter().filter(|spec| !is_derived(spec)).nth(usize::from(state)).expect("a state").0
}

fn contribution_takes_no_key(name: &str) -> bool {
    name == "decayed"
}

fn is_derived(spec: &Spec) -> bool {
    spec.2.iter().any(|(key, _)| *key == "of")
}

/// Events as they come; where one comes too late for a state, all of them again in the order of time, as a shard does.
fn fold(events: &[Event]) -> Vec<State> {
    let mut events = distinct(events);
    let apply_all = |events: &[Event]| {
        let mut states = definitions().empty_states();
        events.iter().all(|event| event.apply(&mut states) == Applied::Well).then_some(states)
    };
    apply_all(&events).unwrap_or_else(|| {
        events.sort();
        apply_all(&events).expect("nothing is late in the order of time")
    })
}

fn moment(at: i64) -> Moment {
    definitions().moment(Timestamp(at), |name| match name {
        "timezone" => Some(VISITOR.to_owned()),
        "billing_day" => Some(ANCHOR.to_string()),
        _ => None,
    })
}

fn date(zone: &str, at: i64) -> Date {
    static ZONES: OnceLock<[TimeZone; 2]> = OnceLock::new();
    let zones = ZONES.get_or_init(|| [BUSINESS, VISITOR].map(|name| TimeZone::get(name).expect("a zone")));
    let zone = &zones[usize::from(zone == VISITOR)];
    jiff::Timestamp::from_millisecond(at).expect("an instant").to_zoned(zone.clone()).date()
}

/// The number of the day, week, month and so on that an instant lies in, counted from wherever.
fn numbered(window: &str, zone: &str, at: i64) -> i64 {
    let date = date(zone, at);
    let month = i64::from(date.year()) * 12 + i64::from(date.month());
    let days = i64::from((date - jiff::civil::date(1969, 12, 29)).get_days());
    match window {
        "htd" => at.div_euclid(HOUR),
        "dtd" | "previous-day" => days,
        "wtd" => days.div_euclid(7),
        "mtd" | "previous-month" => month,
        "ytd" => i64::from(date.year()),
        _ => {
            let begins = ANCHOR.min(i64::from(date.days_in_month()));
            if i64::from(date.day()) >= begins { month } else { month - 1 }
        }
    }
}

/// The width of a sliding window.
fn width(window: &str) -> Option<i64> {
    let widths = [("90m", 90 * MINUTE), ("2d", 2 * DAY), ("3d", 3 * DAY), ("8d", 8 * DAY), ("40d", 40 * DAY)];
    widths.iter().find(|(name, _)| *name == window).map(|(_, width)| *width)
}

/// Which events a window takes in; a sliding one may open later.
fn inside(spec: &Spec, window: &str, all: &[Event], now: i64, later: i64) -> Vec<Event> {
    let zone = if spec.2.contains(&("time-zone", "visitor")) { VISITOR } else { BUSINESS };
    if let Some(width) = width(window) {
        return all.iter().copied().filter(|event| event.at > now - width + later).collect();
    }
    match window {
        "lifetime" => all.to_vec(),
        "session" => match naive_sessions(all).last() {
            Some(session) if now - session[session.len() - 1].at <= GAP => session.clone(),
            _ => Vec::new(),
        },
        "last-3" => all[all.len().saturating_sub(3)..].to_vec(),
        calendar => {
            let back = i64::from(calendar.starts_with("previous"));
            let wanted = numbered(calendar, zone, now) - back;
            all.iter().copied().filter(|event| numbered(calendar, zone, event.at) == wanted).collect()
        }
    }
}

fn naive_sessions(all: &[Event]) -> Vec<Vec<Event>> {
    let mut sessions: Vec<Vec<Event>> = Vec::new();
    for event in all {
        match sessions.last_mut() {
            Some(session) if event.at - session[session.len() - 1].at <= GAP => session.push(*event),
            _ => sessions.push(vec![*event]),
        }
    }
    sessions
}

type Keyed = Vec<(String, i64)>;

fn by_key(events: &[Event], of: impl Fn(&[Event]) -> i64) -> Keyed {
    let mut groups: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    events.iter().for_each(|event| groups.entry(event.key()).or_default().push(*event));
    let mut keyed: Keyed = groups.into_iter().map(|(key, group)| (key, of(&group))).collect();
    keyed.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    keyed
}

fn integers(keyed: Keyed) -> Value {
    Value::Integers(keyed.into_iter().map(|(key, weight)| (key.as_str().into(), weight)).collect())
}

fn sum(events: &[Event]) -> i64 {
    events.iter().map(|event| event.value).sum()
}

fn mean(events: &[Event]) -> i128 {
    divide_half_even(i128::from(sum(events)) * 1_000_000, events.len() as i128)
}

fn squares(events: &[Event]) -> f64 {
    let mean = sum(events) as f64 / events.len() as f64;
    events.iter().map(|event| (event.value as f64 - mean).powi(2)).sum()
}

fn optional(value: Option<i64>) -> Value {
    value.map_or(Value::Absent, |value| Value::Integer(value.into()))
}

/// The sum of the values that share the first (or last) place.
fn placed<P: Ord>(events: &[Event], last: bool, place: impl Fn(&Event) -> P) -> Option<i64> {
    let chosen = if last { events.iter().map(&place).max() } else { events.iter().map(&place).min() }?;
    Some(events.iter().filter(|event| place(event) == chosen).map(|event| event.value).sum())
}

/// Days in a row: the longest, and the one that ends today or yesterday.
fn streaks(events: &[Event], now: i64) -> (i64, i64) {
    let days: BTreeSet<i64> = events.iter().map(|event| numbered("dtd", BUSINESS, event.at)).collect();
    let run = |last: i64| (0..).take_while(|back| days.contains(&(last - back))).count() as i64;
    let today = numbered("dtd", BUSINESS, now);
    (
        days.iter().map(|day| run(*day)).max().unwrap_or(0),
        if days.contains(&today) { run(today) } else { run(today - 1) },
    )
}

fn naive(spec: &Spec, window: &str, all: &[Event], now: i64, later: i64) -> Value {
    let events = &inside(spec, window, all, now, later)[..];
    let integer = |value: i64| Value::Integer(value.into());
    let count = events.len() as i64;
    let some = |value: &dyn Fn() -> Value| if events.is_empty() { Value::Absent } else { value() };
    let sorted = |of: &dyn Fn(&Event) -> (i64, String, i64)| {
        let mut entries: Vec<_> = events.iter().map(of).collect();
        entries.sort();
        entries
    };
    let entries = || sorted(&|event| (event.at, event.key(), event.value));
    let list = |values: Vec<i64>| Value::List(values.into_iter().map(integer).collect());
    let quantile = |q: f64| {
        let mut values: Vec<i64> = events.iter().map(|event| event.value).collect();
        values.sort_unstable();
        optional(values.get(((values.len().max(1) - 1) as f64 * q + 1e-9) as usize).copied())
    };
    let key = |keyed: Keyed, most: bool| {
        let chosen = if most { keyed.first().map(|entry| entry.1) } else { keyed.last().map(|entry| entry.1) };
        keyed
            .iter()
            .filter(|entry| Some(entry.1) == chosen)
            .map(|entry| &entry.0)
            .min()
            .map_or(Value::Absent, |key| Value::Text(key.as_str().into()))
    };
    let in_span = |from: i64, until: i64| {
        all.iter().filter(|event| event.at > now - from && event.at <= now - until).copied().collect::<Vec<_>>()
    };
    let session = naive_sessions(all).pop().filter(|session| now - session[session.len() - 1].at <= GAP);
    match spec.0 {
        "count" => integer(count),
        "sum" => integer(sum(events)),
        "own" => Value::Decimal(sum(events).into()),
        "mean" => some(&|| Value::Decimal(mean(events))),
        "variance" => some(&|| Value::Number(squares(events) / count as f64)),
        "deviation" if count < 2 => Value::Absent,
        "deviation" => Value::Number((squares(events) / (count - 1) as f64).sqrt() / 1e6),
        "min" => optional(events.iter().map(|event| event.value).min()),
        "max" => {
            events.iter().map(|event| event.value).max().map_or(Value::Absent, |value| Value::Decimal(value.into()))
        }
        "first" => optional(placed(events, false, |event| (event.at, event.key()))),
        "last" => optional(placed(events, true, |event| (event.at, event.key()))),
        "first_day" => optional(placed(events, false, |event| numbered("dtd", BUSINESS, event.at))),
        "last_key" => entries().last().map_or(Value::Absent, |entry| Value::Text(entry.1.as_str().into())),
        "first_three" => list(entries().into_iter().take(3).map(|entry| entry.2).collect()),
        "last_three" => list(entries().into_iter().rev().take(3).map(|entry| entry.2).collect()),
        "distinct" => integer(by_key(events, |_| 0).len() as i64),
        "days" => {
            integer(events.iter().map(|event| numbered("dtd", BUSINESS, event.at)).collect::<BTreeSet<_>>().len() as i64)
        }
        "unique" => {
            let newest = by_key(events, |group| group.iter().map(|event| event.at).max().unwrap_or(0));
            Value::List(newest.into_iter().take(3).map(|(key, _)| Value::Text(key.as_str().into())).collect())
        }
        "histogram" => {
            let mut counts = [0; 4];
            events.iter().for_each(|event| counts[BOUNDS.iter().filter(|bound| event.value > **bound).count()] += 1);
            Value::Integers(["-10", "0", "100", "inf"].into_iter().map(Into::into).zip(counts).collect())
        }
        "q90" => quantile(0.9),
        "q50" => quantile(0.5),
        "sums" => integers(by_key(events, sum)),
        "counts" => integers(by_key(events, |group| group.len() as i64)),
        "means" => Value::Decimals(
            by_key(events, |group| mean(group) as i64)
                .into_iter()
                .map(|(key, mean)| (key.as_str().into(), mean))
                .collect(),
        ),
        "maxima" => integers(by_key(events, |group| group.iter().map(|event| event.value).max().unwrap_or(0))),
        "lasts" => integers(by_key(events, |group| placed(group, true, |event| event.at).unwrap_or(0))),
        "ratio" => {
            some(&|| Value::Decimal(divide_half_even(i128::from(sum(events)) * 1_000, i128::from(count)) * 1_000))
        }
        "top" => integers(by_key(events, sum).into_iter().take(2).collect()),
        "less" => integers(by_key(events, |group| sum(group) - group.len() as i64)),
        "most" => key(by_key(events, |group| group.len() as i64), true),
        "least" => key(by_key(events, |group| group.len() as i64), false),
        "keys" => integer(by_key(events, sum).len() as i64),
        "decayed" => Value::Number(
            events
                .iter()
                .map(|event| event.value as f64 / 1e6 * (-((now - event.at) as f64) / (2 * DAY) as f64).exp2())
                .sum(),
        ),
        "sessions" => {
            let zone_inside = |session: &Vec<Event>| inside(spec, window, &session[..1], now, 0).len() == 1;
            integer(naive_sessions(all).iter().filter(|session| zone_inside(session)).count() as i64)
        }
        "session_at" => session.map_or(Value::Absent, |session| Value::Instant(Timestamp(session[0].at))),
        "session_events" => optional(session.map(|session| session.len() as i64)),
        "session_seconds" => optional(session.map(|session| (session[session.len() - 1].at - session[0].at) / 1000)),
        "last_at" => all.last().map_or(Value::Absent, |event| Value::Instant(Timestamp(event.at))),
        "hours_since" => optional(all.last().map(|event| (now - event.at) / HOUR)),
        "streak" => integer(streaks(all, now).1),
        "longest" => integer(streaks(all, now).0),
        "trend" => {
            let before = sum(&in_span(6 * DAY, 3 * DAY));
            if before == 0 { Value::Absent } else { Value::Number(sum(events) as f64 / before as f64) }
        }
        "slope" => {
            let counts: Vec<f64> =
                (0..4).map(|part| in_span((8 - 2 * part) * DAY, (6 - 2 * part) * DAY).len() as f64).collect();
            Value::Number(counts.iter().zip([-1.5, -0.5, 0.5, 1.5]).map(|(count, x)| count * x).sum::<f64>() / 5.0)
        }
        "last_seen" => events.last().map_or(Value::Absent, |event| Value::Instant(Timestamp(event.at))),
        "earliest" => all.first().map_or(Value::Absent, |event| Value::Instant(Timestamp(event.at))),
        "unusual" | "unusual_own" => {
            let before: Vec<f64> =
                (1..=4).map(|back| sum(&in_span((back + 1) * 2 * DAY, back * 2 * DAY)) as f64).collect();
            let mean = before.iter().sum::<f64>() / 4.0;
            let deviation = (before.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
            if deviation == 0.0 { Value::Absent } else { Value::Number((sum(events) as f64 - mean) / deviation) }
        }
        other => panic!("no reference for {other}"),
    }
}

fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1e-3)
        }
        _ => one == other,
    }
}

/// How far two values are apart, where they can be.
fn apart(one: &Value, other: &Value) -> f64 {
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) | (Value::Decimal(one), Value::Decimal(other)) => {
            (one - other).abs() as f64
        }
        (Value::Number(one), Value::Number(other)) => (one - other).abs(),
        _ => f64::INFINITY,
    }
}

/// Every reading against the reference; gives how many were exact.
fn check(states: &[State], all: &[Event], now: i64) -> Result<usize, TestCaseError> {
    let moment = moment(now);
    let mut all = all.to_vec();
    all.sort();
    let mut readings = definitions().readings().iter();
    let mut exact = 0;
    for (spec, window) in SPECS.iter().flat_map(|spec| spec.3.iter().map(move |window| (spec, *window))) {
        let reading = readings.next().expect("a reading for each window");
        let read = definitions().evaluate(reading, states, &moment);
        if let Some(number) = definitions().number(reading, states, &moment) {
            let value = match (number, reading.kind) {
                (Number::Absent, _) => Value::Absent,
                (Number::Fixed(value), Kind::Decimal) => Value::Decimal(value.into()),
                (Number::Fixed(at), Kind::Instant) => Value::Instant(Timestamp(at)),
                (Number::Fixed(value), _) => Value::Integer(value.into()),
                (Number::Float(value), _) => Value::Number(value),
            };
            prop_assert_eq!(&value, &read.value, "{} for a column", &reading.name);
        }
        if let Value::Integers(list) = &read.value
            && spec.0 != "histogram"
        {
            let weight = |key: &str| definitions().weight(reading, states, key, &moment);
            for (key, weighs) in list {
                prop_assert_eq!(weight(key), Some(Weight::Fixed(*weighs)), "{} of {}", key, &reading.name);
            }
            prop_assert!(matches!(weight("none"), None | Some(Weight::Fixed(0))), "{}", &reading.name);
        }
        let truth = naive(spec, window, &all, now, 0);
        let name = &reading.name;
        match read.exactness {
            Exactness::Exact => {
                exact += 1;
                prop_assert!(alike(&read.value, &truth), "{} is {:?}, not {:?}", name, read.value, truth);
            }
            Exactness::Off(Off::Absolute(off)) => {
                prop_assert!(
                    apart(&read.value, &truth) <= off as f64,
                    "{} is {:?} ± {}, not {:?}",
                    name,
                    read.value,
                    off,
                    truth
                );
            }
            Exactness::Off(Off::Number(off)) => {
                prop_assert!(
                    apart(&read.value, &truth) <= off * (1.0 + 1e-9),
                    "{} is {:?} ± {}, not {:?}",
                    name,
                    read.value,
                    off,
                    truth
                );
            }
            // Trends, where the edges within them cut tiles too.
            Exactness::Off(Off::Unknown) if spec.1.starts_with("trend") => {}
            Exactness::Off(Off::OpensLate(ms)) => {
                prop_assert!(ms < TILE);
                // It opens where the tile that is cut ends, or where what is in that tile does.
                let opens = now - width(window).expect("a sliding window");
                let ends = (opens.div_euclid(TILE) + 1) * TILE - 1;
                let within = all.iter().map(|event| event.at).filter(|at| (opens..=ends).contains(at));
                let mut later = within.flat_map(|at| [at - 1, at]).chain([ends]);
                let holds = later.any(|later| alike(&read.value, &naive(spec, window, &all, now, later - opens)));
                prop_assert!(holds, "{} is {:?}, which no window that opens later is", name, read.value);
            }
            other => panic!("{name} is {other:?}"),
        }
    }
    Ok(exact)
}

/// Instants at several scales, so that they meet: minutes of one hour, of three days, of forty; some of them equal.
fn an_event() -> impl Strategy<Value = Event> {
    let minute = prop_oneof![0_i64..60, 0_i64..3 * 1440, 0_i64..40 * 1440];
    (minute, any::<u16>(), 0_u8..6, -50_i64..500).prop_map(|(minute, id, key, value)| Event {
        at: BEGIN + 15 * DAY + minute * MINUTE,
        id,
        key,
        value,
    })
}

fn distinct(events: &[Event]) -> Vec<Event> {
    let mut seen = BTreeSet::new();
    events.iter().copied().filter(|event| seen.insert(event.id)).collect()
}

fn shuffled(events: &[Event], mut seed: u64) -> Vec<Event> {
    let mut shuffled = events.to_vec();
    for index in (1..shuffled.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        shuffled.swap(index, (seed >> 33) as usize % (index + 1));
    }
    shuffled
}

fn one_case(events: &[Event], seed: u64, cut: usize, retracted: u16, later: i64) -> Result<usize, TestCaseError> {
    // An event that another retracts is as if it had never been; duplicates have the id of the first.
    let events: Vec<Event> =
        distinct(events).into_iter().filter(|event| retracted == 0 || event.id % retracted != 0).collect();
    let states = fold(&events);
    let mut again = shuffled(&events, seed);
    again.extend_from_slice(&shuffled(&events, seed ^ 77));
    prop_assert_eq!(&states, &fold(&again), "another order, and everything twice");
    let bytes = |states: &[State]| postcard::to_allocvec(states).expect("encode");
    prop_assert_eq!(bytes(&states), bytes(&fold(&again)));
    prop_assert_eq!(&postcard::from_bytes::<Vec<State>>(&bytes(&states)).expect("decode"), &states);
    let (left, right) = events.split_at(cut.min(events.len()));
    let mut joined = fold(left);
    prop_assert_eq!(definitions().join(&mut joined, &fold(right)), 0);
    let now = events.iter().map(|event| event.at).max().unwrap_or(BEGIN) + later;
    let exact = check(&states, &events, now)?;
    check(&joined, &events, now)?;
    Ok(exact)
}

/// Histories of few events, and the threads that share them.
const HISTORIES: u32 = 100_000;
const THREADS: u32 = 4;

#[test]
fn every_reading_equals_the_reference_over_few_events() {
    let some = || {
        let cases = (
            prop::collection::vec(an_event(), 0..14),
            any::<u64>(),
            0_usize..14,
            0_u16..8,
            prop_oneof![0_i64..60, 0_i64..4000],
        );
        let config = Config { cases: HISTORIES / THREADS, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&cases, |(events, seed, cut, retracted, later)| {
            let exact = one_case(&events, seed, cut, retracted, later * MINUTE)?;
            prop_assert_eq!(exact, definitions().readings().len(), "few events are exact throughout");
            Ok(())
        });
        outcome.expect("a quarter of the histories");
    };
    // A thread that panics takes the test with it.
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(some))));
}

#[test]
fn every_reading_keeps_its_bound_over_many_events() {
    let cases = (prop::collection::vec(an_event(), 250..900), any::<u64>(), 0_usize..900, 0_u16..8, 0_i64..4000);
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&cases, |(events, seed, cut, retracted, later)| {
        one_case(&events, seed, cut, retracted, later * MINUTE).map(drop)
    });
    outcome.expect("300 long histories");
}
