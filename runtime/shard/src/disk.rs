//! The shards on disk: the only module that names sled.
//!
//! Stored keys, in one tree a shard, so that one batch carries data and cursor:
//!
//! | key | value |
//! |---|---|
//! | `c` | the cursor: up to where the log is folded in |
//! | `k` | the checksum of the log up to there |
//! | `o` origin | the last change of an origin that is in: its number, its sequence |
//! | `f` identifier `0` part | the folded fragment, cut into parts of 4 KiB |
//! | `g` identifier `0` seq | what a small change after it has touched, and the entries that did it |
//! | `h` identifier `0` seq part | a block of history: changes from this sequence on, cut likewise |
//! | `i` identifier `0` hash | for each event's id, the sequence at which it was seen, or withdrawn before |
//!
//! Update rule: the cursor moves in the very batch that carries the data up to it, and only forwards. What a write is cut off from by a
//! crash is written again from the log: blocks may then overlap, and a reader takes each sequence once. The first part of a value says how
//! many there are: later ones are left over from a longer value, whose removal a crash cut off. The parts of one value
//! never stand in two batches. What lies on a record is history too, and its ids are known, until the record is written anew. sled is a cache that the log can rebuild, never the only copy of anything: its flush issues no
//! fsync. A directory that does not open is put aside and rebuilt.
//!
//! Known limits: values of about 4 KiB at most (larger ones become files that sled writes without care), batches of 256 operations
//! (a batch holds a process-wide lock).

mod batch;
mod behind;
mod blocks;
mod place;
mod trees;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use selvedge_core::activation::Layout;
use selvedge_core::change::ChangeError;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, SHARDS, ShardId};
use selvedge_core::view::Seen;

use self::batch::{Batch, key, part_key, seen_key, split_count};
use self::behind::{Behind, Writer};
use self::trees::{Current, Replaced};
use crate::ShardError;
use crate::block::History;
use crate::overlay;
use crate::record::{self, Head, Record};

pub(crate) use self::place::Move;
pub(crate) use self::trees::{Fresh, Row};

/// Events of a fragment after which its loose blocks of history are packed.
const PACK_EVERY: u64 = 16;
const CACHE_BYTES: u64 = 24 * 1024 * 1024;
/// How long to wait for whoever has the directory open.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOG_ID: &[u8] = b"log-id";
/// Under this key, the layout that every record has.
const SETTLED: &[u8] = b"settled";
/// The form of rows and records; raised when either changes, so that older ones are rebuilt and never misread.
pub(crate) const FORMAT: u32 = 6;

const FRAGMENT: u8 = b'f';
const OVERLAY: u8 = b'g';
const HISTORY: u8 = b'h';
const SEEN: u8 = b'i';

/// All shards' trees in one sled directory.
pub(crate) struct Disk {
    database: sled::Db,
    trees: Vec<RwLock<Current>>,
    replaced: Mutex<Vec<Replaced>>,
    behind: Vec<Mutex<Behind>>,
    /// Bytes that may wait to be written of one shard, about.
    behind_bytes_max: usize,
    writer: Arc<Writer>,
    path: PathBuf,
}

/// Bytes of what is stored, by what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub struct Storage {
    pub fragments: u64,
    pub state_bytes: u64,
    pub history_bytes: u64,
    pub id_bytes: u64,
}

/// One fragment's part of a write.
pub(crate) struct FragmentWrite<'a> {
    pub(crate) identifier: &'a Identifier,
    /// The layout in force; states that wait for their history say so themselves.
    pub(crate) layout: &'a Layout,
    /// The last change folded in.
    pub(crate) seq: u64,
    /// The fragment without the changes, if it is at hand.
    pub(crate) before: Option<&'a Fragment>,
    pub(crate) fragment: &'a Arc<Fragment>,
    /// The changes to add to its history.
    pub(crate) entries: Vec<HistoryEntry>,
    /// The ids of all its events, if they are at hand.
    pub(crate) seen: Option<Arc<Seen>>,
}

