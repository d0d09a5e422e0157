//! The batch side: what a mart says of a fragment as of a watermark, and how live events go on from it.
//!
//! A [`Load`] is what one block of one source says. Of each block the newest load holds, by watermark; it takes the place of the one before it. Where it
//! gives an aggregate, the lifetime total of that aggregate is what it gives and the contributions of later events: the *best view*, which every
//! reader of the state gets. The events up to the watermark are kept beside it as a total of their own, so whether both sides agree is known.
//! Windows are read from the events alone.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::aggregate::{Applied, Contribution, Definitions, Given, State, Total, When, heap_bytes};
use crate::effects::check_trait;
use crate::event::Refusal;
use crate::fragment::Folded;
use crate::limits;
use crate::value::Timestamp;

/// Blocks of one fragment, of all sources.
pub const BLOCKS_MAX: usize = 16;
/// Aggregates of one load.
pub const VALUES_MAX: usize = 128;
/// Bytes of a source's or block's name, and of a load's id.
pub const NAME_BYTES_MAX: usize = 64;

/// What one block of a batch system says of one fragment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The batch system, such as `crm`.
    pub source: CompactString,
    /// The part of it that is loaded by itself, such as `orders`.
    pub block: CompactString,
    /// The watermark: everything up to and with this instant is in it.
    pub as_of: Timestamp,
    /// Of two loads as of one instant the greater id holds; often empty.
    pub id: CompactString,
    /// Traits by name, as JSON; ascending.
    pub traits: Vec<(CompactString, Box<str>)>,
    /// Aggregates by name, ascending.
    pub values: Vec<(CompactString, Given)>,
    /// The hash of traits and values.
    hash: [u8; 16],
}

/// A load as it arrives: names, and JSON values.
#[derive(Clone, Copy, Debug)]
pub struct Arriving<'a> {
    /// See [`Load::source`].
    pub source: &'a str,
    /// See [`Load::block`].
    pub block: &'a str,
    /// See [`Load::as_of`].
    pub as_of: Timestamp,
    /// See [`Load::id`].
    pub id: &'a str,
    /// Traits by name.
    pub traits: &'a [(CompactString, &'a RawValue)],
    /// Aggregates by name.
    pub aggregates: &'a [(CompactString, &'a RawValue)],
}

impl Load {
    /// A load of these contents.
    pub fn new(
        source: CompactString,
        block: CompactString,
        as_of: Timestamp,
        id: CompactString,
        mut traits: Vec<(CompactString, Box<str>)>,
        mut values: Vec<(CompactString, Given)>,
    ) -> Self {
        traits.sort_by(|one, other| one.0.cmp(&other.0));
        values.sort_by(|one, other| one.0.cmp(&other.0));
        // Encoding plain data to memory cannot fail.
        let contents = postcard::to_allocvec(&(&traits, &values)).unwrap_or_default();
        let hash = xxhash_rust::xxh3::xxh3_128(&contents).to_be_bytes();
        Self { source, block, as_of, id, traits, values, hash }
    }

    /// Checks what a batch system sends of one fragment. The fault names the field by JSON pointer.
    pub fn parse(definitions: &Definitions, arriving: &Arriving<'_>) -> Result<Self, Refusal> {
        let Arriving { source, block, as_of, id, traits, aggregates } = *arriving;
        if traits.len() > limits::TRAITS_MAX {
            let detail = format!("has {} traits; a profile holds at most {}", traits.len(), limits::TRAITS_MAX);
            return Err(Refusal::new("too_many_traits", "/traits", detail));
        }
        if aggregates.len() > VALUES_MAX {
            let detail =
                format!("has {} aggregates; a load gives at most {VALUES_MAX}: load several blocks", aggregates.len());
            return Err(Refusal::new("too_many", "/aggregates", detail));
        }
        let mut words = Vec::with_capacity(traits.len());
        for (name, value) in traits {
            check_trait("/traits", name, value)?;
            // What a load does not say, it takes back.
            if value.get() != "null" {
                words.push((name.clone(), value.get().into()));
            }
        }
        let mut values = Vec::with_capacity(aggregates.len());
        for (name, raw) in aggregates {
            let given = definitions.read_given(name, raw, as_of).map_err(|error| {
                let name = name.replace('~', "~0").replace('/', "~1");
                Refusal::new(error.code, format!("/aggregates/{name}{}", error.pointer), error.detail)
            })?;
            values.extend(given.map(|given| (name.clone(), given)));
        }
        Ok(Self::new(source.into(), block.into(), as_of, id.into(), words, values))
    }

