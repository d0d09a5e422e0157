//! The desk of the centre: an edge in this very process, through which batch systems load, read and erase without an edge of their own at hand.
//!
//! Nobody needs it until somebody calls, so it begins with the first call that has a key for it; where it has ever been, with the process, for its
//! outbox may hold what was acknowledged. To the rest of the centre it is an edge like any other.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::OnceCell;

use super::{Centre, api};
use crate::app;
use crate::auth::Role;
use crate::config::{EdgeConfig, UplinkConfig};
use crate::edge::{self, Edge};
use crate::error::Problem;
use crate::follower::Follower;
use crate::ids::random_name;
use crate::serve::{ADMIN_CONNECTIONS, End, Stop, listen, listener, routed};

/// How long a call waits for the desk to begin and to be filled.
const PATIENCE: Duration = Duration::from_secs(30);
/// Disk for changes that the log does not have yet.
const OUTBOX_BYTES: u64 = 256 * 1024 * 1024;

/// The desk, and what it needs to begin.
pub struct Desk {
    config: EdgeConfig,
    end: Arc<End>,
    open: OnceCell<Open>,
}

struct Open {
    follower: Follower,
    routes: Router,
}

impl Desk {
    /// A desk that keeps its data in a directory of its own. `config` is how an edge is there.
    pub fn new(config: EdgeConfig, end: Arc<End>) -> Self {
        Self { config, end, open: OnceCell::new() }
    }

    /// Begins where it has ever been.
    pub fn resume(centre: &Arc<Centre>) {
        if !centre.desk.config.data.exists() {
            return;
        }
        let centre = Arc::clone(centre);
        tokio::spawn(async move {
            if let Err(error) = centre.desk.open(&centre).await {
                tracing::error!("the centre's own edge does not begin: {error:#}; it is tried again when it is called");
            }
        });
    }

    async fn open(&self, centre: &Arc<Centre>) -> Result<&Open> {
        self.open.get_or_try_init(|| self.begin(centre)).await
    }

    async fn begin(&self, centre: &Arc<Centre>) -> Result<Open> {
        // It speaks the protocol of all edges, whatever certificate the listener for them has.
        let own = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let central = format!("http://{}", own.local_addr()?);
        let routes = api::for_edges(Arc::clone(centre));
        tokio::spawn(listener(own, None, routed(routes), Arc::<Stop>::default(), ADMIN_CONNECTIONS));
        let folder = self.config.data.clone();
        let name = tokio::task::spawn_blocking(move || kept_name(folder)).await??;
        tracing::info!(name, "the centre's own edge begins");
        let key = centre.edge_keys.own().to_owned();
        let uplink = UplinkConfig { central, key, name, shards: None, outbox_bytes: OUTBOX_BYTES, ca: None };
        let follower = Follower::begin(&self.config, &uplink, Arc::clone(&centre.metrics), &self.end).await?;
        tokio::spawn(app::tick(Arc::clone(&follower.gate), Arc::clone(&self.end)));
        let routes = edge::router(Arc::clone(&follower.gate), Vec::new());
        Ok(Open { follower, routes })
    }

    /// What serves there now, if it ever began.
    pub async fn serving(&self) -> Option<Arc<Edge>> {
        match self.open.get() {
            Some(open) => Some(open.follower.gate.enter().await),
            None => None,
        }
    }

    /// Brings everything to the disk. See [`Follower::finish`].
    pub fn finish(self, edge: Arc<Edge>) -> Result<()> {
        let Some(Open { follower, routes }) = self.open.into_inner() else { return Ok(()) };
        drop(routes);
        follower.finish(edge)
    }
}

/// The name under which it reports: of several centres over one log each has its own.
fn kept_name(folder: PathBuf) -> Result<String> {
    let path = folder.join("name");
    match fs::read_to_string(&path) {
        Ok(name) if !name.is_empty() => Ok(name),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("read {}", path.display()))
        }
        // Empty where a crash cut off what follows.
        _ => {
            let name = format!("centre-{}", random_name()?.get(..8).unwrap_or_default());
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            fs::write(&path, &name).with_context(|| format!("write {}", path.display()))?;
            Ok(name)
        }
    }
}

/// Any call of the edges' API.
pub async fn call(State(centre): State<Arc<Centre>>, mut request: Request<Body>) -> Result<Response, Problem> {
    // Who has no such key begins nothing here. Browsers speak with edges.
    centre.keys.authenticate(request.headers(), None)?.at_least(Role::Write)?;
    let waited = {
        let centre = Arc::clone(&centre);
        // It goes on where the caller does not wait for it.
        tokio::spawn(async move {
            let open = centre.desk.open(&centre).await?;
            let mut moves = open.follower.uplink.moves();
            while !open.follower.uplink.is_filled() && moves.changed().await.is_ok() {}
            anyhow::Ok(open.routes.clone())
        })
    };
    let routes = match tokio::time::timeout(PATIENCE, waited).await {
        Ok(Ok(Ok(routes))) => routes,
        Ok(Ok(Err(error))) => {
            return Err(Problem::storage(&format!("the centre's own edge does not begin: {error:#}")));
        }
        Ok(Err(error)) => return Err(Problem::storage(&error)),
        Err(_) => {
            let detail = "the centre's own edge has not taken all shards yet; try again in a minute";
            return Err(Problem::unavailable("not_filled", detail));
        }
    };
    // What this router found in the path is not what that one is to find.
    request.extensions_mut().clear();
    match TowerToHyperService::new(routes).call(request).await {
        Ok(response) => Ok(response),
        Err(never) => Ok(never.into_response()),
    }
}
