//! The catalogue's document as it travels: JSON or TOML, told apart by how it begins, and made into the other on request.

use selvedge_core::catalog::{Catalog, CatalogError};
use selvedge_plugin_host::{CatalogFault, CatalogReads, PluginSet};
use serde::Serialize;
use serde_json::{Map, Number, Value};

/// Bytes of a document at most.
pub const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What stands where no catalogue was ever put.
pub const EMPTY: &str = "{\"offers\":[],\"slots\":[]}";

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// A JSON pointer into the document, whichever form it has.
    pub pointer: String,
    /// What is wrong, and the mend.
    pub detail: String,
}

/// The forms of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Toml,
}

impl Form {
    /// The form of a text. No TOML document begins with a brace.
    pub fn of(text: &str) -> Self {
        if text.trim_start().starts_with('{') { Self::Json } else { Self::Toml }
    }

    /// As a content type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Toml => "application/toml",
        }
    }
}

/// A catalogue that can run with some plugins.
pub struct Checked {
    pub catalog: Catalog,
    pub reads: CatalogReads,
}

/// Checks a document by itself and against the plugins that would run with it. Takes as long as the catalogue is large.
pub fn check(text: &str, plugins: &PluginSet) -> Result<Checked, Vec<Fault>> {
    let catalog = parse(text)?;
    let reads = CatalogReads::resolve(plugins, &catalog).map_err(|error| match error {
        CatalogFault::Document(error) => told(error),
        other => one("", format!("{other:#}")),
    })?;
    Ok(Checked { catalog, reads })
}

/// Checks a document by itself.
pub fn parse(text: &str) -> Result<Catalog, Vec<Fault>> {
    Catalog::parse(text).map_err(told)
}

fn told(error: CatalogError) -> Vec<Fault> {
    error.faults.into_iter().map(|fault| Fault { pointer: fault.pointer, detail: fault.detail }).collect()
}

fn one(pointer: &str, detail: String) -> Vec<Fault> {
    vec![Fault { pointer: pointer.to_owned(), detail }]
}

/// All faults in a line, for people.
pub fn in_words(faults: &[Fault]) -> String {
    let word = |fault: &Fault| match fault.pointer.as_str() {
        "" => fault.detail.clone(),
        pointer => format!("{pointer}: {}", fault.detail),
    };
    faults.iter().map(word).collect::<Vec<_>>().join("; ")
}

/// A document as JSON.
pub fn to_json(text: &str) -> Result<Value, Vec<Fault>> {
    match Form::of(text) {
        Form::Json => serde_json::from_str(text).map_err(|error| one("", format!("not JSON: {error}"))),
        Form::Toml => {
            let table: toml::Table = toml::from_str(text).map_err(|error| one("", format!("not TOML: {error}")))?;
            json_of(&toml::Value::Table(table), "")
        }
    }
}

/// A document as TOML.
pub fn to_toml(text: &str) -> Result<String, Vec<Fault>> {
    match Form::of(text) {
        Form::Toml => Ok(text.to_owned()),
        Form::Json => toml_of(&to_json(text)?),
    }
}

/// A document that is JSON as TOML.
fn toml_of(value: &Value) -> Result<String, Vec<Fault>> {
    toml::to_string(&toml_value(value, "")?).map_err(|error| one("", format!("does not fit into TOML: {error}")))
}

fn json_of(value: &toml::Value, pointer: &str) -> Result<Value, Vec<Fault>> {
    Ok(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => {
            Value::Number(Number::from_f64(*number).ok_or_else(|| one(pointer, "is no finite number".into()))?)
        }
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(items) => {
            let items = items.iter().enumerate();
            Value::Array(items.map(|(at, item)| json_of(item, &format!("{pointer}/{at}"))).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let fields = table.iter();
            let field =
                |(key, value): (&String, &toml::Value)| Ok((key.clone(), json_of(value, &below(pointer, key))?));
            Value::Object(fields.map(field).collect::<Result<Map<_, _>, Vec<Fault>>>()?)
        }
    })
}

fn toml_value(value: &Value, pointer: &str) -> Result<toml::Value, Vec<Fault>> {
    Ok(match value {
        Value::Null => return Err(one(pointer, "is null, which TOML does not have; leave the field out".into())),
        Value::Bool(flag) => (*flag).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) => float.into(),
            (None, None) => return Err(one(pointer, format!("{number} is out of range"))),
        },
        Value::Array(items) => {
            let items = items.iter().enumerate();
            let items = items.map(|(at, item)| toml_value(item, &format!("{pointer}/{at}")));
            toml::Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| Ok((key.clone(), toml_value(value, &below(pointer, key))?));
            toml::Value::Table(fields.iter().map(field).collect::<Result<toml::Table, Vec<Fault>>>()?)
        }
    })
}

/// The pointer to a field, as RFC 6901 writes it.
fn below(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
        [[offers]]
        id = "kettle"
        value = 12.5
        content = { title = "A kettle", until = 2026-12-01T10:00:00Z }
        [[slots]]
        slot = "hero"
        fallback = "kettle"
    "#;

    #[test]
    fn a_document_is_the_same_in_both_forms() {
        let json = to_json(TOML).expect("a document");
        assert_eq!(json["offers"][0]["content"]["until"], "2026-12-01T10:00:00Z");
        let text = json.to_string();
        assert_eq!((Form::of(TOML), Form::of(&text)), (Form::Toml, Form::Json));
        let of = |text: &str| parse(text).expect("a catalogue").offers[0].clone();
        assert_eq!((of(&text).id, of(&text).value), (of(TOML).id, of(TOML).value));
        assert_eq!(to_json(&to_toml(&text).expect("TOML")), Ok(json));
        assert_eq!(parse(EMPTY).expect("a catalogue").offers.len(), 0);
    }

    #[test]
    fn a_fault_has_its_place() {
        let faults = parse(r#"{"offers": [{"id": "a", "content": {}, "vaule": 1}], "slots": []}"#)
            .map(|_| ())
            .expect_err("a fault");
        assert_eq!(faults[0].pointer, "/offers/0/vaule");
        assert!(in_words(&faults).contains("did you mean \"value\"?"), "{}", in_words(&faults));
        let faults = parse("{\"offers\": ").map(|_| ()).expect_err("a fault");
        assert!(faults[0].detail.contains("not JSON"), "{faults:?}");
    }
}
