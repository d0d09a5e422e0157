//! What a shard comes to over everyone: a tally of its base, added up when somebody asks first and kept from then on by what each move of the base changes, and
//! what is pending beside it. Whoever never asks pays for nothing but a look whether there is one.
//!
//! It is not stored: it depends on the base alone, so it is added up again after a start, and each change is in it once, as it is in the base.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use selvedge_core::aggregate::Definitions;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::links::resolve;
use selvedge_core::offers::Act;
use selvedge_core::offers::everyone::{Scale, Tally};
use selvedge_core::value::Timestamp;
use selvedge_core::view::Cursor;

use crate::pending::Body;
use crate::{Cell, ShardError, Shards};

/// Identifiers that are read at once.
const AT_ONCE: usize = 256;

/// A shard whose base stands still.
pub struct Still<'s> {
    cell: &'s Cell,
    /// What the base comes to.
    pub tally: &'s Tally,
    /// Up to where the log is in.
    pub cursor: Cursor,
}

impl Still<'_> {
    /// Hands over what is pending: offer, channel, what, when, how often. Nothing of it is in the base, and nothing else is pending meanwhile.
    pub fn pending(&self, mut take: impl FnMut(&CompactString, &CompactString, Act, Timestamp, u32)) {
        let state = self.cell.state.lock();
        for queued in state.pending.first(usize::MAX).filter(|queued| !queued.identifier.is_entity()) {
            match &queued.change.body {
                Body::Decided { offers, .. } => {
                    offers.iter().for_each(|of| take(&of.offer, &of.channel, Act::Decided, of.minute, of.count));
                }
                Body::Event { event, effects } => {
                    if let Some(feedback) = &effects.feedback {
                        feedback.acts().for_each(|act| take(&feedback.offer, &feedback.channel, act, event.at, 1));
                    }
                }
                _ => {}
            }
        }
    }
}

impl Cell {
    /// Brings the tally up to what has become of some fragments. The base must stand still.
    pub(crate) fn count<'f>(&self, changes: impl Iterator<Item = (&'f Identifier, &'f Fragment, &'f Fragment)>) {
        let mut tally = self.tally.lock();
        let Some(tally) = tally.as_mut() else { return };
        // What households and other entities were told of is their persons'.
        for (_, before, after) in changes.filter(|(identifier, ..)| !identifier.is_entity()) {
            tally.change(&before.offers, &after.offers);
        }
    }
}

impl Shards {
    /// Looks at what a shard comes to over everyone, by a scale that covers this one. The base stands still meanwhile; the first look, and the first by a larger scale,
    /// reads all of it, about 20 µs a small profile. Blocks on the disk.
    pub fn look<R>(
        &self,
        shard: ShardId,
        scale: &Arc<Scale>,
        now: Timestamp,
        look: impl FnOnce(&Still<'_>) -> R,
    ) -> Result<R, ShardError> {
        let cell = self.held_cell(shard)?;
        let _moves = cell.moves.lock();
        let mut tally = cell.tally.lock();
        let kept = match tally.take().filter(|tally| tally.scale().covers(scale)) {
            Some(kept) => kept,
            None => self.added_up(shard, scale, now)?,
        };
        let kept = tally.insert(kept);
        kept.settle(now);
        Ok(look(&Still { cell, tally: kept, cursor: cell.cursor() }))
    }

    /// Hands over every fragment of a shard's base, ascending by identifier. The base may move between two of them. Blocks on the disk.
    pub fn each(
        &self,
        shard: ShardId,
        mut take: impl FnMut(&Identifier, &Arc<Fragment>) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let cell = self.held_cell(shard)?;
        let mut after = None;
        loop {
            let page = self.disk.identifiers(shard, after.as_ref(), AT_ONCE)?;
            for identifier in &page {
                let fragment = {
                    let _rows = cell.rows.read();
                    self.read_base(identifier)?.0
                };
                take(identifier, &fragment)?;
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Hands over every person of whom a shard's base holds anything, once over all shards that are held, with the fold of all their histories; those alone whose
    /// fragments are `wanted`, any of them. What is pending is not in it. Nothing is kept in memory of it. Blocks on the disk.
    pub fn each_person(
        &self,
        shard: ShardId,
        wanted: impl Fn(&Fragment) -> bool,
        mut take: impl FnMut(&Fragment),
    ) -> Result<(), ShardError> {
        self.each(shard, |identifier, fragment| {
            if identifier.is_entity() {
                return Ok(());
            }
            if fragment.links.alone() {
                if wanted(fragment) {
                    take(fragment);
                }
                return Ok(());
            }
            let mut found: BTreeMap<Identifier, Arc<Fragment>> = BTreeMap::new();
            let group = resolve(&self.namespaces, identifier, |identifier, visit| {
                let fragment = self.peek(identifier)?;
                for (other, word) in fragment.links.words() {
                    // Who was erased since does not know of it any more, and is nobody's.
                    if !word.linked || !self.peek(other)?.erased_by(word.at) {
                        visit(other, word);
                    }
                }
                found.insert(identifier.clone(), fragment);
                Ok::<_, ShardError>(())
            })?;
            found.retain(|member, fragment| group.identifiers.contains(member) && !fragment.is_empty());
            // Whoever comes first tells of all of them.
            if found.keys().next().is_none_or(|first| first == identifier) && found.values().any(|of| wanted(of)) {
                take(&self.join(found.values().map(|fragment| &**fragment)));
            }
            Ok(())
        })
    }

    /// A fragment's base, without keeping it in memory; nothing of a shard that is not held.
    fn peek(&self, identifier: &Identifier) -> Result<Arc<Fragment>, ShardError> {
        let cell = self.cell(identifier.shard());
        if !cell.held {
            return Ok(Arc::new(Fragment::empty(self.observer.definitions())));
        }
        let _rows = cell.rows.read();
        Ok(self.read_base(identifier)?.0)
    }

    /// By what states are read.
    pub fn definitions(&self) -> &Definitions {
        self.observer.definitions()
    }

    fn added_up(&self, shard: ShardId, scale: &Arc<Scale>, now: Timestamp) -> Result<Tally, ShardError> {
        let mut tally = Tally::new(Arc::clone(scale), now);
        let nothing = Default::default();
        self.each(shard, |identifier, fragment| {
            if !identifier.is_entity() {
                tally.change(&nothing, &fragment.offers);
            }
            Ok(())
        })?;
        Ok(tally)
    }
}
