//! Links: which identifiers belong to one person.
//!
//! A link joins two fragments; both hold it, each under the other's name. What is known of a pair is its newest word, linked or unlinked,
//! so halves may come in any order, late or twice. A profile is what is connected; [`resolve`] finds it and keeps it within its bounds:
//! never two users, never more identifiers than allowed. Where links that were made apart would break a bound, the older ones hold.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::{Identifier, NamespaceKind, Namespaces};
use crate::value::Timestamp;

/// Links that a fragment remembers, those that were taken back included; beyond it the oldest of these are forgotten.
pub const LINKS_MAX: usize = 256;
/// Fragments that one profile is looked for in.
pub const FRAGMENTS_MAX: usize = 256;

/// How a link came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// An event that names both.
    Event,
    /// An `identify` that names both.
    Identify,
    /// An `alias`.
    Alias,
    /// `context.externalIds` of an event.
    ExternalId,
    /// A trusted system said so.
    Api,
}

/// The newest word on a pair of identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// When: the event's time, or the call's.
    pub at: Timestamp,
    /// Whether they belong together.
    pub linked: bool,
    /// The same for both halves.
    pub id: [u8; 16],
    /// How it came about.
    pub how: How,
}

impl Word {
    /// Whether it holds against another word.
    pub fn beats(&self, other: &Self) -> bool {
        self.place() > other.place()
    }

    /// The order of words: the newest holds, of equal times the one that takes back.
    fn place(&self) -> (Timestamp, bool, [u8; 16], How) {
        (self.at, !self.linked, self.id, self.how)
    }
}

/// What one fragment knows of its links, ascending by the other's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links(Vec<(Identifier, Word)>);

impl Links {
    /// Takes in a word; an older one changes nothing.
    pub fn apply(&mut self, other: &Identifier, word: Word) {
        match self.0.binary_search_by(|entry| entry.0.cmp(other)) {
            Ok(found) if self.0[found].1.place() < word.place() => self.0[found].1 = word,
            Ok(_) => {}
            Err(gap) => self.0.insert(gap, (other.clone(), word)),
        }
        if self.0.len() > LINKS_MAX {
            let unlinked = self.0.iter().enumerate().filter(|(_, (_, word))| !word.linked);
            let oldest = unlinked.min_by_key(|(_, (_, word))| word.place()).map(|(index, _)| index);
            if let Some(index) = oldest {
                self.0.remove(index);
            }
        }
    }

    /// The newest word on a pair.
    pub fn word(&self, other: &Identifier) -> Option<&Word> {
        self.0.binary_search_by(|entry| entry.0.cmp(other)).ok().map(|found| &self.0[found].1)
    }

    /// Everyone linked now.
    pub fn linked(&self) -> impl Iterator<Item = &Identifier> {
        self.0.iter().filter(|(_, word)| word.linked).map(|(other, _)| other)
    }

    /// Every word, ascending by the other's name.
    pub fn words(&self) -> impl Iterator<Item = (&Identifier, &Word)> {
        self.0.iter().map(|(other, word)| (other, word))
    }

    /// Whether nobody is linked now.
    pub fn alone(&self) -> bool {
        self.linked().next().is_none()
    }

    /// Whether another new link has a place.
    pub fn full(&self) -> bool {
        self.linked().count() >= LINKS_MAX
    }

    /// Heap bytes, about.
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(other, _)| size_of::<(Identifier, Word)>() + other.as_str().len()).sum()
    }
}

/// A link between two identifiers, the lesser first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The two.
    pub pair: (Identifier, Identifier),
    /// The newest word of both halves.
    pub word: Word,
}

/// Which identifiers belong to the person of one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The user first, where there is one, then ascending.
    pub identifiers: Vec<Identifier>,
    /// The links that hold among them, oldest first.
    pub links: Vec<Link>,
    /// Links of theirs that would break a bound, oldest first.
    pub left_out: Vec<Link>,
}

