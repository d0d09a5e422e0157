//! What a plugin says of itself at load, put together from its types.

use crate::bindings::{Description, Read};
use crate::inputs::Reads;
use crate::outputs::{Aggregates, Scores};
use crate::stages::{Observe, Rank, Score};
use crate::values::Choice;

/// A description without stages.
pub fn named(name: &str, version: &str) -> Description {
    Description {
        name: name.into(),
        version: version.into(),
        observes: Vec::new(),
        event_reads: Vec::new(),
        score_reads: Vec::new(),
        visitor_reads: Vec::new(),
        offer_reads: Vec::new(),
        aggregates: Vec::new(),
        scores: Vec::new(),
        reasons: Vec::new(),
        skips: Vec::new(),
    }
}

/// Adds the stage that observes events.
pub fn observe<P: Observe>(description: &mut Description) {
    description.observes = texts(P::EVENTS);
    description.event_reads = reads::<P::Event>();
    description.aggregates = P::Aggregates::declare();
    description.skips = texts(P::Skip::CHOICES);
}

/// Operators of the plugin's own are declared with its aggregates.
pub fn custom<P: Observe>(_: &mut Description) {}

/// Adds the stage that scores visitors.
pub fn score<P: Score>(description: &mut Description) {
    description.score_reads = reads::<P::Visitor>();
    description.scores = P::Scores::declare();
}

/// Adds the stage that ranks offers.
pub fn rank<P: Rank>(description: &mut Description) {
    description.visitor_reads = reads::<P::Visitor>();
    description.offer_reads = reads::<P::Offer>();
    description.reasons = texts(P::Reason::CHOICES);
}

fn reads<T: Reads>() -> Vec<Read> {
    let mut reads = Vec::new();
    T::declare("", &mut reads);
    reads
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).into()).collect()
}
