//! Answers of decide calls: what a slot shows, what is said of candidates, and about the answer itself.
//!
//! Knows how a decision is told, not how it is made.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compact_str::CompactString;
use selvedge_core::catalog::{Fallback, Offer, Slot};
use selvedge_core::decision::{Judgement, SlotChoice, SlotRequest};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_plugin_host::Told;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::edge::ingest::Outcome;
use crate::edge::profile::version;
use crate::edge::{Edge, Freshness};
use crate::pipeline::Ask;
use crate::policy::Governed;

/// The answer of a decide call.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision<'e> {
    pub decision_id: CompactString,
    /// Until when it may be sent, where it is to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitor: Option<Named<'e>>,
    pub slots: Vec<SlotAnswer<'e>>,
    /// What plugins were given and what came of it; in answers to `explain`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageAnswer<'e>>,
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
        self.visitor = Some(Named::Asked(visitor));
    }

    /// The shards that the call's events were written to.
    pub fn written(&self) -> &[ShardId] {
        &self.events.written
    }

    /// Says that it was made by the draft of the catalogue.
    pub fn preview(&mut self, of_draft: bool) {
        self.meta.catalogue = of_draft.then_some("draft");
    }

    /// Tells the visitor the id that was issued.
    pub fn issue(&mut self, anonymous_id: Option<&str>) {
        self.visitor = anonymous_id.map(|id| Named::Issued { anonymous_id: id.to_owned() });
    }
}

/// What a slot shows.
#[derive(Serialize)]
pub struct SlotAnswer<'e> {
    pub slot: &'e str,
    /// Whether nothing could be chosen.
    pub fallback: bool,
    pub offers: Vec<OfferAnswer<'e>>,
    #[serde(skip_serializing_if = "Candidates::is_empty")]
    pub candidates: Candidates<'e>,
}

/// The candidates of a slot, in answers to `explain`.
#[derive(Default)]
pub struct Candidates<'e> {
    list: Vec<CandidateAnswer<'e>>,
    /// The list as JSON, once it has been written for one of those who are told.
    json: OnceCell<Option<Box<RawValue>>>,
}

impl<'e> Candidates<'e> {
    /// Whether nobody asked for them, or there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, CandidateAnswer<'e>> {
        self.list.iter()
    }

    /// Leaves away what only the secret key opens.
    pub fn veil(&mut self) {
        self.list.iter_mut().for_each(CandidateAnswer::veil);
        self.json = OnceCell::new();
    }
}

impl<'e> FromIterator<CandidateAnswer<'e>> for Candidates<'e> {
    fn from_iter<I: IntoIterator<Item = CandidateAnswer<'e>>>(candidates: I) -> Self {
        Self { list: candidates.into_iter().collect(), json: OnceCell::new() }
    }
}

impl Serialize for Candidates<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.json.get_or_init(|| serde_json::value::to_raw_value(&self.list).ok()) {
            Some(json) => json.serialize(serializer),
            None => self.list.serialize(serializer),
        }
    }
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

/// Why a candidate stands where it stands; in answers to `explain`.
#[derive(Serialize)]
pub struct CandidateAnswer<'e> {
    pub id: &'e str,
    pub outcome: &'static str,
    /// At which step it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<f64>,
    pub reason: Option<&'e str>,
    /// When that may be different, if nothing else happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factors: Option<FactorsAnswer>,
    /// What its conditions read, and what that said.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared")]
    pub inputs: Option<Arc<RawValue>>,
}

/// Offers of the same conditions share what these read.
fn shared<S: Serializer>(inputs: &Option<Arc<RawValue>>, serializer: S) -> Result<S::Ok, S::Error> {
    inputs.as_deref().serialize(serializer)
}

impl CandidateAnswer<'_> {
    fn veil(&mut self) {
        (self.priority, self.factors, self.inputs) = (None, None, None);
    }
}

/// A stage of a plugin that took part.
#[derive(Serialize)]
pub struct StageAnswer<'e> {
    pub plugin: &'e str,
    pub version: &'e str,
    pub hash: String,
    /// `score` or `rank`.
    pub stage: &'static str,
    /// The fuel that it used.
    pub fuel: u64,
    /// Why it gave no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'static str>,
    /// What it declared to read of the visitor, with the values that it was given.
    pub inputs: Box<RawValue>,
    /// What it declared to read of offers, likewise, by offer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub offers: BTreeMap<&'e str, Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<&'e str, Option<f64>>,
}

