//! Compiled conditions: flat steps whose types are known, and the reads that they share.

use compact_str::CompactString;

use super::ConditionId;
use super::reads::{Read, Source};
use super::syntax::Clock;
use crate::json_paths::JsonPaths;
use crate::time::BusinessTime;

/// A step, by its position.
pub(super) type NodeId = u32;

/// What conditions read, by its position; they share it.
pub type ReadId = u32;

/// A part of a list of constants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn of<T>(self, list: &[T]) -> &[T] {
        list.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    AtMost,
}

/// What is asked of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Start,
    End,
    Part,
}

/// A step. What it gives is known when it is compiled: a truth value, a number, or a text. Instants and durations are numbers of milliseconds. What is
/// missing makes missing what is made of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    /// A truth value.
    Constant(bool),
    /// A read that is true or false.
    Flag(ReadId),
    /// Whether a read is there.
    Present(ReadId),
    Not(NodeId),
    And(NodeId, NodeId),
    Or(NodeId, NodeId),
    /// `condition ? then : otherwise`, of any type.
    Choose(NodeId, NodeId, NodeId),
    Compare(Order, NodeId, NodeId),
    CompareTexts(Order, NodeId, NodeId),
    /// Whether two reads of any type are the same.
    Same(ReadId, ReadId),
    /// Whether a number is one of some.
    Among(NodeId, Span),
    /// Whether a text is one of some, which stand ascending.
    AmongTexts(NodeId, Span),
    /// Whether a number is in a list that is read.
    Within(NodeId, ReadId),
    /// Whether a text is in a list that is read.
    WithinTexts(NodeId, ReadId),
    Text(Ask, NodeId, NodeId),
    /// Whether another condition is met: one that is not sure is not.
    Met(ConditionId),
    /// A number.
    Number(f64),
    /// A read that is a number.
    Read(ReadId),
    /// A read that is an instant, as text.
    Instant(ReadId),
    Negate(NodeId),
    Add(NodeId, NodeId),
    Subtract(NodeId, NodeId),
    Multiply(NodeId, NodeId),
    Divide(NodeId, NodeId),
    Remainder(NodeId, NodeId),
    /// The characters of a text.
    Length(NodeId),
    /// The elements of a list, or the characters of a text, that is read.
    Size(ReadId),
    /// Between two places, each a latitude and a longitude; the position of the four steps.
    Distance(Span),
    /// What a calendar or clock shows, in a zone.
    Clock(Clock, NodeId, u32),
    /// A text.
    Literal(u32),
    /// A read that is a text.
    ReadText(ReadId),
}

/// One compiled condition.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) root: NodeId,
    pub(super) cost: u32,
    /// Ascending.
    pub(super) reads: Vec<ReadId>,
    /// Those that it asks for, ascending.
    pub(super) asks: Vec<ConditionId>,
}

/// All conditions of a catalogue, compiled against the names that plugins define.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    pub(super) compiled: Vec<Compiled>,
    pub(super) nodes: Vec<Node>,
    pub(super) quadruples: Vec<NodeId>,
    pub(super) texts: Vec<CompactString>,
    pub(super) numbers: Vec<f64>,
    /// By position; none: the business's.
    pub(super) zones: Vec<Option<BusinessTime>>,
    pub(super) reads: Vec<Read>,
    /// What is read of a request's context, by the positions of reads.
    pub(super) context: JsonPaths,
    pub(super) scores: Vec<usize>,
    pub(super) entities: Vec<usize>,
}

impl Conditions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// The scores that any of them reads, by position in the schema, ascending.
    pub fn scores(&self) -> &[usize] {
        &self.scores
    }

    /// The scores that some of them read, what their audiences read included; by position in the schema, ascending.
    pub fn scores_of(&self, ids: impl IntoIterator<Item = ConditionId>) -> Vec<usize> {
        let reads = ids.into_iter().flat_map(|id| self.read_ids(id));
        let score = |read: ReadId| match self.reads[read as usize].source {
            Source::Score(index) => Some(index),
            _ => None,
        };
        let mut scores: Vec<usize> = reads.filter_map(score).collect();
        scores.sort_unstable();
        scores.dedup();
        scores
    }

    /// The entities that any of them reads, by position in [`ENTITIES`](crate::identity::ENTITIES), ascending.
    pub fn entities(&self) -> &[usize] {
        &self.entities
    }

    /// What a condition costs at most to evaluate, in steps of about ten nanoseconds; audiences that it names included.
    pub fn cost(&self, id: ConditionId) -> u32 {
        self.compiled.get(id.index()).map_or(0, |compiled| compiled.cost)
    }

    /// What some of them read, each once, by name; what their audiences read included.
    pub fn reads_of(&self, ids: impl IntoIterator<Item = ConditionId>) -> Vec<ReadId> {
        let name = |read: &ReadId| self.reads[*read as usize].name.as_str();
        let mut reads: Vec<ReadId> = ids.into_iter().flat_map(|id| self.read_ids(id)).collect();
        reads.sort_by_key(name);
        reads.dedup_by(|one, other| name(one) == name(other));
        reads
    }

    /// What a condition reads, by position, ascending; what its audiences read included.
    pub(super) fn read_ids(&self, id: ConditionId) -> Vec<ReadId> {
        let (mut asked, mut next, mut reads) = (vec![id], 0, Vec::new());
        while let Some(id) = asked.get(next) {
            next += 1;
            if let Some(compiled) = self.compiled.get(id.index()) {
                reads.extend_from_slice(&compiled.reads);
                let fresh: Vec<_> = compiled.asks.iter().copied().filter(|inner| !asked.contains(inner)).collect();
                asked.extend(fresh);
            }
        }
        reads.sort_unstable();
        reads.dedup();
        reads
    }
}
