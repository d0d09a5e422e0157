//! The consolidated history of offers with one person: what was decided, shown, clicked, accepted and dismissed, when, and on which channel.
//!
//! From decisions and from the feedback events of all channels; caps and suppressions go by it, and so does what the profile shows. Kept by
//! offer and channel; what category or campaign an offer is of is the catalogue's to say, which this knows nothing of. Bounded: see [`track`],
//! [`LINES_MAX`] and [`MARKS_MAX`].
//!
//! In memory it is three lists, whatever the number of offers: it is copied with every recorded decision, and read through for every decision
//! that has caps. A fragment without offers has nothing but the place for a pointer.

mod added;
pub mod everyone;
mod exposure;
mod history;
mod stored;
pub mod track;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::aggregate::heap_bytes;
use crate::change::DecidedOffer;
use crate::shared::Shared;
use crate::value::Timestamp;

pub use self::added::Added;
pub use self::exposure::{EXPOSURES_MAX, Exposure};
pub use self::history::{History, OfferHistory};

use self::track::{Mark, Track};

/// Pairs of offer and channel of which one fragment keeps the history; beyond it the one touched longest ago gives way.
pub const LINES_MAX: usize = 1024;
/// Instants and tiles that one fragment keeps of all of them, likewise.
pub const MARKS_MAX: usize = 16_384;
/// The channel of whatever names none.
pub const DEFAULT_CHANNEL: &str = "web";

/// What may happen between a person and an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Act {
    /// It was chosen for them. Known by the minute.
    Decided,
    /// It was visible.
    Shown,
    /// It was followed.
    Clicked,
    /// It was taken.
    Accepted,
    /// It was put away.
    Dismissed,
    /// It was put away by one who has it already.
    Owned,
}

impl Act {
    /// All of them, in order.
    pub const ALL: [Self; ACTS] =
        [Self::Decided, Self::Shown, Self::Clicked, Self::Accepted, Self::Dismissed, Self::Owned];

    /// As conditions and keys name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Shown => "shown",
            Self::Clicked => "clicked",
            Self::Accepted => "accepted",
            Self::Dismissed => "dismissed",
            Self::Owned => "owned",
        }
    }

    /// How long what is known by one instant may have lasted.
    const fn exact_ms(self) -> i64 {
        if matches!(self, Self::Decided) { MINUTE_MS } else { 1 }
    }

    /// When a window of this length no longer takes in what ended at an instant (see [`History::ends`]): an event leaves `(t − w, t]` exactly at its own time
    /// plus the window, a decision at the end of its minute plus the window.
    pub const fn leaves(self, end: Timestamp, window_ms: i64) -> Timestamp {
        let late = if matches!(self, Self::Decided) { 0 } else { 1 };
        Timestamp(end.0.saturating_add(window_ms).saturating_sub(late))
    }

    /// What must end later than this to be within a window of this length at an instant.
    pub const fn bound(self, at: Timestamp, window_ms: i64) -> Timestamp {
        let late = if matches!(self, Self::Decided) { 0 } else { 1 };
        Timestamp(at.0.saturating_sub(window_ms).saturating_add(late))
    }
}

const ACTS: usize = 6;
const MINUTE_MS: i64 = 60_000;

/// The minute of an instant, by its first one.
pub fn minute_of(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_sub(at.0.rem_euclid(MINUTE_MS)))
}

/// The history of all offers; none where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offers(Option<Shared<Held>>);

/// What there is where something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Ascending by offer, then by channel.
    lines: Vec<Line>,
    /// Of all lines in their order, of each by act.
    marks: Vec<Mark>,
    /// Ascending by experiment.
    exposures: Vec<Exposure>,
}

/// What happened with one offer on one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    offer: CompactString,
    channel: CompactString,
    /// Ever, by act.
    totals: [u32; ACTS],
    /// Marks, by act.
    lens: [u16; ACTS],
    /// Where its marks begin.
    start: u32,
}

impl Line {
    fn len(&self) -> usize {
        self.lens.iter().map(|len| usize::from(*len)).sum()
    }

    fn range(&self, act: Act) -> std::ops::Range<usize> {
        let before: usize = self.lens[..act as usize].iter().map(|len| usize::from(*len)).sum();
        let start = self.start as usize + before;
        start..start + usize::from(self.lens[act as usize])
    }
}

