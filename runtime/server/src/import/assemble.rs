//! Rows into events: conditions, templates, numbers, and the joining of rows that are one event.

use std::collections::hash_map::Entry;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use rustc_hash::FxHashMap;
use selvedge_core::limits;
use selvedge_core::time::BusinessTime;
use selvedge_core::value::{Decimal, DecimalText, Timestamp};

use super::map::{Field, Map};
use super::rows::Row;

/// An event, or another entry of a call, as it is sent.
pub struct Event {
    pub json: String,
    /// The first of its rows.
    pub first_row: u64,
    /// How many rows it was made of.
    pub rows: u64,
}

impl Event {
    /// The refusal of an event that no edge takes.
    pub fn too_large(&self) -> RefusedRows {
        let detail = format!("is {} bytes; an event may have {}", self.json.len(), limits::EVENT_BYTES_MAX);
        RefusedRows { first_row: self.first_row, rows: self.rows, reason: "event_too_large".into(), detail }
    }
}

/// Rows that became no event.
#[derive(Debug)]
pub struct RefusedRows {
    pub first_row: u64,
    pub rows: u64,
    /// Stable, for counting.
    pub reason: String,
    pub detail: String,
}

/// Joins rows to events.
pub struct Assembler {
    group: Option<Template>,
    /// For each group how many of its rows are still to come.
    expected: FxHashMap<u128, u32>,
    open: FxHashMap<u128, Building>,
    rules: Vec<Rule>,
    time: Time,
    message_id: Template,
    user_id: Option<Template>,
    anonymous_id: Option<Template>,
    source: String,
    traits: Vec<(String, Template)>,
    properties: Vec<(String, Value)>,
    lines: Vec<(String, Value)>,
    /// The lines' fields whose products add up to the total.
    total_of: Option<[usize; 2]>,
}

struct Rule {
    when: Option<(usize, Test)>,
    name: String,
    negate: Vec<usize>,
}

enum Test {
    StartsWith(String),
    Equals(String),
}

enum Value {
    Text(Template),
    Number(usize),
    Total,
}

/// A text with values of the row in it.
pub struct Template(Vec<Part>);

enum Part {
    Text(String),
    Column(usize),
    RowNumber,
}

struct Time {
    column: usize,
    format: Option<String>,
    zone: Option<BusinessTime>,
    /// Neighbouring rows mostly share their time.
    last: Option<(String, Timestamp)>,
}

/// An event of which some rows have been seen.
struct Building {
    first_row: u64,
    rows: u64,
    rule: usize,
    at: Option<Timestamp>,
    /// Everything but the lines and the total, from the first row.
    head: Head,
    lines: String,
    total: Decimal,
    refused: Option<(String, String)>,
}

struct Head {
    message_id: String,
    user_id: String,
    anonymous_id: String,
    traits: String,
    properties: String,
}

