//! A ranking by the score of another plugin, which the host computes first with all that it depends on: the end of a chain of plugins.

use selvedge_guest::prelude::*;

/// The plugin.
pub struct Panel;

/// What is read of a visitor.
#[derive(Reads)]
pub struct Visitor {
    #[read("score:last.level")]
    level: Option<f64>,
}

/// What is read of an offer.
#[derive(Reads)]
pub struct Candidate {
    #[read("offer:value")]
    value: Option<f64>,
}

impl Rank for Panel {
    type Visitor = Visitor;
    type Offer = Candidate;
    type Reason = Never;

    fn rank(visitor: &Visitor, offers: &[Candidate]) -> Result<Vec<Judgement<Never>>, Stop> {
        // Without the score there is no chain, which the bench is to notice.
        let Some(level) = visitor.level else { return Err(Stop::Internal("the chain gave no score".into())) };
        Ok(offers.iter().map(|offer| Judgement::offer(offer.value.unwrap_or(1.0) * (1.0 + level))).collect())
    }
}

selvedge_guest::export!(Panel: rank);
