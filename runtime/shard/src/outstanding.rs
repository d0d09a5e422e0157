//! Pending changes by the numbers of the outbox: what becomes of them over a start, and once the centre has them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use selvedge_core::change::Change;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};

use crate::maps::{HashMap, HashSet};
use crate::pending::PendingChange;
use crate::{ShardError, Shards, State};

/// What of a shard is pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// How many changes.
    pub changes: usize,
    /// The number of the oldest in the outbox.
    pub oldest: Option<u64>,
}

impl Shards {
    /// Sets the number in the outbox that the next change admitted to a shard gets; from 1, where nobody says. To be called before anything is admitted.
    pub fn begin_pending(&self, shard: ShardId, next_local: u64) -> Result<(), ShardError> {
        let mut state = self.cell(shard).state.lock();
        if state.pending.outstanding().0 > 0 {
            return Err(out_of_order(shard, next_local));
        }
        state.pending.begin(next_local);
        Ok(())
    }

    /// Makes changes of the outbox pending again that the base does not hold, after a start: numbers ascending, above all that are pending already. Events
    /// whose ids the base holds are passed over. May be called several times, each going on where the one before ended. Blocks on the disk.
    pub fn restore_pending(&self, shard: ShardId, changes: Vec<(u64, Vec<u8>)>) -> Result<(), ShardError> {
        let restored = self.read_outstanding(shard, changes)?;
        let cell = self.cell(shard);
        let _rows = cell.rows.read();
        let mut state = cell.state.lock();
        let seq = cell.cursor().seq;
        let mut last = state.pending.last().unwrap_or(0);
        for (local, ..) in &restored {
            if *local <= last {
                return Err(out_of_order(shard, *local));
            }
            last = *local;
        }
        let mut touched: HashMap<Identifier, Arc<Fragment>> = HashMap::default();
        let mut weight = 0;
        for (local, identifier, change) in restored {
            if self.is_held_already(&state, &identifier, &change, seq)? {
                continue;
            }
            let held = self.current(&state, &identifier, true)?.unwrap_or_default();
            weight += change.weight();
            state.pending.push_as(local, &identifier, &change, || held);
            if let Some(pending) = state.pending.get(&identifier) {
                touched.entry(identifier).or_insert_with(|| Arc::clone(&pending.base));
            }
        }
        self.pending_bytes.fetch_add(weight, Ordering::Relaxed);
        for (identifier, base) in touched {
            if let Some(changed) = state.loading.get_mut(&identifier) {
                *changed = true;
            }
            self.rest_on(&mut state, &identifier, &base, &[], seq, None)?;
        }
        Ok(())
    }

    /// Reads and observes changes of an outbox.
    pub(crate) fn read_outstanding(
        &self,
        shard: ShardId,
        changes: Vec<(u64, Vec<u8>)>,
    ) -> Result<Vec<(u64, Identifier, Arc<PendingChange>)>, ShardError> {
        let mut read = Vec::with_capacity(changes.len());
        for (local, bytes) in changes {
            let change = Change::decode(&bytes)?;
            let (Some(identifier), Some(body)) = (change.fragment().cloned(), self.body(&change)) else { continue };
            if identifier.shard() != shard {
                let detail = format!("change {local} of the outbox of shard {} is of {identifier}", shard.0);
                return Err(ShardError::Corrupt(detail));
            }
            read.push((local, identifier, Arc::new(PendingChange { bytes: bytes.into(), body })));
        }
        Ok(read)
    }

    /// Whether the base, or another pending change, has an event's id.
    pub(crate) fn is_held_already(
        &self,
        state: &State,
        identifier: &Identifier,
        change: &PendingChange,
        seq: u64,
    ) -> Result<bool, ShardError> {
        let Some(id_hash) = change.body.id_hash() else { return Ok(false) };
        Ok(state.pending.holds(identifier, id_hash)
            || self.disk.seen(identifier, &id_hash)?.is_some_and(|seen| seen <= seq))
    }

    /// Drops pending changes up to a number: the base has them under earlier sequences, or this shard is not held and the centre has them. May block on
    /// the disk.
    pub fn settle_pending(&self, shard: ShardId, upto_local: u64) -> Result<(), ShardError> {
        let cell = self.cell(shard);
        let _moves = cell.moves.lock();
        let _rows = cell.rows.read();
        let mut state = cell.state.lock();
        let left = state.pending.leave(upto_local, &HashSet::default());
        self.pending_bytes.fetch_sub(left.weight, Ordering::Relaxed);
        for identifier in left.counts.keys() {
            let Some(base) = state.pending.get(identifier).map(|pending| Arc::clone(&pending.base)) else { continue };
            self.rest_on(&mut state, identifier, &base, &[], cell.cursor().seq, None)?;
        }
        Ok(())
    }

    /// What of a shard is pending.
    pub fn pending_changes(&self, shard: ShardId) -> Outstanding {
        let (changes, oldest) = self.cell(shard).state.lock().pending.outstanding();
        Outstanding { changes, oldest }
    }
}

fn out_of_order(shard: ShardId, local: u64) -> ShardError {
    ShardError::Corrupt(format!("change {local} of the outbox of shard {} comes behind newer ones", shard.0))
}
