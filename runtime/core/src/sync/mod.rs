//! Synchronisation, pure: what edges and the centre say to each other, and what each makes of it.
//!
//! The centre orders changes by shard: gapless, durable, under an epoch that changes when a log was restored or failed over. An edge follows
//! that order for the shards it holds, and forwards what it accepted itself.
//!
//! Whoever sends a change numbers it: an [`Origin`] is one start of one edge, and for each shard it counts its changes from 1. The centre keeps
//! for each shard and origin the last number that it has taken, its *watermark*; so what comes twice is known, and what is missing is too.
//!
//! - [`frame`]: the bytes of all that is said; [`manifest`]: what a snapshot says of itself; [`bounds`]: how much of it there may be.
//! - [`replica`]: what an edge makes of what the centre says of one shard: apply it, ask again, take a snapshot; and how fresh its base is.
//! - [`forwarder`]: which of an edge's own changes go to the centre next, and which its outbox may forget.
//! - [`token`]: what a caller shows to another edge in order to read there what it wrote here.
//! - [`backoff`]: how long to wait after a failure.

pub mod backoff;
mod body;
mod boots;
pub mod bounds;
pub mod forwarder;
pub mod frame;
pub mod manifest;
pub mod replica;
pub mod token;
mod wire;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::ShardId;

/// One start of one edge, named at random; 0 is the centre itself. A start of its own, since a data directory that was restored from a backup would number other
/// changes as before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin(pub u64);

impl ShardId {
    /// The log of what concerns all shards: catalogue, plugins, configuration.
    pub const CONTROL: Self = Self(crate::identity::SHARDS);
}

impl Origin {
    /// The centre: what it appends has no number.
    pub const CENTRE: Self = Self(0);
}

/// An entry of a shard's log, as the centre ordered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counted from 1, without gaps.
    pub seq: u64,
    /// Who sent it.
    pub origin: Origin,
    /// Its number among the changes of this origin in this shard, from 1; 0 of the centre.
    pub number: u64,
    /// The change's bytes.
    pub bytes: Arc<[u8]>,
}

/// Why the centre sends a follower to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refetch {
    /// The log is in another epoch than the follower.
    Epoch,
    /// What it asked for is no longer in the log.
    Trimmed,
    /// It asked for what is not in the log yet.
    Ahead,
}

/// Where a shard's log stands at the centre.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Changes when the log was restored or failed over; from 1, and never the same twice: one more than that of a backup will not do, since the backup may be restored
    /// again. The seconds of the clock will.
    pub epoch: u32,
    /// The last entry; 0 before the first.
    pub seq: u64,
    /// The first entry that can still be read; a follower that needs an earlier one takes a snapshot. One behind `seq` where all are gone.
    pub first: u64,
    /// Up to here no fail-over, and no restore of the newest backup, loses anything.
    pub stable: u64,
    /// The sum of [`mix`] over all entries up to `seq`.
    pub checksum: u64,
}

/// An entry's part in the checksum of a log: the envelope's digest ([`Change::digest`](crate::change::Digest)) at its sequence.
pub fn mix(seq: u64, digest: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    bytes[8..].copy_from_slice(&digest.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Changes of one origin on their way to the log of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Whose log.
    pub shard: ShardId,
    /// The epoch that the sender believes in.
    pub epoch: u32,
    /// Who sends.
    pub origin: Origin,
    /// The number before the first of these changes: the last that the centre must have taken.
    pub predecessor: u64,
    /// The sender holds nothing between the centre's watermark and `predecessor` any more; the centre takes the rest, and reports the gap.
    pub skips: bool,
    /// The changes' bytes, numbered from `predecessor + 1`.
    pub changes: Vec<Arc<[u8]>>,
}

/// What became of a [`Push`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pushed {
    /// The sequence of each change, in order; of a duplicate, that of the change which came first.
    Taken {
        /// By change.
        seqs: Vec<u64>,
    },
    /// The predecessor is not what was taken last: this is. What is at or below it is in the log; what is above must be sent again.
    Behind {
        /// The last number taken of this origin.
        watermark: u64,
        /// The last entry of the log when that was read: whatever is at or below the watermark is ordered at or below it.
        head: u64,
    },
    /// The log is in another epoch.
    Epoch {
        /// This one.
        epoch: u32,
    },
    /// The change at this place cannot be taken, whatever is tried; nothing was taken.
    Refused {
        /// Its place in the push.
        index: usize,
        /// Why, for people.
        reason: String,
    },
}
