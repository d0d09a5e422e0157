//! Calls: one event observed, one visitor scored, offers ranked.
//!
//! An event is observed in an instance of its own, so what it contributes depends on nothing but the event and the
//! configuration, whatever else came in the same batch; a re-fold gives the same. The stages of a request share one instance per plugin.

use selvedge_core::columns::{Columns, Keys};
use selvedge_core::decision::Judgement;
use selvedge_core::effects::Effects;
use selvedge_core::event::{Event, Refusal};

use selvedge_core::stage::{Contributions, Ranking, accept_scores};
use selvedge_core::view::Subject;
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::bindings::exports::selvedge::plugin::{aggregates, offers};
use crate::bindings::selvedge::plugin::types;
use crate::component::{classify, new_store};
use crate::engine::HostState;
use crate::error::CallError;
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
        let Some(indices) = &plugin.component.observe else { return Ok(Vec::new()) };
        let mut guest = Guest::new(self, plugin)?;
        let fuel = OBSERVE_FUEL + OBSERVE_FUEL_PER_ELEMENT * elements as u64;
        let contributed = guest.call(fuel, |store, instance| {
            indices.load(&mut *store, instance)?.call_observe(store, lowered(columns, &texts(columns)))
        })?;
        let aggregates::Contributions { aggregates, values, keys: handles, skipped } = contributed;
        let contributed = Contributions { aggregates, values, keys: handles, skipped };
        Ok(contributed.accept(&plugin.destinations, plugin.skips().len(), keys, elements, effects)?)
    }
}

/// A fresh store and instance of one plugin.
struct Guest<'p> {
    plugin: &'p Plugin,
    store: Store<HostState>,
    instance: Instance,
}

impl<'p> Guest<'p> {
    fn new(set: &PluginSet, plugin: &'p Plugin) -> Result<Self, CallError> {
        let mut store = new_store(&set.engine);
        // Instantiation runs no guest code of ours, but a component may have start functions.
        let made = store.set_fuel(OBSERVE_FUEL).and_then(|()| plugin.component.pre.instantiate(&mut store));
        match made {
            Ok(instance) => Ok(Self { plugin, store, instance }),
            Err(error) => Err(classify(&store, &error, OBSERVE_FUEL)),
        }
    }

    /// Runs one stage with its own fuel.
    fn call<T>(
        &mut self,
        fuel: u64,
        stage: impl FnOnce(&mut Store<HostState>, &Instance) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, CallError> {
        let outcome = self.store.set_fuel(fuel).and_then(|()| {
            self.store.data_mut().called = true;
            stage(&mut self.store, &self.instance)
        });
        let outcome = match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(types::Failure::Rejected(text))) => Err(CallError::Rejected(text)),
            Ok(Err(types::Failure::Internal(text))) => Err(CallError::Failed(text)),
            Err(error) => Err(classify(&self.store, &error, fuel)),
        };
        if std::env::var_os("SV_FUEL").is_some() {
            eprintln!("FUEL {}", fuel - self.store.get_fuel().unwrap_or(0));
        }
        self.store.data_mut().drain_log(self.plugin.name());
        outcome
    }
}

/// The stages of one request. An instance of a plugin is made when its first stage is called; a trap drops it, and with it the
/// plugin's remaining stages.
pub struct Invocation<'p> {
    set: &'p PluginSet,
    guests: Vec<Slot<'p>>,
}

enum Slot<'p> {
    Unused,
    Ready(Box<Guest<'p>>),
    Dropped,
}

impl<'p> Invocation<'p> {
    /// A request in which nothing has been called yet.
    pub fn new(set: &'p PluginSet) -> Self {
        Self { set, guests: set.plugins.iter().map(|_| Slot::Unused).collect() }
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
        let Some(indices) = &plugin.component.score else { return Ok(Vec::new()) };
        let columns = plugin.score_reads.lower(subject, &self.set.schema.definitions, &mut Keys::default());
        let values = self.call(index, SCORE_FUEL, |store, instance| {
            indices.load(&mut *store, instance)?.call_score(store, lowered(&columns, &texts(&columns)))
        })?;
        Ok(accept_scores(values, plugin.component.description.scores.len())?)
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
        let (Some(indices), Some(Some(offer_reads))) = (&plugin.component.rank, catalog.offer_reads.get(index)) else {
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
        let ranking = self.call(index, fuel, |store, instance| {
            let (visitor_texts, offer_texts) = (texts(&visitor), texts(offers));
            let guest = indices.load(&mut *store, instance)?;
            guest.call_rank(store, lowered(&visitor, &visitor_texts), lowered(offers, &offer_texts))
        })?;
        let offers::Ranking { priorities, eligible, reasons } = ranking;
        Ok(Ranking { priorities, eligible, reasons }.accept(candidates, plugin.reasons().len())?)
    }

    fn call<T>(
        &mut self,
        index: usize,
        fuel: u64,
        stage: impl FnOnce(&mut Store<HostState>, &Instance) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, CallError> {
        let slot = &mut self.guests[index];
        if matches!(slot, Slot::Unused) {
            match Guest::new(self.set, &self.set.plugins[index]) {
                Ok(guest) => *slot = Slot::Ready(Box::new(guest)),
                Err(error) => {
                    *slot = Slot::Dropped;
                    return Err(error);
                }
            }
        }
        let Slot::Ready(guest) = slot else { return Err(CallError::Dropped) };
        let outcome = guest.call(fuel, stage);
        if outcome.as_ref().is_err_and(CallError::poisons) {
            *slot = Slot::Dropped;
        }
        outcome
    }
}

fn texts(columns: &Columns) -> Vec<&str> {
    columns.texts.iter().map(String::as_str).collect()
}

fn lowered<'a>(columns: &'a Columns, texts: &'a [&'a str]) -> types::Columns<'a> {
    types::Columns {
        rows: columns.rows,
        f64s: &columns.f64s,
        s64s: &columns.s64s,
        codes: &columns.codes,
        texts,
        present: &columns.present,
        offsets: &columns.offsets,
    }
}
