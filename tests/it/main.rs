//! Everything that drives the real binary.

#![allow(clippy::unwrap_used)] // a test's panic is its answer

mod cdnow;
mod retail;
