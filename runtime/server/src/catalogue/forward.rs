//! The admin paths of the catalogue at an edge that follows a centre: what is asked there is asked of the centre. What is in force here can be read while the
//! centre is away.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use axum::routing::any;

use super::document::{DOCUMENT_BYTES_MAX, EMPTY};
use super::http::{BY, shown, whole};
use crate::error::Problem;
use crate::gate::{Gate, Serving};
use crate::release::{hash, hex};

/// Headers that are handed on, there and back.
const THERE: [&str; 5] = ["accept", "content-type", "if-match", "if-none-match", BY];
const BACK: [&str; 5] = ["content-type", "etag", "vary", "retry-after", "x-selvedge-over"];

/// The routes below `/admin/v1`.
pub fn routes() -> Router<Arc<Gate>> {
    Router::new()
        .route("/admin/v1/catalogue", any(forward))
        .route("/admin/v1/catalogue/{*rest}", any(forward))
        .route("/admin/v1/offers/{*rest}", any(forward))
}

async fn forward(Serving(edge): Serving, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let Some(uplink) = &edge.uplink else {
        return Err(Problem::unavailable("no_centre", "this edge follows no centre"));
    };
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let path = path.strip_prefix("/admin/v1/").unwrap_or(path);
    let body = whole(body, DOCUMENT_BYTES_MAX).await?;
    let sent =
        uplink.centre.admin(&uplink.cluster, parts.method.clone(), path, &only(&parts.headers, THERE), body).await;
    match sent {
        Ok((status, headers, bytes)) => {
            let mut response = Response::new(Body::from(bytes));
            *response.status_mut() = status;
            *response.headers_mut() = only(&headers, BACK);
            Ok(response)
        }
        Err(error) if parts.method == Method::GET && path == "catalogue" => {
            tracing::info!("the catalogue is shown as it runs here; the centre cannot be reached: {error:#}");
            let text = uplink.catalogue();
            let text = if text.is_empty() { EMPTY.to_owned() } else { text };
            let mut response = shown(&text, &hex(&hash(text.as_bytes())), &parts.headers)?;
            // As it runs here; there may be a newer one.
            response.headers_mut().insert(header::WARNING, HeaderValue::from_static("110 - \"the centre is away\""));
            Ok(response)
        }
        Err(error) => {
            let detail =
                format!("the catalogue is the centre's to change, and it cannot be reached from here: {error:#}");
            Err(Problem::unavailable("centre_away", detail))
        }
    }
}

fn only(headers: &HeaderMap, names: [&'static str; 5]) -> HeaderMap {
    let named = |name: &&'static str| {
        let value = headers.get(*name)?.clone();
        Some((header::HeaderName::from_static(name), value))
    };
    names.iter().filter_map(named).collect()
}
