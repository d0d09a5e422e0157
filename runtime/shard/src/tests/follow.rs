//! Edges that follow a centre, against a naive fold of what the centre has ordered and what waits to be.

use selvedge_core::offers::Exposure;
use selvedge_core::offers::everyone::{Scale, Tally};
use selvedge_core::sync::Entry;

use super::centre::Centre;
use super::retraction::retraction;
use super::*;

/// An edge with its outbox, which survives whatever happens to the base.
struct Edge {
    folder: tempfile::TempDir,
    shards: Shards,
    outbox: Log,
    /// Origins of its starts, and the local number before the first of each, by shard.
    boots: Vec<(Origin, HashMap<ShardId, u64>)>,
    /// Up to where the centre has its changes, and the sequences of those that it answered, by shard.
    pushed: HashMap<ShardId, Vec<u64>>,
    /// Up to where the pending changes have gone because the caller said so.
    settled: HashMap<ShardId, u64>,
    /// What came from the centre, as it was then.
    followed: HashMap<ShardId, Vec<Vec<u8>>>,
}

impl Edge {
    fn new(number: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let shards = open(folder.path(), 1);
        let boots = vec![(Origin(number * 1000 + 1), HashMap::default())];
        let (outbox, pushed, settled, followed) =
            (Log::default(), HashMap::default(), HashMap::default(), HashMap::default());
        Self { folder, shards, outbox, boots, pushed, settled, followed }
    }

    fn changes(&self, shard: ShardId) -> Vec<(u64, Vec<u8>)> {
        self.outbox.entries(shard)
    }

    /// Who sends a change of the outbox, and as which of its own.
    fn numbered(&self, shard: ShardId, local: u64) -> (Origin, u64) {
        let before = |boot: &HashMap<ShardId, u64>| boot.get(&shard).copied().unwrap_or(0);
        let (origin, boot) = self.boots.iter().rfind(|(_, boot)| before(boot) < local).expect("a boot");
        (*origin, local - before(boot))
    }

    fn own(&self, shard: ShardId, entry: &Entry) -> Option<u64> {
        let (_, boot) = self.boots.iter().find(|(origin, _)| *origin == entry.origin)?;
        Some(boot.get(&shard).copied().unwrap_or(0) + entry.number)
    }

    fn push(&mut self, centre: &mut Centre, shard: ShardId, count: usize) {
        let done = self.pushed.get(&shard).map_or(0, Vec::len);
        for (local, bytes) in self.changes(shard).into_iter().skip(done).take(count) {
            let (origin, number) = self.numbered(shard, local);
            let seq = centre.take(shard, origin, number, &bytes);
            self.pushed.entry(shard).or_default().push(seq);
        }
    }

    fn ordered(&self, centre: &Centre, shard: ShardId, count: usize) -> Vec<Ordered> {
        let done = self.shards.cursor(shard).seq as usize;
        let entries = centre.of(shard).iter().skip(done).take(count);
        entries.map(|entry| Ordered { entry: entry.clone(), own: self.own(shard, entry) }).collect()
    }

    fn follow(&mut self, centre: &Centre, shard: ShardId, count: usize) {
        let ordered = self.ordered(centre, shard, count);
        self.shards.follow(shard, 1, &ordered).expect("follow");
        let followed = self.followed.entry(shard).or_default();
        followed.extend(ordered.iter().map(|ordered| ordered.entry.bytes.to_vec()));
        assert_eq!(followed.len() as u64, self.shards.cursor(shard).seq);
    }

    /// The highest own number that the base has.
    fn applied_local(&self, shard: ShardId) -> u64 {
        self.local_of(shard, &|origin| self.shards.applied(shard, origin))
    }

