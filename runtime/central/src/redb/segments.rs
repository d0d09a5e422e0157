//! Where the entries are: heads, segments, and what is trimmed. The writing thread's own; the tables say the same.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};
use selvedge_core::sync::Origin;

use super::{
    HEADS, Log, SEGMENTS, TRIMMED, decode_entry, encode_entry, for_entries, read_trimmed, segment_name, store,
};
use crate::LogError;
use crate::central::LOGS;

/// A shard's part of a segment.
struct Span {
    first: u64,
    bytes: u64,
}

/// What the writer knows without asking the store.
pub(super) struct Segments {
    /// Epoch and head by shard.
    pub heads: Vec<(u32, u64)>,
    /// The sequence up to which a shard's entries are gone.
    pub trimmed: Vec<u64>,
    spans: BTreeMap<u32, BTreeMap<u16, Span>>,
    open: u32,
    open_bytes: u64,
    segment_bytes: u64,
}

impl Segments {
    pub fn load(read: &ReadTransaction, segment_bytes: u64) -> Result<Self, LogError> {
        let logs = usize::from(LOGS);
        let mut heads: Vec<Option<(u32, u64)>> = vec![None; logs];
        for row in read.open_table(HEADS).map_err(store)?.iter().map_err(store)? {
            let (shard, head) = row.map_err(store)?;
            if let Some(slot) = heads.get_mut(usize::from(shard.value())) {
                *slot = Some(head.value());
            }
        }
        // A shard without an entry is in the epoch of the others.
        let epoch = heads.iter().flatten().map(|(epoch, _)| *epoch).max().unwrap_or(1);
        let heads = heads.into_iter().map(|head| head.unwrap_or((epoch, 0))).collect();
        let trimmed = (0..LOGS).map(|shard| read_trimmed(read, shard)).collect::<Result<_, _>>()?;
        let mut spans: BTreeMap<u32, BTreeMap<u16, Span>> = BTreeMap::new();
        for row in read.open_table(SEGMENTS).map_err(store)?.iter().map_err(store)? {
            let (key, span) = row.map_err(store)?;
            let ((shard, segment), (first, bytes)) = (key.value(), span.value());
            spans.entry(segment).or_default().insert(shard, Span { first, bytes });
        }
        let open = spans.last_key_value().map_or(1, |(segment, _)| *segment);
        let open_bytes = spans.get(&open).map_or(0, |shards| shards.values().map(|span| span.bytes).sum());
        Ok(Self { heads, trimmed, spans, open, open_bytes, segment_bytes })
    }

    /// Bytes of changes that are not trimmed.
    pub fn live_bytes(&self, read: &ReadTransaction) -> Result<u64, LogError> {
        let mut live = 0;
        for shard in 0..LOGS {
            let trimmed = self.trimmed[usize::from(shard)];
            let mut spans = self.spans.values().filter_map(|shards| shards.get(&shard)).peekable();
            while let Some(span) = spans.next() {
                let ends = spans.peek().map_or(self.heads[usize::from(shard)].1, |next| next.first - 1);
                if span.first > trimmed {
                    live += span.bytes;
                } else if ends > trimmed {
                    for_entries(read, shard, trimmed, |seq, _, _, change| {
                        live += if seq <= ends { change.len() as u64 } else { 0 };
                        Ok(seq < ends)
                    })?;
                }
            }
        }
        Ok(live)
    }

    /// Begins to append within a transaction; closes the open segment if it is full.
    pub fn appender<'s, 't>(&'s mut self, write: &'t WriteTransaction) -> Result<Appender<'s, 't>, LogError> {
        if self.open_bytes >= self.segment_bytes {
            self.open += 1;
            self.open_bytes = 0;
        }
        let name = segment_name(self.open);
        Ok(Appender {
            log: write.open_table(Log::new(&name)).map_err(store)?,
            segments: self,
            touched: BTreeMap::new(),
            value: Vec::new(),
        })
    }

    /// Writes the heads of all shards, where they are not written yet.
    pub fn write_heads(&self, write: &WriteTransaction) -> Result<(), LogError> {
        let mut heads = write.open_table(HEADS).map_err(store)?;
        for (shard, head) in (0..LOGS).zip(&self.heads) {
            heads.insert(shard, *head).map_err(store)?;
        }
        Ok(())
    }

    /// Trims shards up to sequences that are not beyond their heads, and drops the segments of which nothing is left. Gives the bytes of changes that went.
    pub fn trim(&mut self, write: &WriteTransaction, up_to: &[(u16, u64)]) -> Result<u64, LogError> {
        let mut gone = 0;
        {
            let mut table = write.open_table(TRIMMED).map_err(store)?;
            for (shard, up_to) in up_to {
                let index = usize::from(*shard);
                let up_to = (*up_to).min(self.heads[index].1);
                let from = self.trimmed[index];
                if up_to <= from {
                    continue;
                }
                gone += self.bytes_between(write, *shard, from, up_to)?;
                table.insert(shard, up_to).map_err(store)?;
                self.trimmed[index] = up_to;
            }
        }
        self.drop_segments(write)?;
        Ok(gone)
    }

