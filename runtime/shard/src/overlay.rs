//! What changed in a fragment since its record was written: small rows beside a large one.
//!
//! A record holds everything that is folded of a fragment; most changes touch little of it. So it is left as it is, and each write lays a row over it: what
//! was touched as it is from there on (of offers what happened with them since), and the entries that did it, which are neither in the history's own rows nor among the ids' until the record is written
//! anew. A row counts for the state where its last change is behind the record's, in the order of these.

use selvedge_core::aggregate::State;
use selvedge_core::fragment::Fragment;
use selvedge_core::offers::Added;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ShardError;
use crate::disk::HistoryEntry;

/// What of a fragment changes have touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// By position, ascending.
    states: Vec<u32>,
    /// What happened with offers.
    offers: Added,
    /// More than an overlay says.
    more: bool,
}

impl Touched {
    /// More than an overlay says.
    pub(crate) fn more() -> Self {
        Self { more: true, ..Self::default() }
    }

    /// What differs between a fragment and what it has become.
    pub(crate) fn between(before: &Fragment, after: &Fragment) -> Self {
        let Fragment { traits, states, offers, consent, links, retracted, mart, erased, .. } = after;
        let alike = (traits, consent, links, retracted, mart, erased)
            == (&before.traits, &before.consent, &before.links, &before.retracted, &before.mart, &before.erased);
        if !alike || states.len() != before.states.len() {
            return Self::more();
        }
        // Nothing else than that something happened.
        let Some(added) = offers.added_since(&before.offers) else { return Self::more() };
        let mut touched = Self { offers: added, ..Self::default() };
        if *states != before.states {
            let pairs = states.iter().zip(before.states.iter()).zip(0..);
            touched.states.extend(pairs.filter(|((now, was), _)| now != was).map(|(_, at)| at));
        }
        touched
    }

    /// The same, and what others have touched.
    pub(crate) fn add(&mut self, others: Self) {
        self.more |= others.more;
        for state in others.states {
            if let Err(gap) = self.states.binary_search(&state) {
                self.states.insert(gap, state);
            }
        }
        self.offers.add(others.offers);
    }
}

/// The entries of a row: sequence, change, hash of the id. They stand first, so that they are read whatever engine has folded the rest.
type Entries<'r> = Vec<(u64, Option<&'r [u8]>, Option<[u8; 16]>)>;

/// What follows them, as it is written; [`Read`] reads it.
#[derive(Serialize)]
struct Written<'f> {
    oldest_event_at: Option<Timestamp>,
    newest_event_at: Option<Timestamp>,
    events: u64,
    failures: u64,
    states: Vec<(u32, &'f State)>,
    offers: &'f Added,
}

/// The same as it is read.
#[derive(Deserialize)]
struct Read {
    oldest_event_at: Option<Timestamp>,
    newest_event_at: Option<Timestamp>,
    events: u64,
    failures: u64,
    states: Vec<(u32, State)>,
    offers: Added,
}

/// The row of what was touched, and of the entries that did it; none where more was touched than it says.
pub(crate) fn encode(touched: &Touched, fragment: &Fragment, entries: &[HistoryEntry]) -> Option<Vec<u8>> {
    if touched.more {
        return None;
    }
    let state = |at: &u32| Some((*at, fragment.states.get(usize::try_from(*at).ok()?)?));
    let entries: Entries<'_> = entries.iter().map(|entry| (entry.seq, entry.bytes.as_deref(), entry.id_hash)).collect();
    let written = Written {
        oldest_event_at: fragment.oldest_event_at,
        newest_event_at: fragment.newest_event_at,
        events: fragment.events,
        failures: fragment.failures,
        states: touched.states.iter().map(state).collect::<Option<_>>()?,
        offers: &touched.offers,
    };
    postcard::to_allocvec(&(entries, written)).ok()
}

