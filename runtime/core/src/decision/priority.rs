//! The priority of an offer: propensity × context × value × lever, each of which a slot may leave out.

use crate::catalog::terms::Arbitration;

/// What makes up a priority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// How likely it is taken.
    pub propensity: f64,
    /// What the moment adds to it.
    pub context: f64,
    /// What it is worth if taken.
    pub value: f64,
    /// By what the business raises or lowers it.
    pub lever: f64,
}

impl Default for Factors {
    /// None that changes anything.
    fn default() -> Self {
        Self { propensity: 1.0, context: 1.0, value: 1.0, lever: 1.0 }
    }
}

impl Factors {
    /// Those that count in a slot; the others as 1.
    pub fn within(&self, arbitration: &Arbitration) -> Self {
        let counts = |counts: bool, factor: f64| if counts { factor } else { 1.0 };
        Self {
            propensity: counts(arbitration.propensity, self.propensity),
            context: counts(arbitration.context, self.context),
            value: counts(arbitration.value, self.value),
            lever: counts(arbitration.lever, self.lever),
        }
    }

    /// Their product, in this order: every edge rounds alike. What is no number comes last.
    pub fn priority(&self) -> f64 {
        let priority = self.propensity * self.context * self.value * self.lever;
        if priority.is_nan() { f64::NEG_INFINITY } else { priority }
    }
}

/// A response rate that begins at a prior and gives way to what is observed: (responses + prior × weight) ÷ (exposures + weight).
pub fn smoothed_rate(responses: u64, exposures: u64, prior: f64, weight: f64) -> f64 {
    let rate = (responses as f64 + prior * weight) / (exposures as f64 + weight);
    if rate.is_finite() { rate } else { prior }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_which_factors_count() {
        let factors = Factors { propensity: 0.5, context: 3.0, value: 8.0, lever: 0.25 };
        assert_eq!(factors.priority(), 3.0);
        let without = |arbitration: Arbitration| factors.within(&arbitration).priority();
        let all = Arbitration::default();
        assert_eq!(without(all), 3.0);
        assert_eq!(without(Arbitration { propensity: false, ..all }), 6.0);
        assert_eq!(without(Arbitration { context: false, ..all }), 1.0);
        assert_eq!(without(Arbitration { value: false, ..all }), 0.375);
        assert_eq!(without(Arbitration { lever: false, ..all }), 12.0);
        assert_eq!(Factors { value: f64::INFINITY, lever: 0.0, ..factors }.priority(), f64::NEG_INFINITY);
        assert_eq!(Factors::default().priority(), 1.0);
    }

    #[test]
    fn a_rate_begins_at_its_prior() {
        assert_eq!(smoothed_rate(0, 0, 0.02, 100.0), 0.02);
        assert_eq!(smoothed_rate(8, 100, 0.02, 100.0), 0.05);
        assert_eq!(smoothed_rate(0, 0, 0.02, 0.0), 0.02);
    }
}
