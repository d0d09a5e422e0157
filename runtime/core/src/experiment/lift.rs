//! What an experiment has come to: how many of each arm converted, by how much more, and how sure that is.
//!
//! - The share of an arm: Wilson's score interval. E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
//! - The difference of two shares: Newcombe's hybrid of two score intervals (his method 10). R. G. Newcombe, "Interval estimation for the difference between
//!   independent proportions: comparison of eleven methods", Statistics in Medicine 17 (1998).
//! - The lift, p₁ ÷ p₀ − 1: the interval of the log of the ratio by the delta method, var(ln(p₁ ÷ p₀)) = 1/c₁ − 1/n₁ + 1/c₀ − 1/n₀. D. Katz et al., "Obtaining
//!   confidence intervals for the risk ratio in cohort studies", Biometrics 34 (1978). Absent where an arm has no conversion. Where all of an arm converted, its part
//!   would be nought however few they are: half a conversion less stands there.

/// The quantile of the normal distribution for an interval that holds 95%.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// What an arm has come to: persons who were exposed, and those of them who converted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arm {
    /// Persons.
    pub exposed: u64,
    /// Of them.
    pub converted: u64,
}

/// An estimate and the interval around it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // the names say it
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Arm {
    /// The share that converted; none where nobody was exposed.
    pub fn share(&self, z: f64) -> Option<Estimate> {
        if self.exposed == 0 {
            return None;
        }
        let n = self.exposed as f64;
        let p = self.converted.min(self.exposed) as f64 / n;
        let centre = p + z * z / (2.0 * n);
        let half = z * libm::sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n));
        let whole = 1.0 + z * z / n;
        Some(Estimate { value: p, low: ((centre - half) / whole).max(0.0), high: ((centre + half) / whole).min(1.0) })
    }
}

/// By how much the share of an arm is above that of another.
pub fn difference(of: Arm, than: Arm, z: f64) -> Option<Estimate> {
    let (one, other) = (of.share(z)?, than.share(z)?);
    let value = one.value - other.value;
    let apart = |a: f64, b: f64| libm::sqrt(a * a + b * b);
    let low = value - apart(one.value - one.low, other.high - other.value);
    let high = value + apart(one.high - one.value, other.value - other.low);
    Some(Estimate { value, low, high })
}

/// By what part of the other's share the share of an arm is above it: 0.25 is a quarter more.
pub fn lift(of: Arm, than: Arm, z: f64) -> Option<Estimate> {
    let (one, other) = (of.share(z)?, than.share(z)?);
    if of.converted == 0 || than.converted == 0 {
        return None;
    }
    let ratio = one.value / other.value;
    let part = |arm: Arm| {
        let exposed = arm.exposed as f64;
        1.0 / (arm.converted as f64).min(exposed - 0.5) - 1.0 / exposed
    };
    let variance = part(of) + part(than);
    let stretch = libm::exp(z * libm::sqrt(variance.max(0.0)));
    Some(Estimate { value: ratio - 1.0, low: ratio / stretch - 1.0, high: ratio * stretch - 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(estimate: Option<Estimate>, expected: [f64; 3], tolerance: f64) {
        let Estimate { value, low, high } = estimate.expect("an estimate");
        for (got, wanted) in [value, low, high].into_iter().zip(expected) {
            assert!((got - wanted).abs() <= tolerance, "{value} {low} {high} is not {expected:?}");
        }
    }

    fn arm(converted: u64, exposed: u64) -> Arm {
        Arm { exposed, converted }
    }

    /// Newcombe 1998, table II: method 10 on 56/70 against 48/80, 9/10 against 3/10, 10/10 against 0/10, 5/56 against 0/29.
    #[test]
    fn differences_are_those_that_were_published() {
        close(difference(arm(56, 70), arm(48, 80), Z_95), [0.2, 0.0524, 0.3339], 0.00005);
        close(difference(arm(9, 10), arm(3, 10), Z_95), [0.6, 0.1705, 0.8090], 0.00005);
        close(difference(arm(10, 10), arm(0, 10), Z_95), [1.0, 0.6075, 1.0], 0.00005);
        close(difference(arm(5, 56), arm(0, 29), Z_95), [0.0893, -0.0381, 0.1926], 0.00005);
    }

    /// Newcombe 1998 (the paper on single proportions, Statistics in Medicine 17, 857): Wilson on 81/263 and 0/20.
    #[test]
    fn shares_are_those_that_were_published() {
        close(arm(81, 263).share(Z_95), [0.3080, 0.2553, 0.3662], 0.00005);
        close(arm(0, 20).share(Z_95), [0.0, 0.0, 0.1611], 0.00005);
        assert_eq!(arm(0, 0).share(Z_95), None);
    }

    #[test]
    fn a_lift_is_a_ratio_and_needs_conversions() {
        // exp(±z·√(1/120 − 1/1000 + 1/100 − 1/1000)) around 1.2.
        close(lift(arm(120, 1000), arm(100, 1000), Z_95), [0.2, -0.06589, 0.54158], 0.00001);
        // One of one says next to nothing: exp(±z·√(1/0.5 − 1 + 1/163 − 1/205)) around 205/163.
        close(lift(arm(1, 1), arm(163, 205), Z_95), [0.25767, -0.82306, 7.93928], 0.00001);
        assert_eq!(lift(arm(0, 10), arm(1, 10), Z_95), None);
        assert_eq!(lift(arm(1, 10), arm(0, 10), Z_95), None);
        assert_eq!(lift(arm(1, 10), Arm::default(), Z_95), None);
    }
}
