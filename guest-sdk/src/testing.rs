//! Running a plugin natively, in `cargo test`, with the host's own code around it: what is lowered, folded, checked and evaluated here is
//! lowered, folded, checked and evaluated by the host in the same way.
//!
//! ```ignore
//! let mut visitor = Visitor::<Retail>::new("currency = \"GBP\"").time_zone("Europe/London");
//! visitor.observe(json!({"type": "track", "event": "Order Completed", "timestamp": "2026-01-05T10:00:00Z", "properties": {"total": 12.5}}));
//! assert_eq!(visitor.aggregate("retail.revenue_7d", "2026-01-06T00:00:00Z"), json!(12.5));
//! ```
//!
//! Everything here panics where the host would refuse, with the host's own message: in a test that is the answer.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use selvedge_core::aggregate::{CustomFault, CustomOperators, Finished, Operator, STATE_BYTES_MAX, check_laws};
use selvedge_core::catalog::Catalog;
use selvedge_core::columns::{Columns as CoreColumns, Keys};
use selvedge_core::config::Config;
use selvedge_core::description::{AggregateDeclaration, Description, ScoreDeclaration};
use selvedge_core::effects::Effects;
use selvedge_core::event::{Event, Refusal};
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::Namespaces;
use selvedge_core::lower::{EventReads, OfferReads, VisitorReads};
use selvedge_core::read::Read;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::stage::{self, Destination, Ranking};
use selvedge_core::time::{BusinessTime, Moment};
use selvedge_core::traits::TraitSources;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_core::view::{NO_ENTITIES, Schema, ScoreName, Subject};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::bindings;
use crate::stages::{self, Plugin};

/// One visitor, observed, scored and offered to by one plugin.
pub struct Visitor<P> {
    /// What the plugin keeps of its configuration, where it is made by it.
    kept: Vec<u8>,
    description: Description,
    config: Config,
    schema: Schema,
    event_reads: EventReads,
    destinations: Vec<Destination>,
    fragment: Fragment,
    events: u64,
    plugin: PhantomData<P>,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The plugin does not observe events of this name.
    Ignored,
    /// It contributed so many times.
    Contributed(usize),
    /// It passed over the event, for this reason.
    Skipped(String),
    /// It failed, with this text.
    Failed(String),
    /// The event does not fit what the plugin declared, at this place.
    Refused(String),
}

/// A judgement on one offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The offer's id.
    pub offer: String,
    /// Its priority.
    pub priority: f64,
    /// Whether it may be offered.
    pub eligible: bool,
    /// The main reason.
    pub reason: Option<String>,
}

