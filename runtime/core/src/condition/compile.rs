//! Compilation: names to reads, parts to typed steps, and what a condition costs at most.
//!
//! Types follow from use: what JSON says is read as a text where it is compared with one, as a number where it is added, and so on.

use compact_str::CompactString;
use rustc_hash::FxHashMap;

use super::program::{Ask, Compiled, Conditions, Node, NodeId, Order, ReadId, Span};
use super::reads::{Read, Source, Type, inner_path};
use super::syntax::{Function, Path, Syntax, Tree};
use super::{Condition, ConditionId};
use crate::audience::Audience;
use crate::catalog::{CatalogError, Fault};
use crate::time::BusinessTime;
use crate::value::Timestamp;
use crate::view::Schema;

/// What a condition may cost at most, its audiences included: about twenty microseconds.
const COST_MAX: u32 = 2_000;
const COST_STEP: u32 = 1;
const COST_TEXTS: u32 = 2;
/// Going through a text, or a list.
const COST_THROUGH: u32 = 20;
/// Calendars, instants as text, arcs on a sphere.
const COST_WORKED_OUT: u32 = 20;

/// A part and what is wrong with it.
type Wrong = (u64, String);

type Outcome<T> = Result<T, Wrong>;

impl Conditions {
    /// Compiles conditions against the names that plugins define; the fault has all that is wrong, each with its place.
    pub fn compile(conditions: &[Condition], audiences: &[Audience], schema: &Schema) -> Result<Self, CatalogError> {
        let audiences = audiences.iter().map(|audience| (audience.name.as_str(), audience.condition)).collect();
        let mut compiler = Compiler { schema, audiences, read_ids: FxHashMap::default(), program: Self::default() };
        let mut faults = Vec::new();
        for condition in conditions {
            if let Err((id, detail)) = compiler.condition(condition.expression.root()) {
                let place = condition.expression.place(id);
                let detail = format!("{}: {place}: {detail}", condition.label);
                faults.push(Fault { pointer: condition.pointer.clone(), detail });
            }
        }
        let mut program = compiler.program;
        if faults.is_empty() {
            faults = program.settle_costs(conditions);
        }
        if !faults.is_empty() {
            return Err(CatalogError { faults });
        }
        program.note_needs();
        Ok(program)
    }

    /// Adds to each condition what its audiences cost, each once.
    fn settle_costs(&mut self, conditions: &[Condition]) -> Vec<Fault> {
        let own = |program: &Self, id: ConditionId| {
            let compiled = &program.compiled[id.index()];
            let steps = compiled.cost;
            (steps, compiled.asks.clone())
        };
        let mut costs = Vec::with_capacity(self.compiled.len());
        for index in 0..self.compiled.len() {
            let (mut asked, mut next, mut cost) = (vec![ConditionId(index as u32)], 0, 0_u32);
            while let Some(id) = asked.get(next) {
                next += 1;
                let (steps, asks) = own(self, *id);
                cost = cost.saturating_add(steps);
                let fresh: Vec<_> = asks.into_iter().filter(|inner| !asked.contains(inner)).collect();
                asked.extend(fresh);
            }
            let reads = self.read_ids(ConditionId(index as u32));
            let reads: u32 = reads.into_iter().map(|read| self.reads[read as usize].cost).sum();
            costs.push(cost.saturating_add(reads));
        }
        let mut faults = Vec::new();
        for ((compiled, cost), condition) in self.compiled.iter_mut().zip(costs).zip(conditions) {
            compiled.cost = cost;
            if cost > COST_MAX {
                let detail = format!(
                    "{}: the condition costs up to {cost} steps, its audiences included; at most {COST_MAX} are allowed. Read fewer lists and \
                     aggregates, or make an aggregate of it",
                    condition.label
                );
                faults.push(Fault { pointer: condition.pointer.clone(), detail });
            }
        }
        faults
    }

    fn note_needs(&mut self) {
        let score = |read: &Read| if let Source::Score(index) = read.source { Some(index) } else { None };
        self.scores = self.reads.iter().filter_map(score).collect();
        self.entities = self.reads.iter().filter_map(Read::entity).collect();
        for list in [&mut self.scores, &mut self.entities] {
            list.sort_unstable();
            list.dedup();
        }
    }
}