/// The stages that were called, as they are told.
pub fn stage_answers(edge: &Edge, stages: Vec<Told>) -> Vec<StageAnswer<'_>> {
    let raw = |json: String| RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let answer = |told: Told| {
        let plugin = &edge.plugins.plugins()[told.plugin];
        let names = edge.plugins.schema().scores.iter().skip(plugin.first_score());
        StageAnswer {
            plugin: plugin.name(),
            version: plugin.version(),
            hash: plugin.hash(),
            stage: told.stage,
            fuel: told.fuel,
            failed: told.failed,
            inputs: raw(told.given),
            offers: told
                .offers
                .into_iter()
                .map(|(offer, given)| (edge.catalog.offers[offer].id.as_str(), raw(given)))
                .collect(),
            scores: names.zip(told.scores).map(|(score, value)| (score.name.as_str(), value)).collect(),
        }
    };
    stages.into_iter().map(answer).collect()
}

/// What made up a priority.
#[derive(Serialize)]
pub struct FactorsAnswer {
    pub propensity: f64,
    pub context: f64,
    pub value: f64,
    pub lever: f64,
    /// What the propensity was made from, where it is a response rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseAnswer>,
}

/// What a response rate was made from: (responses + prior × weight) ÷ (shown + weight).
#[derive(Serialize)]
pub struct ResponseAnswer {
    pub responses: u32,
    pub shown: u32,
    pub prior: f64,
    pub weight: f64,
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
    pub fn of(edge: &Edge, identifiers: &[Identifier], started: Instant) -> Self {
        let Freshness { state, lag_ms } = edge.freshness(identifiers);
        let (version, elapsed_us) = (version(edge, identifiers), micros(started.elapsed()));
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
    explained: Option<&[Judgement]>,
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
    let stopped = slot.candidates.iter().filter(|offer| explained.is_some() && edge.switches.is_stopped(**offer));
    let stopped = stopped.map(|offer| CandidateAnswer {
        id: &edge.catalog.offers[*offer].id,
        outcome: "stopped",
        step: None,
        priority: None,
        reason: None,
        until: None,
        factors: None,
        inputs: None,
    });
    let of_slot =
        explained.unwrap_or_default().iter().filter(|judged| slot.candidates.binary_search(&judged.offer).is_ok());
    let candidates = of_slot.map(|judged| CandidateAnswer {
        id: &edge.catalog.offers[judged.offer].id,
        outcome: outcome(judged),
        step: None,
        priority: Some(judged.priority),
        reason: reason(judged),
        until: None,
        factors: None,
        inputs: None,
    });
    SlotAnswer { slot: &slot.name, fallback, offers, candidates: candidates.chain(stopped).collect() }
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
        let mut candidates = Vec::new();
        if ask.explain {
            let chosen = choice.offers.iter().map(|judged| (judged.offer, "chosen", None, None));
            let left = governed.left.iter().filter(|(of, ..)| *of == request);
            let left = left.map(|(_, offer, why)| (*offer, why.code(), Some(why.step().name()), why.until()));
            let judgements = governed.judged.get(request).map_or(&[][..], Vec::as_slice);
            for (offer, outcome, step, until) in chosen.chain(left) {
                let judged = judgements.binary_search_by_key(&offer, |judged| judged.offer).ok();
                let judged = judged.map(|at| &judgements[at]);
                let factors = governed.factors.binary_search_by_key(&(request, offer), |(of, which, ..)| (*of, *which));
                let factors = factors.ok().map(|at| &governed.factors[at]);
                candidates.push(CandidateAnswer {
                    id: &edge.catalog.offers[offer].id,
                    outcome,
                    step,
                    priority: judged.map(|judged| judged.priority),
                    reason: judged.and_then(reason),
                    until: until.map(|until| until.to_string()),
                    factors: factors.map(|(_, _, factors, counted)| FactorsAnswer {
                        propensity: factors.propensity,
                        context: factors.context,
                        value: factors.value,
                        lever: factors.lever,
                        response: edge.policy.rates.as_ref().zip(*counted).map(|(rates, counted)| ResponseAnswer {
                            responses: counted.responses,
                            shown: counted.shown,
                            prior: rates.response().prior,
                            weight: rates.response().weight,
                        }),
                    }),
                    inputs: governed.inputs.get(offer).cloned().flatten(),
                });
            }
        }
        SlotAnswer { slot: &slot.name, fallback, offers, candidates: candidates.into_iter().collect() }
    });
    answers.collect()
}
