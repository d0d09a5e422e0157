//! Profiles: the fragments of one person, joined at read.
//!
//! Nothing is stored of a join. It is kept in memory beside the revision of every fragment that was looked at; it follows the events of
//! its fragments, and is made again when their links change; so linking shows at once and unlinking is exact.

use std::collections::HashMap;
use std::sync::Arc;

use selvedge_core::fragment::Fragment;
use selvedge_core::identity::Identifier;
use selvedge_core::links::{Group, ordered, resolve};
use selvedge_core::value::Timestamp;
use selvedge_core::view::View;

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
        self.cache.keep_joined(&joined);
        Ok(Profile::Joined(joined))
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
            let words = view.fragment.links.words();
            let counted =
                words.filter(|(other, _)| without.is_empty() || !without.contains(&ordered(identifier, other)));
            counted.for_each(|(other, word)| visit(other, word));
            views.insert(identifier.clone(), view);
            Ok::<_, ShardError>(())
        })?;
        Ok((group, views))
    }

    /// What a fold of all these histories gives.
    pub fn join<'f>(&self, mut fragments: impl Iterator<Item = &'f Fragment>) -> Fragment {
        let definitions = self.observer.definitions();
        let mut joined = fragments.next().cloned().unwrap_or_else(|| Fragment::empty(definitions));
        fragments.for_each(|fragment| joined.join(definitions, fragment));
        joined
    }
}
