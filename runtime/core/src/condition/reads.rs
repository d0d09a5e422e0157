//! What names stand for: where each is read, of which type, and what that costs.

use compact_str::CompactString;

use super::syntax::Path;
use crate::aggregate::Reading;
use crate::config::nearest;
use crate::identity::ENTITIES;
use crate::json_paths::JsonPaths;
use crate::offers::OfferHistory;
use crate::value::{Kind, Timestamp};
use crate::view::Schema;

/// The type of a part of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Flag,
    Number,
    Text,
    Instant,
    Duration,
    /// Whatever JSON says: it is read as it is used.
    Any,
    /// Of texts or numbers.
    List,
    Null,
}

impl Type {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Instant => "an instant",
            Self::Duration => "a duration",
            Self::Any => "any value",
            Self::List => "a list",
            Self::Null => "nothing",
        }
    }
}

/// Where something is read.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Of the visitor or of an entity; what lies in it, if that is asked for.
    Trait {
        entity: Option<usize>,
        name: Box<str>,
        inside: Option<JsonPaths>,
    },
    /// A single value.
    Aggregate {
        entity: Option<usize>,
        reading: usize,
    },
    /// A list, or the keys of an aggregate by key.
    Elements {
        entity: Option<usize>,
        reading: usize,
    },
    /// The weight of one key.
    Weight {
        entity: Option<usize>,
        reading: usize,
        key: CompactString,
    },
    Score(usize),
    /// Of the request's context, found in one pass.
    Context,
    Offer(CompactString, OfferField),
    Channel,
    Now,
}

/// One thing that conditions read.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// As it would be written.
    pub(super) name: String,
    pub(super) source: Source,
    pub(super) of: Type,
    pub(super) cost: u32,
}

/// What of an offer's history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferField {
    Decided,
    Shown,
    Clicked,
    Accepted,
    Dismissed,
    LastDecidedAt,
    LastShownAt,
    LastClickedAt,
    LastAcceptedAt,
    LastDismissedAt,
}

const OFFER_FIELDS: [(&str, OfferField); 10] = [
    ("decided", OfferField::Decided),
    ("shown", OfferField::Shown),
    ("clicked", OfferField::Clicked),
    ("accepted", OfferField::Accepted),
    ("dismissed", OfferField::Dismissed),
    ("last_decided_at", OfferField::LastDecidedAt),
    ("last_shown_at", OfferField::LastShownAt),
    ("last_clicked_at", OfferField::LastClickedAt),
    ("last_accepted_at", OfferField::LastAcceptedAt),
    ("last_dismissed_at", OfferField::LastDismissedAt),
];

impl OfferField {
    /// A count, or an instant in milliseconds.
    pub(super) fn of(self, history: &OfferHistory) -> Option<f64> {
        let count = |count: u64| Some(count as f64);
        let instant = |at: Option<Timestamp>| at.map(|at| at.0 as f64);
        match self {
            Self::Decided => count(history.decided),
            Self::Shown => count(history.shown),
            Self::Clicked => count(history.clicked),
            Self::Accepted => count(history.accepted),
            Self::Dismissed => count(history.dismissed),
            Self::LastDecidedAt => instant(history.last_decided_at),
            Self::LastShownAt => instant(history.last_shown_at),
            Self::LastClickedAt => instant(history.last_clicked_at),
            Self::LastAcceptedAt => instant(history.last_accepted_at),
            Self::LastDismissedAt => instant(history.last_dismissed_at),
        }
    }
}

const COST_GIVEN: u32 = 1;
const COST_FOUND: u32 = 5;
const COST_PARSED: u32 = 20;
/// What is added up over a window.
const COST_SUMMED: u32 = 10;
const COST_OF_KEY: u32 = 50;
const COST_ALL_KEYS: u32 = 200;

impl Read {
    /// What a path stands for. The fault names the nearest that there is.
    pub(super) fn of(path: &Path, schema: &Schema) -> Result<Self, String> {
        let rest = path.rest();
        let (source, of, cost) = match path.root() {
            "trait" => trait_read(None, rest)?,
            "agg" => aggregate(None, rest, schema)?,
            "score" => {
                let name = rest.join(".");
                let names = || schema.scores.iter().map(|score| score.name.as_str());
                let index = schema.score(&name).ok_or_else(|| unknown("score", &name, names()))?;
                (Source::Score(index), Type::Number, COST_GIVEN)
            }
            "ctx" if *rest == [Box::from("channel")] => (Source::Channel, Type::Text, COST_GIVEN),
            "ctx" => (Source::Context, Type::Any, COST_PARSED),
            "offers" => offer(rest)?,
            "channel" => (Source::Channel, Type::Text, COST_GIVEN),
            "now" => (Source::Now, Type::Instant, COST_GIVEN),
            root => {
                let entity = ENTITIES.iter().position(|entity| *entity == root);
                match rest.first().map(AsRef::as_ref) {
                    Some("trait") => trait_read(entity, &rest[1..])?,
                    Some("agg") if rest.len() > 2 => aggregate(entity, &rest[1..], schema)?,
                    _ => return Err(format!("of a {root} there is {root}.trait.… and {root}.agg.…")),
                }
            }
        };
        Ok(Self { name: path.text(), source, of, cost })
    }

