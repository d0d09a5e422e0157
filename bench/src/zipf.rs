//! Who comes next: visitors by Zipf's law, and the pseudo-random numbers of the bench.

/// A generator of pseudo-random numbers (SplitMix64, Steele, Lea and Flood, OOPSLA 2014), the same everywhere for the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next number below a bound, which is small beside 2³².
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// Draws kept ready, so that drawing costs a read.
const DRAWS: usize = 1 << 20;

/// Visitors in the order in which they come, over and over.
#[derive(Clone, Debug)]
pub struct Visitors {
    draws: Vec<u32>,
    next: usize,
}

impl Visitors {
    /// By Zipf's law with the exponent 1 over `count` visitors; who is frequent has nothing to do with their number.
    pub fn zipf(count: u32, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut of_rank: Vec<u32> = (0..count).collect();
        for index in (1..count).rev() {
            of_rank.swap(index as usize, random.below(index + 1) as usize);
        }
        let mut total = 0.0;
        let up_to: Vec<f64> = (1..=count)
            .map(|rank| {
                total += 1.0 / f64::from(rank);
                total
            })
            .collect();
        let draw = |_| {
            let point = random.unit() * total;
            let rank = up_to.partition_point(|sum| *sum <= point);
            of_rank[rank.min(of_rank.len() - 1)]
        };
        Self { draws: (0..DRAWS).map(draw).collect(), next: 0 }
    }

    /// Each visitor once, in an order that is not theirs, then again.
    pub fn everyone(count: u32, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut draws: Vec<u32> = (0..count).collect();
        for index in (1..count).rev() {
            draws.swap(index as usize, random.below(index + 1) as usize);
        }
        Self { draws, next: 0 }
    }

    /// Goes on at another place, so that repetitions differ.
    pub fn skip(&mut self, places: usize) {
        self.next = places % self.draws.len();
    }

    /// Who comes next.
    pub fn draw(&mut self) -> u32 {
        let drawn = self.draws[self.next];
        self.next += 1;
        if self.next == self.draws.len() {
            self.next = 0;
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_comes_as_often_as_the_law_says() {
        let mut visitors = Visitors::zipf(1_000, 7);
        let mut counts = vec![0_u32; 1_000];
        (0..DRAWS).for_each(|_| counts[visitors.draw() as usize] += 1);
        counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
        // 1/H(1000) = 0.1336, a half of that, a third.
        let share = |rank: usize| f64::from(counts[rank]) / DRAWS as f64;
        assert!((share(0) - 0.1336).abs() < 0.002, "{}", share(0));
        assert!((share(1) - 0.0668).abs() < 0.002, "{}", share(1));
        assert!((share(2) - 0.0445).abs() < 0.002, "{}", share(2));
    }

    #[test]
    fn everyone_comes_once_a_round() {
        let mut visitors = Visitors::everyone(500, 7);
        for _ in 0..2 {
            let mut round: Vec<u32> = (0..500).map(|_| visitors.draw()).collect();
            assert!(!round.is_sorted());
            round.sort_unstable();
            assert_eq!(round, (0..500).collect::<Vec<_>>());
        }
    }
}
