//! Aggregates whose state and merge are a plugin's own: the door through which the fold calls them, and the laws that they keep.

use std::fmt;

use crate::value::Kind;

/// Bytes of one state.
pub const STATE_BYTES_MAX: usize = 4096;

/// What a state comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finished {
    /// Nothing.
    Absent,
    /// In the representation of the aggregate's kind.
    Fixed(i64),
    /// A floating-point number.
    Number(f64),
}

/// A plugin gave no answer: it failed, trapped, ran out of fuel, or its state outgrew [`STATE_BYTES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CustomFault(pub String);

/// The functions that a plugin gives its own aggregates, by position in its declarations. They are pure: the same arguments give the same
/// answer; and they keep the laws of [`check_laws`].
pub trait CustomOperators: fmt::Debug + Send + Sync {
    /// The state before any contribution.
    fn init(&self, aggregate: u32) -> Vec<u8>;
    /// A state with one contribution more.
    fn update(&self, aggregate: u32, state: &[u8], key: &str, value: i64) -> Result<Vec<u8>, CustomFault>;
    /// The state of the contributions of all.
    fn merge(&self, aggregate: u32, states: &[&[u8]]) -> Result<Vec<u8>, CustomFault>;
    /// What a state comes to.
    fn finish(&self, aggregate: u32, state: &[u8]) -> Result<Finished, CustomFault>;
}

/// Contributions that are checked at most.
const SAMPLES_MAX: usize = 16;

/// Checks on samples that a plugin's functions keep the laws without which replicas would not agree: `merge` is associative and
/// commutative, `init` is its identity, an update may come before a merge or after it, and a state comes to a value of its kind.
pub fn check_laws(
    operators: &dyn CustomOperators,
    aggregate: u32,
    kind: Kind,
    samples: &[(String, i64)],
) -> Result<(), CustomFault> {
    let broken = |law: &str| Err(CustomFault(format!("{law}; a fold in another order would give another value")));
    if samples.len() < 3 {
        return Err(CustomFault(format!("has {} samples to be checked with; give at least three", samples.len())));
    }
    let samples = &samples[..samples.len().min(SAMPLES_MAX)];
    let merge = |one: &[u8], other: &[u8]| operators.merge(aggregate, &[one, other]);
    let update = |state: &[u8], (key, value): &(String, i64)| operators.update(aggregate, state, key, *value);
    let init = operators.init(aggregate);
    let states = samples.iter().map(|sample| update(&init, sample)).collect::<Result<Vec<_>, _>>()?;
    for (a, sample) in states.iter().zip(samples) {
        if merge(a, &init)? != *a || merge(&init, a)? != *a {
            return broken("merging with the state of init changes a state");
        }
        for b in &states {
            let ab = merge(a, b)?;
            if ab != merge(b, a)? {
                return broken("merge(a, b) is not merge(b, a)");
            }
            if update(b, sample)? != ab {
                return broken("an update is not the merge with the state of that contribution alone");
            }
            for c in &states {
                if merge(&ab, c)? != merge(a, &merge(b, c)?)? {
                    return broken("merge(merge(a, b), c) is not merge(a, merge(b, c))");
                }
            }
        }
    }
    let all: Vec<&[u8]> = states.iter().map(Vec::as_slice).collect();
    let mut one_by_one = init.clone();
    for sample in samples {
        one_by_one = update(&one_by_one, sample)?;
    }
    if operators.merge(aggregate, &all)? != one_by_one {
        return broken("merging many states at once is not merging one after the other");
    }
    for state in states.iter().chain([&init, &one_by_one]) {
        match (operators.finish(aggregate, state)?, kind) {
            (Finished::Number(value), Kind::Number) if value.is_finite() => {}
            (Finished::Number(value), Kind::Number) => {
                return Err(CustomFault(format!("comes to {value}, which is not a finite number")));
            }
            (Finished::Fixed(_), Kind::Number) | (Finished::Number(_), _) => {
                return Err(CustomFault(format!("comes to a value of another kind than {}", kind.name())));
            }
            (Finished::Absent | Finished::Fixed(_), _) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums, broken in one way or none.
    #[derive(Debug)]
    struct Sums(&'static str);

    impl CustomOperators for Sums {
        fn init(&self, _: u32) -> Vec<u8> {
            i64::from(self.0 == "identity").to_be_bytes().into()
        }

        fn update(&self, aggregate: u32, state: &[u8], _: &str, value: i64) -> Result<Vec<u8>, CustomFault> {
            let fresh = *state == self.init(aggregate);
            let value = if self.0 == "update" && !fresh { value + 1 } else { value };
            self.merge(aggregate, &[state, &value.to_be_bytes()])
        }

        fn merge(&self, _: u32, states: &[&[u8]]) -> Result<Vec<u8>, CustomFault> {
            let numbers: Vec<i64> =
                states.iter().filter_map(|state| Some(i64::from_be_bytes((*state).try_into().ok()?))).collect();
            let merged = match self.0 {
                "commutative" => numbers[0] - numbers[1..].iter().sum::<i64>(),
                "associative" => numbers.iter().sum::<i64>() / 2,
                "many" if numbers.len() > 2 => 0,
                _ => numbers.iter().sum(),
            };
            Ok(merged.to_be_bytes().into())
        }

        fn finish(&self, _: u32, _: &[u8]) -> Result<Finished, CustomFault> {
            Ok(if self.0 == "kind" { Finished::Number(f64::NAN) } else { Finished::Fixed(1) })
        }
    }

    #[test]
    fn a_broken_law_is_named() {
        let samples = [1, 2, 5].map(|value| (String::new(), value));
        let check = |broken| check_laws(&Sums(broken), 0, Kind::Integer, &samples);
        assert_eq!(check("nothing"), Ok(()));
        for (broken, part) in [
            ("identity", "init"),
            ("commutative", "init"),
            ("associative", "merge(merge(a, b), c)"),
            ("update", "an update"),
            ("many", "many states"),
            ("kind", "another kind than integer"),
        ] {
            let fault = check(broken).expect_err(broken);
            assert!(fault.0.contains(part), "{broken}: {fault}");
        }
        assert!(
            check_laws(&Sums("nothing"), 0, Kind::Integer, &samples[..2])
                .expect_err("two")
                .0
                .contains("at least three")
        );
    }
}
