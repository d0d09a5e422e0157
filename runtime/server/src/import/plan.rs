//! The plan of an import: what its map says that rows become, and where that is sent.

use anyhow::{Context, Result, bail};
use selvedge_core::config::from_toml;
use serde::Deserialize;

use super::assemble::{Assembler, Event, RefusedRows};
use super::links::{LinkMaker, LinkMap};
use super::load::{LoadMaker, LoadMap};
use super::map::{Format, Map};
use super::rows::Row;

/// A map of any kind.
pub enum Plan {
    Events(Box<Map>),
    Load(Box<LoadMap>),
    Links(LinkMap),
}

/// Makes of rows what is sent.
pub enum Maker {
    Events(Box<Assembler>),
    Load(LoadMaker),
    Links(LinkMaker),
}

/// What stands around the entries of a call.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub path: String,
    /// The body up to its first entry; `]}` ends it.
    pub begin: String,
    /// What an entry is called in reports.
    pub entries: &'static str,
}

#[derive(Deserialize)]
struct KindOnly {
    #[serde(default)]
    kind: Option<String>,
}

impl Plan {
    /// Parses and checks a map. `as_of` is the watermark that the command line gives.
    pub fn parse(text: &str, as_of: Option<&str>) -> Result<Self> {
        let kind = toml::from_str::<KindOnly>(text).ok().and_then(|map| map.kind);
        let plan = match kind.as_deref() {
            None | Some("events") => Self::Events(Box::new(Map::parse(text)?)),
            Some("traits" | "mart") => Self::Load(Box::new(LoadMap::parse(text, as_of)?)),
            Some("links") => Self::Links(from_toml(text)?),
            Some(other) => bail!("kind = {other:?} is unknown; there are events, traits, mart and links"),
        };
        if as_of.is_some() && !matches!(plan, Self::Load(_)) {
            bail!("--as-of belongs to maps of kind traits and mart");
        }
        Ok(plan)
    }

    /// The form of the file, where the map says it.
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Events(map) => map.format,
            Self::Load(map) => map.format,
            Self::Links(map) => map.format,
        }
    }

    /// Every column that the map names.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns = match self {
            Self::Events(map) => return map.columns(),
            Self::Load(map) => map.columns(),
            Self::Links(map) => map.columns(),
        };
        columns.retain(|column| *column != "row");
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Resolves the map against a file's columns.
    pub fn maker(&self, columns: &[String]) -> Result<Maker> {
        Ok(match self {
            Self::Events(map) => Maker::Events(Box::new(Assembler::new(map, columns)?)),
            Self::Load(map) => Maker::Load(LoadMaker::new(map, columns)?),
            Self::Links(map) => Maker::Links(LinkMaker::new(map, columns)?),
        })
    }

    /// Where entries go.
    pub fn envelope(&self, reconcile: bool) -> Result<Envelope> {
        if reconcile && !matches!(self, Self::Load(_)) {
            bail!("--reconcile belongs to maps of kind mart");
        }
        Ok(match self {
            Self::Events(_) => {
                Envelope { path: "/v1/batch?ack=durable".into(), begin: "{\"batch\":[".into(), entries: "events" }
            }
            Self::Load(map) => {
                let more = if reconcile { "&reconcile=true" } else { "" };
                let begin = map.begin().context("write the head of a call")?;
                Envelope { path: format!("/v1/mart?ack=durable{more}"), begin, entries: "profiles" }
            }
            Self::Links(_) => {
                Envelope { path: "/v1/identities/links".into(), begin: "{\"links\":[".into(), entries: "links" }
            }
        })
    }

    /// What is loaded, for people: source, block and watermark.
    pub fn load_name(&self) -> Option<String> {
        match self {
            Self::Load(map) => Some(map.name()),
            Self::Events(_) | Self::Links(_) => None,
        }
    }
}

impl Maker {
    /// Whether several rows may be one entry.
    pub fn grouping(&self) -> bool {
        matches!(self, Self::Events(assembler) if assembler.grouping())
    }

    /// Takes note of a row of the first reading.
    pub fn count(&mut self, row: &Row) {
        if let Self::Events(assembler) = self {
            assembler.count(row);
        }
    }

    /// Takes a row. Gives its entry once all rows of it have come.
    pub fn add(&mut self, row: &Row) -> Result<Option<Event>, RefusedRows> {
        let refuse = |reason: &str, detail: String| RefusedRows {
            first_row: row.number,
            rows: 1,
            reason: reason.into(),
            detail: format!("row {}: {detail}", row.number),
        };
        let made = match self {
            Self::Events(assembler) => return assembler.add(row),
            Self::Load(_) | Self::Links(_) if row.odd.is_some() => {
                return Err(refuse("unreadable_row", row.odd.clone().unwrap_or_default()));
            }
            Self::Load(maker) => maker.entry(row).map_err(|(reason, detail)| refuse(reason, detail))?,
            Self::Links(maker) => maker.entry(row),
        };
        Ok(Some(Event { json: made, first_row: row.number, rows: 1 }))
    }

    /// Entries of which rows are still missing at the end of the file.
    pub fn incomplete(&mut self) -> Vec<RefusedRows> {
        match self {
            Self::Events(assembler) => assembler.incomplete(),
            Self::Load(_) | Self::Links(_) => Vec::new(),
        }
    }
}
