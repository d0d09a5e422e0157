//! The engine: wasmtime's settings, and the state of one store.
//!
//! The settings are those that measured best for a fresh instance per request: pooled slots whose first pages stay resident, fuel
//! rather than epochs (it is deterministic), no concurrency support (component calls cost a third). `pagemap_scan` stays off
//! on wasmtime 48: a swapped-out dirty page could survive reuse.

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ResourceLimiter};

use crate::bindings::Complete;
use crate::bindings::selvedge::plugin::{log, types};
use crate::canonical;
use crate::code;
use crate::error::LoadError;

/// Lines that one call may log.
const LOG_LINES_MAX: usize = 64;
/// Bytes of one logged line.
const LOG_LINE_BYTES_MAX: usize = 4 * 1024;
/// Elements of one table (of function references; data has no tables).
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// The engine's bounds.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Instances that may live at once. Callers hold one per plugin and thread, and one more while an aggregate with an operator of its
    /// own is read, so threads × (plugins + 1) is always enough.
    pub instances_max: u32,
    /// Linear memory that one instance may have.
    pub memory_bytes_max: usize,
    /// Instances of one plugin that may wait for a request.
    pub waiting_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { instances_max: 512, memory_bytes_max: 16 * 1024 * 1024, waiting_max: 8 }
    }
}

/// A configured wasmtime with the contract's one import linked.
#[derive(Clone)]
pub struct Engine {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) linker: Linker<HostState>,
    /// The same import, for modules that are called without the component around them.
    pub(crate) core_linker: wasmtime::Linker<HostState>,
    pub(crate) memory_bytes_max: usize,
    pub(crate) waiting_max: usize,
}

impl Engine {
    /// An engine with these bounds.
    pub fn new(bounds: EngineConfig) -> Result<Self, LoadError> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(bounds.instances_max)
            .total_core_instances(bounds.instances_max.saturating_mul(4))
            .total_memories(bounds.instances_max)
            .total_tables(bounds.instances_max.saturating_mul(2))
            .max_memories_per_component(1)
            .max_core_instances_per_component(16)
            .max_memory_size(bounds.memory_bytes_max)
            .table_elements(TABLE_ELEMENTS_MAX)
            .linear_memory_keep_resident(256 * 1024)
            .table_keep_resident(32 * 1024)
            .max_unused_warm_slots(32);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).memory_init_cow(true);
        Self::with(config, bounds)
    }

    /// An engine for a few calls at start: it compiles fast and small rather than well, and has no pool. What a guest computes is the same.
    pub(crate) fn passing(memory_bytes_max: usize) -> Result<Self, LoadError> {
        let mut config = Config::new();
        config.cranelift_opt_level(OptLevel::None).parallel_compilation(false);
        Self::with(config, EngineConfig { memory_bytes_max, waiting_max: 0, ..EngineConfig::default() })
    }

    fn with(mut config: Config, bounds: EngineConfig) -> Result<Self, LoadError> {
        let fault = |error: wasmtime::Error| LoadError::new("engine", format!("{error:#}"));
        config
            .concurrency_support(false)
            .consume_fuel(true)
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            .max_wasm_stack(256 * 1024)
            .cache(code::kept());
        let wasm = wasmtime::Engine::new(&config).map_err(fault)?;
        let mut linker = Linker::new(&wasm);
        Complete::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut HostState| state).map_err(fault)?;
        let core_linker = canonical::link(&wasm).map_err(fault)?;
        let EngineConfig { memory_bytes_max, waiting_max, .. } = bounds;
        Ok(Self { wasm, linker, core_linker, memory_bytes_max, waiting_max })
    }
}

/// What belongs to one store: the limits of its guest and what it logged.
pub(crate) struct HostState {
    memory_bytes_max: usize,
    /// Set when the guest asked for more memory than it may have.
    pub(crate) memory_denied: bool,
    /// Set once a stage is called: until then an error is the host's own.
    pub(crate) called: bool,
    lines: Vec<(log::Level, String)>,
    lines_dropped: usize,
}

impl HostState {
    pub(crate) fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes_max, memory_denied: false, called: false, lines: Vec::new(), lines_dropped: 0 }
    }

    pub(crate) fn memory_bytes_max(&self) -> usize {
        self.memory_bytes_max
    }

    /// Begins anew.
    pub(crate) fn forget(&mut self) {
        (self.memory_denied, self.called, self.lines_dropped) = (false, false, 0);
        self.lines.clear();
    }

    /// The last error that the guest logged: of a panic, its message and place.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.lines.iter().rev().find(|(level, _)| *level == log::Level::Error).map(|(_, line)| line.as_str())
    }

    /// Hands what the guest logged to the host's log.
    pub(crate) fn drain_log(&mut self, plugin: &str) {
        for (level, line) in self.lines.drain(..) {
            match level {
                log::Level::Debug => tracing::debug!(plugin, "{line}"),
                log::Level::Info => tracing::info!(plugin, "{line}"),
                log::Level::Warn => tracing::warn!(plugin, "{line}"),
                log::Level::Error => tracing::error!(plugin, "{line}"),
            }
        }
        if self.lines_dropped > 0 {
            tracing::warn!(plugin, dropped = self.lines_dropped, "lines beyond the limit of a call");
            self.lines_dropped = 0;
        }
    }
}

impl ResourceLimiter for HostState {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.memory_denied |= desired > self.memory_bytes_max;
        Ok(desired <= self.memory_bytes_max)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

impl log::Host for HostState {
    fn log(&mut self, level: log::Level, mut message: String) {
        if self.lines.len() >= LOG_LINES_MAX {
            self.lines_dropped += 1;
            return;
        }
        if message.len() > LOG_LINE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(LOG_LINE_BYTES_MAX));
        }
        self.lines.push((level, message));
    }
}

impl types::Host for HostState {}
