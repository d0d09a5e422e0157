//! Views: a fragment as it is served, and everything that a stage may read of a visitor at one instant.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;

use crate::aggregate::Definitions;
use crate::fragment::Fragment;
use crate::identity::{ENTITIES, Identifier};
use crate::time::Moment;
use crate::traits::TraitSources;

/// A place in a shard's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Changes when a log was restored or failed over.
    pub epoch: u32,
    /// The last change, counted from 1 without gaps; 0 before the first.
    pub seq: u64,
}

/// What is known of one identifier, with this edge's own pending changes.
#[derive(Clone, Debug)]
pub struct View {
    /// Whose it is.
    pub identifier: Identifier,
    /// The folded state.
    pub fragment: Arc<Fragment>,
    /// Grows with every change of this view within this process.
    pub revision: u64,
    /// The ids of its events, where they are at hand.
    pub seen: Option<Arc<Seen>>,
}

/// The ids of a fragment's events as 32 bits of their hashes: enough to know a new one without asking the disk.
///
/// All views of a fragment share them while they grow. To one of an earlier view an id that came later may have been seen, which is only not certain to be
/// wrong.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Vec<u32>>);

impl Seen {
    /// Events up to which ids are kept at hand; a fragment with more asks the disk.
    pub const EVENTS_MAX: u64 = 8192;

    /// Whether an id may have been seen; false is certain.
    pub fn may_hold(&self, id_hash: &[u8; 16]) -> bool {
        self.heads().binary_search(&head(id_hash)).is_ok()
    }

    /// Adds an id.
    pub fn insert(&self, id_hash: &[u8; 16]) {
        let (mut heads, head) = (self.heads(), head(id_hash));
        if let Err(gap) = heads.binary_search(&head) {
            heads.insert(gap, head);
        }
    }

    /// What is kept of the ids, ascending.
    pub fn heads(&self) -> MutexGuard<'_, Vec<u32>> {
        // Nothing in here panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Heap bytes, about.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.heads().capacity() * size_of::<u32>()
    }
}

impl From<Vec<u32>> for Seen {
    /// Of what was kept.
    fn from(mut heads: Vec<u32>) -> Self {
        heads.sort_unstable();
        heads.dedup();
        Self(Mutex::new(heads))
    }
}

impl FromIterator<[u8; 16]> for Seen {
    fn from_iter<I: IntoIterator<Item = [u8; 16]>>(hashes: I) -> Self {
        hashes.into_iter().map(|hash| head(&hash)).collect::<Vec<u32>>().into()
    }
}

fn head(id_hash: &[u8; 16]) -> u32 {
    id_hash.first_chunk().map_or(0, |head| u32::from_be_bytes(*head))
}

/// The names that plugins define, in their fixed order.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Aggregates.
    pub definitions: Definitions,
    /// Scores.
    pub scores: Vec<ScoreName>,
}

/// A score's name and unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreName {
    /// `PLUGIN.NAME`.
    pub name: String,
    /// The unit shown beside it.
    pub unit: Option<String>,
}

impl Schema {
    /// The position of a score.
    pub fn score(&self, name: &str) -> Option<usize> {
        self.scores.iter().position(|score| score.name == name)
    }
}

/// Everything that the stages of one request may read of its visitor.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The folded state.
    pub fragment: &'a Fragment,
    /// What they belong to, in the order of [`ENTITIES`]; none where they do not, or no plugin asks.
    pub entities: &'a [Option<Arc<Fragment>>; ENTITIES.len()],
    /// Whose word on a trait holds.
    pub trait_sources: &'a TraitSources,
    /// The scores computed so far, by position in [`Schema::scores`].
    pub scores: &'a [Option<f64>],
    /// The request's `context`.
    pub context: Option<&'a RawValue>,
    /// The request's `channel`.
    pub channel: &'a str,
    /// The decision's instant.
    pub moment: &'a Moment,
    /// The decision's seed.
    pub seed: u64,
}

/// Nothing that anybody belongs to.
pub const NO_ENTITIES: [Option<Arc<Fragment>>; ENTITIES.len()] = [const { None }; ENTITIES.len()];
