//! Releases: what all edges of a centre run. Kept in the log of the control shard, each as a whole; the plugins' bytes travel beside it,
//! by their hash.

use serde::{Deserialize, Serialize};

/// Plugins, catalogue and configuration, as they take force together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// The business time zone, an IANA name.
    pub time_zone: String,
    /// The plugins, in the order in which they fold.
    pub plugins: Vec<ReleasedPlugin>,
    /// The catalogue of offers and slots, as TOML or JSON. Empty in the log: there it is an entry of its own.
    pub catalog: String,
}

/// A plugin of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleasedPlugin {
    /// The name of its file.
    pub name: String,
    /// SHA-256 of the component, in hexadecimal.
    pub sha256: String,
    /// Its configuration, as TOML.
    pub config: String,
}