    fn local_of(&self, shard: ShardId, applied: &dyn Fn(Origin) -> u64) -> u64 {
        let boot = |(origin, before): &(Origin, HashMap<ShardId, u64>)| {
            let number = applied(*origin);
            if number == 0 { 0 } else { before.get(&shard).copied().unwrap_or(0) + number }
        };
        self.boots.iter().map(boot).max().unwrap_or(0)
    }

    /// The changes of the outbox that the base may not have.
    fn outstanding(&self, shard: ShardId) -> Vec<(u64, Vec<u8>)> {
        let gone = self.applied_local(shard).max(self.settled.get(&shard).copied().unwrap_or(0));
        self.changes(shard).into_iter().filter(|(local, _)| *local > gone).collect()
    }

    /// Begins anew from a snapshot, with an event that comes between the look at the outbox and the swap.
    fn replace(&mut self, head: &SnapshotHead, chunks: &[Vec<u8>], of: &Identifier, clock: i64) {
        let shard = of.shard();
        let mut replacement = self.shards.begin_replacement(shard).expect("begin");
        for chunk in chunks.iter().rev().chain(chunks.first()) {
            replacement.take(chunk).expect("take");
        }
        let head = SnapshotHead::decode(&head.encode()).expect("a head");
        self.settled.remove(&shard);
        let (changes, gone) = (
            self.changes(shard),
            self.local_of(shard, &|origin| {
                let found = head.origins.iter().find(|(of, _)| *of == origin);
                found.map_or(0, |(_, applied)| applied.number)
            }),
        );
        let upto = changes.len() as u64;
        let event = event(&format!("late-{clock}"), clock);
        let effects = self.shards.observer.observe(&event);
        let late = Prepared::event(of.clone(), event, effects);
        self.shards.admit(shard, vec![late], &self.outbox).expect("admit");
        let given = changes.into_iter().filter(|(local, _)| *local > gone).collect();
        self.shards.replace(replacement, &head, upto, given).expect("replace");
    }

    fn restart(self, number: u64) -> Self {
        let Self { folder, shards, outbox, mut boots, pushed, settled, followed } = self;
        drop(shards);
        let shards = open(folder.path(), 1);
        let heads = ShardId::all().map(|shard| (shard, outbox.entries(shard).len() as u64));
        boots.push((Origin(number), heads.collect()));
        let edge = Self { folder, shards, outbox, boots, pushed, settled, followed };
        for shard in homes() {
            let next = edge.changes(shard).len() as u64 + 1;
            edge.shards.begin_pending(shard, next).expect("begin");
            // In two calls, as a large outbox would be.
            let mut first = edge.outstanding(shard);
            let second = first.split_off(first.len() / 2);
            edge.shards.restore_pending(shard, first).expect("restore");
            edge.shards.restore_pending(shard, second).expect("restore");
        }
        edge
    }

    /// What a fold of the centre's log up to the cursor gives, and of what is pending on top.
    fn naive(&self, of: &Identifier) -> (Fragment, Fragment) {
        let shard = of.shard();
        let decode = |bytes: &[u8]| Change::decode(bytes).expect("a change");
        let entries = self.followed.get(&shard).map_or(&[][..], Vec::as_slice);
        let mut changes: Vec<Change> = entries.iter().map(|bytes| decode(bytes)).collect();
        let base = fold(&self.shards, of, &changes);
        changes.extend(self.outstanding(shard).iter().map(|(_, bytes)| decode(bytes)));
        (base, fold(&self.shards, of, &changes))
    }

