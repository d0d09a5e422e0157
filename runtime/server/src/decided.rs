//! What was decided in the last second, before it becomes a change: one entry per visitor, offer and minute, however often it was decided.
//!
//! A crash loses up to a second of these counts. They are on the profile at once all the same.

use std::collections::HashMap;

use compact_str::CompactString;
use parking_lot::{Mutex, MutexGuard};
use selvedge_core::change::DecidedOffer;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::offers::{Exposure, Offers, minute_of};
use selvedge_core::value::Timestamp;
use selvedge_shard::{Outbox, Prepared, ShardError, Shards};

/// How often a reader tries before it makes the writers wait.
const READS_MAX: usize = 3;
/// Rounds for which at the least it is remembered whose counts went: a read takes no longer.
const ROUNDS_KEPT: u64 = 30;
/// Visitors whose counts become changes together: a fraction of a millisecond.
const SLICE: usize = 32;

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

    fn count(&mut self, channel: &str, minute: Timestamp, offer: &str) {
        let same =
            |count: &&mut DecidedOffer| count.offer == offer && count.minute == minute && count.channel == channel;
        match self.offers.iter_mut().find(same) {
            Some(count) => count.count += 1,
            None => {
                let (offer, channel) = (CompactString::from(offer), CompactString::from(channel));
                self.offers.push(DecidedOffer { offer, channel, minute, count: 1 });
            }
        }
    }

    fn expose(&mut self, exposure: &Exposure) {
        if self.exposures.iter().all(|known| known.experiment != exposure.experiment) {
            self.exposures.push(exposure.clone());
        }
    }

    fn add(&mut self, others: &Self) {
        self.offers.extend(others.offers.iter().cloned());
        self.exposures.extend(others.exposures.iter().cloned());
    }
}

#[derive(Default)]
struct Tile {
    counts: HashMap<Identifier, Counts>,
    /// Those that become changes next, from the end on.
    leaving: Vec<(Identifier, Counts)>,
    /// Flushes so far, and for each visitor of the latest rounds the last that took their counts.
    flushes: u64,
    rounds: u64,
    flushed: HashMap<Identifier, u64>,
    flushed_before: HashMap<Identifier, u64>,
}

impl Tile {
    /// What is counted of a visitor and is not a change yet.
    fn of<'t>(&'t self, visitor: &'t Identifier) -> impl Iterator<Item = &'t Counts> {
        let leaving = self.leaving.iter().filter(move |(of, _)| of == visitor).map(|(_, counts)| counts);
        leaving.chain(self.counts.get(visitor))
    }

    fn add<'o>(&mut self, visitor: &Identifier, channel: &str, at: Timestamp, offers: impl Iterator<Item = &'o str>) {
        let minute = minute_of(at);
        let counts = self.counts.entry(visitor.clone()).or_default();
        offers.for_each(|offer| counts.count(channel, minute, offer));
    }

    /// Whether counts of a visitor have become a change since a flush.
    fn flushed_since(&self, visitor: &Identifier, flush: u64) -> bool {
        let last = self.flushed.get(visitor).or_else(|| self.flushed_before.get(visitor));
        last.is_some_and(|last| *last > flush)
    }

    /// Begins another round where the one before is through.
    fn begin_round(&mut self) {
        if !self.leaving.is_empty() {
            return;
        }
        self.leaving = std::mem::take(&mut self.counts).into_iter().collect();
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS_KEPT) {
            self.flushed_before = std::mem::take(&mut self.flushed);
        }
    }
}

