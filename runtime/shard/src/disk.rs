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
//! | `g` identifier `0` | what has changed in it since, where that is little |
//! | `h` identifier `0` seq part | a block of history: changes from this sequence on, cut likewise |
//! | `i` identifier `0` hash | for each event's id, the sequence at which it was seen, or withdrawn before |
//!
//! Update rule: the cursor moves in the very batch that carries the data up to it, and only forwards. What a write is cut off from by a
//! crash is written again from the log: blocks may then overlap, and a reader takes each sequence once. The first part of a value says how
//! many there are: later ones are left over from a longer value, whose removal a crash cut off. The parts of one value
//! never stand in two batches. sled is a cache that the log can rebuild, never the only copy of anything: its flush issues no
//! fsync. A directory that does not open is put aside and rebuilt.
//!
//! Known limits: values of about 4 KiB at most (larger ones become files that sled writes without care), batches of 256 operations
//! (a batch holds a process-wide lock).

mod batch;
mod blocks;
mod place;
mod trees;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use selvedge_core::change::{Change, ChangeError};
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::view::Seen;

use self::batch::{Batch, key, part_key, seen_key, split_count};
use self::trees::{Current, Replaced};
use crate::ShardError;
use crate::block::{History, LOOSE, encode_block};
use crate::overlay::Overlay;
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
pub(crate) const FORMAT: u32 = 4;

const FRAGMENT: u8 = b'f';
const OVERLAY: u8 = b'g';
const HISTORY: u8 = b'h';
const SEEN: u8 = b'i';

