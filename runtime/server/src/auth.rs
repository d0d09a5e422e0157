//! The three keys: who may do what.
//!
//! Keys are compared in constant time. They are looked for in the headers, and in the body only where Segment's API has them; never in a
//! query string, which ends up in logs.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use selvedge_core::config::from_toml;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::error::Problem;
use crate::release::{Hash, hash, hex, parse_hash};
use crate::sync::wire::KeyHashes;

/// Where a key may stand beside `Authorization`.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A browser: ingest and decide for the visitor who calls.
    Publishable,
    /// A server: ingest and decide for anyone.
    Write,
    /// A trusted system: profiles, the past, dry runs too.
    Secret,
}

/// The keys of this edge. Only their hashes: neither this process nor what a centre tells its edges gives a key away.
#[derive(Clone, Debug)]
pub struct Keys {
    publishable: Hash,
    write: Hash,
    secret: Hash,
}

/// The keys as they are kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    publishable: String,
    write: String,
    secret: String,
}

/// Keys given by flag, environment or configuration; each is generated where it is not given.
#[derive(Clone, Debug, Default)]
pub struct GivenKeys {
    pub publishable: Option<String>,
    pub write: Option<String>,
    pub secret: Option<String>,
}

impl Keys {
    /// The keys that are given, else those in the data directory, else new ones, which are stored there and printed once.
    pub fn open(data: &Path, given: GivenKeys) -> Result<Self> {
        let path = data.join("keys.toml");
        let stored: Option<Kept> = match fs::read_to_string(&path) {
            Ok(text) => Some(from_toml(&text).with_context(|| format!("read {}", path.display()))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let are_given = [given.publishable.is_some(), given.write.is_some(), given.secret.is_some()];
        let fresh = stored.is_none() && are_given.contains(&false);
        let kept = match stored {
            Some(kept) => kept,
            None => Kept { publishable: fresh_key("pk")?, write: fresh_key("wk")?, secret: fresh_key("sk")? },
        };
        let keys = Self {
            publishable: hashed("publishable", given.publishable.as_ref().unwrap_or(&kept.publishable))?,
            write: hashed("write", given.write.as_ref().unwrap_or(&kept.write))?,
            secret: hashed("secret", given.secret.as_ref().unwrap_or(&kept.secret))?,
        };
        keys.check()?;
        if fresh {
            write_private(&path, &toml::to_string(&kept)?)?;
            eprintln!("Generated development keys, kept in {}:", path.display());
            let names = ["SELVEDGE_PUBLISHABLE_KEY", "SELVEDGE_WRITE_KEY", "SELVEDGE_SECRET_KEY"];
            let all = names.iter().zip([&kept.publishable, &kept.write, &kept.secret]).zip(are_given);
            all.filter(|(_, given)| !given).for_each(|((name, key), _)| eprintln!("export {name}={key}"));
        } else if are_given.contains(&false) {
            eprintln!("The keys are in {}.", path.display());
        }
        Ok(keys)
    }

    /// The keys that are given, else those that the centre has.
    pub fn of_centre(given: &GivenKeys, of_centre: &KeyHashes) -> Result<Self> {
        let key = |name, given: &Option<String>, of_centre: &str| match given {
            Some(given) => hashed(name, given),
            None => parse_hash(of_centre).context("the centre's keys"),
        };
        let keys = Self {
            publishable: key("publishable", &given.publishable, &of_centre.publishable)?,
            write: key("write", &given.write, &of_centre.write)?,
            secret: key("secret", &given.secret, &of_centre.secret)?,
        };
        keys.check()?;
        Ok(keys)
    }

    /// What edges need in order to know all three.
    pub fn hashes(&self) -> KeyHashes {
        KeyHashes { publishable: hex(&self.publishable), write: hex(&self.write), secret: hex(&self.secret) }
    }

    /// Two roles that share a key would be a hole.
    fn check(&self) -> Result<()> {
        let keys = [("publishable", &self.publishable), ("write", &self.write), ("secret", &self.secret)];
        for (name, key) in keys {
            let shared = keys.iter().find(|(other, value)| *other != name && *value == key);
            anyhow::ensure!(
                shared.is_none(),
                "the {name} key is also the {} key; give each role its own",
                shared.map_or("", |(other, _)| *other)
            );
        }
        Ok(())
    }

    /// The role of a key.
    fn role(&self, key: &str) -> Option<Role> {
        let key = hash(key.as_bytes());
        let same = |own: &Hash| bool::from(own.ct_eq(&key));
        // All three are compared whatever the outcome, so that the time tells nothing.
        let found = [
            (same(&self.secret), Role::Secret),
            (same(&self.write), Role::Write),
            (same(&self.publishable), Role::Publishable),
        ];
        found.into_iter().find(|(same, _)| *same).map(|(_, role)| role)
    }

    /// Who calls, by headers or, where the API has it, by the body's `writeKey`.
    pub fn authenticate(&self, headers: &HeaderMap, write_key: Option<&str>) -> Result<Role, Problem> {
        let presented = presented_key(headers).or_else(|| write_key.map(Cow::Borrowed)).ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "key_missing",
                "send a key as Authorization: Bearer KEY, or as X-API-Key",
            )
        })?;
        self.role(&presented).ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "key_unknown",
                "this key is not one of this edge's; check which environment it is from",
            )
        })
    }
}

