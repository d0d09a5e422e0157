//! How an edge follows its centre: the entries of the log come in by one stream, its own changes go out by one push at a time, and both meet in the
//! shards. What to do with what arrives is said by pure machines (`selvedge_core::sync`); here it is done.

mod bootstrap;
pub mod checkpoint;
pub mod client;
pub mod control;
mod follow;
pub mod marks;
mod outbox;
mod push;
pub mod releases;
mod report;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use selvedge_central::RedbLog;
use selvedge_core::identity::{Identifier, SHARDS, ShardId};
use selvedge_core::shard_set::ShardSet;
use selvedge_core::sync::backoff::Backoff;
use selvedge_core::sync::forwarder::{Boots, Forwarder};
use selvedge_core::sync::replica::{Freshness, Replica, State};
use selvedge_core::sync::{Head, Origin};
use selvedge_core::view::Cursor;
use selvedge_shard::Shards;
use tokio::sync::{Notify, Semaphore, watch};

use self::client::Centre;
use self::control::ControlCell;
use self::marks::Marked;
use self::releases::Ready;
use self::wire::{Everyone, Registered, Released};
use crate::backfill;
use crate::budgets::Peers;
use crate::config::UplinkConfig;
use crate::edge::Edge;
use crate::error::Problem;
use crate::gate::Gate;
use crate::serve::End;
use crate::stopped::StoppedOffers;

pub use self::outbox::{Outbox, open as open_outbox};
pub use self::report::{introduction, of as report, own as own_report};

/// The loops of an edge that go round whatever happens, by their place.
const LOOPS: [&str; 4] = ["following", "sending", "checkpoints", "reports"];
const FOLLOWING: usize = 0;
const SENDING: usize = 1;
const CHECKPOINTS: usize = 2;
const REPORTS: usize = 3;
/// How long a loop may take for one round before it is said to stand still.
const STILL_MS: i64 = 120_000;
/// Snapshots that are loaded at once.
const BOOTSTRAPS: usize = 4;

/// What an edge knows of its centre, and how it stands with it.
pub struct Uplink {
    pub centre: Centre,
    /// The name of the log.
    pub cluster: String,
    /// This edge's name.
    pub name: String,
    /// The shards that it holds.
    pub shards: ShardSet,
    /// The shards that it takes changes for.
    pub scope: ShardSet,
    pub outbox: Arc<RedbLog>,
    pub outbox_bytes_max: u64,
    /// Offers that are stopped.
    pub stopped: Arc<StoppedOffers>,
    /// How far the control shard is followed.
    control: ControlCell,
    boots: Boots,
    cells: Vec<Mutex<Cell>>,
    /// The release that runs, and why not a newer one.
    running: Mutex<Released>,
    release_error: Mutex<Option<String>>,
    /// The epoch and the head of the control shard as they were said last, and when the centre was asked for the release last.
    control_head: Mutex<(u32, u64)>,
    asked: Mutex<(u32, u64)>,
    /// Whether a release is being prepared.
    preparing: AtomicBool,
    /// Whether a stream is open: without one nobody is pushed to.
    connected: AtomicBool,
    /// When each loop last went round, in milliseconds of this process.
    beats: [AtomicI64; LOOPS.len()],
    /// Wakes whoever pushes.
    pushable: Notify,
    /// Ends the stream, so that it is asked for anew.
    restart: Notify,
    /// Moves whenever a base has.
    applied: watch::Sender<u64>,
    bootstraps: Semaphore,
    marked: Mutex<Vec<Marked>>,
    /// What goes wrong, by what it is about.
    errors: Mutex<BTreeMap<String, String>>,
    started: Instant,
    /// Shards that are being filled.
    filling: AtomicUsize,
    /// A release that is loaded and waits to take its place.
    ready: Mutex<Option<Ready>>,
    /// Wakes whoever reports.
    reportable: Notify,
    /// Where plugins are kept.
    plugins: PathBuf,
    /// Folds what waits for its history under the release that runs.
    backfilling: Mutex<Option<backfill::Thread>>,
    shed: AtomicU64,
    /// What the centre said last of the others.
    peers: Mutex<Option<Peers>>,
}

/// One shard of an edge.
struct Cell {
    replica: Replica,
    forwarder: Forwarder,
    /// The epoch of the log as it was said last.
    log_epoch: u32,
    /// When the base was last begun to be filled.
    filled: Option<Instant>,
    /// The head of a shard that is not held.
    beside: Option<Head>,
    /// Gone from the outbox up to this number.
    trimmed: u64,
    /// Pending changes have gone up to this number because the base has them.
    settled: u64,
    /// What the last checkpoint covers of the base.
    kept: Cursor,
}

