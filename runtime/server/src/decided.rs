//! What was decided lately, before it becomes a change: one entry per visitor, offer and minute, however often it was decided.
//!
//! Where decisions are few, counts become changes every second. Where there are many, on an edge that is its own centre, they gather for up to [`SECONDS_MAX`] seconds,
//! for then most of them are of visitors who come again, and are kept beside the log meanwhile ([`journal`]). Either way a crash loses up to a second of
//! them. They are on the profile at once all the same. An edge that follows a centre passes them on every second: other edges count by them too.

mod journal;

use std::collections::HashMap;

use anyhow::Result;
use compact_str::CompactString;
use parking_lot::{Mutex, MutexGuard};
use selvedge_central::{Noted, RedbLog};
use selvedge_core::change::DecidedOffer;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::offers::{Exposure, Offers, minute_of};
use selvedge_core::value::Timestamp;
use selvedge_shard::{Outbox, Prepared, ShardError, Shards};

use self::journal::Journal;

/// How often a reader tries before it makes the writers wait.
const READS_MAX: usize = 3;
/// Seconds for which at the least it is remembered whose counts went: a read takes no longer.
const SECONDS_KEPT: u64 = 30;
/// Visitors whose counts become changes together: a fraction of a millisecond.
const SLICE: usize = 32;
/// For how long counts gather at the most, and of how many visitors of a shard.
const SECONDS_MAX: u64 = 15;
const VISITORS_MAX: usize = 768;
/// Decisions of a second for a shard's visitors from which on their counts gather: about a thousand over all shards.
const MANY: usize = 16;

/// Counts by visitor.
type Gathered = HashMap<Identifier, Counts, foldhash::fast::RandomState>;

/// Counts by shard.
pub struct Decided(Vec<Mutex<Tile>>);

/// What was decided of one person and is not a change yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often each offer, by channel and minute.
    pub offers: Vec<DecidedOffer>,
    /// The experiments that they were exposed to.
    pub exposures: Vec<Exposure>,
}

impl Counts {
    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.offers.is_empty() && self.exposures.is_empty()
    }

    /// A history with these.
    pub fn onto(&self, history: &Offers) -> Offers {
        let mut with = history.clone();
        self.offers.iter().for_each(|decided| with.decide(decided));
        self.exposures.iter().for_each(|exposure| with.expose(exposure));
        with
    }

    /// Leaves what was decided after an instant away.
    pub fn up_to(mut self, at: Timestamp) -> Self {
        self.offers.retain(|offer| offer.minute <= at);
        self.exposures.retain(|exposure| exposure.at <= at);
        self
    }

    fn count(&mut self, channel: &str, minute: Timestamp, offer: &str, times: u32) {
        let same =
            |count: &&mut DecidedOffer| count.offer == offer && count.minute == minute && count.channel == channel;
        match self.offers.iter_mut().find(same) {
            Some(count) => count.count = count.count.saturating_add(times),
            None => {
                let (offer, channel) = (CompactString::from(offer), CompactString::from(channel));
                self.offers.push(DecidedOffer { offer, channel, minute, count: times });
            }
        }
    }

    /// Takes an exposure in. Gives whether it is the first to its experiment.
    fn expose(&mut self, exposure: &Exposure) -> bool {
        let first = self.exposures.iter().all(|known| known.experiment != exposure.experiment);
        if first {
            self.exposures.push(exposure.clone());
        }
        first
    }

    fn add(&mut self, others: &Self) {
        self.offers.extend(others.offers.iter().cloned());
        self.exposures.extend(others.exposures.iter().cloned());
    }
}

#[derive(Default)]
struct Tile {
    counts: Gathered,
    /// Those that become changes next, ascending by visitor, from the end on.
    leaving: Vec<(Identifier, Counts)>,
    /// What is kept of both beside the log; nothing where nothing gathers.
    journal: Option<Journal>,
    /// Decisions since the last second's end, and seconds since the last round began.
    recent: usize,
    gathering: u64,
    /// Flushes so far, and for each visitor of the latest seconds the last that took their counts.
    flushes: u64,
    seconds: u64,
    flushed: HashMap<Identifier, u64, foldhash::fast::RandomState>,
    flushed_before: HashMap<Identifier, u64, foldhash::fast::RandomState>,
}

