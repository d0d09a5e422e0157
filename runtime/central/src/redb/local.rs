//! A log that one process appends to: of an edge with its embedded centre, or the outbox of an edge that follows a centre.
//!
//! Update rule: one thread takes whatever waits, up to [`GROUP_BYTES_MAX`], and commits it with one fsync; the next group begins as soon
//! as that ends, or a moment later where many wait. Where nobody waits for durability, a group stays open for [`LINGER`], so that a trickle of changes does not
//! cost an fsync each. A commit that fails closes the log for good: nobody is told that something is durable that is not.
//!
//! Changes for which somebody waits, and that come with nothing else, go into the [journal](super::journal), and from
//! there into the log's tables: once it is full, before anything else is written, once nothing came for [`LINGER`],
//! before anybody reads, and at the end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::sync::Origin;
use selvedge_core::view::Cursor;
use tokio::sync::oneshot;

use super::journal::{self, Appends, Journal};
use super::queue::Queue;
use super::segments::Segments;
use super::{META, for_entries, keep, open, read_meta, read_trimmed, store};
use crate::central::{BLOB_BYTES_MAX, NOTE_BYTES_MAX, bounded};
use crate::{Barrier, Committed, LocalEntry, LogError};

/// Bytes of one commit, about.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// How long a group for which nobody waits stays open, and how long the journal is left as it is where nothing comes.
const LINGER: Duration = Duration::from_millis(50);
/// Bytes of entries after which a segment is closed, unless told otherwise.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// redb's page cache. Appends touch few pages, and reads go from old to new once.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// What the keys of notes begin with.
const NOTE: &str = "note:";

