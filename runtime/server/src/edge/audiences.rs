//! Audiences: in which ones somebody is, and how many are in one.
//!
//! Nothing is stored of either. A count walks over the shards of this edge a page at a time and keeps its sums; between two pages it holds nothing that a release
//! would wait for. Where the catalogue changes meanwhile it begins anew, since its sums would be of neither.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use compact_str::CompactString;
use selvedge_core::condition::Evaluation;
use selvedge_core::config::nearest;
use selvedge_core::event::quoted;
use selvedge_core::experiment::lift::{Arm, Estimate, Z_95};
use selvedge_core::identity::{Identifier, SHARDS, ShardId};
use selvedge_core::view::Subject;
use selvedge_plugin_host::Invocation;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Edge;
use super::ingest::blocking;
use crate::clock;
use crate::error::Problem;
use crate::gate::Gate;
use crate::pipeline::{Known, instant, note_failure};

/// Identifiers that are looked at between two looks at what serves.
const PAGE: usize = 256;
/// How often a count begins anew before it gives up.
const TRIES: usize = 5;
/// Which identifiers are in a sample: the same ones each time, so that counts of one audience can be compared.
const SAMPLE_SEED: u64 = 0x005e_17ed_6e00_0a0d;

/// The audiences that somebody is in. The scores that conditions read must be in the subject; what only a request says reads as missing.
pub fn of(edge: &Edge, subject: Subject<'_>) -> Vec<CompactString> {
    if edge.catalog.audiences.is_empty() {
        return Vec::new();
    }
    let conditions = &edge.catalog_reads.bound().conditions;
    let evaluation = Evaluation::new(conditions, &edge.plugins.schema().definitions, subject);
    let is_in = edge.catalog.audiences.iter().filter(|audience| evaluation.met(audience.condition));
    is_in.map(|audience| audience.name.clone()).collect()
}

/// What `GET /admin/v1/audiences/{name}/count` is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountQuery {
    sample: Option<u64>,
}

/// How many are in an audience.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CountAnswer {
    audience: String,
    /// When the count began.
    at: String,
    /// Whether everybody was looked at.
    exact: bool,
    /// Persons in it, and between which numbers that is with 95% certainty.
    count: u64,
    low: u64,
    high: u64,
    standard_error: f64,
    /// Of all persons.
    share: Option<Range>,
    persons: u64,
    /// Identifiers that were looked at, of how many.
    looked: u64,
    of: u64,
    /// Shards that this edge holds, of how many there are.
    shards: usize,
    of_shards: u16,
    took_ms: u64,
}

#[derive(Serialize)]
struct Range {
    value: f64,
    low: f64,
    high: f64,
}

/// `GET /admin/v1/audiences/{name}/count?sample=N`.
pub async fn count(
    State(gate): State<Arc<Gate>>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<CountQuery>, QueryRejection>,
) -> Result<Json<CountAnswer>, Problem> {
    let invalid = |detail: String| Problem::bad_request("query_invalid", detail);
    let Path(name) = name.map_err(|error| invalid(error.body_text()))?;
    let Query(CountQuery { sample }) = query
        .map_err(|error| invalid(format!("the query takes sample=NUMBER of identifiers: {}", error.body_text())))?;
    if sample == Some(0) {
        return Err(invalid("sample=0 would look at nobody; leave it out to look at all".to_owned()));
    }
    let edge = gate.enter().await;
    let place = Arc::clone(&edge.audience_counts).acquire_owned().await.map_err(|error| Problem::storage(&error))?;
    drop(edge);
    for _ in 0..TRIES {
        if let Some(answer) = Walk::begin(&gate, &name, sample).await?.finish().await? {
            drop(place);
            return Ok(Json(answer));
        }
    }
    Err(Problem::unavailable("catalogue_changing", "the catalogue changed each time while this was counted; ask again"))
}

/// A count under way.
struct Walk<'w> {
    gate: &'w Gate,
    /// What it began by; it does not keep that from going.
    by: Weak<Edge>,
    name: &'w str,
    audience: usize,
    sample: Option<u64>,
    shards: Vec<ShardId>,
}

