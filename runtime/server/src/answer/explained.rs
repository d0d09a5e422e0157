//! What is said of candidates and of plugins' stages in answers to `explain`.
//!
//! A thousand candidates are more than the rest of a decision: they are written as JSON straight from what was found out, once, and the answer and its record share
//! that.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;

use axum::body::Bytes;
use selvedge_core::condition::ReadId;
use selvedge_core::decision::priority::Factors;
use selvedge_core::value::Timestamp;
use selvedge_plugin_host::Told;
use serde::Serialize;

use crate::edge::Edge;
use crate::rates::{Counted, Rates};

/// Bytes of a candidate, about.
const CANDIDATE_BYTES: usize = 192;

/// The candidates of a slot, as a JSON array; nothing where nobody asks for them or there are none.
#[derive(Default)]
pub struct Candidates {
    whole: Bytes,
    /// Without what only the secret key opens.
    veiled: Bytes,
}

impl Candidates {
    /// All that is said of them.
    pub fn whole(&self) -> &Bytes {
        &self.whole
    }

    /// What the caller is told.
    pub fn told(&self) -> &Bytes {
        &self.veiled
    }
}

/// A list whose elements each stand behind a comma; nothing where there are none.
fn array(mut json: Vec<u8>) -> Bytes {
    let Some(first) = json.first_mut() else { return Bytes::new() };
    *first = b'[';
    json.push(b']');
    // It is kept for a while.
    json.shrink_to_fit();
    json.into()
}

/// Why a candidate stands where it stands.
#[derive(Clone, Copy)]
pub struct Candidate<'e> {
    /// As a JSON text.
    pub id: &'e str,
    pub outcome: &'static str,
    /// At which step it left.
    pub step: Option<&'static str>,
    pub priority: Option<f64>,
    /// What a plugin said of it.
    pub reason: Option<&'e str>,
    /// When that may be different, if nothing else happens.
    pub until: Option<Timestamp>,
    /// What made up its priority.
    pub factors: Option<(&'e Factors, Option<Response<'e>>)>,
    /// What its conditions read, and each of these with what it says.
    pub inputs: (&'e [ReadId], &'e [String]),
}

/// What a response rate was made from.
pub type Response<'e> = (&'e Rates, Counted);

impl<'e> Candidate<'e> {
    /// One of which nothing else is said.
    pub fn new(id: &'e str, outcome: &'static str) -> Self {
        let inputs = (&[][..], &[][..]);
        Self { id, outcome, step: None, priority: None, reason: None, until: None, factors: None, inputs }
    }
}

/// Writes the candidates of a slot, one after the other. Into memory nothing fails to be written.
pub struct CandidatesWriter {
    whole: Writer,
    /// For a caller who has not the secret key.
    veiled: Option<Writer>,
}

impl CandidatesWriter {
    /// Nothing written yet, and room for so many; for a caller who has not the secret key too where `veils`.
    pub fn new(candidates: usize, veils: bool) -> Self {
        let whole = Writer { json: Vec::with_capacity(candidates * CANDIDATE_BYTES), ..Writer::default() };
        Self { whole, veiled: veils.then(|| Writer { veils, ..Writer::default() }) }
    }

    /// The next one.
    pub fn write(&mut self, candidate: &Candidate<'_>) {
        self.whole.write(candidate);
        self.veiled.iter_mut().for_each(|veiled| veiled.write(candidate));
    }

    /// The next one, by its id as a JSON text: of it there is the same to say as of the one before.
    pub fn write_like(&mut self, id: &str) {
        self.whole.write_like(id);
        self.veiled.iter_mut().for_each(|veiled| veiled.write_like(id));
    }

    /// All of them.
    pub fn end(self) -> Candidates {
        let whole = array(self.whole.json);
        let veiled = self.veiled.map_or_else(|| whole.clone(), |veiled| array(veiled.json));
        Candidates { whole, veiled }
    }
}

/// JSON of candidates, each behind a comma.
#[derive(Default)]
struct Writer {
    json: Vec<u8>,
    /// Whether what only the secret key opens is left out.
    veils: bool,
    /// Where that stands which is said of the last one.
    said: Range<usize>,
}

impl Writer {
    fn write(&mut self, candidate: &Candidate<'_>) {
        self.begin(candidate.id);
        let start = self.json.len();
        self.say(candidate);
        self.said = start..self.json.len();
    }

