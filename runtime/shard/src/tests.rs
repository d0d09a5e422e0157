//! Shards against a naive model, on a real disk.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64 as Counter;

use proptest::prelude::*;
use selvedge_core::activation::{Part, RETENTION_MS};
use selvedge_core::aggregate::{Contribution, Definition, Value};
use selvedge_core::change::{Change, DecidedOffer};
use selvedge_core::event::EventKind;
use selvedge_core::links::{How, Word};
use selvedge_core::time::BusinessTime;
use selvedge_core::value::{Kind, Timestamp};

use super::*;
use selvedge_core::fragment::{EventRef, Fragment};

mod backfill;
mod centre;
mod erasure;
mod follow;
mod mart;
mod overlay;
mod retraction;
mod snapshot;

/// Counts events, and sums their seconds.
struct Counting {
    definitions: Definitions,
    layout: Layout,
    observed: Counter,
}

impl Counting {
    fn new(activation: u64) -> Arc<Self> {
        let mut definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        let define =
            |name, operator| Definition::parse(name, operator, &[], &[], Kind::Integer, None).expect("a definition");
        definitions
            .add("test", &[define("events", "count"), define("seconds", "sum")], None)
            .expect("good definitions");
        let layout = Layout { engine: 1, parts: vec![Part { tag: activation, states: 2 }] };
        Arc::new(Self { definitions, layout, observed: Counter::new(0) })
    }
}

impl Observer for Counting {
    fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn observe(&self, event: &Event) -> Effects {
        self.observed.fetch_add(1, Ordering::Relaxed);
        let contribution = |state, value| Contribution { state, key: "".into(), value };
        let contributions = vec![contribution(0, 1), contribution(1, event.at.0 / 1000)];
        Effects { contributions, ..Effects::of(event).expect("a good event") }
    }
}

/// Keeps what was appended, as a log would.
#[derive(Default)]
struct Log(Mutex<Vec<(ShardId, Vec<u8>)>>);

impl Outbox for Log {
    fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), String> {
        for (shard, changes) in changes {
            self.0.lock().extend(changes.iter().map(|bytes| (shard, bytes.to_vec())));
        }
        Ok(())
    }
}

impl Log {
    fn entries(&self, shard: ShardId) -> Vec<(u64, Vec<u8>)> {
        let log = self.0.lock();
        let of_shard = log.iter().filter(|(of, _)| *of == shard);
        (1..).zip(of_shard.map(|(_, bytes)| bytes.clone())).collect()
    }
}

fn identifier(user: u8) -> Identifier {
    Identifier::stored(&format!("user:{user}")).expect("an identifier")
}

fn event(id: &str, second: i64) -> Event {
    let at = Timestamp(second * 1000);
    Event {
        kind: EventKind::Track,
        name: "A".into(),
        message_id: id.into(),
        at,
        received_at: at,
        claimed: false,
        payload: "{}".into(),
    }
}

fn prepared(shards: &Shards, user: u8, id: &str, second: i64) -> Prepared {
    let event = event(id, second);
    let effects = shards.observer.observe(&event);
    Prepared::event(identifier(user), event, effects)
}

/// Whether no id of a fragment's events is taken for a new one, by what its record says and by what is in memory.
fn knows_ids(shards: &Shards, of: &Identifier) -> bool {
    let ids = shards.disk.ids(of).expect("the ids");
    let read = shards.read_held(of).expect("the base").0.seen;
    let view = shards.load(of).expect("load").seen.clone();
    let known = |seen: &Arc<Seen>| {
        let cursor = shards.cursor(of.shard()).seq;
        ids.iter().all(|(id_hash, seq)| *seq > cursor || seen.may_hold(id_hash))
    };
    [read, view].iter().flatten().all(known)
}

fn open(path: &Path, activation: u64) -> Shards {
    Shards::open(path, "log", 1 << 20, Counting::new(activation), Arc::default()).expect("open the shards")
}

