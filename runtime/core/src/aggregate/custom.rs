//! Aggregates whose state and merge are a plugin's own: the door through which the fold calls them.

use std::fmt;

/// Bytes of one state.
pub const STATE_BYTES_MAX: usize = 4096;

/// What a state comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finished {
    /// Nothing.
    Absent,
    /// In the representation of the aggregate's kind.
    Fixed(i64),
    /// A floating-point number.
    Number(f64),
}

/// A plugin gave no answer: it failed, trapped, ran out of fuel, or its state outgrew [`STATE_BYTES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CustomFault(pub String);

/// The functions that a plugin gives its own aggregates, by position in its declarations. They are pure: the same arguments give the same
/// answer. `merge` is associative and commutative with `init` as its identity, and `update(merge(a, b), c)` is `merge(a, update(b, c))`; both
/// are checked on samples when the plugin is loaded.
pub trait CustomOperators: fmt::Debug + Send + Sync {
    /// The state before any contribution.
    fn init(&self, aggregate: u32) -> Vec<u8>;
    /// A state with one contribution more.
    fn update(&self, aggregate: u32, state: &[u8], key: &str, value: i64) -> Result<Vec<u8>, CustomFault>;
    /// The state of the contributions of both.
    fn merge(&self, aggregate: u32, one: &[u8], other: &[u8]) -> Result<Vec<u8>, CustomFault>;
    /// What a state comes to.
    fn finish(&self, aggregate: u32, state: &[u8]) -> Result<Finished, CustomFault>;
}