impl<P: Plugin + 'static> Visitor<P> {
    /// A visitor of whom nothing is known, under a configuration (the text of `NAME.toml`), in UTC.
    pub fn new(config: &str) -> Self {
        Self::in_zone(config, "UTC")
    }

    /// The same in another business time zone; what was observed before is forgotten.
    pub fn time_zone(self, name: &str) -> Self {
        let Self { config, .. } = self;
        Self::build(config, name)
    }

    fn in_zone(config: &str, zone: &str) -> Self {
        Self::build(fine(Config::parse(config)), zone)
    }

    fn build(config: Config, zone: &str) -> Self {
        let kept = if P::CONFIGURED { configured::<P>(&config) } else { Vec::new() };
        let description = of_bindings(P::description());
        fine(description.check());
        if !P::CONFIGURED {
            fine(config.check_keys(description.reads()));
        }
        let mut schema = Schema {
            definitions: selvedge_core::aggregate::Definitions::new(fine(BusinessTime::new(zone))),
            scores: Vec::new(),
        };
        let definitions = fine(description.definitions(&config));
        let own: Arc<dyn CustomOperators> = Arc::new(Own::<P>(PhantomData));
        for (definition, position) in definitions.iter().zip(0..) {
            if definition.operator == Operator::Custom {
                let functions = fine(stages::functions::<P>(position).map_err(text_of));
                let samples: Vec<_> =
                    (functions.samples)().into_iter().map(|sample| (sample.key, sample.value)).collect();
                fine(check_laws(&*own, position, definition.kind, &samples));
            }
        }
        let stored = fine(schema.definitions.add(&description.name, &definitions, Some(&own)));
        for score in &description.scores {
            let unit = selvedge_core::description::unit(score.unit.as_deref(), &config);
            schema.scores.push(ScoreName { name: format!("{}.{}", description.name, score.name), unit });
        }
        Self {
            kept,
            event_reads: fine(EventReads::resolve(&description.event_reads, &config, schema.definitions.time())),
            destinations: stage::destinations(&definitions, stored),
            fragment: Fragment::empty(&schema.definitions),
            description,
            config,
            schema,
            events: 0,
            plugin: PhantomData,
        }
    }

    /// Observes an event in Segment's form; `userId` and `messageId` may be left out.
    pub fn observe(&mut self, mut event: Value) -> Observed {
        self.events += 1;
        let defaults = [("userId", "1".to_owned()), ("messageId", format!("m-{}", self.events))];
        for (name, value) in defaults {
            if event[name].is_null() {
                event[name] = value.into();
            }
        }
        let namespaces = Namespaces::default();
        let receipt = Receipt {
            received_at: fine(Timestamp::parse("2199-01-01T00:00:00Z")),
            sent_at: None,
            speaker: Speaker::Server,
            kind: None,
            user_id: None,
            anonymous_id: None,
            context: None,
            namespaces: &namespaces,
        };
        // Another visitor of the same test may have another configuration.
        self.restore();
        match self.observe_text(&event.to_string(), &receipt) {
            Ok(observed) => observed,
            Err(refusal) => Observed::Refused(refusal.pointer),
        }
    }

    fn restore(&self) {
        if P::CONFIGURED {
            P::restore(&self.kept);
        }
    }

    fn observe_text(&mut self, text: &str, receipt: &Receipt<'_>) -> Result<Observed, Refusal> {
        let event = Event::parse(text, receipt, &mut || "fresh".into())?.event;
        let mut effects = Effects::of(&event)?;
        let name = event.observed_name();
        let mut observed = Observed::Ignored;
        if self.description.observes.iter().any(|known| known == name) {
            let mut keys = Keys::default();
            let (columns, elements) =
                self.event_reads.lower(&event, self.schema.definitions.time(), &mut keys, true)?;
            observed = match P::observe(&to_bindings(&columns)) {
                Ok(contributed) => {
                    let bindings::Contributions { aggregates, values, keys: handles, skipped } = contributed;
                    let contributed = stage::Contributions { aggregates, values, keys: handles, skipped };
                    let skips = self.description.skips.len();
                    let skipped = fine(contributed.accept(&self.destinations, skips, &keys, elements, &mut effects));
                    match skipped.first() {
                        Some(reason) => Observed::Skipped(self.description.skips[*reason].clone()),
                        None => Observed::Contributed(effects.contributions.len()),
                    }
                }
                Err(bindings::Failure::Rejected(text) | bindings::Failure::Internal(text)) => Observed::Failed(text),
            };
        }
        let _ = self.fragment.apply_event(&self.schema.definitions, &(&event).into(), &effects);
        Ok(observed)
    }

    /// An aggregate's value at an instant, as the profile shows it.
    pub fn aggregate(&self, name: &str, at: &str) -> Value {
        let definitions = &self.schema.definitions;
        let index = definitions.find(name).unwrap_or_else(|| panic!("there is no aggregate {name:?}"));
        let moment = self.moment(at);
        let read = definitions.evaluate(&definitions.readings()[index], &self.fragment.states, &moment);
        fine(serde_json::to_value(read.value))
    }

    /// The scores at an instant by name; absent ones are left out.
    pub fn scores(&self, at: &str) -> Vec<(String, f64)> {
        let values = self.score(at);
        let names = self.schema.scores.iter().map(|score| score.name.clone());
        names.zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn score(&self, at: &str) -> Vec<Option<f64>> {
        self.restore();
        if self.description.scores.is_empty() {
            return Vec::new();
        }
        let reads = fine(VisitorReads::resolve(&self.description.score_reads, &self.schema, &self.config));
        let blank = vec![None; self.schema.scores.len()];
        let columns = self.with_subject(at, &blank, None, |subject| {
            reads.lower(subject, &self.schema.definitions, &mut Keys::default())
        });
        let values = P::score(&to_bindings(&columns)).unwrap_or_else(|failure| panic!("score failed: {failure:?}"));
        fine(stage::accept_scores(values, self.description.scores.len()))
    }

    /// Judges every offer of a catalogue (its TOML) at an instant, with a request's context; in the catalogue's order.
    pub fn rank(&self, catalog: &str, at: &str, context: &Value) -> Vec<Judged> {
        let catalog = fine(Catalog::from_toml(catalog));
        let visitor_reads = fine(VisitorReads::resolve(&self.description.visitor_reads, &self.schema, &self.config));
        let offer_reads =
            fine(OfferReads::resolve(&self.description.offer_reads, &self.schema, &catalog, &self.config));
        let candidates: Vec<usize> = (0..catalog.offers.len()).collect();
        let scores = self.score(at);
        let context = fine(serde_json::value::to_raw_value(context));
        let (visitor, offers) = self.with_subject(at, &scores, Some(&context), |subject| {
            let mut keys = Keys::default();
            let visitor = visitor_reads.lower(subject, &self.schema.definitions, &mut keys);
            (visitor, offer_reads.lower(&candidates, subject, &self.schema.definitions, &mut keys))
        });
        self.restore();
        let ranking = P::rank(&to_bindings(&visitor), &to_bindings(&offers));
        let bindings::Ranking { priorities, eligible, reasons } =
            ranking.unwrap_or_else(|failure| panic!("rank failed: {failure:?}"));
        let judged =
            fine(Ranking { priorities, eligible, reasons }.accept(&candidates, self.description.reasons.len()));
        let name = |judged: selvedge_core::decision::Judgement| Judged {
            offer: catalog.offers[judged.offer].id.to_string(),
            priority: judged.priority,
            eligible: judged.eligible,
            reason: judged.reason.map(|reason| self.description.reasons[reason as usize].clone()),
        };
        judged.into_iter().map(name).collect()
    }

    fn moment(&self, at: &str) -> Moment {
        self.fragment.moment(&self.schema.definitions, &TraitSources::default(), fine(Timestamp::parse(at)))
    }

    fn with_subject<T>(
        &self,
        at: &str,
        scores: &[Option<f64>],
        context: Option<&RawValue>,
        read: impl FnOnce(&Subject<'_>) -> T,
    ) -> T {
        let moment = self.moment(at);
        read(&Subject {
            fragment: &self.fragment,
            entities: &NO_ENTITIES,
            trait_sources: &TraitSources::default(),
            scores,
            context,
            channel: "web",
            moment: &moment,
            seed: 1,
        })
    }
}

/// Runs every case in a folder ([`check_case`]), naming each; gives how many there are.
pub fn check_cases<P: Plugin + 'static>(folder: &str) -> usize {
    let entries = fine(std::fs::read_dir(folder)).map(|entry| fine(entry).path());
    let check = |path: std::path::PathBuf| {
        eprintln!("{}", path.display());
        check_case::<P>(&fine(std::fs::read_to_string(path)));
    };
    entries.map(check).count()
}

