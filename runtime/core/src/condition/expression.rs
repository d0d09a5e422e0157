//! Expressions: CEL text to a syntax of our own, checked as far as that goes without knowing what names stand for.
//!
//! The parser is that of the `cel` crate; nothing else of it is used. What is not in the subset is a fault that names the construct and its place.

use cel::common::ast::operators as op;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use cel::parser::{ParseError, PrattParser};

use super::syntax::{Function, Path, Syntax, Tree};
use crate::identity::ENTITIES;

/// Bytes of one expression.
const BYTES_MAX: usize = 2_000;
/// Parentheses, calls and lists within each other.
const NESTED_MAX: u16 = 24;
/// Operators within each other, which is how deep evaluation goes. The parser balances `&&` and `||`, so long rows of those are not deep.
const DEPTH_MAX: usize = 32;
/// Names in one path.
const NAMES_MAX: usize = 16;

/// What names may begin with, beside entities.
const ROOTS: [&str; 7] = ["trait", "agg", "score", "ctx", "offers", "channel", "now"];

/// A parsed condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    root: Tree,
}

impl Expression {
    /// Parses CEL. The fault says where it stands.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("is {} bytes; a condition has at most {BYTES_MAX}", text.len()));
        }
        let parsed = parser().parse(text).map_err(|errors| {
            // The parser tells of several; the first with a place is the cause, unless it gave up for depth, which has none.
            let cause = |error: &&ParseError| error.pos.0 > 0 || error.msg.contains("recursion limit");
            let error = errors.errors.iter().find(cause).or(errors.errors.first());
            let Some(error) = error else { return "is no CEL expression".to_owned() };
            let detail = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
            match error.pos {
                (0, _) => format!("does not parse: {detail}"),
                (line, column) => format!("{}: does not parse: {detail}", place(text, offset(text, line, column))),
            }
        })?;
        let root = tree(&parsed, 0).map_err(|(id, detail)| format!("{}: {detail}", place_of(text, id)))?;
        Ok(Self { text: text.to_owned(), root })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a part stands, for messages.
    pub fn place(&self, id: u64) -> String {
        place_of(&self.text, id)
    }

    /// The audiences that it names, and by which part.
    pub fn audiences(&self) -> Vec<(u64, &str)> {
        self.root.parts().into_iter().filter_map(audience_of).collect()
    }

    /// The offers whose history it reads, and by which part.
    pub fn offers(&self) -> Vec<(u64, &str)> {
        self.root.parts().into_iter().filter_map(offer_of).collect()
    }

    pub(crate) fn root(&self) -> &Tree {
        &self.root
    }
}

fn audience_of(part: &Tree) -> Option<(u64, &str)> {
    match &part.syntax {
        Syntax::Call(Function::Audience, arguments) => match &arguments.first()?.syntax {
            Syntax::Text(name) => Some((part.id, name)),
            _ => None,
        },
        _ => None,
    }
}

fn offer_of(part: &Tree) -> Option<(u64, &str)> {
    match &part.syntax {
        Syntax::Path(path) | Syntax::Has(path) if path.root() == "offers" => Some((part.id, path.rest().first()?)),
        _ => None,
    }
}

fn parser() -> PrattParser {
    PrattParser::new().max_recursion_depth(NESTED_MAX).error_recovery_limit(2)
}

/// Where a part stands. The parser tells places only together with an error, so it is given one.
fn place_of(text: &str, id: u64) -> String {
    let offset = parser()
        .parse(&format!("{text}\n)"))
        .err()
        .and_then(|errors| errors.errors.iter().find_map(|error| error.source_info.as_ref()?.offset_for(id)));
    place(text, offset.map_or(0, |(start, _)| start as usize))
}

/// The byte of a line and column as the parser counts them, from 1.
fn offset(text: &str, line: isize, column: isize) -> usize {
    let before = text.split_inclusive('\n').take(line.max(1) as usize - 1).map(str::len).sum::<usize>();
    before + column.max(1) as usize - 1
}

/// A byte as its line and character.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count();
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    if line == 0 { format!("at character {column}") } else { format!("at line {}, character {column}", line + 1) }
}

/// A part and what is wrong with it.
type Wrong = (u64, String);

/// The part with which a name begins: the parser has it stand at its last dot.
fn start(parsed: &IdedExpr) -> u64 {
    let mut first = parsed;
    loop {
        first = match &first.expr {
            Expr::Select(select) if !select.test => &select.operand,
            Expr::Call(call) if call.func_name == op::INDEX && !call.args.is_empty() => &call.args[0],
            _ => return first.id,
        };
    }
}

