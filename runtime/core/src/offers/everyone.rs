//! What happened with offers over everyone: how often each was decided, shown, clicked and accepted, by channel, in all and by day.
//!
//! A [`Tally`] is the sum of the histories of any number of fragments. It is kept by what changes in them ([`Tally::change`]): what it comes to depends on the
//! histories alone, not on the steps that led there, so one that was added up anew is the same. Tallies of different fragments add up ([`Tally::merge`]). Copies of one
//! shard's tally do not: [`Parts`] keeps the newest of each shard, whoever tells of them, in whatever order.
//!
//! Days are those of the business, kept for a number of days. What a history knows by tiles of quarter hours or days only ([`super::track`]) counts by their ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::track::{Mark, Width};
use super::{Act, Held, Line, Offers};
use crate::identity::ShardId;
use crate::time::{BusinessTime, DAY_MS, Period};
use crate::value::Timestamp;
use crate::view::Cursor;

/// Days that a report shows, and that are kept at the least.
pub const DAYS: u32 = 32;
/// Pairs of offer and channel of which one tally keeps count, unless more of them were decided. Feedback names offers as it likes; beyond this what nobody ever decided
/// gives way to what was, and is not taken in anew.
pub const ROWS_MAX: usize = 16_384;

const QUARTER_MS: i64 = DAY_MS / 96;
/// A day is no longer by the clock.
const LONGEST_DAY_MS: i64 = DAY_MS + DAY_MS / 24;
/// The acts that are counted: the first ones.
const COUNTED: [Act; 4] = [Act::Decided, Act::Shown, Act::Clicked, Act::Accepted];

/// How often each step on the way to an acceptance happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct Funnel {
    pub decided: u64,
    pub shown: u64,
    pub clicked: u64,
    pub accepted: u64,
}

impl Funnel {
    /// How often one of its steps happened; 0 of what is none.
    pub fn of(&self, act: Act) -> u64 {
        match act {
            Act::Decided => self.decided,
            Act::Shown => self.shown,
            Act::Clicked => self.clicked,
            Act::Accepted => self.accepted,
            Act::Dismissed | Act::Owned => 0,
        }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        for act in COUNTED {
            if let Some(count) = self.step(act) {
                *count = count.saturating_add(other.of(act));
            }
        }
    }

    fn step(&mut self, act: Act) -> Option<&mut u64> {
        match act {
            Act::Decided => Some(&mut self.decided),
            Act::Shown => Some(&mut self.shown),
            Act::Clicked => Some(&mut self.clicked),
            Act::Accepted => Some(&mut self.accepted),
            Act::Dismissed | Act::Owned => None,
        }
    }

    fn shift(&mut self, act: Act, by: i64) {
        if let Some(count) = self.step(act) {
            *count = count.saturating_add_signed(by);
        }
    }

    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// By what time a tally is kept.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The business's clock.
    pub time: BusinessTime,
    /// How many days back, today included.
    pub days: u32,
    /// How far back also by quarters of an hour; 0: not at all.
    pub quarters_ms: i64,
}

impl Scale {
    /// What a report needs.
    pub fn of_reports(time: BusinessTime) -> Self {
        Self { time, days: DAYS, quarters_ms: 0 }
    }

    /// Whether whatever is told by another one is told by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        self.time.name() == other.time.name() && self.days >= other.days && self.quarters_ms >= other.quarters_ms
    }
}

impl PartialEq for Scale {
    fn eq(&self, other: &Self) -> bool {
        (self.time.name(), self.days, self.quarters_ms) == (other.time.name(), other.days, other.quarters_ms)
    }
}

/// What happened with one offer on one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Ever.
    pub total: Funnel,
    /// By the first instants of days, ascending.
    days: Vec<(Timestamp, Funnel)>,
    /// By those of quarter hours, likewise.
    quarters: Vec<(Timestamp, Funnel)>,
}

impl Row {
    /// The days on which anything happened, by their first instants, ascending.
    pub fn days(&self) -> &[(Timestamp, Funnel)] {
        &self.days
    }