/// Runs a case: a JSON document that says what a visitor did and what must come of it.
///
/// `{"config": "TOML", "timeZone": "Europe/London", "events": […], "at": "RFC 3339", "aggregates": {name: value}, "scores": {name: value},
/// "ranking": {"catalog": "TOML", "context": {…}, "offers": [{"offer", "priority", "eligible", "reason"}]}}`; each part but the events
/// may be left out. Numbers that are not whole must agree to nine digits, everything else exactly.
pub fn check_case<P: Plugin + 'static>(text: &str) {
    let case: Value = fine(serde_json::from_str(text));
    let word = |name: &str, default: &str| case[name].as_str().unwrap_or(default).to_owned();
    let mut visitor = Visitor::<P>::in_zone(&word("config", ""), &word("timeZone", "UTC"));
    for event in case["events"].as_array().into_iter().flatten() {
        if let Observed::Failed(text) | Observed::Refused(text) = visitor.observe(event.clone()) {
            panic!("{event} was not observed: {text}");
        }
    }
    let at = word("at", "2198-01-01T00:00:00Z");
    for (name, expected) in case["aggregates"].as_object().into_iter().flatten() {
        same(name, &visitor.aggregate(name, &at), expected);
    }
    let scores: serde_json::Map<String, Value> =
        visitor.scores(&at).into_iter().map(|(name, value)| (name, value.into())).collect();
    for (name, expected) in case["scores"].as_object().into_iter().flatten() {
        same(name, scores.get(name).unwrap_or(&Value::Null), expected);
    }
    if let Some(catalog) = case["ranking"]["catalog"].as_str() {
        for (judged, expected) in visitor
            .rank(catalog, &at, &case["ranking"]["context"])
            .iter()
            .zip(case["ranking"]["offers"].as_array().into_iter().flatten())
        {
            let shown = serde_json::json!({
                "offer": judged.offer, "priority": judged.priority, "eligible": judged.eligible, "reason": judged.reason,
            });
            same(&judged.offer, &shown, expected);
        }
    }
}

/// What a plugin keeps of its configuration, which it has taken up; every fault with its place otherwise.
fn configured<P: Plugin>(config: &Config) -> Vec<u8> {
    let kept = P::configure(&fine(config.to_json())).unwrap_or_else(|faults| {
        let line = |fault: bindings::Fault| format!("{}: {}", fault.place, fault.detail);
        panic!("{}", faults.into_iter().map(line).collect::<Vec<_>>().join("\n"))
    });
    P::restore(&kept);
    kept
}

