//! What edges and the centre tell each other as JSON: what is seldom said. The rest is frames.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;
use selvedge_core::identity::ShardId;
use selvedge_core::release::Release;
use selvedge_core::shard_set::ShardSet;
use selvedge_core::view::Cursor;
use serde::{Deserialize, Serialize};

use super::marks::Marked;

/// The header that names the log that an edge follows, so that it is never taken for another's.
pub const CLUSTER_HEADER: &str = "x-selvedge-cluster";

/// An edge says who it is. A newer one may say more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    pub name: String,
    /// Its build.
    pub version: String,
    /// The newest version of changes that it reads.
    pub reads: u16,
    /// The shards that it wants to hold; none where all that its key opens.
    pub shards: Option<ShardSet>,
}

/// The centre's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The name of the log.
    pub cluster: String,
    /// The shards that the edge holds.
    pub shards: ShardSet,
    /// The shards that its key opens: it takes changes for these.
    pub scope: ShardSet,
    pub keys: KeyHashes,
    pub released: Released,
}

/// The keys of callers, as SHA-256 in hexadecimal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyHashes {
    pub publishable: String,
    pub write: String,
    pub secret: String,
}

/// The release in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Released {
    /// Its place in the log of the control shard; 0 where nothing was released yet.
    pub seq: u64,
    pub release: Release,
    /// What else the control shard says; an older centre does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Controlled>,
}

/// What the control shard says beside the release, up to a place of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controlled {
    pub epoch: u32,
    pub seq: u64,
    /// Offers that are stopped.
    pub stopped: BTreeSet<CompactString>,
}

impl Controlled {
    /// The place.
    pub fn at(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.seq }
    }
}

/// How an edge is doing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub name: String,
    pub shards: Vec<ShardReport>,
    /// Changes in the outbox that the centre has not taken, and their bytes.
    pub outbox_changes: u64,
    pub outbox_bytes: u64,
    /// The release that it runs.
    pub release: u64,
    /// Why it does not run a newer one.
    pub release_error: Option<String>,
    pub last_error: Option<String>,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// What was shed since it started, by class.
    pub shed: u64,
    /// What this edge held at marks since the last report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marked: Vec<Marked>,
    /// Whether it wants to be told of everyone: its catalogue has budgets, or goes by response rates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everyone: bool,
}

/// The centre's answer to a report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reported {
    /// Whether the centre knows the edge; if not, it is to register.
    pub known: bool,
    /// What it wanted to be told; an older centre does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub everyone: Option<Everyone>,
}

/// What an edge is told of everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Everyone {
    /// How many edges there are.
    pub edges: u32,
    /// The place of this one among them, from 0.
    pub rank: u32,
    /// What of each budget was spent in the shards that the edge does not hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<CompactString, u64>,
    /// How often offers were taken up and shown there, by offer and channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub responses: Vec<((CompactString, CompactString), Responses)>,
}

/// How often something was taken up, and shown.
pub type Responses = (u32, u32);

/// One shard of an edge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardReport {
    pub shard: ShardId,
    pub epoch: u32,
    pub seq: u64,
    /// Up to where the base is on the disk for good, in this epoch.
    #[serde(default)]
    pub kept: u64,
    pub checksum: u64,
    pub state: String,
    pub lag_ms: Option<u64>,
    pub pending: u64,
}
