//! What every store must do, case by case.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use selvedge_central::{
    CONTROL, CentralLog, GAPS, Gap, LOGS, LogError, Read, SnapshotChunk, SnapshotId, SnapshotManifest, decode_gaps,
};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Origin, Pushed, mix};
use selvedge_core::view::Cursor;

use crate::support::{Fixture, append, digest, entries, head, push, skipping, taken, texts};

fn text(seq: u64, origin: u64, number: u64, text: &str) -> (u64, u64, u64, String) {
    (seq, origin, number, text.to_owned())
}

pub async fn order_and_reopening(fixture: &Fixture) {
    let log = fixture.open().await;
    let id = log.id().to_owned();
    assert!(!id.is_empty());
    assert_eq!(log.heads().await.expect("heads").len(), usize::from(LOGS));
    let answers = log.append(vec![push(3, 1, 7, 0, &["a|1", "b|2"]), push(CONTROL.0, 1, 0, 0, &["|x"])]).await;
    assert_eq!(answers.expect("append"), [taken(&[1, 2]), taken(&[1])]);
    assert_eq!(append(&*log, push(3, 1, 8, 0, &["c|3"])).await, taken(&[3]));
    let expected = [text(1, 7, 1, "a|1"), text(2, 7, 2, "b|2"), text(3, 8, 1, "c|3")];
    assert_eq!(texts(&*log, 3, 0).await, expected);
    let of_third = head(&*log, 3).await;
    let checksum = (1..)
        .zip([b"a|1", b"b|2", b"c|3"])
        .fold(0_u64, |sum, (seq, change)| sum.wrapping_add(mix(seq, digest(change).envelope)));
    assert_eq!((of_third.epoch, of_third.seq, of_third.first, of_third.stable), (1, 3, 1, 3));
    assert_eq!(of_third.checksum, checksum);
    drop(log);

    let log = fixture.open().await;
    assert_eq!(log.id(), id);
    assert_eq!(head(&*log, 3).await, of_third);
    assert_eq!(texts(&*log, 3, 0).await, expected);
    assert_eq!(texts(&*log, CONTROL.0, 0).await, [text(1, 0, 0, "|x")]);
    assert_eq!(log.watermark(ShardId(3), Origin(7)).await, Ok(2));
    assert_eq!(log.watermark(ShardId(4), Origin(7)).await, Ok(0));
    assert_eq!(append(&*log, push(3, 1, 7, 2, &["b|again", "d|4"])).await, taken(&[2, 4]));
    let one = log.read(ShardId(3), 1, 1).await.expect("read");
    assert!(matches!(one, Read::Entries { epoch: 1, ref entries } if entries.len() == 1 && entries[0].seq == 2));
    let none = log.read(ShardId(3), 4, 1000).await.expect("read");
    assert_eq!(none, Read::Entries { epoch: 1, entries: Vec::new() });
    assert!(log.read(ShardId(LOGS), 0, 1).await.is_err());
}

pub async fn duplicates_and_gaps(fixture: &Fixture) {
    let log = fixture.open().await;
    assert_eq!(append(&*log, push(1, 1, 7, 0, &["a|1", "|no id", "a|again"])).await, taken(&[1, 2, 1]));
    // By watermark: all of it, or a part, or what was lost in between.
    let behind = Pushed::Behind { watermark: 3, head: 2 };
    assert_eq!(append(&*log, push(1, 1, 7, 0, &["a|1", "|no id", "a|again"])).await, behind);
    assert_eq!(append(&*log, push(1, 1, 7, 2, &["a|again", "|new"])).await, behind);
    assert_eq!(append(&*log, push(1, 1, 7, 5, &["|late"])).await, behind);
    assert_eq!(append(&*log, skipping(push(1, 1, 7, 1, &["|early"]))).await, behind, "nothing is skipped backwards");
    assert_eq!(log.note(GAPS).await, Ok(None));
    // By id: through another edge, and within one group.
    let group = vec![push(1, 1, 8, 0, &["b|1", "a|8"]), push(1, 1, 9, 0, &["b|9"]), push(1, 1, 8, 2, &["b|8", "c|8"])];
    assert_eq!(log.append(group).await.expect("append"), [taken(&[3, 1]), taken(&[3]), taken(&[3, 4])]);
    assert_eq!(log.watermark(ShardId(1), Origin(9)).await, Ok(1), "a duplicate counts");
    // In another shard it is another one.
    assert_eq!(append(&*log, push(2, 1, 7, 0, &["a|1"])).await, taken(&[1]));
    // A gap that the sender admits.
    assert_eq!(append(&*log, skipping(push(1, 1, 7, 10, &["d|11"]))).await, taken(&[5]));
    assert_eq!(append(&*log, skipping(push(1, 1, 7, 11, &["e|12"]))).await, taken(&[6]));
    let gaps = decode_gaps(&log.note(GAPS).await.expect("a note").expect("gaps"));
    assert_eq!(gaps, [Gap { shard: ShardId(1), origin: Origin(7), first: 4, last: 10 }]);
    assert_eq!(entries(&*log, 1, 4).await[0].number, 11);
    assert_eq!(log.watermark(ShardId(1), Origin(7)).await, Ok(12));
    // Nothing at all.
    assert_eq!(append(&*log, push(1, 1, 7, 12, &[])).await, taken(&[]));
    // The centre's own have no watermark.
    for seq in 7..9 {
        assert_eq!(append(&*log, push(1, 1, 0, 0, &["|centre"])).await, taken(&[seq]));
    }
    assert_eq!(entries(&*log, 1, 7).await[0].number, 0);
}