struct Compiler<'s> {
    schema: &'s Schema,
    audiences: FxHashMap<&'s str, ConditionId>,
    read_ids: FxHashMap<String, ReadId>,
    program: Conditions,
}

impl Compiler<'_> {
    fn condition(&mut self, root: &Tree) -> Outcome<()> {
        let mut scope = Scope { compiler: self, cost: 0, reads: Vec::new(), asks: Vec::new() };
        let compiled = scope.value(root, Type::Flag);
        let Scope { cost, mut reads, mut asks, .. } = scope;
        reads.sort_unstable();
        reads.dedup();
        asks.sort_unstable();
        asks.dedup();
        // One at each position, whatever is wrong with it.
        let root = compiled.as_ref().copied().unwrap_or_default();
        self.program.compiled.push(Compiled { root, cost, reads, asks });
        compiled.map(|_| ())
    }

    fn read(&mut self, path: &Path) -> Result<ReadId, String> {
        let name = path.text();
        if let Some(known) = self.read_ids.get(&name) {
            return Ok(*known);
        }
        let read = Read::of(path, self.schema)?;
        let id = self.program.reads.len() as ReadId;
        if let Source::Context = read.source {
            self.program.context.add(&inner_path(path.rest())?, id as usize)?;
        }
        self.program.reads.push(read);
        self.read_ids.insert(name, id);
        Ok(id)
    }
}

/// One condition while it is compiled.
struct Scope<'c, 's> {
    compiler: &'c mut Compiler<'s>,
    cost: u32,
    reads: Vec<ReadId>,
    asks: Vec<ConditionId>,
}

impl Scope<'_, '_> {
    fn push(&mut self, node: Node, cost: u32) -> NodeId {
        self.cost = self.cost.saturating_add(cost);
        let nodes = &mut self.compiler.program.nodes;
        nodes.push(node);
        (nodes.len() - 1) as NodeId
    }

    fn read(&mut self, tree: &Tree, path: &Path) -> Outcome<(ReadId, Type)> {
        let id = self.compiler.read(path).map_err(|detail| (tree.id, detail))?;
        self.reads.push(id);
        Ok((id, self.compiler.program.reads[id as usize].of))
    }

    /// The type of a part, as far as it has one of its own.
    fn type_of(&mut self, tree: &Tree) -> Outcome<Type> {
        Ok(match &tree.syntax {
            Syntax::Flag(_) | Syntax::Has(_) => Type::Flag,
            Syntax::Number(_) => Type::Number,
            Syntax::Text(_) => Type::Text,
            Syntax::Null => Type::Null,
            Syntax::List(_) => Type::List,
            Syntax::Path(path) => self.read(tree, path)?.1,
            Syntax::Call(function, arguments) => match (function, arguments.as_slice()) {
                (Function::If, [_, then, otherwise]) => match self.type_of(then)? {
                    Type::Any => self.type_of(otherwise)?,
                    of => of,
                },
                (Function::Negate, [inner]) => match self.type_of(inner)? {
                    Type::Duration => Type::Duration,
                    _ => Type::Number,
                },
                (
                    Function::Add | Function::Subtract | Function::Multiply | Function::Divide | Function::Remainder,
                    [left, right],
                ) => self.arithmetic(tree, *function, left, right)?.2,
                (Function::Size | Function::DistanceKm | Function::Clock(_), _) => Type::Number,
                (Function::Timestamp, _) => Type::Instant,
                (Function::Duration, _) => Type::Duration,
                _ => Type::Flag,
            },
        })
    }

