//! The centre's log in PostgreSQL, or in a database that speaks its wire protocol.
//!
//! Several processes may serve one database. The SQL is portable: no advisory locks, no `LISTEN`, no sequences. Order comes from the lock on a
//! shard's row ([`append`]); what other processes append is seen by looking, every [`PostgresOptions::poll`] while someone waits.

mod append;
mod connect;
mod keep;
mod schema;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::Pool;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Head, Origin, Pushed};
use selvedge_core::view::Cursor;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use self::append::column;
use self::connect::{client, failure};
use crate::LogError;
use crate::central::{
    BLOB_BYTES_MAX, CHANGE_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, CentralLog, LOGS, NOTE_BYTES_MAX, NOTES_MAX,
    Progress, Read, SealedPush, SnapshotId, SnapshotManifest, StablePolicy, bounded, known,
};
use crate::tail::{self, Tail};

/// How long one operation may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// KiB of changes that wait for a transaction at most.
const QUEUE_KIB_MAX: usize = 64 * 1024;
/// Requests that wait for a transaction at most.
const QUEUE_MAX: usize = 1_024;
/// Entries of one read at most.
const READ_ENTRIES_MAX: i64 = 8_192;
/// Rows that one statement of a trim deletes.
const TRIM_ROWS: i64 = 10_000;
/// The tail in memory is served while a look at the database is not older than this: another process may have erased what it holds.
const TAIL_FRESH: Duration = Duration::from_millis(100);
/// How long the looking pauses after a failure.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// How a database is used.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`, with `sslmode=disable|require|verify-full` and `sslrootcert=FILE`. Without `sslmode`, a
    /// database on this machine is spoken to in the clear and any other must prove its name.
    pub address: String,
    /// Names a new log.
    pub fresh_id: String,
    /// What is called stable. With a standby that follows asynchronously, [`StablePolicy::Backup`] is the one that loses nothing.
    pub stable: StablePolicy,
    /// Connections at most.
    pub connections: usize,
    /// How often other processes' appends are looked for while someone waits.
    pub poll: Duration,
    /// Bytes of this process's newest entries that are held in memory.
    pub tail_bytes: usize,
}

impl PostgresOptions {
    /// The usual sizes.
    pub fn new(address: impl Into<String>, fresh_id: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            fresh_id: fresh_id.into(),
            stable: StablePolicy::Commit,
            connections: 16,
            poll: Duration::from_millis(5),
            tail_bytes: 16 * 1024 * 1024,
        }
    }
}

/// The centre's log in a database.
pub struct PostgresCentral {
    id: String,
    pool: Pool,
    shared: Arc<Shared>,
    queue: mpsc::Sender<append::Request>,
    room: Arc<Semaphore>,
    poller: AbortHandle,
}

/// What the tasks and the callers share.
struct Shared {
    policy: StablePolicy,
    heads: watch::Sender<Vec<Head>>,
    tail: Mutex<Tail>,
    /// Who waits for heads.
    waiting: AtomicUsize,
    wake: Notify,
    /// Milliseconds from `opened` to the start of the last look that came back.
    looked: AtomicU64,
    opened: Instant,
    /// What was erased so far, by shard.
    rewritten: Mutex<Vec<i64>>,
}

impl Shared {
    /// Takes in what this process committed.
    fn committed(&self, taken: BTreeMap<u16, Vec<Entry>>, moved: &BTreeMap<u16, (u32, u64, u64)>) {
        {
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            for (shard, entries) in taken {
                tail.take(ShardId(shard), entries);
            }
        }
        self.heads.send_modify(|heads| {
            for (shard, (epoch, seq, checksum)) in moved {
                if let Some(head) = heads.get_mut(usize::from(*shard))
                    && (*epoch, *seq) > (head.epoch, head.seq)
                {
                    let stable = if self.policy == StablePolicy::Commit { *seq } else { head.stable };
                    *head = Head { epoch: *epoch, seq: *seq, checksum: *checksum, stable, first: head.first };
                }
            }
        });
    }

