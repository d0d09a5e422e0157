//! Reading a decide call and answering it, for servers that are compared with the one under measurement: floor B, and the component of bench/wasi.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::data::LEVEL_NAMES;
use crate::judge::priority;

const REASONS: [&str; 2] = ["liked", "valuable"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    #[serde(borrow)]
    visitor: Visitor<'a>,
    #[serde(borrow)]
    slots: Vec<Slot<'a>>,
    #[serde(borrow)]
    #[expect(dead_code, reason = "it is read as the server reads it")]
    context: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Visitor<'a> {
    user_id: &'a str,
}

#[derive(Deserialize)]
struct Slot<'a> {
    slot: &'a str,
    count: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    decision_id: &'a str,
    slots: Vec<SlotAnswer<'a>>,
    meta: &'a RawValue,
}

#[derive(Serialize)]
struct SlotAnswer<'a> {
    slot: &'a str,
    fallback: bool,
    offers: Vec<OfferAnswer<'a>>,
}

#[derive(Serialize)]
struct OfferAnswer<'a> {
    id: Cow<'a, str>,
    priority: f64,
    rank: usize,
    category: &'a str,
    content: Cow<'a, RawValue>,
    reasons: [&'a str; 1],
}

/// What is known of an offer for ranking it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its category, a position in [`LEVEL_NAMES`].
    pub category: usize,
    /// Its value.
    pub value: f64,
}

/// What is answered of an offer.
pub struct Shown<'a> {
    /// Its id.
    pub id: Cow<'a, str>,
    /// What it shows.
    pub content: Cow<'a, RawValue>,
}

/// Answers a call; none where it cannot be read or the visitor is not known. `look_up` gives a visitor's propensity and taste, `show` what an
/// offer shows; `end` is the last field of the answer, so that it is as long as the server's.
pub fn decide<'a>(
    body: &[u8],
    candidates: &[Candidate],
    look_up: impl FnOnce(&str) -> Option<(f64, usize)>,
    show: impl Fn(usize) -> Shown<'a>,
    end: &'a RawValue,
) -> Option<Vec<u8>> {
    let call: Call<'_> = serde_json::from_slice(body).ok()?;
    let (propensity, taste) = look_up(call.visitor.user_id)?;
    let mut ranked: Vec<(f64, usize)> = Vec::with_capacity(candidates.len());
    for (index, offer) in candidates.iter().enumerate() {
        ranked.push((priority(propensity, taste, offer.value, offer.category), index));
    }
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut next = ranked.iter();
    let slots = call.slots.iter().map(|slot| {
        let offers = next.by_ref().take(slot.count).enumerate().map(|(place, (priority, index))| {
            let category = candidates[*index].category;
            let Shown { id, content } = show(*index);
            OfferAnswer {
                id,
                priority: *priority,
                rank: place + 1,
                category: LEVEL_NAMES[category],
                content,
                reasons: [REASONS[usize::from(category != taste)]],
            }
        });
        let offers: Vec<OfferAnswer<'_>> = offers.collect();
        SlotAnswer { slot: slot.slot, fallback: offers.is_empty(), offers }
    });
    let answer = Answer { decision_id: "01234567-89ab-cdef-0123-456789abcdef", slots: slots.collect(), meta: end };
    serde_json::to_vec(&answer).ok()
}
