//! What changed in a fragment since its record was written: a small row beside a large one.
//!
//! A record holds everything that is folded of a fragment; most changes touch little of it. So it is left as it is, and what has changed since stands in
//! an overlay, which is laid over it when it is read. Once that is no longer small, the record is written anew. An overlay names the record that it
//! lies on by its sequence: beside any other one it says nothing.

use compact_str::CompactString;
use selvedge_core::aggregate::State;
use selvedge_core::fragment::{Fragment, OfferHistory};
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ShardError;

/// Bytes from which on the record is written anew.
const BYTES_MAX: usize = 1024;

/// The values, as of a change, of whatever changed since another.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// The last change in the record that it lies on.
    pub(crate) on: u64,
    /// The last change in it.
    pub(crate) seq: u64,
    oldest_event_at: Option<Timestamp>,
    newest_event_at: Option<Timestamp>,
    events: u64,
    failures: u64,
    /// By position, ascending.
    states: Vec<(u32, State)>,
    /// Ascending by offer.
    offers: Vec<(CompactString, OfferHistory)>,
}

impl Overlay {
    /// What a fragment has come to by changes up to `seq`; none where more has changed than an overlay says.
    pub(crate) fn between(on: u64, seq: u64, before: &Fragment, after: &Fragment) -> Option<Self> {
        let Fragment {
            oldest_event_at,
            newest_event_at,
            events,
            failures,
            traits,
            states,
            offers,
            consent,
            links,
            retracted,
            mart,
            erased,
        } = after;
        let alike = (traits, consent, links, retracted, mart, erased)
            == (&before.traits, &before.consent, &before.links, &before.retracted, &before.mart, &before.erased);
        if !alike || states.len() != before.states.len() {
            return None;
        }
        let mut changed = Vec::new();
        if *states != before.states {
            let pairs = states.iter().zip(before.states.iter()).zip(0..);
            changed.extend(pairs.filter(|((now, was), _)| now != was).map(|((now, _), at)| (at, now.clone())));
        }
        let mut were = before.offers.iter().peekable();
        let mut touched = Vec::new();
        for (offer, history) in offers {
            match were.next_if(|(of, _)| of == offer) {
                Some((_, was)) if was == history => {}
                _ => touched.push((offer.clone(), history.clone())),
            }
        }
        // One of them gave way.
        if were.next().is_some() {
            return None;
        }
        Some(Self {
            on,
            seq,
            oldest_event_at: *oldest_event_at,
            newest_event_at: *newest_event_at,
            events: *events,
            failures: *failures,
            states: changed,
            offers: touched,
        })
    }

    /// The same with what an earlier one says on the same record.
    pub(crate) fn over(mut self, earlier: Self) -> Self {
        fn join<K: Ord, V>(newer: &mut Vec<(K, V)>, earlier: Vec<(K, V)>) {
            for (key, value) in earlier {
                if let Err(gap) = newer.binary_search_by(|(known, _)| known.cmp(&key)) {
                    newer.insert(gap, (key, value));
                }
            }
        }
        join(&mut self.states, earlier.states);
        join(&mut self.offers, earlier.offers);
        self
    }

    /// As it is stored; none where it is no longer small.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_allocvec(self).ok().filter(|bytes| bytes.len() <= BYTES_MAX)
    }

    /// Reads it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ShardError> {
        postcard::from_bytes(bytes).map_err(|_| ShardError::Corrupt("overlay".into()))
    }

    /// Lays it over what its record says.
    pub(crate) fn lay(self, fragment: &mut Fragment) -> Result<(), ShardError> {
        fragment.oldest_event_at = self.oldest_event_at;
        fragment.newest_event_at = self.newest_event_at;
        fragment.events = self.events;
        fragment.failures = self.failures;
        for (at, state) in self.states {
            let held = usize::try_from(at).ok().and_then(|at| fragment.states.get_mut(at));
            *held.ok_or_else(|| ShardError::Corrupt("overlay".into()))? = state;
        }
        for (offer, history) in self.offers {
            match fragment.offers.binary_search_by(|(known, _)| known.cmp(&offer)) {
                Ok(found) => fragment.offers[found].1 = history,
                Err(gap) => fragment.offers.insert(gap, (offer, history)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(of: &[(&str, u64)]) -> Vec<(CompactString, OfferHistory)> {
        of.iter()
            .map(|(offer, decided)| ((*offer).into(), OfferHistory { decided: *decided, ..OfferHistory::default() }))
            .collect()
    }

    #[test]
    fn one_after_the_other_they_give_the_last_state() {
        let first = Fragment { offers: offers(&[("b", 1), ("d", 1)]), ..Fragment::default() };
        let second = Fragment { offers: offers(&[("a", 1), ("b", 1), ("d", 2)]), events: 1, ..first.clone() };
        let third = Fragment { offers: offers(&[("a", 2), ("b", 1), ("c", 1), ("d", 2)]), events: 2, ..first.clone() };
        let one = Overlay::between(5, 7, &first, &second).expect("small");
        assert_eq!(one.offers.len(), 2);
        let both = Overlay::between(5, 9, &second, &third).expect("small").over(one);
        assert_eq!((both.on, both.seq, both.offers.len()), (5, 9, 3));
        let stored = Overlay::decode(&both.encode().expect("small")).expect("read");
        let mut laid = first.clone();
        stored.lay(&mut laid).expect("laid");
        assert_eq!(laid, third);
        // Nothing but these is said by an overlay.
        let fewer = Fragment { offers: offers(&[("b", 1)]), ..first.clone() };
        assert_eq!(Overlay::between(5, 9, &first, &fewer), None);
        let erased = Fragment { erased: Some(Timestamp(1)), ..first.clone() };
        assert_eq!(Overlay::between(5, 9, &first, &erased), None);
        let many: Vec<String> = (0..200).map(|offer| format!("offer-{offer:03}")).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|offer| (offer.as_str(), 1)).collect();
        let many = Fragment { offers: offers(&many), ..Fragment::default() };
        let large = Overlay::between(5, 9, &Fragment::default(), &many).expect("an overlay");
        assert_eq!(large.encode(), None, "a large one is a record's part");
    }
}
