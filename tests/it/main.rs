//! Everything that drives the real binary.

#![allow(clippy::unwrap_used)] // a test's panic is its answer

mod aggregates;
mod api;
mod audiences;
mod backfill;
mod cases;
mod catalogue;
mod cdnow;
mod clients;
mod crash;
mod decisions;
mod demo;
mod erasure;
mod everyone;
mod faults;
mod forms;
mod history;
mod identity;
mod import;
mod mart;
#[path = "../../runtime/central/tests/support/postgres.rs"]
#[allow(dead_code)] // the log's own tests use the rest
mod postgres;
mod retail;
mod retraction;
mod storm;
mod sync;