/// The entries of a row.
pub(crate) fn entries(row: &[u8]) -> Result<impl Iterator<Item = HistoryEntry>, ShardError> {
    let (entries, _) = postcard::take_from_bytes::<Entries<'_>>(row).map_err(|_| corrupt())?;
    let entry = |(seq, bytes, id_hash): (u64, Option<&[u8]>, Option<[u8; 16]>)| HistoryEntry {
        seq,
        bytes: bytes.map(Into::into),
        id_hash,
        withdraws: None,
    };
    Ok(entries.into_iter().map(entry))
}

/// Lays a row over what its record says, and the rows before it.
pub(crate) fn lay(row: &[u8], fragment: &mut Fragment) -> Result<(), ShardError> {
    let (_, rest) = postcard::take_from_bytes::<Entries<'_>>(row).map_err(|_| corrupt())?;
    let Read { oldest_event_at, newest_event_at, events, failures, states, offers } =
        postcard::from_bytes(rest).map_err(|_| corrupt())?;
    (fragment.oldest_event_at, fragment.newest_event_at) = (oldest_event_at, newest_event_at);
    (fragment.events, fragment.failures) = (events, failures);
    for (at, state) in states {
        let held = usize::try_from(at).ok().and_then(|at| fragment.states.get_mut(at));
        *held.ok_or_else(corrupt)? = state;
    }
    fragment.offers.lay(&offers);
    Ok(())
}

fn corrupt() -> ShardError {
    ShardError::Corrupt("overlay".into())
}

#[cfg(test)]
mod tests {
    use selvedge_core::change::DecidedOffer;
    use selvedge_core::offers::Offers;

    use super::*;

    fn offers(of: &[(&str, u32)]) -> Offers {
        let mut offers = Offers::default();
        of.iter().for_each(|(offer, decided)| offers.decide(&DecidedOffer::on_web(offer, Timestamp(0), *decided)));
        offers
    }

    #[test]
    fn laid_one_after_the_other_they_give_the_last_state() {
        let first = Fragment { offers: offers(&[("b", 1), ("d", 1)]), ..Fragment::default() };
        let second = Fragment { offers: offers(&[("a", 1), ("b", 1), ("d", 2)]), events: 1, ..first.clone() };
        let third = Fragment { offers: offers(&[("a", 2), ("b", 1), ("c", 1), ("d", 2)]), events: 2, ..first.clone() };
        let entry = |seq: u64| HistoryEntry {
            seq,
            bytes: Some([7, 7].as_slice().into()),
            id_hash: (seq == 8).then_some([8; 16]),
            withdraws: None,
        };
        let one = Touched::between(&first, &second);
        let mut added = first.offers.clone();
        added.lay(&one.offers);
        assert_eq!(added, second.offers);
        let rows = [
            encode(&one, &second, &[entry(7)]).expect("a row"),
            encode(&Touched::between(&second, &third), &third, &[entry(8), entry(9)]).expect("a row"),
        ];
        let mut laid = first.clone();
        rows.iter().for_each(|row| lay(row, &mut laid).expect("laid"));
        assert_eq!(laid, third);
        let read = rows.iter().flat_map(|row| entries(row).expect("read"));
        assert_eq!(read.collect::<Vec<_>>(), [entry(7), entry(8), entry(9)]);
        // Both at once.
        let mut both = one;
        both.add(Touched::between(&second, &third));
        assert_eq!(both.states, Touched::between(&first, &third).states);
        let mut laid = first.clone();
        let row = encode(&both, &third, &[]).expect("a row");
        lay(&row, &mut laid).expect("laid");
        assert_eq!(laid, third);
    }

    #[test]
    fn nothing_else_is_said_by_an_overlay() {
        let first = Fragment { offers: offers(&[("b", 1), ("d", 1)]), ..Fragment::default() };
        let fewer = Fragment { offers: offers(&[("b", 1)]), ..first.clone() };
        assert_eq!(Touched::between(&first, &fewer), Touched::more());
        let erased = Fragment { erased: Some(Timestamp(1)), ..first.clone() };
        let mut touched = Touched::between(&first, &first);
        touched.add(Touched::between(&first, &erased));
        assert!(touched.more && encode(&touched, &erased, &[]).is_none());
    }
}
