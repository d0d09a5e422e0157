//! A flame graph of a server under load, by samples that Linux's perf takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::dist::load_bench;
use crate::flame_graph::Frame;
use crate::plugins::{self, Toolchain};
use crate::shell::{exists, output, root, run};

/// Samples a second, no divisor of anything that happens regularly.
const FREQUENCY: &str = "797";
/// How stacks are taken: by the tables that every build has, from a copy of so many bytes. Frame pointers would want another build of everything.
const STACKS: &str = "dwarf,16384";

/// What `cargo xtask flame` can be told.
#[derive(Args)]
pub struct FlameArguments {
    /// The row of the bench whose requests are sent.
    #[arg(long, default_value = "decide")]
    row: String,
    /// Seconds that are sampled.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

/// Loads a server as the bench does and draws where its time goes to target/bench/flame.svg.
pub fn flame(arguments: &FlameArguments) -> Result<()> {
    if !exists("perf") {
        bail!("perf is missing; on Debian `apt-get install linux-perf`");
    }
    plugins::build(Toolchain::Auto)?;
    let mut bench = load_bench()?;
    // Perf takes a moment to begin, and stops by itself.
    bench.args(["flame", "--row", &arguments.row, "--seconds", &(arguments.seconds + 2).to_string()]);
    let mut loading = bench.stdout(Stdio::piped()).spawn().context("start the load bench")?;
    let stdout = loading.stdout.take().context("read what the load bench says")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let ready: Value = serde_json::from_str(&line).context("the load bench ended before it was ready")?;
    let folder = root().join("target/bench");
    let samples = folder.join("perf.data");
    let mut record = Command::new("perf");
    record.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY, "--call-graph", STACKS]);
    record.args(["--pid", &ready["process"].to_string(), "--output"]).arg(&samples);
    let recorded = run(record.args(["--", "sleep", &arguments.seconds.to_string()]));
    let loaded = loading.wait().context("wait for the load bench")?;
    recorded.context("perf takes samples as root, or where /proc/sys/kernel/perf_event_paranoid is at most 1")?;
    if !loaded.success() {
        bail!("the load bench ended with {loaded}");
    }

    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "--fields", "comm,ip,sym,dso", "--input"]).arg(&samples);
    let graph = Frame::read(&output(&mut script)?).draw(&format!("selvedge, {}", arguments.row));
    let path = folder.join("flame.svg");
    fs::write(&path, graph).with_context(|| format!("create {}", path.display()))?;
    println!("Written to {}.", path.display());
    Ok(())
}
