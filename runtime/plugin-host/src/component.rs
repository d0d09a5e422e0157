//! Components: from bytes to something checked, compiled and described, before any request meets it.

use std::time::Duration;

use selvedge_core::config::{Config, ConfigError};
use selvedge_core::description::{AggregateDeclaration, Description, ScoreDeclaration};
use selvedge_core::read::Read;
use selvedge_core::value::Kind;
use sha2::{Digest, Sha256};
use wasmtime::component::InstancePre;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Store, Trap};

use crate::bindings::exports::selvedge::plugin::{custom_aggregates, plugin};
use crate::bindings::selvedge::plugin::types;
use crate::canonical::Linked;
use crate::engine::{Engine, HostState};
use crate::error::{CallError, LoadError};
use crate::guest::{Stages, Whole};
use crate::kept::Kept;
use crate::{core_module, preinit};

/// The contract's package and version, as it stands in imports and exports.
const PACKAGE: &str = "selvedge:plugin/";
const VERSION: &str = "0.1.0";
/// Bytes of a component.
const COMPONENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Fuel for `describe`.
const DESCRIBE_FUEL: u64 = 100_000_000;
/// Bytes that a guest may hand to the host in one call.
pub(crate) const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A compiled plugin with its configuration, described but not yet resolved against others.
pub struct Component {
    pub(crate) description: Description,
    pub(crate) config: Config,
    /// SHA-256 of the component's bytes.
    pub(crate) sha256: [u8; 32],
    /// The same as `sha256:` and hexadecimal digits.
    pub(crate) hash: String,
    /// SHA-256 of the configuration's text.
    pub(crate) config_sha256: [u8; 32],
    pub(crate) stages: Stages,
    /// Operators of its own, which are called as those of a whole component.
    pub(crate) custom: Option<(InstancePre<HostState>, custom_aggregates::GuestIndices)>,
    /// How long compiling took.
    pub compile_time: Duration,
}

impl Component {
    /// Checks, compiles and describes a plugin.
    ///
    /// `file` names it until it has said its own name; `config` is the text of its `NAME.toml`, empty where there is none.
    pub fn load(engine: &Engine, file: &str, wasm: &[u8], config: &str) -> Result<Self, LoadError> {
        let fault = |detail: String| LoadError::new(file, detail);
        check_bytes(wasm).map_err(fault)?;
        let started = std::time::Instant::now();
        // Of a plugin that is made by its configuration, everything below sees the component that came of it.
        let configured = match preinit::exports_configuration(wasm) {
            true => Some(preinit::configure(file, wasm, config)?),
            false => None,
        };
        let wasm_made = configured.as_deref().unwrap_or(wasm);
        let module = core_module::extract(wasm_made);
        // Beside a module that is called as it is, the whole serves to be checked and to describe itself.
        let passing = module.map(|_| Engine::passing(engine.memory_bytes_max)).transpose()?;
        let around = passing.as_ref().unwrap_or(engine);
        let component = compile(around, file, wasm_made)?;
        let pre = pre_instantiate(around, file, &component)?;
        let stage_fault = |error: wasmtime::Error| misfit(file, &error);
        let described = plugin::GuestIndices::new(&pre).map_err(stage_fault)?;
        let whole = Whole::find(&component, pre.clone()).map_err(stage_fault)?;
        let exported = whole.stages();
        if exported == (false, false, false) {
            return Err(fault(
                "exports no stage; it would never be called. Export aggregates, scores or offers".into(),
            ));
        }
        let custom = match component.get_export_index(None, interface("custom-aggregates")) {
            None => None,
            Some(_) => {
                let pre = match &passing {
                    None => pre.clone(),
                    Some(_) => pre_instantiate(engine, file, &compile(engine, file, wasm_made)?)?,
                };
                let indices = custom_aggregates::GuestIndices::new(&pre).map_err(stage_fault)?;
                Some((pre, indices))
            }
        };
        let stages = match module {
            None => Stages::Whole(whole),
            Some(module) => {
                // With its globals exported, where they are all that has to be put back besides its memory.
                let restorable = core_module::restorable(module);
                let module = restorable.as_deref().unwrap_or(module);
                let linked = Linked::new(engine, module, exported).map_err(stage_fault)?;
                Stages::Core(Box::new(Kept::new(engine, linked, restorable.is_some())))
            }
        };
        let compile_time = started.elapsed();
        let description = describe(around, &pre, &described).map_err(|error| fault(format!("describe {error}")))?;
        let name = description.name.clone();
        let fault = |detail: String| LoadError::new(&name, detail);
        description.check().map_err(|error| fault(error.to_string()))?;
        let config_fault = |error: ConfigError| fault(format!("configuration: {error}"));
        let parsed = Config::parse(config).map_err(config_fault)?;
        if configured.is_none() {
            parsed.check_keys(description.reads()).map_err(config_fault)?;
        }
        check_stages(&description, exported, configured.is_some()).map_err(fault)?;
        let sha256: [u8; 32] = Sha256::digest(wasm).into();
        Ok(Self {
            config: parsed,
            hash: sha256.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}")),
            sha256,
            config_sha256: Sha256::digest(config.as_bytes()).into(),
            description,
            stages,
            custom,
            compile_time,
        })
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// Whether its stages are called as those of its core module, without the component around it.
    pub fn is_called_as_module(&self) -> bool {
        matches!(self.stages, Stages::Core(_))
    }

