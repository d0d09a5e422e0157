//! A decision, read top to bottom in [`decide`]: events, view, scores, ranking, constraints, record, answer.
//!
//! Nothing between the view and the answer waits: an invocation of plugins lives on one thread from its first stage to its last.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::StatusCode;
use selvedge_core::catalog::Offer;
use selvedge_core::decision::{Judgement, SlotRequest, choose};
use selvedge_core::effects::Effects;
use selvedge_core::event::{Arrival, Event, Refusal};
use selvedge_core::fragment::{Bounds, EventRef, Folded, Fragment};
use selvedge_core::identity::{ENTITIES, Identifier};
use selvedge_core::links::check_union;
use selvedge_core::receipt::Receipt;
use selvedge_core::retracted::Retracted;
use selvedge_core::time::Moment;
use selvedge_core::value::Timestamp;
use selvedge_core::view::{NO_ENTITIES, Subject};
use selvedge_plugin_host::{CallError, Invocation, Told};
use selvedge_shard::{Observer, Profile, ShardError};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::{Decision, Head, Meta, SlotAnswer, Tail, explained, governed_answers, slot_answer};
use crate::auth::Role;
use crate::clock;
use crate::edge::ingest::{Ack, Batch, Outcome, Rejected, acknowledge, admit, blocking, with_history};
use crate::edge::{Edge, LogOutbox};
use crate::error::Problem;
use crate::ids::seed;
use crate::outbound;
use crate::policy;
use crate::records::Decided;

/// The channel where a call names none.
pub const WEB: &str = "web";

/// A decide call, checked.
pub struct Ask<'a> {
    pub visitor: Identifier,
    pub slots: Vec<SlotRequest>,
    pub context: Option<&'a RawValue>,
    pub channel: &'a str,
    pub events: Vec<&'a RawValue>,
    pub receipt: Receipt<'a>,
    /// Who asks.
    pub role: Role,
    pub explain: bool,
    pub ack: Ack,
    pub at: Option<Timestamp>,
    pub dry_run: bool,
    /// When the answer must be on its way; none where the caller would rather wait.
    pub deadline: Option<Instant>,
    /// The oldest data that the caller accepts, and what to do with older.
    pub max_staleness_ms: Option<u64>,
    pub on_stale: OnStale,
    pub started: Instant,
}

/// What to do with data that is older than the caller accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// Decide by it all the same; the answer says how old it is.
    #[default]
    Serve,
    /// Answer what the slots fall back to.
    Fallback,
    /// Answer 412.
    Fail,
}

