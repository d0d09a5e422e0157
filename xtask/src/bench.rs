//! The benches, in one command.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::plugins::{self, Toolchain};
use crate::shell::{root, run};

/// What `cargo xtask bench` can be told.
#[derive(Args)]
pub struct BenchArguments {
    /// The UCI Online Retail data as CSV, also as .gz; without it as many orders are generated.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

/// Builds what the benches need and runs them.
pub fn bench(arguments: &BenchArguments) -> Result<()> {
    let root = root();
    let data =
        arguments.data.as_ref().map(|path| path.canonicalize().with_context(|| format!("read {}", path.display())));
    let data = data.transpose()?;
    plugins::build(Toolchain::Auto)?;
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