    /// Whether its instances serve again, each as if it were new.
    pub fn serves_again(&self) -> bool {
        matches!(&self.stages, Stages::Core(kept) if kept.is_restorable())
    }

    /// Its own version.
    pub fn version(&self) -> &str {
        &self.description.version
    }
}

pub(crate) fn interface(name: &str) -> String {
    format!("{PACKAGE}{name}@{VERSION}")
}

pub(crate) fn first_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

pub(crate) fn misfit(file: &str, error: &wasmtime::Error) -> LoadError {
    let detail = format!(
        "does not fit the contract selvedge:plugin@{VERSION}: {}; rebuild it with this version's SDK",
        first_line(error)
    );
    LoadError::new(file, detail)
}

/// Compiles a component, after which its imports and exports are known to be the contract's.
pub(crate) fn compile(engine: &Engine, file: &str, wasm: &[u8]) -> Result<wasmtime::component::Component, LoadError> {
    let fault = |detail: String| LoadError::new(file, detail);
    let component = wasmtime::component::Component::from_binary(&engine.wasm, wasm)
        .map_err(|error| fault(format!("is not a valid WebAssembly component: {}", first_line(&error))))?;
    check_imports(engine, &component).map_err(fault)?;
    check_exports(engine, &component).map_err(fault)?;
    Ok(component)
}

/// Links a component, which fails where a function of the contract has another type.
pub(crate) fn pre_instantiate(
    engine: &Engine,
    file: &str,
    component: &wasmtime::component::Component,
) -> Result<InstancePre<HostState>, LoadError> {
    engine.linker.instantiate_pre(component).map_err(|error| {
        let detail = format!("does not fit the contract selvedge:plugin@{VERSION}: {}", first_line(&error));
        LoadError::new(file, detail)
    })
}

fn check_bytes(wasm: &[u8]) -> Result<(), String> {
    if wasm.len() > COMPONENT_BYTES_MAX {
        return Err(format!("is {} bytes; a component may have {COMPONENT_BYTES_MAX}", wasm.len()));
    }
    // The layer field tells a component (1) from a core module (0).
    match wasm.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => {
            Err("is a core module, not a component; build it with `cargo xtask plugins`, which wraps it".into())
        }
        _ => Err("is not WebAssembly: its first bytes are not those of a component".into()),
    }
}

fn check_imports(engine: &Engine, component: &wasmtime::component::Component) -> Result<(), String> {
    for (name, import) in component.component_type().imports(&engine.wasm) {
        let types_only = match &import.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(&engine.wasm).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
            }
            ComponentItem::Type(_) => true,
            _ => false,
        };
        if types_only || name == interface("log") {
            continue;
        }
        return Err(match name.strip_prefix(PACKAGE) {
            Some(other) => format!(
                "is built for {PACKAGE}{other}, this host serves {}; rebuild it with this version's SDK",
                interface("log")
            ),
            None => format!(
                "imports {name}, which no plugin may: the only import is {}. Build for wasm32-unknown-unknown, without WASI",
                interface("log")
            ),
        });
    }
    Ok(())
}

