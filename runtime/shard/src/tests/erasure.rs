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
