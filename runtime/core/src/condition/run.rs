//! Evaluation: what conditions come to for one visitor at one instant.
//!
//! Recursion is as deep as an expression and its audiences are, which is bounded. Numbers and truth values allocate nothing; what is read is read once.

use std::cell::{Cell as Slot, OnceCell};

use serde_json::value::RawValue;

use super::ConditionId;
use super::cell::Cell;
use super::program::{Ask, Conditions, Node, NodeId, Order, ReadId, Span};
use super::reads::Source;
use super::syntax::Clock;
use crate::aggregate::{Definitions, Number, Value, Weight};
use crate::fragment::Fragment;
use crate::json_paths::{JsonPaths, Sink};
use crate::value::{Decimal, Kind, Timestamp};
use crate::view::Subject;

/// Mean radius of the earth, in kilometres.
const EARTH_KM: f64 = 6_371.008_8;

/// What is known of a condition.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Met {
    #[default]
    Unasked,
    No,
    Yes,
}

/// The conditions of a catalogue, asked of one visitor at one instant.
pub struct Evaluation<'e> {
    conditions: &'e Conditions,
    definitions: &'e Definitions,
    subject: Subject<'e>,
    met: Vec<Slot<Met>>,
    cells: Vec<OnceCell<Cell<'e>>>,
    /// What the request's context has, by the positions of reads.
    context: OnceCell<Vec<Cell<'e>>>,
}

impl<'e> Evaluation<'e> {
    /// Nothing asked yet. Scores that conditions read must be in the subject.
    pub fn new(conditions: &'e Conditions, definitions: &'e Definitions, subject: Subject<'e>) -> Self {
        Self {
            conditions,
            definitions,
            subject,
            met: vec![Slot::default(); conditions.len()],
            cells: vec![OnceCell::new(); conditions.reads.len()],
            context: OnceCell::new(),
        }
    }

    /// Whether a condition is met.
    #[inline]
    pub fn met(&self, id: ConditionId) -> bool {
        match self.met.get(id.index()).map(Slot::get) {
            Some(Met::Yes) => true,
            Some(Met::Unasked) => self.ask(id),
            _ => false,
        }
    }

    fn ask(&self, id: ConditionId) -> bool {
        let compiled = &self.conditions.compiled[id.index()];
        let met = self.truth(compiled.root) == Some(true);
        self.met[id.index()].set(if met { Met::Yes } else { Met::No });
        met
    }

    /// A read as it would be written, and what it says, as JSON.
    pub fn input(&self, read: ReadId) -> (&'e str, String) {
        (self.conditions.reads[read as usize].name.as_str(), self.shown(read))
    }

    /// A read as JSON; instants as RFC 3339.
    fn shown(&self, read: ReadId) -> String {
        use super::reads::Type;
        match (self.cell(read), self.conditions.reads[read as usize].of) {
            (Cell::Number(at), Type::Instant) => format!("\"{}\"", Timestamp(*at as i64)),
            (cell, _) => cell.to_json(),
        }
    }

    #[inline]
    fn node(&self, id: NodeId) -> Node {
        self.conditions.nodes[id as usize]
    }

    fn truth(&self, id: NodeId) -> Option<bool> {
        match self.node(id) {
            Node::Constant(value) => Some(value),
            Node::Flag(read) => self.cell(read).flag(),
            Node::Present(read) => Some(*self.cell(read) != Cell::Missing),
            Node::Not(inner) => self.truth(inner).map(|met| !met),
            Node::And(left, right) => self.both(left, right, false),
            Node::Or(left, right) => self.both(left, right, true),
            Node::Choose(condition, then, otherwise) => {
                if self.truth(condition)? {
                    self.truth(then)
                } else {
                    self.truth(otherwise)
                }
            }
            Node::Compare(order, left, right) => {
                let (left, right) = (self.number(left)?, self.number(right)?);
                Some(match order {
                    Order::Equal => left == right,
                    Order::Less => left < right,
                    Order::AtMost => left <= right,
                })
            }
            Node::CompareTexts(order, left, right) => {
                let (left, right) = (self.text(left)?, self.text(right)?);
                Some(match order {
                    Order::Equal => left == right,
                    Order::Less => left < right,
                    Order::AtMost => left <= right,
                })
            }
            Node::Same(one, other) => self.cell(one).same(self.cell(other)),
            Node::Among(number, numbers) => {
                let number = self.number(number)?;
                Some(numbers.of(&self.conditions.numbers).contains(&number))
            }
            Node::AmongTexts(text, texts) => {
                let text = self.text(text)?;
                let texts = texts.of(&self.conditions.texts);
                Some(texts.binary_search_by(|known| known.as_str().cmp(text)).is_ok())
            }
            Node::Within(number, list) => {
                let (number, elements) = (self.number(number)?, self.cell(list).elements()?);
                Some(elements.iter().any(|element| element.number() == Some(number)))
            }
            Node::WithinTexts(text, list) => {
                let (text, elements) = (self.text(text)?, self.cell(list).elements()?);
                Some(elements.iter().any(|element| element.text() == Some(text)))
            }
            Node::Text(ask, text, part) => {
                let (text, part) = (self.text(text)?, self.text(part)?);
                Some(match ask {
                    Ask::Start => text.starts_with(part),
                    Ask::End => text.ends_with(part),
                    Ask::Part => text.contains(part),
                })
            }
            Node::Met(id) => Some(self.met(id)),
            _ => None,
        }
    }

