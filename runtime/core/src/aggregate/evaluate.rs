//! Evaluation: what a reading says at an instant.

use std::borrow::Cow;

use super::definitions::Definitions;
use super::exactness::{Exactness, Off};
use super::finish::{Scalar, distance, finish, of_key, scaled, weights};
use super::keyed::Keyed;
use super::merge::Merge;
use super::operator::{Operator, SessionValue, Trend};
use super::reading::{Reading, Source, Span};
use super::series::Range;
use super::state::State;
use super::summary::Summary;
use super::sums::Sum;
use super::value::{Number, Read, Value, Weight};
use super::window::Window;
use crate::time::Moment;
use crate::value::{Kind, Timestamp, divide_half_even};

/// What of a state a window takes in.
pub(super) enum Extent {
    All,
    Part(Range),
    /// Of a session that may have begun before it is known to have, or longer ago than is kept.
    Unsure(Range),
}

/// A window that has no beginning: the reading has no value.
pub(super) enum Nowhere {
    /// The visitor lacks the trait that it hangs on.
    Absent,
    Backfilling,
}

impl From<Nowhere> for Read {
    fn from(nowhere: Nowhere) -> Self {
        match nowhere {
            Nowhere::Absent => Self::absent(),
            Nowhere::Backfilling => Self::backfilling(),
        }
    }
}

/// What a window takes in, merged.
struct Merged<'s> {
    inside: Cow<'s, Summary>,
    /// What lies inside in part, if anything does.
    astride: Option<Summary>,
    /// Whether something was forgotten or a plugin's own merge failed.
    damaged: bool,
}

impl Definitions {
    /// Evaluates a reading at an instant.
    ///
    /// The states must be those of a fold up to that instant: a reading looks at an event's time only through its window.
    pub fn evaluate(&self, reading: &Reading, states: &[State], moment: &Moment) -> Read {
        self.read(reading, states, moment).unwrap_or_else(Read::from)
    }

