//! One measurement: the peak by a closed loop, then latencies by an open loop at half of it, and what the kernel says meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use crate::load::{Generator, Outcome, Pace, Traffic};
use crate::process::{Cores, Server, core_busy_seconds};

/// The share of answers that may fall back. Their deadline is far off, so next to none should.
const FALLBACKS_MAX: f64 = 0.001;
/// A server does what a decision leaves behind once a second.
const BEHIND: Duration = Duration::from_millis(1_100);

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before anything counts.
    pub warm: Duration,
    /// The closed loop, and the open loop.
    pub each: Duration,
    /// Whether to wait between the two until what the first one left behind is done.
    pub rest_between: bool,
}

/// What one repetition of a row found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Requests a second at the peak.
    pub rps: f64,
    /// Latencies at half of the peak, from when a request was due, in microseconds.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// See `p50_us`.
    pub p999_us: f64,
    /// Latencies at the peak.
    pub peak_p50_us: f64,
    /// See `peak_p50_us`.
    pub peak_p99_us: f64,
    /// The server's own time for an answer at half of the peak, where it says so.
    pub server_p50_us: Option<f64>,
    /// See `server_p50_us`.
    pub server_p99_us: Option<f64>,
    /// Processor time a request, with what is done behind it.
    pub cpu_us_per_request: f64,
    /// Resident memory after it.
    pub rss_mib: f64,
    /// How busy the generator was at the peak: near 100 it is the generator that is measured.
    pub generator_percent: f64,
    /// How much of the server's core went to others at the peak.
    pub others_percent: f64,
    /// Judged answers that fell back, in a hundred.
    pub fallback_percent: f64,
}

/// Measures a server; a plain one leaves nothing to be done behind its answers, and says nothing of itself.
pub fn measure(
    server: &Server,
    generator: &mut Generator,
    traffic: &mut Traffic,
    cores: Cores,
    times: Times,
    plain: bool,
) -> Result<Found> {
    let begun = server.cpu_seconds()?;
    let warm = generator.run(traffic, Pace::Closed(times.warm))?;
    let before = Usage::now(server, cores)?;
    let closed = generator.run(traffic, Pace::Closed(times.each))?;
    let after = Usage::now(server, cores)?;
    let rps = closed.requests as f64 / closed.seconds;
    let mut counted = warm.answered() + closed.answered();
    let mut settled = 0.0;
    if times.rest_between {
        settle(server, plain)?;
        settled = server.cpu_seconds()?;
    }
    let open = generator.run(traffic, Pace::Open(rps / 2.0, times.each))?;
    settle(server, plain)?;
    if !times.rest_between {
        counted += open.answered();
        settled = server.cpu_seconds()?;
    }
    let wall = after.at.duration_since(before.at).as_secs_f64();
    let judged = closed.judged + open.judged;
    let fallbacks = (closed.fallbacks + open.fallbacks) as f64 / judged.max(1) as f64;
    if fallbacks > FALLBACKS_MAX {
        bail!("{:.2}% of the answers are fallbacks", 100.0 * fallbacks);
    }
    let own =
        |quantile: f64| (!plain && !open.server.is_empty()).then(|| open.server.value_at_quantile(quantile) as f64);
    Ok(Found {
        rps,
        p50_us: us(&open, 0.5),
        p99_us: us(&open, 0.99),
        p999_us: us(&open, 0.999),
        peak_p50_us: us(&closed, 0.5),
        peak_p99_us: us(&closed, 0.99),
        server_p50_us: own(0.5),
        server_p99_us: own(0.99),
        cpu_us_per_request: 1e6 * (settled - begun) / counted as f64,
        rss_mib: server.resident_mib()?,
        generator_percent: 100.0 * closed.busy,
        others_percent: 100.0 * ((after.core - before.core) - (after.server - before.server)).max(0.0) / wall,
        fallback_percent: 100.0 * fallbacks,
    })
}

fn us(outcome: &Outcome, quantile: f64) -> f64 {
    let latency: &Histogram<u64> = &outcome.latency;
    latency.value_at_quantile(quantile) as f64 / 1e3
}

/// Waits until what requests left behind is done.
fn settle(server: &Server, plain: bool) -> Result<()> {
    if !plain {
        std::thread::sleep(BEHIND);
    }
    server.rest().context("wait for the server")
}

struct Usage {
    at: Instant,
    server: f64,
    core: f64,
}

impl Usage {
    fn now(server: &Server, cores: Cores) -> Result<Self> {
        Ok(Self { at: Instant::now(), server: server.cpu_seconds()?, core: core_busy_seconds(cores.server)? })
    }
}
