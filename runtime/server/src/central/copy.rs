//! The centre's own copy of the shards: it follows the log like an edge, answers nobody, and is what snapshots are made from. It can be thrown away and
//! made again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::{Mutex, RwLock};
use selvedge_central::{CONTROL, Read};
use selvedge_core::identity::{Namespaces, ShardId};
use selvedge_core::sync::{Entry, Head};
use selvedge_core::view::Cursor;
use selvedge_shard::{Observer, Ordered, Shards};

use super::{Centre, releases, snapshots};
use crate::backfill::{self, Backfill};
use crate::metrics::Metrics;
use crate::observer::PluginObserver;
use crate::release::Bundle;
use crate::serve::End;
use crate::sync::marks::{self, Marked};

/// Bytes of a shard's log that are folded at once.
const READ_BYTES: usize = 1024 * 1024;
/// Memory for profiles: nobody asks for them.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Threads that invoke plugins here.
const THREADS: usize = 4;
/// How long the copy waits after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// The copy, and what it is doing.
pub struct Copy {
    folder: PathBuf,
    /// Changes of a shard after which there is a new snapshot.
    snapshot_every: u64,
    metrics: Arc<Metrics>,
    shards: RwLock<Option<Arc<Shards>>>,
    /// Up to where each shard's newest snapshot goes, as far as it is known here.
    snapshots: Mutex<BTreeMap<ShardId, u64>>,
    /// It is to be made again from nothing.
    rebuild: Mutex<bool>,
    last_error: Mutex<Option<String>>,
    /// Held while a snapshot is made.
    pub snapshotting: tokio::sync::Mutex<()>,
}

impl Copy {
    /// Not opened yet.
    pub fn new(folder: PathBuf, snapshot_every: u64, metrics: Arc<Metrics>) -> Self {
        Self {
            folder,
            snapshot_every,
            metrics,
            shards: RwLock::default(),
            snapshots: Mutex::default(),
            rebuild: Mutex::default(),
            last_error: Mutex::default(),
            snapshotting: tokio::sync::Mutex::default(),
        }
    }

    /// The shards, while the copy is open.
    pub fn shards(&self) -> Option<Arc<Shards>> {
        self.shards.read().clone()
    }

    /// Where a shard's copy stands.
    pub fn cursor(&self, shard: ShardId) -> Option<Cursor> {
        self.shards.read().as_ref().map(|shards| shards.cursor(shard))
    }

    /// Why it does not go on.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Has it thrown away and made again from the newest snapshots and the log.
    pub fn rebuild(&self) {
        *self.rebuild.lock() = true;
    }

    /// A snapshot was made.
    pub fn note_snapshot(&self, shard: ShardId, seq: u64) {
        self.snapshots.lock().insert(shard, seq);
    }

    /// Hands everything to the disk.
    pub fn flush(&self) -> Result<()> {
        if let Some(shards) = self.shards.write().take() {
            shards.flush()?;
        }
        Ok(())
    }
}

