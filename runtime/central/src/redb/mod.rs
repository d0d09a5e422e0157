//! The embedded store, on redb.
//!
//! Stored keys: `meta` holds the log's id and format, and the notes of a process that appends alone; `heads` holds (epoch, head) by shard and `trimmed` the
//! sequence up to which entries are gone; each table `log-N` holds entries by (shard, sequence), and `segments` says by (shard, N) with which sequence a
//! shard begins in it and how many bytes it has there. A segment is closed once it has grown to its bound, so that old entries go
//! by dropping whole tables: removing rows from redb is slow and leaves holes.
//!
//! An entry's value is a tag, for [`NUMBERED`] the origin and its number, then the change's bytes.
//!
//! What a process that appends alone has made durable may stand in `journal` first, see [`journal`]; whoever opens the
//! file settles it.
//!
//! [`RedbLog`] and [`RedbCentral`] share these tables, so a centre can open what an edge with its embedded centre has written. What the
//! centre keeps besides stands in [`central`].

mod backup;
mod central;
mod ids;
mod journal;
mod keep;
mod local;
mod queue;
mod segments;
mod writer;

use std::path::Path;

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use selvedge_core::sync::Origin;

use crate::LogError;

pub use self::central::{CentralOptions, DigestOf, RedbCentral};
pub use self::local::{Noted, RedbLog};

const FORMAT: u32 = 2;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const HEADS: TableDefinition<u16, (u32, u64)> = TableDefinition::new("heads");
const TRIMMED: TableDefinition<u16, u64> = TableDefinition::new("trimmed");
const SEGMENTS: TableDefinition<(u16, u32), (u64, u64)> = TableDefinition::new("segments");
type Log<'a> = TableDefinition<'a, (u16, u64), &'static [u8]>;

/// An entry that nobody numbered.
const PLAIN: u8 = 0;
/// An entry with origin and number, eight bytes each.
const NUMBERED: u8 = 1;

fn segment_name(segment: u32) -> String {
    format!("log-{segment:06}")
}

fn store(error: impl std::fmt::Display) -> LogError {
    LogError::Store(error.to_string())
}

fn corrupt(what: &str) -> LogError {
    LogError::Store(format!("{what} is corrupt; restore a backup"))
}

/// Puts an entry's value together, in place of what the buffer held.
fn encode_entry(out: &mut Vec<u8>, origin: Origin, number: u64, change: &[u8]) {
    out.clear();
    if origin == Origin::CENTRE && number == 0 {
        out.push(PLAIN);
    } else {
        out.push(NUMBERED);
        out.extend_from_slice(&origin.0.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(change);
}

/// Takes an entry's value apart.
fn decode_entry(value: &[u8]) -> Result<(Origin, u64, &[u8]), LogError> {
    match value.split_first() {
        Some((&PLAIN, change)) => Ok((Origin::CENTRE, 0, change)),
        Some((&NUMBERED, rest)) => {
            let (origin, rest) = rest.split_first_chunk().ok_or_else(|| corrupt("an entry"))?;
            let (number, change) = rest.split_first_chunk().ok_or_else(|| corrupt("an entry"))?;
            Ok((Origin(u64::from_le_bytes(*origin)), u64::from_le_bytes(*number), change))
        }
        _ => Err(corrupt("an entry")),
    }
}

/// Opens or creates a file, and settles what stands in its journal into segments of about so many bytes; gives its id.
fn open(path: &Path, fresh_id: &str, cache_bytes: usize, segment_bytes: u64) -> Result<(Database, String), LogError> {
    let database = Database::builder().set_cache_size(cache_bytes).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => LogError::InUse(path.display().to_string()),
        other => LogError::Store(format!("{}: {other}", path.display())),
    })?;
    let write = database.begin_write().map_err(store)?;
    let id = {
        let mut meta = write.open_table(META).map_err(store)?;
        let known = meta.get("id").map_err(store)?.map(|id| String::from_utf8_lossy(id.value()).into_owned());
        match known {
            Some(id) => {
                let format = meta.get("format").map_err(store)?.and_then(|bytes| bytes.value().try_into().ok());
                let format = format.map_or(0, u32::from_be_bytes);
                if format != FORMAT {
                    return Err(LogError::Format(path.display().to_string(), format, FORMAT));
                }
                id
            }
            None => {
                meta.insert("id", fresh_id.as_bytes()).map_err(store)?;
                meta.insert("format", FORMAT.to_be_bytes().as_slice()).map_err(store)?;
                fresh_id.to_owned()
            }
        }
    };
    write.open_table(HEADS).map_err(store)?;
    write.open_table(TRIMMED).map_err(store)?;
    write.open_table(SEGMENTS).map_err(store)?;
    journal::create(&write)?;
    keep::create(&write)?;
    write.commit().map_err(store)?;
    journal::recover(&database, segment_bytes)?;
    Ok((database, id))
}

fn read_meta(database: &Database, key: &str) -> Result<Option<Vec<u8>>, LogError> {
    let read = database.begin_read().map_err(store)?;
    let meta = read.open_table(META).map_err(store)?;
    Ok(meta.get(key).map_err(store)?.map(|value| value.value().to_vec()))
}

/// Up to where a shard is trimmed.
fn read_trimmed(read: &ReadTransaction, shard: u16) -> Result<u64, LogError> {
    let trimmed = read.open_table(TRIMMED).map_err(store)?;
    Ok(trimmed.get(shard).map_err(store)?.map_or(0, |up_to| up_to.value()))
}

/// Gives the entries of a shard after a sequence, in order, until it is told to stop.
fn for_entries(
    read: &ReadTransaction,
    shard: u16,
    after: u64,
    mut take: impl FnMut(u64, Origin, u64, &[u8]) -> Result<bool, LogError>,
) -> Result<(), LogError> {
    let segments = read.open_table(SEGMENTS).map_err(store)?;
    let Some(first) = after.checked_add(1) else { return Ok(()) };
    // The last segment that begins at or before the first wanted entry, and all behind it.
    let mut wanted = Vec::new();
    for row in segments.range((shard, 0)..=(shard, u32::MAX)).map_err(store)?.rev() {
        let (key, span) = row.map_err(store)?;
        wanted.push(key.value().1);
        if span.value().0 <= first {
            break;
        }
    }
    for segment in wanted.into_iter().rev() {
        let name = segment_name(segment);
        let table = read.open_table(Log::new(&name)).map_err(store)?;
        for row in table.range((shard, first)..=(shard, u64::MAX)).map_err(store)? {
            let (key, value) = row.map_err(store)?;
            let (origin, number, change) = decode_entry(value.value())?;
            if !take(key.value().1, origin, number, change)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