    fn check(&self, centre: &Centre) -> Result<(), TestCaseError> {
        self.check_tallies()?;
        for of in people() {
            let (base, view) = self.naive(&of);
            prop_assert_eq!(&*self.shards.read_base(&of).expect("the base").0, &base, "the base of {}", of);
            prop_assert_eq!(&*self.shards.load(&of).expect("load").fragment, &view, "the view of {}", of);
            let whole = self.shards.as_of(&of, Timestamp(i64::MAX)).expect("as of");
            prop_assert_eq!(&whole, &view, "the history of {}", of);
            let mut events = 0;
            self.shards
                .history(&of, |change| events += u64::from(matches!(change, Change::Event { .. })))
                .expect("history");
            prop_assert_eq!(events, view.events, "the kept events of {}", of);
            prop_assert!(knows_ids(&self.shards, &of), "the ids of {}", of);
            let (cursor, checksum) = self.shards.place(of.shard());
            prop_assert_eq!(checksum, centre.checksum(of.shard(), cursor.seq));
            let profile = self.shards.profile(&of).expect("profile");
            let members = profile.identifiers().iter().map(|member| self.naive(member).1);
            let members: Vec<Fragment> = members.collect();
            let events: u64 = members.iter().map(|member| member.events).sum();
            let sum = |of: &Fragment| read(&self.shards, of).1;
            prop_assert_eq!(profile.fragment().events, events);
            prop_assert_eq!(sum(profile.fragment()), members.iter().map(sum).sum::<i128>());
        }
        Ok(())
    }
}

impl Edge {
    /// What is kept over everyone is what it is when it is added up anew, and what is pending beside it makes up the views.
    fn check_tallies(&self) -> Result<(), TestCaseError> {
        let scale = Arc::new(Scale::of_reports(BusinessTime::new("UTC").expect("UTC")));
        for shard in homes() {
            let (mut anew, mut pending) = (Tally::new(Arc::clone(&scale), Timestamp(0)), 0);
            let kept = self.shards.look(shard, &scale, Timestamp(0), |still| {
                still.pending(|_, _, _, _, count| pending += u64::from(count));
                still.tally.clone()
            });
            let nothing = Default::default();
            let add = |of: &Identifier, fragment: &Arc<Fragment>| {
                if !of.is_entity() {
                    anew.change(&nothing, &fragment.offers);
                }
                Ok(())
            };
            self.shards.each(shard, add).expect("each");
            let kept = kept.expect("look");
            prop_assert_eq!(&kept, &anew);
            let decided: u64 = kept.row("kettle", "web").map_or(0, |row| row.total.decided);
            let persons = people().filter(|of| of.shard() == shard && !of.is_entity());
            let in_view = |of| self.naive(&of).1.offers.get("kettle").decided;
            // What is pending may be void, of one who was erased.
            prop_assert!(decided + pending >= persons.map(in_view).sum::<u64>());
        }
        Ok(())
    }
}

const PEOPLE: u8 = 4;
const ENTITIES: u8 = 2;

/// Persons, and behind them entities.
fn whom(number: u8) -> Identifier {
    let entity = |number| Identifier::stored(&format!("household:{number}")).expect("an identifier");
    number.checked_sub(PEOPLE).map_or_else(|| person(number), entity)
}

fn people() -> impl Iterator<Item = Identifier> {
    (0..PEOPLE + ENTITIES).map(whom)
}

fn id_hash(id: u8) -> [u8; 16] {
    event(&id.to_string(), 0).id_hash()
}

/// Their shards.
fn homes() -> HashSet<ShardId> {
    people().map(|of| of.shard()).collect()
}

/// A shard's base as a snapshot.
fn exported(shards: &Shards, shard: ShardId, chunk_bytes: usize) -> (SnapshotHead, Vec<Vec<u8>>) {
    let mut chunks = Vec::new();
    let mut take = |chunk| {
        chunks.push(chunk);
        Ok(())
    };
    let head = shards.export(shard, chunk_bytes, &mut take).expect("export");
    (head, chunks)
}

