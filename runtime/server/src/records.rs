//! Decision records: what was decided lately and why, for whoever asks afterwards, and for [`outbound`](crate::outbound) to look at once more.
//!
//! A ring in memory, bounded by number and by bytes. It holds every decision of an outbound channel, every explained one, and a sample of the others. A decision
//! that is not kept pays for one question. Knows nothing of how decisions are made, and outlives no process.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use axum::body::Bytes;
use clap::ValueEnum;
use compact_str::CompactString;
use parking_lot::Mutex;
use selvedge_core::identity::Identifier;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::answer::{SlotAnswer, open};

/// Records that are kept at most.
const RECORDS_MAX: usize = 20_000;
/// Bytes that they take at most, about.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// One that is larger is not kept: it would push many others out.
const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of what a record begins with, about.
const HEAD_BYTES: usize = 1024;
/// Decisions that are named for each outcome of an offer.
const SAMPLES: usize = 5;
/// Of how many decisions that nobody asks about one is kept.
const ONE_OF: u64 = 100;

/// Which decisions are kept of those that are neither explained nor of an outbound channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DecisionRecords {
    /// One of a hundred.
    #[default]
    Sample,
    /// All, for demonstrations and while something is looked into.
    All,
    /// None.
    Off,
}

/// An offer as it stood in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stood {
    pub slot: CompactString,
    pub offer: CompactString,
    /// Whether it stood there because nothing else could.
    pub fallback: bool,
}

/// What was decided.
pub struct Record {
    pub id: CompactString,
    pub visitor: Identifier,
    pub at: Timestamp,
    /// The channel that it was decided for.
    pub channel: CompactString,
    /// What the call said of its moment.
    pub context: Option<Box<RawValue>>,
    /// Whether the offers count as decided for the visitor.
    pub counted: bool,
    /// Until when it may be sent; none where it was shown at once.
    pub valid_until: Option<Timestamp>,
    pub offers: Vec<Stood>,
    /// Whether it was asked what became of each candidate.
    explained: bool,
    /// What was said of candidates, slot by slot.
    candidates: Vec<Bytes>,
    /// All of it as it is told, in pieces, some of which its answer had too.
    json: Vec<Bytes>,
}

/// A candidate, as far as it is read from what was said of it.
#[derive(Deserialize)]
struct Became<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
}

/// What goes into a record.
pub struct Decided<'d> {
    pub id: &'d CompactString,
    pub visitor: &'d Identifier,
    /// All that the person is known by.
    pub identifiers: &'d [Identifier],
    pub at: Timestamp,
    pub channel: &'d str,
    pub context: Option<&'d RawValue>,
    pub counted: bool,
    pub valid_until: Option<Timestamp>,
    pub explained: bool,
    pub plugins: &'d RawValue,
    /// The version and the hash of the catalogue in force, where they are at hand.
    pub catalogue: Option<(u64, String)>,
    pub slots: &'d [SlotAnswer<'d>],
    /// What plugins were given, as a JSON array, where that was asked for.
    pub stages: &'d Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'d> {
    decision_id: &'d str,
    visitor: &'d Identifier,
    identifiers: &'d [Identifier],
    at: String,
    channel: &'d str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'d RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<String>,
    explained: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    catalogue: Option<CatalogueTold<'d>>,
    plugins: &'d RawValue,
}

#[derive(Serialize)]
struct CatalogueTold<'d> {
    version: u64,
    hash: &'d str,
}

#[derive(Serialize)]
struct SlotTold<'d> {
    slot: &'d str,
    fallback: bool,
    offers: Vec<OfferTold<'d>>,
}

impl<'d> SlotTold<'d> {
    fn of(slot: &SlotAnswer<'d>) -> Self {
        let offers = slot.offers.iter().map(|offer| OfferTold {
            id: offer.id,
            rank: offer.rank,
            priority: offer.priority,
            reason: offer.reason,
            variant: offer.variant,
        });
        Self { slot: slot.slot, fallback: slot.fallback, offers: offers.collect() }
    }
}

/// An offer without what it shows, which the catalogue has.
#[derive(Serialize)]
struct OfferTold<'d> {
    id: Option<&'d str>,
    rank: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'d str>,
}

