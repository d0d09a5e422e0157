//! Writing behind: what moves of the base have brought is kept in memory for seconds before it becomes rows, so that a fragment that changes often is written
//! once for many changes. Whoever reads finds it: the log has it, and a crash only makes the next start fold it again.
//!
//! One thread writes the shards out, one after another, whichever waits longest, and rests in between: it takes a small share of a core however much there is
//! to write, unless so much waits that memory would grow. What must not wait goes around it: see [`Disk::write`].

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use selvedge_core::activation::Layout;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::view::Seen;

use super::batch::Batch;
use super::write::Standing;
use super::{Disk, FragmentWrite, HistoryEntry, Move};
use crate::ShardError;
use crate::maps::HashMap;
use crate::overlay::Touched;

/// How long a change waits at least, so that others join it.
const AGE: Duration = Duration::from_secs(2);
/// The writer rests so many times as long as it has worked.
const REST: u32 = 15;
/// How long it rests at the most, so that all shards are written within some twenty seconds; and looks away where nothing waits.
const PAUSE: Duration = Duration::from_millis(250);
/// By how much the thread's priority is below that of others.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// Fragments that are written before whoever waits for the shard gets a turn.
const AT_ONCE: usize = 32;
/// Fragments of one shard of which it is remembered how they stand on disk.
const STANDING_MAX: usize = 8 * 1024;
/// Bytes of a fragment that waits, beside what it holds, about.
const FRAGMENT_BYTES: usize = 256;
/// The same for a change.
const ENTRY_BYTES: usize = 96;

/// A fragment that waits to be written.
pub(super) struct Unwritten {
    pub(super) layout: Arc<Layout>,
    pub(super) seq: u64,
    pub(super) fragment: Arc<Fragment>,
    /// What differs from what is on disk.
    pub(super) touched: Touched,
    pub(super) entries: Vec<HistoryEntry>,
    /// The ids of all its events, if they are at hand.
    pub(super) seen: Option<Arc<Seen>>,
}

/// What of one shard waits to be written, and how the rest stands on disk.
#[derive(Default)]
pub(super) struct Behind {
    fragments: BTreeMap<Identifier, Unwritten>,
    /// Where the base stands once all of it is written.
    to: Option<Move>,
    since: Option<Instant>,
    bytes: usize,
    layout: Option<Arc<Layout>>,
    /// How records of the layout in force stand; none of others.
    pub(super) standing: HashMap<Identifier, Standing>,
}

impl Behind {
    pub(super) fn get(&self, identifier: &Identifier) -> Option<&Unwritten> {
        if self.fragments.is_empty() { None } else { self.fragments.get(identifier) }
    }

    /// Adds what a move brings.
    fn add(&mut self, to: Move, writes: Vec<FragmentWrite<'_>>) {
        for FragmentWrite { identifier, layout, seq, before, fragment, entries, seen } in writes {
            let touched = match before {
                Some(before) if !entries.is_empty() => Touched::between(before, fragment),
                _ => Touched::more(),
            };
            let layout = self.shared(layout);
            self.bytes += entries.iter().map(HistoryEntry::weight).sum::<usize>();
            if let Some(seen) = &seen {
                entries.iter().for_each(|entry| entry.note(seen));
            }
            match self.fragments.get_mut(identifier) {
                Some(held) => {
                    held.touched.add(touched);
                    if held.layout != layout {
                        held.touched = Touched::more();
                    }
                    (held.layout, held.seq, held.fragment) = (layout, seq, Arc::clone(fragment));
                    match (seen, &held.seen) {
                        (Some(seen), _) => held.seen = Some(seen),
                        (None, Some(held)) => entries.iter().for_each(|entry| entry.note(held)),
                        (None, None) => {}
                    }
                    held.entries.extend(entries);
                }
                None => {
                    self.bytes += FRAGMENT_BYTES + fragment.weight();
                    let new = Unwritten { layout, seq, fragment: Arc::clone(fragment), touched, entries, seen };
                    self.fragments.insert(identifier.clone(), new);
                }
            }
        }
        match &mut self.to {
            Some(held) => held.go_on(to),
            None => self.to = Some(to),
        }
        self.since.get_or_insert_with(Instant::now);
    }

