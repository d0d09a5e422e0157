//! Profiles of any size, for the bench of scaling: one half traits, one half aggregates, all of them read by one plugin.

use serde_json::{Map, Value, json};

use crate::data::definitions_of;
use crate::request::user;
use crate::zipf::Random;

/// The plugin that scores all values and ranks by the score.
pub const RANKER: &str = "sized";
/// Of nine aggregates so many are of all times; the others are read in a window, as in the workload.
const LIFETIME_OF_NINE: usize = 7;

fn split(values: usize) -> (usize, usize) {
    (values / 2, values - values / 2)
}

fn lifetime(aggregates: usize) -> usize {
    aggregates * LIFETIME_OF_NINE / 9
}

/// The configuration of the plugin `aggregates`.
pub fn definitions(values: usize) -> String {
    let (_, aggregates) = split(values);
    definitions_of(aggregates, lifetime(aggregates))
}

/// The configuration of the plugin that scores and ranks.
pub fn config(values: usize) -> String {
    let (traits, aggregates) = split(values);
    let traits = (0..traits).map(|index| format!("\"trait:t{index:02}\""));
    let aggregates = (0..aggregates).map(|index| {
        let window = if index < lifetime(aggregates) { "" } else { "_30d" };
        format!("\"agg:aggregates.m{index:02}{window}\"")
    });
    let reads: Vec<String> = traits.chain(aggregates).collect();
    format!("name = \"{RANKER}\"\nreads = [{}]\n", reads.join(", "))
}

/// The event that makes a visitor's profile.
pub fn event(visitor: u32, values: usize) -> Value {
    let (traits, aggregates) = split(values);
    let mut random = Random(u64::from(visitor) << 20);
    let traits: Map<String, Value> =
        (0..traits).map(|index| (format!("t{index:02}"), json!(f64::from(random.below(10_000)) / 100.0))).collect();
    let loaded: Map<String, Value> =
        (0..aggregates).map(|index| (format!("m{index:02}"), json!(random.below(1_000)))).collect();
    json!({"type": "track", "event": "Profile Loaded", "userId": user(visitor), "messageId": format!("l-{visitor}"),
           "context": {"traits": traits}, "properties": loaded})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_as_many_values_as_are_read() {
        for values in [15, 50, 150, 500] {
            let event = event(3, values);
            let count = |value: &Value| value.as_object().map_or(0, Map::len);
            assert_eq!(count(&event["context"]["traits"]) + count(&event["properties"]), values);
            assert_eq!(config(values).matches('"').count(), 2 * (values + 1));
            assert_eq!(definitions(values).matches("[[aggregate]]").count(), values - values / 2);
            // What is read in a window is defined with one.
            assert_eq!(definitions(values).matches("windows").count(), config(values).matches("_30d").count());
        }
    }
}
