//! The terms of the catalogue: when something holds, how often, for whom, and who is left out.
//!
//! Plain values, resolved from the document. What they mean for a visitor is for those that check them; how they are written is for the document.

use compact_str::CompactString;
use serde_json::value::RawValue;

use crate::offers::Act;
use crate::time::{Period, Whose};
use crate::value::Timestamp;

/// Milliseconds of the longest sliding window of a cap: what a history needs to keep, at most.
pub const CAP_WINDOW_MS_MAX: i64 = 400 * crate::time::DAY_MS;

/// When something holds: from an instant on, that included, until another, that excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    /// The first instant; none: always so far.
    pub from: Option<Timestamp>,
    /// The first instant at which it no longer holds; none: for ever.
    pub until: Option<Timestamp>,
}

impl Validity {
    /// Whether it holds at an instant.
    pub fn holds(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= at) && self.until.is_none_or(|until| at < until)
    }
}

/// Whom a cap counts over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Per {
    /// One person, under all identifiers.
    #[default]
    Person,
    /// All persons of a household.
    Household,
    /// Everybody: a budget.
    Everyone,
}

/// What a cap counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Counts {
    /// That it was chosen.
    #[default]
    Decided,
    /// `Offer Shown`.
    Shown,
    /// `Offer Clicked`.
    Clicked,
    /// `Offer Accepted`.
    Accepted,
}

/// Of which time a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CapWindow {
    /// The last so many milliseconds; whole minutes, from one to [`CAP_WINDOW_MS_MAX`].
    Sliding(i64),
    /// The day, week, month or year around the instant, in the business time zone.
    Calendar(Period),
    /// All of it.
    Lifetime,
}

/// At most so many in a window. What it caps (an offer, a category, a campaign, a channel, everything) follows from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cap {
    /// Over whom.
    pub per: Per,
    /// What.
    pub counts: Counts,
    /// At most; never 0.
    pub most: u64,
    /// Within.
    pub window: CapWindow,
}

/// By what offers that name no score are as likely to be taken: by how often everyone did who was shown them, on the same channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Response {
    /// What is a response: a click or an acceptance.
    pub counts: Counts,
    /// The rate of what was never shown.
    pub prior: f64,
    /// As how many showings the prior weighs.
    pub weight: f64,
}

impl Default for Response {
    fn default() -> Self {
        Self { counts: Counts::Clicked, prior: 0.02, weight: 100.0 }
    }
}

impl Response {
    /// What happens where somebody responds.
    pub fn act(&self) -> Act {
        if self.counts == Counts::Accepted { Act::Accepted } else { Act::Clicked }
    }
}

/// What suppresses an offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SuppressAfter {
    /// A purchase of any of its products that is still kept.
    #[default]
    Purchase,
    /// `Offer Accepted`.
    Accepted,
}

/// How an offer is suppressed once it has done its work, on every channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suppression {
    /// After what.
    pub after: SuppressAfter,
    /// Whether all offers of its category are, too.
    pub whole_category: bool,
    /// For how many milliseconds; none: for ever.
    pub for_ms: Option<i64>,
}

/// Milliseconds for which an offer is suppressed once it was dismissed, unless the offer says otherwise.
pub const DISMISSED_MS: i64 = 30 * crate::time::DAY_MS;

/// Hours of the day in which nothing goes out: from a minute of the day, that included, until another, that excluded. Where it ends before it begins it goes
/// over midnight. The two are never equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quiet {
    /// Minutes after midnight.
    pub from: u16,
    /// Minutes after midnight.
    pub until: u16,
    /// Whose clock.
    pub whose: Whose,
}

/// A share in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u32);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(1_000_000);
}

/// A part of all visitors, by salted hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// How many.
    pub share: Share,
    /// Another salt draws others.
    pub salt: CompactString,
}

/// What those of the global hold-out get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HoldoutAnswer {
    /// The slot's fallback.
    #[default]
    Fallback,
    /// Nothing at all.
    Nothing,
}

/// The global hold-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalHoldout {
    /// Who.
    pub part: Part,
    /// What they get.
    pub answers: HoldoutAnswer,
}

/// What an offer shows: the same everywhere, or by channel.
#[derive(Clone, Debug)]
pub enum Content {
    /// On every channel.
    Everywhere(Box<RawValue>),
    /// By channel, by position in the catalogue's channels, ascending; none where it is said to have nothing for one.
    ByChannel(Vec<(usize, Option<Box<RawValue>>)>),
}

impl Default for Content {
    /// Nothing on any channel.
    fn default() -> Self {
        Self::ByChannel(Vec::new())
    }
}

impl Content {
    /// What shows on a channel; none where it has nothing for it.
    pub fn on(&self, channel: usize) -> Option<&RawValue> {
        match self {
            Self::Everywhere(content) => Some(content),
            Self::ByChannel(_) => self.said(channel).flatten(),
        }
    }

    /// What is said of a channel: the outer none where nothing is, the inner one where it is to show nothing there.
    #[allow(clippy::option_option)] // silence and a refusal are different answers
    pub fn said(&self, channel: usize) -> Option<Option<&RawValue>> {
        match self {
            Self::Everywhere(content) => Some(Some(content)),
            Self::ByChannel(channels) => {
                let found = channels.binary_search_by_key(&channel, |(channel, _)| *channel).ok()?;
                Some(channels[found].1.as_deref())
            }
        }
    }
}

/// One of several contents of an offer, drawn by salted hash.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Unique within the offer.
    pub id: CompactString,
    /// How often, beside the others' weights; never 0.
    pub weight: u32,
    /// What it shows.
    pub content: Content,
}

/// Which factors make up a priority in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct Arbitration {
    pub propensity: bool,
    pub context: bool,
    pub value: bool,
    pub lever: bool,
}

impl Default for Arbitration {
    fn default() -> Self {
        Self { propensity: true, context: true, value: true, lever: true }
    }
}
