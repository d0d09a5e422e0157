//! The real binary on ports of its own, in a data directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

pub use crate::process::{Answer, agent, binary};
use crate::process::{PATIENCE, Process, answer, command};
use crate::{plugins, root, shop};

/// Keys of every test edge.
pub const PUBLISHABLE: &str = "pk_test_0001";
/// See [`PUBLISHABLE`].
pub const WRITE: &str = "wk_test_0001";
/// See [`PUBLISHABLE`].
pub const SECRET: &str = "sk_test_0001";

/// How a test edge is started.
#[derive(Clone)]
pub struct TestEdgeBuilder {
    role: String,
    arguments: Vec<String>,
    plugins: Option<PathBuf>,
    admin: &'static str,
}

impl Default for TestEdgeBuilder {
    fn default() -> Self {
        let catalog = shop();
        Self {
            role: "run".into(),
            arguments: vec!["--catalog".into(), catalog.display().to_string()],
            plugins: Some(plugins()),
            admin: "127.0.0.1:0",
        }
    }
}

impl TestEdgeBuilder {
    /// An edge that follows a centre, which says what runs.
    pub fn following(centre: &str, key: &str, name: &str) -> Self {
        let arguments = ["--central", centre, "--edge-key", key, "--name", name].map(str::to_owned).to_vec();
        Self { role: "edge".into(), arguments, plugins: None, admin: "127.0.0.1:0" }
    }

    /// Adds arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Takes plugins from another folder.
    pub fn plugins(mut self, folder: &Path) -> Self {
        self.plugins = Some(folder.to_owned());
        self
    }

    /// Takes another address for the admin listener.
    pub fn admin(mut self, address: &'static str) -> Self {
        self.admin = address;
        self
    }

    /// Runs no plugins.
    pub fn without_plugins(mut self) -> Self {
        self.plugins = None;
        self
    }

    /// Leaves out the catalogue.
    pub fn without_catalog(mut self) -> Self {
        self.arguments.clear();
        self
    }

    /// Starts an edge in a fresh directory and waits until it is ready.
    pub fn start(self) -> TestEdge {
        self.start_in(tempfile::tempdir().unwrap())
    }

    /// Starts an edge in a directory that an earlier one left.
    pub fn start_in(self, data: TempDir) -> TestEdge {
        let process = Process::start(&self.all_arguments(data.path()));
        let (public, admin) = (process.address("public"), process.address("admin"));
        TestEdge { public, admin, builder: self, process: Some(process), data: Some(data) }
    }

    /// Starts an edge that must refuse to run; gives what it says.
    pub fn fails(self) -> String {
        let data = tempfile::tempdir().unwrap();
        let output = command(&self.all_arguments(data.path())).output().unwrap();
        assert!(!output.status.success(), "the edge started");
        String::from_utf8(output.stderr).unwrap()
    }

    fn all_arguments(&self, data: &Path) -> Vec<String> {
        let mut all: Vec<&str> = vec![self.role.as_str(), "--data"];
        let data = data.display().to_string();
        all.extend([data.as_str(), "--listen", "127.0.0.1:0", "--admin", self.admin]);
        if self.role == "run" {
            all.extend(["--publishable-key", PUBLISHABLE, "--write-key", WRITE, "--secret-key", SECRET]);
        }
        let folder = self.plugins.as_ref().map(|folder| folder.display().to_string());
        all.extend(folder.iter().flat_map(|folder| ["--plugins", folder]));
        all.into_iter().map(str::to_owned).chain(self.arguments.iter().cloned()).collect()
    }
}

/// A running edge. It is killed when the test ends.
pub struct TestEdge {
    /// The public address.
    pub public: String,
    /// The admin address.
    pub admin: String,
    builder: TestEdgeBuilder,
    process: Option<Process>,
    data: Option<TempDir>,
}

