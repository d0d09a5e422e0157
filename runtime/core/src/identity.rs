//! Identifiers: what a fragment of a profile is stored under, and the virtual shard that follows from it.
//!
//! Owns the namespaces with their rules, and the form of an identifier. Knows nothing of who may use which one, nor of which belong to one
//! person.

use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;
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

/// The namespace of households.
pub const HOUSEHOLD: &str = "household";

/// The namespaces of entities, in a fixed order: what persons belong to or deal with.
pub const ENTITIES: [&str; 4] = [HOUSEHOLD, "account", "product", "area"];

/// How the values of a namespace are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// As it comes, without white space around it.
    #[default]
    Text,
    /// In lower case, so that writings of one id agree.
    LowerCase,
    /// Without blanks and hyphens, in upper case: a number on a card, as people type it.
    Card,
    /// A SHA-256 as 64 hexadecimal digits, in lower case.
    Sha256,
}

/// What the identifiers of a namespace stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceKind {
    /// One person, known to the site by its own id: a profile has at most one.
    User,
    /// A person, by something that they have: fragments that may be linked to a profile.
    Person,
    /// Something that persons belong to or deal with: an entity, never linked.
    Entity,
}

/// A kind of identifier, with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The text before the colon.
    pub name: String,
    /// What it stands for.
    pub kind: NamespaceKind,
    /// How its values are written.
    pub form: Form,
    /// How many of it one profile may have.
    pub most: usize,
    /// Values that are no ids, in lower case, beside [`BLOCKED`].
    pub blocked: Vec<String>,
}

/// What programs send when they have no id, in any case; beside it a UUID or card of nothing but zeros. After Twilio Segment, "Identity
/// Resolution Settings" (blocked values), and what else broken clients are known to send.
pub const BLOCKED: [&str; 24] = [
    "-",
    "0",
    "-1",
    "anonymous",
    "false",
    "guest",
    "n/a",
    "na",
    "nan",
    "never",
    "nil",
    "none",
    "not set",
    "(not set)",
    "null",
    "(null)",
    "\\n",
    "[object object]",
    "true",
    "undefined",
    "unknown",
    "\"\"",
    "''",
    "{}",
];

/// From this length on a value of zeros and hyphens is no id; a shorter one may be the first number that somebody gave out.
const ZEROS_MIN: usize = 8;

/// SHA-256 of the empty text, of `null` and of `undefined`: what a hash of nothing looks like.
const BLOCKED_HASHES: [&str; 3] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
    "eb045d78d273107348b0300c01d29b7552d622abbc6faf81b3ec55359aa9950c",
];

/// The namespaces that this host knows, and how large a profile may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    list: Vec<Namespace>,
    profile_most: usize,
}

/// A normalised identifier such as `user:42`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(Arc<str>);

/// Why a text is not an [`Identifier`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// What a program sends that has no id.
    #[error("{0:?} stands for no id in too many programs to be one; leave the field out where there is none")]
    Blocked(String),
    /// Not 64 hexadecimal digits.
    #[error(
        "is not a SHA-256 as 64 hexadecimal digits; hash the trimmed, lower-case address or the number in E.164 form"
    )]
    NotSha256,
    /// Not `namespace:value`.
    #[error("is not NAMESPACE:VALUE, such as user:42")]
    Malformed,
    /// No such namespace.
    #[error("has the unknown namespace {0:?}; this host knows {1}")]
    UnknownNamespace(String, String),
}

impl IdentifierError {
    /// The stable code of a refusal for this.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Blocked(_) => "identifier_blocked",
            _ => "identifier_invalid",
        }
    }
}

/// What is wrong with a namespace that somebody declares.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Not a name.
    #[error("namespace {0:?}: a name has 1 to 32 lower-case letters, digits and _, and begins with a letter")]
    Name(String),
    /// There is one already.
    #[error("namespace {0:?} is defined twice, or is built in")]
    Twice(String),
    /// A limit is set for a namespace that there is not.
    #[error("there is no namespace {0:?} to limit; declare it, or use one of {1}")]
    Unknown(String, String),
    /// A limit that is none.
    #[error("{0}: from 1 to {max}", max = limits::PROFILE_FRAGMENTS_MAX)]
    Limit(String),
}

