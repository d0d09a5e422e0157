//! Lowering: events, visitors and offers as the columns that a plugin declared to read.
//!
//! Declarations are resolved once, when a plugin is loaded (and offers when a catalogue is); a call only moves values.

mod aggregates;
mod given;

use std::sync::Arc;

use compact_str::CompactString;
use serde_json::value::RawValue;

use self::aggregates::{
    Part, aggregate_cell, elements, find_reading, kinds_of, list_reading, scalar_reading, value_cell,
};
pub use self::given::GivenRows;
use crate::aggregate::{Definitions, Reading, Weight};
use crate::catalog::Catalog;
use crate::columns::{Cell, Columns, Keys, Shape, Table};
use crate::config::Config;
use crate::event::{Event, Refusal};
use crate::fragment::Fragment;
use crate::identity::ENTITIES;
use crate::json_paths::{JsonPaths, Sink};
use crate::prepared::{Found, Ground, Lowered, Prepared, Token};
use crate::read::{Read, ReadError};
use crate::time::BusinessTime;
use crate::traits::{Trait, TraitSources};
use crate::value::{Decimal, Kind, Timestamp};
use crate::view::{Schema, Subject};

/// A value that is the same in every call. Keys have handles per call, so they stay texts.
#[derive(Clone, Debug, PartialEq)]
enum Fixed {
    Cell(Cell),
    Key(CompactString),
    Absent,
}

impl Fixed {
    /// A JSON value known before any call; the error says what was expected.
    fn of_json(read: &Read, raw: Option<&RawValue>, time: &BusinessTime) -> Result<Self, &'static str> {
        let mut keys = Keys::default();
        let Some(raw) = raw else { return Ok(Self::Absent) };
        Ok(match read.cell(raw, time, &mut keys)? {
            None => Self::Absent,
            Some(Cell::Code(handle)) if read.kind == Kind::Key => {
                keys.get(handle).map_or(Self::Absent, |key| Self::Key(key.clone()))
            }
            Some(cell) => Self::Cell(cell),
        })
    }

    fn of_config(read: &Read, key: &str, config: &Config, time: &BusinessTime) -> Result<Self, ReadError> {
        Self::of_json(read, config.get(key).as_deref(), time)
            .map_err(|expected| read.fault(format!("the configuration's value {expected}")))
    }

    fn cell(&self, keys: &mut Keys) -> Option<Cell> {
        match self {
            Self::Cell(cell) => Some(cell.clone()),
            Self::Key(text) => Some(Cell::Code(keys.intern(text))),
            Self::Absent => None,
        }
    }
}

fn shape_of(reads: &[Read]) -> Shape {
    Shape::new(reads.iter().map(|read| (read.kind, read.many())))
}

fn text_cell(read: &Read, text: &str, keys: &mut Keys) -> Option<Cell> {
    match read.kind {
        Kind::Choice => read.choice(text),
        Kind::Key => Some(Cell::Code(keys.intern(text))),
        Kind::Text => Some(Cell::Text(text.to_owned())),
        _ => None,
    }
}

fn need_kind(read: &Read, kinds: &[Kind]) -> Result<(), ReadError> {
    if kinds.contains(&read.kind) {
        return Ok(());
    }
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    Err(read.fault(format!("is declared as {}; it can be read as {}", read.kind.name(), names.join(" or "))))
}

const TEXTS: &[Kind] = &[Kind::Choice, Kind::Key, Kind::Text];
const INSTANTS: &[Kind] = &[Kind::Instant, Kind::Day];

fn instant_cell(read: &Read, at: Timestamp, time: &BusinessTime) -> Cell {
    Cell::S64(if read.kind == Kind::Day { time.day(at) } else { at.0 })
}

/// What a plugin reads of an event.
#[derive(Clone, Debug)]
pub struct EventReads {
    reads: Vec<Read>,
    shape: Shape,
    payload: JsonPaths,
    envelope: Vec<(usize, Envelope)>,
    fixed: Vec<(usize, Fixed)>,
}

#[derive(Clone, Copy, Debug)]
enum Envelope {
    Name,
    Type,
    MessageId,
    Timestamp,
}

