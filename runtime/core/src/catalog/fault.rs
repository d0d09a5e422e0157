//! What is wrong with a catalogue document: the place as a JSON pointer, what it is, and the mend.

use std::fmt;

/// Faults of one document that are told at once; further ones wait until those are mended.
const FAULTS_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a JSON pointer such as `/offers/3/caps/0/most`; empty: the document as a whole.
    pub pointer: String,
    /// What is wrong and the mend.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, detail } = self;
        if pointer.is_empty() { out.write_str(detail) } else { write!(out, "{pointer}: {detail}") }
    }
}

/// A catalogue that is not taken, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogError {
    /// In the order of the document, at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for CatalogError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            write!(out, "{}{fault}", if index == 0 { "" } else { "\n  " })?;
        }
        Ok(())
    }
}

impl std::error::Error for CatalogError {}

impl CatalogError {
    /// A single fault.
    pub fn one(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { faults: vec![Fault { pointer: pointer.into(), detail: detail.into() }] }
    }
}

/// Faults while they are collected.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Notes a fault.
    pub(super) fn add(&mut self, pointer: String, detail: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault { pointer, detail: detail.into() });
        }
    }

    /// Whether there is none so far.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was made, unless something was wrong.
    pub(super) fn or<T>(self, made: T) -> Result<T, CatalogError> {
        if self.0.is_empty() { Ok(made) } else { Err(CatalogError { faults: self.0 }) }
    }
}

/// A key or index behind a pointer.
pub(super) fn step(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}
