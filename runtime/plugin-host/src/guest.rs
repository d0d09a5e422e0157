//! One instance of a plugin for one event or one request: of the component that it is, or of the core module that is all of it.

use selvedge_core::columns::Columns;
use selvedge_core::stage::{Contributions, Ranking};
use wasmtime::Store;
use wasmtime::component::{Component, Instance, InstancePre};

use crate::bindings::exports::selvedge::plugin::{aggregates, offers, scores};
use crate::bindings::selvedge::plugin::types::{self, Failure};
use crate::canonical::Called;
use crate::component::{classify, interface, new_store};
use crate::engine::{Engine, HostState};
use crate::error::CallError;
use crate::kept::{self, Kept, Lent, START_FUEL};
use crate::plugins::Plugin;

/// The stages of a plugin, and how they are called.
pub(crate) enum Stages {
    /// Those of its core module.
    Core(Box<Kept>),
    /// Those of the component.
    Whole(Whole),
}

impl Stages {
    fn exported(&self) -> (bool, bool, bool) {
        match self {
            Self::Core(kept) => kept.stages(),
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

/// An instance of one plugin.
pub(crate) struct Guest<'p> {
    plugin: &'p Plugin,
    made: Made<'p>,
    /// What the last stage left of its fuel.
    left: u64,
}

enum Made<'p> {
    Core(Lent<'p>),
    Whole(&'p Whole, Store<HostState>, Instance),
}

type Answered<T> = wasmtime::Result<Result<T, Failure>>;

impl<'p> Guest<'p> {
    pub(crate) fn new(engine: &Engine, plugin: &'p Plugin) -> Result<Self, CallError> {
        let made = match &plugin.component.stages {
            Stages::Core(kept) => Made::Core(kept.lend(engine)?),
            Stages::Whole(whole) => {
                let mut store = new_store(engine);
                match store.set_fuel(START_FUEL).and_then(|()| whole.pre.instantiate(&mut store)) {
                    Ok(instance) => Made::Whole(whole, store, instance),
                    Err(error) => return Err(classify(&store, &error, START_FUEL)),
                }
            }
        };
        Ok(Self { plugin, made, left: 0 })
    }

    /// What its last stage left of its fuel.
    pub(crate) fn fuel_left(&self) -> u64 {
        self.left
    }

    /// All of its memory, where it is called as a core module.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> Option<&[u8]> {
        match &self.made {
            Made::Core(lent) => lent.memory(),
            Made::Whole(..) => None,
        }
    }

    /// Observes one event.
    pub(crate) fn observe(&mut self, fuel: u64, event: &Columns) -> Result<Contributions, CallError> {
        let of_core = |called: &mut Called, store: &mut Store<HostState>| called.observe(store, event);
        self.call(fuel, of_core, |whole, store, instance| {
            let Some(indices) = &whole.observe else { return Ok(missing()) };
            let guest = indices.load(&mut *store, instance)?;
            let answer = guest.call_observe(store, lowered(event, &texts(event)))?;
            Ok(answer.map(|aggregates::Contributions { aggregates, values, keys, skipped }| Contributions {
                aggregates,
                values,
                keys,
                skipped,
            }))
        })
    }

    /// Scores one visitor.
    pub(crate) fn score(&mut self, fuel: u64, visitor: &Columns) -> Result<Vec<Option<f64>>, CallError> {
        let of_core = |called: &mut Called, store: &mut Store<HostState>| called.score(store, visitor);
        self.call(fuel, of_core, |whole, store, instance| {
            let Some(indices) = &whole.score else { return Ok(missing()) };
            indices.load(&mut *store, instance)?.call_score(store, lowered(visitor, &texts(visitor)))
        })
    }

    /// Ranks offers.
    pub(crate) fn rank(&mut self, fuel: u64, visitor: &Columns, offers: &Columns) -> Result<Ranking, CallError> {
        let of_core = |called: &mut Called, store: &mut Store<HostState>| called.rank(store, visitor, offers);
        self.call(fuel, of_core, |whole, store, instance| {
            let Some(indices) = &whole.rank else { return Ok(missing()) };
            let (visitor_texts, offer_texts) = (texts(visitor), texts(offers));
            let guest = indices.load(&mut *store, instance)?;
            let answer = guest.call_rank(store, lowered(visitor, &visitor_texts), lowered(offers, &offer_texts))?;
            Ok(answer.map(|offers::Ranking { priorities, eligible, reasons }| Ranking {
                priorities,
                eligible,
                reasons,
            }))
        })
    }

    /// Runs one stage, in either form, with its own fuel.
    fn call<T>(
        &mut self,
        fuel: u64,
        of_core: impl FnOnce(&mut Called, &mut Store<HostState>) -> Answered<T>,
        of_whole: impl FnOnce(&Whole, &mut Store<HostState>, &Instance) -> Answered<T>,
    ) -> Result<T, CallError> {
        let (name, left) = (self.plugin.name(), &mut self.left);
        match &mut self.made {
            Made::Core(lent) => lent.with(|kept::Instance { store, called }| {
                let outcome = begin(store, fuel).and_then(|()| of_core(called, store));
                *left = store.get_fuel().unwrap_or(0);
                end(store, fuel, name, outcome)
            }),
            Made::Whole(whole, store, instance) => {
                let outcome = begin(store, fuel).and_then(|()| of_whole(whole, store, instance));
                *left = store.get_fuel().unwrap_or(0);
                end(store, fuel, name, outcome)
            }
        }
    }
}

fn begin(store: &mut Store<HostState>, fuel: u64) -> wasmtime::Result<()> {
    store.set_fuel(fuel)?;
    store.data_mut().called = true;
    Ok(())
}

fn end<T>(store: &mut Store<HostState>, fuel: u64, plugin: &str, outcome: Answered<T>) -> Result<T, CallError> {
    let outcome = match outcome {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Failure::Rejected(text))) => Err(CallError::Rejected(text)),
        Ok(Err(Failure::Internal(text))) => Err(CallError::Failed(text)),
        Err(error) => Err(classify(store, &error, fuel)),
    };
    store.data_mut().drain_log(plugin);
    outcome
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
