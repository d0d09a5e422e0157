//! The public listener: what websites and servers call.

pub mod audiences;
pub mod batch;
pub mod decide;
pub mod decisions;
mod entrance;
pub mod erasures;
pub mod export;
mod freshness;
mod history;
pub mod identities;
pub mod ingest;
mod lane;
pub mod mart;
mod preview;
pub mod profile;

use std::fmt::Display;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use selvedge_central::RedbLog;
use selvedge_core::catalog::Catalog;
use selvedge_core::event::EventKind;
use selvedge_core::identity::{ENTITIES, HOUSEHOLD, Namespaces, ShardId};
use selvedge_core::limits;
use selvedge_core::traits::TraitSources;
use selvedge_plugin_host::{CatalogReads, PluginSet};
use selvedge_shard::{Outbox, ShardError, Shards};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::decompression::RequestDecompressionLayer;

pub use self::entrance::Entrance;
pub use self::freshness::{Freshness, TOKEN_HEADER};
use crate::auth::Keys;
use crate::backfill::Backfill;
use crate::budgets::{self, Ledger};
use crate::catalogue::Publisher;
use crate::dead_letters::DeadLetters;
use crate::decided::Decided;
use crate::erasures::Erasures;
use crate::error::Problem;
use crate::gate::{Gate, Serving};
use crate::ids::Ids;
use crate::metrics::Metrics;
use crate::observer::PluginObserver;
use crate::policy::Policy;
use crate::rates::{self, Rates};
use crate::records::Records;
use crate::release::{Loaded, hex};
use crate::stopped::{StoppedOffers, Switches};
use crate::sync::Uplink;
use crate::tokens::{self, Tokens};

/// What an edge keeps whatever it runs.
pub struct House {
    pub keys: Keys,
    pub tokens: Tokens,
    /// Whether a browser's word for its user is taken without a token.
    pub trust_browsers: bool,
    pub namespaces: Arc<Namespaces>,
    /// Whose word on a trait holds.
    pub trait_sources: TraitSources,
    /// What makes changes durable: the log itself, or the outbox of an edge that follows a centre.
    pub log: Arc<RedbLog>,
    /// The name of the log that everybody agrees on.
    pub cluster: String,
    /// The centre that this edge follows; none where it is its own.
    pub uplink: Option<Arc<Uplink>>,
    /// What publishes the catalogue; none where that is the centre's.
    pub publisher: Option<Arc<Publisher>>,
    /// Offers that are stopped.
    pub stopped: Arc<StoppedOffers>,
    pub decided: Decided,
    /// What is spent of caps over everyone.
    pub ledger: Arc<Ledger>,
    /// What was decided lately and why.
    pub records: Records,
    pub dead_letters: DeadLetters,
    /// Those that were asked for here.
    pub erasures: Arc<Erasures>,
    pub metrics: Arc<Metrics>,
    pub ids: Ids,
    /// Cleared when the process is about to end, or the log has failed.
    pub serving: AtomicBool,
    /// How many large bodies are in memory at once.
    pub bodies: Arc<Semaphore>,
    /// How many large bodies are worked on at once; the rest wait, as bytes.
    pub large_bodies: Semaphore,
    /// How many batches of decisions are under way at once.
    pub decision_batches: Arc<Semaphore>,
    /// How many histories are folded at once.
    pub histories: Arc<Semaphore>,
    /// How many audiences are counted at once.
    pub audience_counts: Arc<Semaphore>,
}

/// Everything that a request of this edge needs: the house, and what runs in it now.
pub struct Edge {
    pub house: Arc<House>,
    /// The entities that plugins and the catalogue's conditions read, by position.
    pub entities: Vec<usize>,
    pub plugins: Arc<PluginSet>,
    /// The plugins' hashes as answers carry them.
    pub plugin_hashes: Box<RawValue>,
    pub observer: Arc<PluginObserver>,
    pub catalog: Catalog,
    pub catalog_reads: CatalogReads,
    /// What the catalogue holds decisions to.
    pub policy: Policy,
    /// Which of its offers are stopped.
    pub switches: Arc<Switches>,
    /// An edge that decides by the draft, for previews.
    preview: preview::Kept,
    pub shards: Arc<Shards>,
    /// How far definitions that are new are computed from the history.
    pub backfill: Arc<Backfill>,
}

