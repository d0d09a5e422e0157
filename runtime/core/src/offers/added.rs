//! What was added to a history since: small next to the history itself, so that it can be laid over what was stored before.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::track::{Mark, Width};
use super::{Act, Exposure, Line, Offers};
use crate::value::Timestamp;

/// What a history has more than another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    times: Vec<Times>,
    exposures: Vec<Exposure>,
}

/// How often something happened more at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Times {
    offer: CompactString,
    channel: CompactString,
    act: Act,
    at: Timestamp,
    count: u32,
}

impl Added {
    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty() && self.exposures.is_empty()
    }

    /// The same, and what was added after it.
    pub fn add(&mut self, more: Self) {
        for new in more.times {
            let place = |times: &Times| (times.offer.clone(), times.channel.clone(), times.act, times.at);
            match self.times.iter_mut().find(|held| place(held) == place(&new)) {
                Some(held) => held.count = held.count.saturating_add(new.count),
                None => self.times.push(new),
            }
        }
        self.exposures.extend(more.exposures);
    }
}

impl Offers {
    /// What has been added since it was as another one; none where more has changed than that says.
    pub fn added_since(&self, before: &Self) -> Option<Added> {
        let mut added = Added::default();
        let (after, held) = match (&self.0, &before.0) {
            (None, None) => return Some(added),
            (Some(after), Some(before)) if after.is(before) => return Some(added),
            (None, Some(_)) => return None,
            (Some(after), held) => (after, held.as_deref()),
        };
        for line in &after.lines {
            let was = held.and_then(|held| {
                let place = |of: &Line| (&of.offer, &of.channel).cmp(&(&line.offer, &line.channel));
                held.lines.binary_search_by(place).ok().map(|found| (&held.lines[found], &held.marks))
            });
            for act in Act::ALL {
                let now = &after.marks[line.range(act)];
                let was = was.map_or(&[][..], |(line, marks)| &marks[line.range(act)]);
                for mark in now.iter().rev().take_while(|mark| mark.width == Width::Exact) {
                    let more = mark.count.saturating_sub(count_at(was, mark.at));
                    if more > 0 {
                        let (offer, channel) = (line.offer.clone(), line.channel.clone());
                        added.times.push(Times { offer, channel, act, at: Timestamp(mark.at), count: more });
                    }
                }
            }
        }
        let known = before.exposures();
        added.exposures.extend(after.exposures.iter().filter(|exposure| !known.contains(exposure)).cloned());
        // Something else may have changed: what was taken back, what came too late to be kept exactly, what gave way.
        let mut laid = before.clone();
        laid.lay(&added);
        (laid == *self).then_some(added)
    }

    /// Adds what was added.
    pub fn lay(&mut self, added: &Added) {
        for Times { offer, channel, act, at, count } in &added.times {
            self.record(offer, channel, *act, *at, *count);
        }
        added.exposures.iter().for_each(|exposure| self.expose(exposure));
    }
}

fn count_at(marks: &[Mark], at: i64) -> u32 {
    let exact = marks.iter().rev().take_while(|mark| mark.width == Width::Exact);
    exact.take_while(|mark| mark.at >= at).find(|mark| mark.at == at).map_or(0, |mark| mark.count)
}
