use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn a_decision_without_offers_leaves_nothing_behind() {
    let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
    decided.record(&visitor, "web", Timestamp(61_000), [].into_iter());
    assert!(decided.tile(&visitor).lock().counts.is_empty());
    decided.record(&visitor, "web", Timestamp(61_000), ["kettle", "kettle"].into_iter());
    let (read, counts) = decided.beside(|| Ok::<_, ()>((7, vec![visitor.clone()]))).expect("read");
    assert_eq!((read, counts.offers), (7, vec![DecidedOffer::on_web("kettle", Timestamp(60_000), 2)]));
}

#[test]
fn a_reading_that_a_flush_overtook_is_done_again() {
    let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
    let reads = std::cell::Cell::new(0);
    let read = decided.beside(|| {
        reads.set(reads.get() + 1);
        if reads.get() == 1 {
            let mut tile = decided.tile(&visitor).lock();
            tile.flushes += 1;
            tile.flushed.insert(visitor.clone(), 1);
        }
        Ok::<_, ()>(((), vec![visitor.clone()]))
    });
    let (_, counts) = read.expect("read");
    assert_eq!((reads.get(), counts.is_empty()), (2, true));
}
#[test]
fn whoever_decides_for_one_person_under_two_identifiers_never_goes_over_a_cap() {
    const MOST: u64 = 40;
    let decided = Decided::new();
    let identifier = |text: &str| Identifier::stored(text).expect("an identifier");
    let person = [identifier("user:1"), identifier("anonymous:a")];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (decided, person) = (&decided, &person);
            scope.spawn(move || {
                for _ in 0..100 {
                    let mut held = decided.hold(person);
                    if held.of(person).onto(&Offers::default()).get("kettle").decided < MOST {
                        held.record(&person[thread % 2], "web", Timestamp(7), ["kettle"].into_iter(), &[]);
                    }
                }
            });
        }
    });
    let counts = decided.hold(&person).of(&person);
    assert_eq!(counts.offers.iter().map(|decided| u64::from(decided.count)).sum::<u64>(), MOST);
    assert_eq!(decided.hold(&[]).of(&person), Counts::default(), "not held");
}

#[test]
fn an_exposure_is_counted_without_an_offer_and_only_the_first() {
    let (decided, visitor) = (Decided::new(), Identifier::stored("user:1").expect("an identifier"));
    let exposure = |at: i64| Exposure { experiment: "e".into(), at: Timestamp(at), arm: "a".into() };
    let person = std::slice::from_ref(&visitor);
    let mut held = decided.hold(person);
    for at in [7, 8] {
        held.record(&visitor, "web", Timestamp(at), [].into_iter(), &[exposure(at)]);
    }
    let counts = held.of(person);
    assert_eq!((counts.exposures.as_slice(), counts.offers.len()), ([exposure(7)].as_slice(), 0));
    assert!(counts.clone().up_to(Timestamp(6)).is_empty());
    assert_eq!(counts.onto(&Offers::default()).exposure("e"), Some(&exposure(7)));
}

/// What was decided, by whom and what.
type Told = BTreeMap<(String, String), u32>;

fn tell(told: &mut Told, visitor: &Identifier, counts: &Counts) {
    for decided in &counts.offers {
        *told.entry((visitor.to_string(), decided.offer.to_string())).or_default() += decided.count;
    }
}

fn log(folder: &std::path::Path) -> RedbLog {
    RedbLog::open(&folder.join("log.redb"), "log", Box::new(|_| {}), Box::new(|error| panic!("{error}")))
        .expect("a log")
}

