//! What is asked of every candidate in every decision, side by side in the order of the catalogue: an offer itself is large, and a thousand of them lie far apart.

use std::collections::HashMap;
use std::ops::Range;

use selvedge_core::catalog::{Catalog, Offer};
use selvedge_core::condition::{ConditionId, Conditions, Evaluation, ReadId};
use selvedge_core::decision::{Left, Level};

/// The gates of all offers.
pub struct Gates {
    offers: Vec<Gate>,
    /// Audiences by position, each with what must hold.
    audiences: Vec<(usize, ConditionId)>,
    reads: Vec<ReadId>,
    /// Ids as JSON texts, one after the other.
    ids: String,
    /// What the conditions of the candidates of each slot read, each once.
    of_slots: Vec<Vec<ReadId>>,
}

/// What must hold before an offer is ranked, and what is told of it.
struct Gate {
    audiences: Part,
    eligible: Option<ConditionId>,
    of_campaign: Option<ConditionId>,
    reads: Part,
    id: Part,
}

/// A part of a list that all offers share.
#[derive(Clone, Copy)]
struct Part {
    start: u32,
    end: u32,
}

impl Part {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The part from one length of the list to another.
    fn between(start: usize, end: usize) -> Self {
        // A catalogue is a text of some MiB.
        let narrow = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(end) }
    }
}

impl Gates {
    /// Those of a catalogue and its conditions.
    pub fn new(catalog: &Catalog, conditions: &Conditions) -> Self {
        let (offers, of_slots) = (Vec::with_capacity(catalog.offers.len()), Vec::with_capacity(catalog.slots.len()));
        let mut gates = Self { offers, audiences: Vec::new(), reads: Vec::new(), ids: String::new(), of_slots };
        let mut known = HashMap::new();
        catalog.offers.iter().for_each(|of| gates.add(catalog, conditions, of, &mut known));
        for slot in &catalog.slots {
            let mut reads: Vec<ReadId> =
                slot.candidates.iter().flat_map(|offer| gates.reads(*offer)).copied().collect();
            reads.sort_unstable();
            reads.dedup();
            gates.of_slots.push(reads);
        }
        gates
    }

    /// `known` are the parts of `reads` by what they hold: those of the same reads are one.
    fn add(&mut self, catalog: &Catalog, conditions: &Conditions, of: &Offer, known: &mut HashMap<Vec<ReadId>, Part>) {
        let before = (self.audiences.len(), self.reads.len(), self.ids.len());
        self.audiences.extend(of.audiences.iter().map(|audience| (*audience, catalog.audiences[*audience].condition)));
        let of_campaign = of.campaign.and_then(|campaign| catalog.campaigns[campaign].eligible);
        let of_audiences = self.audiences[before.0..].iter().map(|(_, condition)| *condition);
        let reads = conditions.reads_of(of.eligible.into_iter().chain(of_campaign).chain(of_audiences));
        let reads = *known.entry(reads).or_insert_with_key(|reads| {
            self.reads.extend_from_slice(reads);
            Part::between(before.1, self.reads.len())
        });
        self.ids += &serde_json::Value::from(of.id.as_str()).to_string();
        self.offers.push(Gate {
            audiences: Part::between(before.0, self.audiences.len()),
            eligible: of.eligible,
            of_campaign,
            reads,
            id: Part::between(before.2, self.ids.len()),
        });
    }

    /// Whether somebody may be offered an offer by its audiences, and by its and its campaign's conditions.
    pub fn pass(&self, offer: usize, evaluation: &Evaluation<'_>) -> Result<(), Left> {
        let gate = &self.offers[offer];
        let met = |condition: Option<ConditionId>| condition.is_none_or(|condition| evaluation.met(condition));
        let audiences = &self.audiences[gate.audiences.range()];
        if let Some((not, _)) = audiences.iter().find(|(_, condition)| !evaluation.met(*condition)) {
            return Err(Left::Audience(*not));
        }
        if !met(gate.eligible) {
            return Err(Left::Condition(Level::Offer));
        }
        if !met(gate.of_campaign) {
            return Err(Left::Condition(Level::Campaign));
        }
        Ok(())
    }

    /// What the conditions of an offer read, by name; the very same list for offers that read the same.
    pub fn reads(&self, offer: usize) -> &[ReadId] {
        &self.reads[self.offers[offer].reads.range()]
    }

    /// What the conditions of the candidates of a slot read, each once.
    pub fn reads_of_slot(&self, slot: usize) -> &[ReadId] {
        &self.of_slots[slot]
    }

    /// The id of an offer as a JSON text.
    pub fn id(&self, offer: usize) -> &str {
        &self.ids[self.offers[offer].id.range()]
    }
}