    /// A layout that all fragments share that were folded by it.
    fn shared(&mut self, layout: &Layout) -> Arc<Layout> {
        match &self.layout {
            Some(held) if **held == *layout => Arc::clone(held),
            _ => {
                // Rows of another one are looked at again.
                self.standing.clear();
                let new = Arc::new(layout.clone());
                self.layout = Some(Arc::clone(&new));
                new
            }
        }
    }

    /// Forgets what waits: the rows that it belongs to go.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl HistoryEntry {
    /// Adds its ids to those that are known.
    pub(super) fn note(&self, seen: &Seen) {
        self.id_hash.iter().chain(self.withdraws.as_deref().into_iter().flatten()).for_each(|id| seen.insert(id));
    }

    fn weight(&self) -> usize {
        ENTRY_BYTES + self.bytes.as_ref().map_or(0, |bytes| bytes.len())
    }
}

impl Move {
    /// Moves on from here to where a later one ends.
    fn go_on(&mut self, later: Self) {
        let Self { cursor, checksum, origins, forgotten } = later;
        self.cursor = cursor;
        self.checksum = checksum.or(self.checksum);
        self.origins.retain(|(origin, _)| !forgotten.contains(origin));
        self.forgotten.extend(forgotten);
        for (origin, applied) in origins {
            self.forgotten.retain(|of| *of != origin);
            match self.origins.iter_mut().find(|(of, _)| *of == origin) {
                Some((_, held)) => *held = applied,
                None => self.origins.push((origin, applied)),
            }
        }
    }
}

/// Wakes the writer, and keeps what has failed behind everybody's back.
#[derive(Default)]
pub(super) struct Writer {
    ended: Mutex<bool>,
    wake: Condvar,
    failed: Mutex<Option<ShardError>>,
}

