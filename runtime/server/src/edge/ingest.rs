//! Ingestion: Segment's tracking API. Events are checked one by one, observed, admitted, and acknowledged when they are durable.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use compact_str::CompactString;
use selvedge_core::event::{Arrival, Event, EventKind, Refusal, quoted};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::limits;
use selvedge_core::links::{How, LinkError, Word};
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::value::Timestamp;
use selvedge_shard::{Prepared, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answered, Edge, LogOutbox, answered, parse_body, read_body};
use crate::auth::{Role, presented_key};
use crate::clock;
use crate::error::Problem;
use crate::gate::Serving;
use crate::tokens;

/// Bodies up to this size are worked on where they arrive; larger ones on a thread that may take its time.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// The code of what is no event at all.
const MALFORMED: &str = "malformed_event";
/// The code of what was refused because the outbox is full.
pub const OUTBOX_FULL: &str = "outbox_full";
pub const SHED: &str = "the centre has been away for so long that this edge holds as much for it as it may; send it again later, or to another edge";

/// When events are acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When a power cut cannot lose them.
    #[default]
    Durable,
    /// When the next decision counts them.
    Applied,
}

impl Ack {
    /// What a query asks for, where it asks for nothing else and in the plainest words.
    pub fn of(query: Option<&str>) -> Option<Self> {
        match query {
            None | Some("ack=durable") => Some(Self::Durable),
            Some("ack=applied") => Some(Self::Applied),
            Some(_) => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestQuery {
    #[serde(default)]
    ack: Ack,
}

/// What became of a call's events.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub accepted: usize,
    pub duplicates: usize,
    pub rejected: Vec<Rejected>,
    /// Links of accepted events that were refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links_refused: Vec<Rejected>,
    /// What entities did not take of accepted events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entities_refused: Vec<Rejected>,
    /// The shards that something was written to.
    #[serde(skip)]
    pub written: Vec<ShardId>,
}

impl Outcome {
    /// Whether anything was refused because the outbox is full: the whole call is to be sent again.
    fn was_shed(&self) -> bool {
        self.rejected.iter().any(|rejected| rejected.code == OUTBOX_FULL)
    }

    /// Adds an event that was refused.
    pub fn reject(&mut self, index: usize, message_id: Option<String>, refusal: Refusal) {
        self.rejected.push(Rejected::new(index, message_id, refusal));
    }
}

/// An event that was refused.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    code: &'static str,
    pointer: String,
    detail: String,
}

impl Rejected {
    /// A refusal of the event at this place of its call.
    pub fn new(index: usize, message_id: Option<String>, refusal: Refusal) -> Self {
        let Refusal { code, pointer, detail } = refusal;
        Self { index, message_id, code, pointer, detail }
    }
}

#[derive(Serialize)]
pub struct IngestAnswer {
    success: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BatchBody<'a> {
    #[serde(borrow)]
    batch: Vec<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    sent_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    write_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    identity_token: Option<Cow<'a, str>>,
}

impl BatchBody<'_> {
    /// Bytes that its events inherit from it in all.
    fn inherited(&self) -> usize {
        self.context.map_or(0, |context| context.get().len() * self.batch.len())
    }
}

/// What a body of one event may say of its caller.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallerInBody<'a> {
    #[serde(borrow)]
    write_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    identity_token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdOnly<'a> {
    #[serde(borrow)]
    message_id: Option<Cow<'a, str>>,
}

