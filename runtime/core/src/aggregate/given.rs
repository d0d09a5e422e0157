//! Given totals: lifetime values that a batch system computed, and how live contributions go on from them.
//!
//! A given value takes the place of what all contributions up to its watermark add up to; those after it are merged as ever. So it can be given
//! only for operators whose value says all that a merge needs: counts, sums, extremes, first and last values, sums by key, and distinct keys or days where they are
//! named.

use std::borrow::Cow;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::definitions::Definitions;
use super::distinct::{Days, Distinct, HASHES_MAX};
use super::heap_bytes;
use super::keyed::Keyed;
use super::merge::{Merge, place};
use super::operator::Operator;
use super::reading::{Source, Span};
use super::state::{Applied, Contribution, Placed, State, When};
use super::summary::Summary;
use super::value::Value;
use crate::columns::{Cell, Keys};
use crate::event::text_of;
use crate::limits;
use crate::read::Read;
use crate::value::{Kind, Timestamp};

/// Keys of one given sum by key.
pub const GIVEN_KEYS_MAX: usize = 1000;

/// What a batch system says of one aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The kind that was declared when it came; under another it says nothing.
    kind: Kind,
    amount: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Amount {
    /// In the representation of the kind.
    Single(i64),
    /// The first or last value, with the instant that it belongs to, and the key.
    Placed(i64, Timestamp, CompactString),
    /// By key, ascending.
    Keyed(Vec<(CompactString, i64)>),
    /// The keys that were counted, ascending.
    Keys(Vec<CompactString>),
    /// The days that were counted, ascending.
    Days(Vec<i64>),
}

impl Given {
    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let entry = size_of::<(CompactString, i64)>();
        match &self.amount {
            Amount::Single(_) => 0,
            Amount::Placed(_, _, key) => heap_bytes(key),
            Amount::Keyed(sums) => sums.iter().map(|(key, _)| entry + heap_bytes(key)).sum(),
            Amount::Keys(keys) => keys.iter().map(|key| size_of::<CompactString>() + heap_bytes(key)).sum(),
            Amount::Days(days) => days.len() * size_of::<i64>(),
        }
    }
}

/// Why a value cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct GivenError {
    /// Stable, for programs.
    pub code: &'static str,
    /// The field below the value, as the rest of a JSON pointer; often empty.
    pub pointer: String,
    /// What is wrong and the mend.
    pub detail: String,
}

impl GivenError {
    fn new(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), detail: detail.into() }
    }
}

/// What contributions add up to over the lifetime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(private_interfaces)] // a summary's insides stay within this module
pub enum Total {
    /// Of count and sum; none before the first contribution.
    Sum(Option<i128>),
    /// Of any other operator.
    Summary(Summary),
}

impl Total {
    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Sum(_) => 0,
            Self::Summary(summary) => summary.weight(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacedValue<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(borrow)]
    at: &'a RawValue,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyedValue<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    #[serde(borrow)]
    weight: &'a RawValue,
}

impl Definitions {
    /// The position of the state whose lifetime a name reads, where it is one that is contributed to.
    pub fn lifetime_state(&self, name: &str) -> Option<u16> {
        match self.readings()[self.find(name)?].source {
            Source::Sum { state, span: Span::Lifetime } | Source::Summary { state, span: Span::Lifetime } => {
                Some(state)
            }
            _ => None,
        }
    }

    /// Reads a value that a batch system gives as of a watermark; none for `null`. The fault names the field and the mend.
    pub fn read_given(&self, name: &str, raw: &RawValue, as_of: Timestamp) -> Result<Option<Given>, GivenError> {
        let merge = self.giveable(name)?;
        if raw.get() == "null" {
            return Ok(None);
        }
        let amount = match &merge.operator {
            Operator::First(_) | Operator::Last(_) => self.read_placed(merge, raw, as_of)?,
            Operator::SumByKey | Operator::CountByKey => self.read_keyed(merge, raw)?,
            Operator::Distinct => read_keys(raw)?,
            Operator::DistinctDays => self.read_days(raw, as_of)?,
            operator => {
                let value = self.fixed(merge.kind, raw, "")?;
                if *operator == Operator::Count && value < 0 {
                    return Err(GivenError::new("wrong_type", "", "is negative; a count is 0 or more"));
                }
                Amount::Single(value)
            }
        };
        Ok(Some(Given { kind: merge.kind, amount }))
    }

