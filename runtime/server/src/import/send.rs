//! Sending: batches over a few connections, each acknowledged when it is durable.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::Agent;

use super::assemble::Event;
use super::plan::Envelope;
use super::report::Report;
use super::resume::Resume;

/// Bytes of a batch, below the 1 MiB that an edge takes.
const BATCH_BYTES_MAX: usize = 1_000_000;
/// Events of a batch, as in Segment's API.
const BATCH_EVENTS_MAX: usize = 2_500;
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where events go.
#[derive(Clone)]
pub struct Target {
    agent: Agent,
    url: String,
    key: String,
    patience: Duration,
    envelope: Envelope,
}

#[derive(Deserialize)]
struct Health {
    log: String,
}

/// The target does not take the key: trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error(
    "the target refuses the key: {0}; give a write key with --key or SELVEDGE_WRITE_KEY (traits, mart and links want the secret key)"
)]
pub struct WrongKey(String);

/// The answer to a batch.
#[derive(Debug, Deserialize)]
pub struct Answer {
    pub accepted: u64,
    #[serde(alias = "unchanged")]
    pub duplicates: u64,
    pub rejected: Vec<RejectedEvent>,
    #[serde(default)]
    pub reconciliation: BTreeMap<String, Reconciled>,
}

/// What both sides say of one aggregate, over the profiles of a call.
#[derive(Debug, Deserialize)]
pub struct Reconciled {
    pub profiles: u64,
    pub agree: u64,
    /// None where it does not add up.
    pub mart: Option<Box<RawValue>>,
    pub live: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
pub struct RejectedEvent {
    pub index: usize,
    pub code: String,
    pub pointer: String,
    pub detail: String,
}

#[derive(Deserialize)]
struct ProblemDocument {
    code: String,
    detail: String,
}

impl Target {
    pub fn new(url: &str, key: &str, patience: Duration, envelope: Envelope) -> Result<Self> {
        if key.trim().is_empty() {
            bail!("--key is empty; give the write key with --key or SELVEDGE_WRITE_KEY");
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("--to {url:?} is not a URL such as http://127.0.0.1:8080");
        }
        let agent = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().into();
        Ok(Self { agent, url: url.trim_end_matches('/').to_owned(), key: key.to_owned(), patience, envelope })
    }

    /// The name of the target's log: another one knows nothing of an earlier import.
    pub fn log_id(&self) -> Result<String> {
        let mut answer =
            self.agent.get(format!("{}/healthz", self.url)).call().with_context(|| format!("reach {}", self.url))?;
        let text = answer.body_mut().read_to_string().context("read the answer")?;
        let health: Health =
            serde_json::from_str(&text).with_context(|| format!("{} is not a Selvedge edge", self.url))?;
        Ok(health.log)
    }

    fn post(&self, body: &[u8]) -> Result<Answer> {
        let started = Instant::now();
        loop {
            let tired = started.elapsed() >= self.patience;
            let sent = self
                .agent
                .post(format!("{}{}", self.url, self.envelope.path))
                .header("authorization", format!("Bearer {}", self.key))
                .content_type("application/json")
                .send(body);
            let wait_s = match sent {
                Ok(mut answer) => {
                    let status = answer.status().as_u16();
                    let retry_after =
                        answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                    let text = answer.body_mut().read_to_string().context("read the answer")?;
                    if status == 200 {
                        return serde_json::from_str(&text).context("read the answer");
                    }
                    let problem = serde_json::from_str(&text)
                        .unwrap_or_else(|_| ProblemDocument { code: status.to_string(), detail: text });
                    if matches!(status, 401 | 403) {
                        return Err(WrongKey(format!("{} {}", problem.code, problem.detail)).into());
                    }
                    if !matches!(status, 429 | 503) || tired {
                        bail!("{} answered {status} {}: {}", self.url, problem.code, problem.detail);
                    }
                    retry_after.unwrap_or(1)
                }
                Err(error) if tired => {
                    return Err(error).with_context(|| format!("reach {}", self.url));
                }
                Err(_) => 1,
            };
            std::thread::sleep(Duration::from_secs(wait_s.clamp(1, 10)));
        }
    }
}

/// A batch on its way.
struct Batch {
    number: u64,
    body: Vec<u8>,
    /// The first row and the number of rows of each event.
    rows: Vec<(u64, u64)>,
}

/// A batch that was answered.
struct Answered {
    number: u64,
    rows: Vec<(u64, u64)>,
    answer: Result<Answer>,
}

/// Sends events in batches.
pub struct Sender {
    begin: String,
    /// Events that an earlier import has sent already.
    skip: u64,
    open: Batch,
    queue: Option<SyncSender<Batch>>,
    answers: Receiver<Answered>,
    workers: Vec<JoinHandle<()>>,
    /// Answered, but not all before them.
    ahead: BTreeMap<u64, u64>,
    next_done: u64,
}

impl Sender {
    pub fn start(target: &Target, concurrency: usize, skip: u64) -> Self {
        let (queue, batches) = sync_channel::<Batch>(concurrency);
        let batches = Arc::new(Mutex::new(batches));
        let (answered, answers) = mpsc::channel();
        let workers = (0..concurrency).map(|_| {
            let (target, batches, answered) = (target.clone(), Arc::clone(&batches), answered.clone());
            std::thread::spawn(move || work(&target, &batches, &answered))
        });
        Self {
            begin: target.envelope.begin.clone(),
            skip,
            open: Batch { number: 0, body: Vec::new(), rows: Vec::new() },
            queue: Some(queue),
            answers,
            workers: workers.collect(),
            ahead: BTreeMap::new(),
            next_done: 0,
        }
    }

