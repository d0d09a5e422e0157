//! Profiles: the fragments of one person, joined at read.
//!
//! Nothing is stored of a join. It is kept in memory, registered with every fragment that was looked at; it follows the events of its own
//! fragments, and is made again when links change; so linking shows at once and unlinking is exact.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;
use selvedge_core::fragment::{Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::links::{Group, ordered, resolve};
use selvedge_core::retracted::Retracted;
use selvedge_core::value::Timestamp;
use selvedge_core::view::View;

use crate::maps::HashMap;
use crate::{ShardError, Shards};

/// What is known of one person.
#[derive(Clone, Debug)]
pub enum Profile {
    /// Of one fragment, as most are.
    Single(Arc<View>),
    /// Of several.
    Joined(Arc<Joined>),
}

/// The fragments of one person, joined.
#[derive(Clone, Debug)]
pub struct Joined {
    pub(crate) identifiers: Vec<Identifier>,
    pub(crate) fragment: Arc<Fragment>,
    /// Every fragment that was looked at, as it was.
    pub(crate) seen: Vec<(Identifier, u64)>,
}

/// Where a joined profile stands, for all its identifiers; none where it is out of date.
///
/// Every fragment in it has it registered under its shard's lock, under which views are published too; so none of them changes without it.
#[derive(Debug)]
pub(crate) struct Slot(RwLock<Option<Arc<Joined>>>);

/// Does to a join what was done to one of its fragments.
pub(crate) type Follow<'c> = &'c dyn Fn(&mut Fragment) -> Folded;

impl Slot {
    pub(crate) fn get(&self) -> Option<Arc<Joined>> {
        self.0.read().clone()
    }

    /// The join is out of date.
    pub(crate) fn drop_joined(&self) {
        *self.0.write() = None;
    }

    /// Brings the join up to a newer view of a fragment: `change` does to it what was done to the fragment, since a join is the fold of all
    /// its histories. Where that is not known, the join is dropped.
    pub(crate) fn follow(&self, view: &View, change: Option<Follow<'_>>) {
        let mut current = self.0.write();
        let Some(joined) = current.as_mut() else { return };
        match change {
            // One that was looked at and left out: what is done to it is not this person's.
            Some(_) if !joined.identifiers.contains(&view.identifier) => {}
            Some(change) => {
                let joined = Arc::make_mut(joined);
                // A join may have forgotten a time that each of its fragments remembers.
                if change(Arc::make_mut(&mut joined.fragment)) == Folded::Refold {
                    *current = None;
                    return;
                }
                if let Some(seen) = joined.seen.iter_mut().find(|(of, _)| *of == view.identifier) {
                    seen.1 = view.revision;
                }
            }
            None => *current = None,
        }
    }
}

impl Joined {
    /// Bytes in memory, about.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.fragment.weight() + self.seen.len() * 2 * size_of::<(Identifier, u64)>()
    }
}

impl Profile {
    /// The fold of all its histories.
    pub fn fragment(&self) -> &Arc<Fragment> {
        match self {
            Self::Single(view) => &view.fragment,
            Self::Joined(joined) => &joined.fragment,
        }
    }

    /// Its identifiers, the user first.
    pub fn identifiers(&self) -> &[Identifier] {
        match self {
            Self::Single(view) => std::slice::from_ref(&view.identifier),
            Self::Joined(joined) => &joined.identifiers,
        }
    }
}

/// The views that a look at a profile came by.
type Views = HashMap<Identifier, Arc<View>>;

impl Shards {
    /// The profile of an identifier where all of it is in memory. Never touches the disk.
    pub fn cached_profile(&self, identifier: &Identifier) -> Option<Profile> {
        let view = self.cached(identifier)?;
        if view.fragment.links.alone() {
            return Some(Profile::Single(view));
        }
        self.cache.joined(identifier).map(Profile::Joined)
    }

    /// The profile of an identifier; an empty one where nothing is known. May block on the disk.
    pub fn profile(&self, identifier: &Identifier) -> Result<Profile, ShardError> {
        let view = self.load(identifier)?;
        if view.fragment.links.alone() {
            return Ok(Profile::Single(view));
        }
        if let Some(joined) = self.cache.joined(identifier) {
            return Ok(Profile::Joined(joined));
        }
        let (group, views) = self.look_around(identifier, &[])?;
        let members = group.identifiers.iter().filter_map(|member| views.get(member));
        let fragment = Arc::new(self.join(members.map(|view| &*view.fragment)));
        let seen = views.iter().map(|(identifier, view)| (identifier.clone(), view.revision)).collect();
        let joined = Arc::new(Joined { identifiers: group.identifiers, fragment, seen });
        self.keep(&joined);
        Ok(Profile::Joined(joined))
    }

