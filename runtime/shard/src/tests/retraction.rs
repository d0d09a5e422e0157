//! Retractions against a naive fold that keeps all events.

use super::*;

/// An event that takes back another.
pub(super) fn retraction(id: &str, second: i64, retracts: &str) -> Event {
    Event { payload: format!(r#"{{"context":{{"retracts":"{retracts}"}}}}"#).into(), ..event(id, second) }
}

fn tell(shards: &Shards, log: &Log, of: &Identifier, events: Vec<Event>) -> Vec<Verdict> {
    let prepare = |event: Event| {
        let effects = shards.observer.observe(&event);
        Prepared::event(of.clone(), event, effects)
    };
    shards.admit(of.shard(), events.into_iter().map(prepare).collect(), log).expect("admit")
}

/// Moves so many changes of a fragment's shard into the base.
fn advance(shards: &Shards, of: &Identifier, count: usize) {
    let done = shards.cursor(of.shard()).seq;
    shards.advance(of.shard(), done + 1, count).expect("advance");
}

#[test]
fn what_is_retracted_never_was_wherever_it_stands() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let one = identifier(1);
    let now = |shards: &Shards| read(shards, &shards.load(&one).expect("load").fragment);
    tell(&shards, &log, &one, vec![event("base", 1), event("kept", 2)]);
    advance(&shards, &one, 2);
    tell(&shards, &log, &one, vec![event("pending", 4)]);
    // Of the base, of what is pending, of what comes with it, and of what comes later.
    tell(
        &shards,
        &log,
        &one,
        vec![
            retraction("r1", 10, "base"),
            retraction("r2", 20, "pending"),
            event("same", 8),
            retraction("r3", 30, "same"),
        ],
    );
    assert_eq!(now(&shards), (4, 62));
    tell(&shards, &log, &one, vec![retraction("r4", 40, "later")]);
    assert_eq!(now(&shards), (5, 102));
    assert_eq!(tell(&shards, &log, &one, vec![event("later", 16)]), [Verdict::Accepted]);
    assert_eq!(
        tell(&shards, &log, &one, vec![event("later", 16), event("base", 1)]),
        [Verdict::Duplicate, Verdict::Duplicate]
    );
    assert_eq!(now(&shards), (5, 102));
    assert_eq!(shards.load(&one).expect("load").fragment.events, 9);
    // The base moves in pieces that split retractions from what they take back.
    for _ in 0..7 {
        advance(&shards, &one, 1);
        assert_eq!(now(&shards), (5, 102));
    }
    assert_eq!(*shards.load(&one).expect("load").fragment, shards.as_of(&one, Timestamp(i64::MAX)).expect("as of"));
    // As of before the retraction the original counts.
    assert_eq!(read(&shards, &shards.as_of(&one, Timestamp(9_000)).expect("as of")), (4, 15));
    assert_eq!(read(&shards, &shards.as_of(&one, Timestamp(19_000)).expect("as of")), (5, 2 + 4 + 8 + 10 + 16));
    drop(shards);
    let shards = open(folder.path(), 1);
    assert_eq!(now(&shards), (5, 102));
    // From nothing but the log, in pieces.
    let other = tempfile::tempdir().expect("a folder");
    let rebuilt = open(other.path(), 1);
    for piece in log.entries(one.shard()).chunks(2) {
        rebuilt.recover(one.shard(), piece).expect("recover");
    }
    assert_eq!(now(&rebuilt), (5, 102));
    assert_eq!(rebuilt.load(&one).expect("load").fragment, shards.load(&one).expect("load").fragment);
}

#[test]
fn a_write_cut_off_before_its_cursor_undoes_a_retracted_event_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    let one = identifier(1);
    {
        let shards = open(folder.path(), 1);
        tell(&shards, &log, &one, vec![event("a", 1), event("b", 2), retraction("r", 4, "a"), event("c", 8)]);
        advance(&shards, &one, 4);
        shards
            .disk
            .write(one.shard(), Move { cursor: Cursor { epoch: 1, seq: 1 }, ..Move::default() }, Vec::new())
            .expect("write");
    }
    let shards = open(folder.path(), 1);
    for (piece, expected) in log.entries(one.shard())[1..].chunks(1).zip([(2, 3), (2, 6), (3, 14)]) {
        shards.recover(one.shard(), piece).expect("recover");
        let base = shards.read_base(&one).expect("the base").0;
        assert_eq!(read(&shards, &base), expected);
    }
    assert_eq!(read(&shards, &shards.load(&one).expect("load").fragment), (3, 14));
}

