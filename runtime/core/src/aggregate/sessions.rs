//! Sessions: stretches of events in which none is further than a gap from the one before it.
//!
//! The newest [`SESSIONS_MAX`] are kept with their bounds, older ones are counted. An event that comes so late that it would fall among those that
//! are only counted cannot be placed: [`Sessions::add`] says so, and the caller folds the history again in the order of time.

use serde::{Deserialize, Serialize};

/// Sessions that are kept with their bounds.
pub(crate) const SESSIONS_MAX: usize = 256;

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) began: i64,
    pub(crate) ended: i64,
    pub(crate) events: u64,
}

/// Sessions by time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sessions {
    /// Ascending, further apart than the gap.
    kept: Vec<Session>,
    /// How many there were before, and when the last of them ended.
    before: Option<(u64, i64)>,
    /// Whether histories were joined that reach into the time before, or events came too late: any session there may be one with others.
    blurred: bool,
}

impl Sessions {
    /// Takes in an event; false where it comes too late to be placed, or joins kept ones so that one of those before would have to be kept.
    pub(crate) fn add(&mut self, at: i64, gap_ms: i64) -> bool {
        if self.before.is_some_and(|(_, ended)| at <= ended.saturating_add(gap_ms)) {
            return false;
        }
        self.put(Session { began: at, ended: at, events: 1 }, gap_ms);
        self.forget();
        self.before.is_none() || self.kept.len() == SESSIONS_MAX
    }

    /// Counts an event that [`Self::add`] could not place: as a session of its own among those of which only a number is known.
    pub(crate) fn count_late(&mut self, at: i64, gap_ms: i64) {
        if let Some((count, ended)) = &mut self.before
            && at <= ended.saturating_add(gap_ms)
        {
            *count += 1;
            self.blurred = true;
        }
    }

    fn put(&mut self, session: Session, gap_ms: i64) {
        // Those that are near enough to become one with it stand side by side.
        let from = self.kept.partition_point(|held| held.ended.saturating_add(gap_ms) < session.began);
        let until = self.kept.partition_point(|held| held.began <= session.ended.saturating_add(gap_ms));
        let joined = self.kept[from..until].iter().fold(session, |joined, held| Session {
            began: joined.began.min(held.began),
            ended: joined.ended.max(held.ended),
            events: joined.events + held.events,
        });
        self.kept.splice(from..until, [joined]);
    }

    /// Counts what is too much to be kept.
    fn forget(&mut self) {
        let over = self.kept.len().saturating_sub(SESSIONS_MAX);
        if let Some(last) = over.checked_sub(1).map(|last| self.kept[last]) {
            let count = self.before.map_or(0, |(count, _)| count);
            self.before = Some((count + over as u64, last.ended));
            self.kept.drain(..over);
        }
    }

    /// Takes in the sessions of another history: what the events of both give, as far as it is exact.
    pub(crate) fn join(&mut self, other: &Self, gap_ms: i64) {
        other.kept.iter().for_each(|session| self.put(*session, gap_ms));
        let (one, two) = (self.before.is_some(), other.before.is_some());
        self.before = match (self.before, other.before) {
            (Some((one, ended)), Some((two, other))) => Some((one + two, ended.max(other))),
            (one, two) => one.or(two),
        };
        self.blurred |= other.blurred || (one && two);
        if let Some((count, ended)) = &mut self.before {
            // What lies in the time of which only a number is known is counted there too; what reaches out of it is kept.
            let inside = self.kept.partition_point(|session| session.ended <= *ended);
            *count += inside as u64;
            self.blurred |= self.kept.first().is_some_and(|first| first.began <= ended.saturating_add(gap_ms));
            self.kept.drain(..inside);
        }
        self.forget();
    }

    /// Whether nothing that only a number is known of can be part of a session.
    pub(crate) fn whole(&self, session: &Session, gap_ms: i64) -> bool {
        self.before.is_none_or(|(_, ended)| session.began > ended.saturating_add(gap_ms))
    }

    /// The session under way at an instant: none where its last event is further back than the gap.
    pub(crate) fn current(&self, at: i64, gap_ms: i64) -> Option<Session> {
        self.kept.last().copied().filter(|session| at <= session.ended.saturating_add(gap_ms))
    }