/// Decides.
pub async fn decide<'e>(edge: &'e Arc<Edge>, ask: Ask<'_>, caught_up: Option<bool>) -> Result<Decision<'e>, Problem> {
    // 1. Events that came with the call count in it. They do not wait for the disk.
    let mut newest = Vec::new();
    let mut outcome = Outcome::default();
    if !ask.events.is_empty() && !ask.dry_run {
        let mut batch = Batch::default();
        for (index, raw) in ask.events.iter().enumerate() {
            batch.prepare(edge, index, raw.get(), &ask.receipt);
        }
        newest = ask.at.map_or(Vec::new(), |_| batch.newest());
        outcome = admit(edge, batch).await?;
    }

    // 2. The profile: in memory, or loaded within the deadline. Events of the call move the instant that was asked for.
    let rehearsal = Rehearsal::of(edge, &ask);
    newest.extend(rehearsal.newest());
    let known = match (ask.at, edge.shards.cached_profile(&ask.visitor)) {
        (None, Some(profile)) => Known::cached(edge, &profile),
        _ => None,
    };
    let was_loaded = known.is_none();
    let known = match known {
        Some(known) => Some(known),
        None => load(edge, &ask, newest).await?,
    };
    let known = match known {
        // It may fold a history again.
        Some(known) if !rehearsal.0.is_empty() => {
            let play = move |edge: &Edge| {
                let mut outcome = Outcome::default();
                Ok((rehearsal.play(edge, known, &mut outcome)?, outcome))
            };
            let (known, played) = with_history(edge, play).await?;
            outcome = played;
            Some(known)
        }
        other => other,
    };

    // Older than the caller accepts, or nothing to decide by at all: what the slots fall back to.
    let known = match known {
        Some(known) if !fresh_enough(edge, &ask, &known)? => None,
        other => other,
    };

    // 3. Score and rank, in one instance per plugin; then the host's own constraints.
    let decision_id = edge.ids.fresh();
    let now = clock::now();
    let instant = known.as_ref().map_or(ask.at.unwrap_or(now), |known| instant(known.at, now, &known.fragment));
    let seed = seed(&decision_id);
    let counted = !ask.dry_run && edge.counts_decisions(&ask.visitor);
    let mut channel = ask.channel;
    let stages: Vec<Told>;
    let slots: Vec<SlotAnswer<'e>> = match &known {
        Some(known) if edge.policy.governs(&known.fragment.offers) => {
            let mut governed = policy::decide(edge, &ask, known, instant, seed);
            channel = &edge.catalog.channels[governed.channel].name;
            stages = std::mem::take(&mut governed.stages);
            governed_answers(edge, &ask, &governed)
        }
        _ => {
            let ranked = known.as_ref().map(|known| rank(edge, &ask, known, instant, seed));
            let (rankings, told) = ranked.unwrap_or_default();
            stages = told;
            let judged = |request: usize| {
                let ranker = edge.catalog_reads.ranker(ask.slots[request].slot);
                rankings.iter().find(|(of, _)| *of == ranker)?.1.as_deref()
            };
            let choices = choose(&edge.catalog, &ask.slots, judged);
            let answers = ask.slots.iter().zip(&choices).enumerate().map(|(index, (request, choice))| {
                let explained = ask.explain.then(|| judged(index).unwrap_or_default());
                slot_answer(edge, *request, choice, (explained, ask.role != Role::Secret), &choices)
            });
            let slots: Vec<SlotAnswer<'e>> = answers.collect();
            if counted {
                let offers = slots.iter().flat_map(|slot| &slot.offers).filter_map(|offer| offer.id);
                record(edge, &ask, instant, offers, was_loaded);
            }
            slots
        }
    };

    // 4. Keep what somebody may ask about.
    let stages = explained::stages(edge, stages);
    let sent = ask.channel != WEB;
    let person = known.as_ref().map(|known| &*known.fragment);
    let valid_until = sent.then(|| outbound::valid_until(edge, person, channel, instant, &slots));
    if (sent || ask.explain || edge.records.samples(seed)) && !ask.dry_run {
        edge.records.keep(&Decided {
            id: &decision_id,
            visitor: &ask.visitor,
            identifiers: known.as_ref().map_or(std::slice::from_ref(&ask.visitor), |known| &known.identifiers),
            at: instant,
            channel,
            context: ask.context,
            counted: counted && known.is_some(),
            valid_until,
            explained: ask.explain,
            plugins: &edge.plugin_hashes,
            catalogue: edge.catalogue_in_force(),
            slots: &slots,
            stages: &stages,
        });
    }

    // 5. Answer, measure.
    if !ask.events.is_empty() && !ask.dry_run {
        acknowledge(edge, ask.ack).await?;
    }
    let fallbacks = slots.iter().filter(|slot| slot.fallback).count();
    let took = ask.started.elapsed();
    edge.metrics.decision(slots.len() - fallbacks, fallbacks, took);
    let meta = Meta {
        ack: Some(if ask.ack == Ack::Durable { "durable" } else { "applied" }),
        plugins: Some(&edge.plugin_hashes),
        caught_up,
        ..Meta::of(edge, seen_by(ask.role, &ask.visitor, known.as_ref()), took)
    };
    let valid_until = valid_until.map(|until| until.to_string());
    Ok(Decision {
        head: Head { decision_id, valid_until, visitor: None },
        slots,
        // Only the secret key opens them.
        stages: if ask.role == Role::Secret { stages } else { Bytes::new() },
        tail: Tail { events: outcome, meta },
    })
}

/// Counts offers that were chosen.
fn record<'o>(edge: &Edge, ask: &Ask<'_>, at: Timestamp, offers: impl Iterator<Item = &'o str>, was_loaded: bool) {
    let (decided, visitor) = (&edge.decided, &ask.visitor);
    if !was_loaded {
        return decided.record(visitor, ask.channel, at, offers);
    }
    let recorded = decided.record_at_once(visitor, ask.channel, at, offers, &edge.shards, &LogOutbox(&edge.log));
    if let Err(error) = recorded {
        tracing::error!(%error, shard = visitor.shard().0, "counts of a decision are lost");
    }
}

