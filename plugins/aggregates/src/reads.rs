//! Paths to columns: what the plugin declares to read, and of which type, as it follows from how the definitions use a path.

use cel::common::ast::operators::INDEX;
use cel::common::ast::{Expr, IdedExpr, LiteralValue};
use selvedge_guest::bindings::{Fault, Kind};

use crate::fault::{self, unknown};
use crate::program::{Column, Declared, number_of};

/// The roots of a path, and how they are used.
const ROOTS: [&str; 7] = ["properties", "traits", "context", "name", "type", "messageId", "timestamp"];
const NESTED: [&str; 3] = ["properties", "traits", "context"];

/// A path into an event, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Such as `properties.products[].price`.
    pub text: String,
}

impl Path {
    /// The list whose elements it names, such as `properties.products`; none where it names one value.
    pub fn list(&self) -> Option<&str> {
        self.text.split_once("[]").map(|(list, _)| list)
    }

    /// Of a syntax tree; none where that is no path at all.
    pub fn of(tree: &IdedExpr) -> Option<Result<Self, String>> {
        let mut text = String::new();
        append(tree, &mut text)?;
        Some(Self::check(text))
    }

    fn check(text: String) -> Result<Self, String> {
        if text.contains(FAULTY) {
            return Err(format!(
                "the path `{}` has a name that is empty or has `.`, `[` or `]` in it; such a name cannot be read",
                text.replace(FAULTY, "?")
            ));
        }
        let (root, rest) = text.find(['.', '[']).map_or((text.as_str(), ""), |end| text.split_at(end));
        let fault = match rest {
            _ if !ROOTS.contains(&root) => {
                let what = unknown("name", root, &ROOTS);
                format!("{what} (an event has properties.…, traits.…, context.…, name, type, messageId and timestamp)")
            }
            "" if NESTED.contains(&root) => format!("`{root}` is an object; name a value in it, as {root}.…"),
            _ if rest.starts_with('[') => format!("`{root}` is no list"),
            _ if !rest.is_empty() && !NESTED.contains(&root) => format!("`{root}` has nothing in it"),
            _ if text.matches("[]").count() > 1 => {
                format!("the path `{text}` has two `[]`; at most one list can be read")
            }
            _ => return Ok(Self { text }),
        };
        Err(fault)
    }
}

/// Stands for a name that no path can have, until it is reported.
const FAULTY: char = '\u{0}';

fn append(tree: &IdedExpr, text: &mut String) -> Option<()> {
    match &tree.expr {
        Expr::Ident(name) => text.push_str(name),
        Expr::Select(select) if !select.test => {
            append(&select.operand, text)?;
            push(&select.field, text);
        }
        Expr::Call(call) if call.func_name == INDEX => {
            let [list, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(name)) = &index.expr else { return None };
            append(list, text)?;
            match name.inner() {
                "" => text.push_str("[]"),
                name => push(name, text),
            }
        }
        _ => return None,
    }
    Some(())
}

fn push(name: &str, text: &mut String) {
    text.push('.');
    match name.contains(['.', '[', ']']) || name.is_empty() {
        true => text.push(FAULTY),
        false => text.push_str(name),
    }
}

/// How a path is used; uses that exclude each other are a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Text,
    Number,
    Flag,
    Instant,
    Key,
}

impl Use {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Choice | Kind::Text => Self::Text,
            Kind::Flag => Self::Flag,
            Kind::Instant | Kind::Day => Self::Instant,
            Kind::Key => Self::Key,
            Kind::Number | Kind::Integer | Kind::Decimal => Self::Number,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Flag => "true or false",
            Self::Instant => "an instant",
            Self::Key => "a key",
        }
    }

    /// Whether one value can be read both ways. A key takes texts and numbers.
    fn agrees(self, other: Self) -> bool {
        let key_of = |one, other| one == Self::Key && matches!(other, Self::Text | Self::Number);
        self == other || key_of(self, other) || key_of(other, self)
    }
}

/// What is known of one path.
struct Known {
    path: Path,
    /// The place where it was first used in each way.
    uses: Vec<(Use, String)>,
    columns: Vec<(Kind, Column)>,
}

/// The position of a path among the known ones.
pub type PathId = usize;

/// All reads.
#[derive(Default)]
pub struct Reads {
    known: Vec<Known>,
    declared: Vec<Declared>,
    scalars: u16,
    lists: u16,
    /// The scalar columns of each family, by the first kind of it.
    families: [u16; 3],
}

impl Reads {
    /// The position of a path.
    pub fn path(&mut self, path: &Path) -> PathId {
        match self.known.iter().position(|known| known.path == *path) {
            Some(index) => index,
            None => {
                self.known.push(Known { path: path.clone(), uses: Vec::new(), columns: Vec::new() });
                self.known.len() - 1
            }
        }
    }

