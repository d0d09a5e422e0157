//! That the journal is never seen: whatever goes through it reads as if it had gone into the tables at once, also after
//! a crash.

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redb::{ReadableTable, TableDefinition, TableHandle};
use selvedge_core::change::Digest;
use selvedge_core::sync::mix;

use super::*;
use crate::redb::{HEADS, Log, SEGMENTS, TRIMMED};
use crate::{CentralLog, CentralOptions, Read, RedbCentral};

const NEVER: Duration = Duration::from_secs(3600);
const SMALL: u64 = 2_000;

type Commits = Arc<Mutex<Vec<Committed>>>;

fn lingering(path: &Path, linger: Duration) -> (RedbLog, Commits) {
    let commits = Commits::default();
    let heard = Arc::clone(&commits);
    let on_commit = Box::new(move |committed: &[Committed]| heard.lock().expect("lock").extend_from_slice(committed));
    let on_failure = Box::new(|error| panic!("{error}"));
    (RedbLog::open_lingering(path, "test", SMALL, linger, on_commit, on_failure).expect("open"), commits)
}

fn change(text: &str) -> Arc<[u8]> {
    Arc::from(text.as_bytes())
}

/// Appends changes and waits until they are durable.
fn durable(log: &RedbLog, some: &[(u16, &[&str])]) {
    let changes = some.iter().map(|(shard, texts)| (ShardId(*shard), texts.iter().map(|text| change(text)).collect()));
    log.append(changes.collect()).expect("append");
    log.barrier().wait_blocking().expect("durable");
}

fn unsettled(log: &RedbLog) -> bool {
    log.unsettled.load(Ordering::Acquire)
}

fn texts(log: &RedbLog, shard: u16) -> Vec<String> {
    let entries = log.read(ShardId(shard), 0, usize::MAX).expect("read");
    entries.into_iter().map(|entry| format!("{} {}", entry.seq, String::from_utf8_lossy(&entry.bytes))).collect()
}

/// What the file would hold, were the process killed now; the writing thread must have nothing to do.
fn killed(log: &RedbLog, to: &Path) {
    std::fs::copy(&log.path, to).expect("a copy");
}

/// How many rows the journal in the file has.
fn rows(log: &RedbLog) -> usize {
    rows_of(&log.database)
}

fn rows_of(database: &Database) -> usize {
    let read = database.begin_read().expect("read");
    let journal: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
    read.open_table(journal).expect("the journal").iter().expect("rows").count()
}

/// For a centre to which a change's digest is its length, and no id.
fn options(id: &str) -> CentralOptions {
    let digest = |_, bytes: &[u8]| Ok(Digest { shard: None, id: None, envelope: bytes.len() as u64 });
    CentralOptions { segment_bytes: SMALL, ..CentralOptions::new(id, Arc::new(digest)) }
}

#[tokio::test]
async fn what_is_durable_is_read_at_once_also_by_a_task() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, commits) = lingering(&folder.path().join("log.redb"), NEVER);
    for round in 0..3_u64 {
        log.append(vec![(ShardId(1), vec![change("a"), change("b")]), (ShardId(2), vec![change("x")])])
            .expect("append");
        log.barrier().wait().await.expect("durable");
        assert!(unsettled(&log));
        if round == 1 {
            assert_eq!(texts(&log, 1), ["1 a", "2 b", "3 a", "4 b"]);
            assert!(!unsettled(&log));
        }
    }
    let of_one = |first_seq| Committed { shard: ShardId(1), first_seq, count: 2 };
    let of_two = |first_seq| Committed { shard: ShardId(2), first_seq, count: 1 };
    let told = [of_one(1), of_two(1), of_one(3), of_two(2), of_one(5), of_two(3)];
    assert_eq!(*commits.lock().expect("lock"), told);
    assert_eq!(log.heads().expect("heads")[1], Cursor { epoch: 1, seq: 6 });
    assert_eq!(texts(&log, 2), ["1 x", "2 x", "3 x"]);
}

#[test]
fn it_is_settled_once_nothing_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, _) = lingering(&folder.path().join("log.redb"), Duration::from_millis(1));
    durable(&log, &[(1, &["a"])]);
    while unsettled(&log) {
        std::thread::yield_now();
    }
    assert_eq!((rows(&log), texts(&log, 1)), (0, vec!["1 a".to_owned()]));
}

