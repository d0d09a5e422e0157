//! Activations: what folds from here on. Written to every data shard's log, so that the fold reads nothing but the log.

use serde::{Deserialize, Serialize};

use crate::time::{BusinessTime, DAY_MS};

/// How the host's own code folds; raised when a change of code would give other bytes for the same log.
pub const ENGINE_VERSION: u32 = 1;
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

    /// A short name for the activation, kept with each fragment that was folded under it.
    pub fn tag(&self) -> u64 {
        // Encoding plain owned data to memory cannot fail; an empty text would still only cause a fold to be repeated.
        xxhash_rust::xxh3::xxh3_64(&postcard::to_allocvec(self).unwrap_or_default())
    }
}