impl EventReads {
    /// Resolves declarations.
    pub fn resolve(reads: &[Read], config: &Config, time: &BusinessTime) -> Result<Self, ReadError> {
        let mut resolved = Self {
            reads: reads.to_vec(),
            shape: shape_of(reads),
            payload: JsonPaths::default(),
            envelope: Vec::new(),
            fixed: Vec::new(),
        };
        for (column, read) in reads.iter().enumerate() {
            match read.split() {
                ("event", "name") => {
                    need_kind(read, TEXTS)?;
                    resolved.envelope.push((column, Envelope::Name));
                }
                ("event", "type") => {
                    need_kind(read, TEXTS)?;
                    resolved.envelope.push((column, Envelope::Type));
                }
                ("event", "messageId") => {
                    need_kind(read, TEXTS)?;
                    resolved.envelope.push((column, Envelope::MessageId));
                }
                ("event", "timestamp") => {
                    need_kind(read, INSTANTS)?;
                    resolved.envelope.push((column, Envelope::Timestamp));
                }
                ("event", path)
                    if ["properties.", "traits.", "context."].iter().any(|start| path.starts_with(start)) =>
                {
                    resolved.payload.add(path, column).map_err(|detail| read.fault(detail))?;
                }
                ("config", key) => resolved.fixed.push((column, Fixed::of_config(read, key, config, time)?)),
                _ => {
                    return Err(read.fault(
                        "is not known here; an event has event:name, event:type, event:messageId, event:timestamp, \
                         event:properties.…, event:traits.…, event:context.…, and config:…",
                    ));
                }
            }
        }
        Ok(resolved)
    }

    /// The columns of one event, and the number of list elements in them. A value of another type than declared refuses the event where
    /// that is `strict`, at the door; in an event of the log, which an older declaration let in, it is absent.
    pub fn lower(
        &self,
        event: &Event,
        time: &BusinessTime,
        keys: &mut Keys,
        strict: bool,
    ) -> Result<(Columns, usize), Refusal> {
        let mut table = Table::new(&self.shape, 1);
        for (column, value) in &self.fixed {
            if let Some(cell) = value.cell(keys) {
                table.put(*column, 0, cell);
            }
        }
        for (column, source) in &self.envelope {
            let read = &self.reads[*column];
            let cell = match source {
                Envelope::Name => text_cell(read, &event.name, keys),
                Envelope::Type => text_cell(read, event.kind.name(), keys),
                Envelope::MessageId => text_cell(read, &event.message_id, keys),
                Envelope::Timestamp => Some(instant_cell(read, event.at, time)),
            };
            if let Some(cell) = cell {
                table.put(*column, 0, cell);
            }
        }
        let mut filling = Filling { reads: &self.reads, time, keys, table: &mut table, strict };
        let read = self.payload.read(&event.payload, &mut filling);
        if strict {
            read?;
        }
        table.end_row();
        let columns = table.finish();
        let elements = columns.elements(&self.shape);
        Ok((columns, elements))
    }
}

/// Puts what is found in a JSON text into a table of one row.
struct Filling<'a, 's> {
    reads: &'a [Read],
    time: &'a BusinessTime,
    keys: &'a mut Keys,
    table: &'a mut Table<'s>,
    /// Whether a value of another type is an error, or just absent.
    strict: bool,
}

impl Sink<'_> for Filling<'_, '_> {
    fn value(&mut self, column: usize, raw: &RawValue) -> Result<(), &'static str> {
        let read = &self.reads[column];
        let cell = match read.cell(raw, self.time, self.keys) {
            Err(expected) if self.strict => return Err(expected),
            cell => cell.ok().flatten(),
        };
        match cell {
            Some(cell) if !self.table.is_list(column) => self.table.put(column, 0, cell),
            cell => self.table.put_last(column, cell),
        }
        Ok(())
    }

    fn list(&mut self, columns: &[usize]) {
        columns.iter().for_each(|column| self.table.clear_row(*column));
    }

    fn element(&mut self, columns: &[usize]) {
        columns.iter().for_each(|column| self.table.push(*column, None));
    }
}