impl Edge {
    /// An edge that runs a release over its shards.
    pub fn assemble(
        house: Arc<House>,
        loaded: Loaded,
        observer: Arc<PluginObserver>,
        shards: Arc<Shards>,
    ) -> anyhow::Result<Self> {
        let Loaded { plugins, catalog, catalog_reads, .. } = loaded;
        let plugin_hashes: serde_json::Map<String, serde_json::Value> =
            plugins.plugins().iter().map(|plugin| (plugin.name().to_owned(), plugin.hash().into())).collect();
        let backfill = Arc::new(Backfill::of(&plugins, &shards)?);
        let policy = Policy::new(&catalog, &catalog_reads.bound().conditions, plugins.schema(), &house.ledger);
        let edge = Self {
            switches: house.stopped.follow(&catalog),
            preview: preview::Kept::default(),
            house,
            entities: entities(&plugins, &catalog_reads, &policy),
            policy,
            plugin_hashes: serde_json::value::to_raw_value(&plugin_hashes)?,
            plugins,
            observer,
            catalog,
            catalog_reads,
            shards,
            backfill,
        };
        edge.renew_everyone()?;
        Ok(edge)
    }

    /// Brings up what decisions know of everyone: what budgets have left, and response rates. Blocks.
    pub fn renew_everyone(&self) -> Result<(), ShardError> {
        budgets::renew(self, &self.policy.budgets)?;
        rates::renew(self)
    }

    /// The same edge by another catalogue. What its budgets have left must be known by then ([`budgets::prepare`]).
    pub fn with_catalog(&self, catalog: Catalog, catalog_reads: CatalogReads) -> Self {
        self.with_catalog_and(catalog, catalog_reads, &self.ledger)
    }

    fn with_catalog_and(&self, catalog: Catalog, catalog_reads: CatalogReads, ledger: &Arc<Ledger>) -> Self {
        let conditions = &catalog_reads.bound().conditions;
        let mut policy = Policy::new(&catalog, conditions, self.plugins.schema(), ledger);
        // What both have is not looked up anew.
        policy.rates = Rates::new(&catalog, self.policy.rates.as_ref().map(|rates| (&self.catalog, rates)));
        Self {
            house: Arc::clone(&self.house),
            entities: entities(&self.plugins, &catalog_reads, &policy),
            policy,
            plugins: Arc::clone(&self.plugins),
            plugin_hashes: self.plugin_hashes.clone(),
            observer: Arc::clone(&self.observer),
            switches: self.house.stopped.follow(&catalog),
            preview: preview::Kept::default(),
            catalog,
            catalog_reads,
            shards: Arc::clone(&self.shards),
            backfill: Arc::clone(&self.backfill),
        }
    }
}

impl House {
    /// The version and the hash of the catalogue in force, where it is published here.
    pub fn catalogue_in_force(&self) -> Option<(u64, String)> {
        let in_force = self.publisher.as_ref()?.in_force();
        (in_force.version > 0).then(|| (in_force.version, hex(&in_force.hash)))
    }
}

/// What plugins, conditions and caps ask about, by position.
fn entities(plugins: &PluginSet, reads: &CatalogReads, policy: &Policy) -> Vec<usize> {
    let household = ENTITIES.iter().position(|entity| *entity == HOUSEHOLD).filter(|_| policy.looks_at_households());
    let mut entities = plugins.entities();
    entities.extend(reads.bound().conditions.entities().iter().copied().chain(household));
    entities.sort_unstable();
    entities.dedup();
    entities
}

impl Deref for Edge {
    type Target = House;

    fn deref(&self) -> &House {
        &self.house
    }
}

/// An answer, with what a caller needs in order to read elsewhere what was written here to these shards.
pub fn answered(edge: &Edge, answer: impl Serialize, written: &[ShardId]) -> Result<Answered, Problem> {
    let mut json = Vec::with_capacity(ANSWER_BYTES);
    serde_json::to_writer(&mut json, &answer).map_err(|error| Problem::storage(&error))?;
    Ok(Answered { json, token: edge.token(written) })
}

/// A good answer.
pub struct Answered {
    pub json: Vec<u8>,
    pub token: Option<HeaderValue>,
}

impl IntoResponse for Answered {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        if let Some(token) = self.token {
            response.headers_mut().insert(TOKEN_HEADER, token);
        }
        response
    }
}

/// The log as the shards' outbox.
pub struct LogOutbox<'a>(pub &'a RedbLog);

impl Outbox for LogOutbox<'_> {
    fn append(&self, changes: Vec<(ShardId, Vec<Arc<[u8]>>)>) -> Result<(), String> {
        self.0.append(changes).map_err(|error| error.to_string())
    }
}

