//! Identifiers: what a fragment of a profile is stored under, and the virtual shard that follows from it.
//!
//! Owns their form. Knows nothing of who may use which identifier.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

/// The number of virtual shards. It is part of every data directory and never changes.
pub const SHARDS: u16 = 64;

/// One of the [`SHARDS`] virtual shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// All shards, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }
}

/// The kind of an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// A person known to the site, by the site's own id.
    User,
    /// A browser or device whose person is not known.
    Anonymous,
}

impl Namespace {
    /// The text before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Anonymous => "anonymous",
        }
    }
}

/// A normalised identifier such as `user:42`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(Arc<str>);

/// Why a text is not an [`Identifier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Nothing but white space.
    #[error("is empty; send the id or leave the field out")]
    Empty,
    /// Over [`limits::IDENTIFIER_BYTES_MAX`].
    #[error("is longer than 256 bytes; send a shorter id or its hash")]
    TooLong,
    /// A control character, which no id of a real system holds.
    #[error("holds a control character; send the id as printable text")]
    ControlCharacter,
    /// Not `namespace:value` with a known namespace.
    #[error("is not NAMESPACE:VALUE with the namespace user or anonymous, such as user:42")]
    UnknownNamespace,
}

impl Identifier {
    /// An identifier from its parts; white space around the value is dropped.
    pub fn new(namespace: Namespace, value: &str) -> Result<Self, IdentifierError> {
        let value = value.trim();
        if value.is_empty() {
            return Err(IdentifierError::Empty);
        }
        if value.len() > limits::IDENTIFIER_BYTES_MAX {
            return Err(IdentifierError::TooLong);
        }
        if value.chars().any(char::is_control) {
            return Err(IdentifierError::ControlCharacter);
        }
        Ok(Self(format!("{}:{value}", namespace.name()).into()))
    }

    /// Parses `namespace:value`.
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        let (name, value) = text.split_once(':').ok_or(IdentifierError::UnknownNamespace)?;
        let namespace = [Namespace::User, Namespace::Anonymous]
            .into_iter()
            .find(|namespace| namespace.name() == name)
            .ok_or(IdentifierError::UnknownNamespace)?;
        Self::new(namespace, value)
    }

    /// The whole text, `namespace:value`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard that holds this identifier's fragment: a fixed hash, the same on every machine for ever.
    pub fn shard(&self) -> ShardId {
        let hash = xxhash_rust::xxh3::xxh3_64(self.0.as_bytes());
        ShardId((hash % u64::from(SHARDS)) as u16)
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for Identifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Identifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_normalised_and_refused_by_cause() {
        assert_eq!(Identifier::new(Namespace::User, " 42 ").map(|id| id.to_string()).as_deref(), Ok("user:42"));
        assert_eq!(Identifier::parse("anonymous:a:b").map(|id| id.to_string()).as_deref(), Ok("anonymous:a:b"));
        assert_eq!(Identifier::parse("user:"), Err(IdentifierError::Empty));
        assert_eq!(Identifier::parse("user:a\nb"), Err(IdentifierError::ControlCharacter));
        assert_eq!(Identifier::parse("cookie:1"), Err(IdentifierError::UnknownNamespace));
        assert_eq!(Identifier::parse("42"), Err(IdentifierError::UnknownNamespace));
        assert!(Identifier::new(Namespace::User, &"x".repeat(256)).is_ok());
        assert_eq!(Identifier::new(Namespace::User, &"x".repeat(257)), Err(IdentifierError::TooLong));
    }

    #[test]
    fn the_shard_of_an_identifier_never_changes() {
        let shard = |text| Identifier::parse(text).map(|id| id.shard().0);
        // Fixed by data on disk: a change here orphans every existing profile.
        assert_eq!(shard("user:17850"), Ok(PINNED[0]));
        assert_eq!(shard("anonymous:a-1"), Ok(PINNED[1]));
    }

    const PINNED: [u16; 2] = [46, 39];
}
