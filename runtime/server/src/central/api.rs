//! The listener for edges: the sync protocol over HTTP; docs/sync.md says it in words.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Limited};
use selvedge_central::{CONTROL, LogError, Read, SealedPush, SnapshotId};
use selvedge_core::change::{Change, ChangeError};
use selvedge_core::identity::ShardId;
use selvedge_core::limits;
use selvedge_core::shard_set::ShardSet;
use selvedge_core::sync::frame::{Frame, fitting};
use selvedge_core::sync::manifest::Manifest;
use selvedge_core::sync::{Origin, Push, Pushed, bounds};
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};

use super::Centre;
use super::http::{Asked, At, BLOB_MIB, FRAME_MIB, mib_of, octets, ranged, tagged};
use super::keys::check_scope;
use super::{desk, everyone, feed, releases, verify};
use crate::auth::Role;
use crate::catalogue;
use crate::edge::erasures::unknown;
use crate::edge::{export, method_not_allowed, not_found};
use crate::erasures::Receipt;
use crate::error::Problem;
use crate::release::{Given, GivenBody, parse_hash};
use crate::sync::wire::{CLUSTER_HEADER, Register, Registered, Released, Report, Reported};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a JSON body.
const JSON_BYTES_MAX: usize = 1024 * 1024;
/// How long a question for changes may wait for them.
const WAIT_MS_MAX: u64 = 30_000;

/// The routes: those for edges, and the edges' API for batch systems.
pub fn router(centre: Arc<Centre>) -> Router {
    let at_desk = Router::new()
        .route("/v1/export", get(export))
        .route("/v1/{*rest}", any(desk::call))
        .with_state(Arc::clone(&centre));
    for_edges(centre).merge(at_desk)
}

/// The routes for edges alone.
pub fn for_edges(centre: Arc<Centre>) -> Router {
    Router::new()
        .route("/sync/v1/register", post(register))
        .route("/sync/v1/report", post(report))
        .route("/sync/v1/release", get(release).put(offer))
        .route("/sync/v1/erasures/{id}", get(erasure))
        .route("/sync/v1/follow", post(follow))
        .route("/sync/v1/push", post(push))
        .route("/sync/v1/shards/{shard}/changes", get(changes))
        .route("/sync/v1/shards/{shard}/snapshot", get(snapshot))
        .route("/sync/v1/shards/{shard}/snapshots/{number}/chunks/{index}", get(chunk))
        .route("/sync/v1/blobs/{sha256}", get(blob))
        .route("/healthz", get(health))
        .route("/readyz", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(&centre))
        .merge(catalogue(centre))
}

/// The admin paths of the catalogue, for what is asked at an edge.
fn catalogue(centre: Arc<Centre>) -> Router {
    let routes = catalogue::http::routes("/sync/v1/admin").with_state(Arc::clone(&centre.catalogue));
    routes.layer(middleware::from_fn_with_state(centre, changes_all))
}

/// Any edge may look. Only one whose key opens all shards changes what all edges run.
async fn changes_all(
    State(_): State<Arc<Centre>>,
    Caller(scope): Caller,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if request.method() != Method::GET && scope != ShardSet::ALL {
        let detail =
            "only an edge whose key opens all shards changes the catalogue; do it at the centre's admin listener";
        return Err(Problem::new(StatusCode::FORBIDDEN, "shard_out_of_scope", detail));
    }
    Ok(next.run(request).await)
}

/// An edge that calls, by its key, and the shards that the key opens.
struct Caller(ShardSet);

impl FromRequestParts<Arc<Centre>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, centre: &Arc<Centre>) -> Result<Self, Problem> {
        let shards = centre.edge_keys.authenticate(&parts.headers)?;
        let cluster = parts.headers.get(CLUSTER_HEADER).map(|cluster| cluster.as_bytes());
        if cluster.is_some_and(|cluster| cluster != centre.log.id().as_bytes()) {
            let detail = "this edge follows another log; give it its own centre, or an empty data directory";
            return Err(Problem::new(StatusCode::FORBIDDEN, "other_cluster", detail));
        }
        Ok(Self(shards))
    }
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    version: &'static str,
    /// Its name, the same at all edges that follow it.
    log: &'a str,
}

async fn health(State(centre): State<Arc<Centre>>) -> Response {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION"), log: centre.log.id() }).into_response()
}

