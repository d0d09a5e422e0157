//! Erasures at the centre: once one is ordered, its person's entries are replaced in the log, a snapshot without them takes the place of those before, and what
//! comes late is replaced before it is appended.
//!
//! Each erased fragment has a note of its own, written before the centre's copy goes on behind the erasure; what it says is not done yet is done again after a
//! crash. Doing it twice changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use parking_lot::RwLock;
use selvedge_central::{CentralLog, LogError, NOTES_MAX, Read};
use selvedge_core::change::Change;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::sync::Entry;
use selvedge_core::value::Timestamp;
use selvedge_shard::Shards;
use serde::{Deserialize, Serialize};

use super::edges::{ABSENCE, Known};
use super::{Centre, snapshots};
use crate::clock;
use crate::erasures::{CopyReceipt, Receipt, hex16};
use crate::sync::wire::Report;

const NOTES: &str = "erased/";
/// Bytes of the log that are looked through at once.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Erased fragments of one shard that are remembered: as many as one question for notes gives, and some room.
const ERASED_MAX: usize = NOTES_MAX - 1_000;

/// One fragment's erasure, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Erased {
    fragment: Identifier,
    erasure: String,
    at: Timestamp,
    epoch: u32,
    seq: u64,
    /// When the log held nothing of it any more.
    log_at: Option<Timestamp>,
    /// When no snapshot did.
    snapshots_at: Option<Timestamp>,
    /// When each edge was first heard to have it, by name.
    #[serde(default)]
    edges: BTreeMap<String, Timestamp>,
}

impl Erased {
    fn note(&self) -> String {
        format!("{}{:010}-{:020}", prefix(self.fragment.shard()), self.epoch, self.seq)
    }

    /// Whether it takes an entry away.
    fn takes(&self, seq: u64, bytes: &[u8]) -> Result<bool> {
        Ok(Change::owner(bytes) == Some(self.fragment.as_str())
            && (seq < self.seq || Change::decode(bytes)?.is_before(self.at)))
    }
}

fn prefix(shard: ShardId) -> String {
    format!("{NOTES}{:03}/", shard.0)
}

/// What was erased, by shard, in the order of its log.
#[derive(Default)]
pub struct Erasures(RwLock<BTreeMap<ShardId, Vec<Erased>>>);

