//! The centre: the ordered log of all changes, what edges run, and what they bootstrap from. Read [`run`].

pub mod admin;
mod api;
mod copy;
mod desk;
mod edges;
mod erased;
mod erasures;
mod everyone;
mod feed;
pub mod http;
mod keys;
pub mod releases;
mod snapshots;
mod tls;
mod verify;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use selvedge_central::{
    CONTROL, CentralLog, CentralOptions, DigestOf, LogError, PostgresCentral, PostgresOptions, RedbCentral,
    StablePolicy,
};
use selvedge_core::change::{CHANGE_VERSION, Change};
use tokio::sync::Semaphore;

pub use self::tls::install_provider as install_tls;

use self::copy::Copy;
use self::desk::Desk;
use self::edges::Edges;
use self::erasures::Erasures;
use self::http::Room;
use self::keys::EdgeKeys;
use self::verify::Marks;
use crate::auth::Keys;
use crate::catalogue::Publisher;
use crate::config::{CentralConfig, Stable, Store};
use crate::metrics::Metrics;
use crate::serve::{ADMIN_CONNECTIONS, DRAIN, End, PUBLIC_CONNECTIONS, Stop, listen, listener, routed};
use crate::sync::wire::{Controlled, Released};

/// Edges that are fed at once.
const FOLLOWERS: usize = 1024;
/// An edge that was not heard of for so long is away.
const AWAY_MS: i64 = 60_000;
/// How long it is taken for true what all edges read.
const READS_FRESH: Duration = Duration::from_secs(10);

/// Everything that a request to the centre needs.
pub struct Centre {
    pub log: Arc<dyn CentralLog>,
    /// The keys of the edges' callers.
    pub keys: Keys,
    pub edge_keys: EdgeKeys,
    pub edges: Edges,
    /// What was erased, and how far that is.
    pub erasures: Erasures,
    /// Places of edges that are fed.
    pub followers: Arc<Semaphore>,
    /// Places of edges that are told of the control shard.
    pub listeners: Arc<Semaphore>,
    /// What publishes the catalogue.
    pub catalogue: Arc<Publisher>,
    pub metrics: Arc<Metrics>,
    /// The centre's own fold of the log, from which snapshots are made.
    pub copy: Arc<Copy>,
    /// What was marked in the logs to compare copies, and what came of it.
    pub marks: Marks,
    /// Room for what edges send and are sent.
    room: Room,
    /// The edge in this very process, for batch systems.
    pub desk: Arc<Desk>,
    /// Ends the process where its log has failed for good; none where the log is a database, which may come back.
    pub end: Option<Arc<End>>,
    reads: Mutex<Option<(Instant, u16)>>,
    /// What edges are told of budgets goes by these.
    budgets: everyone::InForce,
}

impl Centre {
    /// The release in force, also where another centre over the same store has made it.
    pub async fn released(&self) -> Result<Released, LogError> {
        self.catalogue.refresh().await?;
        let epoch = self.log.heads().await?.get(usize::from(CONTROL.0)).map_or(0, |head| head.epoch);
        let (control, seq, release) = self.catalogue.release_and_stopped();
        let (at, stopped) = control;
        Ok(Released { seq, release, control: Some(Controlled { epoch, seq: at, stopped }) })
    }

    /// The place in the log of the release in force.
    pub async fn release_seq(&self) -> Result<u64, LogError> {
        self.catalogue.refresh().await?;
        Ok(self.catalogue.control().release_seq())
    }

    /// The place in the log of what brought the plugins in force.
    pub async fn program_seq(&self) -> Result<u64, LogError> {
        self.catalogue.refresh().await?;
        Ok(self.catalogue.control().program_seq())
    }

    /// Whether other centres may work over the same store.
    pub fn is_one_of_several(&self) -> bool {
        // Nobody else opens its file.
        self.end.is_none()
    }

    /// Another edge is known: what all read is to be asked again.
    pub fn forget_reads(&self) {
        *self.reads.lock() = None;
    }

    /// The newest version of changes that all edges read.
    pub async fn reads(&self) -> Result<u16, LogError> {
        if let Some((at, reads)) = *self.reads.lock()
            && at.elapsed() < READS_FRESH
        {
            return Ok(reads);
        }
        let reads = self.edges.reads(&*self.log).await?.map_or(CHANGE_VERSION, |reads| reads.min(CHANGE_VERSION));
        *self.reads.lock() = Some((Instant::now(), reads));
        Ok(reads)
    }
}