/// Folds a person's changes by time: each id once, none of what is taken back.
fn fold(shards: &Shards, of: &Identifier, changes: &[Change]) -> Fragment {
    let definitions = shards.observer.definitions();
    let mut fragment = Fragment::empty(definitions);
    let (mut ids, mut events) = (HashSet::new(), Vec::new());
    for change in changes.iter().filter(|change| change.fragment() == Some(of)) {
        match change {
            Change::Erase { at, .. } => {
                fragment.erase(definitions, *at);
                events.clear();
            }
            Change::Erased { remains, .. } => ids.extend(remains.ids.map(|(id_hash, _)| id_hash)),
            Change::Withdraw { ids: withdrawn, .. } => {
                ids.extend(withdrawn);
                events.retain(|event: &&Event| !withdrawn.contains(&event.id_hash()));
            }
            Change::Event { event, .. } if ids.insert(event.id_hash()) => {
                if !fragment.erased_by(event.received_at) {
                    events.push(event);
                }
            }
            Change::Decided { offers, exposures, .. } => fragment.apply_decided(offers, exposures),
            Change::Link { other, word, .. } => fragment.apply_link(other, *word),
            Change::Mart { load, .. } => assert!(fragment.apply_load(definitions, load) <= Folded::Ignored),
            Change::Event { .. }
            | Change::Activate(_)
            | Change::Mark(_)
            | Change::Release(_)
            | Change::Catalog(_)
            | Change::Switch(_) => {}
        }
    }
    let effects: Vec<_> = events.iter().map(|event| shards.observer.observe(event).on(of)).collect();
    for retracts in effects.iter().filter_map(|effects| effects.retracts) {
        fragment.retracted.insert(retracts);
    }
    let mut places: Vec<_> = events.iter().map(|event| EventRef::from(*event)).zip(effects).collect();
    places.sort_by_key(|(event, _)| *event);
    for (event, effects) in places {
        let _ = fragment.apply_event(definitions, &event, &effects);
    }
    fragment
}

fn told((id, second, retracts): (u8, i64, Option<u8>)) -> Event {
    match retracts {
        Some(other) => retraction(&id.to_string(), second, &other.to_string()),
        None => event(&id.to_string(), second),
    }
}

#[derive(Clone, Debug)]
enum Act {
    /// Events of a person through an edge: ids, seconds, and the id that each takes back.
    Admit(usize, u8, Vec<(u8, i64, Option<u8>)>),
    /// An event of a person that names an entity, through an edge: id, second, and the id that it takes back.
    Share(usize, u8, u8, (u8, i64, Option<u8>)),
    Decide(usize, u8),
    /// A mart says of a person how many events there were up to a second, through an edge.
    Tell(usize, u8, i64, i64),
    Say(usize, u8, u8, bool),
    /// The centre takes so many changes of an edge.
    Push(usize, u8, usize),
    Follow(usize, u8, usize),
    /// The same, but for the batch that carries the cursor, and the process dies.
    Cut(usize, u8, usize),
    Restart(usize),
    /// It dies, with some of one's changes or of their shard's written.
    Crash(usize, u8, bool),
    /// The centre has all changes that have an answer, and the base is there.
    Settle(usize, u8),
    Load(usize, u8),
    /// The centre no longer knows which ids it has, so that they come twice in its log.
    Forget(usize),
    /// A person is erased through an edge, as of a second.
    Erase(usize, u8, i64),
    /// The centre replaces what was erased.
    Sweep(usize, u8),
    /// The centre withdraws ids of somebody.
    Withdraw(usize, u8, Vec<u8>),
    /// The base of another edge takes the place of an edge's own, while an event comes.
    Replace(usize, usize, u8),
}

const EDGES: usize = 3;