impl<'d> Decided<'d> {
    /// All of it as JSON. What was said of candidates and stages is shared with the answer.
    fn told(&self) -> serde_json::Result<Vec<Bytes>> {
        let catalogue = self.catalogue.as_ref();
        let (mut json, mut pieces) = (Vec::with_capacity(HEAD_BYTES), Vec::new());
        let mut share = |json: &mut Vec<u8>, name: &str, bytes: &Bytes| {
            if !bytes.is_empty() {
                json.extend_from_slice(name.as_bytes());
                pieces.extend([std::mem::take(json).into(), bytes.clone()]);
            }
        };
        let head = Told {
            decision_id: self.id,
            visitor: self.visitor,
            identifiers: self.identifiers,
            at: self.at.to_string(),
            channel: self.channel,
            context: self.context,
            valid_until: self.valid_until.map(|until| until.to_string()),
            explained: self.explained,
            catalogue: catalogue.map(|(version, hash)| CatalogueTold { version: *version, hash }),
            plugins: self.plugins,
        };
        open(&mut json, &head)?;
        json.extend_from_slice(b",\"slots\":[");
        for (index, slot) in self.slots.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            open(&mut json, &SlotTold::of(slot))?;
            share(&mut json, ",\"candidates\":", slot.candidates.whole());
            json.push(b'}');
        }
        json.push(b']');
        share(&mut json, ",\"stages\":", self.stages);
        json.push(b'}');
        json.shrink_to_fit();
        pieces.push(json.into());
        Ok(pieces)
    }

    fn record(&self) -> serde_json::Result<Record> {
        let mut offers = Vec::new();
        for slot in self.slots {
            let ids = slot.offers.iter().filter_map(|offer| offer.id);
            let stood = |id: &str| Stood { slot: slot.slot.into(), offer: id.into(), fallback: slot.fallback };
            offers.extend(ids.map(stood));
        }
        let candidates = self.slots.iter().map(|slot| slot.candidates.whole().clone());
        Ok(Record {
            id: self.id.clone(),
            visitor: self.visitor.clone(),
            at: self.at,
            channel: self.channel.into(),
            context: self.context.map(ToOwned::to_owned),
            counted: self.counted,
            valid_until: self.valid_until,
            offers,
            explained: self.explained,
            candidates: candidates.filter(|of_slot| !of_slot.is_empty()).collect(),
            json: self.told()?,
        })
    }
}

impl Record {
    /// All of it as it is told.
    pub fn json(&self) -> Vec<u8> {
        self.json.concat()
    }

    /// Bytes, about.
    fn weight(&self) -> usize {
        let json: usize = self.json.iter().map(|piece| piece.len() + size_of::<Bytes>()).sum();
        let context = self.context.as_ref().map_or(0, |context| context.get().len());
        // Its places in the ring and by its id.
        size_of::<Self>() + 128 + json + context + self.offers.len() * size_of::<Stood>()
    }

    /// What became of an offer; none where that was not asked for, or where it was no candidate.
    fn outcome(&self, offer: &str) -> Option<String> {
        if let Some(stood) = self.offers.iter().find(|stood| stood.offer == offer) {
            return Some(if stood.fallback { "fallback" } else { "chosen" }.to_owned());
        }
        let of_slot = |json: &Bytes| {
            let candidates: Vec<Became<'_>> = serde_json::from_slice(json).unwrap_or_default();
            candidates.into_iter().find(|became| became.id == offer).map(|became| became.outcome.into_owned())
        };
        self.candidates.iter().find_map(of_slot)
    }
}

/// Why an offer was shown, or was not, in the decisions that are kept.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferOutcomes {
    /// Decisions that are kept.
    pub decisions: usize,
    /// In how many it was chosen, or left for which reason.
    pub outcomes: BTreeMap<String, usize>,
    /// Of each of these the latest decisions, newest first.
    pub samples: BTreeMap<String, Vec<CompactString>>,
    /// Those in which it was not even a candidate.
    pub no_candidate: usize,
    /// Those in which it was not chosen, and nobody asked why.
    pub unexplained: usize,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<Arc<Record>>,
    by_id: HashMap<CompactString, Arc<Record>>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, record: Arc<Record>) {
        self.bytes += record.weight();
        self.by_id.insert(record.id.clone(), Arc::clone(&record));
        self.records.push_back(record);
        while self.records.len() > RECORDS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.records.pop_front() else { return };
            self.bytes -= oldest.weight();
            self.by_id.remove(&oldest.id);
        }
    }
}

/// The latest decisions of those that are kept.
pub struct Records {
    /// 0 where none is.
    one_of: u64,
    ring: Mutex<Ring>,
}

impl Records {
    /// None yet.
    pub fn new(which: DecisionRecords) -> Self {
        let one_of = match which {
            DecisionRecords::Sample => ONE_OF,
            DecisionRecords::All => 1,
            DecisionRecords::Off => 0,
        };
        Self { one_of, ring: Mutex::default() }
    }

    /// Whether a decision of this seed belongs to the sample.
    pub fn samples(&self, seed: u64) -> bool {
        seed.is_multiple_of(self.one_of)
    }

