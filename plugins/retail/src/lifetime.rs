//! Aggregates into scores: whether a customer is still one, how often and for how much they will buy.
//!
//! BG/NBD: Fader, Hardie and Lee, "'Counting Your Customers' the Easy Way: An Alternative to the Pareto/NBD Model", Marketing Science
//! 24(2), 2005. Gamma-Gamma: Fader and Hardie, "The Gamma-Gamma Model of Monetary Value", 2013. Time is in weeks; a day on which someone
//! bought is one transaction, and the first one starts the clock.

use selvedge_guest::prelude::*;

use crate::Retail;

/// What is read of a customer.
#[derive(Clone, Debug, Default, Reads)]
pub struct Customer {
    #[read("agg:retail.purchase_days")]
    purchase_days: Option<i64>,
    #[read("agg:retail.first_purchase_at")]
    first_day: Option<Day>,
    #[read("agg:retail.last_purchase_at")]
    last_day: Option<Day>,
    #[read("agg:retail.gross_revenue")]
    gross_revenue: Option<f64>,
    #[read("agg:retail.first_day_revenue")]
    first_day_revenue: Option<f64>,
    #[read("now")]
    today: Option<Day>,
    #[read("config:r")]
    r: Option<f64>,
    #[read("config:alpha")]
    alpha: Option<f64>,
    #[read("config:a")]
    a: Option<f64>,
    #[read("config:b")]
    b: Option<f64>,
    #[read("config:horizon_days")]
    horizon_days: Option<f64>,
    #[read("config:p")]
    p: Option<f64>,
    #[read("config:q")]
    q: Option<f64>,
    #[read("config:v")]
    v: Option<f64>,
}

/// All absent for someone who never bought.
#[derive(Clone, Debug, Default, PartialEq, Scores)]
pub struct LifetimeScores {
    p_alive: Option<f64>,
    expected_orders: Option<f64>,
    #[score(unit = "config:currency")]
    clv: Option<f64>,
}

impl Score for Retail {
    type Visitor = Customer;
    type Scores = LifetimeScores;

    fn score(customer: &Customer) -> Result<LifetimeScores, Stop> {
        let (Some(first), Some(last), Some(today)) = (customer.first_day, customer.last_day, customer.today) else {
            return Ok(LifetimeScores::default());
        };
        let model = BgNbd {
            r: customer.r.unwrap_or(0.243),
            alpha: customer.alpha.unwrap_or(4.414),
            a: customer.a.unwrap_or(0.793),
            b: customer.b.unwrap_or(2.426),
        };
        let spending =
            GammaGamma { p: customer.p.unwrap_or(6.25), q: customer.q.unwrap_or(3.74), v: customer.v.unwrap_or(15.44) };
        let history = History {
            frequency: (customer.purchase_days.unwrap_or(1) - 1).max(0) as f64,
            recency: weeks(first, last),
            age: weeks(first, today),
        };
        let orders = model.expected_orders(&history, customer.horizon_days.unwrap_or(90.0) / 7.0);
        let repeat_revenue = customer.gross_revenue.unwrap_or(0.0) - customer.first_day_revenue.unwrap_or(0.0);
        let scores = LifetimeScores {
            p_alive: Some(model.p_alive(&history)),
            expected_orders: Some(orders),
            clv: Some(orders * spending.expected_value(history.frequency, repeat_revenue)),
        };
        Ok(scores)
    }
}

fn weeks(from: Day, to: Day) -> f64 {
    (to.0 - from.0) as f64 / 7.0
}

/// A customer as the models see one.
#[derive(Clone, Copy, Debug)]
struct History {
    /// Repeat transactions: x.
    frequency: f64,
    /// Weeks from the first to the last transaction: t_x.
    recency: f64,
    /// Weeks from the first transaction to now: T.
    age: f64,
}

/// Parameters of the BG/NBD model.
#[derive(Clone, Copy, Debug)]
struct BgNbd {
    r: f64,
    alpha: f64,
    a: f64,
    b: f64,
}

impl BgNbd {
    /// The odds of having left, P(dead)/P(alive), for a customer with repeat transactions; 0 without.
    ///
    /// From eq. (7) of the paper: a/(b + x − 1) · ((α + T)/(α + t_x))^(r + x).
    fn odds_left(&self, history: &History) -> f64 {
        let History { frequency: x, recency, age } = *history;
        if x == 0.0 {
            return 0.0;
        }
        let stretch = (self.alpha + age) / (self.alpha + recency);
        self.a / (self.b + x - 1.0) * libm::pow(stretch, self.r + x)
    }

    /// The probability of being a customer still. A customer without a repeat transaction cannot have left in this model.
    fn p_alive(&self, history: &History) -> f64 {
        1.0 / (1.0 + self.odds_left(history))
    }

