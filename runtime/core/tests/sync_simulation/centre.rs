//! The simulated centre: a log in memory with the semantics of the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_core::change::{CHANGE_VERSION, Change};
use selvedge_core::sync::frame::Frame;
use selvedge_core::sync::manifest::Manifest;
use selvedge_core::sync::{Entry, Head, Origin, Push, Pushed, Refetch, mix};
use selvedge_core::view::Cursor;

use crate::model::{Base, SHARDS, place, shard};
use crate::scenario::Mutation;
use crate::world::Msg;

/// Entries of one frame, so that there are many.
const FRAME_ENTRIES: usize = 16;

/// What one push did: the journal of the centre's disk.
#[derive(Clone)]
struct Record {
    place: usize,
    origin: Origin,
    watermark: u64,
    entries: Vec<(Entry, Option<[u8; 16]>, u64)>,
}

/// One shard's log.
#[derive(Clone, Default)]
struct Log {
    entries: Vec<Entry>,
    /// The checksum after each entry.
    sums: Vec<u64>,
    ids: BTreeMap<[u8; 16], u64>,
    watermarks: BTreeMap<Origin, u64>,
    first: u64,
    snapshot: Option<Arc<Base>>,
    stable: u64,
}

struct Stream {
    conn: u64,
    /// Sent up to here; none for a shard that was sent to a snapshot.
    sent: [Option<u64>; SHARDS],
}

pub struct Centre {
    pub epoch: u32,
    newest_epoch: u32,
    journal: Vec<Record>,
    /// Of the journal, what a crash leaves; all of it where the centre acknowledges what is durable.
    durable: usize,
    logs: Vec<Log>,
    streams: BTreeMap<usize, Stream>,
    queue: Vec<(usize, u64, Vec<Push>)>,
    pub up: bool,
    /// Length of the journal when a backup was taken, the heads, and the epoch.
    backups: Vec<(usize, [u64; SHARDS], u32)>,
    pub stable_by_backup: bool,
    mutation: Option<Mutation>,
    /// Gaps that edges reported.
    pub gaps: u64,
    /// When each head was reached.
    pub history: Vec<Vec<(i64, Cursor)>>,
}

impl Centre {
    pub fn new(stable_by_backup: bool, mutation: Option<Mutation>) -> Self {
        let logs = vec![Log { first: 1, ..Log::default() }; SHARDS];
        Self {
            epoch: 1,
            newest_epoch: 1,
            journal: Vec::new(),
            durable: 0,
            logs,
            streams: BTreeMap::new(),
            queue: Vec::new(),
            up: true,
            backups: vec![(0, [0; SHARDS], 1)],
            stable_by_backup,
            mutation,
            gaps: 0,
            history: vec![vec![(0, Cursor { epoch: 1, seq: 0 })]; SHARDS],
        }
    }

    pub fn head(&self, place: usize) -> Head {
        let log = &self.logs[place];
        let seq = log.entries.len() as u64;
        let stable = if self.stable_by_backup { log.stable } else { seq };
        let checksum = log.sums.last().copied().unwrap_or(0);
        Head { epoch: self.epoch, seq, first: log.first, stable, checksum }
    }

    pub fn entries(&self, place: usize) -> &[Entry] {
        &self.logs[place].entries
    }

    /// The log from its first entry to its last, folded.
    pub fn replay(&self, place: usize) -> Result<Base, String> {
        let mut base = Base { cursor: Cursor { epoch: self.epoch, seq: 0 }, ..Base::default() };
        for entry in &self.logs[place].entries {
            base.apply(entry)?;
        }
        Ok(base)
    }

    fn dedupes(&self) -> bool {
        self.mutation != Some(Mutation::NoDedupe)
    }

