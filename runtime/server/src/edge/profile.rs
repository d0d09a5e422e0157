//! The profile endpoint: everything known of one identifier, now or as of an instant.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use compact_str::CompactString;
use selvedge_core::aggregate::{Definitions, Exactness, Off, Read, Reading, Value};
use selvedge_core::consent::Decision;
use selvedge_core::event::quoted;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::mart::{Load, Part};
use selvedge_core::offers::OfferHistory;
use selvedge_core::time::Moment;
use selvedge_core::traits::Trait;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_core::view::Subject;
use selvedge_plugin_host::Invocation;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Edge;
use super::audiences;
use super::history::{HistoryAnswer, HistoryAsk};
use super::ingest::{blocking, with_history};
use crate::answer::Meta;
use crate::auth::Role;
use crate::clock;
use crate::error::Problem;
use crate::gate::Serving;
use crate::pipeline::{self, Known};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileQuery {
    at: Option<String>,
    history: Option<String>,
    days: Option<String>,
}

/// The answer.
#[derive(Serialize)]
pub struct ProfileAnswer {
    id: Identifier,
    identifiers: Vec<Identifier>,
    traits: BTreeMap<String, TraitAnswer>,
    aggregates: Ordered<AggregateAnswer>,
    scores: Ordered<ScoreAnswer>,
    audiences: Vec<CompactString>,
    consent: BTreeMap<String, ConsentAnswer>,
    offers: BTreeMap<String, OfferAnswer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loads: Vec<LoadAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryAnswer>,
    meta: Meta<'static>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TraitAnswer {
    value: Box<RawValue>,
    source: String,
    updated_at: String,
}

#[derive(Serialize)]
pub struct AggregateAnswer {
    pub value: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    pub exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorAnswer>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    backfilling: bool,
    /// Why it is not exact, where a mart is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Of what it goes on from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mart: Vec<PartAnswer>,
}

/// A mart's part in a value.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartAnswer {
    source: CompactString,
    block: CompactString,
    as_of: String,
    /// What the mart says.
    value: Value,
    /// What the events up to the watermark come to.
    live: Value,
}

/// A load that holds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadAnswer {
    source: CompactString,
    block: CompactString,
    as_of: String,
    #[serde(skip_serializing_if = "CompactString::is_empty")]
    load: CompactString,
}

/// How far off a value may be.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum ErrorAnswer {
    Absolute(Value),
    StandardError(f64),
    OpensLateMs(i64),
    Unknown(bool),
}

impl AggregateAnswer {
    fn of(reading: &Reading, read: Read, reason: Option<String>, mart: Vec<PartAnswer>) -> Self {
        let fixed = |off: i128| if reading.kind == Kind::Decimal { Value::Decimal(off) } else { Value::Integer(off) };
        let error = match read.exactness {
            Exactness::Exact | Exactness::Backfilling => None,
            Exactness::Off(off) => Some(match off {
                Off::Absolute(off) => ErrorAnswer::Absolute(fixed(off)),
                Off::Number(off) => ErrorAnswer::Absolute(Value::Number(off)),
                Off::StandardError(share) => ErrorAnswer::StandardError(share),
                Off::OpensLate(ms) => ErrorAnswer::OpensLateMs(ms),
                Off::Unknown => ErrorAnswer::Unknown(true),
            }),
        };
        let (exact, backfilling) = (read.exactness.is_exact(), read.exactness == Exactness::Backfilling);
        Self { value: read.value, unit: reading.unit.clone(), exact, error, backfilling, reason, mart }
    }
}

