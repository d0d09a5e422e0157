//! Series: what contributions add up to, by the time of their events, for windows.
//!
//! The newest [`TAIL_MAX`] instants are kept exactly; older ones are merged into tiles of 15 minutes UTC, a grid on which every time zone in use
//! today has its midnights, so calendar windows stay exact. A window that opens or closes inside a tile leaves that tile out and says so.
//! What no window can reach any more is dropped. [`Sums`] holds amounts, as running totals, so that any window is one difference; [`Series`]
//! holds summaries of any other operator.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
        let mut before = 0;
        for Amount { place, upto, magnitude } in &other.tail {
            self.put_in_tail(*place, upto - before, *magnitude);
            before = *upto;
        }
        let mut before = 0;
        for AmountTile { tile, upto, magnitude } in &other.tiles {
            self.put_in_tile(*tile, upto - before, *magnitude);
            before = *upto;
        }
        if let Some(newest) = self.newest() {
            self.settle(newest, need);
        }
    }

    /// The sum over a range.
    pub(crate) fn sum(&self, range: Range) -> Sum {
        match range {
            Range::Between(after, until) => {
                let mut sum = self.after(after);
                if self.newest().is_some_and(|newest| newest > until) {
                    let later = self.after(until);
                    sum = Sum { value: sum.value - later.value, off: sum.off + later.off };
                }
                sum
            }
            Range::Last(count) => {
                let first = self.tail.len().saturating_sub(count);
                Sum { value: self.total() - self.tail_before(first), off: 0 }
            }
        }
    }

    fn after(&self, after: i64) -> Sum {
        let first = self.first_after(after);
        let mut sum = Sum { value: self.total() - self.tail_before(first), off: 0 };
        // What is in tiles is older than the tail: it matters only to a range that takes in all of that.
        if let (0, Some(last)) = (first, self.tiles.last()) {
            let begun = self.tiles.partition_point(|tile| tile.tile * TILE_MS <= after);
            let before = begun.checked_sub(1).map(|index| &self.tiles[index]);
            sum.value += last.upto - before.map_or(0, |tile| tile.upto);
            sum.off = before.filter(|tile| end_of(tile.tile) > after).map_or(0, |astride| astride.magnitude);
        }
        sum
    }

    /// Where in the tail a window begins: most begin near its end, so the search does.
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
#[derive(Serialize, Deserialize)]
struct StoredSums {
    tail: Vec<(i64, i128)>,
    ties: Vec<u64>,
    magnitudes: Vec<i128>,
    tiles: Vec<(i64, i128, i128)>,
}

