//! Activations: what folds from here on. Written to every data shard's log, so that the fold reads nothing but the log. And layouts: under
//! which activation each part of a record was folded, so that a new one costs only what it changes.

use serde::{Deserialize, Serialize};

use crate::aggregate::State;
use crate::time::{BusinessTime, DAY_MS};

/// How the host's own code folds; raised when a change of code would give other bytes for the same log.
pub const ENGINE_VERSION: u32 = 6;
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

    /// The layout of what is folded under it, given how many states each plugin has.
    pub fn layout(&self, states: &[usize]) -> Layout {
        let parts = self.plugins.iter().zip(states).filter(|(_, states)| **states > 0);
        let part = |(plugin, states): (&ActivePlugin, &usize)| Part { tag: self.fold_tag(plugin), states: *states };
        Layout { engine: self.engine, parts: parts.map(part).collect() }
    }

    /// A short name for everything that a plugin's states depend on besides the events.
    fn fold_tag(&self, plugin: &ActivePlugin) -> u64 {
        let all = (self.engine, &self.time_zone, &self.time_zones, self.retention_ms, plugin);
        // Encoding plain data to memory cannot fail; an empty text would still only cause a fold to be repeated.
        xxhash_rust::xxh3::xxh3_64(&postcard::to_allocvec(&all).unwrap_or_default()).max(WAITING + 1)
    }
}

/// The tag of a part whose history has not been folded.
const WAITING: u64 = 0;

/// What the states of a record were folded by, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// See [`ENGINE_VERSION`].
    pub engine: u32,
    /// The plugins that have states.
    pub parts: Vec<Part>,
}

/// The states of one plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What they were folded by; 0 where they wait for it.
    pub tag: u64,
    /// How many there are.
    pub states: usize,
}

impl Layout {
    /// The layout of states as they are: of this one, but for the parts that wait for their history.
    pub fn of_states(&self, states: &[State]) -> Self {
        let mut at = 0;
        let part = |part: &Part| {
            let own = states.get(at..at + part.states).unwrap_or_default();
            at += part.states;
            let waits = own.iter().any(|state| matches!(state, State::Backfilling));
            Part { tag: if waits { WAITING } else { part.tag }, ..*part }
        };
        Self { engine: self.engine, parts: self.parts.iter().map(part).collect() }
    }

    /// Which parts of another layout are not in this one, by position.
    pub fn missing<'l>(&'l self, other: &'l Self) -> impl Iterator<Item = usize> + 'l {
        other.parts.iter().enumerate().filter(|(_, part)| !self.parts.contains(part)).map(|(index, _)| index)
    }

    /// Whether states of this layout hold all those of another one, as that folds them.
    pub fn covers(&self, other: &Self) -> bool {
        self.engine == other.engine && self.missing(other).next().is_none()
    }

    /// Brings states of this layout into the order of another one of the same engine; those that are not there wait for their history.
    pub fn carry(&self, states: Vec<State>, other: &Self) -> Vec<State> {
        let mut own: Vec<(Part, Vec<State>)> = Vec::with_capacity(self.parts.len());
        let mut states = states.into_iter();
        for part in &self.parts {
            own.push((*part, states.by_ref().take(part.states).collect()));
        }
        let carried = other.parts.iter().flat_map(|part| {
            let found = own.iter_mut().find(|(known, states)| known == part && states.len() == part.states);
            found.map_or_else(|| vec![State::Backfilling; part.states], |(_, states)| std::mem::take(states))
        });
        carried.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_carried_over_by_who_folded_them() {
        let plugin =
            |name: &str, build: u8| ActivePlugin { name: name.into(), sha256: [build; 32], config_sha256: [0; 32] };
        let time = BusinessTime::new("UTC").expect("UTC");
        let layout = |plugins: &[(&str, u8)], states: &[usize]| {
            let plugins = plugins.iter().map(|(name, build)| plugin(name, *build)).collect();
            Activation::new(&time, plugins).layout(states)
        };
        let state = |value: i128| State::Sum(Some(value).into());
        let before = layout(&[("a", 1), ("b", 1), ("c", 1)], &[2, 1, 0]);
        let states = vec![state(1), state(2), state(3)];
        assert_eq!(before.of_states(&states), before);
        // Another build of a, c gone, d new; b stays as it is.
        let after = layout(&[("a", 2), ("b", 1), ("d", 1)], &[2, 1, 1]);
        assert!(!before.covers(&after));
        assert_eq!(before.missing(&after).collect::<Vec<_>>(), [0, 2]);
        let carried = before.carry(states.clone(), &after);
        assert_eq!(carried, [State::Backfilling, State::Backfilling, state(3), State::Backfilling]);
        // What waits is told apart from what was folded, and waits on whatever comes next.
        let waiting = after.of_states(&carried);
        assert_eq!(waiting.missing(&after).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(waiting.carry(carried.clone(), &after), carried);
        let only_b = layout(&[("b", 1)], &[1]);
        assert!(waiting.covers(&only_b) && before.covers(&only_b));
        assert_eq!(before.carry(states, &only_b), [state(3)]);
        assert!(!Layout { engine: 0, ..before }.covers(&only_b));
    }

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
