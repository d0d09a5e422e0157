//! The embedded log, on redb.
//!
//! Stored keys: `meta` holds the log's id and format, and notes; `heads` holds (epoch, head) by shard; each table `log-N` holds entries by (shard,
//! sequence), and `segments` says by (shard, N) with which sequence a shard begins in it. A segment is closed once it has
//! grown to [`SEGMENT_BYTES`], so that old entries can one day go by dropping whole tables: removing rows from redb is slow and leaves
//! holes.
//!
//! Update rule: one thread takes whatever waits, up to [`GROUP_BYTES_MAX`], and commits it with one fsync; the next group begins as soon
//! as that ends. Where nobody waits for durability, a group stays open for [`LINGER`], so that a trickle of changes does not
//! cost an fsync each. A commit that fails closes the log for good: nobody is told that something is durable that is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::view::Cursor;
use tokio::sync::oneshot;

use crate::{Barrier, CentralLog, Committed, Entry, LogError};

const FORMAT: u32 = 1;
/// Bytes of one commit, about.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// How long a group for which nobody waits stays open.
const LINGER: Duration = Duration::from_millis(20);
/// Bytes of entries after which a segment is closed.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// redb's page cache. Appends touch few pages, and reads go from old to new once.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const HEADS: TableDefinition<u16, (u32, u64)> = TableDefinition::new("heads");
const SEGMENTS: TableDefinition<(u16, u32), u64> = TableDefinition::new("segments");
type Log<'a> = TableDefinition<'a, (u16, u64), &'static [u8]>;

/// Told of each commit, in order, on the writing thread.
pub type OnCommit = Box<dyn FnMut(&[Committed]) + Send>;
/// Told once, should the log fail.
pub type OnFailure = Box<dyn FnOnce(LogError) + Send>;

/// A log in one redb file.
pub struct RedbLog {
    database: Arc<Database>,
    id: String,
    queue: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    failed: Arc<OnceLock<LogError>>,
}

enum Request {
    Append(Vec<(ShardId, Vec<Arc<[u8]>>)>),
    Barrier(oneshot::Sender<Result<(), LogError>>),
}

impl RedbLog {
    /// Opens or creates the log in a file; `fresh_id` names a new one. `on_commit` hears of every commit after this.
    pub fn open(path: &Path, fresh_id: &str, on_commit: OnCommit, on_failure: OnFailure) -> Result<Self, LogError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => LogError::InUse(path.display().to_string()),
            other => LogError::Store(format!("{}: {other}", path.display())),
        })?;
        let id = initialise(&database, fresh_id)?;
        let format =
            read_meta(&database, "format")?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        if format != FORMAT {
            return Err(LogError::Format(path.display().to_string(), format, FORMAT));
        }
        let database = Arc::new(database);
        let failed = Arc::new(OnceLock::new());
        let (queue, requests) = mpsc::channel();
        let writer = Writer {
            state: WriterState::load(&database)?,
            database: Arc::clone(&database),
            failed: Arc::clone(&failed),
            on_commit,
            on_failure: Some(on_failure),
        };
        let writer = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run(&requests))
            .map_err(|error| LogError::Store(error.to_string()))?;
        Ok(Self { database, id, queue: Some(queue), writer: Some(writer), failed })
    }
}

impl RedbLog {
    /// A note that is kept beside the log.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        read_meta(&self.database, &format!("note:{name}"))
    }

    /// Keeps a note, durably. Blocks while a commit is under way.
    pub fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LogError> {
        let write = self.database.begin_write().map_err(store)?;
        write.open_table(META).map_err(store)?.insert(format!("note:{name}").as_str(), bytes).map_err(store)?;
        write.commit().map_err(store)
    }
}

impl Drop for RedbLog {
    /// Commits what waits, then ends the writing thread.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed every waiter.
            let _ = writer.join();
        }
    }
}

