//! The stored state of one aggregate, and how a contribution is merged into it.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::decay::Decayed;
use super::distinct::{Days, Distinct};
use super::heap_bytes;
use super::keyed::Keyed;
use super::operator::{Operator, Order};
use super::series::Series;
use crate::value::Timestamp;

/// What one event adds to one aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// The position of the stored state in [`Definitions`](super::Definitions).
    pub state: u16,
    /// The key, where the operator takes one; else empty.
    pub key: CompactString,
    /// The amount in the representation of the aggregate's kind.
    pub value: i64,
}

/// When the contributing event happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When {
    pub(crate) at: Timestamp,
    pub(crate) day: i64,
}

/// A value with its place in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub(crate) place: (i64, CompactString),
    pub(crate) value: i128,
}

/// The stored state of one aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(private_interfaces)] // the variants' insides stay within this module
pub enum State {
    /// Of count and sum.
    Sum {
        /// The lifetime sum; present once there was a contribution.
        total: Option<i128>,
        /// Amounts by time, where a window needs them.
        series: Series,
    },
    /// Of min and max.
    Extreme(Option<i64>),
    /// Of first and last.
    Placed(Option<Placed>),
    /// Of distinct.
    Distinct(Distinct),
    /// Of distinct-days.
    Days(Days),
    /// Of sum-by-key.
    Keyed(Keyed),
    /// Of decayed-sum-by-key.
    Decayed(Decayed),
    /// Of any operator, as long as the history has not been folded under its definition: it takes nothing in and says nothing.
    Backfilling,
}

/// How a state merges: the operator and what it needs to know of its windows.
#[derive(Clone, Debug)]
pub(crate) struct Merge {
    pub(crate) operator: Operator,
    pub(crate) reach_ms: i64,
}

impl Merge {
    /// The state before any contribution; none for a derived aggregate.
    pub(crate) fn empty(&self) -> Option<State> {
        Some(match self.operator {
            Operator::Count | Operator::Sum => State::Sum { total: None, series: Series::default() },
            Operator::Min | Operator::Max => State::Extreme(None),
            Operator::First(_) | Operator::Last(_) => State::Placed(None),
            Operator::Distinct => State::Distinct(Distinct::default()),
            Operator::DistinctDays => State::Days(Days::default()),
            Operator::SumByKey => State::Keyed(Keyed::default()),
            Operator::DecayedSumByKey { .. } => State::Decayed(Decayed::default()),
            _ => return None,
        })
    }

    /// Takes in the state of another history: what folding the contributions of both gives, as far as both are exact.
    pub(crate) fn join(&self, state: &mut State, other: &State) {
        match (state, other, &self.operator) {
            (state, State::Backfilling, _) => *state = State::Backfilling,
            (State::Sum { total, series }, State::Sum { total: Some(other), series: amounts }, _) => {
                *total = Some(total.unwrap_or(0) + other);
                series.join(amounts, self.reach_ms);
            }
            (State::Extreme(held), State::Extreme(Some(other)), Operator::Min) => {
                *held = Some(held.map_or(*other, |held| held.min(*other)));
            }
            (State::Extreme(held), State::Extreme(Some(other)), _) => {
                *held = Some(held.map_or(*other, |held| held.max(*other)));
            }
            (State::Placed(held), State::Placed(Some(Placed { place, value })), Operator::First(_)) => {
                merge_placed(held, place.clone(), *value, |new, old| new < old);
            }
            (State::Placed(held), State::Placed(Some(Placed { place, value })), _) => {
                merge_placed(held, place.clone(), *value, |new, old| new > old);
            }
            (State::Distinct(held), State::Distinct(other), _) => held.join(other),
            (State::Days(held), State::Days(other), _) => held.join(other),
            (State::Keyed(held), State::Keyed(other), _) => held.join(other),
            (State::Decayed(held), State::Decayed(other), Operator::DecayedSumByKey { half_life_ms }) => {
                held.join(other, *half_life_ms);
            }
            // Nothing there, or a state of another operator, which the fold cannot give.
            _ => {}
        }
    }

