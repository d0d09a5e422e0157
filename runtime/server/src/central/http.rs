//! How the centre takes and gives bytes: a path or query that does not fit is told in its own words, and what waits for a slow edge is bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Frame;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Problem;

/// MiB of answers that are in memory at once, and of bodies.
const MIB_AT_ONCE: usize = 256;
/// How large an answer is about before it is read: a frame or a chunk, and a plugin.
pub const FRAME_MIB: u32 = 2;
pub const BLOB_MIB: u32 = 32;
/// Bytes that are handed to a connection at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Room for answers and bodies. Whoever finds none waits.
pub struct Room {
    answers: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        let room = || Arc::new(Semaphore::new(MIB_AT_ONCE));
        Self { answers: room(), bodies: room() }
    }
}

impl Room {
    /// Room for an answer of about so much.
    pub async fn answer(&self, mib: u32) -> Result<OwnedSemaphorePermit, Problem> {
        let room = Arc::clone(&self.answers).acquire_many_owned(mib).await;
        room.map_err(|error| Problem::storage(&error))
    }

    /// Room for a body of so much.
    pub async fn body(&self, mib: u32) -> Result<OwnedSemaphorePermit, Problem> {
        let room = Arc::clone(&self.bodies).acquire_many_owned(mib).await;
        room.map_err(|error| Problem::storage(&error))
    }
}

/// MiB of a body, as large as it says it is, and of so many bytes at most.
pub fn mib_of(body: &Body, most: usize) -> u32 {
    let said = hyper::body::Body::size_hint(body).upper().and_then(|said| usize::try_from(said).ok());
    let bytes = said.map_or(most, |said| said.min(most));
    u32::try_from(bytes.div_ceil(1024 * 1024).clamp(1, MIB_AT_ONCE)).unwrap_or(1)
}

/// What a path names; a 400 that says why where it does not.
pub struct At<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(named)| Self(named)).map_err(|error| Problem::bad_request("path_invalid", error.body_text()))
    }
}

/// What a query asks for; a 400 that says why where it does not fit.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(asked)| Self(asked)).map_err(|error| Problem::bad_request("query_invalid", error.body_text()))
    }
}

/// Bytes that give their room back when they have gone out.
struct Roomy {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl hyper::body::Body for Roomy {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let most = self.bytes.len().min(PIECE_BYTES);
        let piece = self.bytes.split_to(most);
        Poll::Ready(if piece.is_empty() { None } else { Some(Ok(Frame::data(piece))) })
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Bytes of the protocol.
pub fn octets(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.selvedge.frames")),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-store")),
    ];
    (headers, body).into_response()
}

/// Bytes under a tag that follows from them.
pub fn tagged(bytes: Vec<u8>, room: OwnedSemaphorePermit, caching: &'static str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(&bytes));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let same =
        known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_matches('"') == tag.trim_matches('"')));
    let body = || Body::new(Roomy { bytes: bytes.into(), _room: room });
    let mut response = if same { StatusCode::NOT_MODIFIED.into_response() } else { octets(body()) };
    let own = response.headers_mut();
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        own.insert(header::ETAG, tag);
    }
    response
}

/// Bytes that never change under their name; with `Range: bytes=FROM-` or `bytes=FROM-LAST` those alone.
pub fn ranged(bytes: Vec<u8>, room: OwnedSemaphorePermit, headers: &HeaderMap) -> Response {
    let (total, bytes) = (bytes.len(), Bytes::from(bytes));
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(parse_range);
    let (status, bytes, at) = match range {
        Some((from, _)) if from >= total => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            if let Ok(at) = HeaderValue::from_str(&format!("bytes */{total}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, at);
            }
            return response;
        }
        Some((from, last)) => {
            let last = last.unwrap_or(usize::MAX).min(total - 1);
            let at = HeaderValue::from_str(&format!("bytes {from}-{last}/{total}")).ok();
            (StatusCode::PARTIAL_CONTENT, bytes.slice(from..=last), at)
        }
        None => (StatusCode::OK, bytes, None),
    };
    let mut response = octets(Body::new(Roomy { bytes, _room: room }));
    *response.status_mut() = status;
    let own = response.headers_mut();
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable"));
    own.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(at) = at {
        own.insert(header::CONTENT_RANGE, at);
    }
    response
}

/// `bytes=FROM-` and `bytes=FROM-LAST`. Another form may be left unheeded, says RFC 9110, 14.2.
fn parse_range(text: &str) -> Option<(usize, Option<usize>)> {
    let (from, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse().ok()?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    last.is_none_or(|last| last >= from).then_some((from, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_of_bytes_from_somewhere() {
        assert_eq!(parse_range("bytes=0-"), Some((0, None)));
        assert_eq!(parse_range("bytes=5-9"), Some((5, Some(9))));
        for other in ["bytes=-5", "bytes=9-5", "bytes=1-2,4-5", "items=0-", "bytes=x-"] {
            assert_eq!(parse_range(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn parts_come_with_their_place_and_give_their_room_back() {
        let room = Room::default();
        let ask = async |range: Option<&'static str>| {
            let headers = range.map(|range| (header::RANGE, HeaderValue::from_static(range)));
            let permit = room.answer(FRAME_MIB).await.expect("room");
            let response = ranged((0..=99).collect(), permit, &headers.into_iter().collect());
            let (status, at) = (response.status(), response.headers().get(header::CONTENT_RANGE).cloned());
            let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("bytes");
            (status.as_u16(), bytes.len(), at.map(|at| at.to_str().expect("text").to_owned()))
        };
        assert_eq!(ask(None).await, (200, 100, None));
        assert_eq!(ask(Some("bytes=90-")).await, (206, 10, Some("bytes 90-99/100".into())));
        assert_eq!(ask(Some("bytes=0-0")).await, (206, 1, Some("bytes 0-0/100".into())));
        assert_eq!(ask(Some("bytes=90-500")).await, (206, 10, Some("bytes 90-99/100".into())));
        assert_eq!(ask(Some("bytes=100-")).await, (416, 0, Some("bytes */100".into())));
        assert_eq!(room.answers.available_permits(), MIB_AT_ONCE);
    }
}