/// What a plugin reads of a visitor.
#[derive(Clone, Debug)]
pub struct VisitorReads {
    reads: Vec<Read>,
    /// Their names as JSON, for whoever is told what a plugin was given.
    names: Vec<Box<str>>,
    shape: Shape,
    sources: Vec<VisitorSource>,
    /// The columns of traits, ascending by name.
    traits: Vec<usize>,
    /// Columns of aggregates that are kept, by the state that they hang on; of those that hang on something else too, none is ever kept.
    of_states: Vec<(u16, usize)>,
    /// By column: whether it is filled anew in each call whatever it says: a list, or keys, whose handles are of one call.
    open: Vec<bool>,
    context: JsonPaths,
    /// Whether any of it holds from call to call, so that its columns are kept.
    lasting: bool,
    token: Token,
}

#[derive(Clone, Debug)]
enum VisitorSource {
    Aggregate(usize),
    AggregateList(usize, Part),
    Score(usize),
    Trait(String),
    /// Of an entity, by its position in [`ENTITIES`].
    EntityAggregate(usize, usize),
    EntityTrait(usize, String),
    Now,
    Seed,
    Channel,
    Context,
    Fixed(Fixed),
}

impl VisitorReads {
    /// Resolves declarations against the names that plugins define.
    pub fn resolve(reads: &[Read], schema: &Schema, config: &Config) -> Result<Self, ReadError> {
        let mut context = JsonPaths::default();
        let mut sources = Vec::with_capacity(reads.len());
        for (column, read) in reads.iter().enumerate() {
            sources.push(match read.split() {
                ("agg", path) if read.many() => {
                    let (index, part) = list_reading(read, path, &schema.definitions)?;
                    VisitorSource::AggregateList(index, part)
                }
                ("agg", name) => VisitorSource::Aggregate(scalar_reading(read, name, &schema.definitions)?),
                ("score", name) => {
                    need_kind(read, &[Kind::Number])?;
                    VisitorSource::Score(
                        schema.score(name).ok_or_else(|| read.fault("no active plugin defines this score"))?,
                    )
                }
                ("trait", name) if !name.is_empty() => VisitorSource::Trait(name.to_owned()),
                (source, name) if source.contains('.') => entity_source(read, source, name, schema)?,
                ("now", "") => {
                    need_kind(read, INSTANTS)?;
                    VisitorSource::Now
                }
                ("seed", "") => {
                    need_kind(read, &[Kind::Integer])?;
                    VisitorSource::Seed
                }
                ("ctx", "channel") => {
                    need_kind(read, TEXTS)?;
                    VisitorSource::Channel
                }
                ("ctx", path) => {
                    context.add(path, column).map_err(|detail| read.fault(detail))?;
                    VisitorSource::Context
                }
                ("config", key) => {
                    VisitorSource::Fixed(Fixed::of_config(read, key, config, schema.definitions.time())?)
                }
                _ => {
                    return Err(read.fault(
                        "is not known here; a visitor has agg:…, score:…, trait:…, household.agg:… and the like, ctx:…, now, seed, and config:…",
                    ));
                }
            });
            if read.many() && !matches!(sources.last(), Some(VisitorSource::Context | VisitorSource::AggregateList(..)))
            {
                return Err(read.fault("only ctx:… and agg:… may be a list here"));
            }
        }
        let name = |column: usize| match &sources[column] {
            VisitorSource::Trait(name) => Some(name.as_str()),
            _ => None,
        };
        let mut traits: Vec<usize> = (0..sources.len()).filter(|column| name(*column).is_some()).collect();
        traits.sort_by_key(|column| name(*column));
        let lasts = |source: &VisitorSource| matches!(source, VisitorSource::Aggregate(_) | VisitorSource::Trait(_));
        let lasting = sources.iter().any(lasts);
        let of_state = |(column, source): (usize, &VisitorSource)| match source {
            VisitorSource::Aggregate(index) => Some((schema.definitions.readings()[*index].state()?, column)),
            _ => None,
        };
        let mut of_states: Vec<(u16, usize)> = sources.iter().enumerate().filter_map(of_state).collect();
        of_states.sort_unstable();
        let open: Vec<bool> = reads.iter().map(|read| read.kind == Kind::Key || read.many()).collect();
        let (reads, shape, token) = (reads.to_vec(), shape_of(reads), Token::default());
        let names = given::names(&reads);
        Ok(Self { reads, names, shape, sources, traits, of_states, open, context, lasting, token })
    }