    /// How often on days that begin at an instant or later.
    pub fn days_from(&self, act: Act, from: Timestamp) -> u64 {
        sum(&self.days, act, |begin| begin >= from)
    }

    /// How often on days that may end after an instant.
    pub fn days_after(&self, act: Act, bound: Timestamp) -> u64 {
        sum(&self.days, act, |begin| begin.plus_ms(LONGEST_DAY_MS) > bound)
    }

    /// How often in quarter hours that end after an instant.
    pub fn quarters_after(&self, act: Act, bound: Timestamp) -> u64 {
        sum(&self.quarters, act, |begin| begin.plus_ms(QUARTER_MS) > bound)
    }

    fn add(&mut self, other: &Self) {
        self.total.add(&other.total);
        for (own, others) in [(&mut self.days, &other.days), (&mut self.quarters, &other.quarters)] {
            for (begin, funnel) in others {
                tile(own, *begin).add(funnel);
            }
        }
    }

    fn is_nothing(&self) -> bool {
        self.total.is_zero() && self.days.is_empty() && self.quarters.is_empty()
    }
}

fn sum(tiles: &[(Timestamp, Funnel)], act: Act, within: impl Fn(Timestamp) -> bool) -> u64 {
    tiles.iter().rev().take_while(|(begin, _)| within(*begin)).map(|(_, funnel)| funnel.of(act)).sum()
}

/// The tile that begins at an instant, made where there is none.
fn tile(tiles: &mut Vec<(Timestamp, Funnel)>, begin: Timestamp) -> &mut Funnel {
    // Most of what comes is of the newest.
    let place = match tiles.last() {
        Some((newest, _)) if *newest == begin => tiles.len() - 1,
        _ => tiles.partition_point(|(held, _)| *held < begin),
    };
    if tiles.get(place).is_none_or(|(held, _)| *held != begin) {
        tiles.insert(place, (begin, Funnel::default()));
    }
    &mut tiles[place].1
}

/// The sum of the histories of any number of fragments.
#[derive(Clone, Debug)]
pub struct Tally {
    scale: Arc<Scale>,
    rows: BTreeMap<CompactString, BTreeMap<CompactString, Row>>,
    /// How many rows there are.
    len: usize,
    /// From where on tiles are kept.
    days_from: Timestamp,
    quarters_from: Timestamp,
    /// The day that was looked up last, from its first instant to that of the next.
    today: (Timestamp, Timestamp),
}

impl PartialEq for Tally {
    fn eq(&self, other: &Self) -> bool {
        (&self.scale, &self.rows, self.days_from, self.quarters_from)
            == (&other.scale, &other.rows, other.days_from, other.quarters_from)
    }
}

impl Tally {
    /// Of nobody, as of an instant.
    pub fn new(scale: Arc<Scale>, now: Timestamp) -> Self {
        let nothing = Timestamp(i64::MIN);
        let mut tally = Self {
            scale,
            rows: BTreeMap::new(),
            len: 0,
            days_from: nothing,
            quarters_from: nothing,
            today: (Timestamp(0), Timestamp(0)),
        };
        tally.settle(now);
        tally
    }

    /// By what time it is kept.
    pub fn scale(&self) -> &Arc<Scale> {
        &self.scale
    }

    /// Lets days and quarters go that are out of reach by now.
    pub fn settle(&mut self, now: Timestamp) {
        let time = &self.scale.time;
        let day = time.begins(time.day(now) - i64::from(self.scale.days.saturating_sub(1)));
        // Nothing comes back that was let go, should a clock be set back.
        let days_from = self.days_from.max(day);
        let quarters_from = self.quarters_from.max(now.plus_ms(-self.scale.quarters_ms - QUARTER_MS));
        if days_from > self.days_from || quarters_from.0 > self.quarters_from.0.saturating_add(DAY_MS / 24) {
            (self.days_from, self.quarters_from) = (days_from, quarters_from);
            for row in self.rows.values_mut().flat_map(BTreeMap::values_mut) {
                row.days.retain(|(begin, _)| *begin >= days_from);
                row.quarters.retain(|(begin, _)| *begin >= quarters_from);
            }
        }
    }

