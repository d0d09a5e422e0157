//! Another activation: what is unchanged is kept, what is not waits, is folded in the background, and is served.

use super::*;
use selvedge_core::aggregate::Exactness;

/// Two plugins of one state each: the number of events, and the sum of their seconds.
fn observer(counting: u64, summing: u64) -> Arc<Counting> {
    let parts = vec![Part { tag: counting, states: 1 }, Part { tag: summing, states: 1 }];
    let Ok(observer) = Arc::try_unwrap(Counting::new(1)) else { panic!("it is nobody else's") };
    Arc::new(Counting { layout: Layout { engine: 1, parts }, ..observer })
}

fn open_with(path: &Path, observer: &Arc<Counting>) -> Shards {
    Shards::open(path, "log", 1 << 20, Arc::clone(observer) as Arc<dyn Observer>, Arc::default()).expect("open")
}

/// Both values; none where one waits.
fn values(shards: &Shards, fragment: &Fragment) -> [Option<i128>; 2] {
    let definitions = shards.observer.definitions();
    let moment = definitions.moment(Timestamp(1 << 40), |_| None);
    let value = |index: usize| {
        let reading = &definitions.readings()[index];
        let read = definitions.evaluate(reading, &fragment.states, &moment);
        match read.value {
            Value::Integer(value) => Some(value),
            _ => {
                assert_eq!(read.exactness, Exactness::Backfilling);
                None
            }
        }
    };
    [value(0), value(1)]
}

/// 40 events each of 30 fragments, in the base.
fn filled(path: &Path, log: &Log) {
    let shards = open_with(path, &observer(1, 1));
    for user in 0..30 {
        let events: Vec<_> = (0..40).map(|index| (format!("e{index}"), index)).collect();
        let events: Vec<_> = events.iter().map(|(id, second)| (id.as_str(), *second)).collect();
        admit(&shards, log, user, &events);
        let done = shards.cursor(identifier(user).shard()).seq;
        shards.advance(identifier(user).shard(), done + 1, 40).expect("advance");
    }
    assert!(shards.unsettled().expect("look"), "nobody has said that all is well");
    shards.settle(shards.replaced()).expect("settle");
    shards.flush().expect("flush");
}

#[test]
fn what_is_unchanged_is_kept_and_the_rest_waits_for_its_history() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    filled(folder.path(), &log);
    {
        let observer = observer(1, 1);
        let shards = open_with(folder.path(), &observer);
        assert!(!shards.unsettled().expect("look"));
        assert_eq!(values(&shards, &shards.load(&identifier(1)).expect("load").fragment), [Some(40), Some(780)]);
        assert_eq!(observer.observed.load(Ordering::Relaxed), 0);
    }
    let observer = observer(1, 2);
    let shards = open_with(folder.path(), &observer);
    assert!(shards.unsettled().expect("look"));
    assert_eq!(shards.unfinished().expect("look"), Unfinished { fragments: 30, parts: vec![1] });
    let read = |user| values(&shards, &shards.load(&identifier(user)).expect("load").fragment);
    assert_eq!((read(1), observer.observed.load(Ordering::Relaxed)), ([Some(40), None], 0));
    assert_eq!(shards.wanted(), Some(identifier(1)));
    // The past is folded from the history anyway.
    let early = shards.as_of(&identifier(1), Timestamp(9_000)).expect("as of");
    assert_eq!(values(&shards, &early), [Some(10), Some(45)]);
    // What comes meanwhile counts where it can, and is not lost where it cannot; in the base, and pending.
    admit(&shards, &log, 1, &[("new", 100)]);
    assert_eq!(read(1), [Some(41), None]);
    let shard = identifier(1).shard();
    let done = shards.cursor(shard).seq;
    shards.advance(shard, done + 1, 1).expect("advance");
    admit(&shards, &log, 1, &[("newer", 1000)]);
    admit(&shards, &log, 1, &[("newest", 10_000)]);
    assert_eq!(read(1), [Some(43), None]);
    assert!(shards.backfill(&identifier(1)).expect("backfill"));
    assert_eq!(read(1), [Some(43), Some(11_880)]);
    assert!(!shards.backfill(&identifier(1)).expect("backfill"), "nothing waits");
    // What was done stays done when the base moves on, by one and then by all.
    for done in done + 1..done + 3 {
        shards.advance(shard, done + 1, 1).expect("advance");
        assert_eq!(read(1), [Some(43), Some(11_880)]);
        assert_eq!(shards.unfinished().expect("look").fragments, 29);
    }
    assert_eq!(shards.unfinished().expect("look").fragments, 29);
}

#[test]
fn a_backfill_that_is_killed_continues_and_never_counts_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    filled(folder.path(), &log);
    let mut left = 30;
    for round in 0..5 {
        // It ends, is another one, and is the same again: what was done under the same definitions stays.
        let shards = open_with(folder.path(), &observer(1, if round == 3 { 9 } else { 2 }));
        if round == 3 {
            continue;
        }
        assert_eq!(shards.unfinished().expect("look").fragments, left);
        let mut walk = Walk::default();
        for identifier in shards.next_unfinished(&mut walk, 7).expect("look") {
            assert!(shards.backfill(&identifier).expect("backfill"));
            left -= 1;
        }
    }
    let shards = open_with(folder.path(), &observer(1, 2));
    let mut walk = Walk::default();
    let mut rest = Vec::new();
    loop {
        let next = shards.next_unfinished(&mut walk, 1).expect("look");
        if next.is_empty() {
            break;
        }
        rest.extend(next);
    }
    assert_eq!(rest.len() as u64, left);
    rest.iter().for_each(|identifier| assert!(shards.backfill(identifier).expect("backfill")));
    for user in 0..30 {
        assert_eq!(values(&shards, &shards.load(&identifier(user)).expect("load").fragment), [Some(40), Some(780)]);
    }
    shards.settle(shards.replaced()).expect("settle");
    drop(shards);
    assert!(!open_with(folder.path(), &observer(1, 2)).unsettled().expect("look"));
    // Whoever was in force in between has left records of its own.
    assert!(open_with(folder.path(), &observer(1, 3)).unsettled().expect("look"));
    assert!(open_with(folder.path(), &observer(1, 2)).unsettled().expect("look"));
}