    /// The types of two operands and of what comes of them.
    fn arithmetic(
        &mut self,
        tree: &Tree,
        function: Function,
        left: &Tree,
        right: &Tree,
    ) -> Outcome<(Type, Type, Type)> {
        use Type::{Any, Duration, Instant, Number};
        let (one, other) = (self.type_of(left)?, self.type_of(right)?);
        Ok(match (function, one, other) {
            (Function::Add, Instant | Any, Duration) => (Instant, Duration, Instant),
            (Function::Add, Duration, Instant | Any) => (Duration, Instant, Instant),
            (Function::Add | Function::Subtract, Duration, Duration) => (Duration, Duration, Duration),
            (Function::Subtract, Instant | Any, Duration) => (Instant, Duration, Instant),
            (Function::Subtract, Instant | Any, Instant) | (Function::Subtract, Instant, Any) => {
                (Instant, Instant, Duration)
            }
            (Function::Multiply | Function::Divide, Duration, Number | Any) => (Duration, Number, Duration),
            (Function::Multiply, Number | Any, Duration) => (Number, Duration, Duration),
            (Function::Divide, Duration, Duration) => (Duration, Duration, Number),
            (_, Number | Any, Number | Any) => (Number, Number, Number),
            _ => {
                let detail = format!("`{}` does not go with {} and {}", function.name(), one.name(), other.name());
                return Err((tree.id, detail));
            }
        })
    }

    /// A part of a wanted type.
    fn value(&mut self, tree: &Tree, want: Type) -> Outcome<NodeId> {
        let wrong = |of: String| Err((tree.id, format!("{} is {of} where {} is needed", tree.name(), want.name())));
        match &tree.syntax {
            Syntax::Flag(value) if want == Type::Flag => Ok(self.push(Node::Constant(*value), 0)),
            Syntax::Number(number) if want == Type::Number => Ok(self.push(Node::Number(*number), 0)),
            Syntax::Text(text) if want == Type::Text => {
                let texts = &mut self.compiler.program.texts;
                texts.push(text.as_ref().into());
                let literal = Node::Literal((texts.len() - 1) as u32);
                Ok(self.push(literal, 0))
            }
            Syntax::Has(path) if want == Type::Flag => {
                let (read, _) = self.read(tree, path)?;
                Ok(self.push(Node::Present(read), COST_STEP))
            }
            Syntax::Path(path) => {
                let (read, of) = self.read(tree, path)?;
                match (of, want) {
                    (Type::Any, Type::Flag) => Ok(self.push(Node::Flag(read), COST_STEP)),
                    (Type::Any | Type::Number, Type::Number) | (Type::Instant, Type::Instant) => {
                        Ok(self.push(Node::Read(read), COST_STEP))
                    }
                    (Type::Any | Type::Text, Type::Text) => Ok(self.push(Node::ReadText(read), COST_STEP)),
                    (Type::Any, Type::Instant) => Ok(self.push(Node::Instant(read), COST_WORKED_OUT)),
                    (Type::List, _) => Err((tree.id, format!("{} is a list; ask with `in` or size()", tree.name()))),
                    (Type::Number | Type::Text | Type::Instant, Type::Flag) => {
                        let name = tree.name();
                        Err((tree.id, format!("{name} is {}, no condition; compare it with something", of.name())))
                    }
                    _ => wrong(of.name().to_owned()),
                }
            }
            Syntax::Call(Function::If, arguments) => {
                let [condition, then, otherwise] = arguments.as_slice() else { return wrong("incomplete".to_owned()) };
                let node = Node::Choose(
                    self.value(condition, Type::Flag)?,
                    self.value(then, want)?,
                    self.value(otherwise, want)?,
                );
                Ok(self.push(node, COST_STEP))
            }
            Syntax::Call(function, arguments) => match self.type_of(tree)? {
                of if of != want => wrong(of.name().to_owned()),
                Type::Flag => self.condition(tree, *function, arguments),
                _ => self.number(tree, *function, arguments),
            },
            Syntax::Null => Err((tree.id, "`null` is only compared with a name; ask with has()".to_owned())),
            Syntax::List(_) => Err((tree.id, "a list stands only behind `in`".to_owned())),
            _ => {
                let of = self.type_of(tree)?;
                wrong(of.name().to_owned())
            }
        }
    }