    /// The entity that it is read of.
    pub(super) fn entity(&self) -> Option<usize> {
        match &self.source {
            Source::Trait { entity, .. }
            | Source::Aggregate { entity, .. }
            | Source::Elements { entity, .. }
            | Source::Weight { entity, .. } => *entity,
            _ => None,
        }
    }
}

/// The path in a request's context, or in a trait, as its reader takes it.
pub(super) fn inner_path(names: &[Box<str>]) -> Result<String, String> {
    match names.iter().find(|name| name.is_empty() || name.contains(['.', '[', ']'])) {
        Some(faulty) => {
            Err(format!("the name {faulty:?} is empty or has `.`, `[` or `]` in it; such a name cannot be read"))
        }
        None => Ok(names.join(".")),
    }
}

type Found = (Source, Type, u32);

fn trait_read(entity: Option<usize>, names: &[Box<str>]) -> Result<Found, String> {
    let Some((name, inner)) = names.split_first() else { return Err("a trait has a name".to_owned()) };
    let mut inside = None;
    if !inner.is_empty() {
        let paths: &mut JsonPaths = inside.get_or_insert_default();
        paths.add(&inner_path(inner)?, 0)?;
    }
    let cost = if inner.is_empty() { COST_FOUND } else { COST_PARSED };
    Ok((Source::Trait { entity, name: name.clone(), inside }, Type::Any, cost))
}

/// `PLUGIN.NAME`, or `PLUGIN.NAME["key"]` of an aggregate by key.
fn aggregate(entity: Option<usize>, names: &[Box<str>], schema: &Schema) -> Result<Found, String> {
    let definitions = &schema.definitions;
    let whole = names.join(".");
    if let Some(reading) = definitions.find(&whole) {
        let found = &definitions.readings()[reading];
        return Ok(if found.keyed || found.listed {
            (Source::Elements { entity, reading }, Type::List, COST_ALL_KEYS)
        } else {
            (Source::Aggregate { entity, reading }, type_of(found)?, COST_SUMMED)
        });
    }
    let by_key = names.split_last().and_then(|(key, names)| Some((key, definitions.find(&names.join("."))?)));
    if let Some((key, reading)) = by_key {
        let found = &definitions.readings()[reading];
        if !found.keyed {
            return Err(format!("the aggregate {:?} is no aggregate by key, so it has no {key:?}", found.name));
        }
        let source = Source::Weight { entity, reading, key: key.as_ref().into() };
        return Ok((source, type_of(found)?, COST_OF_KEY));
    }
    Err(unknown("aggregate", &whole, definitions.readings().iter().map(|reading| reading.name.as_str())))
}

fn type_of(reading: &Reading) -> Result<Type, String> {
    Ok(match reading.kind {
        Kind::Number | Kind::Integer | Kind::Decimal => Type::Number,
        Kind::Instant => Type::Instant,
        Kind::Key | Kind::Choice | Kind::Text => Type::Text,
        Kind::Flag | Kind::Day => {
            return Err(format!(
                "the aggregate {:?} is a {}, which conditions do not read",
                reading.name,
                reading.kind.name()
            ));
        }
    })
}

fn offer(names: &[Box<str>]) -> Result<Found, String> {
    let [id, field] = names else { return Err("an offer's history is read as offers[\"id\"].shown".to_owned()) };
    let known = OFFER_FIELDS.iter().find(|(name, _)| *name == field.as_ref()).map(|(_, field)| *field);
    let names = || OFFER_FIELDS.iter().map(|(name, _)| *name);
    let known = known.ok_or_else(|| match nearest(field, names()) {
        Some(nearest) => format!("an offer's history has no {field:?}; did you mean {nearest:?}?"),
        None => format!("an offer's history has no {field:?}; it has {}", names().collect::<Vec<_>>().join(", ")),
    })?;
    let of = if field.ends_with("_at") { Type::Instant } else { Type::Number };
    Ok((Source::Offer(id.as_ref().into(), known), of, COST_FOUND))
}

/// That nobody defines a name that only plugins do, and the mend.
pub(crate) fn unknown<'k>(kind: &str, name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let mut known = known.peekable();
    let is_any = known.peek().is_some();
    let mend = match nearest(name, known) {
        _ if !is_any => "; no plugin runs yet that defines any: release its plugin first, or both together".to_owned(),
        Some(nearest) => format!("; did you mean {nearest:?}?"),
        None => String::new(),
    };
    format!("no active plugin defines the {kind} {name:?}{mend}")
}
