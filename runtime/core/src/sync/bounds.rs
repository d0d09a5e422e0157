//! The bounds of what edges and the centre say to each other.

use crate::identity::SHARDS;

/// Shards that there may be: those of the data, and one for control.
pub const SHARDS_MAX: usize = SHARDS as usize + 1;
/// Bytes of one frame after its header.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that a sender puts into one frame where there is more to send.
pub const FRAME_BYTES_TARGET: usize = 1024 * 1024;
/// Entries of one frame.
pub const ENTRIES_MAX: usize = 16_384;
/// Bytes of one change.
pub const CHANGE_BYTES_MAX: usize = 512 * 1024;
/// Pushes of one frame: one for each shard.
pub const PUSHES_MAX: usize = SHARDS_MAX;
/// Changes of one push.
pub const PUSH_CHANGES_MAX: usize = 1_000;
/// Bytes of the reason for which a change is refused.
pub const REASON_BYTES_MAX: usize = 1024;
/// Bytes of what a snapshot says of itself.
pub const SNAPSHOT_HEAD_BYTES_MAX: usize = 1024 * 1024;
/// Chunks of one snapshot.
pub const SNAPSHOT_CHUNKS_MAX: usize = 65_536;
/// Bytes of one chunk as it is stored.
pub const CHUNK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Starts of one edge of which its outbox may hold changes.
pub const BOOTS_MAX: usize = 1_024;
/// Bytes of the table of starts.
pub const BOOTS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What one read-your-writes token may name: for each shard a number and a sequence.
pub const TOKEN_MARKS_MAX: usize = 2 * SHARDS_MAX;
/// Characters of a read-your-writes token.
pub const TOKEN_CHARS_MAX: usize = 4 * 1024;
