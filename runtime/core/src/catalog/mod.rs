//! The catalogue: offers, and the slots of a page that show them.
//!
//! Owns the document's form and its faults. Knows nothing of visitors; which offer suits whom is for plugins and [`decision`](crate::decision).

pub mod terms;

use compact_str::CompactString;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::{ConfigError, from_toml};
use crate::limits;
use crate::value::Decimal;

/// Offers and slots, checked and resolved.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// In the document's order, which is also the order of equal priorities.
    pub offers: Vec<Offer>,
    /// In the document's order.
    pub slots: Vec<Slot>,
    slots_by_name: FxHashMap<String, usize>,
}

/// Something to offer.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Unique, stable: what events and caps name.
    pub id: CompactString,
    /// For people.
    pub name: String,
    /// What kind of thing it is; slots and affinities go by it.
    pub category: Option<CompactString>,
    /// What it is worth to the business if taken, in any unit that is the same for all offers.
    pub value: Decimal,
    /// The products that it sells; who has bought them need not see it.
    pub product_ids: Vec<CompactString>,
    /// What the page shows, handed on as it stands.
    pub content: Box<RawValue>,
}

/// A place that shows offers.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Unique.
    pub name: String,
    /// The offers that may stand here, by position, ascending.
    pub candidates: Vec<usize>,
    /// What stands here when nothing else can.
    pub fallback: Fallback,
    /// The plugin that ranks for this slot; none: the only one that ranks.
    pub ranker: Option<String>,
}

/// What a slot shows when nothing could be chosen.
#[derive(Clone, Debug)]
pub enum Fallback {
    /// An offer of the catalogue, by position.
    Offer(usize),
    /// Content of its own.
    Content(Box<RawValue>),
}

/// What is wrong with a catalogue document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CatalogError(pub String);

impl From<ConfigError> for CatalogError {
    fn from(error: ConfigError) -> Self {
        Self(error.0)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    offers: Vec<OfferDocument>,
    #[serde(default)]
    slots: Vec<SlotDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfferDocument {
    id: String,
    name: Option<String>,
    category: Option<String>,
    value: Option<toml::Value>,
    #[serde(default)]
    product_ids: Vec<String>,
    content: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotDocument {
    slot: String,
    categories: Option<Vec<String>>,
    fallback: toml::Value,
    ranker: Option<String>,
}

impl Catalog {
    /// Parses and checks a TOML document; the fault names the offer or slot.
    pub fn from_toml(text: &str) -> Result<Self, CatalogError> {
        let document: Document = from_toml(text)?;
        let mut catalog = Self::default();
        let mut by_id: FxHashMap<String, usize> = FxHashMap::default();
        for offer in document.offers {
            let offer = offer.check().map_err(CatalogError)?;
            if by_id.insert(offer.id.to_string(), catalog.offers.len()).is_some() {
                return Err(CatalogError(format!("offer {:?} stands twice; ids must be unique", offer.id)));
            }
            catalog.offers.push(offer);
        }
        for slot in document.slots {
            let slot = slot.check(&catalog.offers, &by_id).map_err(CatalogError)?;
            if catalog.slots_by_name.insert(slot.name.clone(), catalog.slots.len()).is_some() {
                return Err(CatalogError(format!("slot {:?} stands twice; names must be unique", slot.name)));
            }
            catalog.slots.push(slot);
        }
        Ok(catalog)
    }

    /// The position of a slot.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.slots_by_name.get(name).copied()
    }
}

impl OfferDocument {
    fn check(self) -> Result<Offer, String> {
        let Self { id, name, category, value, product_ids, content } = self;
        let keys = [&id].into_iter().chain(&category).chain(&product_ids);
        if let Some(bad) = keys.into_iter().find(|key| key.is_empty() || key.len() > limits::KEY_BYTES_MAX) {
            return Err(format!("offer {id:?}: {bad:?} must have 1 to {} bytes", limits::KEY_BYTES_MAX));
        }
        let value = match value {
            None => Decimal(Decimal::SCALE),
            Some(toml::Value::Integer(value)) => {
                Decimal::from_integer(value).ok_or_else(|| format!("offer {id:?}: value is out of range"))?
            }
            Some(toml::Value::Float(value)) if value.is_finite() => {
                Decimal::parse(&value.to_string()).map_err(|error| format!("offer {id:?}: value is {error}"))?
            }
            Some(_) => return Err(format!("offer {id:?}: value is not a number")),
        };
        if value < Decimal(0) {
            return Err(format!("offer {id:?}: value is negative; leave the offer out instead"));
        }
        let content =
            to_json(&toml::Value::Table(content)).map_err(|error| format!("offer {id:?}: content: {error}"))?;
        Ok(Offer {
            name: name.unwrap_or_else(|| id.clone()),
            id: id.into(),
            category: category.map(Into::into),
            value,
            product_ids: product_ids.into_iter().map(Into::into).collect(),
            content,
        })
    }
}

impl SlotDocument {
    fn check(self, offers: &[Offer], by_id: &FxHashMap<String, usize>) -> Result<Slot, String> {
        let Self { slot: name, categories, fallback, ranker } = self;
        if name.is_empty() || name.len() > limits::KEY_BYTES_MAX {
            return Err(format!("slot {name:?}: the name must have 1 to {} bytes", limits::KEY_BYTES_MAX));
        }
        let known = |category: &str| offers.iter().any(|offer| offer.category.as_deref() == Some(category));
        if let Some(unknown) = categories.iter().flatten().find(|category| !known(category)) {
            return Err(format!("slot {name:?}: no offer has the category {unknown:?}"));
        }
        let fits = |offer: &Offer| match (&categories, &offer.category) {
            (None, _) => true,
            (Some(wanted), Some(category)) => wanted.iter().any(|wanted| wanted.as_str() == category.as_str()),
            (Some(_), None) => false,
        };
        let candidates = (0..offers.len()).filter(|index| fits(&offers[*index])).collect();
        let fallback = match fallback {
            toml::Value::String(id) => Fallback::Offer(
                *by_id.get(&id).ok_or_else(|| format!("slot {name:?}: the fallback {id:?} is no offer's id"))?,
            ),
            toml::Value::Table(table) if table.len() == 1 => {
                let content = table
                    .get("content")
                    .ok_or_else(|| format!("slot {name:?}: the fallback is an offer's id or content = {{…}}"))?;
                Fallback::Content(to_json(content).map_err(|error| format!("slot {name:?}: fallback: {error}"))?)
            }
            _ => return Err(format!("slot {name:?}: the fallback is an offer's id or content = {{…}}")),
        };
        Ok(Slot { name, candidates, fallback, ranker })
    }
}

fn to_json(value: &toml::Value) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::value::to_raw_value(value)
}

impl Offer {
    /// A field by its name in plugins' reads, as JSON; the outer none where there is no such field.
    #[allow(clippy::option_option)] // an unknown field and an absent value are different answers
    pub fn field(&self, name: &str) -> Option<Option<Box<RawValue>>> {
        let text = |text: &str| serde_json::value::to_raw_value(text).ok();
        Some(match name {
            "id" => text(&self.id),
            "name" => text(&self.name),
            "category" => self.category.as_deref().and_then(text),
            "value" => RawValue::from_string(self.value.to_string()).ok(),
            _ => return None,
        })
    }