    /// A fragment's history has become another one.
    pub fn change(&mut self, before: &Offers, after: &Offers) {
        let nothing = Held::default();
        let (was, is) = match (&before.0, &after.0) {
            (None, None) => return,
            (Some(was), Some(is)) if is.is(was) => return,
            (was, is) => (was.as_deref().unwrap_or(&nothing), is.as_deref().unwrap_or(&nothing)),
        };
        let mut old = was.lines.iter().peekable();
        for line in &is.lines {
            let place = (&line.offer, &line.channel);
            while let Some(gone) = old.next_if(|old| (&old.offer, &old.channel) < place) {
                self.change_line(Some((gone, was)), None);
            }
            let own = old.next_if(|old| (&old.offer, &old.channel) == place);
            self.change_line(own.map(|own| (own, was)), Some((line, is)));
        }
        for gone in old {
            self.change_line(Some((gone, was)), None);
        }
    }

    fn change_line(&mut self, was: Option<(&Line, &Held)>, is: Option<(&Line, &Held)>) {
        let Some((named, _)) = is.or(was) else { return };
        let marks = |of: Option<(&Line, &Held)>, act: Act| -> (u32, Vec<Mark>) {
            of.map_or_else(Default::default, |(line, held)| {
                (line.totals[act as usize], held.marks[line.range(act)].to_vec())
            })
        };
        let same = |act: Act| match (was, is) {
            (Some((one, held)), Some((other, more))) => {
                one.totals[act as usize] == other.totals[act as usize]
                    && held.marks[one.range(act)] == more.marks[other.range(act)]
            }
            _ => false,
        };
        for act in COUNTED {
            if same(act) {
                continue;
            }
            let ((before, old), (after, new)) = (marks(was, act), marks(is, act));
            self.shift(named, act, i64::from(after) - i64::from(before), &old, &new);
        }
        self.forget_if_nothing(&named.offer, &named.channel);
    }

    fn shift(&mut self, line: &Line, act: Act, by: i64, old: &[Mark], new: &[Mark]) {
        let mut tiles: Vec<(Mark, i64)> = Vec::new();
        differences(old, new, |mark, by| tiles.push((mark, by)));
        let days: Vec<(Option<Timestamp>, Option<Timestamp>, i64)> =
            tiles.into_iter().map(|(mark, by)| (self.day_of(&mark), self.quarter_of(&mark), by)).collect();
        if by == 0 && days.iter().all(|(day, quarter, _)| day.is_none() && quarter.is_none()) {
            return;
        }
        let is_known = self.rows.get(&line.offer).is_some_and(|channels| channels.contains_key(&line.channel));
        if !is_known && !self.make_room(act, by) {
            return;
        }
        let row = self.rows.entry(line.offer.clone()).or_default().entry(line.channel.clone()).or_default();
        self.len += usize::from(!is_known);
        row.total.shift(act, by);
        for (day, quarter, by) in days {
            for (tiles, begin) in [(&mut row.days, day), (&mut row.quarters, quarter)] {
                let Some(begin) = begin else { continue };
                let funnel = tile(tiles, begin);
                funnel.shift(act, by);
                if funnel.is_zero() {
                    tiles.retain(|(of, _)| *of != begin);
                }
            }
        }
    }

    fn forget_if_nothing(&mut self, offer: &CompactString, channel: &CompactString) {
        let Some(channels) = self.rows.get_mut(offer) else { return };
        if channels.get(channel).is_some_and(Row::is_nothing) {
            channels.remove(channel);
            self.len -= 1;
            if channels.is_empty() {
                self.rows.remove(offer);
            }
        }
    }

    /// Whether there may be another row for what happened.
    fn make_room(&mut self, act: Act, by: i64) -> bool {
        if self.len < ROWS_MAX {
            return true;
        }
        if act != Act::Decided || by <= 0 {
            return false;
        }
        let undecided = self.rows().find(|(.., row)| row.total.decided == 0);
        let undecided = undecided.map(|(offer, channel, _)| (offer.clone(), channel.clone()));
        if let Some((offer, channel)) = undecided
            && let Some(channels) = self.rows.get_mut(&offer)
        {
            channels.remove(&channel);
            self.len -= 1;
            if channels.is_empty() {
                self.rows.remove(&offer);
            }
        }
        true
    }

