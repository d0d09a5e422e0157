//! What an edge tells its centre of itself, about once a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use selvedge_core::change::CHANGE_VERSION;
use selvedge_core::identity::ShardId;

use super::wire::{Register, Report, Reported, ShardReport};
use super::{REPORTS, Uplink, jittered};
use crate::edge::Edge;
use crate::gate::Gate;

const EVERY: Duration = Duration::from_secs(1);

/// Reports until the process ends. That a report fails is said by whoever follows.
pub async fn run(uplink: Arc<Uplink>, gate: Arc<Gate>) {
    loop {
        uplink.beat(REPORTS);
        let edge = gate.enter().await;
        let report = of(&uplink, &edge);
        drop(edge);
        let marks = report.marked.len();
        if let Ok(reported) = send(&uplink, &report).await
            && reported.known
        {
            uplink.marked.lock().drain(..marks);
            if let Some(everyone) = reported.everyone {
                uplink.hear(everyone);
                renew(&gate).await;
            }
        }
        let pause = if marks > 0 { EVERY / 20 } else { jittered(EVERY) };
        let _ = tokio::time::timeout(pause, uplink.reportable.notified()).await;
    }
}

async fn send(uplink: &Uplink, report: &Report) -> Result<Reported> {
    let reported = uplink.centre.report(&uplink.cluster, report).await?;
    if !reported.known {
        uplink.centre.register(&introduction(&uplink.name, Some(uplink.shards)), Some(&uplink.cluster)).await?;
    }
    Ok(reported)
}

/// Has budgets and response rates go by what was heard.
async fn renew(gate: &Gate) {
    let edge = gate.enter().await;
    let renewed = tokio::task::spawn_blocking(move || edge.renew_everyone()).await;
    if let Ok(Err(error)) = renewed {
        tracing::error!(%error, "what is known of everyone is not brought up");
    }
}

/// What an edge says of itself.
pub fn introduction(name: &str, shards: Option<selvedge_core::shard_set::ShardSet>) -> Register {
    Register { name: name.to_owned(), version: env!("CARGO_PKG_VERSION").into(), reads: CHANGE_VERSION, shards }
}

/// How this edge is doing.
pub fn of(uplink: &Uplink, edge: &Edge) -> Report {
    let now = uplink.now();
    let mut outbox_changes = 0;
    let shards = uplink.shards.iter().map(|shard| {
        // Before the cell is locked, which requests ask too.
        let pending = edge.shards.pending_changes(shard).changes as u64;
        let (cursor, checksum) = edge.shards.place(shard);
        let cell = uplink.cell(shard).lock();
        let freshness = cell.replica.freshness(now);
        outbox_changes += cell.forwarder.unanswered();
        ShardReport {
            shard,
            epoch: cursor.epoch,
            seq: cursor.seq,
            kept: if cell.kept.epoch == cursor.epoch { cell.kept.seq.min(cursor.seq) } else { 0 },
            checksum,
            state: freshness.state.as_str().into(),
            lag_ms: freshness.lag_ms,
            pending,
        }
    });
    let shards = shards.collect();
    Report {
        name: uplink.name.clone(),
        shards,
        outbox_changes,
        outbox_bytes: uplink.outbox.live_bytes(),
        release: uplink.running.lock().seq,
        release_error: uplink.release_error.lock().clone(),
        last_error: uplink.last_error(),
        uptime_s: uplink.started.elapsed().as_secs(),
        shed: uplink.shed.load(Ordering::Relaxed),
        marked: uplink.marked.lock().clone(),
        everyone: !edge.policy.budgets.is_empty() || edge.policy.rates.is_some(),
    }
}

/// The same of an edge that is its own centre.
pub fn own(edge: &Edge) -> Report {
    let shards = ShardId::all().map(|shard| {
        let (cursor, checksum) = edge.shards.place(shard);
        let pending = edge.shards.pending_changes(shard).changes as u64;
        let (epoch, seq) = (cursor.epoch, cursor.seq);
        ShardReport { shard, epoch, seq, kept: 0, checksum, state: "live".into(), lag_ms: Some(0), pending }
    });
    Report { name: "run".into(), shards: shards.collect(), ..Report::default() }
}
