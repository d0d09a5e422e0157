//! The benches, in one command.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::plugins::{self, Toolchain};
use crate::shell::{root, run};

/// What `cargo xtask bench` can be told.
#[derive(Args)]
pub struct BenchArguments {}

/// Builds what the benches need and runs them.
pub fn bench(_: &BenchArguments) -> Result<()> {
    let root = root();
    plugins::build(Toolchain::Auto)?;
    let cargo = |arguments: &[&str]| run(Command::new("cargo").args(arguments).current_dir(&root));
    cargo(&["build", "--release", "--locked", "--workspace", "--all-targets"])?;
    cargo(&["bench", "--locked", "--workspace", "--bench", "plugin_call"])?;
    cargo(&["bench", "--locked", "--workspace", "--bench", "first_decision"])
}