impl Default for Namespaces {
    /// The built-in ones.
    fn default() -> Self {
        let person = |name: &str, form| (name.to_owned(), NamespaceKind::Person, form);
        let entity = |name: &str| (name.to_owned(), NamespaceKind::Entity, Form::Text);
        let list = [
            ("user".to_owned(), NamespaceKind::User, Form::Text),
            person("anonymous", Form::Text),
            person("email_sha256", Form::Sha256),
            person("phone_sha256", Form::Sha256),
            person("loyalty", Form::Card),
            person("device", Form::LowerCase),
        ];
        let list = list.into_iter().chain(ENTITIES.map(entity));
        let most = |kind| if kind == NamespaceKind::User { 1 } else { limits::PROFILE_FRAGMENTS_MAX };
        let list = list.map(|(name, kind, form)| Namespace { name, kind, form, most: most(kind), blocked: Vec::new() });
        Self { list: list.collect(), profile_most: limits::PROFILE_FRAGMENTS_MAX }
    }
}

impl Namespaces {
    /// Adds a namespace of persons' identifiers.
    pub fn declare(&mut self, name: &str, form: Form, blocked: &[String]) -> Result<(), NamespaceError> {
        if !well_formed(name) {
            return Err(NamespaceError::Name(name.to_owned()));
        }
        if self.get(name).is_some() {
            return Err(NamespaceError::Twice(name.to_owned()));
        }
        let blocked = blocked.iter().map(|value| value.trim().to_lowercase()).collect();
        let most = limits::PROFILE_FRAGMENTS_MAX;
        self.list.push(Namespace { name: name.to_owned(), kind: NamespaceKind::Person, form, most, blocked });
        Ok(())
    }

    /// Limits how many identifiers of a namespace one profile may have.
    pub fn limit(&mut self, name: &str, most: usize) -> Result<(), NamespaceError> {
        let known = self.names();
        let namespace = self.list.iter_mut().find(|namespace| namespace.name == name);
        let namespace = namespace.ok_or_else(|| NamespaceError::Unknown(name.to_owned(), known))?;
        let highest = if namespace.kind == NamespaceKind::User { 1 } else { limits::PROFILE_FRAGMENTS_MAX };
        if most == 0 || most > highest {
            return Err(NamespaceError::Limit(format!("the limit of {name:?}")));
        }
        namespace.most = most;
        Ok(())
    }

    /// Limits how many identifiers one profile may have in all.
    pub fn limit_profile(&mut self, most: usize) -> Result<(), NamespaceError> {
        if most == 0 || most > limits::PROFILE_FRAGMENTS_MAX {
            return Err(NamespaceError::Limit("the limit of a profile's identifiers".to_owned()));
        }
        self.profile_most = most;
        Ok(())
    }

    /// A namespace by its name.
    pub fn get(&self, name: &str) -> Option<&Namespace> {
        self.list.iter().find(|namespace| namespace.name == name)
    }

    /// The namespace of an identifier; none where it was declared once and is not any more.
    pub fn of(&self, identifier: &Identifier) -> Option<&Namespace> {
        self.get(identifier.namespace())
    }

    /// What an identifier stands for; none where its namespace is not declared any more.
    pub fn kind(&self, identifier: &Identifier) -> Option<NamespaceKind> {
        self.of(identifier).map(|namespace| namespace.kind)
    }

    /// How many identifiers one profile may have.
    pub fn profile_most(&self) -> usize {
        self.profile_most
    }