impl CentralLog for RedbLog {
    fn id(&self) -> String {
        self.id.clone()
    }

    fn heads(&self) -> Result<Vec<Cursor>, LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let table = read.open_table(HEADS).map_err(store)?;
        let mut heads = vec![Cursor { epoch: 1, seq: 0 }; usize::from(SHARDS)];
        for row in table.iter().map_err(store)? {
            let (shard, head) = row.map_err(store)?;
            if let Some(slot) = heads.get_mut(usize::from(shard.value())) {
                let (epoch, seq) = head.value();
                *slot = Cursor { epoch, seq };
            }
        }
        Ok(heads)
    }

    fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), LogError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let queue = self.queue.as_ref().ok_or(LogError::Closed)?;
        queue.send(Request::Append(changes)).map_err(|_| LogError::Closed)
    }

    fn barrier(&self) -> Barrier {
        let (done, waiter) = oneshot::channel();
        if let Some(queue) = &self.queue {
            // A closed queue drops the sender, which the waiter reads as closed.
            let _ = queue.send(Request::Barrier(done));
        }
        Barrier(waiter)
    }

    fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let segments = read.open_table(SEGMENTS).map_err(store)?;
        let first = after + 1;
        // The last segment that begins at or before the first wanted entry, and all behind it.
        let mut wanted = Vec::new();
        for row in segments.range((shard.0, 0)..=(shard.0, u32::MAX)).map_err(store)?.rev() {
            let (key, begins) = row.map_err(store)?;
            wanted.push(key.value().1);
            if begins.value() <= first {
                break;
            }
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for segment in wanted.into_iter().rev() {
            let name = segment_name(segment);
            let table = read.open_table(Log::new(&name)).map_err(store)?;
            for row in table.range((shard.0, first)..=(shard.0, u64::MAX)).map_err(store)? {
                let (key, value) = row.map_err(store)?;
                bytes += value.value().len();
                entries.push(Entry { seq: key.value().1, bytes: value.value().to_vec() });
                if bytes >= bytes_max {
                    return Ok(entries);
                }
            }
        }
        Ok(entries)
    }
}

fn segment_name(segment: u32) -> String {
    format!("log-{segment:06}")
}

fn store(error: impl std::fmt::Display) -> LogError {
    LogError::Store(error.to_string())
}

fn initialise(database: &Database, fresh_id: &str) -> Result<String, LogError> {
    let write = database.begin_write().map_err(store)?;
    let id = {
        let mut meta = write.open_table(META).map_err(store)?;
        write.open_table(HEADS).map_err(store)?;
        write.open_table(SEGMENTS).map_err(store)?;
        let known = meta.get("id").map_err(store)?.map(|id| String::from_utf8_lossy(id.value()).into_owned());
        match known {
            Some(id) => id,
            None => {
                meta.insert("id", fresh_id.as_bytes()).map_err(store)?;
                meta.insert("format", FORMAT.to_be_bytes().as_slice()).map_err(store)?;
                fresh_id.to_owned()
            }
        }
    };
    write.commit().map_err(store)?;
    Ok(id)
}

fn read_meta(database: &Database, key: &str) -> Result<Option<Vec<u8>>, LogError> {
    let read = database.begin_read().map_err(store)?;
    let meta = read.open_table(META).map_err(store)?;
    Ok(meta.get(key).map_err(store)?.map(|value| value.value().to_vec()))
}

struct Writer {
    database: Arc<Database>,
    state: WriterState,
    failed: Arc<OnceLock<LogError>>,
    on_commit: OnCommit,
    on_failure: Option<OnFailure>,
}

/// What the writer knows without asking the store.
struct WriterState {
    heads: Vec<(u32, u64)>,
    segment: u32,
    segment_bytes: u64,
    /// Shards that have entries in the open segment.
    begun: Vec<bool>,
}

