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
use serde::Serialize;

use crate::auth::Role;
use crate::backfill::BackfillAnswer;
use crate::dead_letters::DeadLetter;
use crate::edge::{Edge, method_not_allowed, not_found};
use crate::error::Problem;

/// The routes; `guarded` where the listener can be reached from other machines.
pub fn router(edge: Arc<Edge>, guarded: bool) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/v1/dead-letters", get(dead_letters))
        .route("/admin/v1/backfill", get(backfill))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    let routes = if guarded { routes.layer(middleware::from_fn_with_state(Arc::clone(&edge), guard)) } else { routes };
    routes.with_state(edge)
}

async fn guard(State(edge): State<Arc<Edge>>, request: Request, next: Next) -> Result<Response, Problem> {
    edge.keys.authenticate(request.headers(), None)?.at_least(Role::Secret)?;
    Ok(next.run(request).await)
}

async fn metrics(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], edge.metrics.render())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetterList {
    dead_letters: Vec<DeadLetter>,
}

async fn dead_letters(State(edge): State<Arc<Edge>>) -> Json<DeadLetterList> {
    Json(DeadLetterList { dead_letters: edge.dead_letters.latest() })
}

async fn backfill(State(edge): State<Arc<Edge>>) -> Json<BackfillAnswer> {
    Json(edge.backfill.answer())
}
