//! The admin listener: metrics, what was refused, and how far the backfill is.
//!
//! On a loopback address it is open to whoever is on the machine; on any other it wants the secret key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use selvedge_shard::Storage;
use serde::Serialize;

use crate::auth::Role;
use crate::backfill::BackfillAnswer;
use crate::dead_letters::DeadLetter;
use crate::edge::ingest::with_history;
use crate::edge::{Edge, method_not_allowed, not_found};
use crate::error::Problem;
use crate::gate::{Gate, Serving};
use crate::sync;
use crate::sync::wire::Report;

/// The routes; `guarded` where the listener can be reached from other machines.
pub fn router(gate: Arc<Gate>, guarded: bool) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/v1/dead-letters", get(dead_letters))
        .route("/admin/v1/backfill", get(backfill))
        .route("/admin/v1/storage", get(storage))
        .route("/admin/v1/status", get(status))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    let routes = if guarded { routes.layer(middleware::from_fn_with_state(Arc::clone(&gate), guard)) } else { routes };
    routes.with_state(gate)
}

async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Result<Response, Problem> {
    gate.enter().await.keys.authenticate(request.headers(), None)?.at_least(Role::Secret)?;
    Ok(next.run(request).await)
}

async fn metrics(Serving(edge): Serving) -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], edge.metrics.render())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetterList {
    dead_letters: Vec<DeadLetter>,
}

async fn dead_letters(Serving(edge): Serving) -> Json<DeadLetterList> {
    Json(DeadLetterList { dead_letters: edge.dead_letters.latest() })
}

/// What the shards hold on disk: rows as they are written, and the files, which sled keeps with room to spare.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StorageAnswer {
    fragments: u64,
    state_bytes: u64,
    history_bytes: u64,
    id_bytes: u64,
    disk_bytes: u64,
}

async fn storage(Serving(edge): Serving) -> Result<Json<StorageAnswer>, Problem> {
    let work = |edge: &Edge| {
        let Storage { fragments, state_bytes, history_bytes, id_bytes } = edge.shards.storage()?;
        let disk_bytes = edge.shards.usage().disk_bytes;
        Ok(StorageAnswer { fragments, state_bytes, history_bytes, id_bytes, disk_bytes })
    };
    with_history(&edge, work).await.map(Json)
}

/// How this edge stands with its centre.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    role: &'static str,
    version: &'static str,
    cluster: String,
    #[serde(flatten)]
    report: Report,
}

async fn status(Serving(edge): Serving) -> Json<Status> {
    let (role, report) = match &edge.uplink {
        Some(uplink) => ("edge", sync::report(uplink, &edge)),
        None => ("run", sync::own_report(&edge)),
    };
    Json(Status { role, version: env!("CARGO_PKG_VERSION"), cluster: edge.cluster.clone(), report })
}

async fn backfill(Serving(edge): Serving) -> Json<BackfillAnswer> {
    Json(edge.backfill.answer())
}
