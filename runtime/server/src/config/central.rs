//! What a centre can be told.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use selvedge_core::shard_set::ShardSet;
use serde::Deserialize;

use super::{CODE, EdgeConfig, IdentitySettings, RunArguments, address, read_file};
use crate::auth::GivenKeys;

/// What `selvedge central` can be told; each also by the environment variable, and by the same name with `_` in the configuration file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CentralArguments {
    /// A TOML file with any of these settings.
    #[arg(long, env = "SELVEDGE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where the log is: `redb:DIR`, or `postgres://USER@HOST/DATABASE` [default: redb: and the data directory].
    #[arg(long, env = "SELVEDGE_STORE", value_name = "STORE", hide_env_values = true)]
    store: Option<String>,
    /// Where keys and the centre's own copy of the shards are kept [default: ./selvedge-data].
    #[arg(long, env = "SELVEDGE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The listener for edges; port 0 picks one [default: 127.0.0.1:8090].
    #[arg(long, env = "SELVEDGE_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// The admin listener; port 0 picks one [default: 127.0.0.1:8091].
    #[arg(long, env = "SELVEDGE_ADMIN", value_name = "ADDR")]
    admin: Option<String>,
    /// A key that edges may present, and the shards that it opens, as in `KEY@0-31`; repeatable [default: generated, and kept in the data directory].
    #[arg(
        long = "edge-key",
        env = "SELVEDGE_EDGE_KEYS",
        value_name = "KEY[@SHARDS]",
        value_delimiter = ' ',
        hide_env_values = true
    )]
    edge_keys: Vec<String>,
    /// The business time zone, an IANA name such as Europe/London [default: UTC].
    #[arg(long, env = "SELVEDGE_TIME_ZONE", value_name = "NAME")]
    time_zone: Option<String>,
    /// A folder of plugins that edges are to run: every NAME.wasm in it, each with its NAME.toml [default: those that the log names].
    #[arg(long, env = "SELVEDGE_PLUGINS", value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// The catalogue of offers and slots, a TOML file [default: the one in the log].
    #[arg(long, env = "SELVEDGE_CATALOG", value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Where compiled plugins are kept for the next start; who can write there can run code here [default: code, in the data directory].
    #[arg(long, env = "SELVEDGE_CODE_CACHE", value_name = "DIR")]
    code_cache: Option<PathBuf>,
    /// The edges' key for browsers [default: generated, and kept in the data directory].
    #[arg(long, env = "SELVEDGE_PUBLISHABLE_KEY", value_name = "KEY", hide_env_values = true)]
    publishable_key: Option<String>,
    /// The edges' key for servers that ingest and decide [default: generated, and kept in the data directory].
    #[arg(long, env = "SELVEDGE_WRITE_KEY", value_name = "KEY", hide_env_values = true)]
    write_key: Option<String>,
    /// The key for trusted systems, here and at the edges [default: generated, and kept in the data directory].
    #[arg(long, env = "SELVEDGE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// The certificate of the listener for edges, a PEM file with its chain; without it they speak plain HTTP.
    #[arg(long, env = "SELVEDGE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, env = "SELVEDGE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Begin another epoch: after a database was restored, or failed over to a standby that may lack what was committed last.
    #[arg(long, env = "SELVEDGE_NEW_EPOCH")]
    new_epoch: bool,
    /// Changes of a shard after which the centre makes a new snapshot of it [default: 100000].
    #[arg(long, env = "SELVEDGE_SNAPSHOT_EVERY", value_name = "CHANGES")]
    snapshot_every: Option<u64>,
    /// When edges may forget what they sent: once the log has committed it, or once a backup holds it [default: commit].
    #[arg(long, env = "SELVEDGE_STABLE", value_name = "commit|backup")]
    stable: Option<Stable>,
    /// In the file only, and the same as at the edges: namespaces, limits, and whose word on a trait holds; see docs/identity.md.
    #[arg(skip)]
    identity: IdentitySettings,
}

/// From when on nothing that the operator is prepared for loses a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stable {
    /// Once the log has committed it.
    #[default]
    Commit,
    /// Once a backup holds it.
    Backup,
}

