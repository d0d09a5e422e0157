//! Everything that drives the real binary.

#![allow(clippy::unwrap_used)] // a test's panic is its answer

mod aggregates;
mod api;
mod backfill;
mod cases;
mod cdnow;
mod clients;
mod crash;
mod erasure;
mod faults;
mod history;
mod identity;
mod import;
mod mart;
mod retail;
mod retraction;
mod sync;
