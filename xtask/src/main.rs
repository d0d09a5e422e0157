//! `cargo xtask`: the project's chores, each one command. What CI runs is `cargo xtask test`.

mod bench;
mod demo;
mod demo_edges;
mod dist;
mod flame;
mod flame_graph;
mod plugins;
mod postgres;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::plugins::Toolchain;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build and start the demo: an edge with the sample plugins, simulated visitors, and a small storefront; or a centre and several edges.
    Demo(demo::DemoArguments),
    /// Run everything that CI runs: format, lints, guest builds, all tests. Installs what they need.
    Test(test::TestArguments),
    /// Compile every plugin under plugins/ to a component in target/plugins/NAME.wasm, its configuration NAME.toml beside it.
    Plugins {
        /// How to compile for wasm32-unknown-unknown.
        #[arg(long, value_enum, default_value_t)]
        toolchain: Toolchain,
    },
    /// Measure requests a second and latencies beside what HTTP alone costs, in one run; or, with --micro, the parts.
    Bench(bench::BenchArguments),
    /// Build what is shipped, target/dist/selvedge: linked as a whole, by a profile of what runs under load.
    Dist(dist::DistArguments),
    /// Draw where the time of a server under load goes, to target/bench/flame.svg.
    Flame(flame::FlameArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Demo(arguments) => demo::demo(&arguments),
        Chore::Test(arguments) => test::test(&arguments),
        Chore::Plugins { toolchain } => plugins::build(toolchain).map(|_| ()),
        Chore::Bench(arguments) => bench::bench(&arguments),
        Chore::Dist(arguments) => dist::dist(&arguments),
        Chore::Flame(arguments) => flame::flame(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