pub async fn refusals(fixture: &Fixture) {
    let log = fixture.open().await;
    let mut foreign = push(1, 1, 7, 0, &["a|1", "b|2"]);
    foreign.digests[1].shard = Some(ShardId(2));
    assert!(matches!(append(&*log, foreign).await, Pushed::Refused { index: 1, .. }));
    let mut missing = push(1, 1, 7, 0, &["a|1", "b|2"]);
    missing.digests.pop();
    assert!(matches!(append(&*log, missing).await, Pushed::Refused { index: 1, .. }));
    assert!(matches!(append(&*log, push(LOGS, 1, 7, 0, &["a|1"])).await, Pushed::Refused { index: 0, .. }));
    assert!(matches!(append(&*log, push(1, 1, 7, u64::MAX, &["a|1"])).await, Pushed::Refused { index: 0, .. }));
    let large = format!("a|{}", "x".repeat(1024 * 1024));
    assert!(matches!(append(&*log, push(1, 1, 7, 0, &["b|", &large])).await, Pushed::Refused { index: 1, .. }));
    assert_eq!(head(&*log, 1).await.seq, 0);
    assert_eq!(log.append(Vec::new()).await, Ok(Vec::new()));
    // A refused one does not take the others with it.
    let group = vec![push(1, 1, 7, 3, &["a|1"]), push(1, 1, 7, 0, &["a|1"]), push(1, 2, 7, 1, &["b|1"])];
    let answers = log.append(group).await.expect("append");
    assert_eq!(answers, [Pushed::Behind { watermark: 0, head: 0 }, taken(&[1]), Pushed::Epoch { epoch: 1 }]);
}

pub async fn epochs(fixture: &Fixture) {
    let log = fixture.open().await;
    assert_eq!(append(&*log, push(1, 1, 7, 0, &["a|1"])).await, taken(&[1]));
    put_snapshot(&*log, 1, 1, 11, b"one").await.expect("a snapshot");
    let before = log.heads().await.expect("heads");
    let seen = [(ShardId(9), Cursor { epoch: 1, seq: 0 })];
    let (epoch, woken) = tokio::join!(log.bump_epoch(), log.wait_head(&seen));
    let epoch = epoch.expect("an epoch");
    assert!(epoch > 1);
    assert_eq!(woken.expect("heads")[9].epoch, epoch, "waiters hear of it");
    for (head, before) in log.heads().await.expect("heads").iter().zip(before) {
        assert_eq!(*head, selvedge_core::sync::Head { epoch, ..before });
    }
    assert_eq!(append(&*log, push(1, 1, 7, 1, &["b|2"])).await, Pushed::Epoch { epoch });
    assert_eq!(append(&*log, push(1, epoch, 7, 1, &["b|2"])).await, taken(&[2]));
    assert_eq!(log.snapshot(ShardId(1)).await.expect("read").expect("a snapshot").epoch, epoch, "still a beginning");
    let again = log.bump_epoch().await.expect("an epoch");
    assert!(again > epoch);
    drop(log);
    let log = fixture.open().await;
    let read = log.read(ShardId(1), 0, 1000).await.expect("read");
    assert!(matches!(read, Read::Entries { epoch, entries } if epoch == again && entries.len() == 2));
    assert!(log.heads().await.expect("heads").iter().all(|head| head.epoch == again));
}

