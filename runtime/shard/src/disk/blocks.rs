//! Blocks of history as rows: read, packed together, and rewritten without what is withdrawn.

use selvedge_core::identity::Identifier;

use super::batch::{Batch, key, part_key, parts_of, split_count};
use super::{Disk, HISTORY};
use crate::ShardError;
use crate::block::{CorruptBlock, LOOSE, Rest, encode_block, pack, without};
use crate::maps::HashSet;

impl Disk {
    /// Whole blocks by their first sequence; what lies on the record is the last one.
    pub(crate) fn blocks(&self, identifier: &Identifier) -> Result<Vec<(u64, Vec<u8>)>, ShardError> {
        self.drain_fragment(identifier)?;
        let corrupt = || ShardError::Corrupt(identifier.to_string());
        let prefix = key(HISTORY, identifier);
        let mut blocks: Vec<(u64, Vec<u8>)> = Vec::new();
        // Parts of the open block that are there, and that there are.
        let (mut taken, mut count) = (0, 0);
        for row in self.tree(identifier.shard()).scan_prefix(&prefix) {
            let (row_key, value) = row?;
            let (seq, part) = row_key[prefix.len()..]
                .split_first_chunk::<8>()
                .and_then(|(seq, part)| Some((u64::from_be_bytes(*seq), u16::from_be_bytes(part.try_into().ok()?))))
                .ok_or_else(corrupt)?;
            if part == 0 {
                if taken != count {
                    return Err(corrupt());
                }
                let (parts, head) = split_count(&value).ok_or_else(corrupt)?;
                (taken, count) = (1, parts);
                blocks.push((seq, head.to_vec()));
            } else if let Some((open, bytes)) = blocks.last_mut()
                && *open == seq
                && part < count
            {
                if part != taken {
                    return Err(corrupt());
                }
                taken += 1;
                bytes.extend_from_slice(&value);
            }
        }
        if taken != count {
            return Err(corrupt());
        }
        let above = self.entries_above(identifier)?;
        let above: Vec<(u64, &[u8])> =
            above.iter().filter_map(|entry| Some((entry.seq, entry.bytes.as_deref()?))).collect();
        if let Some((first, _)) = above.first() {
            blocks.push((*first, encode_block(LOOSE, above)?));
        }
        Ok(blocks)
    }

    /// The loose blocks at the end of a history, by their first sequence: what stands before them is packed.
    fn loose_blocks(&self, identifier: &Identifier) -> Result<Vec<(u64, Vec<u8>)>, ShardError> {
        let prefix = key(HISTORY, identifier);
        let tree = self.tree(identifier.shard());
        let mut loose = Vec::new();
        for row in tree.scan_prefix(&prefix).rev() {
            let (row_key, value) = row?;
            let Some((seq, [0, 0])) = row_key[prefix.len()..].split_first_chunk::<8>() else { continue };
            let first = split_count(&value).ok_or_else(|| ShardError::Corrupt(identifier.to_string()))?;
            if first.1.first() != Some(&LOOSE) {
                break;
            }
            let mut bytes = first.1.to_vec();
            for part in 1..first.0 {
                let next = tree.get(part_key(HISTORY, identifier, Some(u64::from_be_bytes(*seq)), part))?;
                bytes.extend_from_slice(&next.ok_or_else(|| ShardError::Corrupt(identifier.to_string()))?);
            }
            loose.push((u64::from_be_bytes(*seq), bytes));
        }
        loose.reverse();
        Ok(loose)
    }

    /// Writes the blocks of a history without some events, one by one; a block keeps its key, so that no two of them meet. Nothing of it waits in the batch when
    /// this returns.
    pub(super) fn withdraw(
        &self,
        batch: &mut Batch<'_>,
        identifier: &Identifier,
        ids: &HashSet<[u8; 16]>,
    ) -> Result<(), ShardError> {
        let corrupt = || ShardError::Corrupt(identifier.to_string());
        let prefix = key(HISTORY, identifier);
        let tree = self.tree(identifier.shard());
        let mut rows = tree.scan_prefix(&prefix).peekable();
        while let Some(row) = rows.next() {
            let (row_key, value) = row?;
            let (seq, part) = row_key[prefix.len()..].split_first_chunk::<8>().ok_or_else(corrupt)?;
            let seq_key = &row_key[..row_key.len() - part.len()];
            let mut keys = vec![row_key.to_vec()];
            let mut block = match part {
                [0, 0] => Some(split_count(&value).map(|(count, head)| (count, head.to_vec())).ok_or_else(corrupt)?),
                // What a crash has left of a block that went.
                _ => None,
            };
            let follows = |row: &Result<(sled::IVec, sled::IVec), sled::Error>| {
                row.as_ref().is_ok_and(|(key, _)| key.starts_with(seq_key))
            };
            while let Some(row) = rows.next_if(follows) {
                let (row_key, value) = row?;
                if let Some((count, bytes)) = &mut block
                    && keys.len() < usize::from(*count)
                {
                    bytes.extend_from_slice(&value);
                }
                keys.push(row_key.to_vec());
            }
            let rest = match &block {
                Some((_, bytes)) => without(bytes, ids).map_err(|CorruptBlock| corrupt())?,
                None => Rest::Nothing,
            };
            let kept = match (&rest, &block) {
                (Rest::Some(bytes), _) => {
                    batch.insert_parts(HISTORY, identifier, Some(u64::from_be_bytes(*seq)), bytes)?
                }
                (Rest::All, Some((count, _))) => usize::from(*count),
                _ => 0,
            };
            let gone = keys.into_iter().skip(kept).map(|key| (key, None)).collect();
            batch.whole(gone)?;
        }
        batch.flush()
    }

    /// Joins the loose blocks of a history and a new one; a joined block is there before the ones that it replaces go.
    pub(super) fn write_packed(
        &self,
        batch: &mut Batch<'_>,
        identifier: &Identifier,
        newest: (u64, Vec<u8>),
    ) -> Result<(), ShardError> {
        let mut loose = self.loose_blocks(identifier)?;
        loose.retain(|(seq, _)| *seq < newest.0);
        let mut replaced: Vec<_> = loose.iter().map(|(seq, bytes)| (*seq, parts_of(bytes.len()))).collect();
        loose.push(newest);
        for (seq, packed) in pack(&loose).map_err(|CorruptBlock| ShardError::Corrupt(identifier.to_string()))? {
            let kept = batch.insert_parts(HISTORY, identifier, Some(seq), &packed)?;
            if let Some((_, parts)) = replaced.iter_mut().find(|(of, _)| *of == seq) {
                for part in kept..*parts {
                    batch.remove(part_key(HISTORY, identifier, Some(seq), part as u16))?;
                }
                *parts = 0;
            }
        }
        for (seq, parts) in replaced {
            for part in 0..parts {
                batch.remove(part_key(HISTORY, identifier, Some(seq), part as u16))?;
            }
        }
        Ok(())
    }
}