    /// Takes an event; sends a batch once it is full.
    pub fn send(&mut self, event: Event, report: &mut Report, resume: &mut Resume) -> Result<()> {
        if self.skip > 0 {
            self.skip -= 1;
            report.skipped += 1;
            return Ok(());
        }
        if self.open.body.len() + event.json.len() > BATCH_BYTES_MAX || self.open.rows.len() >= BATCH_EVENTS_MAX {
            self.dispatch(report, resume)?;
        }
        let open = &mut self.open;
        open.body.extend_from_slice(if open.body.is_empty() { self.begin.as_bytes() } else { b"," });
        open.body.extend_from_slice(event.json.as_bytes());
        open.rows.push((event.first_row, event.rows));
        Ok(())
    }

    /// Sends what is left and waits for every answer.
    pub fn finish(mut self, report: &mut Report, resume: &mut Resume) -> Result<()> {
        let dispatched = self.dispatch(report, resume);
        self.queue = None;
        let mut outcome = dispatched;
        while let Ok(answered) = self.answers.recv() {
            let noted = self.note(answered, report, resume);
            outcome = outcome.and(noted);
        }
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                outcome = outcome.and(Err(anyhow::anyhow!("a sending thread panicked")));
            }
        }
        resume.save()?;
        outcome
    }

    fn dispatch(&mut self, report: &mut Report, resume: &mut Resume) -> Result<()> {
        while let Ok(answered) = self.answers.try_recv() {
            self.note(answered, report, resume)?;
        }
        if self.open.rows.is_empty() {
            return Ok(());
        }
        let number = self.open.number + 1;
        let mut batch = std::mem::replace(
            &mut self.open,
            Batch { number, body: Vec::with_capacity(BATCH_BYTES_MAX), rows: Vec::new() },
        );
        batch.body.extend_from_slice(b"]}");
        match &self.queue {
            Some(queue) => queue.send(batch).context("the sending threads have ended"),
            None => Ok(()),
        }
    }

    fn note(&mut self, answered: Answered, report: &mut Report, resume: &mut Resume) -> Result<()> {
        let Answered { number, rows, answer } = answered;
        let answer = answer?;
        report.accepted += answer.accepted;
        report.duplicates += answer.duplicates;
        report.reconcile(answer.reconciliation);
        for rejected in answer.rejected {
            report.refuse_event(rows.get(rejected.index).copied().unwrap_or_default(), rejected)?;
        }
        self.ahead.insert(number, rows.len() as u64);
        while let Some(events) = self.ahead.remove(&self.next_done) {
            self.next_done += 1;
            resume.advance(events)?;
        }
        Ok(())
    }
}

fn work(target: &Target, batches: &Mutex<Receiver<Batch>>, answered: &mpsc::Sender<Answered>) {
    loop {
        let next = batches.lock().map(|batches| batches.recv());
        let Ok(Ok(Batch { number, body, rows })) = next else { return };
        let answer = target.post(&body);
        let failed = answer.is_err();
        // Once one call has failed for good, nobody may be listening any more.
        if answered.send(Answered { number, rows, answer }).is_err() || failed {
            return;
        }
    }
}
