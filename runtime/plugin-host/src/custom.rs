//! A plugin's own operators, called by the fold: each call in an instance of its own.

use std::fmt;

use selvedge_core::aggregate::{
    CustomFault, CustomOperators, Definition, Finished, Operator, STATE_BYTES_MAX, check_laws,
};
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::exports::selvedge::plugin::custom_aggregates::{self, Guest, GuestIndices};
use crate::bindings::selvedge::plugin::types;
use crate::component::{classify, new_store};
use crate::engine::{Engine, HostState};
use crate::error::CallError;

/// Fuel for one call, and more for each state that is merged in it.
const CALL_FUEL: u64 = 1_000_000;
const MERGE_FUEL_PER_STATE: u64 = 100_000;

/// The functions of one plugin.
pub(crate) struct Custom {
    plugin: String,
    engine: Engine,
    pre: InstancePre<HostState>,
    indices: GuestIndices,
    /// By position; empty for aggregates of other operators.
    inits: Vec<Vec<u8>>,
}

impl fmt::Debug for Custom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the operators of plugin {}", self.plugin)
    }
}

impl Custom {
    /// The functions of a plugin, checked on its samples. The fault names the aggregate.
    pub(crate) fn new(
        plugin: &str,
        engine: &Engine,
        pre: &InstancePre<HostState>,
        indices: &GuestIndices,
        definitions: &[Definition],
    ) -> Result<Self, CustomFault> {
        let inits = vec![Vec::new(); definitions.len()];
        let mut custom = Self {
            plugin: plugin.to_owned(),
            engine: engine.clone(),
            pre: pre.clone(),
            indices: indices.clone(),
            inits,
        };
        for (definition, position) in
            definitions.iter().zip(0..).filter(|(definition, _)| definition.operator == Operator::Custom)
        {
            let fault = |detail: String| CustomFault(format!("aggregate {:?} {detail}", definition.name));
            let init = custom.call(CALL_FUEL, |store, guest| guest.call_init(store, position).map(Ok));
            custom.inits[position as usize] =
                init.map_err(|error| fault(error.0)).and_then(|init| bounded(init).map_err(|error| fault(error.0)))?;
            let samples = custom.call(CALL_FUEL, |store, guest| guest.call_samples(store, position).map(Ok));
            let samples: Vec<(String, i64)> =
                samples.map_err(|error| fault(error.0))?.into_iter().map(|sample| (sample.key, sample.value)).collect();
            check_laws(&custom, position, definition.kind, &samples).map_err(|error| fault(error.0))?;
        }
        Ok(custom)
    }

    fn call<T>(
        &self,
        fuel: u64,
        call: impl FnOnce(&mut Store<HostState>, &Guest) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<T, CustomFault> {
        let mut store = new_store(&self.engine);
        let outcome = store.set_fuel(fuel).and_then(|()| {
            let instance: Instance = self.pre.instantiate(&mut store)?;
            store.data_mut().called = true;
            let guest = self.indices.load(&mut store, &instance)?;
            call(&mut store, &guest)
        });
        let outcome = match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(types::Failure::Rejected(text))) => Err(CallError::Rejected(text)),
            Ok(Err(types::Failure::Internal(text))) => Err(CallError::Failed(text)),
            Err(error) => Err(classify(&store, &error, fuel)),
        };
        store.data_mut().drain_log(&self.plugin);
        outcome.map_err(|error| CustomFault(error.to_string()))
    }
}

impl CustomOperators for Custom {
    fn init(&self, aggregate: u32) -> Vec<u8> {
        self.inits.get(aggregate as usize).cloned().unwrap_or_default()
    }

    fn update(&self, aggregate: u32, state: &[u8], key: &str, value: i64) -> Result<Vec<u8>, CustomFault> {
        self.call(CALL_FUEL, |store, guest| guest.call_update(store, aggregate, state, key, value)).and_then(bounded)
    }

    fn merge(&self, aggregate: u32, states: &[&[u8]]) -> Result<Vec<u8>, CustomFault> {
        let fuel = CALL_FUEL + MERGE_FUEL_PER_STATE * states.len() as u64;
        self.call(fuel, |store, guest| guest.call_merge(store, aggregate, states)).and_then(bounded)
    }

    fn finish(&self, aggregate: u32, state: &[u8]) -> Result<Finished, CustomFault> {
        let value = self.call(CALL_FUEL, |store, guest| guest.call_finish(store, aggregate, state))?;
        Ok(match value {
            custom_aggregates::Value::Absent => Finished::Absent,
            custom_aggregates::Value::Fixed(value) => Finished::Fixed(value),
            custom_aggregates::Value::Number(value) => Finished::Number(value),
        })
    }
}

fn bounded(state: Vec<u8>) -> Result<Vec<u8>, CustomFault> {
    if state.len() <= STATE_BYTES_MAX {
        return Ok(state);
    }
    Err(CustomFault(format!("has a state of {} bytes; a state has at most {STATE_BYTES_MAX}", state.len())))
}
