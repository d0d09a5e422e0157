//! Configuration: one TOML file, the environment over it, flags over both.

mod central;
mod uplink;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use axum::http::HeaderValue;
use clap::Args;
use selvedge_core::config::from_toml;
use selvedge_core::identity::{Form, Namespaces};
use selvedge_core::traits::TraitSources;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::auth::GivenKeys;
use crate::records::DecisionRecords;
use crate::tokens::TokenSettings;

pub use self::central::{CentralArguments, CentralConfig, Stable, Store};
use self::uplink::UplinkSettings;
pub use self::uplink::{EdgeArguments, UplinkConfig};

/// Where compiled plugins are kept, in the data directory.
const CODE: &str = "code";

/// What `selvedge run` can be told; each also by the environment variable, and by the same name with `_` in the configuration file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunArguments {
    /// A TOML file with any of these settings.
    #[arg(long, env = "SELVEDGE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where data is kept [default: ./selvedge-data].
    #[arg(long, env = "SELVEDGE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The public listener; port 0 picks one [default: 127.0.0.1:8080].
    #[arg(long, env = "SELVEDGE_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// The admin listener; port 0 picks one [default: 127.0.0.1:8081].
    #[arg(long, env = "SELVEDGE_ADMIN", value_name = "ADDR")]
    admin: Option<String>,
    /// The business time zone, an IANA name such as Europe/London [default: UTC].
    #[arg(long, env = "SELVEDGE_TIME_ZONE", value_name = "NAME")]
    time_zone: Option<String>,
    /// A folder of plugins: every NAME.wasm in it, each with its NAME.toml.
    #[arg(long, env = "SELVEDGE_PLUGINS", value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// The catalogue of offers and slots, a TOML file.
    #[arg(long, env = "SELVEDGE_CATALOG", value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Where compiled plugins are kept for the next start; who can write there can run code here [default: code, in the data directory].
    #[arg(long, env = "SELVEDGE_CODE_CACHE", value_name = "DIR")]
    code_cache: Option<PathBuf>,
    /// The key for browsers [default: generated, and kept in the data directory].
    #[arg(long, env = "SELVEDGE_PUBLISHABLE_KEY", value_name = "KEY", hide_env_values = true)]
    publishable_key: Option<String>,
    /// The key for servers that ingest and decide [default: generated, and kept in the data directory].
    #[arg(long, env = "SELVEDGE_WRITE_KEY", value_name = "KEY", hide_env_values = true)]
    write_key: Option<String>,
    /// The key for trusted systems [default: generated, and kept in the data directory].
    #[arg(long, env = "SELVEDGE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// An origin whose pages may call, such as `https://shop.example`; repeatable [default: none].
    #[arg(long = "cors-origin", env = "SELVEDGE_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    cors_origins: Vec<String>,
    /// Memory for profiles that are kept at hand, in MiB [default: 64].
    #[arg(long, env = "SELVEDGE_CACHE_MIB", value_name = "MIB")]
    cache_mib: Option<u64>,
    /// Take a browser's word for who its user is, without a token: anybody can then read what offers another user gets.
    #[arg(long, env = "SELVEDGE_TRUST_BROWSERS")]
    trust_browsers: bool,
    /// Which decisions are kept in memory of those that are neither explained nor of an outbound channel, for `selvedge explain` [default: sample].
    #[arg(long, env = "SELVEDGE_DECISION_RECORDS", value_name = "WHICH", value_enum)]
    decision_records: Option<DecisionRecords>,
    /// In the file only: namespaces, limits and the keys of tokens; see docs/identity.md.
    #[arg(skip)]
    identity: IdentitySettings,
    /// In the file only: how an edge follows its centre; see [`EdgeArguments`].
    #[arg(skip)]
    uplink: UplinkSettings,
}

/// `[identity]` of the configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IdentitySettings {
    /// How many identifiers one profile may have.
    profile_identifiers_max: Option<usize>,
    /// How many of each namespace.
    limits: BTreeMap<String, usize>,
    /// Namespaces beside the built-in ones.
    namespaces: BTreeMap<String, NamespaceSettings>,
    /// For traits whose sources differ: those that come before the others.
    trait_sources: BTreeMap<String, Vec<String>>,
    /// Keys with which the site signs its tokens.
    tokens: Vec<TokenSettings>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NamespaceSettings {
    /// How its values are written.
    form: Form,
    /// Values that are no ids.
    blocked: Vec<String>,
}