fn tree(parsed: &IdedExpr, depth: usize) -> Result<Tree, Wrong> {
    let id = start(parsed);
    let at = |detail: String| (id, detail);
    let wrong = |detail: String| Err(at(detail));
    if depth > DEPTH_MAX {
        return wrong(format!(
            "more than {DEPTH_MAX} operators stand within each other; split the condition into audiences"
        ));
    }
    let all = |parts: &[IdedExpr]| parts.iter().map(|part| tree(part, depth + 1)).collect::<Result<Vec<_>, _>>();
    let syntax = match &parsed.expr {
        Expr::Literal(literal) => self::literal(literal).map_err(at)?,
        Expr::Select(select) if select.test => {
            let mut names = names(&select.operand, NAMES_MAX)
                .ok_or_else(|| (id, "`has()` takes a name, such as has(trait.country)".to_owned()))?;
            names.push(select.field.as_str().into());
            Syntax::Has(path(names).map_err(at)?)
        }
        Expr::Ident(_) | Expr::Select(_) => match names(parsed, NAMES_MAX) {
            Some(names) => Syntax::Path(path(names).map_err(at)?),
            None => return wrong(format!("only a name can be selected in, of at most {NAMES_MAX} parts")),
        },
        Expr::List(list) => Syntax::List(all(&list.elements)?),
        Expr::Call(call) if call.func_name == op::INDEX => match names(parsed, NAMES_MAX) {
            Some(names) => Syntax::Path(path(names).map_err(at)?),
            None => return wrong("an index is a name in quotes, such as offers[\"wooden-train\"]".to_owned()),
        },
        Expr::Call(call) => {
            let arguments: Vec<Tree> = call
                .target
                .iter()
                .map(|target| tree(target, depth + 1))
                .chain(all(&call.args)?.into_iter().map(Ok))
                .collect::<Result<_, _>>()?;
            let function = function(call, arguments.len()).map_err(at)?;
            if function == Function::Audience && !matches!(arguments[0].syntax, Syntax::Text(_)) {
                return Err((arguments[0].id, "`audience()` takes a name in quotes".to_owned()));
            }
            Syntax::Call(function, arguments)
        }
        Expr::Comprehension(_) => return wrong("macros such as all(), exists() or map() are not offered".to_owned()),
        Expr::Map(_) | Expr::Struct(_) => return wrong("maps and messages are not offered".to_owned()),
        Expr::Unspecified => return wrong("is no CEL expression".to_owned()),
    };
    Ok(Tree { id, syntax })
}

fn literal(literal: &LiteralValue) -> Result<Syntax, String> {
    Ok(match literal {
        LiteralValue::Boolean(value) => Syntax::Flag(*value.inner()),
        LiteralValue::Int(value) => Syntax::Number(*value.inner() as f64),
        LiteralValue::UInt(value) => Syntax::Number(*value.inner() as f64),
        LiteralValue::Double(value) if value.inner().is_finite() => Syntax::Number(*value.inner()),
        LiteralValue::Double(_) => return Err("is beyond all numbers".to_owned()),
        LiteralValue::String(value) => Syntax::Text(value.inner().into()),
        LiteralValue::Null => Syntax::Null,
        LiteralValue::Bytes(_) => return Err("a text of bytes is not offered; write it without the b".to_owned()),
    })
}

/// A name with what is selected in it, by `.name` or `["name"]`; none where there is anything else in it, or too many.
fn names(parsed: &IdedExpr, most: usize) -> Option<Vec<Box<str>>> {
    let most = most.checked_sub(1)?;
    let (mut names, name) = match &parsed.expr {
        Expr::Ident(name) => return Some(vec![name.as_str().into()]),
        Expr::Select(select) if !select.test => (self::names(&select.operand, most)?, select.field.as_str()),
        Expr::Call(call) if call.func_name == op::INDEX => {
            let [of, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(name)) = &index.expr else { return None };
            (self::names(of, most)?, name.inner())
        }
        _ => return None,
    };
    names.push(name.into());
    Some(names)
}

