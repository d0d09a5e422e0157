//! What is durable and does not stand in the log's tables yet.
//!
//! An entry's place in the tables is by shard, so a few changes to many shards rewrite as many pages. Those for which
//! somebody waits are therefore written as one row of a journal first, and *settled* many at a time: moved into the
//! tables, where a page takes several. Update rule: rows are settled in the order in which they were written, before
//! anything else changes the log's tables, and go in the transaction that moves them. So a crash finds a change in one
//! place or the other, and whoever opens the file settles what stands there. Nothing else reads the journal.
//!
//! A row holds runs: a shard and the sequence of the first change, two and eight bytes, how many changes there are,
//! four, and for each its length, four, and its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::Origin;

use super::segments::{Appender, Segments};
use super::{corrupt, store};
use crate::central::LOGS;
use crate::{Committed, LogError};

/// Rows by number, ascending in the order in which they were written.
const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
/// Bytes of changes, about, and changes, with which the journal is full.
const BYTES_MAX: usize = 256 * 1024;
const CHANGES_MAX: usize = 1_024;

/// Changes to append, by shard.
pub(super) type Appends = BTreeMap<ShardId, Vec<Arc<[u8]>>>;

/// Changes of one shard, with the sequence that the first of them was given.
struct Run {
    shard: u16,
    first_seq: u64,
    changes: Vec<Arc<[u8]>>,
}

/// The writing thread's own: what the rows of the file hold.
#[derive(Default)]
pub(super) struct Journal {
    rows: Vec<Vec<Run>>,
    /// How many changes are held by shard: so far are the heads that were given before those of the tables.
    ahead: BTreeMap<u16, u64>,
    changes: usize,
    bytes: usize,
    next_row: u64,
}

/// Creates the table, so that whoever opens the file may read it.
pub(super) fn create(write: &WriteTransaction) -> Result<(), LogError> {
    write.open_table(JOURNAL).map_err(store)?;
    Ok(())
}

/// Settles what a process that has died left behind.
pub(super) fn recover(database: &Database, segment_bytes: u64) -> Result<(), LogError> {
    let read = database.begin_read().map_err(store)?;
    let mut journal = Journal::default();
    for row in read.open_table(JOURNAL).map_err(store)?.iter().map_err(store)? {
        let runs = decode(row.map_err(store)?.1.value()).ok_or_else(|| corrupt("the journal"))?;
        journal.hold(runs);
    }
    if journal.is_empty() {
        return Ok(());
    }
    let mut segments = Segments::load(&read, segment_bytes)?;
    drop(read);
    let write = database.begin_write().map_err(store)?;
    journal.settle(&write, &mut segments)?;
    write.commit().map_err(store)
}

/// Whether a group is better written as a row than into the tables at once: one that would fill the journal by itself
/// would be written twice for nothing.
pub(super) fn takes(appends: &Appends) -> bool {
    let all = || appends.values().flatten();
    all().count() < CHANGES_MAX && all().map(|change| change.len()).sum::<usize>() < BYTES_MAX
}

impl Journal {
    /// Whether there is nothing to settle.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether so much is held that it is time to settle.
    pub fn is_full(&self) -> bool {
        self.changes.max(self.rows.len()) >= CHANGES_MAX || self.bytes >= BYTES_MAX
    }

    /// Writes a group as one row, and gives its changes their sequences. Should the transaction not be committed, the
    /// journal is of no use any more.
    pub fn write(
        &mut self,
        write: &WriteTransaction,
        segments: &Segments,
        appends: Appends,
    ) -> Result<Vec<Committed>, LogError> {
        let head = |shard: ShardId| segments.heads[usize::from(shard.0)].1 + self.ahead.get(&shard.0).unwrap_or(&0);
        let run = |(shard, changes): (ShardId, _)| Run { shard: shard.0, first_seq: head(shard) + 1, changes };
        let runs: Vec<Run> = appends.into_iter().map(run).collect();
        let row = encode(&runs)?;
        write.open_table(JOURNAL).map_err(store)?.insert(self.next_row, row.as_slice()).map_err(store)?;
        self.next_row += 1;
        let committed =
            |run: &Run| Committed { shard: ShardId(run.shard), first_seq: run.first_seq, count: run.changes.len() };
        let committed = runs.iter().map(committed).collect();
        self.hold(runs);
        Ok(committed)
    }

