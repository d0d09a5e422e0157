//! A fragment's record on disk: the folded state, and what it was folded from and by.

use selvedge_core::activation::Layout;
use selvedge_core::fragment::Fragment;
use serde::{Deserialize, Serialize};

use crate::ShardError;

/// A record as it is written.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// The layout in force; states that wait for their history say so themselves.
    pub(crate) layout: &'a Layout,
    /// The last change folded in.
    pub(crate) seq: u64,
    pub(crate) fragment: &'a Fragment,
}

/// What stands before the state: enough to know whether it can be read, and what is missing from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) layout: Layout,
    pub(crate) seq: u64,
}

impl Record<'_> {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ShardError> {
        let head = Head { layout: self.layout.of_states(&self.fragment.states), seq: self.seq };
        postcard::to_allocvec(&(head, self.fragment)).map_err(|_| corrupt())
    }
}

impl Head {
    /// The head of a record, without the rest.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ShardError> {
        postcard::take_from_bytes(bytes).map(|(head, _)| head).map_err(|_| corrupt())
    }
}

/// The head and the state, as it was folded. The form of states may differ under another engine, so the head is looked at first.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Head, Fragment), ShardError> {
    postcard::from_bytes(bytes).map_err(|_| corrupt())
}

/// The bytes of the state.
pub(crate) fn state(bytes: &[u8]) -> Result<&[u8], ShardError> {
    postcard::take_from_bytes::<Head>(bytes).map(|(_, state)| state).map_err(|_| corrupt())
}

fn corrupt() -> ShardError {
    ShardError::Corrupt("record".into())
}
