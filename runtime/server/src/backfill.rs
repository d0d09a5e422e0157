//! The backfill: one thread that folds what waits for its history, and how far it has come.
//!
//! It walks over all fragments and takes first what was read meanwhile. It owns no state: the records on disk say what is left, so it continues
//! at the next start wherever it was stopped.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use selvedge_core::identity::Identifier;
use selvedge_plugin_host::PluginSet;
use selvedge_shard::{ShardError, Shards, Walk};
use serde::Serialize;

use crate::metrics::Metrics;
use crate::serve::End;

/// Fragments that are looked up at once.
const BATCH: usize = 256;
/// Fragments whose records are written together.
const TOGETHER: usize = 32;

/// How far the backfill has come.
pub struct Backfill {
    /// The plugins that have states, in the order of the layout.
    plugins: Vec<String>,
    progress: Mutex<Progress>,
}

#[derive(Clone, Debug)]
struct Progress {
    began: Instant,
    /// How long it took, once it has ended.
    took: Option<Duration>,
    done: u64,
    total: u64,
    /// Fragments that cannot be read.
    failed: u64,
    /// Which plugins are being folded.
    parts: Vec<usize>,
}

/// What the admin listener says of it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackfillAnswer {
    state: &'static str,
    done: u64,
    left: u64,
    total: u64,
    plugins: Vec<String>,
    per_second: Option<f64>,
}

/// The thread of a backfill; it stops when this goes.
pub struct Thread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// Folds what waits for its history. A failure ends the process where it is to know.
    pub fn spawn(
        backfill: Arc<Backfill>,
        shards: Arc<Shards>,
        metrics: Arc<Metrics>,
        end: Option<Arc<End>>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            let unsettled = shards.unsettled();
            let outcome =
                unsettled.and_then(|wanted| if wanted { backfill.run(&shards, &metrics, &stopped) } else { Ok(()) });
            if let Err(error) = outcome {
                match end {
                    Some(end) => end.fail(format!("backfill: {error}")),
                    None => tracing::error!("backfill: {error}"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("backfill".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Backfill {
    /// What a release leaves to be folded.
    pub fn of(plugins: &PluginSet, shards: &Shards) -> Result<Self, ShardError> {
        let named =
            plugins.plugins().iter().filter(|plugin| plugin.states() > 0).map(|plugin| plugin.name().to_owned());
        Ok(Self::new(named.collect(), !shards.unsettled()?))
    }

    /// Not begun yet; or nothing to do, where every record is settled.
    pub fn new(plugins: Vec<String>, settled: bool) -> Self {
        let took = settled.then_some(Duration::ZERO);
        let progress = Progress { began: Instant::now(), took, done: 0, total: 0, failed: 0, parts: Vec::new() };
        Self { plugins, progress: Mutex::new(progress) }
    }

    /// Where it stands.
    pub fn answer(&self) -> BackfillAnswer {
        let Progress { began, took, done, total, failed, parts } = self.progress.lock().clone();
        let seconds = took.unwrap_or_else(|| began.elapsed()).as_secs_f64();
        BackfillAnswer {
            state: if took.is_some() { "idle" } else { "running" },
            done,
            // What was folded by the way, when it was written, is not done by the walk.
            left: if took.is_some() { failed } else { total.saturating_sub(done) },
            total,
            plugins: parts.iter().filter_map(|part| self.plugins.get(*part).cloned()).collect(),
            per_second: (done > 0).then(|| (done as f64 / seconds).round()),
        }
    }

    /// Folds everything that waits, until it is told to stop. What ails one fragment does not keep the others waiting.
    pub fn run(&self, shards: &Shards, metrics: &Metrics, stop: &Receiver<()>) -> Result<(), ShardError> {
        let begun = shards.replaced();
        let unfinished = shards.unfinished()?;
        {
            let mut progress = self.progress.lock();
            progress.began = Instant::now();
            progress.total = unfinished.fragments;
            progress.parts = unfinished.parts;
        }
        if unfinished.fragments > 0 {
            let plugins = self.answer().plugins.join(", ");
            tracing::info!(fragments = unfinished.fragments, plugins, "backfill begins");
        }
        let mut walk = Walk::default();
        loop {
            let batch = shards.next_unfinished(&mut walk, BATCH)?;
            if batch.is_empty() {
                break;
            }
            for of_shard in batch.chunk_by(|one, other| one.shard() == other.shard()) {
                for together in of_shard.chunks(TOGETHER) {
                    while let Some(wanted) = shards.wanted() {
                        self.one(shards, metrics, &wanted)?;
                    }
                    let (done, left) = shards.backfill_together(together[0].shard(), together)?;
                    self.note(metrics, done);
                    for identifier in left {
                        self.one(shards, metrics, &identifier)?;
                    }
                    if stop.try_recv() != Err(TryRecvError::Empty) {
                        return Ok(());
                    }
                    std::thread::yield_now();
                }
            }
        }
        self.end(shards, metrics, begun)
    }

    fn one(&self, shards: &Shards, metrics: &Metrics, identifier: &Identifier) -> Result<(), ShardError> {
        let done = match shards.backfill(identifier) {
            Err(error @ (ShardError::Corrupt(_) | ShardError::Change(_))) => {
                tracing::error!(%error, "a profile's history cannot be folded");
                self.progress.lock().failed += 1;
                return Ok(());
            }
            done => done?,
        };
        self.note(metrics, usize::from(done));
        Ok(())
    }

    fn note(&self, metrics: &Metrics, done: usize) {
        let mut progress = self.progress.lock();
        progress.done += done as u64;
        metrics.backfilled(done as u64, progress.total.saturating_sub(progress.done));
    }

    fn end(&self, shards: &Shards, metrics: &Metrics, begun: u64) -> Result<(), ShardError> {
        let (done, failed, took) = {
            let mut progress = self.progress.lock();
            let took = progress.began.elapsed();
            progress.took = Some(took);
            (progress.done, progress.failed, took)
        };
        metrics.backfill_left(failed);
        if done > 0 {
            let per_second = (done as f64 / took.as_secs_f64()).round();
            tracing::info!(fragments = done, ?took, per_second, "backfill ends");
        }
        // One that could not be read is tried again at the next start.
        if failed == 0 { shards.settle(begun) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_names_the_plugins_and_is_idle_at_the_end() {
        let backfill = Backfill::new(vec!["a".to_owned(), "b".to_owned()], false);
        assert_eq!((backfill.answer().state, backfill.answer().per_second), ("running", None));
        {
            let mut progress = backfill.progress.lock();
            (progress.done, progress.total, progress.parts) = (3, 5, vec![1]);
        }
        let answer = backfill.answer();
        assert_eq!((answer.left, answer.plugins), (2, vec!["b".to_owned()]));
        backfill.progress.lock().took = Some(Duration::from_secs(2));
        let answer = backfill.answer();
        assert_eq!((answer.state, answer.left, answer.per_second), ("idle", 0, Some(2.0)));
        assert_eq!(Backfill::new(Vec::new(), true).answer().state, "idle");
    }
}
