//! Frames: the bytes of all that edges and the centre say to each other.
//!
//! A frame is a header of 16 bytes and a body. The header: a magic byte, the version, the kind, a zero, the body's length (four bytes, little endian), and XXH3 over the
//! body with those first eight bytes as its seed; so the checksum covers the kind and the length too. A stream is a sequence of frames. Numbers in bodies are
//! LEB128; the bytes of changes stand as they are, and are copied once when they are read.
//!
//! Whoever reads a frame gets what was written or an error. After an error the rest of a stream means nothing: connect again, and ask from the cursor.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::manifest::{Chunk, Manifest};
use super::wire::{Reader, fold, put, put_bytes, put_fixed, unfold};
use super::{Entry, Head, Origin, Push, Pushed, Refetch, bounds};
use crate::identity::ShardId;
use crate::view::Cursor;

/// The newest version of frames that this build writes and reads.
pub const VERSION: u8 = 1;
/// The first byte of every frame.
pub const MAGIC: u8 = 0xE5;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 16;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Entries of one shard's log, ascending.
    Changes {
        /// Whose log.
        shard: ShardId,
        /// The epoch that it is in.
        epoch: u32,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The heartbeat: where the logs stand that the follower asked for. Never older than what was sent before it.
    Heads(Vec<(ShardId, Head)>),
    /// The follower of this shard must take a snapshot.
    Refetch {
        /// Whose log.
        shard: ShardId,
        /// The epoch that it is in.
        epoch: u32,
        /// Why.
        why: Refetch,
    },
    /// Changes for the centre.
    Pushes(Vec<Push>),
    /// What became of each push, in order.
    PushAnswers(Vec<Pushed>),
    /// What an edge asks to be told: everything behind these cursors.
    Follow(Vec<(ShardId, Cursor)>),
    /// A snapshot that can be fetched.
    Manifest(Manifest),
}

/// Bytes that are no frame of this version, or what does not fit one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame; connect again and ask from the cursor")]
    Truncated,
    /// It does not begin as frames do.
    #[error("byte {0:#04x} begins no frame; check that the address is that of a selvedge centre or edge")]
    NotAFrame(u8),
    /// Written by a newer build.
    #[error("this end reads frames up to version {VERSION}, the frame is of version {0}; upgrade selvedge at this end")]
    Version(u8),
    /// A kind of a newer build.
    #[error("frame kind {0} is unknown to this version; upgrade selvedge at this end")]
    UnknownKind(u8),
    /// Over a bound.
    #[error("{what}: {got} is over {most}; send less at once")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        got: u64,
        /// How much there may be.
        most: u64,
    },
    /// Not what was sent.
    #[error("the checksum differs: the frame was damaged on its way; connect again and ask from the cursor")]
    Checksum,
    /// The checksum is right and the body is not: the other end is broken.
    #[error("malformed {0} frame with a right checksum: the sender is broken; upgrade the other end, and report this")]
    Malformed(&'static str),
}

const CHANGES: u8 = 1;
const HEADS: u8 = 2;
const REFETCH: u8 = 3;
const PUSHES: u8 = 4;
const PUSH_ANSWERS: u8 = 5;
const FOLLOW: u8 = 6;
const MANIFEST: u8 = 7;

/// How many of these entries go into one frame: as many as its target holds, and at least one where there is one.
pub fn fitting(entries: &[Entry]) -> usize {
    // Of each: its origin, number, length and step of sequence, at their longest.
    const BESIDE: usize = 40;
    let mut bytes = 0;
    let fit = entries.iter().take(bounds::ENTRIES_MAX).take_while(|entry| {
        bytes += entry.bytes.len() + BESIDE;
        bytes <= bounds::FRAME_BYTES_TARGET
    });
    fit.count().max(usize::from(!entries.is_empty()))
}