#[test]
fn it_is_settled_when_the_log_is_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    let (log, _) = lingering(&path, NEVER);
    durable(&log, &[(1, &["a"])]);
    assert_eq!(rows(&log), 1);
    drop(log);
    assert_eq!(rows_of(&Database::open(&path).expect("open")), 0);
    assert_eq!(texts(&lingering(&path, NEVER).0, 1), ["1 a"]);
}

#[test]
fn it_is_settled_once_it_is_full_and_by_all_that_does_not_go_into_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, _) = lingering(&folder.path().join("log.redb"), NEVER);
    let large = "x".repeat(75_000);
    for held in 1..=3 {
        durable(&log, &[(1, &[&large])]);
        assert_eq!(rows(&log), held);
    }
    durable(&log, &[(1, &[&large])]);
    // Behind what is done after the last answer.
    log.barrier().wait_blocking().expect("nothing to do");
    assert_eq!((unsettled(&log), rows(&log)), (false, 0));
    // More than it takes.
    durable(&log, &[(1, &["a"])]);
    durable(&log, &[(1, &[&large, &large, &large, &large])]);
    assert_eq!((unsettled(&log), rows(&log)), (false, 0));
    durable(&log, &[(1, &["b"])]);
    log.append_and_note(vec![(ShardId(1), vec![change("c")])], vec![("note".into(), None)]).expect("append");
    log.barrier().wait_blocking().expect("durable");
    assert_eq!((unsettled(&log), rows(&log)), (false, 0));
    durable(&log, &[(1, &["d"])]);
    log.trim(&[(ShardId(1), 11)]).wait_blocking().expect("trimmed");
    assert_eq!((unsettled(&log), rows(&log)), (false, 0));
    durable(&log, &[(1, &["e"])]);
    log.erase(ShardId(1), vec![(13, b"-".to_vec())]).wait_blocking().expect("erased");
    assert_eq!((unsettled(&log), rows(&log)), (false, 0));
    assert_eq!(texts(&log, 1), ["12 d", "13 -"]);
    durable(&log, &[(1, &["f"])]);
    log.trim(&[(ShardId(1), 99)]).wait_blocking().expect("trimmed");
    assert_eq!((log.trimmed(ShardId(1)), texts(&log, 1)), (Ok(14), Vec::new()));
}

#[test]
fn other_writers_of_the_file_leave_it_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, image) = (folder.path().join("log.redb"), folder.path().join("killed.redb"));
    let (log, _) = lingering(&path, NEVER);
    durable(&log, &[(1, &["a"])]);
    log.keep_note("own", b"1").expect("kept");
    log.put_blob([1; 32], b"text").expect("kept");
    log.put_centre_note("draft", b"2").expect("kept");
    assert!(unsettled(&log), "nobody read the log");
    durable(&log, &[(1, &["b"])]);
    killed(&log, &image);
    for log in [lingering(&image, NEVER).0, log] {
        assert_eq!(texts(&log, 1), ["1 a", "2 b"]);
        assert_eq!((log.note("own"), log.centre_note("draft")), (Ok(Some(b"1".to_vec())), Ok(Some(b"2".to_vec()))));
        assert_eq!(log.blob([1; 32]), Ok(Some(b"text".to_vec())));
    }
}

#[test]
fn a_log_that_failed_tells_readers_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log.redb");
    let log = RedbLog::open_lingering(&path, "test", SMALL, NEVER, Box::new(|_| {}), Box::new(|_| {})).expect("open");
    durable(&log, &[(1, &["a"])]);
    let failure = LogError::Store("the disk is full".into());
    log.failed.set(failure.clone()).expect("the first failure");
    assert_eq!(log.read(ShardId(1), 0, usize::MAX), Err(failure.clone()));
    assert_eq!(log.heads(), Err(failure.clone()));
    assert_eq!(log.barrier().wait_blocking(), Err(failure));
}

/// Everything that the log's tables say.
fn tables(log: &RedbLog) -> BTreeMap<String, Vec<String>> {
    fn of<K: redb::Key + 'static, V: redb::Value + 'static>(
        read: &ReadTransaction,
        table: TableDefinition<'_, K, V>,
    ) -> Vec<String> {
        let table = read.open_table(table).expect("a table");
        let rows = table.iter().expect("rows").map(|row| row.expect("a row"));
        rows.map(|(key, value)| format!("{:?} {:?}", key.value(), value.value())).collect()
    }
    let read = log.begin_read().expect("read");
    let mut tables = BTreeMap::from([
        ("heads".into(), of(&read, HEADS)),
        ("trimmed".into(), of(&read, TRIMMED)),
        ("segments".into(), of(&read, SEGMENTS)),
    ]);
    for table in read.list_tables().expect("tables").filter(|table| table.name().starts_with("log-")) {
        tables.insert(table.name().to_owned(), of(&read, Log::new(table.name())));
    }
    tables
}

