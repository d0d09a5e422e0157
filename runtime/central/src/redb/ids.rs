//! Which ids a shard has seen, and at which sequence.
//!
//! Ids are hashes, so a tree of them would rewrite a page for each. Instead the newest are held in memory, and written out as a *run*: a table of
//! its own, sorted, in blocks. When [`FAN`] runs of one level are there they are merged into one of the next, a little with each commit, so nobody
//! waits for it. Update rule: an id is in one place only, in memory or in one run; a run never changes. For each run a Bloom filter
//! in memory says that an id is not in it, so that a new id, which most are, asks no table.
//!
//! After a crash the ids in memory are read again from the entries that no run covers, and a merge begins anew.

use std::collections::HashMap;
use std::ops::RangeBounds;

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableHandle,
    WriteTransaction,
};
use selvedge_core::identity::ShardId;

use super::central::DigestOf;
use super::segments::Segments;
use super::{corrupt, for_entries, store};
use crate::LogError;
use crate::central::LOGS;

/// By shard: the sequence up to which the ids are in runs.
pub(super) const INDEXED: TableDefinition<u16, u64> = TableDefinition::new("indexed");
/// By run: its level, and how many ids it has.
pub(super) const RUNS: TableDefinition<u32, (u8, u64)> = TableDefinition::new("id-runs");
/// A run: blocks by shard and first id.
pub(super) type Run<'a> = TableDefinition<'a, (u16, [u8; 16]), &'static [u8]>;

const RUN_PREFIX: &str = "ids-";
/// Runs of a level that are merged into one of the next.
const FAN: usize = 8;
/// Ids of a block: with them it fills a page of redb.
const BLOCK_IDS: usize = 160;
/// An id and its sequence.
const ROW_BYTES: usize = 24;
/// Ids that a commit merges for each that it adds: more than there are levels, so that merging keeps up.
const MERGED_PER_ID: usize = 6;
/// Ids that a commit merges at least.
const MERGED_MIN: usize = 64 * FAN;

type Key = (u16, [u8; 16]);

pub(super) fn run_name(run: u32) -> String {
    format!("{RUN_PREFIX}{run:06}")
}

/// The ids of all shards.
pub(super) struct Ids {
    recent: HashMap<Key, u64>,
    /// How many are held in memory.
    recent_max: usize,
    /// How many were added since the last commit.
    added: usize,
    /// Newest last.
    runs: Vec<RunState>,
    merge: Option<Merge>,
    next_run: u32,
}

struct RunState {
    run: u32,
    level: u8,
    count: u64,
    filter: Filter,
}

/// A merge under way.
struct Merge {
    from: Vec<u32>,
    into: RunState,
    /// The last id that was merged.
    after: Option<Key>,
}

impl Ids {
    pub fn create(write: &WriteTransaction) -> Result<(), LogError> {
        write.open_table(INDEXED).map_err(store)?;
        write.open_table(RUNS).map_err(store)?;
        Ok(())
    }

    /// Reads filters from the runs, and the ids of entries that no run covers from the log.
    pub fn load(
        database: &Database,
        segments: &Segments,
        digest_of: &DigestOf,
        recent_max: usize,
    ) -> Result<Self, LogError> {
        let mut ids = Self { recent: HashMap::new(), recent_max, added: 0, runs: Vec::new(), merge: None, next_run: 1 };
        let read = database.begin_read().map_err(store)?;
        for row in read.open_table(RUNS).map_err(store)?.iter().map_err(store)? {
            let (run, row) = row.map_err(store)?;
            let ((level, count), run) = (row.value(), run.value());
            let mut filter = Filter::new(count);
            let table = read.open_table(Run::new(&run_name(run))).map_err(store)?;
            each_row(&table, .., |key, _| {
                filter.add(&key);
                true
            })?;
            ids.runs.push(RunState { run, level, count, filter });
            ids.next_run = ids.next_run.max(run + 1);
        }
        ids.drop_unfinished(database, &read)?;
        let indexed = read.open_table(INDEXED).map_err(store)?;
        let indexed = |shard| indexed.get(shard).map(|seq| seq.map_or(0, |seq| seq.value())).map_err(store);
        let mut noted = (0..LOGS).map(indexed).collect::<Result<Vec<u64>, _>>()?;
        for shard in 0..LOGS {
            let index = usize::from(shard);
            // What is trimmed was indexed before.
            let from = noted[index].max(segments.trimmed[index]);
            for_entries(&read, shard, from, |seq, _, _, change| {
                let digest =
                    digest_of(ShardId(shard), change).map_err(|reason| LogError::Entry { shard, seq, reason })?;
                noted[index] = seq;
                if let Some(id) = digest.id
                    && ids.get(&ids.open(database)?, shard, &id)?.is_none()
                {
                    ids.put(shard, id, seq);
                    if ids.recent.len() >= ids.recent_max {
                        let write = database.begin_write().map_err(store)?;
                        ids.write_out(&write, &noted)?;
                        ids.merge_some(database, &write)?;
                        write.commit().map_err(store)?;
                    }
                }
                Ok(true)
            })?;
        }
        Ok(ids)
    }

