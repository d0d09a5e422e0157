//! Pending changes: what this edge accepted and the base does not hold yet.
//!
//! The view that is served is base + pending. While a fragment has pending changes its base is pinned here, so a change never needs the
//! disk twice. Changes have the numbers of the outbox, and leave in that order; an event leaves early where the base gets its id from elsewhere.

use crate::maps::{HashMap, HashSet};
use std::collections::VecDeque;
use std::sync::Arc;

use selvedge_core::aggregate::Definitions;
use selvedge_core::change::{DecidedOffer, decided_before};
use selvedge_core::effects::Effects;
use selvedge_core::fragment::{EventRef, Folded, Fragment};
use selvedge_core::identity::Identifier;
use selvedge_core::links::Word;
use selvedge_core::mart::Load;
use selvedge_core::offers::Exposure;
use selvedge_core::value::Timestamp;
use selvedge_core::view::Seen;

/// A change on its way into the base.
#[derive(Debug)]
pub(crate) struct PendingChange {
    /// As it stands in the log.
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) body: Body,
}

/// What the fold needs of a change.
#[derive(Debug)]
pub(crate) enum Body {
    Event {
        event: EventRef,
        effects: Effects,
    },
    Decided {
        offers: Vec<DecidedOffer>,
        exposures: Vec<Exposure>,
    },
    Link {
        other: Identifier,
        word: Word,
    },
    Mart(Box<Load>),
    Erase {
        erasure: [u8; 16],
        at: Timestamp,
    },
    /// What an erasure has left of an entry: the hash of the id, of an event.
    Erased(Option<[u8; 16]>),
    /// The ids of events that never were, wherever they stand.
    Withdraw(Arc<[[u8; 16]]>),
}

impl Body {
    pub(crate) fn apply(&self, fragment: &mut Fragment, definitions: &Definitions) -> Folded {
        match self {
            Self::Event { event, effects } => return fragment.apply_event(definitions, event, effects),
            Self::Decided { offers, exposures } => fragment.apply_decided(offers, exposures),
            Self::Link { other, word } => fragment.apply_link(other, *word),
            Self::Mart(load) => return fragment.apply_load(definitions, load),
            Self::Erase { at, .. } => fragment.erase(definitions, *at),
            Self::Erased(_) => {}
            // Which of them have been folded, and what that did, only the history knows.
            Self::Withdraw(_) => return Folded::Refold,
        }
        Folded::Counted
    }

    /// What is not an event.
    pub(crate) fn beside(&self) -> Option<Self> {
        match self {
            Self::Event { .. } | Self::Erase { .. } | Self::Erased(_) | Self::Withdraw(_) => None,
            Self::Decided { offers, exposures } => {
                Some(Self::Decided { offers: offers.clone(), exposures: exposures.clone() })
            }
            Self::Link { other, word } => Some(Self::Link { other: other.clone(), word: *word }),
            Self::Mart(load) => Some(Self::Mart(load.clone())),
        }
    }

    /// Whether it does to a join of fragments what it does to its own, if it counts there. Who is one person, what is retracted, and what a load
    /// covers is each fragment's own.
    pub(crate) fn joins(&self, own: &Fragment) -> bool {
        self.counts(own.erased)
            && match self {
                Self::Event { event, effects } => effects.retracts.is_none() && !own.mart.covers(event.at),
                Self::Decided { .. } => true,
                Self::Link { .. } | Self::Mart(_) | Self::Erase { .. } | Self::Erased(_) | Self::Withdraw(_) => false,
            }
    }

    /// Whether it does anything to a fragment that was erased at an instant, if it was: nothing does that was said before.
    pub(crate) fn counts(&self, erased: Option<Timestamp>) -> bool {
        let before = |erased: Timestamp| match self {
            Self::Event { event, .. } => event.received_at <= erased,
            Self::Decided { offers, exposures } => decided_before(offers, exposures, erased),
            Self::Link { word, .. } => word.at <= erased,
            Self::Mart(load) => load.as_of <= erased,
            Self::Erase { .. } | Self::Erased(_) | Self::Withdraw(_) => false,
        };
        !matches!(self, Self::Erased(_)) && !erased.is_some_and(before)
    }

    pub(crate) fn id_hash(&self) -> Option<[u8; 16]> {
        match self {
            Self::Event { event, .. } => Some(event.id_hash),
            Self::Erased(id_hash) => *id_hash,
            Self::Decided { .. } | Self::Link { .. } | Self::Mart(_) | Self::Erase { .. } | Self::Withdraw(_) => None,
        }
    }

    /// The hashes of all ids that are known from it on: that of an event, or those that it withdraws.
    pub(crate) fn ids(&self) -> impl Iterator<Item = [u8; 16]> {
        let withdrawn = if let Self::Withdraw(ids) = self { &ids[..] } else { &[] };
        self.id_hash().into_iter().chain(withdrawn.iter().copied())
    }
}

