//! `cargo xtask`: the project's chores, each one command. What CI runs is `cargo xtask test`.

mod plugins;
mod shell;

use anyhow::Result;
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
    /// Compile every plugin under plugins/ to a component in target/plugins/NAME.wasm, its configuration NAME.toml beside it.
    Plugins {
        /// How to compile for wasm32-unknown-unknown: with the rustup target, with Debian's rustc-web, or with the first that works.
        #[arg(long, value_enum, default_value_t)]
        toolchain: Toolchain,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().chore {
        Chore::Plugins { toolchain } => plugins::build(toolchain).map(|_| ()),
    }
}
