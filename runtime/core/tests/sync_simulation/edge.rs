//! A simulated edge: the real machines, driven over a disk that loses what was not synced.

mod checks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use selvedge_core::change::Change;
use selvedge_core::sync::backoff::Backoff;
use selvedge_core::sync::forwarder::{Boots, Forwarder, Outcome};
use selvedge_core::sync::frame::Frame;
use selvedge_core::sync::replica::{Replica, Step};
use selvedge_core::sync::{Entry, Origin, Push};
use selvedge_core::view::Cursor;

use crate::model::{Base, Issue, Rng, SHARDS, What, place, shard};
use crate::scenario::Mutation;
use crate::world::{Ev, Msg};

/// Without a word from the centre for so long, a stream is dead.
const IDLE_MS: i64 = 2_000;
/// An answer that takes longer does not come.
const ANSWER_MS: i64 = 2_000;

/// One shard's outbox: what is above `durable` may be gone after a crash.
#[derive(Clone, Default)]
pub struct Outbox {
    pub entries: BTreeMap<u64, (Arc<[u8]>, usize)>,
    pub last: u64,
    pub durable: u64,
    pub trimmed: u64,
}

/// What an edge's data directory holds.
#[derive(Clone, Default)]
pub struct Disk {
    pub outbox: Vec<Outbox>,
    boots: Boots,
    base: Vec<Base>,
}

struct Pending {
    local: u64,
    issue: usize,
    /// None: nothing can read it.
    change: Option<Change>,
    /// Its event came first through another edge.
    void: bool,
}

struct Shard {
    base: Base,
    replica: Replica,
    forwarder: Forwarder,
    pending: Vec<Pending>,
    applying: VecDeque<Vec<Entry>>,
    checkpointed: Cursor,
    /// Who waits for the outbox to be durable up to there.
    waiting: Vec<(u64, usize)>,
    snapshot: Want,
    backoff: Backoff,
}

#[derive(Clone, Copy)]
enum Want {
    Nothing,
    From(i64),
    Asked { req: u64, since: i64 },
}

enum Link {
    Down { until: i64 },
    Up { conn: u64, heard: i64, spoken: bool },
}

pub struct Process {
    pub generation: u64,
    shards: Vec<Shard>,
    link: Link,
    backoff: Backoff,
    flights: BTreeMap<u64, (usize, u64, i64)>,
    names: Rng,
    /// What was admitted lately.
    recent: VecDeque<usize>,
}

pub struct Edge {
    pub index: usize,
    pub disk: Disk,
    pub backup: Option<Disk>,
    pub process: Option<Process>,
    mutation: Option<Mutation>,
}

/// What an edge does to the world.
#[derive(Default)]
pub struct Out {
    pub sends: Vec<Msg>,
    pub after: Vec<(i64, Ev)>,
    pub acked: Vec<(usize, Option<(Origin, u64)>)>,
    pub dead: Vec<usize>,
    pub connects: u64,
    pub pushes: u64,
    pub bootstraps: u64,
    pub resumes: u64,
}

impl Edge {
    pub fn new(index: usize, mutation: Option<Mutation>) -> Self {
        let disk = Disk {
            outbox: vec![Outbox::default(); SHARDS],
            boots: Boots::default(),
            base: vec![Base::default(); SHARDS],
        };
        Self { index, disk, backup: None, process: None, mutation }
    }

    pub fn start(&mut self, now: i64, generation: u64, rng: &mut Rng) -> Result<(), String> {
        for outbox in &mut self.disk.outbox {
            outbox.durable = outbox.last;
        }
        let (boots, outboxes) = (&mut self.disk.boots, &self.disk.outbox);
        let of = |shard, pick: fn(&Outbox) -> u64| place(shard).map_or(0, |place| pick(&outboxes[place]));
        let origin = Origin(rng.draw() | 1);
        boots
            .begin(origin, |shard| of(shard, |outbox| outbox.last), |shard| of(shard, |outbox| outbox.trimmed))
            .map_err(|error| error.to_string())?;
        let mut shards = Vec::new();
        for place in 0..SHARDS {
            let base = self.disk.base[place].clone();
            let Outbox { trimmed, durable, .. } = self.disk.outbox[place];
            let seed = Backoff::new(rng.draw());
            let forwarder = Forwarder::new(&self.disk.boots, shard(place), trimmed, durable, base.cursor.epoch, seed)
                .map_err(|error| error.to_string())?;
            shards.push(Shard {
                replica: Replica::new(base.cursor, base.checksum),
                checkpointed: base.cursor,
                base,
                forwarder,
                pending: Vec::new(),
                applying: VecDeque::new(),
                waiting: Vec::new(),
                snapshot: Want::Nothing,
                backoff: Backoff::new(rng.draw()),
            });
        }
        self.process = Some(Process {
            generation,
            shards,
            link: Link::Down { until: now },
            backoff: Backoff::new(rng.draw()),
            flights: BTreeMap::new(),
            names: Rng(rng.draw()),
            recent: VecDeque::new(),
        });
        for place in 0..SHARDS {
            self.restore_pending(place);
        }
        Ok(())
    }