    /// Keeps a join as long as its fragments are followed, unless one of them has changed since it was looked at.
    fn keep(&self, joined: &Arc<Joined>) {
        let slot = Arc::new(Slot(RwLock::new(Some(Arc::clone(joined)))));
        for (identifier, revision) in &joined.seen {
            let mut state = self.cell(identifier.shard()).state.lock();
            let as_it_was = self.cached(identifier).is_some_and(|view| view.revision == *revision);
            let before = state.joined.insert(identifier.clone(), Arc::downgrade(&slot));
            // One that nobody follows any more must not be served.
            if let Some(before) = before.and_then(|before| before.upgrade()) {
                before.drop_joined();
            }
            if !as_it_was {
                slot.drop_joined();
            }
        }
        for identifier in &joined.identifiers {
            self.cache.keep_joined(identifier, Arc::clone(&slot));
        }
    }

    /// The next identifiers of a shard that have something in its base, ascending, up to so many; none at the end, and of a shard that is not held. Blocks on the
    /// disk.
    pub fn next_identifiers(
        &self,
        shard: ShardId,
        after: Option<&Identifier>,
        most: usize,
    ) -> Result<Vec<Identifier>, ShardError> {
        if self.holds(shard) { self.disk.identifiers(shard, after, most) } else { Ok(Vec::new()) }
    }

    /// The identifiers of a shard of which something is pending, whether or not its base has something of them.
    pub fn pending_identifiers(&self, shard: ShardId) -> BTreeSet<Identifier> {
        let state = self.cell(shard).state.lock();
        state.pending.first(usize::MAX).map(|queued| queued.identifier.clone()).collect()
    }

    /// The profile of an identifier as of an instant: whoever is the same person by what is known now, with the events up to then.
    pub fn profile_as_of(&self, identifier: &Identifier, at: Timestamp) -> Result<Fragment, ShardError> {
        let profile = self.profile(identifier)?;
        let fragments = profile.identifiers().iter().map(|member| self.as_of(member, at));
        let fragments = fragments.collect::<Result<Vec<_>, _>>()?;
        Ok(self.join(fragments.iter()))
    }

    /// Who is the same person as an identifier, and by which links.
    pub fn group(&self, identifier: &Identifier) -> Result<Group, ShardError> {
        self.group_without(identifier, &[])
    }

    /// The same, as if these pairs were not linked.
    pub fn group_without(
        &self,
        identifier: &Identifier,
        pairs: &[(Identifier, Identifier)],
    ) -> Result<Group, ShardError> {
        Ok(self.look_around(identifier, pairs)?.0)
    }

    fn look_around(
        &self,
        identifier: &Identifier,
        without: &[(Identifier, Identifier)],
    ) -> Result<(Group, Views), ShardError> {
        let mut views = Views::default();
        let group = resolve(&self.namespaces, identifier, |identifier, visit| {
            let view = self.load(identifier)?;
            for (other, word) in view.fragment.links.words() {
                if !without.is_empty() && without.contains(&ordered(identifier, other)) {
                    continue;
                }
                // Who was erased since does not know of it any more, and is nobody's.
                if word.linked && self.load(other)?.fragment.erased_by(word.at) {
                    continue;
                }
                visit(other, word);
            }
            views.insert(identifier.clone(), view);
            Ok::<_, ShardError>(())
        })?;
        Ok((group, views))
    }

    /// What a fold of all these histories gives.
    pub fn join<'f>(&self, mut fragments: impl Iterator<Item = &'f Fragment>) -> Fragment {
        let definitions = self.observer.definitions();
        let mut joined = fragments.next().cloned().unwrap_or_else(|| Fragment::empty(definitions));
        // Each fragment's own: the same id may count in another.
        joined.retracted = Retracted::default();
        joined.erased = None;
        fragments.for_each(|fragment| joined.join(definitions, fragment));
        joined
    }
}