/// The write got as far as the record, not to the cursor; then the log comes again in pieces, the last of which takes an event back.
#[test]
fn a_recovery_in_pieces_with_a_retraction_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, of) = (Log::default(), identifier(1));
    let shard = of.shard();
    {
        let shards = open(folder.path(), 1);
        tell(&shards, &log, &of, (0..8).map(|index| event(&format!("e{index}"), 1 << index)).collect());
        shards.advance(shard, 1, 8).expect("advance");
        shards
            .disk
            .write(shard, Move { cursor: Cursor { epoch: 1, seq: 0 }, ..Move::default() }, Vec::new())
            .expect("write");
        tell(&shards, &log, &of, vec![retraction("undo", 100, "e0")]);
    }
    let shards = open(folder.path(), 1);
    let entries = log.entries(shard);
    shards.recover(shard, &entries[..4]).expect("recover");
    shards.recover(shard, &entries[4..]).expect("recover");
    let held = shards.load(&of).expect("load");
    let whole = shards.as_of(&of, Timestamp(i64::MAX)).expect("as of");
    assert_eq!(read(&shards, &held.fragment), read(&shards, &whole));
    assert_eq!(read(&shards, &whole), (8, 354), "seven events and the one that takes the first back");
}

#[test]
fn histories_out_of_order_are_folded_by_time_in_windows() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let one = identifier(1);
    let backwards = (0..10_000).rev().map(|second| event(&format!("e{second}"), second));
    tell(&shards, &log, &one, backwards.chain([retraction("r", 10_000, "e9999")]).collect());
    assert_eq!(
        read(&shards, &shards.load(&one).expect("load").fragment),
        (10_000, 9_999 * 10_000 / 2 - 9_999 + 10_000)
    );
    let mut seconds = Vec::new();
    shards
        .replay(std::slice::from_ref(&one), Timestamp(5_000_000), &mut |event, _| seconds.push(event.at.0 / 1000))
        .expect("replay");
    assert_eq!(seconds, (0..=5_000).collect::<Vec<_>>());
}

