//! Offers, ranked for a visitor.

use selvedge_guest::prelude::*;

use crate::Retail;

/// What is read of each offer.
#[derive(Clone, Debug, Default, Reads)]
pub struct Candidate {
    #[read("offer:value")]
    value: Option<f64>,
    #[read("agg:retail.category_affinity[offer:category]")]
    affinity: Option<f64>,
    #[read("agg:retail.units_kept[offer:product_ids]")]
    kept: Option<Decimal>,
}

/// Why an offer stands where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Reason {
    /// Bought, and not returned.
    #[choice("already-bought")]
    AlreadyBought,
    /// The visitor's interest in its category.
    #[choice("category-affinity")]
    Affinity,
    /// Its value alone.
    #[choice("offer-value")]
    Value,
}

/// Below this an interest is too faint to be called a reason: a single view, two months ago.
const FAINT: f64 = 0.25;

impl Rank for Retail {
    type Visitor = ();
    type Offer = Candidate;
    type Reason = Reason;

    /// Value times affinity, where everyone has an affinity of 1 to everything to begin with; what was bought and is still kept is left out.
    fn rank(_: &(), offers: &[Candidate]) -> Result<Vec<Judgement<Reason>>, Stop> {
        Ok(offers.iter().map(judge).collect())
    }
}

fn judge(offer: &Candidate) -> Judgement<Reason> {
    if offer.kept.is_some_and(|kept| kept > Decimal::ZERO) {
        return Judgement::leave_out(Reason::AlreadyBought);
    }
    let affinity = offer.affinity.unwrap_or(0.0);
    let reason = if affinity >= FAINT { Reason::Affinity } else { Reason::Value };
    Judgement::offer(offer.value.unwrap_or(1.0) * (1.0 + affinity)).because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(value: f64, affinity: f64, kept: i64) -> Candidate {
        Candidate { value: Some(value), affinity: Some(affinity), kept: Some(Decimal(kept)) }
    }

    #[test]
    fn affinity_lifts_and_possession_leaves_out() {
        let judged = [candidate(2.0, 0.0, 0), candidate(1.0, 3.0, 0), candidate(9.0, 9.0, 1), candidate(1.0, 0.1, -1)]
            .map(|offer| judge(&offer));
        assert_eq!(judged[0], Judgement::offer(2.0).because(Reason::Value));
        assert_eq!(judged[1], Judgement::offer(4.0).because(Reason::Affinity));
        assert_eq!(judged[2], Judgement::leave_out(Reason::AlreadyBought));
        assert_eq!(judged[3], Judgement::offer(1.1).because(Reason::Value));
    }
}