/// The hash of a key, if nobody guesses it.
fn hashed(name: &str, key: &str) -> Result<Hash> {
    anyhow::ensure!(key.len() >= 8, "the {name} key is shorter than 8 characters; use a longer one");
    anyhow::ensure!(
        key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
        "the {name} key may hold printable ASCII without blanks and colons"
    );
    Ok(hash(key.as_bytes()))
}

impl Role {
    /// Refuses a role below the one that is needed.
    pub fn at_least(self, needed: Self) -> Result<(), Problem> {
        if self >= needed {
            return Ok(());
        }
        let name = match needed {
            Self::Secret => "secret",
            Self::Write => "write",
            Self::Publishable => "publishable",
        };
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "key_not_allowed",
            format!("this call needs the {name} key; make it from your server"),
        ))
    }
}

pub fn presented_key(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(value) = text(header::AUTHORIZATION) {
        let (scheme, rest) = value.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(rest.trim().into());
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
            return Some(pair.split_once(':').map_or(pair.as_str(), |(user, _)| user).to_owned().into());
        }
        return None;
    }
    headers.get(API_KEY).and_then(|value| value.to_str().ok()).map(Cow::Borrowed)
}

pub fn fresh_key(prefix: &str) -> Result<String> {
    let mut bytes = [0_u8; 20];
    getrandom::fill(&mut bytes).context("read randomness for a key")?;
    Ok(bytes.iter().fold(format!("{prefix}_dev_"), |text, byte| format!("{text}{byte:02x}")))
}

pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let of = |key: &str| hash(key.as_bytes());
        Keys { publishable: of("pk_12345"), write: of("wk_12345"), secret: of("sk_12345") }
    }

    fn role(name: &'static str, value: &str) -> Result<Role, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        keys().authenticate(&headers, None).map_err(|problem| problem.code)
    }

    #[test]
    fn a_key_is_found_wherever_a_client_may_put_it() {
        assert_eq!(role("authorization", "Bearer pk_12345"), Ok(Role::Publishable));
        assert_eq!(role("authorization", "bearer sk_12345"), Ok(Role::Secret));
        assert_eq!(role("authorization", &format!("Basic {}", STANDARD.encode("wk_12345:"))), Ok(Role::Write));
        assert_eq!(role("x-api-key", "wk_12345"), Ok(Role::Write));
        assert_eq!(keys().authenticate(&HeaderMap::new(), Some("wk_12345")).ok(), Some(Role::Write));
        assert_eq!(role("authorization", "Bearer pk_12346"), Err("key_unknown"));
        assert_eq!(role("authorization", "Bearer pk_1234"), Err("key_unknown"));
        assert_eq!(role("authorization", "Digest pk_12345"), Err("key_missing"));
        assert_eq!(role("x-other", "pk_12345"), Err("key_missing"));
    }

    #[test]
    fn roles_are_ordered() {
        assert!(Role::Secret.at_least(Role::Write).is_ok());
        assert_eq!(Role::Publishable.at_least(Role::Write).map_err(|problem| problem.code), Err("key_not_allowed"));
    }

    #[test]
    fn generated_keys_are_kept_and_given_ones_win() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Keys::open(folder.path(), GivenKeys::default()).expect("keys");
        let given = GivenKeys { secret: Some("sk_given_1".into()), ..GivenKeys::default() };
        let second = Keys::open(folder.path(), given).expect("keys");
        assert_eq!((first.publishable, second.secret), (second.publishable, hash(b"sk_given_1")));
        let kept: Kept = from_toml(&fs::read_to_string(folder.path().join("keys.toml")).expect("kept")).expect("kept");
        assert_eq!(first.write, hash(kept.write.as_bytes()));
        // A given key is never written down.
        assert!(!fs::read_to_string(folder.path().join("keys.toml")).expect("keys").contains("sk_given_1"));
        let shared = GivenKeys { secret: Some(kept.write.clone()), ..GivenKeys::default() };
        assert!(
            Keys::open(folder.path(), shared)
                .expect_err("shared")
                .to_string()
                .contains("the write key is also the secret key")
        );
        let short = GivenKeys { secret: Some("sk".into()), ..GivenKeys::default() };
        assert!(Keys::open(folder.path(), short).is_err());
        // An edge knows the centre's keys without having them.
        let edge = Keys::of_centre(&GivenKeys::default(), &first.hashes()).expect("keys");
        assert_eq!(edge.role(&kept.publishable), Some(Role::Publishable));
    }
}
