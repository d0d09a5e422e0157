//! What became of the rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use selvedge_core::value::{Decimal, DecimalText};
use serde::Serialize;
use serde_json::value::RawValue;

use super::assemble::RefusedRows;
use super::send::{Reconciled, RejectedEvent};

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
    /// What an entry is called.
    entries: &'static str,
    /// What is loaded, where something is.
    load: Option<String>,
    reconciliation: BTreeMap<String, Sides>,
}

/// What both sides say of one aggregate, over all profiles of the file.
#[derive(Clone, Debug, Default)]
struct Sides {
    profiles: u64,
    agree: u64,
    /// In units of 10⁻⁶; none where it does not add up.
    mart: Option<i128>,
    live: Option<i128>,
}

#[derive(Serialize)]
struct SidesDocument {
    profiles: u64,
    agree: u64,
    mart: Option<Box<RawValue>>,
    live: Option<Box<RawValue>>,
    difference: Option<Box<RawValue>>,
}

impl Sides {
    fn difference(&self) -> Option<i128> {
        Some(self.mart? - self.live?)
    }

    fn document(&self) -> SidesDocument {
        let number = |units: Option<i128>| RawValue::from_string(DecimalText(units?).to_string()).ok();
        SidesDocument {
            profiles: self.profiles,
            agree: self.agree,
            mart: number(self.mart),
            live: number(self.live),
            difference: number(self.difference()),
        }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicates: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<u64>,
    sent_before: u64,
    refused: &'a BTreeMap<String, Refused>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_per_second: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    reconciliation: BTreeMap<&'a str, SidesDocument>,
}

impl Report {
    pub fn new(refused: Option<&Path>, entries: &'static str, load: Option<String>) -> Result<Self> {
        let file =
            refused.map(|path| File::create(path).with_context(|| format!("create {}", path.display()))).transpose()?;
        Ok(Self { file: file.map(BufWriter::new), entries, load, ..Self::default() })
    }

    /// What both sides say of the profiles of one call.
    pub fn reconcile(&mut self, reconciliation: BTreeMap<String, Reconciled>) {
        for (name, more) in reconciliation {
            let sides = self.reconciliation.entry(name).or_default();
            sides.profiles += more.profiles;
            sides.agree += more.agree;
            let units = |raw: Option<Box<RawValue>>| Decimal::parse(raw?.get()).ok().map(|units| i128::from(units.0));
            let add = |held: &mut Option<i128>, more: Option<i128>| {
                *held = more.map(|more| held.unwrap_or(0) + more).or(*held);
            };
            add(&mut sides.mart, units(more.mart));
            add(&mut sides.live, units(more.live));
        }
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
        let entries = self.entries;
        format!("{events} {entries}, {:.0}/s", events as f64 / elapsed.as_secs_f64().max(0.001))
    }

    /// Prints the report.
    pub fn finish(mut self, elapsed: Duration, json: bool) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.flush().context("write the refused rows")?;
        }
        let seconds = elapsed.as_secs_f64();
        let events = self.accepted + self.duplicates;
        let (of_events, entries) = (self.entries == "events", self.entries);
        if json {
            let document = ReportDocument {
                rows: self.rows,
                accepted: self.accepted,
                duplicates: of_events.then_some(self.duplicates),
                unchanged: (!of_events).then_some(self.duplicates),
                sent_before: self.skipped,
                refused: &self.refused,
                seconds,
                events_per_second: of_events.then_some(events as f64 / seconds),
                reconciliation: self
                    .reconciliation
                    .iter()
                    .map(|(name, sides)| (name.as_str(), sides.document()))
                    .collect(),
            };
            println!("{}", serde_json::to_string(&document)?);
            return self.outcome();
        }
        println!(
            "{} rows, {} {entries} accepted, {} {}, in {seconds:.1} s ({:.0} {entries}/s)",
            self.rows,
            self.accepted,
            self.duplicates,
            if of_events { "duplicates" } else { "unchanged" },
            events as f64 / seconds
        );
        if self.skipped > 0 {
            println!("{} {entries} had arrived before", self.skipped);
        }
        if !self.reconciliation.is_empty() {
            println!(
                "{}: the mart, the events up to it, and the difference",
                self.load.as_deref().unwrap_or("both sides")
            );
        }
        for (name, sides) in &self.reconciliation {
            let shown =
                |units: Option<i128>| units.map_or_else(|| "-".to_owned(), |units| DecimalText(units).to_string());
            println!(
                "  {name}: {}, {}, {}; of {} profiles {} agree",
                shown(sides.mart),
                shown(sides.live),
                shown(sides.difference()),
                sides.profiles,
                sides.agree
            );
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
            bail!("no row became one of the {} that were accepted; look at the reasons above", self.entries);
        }
        Ok(())
    }
}
