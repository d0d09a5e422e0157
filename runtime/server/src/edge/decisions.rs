//! What was decided: looked up, counted by offer, and confirmed at the moment of sending.
//!
//! What was decided for somebody who was erased since is not told, wherever the erasure was asked for.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use selvedge_core::event::quoted;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use super::Edge;
use super::ingest::{blocking, receipt};
use crate::auth::Role;
use crate::error::Problem;
use crate::gate::Serving;
use crate::outbound::{self, Confirmed};
use crate::pipeline::Known;
use crate::records::{OfferOutcomes, Record};

/// `POST /v1/decisions/{id}/confirm`.
pub async fn confirm(
    Serving(edge): Serving,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Confirmed>, Problem> {
    let answer = async {
        let role = edge.keys.authenticate(&headers, None)?;
        role.at_least(Role::Write)?;
        let receipt = receipt(&edge, role, &headers, None)?;
        let (record, known) = kept(&edge, id).await?;
        Ok(Json(outbound::confirm(&edge, &record, &known, receipt)))
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// `GET /admin/v1/decisions/{id}`.
pub async fn decision(
    Serving(edge): Serving,
    id: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, Problem> {
    let (record, _) = kept(&edge, id).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], record.json()))
}

/// A decision that is kept, and the person whom it was for.
async fn kept(edge: &Arc<Edge>, id: Result<Path<String>, PathRejection>) -> Result<(Arc<Record>, Known), Problem> {
    let unknown = || {
        let detail = "no decision of this id is kept here: it was made by another edge, too long ago, or belongs to those of which only a sample is kept; ask the edge that made it, or decide anew";
        Problem::new(StatusCode::NOT_FOUND, "unknown_decision", detail)
    };
    let id = id.map(|Path(id)| id).map_err(|_| unknown())?;
    let record = edge.records.get(&id).ok_or_else(unknown)?;
    let of = Arc::clone(&record);
    let known = blocking(edge, move |edge| {
        let is_erased = edge.shards.load(&of.visitor)?.fragment.erased_by(of.at);
        Ok(if is_erased { None } else { Some(Known::load(edge, &of.visitor, None)?) })
    });
    match known.await? {
        Some(known) => Ok((record, known)),
        None => {
            edge.records.forget(std::slice::from_ref(&record.visitor));
            Err(unknown())
        }
    }
}

/// What `GET /admin/v1/decisions` is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomesQuery {
    offer: String,
    since: Option<String>,
}

/// Why an offer was shown, or was not.
#[derive(Serialize)]
pub struct OutcomesAnswer {
    offer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(flatten)]
    outcomes: OfferOutcomes,
}

/// `GET /admin/v1/decisions?offer=ID&since=TIME`.
pub async fn outcomes(
    Serving(edge): Serving,
    query: Result<Query<OutcomesQuery>, QueryRejection>,
) -> Result<Json<OutcomesAnswer>, Problem> {
    let Query(OutcomesQuery { offer, since }) = query.map_err(|error| {
        let detail = "the query takes offer=ID and, if it is to begin later, since=TIME";
        Problem::bad_request("query_invalid", format!("{detail}: {}", error.body_text()))
    })?;
    let parse = |text: String| {
        Timestamp::parse(&text)
            .map_err(|error| Problem::bad_request("timestamp_invalid", format!("since: {} is {error}", quoted(&text))))
    };
    let since = since.map(parse).transpose()?;
    let asked = offer.clone();
    let outcomes = blocking(&edge, move |edge| Ok(edge.records.outcomes(&asked, since))).await?;
    Ok(Json(OutcomesAnswer { offer, since: since.map(|since| since.to_string()), outcomes }))
}
