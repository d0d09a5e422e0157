//! The JSON Schema of a catalogue document, for editors and importers.

/// JSON Schema, draft 2020-12. What no schema can say (names that must be there, conditions, channels) is said when a document is read.
pub const SCHEMA: &str = include_str!("schema.json");
