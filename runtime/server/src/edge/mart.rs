//! The batch side: what a mart says of many profiles as of a watermark.

use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use compact_str::CompactString;
use selvedge_core::aggregate::Value;
use selvedge_core::effects::Effects;
use selvedge_core::event::{EventKind, Refusal, quoted};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::limits;
use selvedge_core::mart::{Arriving, Load, NAME_BYTES_MAX, check_name};
use selvedge_core::sync::bounds::CHANGE_BYTES_MAX;
use selvedge_core::value::Timestamp;
use selvedge_shard::{Prepared, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::ingest::{Ack, OUTBOX_FULL, Rejected, SHED, acknowledge, blocking, check_count, utf8};
use super::{Answered, Edge, LogOutbox, answered, parse_body, read_body};
use crate::auth::Role;
use crate::clock;
use crate::error::Problem;
use crate::gate::Serving;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MartQuery {
    #[serde(default)]
    ack: Ack,
    #[serde(default)]
    reconcile: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MartBody<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    block: Cow<'a, str>,
    #[serde(borrow)]
    as_of: Cow<'a, str>,
    #[serde(borrow, default)]
    load: Option<Cow<'a, str>>,
    #[serde(borrow)]
    profiles: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileBody<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    traits: BTreeMap<CompactString, &'a RawValue>,
    #[serde(borrow, default)]
    aggregates: BTreeMap<CompactString, &'a RawValue>,
}

/// The answer.
#[derive(Debug, Default, Serialize)]
pub struct MartAnswer {
    success: bool,
    accepted: usize,
    /// Profiles of which the same load, or a newer one of its block, is there.
    unchanged: usize,
    rejected: Vec<Rejected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconciliation: Option<BTreeMap<CompactString, Reconciled>>,
    /// The shards of what was accepted.
    #[serde(skip)]
    written: Vec<ShardId>,
}

/// What both sides say of one aggregate, over the profiles of a call that have it.
#[derive(Debug, Serialize)]
struct Reconciled {
    profiles: usize,
    /// Profiles of which both sides say the same.
    agree: usize,
    /// What the mart says in all, where it adds up.
    mart: Value,
    /// What the events up to the watermark come to in all, where it adds up.
    live: Value,
    difference: Value,
}

/// `POST /v1/mart`.
pub async fn load(
    Serving(edge): Serving,
    query: Result<Query<MartQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answered, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let Query(MartQuery { ack, reconcile }) = query.map_err(|error| {
            let detail = "the query takes ack=durable or ack=applied, and reconcile=true";
            Problem::bad_request("query_invalid", format!("{detail}: {}", error.body_text()))
        })?;
        let bytes = read_body(&edge, body).await?;
        let _place = edge.large_bodies.acquire().await.map_err(|error| Problem::storage(&error))?;
        let work = move |edge: &Edge| Batch::parse(edge, utf8(&bytes)?)?.admit(edge, reconcile);
        let answer = blocking(&edge, work).await?;
        acknowledge(&edge, ack).await?;
        answered(&edge, &answer, &answer.written)
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// The loads of one call.
struct Batch {
    source: CompactString,
    block: CompactString,
    /// By shard: the place in the call, the change.
    shards: BTreeMap<ShardId, Vec<(usize, Prepared)>>,
    refusals: Vec<(usize, Refusal)>,
}

impl Batch {
    fn parse(edge: &Edge, text: &str) -> Result<Self, Problem> {
        let body: MartBody<'_> = parse_body(text)?;
        check_count(body.profiles.len(), limits::BATCH_EVENTS_MAX, "/profiles")?;
        for (name, pointer) in [(&body.source, "/source"), (&body.block, "/block")] {
            check_name(name).map_err(|fault| {
                Problem::bad_request("name_invalid", format!("{} {fault}", quoted(name))).at(pointer)
            })?;
        }
        let id = body.load.as_deref().unwrap_or_default();
        if id.len() > NAME_BYTES_MAX {
            let detail = format!("is {} bytes; the id of a load has at most {NAME_BYTES_MAX}", id.len());
            return Err(Problem::bad_request("name_invalid", detail).at("/load"));
        }
        let as_of = Timestamp::parse(&body.as_of).map_err(|error| {
            Problem::bad_request("timestamp_invalid", format!("{} is {error}", quoted(&body.as_of))).at("/asOf")
        })?;
        let now = clock::now();
        if as_of > now {
            let detail = format!(
                "{as_of} is after now, {now}: events up to it would be taken for known; send the instant up to which the mart is complete"
            );
            return Err(Problem::bad_request("timestamp_in_future", detail).at("/asOf"));
        }
        let (source, block) = (CompactString::from(body.source.as_ref()), CompactString::from(body.block.as_ref()));
        let mut batch = Self { source, block, shards: BTreeMap::new(), refusals: Vec::new() };
        for (index, raw) in body.profiles.iter().enumerate() {
            match batch.read(edge, raw.get(), as_of, id) {
                Ok((identifier, load)) => {
                    let (shard, prepared) = (identifier.shard(), Prepared::mart(identifier, load));
                    if prepared.bytes() > CHANGE_BYTES_MAX {
                        let detail = format!(
                            "takes {} bytes; a load has at most {CHANGE_BYTES_MAX}: send its aggregates in several blocks",
                            prepared.bytes()
                        );
                        batch.refusals.push((index, Refusal::new("load_too_large", "/aggregates", detail)));
                        continue;
                    }
                    batch.shards.entry(shard).or_default().push((index, prepared));
                }
                Err(refusal) => batch.refusals.push((index, refusal)),
            }
        }
        Ok(batch)
    }

    fn read(&self, edge: &Edge, text: &str, as_of: Timestamp, id: &str) -> Result<(Identifier, Load), Refusal> {
        let form = "is not {\"id\": \"user:42\", \"traits\": {…}, \"aggregates\": {…}}";
        let profile: ProfileBody<'_> = serde_json::from_str(text).map_err(|error| {
            let fault: String = error.to_string().chars().take(200).collect();
            Refusal::new("wrong_type", "", format!("{form}: {fault}"))
        })?;
        let identifier = edge
            .namespaces
            .parse(&profile.id)
            .map_err(|error| Refusal::new(error.code(), "/id", format!("{} {error}", quoted(&profile.id))))?;
        edge.takes(&identifier).map_err(|refusal| Refusal { pointer: "/id".into(), ..refusal })?;
        let traits: Vec<_> = profile.traits.into_iter().collect();
        let aggregates: Vec<_> = profile.aggregates.into_iter().collect();
        let (source, block) = (&*self.source, &*self.block);
        let arriving = Arriving { source, block, as_of, id, traits: &traits, aggregates: &aggregates };
        Ok((identifier, Load::parse(&edge.plugins.schema().definitions, &arriving)?))
    }

    /// Puts what counts into views and log. Blocks on the disk.
    fn admit(self, edge: &Edge, reconcile: bool) -> Result<MartAnswer, Problem> {
        if edge.shards.overloaded() {
            return Err(Problem::unavailable(
                "overloaded",
                "more is waiting to be stored than may; send it again in a second",
            ));
        }
        // Like traits: late, for they can be sent again.
        if edge.sheds(EventKind::Identify, &Effects::default()) {
            return Err(Problem::unavailable(OUTBOX_FULL, SHED));
        }
        let mut answer = MartAnswer { success: true, ..MartAnswer::default() };
        let mut refusals = self.refusals;
        let mut taken = Vec::new();
        for (shard, changes) in self.shards {
            answer.written.push(shard);
            let (places, prepared): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
            for change in &prepared {
                edge.shards.load(change.identifier())?;
            }
            let identifiers: Vec<Identifier> = prepared.iter().map(|change| change.identifier().clone()).collect();
            let verdicts = edge.shards.admit(shard, prepared, &LogOutbox(&edge.log))?;
            for ((index, identifier), verdict) in places.into_iter().zip(identifiers).zip(verdicts) {
                match verdict {
                    Verdict::Accepted => answer.accepted += 1,
                    Verdict::Duplicate => answer.unchanged += 1,
                    Verdict::Refused(refusal) => {
                        refusals.push((index, refusal));
                        continue;
                    }
                }
                taken.push(identifier);
            }
        }
        edge.metrics.loads(answer.accepted, answer.unchanged);
        refusals.sort_by_key(|(index, _)| *index);
        for (index, refusal) in refusals {
            edge.metrics.load_rejected(refusal.code);
            edge.dead_letters.keep(clock::now(), None, &refusal);
            answer.rejected.push(Rejected::new(index, None, refusal));
        }
        if reconcile {
            taken.sort_unstable();
            taken.dedup();
            answer.reconciliation = Some(reconciliation(edge, &taken, &self.source, &self.block)?);
        }
        Ok(answer)
    }
}

