//! Words on traits, packed: their names and values in one text, and who said so once for all words of one event.
//!
//! A profile may have hundreds of traits, mostly short ones that came in a few events; each with allocations and a source of its own would take several times its
//! text, and as long again to load.

use std::borrow::Cow;
use std::fmt;

use compact_str::CompactString;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Trait;
use crate::aggregate::heap_bytes;
use crate::value::Timestamp;

/// Utterances among which one is looked for before it is kept anew.
const LOOKED_AT: usize = 16;
/// Room for texts to come, as a part of those that are there.
const SLACK: usize = 8;
/// Bytes of a name and a value, about, for the first guess.
const WORD_BYTES: usize = 24;

/// Words in an order that whoever adds them keeps.
#[derive(Clone, Default)]
pub(super) struct Words {
    /// Names and values, and some that hold no more.
    text: String,
    places: Vec<Place>,
    /// And some that nothing refers to any more.
    utterances: Vec<Utterance>,
}

/// Where a word stands.
#[derive(Clone, Copy)]
struct Place {
    name: Span,
    value: Span,
    utterance: u32,
}

#[derive(Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

/// Who said something, and when.
#[derive(Clone, PartialEq)]
struct Utterance {
    source: CompactString,
    at: Timestamp,
    claimed: bool,
    id_hash: [u8; 16],
}

impl Words {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<Trait<'_>> {
        Some(self.word(self.places.get(index)?))
    }

    /// Those from one on.
    pub(super) fn from(&self, index: usize) -> impl Iterator<Item = Trait<'_>> {
        self.places.get(index..).unwrap_or_default().iter().map(|place| self.word(place))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Trait<'_>> {
        self.from(0)
    }

    /// How many come first of which something holds.
    pub(super) fn partition_point(&self, holds: impl Fn(&Trait<'_>) -> bool) -> usize {
        self.places.partition_point(|place| holds(&self.word(place)))
    }

    /// Puts a word before another.
    pub(super) fn insert(&mut self, index: usize, word: &Trait<'_>) {
        self.make_room(word);
        let place = self.place(word);
        if self.places.len() == self.places.capacity() {
            self.places.reserve_exact(1 + self.places.len() / SLACK);
        }
        self.places.insert(index, place);
    }

    /// Puts a word of the same name in the place of another.
    pub(super) fn replace(&mut self, index: usize, word: &Trait<'_>) {
        self.make_room(word);
        let value = self.write(word.value);
        let utterance = self.utterance(word);
        if let Some(place) = self.places.get_mut(index) {
            (place.value, place.utterance) = (value, utterance);
        }
    }

    /// Heap bytes, about.
    pub(super) fn weight(&self) -> usize {
        let utterances = self.utterances.iter().map(|utterance| heap_bytes(&utterance.source)).sum::<usize>();
        self.text.capacity()
            + self.places.capacity() * size_of::<Place>()
            + self.utterances.capacity() * size_of::<Utterance>()
            + utterances
    }

    fn word(&self, place: &Place) -> Trait<'_> {
        let text = |span: Span| self.text.get(span.at as usize..).and_then(|text| text.get(..span.len as usize));
        // Every place refers to one.
        let utterance = &self.utterances[place.utterance as usize];
        Trait {
            name: text(place.name).unwrap_or_default(),
            source: &utterance.source,
            value: text(place.value).unwrap_or_default(),
            at: utterance.at,
            claimed: utterance.claimed,
            id_hash: utterance.id_hash,
        }
    }

    /// Packs everything anew where a word does not fit.
    fn make_room(&mut self, word: &Trait<'_>) {
        let new = word.name.len() + word.value.len();
        let full = self.text.capacity() - self.text.len() < new;
        if !full && self.utterances.len() <= 2 * self.places.len() + LOOKED_AT {
            return;
        }
        let live: usize = self.places.iter().map(|place| (place.name.len + place.value.len) as usize).sum();
        let room = live + new;
        let mut packed = Self {
            text: String::with_capacity(room + room / SLACK),
            places: Vec::with_capacity(self.places.capacity()),
            utterances: Vec::new(),
        };
        self.iter().for_each(|word| packed.push(&word));
        *self = packed;
    }

    fn push(&mut self, word: &Trait<'_>) {
        let place = self.place(word);
        self.places.push(place);
    }

    fn place(&mut self, word: &Trait<'_>) -> Place {
        Place { name: self.write(word.name), value: self.write(word.value), utterance: self.utterance(word) }
    }

    fn write(&mut self, text: &str) -> Span {
        // A profile's traits are bounded far below what 32 bits count.
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let span = Span { at: bytes(self.text.len()), len: bytes(text.len()) };
        self.text.push_str(text);
        span
    }

    fn utterance(&mut self, word: &Trait<'_>) -> u32 {
        let Trait { source, at, claimed, id_hash, .. } = *word;
        let same = |held: &Utterance| {
            (held.at, held.claimed, held.id_hash) == (at, claimed, id_hash) && held.source.as_str() == source
        };
        let latest = self.utterances.iter().enumerate().rev().take(LOOKED_AT);
        let held = latest.filter(|(_, held)| same(held)).map(|(index, _)| index).next();
        let index = held.unwrap_or_else(|| {
            if self.utterances.len() == self.utterances.capacity() {
                self.utterances.reserve_exact(1 + self.utterances.len() / 2);
            }
            self.utterances.push(Utterance { source: source.into(), at, claimed, id_hash });
            self.utterances.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// By what the words are, however they are packed.
impl PartialEq for Words {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Words {}

/// As a list of words.
impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Packing)
    }
}

struct Packing;

/// A word as it is read.
#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
    at: Timestamp,
    claimed: bool,
    id_hash: [u8; 16],
}

