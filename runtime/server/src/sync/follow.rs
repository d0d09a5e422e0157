//! The stream from the centre: entries into the bases, heads into the machines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use reqwest::Response;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::backoff::Backoff;
use selvedge_core::sync::frame::{Frame, FrameReader};
use selvedge_core::sync::replica::{Step, Why};
use selvedge_core::sync::{Entry, Head, Refetch};
use selvedge_core::view::Cursor;
use selvedge_shard::{Ordered, ShardError};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::{FOLLOWING, Uplink, bootstrap, marks, releases};
use crate::edge::Edge;
use crate::gate::Gate;
use crate::serve::End;

/// What errors here are about.
const WHAT: &str = "following the centre";
/// Shards whose entries are folded at once.
const FOLDS: usize = 4;

/// Follows until the process ends.
pub async fn run(uplink: Arc<Uplink>, gate: Arc<Gate>, end: Arc<End>) {
    let mut backoff = Backoff::new(getrandom::u64().unwrap_or(1));
    loop {
        uplink.beat(FOLLOWING);
        let outcome = session(&uplink, &gate, &end, &mut backoff).await;
        uplink.connected.store(false, Ordering::Release);
        for shard in uplink.shards.iter() {
            uplink.cell(shard).lock().replica.on_disconnected();
        }
        match outcome {
            // Asked for anew at once: a shard has been bootstrapped.
            Ok(()) => {}
            Err(error) => {
                uplink.note_error(WHAT, &error);
                sleep(Duration::from_millis(backoff.fail())).await;
            }
        }
    }
}

/// What arrived and is to be folded together.
type Round = BTreeMap<ShardId, (u32, Vec<Entry>)>;

async fn session(uplink: &Arc<Uplink>, gate: &Arc<Gate>, end: &Arc<End>, backoff: &mut Backoff) -> Result<()> {
    // Those that are being bootstrapped are asked for when that is done.
    let cursors = uplink.shards.iter().map(|shard| (shard, uplink.cell(shard).lock().replica.after()));
    let mut shards: Vec<_> = cursors.collect();
    // Of those for which changes are taken but no base is held only heads are wanted, and of the control shard where it is not followed: nothing comes behind
    // this.
    let beyond = Cursor { epoch: 0, seq: u64::MAX };
    let beside = uplink.scope.iter().filter(|shard| !uplink.shards.holds(*shard));
    shards.extend(beside.map(|shard| (shard, beyond)));
    if !uplink.control.is_followed() {
        shards.push((ShardId::CONTROL, beyond));
    }
    let mut stream = uplink.centre.follow(&uplink.cluster, shards).await?;
    let now = uplink.now();
    for shard in uplink.shards.iter() {
        uplink.cell(shard).lock().replica.on_connected(now);
    }
    uplink.control.ask(uplink);
    uplink.connected.store(true, Ordering::Release);
    uplink.pushable.notify_one();
    tracing::info!("following the centre");
    let mut frames = FrameReader::new();
    loop {
        let piece = tokio::select! {
            piece = next(&mut stream) => piece?,
            () = uplink.restart.notified() => return Ok(()),
            () = uplink.control.moved() => {
                releases::keep_up(uplink, gate, end).await;
                continue;
            }
        };
        uplink.beat(FOLLOWING);
        frames.push(&piece);
        let mut round = Round::new();
        while let Some(frame) = frames.next_frame()? {
            take(uplink, gate, frame, &mut round)?;
        }
        releases::keep_up(uplink, gate, end).await;
        fold(uplink, gate, round).await?;
        backoff.reset();
        uplink.clear_error(WHAT);
    }
}

/// The next piece of the stream. The client gives up on its own where nothing comes for too long.
pub async fn next(stream: &mut Response) -> Result<axum::body::Bytes> {
    stream.chunk().await.context("the stream broke")?.context("the centre ended the stream")
}

fn take(uplink: &Arc<Uplink>, gate: &Arc<Gate>, frame: Frame, round: &mut Round) -> Result<()> {
    let now = uplink.now();
    match frame {
        Frame::Changes { shard: ShardId::CONTROL, .. } => {}
        Frame::Changes { shard, epoch, mut entries } => {
            if !uplink.shards.holds(shard) {
                return Ok(());
            }
            let step = {
                let mut cell = uplink.cell(shard).lock();
                cell.log_epoch = epoch;
                cell.replica.on_changes(now, epoch, &entries)
            };
            match step {
                Step::Apply { skip } => {
                    entries.drain(..skip);
                    round.entry(shard).or_insert((epoch, Vec::new())).1.append(&mut entries);
                }
                other => act(uplink, gate, shard, other)?,
            }
        }
        Frame::Heads(heads) => {
            for (shard, head) in heads {
                if shard == ShardId::CONTROL {
                    // Where it is followed, its entries say whether there is something to ask for.
                    if !uplink.control.is_followed() {
                        *uplink.control_head.lock() = (head.epoch, head.seq);
                    }
                } else if uplink.shards.holds(shard) {
                    let step = uplink.cell(shard).lock().replica.on_head(now, head);
                    on_epoch(uplink, shard, &head);
                    act(uplink, gate, shard, step)?;
                } else if uplink.scope.holds(shard) {
                    uplink.cell(shard).lock().beside = Some(head);
                    on_epoch(uplink, shard, &head);
                }
            }
        }
        Frame::Refetch { shard, why, .. } if uplink.shards.holds(shard) => {
            let step = uplink.cell(shard).lock().replica.on_refetch(now, why);
            act(uplink, gate, shard, step)?;
        }
        Frame::Refetch { .. } => {}
        Frame::Pushes(_) | Frame::PushAnswers(_) | Frame::Follow(_) | Frame::Manifest(_) => {
            bail!("the centre sent a frame that does not belong in this stream");
        }
    }
    Ok(())
}