    /// How many began after an instant and up to another, and by how much that may be wrong.
    pub(crate) fn began_within(&self, after: i64, until: i64) -> (u64, u64) {
        let kept = self.kept.iter().filter(|session| session.began > after && session.began <= until).count() as u64;
        match self.before {
            Some((before, ended)) if after < ended => match after {
                i64::MIN if until >= ended => (before + kept, if self.blurred { before } else { 0 }),
                _ => (kept, before),
            },
            _ => (kept, 0),
        }
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.kept.capacity() * size_of::<Session>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GAP: i64 = 30;

    fn naive(mut events: Vec<i64>) -> Vec<Session> {
        events.sort_unstable();
        let mut sessions: Vec<Session> = Vec::new();
        for at in events {
            match sessions.last_mut() {
                Some(last) if at - last.ended <= GAP => (last.ended, last.events) = (at, last.events + 1),
                _ => sessions.push(Session { began: at, ended: at, events: 1 }),
            }
        }
        sessions
    }

    proptest! {
        #[test]
        fn sessions_come_out_the_same_in_any_order(events in prop::collection::vec(0_i64..2_000, 0..120), cut in any::<prop::sample::Index>()) {
            let sessions = |events: &[i64]| {
                let mut sessions = Sessions::default();
                events.iter().for_each(|at| assert!(sessions.add(*at, GAP)));
                sessions
            };
            let whole = sessions(&events);
            prop_assert_eq!(&whole.kept, &naive(events.clone()));
            let (left, right) = events.split_at(cut.index(events.len() + 1).min(events.len()));
            let mut joined = sessions(left);
            joined.join(&sessions(right), GAP);
            prop_assert_eq!(joined, whole);
        }
    }

    #[test]
    fn a_session_that_joins_kept_ones_brings_one_back_from_before() {
        let mut sessions = Sessions::default();
        (0..=SESSIONS_MAX as i64).for_each(|index| assert!(sessions.add(index * 50, GAP)));
        assert!(!sessions.add(5_025, GAP), "the history says which one");
    }

    #[test]
    fn a_session_under_way_survives_a_join_and_what_is_unsure_is_said() {
        const HOUR: i64 = 3_600_000;
        let (mut scattered, mut steady) = (Sessions::default(), Sessions::default());
        (0..300).for_each(|index| assert!(scattered.add(index * HOUR, HOUR / 2)));
        (0..900).for_each(|index| assert!(steady.add(index * HOUR / 3, HOUR / 2)));
        scattered.join(&steady, HOUR / 2);
        let (count, off) = scattered.began_within(i64::MIN, i64::MAX);
        assert!(count.abs_diff(1) <= off, "{count} ± {off}");
        let current = scattered.current(300 * HOUR, HOUR / 2).expect("under way");
        assert!(!scattered.whole(&current, HOUR / 2));
    }

    #[test]
    fn what_comes_too_late_to_be_placed_is_said() {
        let mut sessions = Sessions::default();
        for index in 0..300 {
            assert!(sessions.add(index * 100, GAP));
        }
        assert_eq!(sessions.began_within(i64::MIN, i64::MAX), (300, 0));
        assert_eq!(sessions.began_within(29_000, i64::MAX), (9, 0));
        assert_eq!(sessions.began_within(1_000, i64::MAX), (256, 44), "older ones are only counted");
        assert!(!sessions.add(50, GAP));
        let mut counted = sessions.clone();
        counted.count_late(50, GAP);
        assert_eq!(counted.began_within(i64::MIN, i64::MAX), (301, 45), "it may be one with others");
        assert!(sessions.add(29_950, GAP));
        assert_eq!(sessions.current(29_960, GAP), Some(Session { began: 29_950, ended: 29_950, events: 1 }));
        assert_eq!(sessions.current(29_990, GAP), None);
        let mut joined = sessions.clone();
        let mut other = Sessions::default();
        other.add(1_010, GAP);
        other.add(40_000, GAP);
        joined.join(&other, GAP);
        let (count, off) = joined.began_within(i64::MIN, i64::MAX);
        assert!(off > 0 && count.abs_diff(302) <= off, "{count} ± {off}");
    }
}