impl IdentitySettings {
    fn namespaces(&self) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        for (name, settings) in &self.namespaces {
            namespaces.declare(name, settings.form, &settings.blocked)?;
        }
        for (name, most) in &self.limits {
            namespaces.limit(name, *most)?;
        }
        if let Some(most) = self.profile_identifiers_max {
            namespaces.limit_profile(most)?;
        }
        Ok(namespaces)
    }
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// None where it is not given.
    pub time_zone: Option<String>,
    pub plugins: Option<PathBuf>,
    pub catalog: Option<PathBuf>,
    pub code_cache: PathBuf,
    pub keys: GivenKeys,
    pub cors_origins: Vec<HeaderValue>,
    pub cache_bytes: u64,
    pub trust_browsers: bool,
    pub decision_records: DecisionRecords,
    pub namespaces: Namespaces,
    pub trait_sources: TraitSources,
    pub tokens: Vec<TokenSettings>,
}

impl RunArguments {
    /// Settles what is in force. Flags and the environment are in `self` already; the file fills the rest.
    pub fn settle(self) -> Result<EdgeConfig> {
        let file = self.file()?;
        self.settle_with(file)
    }

    fn settle_with(self, file: Self) -> Result<EdgeConfig> {
        let cors_origins = if self.cors_origins.is_empty() { file.cors_origins } else { self.cors_origins };
        let cache_mib = self.cache_mib.or(file.cache_mib).unwrap_or(64);
        if cache_mib == 0 {
            bail!("cache_mib = 0 leaves no room for a single profile; give at least 1");
        }
        let data = self.data.or(file.data).unwrap_or_else(|| "selvedge-data".into());
        Ok(EdgeConfig {
            code_cache: self.code_cache.or(file.code_cache).unwrap_or_else(|| data.join(CODE)),
            data,
            listen: address(self.listen.or(file.listen), "127.0.0.1:8080", "listen")?,
            admin: address(self.admin.or(file.admin), "127.0.0.1:8081", "admin")?,
            time_zone: self.time_zone.or(file.time_zone),
            plugins: self.plugins.or(file.plugins),
            catalog: self.catalog.or(file.catalog),
            keys: GivenKeys {
                publishable: self.publishable_key.or(file.publishable_key),
                write: self.write_key.or(file.write_key),
                secret: self.secret_key.or(file.secret_key),
            },
            cors_origins: cors_origins.iter().map(|origin| check_origin(origin)).collect::<Result<_>>()?,
            cache_bytes: cache_mib * 1024 * 1024,
            trust_browsers: self.trust_browsers || file.trust_browsers,
            decision_records: self.decision_records.or(file.decision_records).unwrap_or_default(),
            namespaces: file.identity.namespaces().context("identity")?,
            trait_sources: TraitSources::new(file.identity.trait_sources),
            tokens: file.identity.tokens,
        })
    }

    /// What the configuration file says, where there is one.
    fn file(&self) -> Result<Self> {
        self.config.as_deref().map_or_else(|| Ok(Self::default()), read_file)
    }
}

fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    from_toml(&text).with_context(|| format!("configuration {}", path.display()))
}

fn address(given: Option<String>, default: &str, name: &str) -> Result<SocketAddr> {
    let text = given.unwrap_or_else(|| default.to_owned());
    text.parse().with_context(|| format!("{name} = {text:?} is not an address such as {default}"))
}

/// `scheme://host[:port]`, as browsers send it.
fn check_origin(origin: &str) -> Result<HeaderValue> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    if !host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
        bail!("cors_origins: {origin:?} is not an origin such as https://shop.example, without a path");
    }
    origin.parse().with_context(|| format!("cors_origins: {origin:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(file: &str, flags: RunArguments) -> Result<EdgeConfig> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("selvedge.toml");
        std::fs::write(&path, file).expect("write");
        RunArguments { config: Some(path), ..flags }.settle()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let flags = RunArguments { time_zone: Some("Europe/Paris".into()), ..RunArguments::default() };
        let config = settle("time_zone = \"Europe/London\"\nlisten = \"127.0.0.1:0\"", flags).expect("settled");
        assert_eq!(config.time_zone.as_deref(), Some("Europe/Paris"));
        assert_eq!(config.listen.port(), 0);
        assert_eq!(config.admin.port(), 8081);
    }

    #[test]
    fn bad_settings_name_themselves() {
        let fault = |file: &str| format!("{:#}", settle(file, RunArguments::default()).expect_err("a fault"));
        assert!(fault("timezone = \"UTC\"").contains("did you mean \"time_zone\""), "{}", fault("timezone = \"UTC\""));
        assert!(fault("listen = \"8080\"").contains("listen = \"8080\""));
        assert!(fault("cors_origins = [\"https://a.example/path\"]").contains("without a path"));
        assert!(fault("cache_mib = 0").contains("cache_mib"));
        assert!(fault("[identity.limits]\nuser = 2").contains("limit of \"user\""));
        assert!(fault("[identity.limits]\ncookie = 2").contains("no namespace \"cookie\""));
        assert!(fault("[identity.namespaces.Crm]").contains("\"Crm\""));
        assert!(fault("[identity.namespaces.crm]\nform = \"upper\"").contains("upper"));
        assert!(fault("[identity]\nprofile_identifiers_max = 65").contains("from 1 to 64"));
    }
}