/// A fragment's record as it was found, with what lies on it.
pub(crate) struct Kept {
    /// The layout of its states, and the last change in it.
    pub(crate) head: Head,
    form: Form,
}

enum Form {
    /// It waits to be written.
    Unwritten(Arc<Fragment>, Option<Arc<Seen>>),
    Written {
        bytes: Vec<u8>,
        overlays: Vec<sled::IVec>,
    },
}

impl Kept {
    /// The state. Its form may differ under another engine: the head is looked at first.
    pub(crate) fn fragment(self) -> Result<Arc<Fragment>, ShardError> {
        match self.form {
            Form::Unwritten(fragment, _) => Ok(fragment),
            Form::Written { bytes, overlays } => {
                let (_, mut fragment) = record::decode(&bytes)?;
                overlays.iter().try_for_each(|row| overlay::lay(row, &mut fragment))?;
                Ok(Arc::new(fragment))
            }
        }
    }

    /// The ids of its events, and maybe others; none where they are to be read from their rows.
    pub(crate) fn seen(&self) -> Result<Option<Arc<Seen>>, ShardError> {
        match &self.form {
            Form::Unwritten(_, seen) => Ok(seen.clone()),
            Form::Written { bytes, overlays } => {
                let Some(heads) = record::seen(&self.head, bytes)? else { return Ok(None) };
                let seen = Seen::from(heads);
                for row in overlays {
                    overlay::entries(row)?.filter_map(|entry| entry.id_hash).for_each(|id_hash| seen.insert(&id_hash));
                }
                Ok(Some(Arc::new(seen)))
            }
        }
    }

    /// The record as it would be written whole; see [`Self::fragment`].
    pub(crate) fn bytes(self) -> Result<Vec<u8>, ShardError> {
        match self.form {
            Form::Written { bytes, overlays } if overlays.is_empty() => Ok(bytes),
            form => {
                let kept = Self { head: self.head, form };
                let (layout, seq, seen) = (kept.head.layout.clone(), kept.head.seq, kept.seen()?);
                let fragment = kept.fragment()?;
                Record { layout: &layout, seq, fragment: &fragment, seen: seen.as_deref() }.encode()
            }
        }
    }
}

/// One change of a fragment's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistoryEntry {
    pub(crate) seq: u64,
    /// As it stands in the log; none where the history does not keep it.
    pub(crate) bytes: Option<std::sync::Arc<[u8]>>,
    /// Of an event: the hash of its id.
    pub(crate) id_hash: Option<[u8; 16]>,
    /// The ids of events that it withdraws.
    pub(crate) withdraws: Option<std::sync::Arc<[[u8; 16]]>>,
}

impl Disk {
    /// Opens the shards of a log. A directory that sled cannot open is put aside; one of another log is emptied. About `behind_bytes` may wait to be written.
    pub(crate) fn open(path: &Path, log_id: &str, behind_bytes: u64) -> Result<Self, ShardError> {
        let mut disk = match Self::open_when_free(path) {
            Ok(disk) => disk,
            // A full disk, or somebody else's lock, damages nothing.
            Err(error) if error.to_string().contains("os error 28") || is_locked(&error) => return Err(error),
            Err(error) => {
                let aside = set_aside(path)?;
                tracing::error!(%error, aside = %aside.display(), "the shards on disk do not open; they are put aside and rebuilt from the log");
                Self::open_as_it_is(path)?
            }
        };
        disk.behind_bytes_max = usize::try_from(behind_bytes).unwrap_or(usize::MAX) / usize::from(SHARDS);
        let known = disk.database.get(LOG_ID)?;
        let own = format!("{log_id}/{FORMAT}");
        if known.as_deref() != Some(own.as_bytes()) {
            if known.is_some() {
                tracing::warn!(
                    "the shards on disk are of another log, or in another form; they are rebuilt from the log"
                );
            }
            for shard in ShardId::all() {
                disk.clear(shard)?;
            }
            disk.database.insert(LOG_ID, own.as_bytes())?;
        }
        Ok(disk)
    }