impl PendingChange {
    /// Bytes in memory, about; for the bound on what may be pending.
    pub(crate) fn weight(&self) -> usize {
        let effects = match &self.body {
            Body::Event { effects, .. } => {
                let traits: usize = effects.traits.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
                effects.contributions.iter().map(|contribution| 40 + contribution.key.len()).sum::<usize>() + traits
            }
            Body::Decided { offers, exposures } => {
                offers.len() * size_of::<DecidedOffer>() + exposures.len() * size_of::<Exposure>()
            }
            Body::Link { .. } | Body::Erase { .. } | Body::Erased(_) => 0,
            Body::Withdraw(ids) => ids.len() * 16,
            Body::Mart(load) => load.weight(),
        };
        size_of::<Self>() + 128 + self.bytes.len() + effects
    }
}

/// Folds changes, all of them. Gives what ails the result, if anything does.
pub(crate) fn apply_all<'c>(
    changes: impl Iterator<Item = &'c Arc<PendingChange>>,
    fragment: &mut Fragment,
    definitions: &Definitions,
) -> Folded {
    let mut folded = Folded::Counted;
    for change in changes {
        folded = folded.max(change.body.apply(fragment, definitions));
    }
    folded
}

/// A fragment as it stands, with the ids of its events where they are at hand.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pub(crate) fragment: Arc<Fragment>,
    pub(crate) seen: Option<Arc<Seen>>,
}

/// A fragment with pending changes.
pub(crate) struct PendingFragment {
    pub(crate) base: Arc<Fragment>,
    pub(crate) view: Arc<Fragment>,
    pub(crate) seen: Option<Arc<Seen>>,
    pub(crate) changes: VecDeque<Arc<PendingChange>>,
}

impl PendingFragment {
    pub(crate) fn held(&self) -> Held {
        Held { fragment: Arc::clone(&self.view), seen: self.seen.clone() }
    }
}

/// A change in its place among the pending ones of a shard.
#[derive(Clone)]
pub(crate) struct Queued {
    /// Its number in the outbox of this shard.
    pub(crate) local: u64,
    pub(crate) identifier: Identifier,
    pub(crate) change: Arc<PendingChange>,
}

/// What left the pending changes.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) weight: usize,
    /// How many of each fragment.
    pub(crate) counts: HashMap<Identifier, usize>,
}

/// The pending changes of one shard.
#[derive(Default)]
pub(crate) struct Pending {
    fragments: HashMap<Identifier, PendingFragment>,
    /// All changes in the order of the outbox, ascending by number.
    order: VecDeque<Queued>,
    ids: HashSet<(Identifier, [u8; 16])>,
    /// The number of the newest change that was admitted.
    last_local: u64,
}

impl Pending {
    pub(crate) fn get(&self, identifier: &Identifier) -> Option<&PendingFragment> {
        self.fragments.get(identifier)
    }

    pub(crate) fn holds(&self, identifier: &Identifier, id_hash: [u8; 16]) -> bool {
        !self.ids.is_empty() && self.ids.contains(&(identifier.clone(), id_hash))
    }

    /// The number that the next change gets.
    pub(crate) fn next_local(&self) -> u64 {
        self.last_local + 1
    }

    /// Sets the number that the next change gets, while nothing is pending.
    pub(crate) fn begin(&mut self, next_local: u64) {
        self.last_local = next_local.saturating_sub(1);
    }

    /// Adds a change with the next number; `held` is the fragment as it stands where it has no pending changes yet. What it comes to is shown by
    /// [`Self::show`].
    pub(crate) fn push(&mut self, identifier: &Identifier, change: &Arc<PendingChange>, held: impl FnOnce() -> Held) {
        self.push_as(self.next_local(), identifier, change, held);
    }

    /// The same with a number of its own, above all that are pending.
    pub(crate) fn push_as(
        &mut self,
        local: u64,
        identifier: &Identifier,
        change: &Arc<PendingChange>,
        held: impl FnOnce() -> Held,
    ) {
        let fragment = self.fragments.entry(identifier.clone()).or_insert_with(|| {
            let Held { fragment: base, seen } = held();
            PendingFragment { view: Arc::clone(&base), base, seen, changes: VecDeque::new() }
        });
        for id_hash in change.body.ids() {
            if let Some(seen) = &mut fragment.seen {
                seen.insert(&id_hash);
            }
            self.ids.insert((identifier.clone(), id_hash));
        }
        self.order.push_back(Queued { local, identifier: identifier.clone(), change: Arc::clone(change) });
        self.last_local = self.last_local.max(local);
        fragment.changes.push_back(Arc::clone(change));
    }

    /// Sets what a fragment's base and all its pending changes come to. Gives the fragment as it stands now; none where nothing is pending.
    pub(crate) fn show(&mut self, identifier: &Identifier, view: Arc<Fragment>) -> Option<Held> {
        let fragment = self.fragments.get_mut(identifier)?;
        if view.events > Seen::EVENTS_MAX {
            fragment.seen = None;
        }
        fragment.view = view;
        Some(fragment.held())
    }

