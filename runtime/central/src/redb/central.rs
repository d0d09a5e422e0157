//! The centre's log in one redb file.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use selvedge_core::change::Digest;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Head, Origin, Pushed};
use selvedge_core::view::Cursor;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::writer::{Request, Shared, WATERMARKS, Writer, push_bytes};
use super::{backup, for_entries, keep, open, read_trimmed, store};
use crate::LogError;
use crate::central::{
    BLOB_BYTES_MAX, CHANGE_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, CentralLog, NOTE_BYTES_MAX, Progress, Read,
    SealedPush, SnapshotId, SnapshotManifest, StablePolicy, bounded, known,
};
use crate::tail;

/// Requests that wait for the writer at most; whoever comes then waits to get in.
const QUEUE_MAX: usize = 1_024;
/// KiB of changes that wait for the writer at most.
const QUEUE_KIB_MAX: usize = 64 * 1024;

/// Reads the digest of a change that is in the log already.
pub type DigestOf = Arc<dyn Fn(ShardId, &[u8]) -> Result<Digest, String> + Send + Sync>;

/// How a log is opened.
#[derive(Clone)]
pub struct CentralOptions {
    /// Names a new log.
    pub fresh_id: String,
    /// What is called stable.
    pub stable: StablePolicy,
    /// Reads digests: of entries that were appended by an edge with its embedded centre, and of the newest after a start.
    pub digest_of: DigestOf,
    /// Bytes of redb's page cache.
    pub cache_bytes: usize,
    /// Bytes of the newest entries that are held in memory.
    pub tail_bytes: usize,
    /// Bytes of entries after which a segment is closed.
    pub segment_bytes: u64,
    /// Ids that are held in memory before they are written out, about 64 bytes each.
    pub ids_max: usize,
}

impl CentralOptions {
    /// The usual sizes.
    pub fn new(fresh_id: impl Into<String>, digest_of: DigestOf) -> Self {
        Self {
            fresh_id: fresh_id.into(),
            stable: StablePolicy::Commit,
            digest_of,
            cache_bytes: 64 * 1024 * 1024,
            tail_bytes: 16 * 1024 * 1024,
            segment_bytes: 64 * 1024 * 1024,
            ids_max: 32 * 1024,
        }
    }
}

/// The centre's log in one redb file, which one process has open.
pub struct RedbCentral {
    id: String,
    database: Arc<Database>,
    shared: Arc<Shared>,
    policy: StablePolicy,
    queue: Option<mpsc::Sender<Request>>,
    room: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

impl RedbCentral {
    /// Opens or creates the log in a file. One that an edge with its embedded centre has written is read through once; a backup that is opened
    /// begins another epoch. Blocks.
    pub fn open(path: &Path, options: &CentralOptions) -> Result<Self, LogError> {
        let (database, id) = open(path, &options.fresh_id, options.cache_bytes, options.segment_bytes)?;
        let database = Arc::new(database);
        let mut writer = Writer::load(
            Arc::clone(&database),
            options.segment_bytes,
            options.tail_bytes,
            options.stable,
            options.ids_max,
            &options.digest_of,
        )?;
        if backup::is_backup(&database)? {
            writer.bump_epoch()?;
            backup::adopt(&database)?;
        }
        let shared = Arc::clone(&writer.shared);
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("central-log".into())
            .spawn(move || writer.run(requests))
            .map_err(|error| LogError::Store(error.to_string()))?;
        Ok(Self {
            id,
            database,
            shared,
            policy: options.stable,
            queue: Some(queue),
            room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
            writer: Some(thread),
        })
    }

    async fn send(&self, request: Request) -> Result<(), LogError> {
        if let Some(error) = self.shared.failed.get() {
            return Err(error.clone());
        }
        self.queue.as_ref().ok_or(LogError::Closed)?.send(request).await.map_err(|_| LogError::Closed)
    }