impl Tile {
    /// What is counted of a visitor and is not a change yet.
    fn of<'t>(&'t self, visitor: &Identifier) -> impl Iterator<Item = &'t Counts> + use<'t> {
        let leaving = self.leaving.binary_search_by(|(of, _)| of.cmp(visitor)).ok();
        leaving.map(|place| &self.leaving[place].1).into_iter().chain(self.counts.get(visitor))
    }

    fn add<'o>(
        &mut self,
        visitor: &Identifier,
        channel: &str,
        at: Timestamp,
        offers: impl Iterator<Item = &'o str>,
        exposures: &[Exposure],
    ) {
        let minute = minute_of(at);
        self.recent += 1;
        let counts = self.counts.entry(visitor.clone()).or_default();
        let mut journal = self.journal.as_mut();
        journal.iter_mut().for_each(|journal| journal.of(visitor, channel, minute));
        for offer in offers {
            counts.count(channel, minute, offer, 1);
            journal.iter_mut().for_each(|journal| journal.offer(offer));
        }
        for exposure in exposures {
            if counts.expose(exposure) {
                journal.iter_mut().for_each(|journal| journal.exposed(exposure));
            }
        }
    }

    /// Whether counts of a visitor have become a change since a flush.
    fn flushed_since(&self, visitor: &Identifier, flush: u64) -> bool {
        let last = self.flushed.get(visitor).or_else(|| self.flushed_before.get(visitor));
        last.is_some_and(|last| *last > flush)
    }

    /// A second has passed. Gives what is to be kept beside the log, where counts go on gathering.
    fn second(&mut self, shard: ShardId) -> Option<Noted> {
        self.seconds += 1;
        if self.seconds.is_multiple_of(SECONDS_KEPT) {
            self.flushed_before = std::mem::take(&mut self.flushed);
        }
        self.gathering += 1;
        let many = std::mem::take(&mut self.recent) >= MANY;
        let gathers = many && self.gathering < SECONDS_MAX && self.counts.len() < VISITORS_MAX;
        match &mut self.journal {
            // Those before are not through yet.
            Some(journal) if gathers || !self.leaving.is_empty() => journal.block(shard),
            _ => {
                self.begin_round();
                None
            }
        }
    }

    /// What gathered becomes changes, where all that did so before is through.
    fn begin_round(&mut self) {
        if !self.leaving.is_empty() || self.counts.is_empty() {
            return;
        }
        self.leaving = std::mem::take(&mut self.counts).into_iter().collect();
        self.leaving.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        self.gathering = 0;
        self.journal.iter_mut().for_each(Journal::turn);
    }

    /// Takes some of those out whose counts become changes, with what is to be noted with these.
    fn leave(&mut self, shard: ShardId) -> (Vec<(Identifier, Counts)>, Vec<Noted>) {
        let some = self.leaving.split_off(self.leaving.len().saturating_sub(SLICE));
        self.flushes += 1;
        self.flushed.extend(some.iter().map(|(visitor, _)| (visitor.clone(), self.flushes)));
        let from = some.first().map(|(visitor, _)| visitor).filter(|_| !self.leaving.is_empty());
        let notes = self.journal.as_ref().map_or_else(Vec::new, |journal| journal.left(shard, from));
        (some, notes)
    }
}

/// A log as the outbox of changes that take something out of the journal.
struct Leaving<'l> {
    log: &'l RedbLog,
    notes: Mutex<Vec<Noted>>,
}

impl Outbox for Leaving<'_> {
    fn append(&self, changes: Vec<(ShardId, Vec<std::sync::Arc<[u8]>>)>) -> Result<(), String> {
        let notes = std::mem::take(&mut *self.notes.lock());
        self.log.append_and_note(changes, notes).map_err(|error| error.to_string())
    }
}

impl Decided {
    /// Nothing decided yet, of what becomes changes every second.
    pub fn new() -> Self {
        Self(ShardId::all().map(|_| Mutex::default()).collect())
    }

    /// What a crash has left beside a log, for counts that may gather. Blocks on the disk.
    pub fn open(log: &RedbLog) -> Result<Self> {
        let tiles = ShardId::all().map(|shard| {
            // Not all shards at once.
            let gathering = u64::from(shard.0) % SECONDS_MAX;
            Tile { journal: Some(Journal::default()), gathering, ..Tile::default() }
        });
        let mut tiles: Vec<Tile> = tiles.collect();
        for (shard, counts, journal) in journal::recover(log)? {
            if let Some(tile) = tiles.get_mut(usize::from(shard.0)) {
                (tile.counts, tile.journal) = (counts, Some(journal));
            }
        }
        Ok(Self(tiles.into_iter().map(Mutex::new).collect()))
    }

