//! Where and why a candidate left a decision.

use crate::constraint::cap::RuleId;
use crate::constraint::suppression::{Reason, Suppressed};
use crate::value::Timestamp;

/// The steps of a decision, in their order: the cheap ones first, those that others' choices decide last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Whether it may be offered at all: switched on, valid, in stock, with something to show on the channel.
    Availability,
    /// What the person allows.
    Consent,
    /// Quiet hours of the channel.
    Quiet,
    /// Who is held out.
    HoldOut,
    /// Whether it has done its work, or was put away.
    Suppression,
    /// How often.
    Cap,
    /// Audiences and conditions.
    Eligibility,
    /// What a plugin says.
    Ranking,
    /// What stands beside it.
    Answer,
}

impl Step {
    /// As answers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Availability => "availability",
            Self::Consent => "consent",
            Self::Quiet => "quiet",
            Self::HoldOut => "hold-out",
            Self::Suppression => "suppression",
            Self::Cap => "cap",
            Self::Eligibility => "eligibility",
            Self::Ranking => "ranking",
            Self::Answer => "answer",
        }
    }
}

/// Whose condition it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Level {
    Offer,
    Slot,
    Campaign,
}

/// Why a candidate left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Switched off.
    Disabled,
    /// It, or its campaign, is not valid yet.
    NotYet {
        /// Whose validity it is.
        of: Level,
        /// From when on it is.
        from: Timestamp,
    },
    /// It, or its campaign, is not valid any more.
    Over {
        /// Whose validity it is.
        of: Level,
        /// Since when it is not.
        since: Timestamp,
    },
    /// It has nothing to show on this channel.
    NoContent,
    /// None are left.
    OutOfStock,
    /// The purpose that it needs is not allowed.
    NoConsent,
    /// The person has closed the channel.
    OptedOut,
    /// The channel is quiet.
    Quiet {
        /// Until then.
        until: Timestamp,
    },
    /// The person is in the global hold-out.
    HeldOut,
    /// The person is in its campaign's hold-out.
    CampaignHeldOut,
    /// It is suppressed.
    Suppressed(Suppressed),
    /// A cap is reached.
    Capped {
        /// Which.
        rule: RuleId,
        /// When it is free again, if nothing else happens; none where nobody can say.
        until: Option<Timestamp>,
    },
    /// The person is not in an audience that it is for: by position in the catalogue.
    Audience(usize),
    /// A condition is not met.
    Condition(Level),
    /// The ranking plugin left it out.
    Plugin,
    /// The ranking failed, or came too late.
    Unranked,
    /// The slot holds as many of its category as it may.
    Diversity,
    /// It stands in another slot of the answer.
    OtherSlot,
    /// Others come before it.
    Outranked,
}

impl Left {
    /// At which step.
    pub fn step(&self) -> Step {
        match self {
            Self::Disabled | Self::NotYet { .. } | Self::Over { .. } | Self::NoContent | Self::OutOfStock => {
                Step::Availability
            }
            Self::NoConsent | Self::OptedOut => Step::Consent,
            Self::Quiet { .. } => Step::Quiet,
            Self::HeldOut | Self::CampaignHeldOut => Step::HoldOut,
            Self::Suppressed(_) => Step::Suppression,
            Self::Capped { .. } => Step::Cap,
            Self::Audience(_) | Self::Condition(_) => Step::Eligibility,
            Self::Plugin | Self::Unranked => Step::Ranking,
            Self::Diversity | Self::OtherSlot | Self::Outranked => Step::Answer,
        }
    }

    /// A stable code, as answers have it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::NotYet { of: Level::Campaign, .. } => "campaign-not-yet-valid",
            Self::NotYet { .. } => "not-yet-valid",
            Self::Over { of: Level::Campaign, .. } => "campaign-over",
            Self::Over { .. } => "no-longer-valid",
            Self::NoContent => "no-content-for-channel",
            Self::OutOfStock => "out-of-stock",
            Self::NoConsent => "consent-missing",
            Self::OptedOut => "channel-opted-out",
            Self::Quiet { .. } => "quiet-period",
            Self::HeldOut => "held-out",
            Self::CampaignHeldOut => "campaign-held-out",
            Self::Suppressed(Suppressed { reason: Reason::Bought(_), .. }) => "suppressed-bought",
            Self::Suppressed(Suppressed { reason: Reason::Accepted, .. }) => "suppressed-accepted",
            Self::Suppressed(Suppressed { reason: Reason::Owned, .. }) => "suppressed-already-bought",
            Self::Suppressed(Suppressed { reason: Reason::Dismissed, .. }) => "suppressed-dismissed",
            Self::Capped { .. } => "capped",
            Self::Audience(_) => "not-in-audience",
            Self::Condition(Level::Offer) => "not-eligible",
            Self::Condition(Level::Slot) => "slot-not-eligible",
            Self::Condition(Level::Campaign) => "campaign-not-eligible",
            // As it was called before there were others.
            Self::Plugin => "left-out",
            Self::Unranked => "not-ranked",
            Self::Diversity => "too-many-of-its-category",
            Self::OtherSlot => "in-another-slot",
            Self::Outranked => "outranked",
        }
    }

    /// When it may be different, if nothing else happens; none where that is not a matter of time.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::NotYet { from, .. } => Some(*from),
            Self::Quiet { until } => Some(*until),
            Self::Suppressed(Suppressed { until, .. }) | Self::Capped { until, .. } => *until,
            _ => None,
        }
    }
}
