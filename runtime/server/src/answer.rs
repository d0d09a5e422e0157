//! Answers of decide calls: what a slot shows, what is said of candidates, and about the answer itself.
//!
//! Knows how a decision is told, not how it is made.

pub mod explained;

use std::time::Duration;

use axum::body::Bytes;
use compact_str::CompactString;
use selvedge_core::catalog::{Fallback, Offer, Slot};
use selvedge_core::decision::{Judgement, SlotChoice, SlotRequest};
use selvedge_core::identity::{Identifier, ShardId};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use self::explained::{Candidate, Candidates, CandidatesWriter};
use crate::auth::Role;
use crate::edge::ingest::Outcome;
use crate::edge::profile::version;
use crate::edge::{ANSWER_BYTES, Edge, Freshness};
use crate::pipeline::Ask;
use crate::policy::Governed;

/// The answer of a decide call.
pub struct Decision<'e> {
    pub head: Head<'e>,
    pub slots: Vec<SlotAnswer<'e>>,
    /// What plugins were given and what came of it, as a JSON array; in answers to `explain`.
    pub stages: Bytes,
    pub tail: Tail<'e>,
}

/// What an answer begins with.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head<'e> {
    pub decision_id: CompactString,
    /// Until when it may be sent, where it is to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitor: Option<Named<'e>>,
}

/// What an answer ends with.
#[derive(Serialize)]
pub struct Tail<'e> {
    pub events: Outcome,
    pub meta: Meta<'e>,
}

/// Whom a decision is for, where the answer says it.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Named<'e> {
    /// The id that this edge gave a visitor who had none.
    #[serde(rename_all = "camelCase")]
    Issued { anonymous_id: String },
    /// As the call has it.
    Asked(&'e RawValue),
}

impl<'e> Decision<'e> {
    /// Says for whom of a call's visitors it is.
    pub fn name(&mut self, visitor: &'e RawValue) {
        self.head.visitor = Some(Named::Asked(visitor));
    }

    /// The shards that the call's events were written to.
    pub fn written(&self) -> &[ShardId] {
        &self.tail.events.written
    }

    /// Says that it was made by the draft of the catalogue.
    pub fn preview(&mut self, of_draft: bool) {
        self.tail.meta.catalogue = of_draft.then_some("draft");
    }

    /// Tells the visitor the id that was issued.
    pub fn issue(&mut self, anonymous_id: Option<&str>) {
        self.head.visitor = anonymous_id.map(|id| Named::Issued { anonymous_id: id.to_owned() });
    }

    /// Bytes that it takes as JSON, about.
    pub fn bytes(&self) -> usize {
        let candidates: usize = self.slots.iter().map(|slot| slot.candidates.told().len()).sum();
        ANSWER_BYTES + candidates + self.stages.len()
    }

    /// Writes it as JSON.
    pub fn write(&self, json: &mut Vec<u8>) -> serde_json::Result<()> {
        open(json, &self.head)?;
        json.extend_from_slice(b",\"slots\":[");
        for (index, slot) in self.slots.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            open(json, slot)?;
            if !slot.candidates.told().is_empty() {
                json.extend_from_slice(b",\"candidates\":");
                json.extend_from_slice(slot.candidates.told());
            }
            json.push(b'}');
        }
        json.push(b']');
        if !self.stages.is_empty() {
            json.extend_from_slice(b",\"stages\":");
            json.extend_from_slice(&self.stages);
        }
        // Its members follow those before.
        let tail = json.len();
        serde_json::to_writer(&mut *json, &self.tail)?;
        json[tail] = b',';
        Ok(())
    }
}

/// Writes an object with members as JSON, but for its end: others may follow.
pub fn open(json: &mut Vec<u8>, object: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *json, object)?;
    json.pop();
    Ok(())
}

/// What a slot shows.
#[derive(Serialize)]
pub struct SlotAnswer<'e> {
    pub slot: &'e str,
    /// Whether nothing could be chosen.
    pub fallback: bool,
    pub offers: Vec<OfferAnswer<'e>>,
    /// Written behind the rest.
    #[serde(skip)]
    pub candidates: Candidates,
}

