//! The syntax of conditions: what a parsed text is made of, and the functions that there are.
//!
//! Knows nothing of types; those follow from what names stand for.

/// A part of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    /// By which its place in the text is found.
    pub(crate) id: u64,
    pub(crate) syntax: Syntax,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Syntax {
    Flag(bool),
    Number(f64),
    Text(Box<str>),
    Null,
    List(Vec<Tree>),
    /// A name and what is selected in it: `trait.country`, `offers["wooden-train"].shown`.
    Path(Path),
    /// `has(path)`.
    Has(Path),
    /// An operator, a function, or a method with what it is asked of in front.
    Call(Function, Vec<Tree>),
}

/// A root and names in it; at least the root.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path(pub(crate) Vec<Box<str>>);

impl Path {
    /// The first name.
    pub(crate) fn root(&self) -> &str {
        self.0.first().map_or("", AsRef::as_ref)
    }

    /// The names behind it.
    pub(crate) fn rest(&self) -> &[Box<str>] {
        self.0.get(1..).unwrap_or(&[])
    }

    /// As it would be written.
    pub(crate) fn text(&self) -> String {
        let mut text = self.root().to_owned();
        for name in self.rest() {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && !name.is_empty()
                && !name.as_bytes()[0].is_ascii_digit();
            if plain {
                text.push('.');
                text.push_str(name);
            } else {
                text.push_str(&format!("[{name:?}]"));
            }
        }
        text
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    And,
    Or,
    Not,
    If,
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Negate,
    StartsWith,
    EndsWith,
    Contains,
    Size,
    Timestamp,
    Duration,
    Audience,
    DistanceKm,
    Clock(Clock),
}

/// What of an instant is read off calendar and clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Year,
    /// From 0.
    Month,
    /// From 1.
    Date,
    /// From 0, a Sunday.
    DayOfWeek,
    Hours,
    Minutes,
}

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `size(text)`
    Function,
    /// `text.startsWith(part)`
    Method,
    Either,
}

/// Names, forms, and how many arguments there are, that of a method included.
const FUNCTIONS: &[(&str, Function, Form, &[usize])] = &[
    ("startsWith", Function::StartsWith, Form::Method, &[2]),
    ("endsWith", Function::EndsWith, Form::Method, &[2]),
    ("contains", Function::Contains, Form::Method, &[2]),
    ("size", Function::Size, Form::Either, &[1]),
    ("timestamp", Function::Timestamp, Form::Function, &[1]),
    ("duration", Function::Duration, Form::Function, &[1]),
    ("audience", Function::Audience, Form::Function, &[1]),
    ("distance_km", Function::DistanceKm, Form::Function, &[4]),
    ("getFullYear", Function::Clock(Clock::Year), Form::Method, &[1, 2]),
    ("getMonth", Function::Clock(Clock::Month), Form::Method, &[1, 2]),
    ("getDate", Function::Clock(Clock::Date), Form::Method, &[1, 2]),
    ("getDayOfWeek", Function::Clock(Clock::DayOfWeek), Form::Method, &[1, 2]),
    ("getHours", Function::Clock(Clock::Hours), Form::Method, &[1, 2]),
    ("getMinutes", Function::Clock(Clock::Minutes), Form::Method, &[1, 2]),
];

impl Function {
    /// The function of a call; or what is wrong with it.
    pub(crate) fn find(name: &str, method: bool, arguments: usize) -> Result<Self, String> {
        let Some((_, function, form, counts)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            let known = || FUNCTIONS.iter().map(|(known, ..)| *known);
            return Err(match crate::config::nearest(name, known()) {
                _ if name == "matches" => {
                    "`matches()` is not offered, since its cost has no bound; use startsWith(), endsWith() or contains()".to_owned()
                }
                Some(nearest) => format!("unknown function `{name}()`; did you mean `{nearest}()`?"),
                None => format!("unknown function `{name}()`; there are {}", known().collect::<Vec<_>>().join(", ")),
            });
        };
        match (form, method) {
            (Form::Function, true) => return Err(format!("`{name}()` is asked of nothing; write {name}(…)")),
            (Form::Method, false) => return Err(format!("`{name}()` is asked of a value; write value.{name}(…)")),
            _ => {}
        }
        if !counts.contains(&arguments) {
            let own = |count: &usize| (count - usize::from(method)).to_string();
            let counts = counts.iter().map(own).collect::<Vec<_>>().join(" or ");
            return Err(format!("`{name}()` takes {counts} arguments, not {}", arguments - usize::from(method)));
        }
        Ok(*function)
    }

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::And => "&&",
            Self::Or => "||",
            Self::Not => "!",
            Self::If => "? :",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract | Self::Negate => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            other => FUNCTIONS.iter().find(|(_, known, ..)| *known == other).map_or("", |(name, ..)| name),
        }
    }
}

impl Tree {
    /// Every part, this one first.
    pub(crate) fn parts(&self) -> Vec<&Self> {
        let (mut parts, mut next) = (vec![self], 0);
        while let Some(part) = parts.get(next) {
            if let Syntax::List(inner) | Syntax::Call(_, inner) = &part.syntax {
                parts.extend(inner);
            }
            next += 1;
        }
        parts
    }

    /// A construct by its name, for messages.
    pub(crate) fn name(&self) -> String {
        match &self.syntax {
            Syntax::Flag(_) => "true or false".to_owned(),
            Syntax::Number(_) => "a number".to_owned(),
            Syntax::Text(_) => "a text".to_owned(),
            Syntax::Null => "`null`".to_owned(),
            Syntax::List(_) => "a list".to_owned(),
            Syntax::Path(path) => format!("`{}`", path.text()),
            Syntax::Has(_) => "`has()`".to_owned(),
            Syntax::Call(function, _)
                if function.name().starts_with(|first: char| first.is_ascii_alphabetic())
                    && *function != Function::In =>
            {
                format!("`{}()`", function.name())
            }
            Syntax::Call(function, _) => format!("`{}`", function.name()),
        }
    }
}