    fn write_like(&mut self, id: &str) {
        self.begin(id);
        self.json.extend_from_within(self.said.clone());
    }

    fn begin(&mut self, id: &str) {
        self.json.extend_from_slice(b",{\"id\":");
        self.json.extend_from_slice(id.as_bytes());
    }

    /// What is said of one.
    fn say(&mut self, candidate: &Candidate<'_>) {
        let json = &mut self.json;
        for (name, word) in [(",\"outcome\":\"", Some(candidate.outcome)), (",\"step\":\"", candidate.step)] {
            if let Some(word) = word {
                json.extend_from_slice(name.as_bytes());
                json.extend_from_slice(word.as_bytes());
                json.push(b'"');
            }
        }
        if let (Some(priority), false) = (candidate.priority, self.veils) {
            number(json, ",\"priority\":", priority);
        }
        field(json, ",\"reason\":", &candidate.reason);
        if let Some(until) = candidate.until {
            let _ = write!(json, ",\"until\":\"{until}\"");
        }
        if self.veils {
            return json.push(b'}');
        }
        if let Some((Factors { propensity, context, value, lever }, response)) = candidate.factors {
            number(json, ",\"factors\":{\"propensity\":", *propensity);
            number(json, ",\"context\":", *context);
            number(json, ",\"value\":", *value);
            number(json, ",\"lever\":", *lever);
            if let Some((rates, counted)) = response {
                field(json, ",\"response\":", &ResponseAnswer::of(rates, counted));
            }
            json.push(b'}');
        }
        let (reads, told) = candidate.inputs;
        if let Some((first, others)) = reads.split_first() {
            json.extend_from_slice(b",\"inputs\":{");
            json.extend_from_slice(told[*first as usize].as_bytes());
            for read in others {
                json.push(b',');
                json.extend_from_slice(told[*read as usize].as_bytes());
            }
            json.push(b'}');
        }
        json.push(b'}');
    }
}

/// Writes a field whose name, with what stands before it, is a part of JSON already.
fn field(json: &mut Vec<u8>, name: &str, said: &(impl Serialize + ?Sized)) {
    json.extend_from_slice(name.as_bytes());
    value(json, said);
}

/// Writes a field that is a number. Most factors are 1, and most values are whole.
fn number(json: &mut Vec<u8>, name: &str, said: f64) {
    let whole = said as u32;
    if f64::from(whole) == said {
        field(json, name, &whole);
        json.extend_from_slice(b".0");
    } else {
        field(json, name, &said);
    }
}

fn value(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let _ = serde_json::to_writer(json, value);
}

/// What a response rate was made from: (responses + prior × weight) ÷ (shown + weight).
#[derive(Serialize)]
struct ResponseAnswer {
    responses: u32,
    shown: u32,
    prior: f64,
    weight: f64,
}

impl ResponseAnswer {
    fn of(rates: &Rates, counted: Counted) -> Self {
        let Counted { responses, shown } = counted;
        Self { responses, shown, prior: rates.response().prior, weight: rates.response().weight }
    }
}

/// A stage of a plugin that took part, but for what it was given and what came of it.
#[derive(Serialize)]
struct StageHead<'e> {
    plugin: &'e str,
    version: &'e str,
    hash: &'e str,
    /// `score` or `rank`.
    stage: &'static str,
    /// The fuel that it used.
    fuel: u64,
    /// Why it gave no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<&'static str>,
}

/// The stages that were called, as a JSON array; nothing where none was.
pub fn stages(edge: &Edge, told: Vec<Told>) -> Bytes {
    let mut json = Vec::new();
    told.iter().for_each(|told| write_stage(&mut json, edge, told));
    array(json)
}

/// Writes a stage behind a comma: `inputs` is what it declared to read of the visitor, with the values that it was given, `offers` the same of offers.
fn write_stage(json: &mut Vec<u8>, edge: &Edge, told: &Told) {
    let plugin = &edge.plugins.plugins()[told.plugin];
    let (stage, fuel, failed) = (told.stage, told.fuel, told.failed);
    json.push(b',');
    value(
        json,
        &StageHead { plugin: plugin.name(), version: plugin.version(), hash: plugin.hash(), stage, fuel, failed },
    );
    json.pop();
    json.extend_from_slice(b",\"inputs\":");
    json.extend_from_slice(told.given.as_bytes());
    let (offers, given) = &told.offers;
    let ids = offers.iter().map(|offer| edge.policy.gates.id(*offer));
    object(json, "offers", ids.zip(given.iter()), |json, given| json.extend_from_slice(given.as_bytes()));
    let names = edge.plugins.schema().scores.iter().skip(plugin.first_score()).map(|score| text(&score.name));
    object(json, "scores", names.zip(&told.scores), value);
    json.push(b'}');
}