impl WriterState {
    fn load(database: &Database) -> Result<Self, LogError> {
        let read = database.begin_read().map_err(store)?;
        let mut state = Self {
            heads: vec![(1, 0); usize::from(SHARDS)],
            segment: 1,
            segment_bytes: 0,
            begun: vec![false; usize::from(SHARDS)],
        };
        for row in read.open_table(HEADS).map_err(store)?.iter().map_err(store)? {
            let (shard, head) = row.map_err(store)?;
            if let Some(slot) = state.heads.get_mut(usize::from(shard.value())) {
                *slot = head.value();
            }
        }
        let mut begun = Vec::new();
        for row in read.open_table(SEGMENTS).map_err(store)?.iter().map_err(store)? {
            let (shard, segment) = row.map_err(store)?.0.value();
            state.segment = state.segment.max(segment);
            begun.push((shard, segment));
        }
        for (shard, segment) in begun {
            if segment == state.segment && shard < SHARDS {
                state.begun[usize::from(shard)] = true;
            }
        }
        // A segment that was open is taken for empty: it may grow to twice its bound, once for each restart at most.
        Ok(state)
    }
}

impl Writer {
    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut appends: BTreeMap<ShardId, Vec<Arc<[u8]>>> = BTreeMap::new();
            let (mut barriers, mut bytes) = (Vec::new(), 0);
            let mut next = Some(first);
            let mut closes_at = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Append(together) => {
                        for (shard, changes) in together {
                            bytes += changes.iter().map(|change| change.len()).sum::<usize>();
                            appends.entry(shard).or_default().extend(changes);
                        }
                    }
                    Request::Barrier(done) => barriers.push(done),
                }
                if bytes >= GROUP_BYTES_MAX {
                    break;
                }
                next = requests.try_recv().ok();
                if next.is_none() && barriers.is_empty() {
                    let closes_at = *closes_at.get_or_insert_with(|| Instant::now() + LINGER);
                    next = requests.recv_timeout(closes_at.saturating_duration_since(Instant::now())).ok();
                }
            }
            let outcome = match self.failed.get() {
                Some(error) => Err(error.clone()),
                None if appends.is_empty() => Ok(()),
                None => self.commit(&appends, bytes as u64),
            };
            if let Err(error) = &outcome {
                let _ = self.failed.set(error.clone());
                if let Some(on_failure) = self.on_failure.take() {
                    on_failure(error.clone());
                }
            }
            for done in barriers {
                // Whoever waited may have gone.
                let _ = done.send(outcome.clone());
            }
        }
    }

    fn commit(&mut self, appends: &BTreeMap<ShardId, Vec<Arc<[u8]>>>, bytes: u64) -> Result<(), LogError> {
        if self.state.segment_bytes >= SEGMENT_BYTES {
            self.state.segment += 1;
            self.state.segment_bytes = 0;
            self.state.begun.fill(false);
        }
        let write = self.database.begin_write().map_err(store)?;
        let committed = self.write(&write, appends)?;
        write.commit().map_err(store)?;
        self.state.segment_bytes += bytes;
        for entries in &committed {
            let shard = usize::from(entries.shard.0);
            self.state.heads[shard].1 += entries.count as u64;
            self.state.begun[shard] = true;
        }
        (self.on_commit)(&committed);
        Ok(())
    }

    fn write(
        &self,
        write: &WriteTransaction,
        appends: &BTreeMap<ShardId, Vec<Arc<[u8]>>>,
    ) -> Result<Vec<Committed>, LogError> {
        let name = segment_name(self.state.segment);
        let mut log = write.open_table(Log::new(&name)).map_err(store)?;
        let mut heads = write.open_table(HEADS).map_err(store)?;
        let mut segments = write.open_table(SEGMENTS).map_err(store)?;
        let mut committed = Vec::with_capacity(appends.len());
        for (shard, changes) in appends {
            let index = usize::from(shard.0);
            let (epoch, head) = self.state.heads[index];
            if !self.state.begun[index] {
                segments.insert((shard.0, self.state.segment), head + 1).map_err(store)?;
            }
            for (seq, change) in (head + 1..).zip(changes) {
                log.insert((shard.0, seq), change.as_ref()).map_err(store)?;
            }
            heads.insert(shard.0, (epoch, head + changes.len() as u64)).map_err(store)?;
            committed.push(Committed { shard: *shard, first_seq: head + 1, count: changes.len() });
        }
        Ok(committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn open(path: &Path) -> (RedbLog, Arc<Mutex<Vec<Committed>>>) {
        let commits = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&commits);
        let on_commit =
            Box::new(move |committed: &[Committed]| heard.lock().expect("lock").extend_from_slice(committed));
        let log = RedbLog::open(path, "test", on_commit, Box::new(|error| panic!("{error}"))).expect("open the log");
        (log, commits)
    }

    fn append(log: &RedbLog, shard: u16, texts: &[&str]) {
        let changes = texts.iter().map(|text| Arc::from(text.as_bytes())).collect();
        log.append(vec![(ShardId(shard), changes)]).expect("append");
    }

    fn texts(log: &RedbLog, shard: u16, after: u64, bytes_max: usize) -> Vec<(u64, String)> {
        let entries = log.read(ShardId(shard), after, bytes_max).expect("read");
        entries.into_iter().map(|entry| (entry.seq, String::from_utf8(entry.bytes).expect("text"))).collect()
    }

    #[test]
    fn entries_are_gapless_in_order_and_survive() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        {
            let (log, commits) = open(&path);
            append(&log, 3, &["a", "b"]);
            append(&log, 5, &["x"]);
            append(&log, 3, &["c"]);
            log.barrier().wait_blocking().expect("durable");
            let counted: usize = commits.lock().expect("lock").iter().map(|entries| entries.count).sum();
            assert_eq!(counted, 4);
        }
        let (log, commits) = open(&path);
        assert_eq!(log.id(), "test");
        assert_eq!(log.heads().expect("heads")[3], Cursor { epoch: 1, seq: 3 });
        append(&log, 3, &["d"]);
        log.barrier().wait_blocking().expect("durable");
        assert_eq!(commits.lock().expect("lock")[0], Committed { shard: ShardId(3), first_seq: 4, count: 1 });
        assert_eq!(texts(&log, 3, 0, 1000), [(1, "a".into()), (2, "b".into()), (3, "c".into()), (4, "d".into())]);
        assert_eq!(texts(&log, 3, 2, 1), [(3, "c".into())]);
        assert_eq!(texts(&log, 5, 1, 1000), []);
        assert_eq!(texts(&log, 6, 0, 1000), []);
    }

    #[test]
    fn reads_cross_segments() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, _) = open(&folder.path().join("log.redb"));
        let large = "x".repeat(GROUP_BYTES_MAX);
        let commits = (SEGMENT_BYTES as usize / GROUP_BYTES_MAX) * 2 + 3;
        for _ in 0..commits {
            append(&log, 1, &[&large]);
            append(&log, 2, &["y"]);
        }
        log.barrier().wait_blocking().expect("durable");
        let read = log.database.begin_read().expect("read");
        assert!(read.list_tables().expect("tables").count() >= 3 + 2, "several segments");
        let seqs: Vec<_> =
            log.read(ShardId(2), 0, usize::MAX).expect("read").into_iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, (1..=commits as u64).collect::<Vec<_>>());
        let tail: Vec<_> =
            log.read(ShardId(2), 100, usize::MAX).expect("read").into_iter().map(|entry| entry.seq).collect();
        assert_eq!(tail, (101..=commits as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_second_process_is_told_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        let (_log, _) = open(&path);
        let again = RedbLog::open(&path, "other", Box::new(|_| {}), Box::new(|_| {}));
        assert!(matches!(again, Err(LogError::InUse(_))));
    }
}