    fn condition(&mut self, tree: &Tree, function: Function, arguments: &[Tree]) -> Outcome<NodeId> {
        let node = match (function, arguments) {
            (Function::And, [left, right]) => Node::And(self.value(left, Type::Flag)?, self.value(right, Type::Flag)?),
            (Function::Or, [left, right]) => Node::Or(self.value(left, Type::Flag)?, self.value(right, Type::Flag)?),
            (Function::Not, [inner]) => Node::Not(self.value(inner, Type::Flag)?),
            (Function::Equal, [left, right]) => return self.equality(tree, left, right),
            (Function::NotEqual, [left, right]) => Node::Not(self.equality(tree, left, right)?),
            (Function::Less, [left, right]) => return self.order(tree, Order::Less, false, left, right),
            (Function::AtMost, [left, right]) => return self.order(tree, Order::AtMost, false, left, right),
            (Function::Greater, [left, right]) => return self.order(tree, Order::Less, true, left, right),
            (Function::AtLeast, [left, right]) => return self.order(tree, Order::AtMost, true, left, right),
            (Function::In, [member, list]) => return self.membership(tree, member, list),
            (Function::StartsWith, [text, part]) => return self.text(Ask::Start, text, part),
            (Function::EndsWith, [text, part]) => return self.text(Ask::End, text, part),
            (Function::Contains, [text, part]) => return self.text(Ask::Part, text, part),
            (Function::Audience, [name]) => {
                let Syntax::Text(of) = &name.syntax else { return Err((name.id, "is no name".to_owned())) };
                match self.compiler.audiences.get(of.as_ref()) {
                    Some(id) => {
                        self.asks.push(*id);
                        Node::Met(*id)
                    }
                    None => return Err((name.id, format!("there is no audience {of:?}"))),
                }
            }
            _ => return Err((tree.id, format!("{} is no condition", tree.name()))),
        };
        Ok(self.push(node, COST_STEP))
    }

    fn equality(&mut self, tree: &Tree, left: &Tree, right: &Tree) -> Outcome<NodeId> {
        for (one, other) in [(left, right), (right, left)] {
            match (&one.syntax, &other.syntax) {
                (Syntax::Null, Syntax::Path(path)) => {
                    let (read, _) = self.read(other, path)?;
                    let present = self.push(Node::Present(read), COST_STEP);
                    return Ok(self.push(Node::Not(present), COST_STEP));
                }
                (Syntax::Flag(true), _) => return self.value(other, Type::Flag),
                (Syntax::Flag(false), _) => {
                    let node = Node::Not(self.value(other, Type::Flag)?);
                    return Ok(self.push(node, COST_STEP));
                }
                _ => {}
            }
        }
        if let (Syntax::Path(one), Syntax::Path(other)) = (&left.syntax, &right.syntax) {
            let ((one, of), (other, as_well)) = (self.read(left, one)?, self.read(right, other)?);
            if (of, as_well) == (Type::Any, Type::Any) {
                return Ok(self.push(Node::Same(one, other), COST_TEXTS));
            }
        }
        self.order(tree, Order::Equal, false, left, right)
    }

    /// A comparison; where it is `swapped`, of the right side with the left one.
    fn order(&mut self, tree: &Tree, order: Order, swapped: bool, left: &Tree, right: &Tree) -> Outcome<NodeId> {
        let list = |of: &Tree| (of.id, format!("{} is a list; ask with `in` or size()", of.name()));
        let of = match (self.type_of(left)?, self.type_of(right)?) {
            (Type::List, _) => return Err(list(left)),
            (_, Type::List) => return Err(list(right)),
            (Type::Null, _) | (_, Type::Null) => Type::Null,
            (Type::Any, Type::Any) => Type::Number,
            (Type::Any, of) | (of, Type::Any) => of,
            (of, other) if of == other => of,
            (of, other) => {
                let detail =
                    format!("compares {} with {}: {} and {}", of.name(), other.name(), left.name(), right.name());
                return Err((tree.id, detail));
            }
        };
        match of {
            Type::Number | Type::Instant | Type::Duration | Type::Text => {
                let (left, right) = (self.value(left, of)?, self.value(right, of)?);
                let (left, right) = if swapped { (right, left) } else { (left, right) };
                Ok(match of {
                    Type::Text => self.push(Node::CompareTexts(order, left, right), COST_TEXTS),
                    _ => self.push(Node::Compare(order, left, right), COST_STEP),
                })
            }
            Type::Flag => Err((tree.id, "compares conditions; join them with `&&`, `||` and `!`".to_owned())),
            Type::Null => Err((tree.id, "`null` is only compared with a name, by == or !=; ask with has()".to_owned())),
            Type::List | Type::Any => Err(list(tree)),
        }
    }

