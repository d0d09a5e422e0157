//! Admission: what becomes a pending change, judged and folded under its shard's lock.

use std::sync::Arc;

use parking_lot::MutexGuard;
use selvedge_core::change::{Change, DecidedOffer};
use selvedge_core::effects::Effects;
use selvedge_core::event::{Event, Refusal};
use selvedge_core::fragment::{Bounds, EventRef, Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::links::Word;
use selvedge_core::mart::Load;
use selvedge_core::offers::Exposure;
use selvedge_core::value::Timestamp;

use crate::maps::{HashMap, HashSet};
use crate::pending::{Body, Held, PendingChange};
use crate::profiles::Follow;
use crate::{Outbox, ShardError, Shards, State};

/// A change that is ready to be admitted: observed and encoded.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) identifier: Identifier,
    pub(crate) change: Arc<PendingChange>,
}

impl Prepared {
    /// An event with its effects.
    pub fn event(identifier: Identifier, event: Event, effects: Effects) -> Self {
        let reference = EventRef::from(&event);
        let bytes = Change::Event { fragment: identifier.clone(), event }.encode().into();
        Self::new(identifier, bytes, Body::Event { event: reference, effects })
    }

    /// Offers that were decided, and the experiments that this exposed them to.
    pub fn decided(identifier: Identifier, offers: Vec<DecidedOffer>, exposures: Vec<Exposure>) -> Self {
        let bytes = Change::encode_decided(&identifier, &offers, &exposures).into();
        Self::new(identifier, bytes, Body::Decided { offers, exposures })
    }

    /// One half of a link.
    pub(crate) fn link(identifier: Identifier, other: Identifier, word: Word) -> Self {
        let change = Change::Link { fragment: identifier.clone(), other: other.clone(), word };
        Self::new(identifier, change.encode().into(), Body::Link { other, word })
    }

    /// What a batch system says.
    pub fn mart(identifier: Identifier, load: Load) -> Self {
        let bytes = Change::Mart { fragment: identifier.clone(), load: load.clone() }.encode().into();
        Self::new(identifier, bytes, Body::Mart(Box::new(load)))
    }

    pub(crate) fn new(identifier: Identifier, bytes: Arc<[u8]>, body: Body) -> Self {
        Self { identifier, change: Arc::new(PendingChange { bytes, body }) }
    }

    /// Whose change it is.
    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    /// Whether it takes an event back: for that, histories are read.
    pub fn retracts(&self) -> bool {
        matches!(&self.change.body, Body::Event { effects, .. } if effects.retracts.is_some())
    }

    /// Its bytes in the log.
    pub fn bytes(&self) -> usize {
        self.change.bytes.len()
    }

    /// When it happened, of an event.
    pub fn at(&self) -> Option<Timestamp> {
        match &self.change.body {
            Body::Event { event, .. } => Some(event.at),
            Body::Decided { .. }
            | Body::Link { .. }
            | Body::Mart(_)
            | Body::Erase { .. }
            | Body::Erased(_)
            | Body::Withdraw(_) => None,
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Accepted,
    /// Its id was seen before; it counts once. Of a load: its block has it, or a newer one.
    Duplicate,
    /// It cannot be taken.
    Refused(Refusal),
}

/// Fragments as they will stand once changes are taken in, and what became of these.
pub(crate) type Outlook = HashMap<Identifier, (Arc<Fragment>, Folded)>;

impl Shards {
    /// Admits changes of one shard, in order: those that count are in the views and in the outbox when this returns, the rest says why
    /// not. May block on the disk for fragments that are not in memory ([`Self::load`] them before), and for the history of those that must be folded
    /// again.
    pub fn admit(
        &self,
        shard: ShardId,
        mut changes: Vec<Prepared>,
        outbox: &dyn Outbox,
    ) -> Result<Vec<Verdict>, ShardError> {
        if let Some(verdicts) = self.try_admit(shard, &mut changes, outbox, false)? {
            return Ok(verdicts);
        }
        // Something must be read, or folded again, from rows at rest; and rows are locked before the state.
        let _rows = self.cell(shard).rows.read();
        let verdicts = self.try_admit(shard, &mut changes, outbox, true)?;
        verdicts.ok_or_else(|| ShardError::Corrupt(format!("shard {}: a fold again gave no state", shard.0)))
    }

    /// Admits changes, unless rows are needed for it that are not at rest: then nothing has happened.
    fn try_admit(
        &self,
        shard: ShardId,
        changes: &mut Vec<Prepared>,
        outbox: &dyn Outbox,
        rows_at_rest: bool,
    ) -> Result<Option<Vec<Verdict>>, ShardError> {
        let cell = self.cell(shard);
        let mut state = cell.state.lock();
        let mut bases: HashMap<Identifier, Held> = HashMap::default();
        for prepared in changes.iter_mut() {
            if !bases.contains_key(&prepared.identifier) {
                let Some(held) = self.current(&state, &prepared.identifier, rows_at_rest)? else { return Ok(None) };
                bases.insert(prepared.identifier.clone(), held);
            }
            if let Some(held) = bases.get(&prepared.identifier) {
                prepared.after_erasure(&held.fragment)?;
            }
        }
        let verdicts = self.judge(&state, changes, &bases)?;
        let accepted = || changes.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Accepted);
        let mut outlook = self.outlook(&bases, accepted().map(|(prepared, _)| prepared));
        let again: Vec<Identifier> =
            outlook.iter().filter(|(_, (_, folded))| *folded == Folded::Refold).map(|(of, _)| of.clone()).collect();
        if !again.is_empty() && !rows_at_rest {
            return Ok(None);
        }
        for identifier in again {
            let before = state.pending.get(&identifier).into_iter().flat_map(|fragment| &fragment.changes);
            let new = accepted().filter(|(prepared, _)| prepared.identifier == identifier);
            let pending = before.chain(new.map(|(prepared, _)| &prepared.change)).cloned().collect();
            let whole = self.refold(&self.past_of(&identifier, cell.cursor().seq, pending)?, Timestamp(i64::MAX))?;
            outlook.insert(identifier, (Arc::new(whole), Folded::Refold));
        }
        let bytes: Vec<_> = accepted().map(|(prepared, _)| Arc::clone(&prepared.change.bytes)).collect();
        if bytes.is_empty() {
            return Ok(Some(verdicts));
        }
        outbox.append(vec![(shard, bytes)]).map_err(ShardError::Outbox)?;
        let changes = std::mem::take(changes);
        let accepted = changes.into_iter().zip(&verdicts).filter(|(_, verdict)| **verdict == Verdict::Accepted);
        self.take(&mut state, accepted.map(|(prepared, _)| prepared), &bases, outlook);
        Ok(Some(verdicts))
    }

    /// What changes come to on top of their fragments as they stand.
    pub(crate) fn outlook<'p>(
        &self,
        bases: &HashMap<Identifier, Held>,
        changes: impl Iterator<Item = &'p Prepared>,
    ) -> Outlook {
        let mut outlook = Outlook::default();
        for Prepared { identifier, change } in changes {
            let (fragment, folded) = outlook.entry(identifier.clone()).or_insert_with(|| {
                // Every identifier has its base.
                let held = bases.get(identifier).cloned().unwrap_or_default();
                (held.fragment, Folded::Counted)
            });
            *folded = (*folded).max(change.body.apply(Arc::make_mut(fragment), self.observer.definitions()));
        }
        outlook
    }

