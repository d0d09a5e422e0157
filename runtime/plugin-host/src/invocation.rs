//! Calls: one event observed, one visitor scored, offers ranked.
//!
//! An event is observed in an instance of its own, so what it contributes depends on nothing but the event and the
//! configuration, whatever else came in the same batch; a re-fold gives the same. The stages of a request share one instance per plugin.

use std::sync::OnceLock;

use selvedge_core::columns::{Columns, Keys};
use selvedge_core::decision::Judgement;
use selvedge_core::effects::Effects;
use selvedge_core::event::{Event, Refusal};
use selvedge_core::lower::GivenRows;
use selvedge_core::stage::accept_scores;
use selvedge_core::view::Subject;

use crate::error::CallError;
use crate::guest::Guest;
use crate::plugins::{CatalogReads, Plugin, PluginSet};

/// Fuel for observing an event, and more for each element of its lists.
const OBSERVE_FUEL: u64 = 2_000_000;
const OBSERVE_FUEL_PER_ELEMENT: u64 = 5_000;
/// Fuel for scoring a visitor.
const SCORE_FUEL: u64 = 5_000_000;
/// Fuel for ranking, and more for each candidate.
const RANK_FUEL: u64 = 2_000_000;
const RANK_FUEL_PER_OFFER: u64 = 20_000;
/// What happened when an event was observed, besides its effects: for metrics and the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Observed {
    /// A plugin passed over the event for one of its declared reasons.
    Skipped {
        /// By position.
        plugin: usize,
        /// By position in the plugin's skips.
        reason: usize,
    },
    /// A plugin failed; the event contributes nothing to it.
    Failed {
        /// By position.
        plugin: usize,
        /// How.
        error: CallError,
    },
}

impl PluginSet {
    /// What an event does to its fragment. It is refused where it does not fit what the plugins declare to read.
    pub fn observe(&self, event: &Event, report: &mut dyn FnMut(Observed)) -> Result<Effects, Refusal> {
        self.observe_with(event, true, report)
    }

    /// What an event of the log does. To a plugin that came later, or declares otherwise since, a value of another type than it declares is
    /// absent.
    pub fn observe_again(&self, event: &Event) -> Effects {
        let observed = self.observe_with(event, false, &mut |_| {});
        observed.unwrap_or_else(|_| Effects { failures: 1, ..Effects::default() })
    }

    fn observe_with(&self, event: &Event, strict: bool, report: &mut dyn FnMut(Observed)) -> Result<Effects, Refusal> {
        let mut effects = Effects::of(event)?;
        for (index, plugin) in self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.observes(event)) {
            let (mut keys, time) = (Keys::default(), self.schema.definitions.time());
            let (columns, elements) = plugin.event_reads.lower(event, time, &mut keys, strict)?;
            match self.observe_one(plugin, &columns, elements, &keys, &mut effects) {
                Ok(skipped) => {
                    skipped.into_iter().for_each(|reason| report(Observed::Skipped { plugin: index, reason }))
                }
                Err(error) => {
                    effects.failures += 1;
                    report(Observed::Failed { plugin: index, error });
                }
            }
        }
        Ok(effects)
    }

    fn observe_one(
        &self,
        plugin: &Plugin,
        columns: &Columns,
        elements: usize,
        keys: &Keys,
        effects: &mut Effects,
    ) -> Result<Vec<usize>, CallError> {
        let fuel = OBSERVE_FUEL + OBSERVE_FUEL_PER_ELEMENT * elements as u64;
        let contributed = Guest::new(&self.engine, plugin)?.observe(fuel, columns)?;
        Ok(contributed.accept(&plugin.destinations, plugin.skips().len(), keys, elements, effects)?)
    }
}

/// The stages of one request. An instance of a plugin is made when its first stage is called; a trap drops it, and with it the
/// plugin's remaining stages.
pub struct Invocation<'p> {
    set: &'p PluginSet,
    guests: Vec<Slot<'p>>,
    /// What was called, where somebody asks.
    told: Option<Vec<Told>>,
    /// What the last call took, where somebody asks.
    fuel: u64,
}

/// A stage that was called: what it was given, what came of it, and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The plugin, by position.
    pub plugin: usize,
    /// `score` or `rank`.
    pub stage: &'static str,
    /// What it was given of the visitor, as a JSON object of paths and values.
    pub given: String,
    /// The offers that it ranked, by position in the catalogue, and what it was given of each, likewise.
    pub offers: (Vec<usize>, GivenRows),
    /// What it scored, by position among its own scores.
    pub scores: Vec<Option<f64>>,
    /// Why it gave no answer, as [`CallError::kind`] has it.
    pub failed: Option<&'static str>,
    /// The fuel that it used.
    pub fuel: u64,
}

enum Slot<'p> {
    Unused,
    Ready(Box<Guest<'p>>),
    Dropped,
}

impl<'p> Invocation<'p> {
    /// A request in which nothing has been called yet.
    pub fn new(set: &'p PluginSet) -> Self {
        Self { set, guests: set.plugins.iter().map(|_| Slot::Unused).collect(), told: None, fuel: 0 }
    }

    /// A request that tells afterwards what its stages were given ([`Self::told`]). Scores that stand beside their columns already are worked out anew
    /// in it: what is told has happened.
    pub fn telling(set: &'p PluginSet) -> Self {
        Self { told: Some(Vec::new()), ..Self::new(set) }
    }