/// What a block and the events up to its watermark say of the same profiles. An aggregate that a newer load of another block gives is left to that.
fn reconciliation(
    edge: &Edge,
    identifiers: &[Identifier],
    source: &str,
    block: &str,
) -> Result<BTreeMap<CompactString, Reconciled>, Problem> {
    let definitions = &edge.plugins.schema().definitions;
    let mut reconciled: BTreeMap<CompactString, Reconciled> = BTreeMap::new();
    for identifier in identifiers {
        let view = edge.shards.load(identifier)?;
        let own = view.fragment.mart.parts().iter().filter(|part| part.source == source && part.block == block);
        for part in own {
            let value = |total| definitions.total_value(&part.name, total).unwrap_or(Value::Absent);
            let (mart, live) = (value(&part.given), value(&part.live));
            let sums = definitions.adds_up(&part.name);
            let entry = reconciled.entry(part.name.clone()).or_insert_with(|| Reconciled {
                profiles: 0,
                agree: 0,
                mart: Value::Absent,
                live: Value::Absent,
                difference: Value::Absent,
            });
            entry.profiles += 1;
            entry.agree += usize::from(part.agrees());
            if sums {
                entry.difference = combine(&combine(&entry.difference, &mart, 1), &live, -1);
                entry.mart = combine(&entry.mart, &mart, 1);
                entry.live = combine(&entry.live, &live, 1);
            }
        }
    }
    Ok(reconciled)
}

/// One fixed value and another, or its opposite.
fn combine(one: &Value, other: &Value, sign: i128) -> Value {
    match (one, other) {
        (Value::Absent, Value::Integer(other)) => Value::Integer(sign * other),
        (Value::Absent, Value::Decimal(other)) => Value::Decimal(sign * other),
        (Value::Integer(one), Value::Integer(other)) => Value::Integer(one + sign * other),
        (Value::Decimal(one), Value::Decimal(other)) => Value::Decimal(one + sign * other),
        (one, _) => one.clone(),
    }
}