/// What happened since a cursor, for the batch cycle of others. With the secret key.
async fn export(
    State(centre): State<Arc<Centre>>,
    query: Result<Query<export::ExportQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    centre.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
    let since = export::since(query)?;
    let shards = centre.copy.shards().ok_or_else(|| {
        Problem::unavailable("not_ready", "this centre does not have its own copy of the profiles yet; try again")
    })?;
    let log = export::OfCentre { log: Arc::clone(&centre.log), runtime: tokio::runtime::Handle::current() };
    let page = tokio::task::spawn_blocking(move || export::page(&log, &shards, &since));
    page.await.map_err(|error| Problem::storage(&error))?.map(export::ndjson)
}

async fn register(
    State(centre): State<Arc<Centre>>,
    Caller(scope): Caller,
    body: Body,
) -> Result<Json<Registered>, Problem> {
    let register: Register = json(body).await?;
    if register.name.is_empty()
        || register.name.len() > 100
        || !register.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        let detail = "an edge's name is 1 to 100 letters, digits, dots, dashes and underscores";
        return Err(Problem::bad_request("name_invalid", detail).at("/name"));
    }
    let shards = register.shards.unwrap_or(scope);
    if !shards.is_within(scope) {
        let detail = format!("this key opens the shards {scope}, not all of {shards}; hold fewer, or use another key");
        return Err(Problem::new(StatusCode::FORBIDDEN, "shard_out_of_scope", detail).at("/shards"));
    }
    centre.edges.register(&*centre.log, &register, shards).await?;
    centre.forget_reads();
    let keys = centre.keys.hashes();
    let cluster = centre.log.id().to_owned();
    Ok(Json(Registered { cluster, shards, scope, keys, released: centre.released().await? }))
}

async fn report(State(centre): State<Arc<Centre>>, Caller(_): Caller, body: Body) -> Result<Json<Reported>, Problem> {
    let report: Report = json(body).await?;
    let passed_on = verify::heard(&centre, &report.name, &report.marked).await;
    passed_on.map_err(|error| Problem::storage(&format!("{error:#}")))?;
    centre.erasures.heard(&*centre.log, &report).await.map_err(|error| Problem::storage(&format!("{error:#}")))?;
    let (name, wants) = (report.name.clone(), report.everyone);
    let known = centre.edges.report(&*centre.log, report).await?;
    let told = if known && wants { everyone::told(&centre, &name).await } else { Ok(None) };
    Ok(Json(Reported { known, everyone: told.map_err(|error| Problem::storage(&format!("{error:#}")))? }))
}

async fn release(State(centre): State<Arc<Centre>>, Caller(_): Caller) -> Result<Json<Released>, Problem> {
    Ok(Json(centre.released().await?))
}

/// Releases what an edge was given at its start, as far as the log never held it. With a key that opens all shards.
async fn offer(
    State(centre): State<Arc<Centre>>,
    Caller(scope): Caller,
    body: Body,
) -> Result<Json<Released>, Problem> {
    if scope != ShardSet::ALL {
        let detail =
            "only an edge whose key opens all shards may say what all edges run; give it to `selvedge central release`";
        return Err(Problem::new(StatusCode::FORBIDDEN, "shard_out_of_scope", detail));
    }
    let _room = centre.room.body(mib_of(&body, releases::BYTES_MAX)).await?;
    let bytes = read(body, releases::BYTES_MAX).await?;
    let body: GivenBody = crate::edge::parse_body(crate::edge::ingest::utf8(&bytes)?)?;
    releases::offer(&centre, Given::try_from(body)?).await.map(Json).map_err(releases::refused)
}

/// How far an erasure is, in every copy.
async fn erasure(
    State(centre): State<Arc<Centre>>,
    Caller(_): Caller,
    At(id): At<String>,
) -> Result<Json<Receipt>, Problem> {
    let edges = centre.edges.all(&*centre.log).await?;
    centre.erasures.receipt(&id, &edges).map(Json).ok_or_else(unknown)
}

/// Everything behind the cursors, and whatever comes, until the edge goes.
async fn follow(State(centre): State<Arc<Centre>>, Caller(scope): Caller, body: Body) -> Result<Response, Problem> {
    let bytes = read(body, bounds::FRAME_BYTES_TARGET).await?;
    let Frame::Follow(shards) = frame(&bytes)? else { return Err(unexpected("follow")) };
    for (shard, _) in &shards {
        if *shard != CONTROL {
            check_scope(scope, *shard)?;
        }
    }
    // What says little does not wait for what says much.
    let alone = shards.iter().all(|(shard, _)| *shard == CONTROL);
    let places = if alone { &centre.listeners } else { &centre.followers };
    let place = Arc::clone(places).try_acquire_owned().map_err(|_| {
        Problem::unavailable(
            "too_many_followers",
            "this centre feeds as many edges as it may; try again, or another centre",
        )
    })?;
    Ok(octets(feed::start(&centre, shards, place)))
}