fn act() -> impl Strategy<Value = Act> {
    let (edge, person, of) = (|| 0..EDGES, || 0..PEOPLE, || 0..PEOPLE + ENTITIES);
    let event = || (0_u8..24, 0_i64..1000, prop::option::weighted(0.15, 0_u8..24));
    prop_oneof![
        6 => (edge(), of(), prop::collection::vec(event(), 1..5)).prop_map(|(edge, of, events)| Act::Admit(edge, of, events)),
        3 => (edge(), person(), 0..ENTITIES, event()).prop_map(|(edge, of, entity, event)| Act::Share(edge, of, entity, event)),
        1 => (edge(), of()).prop_map(|(edge, of)| Act::Decide(edge, of)),
        1 => (edge(), of(), 0_i64..1000, 0_i64..9).prop_map(|(edge, of, second, count)| Act::Tell(edge, of, second, count)),
        1 => (edge(), person(), person(), any::<bool>()).prop_map(|(edge, one, other, linked)| Act::Say(edge, one, other, linked)),
        5 => (edge(), of(), 1_usize..6).prop_map(|(edge, of, count)| Act::Push(edge, of, count)),
        6 => (edge(), of(), 1_usize..9).prop_map(|(edge, of, count)| Act::Follow(edge, of, count)),
        1 => (edge(), of(), 1_usize..9).prop_map(|(edge, of, count)| Act::Cut(edge, of, count)),
        1 => edge().prop_map(Act::Restart),
        1 => (edge(), of(), any::<bool>()).prop_map(|(at, of, ahead)| Act::Crash(at, of, ahead)),
        2 => (edge(), of()).prop_map(|(edge, of)| Act::Settle(edge, of)),
        3 => (edge(), of()).prop_map(|(edge, of)| Act::Load(edge, of)),
        1 => edge().prop_map(Act::Forget),
        2 => (edge(), of(), 0_i64..1000).prop_map(|(edge, of, second)| Act::Erase(edge, of, second)),
        1 => (edge(), of()).prop_map(|(edge, of)| Act::Sweep(edge, of)),
        1 => (edge(), of(), prop::collection::vec(0_u8..24, 1..6)).prop_map(|(edge, of, ids)| Act::Withdraw(edge, of, ids)),
        2 => (edge(), edge(), of()).prop_map(|(edge, other, of)| Act::Replace(edge, other, of)),
    ]
}

/// What happened so far.
struct World {
    centre: Centre,
    edges: Vec<Option<Edge>>,
    clock: i64,
}

