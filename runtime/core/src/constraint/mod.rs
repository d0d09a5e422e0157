//! Constraints: what the host holds every decision to, and no plugin can bypass.
//!
//! Pure checks of offers against what is known of a person: frequency caps and budgets ([`cap`], [`budget`]), suppression after conversion and after a
//! dismissal ([`suppression`]), quiet hours and opt-outs ([`quiet`]), diversity within an answer ([`diversity`]). Each says why an offer may not be shown, and
//! when it may be again. They know nothing of plugins, conditions or requests; what a catalogue says is prepared once, when it is loaded, so that a decision
//! counts each thing once and then only compares.

pub mod budget;
pub mod cap;
pub mod diversity;
pub mod quiet;
pub mod suppression;

use compact_str::CompactString;
use rustc_hash::FxHashMap;

use crate::catalog::terms::{Cap, Suppression};

/// What the constraints need of a catalogue; offers, categories and campaigns by position.
#[derive(Clone, Debug, Default)]
pub struct Terms<'c> {
    /// The offers.
    pub offers: Vec<OfferTerms<'c>>,
    /// The caps of each category.
    pub categories: Vec<&'c [Cap]>,
    /// The caps of each campaign.
    pub campaigns: Vec<&'c [Cap]>,
    /// The name and the caps of each channel.
    pub channels: Vec<(&'c str, &'c [Cap])>,
    /// The caps over everything.
    pub overall: &'c [Cap],
}

/// What the constraints need of an offer.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfferTerms<'c> {
    /// Its id.
    pub id: &'c str,
    /// Its category.
    pub category: Option<usize>,
    /// Its campaign.
    pub campaign: Option<usize>,
    /// Its own caps.
    pub caps: &'c [Cap],
    /// Whether it is a service message: it has no caps, and consumes none.
    pub transactional: bool,
    /// What it sells.
    pub products: &'c [CompactString],
    /// What becomes of it once it has done its work.
    pub suppress: Option<Suppression>,
    /// For how many milliseconds it is suppressed after a dismissal; none: for ever.
    pub dismissed_ms: Option<i64>,
}

/// The positions of offers by their ids.
#[derive(Clone, Debug, Default)]
pub struct Index(FxHashMap<CompactString, u32>);

impl Index {
    /// Of these offers.
    pub fn new<'o>(offers: impl Iterator<Item = &'o str>) -> Self {
        Self(offers.zip(0..).map(|(id, position)| (CompactString::from(id), position)).collect())
    }

    /// The position of an offer; none of one that is not in the catalogue any more.
    #[inline]
    pub fn position(&self, offer: &str) -> Option<usize> {
        self.0.get(offer).map(|position| *position as usize)
    }
}