    fn membership(&mut self, tree: &Tree, member: &Tree, list: &Tree) -> Outcome<NodeId> {
        match &list.syntax {
            Syntax::Path(path) => {
                let (read, of) = self.read(list, path)?;
                if !matches!(of, Type::Any | Type::List) {
                    return Err((list.id, format!("{} is {}, no list", list.name(), of.name())));
                }
                let node = match self.type_of(member)? {
                    Type::Number => Node::Within(self.value(member, Type::Number)?, read),
                    _ => Node::WithinTexts(self.value(member, Type::Text)?, read),
                };
                Ok(self.push(node, COST_THROUGH))
            }
            Syntax::List(elements) => self.among(tree, member, elements),
            _ => Err((list.id, format!("`in` takes a list, not {}", list.name()))),
        }
    }

    fn among(&mut self, tree: &Tree, member: &Tree, elements: &[Tree]) -> Outcome<NodeId> {
        let texts: Vec<CompactString> = elements.iter().filter_map(text_of).collect();
        let numbers: Vec<f64> = elements.iter().filter_map(number_of).collect();
        let cost = COST_TEXTS + elements.len() as u32 / 8;
        if elements.is_empty() {
            Err((tree.id, "`in` takes a list with something in it".to_owned()))
        } else if texts.len() == elements.len() {
            let member = self.value(member, Type::Text)?;
            let mut texts = texts;
            texts.sort_unstable();
            texts.dedup();
            let all = &mut self.compiler.program.texts;
            let start = all.len() as u32;
            all.extend(texts);
            let span = Span { start, end: all.len() as u32 };
            Ok(self.push(Node::AmongTexts(member, span), cost))
        } else if numbers.len() == elements.len() {
            let member = self.value(member, Type::Number)?;
            let all = &mut self.compiler.program.numbers;
            let start = all.len() as u32;
            all.extend(numbers);
            let span = Span { start, end: all.len() as u32 };
            Ok(self.push(Node::Among(member, span), cost))
        } else {
            let odd = elements.iter().find(|element| text_of(element).is_none() && number_of(element).is_none());
            let detail = match odd {
                Some(odd) => {
                    format!("the list behind `in` has {} in it; it has texts or numbers as they stand", odd.name())
                }
                None => "the list behind `in` has texts and numbers in it; it has either".to_owned(),
            };
            Err((odd.unwrap_or(tree).id, detail))
        }
    }

    fn text(&mut self, ask: Ask, text: &Tree, part: &Tree) -> Outcome<NodeId> {
        let node = Node::Text(ask, self.value(text, Type::Text)?, self.value(part, Type::Text)?);
        Ok(self.push(node, if ask == Ask::Part { COST_THROUGH } else { COST_TEXTS }))
    }

