//! Series: what contributions add up to, by the time of their events, for windows.
//!
//! The newest [`TAIL_MAX`] instants are kept exactly; older ones are merged into tiles of 15 minutes UTC, a grid on which every time zone in use
//! today has its midnights, so calendar windows stay exact. A window that opens or closes inside a tile leaves that tile out and says so.
//! What no window can reach any more is dropped. [`Sums`] holds amounts, as running totals, so that any window is one difference; [`Series`]
//! holds summaries of any other operator.

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::exactness::{Exactness, Off};
use super::insert_tight;
use super::merge::Merge;
use super::state::{Contribution, Nothing, When};
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
    fn floor(self, newest: i64) -> i64 {
        tile_of(newest.saturating_sub(self.reach_ms))
    }

    /// Where in the tail an event stands.
    fn place(self, when: &When) -> (i64, u64) {
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

fn tile_of(at: i64) -> i64 {
    at.div_euclid(TILE_MS)
}

/// The last instant of a tile.
fn end_of(tile: i64) -> i64 {
    (tile + 1) * TILE_MS - 1
}

/// A sum over a range, and by how much it may be off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) value: i128,
    pub(crate) off: i128,
    /// Whether it may be off by more than that.
    pub(crate) unsure: bool,
}

impl Sum {
    pub(crate) fn exactness(self) -> Exactness {
        if self.unsure { Exactness::Off(Off::Unknown) } else { Exactness::within(self.off) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Amount {
    place: (i64, u64),
    /// The sum of the tail up to and with this one.
    upto: i128,
    /// The sum of the absolute amounts at this place.
    magnitude: i128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AmountTile {
    tile: i64,
    /// The sum of the tiles up to and with this one.
    upto: i128,
    /// The sum of the absolute amounts in this one.
    magnitude: i128,
}

/// Amounts by event time. Canonical: the same set of insertions gives the same value, in whatever order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    tail: Vec<Amount>,
    tiles: Vec<AmountTile>,
}

impl Nothing for Sums {
    fn nothing() -> &'static Self {
        static NOTHING: Sums = Sums { tail: Vec::new(), tiles: Vec::new() };
        &NOTHING
    }
}

impl Sums {
    /// Adds an amount.
    pub(crate) fn insert(&mut self, when: &When, amount: i64, need: Need) {
        let (place, amount) = (need.place(when), i128::from(amount));
        let newest = self.newest().map_or(when.at.0, |newest| newest.max(when.at.0));
        match self.tail.first() {
            Some(oldest) if self.tail.len() >= TAIL_MAX && place < oldest.place => {
                self.put_in_tile(tile_of(place.0), amount, amount.abs());
            }
            _ => self.put_in_tail(place, amount, amount.abs()),
        }
        self.settle(newest, need);
    }

    /// Takes in another series: what inserting the amounts of both gives.
    ///
    /// An amount in a tile has [`TAIL_MAX`] newer places in its own series, so it is in the tail of neither nor of both together.
    pub(crate) fn join(&mut self, other: &Self, need: Need) {
        let add = |one: &mut (i128, i128), other: (i128, i128)| *one = (one.0 + other.0, one.1 + other.1);
        let mut upto = 0;
        let tail = merged(self.amounts(), other.amounts(), add).into_iter().map(|(place, (own, magnitude))| {
            upto += own;
            Amount { place, upto, magnitude }
        });
        let tail = tail.collect();
        let mut upto = 0;
        let tiles =
            merged(self.tile_amounts(), other.tile_amounts(), add).into_iter().map(|(tile, (own, magnitude))| {
                upto += own;
                AmountTile { tile, upto, magnitude }
            });
        *self = Self { tiles: tiles.collect(), tail };
        if let Some(newest) = self.newest() {
            self.settle(newest, need);
        }
    }

    /// By place: what was added there, and its magnitude.
    fn amounts(&self) -> Vec<((i64, u64), (i128, i128))> {
        let before = [0].into_iter().chain(self.tail.iter().map(|amount| amount.upto));
        let own = self.tail.iter().zip(before);
        own.map(|(amount, before)| (amount.place, (amount.upto - before, amount.magnitude))).collect()
    }

    fn tile_amounts(&self) -> Vec<(i64, (i128, i128))> {
        let before = [0].into_iter().chain(self.tiles.iter().map(|tile| tile.upto));
        let own = self.tiles.iter().zip(before);
        own.map(|(tile, before)| (tile.tile, (tile.upto - before, tile.magnitude))).collect()
    }

    /// The sum over a range.
    #[inline]
    pub(crate) fn sum(&self, range: Range) -> Sum {
        match range {
            Range::Between(after, until) => {
                let mut sum = self.after(after);
                if self.newest().is_some_and(|newest| newest > until) {
                    let later = self.after(until);
                    sum = Sum { value: sum.value - later.value, off: sum.off + later.off, unsure: false };
                }
                sum
            }
            Range::Last(count) => {
                let first = self.tail.len().saturating_sub(count);
                Sum { value: self.total() - self.tail_before(first), ..Sum::default() }
            }
        }
    }

    #[inline]
    fn after(&self, after: i64) -> Sum {
        let first = self.first_after(after);
        let mut sum = Sum { value: self.total() - self.tail_before(first), ..Sum::default() };
        // What is in tiles is older than the tail: it matters only to a range that takes in all of that.
        if let (0, Some(last)) = (first, self.tiles.last()) {
            let begun = self.tiles.partition_point(|tile| tile.tile * TILE_MS <= after);
            let before = begun.checked_sub(1).map(|index| &self.tiles[index]);
            sum.value += last.upto - before.map_or(0, |tile| tile.upto);
            sum.off = before.filter(|tile| end_of(tile.tile) > after).map_or(0, |astride| astride.magnitude);
        }
        sum
    }

    /// The first instant behind another at which what comes after it is less: a window that begins there takes in the same until it begins at that one.
    pub(crate) fn same_until(&self, after: i64) -> i64 {
        let first = self.first_after(after);
        let in_tail = self.tail.get(first).map(|amount| amount.place.0);
        // What is in tiles is older than the tail.
        let begun = self.tiles.partition_point(|tile| tile.tile * TILE_MS <= after);
        let in_tiles = self.tiles.get(begun).filter(|_| first == 0).map(|tile| tile.tile * TILE_MS);
        in_tiles.or(in_tail).unwrap_or(i64::MAX)
    }

    /// Where in the tail a window begins: most begin near its end, so the search does.
    #[inline]
    fn first_after(&self, after: i64) -> usize {
        let (mut step, mut until) = (1, self.tail.len());
        loop {
            let from = until.saturating_sub(step);
            match self.tail.get(from) {
                Some(amount) if amount.place.0 > after && from > 0 => (step, until) = (2 * step, from),
                _ => return from + self.tail[from..until].partition_point(|amount| amount.place.0 <= after),
            }
        }
    }

    fn newest(&self) -> Option<i64> {
        self.tail.last().map(|newest| newest.place.0)
    }

    fn total(&self) -> i128 {
        self.tail.last().map_or(0, |last| last.upto)
    }

    fn tail_before(&self, index: usize) -> i128 {
        index.checked_sub(1).map_or(0, |before| self.tail[before].upto)
    }

    fn put_in_tail(&mut self, place: (i64, u64), amount: i128, magnitude: i128) {
        let index = match self.tail.binary_search_by_key(&place, |held| held.place) {
            Ok(found) => found,
            Err(gap) => {
                let upto = self.tail_before(gap);
                insert_tight(&mut self.tail, gap, Amount { place, upto, magnitude: 0 });
                gap
            }
        };
        self.tail[index].magnitude += magnitude;
        self.tail[index..].iter_mut().for_each(|later| later.upto += amount);
    }

    fn put_in_tile(&mut self, tile: i64, amount: i128, magnitude: i128) {
        let index = match self.tiles.binary_search_by_key(&tile, |held| held.tile) {
            Ok(found) => found,
            Err(gap) => {
                let upto = gap.checked_sub(1).map_or(0, |before| self.tiles[before].upto);
                insert_tight(&mut self.tiles, gap, AmountTile { tile, upto, magnitude: 0 });
                gap
            }
        };
        self.tiles[index].magnitude += magnitude;
        self.tiles[index..].iter_mut().for_each(|later| later.upto += amount);
    }

    /// Moves what is too much for the tail into tiles and drops what no window reaches.
    fn settle(&mut self, newest: i64, need: Need) {
        let floor = need.floor(newest);
        let over = self.tail.len().saturating_sub(TAIL_MAX);
        for Amount { place, upto, magnitude } in self.drop_from_tail(over) {
            self.put_in_tile(tile_of(place.0), upto, magnitude);
        }
        let gone = self.tail.partition_point(|amount| tile_of(amount.place.0) < floor);
        self.drop_from_tail(gone.min(self.tail.len().saturating_sub(need.last)));
        let gone = self.tiles.partition_point(|tile| tile.tile < floor);
        if gone > 0 {
            let dropped = self.tiles[gone - 1].upto;
            self.tiles.drain(..gone);
            self.tiles.iter_mut().for_each(|later| later.upto -= dropped);
        }
    }

    /// Takes the oldest out of the tail, each with its own amount.
    fn drop_from_tail(&mut self, count: usize) -> Vec<Amount> {
        if count == 0 {
            return Vec::new();
        }
        let mut sum = 0;
        let dropped = self.tail.drain(..count).map(|amount| {
            let own = amount.upto - sum;
            sum = amount.upto;
            Amount { upto: own, ..amount }
        });
        let dropped = dropped.collect();
        self.tail.iter_mut().for_each(|later| later.upto -= sum);
        dropped
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.tail.capacity() * size_of::<Amount>() + self.tiles.capacity() * size_of::<AmountTile>()
    }
}

/// On disk: amounts instead of running totals, places as distances; ties and magnitudes only where they say anything.
#[derive(Deserialize)]
struct StoredSums {
    tail: Vec<(i64, i128)>,
    ties: Vec<u64>,
    magnitudes: Vec<i128>,
    tiles: Vec<(i64, i128, i128)>,
}

/// A list that is stored as it is worked out.
struct Listed<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for Listed<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

impl Serialize for Sums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn steps() -> impl FnMut(i64, i128) -> (i64, i128) {
            let (mut at, mut sum) = (0, 0);
            move |place, upto| {
                let step = (place - at, upto - sum);
                (at, sum) = (place, upto);
                step
            }
        }
        let tail = || {
            let mut step = steps();
            self.tail.iter().map(move |amount| step(amount.place.0, amount.upto))
        };
        let tiles = || {
            let mut step = steps();
            self.tiles.iter().map(move |tile| {
                let (distance, amount) = step(tile.tile, tile.upto);
                (distance, amount, tile.magnitude)
            })
        };
        let tied = self.tail.iter().any(|amount| amount.place.1 != 0);
        let netted = self.tail.iter().zip(tail()).any(|(amount, (_, net))| amount.magnitude != net.abs());
        let of = |said: bool| if said { self.tail.as_slice() } else { &[] };
        let mut stored = serializer.serialize_struct("StoredSums", 4)?;
        stored.serialize_field("tail", &Listed(tail))?;
        stored.serialize_field("ties", &Listed(|| of(tied).iter().map(|amount| amount.place.1)))?;
        stored.serialize_field("magnitudes", &Listed(|| of(netted).iter().map(|amount| amount.magnitude)))?;
        stored.serialize_field("tiles", &Listed(tiles))?;
        stored.end()
    }
}

impl<'de> Deserialize<'de> for Sums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let StoredSums { tail, ties, magnitudes, tiles } = StoredSums::deserialize(deserializer)?;
        let (mut at, mut sum) = (0_i64, 0_i128);
        let tail = tail.into_iter().enumerate().map(|(index, (step, amount))| {
            (at, sum) = (at.wrapping_add(step), sum.wrapping_add(amount));
            let magnitude = magnitudes.get(index).copied().unwrap_or(amount.saturating_abs());
            Amount { place: (at, ties.get(index).copied().unwrap_or(0)), upto: sum, magnitude }
        });
        let tail = tail.collect();
        let (mut at, mut sum) = (0_i64, 0_i128);
        let tiles = tiles.into_iter().map(|(step, amount, magnitude)| {
            (at, sum) = (at.wrapping_add(step), sum.wrapping_add(amount));
            AmountTile { tile: at, upto: sum, magnitude }
        });
        Ok(Self { tail, tiles: tiles.collect() })
    }
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
fn merged<P: Ord, T>(one: Vec<(P, T)>, other: Vec<(P, T)>, mut join: impl FnMut(&mut T, T)) -> Vec<(P, T)> {
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
