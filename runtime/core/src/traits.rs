//! Traits: what is said of a person, by whom.
//!
//! Each source's newest word on a name is kept, and beside it what the newest load of each block of a batch system says, so any order of events gives the same traits. Which source's word holds is decided when a
//! trait is read, by [`TraitSources`]: the configuration may change without anything being folded again.

mod packed;

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use self::packed::Words;
use crate::aggregate::heap_bytes;
use crate::shared::Shared;
use crate::value::Timestamp;

/// One source's newest word on a trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Trait<'t> {
    /// Its name.
    pub name: &'t str,
    /// Who set it: `context.source` of the event, else the event's type.
    pub source: &'t str,
    /// Its value as JSON; `null` where it was taken back.
    pub value: &'t str,
    /// The time of the event that set it.
    pub at: Timestamp,
    /// Whether a browser said so: good for showing things, not for opening them.
    pub claimed: bool,
    /// Breaks ties of time.
    pub(crate) id_hash: [u8; 16],
}

impl Trait<'_> {
    /// Its value as text: a JSON text without its quotes, anything else as it stands.
    pub fn text(&self) -> String {
        serde_json::from_str(self.value).unwrap_or_else(|_| self.value.to_owned())
    }
}

/// Which sources come before others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraitSources(Shared<BTreeMap<String, Vec<String>>>);

impl TraitSources {
    /// For each trait its sources, the one that holds first. Those not named come after them, the newest word first.
    pub fn new(by_trait: BTreeMap<String, Vec<String>>) -> Self {
        Self(by_trait.into())
    }

    /// Lower comes first. A browser may call its source what it likes.
    fn rank(&self, word: &Trait<'_>) -> usize {
        let listed = self.0.get(word.name).map_or(&[][..], Vec::as_slice);
        let place = listed.iter().position(|known| !word.claimed && word.source == *known);
        place.unwrap_or(listed.len())
    }
}

/// The traits of one fragment, or of several joined; ascending by name and source, a source's own before what browsers claim under its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    words: Words,
    /// What the newest load of each block says. Ascending by name, source and block.
    given: Vec<Given>,
}

/// A word of a load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    block: CompactString,
    name: CompactString,
    source: CompactString,
    value: Box<str>,
    at: Timestamp,
    claimed: bool,
    id_hash: [u8; 16],
}

impl Given {
    fn of(block: &str, word: &Trait<'_>) -> Self {
        let Trait { name, source, value, at, claimed, id_hash } = *word;
        let (name, source) = (name.into(), source.into());
        Self { block: block.into(), name, source, value: value.into(), at, claimed, id_hash }
    }

    fn word(&self) -> Trait<'_> {
        let Self { name, source, value, at, claimed, id_hash, .. } = self;
        Trait { name, source, value, at: *at, claimed: *claimed, id_hash: *id_hash }
    }

    /// By what they are ordered.
    fn place(&self) -> (&str, &str, &str) {
        (&self.name, &self.source, &self.block)
    }
}

impl Traits {
    /// Takes in a word; an older one of the same source changes nothing. How many there may be is settled at the door, by
    /// [`Bounds`](crate::fragment::Bounds): a join has those of all its fragments.
    pub fn apply(&mut self, word: &Trait<'_>) {
        let at = self.place(word.name, word.source, word.claimed);
        match self.words.get(at).filter(|held| same_speaker(held, word.name, word.source, word.claimed)) {
            None => self.words.insert(at, word),
            Some(held) if (word.at, word.id_hash) >= (held.at, held.id_hash) => self.words.replace(at, word),
            Some(_) => {}
        }
    }