impl Frame {
    /// The frame's bytes. An error where it holds more than a frame may.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Appends the frame's bytes; nothing in case of an error.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let start = out.len();
        let written = self.write(out, start);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    /// Reads one frame from its bytes, and nothing but that.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (header, frame) = announced(bytes)?.ok_or(FrameError::Truncated)?;
        let body = bytes.get(HEADER_BYTES..frame).ok_or(FrameError::Truncated)?;
        if bytes.len() > frame {
            return Err(FrameError::TooLarge { what: "bytes of one frame", got: len(bytes.len()), most: len(frame) });
        }
        read(header, body)
    }

    fn write(&self, out: &mut Vec<u8>, start: usize) -> Result<(), FrameError> {
        out.extend_from_slice(&[MAGIC, VERSION, self.kind().0, 0]);
        out.extend_from_slice(&[0; HEADER_BYTES - 4]);
        self.write_body(out)?;
        let body = out.len() - start - HEADER_BYTES;
        within("bytes of a frame", body, bounds::FRAME_BYTES_MAX)?;
        let length = u32::try_from(body).map_err(|_| FrameError::Malformed("long"))?;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(&out[start..start + 8], &out[start + HEADER_BYTES..]);
        out[start + 8..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Ok(())
    }

    fn kind(&self) -> (u8, &'static str) {
        match self {
            Self::Changes { .. } => (CHANGES, "changes"),
            Self::Heads(_) => (HEADS, "heads"),
            Self::Refetch { .. } => (REFETCH, "refetch"),
            Self::Pushes(_) => (PUSHES, "pushes"),
            Self::PushAnswers(_) => (PUSH_ANSWERS, "push answers"),
            Self::Follow(_) => (FOLLOW, "follow"),
            Self::Manifest(_) => (MANIFEST, "manifest"),
        }
    }

    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Changes { shard, epoch, entries } => {
                within("entries of a frame", entries.len(), bounds::ENTRIES_MAX)?;
                put_shard(out, *shard)?;
                put(out, u64::from(*epoch));
                write_entries(out, entries)
            }
            Self::Heads(heads) => {
                within("shards of a frame", heads.len(), bounds::SHARDS_MAX)?;
                put(out, len(heads.len()));
                for (shard, head) in heads {
                    put_shard(out, *shard)?;
                    put(out, u64::from(head.epoch));
                    put(out, head.seq);
                    put(out, head.first);
                    put(out, head.stable);
                    put_fixed(out, head.checksum);
                }
                Ok(())
            }
            Self::Refetch { shard, epoch, why } => {
                put_shard(out, *shard)?;
                put(out, u64::from(*epoch));
                out.push(match why {
                    Refetch::Epoch => 0,
                    Refetch::Trimmed => 1,
                    Refetch::Ahead => 2,
                });
                Ok(())
            }
            Self::Pushes(pushes) => {
                within("pushes of a frame", pushes.len(), bounds::PUSHES_MAX)?;
                put(out, len(pushes.len()));
                pushes.iter().try_for_each(|push| write_push(out, push))
            }
            Self::PushAnswers(answers) => {
                within("answers of a frame", answers.len(), bounds::PUSHES_MAX)?;
                put(out, len(answers.len()));
                answers.iter().try_for_each(|answer| write_answer(out, answer))
            }
            Self::Follow(shards) => {
                within("shards of a frame", shards.len(), bounds::SHARDS_MAX)?;
                put(out, len(shards.len()));
                for (shard, after) in shards {
                    put_shard(out, *shard)?;
                    put(out, u64::from(after.epoch));
                    put(out, after.seq);
                }
                Ok(())
            }
            Self::Manifest(manifest) => write_manifest(out, manifest),
        }
    }
}

/// Frames from a stream that arrives piece by piece. It holds what has arrived and reserves nothing for what was only announced.
#[derive(Debug, Default)]
pub struct FrameReader {
    arrived: Vec<u8>,
    /// Up to here it was read.
    at: usize,
    failed: Option<FrameError>,
}

impl FrameReader {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has arrived. Read all frames before the next piece: what is unread stays in memory.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.at > 0 {
            self.arrived.drain(..self.at);
            self.at = 0;
            // After a large frame: the next ones may be small for hours.
            if self.arrived.len() < bounds::FRAME_BYTES_TARGET {
                self.arrived.shrink_to(bounds::FRAME_BYTES_TARGET);
            }
        }
        self.arrived.extend_from_slice(bytes);
    }

    /// The next frame that has arrived as a whole; none where more must arrive. An error is final.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let unread = &self.arrived[self.at..];
        let outcome = match announced(unread) {
            Ok(Some((header, frame))) => match unread.get(HEADER_BYTES..frame) {
                Some(body) => read(header, body).map(|read| Some((read, frame))),
                None => Ok(None),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Some((frame, bytes))) => {
                self.at += bytes;
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = Some(error);
                self.arrived = Vec::new();
                self.at = 0;
                Err(error)
            }
        }
    }

    /// The stream has ended: an error where that was inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.at < self.arrived.len() => Err(FrameError::Truncated),
            None => Ok(()),
        }
    }
}