    /// Two conditions, of which either decides alone if it is `decisive`.
    fn both(&self, left: NodeId, right: NodeId, decisive: bool) -> Option<bool> {
        let left = self.truth(left);
        if left == Some(decisive) {
            return left;
        }
        let right = self.truth(right);
        if right == Some(decisive) { right } else { left.and(right) }
    }

    fn number(&self, id: NodeId) -> Option<f64> {
        let finite = |number: f64| Some(number).filter(|number| number.is_finite());
        match self.node(id) {
            Node::Number(number) => Some(number),
            Node::Read(read) => self.cell(read).number(),
            Node::Instant(read) => self.cell(read).instant(),
            Node::Choose(condition, then, otherwise) => {
                if self.truth(condition)? {
                    self.number(then)
                } else {
                    self.number(otherwise)
                }
            }
            Node::Negate(inner) => self.number(inner).map(|number| -number),
            Node::Add(left, right) => finite(self.number(left)? + self.number(right)?),
            Node::Subtract(left, right) => finite(self.number(left)? - self.number(right)?),
            Node::Multiply(left, right) => finite(self.number(left)? * self.number(right)?),
            Node::Divide(left, right) => finite(self.number(left)? / self.number(right)?),
            Node::Remainder(left, right) => finite(self.number(left)? % self.number(right)?),
            Node::Length(text) => self.text(text).map(|text| text.chars().count() as f64),
            Node::Size(read) => self.cell(read).size(),
            Node::Distance(places) => self.distance(places),
            Node::Clock(clock, at, zone) => self.clock(clock, self.number(at)?, zone),
            _ => None,
        }
    }

    fn text(&self, id: NodeId) -> Option<&str> {
        match self.node(id) {
            Node::Literal(text) => self.conditions.texts.get(text as usize).map(AsRef::as_ref),
            Node::ReadText(read) => self.cell(read).text(),
            Node::Choose(condition, then, otherwise) => {
                if self.truth(condition)? {
                    self.text(then)
                } else {
                    self.text(otherwise)
                }
            }
            _ => None,
        }
    }

    /// The shortest way over the earth between two places in degrees.
    fn distance(&self, places: Span) -> Option<f64> {
        let [one_lat, one_lon, other_lat, other_lon] = places.of(&self.conditions.quadruples) else { return None };
        let degrees = |node: &NodeId| self.number(*node).map(f64::to_radians);
        let (one_lat, one_lon) = (degrees(one_lat)?, degrees(one_lon)?);
        let (other_lat, other_lon) = (degrees(other_lat)?, degrees(other_lon)?);
        let half = |angle: f64| libm::sin(angle / 2.0) * libm::sin(angle / 2.0);
        let chord = half(other_lat - one_lat) + libm::cos(one_lat) * libm::cos(other_lat) * half(other_lon - one_lon);
        Some(2.0 * EARTH_KM * libm::asin(libm::sqrt(chord.clamp(0.0, 1.0))))
    }

    fn clock(&self, clock: Clock, at: f64, zone: u32) -> Option<f64> {
        let zone = self.conditions.zones.get(zone as usize)?.as_ref().unwrap_or(self.definitions.time());
        let wall = zone.wall(Timestamp(at as i64));
        Some(f64::from(match clock {
            Clock::Year => i32::from(wall.year()),
            Clock::Month => i32::from(wall.month()) - 1,
            Clock::Date => i32::from(wall.day()),
            Clock::DayOfWeek => i32::from(wall.weekday().to_sunday_zero_offset()),
            Clock::Hours => i32::from(wall.hour()),
            Clock::Minutes => i32::from(wall.minute()),
        }))
    }

