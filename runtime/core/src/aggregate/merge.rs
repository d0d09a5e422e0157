//! Merging: how contributions and summaries of one aggregate come together.

use std::sync::Arc;

use compact_str::CompactString;

use super::by_key::ByKey;
use super::custom::CustomOperators;
use super::distinct::{self, Days, Distinct};
use super::keyed::Keyed;
use super::operator::{Operator, Order};
use super::quantiles::Quantiles;
use super::recent::{Recent, Several};
use super::series::Need;
use super::state::{Applied, Contribution, Placed, State, Summarised, Summed, When};
use super::summary::Summary;
use crate::shared::Shared;
use crate::value::Kind;

/// How the state of one stored aggregate merges.
#[derive(Clone, Debug)]
pub(crate) struct Merge {
    pub(crate) operator: Operator,
    /// The kind of what is contributed.
    pub(crate) kind: Kind,
    /// What windows need of the past.
    pub(crate) need: Need,
    /// Whether anything reads its lifetime.
    pub(crate) lifetime: bool,
    /// Of a plugin's own operator: its functions, and the aggregate's position in its declarations.
    pub(crate) custom: Option<(Arc<dyn CustomOperators>, u32)>,
    /// Of an operator by key: how each key's summary merges.
    of_key: Option<Box<Merge>>,
}

impl Merge {
    /// How an operator merges, before anything is known of its windows.
    pub(crate) fn new(operator: Operator, kind: Kind, custom: Option<(Arc<dyn CustomOperators>, u32)>) -> Self {
        let of_key = match &operator {
            Operator::ByKey(of) => Some(Box::new(Self::new(Operator::clone(of), kind, None))),
            _ => None,
        };
        Self { operator, kind, need: Need::default(), lifetime: false, custom, of_key }
    }

    /// The state before any contribution.
    pub(crate) fn empty(&self) -> State {
        match self.operator {
            Operator::Count | Operator::Sum => State::Sum(Summed::default()),
            Operator::DecayedSum { .. } | Operator::DecayedSumByKey { .. } => State::Decayed(Shared::default()),
            Operator::Sessions { .. } => State::Sessions(Shared::default()),
            _ => State::Summary(Summarised::new(self.lifetime.then(|| self.empty_summary()))),
        }
    }

    /// Merges one contribution into a state. A state of another operator is left alone: the fold is built so that it cannot occur.
    pub(crate) fn apply(&self, state: &mut State, contribution: &Contribution, when: &When) -> Applied {
        let value = contribution.value;
        match (state, &self.operator) {
            (State::Sum(summed), operator) => {
                let amount = if *operator == Operator::Count { 1 } else { value };
                summed.add(amount.into());
                if !self.need.none() {
                    summed.series_mut().insert(when, amount, self.need);
                }
                Applied::Well
            }
            (State::Summary(summaries), _) => {
                let (total, series) = summaries.parts();
                let mut applied = total.as_mut().is_none_or(|total| self.apply_to(total, contribution, when, false));
                // What counts in one counts in the other.
                if applied && !self.need.none() {
                    applied = series.get_or_insert_default().insert(self, contribution, when);
                }
                if applied { Applied::Well } else { Applied::Failed }
            }
            (
                State::Decayed(decayed),
                Operator::DecayedSum { half_life_ms } | Operator::DecayedSumByKey { half_life_ms },
            ) => {
                decayed.add(&contribution.key, value, when.at.0, *half_life_ms);
                Applied::Well
            }
            (State::Sessions(sessions), Operator::Sessions { gap_ms }) => match sessions.add(when.at.0, *gap_ms) {
                true => Applied::Well,
                false if when.trusted => Applied::Late,
                false => {
                    sessions.count_late(when.at.0, *gap_ms);
                    Applied::Well
                }
            },
            (State::Decayed(_) | State::Sessions(_) | State::Backfilling, _) => Applied::Well,
        }
    }

    /// Merges one contribution into a state's series alone: its total has it already.
    pub(crate) fn apply_to_series(&self, state: &mut State, contribution: &Contribution, when: &When) -> Applied {
        if self.need.none() {
            return Applied::Well;
        }
        match state {
            State::Sum(summed) => {
                let amount = if self.operator == Operator::Count { 1 } else { contribution.value };
                summed.series_mut().insert(when, amount, self.need);
                Applied::Well
            }
            State::Summary(summaries) => {
                if summaries.parts().1.get_or_insert_default().insert(self, contribution, when) {
                    Applied::Well
                } else {
                    Applied::Failed
                }
            }
            State::Decayed(_) | State::Sessions(_) | State::Backfilling => Applied::Well,
        }
    }

