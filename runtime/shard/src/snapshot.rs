//! Snapshots: a shard's base at one cursor, as bytes that another edge can begin with.
//!
//! A snapshot is a head and chunks. Each chunk is compressed and checksummed for itself and decodes alone, in any order; a fragment may be spread over
//! several, in pieces: its record, its blocks of history, its ids. What is read is checked before it is used: form, lengths, checksum.

use selvedge_core::activation::Layout;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::sync::Origin;
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::FORMAT;
use crate::hash::Sums;
use crate::origins::{Applied, ORIGINS_MAX};
use crate::walk::Piece;
use crate::{ShardError, Shards};

/// Bytes of pieces that one chunk may expand to.
pub const CHUNK_EXPANDED_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a head, at most.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

const HEAD_MAGIC: &[u8; 4] = b"SvSh";
const CHUNK_MAGIC: &[u8; 4] = b"SvSc";
const VERSION: u8 = 1;
/// Magic, version, shard, index, expanded length, checksum.
const CHUNK_HEAD: usize = 4 + 1 + 2 + 4 + 4 + 8;
const CHECKSUM_AT: usize = CHUNK_HEAD - 8;
/// Level 1: the pieces are compressed once already.
const LEVEL: i32 = 1;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Whose.
    pub shard: ShardId,
    /// Up to where the log is in it.
    pub cursor: Cursor,
    /// The log's checksum up to there.
    pub checksum: u64,
    /// The form of rows and records; an edge takes its own only.
    pub format: u32,
    /// By what its states were folded.
    pub layout: Layout,
    /// How far each origin's changes are in.
    pub origins: Vec<(Origin, Applied)>,
    /// How many fragments there are.
    pub fragments: u64,
    /// How many chunks.
    pub chunks: u32,
    /// The sum over all states.
    pub states: u128,
    /// The sum over all history and ids.
    pub past: u128,
}

#[derive(Serialize, Deserialize)]
struct HeadBytes {
    shard: u16,
    epoch: u32,
    seq: u64,
    checksum: u64,
    format: u32,
    layout: Layout,
    origins: Vec<(Origin, Applied)>,
    fragments: u64,
    chunks: u32,
    states: u128,
    past: u128,
}

/// A piece as it stands in a chunk.
#[derive(Serialize, Deserialize)]
pub(crate) enum PieceBytes<'p> {
    Record(&'p str, &'p [u8]),
    Block(&'p str, u64, &'p [u8]),
    Ids(&'p str, Vec<([u8; 16], u64)>),
}

impl SnapshotHead {
    /// The head's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { shard, cursor, checksum, format, layout, origins, fragments, chunks, states, past } = self.clone();
        let head = HeadBytes {
            shard: shard.0,
            epoch: cursor.epoch,
            seq: cursor.seq,
            checksum,
            format,
            layout,
            origins,
            fragments,
            chunks,
            states,
            past,
        };
        let begun = [HEAD_MAGIC.as_slice(), &[VERSION]].concat();
        // Encoding plain data to memory cannot fail; were it to, the head would be refused when it is read.
        let mut bytes = postcard::to_extend(&head, begun).unwrap_or_default();
        bytes.extend_from_slice(&xxh3_64(&bytes).to_be_bytes());
        bytes
    }

    /// Reads a head's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ShardError> {
        let bad = |why: &str| ShardError::Snapshot(format!("the head {why}"));
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(bad("is too large"));
        }
        let (body, checksum) = bytes.split_last_chunk::<8>().ok_or_else(|| bad("is cut off"))?;
        if u64::from_be_bytes(*checksum) != xxh3_64(body) {
            return Err(bad("is damaged"));
        }
        let rest = body.strip_prefix(HEAD_MAGIC).ok_or_else(|| bad("is not one"))?;
        let rest = versioned(rest)?;
        let (head, rest) = postcard::take_from_bytes::<HeadBytes>(rest).map_err(|_| bad("is malformed"))?;
        if !rest.is_empty() || head.origins.len() > ORIGINS_MAX || usize::from(head.shard) >= ShardId::all().count() {
            return Err(bad("is malformed"));
        }
        let HeadBytes { shard, epoch, seq, checksum, format, layout, origins, fragments, chunks, states, past } = head;
        let (shard, cursor) = (ShardId(shard), Cursor { epoch, seq });
        Ok(Self { shard, cursor, checksum, format, layout, origins, fragments, chunks, states, past })
    }
}

/// What follows a version byte that is this one's.
fn versioned(bytes: &[u8]) -> Result<&[u8], ShardError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) => Err(ShardError::Snapshot(format!(
            "it has version {version}, this program reads {VERSION}; upgrade whichever is older"
        ))),
        None => Err(ShardError::Snapshot("it is cut off".into())),
    }
}

impl Shards {
    /// Hands over a shard's base in chunks of about so many bytes before compression, and gives what they are of. The base stands still meanwhile, about
    /// 20 µs a small profile plus what `take` takes; readers and admissions do not wait. Memory holds one chunk. Blocks on the disk.
    pub fn export(
        &self,
        shard: ShardId,
        chunk_bytes: usize,
        take: &mut dyn FnMut(Vec<u8>) -> Result<(), ShardError>,
    ) -> Result<SnapshotHead, ShardError> {
        let cell = self.held_cell(shard)?;
        let _moves = cell.moves.lock();
        let place = cell.place.read().clone();
        let mut writer = Writer { shard, chunk_bytes, expanded: Vec::new(), chunks: 0 };
        let mut sums = Sums::default();
        self.walk(shard, place.cursor.seq, &mut |identifier, piece| {
            sums.add(identifier, &piece);
            writer.push(identifier, piece, take)
        })?;
        writer.close(take)?;
        let mut origins: Vec<_> = place.origins.into_iter().collect();
        origins.sort_unstable_by_key(|(origin, _)| *origin);
        Ok(SnapshotHead {
            shard,
            cursor: place.cursor,
            checksum: place.checksum,
            format: FORMAT,
            layout: self.observer.layout().clone(),
            origins,
            fragments: sums.fragments,
            chunks: writer.chunks,
            states: sums.states,
            past: sums.past,
        })
    }
}

