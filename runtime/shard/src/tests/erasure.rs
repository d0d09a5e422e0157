//! Erasure by an edge that is its own centre.

use super::*;
use selvedge_core::event::Event;

fn said(id: &str, second: i64, payload: &str) -> Event {
    Event { payload: payload.into(), ..event(id, second) }
}

fn take(shards: &Shards, log: &Log, event: Event) -> Verdict {
    let effects = shards.observer.observe(&event);
    let prepared = Prepared::event(identifier(1), event, effects);
    shards.admit(identifier(1).shard(), vec![prepared], log).expect("admit").remove(0)
}

fn advance(shards: &Shards, log: &Log, shard: ShardId) {
    let (done, head) = (shards.cursor(shard).seq, log.entries(shard).len() as u64);
    if head > done {
        shards.advance(shard, done + 1, usize::try_from(head - done).expect("few")).expect("advance");
    }
}

fn ids(shards: &Shards) -> Vec<String> {
    let mut ids = Vec::new();
    let keep = |change| {
        if let Change::Event { event, .. } = change {
            ids.push(event.message_id.to_string());
        }
    };
    shards.history(&identifier(1), keep).expect("history");
    ids
}

#[test]
fn nothing_of_a_person_stays_and_what_comes_next_begins_anew() {
    let (folder, log) = (tempfile::tempdir().expect("a folder"), Log::default());
    let shards = open(folder.path(), 1);
    let (of, other) = (identifier(1), person(2));
    let shard = of.shard();
    for number in 0..40 {
        assert_eq!(take(&shards, &log, said(&number.to_string(), number, r#"{"secret":1}"#)), Verdict::Accepted);
        if number % 7 == 0 {
            advance(&shards, &log, shard);
        }
    }
    let word = |at: i64| Word { at: Timestamp(at * 1000), linked: true, id: [1; 16], how: How::Event };
    assert_eq!(shards.link(&of, &other, word(50), &log).expect("link"), Ok(true));
    assert_eq!(shards.profile(&of).expect("profile").identifiers().len(), 2);
    let erased = shards.erase(&other, [9; 16], Timestamp(60_000), &log).expect("erase");
    assert_eq!(erased.len(), 2);
    let nothing = |shards: &Shards| {
        let profile = shards.profile(&of).expect("profile");
        assert!(profile.fragment().is_empty() && profile.identifiers().len() == 1);
        assert!(shards.as_of(&of, Timestamp(39_000)).expect("as of").is_empty());
        assert!(ids(shards).is_empty());
    };
    nothing(&shards);
    [shard, other.shard()].into_iter().for_each(|shard| advance(&shards, &log, shard));
    nothing(&shards);
    let rows = shards.disk.rows(&of);
    assert_eq!(rows.len(), 1, "the erasure itself");
    assert!(!rows[0].1.windows(6).any(|window| window == b"secret"));

    // Ids are for ever; who speaks now was received later, whatever the clock says; what was linked before stays apart.
    assert_eq!(take(&shards, &log, said("7", 61, "{}")), Verdict::Duplicate);
    assert_eq!(take(&shards, &log, said("anew", 5, "{}")), Verdict::Accepted);
    assert_eq!(shards.link(&of, &other, word(60), &log).expect("link"), Ok(false));
    assert_eq!(ids(&shards), ["anew"]);
    assert_eq!(read(&shards, &shards.load(&of).expect("load").fragment), (1, 5));
    advance(&shards, &log, shard);
    assert_eq!(shards.erased_at(&of).expect("erased"), Some(Timestamp(60_000)));

    // Whoever folds what is left of the log gets the same.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let again = open(elsewhere.path(), 1);
    for shard in HashSet::from([shard, other.shard()]) {
        let mut entries = log.entries(shard);
        let erasure = entries.iter().rposition(|(_, bytes)| Change::erases(bytes)).expect("an erasure");
        for (_, bytes) in &mut entries[..erasure] {
            *bytes = Change::erased(bytes).expect("a change").unwrap_or_else(|| bytes.clone());
        }
        again.recover(shard, &entries).expect("recover");
        assert_eq!(again.state_hash(shard).expect("hash"), shards.state_hash(shard).expect("hash"));
    }
    assert_eq!(ids(&again), ["anew"]);
    assert_eq!(take(&again, &log, said("7", 61, "{}")), Verdict::Duplicate);
}

#[test]
fn a_load_from_before_an_erasure_is_refused() {
    let (folder, log) = (tempfile::tempdir().expect("a folder"), Log::default());
    let shards = open(folder.path(), 1);
    shards.erase(&identifier(1), [9; 16], Timestamp(60_000), &log).expect("erase");
    let tell = |second| {
        let prepared = Prepared::mart(identifier(1), super::mart::load(&shards, second, 1, 1));
        shards.admit(identifier(1).shard(), vec![prepared], &log).expect("admit").remove(0)
    };
    assert!(matches!(tell(60), Verdict::Refused(refusal) if refusal.code == "erased"));
    assert_eq!(tell(61), Verdict::Accepted);
}

fn household() -> Identifier {
    Identifier::stored("household:h1").expect("an identifier")
}

fn share(shards: &Shards, log: &Log, event: Event) -> Verdict {
    let effects = shards.observer.observe(&event).on(&household());
    let prepared = Prepared::event(household(), event, effects);
    shards.admit(household().shard(), vec![prepared], log).expect("admit").remove(0)
}

fn hashes(ids: impl Iterator<Item = i64>) -> Vec<[u8; 16]> {
    ids.map(|id| event(&id.to_string(), 0).id_hash()).collect()
}

/// The ids of the events in the rows of the household, whatever the cursor.
fn on_disk(shards: &Shards) -> Vec<[u8; 16]> {
    let blocks = shards.disk.blocks(&household()).expect("blocks");
    let entries = blocks.iter().flat_map(|(_, block)| crate::block::plain_entries(block).ok().expect("a block"));
    let mut ids: Vec<_> = entries.filter_map(|(_, bytes)| Change::said_id(&bytes)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn counted(shards: &Shards) -> (i128, i128) {
    read(shards, &shards.load(&household()).expect("load").fragment)
}

#[test]
fn what_is_withdrawn_from_an_entity_never_was_and_the_rest_stays() {
    let (folder, log) = (tempfile::tempdir().expect("a folder"), Log::default());
    let shards = open(folder.path(), 1);
    let (of, shard) = (household(), household().shard());
    // Large enough for blocks of several rows; packed ones and loose ones.
    let noise: String = (0..3_000_u32).map(|at| char::from(b'a' + (at.wrapping_mul(at) >> 5) as u8 % 26)).collect();
    for number in 0..70 {
        let payload = format!(r#"{{"note":"{noise}{number}"}}"#);
        assert_eq!(share(&shards, &log, said(&number.to_string(), number, &payload)), Verdict::Accepted);
        if number % 3 == 0 || number > 60 {
            advance(&shards, &log, shard);
        }
    }
    // What is withdrawn takes nothing back.
    assert_eq!(share(&shards, &log, super::retraction::retraction("taken-back", 70, "1")), Verdict::Accepted);
    assert_eq!(counted(&shards), (70, (2..=70).sum::<i64>().into()));
    let gone = || (0..70).filter(|id| id % 2 == 0);
    let mut ids = hashes(gone());
    ids.push(event("taken-back", 0).id_hash());
    // One that comes later, too.
    ids.push(event("late", 0).id_hash());
    shards.withdraw(&of, [9; 16], &ids, &log).expect("withdraw");
    let left = (35, (1..70).filter(|id| id % 2 == 1).sum::<i64>().into());
    let check = |shards: &Shards| {
        assert_eq!(counted(shards), left, "1 counts again");
        assert_eq!(shards.load(&of).expect("load").fragment.events, 35);
        assert_eq!(read(shards, &shards.as_of(&of, Timestamp(9_000)).expect("as of")), (5, 1 + 3 + 5 + 7 + 9));
        let mut events = 0;
        shards.history(&of, |_| events += 1).expect("history");
        assert_eq!(events, 35);
        let again = share(shards, &log, said("4", 4, "{}"));
        assert_eq!((again, share(shards, &log, said("late", 4, "{}"))), (Verdict::Duplicate, Verdict::Duplicate));
    };
    check(&shards);
    assert!(on_disk(&shards).contains(&ids[0]), "until the log has it");
    let (before, rows_before) = (shards.cursor(shard), shards.disk.rows(&of));
    advance(&shards, &log, shard);
    check(&shards);
    let mut stays = hashes((0..70).filter(|id| id % 2 == 1));
    stays.sort_unstable();
    assert_eq!(on_disk(&shards), stays);
    let (rows, hash) = (shards.disk.rows(&of), shards.state_hash(shard).expect("hash"));
    drop(shards);

    // A write that is cut off anywhere before its cursor is repeated, and gives the same rows.
    let entries = log.entries(shard);
    for cut in (0..=rows_before.len()).rev().step_by(5) {
        let shards = open(folder.path(), 1);
        shards.disk.put_rows(&of, &rows_before[cut..]);
        shards.disk.write(shard, Move { cursor: before, ..Move::default() }, Vec::new()).expect("write");
        drop(shards);
        let shards = open(folder.path(), 1);
        shards.recover(shard, &entries[before.seq as usize..]).expect("recover");
        assert_eq!((shards.disk.rows(&of), shards.state_hash(shard).expect("hash")), (rows.clone(), hash), "{cut}");
    }
    let shards = open(folder.path(), 1);
    check(&shards);

    // Whoever only ever sees what is left of the log gets the same.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let again = open(elsewhere.path(), 1);
    let replaced: Vec<_> = entries
        .iter()
        .map(|(seq, bytes)| {
            let gone = Change::said_id(bytes).is_some_and(|id| ids.contains(&id));
            (*seq, if gone { Change::erased(bytes).expect("a change").expect("an event") } else { bytes.clone() })
        })
        .collect();
    for piece in replaced.chunks(7) {
        again.recover(shard, piece).expect("recover");
    }
    assert_eq!(again.state_hash(shard).expect("hash"), shards.state_hash(shard).expect("hash"));
    check(&again);
}

#[test]
fn more_than_one_change_holds_is_withdrawn_and_twice_is_once() {
    let (folder, log) = (tempfile::tempdir().expect("a folder"), Log::default());
    let shards = open(folder.path(), 1);
    let shard = household().shard();
    for number in 0..2_500 {
        share(&shards, &log, said(&number.to_string(), number, "{}"));
    }
    advance(&shards, &log, shard);
    shards.withdraw(&household(), [9; 16], &hashes(0..2_400), &log).expect("withdraw");
    advance(&shards, &log, shard);
    let state = shards.load(&household()).expect("load").fragment.clone();
    assert_eq!((counted(&shards).0, on_disk(&shards).len()), (100, 100));
    shards.withdraw(&household(), [9; 16], &hashes(0..2_400), &log).expect("withdraw");
    advance(&shards, &log, shard);
    assert_eq!(shards.load(&household()).expect("load").fragment, state);
    assert_eq!(shards.disk.ids(&household()).expect("ids").len(), 2_500);
    // All of it, as a person alone in their household.
    shards.withdraw(&household(), [9; 16], &hashes(0..2_500), &log).expect("withdraw");
    advance(&shards, &log, shard);
    assert!(shards.disk.rows(&household()).is_empty() && shards.load(&household()).expect("load").fragment.is_empty());
}

/// What is gone stands in no row: not in the record, nor in what lay on it, nor in what is left of a longer one.
#[test]
fn what_goes_leaves_nothing_of_the_record_that_had_it() {
    let (folder, log) = (tempfile::tempdir().expect("a folder"), Log::default());
    let shards = open(folder.path(), 1);
    let text = "secret ".repeat(500);
    let traits = format!(r#"{{"traits":{{"one":"{text}","two":"{text}","three":"{text}"}}}}"#);
    let large = |id: &str, kind| Event { kind, ..said(id, 5, &traits) };
    take(&shards, &log, large("5", EventKind::Identify));
    share(&shards, &log, large("5", EventKind::Group));
    let whose = [identifier(1), household()];
    let whole =
        |shards: &Shards| whose.each_ref().map(|of| (shards.disk.record_rows(of), shards.disk.stored(of).1 > 0));
    let forward = |shards: &Shards| whose.iter().for_each(|of| advance(shards, &log, of.shard()));
    forward(&shards);
    // Written now, so that what follows lies on it.
    drop(whole(&shards));
    for number in [7, 9] {
        take(&shards, &log, said(&number.to_string(), number, "{}"));
        share(&shards, &log, said(&number.to_string(), number, "{}"));
        forward(&shards);
    }
    for (rows, overlaid) in whole(&shards) {
        assert!(rows.len() > 1 && overlaid, "a long record, and small changes on it");
        assert!(rows[1..].iter().any(|row| row.windows(6).any(|window| window == b"secret")));
    }
    shards.erase(&identifier(1), [9; 16], Timestamp(60_000), &log).expect("erase");
    shards.withdraw(&household(), [9; 16], &hashes([5, 9].into_iter()), &log).expect("withdraw");
    forward(&shards);
    for (rows, overlaid) in whole(&shards) {
        assert!(rows.len() == 1 && !overlaid, "{} rows", rows.len());
        assert!(!rows[0].windows(6).any(|window| window == b"secret"));
    }
    let (bare, _) = &whole(&shards)[1];
    let (head, fragment) = crate::record::decode(&bare[0][2..]).expect("a record");
    assert_eq!((head.seq, read(&shards, &fragment), counted(&shards)), (4, (1, 7), (1, 7)));
}