pub async fn concurrent_appends_have_no_gaps(fixture: &Fixture) {
    const PUSHES: u64 = 40;
    let log = fixture.open().await;
    no_gaps(&[Arc::clone(&log)], PUSHES).await;
}

/// Edges append through several centres at once while followers of each read; nobody ever sees a gap, and nothing is missing at the end.
pub async fn no_gaps(logs: &[Arc<dyn CentralLog>], pushes: u64) {
    const EDGES: u64 = 6;
    const SHARDS: [u16; 3] = [0, 5, 64];
    let mut tasks = tokio::task::JoinSet::new();
    let before = logs[0].heads().await.expect("heads");
    for edge in 1..=EDGES {
        let log = Arc::clone(&logs[usize::try_from(edge).expect("small") % logs.len()]);
        tasks.spawn(async move {
            for at in 0..pushes {
                for shard in SHARDS {
                    // Every third is the same for all edges.
                    let (own, common) = (format!("{edge}-{at}|own"), format!("common-{at}|{edge}"));
                    let changes = [own.as_str(), "|no id", common.as_str()];
                    match append(&*log, push(shard, 1, edge, at * 3, &changes)).await {
                        Pushed::Taken { seqs } => assert_eq!(seqs.len(), 3),
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
    }
    let total = EDGES * pushes * 2 + pushes;
    let mut followers = tokio::task::JoinSet::new();
    for log in logs {
        for shard in SHARDS {
            let (log, first) = (Arc::clone(log), before[usize::from(shard)].seq);
            followers.spawn(async move {
                let mut cursor = Cursor { epoch: 1, seq: first };
                while cursor.seq < first + total {
                    let seen = [(ShardId(shard), cursor)];
                    let waited = log.wait_head(&seen);
                    let heads = tokio::time::timeout(Duration::from_secs(60), waited).await.expect("woken");
                    let seq = heads.expect("heads")[usize::from(shard)].seq;
                    assert!(seq > cursor.seq);
                    let Read::Entries { entries, .. } = log.read(ShardId(shard), cursor.seq, 2000).await.expect("read")
                    else {
                        panic!("trimmed")
                    };
                    assert!(!entries.is_empty(), "a head is told when its entries can be read");
                    for entry in entries {
                        assert_eq!(entry.seq, cursor.seq + 1, "a gap");
                        cursor.seq = entry.seq;
                    }
                }
                cursor.seq
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("an edge");
    }
    while let Some(done) = followers.join_next().await {
        done.expect("a follower");
    }
    for shard in SHARDS {
        let first = before[usize::from(shard)].seq;
        let entries = entries(&*logs[0], shard, first).await;
        assert_eq!(entries.len() as u64, total);
        let sum = |sum: u64, entry: &selvedge_core::sync::Entry| {
            sum.wrapping_add(mix(entry.seq, digest(&entry.bytes).envelope))
        };
        let checksum = entries.iter().fold(before[usize::from(shard)].checksum, sum);
        for log in logs {
            assert_eq!(head(&**log, shard).await.checksum, checksum);
        }
        for edge in 1..=EDGES {
            let numbers: Vec<u64> =
                entries.iter().filter(|entry| entry.origin.0 == edge).map(|entry| entry.number).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "an origin's changes keep their order");
            assert_eq!(logs[0].watermark(ShardId(shard), Origin(edge)).await, Ok(pushes * 3));
        }
    }
}

pub async fn waiting_misses_nothing(fixture: &Fixture) {
    let log = fixture.open().await;
    // Already so.
    append(&*log, push(1, 1, 7, 0, &["a|1"])).await;
    let heads = log.wait_head(&[(ShardId(1), Cursor { epoch: 1, seq: 0 })]).await.expect("heads");
    assert_eq!(heads[1].seq, 1);
    // Another shard's changes wake nobody.
    let quiet = log.wait_head(&[(ShardId(2), Cursor { epoch: 1, seq: 0 })]);
    let done = AtomicBool::new(false);
    let others = async {
        for number in 1..20 {
            append(&*log, push(1, 1, 7, number, &["|x"])).await;
        }
        done.store(true, Ordering::SeqCst);
        append(&*log, push(2, 1, 7, 0, &["|x"])).await;
    };
    let (heads, ()) = tokio::join!(
        async {
            let heads = quiet.await;
            assert!(done.load(Ordering::SeqCst), "woken too early");
            heads
        },
        others
    );
    assert_eq!(heads.expect("heads")[2].seq, 1);
    // Turn by turn: each waits for the other's append, so one lost wake-up would stop both.
    let turns = async |shard: u16, other: u16, first: bool| {
        for turn in 0..100 {
            if !first || turn > 0 {
                let seen = Cursor { epoch: 1, seq: if first { turn - 1 } else { turn } };
                log.wait_head(&[(ShardId(other), seen)]).await.expect("heads");
            }
            append(&*log, push(shard, 1, 7, turn, &["|turn"])).await;
        }
    };
    let both = async { tokio::join!(turns(10, 11, true), turns(11, 10, false)) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("no wake-up was lost");
}

async fn put_snapshot(log: &dyn CentralLog, shard: u16, seq: u64, number: u64, content: &[u8]) -> Result<(), LogError> {
    let id = SnapshotId { shard: ShardId(shard), number };
    log.put_chunk(id, 0, b"to be replaced by a shorter one".to_vec()).await?;
    log.put_chunk(id, 0, content.to_vec()).await?;
    log.put_chunk(id, 1, vec![7; 200_000]).await?;
    let epoch = head(log, shard).await.epoch;
    let chunks = [content.len(), 200_000];
    let chunks = chunks.map(|bytes| SnapshotChunk { bytes: u32::try_from(bytes).expect("small"), hash: 1 });
    log.put_snapshot(SnapshotManifest {
        id,
        epoch,
        seq,
        checksum: seq * 3,
        head: b"said".to_vec(),
        chunks: chunks.to_vec(),
    })
    .await
}

pub async fn snapshots_and_trimming(fixture: &Fixture) {
    let log = fixture.open().await;
    assert_eq!(log.snapshot(ShardId(1)).await, Ok(None));
    for at in 0..50 {
        append(&*log, push(1, 1, 7, at * 2, &[&format!("a{at}|"), "|x"])).await;
    }
    assert_eq!(log.trim(ShardId(1), 40).await, Ok(1), "nothing that no snapshot holds");
    let chunk = async |number, index| {
        log.chunk(SnapshotId { shard: ShardId(1), number }, index).await.expect("read").map(|bytes| bytes.len())
    };
    put_snapshot(&*log, 1, 30, 11, b"eleven").await.expect("a snapshot");
    put_snapshot(&*log, 2, 0, 11, b"of another shard").await.expect("a snapshot");
    let newest = log.snapshot(ShardId(1)).await.expect("read").expect("a snapshot");
    assert_eq!((newest.seq, newest.checksum, newest.head.as_slice()), (30, 90, b"said".as_slice()));
    assert_eq!((chunk(11, 0).await, chunk(11, 1).await, chunk(11, 2).await), (Some(6), Some(200_000), None));

    assert_eq!(log.trim(ShardId(1), 20).await, Ok(21));
    assert_eq!(log.trim(ShardId(1), 10).await, Ok(21), "never backwards");
    assert_eq!(log.trim(ShardId(1), 99).await, Ok(31), "never beyond the snapshot");
    assert_eq!(head(&*log, 1).await.first, 31);
    assert_eq!(log.read(ShardId(1), 29, 1000).await, Ok(Read::Trimmed { first: 31 }));
    assert_eq!(entries(&*log, 1, 30).await.len(), 70);
    assert_eq!(append(&*log, push(1, 1, 8, 0, &["a0|late"])).await, taken(&[1]), "its id is still known");

    // One that does not fit is refused, and the newest stays.
    for refused in [
        put_snapshot(&*log, 1, 101, 12, b"of another log").await,
        put_snapshot(&*log, 1, 29, 13, b"older").await,
        put_snapshot(&*log, 1, 30, 11, b"the same number").await,
    ] {
        assert!(matches!(refused, Err(LogError::Snapshot(_))), "{refused:?}");
    }
    let mut manifest = newest.clone();
    manifest.id.number = 14;
    assert!(matches!(log.put_snapshot(manifest.clone()).await, Err(LogError::Snapshot(_))), "its chunks are missing");
    manifest.epoch = 9;
    assert!(matches!(log.put_snapshot(manifest).await, Err(LogError::Snapshot(_))), "of another epoch");
    assert_eq!(log.snapshot(ShardId(1)).await.expect("read").map(|manifest| manifest.seq), Some(30));

    // The one before stays until the next.
    put_snapshot(&*log, 1, 50, 20, b"twenty").await.expect("a snapshot");
    assert_eq!((chunk(11, 1).await, chunk(20, 1).await), (Some(200_000), Some(200_000)));
    assert_eq!(chunk(12, 0).await, None, "what never became a snapshot goes");
    put_snapshot(&*log, 1, 100, 30, b"thirty").await.expect("a snapshot");
    assert_eq!((chunk(11, 1).await, chunk(20, 1).await, chunk(30, 0).await), (None, Some(200_000), Some(6)));
    log.drop_older_snapshots(ShardId(1)).await.expect("dropped");
    assert_eq!((chunk(20, 1).await, chunk(30, 0).await), (None, Some(6)));
    assert_eq!(log.trim(ShardId(1), u64::MAX).await, Ok(101));
    assert_eq!(head(&*log, 1).await.first, 101);
    assert_eq!(log.read(ShardId(1), 100, 1000).await, Ok(Read::Entries { epoch: 1, entries: Vec::new() }));
    drop(log);

    let log = fixture.open().await;
    assert_eq!(log.snapshot(ShardId(1)).await.expect("read").map(|manifest| manifest.seq), Some(100));
    assert_eq!(log.snapshot(ShardId(2)).await.expect("read").map(|manifest| manifest.seq), Some(0));
    assert_eq!(log.read(ShardId(1), 99, 1000).await, Ok(Read::Trimmed { first: 101 }));
    assert_eq!(append(&*log, push(1, 1, 7, 100, &["new|"])).await, taken(&[101]));
    assert_eq!(texts(&*log, 1, 100).await, [text(101, 7, 101, "new|")]);
    let large = log.put_chunk(SnapshotId { shard: ShardId(1), number: 1 }, 0, vec![0; 4 * 1024 * 1024 + 1]).await;
    assert!(matches!(large, Err(LogError::TooLarge { .. })));
}

pub async fn erasure(fixture: &Fixture) {
    let log = fixture.open().await;
    append(&*log, push(1, 1, 7, 0, &["a|secret", "b|kept", "c|secret"])).await;
    let before = head(&*log, 1).await;
    assert_eq!(texts(&*log, 1, 0).await.len(), 3, "held in memory too");
    let erased = log.erase(ShardId(1), vec![(1, b"a|".to_vec()), (3, b"c|".to_vec()), (9, b"x|".to_vec())]).await;
    assert_eq!(erased, Ok(2));
    let expected = [text(1, 7, 1, "a|"), text(2, 7, 2, "b|kept"), text(3, 7, 3, "c|")];
    assert_eq!(texts(&*log, 1, 0).await, expected);
    assert_eq!(head(&*log, 1).await, before);
    assert_eq!(append(&*log, push(1, 1, 8, 0, &["a|secret"])).await, taken(&[1]), "a late one is known");
    drop(log);
    assert_eq!(texts(&*fixture.open().await, 1, 0).await, expected);
}

pub async fn blobs_and_notes(fixture: &Fixture) {
    let log = fixture.open().await;
    let large: Vec<u8> = (0..3_000_001_u32).map(|at| at.to_le_bytes()[1]).collect();
    log.put_blob([1; 32], large.clone()).await.expect("a blob");
    log.put_blob([2; 32], Vec::new()).await.expect("a blob");
    log.put_blob([1; 32], large.clone()).await.expect("again");
    assert_eq!(log.blob([3; 32]).await, Ok(None));
    let too_large = log.put_blob([4; 32], vec![0; 64 * 1024 * 1024 + 1]).await;
    assert!(matches!(too_large, Err(LogError::TooLarge { .. })));
    for (name, text) in [("edge/a", "1"), ("edge/b", "2"), ("edge/Ä%_", "3"), ("edgf", "4"), ("edge/a", "5")] {
        log.put_note(name, text.into()).await.expect("a note");
    }
    log.remove_note("edge/b").await.expect("removed");
    log.remove_note("edge/b").await.expect("nothing to do");
    drop(log);
    let log = fixture.open().await;
    assert_eq!(log.blob([1; 32]).await, Ok(Some(large)));
    assert_eq!(log.blob([2; 32]).await, Ok(Some(Vec::new())));
    assert_eq!(log.note("edge/a").await, Ok(Some(b"5".to_vec())));
    assert_eq!(log.note("edge/b").await, Ok(None));
    let expected = vec![("edge/a".to_owned(), b"5".to_vec()), ("edge/Ä%_".to_owned(), b"3".to_vec())];
    assert_eq!(log.notes("edge/").await, Ok(expected));
    assert!(matches!(log.put_note("n", vec![0; 1024 * 1024]).await, Err(LogError::TooLarge { .. })));
}