    /// A message from an edge; gives answers and whether a commit must follow.
    pub fn receive(&mut self, now: i64, edge: usize, msg: Msg, split: bool) -> (Vec<(usize, Msg)>, bool) {
        match msg {
            Msg::Connect { conn, frame } => {
                let Ok(Frame::Follow(shards)) = Frame::decode(&frame) else { return (Vec::new(), false) };
                let mut out = Vec::new();
                let mut stream = Stream { conn, sent: [None; SHARDS] };
                for (shard, after) in shards {
                    let Some(place) = place(shard) else { continue };
                    let head = self.head(place);
                    let why = if after.epoch != self.epoch && self.mutation != Some(Mutation::NoEpoch) {
                        Some(Refetch::Epoch)
                    } else if after.seq > head.seq {
                        Some(Refetch::Ahead)
                    } else if after.seq + 1 < head.first {
                        Some(Refetch::Trimmed)
                    } else {
                        stream.sent[place] = Some(after.seq);
                        None
                    };
                    // Half of the time the heads have to say it.
                    if let Some(why) = why.filter(|_| split) {
                        out.push((edge, self.stream(conn, &Frame::Refetch { shard, epoch: self.epoch, why })));
                    }
                }
                self.streams.insert(edge, stream);
                self.tell(edge, &mut out);
                self.beat(edge, &mut out);
                (out, false)
            }
            Msg::Push { req, frame } => {
                let Ok(Frame::Pushes(pushes)) = Frame::decode(&frame) else { return (Vec::new(), false) };
                self.queue.push((edge, req, pushes));
                if self.mutation == Some(Mutation::AckBeforeFsync) {
                    let out = self.take_queue(now);
                    return (out, true);
                }
                (Vec::new(), true)
            }
            Msg::WantSnapshot { req, place } => {
                let snapshot = self.logs[place].snapshot.clone().map(|base| {
                    let manifest = Manifest {
                        shard: shard(place),
                        // Restored snapshots belong to the restored log.
                        epoch: self.epoch,
                        seq: base.cursor.seq,
                        checksum: base.checksum,
                        reads: CHANGE_VERSION,
                        head: Vec::new(),
                        chunks: Vec::new(),
                    };
                    (Frame::Manifest(manifest).encode().expect("within bounds").into(), base)
                });
                (vec![(edge, Msg::Snapshot { req, epoch: self.epoch, snapshot })], false)
            }
            _ => (Vec::new(), false),
        }
    }

    /// The fsync of what was queued.
    pub fn commit(&mut self, now: i64) -> Vec<(usize, Msg)> {
        let out = self.take_queue(now);
        self.durable = self.journal.len();
        out
    }

    fn take_queue(&mut self, now: i64) -> Vec<(usize, Msg)> {
        let mut out = Vec::new();
        for (edge, req, pushes) in std::mem::take(&mut self.queue) {
            let answers = pushes.iter().map(|push| self.take(push)).collect();
            let frame = Frame::PushAnswers(answers).encode().expect("within bounds").into();
            out.push((edge, Msg::Pushed { req, frame }));
        }
        for place in 0..SHARDS {
            let cursor = Cursor { epoch: self.epoch, seq: self.head(place).seq };
            if self.history[place].last().is_none_or(|(_, last)| *last != cursor) {
                self.history[place].push((now, cursor));
            }
        }
        let edges: Vec<usize> = self.streams.keys().copied().collect();
        for edge in edges {
            self.tell(edge, &mut out);
        }
        out
    }

    fn take(&mut self, push: &Push) -> Pushed {
        let Some(place) = place(push.shard) else {
            return Pushed::Refused { index: 0, reason: "no such shard".to_owned() };
        };
        if push.epoch != self.epoch && self.mutation != Some(Mutation::NoEpoch) {
            return Pushed::Epoch { epoch: self.epoch };
        }
        let log = &self.logs[place];
        let head = log.entries.len() as u64;
        let watermark = log.watermarks.get(&push.origin).copied().unwrap_or(0);
        let beyond = push.predecessor > watermark && push.skips;
        if push.predecessor != watermark && !beyond && self.dedupes() {
            return Pushed::Behind { watermark, head };
        }
        let mut record = Record { place, origin: push.origin, watermark: push.predecessor, entries: Vec::new() };
        let mut seqs = Vec::new();
        let mut new: BTreeMap<[u8; 16], u64> = BTreeMap::new();
        for (index, bytes) in push.changes.iter().enumerate() {
            record.watermark += 1;
            let digest = match Change::digest(bytes) {
                Ok(digest) if digest.shard == Some(push.shard) => digest,
                Ok(_) => return Pushed::Refused { index, reason: "of another shard".to_owned() },
                Err(error) => return Pushed::Refused { index, reason: error.to_string() },
            };
            let first = digest.id.and_then(|id| log.ids.get(&id).or(new.get(&id)).copied());
            if let Some(seq) = first.filter(|_| self.dedupes()) {
                seqs.push(seq);
                continue;
            }
            let seq = head + 1 + record.entries.len() as u64;
            if let Some(id) = digest.id {
                new.insert(id, seq);
            }
            let entry = Entry { seq, origin: push.origin, number: record.watermark, bytes: Arc::clone(bytes) };
            record.entries.push((entry, digest.id, digest.envelope));
            seqs.push(seq);
        }
        self.gaps += u64::from(beyond);
        self.replay_record(&record);
        self.journal.push(record);
        Pushed::Taken { seqs }
    }

