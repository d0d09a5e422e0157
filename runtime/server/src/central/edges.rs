//! The edges that this centre knows: what they said of themselves when they registered, and what they report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use selvedge_central::{CentralLog, LogError};
use selvedge_core::shard_set::ShardSet;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::sync::wire::{Register, Report};

/// Under which notes edges are kept.
const NOTES: &str = "edge/";
/// Edges that are remembered.
const EDGES_MAX: usize = 4096;
/// How often a report is kept for other centres over the same store.
pub const KEEP_EVERY: Duration = Duration::from_secs(20);
/// How long an edge that says nothing is waited for when the centre must know what all edges can read. One that is away for longer must begin
/// with a snapshot.
pub const ABSENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// An edge as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    pub name: String,
    /// Its build.
    pub version: String,
    /// The newest version of changes that it reads.
    pub reads: u16,
    pub shards: ShardSet,
    pub registered_at: Timestamp,
    /// When it was last heard of.
    pub seen_at: Timestamp,
    pub report: Option<Report>,
}

/// Those that this process has heard of.
#[derive(Default)]
pub struct Edges(Mutex<BTreeMap<String, (Known, Option<Instant>)>>);

impl Edges {
    /// Takes in an edge; it is kept before it is told so.
    pub async fn register(&self, log: &dyn CentralLog, register: &Register, shards: ShardSet) -> Result<(), LogError> {
        if self.is_full_for(&register.name) {
            return Err(LogError::TooLarge { what: "the list of edges".into(), size: EDGES_MAX + 1, max: EDGES_MAX });
        }
        let now = clock::now();
        let known = Known {
            name: register.name.clone(),
            version: register.version.clone(),
            reads: register.reads,
            shards,
            registered_at: now,
            seen_at: now,
            report: None,
        };
        keep(log, &known).await?;
        self.0.lock().insert(known.name.clone(), (known, Some(Instant::now())));
        Ok(())
    }

    fn is_full_for(&self, name: &str) -> bool {
        let known = self.0.lock();
        known.len() >= EDGES_MAX && !known.contains_key(name)
    }

    /// Takes in a report. False of an edge that is to register first.
    pub async fn report(&self, log: &dyn CentralLog, report: Report) -> Result<bool, LogError> {
        let due = {
            let mut edges = self.0.lock();
            let Some((known, kept)) = edges.get_mut(&report.name) else { return Ok(false) };
            known.seen_at = clock::now();
            known.report = Some(Report { marked: Vec::new(), ..report });
            let due = kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY);
            if due {
                *kept = Some(Instant::now());
            }
            due.then(|| known.clone())
        };
        match due {
            Some(known) => keep(log, &known).await.map(|()| true),
            None => Ok(true),
        }
    }

    /// All edges, this process's and those of other centres over the same store, by name.
    pub async fn all(&self, log: &dyn CentralLog) -> Result<Vec<Known>, LogError> {
        let mut all = BTreeMap::new();
        for (_, bytes) in log.notes(NOTES).await? {
            // A note of another version says nothing here.
            let Ok(known) = serde_json::from_slice::<Known>(&bytes) else { continue };
            all.insert(known.name.clone(), known);
        }
        for (name, (known, _)) in &*self.0.lock() {
            // One that is not kept was forgotten, by another centre perhaps.
            if all.get(name).is_some_and(|kept: &Known| kept.seen_at <= known.seen_at) {
                all.insert(name.clone(), known.clone());
            }
        }
        Ok(all.into_values().collect())
    }

    /// The newest version of changes that every edge reads which may come back.
    pub async fn reads(&self, log: &dyn CentralLog) -> Result<Option<u16>, LogError> {
        let absent = i64::try_from(ABSENCE.as_millis()).unwrap_or(i64::MAX);
        let since = clock::now().plus_ms(-absent);
        let all = self.all(log).await?;
        Ok(all.iter().filter(|known| known.seen_at >= since).map(|known| known.reads).min())
    }

    /// Forgets an edge, which may register again. False where there is none of that name.
    pub async fn forget(&self, log: &dyn CentralLog, name: &str) -> Result<bool, LogError> {
        let there = self.0.lock().remove(name).is_some();
        let kept = log.note(&note(name)).await?.is_some();
        log.remove_note(&note(name)).await?;
        Ok(there || kept)
    }
}

fn note(name: &str) -> String {
    format!("{NOTES}{name}")
}

async fn keep(log: &dyn CentralLog, known: &Known) -> Result<(), LogError> {
    let bytes = serde_json::to_vec(known).map_err(|error| LogError::Store(error.to_string()))?;
    log.put_note(&note(&known.name), bytes).await
}
