//! What became of the rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::assemble::RefusedRows;
use super::send::RejectedEvent;

/// Row numbers that are named for each reason.
const EXAMPLES_MAX: usize = 5;

/// Counts, and refused rows by reason.
#[derive(Default)]
pub struct Report {
    pub rows: u64,
    pub accepted: u64,
    pub duplicates: u64,
    /// Events that an earlier run had sent.
    pub skipped: u64,
    refused: BTreeMap<String, Refused>,
    file: Option<BufWriter<File>>,
}

/// Refused rows of one reason.
#[derive(Clone, Default, Serialize)]
struct Refused {
    events: u64,
    rows: u64,
    first_rows: Vec<u64>,
    example: String,
}

#[derive(Serialize)]
struct RefusedLine<'a> {
    row: u64,
    rows: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pointer: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportDocument<'a> {
    rows: u64,
    accepted: u64,
    duplicates: u64,
    sent_before: u64,
    refused: &'a BTreeMap<String, Refused>,
    seconds: f64,
    events_per_second: f64,
}

impl Report {
    pub fn new(refused: Option<&Path>) -> Result<Self> {
        let file =
            refused.map(|path| File::create(path).with_context(|| format!("create {}", path.display()))).transpose()?;
        Ok(Self { file: file.map(BufWriter::new), ..Self::default() })
    }

    /// Rows that became no event.
    pub fn refuse_row(&mut self, refused: RefusedRows) -> Result<()> {
        let RefusedRows { first_row, rows, reason, detail } = refused;
        self.refuse(first_row, rows, reason, "", detail)
    }

    /// An event that the target refused.
    pub fn refuse_event(&mut self, (first_row, rows): (u64, u64), rejected: RejectedEvent) -> Result<()> {
        let RejectedEvent { code, pointer, detail, .. } = rejected;
        self.refuse(first_row, rows, code, &pointer, detail)
    }

    fn refuse(&mut self, first_row: u64, rows: u64, reason: String, pointer: &str, detail: String) -> Result<()> {
        if let Some(file) = &mut self.file {
            let line = RefusedLine { row: first_row, rows, reason: &reason, pointer, detail: &detail };
            serde_json::to_writer(&mut *file, &line).context("write the refused rows")?;
            file.write_all(b"\n").context("write the refused rows")?;
        }
        let refused = self.refused.entry(reason).or_default();
        refused.events += 1;
        refused.rows += rows;
        if refused.first_rows.len() < EXAMPLES_MAX {
            refused.first_rows.push(first_row);
        }
        if refused.example.is_empty() {
            refused.example = detail;
        }
        Ok(())
    }

    /// The rate so far, for the progress bar.
    pub fn rate(&self, elapsed: Duration) -> String {
        let events = self.accepted + self.duplicates;
        format!("{events} events, {:.0}/s", events as f64 / elapsed.as_secs_f64().max(0.001))
    }

    /// Prints the report.
    pub fn finish(mut self, elapsed: Duration, json: bool) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.flush().context("write the refused rows")?;
        }
        let seconds = elapsed.as_secs_f64();
        let events = self.accepted + self.duplicates;
        if json {
            let document = ReportDocument {
                rows: self.rows,
                accepted: self.accepted,
                duplicates: self.duplicates,
                sent_before: self.skipped,
                refused: &self.refused,
                seconds,
                events_per_second: events as f64 / seconds,
            };
            println!("{}", serde_json::to_string(&document)?);
            return self.outcome();
        }
        println!(
            "{} rows, {} events accepted, {} duplicates, in {seconds:.1} s ({:.0} events/s)",
            self.rows,
            self.accepted,
            self.duplicates,
            events as f64 / seconds
        );
        if self.skipped > 0 {
            println!("{} events had arrived before", self.skipped);
        }
        if self.refused.is_empty() {
            println!("no row refused");
        }
        for (reason, refused) in &self.refused {
            let rows: Vec<String> = refused.first_rows.iter().map(u64::to_string).collect();
            let more = if refused.events as usize > rows.len() { ", …" } else { "" };
            println!(
                "{} rows refused: {reason} (first rows {}{more}): {}",
                refused.rows,
                rows.join(", "),
                refused.example
            );
        }
        self.outcome()
    }

    /// An import of which nothing arrived has failed, whatever was wrong with its rows.
    fn outcome(&self) -> Result<()> {
        if !self.refused.is_empty() && self.accepted + self.duplicates + self.skipped == 0 {
            bail!("no row became an event that was accepted; look at the reasons above");
        }
        Ok(())
    }
}