    /// How an aggregate merges whose lifetime value may be given.
    fn giveable(&self, name: &str) -> Result<&Merge, GivenError> {
        let Some(index) = self.find(name) else {
            let known = self.readings().iter().map(|reading| reading.name.as_str());
            let known = known.filter(|known| self.giveable(known).is_ok());
            let mut near: Vec<(f64, &str)> = known.map(|known| (strsim::jaro_winkler(known, name), known)).collect();
            near.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
            let names: Vec<&str> = near.into_iter().take(3).map(|(_, known)| known).collect();
            let hint = if names.is_empty() {
                "no plugin declares one that can be given".to_owned()
            } else {
                format!("near to it are {}; send what no plugin declares as a trait", names.join(", "))
            };
            return Err(GivenError::new("aggregate_unknown", "", format!("is no aggregate of a plugin; {hint}")));
        };
        let refused = |detail: String| Err(GivenError::new("aggregate_not_mergeable", "", detail));
        let (state, span) = match &self.readings()[index].source {
            Source::Sum { state, span } | Source::Summary { state, span } => (*state, *span),
            Source::Quantile { .. } | Source::Decayed { .. } | Source::DecayedSum { .. } | Source::Sessions { .. } => {
                return refused(
                    "its value does not say enough to go on from it with live events; leave it out, or send it as a trait".into(),
                );
            }
            _ => {
                return refused("is derived from other aggregates; give those, and it follows".into());
            }
        };
        let merge = self.merge(state);
        if span != Span::Lifetime {
            let lifetime = self.readings().iter().find(|reading| match reading.source {
                Source::Sum { state: of, span } | Source::Summary { state: of, span } => {
                    of == state && span == Span::Lifetime
                }
                _ => false,
            });
            let lifetime = lifetime.map_or_else(
                || "leave it out".to_owned(),
                |lifetime| format!("give the lifetime value, {}, and leave the window to the events", lifetime.name),
            );
            return refused(format!("is a window, and a total as of one instant cannot slide on from it; {lifetime}"));
        }
        match &merge.operator {
            Operator::Count
            | Operator::Sum
            | Operator::Min
            | Operator::Max
            | Operator::First(_)
            | Operator::Last(_)
            | Operator::SumByKey
            | Operator::CountByKey
            | Operator::Distinct
            | Operator::DistinctDays => Ok(merge),
            Operator::Mean => refused("a mean does not merge; give a sum and a count, and derive the mean".into()),
            _ => refused(
                "its value does not say enough to go on from it with live events; leave it out, or send it as a trait"
                    .into(),
            ),
        }
    }

    fn read_placed(&self, merge: &Merge, raw: &RawValue, as_of: Timestamp) -> Result<Amount, GivenError> {
        let named = raw.get().starts_with('{');
        if merge.kind == Kind::Instant && !named {
            // An instant that is given alone is its own place.
            let value = self.fixed(Kind::Instant, raw, "")?;
            return placed(value, Timestamp(value), CompactString::const_new(""), as_of, "");
        }
        let form =
            "is not {\"value\": …, \"at\": \"RFC 3339\"}: a first or last value needs the instant that it belongs to";
        let Ok(PlacedValue { value, at, key }) = serde_json::from_str(raw.get()) else {
            return Err(GivenError::new("wrong_type", "", form));
        };
        let at = Timestamp(self.fixed(Kind::Instant, at, "/at")?);
        if merge.kind == Kind::Key {
            return placed(0, at, key_of(value, "/value")?, as_of, "/at");
        }
        let key = key.map(|key| key_of(key, "/key")).transpose()?.unwrap_or_default();
        placed(self.fixed(merge.kind, value, "/value")?, at, key, as_of, "/at")
    }

