//! The machine, as results.json names it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// What was measured on.
pub fn describe() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let value =
            cpu.lines().find_map(|line| line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim()));
        value.unwrap_or("unknown").to_owned()
    };
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    json!({
        "cpu": field("model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "virtual": cpu.contains(" hypervisor"),
        "memory_mib": memory_mib(),
        "kernel": version("uname", "-sr"),
        "rustc": version("rustc", "--version"),
        "selvedge": env!("CARGO_PKG_VERSION"),
        "commit": commit(),
    })
}

/// All of the machine's memory, in MiB.
pub fn memory_mib() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let total = |line: &str| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    memory.lines().find_map(total).map(|kib| kib / 1024)
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always"]).output().ok().filter(|git| git.status.success())?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // What the bench itself writes there makes nothing else of what is measured.
    let same = ["diff", "--quiet", "HEAD", "--", ".", ":(exclude)docs"];
    let same = Command::new("git").args(same).status().is_ok_and(|git| git.success());
    Some(if same { name } else { name + "-dirty" })
}