/// Told of each commit, in order, on the writing thread, which reads wait for: so it must not read the log.
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
    /// Whether something durable is not in the tables yet. Set before anybody is told that it is durable.
    unsettled: Arc<AtomicBool>,
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
    /// Of a reader, who may be a task: it waits on a channel that blocks anywhere, and never for long.
    Settle(mpsc::Sender<Result<(), LogError>>),
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
        Self::open_lingering(path, fresh_id, segment_bytes, LINGER, on_commit, on_failure)
    }

    pub(super) fn open_lingering(
        path: &Path,
        fresh_id: &str,
        segment_bytes: u64,
        linger: Duration,
        on_commit: OnCommit,
        on_failure: OnFailure,
    ) -> Result<Self, LogError> {
        let (database, id) = open(path, fresh_id, CACHE_BYTES, segment_bytes)?;
        let database = Arc::new(database);
        let read = database.begin_read().map_err(store)?;
        let segments = Segments::load(&read, segment_bytes)?;
        let live_bytes = Arc::new(AtomicU64::new(segments.live_bytes(&read)?));
        drop(read);
        let failed = Arc::new(OnceLock::new());
        let unsettled = Arc::new(AtomicBool::new(false));
        let queue = Arc::new(Queue::new(linger, GROUP_BYTES_MAX));
        let writer = Writer {
            queue: Arc::clone(&queue),
            segments,
            journal: Journal::default(),
            database: Arc::clone(&database),
            failed: Arc::clone(&failed),
            live_bytes: Arc::clone(&live_bytes),
            unsettled: Arc::clone(&unsettled),
            on_commit,
            on_failure: Some(on_failure),
        };
        let writer = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run())
            .map_err(|error| LogError::Store(error.to_string()))?;
        Ok(Self { database, path: path.to_owned(), id, queue, writer: Some(writer), failed, live_bytes, unsettled })
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

    /// Sees every entry that is durable. Waits for the writing thread where some are not in the tables yet.
    fn begin_read(&self) -> Result<ReadTransaction, LogError> {
        if self.unsettled.load(Ordering::Acquire) {
            let (done, settled) = mpsc::channel();
            self.queue.push(Request::Settle(done), 0, true).map_err(|_| LogError::Closed)?;
            settled.recv().unwrap_or(Err(LogError::Closed))?;
        }
        self.database.begin_read().map_err(store)
    }

    /// The last durable entry of each data shard, by position. Not for whoever is told of commits.
    pub fn heads(&self) -> Result<Vec<Cursor>, LogError> {
        let read = self.begin_read()?;
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
    /// trimmed is passed over. Not for whoever is told of commits.
    pub fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Vec<LocalEntry>, LogError> {
        let read = self.begin_read()?;
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
    /// Commits what waits, settles the journal, then ends the writing thread.
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
    /// Where the tables stand; the journal knows by how much it is ahead.
    segments: Segments,
    journal: Journal,
    failed: Arc<OnceLock<LogError>>,
    live_bytes: Arc<AtomicU64>,
    unsettled: Arc<AtomicBool>,
    on_commit: OnCommit,
    on_failure: Option<OnFailure>,
}

/// What one commit takes in, and who waits for it.
#[derive(Default)]
struct Group {
    appends: Appends,
    trims: Vec<(u16, u64)>,
    erasures: Vec<(u16, Replacements)>,
    notes: Vec<Noted>,
    waiters: Vec<oneshot::Sender<Result<(), LogError>>>,
    readers: Vec<mpsc::Sender<Result<(), LogError>>>,
}

impl Group {
    fn of(requests: Vec<Request>) -> Self {
        let mut group = Self::default();
        for request in requests {
            match request {
                Request::Append(together, notes) => {
                    group.notes.extend(notes);
                    for (shard, changes) in together {
                        group.appends.entry(shard).or_default().extend(changes);
                    }
                }
                Request::Barrier(done) => group.waiters.push(done),
                Request::Trim(up_to, done) => {
                    group.trims.extend(up_to);
                    group.waiters.push(done);
                }
                Request::Erase(shard, replacements, done) => {
                    group.erasures.push((shard, replacements));
                    group.waiters.push(done);
                }
                Request::Settle(done) => group.readers.push(done),
            }
        }
        group
    }

    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.only_appends()
    }

    fn only_appends(&self) -> bool {
        self.trims.is_empty() && self.erasures.is_empty() && self.notes.is_empty()
    }

    /// Whether it goes into the journal.
    fn is_journalled(&self) -> bool {
        !self.waiters.is_empty() && self.readers.is_empty() && self.only_appends() && journal::takes(&self.appends)
    }

    /// Whether all that is to be done is to settle: for readers, or because nothing came.
    fn only_settles(&self) -> bool {
        self.is_empty() && (self.waiters.is_empty() || !self.readers.is_empty())
    }

    fn answer(self, outcome: &Result<(), LogError>) {
        // Whoever waited may have gone.
        self.waiters.into_iter().for_each(|done| _ = done.send(outcome.clone()));
        self.readers.into_iter().for_each(|done| _ = done.send(outcome.clone()));
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
        while let Some(requests) = self.queue.take(self.has_to_settle()) {
            let mut group = Group::of(requests);
            let outcome = self.serve(&mut group);
            self.fail_with(&outcome);
            group.answer(&outcome);
            if self.journal.is_full() && self.has_to_settle() {
                let outcome = self.settle(Durability::None);
                self.fail_with(&outcome);
            }
        }
        if self.has_to_settle() {
            let outcome = self.settle(Durability::Immediate);
            self.fail_with(&outcome);
        }
    }

    /// Whether something is to be settled, and can be.
    fn has_to_settle(&self) -> bool {
        !self.journal.is_empty() && self.failed.get().is_none()
    }

    /// Closes the log where something failed.
    fn fail_with(&mut self, outcome: &Result<(), LogError>) {
        if let Err(error) = outcome {
            let _ = self.failed.set(error.clone());
            if let Some(on_failure) = self.on_failure.take() {
                on_failure(error.clone());
            }
        }
    }

    fn serve(&mut self, group: &mut Group) -> Result<(), LogError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None if group.only_settles() => self.settle(Durability::None),
            None if group.is_empty() => Ok(()),
            None if group.is_journalled() => self.journal(std::mem::take(&mut group.appends)),
            None => self.commit(group),
        }
    }

    /// Settles, and nothing else. What is settled is durable in the journal, so this itself need not be: a crash that
    /// undoes it brings back the rows.
    fn settle(&mut self, durability: Durability) -> Result<(), LogError> {
        if self.journal.is_empty() {
            return Ok(());
        }
        let mut write = self.database.begin_write().map_err(store)?;
        write.set_durability(durability).map_err(store)?;
        self.journal.settle(&write, &mut self.segments)?;
        write.commit().map_err(store)?;
        self.unsettled.store(false, Ordering::Release);
        Ok(())
    }

    fn journal(&mut self, appends: Appends) -> Result<(), LogError> {
        let write = self.database.begin_write().map_err(store)?;
        let committed = self.journal.write(&write, &self.segments, appends)?;
        write.commit().map_err(store)?;
        self.unsettled.store(true, Ordering::Release);
        (self.on_commit)(&committed);
        Ok(())
    }

    fn commit(&mut self, group: &Group) -> Result<(), LogError> {
        let write = self.database.begin_write().map_err(store)?;
        // First: what follows goes by the tables, and comes behind.
        self.journal.settle(&write, &mut self.segments)?;
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
        self.unsettled.store(false, Ordering::Release);
        self.live_bytes.fetch_sub(gone, Ordering::Relaxed);
        if !committed.is_empty() {
            (self.on_commit)(&committed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;
