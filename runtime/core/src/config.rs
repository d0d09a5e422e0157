//! A plugin's configuration: the table in `NAME.toml`, read through declared reads only, so that a misspelt key cannot pass unseen.

use serde_json::value::RawValue;

use crate::read::Read;

/// A plugin's configuration.
#[derive(Clone, Debug, Default)]
pub struct Config(toml::Table);

/// A configuration that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Parses TOML.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        text.parse().map(Self).map_err(|error: toml::de::Error| ConfigError(error.to_string().trim_end().to_owned()))
    }

    /// The value of a dotted key, as JSON.
    pub fn get(&self, key: &str) -> Option<Box<RawValue>> {
        let mut parts = key.split('.');
        let first = self.0.get(parts.next()?)?;
        let value = parts.try_fold(first, |value, part| value.get(part))?;
        serde_json::value::to_raw_value(value).ok()
    }

    /// The text of a dotted key.
    pub fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// The whole table as JSON.
    pub fn to_json(&self) -> Result<String, ConfigError> {
        serde_json::to_string(&self.0).map_err(|error| ConfigError(error.to_string()))
    }

    /// Refuses a key that none of the reads names.
    pub fn check_keys<'r>(&self, reads: impl Iterator<Item = &'r Read> + Clone) -> Result<(), ConfigError> {
        let known: Vec<&str> =
            reads.map(Read::split).filter(|(source, _)| *source == "config").map(|(_, key)| key).collect();
        check_table(&self.0, "", &known)
    }
}

fn check_table(table: &toml::Table, above: &str, known: &[&str]) -> Result<(), ConfigError> {
    for (key, value) in table {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            toml::Value::Table(inner) => check_table(inner, &path, known)?,
            _ if known.contains(&path.as_str()) => {}
            _ => return Err(ConfigError(unknown_key(&path, known))),
        }
    }
    Ok(())
}

/// The message for an unknown key, with the nearest valid one.
pub fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(nearest) => format!("unknown key {key:?}; did you mean {nearest:?}?"),
        None if known.is_empty() => format!("unknown key {key:?}; there is nothing to configure"),
        None => format!("unknown key {key:?}; known are {}", known.join(", ")),
    }
}

/// The name that was probably meant, if any is near enough.
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let alike = known.map(|known| (strsim::jaro_winkler(known, name), known));
    let best = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    // Short names are unlike each other by a single slip already.
    let near = |likeness: f64, known: &str| likeness > 0.7 || strsim::osa_distance(known, name) == 1;
    best.filter(|(likeness, known)| near(*likeness, known)).map(|(_, nearest)| nearest)
}

/// Parses a TOML document into a type that denies unknown fields; the error names the nearest valid key.
pub fn from_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        // serde lists the valid keys in its message, in backticks after the unknown one.
        let message = error.message();
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let hint = match names.split_first() {
            Some((key, known)) if message.starts_with("unknown field") => unknown_key(key, known),
            _ => message.to_owned(),
        };
        let place = error
            .span()
            .map(|span| format!("line {}: ", text[..span.start].matches('\n').count() + 1))
            .unwrap_or_default();
        ConfigError(format!("{place}{hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Kind;

    #[test]
    fn a_misspelt_key_names_the_nearest() {
        let config = Config::parse("alhpa = 1.5\n").expect("TOML");
        let reads = ["config:alpha", "config:horizon_days", "now"].map(|path| Read {
            path: path.into(),
            kind: Kind::Number,
            choices: Vec::new(),
        });
        let error = config.check_keys(reads.iter()).expect_err("an unknown key");
        assert_eq!(error.to_string(), "unknown key \"alhpa\"; did you mean \"alpha\"?");
        assert!(Config::parse("alpha = 1\n[deep]\nx = 2").expect("TOML").check_keys(reads.iter()).is_err());
        assert!(Config::parse("alpha = 1").expect("TOML").check_keys(reads.iter()).is_ok());
    }

    #[test]
    fn values_are_read_by_dotted_key() {
        let config = Config::parse("alpha = 0.243\ncurrency = \"GBP\"\n[a]\nb = 2").expect("TOML");
        assert_eq!(config.get("alpha").map(|raw| raw.get().to_owned()).as_deref(), Some("0.243"));
        assert_eq!(config.get("a.b").map(|raw| raw.get().to_owned()).as_deref(), Some("2"));
        assert_eq!(config.text("currency").as_deref(), Some("GBP"));
        assert_eq!(config.text("none"), None);
        assert_eq!(config.to_json().as_deref(), Ok(r#"{"a":{"b":2},"alpha":0.243,"currency":"GBP"}"#));
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // only parsed
    struct Sample {
        listen: String,
        admin: Option<String>,
    }

    #[test]
    fn an_unknown_field_of_a_document_names_its_line_and_the_nearest() {
        let error = from_toml::<Sample>("listen = \"a\"\nadmn = \"b\"").expect_err("an unknown key");
        assert_eq!(error.to_string(), "line 2: unknown key \"admn\"; did you mean \"admin\"?");
        assert!(from_toml::<Sample>("").expect_err("a missing key").to_string().contains("listen"));
    }
}
