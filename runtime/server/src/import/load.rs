//! Loads from rows: one profile a row, with the traits and aggregates that a batch system has of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use selvedge_core::config::from_toml;
use selvedge_core::mart::check_name;
use selvedge_core::time::BusinessTime;
use selvedge_core::value::{Decimal, Timestamp};
use serde::Deserialize;

use super::assemble::{Template, json_text, wall_clock};
use super::map::{Format, placeholders};
use super::rows::Row;

/// A map of kind `traits` or `mart`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadMap {
    kind: String,
    pub format: Option<Format>,
    source: String,
    block: String,
    /// The watermark, unless the command line gives it.
    as_of: Option<String>,
    #[serde(default)]
    load: String,
    /// The identifier as a template, such as `user:{CustomerID}`.
    id: String,
    #[serde(default)]
    traits: BTreeMap<String, Cell>,
    #[serde(default)]
    aggregates: BTreeMap<String, Columns>,
}

/// Where a trait comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Cell {
    /// A text with `{Column}` in it.
    Text(String),
    Columns(Columns),
}

/// Columns by what is in them: one of the first five.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Columns {
    /// Whatever the aggregate takes, as a text.
    value: Option<String>,
    /// A number, exactly as it stands.
    number: Option<String>,
    /// true, false, yes, no, 1 or 0.
    flag: Option<String>,
    instant: Option<String>,
    json: Option<String>,
    /// Of a first or last value: when it was.
    at: Option<String>,
    /// Likewise: its key.
    key: Option<String>,
    /// Of instants, as in strftime; RFC 3339 where none is given.
    format: Option<String>,
    /// The zone of a wall-clock time without offset.
    time_zone: Option<String>,
}

impl Columns {
    fn named(&self) -> impl Iterator<Item = &str> {
        let all = [&self.value, &self.number, &self.flag, &self.instant, &self.json, &self.at, &self.key];
        all.into_iter().flatten().map(String::as_str)
    }

    fn check(&self, name: &str) -> Result<()> {
        let whats = [&self.value, &self.number, &self.flag, &self.instant, &self.json];
        if whats.into_iter().flatten().count() != 1 {
            bail!("{name:?} takes one of value, number, flag, instant and json, with a column's name");
        }
        if (self.at.is_some() || self.key.is_some()) && (self.value.is_none() && self.instant.is_none()) {
            bail!("{name:?}: at and key go with value");
        }
        if self.key.is_some() && self.at.is_none() {
            bail!("{name:?}: key goes with at");
        }
        if (self.format.is_some() || self.time_zone.is_some()) && self.instant.is_none() && self.at.is_none() {
            bail!("{name:?}: format and time_zone go with instant or at");
        }
        Ok(())
    }
}

impl LoadMap {
    /// Parses and checks a map.
    pub fn parse(text: &str, as_of: Option<&str>) -> Result<Self> {
        let mut map: Self = from_toml(text)?;
        if let Some(given) = as_of {
            map.as_of = Some(given.to_owned());
        }
        let Some(as_of) = &map.as_of else {
            bail!("give the watermark, the instant up to which everything is in the file: as_of in the map, or --as-of")
        };
        Timestamp::parse(as_of).with_context(|| format!("as_of = {as_of:?}"))?;
        for (what, name) in [("source", &map.source), ("block", &map.block)] {
            if let Err(fault) = check_name(name) {
                bail!("{what} = {name:?} {fault}");
            }
        }
        if map.kind == "traits" && !map.aggregates.is_empty() {
            bail!("a map of kind traits has no [aggregates]; make it kind = \"mart\"");
        }
        if map.traits.is_empty() && map.aggregates.is_empty() {
            bail!("name at least one column in [traits] or [aggregates]");
        }
        for (name, cell) in &map.traits {
            let Cell::Columns(columns) = cell else { continue };
            columns.check(name)?;
            if columns.value.is_some() || columns.at.is_some() {
                bail!(
                    "the trait {name:?} takes a text, number, flag, instant or json; value and at are for aggregates"
                );
            }
        }
        map.aggregates.iter().try_for_each(|(name, columns)| columns.check(name))?;
        Ok(map)
    }

    /// Every column that it names.
    pub fn columns(&self) -> Vec<&str> {
        let traits = self.traits.values().flat_map(|cell| -> Vec<&str> {
            match cell {
                Cell::Text(template) => placeholders(template).collect(),
                Cell::Columns(columns) => columns.named().collect(),
            }
        });
        placeholders(&self.id).chain(traits).chain(self.aggregates.values().flat_map(Columns::named)).collect()
    }