fn read(shards: &Shards, fragment: &Fragment) -> (i128, i128) {
    let definitions = shards.observer.definitions();
    let moment = definitions.moment(Timestamp(1 << 40), |_| None);
    let mut values = definitions.readings().iter().map(|reading| {
        match definitions.evaluate(reading, &fragment.states, &moment).value {
            Value::Integer(value) => value,
            other => panic!("{other:?}"),
        }
    });
    (values.next().expect("events"), values.next().expect("seconds"))
}

fn admit(shards: &Shards, log: &Log, user: u8, events: &[(&str, i64)]) -> Vec<Verdict> {
    let changes = events.iter().map(|(id, second)| prepared(shards, user, id, *second)).collect();
    shards.admit(identifier(user).shard(), changes, log).expect("admit")
}

#[test]
fn an_event_is_seen_at_once_and_counts_once_wherever_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let shard = identifier(1).shard();
    let view = || read(&shards, &shards.load(&identifier(1)).expect("load").fragment);
    assert_eq!(view(), (0, 0));
    assert_eq!(
        admit(&shards, &log, 1, &[("a", 5), ("a", 5), ("b", 7)]),
        [Verdict::Accepted, Verdict::Duplicate, Verdict::Accepted]
    );
    assert_eq!(view(), (2, 12));
    assert_eq!(admit(&shards, &log, 1, &[("b", 7)]), [Verdict::Duplicate], "pending");
    shards.advance(shard, 1, 2).expect("advance");
    assert_eq!(shards.cursor(shard), Cursor { epoch: 1, seq: 2 });
    assert_eq!(admit(&shards, &log, 1, &[("a", 5)]), [Verdict::Duplicate], "in the base");
    assert_eq!(view(), (2, 12));
    assert_eq!(shards.pending_bytes(), 0);
    assert_eq!(log.entries(shard).len(), 2);
}

#[test]
fn what_is_older_than_the_retention_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let limit = RETENTION_MS / 1000;
    admit(&shards, &log, 1, &[("new", limit + 10)]);
    assert_eq!(admit(&shards, &log, 1, &[("at the limit", 10)]), [Verdict::Accepted]);
    let verdicts = admit(&shards, &log, 1, &[("past it", 9)]);
    assert!(matches!(&verdicts[0], Verdict::Refused(refusal) if refusal.code == "too_old"), "{verdicts:?}");
    assert_eq!(read(&shards, &shards.load(&identifier(1)).expect("load").fragment).0, 2);
}

#[test]
fn a_damaged_directory_is_put_aside_and_rebuilt_from_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shards");
    let log = Log::default();
    let shard = identifier(1).shard();
    {
        let shards = open(&path, 1);
        admit(&shards, &log, 1, &[("a", 5), ("b", 7)]);
        shards.advance(shard, 1, 2).expect("advance");
    }
    std::fs::write(path.join("conf"), b"not what sled wrote").expect("damage");
    let shards = open(&path, 1);
    assert!(folder.path().join("shards.damaged-1").exists());
    assert_eq!(shards.cursor(shard).seq, 0);
    shards.recover(shard, &log.entries(shard)).expect("recover");
    assert_eq!(read(&shards, &shards.load(&identifier(1)).expect("load").fragment), (2, 12));
}

#[test]
fn a_directory_that_is_open_elsewhere_is_waited_for_and_never_put_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shards");
    let log = Log::default();
    let shards = open(&path, 1);
    admit(&shards, &log, 1, &[("a", 5)]);
    shards.advance(identifier(1).shard(), 1, 1).expect("advance");
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || open(&path, 1)
    });
    // Whether the other is waiting already or not: it gets the directory as it is.
    drop(shards);
    let shards = waiting.join().expect("the other");
    assert_eq!(read(&shards, &shards.load(&identifier(1)).expect("load").fragment), (1, 5));
    assert!(!folder.path().join("shards.damaged-1").exists());
}

#[test]
fn shards_of_another_log_are_emptied() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    {
        let shards = open(folder.path(), 1);
        admit(&shards, &log, 1, &[("a", 5)]);
        shards.advance(identifier(1).shard(), 1, 1).expect("advance");
    }
    let shards = Shards::open(folder.path(), "another", 1 << 20, Counting::new(1), Arc::default()).expect("open");
    assert_eq!(shards.cursor(identifier(1).shard()).seq, 0);
    assert_eq!(read(&shards, &shards.load(&identifier(1)).expect("load").fragment), (0, 0));
}

