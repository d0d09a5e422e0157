//! What a stage may answer: the checks between a plugin's output and the domain.
//!
//! Shared by the plugin host and by the SDK's native tests, so that a plugin meets the same rules in both. Nothing is taken from an
//! answer in which anything is wrong.

use crate::aggregate::{Contribution, Definition};
use crate::columns::Keys;
use crate::decision::Judgement;
use crate::effects::Effects;

/// An answer that the contract does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOutput(pub String);

/// Contributions that an event may make, and more for each element of its lists.
const CONTRIBUTIONS_MAX: usize = 256;
const CONTRIBUTIONS_PER_ELEMENT_MAX: usize = 16;

/// What one event contributes, as the plugin answers it; field by field in `wit/aggregates.wit`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Contributions {
    pub aggregates: Vec<u32>,
    pub values: Vec<i64>,
    pub keys: Vec<u32>,
    pub skipped: Vec<u32>,
}

/// A judgement on every candidate, as the plugin answers it; field by field in `wit/offers.wit`.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Ranking {
    pub priorities: Vec<f64>,
    pub eligible: Vec<bool>,
    pub reasons: Vec<u32>,
}

/// Where a declared aggregate's contributions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The aggregate's name.
    name: String,
    /// The position of its stored state; none for a derived aggregate.
    state: Option<u16>,
    key: KeyUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyUse {
    Needed,
    Optional,
    None,
}

impl Destination {
    /// Whether contributions to it are stored.
    pub fn stored(&self) -> bool {
        self.state.is_some()
    }
}

/// Where the contributions of each declared aggregate go, given the positions of their states.
pub fn destinations(definitions: &[Definition], states: Vec<Option<u16>>) -> Vec<Destination> {
    let key = |definition: &Definition| match (definition.operator.keyed(), definition.operator.takes_key()) {
        (true, _) => KeyUse::Needed,
        (false, true) => KeyUse::Optional,
        (false, false) => KeyUse::None,
    };
    let destination = |(definition, state): (&Definition, Option<u16>)| Destination {
        name: definition.name.clone(),
        state,
        key: key(definition),
    };
    definitions.iter().zip(states).map(destination).collect()
}

impl Contributions {
    /// Adds what an event contributes to its effects. Gives the positions of the reasons for which it was passed over.
    ///
    /// `elements` is the number of list elements that the event brought, `skips` the number of declared reasons.
    pub fn accept(
        self,
        destinations: &[Destination],
        skips: usize,
        keys: &Keys,
        elements: usize,
        effects: &mut Effects,
    ) -> Result<Vec<usize>, BadOutput> {
        let Self { aggregates, values, keys: handles, skipped } = self;
        let bad = |detail: String| Err(BadOutput(detail));
        if aggregates.len() != values.len() || aggregates.len() != handles.len() {
            return bad(format!("{} aggregates, {} values, {} keys", aggregates.len(), values.len(), handles.len()));
        }
        let bound = CONTRIBUTIONS_MAX + CONTRIBUTIONS_PER_ELEMENT_MAX * elements;
        if aggregates.len() > bound {
            return bad(format!("{} contributions of one event; at most {bound} fit it", aggregates.len()));
        }
        if let Some(unknown) = skipped.iter().find(|reason| **reason as usize >= skips) {
            return bad(format!("unknown skip {unknown}"));
        }
        let before = effects.contributions.len();
        for ((aggregate, value), handle) in aggregates.into_iter().zip(values).zip(handles) {
            let key = keys.get(handle);
            let fault = match destinations.get(aggregate as usize) {
                None => format!("unknown aggregate {aggregate}"),
                Some(Destination { name, state: None, .. }) => {
                    format!("aggregate {name:?} is derived; it takes no contributions")
                }
                Some(Destination { name, key: KeyUse::Needed, .. }) if key.is_none() => {
                    format!("aggregate {name:?} needs a key")
                }
                Some(Destination { name, .. }) if key.is_none() && handle != Keys::NONE => {
                    format!("aggregate {name:?} has the unknown key {handle}")
                }
                Some(Destination { state: Some(state), key: used, .. }) => {
                    let key = key.filter(|_| *used != KeyUse::None).cloned().unwrap_or_default();
                    effects.contributions.push(Contribution { state: *state, key, value });
                    continue;
                }
            };
            effects.contributions.truncate(before);
            return bad(fault);
        }
        Ok(skipped.into_iter().map(|reason| reason as usize).collect())
    }
}

/// Checks scores against the number that is declared.
pub fn accept_scores(values: Vec<Option<f64>>, declared: usize) -> Result<Vec<Option<f64>>, BadOutput> {
    if values.len() != declared {
        return Err(BadOutput(format!("{} scores; {declared} are declared", values.len())));
    }
    if values.iter().flatten().any(|value| !value.is_finite()) {
        return Err(BadOutput("a score is not a finite number".into()));
    }
    Ok(values)
}

