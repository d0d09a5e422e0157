//! The plugin host: loads WebAssembly components that keep the contract in `wit/`, and calls them.
//!
//! It knows wasmtime and plain core values. It never knows a shard, a log or HTTP. What it guarantees:
//!
//! - an instance serves one event or one request and is then dropped, or put back to what it was when it was new: no byte of one visitor is ever left for another;
//! - a plugin imports nothing but the log: no clock, no randomness, no files, no network;
//! - every call ends: fuel, memory, output and log lines are bounded, and the outcome of a breach is typed ([`CallError`]);
//! - names are resolved to columns when plugins are loaded, never in a call.
//!
//! A newcomer reads [`component`] (bytes to a checked, described component), [`plugins`] (several of them, their names resolved against
//! each other) and [`invocation`] (one request). `preinit.rs` makes a plugin of its configuration before the first of these; `guest.rs` is one instance, of a
//! component or, by `canonical.rs`, of the core module that is in it, which `kept.rs` makes like new for the next request. `code.rs`
//! keeps what was compiled for the next start.

mod bindings;
mod canonical;
mod code;
pub mod component;
mod core_module;
mod custom;
pub mod engine;
mod error;
mod guest;
pub mod invocation;
mod kept;
pub mod plugins;
mod preinit;

pub use code::keep_code;
pub use component::Component;
pub use engine::{Engine, EngineConfig};
pub use error::{CallError, CatalogFault, ConfigFault, LoadError};
pub use invocation::{Invocation, Told};
pub use plugins::{CatalogReads, Plugin, PluginSet};