#[test]
fn a_write_cut_off_before_its_cursor_is_not_counted_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    let shard = identifier(1).shard();
    {
        let shards = open(folder.path(), 1);
        admit(&shards, &log, 1, &[("a", 5), ("b", 7)]);
        shards.advance(shard, 1, 2).expect("advance");
        // As if the last batch, which carries the cursor, had not been written.
        shards
            .disk
            .write(shard, Move { cursor: Cursor { epoch: 1, seq: 0 }, ..Move::default() }, Vec::new())
            .expect("write");
    }
    let shards = open(folder.path(), 1);
    shards.recover(shard, &log.entries(shard)).expect("recover");
    assert_eq!(read(&shards, &shards.load(&identifier(1)).expect("load").fragment), (2, 12));
    assert_eq!(history(&shards, 1), 2);
}

#[test]
fn a_recovery_in_pieces_counts_once_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    let shard = identifier(1).shard();
    let events: Vec<_> = (0..40).map(|index| (format!("e{index}"), index)).collect();
    {
        let shards = open(folder.path(), 1);
        let events: Vec<_> = events.iter().map(|(id, second)| (id.as_str(), *second)).collect();
        admit(&shards, &log, 1, &events);
        shards.advance(shard, 1, 40).expect("advance");
        shards
            .disk
            .write(shard, Move { cursor: Cursor { epoch: 1, seq: 0 }, ..Move::default() }, Vec::new())
            .expect("write");
    }
    let shards = open(folder.path(), 1);
    for piece in log.entries(shard).chunks(7) {
        shards.recover(shard, piece).expect("recover");
        // What is beyond the cursor is not there yet.
        let count = i128::from(shards.cursor(shard).seq);
        let base = shards.read_base(&identifier(1)).expect("the base").0;
        assert_eq!(read(&shards, &base), (count, count * (count - 1) / 2));
        assert_eq!(history(&shards, 1), count as usize);
    }
    assert_eq!(history(&shards, 1), 40);
    assert_eq!(read(&shards, &shards.as_of(&identifier(1), Timestamp(i64::MAX)).expect("as of")), (40, 780));
}

#[test]
fn parts_that_a_crash_left_behind_a_shorter_block_are_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let shard = identifier(1).shard();
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + (state >> 40) as u8 % 23)
    };
    let long: String = (0..20_000).map(|_| letter()).collect();
    let events = |from: u64, payload: &str| -> Vec<Prepared> {
        let event = |index| Event { payload: payload.into(), ..event(&format!("e{index}"), 1) };
        (from..from + 16).map(|index| Prepared::event(identifier(1), event(index), Effects::default())).collect()
    };
    shards.admit(shard, events(0, &format!("{{\"context\":\"{long}\"}}")), &log).expect("admit");
    shards.advance(shard, 1, 16).expect("advance");
    let rows = || shards.disk.rows(&identifier(1));
    let whole = rows();
    assert!(whole.len() > 1, "the block has several parts");
    // A packed block in place of a longer one, as if the removal of the longer one's last parts had been cut off.
    shards.admit(shard, events(100, "{}"), &log).expect("admit");
    shards.advance(shard, 17, 16).expect("advance");
    shards.disk.put_rows(
        &identifier(1),
        &whole.iter().skip(1).map(|(key, value)| (moved(key, 17), value.clone())).collect::<Vec<_>>(),
    );
    assert_eq!(history(&shards, 1), 32);
}

/// The key of a row of history with another sequence.
fn moved(key: &[u8], seq: u64) -> Vec<u8> {
    let split = key.len() - 10;
    [&key[..split], &seq.to_be_bytes(), &key[split + 8..]].concat()
}

