//! Who is who: the identifiers of a person, linking and unlinking by trusted systems.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode};
use selvedge_core::event::{Refusal, quoted};
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::limits;
use selvedge_core::links::{Group, How, Link, LinkError, Word, ordered};
use selvedge_core::value::Timestamp;
use selvedge_shard::Unlinked;
use serde::{Deserialize, Serialize};

use super::ingest::{Ack, Rejected, acknowledge, blocking, check_count, utf8};
use super::profile::{Aggregates, aggregates, named, not_found};
use super::{Answered, Edge, LogOutbox, answered, parse_body, read_body};
use crate::auth::Role;
use crate::clock;
use crate::error::Problem;
use crate::gate::Serving;
use crate::pipeline;

/// The answer of `GET /v1/profiles/{id}/identities`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentitiesAnswer {
    id: Identifier,
    identifiers: Vec<IdentifierAnswer>,
    links: Vec<LinkAnswer>,
    /// Links that would break a bound, and therefore do not hold.
    left_out: Vec<LinkAnswer>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IdentifierAnswer {
    id: Identifier,
    events: u64,
    first_event_at: Option<String>,
    last_event_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LinkAnswer {
    identifiers: [Identifier; 2],
    linked_at: String,
    how: How,
}

impl From<Link> for LinkAnswer {
    fn from(link: Link) -> Self {
        Self { identifiers: link.pair.into(), linked_at: link.word.at.to_string(), how: link.word.how }
    }
}

/// `GET /v1/profiles/{namespace}:{id}/identities`.
pub async fn identities(
    Serving(edge): Serving,
    identifier: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<IdentitiesAnswer>, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let identifier = named(&edge, identifier)?;
        blocking(&edge, move |edge| read(edge, identifier)).await.map(Json)
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

fn read(edge: &Edge, id: Identifier) -> Result<IdentitiesAnswer, Problem> {
    let Group { identifiers, links, left_out } = edge.shards.group(&id)?;
    let fragments = identifiers.iter().map(|identifier| Ok((identifier, edge.shards.load(identifier)?)));
    let fragments = fragments.collect::<Result<Vec<_>, Problem>>()?;
    if fragments.iter().all(|(_, view)| view.fragment.is_empty()) {
        return Err(not_found(&id, None));
    }
    let answer = |(identifier, view): &(&Identifier, Arc<selvedge_core::view::View>)| IdentifierAnswer {
        id: (*identifier).clone(),
        events: view.fragment.events,
        first_event_at: view.fragment.oldest_event_at.map(|at| at.to_string()),
        last_event_at: view.fragment.newest_event_at.map(|at| at.to_string()),
    };
    Ok(IdentitiesAnswer {
        id,
        identifiers: fragments.iter().map(answer).collect(),
        links: links.into_iter().map(LinkAnswer::from).collect(),
        left_out: left_out.into_iter().map(LinkAnswer::from).collect(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LinkBody {
    /// Two identifiers.
    identifiers: Vec<String>,
    #[serde(default)]
    dry_run: bool,
}

/// The answer of a link.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkedAnswer {
    linked: bool,
    /// Whether they were not linked before.
    changed: bool,
    dry_run: bool,
    profile: ProfileSummary,
}

/// A profile as it would be, or is.
#[derive(Serialize)]
struct ProfileSummary {
    identifiers: Vec<Identifier>,
    events: u64,
    aggregates: Aggregates,
}

/// `POST /v1/identities/link`.
pub async fn link(Serving(edge): Serving, headers: HeaderMap, body: Body) -> Result<Answered, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let bytes = read_body(&edge, body).await?;
        let body: LinkBody = parse_body(utf8(&bytes)?)?;
        let [one, other] = two(&edge, &body.identifiers)?;
        let dry_run = body.dry_run;
        let written = [one.shard(), other.shard()];
        let answer = blocking(&edge, move |edge| make_link(edge, &one, &other, dry_run)).await?;
        acknowledge(&edge, Ack::Durable).await?;
        answered(&edge, answer, if dry_run { &[] } else { &written })
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

fn make_link(edge: &Edge, one: &Identifier, other: &Identifier, dry_run: bool) -> Result<LinkedAnswer, Problem> {
    edge.takes(one).and_then(|()| edge.takes(other)).map_err(|refusal| Problem::refused(&refusal))?;
    let changed = if dry_run {
        edge.shards.would_link(one, other)?
    } else {
        edge.shards.link(one, other, word(edge, true), &LogOutbox(&edge.log))?
    };
    let changed = changed.map_err(|error| refused(edge, &error))?;
    let profile = if dry_run {
        let mut members = edge.shards.group(one)?.identifiers;
        let joining = edge.shards.group(other)?.identifiers;
        members.extend(joining.into_iter().filter(|identifier| !members.contains(identifier)).collect::<Vec<_>>());
        summary(edge, members)?
    } else {
        summary(edge, edge.shards.group(one)?.identifiers)?
    };
    if changed && !dry_run {
        edge.metrics.link_made();
    }
    Ok(LinkedAnswer { linked: true, changed, dry_run, profile })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinksBody {
    /// Pairs of identifiers.
    links: Vec<Vec<String>>,
}

/// The answer of many links.
#[derive(Default, Serialize)]
pub struct LinksAnswer {
    success: bool,
    accepted: usize,
    /// Pairs that were linked before.
    unchanged: usize,
    rejected: Vec<Rejected>,
    /// The shards of what was accepted.
    #[serde(skip)]
    written: Vec<ShardId>,
}

/// `POST /v1/identities/links`.
pub async fn link_all(Serving(edge): Serving, headers: HeaderMap, body: Body) -> Result<Answered, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let bytes = read_body(&edge, body).await?;
        let LinksBody { links } = parse_body(utf8(&bytes)?)?;
        check_count(links.len(), limits::BATCH_EVENTS_MAX, "/links")?;
        let work = move |edge: &Edge| {
            let mut answer = LinksAnswer { success: true, ..LinksAnswer::default() };
            for (index, pair) in links.iter().enumerate() {
                match link_pair(edge, pair)? {
                    Ok(Some(shards)) => {
                        answer.accepted += 1;
                        answer.written.extend(shards);
                    }
                    Ok(None) => answer.unchanged += 1,
                    Err(refusal) => {
                        edge.dead_letters.keep(clock::now(), None, &refusal);
                        answer.rejected.push(Rejected::new(index, None, refusal));
                    }
                }
            }
            answer.written.sort_unstable();
            answer.written.dedup();
            Ok(answer)
        };
        let answer = blocking(&edge, work).await?;
        acknowledge(&edge, Ack::Durable).await?;
        answered(&edge, &answer, &answer.written)
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// Links two identifiers of many. Gives their shards, if they were not linked before.
fn link_pair(edge: &Edge, pair: &[String]) -> Result<Result<Option<[ShardId; 2]>, Refusal>, Problem> {
    let [one, other] = pair else {
        let detail = format!("holds {}; send two, such as [\"user:42\", \"anonymous:a-1\"]", pair.len());
        return Ok(Err(Refusal::new("identifiers_invalid", "", detail)));
    };
    let parse = |text: &str, pointer: &str| {
        let parsed = edge.namespaces.parse(text);
        parsed.map_err(|error| Refusal::new(error.code(), pointer, format!("{} {error}", quoted(text))))
    };
    let (one, other) = match (parse(one, "/0"), parse(other, "/1")) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(refusal), _) | (_, Err(refusal)) => return Ok(Err(refusal)),
    };
    if let Err(refusal) = edge.takes(&one).and_then(|()| edge.takes(&other)) {
        return Ok(Err(refusal));
    }
    Ok(match edge.shards.link(&one, &other, word(edge, true), &LogOutbox(&edge.log))? {
        Ok(changed) => {
            if changed {
                edge.metrics.link_made();
            }
            Ok(changed.then(|| [one.shard(), other.shard()]))
        }
        Err(error) => {
            edge.metrics.link_refused(error.code());
            Err(Refusal::new(error.code(), "", error.to_string()))
        }
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UnlinkBody {
    /// Two identifiers that are linked to each other.
    #[serde(default)]
    identifiers: Vec<String>,
    /// Or one, to be unlinked from all.
    identifier: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

/// The answer of an unlink.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnlinkedAnswer {
    /// How many links were taken back.
    unlinked: usize,
    dry_run: bool,
    /// The profile as it was.
    before: ProfileSummary,
    /// What it falls into.
    after: Vec<ProfileSummary>,
}

/// `POST /v1/identities/unlink`.
pub async fn unlink(Serving(edge): Serving, headers: HeaderMap, body: Body) -> Result<Answered, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let bytes = read_body(&edge, body).await?;
        let body: UnlinkBody = parse_body(utf8(&bytes)?)?;
        let (one, other) = match &body.identifier {
            Some(identifier) if body.identifiers.is_empty() => (parse(&edge, identifier, "/identifier")?, None),
            Some(_) => {
                let detail = "send identifiers, two that are linked, or identifier, one to be unlinked from all";
                return Err(Problem::bad_request("identifiers_invalid", detail).at("/identifier"));
            }
            None => {
                let [one, other] = two(&edge, &body.identifiers)?;
                (one, Some(other))
            }
        };
        let dry_run = body.dry_run;
        let answer = blocking(&edge, move |edge| take_back(edge, &one, other.as_ref(), dry_run)).await?;
        acknowledge(&edge, Ack::Durable).await?;
        let written: Vec<ShardId> = answer.before.identifiers.iter().map(Identifier::shard).collect();
        answered(&edge, answer, if dry_run { &[] } else { &written })
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

fn take_back(
    edge: &Edge,
    one: &Identifier,
    other: Option<&Identifier>,
    dry_run: bool,
) -> Result<UnlinkedAnswer, Problem> {
    let group = edge.shards.group(one)?;
    let of_pair = |link: &&Link| match other {
        Some(other) => link.pair == ordered(one, other),
        None => link.pair.0 == *one || link.pair.1 == *one,
    };
    let pairs: Vec<_> =
        group.links.iter().chain(&group.left_out).filter(of_pair).map(|link| link.pair.clone()).collect();
    if pairs.is_empty() {
        let direct: Vec<&str> = group.links.iter().filter_map(|link| neighbour(link, one)).collect();
        let known = if direct.is_empty() { "nobody".to_owned() } else { direct.join(", ") };
        let detail = format!("there is no such link; {one} is linked to {known}");
        return Err(Problem::new(StatusCode::CONFLICT, "not_linked", detail).at("/identifiers"));
    }
    let before = summary(edge, group.identifiers.clone())?;
    if !dry_run {
        for (one, other) in &pairs {
            edge.takes(one).and_then(|()| edge.takes(other)).map_err(|refusal| Problem::refused(&refusal))?;
            // Somebody else may have been faster.
            let (Unlinked::Done | Unlinked::WereNot) =
                edge.shards.unlink(one, other, word(edge, false), &LogOutbox(&edge.log))?;
        }
    }
    let mut after: Vec<Vec<Identifier>> = Vec::new();
    for identifier in &group.identifiers {
        if after.iter().all(|part| !part.contains(identifier)) {
            after.push(edge.shards.group_without(identifier, &pairs)?.identifiers);
        }
    }
    let after = after.into_iter().map(|part| summary(edge, part)).collect::<Result<_, _>>()?;
    Ok(UnlinkedAnswer { unlinked: pairs.len(), dry_run, before, after })
}

fn neighbour<'l>(link: &'l Link, of: &Identifier) -> Option<&'l str> {
    match &link.pair {
        (one, other) if one == of => Some(other.as_str()),
        (one, other) if other == of => Some(one.as_str()),
        _ => None,
    }
}

/// A word of a trusted system, said now.
fn word(edge: &Edge, linked: bool) -> Word {
    let id = xxhash_rust::xxh3::xxh3_128(edge.ids.fresh().as_bytes()).to_be_bytes();
    Word { at: clock::now(), linked, id, how: How::Api }
}

fn summary(edge: &Edge, identifiers: Vec<Identifier>) -> Result<ProfileSummary, Problem> {
    let views = identifiers.iter().map(|identifier| edge.shards.load(identifier)).collect::<Result<Vec<_>, _>>()?;
    let fragment: Fragment = edge.shards.join(views.iter().map(|view| &*view.fragment));
    let instant: Timestamp = pipeline::instant(None, clock::now(), &fragment);
    Ok(ProfileSummary { identifiers, events: fragment.events, aggregates: aggregates(edge, &fragment, instant) })
}

fn two(edge: &Edge, identifiers: &[String]) -> Result<[Identifier; 2], Problem> {
    let [one, other] = identifiers else {
        let detail = format!("holds {}; send two, such as [\"user:42\", \"anonymous:a-1\"]", identifiers.len());
        return Err(Problem::bad_request("identifiers_invalid", detail).at("/identifiers"));
    };
    Ok([parse(edge, one, "/identifiers/0")?, parse(edge, other, "/identifiers/1")?])
}

fn parse(edge: &Edge, text: &str, pointer: &str) -> Result<Identifier, Problem> {
    let parsed = edge.namespaces.parse(text);
    parsed.map_err(|error| Problem::bad_request(error.code(), format!("{} {error}", quoted(text))).at(pointer))
}

fn refused(edge: &Edge, error: &LinkError) -> Problem {
    edge.metrics.link_refused(error.code());
    let status = match error {
        LinkError::Itself(_) | LinkError::NoPerson(_) => StatusCode::BAD_REQUEST,
        LinkError::TwoUsers(..) | LinkError::TooMany(..) | LinkError::TooManyOf(..) => StatusCode::CONFLICT,
    };
    Problem::new(status, error.code(), error.to_string()).at("/identifiers")
}
