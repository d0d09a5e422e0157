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
/// Flushes for which it is remembered whose counts went: a read takes no longer.
const FLUSHES_KEPT: u64 = 30;

/// Counts by shard.
pub struct Decided(Vec<Mutex<Tile>>);

#[derive(Default)]
struct Tile {
    counts: HashMap<Identifier, Vec<DecidedOffer>>,
    /// Flushes so far, and for each visitor the last that took its counts.
    flushes: u64,
    flushed: HashMap<Identifier, u64>,
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
        let minute = Timestamp(at.0 - at.0.rem_euclid(60_000));
        let mut tile = self.tile(visitor).lock();
        let counts = tile.counts.entry(visitor.clone()).or_default();
        for offer in offers {
            match counts.iter_mut().find(|count| count.offer == offer && count.minute == minute) {
                Some(count) => count.count += 1,
                None => counts.push(DecidedOffer { offer: CompactString::from(offer), minute, count: 1 }),
            }
        }
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
                moved |= tile.flushed.get(identifier).is_some_and(|flush| *flush > begun);
                counts.extend(tile.counts.get(identifier).into_iter().flatten().cloned());
            }
            if !moved {
                return Ok((value, counts));
            }
        }
        // Whoever decides waits this once.
        let tiles: Vec<_> = self.0.iter().map(Mutex::lock).collect();
        let (value, identifiers) = read()?;
        let counts =
            identifiers.iter().filter_map(|identifier| tiles[usize::from(identifier.shard().0)].counts.get(identifier));
        Ok((value, counts.flatten().cloned().collect()))
    }

    /// Makes changes of the counts. May block on the disk.
    pub fn flush(&self, shards: &Shards, outbox: &dyn Outbox) -> Result<(), ShardError> {
        for (shard, tile) in ShardId::all().zip(&self.0) {
            let visitors: Vec<Identifier> = tile.lock().counts.keys().cloned().collect();
            if visitors.is_empty() {
                continue;
            }
            // Before the lock, so that decisions wait for the disk as little as may be. One that fails fails again below.
            let absent = visitors.iter().filter(|visitor| shards.cached(visitor).is_none());
            absent.for_each(|visitor| drop(shards.load(visitor)));
            // The lock is held until the changes are pending, so that a reader finds each count in one place or the other.
            let mut tile = tile.lock();
            tile.flushes += 1;
            let (flush, oldest) = (tile.flushes, tile.flushes.saturating_sub(FLUSHES_KEPT));
            tile.flushed.retain(|_, flush| *flush > oldest);
            let counts = std::mem::take(&mut tile.counts);
            tile.flushed.extend(counts.keys().map(|visitor| (visitor.clone(), flush)));
            let changes = counts.into_iter().map(|(visitor, offers)| Prepared::decided(visitor, offers)).collect();
            match shards.admit(shard, changes, outbox) {
                // Of decisions a second's counts may be lost; what ails one profile does not end the service of the others.
                Err(error @ (ShardError::Corrupt(_) | ShardError::Change(_))) => {
                    tracing::error!(%error, shard = shard.0, "counts of decisions are lost");
                }
                admitted => drop(admitted?),
            }
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