/// What was looked at so far.
#[derive(Clone, Copy, Default)]
struct Sums {
    looked: u64,
    persons: u64,
    members: u64,
}

impl<'w> Walk<'w> {
    async fn begin(gate: &'w Gate, name: &'w str, sample: Option<u64>) -> Result<Self, Problem> {
        let edge = gate.enter().await;
        let names = || edge.catalog.audiences.iter().map(|audience| audience.name.as_str());
        let audience = names().position(|of| of == name).ok_or_else(|| {
            let hint = match nearest(name, names()) {
                Some(nearest) => format!("did you mean {nearest:?}?"),
                None => format!("it has {}", quoted(&names().collect::<Vec<_>>().join(", "))),
            };
            Problem::new(
                StatusCode::NOT_FOUND,
                "unknown_audience",
                format!("the catalogue has no audience {}; {hint}", quoted(name)),
            )
        })?;
        let shards = ShardId::all().filter(|shard| edge.shards.holds(*shard)).collect();
        Ok(Self { gate, by: Arc::downgrade(&edge), name, audience, sample, shards })
    }

    /// What serves, as long as that is what it began by.
    async fn edge(&self) -> Option<Arc<Edge>> {
        let edge = self.gate.enter().await;
        std::ptr::eq(Weak::as_ptr(&self.by), Arc::as_ptr(&edge)).then_some(edge)
    }

    /// Counts; none where the catalogue changed meanwhile.
    async fn finish(self) -> Result<Option<CountAnswer>, Problem> {
        let (started, at) = (Instant::now(), clock::now());
        let mut all = None;
        if self.sample.is_some() {
            // Names only, to know of how many so many are to be looked at.
            let Some(counted) = self.walk(|_, page| Ok(Sums { looked: page.len() as u64, ..Sums::default() })).await?
            else {
                return Ok(None);
            };
            all = Some(counted.looked);
        }
        let threshold = match (self.sample, all) {
            (Some(sample), Some(all)) if sample < all => (sample as f64 / all as f64 * u64::MAX as f64) as u64,
            _ => u64::MAX,
        };
        let audience = self.audience;
        let looked = self.walk(move |edge, page| {
            let drawn = |identifier: &Identifier| {
                threshold == u64::MAX || xxh3_64_with_seed(identifier.as_str().as_bytes(), SAMPLE_SEED) <= threshold
            };
            look(edge, audience, page.into_iter().filter(drawn).collect())
        });
        let Some(sums) = looked.await? else { return Ok(None) };
        let of = if threshold == u64::MAX { sums.looked } else { all.unwrap_or(sums.looked) };
        let estimated = estimate(sums, of);
        let share = |range: Estimate| Range { value: range.value, low: range.low, high: range.high };
        Ok(Some(CountAnswer {
            audience: self.name.to_owned(),
            at: at.to_string(),
            exact: of == sums.looked,
            count: estimated.count.value.round() as u64,
            low: estimated.count.low.round() as u64,
            high: estimated.count.high.round() as u64,
            standard_error: estimated.standard_error,
            share: estimated.share.map(share),
            persons: estimated.persons.round() as u64,
            looked: sums.looked,
            of,
            shards: self.shards.len(),
            of_shards: SHARDS,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }))
    }

    /// Hands over the identifiers of persons, a page at a time, each once; none where what serves has changed.
    async fn walk(
        &self,
        take: impl Fn(&Edge, Vec<Identifier>) -> Result<Sums, Problem> + Clone + Send + 'static,
    ) -> Result<Option<Sums>, Problem> {
        let mut sums = Sums::default();
        for shard in self.shards.iter().copied() {
            let Some(edge) = self.edge().await else { return Ok(None) };
            // What is pending may move into the base while that is walked over: whoever is met there is not met again.
            let mut pending: BTreeSet<Identifier> = edge.shards.pending_identifiers(shard);
            drop(edge);
            let mut after: Option<Identifier> = None;
            loop {
                let Some(edge) = self.edge().await else { return Ok(None) };
                let (take, from) = (take.clone(), after.clone());
                let work = move |edge: &Edge| {
                    let mut page = edge.shards.next_identifiers(shard, from.as_ref(), PAGE)?;
                    let last = page.last().cloned();
                    if last.is_none() {
                        page = pending.iter().cloned().collect();
                    } else {
                        pending.retain(|identifier| page.binary_search(identifier).is_err());
                    }
                    page.retain(|identifier| !identifier.is_entity());
                    Ok((take(edge, page)?, pending, last))
                };
                let (more, left, last) = blocking(&edge, work).await?;
                drop(edge);
                sums.looked += more.looked;
                sums.persons += more.persons;
                sums.members += more.members;
                pending = left;
                if last.is_none() {
                    break;
                }
                after = last;
            }
        }
        Ok(Some(sums))
    }
}

