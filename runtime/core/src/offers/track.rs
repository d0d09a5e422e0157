//! Tracks: when one thing happened, exactly for the newest instants, in tiles for older ones.
//!
//! The newest [`EXACT_MAX`] instants are kept one by one; what is older is merged into quarters of an hour UTC, the newest [`QUARTERS_MAX`] of
//! them, and what is older still into days UTC, as far back as [`KEPT_MS`]. So whether something happened n times within a window is told
//! exactly for every n up to [`EXACT_MAX`], whatever the window; beyond that a tile counts as a whole as long as any of it lies within.
//! Canonical: the same set of insertions gives the same track, in whatever order, and a join is the insertion of both.

use std::ops::Range;

/// Instants that are kept one by one.
pub const EXACT_MAX: usize = 32;
/// Quarters of an hour that are kept of what is older.
pub const QUARTERS_MAX: usize = 32;
/// How far back days are kept, counted from the newest instant: what the longest window reaches.
pub const KEPT_MS: i64 = 400 * DAY_MS;

const QUARTER_MS: i64 = 15 * 60 * 1000;
const DAY_MS: i64 = crate::time::DAY_MS;

/// How much time a mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Width {
    Day,
    Quarter,
    Exact,
}

impl Width {
    /// Of a width as it is stored.
    pub(super) fn stored(code: u64) -> Self {
        match code {
            0 => Self::Day,
            1 => Self::Quarter,
            _ => Self::Exact,
        }
    }

    fn ms(self, exact_ms: i64) -> i64 {
        match self {
            Self::Day => DAY_MS,
            Self::Quarter => QUARTER_MS,
            Self::Exact => exact_ms,
        }
    }

    fn begin(self, at: i64) -> i64 {
        match self {
            Self::Day => at.saturating_sub(at.rem_euclid(DAY_MS)),
            Self::Quarter => at.saturating_sub(at.rem_euclid(QUARTER_MS)),
            Self::Exact => at,
        }
    }
}

/// Something that happened so many times at an instant, or within a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The instant, or the tile's first one.
    pub(super) at: i64,
    pub(super) count: u32,
    pub(super) width: Width,
}

impl Mark {
    /// Whether it stands for an instant.
    pub(super) fn covers(&self, at: i64) -> bool {
        self.width.begin(at) == self.at
    }
}

/// A track on its way into a list that holds many, of which it is some.
pub(super) struct Track<'m> {
    pub(super) marks: &'m mut Vec<Mark>,
    pub(super) range: Range<usize>,
}

impl Track<'_> {
    /// Adds what happened at an instant. Where that is known already, or its tile is, nothing moves.
    pub(super) fn insert(&mut self, at: i64, count: u32) {
        self.put(Width::Exact, at, count);
        self.settle();
    }

    /// Adds marks of another track.
    pub(super) fn join(&mut self, others: &[Mark]) {
        others.iter().for_each(|other| self.put(other.width, other.at, other.count));
        self.settle();
    }

    fn put(&mut self, width: Width, at: i64, count: u32) {
        let at = width.begin(at);
        let own = &mut self.marks[self.range.clone()];
        let first = own.partition_point(|mark| mark.width < width);
        let last = own.partition_point(|mark| mark.width <= width);
        // Most of what comes is the newest.
        let place = match own[first..last].last() {
            Some(newest) if newest.at < at => last,
            _ => first + own[first..last].partition_point(|mark| mark.at < at),
        };
        if let Some(held) = own.get_mut(place).filter(|held| place < last && held.at == at) {
            held.count = held.count.saturating_add(count);
            return;
        }
        let most = match width {
            Width::Exact => EXACT_MAX,
            Width::Quarter => QUARTERS_MAX,
            Width::Day => usize::MAX,
        };
        let wider = if width == Width::Exact { Width::Quarter } else { Width::Day };
        let mark = Mark { at, count, width };
        if last - first < most {
            let place = self.range.start + place;
            super::insert_tight(self.marks, place, mark);
            self.range.end += 1;
        } else if place == first {
            self.put(wider, at, count);
        } else {
            // The oldest gives way: those between move up by one.
            let oldest = own[first];
            own.copy_within(first + 1..place, first);
            own[place - 1] = mark;
            self.put(wider, oldest.at, oldest.count);
        }
    }

    /// Forgets the days that no window reaches.
    fn settle(&mut self) {
        let own = &self.marks[self.range.clone()];
        let Some(newest) = own.last() else { return };
        let floor = Width::Day.begin(newest.at.saturating_sub(KEPT_MS));
        let gone = own.iter().take_while(|mark| mark.width == Width::Day && mark.at < floor).count();
        if gone > 0 {
            self.marks.drain(self.range.start..self.range.start + gone);
            self.range.end -= gone;
        }
    }
}

