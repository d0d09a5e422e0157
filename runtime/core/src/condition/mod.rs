//! Conditions: what must hold of a visitor and the moment, as expressions in CEL.
//!
//! Three steps. [`Expression::parse`] takes the text and finds what is wrong with it as such. [`Conditions::compile`], given the names that plugins define, works
//! out the types, what is read, and what it costs at most. [`Evaluation`] answers for one visitor at one instant; each condition and each read is worked out at most
//! once in it, however many offers ask.
//!
//! Three-valued: a value that is missing (nobody said it, or it is of another type than it is used as) makes missing whatever is made of it, but for `&&` and `||` where
//! the other side decides, and a condition that comes to nothing is not met. So `trait.plan != "gold"` does not hold of somebody without a plan, and neither does
//! `!(trait.plan == "gold")`; `has(trait.plan)` asks. Nothing that is missing is ever an error.
//!
//! Numbers are binary doubles, for reading only: an amount of an aggregate equals the same amount as written up to nine billion, sums of such may not.

mod cell;
mod compile;
mod expression;
mod program;
mod reads;
mod run;
mod syntax;

use std::sync::Arc;

pub use self::expression::Expression;
pub use self::program::{Conditions, ReadId};
pub(crate) use self::reads::unknown;
pub use self::run::Evaluation;

/// A condition of a catalogue, by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConditionId(pub u32);

impl ConditionId {
    /// The position.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A condition as it stands in a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Where it stands first, as a JSON pointer.
    pub pointer: String,
    /// What it stands at, for people: `offer "rose"`.
    pub label: String,
    /// What it says.
    pub expression: Arc<Expression>,
}

#[cfg(test)]
mod tests;
