//! Running a program on one event. Nothing is parsed and nothing allocated but the answer; recursion is as deep as an expression is.

use selvedge_guest::Decimal;
use selvedge_guest::bindings::{Columns, Contributions, Failure};

use crate::program::{Ask, Column, Node, NodeId, Order, Program, Source};

/// What stands for "no key".
const NO_KEY: u32 = u32::MAX;

/// A number that does not fit: the whole event is rejected.
struct Overflow;

/// A value, or nothing where a field that it is made of is missing.
type Outcome<T> = Result<Option<T>, Overflow>;

/// What an event contributes to all aggregates.
pub fn observe(program: &Program, event: &Columns) -> Result<Contributions, Failure> {
    let mut run = Run { program, columns: event, lists: Vec::new(), element: 0 };
    run.lists = run.places();
    let sources = run.sources();
    let contributions = sources.iter().map(|source| run.rows(&program.sources[usize::from(*source)])).sum();
    let mut answer = Contributions {
        aggregates: Vec::with_capacity(contributions),
        values: Vec::with_capacity(contributions),
        keys: Vec::with_capacity(contributions),
        skipped: Vec::new(),
    };
    for source in sources {
        let source = &program.sources[usize::from(*source)];
        for element in 0..run.rows(source) {
            run.element = element;
            match run.contribution(source) {
                Ok(Some((value, key))) => {
                    answer.aggregates.push(u32::from(source.aggregate));
                    answer.values.push(value);
                    answer.keys.push(key);
                }
                Ok(None) => {}
                Err(Overflow) => {
                    let name = &program.aggregates[usize::from(source.aggregate)].name;
                    return Err(Failure::Rejected(format!("aggregate {name:?}: a number is out of range")));
                }
            }
        }
    }
    Ok(answer)
}

/// Where the elements of a list column stand.
#[derive(Clone, Copy)]
struct Place {
    /// In its family's list.
    start: usize,
    length: usize,
    /// Among the presence bits.
    bit: usize,
}

struct Run<'a> {
    program: &'a Program,
    columns: &'a Columns,
    /// By list column.
    lists: Vec<Place>,
    /// The element whose contribution is computed.
    element: usize,
}

impl<'a> Run<'a> {
    fn places(&self) -> Vec<Place> {
        let mut bit = usize::from(self.program.scalars);
        let place = |offsets: &[u32]| {
            let (start, end) = (offsets[0] as usize, offsets[1] as usize);
            let place = Place { start, length: end - start, bit };
            bit += place.length;
            place
        };
        self.columns.offsets.chunks_exact(2).map(place).collect()
    }