    /// Keeps a decision.
    pub fn keep(&self, decided: &Decided<'_>) {
        match decided.record() {
            Ok(record) if record.weight() <= RECORD_BYTES_MAX => self.ring.lock().push(Arc::new(record)),
            Ok(record) => tracing::warn!(decision = %record.id, "a decision is too large to be kept"),
            Err(error) => tracing::warn!(%error, "a decision is not kept"),
        }
    }

    /// A decision by its id.
    pub fn get(&self, id: &str) -> Option<Arc<Record>> {
        self.ring.lock().by_id.get(id).cloned()
    }

    /// Forgets what was decided for these.
    pub fn forget(&self, identifiers: &[Identifier]) {
        let mut ring = self.ring.lock();
        let kept = std::mem::take(&mut *ring).records;
        kept.into_iter().filter(|record| !identifiers.contains(&record.visitor)).for_each(|record| ring.push(record));
    }

    /// What became of an offer in the decisions since an instant.
    pub fn outcomes(&self, offer: &str, since: Option<Timestamp>) -> OfferOutcomes {
        // The lock is not held while they are looked through.
        let records: Vec<Arc<Record>> = self.ring.lock().records.iter().cloned().collect();
        let mut told = OfferOutcomes::default();
        for record in records.iter().rev().filter(|record| since.is_none_or(|since| record.at >= since)) {
            told.decisions += 1;
            match record.outcome(offer) {
                Some(outcome) => {
                    *told.outcomes.entry(outcome.clone()).or_default() += 1;
                    let samples = told.samples.entry(outcome).or_default();
                    if samples.len() < SAMPLES {
                        samples.push(record.id.clone());
                    }
                }
                None if record.explained => told.no_candidate += 1,
                None => told.unexplained += 1,
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, candidates: Option<&'static str>, bytes: usize) -> Arc<Record> {
        let stood = Stood { slot: "hero".into(), offer: "rose".into(), fallback: false };
        Arc::new(Record {
            id: format!("{id:024x}").into(),
            visitor: Identifier::stored(&format!("user:{id}")).expect("an identifier"),
            at: Timestamp(id as i64),
            channel: "email".into(),
            context: None,
            counted: true,
            valid_until: None,
            offers: vec![stood],
            explained: candidates.is_some(),
            candidates: candidates.into_iter().map(Bytes::from).collect(),
            json: vec![vec![0; bytes].into()],
        })
    }

    #[test]
    fn the_oldest_give_way_to_the_newest_by_number_and_by_bytes() {
        let mut ring = Ring::default();
        (0..RECORDS_MAX as u64 + 10).for_each(|id| ring.push(record(id, None, 1)));
        assert_eq!((ring.records.len(), ring.by_id.len()), (RECORDS_MAX, RECORDS_MAX));
        assert!(!ring.by_id.contains_key(&*format!("{:024x}", 9)) && ring.by_id.contains_key(&*format!("{:024x}", 10)));
        (0..40).for_each(|id| ring.push(record(1_000_000 + id, None, 1024 * 1024)));
        assert!(ring.bytes <= BYTES_MAX && ring.records.len() < 40);
        assert_eq!(ring.bytes, ring.records.iter().map(|record| record.weight()).sum::<usize>());
    }

    #[test]
    fn what_became_of_an_offer_is_counted_and_the_erased_are_forgotten() {
        let records = Records::new(DecisionRecords::Sample);
        let (capped, outranked) = (
            r#"[{"id":"r\u006fse","outcome":"outranked"},{"id":"kettle","outcome":"capped","step":"cap","reason":null}]"#,
            r#"[{"id":"kettle","outcome":"outranked"}]"#,
        );
        let all = [Some(capped), Some(capped), Some(outranked), Some("[]"), None];
        for (id, outcomes) in all.into_iter().enumerate() {
            records.ring.lock().push(record(id as u64, outcomes, 1));
        }
        let kettle = records.outcomes("kettle", None);
        assert_eq!(kettle.outcomes, [("capped".to_owned(), 2), ("outranked".to_owned(), 1)].into());
        assert_eq!((kettle.decisions, kettle.no_candidate, kettle.unexplained), (5, 1, 1));
        assert_eq!(kettle.samples["capped"], [1, 0].map(|id: u64| CompactString::from(format!("{id:024x}"))));
        assert_eq!(records.outcomes("rose", Some(Timestamp(2))).outcomes, [("chosen".to_owned(), 3)].into());
        records.forget(&[Identifier::stored("user:1").expect("an identifier")]);
        assert!(records.get(&format!("{:024x}", 1)).is_none() && records.get(&format!("{:024x}", 2)).is_some());
        assert!(!Records::new(DecisionRecords::Off).samples(700));
        assert!(!records.samples(7) && records.samples(700) && Records::new(DecisionRecords::All).samples(7));
    }
}
