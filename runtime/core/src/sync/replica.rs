//! A followed shard: what to do with what the centre says of its log, and how fresh the base is.
//!
//! Pure: it is told what arrived and when, and says what to do. Whoever drives it feeds one stream at a time, in the order of the stream; what is left of an earlier stream
//! is dropped, not fed.

use std::collections::VecDeque;

use super::{Entry, Head, Refetch};
use crate::change::{CHANGE_VERSION, Change, ChangeError};
use crate::view::Cursor;

/// Live: the base held, no longer ago than this, all that the centre had.
pub const LIVE_MS: i64 = 2_000;
/// Offline: the centre was last heard longer ago than this.
pub const OFFLINE_MS: i64 = 10_000;
/// For so long the centre may say a head behind the base before that is believed: one of several central processes may lag a little behind the others.
pub const BEHIND_MS: i64 = 2_000;
/// For so long heads may say that there is more while nothing of it comes; then the stream is asked for again.
pub const STALLED_MS: i64 = 3_000;
/// Gaps in a row after which asking again is given up.
pub const GAPS_MAX: u8 = 3;
/// Heads that wait for the base to reach them.
const HEADS_MAX: usize = 64;

/// The state machine of one followed shard.
#[derive(Clone, Debug)]
pub struct Replica {
    applied: Cursor,
    checksum: u64,
    /// The last entry that was given out to be applied.
    taken: u64,
    mode: Mode,
    connected: bool,
    contact: Option<i64>,
    /// The newest time at which the centre said a head that the base has reached.
    fresh: Option<i64>,
    head: Option<Head>,
    /// Heads above the base, ascending, and when they were said last.
    ahead: VecDeque<(i64, Head)>,
    /// Since when the centre says heads behind the base.
    behind_since: Option<i64>,
    /// Since when heads say that there is more, and nothing of it has come.
    stalled_since: Option<i64>,
    gaps: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Following,
    Bootstrapping,
    Halted,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Apply these entries but for the first few, which the base has, then say so by [`Replica::on_applied`].
    Apply {
        /// How many to leave out.
        skip: usize,
    },
    /// Drop the stream and ask again from [`Replica::after`].
    Resume(Why),
    /// Take a snapshot, or begin at nothing where there is none, then say so by [`Replica::on_bootstrapped`].
    Bootstrap(Why),
    /// Stop following until this build is upgraded. What is held is served.
    Halt(Why),
    /// Leave it.
    Ignore(Why),
    /// All is well.
    Nothing,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Nothing was ever followed.
    #[error("the shard was never followed")]
    Empty,
    /// The log was restored or failed over.
    #[error("the log is in epoch {centre}, the base in {base}")]
    Epoch {
        /// The centre's.
        centre: u32,
        /// The base's.
        base: u32,
    },
    /// An entry is missing.
    #[error("entry {got} follows entry {after}")]
    Gap {
        /// The last one before it.
        after: u64,
        /// The one that came.
        got: u64,
    },
    /// Entries that the centre has do not come.
    #[error("the log ends at {head}, and nothing after entry {base} has come for {STALLED_MS} ms")]
    Stalled {
        /// The centre's last entry.
        head: u64,
        /// The last that came.
        base: u64,
    },
    /// The base holds what the centre does not.
    #[error("the log ends at {head}, the base at {base}")]
    Behind {
        /// The centre's last entry.
        head: u64,
        /// The base's.
        base: u64,
    },
    /// The base was made from another log.
    #[error("the checksums differ at entry {seq}")]
    Checksum {
        /// Where both stand.
        seq: u64,
    },
    /// What comes next is gone from the log.
    #[error("the log begins at {first}, the base ends at {base}")]
    Trimmed {
        /// The first entry that can be read.
        first: u64,
        /// The base's last.
        base: u64,
    },
    /// The centre says so.
    #[error("the centre asks for it: {0:?}")]
    Refetch(Refetch),
    /// It was applied, or is being applied.
    #[error("all of it is known up to {0}")]
    Known(u64),
    /// A snapshot is being taken.
    #[error("a snapshot is being taken")]
    Bootstrapping,
    /// Following was stopped.
    #[error("following was stopped")]
    Halted,
    /// An entry that this build cannot read.
    #[error("entry {seq} is of kind {kind}, which this build cannot read; upgrade selvedge at this edge")]
    Unreadable {
        /// Its sequence.
        seq: u64,
        /// Its kind byte.
        kind: u8,
    },
}

/// How fresh a base is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// In a word.
    pub state: State,
    /// Now less the newest time at which the centre said a head that the base has reached; none where it has not reached any since the start.
    pub lag_ms: Option<u64>,
}

