//! What happened with one offer, as it is read.

use super::track::{Mark, count_after, ends};
use super::{Act, Line};
use crate::value::Timestamp;

/// What happened with one offer on one channel.
#[derive(Clone, Copy, Debug)]
pub struct History<'o> {
    line: &'o Line,
    marks: &'o [Mark],
}

impl<'o> History<'o> {
    pub(super) fn new(line: &'o Line, marks: &'o [Mark]) -> Self {
        Self { line, marks }
    }

    /// The offer's id.
    pub fn offer(&self) -> &'o str {
        &self.line.offer
    }

    /// The channel.
    pub fn channel(&self) -> &'o str {
        &self.line.channel
    }

    /// How often it happened, ever.
    pub fn total(&self, act: Act) -> u32 {
        self.line.totals[act as usize]
    }

    /// When it happened last.
    pub fn last_at(&self, act: Act) -> Option<Timestamp> {
        self.of(act).last().map(|mark| Timestamp(mark.at))
    }

    /// How often it happened so late that the time which it is known by ends after an instant (see [`Act::bound`]), up to `enough` times. What is in tiles
    /// counts as long as any of the tile does.
    #[inline]
    pub fn count_after(&self, act: Act, bound: Timestamp, enough: u32) -> u32 {
        count_after(self.of(act), act.exact_ms(), bound.0, enough)
    }

    /// When the times end by which it is known, the newest first, and how often it happened then.
    pub fn ends(&self, act: Act) -> impl Iterator<Item = (Timestamp, u32)> + use<'o> {
        ends(self.of(act), act.exact_ms()).map(|(end, count)| (Timestamp(end), count))
    }

    /// When anything happened last.
    pub(super) fn touched_at(&self) -> Option<Timestamp> {
        Act::ALL.into_iter().filter_map(|act| self.last_at(act)).max()
    }

    fn of(&self, act: Act) -> &'o [Mark] {
        &self.marks[self.line.range(act)]
    }
}

/// What happened with one offer on all channels, in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct OfferHistory {
    pub decided: u64,
    pub shown: u64,
    pub clicked: u64,
    pub accepted: u64,
    pub dismissed: u64,
    pub last_decided_at: Option<Timestamp>,
    pub last_shown_at: Option<Timestamp>,
    pub last_clicked_at: Option<Timestamp>,
    pub last_accepted_at: Option<Timestamp>,
    pub last_dismissed_at: Option<Timestamp>,
    /// When they said last that they have it already.
    pub last_owned_at: Option<Timestamp>,
}

impl OfferHistory {
    /// How often it happened.
    pub fn total(&self, act: Act) -> u64 {
        match act {
            Act::Decided => self.decided,
            Act::Shown => self.shown,
            Act::Clicked => self.clicked,
            Act::Accepted => self.accepted,
            Act::Dismissed => self.dismissed,
            Act::Owned => u64::from(self.last_owned_at.is_some()),
        }
    }

    /// When it happened last.
    pub fn last_at(&self, act: Act) -> Option<Timestamp> {
        match act {
            Act::Decided => self.last_decided_at,
            Act::Shown => self.last_shown_at,
            Act::Clicked => self.last_clicked_at,
            Act::Accepted => self.last_accepted_at,
            Act::Dismissed => self.last_dismissed_at,
            Act::Owned => self.last_owned_at,
        }
    }

    pub(super) fn add(&mut self, line: &History<'_>) {
        let add = |act: Act, count: &mut u64, last_at: &mut Option<Timestamp>| {
            *count += u64::from(line.total(act));
            *last_at = (*last_at).max(line.last_at(act));
        };
        add(Act::Decided, &mut self.decided, &mut self.last_decided_at);
        add(Act::Shown, &mut self.shown, &mut self.last_shown_at);
        add(Act::Clicked, &mut self.clicked, &mut self.last_clicked_at);
        add(Act::Accepted, &mut self.accepted, &mut self.last_accepted_at);
        add(Act::Dismissed, &mut self.dismissed, &mut self.last_dismissed_at);
        add(Act::Owned, &mut 0, &mut self.last_owned_at);
    }
}
