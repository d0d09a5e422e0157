//! Random operations against a log that is as simple as it can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selvedge_central::{CentralLog, Read, SealedPush, SnapshotChunk, SnapshotId, SnapshotManifest};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Head, Origin, Pushed, mix};

use crate::support::{Fixture, digest, push};

const SHARDS: [u16; 3] = [0, 7, 64];

#[derive(Clone, Debug)]
pub struct ModelPush {
    shard: usize,
    origin: u64,
    /// The predecessor, counted from two before the watermark.
    offset: u64,
    skips: bool,
    stale: bool,
    /// Ids, 0 for none.
    changes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Append(Vec<ModelPush>),
    Read { shard: usize, back: u64, bytes_max: usize },
    Snapshot { shard: usize, back: u64 },
    Trim { shard: usize, back: u64 },
    Erase { shard: usize, back: u64 },
    Bump,
    Reopen,
}

fn pushes() -> impl Strategy<Value = ModelPush> {
    let changes = prop::collection::vec(0_u8..20, 0..6);
    let offset = prop_oneof![6 => Just(2_u64), 1 => 0_u64..5];
    (0_usize..3, 0_u64..3, offset, prop::bool::weighted(0.2), prop::bool::weighted(0.05), changes).prop_map(
        |(shard, origin, offset, skips, stale, changes)| ModelPush { shard, origin, offset, skips, stale, changes },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(pushes(), 1..5).prop_map(Step::Append),
        4 => (0_usize..3, 0_u64..12, 1_usize..60)
            .prop_map(|(shard, back, bytes_max)| Step::Read { shard, back, bytes_max }),
        1 => (0_usize..3, 0_u64..5).prop_map(|(shard, back)| Step::Snapshot { shard, back }),
        1 => (0_usize..3, 0_u64..5).prop_map(|(shard, back)| Step::Trim { shard, back }),
        1 => (0_usize..3, 0_u64..5).prop_map(|(shard, back)| Step::Erase { shard, back }),
        1 => Just(Step::Bump),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Shard {
    entries: Vec<Entry>,
    checksum: u64,
    trimmed: u64,
    snapshot: u64,
    ids: BTreeMap<u8, u64>,
    watermarks: BTreeMap<u64, u64>,
}

struct Model {
    epoch: u32,
    shards: [Shard; 3],
    snapshots: u64,
}

impl Model {
    fn seal(&self, from: &ModelPush) -> SealedPush {
        let shard = &self.shards[from.shard];
        let watermark = shard.watermarks.get(&from.origin).copied().unwrap_or(0);
        let texts: Vec<String> = from
            .changes
            .iter()
            .map(|id| if *id == 0 { "|payload".to_owned() } else { format!("{id}|{}", from.origin) })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let epoch = if from.stale { self.epoch - 1 } else { self.epoch };
        let predecessor = (watermark + from.offset).saturating_sub(2);
        let mut sealed = push(SHARDS[from.shard], epoch, from.origin, predecessor, &texts);
        sealed.push.skips = from.skips;
        sealed
    }

    fn append(&mut self, from: &ModelPush, sealed: &SealedPush) -> Pushed {
        let push = &sealed.push;
        if push.epoch != self.epoch {
            return Pushed::Epoch { epoch: self.epoch };
        }
        let shard = &mut self.shards[from.shard];
        let watermark = shard.watermarks.get(&from.origin).copied().unwrap_or(0);
        if from.origin != 0 && (push.predecessor < watermark || push.predecessor > watermark && !push.skips) {
            return Pushed::Behind { watermark, head: shard.entries.len() as u64 };
        }
        let mut seqs = Vec::new();
        for (index, (id, change)) in from.changes.iter().zip(&push.changes).enumerate() {
            if let Some(seq) = shard.ids.get(id) {
                seqs.push(*seq);
                continue;
            }
            let seq = shard.entries.len() as u64 + 1;
            let number = if from.origin == 0 { 0 } else { push.predecessor + index as u64 + 1 };
            shard.entries.push(Entry { seq, origin: Origin(from.origin), number, bytes: Arc::clone(change) });
            shard.checksum = shard.checksum.wrapping_add(mix(seq, digest(change).envelope));
            if *id != 0 {
                shard.ids.insert(*id, seq);
            }
            seqs.push(seq);
        }
        if from.origin != 0 {
            shard.watermarks.insert(from.origin, push.predecessor + from.changes.len() as u64);
        }
        Pushed::Taken { seqs }
    }

    fn read(&self, shard: usize, after: u64, bytes_max: usize) -> Read {
        let of = &self.shards[shard];
        if after < of.trimmed {
            return Read::Trimmed { first: of.trimmed + 1 };
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in of.entries.iter().filter(|entry| entry.seq > after) {
            entries.push(entry.clone());
            bytes += entry.bytes.len();
            if bytes >= bytes_max {
                break;
            }
        }
        Read::Entries { epoch: self.epoch, entries }
    }

    fn head(&self, shard: usize) -> Head {
        let of = &self.shards[shard];
        let seq = of.entries.len() as u64;
        Head { epoch: self.epoch, seq, first: of.trimmed + 1, stable: seq, checksum: of.checksum }
    }

    async fn step(&mut self, log: &dyn CentralLog, step: &Step) {
        match step {
            Step::Append(pushes) => {
                // What one push of the group does, the next one's model sees: so they are made one after the other.
                let (mut group, mut expected) = (Vec::new(), Vec::new());
                for from in pushes {
                    let sealed = self.seal(from);
                    expected.push(self.append(from, &sealed));
                    group.push(sealed);
                }
                assert_eq!(log.append(group).await.expect("append"), expected);
            }
            Step::Read { shard, back, bytes_max } => {
                let after = (self.shards[*shard].entries.len() as u64).saturating_sub(*back);
                let read = log.read(ShardId(SHARDS[*shard]), after, *bytes_max).await.expect("read");
                assert_eq!(read, self.read(*shard, after, *bytes_max));
            }
            Step::Snapshot { shard, back } => {
                self.snapshots += 1;
                let seq = (self.shards[*shard].entries.len() as u64).saturating_sub(*back);
                let id = SnapshotId { shard: ShardId(SHARDS[*shard]), number: self.snapshots };
                log.put_chunk(id, 0, vec![1; 9]).await.expect("a chunk");
                let chunks = vec![SnapshotChunk { bytes: 9, hash: 0 }];
                let manifest = SnapshotManifest { id, epoch: self.epoch, seq, checksum: 0, head: Vec::new(), chunks };
                let put = log.put_snapshot(manifest).await;
                assert_eq!(put.is_ok(), seq >= self.shards[*shard].snapshot, "{put:?}");
                self.shards[*shard].snapshot = seq.max(self.shards[*shard].snapshot);
            }
            Step::Trim { shard, back } => {
                let of = &mut self.shards[*shard];
                let up_to = (of.entries.len() as u64).saturating_sub(*back);
                of.trimmed = up_to.min(of.snapshot).max(of.trimmed);
                let first = of.trimmed + 1;
                assert_eq!(log.trim(ShardId(SHARDS[*shard]), up_to).await, Ok(first));
            }
            Step::Erase { shard, back } => {
                let of = &mut self.shards[*shard];
                let seq = (of.entries.len() as u64).saturating_sub(*back);
                let mut expected = 0;
                let mut bytes = b"gone|".to_vec();
                if seq > of.trimmed
                    && let Some(entry) = usize::try_from(seq).ok().and_then(|seq| of.entries.get_mut(seq - 1))
                {
                    let end = entry.bytes.iter().position(|byte| *byte == b'|').expect("an id");
                    bytes = entry.bytes[..=end].to_vec();
                    entry.bytes = Arc::from(bytes.as_slice());
                    expected = 1;
                }
                assert_eq!(log.erase(ShardId(SHARDS[*shard]), vec![(seq, bytes)]).await, Ok(expected));
            }
            Step::Bump => {
                let epoch = log.bump_epoch().await.expect("an epoch");
                assert!(epoch > self.epoch);
                self.epoch = epoch;
            }
            Step::Reopen => {}
        }
    }

    async fn check(&self, log: &dyn CentralLog) {
        let heads = log.heads().await.expect("heads");
        for (at, shard) in SHARDS.into_iter().enumerate() {
            assert_eq!(heads[usize::from(shard)], self.head(at), "shard {shard}");
            let from = self.shards[at].trimmed;
            assert_eq!(log.read(ShardId(shard), from, usize::MAX).await, Ok(self.read(at, from, usize::MAX)));
            for origin in 1..3 {
                let expected = self.shards[at].watermarks.get(&origin).copied().unwrap_or(0);
                assert_eq!(log.watermark(ShardId(shard), Origin(origin)).await, Ok(expected));
            }
        }
    }
}

/// Runs random sequences; `fresh` gives a store of its own for each.
pub fn random_operations(runtime: &tokio::runtime::Runtime, cases: u32, fresh: &dyn Fn() -> Fixture) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let fixture = fresh();
        runtime.block_on(async {
            let mut model = Model { epoch: 1, shards: Default::default(), snapshots: 0 };
            let mut log = fixture.open().await;
            for step in &steps {
                model.step(&*log, step).await;
                if matches!(step, Step::Reopen) {
                    drop(log);
                    log = fixture.open().await;
                    model.check(&*log).await;
                }
            }
            model.check(&*log).await;
        });
        Ok(())
    });
    if let Err(failed) = outcome {
        panic!("{failed}");
    }
}
