//! A centre and its edges, each the real binary in a process and a data directory of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::edge::{PUBLISHABLE, SECRET, TestEdge, TestEdgeBuilder, WRITE};
use crate::process::{Process, answer};
use crate::{Answer, agent, plugins, shop};

/// The key that test edges present.
pub const EDGE_KEY: &str = "ek_test_0001";
/// How long a cluster may take to do something.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a test centre is started.
#[derive(Clone)]
pub struct TestCentreBuilder {
    store: Option<String>,
    arguments: Vec<String>,
    plugins: Option<PathBuf>,
    listen: String,
}

impl Default for TestCentreBuilder {
    fn default() -> Self {
        let catalog = shop();
        Self {
            store: None,
            arguments: vec!["--catalog".into(), catalog.display().to_string()],
            plugins: Some(plugins()),
            listen: "127.0.0.1:0".into(),
        }
    }
}

impl TestCentreBuilder {
    /// Keeps the log elsewhere than in a directory of its own.
    pub fn store(mut self, store: &str) -> Self {
        self.store = Some(store.to_owned());
        self
    }

    /// Adds arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Releases another catalogue.
    pub fn catalog(mut self, file: &Path) -> Self {
        self.arguments = vec!["--catalog".into(), file.display().to_string()];
        self
    }

    /// Releases the plugins of another folder; none where the log says what runs.
    pub fn plugins(mut self, folder: Option<&Path>) -> Self {
        self.plugins = folder.map(Path::to_owned);
        self
    }

    /// Starts a centre in a fresh directory and waits until it is ready.
    pub fn start(self) -> TestCentre {
        self.start_in(tempfile::tempdir().unwrap())
    }

    /// Starts a centre in a directory that an earlier one left.
    pub fn start_in(mut self, data: TempDir) -> TestCentre {
        let store = self.store.clone().unwrap_or_else(|| format!("redb:{}", data.path().join("log").display()));
        let mut arguments: Vec<String> = vec!["central".into(), "--data".into(), data.path().display().to_string()];
        arguments.extend(["--store".into(), store, "--listen".into(), self.listen.clone()]);
        arguments.extend(["--admin", "127.0.0.1:0"].map(String::from));
        if !self.arguments.iter().any(|argument| argument == "--edge-key") {
            arguments.extend(["--edge-key", EDGE_KEY].map(String::from));
        }
        arguments
            .extend(["--publishable-key", PUBLISHABLE, "--write-key", WRITE, "--secret-key", SECRET].map(String::from));
        if let Some(folder) = &self.plugins {
            arguments.extend(["--plugins".into(), folder.display().to_string()]);
        }
        arguments.extend(self.arguments.iter().cloned());
        let process = Process::start(&arguments);
        let url = process.address("central");
        // Edges know it by its address: it has the same after a restart.
        self.listen = url.rsplit_once("//").map_or_else(String::new, |(_, at)| at.to_owned());
        TestCentre { url, admin: process.address("admin"), builder: self, process, data: Some(data) }
    }
}

/// A running centre. It is killed when the test ends.
pub struct TestCentre {
    /// The address for edges.
    pub url: String,
    /// The admin address.
    pub admin: String,
    builder: TestCentreBuilder,
    process: Process,
    data: Option<TempDir>,
}

impl TestCentre {
    /// A centre on redb, with all plugins and the tests' shop.
    pub fn start() -> Self {
        TestCentreBuilder::default().start()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.as_ref().unwrap().path()
    }

    /// An edge that is to follow it.
    pub fn edge(&self, name: &str) -> TestEdgeBuilder {
        TestEdgeBuilder::following(&self.url, EDGE_KEY, name)
    }

    /// Asks the admin listener for a path.
    pub fn admin_get(&self, path: &str) -> Answer {
        answer(agent().get(format!("{}{path}", self.admin)).call())
    }

    /// Has the admin listener do something.
    pub fn admin_post(&self, path: &str, body: &str) -> Answer {
        answer(agent().post(format!("{}{path}", self.admin)).content_type("application/json").send(body))
    }

    /// How the centre and its edges are.
    pub fn status(&self) -> Value {
        self.admin_get("/admin/v1/status").ok()
    }

    /// Entries of all data shards.
    pub fn entries(&self) -> u64 {
        let status = self.status();
        status["shards"].as_array().unwrap().iter().take(64).map(|shard| shard["head"].as_u64().unwrap()).sum()
    }

    /// Makes a snapshot of every shard.
    pub fn snapshot_all(&self) {
        for shard in 0..64 {
            self.admin_post(&format!("/admin/v1/shards/{shard}/snapshot"), "").ok();
        }
    }

    /// Compares all copies; panics where they differ. Gives how many there are, the centre's own among them.
    pub fn verified(&self) -> usize {
        let asked = Instant::now();
        loop {
            let found = self.admin_post("/admin/v1/verify", "").ok();
            if found["equal"] == true {
                return found["copies"].as_array().unwrap().len();
            }
            // Only a backfill may still be going on.
            let detail = found["findings"].to_string();
            assert!(detail.contains("backfill has ended") && asked.elapsed() < PATIENCE, "{found:#}");
        }
    }

    /// Kills the process as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it as a power cut would and starts it again in the same directory, at the same address.
    pub fn restart(self) -> Self {
        self.stopped(|| {})
    }

    /// The same, in place.
    pub fn kill_and_restart(&mut self) {
        self.process.kill();
        let data = self.data.take().unwrap();
        *self = self.builder.clone().start_in(data);
    }

    /// Ends the process, does something to what it left, and starts it again.
    pub fn stopped(mut self, meanwhile: impl FnOnce()) -> Self {
        self.process.kill();
        let data = self.data.take().unwrap();
        meanwhile();
        self.builder.clone().start_in(data)
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let asked = Instant::now();
    while !holds() {
        assert!(asked.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// Waits until an edge has, in its base, all that the centre has.
pub fn caught_up(centre: &TestCentre, edge: &TestEdge) {
    let heads = centre.status();
    let heads: Vec<u64> =
        heads["shards"].as_array().unwrap().iter().map(|shard| shard["head"].as_u64().unwrap()).collect();
    eventually("the edge catches up", || {
        let status = edge.admin_get("/admin/v1/status").ok();
        let shards = status["shards"].as_array().unwrap();
        shards.iter().all(|shard| {
            let place = usize::try_from(shard["shard"].as_u64().unwrap()).unwrap();
            shard["seq"].as_u64().unwrap() >= heads[place]
        })
    });
}