    /// The process dies. Of what was not synced a part may have reached the disk.
    pub fn crash(&mut self, rng: &mut Rng) {
        let Some(process) = self.process.take() else { return };
        for (place, outbox) in self.disk.outbox.iter_mut().enumerate() {
            outbox.last = outbox.durable + rng.below(outbox.last - outbox.durable + 1);
            outbox.entries.split_off(&(outbox.last + 1));
            if rng.chance(300) {
                self.disk.base[place] = process.shards[place].base.clone();
            }
        }
    }

    /// Copies the data directory as it is on disk.
    pub fn back_up(&mut self) {
        let mut disk = self.disk.clone();
        for outbox in &mut disk.outbox {
            outbox.last = outbox.durable;
            outbox.entries.split_off(&(outbox.last + 1));
        }
        self.backup = Some(disk);
    }

    /// What the base does not hold becomes pending again.
    fn restore_pending(&mut self, place: usize) {
        let Some(process) = &mut self.process else { return };
        let held = &mut process.shards[place];
        held.pending.clear();
        for (local, (bytes, issue)) in &self.disk.outbox[place].entries {
            let Some((origin, number)) = self.disk.boots.number(shard(place), *local) else { continue };
            if held.base.applied.get(&origin).is_some_and(|applied| *applied >= number) {
                continue;
            }
            let change = Change::decode(bytes).ok();
            let void = match &change {
                Some(Change::Event { fragment, event }) => {
                    let again = |pending: &Pending| matches!(&pending.change, Some(Change::Event { fragment: f, event: e }) if f == fragment && e.message_id == event.message_id);
                    held.base.holds(fragment, &event.id_hash()) || held.pending.iter().any(again)
                }
                _ => false,
            };
            held.pending.push(Pending { local: *local, issue: *issue, change, void });
        }
    }

    /// A client sends a change.
    pub fn admit(&mut self, number: usize, issue: &Issue, durable: bool, out: &mut Out) {
        let Some(process) = &mut self.process else { return };
        let held = &mut process.shards[issue.place];
        let outbox = &mut self.disk.outbox[issue.place];
        let known = match &issue.what {
            What::Event { fragment, id, .. } => {
                held.base.holds(fragment, id) || held.pending.iter().any(|pending| pending.issue == number)
            }
            What::Decided { .. } | What::Poison => false,
        };
        if !known {
            outbox.last += 1;
            outbox.entries.insert(outbox.last, (Arc::clone(&issue.bytes), number));
            let change = Change::decode(&issue.bytes).ok();
            held.pending.push(Pending { local: outbox.last, issue: number, change, void: false });
            process.recent.push_back(number);
            if process.recent.len() > 20 {
                process.recent.pop_front();
            }
            out.after.push((3, Ev::OutboxCommit(self.index, process.generation)));
        }
        let early = self.mutation == Some(Mutation::EdgeAcksEarly);
        if durable && (early || outbox.durable >= outbox.last) {
            out.acked.push((number, None));
        } else if durable {
            held.waiting.push((outbox.last, number));
        }
    }

    /// The outbox's fsync.
    pub fn outbox_commit(&mut self, out: &mut Out) {
        let Some(process) = &mut self.process else { return };
        for (place, held) in process.shards.iter_mut().enumerate() {
            let outbox = &mut self.disk.outbox[place];
            outbox.durable = outbox.last;
            held.forwarder.on_durable(outbox.durable);
            for (local, issue) in held.waiting.drain(..) {
                let own = outbox.entries.get(&local).is_some_and(|(_, of)| *of == issue);
                let number = self.disk.boots.number(shard(place), local).filter(|_| own);
                out.acked.push((issue, number));
            }
        }
    }

    /// A checkpoint of the base; then the outbox is trimmed.
    pub fn checkpoint(&mut self, place: usize) {
        let Some(process) = &mut self.process else { return };
        let held = &mut process.shards[place];
        self.disk.base[place] = held.base.clone();
        held.checkpointed = held.base.cursor;
        let Some(mut head) = held.replica.head().copied() else { return };
        if self.mutation == Some(Mutation::TrimUnstable) {
            head.stable = head.seq;
        }
        let local = held.forwarder.droppable(held.checkpointed, &head);
        let outbox = &mut self.disk.outbox[place];
        if local > outbox.trimmed {
            outbox.trimmed = local;
            outbox.entries = outbox.entries.split_off(&(local + 1));
            held.forwarder.on_trimmed(local);
            let outboxes = &self.disk.outbox;
            self.disk.boots.forget(|shard| match crate::model::place(shard) {
                Some(place) => outboxes[place].trimmed,
                None => u64::MAX,
            });
        }
    }