/// Why a link must not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// An identifier and itself.
    #[error("{0} cannot be linked to itself; name two identifiers")]
    Itself(Identifier),
    /// Something that is no person.
    #[error("{0} stands for no person; link identifiers of persons, and name entities in context.entities")]
    NoPerson(Identifier),
    /// Two users would be one.
    #[error("{0} and {1} are two users and stay two profiles; unlink what joins one of them first")]
    TwoUsers(Identifier, Identifier),
    /// More identifiers than a profile may have.
    #[error("the profile would have {0} identifiers; a profile has at most {1}")]
    TooMany(usize, usize),
    /// More identifiers of a namespace than a profile may have.
    #[error("the profile would have {0} identifiers in the namespace {2}; it has at most {1}")]
    TooManyOf(usize, usize, String),
}

impl LinkError {
    /// The stable code of a refusal for this.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Itself(_) => "self_link",
            Self::NoPerson(_) => "not_a_person",
            Self::TwoUsers(..) => "two_users",
            Self::TooMany(..) | Self::TooManyOf(..) => "too_many_identifiers",
        }
    }
}

/// Whether two whole profiles may become one.
pub fn check_union(namespaces: &Namespaces, one: &[Identifier], other: &[Identifier]) -> Result<(), LinkError> {
    let is_user = |identifier: &&Identifier| namespaces.kind(identifier) == Some(NamespaceKind::User);
    let union: BTreeSet<&Identifier> = one.iter().chain(other).collect();
    let users: Vec<&Identifier> = union.iter().copied().filter(is_user).collect();
    if let [first, second, ..] = users.as_slice() {
        return Err(LinkError::TwoUsers((*first).clone(), (*second).clone()));
    }
    if union.len() > namespaces.profile_most() {
        return Err(LinkError::TooMany(union.len(), namespaces.profile_most()));
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    union.iter().for_each(|identifier| *counts.entry(identifier.namespace()).or_default() += 1);
    for (name, count) in counts {
        match namespaces.get(name) {
            Some(namespace) if count > namespace.most => {
                return Err(LinkError::TooManyOf(count, namespace.most, name.to_owned()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether two identifiers may be linked at all.
pub fn check_pair(namespaces: &Namespaces, one: &Identifier, other: &Identifier) -> Result<(), LinkError> {
    if one == other {
        return Err(LinkError::Itself(one.clone()));
    }
    let no_person = |identifier: &&&Identifier| namespaces.kind(identifier) == Some(NamespaceKind::Entity);
    match [one, other].iter().find(no_person) {
        Some(entity) => Err(LinkError::NoPerson((*entity).clone())),
        None => Ok(()),
    }
}

/// Finds the profile of an identifier. `visit` hands over the words of a fragment on its links.
///
/// Whatever the order in which links came, and whichever member one begins with, the answer is the same: all links of everyone who is
/// connected are taken by age, and one that would break a bound is left out.
pub fn resolve<E>(
    namespaces: &Namespaces,
    root: &Identifier,
    mut visit: impl FnMut(&Identifier, &mut dyn FnMut(&Identifier, &Word)) -> Result<(), E>,
) -> Result<Group, E> {
    let mut words: BTreeMap<(Identifier, Identifier), Word> = BTreeMap::new();
    let mut found: BTreeSet<Identifier> = BTreeSet::from([root.clone()]);
    let mut waiting = vec![root.clone()];
    while let Some(identifier) = waiting.pop() {
        visit(&identifier, &mut |other, word| {
            let held = words.entry(ordered(&identifier, other)).or_insert(*word);
            if held.place() < word.place() {
                *held = *word;
            }
            if word.linked && found.len() < FRAGMENTS_MAX && found.insert(other.clone()) {
                waiting.push(other.clone());
            }
        })?;
    }
    let mut links: Vec<Link> = words.into_iter().map(|(pair, word)| Link { pair, word }).collect();
    links.retain(|link| link.word.linked && found.contains(&link.pair.0) && found.contains(&link.pair.1));
    links.sort_by(|a, b| (a.word.place(), &a.pair).cmp(&(b.word.place(), &b.pair)));

    let mut groups: Vec<Vec<Identifier>> = found.iter().map(|identifier| vec![identifier.clone()]).collect();
    let mut left_out = Vec::new();
    let mut holding = Vec::new();
    for link in links {
        let of = |identifier: &Identifier| groups.iter().position(|group| group.contains(identifier));
        let (Some(one), Some(other)) = (of(&link.pair.0), of(&link.pair.1)) else { continue };
        if one == other {
            holding.push(link);
        } else if check_union(namespaces, &groups[one], &groups[other]).is_ok() {
            let joining = groups.swap_remove(one.max(other));
            groups[one.min(other)].extend(joining);
            holding.push(link);
        } else {
            left_out.push(link);
        }
    }
    let mut identifiers = groups.into_iter().find(|group| group.contains(root)).unwrap_or_else(|| vec![root.clone()]);
    identifiers.sort_by_key(|identifier| {
        (namespaces.kind(identifier) != Some(NamespaceKind::User), identifier.as_str().to_owned())
    });
    let inside = |identifier: &Identifier| identifiers.contains(identifier);
    holding.retain(|link| inside(&link.pair.0));
    left_out.retain(|link| inside(&link.pair.0) || inside(&link.pair.1));
    Ok(Group { identifiers, links: holding, left_out })
}

/// A pair with the lesser first.
pub fn ordered(one: &Identifier, other: &Identifier) -> (Identifier, Identifier) {
    if one < other { (one.clone(), other.clone()) } else { (other.clone(), one.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn id(text: &str) -> Identifier {
        Namespaces::default().parse(text).expect("an identifier")
    }

    fn word(at: i64, linked: bool) -> Word {
        Word { at: Timestamp(at), linked, id: [at as u8; 16], how: How::Api }
    }

    type Graph = BTreeMap<Identifier, Links>;

    fn say(graph: &mut Graph, one: &Identifier, other: &Identifier, word: Word) {
        graph.entry(one.clone()).or_default().apply(other, word);
        graph.entry(other.clone()).or_default().apply(one, word);
    }

    fn group(graph: &Graph, root: &Identifier) -> Group {
        let resolved = resolve(&Namespaces::default(), root, |identifier, visit| {
            graph.get(identifier).into_iter().flat_map(Links::words).for_each(|(other, word)| visit(other, word));
            Ok::<_, Infallible>(())
        });
        match resolved {
            Ok(group) => group,
            Err(never) => match never {},
        }
    }

    fn names(graph: &Graph, root: &str) -> Vec<String> {
        group(graph, &id(root)).identifiers.iter().map(Identifier::to_string).collect()
    }

    #[test]
    fn the_newest_word_on_a_pair_holds_in_any_order() {
        let words = [word(1, true), word(5, false), word(5, true), word(3, true)];
        for turn in 0..words.len() {
            let mut links = Links::default();
            (0..words.len()).for_each(|index| links.apply(&id("anonymous:a"), words[(index + turn) % words.len()]));
            assert!(links.alone(), "of equal times the one that takes back");
        }
    }

    #[test]
    fn links_reach_through_circles_and_end_where_they_are_taken_back() {
        let mut graph = Graph::new();
        let (user, a, b, c) = (id("user:1"), id("anonymous:a"), id("anonymous:b"), id("device:c"));
        for (at, (one, other)) in [(&user, &a), (&a, &b), (&b, &c), (&c, &a)].into_iter().enumerate() {
            say(&mut graph, one, other, word(at as i64, true));
        }
        let all = ["user:1", "anonymous:a", "anonymous:b", "device:c"];
        all.iter().for_each(|root| assert_eq!(names(&graph, root), all));
        say(&mut graph, &a, &b, word(9, false));
        assert_eq!(names(&graph, "user:1"), all, "b is still linked by way of c");
        say(&mut graph, &a, &user, word(10, false));
        assert_eq!(names(&graph, "user:1"), ["user:1"]);
        assert_eq!(names(&graph, "anonymous:a"), ["anonymous:a", "anonymous:b", "device:c"]);
    }

    #[test]
    fn a_half_that_is_late_is_made_up_for_where_it_can_be() {
        let mut graph = Graph::new();
        graph.entry(id("user:1")).or_default().apply(&id("anonymous:a"), word(1, true));
        assert_eq!(names(&graph, "user:1"), ["user:1", "anonymous:a"]);
        // The other half knows that the pair was unlinked later.
        graph.entry(id("anonymous:a")).or_default().apply(&id("user:1"), word(2, false));
        assert_eq!(names(&graph, "user:1"), ["user:1"]);
    }

    #[test]
    fn two_users_never_become_one_however_their_links_came() {
        let mut graph = Graph::new();
        let (one, two, shared, hers) = (id("user:1"), id("user:2"), id("anonymous:shared"), id("anonymous:hers"));
        say(&mut graph, &one, &shared, word(1, true));
        say(&mut graph, &two, &hers, word(2, true));
        say(&mut graph, &shared, &hers, word(3, true));
        assert_eq!(names(&graph, "user:1"), ["user:1", "anonymous:shared"]);
        assert_eq!(names(&graph, "anonymous:hers"), ["user:2", "anonymous:hers"]);
        assert_eq!(group(&graph, &two).left_out.len(), 1);
        let error = check_union(&Namespaces::default(), &[one, shared], &[hers, two]).expect_err("two users");
        assert_eq!(error.code(), "two_users");
    }

    #[test]
    fn a_profile_has_its_bounds() {
        let namespaces = Namespaces::default();
        let many = |count: usize| (0..count).map(|index| id(&format!("device:d{index}"))).collect::<Vec<_>>();
        assert_eq!(check_union(&namespaces, &many(63), &[id("user:1")]), Ok(()));
        assert_eq!(
            check_union(&namespaces, &many(64), &[id("user:1")]).map_err(|error| error.code()),
            Err("too_many_identifiers")
        );
        let mut tight = Namespaces::default();
        tight.limit("device", 2).expect("a limit");
        assert!(check_union(&tight, &many(2), &[id("user:1")]).is_ok());
        assert!(check_union(&tight, &many(2), &[id("device:d9")]).is_err());
        assert_eq!(
            check_pair(&namespaces, &id("user:1"), &id("user:1")).map_err(|error| error.code()),
            Err("self_link")
        );
        assert_eq!(
            check_pair(&namespaces, &id("user:1"), &id("household:h")).map_err(|error| error.code()),
            Err("not_a_person")
        );
    }

    #[test]
    fn what_was_taken_back_longest_ago_is_forgotten_first() {
        let mut links = Links::default();
        for index in 0..=LINKS_MAX {
            links.apply(&id(&format!("device:{index:04}x")), word(index as i64, index == 0));
        }
        assert!(links.word(&id("device:0000x")).is_some(), "linked");
        assert!(links.word(&id("device:0001x")).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn everyone_in_a_profile_sees_the_same_one(
            says in prop::collection::vec((0_usize..9, 0_usize..9, 0_i64..40, any::<bool>()), 0..30),
            turn in any::<prop::sample::Index>(),
        ) {
            let ids: Vec<_> = ["user:1", "user:2", "user:3", "anonymous:a", "anonymous:b", "anonymous:c", "device:d", "device:e", "device:f"].map(id).into();
            let mut graph = Graph::new();
            let mut other_order = Graph::new();
            let says: Vec<_> = says.into_iter().filter(|(one, other, ..)| one != other).collect();
            says.iter().for_each(|(one, other, at, linked)| say(&mut graph, &ids[*one], &ids[*other], word(*at, *linked)));
            let from = if says.is_empty() { 0 } else { turn.index(says.len()) };
            for (one, other, at, linked) in says[from..].iter().chain(&says[..from]).chain(&says) {
                say(&mut other_order, &ids[*one], &ids[*other], word(*at, *linked));
            }
            prop_assert_eq!(&graph, &other_order);
            for root in &ids {
                let whole = group(&graph, root);
                prop_assert!(whole.identifiers.contains(root));
                prop_assert!(whole.identifiers.iter().filter(|member| member.namespace() == "user").count() <= 1);
                for member in &whole.identifiers {
                    prop_assert_eq!(&group(&graph, member).identifiers, &whole.identifiers);
                }
            }
        }
    }
}