/// Freshness in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The lag is at most [`LIVE_MS`].
    Live,
    /// Connected; the base is behind the head, and on its way.
    CatchingUp,
    /// The centre was heard within [`OFFLINE_MS`], but the lag is above [`LIVE_MS`] and nothing is on its way: the connection is gone, heads do not come, or following was stopped.
    Stale,
    /// The centre was not heard for [`OFFLINE_MS`].
    Offline,
    /// A snapshot is being taken; what was held before is served.
    Bootstrapping,
}

impl State {
    /// As answers say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::CatchingUp => "catching-up",
            Self::Stale => "stale",
            Self::Offline => "offline",
            Self::Bootstrapping => "bootstrapping",
        }
    }
}

impl Replica {
    /// A base as it was found on disk. Where nothing was ever followed the cursor's epoch is 0, and the first that the centre says leads to a snapshot.
    pub fn new(cursor: Cursor, checksum: u64) -> Self {
        Self {
            applied: cursor,
            checksum,
            taken: cursor.seq,
            mode: Mode::Following,
            connected: false,
            contact: None,
            fresh: None,
            head: None,
            ahead: VecDeque::new(),
            behind_since: None,
            stalled_since: None,
            gaps: 0,
        }
    }

    /// From where to ask for entries: what was given out to be applied is not asked for again.
    pub fn after(&self) -> Cursor {
        Cursor { epoch: self.applied.epoch, seq: self.taken }
    }

    /// Up to where the base is applied.
    pub fn cursor(&self) -> Cursor {
        self.applied
    }

    /// What the centre said last of its log.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// A stream has begun.
    pub fn on_connected(&mut self, now: i64) {
        self.connected = true;
        self.stalled_since = None;
        self.on_contact(now);
    }

    /// The stream has ended.
    pub fn on_disconnected(&mut self) {
        self.connected = false;
    }

    /// Something arrived from the centre that says nothing of the log, such as a chunk of a snapshot.
    pub fn on_contact(&mut self, now: i64) {
        self.contact = self.contact.max(Some(now));
    }

