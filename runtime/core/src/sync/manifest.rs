//! Snapshots as they are offered: a shard's rows at one cursor, in chunks that are fetched one by one and checked each by itself.

use xxhash_rust::xxh3::xxh3_128;

use super::bounds;
use crate::identity::ShardId;
use crate::view::Cursor;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose rows.
    pub shard: ShardId,
    /// The log that it belongs to. Of a log that was restored with its snapshots, the epoch that it is in now.
    pub epoch: u32,
    /// The last entry that is in it.
    pub seq: u64,
    /// The log's checksum up to there.
    pub checksum: u64,
    /// The version of changes and rows that a reader needs.
    pub reads: u16,
    /// What the shard's own format says: layout, origins, counts.
    pub head: Vec<u8>,
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// A chunk as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its length.
    pub bytes: u32,
    /// XXH3 of its bytes.
    pub hash: u128,
}

impl Manifest {
    /// Where a base stands that was loaded from it.
    pub fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.seq }
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }
}

impl Chunk {
    /// Describes a chunk; none where it is longer than a chunk may be.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= bounds::CHUNK_BYTES_MAX)?;
        Some(Self { bytes: length, hash: xxh3_128(bytes) })
    }

    /// Whether these are its bytes.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        Self::of(bytes).as_ref() == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_knows_its_bytes() {
        let chunk = Chunk::of(b"rows").expect("short enough");
        assert!(chunk.is_of(b"rows"));
        assert!(!chunk.is_of(b"rowS") && !chunk.is_of(b"row") && !chunk.is_of(b""));
        assert_eq!(Chunk::of(&vec![0; bounds::CHUNK_BYTES_MAX + 1]), None);
    }
}