    /// The column of a path, read as a kind. The fault says what else it is used as, and where.
    pub fn column(&mut self, path: PathId, kind: Kind, place: &str) -> Result<Column, String> {
        let used = Use::of(kind);
        let known = &mut self.known[path];
        if let Some(fault) = envelope_fault(&known.path.text, kind) {
            return Err(fault);
        }
        if let Some((other, elsewhere)) = known.uses.iter().find(|(other, _)| !other.agrees(used)) {
            return Err(format!(
                "`{}` is used as {} here and as {} in {elsewhere}",
                known.path.text,
                used.name(),
                other.name()
            ));
        }
        if !known.uses.iter().any(|(other, _)| *other == used) {
            known.uses.push((used, place.to_owned()));
        }
        if let Some((_, column)) = known.columns.iter().find(|(other, _)| *other == kind) {
            return Ok(*column);
        }
        let column = match known.path.list() {
            Some(_) => {
                self.lists += 1;
                Column::List(self.lists - 1)
            }
            None => {
                let family = &mut self.families[family(kind)];
                (self.scalars, *family) = (self.scalars + 1, *family + 1);
                Column::Scalar { bit: self.scalars - 1, index: *family - 1 }
            }
        };
        known.columns.push((kind, column));
        let path = format!("event:{}", known.path.text);
        self.declared.push(Declared { path, kind: number_of(kind), choices: Vec::new() });
        Ok(column)
    }

    /// The code of a text among the choices of a path that is read as a choice.
    pub fn code(&mut self, path: PathId, text: &str) -> u32 {
        let name = format!("event:{}", self.known[path].path.text);
        let choice = number_of(Kind::Choice);
        let Some(read) = self.declared.iter_mut().find(|read| read.path == name && read.kind == choice) else {
            return 0;
        };
        let code = read.choices.iter().position(|known| known == text).unwrap_or_else(|| {
            read.choices.push(text.to_owned());
            read.choices.len() - 1
        });
        code as u32
    }

    /// A column that says whether a path is there, whatever it is read as; a text that is no choice is there, too. Asked when all uses
    /// are known.
    pub fn presence(&mut self, path: PathId, place: &str) -> Result<Column, String> {
        let seen = self.known[path].columns.iter().find(|(kind, _)| *kind != Kind::Choice);
        match seen {
            Some((_, column)) => Ok(*column),
            None => self.column(path, Kind::Key, place),
        }
    }

    /// A list column of the list that a path goes through. Asked when all uses are known.
    pub fn list(&mut self, path: PathId, place: &str) -> Result<u16, String> {
        let list = self.known[path].path.list().map(str::to_owned);
        let found = self.known.iter().filter(|known| known.path.list().map(str::to_owned) == list);
        let found = found.flat_map(|known| &known.columns).find_map(|(_, column)| as_list(*column));
        match found {
            Some(column) => Ok(column),
            None => Ok(as_list(self.column(path, Kind::Key, place)?).unwrap_or(0)),
        }
    }

    /// The number of columns of a list.
    pub fn list_columns(&self, list: &str) -> usize {
        let of_list = self.known.iter().filter(|known| known.path.list() == Some(list));
        of_list.map(|known| known.columns.len()).sum()
    }

    /// The number of scalar columns, and all declarations; or the paths of which one is a value and the other one in it.
    pub fn finish(self) -> Result<(u16, Vec<Declared>), Fault> {
        let read = || self.known.iter().filter(|known| !known.columns.is_empty());
        for outer in read() {
            let inside =
                |text: &str| text.strip_prefix(&outer.path.text).is_some_and(|rest| rest.starts_with(['.', '[']));
            if let Some(inner) = read().find(|inner| inside(&inner.path.text)) {
                let place = |known: &Known| known.uses.first().map(|(_, place)| place.clone()).unwrap_or_default();
                let (outer_text, inner_text) = (&outer.path.text, &inner.path.text);
                return Err(fault::at(
                    place(inner),
                    format!(
                        "`{inner_text}` is read here, but {} reads `{outer_text}` as a value of its own",
                        place(outer)
                    ),
                ));
            }
        }
        Ok((self.scalars, self.declared))
    }
}

fn as_list(column: Column) -> Option<u16> {
    match column {
        Column::List(list) => Some(list),
        Column::Scalar { .. } => None,
    }
}

/// The position of a kind's family among those that are used here.
fn family(kind: Kind) -> usize {
    match kind {
        Kind::Number | Kind::Integer | Kind::Decimal | Kind::Instant | Kind::Day => 0,
        Kind::Flag | Kind::Choice | Kind::Key => 1,
        Kind::Text => 2,
    }
}

/// What of the event itself has a type of its own.
fn envelope_fault(path: &str, kind: Kind) -> Option<String> {
    let (holds, needed) = match path {
        "name" | "type" | "messageId" => (matches!(kind, Kind::Choice | Kind::Key | Kind::Text), "a text"),
        "timestamp" => (kind == Kind::Instant, "an instant, which only a value of kind instant can be"),
        _ => return None,
    };
    (!holds).then(|| format!("`{path}` is {needed}"))
}
