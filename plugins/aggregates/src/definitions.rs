//! Definitions: the configuration to a program, or every fault in it with its place.

use selvedge_guest::bindings::{Fault, Kind};
use serde_json::{Map, Number, Value};

use crate::compile::{Compiler, Each};
use crate::fault::{at, unknown, whole};
use crate::operators::{self, Need, Operator};
use crate::program::{Column, Defined, Program, Source, number_of};
use crate::reads::Path;

/// Aggregates of one plugin.
const AGGREGATES_MAX: usize = 256;
/// Tables and lists within each other: a guest's stack is small, and reading them is recursive.
const DEPTH_MAX: usize = 16;
/// What the host takes of one event, and more for each element of its lists, for each of their columns.
const CONTRIBUTIONS_MAX: usize = 256;
const CONTRIBUTIONS_PER_ELEMENT_MAX: usize = 16;

const AGGREGATE_KEYS: [&str; 11] =
    ["name", "operator", "kind", "unit", "windows", "parameters", "event", "where", "value", "key", "from"];
const SOURCE_KEYS: [&str; 4] = ["event", "where", "value", "key"];
const KINDS: [(&str, Kind); 5] = [
    ("decimal", Kind::Decimal),
    ("integer", Kind::Integer),
    ("instant", Kind::Instant),
    ("number", Kind::Number),
    ("key", Kind::Key),
];
/// Events that are no tracks, by the name that they are observed under: a dollar sign and their type.
const SPECIAL: [&str; 5] = ["$identify", "$page", "$screen", "$group", "$alias"];

/// Reads definitions: a JSON object with a list `aggregate`.
pub fn read(config: &str) -> Result<Program, Vec<Fault>> {
    if depth(config) > DEPTH_MAX {
        return Err(vec![whole(format!("more than {DEPTH_MAX} tables and lists stand within each other"))]);
    }
    let config: Value = serde_json::from_str(config).map_err(|error| vec![whole(format!("is not JSON: {error}"))])?;
    let mut reader = Reader::default();
    let Value::Object(table) = &config else { return Err(vec![whole("is no table")]) };
    reader.check_keys("", table, &["aggregate"]);
    match table.get("aggregate") {
        None => {}
        Some(Value::Array(entries)) if entries.len() > AGGREGATES_MAX => {
            reader.fault("aggregate", format!("there are {}; at most {AGGREGATES_MAX} fit", entries.len()));
        }
        Some(Value::Array(entries)) => {
            for (index, entry) in entries.iter().enumerate() {
                reader.aggregate(index, entry);
            }
        }
        Some(_) => reader.fault("aggregate", "is no list; write each definition under [[aggregate]]"),
    }
    reader.finish()
}

/// The program so far, and the faults.
#[derive(Default)]
struct Reader {
    compiler: Compiler,
    faults: Vec<Fault>,
    aggregates: Vec<Defined>,
    /// With the path whose list it goes through.
    sources: Vec<(Source, Each)>,
    /// Each observed event with its sources.
    events: Vec<(String, Vec<u16>)>,
}

impl Reader {
    fn fault(&mut self, place: impl Into<String>, detail: impl Into<String>) {
        self.faults.push(at(place, detail));
    }

