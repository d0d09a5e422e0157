//! Series: what contributions add up to, by the time of their events, for windows.
//!
//! The newest [`TAIL_MAX`] instants are kept exactly; older ones are merged into tiles of 15 minutes UTC, a grid on which every time zone in use
//! today has its midnights, so calendar windows stay exact. A window that opens or closes inside a tile leaves that tile out and says so.
//! What no window can reach any more is dropped. [`Sums`](super::sums::Sums) holds amounts, as running totals, so that any window is one difference; [`Series`]
//! holds summaries of any other operator.

use serde::{Deserialize, Serialize};

use super::insert_tight;
use super::merge::Merge;
use super::state::{Contribution, When};
use super::summary::Summary;

/// Instants that are kept exactly.
pub(crate) const TAIL_MAX: usize = 256;
/// The width of a tile.
pub(crate) const TILE_MS: i64 = 15 * 60 * 1000;
/// Elements of summaries, such as keys, that one series holds; beyond it the oldest are merged, then forgotten.
const CELLS_MAX: usize = 16_384;

/// How much of the past readings need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// The longest window's reach.
    pub(crate) reach_ms: i64,
    /// The last events that a window counts by number; where there is such a window, events at one instant are kept apart.
    pub(crate) last: usize,
}

impl Need {
    pub(crate) fn none(self) -> bool {
        self == Self::default()
    }

    /// Takes in another need.
    pub(crate) fn widen(&mut self, other: Self) {
        *self = Self { reach_ms: self.reach_ms.max(other.reach_ms), last: self.last.max(other.last) };
    }

    /// The first tile that a window may reach once there is an event at `newest`.
    pub(super) fn floor(self, newest: i64) -> i64 {
        tile_of(newest.saturating_sub(self.reach_ms))
    }

    /// Where in the tail an event stands.
    pub(super) fn place(self, when: &When) -> (i64, u64) {
        (when.at.0, if self.last > 0 { when.tie } else { 0 })
    }
}

/// Which events a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// Those after an instant, up to another.
    Between(i64, i64),
    /// The last so many.
    Last(usize),
}

impl Range {
    /// Nothing.
    pub(crate) const EMPTY: Self = Self::Last(0);
}

pub(super) fn tile_of(at: i64) -> i64 {
    at.div_euclid(TILE_MS)
}

/// The last instant of a tile.
pub(super) fn end_of(tile: i64) -> i64 {
    (tile + 1) * TILE_MS - 1
}

/// Summaries by event time. Canonical like [`Sums`], until it forgets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Series {
    tail: Vec<((i64, u64), Summary)>,
    tiles: Vec<(i64, Summary)>,
    /// Elements of all summaries.
    cells: usize,
    /// Up to when summaries were forgotten for want of room.
    forgotten: Option<i64>,
    /// Whether the tail was cut for want of room.
    cut: bool,
}

/// The summaries that a range takes in.
pub(crate) struct Taken<'s> {
    pub(crate) inside: Vec<&'s Summary>,
    /// Of tiles that lie inside in part.
    pub(crate) astride: Vec<&'s Summary>,
    /// Whether something inside may have been forgotten.
    pub(crate) forgotten: bool,
}

impl Series {
    /// Takes in a contribution; false where a plugin's own operator failed, and then it counts nowhere.
    pub(crate) fn insert(&mut self, merge: &Merge, contribution: &Contribution, when: &When) -> bool {
        let place = merge.need.place(when);
        let newest = self.newest().map_or(when.at.0, |newest| newest.max(when.at.0));
        let late = match self.tail.first() {
            Some(oldest) => (self.cut || self.tail.len() >= TAIL_MAX) && place < oldest.0,
            None => false,
        };
        let mut apply = |summary: &mut Summary| merge.apply_to(summary, contribution, when, true);
        let added = if late {
            change(&mut self.tiles, tile_of(place.0), merge, &mut apply)
        } else {
            change(&mut self.tail, place, merge, &mut apply)
        };
        if let Some((before, after)) = added {
            self.cells = self.cells + after - before;
            self.settle(merge, newest);
        }
        added.is_some()
    }

