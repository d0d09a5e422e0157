//! How an edge follows its centre.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use selvedge_core::shard_set::ShardSet;
use serde::Deserialize;

use super::{EdgeConfig, RunArguments};

/// What `selvedge edge` can be told beside what `selvedge run` can.
#[derive(Args, Clone, Debug, Default)]
pub struct EdgeArguments {
    #[command(flatten)]
    edge: RunArguments,
    /// Where the centre is, such as `https://centre.internal:8090`.
    #[arg(long, env = "SELVEDGE_CENTRAL", value_name = "URL")]
    central: Option<String>,
    /// The key by which the centre knows this edge.
    #[arg(long, env = "SELVEDGE_EDGE_KEY", value_name = "KEY", hide_env_values = true)]
    edge_key: Option<String>,
    /// The name of this edge in the centre's reports [default: the machine's name].
    #[arg(long, env = "SELVEDGE_NAME", value_name = "NAME")]
    name: Option<String>,
    /// The shards that this edge holds, such as `0-31,40` [default: all that its key may].
    #[arg(long, env = "SELVEDGE_SHARDS", value_name = "RANGES")]
    shards: Option<String>,
    /// Disk for changes that the centre does not have yet, in MiB [default: 256].
    #[arg(long, env = "SELVEDGE_OUTBOX_MIB", value_name = "MIB")]
    outbox_mib: Option<u64>,
    /// Certificates of authorities that are trusted for the centre, a PEM file [default: the system's].
    #[arg(long, env = "SELVEDGE_CENTRAL_CA", value_name = "FILE")]
    central_ca: Option<PathBuf>,
}

/// `[uplink]` of the configuration file: the same, for an edge.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UplinkSettings {
    central: Option<String>,
    edge_key: Option<String>,
    name: Option<String>,
    shards: Option<String>,
    outbox_mib: Option<u64>,
    central_ca: Option<PathBuf>,
}

/// How an edge follows its centre.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// Without a slash at its end.
    pub central: String,
    pub key: String,
    pub name: String,
    /// None where it holds all that its key may.
    pub shards: Option<ShardSet>,
    pub outbox_bytes: u64,
    pub ca: Option<PathBuf>,
}

impl EdgeArguments {
    /// Settles what is in force.
    pub fn settle(self) -> Result<(EdgeConfig, UplinkConfig)> {
        let file = self.edge.file()?.uplink;
        let central = self.central.or(file.central).context(
            "an edge follows a centre: name it by --central URL, or start `selvedge run`, which has one of its own",
        )?;
        let host = central.strip_prefix("https://").or_else(|| central.strip_prefix("http://"));
        if host.is_none_or(|host| host.trim_end_matches('/').is_empty()) {
            bail!("central = {central:?} is not a URL such as https://centre.internal:8090");
        }
        let key = self.edge_key.or(file.edge_key).context(
            "the centre knows an edge by its key: give the one that the centre printed as --edge-key KEY, or as SELVEDGE_EDGE_KEY",
        )?;
        let shards = self.shards.or(file.shards).map(|text| text.parse::<ShardSet>().context("shards")).transpose()?;
        let outbox_mib = self.outbox_mib.or(file.outbox_mib).unwrap_or(256);
        if outbox_mib < 16 {
            bail!("outbox_mib = {outbox_mib} is too little to work with; give at least 16");
        }
        let name = self.name.or(file.name).unwrap_or_else(machine_name);
        if name.is_empty()
            || name.len() > 100
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            bail!("name = {name:?}: an edge's name is 1 to 100 letters, digits, dots, dashes and underscores");
        }
        let uplink = UplinkConfig {
            central: central.trim_end_matches('/').to_owned(),
            key,
            name,
            shards,
            outbox_bytes: outbox_mib * 1024 * 1024,
            ca: self.central_ca.or(file.central_ca),
        };
        Ok((self.edge.settle()?, uplink))
    }
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "edge".to_owned() } else { name.to_owned() }
}