#[test]
fn a_long_history_is_packed_in_blocks_that_are_read_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let shard = identifier(1).shard();
    // 300 events of 250 KiB that compress to almost nothing: more than one payload may expand to.
    let payload = format!("{{\"properties\":\"{}\"}}", "x".repeat(250 * 1024));
    let changes = (0..300).map(|index| {
        let event = Event { payload: payload.as_str().into(), ..event(&format!("e{index}"), 1) };
        Prepared::event(identifier(1), event, Effects::default())
    });
    shards.admit(shard, changes.collect(), &log).expect("admit");
    shards.advance(shard, 1, 300).expect("advance");
    assert_eq!(history(&shards, 1), 300);
    assert!(shards.disk.rows(&identifier(1)).len() > 50, "many blocks");
}

fn history(shards: &Shards, user: u8) -> usize {
    let mut count = 0;
    shards.history(&identifier(user), |_| count += 1).expect("history");
    count
}

#[test]
fn decided_offers_are_pending_and_then_in_the_base() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let decided = |minute: i64| vec![DecidedOffer::on_web("kettle", Timestamp(minute * 60_000), 2)];
    let shard = identifier(1).shard();
    shards.admit(shard, vec![Prepared::decided(identifier(1), decided(1), Vec::new())], &log).expect("admit");
    let count = || shards.load(&identifier(1)).expect("load").fragment.offers.get("kettle").decided;
    assert_eq!(count(), 2);
    shards.advance(shard, 1, 1).expect("advance");
    shards.admit(shard, vec![Prepared::decided(identifier(1), decided(9), Vec::new())], &log).expect("admit");
    assert_eq!(count(), 4);
    let as_of = shards.as_of(&identifier(1), Timestamp(2 * 60_000)).expect("as of");
    assert_eq!(as_of.offers.get("kettle").decided, 2);
}

#[test]
fn a_link_is_in_both_fragments_or_in_none_and_a_missing_half_is_made_up_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let (one, other) = (person(0), person(1));
    let word = |at: i64, how| Word { at: Timestamp(at), linked: true, id: [1; 16], how };
    let members = |shards: &Shards, of: &Identifier| shards.profile(of).expect("profile").identifiers().to_vec();
    assert_eq!(shards.link(&one, &other, word(5, How::Event), &log).expect("link"), Ok(true));
    assert_eq!(shards.link(&other, &one, word(6, How::Event), &log).expect("link"), Ok(false), "linked already");
    assert!(shards.linked(&one, &other, Timestamp(0)));
    assert_eq!(log.0.lock().len(), 2);
    // A log that ends between the halves, as that of another edge may.
    let half = tempfile::tempdir().expect("a folder");
    let late = open(half.path(), 1);
    late.recover(one.shard(), &log.entries(one.shard())).expect("recover");
    assert_eq!(members(&late, &one), [one.clone(), other.clone()]);
    assert_eq!(members(&late, &other).len(), 1, "its half is late");
    assert!(!late.linked(&one, &other, Timestamp(0)));
    let rest = Log::default();
    assert_eq!(late.link(&one, &other, word(9, How::Event), &rest).expect("link"), Ok(true));
    assert_eq!((members(&late, &other).len(), rest.0.lock().len()), (2, 1));
    // What was taken back stays so for events from before, not for a trusted system.
    assert_eq!(
        shards.unlink(&one, &other, Word { linked: false, ..word(7, How::Api) }, &log).expect("unlink"),
        Unlinked::Done
    );
    assert_eq!(
        shards.unlink(&one, &other, Word { linked: false, ..word(8, How::Api) }, &log).expect("unlink"),
        Unlinked::WereNot
    );
    assert_eq!(shards.link(&one, &other, word(6, How::Event), &log).expect("link"), Ok(false));
    assert_eq!(members(&shards, &one).len(), 1);
    assert_eq!(shards.link(&one, &other, word(1, How::Api), &log).expect("link"), Ok(true));
    assert_eq!(members(&shards, &other).len(), 2);
}

