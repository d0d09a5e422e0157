//! What can go wrong when a plugin is loaded, and when it is called.

use selvedge_core::stage::BadOutput;

/// A component that cannot be loaded. The text names the plugin, what is wrong and the mend.
#[derive(Debug, thiserror::Error)]
#[error("plugin {name}: {detail}")]
pub struct LoadError {
    /// The plugin, by the name of its file until it has said its own.
    pub name: String,
    /// What is wrong and the mend.
    pub detail: String,
    /// Where a plugin that reads its configuration itself found it faulty: each of these stands in `detail` too.
    pub faults: Vec<ConfigFault>,
}

/// Something in a plugin's configuration that does not hold, as the plugin itself found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where it stands, such as `aggregate[3].where`; empty where it concerns the whole.
    pub place: String,
    /// What is wrong and the mend.
    pub detail: String,
}

impl LoadError {
    pub(crate) fn new(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), detail: detail.into(), faults: Vec::new() }
    }

    /// A configuration with faults; `file` is its name without the folder.
    pub(crate) fn configuration(name: &str, file: &str, faults: Vec<ConfigFault>) -> Self {
        let line = |ConfigFault { place, detail }: &ConfigFault| {
            if place.is_empty() { format!("{file}: {detail}") } else { format!("{file}: {place}: {detail}") }
        };
        let detail = faults.iter().map(line).collect::<Vec<_>>().join("\n  ");
        Self { name: name.to_owned(), detail, faults }
    }
}

/// A catalogue that the active plugins cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CatalogFault {
    /// A plugin cannot read its offers.
    #[error(transparent)]
    Plugin(#[from] LoadError),
    /// It reads what no plugin defines.
    #[error(transparent)]
    Document(#[from] selvedge_core::catalog::CatalogError),
    /// It is not clear who ranks for a slot.
    #[error("slot {slot:?} {detail}")]
    Ranker {
        /// The slot.
        slot: String,
        /// What is wrong and the mend.
        detail: String,
    },
}

/// Why a stage gave no answer. What a plugin returns and what happens to it are never the same variant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The plugin returned a failure: the input is outside what it is made for.
    #[error("rejected its input: {0}")]
    Rejected(String),
    /// The plugin returned a failure: something inside it went wrong.
    #[error("failed: {0}")]
    Failed(String),
    /// The plugin trapped; with the last line that it logged as an error, which is a panic's message and place.
    #[error("trapped: {0}")]
    Trapped(String),
    /// The plugin ran longer than it may.
    #[error("ran out of fuel ({0} units)")]
    OutOfFuel(u64),
    /// The plugin asked for more memory than it may have.
    #[error("ran out of memory ({0} bytes)")]
    OutOfMemory(usize),
    /// The plugin answered something that the contract does not allow.
    #[error("bad output: {0}")]
    BadOutput(String),
    /// The host could not make an instance.
    #[error("no instance: {0}")]
    Unavailable(String),
    /// An earlier stage of the same request dropped the plugin's instance.
    #[error("was dropped by an earlier stage of this request")]
    Dropped,
}

impl From<BadOutput> for CallError {
    fn from(BadOutput(detail): BadOutput) -> Self {
        Self::BadOutput(detail)
    }
}

impl CallError {
    /// The kind of outcome, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Failed(_) => "failed",
            Self::Trapped(_) => "trapped",
            Self::OutOfFuel(_) => "out_of_fuel",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::BadOutput(_) => "bad_output",
            Self::Unavailable(_) => "unavailable",
            Self::Dropped => "dropped",
        }
    }

    /// Whether the instance is in a state that must not be called again.
    pub(crate) fn poisons(&self) -> bool {
        !matches!(self, Self::Rejected(_) | Self::Failed(_) | Self::BadOutput(_))
    }
}