    /// Takes in another series; see [`Sums::join`]. False where a plugin's own operator failed: what it could not merge is forgotten.
    pub(crate) fn join(&mut self, merge: &Merge, other: &Self) -> bool {
        // What is in tiles is not newer than the tail's oldest; a tail that was cut for want of room cuts the other's too.
        let cut = [&*self, other].into_iter().filter(|series| series.cut);
        let cut = cut.filter_map(|series| Some(series.tail.first()?.0)).max();
        let mut joined = true;
        let mut join = |held: &mut Summary, summary: Summary| joined &= merge.join_to(held, &summary, true);
        self.tail = merged(std::mem::take(&mut self.tail), other.tail.clone(), &mut join);
        self.tiles = merged(std::mem::take(&mut self.tiles), other.tiles.clone(), &mut join);
        self.cells = self.summaries().map(Summary::cells).sum();
        let lost = if joined { None } else { Some(i64::MAX) };
        self.forgotten = self.forgotten.max(other.forgotten).max(lost);
        self.cut |= other.cut;
        let early = cut.map_or(0, |cut| self.tail.partition_point(|(place, _)| *place < cut));
        (0..early).for_each(|_| self.move_oldest(merge));
        if let Some(newest) = self.newest() {
            self.settle(merge, newest);
        }
        joined
    }

    /// Moves the tail's oldest into its tile.
    fn move_oldest(&mut self, merge: &Merge) {
        let (place, summary) = self.tail.remove(0);
        self.cells -= summary.cells();
        let tile = tile_of(place.0);
        match change(&mut self.tiles, tile, merge, &mut |held| merge.join_to(held, &summary, true)) {
            Some((before, after)) => self.cells = self.cells + after - before,
            None => self.forgotten = self.forgotten.max(Some(end_of(tile))),
        }
    }

    fn summaries(&self) -> impl Iterator<Item = &Summary> {
        self.tail.iter().map(|(_, summary)| summary).chain(self.tiles.iter().map(|(_, summary)| summary))
    }

    /// What a range takes in.
    pub(crate) fn take(&self, range: Range) -> Taken<'_> {
        let mut taken = Taken { inside: Vec::new(), astride: Vec::new(), forgotten: false };
        match range {
            Range::Last(count) => {
                let first = self.tail.len().saturating_sub(count);
                taken.inside.extend(self.tail[first..].iter().map(|(_, summary)| summary));
                taken.forgotten = self.cut && self.tail.len() < count;
            }
            Range::Between(after, until) => {
                // What is in tiles is not newer than the tail's oldest.
                let oldest = self.tail.first().map_or(i64::MAX, |(place, _)| place.0);
                for (tile, summary) in self.tiles.iter().filter(|_| after < oldest) {
                    let (begins, ends) = (tile * TILE_MS, end_of(*tile).min(oldest));
                    if begins > after && ends <= until {
                        taken.inside.push(summary);
                    } else if ends > after && begins <= until {
                        taken.astride.push(summary);
                    }
                }
                let first = self.tail.partition_point(|(place, _)| place.0 <= after);
                let last = self.tail.partition_point(|(place, _)| place.0 <= until);
                taken.inside.extend(self.tail[first..last.max(first)].iter().map(|(_, summary)| summary));
                taken.forgotten = self.forgotten.is_some_and(|forgotten| after < forgotten);
            }
        }
        taken
    }

    fn newest(&self) -> Option<i64> {
        self.tail.last().map(|(place, _)| place.0)
    }

    fn settle(&mut self, merge: &Merge, newest: i64) {
        let floor = merge.need.floor(newest);
        while self.tail.len() > TAIL_MAX {
            self.move_oldest(merge);
        }
        let gone = self.tail.partition_point(|(place, _)| tile_of(place.0) < floor);
        let gone = gone.min(self.tail.len().saturating_sub(merge.need.last));
        let cells: usize = self.tail.drain(..gone).map(|(_, summary)| summary.cells()).sum();
        self.cells -= cells;
        self.drop_tiles(self.tiles.partition_point(|(tile, _)| *tile < floor));
        // Merged, summaries that share keys take less room; where that is not enough the oldest are forgotten.
        while self.cells > CELLS_MAX && self.tail.len() > 1 {
            self.cut = true;
            self.move_oldest(merge);
        }
        while self.cells > CELLS_MAX && !self.tiles.is_empty() {
            let forgotten = self.tiles.len().div_ceil(2);
            self.forgotten = self.forgotten.max(Some(end_of(self.tiles[forgotten - 1].0)));
            self.drop_tiles(forgotten);
        }
    }

    fn drop_tiles(&mut self, count: usize) {
        let cells: usize = self.tiles.drain(..count).map(|(_, summary)| summary.cells()).sum();
        self.cells -= cells;
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.tail.capacity() * size_of::<((i64, u64), Summary)>()
            + self.tiles.capacity() * size_of::<(i64, Summary)>()
            + self.summaries().map(Summary::weight).sum::<usize>()
    }
}

