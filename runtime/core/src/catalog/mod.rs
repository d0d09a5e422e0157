//! The catalogue: offers, the slots of a page that show them, and what governs both.
//!
//! Owns the document's form, its faults, and what becomes of it: names resolved to positions, conditions parsed. Knows nothing of visitors; who may be offered what
//! is for [`condition`](crate::condition), [`audience`](crate::audience) and [`decision`](crate::decision).

mod bound;
mod checks;
mod document;
mod fault;
mod parts;
mod read;
mod resolve;
mod schema;
pub mod terms;
mod toml;

use std::cell::RefCell;

use compact_str::CompactString;
use rustc_hash::FxHashMap;
use serde_json::value::RawValue;

pub use self::bound::Bound;
pub use self::fault::{CatalogError, Fault};
pub use self::schema::SCHEMA;
use self::terms::{Arbitration, Cap, Content, GlobalHoldout, Part, Quiet, Response, Suppression, Validity, Variant};
use crate::audience::Audience;
use crate::condition::{Condition, ConditionId};
use crate::value::Decimal;

/// The only purpose that a transactional offer needs.
pub const TRANSACTIONAL_PURPOSE: &str = "service";

/// What a slot names as its ranker where the formula is to rank though a plugin could.
pub const FORMULA: &str = "formula";

/// Channels that every catalogue has, in this order; those that a document declares come behind them.
pub const CHANNELS: [&str; 4] = ["web", "email", "call-center", "app"];

/// Offers and slots, checked and resolved.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// In the document's order, which is also the order of equal priorities.
    pub offers: Vec<Offer>,
    /// In the document's order.
    pub slots: Vec<Slot>,
    /// In the document's order.
    pub campaigns: Vec<Campaign>,
    /// In the document's order.
    pub audiences: Vec<Audience>,
    /// The categories of offers, in the order in which these have them.
    pub categories: Vec<Category>,
    /// Those of [`CHANNELS`], then others in the document's order.
    pub channels: Vec<Channel>,
    /// Over everything.
    pub caps: Vec<Cap>,
    /// Who gets nothing of it all.
    pub holdout: Option<GlobalHoldout>,
    /// Who gets any eligible offer, at random.
    pub control: Option<Part>,
    /// By what offers that name no score are as likely to be taken; none: all alike.
    pub response: Option<Response>,
    /// All conditions, each text once.
    pub conditions: Vec<Condition>,
    offers_by_id: FxHashMap<CompactString, usize>,
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
    /// The same, by position.
    pub category_index: Option<usize>,
    /// Other things that are said of it.
    pub tags: Vec<CompactString>,
    /// What it is worth to the business if taken, in any unit that is the same for all offers.
    pub value: Decimal,
    /// By what the business raises or lowers it; 1 changes nothing.
    pub lever: Decimal,
    /// What it costs, in the currency of all prices.
    pub price: Option<Decimal>,
    /// When it may be offered.
    pub valid: Validity,
    /// What is shown.
    pub content: Content,
    /// What models know of it, ascending by name.
    pub features: Vec<(CompactString, Feature)>,
    /// The products that it sells; who has bought them need not see it.
    pub product_ids: Vec<CompactString>,
    /// The purpose that must be allowed.
    pub purpose: Option<CompactString>,
    /// How many are left, as the feed said last.
    pub inventory: Option<u64>,
    /// The score that says how likely it is taken, as `PLUGIN.NAME`.
    pub propensity: Option<String>,
    /// Whether it comes before all others, where it may be offered.
    pub mandatory: bool,
    /// Whether it is a message of service: caps, quiet hours and arbitration leave it alone.
    pub transactional: bool,
    /// By position.
    pub campaign: Option<usize>,
    /// Who may be offered it.
    pub eligible: Option<ConditionId>,
    /// The audiences of which one must be, all of them; by position.
    pub audiences: Vec<usize>,
    /// How often.
    pub caps: Vec<Cap>,
    /// What becomes of it once it has done its work.
    pub suppress: Option<Suppression>,
    /// For how many milliseconds it is suppressed once it was dismissed; none: for ever.
    pub dismissed_for_ms: Option<i64>,
    /// Of which one is shown, in the document's order.
    pub variants: Vec<Variant>,
    /// Whether it may be offered at all.
    pub enabled: bool,
}

/// What models know of an offer.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it
pub enum Feature {
    Number(f64),
    Text(CompactString),
}

/// A place that shows offers.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Unique.
    pub name: String,
    /// The offers that may stand here, by position, ascending.
    pub candidates: Vec<usize>,
    /// Where it is, by position.
    pub channel: usize,
    /// What stands here when nothing else can.
    pub fallback: Fallback,
    /// The plugin that ranks for this slot, or [`FORMULA`]; none: the only one that ranks.
    pub ranker: Option<String>,
    /// By when a decision for it must be there where the call does not say, in milliseconds.
    pub deadline_ms: Option<u32>,
    /// How many offers stand here where a call does not say.
    pub count: usize,
    /// Who is offered anything here.
    pub eligible: Option<ConditionId>,
    /// How many offers of one category may stand here at once.
    pub per_category: Option<usize>,
    /// What makes up a priority.
    pub arbitration: Arbitration,
    /// What the moment adds to it.
    pub context_weights: Vec<ContextWeight>,
}

