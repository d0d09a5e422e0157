//! One fresh store and instance of a plugin: as the component that it is, or as the core module that is all of it.

use selvedge_core::columns::Columns;
use selvedge_core::stage::{Contributions, Ranking};
use wasmtime::Store;
use wasmtime::component::{Component, Instance, InstancePre};

use crate::bindings::exports::selvedge::plugin::{aggregates, offers, scores};
use crate::bindings::selvedge::plugin::types::{self, Failure};
use crate::canonical::{Called, Linked};
use crate::component::{classify, interface, new_store};
use crate::engine::{Engine, HostState};
use crate::error::CallError;
use crate::plugins::Plugin;

/// Fuel for what an instance does before it is called: no guest code of the contract, but a module may have a start function.
const START_FUEL: u64 = 2_000_000;

/// The stages of a plugin, and how they are called.
pub(crate) enum Stages {
    /// Those of its core module.
    Core(Linked),
    /// Those of the component.
    Whole(Whole),
}

impl Stages {
    fn exported(&self) -> (bool, bool, bool) {
        match self {
            Self::Core(linked) => linked.stages(),
            Self::Whole(whole) => whole.stages(),
        }
    }

    /// Whether it observes events.
    pub(crate) fn observe(&self) -> bool {
        self.exported().0
    }

    /// Whether it scores visitors.
    pub(crate) fn score(&self) -> bool {
        self.exported().1
    }

    /// Whether it ranks offers.
    pub(crate) fn rank(&self) -> bool {
        self.exported().2
    }
}

/// A linked component, and where its stages are.
pub(crate) struct Whole {
    pre: InstancePre<HostState>,
    observe: Option<aggregates::GuestIndices>,
    score: Option<scores::GuestIndices>,
    rank: Option<offers::GuestIndices>,
}

impl Whole {
    /// Finds the stages of a component, which must have the types of the contract.
    pub(crate) fn find(component: &Component, pre: InstancePre<HostState>) -> wasmtime::Result<Self> {
        let exports = |stage: &str| component.get_export_index(None, interface(stage)).is_some();
        Ok(Self {
            observe: exports("aggregates").then(|| aggregates::GuestIndices::new(&pre)).transpose()?,
            score: exports("scores").then(|| scores::GuestIndices::new(&pre)).transpose()?,
            rank: exports("offers").then(|| offers::GuestIndices::new(&pre)).transpose()?,
            pre,
        })
    }

    /// Whether it observes, scores and ranks.
    pub(crate) fn stages(&self) -> (bool, bool, bool) {
        (self.observe.is_some(), self.score.is_some(), self.rank.is_some())
    }
}

/// A fresh store and instance of one plugin.
pub(crate) struct Guest<'p> {
    plugin: &'p Plugin,
    store: Store<HostState>,
    instance: Made<'p>,
}

enum Made<'p> {
    Core(Called<'p>),
    Whole(&'p Whole, Instance),
}

type Answered<T> = wasmtime::Result<Result<T, Failure>>;

impl<'p> Guest<'p> {
    pub(crate) fn new(engine: &Engine, plugin: &'p Plugin) -> Result<Self, CallError> {
        let mut store = new_store(engine);
        let made = store.set_fuel(START_FUEL).and_then(|()| match &plugin.component.stages {
            Stages::Core(linked) => linked.instantiate(&mut store).map(Made::Core),
            Stages::Whole(whole) => Ok(Made::Whole(whole, whole.pre.instantiate(&mut store)?)),
        });
        match made {
            Ok(instance) => Ok(Self { plugin, store, instance }),
            Err(error) => Err(classify(&store, &error, START_FUEL)),
        }
    }

    /// Observes one event.
    pub(crate) fn observe(&mut self, fuel: u64, event: &Columns) -> Result<Contributions, CallError> {
        self.call(fuel, |store, made| match made {
            Made::Core(called) => called.observe(store, event),
            Made::Whole(whole, instance) => {
                let Some(indices) = &whole.observe else { return Ok(missing()) };
                let guest = indices.load(&mut *store, instance)?;
                let answer = guest.call_observe(store, lowered(event, &texts(event)))?;
                Ok(answer.map(|answer| {
                    let aggregates::Contributions { aggregates, values, keys, skipped } = answer;
                    Contributions { aggregates, values, keys, skipped }
                }))
            }
        })
    }

    /// Scores one visitor.
    pub(crate) fn score(&mut self, fuel: u64, visitor: &Columns) -> Result<Vec<Option<f64>>, CallError> {
        self.call(fuel, |store, made| match made {
            Made::Core(called) => called.score(store, visitor),
            Made::Whole(whole, instance) => {
                let Some(indices) = &whole.score else { return Ok(missing()) };
                indices.load(&mut *store, instance)?.call_score(store, lowered(visitor, &texts(visitor)))
            }
        })
    }

    /// Ranks offers.
    pub(crate) fn rank(&mut self, fuel: u64, visitor: &Columns, offers: &Columns) -> Result<Ranking, CallError> {
        self.call(fuel, |store, made| match made {
            Made::Core(called) => called.rank(store, visitor, offers),
            Made::Whole(whole, instance) => {
                let Some(indices) = &whole.rank else { return Ok(missing()) };
                let (visitor_texts, offer_texts) = (texts(visitor), texts(offers));
                let guest = indices.load(&mut *store, instance)?;
                let answer = guest.call_rank(store, lowered(visitor, &visitor_texts), lowered(offers, &offer_texts))?;
                Ok(answer.map(|offers::Ranking { priorities, eligible, reasons }| Ranking {
                    priorities,
                    eligible,
                    reasons,
                }))
            }
        })
    }

    /// Runs one stage with its own fuel.
    fn call<T>(
        &mut self,
        fuel: u64,
        stage: impl FnOnce(&mut Store<HostState>, &mut Made<'p>) -> Answered<T>,
    ) -> Result<T, CallError> {
        let outcome = self.store.set_fuel(fuel).and_then(|()| {
            self.store.data_mut().called = true;
            stage(&mut self.store, &mut self.instance)
        });
        let outcome = match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Rejected(text))) => Err(CallError::Rejected(text)),
            Ok(Err(Failure::Internal(text))) => Err(CallError::Failed(text)),
            Err(error) => Err(classify(&self.store, &error, fuel)),
        };
        self.store.data_mut().drain_log(self.plugin.name());
        outcome
    }
}

/// A stage that is not exported is not called; whoever calls it all the same is told.
fn missing<T>() -> Result<T, Failure> {
    Err(Failure::Internal("has no such stage".into()))
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