/// The header, and the bytes of the frame that it announces; none where it has not arrived. Says what is wrong as soon as it can be seen.
fn announced(bytes: &[u8]) -> Result<Option<(&[u8; HEADER_BYTES], usize)>, FrameError> {
    match bytes {
        [magic, ..] if *magic != MAGIC => return Err(FrameError::NotAFrame(*magic)),
        [_, version, ..] if *version > VERSION => return Err(FrameError::Version(*version)),
        [_, 0, ..] => return Err(FrameError::Malformed("version 0")),
        _ => {}
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let body = usize::try_from(length).unwrap_or(usize::MAX);
    within("bytes of a frame", body, bounds::FRAME_BYTES_MAX)?;
    Ok(Some((header, HEADER_BYTES + body)))
}

fn read(header: &[u8; HEADER_BYTES], body: &[u8]) -> Result<Frame, FrameError> {
    let (named, sum) = header.split_at(8);
    if checksum(named, body).to_le_bytes() != sum {
        return Err(FrameError::Checksum);
    }
    let mut reader = Reader(body);
    let (what, frame) = match header[2] {
        CHANGES => ("changes", read_changes(&mut reader)),
        HEADS => ("heads", read_heads(&mut reader).map(Frame::Heads)),
        REFETCH => ("refetch", read_refetch(&mut reader)),
        PUSHES => ("pushes", read_pushes(&mut reader).map(Frame::Pushes)),
        PUSH_ANSWERS => ("push answers", read_answers(&mut reader).map(Frame::PushAnswers)),
        FOLLOW => ("follow", read_follow(&mut reader).map(Frame::Follow)),
        MANIFEST => ("manifest", read_manifest(&mut reader).map(Frame::Manifest)),
        unknown => return Err(FrameError::UnknownKind(unknown)),
    };
    if header[3] != 0 {
        return Err(FrameError::Malformed(what));
    }
    frame.filter(|_| reader.end().is_some()).ok_or(FrameError::Malformed(what))
}

fn checksum(named: &[u8], body: &[u8]) -> u64 {
    let mut seed = [0; 8];
    seed.copy_from_slice(named);
    xxh3_64_with_seed(body, u64::from_le_bytes(seed))
}

/// Lengths fit 64 bits wherever this runs.
fn len(length: usize) -> u64 {
    length as u64
}

fn within(what: &'static str, got: usize, most: usize) -> Result<(), FrameError> {
    if got <= most { Ok(()) } else { Err(FrameError::TooLarge { what, got: len(got), most: len(most) }) }
}

fn put_shard(out: &mut Vec<u8>, shard: ShardId) -> Result<(), FrameError> {
    within("shard", usize::from(shard.0), bounds::SHARDS_MAX - 1)?;
    put(out, u64::from(shard.0));
    Ok(())
}

fn shard(reader: &mut Reader<'_>) -> Option<ShardId> {
    reader.short().filter(|shard| usize::from(*shard) < bounds::SHARDS_MAX).map(ShardId)
}

/// First the origins, each once. Then for each entry how far its sequence is from the next, its origin's place, its number, its bytes.
fn write_entries(out: &mut Vec<u8>, entries: &[Entry]) -> Result<(), FrameError> {
    let mut origins: Vec<Origin> = entries.iter().map(|entry| entry.origin).collect();
    origins.sort_unstable();
    origins.dedup();
    put(out, len(origins.len()));
    for origin in &origins {
        put_fixed(out, origin.0);
    }
    put(out, len(entries.len()));
    let mut next = 0_u64;
    for entry in entries {
        within("bytes of a change", entry.bytes.len(), bounds::CHANGE_BYTES_MAX)?;
        put(out, fold(entry.seq.wrapping_sub(next)));
        put(out, len(origins.binary_search(&entry.origin).unwrap_or(0)));
        put(out, entry.number);
        put_bytes(out, &entry.bytes);
        next = entry.seq.wrapping_add(1);
    }
    Ok(())
}

fn read_changes(reader: &mut Reader<'_>) -> Option<Frame> {
    let shard = shard(reader)?;
    let epoch = reader.small()?;
    let origins = (0..reader.count(bounds::ENTRIES_MAX, 8)?).map(|_| reader.fixed()).collect::<Option<Vec<_>>>()?;
    let count = reader.count(bounds::ENTRIES_MAX, 4)?;
    let mut entries = Vec::with_capacity(count);
    let mut next = 0_u64;
    for _ in 0..count {
        let seq = next.wrapping_add(unfold(reader.number()?));
        let origin = Origin(*origins.get(usize::try_from(reader.number()?).ok()?)?);
        let number = reader.number()?;
        entries.push(Entry { seq, origin, number, bytes: reader.bytes(bounds::CHANGE_BYTES_MAX)?.into() });
        next = seq.wrapping_add(1);
    }
    Some(Frame::Changes { shard, epoch, entries })
}

fn read_heads(reader: &mut Reader<'_>) -> Option<Vec<(ShardId, Head)>> {
    let count = reader.count(bounds::SHARDS_MAX, 13)?;
    let head = |reader: &mut Reader<'_>| {
        let shard = shard(reader)?;
        let (epoch, seq, first) = (reader.small()?, reader.number()?, reader.number()?);
        Some((shard, Head { epoch, seq, first, stable: reader.number()?, checksum: reader.fixed()? }))
    };
    (0..count).map(|_| head(reader)).collect()
}

