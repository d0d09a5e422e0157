//! Erasing a person, and asking how far that is.

use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode};
use selvedge_core::identity::Identifier;
use serde::Serialize;

use super::ingest::{Ack, acknowledge, blocking};
use super::profile::named;
use super::{Edge, LogOutbox};
use crate::auth::Role;
use crate::clock;
use crate::erasures::{Receipt, clean_behind, hex16};
use crate::error::Problem;
use crate::gate::Serving;

/// The answer of `DELETE /v1/profiles/{id}`.
#[derive(Serialize)]
pub struct ErasedAnswer {
    /// The erasure's id.
    id: String,
    /// Whom it concerns.
    identifiers: Vec<Identifier>,
    /// Where to ask how far it is.
    receipts: String,
}

/// `DELETE /v1/profiles/{namespace}:{id}`.
pub async fn erase(
    Serving(edge): Serving,
    identifier: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<ErasedAnswer>), Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let identifier = named(&edge, identifier)?;
        if !edge.shards.holds(identifier.shard()) {
            let detail = "this edge does not hold the shard of this identifier, so it cannot tell who else it is; ask an edge that does";
            return Err(Problem::new(StatusCode::CONFLICT, "shard_not_held", detail));
        }
        let answer = blocking(&edge, move |edge| admit(edge, &identifier)).await?;
        acknowledge(&edge, Ack::Durable).await?;
        if edge.uplink.is_none() {
            clean_behind(&edge.erasures, &edge.log, &edge.shards);
        }
        Ok((StatusCode::ACCEPTED, Json(answer)))
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

fn admit(edge: &Edge, identifier: &Identifier) -> Result<ErasedAnswer, Problem> {
    let mut erasure = [0; 16];
    getrandom::fill(&mut erasure).map_err(|error| Problem::storage(&error))?;
    let (id, at) = (hex16(&erasure), clock::now());
    let ask = |identifiers: &[Identifier]| {
        let asked = edge.erasures.ask(&edge.log, id.clone(), at, identifiers.to_vec());
        asked.map_err(|error| Problem::storage(&error))
    };
    // Before the first of it is in the log, so that a crash does not leave there what nobody remembers to replace.
    let before = edge.shards.group(identifier)?.identifiers;
    ask(&before)?;
    // What was decided for them and gathers yet is gone with the rest.
    for identifier in &before {
        edge.decided
            .flush_shard(identifier.shard(), &edge.shards, &edge.log)
            .map_err(|error| Problem::storage(&error))?;
    }
    let identifiers = edge.shards.erase(identifier, erasure, at, &LogOutbox(&edge.log))?;
    edge.dead_letters.forget(&identifiers);
    edge.records.forget(&identifiers);
    if identifiers != before {
        ask(&identifiers)?;
    }
    Ok(ErasedAnswer { receipts: format!("/v1/erasures/{id}"), id, identifiers })
}

/// `GET /v1/erasures/{id}`.
pub async fn receipt(
    Serving(edge): Serving,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Receipt>, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let Path(id) = id.map_err(|error| Problem::bad_request("erasure_invalid", error.body_text()))?;
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Problem::bad_request("erasure_invalid", "an erasure's id is 32 hexadecimal digits"));
        }
        if let Some(uplink) = &edge.uplink {
            match uplink.centre.erasure(&uplink.cluster, &id).await {
                Ok(Some(receipt)) => return Ok(Json(receipt)),
                Ok(None) => {}
                Err(error) => {
                    let detail =
                        format!("only the centre knows how far it is, and cannot be asked: {error:#}; try again");
                    return Err(Problem::unavailable("centre_unreachable", detail));
                }
            }
        }
        edge.erasures.receipt(&id, edge.uplink.is_none()).map(Json).ok_or_else(unknown)
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// That no erasure has this id.
pub fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_erasure", "no erasure of this id is known here")
}
