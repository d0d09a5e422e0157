//! Operators of a plugin's own: aggregates whose state and merge no built-in operator has.

use crate::bindings::{CustomSample, CustomValue, Failure, Kind};

/// What a state comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finished {
    /// Nothing.
    Absent,
    /// In the representation of [`CustomOperator::KIND`]: a count, units of 10⁻⁶, or milliseconds.
    Fixed(i64),
    /// Of the kind number.
    Number(f64),
}

/// An operator of the plugin's own; the type is its state. A field [`Custom<Self>`](crate::outputs::Custom) is an aggregate with it.
///
/// Merging must be associative and commutative with [`init`](Self::init) as its identity, an update must be the merge with the state of that
/// contribution alone, and equal states must encode to equal bytes: only then do replicas that see events in another order agree.
/// The feature `testing` checks that on the samples, and so does the host when it loads the plugin.
pub trait CustomOperator: Sized {
    /// The type of the value; contributions have it too, those of a number are decimals.
    const KIND: Kind;
    /// Contributions (key, value) to check the laws with: at least three, unlike each other.
    const SAMPLES: &'static [(&'static str, i64)];

    /// The state before any contribution.
    fn init() -> Self;
    /// Takes in a contribution; the key is empty where there is none.
    fn update(&mut self, key: &str, value: i64);
    /// Takes in another state.
    fn merge(&mut self, other: Self);
    /// What it comes to.
    fn finish(&self) -> Finished;
    /// Its bytes, at most 4 KiB.
    fn encode(&self) -> Vec<u8>;
    /// The state of these bytes; none where they are not of one.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// A state's bytes, or why there are none.
type Encoded = Result<Vec<u8>, Failure>;

/// The functions of one operator, as the host calls them.
#[derive(Clone, Copy)]
#[doc(hidden)]
pub struct Functions {
    pub init: fn() -> Vec<u8>,
    pub update: fn(&[u8], &str, i64) -> Encoded,
    pub merge: fn(&[Vec<u8>]) -> Encoded,
    pub finish: fn(&[u8]) -> Result<CustomValue, Failure>,
    pub samples: fn() -> Vec<CustomSample>,
}

impl Functions {
    /// Those of an operator.
    pub fn of<O: CustomOperator>() -> Self {
        Self {
            init: || O::init().encode(),
            update: update::<O>,
            merge: merge::<O>,
            finish: finish::<O>,
            samples: samples::<O>,
        }
    }
}

fn decode<O: CustomOperator>(state: &[u8]) -> Result<O, Failure> {
    O::decode(state).ok_or_else(|| Failure::Internal("these bytes are no state of this operator".into()))
}

fn update<O: CustomOperator>(state: &[u8], key: &str, value: i64) -> Encoded {
    let mut state: O = decode(state)?;
    state.update(key, value);
    Ok(state.encode())
}

fn merge<O: CustomOperator>(states: &[Vec<u8>]) -> Encoded {
    let mut merged = O::init();
    for state in states {
        merged.merge(decode(state)?);
    }
    Ok(merged.encode())
}

fn finish<O: CustomOperator>(state: &[u8]) -> Result<CustomValue, Failure> {
    Ok(match decode::<O>(state)?.finish() {
        Finished::Absent => CustomValue::Absent,
        Finished::Fixed(value) => CustomValue::Fixed(value),
        Finished::Number(value) => CustomValue::Number(value),
    })
}

fn samples<O: CustomOperator>() -> Vec<CustomSample> {
    O::SAMPLES.iter().map(|(key, value)| CustomSample { key: (*key).into(), value: *value }).collect()
}