#[test]
fn what_a_neighbour_does_whose_link_is_left_out_stays_with_the_neighbour() {
    let folder = tempfile::tempdir().expect("a folder");
    let (shards, log) = (open(folder.path(), 1), Log::default());
    let id = |text| Identifier::stored(text).expect("an identifier");
    let (one, shared, hers, two) = (id("user:1"), id("anonymous:shared"), id("anonymous:hers"), id("user:2"));
    // Links that were made apart and break a bound together: no door has seen all three.
    for (at, (a, b)) in [(&one, &shared), (&two, &hers), (&shared, &hers)].into_iter().enumerate() {
        let word = Word { at: Timestamp(at as i64), linked: true, id: [at as u8; 16], how: How::Event };
        shards.say(a, b, word, &log).expect("say");
    }
    let events = |of: &Identifier| shards.profile(of).expect("profile").fragment().events;
    let happens = |of: &Identifier, id: &str| {
        let event = event(id, 5);
        let effects = shards.observer.observe(&event);
        shards.admit(of.shard(), vec![Prepared::event(of.clone(), event, effects)], &log).expect("admit");
    };
    assert_eq!((events(&one), events(&two)), (0, 0));
    happens(&hers, "a");
    // Whoever is read first, and from memory or not.
    assert_eq!((events(&one), events(&shared)), (0, 0));
    happens(&two, "b");
    assert_eq!((events(&one), events(&two), events(&hers)), (0, 2, 2));
    happens(&shared, "c");
    assert_eq!((events(&two), events(&one)), (2, 1));
}

fn person(number: u8) -> Identifier {
    let names = ["user:0", "anonymous:1", "device:2", "loyalty:3"];
    Identifier::stored(names[usize::from(number) % 4]).expect("an identifier")
}

/// What a random run does.
#[derive(Clone, Debug)]
enum Step {
    /// Events of an identifier: ids and seconds.
    Admit(u8, Vec<(u8, i64)>),
    /// The log has ordered so many more changes of an identifier's shard.
    Advance(u8, usize),
    /// The process ends, or dies, and starts again; the log has everything that was appended.
    Restart(bool),
    /// What waits to be written is, of an identifier alone or of its shard.
    Write(u8, bool),
    /// Somebody reads.
    Load(u8),
    /// Two are one person, or no longer.
    Say(u8, u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0_u8..4, prop::collection::vec((any::<u8>(), 0_i64..1000), 1..6)).prop_map(|(of, events)| Step::Admit(of, events)),
        4 => (0_u8..4, 1_usize..6).prop_map(|(of, count)| Step::Advance(of, count)),
        2 => any::<bool>().prop_map(Step::Restart),
        2 => (0_u8..4, any::<bool>()).prop_map(|(of, ahead)| Step::Write(of, ahead)),
        2 => (0_u8..4).prop_map(Step::Load),
        3 => (0_u8..4, 0_u8..4, any::<bool>()).prop_map(|(one, other, linked)| Step::Say(one, other, linked)),
    ]
}