    /// Runs something on the writing thread, between two commits.
    async fn command<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Writer) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let (done, waiter) = oneshot::channel();
        let command = move |writer: &mut Writer| {
            let outcome = writer.alive().and_then(|()| run(writer));
            if let Err(error @ LogError::Store(_)) = &outcome {
                writer.fail(error);
            }
            // Whoever waited may have gone.
            let _ = done.send(outcome);
        };
        self.send(Request::Command(Box::new(command))).await?;
        waiter.await.unwrap_or(Err(LogError::Closed))
    }

    /// Writes rows within one durable transaction.
    async fn write<T: Send + 'static>(
        &self,
        run: impl FnOnce(&WriteTransaction, &Writer) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        self.command(move |writer| {
            let write = writer.database.begin_write().map_err(store)?;
            let outcome = run(&write, writer)?;
            write.commit().map_err(store)?;
            Ok(outcome)
        })
        .await
    }

    /// Reads rows on a thread that may block.
    async fn look<T: Send + 'static>(
        &self,
        run: impl FnOnce(&ReadTransaction) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let database = Arc::clone(&self.database);
        let read = move || run(&database.begin_read().map_err(store)?);
        tokio::task::spawn_blocking(read).await.unwrap_or(Err(LogError::Closed))
    }
}

impl Drop for RedbCentral {
    /// Commits what waits, then ends the writing thread.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed every waiter.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl CentralLog for RedbCentral {
    fn id(&self) -> &str {
        &self.id
    }

    async fn heads(&self) -> Result<Vec<Head>, LogError> {
        Ok(self.shared.heads.borrow().clone())
    }

    async fn append(&self, pushes: Vec<SealedPush>) -> Result<Vec<Pushed>, LogError> {
        let bytes: usize = pushes.iter().map(push_bytes).sum();
        let kib = u32::try_from((bytes / 1024).clamp(1, QUEUE_KIB_MAX)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| LogError::Closed)?;
        let (done, waiter) = oneshot::channel();
        self.send(Request::Append(pushes, done, permit)).await?;
        waiter.await.unwrap_or(Err(LogError::Closed))
    }