#[test]
fn another_engine_folds_a_record_again_when_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    filled(folder.path(), &log);
    let Ok(newer) = Arc::try_unwrap(observer(1, 1)) else { panic!("it is nobody else's") };
    let newer = Arc::new(Counting { layout: Layout { engine: 2, ..newer.layout.clone() }, ..newer });
    let shards = open_with(folder.path(), &newer);
    assert_eq!(values(&shards, &shards.load(&identifier(1)).expect("load").fragment), [Some(40), Some(780)]);
    assert_eq!(newer.observed.load(Ordering::Relaxed), 40);
    assert!(shards.backfill(&identifier(2)).expect("backfill"));
    assert_eq!(shards.unfinished().expect("look").fragments, 29);
}

#[test]
fn a_join_follows_what_the_background_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    let word = Word { at: Timestamp(1), linked: true, id: [1; 16], how: How::Api };
    {
        let shards = open_with(folder.path(), &observer(1, 1));
        shards.link(&person(0), &person(1), word, &log).expect("link").expect("may be");
        for (of, second) in [(0, 1), (1, 2)] {
            let event = event("e", second);
            let effects = shards.observer.observe(&event);
            shards.admit(person(of).shard(), vec![Prepared::event(person(of), event, effects)], &log).expect("admit");
        }
        for shard in [person(0).shard(), person(1).shard()].into_iter().collect::<HashSet<_>>() {
            shards.advance(shard, 1, log.entries(shard).len()).expect("advance");
        }
    }
    let shards = open_with(folder.path(), &observer(1, 2));
    let read = || values(&shards, shards.profile(&person(0)).expect("profile").fragment());
    assert_eq!(read(), [Some(2), None]);
    assert!(shards.backfill(&person(1)).expect("backfill"));
    assert_eq!(read(), [Some(2), None], "the other one waits");
    assert!(shards.backfill(&person(0)).expect("backfill"));
    assert_eq!(read(), [Some(2), Some(3)]);
}

#[test]
fn the_background_the_door_the_log_and_readers_do_not_get_in_each_others_way() {
    const EVENTS: i64 = 300;
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    filled(folder.path(), &log);
    let shards = open_with(folder.path(), &observer(1, 2));
    let told = std::sync::atomic::AtomicBool::new(false);
    let advance = |user: u8| {
        let shard = identifier(user).shard();
        let (done, head) = (shards.cursor(shard).seq, log.entries(shard).len() as u64);
        if head > done {
            // Not all at once, so that something stays pending.
            shards.advance(shard, done + 1, (head - done).div_ceil(2) as usize).expect("advance");
        }
        head > done
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for second in 1_000..1_000 + EVENTS {
                let user = (second % 30) as u8;
                // Each takes back one of the first forty, until none is left.
                let payload = format!(r#"{{"context":{{"retracts":"e{}"}}}}"#, (second - 1_000) / 30);
                let event = Event { payload: payload.into(), ..event(&format!("n{second}"), second) };
                let effects = shards.observer.observe(&event);
                let change = Prepared::event(identifier(user), event, effects);
                shards.admit(identifier(user).shard(), vec![change], &log).expect("admit");
            }
            told.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            loop {
                let last = told.load(Ordering::Acquire);
                let mut moved = false;
                for user in 0..30 {
                    moved |= advance(user);
                }
                if last && !moved {
                    break;
                }
            }
        });
        scope.spawn(|| {
            let mut walk = Walk::default();
            loop {
                let next = shards.next_unfinished(&mut walk, 3).expect("look");
                if next.is_empty() {
                    break;
                }
                for identifier in next {
                    let (_, left) = shards
                        .backfill_together(identifier.shard(), std::slice::from_ref(&identifier))
                        .expect("backfill");
                    for identifier in left {
                        shards.backfill(&identifier).expect("backfill");
                    }
                }
            }
        });
        scope.spawn(|| {
            while !told.load(Ordering::Acquire) {
                for user in 0..30 {
                    let view = shards.load(&identifier(user)).expect("load");
                    let [count, _] = values(&shards, &view.fragment);
                    // Each new event takes one old one back: at every instant there are forty.
                    assert_eq!(count, Some(40));
                    shards.prepare(&identifier(user)).expect("prepare");
                }
            }
        });
    });
    assert_eq!(shards.unfinished().expect("look"), Unfinished::default());
    let check = |shards: &Shards| {
        for user in 0..30_u8 {
            let own = (1_000..1_000 + EVENTS).filter(|second| second % 30 == i64::from(user));
            let kept = own.sum::<i64>() + (10..40).sum::<i64>();
            let view = shards.load(&identifier(user)).expect("load");
            assert_eq!(values(shards, &view.fragment), [Some(40), Some(i128::from(kept))], "{user}");
        }
    };
    check(&shards);
    drop(shards);
    check(&open_with(folder.path(), &observer(1, 2)));
}