/// Whether to decide by what is known. What is asked for as of an instant is as old as that.
fn fresh_enough(edge: &Edge, ask: &Ask<'_>, known: &Known) -> Result<bool, Problem> {
    if !edge.holds(&ask.visitor) {
        return Ok(false);
    }
    let Some(most) = ask.max_staleness_ms.filter(|_| ask.at.is_none() && ask.on_stale != OnStale::Serve) else {
        return Ok(true);
    };
    let fresh = edge.freshness(&known.identifiers);
    if !fresh.is_over(most) {
        return Ok(true);
    }
    if ask.on_stale == OnStale::Fallback {
        return Ok(false);
    }
    let lag = fresh.lag_ms.map_or("of unknown age".to_owned(), |lag| format!("{lag} ms old"));
    let detail = format!(
        "what is known here is {lag} (state {}), over the {most} ms asked for; ask another edge, or accept more",
        fresh.state
    );
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, "too_stale", detail).at("/maxStalenessMs"))
}

/// The identifiers of which an answer gives versions: a browser learns nothing of those that its own is linked to.
fn seen_by<'k>(role: Role, visitor: &'k Identifier, known: Option<&'k Known>) -> &'k [Identifier] {
    match known {
        Some(known) if role > Role::Publishable => &known.identifiers,
        _ => std::slice::from_ref(visitor),
    }
}

/// What is known of a person.
pub struct Known {
    /// Their identifiers, the user first.
    pub identifiers: Vec<Identifier>,
    /// The fold of all their histories.
    pub fragment: Arc<Fragment>,
    /// What they belong to, as far as plugins ask.
    pub entities: [Option<Arc<Fragment>>; ENTITIES.len()],
    /// The instant up to which it was folded, if not now.
    pub at: Option<Timestamp>,
}

impl Known {
    /// What is known now, where all of it is in memory.
    fn cached(edge: &Edge, profile: &Profile) -> Option<Self> {
        let mut entities = NO_ENTITIES;
        for index in &edge.entities {
            if let Some(entity) = reference(edge, profile.fragment(), *index) {
                entities[*index] = Some(Arc::clone(&edge.shards.cached(&entity)?.fragment));
            }
        }
        let (identifiers, fragment) = (profile.identifiers().to_vec(), Arc::clone(profile.fragment()));
        Some(Self { identifiers, fragment, entities, at: None })
    }

    /// What is known of an identifier's person, now or as of an instant. May block on the disk.
    pub fn load(edge: &Edge, identifier: &Identifier, at: Option<Timestamp>) -> Result<Self, ShardError> {
        let profile = edge.shards.profile(identifier)?;
        let as_it_is = |fragment: &Fragment| {
            let Some(at) = at else { return true };
            let later = |last: Option<Timestamp>| last.is_some_and(|last| last > at);
            // The past is folded from the history, which waits for nothing.
            !fragment.is_backfilling() && !later(fragment.newest_event_at) && !fragment.offers.decided_after(at)
        };
        let fragment = match at {
            Some(at) if !as_it_is(profile.fragment()) => Arc::new(edge.shards.profile_as_of(identifier, at)?),
            _ => Arc::clone(profile.fragment()),
        };
        let mut entities = NO_ENTITIES;
        for index in &edge.entities {
            if let Some(entity) = reference(edge, &fragment, *index) {
                let view = edge.shards.load(&entity)?;
                entities[*index] = Some(match at {
                    Some(at) if !as_it_is(&view.fragment) => Arc::new(edge.shards.as_of(&entity, at)?),
                    _ => Arc::clone(&view.fragment),
                });
            }
        }
        Ok(Self { identifiers: profile.identifiers().to_vec(), fragment, entities, at })
    }

    /// Everything that stages may read at an instant, but for what a request adds.
    pub fn subject<'k>(&'k self, edge: &'k Edge, moment: &'k Moment) -> Subject<'k> {
        Subject {
            fragment: &self.fragment,
            entities: &self.entities,
            trait_sources: &edge.trait_sources,
            scores: &[],
            context: None,
            channel: "",
            moment,
            seed: 0,
        }
    }
}

/// The entity of a kind that a person belongs to: the one that a trait of that name says, unless only a browser says so.
pub fn reference(edge: &Edge, fragment: &Fragment, index: usize) -> Option<Identifier> {
    let word = fragment.traits.get_proven(ENTITIES[index], &edge.trait_sources)?;
    edge.namespaces.identifier(ENTITIES[index], &word.text()).ok()
}

