//! The load bench. `cargo xtask bench` builds what it needs and runs `selvedge-bench run`; docs/performance.md says what is measured and how.

mod answer;
mod connection;
mod data;
mod floors;
mod judge;
mod load;
mod machine;
mod measure;
mod native;
mod offering;
mod others;
mod page;
mod plots;
mod prepare;
mod process;
mod report;
mod request;
mod rows;
mod run;
mod scaling;
mod sized;
mod start;
mod zipf;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The load bench of Selvedge.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything; see `cargo xtask bench`.
    Run(run::RunArguments),
    /// Measure what a decision costs as its surroundings grow; see `cargo xtask bench --scaling`.
    Scaling(scaling::ScalingArguments),
    /// Load one server for as long as it is profiled; see `cargo xtask flame`.
    Flame(run::FlameArguments),
    /// Load floors and servers with what most requests are, and end them as an operator would; see `cargo xtask dist --train`.
    Train,
    /// Serve floor A: bare axum, the same sizes, nothing decided.
    FloorA(floors::FloorArguments),
    /// Serve floor B: axum, the same decision natively, profiles in memory.
    FloorB(floors::FloorArguments),
}

fn main() -> ExitCode {
    let done: Result<()> = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Scaling(arguments) => scaling::scaling(&arguments),
        Command::Flame(arguments) => run::flame(&arguments),
        Command::Train => run::train(),
        Command::FloorA(arguments) => floors::a(&arguments),
        Command::FloorB(arguments) => floors::b(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