/// An offer in a slot, or what the slot falls back to.
#[derive(Serialize)]
pub struct OfferAnswer<'e> {
    pub id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<f64>,
    pub rank: usize,
    pub category: Option<&'e str>,
    pub content: &'e RawValue,
    /// A list of one, or of none.
    #[serde(rename = "reasons", serialize_with = "as_list")]
    pub reason: Option<&'e str>,
    /// Which of the offer's contents this is, where it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<&'e str>,
}

fn as_list<S: Serializer>(reason: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    reason.as_slice().serialize(serializer)
}

/// About an answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta<'e> {
    pub version: CompactString,
    pub state: &'static str,
    pub lag_ms: Option<u64>,
    /// Whether it has what the call's token names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_up: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<&'static str>,
    pub elapsed_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins: Option<&'e RawValue>,
    /// Where it is not the one in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<&'static str>,
}

impl Meta<'_> {
    /// About what is known of these identifiers.
    pub fn of(edge: &Edge, identifiers: &[Identifier], took: Duration) -> Self {
        let Freshness { state, lag_ms } = edge.freshness(identifiers);
        let (version, elapsed_us) = (version(edge, identifiers), micros(took));
        Self { version, state, lag_ms, caught_up: None, ack: None, elapsed_us, plugins: None, catalogue: None }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A slot as it was filled without a policy.
pub fn slot_answer<'e>(
    edge: &'e Edge,
    request: SlotRequest,
    choice: &SlotChoice,
    (explained, veils): (Option<&[Judgement]>, bool),
    choices: &[SlotChoice],
) -> SlotAnswer<'e> {
    let slot = &edge.catalog.slots[request.slot];
    let ranker = edge.catalog_reads.ranker(request.slot).map(|index| &edge.plugins.plugins()[index]);
    let reason = |judged: &Judgement| Some(ranker?.reasons().get(judged.reason? as usize)?.as_str());
    let mut offers: Vec<OfferAnswer<'e>> = Vec::with_capacity(choice.offers.len().max(1));
    for (index, judged) in choice.offers.iter().enumerate() {
        let offer = &edge.catalog.offers[judged.offer];
        offers.push(offer_answer(offer, (slot.channel, None), Some(judged.priority), index + 1, reason(judged)));
    }
    let fallback = offers.is_empty();
    if fallback {
        offers.extend(fallback_answer(edge, slot, slot.channel));
    }
    let outcome = |judged: &Judgement| {
        let chosen_in = |choice: &SlotChoice| choice.offers.iter().any(|chosen| chosen.offer == judged.offer);
        match () {
            () if !judged.eligible => "left-out",
            () if chosen_in(choice) => "chosen",
            () if choices.iter().any(chosen_in) => "in-another-slot",
            () => "outranked",
        }
    };
    let id = |offer: usize| edge.policy.gates.id(offer);
    let stopped = slot.candidates.iter().filter(|offer| explained.is_some() && edge.switches.is_stopped(**offer));
    let of_slot =
        explained.unwrap_or_default().iter().filter(|judged| slot.candidates.binary_search(&judged.offer).is_ok());
    let mut candidates = CandidatesWriter::new(explained.map_or(0, <[_]>::len), veils);
    for judged in of_slot {
        let (priority, reason) = (Some(judged.priority), reason(judged));
        candidates.write(&Candidate { priority, reason, ..Candidate::new(id(judged.offer), outcome(judged)) });
    }
    stopped.for_each(|offer| candidates.write(&Candidate::new(id(*offer), "stopped")));
    SlotAnswer { slot: &slot.name, fallback, offers, candidates: candidates.end() }
}

fn offer_answer<'e>(
    offer: &'e Offer,
    (channel, variant): (usize, Option<usize>),
    priority: Option<f64>,
    rank: usize,
    reason: Option<&'e str>,
) -> OfferAnswer<'e> {
    OfferAnswer {
        id: Some(&offer.id),
        priority,
        rank,
        category: offer.category.as_deref(),
        // Whoever may stand in a slot has content for its channel; a catalogue in which that is not so is refused.
        content: offer.content(channel, variant).unwrap_or(RawValue::NULL),
        reason,
        variant: variant.and_then(|variant| offer.variants.get(variant)).map(|variant| variant.id.as_str()),
    }
}