    fn tile(&self, visitor: &Identifier) -> &Mutex<Tile> {
        &self.0[usize::from(visitor.shard().0)]
    }

    /// Counts offers that were chosen for a visitor on a channel.
    pub fn record<'o>(
        &self,
        visitor: &Identifier,
        channel: &str,
        at: Timestamp,
        offers: impl Iterator<Item = &'o str>,
    ) {
        let mut offers = offers.peekable();
        if offers.peek().is_none() {
            return;
        }
        self.tile(visitor).lock().add(visitor, channel, at, offers, &[]);
    }

    /// The same as a change at once: of a visitor who was brought into memory for it, and in a second may have to be brought there again.
    pub fn record_at_once<'o>(
        &self,
        visitor: &Identifier,
        channel: &str,
        at: Timestamp,
        offers: impl Iterator<Item = &'o str>,
        shards: &Shards,
        outbox: &dyn Outbox,
    ) -> Result<(), ShardError> {
        if shards.cached(visitor).is_none() {
            self.record(visitor, channel, at, offers);
            return Ok(());
        }
        let (minute, mut counts) = (minute_of(at), Counts::default());
        offers.for_each(|offer| counts.count(channel, minute, offer, 1));
        if counts.is_empty() {
            return Ok(());
        }
        let change = Prepared::decided(visitor.clone(), counts.offers, counts.exposures);
        shards.admit(visitor.shard(), vec![change], outbox).map(drop)
    }

    /// Holds what is counted of some identifiers: of a person, and of their household. Until it is dropped nobody else decides for them here, and nothing that was
    /// counted becomes a change; so what is read of their profile in memory meanwhile, and this, are all that was decided here, each once. To be held
    /// for as long as it takes to choose, and no longer.
    pub fn hold<'d>(&'d self, identifiers: &[Identifier]) -> Held<'d> {
        let mut shards: Vec<u16> = identifiers.iter().map(|identifier| identifier.shard().0).collect();
        // All in one order, so that nobody waits for one who waits for them.
        shards.sort_unstable();
        shards.dedup();
        Held(shards.into_iter().map(|shard| (shard, self.0[usize::from(shard)].lock())).collect())
    }

    /// Holds what is counted of all visitors of a shard.
    pub fn hold_shard(&self, shard: ShardId) -> Held<'_> {
        Held(vec![(shard.0, self.0[usize::from(shard.0)].lock())])
    }

    /// Reads something of a person together with what was counted under their identifiers and is not a change yet: each count is in one
    /// of the two. `read` also says which identifiers these are.
    ///
    /// Nobody waits for the reading, which may be long: it is done again where a count became a change meanwhile.
    pub fn beside<T, E>(&self, mut read: impl FnMut() -> Result<(T, Vec<Identifier>), E>) -> Result<(T, Counts), E> {
        for _ in 0..READS_MAX {
            let begun: Vec<u64> = self.0.iter().map(|tile| tile.lock().flushes).collect();
            let (value, identifiers) = read()?;
            let mut counts = Counts::default();
            let mut moved = false;
            for identifier in &identifiers {
                let tile = self.tile(identifier).lock();
                let begun = begun[usize::from(identifier.shard().0)];
                moved |= tile.flushed_since(identifier, begun);
                tile.of(identifier).for_each(|more| counts.add(more));
            }
            if !moved {
                return Ok((value, counts));
            }
        }
        // Whoever decides waits this once.
        let tiles: Vec<_> = self.0.iter().map(Mutex::lock).collect();
        let (value, identifiers) = read()?;
        let mut counts = Counts::default();
        for identifier in &identifiers {
            tiles[usize::from(identifier.shard().0)].of(identifier).for_each(|more| counts.add(more));
        }
        Ok((value, counts))
    }

    /// A second has passed for a shard: counts of it become changes next ([`Self::flush_some`]), or are kept beside the log and gather on.
    pub fn second(&self, shard: ShardId, log: &RedbLog) -> Result<(), ShardError> {
        let mut tile = self.0[usize::from(shard.0)].lock();
        match tile.second(shard) {
            // Under the lock, so that notes of a shard are in order.
            Some(note) => log.append_and_note(Vec::new(), vec![note]).map_err(outbox_failed),
            None => Ok(()),
        }
    }

    /// Those whose counts become changes next in a shard and who are not in memory. To be loaded before, so that decisions wait for the disk as little
    /// as may be; one that fails fails again when it is flushed.
    pub fn absent(&self, shard: ShardId, shards: &Shards) -> Vec<Identifier> {
        let tile = self.0[usize::from(shard.0)].lock();
        let next = tile.leaving.iter().rev().take(SLICE).map(|(visitor, _)| visitor);
        next.filter(|visitor| shards.cached(visitor).is_none()).cloned().collect()
    }

    /// Makes changes of the counts of some visitors of a shard. Gives whether there are more of this round.
    pub fn flush_some(&self, shard: ShardId, shards: &Shards, log: &RedbLog) -> Result<bool, ShardError> {
        // The lock is held until the changes are pending, so that a reader finds each count in one place or the other.
        let mut tile = self.0[usize::from(shard.0)].lock();
        if tile.leaving.is_empty() {
            return Ok(false);
        }
        let (some, notes) = tile.leave(shard);
        let outbox = Leaving { log, notes: Mutex::new(notes) };
        let change = |(visitor, Counts { offers, exposures })| Prepared::decided(visitor, offers, exposures);
        let changes = some.into_iter().map(change).collect();
        match shards.admit(shard, changes, &outbox) {
            // Of decisions a second's counts may be lost; what ails one profile does not end the service of the others.
            Err(error @ (ShardError::Corrupt(_) | ShardError::Change(_))) => {
                tracing::error!(%error, shard = shard.0, "counts of decisions are lost");
            }
            admitted => drop(admitted?),
        }
        if !outbox.notes.lock().is_empty() {
            outbox.append(Vec::new()).map_err(ShardError::Outbox)?;
        }
        Ok(!tile.leaving.is_empty())
    }

    /// Makes changes of all counts of a shard. Blocks on the disk.
    pub fn flush_shard(&self, shard: ShardId, shards: &Shards, log: &RedbLog) -> Result<(), ShardError> {
        loop {
            while self.flush_some(shard, shards, log)? {}
            let mut tile = self.0[usize::from(shard.0)].lock();
            tile.begin_round();
            if tile.leaving.is_empty() {
                return Ok(());
            }
        }
    }

    /// Makes changes of all counts. Blocks on the disk.
    pub fn flush(&self, shards: &Shards, log: &RedbLog) -> Result<(), ShardError> {
        ShardId::all().try_for_each(|shard| self.flush_shard(shard, shards, log))
    }
}