/// All shards' trees in one sled directory.
pub(crate) struct Disk {
    database: sled::Db,
    trees: Vec<RwLock<Current>>,
    replaced: Mutex<Vec<Replaced>>,
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
    pub(crate) record: Record<'a>,
    /// The fragment without the changes, if it is at hand.
    pub(crate) before: Option<&'a Fragment>,
    /// The changes to add to its history.
    pub(crate) entries: &'a [HistoryEntry],
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
    /// Opens the shards of a log. A directory that sled cannot open is put aside; one of another log is emptied.
    pub(crate) fn open(path: &Path, log_id: &str) -> Result<Self, ShardError> {
        let disk = match Self::open_when_free(path) {
            Ok(disk) => disk,
            // A full disk, or somebody else's lock, damages nothing.
            Err(error) if error.to_string().contains("os error 28") || is_locked(&error) => return Err(error),
            Err(error) => {
                let aside = set_aside(path)?;
                tracing::error!(%error, aside = %aside.display(), "the shards on disk do not open; they are put aside and rebuilt from the log");
                Self::open_as_it_is(path)?
            }
        };
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
            Ok(Self { database, trees, replaced: Mutex::default(), path: path.to_owned() })
        });
        opened.unwrap_or_else(|_| Err(ShardError::Disk("sled panicked while opening".into())))
    }

    /// A fragment's record as its bytes; none where nothing is known.
    pub(crate) fn record(&self, identifier: &Identifier) -> Result<Option<Vec<u8>>, ShardError> {
        let tree = self.tree(identifier.shard());
        let Some(first) = tree.get(part_key(FRAGMENT, identifier, None, 0))? else { return Ok(None) };
        let corrupt = || ShardError::Corrupt(identifier.to_string());
        let (parts, head) = split_count(&first).ok_or_else(corrupt)?;
        let mut bytes = head.to_vec();
        for part in 1..parts {
            bytes.extend_from_slice(&tree.get(part_key(FRAGMENT, identifier, None, part))?.ok_or_else(corrupt)?);
        }
        let Some(overlay) = tree.get(key(OVERLAY, identifier))? else { return Ok(Some(bytes)) };
        let overlay = Overlay::decode(&overlay)?;
        if overlay.on == Head::decode(&bytes)?.seq {
            let (head, mut fragment) = record::decode(&bytes)?;
            let seq = overlay.seq;
            overlay.lay(&mut fragment)?;
            bytes = Record { layout: &head.layout, seq, fragment: &fragment }.encode()?;
        }
        Ok(Some(bytes))
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
            batch.insert_parts(FRAGMENT, identifier, None, &record.encode()?)?;
        }
        batch.flush()
    }

    /// The head of a fragment's record, without the rest; none where nothing is known.
    pub(crate) fn head(&self, identifier: &Identifier) -> Result<Option<Head>, ShardError> {
        let Some((mut head, overlay)) = self.head_and_overlay(identifier)? else { return Ok(None) };
        head.seq = overlay.filter(|overlay| overlay.on == head.seq).map_or(head.seq, |overlay| overlay.seq);
        Ok(Some(head))
    }

    /// The head of the record as it was written, and what lies on it or lay on an earlier one.
    fn head_and_overlay(&self, identifier: &Identifier) -> Result<Option<(Head, Option<Overlay>)>, ShardError> {
        let tree = self.tree(identifier.shard());
        let Some(first) = tree.get(part_key(FRAGMENT, identifier, None, 0))? else { return Ok(None) };
        let (_, head) = split_count(&first).ok_or_else(|| ShardError::Corrupt(identifier.to_string()))?;
        let head = Head::decode(head)?;
        let overlay = tree.get(key(OVERLAY, identifier))?.map(|bytes| Overlay::decode(&bytes)).transpose()?;
        Ok(Some((head, overlay)))
    }

    /// The sequence at which an event's id was seen.
    pub(crate) fn seen(&self, identifier: &Identifier, id_hash: &[u8; 16]) -> Result<Option<u64>, ShardError> {
        let seq = self.tree(identifier.shard()).get(seen_key(identifier, id_hash))?;
        Ok(seq.and_then(|seq| seq.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    /// The ids of all its events.
    pub(crate) fn all_seen(&self, identifier: &Identifier) -> Result<Seen, ShardError> {
        let prefix = key(SEEN, identifier);
        let tree = self.tree(identifier.shard());
        let ids = tree.scan_prefix(&prefix).keys();
        ids.map(|id| id?[prefix.len()..].try_into().map_err(|_| ShardError::Corrupt(identifier.to_string()))).collect()
    }

    /// A fragment's history, as it is stored.
    pub(crate) fn history(&self, identifier: &Identifier) -> Result<History, ShardError> {
        Ok(History::new(identifier.clone(), self.blocks(identifier)?))
    }

    /// The ids of all its events, with their sequences.
    pub(crate) fn ids(&self, identifier: &Identifier) -> Result<Vec<([u8; 16], u64)>, ShardError> {
        let prefix = key(SEEN, identifier);
        let tree = self.tree(identifier.shard());
        let id = |row: Result<(sled::IVec, sled::IVec), sled::Error>| {
            let (row_key, seq) = row?;
            let id_hash = row_key[prefix.len()..].try_into().ok();
            let seq = seq.as_ref().try_into().ok().map(u64::from_be_bytes);
            id_hash.zip(seq).ok_or_else(|| ShardError::Corrupt(identifier.to_string()))
        };
        tree.scan_prefix(&prefix).map(id).collect()
    }

    /// The next identifiers of a shard that have records, ascending, up to so many.
    pub(crate) fn identifiers(
        &self,
        shard: ShardId,
        after: Option<&Identifier>,
        most: usize,
    ) -> Result<Vec<Identifier>, ShardError> {
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

    /// Writes fragments and moves the cursor, in batches; the last one carries the cursor. A write that was cut between two batches is
    /// repeated from the log as a whole and gives the same rows.
    pub(crate) fn write(&self, shard: ShardId, to: &Move, writes: &[FragmentWrite<'_>]) -> Result<(), ShardError> {
        let tree = self.tree(shard);
        let mut batch = Batch::new(&tree);
        for write in writes {
            self.write_fragment(&mut batch, write)?;
        }
        to.add_to(&mut batch)?;
        batch.flush()
    }

    fn write_fragment(&self, batch: &mut Batch<'_>, write: &FragmentWrite<'_>) -> Result<(), ShardError> {
        let identifier = write.identifier;
        let entries: Vec<(u64, &[u8])> =
            write.entries.iter().filter_map(|entry| Some((entry.seq, entry.bytes.as_deref()?))).collect();
        let erases = entries.first().is_some_and(|(_, bytes)| Change::erases(bytes));
        let withdrawn = || write.entries.iter().filter_map(|entry| entry.withdraws.as_deref()).flatten();
        if !erases && withdrawn().next().is_some() {
            self.withdraw(batch, identifier, &withdrawn().copied().collect())?;
        }
        if let Some((first, _)) = entries.first().copied() {
            let block = (first, encode_block(LOOSE, entries)?);
            let (now, added) = (write.record.fragment.events, write.entries.len() as u64);
            // Of what is no event nobody counts how many there were: by chance one in as many is the last of its block.
            let beside = write.entries.iter().any(|entry| entry.id_hash.is_none() && entry.seq % PACK_EVERY == 0);
            // Each time that so many events have gathered, loose blocks are packed together: less space, written once more.
            if erases {
                // Nothing from before it stays.
                for row_key in self.tree(identifier.shard()).scan_prefix(key(HISTORY, identifier)).keys() {
                    batch.remove(row_key?.to_vec())?;
                }
                batch.insert_parts(HISTORY, identifier, Some(block.0), &block.1)?;
            } else if beside || now / PACK_EVERY > now.saturating_sub(added) / PACK_EVERY {
                self.write_packed(batch, identifier, block)?;
            } else {
                batch.insert_parts(HISTORY, identifier, Some(block.0), &block.1)?;
            }
        }
        let mut new = HashSet::new();
        for entry in write.entries {
            if let Some(id_hash) = entry.id_hash {
                batch.insert(seen_key(identifier, &id_hash), entry.seq.to_be_bytes().to_vec())?;
            }
            if withdrawn().next().is_some() {
                new.extend(entry.id_hash);
            }
            for id_hash in entry.withdraws.as_deref().into_iter().flatten() {
                // It stands where its event does, where that is known.
                if new.insert(*id_hash) && self.seen(identifier, id_hash)?.is_none_or(|seq| seq > entry.seq) {
                    batch.insert(seen_key(identifier, id_hash), entry.seq.to_be_bytes().to_vec())?;
                }
            }
        }
        // What goes must not stay in a record under an overlay.
        let goes = erases || withdrawn().next().is_some();
        let (overlay, is_there) = if goes { (None, true) } else { self.overlay(write)? };
        if let Some(overlay) = overlay {
            return batch.insert(key(OVERLAY, identifier), overlay);
        }
        let parts = batch.insert_parts(FRAGMENT, identifier, None, &write.record.encode()?)?;
        if goes {
            self.remove_later_parts(batch, identifier, parts)?;
        }
        // Behind the record: were it cut off, the overlay would say nothing beside this one.
        if is_there { batch.remove(key(OVERLAY, identifier)) } else { Ok(()) }
    }

    /// Removes what says nothing beside a record of so many parts, and may have belonged to the one before.
    fn remove_later_parts(
        &self,
        batch: &mut Batch<'_>,
        identifier: &Identifier,
        parts: usize,
    ) -> Result<(), ShardError> {
        let first = u16::try_from(parts).map_err(|_| ShardError::TooLarge(identifier.to_string()))?;
        let later = part_key(FRAGMENT, identifier, None, first)..=part_key(FRAGMENT, identifier, None, u16::MAX);
        for row_key in self.tree(identifier.shard()).range(later).keys() {
            batch.remove(row_key?.to_vec())?;
        }
        Ok(())
    }

    /// What is to lie on the record that stands there, if that is enough; and whether something lies there.
    fn overlay(&self, write: &FragmentWrite<'_>) -> Result<(Option<Vec<u8>>, bool), ShardError> {
        let Some((head, earlier)) = self.head_and_overlay(write.identifier)? else { return Ok((None, false)) };
        let is_there = earlier.is_some();
        let earlier = earlier.filter(|earlier| earlier.on == head.seq);
        let (Some(first), Some(before)) = (write.entries.first(), write.before) else { return Ok((None, is_there)) };
        let reached = earlier.as_ref().map_or(head.seq, |earlier| earlier.seq);
        // A write that was cut off may have left what is ahead; and states of another layout have other positions.
        if reached >= first.seq || head.layout != *write.record.layout {
            return Ok((None, is_there));
        }
        let overlay = Overlay::between(head.seq, write.record.seq, before, write.record.fragment);
        let whole = overlay.map(|overlay| match earlier {
            Some(earlier) => overlay.over(earlier),
            None => overlay,
        });
        Ok((whole.and_then(|whole| whole.encode()), is_there))
    }

    /// The first part of a record and its overlay, as they stand.
    #[cfg(test)]
    pub(crate) fn stored(&self, identifier: &Identifier) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let row = |key: Vec<u8>| self.tree(identifier.shard()).get(key).expect("read").map(|row| row.to_vec());
        (row(part_key(FRAGMENT, identifier, None, 0)), row(key(OVERLAY, identifier)))
    }

    /// The rows of a history as they stand.
    #[cfg(test)]
    pub(crate) fn rows(&self, identifier: &Identifier) -> Vec<(Vec<u8>, Vec<u8>)> {
        let tree = self.tree(identifier.shard());
        let rows = tree.scan_prefix(key(HISTORY, identifier)).flatten();
        rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// The rows of a record as they stand, whoever reads them.
    #[cfg(test)]
    pub(crate) fn record_rows(&self, identifier: &Identifier) -> Vec<Vec<u8>> {
        let rows = self.tree(identifier.shard()).scan_prefix(key(FRAGMENT, identifier));
        rows.flatten().map(|(_, value)| value.to_vec()).collect()
    }

    /// Whether anything lies on it.
    #[cfg(test)]
    pub(crate) fn overlaid(&self, identifier: &Identifier) -> bool {
        self.tree(identifier.shard()).contains_key(key(OVERLAY, identifier)).expect("read")
    }

    /// Puts rows as they are.
    #[cfg(test)]
    pub(crate) fn put_rows(&self, identifier: &Identifier, rows: &[(Vec<u8>, Vec<u8>)]) {
        rows.iter().for_each(|(key, value)| drop(self.tree(identifier.shard()).insert(key, value.as_slice())));
    }

    /// Hands everything to the operating system. It makes recovery short; durability is the log's.
    pub(crate) fn flush(&self) -> Result<(), ShardError> {
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
