//! The data of the bench: visitors with 50 traits and 100 numeric aggregates, a catalogue, plugins and their configuration. All of it follows
//! from a visitor's number.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::judge::{CODES, LEVELS, NUMBERS};
use crate::request::user;
use crate::zipf::Random;

/// Aggregates that an event `Profile Loaded` gives, defined without code; ten more come of what was viewed.
pub const LOADED: usize = 90;
/// Of these, so many are sums of all times; the others are read in a window.
const LIFETIME: usize = 70;
/// Traits that are numbers; the others are one of four levels.
pub const TRAIT_NUMBERS: usize = 30;
/// The levels, none of which is the last.
pub const LEVEL_NAMES: [&str; LEVELS - 1] = ["none", "low", "medium", "high"];
/// Offers of the slot `home`.
pub const OFFERS: usize = 20;
/// Offers of the slot `wide`.
pub const OFFERS_WIDE: usize = 1_000;
/// Aggregates of the last hour, day, week and month, units and prices of what was viewed.
const VIEWED: usize = 10;

/// What is known of a visitor.
pub struct Person {
    /// Values of the aggregates that are loaded.
    pub loaded: [i64; LOADED],
    /// Traits that are numbers, in hundredths.
    pub numbers: [i64; TRAIT_NUMBERS],
    /// Traits that are levels.
    pub levels: [usize; CODES],
    /// The price of the one thing that was viewed, in hundredths.
    pub price: i64,
}

impl Person {
    /// The visitor of a number.
    pub fn new(visitor: u32) -> Self {
        let mut random = Random(u64::from(visitor) << 20);
        Self {
            loaded: std::array::from_fn(|_| i64::from(random.below(1_000))),
            numbers: std::array::from_fn(|_| i64::from(random.below(10_000))),
            levels: std::array::from_fn(|_| random.below(4) as usize),
            price: 100 + i64::from(random.below(9_900)),
        }
    }

    /// All numbers, in the order in which the plugin has them.
    pub fn all_numbers(&self) -> [f64; NUMBERS] {
        // Views in five windows, units in three, then the highest and the latest price.
        let viewed: [f64; VIEWED] =
            std::array::from_fn(|index| if index < 8 { 1.0 } else { self.price as f64 / 100.0 });
        let loaded = self.loaded.iter().map(|value| *value as f64);
        let numbers = self.numbers.iter().map(|value| *value as f64 / 100.0);
        let mut all = loaded.chain(viewed).chain(numbers);
        std::array::from_fn(|_| all.next().unwrap_or_default())
    }

    /// The two events that make a profile of it.
    pub fn events(&self, visitor: u32) -> [Value; 2] {
        let mut traits = Map::new();
        for (index, value) in self.numbers.iter().enumerate() {
            traits.insert(format!("t{index:02}"), json!(*value as f64 / 100.0));
        }
        for (index, level) in self.levels.iter().enumerate() {
            traits.insert(format!("t{:02}", TRAIT_NUMBERS + index), json!(LEVEL_NAMES[*level]));
        }
        let loaded: Map<String, Value> =
            self.loaded.iter().enumerate().map(|(index, value)| (format!("m{index:02}"), json!(value))).collect();
        let id = user(visitor);
        [
            json!({"type": "track", "event": "Profile Loaded", "userId": id, "messageId": format!("l-{visitor}"),
                   "context": {"traits": traits}, "properties": loaded}),
            json!({"type": "track", "event": "Product Viewed", "userId": id, "messageId": format!("v-{visitor}"),
                   "properties": {"product_id": "p-1", "price": self.price as f64 / 100.0, "quantity": 1}}),
        ]
    }
}

/// The configuration of the plugin `aggregates`: the aggregates that are loaded.
pub fn definitions() -> String {
    definitions_of(LOADED, LIFETIME)
}

/// The configuration of the plugin `aggregates`: so many sums, the first ones of all times, the others read in a window.
pub fn definitions_of(aggregates: usize, lifetime: usize) -> String {
    (0..aggregates).fold(String::new(), |mut text, index| {
        let windows = if index < lifetime { "" } else { "windows = [\"30d\"]\n" };
        let _ = write!(
            text,
            "[[aggregate]]\nname = \"m{index:02}\"\noperator = \"sum\"\nkind = \"integer\"\n{windows}event = \"Profile Loaded\"\nvalue = \"properties.m{index:02}\"\n\n"
        );
        text
    })
}

/// An offer: its id, category and value in hundredths.
pub fn offer(index: usize) -> (String, usize, usize) {
    let (category, value) = worth(index);
    (format!("offer-{index:04}"), category, value)
}

/// An offer's category and value in hundredths.
pub fn worth(index: usize) -> (usize, usize) {
    (index % LEVEL_NAMES.len(), 100 + (index * 7_919) % 900)
}

/// What an offer shows.
pub fn content(index: usize) -> Value {
    json!({"title": format!("Something nice of number {index:04}"), "text": "Because it goes so well with what you have.",
           "image": format!("/images/{index:04}.webp"), "price": "24.50"})
}