/// Who is connected.
fn connected(links: &HashSet<(u8, u8)>, root: u8) -> HashSet<u8> {
    let mut members = HashSet::from([root]);
    for _ in 0..4 {
        for (one, other) in links {
            if members.contains(one) || members.contains(other) {
                members.extend([*one, *other]);
            }
        }
    }
    members
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn any_run_agrees_with_the_naive_model(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log::default();
        let mut shards = open(folder.path(), 1);
        let mut model: HashMap<(u8, String), i64> = HashMap::default();
        let mut links: HashSet<(u8, u8)> = HashSet::new();
        for step in steps {
            match step {
                Step::Admit(of, events) => {
                    let named: Vec<_> = events.iter().map(|(id, second)| (id.to_string(), *second)).collect();
                    let changes = named.iter().map(|(id, second)| {
                        let event = event(id, *second);
                        let effects = shards.observer.observe(&event);
                        Prepared::event(person(of), event, effects)
                    });
                    let verdicts = shards.admit(person(of).shard(), changes.collect(), &log).expect("admit");
                    for (verdict, (id, second)) in verdicts.into_iter().zip(&named) {
                        let fresh = !model.contains_key(&(of, id.clone()));
                        prop_assert_eq!(verdict == Verdict::Accepted, fresh);
                        model.entry((of, id.clone())).or_insert(*second);
                    }
                }
                Step::Advance(of, count) => {
                    let shard = person(of).shard();
                    let (done, head) = (shards.cursor(shard).seq, log.entries(shard).len() as u64);
                    let count = count.min((head - done) as usize);
                    if count > 0 {
                        shards.advance(shard, done + 1, count).expect("advance");
                    }
                }
                Step::Write(of, ahead) => shards.disk.write_some(&person(of), ahead),
                Step::Restart(dies) => {
                    if dies {
                        shards.disk.lose_behind();
                    }
                    drop(shards);
                    shards = open(folder.path(), 1);
                    for shard in (0_u8..4).map(|of| person(of).shard()).collect::<HashSet<_>>() {
                        let done = shards.cursor(shard).seq as usize;
                        shards.recover(shard, &log.entries(shard)[done..]).expect("recover");
                    }
                }
                Step::Load(of) => {
                    shards.prepare(&person(of)).expect("prepare");
                }
                Step::Say(one, other, linked) => {
                    let word = Word { at: Timestamp(0), linked, id: [0; 16], how: How::Api };
                    let pair = (one.min(other), one.max(other));
                    if linked {
                        let said = shards.link(&person(one), &person(other), word, &log).expect("link");
                        prop_assert_eq!(said.is_ok(), one != other);
                        if one != other {
                            links.insert(pair);
                        }
                    } else {
                        let said = shards.unlink(&person(one), &person(other), word, &log).expect("unlink");
                        prop_assert_eq!(said == Unlinked::Done, links.remove(&pair));
                    }
                }
            }
            for of in 0_u8..4 {
                let members = connected(&links, of);
                let sums = |counts: &dyn Fn(u8, i64) -> bool| {
                    let counted = model.iter().filter(|((of, _), second)| counts(*of, **second));
                    counted.fold((0, 0), |(count, sum), (_, second)| (count + 1, sum + i128::from(*second)))
                };
                let view = shards.load(&person(of)).expect("load");
                prop_assert!(knows_ids(&shards, &person(of)), "the ids of {}", person(of));
                prop_assert_eq!(read(&shards, &view.fragment), sums(&|other, _| other == of));
                let profile = shards.profile(&person(of)).expect("profile");
                let identifiers: HashSet<Identifier> = profile.identifiers().iter().cloned().collect();
                prop_assert_eq!(identifiers, members.iter().map(|member| person(*member)).collect());
                prop_assert_eq!(read(&shards, profile.fragment()), sums(&|other, _| members.contains(&other)));
                if let Some(cached) = shards.cached_profile(&person(of)) {
                    prop_assert_eq!(read(&shards, cached.fragment()), read(&shards, profile.fragment()));
                }
                let early = shards.profile_as_of(&person(of), Timestamp(500_000)).expect("as of");
                prop_assert_eq!(read(&shards, &early), sums(&|other, second| members.contains(&other) && second <= 500));
            }
        }
    }
}

#[test]
fn a_joined_profile_follows_its_fragments_through_a_cache_that_holds_almost_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::default();
    // Room for a view or two: whatever is looked at drives something out.
    let shards = Shards::open(folder.path(), "log", 4_000, Counting::new(1), Arc::default()).expect("open the shards");
    let word = Word { at: Timestamp(1), linked: true, id: [1; 16], how: How::Api };
    for other in 1..4 {
        shards.link(&person(0), &person(other), word, &log).expect("link").expect("may be");
    }
    for second in 0..200_i64 {
        let of = person((second % 4) as u8);
        let event = event(&format!("e{second}"), second);
        let effects = shards.observer.observe(&event);
        shards.admit(of.shard(), vec![Prepared::event(of.clone(), event, effects)], &log).expect("admit");
        shards.maintain();
        let expected = (i128::from(second) + 1, i128::from(second * (second + 1) / 2));
        for reader in 0..4 {
            let reader = person((second as u8).wrapping_add(reader));
            if let Some(cached) = shards.cached_profile(&reader) {
                assert_eq!(read(&shards, cached.fragment()), expected, "{reader} after {second}");
            }
            assert_eq!(read(&shards, shards.profile(&reader).expect("profile").fragment()), expected);
        }
        shards.load(&identifier(second as u8)).expect("somebody else");
    }
}