/// Takes an edge's changes.
async fn push(State(centre): State<Arc<Centre>>, Caller(scope): Caller, body: Body) -> Result<Response, Problem> {
    let _room = centre.room.body(mib_of(&body, bounds::FRAME_BYTES_MAX)).await?;
    let bytes = read(body, bounds::FRAME_BYTES_MAX).await?;
    let Frame::Pushes(mut pushes) = frame(&bytes)? else { return Err(unexpected("pushes")) };
    let reads = centre.reads().await?;
    let mut answers: Vec<Option<Pushed>> = Vec::with_capacity(pushes.len());
    let mut sealed = Vec::with_capacity(pushes.len());
    for push in &pushes {
        check_scope(scope, push.shard)?;
    }
    let filtered = centre.erasures.filter(&*centre.log, &mut pushes).await;
    filtered.map_err(|error| Problem::storage(&format!("{error:#}")))?;
    for push in pushes {
        let outcome = seal(push, reads)?;
        answers.push(outcome.as_ref().err().cloned());
        sealed.extend(outcome.ok());
    }
    let taken = centre.log.append(sealed).await;
    centre.metrics.pushed(taken.as_deref().unwrap_or_default());
    let taken = taken.inspect_err(|error| {
        // A log in a file that has failed once takes nothing any more.
        if let (Some(end), LogError::Store(_) | LogError::Closed) = (&centre.end, error) {
            end.fail(error.to_string());
        }
    });
    let mut taken = taken?.into_iter();
    let answers = answers.into_iter().filter_map(|refused| refused.or_else(|| taken.next())).collect();
    let bytes = Frame::PushAnswers(answers).encode().map_err(|error| Problem::storage(&error))?;
    Ok(octets(Body::from(bytes)))
}

