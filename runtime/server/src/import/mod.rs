//! `selvedge import`: rows of a file into events, profiles of a mart's load, or links of a running Selvedge.
//!
//! [`plan`] says what rows become: [`map`] events, [`load`] what a mart says, [`links`] who is who. [`rows`] reads them, [`assemble`] joins rows that are one event, [`send`] posts batches and waits
//! until they are durable, [`resume`] remembers how far it got. The file is read twice where rows are grouped: once to count the rows of
//! each group, so that a group can leave as soon as it is complete and memory holds only those that are not.

mod assemble;
mod links;
mod load;
mod map;
mod plan;
mod report;
mod resume;
mod rows;
mod send;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use selvedge_core::limits;

use self::plan::{Maker, Plan};
use self::report::Report;
use self::resume::Resume;
use self::rows::Source;
use self::send::{Sender, Target, WrongKey};

/// What `selvedge import` can be told.
#[derive(Args, Clone, Debug)]
pub struct ImportArguments {
    /// A CSV or NDJSON file, also compressed as .gz.
    file: PathBuf,
    /// What rows become; see docs/import.md.
    #[arg(long, value_name = "MAP.toml")]
    map: PathBuf,
    /// The public address of an edge.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    to: String,
    /// The write key; for maps of kind traits, mart and links the secret key.
    #[arg(long, env = "SELVEDGE_WRITE_KEY", value_name = "KEY", hide_env_values = true)]
    key: String,
    /// The watermark of a load, RFC 3339: everything up to and with this instant is in the file. Instead of the map's as_of.
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<String>,
    /// Report for each aggregate of a load what the mart says in all, and what the events up to the watermark do.
    #[arg(long)]
    reconcile: bool,
    /// Calls under way at once.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    concurrency: u8,
    /// Seconds for which a call is tried again before the import stops.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
    /// Where to remember how far it got, so that an import that was cut off goes on where it stopped
    /// [default: ./.selvedge-import-HASH.json, removed at the end].
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Begin at the first row whatever an earlier import did.
    #[arg(long)]
    restart: bool,
    /// Write every refused row to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Imports a file.
pub fn run(arguments: ImportArguments) -> Result<()> {
    let started = Instant::now();
    let text = std::fs::read_to_string(&arguments.map).with_context(|| format!("read {}", arguments.map.display()))?;
    let map =
        Plan::parse(&text, arguments.as_of.as_deref()).with_context(|| format!("map {}", arguments.map.display()))?;
    let envelope = map.envelope(arguments.reconcile)?;
    let entries = envelope.entries;
    let target = Target::new(&arguments.to, &arguments.key, Duration::from_secs(arguments.patience), envelope)?;
    let log = target.log_id()?;
    let mut resume = Resume::open(&arguments, &text, &log)?;
    let mut report = Report::new(arguments.refused.as_deref(), entries, map.load_name())?;

    let bytes = std::fs::metadata(&arguments.file).with_context(|| format!("read {}", arguments.file.display()))?.len();
    let mut source = Source::open(&arguments.file, &map)?;
    let mut assembler = map.maker(source.columns())?;
    if assembler.grouping() {
        let counting = progress(bytes, "counting rows");
        while let Some(row) = source.next_row()? {
            if let Ok(row) = row {
                assembler.count(&row);
            }
            counting.set_position(source.position());
        }
        counting.finish_and_clear();
        source = Source::open(&arguments.file, &map)?;
    }

    let bar = progress(bytes, "importing");
    let mut sender = Sender::start(&target, usize::from(arguments.concurrency), resume.events_done());
    let outcome = send_all(&mut source, &mut assembler, &mut sender, &mut report, &mut resume, &bar);
    let finished = sender.finish(&mut report, &mut resume);
    bar.finish_and_clear();
    if let Err(error) = outcome.and(finished) {
        if error.is::<WrongKey>() {
            return Err(error);
        }
        return Err(error.context(
            "the import stopped; run the same command again to go on where it stopped (events that arrived already count once)",
        ));
    }
    resume.done()?;
    report.finish(started.elapsed(), arguments.json)
}

fn send_all(
    source: &mut Source,
    assembler: &mut Maker,
    sender: &mut Sender,
    report: &mut Report,
    resume: &mut Resume,
    bar: &ProgressBar,
) -> Result<()> {
    let mut shown = Instant::now();
    while let Some(row) = source.next_row()? {
        report.rows += 1;
        match row.map_err(Into::into).and_then(|row| assembler.add(&row)) {
            Ok(Some(event)) if event.json.len() > limits::EVENT_BYTES_MAX => report.refuse_row(event.too_large())?,
            Ok(Some(event)) => sender.send(event, report, resume)?,
            Ok(None) => {}
            Err(refused) => report.refuse_row(refused)?,
        }
        if shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            bar.set_position(source.position());
            bar.set_message(report.rate(bar.elapsed()));
        }
    }
    for refused in assembler.incomplete() {
        report.refuse_row(refused)?;
    }
    Ok(())
}

fn progress(bytes: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {percent}%  {msg}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(what);
    bar
}