impl Offers {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Pairs of offer and channel with which something happened.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.lines.len())
    }

    /// Every pair of offer and channel with which something happened, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = History<'_>> + Clone {
        let held = self.0.as_deref();
        let lines: &[Line] = held.map_or(&[], |held| &held.lines);
        let marks: &[Mark] = held.map_or(&[], |held| &held.marks);
        lines.iter().map(move |line| History::new(line, marks))
    }

    /// Every offer with what happened on all channels, ascending.
    pub fn by_offer(&self) -> impl Iterator<Item = (&str, OfferHistory)> {
        let mut lines = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = lines.next()?;
            let mut history = OfferHistory::default();
            history.add(&first);
            while let Some(next) = lines.next_if(|next| next.offer() == first.offer()) {
                history.add(&next);
            }
            Some((first.offer(), history))
        })
    }

    /// What happened with an offer on all channels.
    pub fn get(&self, offer: &str) -> OfferHistory {
        let mut history = OfferHistory::default();
        self.of(offer).for_each(|line| history.add(&line));
        history
    }

    /// What happened with an offer, by channel.
    pub fn of<'o>(&'o self, offer: &str) -> impl Iterator<Item = History<'o>> + use<'o> {
        let held = self.0.as_deref();
        let lines: &[Line] = held.map_or(&[], |held| &held.lines);
        let marks: &[Mark] = held.map_or(&[], |held| &held.marks);
        let first = lines.partition_point(|line| line.offer.as_str() < offer);
        let last = first + lines[first..].partition_point(|line| line.offer.as_str() == offer);
        lines[first..last].iter().map(move |line| History::new(line, marks))
    }

    /// The exposures to experiments, ascending by their names.
    pub fn exposures(&self) -> &[Exposure] {
        self.0.as_ref().map_or(&[], |held| &held.exposures)
    }

    /// The first exposure to an experiment.
    pub fn exposure(&self, experiment: &str) -> Option<&Exposure> {
        let exposures = self.exposures();
        exposures.binary_search_by(|held| held.experiment.as_str().cmp(experiment)).ok().map(|found| &exposures[found])
    }

    /// Whether anything was decided after an instant.
    pub fn decided_after(&self, at: Timestamp) -> bool {
        self.iter().any(|line| line.last_at(Act::Decided).is_some_and(|last| last > at))
            || self.exposures().iter().any(|exposure| exposure.at > at)
    }

    /// Counts decisions of one minute.
    pub fn decide(&mut self, decided: &DecidedOffer) {
        self.record(&decided.offer, &decided.channel, Act::Decided, minute_of(decided.minute), decided.count);
    }

    /// The history as it would be without one decision of a minute; as it is, where none is counted then.
    pub fn undecide(&mut self, offer: &str, channel: &str, at: Timestamp) {
        let Some(held) = &mut self.0 else { return };
        let held = &mut **held;
        let found =
            held.lines.binary_search_by(|line| (line.offer.as_str(), line.channel.as_str()).cmp(&(offer, channel)));
        let Ok(index) = found else { return };
        let range = held.lines[index].range(Act::Decided);
        let minute = minute_of(at).0;
        let Some(place) = held.marks[range.clone()].iter().rposition(|mark| mark.covers(minute)) else { return };
        let total = &mut held.lines[index].totals[Act::Decided as usize];
        *total = total.saturating_sub(1);
        let mark = &mut held.marks[range.start + place];
        mark.count = mark.count.saturating_sub(1);
        if mark.count == 0 {
            held.marks.remove(range.start + place);
            held.lens_changed(index, Act::Decided, range.len() - 1);
        }
    }

    /// Counts what happened at an instant.
    pub fn record(&mut self, offer: &CompactString, channel: &CompactString, act: Act, at: Timestamp, count: u32) {
        let held = &mut **self.0.get_or_insert_default();
        let index = held.line(offer, channel);
        held.line_insert(index, act, at.0, count);
        held.settle();
    }

    /// Takes in an exposure; the earliest to an experiment holds.
    pub fn expose(&mut self, exposure: &Exposure) {
        exposure::take(&mut self.0.get_or_insert_default().exposures, exposure);
    }

    /// Takes in the history of another fragment: what recording both gives.
    pub fn join(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (_, None) => {}
            (None, Some(_)) => self.clone_from(other),
            (Some(held), Some(other)) => {
                let mut joined = held.joined(other);
                joined.settle();
                **held = joined;
            }
        }
    }

    /// Heap bytes, about.
    pub fn weight(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.weight(Held::weight))
    }
}

