//! The admin listener of a centre: what an operator asks and does.
//!
//! On a loopback address it is open to whoever is on the machine; on any other it wants the secret key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use selvedge_central::{CONTROL, GAPS, Gap, Progress, decode_gaps};
use selvedge_core::control::How;
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::sync::Head;
use selvedge_core::value::Timestamp;
use selvedge_shard::Shards;
use serde::{Deserialize, Serialize};

use super::edges::Known;
use super::http::{Asked, At};
use super::verify::{self, Comparison};
use super::{AWAY_MS, Centre, releases, snapshots};
use crate::admin::{by_address, no_pages};
use crate::auth::Role;
use crate::catalogue;
use crate::clock;
use crate::console;
use crate::edge::erasures::unknown;
use crate::edge::{method_not_allowed, not_found, parse_body};
use crate::erasures::Receipt;
use crate::error::Problem;
use crate::release::{Given, GivenBody};
use crate::report::{self, Report, ReportQuery};
use crate::sync::wire::Released;

const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long the centre's copy of the shards is waited for, and how often it is looked for.
const COPY_PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The routes; `guarded` where the listener can be reached from other machines.
pub fn router(centre: Arc<Centre>, guarded: bool) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/v1/status", get(status))
        .route("/admin/v1/shards/{shard}/snapshot", post(snapshot))
        .route("/admin/v1/shards/{shard}/trim", post(trim))
        .route("/admin/v1/verify", post(compare))
        .route("/admin/v1/rebuild", post(rebuild))
        .route("/admin/v1/backup", post(backup))
        .route("/admin/v1/erasures/{id}", get(erasure))
        .route("/admin/v1/report", get(reported))
        .route("/admin/v1/release", get(released).put(release))
        .route("/admin/v1/edges/{name}", delete(forget))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .merge(catalogue::http::routes("/admin/v1").with_state(Arc::clone(&centre.catalogue)));
    let routes =
        if guarded { routes.layer(middleware::from_fn_with_state(Arc::clone(&centre), guard)) } else { routes };
    let routes = routes.merge(console::routes()).layer(middleware::from_fn(no_pages));
    if guarded { routes } else { routes.layer(middleware::from_fn(by_address)) }.with_state(centre)
}

async fn guard(State(centre): State<Arc<Centre>>, request: Request, next: Next) -> Result<Response, Problem> {
    centre.keys.authenticate(request.headers(), None)?.at_least(Role::Secret)?;
    Ok(next.run(request).await)
}

async fn metrics(State(centre): State<Arc<Centre>>) -> Result<impl IntoResponse, Problem> {
    let heads = centre.log.heads().await?;
    let behind = |(head, shard): (&Head, u16)| {
        head.seq.saturating_sub(centre.copy.cursor(ShardId(shard)).map_or(0, |cursor| cursor.seq))
    };
    let data = usize::from(SHARDS);
    let copy_behind = heads.iter().zip(0..).take(data).map(behind).sum();
    let entries = heads.iter().take(data).map(|head| head.seq).sum();
    let edges = centre.edges.all(&*centre.log).await?;
    let since = clock::now().plus_ms(-AWAY_MS);
    let away = edges.iter().filter(|edge| edge.seen_at < since).count();
    let fed = super::FOLLOWERS.saturating_sub(centre.followers.available_permits());
    centre.metrics.centre(&[
        ("selvedge_centre_entries", entries),
        ("selvedge_centre_copy_behind", copy_behind),
        ("selvedge_centre_followers", fed as u64),
        ("selvedge_centre_edges", edges.len() as u64),
        ("selvedge_centre_edges_away", away as u64),
    ]);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], centre.metrics.render()))
}

/// How the centre and its edges are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CentreStatus {
    pub role: String,
    pub version: String,
    pub cluster: String,
    pub now: Timestamp,
    /// The release in force.
    pub release: u64,
    pub shards: Vec<ShardStatus>,
    pub edges: Vec<Known>,
    /// Why the centre's copy of the shards stands still.
    pub copy_error: Option<String>,
    /// Numbers that edges never sent, because nobody has the changes any more.
    pub lost_changes: u64,
}

/// One shard's log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    pub shard: ShardId,
    pub epoch: u32,
    pub head: u64,
    /// The first entry that is kept.
    pub first: u64,
    pub stable: u64,
    /// Up to where the newest snapshot goes.
    pub snapshot: Option<u64>,
    /// Where the centre's copy stands.
    pub copy: Option<u64>,
}

async fn status(State(centre): State<Arc<Centre>>) -> Result<Json<CentreStatus>, Problem> {
    let log = &*centre.log;
    let mut shards = Vec::new();
    for (head, shard) in log.heads().await?.into_iter().zip((0..).map(ShardId)) {
        let snapshot = if shard == CONTROL { None } else { log.snapshot(shard).await?.map(|kept| kept.seq) };
        let copy = if shard == CONTROL { None } else { centre.copy.cursor(shard).map(|cursor| cursor.seq) };
        let (epoch, stable, first) = (head.epoch, head.stable, head.first);
        shards.push(ShardStatus { shard, epoch, head: head.seq, first, stable, snapshot, copy });
    }
    let gaps: Vec<Gap> = log.note(GAPS).await?.map(|note| decode_gaps(&note)).unwrap_or_default();
    Ok(Json(CentreStatus {
        role: "central".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: log.id().to_owned(),
        now: clock::now(),
        release: centre.release_seq().await?,
        shards,
        edges: centre.edges.all(log).await?,
        copy_error: centre.copy.last_error(),
        lost_changes: gaps.iter().map(|gap| gap.last - gap.first + 1).sum(),
    }))
}

