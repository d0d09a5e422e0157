//! A consistent copy of the file while it serves. A centre writes no journal, and what an edge left in one was settled
//! when the file was opened, so there is none to copy.

use std::borrow::Borrow;
use std::fs::File;
use std::path::Path;

use redb::{Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value};
use selvedge_core::identity::ShardId;
use selvedge_core::view::Cursor;

use super::central::RedbCentral;
use super::ids::{INDEXED, RUNS, Run, run_name};
use super::keep::{BLOBS, CHUNKS, NOTES, SNAPSHOTS};
use super::writer::{SUMS, WATERMARKS};
use super::{HEADS, Log, META, SEGMENTS, TRIMMED, segment_name, store};
use crate::LogError;
use crate::central::Progress;

/// In `meta`: this file is a backup, and nobody has opened it since.
const BACKUP: &str = "backup";
/// Rows' bytes that one commit copies, about.
const COMMIT_BYTES: u64 = 8 * 1024 * 1024;
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Whether a file is a backup that is opened for the first time.
pub(super) fn is_backup(database: &Database) -> Result<bool, LogError> {
    let read = database.begin_read().map_err(store)?;
    let meta = read.open_table(META).map_err(store)?;
    Ok(meta.get(BACKUP).map_err(store)?.is_some())
}

/// Makes a backup a log like any other.
pub(super) fn adopt(database: &Database) -> Result<(), LogError> {
    let write = database.begin_write().map_err(store)?;
    write.open_table(META).map_err(store)?.remove(BACKUP).map_err(store)?;
    write.commit().map_err(store)
}

/// Copies everything that a transaction sees into a fresh file, and makes it durable; gives the heads.
pub(super) fn copy(
    read: &ReadTransaction,
    to: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Vec<(ShardId, Cursor)>, LogError> {
    let failed = |error: std::io::Error| LogError::Unsupported(format!("{}: {error}", to.display()));
    if to.exists() {
        return Err(LogError::Unsupported(format!("{} exists; name a file that does not", to.display())));
    }
    let part = to.with_extension("part");
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut heads = Vec::new();
    for row in read.open_table(HEADS).map_err(store)?.iter().map_err(store)? {
        let (shard, head) = row.map_err(store)?;
        let (epoch, seq) = head.value();
        heads.push((ShardId(shard.value()), Cursor { epoch, seq }));
    }
    let mut segments: Vec<u32> = Vec::new();
    let mut total = 0;
    for row in read.open_table(SEGMENTS).map_err(store)?.iter().map_err(store)? {
        let (key, span) = row.map_err(store)?;
        segments.push(key.value().1);
        total += span.value().1;
    }
    segments.sort_unstable();
    segments.dedup();
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(&part).map_err(failed_copy)?;
    let mut copy = Copy { read, database: &database, progress, at: Progress { done: 0, total } };
    copy.table(META)?;
    copy.table(HEADS)?;
    copy.table(TRIMMED)?;
    copy.table(SEGMENTS)?;
    copy.table(SUMS)?;
    copy.table(WATERMARKS)?;
    copy.table(INDEXED)?;
    copy.table(RUNS)?;
    copy.table(SNAPSHOTS)?;
    copy.table(CHUNKS)?;
    copy.table(BLOBS)?;
    copy.table(NOTES)?;
    for row in read.open_table(RUNS).map_err(store)?.iter().map_err(store)? {
        copy.table(Run::new(&run_name(row.map_err(store)?.0.value())))?;
    }
    for segment in segments {
        copy.table(Log::new(&segment_name(segment)))?;
    }
    let write = database.begin_write().map_err(failed_copy)?;
    write.open_table(META).map_err(failed_copy)?.insert(BACKUP, [].as_slice()).map_err(failed_copy)?;
    write.commit().map_err(failed_copy)?;
    drop(database);
    File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, to).map_err(failed)?;
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok(heads)
}

/// A failure of the copy: the log itself is well.
fn failed_copy(error: impl std::fmt::Display) -> LogError {
    LogError::Unsupported(format!("the backup failed: {error}"))
}

struct Copy<'a> {
    read: &'a ReadTransaction,
    database: &'a Database,
    progress: &'a mut (dyn FnMut(Progress) + Send),
    at: Progress,
}

impl Copy<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), LogError> {
        let from = self.read.open_table(definition).map_err(store)?;
        let mut rows = from.iter().map_err(store)?;
        let mut more = true;
        while more {
            more = false;
            let write = self.database.begin_write().map_err(failed_copy)?;
            let mut to = write.open_table(definition).map_err(failed_copy)?;
            let mut bytes = 0;
            for row in rows.by_ref() {
                let (key, value) = row.map_err(store)?;
                bytes += V::as_bytes(value.value().borrow()).as_ref().len() as u64;
                to.insert(key.value(), value.value()).map_err(failed_copy)?;
                if bytes >= COMMIT_BYTES {
                    more = true;
                    break;
                }
            }
            drop(to);
            write.commit().map_err(failed_copy)?;
            self.at.done += bytes;
            self.at.total = self.at.total.max(self.at.done);
            (self.progress)(self.at);
        }
        Ok(())
    }
}

impl RedbCentral {
    /// Puts a backup in the place of a log that is lost. Opening it then begins another epoch, so that edges tell again what it does not hold.
    pub fn restore(backup: &Path, to: &Path) -> Result<(), LogError> {
        let failed = |error: std::io::Error| LogError::Unsupported(format!("{}: {error}", to.display()));
        if to.exists() {
            return Err(LogError::Unsupported(format!("{} exists; move it away first", to.display())));
        }
        let part = to.with_extension("part");
        std::fs::copy(backup, &part).map_err(failed)?;
        {
            let database = Database::open(&part).map_err(failed_copy)?;
            let write = database.begin_write().map_err(failed_copy)?;
            write.open_table(META).map_err(failed_copy)?.insert(BACKUP, [].as_slice()).map_err(failed_copy)?;
            write.commit().map_err(failed_copy)?;
        }
        File::open(&part).and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(&part, to).map_err(failed)?;
        if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(())
    }
}