    /// The scores that it reads, by position.
    pub fn scores(&self) -> impl Iterator<Item = usize> + '_ {
        self.sources
            .iter()
            .filter_map(|source| if let VisitorSource::Score(index) = source { Some(*index) } else { None })
    }

    /// The entities that it reads, by position in [`ENTITIES`].
    pub fn entities(&self) -> impl Iterator<Item = usize> + '_ {
        self.sources.iter().filter_map(|source| match source {
            VisitorSource::EntityAggregate(entity, _) | VisitorSource::EntityTrait(entity, _) => Some(*entity),
            _ => None,
        })
    }

    /// The columns of one visitor, one row.
    pub fn lower(&self, subject: &Subject<'_>, definitions: &Definitions, keys: &mut Keys) -> Lowered {
        if !self.lasting {
            let mut table = Table::new(&self.shape, 1);
            self.fill(&mut table, 0..self.sources.len(), subject, definitions, keys);
            self.fill_traits(&mut table, subject, definitions.time(), keys, |_| true);
            return Lowered::Fresh(self.finish(table, subject, definitions.time(), keys));
        }
        let (fragment, at) = (subject.fragment, subject.moment.at);
        let sources = subject.trait_sources;
        let ground = Ground { of: &self.token, traits: &fragment.traits, states: &fragment.states, sources };
        let prepared = match fragment.memo.get(&ground, at) {
            Some(Found::Whole(prepared)) => prepared,
            found => {
                let prepared = Arc::new(match found {
                    Some(Found::But(before, changed)) => self.renew(&before, &changed, ground, subject, definitions),
                    _ => self.prepare(ground, subject, definitions),
                });
                fragment.memo.keep(&prepared);
                prepared
            }
        };
        if prepared.open.is_empty() {
            return Lowered::Prepared(prepared);
        }
        let mut table = Table::resume(&self.shape, prepared.columns.clone());
        self.fill(&mut table, prepared.open.iter().copied(), subject, definitions, keys);
        if self.traits.iter().any(|column| self.open[*column]) {
            self.fill_traits(&mut table, subject, definitions.time(), keys, |column| self.open[column]);
        }
        Lowered::Fresh(self.finish(table, subject, definitions.time(), keys))
    }

    /// What holds beyond one call.
    fn prepare(&self, ground: Ground<'_>, subject: &Subject<'_>, definitions: &Definitions) -> Prepared {
        let mut table = Table::new(&self.shape, 1);
        let (mut open, mut until, none) = (Vec::new(), Timestamp(i64::MAX), &mut Keys::default());
        for (column, (source, read)) in self.sources.iter().zip(&self.reads).enumerate() {
            let same_until = match source {
                _ if self.open[column] => None,
                VisitorSource::Trait(_) => continue,
                VisitorSource::Aggregate(index) => {
                    let reading = &definitions.readings()[*index];
                    definitions.same_until(reading, ground.states, subject.moment)
                }
                VisitorSource::Fixed(_) => Some(Timestamp(i64::MAX)),
                _ => None,
            };
            let Some(same_until) = same_until else {
                open.push(column);
                continue;
            };
            until = until.min(same_until);
            if let Some(cell) = self.cell(source, read, subject, definitions, none) {
                table.put(column, 0, cell);
            }
        }
        self.fill_traits(&mut table, subject, definitions.time(), none, |column| !self.open[column]);
        Prepared::new(table.scalars(), open.into(), ground, subject.moment.at, until)
    }

    /// The same where all but some states stand as they did.
    fn renew(
        &self,
        before: &Prepared,
        changed: &[u16],
        ground: Ground<'_>,
        subject: &Subject<'_>,
        definitions: &Definitions,
    ) -> Prepared {
        let mut table = Table::resume(&self.shape, before.columns.clone());
        let (mut until, none) = (before.until(), &mut Keys::default());
        for state in changed {
            let from = self.of_states.partition_point(|(of, _)| of < state);
            for (_, column) in self.of_states[from..].iter().take_while(|(of, _)| of == state) {
                let (source, read) = (&self.sources[*column], &self.reads[*column]);
                let VisitorSource::Aggregate(index) = source else { continue };
                if before.open.binary_search(column).is_ok() {
                    continue;
                }
                let same_until = definitions.same_until(&definitions.readings()[*index], ground.states, subject.moment);
                // What is known of a reading hangs on what it is, not on its state.
                let Some(same_until) = same_until else { return self.prepare(ground, subject, definitions) };
                until = until.min(same_until);
                match self.cell(source, read, subject, definitions, none) {
                    Some(cell) => table.put(*column, 0, cell),
                    None => table.leave_out(*column),
                }
            }
        }
        Prepared::new(table.scalars(), before.open.clone(), ground, subject.moment.at, until)
    }

    /// Fills columns, but for traits and what the request brings.
    fn fill(
        &self,
        table: &mut Table<'_>,
        columns: impl Iterator<Item = usize>,
        subject: &Subject<'_>,
        definitions: &Definitions,
        keys: &mut Keys,
    ) {
        for column in columns {
            let (source, read) = (&self.sources[column], &self.reads[column]);
            if let VisitorSource::AggregateList(index, part) = source {
                let reading = &definitions.readings()[*index];
                let value = definitions.evaluate(reading, &subject.fragment.states, subject.moment).value;
                for element in elements(&value, *part) {
                    let cell = value_cell(read, &element, definitions.time(), keys);
                    table.push(column, cell);
                }
            } else if let Some(cell) = self.cell(source, read, subject, definitions, keys) {
                table.put(column, 0, cell);
            }
        }
    }

    #[inline]
    fn cell(
        &self,
        source: &VisitorSource,
        read: &Read,
        subject: &Subject<'_>,
        definitions: &Definitions,
        keys: &mut Keys,
    ) -> Option<Cell> {
        match source {
            VisitorSource::Aggregate(index) => {
                aggregate_cell(read, *index, &subject.fragment.states, definitions, subject.moment, keys)
            }
            VisitorSource::Score(index) => subject.scores.get(*index).copied().flatten().map(Cell::F64),
            VisitorSource::Trait(_) | VisitorSource::Context | VisitorSource::AggregateList(..) => None,
            VisitorSource::EntityAggregate(entity, index) => {
                let states = subject.entities[*entity].as_ref().map(|entity| &entity.states);
                states.and_then(|states| aggregate_cell(read, *index, states, definitions, subject.moment, keys))
            }
            VisitorSource::EntityTrait(entity, name) => subject.entities[*entity]
                .as_ref()
                .and_then(|entity| trait_cell(read, entity, name, subject.trait_sources, definitions.time(), keys)),
            VisitorSource::Now if read.kind == Kind::Day => Some(Cell::S64(subject.moment.day)),
            VisitorSource::Now => Some(Cell::S64(subject.moment.at.0)),
            VisitorSource::Seed => Some(Cell::S64(subject.seed.cast_signed())),
            VisitorSource::Channel => text_cell(read, subject.channel, keys),
            VisitorSource::Fixed(value) => value.cell(keys),
        }
    }

    /// Fills the columns of traits that are wanted.
    fn fill_traits(
        &self,
        table: &mut Table<'_>,
        subject: &Subject<'_>,
        time: &BusinessTime,
        keys: &mut Keys,
        wanted: impl Fn(usize) -> bool,
    ) {
        let mut words = subject.fragment.traits.finder();
        for column in self.traits.iter().filter(|column| wanted(**column)) {
            let VisitorSource::Trait(name) = &self.sources[*column] else { continue };
            let word = words.get(name, subject.trait_sources);
            if let Some(cell) = word.and_then(|word| word_cell(&self.reads[*column], &word, time, keys)) {
                table.put(*column, 0, cell);
            }
        }
    }

    fn finish(&self, mut table: Table<'_>, subject: &Subject<'_>, time: &BusinessTime, keys: &mut Keys) -> Columns {
        if let Some(context) = subject.context {
            let mut filling = Filling { reads: &self.reads, time, keys, table: &mut table, strict: false };
            // A context of another shape than expected reads as absent.
            let _ = self.context.read(context.get(), &mut filling);
        }
        table.end_row();
        table.finish()
    }
}