#[derive(Serialize)]
struct ScoreAnswer {
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfferAnswer {
    decided: u64,
    shown: u64,
    clicked: u64,
    accepted: u64,
    dismissed: u64,
    last_decided_at: Option<String>,
    last_shown_at: Option<String>,
    last_clicked_at: Option<String>,
    last_accepted_at: Option<String>,
    last_dismissed_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConsentAnswer {
    granted: bool,
    updated_at: String,
}

/// Aggregates by name, in declared order.
pub type Aggregates = Ordered<AggregateAnswer>;

/// A JSON object whose keys stand in a given order.
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// `GET /v1/profiles/{namespace}:{id}`.
pub async fn profile(
    Serving(edge): Serving,
    identifier: Result<Path<String>, PathRejection>,
    query: Result<Query<ProfileQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<ProfileAnswer>, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let identifier = held(&edge, named(&edge, identifier)?)?;
        let Query(query) = query.map_err(|error| {
            let detail = "the query takes at=RFC3339, history=traits,aggregates and days=NUMBER";
            Problem::bad_request("query_invalid", format!("{detail}: {}", error.body_text()))
        })?;
        let at = query.at.map(|text| {
            Timestamp::parse(&text)
                .map_err(|error| Problem::bad_request("timestamp_invalid", format!("at={} is {error}", quoted(&text))))
        });
        let at = at.transpose()?;
        // Those who show what they wrote elsewhere read it here.
        edge.catch_up(&headers, None).await?;
        let history = HistoryAsk::parse(query.history.as_deref(), query.days.as_deref())?;
        let work = move |edge: &Edge| read(edge, &identifier, at, history);
        if at.is_some() || history.is_some() { with_history(&edge, work).await } else { blocking(&edge, work).await }
            .map(Json)
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// The identifier that a path names.
pub fn named(edge: &Edge, path: Result<Path<String>, PathRejection>) -> Result<Identifier, Problem> {
    let Path(text) = path.map_err(|error| {
        let detail = format!("the path is not NAMESPACE:VALUE: {}", error.body_text());
        Problem::bad_request("identifier_invalid", detail)
    })?;
    edge.namespaces
        .parse(&text)
        .map_err(|error| Problem::bad_request(error.code(), format!("{} {error}", quoted(&text))))
}

/// An identifier of which this edge can say something.
pub fn held(edge: &Edge, identifier: Identifier) -> Result<Identifier, Problem> {
    if edge.holds(&identifier) {
        return Ok(identifier);
    }
    let detail =
        format!("this edge does not hold shard {}, that of {identifier}; ask one that does", identifier.shard().0);
    Err(Problem::new(StatusCode::CONFLICT, "shard_not_held", detail))
}

/// That nothing is known.
pub fn not_found(identifier: &Identifier, at: Option<Timestamp>) -> Problem {
    let as_of = at.map_or_else(String::new, |at| format!(" as of {at}"));
    let detail = format!("nothing is known of {identifier}{as_of}");
    Problem::new(StatusCode::NOT_FOUND, "profile_not_found", detail)
}

/// Every aggregate of a fold at an instant.
pub fn aggregates(edge: &Edge, fragment: &Fragment, instant: Timestamp) -> Aggregates {
    let definitions = &edge.plugins.schema().definitions;
    let moment = fragment.moment(definitions, &edge.trait_sources, instant);
    let aggregate = |reading: &Reading| (reading.name.clone(), evaluated(definitions, reading, fragment, &moment));
    Ordered(definitions.readings().iter().map(aggregate).collect())
}

/// One aggregate of a fold at an instant.
pub fn evaluated(
    definitions: &Definitions,
    reading: &Reading,
    fragment: &Fragment,
    moment: &Moment,
) -> AggregateAnswer {
    let read = fragment.read(definitions, reading, moment);
    let parts = fragment.mart.parts();
    if parts.is_empty() {
        return AggregateAnswer::of(reading, read, None, Vec::new());
    }
    let part = |part: &Part| {
        let value = |total| definitions.total_value(&part.name, total).unwrap_or(Value::Absent);
        PartAnswer {
            source: part.source.clone(),
            block: part.block.clone(),
            as_of: part.as_of.to_string(),
            value: value(&part.given),
            live: value(&part.live),
        }
    };
    let mart = parts.iter().filter(|part| part.name == reading.name).map(part).collect();
    let lacks = fragment.lacks(definitions, reading, moment);
    let reason = lacks.then(|| {
        "a mart says otherwise of the time before its watermark than the events that this is read from".to_owned()
    });
    AggregateAnswer::of(reading, read, reason, mart)
}

fn read(
    edge: &Edge,
    identifier: &Identifier,
    at: Option<Timestamp>,
    history: Option<HistoryAsk>,
) -> Result<ProfileAnswer, Problem> {
    let started = std::time::Instant::now();
    let (mut known, decided) = edge.decided.beside(|| {
        let known = Known::load(edge, identifier, at)?;
        let identifiers = known.identifiers.clone();
        Ok::<_, Problem>((known, identifiers))
    })?;
    let instant = pipeline::instant(at, clock::now(), &known.fragment);
    let decided = decided.up_to(instant);
    if !decided.is_empty() {
        Arc::make_mut(&mut known.fragment).apply_decided(&decided.offers, &decided.exposures);
    }
    let fragment = &known.fragment;
    if fragment.is_empty() {
        return Err(not_found(identifier, at));
    }
    let schema = edge.plugins.schema();
    let moment = fragment.moment(&schema.definitions, &edge.trait_sources, instant);
    let subject = known.subject(edge, &moment);
    let scores = Invocation::new(&edge.plugins).score(edge.plugins.score_order(), &subject, &mut |plugin, error| {
        pipeline::note_failure(edge, plugin, "score", &error)
    });
    let audiences = audiences::of(edge, Subject { scores: &scores, ..subject });
    let scores = schema.scores.iter().zip(scores);
    let consent = |(purpose, decision): (&str, Decision)| {
        let answer = ConsentAnswer { granted: decision.granted, updated_at: decision.at.to_string() };
        (purpose.to_owned(), answer)
    };
    Ok(ProfileAnswer {
        id: identifier.clone(),
        traits: fragment.traits.iter(&edge.trait_sources).filter_map(trait_answer).collect(),
        aggregates: aggregates(edge, fragment, instant),
        scores: Ordered(
            scores
                .map(|(score, value)| (score.name.clone(), ScoreAnswer { value, unit: score.unit.clone() }))
                .collect(),
        ),
        audiences,
        consent: fragment.consent.iter().map(consent).collect(),
        offers: fragment.offers.by_offer().map(|(offer, history)| (offer.to_owned(), offer_answer(&history))).collect(),
        loads: fragment.mart.loads().iter().map(load_answer).collect(),
        history: history.map(|ask| ask.answer(edge, &known.identifiers, instant)).transpose()?,
        meta: Meta::of(edge, &known.identifiers, started.elapsed()),
        identifiers: known.identifiers,
    })
}

/// `SHARD:EPOCH:SEQ` of every shard that holds something of these identifiers.
pub fn version(edge: &Edge, identifiers: &[Identifier]) -> CompactString {
    let mut shards: Vec<ShardId> = identifiers.iter().map(Identifier::shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut version = CompactString::default();
    for shard in shards {
        let cursor = edge.shards.cursor(shard);
        let separator = if version.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(version, "{separator}{}:{}:{}", shard.0, cursor.epoch, cursor.seq);
    }
    version
}

fn trait_answer(held: Trait<'_>) -> Option<(String, TraitAnswer)> {
    let value = RawValue::from_string(held.value.to_owned()).ok()?;
    Some((held.name.to_owned(), TraitAnswer { value, source: held.source.to_owned(), updated_at: held.at.to_string() }))
}

fn load_answer(load: &Load) -> LoadAnswer {
    LoadAnswer {
        source: load.source.clone(),
        block: load.block.clone(),
        as_of: load.as_of.to_string(),
        load: load.id.clone(),
    }
}

fn offer_answer(history: &OfferHistory) -> OfferAnswer {
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
    OfferAnswer {
        decided: history.decided,
        shown: history.shown,
        clicked: history.clicked,
        accepted: history.accepted,
        dismissed: history.dismissed,
        last_decided_at: text(history.last_decided_at),
        last_shown_at: text(history.last_shown_at),
        last_clicked_at: text(history.last_clicked_at),
        last_accepted_at: text(history.last_accepted_at),
        last_dismissed_at: text(history.last_dismissed_at),
    }
}
