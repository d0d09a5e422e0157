//! `POST /v1/decide/batch`: decisions for many visitors in one call, for senders of mail and the like. An answer is a line.
//!
//! One visitor after the other, and not before somebody takes the lines: what waits in memory is the call and some lines, however slow its caller. Whoever asks by
//! [`decide`](super::decide) comes between any two of them, and so does another release or catalogue, by which the rest is decided then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use selvedge_core::limits;
use selvedge_core::receipt::Receipt;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::decide::{SlotBody, Text, Visitor, check_at, check_context, check_slots, check_visitor};
use super::ingest::{Ack, check_count, receipt, utf8};
use super::{Arrived, Edge, parse_body, read_body};
use crate::answer::Decision;
use crate::auth::Role;
use crate::error::Problem;
use crate::gate::Gate;
use crate::pipeline::{self, Ask, OnStale, WEB};
use crate::serve::Pieces;

/// Lines that wait for a slow caller.
const LINES: usize = 16;
/// How long a caller may take to read a line.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a call waits for others to end.
const QUEUED: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an object such as {\"visitors\": [{\"userId\": \"1\"}], \"slots\": …}"
)]
struct BatchBody<'a> {
    /// Each is read when it is its turn.
    #[serde(borrow, default)]
    visitors: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    slots: Vec<SlotBody<'a>>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(default)]
    explain: bool,
    #[serde(borrow)]
    at: Option<Text<'a>>,
    #[serde(default)]
    dry_run: bool,
}

/// A call, checked.
struct Batch<'a> {
    body: BatchBody<'a>,
    at: Option<Timestamp>,
    role: Role,
    caught_up: Option<bool>,
}

/// The line of a visitor who was refused.
#[derive(Serialize)]
struct Refused<'a> {
    visitor: &'a RawValue,
    error: &'a Problem,
}

/// `POST /v1/decide/batch`.
pub async fn decide(State(gate): State<Arc<Gate>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let edge = gate.enter().await;
    let answer = async {
        let role = edge.keys.authenticate(&headers, None)?;
        role.at_least(Role::Write)?;
        let place = place(&edge).await?;
        let bytes = read_body(&edge, body).await?;
        let caught_up = edge.catch_up(&headers, None).await?;
        let (begin, begun) = oneshot::channel();
        let (lines, pieces) = mpsc::channel(LINES);
        tokio::spawn(run(Arc::clone(&gate), (role, caught_up), bytes, place, begin, lines));
        begun.await.map_err(|error| Problem::storage(&error))??;
        let kind = HeaderValue::from_static("application/x-ndjson");
        let private = HeaderValue::from_static("private, no-store");
        let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, private)];
        Ok((headers, Body::new(Pieces(pieces))).into_response())
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// One of the places of calls that are under way at once.
async fn place(edge: &Edge) -> Result<OwnedSemaphorePermit, Problem> {
    let free = tokio::time::timeout(QUEUED, Arc::clone(&edge.decision_batches).acquire_owned()).await;
    let free = free.map_err(|_| {
        let detail = "as many batches as this edge decides at once are under way; send this one again later";
        Problem::unavailable("overloaded", detail)
    })?;
    free.map_err(|error| Problem::storage(&error))
}

/// Checks a call, says by `begin` whether it can be begun, and decides for its visitors until nobody takes the lines.
async fn run(
    gate: Arc<Gate>,
    (role, caught_up): (Role, Option<bool>),
    bytes: Arrived,
    _place: OwnedSemaphorePermit,
    begin: oneshot::Sender<Result<(), Problem>>,
    lines: mpsc::Sender<Bytes>,
) {
    let checked = check(&*gate.enter().await, role, caught_up, &bytes);
    let batch = match checked {
        Ok(batch) => batch,
        Err(problem) => {
            // Who asked may have gone.
            let _ = begin.send(Err(problem));
            return;
        }
    };
    if begin.send(Ok(())).is_err() {
        return;
    }
    for index in 0..batch.body.visitors.len() {
        let line = {
            // Whatever serves by then.
            let edge = gate.enter().await;
            batch.line(&edge, index).await
        };
        if !matches!(tokio::time::timeout(PATIENCE, lines.send(line)).await, Ok(Ok(()))) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn check<'a>(edge: &Edge, role: Role, caught_up: Option<bool>, bytes: &'a [u8]) -> Result<Batch<'a>, Problem> {
    let body: BatchBody<'a> = parse_body(utf8(bytes)?)?;
    if body.at.is_some() || body.dry_run {
        role.at_least(Role::Secret)?;
    }
    if body.visitors.is_empty() {
        let detail = "name at least one visitor, such as {\"userId\": \"1\"}";
        return Err(Problem::bad_request("visitors_missing", detail).at("/visitors"));
    }
    check_count(body.visitors.len(), limits::BATCH_VISITORS_MAX, "/visitors")?;
    check_context(body.context)?;
    check_slots(edge, &body.slots)?;
    let at = body.at.as_deref().map(|text| check_at(text, body.dry_run)).transpose()?;
    Ok(Batch { body, at, role, caught_up })
}

impl<'a> Batch<'a> {
    /// What a visitor is answered.
    async fn line(&self, edge: &Arc<Edge>, index: usize) -> Bytes {
        let visitor = self.body.visitors[index];
        let decided = self.decide(edge, index).await;
        let mut line = Vec::new();
        // Plain data to memory: it cannot fail.
        let _ = match decided {
            Ok(mut decision) => {
                decision.name(visitor);
                line.reserve(decision.bytes() + visitor.get().len());
                decision.write(&mut line)
            }
            Err(problem) => {
                edge.metrics.request_failed(problem.code);
                serde_json::to_writer(&mut line, &Refused { visitor, error: &problem })
            }
        };
        line.push(b'\n');
        line.into()
    }

    async fn decide<'e>(&'e self, edge: &'e Arc<Edge>, index: usize) -> Result<Decision<'e>, Problem> {
        let (started, place) = (Instant::now(), format!("/visitors/{index}"));
        let text = self.body.visitors[index].get();
        let visitor: Visitor<'_> = serde_json::from_str(text)
            .map_err(|error| Problem::bad_request("wrong_type", format!("this is no visitor: {error}")).at(&*place))?;
        let (user_id, anonymous_id) = (visitor.user_id.as_deref(), visitor.anonymous_id.as_deref());
        let receipt = Receipt { user_id, anonymous_id, ..receipt(edge, self.role, &HeaderMap::new(), None)? };
        let ask = Ask {
            visitor: check_visitor(&receipt, &place)?,
            // Another catalogue may have come since.
            slots: check_slots(edge, &self.body.slots)?,
            context: self.body.context,
            channel: self.body.channel.as_deref().unwrap_or(WEB),
            events: Vec::new(),
            receipt,
            role: self.role,
            explain: self.body.explain,
            ack: Ack::Applied,
            at: self.at,
            dry_run: self.body.dry_run,
            max_staleness_ms: None,
            on_stale: OnStale::Serve,
            deadline: None,
            started,
        };
        pipeline::decide(edge, ask, self.caught_up).await
    }
}