/// Writes a field that is an object, behind a comma; nothing where that has no members, whose names are JSON texts.
fn object<N: AsRef<str>, V>(
    json: &mut Vec<u8>,
    name: &str,
    members: impl Iterator<Item = (N, V)>,
    write: impl Fn(&mut Vec<u8>, V),
) {
    let mut members = members.peekable();
    if members.peek().is_none() {
        return;
    }
    json.push(b',');
    value(json, name);
    json.push(b':');
    let start = json.len();
    for (name, member) in members {
        json.push(b',');
        json.extend_from_slice(name.as_ref().as_bytes());
        json.push(b':');
        write(json, member);
    }
    json[start] = b'{';
    json.push(b'}');
}

/// A read of conditions and what it says, as a member of a JSON object.
pub fn input((name, said): (&str, String)) -> String {
    let mut json = text(name);
    let _ = write!(json, ":{said}");
    json
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_slice, json};

    use super::*;

    #[test]
    fn candidates_are_told_whole_and_veiled() {
        let factors = Factors { propensity: 0.25, value: 1e10, lever: 0.0, ..Factors::default() };
        let said = ["\"trait.plan\":\"gold\"".to_owned(), String::new(), "\"ctx.n\":3.0".to_owned()];
        let chosen = Candidate {
            priority: Some(5.0),
            reason: Some("a \"good\" one"),
            factors: Some((&factors, None)),
            inputs: (&[2, 0], &said),
            ..Candidate::new("\"ro\\\"se\"", "chosen")
        };
        let until = Some(Timestamp(0));
        let capped = Candidate { step: Some("cap"), until, ..Candidate::new("\"kettle\"", "capped") };
        let stopped = Candidate { inputs: (&[0], &said), ..Candidate::new("\"a\"", "stopped") };
        let written = |veils| {
            let mut writer = CandidatesWriter::new(4, veils);
            [chosen, capped, stopped].iter().for_each(|candidate| writer.write(candidate));
            writer.write_like("\"b\"");
            writer.write(&Candidate::new("\"c\"", "stopped"));
            writer.end()
        };
        let candidates = written(true);
        let whole = json!([
            {
                "id": "ro\"se", "outcome": "chosen", "priority": 5.0, "reason": "a \"good\" one",
                "factors": {"propensity": 0.25, "context": 1.0, "value": 1e10, "lever": 0.0},
                "inputs": {"ctx.n": 3.0, "trait.plan": "gold"},
            },
            {"id": "kettle", "outcome": "capped", "step": "cap", "reason": null, "until": "1970-01-01T00:00:00Z"},
            {"id": "a", "outcome": "stopped", "reason": null, "inputs": {"trait.plan": "gold"}},
            {"id": "b", "outcome": "stopped", "reason": null, "inputs": {"trait.plan": "gold"}},
            {"id": "c", "outcome": "stopped", "reason": null},
        ]);
        let told = |bytes: &Bytes| from_slice::<Value>(bytes).expect("JSON");
        assert_eq!(told(candidates.whole()), whole);
        let stopped = |id: &str| json!({"id": id, "outcome": "stopped", "reason": null});
        let chosen_veiled = json!({"id": "ro\"se", "outcome": "chosen", "reason": "a \"good\" one"});
        let veiled = json!([chosen_veiled, whole[1], stopped("a"), stopped("b"), stopped("c")]);
        assert_eq!(told(candidates.told()), veiled);
        assert_eq!(written(false).told(), candidates.whole());
        assert!(CandidatesWriter::new(0, true).end().told().is_empty());
    }

    #[test]
    fn an_object_without_members_is_no_field() {
        let mut json = b"{\"a\":1".to_vec();
        object(&mut json, "none", std::iter::empty::<(&str, f64)>(), |json, number| value(json, &number));
        object(&mut json, "b", [("\"x\"", 1.5), ("\"y\"", 2.0)].into_iter(), |json, number| value(json, &number));
        assert_eq!(json, b"{\"a\":1,\"b\":{\"x\":1.5,\"y\":2.0}");
    }
}