    /// The body of a call up to its first profile.
    pub fn begin(&self) -> Result<String> {
        let head = serde_json::json!({
            "source": self.source, "block": self.block, "asOf": self.as_of, "load": self.load,
        });
        let head = head.to_string();
        let inside = head.strip_suffix('}').context("a JSON object ends with a brace")?;
        Ok(format!("{inside},\"profiles\":["))
    }

    /// Source, block and watermark, for people.
    pub fn name(&self) -> String {
        format!("{}/{} as of {}", self.source, self.block, self.as_of.as_deref().unwrap_or_default())
    }
}

/// Makes profiles of rows.
pub struct LoadMaker {
    id: Template,
    traits: Vec<(String, Entry)>,
    aggregates: Vec<(String, Entry)>,
}

enum Entry {
    Text(Template),
    Value(usize),
    Number(usize),
    Flag(usize),
    Instant(usize, Clock),
    Json(usize),
    Placed { value: Box<Entry>, at: Box<Entry>, key: Option<Box<Entry>> },
}

#[derive(Clone)]
struct Clock {
    format: Option<String>,
    zone: Option<BusinessTime>,
}

/// Why a row makes no profile: a stable reason, and the detail.
type Fault = (&'static str, String);

impl LoadMaker {
    /// Resolves a map against a file's columns.
    pub fn new(map: &LoadMap, columns: &[String]) -> Result<Self> {
        let column = |name: &str| {
            columns.iter().position(|known| known == name).with_context(|| format!("there is no column {name:?}"))
        };
        let entry = |columns: &Columns| -> Result<Entry> {
            let zone = columns.time_zone.as_deref().map(BusinessTime::new).transpose()?;
            let clock = Clock { format: columns.format.clone(), zone };
            let plain = match columns {
                Columns { value: Some(value), .. } => Entry::Value(column(value)?),
                Columns { number: Some(number), .. } => Entry::Number(column(number)?),
                Columns { flag: Some(flag), .. } => Entry::Flag(column(flag)?),
                Columns { instant: Some(instant), .. } => Entry::Instant(column(instant)?, clock.clone()),
                Columns { json: Some(json), .. } => Entry::Json(column(json)?),
                _ => bail!("an entry without a column"),
            };
            let Some(at) = &columns.at else { return Ok(plain) };
            let key = columns.key.as_deref().map(|key| column(key).map(|key| Box::new(Entry::Value(key))));
            let at = Box::new(Entry::Instant(column(at)?, clock));
            Ok(Entry::Placed { value: Box::new(plain), at, key: key.transpose()? })
        };
        let of_trait = |cell: &Cell| match cell {
            Cell::Text(template) => Template::parse(template, &column).map(Entry::Text),
            Cell::Columns(columns) => entry(columns),
        };
        Ok(Self {
            id: Template::parse(&map.id, &column)?,
            traits: map.traits.iter().map(|(name, cell)| Ok((name.clone(), of_trait(cell)?))).collect::<Result<_>>()?,
            aggregates: map
                .aggregates
                .iter()
                .map(|(name, columns)| Ok((name.clone(), entry(columns)?)))
                .collect::<Result<_>>()?,
        })
    }

    /// The profile of a row as JSON. What is empty is left out.
    pub fn entry(&self, row: &Row) -> Result<String, Fault> {
        let mut json = format!("{{\"id\":{}", json_text(self.id.fill(row).trim()));
        for (field, entries) in [("traits", &self.traits), ("aggregates", &self.aggregates)] {
            let mut separator = "";
            // Writing to a string cannot fail.
            let _ = write!(json, ",\"{field}\":{{");
            for (name, entry) in entries {
                let Some(value) = entry.json(row).map_err(|(reason, detail)| (reason, format!("{name}: {detail}")))?
                else {
                    continue;
                };
                let _ = write!(json, "{separator}{}:{value}", json_text(name));
                separator = ",";
            }
            json.push('}');
        }
        json.push('}');
        Ok(json)
    }
}

impl Entry {
    /// Its value as JSON; none where the row has none.
    fn json(&self, row: &Row) -> Result<Option<String>, Fault> {
        let text = |column: &usize| row.values.get(*column).unwrap_or_default().trim();
        let cell = match self {
            Self::Text(template) => {
                let text = template.fill(row);
                return Ok((!text.trim().is_empty()).then(|| json_text(&text)));
            }
            Self::Placed { value, at, key } => {
                let Some(value) = value.json(row)? else { return Ok(None) };
                let Some(at) = at.json(row)? else {
                    return Err(("bad_time", "has a value and no time".to_owned()));
                };
                let key = key.as_ref().map(|key| key.json(row)).transpose()?.flatten();
                let key = key.map(|key| format!(",\"key\":{key}")).unwrap_or_default();
                return Ok(Some(format!("{{\"value\":{value},\"at\":{at}{key}}}")));
            }
            Self::Value(column) | Self::Number(column) | Self::Flag(column) | Self::Json(column) => text(column),
            Self::Instant(column, _) => text(column),
        };
        if cell.is_empty() {
            return Ok(None);
        }
        Ok(Some(match self {
            Self::Number(_) => {
                Decimal::parse(cell).map_err(|error| ("bad_number", format!("{cell:?} is {error}")))?.to_string()
            }
            Self::Flag(_) => match cell.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => "true".to_owned(),
                "false" | "no" | "0" => "false".to_owned(),
                _ => return Err(("bad_flag", format!("{cell:?} is none of true, false, yes, no, 1 and 0"))),
            },
            Self::Json(_) => match serde_json::from_str::<serde_json::Value>(cell) {
                Ok(_) => cell.to_owned(),
                Err(error) => return Err(("bad_json", format!("is not JSON: {error}"))),
            },
            Self::Instant(_, Clock { format, zone }) => {
                let at = wall_clock(cell, format.as_deref(), zone.as_ref());
                let at = at.ok_or_else(|| ("bad_time", format!("{cell:?} is not a time of the map's format")))?;
                json_text(&at.to_string())
            }
            _ => json_text(cell),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        kind = "mart"
        source = "crm"
        block = "orders"
        as_of = "2026-01-05T00:00:00Z"
        id = "user:{Id}"
        [traits]
        segment = "{Segment}"
        vip = { flag = "Vip" }
        [aggregates]
        "retail.orders" = { value = "Orders" }
        "retail.last_purchase_amount" = { value = "Last", at = "LastAt", format = "%d.%m.%Y" }
    "#;

    fn made(values: &[&str]) -> Result<String, Fault> {
        let map = LoadMap::parse(GOOD, None).expect("a good map");
        let columns: Vec<String> =
            ["Id", "Segment", "Vip", "Orders", "Last", "LastAt"].iter().map(|name| (*name).to_owned()).collect();
        let maker = LoadMaker::new(&map, &columns).expect("its columns are there");
        maker.entry(&Row { number: 1, values: values.iter().collect(), odd: None })
    }

    #[test]
    fn a_row_becomes_a_profile() {
        let whole = made(&["7", "A \"gold\"", "Yes", "34", "12.50", "31.12.2025"]).expect("a profile");
        assert_eq!(
            whole,
            r#"{"id":"user:7","traits":{"segment":"A \"gold\"","vip":true},"aggregates":{"retail.last_purchase_amount":{"value":"12.50","at":"2025-12-31T00:00:00Z"},"retail.orders":"34"}}"#
        );
        assert_eq!(made(&["7", "", "", "", "", ""]).as_deref(), Ok(r#"{"id":"user:7","traits":{},"aggregates":{}}"#));
        assert_eq!(made(&["7", "", "maybe", "", "", ""]).expect_err("a flag").0, "bad_flag");
        assert_eq!(made(&["7", "", "", "", "1", ""]).expect_err("no time").0, "bad_time");
        assert_eq!(made(&["7", "", "", "", "1", "2025"]).expect_err("no time").0, "bad_time");
    }

    #[test]
    fn a_faulty_map_names_its_fault() {
        let fault = |from: &str, to: &str| {
            format!("{:#}", LoadMap::parse(&GOOD.replace(from, to), None).expect_err("a faulty map"))
        };
        assert!(fault("as_of = \"2026-01-05T00:00:00Z\"", "").contains("--as-of"));
        assert!(fault("2026-01-05T00:00:00Z", "yesterday").contains("RFC 3339"));
        assert!(fault("\"crm\"", "\"the crm\"").contains("the crm"));
        assert!(fault("kind = \"mart\"", "kind = \"traits\"").contains("kind = \"mart\""));
        assert!(fault("{ value = \"Orders\" }", "{ value = \"Orders\", number = \"Orders\" }").contains("one of"));
        assert!(fault("{ flag = \"Vip\" }", "{ value = \"Vip\" }").contains("\"vip\""));
        let other = LoadMap::parse(GOOD, Some("2026-02-01T00:00:00Z")).expect("a good map");
        assert_eq!(other.name(), "crm/orders as of 2026-02-01T00:00:00Z");
        assert!(other.begin().expect("a head").ends_with("\"profiles\":["));
    }
}