/// `POST /v1/{identify,track,page,screen,group,alias}`.
pub async fn single(
    kind: EventKind,
    Serving(edge): Serving,
    query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answered, Problem> {
    match ack(query) {
        Ok(ack) => call(kind, &edge, ack, &headers, body).await,
        Err(problem) => {
            edge.metrics.request_failed(problem.code);
            Err(problem)
        }
    }
}

/// The same, of a body as it arrives.
pub async fn call<B>(
    kind: EventKind,
    edge: &Arc<Edge>,
    ack: Ack,
    headers: &HeaderMap,
    body: B,
) -> Result<Answered, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let answer = async {
        let role = role_by_headers(edge, headers)?;
        let bytes = read_body(edge, body).await?;
        one(kind, edge, role, ack, headers, &bytes).await
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// The same, of a body that has arrived; `role` is the caller's, where it is known.
pub async fn arrived(
    kind: EventKind,
    edge: &Arc<Edge>,
    role: Option<Role>,
    ack: Ack,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answered, Problem> {
    let answer = async {
        let role = role.map_or_else(|| role_by_headers(edge, headers), |role| Ok(Some(role)))?;
        one(kind, edge, role, ack, headers, body).await
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

async fn one(
    kind: EventKind,
    edge: &Arc<Edge>,
    role: Option<Role>,
    ack: Ack,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answered, Problem> {
    let outcome = admit(edge, prepare_one(edge, kind, role, headers, utf8(body)?)?).await?;
    if let Some(rejected) = outcome.rejected.first() {
        let refusal = Refusal::new(rejected.code, rejected.pointer.clone(), rejected.detail.clone());
        return Err(Problem::refused(&refusal));
    }
    acknowledge(edge, ack).await?;
    answer(edge, outcome)
}

fn prepare_one(
    edge: &Edge,
    kind: EventKind,
    role: Option<Role>,
    headers: &HeaderMap,
    text: &str,
) -> Result<Batch, Problem> {
    let receipt = match role {
        // What the body says of its caller says nothing new of a server.
        Some(role) if role > Role::Publishable => receipt(edge, role, headers, None)?,
        role => {
            let in_body: CallerInBody<'_> = parse_body(text)?;
            let role = role.map_or_else(|| edge.keys.authenticate(headers, in_body.write_key.as_deref()), Ok)?;
            receipt(edge, role, headers, in_body.identity_token.as_deref())?
        }
    };
    let mut batch = Batch::default();
    batch.prepare(edge, 0, text, &Receipt { kind: Some(kind), ..receipt });
    if batch.refusals.iter().any(|(.., refusal)| refusal.code == MALFORMED) {
        // Where it is no object at all, the body is at fault and not an event in it.
        parse_body::<CallerInBody<'_>>(text)?;
    }
    Ok(batch)
}

fn answer(edge: &Edge, mut outcome: Outcome) -> Result<Answered, Problem> {
    let written = std::mem::take(&mut outcome.written);
    answered(edge, IngestAnswer { success: true, outcome }, &written)
}

/// `POST /v1/batch`.
pub async fn batch(
    Serving(edge): Serving,
    query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answered, Problem> {
    let answer = async {
        let ack = ack(query)?;
        role_by_headers(&edge, &headers)?;
        let bytes = read_body(&edge, body).await?;
        let body: BatchBody<'_> = parse_body(utf8(&bytes)?)?;
        let outcome = if bytes.len() + body.inherited() > INLINE_BYTES_MAX {
            let _place = edge.large_bodies.acquire().await.map_err(|error| Problem::storage(&error))?;
            let work = move |edge: &Edge| prepare_batch(edge, &headers, parse_body(utf8(&bytes)?)?)?.admit(edge);
            blocking(&edge, work).await?
        } else {
            admit(&edge, prepare_batch(&edge, &headers, body)?).await?
        };
        // What is never shed was taken all the same; sent again, it is known.
        if outcome.was_shed() {
            return Err(Problem::unavailable(OUTBOX_FULL, SHED));
        }
        acknowledge(&edge, ack).await?;
        answer(&edge, outcome)
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

fn prepare_batch(edge: &Edge, headers: &HeaderMap, body: BatchBody<'_>) -> Result<Batch, Problem> {
    let role = edge.keys.authenticate(headers, body.write_key.as_deref())?;
    check_count(body.batch.len(), limits::BATCH_EVENTS_MAX, "/batch")?;
    if body.inherited() > limits::INHERITED_BYTES_MAX {
        let detail = format!(
            "every event keeps the call's context, which would make more than {} bytes; send it with the events that need it, or fewer events",
            limits::INHERITED_BYTES_MAX
        );
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "context_too_large", detail).at("/context"));
    }
    let sent_at = body.sent_at.map(|text| {
        Timestamp::parse(&text).map_err(|error| {
            Problem::bad_request("timestamp_invalid", format!("{} is {error}", quoted(&text))).at("/sentAt")
        })
    });
    let receipt = receipt(edge, role, headers, body.identity_token.as_deref())?;
    let receipt = Receipt { sent_at: sent_at.transpose()?, context: body.context, ..receipt };
    let mut batch = Batch::default();
    for (index, raw) in body.batch.iter().enumerate() {
        batch.prepare(edge, index, raw.get(), &receipt);
    }
    batch.hold_back();
    Ok(batch)
}

/// Events of one call on their way in.
#[derive(Default)]
pub struct Batch {
    /// By shard: the place in the call, the change.
    shards: BTreeMap<ShardId, Vec<(Place, Prepared)>>,
    links: Vec<Link>,
    /// What events do to the entities that they name: the place in the call, the change.
    entities: Vec<(usize, Prepared)>,
    refusals: Vec<(usize, Option<String>, Refusal)>,
    /// Events that carry consent, which are never refused for want of room.
    consents: Vec<usize>,
    /// Whether all that admission needs was just found in memory.
    at_hand: bool,
}

/// Where an event stands in its call, and its id.
type Place = (usize, CompactString);

/// Two identifiers that an event names as one person's.
struct Link {
    index: usize,
    pair: (Identifier, Identifier),
    word: Word,
}

impl Batch {
    /// Checks and observes one event.
    pub fn prepare(&mut self, edge: &Edge, index: usize, text: &str, receipt: &Receipt<'_>) {
        let prepared = Event::parse(text, receipt, &mut || edge.ids.fresh()).and_then(|arrival| {
            edge.takes(&arrival.fragment)?;
            let effects = edge.observer.observe_fresh(&arrival.event)?;
            if edge.sheds(arrival.event.kind, &effects) {
                return Err(Refusal::new(OUTBOX_FULL, "", SHED));
            }
            Ok((arrival, effects))
        });
        match prepared {
            Ok((Arrival { fragment, event, links, entities }, effects)) => {
                if !effects.consent.is_empty() {
                    self.consents.push(index);
                }
                for entity in entities {
                    let effects = effects.clone().on(&entity);
                    self.entities.push((index, Prepared::event(entity, event.clone(), effects)));
                }
                for (other, how) in links {
                    let word = Word { at: event.at, linked: true, id: link_id(&event, &other), how };
                    self.links.push(Link { index, pair: (fragment.clone(), other), word });
                }
                let place = (index, event.message_id.clone());
                let of_shard = self.shards.entry(fragment.shard()).or_default();
                of_shard.push((place, Prepared::event(fragment, event, effects)));
            }
            Err(refusal) => {
                let id = serde_json::from_str::<IdOnly<'_>>(text).ok().and_then(|event| event.message_id);
                self.refusals.push((index, id.map(Cow::into_owned), refusal));
            }
        }
    }

    /// Where something was refused because the outbox is full, the whole call is to be sent again. Of it only what is never refused is taken, so that nothing counts
    /// twice that has no id of its own.
    fn hold_back(&mut self) {
        if !self.refusals.iter().any(|(.., refusal)| refusal.code == OUTBOX_FULL) {
            return;
        }
        let consents = std::mem::take(&mut self.consents);
        for changes in self.shards.values_mut() {
            changes.retain(|((index, _), _)| consents.contains(index));
        }
        self.shards.retain(|_, changes| !changes.is_empty());
        self.links.retain(|link| consents.contains(&link.index));
        self.entities.retain(|(index, _)| consents.contains(index));
    }

    /// The time of the newest event of each identifier.
    pub fn newest(&self) -> Vec<(Identifier, Timestamp)> {
        let changes = self.shards.values().flatten();
        changes.filter_map(|(_, prepared)| Some((prepared.identifier().clone(), prepared.at()?))).collect()
    }

    /// Whether admission will find everything in memory, so that it may be done where the request arrived.
    pub fn in_memory(&self, edge: &Edge) -> bool {
        let at_hand = |prepared: &Prepared| !prepared.retracts() && edge.shards.prepared(prepared.identifier());
        self.shards.values().flatten().all(|(_, prepared)| at_hand(prepared))
            && self.entities.iter().all(|(_, prepared)| at_hand(prepared))
            && self.links.iter().all(|link| edge.shards.linked(&link.pair.0, &link.pair.1, link.word.at))
    }

    /// The shards that may be written to.
    fn written(&self) -> Vec<ShardId> {
        let linked = self.links.iter().flat_map(|link| [link.pair.0.shard(), link.pair.1.shard()]);
        let entities = self.entities.iter().map(|(_, prepared)| prepared.identifier().shard());
        let mut written: Vec<_> = self.shards.keys().copied().chain(linked).chain(entities).collect();
        written.sort_unstable();
        written.dedup();
        written
    }

    /// Puts what counts into views and log. May block on the disk.
    pub fn admit(mut self, edge: &Edge) -> Result<Outcome, Problem> {
        if edge.shards.overloaded() {
            return Err(Problem::unavailable(
                "overloaded",
                "more is waiting to be stored than may; send it again in a second",
            ));
        }
        let mut outcome = Outcome { written: self.written(), ..Outcome::default() };
        self.check_aliases(edge)?;
        let mut refusals = self.refusals;
        let mut duplicates = Vec::new();
        for (shard, changes) in self.shards {
            let (places, prepared): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
            // What has gone from memory meanwhile is read by admission itself.
            if !self.at_hand {
                prepared.iter().try_for_each(|change| edge.shards.prepare(change.identifier()))?;
            }
            let verdicts = edge.shards.admit(shard, prepared, &LogOutbox(&edge.log))?;
            for ((index, message_id), verdict) in places.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Accepted => outcome.accepted += 1,
                    Verdict::Duplicate => {
                        outcome.duplicates += 1;
                        duplicates.push(index);
                    }
                    Verdict::Refused(refusal) => refusals.push((index, Some(message_id.into_string()), refusal)),
                }
            }
        }
        edge.metrics.events(outcome.accepted, outcome.duplicates);
        let refused = |index: usize| refusals.iter().any(|(of, ..)| *of == index);
        for link in self.links.into_iter().filter(|link| !refused(link.index)) {
            // An event that comes again says nothing new; but a crash may have come between it and its link.
            if duplicates.contains(&link.index) && edge.shards.ever_linked(&link.pair.0, &link.pair.1)? {
                continue;
            }
            if let Err(refusal) = link.admit(edge)? {
                outcome.links_refused.push(Rejected::new(link.index, None, refusal));
            }
        }
        for (index, prepared) in self.entities.into_iter().filter(|(index, _)| !refused(*index)) {
            edge.shards.prepare(prepared.identifier())?;
            let (entity, shard) = (prepared.identifier().clone(), prepared.identifier().shard());
            let verdict = match edge.takes(&entity) {
                Ok(()) => edge.shards.admit(shard, vec![prepared], &LogOutbox(&edge.log))?.pop(),
                Err(refusal) => Some(Verdict::Refused(refusal)),
            };
            if let Some(Verdict::Refused(refusal)) = verdict {
                edge.metrics.event_rejected(refusal.code);
                let refusal = Refusal { detail: format!("of {entity}: {}", refusal.detail), ..refusal };
                edge.dead_letters.keep(clock::now(), None, &refusal);
                outcome.entities_refused.push(Rejected::new(index, None, refusal));
            }
        }
        refusals.sort_by_key(|(index, ..)| *index);
        for (index, message_id, refusal) in refusals {
            edge.metrics.event_rejected(refusal.code);
            edge.dead_letters.keep(clock::now(), message_id.as_deref(), &refusal);
            outcome.reject(index, message_id, refusal);
        }
        Ok(outcome)
    }

    /// An alias is nothing but its link: one that may not be made refuses the event.
    fn check_aliases(&mut self, edge: &Edge) -> Result<(), Problem> {
        for alias in self.links.iter().filter(|link| link.word.how == How::Alias) {
            let Err(error) = alias.check(edge)? else { continue };
            let changes = self.shards.get_mut(&alias.pair.0.shard());
            let of_alias = |((index, _), _): &mut (Place, Prepared)| *index == alias.index;
            let changes = changes.into_iter().flat_map(|changes| changes.extract_if(.., of_alias));
            let ids: Vec<_> = changes.map(|((_, id), _)| id.into_string()).collect();
            edge.metrics.link_refused(error.code());
            self.refusals.push((alias.index, ids.into_iter().next(), alias.refusal(&error)));
        }
        Ok(())
    }
}

impl Link {
    /// Whether the link of an alias may be made. May block on the disk.
    fn check(&self, edge: &Edge) -> Result<Result<(), LinkError>, Problem> {
        let (one, other) = &self.pair;
        if edge.shards.linked(one, other, self.word.at) {
            return Ok(Ok(()));
        }
        if self.renames_user(edge)? {
            // What an alias calls the previous id is a user of its own.
            return Ok(Err(LinkError::TwoUsers(one.clone(), other.clone())));
        }
        Ok(edge.shards.would_link(one, other)?.map(|_| ()))
    }

    /// Makes the link, unless it is there or was taken back later. May block on the disk.
    fn admit(&self, edge: &Edge) -> Result<Result<(), Refusal>, Problem> {
        let (one, other) = &self.pair;
        // As most are: nothing is looked up, and nobody waits.
        if edge.shards.linked(one, other, self.word.at) {
            return Ok(Ok(()));
        }
        if let Err(refusal) = edge.takes(one).and_then(|()| edge.takes(other)) {
            return Ok(Err(Refusal { pointer: self.pointer().into(), ..refusal }));
        }
        match edge.shards.link(one, other, self.word, &LogOutbox(&edge.log))? {
            Ok(made) => {
                if made {
                    edge.metrics.link_made();
                }
                Ok(Ok(()))
            }
            Err(error) => {
                edge.metrics.link_refused(error.code());
                let whole = Refusal::new(error.code(), self.pointer(), error.to_string());
                edge.dead_letters.keep(clock::now(), None, &whole);
                Ok(Err(self.refusal(&error)))
            }
        }
    }

    /// What the caller is told. It may be a browser, which must not learn who else its id belongs to.
    fn refusal(&self, error: &LinkError) -> Refusal {
        let detail = match error {
            LinkError::TwoUsers(..) => "belongs to another user; they stay two profiles".to_owned(),
            other => other.to_string(),
        };
        Refusal::new(error.code(), self.pointer(), detail)
    }

    /// Whether the previous id of an alias is known as a user and not as a visitor.
    fn renames_user(&self, edge: &Edge) -> Result<bool, Problem> {
        let (one, other) = &self.pair;
        let Ok(user) = edge.namespaces.identifier("user", other.value()) else { return Ok(false) };
        Ok(user != *one
            && edge.shards.load(other)?.fragment.is_empty()
            && !edge.shards.load(&user)?.fragment.is_empty())
    }

    fn pointer(&self) -> &'static str {
        match self.word.how {
            How::Alias => "/previousId",
            How::ExternalId => "/context/externalIds",
            How::Event | How::Identify | How::Api => "/anonymousId",
        }
    }
}

/// One id for both halves of a link, and for a retry of its event.
fn link_id(event: &Event, other: &Identifier) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(format!("{}\0{}", event.message_id, other.as_str()).as_bytes()).to_be_bytes()
}

/// Admits events where they arrived, or where they may wait for the disk if they must.
pub async fn admit(edge: &Arc<Edge>, mut batch: Batch) -> Result<Outcome, Problem> {
    batch.at_hand = batch.in_memory(edge);
    if batch.at_hand { batch.admit(edge) } else { blocking(edge, move |edge| batch.admit(edge)).await }
}

/// Waits until everything admitted so far is durable, where that was asked for.
pub async fn acknowledge(edge: &Edge, ack: Ack) -> Result<(), Problem> {
    if ack == Ack::Durable {
        let started = Instant::now();
        edge.log.barrier().wait().await.map_err(|error| Problem::storage(&error))?;
        edge.metrics.durable(started.elapsed());
    }
    Ok(())
}

/// Runs what may block on a thread that may.
pub async fn blocking<T: Send + 'static>(
    edge: &Arc<Edge>,
    work: impl FnOnce(&Edge) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let edge = Arc::clone(edge);
    tokio::task::spawn_blocking(move || work(&edge)).await.map_err(|error| Problem::storage(&error))?
}

/// Runs what reads a whole history. Few at once: a caller that has gone leaves its place to the next.
pub async fn with_history<T: Send + 'static>(
    edge: &Arc<Edge>,
    work: impl FnOnce(&Edge) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let place = Arc::clone(&edge.histories).acquire_owned().await.map_err(|error| Problem::storage(&error))?;
    blocking(edge, move |edge| {
        let _place = place;
        work(edge)
    })
    .await
}

/// What is known of a call by its key, and by the site's token where it carries one.
pub fn receipt<'a>(
    edge: &'a Edge,
    role: Role,
    headers: &HeaderMap,
    token_in_body: Option<&str>,
) -> Result<Receipt<'a>, Problem> {
    let in_header = headers.get(tokens::HEADER).map(|token| token.to_str().unwrap_or_default());
    let speaker = match in_header.or(token_in_body) {
        _ if role > Role::Publishable => Speaker::Server,
        Some(token) => Speaker::Proven(edge.tokens.user(token, &edge.namespaces)?),
        None if edge.trust_browsers => Speaker::Server,
        None => Speaker::Browser,
    };
    Ok(Receipt {
        received_at: clock::now(),
        sent_at: None,
        speaker,
        kind: None,
        user_id: None,
        anonymous_id: None,
        context: None,
        namespaces: &edge.namespaces,
    })
}

/// Refuses more of something than a call may hold.
pub fn check_count(count: usize, most: usize, pointer: &str) -> Result<(), Problem> {
    if count <= most {
        return Ok(());
    }
    let detail = format!("{count} entries; a call holds at most {most}. Send the rest in another call");
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", detail).at(pointer))
}

/// The body as text.
pub fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes)
        .map_err(|error| Problem::bad_request("malformed_json", format!("the body is not UTF-8: {error}")))
}

/// Who calls by a key in the headers; an unknown one is refused before the body is read. A call without one may bring it in the body.
fn role_by_headers(edge: &Edge, headers: &HeaderMap) -> Result<Option<Role>, Problem> {
    presented_key(headers).map(|_| edge.keys.authenticate(headers, None)).transpose()
}

fn ack(query: Result<Query<IngestQuery>, axum::extract::rejection::QueryRejection>) -> Result<Ack, Problem> {
    query.map(|Query(query)| query.ack).map_err(|error| {
        Problem::bad_request(
            "query_invalid",
            format!("the query takes ack=durable or ack=applied: {}", error.body_text()),
        )
    })
}