/// Gathers pieces into chunks.
struct Writer {
    shard: ShardId,
    chunk_bytes: usize,
    expanded: Vec<u8>,
    chunks: u32,
}

impl Writer {
    fn push(
        &mut self,
        identifier: &Identifier,
        piece: Piece<'_>,
        take: &mut dyn FnMut(Vec<u8>) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let text = identifier.as_str();
        let piece = match piece {
            Piece::Record { bytes, .. } => PieceBytes::Record(text, bytes),
            Piece::Block { seq, bytes, .. } => PieceBytes::Block(text, seq, bytes),
            Piece::Ids(ids) => PieceBytes::Ids(text, ids.to_vec()),
        };
        let too_large = |_| ShardError::TooLarge(identifier.to_string());
        let before = self.expanded.len();
        self.expanded = postcard::to_extend(&piece, std::mem::take(&mut self.expanded)).map_err(too_large)?;
        if self.expanded.len() - before > CHUNK_EXPANDED_MAX / 2 {
            return Err(ShardError::TooLarge(identifier.to_string()));
        }
        if self.expanded.len() >= self.chunk_bytes.min(CHUNK_EXPANDED_MAX / 2) { self.close(take) } else { Ok(()) }
    }

    fn close(&mut self, take: &mut dyn FnMut(Vec<u8>) -> Result<(), ShardError>) -> Result<(), ShardError> {
        if self.expanded.is_empty() {
            return Ok(());
        }
        let too_large = || ShardError::TooLarge(format!("a chunk of shard {}", self.shard.0));
        let length = u32::try_from(self.expanded.len()).map_err(|_| too_large())?;
        let packed = zstd::bulk::compress(&self.expanded, LEVEL).map_err(|_| too_large())?;
        let mut chunk = Vec::with_capacity(CHUNK_HEAD + packed.len());
        chunk.extend_from_slice(CHUNK_MAGIC);
        chunk.push(VERSION);
        chunk.extend_from_slice(&self.shard.0.to_be_bytes());
        chunk.extend_from_slice(&self.chunks.to_be_bytes());
        chunk.extend_from_slice(&length.to_be_bytes());
        chunk.extend_from_slice(&[0; 8]);
        chunk.extend_from_slice(&packed);
        let checksum = checksum(&chunk).ok_or_else(too_large)?;
        chunk[CHECKSUM_AT..CHUNK_HEAD].copy_from_slice(&checksum.to_be_bytes());
        self.expanded.clear();
        self.chunks = self.chunks.checked_add(1).ok_or_else(too_large)?;
        take(chunk)
    }
}

/// The checksum of a chunk but for the place where it stands.
fn checksum(chunk: &[u8]) -> Option<u64> {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(chunk.get(..CHECKSUM_AT)?);
    hasher.update(chunk.get(CHUNK_HEAD..)?);
    Some(hasher.digest())
}

/// A chunk that has been checked and expanded.
pub(crate) struct Chunk {
    pub(crate) index: u32,
    expanded: Vec<u8>,
}

impl Chunk {
    pub(crate) fn decode(shard: ShardId, chunk: &[u8]) -> Result<Self, ShardError> {
        let bad = |why: &str| ShardError::Snapshot(format!("a chunk {why}"));
        let rest = chunk.strip_prefix(CHUNK_MAGIC).ok_or_else(|| bad("is not one"))?;
        versioned(rest)?;
        let head: &[u8; CHUNK_HEAD] = chunk.first_chunk().ok_or_else(|| bad("is cut off"))?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let said = head.last_chunk::<8>().map(|said| u64::from_be_bytes(*said));
        if said.is_none() || said != checksum(chunk) {
            return Err(bad("is damaged"));
        }
        if u16::from_be_bytes([head[5], head[6]]) != shard.0 {
            return Err(bad("is of another shard"));
        }
        let length = number(11) as usize;
        if length > CHUNK_EXPANDED_MAX {
            return Err(bad("is too large"));
        }
        let expanded = zstd::bulk::decompress(&chunk[CHUNK_HEAD..], length).map_err(|_| bad("does not expand"))?;
        if expanded.len() != length {
            return Err(bad("does not expand"));
        }
        Ok(Self { index: number(7), expanded })
    }

    /// Hands over its pieces.
    pub(crate) fn for_each(
        &self,
        mut take: impl FnMut(&Identifier, PieceBytes<'_>) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let bad = || ShardError::Snapshot("a chunk is malformed".into());
        let mut rest = self.expanded.as_slice();
        while !rest.is_empty() {
            let piece;
            (piece, rest) = postcard::take_from_bytes::<PieceBytes<'_>>(rest).map_err(|_| bad())?;
            let (PieceBytes::Record(text, _) | PieceBytes::Block(text, ..) | PieceBytes::Ids(text, _)) = &piece;
            take(&Identifier::stored(text).map_err(|_| bad())?, piece)?;
        }
        Ok(())
    }
}