impl Assembler {
    /// Resolves a map against a file's columns.
    pub fn new(map: &Map, columns: &[String]) -> Result<Self> {
        let column = |name: &str| {
            columns.iter().position(|known| known == name).with_context(|| format!("there is no column {name:?}"))
        };
        let template = |text: &str| Template::parse(text, &column);
        let value = |field: &Field| -> Result<Value> {
            Ok(match field {
                Field::Text(text) => Value::Text(template(text)?),
                Field::Number(number) => Value::Number(column(&number.number)?),
                Field::Total(_) => Value::Total,
            })
        };
        let fields = |fields: &std::collections::BTreeMap<String, Field>| {
            fields.iter().map(|(name, field)| Ok((name.clone(), value(field)?))).collect::<Result<Vec<_>>>()
        };
        let lines = fields(&map.lines)?;
        let line = |name: &String| {
            lines.iter().position(|(line, _)| line == name).with_context(|| format!("[lines] has no {name:?}"))
        };
        let rules = map.events.iter().map(|rule| {
            let when = rule.when.as_ref().map(|condition| {
                let test = match (&condition.starts_with, &condition.equals) {
                    (Some(prefix), _) => Test::StartsWith(prefix.clone()),
                    (None, Some(text)) => Test::Equals(text.clone()),
                    (None, None) => bail!("the `when` of {:?} has no test", rule.name),
                };
                Ok((column(&condition.column)?, test))
            });
            let negate = rule.negate.iter().map(line).collect::<Result<_>>()?;
            Ok(Rule { when: when.transpose()?, name: rule.name.clone(), negate })
        });
        let total_of = map
            .properties
            .values()
            .find_map(|field| if let Field::Total(total) = field { Some(&total.total_of) } else { None });
        let total_of =
            total_of.map(|[price, quantity]| Ok::<_, anyhow::Error>([line(price)?, line(quantity)?])).transpose()?;
        let zone = map.time.time_zone.as_deref().map(BusinessTime::new).transpose()?;
        Ok(Self {
            group: map.group.as_deref().map(&template).transpose()?,
            expected: FxHashMap::default(),
            open: FxHashMap::default(),
            rules: rules.collect::<Result<_>>()?,
            time: Time { column: column(&map.time.column)?, format: map.time.format.clone(), zone, last: None },
            message_id: template(&map.identity.message_id)?,
            user_id: map.identity.user_id.as_deref().map(&template).transpose()?,
            anonymous_id: map.identity.anonymous_id.as_deref().map(&template).transpose()?,
            source: map.source.clone(),
            traits: map.traits.iter().map(|(name, text)| Ok((name.clone(), template(text)?))).collect::<Result<_>>()?,
            properties: fields(&map.properties)?,
            lines,
            total_of,
        })
    }

    /// Whether several rows may be one event.
    pub fn grouping(&self) -> bool {
        self.group.is_some()
    }

    /// Takes note of a row of the first reading.
    pub fn count(&mut self, row: &Row) {
        if let Some(key) = self.key(row) {
            *self.expected.entry(key).or_default() += 1;
        }
    }

    /// Takes a row. Gives its event once all rows of it have come; an event with a bad row is refused whole, never half counted.
    pub fn add(&mut self, row: &Row) -> Result<Option<Event>, RefusedRows> {
        let Some(key) = self.key(row) else {
            let mut building = self.begin(row);
            self.add_line(&mut building, row);
            return self.finish(building).map(Some);
        };
        let Entry::Occupied(mut expected) = self.expected.entry(key) else {
            return Err(refuse(row, "file_changed", "the file changed between its two readings; import it again"));
        };
        *expected.get_mut() -= 1;
        let complete = *expected.get() == 0;
        if complete {
            expected.remove();
        }
        let mut building = self.open.remove(&key).unwrap_or_else(|| self.begin(row));
        self.add_line(&mut building, row);
        if complete {
            return self.finish(building).map(Some);
        }
        self.open.insert(key, building);
        Ok(None)
    }

    /// Events of which rows are still missing at the end of the file: it changed between its two readings.
    pub fn incomplete(&mut self) -> Vec<RefusedRows> {
        let refused = |building: Building| RefusedRows {
            first_row: building.first_row,
            rows: building.rows,
            reason: "incomplete_group".into(),
            detail: "rows of the same event were there when the file was first read; import it again".into(),
        };
        self.open.drain().map(|(_, building)| refused(building)).collect()
    }

    /// 128 bits of hash instead of the text, which would need memory for every group of the file.
    fn key(&self, row: &Row) -> Option<u128> {
        Some(xxhash_rust::xxh3::xxh3_128(self.group.as_ref()?.fill(row).as_bytes()))
    }

    fn begin(&mut self, row: &Row) -> Building {
        let rule = self.rules.iter().position(|rule| rule.fits(row)).unwrap_or(self.rules.len() - 1);
        let fill =
            |template: &Option<Template>| template.as_ref().map(|template| template.fill(row)).unwrap_or_default();
        let user_id = fill(&self.user_id);
        let (properties, refused) = match self.fixed_properties(row) {
            Ok(properties) => (properties, None),
            Err(detail) => (String::new(), Some(("bad_number".to_owned(), format!("row {}: {detail}", row.number)))),
        };
        let head = Head {
            message_id: self.message_id.fill(row),
            anonymous_id: if user_id.trim().is_empty() { fill(&self.anonymous_id) } else { String::new() },
            user_id,
            traits: object(
                self.traits.iter().map(|(name, template)| (name.as_str(), Some(json_text(&template.fill(row))))),
            ),
            properties,
        };
        Building {
            first_row: row.number,
            rows: 0,
            rule,
            at: None,
            head,
            lines: String::new(),
            total: Decimal(0),
            refused,
        }
    }

