//! An edge's outbox for one shard: what goes to the centre next, and what may be forgotten.
//!
//! Pure: it knows numbers, not changes. Changes are known by their *local* number, which the outbox counts on over all starts of the edge ([`Boots`]); it goes strictly by
//! them, so older starts come first, and one push is under way at a time. So whatever is in the log, everything of this edge before it is too, or was set aside.

use std::collections::{BTreeSet, VecDeque};

use super::backoff::Backoff;
pub use super::boots::{Boots, BootsError};
use super::{Head, Origin, Pushed, bounds};
use crate::identity::ShardId;
use crate::view::Cursor;

/// What is known of where changes stand in the log: so many steps, then coarser.
const STEPS_MAX: usize = 1_024;

/// The state machine of one shard's outbox.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// Each start and the local number before its first, oldest first.
    boots: Vec<(Origin, u64)>,
    epoch: u32,
    /// Gone from the outbox up to here.
    trimmed: u64,
    /// On this edge's disk up to here.
    durable: u64,
    /// Up to here nothing need be pushed: it is in the log, or set aside.
    settled: u64,
    /// What lies before the next change and the centre does not have will not come.
    skips: bool,
    flight: Option<Range>,
    tickets: u64,
    /// Set aside, above `settled`.
    refused: BTreeSet<u64>,
    /// (local, seq), both ascending: all changes up to this local number are in the log at or below this sequence, or set aside. Covers all that is settled.
    ordered: VecDeque<(u64, u64)>,
    backoff: Backoff,
    wait_until: i64,
}

/// Changes to be pushed: those of the outbox from `first_local` to `last_local`, at most [`bounds::PUSH_CHANGES_MAX`]. Fewer may be sent, from the first on, where they are large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Names the push when its outcome is told.
    pub ticket: u64,
    /// The epoch to name.
    pub epoch: u32,
    /// The start that numbered them.
    pub origin: Origin,
    /// The number before the first.
    pub predecessor: u64,
    /// See [`Push::skips`](super::Push).
    pub skips: bool,
    /// The first.
    pub first_local: u64,
    /// The last.
    pub last_local: u64,
}

/// What an answer has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was of an earlier push, or of an earlier epoch.
    Late,
    /// The log has everything up to this local number.
    Settled(u64),
    /// The log has everything up to this local number only: what follows is pushed again.
    Again(u64),
    /// The log is in another epoch: everything that is held is pushed again.
    Epoch(u32),
    /// The change of this local number is set aside: keep it as a dead letter and say why.
    Refused {
        /// Which.
        local: u64,
        /// Why, for people.
        reason: String,
    },
    /// An answer that fits no push; tried again after a while.
    Unfit,
}

impl Forwarder {
    /// The outbox as it was found: gone up to `trimmed`, on disk up to `durable`. The epoch is the last one known, 0 for none: the centre says which it is.
    pub fn new(
        boots: &Boots,
        shard: ShardId,
        trimmed: u64,
        durable: u64,
        epoch: u32,
        backoff: Backoff,
    ) -> Result<Self, BootsError> {
        let boots = boots.of(shard);
        if durable > trimmed && boots.first().is_none_or(|(_, before)| *before > trimmed) {
            return Err(BootsError::Corrupt);
        }
        Ok(Self {
            boots,
            epoch,
            trimmed,
            durable,
            settled: trimmed,
            skips: false,
            flight: None,
            tickets: 0,
            refused: BTreeSet::new(),
            ordered: VecDeque::new(),
            backoff,
            wait_until: i64::MIN,
        })
    }

    /// The outbox has everything up to this local number on disk.
    pub fn on_durable(&mut self, local: u64) {
        self.durable = self.durable.max(local);
    }

    /// The outbox has forgotten everything up to this local number.
    pub fn on_trimmed(&mut self, local: u64) {
        self.trimmed = self.trimmed.max(local);
        // The base may have seen in the log what was not answered for.
        self.settle(self.settled);
        while self.ordered.len() > 1 && self.ordered.front().is_some_and(|(front, _)| *front <= local) {
            self.ordered.pop_front();
        }
    }