    fn check_keys(&mut self, place: &str, table: &Map<String, Value>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.fault(below(place, key), unknown("key", key, known));
        }
    }

    fn aggregate(&mut self, index: usize, entry: &Value) {
        let place = format!("aggregate[{index}]");
        let Value::Object(table) = entry else { return self.fault(place, "is no table") };
        self.check_keys(&place, table, &AGGREGATE_KEYS);
        let name = self.name(&place, table);
        let Some(operator) = self.text(&place, table, "operator", true) else { return };
        let parameters = self.parameters(&place, table);
        let known = operators::find(&operator, parameters.iter().any(|(name, _)| name == "of"));
        let derived = known.map_or(!table.contains_key("event") && !table.contains_key("from"), |known| known.derived);
        let kind = self.kind(&place, table, known);
        let defined = Defined {
            name: name.clone(),
            operator: operator.clone(),
            parameters,
            windows: self.texts(&place, table, "windows"),
            kind: number_of(kind),
            unit: self.text(&place, table, "unit", false),
        };
        self.aggregates.push(defined);
        let given = AGGREGATE_KEYS[6..].iter().find(|key| table.contains_key(**key));
        match (derived, given) {
            (true, Some(given)) => {
                let detail = format!("{name:?} is computed from other aggregates, so it takes no {given}; remove it");
                self.fault(below(&place, given), detail);
            }
            (true, None) => {}
            (false, _) => self.sources(&place, table, &Counted { name, operator, known, kind }),
        }
    }

    fn name(&mut self, place: &str, table: &Map<String, Value>) -> String {
        let Some(name) = self.text(place, table, "name", true) else { return String::new() };
        let place = below(place, "name");
        let well_formed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(well_formed) {
            self.fault(place, format!("{name:?} may hold lower-case letters, digits and _"));
        } else if let Some(first) = self.aggregates.iter().position(|other| other.name == name) {
            self.fault(place, format!("{name:?} is the name of aggregate[{first}] already"));
        }
        name
    }

    fn kind(&mut self, place: &str, table: &Map<String, Value>, known: Option<Operator>) -> Kind {
        if let Some(name) = self.text(place, table, "kind", false) {
            if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
                return *kind;
            }
            self.fault(below(place, "kind"), unknown("kind", &name, &KINDS.map(|(name, _)| name)));
        }
        let only_key = |known: Operator| known.key == Need::Optional && !gives(table, "value") && gives(table, "key");
        match known {
            Some(known) if only_key(known) => Kind::Key,
            Some(known) => known.kind,
            None => Kind::Decimal,
        }
    }

    fn parameters(&mut self, place: &str, table: &Map<String, Value>) -> Vec<(String, String)> {
        let place = below(place, "parameters");
        let parameters = match table.get("parameters") {
            None => return Vec::new(),
            Some(Value::Object(parameters)) => parameters,
            Some(_) => {
                self.fault(place, "is no table; write it as { of = \"revenue\", per = \"orders\" }");
                return Vec::new();
            }
        };
        let mut taken = Vec::new();
        for (key, value) in parameters {
            match value {
                Value::String(text) => taken.push((key.clone(), text.clone())),
                Value::Number(number) => taken.push((key.clone(), number_text(number))),
                _ => self.fault(below(&place, key), "is neither a text nor a number"),
            }
        }
        taken
    }

    /// The sources of an aggregate: its own keys, or each entry of `from`.
    fn sources(&mut self, place: &str, table: &Map<String, Value>, counted: &Counted) {
        let Some(from) = table.get("from") else { return self.source(place, table, counted) };
        if let Some(own) = SOURCE_KEYS.iter().find(|key| table.contains_key(**key)) {
            let detail = format!("of {:?} stands beside `from`; move it into an entry of `from`", counted.name);
            return self.fault(below(place, own), detail);
        }
        let place = below(place, "from");
        match from {
            Value::Array(entries) if !entries.is_empty() => {
                for (index, entry) in entries.iter().enumerate() {
                    let place = format!("{place}[{index}]");
                    match entry {
                        Value::Object(table) => {
                            self.check_keys(&place, table, &SOURCE_KEYS);
                            self.source(&place, table, counted);
                        }
                        _ => self.fault(place, "is no table"),
                    }
                }
            }
            _ => self.fault(place, "is no list; write each source under [[aggregate.from]]"),
        }
    }

    fn source(&mut self, place: &str, table: &Map<String, Value>, counted: &Counted) {
        let events = self.events(place, table, counted);
        let (value_need, key_need) = counted.needs();
        for (part, need) in [("value", value_need), ("key", key_need)] {
            let detail = match (need, gives(table, part)) {
                (Need::Needed, false) => {
                    format!("{:?} needs a {part}: {} has one for each event", counted.name, counted.operator)
                }
                (Need::None, true) => {
                    format!("{:?} takes no {part}: {} has none; remove it", counted.name, counted.operator)
                }
                _ => continue,
            };
            self.fault(below(place, part), detail);
        }
        let mut each = Each::default();
        let kind = counted.value_kind();
        let condition = self.expression(place, table, "where", counted, |compiler, place, text| {
            compiler.condition(place, text, &mut each)
        });
        let value = self.expression(place, table, "value", counted, |compiler, place, text| {
            compiler.value(place, text, kind, &mut each)
        });
        let key =
            self.expression(place, table, "key", counted, |compiler, place, text| compiler.key(place, text, &mut each));
        // Only of an operator that is known not to need its key, an event without one counts.
        let optional = counted.known.is_some() && key_need == Need::Optional && value.is_some();
        let key = key.map(|key| (key, !optional));
        let aggregate = (self.aggregates.len() - 1) as u16;
        let source = self.sources.len() as u16;
        self.sources.push((Source { aggregate, condition, value, key, each: None }, each));
        for event in events {
            match self.events.iter_mut().find(|(known, _)| *known == event) {
                Some((_, sources)) => sources.push(source),
                None => self.events.push((event, vec![source])),
            }
        }
    }

    fn events(&mut self, place: &str, table: &Map<String, Value>, counted: &Counted) -> Vec<String> {
        let events = self.texts(place, table, "event");
        let place = below(place, "event");
        let none = table.get("event").is_none_or(|given| given.as_array().is_some_and(Vec::is_empty));
        if none {
            let detail =
                format!("{:?} names no event; say which it counts, as \"Order Completed\" or a list", counted.name);
            self.fault(&place, detail);
        }
        for (index, event) in events.iter().enumerate() {
            if event.starts_with('$') && !SPECIAL.contains(&event.as_str()) {
                self.fault(&place, unknown("event", event, &SPECIAL));
            }
            if event.is_empty() || events[..index].contains(event) {
                self.fault(&place, format!("{event:?} is empty or stands twice"));
            }
        }
        events
    }

    /// Compiles one expression; a fault in it names the aggregate.
    fn expression(
        &mut self,
        place: &str,
        table: &Map<String, Value>,
        part: &str,
        counted: &Counted,
        compile: impl FnOnce(&mut Compiler, &str, &str) -> Result<u16, Fault>,
    ) -> Option<u16> {
        let place = below(place, part);
        let text = match table.get(part)? {
            Value::String(text) => text.clone(),
            Value::Number(number) if part == "value" => number_text(number),
            _ => {
                self.fault(place, format!("of {:?} is no text; write the expression in quotes", counted.name));
                return None;
            }
        };
        match compile(&mut self.compiler, &place, &text) {
            Ok(node) => Some(node),
            Err(Fault { place, detail }) => {
                self.fault(place, format!("of {:?}, {detail}", counted.name));
                None
            }
        }
    }

    fn text(&mut self, place: &str, table: &Map<String, Value>, key: &str, needed: bool) -> Option<String> {
        match table.get(key) {
            Some(Value::String(text)) => return Some(text.clone()),
            Some(_) => self.fault(below(place, key), "is no text"),
            None if needed => self.fault(below(place, key), "is missing"),
            None => {}
        }
        None
    }

    /// A text or a list of texts.
    fn texts(&mut self, place: &str, table: &Map<String, Value>, key: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = match table.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(text).collect(),
            Some(value) => text(value).map(|text| vec![text]),
        };
        texts.unwrap_or_else(|| {
            self.fault(below(place, key), "is neither a text nor a list of texts");
            Vec::new()
        })
    }

    fn finish(mut self) -> Result<Program, Vec<Fault>> {
        if self.faults.is_empty()
            && let Err(fault) = self.assemble()
        {
            self.faults.push(fault);
        }
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let Self { compiler: Compiler { mut program, reads, .. }, aggregates, sources, events, .. } = self;
        let (scalars, declared) = reads.finish().map_err(|fault| vec![fault])?;
        program.scalars = scalars;
        program.reads = declared;
        program.aggregates = aggregates;
        program.sources = sources.into_iter().map(|(source, _)| source).collect();
        program.events = events.into_iter().map(|(event, _)| event).collect();
        Ok(program)
    }

    /// What can be said only when all definitions are read.
    fn assemble(&mut self) -> Result<(), Fault> {
        self.compiler.close()?;
        for (source, each) in &mut self.sources {
            if let Some((_, path)) = each.0 {
                source.each = Some(self.compiler.reads.list(path, "").map_err(whole)?);
            }
        }
        self.check_contributions()?;
        let (mut types, mut names) = (None, None);
        for (event, sources) in &self.events {
            let (dispatch, path, name) = match event.strip_prefix('$') {
                Some(special) => (&mut types, "type", special),
                None => (&mut names, "name", event.as_str()),
            };
            let path = self.compiler.reads.path(&Path { text: path.into() });
            let column = self.compiler.reads.column(path, Kind::Choice, "event").map_err(whole)?;
            let code = self.compiler.reads.code(path, name) as usize;
            let (_, by_code): &mut (Column, Vec<Vec<u16>>) = dispatch.get_or_insert_with(|| (column, Vec::new()));
            by_code.resize(by_code.len().max(code + 1), Vec::new());
            by_code[code].clone_from(sources);
        }
        self.compiler.program.dispatch.types = types;
        self.compiler.program.dispatch.names = names;
        Ok(())
    }

    /// The host takes no more than so much of one event, whatever is in it.
    fn check_contributions(&self) -> Result<(), Fault> {
        for (event, sources) in &self.events {
            let list = |source: &u16| self.sources[usize::from(*source)].1.0.as_ref().map(|(list, _)| list.as_str());
            let single = sources.iter().filter(|source| list(source).is_none()).count();
            if single > CONTRIBUTIONS_MAX {
                return Err(whole(format!(
                    "{event:?} counts for {single} aggregates; at most {CONTRIBUTIONS_MAX} fit"
                )));
            }
            for through in sources.iter().filter_map(list) {
                let count = sources.iter().filter(|source| list(source) == Some(through)).count();
                let most = CONTRIBUTIONS_PER_ELEMENT_MAX * self.compiler.reads.list_columns(through);
                if count > most {
                    let detail = format!(
                        "each element of `{through}[]` in {event:?} counts for {count} aggregates; at most {most} fit"
                    );
                    return Err(whole(detail));
                }
            }
        }
        Ok(())
    }
}

