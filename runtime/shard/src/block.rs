//! Blocks of history: changes of one fragment as they are stored together.

use std::ops::Range;

use selvedge_core::change::Change;
use selvedge_core::identity::Identifier;
use selvedge_core::payload::{compress_into, expand as expand_payload};
use serde::{Deserialize, Serialize};

use crate::ShardError;
use crate::maps::HashSet;

/// A loose block holds changes as the log does, each compressed for itself; a packed one holds them plain and is compressed whole.
pub(crate) const LOOSE: u8 = 0;
const PACKED: u8 = 1;
/// Bytes of a packed block before compression, about: what reading a history expands at once.
const PACK_BYTES_MAX: usize = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Block<'a> {
    #[serde(borrow)]
    entries: Vec<(u64, &'a [u8])>,
}

/// A block is not what was written.
pub(crate) struct CorruptBlock;

/// A fragment's history as it is stored: compressed, so that a long one needs little memory.
pub(crate) struct History {
    identifier: Identifier,
    blocks: Vec<(u64, Vec<u8>)>,
}

impl History {
    /// Blocks by their first sequence.
    pub(crate) fn new(identifier: Identifier, blocks: Vec<(u64, Vec<u8>)>) -> Self {
        Self { identifier, blocks }
    }

    /// Bytes as it is stored.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.iter().map(|(_, block)| block.len()).sum()
    }

    /// Hands over the changes up to a sequence whose positions lie in a range; others are not decoded. Gives the number of those before the
    /// range's end.
    pub(crate) fn for_each_of(
        &self,
        upto: u64,
        wanted: &Range<usize>,
        mut take: impl FnMut(usize, u64, Change),
    ) -> Result<usize, ShardError> {
        let (mut last, mut position) = (0, 0);
        for (_, block) in &self.blocks {
            let entries = expand(block).map_err(|CorruptBlock| ShardError::Corrupt(self.identifier.to_string()))?;
            // Blocks overlap where a write was repeated.
            for (seq, bytes) in entries {
                if position >= wanted.end || seq > upto {
                    return Ok(position);
                }
                if seq > last {
                    last = seq;
                    if wanted.contains(&position) {
                        take(position, seq, Change::decode(&bytes)?);
                    }
                    position += 1;
                }
            }
        }
        Ok(position)
    }
}

/// A block of these entries in a form.
pub(crate) fn encode_block(form: u8, entries: Vec<(u64, &[u8])>) -> Result<Vec<u8>, ShardError> {
    postcard::to_extend(&Block { entries }, vec![form]).map_err(|_| ShardError::Corrupt("block".into()))
}

/// The entries of a block, each as it stands in the log (packed ones with their payload plain).
fn expand(block: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, CorruptBlock> {
    let (form, rest) = block.split_first().ok_or(CorruptBlock)?;
    let expanded;
    let bytes = match *form {
        LOOSE => rest,
        PACKED => {
            expanded = expand_payload(rest).map_err(|_| CorruptBlock)?;
            &expanded
        }
        _ => return Err(CorruptBlock),
    };
    let block: Block<'_> = postcard::from_bytes(bytes).map_err(|_| CorruptBlock)?;
    Ok(block.entries.into_iter().map(|(seq, bytes)| (seq, bytes.to_vec())).collect())
}

/// The entries of a block with their payloads plain, whatever the block's form.
pub(crate) fn plain_entries(block: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, CorruptBlock> {
    let mut entries = expand(block)?;
    if block.first() == Some(&LOOSE) {
        for (_, bytes) in &mut entries {
            *bytes = Change::decode(bytes).map_err(|_| CorruptBlock)?.encode_plain();
        }
    }
    Ok(entries)
}

/// What a block comes to without some of its events.
pub(crate) enum Rest {
    /// None of them was in it.
    All,
    /// The others, as a block of the same form.
    Some(Vec<u8>),
    /// There are no others.
    Nothing,
}

/// A block without the events of some ids.
pub(crate) fn without(block: &[u8], ids: &HashSet<[u8; 16]>) -> Result<Rest, CorruptBlock> {
    let mut entries = expand(block)?;
    let before = entries.len();
    entries.retain(|(_, bytes)| Change::said_id(bytes).is_none_or(|id_hash| !ids.contains(&id_hash)));
    if entries.len() == before && before > 0 {
        return Ok(Rest::All);
    }
    if entries.is_empty() {
        return Ok(Rest::Nothing);
    }
    let entries = entries.iter().map(|(seq, bytes)| (*seq, bytes.as_slice())).collect();
    let rest = match block.first() {
        Some(&PACKED) => packed(entries)?,
        _ => encode_block(LOOSE, entries).map_err(|_| CorruptBlock)?,
    };
    Ok(Rest::Some(rest))
}

/// A block that is compressed whole, of plain entries.
fn packed(entries: Vec<(u64, &[u8])>) -> Result<Vec<u8>, CorruptBlock> {
    let joined = postcard::to_allocvec(&Block { entries }).map_err(|_| CorruptBlock)?;
    let mut block = vec![PACKED];
    compress_into(&mut block, &joined);
    Ok(block)
}

/// Joins blocks to such that are compressed whole, each with its first sequence.
pub(crate) fn pack(blocks: &[(u64, Vec<u8>)]) -> Result<Vec<(u64, Vec<u8>)>, CorruptBlock> {
    let mut blocks_packed = Vec::new();
    let mut open: Vec<(u64, Vec<u8>)> = Vec::new();
    let (mut bytes, mut last) = (0, 0);
    let mut close = |open: &mut Vec<(u64, Vec<u8>)>| {
        let Some((first, _)) = open.first() else { return Ok(()) };
        let entries = open.iter().map(|(seq, bytes)| (*seq, bytes.as_slice())).collect();
        blocks_packed.push((*first, packed(entries)?));
        open.clear();
        Ok(())
    };
    for (_, block) in blocks {
        for (seq, change) in expand(block)? {
            if seq <= last {
                continue;
            }
            last = seq;
            let plain = Change::decode(&change).map_err(|_| CorruptBlock)?.encode_plain();
            if bytes + plain.len() > PACK_BYTES_MAX {
                close(&mut open)?;
                bytes = 0;
            }
            bytes += plain.len();
            open.push((seq, plain));
        }
    }
    close(&mut open)?;
    Ok(blocks_packed)
}