#[test]
fn the_tables_are_what_they_would_be_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (journalled, direct) = (lingering(&at("journalled.redb"), NEVER).0, lingering(&at("direct.redb"), NEVER).0);
    for round in 0..60_u16 {
        // Rolls the segment in the middle of what is held.
        let text = "x".repeat(usize::from(round * 7 % 200));
        let changes = || vec![(ShardId(round % 5), vec![change(&text); 3]), (ShardId(9), vec![change("y")])];
        journalled.append(changes()).expect("append");
        direct.append_and_note(changes(), vec![("note".into(), None)]).expect("append");
        for log in [&journalled, &direct] {
            log.barrier().wait_blocking().expect("durable");
            if round == 30 {
                log.trim(&[(ShardId(9), 20), (ShardId(2), 99)]).wait_blocking().expect("trimmed");
            }
        }
    }
    assert_eq!((unsettled(&journalled), unsettled(&direct)), (true, false));
    killed(&journalled, &at("killed.redb"));
    let expected = tables(&direct);
    assert!(expected.len() > 6, "several segments");
    let recovered = lingering(&at("killed.redb"), NEVER).0;
    assert_eq!((rows(&recovered), tables(&recovered)), (0, expected.clone()));
    assert_eq!((recovered.live_bytes(), journalled.live_bytes()), (direct.live_bytes(), direct.live_bytes()));
    assert_eq!(tables(&journalled), expected);
    // What was settled for a reader is not durable in the tables, but in the journal.
    killed(&journalled, &at("killed-again.redb"));
    assert_eq!(tables(&lingering(&at("killed-again.redb"), NEVER).0), expected);
    drop(journalled);
    assert_eq!(tables(&lingering(&at("journalled.redb"), NEVER).0), expected);
}