    fn read_keyed(&self, merge: &Merge, raw: &RawValue) -> Result<Amount, GivenError> {
        let Ok(listed) = serde_json::from_str::<Vec<KeyedValue<'_>>>(raw.get()) else {
            return Err(GivenError::new("wrong_type", "", "is not a list of {\"key\": …, \"weight\": …}"));
        };
        if listed.len() > GIVEN_KEYS_MAX {
            let detail = format!("has {} keys; at most {GIVEN_KEYS_MAX} are taken, so send the heaviest", listed.len());
            return Err(GivenError::new("too_many", "", detail));
        }
        let mut sums = Vec::with_capacity(listed.len());
        for (index, KeyedValue { key, weight }) in listed.iter().enumerate() {
            let key = key_of(key, &format!("/{index}/key"))?;
            sums.push((key, self.fixed(merge.kind, weight, &format!("/{index}/weight"))?));
        }
        sums.sort_unstable();
        if let Some(twice) = sums.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let detail = format!("names the key {:?} twice", twice[0].0.as_str());
            return Err(GivenError::new("wrong_type", "", detail));
        }
        Ok(Amount::Keyed(sums))
    }

    fn read_days(&self, raw: &RawValue, as_of: Timestamp) -> Result<Amount, GivenError> {
        let form = "is not a list of days such as [\"2026-01-04\"]: the number alone does not say which ones were counted, so those of live events could not be added";
        let listed = listed::<Cow<'_, str>>(raw, form)?;
        let mut days = Vec::with_capacity(listed.len());
        for (index, text) in listed.iter().enumerate() {
            let pointer = format!("/{index}");
            let date: jiff::civil::Date = text
                .parse()
                .map_err(|_| GivenError::new("wrong_type", pointer.clone(), "is not a day such as 2026-01-04"))?;
            let days_since = date.since(jiff::civil::date(1970, 1, 1)).map(|span| i64::from(span.get_days()));
            let day = days_since.map_err(|_| GivenError::new("wrong_type", pointer.clone(), "is out of range"))?;
            if day > self.time().day(as_of) {
                let detail = format!("{date} is after the watermark {as_of}; a load holds nothing later than its asOf");
                return Err(GivenError::new("after_watermark", pointer, detail));
            }
            days.push(day);
        }
        days.sort_unstable();
        days.dedup();
        Ok(Amount::Days(days))
    }

    fn fixed(&self, kind: Kind, raw: &RawValue, pointer: &str) -> Result<i64, GivenError> {
        let read = Read { path: String::new(), kind, choices: Vec::new() };
        match read.cell(raw, self.time(), &mut Keys::default()) {
            Ok(Some(Cell::S64(value))) => Ok(value),
            Ok(_) => Err(GivenError::new("wrong_type", pointer, format!("is not a value of kind {}", kind.name()))),
            Err(expected) => Err(GivenError::new("wrong_type", pointer, expected)),
        }
    }

    /// The total that a given value stands for; none where its aggregate is declared otherwise now.
    pub(crate) fn given_total(&self, state: u16, given: &Given) -> Option<Total> {
        let merge = self.merge(state);
        if merge.kind != given.kind {
            return None;
        }
        Some(match (&merge.operator, &given.amount) {
            (Operator::Count | Operator::Sum, Amount::Single(value)) => Total::Sum(Some(i128::from(*value))),
            (Operator::Min | Operator::Max, Amount::Single(value)) => Total::Summary(Summary::Extreme(Some(*value))),
            (Operator::First(order) | Operator::Last(order), Amount::Placed(value, at, key)) => {
                let when = When { at: *at, day: self.time().day(*at), tie: 0, trusted: true };
                let placed = Placed { place: place(*order, key, &when), value: i128::from(*value) };
                Total::Summary(Summary::Placed(Some(placed)))
            }
            (Operator::SumByKey | Operator::CountByKey, Amount::Keyed(sums)) => {
                let mut keyed = Keyed::default();
                sums.iter().for_each(|(key, sum)| keyed.add(key, *sum));
                Total::Summary(Summary::Keyed(keyed))
            }
            (Operator::Distinct, Amount::Keys(keys)) => {
                let mut distinct = Distinct::default();
                keys.iter().for_each(|key| distinct.insert(key, HASHES_MAX));
                Total::Summary(Summary::Distinct(distinct))
            }
            (Operator::DistinctDays, Amount::Days(given)) => {
                let mut days = Days::default();
                given.iter().for_each(|day| days.insert(*day));
                Total::Summary(Summary::Days(days))
            }
            _ => return None,
        })
    }

    /// The total before any contribution.
    pub(crate) fn empty_total(&self, state: u16) -> Total {
        let merge = self.merge(state);
        match merge.operator {
            Operator::Count | Operator::Sum => Total::Sum(None),
            _ => Total::Summary(merge.empty_summary()),
        }
    }

    /// Puts a total in place of a state's; gives the one that was there. None where the state keeps none, or waits for its history.
    pub(crate) fn replace_total(&self, states: &mut [State], state: u16, total: Total) -> Option<Total> {
        match (states.get_mut(usize::from(state))?, total) {
            (State::Sum(summed), Total::Sum(total)) => {
                let before = summed.total();
                summed.set_total(total);
                Some(Total::Sum(before))
            }
            (State::Summary(summaries), Total::Summary(total)) if summaries.total().is_some() => {
                Some(Total::Summary(summaries.parts().0.replace(total)?))
            }
            _ => None,
        }
    }

    /// Merges a contribution into a total alone.
    pub(crate) fn apply_to_total(&self, total: &mut Total, contribution: &Contribution, when: &When) {
        let merge = self.merge(contribution.state);
        match total {
            Total::Sum(total) => {
                let amount = if merge.operator == Operator::Count { 1 } else { contribution.value };
                *total = Some(total.unwrap_or(0) + i128::from(amount));
            }
            // What may be given never fails to merge.
            Total::Summary(summary) => drop(merge.apply_to(summary, contribution, when, false)),
        }
    }

    /// Merges a contribution into its state's series alone.
    pub(crate) fn apply_to_series(&self, states: &mut [State], contribution: &Contribution, when: &When) -> Applied {
        let state = states.get_mut(usize::from(contribution.state));
        state.map_or(Applied::Well, |state| self.merge(contribution.state).apply_to_series(state, contribution, when))
    }

    /// Whether the totals of several profiles have a sum.
    pub fn adds_up(&self, name: &str) -> bool {
        let merge = self.lifetime_state(name).map(|state| &self.merge(state).operator);
        matches!(merge, Some(Operator::Count | Operator::Sum))
    }

    /// A total as a value; none where it is of another operator.
    pub fn total_value(&self, name: &str, total: &Total) -> Option<Value> {
        let index = self.find(name)?;
        let (state, kind) = (self.lifetime_state(name)?, self.readings()[index].kind);
        Some(match total {
            Total::Sum(total) => super::finish::scaled(kind, total.unwrap_or(0)),
            Total::Summary(summary) => super::finish::finish(self.merge(state), summary, kind),
        })
    }
}

