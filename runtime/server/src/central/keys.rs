//! The keys by which edges are known, each with the shards that it opens.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use axum::http::{HeaderMap, StatusCode};
use selvedge_core::config::from_toml;
use selvedge_core::identity::ShardId;
use selvedge_core::shard_set::ShardSet;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::auth::{fresh_key, presented_key, write_private};
use crate::error::Problem;

/// All keys that edges may present.
pub struct EdgeKeys {
    known: Vec<(String, ShardSet)>,
    /// That of the edge in this very process, another one at each start.
    own: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    edge: String,
}

impl EdgeKeys {
    /// The keys that are given, else the one in the data directory, else a new one, which is stored there and printed once.
    pub fn open(data: &Path, given: &[(String, ShardSet)]) -> Result<Self> {
        let own = fresh_key("own")?;
        if !given.is_empty() {
            return Ok(Self { known: given.to_vec(), own });
        }
        let path = data.join("edge-key.toml");
        let key = match fs::read_to_string(&path) {
            Ok(text) => from_toml::<Kept>(&text).with_context(|| format!("read {}", path.display()))?.edge,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let kept = Kept { edge: fresh_key("ek")? };
                write_private(&path, &toml::to_string(&kept)?)?;
                eprintln!("Generated a key for edges, kept in {}:", path.display());
                eprintln!("export SELVEDGE_EDGE_KEY={}", kept.edge);
                kept.edge
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self { known: vec![(key, ShardSet::ALL)], own })
    }

    /// The key of the edge in this very process.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The shards that a call's key opens.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<ShardSet, Problem> {
        let presented = presented_key(headers).ok_or_else(|| {
            Problem::new(StatusCode::UNAUTHORIZED, "key_missing", "send the edge's key as Authorization: Bearer KEY")
        })?;
        // All are compared whatever the outcome, so that the time tells nothing.
        let known = self.known.iter().map(|(key, shards)| (key, *shards));
        let found = known.chain([(&self.own, ShardSet::ALL)]).fold(None, |found, (key, shards)| {
            let same = bool::from(key.as_bytes().ct_eq(presented.as_bytes()));
            if same { Some(shards) } else { found }
        });
        found.ok_or_else(|| {
            let detail = "this key is none of this centre's edge keys; give the edge one of those that the centre was started with";
            Problem::new(StatusCode::UNAUTHORIZED, "key_unknown", detail)
        })
    }
}

/// Refuses a shard that a key does not open.
pub fn check_scope(shards: ShardSet, shard: ShardId) -> Result<(), Problem> {
    if shards.holds(shard) {
        return Ok(());
    }
    let detail =
        format!("this key opens the shards {shards}, not {}; ask for those, or give the edge another key", shard.0);
    Err(Problem::new(StatusCode::FORBIDDEN, "shard_out_of_scope", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_its_shards() {
        let some: ShardSet = "0-3".parse().expect("a set");
        let known = vec![("ek_12345".into(), some), ("ek_67890".into(), ShardSet::ALL)];
        let keys = EdgeKeys { known, own: "own_12345".into() };
        let opened = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", format!("Bearer {key}").parse().expect("a header"));
            keys.authenticate(&headers).map_err(|problem| problem.code)
        };
        assert_eq!(opened("ek_12345"), Ok(some));
        assert_eq!(opened("ek_67890"), Ok(ShardSet::ALL));
        assert_eq!(opened("ek_1234"), Err("key_unknown"));
        assert_eq!(keys.authenticate(&HeaderMap::new()).map_err(|problem| problem.code), Err("key_missing"));
        assert!(check_scope(some, ShardId(3)).is_ok());
        assert_eq!(check_scope(some, ShardId(4)).map_err(|problem| problem.code), Err("shard_out_of_scope"));
    }
}
