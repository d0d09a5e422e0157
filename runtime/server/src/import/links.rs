//! Links from rows: a mart's surrogate keys come back as the other half of the temporary keys that it was told of.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::assemble::{Template, json_text};
use super::map::{Format, placeholders};
use super::rows::Row;

/// A map of kind `links`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkMap {
    #[allow(dead_code)] // it is what chose this form
    kind: String,
    pub format: Option<Format>,
    /// Two identifiers as templates, such as `user:{Key}`.
    identifiers: [String; 2],
}

impl LinkMap {
    /// Every column that it names.
    pub fn columns(&self) -> Vec<&str> {
        self.identifiers.iter().flat_map(|template| placeholders(template)).collect()
    }
}

/// Makes links of rows.
pub struct LinkMaker([Template; 2]);

impl LinkMaker {
    pub fn new(map: &LinkMap, columns: &[String]) -> Result<Self> {
        let column = |name: &str| {
            columns.iter().position(|known| known == name).with_context(|| format!("there is no column {name:?}"))
        };
        let [one, other] = &map.identifiers;
        Ok(Self([Template::parse(one, &column)?, Template::parse(other, &column)?]))
    }

    pub fn entry(&self, row: &Row) -> String {
        let [one, other] = &self.0;
        format!("[{},{}]", json_text(one.fill(row).trim()), json_text(other.fill(row).trim()))
    }
}
