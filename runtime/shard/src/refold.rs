//! Folding again from the history: the one routine for whatever must not go by a state that is at hand. A retraction, an event that comes too
//! late for its aggregate's state, another activation, a question about the past, a replay.
//!
//! Events are folded by their time (then by the hash of their id), whatever the order of the log: so every replica that holds the same events
//! gets the same bytes. Which of them are retracted is found out before the first one is folded.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use selvedge_core::change::Change;
use selvedge_core::effects::Effects;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::Identifier;
use selvedge_core::retracted::Retracted;
use selvedge_core::value::Timestamp;

use crate::block::History;
use crate::maps::HashSet;
use crate::pending::{Body, PendingChange};
use crate::{ShardError, Shards};

/// Events whose effects are in memory at once where the log's order is not that of their times.
const EVENTS_AT_ONCE: usize = 4096;

/// Bytes of the events, as they came, whose effects are in memory at once.
const BYTES_AT_ONCE: usize = 8 * 1024 * 1024;

/// Bytes of a history, as it is stored and as it is decoded, up to which it is kept as it was read: a fold goes through it twice.
const KEPT_BYTES: usize = 16 * 1024;
const DECODED_BYTES: usize = 256 * 1024;

/// What a fragment is folded from.
pub(crate) struct Past {
    identifier: Identifier,
    history: History,
    /// The last change of the history that counts.
    upto: u64,
    /// When it was erased at the least: a write that was cut off may have taken from the history what said so.
    erased: Option<Timestamp>,
    /// What the history does not hold yet.
    pending: Vec<Arc<PendingChange>>,
    /// The ids that this withdraws: their events are passed over, wherever they stand.
    withdrawn: HashSet<[u8; 16]>,
    /// The changes of a short history.
    read: OnceCell<Vec<Change>>,
}

/// What a past retracts, and when it was erased.
type Standing = (Retracted, Option<Timestamp>);

/// Where an event stands among the pasts that are folded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    event: EventRef,
    past: usize,
    position: usize,
    retracted: bool,
    /// Of its payload; of one that waits for the log, whose effects are in memory anyway, none.
    bytes: usize,
}

impl Past {
    /// The same of a fragment that is known to have been erased.
    pub(crate) fn since(self, erased: Option<Timestamp>) -> Self {
        Self { erased: self.erased.max(erased), ..self }
    }

    fn withdraws(&self, id_hash: &[u8; 16]) -> bool {
        !self.withdrawn.is_empty() && self.withdrawn.contains(id_hash)
    }

