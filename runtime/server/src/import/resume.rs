//! How far an import got, so that one that was cut off goes on where it stopped.
//!
//! The number of events that are durable at the target, counted from the first, beside the name of the target's log. Events are made in
//! the same order at every run, and one that is sent twice counts once, so the number may lag but never lead.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::ImportArguments;

const SAVE_EVERY: Duration = Duration::from_secs(1);

/// The state of one import.
pub struct Resume {
    path: PathBuf,
    state: State,
    saved: Instant,
}

#[derive(Clone, Serialize, Deserialize)]
struct State {
    /// The target's log.
    log: String,
    /// Which import it is; see [`name_of`].
    import: String,
    events_done: u64,
}

impl Resume {
    /// What an earlier run of the same import into the same log left.
    pub fn open(arguments: &ImportArguments, map: &str, log: &str) -> Result<Self> {
        let import = name_of(arguments, map)?;
        let path = match &arguments.state {
            Some(path) => path.clone(),
            None => {
                let name = xxhash_rust::xxh3::xxh3_64(format!("{import}|{}", arguments.to).as_bytes());
                PathBuf::from(format!(".selvedge-import-{name:016x}.json"))
            }
        };
        // What both sides say is asked of every row.
        let anew = arguments.restart || arguments.reconcile;
        let earlier = fs::read_to_string(&path).ok().filter(|_| !anew);
        let earlier = earlier
            .and_then(|text| serde_json::from_str::<State>(&text).ok())
            .filter(|state| state.log == log && state.import == import);
        let state = earlier.unwrap_or_else(|| State { log: log.to_owned(), import, events_done: 0 });
        if state.events_done > 0 {
            eprintln!("Going on after {} events that arrived before ({}).", state.events_done, path.display());
        }
        Ok(Self { path, state, saved: Instant::now() })
    }

    /// Events that need not be sent again.
    pub fn events_done(&self) -> u64 {
        self.state.events_done
    }

    /// So many more events are durable.
    pub fn advance(&mut self, events: u64) -> Result<()> {
        self.state.events_done += events;
        if self.saved.elapsed() >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Writes the state; a reader finds the old or the new one, never half of either.
    pub fn save(&mut self) -> Result<()> {
        self.saved = Instant::now();
        if self.state.events_done == 0 {
            return Ok(());
        }
        let fresh = self.path.with_extension("json.new");
        let text = serde_json::to_string(&self.state)?;
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.path))
            .with_context(|| format!("write {}; give another place with --state", self.path.display()))
    }

    /// The import is complete: there is nothing to go on with.
    pub fn done(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// One name for each file as it is and map: the state of another import says nothing of this one.
fn name_of(arguments: &ImportArguments, map: &str) -> Result<String> {
    let file = fs::canonicalize(&arguments.file).with_context(|| format!("read {}", arguments.file.display()))?;
    let metadata = fs::metadata(&file).with_context(|| format!("read {}", file.display()))?;
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let as_of = arguments.as_of.as_deref().unwrap_or_default();
    let key = format!("{}|{}|{modified:?}|{map}|{as_of}", file.display(), metadata.len());
    Ok(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(key.as_bytes())))
}
