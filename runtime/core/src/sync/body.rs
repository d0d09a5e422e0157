//! The bodies of frames, kind by kind.

use std::sync::Arc;

use super::frame::{Frame, FrameError, len, within};
use super::manifest::{Chunk, Manifest};
use super::wire::{Reader, fold, put, put_bytes, put_fixed, unfold};
use super::{Entry, Head, Origin, Push, Pushed, Refetch, bounds};
use crate::identity::ShardId;
use crate::view::Cursor;

const CHANGES: u8 = 1;
const HEADS: u8 = 2;
const REFETCH: u8 = 3;
const PUSHES: u8 = 4;
const PUSH_ANSWERS: u8 = 5;
const FOLLOW: u8 = 6;
const MANIFEST: u8 = 7;

/// The byte that stands for a frame's kind.
pub(super) fn kind(frame: &Frame) -> u8 {
    match frame {
        Frame::Changes { .. } => CHANGES,
        Frame::Heads(_) => HEADS,
        Frame::Refetch { .. } => REFETCH,
        Frame::Pushes(_) => PUSHES,
        Frame::PushAnswers(_) => PUSH_ANSWERS,
        Frame::Follow(_) => FOLLOW,
        Frame::Manifest(_) => MANIFEST,
    }
}

/// Reads the body of a frame of this kind.
pub(super) fn read(kind: u8, body: &[u8]) -> Result<Frame, FrameError> {
    let mut reader = Reader(body);
    let (what, frame) = match kind {
        CHANGES => ("changes", read_changes(&mut reader)),
        HEADS => ("heads", read_heads(&mut reader).map(Frame::Heads)),
        REFETCH => ("refetch", read_refetch(&mut reader)),
        PUSHES => ("pushes", read_pushes(&mut reader).map(Frame::Pushes)),
        PUSH_ANSWERS => ("push answers", read_answers(&mut reader).map(Frame::PushAnswers)),
        FOLLOW => ("follow", read_follow(&mut reader).map(Frame::Follow)),
        MANIFEST => ("manifest", read_manifest(&mut reader).map(Frame::Manifest)),
        unknown => return Err(FrameError::UnknownKind(unknown)),
    };
    frame.filter(|_| reader.end().is_some()).ok_or(FrameError::Malformed(what))
}

/// Appends a frame's body.
pub(super) fn write(frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
    match frame {
        Frame::Changes { shard, epoch, entries } => {
            within("entries of a frame", entries.len(), bounds::ENTRIES_MAX)?;
            put_shard(out, *shard)?;
            put(out, u64::from(*epoch));
            write_entries(out, entries)
        }
        Frame::Heads(heads) => {
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
        Frame::Refetch { shard, epoch, why } => {
            put_shard(out, *shard)?;
            put(out, u64::from(*epoch));
            out.push(match why {
                Refetch::Epoch => 0,
                Refetch::Trimmed => 1,
                Refetch::Ahead => 2,
            });
            Ok(())
        }
        Frame::Pushes(pushes) => {
            within("pushes of a frame", pushes.len(), bounds::PUSHES_MAX)?;
            put(out, len(pushes.len()));
            pushes.iter().try_for_each(|push| write_push(out, push))
        }
        Frame::PushAnswers(answers) => {
            within("answers of a frame", answers.len(), bounds::PUSHES_MAX)?;
            put(out, len(answers.len()));
            answers.iter().try_for_each(|answer| write_answer(out, answer))
        }
        Frame::Follow(shards) => {
            within("shards of a frame", shards.len(), bounds::SHARDS_MAX)?;
            put(out, len(shards.len()));
            for (shard, after) in shards {
                put_shard(out, *shard)?;
                put(out, u64::from(after.epoch));
                put(out, after.seq);
            }
            Ok(())
        }
        Frame::Manifest(manifest) => write_manifest(out, manifest),
    }
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
