//! Data directories: made once, kept under `target/bench` by a hash of what made them, copied for every run.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::answer::head;
use crate::data::{self, Person, Shelf};
use crate::process::{Cores, Server, pin};
use crate::{machine, sized};

/// Counted up where the bench makes other data of the same inputs.
const FORMAT: u32 = 1;
/// The key of everything that the bench asks.
pub const KEY: &str = "sk_bench_0001";
/// Visitors whose events go together.
const TOGETHER: u32 = 150;
/// Connections that load.
const LOADERS: usize = 4;

/// What the bench is made of.
pub struct House {
    /// The project's root.
    pub root: PathBuf,
    /// Where the bench keeps what it makes.
    pub own: PathBuf,
    /// Where its servers run.
    pub run: PathBuf,
    /// How many visitors there are.
    pub profiles: u32,
    /// The most memory that a server gets for profiles, in MiB: a third of the machine's, since others are up too.
    pub room_mib: u64,
    /// Of how many values their profiles are; none: those of the workload.
    pub values: Option<usize>,
}

/// A data directory that servers begin with.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where it is.
    pub data: PathBuf,
    /// Bytes by what they are for, as the server says.
    pub storage: Value,
}

/// How a server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Names its directories.
    pub name: &'static str,
    /// Plugins that a decision calls.
    pub plugins: usize,
    /// Memory for profiles, in MiB.
    pub cache_mib: u64,
    /// The slots that can be asked for.
    pub shelves: &'static [Shelf],
    /// Whether the catalogue holds decisions to a policy.
    pub policy: bool,
}

impl House {
    /// Where so many profiles of so many values are served from; servers run in `target/bench/FOLDER`.
    pub fn new(profiles: u32, values: Option<usize>, folder: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default();
        let own = root.join("target/bench");
        let run = own.join(folder);
        fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
        let room_mib = machine::memory_mib().unwrap_or(u64::MAX) / 3;
        Ok(Self { root, own, run, profiles, room_mib, values })
    }

    fn component(&self, folder: &str, name: &str) -> PathBuf {
        self.root.join("target").join(folder).join(format!("{name}.wasm"))
    }

    /// The folder of plugins of a setup: one that is defined without code, one that observes, and those that a decision calls.
    fn plugins(&self, setup: Setup) -> Result<PathBuf> {
        let folder = self.run.join(format!("{}-plugins", setup.name));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let copy = |from: PathBuf, name: &str| {
            fs::copy(&from, folder.join(format!("{name}.wasm"))).with_context(|| format!("copy {}", from.display()))
        };
        copy(self.component("plugins", "aggregates"), "aggregates")?;
        fs::write(folder.join("aggregates.toml"), self.definitions())?;
        if let Some(values) = self.values {
            copy(self.component("test-guests", "step"), sized::RANKER)?;
            fs::write(folder.join(format!("{}.toml", sized::RANKER)), sized::config(values))?;
            return Ok(folder);
        }
        copy(self.component("test-guests", "viewed"), "viewed")?;
        copy(self.component("test-guests", "bench"), "bench")?;
        if setup.plugins > 1 {
            copy(self.component("test-guests", "panel"), "panel")?;
            for (name, config) in data::chain(setup.plugins) {
                copy(self.component("test-guests", "step"), &name)?;
                fs::write(folder.join(format!("{name}.toml")), config)?;
            }
        }
        Ok(folder)
    }

    fn command(&self, setup: Setup, data: &Path) -> Result<Command> {
        let catalog = self.run.join(format!("{}-catalog.toml", setup.name));
        let plugins = self.plugins(setup)?;
        let ranker = match (self.values, setup.plugins) {
            (Some(_), _) => sized::RANKER,
            (None, ..=1) => "bench",
            _ => "panel",
        };
        fs::write(&catalog, data::catalog(setup.shelves, ranker, setup.policy))?;
        // Of the same build as this.
        let mut command = Command::new(std::env::current_exe()?.with_file_name("selvedge"));
        command.arg("run").arg("--data").arg(data).arg("--plugins").arg(plugins).arg("--catalog").arg(catalog);
        // One for all of them, so that each plugin is compiled once.
        command.arg("--code-cache").arg(self.own.join("code"));
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--secret-key", KEY]);
        command.args(["--cache-mib", &setup.cache_mib.min(self.room_mib).to_string()]).env("SELVEDGE_LOG", "warn");
        Ok(command)
    }

    fn definitions(&self) -> String {
        self.values.map_or_else(data::definitions, sized::definitions)
    }

    fn events(&self, visitor: u32) -> Vec<Value> {
        match self.values {
            None => Person::new(visitor).events(visitor).into(),
            Some(values) => vec![sized::event(visitor, values)],
        }
    }