impl Uplink {
    /// How an edge begins: the bases as they are on disk, and pending again what of the outbox they do not hold. Blocks on the disk.
    pub fn begin(
        centre: Centre,
        config: &UplinkConfig,
        registered: Registered,
        outbox: Outbox,
        shards: &Shards,
        plugins: PathBuf,
    ) -> Result<Self> {
        let Outbox { log, boots } = outbox;
        let Registered { cluster, shards: held, scope, released, .. } = registered;
        let stopped = Arc::new(StoppedOffers::default());
        let control = ControlCell::begin(released.control.as_ref(), &stopped);
        let heads = log.heads()?;
        let cells = cells(|shard| {
            let durable = heads.get(usize::from(shard.0)).map_or(0, |head| head.seq);
            let trimmed = log.trimmed(shard)?;
            let (cursor, checksum) = shards.place(shard);
            // A base that holds nothing is of no epoch.
            let cursor = if cursor.seq == 0 { Cursor::default() } else { cursor };
            let own = boots.origins().filter_map(|own| boots.local(shard, own, shards.applied(shard, own)));
            let covered = own.max().unwrap_or(0);
            shards.begin_pending(shard, durable + 1)?;
            let held = outbox::held_changes(&log, shard)?.into_iter().filter(|(local, _)| *local > covered);
            shards.restore_pending(shard, held.collect())?;
            let backoff = Backoff::new(getrandom::u64()?);
            let forwarder = Forwarder::new(&boots, shard, trimmed, durable, cursor.epoch, backoff)?;
            let replica = Replica::new(cursor, checksum);
            Ok(Cell {
                replica,
                forwarder,
                log_epoch: cursor.epoch,
                filled: None,
                beside: None,
                trimmed,
                settled: 0,
                kept: cursor,
            })
        })?;
        Ok(Self {
            centre,
            cluster,
            name: config.name.clone(),
            shards: held,
            scope,
            outbox: log,
            outbox_bytes_max: config.outbox_bytes,
            stopped,
            control,
            plugins,
            boots,
            cells,
            running: Mutex::new(released),
            release_error: Mutex::default(),
            ready: Mutex::default(),
            control_head: Mutex::default(),
            asked: Mutex::default(),
            preparing: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            beats: Default::default(),
            pushable: Notify::new(),
            restart: Notify::new(),
            reportable: Notify::new(),
            applied: watch::Sender::new(0),
            bootstraps: Semaphore::new(BOOTSTRAPS),
            filling: AtomicUsize::new(0),
            marked: Mutex::default(),
            errors: Mutex::default(),
            started: Instant::now(),
            shed: AtomicU64::new(0),
            backfilling: Mutex::default(),
            peers: Mutex::default(),
        })
    }

    /// Changes up to this number are durable in the outbox.
    pub fn on_durable(&self, shard: ShardId, local: u64) {
        self.cell(shard).lock().forwarder.on_durable(local);
        self.pushable.notify_one();
    }

    /// Keeps the thread that folds what waits for its history.
    pub fn keep_backfill(&self, thread: backfill::Thread) {
        *self.backfilling.lock() = Some(thread);
    }

    /// That thread; it ends when it is dropped, which blocks.
    pub fn take_backfill(&self) -> Option<backfill::Thread> {
        self.backfilling.lock().take()
    }

    /// Begins the backfill anew where something waits for its history. Blocks until the one before has ended.
    fn backfill_again(&self, edge: &Edge) -> Result<()> {
        if !edge.shards.unsettled()? {
            return Ok(());
        }
        drop(self.take_backfill());
        let (backfill, shards) = (Arc::clone(&edge.backfill), Arc::clone(&edge.shards));
        self.keep_backfill(backfill::Thread::spawn(backfill, shards, Arc::clone(&edge.metrics), None)?);
        Ok(())
    }

    /// Milliseconds since this process began: the machines' clock.
    fn now(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn cell(&self, shard: ShardId) -> &Mutex<Cell> {
        &self.cells[usize::from(shard.0)]
    }

    /// How fresh the bases of these identifiers are: as the worst of them. None where one of them is of a shard that this edge does not hold.
    pub fn freshness<'i>(&self, identifiers: impl IntoIterator<Item = &'i Identifier>) -> Option<Freshness> {
        let now = self.now();
        let mut worst = Freshness { state: State::Live, lag_ms: Some(0) };
        for identifier in identifiers {
            if !self.shards.holds(identifier.shard()) {
                return None;
            }
            let own = self.cell(identifier.shard()).lock().replica.freshness(now);
            worst.lag_ms = worst.lag_ms.zip(own.lag_ms).map(|(one, other)| one.max(other));
            if rank(own.state) > rank(worst.state) {
                worst.state = own.state;
            }
        }
        Some(worst)
    }

    /// Takes in what the centre says of the others.
    fn hear(&self, everyone: Everyone) {
        let Everyone { edges, rank, elsewhere, responses } = everyone;
        let mut peers = self.peers.lock();
        let before = peers.as_ref().and_then(|peers| peers.exchange).unwrap_or(0);
        let elsewhere = elsewhere.into_iter().collect();
        *peers = Some(Peers { edges, rank, exchange: Some(before + 1), elsewhere, responses });
    }