fn read_refetch(reader: &mut Reader<'_>) -> Option<Frame> {
    let shard = shard(reader)?;
    let epoch = reader.small()?;
    let why = match reader.byte()? {
        0 => Refetch::Epoch,
        1 => Refetch::Trimmed,
        2 => Refetch::Ahead,
        _ => return None,
    };
    Some(Frame::Refetch { shard, epoch, why })
}

fn write_push(out: &mut Vec<u8>, push: &Push) -> Result<(), FrameError> {
    within("changes of a push", push.changes.len(), bounds::PUSH_CHANGES_MAX)?;
    put_shard(out, push.shard)?;
    put(out, u64::from(push.epoch));
    put_fixed(out, push.origin.0);
    put(out, push.predecessor);
    out.push(u8::from(push.skips));
    put(out, len(push.changes.len()));
    for change in &push.changes {
        within("bytes of a change", change.len(), bounds::CHANGE_BYTES_MAX)?;
        put_bytes(out, change);
    }
    Ok(())
}

fn read_pushes(reader: &mut Reader<'_>) -> Option<Vec<Push>> {
    let count = reader.count(bounds::PUSHES_MAX, 13)?;
    let push = |reader: &mut Reader<'_>| {
        let (shard, epoch, origin) = (shard(reader)?, reader.small()?, Origin(reader.fixed()?));
        let predecessor = reader.number()?;
        let skips = flag(reader)?;
        let count = reader.count(bounds::PUSH_CHANGES_MAX, 1)?;
        let change = |_| reader.bytes(bounds::CHANGE_BYTES_MAX).map(Arc::from);
        let changes = (0..count).map(change).collect::<Option<Vec<Arc<[u8]>>>>()?;
        Some(Push { shard, epoch, origin, predecessor, skips, changes })
    };
    (0..count).map(|_| push(reader)).collect()
}

fn flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.byte()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn write_answer(out: &mut Vec<u8>, answer: &Pushed) -> Result<(), FrameError> {
    match answer {
        Pushed::Taken { seqs } => {
            within("changes of an answer", seqs.len(), bounds::PUSH_CHANGES_MAX)?;
            out.push(0);
            put(out, len(seqs.len()));
            let mut next = 0_u64;
            for seq in seqs {
                put(out, fold(seq.wrapping_sub(next)));
                next = seq.wrapping_add(1);
            }
        }
        Pushed::Behind { watermark, head } => {
            out.push(1);
            put(out, *watermark);
            put(out, *head);
        }
        Pushed::Epoch { epoch } => {
            out.push(2);
            put(out, u64::from(*epoch));
        }
        Pushed::Refused { index, reason } => {
            within("place in a push", *index, bounds::PUSH_CHANGES_MAX - 1)?;
            within("bytes of a reason", reason.len(), bounds::REASON_BYTES_MAX)?;
            out.push(3);
            put(out, len(*index));
            put_bytes(out, reason.as_bytes());
        }
    }
    Ok(())
}

