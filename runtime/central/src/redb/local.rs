//! A log that one process appends to: of an edge with its embedded centre, or the outbox of an edge that follows a centre.
//!
//! Update rule: one thread takes whatever waits, up to [`GROUP_BYTES_MAX`], and commits it with one fsync; the next group begins as soon
//! as that ends, or a moment later where many wait. Where nobody waits for durability, a group stays open for [`LINGER`], so that a trickle of changes does not
//! cost an fsync each. A commit that fails closes the log for good: nobody is told that something is durable that is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, ReadableDatabase, WriteTransaction};
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::sync::Origin;
use selvedge_core::view::Cursor;
use tokio::sync::oneshot;

use super::queue::Queue;
use super::segments::Segments;
use super::{META, for_entries, keep, open, read_meta, read_trimmed, store};
use crate::central::{BLOB_BYTES_MAX, NOTE_BYTES_MAX, bounded};
use crate::{Barrier, Committed, LocalEntry, LogError};

/// Bytes of one commit, about.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// How long a group for which nobody waits stays open.
const LINGER: Duration = Duration::from_millis(50);
/// Bytes of entries after which a segment is closed, unless told otherwise.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// redb's page cache. Appends touch few pages, and reads go from old to new once.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// What the keys of notes begin with.
const NOTE: &str = "note:";

/// Told of each commit, in order, on the writing thread.
pub type OnCommit = Box<dyn FnMut(&[Committed]) + Send>;
/// Told once, should the log fail.
pub type OnFailure = Box<dyn FnOnce(LogError) + Send>;

/// A log in one redb file.
pub struct RedbLog {
    database: Arc<Database>,
    path: PathBuf,
    id: String,
    queue: Arc<Queue<Request>>,
    writer: Option<JoinHandle<()>>,
    failed: Arc<OnceLock<LogError>>,
    live_bytes: Arc<AtomicU64>,
}

/// Bytes by the sequences of the entries in whose place they come.
type Replacements = Vec<(u64, Vec<u8>)>;

/// A note to be kept beside the log, by its name, or to be forgotten.
pub type Noted = (String, Option<Vec<u8>>);

enum Request {
    Append(Vec<(ShardId, Vec<Arc<[u8]>>)>, Vec<Noted>),
    Barrier(oneshot::Sender<Result<(), LogError>>),
    Trim(Vec<(u16, u64)>, oneshot::Sender<Result<(), LogError>>),
    Erase(u16, Replacements, oneshot::Sender<Result<(), LogError>>),
}

impl RedbLog {
    /// Opens or creates the log in a file; `fresh_id` names a new one. `on_commit` hears of every commit after this.
    pub fn open(path: &Path, fresh_id: &str, on_commit: OnCommit, on_failure: OnFailure) -> Result<Self, LogError> {
        Self::open_with(path, fresh_id, SEGMENT_BYTES, on_commit, on_failure)
    }