impl Ranking {
    /// One judgement for each candidate, in their order; `reasons` is the number of declared ones.
    pub fn accept(&self, candidates: &[usize], reasons: usize) -> Result<Vec<Judgement>, BadOutput> {
        let Self { priorities, eligible, reasons: given } = self;
        let lengths = [priorities.len(), eligible.len(), given.len()];
        if lengths != [candidates.len(); 3] {
            return Err(BadOutput(format!("judgements of lengths {lengths:?} on {} candidates", candidates.len())));
        }
        // As many as there are candidates: what may fail would not say so beforehand.
        let mut judged = Vec::with_capacity(candidates.len());
        for (((offer, priority), eligible), reason) in candidates.iter().zip(priorities).zip(eligible).zip(given) {
            if !priority.is_finite() {
                return Err(BadOutput("a priority is not a finite number".into()));
            }
            if *reason != Keys::NONE && *reason as usize >= reasons {
                return Err(BadOutput(format!("unknown reason {reason}")));
            }
            let reason = (*reason != Keys::NONE).then_some(*reason);
            judged.push(Judgement { offer: *offer, priority: *priority, eligible: *eligible, reason });
        }
        Ok(judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Kind;

    fn accept(contributed: &Contributions) -> Result<Effects, String> {
        let define = |name, operator, parameters: &[(String, String)], kind| {
            Definition::parse(name, operator, parameters, &[], kind, None).expect("a good definition")
        };
        let top = [("of".to_owned(), "units".to_owned()), ("count".to_owned(), "3".to_owned())];
        let definitions = [
            define("total", "sum", &[], Kind::Integer),
            define("units", "sum-by-key", &[], Kind::Integer),
            define("top", "top", &top, Kind::Integer),
        ];
        let destinations = destinations(&definitions, vec![Some(0), Some(1), None]);
        let (mut keys, mut effects) = (Keys::default(), Effects::default());
        keys.intern("a");
        contributed.clone().accept(&destinations, 1, &keys, 0, &mut effects).map_err(|error| error.0)?;
        Ok(effects)
    }

    #[test]
    fn contributions_are_taken_whole_or_not_at_all() {
        let none = Keys::NONE;
        let good = Contributions { aggregates: vec![0, 1], values: vec![5, 2], keys: vec![none, 0], skipped: vec![] };
        let effects = accept(&good).expect("good contributions");
        assert_eq!(effects.contributions[1], Contribution { state: 1, key: "a".into(), value: 2 });
        let fault = |change: &dyn Fn(&mut Contributions)| -> String {
            let mut bad = good.clone();
            change(&mut bad);
            accept(&bad).expect_err("bad contributions")
        };
        assert!(fault(&|bad| bad.keys[1] = none).contains("needs a key"));
        assert!(fault(&|bad| bad.keys[0] = 7).contains("unknown key 7"));
        assert!(fault(&|bad| bad.aggregates[0] = 9).contains("unknown aggregate 9"));
        assert!(fault(&|bad| bad.aggregates[0] = 2).contains("derived"));
        assert!(fault(&|bad| bad.values.truncate(1)).contains("1 values"));
        assert!(fault(&|bad| bad.skipped = vec![1]).contains("unknown skip 1"));
        let many = |count: usize| Contributions {
            aggregates: vec![0; count],
            values: vec![1; count],
            keys: vec![none; count],
            skipped: vec![],
        };
        assert!(accept(&many(CONTRIBUTIONS_MAX)).is_ok());
        assert!(accept(&many(CONTRIBUTIONS_MAX + 1)).expect_err("too many").contains("at most 256"));
    }

    #[test]
    fn rankings_and_scores_are_finite_and_complete() {
        let ranking = |priorities: &[f64], reasons: &[u32]| Ranking {
            priorities: priorities.to_vec(),
            eligible: vec![true; priorities.len()],
            reasons: reasons.to_vec(),
        };
        let accept = |ranking: Ranking| ranking.accept(&[4, 7], 1).map_err(|error| error.0);
        let judged = accept(ranking(&[1.0, 2.0], &[0, Keys::NONE])).expect("a good ranking");
        assert_eq!((judged[1].offer, judged[0].reason, judged[1].reason), (7, Some(0), None));
        assert!(accept(ranking(&[1.0], &[0])).is_err());
        assert!(accept(ranking(&[1.0, f64::NAN], &[0, 0])).expect_err("NaN").contains("finite"));
        assert!(accept(ranking(&[1.0, 2.0], &[0, 1])).expect_err("reason").contains("unknown reason 1"));
        assert!(accept_scores(vec![None, Some(f64::INFINITY)], 2).is_err());
        assert!(accept_scores(vec![None], 2).is_err());
    }
}