    /// Takes in the state of another history: what folding the contributions of both gives, as far as both are exact. False where a
    /// plugin's own operator failed.
    pub(crate) fn join(&self, state: &mut State, other: &State) -> bool {
        match (state, other) {
            (state @ State::Backfilling, _) | (state, State::Backfilling) => *state = State::Backfilling,
            (State::Sum(summed), State::Sum(other)) => {
                if let Some(total) = other.total() {
                    summed.add(total);
                    if !self.need.none() {
                        summed.series_mut().join(other.series(), self.need);
                    }
                }
            }
            (State::Summary(summaries), State::Summary(other)) if !other.is_empty() => {
                let (total, series) = summaries.parts();
                let total = total.as_mut().zip(other.total());
                let joined = total.is_none_or(|(total, other)| self.join_to(total, other, false));
                return joined & other.series().is_none_or(|other| series.get_or_insert_default().join(self, other));
            }
            (State::Decayed(held), State::Decayed(other)) => {
                if let Operator::DecayedSum { half_life_ms } | Operator::DecayedSumByKey { half_life_ms } =
                    self.operator
                {
                    held.join(other, half_life_ms);
                }
            }
            (State::Sessions(held), State::Sessions(other)) => {
                if let Operator::Sessions { gap_ms } = self.operator {
                    held.join(other, gap_ms);
                }
            }
            // Nothing there, or a state of another operator, which the fold cannot give.
            _ => {}
        }
        true
    }

    /// The summary before any contribution.
    pub(crate) fn empty_summary(&self) -> Summary {
        match &self.operator {
            Operator::Min | Operator::Max => Summary::Extreme(None),
            Operator::First(_) | Operator::Last(_) => Summary::Placed(None),
            Operator::FirstK { .. } | Operator::LastK { .. } => Summary::Several(Several::default()),
            Operator::Distinct => Summary::Distinct(Distinct::default()),
            Operator::DistinctDays => Summary::Days(Days::default()),
            Operator::Unique { .. } => Summary::Recent(Recent::default()),
            Operator::Histogram { bounds } => Summary::Histogram(vec![0; bounds.len() + 1]),
            Operator::Quantile { .. } => Summary::Quantiles(Quantiles::default()),
            Operator::SumByKey | Operator::CountByKey => Summary::Keyed(Keyed::default()),
            Operator::ByKey(_) => Summary::ByKey(ByKey::default()),
            Operator::Custom => Summary::Custom(
                self.custom.as_ref().map_or_else(Vec::new, |(custom, aggregate)| custom.init(*aggregate)),
            ),
            // Of all others that are stored in summaries at all.
            _ => Summary::Moments(Box::default()),
        }
    }

    /// Merges one contribution into a summary, of which a series holds many where `one_of_many`. False where a plugin's own operator failed.
    pub(crate) fn apply_to(
        &self,
        summary: &mut Summary,
        contribution: &Contribution,
        when: &When,
        one_of_many: bool,
    ) -> bool {
        let (value, key) = (contribution.value, &contribution.key);
        match (summary, &self.operator) {
            (Summary::Moments(moments), _) => moments.add(value),
            (Summary::Extreme(held), operator) => merge_extreme(held, value, *operator == Operator::Min),
            (Summary::Placed(held), Operator::First(order) | Operator::Last(order)) => {
                let placed = Placed { place: place(*order, key, when), value: i128::from(value) };
                self.merge_placed(held, &placed);
            }
            (Summary::Several(held), Operator::FirstK { count }) => {
                held.add((when.at.0, key.clone(), value), *count, false)
            }
            (Summary::Several(held), Operator::LastK { count }) => {
                held.add((when.at.0, key.clone(), value), *count, true)
            }
            (Summary::Distinct(distinct), _) => distinct.insert(key, hashes_max(one_of_many)),
            (Summary::Days(days), _) => days.insert(when.day),
            (Summary::Recent(recent), Operator::Unique { count }) => recent.see(key, when.at.0, *count),
            (Summary::Histogram(counts), Operator::Histogram { bounds }) => {
                counts[bounds.partition_point(|bound| *bound < value)] += 1;
            }
            (Summary::Quantiles(quantiles), _) => quantiles.add(value),
            (Summary::Keyed(keyed), operator) => {
                keyed.add(key, if *operator == Operator::CountByKey { 1 } else { value })
            }
            (Summary::ByKey(by_key), _) => {
                if let Some(of) = &self.of_key {
                    by_key.add(of, contribution, when);
                }
            }
            (Summary::Custom(held), _) => {
                let Some((custom, aggregate)) = &self.custom else { return false };
                match custom.update(*aggregate, held, key, value) {
                    Ok(updated) => *held = updated,
                    Err(_) => return false,
                }
            }
            (Summary::Placed(_) | Summary::Several(_) | Summary::Recent(_) | Summary::Histogram(_), _) => {}
        }
        true
    }