    /// Merges one contribution. A state of another operator is left alone: the fold is built so that it cannot occur.
    pub(crate) fn apply(&self, state: &mut State, contribution: &Contribution, when: When) {
        let value = contribution.value;
        match (state, &self.operator) {
            (State::Sum { total, series }, operator) => {
                let amount = if *operator == Operator::Count { 1 } else { value };
                *total = Some(total.unwrap_or(0) + i128::from(amount));
                if self.reach_ms > 0 {
                    series.insert(when.at.0, amount, self.reach_ms);
                }
            }
            (State::Extreme(extreme), Operator::Min) => *extreme = Some(extreme.map_or(value, |held| held.min(value))),
            (State::Extreme(extreme), _) => *extreme = Some(extreme.map_or(value, |held| held.max(value))),
            (State::Placed(held), Operator::First(order)) => {
                merge_placed(held, place(*order, contribution, when), i128::from(value), |new, old| new < old);
            }
            (State::Placed(held), Operator::Last(order)) => {
                merge_placed(held, place(*order, contribution, when), i128::from(value), |new, old| new > old);
            }
            (State::Distinct(distinct), _) => distinct.insert(&contribution.key),
            (State::Days(days), _) => days.insert(when.day),
            (State::Keyed(keyed), _) => keyed.add(&contribution.key, value),
            (State::Decayed(decayed), Operator::DecayedSumByKey { half_life_ms }) => {
                decayed.add(&contribution.key, value, when.at.0, *half_life_ms);
            }
            (State::Placed(_) | State::Decayed(_) | State::Backfilling, _) => {}
        }
    }
}

impl State {
    /// Heap bytes, about; for the cache's budget.
    pub fn weight(&self) -> usize {
        match self {
            Self::Sum { series, .. } => series.weight(),
            Self::Extreme(_) | Self::Backfilling => 0,
            Self::Placed(placed) => placed.as_ref().map_or(0, |placed| heap_bytes(&placed.place.1)),
            Self::Distinct(distinct) => distinct.weight(),
            Self::Days(days) => days.weight(),
            Self::Keyed(keyed) => keyed.weight(),
            Self::Decayed(decayed) => decayed.weight(),
        }
    }
}

type Place = (i64, CompactString);

fn place(order: Order, contribution: &Contribution, when: When) -> Place {
    match order {
        Order::Instant => (when.at.0, contribution.key.clone()),
        Order::Day => (when.day, CompactString::const_new("")),
    }
}

fn merge_placed(held: &mut Option<Placed>, place: Place, value: i128, wins: impl Fn(&Place, &Place) -> bool) {
    match held {
        Some(held) if held.place == place => held.value += value,
        Some(held) if !wins(&place, &held.place) => {}
        _ => *held = Some(Placed { place, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(contributions: &[(i64, &str, i64)]) -> Option<i128> {
        let merge = Merge { operator: Operator::Last(Order::Instant), reach_ms: 0 };
        let mut state = merge.empty().expect("a stored operator");
        for (at, key, value) in contributions {
            let contribution = Contribution { state: 0, key: (*key).into(), value: *value };
            merge.apply(&mut state, &contribution, When { at: Timestamp(*at), day: 0 });
        }
        match state {
            State::Placed(held) => held.map(|held| held.value),
            other => panic!("{other:?} is not a placed value"),
        }
    }

    #[test]
    fn the_last_value_breaks_ties_by_key_and_adds_up_equal_places() {
        assert_eq!(last(&[]), None);
        assert_eq!(last(&[(2, "b", 5), (1, "c", 7), (2, "a", 9)]), Some(5));
        assert_eq!(last(&[(2, "a", 5), (2, "b", 7), (2, "a", 9)]), Some(7));
        assert_eq!(last(&[(2, "a", 5), (2, "a", 9), (1, "z", 1)]), Some(14));
    }
}
