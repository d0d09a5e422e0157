//! What was decided in the last second, before it becomes a change: one entry per visitor, offer and minute, however often it was decided.
//!
//! A crash loses up to a second of these counts. They are on the profile at once all the same.

use std::collections::HashMap;

use compact_str::CompactString;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use selvedge_core::change::DecidedOffer;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::value::Timestamp;
use selvedge_shard::{Outbox, Prepared, ShardError, Shards};

type Tile = HashMap<Identifier, Vec<DecidedOffer>, FxBuildHasher>;

/// Counts by shard.
pub struct Decided(Vec<Mutex<Tile>>);

impl Decided {
    /// Nothing decided yet.
    pub fn new() -> Self {
        Self(ShardId::all().map(|_| Mutex::default()).collect())
    }

    /// Counts offers that were chosen for a visitor.
    pub fn record<'o>(&self, visitor: &Identifier, at: Timestamp, offers: impl Iterator<Item = &'o str>) {
        let minute = Timestamp(at.0 - at.0.rem_euclid(60_000));
        let mut tile = self.0[usize::from(visitor.shard().0)].lock();
        let counts = tile.entry(visitor.clone()).or_default();
        for offer in offers {
            match counts.iter_mut().find(|count| count.offer == offer && count.minute == minute) {
                Some(count) => count.count += 1,
                None => counts.push(DecidedOffer { offer: CompactString::from(offer), minute, count: 1 }),
            }
        }
    }

    /// Reads something of a visitor together with what was counted and is not a change yet: each count is in one of the two.
    pub fn beside<T>(&self, visitor: &Identifier, read: impl FnOnce() -> T) -> (T, Vec<DecidedOffer>) {
        let tile = self.0[usize::from(visitor.shard().0)].lock();
        (read(), tile.get(visitor).cloned().unwrap_or_default())
    }

    /// Makes changes of the counts. May block on the disk.
    pub fn flush(&self, shards: &Shards, outbox: &dyn Outbox) -> Result<(), ShardError> {
        for (shard, tile) in ShardId::all().zip(&self.0) {
            // The lock is held until the changes are pending, so that a reader finds each count in one place or the other.
            let mut tile = tile.lock();
            if tile.is_empty() {
                continue;
            }
            let changes = tile.drain().map(|(visitor, offers)| Prepared::decided(visitor, offers)).collect();
            shards.admit(shard, changes, outbox)?;
        }
        Ok(())
    }
}