/// How far an erasure is, in every copy.
async fn erasure(State(centre): State<Arc<Centre>>, At(id): At<String>) -> Result<Json<Receipt>, Problem> {
    let edges = centre.edges.all(&*centre.log).await?;
    centre.erasures.receipt(&id, &edges).map(Json).ok_or_else(unknown)
}

/// What has become of offers and experiments, by the centre's own copy of the shards.
async fn reported(
    State(centre): State<Arc<Centre>>,
    Asked(query): Asked<ReportQuery>,
) -> Result<Json<Report>, Problem> {
    let query = query.check()?;
    let shards = open_copy(&centre).await?;
    centre.catalogue.refresh().await?;
    let text = centre.catalogue.in_force().text;
    let made = tokio::task::spawn_blocking(move || -> Result<Report, Problem> {
        let catalog = catalogue::document::parse(&text).map_err(Problem::catalogue)?;
        report::make(&shards, &catalog, query, clock::now()).map_err(|error| Problem::storage(&error))
    });
    made.await.map_err(|error| Problem::storage(&error))?.map(Json)
}

/// The centre's copy of the shards. One that has just started is still compiling what its copy folds by.
async fn open_copy(centre: &Centre) -> Result<Arc<Shards>, Problem> {
    let began = Instant::now();
    loop {
        match centre.copy.shards() {
            Some(shards) => return Ok(shards),
            None if began.elapsed() < COPY_PATIENCE => tokio::time::sleep(LOOK).await,
            None => {
                let detail = "the centre's copy of the shards does not open; `selvedge status` says why";
                return Err(Problem::unavailable("copy_not_ready", detail));
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    seq: u64,
}

/// Makes a snapshot of one shard now.
async fn snapshot(State(centre): State<Arc<Centre>>, At(shard): At<u16>) -> Result<Json<Made>, Problem> {
    let shard = data_shard(shard)?;
    let shards = open_copy(&centre).await?;
    let made = snapshots::make_if_newer(&centre, &shards, shard).await;
    let seq = made.map_err(|error| Problem::storage(&format!("{error:#}")))?;
    Ok(Json(Made { seq }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trimmed {
    /// The first entry that is left.
    first: u64,
}

/// Lets go what the newest snapshot of one shard holds.
async fn trim(State(centre): State<Arc<Centre>>, At(shard): At<u16>) -> Result<Json<Trimmed>, Problem> {
    let shard = data_shard(shard)?;
    let up_to = centre.log.snapshot(shard).await?.map_or(0, |kept| kept.seq);
    Ok(Json(Trimmed { first: centre.log.trim(shard, up_to).await? }))
}

async fn compare(State(centre): State<Arc<Centre>>) -> Result<Json<Comparison>, Problem> {
    verify::compare(&centre).await.map(Json).map_err(|error| Problem::storage(&format!("{error:#}")))
}

async fn rebuild(State(centre): State<Arc<Centre>>) -> StatusCode {
    centre.copy.rebuild();
    StatusCode::ACCEPTED
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupBody {
    /// A file that is not there yet, on the centre's machine.
    to: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BackedUp {
    bytes: u64,
    entries: u64,
}

async fn backup(State(centre): State<Arc<Centre>>, body: Body) -> Result<Json<BackedUp>, Problem> {
    let bytes = whole(body, BODY_BYTES_MAX).await?;
    let BackupBody { to } = parse_body(crate::edge::ingest::utf8(&bytes)?)?;
    if !to.is_absolute() || to.exists() {
        let detail = "name a file by its absolute path on the centre's machine, which is not there yet";
        return Err(Problem::bad_request("file_invalid", detail).at("/to"));
    }
    let written = Arc::new(Mutex::new(0));
    let progress = {
        let written = Arc::clone(&written);
        Box::new(move |progress: Progress| *written.lock() = progress.done)
    };
    let heads = centre.log.backup(&to, progress).await?;
    let bytes = *written.lock();
    Ok(Json(BackedUp { bytes, entries: heads.iter().map(|(_, cursor)| cursor.seq).sum() }))
}

async fn released(State(centre): State<Arc<Centre>>) -> Result<Json<Released>, Problem> {
    Ok(Json(centre.released().await?))
}

/// Checks a release and puts it into force everywhere.
async fn release(State(centre): State<Arc<Centre>>, headers: HeaderMap, body: Body) -> Result<Json<Released>, Problem> {
    let bytes = whole(body, releases::BYTES_MAX).await?;
    let body: GivenBody = parse_body(crate::edge::ingest::utf8(&bytes)?)?;
    let known = centre.released().await?;
    let bundle = Given::try_from(body)?.over(&known.release);
    if known.seq > 0 && bundle.release == known.release {
        return Ok(Json(known));
    }
    let by = catalogue::http::by(&headers);
    releases::publish(&centre, bundle, How::Release, by).await.map(Json).map_err(releases::refused)
}

/// A body, within its bound and in time.
async fn whole(body: Body, most: usize) -> Result<Bytes, Problem> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    let whole =
        whole.map_err(|_| Problem::bad_request("body_timeout", "the body did not arrive in time; send it again"))?;
    let unreadable = |error| Problem::bad_request("body_unreadable", format!("the body could not be read: {error}"));
    Ok(whole.map_err(unreadable)?.to_bytes())
}

/// Forgets an edge that will not come back: nothing waits for it any more.
async fn forget(State(centre): State<Arc<Centre>>, At(name): At<String>) -> Result<StatusCode, Problem> {
    if centre.edges.forget(&*centre.log, &name).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_edge",
        "no edge of this name is known; GET /admin/v1/status lists them",
    ))
}

fn data_shard(shard: u16) -> Result<ShardId, Problem> {
    ShardId::all()
        .find(|known| known.0 == shard)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no_such_shard", "the shards are numbered from 0 to 63"))
}