impl Serialize for Sums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut at, mut sum) = (0, 0);
        let mut steps = |place: i64, upto: i128| {
            let stored = (place - at, upto - sum);
            (at, sum) = (place, upto);
            stored
        };
        let tail: Vec<_> = self.tail.iter().map(|amount| steps(amount.place.0, amount.upto)).collect();
        let tied = self.tail.iter().any(|amount| amount.place.1 != 0);
        let ties = self.tail.iter().filter(|_| tied).map(|amount| amount.place.1).collect();
        let netted = self.tail.iter().zip(&tail).any(|(amount, (_, net))| amount.magnitude != net.abs());
        let magnitudes = self.tail.iter().filter(|_| netted).map(|amount| amount.magnitude).collect();
        let (mut at, mut sum) = (0, 0);
        let tiles = self.tiles.iter().map(|tile| {
            let stored = (tile.tile - at, tile.upto - sum, tile.magnitude);
            (at, sum) = (tile.tile, tile.upto);
            stored
        });
        StoredSums { ties, magnitudes, tiles: tiles.collect(), tail }.serialize(serializer)
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
    /// Takes in a contribution; false where a plugin's own operator failed.
    pub(crate) fn insert(&mut self, merge: &Merge, contribution: &Contribution, when: &When) -> bool {
        let place = merge.need.place(when);
        let newest = self.newest().map_or(when.at.0, |newest| newest.max(when.at.0));
        let (summary, before) = match self.tail.first() {
            Some(oldest) if (self.cut || self.tail.len() >= TAIL_MAX) && place < oldest.0 => {
                entry(&mut self.tiles, tile_of(place.0), merge)
            }
            _ => entry(&mut self.tail, place, merge),
        };
        let applied = merge.apply_to(summary, contribution, when, true);
        self.cells = self.cells + summary.cells() - before;
        self.settle(merge, newest) && applied
    }

    /// Takes in another series; see [`Sums::join`].
    pub(crate) fn join(&mut self, merge: &Merge, other: &Self) -> bool {
        let mut joined = true;
        for (place, summary) in &other.tail {
            joined &= self.put(merge, summary, |series| &mut series.tail, *place);
        }
        for (tile, summary) in &other.tiles {
            joined &= self.put(merge, summary, |series| &mut series.tiles, *tile);
        }
        self.forgotten = self.forgotten.max(other.forgotten);
        self.cut |= other.cut;
        match self.newest() {
            Some(newest) => self.settle(merge, newest) && joined,
            None => joined,
        }
    }

    fn put<P: Ord + Copy>(
        &mut self,
        merge: &Merge,
        summary: &Summary,
        list: impl Fn(&mut Self) -> &mut Vec<(P, Summary)>,
        place: P,
    ) -> bool {
        let (held, before) = entry(list(self), place, merge);
        let joined = merge.join_to(held, summary, true);
        let after = held.cells();
        self.cells = self.cells + after - before;
        joined
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

    fn settle(&mut self, merge: &Merge, newest: i64) -> bool {
        let floor = merge.need.floor(newest);
        let mut settled = true;
        loop {
            let crowded = self.cells > CELLS_MAX && self.tail.len() > 1;
            if self.tail.len() <= TAIL_MAX && !crowded {
                break;
            }
            self.cut |= crowded;
            let (place, summary) = self.tail.remove(0);
            self.cells -= summary.cells();
            settled &= self.put(merge, &summary, |series| &mut series.tiles, tile_of(place.0));
            let gone = self.tiles.partition_point(|(tile, _)| *tile < floor);
            self.drop_tiles(gone);
            // Merged, summaries that share keys take less room; where that is not enough the oldest go.
            if crowded && self.cells > CELLS_MAX && self.tail.len() == 1 {
                let forgotten = self.tiles.len().div_ceil(2);
                let until = forgotten.checked_sub(1).map(|last| end_of(self.tiles[last].0));
                self.forgotten = self.forgotten.max(until);
                self.drop_tiles(forgotten);
            }
        }
        let gone = self.tail.partition_point(|(place, _)| tile_of(place.0) < floor);
        let gone = gone.min(self.tail.len().saturating_sub(merge.need.last));
        let cells: usize = self.tail.drain(..gone).map(|(_, summary)| summary.cells()).sum();
        self.cells -= cells;
        self.drop_tiles(self.tiles.partition_point(|(tile, _)| *tile < floor));
        settled
    }

    fn drop_tiles(&mut self, count: usize) {
        let cells: usize = self.tiles.drain(..count).map(|(_, summary)| summary.cells()).sum();
        self.cells -= cells;
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let held = self.tail.iter().map(|(_, summary)| summary).chain(self.tiles.iter().map(|(_, summary)| summary));
        self.tail.capacity() * size_of::<((i64, u64), Summary)>()
            + self.tiles.capacity() * size_of::<(i64, Summary)>()
            + held.map(Summary::weight).sum::<usize>()
    }
}

/// The summary at a place, made empty where there is none, and the elements that it had.
fn entry<'l, P: Ord + Copy>(list: &'l mut Vec<(P, Summary)>, place: P, merge: &Merge) -> (&'l mut Summary, usize) {
    let (index, before) = match list.binary_search_by_key(&place, |held| held.0) {
        Ok(found) => (found, list[found].1.cells()),
        Err(gap) => {
            insert_tight(list, gap, (place, merge.empty_summary()));
            (gap, 0)
        }
    };
    (&mut list[index].1, before)
}
