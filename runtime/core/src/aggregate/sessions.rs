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
    /// How many of those before may have been counted wrongly, since histories were joined that overlap there.
    blurred: u64,
}

impl Sessions {
    /// Takes in an event; false where it comes too late to be placed.
    pub(crate) fn add(&mut self, at: i64, gap_ms: i64) -> bool {
        if self.before.is_some_and(|(_, ended)| at <= ended.saturating_add(gap_ms)) {
            return false;
        }
        self.put(Session { began: at, ended: at, events: 1 }, gap_ms);
        true
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
        if self.kept.len() > SESSIONS_MAX {
            let oldest = self.kept.remove(0);
            let (count, _) = self.before.unwrap_or_default();
            self.before = Some((count + 1, oldest.ended));
        }
    }

    /// Takes in the sessions of another history: what the events of both give, as far as it is exact.
    pub(crate) fn join(&mut self, other: &Self, gap_ms: i64) {
        let (one, two) = (self.before, other.before);
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(&other.kept);
        self.before = match (one, two) {
            (Some((one, ended)), Some((two, other))) => Some((one + two, ended.max(other))),
            (one, two) => one.or(two),
        };
        self.blurred += other.blurred;
        if let (Some((one, _)), Some((two, _))) = (one, two) {
            // Any of the fewer may have been one with some of the others.
            self.blurred += one.min(two);
        }
        let horizon = self.before.map_or(i64::MIN, |(_, ended)| ended.saturating_add(gap_ms));
        let mut early = Self::default();
        for session in kept {
            if session.began <= horizon { early.put(session, gap_ms) } else { self.put(session, gap_ms) }
        }
        if let Some((before, ended)) = &mut self.before {
            // What reaches into the time of which only a number is known is counted there; each may be one with others.
            let number = early.kept.len() as u64 + early.before.map_or(0, |(number, _)| number);
            *before += number;
            self.blurred += number;
            *ended = early.kept.iter().map(|session| session.ended).fold(*ended, i64::max);
        }
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
                i64::MIN if until >= ended => (before + kept, self.blurred),
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
    fn what_comes_too_late_to_be_placed_is_said() {
        let mut sessions = Sessions::default();
        for index in 0..300 {
            assert!(sessions.add(index * 100, GAP));
        }
        assert_eq!(sessions.began_within(i64::MIN, i64::MAX), (300, 0));
        assert_eq!(sessions.began_within(29_000, i64::MAX), (9, 0));
        assert_eq!(sessions.began_within(1_000, i64::MAX), (256, 44), "older ones are only counted");
        assert!(!sessions.add(50, GAP));
        assert!(sessions.add(29_950, GAP));
        assert_eq!(sessions.current(29_960, GAP), Some(Session { began: 29_950, ended: 29_950, events: 1 }));
        assert_eq!(sessions.current(29_990, GAP), None);
        let mut joined = sessions.clone();
        let mut other = Sessions::default();
        other.add(1_010, GAP);
        other.add(40_000, GAP);
        joined.join(&other, GAP);
        let (count, off) = joined.began_within(i64::MIN, i64::MAX);
        assert!(count.abs_diff(302) <= off && off == 1, "{count} ± {off}");
    }
}