/// Changes the summary at a place, made empty where there is none; gives the elements that it had and has. None where the change failed, and
/// then there is no new one.
fn change<P: Ord + Copy>(
    list: &mut Vec<(P, Summary)>,
    place: P,
    merge: &Merge,
    change: &mut dyn FnMut(&mut Summary) -> bool,
) -> Option<(usize, usize)> {
    match list.binary_search_by_key(&place, |held| held.0) {
        Ok(found) => {
            let held = &mut list[found].1;
            let before = held.cells();
            change(held).then(|| (before, held.cells()))
        }
        Err(gap) => {
            let mut fresh = merge.empty_summary();
            if !change(&mut fresh) {
                return None;
            }
            let after = fresh.cells();
            insert_tight(list, gap, (place, fresh));
            Some((0, after))
        }
    }
}

/// The entries of two ascending lists, ascending, those at one place joined.
pub(super) fn merged<P: Ord, T>(one: Vec<(P, T)>, other: Vec<(P, T)>, mut join: impl FnMut(&mut T, T)) -> Vec<(P, T)> {
    let mut merged: Vec<(P, T)> = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    loop {
        let next = match (one.peek(), other.peek()) {
            (Some(a), Some(b)) if a.0 <= b.0 => one.next(),
            (Some(_), None) => one.next(),
            _ => other.next(),
        };
        let Some((place, value)) = next else { return merged };
        match merged.last_mut() {
            Some((last, held)) if *last == place => join(held, value),
            _ => merged.push((place, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::operator::Operator;
    use crate::value::{Kind, Timestamp};

    const SECOND: i64 = 1000;
    const DAY: i64 = 24 * 3600 * SECOND;

    /// Counts by key over thirty days, filled with (instant, keys from, keys to).
    fn filled(entries: &[(i64, usize, usize)]) -> (Merge, Series) {
        let mut merge = Merge::new(Operator::CountByKey, Kind::Integer, None);
        merge.need = Need { reach_ms: 30 * DAY, last: 0 };
        let mut series = Series::default();
        for (at, from, to) in entries {
            for key in *from..*to {
                let contribution = Contribution { state: 0, key: format!("k{key}").into(), value: 1 };
                let when = When { at: Timestamp(*at), day: 0, tie: 0, trusted: true };
                assert!(series.insert(&merge, &contribution, &when));
            }
        }
        (merge, series)
    }

    /// The sum over a range, and whether it is the whole.
    fn sum(series: &Series, range: Range) -> (i64, bool) {
        let taken = series.take(range);
        let of = |summary: &&Summary| match summary {
            Summary::Keyed(keyed) => keyed.iter().map(|(_, count)| *count).sum::<i64>(),
            other => panic!("{other:?}"),
        };
        (taken.inside.iter().map(of).sum(), taken.astride.is_empty() && !taken.forgotten)
    }

    #[test]
    fn a_series_that_was_cut_for_want_of_room_still_joins_to_all_of_it() {
        let crowded: Vec<_> = (0..200).map(|index| (100 * DAY + index * 30 * SECOND, 0, 100)).collect();
        let (merge, crowded) = filled(&crowded);
        assert!(crowded.cut && crowded.cells <= CELLS_MAX);
        let (_, early) = filled(&[(99 * DAY, 0, 2), (99 * DAY + SECOND, 0, 2)]);
        let month = Range::Between(75 * DAY - 1, i64::MAX);
        assert_eq!((sum(&crowded, month), sum(&early, month)), ((20_000, true), (4, true)));
        for (one, other) in [(&crowded, &early), (&early, &crowded)] {
            let mut joined = one.clone();
            assert!(joined.join(&merge, other));
            assert_eq!(sum(&joined, month), (20_004, true));
            assert_eq!(joined.cells, joined.summaries().map(Summary::cells).sum::<usize>());
        }
    }

    #[test]
    fn room_is_kept_whatever_comes_late() {
        let mut entries: Vec<_> =
            (0..3).map(|index| (100 * DAY + index, 6_000 * index as usize, 6_000 * (index as usize + 1))).collect();
        entries.extend((0..400).map(|index| (99 * DAY - index * 3600 * SECOND, 0, 100)));
        let (_, series) = filled(&entries);
        assert!(series.cells <= CELLS_MAX, "{} elements", series.cells);
        let (count, whole) = sum(&series, Range::Between(80 * DAY, i64::MAX));
        assert!(count < 18_000 + 40_000 && !whole, "what was forgotten is said");
    }
}
