//! What the log keeps, trims and erases.

use super::*;
use std::sync::Mutex;

fn open(path: &Path) -> (RedbLog, Arc<Mutex<Vec<Committed>>>) {
    let commits = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&commits);
    let on_commit = Box::new(move |committed: &[Committed]| heard.lock().expect("lock").extend_from_slice(committed));
    let log = RedbLog::open(path, "test", on_commit, Box::new(|error| panic!("{error}"))).expect("open the log");
    (log, commits)
}

fn append(log: &RedbLog, shard: u16, texts: &[&str]) {
    let changes = texts.iter().map(|text| Arc::from(text.as_bytes())).collect();
    log.append(vec![(ShardId(shard), changes)]).expect("append");
}

fn texts(log: &RedbLog, shard: u16, after: u64, bytes_max: usize) -> Vec<(u64, String)> {
    let entries = log.read(ShardId(shard), after, bytes_max).expect("read");
    entries.into_iter().map(|entry| (entry.seq, String::from_utf8(entry.bytes).expect("text"))).collect()
}

#[test]
fn entries_are_gapless_in_order_and_survive() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    {
        let (log, commits) = open(&path);
        append(&log, 3, &["a", "b"]);
        append(&log, 5, &["x"]);
        append(&log, 3, &["c"]);
        log.barrier().wait_blocking().expect("durable");
        let counted: usize = commits.lock().expect("lock").iter().map(|entries| entries.count).sum();
        assert_eq!(counted, 4);
    }
    let (log, commits) = open(&path);
    assert_eq!(log.id(), "test");
    assert_eq!(log.heads().expect("heads")[3], Cursor { epoch: 1, seq: 3 });
    append(&log, 3, &["d"]);
    log.barrier().wait_blocking().expect("durable");
    assert_eq!(commits.lock().expect("lock")[0], Committed { shard: ShardId(3), first_seq: 4, count: 1 });
    assert_eq!(texts(&log, 3, 0, 1000), [(1, "a".into()), (2, "b".into()), (3, "c".into()), (4, "d".into())]);
    assert_eq!(texts(&log, 3, 2, 1), [(3, "c".into())]);
    assert_eq!(texts(&log, 5, 1, 1000), []);
    assert_eq!(texts(&log, 6, 0, 1000), []);
}

#[test]
fn what_a_centre_keeps_besides_is_kept_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    {
        let (log, _) = open(&path);
        assert_eq!((log.blob([1; 32]), log.centre_note("draft")), (Ok(None), Ok(None)));
        log.put_blob([1; 32], b"text").expect("kept");
        log.put_centre_note("draft", b"a").expect("kept");
        log.put_centre_note("gone", b"b").expect("kept");
        log.remove_centre_note("gone").expect("removed");
        append(&log, crate::CONTROL.0, &["a catalogue"]);
        log.barrier().wait_blocking().expect("durable");
    }
    let (log, _) = open(&path);
    assert_eq!(log.blob([1; 32]).expect("read").as_deref(), Some(b"text".as_slice()));
    assert_eq!(log.centre_note("draft").expect("read").as_deref(), Some(b"a".as_slice()));
    assert_eq!(log.centre_note("gone"), Ok(None));
    assert_eq!(texts(&log, crate::CONTROL.0, 0, 1000), [(1, "a catalogue".into())]);
}

#[test]
fn notes_come_and_go_with_the_changes_that_they_are_appended_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    let note = |name: &str, bytes: Option<&[u8]>| (name.to_owned(), bytes.map(<[u8]>::to_vec));
    {
        let (log, _) = open(&path);
        log.keep_note("decidedly", b"other").expect("kept");
        log.append_and_note(Vec::new(), vec![note("decided:1", Some(b"a")), note("decided:2", Some(b"b"))])
            .expect("noted");
        let changes = vec![(ShardId(3), vec![Arc::from(b"c".as_slice())])];
        log.append_and_note(changes, vec![note("decided:1", None), note("decided:3", Some(b"d"))]).expect("noted");
        log.barrier().wait_blocking().expect("durable");
    }
    let (log, _) = open(&path);
    let left = vec![("decided:2".to_owned(), b"b".to_vec()), ("decided:3".to_owned(), b"d".to_vec())];
    assert_eq!((log.notes("decided:"), log.notes("nothing")), (Ok(left), Ok(Vec::new())));
    assert_eq!(texts(&log, 3, 0, 1000), [(1, "c".into())]);
}