impl Disk {
    pub(super) fn behind(&self, shard: ShardId) -> MutexGuard<'_, Behind> {
        self.behind[usize::from(shard.0)].lock()
    }

    /// Begins to write what waits, until nobody has the disk any more.
    pub(crate) fn write_behind(self: &Arc<Self>) -> Result<(), ShardError> {
        let (disk, writer) = (Arc::downgrade(self), Arc::clone(&self.writer));
        let begun = std::thread::Builder::new().name("base".into()).spawn(move || write_out(&disk, &writer));
        begun.map(drop).map_err(|error| ShardError::Disk(format!("start the thread that writes: {error}")))
    }

    /// Moves a shard's base: fragments with their changes, and its place. From here on every reader of this disk finds them; a process that dies before they
    /// are written finds the base as it was. What takes something away is written at once, with all that waits of the shard.
    pub(crate) fn write(&self, shard: ShardId, to: Move, writes: Vec<FragmentWrite<'_>>) -> Result<(), ShardError> {
        if let Some(error) = self.writer.failed.lock().clone() {
            return Err(error);
        }
        let mut behind = self.behind(shard);
        if writes.iter().any(FragmentWrite::takes_away) {
            self.drain(shard, &mut behind)?;
            return self.write_now(shard, &mut behind, &to, &writes);
        }
        behind.add(to, writes);
        if behind.bytes > self.behind_bytes_max { self.drain(shard, &mut behind) } else { Ok(()) }
    }

    /// Writes all that waits of a shard.
    pub(super) fn drain_shard(&self, shard: ShardId) -> Result<(), ShardError> {
        self.drain(shard, &mut self.behind(shard))
    }

    fn drain(&self, shard: ShardId, behind: &mut Behind) -> Result<(), ShardError> {
        while !self.drain_some(shard, behind)? {}
        Ok(())
    }

    /// Writes what waits of one fragment, ahead of its shard: to be read as rows.
    pub(super) fn drain_fragment(&self, identifier: &Identifier) -> Result<(), ShardError> {
        let mut behind = self.behind(identifier.shard());
        if behind.get(identifier).is_none() {
            return Ok(());
        }
        self.put(identifier.shard(), &mut behind, std::slice::from_ref(identifier), None)
    }

    /// Writes some of what waits of a shard; the last of it brings the cursor along. Gives whether all is written.
    fn drain_some(&self, shard: ShardId, behind: &mut Behind) -> Result<bool, ShardError> {
        let Some(to) = behind.to.clone() else { return Ok(true) };
        if behind.standing.len() > STANDING_MAX {
            behind.standing.clear();
        }
        // As the rows stand on disk: neighbours are found together.
        let some: Vec<Identifier> = behind.fragments.keys().take(AT_ONCE).cloned().collect();
        let last = some.len() == behind.fragments.len();
        self.put(shard, behind, &some, last.then_some(&to))?;
        if last {
            (behind.to, behind.since, behind.bytes) = (None, None, 0);
        }
        Ok(last)
    }

    /// Writes fragments that wait, and where the base stands then. What could not be written waits on.
    fn put(
        &self,
        shard: ShardId,
        behind: &mut Behind,
        some: &[Identifier],
        to: Option<&Move>,
    ) -> Result<(), ShardError> {
        let tree = self.tree(shard);
        let mut batch = Batch::new(&tree);
        let Behind { fragments, standing, .. } = behind;
        let waiting = some.iter().filter_map(|identifier| Some((identifier, fragments.get(identifier)?)));
        let written = || {
            for (identifier, unwritten) in waiting {
                self.write_fragment(&mut batch, standing, identifier, unwritten)?;
            }
            to.map_or(Ok(()), |to| to.add_to(&mut batch))?;
            batch.flush()
        };
        if let Err(error) = written() {
            // Nobody knows how they stand.
            standing.clear();
            return Err(error);
        }
        some.iter().for_each(|identifier| drop(fragments.remove(identifier)));
        Ok(())
    }

    /// Forgets what waits, as a process that dies does.
    #[cfg(test)]
    pub(crate) fn lose_behind(&self) {
        ShardId::all().for_each(|shard| self.behind(shard).clear());
    }

    /// Writes what waits of one fragment, ahead of its shard, or all of a shard.
    #[cfg(test)]
    pub(crate) fn write_some(&self, identifier: &Identifier, ahead: bool) {
        let done = if ahead { self.drain_fragment(identifier) } else { self.drain_shard(identifier.shard()) };
        done.expect("write");
    }

    /// Writes all that waits.
    pub(super) fn drain_all(&self) -> Result<(), ShardError> {
        ShardId::all().try_for_each(|shard| self.drain_shard(shard))
    }

    /// Writes the shard that waits longest, if that is long enough. Gives whether there was one.
    fn write_oldest(&self) -> Result<bool, ShardError> {
        let since = ShardId::all().filter_map(|shard| Some((self.behind(shard).since?, shard)));
        let Some((since, shard)) = since.min() else { return Ok(false) };
        if since.elapsed() < AGE {
            return Ok(false);
        }
        // Whoever wants the shard gets a turn in between; what they bring is written by the way, but not for ever.
        let mut turns = self.behind(shard).fragments.len() / AT_ONCE + 2;
        loop {
            let mut behind = self.behind(shard);
            if turns == 0 {
                return self.drain(shard, &mut behind).map(|()| true);
            }
            if self.drain_some(shard, &mut behind)? {
                return Ok(true);
            }
            turns -= 1;
            MutexGuard::unlock_fair(behind);
            std::thread::yield_now();
        }
    }
}

/// Lets this thread have the processor where nobody else wants it, or for a small share.
fn step_back() {
    // On other systems this would be the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a thread that works behind requests has their priority");
    }
}

/// The writing thread.
fn write_out(disk: &Weak<Disk>, writer: &Writer) {
    step_back();
    let mut rest = PAUSE;
    loop {
        let mut ended = writer.ended.lock();
        if !*ended {
            writer.wake.wait_for(&mut ended, rest);
        }
        if *ended {
            return;
        }
        drop(ended);
        let Some(disk) = disk.upgrade() else { return };
        let began = Instant::now();
        match disk.write_oldest() {
            // However long it had to wait for the processor.
            Ok(true) => rest = (began.elapsed() * REST).min(PAUSE),
            Ok(false) => rest = PAUSE,
            Err(error) => {
                tracing::error!(%error, "the shards on disk cannot be written");
                *writer.failed.lock() = Some(error);
                return;
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        *self.writer.ended.lock() = true;
        self.writer.wake.notify_all();
        // A start after this has nothing to fold.
        if let Err(error) = self.drain_all() {
            tracing::warn!(%error, "not all was written; the next start folds it again");
        }
    }
}
