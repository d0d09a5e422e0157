//! What was decided in the last second, before it becomes a change: one entry per visitor, offer and minute, however often it was decided.
//!
//! A crash loses up to a second of these counts. They are on the profile at once all the same.

use std::collections::HashMap;

use compact_str::CompactString;
use parking_lot::Mutex;
use selvedge_core::change::DecidedOffer;
use selvedge_core::identity::{Identifier, ShardId};
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

#[derive(Default)]
struct Tile {
    counts: HashMap<Identifier, Vec<DecidedOffer>>,
    /// Those that become changes next, from the end on.
    leaving: Vec<(Identifier, Vec<DecidedOffer>)>,
    /// Flushes so far, and for each visitor of the latest rounds the last that took their counts.
    flushes: u64,
    rounds: u64,
    flushed: HashMap<Identifier, u64>,
    flushed_before: HashMap<Identifier, u64>,
}

impl Tile {
    /// What is counted of a visitor and is not a change yet.
    fn of<'t>(&'t self, visitor: &'t Identifier) -> impl Iterator<Item = &'t DecidedOffer> {
        let leaving = self.leaving.iter().filter(move |(of, _)| of == visitor).flat_map(|(_, offers)| offers);
        leaving.chain(self.counts.get(visitor).into_iter().flatten())
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

/// Counts offers that were chosen at an instant.
fn add<'o>(counts: &mut Vec<DecidedOffer>, at: Timestamp, offers: impl Iterator<Item = &'o str>) {
    let minute = Timestamp(at.0 - at.0.rem_euclid(60_000));
    for offer in offers {
        match counts.iter_mut().find(|count| count.offer == offer && count.minute == minute) {
            Some(count) => count.count += 1,
            None => counts.push(DecidedOffer { offer: CompactString::from(offer), minute, count: 1 }),
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

    /// Counts offers that were chosen for a visitor.
    pub fn record<'o>(&self, visitor: &Identifier, at: Timestamp, offers: impl Iterator<Item = &'o str>) {
        let mut offers = offers.peekable();
        if offers.peek().is_none() {
            return;
        }
        add(self.tile(visitor).lock().counts.entry(visitor.clone()).or_default(), at, offers);
    }

    /// The same as a change at once: of a visitor who was brought into memory for it, and in a second may have to be brought there again.
    pub fn record_at_once<'o>(
        &self,
        visitor: &Identifier,
        at: Timestamp,
        offers: impl Iterator<Item = &'o str>,
        shards: &Shards,
        outbox: &dyn Outbox,
    ) -> Result<(), ShardError> {
        if shards.cached(visitor).is_none() {
            self.record(visitor, at, offers);
            return Ok(());
        }
        let mut counts = Vec::new();
        add(&mut counts, at, offers);
        if counts.is_empty() {
            return Ok(());
        }
        shards.admit(visitor.shard(), vec![Prepared::decided(visitor.clone(), counts)], outbox).map(drop)
    }

    /// Reads something of a person together with what was counted under their identifiers and is not a change yet: each count is in one
    /// of the two. `read` also says which identifiers these are.
    ///
    /// Nobody waits for the reading, which may be long: it is done again where a count became a change meanwhile.
    pub fn beside<T, E>(
        &self,
        mut read: impl FnMut() -> Result<(T, Vec<Identifier>), E>,
    ) -> Result<(T, Vec<DecidedOffer>), E> {
        for _ in 0..READS_MAX {
            let begun: Vec<u64> = self.0.iter().map(|tile| tile.lock().flushes).collect();
            let (value, identifiers) = read()?;
            let mut counts = Vec::new();
            let mut moved = false;
            for identifier in &identifiers {
                let tile = self.tile(identifier).lock();
                let begun = begun[usize::from(identifier.shard().0)];
                moved |= tile.flushed_since(identifier, begun);
                counts.extend(tile.of(identifier).cloned());
            }
            if !moved {
                return Ok((value, counts));
            }
        }
        // Whoever decides waits this once.
        let tiles: Vec<_> = self.0.iter().map(Mutex::lock).collect();
        let (value, identifiers) = read()?;
        let counts = identifiers.iter().flat_map(|identifier| tiles[usize::from(identifier.shard().0)].of(identifier));
        Ok((value, counts.cloned().collect()))
    }

    /// Those whose counts become changes next in a shard and who are not in memory. To be loaded before, so that decisions wait for the disk as little
    /// as may be; one that fails fails again when it is flushed.
    pub fn absent(&self, shard: ShardId, shards: &Shards) -> Vec<Identifier> {
        let next: Vec<Identifier> = {
            let mut tile = self.0[usize::from(shard.0)].lock();
            tile.begin_round();
            tile.leaving.iter().rev().take(SLICE).map(|(visitor, _)| visitor.clone()).collect()
        };
        next.into_iter().filter(|visitor| shards.cached(visitor).is_none()).collect()
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
        let changes = some.into_iter().map(|(visitor, offers)| Prepared::decided(visitor, offers)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_without_offers_leaves_nothing_behind() {
        let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
        decided.record(&visitor, Timestamp(61_000), [].into_iter());
        assert!(decided.tile(&visitor).lock().counts.is_empty());
        decided.record(&visitor, Timestamp(61_000), ["kettle", "kettle"].into_iter());
        let (read, counts) = decided.beside(|| Ok::<_, ()>((7, vec![visitor.clone()]))).expect("read");
        assert_eq!((read, counts.len(), counts[0].count, counts[0].minute), (7, 1, 2, Timestamp(60_000)));
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
        assert_eq!((reads.get(), counts.len()), (2, 0));
    }
}