    /// Removes the table of a merge that a crash ended.
    fn drop_unfinished(&self, database: &Database, read: &ReadTransaction) -> Result<(), LogError> {
        let known: Vec<String> = self.runs.iter().map(|run| run_name(run.run)).collect();
        let tables = read.list_tables().map_err(store)?;
        let names = tables.map(|table| table.name().to_owned());
        let stray: Vec<String> = names.filter(|name| name.starts_with(RUN_PREFIX) && !known.contains(name)).collect();
        if stray.is_empty() {
            return Ok(());
        }
        let write = database.begin_write().map_err(store)?;
        for name in stray {
            write.delete_table(Run::new(&name)).map_err(store)?;
        }
        write.commit().map_err(store)
    }

    /// Opens the runs for one group.
    pub fn open(&self, database: &Database) -> Result<OpenIds, LogError> {
        Ok(OpenIds { read: database.begin_read().map_err(store)? })
    }

    /// At which sequence a shard has seen an id.
    pub fn get(&self, open: &OpenIds, shard: u16, id: &[u8; 16]) -> Result<Option<u64>, LogError> {
        let key = (shard, *id);
        if let Some(seq) = self.recent.get(&key) {
            return Ok(Some(*seq));
        }
        for run in self.runs.iter().rev().filter(|run| run.filter.may_hold(&key)) {
            let table = open.read.open_table(Run::new(&run_name(run.run))).map_err(store)?;
            if let Some(seq) = find(&table, &key)? {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    }

    /// Notes an id that is new.
    pub fn put(&mut self, shard: u16, id: [u8; 16], seq: u64) {
        self.recent.insert((shard, id), seq);
        self.added += 1;
    }

    /// Writes out what is too much for memory, and merges a little.
    pub fn before_commit(
        &mut self,
        database: &Database,
        write: &WriteTransaction,
        segments: &Segments,
    ) -> Result<(), LogError> {
        if self.recent.len() >= self.recent_max {
            self.settle(write, segments)?;
        }
        self.merge_some(database, write)
    }

    /// Writes out all: the entries may go.
    pub fn settle(&mut self, write: &WriteTransaction, segments: &Segments) -> Result<(), LogError> {
        let heads: Vec<u64> = segments.heads.iter().map(|head| head.1).collect();
        self.write_out(write, &heads)
    }

    fn write_out(&mut self, write: &WriteTransaction, noted: &[u64]) -> Result<(), LogError> {
        let mut indexed = write.open_table(INDEXED).map_err(store)?;
        for (shard, seq) in (0..LOGS).zip(noted) {
            indexed.insert(shard, seq).map_err(store)?;
        }
        if self.recent.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<(Key, u64)> = self.recent.drain().collect();
        rows.sort_unstable();
        let count = rows.len() as u64;
        let mut state = RunState { run: self.next_run, level: 0, count, filter: Filter::new(count) };
        self.next_run += 1;
        rows.iter().for_each(|(key, _)| state.filter.add(key));
        let mut table = write.open_table(Run::new(&run_name(state.run))).map_err(store)?;
        write_rows(&mut table, &rows)?;
        write.open_table(RUNS).map_err(store)?.insert(state.run, (state.level, count)).map_err(store)?;
        self.runs.push(state);
        Ok(())
    }

    /// Goes on with a merge, or begins one where there are enough runs of a level.
    fn merge_some(&mut self, database: &Database, write: &WriteTransaction) -> Result<(), LogError> {
        let most = (std::mem::take(&mut self.added) * MERGED_PER_ID).max(MERGED_MIN);
        if self.merge.is_none() {
            let level = (0..=u8::MAX).find(|level| self.runs.iter().filter(|run| run.level == *level).count() >= FAN);
            let Some(level) = level else { return Ok(()) };
            let from: Vec<&RunState> = self.runs.iter().filter(|run| run.level == level).take(FAN).collect();
            let count = from.iter().map(|run| run.count).sum();
            let from = from.iter().map(|run| run.run).collect();
            let into =
                RunState { run: self.next_run, level: level.saturating_add(1), count, filter: Filter::new(count) };
            self.merge = Some(Merge { from, into, after: None });
            self.next_run += 1;
            // A run that this very transaction writes can be read once it is committed.
            return Ok(());
        }
        let Some(merge) = &mut self.merge else { return Ok(()) };
        if !merge.step(&database.begin_read().map_err(store)?, write, most)? {
            return Ok(());
        }
        let Some(merge) = self.merge.take() else { return Ok(()) };
        let mut runs = write.open_table(RUNS).map_err(store)?;
        for run in &merge.from {
            write.delete_table(Run::new(&run_name(*run))).map_err(store)?;
            runs.remove(run).map_err(store)?;
        }
        runs.insert(merge.into.run, (merge.into.level, merge.into.count)).map_err(store)?;
        self.runs.retain(|run| !merge.from.contains(&run.run));
        self.runs.push(merge.into);
        Ok(())
    }
}

impl Merge {
    /// Merges about so many ids; says whether that was all.
    fn step(&mut self, read: &ReadTransaction, write: &WriteTransaction, most: usize) -> Result<bool, LogError> {
        let share = most / FAN;
        let (mut rows, mut bound) = (Vec::with_capacity(most + FAN), None);
        for run in &self.from {
            let table = read.open_table(Run::new(&run_name(*run))).map_err(store)?;
            let after = self.after;
            let from = match after {
                Some(after) => table.range(..=after).map_err(store)?.next_back().transpose().map_err(store)?,
                None => None,
            };
            let from = from.map_or((0, [0; 16]), |(key, _)| key.value());
            let (mut taken, mut all) = (0, true);
            each_row(&table, from.., |key, seq| {
                if after.is_some_and(|after| key <= after) {
                    return true;
                }
                if taken == share {
                    all = false;
                    return false;
                }
                rows.push((key, seq));
                taken += 1;
                true
            })?;
            if !all && let Some((last, _)) = rows.last() {
                // Of this run, only what is up to here is at hand.
                bound = Some(bound.map_or(*last, |bound: Key| bound.min(*last)));
            }
        }
        rows.retain(|(key, _)| bound.is_none_or(|bound| *key <= bound));
        rows.sort_unstable();
        rows.iter().for_each(|(key, _)| self.into.filter.add(key));
        let mut table = write.open_table(Run::new(&run_name(self.into.run))).map_err(store)?;
        write_rows(&mut table, &rows)?;
        self.after = rows.last().map(|(key, _)| *key).or(self.after);
        Ok(bound.is_none())
    }
}

/// The runs as one group sees them.
pub(super) struct OpenIds {
    read: ReadTransaction,
}

/// Writes sorted rows, in blocks that no two shards share.
fn write_rows(table: &mut Table<'_, Key, &'static [u8]>, rows: &[(Key, u64)]) -> Result<(), LogError> {
    let mut block = Vec::with_capacity(BLOCK_IDS * ROW_BYTES);
    for of_shard in rows.chunk_by(|(a, _), (b, _)| a.0 == b.0) {
        for rows in of_shard.chunks(BLOCK_IDS) {
            block.clear();
            for ((_, id), seq) in rows {
                block.extend_from_slice(id);
                block.extend_from_slice(&seq.to_le_bytes());
            }
            if let Some((first, _)) = rows.first() {
                table.insert(first, block.as_slice()).map_err(store)?;
            }
        }
    }
    Ok(())
}

/// A block's row.
fn row(bytes: &[u8]) -> Result<([u8; 16], u64), LogError> {
    let (id, seq) = bytes.split_first_chunk().ok_or_else(|| corrupt("an id"))?;
    Ok((*id, u64::from_le_bytes(seq.try_into().map_err(|_| corrupt("an id"))?)))
}

/// Gives the rows of a run from a block on, in order, until it is told to stop.
fn each_row(
    table: &ReadOnlyTable<Key, &'static [u8]>,
    from: impl RangeBounds<Key>,
    mut take: impl FnMut(Key, u64) -> bool,
) -> Result<(), LogError> {
    for block in table.range(from).map_err(store)? {
        let (key, block) = block.map_err(store)?;
        for bytes in block.value().chunks(ROW_BYTES) {
            let (id, seq) = row(bytes)?;
            if !take((key.value().0, id), seq) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Looks an id up in a run.
fn find(table: &ReadOnlyTable<Key, &'static [u8]>, key: &Key) -> Result<Option<u64>, LogError> {
    let Some(block) = table.range((key.0, [0; 16])..=*key).map_err(store)?.next_back() else { return Ok(None) };
    let block = block.map_err(store)?.1;
    let (rows, _) = block.value().as_chunks::<ROW_BYTES>();
    match rows.binary_search_by(|bytes| bytes[..16].cmp(&key.1)) {
        Ok(at) => row(&rows[at]).map(|(_, seq)| Some(seq)),
        Err(_) => Ok(None),
    }
}

/// A Bloom filter in lines of 512 bits, ten bits for each id: about one in fifty ids that are not there is taken for one that may be.
struct Filter {
    lines: Vec<[u64; 8]>,
}

/// Bits that an id sets in its line.
const PROBES: u32 = 6;

impl Filter {
    fn new(count: u64) -> Self {
        let lines = usize::try_from(count * 10 / 512 + 1).unwrap_or(1);
        Self { lines: vec![[0; 8]; lines] }
    }

    /// The line of an id, and the source of its bits. Ids are hashes already.
    fn place(&self, (shard, id): &Key) -> (usize, u64) {
        let (first, second) = id.split_at(8);
        let half = |bytes: &[u8]| bytes.iter().fold(0, |half, byte| half << 8 | u64::from(*byte));
        let line = half(first) ^ u64::from(*shard).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = (u128::from(line) * self.lines.len() as u128) >> 64;
        (usize::try_from(line).unwrap_or(0), half(second))
    }

    fn add(&mut self, key: &Key) {
        let (line, mut bits) = self.place(key);
        for _ in 0..PROBES {
            self.lines[line][usize::from((bits >> 6 & 7) as u8)] |= 1 << (bits & 63);
            bits >>= 9;
        }
    }

    fn may_hold(&self, key: &Key) -> bool {
        let (line, mut bits) = self.place(key);
        (0..PROBES).all(|_| {
            let set = self.lines[line][usize::from((bits >> 6 & 7) as u8)] >> (bits & 63) & 1 == 1;
            bits >>= 9;
            set
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(at: u64) -> Key {
        let mut state = at;
        let mut half = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)).to_le_bytes()
        };
        let id = [half(), half()].concat().try_into().expect("sixteen bytes");
        (u16::try_from(at % 65).expect("small"), id)
    }

    #[test]
    fn a_filter_never_denies_what_it_holds() {
        let mut filter = Filter::new(10_000);
        (0..10_000).for_each(|at| filter.add(&key(at * 2)));
        assert!((0..10_000).all(|at| filter.may_hold(&key(at * 2))));
        let wrong = (0..10_000).filter(|at| filter.may_hold(&key(at * 2 + 1))).count();
        assert!(wrong < 300, "{wrong} of 10,000");
    }

    #[test]
    fn every_id_is_found_through_runs_and_merges() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::create(folder.path().join("ids.redb")).expect("a file");
        let write = database.begin_write().expect("write");
        Ids::create(&write).expect("tables");
        write.commit().expect("commit");
        let mut ids =
            Ids { recent: HashMap::new(), recent_max: 100, added: 0, runs: Vec::new(), merge: None, next_run: 1 };
        for group in 0..1_000_u64 {
            let write = database.begin_write().expect("write");
            for at in group * 20..(group + 1) * 20 {
                let (shard, id) = key(at);
                ids.put(shard, id, at + 1);
            }
            if ids.recent.len() >= ids.recent_max {
                ids.write_out(&write, &[0; LOGS as usize]).expect("written");
            }
            ids.merge_some(&database, &write).expect("merged");
            write.commit().expect("commit");
        }
        assert!(ids.runs.len() < 3 * FAN, "{} runs", ids.runs.len());
        assert!(ids.runs.iter().any(|run| run.level == 2));
        let open = ids.open(&database).expect("open");
        for at in 0..20_000 {
            let (shard, id) = key(at);
            assert_eq!(ids.get(&open, shard, &id), Ok(Some(at + 1)), "{at}");
            assert_eq!(ids.get(&open, shard, &key(at + 20_000).1), Ok(None));
        }
        let rows: u64 = ids.runs.iter().map(|run| run.count).sum();
        assert_eq!(rows + ids.recent.len() as u64, 20_000, "each once");
    }
}
