//! TOML as JSON: the same keys, instants as texts.

use serde_json::value::RawValue;

use super::fault::{CatalogError, Faults, step};

/// The document as JSON. A value that JSON does not have is a fault at its place.
pub(super) fn to_json(text: &str) -> Result<Box<RawValue>, CatalogError> {
    let table: ::toml::Table = text.parse().map_err(|error: ::toml::de::Error| {
        CatalogError::one("", format!("is not TOML: {}", error.to_string().trim_end()))
    })?;
    let (mut json, mut faults) = (String::with_capacity(text.len()), Faults::default());
    write(&::toml::Value::Table(table), "", &mut json, &mut faults);
    let raw = RawValue::from_string(json).map_err(|error| CatalogError::one("", error.to_string()))?;
    faults.or(raw)
}

fn write(value: &::toml::Value, pointer: &str, json: &mut String, faults: &mut Faults) {
    match value {
        ::toml::Value::String(text) => json.push_str(&quoted(text)),
        ::toml::Value::Integer(number) => json.push_str(&number.to_string()),
        ::toml::Value::Float(number) => match serde_json::to_string(number) {
            Ok(number) if number != "null" => json.push_str(&number),
            _ => {
                faults.add(pointer.to_owned(), format!("{number} is not a number that can be written as JSON"));
                json.push_str("null");
            }
        },
        ::toml::Value::Boolean(flag) => json.push_str(if *flag { "true" } else { "false" }),
        ::toml::Value::Datetime(at) => json.push_str(&quoted(&at.to_string())),
        ::toml::Value::Array(values) => {
            json.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                write(value, &format!("{pointer}/{index}"), json, faults);
            }
            json.push(']');
        }
        ::toml::Value::Table(table) => {
            json.push('{');
            for (index, (key, value)) in table.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                json.push_str(&quoted(key));
                json.push(':');
                write(value, &step(pointer, key), json, faults);
            }
            json.push('}');
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
