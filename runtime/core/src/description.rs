//! A plugin's description as plain data: the mirror of `wit/plugin.wit`, checked once when the plugin is loaded.

use crate::aggregate::{Definition, DefinitionError};
use crate::config::Config;
use crate::event::EventKind;
use crate::read::Read;
use crate::value::Kind;

/// What a plugin says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // field by field in wit/plugin.wit
pub struct Description {
    pub name: String,
    pub version: String,
    pub observes: Vec<String>,
    pub event_reads: Vec<Read>,
    pub score_reads: Vec<Read>,
    pub visitor_reads: Vec<Read>,
    pub offer_reads: Vec<Read>,
    pub aggregates: Vec<AggregateDeclaration>,
    pub scores: Vec<ScoreDeclaration>,
    pub reasons: Vec<String>,
    pub skips: Vec<String>,
}

/// An aggregate as declared; see `wit/plugin.wit`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AggregateDeclaration {
    pub name: String,
    pub operator: String,
    pub parameters: Vec<(String, String)>,
    pub windows: Vec<String>,
    pub kind: Kind,
    pub unit: Option<String>,
}

/// A score as declared; see `wit/plugin.wit`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ScoreDeclaration {
    pub name: String,
    pub unit: Option<String>,
}

/// What is wrong with a description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DescriptionError(pub String);

impl Description {
    /// Refuses names that could not be told apart or written in a path.
    pub fn check(&self) -> Result<(), DescriptionError> {
        let fault = |detail: String| Err(DescriptionError(detail));
        if !well_formed(&self.name, b'-') {
            return fault(format!("the plugin's name {:?} may hold lower-case letters, digits and -", self.name));
        }
        let special = |name: &str| {
            EventKind::ALL.iter().any(|kind| *kind != EventKind::Track && name == format!("${}", kind.name()))
        };
        if let Some(name) = self.observes.iter().find(|name| name.starts_with('$') && !special(name)) {
            return fault(format!(
                "it observes {name:?}, which never comes; there are $identify, $page, $screen and $alias"
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        for name in
            self.aggregates.iter().map(|aggregate| &aggregate.name).chain(self.scores.iter().map(|score| &score.name))
        {
            if !well_formed(name, b'_') {
                return fault(format!("the name {name:?} may hold lower-case letters, digits and _"));
            }
            if !seen.insert(name) {
                return fault(format!("the name {name:?} is defined twice"));
            }
        }
        Ok(())
    }

    /// Everything that it declares to read.
    pub fn reads(&self) -> impl Iterator<Item = &Read> + Clone {
        self.event_reads.iter().chain(&self.score_reads).chain(&self.visitor_reads).chain(&self.offer_reads)
    }

    /// Its aggregates' definitions, with units that stand in the configuration filled in.
    ///
    /// The error tells of every fault.
    pub fn definitions(&self, config: &Config) -> Result<Vec<Definition>, DescriptionError> {
        let definition = |declared: &AggregateDeclaration| {
            let unit = unit(declared.unit.as_deref(), config);
            Definition::parse(
                &declared.name,
                &declared.operator,
                &declared.parameters,
                &declared.windows,
                declared.kind,
                unit,
            )
        };
        let (mut definitions, mut faults) = (Vec::with_capacity(self.aggregates.len()), Vec::new());
        for parsed in self.aggregates.iter().map(definition) {
            match parsed {
                Ok(definition) => definitions.push(definition),
                Err(DefinitionError { name, detail }) => faults.push(format!("aggregate {name:?}: {detail}")),
            }
        }
        if faults.is_empty() { Ok(definitions) } else { Err(DescriptionError(faults.join("; "))) }
    }
}

/// A unit, looked up in the configuration where it says `config:KEY`.
pub fn unit(declared: Option<&str>, config: &Config) -> Option<String> {
    let declared = declared?;
    declared.strip_prefix("config:").map_or_else(|| Some(declared.to_owned()), |key| config.text(key))
}

fn well_formed(name: &str, also: u8) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == also)
}