    /// Takes in the summary of other contributions. False where a plugin's own operator failed.
    pub(crate) fn join_to(&self, summary: &mut Summary, other: &Summary, one_of_many: bool) -> bool {
        match (summary, other) {
            (Summary::Moments(held), Summary::Moments(other)) => held.join(other),
            (Summary::Extreme(held), Summary::Extreme(Some(other))) => {
                merge_extreme(held, *other, self.operator == Operator::Min);
            }
            (Summary::Placed(held), Summary::Placed(Some(other))) => {
                self.merge_placed(held, other);
            }
            (Summary::Several(held), Summary::Several(other)) => match self.operator {
                Operator::FirstK { count } => held.join(other, count, false),
                Operator::LastK { count } => held.join(other, count, true),
                _ => {}
            },
            (Summary::Distinct(held), Summary::Distinct(other)) => held.join(other, hashes_max(one_of_many)),
            (Summary::Days(held), Summary::Days(other)) => held.join(other),
            (Summary::Recent(held), Summary::Recent(other)) => {
                if let Operator::Unique { count } = self.operator {
                    held.join(other, count);
                }
            }
            (Summary::Histogram(held), Summary::Histogram(other)) => {
                held.iter_mut().zip(other).for_each(|(held, other)| *held += other);
            }
            (Summary::Quantiles(held), Summary::Quantiles(other)) => held.join(other),
            (Summary::Keyed(held), Summary::Keyed(other)) => held.join(other),
            (Summary::ByKey(held), Summary::ByKey(other)) => {
                if let Some(of) = &self.of_key {
                    held.join(of, other);
                }
            }
            (Summary::Custom(held), Summary::Custom(other)) => {
                let Some((custom, aggregate)) = &self.custom else { return false };
                match custom.merge(*aggregate, &[held, other]) {
                    Ok(merged) => *held = merged,
                    Err(_) => return false,
                }
            }
            // Nothing there, or a summary of another operator, which the fold cannot give.
            _ => {}
        }
        true
    }

    /// Many summaries of a plugin's own operator, merged in one call; none of any other, or where that failed.
    pub(crate) fn join_own<'s>(&self, summaries: &[&'s Summary]) -> Option<Summary> {
        let (custom, aggregate) = self.custom.as_ref()?;
        let state = |summary: &&'s Summary| match summary {
            Summary::Custom(state) => Some(state.as_slice()),
            _ => None,
        };
        let states: Vec<&[u8]> = summaries.iter().map(state).collect::<Option<_>>()?;
        custom.merge(*aggregate, &states).ok().map(Summary::Custom)
    }

    /// Values at one place add up; of instants, which have no sum, the outer one stands.
    fn merge_placed(&self, held: &mut Option<Placed>, other: &Placed) {
        let last = matches!(self.operator, Operator::Last(_));
        match held {
            Some(held) if held.place == other.place => {
                held.value = match (self.kind, last) {
                    (Kind::Instant, true) => held.value.max(other.value),
                    (Kind::Instant, false) => held.value.min(other.value),
                    _ => held.value + other.value,
                };
            }
            Some(held) if (other.place > held.place) != last => {}
            _ => *held = Some(other.clone()),
        }
    }

    /// Of an operator by key: how each key's summary merges.
    pub(crate) fn of_key(&self) -> Option<&Merge> {
        self.of_key.as_deref()
    }
}

fn hashes_max(one_of_many: bool) -> usize {
    if one_of_many { distinct::HASHES_IN_SERIES_MAX } else { distinct::HASHES_MAX }
}

fn merge_extreme(held: &mut Option<i64>, value: i64, smallest: bool) {
    *held = Some(held.map_or(value, |held| if smallest { held.min(value) } else { held.max(value) }));
}

pub(crate) fn place(order: Order, key: &CompactString, when: &When) -> (i64, CompactString) {
    match order {
        Order::Instant => (when.at.0, key.clone()),
        Order::Day => (when.day, CompactString::const_new("")),
    }
}