    fn hold(&mut self, runs: Vec<Run>) {
        for run in &runs {
            *self.ahead.entry(run.shard).or_default() += run.changes.len() as u64;
            self.changes += run.changes.len();
            self.bytes += run.changes.iter().map(|change| change.len()).sum::<usize>();
        }
        self.rows.push(runs);
    }

    /// Moves what is held into the tables, as if each row had been committed to them when it was written. Should the
    /// transaction not be committed, neither the journal nor the segments are of any use any more.
    pub fn settle(&mut self, write: &WriteTransaction, segments: &mut Segments) -> Result<(), LogError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut appender = segments.appender(write)?;
        for row in self.rows.drain(..) {
            if appender.is_full() {
                appender.finish(write)?;
                appender = segments.appender(write)?;
            }
            row.iter().try_for_each(|run| append(&mut appender, run))?;
        }
        appender.finish(write)?;
        // Whole, since removing rows one by one is slow.
        write.delete_table(JOURNAL).map_err(store)?;
        create(write)?;
        *self = Self { next_row: self.next_row, ..Self::default() };
        Ok(())
    }
}

/// Appends a run, where the tables stand right before it.
fn append(appender: &mut Appender<'_, '_>, run: &Run) -> Result<(), LogError> {
    // A process that knows no journal may have appended since.
    if run.shard >= LOGS || appender.head(run.shard).1 + 1 != run.first_seq {
        return Err(corrupt("the journal"));
    }
    run.changes.iter().try_for_each(|change| appender.append(run.shard, Origin::CENTRE, 0, change).map(drop))
}

fn encode(runs: &[Run]) -> Result<Vec<u8>, LogError> {
    let length = |length: usize| u32::try_from(length).map(u32::to_le_bytes).map_err(store);
    let of_run = |run: &Run| 14 + run.changes.iter().map(|change| 4 + change.len()).sum::<usize>();
    let mut row = Vec::with_capacity(runs.iter().map(of_run).sum());
    for run in runs {
        row.extend_from_slice(&run.shard.to_le_bytes());
        row.extend_from_slice(&run.first_seq.to_le_bytes());
        row.extend_from_slice(&length(run.changes.len())?);
        for change in &run.changes {
            row.extend_from_slice(&length(change.len())?);
            row.extend_from_slice(change);
        }
    }
    Ok(row)
}

/// Takes a row apart; nothing where it ends too early.
fn decode(mut row: &[u8]) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    while !row.is_empty() {
        let shard = u16::from_le_bytes(split(&mut row)?);
        let first_seq = u64::from_le_bytes(split(&mut row)?);
        let mut changes = Vec::new();
        for _ in 0..u32::from_le_bytes(split(&mut row)?) {
            let length = usize::try_from(u32::from_le_bytes(split(&mut row)?)).ok()?;
            changes.push(Arc::from(row.split_off(..length)?));
        }
        runs.push(Run { shard, first_seq, changes });
    }
    Some(runs)
}

