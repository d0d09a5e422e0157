//! The load generator: one thread, many connections, no waiting but for answers.
//!
//! *Closed*: every connection sends its next request as soon as it has its answer, which finds the peak. *Open*: requests are due at instants that
//! do not depend on answers (a Poisson process), and a latency counts from the instant at which its request was due, whether or not a
//! connection was free then; so a server that stalls is charged for everybody who would have come meanwhile.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use mio::{Events, Poll};

use crate::answer::{Check, Verdict, elapsed_us};
use crate::connection::Connection;
use crate::request::{Clock, Template};
use crate::zipf::{Random, Visitors};

/// One answer in so many is read and judged; of every one the status is looked at.
const SAMPLE: u64 = 16;
/// How long answers are waited for after the last request was due.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest latency that is told apart, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;

/// What is asked, of whom.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Requests, each with how often it comes in a hundred and what its answer must say.
    pub requests: Vec<(u32, Template, Check)>,
    /// Who comes.
    pub visitors: Visitors,
}

/// How fast requests come.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As soon as there is an answer, for so long.
    Closed(Duration),
    /// So many a second, whatever answers do, for so long.
    Open(f64, Duration),
    /// As soon as there is an answer, so many in all.
    Count(u64),
}

/// What came of it.
pub struct Outcome {
    /// Requests answered until the end.
    pub requests: u64,
    /// How long that took.
    pub seconds: f64,
    /// Nanoseconds from when a request was due to its answer.
    pub latency: Histogram<u64>,
    /// Microseconds by the server's own clock, of a sample; empty where it does not say.
    pub server: Histogram<u64>,
    /// Answers that were read and judged, and how many of them fell back.
    pub judged: u64,
    /// See `judged`.
    pub fallbacks: u64,
    /// How much of the time the generator had something to do.
    pub busy: f64,
}

impl Outcome {
    /// All requests that were answered, also those after the end.
    pub fn answered(&self) -> u64 {
        self.latency.len()
    }
}

/// Connections to one server.
pub struct Generator {
    poll: Poll,
    connections: Vec<Connection>,
    random: Random,
    /// Never the same twice, also from run to run.
    message: u64,
    clock: Clock,
    /// Whether it sleeps while only answers matter.
    pub sleeps: bool,
}

impl Generator {
    /// Connects.
    pub fn connect(address: SocketAddr, connections: usize, seed: u64) -> Result<Self> {
        let poll = Poll::new().context("ask for events")?;
        let open = |token| Connection::open(address, poll.registry(), token);
        let connections = (0..connections).map(open).collect::<Result<_>>()?;
        let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let message = u64::try_from(began.as_nanos())?;
        Ok(Self { poll, connections, random: Random(seed), message, clock: Clock::new(), sleeps: false })
    }

