//! Where a publisher keeps what it publishes: the control shard of a log, the texts beside it, and a few notes. The log is a centre's, or that of an edge
//! which is its own centre.

use std::sync::Arc;

use anyhow::{Result, bail};
use selvedge_central::{CONTROL, CentralLog, LogError, Read, RedbLog};
use selvedge_core::change::Change;

use crate::central::releases::append;
use crate::release::Hash;

/// Bytes of the control shard's log that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// The log behind a publisher.
pub enum Store {
    /// This process's own.
    Own(Arc<RedbLog>),
    /// A centre's; other centres may write to it too.
    Centre(Arc<dyn CentralLog>),
}

impl Store {
    /// The entries of the control shard behind one, with their places. One that cannot be read stands as none: what this build does not know is for others.
    pub async fn behind(&self, mut after: u64) -> Result<Vec<(u64, Option<Change>)>, LogError> {
        let mut all = Vec::new();
        loop {
            let before = all.len();
            match self {
                Self::Centre(log) => {
                    let Read::Entries { entries, .. } = log.read(CONTROL, after, READ_BYTES).await? else { break };
                    all.extend(entries.iter().map(|entry| (entry.seq, Change::decode(&entry.bytes).ok())));
                }
                Self::Own(log) => {
                    let log = Arc::clone(log);
                    let entries = blocking(move || log.read(CONTROL, after, READ_BYTES)).await?;
                    all.extend(entries.iter().map(|entry| (entry.seq, Change::decode(&entry.bytes).ok())));
                }
            }
            if all.len() == before {
                break;
            }
            after = all.last().map_or(after, |(seq, _)| *seq);
        }
        Ok(all)
    }

    /// Appends an entry to the control shard, durably. Gives its place.
    pub async fn append(&self, change: &Change, after: u64) -> Result<u64> {
        match self {
            Self::Centre(log) => {
                let places = append(&**log, &[(CONTROL, change.clone())]).await?;
                Ok(places.first().map_or(0, |place| place.seq))
            }
            Self::Own(log) => {
                log.append(vec![(CONTROL, vec![change.encode().into()])])?;
                log.barrier().wait().await?;
                let behind = self.behind(after).await?;
                let Some((seq, _)) = behind.iter().rev().find(|(_, entry)| entry.as_ref() == Some(change)) else {
                    bail!("the log does not have what was appended to it");
                };
                Ok(*seq)
            }
        }
    }

    /// Keeps a text under its hash.
    pub async fn put_text(&self, hash: Hash, text: &str) -> Result<(), LogError> {
        let bytes = text.as_bytes().to_vec();
        match self {
            Self::Centre(log) => log.put_blob(hash, bytes).await,
            Self::Own(log) => {
                let log = Arc::clone(log);
                blocking(move || log.put_blob(hash, &bytes)).await
            }
        }
    }

    /// A text that is kept.
    pub async fn text(&self, hash: Hash) -> Result<Option<String>, LogError> {
        let bytes = match self {
            Self::Centre(log) => log.blob(hash).await?,
            Self::Own(log) => {
                let log = Arc::clone(log);
                blocking(move || log.blob(hash)).await?
            }
        };
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|error| LogError::Store(format!("what is kept as a text is none: {error}")))
    }

    /// A note.
    pub async fn note(&self, name: &'static str) -> Result<Option<Vec<u8>>, LogError> {
        match self {
            Self::Centre(log) => log.note(name).await,
            Self::Own(log) => {
                let log = Arc::clone(log);
                blocking(move || log.centre_note(name)).await
            }
        }
    }

    /// Keeps a note, or forgets it where there is nothing to keep.
    pub async fn put_note(&self, name: &'static str, bytes: Option<Vec<u8>>) -> Result<(), LogError> {
        match (self, bytes) {
            (Self::Centre(log), Some(bytes)) => log.put_note(name, bytes).await,
            (Self::Centre(log), None) => log.remove_note(name).await,
            (Self::Own(log), bytes) => {
                let log = Arc::clone(log);
                blocking(move || match bytes {
                    Some(bytes) => log.put_centre_note(name, &bytes),
                    None => log.remove_centre_note(name),
                })
                .await
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(LogError::Closed))
}
