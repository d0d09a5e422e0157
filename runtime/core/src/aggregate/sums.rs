//! Amounts by the time of their events, as running totals, so that any window is one difference.

mod tail;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::tail::{Amount, Tail};
use super::exactness::{Exactness, Off};
use super::series::{Need, Range, TAIL_MAX, TILE_MS, end_of, merged, tile_of};
use super::state::When;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    tail: Tail,
    /// None, as with most, or some.
    tiles: Option<Box<[AmountTile]>>,
}

impl Sums {
    /// Without any.
    pub(crate) const NOTHING: Self = Self { tail: Tail::NONE, tiles: None };

    /// Adds an amount.
    pub(crate) fn insert(&mut self, when: &When, amount: i64, need: Need) {
        let (place, amount) = (need.place(when), i128::from(amount));
        let newest = self.newest().map_or(when.at.0, |newest| newest.max(when.at.0));
        match self.tail.first_place() {
            Some(oldest) if self.tail.len() >= TAIL_MAX && place < oldest => {
                self.put_in_tile(tile_of(place.0), amount, amount.abs());
            }
            _ => self.tail.add(place, amount, amount.abs()),
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
        *self = Self { tiles: some(tiles), tail };
        if let Some(newest) = self.newest() {
            self.settle(newest, need);
        }
    }

    /// By place: what was added there, and its magnitude.
    fn amounts(&self) -> Vec<((i64, u64), (i128, i128))> {
        let mut before = 0;
        let own = self
            .tail
            .iter()
            .map(|Amount { place, upto, magnitude }| (place, (upto - std::mem::replace(&mut before, upto), magnitude)));
        own.collect()
    }

    fn tile_amounts(&self) -> Vec<(i64, (i128, i128))> {
        let before = [0].into_iter().chain(self.tiles().iter().map(|tile| tile.upto));
        let own = self.tiles().iter().zip(before);
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
                Sum { value: self.tail.sum_of(self.tail.len()) - self.tail.sum_of(first), ..Sum::default() }
            }
        }
    }

    #[inline]
    fn after(&self, after: i64) -> Sum {
        let first = self.tail.count_until(after);
        let mut sum = Sum { value: self.tail.sum_of(self.tail.len()) - self.tail.sum_of(first), ..Sum::default() };
        // What is in tiles is older than the tail: it matters only to a range that takes in all of that.
        if let (0, Some(last)) = (first, self.tiles().last()) {
            let begun = self.tiles().partition_point(|tile| tile.tile * TILE_MS <= after);
            let before = begun.checked_sub(1).map(|index| &self.tiles()[index]);
            sum.value += last.upto - before.map_or(0, |tile| tile.upto);
            sum.off = before.filter(|tile| end_of(tile.tile) > after).map_or(0, |astride| astride.magnitude);
        }
        sum
    }

    /// The first instant behind another at which what comes after it is less: a window that begins there takes in the same until it begins at that one.
    pub(crate) fn same_until(&self, after: i64) -> i64 {
        let first = self.tail.count_until(after);
        let in_tail = self.tail.at(first);
        // What is in tiles is older than the tail.
        let begun = self.tiles().partition_point(|tile| tile.tile * TILE_MS <= after);
        let in_tiles = self.tiles().get(begun).filter(|_| first == 0).map(|tile| tile.tile * TILE_MS);
        in_tiles.or(in_tail).unwrap_or(i64::MAX)
    }

    fn tiles(&self) -> &[AmountTile] {
        self.tiles.as_deref().unwrap_or_default()
    }

    fn newest(&self) -> Option<i64> {
        self.tail.newest()
    }

    fn put_in_tile(&mut self, tile: i64, amount: i128, magnitude: i128) {
        let mut tiles = self.tiles.take().map_or(Vec::new(), Vec::from);
        let index = tiles.partition_point(|held| held.tile < tile);
        if tiles.get(index).is_none_or(|held| held.tile != tile) {
            let upto = index.checked_sub(1).map_or(0, |before| tiles[before].upto);
            tiles.reserve_exact(1);
            tiles.insert(index, AmountTile { tile, upto, magnitude: 0 });
        }
        tiles[index].magnitude += magnitude;
        tiles[index..].iter_mut().for_each(|later| later.upto += amount);
        self.tiles = some(tiles);
    }

    /// Moves what is too much for the tail into tiles and drops what no window reaches.
    fn settle(&mut self, newest: i64, need: Need) {
        let floor = need.floor(newest);
        let over = self.tail.len().saturating_sub(TAIL_MAX);
        for Amount { place, upto, magnitude } in self.tail.take_oldest(over) {
            self.put_in_tile(tile_of(place.0), upto, magnitude);
        }
        let gone = self.tail.count_until(floor.saturating_mul(TILE_MS).saturating_sub(1));
        self.tail.take_oldest(gone.min(self.tail.len().saturating_sub(need.last)));
        let gone = self.tiles().partition_point(|tile| tile.tile < floor);
        if gone > 0 {
            let (dropped, left) = self.tiles().split_at(gone);
            let before = dropped.last().map_or(0, |last| last.upto);
            self.tiles = some(left.iter().map(|tile| AmountTile { upto: tile.upto - before, ..*tile }));
        }
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.tail.weight() + size_of_val::<[AmountTile]>(self.tiles())
    }
}

fn some(tiles: impl IntoIterator<Item = AmountTile>) -> Option<Box<[AmountTile]>> {
    let tiles: Box<[AmountTile]> = tiles.into_iter().collect();
    (!tiles.is_empty()).then_some(tiles)
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
            self.tiles().iter().map(move |tile| {
                let (distance, amount) = step(tile.tile, tile.upto);
                (distance, amount, tile.magnitude)
            })
        };
        let tied = self.tail.iter().any(|amount| amount.place.1 != 0);
        let netted = self.tail.iter().zip(tail()).any(|(amount, (_, net))| amount.magnitude != net.abs());
        let of = |said: bool| self.tail.iter().take(if said { self.tail.len() } else { 0 });
        let mut stored = serializer.serialize_struct("StoredSums", 4)?;
        stored.serialize_field("tail", &Listed(tail))?;
        stored.serialize_field("ties", &Listed(|| of(tied).map(|amount| amount.place.1)))?;
        stored.serialize_field("magnitudes", &Listed(|| of(netted).map(|amount| amount.magnitude)))?;
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
        Ok(Self { tail, tiles: some(tiles) })
    }
}
