//! Syntax trees to nodes: which part of CEL there is, what types its parts have, and which columns they read.
//!
//! Types follow from use: a path that is compared with texts is read as a choice of those texts, with numbers as a decimal, and so on. What
//! is not in the subset is a fault that names the construct and its place; README.md lists the subset.

use cel::common::ast::operators as op;
use cel::common::ast::{Expr, IdedExpr, LiteralValue};
use selvedge_guest::bindings::{Fault, Kind};

use crate::expression::Expression;
use crate::fault;
use crate::program::{Ask, Column, Node, NodeId, Order, Program, Span};
use crate::reads::{Path, PathId, Reads};

/// Operators within each other: evaluation is recursive, and a guest's stack is small.
const DEPTH_MAX: usize = 24;
/// A decimal's units per 1.
const SCALE: i64 = 1_000_000;
/// Beyond this a number with a fraction has more digits than its binary form keeps.
const FRACTION_MAX: f64 = 1e9;

/// The list whose elements a source goes through, as far as its expressions have said; and one path through it.
#[derive(Clone, Debug, Default)]
pub struct Each(pub Option<(String, PathId)>);

/// What becomes of all expressions.
#[derive(Default)]
pub struct Compiler {
    /// The program so far.
    pub program: Program,
    /// The columns so far.
    pub reads: Reads,
    /// Nodes whose columns are chosen when all uses of all paths are known.
    open: Vec<(NodeId, PathId, String)>,
}

impl Compiler {
    /// Compiles a condition.
    pub fn condition(&mut self, place: &str, text: &str, each: &mut Each) -> Result<NodeId, Fault> {
        self.expression(place, text, each, |scope, tree| scope.condition(tree, true))
    }

    /// Compiles a number of a kind: decimal, integer or instant.
    pub fn value(&mut self, place: &str, text: &str, kind: Kind, each: &mut Each) -> Result<NodeId, Fault> {
        self.expression(place, text, each, |scope, tree| scope.number(tree, kind))
    }

    /// Compiles a key.
    pub fn key(&mut self, place: &str, text: &str, each: &mut Each) -> Result<NodeId, Fault> {
        self.expression(place, text, each, |scope, tree| scope.key(tree))
    }