/// A factor of the priority of some offers where a condition is met.
#[derive(Clone, Debug)]
pub struct ContextWeight {
    /// The condition; none: always.
    pub when: Option<ConditionId>,
    /// Not negative.
    pub factor: f64,
    /// Of which offers, by position, ascending.
    pub offers: Vec<usize>,
}

/// What a slot shows when nothing could be chosen.
#[derive(Clone, Debug)]
pub enum Fallback {
    /// An offer of the catalogue, by position.
    Offer(usize),
    /// Content of its own.
    Content(Box<RawValue>),
}

/// Offers that belong together.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Unique.
    pub id: CompactString,
    /// For people.
    pub name: String,
    /// When its offers may be offered.
    pub valid: Validity,
    /// Who may be offered them.
    pub eligible: Option<ConditionId>,
    /// How often any of them.
    pub caps: Vec<Cap>,
    /// Who is offered none of them.
    pub holdout: Option<Part>,
    /// By position, ascending.
    pub offers: Vec<usize>,
}

/// A kind of offers.
#[derive(Clone, Debug)]
pub struct Category {
    /// Unique.
    pub name: CompactString,
    /// How often any of them.
    pub caps: Vec<Cap>,
}

/// A way to reach visitors.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Unique.
    pub name: CompactString,
    /// The purpose that shuts it where it is denied: `channel:NAME`.
    pub purpose: CompactString,
    /// How often anything.
    pub caps: Vec<Cap>,
    /// When nothing goes out.
    pub quiet: Option<Quiet>,
}

impl Catalog {
    /// Parses and checks a document, JSON where it begins with a brace, else TOML.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        if text.trim_start().starts_with('{') { Self::from_json(text) } else { Self::from_toml(text) }
    }

    /// Parses and checks a JSON document; each fault has its place as a JSON pointer.
    pub fn from_json(text: &str) -> Result<Self, CatalogError> {
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|error| CatalogError::one("", format!("the document is not JSON: {error}")))?;
        Self::read(raw)
    }

    /// Parses and checks a TOML document: the same keys, the same faults.
    pub fn from_toml(text: &str) -> Result<Self, CatalogError> {
        Self::read(&toml::to_json(text)?)
    }

    fn read(raw: &RawValue) -> Result<Self, CatalogError> {
        let faults = RefCell::default();
        let document = document::Document::read(raw, &faults);
        // Whatever could not be read would be missed by others, in faults that are none.
        let document = faults.into_inner().or(document)?;
        resolve::resolve(document)
    }

    /// The position of a slot.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.slots_by_name.get(name).copied()
    }

    /// The position of an offer.
    pub fn offer(&self, id: &str) -> Option<usize> {
        self.offers_by_id.get(id).copied()
    }

    /// The position of a channel.
    pub fn channel(&self, name: &str) -> Option<usize> {
        self.channels.iter().position(|channel| channel.name == name)
    }
}

impl Offer {
    /// What shows on a channel; of a variant, by position, its own where it has one.
    pub fn content(&self, channel: usize, variant: Option<usize>) -> Option<&RawValue> {
        let own =
            variant.and_then(|variant| self.variants.get(variant)).and_then(|variant| variant.content.on(channel));
        own.or_else(|| self.content.on(channel))
    }

    /// A field by its name in plugins' reads, as JSON; the outer none where there is no such field.
    #[allow(clippy::option_option)] // an unknown field and an absent value are different answers
    pub fn field(&self, name: &str) -> Option<Option<Box<RawValue>>> {
        let text = |text: &str| serde_json::value::to_raw_value(text).ok();
        let plain = |number: String| RawValue::from_string(number).ok();
        Some(match name {
            "id" => text(&self.id),
            "name" => text(&self.name),
            "category" => self.category.as_deref().and_then(text),
            "value" => plain(self.value.to_string()),
            "lever" => plain(self.lever.to_string()),
            "price" => self.price.and_then(|price| plain(price.to_string())),
            "inventory" => self.inventory.and_then(|left| plain(left.to_string())),
            "mandatory" => plain(self.mandatory.to_string()),
            other => {
                let feature = other.strip_prefix("features.")?;
                let found = self.features.iter().find(|(name, _)| name == feature);
                found.and_then(|(_, feature)| match feature {
                    Feature::Number(number) => serde_json::value::to_raw_value(number).ok(),
                    Feature::Text(of) => text(of),
                })
            }
        })
    }

    /// A list field by its name in plugins' reads; none where there is no such field.
    pub fn list(&self, name: &str) -> Option<Vec<CompactString>> {
        match name {
            "product_ids" => Some(self.product_ids.clone()),
            "tags" => Some(self.tags.clone()),
            _ => None,
        }
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
pub(crate) mod tests;
