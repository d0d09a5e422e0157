//! What a profile was: former values of traits, and series of aggregates by day. Computed from the stored history when it is asked for; nothing more is
//! stored for it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use compact_str::CompactString;
use selvedge_core::aggregate::{Definitions, Reading, Value};
use selvedge_core::effects::Effects;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::Identifier;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Edge;
use super::profile::{Ordered, evaluated};
use crate::error::Problem;

/// Days of a series: at most, and where the call does not say.
pub const DAYS_MAX: u16 = 800;
const DAYS: u16 = 90;
/// Values of one trait; the newest are kept.
const VALUES_MAX: usize = 100;
/// Bytes of the values of all traits; the newest are kept.
const VALUES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What of the past is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryAsk {
    traits: bool,
    /// For how many days.
    aggregates: Option<u16>,
}

/// The answer.
#[derive(Serialize)]
pub struct HistoryAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    traits: Option<BTreeMap<CompactString, Vec<FormerValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregates: Option<Ordered<SeriesAnswer>>,
}

/// A word of one source, from the time at which it was first said.
#[derive(Serialize)]
struct FormerValue {
    value: Box<RawValue>,
    source: CompactString,
    at: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    claimed: bool,
}

#[derive(Serialize)]
struct SeriesAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    days: Vec<Point>,
}

/// The value at the end of a day.
#[derive(Serialize)]
struct Point {
    day: String,
    value: Value,
    exact: bool,
}

impl HistoryAsk {
    /// Reads `history=…` and `days=…`; none where no history is asked for.
    pub fn parse(history: Option<&str>, days: Option<&str>) -> Result<Option<Self>, Problem> {
        let fault = |detail: String| Err(Problem::bad_request("query_invalid", detail));
        let mut ask = Self::default();
        for part in history.into_iter().flat_map(|history| history.split(',')) {
            match part {
                "traits" => ask.traits = true,
                "aggregates" => ask.aggregates = Some(DAYS),
                other => return fault(format!("history={other:?} is unknown; ask for traits, aggregates or both")),
            }
        }
        if let Some(text) = days {
            let days = text.parse().ok().filter(|days| (1..=DAYS_MAX).contains(days));
            match (ask.aggregates, days) {
                (_, None) => return fault(format!("days={text:?} is not a number from 1 to {DAYS_MAX}")),
                (None, _) => return fault("days goes with history=aggregates; add that or leave it out".to_owned()),
                (Some(_), days) => ask.aggregates = days,
            }
        }
        Ok(history.map(|_| ask))
    }

    /// Goes through the history of a person once, up to an instant. Blocks on the disk.
    pub fn answer(self, edge: &Edge, identifiers: &[Identifier], instant: Timestamp) -> Result<HistoryAnswer, Problem> {
        let definitions = &edge.plugins.schema().definitions;
        let mut words = self.traits.then(Words::default);
        let mut series = self.aggregates.map(|days| Series::new(definitions, &edge.trait_sources, instant, days));
        edge.shards.replay(identifiers, instant, &mut |event, mut effects| {
            if let Some(series) = &mut series {
                series.take(event, &mut effects);
            }
            if let Some(words) = &mut words {
                words.take(event, effects);
            }
        })?;
        Ok(HistoryAnswer { traits: words.map(Words::answer), aggregates: series.map(Series::answer) })
    }
}

/// The words on traits, in the order in which they were said.
#[derive(Default)]
struct Words {
    said: VecDeque<Word>,
    bytes: usize,
    /// The last word of each source on each trait.
    last: HashMap<(CompactString, CompactString, bool), Box<str>>,
}

struct Word {
    name: CompactString,
    source: CompactString,
    value: Box<str>,
    at: Timestamp,
    claimed: bool,
}

impl Word {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.value.len()
    }
}