impl Held {
    /// The place of a pair of offer and channel, made where there is none.
    fn line(&mut self, offer: &CompactString, channel: &CompactString) -> usize {
        let found = self.lines.binary_search_by(|line| (&line.offer, &line.channel).cmp(&(offer, channel)));
        found.unwrap_or_else(|gap| {
            // At most MARKS_MAX and what one line holds.
            let start = self.lines.get(gap).map_or(self.marks.len() as u32, |next| next.start);
            let line = Line { offer: offer.clone(), channel: channel.clone(), start, ..Line::default() };
            insert_tight(&mut self.lines, gap, line);
            gap
        })
    }

    fn line_insert(&mut self, index: usize, act: Act, at: i64, count: u32) {
        let line = &mut self.lines[index];
        line.totals[act as usize] = line.totals[act as usize].saturating_add(count);
        let mut track = Track { range: line.range(act), marks: &mut self.marks };
        track.insert(at, count);
        let len = track.range.len();
        self.lens_changed(index, act, len);
    }

    /// Brings what follows a track up to its new length.
    fn lens_changed(&mut self, index: usize, act: Act, len: usize) {
        let before = usize::from(self.lines[index].lens[act as usize]);
        if len != before {
            // Bounded by what a track keeps: two tails and a day for each of KEPT_MS.
            self.lines[index].lens[act as usize] = len as u16;
            for later in &mut self.lines[index + 1..] {
                later.start = later.start + len as u32 - before as u32;
            }
        }
    }

    fn joined(&self, other: &Self) -> Self {
        let mut joined = Self {
            lines: Vec::with_capacity(self.lines.len().max(other.lines.len())),
            marks: Vec::with_capacity(self.marks.len() + other.marks.len()),
            exposures: self.exposures.clone(),
        };
        let (mut ours, mut theirs) = (self.lines.iter().peekable(), other.lines.iter().peekable());
        let place = |line: &Line| (line.offer.clone(), line.channel.clone());
        loop {
            match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(one), Some(more)) if (&one.offer, &one.channel) == (&more.offer, &more.channel) => {
                    joined.push(one, self, Some((more, other)));
                    ours.next();
                    theirs.next();
                }
                (Some(one), more) if more.is_none_or(|more| place(one) < place(more)) => {
                    joined.push(one, self, None);
                    ours.next();
                }
                (_, Some(more)) => {
                    joined.push(more, other, None);
                    theirs.next();
                }
                (Some(_), None) => break,
            }
        }
        other.exposures.iter().for_each(|exposure| exposure::take(&mut joined.exposures, exposure));
        joined
    }

    /// Adds a line behind all others, with what another one of the same pair has.
    fn push(&mut self, line: &Line, of: &Self, more: Option<(&Line, &Self)>) {
        let mut new = Line { start: self.marks.len() as u32, ..line.clone() };
        for act in Act::ALL {
            let start = self.marks.len();
            self.marks.extend_from_slice(&of.marks[line.range(act)]);
            if let Some((more, of)) = more {
                let total = &mut new.totals[act as usize];
                *total = total.saturating_add(more.totals[act as usize]);
                let mut track = Track { range: start..self.marks.len(), marks: &mut self.marks };
                track.join(&of.marks[more.range(act)]);
                new.lens[act as usize] = track.range.len() as u16;
            }
        }
        self.lines.push(new);
    }

    /// Lets lines go until the rest is within bounds.
    fn settle(&mut self) {
        while self.lines.len() > LINES_MAX || (self.marks.len() > MARKS_MAX && self.lines.len() > 1) {
            let last_at = |line: &Line| History::new(line, &self.marks).touched_at();
            let oldest = self.lines.iter().enumerate().min_by_key(|(_, line)| last_at(line)).map(|(index, _)| index);
            let Some(oldest) = oldest else { return };
            let gone = self.lines.remove(oldest);
            let start = gone.start as usize;
            self.marks.drain(start..start + gone.len());
            for later in &mut self.lines[oldest..] {
                later.start -= gone.len() as u32;
            }
        }
    }

    fn weight(&self) -> usize {
        let names = |line: &Line| heap_bytes(&line.offer) + heap_bytes(&line.channel);
        let exposures = |exposure: &Exposure| heap_bytes(&exposure.experiment) + heap_bytes(&exposure.arm);
        self.lines.capacity() * size_of::<Line>()
            + self.lines.iter().map(names).sum::<usize>()
            + self.marks.capacity() * size_of::<Mark>()
            + self.exposures.capacity() * size_of::<Exposure>()
            + self.exposures.iter().map(exposures).sum::<usize>()
    }
}

/// Inserts into a list that lives long and is often copied: a quarter of room at a time, where a vector would take double.
fn insert_tight<T>(list: &mut Vec<T>, index: usize, value: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 4 + 1);
    }
    list.insert(index, value);
}

#[cfg(test)]
mod tests;
