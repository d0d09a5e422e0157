//! Filling slots under constraints: the best that may stand there, one after the other, each held to what was taken before.

use super::{Judgement, Left, SlotChoice};
use crate::constraint::diversity::Diversity;

/// Which offers come before others, whatever their priority. The higher come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// By priority.
    #[default]
    Ranked,
    /// Before those.
    Mandatory,
    /// Service messages: before all others.
    Transactional,
}

/// A slot that is to be filled.
#[derive(Clone, Copy, Debug)]
pub struct Contest<'j> {
    /// The offers that may stand here, by position, ascending.
    pub candidates: &'j [usize],
    /// How many at most.
    pub count: usize,
    /// How many of one category at most.
    pub per_category: Option<usize>,
    /// A judgement on every candidate (others are passed over); none where ranking failed and the slot shows its fallback.
    pub ranking: Option<&'j [Judgement]>,
}

/// What choices are held to.
pub trait Constraints {
    /// Which others an offer comes before.
    fn tier(&self, offer: usize) -> Tier;
    /// The category of an offer, by position.
    fn category(&self, offer: usize) -> Option<usize>;
    /// Whether an offer may be chosen beside what was taken so far.
    fn check(&mut self, offer: usize) -> Result<(), Left>;
    /// Counts an offer that was chosen.
    fn take(&mut self, offer: usize);
}

/// Fills the slots in the order of the call. An offer stands at most once in an answer; equal priorities stand in the catalogue's order.
///
/// `left` hears, for a slot by position in the call, of every candidate that was judged eligible and is not chosen, and of those that were not; none where nobody
/// asks, which spares looking at those behind the last chosen one.
pub fn fill(
    contests: &[Contest<'_>],
    constraints: &mut impl Constraints,
    mut left: Option<&mut dyn FnMut(usize, usize, Left)>,
) -> Vec<SlotChoice> {
    let mut diversity = Diversity::new();
    let mut answer = Vec::with_capacity(contests.len());
    let mut order: Vec<(Tier, &Judgement)> = Vec::new();
    for (index, contest) in contests.iter().enumerate() {
        let mut choice = SlotChoice::default();
        diversity.next_slot();
        order.clear();
        for judged in contest.ranking.unwrap_or_default() {
            if contest.candidates.binary_search(&judged.offer).is_err() {
                continue;
            }
            if judged.eligible {
                order.push((constraints.tier(judged.offer), judged));
            } else if let Some(left) = &mut left {
                left(index, judged.offer, Left::Plugin);
            }
        }
        if let (None, Some(left)) = (contest.ranking, &mut left) {
            contest.candidates.iter().for_each(|offer| left(index, *offer, Left::Unranked));
        }
        order.sort_unstable_by(|(tier, judged), (other, than)| {
            other.cmp(tier).then(than.priority.total_cmp(&judged.priority)).then(judged.offer.cmp(&than.offer))
        });
        for (_, judged) in &order {
            let category = constraints.category(judged.offer);
            let full = choice.offers.len() >= contest.count;
            let why = if diversity.holds(judged.offer) {
                Left::OtherSlot
            } else if full {
                Left::Outranked
            } else if !diversity.has_room(category, contest.per_category) {
                Left::Diversity
            } else if let Err(why) = constraints.check(judged.offer) {
                why
            } else {
                diversity.take(judged.offer, category);
                constraints.take(judged.offer);
                choice.offers.push(**judged);
                continue;
            };
            match &mut left {
                Some(left) => left(index, judged.offer, why),
                None if full => break,
                None => {}
            }
        }
        answer.push(choice);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At most `most` in all; offers by position: 3 is mandatory, 4 a service message that needs no room.
    struct Few {
        most: usize,
    }

    impl Constraints for Few {
        fn tier(&self, offer: usize) -> Tier {
            match offer {
                3 => Tier::Mandatory,
                4 => Tier::Transactional,
                _ => Tier::Ranked,
            }
        }

        fn category(&self, offer: usize) -> Option<usize> {
            [Some(0), Some(0), Some(1), None, None].get(offer).copied().flatten()
        }

        fn check(&mut self, offer: usize) -> Result<(), Left> {
            if offer == 4 || self.most > 0 { Ok(()) } else { Err(Left::OutOfStock) }
        }

        fn take(&mut self, offer: usize) {
            self.most -= usize::from(offer != 4);
        }
    }

    fn judged(offer: usize, priority: f64) -> Judgement {
        Judgement { offer, priority, eligible: true, reason: None }
    }

    /// Of a slot, an offer, and why it left.
    type Told = Vec<(usize, usize, Left)>;

    /// The chosen of each slot, and who left why; the same is chosen where nobody asks who left.
    fn filled(contests: &[Contest<'_>], most: usize) -> (Vec<Vec<usize>>, Told) {
        let mut told = Vec::new();
        let mut tell = |slot: usize, offer: usize, why: Left| told.push((slot, offer, why));
        let answer = fill(contests, &mut Few { most }, Some(&mut tell));
        assert_eq!(fill(contests, &mut Few { most }, None), answer);
        let offers =
            answer.into_iter().map(|choice| choice.offers.iter().map(|judged| judged.offer).collect()).collect();
        (offers, told)
    }

    #[test]
    fn who_must_come_first_does_and_everyone_else_hears_why_not() {
        let ranking =
            [judged(0, 9.0), judged(1, 9.0), judged(2, 3.0), judged(3, 0.0), judged(4, -1.0), judged(9, 100.0)];
        let contest = Contest { candidates: &[0, 1, 2, 3, 4], count: 3, per_category: None, ranking: Some(&ranking) };
        let (offers, told) = filled(&[contest], 9);
        assert_eq!(offers, [[4, 3, 0]]);
        assert_eq!(told, [(0, 1, Left::Outranked), (0, 2, Left::Outranked)]);
        let few = Contest { count: 5, per_category: Some(1), ..contest };
        let (offers, told) = filled(&[few, Contest { count: 1, ..contest }], 9);
        assert_eq!(offers, [vec![4, 3, 0, 2], vec![1]]);
        assert_eq!(told[0], (0, 1, Left::Diversity));
        assert!(told[1..].iter().all(|(slot, _, why)| (*slot, *why) == (1, Left::OtherSlot)));
        let (offers, told) = filled(&[Contest { count: 5, ..contest }], 2);
        assert_eq!(offers, [[4, 3, 0]], "the mandatory one is held to it too");
        assert_eq!(told, [(0, 1, Left::OutOfStock), (0, 2, Left::OutOfStock)]);
    }

    #[test]
    fn what_was_not_ranked_is_said() {
        let ranking = [Judgement { eligible: false, ..judged(0, 1.0) }];
        let contest = Contest { candidates: &[0, 1], count: 1, per_category: None, ranking: Some(&ranking) };
        let (offers, told) = filled(&[contest, Contest { ranking: None, ..contest }], 9);
        assert_eq!(offers, [[0_usize; 0]; 2]);
        let unranked = Left::Unranked;
        assert_eq!(told, [(0, 0, Left::Plugin), (1, 0, unranked), (1, 1, unranked)]);
    }
}