    fn expression(
        &mut self,
        place: &str,
        text: &str,
        each: &mut Each,
        compile: impl FnOnce(&mut Scope<'_>, &IdedExpr) -> Result<NodeId, Fault>,
    ) -> Result<NodeId, Fault> {
        let expression = Expression::parse(text).map_err(|detail| fault::at(place, detail))?;
        compile(&mut Scope { compiler: self, expression: &expression, place, each, depth: 0 }, &expression.root)
    }

    /// Chooses the columns that depend on all uses of a path.
    pub fn close(&mut self) -> Result<(), Fault> {
        for (node, path, place) in std::mem::take(&mut self.open) {
            let at = |detail: String| fault::at(&*place, detail);
            match &mut self.program.nodes[usize::from(node)] {
                Node::Present(column) => *column = self.reads.presence(path, &place).map_err(at)?,
                Node::OneOf { present, .. } => *present = Some(self.reads.presence(path, &place).map_err(at)?),
                Node::Size(list, _) => *list = self.reads.list(path, &place).map_err(at)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A column that is chosen later.
const OPEN: Column = Column::List(0);

/// One expression while it is compiled.
struct Scope<'a> {
    compiler: &'a mut Compiler,
    expression: &'a Expression,
    place: &'a str,
    each: &'a mut Each,
    depth: usize,
}

impl Scope<'_> {
    fn fault<T>(&self, tree: &IdedExpr, detail: impl AsRef<str>) -> Result<T, Fault> {
        let place = self.expression.place_of(tree.id);
        Err(fault::at(self.place, format!("{place}: {}", detail.as_ref())))
    }

    fn push(&mut self, tree: &IdedExpr, node: Node) -> Result<NodeId, Fault> {
        match NodeId::try_from(self.compiler.program.nodes.len()) {
            Ok(id) => {
                self.compiler.program.nodes.push(node);
                Ok(id)
            }
            Err(_) => self.fault(tree, "the expressions of all definitions are too many; at most 65,536 parts fit"),
        }
    }

    /// A node whose column is chosen when all uses are known.
    fn push_open(&mut self, tree: &IdedExpr, node: Node, path: PathId) -> Result<NodeId, Fault> {
        let id = self.push(tree, node)?;
        self.compiler.open.push((id, path, self.place.to_owned()));
        Ok(id)
    }

    fn deeper<T>(&mut self, tree: &IdedExpr, inner: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth >= DEPTH_MAX {
            return self.fault(tree, format!("more than {DEPTH_MAX} operators stand within each other"));
        }
        self.depth += 1;
        let outcome = inner(self);
        self.depth -= 1;
        outcome
    }

    /// A path, of which the source contributes once for each element where it goes through a list.
    fn path(&mut self, tree: &IdedExpr, path: Result<Path, String>) -> Result<PathId, Fault> {
        let path = path.or_else(|detail| self.fault(tree, detail))?;
        let id = self.compiler.reads.path(&path);
        let Some(list) = path.list() else { return Ok(id) };
        match &self.each.0 {
            Some((other, _)) if other != list => self.fault(
                tree,
                format!(
                    "goes through `{list}[]`, the same source through `{other}[]`; each element of one list contributes"
                ),
            ),
            _ => {
                self.each.0.get_or_insert_with(|| (list.to_owned(), id));
                Ok(id)
            }
        }
    }

    fn column(&mut self, tree: &IdedExpr, path: PathId, kind: Kind) -> Result<Column, Fault> {
        self.compiler.reads.column(path, kind, self.place).or_else(|detail| self.fault(tree, detail))
    }

    fn cell(&mut self, tree: &IdedExpr, path: Result<Path, String>, kind: Kind) -> Result<Column, Fault> {
        let path = self.path(tree, path)?;
        self.column(tree, path, kind)
    }

    /// A condition. Where it is `positive`, nothing tells one that is not met from one whose fields are missing.
    fn condition(&mut self, tree: &IdedExpr, positive: bool) -> Result<NodeId, Fault> {
        self.deeper(tree, |scope| scope.condition_inside(tree, positive))
    }

    fn condition_inside(&mut self, tree: &IdedExpr, positive: bool) -> Result<NodeId, Fault> {
        if let Some(path) = Path::of(tree) {
            let column = self.cell(tree, path, Kind::Flag)?;
            return self.push(tree, Node::Flag(column));
        }
        let call = match &tree.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => return self.push(tree, Node::Constant(*value.inner())),
            Expr::Select(select) if select.test => return self.presence(tree),
            Expr::Call(call) => call,
            _ => return self.fault(tree, format!("{} is no condition", name(tree))),
        };
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            (op::LOGICAL_AND, None, [left, right]) => {
                let node = Node::And(self.condition(left, positive)?, self.condition(right, positive)?);
                self.push(tree, node)
            }
            (op::LOGICAL_OR, None, [left, right]) => {
                let node = Node::Or(self.condition(left, positive)?, self.condition(right, positive)?);
                self.push(tree, node)
            }
            (op::LOGICAL_NOT, None, [inner]) => {
                let node = Node::Not(self.condition(inner, false)?);
                self.push(tree, node)
            }
            (op::CONDITIONAL, None, [condition, then, otherwise]) => {
                let condition = self.condition(condition, false)?;
                let node =
                    Node::Choose(condition, self.condition(then, positive)?, self.condition(otherwise, positive)?);
                self.push(tree, node)
            }
            (op::EQUALS, None, [left, right]) => self.equality(tree, left, right, positive),
            (op::NOT_EQUALS, None, [left, right]) => {
                let equal = self.equality(tree, left, right, false)?;
                self.push(tree, Node::Not(equal))
            }
            (op::LESS, None, [left, right]) => self.order(tree, Order::Less, left, right),
            (op::LESS_EQUALS, None, [left, right]) => self.order(tree, Order::AtMost, left, right),
            (op::GREATER, None, [left, right]) => self.order(tree, Order::Less, right, left),
            (op::GREATER_EQUALS, None, [left, right]) => self.order(tree, Order::AtMost, right, left),
            (op::IN, None, [member, list]) => self.membership(tree, member, list, positive),
            ("startsWith", Some(text), [part]) => self.text(tree, Ask::Start, text, part),
            ("endsWith", Some(text), [part]) => self.text(tree, Ask::End, text, part),
            ("contains", Some(text), [part]) => self.text(tree, Ask::Part, text, part),
            _ => self.fault(tree, format!("{} is no condition", name(tree))),
        }
    }

    /// `has(path)`: the path without the question.
    fn presence(&mut self, tree: &IdedExpr) -> Result<NodeId, Fault> {
        let mut asked = tree.clone();
        if let Expr::Select(select) = &mut asked.expr {
            select.test = false;
        }
        let Some(path) = Path::of(&asked) else { return self.fault(tree, "`has()` takes a path") };
        let path = self.path(tree, path)?;
        self.push_open(tree, Node::Present(OPEN), path)
    }

    fn equality(
        &mut self,
        tree: &IdedExpr,
        left: &IdedExpr,
        right: &IdedExpr,
        positive: bool,
    ) -> Result<NodeId, Fault> {
        let (literal, other) = if literal(left).is_some() { (left, right) } else { (right, left) };
        match (self::literal(literal), Path::of(other)) {
            (Some(LiteralValue::Boolean(value)), Some(path)) => {
                let flag = Node::Flag(self.cell(other, path, Kind::Flag)?);
                let flag = self.push(other, flag)?;
                if *value.inner() { Ok(flag) } else { self.push(tree, Node::Not(flag)) }
            }
            (Some(LiteralValue::Boolean(_)), None) => self.fault(
                tree,
                format!("compares {} with true or false; write the condition alone, or with `!`", name(other)),
            ),
            (Some(LiteralValue::String(text)), Some(path)) => self.one_of(other, path, &[text.inner()], positive),
            (Some(LiteralValue::String(_)), None) => {
                self.fault(tree, format!("compares {} with a text; only a path can be", name(other)))
            }
            (Some(LiteralValue::Null), _) => {
                self.fault(tree, "compares with `null`; ask whether it is there with `has()`")
            }
            (None, Some(_)) if Path::of(literal).is_some() => {
                self.fault(tree, "compares two paths, whose types nothing tells; compare numbers as `a - b == 0`")
            }
            _ => self.order(tree, Order::Equal, left, right),
        }
    }

    fn order(&mut self, tree: &IdedExpr, order: Order, left: &IdedExpr, right: &IdedExpr) -> Result<NodeId, Fault> {
        let node = Node::Compare(order, self.number(left, Kind::Decimal)?, self.number(right, Kind::Decimal)?);
        self.push(tree, node)
    }

    fn membership(
        &mut self,
        tree: &IdedExpr,
        member: &IdedExpr,
        list: &IdedExpr,
        positive: bool,
    ) -> Result<NodeId, Fault> {
        let Expr::List(list) = &list.expr else {
            return self.fault(list, format!("`in` takes a list in brackets, not {}", name(list)));
        };
        let mut texts = Vec::new();
        for element in &list.elements {
            if let Some(LiteralValue::String(text)) = literal(element) {
                texts.push(text.inner());
            }
        }
        if list.elements.is_empty() {
            return self.fault(tree, "`in` takes a list with something in it");
        }
        if texts.is_empty() {
            let number = self.number(member, Kind::Decimal)?;
            let mut numbers = Vec::new();
            for element in &list.elements {
                numbers.push(self.constant(element, Kind::Decimal)?);
            }
            let numbers = self.span(tree, |program| &mut program.numbers, numbers)?;
            return self.push(tree, Node::Among(number, numbers));
        }
        match Path::of(member) {
            _ if texts.len() < list.elements.len() => {
                self.fault(tree, "the list after `in` has texts and others in it")
            }
            Some(path) => self.one_of(member, path, &texts, positive),
            None => self.fault(tree, format!("{} cannot be one of some texts; only a path can be", name(member))),
        }
    }

    fn one_of(
        &mut self,
        tree: &IdedExpr,
        path: Result<Path, String>,
        texts: &[&str],
        positive: bool,
    ) -> Result<NodeId, Fault> {
        let path = self.path(tree, path)?;
        let choice = self.column(tree, path, Kind::Choice)?;
        let codes = texts.iter().map(|text| self.compiler.reads.code(path, text)).collect();
        let codes = self.span(tree, |program| &mut program.codes, codes)?;
        let node = Node::OneOf { choice, codes, present: None };
        if positive { self.push(tree, node) } else { self.push_open(tree, node, path) }
    }

    fn text(&mut self, tree: &IdedExpr, ask: Ask, text: &IdedExpr, part: &IdedExpr) -> Result<NodeId, Fault> {
        let Some(path) = Path::of(text) else {
            return self.fault(text, format!("{} is asked of {}; it is a path's", name(tree), name(text)));
        };
        let Some(LiteralValue::String(part)) = literal(part) else {
            return self.fault(part, format!("{} takes a text in quotes, not {}", name(tree), name(part)));
        };
        let column = self.cell(text, path, Kind::Text)?;
        let span = self.span(tree, |program| &mut program.texts, vec![part.inner().to_owned()])?;
        self.push(tree, Node::Text { column, ask, text: span.start })
    }

    /// A number of a kind.
    fn number(&mut self, tree: &IdedExpr, kind: Kind) -> Result<NodeId, Fault> {
        self.deeper(tree, |scope| scope.number_inside(tree, kind))
    }

    fn number_inside(&mut self, tree: &IdedExpr, kind: Kind) -> Result<NodeId, Fault> {
        if let Some(path) = Path::of(tree) {
            let column = self.cell(tree, path, kind)?;
            return self.push(tree, Node::Cell(column));
        }
        let call = match &tree.expr {
            Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_))
                if kind != Kind::Instant =>
            {
                let number = self.constant(tree, kind)?;
                let span = self.span(tree, |program| &mut program.numbers, vec![number])?;
                return self.push(tree, Node::Number(span.start));
            }
            Expr::Call(call) => call,
            _ => return self.fault(tree, format!("{} is no {}", name(tree), noun(kind))),
        };
        let arguments = call.args.as_slice();
        if call.func_name == op::CONDITIONAL
            && let [condition, then, otherwise] = arguments
        {
            let condition = self.condition(condition, false)?;
            let node = Node::Choose(condition, self.number(then, kind)?, self.number(otherwise, kind)?);
            return self.push(tree, node);
        }
        if kind == Kind::Instant {
            return self.fault(tree, format!("{} is no instant", name(tree)));
        }
        let node = match (call.func_name.as_str(), call.target.as_deref(), arguments) {
            (op::NEGATE, None, [inner]) => Node::Negative(self.number(inner, kind)?),
            (op::ADD, None, [left, right]) => Node::Add(self.number(left, kind)?, self.number(right, kind)?),
            (op::SUBSTRACT, None, [left, right]) => Node::Subtract(self.number(left, kind)?, self.number(right, kind)?),
            (op::MULTIPLY, None, [left, right]) => match (self.number(left, kind)?, self.number(right, kind)?) {
                (left, right) if kind == Kind::Integer => Node::Multiply(left, right),
                (left, right) => Node::MultiplyDecimals(left, right),
            },
            ("size", None, [list]) | ("size", Some(list), []) => return self.size(tree, list, kind),
            _ => return self.fault(tree, format!("{} is no {}", name(tree), noun(kind))),
        };
        self.push(tree, node)
    }

    /// The number of a list's elements: one number, so the source does not go through that list for it.
    fn size(&mut self, tree: &IdedExpr, list: &IdedExpr, kind: Kind) -> Result<NodeId, Fault> {
        let path = match Path::of(list) {
            Some(Ok(path)) if path.list().is_some() => path,
            Some(Err(detail)) => return self.fault(list, detail),
            _ => {
                return self.fault(
                    list,
                    format!("`size()` takes a path with `[]`, such as properties.products[].price, not {}", name(list)),
                );
            }
        };
        let unit = if kind == Kind::Integer { 1 } else { SCALE };
        let span = self.span(tree, |program| &mut program.numbers, vec![unit])?;
        let path = self.compiler.reads.path(&path);
        self.push_open(tree, Node::Size(0, span.start), path)
    }

    /// A number as it stands, in a kind's units.
    fn constant(&mut self, tree: &IdedExpr, kind: Kind) -> Result<i64, Fault> {
        let unit = if kind == Kind::Integer { 1 } else { SCALE };
        let whole = match literal(tree) {
            Some(LiteralValue::Int(value)) => Some(*value.inner()),
            Some(LiteralValue::UInt(value)) => i64::try_from(*value.inner()).ok(),
            Some(LiteralValue::Double(value)) => match scaled(*value.inner()) {
                Some(units) if units % (SCALE / unit) == 0 => return Ok(units / (SCALE / unit)),
                Some(_) => return self.fault(tree, "has a fraction where whole numbers are counted"),
                None => {
                    return self.fault(
                        tree,
                        "has more than six decimals, or is beyond a billion with a fraction: it would be rounded",
                    );
                }
            },
            _ => return self.fault(tree, format!("{} is no number", name(tree))),
        };
        match whole.and_then(|whole| whole.checked_mul(unit)) {
            Some(units) => Ok(units),
            None => self.fault(tree, "is beyond what a decimal holds, about 9.2 trillion either way"),
        }
    }

    /// A key: a path, or one of several by a condition.
    fn key(&mut self, tree: &IdedExpr) -> Result<NodeId, Fault> {
        self.deeper(tree, |scope| scope.key_inside(tree))
    }

    fn key_inside(&mut self, tree: &IdedExpr) -> Result<NodeId, Fault> {
        if let Some(path) = Path::of(tree) {
            let column = self.cell(tree, path, Kind::Key)?;
            return self.push(tree, Node::Cell(column));
        }
        match &tree.expr {
            Expr::Call(call) if call.func_name == op::CONDITIONAL && call.args.len() == 3 => {
                let condition = self.condition(&call.args[0], false)?;
                let node = Node::Choose(condition, self.key(&call.args[1])?, self.key(&call.args[2])?);
                self.push(tree, node)
            }
            _ => self.fault(tree, format!("{} is no key; a key is a path, or `condition ? path : path`", name(tree))),
        }
    }

    /// Appends constants to one of the program's lists.
    fn span<T>(
        &mut self,
        tree: &IdedExpr,
        list: impl FnOnce(&mut Program) -> &mut Vec<T>,
        constants: Vec<T>,
    ) -> Result<Span, Fault> {
        let list = list(&mut self.compiler.program);
        match (u16::try_from(list.len()), u16::try_from(constants.len())) {
            (Ok(start), Ok(length)) => {
                list.extend(constants);
                Ok(Span { start, length })
            }
            _ => self.fault(tree, "the constants of all definitions are too many; at most 65,536 fit"),
        }
    }
}