    /// An identifier, normalised by the rules of its namespace.
    pub fn identifier(&self, name: &str, value: &str) -> Result<Identifier, IdentifierError> {
        let namespace =
            self.get(name).ok_or_else(|| IdentifierError::UnknownNamespace(name.to_owned(), self.names()))?;
        let value = value.trim();
        check_text(value)?;
        if namespace.blocks(value) {
            return Err(IdentifierError::Blocked(value.to_owned()));
        }
        let normal = match namespace.form {
            Form::Text => return Ok(Identifier::join(name, value)),
            Form::LowerCase => value.to_lowercase(),
            Form::Card => {
                let digits = value.chars().filter(|char| !char.is_whitespace() && *char != '-');
                digits.collect::<String>().to_uppercase()
            }
            Form::Sha256 => {
                let hash = value.to_ascii_lowercase();
                if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(IdentifierError::NotSha256);
                }
                if BLOCKED_HASHES.contains(&hash.as_str()) {
                    return Err(IdentifierError::Blocked(hash));
                }
                hash
            }
        };
        // Another writing may be longer, or nothing at all.
        check_text(&normal)?;
        if namespace.blocks(&normal) {
            return Err(IdentifierError::Blocked(value.to_owned()));
        }
        Ok(Identifier::join(name, &normal))
    }

    /// Reads `namespace:value` and normalises it.
    pub fn parse(&self, text: &str) -> Result<Identifier, IdentifierError> {
        let (name, value) = text.split_once(':').ok_or(IdentifierError::Malformed)?;
        self.identifier(name, value)
    }

    fn names(&self) -> String {
        self.list.iter().map(|namespace| namespace.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Namespace {
    /// Whether a value, without white space around it, stands for no id.
    fn blocks(&self, value: &str) -> bool {
        BLOCKED.iter().any(|blocked| blocked.eq_ignore_ascii_case(value))
            || (value.len() >= ZEROS_MIN && value.bytes().all(|byte| matches!(byte, b'0' | b'-')))
            || self.blocked.iter().any(|blocked| *blocked == value.to_lowercase())
    }
}

fn well_formed(name: &str) -> bool {
    let letter = |byte: &u8| byte.is_ascii_lowercase();
    let inner = |byte: u8| letter(&byte) || byte.is_ascii_digit() || byte == b'_';
    name.len() <= 32 && name.as_bytes().first().is_some_and(letter) && name.bytes().all(inner)
}

fn check_text(value: &str) -> Result<(), IdentifierError> {
    if value.is_empty() {
        return Err(IdentifierError::Empty);
    }
    if value.len() > limits::IDENTIFIER_BYTES_MAX {
        return Err(IdentifierError::TooLong);
    }
    if value.chars().any(char::is_control) {
        return Err(IdentifierError::ControlCharacter);
    }
    Ok(())
}

impl Identifier {
    fn join(namespace: &str, value: &str) -> Self {
        // Most stand on the stack until they are shared.
        let mut text = CompactString::with_capacity(namespace.len() + 1 + value.len());
        text.push_str(namespace);
        text.push(':');
        text.push_str(value);
        Self(text.as_str().into())
    }

    /// Reads an identifier that was normalised before: one of the log or of the disk, whose namespace may not be declared any more.
    pub fn stored(text: &str) -> Result<Self, IdentifierError> {
        let (name, value) = text.split_once(':').ok_or(IdentifierError::Malformed)?;
        if !well_formed(name) {
            return Err(IdentifierError::Malformed);
        }
        check_text(value)?;
        Ok(Self(text.into()))
    }

    /// The whole text, `namespace:value`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text before the colon.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("", |(name, _)| name)
    }

    /// The text behind the colon.
    pub fn value(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, value)| value)
    }

    /// Whether it stands for something else than a person.
    pub fn is_entity(&self) -> bool {
        ENTITIES.contains(&self.namespace())
    }

    /// The shard that holds this identifier's fragment: a fixed hash, the same on every machine for ever.
    pub fn shard(&self) -> ShardId {
        ShardId((self.fixed_hash() % u64::from(SHARDS)) as u16)
    }

    /// The same on every machine for ever. Callers choose identifiers, so they choose this too.
    pub fn fixed_hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0.as_bytes())
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
        Self::stored(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Result<String, &'static str> {
        Namespaces::default().parse(text).map(|id| id.to_string()).map_err(|error| error.code())
    }

    #[test]
    fn identifiers_are_normalised_by_their_namespace() {
        assert_eq!(normal("user: 42 ").as_deref(), Ok("user:42"));
        assert_eq!(normal("user:Ada").as_deref(), Ok("user:Ada"));
        assert_eq!(normal("anonymous:a:b").as_deref(), Ok("anonymous:a:b"));
        assert_eq!(normal("loyalty:ab 12-3").as_deref(), Ok("loyalty:AB123"));
        assert_eq!(normal("device:6D92078A-8246").as_deref(), Ok("device:6d92078a-8246"));
        let hash = "B4C9A289323B21A01C3E940F150EB9B8C542587F1ABFD8F0E1CC1FFC5E475514";
        assert_eq!(normal(&format!("email_sha256:{hash}")), Ok(format!("email_sha256:{}", hash.to_lowercase())));
    }

    #[test]
    fn what_is_no_id_is_refused_by_its_cause() {
        let refused = |text: &str| Namespaces::default().parse(text).expect_err(text);
        assert_eq!(refused("user:"), IdentifierError::Empty);
        assert_eq!(refused("user:a\nb"), IdentifierError::ControlCharacter);
        assert_eq!(refused("42"), IdentifierError::Malformed);
        assert!(refused("cookie:1").to_string().contains("knows user, anonymous, email_sha256"));
        assert_eq!(refused("email_sha256:ada@example.org"), IdentifierError::NotSha256);
        assert_eq!(refused(&format!("phone_sha256:{}", "g".repeat(64))), IdentifierError::NotSha256);
        assert!(normal(&format!("user:{}", "x".repeat(256))).is_ok());
        assert_eq!(refused(&format!("user:{}", "x".repeat(257))), IdentifierError::TooLong);
        let nothing = ["null", "NULL", "undefined", "0", "-1", "None", "00000000-0000-0000-0000-000000000000", "NaN"];
        for nothing in nothing {
            assert_eq!(normal(&format!("user:{nothing}")), Err("identifier_blocked"), "{nothing}");
            assert_eq!(normal(&format!("device:{nothing}")), Err("identifier_blocked"), "{nothing}");
        }
        assert_eq!(refused("loyalty:--"), IdentifierError::Empty);
        assert_eq!(normal("loyalty:000-0 0000"), Err("identifier_blocked"));
        assert_eq!(refused(&format!("device:{}", "İ".repeat(128))), IdentifierError::TooLong);
        for hash in BLOCKED_HASHES {
            assert_eq!(normal(&format!("email_sha256:{hash}")), Err("identifier_blocked"));
        }
        assert!(normal("user:10").is_ok() && normal("user:nullable").is_ok() && normal("user:00000").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_taken_can_be_read_again(name in proptest::sample::select(vec!["user", "loyalty", "device", "phone_sha256"]), value in "\\PC{0,90}") {
            if let Ok(identifier) = Namespaces::default().identifier(name, &value) {
                proptest::prop_assert_eq!(Identifier::stored(identifier.as_str()), Ok(identifier.clone()));
                proptest::prop_assert_eq!(Namespaces::default().parse(identifier.as_str()), Ok(identifier));
            }
        }
    }

    #[test]
    fn namespaces_are_declared_and_limited() {
        let mut namespaces = Namespaces::default();
        assert_eq!(namespaces.declare("crm", Form::LowerCase, &["TEST".into()]), Ok(()));
        assert_eq!(namespaces.parse("crm:AbC").map(|id| id.to_string()).as_deref(), Ok("crm:abc"));
        assert_eq!(namespaces.parse("crm:test"), Err(IdentifierError::Blocked("test".into())));
        assert!(
            namespaces.declare("crm", Form::Text, &[]).is_err() && namespaces.declare("user", Form::Text, &[]).is_err()
        );
        for name in ["", "Crm", "9crm", "c-rm", &"c".repeat(33)] {
            assert_eq!(namespaces.declare(name, Form::Text, &[]), Err(NamespaceError::Name(name.to_owned())));
        }
        assert!(namespaces.limit("crm", 2).is_ok() && namespaces.limit("crm", 65).is_err());
        assert!(namespaces.limit("user", 2).is_err() && namespaces.limit("cookie", 2).is_err());
        assert!(namespaces.limit_profile(64).is_ok() && namespaces.limit_profile(0).is_err());
        assert!(Identifier::stored("gone:1").is_ok() && Identifier::stored("Gone:1").is_err());
    }

    #[test]
    fn the_shard_of_an_identifier_never_changes() {
        let shard = |text| Identifier::stored(text).map(|id| id.shard().0);
        // Fixed by data on disk: a change here orphans every existing profile.
        assert_eq!(shard("user:17850"), Ok(PINNED[0]));
        assert_eq!(shard("anonymous:a-1"), Ok(PINNED[1]));
    }

    const PINNED: [u16; 2] = [46, 39];
}