impl Words {
    fn take(&mut self, event: &EventRef, effects: Effects) {
        let Effects { traits, source, claimed, .. } = effects;
        for (name, value) in traits {
            let before = self.last.insert((name.clone(), source.clone(), claimed), value.clone());
            // Who says the same again says nothing new.
            if before.as_ref() == Some(&value) {
                continue;
            }
            let word = Word { name, source: source.clone(), value, at: event.at, claimed };
            self.bytes += word.bytes();
            self.said.push_back(word);
        }
        while self.bytes > VALUES_BYTES_MAX
            && let Some(oldest) = self.said.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    fn answer(self) -> BTreeMap<CompactString, Vec<FormerValue>> {
        let mut by_name: BTreeMap<CompactString, Vec<FormerValue>> = BTreeMap::new();
        for Word { name, source, value, at, claimed } in self.said.into_iter().rev() {
            let values = by_name.entry(name).or_default();
            if values.len() < VALUES_MAX {
                let value = RawValue::from_string(value.into_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
                values.push(FormerValue { value, source, at: at.to_string(), claimed });
            }
        }
        by_name
    }
}

/// Aggregates at the end of each day of the business calendar.
struct Series<'d> {
    definitions: &'d Definitions,
    trait_sources: &'d TraitSources,
    readings: Vec<(&'d Reading, Vec<Point>)>,
    fragment: Fragment,
    instant: Timestamp,
    /// The first day that may be shown, and the one of the instant.
    first: i64,
    last: i64,
    /// The next day to be closed; none before the first event.
    open: Option<i64>,
}

impl<'d> Series<'d> {
    fn new(definitions: &'d Definitions, trait_sources: &'d TraitSources, instant: Timestamp, days: u16) -> Self {
        let last = definitions.time().day(instant);
        let marked = definitions.readings().iter().filter(|reading| reading.history);
        Self {
            definitions,
            trait_sources,
            readings: marked.map(|reading| (reading, Vec::new())).collect(),
            fragment: Fragment::empty(definitions),
            instant,
            first: last - i64::from(days) + 1,
            last,
            open: None,
        }
    }

    fn take(&mut self, event: &EventRef, effects: &mut Effects) {
        let day = self.definitions.time().day(event.at);
        let open = *self.open.get_or_insert(day.max(self.first));
        (open..day).for_each(|day| self.close(day));
        self.open = Some(open.max(day));
        // What is counted, and the traits on which calendars hang.
        let (contributions, traits) = (std::mem::take(&mut effects.contributions), effects.traits.clone());
        let (source, claimed) = (effects.source.clone(), effects.claimed);
        let counted = Effects { contributions, traits, source, claimed, ..Effects::default() };
        // In the order of time nothing is ever folded again, and what is retracted was left out.
        let _ = self.fragment.apply_event(self.definitions, event, &counted);
    }

    fn close(&mut self, day: i64) {
        let time = self.definitions.time();
        let next = time.begins(day + 1);
        if next <= time.begins(day) {
            // A zone that crossed the date line has days that never were.
            return;
        }
        let moment = self.fragment.moment(self.definitions, self.trait_sources, next.plus_ms(-1).min(self.instant));
        for (reading, points) in &mut self.readings {
            let answer = evaluated(self.definitions, reading, &self.fragment, &moment);
            points.push(Point { day: time.date(day), value: answer.value, exact: answer.exact });
        }
    }

    fn answer(mut self) -> Ordered<SeriesAnswer> {
        if let Some(open) = self.open {
            (open..=self.last).for_each(|day| self.close(day));
        }
        let series = |(reading, days): (&Reading, Vec<Point>)| {
            (reading.name.clone(), SeriesAnswer { unit: reading.unit.clone(), days })
        };
        Ordered(self.readings.into_iter().map(series).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_what_it_may_hold() {
        let parse = |history: Option<&str>, days: Option<&str>| {
            HistoryAsk::parse(history, days).map_err(|problem| problem.code)
        };
        assert_eq!(parse(None, None), Ok(None));
        let both = HistoryAsk { traits: true, aggregates: Some(800) };
        assert_eq!(parse(Some("traits,aggregates"), Some("800")), Ok(Some(both)));
        assert_eq!(parse(Some("aggregates"), None), Ok(Some(HistoryAsk { traits: false, aggregates: Some(90) })));
        for (history, days) in [
            (Some("offers"), None),
            (Some(""), None),
            (Some("traits"), Some("9")),
            (None, Some("9")),
            (Some("aggregates"), Some("0")),
            (Some("aggregates"), Some("801")),
            (Some("aggregates"), Some("a week")),
        ] {
            assert_eq!(parse(history, days), Err("query_invalid"), "{history:?} {days:?}");
        }
    }

    #[test]
    fn former_values_are_bounded_and_the_newest_are_kept() {
        let mut words = Words::default();
        let said = |words: &mut Words, at: i64, value: String| {
            let effects = Effects { traits: vec![("a".into(), value.into())], ..Effects::default() };
            words.take(&EventRef { at: Timestamp(at), id_hash: [0; 16], received_at: Timestamp(at) }, effects);
        };
        (0..300).for_each(|at| said(&mut words, at, (at / 2).to_string()));
        assert_eq!(words.said.len(), 150, "who repeats a value says nothing new");
        (0..2_000).for_each(|at| said(&mut words, 1_000 + at, format!("\"{at}{}\"", "x".repeat(4_000))));
        assert!(words.bytes <= VALUES_BYTES_MAX && words.said.len() > 1_000);
        let values = &words.answer()["a"];
        assert_eq!((values.len(), values[0].at.as_str()), (VALUES_MAX, "1970-01-01T00:00:02.999Z"));
    }
}