    /// Hands over its changes whose positions lie in a range, each with its position.
    fn for_each(&self, wanted: &Range<usize>, mut take: impl FnMut(usize, Whole<'_>)) -> Result<(), ShardError> {
        let logged = if let Some(read) = self.read.get() {
            let changes = read.iter().enumerate().filter(|(position, _)| wanted.contains(position));
            changes.for_each(|(position, change)| take(position, Whole::Logged(change)));
            read.len()
        } else {
            let whole = *wanted == ALL && self.history.bytes() <= KEPT_BYTES;
            let (mut kept, mut bytes) = (whole.then(Vec::new), 0);
            let logged = self.history.for_each_of(self.upto, wanted, |position, _, change| {
                take(position, Whole::Logged(&change));
                bytes += payload_bytes(&change);
                if bytes > DECODED_BYTES {
                    kept = None;
                }
                if let Some(kept) = &mut kept {
                    kept.push(change);
                }
            })?;
            // Nobody else reads it at the same time.
            kept.into_iter().for_each(|kept| drop(self.read.set(kept)));
            logged
        };
        for (position, change) in (logged..).zip(&self.pending).filter(|(position, _)| wanted.contains(position)) {
            take(position, Whole::Pending(&change.body));
        }
        Ok(())
    }
}

/// Every position.
const ALL: Range<usize> = 0..usize::MAX;

fn payload_bytes(change: &Change) -> usize {
    match change {
        Change::Event { event, .. } => event.payload.len(),
        Change::Mart { load, .. } => load.weight(),
        _ => 0,
    }
}

/// A change as it is found: yet to be observed, or observed when it came.
enum Whole<'c> {
    Logged(&'c Change),
    Pending(&'c Body),
}

impl Shards {
    /// Folds a past as of an instant: the events up to it that none of them retracts, the loads whose watermark is not
    /// later, and the offers decided up to its minute. Who is who is not a matter of
    /// time: it is what is known now.
    pub(crate) fn refold(&self, past: &Past, at: Timestamp) -> Result<Fragment, ShardError> {
        let mut fragment = Fragment::empty(self.observer.definitions());
        let pasts = std::slice::from_ref(past);
        let mut beside = Vec::new();
        let (places, standing) = self.places(pasts, at, &mut |body| beside.push(body))?;
        (fragment.retracted, fragment.erased) = standing.into_iter().next().unwrap_or_default();
        for body in beside {
            let _ = body.apply(&mut fragment, self.observer.definitions());
        }
        self.tell(pasts, &places, &mut |event, effects| {
            // Whoever is retracted is known, and nobody comes late: the state is whole.
            let _ = fragment.apply_event(self.observer.definitions(), event, &effects.unwrap_or_default());
        })?;
        Ok(fragment)
    }

    /// The state of an identifier as of an instant: a fold of the events up to it, whatever came later.
    ///
    /// Offers decided after the instant's minute do not count.
    pub fn as_of(&self, identifier: &Identifier, at: Timestamp) -> Result<Fragment, ShardError> {
        self.refold(&self.past(identifier)?, at)
    }

    /// The same, as if more events had come that nobody else sees.
    pub fn as_of_with(
        &self,
        identifier: &Identifier,
        at: Option<Timestamp>,
        more: Vec<(EventRef, Effects)>,
    ) -> Result<Fragment, ShardError> {
        let mut past = self.past(identifier)?;
        let change = |(event, effects)| PendingChange { bytes: Arc::default(), body: Body::Event { event, effects } };
        past.pending.extend(more.into_iter().map(change).map(Arc::new));
        self.refold(&past, at.unwrap_or(Timestamp(i64::MAX)))
    }

    /// Hands over what every event of some fragments does, up to an instant, in the order of their times; those that are retracted are left out.
    pub fn replay(
        &self,
        identifiers: &[Identifier],
        at: Timestamp,
        take: &mut dyn FnMut(&EventRef, Effects),
    ) -> Result<(), ShardError> {
        let pasts = identifiers.iter().map(|identifier| self.past(identifier)).collect::<Result<Vec<_>, _>>()?;
        let (mut places, _) = self.places(&pasts, at, &mut |_| {})?;
        places.retain(|place| !place.retracted);
        self.tell(&pasts, &places, &mut |event, effects| {
            if let Some(effects) = effects {
                take(event, effects);
            }
        })
    }

    /// Hands over all changes of an identifier that are kept, those in the base in log order, then the pending ones.
    pub fn history(&self, identifier: &Identifier, mut take: impl FnMut(Change)) -> Result<(), ShardError> {
        let past = self.past(identifier)?;
        let last = past.pending.iter().rposition(|change| matches!(change.body, Body::Erase { .. }));
        let mut erased = None;
        let withdrawn = |id_hash: Option<[u8; 16]>| id_hash.is_some_and(|id_hash| past.withdraws(&id_hash));
        past.history.for_each_of(past.upto, &ALL, |_, _, change| {
            let id_hash = if let Change::Event { event, .. } = &change { Some(event.id_hash()) } else { None };
            if withdrawn(id_hash) {
            } else if let Change::Erase { at, .. } = &change {
                erased = erased.max(Some(*at));
            } else if last.is_none() {
                take(change);
            }
        })?;
        for (position, change) in past.pending.iter().enumerate() {
            if let Body::Erase { at, .. } = &change.body {
                erased = erased.max(Some(*at));
            } else if !matches!(change.body, Body::Withdraw(_))
                && !withdrawn(change.body.id_hash())
                && last.is_none_or(|last| last < position)
                && change.body.counts(erased)
            {
                take(Change::decode(&change.bytes)?);
            }
        }
        Ok(())
    }

    /// Everything that is kept of an identifier.
    fn past(&self, identifier: &Identifier) -> Result<Past, ShardError> {
        let cell = self.cell(identifier.shard());
        // What is written and what is pending change together, under this lock: no change is seen twice or not at all.
        let _rows = cell.rows.read();
        let pending: Vec<_> = {
            let state = cell.state.lock();
            state.pending.get(identifier).map(|fragment| fragment.changes.iter().cloned().collect()).unwrap_or_default()
        };
        self.past_of(identifier, cell.cursor().seq, pending)
    }

    /// The history up to a change, and what came after. The rows must be at rest.
    pub(crate) fn past_of(
        &self,
        identifier: &Identifier,
        upto: u64,
        pending: Vec<Arc<PendingChange>>,
    ) -> Result<Past, ShardError> {
        let (history, read) = (self.disk.history(identifier)?, OnceCell::new());
        let withdrawn = pending.iter().filter(|change| matches!(change.body, Body::Withdraw(_)));
        let withdrawn = withdrawn.flat_map(|change| change.body.ids()).collect();
        Ok(Past { identifier: identifier.clone(), history, upto, erased: None, pending, withdrawn, read })
    }

    /// Finds the events up to an instant, in the order in which they are folded; of each past the ids that it retracts, and when it was erased. Hands over the
    /// other changes. Nothing from before an erasure is among them.
    fn places(
        &self,
        pasts: &[Past],
        at: Timestamp,
        take: &mut dyn FnMut(Body),
    ) -> Result<(Vec<Place>, Vec<Standing>), ShardError> {
        let mut places = Vec::new();
        let mut standing = Vec::with_capacity(pasts.len());
        for (index, past) in pasts.iter().enumerate() {
            let (first, mut retracted, mut erased) = (places.len(), Retracted::default(), past.erased);
            let mut others = Vec::new();
            past.for_each(&ALL, |position, whole| {
                let bytes = if let Whole::Logged(change) = &whole { payload_bytes(change) } else { 0 };
                let (event, retracts) = match whole {
                    Whole::Logged(Change::Erase { at, .. }) | Whole::Pending(Body::Erase { at, .. }) => {
                        erased = erased.max(Some(*at));
                        places.truncate(first);
                        retracted = Retracted::default();
                        return others.clear();
                    }
                    Whole::Logged(change) if erased.is_some_and(|erased| change.is_before(erased)) => return,
                    Whole::Pending(body) if !body.counts(erased) => return,
                    Whole::Logged(Change::Event { event, .. }) if past.withdraws(&event.id_hash()) => return,
                    Whole::Pending(Body::Event { event, .. }) if past.withdraws(&event.id_hash) => return,
                    Whole::Logged(Change::Event { event, .. }) if event.at <= at => {
                        // Most are passed over at a glance; what the rest does is found out again when it is folded.
                        let retracts =
                            event.payload.contains("\"retracts\"").then(|| Effects::of(event).ok()).flatten();
                        (EventRef::from(event), retracts.and_then(|effects| effects.retracts))
                    }
                    Whole::Pending(Body::Event { event, effects }) if event.at <= at => (*event, effects.retracts),
                    Whole::Logged(change) => return others.extend(up_to(beside(change), at)),
                    Whole::Pending(body) => return others.extend(up_to(body.beside(), at)),
                };
                if let Some(id) = retracts {
                    retracted.insert(id);
                }
                places.push(Place { event, past: index, position, retracted: false, bytes });
            })?;
            for place in &mut places[first..] {
                place.retracted = retracted.holds(&place.event.id_hash);
            }
            others.into_iter().for_each(&mut *take);
            standing.push((retracted, erased));
        }
        places.sort_unstable();
        Ok((places, standing))
    }

    /// Hands over events in the given order, with what they do; none of what is retracted.
    fn tell(
        &self,
        pasts: &[Past],
        places: &[Place],
        take: &mut dyn FnMut(&EventRef, Option<Effects>),
    ) -> Result<(), ShardError> {
        let standing = |place: &Place| (place.past, place.position);
        if places.is_sorted_by_key(standing) {
            // As most histories are: nothing is kept.
            let order: Vec<usize> = (0..places.len()).collect();
            return self.observe_at(pasts, places, &order, &mut |index, effects| {
                take(&places[index].event, effects);
            });
        }
        let mut rest = places;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |place: &&Place| {
                bytes += place.bytes;
                bytes <= BYTES_AT_ONCE
            };
            let count = rest.iter().take(EVENTS_AT_ONCE).take_while(fits).count().max(1);
            let window;
            (window, rest) = rest.split_at(count);
            let mut order: Vec<usize> = (0..window.len()).collect();
            order.sort_unstable_by_key(|index| standing(&window[*index]));
            let mut found: Vec<Option<Effects>> = window.iter().map(|_| None).collect();
            self.observe_at(pasts, window, &order, &mut |index, effects| found[index] = effects)?;
            for (place, effects) in window.iter().zip(found) {
                take(&place.event, effects);
            }
        }
        Ok(())
    }

    /// Observes events in the order in which they stand, `order` being that of the given places. What is retracted does nothing.
    fn observe_at(
        &self,
        pasts: &[Past],
        places: &[Place],
        order: &[usize],
        take: &mut dyn FnMut(usize, Option<Effects>),
    ) -> Result<(), ShardError> {
        let of_past =
            |number: usize| order.iter().map(|index| &places[*index]).filter(move |place| place.past == number);
        let ranges: Vec<Option<Range<usize>>> = (0..pasts.len())
            .map(|number| Some(of_past(number).next()?.position..of_past(number).next_back()?.position + 1))
            .collect();
        let mut order = order.iter().copied().peekable();
        for ((number, past), range) in pasts.iter().enumerate().zip(ranges) {
            let Some(range) = range else { continue };
            past.for_each(&range, |position, whole| {
                let here = |index: &usize| (places[*index].past, places[*index].position) == (number, position);
                let Some(index) = order.next_if(here) else { return };
                let effects = match whole {
                    _ if places[index].retracted => None,
                    Whole::Logged(Change::Event { event, .. }) => {
                        Some(self.observer.observe(event).on(&past.identifier))
                    }
                    Whole::Pending(Body::Event { effects, .. }) => Some(effects.clone()),
                    Whole::Logged(_) | Whole::Pending(_) => None,
                };
                take(index, effects);
            })?;
        }
        Ok(())
    }

    /// What the fold needs of a change; none of an activation.
    pub(crate) fn body(&self, change: &Change) -> Option<Body> {
        Some(match change {
            Change::Event { fragment, event } => {
                Body::Event { event: EventRef::from(event), effects: self.observer.observe(event).on(fragment) }
            }
            other => return beside(other),
        })
    }
}

/// What the fold needs of a change that is not an event; none of an activation.
fn beside(change: &Change) -> Option<Body> {
    match change {
        Change::Decided { offers, exposures, .. } => {
            Some(Body::Decided { offers: offers.clone(), exposures: exposures.clone() })
        }
        Change::Link { other, word, .. } => Some(Body::Link { other: other.clone(), word: *word }),
        Change::Mart { load, .. } => Some(Body::Mart(Box::new(load.clone()))),
        Change::Erase { erasure, at, .. } => Some(Body::Erase { erasure: *erasure, at: *at }),
        Change::Erased { remains, .. } => Some(Body::Erased(remains.ids.map(|(id_hash, _)| id_hash))),
        Change::Withdraw { ids, .. } => Some(Body::Withdraw(ids.as_slice().into())),
        Change::Event { .. }
        | Change::Activate(_)
        | Change::Mark(_)
        | Change::Release(_)
        | Change::Catalog(_)
        | Change::Switch(_) => None,
    }
}

/// What is not an event, as of an instant.
fn up_to(body: Option<Body>, at: Timestamp) -> Option<Body> {
    match body? {
        Body::Event { .. } | Body::Erase { .. } | Body::Erased(_) | Body::Withdraw(_) => None,
        Body::Decided { mut offers, mut exposures } => {
            offers.retain(|decided| decided.minute <= at);
            exposures.retain(|exposure| exposure.at <= at);
            Some(Body::Decided { offers, exposures })
        }
        Body::Mart(load) => (load.as_of <= at).then_some(Body::Mart(load)),
        link @ Body::Link { .. } => Some(link),
    }
}