    /// Entries of the log have arrived.
    pub fn on_changes(&mut self, now: i64, epoch: u32, entries: &[Entry]) -> Step {
        self.on_contact(now);
        if let Some(why) = self.idle() {
            return Step::Ignore(why);
        }
        if let Some(why) = self.other_epoch(epoch) {
            return self.bootstrap(why);
        }
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Step::Nothing };
        let broken = entries.windows(2).find(|pair| pair[0].seq.checked_add(1) != Some(pair[1].seq));
        if let Some([before, after]) = broken {
            return self.gap(before.seq, after.seq);
        }
        if last.seq <= self.taken {
            return Step::Ignore(Why::Known(self.taken));
        }
        // `last.seq` is above `taken`, so there is a next one.
        if first.seq > self.taken + 1 {
            return self.gap(self.taken, first.seq);
        }
        let skip = entries.partition_point(|entry| entry.seq <= self.taken);
        for entry in &entries[skip..] {
            if let Err(ChangeError::UnknownKind(kind)) = readable(&entry.bytes) {
                self.mode = Mode::Halted;
                return Step::Halt(Why::Unreadable { seq: entry.seq, kind });
            }
        }
        self.taken = last.seq;
        self.stalled_since = None;
        self.gaps = 0;
        Step::Apply { skip }
    }

    /// A heartbeat has arrived.
    pub fn on_head(&mut self, now: i64, head: Head) -> Step {
        self.on_contact(now);
        self.head = Some(head);
        if let Some(why) = self.idle() {
            return Step::Ignore(why);
        }
        if let Some(why) = self.other_epoch(head.epoch) {
            return self.bootstrap(why);
        }
        let base = self.applied.seq;
        if head.seq < base {
            let since = *self.behind_since.get_or_insert(now);
            let why = Why::Behind { head: head.seq, base };
            return if now.saturating_sub(since) >= BEHIND_MS { self.bootstrap(why) } else { Step::Ignore(why) };
        }
        self.behind_since = None;
        if head.seq == base {
            if head.checksum != self.checksum {
                return self.bootstrap(Why::Checksum { seq: base });
            }
            self.fresh = self.fresh.max(Some(now));
            return Step::Nothing;
        }
        if head.first.saturating_sub(1) > self.taken {
            return self.bootstrap(Why::Trimmed { first: head.first, base: self.taken });
        }
        self.expect(now, head);
        if head.seq <= self.taken {
            self.stalled_since = None;
        } else if now.saturating_sub(*self.stalled_since.get_or_insert(now)) >= STALLED_MS {
            self.stalled_since = None;
            return Step::Resume(Why::Stalled { head: head.seq, base: self.taken });
        }
        Step::Nothing
    }

    /// The base has been applied up to here: what [`Step::Apply`] gave out, or a part of it.
    pub fn on_applied(&mut self, cursor: Cursor, checksum: u64) -> Step {
        if let Mode::Bootstrapping = self.mode {
            return Step::Ignore(Why::Bootstrapping);
        }
        self.applied = cursor;
        self.checksum = checksum;
        self.taken = self.taken.max(cursor.seq);
        while let Some((said, head)) = self.ahead.front().copied().filter(|(_, head)| head.seq <= cursor.seq) {
            self.ahead.pop_front();
            if head.seq == cursor.seq && head.checksum != checksum {
                return self.bootstrap(Why::Checksum { seq: cursor.seq });
            }
            self.fresh = self.fresh.max(Some(said));
        }
        Step::Nothing
    }

    /// What was given out could not be applied; it is asked for again.
    pub fn on_apply_failed(&mut self) {
        self.taken = self.applied.seq;
    }

    /// The base was loaded from a snapshot, or emptied, and stands here.
    pub fn on_bootstrapped(&mut self, cursor: Cursor, checksum: u64) {
        self.applied = cursor;
        self.checksum = checksum;
        self.taken = cursor.seq;
        self.mode = Mode::Following;
        self.fresh = None;
        self.ahead.clear();
        self.behind_since = None;
        self.stalled_since = None;
        self.gaps = 0;
    }

    /// The centre says that this shard must take a snapshot.
    pub fn on_refetch(&mut self, now: i64, why: Refetch) -> Step {
        self.on_contact(now);
        match self.idle() {
            Some(why) => Step::Ignore(why),
            None => self.bootstrap(Why::Refetch(why)),
        }
    }

    /// How fresh the base is at this instant.
    pub fn freshness(&self, now: i64) -> Freshness {
        let since = |then: i64| u64::try_from(now.saturating_sub(then)).unwrap_or(0);
        let within = |elapsed: Option<u64>, most: i64| elapsed.is_some_and(|ms| ms <= most.unsigned_abs());
        let lag_ms = self.fresh.map(since);
        let state = if within(lag_ms, LIVE_MS) && self.mode != Mode::Bootstrapping {
            State::Live
        } else if !within(self.contact.map(since), OFFLINE_MS) {
            State::Offline
        } else {
            let behind = self.head.is_some_and(|head| head.seq > self.applied.seq);
            match self.mode {
                Mode::Bootstrapping => State::Bootstrapping,
                Mode::Following if self.connected && behind => State::CatchingUp,
                Mode::Following | Mode::Halted => State::Stale,
            }
        };
        Freshness { state, lag_ms }
    }

    fn idle(&self) -> Option<Why> {
        match self.mode {
            Mode::Following => None,
            Mode::Bootstrapping => Some(Why::Bootstrapping),
            Mode::Halted => Some(Why::Halted),
        }
    }

    fn other_epoch(&self, centre: u32) -> Option<Why> {
        let base = self.applied.epoch;
        match base {
            _ if base == centre => None,
            0 => Some(Why::Empty),
            _ => Some(Why::Epoch { centre, base }),
        }
    }

    fn bootstrap(&mut self, why: Why) -> Step {
        self.mode = Mode::Bootstrapping;
        self.ahead.clear();
        Step::Bootstrap(why)
    }

    /// What is missing was lost on the way, or is missing in the log: then it is missing again.
    fn gap(&mut self, after: u64, got: u64) -> Step {
        let why = Why::Gap { after, got };
        self.gaps += 1;
        if self.gaps >= GAPS_MAX { self.bootstrap(why) } else { Step::Resume(why) }
    }

    /// Remembers when a head above the base was said. Where there are too many, every other goes: the lag is then said too long, never too short.
    fn expect(&mut self, now: i64, head: Head) {
        match self.ahead.back_mut() {
            Some(last) if last.1.seq == head.seq => *last = (now, head),
            // A head that is older than one before it: of another central process.
            Some(last) if last.1.seq > head.seq => {}
            _ => self.ahead.push_back((now, head)),
        }
        if self.ahead.len() > HEADS_MAX {
            let mut place = 0_usize;
            self.ahead.retain(|_| {
                place += 1;
                !place.is_multiple_of(2)
            });
        }
    }
}

fn readable(bytes: &[u8]) -> Result<(), ChangeError> {
    let needed = Change::version(bytes)?;
    match bytes.first() {
        Some(kind) if needed > CHANGE_VERSION => Err(ChangeError::UnknownKind(*kind)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