#[derive(Clone, Debug)]
enum Step {
    /// Changes by shard, of so many bytes, with a note or without.
    Append(Vec<(u16, Vec<u16>)>, bool),
    Barrier,
    /// From so far before the head.
    Read(u16, u64),
    Heads,
    /// Up to so far before the head, or beyond.
    Trim(u16, u64),
    Erase(u16, u64),
    Note,
    Reopen,
    /// The process is killed; then a centre opens the file where it can.
    Kill(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = prop::collection::vec((0_u16..4, prop::collection::vec(0_u16..300, 0..5)), 1..4);
    let step = prop_oneof![
        8 => (changes, prop::bool::weighted(0.1)).prop_map(|(changes, noted)| Step::Append(changes, noted)),
        6 => Just(Step::Barrier),
        2 => (0_u16..4, 0_u64..9).prop_map(|(shard, back)| Step::Read(shard, back)),
        1 => Just(Step::Heads),
        1 => (0_u16..4, 0_u64..9).prop_map(|(shard, back)| Step::Trim(shard, back)),
        1 => (0_u16..4, 0_u64..9).prop_map(|(shard, back)| Step::Erase(shard, back)),
        1 => Just(Step::Note),
        1 => Just(Step::Reopen),
        2 => any::<bool>().prop_map(Step::Kill),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the log should hold of one shard.
#[derive(Clone, Default)]
struct Shard {
    entries: Vec<Arc<[u8]>>,
    /// How many of them are durable for certain.
    durable: usize,
    trimmed: usize,
}

/// A log, and what it should be.
struct Model<'r> {
    runtime: &'r tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    log: RedbLog,
    commits: Commits,
    linger: Duration,
    shards: BTreeMap<u16, Shard>,
    /// The heads when it was opened.
    opened_at: BTreeMap<u16, usize>,
    note: Option<u64>,
    files: usize,
}

impl<'r> Model<'r> {
    fn new(runtime: &'r tokio::runtime::Runtime, linger: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, commits) = lingering(&folder.path().join("0.redb"), linger);
        let shards = (0..4).map(|shard| (shard, Shard::default())).collect();
        Self { runtime, folder, log, commits, linger, shards, opened_at: BTreeMap::new(), note: None, files: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(format!("{}.redb", self.files))
    }

    fn opened(&mut self, (log, commits): (RedbLog, Commits)) {
        (self.log, self.commits) = (log, commits);
        self.opened_at = self.shards.iter().map(|(shard, model)| (*shard, model.entries.len())).collect();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(changes, noted) => self.append(changes, *noted),
            Step::Barrier => self.barrier(),
            Step::Read(shard, back) => self.read(*shard, *back),
            Step::Heads => self.heads(),
            Step::Trim(shard, back) => self.trim(*shard, *back),
            Step::Erase(shard, back) => self.erase(*shard, *back),
            Step::Note => {
                self.note = Some(self.note.unwrap_or(0) + 1);
                self.log.keep_note("kept", &self.note.expect("one").to_le_bytes()).expect("kept");
            }
            Step::Reopen => {
                let path = self.log.path.clone();
                // The file can be opened once the log before is gone.
                let (other, _) = lingering(&self.folder.path().join("other.redb"), NEVER);
                drop(std::mem::replace(&mut self.log, other));
                self.barrier_passed();
                let opened = lingering(&path, self.linger);
                self.opened(opened);
                self.check();
            }
            Step::Kill(central) => self.kill(*central),
        }
    }

    fn append(&mut self, changes: &[(u16, Vec<u16>)], noted: bool) {
        let mut all = Vec::new();
        for (shard, lengths) in changes {
            let model = self.shards.get_mut(shard).expect("a shard");
            let mut appended = Vec::new();
            for length in lengths {
                let text = format!("{shard}.{}", model.entries.len() + 1) + &".".repeat(usize::from(*length));
                model.entries.push(change(&text));
                appended.push(change(&text));
            }
            all.push((ShardId(*shard), appended));
        }
        let notes = if noted { vec![("noted".to_owned(), Some(vec![1]))] } else { Vec::new() };
        self.log.append_and_note(all, notes).expect("append");
    }

    fn barrier(&mut self) {
        self.log.barrier().wait_blocking().expect("durable");
        self.barrier_passed();
        for (shard, model) in &self.shards {
            let mut next = self.opened_at.get(shard).copied().unwrap_or(0) as u64 + 1;
            for told in self.commits.lock().expect("lock").iter().filter(|told| told.shard.0 == *shard) {
                assert_eq!(told.first_seq, next, "shard {shard}");
                next += told.count as u64;
            }
            assert_eq!(next, model.durable as u64 + 1, "shard {shard}");
        }
        let live = |shard: &Shard| shard.entries[shard.trimmed..].iter().map(|change| change.len() as u64).sum::<u64>();
        assert_eq!(self.log.live_bytes(), self.shards.values().map(live).sum::<u64>());
    }

    fn read(&mut self, shard: u16, back: u64) {
        self.before_read();
        let model = &self.shards[&shard];
        let after = (model.entries.len() as u64).saturating_sub(back);
        let read = self.log.read(ShardId(shard), after, usize::MAX).expect("read");
        let from = usize::try_from(after).expect("small").max(model.trimmed);
        assert!(read.len() >= model.durable.saturating_sub(from), "shard {shard}: what is durable is read");
        for (entry, at) in read.iter().zip(from..) {
            assert_eq!((entry.seq, &entry.bytes[..]), (at as u64 + 1, &*model.entries[at]), "shard {shard}");
        }
    }

    /// Whoever asks the writing thread to settle stands behind everything before, as if it waited for it.
    fn before_read(&mut self) {
        if self.linger == NEVER && unsettled(&self.log) {
            self.barrier_passed();
        }
    }

    fn heads(&mut self) {
        self.before_read();
        let heads = self.log.heads().expect("heads");
        for (shard, model) in &self.shards {
            let seq = heads[usize::from(*shard)].seq as usize;
            assert!((model.durable..=model.entries.len()).contains(&seq), "shard {shard}: {seq}");
        }
    }

    /// A sequence of a shard; where it is known what is durable, maybe one behind all.
    fn some_seq(&self, shard: u16, back: u64) -> u64 {
        let model = &self.shards[&shard];
        let beyond = if model.durable == model.entries.len() { 2 } else { 0 };
        (model.durable as u64 + beyond).saturating_sub(back)
    }

    fn trim(&mut self, shard: u16, back: u64) {
        let up_to = self.some_seq(shard, back);
        self.log.trim(&[(ShardId(shard), up_to)]).wait_blocking().expect("trimmed");
        self.barrier_passed();
        let model = self.shards.get_mut(&shard).expect("a shard");
        model.trimmed = model.trimmed.max(usize::try_from(up_to).expect("small").min(model.entries.len()));
        assert_eq!(self.log.trimmed(ShardId(shard)), Ok(model.trimmed as u64));
    }

    fn erase(&mut self, shard: u16, back: u64) {
        let seq = self.some_seq(shard, back);
        let model = self.shards.get_mut(&shard).expect("a shard");
        let at = usize::try_from(seq).expect("small").wrapping_sub(1);
        // As long as before, so that what the segments count is still right.
        let replacement = vec![b'-'; model.entries.get(at).map_or(1, |change| change.len())];
        if let Some(change) = model.entries.get_mut(at) {
            *change = replacement.clone().into();
        }
        self.log.erase(ShardId(shard), vec![(seq, replacement)]).wait_blocking().expect("erased");
        self.barrier_passed();
    }

    /// Whatever somebody waited for stands behind everything before it.
    fn barrier_passed(&mut self) {
        self.shards.values_mut().for_each(|shard| shard.durable = shard.entries.len());
    }

    fn kill(&mut self, central: bool) {
        if self.linger != NEVER {
            // Until the thread has nothing to do any more.
            self.barrier();
            self.heads();
        }
        self.files += 1;
        killed(&self.log, &self.path());
        self.shards.values_mut().for_each(|shard| shard.entries.truncate(shard.durable));
        if central && self.shards.values().all(|shard| shard.trimmed == 0) {
            self.open_central();
        }
        let opened = lingering(&self.path(), self.linger);
        self.opened(opened);
        self.check();
    }

    fn open_central(&self) {
        let log = RedbCentral::open(&self.path(), &options("test")).expect("open");
        let heads = self.runtime.block_on(log.heads()).expect("heads");
        for (shard, model) in &self.shards {
            let head = heads[usize::from(*shard)];
            assert_eq!(head.seq, model.entries.len() as u64);
            let read = self.runtime.block_on(log.read(ShardId(*shard), 0, usize::MAX)).expect("read");
            let Read::Entries { entries, .. } = read else { panic!("nothing is trimmed") };
            let read: Vec<_> = entries.into_iter().map(|entry| entry.bytes).collect();
            assert_eq!(read, model.entries);
        }
    }

    /// Everything, after it was opened.
    fn check(&self) {
        assert_eq!(rows(&self.log), 0);
        for (shard, model) in &self.shards {
            let read = self.log.read(ShardId(*shard), 0, usize::MAX).expect("read");
            let read: Vec<_> = read.into_iter().map(|entry| (entry.seq as usize, entry.bytes)).collect();
            let expected = model.entries.iter().enumerate().skip(model.trimmed);
            assert_eq!(read, expected.map(|(at, change)| (at + 1, change.to_vec())).collect::<Vec<_>>());
            assert_eq!(self.log.heads().expect("heads")[usize::from(*shard)].seq, model.entries.len() as u64);
        }
        let note = self.log.note("kept").expect("read");
        assert_eq!(note, self.note.map(|note| note.to_le_bytes().to_vec()));
    }
}

#[test]
fn random_operations_equal_the_model() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = Config { cases: 32, failure_persistence: None, ..Config::default() };
    let lingers = prop_oneof![3 => Just(NEVER), 1 => Just(Duration::from_millis(1))];
    TestRunner::new(config)
        .run(&(steps(), lingers), |(steps, linger)| {
            let mut model = Model::new(&runtime, linger);
            steps.iter().for_each(|step| model.step(step));
            model.barrier();
            model.kill(true);
            Ok(())
        })
        .expect("the log equals the model");
}

#[test]
fn a_centre_sums_up_what_a_killed_process_left() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("killed.redb");
    let (log, _) = lingering(&folder.path().join("log.redb"), NEVER);
    durable(&log, &[(1, &["a", "bb"]), (3, &["x"])]);
    durable(&log, &[(1, &["ccc"])]);
    killed(&log, &image);
    let central = RedbCentral::open(&image, &options("other")).expect("open");
    assert_eq!(central.id(), "test");
    let head = runtime.block_on(central.heads()).expect("heads")[1];
    let sum = [(1, 1), (2, 2), (3, 3)].iter().fold(0_u64, |sum, (seq, bytes)| sum.wrapping_add(mix(*seq, *bytes)));
    assert_eq!((head.epoch, head.seq, head.checksum), (1, 3, sum));
    drop(central);
    assert_eq!(texts(&lingering(&image, NEVER).0, 1), ["1 a", "2 bb", "3 ccc"]);
}