fn placed(
    value: i64,
    at: Timestamp,
    key: CompactString,
    as_of: Timestamp,
    pointer: &str,
) -> Result<Amount, GivenError> {
    if at > as_of {
        let detail = format!("{at} is after the watermark {as_of}; a load holds nothing later than its asOf");
        return Err(GivenError::new("after_watermark", pointer, detail));
    }
    Ok(Amount::Placed(value, at, key))
}

/// The keys that were counted, each once.
fn read_keys(raw: &RawValue) -> Result<Amount, GivenError> {
    let form = "is not a list of keys such as [\"o-1\", \"o-2\"]: the number alone does not say which ones were counted, so those of live events could not be added";
    let listed = listed::<&RawValue>(raw, form)?;
    let keys = listed.iter().enumerate().map(|(index, raw)| key_of(raw, &format!("/{index}")));
    let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    keys.dedup();
    Ok(Amount::Keys(keys))
}

/// A list within its bound.
fn listed<'a, T: Deserialize<'a>>(raw: &'a RawValue, form: &str) -> Result<Vec<T>, GivenError> {
    let listed: Vec<T> = serde_json::from_str(raw.get()).map_err(|_| GivenError::new("wrong_type", "", form))?;
    if listed.len() > GIVEN_KEYS_MAX {
        let detail =
            format!("has {} entries; at most {GIVEN_KEYS_MAX} are taken: leave it to the events", listed.len());
        return Err(GivenError::new("too_many", "", detail));
    }
    Ok(listed)
}

