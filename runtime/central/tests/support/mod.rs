//! What the tests of both stores share: changes, digests, pushes, and how a store is opened again.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use selvedge_central::{CentralLog, Read, SealedPush};
use selvedge_core::change::Digest;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Head, Origin, Push, Pushed};

pub mod cases;
pub mod model;
pub mod postgres;

/// A store that can be opened again after it was dropped.
pub struct Fixture {
    pub open: Box<dyn Fn() -> Opening>,
}

pub type Opening = Pin<Box<dyn Future<Output = Arc<dyn CentralLog>>>>;

impl Fixture {
    pub async fn open(&self) -> Arc<dyn CentralLog> {
        (self.open)().await
    }
}

/// A change as the tests write it: `id|payload`, the id may be empty. The envelope is the id.
pub fn digest(bytes: &[u8]) -> Digest {
    let at = bytes.iter().position(|byte| *byte == b'|').expect("an id");
    let hash = bytes[..at].iter().fold(0xcbf2_9ce4_8422_2325_u128, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let envelope = u64::from_le_bytes(hash.to_le_bytes()[8..].try_into().expect("eight bytes"));
    Digest { shard: None, id: (at > 0).then(|| hash.to_le_bytes()), envelope }
}

/// A push of changes in epoch `epoch`.
pub fn push(shard: u16, epoch: u32, origin: u64, predecessor: u64, changes: &[&str]) -> SealedPush {
    SealedPush {
        push: Push {
            shard: ShardId(shard),
            epoch,
            origin: Origin(origin),
            predecessor,
            skips: false,
            changes: changes.iter().map(|change| Arc::from(change.as_bytes())).collect(),
        },
        digests: changes.iter().map(|change| digest(change.as_bytes())).collect(),
    }
}

/// The same with leave to skip.
pub fn skipping(mut sealed: SealedPush) -> SealedPush {
    sealed.push.skips = true;
    sealed
}

pub fn taken(seqs: &[u64]) -> Pushed {
    Pushed::Taken { seqs: seqs.to_vec() }
}

/// Appends one push; its answer.
pub async fn append(log: &dyn CentralLog, sealed: SealedPush) -> Pushed {
    log.append(vec![sealed]).await.expect("append").pop().expect("an answer")
}

/// All entries after a sequence.
pub async fn entries(log: &dyn CentralLog, shard: u16, after: u64) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let from = all.last().map_or(after, |entry| entry.seq);
        match log.read(ShardId(shard), from, 4096).await.expect("read") {
            Read::Entries { entries, .. } if entries.is_empty() => return all,
            Read::Entries { entries, .. } => all.extend(entries),
            Read::Trimmed { first } => panic!("trimmed up to {first}, asked for {from}"),
        }
    }
}

/// The same as (sequence, origin, number, text).
pub async fn texts(log: &dyn CentralLog, shard: u16, after: u64) -> Vec<(u64, u64, u64, String)> {
    let entries = entries(log, shard, after).await;
    let text = |entry: &Entry| String::from_utf8(entry.bytes.to_vec()).expect("text");
    entries.iter().map(|entry| (entry.seq, entry.origin.0, entry.number, text(entry))).collect()
}

pub async fn head(log: &dyn CentralLog, shard: u16) -> Head {
    log.heads().await.expect("heads")[usize::from(shard)]
}