/// The instant at which a state is read: as asked, else now, but never before what is already known (clocks differ a little).
pub fn instant(at: Option<Timestamp>, now: Timestamp, fragment: &Fragment) -> Timestamp {
    at.unwrap_or_else(|| fragment.newest_event_at.map_or(now, |newest| newest.max(now)))
}

/// Says that a plugin gave no answer.
pub fn note_failure(edge: &Edge, plugin: usize, stage: &'static str, error: &CallError) {
    let plugin = edge.plugins.plugins()[plugin].name();
    tracing::warn!(plugin, stage, %error, "a plugin gave no answer");
    edge.metrics.plugin_failed(plugin, stage, error.kind());
}

/// What is known, or none where the deadline came first. `newest` are the events of the call, which move the instant.
async fn load(edge: &Arc<Edge>, ask: &Ask<'_>, newest: Vec<(Identifier, Timestamp)>) -> Result<Option<Known>, Problem> {
    let (visitor, at) = (ask.visitor.clone(), ask.at);
    let work = move |edge: &Edge| {
        let mut at = at;
        if at.is_some() && !newest.is_empty() {
            let profile = edge.shards.profile(&visitor)?;
            let of_person = newest.iter().filter(|(of, _)| profile.identifiers().contains(of));
            at = at.max(of_person.map(|(_, at)| *at).max());
        }
        Ok(Known::load(edge, &visitor, at)?)
    };
    let loading = async { if at.is_some() { with_history(edge, work).await } else { blocking(edge, work).await } };
    match ask.deadline {
        None => loading.await.map(Some),
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), loading).await {
            Ok(known) => known.map(Some),
            Err(_) => Ok(None),
        },
    }
}

/// A dry run's events: whom they are about, their effects, or why they are refused.
struct Rehearsal(Vec<Result<(Arrival, Effects), Refusal>>);

impl Rehearsal {
    fn of(edge: &Edge, ask: &Ask<'_>) -> Self {
        let events = if ask.dry_run { ask.events.as_slice() } else { &[] };
        let observe = |raw: &&RawValue| {
            let arrival = Event::parse(raw.get(), &ask.receipt, &mut || edge.ids.fresh())?;
            let effects = edge.observer.observe_fresh(&arrival.event)?;
            Ok((arrival, effects))
        };
        Self(events.iter().map(observe).collect())
    }

    fn newest(&self) -> impl Iterator<Item = (Identifier, Timestamp)> {
        self.0.iter().flatten().map(|(arrival, _)| (arrival.fragment.clone(), arrival.event.at))
    }

    /// Links and folds them on a copy of the state that nobody else sees.
    fn play(self, edge: &Edge, known: Known, outcome: &mut Outcome) -> Result<Known, Problem> {
        if self.0.is_empty() {
            return Ok(known);
        }
        let mut played = Known { fragment: Arc::clone(&known.fragment), ..known };
        let mut fragment = Fragment::clone(&played.fragment);
        // Of one fragment, where there is only one; the events of others may have the same ids.
        fragment.retracted = Retracted::default();
        let mut told: HashMap<Identifier, Vec<(EventRef, Effects)>> = HashMap::new();
        let mut again = false;
        let mut bounds: HashMap<Identifier, Bounds> = HashMap::new();
        let mut seen = Vec::new();
        for (index, event) in self.0.into_iter().enumerate() {
            let (arrival, effects) = match event {
                Ok(event) => event,
                Err(refusal) => {
                    outcome.reject(index, None, refusal);
                    continue;
                }
            };
            let id = (arrival.fragment.clone(), arrival.event.id_hash());
            let fresh = !seen.contains(&id) && !edge.shards.knows(&id.0, id.1)?;
            if fresh {
                let of_fragment = match bounds.entry(id.0.clone()) {
                    Entry::Occupied(bounds) => bounds.into_mut(),
                    Entry::Vacant(gap) => gap.insert(Bounds::of(&edge.shards.load(&id.0)?.fragment)),
                };
                if let Err(refusal) = of_fragment.admit(arrival.event.at, &effects) {
                    outcome.reject(index, None, refusal);
                    continue;
                }
                outcome.accepted += 1;
            } else {
                outcome.duplicates += 1;
            }
            if arrival.named().any(|named| played.identifiers.contains(named)) {
                for other in arrival.named() {
                    if !played.identifiers.contains(other) {
                        let joining = Known::load(edge, other, played.at)?;
                        match check_union(&edge.namespaces, &played.identifiers, &joining.identifiers) {
                            Ok(()) => {
                                fragment.join(edge.observer.definitions(), &joining.fragment);
                                played.identifiers.extend(joining.identifiers);
                            }
                            Err(error) => {
                                let refusal = Refusal::new(error.code(), "", error.to_string());
                                outcome.links_refused.push(Rejected::new(index, None, refusal));
                            }
                        }
                    }
                }
            }
            if fresh {
                let event = EventRef::from(&arrival.event);
                let own = Arc::clone(&edge.shards.load(&id.0)?.fragment);
                again |= effects.retracts.is_some() || own.retracted.holds(&id.1) || own.mart.covers(event.at);
                if played.identifiers.contains(&arrival.fragment) {
                    let folded = fragment.apply_event(edge.observer.definitions(), &event, &effects);
                    again |= folded == Folded::Refold;
                }
                told.entry(arrival.fragment).or_default().push((event, effects));
            }
            seen.push(id);
        }
        if again {
            // Something was taken back, or comes too late: only the histories tell what there is without it.
            let whole = |of| edge.shards.as_of_with(of, played.at, told.remove(of).unwrap_or_default());
            let parts = played.identifiers.iter().map(whole).collect::<Result<Vec<_>, _>>()?;
            fragment = edge.shards.join(parts.iter());
        }
        played.fragment = Arc::new(fragment);
        Ok(played)
    }
}

