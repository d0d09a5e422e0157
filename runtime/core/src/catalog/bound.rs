//! A catalogue bound to the plugins that serve it: its conditions compiled, its scores by position.

use super::{Catalog, CatalogError, Fault, Slot};
use crate::condition::{ConditionId, Conditions, unknown};
use crate::view::Schema;

/// What of a catalogue hangs on the names that plugins define.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// All conditions.
    pub conditions: Conditions,
    /// By position of the offer: its score of propensity, by position in the schema.
    propensities: Vec<Option<usize>>,
    /// By position of the slot: the scores that a decision for it reads, but for those that its ranking reads.
    scores: Vec<Vec<usize>>,
}

impl Bound {
    /// Binds a catalogue. The fault has all that is wrong, each with its place.
    pub fn resolve(catalog: &Catalog, schema: &Schema) -> Result<Self, CatalogError> {
        let mut faults = Vec::new();
        let conditions = Conditions::compile(&catalog.conditions, &catalog.audiences, schema).unwrap_or_else(|error| {
            faults = error.faults;
            Conditions::default()
        });
        let mut propensities = Vec::with_capacity(catalog.offers.len());
        for (index, offer) in catalog.offers.iter().enumerate() {
            let Some(name) = &offer.propensity else {
                propensities.push(None);
                continue;
            };
            let found = schema.score(name);
            if found.is_none() {
                let known = schema.scores.iter().map(|score| score.name.as_str());
                let detail = format!("offer {:?}: {}", offer.id, unknown("score", name, known));
                faults.push(Fault { pointer: format!("/offers/{index}/propensity"), detail });
            }
            propensities.push(found);
        }
        if !faults.is_empty() {
            return Err(CatalogError { faults });
        }
        let mut bound = Self { conditions, propensities, scores: Vec::new() };
        bound.scores = catalog.slots.iter().map(|slot| bound.read_in(catalog, slot)).collect();
        Ok(bound)
    }

    /// The score of an offer's propensity, by position in the schema.
    pub fn propensity(&self, offer: usize) -> Option<usize> {
        self.propensities.get(offer).copied().flatten()
    }

    /// The scores that a decision for a slot reads, by position in the schema, ascending; but for those that its ranking reads.
    pub fn scores(&self, slot: usize) -> &[usize] {
        self.scores.get(slot).map_or(&[], Vec::as_slice)
    }

    fn read_in(&self, catalog: &Catalog, slot: &Slot) -> Vec<usize> {
        let mut ids: Vec<ConditionId> = slot.eligible.into_iter().collect();
        ids.extend(slot.context_weights.iter().filter_map(|weight| weight.when));
        for index in &slot.candidates {
            let offer = &catalog.offers[*index];
            ids.extend(offer.eligible);
            ids.extend(offer.campaign.and_then(|campaign| catalog.campaigns[campaign].eligible));
            ids.extend(offer.audiences.iter().map(|audience| catalog.audiences[*audience].condition));
        }
        ids.sort_unstable();
        ids.dedup();
        let mut scores = self.conditions.scores_of(ids);
        if slot.arbitration.propensity {
            scores.extend(slot.candidates.iter().filter_map(|offer| self.propensity(*offer)));
            scores.sort_unstable();
            scores.dedup();
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::WHOLE;
    use super::*;
    use crate::aggregate::Definitions;
    use crate::time::BusinessTime;
    use crate::view::ScoreName;

    fn schema(scores: &[&str]) -> Schema {
        let definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        let score = |name: &&str| ScoreName { name: (*name).to_owned(), unit: None };
        Schema { definitions, scores: scores.iter().map(score).collect() }
    }

    #[test]
    fn a_decision_for_a_slot_needs_the_scores_of_its_offers() {
        let catalog = Catalog::from_json(WHOLE).expect("a good catalogue");
        let bound =
            Bound::resolve(&catalog, &schema(&["retail.clv", "retail.p_alive"])).expect("scores that are there");
        assert_eq!(bound.propensity(catalog.offer("water-kit").expect("an offer")), Some(1));
        assert_eq!((bound.scores(0), bound.scores(1)), (&[1][..], &[1][..]));
        assert_eq!(bound.propensity(1), None);
    }

    #[test]
    fn names_that_no_plugin_defines_are_faults_with_their_places() {
        let text = WHOLE.replace("trait.tier ==", "score.retail.tier > 1 || trait.tier ==");
        let catalog = Catalog::from_json(&text).expect("a good catalogue, as far as that goes without plugins");
        let faults = Bound::resolve(&catalog, &schema(&["retail.p_alive_"])).map(|_| ()).expect_err("no scores").faults;
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert_eq!(faults[0].pointer, "/audiences/0/condition");
        assert_eq!(faults[1].pointer, "/offers/0/propensity");
        assert!(faults[1].detail.contains("did you mean \"retail.p_alive_\"?"), "{}", faults[1]);
    }
}