    /// The sources of this event, by its type where it is no track, else by its name. A code may be that of a text in a condition only.
    fn sources(&self) -> &'a [u16] {
        let by = |dispatch: &'a Option<(Column, Vec<Vec<u16>>)>| {
            let (column, sources) = dispatch.as_ref()?;
            sources.get(self.code(*column)? as usize).filter(|sources| !sources.is_empty())
        };
        let dispatch = &self.program.dispatch;
        by(&dispatch.types).or_else(|| by(&dispatch.names)).map_or(&[], Vec::as_slice)
    }

    /// How often a source may contribute.
    fn rows(&self, source: &Source) -> usize {
        source.each.map_or(1, |list| self.lists.get(usize::from(list)).map_or(0, |place| place.length))
    }

    fn contribution(&self, source: &Source) -> Outcome<(i64, u32)> {
        if let Some(condition) = source.condition
            && self.condition(condition)? != Some(true)
        {
            return Ok(None);
        }
        let value = match source.value {
            Some(value) => self.number(value)?,
            None => Some(0),
        };
        let key = match source.key {
            Some((key, needed)) => self.key(key)?.or((!needed).then_some(NO_KEY)),
            None => Some(NO_KEY),
        };
        Ok(value.zip(key))
    }

    /// The position of a cell in its family's list; none where it is absent.
    #[inline]
    fn cell(&self, column: Column) -> Option<usize> {
        let (bit, index) = match column {
            Column::Scalar { bit, index } => (usize::from(bit), usize::from(index)),
            Column::List(list) => {
                let place = self.lists.get(usize::from(list))?;
                (place.bit + self.element, place.start + self.element)
            }
        };
        let present = self.columns.present.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        present.then_some(index)
    }

    fn code(&self, column: Column) -> Option<u32> {
        self.columns.codes.get(self.cell(column)?).copied()
    }

    fn node(&self, id: NodeId) -> Node {
        self.program.nodes[usize::from(id)]
    }

    /// As in CEL, a missing field is an error, which `&&` and `||` take no notice of where the other side decides.
    fn condition(&self, id: NodeId) -> Outcome<bool> {
        Ok(match self.node(id) {
            Node::Constant(value) => Some(value),
            Node::Flag(column) => self.code(column).map(|code| code != 0),
            Node::Present(column) => Some(self.cell(column).is_some()),
            Node::OneOf { choice, codes, present } => {
                let (start, length) = (usize::from(codes.start), usize::from(codes.length));
                match self.code(choice) {
                    Some(code) => Some(self.program.codes[start..start + length].contains(&code)),
                    None => present.and_then(|column| self.cell(column)).map(|_| false),
                }
            }
            Node::Text { column, ask, text } => self.text(column, ask, &self.program.texts[usize::from(text)]),
            Node::Compare(order, left, right) => {
                let (Some(left), Some(right)) = (self.number(left)?, self.number(right)?) else { return Ok(None) };
                Some(match order {
                    Order::Equal => left == right,
                    Order::Less => left < right,
                    Order::AtMost => left <= right,
                })
            }
            Node::Among(number, numbers) => {
                let (start, length) = (usize::from(numbers.start), usize::from(numbers.length));
                self.number(number)?.map(|number| self.program.numbers[start..start + length].contains(&number))
            }
            Node::Not(inner) => self.condition(inner)?.map(|met| !met),
            Node::And(left, right) => self.both(left, right, false)?,
            Node::Or(left, right) => self.both(left, right, true)?,
            Node::Choose(condition, then, otherwise) => match self.condition(condition)? {
                Some(true) => self.condition(then)?,
                Some(false) => self.condition(otherwise)?,
                None => None,
            },
            _ => None,
        })
    }

    /// Two conditions, of which either decides alone if it is `decisive`.
    fn both(&self, left: NodeId, right: NodeId, decisive: bool) -> Outcome<bool> {
        let left = self.condition(left)?;
        if left == Some(decisive) {
            return Ok(left);
        }
        let right = self.condition(right)?;
        Ok(if right == Some(decisive) { right } else { left.and(right) })
    }

    fn text(&self, column: Column, ask: Ask, part: &str) -> Option<bool> {
        let text = self.columns.texts.get(self.cell(column)?)?;
        Some(match ask {
            Ask::Start => text.starts_with(part),
            Ask::End => text.ends_with(part),
            Ask::Part => text.contains(part),
        })
    }

    fn number(&self, id: NodeId) -> Outcome<i64> {
        let pair = |left, right, apply: fn(i64, i64) -> Option<i64>| {
            let (Some(left), Some(right)) = (self.number(left)?, self.number(right)?) else { return Ok(None) };
            apply(left, right).map(Some).ok_or(Overflow)
        };
        match self.node(id) {
            Node::Number(number) => Ok(Some(self.program.numbers[usize::from(number)])),
            Node::Cell(column) => Ok(self.cell(column).and_then(|index| self.columns.s64s.get(index).copied())),
            Node::Size(list, unit) => {
                let length = self.lists.get(usize::from(list)).map_or(0, |place| place.length);
                let length = i64::try_from(length).map_err(|_| Overflow)?;
                length.checked_mul(self.program.numbers[usize::from(unit)]).map(Some).ok_or(Overflow)
            }
            Node::Negative(inner) => match self.number(inner)? {
                Some(number) => number.checked_neg().map(Some).ok_or(Overflow),
                None => Ok(None),
            },
            Node::Add(left, right) => pair(left, right, i64::checked_add),
            Node::Subtract(left, right) => pair(left, right, i64::checked_sub),
            Node::Multiply(left, right) => pair(left, right, i64::checked_mul),
            Node::MultiplyDecimals(left, right) => {
                pair(left, right, |left, right| Decimal(left).checked_mul(Decimal(right)).map(|product| product.0))
            }
            Node::Choose(condition, then, otherwise) => match self.condition(condition)? {
                Some(true) => self.number(then),
                Some(false) => self.number(otherwise),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn key(&self, id: NodeId) -> Outcome<u32> {
        match self.node(id) {
            Node::Cell(column) => Ok(self.code(column)),
            Node::Choose(condition, then, otherwise) => match self.condition(condition)? {
                Some(true) => self.key(then),
                Some(false) => self.key(otherwise),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}