    #[inline]
    fn cell(&self, read: ReadId) -> &Cell<'e> {
        self.cells[read as usize].get_or_init(|| self.find(read))
    }

    fn find(&self, read: ReadId) -> Cell<'e> {
        let subject = &self.subject;
        let number = |number: Option<f64>| number.map_or(Cell::Missing, Cell::Number);
        match &self.conditions.reads[read as usize].source {
            Source::Trait { entity, name, inside } => self.of(*entity).map_or(Cell::Missing, |fragment| {
                let found = fragment.traits.get(name, subject.trait_sources).map(|word| word.value);
                match (found, inside) {
                    (None, _) => Cell::Missing,
                    (Some(json), None) => Cell::of_json(json),
                    (Some(json), Some(inside)) => gather(inside, json, 1).pop().unwrap_or(Cell::Missing),
                }
            }),
            Source::Aggregate { entity, reading } => {
                self.of(*entity).map_or(Cell::Missing, |fragment| self.aggregate(fragment, *reading))
            }
            Source::Elements { entity, reading } => {
                self.of(*entity).map_or(Cell::Missing, |fragment| self.elements(fragment, *reading))
            }
            Source::Weight { entity, reading, key } => {
                let reading = &self.definitions.readings()[*reading];
                number(self.of(*entity).and_then(|fragment| {
                    let weight = self.definitions.weight(reading, &fragment.states, key, subject.moment)?;
                    Some(match (weight, reading.kind) {
                        (Weight::Number(weight), _) => weight,
                        (Weight::Fixed(weight), Kind::Decimal) => Decimal(weight).to_f64(),
                        (Weight::Fixed(weight), _) => weight as f64,
                    })
                }))
            }
            Source::Score(index) => number(subject.scores.get(*index).copied().flatten()),
            Source::Context => {
                let found = self.context.get_or_init(|| match subject.context {
                    Some(context) => gather(&self.conditions.context, context.get(), self.conditions.reads.len()),
                    None => Vec::new(),
                });
                found.get(read as usize).cloned().unwrap_or(Cell::Missing)
            }
            Source::Offer(id, field) => {
                // An offer that nothing happened to has counts of 0.
                number(field.of(&subject.fragment.offers.get(id)))
            }
            Source::Channel if subject.channel.is_empty() => Cell::Missing,
            Source::Channel => Cell::Text(subject.channel.into()),
            Source::Now => Cell::Number(subject.moment.at.0 as f64),
        }
    }

    /// The visitor, or an entity.
    fn of(&self, entity: Option<usize>) -> Option<&'e Fragment> {
        match entity {
            None => Some(self.subject.fragment),
            Some(entity) => self.subject.entities.get(entity)?.as_deref(),
        }
    }

    fn aggregate(&self, fragment: &Fragment, reading: usize) -> Cell<'e> {
        let (definitions, moment) = (self.definitions, self.subject.moment);
        let reading = &definitions.readings()[reading];
        match definitions.number(reading, &fragment.states, moment) {
            Some(Number::Absent) => Cell::Missing,
            Some(Number::Fixed(value)) if reading.kind == Kind::Decimal => Cell::Number(Decimal(value).to_f64()),
            Some(Number::Fixed(value)) => Cell::Number(value as f64),
            Some(Number::Float(value)) => Cell::Number(value),
            None => single(&definitions.evaluate(reading, &fragment.states, moment).value),
        }
    }

    fn elements(&self, fragment: &Fragment, reading: usize) -> Cell<'e> {
        let reading = &self.definitions.readings()[reading];
        fn keys<'e, W>(weights: &[(compact_str::CompactString, W)]) -> Vec<Cell<'e>> {
            weights.iter().map(|(key, _)| Cell::Text(key.to_string().into())).collect()
        }
        Cell::List(match &self.definitions.evaluate(reading, &fragment.states, self.subject.moment).value {
            Value::Integers(weights) | Value::Decimals(weights) => keys(weights),
            Value::Numbers(weights) => keys(weights),
            Value::Instants(weights) => keys(weights),
            Value::List(values) => values.iter().map(single).collect(),
            _ => return Cell::Missing,
        })
    }
}

/// A single value of an aggregate.
fn single<'e>(value: &Value) -> Cell<'e> {
    match value {
        Value::Integer(value) => Cell::Number(*value as f64),
        Value::Decimal(value) => Cell::Number(*value as f64 / Decimal::SCALE as f64),
        Value::Number(value) => Cell::Number(*value),
        Value::Instant(at) => Cell::Number(at.0 as f64),
        Value::Text(text) => Cell::Text(text.to_string().into()),
        _ => Cell::Missing,
    }
}

/// What paths lead to, by their positions.
fn gather<'e>(paths: &JsonPaths, json: &'e str, positions: usize) -> Vec<Cell<'e>> {
    struct Gathered<'e>(Vec<Cell<'e>>);
    impl<'e> Sink<'e> for Gathered<'e> {
        fn value(&mut self, position: usize, raw: &'e RawValue) -> Result<(), &'static str> {
            if let Some(cell) = self.0.get_mut(position) {
                *cell = match raw.get() {
                    "null" => Cell::Missing,
                    json => Cell::of_json(json),
                };
            }
            Ok(())
        }

        fn list(&mut self, _: &[usize]) {}

        fn element(&mut self, _: &[usize]) {}
    }
    let mut gathered = Gathered(vec![Cell::Missing; positions]);
    // JSON of another shape than asked for has nothing there; that it is JSON at all was checked at the door.
    let _ = paths.read_leniently(json, &mut gathered);
    gathered.0
}
