//! Pre-initialisation: a plugin that is made by its configuration, and the component that comes of it.
//!
//! The plugin reads its configuration in one instance (`configure`) and takes up what came of it in another (`restore`), of which
//! `wasmtime-wizer` takes the snapshot. Two instances, because the snapshot keeps the whole memory and reading leaves much behind in it:
//! whatever a snapshot holds, every later instance pays for. What `wit/configuration.wit` says is all that is known here of a configuration.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use selvedge_core::config::{Config, ConfigError};
use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Instance, InstancePre, Lift, WasmList};
use wasmtime_wizer::{ComponentContext, ComponentInstanceState, Wizer};

use crate::bindings::exports::selvedge::plugin::configuration;
use crate::component::{classify, compile, first_line, interface, misfit, new_store, pre_instantiate};
use crate::engine::{Engine, HostState};
use crate::error::{CallError, ConfigFault, LoadError};

/// Fuel for `configure`: a second or two. It runs once, when a plugin is loaded.
const CONFIGURE_FUEL: u64 = 4_000_000_000;
/// Fuel for `restore`, which only takes up what is there.
const RESTORE_FUEL: u64 = 1_000_000_000;
/// Linear memory while a configuration is read.
const MEMORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that `configure` may answer.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Faults of which a message tells; a configuration with more has one cause for most of them.
const FAULTS_MAX: usize = 32;

/// Whether a component exports the interface of plugins that are made by their configuration. What is no component exports nothing;
/// compiling it says why.
pub(crate) fn exports_configuration(wasm: &[u8]) -> bool {
    let wanted = interface("configuration");
    let mut depth = 0;
    wasmparser::Parser::new(0).parse_all(wasm).map_while(Result::ok).any(|payload| match payload {
        wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => {
            depth += 1;
            false
        }
        wasmparser::Payload::End(_) => {
            depth -= 1;
            false
        }
        wasmparser::Payload::ComponentExportSection(exports) if depth == 0 => {
            exports.into_iter().map_while(Result::ok).any(|export| export.name.name == wanted)
        }
        _ => false,
    })
}

/// The component as its configuration makes it. The work is done on a thread of its own, with which the memory goes that compiling took.
pub(crate) fn configure(file: &str, wasm: &[u8], config: &str) -> Result<Vec<u8>, LoadError> {
    let configured = std::thread::scope(|scope| scope.spawn(|| configure_here(file, wasm, config)).join());
    configured.unwrap_or_else(|_| Err(LoadError::new(file, "cannot be pre-initialised: the host panicked over it")))
}

fn configure_here(file: &str, wasm: &[u8], config: &str) -> Result<Vec<u8>, LoadError> {
    let engine = &Engine::passing(MEMORY_BYTES_MAX)?;
    let config_fault = |error: ConfigError| LoadError::new(file, format!("configuration: {error}"));
    let config = Config::parse(config).and_then(|config| config.to_json()).map_err(config_fault)?;
    let unfit =
        |error: wasmtime::Error| LoadError::new(file, format!("cannot be pre-initialised: {}", first_line(&error)));
    let wizer = Wizer::new();
    let (context, instrumented) = guarded(|| wizer.instrument_component(wasm)).map_err(unfit)?;
    let pre = pre_instantiate(engine, file, &compile(engine, file, &instrumented)?)?;
    let indices = configuration::GuestIndices::new(&pre).map_err(|error| misfit(file, &error))?;

    let (kept, _) = call(engine, file, &pre, "configure", CONFIGURE_FUEL, |store, instance| {
        indices.load(&mut *store, instance)?.call_configure(store, &config)
    })?;
    let kept = kept.map_err(|faults| LoadError::configuration(file, &format!("{file}.toml"), of_bindings(faults)))?;
    if kept.len() > KEPT_BYTES_MAX {
        let detail = format!("keeps {} bytes of its configuration; at most {KEPT_BYTES_MAX} fit", kept.len());
        return Err(LoadError::new(file, detail));
    }
    let ((), restored) = call(engine, file, &pre, "restore", RESTORE_FUEL, |store, instance| {
        indices.load(&mut *store, instance)?.call_restore(store, &kept)
    })?;
    snapshot(&wizer, &context, restored).map_err(unfit)
}