fn split<const N: usize>(row: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = row.split_first_chunk()?;
    *row = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::redb::{for_entries, open};

    fn database(path: &Path) -> Database {
        open(path, "test", 1024 * 1024, 1_000).expect("open").0
    }

    fn appends(some: &[(u16, &[&str])]) -> Appends {
        let changes = |texts: &[&str]| texts.iter().map(|text| Arc::from(text.as_bytes())).collect();
        some.iter().map(|(shard, texts)| (ShardId(*shard), changes(texts))).collect()
    }

    fn texts(database: &Database, shard: u16) -> Vec<String> {
        let (read, mut texts) = (database.begin_read().expect("read"), Vec::new());
        let take = |seq, _, _, change: &[u8]| {
            texts.push(format!("{seq} {}", String::from_utf8_lossy(change)));
            Ok(true)
        };
        for_entries(&read, shard, 0, take).expect("entries");
        texts
    }

    /// Writes groups as rows, each with a commit, and gives what held them and where the tables stand.
    fn written(database: &Database, groups: &[Appends]) -> (Journal, Segments) {
        let segments = Segments::load(&database.begin_read().expect("read"), 1_000).expect("load");
        let mut journal = Journal::default();
        for group in groups {
            let write = database.begin_write().expect("write");
            journal.write(&write, &segments, group.clone()).expect("written");
            write.commit().expect("commit");
        }
        (journal, segments)
    }

    #[test]
    fn a_row_says_what_was_put_in_and_one_cut_short_says_nothing() {
        let run = |shard, first_seq, changes: &[&[u8]]| Run {
            shard,
            first_seq,
            changes: changes.iter().map(|change| Arc::from(*change)).collect(),
        };
        let row = encode(&[run(3, 1, &[b"a", b"", b"bc"]), run(64, u64::MAX, &[])]).expect("short");
        let told: Vec<_> =
            decode(&row).expect("whole").into_iter().map(|run| (run.shard, run.first_seq, run.changes)).collect();
        let a: Vec<Arc<[u8]>> = vec![Arc::from(*b"a"), Arc::from(*b""), Arc::from(*b"bc")];
        assert_eq!(told, [(3, 1, a), (64, u64::MAX, Vec::new())]);
        let ends: Vec<_> = (0..row.len()).filter(|length| decode(&row[..*length]).is_some()).collect();
        assert_eq!(ends, [0, row.len() - 14], "only between runs");
    }

    #[test]
    fn what_a_crash_leaves_is_settled_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        let groups = [appends(&[(1, &["a", "b"]), (2, &["x"])]), appends(&[(1, &["c"])])];
        {
            let database = database(&path);
            let (mut journal, mut segments) = written(&database, &groups);
            // A crash in the middle of settling.
            let write = database.begin_write().expect("write");
            journal.settle(&write, &mut segments).expect("settled");
            write.abort().expect("abort");
            assert_eq!(texts(&database, 1), Vec::<String>::new());
        }
        for _ in 0..2 {
            let database = database(&path);
            assert_eq!(texts(&database, 1), ["1 a", "2 b", "3 c"]);
            assert_eq!(texts(&database, 2), ["1 x"]);
            let read = database.begin_read().expect("read");
            assert!(read.open_table(JOURNAL).expect("the journal").iter().expect("rows").next().is_none());
        }
    }

    #[test]
    fn rows_that_do_not_follow_the_tables_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        {
            let database = database(&path);
            let (_, mut segments) = written(&database, &[appends(&[(1, &["a"])])]);
            // As a version does that knows no journal.
            let write = database.begin_write().expect("write");
            let mut appender = segments.appender(&write).expect("an appender");
            appender.append(1, Origin::CENTRE, 0, b"b").expect("appended");
            appender.finish(&write).expect("finished");
            write.commit().expect("commit");
        }
        let refused = open(&path, "test", 1024 * 1024, 1_000).map(|(_, id)| id);
        assert_eq!(refused, Err(corrupt("the journal")));
    }

    #[test]
    fn a_group_that_fills_it_by_itself_is_not_for_it() {
        let many = |count, bytes: usize| Appends::from([(ShardId(1), vec![Arc::from(vec![0; bytes]); count])]);
        assert!(takes(&many(CHANGES_MAX - 1, 1)) && takes(&many(1, BYTES_MAX - 1)) && takes(&Appends::new()));
        assert!(!takes(&many(CHANGES_MAX, 0)) && !takes(&many(2, BYTES_MAX / 2)));
    }
}