/// Looks at persons, each at one of their identifiers.
fn look(edge: &Edge, audience: usize, identifiers: Vec<Identifier>) -> Result<Sums, Problem> {
    let conditions = &edge.catalog_reads.bound().conditions;
    let condition = edge.catalog.audiences[audience].condition;
    let scorers = edge.plugins.scorers_of(&conditions.scores_of([condition]));
    let definitions = &edge.plugins.schema().definitions;
    let mut sums = Sums { looked: identifiers.len() as u64, ..Sums::default() };
    for identifier in identifiers {
        let known = Known::load(edge, &identifier, None)?;
        let held = known.identifiers.iter().filter(|of| edge.holds(of));
        if held.min() != Some(&identifier) || known.fragment.is_empty() {
            continue;
        }
        sums.persons += 1;
        let moment =
            known.fragment.moment(definitions, &edge.trait_sources, instant(None, clock::now(), &known.fragment));
        let blank = known.subject(edge, &moment);
        let failed = &mut |plugin, error| note_failure(edge, plugin, "score", &error);
        let scores = Invocation::new(&edge.plugins).score(&scorers, &blank, failed);
        let evaluation = Evaluation::new(conditions, definitions, Subject { scores: &scores, ..blank });
        sums.members += u64::from(evaluation.met(condition));
    }
    Ok(sums)
}

/// What a sample says of all.
struct Estimated {
    count: Estimate,
    standard_error: f64,
    share: Option<Estimate>,
    persons: f64,
}

/// A person is in the sample where one certain identifier of theirs is, so each is as likely, whatever number of identifiers they have.
fn estimate(Sums { looked, persons, members }: Sums, of: u64) -> Estimated {
    let exact = |value: f64| Estimate { value, low: value, high: value };
    let share = Arm { exposed: persons, converted: members }.share(Z_95);
    if looked == of {
        let share = share.map(|share| exact(share.value));
        return Estimated { count: exact(members as f64), standard_error: 0.0, share, persons: persons as f64 };
    }
    let all = of as f64;
    let (n, part) = (looked.max(1) as f64, looked as f64 / all);
    let p = members as f64 / n;
    let count =
        Arm { exposed: looked, converted: members }.share(Z_95).unwrap_or(Estimate { value: 0.0, low: 0.0, high: 1.0 });
    let scaled = Estimate { value: count.value * all, low: count.low * all, high: count.high * all };
    let standard_error = all * (p * (1.0 - p) / n * (1.0 - part)).sqrt();
    Estimated { count: scaled, standard_error, share, persons: persons as f64 / n * all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_all_is_exact_and_one_of_a_sample_says_how_far_off_it_may_be() {
        let all = estimate(Sums { looked: 1_000, persons: 900, members: 90 }, 1_000);
        assert_eq!((all.count.value, all.count.low, all.count.high, all.standard_error), (90.0, 90.0, 90.0, 0.0));
        assert_eq!(all.share.map(|share| (share.value, share.low)), Some((0.1, 0.1)));
        let sample = estimate(Sums { looked: 1_000, persons: 900, members: 90 }, 100_000);
        assert_eq!((sample.count.value, sample.persons), (9_000.0, 90_000.0));
        assert!((sample.standard_error - 900.5).abs() < 0.5, "{}", sample.standard_error);
        assert!(sample.count.low > 7_300.0 && sample.count.high < 10_950.0, "{:?}", sample.count);
        let none = estimate(Sums { looked: 0, persons: 0, members: 0 }, 10);
        assert_eq!((none.count.low, none.count.high, none.share), (0.0, 10.0, None));
    }
}
