//! The benches, in one command: the load bench against floors, or the micro-benches.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::dist::load_bench;
use crate::plugins::{self, Toolchain};
use crate::shell::{exists, root, run};

/// What `cargo xtask bench` can be told.
#[derive(Args)]
pub struct BenchArguments {
    /// Shorter measurements, about three minutes in all once everything is built.
    #[arg(long)]
    quick: bool,
    /// A million profiles instead of a hundred thousand.
    #[arg(long)]
    large: bool,
    /// Only these rows, and the floors, or only these axes; docs/performance.md stays as it is.
    #[arg(long, value_name = "NAME,…")]
    only: Option<String>,
    /// How often each row is measured [default: 3; 1 with --scaling --quick].
    #[arg(long, value_name = "N")]
    repetitions: Option<u32>,
    /// Seconds of each loop.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Connections of the load generator [default: 64].
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// What a decision costs by profiles, values, offers, plugins, cores and bytes of a request instead; with --only some of these.
    #[arg(long, conflicts_with_all = ["large", "micro"])]
    scaling: bool,
    /// The micro-benches instead: a plugin's call, aggregates, identity, backfill, and decisions over imported orders one at a time.
    #[arg(long)]
    micro: bool,
    /// For the micro-benches the UCI Online Retail data as CSV, also as .gz; without it as many orders are generated.
    #[arg(long, value_name = "FILE", requires = "micro")]
    data: Option<PathBuf>,
}

/// Builds what the benches need and runs them.
pub fn bench(arguments: &BenchArguments) -> Result<()> {
    plugins::build(Toolchain::Auto)?;
    if arguments.micro {
        return micro(arguments);
    }
    if !arguments.scaling {
        wasi()?;
    }
    let mut bench = load_bench()?;
    bench.arg(if arguments.scaling { "scaling" } else { "run" });
    for (name, wanted) in [("--quick", arguments.quick), ("--large", arguments.large)] {
        bench.args(wanted.then_some(name));
    }
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    for (name, value) in [
        ("--only", arguments.only.clone()),
        ("--repetitions", number(arguments.repetitions)),
        ("--connections", number(arguments.connections)),
        ("--seconds", arguments.seconds.map(|seconds| seconds.to_string())),
    ] {
        bench.args(value.iter().flat_map(|value| [name, value.as_str()]));
    }
    run(&mut bench)
}

/// Builds the component that `wasmtime serve` is measured with, where there is a wasmtime. The row is left out without it.
fn wasi() -> Result<()> {
    if !exists("wasmtime") {
        return Ok(());
    }
    let component = root().join("target/bench/wasi.wasm");
    fs::create_dir_all(root().join("target/bench")).context("create target/bench")?;
    let built = plugins::build_alone(&root().join("bench/wasi"), "selvedge_bench_wasi.wasm", &component);
    if let Err(error) = built {
        eprintln!("The row wasmtime_serve has no component: {error:#}");
        if component.exists() {
            fs::remove_file(&component).with_context(|| format!("remove {}", component.display()))?;
        }
    }
    Ok(())
}

fn micro(arguments: &BenchArguments) -> Result<()> {
    let root = root();
    let data =
        arguments.data.as_ref().map(|path| path.canonicalize().with_context(|| format!("read {}", path.display())));
    let data = data.transpose()?;
    let cargo = |arguments: &[&str]| run(Command::new("cargo").args(arguments).current_dir(&root));
    cargo(&["build", "--release", "--locked", "--workspace", "--all-targets"])?;
    for bench in ["plugin_call", "aggregates", "identity"] {
        cargo(&["bench", "--locked", "--workspace", "--bench", bench])?;
    }
    for bench in ["backfill", "first_decision"] {
        let mut with_data = Command::new("cargo");
        with_data.args(["bench", "--locked", "--workspace", "--bench", bench]).current_dir(&root);
        run(with_data.envs(data.iter().map(|path| ("SELVEDGE_BENCH_DATA", path))))?;
    }
    Ok(())
}