/// Tells the forwarder which epoch the log is in, so that its pushes name it.
fn on_epoch(uplink: &Uplink, shard: ShardId, head: &Head) {
    let mut cell = uplink.cell(shard).lock();
    if cell.forwarder.epoch() != head.epoch {
        cell.forwarder.on_epoch(head.epoch);
        uplink.pushable.notify_one();
    }
}

/// Does what the machine says, but for applying.
fn act(uplink: &Arc<Uplink>, gate: &Arc<Gate>, shard: ShardId, step: Step) -> Result<()> {
    match step {
        Step::Resume(why) => bail!("shard {}: {why}; asking again", shard.0),
        Step::Bootstrap(why) => {
            if why != Why::Empty {
                tracing::warn!(shard = shard.0, %why, "the shard is made anew from a snapshot");
            }
            uplink.filling.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(bootstrap::run(Arc::clone(uplink), Arc::clone(gate), shard));
        }
        Step::Halt(why) => uplink.note_error(&format!("shard {}", shard.0), &anyhow::anyhow!("{why}")),
        Step::Apply { .. } | Step::Ignore(_) | Step::Nothing => {}
    }
    Ok(())
}

/// Folds what arrived, several shards at once.
async fn fold(uplink: &Arc<Uplink>, gate: &Arc<Gate>, round: Round) -> Result<()> {
    let mut folds = JoinSet::new();
    let mut first_error = None;
    for (shard, (epoch, entries)) in round {
        if folds.len() >= FOLDS {
            first_error = first_error.or(joined(&mut folds).await);
        }
        let (uplink, gate, edge) = (Arc::clone(uplink), Arc::clone(gate), gate.enter().await);
        folds.spawn_blocking(move || {
            let step = apply(&uplink, &edge, shard, epoch, entries)?;
            act(&uplink, &gate, shard, step)
        });
    }
    while !folds.is_empty() {
        first_error = first_error.or(joined(&mut folds).await);
    }
    uplink.bases_moved();
    first_error.map_or(Ok(()), Err)
}

async fn joined(folds: &mut JoinSet<Result<()>>) -> Option<anyhow::Error> {
    match folds.join_next().await? {
        Ok(outcome) => outcome.err(),
        Err(error) => Some(error.into()),
    }
}

fn apply(uplink: &Uplink, edge: &Edge, shard: ShardId, epoch: u32, entries: Vec<Entry>) -> Result<Step> {
    let mut newest_own = None;
    let ordered = entries.into_iter().map(|entry| {
        let own = uplink.boots.local(shard, entry.origin, entry.number);
        if let Some(local) = own {
            newest_own = Some((local, entry.seq));
        }
        Ordered { entry, own }
    });
    let ordered: Vec<_> = ordered.collect();
    let what = format!("shard {}", shard.0);
    let followed = marks::follow(&edge.shards, shard, epoch, ordered);
    let now = uplink.now();
    let mut cell = uplink.cell(shard).lock();
    // Also where it failed half way: the base says up to where it got. Under the lock, so that nobody puts another base there meanwhile.
    let (cursor, checksum) = edge.shards.place(shard);
    let step = cell.replica.on_applied(cursor, checksum);
    match followed {
        Ok(marked) if marked.is_empty() => uplink.clear_error(&what),
        Ok(marked) => {
            uplink.marked.lock().extend(marked);
            uplink.reportable.notify_one();
        }
        Err(error) => {
            cell.replica.on_apply_failed();
            if matches!(error, ShardError::Corrupt(_)) {
                uplink.note_error(&what, &anyhow::anyhow!("{error}; it is made anew"));
                return Ok(cell.replica.on_refetch(now, Refetch::Trimmed));
            }
            return Err(error.into());
        }
    }
    if let Some((local, seq)) = newest_own {
        cell.forwarder.on_own(epoch, local, seq);
    }
    // Duplicates have no entry of their own: what the centre answered for them says when the base has them.
    let settled = cell.forwarder.ordered_local(cursor);
    if settled > cell.settled {
        cell.settled = settled;
        drop(cell);
        edge.shards.settle_pending(shard, settled)?;
    }
    Ok(step)
}