    /// What is due: connecting, pushing, asking for snapshots, giving up on answers.
    pub fn tick(&mut self, now: i64, rng: &mut Rng, out: &mut Out) {
        let Some(process) = &mut self.process else { return };
        match process.link {
            Link::Down { until } if now >= until => {
                let conn = process.names.draw();
                let follow = (0..SHARDS).map(|place| (shard(place), process.shards[place].replica.after())).collect();
                let frame = Frame::Follow(follow).encode().expect("within bounds").into();
                out.sends.push(Msg::Connect { conn, frame });
                out.connects += 1;
                process.link = Link::Up { conn, heard: now, spoken: false };
            }
            Link::Up { heard, .. } if now - heard > IDLE_MS => process.disconnect(now),
            _ => {}
        }
        let late: Vec<u64> =
            process.flights.iter().filter(|(_, (_, _, since))| now - since > ANSWER_MS).map(|(req, _)| *req).collect();
        for req in late {
            process.fail_push(now, req);
        }
        let spoken = matches!(process.link, Link::Up { spoken: true, .. });
        for place in 0..SHARDS {
            let held = &mut process.shards[place];
            match held.snapshot {
                Want::From(when) if now >= when => {
                    let req = process.names.draw();
                    held.snapshot = Want::Asked { req, since: now };
                    out.sends.push(Msg::WantSnapshot { req, place });
                }
                Want::Asked { since, .. } if now - since > ANSWER_MS => held.snapshot_failed(now),
                _ => {}
            }
            if !spoken {
                continue;
            }
            let Some(range) = held.forwarder.next(now) else { continue };
            // As a driver does that stops at a number of bytes.
            let last = range.last_local.min(range.first_local + rng.below(40));
            let entries = &self.disk.outbox[place].entries;
            let changes = (range.first_local..=last).map(|local| Arc::clone(&entries[&local].0)).collect();
            let push = Push {
                shard: shard(place),
                epoch: range.epoch,
                origin: range.origin,
                predecessor: range.predecessor,
                skips: range.skips,
                changes,
            };
            let req = process.names.draw();
            process.flights.insert(req, (place, range.ticket, now));
            let frame = Frame::Pushes(vec![push]).encode().expect("within bounds").into();
            out.sends.push(Msg::Push { req, frame });
            out.pushes += 1;
        }
    }

