//! Batches of bounded size, and the form of rows: their keys, and values cut into parts.

use selvedge_core::identity::Identifier;

use super::{OVERLAY, SEEN};
use crate::ShardError;

const VALUE_BYTES_MAX: usize = 4000;
/// Bytes before the first part of a value: how many parts there are.
const COUNT_BYTES: usize = size_of::<u16>();
const BATCH_OPERATIONS_MAX: usize = 256;

/// Collects operations and applies them in batches of bounded size.
pub(super) struct Batch<'t> {
    tree: &'t sled::Tree,
    batch: sled::Batch,
    operations: usize,
}

impl<'t> Batch<'t> {
    pub(super) fn new(tree: &'t sled::Tree) -> Self {
        Self { tree, batch: sled::Batch::default(), operations: 0 }
    }

    pub(super) fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), ShardError> {
        self.make_room(1)?;
        self.batch.insert(key, value);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) -> Result<(), ShardError> {
        self.make_room(1)?;
        self.batch.remove(key);
        Ok(())
    }

    /// Inserts a value in parts, all of them in one batch; the first one begins with their number. Gives the number.
    pub(super) fn insert_parts(
        &mut self,
        kind: u8,
        identifier: &Identifier,
        seq: Option<u64>,
        bytes: &[u8],
    ) -> Result<usize, ShardError> {
        let count = parts_of(bytes.len());
        let counted = u16::try_from(count).map_err(|_| ShardError::TooLarge(identifier.to_string()))?;
        self.make_room(count)?;
        let (head, rest) = bytes.split_at(bytes.len().min(VALUE_BYTES_MAX - COUNT_BYTES));
        let first = [counted.to_be_bytes().as_slice(), head].concat();
        self.batch.insert(part_key(kind, identifier, seq, 0), first);
        for (part, chunk) in (1..counted).zip(rest.chunks(VALUE_BYTES_MAX)) {
            self.batch.insert(part_key(kind, identifier, seq, part), chunk.to_vec());
        }
        Ok(count)
    }

    /// Inserts and removes rows that must stand in one batch.
    pub(super) fn whole(&mut self, rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), ShardError> {
        self.make_room(rows.len())?;
        for (key, value) in rows {
            match value {
                Some(value) => self.batch.insert(key, value),
                None => self.batch.remove(key),
            }
        }
        Ok(())
    }

    /// Applies what there is where so many more operations would be too many.
    pub(super) fn make_room(&mut self, operations: usize) -> Result<(), ShardError> {
        if self.operations > 0 && self.operations + operations > BATCH_OPERATIONS_MAX {
            self.flush()?;
        }
        self.operations += operations;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), ShardError> {
        self.operations = 0;
        Ok(self.tree.apply_batch(std::mem::take(&mut self.batch))?)
    }
}

/// Parts that a value of this length takes.
pub(super) fn parts_of(length: usize) -> usize {
    (length + COUNT_BYTES).div_ceil(VALUE_BYTES_MAX)
}

/// The number of parts, and the first part's share of the value.
pub(super) fn split_count(first: &[u8]) -> Option<(u16, &[u8])> {
    let (count, head) = first.split_first_chunk::<COUNT_BYTES>()?;
    Some((u16::from_be_bytes(*count), head))
}

pub(super) fn key(kind: u8, identifier: &Identifier) -> Vec<u8> {
    let text = identifier.as_str().as_bytes();
    let mut key = Vec::with_capacity(text.len() + 20);
    key.push(kind);
    key.extend_from_slice(text);
    // No identifier holds a zero byte, so none is another's prefix.
    key.push(0);
    key
}

pub(super) fn part_key(kind: u8, identifier: &Identifier, seq: Option<u64>, part: u16) -> Vec<u8> {
    let mut key = key(kind, identifier);
    if let Some(seq) = seq {
        key.extend_from_slice(&seq.to_be_bytes());
    }
    key.extend_from_slice(&part.to_be_bytes());
    key
}

pub(super) fn seen_key(identifier: &Identifier, id_hash: &[u8; 16]) -> Vec<u8> {
    let mut key = key(SEEN, identifier);
    key.extend_from_slice(id_hash);
    key
}

pub(super) fn overlay_key(identifier: &Identifier, seq: u64) -> Vec<u8> {
    let mut key = key(OVERLAY, identifier);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}