/// Until when each of the marks lasts and how often it happened then, the newest first; `exact_ms` is how long an exact mark lasts.
#[inline]
pub(super) fn ends(marks: &[Mark], exact_ms: i64) -> impl Iterator<Item = (i64, u32)> + '_ {
    let mut newer = i64::MAX;
    marks.iter().rev().map(move |mark| {
        // What is in a tile is older than whatever stands beside it, though the tile reaches further.
        newer = newer.min(mark.at.saturating_add(mark.width.ms(exact_ms)));
        (newer, mark.count)
    })
}

/// How often it happened so late that the time it stands for ends after `bound`, up to `enough` times.
#[inline]
pub(super) fn count_after(marks: &[Mark], exact_ms: i64, bound: i64, enough: u32) -> u32 {
    let mut count = 0_u32;
    for (end, times) in ends(marks, exact_ms) {
        if end <= bound || count >= enough {
            break;
        }
        count = count.saturating_add(times);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn track(at: &[i64]) -> Vec<Mark> {
        let mut marks = Vec::new();
        for at in at {
            let range = 0..marks.len();
            Track { marks: &mut marks, range }.insert(*at, 1);
        }
        marks
    }

    fn joined(one: &[Mark], other: &[Mark]) -> Vec<Mark> {
        let mut marks = one.to_vec();
        let range = 0..marks.len();
        Track { marks: &mut marks, range }.join(other);
        marks
    }

    fn minutes(range: Range<i64>) -> Vec<i64> {
        range.map(|minute| minute * 60_000).collect()
    }

    #[test]
    fn older_marks_are_merged_into_tiles_and_the_oldest_forgotten() {
        let marks = track(&minutes(0..2_000));
        let of = |width| marks.iter().filter(move |mark| mark.width == width);
        assert_eq!(of(Width::Exact).count(), EXACT_MAX);
        assert_eq!(of(Width::Quarter).count(), QUARTERS_MAX);
        assert_eq!(marks.iter().map(|mark| mark.count).sum::<u32>(), 2_000);
        assert!(of(Width::Day).count() <= 2);
        let later = joined(&marks, &track(&[KEPT_MS + 2 * DAY_MS]));
        assert_eq!(later.iter().filter(|mark| mark.width == Width::Day).count(), 0);
    }

    #[test]
    fn a_known_instant_moves_nothing() {
        let mut marks = track(&minutes(0..200));
        let (before, capacity) = (marks.clone(), marks.capacity());
        for at in [199 * 60_000, 190 * 60_000, 100 * 60_000] {
            let range = 0..marks.len();
            Track { marks: &mut marks, range }.insert(at, 1);
        }
        assert_eq!((marks.len(), marks.capacity()), (before.len(), capacity));
    }

    proptest! {
        #[test]
        fn the_order_of_what_comes_does_not_show(
            mut at in proptest::collection::vec(0_i64..40_000_000_000, 0..300),
            split in any::<prop::sample::Index>(),
            dense in 1_i64..50_000,
        ) {
            // Both thinly and densely spread.
            at.iter_mut().for_each(|at| *at = *at / dense * 60_000 % 60_000_000_000);
            let whole = track(&at);
            let cut = if at.is_empty() { 0 } else { split.index(at.len()) };
            let (one, other) = (track(&at[..cut]), track(&at[cut..]));
            prop_assert_eq!(&joined(&one, &other), &whole);
            prop_assert_eq!(&joined(&other, &one), &whole);
            at.reverse();
            prop_assert_eq!(&track(&at), &whole);
            at.sort_unstable();
            prop_assert_eq!(&track(&at), &whole);
        }

        #[test]
        fn joins_are_associative(
            parts in proptest::collection::vec(proptest::collection::vec(0_i64..3_000, 0..90), 3),
        ) {
            let parts: Vec<_> =
                parts.iter().map(|part| track(&part.iter().map(|at| at * 600_000).collect::<Vec<_>>())).collect();
            let left = joined(&joined(&parts[0], &parts[1]), &parts[2]);
            prop_assert_eq!(left, joined(&parts[0], &joined(&parts[1], &parts[2])));
        }

        #[test]
        fn up_to_the_exact_marks_every_window_is_told_exactly(
            at in proptest::collection::vec(0_i64..2_000, 1..300),
            bound in 0_i64..2_000,
            most in 1_u32..=32,
        ) {
            let at: Vec<i64> = at.into_iter().map(|at| at * 60_000).collect();
            let marks = track(&at);
            let bound = bound * 60_000 + 30_000;
            let naive = at.iter().filter(|at| **at + 60_000 > bound).count() as u32;
            let counted = count_after(&marks, 60_000, bound, most);
            prop_assert_eq!(counted >= most, naive >= most);
            // And whatever the number, never too few.
            prop_assert!(count_after(&marks, 60_000, bound, u32::MAX) >= naive);
        }
    }
}