    /// The first instant of the day in which a mark ends, if that is kept.
    fn day_of(&mut self, mark: &Mark) -> Option<Timestamp> {
        let at = end_of(mark);
        if at < self.days_from {
            return None;
        }
        let (begin, end) = self.today;
        if at < begin || end <= at {
            let time = &self.scale.time;
            self.today = (time.begun(Period::Day, at), time.next(Period::Day, at));
        }
        Some(self.today.0).filter(|begin| *begin >= self.days_from)
    }

    fn quarter_of(&self, mark: &Mark) -> Option<Timestamp> {
        let at = end_of(mark).0;
        let begin = Timestamp(at - at.rem_euclid(QUARTER_MS));
        (self.scale.quarters_ms > 0 && begin >= self.quarters_from).then_some(begin)
    }

    /// Adds what a tally of other fragments holds.
    pub fn merge(&mut self, other: &Self) {
        for (offer, channels) in &other.rows {
            let own = self.rows.entry(offer.clone()).or_default();
            for (channel, row) in channels {
                own.entry(channel.clone()).or_default().add(row);
            }
        }
        self.len = self.rows.values().map(BTreeMap::len).sum();
    }

    /// Every offer and channel with which anything happened, ascending.
    pub fn rows(&self) -> impl Iterator<Item = (&CompactString, &CompactString, &Row)> {
        self.rows.iter().flat_map(|(offer, channels)| channels.iter().map(move |(channel, row)| (offer, channel, row)))
    }

    /// What happened with an offer on a channel.
    pub fn row(&self, offer: &str, channel: &str) -> Option<&Row> {
        self.rows.get(offer)?.get(channel)
    }

    /// What happened with an offer, by channel.
    pub fn of<'t>(&'t self, offer: &str) -> impl Iterator<Item = (&'t CompactString, &'t Row)> + use<'t> {
        self.rows.get(offer).into_iter().flatten()
    }
}

/// The last instant by which a mark counts: where it is a tile, that of its last quarter.
fn end_of(mark: &Mark) -> Timestamp {
    Timestamp(if mark.width == Width::Day { mark.at.saturating_add(DAY_MS - QUARTER_MS) } else { mark.at })
}

/// Hands over how many more of each mark there are in the second than in the first; both ascending by width and time.
fn differences(old: &[Mark], new: &[Mark], mut take: impl FnMut(Mark, i64)) {
    let place = |mark: &Mark| (mark.width, mark.at);
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(was), Some(is)) if place(was) == place(is) => {
                let by = i64::from(is.count) - i64::from(was.count);
                if by != 0 {
                    take(**is, by);
                }
                old.next();
                new.next();
            }
            (Some(was), is) if is.is_none_or(|is| place(was) < place(is)) => {
                take(**was, -i64::from(was.count));
                old.next();
            }
            (_, Some(is)) => {
                take(**is, i64::from(is.count));
                new.next();
            }
            (Some(_), None) => return,
        }
    }
}

/// Tallies of shards, each as of a place of its log. Whoever holds copies of a shard has the same there, so of each the newest holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts(BTreeMap<ShardId, (Cursor, Tally)>);

impl Parts {
    /// Takes in a shard's tally as of a place, unless a newer one is known.
    pub fn take(&mut self, shard: ShardId, at: Cursor, tally: Tally) {
        let newer = |held: &(Cursor, Tally)| (held.0.epoch, held.0.seq) < (at.epoch, at.seq);
        if self.0.get(&shard).is_none_or(newer) {
            self.0.insert(shard, (at, tally));
        }
    }

    /// Takes in what another one knows.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(shard, (at, tally))| self.take(*shard, *at, tally.clone()));
    }

    /// The sum of all; none where there are none.
    pub fn total(&self) -> Option<Tally> {
        let mut parts = self.0.values().map(|(_, tally)| tally);
        let mut total = parts.next()?.clone();
        parts.for_each(|part| total.merge(part));
        Some(total)
    }
}

#[cfg(test)]
#[path = "everyone_tests.rs"]
mod tests;
