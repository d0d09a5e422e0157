//! Processes of the bench: started on a core, watched by what the kernel says of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Ticks of the kernel's clock in a second, in which it counts what processes use.
const TICKS: f64 = 100.0;
/// How long a process may take to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(60);
/// A process is at rest when it uses less than this of a core, for that long twice.
const REST: (f64, Duration) = (0.08, Duration::from_millis(150));
/// Times that a process is told its cores.
const PINNED_WITHIN: usize = 5;

/// A server under measurement. It ends with the bench.
pub struct Server {
    child: Child,
    /// Where it serves.
    pub public: SocketAddr,
    admin: Option<SocketAddr>,
}

/// Which cores do what.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Of servers.
    pub server: usize,
    /// Of the generator.
    pub generator: usize,
}

impl Cores {
    /// The first for servers, the second for the generator.
    pub fn choose() -> Result<Self> {
        let count = std::thread::available_parallelism()?.get();
        if count < 2 {
            bail!(
                "the bench needs two cores, one for the server and one for the generator; this process may use {count}"
            );
        }
        Ok(Self { server: 0, generator: 1 })
    }
}

/// Has every thread of a process run on these cores. One that ends while it is told so fails the whole, which then is tried again.
pub fn pin(process: u32, cores: &str) -> Result<()> {
    for _ in 0..PINNED_WITHIN {
        let mut taskset = Command::new("taskset");
        taskset.args(["-a", "-p", "-c", cores, &process.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        if taskset.status().context("start taskset, of the package util-linux")?.success() {
            return Ok(());
        }
    }
    bail!("taskset could not keep process {process} on cores {cores}")
}

impl Server {
    /// Starts a server on some cores, such as `0` or `0,1`, and waits until it says where it is. Its log goes to a file.
    pub fn start(command: &Command, cores: &str, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = spawn(command, cores, log, Stdio::piped())?;
        let stdout = child.stdout.take().with_context(|| format!("read what {name} says"))?;
        let mut server = Self { child, public: SocketAddr::from(([127, 0, 0, 1], 0)), admin: None };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("{name} ended before it was ready; {} says why", log.display()))?;
        let address = |listener: &str| ready[listener].as_str()?.strip_prefix("http://")?.parse().ok();
        server.public = address("public").with_context(|| format!("{name} said {line}"))?;
        server.admin = address("admin");
        Ok(server)
    }

    /// Starts a server that says where it is in its log, behind this mark and up to a slash.
    pub fn start_saying(command: &Command, cores: &str, log: &Path, mark: &str) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command, cores, log, Stdio::null())?;
        let mut server = Self { child, public: SocketAddr::from(([127, 0, 0, 1], 0)), admin: None };
        let asked = Instant::now();
        loop {
            let said = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
            let address = said.split_once(mark).and_then(|(_, rest)| rest.split_once('/'));
            if let Some((address, _)) = address {
                server.public = address.parse().with_context(|| format!("{name} said {said}"))?;
                return Ok(server);
            }
            if server.child.try_wait()?.is_some() || asked.elapsed() > PATIENCE {
                bail!("{name} was not ready; {} says why", log.display());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where its operator asks.
    pub fn admin(&self) -> Result<SocketAddr> {
        self.admin.context("a server has no admin listener")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds of processor time of each of its threads: finer than what is said of the whole, but without threads that have ended.
    pub fn thread_nanos(&self) -> Result<BTreeMap<String, u64>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).context("list a server's threads")?;
        let nanos = threads.flatten().filter_map(|thread| {
            // A thread may end meanwhile.
            let said = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((thread.file_name().to_string_lossy().into_owned(), said.split(' ').next()?.parse().ok()?))
        });
        Ok(nanos.collect())
    }

    /// Seconds of processor time that it has used.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.id().to_string())
    }

    /// Its resident memory in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).context("read what a server holds")?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        Ok(kib.context("a server does not say what it holds")? / 1024.0)
    }

    /// Waits until it has nothing more to do.
    pub fn rest(&self) -> Result<()> {
        let asked = Instant::now();
        let mut quiet = 0;
        while quiet < 2 {
            let (before, began) = (self.cpu_seconds()?, Instant::now());
            std::thread::sleep(REST.1);
            let used = (self.cpu_seconds()? - before) / began.elapsed().as_secs_f64();
            quiet = if used < REST.0 { quiet + 1 } else { 0 };
            if asked.elapsed() > PATIENCE {
                bail!("a server is still busy {PATIENCE:?} after the last answer");
            }
        }
        Ok(())
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill a server")?;
        self.child.wait().context("wait for a server that was killed")?;
        Ok(())
    }

    /// Ends it as an operator would, and waits until it is gone.
    pub fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().context("start kill")?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if !status.success() || asked.elapsed() > PATIENCE {
                bail!("a server does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Starts a program on some cores, what it says of errors going to a file.
fn spawn(command: &Command, cores: &str, log: &Path, stdout: Stdio) -> Result<Child> {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", cores]).arg(command.get_program()).args(command.get_args());
    pinned.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let log_file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    pinned.stdin(Stdio::null()).stdout(stdout).stderr(log_file);
    pinned.spawn().context("start taskset, of the package util-linux")
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds of processor time that a process has used; `self` is this one.
pub fn cpu_seconds(process: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("read what a process has used")?;
    // The name, in parentheses, may hold anything; the fields behind it are numbers.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("a process does not say what it has used")?;
    Ok((user + system) / TICKS)
}

/// Seconds that a core was busy, whoever kept it so.
pub fn core_busy_seconds(core: usize) -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("read what the cores do")?;
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name)).context("a core is not listed")?;
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|field| ticks.get(*field)).sum::<f64>();
    Ok(busy / TICKS)
}
