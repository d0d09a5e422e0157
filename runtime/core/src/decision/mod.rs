//! Decisions: the choice among ranked candidates, under the constraints that no plugin can bypass.
//!
//! Pure: rankings in, choices out. Knows nothing of plugins, except that somebody judged the candidates. [`choose`] is all that a catalogue without constraints
//! needs; [`fill`] holds each choice to them, and says of every candidate at which step it left ([`Left`]); [`priority`] is the formula by which offers are
//! ranked where no plugin does.

mod fill;
mod left;
pub mod priority;
pub mod screen;

use crate::catalog::Catalog;

pub use self::fill::{Constraints, Contest, Tier, fill};
pub use self::left::{Left, Level, Step};

/// Offers of a slot for which room is made at once: as many as most calls ask for.
const BEST_AT_ONCE: usize = 16;

/// A slot that a call asks to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRequest {
    /// By position in the catalogue.
    pub slot: usize,
    /// How many offers at most.
    pub count: usize,
}

/// What a ranking says of one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The offer, by position in the catalogue.
    pub offer: usize,
    /// Higher is offered first.
    pub priority: f64,
    /// Whether it may be offered at all.
    pub eligible: bool,
    /// Why, by position in the ranking plugin's reasons.
    pub reason: Option<u32>,
}

/// One slot, filled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotChoice {
    /// Best first; empty where the slot shows its fallback.
    pub offers: Vec<Judgement>,
}

/// Fills the slots in the order of the call. An offer stands at most once in an answer.
///
/// `ranking` gives, for a request by position, a judgement on every candidate of its slot (others are passed over), or none where ranking
/// failed and the slot shows its fallback.
pub fn choose<'j>(
    catalog: &Catalog,
    requests: &[SlotRequest],
    ranking: impl Fn(usize) -> Option<&'j [Judgement]>,
) -> Vec<SlotChoice> {
    // With one slot nothing can stand in another.
    let mut taken = if requests.len() > 1 { vec![false; catalog.offers.len()] } else { Vec::new() };
    let mut answer = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        let mut choice = SlotChoice::default();
        if let (Some(slot), Some(ranking)) = (catalog.slots.get(request.slot), ranking(index)) {
            let stands_here = |judged: &&Judgement| {
                judged.eligible
                    && slot.candidates.binary_search(&judged.offer).is_ok()
                    && taken.get(judged.offer) != Some(&true)
            };
            choice.offers = best(ranking.iter().filter(stands_here), request.count);
            for chosen in &choice.offers {
                if let Some(taken) = taken.get_mut(chosen.offer) {
                    *taken = true;
                }
            }
        }
        answer.push(choice);
    }
    answer
}

/// The best of some judgements, best first. Equal priorities stand in the order of the catalogue, so that they always answer alike.
fn best<'j>(judged: impl Iterator<Item = &'j Judgement>, count: usize) -> Vec<Judgement> {
    let mut best: Vec<Judgement> = Vec::with_capacity(count.min(BEST_AT_ONCE) + 1);
    for judged in judged {
        let before = |held: &Judgement| {
            held.priority.total_cmp(&judged.priority).reverse().then(held.offer.cmp(&judged.offer)).is_lt()
        };
        // Most are behind the last one that has a place.
        if best.len() < count || best.last().is_some_and(|last| !before(last)) {
            best.insert(best.partition_point(before), *judged);
            best.truncate(count);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::SAMPLE;

    fn judged(offer: usize, priority: f64, eligible: bool) -> Judgement {
        Judgement { offer, priority, eligible, reason: None }
    }

    fn chosen(requests: &[(usize, usize)], ranking: Option<&[Judgement]>) -> Vec<Vec<usize>> {
        let catalog = Catalog::from_toml(SAMPLE).expect("a good catalogue");
        let requests: Vec<_> =
            requests.iter().map(|(slot, count)| SlotRequest { slot: *slot, count: *count }).collect();
        let answer = choose(&catalog, &requests, |_| ranking);
        answer.into_iter().map(|choice| choice.offers.into_iter().map(|judged| judged.offer).collect()).collect()
    }

    #[test]
    fn the_best_eligible_offers_fill_a_slot_and_ties_follow_the_catalogue() {
        let ranking = [judged(0, 1.0, true), judged(1, 1.0, true), judged(2, 9.0, false)];
        assert_eq!(chosen(&[(0, 1)], Some(&ranking)), [[0]]);
        assert_eq!(chosen(&[(0, 5)], Some(&ranking)), [[0, 1]]);
    }

    #[test]
    fn an_offer_stands_once_in_an_answer_and_only_where_its_slot_allows() {
        let ranking = [judged(0, 3.0, true), judged(1, 2.0, true), judged(2, 1.0, true)];
        assert_eq!(chosen(&[(0, 1), (1, 4), (0, 4)], Some(&ranking)), [vec![0], vec![], vec![1, 2]]);
        assert_eq!(chosen(&[(1, 4)], Some(&ranking)), [[0]]);
    }

    #[test]
    fn without_a_ranking_the_slot_is_left_to_its_fallback() {
        assert_eq!(chosen(&[(0, 1)], None), [Vec::<usize>::new()]);
    }
}