    /// The properties that come from the first row, as the inside of a JSON object.
    fn fixed_properties(&self, row: &Row) -> Result<String, String> {
        let mut entries = Vec::new();
        for (name, value) in &self.properties {
            entries.push((name.as_str(), self.json(value, row, false)?));
        }
        Ok(object(entries.into_iter()))
    }

    fn add_line(&mut self, building: &mut Building, row: &Row) {
        building.rows += 1;
        if let Some(odd) = &row.odd {
            building.refuse("unreadable_row".into(), format!("row {}: {odd}", row.number));
        }
        match self.time.read(row) {
            Ok(at) => building.at = Some(building.at.map_or(at, |earliest| earliest.min(at))),
            Err(detail) => building.refuse("bad_time".into(), format!("row {}: {detail}", row.number)),
        }
        if self.lines.is_empty() {
            return;
        }
        let negate = &self.rules[building.rule].negate;
        let mut entries = Vec::with_capacity(self.lines.len());
        for (index, (name, value)) in self.lines.iter().enumerate() {
            match self.json(value, row, negate.contains(&index)) {
                Ok(json) => entries.push((name.as_str(), json)),
                Err(detail) => building.refuse("bad_number".into(), format!("row {}: {detail}", row.number)),
            }
        }
        if let Some([price, quantity]) = self.total_of {
            let number = |index: usize| match &self.lines[index].1 {
                Value::Number(column) => Decimal::parse(row.values.get(*column).unwrap_or_default().trim()).ok(),
                _ => None,
            };
            let turned = negate.contains(&price) != negate.contains(&quantity);
            let amount = number(price).zip(number(quantity)).and_then(|(price, quantity)| price.checked_mul(quantity));
            let amount = amount.and_then(|Decimal(units)| if turned { units.checked_neg() } else { Some(units) });
            match amount.and_then(|units| building.total.0.checked_add(units)) {
                Some(total) => building.total = Decimal(total),
                None => building.refuse("bad_number".into(), format!("row {}: the total is out of range", row.number)),
            }
        }
        if !building.lines.is_empty() {
            building.lines.push(',');
        }
        building.lines.push('{');
        building.lines.push_str(&object(entries.into_iter()));
        building.lines.push('}');
    }

    fn finish(&self, building: Building) -> Result<Event, RefusedRows> {
        let Building { first_row, rows, rule, at, head, lines, total, refused } = building;
        let at = match (refused, at) {
            (None, Some(at)) => at,
            (refused, _) => {
                let (reason, detail) = refused.unwrap_or_else(|| ("bad_time".into(), "has no time".into()));
                return Err(RefusedRows { first_row, rows, reason, detail });
            }
        };
        let mut json = String::with_capacity(lines.len() + head.properties.len() + head.traits.len() + 256);
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            "{{\"type\":\"track\",\"event\":{},\"messageId\":{}",
            json_text(&self.rules[rule].name),
            json_text(&head.message_id)
        );
        if !head.user_id.trim().is_empty() {
            let _ = write!(json, ",\"userId\":{}", json_text(&head.user_id));
        }
        if !head.anonymous_id.is_empty() {
            let _ = write!(json, ",\"anonymousId\":{}", json_text(&head.anonymous_id));
        }
        let _ = write!(json, ",\"timestamp\":\"{at}\",\"properties\":{{{}", head.properties);
        let mut separator = if head.properties.is_empty() { "" } else { "," };
        for (name, _) in self.properties.iter().filter(|(_, value)| matches!(value, Value::Total)) {
            let _ = write!(json, "{separator}{}:{}", json_text(name), DecimalText(i128::from(total.0)));
            separator = ",";
        }
        if !self.lines.is_empty() {
            let _ = write!(json, "{separator}\"products\":[{lines}]");
        }
        json.push('}');
        if !head.traits.is_empty() {
            let _ =
                write!(json, ",\"context\":{{\"source\":{},\"traits\":{{{}}}}}", json_text(&self.source), head.traits);
        }
        json.push('}');
        Ok(Event { json, first_row, rows })
    }

    /// A field as JSON; none where it is empty or belongs to the end.
    fn json(&self, value: &Value, row: &Row, negate: bool) -> Result<Option<String>, String> {
        match value {
            Value::Total => Ok(None),
            Value::Text(template) => {
                let text = template.fill(row);
                Ok((!text.is_empty()).then(|| json_text(&text)))
            }
            Value::Number(column) => {
                let text = row.values.get(*column).unwrap_or_default().trim();
                if text.is_empty() {
                    return Ok(None);
                }
                let Decimal(units) = Decimal::parse(text).map_err(|error| format!("{text:?} is {error}"))?;
                let units = if negate { -i128::from(units) } else { i128::from(units) };
                Ok(Some(DecimalText(units).to_string()))
            }
        }
    }
}