impl Decided {
    /// Nothing decided yet.
    pub fn new() -> Self {
        Self(ShardId::all().map(|_| Mutex::default()).collect())
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
        self.tile(visitor).lock().add(visitor, channel, at, offers);
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
        offers.for_each(|offer| counts.count(channel, minute, offer));
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

    /// Those whose counts become changes next in a shard and who are not in memory. To be loaded before, so that decisions wait for the disk as little
    /// as may be; one that fails fails again when it is flushed.
    pub fn absent(&self, shard: ShardId, shards: &Shards) -> Vec<Identifier> {
        let mut tile = self.0[usize::from(shard.0)].lock();
        tile.begin_round();
        let next = tile.leaving.iter().rev().take(SLICE).map(|(visitor, _)| visitor);
        next.filter(|visitor| shards.cached(visitor).is_none()).cloned().collect()
    }

    /// Makes changes of the counts of some visitors of a shard. Gives whether there are more of this round.
    pub fn flush_some(&self, shard: ShardId, shards: &Shards, outbox: &dyn Outbox) -> Result<bool, ShardError> {
        // The lock is held until the changes are pending, so that a reader finds each count in one place or the other.
        let mut tile = self.0[usize::from(shard.0)].lock();
        tile.begin_round();
        if tile.leaving.is_empty() {
            return Ok(false);
        }
        tile.flushes += 1;
        let (flush, kept) = (tile.flushes, tile.leaving.len().saturating_sub(SLICE));
        let some = tile.leaving.split_off(kept);
        tile.flushed.extend(some.iter().map(|(visitor, _)| (visitor.clone(), flush)));
        let change = |(visitor, Counts { offers, exposures })| Prepared::decided(visitor, offers, exposures);
        let changes = some.into_iter().map(change).collect();
        match shards.admit(shard, changes, outbox) {
            // Of decisions a second's counts may be lost; what ails one profile does not end the service of the others.
            Err(error @ (ShardError::Corrupt(_) | ShardError::Change(_))) => {
                tracing::error!(%error, shard = shard.0, "counts of decisions are lost");
            }
            admitted => drop(admitted?),
        }
        Ok(kept > 0)
    }

    /// Makes changes of all counts. Blocks on the disk.
    pub fn flush(&self, shards: &Shards, outbox: &dyn Outbox) -> Result<(), ShardError> {
        for shard in ShardId::all() {
            while self.flush_some(shard, shards, outbox)? || !self.0[usize::from(shard.0)].lock().counts.is_empty() {}
        }
        Ok(())
    }
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
            tile.add(identifier, channel, at, offers);
            let counts = tile.counts.entry(identifier.clone()).or_default();
            exposures.iter().for_each(|exposure| counts.expose(exposure));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_without_offers_leaves_nothing_behind() {
        let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
        decided.record(&visitor, "web", Timestamp(61_000), [].into_iter());
        assert!(decided.tile(&visitor).lock().counts.is_empty());
        decided.record(&visitor, "web", Timestamp(61_000), ["kettle", "kettle"].into_iter());
        let (read, counts) = decided.beside(|| Ok::<_, ()>((7, vec![visitor.clone()]))).expect("read");
        assert_eq!((read, counts.offers), (7, vec![DecidedOffer::on_web("kettle", Timestamp(60_000), 2)]));
    }

    #[test]
    fn a_reading_that_a_flush_overtook_is_done_again() {
        let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
        let reads = std::cell::Cell::new(0);
        let read = decided.beside(|| {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                let mut tile = decided.tile(&visitor).lock();
                tile.flushes += 1;
                tile.flushed.insert(visitor.clone(), 1);
            }
            Ok::<_, ()>(((), vec![visitor.clone()]))
        });
        let (_, counts) = read.expect("read");
        assert_eq!((reads.get(), counts.is_empty()), (2, true));
    }
    #[test]
    fn whoever_decides_for_one_person_under_two_identifiers_never_goes_over_a_cap() {
        const MOST: u64 = 40;
        let decided = Decided::new();
        let identifier = |text: &str| Identifier::stored(text).expect("an identifier");
        let person = [identifier("user:1"), identifier("anonymous:a")];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (decided, person) = (&decided, &person);
                scope.spawn(move || {
                    for _ in 0..100 {
                        let mut held = decided.hold(person);
                        if held.of(person).onto(&Offers::default()).get("kettle").decided < MOST {
                            held.record(&person[thread % 2], "web", Timestamp(7), ["kettle"].into_iter(), &[]);
                        }
                    }
                });
            }
        });
        let counts = decided.hold(&person).of(&person);
        assert_eq!(counts.offers.iter().map(|decided| u64::from(decided.count)).sum::<u64>(), MOST);
        assert_eq!(decided.hold(&[]).of(&person), Counts::default(), "not held");
    }

    #[test]
    fn an_exposure_is_counted_without_an_offer_and_only_the_first() {
        let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
        let exposure = |at: i64| Exposure { experiment: "e".into(), at: Timestamp(at), arm: "a".into() };
        let person = std::slice::from_ref(&visitor);
        let mut held = decided.hold(person);
        for at in [7, 8] {
            held.record(&visitor, "web", Timestamp(at), [].into_iter(), &[exposure(at)]);
        }
        let counts = held.of(person);
        assert_eq!((counts.exposures.as_slice(), counts.offers.len()), ([exposure(7)].as_slice(), 0));
        assert!(counts.clone().up_to(Timestamp(6)).is_empty());
        assert_eq!(counts.onto(&Offers::default()).exposure("e"), Some(&exposure(7)));
    }
}