    /// Opens or creates it with segments of about so many bytes: what is trimmed frees its room segment by segment.
    pub fn open_with(
        path: &Path,
        fresh_id: &str,
        segment_bytes: u64,
        on_commit: OnCommit,
        on_failure: OnFailure,
    ) -> Result<Self, LogError> {
        let (database, id) = open(path, fresh_id, CACHE_BYTES)?;
        let database = Arc::new(database);
        let read = database.begin_read().map_err(store)?;
        let segments = Segments::load(&read, segment_bytes)?;
        let live_bytes = Arc::new(AtomicU64::new(segments.live_bytes(&read)?));
        drop(read);
        let failed = Arc::new(OnceLock::new());
        let queue = Arc::new(Queue::new(LINGER, GROUP_BYTES_MAX));
        let writer = Writer {
            queue: Arc::clone(&queue),
            segments,
            database: Arc::clone(&database),
            failed: Arc::clone(&failed),
            live_bytes: Arc::clone(&live_bytes),
            on_commit,
            on_failure: Some(on_failure),
        };
        let writer = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run())
            .map_err(|error| LogError::Store(error.to_string()))?;
        Ok(Self { database, path: path.to_owned(), id, queue, writer: Some(writer), failed, live_bytes })
    }

    /// A random name of this very log, so that a client can tell it from another at the same address.
    pub fn id(&self) -> String {
        self.id.clone()
    }

    /// The notes beside the log whose names begin so, ascending by name.
    pub fn notes(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let (meta, prefix) = (read.open_table(META).map_err(store)?, format!("{NOTE}{prefix}"));
        let mut notes = Vec::new();
        for row in meta.range(prefix.as_str()..).map_err(store)? {
            let (key, value) = row.map_err(store)?;
            match key.value().strip_prefix(NOTE) {
                Some(name) if key.value().starts_with(&prefix) => notes.push((name.to_owned(), value.value().to_vec())),
                _ => break,
            }
        }
        Ok(notes)
    }

    /// A note that is kept beside the log.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        read_meta(&self.database, &note_key(name))
    }

    /// Keeps a note, durably. Blocks while a commit is under way.
    pub fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LogError> {
        let write = self.database.begin_write().map_err(store)?;
        write.open_table(META).map_err(store)?.insert(note_key(name).as_str(), bytes).map_err(store)?;
        write.commit().map_err(store)
    }

    /// Keeps a blob under its SHA-256, durably, where a centre that opens this file finds it. The caller has computed it. Blocks.
    pub fn put_blob(&self, sha256: [u8; 32], bytes: &[u8]) -> Result<(), LogError> {
        bounded("the blob", bytes.len(), BLOB_BYTES_MAX)?;
        self.write(|write| keep::put_blob(write, sha256, bytes))
    }

    /// A blob.
    pub fn blob(&self, sha256: [u8; 32]) -> Result<Option<Vec<u8>>, LogError> {
        keep::blob(&self.database.begin_read().map_err(store)?, sha256)
    }

    /// Keeps a note as a centre does, durably; one that opens this file finds it. Blocks.
    pub fn put_centre_note(&self, name: &str, bytes: &[u8]) -> Result<(), LogError> {
        bounded("the note", name.len() + bytes.len(), NOTE_BYTES_MAX)?;
        self.write(|write| keep::put_note(write, name, bytes))
    }

    /// A note of a centre's.
    pub fn centre_note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        keep::note(&self.database.begin_read().map_err(store)?, name)
    }

    /// Forgets a note of a centre's. Blocks.
    pub fn remove_centre_note(&self, name: &str) -> Result<(), LogError> {
        self.write(|write| keep::remove_note(write, name))
    }

    fn write(&self, run: impl FnOnce(&WriteTransaction) -> Result<(), LogError>) -> Result<(), LogError> {
        let write = self.database.begin_write().map_err(store)?;
        run(&write)?;
        write.commit().map_err(store)
    }

    /// The last durable entry of each data shard, by position.
    pub fn heads(&self) -> Result<Vec<Cursor>, LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let segments = Segments::load(&read, SEGMENT_BYTES)?;
        let heads = segments.heads.into_iter().take(usize::from(SHARDS));
        Ok(heads.map(|(epoch, seq)| Cursor { epoch, seq }).collect())
    }

    /// Appends changes to shards, each in order, behind everything appended to it before: after a crash all of them are there or none.
    /// Returns at once; what is not durable when the process dies is lost, so whoever promises durability waits for a
    /// [`barrier`](Self::barrier).
    pub fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), LogError> {
        self.append_and_note(changes, Vec::new())
    }

    /// The same together with notes: after a crash all of the changes and notes are there or none.
    pub fn append_and_note(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>, notes: Vec<Noted>) -> Result<(), LogError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let bytes: usize = changes.iter().flat_map(|(_, changes)| changes).map(|change| change.len()).sum();
        self.live_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let noted: usize = notes.iter().filter_map(|(_, bytes)| bytes.as_ref()).map(Vec::len).sum();
        self.queue.push(Request::Append(changes, notes), bytes + noted, false).map_err(|_| LogError::Closed)
    }

    /// A barrier behind everything appended so far, by whomever.
    pub fn barrier(&self) -> Barrier {
        self.request(Request::Barrier)
    }

    fn request(&self, request: impl FnOnce(oneshot::Sender<Result<(), LogError>>) -> Request) -> Barrier {
        let (done, waiter) = oneshot::channel();
        // A closed queue drops the sender, which the waiter reads as closed.
        let _ = self.queue.push(request(done), 0, true);
        Barrier(waiter)
    }

    /// The durable entries of a shard after a sequence, in order, up to about so many bytes (at least one entry, if there is one). What is
    /// trimmed is passed over.
    pub fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<LocalEntry>, LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let after = after.max(read_trimmed(&read, shard.0)?);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for_entries(&read, shard.0, after, |seq, _, _, change| {
            bytes += change.len();
            entries.push(LocalEntry { seq, bytes: change.to_vec() });
            Ok(bytes < bytes_max)
        })?;
        Ok(entries)
    }

    /// Up to where a shard is trimmed.
    pub fn trimmed(&self, shard: ShardId) -> Result<u64, LogError> {
        read_trimmed(&self.database.begin_read().map_err(store)?, shard.0)
    }

    /// Lets entries go up to these sequences; of what is not durable yet, none. Once the barrier is through, no read gives them, also
    /// after a crash. Their room is used again once all of their segment went.
    pub fn trim(&self, up_to: &[(ShardId, u64)]) -> Barrier {
        let up_to = up_to.iter().filter(|(shard, _)| shard.0 < SHARDS).map(|(shard, seq)| (shard.0, *seq)).collect();
        self.request(|done| Request::Trim(up_to, done))
    }

    /// Puts other bytes in place of entries' bytes, of those that are durable and not trimmed. Once the barrier is through, no read gives what was there, also
    /// after a crash; the file keeps it until its pages are used again.
    pub fn erase(&self, shard: ShardId, replacements: Vec<(u64, Vec<u8>)>) -> Barrier {
        self.request(|done| Request::Erase(shard.0, replacements, done))
    }

    /// Bytes of changes that were appended and not trimmed, those included that are not durable yet.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the file. Asks the file system.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        std::fs::metadata(&self.path).map(|metadata| metadata.len()).map_err(store)
    }
}

