//! Activations: what folds from here on. Written to every data shard's log, so that the fold reads nothing but the log.

use serde::{Deserialize, Serialize};

use crate::time::{BusinessTime, DAY_MS};

/// How the host's own code folds; raised when a change of code would give other bytes for the same log.
pub const ENGINE_VERSION: u32 = 3;
/// How long history is kept, counted back from a fragment's newest event.
pub const RETENTION_MS: i64 = 800 * DAY_MS;

/// A plugin that takes part in the fold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivePlugin {
    /// Its name.
    pub name: String,
    /// SHA-256 of the component.
    pub sha256: [u8; 32],
    /// SHA-256 of its configuration's text.
    pub config_sha256: [u8; 32],
}

/// Everything besides the events themselves that a fold depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// See [`ENGINE_VERSION`].
    pub engine: u32,
    /// The business time zone.
    pub time_zone: String,
    /// The version of the time-zone database.
    pub time_zones: String,
    /// See [`RETENTION_MS`].
    pub retention_ms: i64,
    /// The plugins in the order in which they fold.
    pub plugins: Vec<ActivePlugin>,
}

impl Activation {
    /// The activation of these plugins under this host's code.
    pub fn new(time: &BusinessTime, plugins: Vec<ActivePlugin>) -> Self {
        Self {
            engine: ENGINE_VERSION,
            time_zone: time.name().to_owned(),
            time_zones: BusinessTime::database_version().to_owned(),
            retention_ms: RETENTION_MS,
            plugins,
        }
    }

    /// What is different in another activation that follows this one, for people.
    pub fn changes(&self, next: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.time_zone != next.time_zone {
            changes.push(format!("the business time zone changes from {} to {}", self.time_zone, next.time_zone));
        }
        if (self.engine, &self.time_zones, self.retention_ms) != (next.engine, &next.time_zones, next.retention_ms) {
            changes.push("the host's own rules change".to_owned());
        }
        let find = |of: &Self, name: &str| of.plugins.iter().find(|plugin| plugin.name == name).cloned();
        for plugin in &next.plugins {
            match find(self, &plugin.name) {
                None => changes.push(format!("plugin {} is new", plugin.name)),
                Some(before) if before.sha256 != plugin.sha256 => {
                    changes.push(format!("plugin {} is another build", plugin.name))
                }
                Some(before) if before != *plugin => {
                    changes.push(format!("plugin {} is configured otherwise", plugin.name))
                }
                Some(_) => {}
            }
        }
        let gone = self.plugins.iter().filter(|plugin| find(next, &plugin.name).is_none());
        changes.extend(gone.map(|plugin| format!("plugin {} is gone", plugin.name)));
        changes
    }

    /// A short name for the activation, kept with each fragment that was folded under it.
    pub fn tag(&self) -> u64 {
        // Encoding plain owned data to memory cannot fail; an empty text would still only cause a fold to be repeated.
        xxhash_rust::xxh3::xxh3_64(&postcard::to_allocvec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_said() {
        let plugin = |name: &str, build: u8, config: u8| ActivePlugin {
            name: name.into(),
            sha256: [build; 32],
            config_sha256: [config; 32],
        };
        let zone = |name| BusinessTime::new(name).expect("a zone");
        let plugins = vec![plugin("a", 1, 1), plugin("b", 1, 1), plugin("c", 1, 1)];
        let before = Activation::new(&zone("UTC"), plugins);
        let after =
            Activation::new(&zone("Europe/London"), vec![plugin("a", 2, 1), plugin("b", 1, 2), plugin("d", 1, 1)]);
        assert_eq!(
            before.changes(&after),
            [
                "the business time zone changes from UTC to Europe/London",
                "plugin a is another build",
                "plugin b is configured otherwise",
                "plugin d is new",
                "plugin c is gone"
            ]
        );
        assert!(before.changes(&before).is_empty());
    }
}