    /// Makes changes that the outbox has pending, and publishes what they come to.
    pub(crate) fn take(
        &self,
        state: &mut MutexGuard<'_, State>,
        changes: impl Iterator<Item = Prepared>,
        bases: &HashMap<Identifier, Held>,
        outlook: Outlook,
    ) {
        let mut weight = 0;
        let mut touched: HashMap<Identifier, Vec<Arc<PendingChange>>> = HashMap::default();
        for Prepared { identifier, change } in changes {
            weight += change.weight();
            // Every identifier has its base.
            state.pending.push(&identifier, &change, || bases.get(&identifier).cloned().unwrap_or_default());
            touched.entry(identifier).or_default().push(change);
        }
        self.pending_bytes.fetch_add(weight, std::sync::atomic::Ordering::Relaxed);
        for (identifier, (view, folded)) in outlook {
            if let Some(changed) = state.loading.get_mut(&identifier) {
                *changed = true;
            }
            let Some(held) = state.pending.show(&identifier, view) else { continue };
            let changes = touched.remove(&identifier).unwrap_or_default();
            let definitions = self.observer.definitions();
            // What a join cannot follow, it is made again for.
            let own = &held.fragment;
            let joins = folded == Folded::Counted && changes.iter().all(|change| change.body.joins(own));
            let apply = |joined: &mut Fragment| {
                let applied = changes.iter().map(|change| change.body.apply(joined, definitions));
                applied.max().unwrap_or(Folded::Counted)
            };
            self.publish(state, &identifier, held, joins.then_some(&apply as Follow<'_>));
        }
    }

    /// Which changes count: each id once, and within the bounds of a profile, each judged as if those before it had been folded.
    fn judge(
        &self,
        state: &State,
        changes: &[Prepared],
        bases: &HashMap<Identifier, Held>,
    ) -> Result<Vec<Verdict>, ShardError> {
        let mut fresh: HashSet<(&Identifier, [u8; 16])> = HashSet::default();
        let mut bounds: HashMap<&Identifier, Bounds> = HashMap::default();
        let mut verdicts = Vec::with_capacity(changes.len());
        for Prepared { identifier, change } in changes {
            // Every identifier has its base.
            let Some(Held { fragment, seen }) = bases.get(identifier) else { continue };
            let (event, effects) = match &change.body {
                Body::Event { event, effects } => (event, effects),
                Body::Mart(load) => {
                    let bounds = bounds.entry(identifier).or_insert_with(|| Bounds::of(fragment));
                    verdicts.push(match bounds.admit_load(load) {
                        Ok(true) => Verdict::Accepted,
                        Ok(false) => Verdict::Duplicate,
                        Err(refusal) => Verdict::Refused(refusal),
                    });
                    continue;
                }
                Body::Decided { .. } | Body::Link { .. } | Body::Erase { .. } | Body::Erased(_) | Body::Withdraw(_) => {
                    fresh.extend(change.body.ids().map(|id_hash| (identifier, id_hash)));
                    verdicts.push(Verdict::Accepted);
                    continue;
                }
            };
            let on_disk = || match seen {
                Some(seen) if !seen.may_hold(&event.id_hash) => Ok(false),
                _ => self.disk.seen(identifier, &event.id_hash).map(|seq| seq.is_some()),
            };
            let known = state.pending.holds(identifier, event.id_hash)
                || fresh.contains(&(identifier, event.id_hash))
                || on_disk()?;
            if known {
                verdicts.push(Verdict::Duplicate);
                continue;
            }
            let bounds = bounds.entry(identifier).or_insert_with(|| Bounds::of(fragment));
            verdicts.push(match bounds.admit(event.at, effects) {
                Ok(()) => {
                    fresh.insert((identifier, event.id_hash));
                    Verdict::Accepted
                }
                Err(refusal) => Verdict::Refused(refusal),
            });
        }
        Ok(verdicts)
    }
}
