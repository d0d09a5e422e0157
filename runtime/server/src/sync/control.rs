//! The control shard at an edge, by a stream of its own: which offers are stopped holds a few milliseconds after it was said, whatever the shards are folding.
//! What else its entries bring is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use selvedge_central::RedbLog;
use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::Entry;
use selvedge_core::sync::backoff::Backoff;
use selvedge_core::sync::frame::{Frame, FrameReader};
use selvedge_core::view::Cursor;
use tokio::sync::Notify;
use tokio::time::{Duration, sleep};

use super::Uplink;
use super::follow::next;
use super::wire::Controlled;
use crate::stopped::StoppedOffers;

/// The note under which the outbox keeps it.
const NOTE: &str = "control";
/// What errors here are about.
const WHAT: &str = "following the control shard";
/// How often it is looked whether the centre has begun to say where it stands.
const LOOK: Duration = Duration::from_secs(1);
/// A place of no log.
const LOST: Cursor = Cursor { epoch: 0, seq: u64::MAX };

/// Up to where an edge has followed the control shard.
#[derive(Default)]
pub struct ControlCell {
    /// None where the centre does not say where it stands.
    cursor: Mutex<Option<Cursor>>,
    /// There is something to ask for.
    asks: Notify,
    /// The stream is to be asked for anew.
    restart: Notify,
    /// Whether what is stopped is being kept, and whether it has to be once more.
    keeping: AtomicBool,
    unkept: AtomicBool,
}

impl ControlCell {
    /// From what the centre said.
    pub fn begin(controlled: Option<&Controlled>, stopped: &StoppedOffers) -> Self {
        if let Some(controlled) = controlled {
            stopped.replace(controlled.stopped.clone());
        }
        Self { cursor: Mutex::new(controlled.map(Controlled::at)), ..Self::default() }
    }

    /// Whether its entries come by a stream of their own.
    pub fn is_followed(&self) -> bool {
        self.cursor.lock().is_some()
    }

    /// Resolves when there may be something to ask for.
    pub async fn moved(&self) {
        self.asks.notified().await;
    }

    /// Has the centre asked for what runs: what came while nobody followed is not told again.
    pub fn ask(&self, uplink: &Uplink) {
        if let Some(at) = *self.cursor.lock() {
            *uplink.control_head.lock() = (at.epoch, at.seq);
        }
    }
}

/// What an edge kept of the control shard.
pub fn kept(outbox: &RedbLog) -> Result<Option<Controlled>> {
    let kept = outbox.note(NOTE).context("read what is stopped")?;
    Ok(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Follows until the process ends.
pub async fn run(uplink: Arc<Uplink>) {
    let mut backoff = Backoff::new(getrandom::u64().unwrap_or(1));
    loop {
        let cursor = *uplink.control.cursor.lock();
        let Some(cursor) = cursor else {
            sleep(LOOK).await;
            continue;
        };
        if let Err(error) = session(&uplink, cursor, &mut backoff).await {
            uplink.note_error(WHAT, &error);
            sleep(Duration::from_millis(backoff.fail())).await;
        }
    }
}

async fn session(uplink: &Arc<Uplink>, cursor: Cursor, backoff: &mut Backoff) -> Result<()> {
    let mut stream = uplink.centre.follow(&uplink.cluster, vec![(ShardId::CONTROL, cursor)]).await?;
    let mut frames = FrameReader::new();
    loop {
        let piece = tokio::select! {
            piece = next(&mut stream) => piece?,
            () = uplink.control.restart.notified() => return Ok(()),
        };
        frames.push(&piece);
        while let Some(frame) = frames.next_frame()? {
            match frame {
                Frame::Changes { epoch, entries, .. } => follow(uplink, epoch, &entries)?,
                Frame::Refetch { .. } => lose(uplink),
                Frame::Heads(_) => {}
                _ => bail!("the centre sent a frame that does not belong in this stream"),
            }
        }
        backoff.reset();
        uplink.clear_error(WHAT);
    }
}

/// Takes in entries, in order.
fn follow(uplink: &Arc<Uplink>, epoch: u32, entries: &[Entry]) -> Result<()> {
    let mut cursor = uplink.control.cursor.lock();
    for entry in entries {
        let Some(at) = &mut *cursor else { return Ok(()) };
        if entry.seq <= at.seq {
            continue;
        }
        match Change::decode(&entry.bytes) {
            Ok(Change::Switch(switch)) => uplink.stopped.switch(&switch.offer, switch.stopped),
            Ok(Change::Release(_) | Change::Catalog(_)) => {
                *uplink.control_head.lock() = (epoch, entry.seq);
                uplink.control.asks.notify_one();
            }
            Ok(_) => {}
            // It stays unread until this edge can read it, and so does what follows.
            Err(error) => bail!("entry {}: {error}", entry.seq),
        }
        *at = Cursor { epoch, seq: entry.seq };
    }
    drop(cursor);
    keep(uplink);
    Ok(())
}

/// The log does not go on from where it was followed: everything is asked for anew.
fn lose(uplink: &Uplink) {
    *uplink.control.cursor.lock() = Some(LOST);
    *uplink.asked.lock() = (0, 0);
    *uplink.control_head.lock() = (LOST.epoch, LOST.seq);
    uplink.control.asks.notify_one();
}

/// Takes what the centre said beside a release.
pub fn take(uplink: &Arc<Uplink>, controlled: Option<&Controlled>) {
    let Some(controlled) = controlled else { return };
    let mut cursor = uplink.control.cursor.lock();
    let before = *cursor;
    // The stream goes on from there, or is ahead.
    if before.is_some_and(|at| at.epoch == controlled.epoch && at.seq >= controlled.seq) {
        return;
    }
    uplink.stopped.replace(controlled.stopped.clone());
    *cursor = Some(controlled.at());
    drop(cursor);
    if before.is_some_and(|at| at.epoch != controlled.epoch) {
        uplink.control.restart.notify_one();
    }
    keep(uplink);
}

/// Keeps what is stopped for a start without the centre, behind whoever calls: a stop takes force first.
fn keep(uplink: &Arc<Uplink>) {
    let cell = &uplink.control;
    cell.unkept.store(true, Ordering::Release);
    if cell.keeping.swap(true, Ordering::AcqRel) {
        return;
    }
    let uplink = Arc::clone(uplink);
    tokio::task::spawn_blocking(move || {
        let cell = &uplink.control;
        while cell.unkept.swap(false, Ordering::AcqRel) {
            let controlled = {
                let at = cell.cursor.lock().unwrap_or_default();
                Controlled { epoch: at.epoch, seq: at.seq, stopped: uplink.stopped.ids() }
            };
            let kept = serde_json::to_vec(&controlled).map_err(anyhow::Error::from);
            if let Err(error) = kept.and_then(|bytes| Ok(uplink.outbox.keep_note(NOTE, &bytes)?)) {
                uplink.note_error("keeping what is stopped", &error);
            }
        }
        cell.keeping.store(false, Ordering::Release);
        // One that came between is not lost.
        if cell.unkept.load(Ordering::Acquire) {
            keep(&uplink);
        }
    });
}
