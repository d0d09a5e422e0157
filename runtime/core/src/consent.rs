//! Consent: what a person allowed, by purpose.
//!
//! It arrives as `context.consent: {purpose: true | false}` on any event. The newest word on a purpose holds; of equal times the one
//! that denies.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::value::Timestamp;

/// Purposes of one profile; an event that brings more is refused.
pub const PURPOSES_MAX: usize = 64;

/// The newest word on one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it is allowed.
    pub granted: bool,
    /// The time of the event that said so.
    pub at: Timestamp,
}

/// The words on all purposes, ascending by purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent(Vec<(CompactString, Decision)>);

impl Consent {
    /// Takes in a word; an older one changes nothing. How many purposes there may be is settled at the door: a join has those of all its
    /// fragments.
    pub fn apply(&mut self, purpose: &CompactString, decision: Decision) {
        match self.0.binary_search_by(|entry| entry.0.cmp(purpose)) {
            Ok(found) => {
                let held = &mut self.0[found].1;
                if (decision.at, !decision.granted) > (held.at, !held.granted) {
                    *held = decision;
                }
            }
            Err(gap) => self.0.insert(gap, (purpose.clone(), decision)),
        }
    }

    /// Takes in the words of another fragment.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|(purpose, decision)| self.apply(purpose, *decision));
    }

    /// The newest word on a purpose.
    pub fn get(&self, purpose: &str) -> Option<Decision> {
        let found = self.0.binary_search_by(|entry| entry.0.as_str().cmp(purpose)).ok()?;
        Some(self.0[found].1)
    }

    /// How many purposes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every purpose, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Decision)> {
        self.0.iter().map(|(purpose, decision)| (purpose.as_str(), *decision))
    }

    /// Heap bytes, about.
    pub fn weight(&self) -> usize {
        self.0.capacity() * size_of::<(CompactString, Decision)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_word_holds_and_of_equal_times_the_one_that_denies() {
        let words = [(1, true), (5, true), (5, false), (3, false)];
        for turn in 0..words.len() {
            let mut consent = Consent::default();
            for index in 0..words.len() {
                let (at, granted) = words[(index + turn) % words.len()];
                consent.apply(&"ads".into(), Decision { granted, at: Timestamp(at) });
            }
            assert_eq!(consent.get("ads"), Some(Decision { granted: false, at: Timestamp(5) }));
        }
        assert_eq!(Consent::default().get("ads"), None);
    }
}
