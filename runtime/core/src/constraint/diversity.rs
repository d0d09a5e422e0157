//! Diversity: how many offers of one category an answer may hold in a slot, and no offer twice in an answer.

/// What stands in an answer so far.
#[derive(Clone, Debug, Default)]
pub struct Diversity {
    /// Offers, by position.
    taken: Vec<usize>,
    /// Of the slot at hand: categories by position, and how many of each stand in it.
    categories: Vec<(usize, usize)>,
}

impl Diversity {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on to the next slot.
    pub fn next_slot(&mut self) {
        self.categories.clear();
    }

    /// Whether an offer stands in the answer.
    pub fn holds(&self, offer: usize) -> bool {
        self.taken.contains(&offer)
    }

    /// Whether the slot has room for another of a category, at most `most` of one.
    pub fn has_room(&self, category: Option<usize>, most: Option<usize>) -> bool {
        let (Some(category), Some(most)) = (category, most) else { return true };
        self.categories.iter().find(|(of, _)| *of == category).map_or(0, |(_, count)| *count) < most
    }

    /// Puts an offer into the slot.
    pub fn take(&mut self, offer: usize, category: Option<usize>) {
        self.taken.push(offer);
        let Some(category) = category else { return };
        match self.categories.iter_mut().find(|(of, _)| *of == category) {
            Some((_, count)) => *count += 1,
            None => self.categories.push((category, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_a_category_in_a_slot_and_no_offer_twice_in_an_answer() {
        let mut diversity = Diversity::new();
        diversity.take(1, Some(0));
        diversity.take(2, Some(0));
        diversity.take(3, None);
        assert!(diversity.holds(1) && !diversity.holds(4));
        assert!(!diversity.has_room(Some(0), Some(2)) && diversity.has_room(Some(0), Some(3)));
        assert!(
            diversity.has_room(Some(0), None)
                && diversity.has_room(None, Some(1))
                && diversity.has_room(Some(1), Some(1))
        );
        diversity.next_slot();
        assert!(diversity.holds(1) && diversity.has_room(Some(0), Some(1)));
    }
}