    /// What the centre said last of the others.
    pub fn told(&self) -> Option<Peers> {
        self.peers.lock().clone()
    }

    /// What the centre said last of the others; none before it did, and while the bases here are not up to date: what the others have done is not known then.
    pub fn peers(&self) -> Option<Peers> {
        let now = self.now();
        let is_live = |shard| self.cell(shard).lock().replica.freshness(now).state == State::Live;
        let peers = self.told()?;
        self.shards.iter().all(is_live).then_some(peers)
    }

    /// Whether the centre's stream is open.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Whether every shard that is held was filled once: until then visitors who are known elsewhere are unknown here.
    pub fn is_filled(&self) -> bool {
        self.shards.iter().all(|shard| self.cell(shard).lock().replica.cursor().epoch > 0)
    }

    /// The text of the catalogue that runs here.
    pub fn catalogue(&self) -> String {
        self.running.lock().release.catalog.clone()
    }

    /// The draft at the centre and its hash, where it is another than the one that the caller knows.
    pub async fn draft_behind(&self, known: Option<&str>) -> Result<Option<(String, Arc<str>)>, Problem> {
        self.centre.draft(&self.cluster, known).await
    }

    /// The number of this start's change in a shard that has this number in the outbox.
    pub fn number(&self, shard: ShardId, local: u64) -> Option<(Origin, u64)> {
        self.boots.number(shard, local)
    }

    /// Whose changes these are, if this edge's own.
    pub fn is_own(&self, origin: Origin) -> bool {
        self.boots.origins().any(|own| own == origin)
    }

    /// Tells whenever a base has moved.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// How full the outbox is, in thousandths of what it may hold.
    pub fn pressure(&self) -> u64 {
        self.outbox.live_bytes().saturating_mul(1000) / self.outbox_bytes_max.max(1)
    }

    /// Counts an event that was refused at the door because the outbox is full.
    pub fn note_shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// A loop goes round.
    fn beat(&self, place: usize) {
        self.beats[place].store(self.now(), Ordering::Relaxed);
    }

    /// Says which loops stand still. To be called now and then.
    pub fn watch(&self) {
        let now = self.now();
        for (name, beat) in LOOPS.iter().zip(&self.beats) {
            if now.saturating_sub(beat.load(Ordering::Relaxed)) > STILL_MS {
                self.note_error(name, &anyhow::anyhow!("stands still; restart this edge, and report this"));
            } else {
                self.clear_error(name);
            }
        }
    }

    fn note_error(&self, what: &str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        let mut errors = self.errors.lock();
        if errors.get(what) != Some(&text) {
            tracing::warn!("{what}: {text}");
        }
        // As many as there are shards and loops.
        errors.insert(what.to_owned(), text);
    }

    fn clear_error(&self, what: &str) {
        self.errors.lock().remove(what);
    }

    /// What goes wrong now, in a line; none where all is well.
    fn last_error(&self) -> Option<String> {
        let errors = self.errors.lock();
        let texts: Vec<_> = errors.iter().take(5).map(|(what, text)| format!("{what}: {text}")).collect();
        if texts.is_empty() { None } else { Some(texts.join("; ")) }
    }

    fn bases_moved(&self) {
        self.applied.send_modify(|moves| *moves = moves.wrapping_add(1));
    }
}

/// Which of two states is worse.
fn rank(state: State) -> u8 {
    match state {
        State::Live => 0,
        State::CatchingUp => 1,
        State::Stale => 2,
        State::Bootstrapping => 3,
        State::Offline => 4,
    }
}

/// The same, of a state as reports name it.
pub fn rank_of(state: &str) -> u8 {
    let states = [State::Live, State::CatchingUp, State::Stale, State::Bootstrapping, State::Offline];
    states.into_iter().find(|known| known.as_str() == state).map_or(u8::MAX, rank)
}

/// Does all that an edge does with its centre, until it is aborted.
pub async fn run(uplink: Arc<Uplink>, gate: Arc<Gate>, end: Arc<End>) {
    tokio::join!(
        follow::run(Arc::clone(&uplink), Arc::clone(&gate), Arc::clone(&end)),
        control::run(Arc::clone(&uplink)),
        push::run(Arc::clone(&uplink), Arc::clone(&gate)),
        checkpoint::run(Arc::clone(&uplink), Arc::clone(&gate), end),
        report::run(uplink, gate),
    );
}

/// A pause of about so long: somewhat less or more, so that edges do not call in step.
fn jittered(pause: Duration) -> Duration {
    let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause.mul_f64(0.75 + f64::from(drawn) / f64::from(u32::MAX) / 2.0)
}

/// A cell for each data shard.
fn cells(cell: impl FnMut(ShardId) -> anyhow::Result<Cell>) -> anyhow::Result<Vec<Mutex<Cell>>> {
    (0..SHARDS).map(ShardId).map(cell).map(|cell| cell.map(Mutex::new)).collect()
}
