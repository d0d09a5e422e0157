//! Linking: saying which identifiers are one person.
//!
//! Both halves of a word are appended together, so that a crash keeps both or neither. Checks and admission of links are one after
//! another, over all shards: links are few, and two made at once could join what neither of them alone does.

use selvedge_core::identity::Identifier;
use selvedge_core::links::{How, LinkError, Word, check_pair, check_union};
use selvedge_core::value::Timestamp;

use crate::{Outbox, Prepared, ShardError, Shards};

/// What became of the wish to unlink a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlinked {
    /// They are no longer linked to each other.
    Done,
    /// They were not.
    WereNot,
}

impl Shards {
    /// Whether linking a pair has nothing to do, as far as memory tells.
    pub fn linked(&self, one: &Identifier, other: &Identifier, at: Timestamp) -> bool {
        let settled = |of: &Identifier, to: &Identifier| {
            let view = self.cached(of)?;
            view.fragment.links.word(to).filter(|word| word.linked || word.at >= at).copied()
        };
        matches!((settled(one, other), settled(other, one)), (Some(here), Some(there)) if here == there)
    }

    /// Links two identifiers, unless they are, or were taken apart, or one of them erased, later than the word says. Gives whether anything changed. May block on the
    /// disk.
    ///
    /// A word from a trusted system is the newest whatever the clocks say.
    pub fn link(
        &self,
        one: &Identifier,
        other: &Identifier,
        word: Word,
        outbox: &dyn Outbox,
    ) -> Result<Result<bool, LinkError>, ShardError> {
        let _linking = self.linking.lock();
        if let Err(error) = self.check(one, other)? {
            return Ok(Err(error));
        }
        let word = match self.either_erased(one, other)? {
            // A trusted system knows of the erasure.
            Some(erased) if word.how == How::Api => Word { at: word.at.max(erased.plus_ms(1)), ..word },
            Some(erased) if word.at <= erased => return Ok(Ok(false)),
            _ => word,
        };
        let (newest, halves) = self.newest_word(one, other)?;
        match newest {
            Some(word) if word.linked && halves == 2 => return Ok(Ok(false)),
            // Half of it is there: the rest is made up for.
            Some(word) if word.linked => return self.say(one, other, word, outbox).map(|()| Ok(true)),
            Some(newest) if word.how != How::Api && newest.at >= word.at => return Ok(Ok(false)),
            _ => {}
        }
        self.say(one, other, after(word, newest), outbox).map(|()| Ok(true))
    }

    /// Whether linking two identifiers would change anything, or why it would be refused. May block on the disk.
    pub fn would_link(&self, one: &Identifier, other: &Identifier) -> Result<Result<bool, LinkError>, ShardError> {
        if let Err(error) = self.check(one, other)? {
            return Ok(Err(error));
        }
        let (newest, _) = self.newest_word(one, other)?;
        Ok(Ok(!newest.is_some_and(|newest| newest.linked)))
    }

    /// Whether a pair may be linked: what it would make is within the bounds, or is there already.
    fn check(&self, one: &Identifier, other: &Identifier) -> Result<Result<(), LinkError>, ShardError> {
        if let Err(error) = check_pair(&self.namespaces, one, other) {
            return Ok(Err(error));
        }
        let ours = self.group(one)?.identifiers;
        if ours.contains(other) {
            return Ok(Ok(()));
        }
        let theirs = self.group(other)?.identifiers;
        Ok(check_union(&self.namespaces, &ours, &theirs))
    }

    /// Takes a link back. May block on the disk.
    pub fn unlink(
        &self,
        one: &Identifier,
        other: &Identifier,
        word: Word,
        outbox: &dyn Outbox,
    ) -> Result<Unlinked, ShardError> {
        let _linking = self.linking.lock();
        let (newest, _) = self.newest_word(one, other)?;
        if !newest.is_some_and(|newest| newest.linked) {
            return Ok(Unlinked::WereNot);
        }
        self.say(one, other, after(word, newest), outbox)?;
        Ok(Unlinked::Done)
    }

    /// Whether anything was ever said of a pair. May block on the disk.
    pub fn ever_linked(&self, one: &Identifier, other: &Identifier) -> Result<bool, ShardError> {
        Ok(self.newest_word(one, other)?.0.is_some())
    }

    /// When the one or the other was last erased.
    fn either_erased(&self, one: &Identifier, other: &Identifier) -> Result<Option<Timestamp>, ShardError> {
        Ok(self.erased_at(one)?.max(self.erased_at(other)?))
    }

    /// The newest word on a pair since either was erased, and how many of the halves have it.
    fn newest_word(&self, one: &Identifier, other: &Identifier) -> Result<(Option<Word>, usize), ShardError> {
        let (ours, theirs) = (self.load(one)?, self.load(other)?);
        let erased = ours.fragment.erased.max(theirs.fragment.erased);
        let holds = |word: &&Word| erased.is_none_or(|erased| word.at > erased);
        let here = ours.fragment.links.word(other).filter(holds).copied();
        let there = theirs.fragment.links.word(one).filter(holds).copied();
        Ok(match (here, there) {
            (Some(here), Some(there)) if here == there => (Some(here), 2),
            (Some(here), Some(there)) => (Some(if here.beats(&there) { here } else { there }), 1),
            (here, there) => (here.or(there), 1),
        })
    }

    /// Admits a word to both fragments, as far as they do not have it.
    pub(crate) fn say(
        &self,
        one: &Identifier,
        other: &Identifier,
        word: Word,
        outbox: &dyn Outbox,
    ) -> Result<(), ShardError> {
        self.admit_together(&[one.clone(), other.clone()], outbox, &|identifier, held| {
            let there = if identifier == one { other } else { one };
            let new = held.fragment.links.word(there).is_none_or(|known| word.beats(known));
            new.then(|| Prepared::link(identifier.clone(), there.clone(), word))
        })
    }
}

/// A word that holds against the one before it: who speaks now has seen it.
fn after(word: Word, before: Option<Word>) -> Word {
    let at = before.map_or(word.at, |before| word.at.max(before.at.plus_ms(1)));
    Word { at, ..word }
}