#[test]
fn reads_cross_segments() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, _) = open(&folder.path().join("log.redb"));
    let large = "x".repeat(GROUP_BYTES_MAX);
    let commits = (SEGMENT_BYTES as usize / GROUP_BYTES_MAX) * 2 + 3;
    for _ in 0..commits {
        append(&log, 1, &[&large]);
        append(&log, 2, &["y"]);
    }
    log.barrier().wait_blocking().expect("durable");
    let read = log.database.begin_read().expect("read");
    assert!(read.list_tables().expect("tables").count() >= 3 + 2, "several segments");
    let seqs: Vec<_> = log.read(ShardId(2), 0, usize::MAX).expect("read").into_iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (1..=commits as u64).collect::<Vec<_>>());
    let tail: Vec<_> =
        log.read(ShardId(2), 100, usize::MAX).expect("read").into_iter().map(|entry| entry.seq).collect();
    assert_eq!(tail, (101..=commits as u64).collect::<Vec<_>>());
}

#[test]
fn a_second_process_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    let (_log, _) = open(&path);
    let again = RedbLog::open(&path, "other", Box::new(|_| {}), Box::new(|_| {}));
    assert!(matches!(again, Err(LogError::InUse(_))));
}

fn small(path: &Path) -> RedbLog {
    RedbLog::open_with(path, "test", 64 * 1024, Box::new(|_| {}), Box::new(|error| panic!("{error}"))).expect("open")
}

#[test]
fn what_is_trimmed_is_gone_for_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("outbox.redb");
    {
        let log = small(&path);
        append(&log, 3, &["one", "two", "three"]);
        append(&log, 5, &["four"]);
        log.barrier().wait_blocking().expect("durable");
        assert_eq!(log.live_bytes(), 15);
        log.trim(&[(ShardId(3), 2), (ShardId(5), 99)]).wait_blocking().expect("trimmed");
        assert_eq!(log.live_bytes(), 5);
        log.trim(&[(ShardId(3), 1)]).wait_blocking().expect("nothing to do");
        assert_eq!(log.live_bytes(), 5);
    }
    let log = small(&path);
    assert_eq!(log.live_bytes(), 5);
    assert_eq!(log.trimmed(ShardId(3)), Ok(2));
    assert_eq!(texts(&log, 3, 0, 1000), [(3, "three".into())]);
    assert_eq!(texts(&log, 5, 0, 1000), []);
    append(&log, 5, &["five"]);
    log.barrier().wait_blocking().expect("durable");
    assert_eq!(texts(&log, 5, 0, 1000), [(2, "five".into())]);
}

#[test]
fn what_is_erased_is_read_no_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    {
        let log = small(&path);
        append(&log, 3, &["one", "secret", "three"]);
        log.barrier().wait_blocking().expect("durable");
        log.erase(ShardId(3), vec![(2, b"-".to_vec()), (9, b"-".to_vec())]).wait_blocking().expect("erased");
    }
    let log = small(&path);
    assert_eq!(texts(&log, 3, 0, 1000), [(1, "one".into()), (2, "-".into()), (3, "three".into())]);
}

#[test]
fn appended_to_and_trimmed_in_turn_it_stays_small() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("outbox.redb");
    let log = small(&path);
    let tables = |log: &RedbLog| log.database.begin_read().expect("read").list_tables().expect("tables").count();
    // Those that there are whatever is in them.
    let own = tables(&log);
    let change = "x".repeat(1000);
    let changes = vec![change.as_str(); 50];
    let (mut after_ten, mut last) = (0, 0);
    for round in 1..=200_u64 {
        append(&log, 1, &changes);
        append(&log, 2, &["y"]);
        log.barrier().wait_blocking().expect("durable");
        // The last two rounds are held, as by a push under way.
        let held = round.saturating_sub(2);
        log.trim(&[(ShardId(1), held * 50), (ShardId(2), held)]).wait_blocking().expect("trimmed");
        last = log.disk_bytes().expect("a size");
        if round == 10 {
            after_ten = last;
        }
    }
    assert!(last <= after_ten * 2, "{last} after 200 rounds, {after_ten} after 10");
    assert_eq!(log.live_bytes(), 2 * (50 * 1000 + 1));
    assert_eq!(texts(&log, 1, 0, usize::MAX).first().map(|(seq, _)| *seq), Some(198 * 50 + 1));
    assert!(tables(&log) <= own + 5, "{own} tables, then {}", tables(&log));
    drop(log);
    assert_eq!(small(&path).live_bytes(), 2 * (50 * 1000 + 1));
}