/// `household.agg:NAME`, `household.trait:NAME`.
fn entity_source(read: &Read, source: &str, name: &str, schema: &Schema) -> Result<VisitorSource, ReadError> {
    let (entity, of) = source.split_once('.').unwrap_or_default();
    let known = ENTITIES.iter().position(|known| *known == entity);
    let entity =
        known.ok_or_else(|| read.fault(format!("{entity:?} is no entity; there are {}", ENTITIES.join(", "))))?;
    match of {
        "agg" => Ok(VisitorSource::EntityAggregate(entity, scalar_reading(read, name, &schema.definitions)?)),
        "trait" if !name.is_empty() => Ok(VisitorSource::EntityTrait(entity, name.to_owned())),
        _ => Err(read.fault("of an entity there are agg:… and trait:…")),
    }
}

fn trait_cell(
    read: &Read,
    fragment: &Fragment,
    name: &str,
    sources: &TraitSources,
    time: &BusinessTime,
    keys: &mut Keys,
) -> Option<Cell> {
    word_cell(read, &fragment.traits.get(name, sources)?, time, keys)
}

fn word_cell(read: &Read, word: &Trait<'_>, time: &BusinessTime, keys: &mut Keys) -> Option<Cell> {
    let raw: &RawValue = serde_json::from_str(word.value).ok()?;
    read.cell(raw, time, keys).ok().flatten()
}