    pub fn receive(&mut self, now: i64, msg: Msg, rng: &mut Rng, out: &mut Out) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match msg {
            Msg::Refused { conn } => match process.link {
                Link::Up { conn: held, spoken: false, .. } if held == conn => process.disconnect(now),
                _ => {}
            },
            Msg::Stream { conn, frame } => {
                let Link::Up { conn: held, heard, spoken } = &mut process.link else { return Ok(()) };
                if *held != conn {
                    return Ok(());
                }
                let Ok(frame) = Frame::decode(&frame) else {
                    process.disconnect(now);
                    return Ok(());
                };
                *heard = now;
                if !*spoken {
                    *spoken = true;
                    process.backoff.reset();
                    process.shards.iter_mut().for_each(|held| held.replica.on_connected(now));
                }
                self.on_frame(now, frame, rng, out);
            }
            Msg::Pushed { req, frame } => {
                let Ok(Frame::PushAnswers(answers)) = Frame::decode(&frame) else {
                    process.fail_push(now, req);
                    return Ok(());
                };
                let Some((place, ticket, _)) = process.flights.remove(&req) else { return Ok(()) };
                let held = &mut process.shards[place];
                let answer = answers.first().ok_or("no answer")?;
                if let Outcome::Refused { local, .. } = held.forwarder.on_answer(now, ticket, answer) {
                    let (_, issue) = &self.disk.outbox[place].entries[&local];
                    out.dead.push(*issue);
                    held.pending.retain(|pending| pending.local != local);
                }
                held.drop_ordered();
            }
            Msg::Snapshot { req, epoch, snapshot } => {
                let asked = |held: &Shard| matches!(held.snapshot, Want::Asked { req: asked, .. } if asked == req);
                let Some(place) = process.shards.iter().position(asked) else { return Ok(()) };
                let held = &mut process.shards[place];
                let base = match snapshot {
                    None => Base { cursor: Cursor { epoch, seq: 0 }, ..Base::default() },
                    Some((manifest, rows)) => {
                        let Ok(Frame::Manifest(manifest)) = Frame::decode(&manifest) else {
                            held.snapshot_failed(now);
                            return Ok(());
                        };
                        Base { cursor: manifest.cursor(), checksum: manifest.checksum, ..(*rows).clone() }
                    }
                };
                held.snapshot = Want::Nothing;
                held.backoff.reset();
                held.replica.on_bootstrapped(base.cursor, base.checksum);
                held.forwarder.on_epoch(base.cursor.epoch);
                held.base = base;
                process.flights.retain(|_, (of, _, _)| *of != place);
                process.link = Link::Down { until: now };
                self.restore_pending(place);
            }
            _ => {}
        }
        Ok(())
    }

    fn on_frame(&mut self, now: i64, frame: Frame, rng: &mut Rng, out: &mut Out) {
        let Some(process) = &mut self.process else { return };
        let blind = self.mutation == Some(Mutation::NoEpoch);
        match frame {
            Frame::Changes { shard, epoch, entries } => {
                let Some(place) = place(shard) else { return };
                let held = &mut process.shards[place];
                let epoch = if blind { held.base.cursor.epoch.max(1) } else { epoch };
                let step = held.replica.on_changes(now, epoch, &entries);
                if let Step::Apply { skip } = step {
                    held.applying.push_back(entries[skip..].to_vec());
                    let apply = Ev::Apply(self.index, process.generation, place);
                    out.after.push((rng.between(0, 15), apply));
                } else {
                    process.step(now, place, step, out);
                }
            }
            Frame::Heads(heads) => {
                for (shard, head) in heads {
                    let Some(place) = place(shard) else { continue };
                    let step = process.shards[place].replica.on_head(now, head);
                    process.step(now, place, step, out);
                }
            }
            Frame::Refetch { shard, why, .. } => {
                let Some(place) = place(shard) else { return };
                let step = process.shards[place].replica.on_refetch(now, why);
                process.step(now, place, step, out);
            }
            _ => {}
        }
    }

    /// The next batch that waits to be applied.
    pub fn apply(&mut self, now: i64, place: usize, out: &mut Out) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let held = &mut process.shards[place];
        let Some(entries) = held.applying.pop_front() else { return Ok(()) };
        for entry in &entries {
            let change = held.base.apply(entry)?;
            match self.disk.boots.local(shard(place), entry.origin, entry.number) {
                Some(local) => {
                    held.forwarder.on_own(held.base.cursor.epoch, local, entry.seq);
                    held.pending.retain(|pending| pending.local > local);
                }
                None => {
                    let Change::Event { fragment, event } = &change else { continue };
                    for pending in &mut held.pending {
                        if let Some(Change::Event { fragment: f, event: e }) = &pending.change
                            && (f, &e.message_id) == (fragment, &event.message_id)
                        {
                            pending.void = true;
                        }
                    }
                }
            }
        }
        held.drop_ordered();
        let step = held.replica.on_applied(held.base.cursor, held.base.checksum);
        process.step(now, place, step, out);
        Ok(())
    }
}

impl Process {
    fn disconnect(&mut self, now: i64) {
        let wait = i64::try_from(self.backoff.fail()).expect("short");
        self.link = Link::Down { until: now + wait };
        self.shards.iter_mut().for_each(|held| held.replica.on_disconnected());
    }

    fn fail_push(&mut self, now: i64, req: u64) {
        if let Some((place, ticket, _)) = self.flights.remove(&req) {
            self.shards[place].forwarder.on_failed(now, ticket);
        }
    }

    fn step(&mut self, now: i64, place: usize, step: Step, out: &mut Out) {
        match step {
            Step::Resume(_) => {
                out.resumes += 1;
                self.disconnect(now);
            }
            Step::Bootstrap(_) => {
                out.bootstraps += 1;
                let held = &mut self.shards[place];
                held.applying.clear();
                held.snapshot = Want::From(now);
            }
            Step::Halt(why) => panic!("halted: {why}"),
            Step::Apply { .. } | Step::Ignore(_) | Step::Nothing => {}
        }
    }
}

impl Shard {
    /// What the log has at or below the base leaves: duplicates of what came first through others.
    fn drop_ordered(&mut self) {
        let ordered = self.forwarder.ordered_local(self.base.cursor);
        self.pending.retain(|pending| pending.local > ordered);
    }

    fn snapshot_failed(&mut self, now: i64) {
        let wait = i64::try_from(self.backoff.fail()).expect("short");
        self.snapshot = Want::From(now + wait);
    }
}

/// Whether a base has a change.
pub fn has(base: &Base, what: &What) -> bool {
    match what {
        What::Event { fragment, id, .. } => base.holds(fragment, id),
        What::Decided { fragment, offer } => base.holds_offer(fragment, offer),
        What::Poison => false,
    }
}