/// An aggregate that counts events, as its sources need to know it.
struct Counted {
    name: String,
    operator: String,
    known: Option<Operator>,
    kind: Kind,
}

impl Counted {
    /// Whether each source has a value and a key. Of an operator that only the host knows, whatever is given.
    fn needs(&self) -> (Need, Need) {
        match self.known {
            None => (Need::Optional, Need::Optional),
            Some(Operator { key, .. }) if self.kind == Kind::Key => {
                (Need::None, if key == Need::None { Need::None } else { Need::Needed })
            }
            Some(Operator { value, key, .. }) => (value, key),
        }
    }

    /// The kind that values have: amounts of numbers are decimals.
    fn value_kind(&self) -> Kind {
        match self.kind {
            Kind::Integer | Kind::Instant => self.kind,
            _ => Kind::Decimal,
        }
    }
}

fn gives(table: &Map<String, Value>, part: &str) -> bool {
    let entries = table.get("from").and_then(Value::as_array).into_iter().flatten();
    table.contains_key(part) || entries.filter_map(Value::as_object).any(|entry| entry.contains_key(part))
}

/// How deep tables and lists stand within each other in a JSON text.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A number as a text. `serde_json` would bring 20 KiB of tables for this, which every instance would carry.
fn number_text(number: &Number) -> String {
    match number.as_i64() {
        Some(whole) => whole.to_string(),
        None => number.as_f64().unwrap_or(f64::NAN).to_string(),
    }
}

/// A key within a place.
fn below(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}