impl Building {
    fn refuse(&mut self, reason: String, detail: String) {
        self.refused.get_or_insert((reason, detail));
    }
}

impl Rule {
    fn fits(&self, row: &Row) -> bool {
        let Some((column, test)) = &self.when else { return true };
        let value = row.values.get(*column).unwrap_or_default();
        match test {
            Test::StartsWith(prefix) => value.starts_with(prefix.as_str()),
            Test::Equals(text) => value == text,
        }
    }
}

impl Template {
    /// Parses `{Column}` and `{row}` in a text.
    pub fn parse(text: &str, column: &dyn Fn(&str) -> Result<usize>) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else { bail!("{text:?}: a brace is not closed") };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(if name == "row" { Part::RowNumber } else { Part::Column(column(name)?) });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text of a row.
    pub fn fill(&self, row: &Row) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Column(column) => text.push_str(row.values.get(*column).unwrap_or_default()),
                Part::RowNumber => {
                    let _ = write!(text, "{}", row.number);
                }
            }
        }
        text
    }
}

impl Time {
    fn read(&mut self, row: &Row) -> Result<Timestamp, String> {
        let text = row.values.get(self.column).unwrap_or_default();
        if let Some((last, at)) = &self.last
            && last == text
        {
            return Ok(*at);
        }
        let at = wall_clock(text, self.format.as_deref(), self.zone.as_ref())
            .ok_or_else(|| format!("{text:?} is not a time of the map's format"))?;
        self.last = Some((text.to_owned(), at));
        Ok(at)
    }
}

/// Reads a time by a format as in strftime, as of a zone where it has no offset; RFC 3339 where no format is given.
pub fn wall_clock(text: &str, format: Option<&str>, zone: Option<&BusinessTime>) -> Option<Timestamp> {
    let Some(format) = format else { return Timestamp::parse(text).ok() };
    let broken = jiff::fmt::strtime::parse(format, text).ok()?;
    if broken.offset().is_some() {
        return Some(Timestamp(broken.to_timestamp().ok()?.as_millisecond()));
    }
    // A date alone is its midnight.
    let date = broken.to_date().ok()?;
    let wall = date.to_datetime(broken.to_time().unwrap_or_default());
    match zone {
        Some(zone) => zone.from_wall_clock(wall),
        None => wall.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| Timestamp(zoned.timestamp().as_millisecond())),
    }
}

fn refuse(row: &Row, reason: &str, detail: &str) -> RefusedRows {
    RefusedRows { first_row: row.number, rows: 1, reason: reason.into(), detail: detail.into() }
}

/// A JSON string.
pub fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The inside of a JSON object; entries without a value are left out.
fn object<'a>(entries: impl Iterator<Item = (&'a str, Option<String>)>) -> String {
    let mut inside = String::new();
    for (name, value) in entries {
        let Some(value) = value else { continue };
        if !inside.is_empty() {
            inside.push(',');
        }
        let _ = write!(inside, "{}:{value}", json_text(name));
    }
    inside
}
