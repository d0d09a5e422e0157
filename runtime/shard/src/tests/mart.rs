//! Loads among events: pending, in the base, after a start, as of an instant, and of joined fragments.

use super::*;
use selvedge_core::mart::{Arriving, Load};
use serde_json::value::RawValue;

/// The number and the seconds of events up to a second.
pub(super) fn load(shards: &Shards, second: i64, events: i64, seconds: i64) -> Load {
    let raw = |value: i64| RawValue::from_string(value.to_string()).expect("JSON");
    let (events, seconds, tier) = (raw(events), raw(seconds), raw(second));
    let arriving = Arriving {
        source: "crm",
        block: "core",
        as_of: Timestamp(second * 1000),
        id: "",
        traits: &[("tier".into(), &*tier)],
        aggregates: &[("test.events".into(), &*events), ("test.seconds".into(), &*seconds)],
    };
    Load::parse(shards.observer.definitions(), &arriving).expect("a good load")
}

fn told(shards: &Shards, log: &Log, user: u8, second: i64, events: i64, seconds: i64) -> Verdict {
    let prepared = Prepared::mart(identifier(user), load(shards, second, events, seconds));
    let verdicts = shards.admit(identifier(user).shard(), vec![prepared], log).expect("admit");
    verdicts.into_iter().next().expect("a verdict")
}

fn view(shards: &Shards, user: u8) -> (i128, i128) {
    read(shards, &shards.load(&identifier(user)).expect("load").fragment)
}

fn advance(shards: &Shards, log: &Log, user: u8) {
    let shard = identifier(user).shard();
    let (done, head) = (shards.cursor(shard).seq, log.entries(shard).len() as u64);
    if head > done {
        shards.advance(shard, done + 1, usize::try_from(head - done).expect("few")).expect("advance");
    }
}

#[test]
fn a_load_goes_on_with_the_events_after_its_watermark_wherever_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    {
        let shards = open(folder.path(), 1);
        admit(&shards, &log, 1, &[("a", 5), ("b", 7)]);
        // Everything is before the watermark: nothing is folded again.
        assert_eq!(told(&shards, &log, 1, 10, 100, 1000), Verdict::Accepted);
        assert_eq!(view(&shards, 1), (100, 1000));
        admit(&shards, &log, 1, &[("c", 12), ("late", 9)]);
        assert_eq!(view(&shards, 1), (101, 1012), "what comes late is in the mart already");
        assert_eq!(told(&shards, &log, 1, 10, 100, 1000), Verdict::Duplicate);
        assert_eq!(told(&shards, &log, 1, 9, 1, 1), Verdict::Duplicate, "an older one");
        assert!(
            matches!(told(&shards, &log, 1, 10, 101, 1000), Verdict::Refused(refusal) if refusal.code == "load_changed")
        );
        advance(&shards, &log, 1);
        assert_eq!(view(&shards, 1), (101, 1012));
        // Newer, while an event is after the one and before the other: folded again from the history.
        assert_eq!(told(&shards, &log, 1, 12, 200, 2000), Verdict::Accepted);
        admit(&shards, &log, 1, &[("d", 13)]);
        assert_eq!(view(&shards, 1), (201, 2013));
        let held = shards.load(&identifier(1)).expect("load");
        let parts = held.fragment.mart.parts();
        assert!(parts.iter().all(|part| part.as_of == Timestamp(12_000) && !part.agrees()) && parts.len() == 2);
        advance(&shards, &log, 1);
        shards.flush().expect("flush");
        let at = |second: i64| {
            let fragment = shards.as_of(&identifier(1), Timestamp(second * 1000)).expect("as of");
            (read(&shards, &fragment), fragment.traits.text("tier", &Default::default()))
        };
        assert_eq!(at(9), ((3, 21), None), "before the first watermark there are the events");
        assert_eq!(at(10), ((100, 1000), Some("10".into())));
        assert_eq!(at(11), ((100, 1000), Some("10".into())));
        assert_eq!(at(12), ((200, 2000), Some("12".into())));
        assert_eq!(at(13), ((201, 2013), Some("12".into())));
    }
    let shards = open(folder.path(), 1);
    assert_eq!(view(&shards, 1), (201, 2013), "as it was written");
    let whole = shards.load(&identifier(1)).expect("load");
    // From the log alone, in one go and entry by entry.
    for step in [1, 100] {
        let folder = tempfile::tempdir().expect("a folder");
        let shards = open(folder.path(), 1);
        for entries in log.entries(identifier(1).shard()).chunks(step) {
            shards.recover(identifier(1).shard(), entries).expect("recover");
        }
        assert_eq!(shards.load(&identifier(1)).expect("load").fragment, whole.fragment);
    }
    drop(shards);
    // And under another activation, once its history is folded.
    let shards = open(folder.path(), 2);
    assert!(shards.load(&identifier(1)).expect("load").fragment.is_backfilling());
    assert!(shards.backfill(&identifier(1)).expect("backfill"));
    assert_eq!(shards.load(&identifier(1)).expect("load").fragment, whole.fragment);
}

#[test]
fn a_join_adds_the_best_view_of_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let (user, visitor) = (identifier(1), Identifier::stored("anonymous:a").expect("an identifier"));
    let word = Word { at: Timestamp(1), linked: true, id: [1; 16], how: How::Api };
    assert_eq!(shards.link(&user, &visitor, word, &log).expect("link"), Ok(true));
    let visit = |id: &str, second: i64| {
        let event = event(id, second);
        let effects = shards.observer.observe(&event);
        let prepared = Prepared::event(visitor.clone(), event, effects);
        assert_eq!(shards.admit(visitor.shard(), vec![prepared], &log).expect("admit"), [Verdict::Accepted]);
    };
    let joined = || read(&shards, shards.profile(&user).expect("profile").fragment());
    visit("v1", 3);
    admit(&shards, &log, 1, &[("u1", 4)]);
    assert_eq!(joined(), (2, 7));
    assert_eq!(told(&shards, &log, 1, 10, 100, 1000), Verdict::Accepted);
    assert_eq!(joined(), (101, 1003));
    // A late event of either: one is in the mart, the other is of a fragment of which the mart says nothing.
    admit(&shards, &log, 1, &[("u2", 5)]);
    assert_eq!(joined(), (101, 1003));
    visit("v2", 5);
    assert_eq!(joined(), (102, 1008));
    admit(&shards, &log, 1, &[("u3", 11)]);
    assert_eq!(joined(), (103, 1019));
    // Both of one source: the sum, for each fragment has a load of its own.
    let prepared = Prepared::mart(visitor.clone(), load(&shards, 4, 10, 20));
    assert_eq!(shards.admit(visitor.shard(), vec![prepared], &log).expect("admit"), [Verdict::Accepted]);
    assert_eq!(joined(), (100 + 1 + 10 + 1, 1000 + 11 + 20 + 5));
    let fresh: Vec<_> = [&user, &visitor].iter().map(|of| shards.load(of).expect("load")).collect();
    assert_eq!(joined(), read(&shards, &shards.join(fresh.iter().map(|view| &*view.fragment))));
    assert_eq!(
        shards.profile_as_of(&user, Timestamp(4_000)).map(|fragment| read(&shards, &fragment)).expect("as of"),
        (11, 24)
    );
}
