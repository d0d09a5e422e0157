//! A fragment's record on disk: the folded state, and what it was folded from.

use selvedge_core::fragment::Fragment;
use serde::{Deserialize, Serialize};

use crate::ShardError;

/// A record as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Record<'a> {
    /// The activation under which it was folded; a record of another one is folded again from the history when it is read.
    pub(crate) activation: u64,
    /// The last change folded in.
    pub(crate) seq: u64,
    pub(crate) fragment: &'a Fragment,
}

/// A record as it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredRecord {
    _activation: u64,
    _seq: u64,
    pub(crate) fragment: Fragment,
}

impl Record<'_> {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ShardError> {
        postcard::to_allocvec(self).map_err(|_| ShardError::Corrupt("record".into()))
    }
}

impl StoredRecord {
    /// The activation and the sequence, without the rest.
    pub(crate) fn tags(bytes: &[u8]) -> Result<(u64, u64), ShardError> {
        let (tags, _) = postcard::take_from_bytes(bytes).map_err(|_| ShardError::Corrupt("record".into()))?;
        Ok(tags)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ShardError> {
        postcard::from_bytes(bytes).map_err(|_| ShardError::Corrupt("record".into()))
    }
}