/// Where the log of a centre is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A directory of its own.
    Redb(PathBuf),
    /// A database, by its URL.
    Postgres(String),
}

/// The settings of a centre in force.
#[derive(Clone, Debug)]
pub struct CentralConfig {
    pub store: Store,
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// Each with the shards that it opens.
    pub edge_keys: Vec<(String, ShardSet)>,
    pub time_zone: Option<String>,
    pub plugins: Option<PathBuf>,
    pub catalog: Option<PathBuf>,
    pub code_cache: PathBuf,
    pub keys: GivenKeys,
    /// Certificate and private key.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub new_epoch: bool,
    pub snapshot_every: u64,
    pub stable: Stable,
    /// The edge in its own process.
    pub desk: EdgeConfig,
}

impl CentralArguments {
    /// Settles what is in force.
    pub fn settle(self) -> Result<CentralConfig> {
        let file: Self = match &self.config {
            Some(path) => read_file(path)?,
            None => Self::default(),
        };
        let data = self.data.or(file.data).unwrap_or_else(|| "selvedge-data".into());
        let store = match self.store.or(file.store) {
            None => Store::Redb(data.clone()),
            Some(text) => Store::parse(&text)?,
        };
        let edge_keys = if self.edge_keys.is_empty() { file.edge_keys } else { self.edge_keys };
        let tls = match (self.tls_cert.or(file.tls_cert), self.tls_key.or(file.tls_key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!("tls_cert and tls_key belong together; give both"),
        };
        Ok(CentralConfig {
            desk: desk(data.join("desk"), file.identity)?,
            code_cache: self.code_cache.or(file.code_cache).unwrap_or_else(|| data.join(CODE)),
            store,
            data,
            listen: address(self.listen.or(file.listen), "127.0.0.1:8090", "listen")?,
            admin: address(self.admin.or(file.admin), "127.0.0.1:8091", "admin")?,
            edge_keys: edge_keys.iter().map(|key| parse_edge_key(key)).collect::<Result<_>>()?,
            time_zone: self.time_zone.or(file.time_zone),
            plugins: self.plugins.or(file.plugins),
            catalog: self.catalog.or(file.catalog),
            keys: GivenKeys {
                publishable: self.publishable_key.or(file.publishable_key),
                write: self.write_key.or(file.write_key),
                secret: self.secret_key.or(file.secret_key),
            },
            tls,
            new_epoch: self.new_epoch,
            snapshot_every: self.snapshot_every.or(file.snapshot_every).unwrap_or(100_000).max(1),
            stable: self.stable.or(file.stable).unwrap_or_default(),
        })
    }
}

/// How the edge in a centre's own process is set up. It has no listeners of its own; keys, and what runs, it is told like any other.
fn desk(data: PathBuf, identity: IdentitySettings) -> Result<EdgeConfig> {
    RunArguments::default().settle_with(RunArguments { data: Some(data), identity, ..RunArguments::default() })
}

impl Store {
    /// Reads `redb:DIR` or a URL.
    pub fn parse(text: &str) -> Result<Self> {
        match text.strip_prefix("redb:") {
            Some(folder) if !folder.is_empty() => Ok(Self::Redb(folder.into())),
            None if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                Ok(Self::Postgres(text.to_owned()))
            }
            // The URL may hold a password, so it is not repeated.
            _ => bail!("the store is redb:DIR or postgres://USER@HOST/DATABASE"),
        }
    }
}

/// `KEY`, or `KEY@SHARDS`.
fn parse_edge_key(text: &str) -> Result<(String, ShardSet)> {
    let (key, shards) = match text.rsplit_once('@') {
        Some((key, shards)) => (key, shards.parse().context("edge_keys")?),
        None => (text, ShardSet::ALL),
    };
    anyhow::ensure!(key.len() >= 8, "an edge key is shorter than 8 characters; use a longer one");
    anyhow::ensure!(
        key.bytes().all(|byte| byte.is_ascii_graphic()),
        "an edge key may hold printable ASCII without blanks"
    );
    Ok((key.to_owned(), shards))
}