    /// The stages that were called, in their order; none unless it is [telling](Self::telling).
    pub fn told(self) -> Vec<Told> {
        self.told.unwrap_or_default()
    }

    /// Scores a visitor with plugins by position, in the given order, which must be one of [`PluginSet::score_order`] or
    /// [`PluginSet::scores_to_rank`]; each reads the scores of those before it. Values are by position in the schema; those of a
    /// failed plugin are absent.
    pub fn score(
        &mut self,
        order: &[usize],
        subject: &Subject<'_>,
        failed: &mut dyn FnMut(usize, CallError),
    ) -> Vec<Option<f64>> {
        let mut scores = vec![None; self.set.schema.scores.len()];
        for index in order {
            match self.score_one(*index, &Subject { scores: &scores, ..*subject }) {
                Ok(values) => {
                    let first = self.set.plugins[*index].first_score;
                    scores[first..first + values.len()].copy_from_slice(&values);
                }
                Err(error) => failed(*index, error),
            }
        }
        scores
    }

    fn score_one(&mut self, index: usize, subject: &Subject<'_>) -> Result<Vec<Option<f64>>, CallError> {
        let plugin = &self.set.plugins[index];
        let mut keys = Keys::default();
        let columns = plugin.score_reads.lower(subject, &self.set.schema.definitions, &mut keys);
        if let Some(scored) = columns.scores().and_then(OnceLock::get).filter(|_| self.told.is_none()) {
            return Ok(scored.to_vec());
        }
        let values = self.call(index, SCORE_FUEL, |guest| guest.score(SCORE_FUEL, &columns));
        let declared = plugin.component.description.scores.len();
        let values = values.and_then(|values| Ok(accept_scores(values, declared)?));
        if self.told.is_some() {
            let scored = values.as_ref().map_or_else(|error| Err(error.kind()), |values| Ok(values.clone()));
            self.tell(index, "score", scored, || (plugin.score_reads.given(&columns, &keys), Default::default()));
        }
        let values = values?;
        if let Some(scored) = columns.scores() {
            // Another request may have been faster, with the same outcome.
            let _ = scored.set(values.as_slice().into());
        }
        Ok(values)
    }

    /// Judges offers of a catalogue, by position, with one plugin: one judgement for each, in the given order. `slot` says whose candidates they are, where they
    /// are exactly those of one slot.
    pub fn rank(
        &mut self,
        index: usize,
        catalog: &CatalogReads,
        candidates: &[usize],
        slot: Option<usize>,
        subject: &Subject<'_>,
    ) -> Result<Vec<Judgement>, CallError> {
        let plugin = &self.set.plugins[index];
        let Some(Some(offer_reads)) = catalog.offer_reads.get(index) else {
            return Err(CallError::Failed("does not rank".into()));
        };
        let (definitions, mut keys) = (&self.set.schema.definitions, Keys::default());
        let visitor = plugin.visitor_reads.lower(subject, definitions, &mut keys);
        let lowered_offers;
        let offers = if let Some(constant) = catalog.constant(slot) {
            constant
        } else {
            lowered_offers = offer_reads.lower(candidates, subject, definitions, &mut keys);
            &lowered_offers
        };
        let fuel = RANK_FUEL + RANK_FUEL_PER_OFFER * candidates.len() as u64;
        let ranking = self.call(index, fuel, |guest| guest.rank(fuel, &visitor, offers));
        let judged = ranking.and_then(|ranking| Ok(ranking.accept(candidates, plugin.reasons().len())?));
        let outcome = judged.as_ref().map_or_else(|error| Err(error.kind()), |_| Ok(Vec::new()));
        self.tell(index, "rank", outcome, || {
            let of_offers = offer_reads.given(offers, candidates.len(), &keys);
            (plugin.visitor_reads.given(&visitor, &keys), (candidates.to_vec(), of_offers))
        });
        judged
    }

    /// Notes what was called, where somebody asks.
    fn tell(
        &mut self,
        plugin: usize,
        stage: &'static str,
        outcome: Result<Vec<Option<f64>>, &'static str>,
        given: impl FnOnce() -> (String, (Vec<usize>, GivenRows)),
    ) {
        let Some(told) = &mut self.told else { return };
        let (given, offers) = given();
        let (scores, failed) = outcome.map_or_else(|kind| (Vec::new(), Some(kind)), |scores| (scores, None));
        told.push(Told { plugin, stage, given, offers, scores, failed, fuel: self.fuel });
    }

    fn call<T>(
        &mut self,
        index: usize,
        fuel: u64,
        stage: impl FnOnce(&mut Guest<'p>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let slot = &mut self.guests[index];
        self.fuel = 0;
        if matches!(slot, Slot::Unused) {
            match Guest::new(&self.set.engine, &self.set.plugins[index]) {
                Ok(guest) => *slot = Slot::Ready(Box::new(guest)),
                Err(error) => {
                    *slot = Slot::Dropped;
                    return Err(error);
                }
            }
        }
        let Slot::Ready(guest) = slot else { return Err(CallError::Dropped) };
        let outcome = stage(guest);
        if self.told.is_some() {
            self.fuel = fuel - guest.fuel_left().min(fuel);
        }
        if outcome.as_ref().is_err_and(CallError::poisons) {
            *slot = Slot::Dropped;
        }
        outcome
    }
}

#[cfg(test)]
#[path = "invocation_tests.rs"]
mod tests;