/// Follows the log until the process ends. What goes wrong is tried again.
pub async fn run(centre: Arc<Centre>, end: Arc<End>) {
    loop {
        match follow(&centre).await {
            Ok(()) => *centre.copy.last_error.lock() = None,
            Err(error) => {
                tracing::error!("the centre's copy of the shards stands still: {error:#}");
                *centre.copy.last_error.lock() = Some(format!("{error:#}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
        *centre.copy.shards.write() = None;
        if std::mem::take(&mut *centre.copy.rebuild.lock()) {
            let folder = centre.copy.folder.clone();
            let removed = tokio::task::spawn_blocking(move || remove(&folder)).await;
            if let Err(error) = removed.map_err(anyhow::Error::from).flatten() {
                return end.fail(format!("{error:#}"));
            }
        }
    }
}

fn remove(folder: &std::path::Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Follows the log under the plugins of one release, until there are others or the copy is to be made again.
async fn follow(centre: &Arc<Centre>) -> Result<()> {
    let copy = &centre.copy;
    let program = centre.program_seq().await?;
    let released = centre.released().await?;
    let mut bundle = Bundle { release: released.release.clone(), components: BTreeMap::new() };
    releases::complete(&*centre.log, &mut bundle).await?;
    let (folder, cluster) = (copy.folder.clone(), centre.log.id().to_owned());
    let (metrics, catalogue) = (Arc::clone(&copy.metrics), Arc::clone(&centre.catalogue));
    let opened = tokio::task::spawn_blocking(move || -> Result<(Arc<Shards>, Backfill)> {
        let loaded = bundle.load(THREADS)?;
        catalogue.keep_plugins(&bundle.release, &loaded.plugins);
        let observer: Arc<dyn Observer> =
            Arc::new(PluginObserver::new(Arc::clone(&loaded.plugins), loaded.layout.clone(), metrics));
        let shards = Shards::open(&folder, &cluster, CACHE_BYTES, observer, Arc::new(Namespaces::default()))?;
        let backfill = Backfill::of(&loaded.plugins, &shards)?;
        Ok((Arc::new(shards), backfill))
    });
    let (shards, backfill) = opened.await??;
    *copy.shards.write() = Some(Arc::clone(&shards));
    let backfill = Arc::new(backfill);
    let spawn = || backfill::Thread::spawn(Arc::clone(&backfill), Arc::clone(&shards), Arc::clone(&copy.metrics), None);
    let mut backfilling = spawn()?;
    loop {
        match advance(centre, &shards, program).await? {
            // States of an older snapshot wait for their history.
            Paused::Loaded if shards.unsettled()? => {
                drop(backfilling);
                backfilling = spawn()?;
            }
            Paused::Loaded => {}
            Paused::Over => return Ok(()),
        }
    }
}

/// Why the copy pauses.
enum Paused {
    /// Shards were loaded from snapshots.
    Loaded,
    /// There is another release, or the copy is to be made again.
    Over,
}

async fn advance(centre: &Arc<Centre>, shards: &Arc<Shards>, release: u64) -> Result<Paused> {
    // What goes wrong in a shard holds up that one alone, for a while.
    let mut held_up: BTreeMap<ShardId, (Instant, String)> = BTreeMap::new();
    loop {
        let heads = centre.log.heads().await?;
        let control = heads.get(usize::from(CONTROL.0)).map_or(0, |head| head.seq);
        if (control > release && centre.program_seq().await? > release) || *centre.copy.rebuild.lock() {
            return Ok(Paused::Over);
        }
        let (mut behind, mut loaded) = (false, false);
        for shard in ShardId::all() {
            let Some(head) = heads.get(usize::from(shard.0)) else { continue };
            if held_up.get(&shard).is_some_and(|(since, _)| since.elapsed() < PAUSE) {
                continue;
            }
            match advance_one(centre, shards, shard, head).await {
                Ok(step) => {
                    held_up.remove(&shard);
                    behind |= step == Step::Behind;
                    loaded |= step == Step::Loaded;
                }
                Err(error) => {
                    let error = format!("shard {}: {error:#}", shard.0);
                    if held_up.get(&shard).is_none_or(|(_, before)| *before != error) {
                        tracing::error!("the centre's copy stands still in {error}");
                    }
                    held_up.insert(shard, (Instant::now(), error));
                }
            }
        }
        *centre.copy.last_error.lock() = held_up.values().next().map(|(_, error)| error.clone());
        if loaded {
            return Ok(Paused::Loaded);
        }
        if !behind {
            let seen: Vec<_> = heads
                .iter()
                .zip(0..)
                .map(|(head, shard)| (ShardId(shard), Cursor { epoch: head.epoch, seq: head.seq }))
                .collect();
            // Also now and then without a reason, for a rebuild that is wished for.
            let _ = tokio::time::timeout(Duration::from_secs(1), centre.log.wait_head(&seen)).await;
        }
    }
}

/// What became of a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is where its log was.
    There,
    /// There is more.
    Behind,
    /// It was loaded from a snapshot.
    Loaded,
}

async fn advance_one(centre: &Arc<Centre>, shards: &Arc<Shards>, shard: ShardId, head: &Head) -> Result<Step> {
    let cursor = shards.cursor(shard);
    if (cursor.epoch != head.epoch && cursor.seq > 0) || cursor.seq > head.seq || head.first > cursor.seq + 1 {
        snapshots::load(centre, shards, shard).await?;
        // Of what the copy was carried over.
        centre.erasures.refresh(&*centre.log, shard).await?;
        return Ok(Step::Loaded);
    }
    centre.erasures.work(centre, shards, shard).await?;
    if cursor.seq == head.seq {
        if shards.checksum(shard) == head.checksum {
            return Ok(Step::There);
        }
        tracing::error!(shard = shard.0, "the centre's copy is of another log than this one; it is made anew");
        snapshots::load(centre, shards, shard).await?;
        // Should the snapshot be of that other log too, it is not read again and again.
        tokio::time::sleep(PAUSE).await;
        return Ok(Step::Loaded);
    }
    let Read::Entries { epoch, entries } = centre.log.read(shard, cursor.seq, READ_BYTES).await? else {
        return Ok(Step::Behind);
    };
    let last = entries.last().map_or(cursor.seq, |last| last.seq);
    centre.erasures.before(&*centre.log, shards, shard, epoch, &entries).await?;
    apply(centre, shards, shard, epoch, entries).await?;
    centre.erasures.work(centre, shards, shard).await?;
    let newest = centre.copy.snapshots.lock().get(&shard).copied();
    let newest = match newest {
        Some(seq) => seq,
        None => {
            let seq = centre.log.snapshot(shard).await?.map_or(0, |kept| kept.seq);
            centre.copy.note_snapshot(shard, seq);
            seq
        }
    };
    if last.saturating_sub(newest) >= centre.copy.snapshot_every {
        snapshots::make_if_newer(centre, shards, shard).await?;
    }
    Ok(if last < head.seq { Step::Behind } else { Step::There })
}

/// Folds entries, stopping at marks to say how the copy stands there.
async fn apply(
    centre: &Arc<Centre>,
    shards: &Arc<Shards>,
    shard: ShardId,
    epoch: u32,
    entries: Vec<Entry>,
) -> Result<()> {
    let entries = entries.into_iter().map(|entry| Ordered { entry, own: None }).collect();
    let shards = Arc::clone(shards);
    let marked: Vec<Marked> =
        tokio::task::spawn_blocking(move || marks::follow(&shards, shard, epoch, entries)).await??;
    for mark in marked {
        centre.marks.note(super::verify::CENTRE, mark);
    }
    Ok(())
}
