//! The decision of the bench, natively: what floor B does. No isolation, no store, no history, no caps: a lookup in memory, the arithmetic,
//! an answer of the same form.

use std::borrow::Cow;
use std::hash::BuildHasher as _;

use parking_lot::RwLock;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::data::{self, Person};
use crate::judge::{CODES, NUMBERS, propensity};
use crate::offering::{Candidate, Shown, decide};
use crate::request::user;

const SHARDS: usize = 64;

struct Profile {
    numbers: [f64; NUMBERS],
    codes: [usize; CODES],
}

/// Profiles and offers.
pub struct Native {
    shards: Vec<RwLock<FxHashMap<String, Profile>>>,
    candidates: Vec<Candidate>,
    /// Id and content of each.
    shown: Vec<(String, Box<RawValue>)>,
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
            Ok((Candidate { category, value: value as f64 / 100.0 }, (id, content)))
        });
        let (candidates, shown) = offers.collect::<serde_json::Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self { shards, candidates, shown, meta })
    }

    /// Answers a call; none where it cannot be read or the visitor is not known.
    pub fn decide(&self, body: &[u8]) -> Option<Vec<u8>> {
        let look_up = |user: &str| {
            let shard = self.shards[shard(user)].read();
            let profile = shard.get(user)?;
            Some((propensity(&profile.numbers, &profile.codes), profile.codes[0]))
        };
        let show = |index: usize| {
            let (id, content) = &self.shown[index];
            Shown { id: Cow::Borrowed(id), content: Cow::Borrowed(content) }
        };
        decide(body, &self.candidates, look_up, show, &self.meta)
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