/// What a plugin reads of offers, resolved against one catalogue.
#[derive(Clone, Debug)]
pub struct OfferReads {
    reads: Vec<Read>,
    /// Their names as JSON.
    names: Vec<Box<str>>,
    shape: Shape,
    sources: Vec<OfferSource>,
}

#[derive(Clone, Debug)]
enum OfferSource {
    /// A value for each offer of the catalogue.
    Scalar(Vec<Fixed>),
    /// A list for each offer of the catalogue.
    List(Vec<Vec<Fixed>>),
    /// The entry of a keyed aggregate that the offer names; where it names several, the largest. No key, no value.
    Keyed { reading: usize, keys: Vec<Vec<CompactString>> },
    /// The same for every offer.
    Fixed(Fixed),
}

impl OfferReads {
    /// Resolves declarations against the names that plugins define and a catalogue.
    pub fn resolve(reads: &[Read], schema: &Schema, catalog: &Catalog, config: &Config) -> Result<Self, ReadError> {
        let time = schema.definitions.time();
        let mut sources = Vec::with_capacity(reads.len());
        for read in reads {
            sources.push(match read.split() {
                ("offer", field) if read.many() => {
                    let lists = catalog.offers.iter().map(|offer| {
                        let values = offer.list(field.trim_end_matches("[]")).ok_or_else(|| unknown_field(read))?;
                        Ok(values.into_iter().map(|text| fixed_text(read, &text)).collect())
                    });
                    need_kind(read, TEXTS)?;
                    OfferSource::List(lists.collect::<Result<_, ReadError>>()?)
                }
                ("offer", field) => {
                    let scalars = catalog.offers.iter().map(|offer| {
                        let json = offer.field(field).ok_or_else(|| unknown_field(read))?;
                        Fixed::of_json(read, json.as_deref(), time)
                            .map_err(|expected| read.fault(format!("the {field} of offer {:?} {expected}", offer.id)))
                    });
                    OfferSource::Scalar(scalars.collect::<Result<_, _>>()?)
                }
                ("agg", path) => keyed_source(read, path, &schema.definitions, catalog)?,
                ("config", key) => OfferSource::Fixed(Fixed::of_config(read, key, config, time)?),
                _ => {
                    return Err(
                        read.fault("is not known here; an offer has offer:…, agg:NAME[offer:FIELD], and config:…")
                    );
                }
            });
        }
        Ok(Self { reads: reads.to_vec(), names: given::names(reads), shape: shape_of(reads), sources })
    }

    /// The columns of some of the catalogue's offers where they are the same for everybody; none where they hang on a visitor, or hold keys, whose handles
    /// are of one call.
    pub fn constant(&self, offers: &[usize]) -> Option<Columns> {
        let mut keys = Keys::default();
        let varies = |source: &OfferSource| matches!(source, OfferSource::Keyed { .. });
        if self.sources.iter().any(varies) || self.reads.iter().any(|read| read.kind == Kind::Key) {
            return None;
        }
        Some(self.table(offers, &mut keys, |_, _, _| None))
    }