/// What a random run does.
#[derive(Clone, Debug)]
enum Step {
    /// Events of an identifier: ids, seconds, and which id each takes back.
    Admit(u8, Vec<(u8, i64, Option<u8>)>),
    /// The log has ordered so many more changes of an identifier's shard.
    Advance(u8, usize),
    /// The process dies and starts again, under this activation.
    Restart(u64),
    /// The background takes a fragment.
    Backfill(u8),
    /// Two are one person.
    Link(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    // Few ids, so that retractions meet what they take back, before it and after.
    let told = (0_u8..24, 0_i64..1000, prop::option::weighted(0.3, 0_u8..24));
    prop_oneof![
        6 => (0_u8..4, prop::collection::vec(told, 1..6)).prop_map(|(of, events)| Step::Admit(of, events)),
        4 => (0_u8..4, 1_usize..6).prop_map(|(of, count)| Step::Advance(of, count)),
        1 => (1_u64..4).prop_map(Step::Restart),
        2 => (0_u8..4).prop_map(Step::Backfill),
        1 => (0_u8..4, 0_u8..4).prop_map(|(one, other)| Step::Link(one, other)),
    ]
}

type Model = HashMap<(u8, String), (i64, Option<String>)>;

/// Counts and sums what no event of the same fragment retracts, up to a second.
fn naive(model: &Model, of: u8, upto: i64) -> (i128, i128) {
    let own = || model.iter().filter(|((known, _), (second, _))| *known == of && *second <= upto);
    let retracted: HashSet<&str> = own().filter_map(|(_, (_, retracts))| retracts.as_deref()).collect();
    let counted = own().filter(|((_, id), _)| !retracted.contains(id.as_str()));
    counted.fold((0, 0), |(count, sum), (_, (second, _))| (count + 1, sum + i128::from(*second)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_run_agrees_with_a_fold_that_keeps_all_events(steps in prop::collection::vec(step(), 1..50), cache in prop::bool::ANY) {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log::default();
        // Room for a view or two, or for all.
        let open = |activation| {
            let cache_bytes = if cache { 4_000 } else { 1 << 20 };
            Shards::open(folder.path(), "log", cache_bytes, Counting::new(activation), Arc::default()).expect("open")
        };
        let mut shards = open(1);
        let mut model = Model::default();
        let mut links: HashSet<(u8, u8)> = HashSet::new();
        for step in steps {
            match step {
                Step::Admit(of, events) => {
                    let named: Vec<_> = events
                        .iter()
                        .map(|(id, second, retracts)| (id.to_string(), *second, retracts.map(|id| id.to_string())))
                        .collect();
                    let events = named.iter().map(|(id, second, retracts)| match retracts {
                        Some(retracts) => retraction(id, *second, retracts),
                        None => event(id, *second),
                    });
                    let verdicts = tell(&shards, &log, &person(of), events.collect());
                    for (verdict, (id, second, retracts)) in verdicts.into_iter().zip(named) {
                        let fresh = !model.contains_key(&(of, id.clone()));
                        prop_assert_eq!(verdict == Verdict::Accepted, fresh);
                        model.entry((of, id)).or_insert((second, retracts));
                    }
                }
                Step::Advance(of, count) => {
                    let shard = person(of).shard();
                    let left = log.entries(shard).len() as u64 - shards.cursor(shard).seq;
                    if left > 0 {
                        advance(&shards, &person(of), count.min(left as usize));
                    }
                }
                Step::Restart(activation) => {
                    drop(shards);
                    shards = open(activation);
                    for shard in (0_u8..4).map(|of| person(of).shard()).collect::<HashSet<_>>() {
                        let done = shards.cursor(shard).seq as usize;
                        shards.recover(shard, &log.entries(shard)[done..]).expect("recover");
                    }
                }
                Step::Backfill(of) => {
                    let (_, left) = shards.backfill_together(person(of).shard(), &[person(of)]).expect("backfill");
                    prop_assert!(left.is_empty());
                }
                Step::Link(one, other) => {
                    let word = Word { at: Timestamp(0), linked: true, id: [0; 16], how: How::Api };
                    if shards.link(&person(one), &person(other), word, &log).expect("link").is_ok() {
                        links.insert((one.min(other), one.max(other)));
                    }
                }
            }
            shards.maintain();
            for of in 0_u8..4 {
                let members = connected(&links, of);
                let sum = |upto| members.iter().map(|of| naive(&model, *of, upto)).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
                let events = model.keys().filter(|(known, _)| members.contains(known)).count() as u64;
                let profile = shards.profile(&person(of)).expect("profile");
                prop_assert_eq!(profile.fragment().events, events);
                if !profile.fragment().is_backfilling() {
                    prop_assert_eq!(read(&shards, profile.fragment()), sum(i64::MAX));
                }
                if let Some(cached) = shards.cached_profile(&person(of)) {
                    prop_assert_eq!(cached.fragment(), profile.fragment());
                }
                let early = shards.profile_as_of(&person(of), Timestamp(500_000)).expect("as of");
                prop_assert_eq!(read(&shards, &early), sum(500));
                // What is served is, byte for byte, what every other replica makes of the same events.
                let view = shards.load(&person(of)).expect("load");
                if !view.fragment.is_backfilling() {
                    prop_assert_eq!(&*view.fragment, &shards.as_of(&person(of), Timestamp(i64::MAX)).expect("as of"));
                }
            }
        }
        let mut walk = Walk::default();
        loop {
            let next = shards.next_unfinished(&mut walk, 2).expect("look");
            if next.is_empty() {
                break;
            }
            for identifier in next {
                prop_assert!(shards.backfill(&identifier).expect("backfill"));
            }
        }
        prop_assert_eq!(shards.unfinished().expect("look"), Unfinished::default());
        for of in 0_u8..4 {
            prop_assert!(!shards.profile(&person(of)).expect("profile").fragment().is_backfilling());
        }
    }
}
