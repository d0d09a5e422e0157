//! The admin listener: metrics, what was refused, what was decided and why, and how far the backfill is.
//!
//! On a loopback address it is open to whoever is on the machine; on any other it wants the secret key.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use selvedge_shard::Storage;
use serde::Serialize;

use crate::auth::Role;
use crate::backfill::BackfillAnswer;
use crate::catalogue::{self, Publisher};
use crate::clock;
use crate::console;
use crate::dead_letters::DeadLetter;
use crate::edge::ingest::with_history;
use crate::edge::{Edge, audiences, decisions, method_not_allowed, not_found};
use crate::error::Problem;
use crate::gate::{Gate, Serving};
use crate::report::{self, Report, ReportQuery};
use crate::sync;
use crate::sync::wire;

/// The routes; `guarded` where the listener can be reached from other machines. The catalogue is published here, or by the centre.
pub fn router(gate: Arc<Gate>, publisher: Option<Arc<Publisher>>, guarded: bool) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/v1/dead-letters", get(dead_letters))
        .route("/admin/v1/backfill", get(backfill))
        .route("/admin/v1/storage", get(storage))
        .route("/admin/v1/status", get(status))
        .route("/admin/v1/report", get(reported))
        .route("/admin/v1/audiences/{name}/count", get(audiences::count))
        .route("/admin/v1/decisions", get(decisions::outcomes))
        .route("/admin/v1/decisions/{id}", get(decisions::decision))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    let routes = match publisher {
        Some(publisher) => routes.merge(catalogue::http::routes("/admin/v1").with_state(publisher)),
        None => routes.merge(catalogue::forward::routes()),
    };
    let routes = if guarded { routes.layer(middleware::from_fn_with_state(Arc::clone(&gate), guard)) } else { routes };
    // The page has no data of its own, and a browser cannot send a key with the address that is typed into it.
    let routes = routes.merge(console::routes()).layer(middleware::from_fn(no_pages));
    if guarded { routes } else { routes.layer(middleware::from_fn(by_address)) }.with_state(gate)
}

/// Refuses what a browser sends on behalf of some page: a listener on loopback is open to whoever is on the machine, not to whatever they look at.
pub async fn no_pages(request: Request, next: Next) -> Result<Response, Problem> {
    if is_of_a_page(request.headers()) {
        let detail = "the admin listener answers no page of another origin; ask it by its address";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
    }
    Ok(next.run(request).await)
}

/// Refuses, at a listener that wants no key, whoever asks for it by a name: what a page of that name asks for looks to a browser like the page's own.
pub async fn by_address(request: Request, next: Next) -> Result<Response, Problem> {
    if text(request.headers(), header::HOST).is_some_and(|host| !is_address(host)) {
        let detail = "without a key the admin listener answers to localhost and addresses only; ask it by its address";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail));
    }
    Ok(next.run(request).await)
}

/// Whether a browser asks for a page of another origin than this listener's own.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let Some(origin) = text(headers, header::ORIGIN) else { return false };
    let host = text(headers, header::HOST).unwrap_or_default();
    let own = origin.split_once("://").is_some_and(|(_, of)| of == host);
    !(own && is_address(host))
}

/// A name may be made to mean this machine by whoever owns it; an address may not.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
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
    report: wire::Report,
}

async fn status(Serving(edge): Serving) -> Json<Status> {
    let (role, report) = match &edge.uplink {
        Some(uplink) => ("edge", sync::report(uplink, &edge)),
        None => ("run", sync::own_report(&edge)),
    };
    Json(Status { role, version: env!("CARGO_PKG_VERSION"), cluster: edge.cluster.clone(), report })
}

/// What has become of offers and experiments in the shards that this edge holds.
async fn reported(
    Serving(edge): Serving,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Json<Report>, Problem> {
    let Query(query) = query
        .map_err(|error| Problem::bad_request("query_invalid", format!("{}: {}", report::QUERY, error.body_text())))?;
    let query = query.check()?;
    with_history(&edge, move |edge| Ok(report::make(&edge.shards, &edge.catalog, query, clock::now())?)).await.map(Json)
}

async fn backfill(Serving(edge): Serving) -> Json<BackfillAnswer> {
    Json(edge.backfill.answer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_others_are_told_from_programs_and_from_its_own() {
        let of_a_page = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a host"));
            origin.map(|origin| headers.insert(header::ORIGIN, origin.parse().expect("an origin")));
            is_of_a_page(&headers)
        };
        assert!(!of_a_page("127.0.0.1:8081", None));
        assert!(!of_a_page("127.0.0.1:8081", Some("http://127.0.0.1:8081")));
        assert!(!of_a_page("localhost:8081", Some("http://localhost:8081")));
        assert!(!of_a_page("[::1]:8081", Some("http://[::1]:8081")));
        assert!(of_a_page("127.0.0.1:8081", Some("https://evil.example")));
        assert!(of_a_page("127.0.0.1:8081", Some("null")));
        assert!(of_a_page("evil.example:8081", Some("http://evil.example:8081")), "a name that was made to mean us");
    }

    #[test]
    fn localhost_and_addresses_are_no_names() {
        for address in ["localhost", "LocalHost:8091", "127.0.0.1:8091", "10.0.0.7", "[::1]:8091", "[::1]"] {
            assert!(is_address(address), "{address}");
        }
        for name in ["evil.example", "evil.example:8091", "localhost.evil.example", "127.0.0.1.evil.example:80", ""] {
            assert!(!is_address(name), "{name}");
        }
    }
}
