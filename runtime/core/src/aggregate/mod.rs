//! Aggregates: what events add up to.
//!
//! A plugin declares [`Definition`]s; [`Definitions`] compiles those of all plugins into stored states and named readings, once. An
//! event's [`Contribution`]s are merged into [`State`]s; every merge is commutative as far as its reading says `exact`, so replicas
//! that saw the same events in another order agree. Windows are evaluated at read, at a given [`Moment`](crate::time::Moment).
//!
//! Knows nothing of events, JSON or plugins' code. A newcomer reads `operator` (what there is), `merge` (how it comes together), `series` and `sums`
//! (windows) and `evaluate` (reading).

mod by_key;
mod custom;
mod decay;
mod definition;
mod definitions;
mod distinct;
mod evaluate;
mod exactness;
mod finish;
mod given;
mod keyed;
mod merge;
mod moments;
mod operator;
mod parameters;
mod quantiles;
mod reach;
mod reading;
mod recent;
mod series;
mod sessions;
mod state;
mod summary;
mod sums;
mod value;
mod window;

pub use custom::{CustomFault, CustomOperators, Finished, STATE_BYTES_MAX, check_laws};
pub use definition::{Definition, DefinitionError};
pub use definitions::Definitions;
pub use exactness::{Exactness, Off};
pub use given::{GIVEN_KEYS_MAX, Given, GivenError, Total};
pub use operator::Operator;
pub use reach::Reach;
pub use reading::Reading;
pub(crate) use state::When;
pub use state::{Applied, Contribution, State};
pub use value::{Number, Read, Value, Weight};
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