/// Fails where a value is not the expected one, floats to nine digits.
fn same(name: &str, value: &Value, expected: &Value) {
    let alike = match (value, expected) {
        (Value::Number(value), Value::Number(expected)) => {
            let (value, expected) = (value.as_f64().unwrap_or(f64::NAN), expected.as_f64().unwrap_or(f64::NAN));
            value == expected || (value - expected).abs() <= expected.abs() * 1e-9
        }
        (Value::Array(values), Value::Array(expected)) if values.len() == expected.len() => {
            return values.iter().zip(expected).for_each(|(value, expected)| same(name, value, expected));
        }
        (Value::Object(value), Value::Object(expected)) if value.keys().eq(expected.keys()) => {
            return value.iter().for_each(|(key, value)| same(&format!("{name}.{key}"), value, &expected[key]));
        }
        _ => value == expected,
    };
    assert!(alike, "{name} is {value}, not {expected}");
}

/// The plugin's own operators, called natively.
struct Own<P>(PhantomData<fn() -> P>);

impl<P> fmt::Debug for Own<P> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the plugin's own operators")
    }
}

impl<P: Plugin + 'static> CustomOperators for Own<P> {
    fn init(&self, aggregate: u32) -> Vec<u8> {
        stages::functions::<P>(aggregate).map(|own| (own.init)()).unwrap_or_default()
    }

    fn update(&self, aggregate: u32, state: &[u8], key: &str, value: i64) -> Result<Vec<u8>, CustomFault> {
        bounded(stages::functions::<P>(aggregate).and_then(|own| (own.update)(state, key, value)))
    }

    fn merge(&self, aggregate: u32, states: &[&[u8]]) -> Result<Vec<u8>, CustomFault> {
        let states: Vec<Vec<u8>> = states.iter().map(|state| state.to_vec()).collect();
        bounded(stages::functions::<P>(aggregate).and_then(|own| (own.merge)(&states)))
    }

    fn finish(&self, aggregate: u32, state: &[u8]) -> Result<Finished, CustomFault> {
        let value = stages::functions::<P>(aggregate).and_then(|own| (own.finish)(state)).map_err(text_of)?;
        Ok(match value {
            bindings::CustomValue::Absent => Finished::Absent,
            bindings::CustomValue::Fixed(value) => Finished::Fixed(value),
            bindings::CustomValue::Number(value) => Finished::Number(value),
        })
    }
}

fn bounded(state: Result<Vec<u8>, bindings::Failure>) -> Result<Vec<u8>, CustomFault> {
    let state = state.map_err(text_of)?;
    if state.len() <= STATE_BYTES_MAX {
        return Ok(state);
    }
    Err(CustomFault(format!("a state has {} bytes; it may have {STATE_BYTES_MAX}", state.len())))
}

fn text_of(failure: bindings::Failure) -> CustomFault {
    let (bindings::Failure::Rejected(text) | bindings::Failure::Internal(text)) = failure;
    CustomFault(text)
}

/// The value, or the host's message as this test's failure.
fn fine<T, E: std::fmt::Display>(outcome: Result<T, E>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error}"))
}

fn to_bindings(columns: &CoreColumns) -> bindings::Columns {
    let CoreColumns { rows, f64s, s64s, codes, texts, present, offsets } = columns.clone();
    bindings::Columns { rows, f64s, s64s, codes, texts, present, offsets }
}

fn of_bindings(described: bindings::Description) -> Description {
    let reads = |reads: Vec<bindings::Read>| {
        let read = |read: bindings::Read| Read { path: read.path, kind: kind(read.kind), choices: read.choices };
        reads.into_iter().map(read).collect()
    };
    let aggregate = |declared: bindings::Aggregate| AggregateDeclaration {
        name: declared.name,
        operator: declared.operator,
        parameters: declared.parameters,
        windows: declared.windows,
        kind: kind(declared.kind),
        unit: declared.unit,
    };
    let score = |score: bindings::Score| ScoreDeclaration { name: score.name, unit: score.unit };
    Description {
        name: described.name,
        version: described.version,
        observes: described.observes,
        event_reads: reads(described.event_reads),
        score_reads: reads(described.score_reads),
        visitor_reads: reads(described.visitor_reads),
        offer_reads: reads(described.offer_reads),
        aggregates: described.aggregates.into_iter().map(aggregate).collect(),
        scores: described.scores.into_iter().map(score).collect(),
        reasons: described.reasons,
        skips: described.skips,
    }
}

fn kind(kind: bindings::Kind) -> Kind {
    match kind {
        bindings::Kind::Number => Kind::Number,
        bindings::Kind::Integer => Kind::Integer,
        bindings::Kind::Decimal => Kind::Decimal,
        bindings::Kind::Instant => Kind::Instant,
        bindings::Kind::Day => Kind::Day,
        bindings::Kind::Flag => Kind::Flag,
        bindings::Kind::Choice => Kind::Choice,
        bindings::Kind::Key => Kind::Key,
        bindings::Kind::Text => Kind::Text,
    }
}
