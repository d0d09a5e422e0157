//! A fragment's rows, as they are written: a small one over its record, or the record anew with its history and ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_core::change::Change;
use selvedge_core::identity::{Identifier, ShardId};

use super::batch::{Batch, key, overlay_key, part_key, seen_key};
use super::behind::{Behind, Unwritten};
use super::{Disk, FRAGMENT, FragmentWrite, HISTORY, HistoryEntry, Move, PACK_EVERY};
use crate::ShardError;
use crate::block::{LOOSE, encode_block};
use crate::maps::{HashMap, HashSet};
use crate::overlay::{self, Touched};
use crate::record::Record;

/// Bytes and rows that may lie on a record; beyond them it is written anew.
const OVERLAY_BYTES_MAX: usize = 3000;
const OVERLAY_ROWS_MAX: usize = 24;

/// How a fragment's record stands on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// The last change in it, and in what lies on it.
    reached: u64,
    bytes: usize,
    rows: usize,
}

impl FragmentWrite<'_> {
    /// Whether it takes something away that rows hold.
    pub(super) fn takes_away(&self) -> bool {
        erases(&self.entries) || withdrawn(&self.entries).next().is_some()
    }
}

fn erases(entries: &[HistoryEntry]) -> bool {
    entries.iter().find_map(|entry| entry.bytes.as_deref()).is_some_and(Change::erases)
}

fn withdrawn(entries: &[HistoryEntry]) -> impl Iterator<Item = &[u8; 16]> {
    entries.iter().filter_map(|entry| entry.withdraws.as_deref()).flatten()
}

