//! Budgets: caps over everyone, kept by many edges that each know a little late what the others spend.
//!
//! Each edge reports what it has spent and is told, in the same exchange, what all together have ([`Word`]). Until the next one it may spend its share of
//! what was left: the rest divided by the number of edges. So as long as no edge has heard that a budget B is spent, and the latest words of n edges are
//! T₁ … Tₙ, no more than B + max(T) − mean(T) is spent in all, whatever each does with its share; and once one has heard it, no share is given any more. The
//! overshoot is at most what was spent between the exchange of the edge that was heard longest ago and the latest one, times (n − 1) ÷ n, and one for
//! each edge where the rest does not divide. One edge never overshoots; edges that exchange every second overshoot by no more than a second's spending; an
//! edge that is cut off by no more than its share of what was left when it was last heard.

/// What an edge was told of one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// What all edges together have spent in this window, this one's last report included.
    pub spent: u64,
    /// How many edges there are; 0 counts as 1.
    pub edges: u32,
    /// The place of this one among them, from 0: what does not divide goes to the first.
    pub rank: u32,
}

/// One budget at one edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    word: Word,
    /// What this edge has spent in this window.
    own: u64,
    /// The part of it that is in the word.
    reported: u64,
}

impl Purse {
    /// What this edge has spent: what it reports.
    pub fn own(&self) -> u64 {
        self.own
    }

    /// What may still be spent here of a budget until the next word.
    pub fn left(&self, most: u64) -> u64 {
        let Word { spent, edges, rank } = self.word;
        let (rest, edges) = (most.saturating_sub(spent), u64::from(edges.max(1)));
        let share = rest / edges + u64::from(u64::from(rank) < rest % edges);
        share.saturating_sub(self.own.saturating_sub(self.reported))
    }

    /// Spends.
    pub fn spend(&mut self, count: u64) {
        self.own = self.own.saturating_add(count);
    }

    /// Takes a word in that answers a report of what was spent then.
    pub fn told(&mut self, word: Word, reported: u64) {
        (self.word, self.reported) = (word, reported);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_edge_spends_all_of_it_and_no_more() {
        let mut purse = Purse::default();
        assert_eq!(purse.left(3), 3);
        (0..3).for_each(|_| purse.spend(1));
        assert_eq!((purse.left(3), purse.left(4)), (0, 1));
        purse.told(Word { spent: 3, edges: 1, rank: 0 }, 3);
        assert_eq!((purse.left(3), purse.left(4)), (0, 1));
    }

    proptest! {
        #[test]
        fn the_overshoot_is_within_what_is_said(
            most in 0_u64..200,
            edges in 1_usize..5,
            steps in proptest::collection::vec((0_usize..5, 0_u64..40, any::<bool>()), 0..200),
        ) {
            let word = |spent: u64, rank: usize| Word { spent, edges: edges as u32, rank: rank as u32 };
            let mut purses = vec![Purse::default(); edges];
            (0..edges).for_each(|rank| purses[rank].told(word(0, rank), 0));
            let mut reports = vec![0_u64; edges];
            let mut words = vec![0_u64; edges];
            let mut over = 0.0;
            for (edge, wants, exchanges) in steps {
                let edge = edge % edges;
                let spends = wants.min(purses[edge].left(most));
                purses[edge].spend(spends);
                let spent: u64 = purses.iter().map(Purse::own).sum();
                let latest = words.iter().copied().max().unwrap_or(0);
                if latest <= most {
                    over = words.iter().map(|known| latest - known).sum::<u64>() as f64 / edges as f64;
                }
                prop_assert!(spends == 0 || spent as f64 <= most as f64 + over + edges as f64, "{spent} of {most}, {over}");
                if edges == 1 {
                    prop_assert!(spent <= most);
                }
                if exchanges {
                    reports[edge] = purses[edge].own();
                    words[edge] = reports.iter().sum();
                    let reported = purses[edge].own();
                    purses[edge].told(word(words[edge], edge), reported);
                }
            }
        }
    }
}