    /// The value of a reading that is a single number, without how exact it is: what a plugin's columns take. None for any other reading.
    #[inline]
    pub fn number(&self, reading: &Reading, states: &[State], moment: &Moment) -> Option<Number> {
        let fixed = |value: i128| i64::try_from(value).map_or(Number::Absent, Number::Fixed);
        let scalar = |scalar: Option<Scalar>| match scalar {
            None => Number::Absent,
            Some(Scalar::Fixed(value)) => fixed(value),
            Some(Scalar::Number(value)) => Number::Float(value),
        };
        match &reading.source {
            Source::Sum { state, span } => {
                Some(self.sum(*state, *span, states, moment).map_or(Number::Absent, |sum| fixed(sum.value)))
            }
            Source::Summary { state, span: Span::Lifetime } => match states.get(usize::from(*state)) {
                Some(State::Summary(summaries)) => match summaries.total()? {
                    Summary::Distinct(distinct) => Some(fixed(distinct.count().into())),
                    Summary::Days(days) => Some(fixed(days.count().into())),
                    summary @ (Summary::Moments(_) | Summary::Extreme(_) | Summary::Placed(_))
                        if reading.kind != Kind::Key =>
                    {
                        Some(scalar(of_key(self.merge(*state), summary)))
                    }
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// Until when [`Self::number`] of a reading stays as it is at an instant, as long as nothing is folded: the first instant at which it may differ. None where
    /// that is not known.
    pub fn same_until(&self, reading: &Reading, states: &[State], moment: &Moment) -> Option<Timestamp> {
        let for_ever = Some(Timestamp(i64::MAX));
        match &reading.source {
            Source::Sum { span: Span::Lifetime | Span::Last(_), .. } | Source::Summary { span: Span::Lifetime, .. } => {
                for_ever
            }
            Source::Sum { state, span: Span::Sliding(width_ms) } => match states.get(usize::from(*state)) {
                Some(State::Sum(summed)) => {
                    let series = summed.series();
                    Some(Timestamp(series.same_until(moment.at.0.saturating_sub(*width_ms)).saturating_add(*width_ms)))
                }
                _ => for_ever,
            },
            _ => None,
        }
    }

    fn read(&self, reading: &Reading, states: &[State], moment: &Moment) -> Result<Read, Nowhere> {
        let at = moment.at.0;
        let read = |value, exactness| Ok(Read { value, exactness });
        match &reading.source {
            Source::Sum { state, span } => {
                let sum = self.sum(*state, *span, states, moment)?;
                read(scaled(reading.kind, sum.value), sum.exactness())
            }
            Source::Summary { state, span } => {
                let (merge, merged) = (self.merge(*state), self.merged(*state, *span, states, moment)?);
                let value = finish(merge, &merged.inside, reading.kind);
                read(value, exactness(merge, &merged, 0))
            }
            Source::Quantile { state, span, q_millionths } => {
                let (merge, merged) = (self.merge(*state), self.merged(*state, *span, states, moment)?);
                let Summary::Quantiles(quantiles) = &*merged.inside else { return Ok(Read::absent()) };
                let value = quantiles.quantile(*q_millionths, 0, 0).map(i128::from);
                read(
                    value.map_or(Value::Absent, |value| scaled(reading.kind, value)),
                    exactness(merge, &merged, *q_millionths),
                )
            }
            Source::Sessions { state, span } => {
                let (after, until) = match self.extent(*span, states, moment)? {
                    Extent::All => (i64::MIN, i64::MAX),
                    Extent::Part(Range::Between(after, until)) => (after, until),
                    Extent::Part(Range::Last(_)) | Extent::Unsure(_) => return Ok(Read::absent()),
                };
                let State::Sessions(sessions) = held(states, *state)? else { return Ok(Read::absent()) };
                let (count, off) = sessions.began_within(after, until);
                read(Value::Integer(i128::from(count)), Exactness::within(i128::from(off)))
            }
            Source::Decayed { state, half_life_ms } => {
                let State::Decayed(decayed) = held(states, *state)? else { return Ok(Read::absent()) };
                let off = decayed.off().map_or(Exactness::Exact, |off| Exactness::Off(Off::Number(off)));
                read(Value::Numbers(decayed.all(at, *half_life_ms)), off)
            }
            Source::DecayedSum { state, half_life_ms } => {
                let State::Decayed(decayed) = held(states, *state)? else { return Ok(Read::absent()) };
                Ok(Read::exact(Value::Number(decayed.get("", at, *half_life_ms))))
            }
            Source::Ratio { of, per, scale, decimals, span } => {
                let (of, per) = (self.sum(*of, *span, states, moment)?, self.count(*per, *span, states, moment)?);
                read(ratio(of.value * scale, per.0, *decimals), of_quotient(of.exactness(), per.1))
            }
            Source::Since { of, unit_ms } => {
                let since = instant(held(states, *of)?).map(|since| at.saturating_sub(since).div_euclid(*unit_ms));
                Ok(Read::exact(since.map_or(Value::Absent, |units| Value::Integer(i128::from(units)))))
            }
            Source::CalendarDaysSince { of } => {
                let days = instant(held(states, *of)?).map(|since| moment.day - self.time().day(Timestamp(since)));
                Ok(Read::exact(days.map_or(Value::Absent, |days| Value::Integer(i128::from(days)))))
            }
            Source::KeyCount { of, span } => {
                let merged = self.merged(*of, *span, states, moment)?;
                let (count, off) = match &*merged.inside {
                    Summary::Keyed(keyed) => (keyed.len(), Exactness::within(i128::from(keyed.keys_off()))),
                    Summary::ByKey(by_key) if by_key.exact() => (by_key.len(), Exactness::Exact),
                    Summary::ByKey(by_key) => (by_key.len(), Exactness::Off(Off::Unknown)),
                    _ => return Ok(Read::absent()),
                };
                read(Value::Integer(count as i128), off.and(edge(&merged)))
            }
            Source::Difference { of, less, span } => {
                let (of, less) = (self.merged(*of, *span, states, moment)?, self.merged(*less, *span, states, moment)?);
                let (Summary::Keyed(kept), Summary::Keyed(taken)) = (&*of.inside, &*less.inside) else {
                    return Ok(Read::absent());
                };
                let (list, saturated) = kept.less(taken);
                let off = if saturated { Exactness::Off(Off::Unknown) } else { keyed_off(kept).and(keyed_off(taken)) };
                read(weights(reading.kind, list), off.and(edge(&of)).and(edge(&less)))
            }
            Source::Top { of, count, span } => {
                let merged = self.merged(*of, *span, states, moment)?;
                let Summary::Keyed(keyed) = &*merged.inside else { return Ok(Read::absent()) };
                read(weights(reading.kind, keyed.top(*count)), keyed_off(keyed).and(edge(&merged)))
            }
            Source::Frequent { of, most, span } => {
                let merged = self.merged(*of, *span, states, moment)?;
                let Summary::Keyed(keyed) = &*merged.inside else { return Ok(Read::absent()) };
                let found = if *most {
                    keyed.iter().reduce(|one, other| if other.1 > one.1 { other } else { one })
                } else {
                    keyed.iter().reduce(|one, other| if other.1 < one.1 { other } else { one })
                };
                let value = found.map_or(Value::Absent, |(key, _)| Value::Text(key.clone()));
                let off = if keyed_off(keyed).is_exact() { Exactness::Exact } else { Exactness::Off(Off::Unknown) };
                read(value, off.and(edge(&merged)))
            }
            Source::DayStreak { of, longest } => match held(states, *of)? {
                State::Summary(summaries) => {
                    let Some(Summary::Days(days)) = summaries.total() else { return Ok(Read::absent()) };
                    let (longest_run, current) = days.runs(moment.day);
                    Ok(Read::exact(Value::Integer(i128::from(if *longest { longest_run } else { current }))))
                }
                _ => Ok(Read::absent()),
            },
            Source::Session { of, gap_ms, what } => {
                let State::Sessions(sessions) = held(states, *of)? else { return Ok(Read::absent()) };
                let Some(session) = sessions.current(at, *gap_ms) else { return Ok(Read::absent()) };
                let whole = sessions.whole(&session, *gap_ms);
                let exactness = if whole { Exactness::Exact } else { Exactness::Off(Off::Unknown) };
                let value = match what {
                    SessionValue::StartedAt => Value::Instant(Timestamp(session.began)),
                    SessionValue::Events => Value::Integer(i128::from(session.events)),
                    SessionValue::Seconds => {
                        Value::Integer(i128::from((session.ended - session.began).div_euclid(1000)))
                    }
                };
                read(value, exactness)
            }
            Source::Trend { of, width_ms, trend, scale } => {
                let State::Sum(summed) = held(states, *of)? else { return Ok(Read::absent()) };
                let series = summed.series();
                let within = |from: i64, until: i64| series.sum(Range::Between(at - from, at.saturating_sub(until)));
                let newest = |width: i64| series.sum(Range::Between(at - width, i64::MAX));
                let (value, off) = movement(*trend, *width_ms, *scale, newest, within);
                let off = if off { Exactness::Off(Off::Unknown) } else { Exactness::Exact };
                read(value.filter(|value| value.is_finite()).map_or(Value::Absent, Value::Number), off)
            }
        }
    }

    /// The weight of one key of a keyed reading; none for a reading without keys.
    pub fn weight(&self, reading: &Reading, states: &[State], key: &str, moment: &Moment) -> Option<Weight> {
        match &reading.source {
            Source::Summary { state, span } => self.weight_in(*state, *span, states, key, moment),
            Source::Top { .. } => match self.evaluate(reading, states, moment).value {
                Value::Integers(top) | Value::Decimals(top) => {
                    top.iter().find(|(of, _)| of == key).map(|(_, weight)| Weight::Fixed(*weight))
                }
                _ => None,
            },
            Source::Difference { of, less, span } => {
                let of = self.weight_in(*of, *span, states, key, moment)?;
                match (of, self.weight_in(*less, *span, states, key, moment)?) {
                    (Weight::Fixed(of), Weight::Fixed(less)) => Some(Weight::Fixed(of.saturating_sub(less))),
                    _ => None,
                }
            }
            Source::Decayed { state, half_life_ms } => match states.get(usize::from(*state))? {
                State::Decayed(decayed) => Some(Weight::Number(decayed.get(key, moment.at.0, *half_life_ms))),
                _ => None,
            },
            _ => None,
        }
    }

    fn weight_in(&self, state: u16, span: Span, states: &[State], key: &str, moment: &Moment) -> Option<Weight> {
        let merge = self.merge(state);
        if !matches!(merge.operator, Operator::SumByKey | Operator::CountByKey | Operator::ByKey(_)) {
            return None;
        }
        let State::Summary(summaries) = states.get(usize::from(state))? else { return None };
        let (of_all, of_part);
        let summaries = match self.extent(span, states, moment).ok()? {
            Extent::All => {
                of_all = summaries.total();
                of_all.as_slice()
            }
            Extent::Part(range) | Extent::Unsure(range) => {
                of_part = summaries.series().map_or_else(Vec::new, |series| series.take(range).inside);
                &of_part
            }
        };
        let mut fixed = None;
        let mut of_this: Option<Summary> = None;
        for summary in summaries {
            match summary {
                Summary::Keyed(keyed) => fixed = Some(keyed.get(key).saturating_add(fixed.unwrap_or(0_i64))),
                Summary::ByKey(by_key) => {
                    if let (Some(of), Some(other)) = (merge.of_key(), by_key.get(key)) {
                        of.join_to(of_this.get_or_insert_with(|| of.empty_summary()), other, false);
                    }
                }
                _ => return None,
            }
        }
        match (merge.of_key(), of_this) {
            (Some(of), Some(summary)) => match of_key(of, &summary)? {
                Scalar::Fixed(value) => i64::try_from(value).ok().map(Weight::Fixed),
                Scalar::Number(value) => Some(Weight::Number(value)),
            },
            (Some(_), None) => None,
            (None, _) => Some(Weight::Fixed(fixed.unwrap_or(0))),
        }
    }

    #[inline]
    pub(super) fn extent(&self, span: Span, states: &[State], moment: &Moment) -> Result<Extent, Nowhere> {
        let at = moment.at.0;
        Ok(Extent::Part(match span {
            Span::Lifetime => return Ok(Extent::All),
            Span::Sliding(width_ms) => Range::Between(at - width_ms, i64::MAX),
            Span::ToDate(calendar) => {
                Range::Between(moment.began(calendar).ok_or(Nowhere::Absent)?.this.0 - 1, i64::MAX)
            }
            Span::Previous(calendar) => {
                let began = moment.began(calendar).ok_or(Nowhere::Absent)?;
                Range::Between(began.previous.0 - 1, began.this.0 - 1)
            }
            Span::Session { state, gap_ms } => match held(states, state)? {
                State::Sessions(sessions) => match sessions.current(at, gap_ms) {
                    Some(session) => {
                        let range = Range::Between(session.began - 1, i64::MAX);
                        let kept = session.ended - session.began <= Window::SESSION_MS;
                        if !kept || !sessions.whole(&session, gap_ms) {
                            return Ok(Extent::Unsure(range));
                        }
                        range
                    }
                    None => Range::EMPTY,
                },
                _ => return Err(Nowhere::Absent),
            },
            Span::Last(count) => Range::Last(count),
        }))
    }

    #[inline]
    fn sum(&self, state: u16, span: Span, states: &[State], moment: &Moment) -> Result<Sum, Nowhere> {
        let State::Sum(summed) = held(states, state)? else { return Err(Nowhere::Absent) };
        Ok(match self.extent(span, states, moment)? {
            Extent::All => Sum { value: summed.total().unwrap_or(0), ..Sum::default() },
            Extent::Part(range) => summed.series().sum(range),
            Extent::Unsure(range) => Sum { unsure: true, ..summed.series().sum(range) },
        })
    }

    /// The value of a count of whatever kind.
    fn count(&self, state: u16, span: Span, states: &[State], moment: &Moment) -> Result<(i128, Exactness), Nowhere> {
        if let State::Sum(_) = held(states, state)? {
            let sum = self.sum(state, span, states, moment)?;
            return Ok((sum.value, sum.exactness()));
        }
        let merged = self.merged(state, span, states, moment)?;
        let value = match &*merged.inside {
            Summary::Distinct(distinct) => distinct.count(),
            Summary::Days(days) => days.count(),
            _ => return Err(Nowhere::Absent),
        };
        Ok((i128::from(value), exactness(self.merge(state), &merged, 0)))
    }

    fn merged<'s>(&self, state: u16, span: Span, states: &'s [State], moment: &Moment) -> Result<Merged<'s>, Nowhere> {
        let merge = self.merge(state);
        let State::Summary(summaries) = held(states, state)? else { return Err(Nowhere::Absent) };
        let (range, unsure) = match self.extent(span, states, moment)? {
            Extent::All => {
                let inside = summaries.total().map_or_else(|| Cow::Owned(merge.empty_summary()), Cow::Borrowed);
                return Ok(Merged { inside, astride: None, damaged: false });
            }
            Extent::Part(range) => (range, false),
            Extent::Unsure(range) => (range, true),
        };
        let Some(series) = summaries.series() else {
            return Ok(Merged { inside: Cow::Owned(merge.empty_summary()), astride: None, damaged: false });
        };
        let taken = series.take(range);
        let mut damaged = taken.forgotten || unsure;
        let mut join = |summaries: &[&Summary]| {
            if let Some(joined) = merge.join_own(summaries) {
                return joined;
            }
            let mut joined = merge.empty_summary();
            summaries.iter().for_each(|summary| damaged |= !merge.join_to(&mut joined, summary, false));
            joined
        };
        let astride = (!taken.astride.is_empty()).then(|| join(&taken.astride));
        let inside = match taken.inside.as_slice() {
            [only] => Cow::Borrowed(*only),
            many => Cow::Owned(join(many)),
        };
        Ok(Merged { inside, astride, damaged })
    }
}

fn held(states: &[State], state: u16) -> Result<&State, Nowhere> {
    match states.get(usize::from(state)) {
        None => Err(Nowhere::Absent),
        Some(State::Backfilling) => Err(Nowhere::Backfilling),
        Some(state) => Ok(state),
    }
}

fn edge(merged: &Merged<'_>) -> Exactness {
    if merged.damaged {
        Exactness::Off(Off::Unknown)
    } else if merged.astride.is_some() {
        Exactness::Off(Off::OpensLate(super::series::TILE_MS - 1))
    } else {
        Exactness::Exact
    }
}

fn exactness(merge: &Merge, merged: &Merged<'_>, q_millionths: u32) -> Exactness {
    let own = match &*merged.inside {
        Summary::Distinct(distinct) => {
            distinct.standard_error().map_or(Exactness::Exact, |error| Exactness::Off(Off::StandardError(error)))
        }
        Summary::Quantiles(quantiles) if !quantiles.exact() => {
            let value = quantiles.quantile(q_millionths, 0, 0).unwrap_or(0);
            Exactness::within(super::quantiles::off(value.into()))
        }
        Summary::Keyed(keyed) => keyed_off(keyed),
        Summary::ByKey(by_key) if !by_key.exact() => Exactness::Off(Off::Unknown),
        _ => Exactness::Exact,
    };
    // The distance of a quantile takes its own error in.
    let measured = own.is_exact() || matches!(&*merged.inside, Summary::Quantiles(_));
    match &merged.astride {
        Some(astride) if !merged.damaged && measured => {
            distance(merge, &merged.inside, astride, q_millionths).unwrap_or_else(|| edge(merged))
        }
        _ => own.and(edge(merged)),
    }
}

fn keyed_off(keyed: &Keyed) -> Exactness {
    keyed.off().map_or(Exactness::Off(Off::Unknown), Exactness::within)
}

fn ratio(of: i128, per: i128, decimals: u32) -> Value {
    if per <= 0 {
        return Value::Absent;
    }
    let step = 10_i128.pow(6 - decimals);
    Value::Decimal(divide_half_even(of, per * step) * step)
}

/// How near a quotient is, whose parts' own errors have another measure: both leave out what of a tile a window cuts off.
fn of_quotient(of: Exactness, per: Exactness) -> Exactness {
    let opens_late = |exactness: Exactness| match exactness {
        Exactness::Off(Off::Absolute(_)) => Exactness::Off(Off::OpensLate(super::series::TILE_MS - 1)),
        other => other,
    };
    opens_late(of).and(opens_late(per))
}

fn instant(state: &State) -> Option<i64> {
    let State::Summary(summaries) = state else { return None };
    match summaries.total()? {
        Summary::Extreme(held) => *held,
        Summary::Placed(held) => i64::try_from(held.as_ref()?.value).ok(),
        _ => None,
    }
}

/// How a sum moves, and whether any part of it may be off. `newest` sums the last so many milliseconds, `within` from so many
/// milliseconds back to so many.
fn movement(
    trend: Trend,
    width: i64,
    scale: f64,
    newest: impl Fn(i64) -> Sum,
    within: impl Fn(i64, i64) -> Sum,
) -> (Option<f64>, bool) {
    // Differences are taken in integers, so that what is equal differs by nothing.
    match trend {
        Trend::Ratio => {
            let (now, before) = (newest(width), within(2 * width, width));
            ((before.value != 0).then(|| now.value as f64 / before.value as f64), now.off != 0 || before.off != 0)
        }
        Trend::Slope { parts } => {
            let count = i64::from(parts);
            let edge = |index: i64| width - width * index / count;
            let sums = (0..count).map(|index| match index + 1 == count {
                true => newest(edge(index)),
                false => within(edge(index), edge(index + 1)),
            });
            let sums: Vec<Sum> = sums.collect();
            let middle = (f64::from(parts) - 1.0) / 2.0;
            let (mut across, mut along) = (0.0, 0.0);
            for (index, sum) in sums.iter().enumerate() {
                let x = index as f64 - middle;
                across += x * (sum.value - sums[0].value) as f64;
                along += x * x;
            }
            (Some(across / along / scale), sums.iter().any(|sum| sum.off != 0))
        }
        Trend::Deviation { baseline } => {
            let now = newest(width);
            let before: Vec<Sum> =
                (1..=i64::from(baseline)).map(|index| within((index + 1) * width, index * width)).collect();
            let from_first = |sum: &Sum| (sum.value - before[0].value) as f64;
            let count = f64::from(baseline);
            let mean = before.iter().map(from_first).sum::<f64>() / count;
            let variance =
                before.iter().map(|sum| (from_first(sum) - mean) * (from_first(sum) - mean)).sum::<f64>() / count;
            let spread = before.iter().any(|sum| sum.value != before[0].value);
            let off = now.off != 0 || before.iter().any(|sum| sum.off != 0);
            (spread.then(|| (from_first(&now) - mean) / libm::sqrt(variance)), off)
        }
    }
}