/// The routes.
pub fn router(gate: Arc<Gate>, cors_origins: Vec<HeaderValue>) -> Router {
    let track =
        |kind: EventKind| post(move |state, query, headers, body| ingest::single(kind, state, query, headers, body));
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(cors_origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static(tokens::HEADER),
            TOKEN_HEADER,
            header::IF_NONE_MATCH,
        ])
        .expose_headers([header::ETAG, header::RETRY_AFTER, TOKEN_HEADER]);
    Router::new()
        .route("/v1/decide", post(decide::decide))
        .route("/v1/decide/batch", post(batch::decide))
        .route("/v1/decisions/{id}/confirm", post(decisions::confirm))
        .route("/v1/identify", track(EventKind::Identify))
        .route("/v1/track", track(EventKind::Track))
        .route("/v1/page", track(EventKind::Page))
        .route("/v1/screen", track(EventKind::Screen))
        .route("/v1/alias", track(EventKind::Alias))
        // The short paths of Segment's SDK for browsers.
        .route("/v1/i", track(EventKind::Identify))
        .route("/v1/t", track(EventKind::Track))
        .route("/v1/p", track(EventKind::Page))
        .route("/v1/s", track(EventKind::Screen))
        .route("/v1/g", track(EventKind::Group))
        .route("/v1/a", track(EventKind::Alias))
        .route("/v1/group", track(EventKind::Group))
        .route("/v1/batch", post(ingest::batch))
        .route("/v1/profiles/{identifier}", get(profile::profile).delete(erasures::erase))
        .route("/v1/erasures/{id}", get(erasures::receipt))
        .route("/v1/profiles/{identifier}/identities", get(identities::identities))
        .route("/v1/mart", post(mart::load))
        .route("/v1/export", get(export::export))
        .route("/v1/identities/link", post(identities::link))
        .route("/v1/identities/links", post(identities::link_all))
        .route("/v1/identities/unlink", post(identities::unlink))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(RequestDecompressionLayer::new())
        .layer(cors)
        .with_state(gate)
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    /// The name of the log, so that a client can tell one data directory from another at the same address.
    log: String,
}

async fn health(Serving(edge): Serving) -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION"), log: edge.cluster.clone() })
}

async fn ready(Serving(edge): Serving) -> Response {
    if !edge.serving.load(Ordering::Relaxed) {
        return Problem::unavailable("not_ready", "this edge is about to end; ask another").into_response();
    }
    if edge.uplink.as_ref().is_some_and(|uplink| !uplink.is_filled()) {
        return Problem::unavailable(
            "not_filled",
            "this edge is new and has not taken all of its shards yet; ask another",
        )
        .into_response();
    }
    health(Serving(edge)).await.into_response()
}

/// The answer where no route fits.
pub async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path; the paths begin with /v1/")
}

/// The answer where the path is right and the method is not.
pub async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
}

/// The type of answers.
pub const JSON: &str = "application/json";
/// Bytes that most answers take at most.
pub const ANSWER_BYTES: usize = 2048;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a body that need no place of their own in memory.
const SMALL_BODY_BYTES: usize = 16 * 1024;

/// A whole body, with its place in memory.
pub struct Arrived {
    bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl Deref for Arrived {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole body, decompressed and within its limit.
pub async fn read_body<B>(edge: &Edge, body: B) -> Result<Arrived, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(edge, body)).await;
    read.map_err(|_| {
        let detail = format!("the body did not arrive within {} seconds; send it again", BODY_TIMEOUT.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
    })?
}

async fn collect<B>(edge: &Edge, mut body: B) -> Result<Arrived, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let (mut bytes, mut place) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Problem::bad_request("body_unreadable", format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        // Most come in one piece, which is taken as it is.
        if bytes.is_empty() && data.len() <= SMALL_BODY_BYTES && body.is_end_stream() {
            return Ok(Arrived { bytes: data, _place: None });
        }
        if bytes.len() + data.len() > limits::BODY_BYTES_MAX {
            let most = limits::BODY_BYTES_MAX;
            let detail = format!("a body has at most {most} bytes, after decompression; send smaller batches");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
        }
        if place.is_none() && bytes.len() + data.len() > SMALL_BODY_BYTES {
            let free = Arc::clone(&edge.bodies).acquire_owned().await;
            place = Some(free.map_err(|error| Problem::storage(&error))?);
            let announced = usize::try_from(HttpBody::size_hint(&body).lower()).unwrap_or(0);
            bytes.reserve_exact(data.len() + announced.min(limits::BODY_BYTES_MAX));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Arrived { bytes: bytes.into(), _place: place })
}

/// Reads a body's JSON. One that does not fit is read once more, slowly, to say where the fault is.
pub fn parse_body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|_| {
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            return Problem::bad_request("malformed_json", format!("the body is not JSON: {error}"));
        }
        let again: Result<T, _> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text));
        let Err(error) = again else {
            return Problem::bad_request("malformed_json", "the body is followed by more than a JSON object");
        };
        let pointer: String =
            error.path().iter().map(|segment| format!("/{segment}").replace("/[", "/").replace(']', "")).collect();
        // It may repeat what was sent.
        let text: String = error.inner().to_string().chars().take(300).collect();
        let code = match text.as_str() {
            text if text.starts_with("unknown field") => "unknown_field",
            text if text.starts_with("missing field") => "field_missing",
            _ => "wrong_type",
        };
        Problem::bad_request(code, format!("the body does not fit: {text}")).at(pointer)
    })
}
