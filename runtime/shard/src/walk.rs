//! A walk over everything that a shard's base holds, as of its cursor.

use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};

use crate::block::{CorruptBlock, LOOSE, encode_block, plain_entries};
use crate::record::{self, Head, Record};
use crate::{ShardError, Shards};

/// Identifiers that are read at once.
const AT_ONCE: usize = 256;
/// Ids that are handed over at once.
const IDS_TOGETHER: usize = 16_384;

/// A part of what is known of one identifier.
pub(crate) enum Piece<'p> {
    /// Its record; first of all.
    Record {
        /// As it is stored.
        bytes: &'p [u8],
        /// The state in it, in the layout in force.
        state: &'p [u8],
        /// Whether nothing of it waits for its history.
        covers: bool,
    },
    /// Some of its history, in log order.
    Block {
        /// The first sequence.
        seq: u64,
        /// As it is stored.
        bytes: &'p [u8],
        /// The changes in it, plain.
        entries: &'p [(u64, Vec<u8>)],
    },
    /// The ids of its events, with their sequences.
    Ids(&'p [([u8; 16], u64)]),
}

/// Takes one piece after another.
pub(crate) type TakePiece<'t> = &'t mut dyn FnMut(&Identifier, Piece<'_>) -> Result<(), ShardError>;

impl Shards {
    /// Hands over all pieces of all fragments, ascending by identifier, as of a cursor. The base must stand still; rows are at rest for one fragment at a
    /// time.
    pub(crate) fn walk(&self, shard: ShardId, seq: u64, take: TakePiece<'_>) -> Result<(), ShardError> {
        let mut after = None;
        loop {
            let page = self.disk.identifiers(shard, after.as_ref(), AT_ONCE)?;
            for identifier in &page {
                let _rows = self.cell(shard).rows.read();
                self.walk_fragment(identifier, seq, take)?;
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    fn walk_fragment(&self, identifier: &Identifier, seq: u64, take: TakePiece<'_>) -> Result<(), ShardError> {
        let Some(kept) = self.disk.record(identifier)? else { return Ok(()) };
        let bytes = if kept.head.seq > seq || kept.head.layout.engine != self.observer.layout().engine {
            let Some(folded_again) = self.folded_again(identifier, seq)? else { return Ok(()) };
            folded_again
        } else {
            kept.bytes()?
        };
        let (state, covers) = self.state_of(identifier, &bytes)?;
        take(identifier, Piece::Record { bytes: &bytes, state: &state, covers })?;
        let corrupt = |CorruptBlock| ShardError::Corrupt(identifier.to_string());
        let mut last = 0;
        for (first, block) in self.disk.blocks(identifier)? {
            let mut entries = plain_entries(&block).map_err(corrupt)?;
            let before = entries.len();
            // Beyond the cursor, or twice, where a write was cut off.
            entries.retain(|(of, _)| *of > last && *of <= seq);
            let Some((end, _)) = entries.last() else { continue };
            last = *end;
            if entries.len() == before {
                take(identifier, Piece::Block { seq: first, bytes: &block, entries: &entries })?;
                continue;
            }
            let rest = entries.iter().map(|(seq, bytes)| (*seq, bytes.as_slice())).collect();
            let (first, block) = (entries[0].0, encode_block(LOOSE, rest)?);
            take(identifier, Piece::Block { seq: first, bytes: &block, entries: &entries })?;
        }
        let mut ids = self.disk.ids(identifier)?;
        ids.retain(|(_, of)| *of <= seq);
        // In pieces, so that a fragment of any size fits into chunks.
        ids.chunks(IDS_TOGETHER).try_for_each(|ids| take(identifier, Piece::Ids(ids)))
    }

    /// The state in a record as it would be written now, and whether nothing of it waits.
    fn state_of(&self, identifier: &Identifier, bytes: &[u8]) -> Result<(Vec<u8>, bool), ShardError> {
        let (head, layout) = (Head::decode(bytes)?, self.observer.layout());
        if head.layout == *layout {
            return Ok((record::state(bytes)?.to_vec(), true));
        }
        let (fragment, _) = self.read_base(identifier)?;
        let covers = head.layout.covers(layout);
        Ok((encode(&fragment)?, covers))
    }

    /// The record of a fragment as of the cursor, where a cut write left one that is ahead, or another engine one of its own; none where there was none.
    fn folded_again(&self, identifier: &Identifier, seq: u64) -> Result<Option<Vec<u8>>, ShardError> {
        let mut last = None;
        for (_, block) in self.disk.blocks(identifier)? {
            let entries = plain_entries(&block).map_err(|CorruptBlock| ShardError::Corrupt(identifier.to_string()))?;
            last = entries.iter().map(|(of, _)| *of).filter(|of| *of <= seq).max().max(last);
        }
        // Of what was erased or withdrawn only the ids are there.
        let ids = self.disk.ids(identifier)?;
        let last = ids.iter().map(|(_, of)| *of).filter(|of| *of <= seq).max().max(last);
        let Some(last) = last else { return Ok(None) };
        let (fragment, _) = self.read_base(identifier)?;
        let seen = ids.iter().map(|(id_hash, _)| *id_hash).collect();
        Record { layout: self.observer.layout(), seq: last, fragment: &fragment, seen: Some(&seen) }.encode().map(Some)
    }
}

fn encode(fragment: &Fragment) -> Result<Vec<u8>, ShardError> {
    postcard::to_allocvec(fragment).map_err(|_| ShardError::Corrupt("record".into()))
}