    /// Of the loads of one block the greatest holds.
    pub fn rank(&self) -> (Timestamp, &str, [u8; 16]) {
        (self.as_of, &self.id, self.hash)
    }

    /// The hash of what it says.
    pub fn hash(&self) -> [u8; 16] {
        self.hash
    }

    /// The same without its traits, which a fragment keeps among the others.
    pub(crate) fn without_traits(&self) -> Self {
        Self { traits: Vec::new(), ..self.clone() }
    }

    /// What an erasure leaves of a load: that there was one.
    pub(crate) fn erased(
        source: CompactString,
        block: CompactString,
        as_of: Timestamp,
        id: CompactString,
        hash: [u8; 16],
    ) -> Self {
        Self { source, block, as_of, id, traits: Vec::new(), values: Vec::new(), hash }
    }

    fn key(&self) -> (&str, &str) {
        (&self.source, &self.block)
    }

    /// Bytes in memory, about.
    pub fn weight(&self) -> usize {
        let values: usize = self.values.iter().map(|(name, given)| heap_bytes(name) + given.weight()).sum();
        let traits: usize = self.traits.iter().map(|(name, value)| 32 + heap_bytes(name) + value.len()).sum();
        size_of::<Self>() + heap_bytes(&self.source) + heap_bytes(&self.block) + heap_bytes(&self.id) + values + traits
    }
}

/// Refuses a name of a source or block that is none.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        return Err("is no name: 1 to 64 letters, digits, -, _ and .");
    }
    Ok(())
}

/// An aggregate whose lifetime goes on from a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The aggregate.
    pub name: CompactString,
    /// The load's source.
    pub source: CompactString,
    /// The load's block.
    pub block: CompactString,
    /// The load's watermark.
    pub as_of: Timestamp,
    /// What the load gives.
    pub given: Total,
    /// What the events up to the watermark add up to.
    pub live: Total,
    /// Of which load.
    rank: (CompactString, [u8; 16]),
}

impl Part {
    /// Whether the events up to the watermark add up to what is given.
    pub fn agrees(&self) -> bool {
        match (&self.given, &self.live) {
            (Total::Sum(given), Total::Sum(live)) => given.unwrap_or(0) == live.unwrap_or(0),
            (given, live) => given == live,
        }
    }
}

/// What batch systems say of one fragment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mart {
    /// The newest load of each block, without its traits; ascending by source and block.
    loads: Vec<Load>,
    /// The aggregates that are given, ascending by name.
    parts: Vec<Part>,
    /// Whether it is that of several fragments: none of them can be told from the others, so nothing may be folded up to a watermark.
    #[serde(skip)]
    joined: bool,
}

impl Mart {
    /// Whether nothing was loaded.
    pub fn is_empty(&self) -> bool {
        self.loads.is_empty()
    }

    /// The newest load of each block, without its traits.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The aggregates that go on from a load, ascending by name; of several fragments, several of one name.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The load of a block.
    pub fn load(&self, source: &str, block: &str) -> Option<&Load> {
        self.position(source, block).ok().map(|found| &self.loads[found])
    }

    /// Whether a load may hold what happened at an instant.
    pub fn covers(&self, at: Timestamp) -> bool {
        self.parts.iter().any(|part| part.as_of >= at)
    }

    fn position(&self, source: &str, block: &str) -> Result<usize, usize> {
        self.loads.binary_search_by(|load| load.key().cmp(&(source, block)))
    }

    /// Takes in a load, unless its block has a newer one; none then. `newest` is the time of the newest event that was folded.
    pub(crate) fn take(
        &mut self,
        definitions: &Definitions,
        states: &mut [State],
        load: Load,
        newest: Option<Timestamp>,
    ) -> Option<Folded> {
        match self.position(&load.source, &load.block) {
            Ok(found) if self.loads[found].rank() >= load.rank() => return None,
            Ok(found) => self.loads[found] = load,
            Err(gap) => self.loads.insert(gap, load),
        }
        Some(self.settle(definitions, states, newest))
    }

