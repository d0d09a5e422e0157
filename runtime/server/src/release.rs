//! What runs: plugins, catalogue and configuration, from a folder or from the centre, loaded and checked before anything depends on them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use selvedge_core::activation::{Activation, Layout};
use selvedge_core::catalog::Catalog;
use selvedge_core::release::{Release, ReleasedPlugin};
use selvedge_core::time::BusinessTime;
use selvedge_plugin_host::{CatalogReads, Component, Engine, EngineConfig, Plugin, PluginSet};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::document::{Checked, check, in_words, parse};
use crate::error::Problem;
use crate::metrics::Metrics;
use crate::observer::PluginObserver;

/// The hash under which a plugin's bytes travel.
pub type Hash = [u8; 32];

/// A release with the bytes of its plugins.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    pub release: Release,
    /// By hash.
    pub components: BTreeMap<Hash, Vec<u8>>,
}

/// A release that is ready to run.
pub struct Loaded {
    pub plugins: Arc<PluginSet>,
    pub catalog: Catalog,
    pub catalog_reads: CatalogReads,
    pub activation: Activation,
    pub layout: Layout,
}

/// What somebody wants to run; what is not said stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub time_zone: Option<String>,
    /// All plugins, in the order in which they fold.
    pub plugins: Option<Vec<ReleasedPlugin>>,
    /// Their bytes, by hash.
    pub components: BTreeMap<Hash, Vec<u8>>,
    /// As TOML or JSON.
    pub catalog: Option<String>,
}

/// The same as it travels.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GivenBody {
    time_zone: Option<String>,
    plugins: Option<Vec<PluginBody>>,
    catalog: Option<String>,
}

/// A plugin with its bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginBody {
    name: String,
    /// The component, in Base64.
    wasm: String,
    /// Its configuration, as TOML.
    #[serde(default)]
    config: String,
}

impl Given {
    /// What files say.
    pub fn read(plugins: Option<&Path>, catalog: Option<&Path>, time_zone: Option<String>) -> Result<Self> {
        let bundle = Bundle::read(plugins, catalog, time_zone.as_deref().unwrap_or_default())?;
        let Bundle { release, components } = bundle;
        Ok(Self {
            time_zone,
            plugins: plugins.map(|_| release.plugins),
            components,
            catalog: catalog.map(|_| release.catalog),
        })
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.time_zone.is_none() && self.plugins.is_none() && self.catalog.is_none()
    }

    /// What runs once this is put over a release.
    pub fn over(self, release: &Release) -> Bundle {
        let Self { time_zone, plugins, components, catalog } = self;
        let release = Release {
            time_zone: time_zone.unwrap_or_else(|| release.time_zone.clone()),
            plugins: plugins.unwrap_or_else(|| release.plugins.clone()),
            catalog: catalog.unwrap_or_else(|| release.catalog.clone()),
        };
        Bundle { release, components }
    }

    /// As it travels.
    pub fn body(&self) -> Result<GivenBody> {
        let body = |plugin: &ReleasedPlugin| -> Result<PluginBody> {
            let wasm = self.components.get(&parse_hash(&plugin.sha256)?).context("a plugin without bytes")?;
            Ok(PluginBody { name: plugin.name.clone(), wasm: STANDARD.encode(wasm), config: plugin.config.clone() })
        };
        let all = |plugins: &Vec<ReleasedPlugin>| plugins.iter().map(body).collect::<Result<_>>();
        Ok(GivenBody {
            time_zone: self.time_zone.clone(),
            plugins: self.plugins.as_ref().map(all).transpose()?,
            catalog: self.catalog.clone(),
        })
    }
}

impl TryFrom<GivenBody> for Given {
    type Error = Problem;

    fn try_from(body: GivenBody) -> Result<Self, Problem> {
        let mut bundle = Bundle::default();
        let has_plugins = body.plugins.is_some();
        for (place, plugin) in body.plugins.into_iter().flatten().enumerate() {
            let wasm = STANDARD.decode(plugin.wasm.as_bytes()).map_err(|error| {
                let pointer = format!("/plugins/{place}/wasm");
                Problem::bad_request("wrong_type", format!("the component is not Base64: {error}")).at(pointer)
            })?;
            bundle.add(plugin.name, wasm, plugin.config);
        }
        Ok(Self {
            time_zone: body.time_zone,
            plugins: has_plugins.then_some(bundle.release.plugins),
            components: bundle.components,
            catalog: body.catalog,
        })
    }
}

