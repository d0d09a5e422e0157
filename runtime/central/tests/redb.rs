//! The centre's log on redb.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use selvedge_central::{CentralLog, CentralOptions, LogError, RedbCentral, RedbLog, StablePolicy};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::Pushed;

use crate::support::{Fixture, append, cases, digest, entries, head, model, push, taken, texts};

fn options() -> CentralOptions {
    let mut options = CentralOptions::new("a-centre", Arc::new(|_, bytes: &[u8]| Ok(digest(bytes))));
    // Small, so that everything happens.
    options.segment_bytes = 2_000;
    options.tail_bytes = 4_000;
    options.ids_max = 3;
    options
}

fn fixture(path: PathBuf) -> Fixture {
    Fixture {
        open: Box::new(move || {
            let path = path.clone();
            Box::pin(
                async move { Arc::new(RedbCentral::open(&path, &options()).expect("open")) as Arc<dyn CentralLog> },
            )
        }),
    }
}

macro_rules! conforms {
    ($($case:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $case() {
            let folder = tempfile::tempdir().expect("a folder");
            cases::$case(&fixture(folder.path().join("central.redb"))).await;
        })*
    };
}

conforms!(
    order_and_reopening,
    duplicates_and_gaps,
    refusals,
    epochs,
    concurrent_appends_have_no_gaps,
    waiting_misses_nothing,
    snapshots_and_trimming,
    erasure,
    blobs_and_notes,
);

#[test]
fn random_operations_equal_the_model() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let count = std::cell::Cell::new(0);
    model::random_operations(&runtime, 48, &|| {
        count.set(count.get() + 1);
        fixture(folder.path().join(format!("{}.redb", count.get())))
    });
}

fn central(path: &Path, stable: StablePolicy) -> RedbCentral {
    RedbCentral::open(path, &CentralOptions { stable, ..options() }).expect("open")
}

#[tokio::test]
async fn opens_what_an_embedded_centre_wrote() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    let embedded = || RedbLog::open(&path, "run", Box::new(|_| {}), Box::new(|error| panic!("{error}"))).expect("open");
    let change = |text: &str| Arc::from(text.as_bytes());
    {
        let log = embedded();
        log.append(vec![(ShardId(3), vec![change("a|1"), change("b|2"), change("a|3")])]).expect("append");
        log.barrier().wait().await.expect("durable");
    }
    {
        let log = central(&path, StablePolicy::Commit);
        assert_eq!(log.id(), "run");
        assert_eq!(texts(&log, 3, 0).await.len(), 3);
        assert_eq!(append(&log, push(3, 1, 7, 0, &["b|x", "c|4"])).await, taken(&[2, 4]));
        let sum = |sum: u64, entry: &selvedge_core::sync::Entry| {
            sum.wrapping_add(selvedge_core::sync::mix(entry.seq, digest(&entry.bytes).envelope))
        };
        let checksum = entries(&log, 3, 0).await.iter().fold(0, sum);
        assert_eq!(head(&log, 3).await.checksum, checksum);
    }
    // And back, and again.
    {
        let log = embedded();
        assert_eq!(log.read(ShardId(3), 3, 1000).expect("read")[0].bytes, b"c|4");
        log.append(vec![(ShardId(3), vec![change("d|5")])]).expect("append");
        log.barrier().wait().await.expect("durable");
    }
    {
        let log = central(&path, StablePolicy::Commit);
        assert_eq!(append(&log, push(3, 1, 8, 0, &["d|y", "e|6"])).await, taken(&[5, 6]));
    }
    // An outbox is no log of a centre.
    let log = embedded();
    log.append(vec![(ShardId(4), vec![change("a|1"), change("b|2")])]).expect("append");
    log.trim(&[(ShardId(4), 1)]).wait().await.expect("nothing is durable yet, or one is trimmed");
    log.trim(&[(ShardId(4), 1)]).wait().await.expect("trimmed");
    drop(log);
    assert!(matches!(RedbCentral::open(&path, &options()), Err(LogError::Configuration(_))));
}

#[tokio::test]
async fn a_restored_backup_is_another_epoch() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, copy) = (folder.path().join("central.redb"), folder.path().join("backup.redb"));
    let log = central(&path, StablePolicy::Backup);
    for at in 0..100 {
        append(&log, push(1, 1, 7, at, &[&format!("{at}|{}", "x".repeat(100))])).await;
    }
    log.put_note("n", b"kept".to_vec()).await.expect("a note");
    log.put_blob([1; 32], vec![5; 200_000]).await.expect("a blob");
    assert_eq!(head(&log, 1).await.stable, 0);
    let progress = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&progress);
    let hear = Box::new(move |at: selvedge_central::Progress| heard.lock().expect("lock").push(at));
    let heads = log.backup(&copy, hear).await.expect("a backup");
    assert!(heads.contains(&(ShardId(1), selvedge_core::view::Cursor { epoch: 1, seq: 100 })));
    let last = *progress.lock().expect("lock").last().expect("progress");
    assert!(last.done > 200_000 && last.done == last.total, "{last:?}");
    assert_eq!(head(&log, 1).await.stable, 100);
    assert_eq!(append(&log, push(1, 1, 7, 100, &["lost|"])).await, taken(&[101]));
    assert_eq!(head(&log, 1).await.stable, 100, "what no backup holds is not stable");
    let again = log.backup(&copy, Box::new(|_| {})).await;
    assert!(matches!(again, Err(LogError::Unsupported(_))), "no file is overwritten");
    let before = head(&log, 1).await;
    assert!(RedbCentral::restore(&copy, &path).is_err(), "nor here");
    drop(log);

    std::fs::rename(&path, folder.path().join("lost.redb")).expect("lose it");
    RedbCentral::restore(&copy, &path).expect("restored");
    let log = central(&path, StablePolicy::Backup);
    let after = head(&log, 1).await;
    assert_eq!((after.seq, after.epoch > before.epoch), (100, true));
    assert_eq!(log.note("n").await, Ok(Some(b"kept".to_vec())));
    assert_eq!(log.blob([1; 32]).await, Ok(Some(vec![5; 200_000])));
    assert_eq!(append(&log, push(1, 1, 7, 101, &["next|"])).await, Pushed::Epoch { epoch: after.epoch });
    assert_eq!(
        append(&log, push(1, after.epoch, 7, 101, &["next|"])).await,
        Pushed::Behind { watermark: 100, head: 100 }
    );
    let both = push(1, after.epoch, 7, 100, &["lost|", "next|"]);
    assert_eq!(append(&log, both).await, taken(&[101, 102]));
    assert_eq!(append(&log, push(1, after.epoch, 8, 0, &["7|late"])).await, taken(&[8]), "ids are in the backup");
    drop(log);
    let log = central(&path, StablePolicy::Backup);
    assert_eq!(head(&log, 1).await.epoch, after.epoch, "only once");
}

#[tokio::test]
async fn a_second_process_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("central.redb");
    let _log = central(&path, StablePolicy::Commit);
    assert!(matches!(RedbCentral::open(&path, &options()), Err(LogError::InUse(_))));
}
