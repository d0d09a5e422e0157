//! Retracted ids: which events of a fragment no longer count.
//!
//! A retraction names an id, and may come before the event that it takes back. So the ids are kept for ever, and what they take back
//! stays so: a retraction is not retracted in its turn.

use serde::{Deserialize, Serialize};

/// Events of one fragment that may be retracted; an event that retracts more is refused.
pub const RETRACTED_MAX: usize = 4096;

/// The hashes of retracted ids, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retracted(Vec<[u8; 16]>);

impl Retracted {
    /// Adds an id. Gives whether it is new. How many there may be is settled at the door, by [`Bounds`](crate::fragment::Bounds).
    pub fn insert(&mut self, id_hash: [u8; 16]) -> bool {
        match self.0.binary_search(&id_hash) {
            Ok(_) => false,
            Err(gap) => {
                self.0.insert(gap, id_hash);
                true
            }
        }
    }

    /// Whether the event of this id no longer counts.
    pub fn holds(&self, id_hash: &[u8; 16]) -> bool {
        self.0.binary_search(id_hash).is_ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Heap bytes, about.
    pub fn weight(&self) -> usize {
        self.0.capacity() * size_of::<[u8; 16]>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_held_once_in_whatever_order_it_comes() {
        let mut one = Retracted::default();
        let mut other = Retracted::default();
        assert!([3, 1, 2].into_iter().all(|id| one.insert([id; 16])));
        assert!([2, 3, 1].into_iter().all(|id| other.insert([id; 16])));
        assert!(!one.insert([2; 16]));
        assert_eq!((one.len(), &one), (3, &other));
        assert!(one.holds(&[1; 16]) && !one.holds(&[4; 16]));
    }
}