impl TestEdge {
    /// An edge with all plugins and the tests' shop.
    pub fn start() -> Self {
        TestEdgeBuilder::default().start()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        self.data.as_ref().unwrap().path()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Sends a body with a key.
    pub fn post(&self, key: &str, path: &str, body: &str) -> Answer {
        self.post_with(&[("authorization", &format!("Bearer {key}"))], path, body.as_bytes())
    }

    /// Sends a body with headers.
    pub fn post_with(&self, headers: &[(&str, &str)], path: &str, body: &[u8]) -> Answer {
        let mut request = agent().post(format!("{}{path}", self.public)).content_type("application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send(body))
    }

    /// Asks for a path with a key.
    pub fn get(&self, key: &str, path: &str) -> Answer {
        answer(agent().get(format!("{}{path}", self.public)).header("authorization", format!("Bearer {key}")).call())
    }

    /// Has it delete something.
    pub fn delete(&self, key: &str, path: &str) -> Answer {
        let request = agent().delete(format!("{}{path}", self.public)).header("authorization", format!("Bearer {key}"));
        answer(request.call())
    }

    /// Asks the admin listener for a path.
    pub fn admin_get(&self, path: &str) -> Answer {
        answer(agent().get(format!("{}{path}", self.admin)).call())
    }

    /// Sends events as a server, durably; gives the answer.
    pub fn batch(&self, events: &[Value]) -> Value {
        self.post(WRITE, "/v1/batch", &serde_json::json!({ "batch": events }).to_string()).ok()
    }

    /// Sends many events in batches that fit; gives how many were accepted and how many were duplicates. None may be rejected.
    pub fn batches(&self, events: &[Value]) -> (u64, u64) {
        let (mut accepted, mut duplicates) = (0, 0);
        let mut send = |texts: &[String]| {
            if !texts.is_empty() {
                let answer = self.post(WRITE, "/v1/batch", &format!("{{\"batch\":[{}]}}", texts.join(","))).ok();
                assert_eq!(answer["rejected"], serde_json::json!([]));
                accepted += answer["accepted"].as_u64().unwrap();
                duplicates += answer["duplicates"].as_u64().unwrap();
            }
        };
        let (mut open, mut bytes) = (Vec::new(), 0);
        for event in events {
            let text = event.to_string();
            if bytes + text.len() > 900_000 || open.len() == 2_500 {
                send(&open);
                open.clear();
                bytes = 0;
            }
            bytes += text.len() + 1;
            open.push(text);
        }
        send(&open);
        (accepted, duplicates)
    }

    /// A profile, now or as of an instant; null where nothing is known.
    pub fn profile(&self, identifier: &str, at: Option<&str>) -> Value {
        let at = at.map(|at| format!("?at={at}")).unwrap_or_default();
        let answer = self.get(SECRET, &format!("/v1/profiles/{identifier}{at}"));
        match answer.status {
            404 => Value::Null,
            _ => answer.ok(),
        }
    }

    /// One aggregate's value of a profile.
    pub fn aggregate(&self, identifier: &str, name: &str) -> Value {
        self.profile(identifier, None)["aggregates"][name]["value"].clone()
    }

    /// Decides as a server. Unless the call says otherwise it waits for a busy machine rather than falling back.
    pub fn decide(&self, body: &Value) -> Value {
        let mut body = body.clone();
        if body["deadlineMs"].is_null() {
            body["deadlineMs"] = 10_000.into();
        }
        self.post(WRITE, "/v1/decide", &body.to_string()).ok()
    }

    /// The value of a metric by its name and labels as they are written.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.admin_get("/metrics").text;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until nothing waits for its history to be folded; gives what the admin listener says then.
    pub fn backfilled(&self) -> Value {
        let asked = Instant::now();
        loop {
            let answer = self.admin_get("/admin/v1/backfill").ok();
            if answer["state"] == "idle" {
                return answer;
            }
            assert!(asked.elapsed() < PATIENCE, "the backfill takes too long: {answer}");
            std::thread::yield_now();
        }
    }

    /// Imports a file; gives the report.
    pub fn import(&self, file: &Path, map: &str) -> Value {
        let map = root().join("plugins/retail/maps").join(map);
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.arg("import").arg(file).arg("--map").arg(map).args(["--to", &self.public, "--key", WRITE, "--json"]);
        let output = command.arg("--state").arg(state.path().join("state.json")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Kills the process as a power cut would, and starts it again in the same directory.
    pub fn kill_and_restart(mut self) -> Self {
        self.kill();
        let data = self.data.take().unwrap();
        self.builder.clone().start_in(data)
    }

    /// Ends the process as an operator would; gives what it logged.
    pub fn stop(mut self) -> (TempDir, String) {
        let log = self.process.take().unwrap().stop();
        (self.data.take().unwrap(), log)
    }

    /// Ends the process as an operator would and starts it again, with other arguments.
    pub fn restart_as(self, builder: TestEdgeBuilder) -> Self {
        builder.start_in(self.stop().0)
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// A line of the process's status, in KiB: `VmHWM`, `VmRSS`.
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Bytes of the data directory on disk.
    pub fn disk_bytes(&self) -> u64 {
        fn size(path: &Path) -> u64 {
            let entries = std::fs::read_dir(path).unwrap().flatten();
            entries
                .map(|entry| {
                    let metadata = entry.metadata().unwrap();
                    if metadata.is_dir() {
                        size(&entry.path())
                    } else {
                        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
                    }
                })
                .sum()
        }
        size(self.data())
    }
}