/// What begins as something that there is, and goes as far as it must.
fn path(names: Vec<Box<str>>) -> Result<Path, String> {
    let path = Path(names);
    let (root, behind) = (path.root(), path.rest().len());
    let (least, most, such) = match root {
        "trait" => (1, NAMES_MAX, "trait.country"),
        "agg" => (2, NAMES_MAX, "agg.retail.orders"),
        "score" => (2, 2, "score.retail.p_alive"),
        "ctx" => (1, NAMES_MAX, "ctx.page.path"),
        "offers" => (2, 2, "offers[\"wooden-train\"].shown"),
        "now" | "channel" => (0, 0, root),
        entity if ENTITIES.contains(&entity) => (2, NAMES_MAX, "household.trait.plan"),
        _ => {
            let known = || ROOTS.into_iter().chain(ENTITIES);
            return Err(match crate::config::nearest(root, known()) {
                Some(nearest) => format!("unknown name `{root}`; did you mean `{nearest}`?"),
                None => format!("unknown name `{root}`; there are {}", known().collect::<Vec<_>>().join(", ")),
            });
        }
    };
    if behind < least || behind > most {
        let how = if behind < least { "is not complete" } else { "goes too far" };
        return Err(format!("`{}` {how}; write it like {such}", path.text()));
    }
    Ok(path)
}

fn function(call: &CallExpr, arguments: usize) -> Result<Function, String> {
    let operator = match call.func_name.as_str() {
        op::LOGICAL_AND => Function::And,
        op::LOGICAL_OR => Function::Or,
        op::LOGICAL_NOT => Function::Not,
        op::CONDITIONAL => Function::If,
        op::EQUALS => Function::Equal,
        op::NOT_EQUALS => Function::NotEqual,
        op::LESS => Function::Less,
        op::LESS_EQUALS => Function::AtMost,
        op::GREATER => Function::Greater,
        op::GREATER_EQUALS => Function::AtLeast,
        op::IN => Function::In,
        op::ADD => Function::Add,
        op::SUBSTRACT => Function::Subtract,
        op::MULTIPLY => Function::Multiply,
        op::DIVIDE => Function::Divide,
        op::MODULO => Function::Remainder,
        op::NEGATE => Function::Negate,
        name => return Function::find(name, call.target.is_some(), arguments),
    };
    Ok(operator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Expression::parse(text).err().unwrap_or_else(|| panic!("{text:?} parses"))
    }

    #[test]
    fn what_does_not_parse_says_where() {
        assert!(fault("trait.total >").starts_with("at character 14: does not parse: "), "{}", fault("trait.total >"));
        assert!(fault("trait.a\n  && && true").starts_with("at line 2, character 6: "));
        assert!(fault("").contains("does not parse"));
        assert!(fault("'open").contains("at character 1"), "{}", fault("'open"));
        assert!(fault(&"a".repeat(2_001)).contains("at most 2000"));
    }

    #[test]
    fn what_is_not_offered_is_named() {
        assert_eq!(fault("trait.é"), fault("trait.é"));
        assert_eq!(fault("true && triat.a"), "at character 9: unknown name `triat`; did you mean `trait`?");
        assert_eq!(fault("trait"), "at character 1: `trait` is not complete; write it like trait.country");
        assert!(fault("score.a.b.c").contains("goes too far"));
        assert!(fault("trait.a.startWith('x')").contains("did you mean `startsWith()`?"));
        assert!(fault("trait.a.startsWith()").contains("takes 1 arguments, not 0"));
        assert!(fault("startsWith(trait.a, 'b')").contains("write value.startsWith(…)"));
        assert!(fault("trait.a.matches('x+')").contains("no bound"));
        assert!(fault("[1].all(x, x > 0)").contains("macros"));
        assert!(fault("{'a': 1}.a == 1").contains("only a name can be selected in"));
        assert!(fault("trait.a[0] == 1").contains("an index is a name in quotes"));
        assert!(fault("audience(trait.a)").contains("takes a name in quotes"));
    }

    #[test]
    fn names_in_quotes_are_names() {
        let parsed = Expression::parse("has(offers['wooden-train'].last_shown_at) || audience(\"vip\")").expect("CEL");
        assert_eq!(parsed.offers().into_iter().map(|(_, id)| id).collect::<Vec<_>>(), ["wooden-train"]);
        assert_eq!(parsed.audiences().into_iter().map(|(_, name)| name).collect::<Vec<_>>(), ["vip"]);
    }

    #[test]
    fn depth_is_bounded_but_rows_may_be_long() {
        let deep = |depth: usize| format!("{}1 == 1{}", "(true && ".repeat(depth), ")".repeat(depth));
        assert!(Expression::parse(&deep(20)).is_ok());
        assert!(fault(&deep(100)).contains("recursion limit"));
        assert!(fault(&format!("{}true", "true ? false : ".repeat(100))).contains("within each other"));
        assert!(fault(&format!("1{} == 1", " + 1".repeat(400))).contains("within each other"));
        let long: Vec<String> = (0..70).map(|of| format!("trait.a == 'some-{of}'")).collect();
        assert!(Expression::parse(&long.join(" || ")).is_ok());
    }
}