/// What the log needs to know of a push; or why it can never be taken.
fn seal(push: Push, reads: u16) -> Result<Result<SealedPush, Pushed>, Problem> {
    let mut digests = Vec::with_capacity(push.changes.len());
    // What only the centre says, nobody else may.
    if push.origin == Origin::CENTRE {
        return Ok(Err(Pushed::Refused { index: 0, reason: "it names the centre as its origin".into() }));
    }
    for (index, bytes) in push.changes.iter().enumerate() {
        // A kind that this centre or a registered edge does not know yet waits at its edge until they are upgraded: the answer settles nothing.
        let version = Change::version(bytes);
        if matches!(version, Err(ChangeError::UnknownKind(_))) || version.as_ref().is_ok_and(|version| *version > reads)
        {
            tracing::warn!(
                shard = push.shard.0,
                "an edge sends what not everybody reads yet; upgrade the centre and every edge, or forget those that are gone"
            );
            return Ok(Err(Pushed::Behind { watermark: push.predecessor, head: 0 }));
        }
        match Change::digest(bytes) {
            Ok(digest) if digest.shard.is_none() || Change::withdraws(bytes) => {
                return Ok(Err(Pushed::Refused { index, reason: "only the centre says this".into() }));
            }
            Ok(digest) => digests.push(digest),
            Err(error) => return Ok(Err(Pushed::Refused { index, reason: error.to_string() })),
        }
    }
    Ok(Ok(SealedPush { push, digests }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    epoch: u32,
    after: u64,
    /// The last entry that is wanted: then the answer never changes but by an erasure.
    until: Option<u64>,
    /// How long to wait where there is nothing yet.
    #[serde(default)]
    wait_ms: u64,
}

/// Entries of one shard, as one frame.
async fn changes(
    State(centre): State<Arc<Centre>>,
    Caller(scope): Caller,
    At(shard): At<u16>,
    Asked(range): Asked<Range>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shard = in_scope(scope, shard)?;
    let log = &*centre.log;
    let seen = [(shard, Cursor { epoch: range.epoch, seq: range.after })];
    // Nothing new within that time is an answer too.
    let waited =
        tokio::time::timeout(Duration::from_millis(range.wait_ms.min(WAIT_MS_MAX)), log.wait_head(&seen)).await;
    let heads = match waited {
        Ok(heads) => heads?,
        Err(_) => log.heads().await?,
    };
    let head = heads.get(usize::from(shard.0)).copied().unwrap_or_default();
    let refetch = |why: &str| {
        let detail = format!("{why}; take a snapshot, and ask for what comes after it");
        Err(Problem::new(StatusCode::CONFLICT, "must_refetch", detail))
    };
    if head.epoch != range.epoch {
        return refetch(&format!("the log is in epoch {}", head.epoch));
    }
    if head.seq < range.after {
        return refetch(&format!("the log ends at {}", head.seq));
    }
    let room = centre.room.answer(FRAME_MIB).await?;
    let Read::Entries { epoch, mut entries } = log.read(shard, range.after, bounds::FRAME_BYTES_TARGET).await? else {
        return refetch(&format!("the log begins at {}", head.first));
    };
    if epoch != range.epoch {
        return refetch(&format!("the log is in epoch {epoch}"));
    }
    entries.truncate(fitting(&entries));
    if let Some(until) = range.until {
        entries.retain(|entry| entry.seq <= until);
    }
    let closed = range.until.is_some_and(|until| entries.last().is_some_and(|last| last.seq == until));
    let bytes = Frame::Changes { shard, epoch, entries }.encode().map_err(|error| Problem::storage(&error))?;
    Ok(tagged(bytes, room, if closed { "private, max-age=86400" } else { "private, no-store" }, &headers))
}

/// The newest snapshot of a shard: what it consists of.
async fn snapshot(
    State(centre): State<Arc<Centre>>,
    Caller(scope): Caller,
    At(shard): At<u16>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shard = in_scope(scope, shard)?;
    let Some(kept) = centre.log.snapshot(shard).await? else {
        let detail = "there is no snapshot of this shard yet; follow it from its beginning";
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_snapshot", detail));
    };
    let room = centre.room.answer(FRAME_MIB).await?;
    let manifest: Manifest = super::snapshots::manifest(&kept, centre.reads().await?);
    let bytes = Frame::Manifest(manifest).encode().map_err(|error| Problem::storage(&error))?;
    let mut response = tagged(bytes, room, "private, no-cache", &headers);
    if let Ok(number) = HeaderValue::from_str(&kept.id.number.to_string()) {
        response.headers_mut().insert("x-selvedge-snapshot", number);
    }
    Ok(response)
}

/// A chunk of a snapshot, or the rest of it.
async fn chunk(
    State(centre): State<Arc<Centre>>,
    Caller(scope): Caller,
    At((shard, number, index)): At<(u16, u64, u32)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shard = in_scope(scope, shard)?;
    let room = centre.room.answer(FRAME_MIB).await?;
    let Some(bytes) = centre.log.chunk(SnapshotId { shard, number }, index).await? else {
        let detail = "this snapshot is gone: there is a newer one; begin again with its manifest";
        return Err(Problem::new(StatusCode::NOT_FOUND, "snapshot_gone", detail));
    };
    Ok(ranged(bytes, room, &headers))
}

/// A plugin's bytes.
async fn blob(
    State(centre): State<Arc<Centre>>,
    Caller(_): Caller,
    At(sha256): At<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let hash = parse_hash(&sha256).map_err(|error| Problem::bad_request("hash_invalid", error.to_string()))?;
    let room = centre.room.answer(BLOB_MIB).await?;
    let Some(bytes) = centre.log.blob(hash).await? else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_blob", "nothing is kept under this hash"));
    };
    Ok(ranged(bytes, room, &headers))
}

fn in_scope(scope: ShardSet, shard: u16) -> Result<ShardId, Problem> {
    check_scope(scope, ShardId(shard))?;
    Ok(ShardId(shard))
}

fn unexpected(wanted: &str) -> Problem {
    Problem::bad_request("frame_unexpected", format!("this path takes a {wanted} frame"))
}

fn frame(bytes: &[u8]) -> Result<Frame, Problem> {
    Frame::decode(bytes).map_err(|error| Problem::bad_request("frame_invalid", error.to_string()))
}

async fn json<T: for<'a> Deserialize<'a>>(body: Body) -> Result<T, Problem> {
    let bytes = read(body, JSON_BYTES_MAX).await?;
    crate::edge::parse_body(crate::edge::ingest::utf8(&bytes)?)
}

async fn read(body: Body, most: usize) -> Result<Bytes, Problem> {
    let whole =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most + limits::BODY_BYTES_MAX / 16).collect()).await;
    let whole = whole.map_err(|_| {
        let detail = format!("the body did not arrive within {} seconds; send it again", BODY_TIMEOUT.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
    })?;
    let whole = whole.map_err(|error| {
        let detail = format!("the body could not be read: {error}; it has at most {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    Ok(whole.to_bytes())
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        Self::storage(&error)
    }
}