    /// Takes in what a look at the database found; never goes back behind what is known already.
    fn saw(&self, at: Instant, rows: &[Row]) -> Vec<Head> {
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let index = usize::try_from(row.get::<_, i32>(0)).unwrap_or(usize::MAX);
            let seq = unsigned(row.get(2));
            let stable = if self.policy == StablePolicy::Commit { seq } else { unsigned(row.get(4)) };
            let head = Head {
                epoch: u32::try_from(row.get::<_, i64>(1)).unwrap_or(0),
                seq,
                first: unsigned(row.get(3)) + 1,
                stable,
                checksum: row.get::<_, i64>(5).cast_unsigned(),
            };
            found.push((index, head, row.get::<_, i64>(6)));
        }
        {
            let mut known = self.rewritten.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, _, rewritten) in &found {
                if let (Some(known), Ok(shard)) = (known.get_mut(*index), u16::try_from(*index))
                    && *rewritten > *known
                {
                    *known = *rewritten;
                    tail.forget(ShardId(shard));
                }
            }
        }
        let since = u64::try_from(at.duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.looked.fetch_max(since, Ordering::Relaxed);
        self.heads.send_if_modified(|heads| {
            let mut modified = false;
            for (index, head, _) in found {
                let Some(known) = heads.get_mut(index) else { continue };
                let before = *known;
                if (head.epoch, head.seq) > (known.epoch, known.seq) {
                    *known = head;
                }
                known.first = before.first.max(head.first);
                known.stable = before.stable.max(head.stable);
                modified |= *known != before;
            }
            modified
        });
        self.heads.borrow().clone()
    }

    fn tail_is_fresh(&self) -> bool {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        u128::from(now.saturating_sub(self.looked.load(Ordering::Relaxed))) < TAIL_FRESH.as_millis()
    }
}

/// Counts whoever waits, so that nobody looks where nobody does.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        shared.wake.notify_one();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A number that the tables hold signed.
fn unsigned(number: i64) -> u64 {
    number.max(0).unsigned_abs()
}

/// A number for the tables; what is beyond them is the largest.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const HEADS: &str =
    "SELECT shard, epoch, head, trimmed, stable, checksum, rewritten FROM selvedge_shard ORDER BY shard";

async fn look(pool: &Pool, shared: &Shared) -> Result<Vec<Head>, LogError> {
    let at = Instant::now();
    let rows = rows(pool, HEADS, &[]).await?;
    Ok(shared.saw(at, &rows))
}

