//! Back-off: how long to wait after each failure in a row. The waits are drawn at random, so that those who failed together do not come back together.

/// The first wait is drawn below this.
pub const BASE_MS: u64 = 200;
/// No wait is longer.
pub const CAP_MS: u64 = 5_000;
/// No wait is shorter.
pub const LEAST_MS: u64 = 20;

/// Waits after failures in a row. Equal seeds wait alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Waits between [`LEAST_MS`] and, after the first failure, [`BASE_MS`]; twice as much after each further one, up to [`CAP_MS`].
    pub fn new(seed: u64) -> Self {
        Self::between(BASE_MS, CAP_MS, seed)
    }

    /// The same with other bounds.
    pub fn between(base_ms: u64, cap_ms: u64, seed: u64) -> Self {
        Self { base_ms: base_ms.max(LEAST_MS), cap_ms: cap_ms.max(LEAST_MS), failures: 0, random: seed }
    }

    /// A failure: how many milliseconds to wait.
    pub fn fail(&mut self) -> u64 {
        let doubled = self.base_ms.saturating_mul(1 << self.failures.min(32));
        self.failures = self.failures.saturating_add(1);
        let most = doubled.min(self.cap_ms);
        LEAST_MS + self.draw() % (most - LEAST_MS + 1)
    }

    /// It went well: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// SplitMix64, by Sebastiano Vigna.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.random;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^ (drawn >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_begin_again() {
        for seed in 0..1_000 {
            let mut backoff = Backoff::new(seed);
            for failure in 0..40_u32 {
                let most = (BASE_MS << failure.min(10)).min(CAP_MS);
                let wait = backoff.fail();
                assert!((LEAST_MS..=most).contains(&wait), "seed {seed}: {wait} after {failure}");
            }
            assert_eq!(backoff.failures(), 40);
            backoff.reset();
            assert!(backoff.fail() <= BASE_MS);
        }
    }

    #[test]
    fn those_who_failed_together_come_back_apart() {
        let mut by_tenth = [0_u32; 10];
        for seed in 0..10_000 {
            let mut backoff = Backoff::new(seed);
            let wait = (0..20).map(|_| backoff.fail()).last().unwrap_or(0);
            by_tenth[(wait.min(CAP_MS - 1) * 10 / CAP_MS) as usize] += 1;
        }
        assert!(by_tenth.iter().all(|count| (850..1_150).contains(count)), "{by_tenth:?}");
        assert_eq!(Backoff::new(7).fail(), Backoff::new(7).fail());
    }

    #[test]
    fn odd_bounds_are_mended() {
        assert_eq!(Backoff::between(0, 0, 1).fail(), LEAST_MS);
        let mut widest = Backoff::between(u64::MAX, u64::MAX, 1);
        assert!((0..100).all(|_| widest.fail() >= LEAST_MS));
    }
}
