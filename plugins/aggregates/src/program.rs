//! The compiled definitions: plain data that a snapshot keeps.

use selvedge_guest::bindings::{Aggregate, Description, Kind, Read};
use serde::{Deserialize, Serialize};

/// Where a declared read stands in the columns of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Column {
    /// A scalar: its presence bit, and its position in its family's list.
    Scalar {
        /// Counted over all scalar columns.
        bit: u16,
        /// Counted over those of its family.
        index: u16,
    },
    /// A list: its position among all list columns.
    List(u16),
}

/// A node of an expression, by its position.
pub type NodeId = u16;

/// A part of a list of constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its first entry.
    pub start: u16,
    /// The number of its entries.
    pub length: u16,
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// `==`
    Equal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
}

/// What is asked of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// `startsWith`
    Start,
    /// `endsWith`
    End,
    /// `contains`
    Part,
}

/// A step of an expression. What it gives is known when it is compiled: a truth value, a number (scaled by 10⁶ where it is a decimal), or
/// the handle of a key. Anything that is missing makes missing what is made of it, as an error does in CEL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// A truth value.
    Constant(bool),
    /// The truth value of a flag.
    Flag(Column),
    /// Whether a cell is there.
    Present(Column),
    /// Whether a text is one of some choices, by their codes. A text that is no choice at all is one that only `present` sees; without
    /// it such a text counts as missing, which makes no difference where neither is met.
    OneOf {
        /// Its code.
        choice: Column,
        /// Of `Program::codes`.
        codes: Span,
        /// Whether it is there at all.
        present: Option<Column>,
    },
    /// Whether a text starts with, ends with or contains another.
    Text {
        /// The text.
        column: Column,
        /// What is asked.
        ask: Ask,
        /// In `Program::texts`.
        text: u16,
    },
    /// A comparison of two numbers.
    Compare(Order, NodeId, NodeId),
    /// Whether a number is one of some, of `Program::numbers`.
    Among(NodeId, Span),
    /// `!`
    Not(NodeId),
    /// `&&`
    And(NodeId, NodeId),
    /// `||`
    Or(NodeId, NodeId),
    /// `condition ? then : otherwise`, of any type.
    Choose(NodeId, NodeId, NodeId),
    /// A number, in `Program::numbers`.
    Number(u16),
    /// A cell: an amount, an instant, or the handle of a key.
    Cell(Column),
    /// The number of elements of a list, times a unit in `Program::numbers`.
    Size(u16, u16),
    /// `-`
    Negative(NodeId),
    /// `+`
    Add(NodeId, NodeId),
    /// `-`
    Subtract(NodeId, NodeId),
    /// `*` of decimals, half to even.
    MultiplyDecimals(NodeId, NodeId),
    /// `*` of integers.
    Multiply(NodeId, NodeId),
}

/// What one source of an aggregate contributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The aggregate's position.
    pub aggregate: u16,
    /// Where there is one: nothing is contributed unless it is met.
    pub condition: Option<NodeId>,
    /// Where there is one: nothing is contributed where it is missing.
    pub value: Option<NodeId>,
    /// Where there is one, and whether nothing is contributed where it is missing.
    pub key: Option<(NodeId, bool)>,
    /// A list column of the list of which each element contributes; none where the event does.
    pub each: Option<u16>,
}

/// Which sources an event has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The event's type and, by its code, the sources; where anything but tracks is observed.
    pub types: Option<(Column, Vec<Vec<u16>>)>,
    /// A track's name and, by its code, the sources.
    pub names: Option<(Column, Vec<Vec<u16>>)>,
}

/// A declared read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// As the host knows it.
    pub path: String,
    /// By its number in [`KINDS`].
    pub kind: u8,
    /// Of a choice.
    pub choices: Vec<String>,
}

/// A defined aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // as in wit/plugin.wit
pub struct Defined {
    pub name: String,
    pub operator: String,
    pub parameters: Vec<(String, String)>,
    pub windows: Vec<String>,
    /// By its number in [`KINDS`].
    pub kind: u8,
    pub unit: Option<String>,
}

/// All definitions. What an event needs comes first, so that it lies together in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The number of scalar columns.
    pub scalars: u16,
    /// Which sources an event has.
    pub dispatch: Dispatch,
    /// All sources.
    pub sources: Vec<Source>,
    /// All nodes of all expressions.
    pub nodes: Vec<Node>,
    /// Numbers in expressions.
    pub numbers: Vec<i64>,
    /// Codes of choices in expressions.
    pub codes: Vec<u32>,
    /// Texts in expressions.
    pub texts: Vec<String>,
    /// The aggregates.
    pub aggregates: Vec<Defined>,
    /// The columns.
    pub reads: Vec<Declared>,
    /// The events.
    pub events: Vec<String>,
}

/// Kinds by number.
const KINDS: [Kind; 9] = [
    Kind::Number,
    Kind::Integer,
    Kind::Decimal,
    Kind::Instant,
    Kind::Day,
    Kind::Flag,
    Kind::Choice,
    Kind::Key,
    Kind::Text,
];

/// The number of a kind.
pub fn number_of(kind: Kind) -> u8 {
    kind as u8
}

fn kind_of(number: u8) -> Kind {
    KINDS.get(usize::from(number)).copied().unwrap_or(Kind::Text)
}

impl Program {
    /// As bytes, to be kept.
    pub fn keep(&self) -> Result<Vec<u8>, String> {
        postcard::to_allocvec(self).map_err(|error| format!("the definitions cannot be kept: {error}"))
    }

    /// From the bytes that [`keep`](Self::keep) gave.
    pub fn restored(kept: &[u8]) -> Self {
        postcard::from_bytes(kept).expect("this very plugin wrote it when it was configured")
    }

    /// What the plugin says of itself.
    pub fn describe(&self) -> Description {
        let mut description = selvedge_guest::description::named(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        description.observes = self.events.clone();
        let read = |Declared { path, kind, choices }: &Declared| Read {
            path: path.clone(),
            kind: kind_of(*kind),
            choices: choices.clone(),
        };
        description.event_reads = self.reads.iter().map(read).collect();
        let aggregate = |defined: &Defined| Aggregate {
            name: defined.name.clone(),
            operator: defined.operator.clone(),
            parameters: defined.parameters.clone(),
            windows: defined.windows.clone(),
            kind: kind_of(defined.kind),
            unit: defined.unit.clone(),
        };
        description.aggregates = self.aggregates.iter().map(aggregate).collect();
        description
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_keep_their_numbers() {
        assert!(KINDS.iter().enumerate().all(|(number, kind)| usize::from(number_of(*kind)) == number));
    }

    #[test]
    fn a_program_survives_being_kept() {
        let program = Program { nodes: vec![Node::Number(7)], events: vec!["a".into()], ..Program::default() };
        let kept = program.keep().unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(Program::restored(&kept), program);
    }
}