async fn poll(pool: Pool, shared: Arc<Shared>, every: Duration) {
    loop {
        while shared.waiting.load(Ordering::SeqCst) == 0 {
            shared.wake.notified().await;
        }
        let pause = match look(&pool, &shared).await {
            Ok(_) => every,
            Err(error) => {
                tracing::warn!(%error, "cannot look for new changes");
                POLL_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Runs a statement that may be run twice: where the connection turns out to be dead, once more on another.
async fn rows(pool: &Pool, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, LogError> {
    let once = || async {
        let client = client(pool).await?;
        let statement = client.prepare_cached(sql).await.map_err(|error| failure(&error))?;
        client.query(&statement, parameters).await.map_err(|error| failure(&error))
    };
    let tried = async {
        match once().await {
            Err(LogError::Unavailable(_)) => once().await,
            other => other,
        }
    };
    tokio::time::timeout(TIMEOUT, tried).await.map_err(|_| LogError::Unavailable("no answer in time".into()))?
}

impl PostgresCentral {
    /// Opens the log in a database, and makes its tables if they are missing or older.
    pub async fn open(options: &PostgresOptions) -> Result<Self, LogError> {
        let pool = connect::pool(&options.address, options.connections)?;
        let mut first = client(&pool).await?;
        // Where the database does not know the setting, it does not have the weakness.
        if let Ok(row) = first.query_one("SHOW synchronous_commit", &[]).await
            && row.try_get::<_, String>(0).is_ok_and(|value| value == "off")
        {
            return Err(LogError::Configuration(
                "the database acknowledges before it is durable; set synchronous_commit to on".into(),
            ));
        }
        let id = schema::prepare(&mut first, &options.fresh_id).await?;
        drop(first);
        let shared = Arc::new(Shared {
            policy: options.stable,
            heads: watch::Sender::new(vec![Head::default(); usize::from(LOGS)]),
            tail: Mutex::new(Tail::new(options.tail_bytes)),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
            looked: AtomicU64::new(0),
            opened: Instant::now(),
            rewritten: Mutex::new(vec![0; usize::from(LOGS)]),
        });
        look(&pool, &shared).await?;
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(append::run(pool.clone(), Arc::clone(&shared), requests));
        let poller = tokio::spawn(poll(pool.clone(), Arc::clone(&shared), options.poll)).abort_handle();
        Ok(Self { id, pool, shared, queue, room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)), poller })
    }

    async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, LogError> {
        rows(&self.pool, sql, parameters).await
    }
}

impl Drop for PostgresCentral {
    /// Stops looking. What was sent is still committed.
    fn drop(&mut self) {
        self.poller.abort();
    }
}

const READ: &str = "SELECT seq, origin, number, change FROM (
        SELECT *, sum(octet_length(change)) OVER (ORDER BY seq) - octet_length(change) AS before
        FROM (SELECT * FROM selvedge_log WHERE shard = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS next
    ) AS sized WHERE before < $4 ORDER BY seq";

#[async_trait]
impl CentralLog for PostgresCentral {
    fn id(&self) -> &str {
        &self.id
    }

    async fn heads(&self) -> Result<Vec<Head>, LogError> {
        look(&self.pool, &self.shared).await
    }

    async fn append(&self, pushes: Vec<SealedPush>) -> Result<Vec<Pushed>, LogError> {
        let bytes: usize = pushes.iter().flat_map(|sealed| &sealed.push.changes).map(|change| change.len()).sum();
        let kib = u32::try_from((bytes / 1024).clamp(1, QUEUE_KIB_MAX)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| LogError::Closed)?;
        let (done, waiter) = oneshot::channel();
        self.queue.send((pushes, done, permit)).await.map_err(|_| LogError::Closed)?;
        waiter.await.unwrap_or(Err(LogError::Closed))
    }

    async fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Read, LogError> {
        let head = self.shared.heads.borrow()[known(shard)?];
        if after < head.seq && self.shared.tail_is_fresh() {
            let held = self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner).read(shard, after, bytes_max);
            if let Some(entries) = held.filter(|entries| !entries.is_empty()) {
                return Ok(Read::Entries { epoch: head.epoch, entries });
            }
        }
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX).max(1);
        let found = self.rows(READ, &[&column(shard), &signed(after), &READ_ENTRIES_MAX, &bytes_max]).await?;
        // Looked at after the entries: what was trimmed before they were read shows here.
        let row = self.rows("SELECT epoch, trimmed FROM selvedge_shard WHERE shard = $1", &[&column(shard)]).await?;
        let row = row.first().ok_or_else(|| LogError::Store(format!("the database has no shard {}", shard.0)))?;
        let trimmed = unsigned(row.get(1));
        if after < trimmed {
            return Ok(Read::Trimmed { first: trimmed + 1 });
        }
        let entries = found
            .iter()
            .map(|row| Entry {
                seq: unsigned(row.get(0)),
                origin: Origin(row.get::<_, i64>(1).cast_unsigned()),
                number: unsigned(row.get(2)),
                bytes: Arc::from(row.get::<_, &[u8]>(3)),
            })
            .collect();
        Ok(Read::Entries { epoch: u32::try_from(row.get::<_, i64>(0)).unwrap_or(0), entries })
    }

    async fn wait_head(&self, seen: &[(ShardId, Cursor)]) -> Result<Vec<Head>, LogError> {
        let _waiting = Waiting::new(&self.shared);
        tail::wait_moved(self.shared.heads.subscribe(), seen).await.ok_or(LogError::Closed)
    }

    async fn watermark(&self, shard: ShardId, origin: Origin) -> Result<u64, LogError> {
        let sql = "SELECT number FROM selvedge_watermark WHERE shard = $1 AND origin = $2";
        let rows = self.rows(sql, &[&column(shard), &origin.0.cast_signed()]).await?;
        Ok(rows.first().map_or(0, |row| unsigned(row.get(0))))
    }

    async fn put_chunk(&self, id: SnapshotId, index: u32, bytes: Vec<u8>) -> Result<(), LogError> {
        known(id.shard)?;
        bounded("the chunk's index", usize::try_from(index).unwrap_or(usize::MAX), CHUNKS_MAX - 1)?;
        bounded("the chunk", bytes.len(), CHUNK_BYTES_MAX)?;
        keep::put_chunk(&self.pool, id, index, &bytes).await
    }

    async fn put_snapshot(&self, manifest: SnapshotManifest) -> Result<(), LogError> {
        known(manifest.id.shard)?;
        keep::put_snapshot(&self.pool, &manifest).await
    }

    async fn snapshot(&self, shard: ShardId) -> Result<Option<SnapshotManifest>, LogError> {
        let rows =
            self.rows("SELECT manifest FROM selvedge_snapshot WHERE shard = $1 AND age = 0", &[&column(shard)]).await?;
        rows.first().map(|row| keep::decode(row.get(0))).transpose()
    }

    async fn chunk(&self, id: SnapshotId, index: u32) -> Result<Option<Vec<u8>>, LogError> {
        let Ok(index) = i32::try_from(index) else { return Ok(None) };
        let sql = "SELECT bytes FROM selvedge_chunk WHERE shard = $1 AND number = $2 AND chunk = $3";
        let rows = self.rows(sql, &[&column(id.shard), &id.number.cast_signed(), &index]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn drop_older_snapshots(&self, shard: ShardId) -> Result<(), LogError> {
        known(shard)?;
        keep::drop_older(&self.pool, shard).await
    }

    async fn trim(&self, shard: ShardId, up_to: u64) -> Result<u64, LogError> {
        known(shard)?;
        let held = self.snapshot(shard).await?.map_or(0, |manifest| manifest.seq);
        // First no reader is given them any more, then they go, without holding up whoever appends.
        let sql = "UPDATE selvedge_shard SET trimmed = $2 WHERE shard = $1 AND trimmed < $2";
        self.rows(sql, &[&column(shard), &signed(up_to.min(held))]).await?;
        self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner).forget(shard);
        let heads = self.heads().await?;
        let first = heads.get(usize::from(shard.0)).map_or(1, |head| head.first);
        loop {
            let lowest = self.rows("SELECT min(seq) FROM selvedge_log WHERE shard = $1", &[&column(shard)]).await?;
            let lowest = lowest.first().and_then(|row| row.get::<_, Option<i64>>(0));
            let Some(lowest) = lowest.filter(|lowest| *lowest < signed(first)) else { return Ok(first) };
            let below = signed(first).min(lowest.saturating_add(TRIM_ROWS));
            self.rows("DELETE FROM selvedge_log WHERE shard = $1 AND seq < $2", &[&column(shard), &below]).await?;
        }
    }

    async fn bump_epoch(&self) -> Result<u32, LogError> {
        let epoch = keep::bump_epoch(&self.pool).await?;
        self.heads().await?;
        Ok(epoch)
    }

    async fn erase(&self, shard: ShardId, replacements: Vec<(u64, Vec<u8>)>) -> Result<u64, LogError> {
        known(shard)?;
        for (_, bytes) in &replacements {
            bounded("a change", bytes.len(), CHANGE_BYTES_MAX)?;
        }
        let replaced = keep::erase(&self.pool, shard, &replacements).await?;
        self.heads().await?;
        Ok(replaced)
    }

    async fn put_blob(&self, sha256: [u8; 32], bytes: Vec<u8>) -> Result<(), LogError> {
        bounded("the blob", bytes.len(), BLOB_BYTES_MAX)?;
        keep::put_blob(&self.pool, sha256, &bytes).await
    }

    async fn blob(&self, sha256: [u8; 32]) -> Result<Option<Vec<u8>>, LogError> {
        let sql = "SELECT bytes FROM selvedge_blob WHERE sha256 = $1 ORDER BY piece";
        let rows = self.rows(sql, &[&sha256.as_slice()]).await?;
        Ok((!rows.is_empty()).then(|| rows.iter().flat_map(|row| row.get::<_, &[u8]>(0)).copied().collect()))
    }

    async fn put_note(&self, name: &str, bytes: Vec<u8>) -> Result<(), LogError> {
        bounded("the note", name.len() + bytes.len(), NOTE_BYTES_MAX)?;
        let sql = "INSERT INTO selvedge_note (name, value) VALUES ($1, $2) \
            ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value";
        self.rows(sql, &[&name, &bytes]).await.map(drop)
    }

    async fn remove_note(&self, name: &str) -> Result<(), LogError> {
        self.rows("DELETE FROM selvedge_note WHERE name = $1", &[&name]).await.map(drop)
    }

    async fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LogError> {
        let rows = self.rows("SELECT value FROM selvedge_note WHERE name = $1", &[&name]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn notes(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LogError> {
        let sql = "SELECT name, value FROM selvedge_note WHERE substr(name, 1, length($1::text)) = $1 LIMIT $2";
        let most = i64::try_from(NOTES_MAX).unwrap_or(i64::MAX);
        let rows = self.rows(sql, &[&prefix, &most]).await?;
        let mut notes: Vec<(String, Vec<u8>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        // By bytes, whatever the database's collation.
        notes.sort_unstable();
        Ok(notes)
    }

    async fn set_stable(&self, heads: &[(ShardId, u64)]) -> Result<(), LogError> {
        for (shard, _) in heads {
            known(*shard)?;
        }
        let shards: Vec<i32> = heads.iter().map(|(shard, _)| column(*shard)).collect();
        let up_to: Vec<i64> = heads.iter().map(|(_, seq)| signed(*seq)).collect();
        keep::set_stable(&self.pool, &shards, &up_to).await?;
        self.heads().await.map(drop)
    }

    async fn backup(&self, _: &Path, _: Box<dyn FnMut(Progress) + Send>) -> Result<Vec<(ShardId, Cursor)>, LogError> {
        Err(LogError::Unsupported(
            "a database is backed up by its own tools, such as pg_dump or pg_basebackup; after a restore, begin another epoch".into(),
        ))
    }
}