    /// Finds out which load gives what, and puts it into the states. What events after a watermark contributed cannot be told from the rest
    /// once it is merged: then everything is folded again.
    fn settle(&mut self, definitions: &Definitions, states: &mut [State], newest: Option<Timestamp>) -> Folded {
        let mut folded = Folded::Counted;
        let mut before = std::mem::take(&mut self.parts);
        let mut parts: Vec<Part> = Vec::with_capacity(before.len());
        let later_than = |as_of: Timestamp| newest.is_some_and(|newest| newest > as_of);
        for (name, load, given) in self.chosen() {
            let Some(state) = definitions.lifetime_state(name) else { continue };
            let Some(total) = definitions.given_total(state, given) else { continue };
            let held = before.iter().position(|part| part.name == *name).map(|found| before.remove(found));
            let (source, block) = (load.source.clone(), load.block.clone());
            let rank = (load.id.clone(), load.hash);
            if let Some(held) = &held
                && (&held.source, &held.block, held.as_of, &held.rank) == (&source, &block, load.as_of, &rank)
            {
                parts.extend(Some(held.clone()));
                continue;
            }
            let again = later_than(load.as_of) || held.as_ref().is_some_and(|held| later_than(held.as_of));
            let merged = definitions.replace_total(states, state, total.clone());
            let live = held.map(|held| held.live).or(merged).unwrap_or_else(|| definitions.empty_total(state));
            parts.push(Part { name: name.clone(), source, block, as_of: load.as_of, given: total, live, rank });
            if again {
                folded = Folded::Refold;
            }
        }
        // What no load gives any more is what its events add up to.
        for gone in before {
            let Some(state) = definitions.lifetime_state(&gone.name) else { continue };
            if later_than(gone.as_of) {
                folded = Folded::Refold;
            }
            let _ = definitions.replace_total(states, state, gone.live);
        }
        self.parts = parts;
        folded
    }

    /// For each aggregate the load that gives it, ascending by name: where several do, the newest.
    fn chosen(&self) -> Vec<(&CompactString, &Load, &Given)> {
        let all = self.loads.iter().flat_map(|load| load.values.iter().map(move |(name, given)| (name, load, given)));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|(one, load, _), (other, than, _)| {
            let rank = |load: &Load| (load.as_of, load.id.clone(), load.hash, load.source.clone(), load.block.clone());
            one.cmp(other).then_with(|| rank(than).cmp(&rank(load)))
        });
        all.dedup_by(|later, first| later.0 == first.0);
        all
    }

    /// Merges what an event at or before a watermark contributes: not into what a load gives, but beside it.
    pub(crate) fn apply(
        &mut self,
        definitions: &Definitions,
        states: &mut [State],
        contributions: &[Contribution],
        when: &When,
    ) -> Applied {
        let given: Vec<Option<u16>> = self.parts.iter().map(|part| definitions.lifetime_state(&part.name)).collect();
        let mut applied = Applied::Well;
        for contribution in contributions {
            let part = given.iter().position(|state| *state == Some(contribution.state));
            let part = part.map(|index| &mut self.parts[index]).filter(|part| when.at <= part.as_of);
            applied = applied.max(match part {
                Some(part) => {
                    definitions.apply_to_total(&mut part.live, contribution, when);
                    definitions.apply_to_series(states, contribution, when)
                }
                None => definitions.apply_one(states, contribution, when),
            });
        }
        applied
    }

    /// Whether events may be folded up to a watermark: it is that of one fragment.
    pub(crate) fn cuts(&self, at: Timestamp) -> bool {
        !self.joined && self.covers(at)
    }

    /// Takes in that of another fragment, beside its own.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.is_empty() && other.is_empty() {
            return;
        }
        self.joined = true;
        self.loads.extend(other.loads.iter().cloned());
        self.loads.sort_by(|one, other| one.key().cmp(&other.key()).then_with(|| one.rank().cmp(&other.rank())));
        self.parts.extend(other.parts.iter().cloned());
        self.parts.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| one.as_of.cmp(&other.as_of)));
    }

    /// Forgets what no plugin declares any more.
    pub fn prune(&mut self, definitions: &Definitions) {
        self.parts.retain(|part| definitions.lifetime_state(&part.name).is_some());
    }

    /// Heap bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let part = |part: &Part| size_of::<Part>() + heap_bytes(&part.name) + part.given.weight() + part.live.weight();
        self.loads.iter().map(Load::weight).sum::<usize>() + self.parts.iter().map(part).sum::<usize>()
    }
}
