//! Where the base of a shard stands in the log: the cursor, the checksum up to there, and how far each origin's changes are in.

use selvedge_core::change::{Change, ChangeError};
use selvedge_core::sync::{Entry, Origin, mix};
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};

use crate::disk::Move;
use crate::maps::HashMap;

/// Origins that a shard remembers; beyond it those of which nothing came for longest are forgotten.
pub const ORIGINS_MAX: usize = 4096;

/// The last change of an origin that is in the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its number among the changes of this origin in this shard.
    pub number: u64,
    /// Its sequence.
    pub seq: u64,
}

/// Where a base stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) cursor: Cursor,
    pub(crate) checksum: u64,
    pub(crate) origins: HashMap<Origin, Applied>,
}

impl Place {
    pub(crate) fn new(cursor: Cursor, checksum: u64) -> Self {
        Self { cursor, checksum, origins: HashMap::default() }
    }

    /// What entries that follow move.
    pub(crate) fn after<'e>(&self, epoch: u32, entries: impl Iterator<Item = &'e Entry>) -> Result<Move, ChangeError> {
        let mut to = Move { cursor: Cursor { epoch, ..self.cursor }, ..Move::default() };
        let (mut checksum, mut moved) = (self.checksum, HashMap::default());
        for entry in entries {
            checksum = checksum.wrapping_add(mix(entry.seq, Change::digest(&entry.bytes)?.envelope));
            to.cursor.seq = entry.seq;
            if entry.origin != Origin::CENTRE {
                let before = self.origins.get(&entry.origin).map_or(0, |applied| applied.number);
                let applied = moved.entry(entry.origin).or_insert(Applied { number: before, seq: 0 });
                *applied = Applied { number: applied.number.max(entry.number), seq: entry.seq };
            }
        }
        let new = moved.keys().filter(|origin| !self.origins.contains_key(origin)).count();
        let excess = (self.origins.len() + new).saturating_sub(ORIGINS_MAX);
        if excess > 0 {
            let mut oldest: Vec<_> = self.origins.iter().filter(|(origin, _)| !moved.contains_key(origin)).collect();
            oldest.sort_unstable_by_key(|(origin, applied)| (applied.seq, **origin));
            to.forgotten = oldest.into_iter().take(excess).map(|(origin, _)| *origin).collect();
        }
        to.checksum = Some(checksum);
        to.origins = moved.into_iter().collect();
        Ok(to)
    }

    /// Moves.
    pub(crate) fn go(&mut self, to: Move) {
        self.cursor = to.cursor;
        self.checksum = to.checksum.unwrap_or(self.checksum);
        for origin in to.forgotten {
            self.origins.remove(&origin);
        }
        self.origins.extend(to.origins);
    }
}