    /// Sends and takes answers. An answer with another status than 200, or that does not say what it must, is an error.
    pub fn run(&mut self, traffic: &mut Traffic, pace: Pace) -> Result<Outcome> {
        let started = Instant::now();
        let now = || u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (end, mut left, gap) = match pace {
            Pace::Closed(time) => (nanos(time), u64::MAX, None),
            Pace::Open(rate, time) => (nanos(time), u64::MAX, Some(1e9 / rate)),
            Pace::Count(count) => (u64::MAX, count, None),
        };
        let (mut tally, mut idle_nanos) = (Tally::new()?, 0);
        let mut events = Events::with_capacity(1024);
        let mut idle: VecDeque<usize> = (0..self.connections.len()).collect();
        let mut checks = vec![Check::Nothing; self.connections.len()];
        let mut busy = vec![false; self.connections.len()];
        let mut due: VecDeque<u64> = VecDeque::new();
        let mut next_due = 0.0;
        let mut last = 0;
        loop {
            let at = now();
            if let Some(gap) = gap {
                while next_due <= at.min(end) as f64 {
                    due.push_back(next_due as u64);
                    next_due += gap * -(1.0 - self.random.unit()).ln();
                }
            } else if at < end {
                let wanted = u64::try_from(idle.len())?.min(left);
                left -= wanted;
                due.extend((0..wanted).map(|_| at));
            }
            while !due.is_empty()
                && let Some(index) = idle.pop_front()
            {
                let at = due.pop_front().unwrap_or(at);
                checks[index] = self.send(index, at, traffic)?;
                busy[index] = true;
            }
            let under_way = idle.len() < self.connections.len();
            if !under_way && due.is_empty() && (at >= end || left == 0) {
                break;
            }
            if at > end && at - end > nanos(DRAIN) {
                bail!("answers are missing {DRAIN:?} after the end: {} of requests that are due", due.len());
            }
            // It never sleeps, so that no server pays for waking it: in a virtual machine that costs more than an answer of the floor. But where a server has
            // its core too, it sleeps while only answers matter.
            let patience = if self.sleeps && gap.is_none() { DRAIN } else { Duration::ZERO };
            self.poll.poll(&mut events, Some(patience))?;
            if events.is_empty() {
                idle_nanos += now() - at;
            }
            for event in &events {
                let index = event.token().0;
                if event.is_writable() {
                    self.connections[index].write()?;
                }
                if !busy[index] || !event.is_readable() {
                    continue;
                }
                let since = self.connections[index].due;
                let Some((status, body)) = self.connections[index].read()? else { continue };
                let at = now();
                tally.take(status, body, checks[index], at - since, at <= end)?;
                last = at;
                if gap.is_none() && at < end && left > 0 {
                    left = left.saturating_sub(1);
                    checks[index] = self.send(index, at, traffic)?;
                } else {
                    busy[index] = false;
                    idle.push_back(index);
                }
            }
        }
        let busy = 1.0 - idle_nanos as f64 / now().max(1) as f64;
        Ok(Outcome { busy, ..tally.outcome(end.min(last.max(1)))? })
    }

    fn send(&mut self, index: usize, due: u64, traffic: &mut Traffic) -> Result<Check> {
        let mut point = self.random.below(100);
        let mut chosen = &traffic.requests[0];
        for request in &traffic.requests {
            chosen = request;
            match point.checked_sub(request.0) {
                Some(rest) => point = rest,
                None => break,
            }
        }
        let (_, template, check) = chosen;
        self.message += 1;
        let connection = &mut self.connections[index];
        template.render(traffic.visitors.draw(), self.message, &mut self.clock, &mut connection.request);
        connection.due = due;
        connection.send()?;
        Ok(*check)
    }
}

/// What has come so far.
struct Tally {
    requests: u64,
    in_time: u64,
    latency: Histogram<u64>,
    server: Histogram<u64>,
    judged: u64,
    fallbacks: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1_000, LATENCY_MAX, 3)?;
        let server = Histogram::new_with_bounds(1, LATENCY_MAX / 1_000, 3)?;
        Ok(Self { requests: 0, in_time: 0, latency, server, judged: 0, fallbacks: 0 })
    }

    fn take(&mut self, status: u16, body: &[u8], check: Check, latency: u64, in_time: bool) -> Result<()> {
        if status != 200 {
            bail!("an answer has the status {status}: {}", String::from_utf8_lossy(body));
        }
        self.requests += 1;
        self.in_time += u64::from(in_time);
        self.latency.saturating_record(latency.max(1));
        if self.requests.is_multiple_of(SAMPLE) && check != Check::Nothing {
            self.judged += 1;
            match check.judge(body) {
                Verdict::Good => {}
                Verdict::Fallback => self.fallbacks += 1,
                Verdict::Bad => bail!("an answer does not say what it must: {}", String::from_utf8_lossy(body)),
            }
            if let Some(elapsed) = elapsed_us(body) {
                self.server.saturating_record(elapsed.max(1));
            }
        }
        Ok(())
    }

    fn outcome(self, nanos: u64) -> Result<Outcome> {
        let seconds = Duration::from_nanos(nanos).as_secs_f64();
        let Self { in_time, latency, server, judged, fallbacks, .. } = self;
        if in_time == 0 {
            bail!("nothing was answered");
        }
        Ok(Outcome { requests: in_time, seconds, latency, server, judged, fallbacks, busy: 0.0 })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