    /// What to push now: none while a push is under way, after a failure, or where there is nothing.
    pub fn next(&mut self, now: i64) -> Option<Range> {
        if self.flight.is_some() || now < self.wait_until {
            return None;
        }
        while self.refused.remove(&(self.settled + 1)) {
            self.settled += 1;
            self.skips = true;
            self.order(self.settled, 0);
        }
        let first_local = self.settled + 1;
        if first_local > self.durable {
            return None;
        }
        let place = self.boots.iter().rposition(|(_, before)| *before < first_local)?;
        let (origin, before) = self.boots[place];
        let end = self.boots.get(place + 1).map_or(u64::MAX, |(_, before)| *before);
        let most = first_local.saturating_add(bounds::PUSH_CHANGES_MAX as u64 - 1);
        let refused = self.refused.first().map_or(u64::MAX, |local| local - 1);
        let last_local = most.min(self.durable).min(end).min(refused);
        self.tickets += 1;
        let predecessor = self.settled - before;
        let skips = self.skips && predecessor > 0;
        let range =
            Range { ticket: self.tickets, epoch: self.epoch, origin, predecessor, skips, first_local, last_local };
        self.flight = Some(range);
        Some(range)
    }

    /// The earliest time at which [`next`](Self::next) may have something; none where something must happen first.
    pub fn due(&self) -> Option<i64> {
        (self.flight.is_none() && self.durable > self.settled).then_some(self.wait_until)
    }

    /// The centre has answered a push.
    pub fn on_answer(&mut self, now: i64, ticket: u64, answer: &Pushed) -> Outcome {
        let Some(range) = self.flight.take_if(|range| range.ticket == ticket) else { return Outcome::Late };
        let outcome = match answer {
            Pushed::Taken { seqs } => self.on_taken(&range, seqs),
            Pushed::Behind { watermark, head } => self.on_behind(&range, *watermark, *head),
            Pushed::Epoch { epoch } if *epoch != self.epoch => {
                self.on_epoch(*epoch);
                Some(Outcome::Epoch(*epoch))
            }
            Pushed::Epoch { .. } => None,
            Pushed::Refused { index, reason } => {
                let local = u64::try_from(*index).ok().and_then(|index| range.first_local.checked_add(index));
                local.filter(|local| *local <= range.last_local).map(|local| {
                    if local <= self.settled {
                        return Outcome::Settled(self.settled);
                    }
                    self.refused.insert(local);
                    Outcome::Refused { local, reason: reason.clone() }
                })
            }
        };
        match outcome {
            Some(outcome) => {
                self.backoff.reset();
                outcome
            }
            None => {
                self.wait(now);
                Outcome::Unfit
            }
        }
    }

    /// A push has failed, or its answer did not come: whether the centre has taken it is not known. The next is made after a while. Says whether it was the one under way.
    pub fn on_failed(&mut self, now: i64, ticket: u64) -> bool {
        let was = self.flight.take_if(|range| range.ticket == ticket).is_some();
        if was {
            self.wait(now);
        }
        was
    }

    /// A push was not sent: there was no room for it. It may be asked for again at once.
    pub fn on_unsent(&mut self, ticket: u64) {
        self.flight.take_if(|range| range.ticket == ticket);
    }