    /// Puts what a load says in place of what its block said before.
    pub(crate) fn give<'w>(&mut self, block: &str, source: &str, words: impl Iterator<Item = Trait<'w>>) {
        self.given.retain(|given| (&*given.block, &*given.source) != (block, source));
        self.given.extend(words.map(|word| Given::of(block, &word)));
        self.given.sort_by(|one, other| one.place().cmp(&other.place()));
    }

    /// What there will be once a load has taken the place of what its block said before: how many words, and their bytes.
    pub(crate) fn without_block(&self, block: &str, source: &str) -> (usize, usize) {
        let own = self.given.iter().filter(|given| given.block == block && given.source == source);
        let (mut count, mut bytes) = (self.len(), self.bytes());
        own.for_each(|given| {
            count -= 1;
            bytes -= given.name.len() + given.value.len();
        });
        (count, bytes)
    }

    /// Takes in the words of another fragment.
    pub fn join(&mut self, other: &Self) {
        other.words.iter().for_each(|word| self.apply(&word));
        for given in &other.given {
            match self.given.binary_search_by(|held| held.place().cmp(&given.place())) {
                Ok(found) => {
                    let held = &mut self.given[found];
                    if (given.at, given.id_hash) > (held.at, held.id_hash) {
                        *held = given.clone();
                    }
                }
                Err(gap) => self.given.insert(gap, given.clone()),
            }
        }
    }

    /// The word that holds for a name; none where there is none or it was taken back.
    pub fn get(&self, name: &str, sources: &TraitSources) -> Option<Trait<'_>> {
        self.choose(name, sources, |_| true)
    }

    /// The word that holds, as text: a JSON text without its quotes, anything else as it stands.
    pub fn text(&self, name: &str, sources: &TraitSources) -> Option<String> {
        self.get(name, sources).map(|word| word.text())
    }

    /// The same as [`Self::get`], leaving out what browsers claim.
    pub fn get_proven(&self, name: &str, sources: &TraitSources) -> Option<Trait<'_>> {
        self.choose(name, sources, |word| !word.claimed)
    }

    /// The words that hold, ascending by name.
    pub fn iter<'t>(&'t self, sources: &'t TraitSources) -> impl Iterator<Item = Trait<'t>> {
        let mut names: Vec<&str> = self.all().map(|word| word.name).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.get(name, sources))
    }

    /// Whether a source has said anything of a name.
    pub fn holds(&self, name: &str, source: &str, claimed: bool) -> bool {
        let held = self.words.get(self.place(name, source, claimed));
        held.is_some_and(|held| same_speaker(&held, name, source, claimed))
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len() + self.given.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.len() == 0 && self.given.is_empty()
    }

    /// Bytes of names and values.
    pub fn bytes(&self) -> usize {
        self.all().map(|word| word.name.len() + word.value.len()).sum()
    }

    /// Heap bytes, about.
    pub fn weight(&self) -> usize {
        let one = |given: &Given| {
            let texts = [&given.block, &given.name, &given.source];
            size_of::<Given>() + given.value.len() + texts.map(heap_bytes).into_iter().sum::<usize>()
        };
        self.words.weight() + self.given.iter().map(one).sum::<usize>()
    }

    fn all(&self) -> impl Iterator<Item = Trait<'_>> {
        self.words.iter().chain(self.given.iter().map(Given::word))
    }

    /// Where a source's word on a name stands, or would.
    fn place(&self, name: &str, source: &str, claimed: bool) -> usize {
        self.words.partition_point(|word| (word.name, word.source, word.claimed) < (name, source, claimed))
    }

    fn choose(&self, name: &str, sources: &TraitSources, counts: impl Fn(&Trait<'_>) -> bool) -> Option<Trait<'_>> {
        let from = self.words.partition_point(|word| word.name < name);
        let given = self.given.partition_point(|given| given.name.as_str() < name);
        self.choose_from(from, given, name, sources, counts)
    }

    /// The same, given where the words of this name begin.
    fn choose_from(
        &self,
        from: usize,
        given: usize,
        name: &str,
        sources: &TraitSources,
        counts: impl Fn(&Trait<'_>) -> bool,
    ) -> Option<Trait<'_>> {
        let words = self.words.from(from).take_while(|word| word.name == name);
        let given = self.given[given..].iter().map(Given::word).take_while(|word| word.name == name);
        let words = words.chain(given).filter(counts);
        let first = words.min_by_key(|word| (sources.rank(word), std::cmp::Reverse((word.at, word.id_hash))))?;
        Some(first).filter(|word| word.value != "null")
    }

    /// Finds many names, which are asked for ascending: each word is looked at once.
    pub fn finder(&self) -> Finder<'_> {
        Finder { traits: self, word: 0, given: 0 }
    }
}

