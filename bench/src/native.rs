//! The decision of the bench, natively: what floor B does. No isolation, no store, no history, no caps: a lookup in memory, the arithmetic,
//! an answer of the same form.

use std::hash::BuildHasher as _;

use parking_lot::RwLock;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::data::{self, Person};
use crate::judge::{CODES, NUMBERS, priority, propensity};
use crate::request::user;

const SHARDS: usize = 64;
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
    id: &'a str,
    priority: f64,
    rank: usize,
    category: &'a str,
    content: &'a RawValue,
    reasons: [&'a str; 1],
}

struct Profile {
    numbers: [f64; NUMBERS],
    codes: [usize; CODES],
}

struct Offer {
    id: String,
    category: usize,
    value: f64,
    content: Box<RawValue>,
}

/// Profiles and offers.
pub struct Native {
    shards: Vec<RwLock<FxHashMap<String, Profile>>>,
    offers: Vec<Offer>,
    /// What stands at the end of each answer, so that it is as long as the server's.
    meta: Box<RawValue>,
}

impl Native {
    /// So many profiles in memory; `meta` is the last field of every answer.
    pub fn new(profiles: u32, meta: Box<RawValue>) -> serde_json::Result<Self> {
        let shards: Vec<RwLock<FxHashMap<String, Profile>>> = (0..SHARDS).map(|_| RwLock::default()).collect();
        for visitor in 0..profiles {
            let person = Person::new(visitor);
            let user = user(visitor);
            let profile = Profile { numbers: person.all_numbers(), codes: person.levels };
            shards[shard(&user)].write().insert(user, profile);
        }
        let offers = (0..data::OFFERS).map(|index| {
            let (id, category, value) = data::offer(index);
            let content = serde_json::value::to_raw_value(&data::content(index))?;
            Ok(Offer { id, category, value: value as f64 / 100.0, content })
        });
        Ok(Self { shards, offers: offers.collect::<serde_json::Result<_>>()?, meta })
    }

    /// Answers a call; none where it cannot be read or the visitor is not known.
    pub fn decide(&self, body: &[u8]) -> Option<Vec<u8>> {
        let call: Call<'_> = serde_json::from_slice(body).ok()?;
        let (propensity, taste) = {
            let shard = self.shards[shard(call.visitor.user_id)].read();
            let profile = shard.get(call.visitor.user_id)?;
            (propensity(&profile.numbers, &profile.codes), profile.codes[0])
        };
        let mut ranked: Vec<(f64, usize)> = Vec::with_capacity(self.offers.len());
        for (index, offer) in self.offers.iter().enumerate() {
            ranked.push((priority(propensity, taste, offer.value, offer.category), index));
        }
        ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut next = ranked.iter();
        let slots = call.slots.iter().map(|slot| {
            let offers = next.by_ref().take(slot.count).enumerate().map(|(place, (priority, index))| {
                let offer = &self.offers[*index];
                OfferAnswer {
                    id: &offer.id,
                    priority: *priority,
                    rank: place + 1,
                    category: data::LEVEL_NAMES[offer.category],
                    content: &offer.content,
                    reasons: [REASONS[usize::from(offer.category != taste)]],
                }
            });
            let offers: Vec<OfferAnswer<'_>> = offers.collect();
            SlotAnswer { slot: slot.slot, fallback: offers.is_empty(), offers }
        });
        let answer =
            Answer { decision_id: "01234567-89ab-cdef-0123-456789abcdef", slots: slots.collect(), meta: &self.meta };
        serde_json::to_vec(&answer).ok()
    }
}

/// What stands behind the slots of an answer of the server under measurement.
pub fn end_of(answer: &[u8]) -> serde_json::Result<Value> {
    let answer: Value = serde_json::from_slice(answer)?;
    // Events stand before what is about the answer; here both are its end.
    Ok(json!({"events": answer["events"], "meta": answer["meta"]}))
}

fn shard(user: &str) -> usize {
    // The upper bits: the map within takes the lower ones.
    (FxBuildHasher.hash_one(user) >> 58) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Check, Verdict};

    #[test]
    fn it_decides() {
        let meta = serde_json::value::to_raw_value(&serde_json::json!({"elapsedUs": 1})).expect("a value");
        let native = Native::new(10, meta).expect("profiles");
        let body = br#"{"visitor":{"userId":"u-0000003"},"slots":[{"slot":"home","count":3}],"context":{"page":{"path":"/"}}}"#;
        let answer = native.decide(body).expect("an answer");
        assert_eq!(Check::Offers(3).judge(&answer), Verdict::Good, "{}", String::from_utf8_lossy(&answer));
        assert!(native.decide(br#"{"visitor":{"userId":"u-99"},"slots":[]}"#).is_none());
    }
}