    /// Puts another base under a fragment's pending changes. What view that gives is shown by [`Self::show`].
    pub(crate) fn rebase(&mut self, identifier: &Identifier, base: Arc<Fragment>) {
        if let Some(fragment) = self.fragments.get_mut(identifier) {
            fragment.base = base;
        }
    }

    /// Remembers ids that a fragment's base has got, where its ids are at hand.
    pub(crate) fn remember(&mut self, identifier: &Identifier, ids: &[[u8; 16]]) {
        let seen = self.fragments.get(identifier).and_then(|fragment| fragment.seen.as_ref());
        if let Some(seen) = seen {
            ids.iter().for_each(|id_hash| seen.insert(id_hash));
        }
    }

    /// Takes a fragment out that has no pending changes left.
    pub(crate) fn take_settled(&mut self, identifier: &Identifier) -> Option<PendingFragment> {
        let settled = self.fragments.get(identifier)?.changes.is_empty();
        if settled { self.fragments.remove(identifier) } else { None }
    }

    /// The first changes in the order of the outbox, which are about to enter the base.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = &Queued> {
        self.order.iter().take(count)
    }

    /// The change of a number.
    pub(crate) fn of_local(&self, local: u64) -> Option<&Queued> {
        self.order.binary_search_by_key(&local, |queued| queued.local).ok().and_then(|at| self.order.get(at))
    }

    /// The number of the last change.
    pub(crate) fn last(&self) -> Option<u64> {
        self.order.back().map(|queued| queued.local)
    }

    /// How many changes there are, and the number of the first one.
    pub(crate) fn outstanding(&self) -> (usize, Option<u64>) {
        (self.order.len(), self.order.front().map(|queued| queued.local))
    }

    /// A fragment's state after its first changes: what its base becomes; none where that must be folded again.
    pub(crate) fn base_after(
        &self,
        identifier: &Identifier,
        count: usize,
        definitions: &Definitions,
    ) -> Option<Arc<Fragment>> {
        let fragment = self.fragments.get(identifier)?;
        if count == fragment.changes.len() {
            return Some(Arc::clone(&fragment.view));
        }
        let mut base = Fragment::clone(&fragment.base);
        let folded = apply_all(fragment.changes.iter().take(count), &mut base, definitions);
        (folded != Folded::Refold).then(|| Arc::new(base))
    }

    /// Takes the first changes out: they are in the base now. Returns the weight that went, and the fragments that have none left.
    pub(crate) fn advance(&mut self, count: usize, bases: impl Iterator<Item = (Identifier, Arc<Fragment>)>) -> usize {
        let mut left = Left::default();
        for _ in 0..count {
            if !self.pop_first(&mut left) {
                break;
            }
        }
        for (identifier, base) in bases {
            self.rebase(&identifier, base);
            self.take_settled(&identifier);
        }
        left.weight
    }

    /// Takes changes out: all up to a number, and the events among the rest whose ids are void. What that leaves of their fragments is for the caller
    /// to show.
    pub(crate) fn leave(&mut self, upto: u64, void: &HashSet<(Identifier, [u8; 16])>) -> Left {
        let mut left = Left::default();
        while self.order.front().is_some_and(|first| first.local <= upto) {
            self.pop_first(&mut left);
        }
        if void.iter().any(|id| self.ids.contains(id)) {
            let is_void = |identifier: &Identifier, change: &PendingChange| {
                change.body.id_hash().is_some_and(|id_hash| void.contains(&(identifier.clone(), id_hash)))
            };
            self.order.retain(|queued| {
                let goes = is_void(&queued.identifier, &queued.change);
                if goes {
                    left.weight += queued.change.weight();
                    *left.counts.entry(queued.identifier.clone()).or_default() += 1;
                }
                !goes
            });
            for id in void {
                if self.ids.remove(id)
                    && let Some(fragment) = self.fragments.get_mut(&id.0)
                {
                    fragment.changes.retain(|change| change.body.id_hash() != Some(id.1));
                }
            }
        }
        left
    }

    /// Takes everything out. Gives it with its weight.
    pub(crate) fn drain(&mut self) -> (VecDeque<Queued>, usize) {
        self.fragments.clear();
        self.ids.clear();
        let all = std::mem::take(&mut self.order);
        let weight = all.iter().map(|queued| queued.change.weight()).sum();
        (all, weight)
    }

    /// Takes the first change out. Gives whether there was one.
    fn pop_first(&mut self, left: &mut Left) -> bool {
        let Some(Queued { identifier, change, .. }) = self.order.pop_front() else { return false };
        left.weight += change.weight();
        for id_hash in change.body.ids() {
            self.ids.remove(&(identifier.clone(), id_hash));
        }
        if let Some(fragment) = self.fragments.get_mut(&identifier) {
            fragment.changes.pop_front();
        }
        *left.counts.entry(identifier).or_default() += 1;
        true
    }
}