fn check_exports(engine: &Engine, component: &wasmtime::component::Component) -> Result<(), String> {
    if component.get_export_index(None, interface("plugin")).is_some() {
        return Ok(());
    }
    let other = component
        .component_type()
        .exports(&engine.wasm)
        .find_map(|(name, _)| name.strip_prefix(PACKAGE).map(str::to_owned));
    Err(match other {
        Some(other) => format!(
            "is built for {PACKAGE}{other}, this host serves {}; rebuild it with this version's SDK",
            interface("plugin")
        ),
        None => format!("does not export {}; it is a component, but not a Selvedge plugin", interface("plugin")),
    })
}

/// A plugin serves what it describes, and describes what it serves; one that is made by its configuration may turn out to describe
/// nothing.
fn check_stages(
    description: &Description,
    (observes, scores, ranks): (bool, bool, bool),
    configured: bool,
) -> Result<(), String> {
    let declared = [
        (observes, description.aggregates.is_empty() && description.observes.is_empty(), "aggregates"),
        (scores, description.scores.is_empty(), "scores"),
        (ranks, description.offer_reads.is_empty(), "offers"),
    ];
    for (exported, nothing_declared, stage) in declared {
        if !exported && !nothing_declared {
            return Err(format!("describes {stage} but does not export {}", interface(stage)));
        }
        if exported && nothing_declared && stage != "offers" && !configured {
            return Err(format!("exports {} but describes nothing for it", interface(stage)));
        }
    }
    Ok(())
}

fn describe(
    engine: &Engine,
    pre: &InstancePre<HostState>,
    indices: &plugin::GuestIndices,
) -> Result<Description, CallError> {
    let mut store = new_store(engine);
    let outcome = store.set_fuel(DESCRIBE_FUEL).and_then(|()| {
        let instance = pre.instantiate(&mut store)?;
        store.data_mut().called = true;
        indices.load(&mut store, &instance)?.call_describe(&mut store)
    });
    outcome.map(of_bindings).map_err(|error| classify(&store, &error, DESCRIBE_FUEL))
}

/// A store for one request.
pub(crate) fn new_store(engine: &Engine) -> Store<HostState> {
    let mut store = Store::new(&engine.wasm, HostState::new(engine.memory_bytes_max));
    store.limiter(|state| state);
    store.set_hostcall_fuel(OUTPUT_BYTES_MAX);
    store
}

/// What an error of a call means.
pub(crate) fn classify(store: &Store<HostState>, error: &wasmtime::Error, fuel: u64) -> CallError {
    if store.data().memory_denied {
        return CallError::OutOfMemory(store.data().memory_bytes_max());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => CallError::OutOfFuel(fuel),
        Some(trap) => CallError::Trapped(store.data().last_error().map_or_else(|| trap.to_string(), str::to_owned)),
        // Not a trap of the guest's code: lifting its answer failed, or no slot was free.
        None if store.data().called => CallError::BadOutput(first_line(error)),
        None => CallError::Unavailable(first_line(error)),
    }
}

fn of_bindings(described: plugin::Description) -> Description {
    let reads = |reads: Vec<types::Read>| {
        reads.into_iter().map(|read| Read { path: read.path, kind: kind(read.kind), choices: read.choices }).collect()
    };
    let aggregates = described.aggregates.into_iter().map(|declared| AggregateDeclaration {
        name: declared.name,
        operator: declared.operator,
        parameters: declared.parameters,
        windows: declared.windows,
        kind: kind(declared.kind),
        unit: declared.unit,
    });
    let scores = described.scores.into_iter().map(|score| ScoreDeclaration { name: score.name, unit: score.unit });
    Description {
        name: described.name,
        version: described.version,
        observes: described.observes,
        event_reads: reads(described.event_reads),
        score_reads: reads(described.score_reads),
        visitor_reads: reads(described.visitor_reads),
        offer_reads: reads(described.offer_reads),
        aggregates: aggregates.collect(),
        scores: scores.collect(),
        reasons: described.reasons,
        skips: described.skips,
    }
}

fn kind(kind: types::Kind) -> Kind {
    match kind {
        types::Kind::Number => Kind::Number,
        types::Kind::Integer => Kind::Integer,
        types::Kind::Decimal => Kind::Decimal,
        types::Kind::Instant => Kind::Instant,
        types::Kind::Day => Kind::Day,
        types::Kind::Flag => Kind::Flag,
        types::Kind::Choice => Kind::Choice,
        types::Kind::Key => Kind::Key,
        types::Kind::Text => Kind::Text,
    }
}