    /// The log is in this epoch, or the base had to be made anew: what was known of the log means nothing any more, and everything that is held is pushed again. The answers
    /// tell what the log has.
    pub fn on_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
        self.settled = self.trimmed;
        self.skips = false;
        self.flight = None;
        self.refused.clear();
        self.ordered.clear();
    }

    /// The base has an entry of this edge: everything before it is in the log too.
    pub fn on_own(&mut self, epoch: u32, local: u64, seq: u64) {
        if epoch == self.epoch {
            self.order(local, seq);
        }
    }

    /// A sequence at or below which this change, and all before it, are in the log; none where that is not known.
    pub fn seq_of(&self, local: u64) -> Option<u64> {
        let step = self.ordered.partition_point(|(upto, _)| *upto < local);
        self.ordered.get(step).map(|(_, seq)| *seq)
    }

    /// The highest local number such that it and all before it are known to be in the log at or below this cursor: a base that has come so far has them, as entries of
    /// this edge or, of duplicates, of another.
    pub fn ordered_local(&self, base: Cursor) -> u64 {
        let step = self.ordered.partition_point(|(_, at)| *at <= base.seq);
        let known = step.checked_sub(1).and_then(|step| self.ordered.get(step)).filter(|_| base.epoch == self.epoch);
        known.map_or(self.trimmed, |(local, _)| (*local).max(self.trimmed))
    }

    /// Up to which local number the outbox may be trimmed: what both a checkpoint of the base on disk and the centre's stable sequence cover, in the epoch of
    /// this log.
    pub fn droppable(&self, checkpointed: Cursor, head: &Head) -> u64 {
        if head.epoch != self.epoch {
            return self.trimmed;
        }
        self.ordered_local(Cursor { seq: checkpointed.seq.min(head.stable), ..checkpointed }).min(self.durable)
    }

    /// How many durable changes have not been answered for.
    pub fn unanswered(&self) -> u64 {
        self.durable.saturating_sub(self.settled)
    }

    /// Up to here nothing need be pushed.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// The epoch that pushes name.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    fn on_taken(&mut self, range: &Range, seqs: &[u64]) -> Option<Outcome> {
        let sent = u64::try_from(seqs.len()).ok().filter(|sent| *sent > 0)?;
        let last = range.first_local.checked_add(sent - 1).filter(|last| *last <= range.last_local)?;
        self.settle(last);
        self.skips = false;
        self.order(last, seqs.iter().copied().max()?);
        Some(Outcome::Settled(self.settled))
    }

    fn on_behind(&mut self, range: &Range, watermark: u64, head: u64) -> Option<Outcome> {
        let before = range.first_local - 1 - range.predecessor;
        let place = self.boots.iter().position(|(origin, _)| *origin == range.origin)?;
        // A directory that was restored from a backup lacks what its last start sent afterwards.
        let end = self.boots.get(place + 1).map_or(u64::MAX, |(_, before)| *before);
        let local = before.saturating_add(watermark).min(end).min(self.durable);
        if local >= range.first_local {
            self.settle(local);
            self.skips = false;
            self.order(local, head);
            return Some(Outcome::Settled(self.settled));
        }
        if watermark == range.predecessor {
            // It says that it has what the push named: overtaken by another answer. Ask again, after a while.
            return None;
        }
        // The log lost what it had, or never had what is trimmed here.
        let settled = local.max(self.trimmed);
        if range.skips && settled + 1 == range.first_local {
            return None;
        }
        self.settle(settled);
        self.skips = local < settled;
        self.refused.clear();
        while self.ordered.back().is_some_and(|(upto, _)| *upto > local) {
            self.ordered.pop_back();
        }
        Some(Outcome::Again(self.settled))
    }

    /// Nothing up to here need be pushed, nor what is trimmed.
    fn settle(&mut self, local: u64) {
        self.settled = local.max(self.trimmed);
        self.refused = self.refused.split_off(&(self.settled + 1));
    }

    fn order(&mut self, local: u64, seq: u64) {
        let (upto, at) = self.ordered.back().copied().unwrap_or((0, 0));
        if local <= upto {
            return;
        }
        let seq = seq.max(at);
        match self.ordered.back_mut() {
            Some(last) if last.1 == seq => last.0 = local,
            _ => self.ordered.push_back((local, seq)),
        }
        if self.ordered.len() > STEPS_MAX {
            // Without every other step less is known, and what is left is as true as before.
            let mut left = self.ordered.len();
            self.ordered.retain(|_| {
                left -= 1;
                left.is_multiple_of(2)
            });
        }
    }

    fn wait(&mut self, now: i64) {
        let wait = i64::try_from(self.backoff.fail()).unwrap_or(i64::MAX);
        self.wait_until = now.saturating_add(wait);
    }
}

#[cfg(test)]
#[path = "forwarder_tests.rs"]
mod tests;