impl Drop for RedbLog {
    /// Commits what waits, then ends the writing thread.
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed every waiter.
            let _ = writer.join();
        }
    }
}

fn note_key(name: &str) -> String {
    format!("{NOTE}{name}")
}

struct Writer {
    queue: Arc<Queue<Request>>,
    database: Arc<Database>,
    segments: Segments,
    failed: Arc<OnceLock<LogError>>,
    live_bytes: Arc<AtomicU64>,
    on_commit: OnCommit,
    on_failure: Option<OnFailure>,
}

/// What one commit takes in.
#[derive(Default)]
struct Group {
    appends: BTreeMap<ShardId, Vec<Arc<[u8]>>>,
    trims: Vec<(u16, u64)>,
    erasures: Vec<(u16, Replacements)>,
    notes: Vec<Noted>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.trims.is_empty() && self.erasures.is_empty() && self.notes.is_empty()
    }
}

impl Drop for Writer {
    /// Whoever waits for a thread that has ended is told so.
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(requests) = self.queue.take() {
            let mut group = Group::default();
            let mut waiters = Vec::new();
            for request in requests {
                match request {
                    Request::Append(together, notes) => {
                        group.notes.extend(notes);
                        for (shard, changes) in together {
                            group.appends.entry(shard).or_default().extend(changes);
                        }
                    }
                    Request::Barrier(done) => waiters.push(done),
                    Request::Trim(up_to, done) => {
                        group.trims.extend(up_to);
                        waiters.push(done);
                    }
                    Request::Erase(shard, replacements, done) => {
                        group.erasures.push((shard, replacements));
                        waiters.push(done);
                    }
                }
            }
            let outcome = match self.failed.get() {
                Some(error) => Err(error.clone()),
                None if group.is_empty() => Ok(()),
                None => self.commit(&group),
            };
            if let Err(error) = &outcome {
                let _ = self.failed.set(error.clone());
                if let Some(on_failure) = self.on_failure.take() {
                    on_failure(error.clone());
                }
            }
            for done in waiters {
                // Whoever waited may have gone.
                let _ = done.send(outcome.clone());
            }
        }
    }

    fn commit(&mut self, group: &Group) -> Result<(), LogError> {
        let write = self.database.begin_write().map_err(store)?;
        if !group.notes.is_empty() {
            let mut meta = write.open_table(META).map_err(store)?;
            for (name, bytes) in &group.notes {
                let key = note_key(name);
                match bytes {
                    Some(bytes) => drop(meta.insert(key.as_str(), bytes.as_slice()).map_err(store)?),
                    None => drop(meta.remove(key.as_str()).map_err(store)?),
                }
            }
        }
        // Trimmed is what was durable before.
        let gone = if group.trims.is_empty() { 0 } else { self.segments.trim(&write, &group.trims)? };
        for (shard, replacements) in &group.erasures {
            self.segments.replace(&write, *shard, replacements)?;
        }
        let mut appender = self.segments.appender(&write)?;
        let mut committed = Vec::with_capacity(group.appends.len());
        for (shard, changes) in &group.appends {
            let first_seq = appender.head(shard.0).1 + 1;
            for change in changes {
                appender.append(shard.0, Origin::CENTRE, 0, change)?;
            }
            committed.push(Committed { shard: *shard, first_seq, count: changes.len() });
        }
        appender.finish(&write)?;
        write.commit().map_err(store)?;
        self.live_bytes.fetch_sub(gone, Ordering::Relaxed);
        if !committed.is_empty() {
            (self.on_commit)(&committed);
        }
        Ok(())
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
    fn what_a_centre_keeps_besides_is_kept_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        {
            let (log, _) = open(&path);
            assert_eq!((log.blob([1; 32]), log.centre_note("draft")), (Ok(None), Ok(None)));
            log.put_blob([1; 32], b"text").expect("kept");
            log.put_centre_note("draft", b"a").expect("kept");
            log.put_centre_note("gone", b"b").expect("kept");
            log.remove_centre_note("gone").expect("removed");
            append(&log, crate::CONTROL.0, &["a catalogue"]);
            log.barrier().wait_blocking().expect("durable");
        }
        let (log, _) = open(&path);
        assert_eq!(log.blob([1; 32]).expect("read").as_deref(), Some(b"text".as_slice()));
        assert_eq!(log.centre_note("draft").expect("read").as_deref(), Some(b"a".as_slice()));
        assert_eq!(log.centre_note("gone"), Ok(None));
        assert_eq!(texts(&log, crate::CONTROL.0, 0, 1000), [(1, "a catalogue".into())]);
    }

    #[test]
    fn notes_come_and_go_with_the_changes_that_they_are_appended_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        let note = |name: &str, bytes: Option<&[u8]>| (name.to_owned(), bytes.map(<[u8]>::to_vec));
        {
            let (log, _) = open(&path);
            log.keep_note("decidedly", b"other").expect("kept");
            log.append_and_note(Vec::new(), vec![note("decided:1", Some(b"a")), note("decided:2", Some(b"b"))])
                .expect("noted");
            let changes = vec![(ShardId(3), vec![Arc::from(b"c".as_slice())])];
            log.append_and_note(changes, vec![note("decided:1", None), note("decided:3", Some(b"d"))]).expect("noted");
            log.barrier().wait_blocking().expect("durable");
        }
        let (log, _) = open(&path);
        let left = vec![("decided:2".to_owned(), b"b".to_vec()), ("decided:3".to_owned(), b"d".to_vec())];
        assert_eq!((log.notes("decided:"), log.notes("nothing")), (Ok(left), Ok(Vec::new())));
        assert_eq!(texts(&log, 3, 0, 1000), [(1, "c".into())]);
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

    fn small(path: &Path) -> RedbLog {
        RedbLog::open_with(path, "test", 64 * 1024, Box::new(|_| {}), Box::new(|error| panic!("{error}")))
            .expect("open")
    }

    #[test]
    fn what_is_trimmed_is_gone_for_good() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.redb");
        {
            let log = small(&path);
            append(&log, 3, &["one", "two", "three"]);
            append(&log, 5, &["four"]);
            log.barrier().wait_blocking().expect("durable");
            assert_eq!(log.live_bytes(), 15);
            log.trim(&[(ShardId(3), 2), (ShardId(5), 99)]).wait_blocking().expect("trimmed");
            assert_eq!(log.live_bytes(), 5);
            log.trim(&[(ShardId(3), 1)]).wait_blocking().expect("nothing to do");
            assert_eq!(log.live_bytes(), 5);
        }
        let log = small(&path);
        assert_eq!(log.live_bytes(), 5);
        assert_eq!(log.trimmed(ShardId(3)), Ok(2));
        assert_eq!(texts(&log, 3, 0, 1000), [(3, "three".into())]);
        assert_eq!(texts(&log, 5, 0, 1000), []);
        append(&log, 5, &["five"]);
        log.barrier().wait_blocking().expect("durable");
        assert_eq!(texts(&log, 5, 0, 1000), [(2, "five".into())]);
    }

    #[test]
    fn what_is_erased_is_read_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.redb");
        {
            let log = small(&path);
            append(&log, 3, &["one", "secret", "three"]);
            log.barrier().wait_blocking().expect("durable");
            log.erase(ShardId(3), vec![(2, b"-".to_vec()), (9, b"-".to_vec())]).wait_blocking().expect("erased");
        }
        let log = small(&path);
        assert_eq!(texts(&log, 3, 0, 1000), [(1, "one".into()), (2, "-".into()), (3, "three".into())]);
    }

    #[test]
    fn appended_to_and_trimmed_in_turn_it_stays_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("outbox.redb");
        let log = small(&path);
        let tables = |log: &RedbLog| log.database.begin_read().expect("read").list_tables().expect("tables").count();
        // Those that there are whatever is in them.
        let own = tables(&log);
        let change = "x".repeat(1000);
        let changes = vec![change.as_str(); 50];
        let (mut after_ten, mut last) = (0, 0);
        for round in 1..=200_u64 {
            append(&log, 1, &changes);
            append(&log, 2, &["y"]);
            log.barrier().wait_blocking().expect("durable");
            // The last two rounds are held, as by a push under way.
            let held = round.saturating_sub(2);
            log.trim(&[(ShardId(1), held * 50), (ShardId(2), held)]).wait_blocking().expect("trimmed");
            last = log.disk_bytes().expect("a size");
            if round == 10 {
                after_ten = last;
            }
        }
        assert!(last <= after_ten * 2, "{last} after 200 rounds, {after_ten} after 10");
        assert_eq!(log.live_bytes(), 2 * (50 * 1000 + 1));
        assert_eq!(texts(&log, 1, 0, usize::MAX).first().map(|(seq, _)| *seq), Some(198 * 50 + 1));
        assert!(tables(&log) <= own + 5, "{own} tables, then {}", tables(&log));
        drop(log);
        assert_eq!(small(&path).live_bytes(), 2 * (50 * 1000 + 1));
    }
}
