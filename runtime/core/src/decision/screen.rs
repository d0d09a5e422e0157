//! The screen: which offers the host's own constraints let through to eligibility and ranking, for one person at one instant on one channel.
//!
//! What a catalogue says is prepared once ([`Shelf`]); a decision looks once at the person ([`Shelf::screen`]), and then asks of each offer in some tens of
//! nanoseconds. What it lets through is held to its caps once more where it is chosen, beside what was chosen before.

use compact_str::CompactString;

use super::{Constraints, Left, Level, Tier};
use crate::catalog::terms::Validity;
use crate::consent::Consent;
use crate::constraint::cap::{Caps, Past, RuleId, Standing};
use crate::constraint::suppression::{Holdings, Suppressions, Told};
use crate::constraint::{Index, Terms};
use crate::time::BusinessTime;
use crate::value::Timestamp;

/// The only purpose that a service message needs. It counts as allowed until it is denied; every other one as denied until it is allowed.
pub const SERVICE: &str = "service";

/// What the screen needs of an offer beside its [`Terms`].
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// When it may be offered.
    pub valid: Validity,
    /// When its campaign runs.
    pub campaign_valid: Validity,
    /// Whether the catalogue has it switched on.
    pub enabled: bool,
    /// How many are left, if they are counted.
    pub inventory: Option<u64>,
    /// The purpose that must be allowed.
    pub purpose: Option<CompactString>,
    /// The channels on which it has something to show, by position, ascending; none: on all.
    pub channels: Option<Vec<usize>>,
    /// Which others it comes before.
    pub tier: Tier,
}

/// What a catalogue says of its offers, prepared for decisions.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// The positions of offers by their ids.
    pub index: Index,
    /// How often each may be offered.
    pub caps: Caps,
    /// What ends an offer.
    pub suppressions: Suppressions,
    offers: Vec<Kept>,
    purposes: Vec<CompactString>,
}

#[derive(Clone, Debug)]
struct Kept {
    offered: Offered,
    /// Among the purposes.
    purpose: Option<usize>,
    category: Option<usize>,
    campaign: Option<usize>,
}

/// Whom a decision is for, on which channel.
#[derive(Clone, Copy, Debug)]
pub struct Person<'p, H> {
    /// What happened with them and their household.
    pub past: Past<'p>,
    /// What they have bought and keep.
    pub holdings: &'p H,
    /// What they allow.
    pub consent: &'p Consent,
    /// The channel, by position.
    pub channel: usize,
    /// Why the channel is closed to them, if it is: quiet, or opted out.
    pub closed: Option<Left>,
    /// Whether they are in the global hold-out.
    pub held_out: bool,
    /// By campaign, whether they are in its hold-out; may be shorter.
    pub held_out_of: &'p [bool],
}

/// A person's standing with all offers.
#[derive(Debug)]
pub struct Screen<'s, H> {
    shelf: &'s Shelf,
    at: Timestamp,
    channel: usize,
    closed: Option<Left>,
    held_out: bool,
    held_out_of: &'s [bool],
    /// By purpose.
    allowed: Vec<bool>,
    standing: Standing<'s>,
    told: Told<'s, H>,
}

impl Shelf {
    /// Prepares the offers of a catalogue, in its order.
    pub fn new(terms: &Terms<'_>, offers: Vec<Offered>) -> Self {
        let mut purposes: Vec<CompactString> = Vec::new();
        let kept = offers.into_iter().zip(&terms.offers).map(|(offered, terms)| {
            let wanted =
                if offered.tier == Tier::Transactional { Some(SERVICE.into()) } else { offered.purpose.clone() };
            let purpose = wanted.map(|purpose| {
                purposes.iter().position(|known| *known == purpose).unwrap_or_else(|| {
                    purposes.push(purpose);
                    purposes.len() - 1
                })
            });
            Kept { offered, purpose, category: terms.category, campaign: terms.campaign }
        });
        let offers = kept.collect();
        Self {
            index: Index::new(terms.offers.iter().map(|offer| offer.id)),
            caps: Caps::new(terms),
            suppressions: Suppressions::new(terms),
            offers,
            purposes,
        }
    }