    /// E(Y(t) | x, t_x, T), eq. (10) of the paper: the number of transactions in the next t weeks.
    ///
    /// The paper's 2F1(r + x, b + x; a + b + x − 1; z), z = t/(α + T + t), is taken through Euler's transformation (Abramowitz and
    /// Stegun 15.3.3), (1 − z)^(a − 1 − r − x) · 2F1(a + b − 1 − r, a − 1; a + b + x − 1; z): its power cancels against
    /// ((α + T)/(α + T + t))^(r + x), so that nothing overflows for frequent buyers, and the series converges faster the more they buy.
    fn expected_orders(&self, history: &History, weeks: f64) -> f64 {
        let Self { r, alpha, a, b } = *self;
        let History { frequency: x, age, .. } = *history;
        let z = weeks / (alpha + age + weeks);
        let series = hypergeometric(a + b - 1.0 - r, a - 1.0, a + b + x - 1.0, z);
        let bought = 1.0 - libm::pow(1.0 - z, a - 1.0) * series;
        (a + b + x - 1.0) / (a - 1.0) * bought / (1.0 + self.odds_left(history))
    }
}

/// The Gauss hypergeometric function 2F1(a, b; c; z) for 0 <= z < 1, by its series.
fn hypergeometric(a: f64, b: f64, c: f64, z: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for index in 0..10_000 {
        let n = f64::from(index);
        term *= (a + n) * (b + n) / ((c + n) * (n + 1.0)) * z;
        sum += term;
        if libm::fabs(term) <= libm::fabs(sum) * 1e-16 {
            break;
        }
    }
    sum
}

/// Parameters of the Gamma-Gamma model.
#[derive(Clone, Copy, Debug)]
struct GammaGamma {
    p: f64,
    q: f64,
    v: f64,
}

impl GammaGamma {
    /// E(M | p, q, v, m̄, x) = p(v + x·m̄)/(p·x + q − 1), eq. (5) of the note: the value of a transaction, undiscounted.
    /// `repeat_revenue` is x·m̄.
    fn expected_value(&self, x: f64, repeat_revenue: f64) -> f64 {
        self.p * (self.v + repeat_revenue) / (self.p * x + self.q - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CDNOW: BgNbd = BgNbd { r: 0.243, alpha: 4.414, a: 0.793, b: 2.426 };

    fn close(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{value} is not {expected} within {tolerance}");
    }

    /// Fader, Hardie and Lee, "Implementing the BG/NBD Model for Customer Base Analysis in Excel" (2005): customer 0001 of the CDNOW sample.
    #[test]
    fn the_published_customer_is_expected_to_buy_1_226_times() {
        let history = History { frequency: 2.0, recency: 30.43, age: 38.86 };
        close(CDNOW.expected_orders(&history, 39.0), 1.226, 0.0005);
    }

    /// Values computed with arbitrary precision (mpmath, 50 digits) from the paper's own, untransformed formulas.
    #[test]
    fn the_transformed_formulas_agree_with_the_papers() {
        for (x, recency, age, weeks, p_alive, orders) in REFERENCE {
            let history = History { frequency: x, recency, age };
            close(CDNOW.p_alive(&history) / p_alive, 1.0, 1e-12);
            close(CDNOW.expected_orders(&history, weeks) / orders, 1.0, 1e-10);
        }
    }

    /// (x, t_x, T, t, P(alive), E(Y(t)))
    const REFERENCE: [(f64, f64, f64, f64, f64, f64); 7] = [
        (0.0, 0.0, 0.0, 12.857142857142858, 1.0, 0.5297692457081344),
        (0.0, 0.0, 38.857142857142854, 39.0, 1.0, 0.1951096649930885),
        (1.0, 1.7142857142857142, 38.857142857142854, 39.0, 0.2122600625546133, 0.20335104108680574),
        (2.0, 30.43, 38.86, 39.0, 0.726578570080673, 1.2260281747671444),
        (7.0, 29.428571428571427, 38.857142857142854, 39.0, 0.6417960022486665, 3.3374393516207372),
        (26.0, 30.857142857142858, 31.0, 39.0, 0.9688515628518959, 20.748353694337908),
        (150.0, 60.5, 61.25, 12.857142857142858, 0.9714216359325705, 26.610365875297003),
    ];

    /// Fader and Hardie 2013, the CDNOW parameters: the population's mean is p·v/(q − 1), and a customer's own mean pulls it.
    #[test]
    fn spending_is_between_the_populations_and_the_customers_mean() {
        let model = GammaGamma { p: 6.25, q: 3.74, v: 15.44 };
        close(model.expected_value(0.0, 0.0), 35.22, 0.005);
        close(model.expected_value(2.0, 2.0 * 22.35), 24.66, 0.01);
        let often = model.expected_value(1000.0, 1000.0 * 22.35);
        close(often, 22.35, 0.05);
    }
}
