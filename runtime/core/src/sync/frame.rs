//! Frames: the bytes of all that edges and the centre say to each other.
//!
//! A frame is a header of 16 bytes and a body. The header: a magic byte, the version, the kind, a zero, the body's length (four bytes, little endian), and XXH3 over the
//! body with those first eight bytes as its seed; so the checksum covers the kind and the length too. A stream is a sequence of frames. Numbers in bodies are
//! LEB128; the bytes of changes stand as they are, and are copied once when they are read.
//!
//! Whoever reads a frame gets what was written or an error. After an error the rest of a stream means nothing: connect again, and ask from the cursor.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::manifest::Manifest;
use super::{Entry, Head, Push, Pushed, Refetch, body, bounds};
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
        out.extend_from_slice(&[MAGIC, VERSION, body::kind(self), 0]);
        out.extend_from_slice(&[0; HEADER_BYTES - 4]);
        body::write(self, out)?;
        let body = out.len() - start - HEADER_BYTES;
        within("bytes of a frame", body, bounds::FRAME_BYTES_MAX)?;
        let length = u32::try_from(body).map_err(|_| FrameError::Malformed("long"))?;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(&out[start..start + 8], &out[start + HEADER_BYTES..]);
        out[start + 8..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        Ok(())
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
    if header[3] != 0 {
        return Err(FrameError::Malformed("flagged"));
    }
    body::read(header[2], body)
}

fn checksum(named: &[u8], body: &[u8]) -> u64 {
    let mut seed = [0; 8];
    seed.copy_from_slice(named);
    xxh3_64_with_seed(body, u64::from_le_bytes(seed))
}

/// Lengths fit 64 bits wherever this runs.
pub(super) fn len(length: usize) -> u64 {
    length as u64
}

pub(super) fn within(what: &'static str, got: usize, most: usize) -> Result<(), FrameError> {
    if got <= most { Ok(()) } else { Err(FrameError::TooLarge { what, got: len(got), most: len(most) }) }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
