//! A series: amounts by event time, for sums over windows.
//!
//! The newest [`TAIL_MAX`] distinct instants are kept exactly; older ones are added up in tiles of 15 minutes UTC, a grid on which every
//! time zone in use today has its midnights, so calendar windows stay exact. A sliding window that opens inside a tile with an
//! amount leaves that tile out and says so. What no window can reach any more is dropped.

use serde::{Deserialize, Serialize};

use super::insert_tight;

/// Distinct instants that are kept exactly.
pub(crate) const TAIL_MAX: usize = 256;
const TILE_MS: i64 = 15 * 60 * 1000;

/// Amounts by event time. Canonical: the same set of insertions gives the same value, in whatever order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// (instant, amount), ascending, instants distinct.
    tail: Vec<(i64, i128)>,
    /// (tile number, amount), ascending, tile numbers distinct.
    tiles: Vec<(i64, i128)>,
}

impl Series {
    /// Adds an amount at an instant; `reach_ms` is the longest window's.
    pub(crate) fn insert(&mut self, at: i64, amount: i64, reach_ms: i64) {
        let newest = self.tail.last().map_or(at, |last| last.0.max(at));
        if at <= newest - reach_ms {
            return;
        }
        let full = self.tail.len() >= TAIL_MAX;
        if full && self.tail.first().is_some_and(|oldest| at < oldest.0) {
            add(&mut self.tiles, at.div_euclid(TILE_MS), i128::from(amount));
        } else {
            add(&mut self.tail, at, i128::from(amount));
        }
        if self.tail.len() > TAIL_MAX {
            let (instant, oldest) = self.tail.remove(0);
            add(&mut self.tiles, instant.div_euclid(TILE_MS), oldest);
        }
        self.drop_until(newest - reach_ms);
    }

    /// Takes in another series: what inserting the amounts of both gives.
    ///
    /// An instant in a tile has [`TAIL_MAX`] newer ones in its own series, so it is in the tail of neither nor of both together.
    pub(crate) fn join(&mut self, other: &Self, reach_ms: i64) {
        self.tail = joined(&self.tail, &other.tail);
        self.tiles = joined(&self.tiles, &other.tiles);
        let Some(newest) = self.tail.last().map(|last| last.0) else { return };
        let over = self.tail.len().saturating_sub(TAIL_MAX);
        for (instant, amount) in self.tail.drain(..over) {
            add(&mut self.tiles, instant.div_euclid(TILE_MS), amount);
        }
        self.drop_until(newest - reach_ms);
    }

    /// The sum of all amounts after an instant, and whether it is exact.
    pub(crate) fn sum_after(&self, opens_after: i64) -> (i128, bool) {
        let first = self.tail.partition_point(|(at, _)| *at <= opens_after);
        let mut sum: i128 = self.tail[first..].iter().map(|(_, amount)| amount).sum();
        let mut exact = true;
        for (tile, amount) in self.tiles.iter().rev() {
            let (begins, ends) = (tile * TILE_MS, (tile + 1) * TILE_MS);
            if begins > opens_after {
                sum += amount;
            } else if ends - 1 > opens_after {
                exact = false;
            } else {
                break;
            }
        }
        (sum, exact)
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        (self.tail.capacity() + self.tiles.capacity()) * size_of::<(i64, i128)>()
    }

    fn drop_until(&mut self, at: i64) {
        let tiles = self.tiles.partition_point(|(tile, _)| (tile + 1) * TILE_MS - 1 <= at);
        self.tiles.drain(..tiles);
        let tail = self.tail.partition_point(|(instant, _)| *instant <= at);
        self.tail.drain(..tail);
    }
}

/// The entries of both lists, ascending, equal positions added up.
fn joined(one: &[(i64, i128)], other: &[(i64, i128)]) -> Vec<(i64, i128)> {
    let mut joined = Vec::with_capacity(one.len() + other.len());
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        match a.0.cmp(&b.0) {
            std::cmp::Ordering::Less => joined.extend(left.next()),
            std::cmp::Ordering::Greater => joined.extend(right.next()),
            std::cmp::Ordering::Equal => {
                joined.push((a.0, a.1 + b.1));
                left.next();
                right.next();
            }
        }
    }
    joined.extend(left);
    joined.extend(right);
    joined
}

/// Adds to the entry of a position, keeping the list ascending.
fn add(list: &mut Vec<(i64, i128)>, position: i64, amount: i128) {
    match list.binary_search_by_key(&position, |entry| entry.0) {
        Ok(found) => list[found].1 += amount,
        Err(gap) => insert_tight(list, gap, (position, amount)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REACH: i64 = 100 * 24 * 3_600_000;

    fn series(entries: &[(i64, i64)]) -> Series {
        let mut series = Series::default();
        entries.iter().for_each(|(at, amount)| series.insert(*at, *amount, REACH));
        series
    }

    proptest! {
        /// Minutes over forty days, so that the tail overflows into tiles and instants repeat.
        #[test]
        fn any_order_gives_the_same_series_and_naive_sums(
            entries in prop::collection::vec((0_i64..60_000, -500_i64..500), 0..700),
            shuffled_by in any::<u64>(),
            opens in 0_i64..60_000,
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(minute, amount)| (minute * 60_000, amount)).collect();
            let mut other = entries.clone();
            let mut state = shuffled_by | 1;
            for index in (1..other.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                other.swap(index, (state >> 33) as usize % (index + 1));
            }
            let one = series(&entries);
            prop_assert_eq!(&one, &series(&other));
            let (left, right) = other.split_at(other.len() / 3);
            let mut joined = series(left);
            joined.join(&series(right), REACH);
            prop_assert_eq!(&one, &joined, "parts joined");
            for opens_after in [opens * 60_000, opens / 15 * 900_000 - 1] {
                let naive: i64 = entries.iter().filter(|(at, _)| *at > opens_after).map(|(_, amount)| amount).sum();
                let (sum, exact) = one.sum_after(opens_after);
                prop_assert!(!exact || sum == i128::from(naive), "{sum} is not {naive}");
                if opens_after % 900_000 == 900_000 - 1 {
                    prop_assert!(exact, "a window that opens on the grid is exact");
                }
            }
        }
    }

    #[test]
    fn what_no_window_reaches_is_dropped() {
        let mut series = series(&[(0, 1), (REACH - 1, 2)]);
        assert_eq!(series.sum_after(-1), (3, true));
        series.insert(REACH, 4, REACH);
        assert_eq!(series.sum_after(-1), (6, true));
        series.insert(0, 8, REACH);
        assert_eq!(series.sum_after(-1), (6, true));
    }
}