/// Goes through traits by name. See [`Traits::finder`].
#[derive(Debug)]
pub struct Finder<'t> {
    traits: &'t Traits,
    word: usize,
    given: usize,
}

impl<'t> Finder<'t> {
    /// The word that holds for a name, which does not come before those that were asked for: none where there is none or it was taken back.
    pub fn get(&mut self, name: &str, sources: &TraitSources) -> Option<Trait<'t>> {
        let Traits { words, given } = self.traits;
        self.word += words.from(self.word).take_while(|word| word.name < name).count();
        self.given += given[self.given..].iter().take_while(|given| given.name.as_str() < name).count();
        self.traits.choose_from(self.word, self.given, name, sources, |_| true)
    }
}

/// Whether a word is a source's own on a name.
fn same_speaker(word: &Trait<'_>, name: &str, source: &str, claimed: bool) -> bool {
    (word.name, word.source, word.claimed) == (name, source, claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(name: &'static str, source: &'static str, value: &'static str, at: i64) -> Trait<'static> {
        Trait { name, source, value, at: Timestamp(at), claimed: source == "browser", id_hash: [0; 16] }
    }

    fn traits(words: &[Trait<'_>]) -> Traits {
        let mut traits = Traits::default();
        words.iter().for_each(|word| traits.apply(word));
        traits
    }

    #[test]
    fn the_newest_word_holds_unless_a_source_comes_before() {
        let traits = traits(&[
            word("country", "import", "\"France\"", 1),
            word("country", "identify", "\"Spain\"", 9),
            word("country", "import", "\"Italy\"", 5),
            word("plan", "identify", "\"free\"", 1),
            word("plan", "crm", "null", 2),
        ]);
        let get = |name, sources: &TraitSources| traits.get(name, sources).map(|word| word.value.to_string());
        let newest = TraitSources::default();
        assert_eq!((get("country", &newest).as_deref(), get("plan", &newest)), (Some("\"Spain\""), None));
        let crm = ["crm", "import"].map(str::to_owned).to_vec();
        let ordered = TraitSources::new([("country".to_owned(), crm)].into());
        assert_eq!(get("country", &ordered).as_deref(), Some("\"Italy\""));
        assert_eq!(traits.iter(&newest).map(|word| word.name).collect::<Vec<_>>(), ["country"]);
        assert_eq!(traits.len(), 4);
    }

    #[test]
    fn what_a_browser_claims_opens_nothing() {
        let claimed = traits(&[word("household", "browser", "\"h2\"", 9), word("household", "crm", "\"h1\"", 1)]);
        let sources = TraitSources::default();
        assert_eq!(claimed.get("household", &sources).map(|word| word.value), Some("\"h2\""));
        assert_eq!(claimed.get_proven("household", &sources).map(|word| word.value), Some("\"h1\""));
        // Nor does it when it calls itself by another's name.
        let forged = Trait { claimed: true, ..word("household", "crm", "\"h3\"", 99) };
        let both = traits(&[word("household", "crm", "\"h1\"", 1), forged]);
        assert_eq!(both.get_proven("household", &sources).map(|word| word.value), Some("\"h1\""));
        let ordered = TraitSources::new([("household".to_owned(), vec!["crm".to_owned()])].into());
        assert_eq!(both.get("household", &ordered).map(|word| word.value), Some("\"h1\""));
    }
}