impl<'de> Visitor<'de> for Packing {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of words on traits")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Words, A::Error> {
        // What says how many there are may be wrong.
        let count = seq.size_hint().unwrap_or(0).min(1024);
        let mut words = Words {
            text: String::with_capacity(count * WORD_BYTES),
            places: Vec::with_capacity(count),
            utterances: Vec::new(),
        };
        while let Some(Stored { name, source, value, at, claimed, id_hash }) = seq.next_element()? {
            words.push(&Trait { name: &name, source: &source, value: &value, at, claimed, id_hash });
        }
        words.text.shrink_to_fit();
        words.places.shrink_to_fit();
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Said {
        name: String,
        value: String,
        event: u8,
    }

    fn said() -> impl Strategy<Value = Said> {
        ("[a-f]{1,3}", "[0-9ä]{0,40}", 0_u8..40).prop_map(|(name, value, event)| Said { name, value, event })
    }

    fn word(said: &Said) -> Trait<'_> {
        let (source, claimed) = (
            ["identify", "import", "a source with a name beyond what fits"][said.event as usize % 3],
            said.event.is_multiple_of(2),
        );
        Trait {
            name: &said.name,
            source,
            value: &said.value,
            at: Timestamp(said.event.into()),
            claimed,
            id_hash: [said.event; 16],
        }
    }

    proptest! {
        #[test]
        fn packed_words_are_what_a_list_of_them_is(steps in proptest::collection::vec(said(), 0..300)) {
            let (mut words, mut list): (Words, Vec<Said>) = Default::default();
            for step in &steps {
                match list.binary_search_by(|held| held.name.cmp(&step.name)) {
                    Ok(found) => {
                        words.replace(found, &word(step));
                        list[found] = step.clone();
                    }
                    Err(gap) => {
                        words.insert(gap, &word(step));
                        list.insert(gap, step.clone());
                    }
                }
            }
            prop_assert!(words.iter().eq(list.iter().map(word)), "{words:?}");
            prop_assert!(words.utterances.len() <= 2 * words.len() + LOOKED_AT + 1);
            let bytes = postcard::to_allocvec(&words).expect("bytes");
            prop_assert_eq!(&bytes, &postcard::to_allocvec(&list.iter().map(word).collect::<Vec<_>>()).expect("bytes"));
            let read: Words = postcard::from_bytes(&bytes).expect("words");
            prop_assert_eq!(&read, &words);
        }
    }
}
