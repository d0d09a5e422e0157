//! The command line.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::catalogue::command::{self as catalogue, CatalogueCommand};
use crate::config::{CentralArguments, EdgeArguments, RunArguments};
use crate::explain::{self, ExplainArguments};
use crate::export::{self, ExportArguments};
use crate::import::{self, ImportArguments};
use crate::operate::{self, AdminArguments, CentralCommand};
use crate::report::command::{self as report, ReportArguments};
use crate::{app, central, follower};

/// Real-time personalization at the edge: live profiles, scores and offers, decided by sandboxed plugins.
#[derive(Parser)]
#[command(name = "selvedge", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an edge with an embedded centre, in one process with nothing to install.
    Run(Box<RunArguments>),
    /// Run an edge that follows a centre.
    Edge(Box<EdgeArguments>),
    /// Run the centre of many edges, or have one do something.
    #[command(args_conflicts_with_subcommands = true)]
    Central {
        #[command(subcommand)]
        command: Option<CentralCommand>,
        #[command(flatten)]
        arguments: Box<CentralArguments>,
    },
    /// Publish the catalogue: put, draft, schedule, undo, stop offers, take in files. At the admin listener of a centre, of an edge, or of `run`.
    #[command(visible_alias = "catalog", subcommand)]
    Catalogue(CatalogueCommand),
    /// Say how a centre and its edges are, or an edge.
    Status(AdminArguments),
    /// Say what was decided and why, by the id of the decision. At the admin listener of the edge that made it.
    Explain(ExplainArguments),
    /// Say what has become of offers, campaigns and channels over everyone, and of hold-outs and experiments: exposure, conversion and lift.
    Report(ReportArguments),
    /// Read a CSV or NDJSON file (also .gz) into a running Selvedge: events, traits, aggregates of a mart, or links.
    Import(Box<ImportArguments>),
    /// Write events, traits, links and temporary keys since a cursor as NDJSON.
    Export(Box<ExportArguments>),
}

/// Does what the command line asks.
pub fn run() -> Result<()> {
    let command = Arguments::parse().command;
    // Standard output is for answers; the log goes to standard error.
    let filter = EnvFilter::try_from_env("SELVEDGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    match command {
        Command::Run(arguments) => {
            let config = arguments.settle()?;
            keep_code(&config.code_cache);
            app::run(config)
        }
        Command::Edge(arguments) => {
            let (edge, uplink) = arguments.settle()?;
            keep_code(&edge.code_cache);
            follower::run(edge, uplink)
        }
        Command::Central { command: Some(command), .. } => operate::central(command),
        Command::Central { command: None, arguments } => {
            let config = arguments.settle()?;
            keep_code(&config.code_cache);
            central::run(config)
        }
        Command::Catalogue(command) => catalogue::run(command),
        Command::Status(arguments) => operate::status(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Import(arguments) => import::run(*arguments),
        Command::Export(arguments) => export::run(*arguments),
    }
}

/// Keeps what is compiled for the next start. Without it that takes longer, and nothing else.
fn keep_code(folder: &Path) {
    if let Err(error) = selvedge_plugin_host::keep_code(folder) {
        tracing::warn!("compiled plugins are not kept: {error}");
    }
}
