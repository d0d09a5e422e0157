//! The `selvedge` binary. `cli.rs` says what can be asked of it, `app.rs` wires it.

mod admin;
mod answer;
mod app;
mod auth;
mod backfill;
mod budgets;
mod catalogue;
mod central;
mod cli;
mod clock;
mod config;
mod console;
mod dead_letters;
mod decided;
mod edge;
mod erasures;
mod error;
mod explain;
mod export;
mod follower;
mod gate;
mod ids;
mod import;
mod metrics;
mod observer;
mod operate;
mod outbound;
mod pipeline;
mod policy;
mod rates;
mod records;
mod release;
mod report;
mod serve;
mod stopped;
mod sync;
mod tokens;

use std::process::ExitCode;

/// Many short-lived allocations of many sizes: what mimalloc is made for. Tests count them.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