fn read_answers(reader: &mut Reader<'_>) -> Option<Vec<Pushed>> {
    let count = reader.count(bounds::PUSHES_MAX, 2)?;
    (0..count).map(|_| read_answer(reader)).collect()
}

fn read_answer(reader: &mut Reader<'_>) -> Option<Pushed> {
    match reader.byte()? {
        0 => {
            let count = reader.count(bounds::PUSH_CHANGES_MAX, 1)?;
            let mut next = 0_u64;
            let seq = |_| {
                let seq = next.wrapping_add(unfold(reader.number()?));
                next = seq.wrapping_add(1);
                Some(seq)
            };
            Some(Pushed::Taken { seqs: (0..count).map(seq).collect::<Option<_>>()? })
        }
        1 => Some(Pushed::Behind { watermark: reader.number()?, head: reader.number()? }),
        2 => Some(Pushed::Epoch { epoch: reader.small()? }),
        3 => {
            let index = usize::from(reader.short()?);
            let reason = str::from_utf8(reader.bytes(bounds::REASON_BYTES_MAX)?).ok()?;
            (index < bounds::PUSH_CHANGES_MAX).then(|| Pushed::Refused { index, reason: reason.to_owned() })
        }
        _ => None,
    }
}

fn read_follow(reader: &mut Reader<'_>) -> Option<Vec<(ShardId, Cursor)>> {
    let count = reader.count(bounds::SHARDS_MAX, 3)?;
    let followed =
        |reader: &mut Reader<'_>| Some((shard(reader)?, Cursor { epoch: reader.small()?, seq: reader.number()? }));
    (0..count).map(|_| followed(reader)).collect()
}

fn write_manifest(out: &mut Vec<u8>, manifest: &Manifest) -> Result<(), FrameError> {
    let Manifest { shard, epoch, seq, checksum, reads, head, chunks } = manifest;
    within("bytes of a snapshot's head", head.len(), bounds::SNAPSHOT_HEAD_BYTES_MAX)?;
    within("chunks of a snapshot", chunks.len(), bounds::SNAPSHOT_CHUNKS_MAX)?;
    put_shard(out, *shard)?;
    put(out, u64::from(*epoch));
    put(out, *seq);
    put_fixed(out, *checksum);
    put(out, u64::from(*reads));
    put_bytes(out, head);
    put(out, len(chunks.len()));
    for chunk in chunks {
        let bytes = usize::try_from(chunk.bytes).unwrap_or(usize::MAX);
        within("bytes of a chunk", bytes, bounds::CHUNK_BYTES_MAX)?;
        put(out, u64::from(chunk.bytes));
        out.extend_from_slice(&chunk.hash.to_le_bytes());
    }
    Ok(())
}

fn read_manifest(reader: &mut Reader<'_>) -> Option<Manifest> {
    let (shard, epoch, seq) = (shard(reader)?, reader.small()?, reader.number()?);
    let (checksum, reads) = (reader.fixed()?, reader.short()?);
    let head = reader.bytes(bounds::SNAPSHOT_HEAD_BYTES_MAX)?.to_vec();
    let count = reader.count(bounds::SNAPSHOT_CHUNKS_MAX, 17)?;
    let chunk = |_| {
        let bytes = reader.small().filter(|bytes| len(bounds::CHUNK_BYTES_MAX) >= u64::from(*bytes))?;
        let (low, high) = (reader.fixed()?, reader.fixed()?);
        Some(Chunk { bytes, hash: u128::from(high) << 64 | u128::from(low) })
    };
    let chunks = (0..count).map(chunk).collect::<Option<_>>()?;
    Some(Manifest { shard, epoch, seq, checksum, reads, head, chunks })
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