/// What each plugin that ranks for any of the slots judges, once for all of its slots; none where ranking failed or the deadline came first.
type Rankings = Vec<(Option<usize>, Option<Vec<Judgement>>)>;

fn rank(edge: &Edge, ask: &Ask<'_>, known: &Known, instant: Timestamp, seed: u64) -> (Rankings, Vec<Told>) {
    let schema = edge.plugins.schema();
    let moment = known.fragment.moment(&schema.definitions, &edge.trait_sources, instant);
    let blank = Subject { context: ask.context, channel: ask.channel, seed, ..known.subject(edge, &moment) };
    let mut invocation = if ask.explain { Invocation::telling(&edge.plugins) } else { Invocation::new(&edge.plugins) };
    let mut rankings: Rankings = Vec::with_capacity(1);
    for request in &ask.slots {
        let ranker = edge.catalog_reads.ranker(request.slot);
        if rankings.iter().any(|(of, _)| *of == ranker) {
            continue;
        }
        let (mut candidates, mut slot) = candidates(edge, &ask.slots, ranker);
        if edge.switches.any() {
            candidates.to_mut().retain(|offer| !edge.switches.is_stopped(*offer));
            slot = None;
        }
        let late = ask.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let ranking = match ranker {
            _ if late => None,
            // Without a ranking plugin the catalogue's own value decides.
            None => Some(candidates.iter().map(|offer| by_value(*offer, &edge.catalog.offers[*offer])).collect()),
            Some(plugin) => {
                let failed = &mut |plugin, error| note_failure(edge, plugin, "score", &error);
                let scores = invocation.score(edge.plugins.scores_to_rank(plugin), &blank, failed);
                let subject = Subject { scores: &scores, ..blank };
                let ranked = invocation.rank(plugin, &edge.catalog_reads, &candidates, slot, &subject);
                ranked.inspect_err(|error| note_failure(edge, plugin, "rank", error)).ok()
            }
        };
        rankings.push((ranker, ranking));
    }
    (rankings, invocation.told())
}

/// The candidates of all requested slots that one plugin ranks for, each once, ascending; and the slot, where they are those of one.
fn candidates<'e>(edge: &'e Edge, slots: &[SlotRequest], ranker: Option<usize>) -> (Cow<'e, [usize]>, Option<usize>) {
    let mut of_ranker = slots.iter().filter(|request| edge.catalog_reads.ranker(request.slot) == ranker);
    let of_slot = |request: &SlotRequest| edge.catalog.slots[request.slot].candidates.as_slice();
    let first = of_ranker.next();
    let mut others = of_ranker.filter(|request| first.is_none_or(|first| first.slot != request.slot)).peekable();
    if others.peek().is_none() {
        return (Cow::Borrowed(first.map_or(&[], of_slot)), first.map(|first| first.slot));
    }
    let mut candidates: Vec<usize> = first.into_iter().chain(others).flat_map(of_slot).copied().collect();
    candidates.sort_unstable();
    candidates.dedup();
    (Cow::Owned(candidates), None)
}

fn by_value(index: usize, offer: &Offer) -> Judgement {
    Judgement { offer: index, priority: offer.value.to_f64(), eligible: true, reason: None }
}