impl Erasures {
    /// Reads what is kept.
    pub async fn open(log: &dyn CentralLog) -> Result<Self, LogError> {
        let mut all = BTreeMap::new();
        for shard in ShardId::all() {
            let notes = log.notes(&prefix(shard)).await?;
            // A note of another version says nothing here.
            let erased: Vec<Erased> =
                notes.iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok()).collect();
            all.insert(shard, erased);
        }
        Ok(Self(RwLock::new(all)))
    }

    fn of(&self, shard: ShardId) -> Vec<Erased> {
        self.0.read().get(&shard).cloned().unwrap_or_default()
    }

    /// What is to be appended in place of a change that comes too late; none where it may come as it is.
    pub fn instead_of(&self, shard: ShardId, bytes: &[u8]) -> Option<Vec<u8>> {
        let all = self.0.read();
        let erased = all.get(&shard).filter(|erased| !erased.is_empty())?;
        let owner = Change::owner(bytes)?;
        let at = erased.iter().filter(|erased| erased.fragment.as_str() == owner).map(|erased| erased.at).max()?;
        // What cannot be read is refused by whoever reads it next.
        let late = Change::decode(bytes).is_ok_and(|change| change.is_before(at));
        late.then(|| Change::erased(bytes).ok().flatten()).flatten()
    }

    /// Takes in the erasures among entries that are about to be followed, durably, and replaces what came late among them.
    pub async fn before(&self, log: &dyn CentralLog, shard: ShardId, epoch: u32, entries: &[Entry]) -> Result<()> {
        for entry in entries.iter().filter(|entry| Change::erases(&entry.bytes)) {
            let Change::Erase { fragment, erasure, at } = Change::decode(&entry.bytes)? else { continue };
            let (seq, erasure) = (entry.seq, hex16(&erasure));
            if self
                .0
                .read()
                .get(&shard)
                .is_some_and(|all| all.iter().any(|one| one.seq == seq && one.erasure == erasure))
            {
                continue;
            }
            let edges = BTreeMap::new();
            let erased = Erased { fragment, erasure, at, epoch, seq, log_at: None, snapshots_at: None, edges };
            keep(log, &erased).await?;
            let gone = self.add(erased);
            if let Some(gone) = gone {
                log.remove_note(&gone.note()).await?;
            }
        }
        let all = self.of(shard);
        if all.is_empty() {
            return Ok(());
        }
        let replaced = replacements(&all, entries)?;
        if !replaced.is_empty() {
            log.erase(shard, replaced).await?;
        }
        Ok(())
    }

    /// Adds one. Gives the oldest, where there are too many and nobody may come back from before it.
    fn add(&self, erased: Erased) -> Option<Erased> {
        let mut all = self.0.write();
        let of_shard = all.entry(erased.fragment.shard()).or_default();
        of_shard.push(erased);
        let absent = i64::try_from(ABSENCE.as_millis()).unwrap_or(i64::MAX);
        let old = |erased: &Erased| erased.snapshots_at.is_some_and(|at| at < clock::now().plus_ms(-absent));
        if of_shard.len() > ERASED_MAX && of_shard.first().is_some_and(old) { Some(of_shard.remove(0)) } else { None }
    }

    /// Does what is not done yet in a shard, of what the centre's copy has come to.
    pub async fn work(&self, centre: &Arc<Centre>, shards: &Arc<Shards>, shard: ShardId) -> Result<()> {
        let open = |erased: &Erased| erased.log_at.is_none() || erased.snapshots_at.is_none();
        if !self.0.read().get(&shard).is_some_and(|all| all.iter().any(open)) {
            return Ok(());
        }
        let reached = shards.cursor(shard).seq;
        let due: Vec<Erased> =
            self.of(shard).into_iter().filter(|erased| open(erased) && erased.seq <= reached).collect();
        let in_log: Vec<Erased> = due.iter().filter(|erased| erased.log_at.is_none()).cloned().collect();
        if !in_log.is_empty() {
            clean(&*centre.log, shard, &in_log).await?;
            self.note(&*centre.log, shard, &in_log, |erased| erased.log_at = Some(clock::now())).await?;
        }
        let Some(last) = due.iter().map(|erased| erased.seq).max() else { return Ok(()) };
        if centre.log.snapshot(shard).await?.is_some_and(|kept| kept.seq < last) {
            snapshots::make_if_newer(centre, shards, shard).await?;
        }
        centre.log.drop_older_snapshots(shard).await?;
        self.note(&*centre.log, shard, &due, |erased| erased.snapshots_at = Some(clock::now())).await
    }

    /// Changes some of a shard, durably.
    async fn note(
        &self,
        log: &dyn CentralLog,
        shard: ShardId,
        which: &[Erased],
        change: impl Fn(&mut Erased),
    ) -> Result<()> {
        for one in which {
            let changed = {
                let mut all = self.0.write();
                let found = all.get_mut(&shard).and_then(|all| all.iter_mut().find(|of| of.note() == one.note()));
                found.map(|found| {
                    change(found);
                    found.clone()
                })
            };
            if let Some(changed) = changed {
                keep(log, &changed).await?;
            }
        }
        Ok(())
    }

    /// Takes in how far an edge is: a base behind an erasure holds nothing from before it.
    pub async fn heard(&self, log: &dyn CentralLog, report: &Report) -> Result<()> {
        for of_shard in &report.shards {
            let new = |erased: &&Erased| {
                (erased.epoch, erased.seq) <= (of_shard.epoch, of_shard.kept)
                    && !erased.edges.contains_key(&report.name)
            };
            let new: Vec<Erased> =
                self.0.read().get(&of_shard.shard).into_iter().flatten().filter(new).cloned().collect();
            if !new.is_empty() {
                let now = clock::now();
                let said = |erased: &mut Erased| {
                    erased.edges.insert(report.name.clone(), now);
                };
                self.note(log, of_shard.shard, &new, said).await?;
            }
        }
        Ok(())
    }

    /// How far an erasure is, in every copy; none where nothing is known of it.
    pub fn receipt(&self, erasure: &str, edges: &[Known]) -> Option<Receipt> {
        let all: Vec<Erased> =
            self.0.read().values().flatten().filter(|erased| erased.erasure == erasure).cloned().collect();
        let at = all.iter().map(|erased| erased.at).max()?;
        // Done where all of it is, at the last of the times.
        let copy = |name: &str, done: &dyn Fn(&Erased) -> Option<Timestamp>, of: &[&Erased]| {
            let times: Option<Vec<Timestamp>> = of.iter().map(|erased| done(erased)).collect();
            let at = times.and_then(|times| times.into_iter().max());
            CopyReceipt { copy: name.to_owned(), done: at.is_some() || of.is_empty(), at: at.map(|at| at.to_string()) }
        };
        let every: Vec<&Erased> = all.iter().collect();
        let mut copies = vec![
            copy("(log)", &|erased| erased.log_at, &every),
            copy("(snapshots)", &|erased| erased.snapshots_at, &every),
        ];
        copies.extend(edges.iter().map(|edge| {
            let held: Vec<&Erased> = all.iter().filter(|erased| edge.shards.holds(erased.fragment.shard())).collect();
            copy(&edge.name, &|erased| erased.edges.get(&edge.name).copied(), &held)
        }));
        let identifiers = all.iter().map(|erased| erased.fragment.clone()).collect();
        Some(Receipt::new(erasure.to_owned(), at, identifiers, copies))
    }
}

async fn keep(log: &dyn CentralLog, erased: &Erased) -> Result<()> {
    Ok(log.put_note(&erased.note(), serde_json::to_vec(erased)?).await?)
}

/// What is to stand in place of entries that erasures take away.
fn replacements(erased: &[Erased], entries: &[Entry]) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut replaced = Vec::new();
    for entry in entries {
        for erased in erased {
            if erased.takes(entry.seq, &entry.bytes)? {
                replaced.extend(Change::erased(&entry.bytes)?.map(|left| (entry.seq, left)));
                break;
            }
        }
    }
    Ok(replaced)
}

/// Replaces in a shard's log what erasures take away.
async fn clean(log: &dyn CentralLog, shard: ShardId, erased: &[Erased]) -> Result<()> {
    let mut after = 0;
    loop {
        let entries = match log.read(shard, after, READ_BYTES).await? {
            Read::Entries { entries, .. } => entries,
            Read::Trimmed { first } if first > after + 1 => {
                after = first - 1;
                continue;
            }
            Read::Trimmed { first } => bail!("shard {}: the log begins at {first} and has nothing there", shard.0),
        };
        let Some(last) = entries.last() else { return Ok(()) };
        after = last.seq;
        let replaced = replacements(erased, &entries)?;
        if !replaced.is_empty() {
            log.erase(shard, replaced).await?;
        }
    }
}
