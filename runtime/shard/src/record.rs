//! A fragment's record on disk: the folded state, what it was folded from and by, and the ids of its events in short, so that whoever loads it knows a new one.

use selvedge_core::activation::Layout;
use selvedge_core::fragment::Fragment;
use selvedge_core::view::Seen;
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
    /// The ids of its events, where all of them are at hand.
    pub(crate) seen: Option<&'a Seen>,
}

/// Ids that stand in a record; those of a fragment with more have rows only.
const SEEN_MAX: usize = 1024;

/// What stands before the state: enough to know whether it can be read, and what is missing from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) layout: Layout,
    pub(crate) seq: u64,
    /// How many ids stand behind the state; none where they are to be read from their rows.
    seen: Option<u16>,
}

impl Record<'_> {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ShardError> {
        let heads = self.seen.map(Seen::heads).filter(|heads| heads.len() <= SEEN_MAX);
        let count = heads.as_ref().and_then(|heads| u16::try_from(heads.len()).ok());
        let head = Head { seen: count, ..Head::of(self.layout, self.seq, self.fragment) };
        let mut bytes = postcard::to_allocvec(&(head, self.fragment)).map_err(|_| corrupt())?;
        heads.iter().flat_map(|heads| heads.iter()).for_each(|head| bytes.extend_from_slice(&head.to_le_bytes()));
        Ok(bytes)
    }
}

impl Head {
    /// What stands before the state of a fragment.
    pub(crate) fn of(layout: &Layout, seq: u64, fragment: &Fragment) -> Self {
        Self { layout: layout.of_states(&fragment.states), seq, seen: None }
    }

    /// Bytes behind the state.
    fn behind(&self) -> usize {
        usize::from(self.seen.unwrap_or(0)) * size_of::<u32>()
    }

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
    let (head, rest) = postcard::take_from_bytes::<Head>(bytes).map_err(|_| corrupt())?;
    rest.len().checked_sub(head.behind()).and_then(|end| rest.get(..end)).ok_or_else(corrupt)
}

/// The ids that stand in a record of this head; none where they do not.
pub(crate) fn seen(head: &Head, bytes: &[u8]) -> Result<Option<Vec<u32>>, ShardError> {
    if head.seen.is_none() {
        return Ok(None);
    }
    let from = bytes.len().checked_sub(head.behind()).ok_or_else(corrupt)?;
    let (heads, _) = bytes[from..].as_chunks::<4>();
    Ok(Some(heads.iter().map(|head| u32::from_le_bytes(*head)).collect()))
}

fn corrupt() -> ShardError {
    ShardError::Corrupt("record".into())
}