    /// Bytes of the changes of a shard after one sequence up to another.
    fn bytes_between(&self, write: &WriteTransaction, shard: u16, from: u64, up_to: u64) -> Result<u64, LogError> {
        let mut bytes = 0;
        for (segment, shards) in &self.spans {
            if shards.get(&shard).is_none_or(|span| span.first > up_to) {
                continue;
            }
            let name = segment_name(*segment);
            let table = write.open_table(Log::new(&name)).map_err(store)?;
            for row in table.range((shard, from + 1)..=(shard, up_to)).map_err(store)? {
                let (_, value) = row.map_err(store)?;
                bytes += decode_entry(value.value())?.2.len() as u64;
            }
        }
        Ok(bytes)
    }

    fn drop_segments(&mut self, write: &WriteTransaction) -> Result<(), LogError> {
        // From the newest to the oldest: a shard's part of a segment ends where its next one begins.
        let mut ends: Vec<u64> = self.heads.iter().map(|head| head.1).collect();
        let mut dropped = Vec::new();
        for (segment, shards) in self.spans.iter().rev() {
            let mut live = *segment == self.open;
            for (shard, span) in shards {
                let index = usize::from(*shard);
                live |= ends[index] > self.trimmed[index];
                ends[index] = span.first - 1;
            }
            if !live {
                dropped.push(*segment);
            }
        }
        let mut table = write.open_table(SEGMENTS).map_err(store)?;
        for segment in dropped {
            write.delete_table(Log::new(&segment_name(segment))).map_err(store)?;
            for shard in self.spans.remove(&segment).unwrap_or_default().into_keys() {
                table.remove((shard, segment)).map_err(store)?;
            }
        }
        Ok(())
    }

    /// Puts other bytes in place of entries; gives how many were there.
    pub fn replace(
        &self,
        write: &WriteTransaction,
        shard: u16,
        replacements: &[(u64, Vec<u8>)],
    ) -> Result<u64, LogError> {
        let mut replaced = 0;
        for (seq, change) in replacements {
            if *seq <= self.trimmed[usize::from(shard)] || *seq > self.heads[usize::from(shard)].1 {
                continue;
            }
            let within = |shards: &BTreeMap<u16, Span>| shards.get(&shard).is_some_and(|span| span.first <= *seq);
            let Some(segment) = self.spans.iter().rev().find(|(_, shards)| within(shards)) else { continue };
            let name = segment_name(*segment.0);
            let mut table = write.open_table(Log::new(&name)).map_err(store)?;
            let value = table.get((shard, *seq)).map_err(store)?.map(|value| value.value().to_vec());
            let Some(mut value) = value else { continue };
            let (origin, number, _) = decode_entry(&value)?;
            encode_entry(&mut value, origin, number, change);
            table.insert((shard, *seq), value.as_slice()).map_err(store)?;
            replaced += 1;
        }
        Ok(replaced)
    }
}

/// Appends entries within one transaction.
pub(super) struct Appender<'s, 't> {
    segments: &'s mut Segments,
    log: Table<'t, (u16, u64), &'static [u8]>,
    touched: BTreeMap<u16, ()>,
    value: Vec<u8>,
}

impl Appender<'_, '_> {
    /// Appends a change; gives its sequence.
    pub fn append(&mut self, shard: u16, origin: Origin, number: u64, change: &[u8]) -> Result<u64, LogError> {
        let head = &mut self.segments.heads[usize::from(shard)].1;
        *head += 1;
        encode_entry(&mut self.value, origin, number, change);
        self.log.insert((shard, *head), self.value.as_slice()).map_err(store)?;
        let span = self.segments.spans.entry(self.segments.open).or_default();
        span.entry(shard).or_insert(Span { first: *head, bytes: 0 }).bytes += change.len() as u64;
        self.segments.open_bytes += change.len() as u64;
        self.touched.insert(shard, ());
        Ok(*head)
    }

    /// The head of a shard.
    pub fn head(&self, shard: u16) -> (u32, u64) {
        self.segments.heads[usize::from(shard)]
    }

    /// Whether another segment begins with the next transaction, or the next appender of this one.
    pub fn is_full(&self) -> bool {
        self.segments.open_bytes >= self.segments.segment_bytes
    }

    /// Writes what the tables must know of what was appended; gives the shards that were.
    pub fn finish(self, write: &WriteTransaction) -> Result<Vec<u16>, LogError> {
        let Self { segments, log, touched, .. } = self;
        drop(log);
        let mut heads = write.open_table(HEADS).map_err(store)?;
        let mut table = write.open_table(SEGMENTS).map_err(store)?;
        for shard in touched.keys() {
            heads.insert(shard, segments.heads[usize::from(*shard)]).map_err(store)?;
            if let Some(span) = segments.spans.get(&segments.open).and_then(|shards| shards.get(shard)) {
                table.insert((*shard, segments.open), (span.first, span.bytes)).map_err(store)?;
            }
        }
        Ok(touched.into_keys().collect())
    }
}
