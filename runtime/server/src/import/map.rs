//! The map: how rows become events. `docs/import.md` is its reference.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use selvedge_core::config::from_toml;
use serde::Deserialize;

/// A map as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// `events`, or nothing.
    #[serde(default)]
    #[allow(dead_code)] // it is what chose this form
    kind: Option<String>,
    /// The form of the file; by its name where none is given.
    pub format: Option<Format>,
    /// Rows for which this gives an equal text are one event; without it each row is one.
    pub group: Option<String>,
    /// Which event a row is: the first whose condition holds.
    pub events: Vec<EventRule>,
    pub time: TimeRule,
    pub identity: IdentityRule,
    /// What sets the traits, shown beside each.
    #[serde(default = "import")]
    pub source: String,
    /// Traits by name, as templates.
    #[serde(default)]
    pub traits: BTreeMap<String, Template>,
    /// Properties by name.
    #[serde(default)]
    pub properties: BTreeMap<String, Field>,
    /// The fields of an entry of `properties.products`, one entry a row.
    #[serde(default)]
    pub lines: BTreeMap<String, Field>,
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Ndjson,
}

/// Which event a row is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRule {
    pub when: Option<Condition>,
    pub name: String,
    /// Numbers of lines whose sign is turned.
    #[serde(default)]
    pub negate: Vec<String>,
}

/// A condition on a row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub column: String,
    pub starts_with: Option<String>,
    pub equals: Option<String>,
}

/// When an event happened: of several rows the earliest counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeRule {
    pub column: String,
    /// As in strftime; RFC 3339 where none is given.
    pub format: Option<String>,
    /// The zone of a wall-clock time without offset.
    pub time_zone: Option<String>,
}

/// Whose event it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRule {
    pub message_id: Template,
    pub user_id: Option<Template>,
    /// Used where the user id comes out empty.
    pub anonymous_id: Option<Template>,
}

/// A text with `{Column}` and `{row}` in it.
pub type Template = String;

/// A property's value.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Field {
    /// A text.
    Text(Template),
    /// A number, from a column.
    Number(NumberField),
    /// Σ price × quantity over the lines.
    Total(TotalField),
}

/// `{ number = "Column" }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberField {
    pub number: String,
}

/// `{ total_of = ["price", "quantity"] }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TotalField {
    pub total_of: [String; 2],
}

fn import() -> String {
    "import".into()
}

impl Map {
    /// Parses and checks a map.
    pub fn parse(text: &str) -> Result<Self> {
        let map: Self = from_toml(text)?;
        match map.events.last() {
            None => bail!("name at least one event, as [[events]] with a name"),
            Some(last) if last.when.is_some() => {
                bail!("the last of [[events]] takes every row that is left; it has no `when`")
            }
            Some(_) => {}
        }
        if let Some(early) = map.events[..map.events.len() - 1].iter().find(|rule| rule.when.is_none()) {
            bail!("the event {:?} stands before others and needs a `when`", early.name);
        }
        for rule in &map.events {
            if let Some(condition) = &rule.when
                && condition.starts_with.is_some() == condition.equals.is_some()
            {
                bail!("the `when` of {:?} takes starts_with or equals, one of the two", rule.name);
            }
            for name in &rule.negate {
                if !matches!(map.lines.get(name), Some(Field::Number(_))) {
                    bail!("the event {:?} negates {name:?}, which is no number of [lines]", rule.name);
                }
            }
        }
        if !map.lines.is_empty() && map.properties.contains_key("products") {
            bail!("[lines] become properties.products; remove products from [properties]");
        }
        if map.lines.values().any(|field| matches!(field, Field::Total(_))) {
            bail!("total_of stands in [properties], not in [lines]");
        }
        for field in map.properties.values() {
            if let Field::Total(total) = field
                && let Some(missing) =
                    total.total_of.iter().find(|name| !matches!(map.lines.get(*name), Some(Field::Number(_))))
            {
                bail!("total_of names {missing:?}, which is no number of [lines]");
            }
        }
        if map.identity.user_id.is_none() && map.identity.anonymous_id.is_none() {
            bail!("[identity] needs user_id, anonymous_id or both");
        }
        Ok(map)
    }

    /// Every column that it names.
    pub fn columns(&self) -> Vec<&str> {
        let identity =
            [Some(&self.identity.message_id), self.identity.user_id.as_ref(), self.identity.anonymous_id.as_ref()];
        let fields = self.properties.values().chain(self.lines.values());
        let texts = fields.clone().filter_map(|field| if let Field::Text(text) = field { Some(text) } else { None });
        let numbers = fields
            .filter_map(|field| if let Field::Number(number) = field { Some(number.number.as_str()) } else { None });
        let templates = identity.into_iter().flatten().chain(self.traits.values()).chain(&self.group).chain(texts);
        let mut columns: Vec<&str> = templates.flat_map(|template| placeholders(template)).chain(numbers).collect();
        columns.extend(self.events.iter().filter_map(|rule| Some(rule.when.as_ref()?.column.as_str())));
        columns.push(&self.time.column);
        columns.retain(|column| *column != "row");
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

/// The names in braces.
pub fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        group = "{InvoiceNo}"
        [[events]]
        when = { column = "InvoiceNo", starts_with = "C" }
        name = "Order Cancelled"
        negate = ["quantity"]
        [[events]]
        name = "Order Completed"
        [time]
        column = "InvoiceDate"
        [identity]
        message_id = "{InvoiceNo}"
        user_id = "{CustomerID}"
        [properties]
        total = { total_of = ["price", "quantity"] }
        [lines]
        price = { number = "UnitPrice" }
        quantity = { number = "Quantity" }
    "#;

    fn fault(from: &str, to: &str) -> String {
        format!("{:#}", Map::parse(&GOOD.replace(from, to)).expect_err("a faulty map"))
    }

    #[test]
    fn a_map_names_its_columns() {
        let map = Map::parse(GOOD).expect("a good map");
        assert_eq!(map.columns(), ["CustomerID", "InvoiceDate", "InvoiceNo", "Quantity", "UnitPrice"]);
    }

    #[test]
    fn a_faulty_map_names_its_fault() {
        assert!(fault("group =", "gruop =").contains("did you mean \"group\""));
        assert!(fault("negate = [\"quantity\"]", "negate = [\"count\"]").contains("\"count\""));
        assert!(fault("total_of = [\"price\"", "total_of = [\"prize\"").contains("\"prize\""));
        assert!(fault("starts_with = \"C\"", "starts_with = \"C\", equals = \"D\"").contains("one of the two"));
        assert!(fault("user_id = \"{CustomerID}\"", "").contains("[identity]"));
    }
}