impl Loaded {
    /// What the shards fold by.
    pub fn observer(&self, metrics: &Arc<Metrics>) -> PluginObserver {
        PluginObserver::new(Arc::clone(&self.plugins), self.layout.clone(), Arc::clone(metrics))
    }
}

impl Bundle {
    /// What files say: every NAME.wasm of a folder, each with its NAME.toml, and a catalogue.
    pub fn read(plugins: Option<&Path>, catalog: Option<&Path>, time_zone: &str) -> Result<Self> {
        let mut bundle = Self {
            release: Release { time_zone: time_zone.to_owned(), ..Release::default() },
            components: BTreeMap::new(),
        };
        let mut files = Vec::new();
        if let Some(folder) = plugins {
            for entry in fs::read_dir(folder).with_context(|| format!("read the plugins in {}", folder.display()))? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "wasm") {
                    files.push(path);
                }
            }
        }
        files.sort();
        for path in files {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let wasm = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let config = path.with_extension("toml");
            let config = if config.exists() {
                fs::read_to_string(&config).with_context(|| format!("read {}", config.display()))?
            } else {
                String::new()
            };
            bundle.add(name, wasm, config);
        }
        if let Some(path) = catalog {
            bundle.release.catalog = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            if let Err(faults) = parse(&bundle.release.catalog) {
                bail!("catalogue {}: {}", path.display(), in_words(&faults));
            }
        }
        Ok(bundle)
    }

    /// Adds a plugin behind those that are there.
    pub fn add(&mut self, name: String, wasm: Vec<u8>, config: String) {
        let hash = hash(&wasm);
        self.release.plugins.push(ReleasedPlugin { name, sha256: hex(&hash), config });
        self.components.insert(hash, wasm);
    }

    /// Compiles and checks everything. `threads` is how many may invoke plugins at once.
    pub fn load(&self, threads: usize) -> Result<Loaded> {
        let release = &self.release;
        let time = BusinessTime::new(&release.time_zone)?;
        let instances_max = u32::try_from(threads * (release.plugins.len() + 1))?;
        let engine = Engine::new(EngineConfig { instances_max, ..EngineConfig::default() })?;
        let mut components = Vec::with_capacity(release.plugins.len());
        for plugin in &release.plugins {
            let hash = parse_hash(&plugin.sha256).with_context(|| format!("plugin {}", plugin.name))?;
            let Some(wasm) = self.components.get(&hash) else {
                bail!("the bytes of plugin {} ({}) are not at hand", plugin.name, plugin.sha256);
            };
            let component = Component::load(&engine, &plugin.name, wasm, &plugin.config)?;
            tracing::info!(plugin = component.name(), version = component.version(), compiled_in = ?component.compile_time, "loaded");
            components.push(component);
        }
        let plugins = Arc::new(PluginSet::resolve(engine, components, time)?);
        let checked = check(&release.catalog, &plugins);
        let Checked { catalog, reads: catalog_reads } =
            checked.map_err(|faults| anyhow::anyhow!("the catalogue: {}", in_words(&faults)))?;
        let activation = Activation::new(plugins.schema().definitions.time(), plugins.active());
        let states: Vec<usize> = plugins.plugins().iter().map(Plugin::states).collect();
        let layout = activation.layout(&states);
        Ok(Loaded { plugins, catalog, catalog_reads, activation, layout })
    }
}

/// SHA-256.
pub fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// As text, in hexadecimal.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::with_capacity(2 * hash.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads [`hex`].
pub fn parse_hash(text: &str) -> Result<Hash> {
    let mut hash = Hash::default();
    let digits = text.as_bytes();
    if digits.len() != 2 * hash.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
        bail!("{text:?} is not a SHA-256 in hexadecimal");
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_survive_as_text() {
        let of = hash(b"a plugin");
        assert_eq!(parse_hash(&hex(&of)).expect("a hash"), of);
        assert!(parse_hash("12").is_err());
        assert!(parse_hash(&"é".repeat(32)).is_err());
    }
}