fn literal(tree: &IdedExpr) -> Option<&LiteralValue> {
    match &tree.expr {
        Expr::Literal(value) => Some(value),
        _ => None,
    }
}

/// A number with a fraction in units of 10⁻⁶, if that is exactly what was written: of so few digits, a binary number's shortest
/// decimal text is the text that it came from.
fn scaled(value: f64) -> Option<i64> {
    let whole = value.fract() == 0.0 && value.abs() < 9e15;
    if whole {
        return (value as i64).checked_mul(SCALE);
    }
    let text = format!("{value}");
    let (before, after) = text.split_once('.')?;
    if value.abs() >= FRACTION_MAX || after.len() > 6 {
        return None;
    }
    format!("{before}{after:0<6}").parse().ok()
}

fn noun(kind: Kind) -> &'static str {
    match kind {
        Kind::Instant => "instant",
        Kind::Integer => "whole number",
        _ => "number",
    }
}

/// A construct by its name, for messages.
fn name(tree: &IdedExpr) -> String {
    if let Some(Ok(path)) = Path::of(tree) {
        return format!("`{}`", path.text);
    }
    let operator = |name: &str| name.trim_matches('_').trim_start_matches('@').to_owned();
    match &tree.expr {
        Expr::Literal(LiteralValue::String(_)) => "a text".into(),
        Expr::Literal(LiteralValue::Boolean(_)) => "true or false".into(),
        Expr::Literal(LiteralValue::Null) => "`null`".into(),
        Expr::Literal(LiteralValue::Bytes(_)) => "a text of bytes".into(),
        Expr::Literal(_) => "a number".into(),
        Expr::List(_) => "a list".into(),
        Expr::Map(_) => "a map".into(),
        Expr::Struct(_) => "a message".into(),
        Expr::Comprehension(_) => "a macro such as `all()`, `exists()` or `map()`".into(),
        Expr::Select(select) if select.test => "`has()`".into(),
        Expr::Call(call) if call.func_name == op::CONDITIONAL => "`? :`".into(),
        Expr::Call(call) if call.func_name == op::INDEX => "an index other than `[]` or a name in quotes".into(),
        Expr::Call(call) if call.func_name.contains(['_', '@']) => format!("`{}`", operator(&call.func_name)),
        Expr::Call(call) => format!("`{}()`", call.func_name),
        // What makes it no path stands further in.
        Expr::Select(select) => name(&select.operand),
        Expr::Ident(_) | Expr::Unspecified => "this".into(),
    }
}
