//! The simulated world: a clock, a network that loses, repeats, reorders, delays and damages what it carries, and nodes that die.

mod checks;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use selvedge_core::sync::mix;
use selvedge_core::sync::token::{Mark, Token};

use crate::centre::Centre;
use crate::edge::{Edge, Out};
use crate::model::{Base, Issue, Rng, SHARDS, What, shard, visitors};
use crate::scenario::{Config, Mutation, Report, Restores};

/// Within so long after the last fault all must agree.
const HEALS_MS: i64 = 10_000;
/// And within so long, which takes a backup and a checkpoint after that, outboxes must be empty.
const RESTS_MS: i64 = 20_000;
/// The longest that the network holds back what it delivers.
const DELAY_MS: i64 = 1_500;

#[derive(Clone)]
pub enum Msg {
    Connect { conn: u64, frame: Arc<[u8]> },
    Refused { conn: u64 },
    Stream { conn: u64, frame: Arc<[u8]> },
    Push { req: u64, frame: Arc<[u8]> },
    Pushed { req: u64, frame: Arc<[u8]> },
    WantSnapshot { req: u64, place: usize },
    Snapshot { req: u64, epoch: u32, snapshot: Option<(Arc<[u8]>, Arc<Base>)> },
}

pub enum Ev {
    Tick(usize),
    ToCentre(usize, Msg),
    ToEdge(usize, Msg),
    CentreCommit,
    CentreBeat,
    Snapshot,
    Backup,
    OutboxCommit(usize, u64),
    Apply(usize, u64, usize),
    Checkpoint(usize),
    Client,
    Fault,
    EdgeUp(usize),
    CentreUp,
    Check,
    Heal,
}

impl Ev {
    fn mark(&self) -> u64 {
        match self {
            Self::Tick(edge) => 100 + *edge as u64,
            Self::ToCentre(edge, msg) => 1_000 + *edge as u64 + msg.mark(),
            Self::ToEdge(edge, msg) => 2_000 + *edge as u64 + msg.mark(),
            Self::CentreCommit => 1,
            Self::CentreBeat => 2,
            Self::Snapshot => 3,
            Self::Backup => 4,
            Self::OutboxCommit(edge, _) => 200 + *edge as u64,
            Self::Apply(edge, _, place) => 300 + (*edge * SHARDS + place) as u64,
            Self::Checkpoint(edge) => 400 + *edge as u64,
            Self::Client => 5,
            Self::Fault => 6,
            Self::EdgeUp(edge) => 500 + *edge as u64,
            Self::CentreUp => 7,
            Self::Check => 8,
            Self::Heal => 9,
        }
    }
}

impl Msg {
    fn mark(&self) -> u64 {
        match self {
            Self::Connect { frame, .. }
            | Self::Stream { frame, .. }
            | Self::Push { frame, .. }
            | Self::Pushed { frame, .. } => hash(frame) << 12,
            Self::Refused { conn } => conn << 12,
            Self::WantSnapshot { req, .. } => req << 12,
            Self::Snapshot { epoch, snapshot, .. } => u64::from(*epoch) << 12 | u64::from(snapshot.is_some()) << 40,
        }
    }