    /// Looks at a person, once for a whole decision. `budget` says how much is left here of a rule over everyone.
    pub fn screen<'s, H: Holdings>(
        &'s self,
        person: Person<'s, H>,
        moment: (Timestamp, &BusinessTime),
        budget: impl Fn(RuleId) -> u64,
    ) -> Screen<'s, H> {
        let Person { past, holdings, consent, channel, closed, held_out, held_out_of } = person;
        let allowed = |purpose: &CompactString| consent.get(purpose).map_or(purpose == SERVICE, |word| word.granted);
        Screen {
            shelf: self,
            at: moment.0,
            channel,
            closed,
            held_out,
            held_out_of,
            allowed: self.purposes.iter().map(allowed).collect(),
            standing: self.caps.count(&self.index, past, channel, moment, budget),
            told: self.suppressions.of(&self.index, past.person, holdings, moment.0),
        }
    }
}

impl<H: Holdings> Screen<'_, H> {
    /// Whether an offer gets through, else the first step at which it leaves. `switched_off` says what is not in the catalogue: whether somebody has
    /// thrown its switch.
    pub fn admit(&mut self, offer: usize, switched_off: bool) -> Result<(), Left> {
        let Some(kept) = self.shelf.offers.get(offer) else { return Err(Left::Disabled) };
        let offered = &kept.offered;
        if switched_off || !offered.enabled {
            return Err(Left::Disabled);
        }
        self.valid(&offered.valid, Level::Offer)?;
        self.valid(&offered.campaign_valid, Level::Campaign)?;
        if offered.channels.as_ref().is_some_and(|channels| channels.binary_search(&self.channel).is_err()) {
            return Err(Left::NoContent);
        }
        if offered.inventory == Some(0) {
            return Err(Left::OutOfStock);
        }
        if kept.purpose.is_some_and(|purpose| self.allowed.get(purpose) != Some(&true)) {
            return Err(Left::NoConsent);
        }
        if offered.tier == Tier::Transactional {
            return Ok(());
        }
        if let Some(closed) = self.closed {
            return Err(closed);
        }
        if self.held_out {
            return Err(Left::HeldOut);
        }
        if kept.campaign.and_then(|campaign| self.held_out_of.get(campaign)) == Some(&true) {
            return Err(Left::CampaignHeldOut);
        }
        self.told.check(offer).map_err(Left::Suppressed)?;
        self.capped(offer)
    }

    fn valid(&self, valid: &Validity, of: Level) -> Result<(), Left> {
        if let Some(from) = valid.from.filter(|from| self.at < *from) {
            return Err(Left::NotYet { of, from });
        }
        if let Some(since) = valid.until.filter(|until| *until <= self.at) {
            return Err(Left::Over { of, since });
        }
        Ok(())
    }

    fn capped(&self, offer: usize) -> Result<(), Left> {
        self.standing.check(offer).map_err(|rule| Left::Capped { rule, until: None })
    }
}

impl<H: Holdings> Constraints for Screen<'_, H> {
    fn tier(&self, offer: usize) -> Tier {
        self.shelf.offers.get(offer).map_or(Tier::Ranked, |kept| kept.offered.tier)
    }

    fn category(&self, offer: usize) -> Option<usize> {
        self.shelf.offers.get(offer)?.category
    }

    fn check(&mut self, offer: usize) -> Result<(), Left> {
        self.capped(offer)
    }

    fn take(&mut self, offer: usize) {
        self.standing.take(offer);
    }
}

impl Shelf {
    /// Adds to a reached cap when it is free again; for those who ask why, since it costs more than the check.
    pub fn explain(&self, left: &mut Left, past: Past<'_>, moment: (Timestamp, &BusinessTime)) {
        if let Left::Capped { rule, until } = left {
            *until = self.caps.free_at(*rule, &self.index, past, moment);
        }
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