/// One call in an instance of its own, which is handed on.
fn call<T>(
    engine: &Engine,
    file: &str,
    pre: &InstancePre<HostState>,
    name: &str,
    fuel: u64,
    function: impl FnOnce(&mut Store<HostState>, &Instance) -> wasmtime::Result<T>,
) -> Result<(T, Configured), LoadError> {
    let mut store = new_store(engine);
    let outcome = store.set_fuel(fuel).and_then(|()| {
        let instance = pre.instantiate(&mut store)?;
        store.data_mut().called = true;
        Ok((function(&mut store, &instance)?, instance))
    });
    let outcome = outcome.map_err(|error| {
        let error: CallError = classify(&store, &error, fuel);
        LoadError::new(file, format!("{name} {error}"))
    });
    store.data_mut().drain_log(file);
    outcome.map(|(answer, instance)| (answer, Configured { store, instance }))
}

fn of_bindings(faults: Vec<configuration::Fault>) -> Vec<ConfigFault> {
    let more = faults.len().saturating_sub(FAULTS_MAX);
    let fault = |configuration::Fault { place, detail }| ConfigFault { place, detail };
    let mut faults: Vec<ConfigFault> = faults.into_iter().take(FAULTS_MAX).map(fault).collect();
    if more > 0 {
        faults.push(ConfigFault { place: String::new(), detail: format!("and {more} more faults") });
    }
    if faults.is_empty() {
        faults.push(ConfigFault { place: String::new(), detail: "is refused by the plugin without a reason".into() });
    }
    faults
}

/// An instance whose state is to be taken.
struct Configured {
    store: Store<HostState>,
    instance: Instance,
}

fn snapshot(wizer: &Wizer, context: &ComponentContext<'_>, mut configured: Configured) -> wasmtime::Result<Vec<u8>> {
    configured.store.set_fuel(u64::MAX)?;
    // The memory is read through a list, whatever its size.
    configured.store.set_hostcall_fuel(usize::MAX);
    guarded(|| {
        let future = pin!(wizer.snapshot_component(context, &mut configured));
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(taken) => taken,
            // Nothing of ours waits: all calls below are synchronous.
            Poll::Pending => Err(wasmtime::Error::msg("its snapshot waits for something")),
        }
    })
}

/// Wizer asserts what it cannot express, such as a vector in a global: that is a fault of the component, not of this process.
fn guarded<T>(work: impl FnOnce() -> wasmtime::Result<T>) -> wasmtime::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(wasmtime::Error::msg("it holds something that a snapshot cannot")))
}

impl Configured {
    /// Calls one of the functions that instrumenting added; they read one global or the memory and have no other effect.
    fn read<R, T>(&mut self, interface: &str, function: &str, take: impl FnOnce(&Store<HostState>, R) -> T) -> T
    where
        R: Lift + 'static,
        (R,): ComponentNamedList + Lift,
    {
        let Self { store, instance } = self;
        let mut read = || {
            let interface = instance.get_export_index(&mut *store, None, interface)?;
            let function = instance.get_export_index(&mut *store, Some(&interface), function)?;
            let function = instance.get_typed_func::<(), (R,)>(&mut *store, function).ok()?;
            function.call(&mut *store, ()).ok()
        };
        let (value,) = read().expect("instrumenting has exported this function, with this type, and it cannot fail");
        take(store, value)
    }
}

impl ComponentInstanceState for Configured {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        self.read(instance, func, |store, bytes: WasmList<u8>| contents(bytes.as_le_slice(store)));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.read(instance, func, |_, value| value)
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.read(instance, func, |_, value| value)
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.read(instance, func, |_, value: f32| value.to_bits())
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.read(instance, func, |_, value: f64| value.to_bits())
    }
}
