//! The arithmetic that the measured plugin runs, for the native floor: the very same file.

#[path = "../../tests/guests/bench/src/judge.rs"]
mod shared;

pub use shared::{CODES, LEVELS, NUMBERS, priority, propensity};