/// Opens the log that the settings name.
pub async fn open_log(config: &CentralConfig) -> Result<Arc<dyn CentralLog>> {
    let stable = match config.stable {
        Stable::Commit => StablePolicy::Commit,
        Stable::Backup => StablePolicy::Backup,
    };
    let fresh_id = crate::ids::random_name().context("read randomness")?;
    Ok(match &config.store {
        Store::Redb(folder) => {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            let path = folder.join(LOG_FILE);
            let digest: DigestOf = Arc::new(|_, bytes: &[u8]| Change::digest(bytes).map_err(|error| error.to_string()));
            let options = CentralOptions { stable, ..CentralOptions::new(fresh_id, digest) };
            Arc::new(tokio::task::spawn_blocking(move || RedbCentral::open(&path, &options)).await??)
        }
        Store::Postgres(_) if config.stable == Stable::Backup => {
            bail!(
                "stable = \"backup\" is for redb, whose backups the centre makes itself; with PostgreSQL use synchronous replication, and leave it at \"commit\""
            )
        }
        Store::Postgres(url) => {
            let options = PostgresOptions { stable, ..PostgresOptions::new(url, fresh_id) };
            Arc::new(PostgresCentral::open(&options).await?)
        }
    })
}

/// The log's file in the directory of a redb store; an edge that is its own centre has the same.
pub const LOG_FILE: &str = "log.redb";

/// Runs a centre until it is told to end.
pub fn run(config: CentralConfig) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(&config.data).with_context(|| format!("create {}", config.data.display()))?;
    tls::install_provider();
    let keys = Keys::open(&config.data, config.keys.clone())?;
    let edge_keys = EdgeKeys::open(&config.data, &config.edge_keys)?;
    let metrics = Arc::new(Metrics::install().context("install metrics")?);
    let end = Arc::new(End::default());
    let runtime = crate::app::runtime()?;
    let desk = Arc::new(Desk::new(config.desk.clone(), Arc::clone(&end)));
    let served = runtime.block_on(async {
        end.listen()?;
        let log = open_log(&config).await?;
        if config.new_epoch {
            let epoch = log.bump_epoch().await?;
            tracing::warn!(epoch, "another epoch begins: edges make their shards anew and send again what they hold");
        }
        let erasures = Erasures::open(&*log).await?;
        let centre = Arc::new(Centre {
            erasures,
            keys,
            edge_keys,
            edges: Edges::default(),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            listeners: Arc::new(Semaphore::new(FOLLOWERS)),
            catalogue: Arc::new(Publisher::at_centre(Arc::clone(&log))),
            copy: Arc::new(Copy::new(config.data.join("copy"), config.snapshot_every, Arc::clone(&metrics))),
            metrics,
            marks: Marks::default(),
            room: Room::default(),
            desk: Arc::clone(&desk),
            end: matches!(config.store, Store::Redb(_)).then(|| Arc::clone(&end)),
            reads: Mutex::default(),
            budgets: everyone::InForce::default(),
            log,
        });
        releases::begin(&centre, &config).await?;
        serve(centre, &config, &end, started).await
    });
    let at_desk = runtime.block_on(desk.serving());
    runtime.shutdown_timeout(DRAIN);
    let finished = match (at_desk, Arc::into_inner(desk)) {
        (Some(edge), Some(desk)) => desk.finish(edge),
        // Somebody still holds it after all: the next start begins with the last checkpoint.
        _ => Ok(()),
    };
    served.and(finished)?;
    end.outcome()
}

async fn serve(centre: Arc<Centre>, config: &CentralConfig, end: &Arc<End>, started: Instant) -> Result<()> {
    let tls = config.tls.as_ref().map(|(cert, key)| tls::acceptor(cert, key)).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let edges = listen(config.listen).await?;
    let admin = listen(config.admin).await?;
    let (edges_at, admin_at) = (edges.local_addr()?, admin.local_addr()?);
    let stop = Arc::<Stop>::default();
    let routes = api::router(Arc::clone(&centre));
    let mut edges = tokio::spawn(listener(edges, tls, routed(routes), Arc::clone(&stop), PUBLIC_CONNECTIONS));
    let routes = admin::router(Arc::clone(&centre), !admin_at.ip().is_loopback());
    let mut admin = tokio::spawn(listener(admin, None, routed(routes), Arc::clone(&stop), ADMIN_CONNECTIONS));
    let copying = tokio::spawn(copy::run(Arc::clone(&centre), Arc::clone(end)));
    let scheduling = tokio::spawn(Arc::clone(&centre.catalogue).keep_schedule());
    Desk::resume(&centre);
    tracing::info!(after = ?started.elapsed(), cluster = centre.log.id(), "ready");
    println!(
        "{}",
        serde_json::json!({"ready": true, "central": format!("{scheme}://{edges_at}"), "admin": format!("http://{admin_at}")})
    );

    end.wanted().await;
    tracing::info!("ending: no new requests; those under way are answered");
    stop.tell();
    copying.abort();
    scheduling.abort();
    // Edges that are fed do not go by themselves.
    centre.followers.close();
    centre.listeners.close();
    let drained =
        tokio::time::timeout(Duration::from_secs(1), async { (&mut edges).await.and((&mut admin).await) }).await;
    if drained.is_err() {
        edges.abort();
        admin.abort();
    }
    let flushed = centre.copy.flush();
    drop(centre);
    flushed
}
