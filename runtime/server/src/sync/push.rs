//! This edge's own changes on their way to the centre: one push of all shards at a time, as soon as they are durable here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::backoff::Backoff;
use selvedge_core::sync::forwarder::{Outcome, Range};
use selvedge_core::sync::{Push, Pushed};

use super::{SENDING, Uplink};
use crate::clock;
use crate::edge::Edge;
use crate::gate::Gate;
use selvedge_core::event::Refusal;

/// What errors here are about.
const WHAT: &str = "sending changes to the centre";
/// Bytes of one shard's changes in a push.
const SHARD_BYTES: usize = 256 * 1024;
/// Bytes of a push, about.
const PUSH_BYTES: usize = 4 * 1024 * 1024;
/// How long nothing is looked for where nothing wakes.
const REST: Duration = Duration::from_secs(1);

/// Pushes until the process ends.
pub async fn run(uplink: Arc<Uplink>, gate: Arc<Gate>) {
    let mut backoff = Backoff::new(getrandom::u64().unwrap_or(1));
    loop {
        uplink.beat(SENDING);
        let ranges = if uplink.connected.load(Ordering::Acquire) { next(&uplink) } else { Vec::new() };
        if ranges.is_empty() {
            let wait = due(&uplink).unwrap_or(REST).min(REST);
            // Whoever makes something pushable says so; a word that was given meanwhile is not lost.
            let _ = tokio::time::timeout(wait, uplink.pushable.notified()).await;
            continue;
        }
        match push(&uplink, &gate, &ranges).await {
            Ok(()) => {
                backoff.reset();
                uplink.clear_error(WHAT);
            }
            Err(error) => {
                uplink.note_error(WHAT, &error);
                let now = uplink.now();
                for (shard, range) in ranges {
                    uplink.cell(shard).lock().forwarder.on_failed(now, range.ticket);
                }
                // All shards together: what ails one push ails the next.
                tokio::time::sleep(Duration::from_millis(backoff.fail())).await;
            }
        }
    }
}

fn next(uplink: &Uplink) -> Vec<(ShardId, Range)> {
    let now = uplink.now();
    let next = |shard: ShardId| Some((shard, uplink.cell(shard).lock().forwarder.next(now)?));
    // What the key does not open any more waits until it does.
    uplink.scope.iter().filter_map(next).collect()
}

fn due(uplink: &Uplink) -> Option<Duration> {
    let now = uplink.now();
    let dues = uplink.scope.iter().filter_map(|shard| uplink.cell(shard).lock().forwarder.due());
    dues.min().map(|due| Duration::from_millis(u64::try_from(due.saturating_sub(now)).unwrap_or(0).max(1)))
}

async fn push(uplink: &Arc<Uplink>, gate: &Arc<Gate>, ranges: &[(ShardId, Range)]) -> Result<()> {
    let (reader, wanted) = (Arc::clone(uplink), ranges.to_vec());
    let (pushes, left) = tokio::task::spawn_blocking(move || read(&reader, &wanted)).await??;
    let now = uplink.now();
    for (shard, ticket) in left {
        // There was no room for it in this push.
        uplink.cell(shard).lock().forwarder.on_unsent(ticket);
    }
    if pushes.is_empty() {
        return Ok(());
    }
    let tickets: Vec<_> = pushes.iter().map(|(ticket, push)| (push.shard, *ticket, push.changes.clone())).collect();
    let answers = uplink.centre.push(&uplink.cluster, pushes.into_iter().map(|(_, push)| push).collect()).await?;
    let now = uplink.now().max(now);
    for ((shard, ticket, changes), answer) in tickets.into_iter().zip(answers) {
        let (first, outcome) = {
            let mut cell = uplink.cell(shard).lock();
            let before = cell.forwarder.settled();
            (before + 1, cell.forwarder.on_answer(now, ticket, &answer))
        };
        note(uplink, gate, shard, first, &changes, outcome, &answer).await?;
    }
    Ok(())
}

/// Reads what is to be pushed; and which pushes found no room.
type ReadPushes = (Vec<(u64, Push)>, Vec<(ShardId, u64)>);

fn read(uplink: &Uplink, ranges: &[(ShardId, Range)]) -> Result<ReadPushes> {
    let (mut pushes, mut left, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (shard, range) in ranges {
        if bytes >= PUSH_BYTES {
            left.push((*shard, range.ticket));
            continue;
        }
        let entries = uplink.outbox.read(*shard, range.first_local - 1, SHARD_BYTES)?;
        let first = entries.first().map(|entry| entry.seq);
        ensure!(
            first == Some(range.first_local),
            "the outbox of shard {} has {first:?} in place of {}",
            shard.0,
            range.first_local
        );
        let entries = entries.into_iter().take_while(|entry| entry.seq <= range.last_local);
        let changes: Vec<Arc<[u8]>> = entries.map(|entry| entry.bytes.into()).collect();
        bytes += changes.iter().map(|change| change.len()).sum::<usize>();
        let (epoch, origin, predecessor, skips) = (range.epoch, range.origin, range.predecessor, range.skips);
        pushes.push((range.ticket, Push { shard: *shard, epoch, origin, predecessor, skips, changes }));
    }
    Ok((pushes, left))
}

/// Does what an answer has come to.
async fn note(
    uplink: &Arc<Uplink>,
    gate: &Arc<Gate>,
    shard: ShardId,
    first: u64,
    changes: &[Arc<[u8]>],
    outcome: Outcome,
    answer: &Pushed,
) -> Result<()> {
    match outcome {
        Outcome::Settled(local) => {
            let edge = gate.enter().await;
            settle(uplink, edge, shard, local).await?;
        }
        Outcome::Refused { local, reason } => {
            let edge = gate.enter().await;
            let refusal = Refusal::new("centre_refused", "", format!("the centre does not take it: {reason}"));
            tracing::error!(
                shard = shard.0,
                local,
                reason,
                "the centre refuses a change of this edge; it is set aside"
            );
            edge.metrics.event_rejected(refusal.code);
            edge.dead_letters.keep(clock::now(), None, &refusal);
        }
        Outcome::Unfit => {
            tracing::warn!(
                shard = shard.0,
                first,
                sent = changes.len(),
                ?answer,
                "the centre's answer fits no push; trying again"
            );
        }
        Outcome::Late | Outcome::Again(_) | Outcome::Epoch(_) => {}
    }
    Ok(())
}

/// Changes that the base has already, or that no base will ever have here, are no longer pending.
async fn settle(uplink: &Arc<Uplink>, edge: Arc<Edge>, shard: ShardId, local: u64) -> Result<()> {
    let uplink = Arc::clone(uplink);
    let held = edge.shards.holds(shard);
    let settled = {
        let mut cell = uplink.cell(shard).lock();
        let settled = if held { cell.forwarder.ordered_local(edge.shards.cursor(shard)) } else { local };
        if settled <= cell.settled {
            return Ok(());
        }
        cell.settled = settled;
        settled
    };
    Ok(tokio::task::spawn_blocking(move || edge.shards.settle_pending(shard, settled)).await??)
}