fn key_of(raw: &RawValue, pointer: &str) -> Result<CompactString, GivenError> {
    let number = matches!(raw.get().as_bytes().first(), Some(b'-' | b'0'..=b'9')).then(|| raw.get().into());
    let text = text_of(raw).or(number);
    let fits = text.filter(|text| !text.is_empty() && text.len() <= limits::KEY_BYTES_MAX);
    fits.map(|text| CompactString::from(text.as_ref()))
        .ok_or_else(|| GivenError::new("wrong_type", pointer, "is not a text (or number) of 1 to 256 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Definition;
    use crate::time::BusinessTime;

    fn definitions() -> Definitions {
        let define = |name: &str, operator: &str, parameters: &[(&str, &str)], windows: &[&str], kind| {
            let parameters: Vec<_> =
                parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let windows: Vec<_> = windows.iter().map(|window| (*window).to_owned()).collect();
            Definition::parse(name, operator, &parameters, &windows, kind, None).expect("a good definition")
        };
        let mut definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        let all = [
            define("orders", "count", &[], &[], Kind::Integer),
            define("revenue", "sum", &[], &["lifetime", "7d"], Kind::Decimal),
            define("skus", "distinct", &[], &[], Kind::Integer),
            define("days", "distinct-days", &[], &[], Kind::Integer),
            define("mean", "mean", &[], &[], Kind::Decimal),
            define("last", "last", &[], &[], Kind::Decimal),
            define("last_at", "last", &[], &[], Kind::Instant),
            define("store", "last", &[], &[], Kind::Key),
            define("units", "sum-by-key", &[], &[], Kind::Integer),
            define("average", "ratio", &[("of", "revenue"), ("per", "orders")], &[], Kind::Decimal),
            define("week", "sum", &[], &["7d"], Kind::Integer),
        ];
        definitions.add("shop", &all, None).expect("good definitions");
        definitions
    }

    fn read(name: &str, json: &str) -> Result<Option<Given>, GivenError> {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        definitions().read_given(name, &raw, Timestamp(1_000_000))
    }

    #[test]
    fn what_is_given_comes_back_as_its_value() {
        let shown = |name: &str, json: &str| {
            let definitions = definitions();
            let given = read(name, json).expect("a good value").expect("a value");
            let state = definitions.lifetime_state(name).expect("a state");
            let total = definitions.given_total(state, &given).expect("a total");
            serde_json::to_string(&definitions.total_value(name, &total)).expect("JSON")
        };
        assert_eq!(shown("shop.orders", "34"), "34");
        assert_eq!(shown("shop.revenue", "\"139.12\""), "139.12");
        assert_eq!(shown("shop.last", r#"{"value": 12.5, "at": "1970-01-01T00:00:01Z"}"#), "12.5");
        assert_eq!(shown("shop.last_at", "\"1970-01-01T00:00:01Z\""), "\"1970-01-01T00:00:01Z\"");
        assert_eq!(shown("shop.store", r#"{"value": "Leeds", "at": "1970-01-01T00:00:01Z"}"#), "\"Leeds\"");
        assert_eq!(
            shown("shop.units", r#"[{"key": "a", "weight": 2}, {"key": 7, "weight": 5}]"#),
            r#"[{"key":"7","weight":5},{"key":"a","weight":2}]"#
        );
        assert_eq!(shown("shop.skus", r#"["a", 7, "a"]"#), "2");
        assert_eq!(shown("shop.days", r#"["1969-12-31", "1970-01-01"]"#), "2");
        assert_eq!(read("shop.orders", "null"), Ok(None));
    }

    #[test]
    fn what_cannot_be_given_names_the_mend() {
        let fault = |name: &str, json: &str| {
            let error = read(name, json).expect_err("a fault");
            (error.code, error.pointer, error.detail)
        };
        let says = |(code, pointer, detail): (&str, String, String), wanted: (&str, &str, &str)| {
            assert!(code == wanted.0 && pointer == wanted.1 && detail.contains(wanted.2), "{code} {pointer} {detail}");
        };
        says(fault("shop.order", "1"), ("aggregate_unknown", "", "shop.orders"));
        says(fault("shop.revenue_7d", "1"), ("aggregate_not_mergeable", "", "shop.revenue,"));
        says(fault("shop.week_7d", "1"), ("aggregate_not_mergeable", "", "leave it out"));
        says(fault("shop.skus", "1"), ("wrong_type", "", "which ones"));
        says(fault("shop.skus", "[1, true]"), ("wrong_type", "/1", "text"));
        says(fault("shop.days", "4"), ("wrong_type", "", "which ones"));
        says(fault("shop.days", "[\"1970-01-01\", \"1970-13-01\"]"), ("wrong_type", "/1", "a day"));
        says(fault("shop.days", "[\"1970-01-02\"]"), ("after_watermark", "/0", "watermark"));
        says(fault("shop.mean", "1"), ("aggregate_not_mergeable", "", "a sum and a count"));
        says(fault("shop.average", "1"), ("aggregate_not_mergeable", "", "derived"));
        says(fault("shop.orders", "1.5"), ("wrong_type", "", "whole number"));
        says(fault("shop.orders", "-1"), ("wrong_type", "", "negative"));
        says(fault("shop.revenue", "true"), ("wrong_type", "", "decimal"));
        says(fault("shop.last", "12"), ("wrong_type", "", "\"at\""));
        let late = r#"{"value": 1, "at": "2000-01-01T00:00:00Z"}"#;
        says(fault("shop.last", late), ("after_watermark", "/at", "watermark"));
        says(fault("shop.last_at", "\"2000-01-01T00:00:00Z\""), ("after_watermark", "", "watermark"));
        says(fault("shop.units", r#"[{"key": "a", "weight": "x"}]"#), ("wrong_type", "/0/weight", "whole number"));
        let twice = r#"[{"key": "a", "weight": 1}, {"key": "a", "weight": 2}]"#;
        says(fault("shop.units", twice), ("wrong_type", "", "twice"));
    }
}