impl Disk {
    /// Writes fragments and moves the cursor, in batches; the last one carries the cursor. A write that was cut between two batches is
    /// repeated from the log as a whole and gives the same rows.
    pub(super) fn write_now(
        &self,
        shard: ShardId,
        behind: &mut Behind,
        to: &Move,
        writes: &[FragmentWrite<'_>],
    ) -> Result<(), ShardError> {
        let tree = self.tree(shard);
        let mut batch = Batch::new(&tree);
        for write in writes {
            let unwritten = Unwritten {
                layout: write.layout.clone().into(),
                seq: write.seq,
                fragment: write.fragment.clone(),
                touched: Touched::more(),
                entries: write.entries.clone(),
                seen: write.seen.clone(),
            };
            self.write_fragment(&mut batch, &mut behind.standing, write.identifier, &unwritten)?;
        }
        to.add_to(&mut batch)?;
        batch.flush()
    }

    pub(super) fn write_fragment(
        &self,
        batch: &mut Batch<'_>,
        standing: &mut HashMap<Identifier, Standing>,
        identifier: &Identifier,
        unwritten: &Unwritten,
    ) -> Result<(), ShardError> {
        if let Some(row) = overlay::encode(&unwritten.touched, &unwritten.fragment, &unwritten.entries)
            && let Some(first) = unwritten.entries.first()
            && row.len() <= OVERLAY_BYTES_MAX
        {
            let stands = match standing.get_mut(identifier) {
                Some(stands) => Some(stands),
                None => {
                    self.standing(identifier, unwritten)?.map(|read| standing.entry(identifier.clone()).or_insert(read))
                }
            };
            if let Some(stands) = stands
                // A write that was cut off may have left what is ahead.
                && stands.reached < first.seq
                && stands.bytes + row.len() <= OVERLAY_BYTES_MAX
                && stands.rows < OVERLAY_ROWS_MAX
            {
                let bytes = stands.bytes + row.len();
                *stands = Standing { reached: unwritten.seq, bytes, rows: stands.rows + 1 };
                return batch.insert(overlay_key(identifier, unwritten.seq), row);
            }
        }
        // Until it stands.
        standing.remove(identifier);
        self.write_whole(batch, identifier, unwritten)?;
        if unwritten.layout.of_states(&unwritten.fragment.states) == *unwritten.layout {
            standing.insert(identifier.clone(), Standing { reached: unwritten.seq, bytes: 0, rows: 0 });
        }
        Ok(())
    }

    /// How a fragment stands on disk; none where it has no record in this layout, so that nothing can be laid on it.
    fn standing(&self, identifier: &Identifier, unwritten: &Unwritten) -> Result<Option<Standing>, ShardError> {
        let Some(head) = self.head_as_written(identifier)? else { return Ok(None) };
        if head.layout != *unwritten.layout {
            return Ok(None);
        }
        let mut stands = Standing { reached: head.seq, bytes: 0, rows: 0 };
        for (seq, row) in self.overlays(identifier)? {
            stands.reached = stands.reached.max(seq);
            stands.bytes += row.len();
            stands.rows += 1;
        }
        Ok(Some(stands))
    }

    /// Writes a record anew, with the history and the ids of what has lain on the one before.
    fn write_whole(
        &self,
        batch: &mut Batch<'_>,
        identifier: &Identifier,
        unwritten: &Unwritten,
    ) -> Result<(), ShardError> {
        let Unwritten { layout, seq, fragment, entries: own, .. } = unwritten;
        let erases = erases(own);
        let gone: HashSet<[u8; 16]> = withdrawn(own).copied().collect();
        let lying = self.overlays(identifier)?;
        let mut entries: BTreeMap<u64, HistoryEntry> = BTreeMap::new();
        for (_, row) in &lying {
            for entry in overlay::entries(row)? {
                let goes = erases || entry.id_hash.is_some_and(|id_hash| gone.contains(&id_hash));
                let bytes = entry.bytes.filter(|_| !goes);
                entries.insert(entry.seq, HistoryEntry { bytes, ..entry });
            }
        }
        entries.extend(own.iter().map(|entry| (entry.seq, entry.clone())));
        let entries: Vec<HistoryEntry> = entries.into_values().collect();
        if !erases && !gone.is_empty() {
            self.withdraw(batch, identifier, &gone)?;
        }
        let kept: Vec<(u64, &[u8])> =
            entries.iter().filter_map(|entry| Some((entry.seq, entry.bytes.as_deref()?))).collect();
        if let Some((first, _)) = kept.first().copied() {
            let block = (first, encode_block(LOOSE, kept)?);
            let (now, added) = (fragment.events, entries.len() as u64);
            // Of what is no event nobody counts how many there were: by chance one in as many is the last of its block.
            let beside = entries.iter().any(|entry| entry.id_hash.is_none() && entry.seq % PACK_EVERY == 0);
            // Each time that so many events have gathered, loose blocks are packed together: less space, written once more.
            if erases {
                // Nothing from before it stays.
                for row_key in self.tree(identifier.shard()).scan_prefix(key(HISTORY, identifier)).keys() {
                    batch.remove(row_key?.to_vec())?;
                }
                batch.insert_parts(HISTORY, identifier, Some(block.0), &block.1)?;
            } else if beside || now / PACK_EVERY > now.saturating_sub(added) / PACK_EVERY {
                self.write_packed(batch, identifier, block)?;
            } else {
                batch.insert_parts(HISTORY, identifier, Some(block.0), &block.1)?;
            }
        }
        self.write_ids(batch, identifier, &entries)?;
        let seen = match &unwritten.seen {
            Some(seen) => Some(Arc::clone(seen)),
            None => self.record_as_written(identifier)?.map_or(Ok(Some(Arc::default())), |kept| kept.seen())?,
        };
        if let Some(seen) = &seen {
            entries.iter().for_each(|entry| entry.note(seen));
        }
        let record = Record { layout, seq: *seq, fragment, seen: seen.as_deref() };
        let parts = batch.insert_parts(FRAGMENT, identifier, None, &record.encode()?)?;
        // What goes must not stay in the rest of a longer record.
        if erases || !gone.is_empty() {
            self.remove_later_parts(batch, identifier, parts)?;
        }
        // Behind the record: were it cut off, they would say nothing beside this one.
        lying.iter().try_for_each(|(of, _)| batch.remove(overlay_key(identifier, *of)))
    }

    fn write_ids(
        &self,
        batch: &mut Batch<'_>,
        identifier: &Identifier,
        entries: &[HistoryEntry],
    ) -> Result<(), ShardError> {
        let withdraws = withdrawn(entries).next().is_some();
        let mut new = HashSet::default();
        for entry in entries {
            if let Some(id_hash) = entry.id_hash {
                batch.insert(seen_key(identifier, &id_hash), entry.seq.to_be_bytes().to_vec())?;
            }
            if withdraws {
                new.extend(entry.id_hash);
            }
            for id_hash in entry.withdraws.as_deref().into_iter().flatten() {
                // It stands where its event does, where that is known.
                if new.insert(*id_hash) && self.seen_on_disk(identifier, id_hash)?.is_none_or(|seq| seq > entry.seq) {
                    batch.insert(seen_key(identifier, id_hash), entry.seq.to_be_bytes().to_vec())?;
                }
            }
        }
        Ok(())
    }

    /// Removes what says nothing beside a record of so many parts, and may have belonged to the one before.
    fn remove_later_parts(
        &self,
        batch: &mut Batch<'_>,
        identifier: &Identifier,
        parts: usize,
    ) -> Result<(), ShardError> {
        let first = u16::try_from(parts).map_err(|_| ShardError::TooLarge(identifier.to_string()))?;
        let later = part_key(FRAGMENT, identifier, None, first)..=part_key(FRAGMENT, identifier, None, u16::MAX);
        for row_key in self.tree(identifier.shard()).range(later).keys() {
            batch.remove(row_key?.to_vec())?;
        }
        Ok(())
    }
}