    /// The columns of some of the catalogue's offers, a row each, in the given order.
    pub fn lower(
        &self,
        offers: &[usize],
        subject: &Subject<'_>,
        definitions: &Definitions,
        keys: &mut Keys,
    ) -> Columns {
        self.table(offers, keys, |read, reading, names| {
            keyed_cell(read, &definitions.readings()[reading], names, subject, definitions)
        })
    }

    fn table(
        &self,
        offers: &[usize],
        keys: &mut Keys,
        keyed: impl Fn(&Read, usize, &[CompactString]) -> Option<Cell>,
    ) -> Columns {
        let mut table = Table::new(&self.shape, offers.len());
        for (row, offer) in offers.iter().enumerate() {
            for (column, source) in self.sources.iter().enumerate() {
                let cell = match source {
                    OfferSource::Scalar(values) => values.get(*offer).and_then(|value| value.cell(keys)),
                    OfferSource::Fixed(value) => value.cell(keys),
                    OfferSource::Keyed { reading, keys: of_offers } => {
                        let names = of_offers.get(*offer).map_or(&[] as &[_], Vec::as_slice);
                        keyed(&self.reads[column], *reading, names)
                    }
                    OfferSource::List(values) => {
                        for value in values.get(*offer).into_iter().flatten() {
                            table.push(column, value.cell(keys));
                        }
                        None
                    }
                };
                if let Some(cell) = cell {
                    table.put(column, row, cell);
                }
            }
            table.end_row();
        }
        table.finish()
    }
}

fn unknown_field(read: &Read) -> ReadError {
    read.fault(
        "an offer has id, name, category, value, lever, price, inventory, mandatory, features.…, and the lists product_ids[] and tags[]",
    )
}

fn fixed_text(read: &Read, text: &str) -> Fixed {
    match read.kind {
        Kind::Key => Fixed::Key(text.into()),
        Kind::Choice => read.choice(text).map_or(Fixed::Absent, Fixed::Cell),
        _ => Fixed::Cell(Cell::Text(text.to_owned())),
    }
}

/// `NAME[offer:FIELD]`.
fn keyed_source(
    read: &Read,
    path: &str,
    definitions: &Definitions,
    catalog: &Catalog,
) -> Result<OfferSource, ReadError> {
    let malformed = || read.fault("an aggregate is read here by a field of the offer, as in agg:NAME[offer:category]");
    let (name, field) = path.strip_suffix(']').and_then(|path| path.split_once("[offer:")).ok_or_else(malformed)?;
    let reading = find_reading(read, name, definitions)?;
    let found = &definitions.readings()[reading];
    if !found.keyed {
        return Err(read.fault("is not an aggregate by key"));
    }
    need_kind(read, kinds_of(found))?;
    let keys = catalog.offers.iter().map(|offer| offer.keys(field).ok_or_else(|| unknown_field(read)));
    Ok(OfferSource::Keyed { reading, keys: keys.collect::<Result<_, _>>()? })
}

fn keyed_cell(
    read: &Read,
    reading: &Reading,
    names: &[CompactString],
    subject: &Subject<'_>,
    definitions: &Definitions,
) -> Option<Cell> {
    let weights =
        names.iter().filter_map(|name| definitions.weight(reading, &subject.fragment.states, name, subject.moment));
    let largest = weights.reduce(|a, b| match (a, b) {
        (Weight::Fixed(a), Weight::Fixed(b)) => Weight::Fixed(a.max(b)),
        (Weight::Number(a), Weight::Number(b)) => Weight::Number(a.max(b)),
        (a, _) => a,
    });
    match (largest?, read.kind, reading.kind) {
        (Weight::Number(weight), ..) => Some(Cell::F64(weight)),
        (Weight::Fixed(weight), Kind::Number, Kind::Decimal) => Some(Cell::F64(Decimal(weight).to_f64())),
        (Weight::Fixed(weight), Kind::Number, _) => Some(Cell::F64(weight as f64)),
        (Weight::Fixed(at), _, Kind::Instant) => Some(instant_cell(read, Timestamp(at), definitions.time())),
        (Weight::Fixed(weight), ..) => Some(Cell::S64(weight)),
    }
}