    fn replay_record(&mut self, record: &Record) {
        let log = &mut self.logs[record.place];
        log.watermarks.insert(record.origin, record.watermark);
        for (entry, id, envelope) in &record.entries {
            let sum = log.sums.last().copied().unwrap_or(0);
            log.sums.push(sum.wrapping_add(mix(entry.seq, *envelope)));
            log.entries.push(entry.clone());
            if let Some(id) = id {
                log.ids.entry(*id).or_insert(entry.seq);
            }
        }
    }

    /// Sends what a follower has not been sent.
    fn tell(&mut self, edge: usize, out: &mut Vec<(usize, Msg)>) {
        let Some(stream) = self.streams.get_mut(&edge) else { return };
        for (place, sent) in stream.sent.iter_mut().enumerate() {
            let (Some(after), log) = (*sent, &self.logs[place]) else { continue };
            let after = usize::try_from(after).expect("small").min(log.entries.len());
            for entries in log.entries[after..].chunks(FRAME_ENTRIES) {
                let changes = Frame::Changes { shard: shard(place), epoch: self.epoch, entries: entries.to_vec() };
                let frame = changes.encode().expect("within bounds").into();
                out.push((edge, Msg::Stream { conn: stream.conn, frame }));
            }
            *sent = Some(log.entries.len() as u64);
        }
    }

    fn beat(&self, edge: usize, out: &mut Vec<(usize, Msg)>) {
        if let Some(stream) = self.streams.get(&edge) {
            let heads = (0..SHARDS).map(|place| (shard(place), self.head(place))).collect();
            out.push((edge, self.stream(stream.conn, &Frame::Heads(heads))));
        }
    }

    fn stream(&self, conn: u64, frame: &Frame) -> Msg {
        Msg::Stream { conn, frame: frame.encode().expect("within bounds").into() }
    }

    /// The heartbeat to all followers.
    pub fn heartbeat(&mut self) -> Vec<(usize, Msg)> {
        let mut out = Vec::new();
        for edge in self.streams.keys().copied().collect::<Vec<_>>() {
            self.tell(edge, &mut out);
            self.beat(edge, &mut out);
        }
        out
    }

    /// The follower inside the centre makes a snapshot; the log may lose what is well behind it.
    pub fn snapshot(&mut self, place: usize, keep: u64) -> Result<(), String> {
        let base = self.replay(place)?;
        let log = &mut self.logs[place];
        log.first = log.first.max((base.cursor.seq + 1).saturating_sub(keep)).max(1);
        log.snapshot = Some(Arc::new(base));
        Ok(())
    }

    pub fn backup(&mut self) {
        let heads = std::array::from_fn(|place| self.head(place).seq);
        self.backups.push((self.durable, heads, self.epoch));
        for (place, head) in heads.into_iter().enumerate() {
            self.logs[place].stable = self.logs[place].stable.max(head);
        }
    }

    pub fn crash(&mut self) {
        self.up = false;
        self.queue.clear();
        self.streams.clear();
        if self.durable < self.journal.len() {
            self.rewind(self.durable);
        }
    }

    /// Begins with the newest backup, or with one so many before it.
    pub fn restore(&mut self, now: i64, before: usize) {
        self.crash();
        let keep = self.backups.len().saturating_sub(before).max(1);
        self.backups.truncate(keep);
        let (journal, heads, epoch) = self.backups.last().copied().unwrap_or_default();
        self.rewind(journal);
        for (log, head) in self.logs.iter_mut().zip(heads) {
            log.stable = head;
        }
        match self.mutation {
            Some(Mutation::NoEpoch) => {}
            Some(Mutation::EpochRepeats) => self.epoch = epoch + 1,
            _ => {
                self.newest_epoch += 1;
                self.epoch = self.newest_epoch;
            }
        }
        for place in 0..SHARDS {
            let cursor = Cursor { epoch: self.epoch, seq: self.head(place).seq };
            self.history[place].push((now, cursor));
        }
    }

    fn rewind(&mut self, journal: usize) {
        self.journal.truncate(journal);
        self.durable = journal;
        let before = std::mem::take(&mut self.logs);
        self.logs = vec![Log { first: 1, ..Log::default() }; SHARDS];
        for record in self.journal.clone() {
            self.replay_record(&record);
        }
        for (log, before) in self.logs.iter_mut().zip(before) {
            let head = log.entries.len() as u64;
            log.stable = before.stable.min(head);
            log.snapshot = before.snapshot.filter(|base| base.cursor.seq <= head);
            // The backup has its own trimmed log, which began no later.
            log.first = if log.snapshot.is_some() { before.first } else { 1 };
        }
    }
}