    /// Opens the directory, once whoever had it open has let go: sled does so a moment after it is dropped.
    fn open_when_free(path: &Path) -> Result<Self, ShardError> {
        let started = Instant::now();
        loop {
            match Self::open_as_it_is(path) {
                Err(error) if is_locked(&error) && started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    fn open_as_it_is(path: &Path) -> Result<Self, ShardError> {
        // sled panics on some kinds of damage.
        let opened = std::panic::catch_unwind(|| -> Result<Self, ShardError> {
            let database =
                sled::Config::new().path(path).cache_capacity(CACHE_BYTES).mode(sled::Mode::LowSpace).open()?;
            let trees = trees::open(&database)?.into_iter().map(RwLock::new).collect();
            let behind = ShardId::all().map(|_| Mutex::default()).collect();
            let (replaced, writer, path) = (Mutex::default(), Arc::default(), path.to_owned());
            Ok(Self { database, trees, replaced, behind, behind_bytes_max: 0, writer, path })
        });
        opened.unwrap_or_else(|_| Err(ShardError::Disk("sled panicked while opening".into())))
    }

    /// A fragment's record; none where nothing is known.
    pub(crate) fn record(&self, identifier: &Identifier) -> Result<Option<Kept>, ShardError> {
        if let Some(unwritten) = self.behind(identifier.shard()).get(identifier) {
            let fragment = Arc::clone(&unwritten.fragment);
            let head = Head::of(&unwritten.layout, unwritten.seq, &fragment);
            return Ok(Some(Kept { head, form: Form::Unwritten(fragment, unwritten.seen.clone()) }));
        }
        self.record_as_written(identifier)
    }

    /// The same without what waits.
    fn record_as_written(&self, identifier: &Identifier) -> Result<Option<Kept>, ShardError> {
        let tree = self.tree(identifier.shard());
        let Some(first) = tree.get(part_key(FRAGMENT, identifier, None, 0))? else { return Ok(None) };
        let corrupt = || ShardError::Corrupt(identifier.to_string());
        let (parts, head) = split_count(&first).ok_or_else(corrupt)?;
        let mut bytes = head.to_vec();
        for part in 1..parts {
            bytes.extend_from_slice(&tree.get(part_key(FRAGMENT, identifier, None, part))?.ok_or_else(corrupt)?);
        }
        let mut head = Head::decode(&bytes)?;
        let mut overlays = self.overlays(identifier)?;
        overlays.retain(|(seq, _)| *seq > head.seq);
        head.seq = overlays.last().map_or(head.seq, |(seq, _)| *seq);
        let overlays = overlays.into_iter().map(|(_, row)| row).collect();
        Ok(Some(Kept { head, form: Form::Written { bytes, overlays } }))
    }

    /// What lies on a fragment's record, or has lain on an earlier one, by the last change in it.
    fn overlays(&self, identifier: &Identifier) -> Result<Vec<(u64, sled::IVec)>, ShardError> {
        let prefix = key(OVERLAY, identifier);
        let row = |row: Result<(sled::IVec, sled::IVec), sled::Error>| {
            let (row_key, value) = row?;
            let seq = row_key[prefix.len()..].try_into().map(u64::from_be_bytes);
            Ok((seq.map_err(|_| ShardError::Corrupt(identifier.to_string()))?, value))
        };
        self.tree(identifier.shard()).scan_prefix(&prefix).map(row).collect()
    }

    /// The entries that lie on a fragment's record, ascending.
    fn entries_above(&self, identifier: &Identifier) -> Result<Vec<HistoryEntry>, ShardError> {
        let mut entries = Vec::new();
        for (_, row) in self.overlays(identifier)? {
            entries.extend(overlay::entries(&row)?);
        }
        Ok(entries)
    }

    /// The layout that all records have, as its bytes; none where some may have another one.
    pub(crate) fn settled(&self) -> Result<Option<Vec<u8>>, ShardError> {
        Ok(self.database.get(SETTLED)?.map(|layout| layout.to_vec()))
    }

    /// Keeps which layout all records have.
    pub(crate) fn settle(&self, layout: Option<&[u8]>) -> Result<(), ShardError> {
        match layout {
            Some(layout) => drop(self.database.insert(SETTLED, layout)?),
            None => drop(self.database.remove(SETTLED)?),
        }
        Ok(())
    }

    /// Hands over the heads of a shard's records after an identifier, as they were written, until it is told to stop. Each row is read by itself: none is half a write.
    /// A row that is not one of a record is passed over; whoever asks for its fragment is told.
    pub(crate) fn heads(
        &self,
        shard: ShardId,
        after: Option<&Identifier>,
        mut take: impl FnMut(Identifier, Head) -> bool,
    ) -> Result<(), ShardError> {
        self.drain_shard(shard)?;
        let from = after.map_or_else(|| vec![FRAGMENT], |after| part_key(FRAGMENT, after, None, u16::MAX));
        for row in self.tree(shard).range(from..vec![FRAGMENT + 1]) {
            let (row_key, value) = row?;
            let head = || {
                let (text, part) = row_key[1..].split_last_chunk::<3>()?;
                let text = std::str::from_utf8(text).ok().filter(|_| *part == [0, 0, 0])?;
                let (_, head) = split_count(&value)?;
                Some((Identifier::stored(text).ok()?, Head::decode(head).ok()?))
            };
            let Some((identifier, head)) = head() else { continue };
            if !take(identifier, head) {
                break;
            }
        }
        Ok(())
    }

    /// Puts records of one shard in place of those that hold the same changes, each whole in one batch.
    pub(crate) fn replace<'r>(
        &self,
        shard: ShardId,
        records: impl Iterator<Item = (&'r Identifier, Record<'r>)>,
    ) -> Result<(), ShardError> {
        let tree = self.tree(shard);
        let mut batch = Batch::new(&tree);
        for (identifier, record) in records {
            self.drain_fragment(identifier)?;
            self.behind(shard).standing.remove(identifier);
            let seen = self.record_as_written(identifier)?.map_or(Ok(None), |kept| kept.seen())?;
            let record = Record { seen: seen.as_deref(), ..record };
            batch.insert_parts(FRAGMENT, identifier, None, &record.encode()?)?;
        }
        batch.flush()
    }

    /// The head of a fragment's record, without the rest; none where nothing is known.
    pub(crate) fn head(&self, identifier: &Identifier) -> Result<Option<Head>, ShardError> {
        self.drain_fragment(identifier)?;
        let Some(mut head) = self.head_as_written(identifier)? else { return Ok(None) };
        let above = self.overlays(identifier)?.last().map(|(seq, _)| *seq);
        head.seq = above.map_or(head.seq, |above| above.max(head.seq));
        Ok(Some(head))
    }

    /// The same of the record alone, whatever lies on it.
    fn head_as_written(&self, identifier: &Identifier) -> Result<Option<Head>, ShardError> {
        let first = self.tree(identifier.shard()).get(part_key(FRAGMENT, identifier, None, 0))?;
        let Some(first) = first else { return Ok(None) };
        let (_, head) = split_count(&first).ok_or_else(|| ShardError::Corrupt(identifier.to_string()))?;
        Head::decode(head).map(Some)
    }

    /// The sequence at which an event's id was seen.
    pub(crate) fn seen(&self, identifier: &Identifier, id_hash: &[u8; 16]) -> Result<Option<u64>, ShardError> {
        let of = |entry: &HistoryEntry| (entry.id_hash.as_ref() == Some(id_hash)).then_some(entry.seq);
        let waits = self.behind(identifier.shard()).get(identifier).and_then(|new| new.entries.iter().find_map(of));
        let written = match self.seen_on_disk(identifier, id_hash)? {
            Some(seq) => Some(seq),
            None => self.entries_above(identifier)?.iter().find_map(of),
        };
        Ok(written.or(waits))
    }

    /// The same in the rows of ids.
    fn seen_on_disk(&self, identifier: &Identifier, id_hash: &[u8; 16]) -> Result<Option<u64>, ShardError> {
        let seq = self.tree(identifier.shard()).get(seen_key(identifier, id_hash))?;
        Ok(seq.and_then(|seq| seq.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    /// The ids of all its events.
    pub(crate) fn all_seen(&self, identifier: &Identifier) -> Result<Seen, ShardError> {
        Ok(self.ids(identifier)?.into_iter().map(|(id_hash, _)| id_hash).collect())
    }

    /// A fragment's history, as it is stored.
    pub(crate) fn history(&self, identifier: &Identifier) -> Result<History, ShardError> {
        Ok(History::new(identifier.clone(), self.blocks(identifier)?))
    }

    /// The ids of all its events, ascending, with their sequences.
    pub(crate) fn ids(&self, identifier: &Identifier) -> Result<Vec<([u8; 16], u64)>, ShardError> {
        let prefix = key(SEEN, identifier);
        let tree = self.tree(identifier.shard());
        let id = |row: Result<(sled::IVec, sled::IVec), sled::Error>| {
            let (row_key, seq) = row?;
            let id_hash = row_key[prefix.len()..].try_into().ok();
            let seq = seq.as_ref().try_into().ok().map(u64::from_be_bytes);
            id_hash.zip(seq).ok_or_else(|| ShardError::Corrupt(identifier.to_string()))
        };
        let mut waits = Vec::new();
        if let Some(unwritten) = self.behind(identifier.shard()).get(identifier) {
            waits.extend(unwritten.entries.iter().filter_map(|entry| Some((entry.id_hash?, entry.seq))));
        }
        let ids: Vec<([u8; 16], u64)> = tree.scan_prefix(&prefix).map(id).collect::<Result<_, _>>()?;
        let above = self.entries_above(identifier)?;
        if above.is_empty() && waits.is_empty() {
            return Ok(ids);
        }
        let mut all: BTreeMap<[u8; 16], u64> = ids.into_iter().collect();
        let above = above.into_iter().filter_map(|entry| Some((entry.id_hash?, entry.seq)));
        for (id_hash, seq) in above.chain(waits) {
            all.entry(id_hash).or_insert(seq);
        }
        Ok(all.into_iter().collect())
    }

    /// The next identifiers of a shard that have records, ascending, up to so many.
    pub(crate) fn identifiers(
        &self,
        shard: ShardId,
        after: Option<&Identifier>,
        most: usize,
    ) -> Result<Vec<Identifier>, ShardError> {
        self.drain_shard(shard)?;
        let from = after.map_or_else(|| vec![FRAGMENT], |after| part_key(FRAGMENT, after, None, u16::MAX));
        let mut found = Vec::new();
        for row in self.tree(shard).range(from..vec![FRAGMENT + 1]).keys() {
            let row_key = row?;
            let Some((text, [0, 0, 0])) = row_key[1..].split_last_chunk::<3>() else { continue };
            let text = std::str::from_utf8(text).ok().and_then(|text| Identifier::stored(text).ok());
            found.push(text.ok_or_else(|| ShardError::Corrupt(format!("an identifier of shard {}", shard.0)))?);
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    /// The first part of a record and how many rows lie on it, as they stand once all is written.
    #[cfg(test)]
    pub(crate) fn stored(&self, identifier: &Identifier) -> (Option<Vec<u8>>, usize) {
        self.drain_shard(identifier.shard()).expect("write");
        let row = self.tree(identifier.shard()).get(part_key(FRAGMENT, identifier, None, 0)).expect("read");
        (row.map(|row| row.to_vec()), self.overlays(identifier).expect("read").len())
    }

    /// The rows of a kind of one fragment, as they stand once all is written.
    #[cfg(test)]
    fn rows_of(&self, kind: u8, identifier: &Identifier) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.drain_shard(identifier.shard()).expect("write");
        let rows = self.tree(identifier.shard()).scan_prefix(key(kind, identifier));
        rows.flatten().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// The rows of a history, but for what lies on the record.
    #[cfg(test)]
    pub(crate) fn rows(&self, identifier: &Identifier) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows_of(HISTORY, identifier)
    }

    /// The rows of a record, whoever reads them.
    #[cfg(test)]
    pub(crate) fn record_rows(&self, identifier: &Identifier) -> Vec<Vec<u8>> {
        self.rows_of(FRAGMENT, identifier).into_iter().map(|(_, value)| value).collect()
    }

    /// Puts rows as they are.
    #[cfg(test)]
    pub(crate) fn put_rows(&self, identifier: &Identifier, rows: &[(Vec<u8>, Vec<u8>)]) {
        self.drain_shard(identifier.shard()).expect("write");
        rows.iter().for_each(|(key, value)| drop(self.tree(identifier.shard()).insert(key, value.as_slice())));
    }

    /// Writes what waits, and hands everything to the operating system. It makes recovery short; durability is the log's.
    pub(crate) fn flush(&self) -> Result<(), ShardError> {
        self.drain_all()?;
        self.database.flush()?;
        Ok(())
    }

    /// Makes everything written so far durable: sled's own flush leaves it with the operating system.
    pub(crate) fn sync(&self) -> Result<(), ShardError> {
        self.flush().map_err(|error| ShardError::NotDurable(error.to_string()))?;
        let failed =
            |what: &Path, error: std::io::Error| ShardError::NotDurable(format!("{}: {error}", what.display()));
        // Large pages stand in files of their own.
        for folder in [self.path.join("blobs"), self.path.clone()] {
            let Ok(files) = std::fs::read_dir(&folder) else { continue };
            for file in files.flatten().filter(|file| file.file_type().is_ok_and(|kind| kind.is_file())) {
                match std::fs::File::open(file.path()).and_then(|file| file.sync_all()) {
                    // sled puts newer ones in the place of older ones meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    outcome => outcome.map_err(|error| failed(&file.path(), error))?,
                }
            }
            let synced = std::fs::File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| failed(&folder, error))?;
        }
        Ok(())
    }

    /// Bytes of all rows by what they are for, keys included. Reads everything.
    pub(crate) fn storage(&self) -> Result<Storage, ShardError> {
        let mut storage = Storage::default();
        self.drain_all()?;
        for shard in ShardId::all() {
            let tree = self.tree(shard);
            for row in tree.iter() {
                let (key, value) = row?;
                let bytes = (key.len() + value.len()) as u64;
                match key.first() {
                    Some(&FRAGMENT) => {
                        storage.fragments += u64::from(key.ends_with(&[0, 0, 0]));
                        storage.state_bytes += bytes;
                    }
                    Some(&OVERLAY) => storage.state_bytes += bytes,
                    Some(&HISTORY) => storage.history_bytes += bytes,
                    Some(&SEEN) => storage.id_bytes += bytes,
                    _ => {}
                }
            }
        }
        Ok(storage)
    }

    /// Bytes on disk.
    pub(crate) fn size_on_disk(&self) -> u64 {
        let files = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

/// Whether somebody else has the directory open.
fn is_locked(error: &ShardError) -> bool {
    // sled says so in words only.
    error.to_string().contains("could not acquire lock")
}

/// Renames a directory that does not open, so that nothing is lost and the next start is clean.
fn set_aside(path: &Path) -> Result<PathBuf, ShardError> {
    let aside = (1..).map(|number| path.with_extension(format!("damaged-{number}"))).find(|aside| !aside.exists());
    let aside = aside.unwrap_or_else(|| path.with_extension("damaged"));
    std::fs::rename(path, &aside)
        .map_err(|error| ShardError::Disk(format!("put {} aside: {error}", path.display())))?;
    Ok(aside)
}

impl From<sled::Error> for ShardError {
    fn from(error: sled::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

impl From<ChangeError> for ShardError {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}