/// A slot of the catalogue and the offers that only it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shelf {
    /// The slot's name.
    pub slot: &'static str,
    /// What its categories begin with.
    pub prefix: &'static str,
    /// How many offers there are.
    pub offers: usize,
}

/// The slot `home` with [`OFFERS`], the slot `wide` with [`OFFERS_WIDE`].
pub const SHELVES: &[Shelf] =
    &[Shelf { slot: "home", prefix: "", offers: OFFERS }, Shelf { slot: "wide", prefix: "wide-", offers: OFFERS_WIDE }];

/// What a policy says of an offer: ten caps, suppression, and a condition that one offer in ten of a wide slot meets. Nobody ever comes to a cap.
fn terms(index: usize, wide: bool) -> String {
    let windows = ["1h", "24h", "7d", "30d", "day", "week", "month", "year", "lifetime"];
    let caps: Vec<String> =
        windows.iter().map(|window| format!("{{ most = 1000000, window = \"{window}\" }}")).collect();
    let sign = if wide && !index.is_multiple_of(10) { "<" } else { ">=" };
    format!(
        "campaign = \"all-year\"\nproduct_ids = [\"P-{index}\"]\neligible = \"trait.t00 {sign} 0.0\"\nsuppress = {{ after = \"accepted\", for = \"365d\" }}\n\
         caps = [{}, {{ counts = \"shown\", most = 1000000, window = \"7d\" }}]\n",
        caps.join(", ")
    )
}

/// What a policy says of everything.
const OVERALL: &str = "[[campaigns]]\nid = \"all-year\"\ncaps = [{ most = 1000000, window = \"day\" }]\n\n\
                       [[channels]]\nchannel = \"web\"\ncaps = [{ most = 1000000, window = \"24h\" }]\n\n[[caps]]\nmost = 1000000\nwindow = \"7d\"\n\n";

/// The catalogue: slots with their offers, all ranked by this plugin, and with a policy where that is wanted.
pub fn catalog(shelves: &[Shelf], ranker: &str, policy: bool) -> String {
    let mut text = if policy { OVERALL.to_owned() } else { String::new() };
    let offers = shelves.iter().flat_map(|shelf| std::iter::repeat_n(shelf.prefix, shelf.offers));
    for (index, prefix) in offers.enumerate() {
        let (id, category, value) = offer(index);
        let Value::Object(content) = content(index) else { continue };
        let content: Vec<String> = content.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let terms = if policy { terms(index, !prefix.is_empty()) } else { String::new() };
        let _ = write!(
            text,
            "[[offers]]\nid = \"{id}\"\nname = \"Offer {index}\"\ncategory = \"{prefix}{}\"\nvalue = {}.{:02}\ncontent = {{ {} }}\n{terms}\n",
            LEVEL_NAMES[category],
            value / 100,
            value % 100,
            content.join(", ")
        );
    }
    for Shelf { slot, prefix, .. } in shelves {
        let categories: Vec<String> = LEVEL_NAMES.iter().map(|name| format!("\"{prefix}{name}\"")).collect();
        let _ = write!(
            text,
            "[[slots]]\nslot = \"{slot}\"\ncategories = [{}]\nranker = \"{ranker}\"\nfallback = \"offer-0000\"\n{}\n",
            categories.join(", "),
            if policy { "per_category = 2\n" } else { "" }
        );
    }
    text
}

/// The names of the plugins between the first one, which scores, and the last one, which ranks, with their configurations: each reads ten
/// aggregates and the score of the one before it.
pub fn chain(plugins: usize) -> Vec<(String, String)> {
    let between = plugins.saturating_sub(2);
    let name = |index: usize| if index + 1 == between { "last".to_owned() } else { format!("step{index}") };
    let step = |index: usize| {
        let mut reads: Vec<String> =
            (0..10).map(|read| format!("agg:aggregates.m{:02}", index * 7 % 60 + read)).collect();
        reads.push(match index.checked_sub(1) {
            None => "score:bench.propensity".to_owned(),
            Some(before) => format!("score:{}.level", name(before)),
        });
        let reads: Vec<String> = reads.iter().map(|read| format!("\"{read}\"")).collect();
        (name(index), format!("name = \"{}\"\nreads = [{}]\n", name(index), reads.join(", ")))
    };
    (0..between).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_is_the_same_each_time_and_unlike_the_next() {
        let (one, again, other) = (Person::new(7), Person::new(7), Person::new(8));
        assert_eq!(one.all_numbers(), again.all_numbers());
        assert_ne!(one.all_numbers(), other.all_numbers());
        assert_eq!(one.events(7)[0]["context"]["traits"].as_object().map(Map::len), Some(50));
        assert_eq!(one.events(7)[0]["properties"].as_object().map(Map::len), Some(LOADED));
    }

    #[test]
    fn a_chain_hangs_together() {
        assert!(chain(1).is_empty());
        let chain = chain(10);
        assert_eq!(chain.len(), 8);
        assert!(chain[0].1.contains("score:bench.propensity"));
        assert!(chain[7].1.contains("name = \"last\"") && chain[7].1.contains("score:step6.level"), "{:?}", chain[7]);
    }
}