    async fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Read, LogError> {
        let index = known(shard)?;
        // The tail is told before the heads are, and both after the commit.
        let head = self.shared.heads.borrow()[index];
        if after.saturating_add(1) < head.first {
            return Ok(Read::Trimmed { first: head.first });
        }
        if after >= head.seq {
            return Ok(Read::Entries { epoch: head.epoch, entries: Vec::new() });
        }
        let held = self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner).read(shard, after, bytes_max);
        if let Some(entries) = held {
            return Ok(Read::Entries { epoch: head.epoch, entries });
        }
        self.look(move |read| {
            let trimmed = read_trimmed(read, shard.0)?;
            if after < trimmed {
                return Ok(Read::Trimmed { first: trimmed + 1 });
            }
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for_entries(read, shard.0, after, |seq, origin, number, change| {
                bytes += change.len();
                entries.push(Entry { seq, origin, number, bytes: Arc::from(change) });
                Ok(bytes < bytes_max)
            })?;
            Ok(Read::Entries { epoch: head.epoch, entries })
        })
        .await
    }

    async fn wait_head(&self, seen: &[(ShardId, Cursor)]) -> Result<Vec<Head>, LogError> {
        tail::wait_moved(self.shared.heads.subscribe(), seen).await.ok_or(LogError::Closed)
    }

    async fn watermark(&self, shard: ShardId, origin: Origin) -> Result<u64, LogError> {
        self.look(move |read| {
            let table = read.open_table(WATERMARKS).map_err(store)?;
            Ok(table.get((shard.0, origin.0)).map_err(store)?.map_or(0, |number| number.value()))
        })
        .await
    }

    async fn put_chunk(&self, id: SnapshotId, index: u32, bytes: Vec<u8>) -> Result<(), LogError> {
        known(id.shard)?;
        bounded("the chunk's index", usize::try_from(index).unwrap_or(usize::MAX), CHUNKS_MAX - 1)?;
        bounded("the chunk", bytes.len(), CHUNK_BYTES_MAX)?;
        self.command(move |writer| {
            let mut write = writer.database.begin_write().map_err(store)?;
            // The manifest's commit makes it durable.
            write.set_durability(Durability::None).map_err(store)?;
            keep::put_chunk(&write, id, index, &bytes)?;
            write.commit().map_err(store)
        })
        .await
    }

    async fn put_snapshot(&self, manifest: SnapshotManifest) -> Result<(), LogError> {
        known(manifest.id.shard)?;
        self.write(move |write, writer| keep::put_snapshot(write, &manifest, writer.cursor(manifest.id.shard))).await
    }

    async fn snapshot(&self, shard: ShardId) -> Result<Option<SnapshotManifest>, LogError> {
        self.look(move |read| keep::newest(read, shard)).await
    }

    async fn chunk(&self, id: SnapshotId, index: u32) -> Result<Option<Vec<u8>>, LogError> {
        self.look(move |read| keep::chunk(read, id, index)).await
    }

    async fn drop_older_snapshots(&self, shard: ShardId) -> Result<(), LogError> {
        known(shard)?;
        self.write(move |write, _| keep::drop_older(write, shard)).await
    }

    async fn trim(&self, shard: ShardId, up_to: u64) -> Result<u64, LogError> {
        known(shard)?;
        self.command(move |writer| writer.trim(shard, up_to)).await
    }

    async fn bump_epoch(&self) -> Result<u32, LogError> {
        self.command(Writer::bump_epoch).await
    }

    async fn erase(&self, shard: ShardId, replacements: Vec<(u64, Vec<u8>)>) -> Result<u64, LogError> {
        known(shard)?;
        for (_, bytes) in &replacements {
            bounded("a change", bytes.len(), CHANGE_BYTES_MAX)?;
        }
        self.command(move |writer| writer.erase(shard, &replacements)).await
    }

    async fn put_blob(&self, sha256: [u8; 32], bytes: Vec<u8>) -> Result<(), LogError> {
        bounded("the blob", bytes.len(), BLOB_BYTES_MAX)?;
        self.write(move |write, _| keep::put_blob(write, sha256, &bytes)).await
    }

    async fn blob(&self, sha256: [u8; 32]) -> Result<Option<Vec<u8>>, LogError> {
        self.look(move |read| keep::blob(read, sha256)).await
    }

    async fn put_note(&self, name: &str, bytes: Vec<u8>) -> Result<(), LogError> {
        bounded("the note", name.len() + bytes.len(), NOTE_BYTES_MAX)?;
        let name = name.to_owned();
        self.write(move |write, _| keep::put_note(write, &name, &bytes)).await
    }

    async fn remove_note(&self, name: &str) -> Result<(), LogError> {
        let name = name.to_owned();
        self.write(move |write, _| keep::remove_note(write, &name)).await
    }

    async fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        let name = name.to_owned();
        self.look(move |read| keep::note(read, &name)).await
    }

    async fn notes(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let prefix = prefix.to_owned();
        self.look(move |read| keep::notes(read, &prefix)).await
    }

    async fn set_stable(&self, heads: &[(ShardId, u64)]) -> Result<(), LogError> {
        for (shard, _) in heads {
            known(*shard)?;
        }
        let heads = heads.to_vec();
        self.command(move |writer| writer.set_stable(&heads)).await
    }

    async fn backup(
        &self,
        to: &Path,
        mut progress: Box<dyn FnMut(Progress) + Send>,
    ) -> Result<Vec<(ShardId, Cursor)>, LogError> {
        let to = to.to_owned();
        // What was put without durability is made durable before it is copied, so that the copy is never ahead of the log.
        self.write(|_, _| Ok(())).await?;
        let heads = self.look(move |read| backup::copy(read, &to, &mut progress)).await?;
        if self.policy == StablePolicy::Backup {
            let stable: Vec<_> = heads.iter().map(|(shard, cursor)| (*shard, cursor.seq)).collect();
            self.set_stable(&stable).await?;
        }
        Ok(heads)
    }
}
