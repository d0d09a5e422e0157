//! The real binary as a process, and what it answers.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::root;

/// How long a process may take to be ready or to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub fn binary() -> PathBuf {
    let built = root().join("target/release/selvedge");
    assert!(built.exists(), "{} is missing; run `cargo build --release -p selvedge-server` first", built.display());
    built
}

/// A process that has said that it is ready. It is killed when the test ends.
pub struct Process {
    child: Option<Child>,
    ready: Value,
    log: Mutex<mpsc::Receiver<String>>,
}

/// The binary with arguments, and nothing of this environment that would configure it. What one has compiled the others need not.
pub fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(binary());
    let code = root().join("target/tests/code");
    command.args(arguments).env_remove("SELVEDGE_CONFIG").env("SELVEDGE_CODE_CACHE", code);
    command
}

impl Process {
    /// Starts the binary and waits until it is ready.
    pub fn start(arguments: &[String]) -> Self {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = keep_log(&mut child);
        let (ready, wait) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(ready.send(line))));
        let Ok(line) = wait.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("{arguments:?} was not ready in time: {}", log.recv_timeout(PATIENCE).unwrap_or_default());
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["ready"], true);
        Self { child: Some(child), ready, log: Mutex::new(log) }
    }

    /// An address that it serves at, by its name.
    pub fn address(&self, name: &str) -> String {
        self.ready[name].as_str().unwrap().to_owned()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it as an operator would; gives what it logged.
    pub fn stop(mut self) -> String {
        let mut child = self.child.take().unwrap();
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(asked.success());
        let status = child.wait().unwrap();
        let log = self.log.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// What a process that was killed has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().recv_timeout(PATIENCE).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the log, so that the pipe never fills, and hands it over at the end.
fn keep_log(child: &mut Child) -> mpsc::Receiver<String> {
    let mut stderr = child.stderr.take().unwrap();
    let (done, log) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        let _ = done.send(text);
    });
    log
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as JSON; null where it is none.
    pub json: Value,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The status and the problem's code.
    pub fn problem(&self) -> (u16, &str) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text);
        (self.status, self.json["code"].as_str().unwrap_or_default())
    }

    /// The body, which must be of a success.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json
    }
}

/// An agent that takes every status for an answer.
pub fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

/// What was answered.
pub fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut answer = answer.unwrap();
    let headers = answer.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
    let text = answer.body_mut().with_config().limit(1 << 30).read_to_string().unwrap();
    Answer { status: answer.status().as_u16(), headers, json: serde_json::from_str(&text).unwrap_or_default(), text }
}