    fn frame_mut(&mut self) -> Option<&mut Arc<[u8]>> {
        match self {
            Self::Connect { frame, .. }
            | Self::Stream { frame, .. }
            | Self::Push { frame, .. }
            | Self::Pushed { frame, .. } => Some(frame),
            Self::Snapshot { snapshot, .. } => snapshot.as_mut().map(|(frame, _)| frame),
            Self::Refused { .. } | Self::WantSnapshot { .. } => None,
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

struct World {
    config: Config,
    now: i64,
    order: u64,
    queue: BinaryHeap<Reverse<(i64, u64, usize)>>,
    events: Vec<Option<Ev>>,
    free: Vec<usize>,
    rng: Rng,
    centre: Centre,
    edges: Vec<Edge>,
    issues: Vec<Issue>,
    tokens: Vec<(String, usize)>,
    /// By edge and direction: until when nothing passes, and when the last message arrives.
    blocked: Vec<[i64; 2]>,
    arrived: Vec<[i64; 2]>,
    healed: Option<i64>,
    generations: u64,
    commit_due: bool,
    report: Report,
    per_second: (i64, u64, u64),
}

/// Runs a simulation to its end. An error says what was broken.
pub fn run(config: &Config) -> Result<Report, String> {
    let mut rng = Rng(config.seed);
    let stable_by_backup = config.restores != Restores::None || rng.chance(300);
    let mut world = World {
        centre: Centre::new(stable_by_backup, config.mutation),
        edges: (0..config.edges).map(|index| Edge::new(index, config.mutation)).collect(),
        config: config.clone(),
        now: 0,
        order: 0,
        queue: BinaryHeap::new(),
        events: Vec::new(),
        free: Vec::new(),
        rng,
        issues: Vec::new(),
        tokens: Vec::new(),
        blocked: vec![[0; 2]; config.edges],
        arrived: vec![[0; 2]; config.edges],
        healed: None,
        generations: 0,
        commit_due: false,
        report: Report::default(),
        per_second: (0, 0, 0),
    };
    let outcome = world.run();
    outcome.map_err(|error| {
        format!("{} edges, restores {:?}, at {} ms: {error}", config.edges, config.restores, world.now)
    })?;
    Ok(world.report)
}

impl World {
    fn run(&mut self) -> Result<(), String> {
        for edge in 0..self.edges.len() {
            self.start_edge(edge)?;
            let jitter = self.rng.between(0, self.config.tick_ms);
            self.after(jitter, Ev::Tick(edge));
            let jitter = self.rng.between(100, 600);
            self.after(jitter, Ev::Checkpoint(edge));
        }
        for (wait, ev) in [(5, Ev::CentreBeat), (1_500, Ev::Snapshot), (700, Ev::Backup), (1, Ev::Client)] {
            self.after(wait, ev);
        }
        if self.config.faults {
            self.after(800, Ev::Fault);
        }
        if let Some((from, to)) = self.config.away {
            self.after(from, Ev::Fault);
            self.after(to, Ev::CentreUp);
        }
        self.after(self.config.check_ms, Ev::Check);
        self.after(self.config.chaos_ms, Ev::Heal);
        while let Some(Reverse((time, _, slot))) = self.queue.pop() {
            self.now = time;
            let Some(ev) = self.events[slot].take() else { continue };
            self.free.push(slot);
            if !matches!(ev, Ev::Tick(_)) {
                self.report.trace = mix(self.report.trace ^ self.now.unsigned_abs(), ev.mark());
            }
            if self.handle(ev)? {
                return self.finish();
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn after(&mut self, wait: i64, ev: Ev) {
        self.order += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(ev);
        self.queue.push(Reverse((self.now + wait, self.order, slot)));
    }

    /// Gives true at the end.
    fn handle(&mut self, ev: Ev) -> Result<bool, String> {
        let now = self.now;
        let mut out = Out::default();
        match ev {
            Ev::Tick(edge) => {
                self.edges[edge].tick(now, &mut self.rng, &mut out);
                self.emit(edge, out);
                self.after(self.config.tick_ms, Ev::Tick(edge));
            }
            Ev::ToCentre(edge, msg) => {
                if !self.centre.up {
                    if let Msg::Connect { conn, .. } = msg {
                        self.send_to_edge(edge, Msg::Refused { conn });
                    }
                    return Ok(false);
                }
                let split = self.rng.chance(500);
                let (answers, commit) = self.centre.receive(now, edge, msg, split);
                answers.into_iter().for_each(|(edge, msg)| self.send_to_edge(edge, msg));
                if commit && !self.commit_due {
                    self.commit_due = true;
                    let early = self.config.mutation == Some(Mutation::AckBeforeFsync);
                    let wait = self.rng.between(1, if early { 400 } else { 8 });
                    self.after(wait, Ev::CentreCommit);
                }
            }
            Ev::ToEdge(edge, msg) => {
                self.edges[edge].receive(now, msg, &mut self.rng, &mut out)?;
                self.emit(edge, out);
            }
            Ev::CentreCommit => {
                self.commit_due = false;
                if self.centre.up {
                    for (edge, msg) in self.centre.commit(now) {
                        self.send_to_edge(edge, msg);
                    }
                }
            }
            Ev::CentreBeat => {
                if self.centre.up {
                    for (edge, msg) in self.centre.heartbeat() {
                        self.send_to_edge(edge, msg);
                    }
                }
                self.after(500, Ev::CentreBeat);
            }
            Ev::Snapshot => {
                let (place, keep) = (self.rng.index(SHARDS), self.rng.below(60));
                if self.centre.up {
                    self.centre.snapshot(place, keep)?;
                }
                let wait = self.rng.between(500, 2_000) * if self.config.faults { 1 } else { 600 };
                self.after(wait, Ev::Snapshot);
            }
            Ev::Backup => {
                if self.centre.up {
                    self.centre.backup();
                }
                let wait = self.rng.between(500, 2_500);
                self.after(wait, Ev::Backup);
            }
            Ev::OutboxCommit(edge, generation) => {
                if self.runs(edge, generation) {
                    self.edges[edge].outbox_commit(&mut out);
                    self.emit(edge, out);
                }
            }
            Ev::Apply(edge, generation, place) => {
                if self.runs(edge, generation) {
                    self.edges[edge].apply(now, place, &mut out)?;
                    self.emit(edge, out);
                }
            }
            Ev::Checkpoint(edge) => {
                for place in 0..SHARDS {
                    self.edges[edge].checkpoint(place);
                }
                let wait = self.rng.between(100, 600) * if self.config.faults { 1 } else { 10 };
                self.after(wait, Ev::Checkpoint(edge));
            }
            Ev::Client => self.client(),
            Ev::Fault => self.fault(),
            Ev::EdgeUp(edge) => {
                if self.edges[edge].process.is_none() {
                    self.start_edge(edge)?;
                }
            }
            Ev::CentreUp => self.centre.up = true,
            Ev::Check => {
                self.check()?;
                if let Some(healed) = self.healed {
                    let agreed = self.agreed();
                    if agreed && self.report.healed_ms == 0 {
                        self.report.healed_ms = now - healed;
                    }
                    if agreed && self.edges.iter().all(Edge::rests) {
                        return Ok(true);
                    }
                    let most = if self.report.healed_ms == 0 { HEALS_MS } else { RESTS_MS };
                    if now - healed > most {
                        let edges: Vec<String> = self.edges.iter().map(Edge::describe).collect();
                        let heads: Vec<_> = (0..SHARDS).map(|place| self.centre.head(place)).collect();
                        return Err(format!(
                            "no {} {most} ms after the last fault: centre {heads:?}, edges {edges:#?}",
                            if agreed { "rest" } else { "agreement" }
                        ));
                    }
                }
                let wait = if self.healed.is_some() { 100 } else { self.config.check_ms };
                self.after(wait, Ev::Check);
            }
            Ev::Heal => {
                self.healed = Some(now);
                if self.config.check_ms > 1_000 {
                    self.after(100, Ev::Check);
                }
                self.blocked.iter_mut().for_each(|blocked| *blocked = [0; 2]);
                self.centre.up = true;
                for edge in 0..self.edges.len() {
                    if self.edges[edge].process.is_none() {
                        self.start_edge(edge)?;
                    }
                }
            }
        }
        Ok(false)
    }

    fn runs(&self, edge: usize, generation: u64) -> bool {
        self.edges[edge].process.as_ref().is_some_and(|process| process.generation == generation)
    }

    fn start_edge(&mut self, edge: usize) -> Result<(), String> {
        self.generations += 1;
        self.edges[edge].start(self.now, self.generations, &mut self.rng)
    }

    fn emit(&mut self, edge: usize, out: Out) {
        let Out { sends, after, acked, dead, connects, pushes, bootstraps, resumes } = out;
        sends.into_iter().for_each(|msg| self.send_to_centre(edge, msg));
        after.into_iter().for_each(|(wait, ev)| self.after(wait, ev));
        for (issue, number) in acked {
            self.issues[issue].acked = true;
            if let Some((origin, number)) = number.filter(|_| self.rng.chance(200)) {
                let mut token = Token::default();
                token.add(Mark::Number { shard: shard(self.issues[issue].place), origin, number });
                self.tokens.push((token.encode(), issue));
            }
        }
        for issue in dead {
            self.report.dead += u64::from(!self.issues[issue].dead);
            self.issues[issue].dead = true;
        }
        self.report.bootstraps += bootstraps;
        self.report.resumes += resumes;
        self.report.connects += connects;
        let second = self.now / 1_000;
        if second != self.per_second.0 {
            self.per_second = (second, 0, 0);
        }
        self.per_second.1 += connects;
        self.per_second.2 += pushes;
        // All edges begin at once, and miss the centre at once; that is no herd of theirs.
        let settles = self.config.away.map_or(0, |(from, _)| from + 30_000);
        if self.now < settles {
            return;
        }
        self.report.connects_max = self.report.connects_max.max(self.per_second.1);
        self.report.pushes_max = self.report.pushes_max.max(self.per_second.2);
    }

    fn send_to_centre(&mut self, edge: usize, msg: Msg) {
        self.send(edge, 0, msg, Ev::ToCentre);
    }

    fn send_to_edge(&mut self, edge: usize, msg: Msg) {
        self.send(edge, 1, msg, Ev::ToEdge);
    }

    fn send(&mut self, edge: usize, way: usize, mut msg: Msg, ev: fn(usize, Msg) -> Ev) {
        if self.now < self.blocked[edge][way] {
            return;
        }
        let storm = self.config.faults && self.healed.is_none();
        if storm && self.rng.chance(10) {
            return;
        }
        if storm
            && self.rng.chance(5)
            && let Some(frame) = msg.frame_mut()
        {
            let mut bytes = frame.to_vec();
            let at = self.rng.index(bytes.len());
            bytes[at] ^= 1 << self.rng.below(8);
            *frame = bytes.into();
        }
        let again = if storm && self.rng.chance(10) { 2 } else { 1 };
        for _ in 0..again {
            let slow = storm && self.rng.chance(10);
            let delay = self.rng.between(1, if slow { DELAY_MS } else { 10 });
            // In order, but for those that are held back and those that overtake.
            let overtakes = slow || again == 2 || storm && self.rng.chance(10);
            let arrives = if overtakes { self.now + delay } else { (self.now + delay).max(self.arrived[edge][way]) };
            if !overtakes {
                self.arrived[edge][way] = arrives;
            }
            self.after(arrives - self.now, ev(edge, msg.clone()));
        }
    }

    fn client(&mut self) {
        if self.healed.is_some() {
            return;
        }
        let place = self.rng.index(SHARDS);
        let visitor = self.rng.index(visitors()[place].1.len());
        let number = self.issues.len();
        let kind = self.rng.below(100);
        let issue = match kind {
            0..20 if number > 0 => number - 1 - self.rng.index(number.min(40)),
            20..45 => {
                self.issues.push(Issue::decided(place, visitor, number));
                number
            }
            45 => {
                self.issues.push(Issue::poison(place, number));
                number
            }
            _ => {
                let at = self.now - self.rng.between(0, 5_000);
                self.issues.push(Issue::event(place, visitor, number, at));
                number
            }
        };
        // Only events are recognised when they are sent again.
        if issue == number || matches!(self.issues[issue].what, What::Event { .. }) {
            let edge = self.rng.index(self.edges.len());
            let durable = self.rng.chance(800);
            let mut out = Out::default();
            self.edges[edge].admit(issue, &self.issues[issue], durable, &mut out);
            self.emit(edge, out);
        }
        let (least, most) = self.config.client_ms;
        let wait = self.rng.between(least, most);
        self.after(wait, Ev::Client);
    }

    fn fault(&mut self) {
        if self.healed.is_some() {
            return;
        }
        if self.config.away.is_some() {
            self.centre.crash();
            return;
        }
        let edge = self.rng.index(self.edges.len());
        let down = self.rng.between(50, 3_000);
        match self.rng.below(100) {
            0..30 => {
                self.edges[edge].crash(&mut self.rng);
                self.report.crashes += 1;
                self.after(down, Ev::EdgeUp(edge));
            }
            30..45 => {
                self.centre.crash();
                self.report.crashes += 1;
                self.after(down, Ev::CentreUp);
            }
            45..60 => self.blocked[edge] = [self.now + 2 * down; 2],
            60..75 => self.blocked[edge][self.rng.index(2)] = self.now + 2 * down,
            75..83 => self.edges[edge].back_up(),
            83..90 => {
                if let Some(disk) = self.edges[edge].backup.clone() {
                    self.edges[edge].crash(&mut self.rng);
                    self.edges[edge].disk = disk;
                    self.report.edge_restores += 1;
                    // Its outbox was the only safe place for what the log has not, or not yet for good.
                    let (stable, held) = (self.stable(), self.in_outboxes());
                    self.exempt(|change| !stable.contains(&change) && !held.contains(&change));
                    self.after(down, Ev::EdgeUp(edge));
                }
            }
            _ if self.config.restores != Restores::None => {
                let older = self.config.restores == Restores::Older;
                let before = if older { self.rng.index(3) } else { 0 };
                let stable = self.stable();
                self.centre.restore(self.now, before);
                self.report.restores += 1;
                // What was called stable, and what an edge may have forgotten for that, is gone with what came after the backup.
                let kept = self.stable();
                self.exempt(|change| stable.contains(&change) && !kept.contains(&change));
                self.after(down, Ev::CentreUp);
            }
            _ => {}
        }
        let wait = self.rng.between(100, 1_200);
        self.after(wait, Ev::Fault);
    }

    /// What an operator took away, by going back further than was promised, nobody promises any more.
    fn exempt(&mut self, gone: impl Fn(u64) -> bool) {
        for issue in self.issues.iter_mut().filter(|issue| !issue.exempt && gone(hash(&issue.bytes))) {
            issue.exempt = true;
            self.report.exempt += u64::from(issue.acked);
        }
    }

    /// What the centre calls stable.
    fn stable(&self) -> BTreeSet<u64> {
        let stable = (0..SHARDS).flat_map(|place| {
            let entries = self.centre.entries(place).iter();
            entries.take(usize::try_from(self.centre.head(place).stable).expect("small"))
        });
        stable.map(|entry| hash(&entry.bytes)).collect()
    }

    fn in_outboxes(&self) -> BTreeSet<u64> {
        let outboxes = self.edges.iter().flat_map(|edge| &edge.disk.outbox);
        let durable = outboxes.flat_map(|outbox| outbox.entries.range(..=outbox.durable));
        durable.map(|(_, (bytes, _))| hash(bytes)).collect()
    }
}
