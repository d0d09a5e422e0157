//! Errors as they leave: RFC 9457 problem documents with a stable code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use selvedge_core::event::Refusal;
use selvedge_shard::ShardError;
use serde::Serialize;

use crate::catalogue::document::Fault;
use crate::edge::ingest::OUTBOX_FULL;

/// What went wrong, for programs (`code`) and for people (`detail`, which says the mend).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    /// Stable.
    pub code: &'static str,
    detail: String,
    /// The offending field as a JSON pointer into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<String>,
    /// All that is wrong, where it may be more than one thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Box<Faults>>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

/// Behind a pointer, since few problems have any and every answer has room for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Faults(Vec<Fault>);

impl Problem {
    /// A problem with a status.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            pointer: None,
            errors: None,
            retry_after_s: None,
        }
    }

    /// 400.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// Names the field.
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// Lists all that is wrong; the first is where it points.
    pub fn because(mut self, faults: Vec<Fault>) -> Self {
        self.pointer = faults.first().map(|fault| fault.pointer.clone());
        self.errors = Some(Box::new(Faults(faults)));
        self
    }

    /// What went wrong, for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether it may go by itself.
    pub fn is_passing(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE.as_u16()
    }

    /// An invalid event on an endpoint that takes one: 422, or 413 where it is too large.
    pub fn refused(refusal: &Refusal) -> Self {
        let status = match refusal.code {
            OUTBOX_FULL => return Self::unavailable(OUTBOX_FULL, refusal.detail.clone()),
            "event_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.code, refusal.detail.clone()).at(refusal.pointer.clone())
    }

    /// 503 with a time to wait.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }

    /// A failure of the store: nothing of the call is acknowledged.
    pub fn storage(error: &impl ToString) -> Self {
        Self::unavailable("storage_failed", error.to_string())
    }
}

impl From<ShardError> for Problem {
    fn from(error: ShardError) -> Self {
        Self::storage(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after_s = self.retry_after_s;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
