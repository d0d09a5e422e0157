//! How long a server takes to its first decision, what it holds, and what it costs at rest.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::answer::{Check, Verdict};
use crate::load::{Generator, Pace};
use crate::prepare::{House, Setup, get, post};
use crate::process::{Cores, Server};
use crate::request::{VISITOR, user};
use crate::rows::{OFFERED, decide_body, row_traffic};
use crate::run::spread;

/// How long a server is watched while nobody asks.
const IDLE: Duration = Duration::from_secs(5);
/// How long a server is asked before it is killed.
const BEFORE_KILL: Duration = Duration::from_secs(1);
/// Connections that ask then.
const CONNECTIONS: usize = 64;
const MIB: f64 = 1024.0 * 1024.0;

/// A server that has just answered its first decision, and how many seconds that took from its start.
pub fn first_decision(house: &House, setup: Setup, data: &Path, cores: Cores) -> Result<(Server, f64)> {
    let began = Instant::now();
    let server = house.start_in(setup, data, cores)?;
    let body = decide_body("home", "").replace(&format!("u-{VISITOR}"), &user(1));
    let answer = post(&mut TcpStream::connect(server.public)?, "/v1/decide", &body)?;
    let seconds = began.elapsed().as_secs_f64();
    if Check::Offers(OFFERED).judge(&answer) != Verdict::Good {
        bail!("the first decision is none: {}", String::from_utf8_lossy(&answer));
    }
    Ok((server, seconds))
}

/// What a server holds with and without profiles in memory, and what it costs at rest.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Profiles in memory, as the server counts them.
    pub profiles: f64,
    /// Resident after the first decision, and with all profiles, in MiB.
    pub resident_mib: [f64; 2],
    /// Resident after a while without requests, in MiB.
    pub idle_mib: f64,
    /// Milliseconds of processor time a second in that while.
    pub idle_ms: f64,
    /// What the server says of its profiles in memory, in bytes.
    pub view_bytes: f64,
}

impl Memory {
    /// Brings every profile into memory, and looks at the server before, after, and while nobody asks.
    pub fn fill(server: &Server, cores: Cores, warm: impl FnOnce() -> Result<()>) -> Result<Self> {
        server.rest()?;
        let none = server.resident_mib()?;
        spread(server, cores, warm)?;
        let all = server.resident_mib()?;
        let (before, began) = (server.thread_nanos()?, Instant::now());
        std::thread::sleep(IDLE);
        let (after, seconds) = (server.thread_nanos()?, began.elapsed().as_secs_f64());
        let used = after.iter().map(|(thread, nanos)| nanos.saturating_sub(before.get(thread).copied().unwrap_or(0)));
        let idle_ms = used.sum::<u64>() as f64 / 1e6 / seconds;
        let metrics = get(&mut TcpStream::connect(server.admin()?)?, "/metrics")?;
        let metrics = String::from_utf8_lossy(&metrics);
        let of = |name| gauge(&metrics, name).context("the server does not say what its profiles hold");
        let (profiles, view_bytes) = (of("selvedge_views")?, of("selvedge_view_bytes")?);
        if profiles < 1.0 {
            bail!("no profile is in memory");
        }
        Ok(Self { profiles, resident_mib: [none, all], idle_mib: server.resident_mib()?, idle_ms, view_bytes })
    }

    /// As results.json has it, beside what is stored of all profiles.
    pub fn document(&self, storage: &Value, stored: u32) -> Value {
        let (profiles, stored) = (self.profiles, f64::from(stored));
        let resident = resident_per_profile(self.resident_mib, self.profiles);
        let encoded = storage["stateBytes"].as_f64().map(|bytes| bytes / stored);
        let round = |value: f64, scale: f64| (value * scale).round() / scale;
        json!({
            "profiles": self.profiles,
            "values": 150,
            "resident_mib_none": round(self.resident_mib[0], 10.0),
            "resident_mib_all": round(self.resident_mib[1], 10.0),
            "resident_bytes_per_profile": resident.round(),
            "view_bytes_per_profile": (self.view_bytes / profiles).round(),
            "encoded_bytes_per_profile": encoded.map(f64::round),
            "ratio": encoded.map(|encoded| round(resident / encoded, 100.0)),
            "history_bytes_per_profile": storage["historyBytes"].as_f64().map(|bytes| (bytes / stored).round()),
            "idle_cpu_ms_per_second": round(self.idle_ms, 100.0),
            "idle_rss_mib": round(self.idle_mib, 10.0),
        })
    }
}

fn resident_per_profile([none, all]: [f64; 2], profiles: f64) -> f64 {
    (all - none) * MIB / profiles
}

/// The value of a metric without labels in Prometheus's text.
fn gauge(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Starts again after a kill under load, after an end in good order, and after one whose files are no longer in the kernel's memory.
pub fn restarts(house: &House, setup: Setup, cores: Cores, server: Server) -> Result<Value> {
    let data = house.run.join(setup.name);
    let mut generator = Generator::connect(server.public, CONNECTIONS, 11)?;
    generator.run(&mut row_traffic("mixed", house.profiles)?, Pace::Closed(BEFORE_KILL))?;
    server.kill()?;
    let (server, killed) = first_decision(house, setup, &data, cores)?;
    server.rest()?;
    server.stop()?;
    let (server, clean) = first_decision(house, setup, &data, cores)?;
    server.rest()?;
    server.stop()?;
    forget(&data)?;
    let (server, from_disk) = first_decision(house, setup, &data, cores)?;
    server.stop()?;
    let round = |seconds: f64| (seconds * 1_000.0).round() / 1_000.0;
    Ok(json!({
        "profiles": house.profiles,
        "after_stop_s": round(clean),
        "after_stop_uncached_s": round(from_disk),
        "after_kill_s": round(killed),
    }))
}

/// Has the kernel drop what it keeps of the files in a folder, so that they are read from the disk.
fn forget(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
            continue;
        }
        let mut dd = Command::new("dd");
        dd.arg(format!("of={}", path.display()));
        let output = dd.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"]).output();
        let output = output.context("start dd, of the package coreutils")?;
        if !output.status.success() {
            bail!("dd could not drop {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_bytes_by_profile() {
        let memory =
            Memory { profiles: 1024.0, resident_mib: [100.0, 104.0], idle_mib: 104.0, idle_ms: 1.234, view_bytes: 2e6 };
        let document = memory.document(&json!({"stateBytes": 2048 * 4096, "historyBytes": 512 * 4096}), 4096);
        assert_eq!(document["resident_bytes_per_profile"].as_f64(), Some(4096.0));
        assert_eq!(document["encoded_bytes_per_profile"].as_f64(), Some(2048.0));
        assert_eq!(document["ratio"].as_f64(), Some(2.0));
        assert_eq!(document["idle_cpu_ms_per_second"].as_f64(), Some(1.23));
        assert!(memory.document(&json!({}), 1)["ratio"].is_null());
    }

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        let metrics = "# HELP a_b x\na_b_c 3\na_b{x=\"y\"} 4\na_b 5\n";
        assert_eq!(gauge(metrics, "a_b"), Some(5.0));
        assert_eq!(gauge(metrics, "a"), None);
    }
}