    /// The data directory that all setups begin with; made where it is not there yet.
    pub fn prepared(&self, setup: Setup, cores: Cores) -> Result<Prepared> {
        let kind =
            format!("data-{}x{}-", self.profiles, self.values.map_or("usual".into(), |values| values.to_string()));
        let data = self.own.join(format!("{kind}{:016x}", self.fingerprint()?));
        let done = data.join("bench-is-prepared");
        if !done.exists() {
            // Also what other plugins made of the same profiles: a million of them are large.
            remove(&self.own, |name| name.starts_with(&kind))?;
            eprintln!("Making {} profiles in {}.", self.profiles, data.display());
            let began = Instant::now();
            let server = self.start_in(setup, &data, cores)?;
            pin(server.id(), &format!("{},{}", cores.server, cores.generator))?;
            self.load(server.public)?;
            server.rest()?;
            server.stop()?;
            fs::write(&done, "")?;
            eprintln!("They were made in {:.0} s.", began.elapsed().as_secs_f64());
        }
        let said = fs::read_to_string(&done).with_context(|| format!("read {}", done.display()))?;
        if let Ok(storage) = serde_json::from_str(&said) {
            return Ok(Prepared { data, storage });
        }
        // Reads everything, so it is asked once, of a server that is not measured.
        let server = self.start_in(setup, &data, cores)?;
        let storage = get(&mut TcpStream::connect(server.admin()?)?, "/admin/v1/storage")?;
        let storage: Value = serde_json::from_slice(&storage).context("what is stored is no JSON")?;
        server.stop()?;
        fs::write(&done, storage.to_string())?;
        Ok(Prepared { data, storage })
    }

    /// A copy of the data for a setup.
    pub fn copy(&self, setup: Setup, prepared: &Path) -> Result<PathBuf> {
        let data = self.run.join(setup.name);
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        }
        let mut copy = Command::new("cp");
        let status = copy.args(["-a", "--reflink=auto"]).arg(prepared).arg(&data).status().context("start cp")?;
        if !status.success() {
            bail!("{} could not be copied", prepared.display());
        }
        Ok(data)
    }

    /// A server of a setup over this data.
    pub fn start_in(&self, setup: Setup, data: &Path, cores: Cores) -> Result<Server> {
        self.start_on(setup, data, &cores.server.to_string())
    }

    /// A server of a setup over this data, on some cores.
    pub fn start_on(&self, setup: Setup, data: &Path, cores: &str) -> Result<Server> {
        let log = self.run.join(format!("{}.log", setup.name));
        Server::start(&self.command(setup, data)?, cores, &log)
    }

    /// Removes what servers of this run have written.
    pub fn clean(&self) -> Result<()> {
        remove(&self.run, |name| self.run.join(name).join("log.redb").exists())
    }

    /// A hash of everything that the data follows from.
    fn fingerprint(&self) -> Result<u64> {
        let mut hash = Xxh3::new();
        hash.update(&FORMAT.to_le_bytes());
        hash.update(&self.profiles.to_le_bytes());
        hash.update(self.definitions().as_bytes());
        for visitor in 0..3 {
            self.events(visitor).iter().for_each(|event| hash.update(event.to_string().as_bytes()));
        }
        for (folder, name) in [("plugins", "aggregates"), ("test-guests", "viewed")] {
            let path = self.component(folder, name);
            hash.update(&fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        Ok(hash.digest())
    }

    /// Sends the events of all visitors.
    fn load(&self, address: SocketAddr) -> Result<()> {
        let next = AtomicU32::new(0);
        let work = || -> Result<()> {
            let mut stream = TcpStream::connect(address)?;
            loop {
                let first = next.fetch_add(TOGETHER, Ordering::Relaxed);
                if first >= self.profiles {
                    return Ok(());
                }
                let visitors = first..self.profiles.min(first + TOGETHER);
                let events: Vec<String> =
                    visitors.flat_map(|visitor| self.events(visitor)).map(|event| event.to_string()).collect();
                let answer = post(&mut stream, "/v1/batch", &format!("{{\"batch\":[{}]}}", events.join(",")))?;
                let answer: Value = serde_json::from_slice(&answer)?;
                if answer["accepted"].as_u64() != u64::try_from(events.len()).ok() {
                    bail!("events of the bench were refused: {answer}");
                }
            }
        };
        std::thread::scope(|scope| {
            let loaders: Vec<_> = (0..LOADERS).map(|_| scope.spawn(work)).collect();
            loaders.into_iter().try_for_each(|loader| match loader.join() {
                Ok(outcome) => outcome,
                Err(_) => bail!("a loading thread panicked"),
            })
        })
    }
}

/// Removes folders of a folder.
pub fn remove(folder: &Path, which: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && which(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Sends one POST of JSON and waits for its answer, which must have the status 200.
pub fn post(stream: &mut TcpStream, path: &str, body: &str) -> Result<Vec<u8>> {
    ask(stream, "POST", path, body)
}

/// Sends one GET and waits for its answer, which must have the status 200.
pub fn get(stream: &mut TcpStream, path: &str) -> Result<Vec<u8>> {
    ask(stream, "GET", path, "")
}

fn ask(stream: &mut TcpStream, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            bail!("the server closed a connection");
        }
        answer.extend_from_slice(&chunk[..count]);
        if let Some(read) = head(&answer)?
            && answer.len() == read.head + read.body
        {
            let body = answer.split_off(read.head);
            if read.status != 200 {
                bail!("{path} answered {}: {}", read.status, String::from_utf8_lossy(&body));
            }
            return Ok(body);
        }
    }
}
