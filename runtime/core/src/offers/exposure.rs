//! Exposures: to which arm of an experiment somebody was assigned when it first mattered.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::value::Timestamp;

/// Experiments of which one person's exposure is kept; beyond it the one that is over longest gives way.
pub const EXPOSURES_MAX: usize = 128;

/// The first time that an experiment mattered for somebody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposure {
    /// The experiment's name.
    pub experiment: CompactString,
    /// When.
    pub at: Timestamp,
    /// The arm that they were assigned to.
    pub arm: CompactString,
}

/// Takes an exposure in: of one experiment the earliest holds, of equal times the arm that sorts first, so whoever tells it in whatever order.
pub(super) fn take(exposures: &mut Vec<Exposure>, exposure: &Exposure) {
    match exposures.binary_search_by(|held| held.experiment.cmp(&exposure.experiment)) {
        Ok(found) => {
            let held = &mut exposures[found];
            if (exposure.at, &exposure.arm) < (held.at, &held.arm) {
                held.clone_from(exposure);
            }
        }
        Err(gap) => {
            super::insert_tight(exposures, gap, exposure.clone());
            if exposures.len() > EXPOSURES_MAX {
                let oldest = exposures.iter().enumerate().min_by_key(|(_, held)| held.at).map(|(index, _)| index);
                oldest.map(|index| exposures.remove(index));
            }
        }
    }
}
