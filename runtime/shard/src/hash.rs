//! What a shard's base comes to as one number, so that replicas can be told apart.
//!
//! A sum over everything that is known of each fragment, so its order does not matter, nor in what batches it came, nor how history is packed.

use selvedge_core::activation::Layout;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Piece, ShardError, Shards};

/// What a shard's base holds at a cursor, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// Up to where the log is in.
    pub cursor: Cursor,
    /// The sum over all there is: states, history, ids.
    pub hash: u128,
    /// The part of it that does not depend on plugins: history and ids.
    pub past: u128,
    /// How many fragments there are.
    pub fragments: u64,
    /// Names the layout of the states.
    pub layout: u64,
    /// Whether no state waits for its history.
    pub settled: bool,
}

impl StateHash {
    /// Whether two replicas hold the same; none where they cannot be compared, as they stand at different cursors. States are compared only where both
    /// are whole and folded alike.
    pub fn agrees(&self, other: &Self) -> Option<bool> {
        if self.cursor != other.cursor {
            return None;
        }
        let alike = self.layout == other.layout && self.settled && other.settled;
        Some(self.past == other.past && self.fragments == other.fragments && (!alike || self.hash == other.hash))
    }
}

/// The sums, as they grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(crate) fragments: u64,
    pub(crate) states: u128,
    pub(crate) past: u128,
    pub(crate) waiting: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, identifier: &Identifier, piece: &Piece<'_>) {
        match piece {
            Piece::Record { state, covers, .. } => {
                self.fragments += 1;
                self.waiting += u64::from(!covers);
                self.states = self.states.wrapping_add(digest(b'f', identifier, 0, state));
            }
            Piece::Block { entries, .. } => {
                for (seq, bytes) in *entries {
                    self.past = self.past.wrapping_add(digest(b'h', identifier, *seq, bytes));
                }
            }
            Piece::Ids(ids) => {
                for (id_hash, seq) in *ids {
                    self.past = self.past.wrapping_add(digest(b'i', identifier, *seq, id_hash));
                }
            }
        }
    }
}

fn digest(kind: u8, identifier: &Identifier, seq: u64, bytes: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&[kind]);
    hasher.update(identifier.as_str().as_bytes());
    hasher.update(&[0]);
    hasher.update(&seq.to_be_bytes());
    hasher.update(bytes);
    hasher.digest128()
}

/// A name for a layout.
pub(crate) fn layout_tag(layout: &Layout) -> u64 {
    // Encoding plain data to memory cannot fail; an empty text would only make two layouts look alike that are compared anyway.
    xxh3_64(&postcard::to_allocvec(layout).unwrap_or_default())
}

impl Shards {
    /// Reads a whole shard and sums it up. The base stands still meanwhile, about 20 µs a small profile; readers do not wait. Blocks on the disk.
    pub fn state_hash(&self, shard: ShardId) -> Result<StateHash, ShardError> {
        let cell = self.held_cell(shard)?;
        let _moves = cell.moves.lock();
        let cursor = cell.cursor();
        let mut sums = Sums::default();
        self.walk(shard, cursor.seq, &mut |identifier, piece| {
            sums.add(identifier, &piece);
            Ok(())
        })?;
        Ok(StateHash {
            cursor,
            hash: sums.states.wrapping_add(sums.past),
            past: sums.past,
            fragments: sums.fragments,
            layout: layout_tag(self.observer.layout()),
            settled: sums.waiting == 0,
        })
    }
}