/// What happens to the counts of one shard.
#[derive(Clone, Debug)]
enum Step {
    Decide(u8, u8),
    Second,
    /// A round begins, whatever its time.
    Begin,
    /// Some leave.
    Leave,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..90u8, 0..3u8).prop_map(|(visitor, offer)| Step::Decide(visitor, offer)),
        3 => Just(Step::Second),
        1 => Just(Step::Begin),
        3 => Just(Step::Leave),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a second kept, and whatever left, is there once after any number of crashes; of the rest nothing comes twice.
    #[test]
    fn a_crash_loses_a_seconds_counts_and_doubles_none(steps in prop::collection::vec(step(), 1..400)) {
        let folder = tempfile::tempdir().expect("a folder");
        let shard = ShardId(0);
        let identifiers = (0..).map(|user| Identifier::stored(&format!("user:{user}")).expect("an identifier"));
        let visitors: Vec<Identifier> = identifiers.filter(|of| of.shard() == shard).take(90).collect();
        let (mut kept, mut fresh, mut changes) = (Told::new(), Told::new(), Told::new());
        let mut open = log(folder.path());
        let mut decided = Decided::open(&open).expect("opened");
        for step in steps.into_iter().chain([Step::Second, Step::Crash]) {
            match step {
                Step::Decide(visitor, offer) => {
                    let (visitor, offer) = (&visitors[usize::from(visitor)], format!("o-{offer}"));
                    decided.record(visitor, "web", Timestamp(61_000), [offer.as_str()].into_iter());
                    *fresh.entry((visitor.to_string(), offer)).or_default() += 1;
                }
                Step::Second => {
                    {
                        let mut tile = decided.0[0].lock();
                        (tile.recent, tile.gathering) = (MANY, 0);
                    }
                    decided.second(shard, &open).expect("kept");
                    for (key, count) in std::mem::take(&mut fresh) {
                        *kept.entry(key).or_default() += count;
                    }
                }
                Step::Begin => {
                    let mut tile = decided.0[0].lock();
                    if tile.leaving.is_empty() && !tile.counts.is_empty() {
                        tile.begin_round();
                        // On its way at once: a crash may still lose it.
                        drop(tile);
                        while !decided.0[0].lock().leaving.is_empty() {
                            leave(&decided, &open, &mut changes);
                        }
                        for (key, count) in std::mem::take(&mut fresh) {
                            *kept.entry(key).or_default() += count;
                        }
                    }
                }
                Step::Leave => {
                    let mut tile = decided.0[0].lock();
                    if fresh.is_empty() {
                        tile.begin_round();
                    }
                    drop(tile);
                    leave(&decided, &open, &mut changes);
                }
                Step::Crash => {
                    drop((decided, open));
                    open = log(folder.path());
                    decided = Decided::open(&open).expect("opened");
                    fresh.clear();
                    let mut found = changes.clone();
                    for visitor in &visitors {
                        tell(&mut found, visitor, &decided.hold(std::slice::from_ref(visitor)).of(std::slice::from_ref(visitor)));
                    }
                    prop_assert_eq!(&found, &kept);
                }
            }
        }
    }
}

/// Some leave, as their changes would.
fn leave(decided: &Decided, log: &RedbLog, changes: &mut Told) {
    let mut tile = decided.0[0].lock();
    if tile.leaving.is_empty() {
        return;
    }
    let (some, notes) = tile.leave(ShardId(0));
    some.iter().for_each(|(visitor, counts)| tell(changes, visitor, counts));
    log.append_and_note(Vec::new(), notes).expect("noted");
}

#[test]
fn counts_gather_where_there_are_many_and_leave_where_there_are_few() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path());
    let visitor = Identifier::stored("user:1").expect("an identifier");
    let (shard, place) = (visitor.shard(), usize::from(visitor.shard().0));
    let decide = |decided: &Decided, times: usize| {
        (0..times).for_each(|_| decided.record(&visitor, "web", Timestamp(7), ["kettle"].into_iter()));
    };
    let gathers = |decided: &Decided| decided.0[place].lock().leaving.is_empty();
    let (few, many, at_once) =
        (Decided::open(&log).expect("opened"), Decided::open(&log).expect("opened"), Decided::new());
    for (decided, times, expected) in [(&few, MANY - 1, false), (&many, MANY, true), (&at_once, MANY, false)] {
        decided.0[place].lock().gathering = 0;
        decide(decided, times);
        decided.second(shard, &log).expect("kept");
        assert_eq!(gathers(decided), expected, "{times}");
    }
    for _ in 2..SECONDS_MAX {
        decide(&many, MANY);
        many.second(shard, &log).expect("kept");
        assert!(gathers(&many));
    }
    decide(&many, MANY);
    many.second(shard, &log).expect("kept");
    assert!(!gathers(&many), "for so long and no longer");
    let counts = many.hold(std::slice::from_ref(&visitor)).of(std::slice::from_ref(&visitor));
    assert_eq!(counts.offers.iter().map(|offer| offer.count as usize).sum::<usize>(), MANY * SECONDS_MAX as usize);
}
