//! The one thread that writes the centre's log.
//!
//! It takes the pushes that wait, up to [`GROUP_BYTES_MAX`], and commits them with one fsync; the next group begins as soon as that ends. Everything
//! else that writes is a command between two groups. A commit that fails closes the log for good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Head, Origin, Pushed, mix};
use selvedge_core::view::Cursor;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::central::DigestOf;
use super::ids::Ids;
use super::segments::Segments;
use super::{for_entries, keep, store};
use crate::LogError;
use crate::central::{Gap, LOGS, SealedPush, StablePolicy, Standing, judge, next_epoch, refuse};
use crate::tail::Tail;

/// Bytes of one commit, about.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Watermarks that are kept in memory.
const WATERMARKS_MAX: usize = 65_536;

/// By shard: the checksum, the sequence up to which it goes, and what is stable.
pub(super) const SUMS: TableDefinition<u16, (u64, u64, u64)> = TableDefinition::new("sums");
pub(super) const WATERMARKS: TableDefinition<(u16, u64), u64> = TableDefinition::new("watermarks");

/// What the writer and its callers share.
pub(super) struct Shared {
    pub tail: Mutex<Tail>,
    pub heads: watch::Sender<Vec<Head>>,
    pub failed: OnceLock<LogError>,
}

/// What waits for the writer.
pub(super) enum Request {
    /// Pushes, with the permit for their bytes.
    Append(Vec<SealedPush>, oneshot::Sender<Result<Vec<Pushed>, LogError>>, OwnedSemaphorePermit),
    /// Anything else. It answers itself.
    Command(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// Pushes of one caller, and where the answer goes.
type Append = (Vec<SealedPush>, oneshot::Sender<Result<Vec<Pushed>, LogError>>);

#[derive(Clone, Copy, Default)]
struct Sum {
    checksum: u64,
    stable: u64,
}

/// The writing thread's own.
pub(super) struct Writer {
    pub database: Arc<Database>,
    pub segments: Segments,
    pub ids: Ids,
    pub policy: StablePolicy,
    pub shared: Arc<Shared>,
    sums: Vec<Sum>,
    watermarks: HashMap<(u16, u64), u64>,
}

impl Writer {
    /// Takes up where the file stands; what a process that appended alone has written is summed and its ids are noted.
    pub fn load(
        database: Arc<Database>,
        segment_bytes: u64,
        tail_bytes: usize,
        policy: StablePolicy,
        ids_max: usize,
        digest_of: &DigestOf,
    ) -> Result<Self, LogError> {
        let write = database.begin_write().map_err(store)?;
        write.open_table(SUMS).map_err(store)?;
        write.open_table(WATERMARKS).map_err(store)?;
        keep::create(&write)?;
        Ids::create(&write)?;
        write.commit().map_err(store)?;
        let read = database.begin_read().map_err(store)?;
        let segments = Segments::load(&read, segment_bytes)?;
        let (mut sums, mut summed) = (vec![Sum::default(); usize::from(LOGS)], vec![0; usize::from(LOGS)]);
        for row in read.open_table(SUMS).map_err(store)?.iter().map_err(store)? {
            let (shard, row) = row.map_err(store)?;
            let (checksum, up_to, stable) = row.value();
            let index = usize::from(shard.value());
            if index < sums.len() {
                (sums[index], summed[index]) = (Sum { checksum, stable }, up_to);
            }
        }
        let ids = Ids::load(&database, &segments, digest_of, ids_max)?;
        let shared = Shared {
            tail: Mutex::new(Tail::new(tail_bytes)),
            heads: watch::Sender::new(Vec::new()),
            failed: OnceLock::new(),
        };
        let mut writer =
            Self { database, segments, ids, policy, shared: Arc::new(shared), sums, watermarks: HashMap::new() };
        writer.sum_up(&summed, digest_of)?;
        let heads = writer.heads();
        writer.shared.heads.send_replace(heads);
        Ok(writer)
    }

    fn sum_up(&mut self, summed: &[u64], digest_of: &DigestOf) -> Result<(), LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let mut behind = Vec::new();
        for (shard, from) in (0..LOGS).zip(summed) {
            let index = usize::from(shard);
            if *from >= self.segments.heads[index].1 {
                continue;
            }
            if self.segments.trimmed[index] > *from {
                return Err(LogError::Configuration(format!(
                    "entries of shard {shard} are gone that no centre has seen; this file is an outbox, or was one"
                )));
            }
            for_entries(&read, shard, *from, |seq, _, _, change| {
                let digest =
                    digest_of(ShardId(shard), change).map_err(|reason| LogError::Entry { shard, seq, reason })?;
                self.sums[index].checksum = self.sums[index].checksum.wrapping_add(mix(seq, digest.envelope));
                Ok(true)
            })?;
            behind.push(shard);
        }
        if !behind.is_empty() {
            let write = self.database.begin_write().map_err(store)?;
            self.write_sums(&write, &behind)?;
            write.commit().map_err(store)?;
        }
        Ok(())
    }

    fn write_sums(&self, write: &WriteTransaction, shards: &[u16]) -> Result<(), LogError> {
        let mut table = write.open_table(SUMS).map_err(store)?;
        for shard in shards {
            let (sum, head) = (self.sums[usize::from(*shard)], self.segments.heads[usize::from(*shard)].1);
            table.insert(shard, (sum.checksum, head, sum.stable)).map_err(store)?;
        }
        Ok(())
    }

    /// Where a shard stands.
    pub fn cursor(&self, shard: ShardId) -> Cursor {
        let (epoch, seq) = self.segments.heads[usize::from(shard.0)];
        Cursor { epoch, seq }
    }

    fn head(&self, shard: u16) -> Head {
        let index = usize::from(shard);
        let ((epoch, seq), sum) = (self.segments.heads[index], self.sums[index]);
        Head {
            epoch,
            seq,
            first: self.segments.trimmed[index] + 1,
            stable: if self.policy == StablePolicy::Commit { seq } else { sum.stable },
            checksum: sum.checksum,
        }
    }

    fn heads(&self) -> Vec<Head> {
        (0..LOGS).map(|shard| self.head(shard)).collect()
    }

    /// Tells followers where all shards stand.
    fn publish(&self) {
        let heads = self.heads();
        self.shared.heads.send_replace(heads);
    }

    /// Serves requests until nobody can send any.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let (mut appends, mut permits, mut bytes) = (Vec::new(), Vec::new(), 0);
            let mut next = Some(first);
            let mut command = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Append(pushes, done, permit) => {
                        bytes += pushes.iter().map(push_bytes).sum::<usize>();
                        appends.push((pushes, done));
                        permits.push(permit);
                        if bytes < GROUP_BYTES_MAX {
                            next = requests.try_recv().ok();
                        }
                    }
                    Request::Command(run) => command = Some(run),
                }
            }
            if !appends.is_empty() {
                self.answer(appends);
            }
            if let Some(run) = command {
                run(&mut self);
            }
        }
    }

    /// Why nothing can be written any more.
    pub fn alive(&self) -> Result<(), LogError> {
        self.shared.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Closes the log: what memory says and what the file holds may differ.
    pub fn fail(&self, error: &LogError) {
        // The first failure is the one to tell.
        let _ = self.shared.failed.set(error.clone());
    }

    fn answer(&mut self, appends: Vec<Append>) {
        let (callers, waiting): (Vec<_>, Vec<_>) = appends.into_iter().unzip();
        let outcome = self.alive().and_then(|()| self.commit(&callers));
        match outcome {
            Ok(mut answers) => {
                for (pushes, done) in callers.iter().zip(waiting) {
                    let rest = answers.split_off(pushes.len());
                    // Whoever waited may have gone.
                    let _ = done.send(Ok(std::mem::replace(&mut answers, rest)));
                }
            }
            Err(error) => {
                self.fail(&error);
                for done in waiting {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }

    /// Commits what the callers push; one answer for each push, in order.
    fn commit(&mut self, callers: &[Vec<SealedPush>]) -> Result<Vec<Pushed>, LogError> {
        let write = self.database.begin_write().map_err(store)?;
        let (mut answers, mut gaps) = (Vec::new(), Vec::new());
        let mut taken: HashMap<u16, Vec<Entry>> = HashMap::new();
        let mut dirty = false;
        {
            let mut watermarks = write.open_table(WATERMARKS).map_err(store)?;
            let runs = self.ids.open(&self.database)?;
            let mut appender = self.segments.appender(&write)?;
            for sealed in callers.iter().flatten() {
                if let Some(answer) = refuse(sealed) {
                    answers.push(answer);
                    continue;
                }
                let push = &sealed.push;
                let (shard, origin) = (push.shard.0, push.origin);
                let counted = origin != Origin::CENTRE;
                let watermark = match self.watermarks.get(&(shard, origin.0)) {
                    _ if !counted => 0,
                    Some(watermark) => *watermark,
                    None => watermarks.get((shard, origin.0)).map_err(store)?.map_or(0, |number| number.value()),
                };
                let (epoch, head) = appender.head(shard);
                let standing = Standing { epoch, head, watermark };
                if let Some(answer) = judge(sealed, &standing) {
                    answers.push(answer);
                    continue;
                }
                let mut seqs = Vec::with_capacity(push.changes.len());
                for ((change, digest), index) in push.changes.iter().zip(&sealed.digests).zip(1..) {
                    if let Some(id) = digest.id
                        && let Some(seq) = self.ids.get(&runs, shard, &id)?
                    {
                        seqs.push(seq);
                        continue;
                    }
                    let number = if counted { push.predecessor + index } else { 0 };
                    let seq = appender.append(shard, origin, number, change)?;
                    if let Some(id) = digest.id {
                        self.ids.put(shard, id, seq);
                    }
                    let sum = &mut self.sums[usize::from(shard)].checksum;
                    *sum = sum.wrapping_add(mix(seq, digest.envelope));
                    taken.entry(shard).or_default().push(Entry { seq, origin, number, bytes: Arc::clone(change) });
                    seqs.push(seq);
                    dirty = true;
                }
                let last = push.predecessor + push.changes.len() as u64;
                if counted && last > watermark {
                    if push.predecessor > watermark {
                        gaps.push(Gap { shard: push.shard, origin, first: watermark + 1, last: push.predecessor });
                    }
                    watermarks.insert((shard, origin.0), last).map_err(store)?;
                    if self.watermarks.len() >= WATERMARKS_MAX {
                        self.watermarks.clear();
                    }
                    self.watermarks.insert((shard, origin.0), last);
                    dirty = true;
                }
                answers.push(Pushed::Taken { seqs });
            }
            drop(watermarks);
            let touched = appender.finish(&write)?;
            self.write_sums(&write, &touched)?;
        }
        if !gaps.is_empty() {
            keep::note_gaps(&write, &gaps)?;
        }
        if dirty {
            self.ids.before_commit(&self.database, &write, &self.segments)?;
            write.commit().map_err(store)?;
            {
                let mut tail = self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner);
                for (shard, entries) in taken {
                    tail.take(ShardId(shard), entries);
                }
            }
            self.publish();
        } else {
            write.abort().map_err(store)?;
        }
        Ok(answers)
    }

    /// Trims a shard; gives the first entry that is left.
    pub fn trim(&mut self, shard: ShardId, up_to: u64) -> Result<u64, LogError> {
        let read = self.database.begin_read().map_err(store)?;
        let held = keep::newest(&read, shard)?.map_or(0, |manifest| manifest.seq);
        drop(read);
        let write = self.database.begin_write().map_err(store)?;
        self.ids.settle(&write, &self.segments)?;
        self.segments.trim(&write, &[(shard.0, up_to.min(held))])?;
        write.commit().map_err(store)?;
        self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner).forget(shard);
        self.publish();
        Ok(self.segments.trimmed[usize::from(shard.0)] + 1)
    }

    /// Begins another epoch.
    pub fn bump_epoch(&mut self) -> Result<u32, LogError> {
        let epoch = next_epoch(self.segments.heads.iter().map(|head| head.0).max().unwrap_or(0));
        for head in &mut self.segments.heads {
            head.0 = epoch;
        }
        let write = self.database.begin_write().map_err(store)?;
        self.segments.write_heads(&write)?;
        keep::move_snapshots(&write, epoch)?;
        write.commit().map_err(store)?;
        self.publish();
        Ok(epoch)
    }

    /// Puts other bytes in place of entries' bytes.
    pub fn erase(&mut self, shard: ShardId, replacements: &[(u64, Vec<u8>)]) -> Result<u64, LogError> {
        let write = self.database.begin_write().map_err(store)?;
        let replaced = self.segments.replace(&write, shard.0, replacements)?;
        write.commit().map_err(store)?;
        self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner).forget(shard);
        Ok(replaced)
    }

    /// Moves up what is called stable.
    pub fn set_stable(&mut self, heads: &[(ShardId, u64)]) -> Result<(), LogError> {
        let mut moved = Vec::new();
        for (shard, up_to) in heads {
            let up_to = (*up_to).min(self.cursor(*shard).seq);
            let stable = &mut self.sums[usize::from(shard.0)].stable;
            if up_to > *stable {
                *stable = up_to;
                moved.push(shard.0);
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(store)?;
        self.write_sums(&write, &moved)?;
        write.commit().map_err(store)?;
        self.publish();
        Ok(())
    }
}

/// Bytes of a push's changes.
pub(super) fn push_bytes(sealed: &SealedPush) -> usize {
    sealed.push.changes.iter().map(|change| change.len()).sum()
}