impl World {
    fn new() -> Self {
        let edges = (0..EDGES as u64).map(|number| Some(Edge::new(number))).collect();
        Self { centre: Centre::default(), edges, clock: 0 }
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        self.clock += 1;
        let clock = self.clock;
        let (Act::Admit(at, ..)
        | Act::Share(at, ..)
        | Act::Withdraw(at, ..)
        | Act::Decide(at, ..)
        | Act::Tell(at, ..)
        | Act::Say(at, ..)
        | Act::Push(at, ..)
        | Act::Follow(at, ..)
        | Act::Cut(at, ..)
        | Act::Restart(at)
        | Act::Crash(at, ..)
        | Act::Settle(at, ..)
        | Act::Load(at, ..)
        | Act::Forget(at)
        | Act::Erase(at, ..)
        | Act::Sweep(at, ..)
        | Act::Replace(at, ..)) = act;
        let mut edge = self.edges[at].take().expect("an edge");
        match act {
            Act::Admit(_, of, events) => {
                let of = whom(of);
                let prepare = |said: (u8, i64, Option<u8>)| {
                    let event = told(said);
                    let effects = edge.shards.observer.observe(&event).on(&of);
                    Prepared::event(of.clone(), event, effects)
                };
                let changes = events.into_iter().map(prepare).collect();
                edge.shards.admit(of.shard(), changes, &edge.outbox).expect("admit");
            }
            Act::Share(_, of, entity, said) => {
                let entity = whom(PEOPLE + entity);
                let context = format!(r#"{{"context":{{"entities":{{"household":"{}"}},"#, entity.value());
                let event = told(said);
                let payload = match event.payload.strip_prefix(r#"{"context":{"#) {
                    Some(rest) => context + rest,
                    None => context + r#""page":{}}}"#,
                };
                let event = Event { payload: payload.into(), ..event };
                assert_eq!(event.entities(), std::slice::from_ref(&entity));
                for of in [whom(of), entity] {
                    let effects = edge.shards.observer.observe(&event).on(&of);
                    let prepared = Prepared::event(of.clone(), event.clone(), effects);
                    edge.shards.admit(of.shard(), vec![prepared], &edge.outbox).expect("admit");
                }
            }
            Act::Withdraw(_, of, ids) => {
                self.centre.withdraw(&whom(of), &ids.into_iter().map(id_hash).collect::<Vec<_>>());
            }
            Act::Decide(_, of) => {
                let offer = DecidedOffer::on_web("kettle", Timestamp(clock * 60_000), 1);
                let exposed = Exposure { experiment: "e".into(), at: Timestamp(clock * 60_000), arm: "a".into() };
                let decided = Prepared::decided(whom(of), vec![offer], vec![exposed]);
                edge.shards.admit(whom(of).shard(), vec![decided], &edge.outbox).expect("admit");
            }
            Act::Tell(_, of, second, count) => {
                let load = super::mart::load(&edge.shards, second, count, 10 * count);
                let told = Prepared::mart(whom(of), load);
                edge.shards.admit(whom(of).shard(), vec![told], &edge.outbox).expect("admit");
            }
            Act::Say(_, one, other, linked) => {
                let word = Word { at: Timestamp(clock * 10_000), linked, id: [clock as u8; 16], how: How::Event };
                let (one, other) = (whom(one), whom(other));
                if linked {
                    let _ = edge.shards.link(&one, &other, word, &edge.outbox).expect("link");
                } else {
                    edge.shards.unlink(&one, &other, word, &edge.outbox).expect("unlink");
                }
            }
            Act::Push(_, of, count) => edge.push(&mut self.centre, whom(of).shard(), count),
            Act::Follow(_, of, count) => edge.follow(&self.centre, whom(of).shard(), count),
            Act::Cut(_, of, count) => {
                let shard = whom(of).shard();
                let before = edge.shards.disk.place(shard).expect("the place");
                edge.follow(&self.centre, shard, count);
                edge.shards.disk.put_place(shard, &before);
                let followed = edge.followed.entry(shard).or_default();
                let cut = followed.split_off(before.cursor.seq as usize);
                edge = edge.restart(at as u64 * 1000 + clock as u64 + 1);
                // What an erasure took from the rows is gone before the cursor has come to it.
                if cut.iter().any(|bytes| Change::erases(bytes) || Change::withdraws(bytes)) {
                    edge.follow(&self.centre, shard, usize::MAX);
                }
            }
            Act::Restart(_) => edge = edge.restart(at as u64 * 1000 + clock as u64 + 1),
            Act::Crash(_, of, ahead) => {
                edge.shards.disk.write_some(&whom(of), ahead);
                edge.shards.disk.lose_behind();
                edge = edge.restart(at as u64 * 1000 + clock as u64 + 1);
                for shard in homes() {
                    let cursor = edge.shards.cursor(shard).seq as usize;
                    edge.followed.entry(shard).or_default().truncate(cursor);
                }
            }
            Act::Settle(_, of) => {
                let shard = whom(of).shard();
                let cursor = edge.shards.cursor(shard).seq;
                let there =
                    edge.pushed.get(&shard).map_or(0, |seqs| seqs.iter().take_while(|seq| **seq <= cursor).count());
                edge.shards.settle_pending(shard, there as u64).expect("settle");
                edge.settled.insert(shard, there as u64);
            }
            Act::Replace(_, other, of) => {
                let of = whom(of);
                let source = self.edges[other].as_ref().unwrap_or(&edge);
                let (head, chunks) = exported(&source.shards, of.shard(), 200);
                edge.followed.insert(of.shard(), source.followed.get(&of.shard()).cloned().unwrap_or_default());
                edge.replace(&head, &chunks, &of, clock);
            }
            Act::Erase(_, of, second) => {
                let (of, erasure) = (whom(of), [clock as u8; 16]);
                let erased = edge.shards.erase(&of, erasure, Timestamp(second * 1000), &edge.outbox).expect("erase");
                prop_assert!(erased.contains(&of));
                for of in erased {
                    let profile = edge.shards.profile(&of).expect("profile");
                    prop_assert!(profile.fragment().is_empty() && profile.identifiers() == [of]);
                }
            }
            Act::Sweep(_, of) => self.centre.sweep(whom(of).shard()),
            Act::Forget(_) => self.centre.ids.clear(),
            Act::Load(_, of) => edge.shards.prepare(&whom(of)).expect("prepare"),
        }
        let checked = edge.check(&self.centre);
        self.edges[at] = Some(edge);
        checked
    }

    /// Everything is pushed and followed.
    fn heal(&mut self) {
        for edge in self.edges.iter_mut().flatten() {
            homes().into_iter().for_each(|shard| edge.push(&mut self.centre, shard, usize::MAX));
        }
        for edge in self.edges.iter_mut().flatten() {
            for shard in homes() {
                edge.follow(&self.centre, shard, 3);
                edge.follow(&self.centre, shard, usize::MAX);
                let pushed = edge.pushed.get(&shard).map_or(0, Vec::len);
                edge.shards.settle_pending(shard, pushed as u64).expect("settle");
                assert_eq!(edge.shards.pending_changes(shard), Outstanding::default());
            }
            assert_eq!(edge.shards.pending_bytes(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn edges_that_follow_agree_with_a_fold_of_the_log(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in acts {
            world.act(act)?;
        }
        world.heal();
        // What that withdraws from others, they have once more.
        homes().into_iter().chain(homes()).for_each(|shard| world.centre.sweep(shard));
        world.heal();
        for edge in world.edges.iter().flatten() {
            edge.check(&world.centre)?;
        }
        // From zero, at once and in pieces; and as a process alone would, where no id comes twice.
        let (mut whole, mut pieces, alone) = (Edge::new(7), Edge::new(8), Edge::new(9));
        for shard in homes() {
            // All that these ever see is what erasures leave.
            whole.follow(&world.centre, shard, usize::MAX);
            while pieces.shards.cursor(shard) != whole.shards.cursor(shard) {
                pieces.follow(&world.centre, shard, 2);
            }
            let hash = whole.shards.state_hash(shard).expect("hash");
            prop_assert!(hash.settled && hash.cursor == whole.shards.cursor(shard));
            for edge in world.edges.iter().flatten().chain([&pieces]) {
                prop_assert_eq!(edge.shards.state_hash(shard).expect("hash"), hash);
                prop_assert_eq!(edge.shards.place(shard), whole.shards.place(shard));
            }
            let entries = world.centre.of(shard);
            let mut seen = HashSet::new();
            let new = |entry: &Entry| match Change::decode(&entry.bytes).expect("a change") {
                Change::Event { fragment, event } => seen.insert((fragment, event.id_hash())),
                Change::Erased { fragment, remains } => remains.ids.is_none_or(|(id, _)| seen.insert((fragment, id))),
                Change::Withdraw { fragment, ids, .. } => {
                    seen.extend(ids.into_iter().map(|id| (fragment.clone(), id)));
                    true
                }
                _ => true,
            };
            if entries.iter().all(new) {
                let entries: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.bytes.to_vec())).collect();
                alone.shards.recover(shard, &entries).expect("recover");
                prop_assert_eq!(alone.shards.state_hash(shard).expect("hash"), hash);
            }
            if let Some(entry) = entries.last() {
                let mut other = entry.clone();
                other.seq += 1;
                whole.shards.follow(shard, 1, &[Ordered { entry: other, own: None }]).expect("follow");
                prop_assert_eq!(whole.shards.state_hash(shard).expect("hash").agrees(&hash), None);
            }
        }
    }
}