    fn number(&mut self, tree: &Tree, function: Function, arguments: &[Tree]) -> Outcome<NodeId> {
        let (node, cost) = match (function, arguments) {
            (Function::Negate, [inner]) => {
                let of = self.type_of(tree)?;
                (Node::Negate(self.value(inner, of)?), COST_STEP)
            }
            (
                Function::Add | Function::Subtract | Function::Multiply | Function::Divide | Function::Remainder,
                [left, right],
            ) => {
                let (one, other, _) = self.arithmetic(tree, function, left, right)?;
                let (left, right) = (self.value(left, one)?, self.value(right, other)?);
                let node = match function {
                    Function::Add => Node::Add(left, right),
                    Function::Subtract => Node::Subtract(left, right),
                    Function::Multiply => Node::Multiply(left, right),
                    Function::Divide => Node::Divide(left, right),
                    _ => Node::Remainder(left, right),
                };
                (node, COST_STEP)
            }
            (Function::Size, [of]) => match (&of.syntax, self.type_of(of)?) {
                (Syntax::Path(path), Type::Any | Type::List) => (Node::Size(self.read(of, path)?.0), COST_THROUGH),
                (_, Type::Text) => (Node::Length(self.value(of, Type::Text)?), COST_THROUGH),
                (_, other) => return Err((of.id, format!("size() takes a text or a list, not {}", other.name()))),
            },
            (Function::Timestamp, [of]) => return self.timestamp(of),
            (Function::Duration, [of]) => {
                let text = if let Syntax::Text(text) = &of.syntax { Some(text) } else { None };
                let ms = text.and_then(|text| duration_ms(text)).ok_or_else(|| {
                    (
                        of.id,
                        "duration() takes a text in quotes such as \"36h\", \"1h30m\", \"90s\" or \"7d\"".to_owned(),
                    )
                })?;
                (Node::Number(ms as f64), 0)
            }
            (Function::DistanceKm, places) => {
                let mut nodes = Vec::with_capacity(places.len());
                for place in places {
                    nodes.push(self.value(place, Type::Number)?);
                }
                let all = &mut self.compiler.program.quadruples;
                let start = all.len() as u32;
                all.extend(nodes);
                (Node::Distance(Span { start, end: all.len() as u32 }), COST_WORKED_OUT)
            }
            (Function::Clock(clock), [at, zone @ ..]) => {
                let at = self.value(at, Type::Instant)?;
                (Node::Clock(clock, at, self.zone(zone.first())?), COST_WORKED_OUT)
            }
            _ => return Err((tree.id, format!("{} is no number", tree.name()))),
        };
        Ok(self.push(node, cost))
    }

    fn timestamp(&mut self, of: &Tree) -> Outcome<NodeId> {
        match &of.syntax {
            Syntax::Text(text) => {
                let at = Timestamp::parse(text).map_err(|error| (of.id, format!("{text:?} is {error}")))?;
                Ok(self.push(Node::Number(at.0 as f64), 0))
            }
            Syntax::Path(path) => match self.read(of, path)? {
                (read, Type::Any | Type::Text) => Ok(self.push(Node::Instant(read), COST_WORKED_OUT)),
                _ => self.value(of, Type::Instant),
            },
            _ => self.value(of, Type::Instant),
        }
    }

    /// The position of a zone; that of the business where none is named.
    fn zone(&mut self, named: Option<&Tree>) -> Outcome<u32> {
        let zone = match named.map(|named| (named.id, &named.syntax)) {
            None => None,
            Some((id, Syntax::Text(name))) => Some(BusinessTime::new(name).map_err(|error| (id, error.to_string()))?),
            Some((id, _)) => return Err((id, "a time zone is a name in quotes, such as \"Europe/London\"".to_owned())),
        };
        let zones = &mut self.compiler.program.zones;
        let name = |zone: &Option<BusinessTime>| zone.as_ref().map(|zone| zone.name().to_owned());
        let known = zones.iter().position(|known| name(known) == name(&zone));
        Ok(known.unwrap_or_else(|| {
            zones.push(zone);
            zones.len() - 1
        }) as u32)
    }
}

fn text_of(tree: &Tree) -> Option<CompactString> {
    if let Syntax::Text(text) = &tree.syntax { Some(text.as_ref().into()) } else { None }
}

fn number_of(tree: &Tree) -> Option<f64> {
    match &tree.syntax {
        Syntax::Number(number) => Some(*number),
        Syntax::Call(Function::Negate, inner) => match inner.first()?.syntax {
            Syntax::Number(number) => Some(-number),
            _ => None,
        },
        _ => None,
    }
}

/// Milliseconds of `1h30m` and the like: whole numbers of d, h, m, s and ms, in any order.
fn duration_ms(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, unit) = (rest[..digits].parse::<i64>().ok()?, &rest[digits..]);
        let length = unit.find(|character: char| character.is_ascii_digit()).unwrap_or(unit.len());
        let unit_ms = match &unit[..length] {
            "d" => crate::time::DAY_MS,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit_ms)?)?;
        rest = &unit[length..];
    }
    Some(if negative { -total } else { total })
}