/// What a slot falls back to; none where that is stopped, since nothing else is known to fit there.
fn fallback_answer<'e>(edge: &'e Edge, slot: &'e Slot, channel: usize) -> Option<OfferAnswer<'e>> {
    match &slot.fallback {
        Fallback::Offer(index) if edge.switches.is_stopped(*index) => None,
        Fallback::Offer(index) => {
            Some(offer_answer(&edge.catalog.offers[*index], (channel, None), None, 1, Some("fallback")))
        }
        Fallback::Content(content) => Some(OfferAnswer {
            id: None,
            priority: None,
            rank: 1,
            category: None,
            content,
            reason: Some("fallback"),
            variant: None,
        }),
    }
}

/// The slots as a policy filled them.
pub fn governed_answers<'e>(edge: &'e Edge, ask: &Ask<'_>, governed: &Governed) -> Vec<SlotAnswer<'e>> {
    let answers = ask.slots.iter().zip(&governed.choices).enumerate().map(|(request, (asked, choice))| {
        let slot = &edge.catalog.slots[asked.slot];
        let ranker = edge.catalog_reads.ranker(asked.slot).map(|index| &edge.plugins.plugins()[index]);
        let reason = |judged: &Judgement| Some(ranker?.reasons().get(judged.reason? as usize)?.as_str());
        let mut offers: Vec<OfferAnswer<'e>> = Vec::with_capacity(choice.offers.len().max(1));
        for (index, judged) in choice.offers.iter().enumerate() {
            let variant =
                governed.variants.iter().find(|(offer, _)| *offer == judged.offer).map(|(_, variant)| *variant);
            let shown = (governed.channel, variant);
            let offer = &edge.catalog.offers[judged.offer];
            offers.push(offer_answer(offer, shown, Some(judged.priority), index + 1, reason(judged)));
        }
        let fallback = offers.is_empty() && !governed.silent;
        if fallback {
            offers.extend(fallback_answer(edge, slot, governed.channel));
        }
        let candidates =
            if ask.explain { candidates(edge, ask, governed, request, reason) } else { Candidates::default() };
        SlotAnswer { slot: &slot.name, fallback, offers, candidates }
    });
    answers.collect()
}

/// What is said of the candidates of a request: of the chosen, then of those that left, in the order in which they did.
fn candidates<'e>(
    edge: &'e Edge,
    ask: &Ask<'_>,
    governed: &Governed,
    request: usize,
    reason: impl Fn(&Judgement) -> Option<&'e str>,
) -> Candidates {
    let gates = &edge.policy.gates;
    let judgements = governed.judged.get(request).map_or(&[][..], Vec::as_slice);
    let candidate = |offer: usize, outcome| Candidate {
        inputs: (gates.reads(offer), &governed.inputs),
        ..Candidate::new(gates.id(offer), outcome)
    };
    let ranked = |offer: usize, outcome| {
        let judged = judgements.binary_search_by_key(&offer, |judged| judged.offer).ok().map(|at| &judgements[at]);
        let by_place = |(of, which, ..): &(usize, usize, _, _)| (*of, *which);
        let factors = judged.and_then(|_| governed.factors.binary_search_by_key(&(request, offer), by_place).ok());
        let factors = factors.map(|at| &governed.factors[at]);
        Candidate {
            priority: judged.map(|judged| judged.priority),
            reason: judged.and_then(&reason),
            factors: factors.map(|(_, _, factors, counted)| (factors, edge.policy.rates.as_ref().zip(*counted))),
            ..candidate(offer, outcome)
        }
    };
    let mut writer = CandidatesWriter::new(governed.left.len(), ask.role != Role::Secret);
    governed.choices[request].offers.iter().for_each(|judged| writer.write(&ranked(judged.offer, "chosen")));
    // Most leave for the same reason as the one before.
    let mut last = None;
    for (place, (_, offer, why)) in governed.left.iter().enumerate().filter(|(_, (of, ..))| *of == request) {
        let is_ranked = place >= governed.unranked;
        let said = (!is_ranked).then(|| (why, std::ptr::from_ref(gates.reads(*offer))));
        if said.is_some() && said == last {
            writer.write_like(gates.id(*offer));
            continue;
        }
        let told = if is_ranked { ranked(*offer, why.code()) } else { candidate(*offer, why.code()) };
        writer.write(&Candidate { step: Some(why.step().name()), until: why.until(), ..told });
        last = said;
    }
    writer.end()
}