fn outbox_failed(error: impl std::fmt::Display) -> ShardError {
    ShardError::Outbox(error.to_string())
}

/// The counts of some shards, held.
pub struct Held<'d>(Vec<(u16, MutexGuard<'d, Tile>)>);

impl Held<'_> {
    /// What is counted of identifiers that are held and is not a change yet.
    pub fn of(&self, identifiers: &[Identifier]) -> Counts {
        let mut counts = Counts::default();
        for identifier in identifiers {
            let tile = self.0.iter().find(|(shard, _)| *shard == identifier.shard().0);
            tile.into_iter().flat_map(|(_, tile)| tile.of(identifier)).for_each(|more| counts.add(more));
        }
        counts
    }

    /// Hands over what is counted of all persons of the shards that are held.
    pub fn each(&self, mut take: impl FnMut(&DecidedOffer)) {
        for (_, tile) in &self.0 {
            let leaving = tile.leaving.iter().map(|(visitor, counts)| (visitor, counts));
            let persons = leaving.chain(&tile.counts).filter(|(visitor, _)| !visitor.is_entity());
            persons.flat_map(|(_, counts)| &counts.offers).for_each(&mut take);
        }
    }

    /// Counts offers that were chosen for a person or a household whose identifier is held, and the experiments that this exposed them to.
    pub fn record<'o>(
        &mut self,
        identifier: &Identifier,
        channel: &str,
        at: Timestamp,
        offers: impl Iterator<Item = &'o str>,
        exposures: &[Exposure],
    ) {
        let mut offers = offers.peekable();
        if offers.peek().is_none() && exposures.is_empty() {
            return;
        }
        let shard = identifier.shard().0;
        if let Some((_, tile)) = self.0.iter_mut().find(|(held, _)| *held == shard) {
            tile.add(identifier, channel, at, offers, exposures);
        }
    }
}

#[cfg(test)]
mod tests;
