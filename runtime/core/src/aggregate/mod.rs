//! Aggregates: what events add up to.
//!
//! A plugin declares [`Definition`]s; [`Definitions`] compiles those of all plugins into stored states and named readings, once. An
//! event's [`Contribution`]s are merged into [`State`]s; every merge is commutative as far as its reading says `exact`, so replicas
//! that saw the same events in another order agree. Windows are evaluated at read, at a given [`Moment`](crate::time::Moment).
//!
//! Knows nothing of events, JSON or plugins' code.

mod decay;
mod distinct;
mod keyed;
mod operator;
mod reading;
mod series;
mod state;
mod window;

pub use operator::{Definition, DefinitionError, Operator};
pub use reading::{Definitions, Reading, Value, Weight};
pub use state::{Contribution, State};
pub use window::{Window, parse_duration_ms};

/// Inserts into a sorted list that lives long and grows seldom: an eighth of room at a time, where a vector would take double.
fn insert_tight<T>(list: &mut Vec<T>, index: usize, value: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 8 + 1);
    }
    list.insert(index, value);
}

/// Bytes of a key beside the list that it stands in: short keys have none.
pub(crate) fn heap_bytes(key: &compact_str::CompactString) -> usize {
    if key.is_heap_allocated() { key.capacity() } else { 0 }
}
