//! Columns of a visitor that are worked out already, and kept beside what they were worked out from.
//!
//! Most of what a plugin reads of a visitor stays as it is between two events: traits, totals, and windows until the oldest event in them leaves. A fragment
//! remembers the columns in which that stands, for each list of reads; a copy of it does too. They say what they were made of, so nobody has to
//! drop them: beside other traits or states, or behind the instant up to which they hold, they are made again. Whoever folds an event says which states it
//! has changed: then only the columns of these are made again. Where they are all that a plugin scores by, its scores stand beside them: a plugin's stage depends
//! on nothing but its columns, so it would score the same again.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::aggregate::State;
use crate::columns::Columns;
use crate::shared::{Name, Shared};
use crate::traits::{TraitSources, Traits};
use crate::value::Timestamp;

/// Lists of reads that one fragment remembers columns for.
const KEPT_MAX: usize = 64;
/// States that may have changed since columns were made, for the others to be taken over.
const CHANGED_MAX: usize = 128;

/// Names one list of reads, as long as anybody holds it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token(Arc<()>);

/// Columns in which everything stands that holds for a while.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) columns: Columns,
    /// The columns that are filled anew in each call, ascending.
    pub(crate) open: Box<[usize]>,
    of: Token,
    traits: Name<Traits>,
    states: Name<Vec<State>>,
    sources: TraitSources,
    from: Timestamp,
    until: Timestamp,
    /// What the plugin that reads them scored by them, where they are all that it reads.
    scores: OnceLock<Box<[Option<f64>]>>,
}

/// What columns are made of.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'g> {
    pub(crate) of: &'g Token,
    pub(crate) traits: &'g Shared<Traits>,
    pub(crate) states: &'g Shared<Vec<State>>,
    pub(crate) sources: &'g TraitSources,
}

impl Prepared {
    /// Columns that hold from an instant on, until another.
    pub(crate) fn new(
        columns: Columns,
        open: Box<[usize]>,
        ground: Ground<'_>,
        from: Timestamp,
        until: Timestamp,
    ) -> Self {
        let Ground { of, traits, states, sources } = ground;
        let (of, traits, states, sources) = (of.clone(), traits.name(), states.name(), sources.clone());
        Self { columns, open, of, traits, states, sources, from, until, scores: OnceLock::new() }
    }

    /// Whether they hold at an instant, whatever has become of the states.
    fn holds(&self, ground: &Ground<'_>, at: Timestamp) -> bool {
        Arc::ptr_eq(&self.of.0, &ground.of.0)
            && (self.from <= at && at < self.until)
            && ground.traits.is_named(&self.traits)
            && self.sources == *ground.sources
    }

    /// Up to when they hold.
    pub(crate) fn until(&self) -> Timestamp {
        self.until
    }

    fn weight(&self) -> usize {
        size_of::<Self>() + self.columns.weight()
    }
}

/// Columns, and which states have changed since they were made.
#[derive(Clone)]
struct Entry {
    prepared: Arc<Prepared>,
    changed: Option<Arc<Changed>>,
}

/// The states as they are after some changes, and the positions of those that changed.
struct Changed {
    states: Name<Vec<State>>,
    at: Vec<u16>,
}

impl Entry {
    /// The states that its columns go by, but for those that changed.
    fn states(&self) -> &Name<Vec<State>> {
        self.changed.as_ref().map_or(&self.prepared.states, |changed| &changed.states)
    }
}

/// What is remembered of one list of reads at an instant.
pub(crate) enum Found {
    /// It holds.
    Whole(Arc<Prepared>),
    /// It holds but for what these states say.
    But(Arc<Prepared>, Vec<u16>),
}

type Kept = Arc<[Entry]>;

/// What a fragment remembers. It is no part of its value: all are equal, and none is stored.
#[derive(Default)]
pub struct Memo(Mutex<Option<Kept>>);

impl Memo {
    fn kept(&self) -> Option<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The columns that hold at an instant.
    pub(crate) fn get(&self, ground: &Ground<'_>, at: Timestamp) -> Option<Found> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |entry: &&Entry| entry.prepared.holds(ground, at) && ground.states.is_named(entry.states());
        let Entry { prepared, changed } = kept.as_deref()?.iter().find(holds)?;
        let prepared = Arc::clone(prepared);
        Some(match changed {
            None => Found::Whole(prepared),
            Some(changed) => Found::But(prepared, changed.at.clone()),
        })
    }

    /// Remembers columns, in place of earlier ones of the same reads.
    pub(crate) fn keep(&self, new: &Arc<Prepared>) {
        let kept = self.kept().unwrap_or_default();
        let others = kept.iter().filter(|entry| !Arc::ptr_eq(&entry.prepared.of.0, &new.of.0));
        // Those of plugins that are gone stand at the front.
        let others: Vec<_> = others.cloned().collect();
        let first = (others.len() + 1).saturating_sub(KEPT_MAX);
        let new = Entry { prepared: Arc::clone(new), changed: None };
        let all = others.into_iter().skip(first).chain([new]).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
    }

    /// A name for states that are about to be changed; none where nothing was made of any.
    pub(crate) fn before(&self, states: &Shared<Vec<State>>) -> Option<Name<Vec<State>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some().then(|| states.name())
    }

    /// Goes on from states to what they have become by a change of those at some positions.
    pub(crate) fn follow(
        &mut self,
        before: &Name<Vec<State>>,
        states: &Shared<Vec<State>>,
        at: impl Iterator<Item = u16> + Clone,
    ) {
        let held = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = held else { return };
        // Those of one age share what has changed since.
        let mut last: Option<(Option<Arc<Changed>>, Arc<Changed>)> = None;
        let same = |one: &Option<Arc<Changed>>, other: &Option<Arc<Changed>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let follows = kept.iter().filter(|entry| entry.states().is(before)).filter_map(|entry| {
            let changed = match &last {
                Some((of, changed)) if same(of, &entry.changed) => Arc::clone(changed),
                _ => {
                    let mut all = entry.changed.as_ref().map_or(Vec::new(), |changed| changed.at.clone());
                    for position in at.clone() {
                        if let Err(gap) = all.binary_search(&position) {
                            all.insert(gap, position);
                        }
                    }
                    let changed = Arc::new(Changed { states: states.name(), at: all });
                    last = Some((entry.changed.clone(), Arc::clone(&changed)));
                    changed
                }
            };
            let few = changed.at.len() <= CHANGED_MAX;
            few.then(|| Entry { prepared: Arc::clone(&entry.prepared), changed: Some(changed) })
        });
        *held = Some(follows.collect());
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        self.kept().map_or(0, |kept| kept.iter().map(|entry| entry.prepared.weight()).sum())
    }
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.kept()))
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

impl fmt::Debug for Memo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Memo")
    }
}

/// Columns for one call.
#[derive(Debug)]
pub enum Lowered {
    /// As they were prepared.
    Prepared(Arc<Prepared>),
    /// Made for this call.
    Fresh(Columns),
}

impl Lowered {
    /// Where scores stand that follow from these columns alone, and so hold as long as they do. None where they are of one call.
    pub fn scores(&self) -> Option<&OnceLock<Box<[Option<f64>]>>> {
        match self {
            Self::Prepared(prepared) => Some(&prepared.scores),
            Self::Fresh(_) => None,
        }
    }
}

impl Deref for Lowered {
    type Target = Columns;

    fn deref(&self) -> &Columns {
        match self {
            Self::Prepared(prepared) => &prepared.columns,
            Self::Fresh(columns) => columns,
        }
    }
}