    /// A list field by its name in plugins' reads; none where there is no such field.
    pub fn list(&self, name: &str) -> Option<Vec<CompactString>> {
        (name == "product_ids").then(|| self.product_ids.clone())
    }

    /// The keys that a field holds: one for a scalar, none where it is absent, all of a list; none where there is no such field.
    pub fn keys(&self, name: &str) -> Option<Vec<CompactString>> {
        match name {
            "id" => Some(vec![self.id.clone()]),
            "category" => Some(self.category.iter().cloned().collect()),
            other => self.list(other),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Three offers of two categories, two slots.
    pub(crate) const SAMPLE: &str = r#"
        [[offers]]
        id = "kettle"
        category = "kitchen"
        value = 12.5
        product_ids = ["K1", "K2"]
        content = { title = "A kettle" }
        [[offers]]
        id = "rose"
        name = "A rose"
        category = "garden"
        value = 3
        content = { title = "A rose" }
        [[offers]]
        id = "card"
        content = { title = "A card" }
        [[slots]]
        slot = "hero"
        fallback = "card"
        [[slots]]
        slot = "kitchen-grid"
        categories = ["kitchen"]
        fallback = { content = { title = "Kitchen" } }
    "#;

    fn fault(text: &str) -> String {
        Catalog::from_toml(text).expect_err("a faulty catalogue").to_string()
    }

    #[test]
    fn a_document_is_resolved() {
        let catalog = Catalog::from_toml(SAMPLE).expect("a good catalogue");
        assert_eq!(catalog.offers[0].value, Decimal(12_500_000));
        assert_eq!(catalog.offers[2].value, Decimal(1_000_000));
        assert_eq!(catalog.offers[2].name, "card");
        assert_eq!(catalog.slot("kitchen-grid"), Some(1));
        assert_eq!(catalog.slots[0].candidates, [0, 1, 2]);
        assert_eq!(catalog.slots[1].candidates, [0]);
        assert!(matches!(catalog.slots[0].fallback, Fallback::Offer(2)));
        assert_eq!(catalog.offers[0].content.get(), r#"{"title":"A kettle"}"#);
    }

    #[test]
    fn a_fault_names_its_offer_or_slot() {
        let holds = |text: String, part: &str| assert!(text.contains(part), "{text}");
        holds(
            fault(&SAMPLE.replace("category = \"garden\"", "categry = \"garden\"")),
            "unknown key \"categry\"; did you mean \"category\"?",
        );
        holds(fault(&SAMPLE.replace("\"rose\"", "\"kettle\"")), "\"kettle\" stands twice");
        holds(
            fault(&SAMPLE.replace("fallback = \"card\"", "fallback = \"crad\"")),
            "slot \"hero\": the fallback \"crad\"",
        );
        holds(fault(&SAMPLE.replace("[\"kitchen\"]", "[\"kitchn\"]")), "no offer has the category \"kitchn\"");
        holds(fault(&SAMPLE.replace("value = 3", "value = -3")), "offer \"rose\": value is negative");
        holds(fault(&SAMPLE.replace("value = 3", "value = nan")), "offer \"rose\": value is not a number");
        holds(fault(&SAMPLE.replace("{ content =", "{ contents =")), "an offer's id or content");
        holds(fault(&SAMPLE.replace("kitchen-grid", "hero")), "\"hero\" stands twice");
        holds(fault("[[offers]]\nid = \"a\""), "missing field `content`");
    }
}
