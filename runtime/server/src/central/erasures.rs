//! Erasures at the centre: once one is ordered, its person's entries are replaced in the log, a snapshot without them takes the place of those before, and what
//! comes late is replaced before it is appended. What the person's events had shared with entities is withdrawn from these first, by entries of the centre's own,
//! and replaced likewise.
//!
//! Each erased fragment and each withdrawal has a note of its own, written before the centre's copy goes on behind it; what it says is not done yet is done again
//! after a crash. Doing it twice changes nothing. No payload is replaced before what it had shared is durably withdrawn.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Result, bail};
use parking_lot::RwLock;
use selvedge_central::{CentralLog, LogError, NOTES_MAX, Read};
use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Push};
use selvedge_core::value::Timestamp;
use selvedge_core::view::Cursor;
use selvedge_shard::Shards;

use super::edges::Known;
use super::erased::{Erased, OfShard, Taken};
use super::{Centre, releases, snapshots};
use crate::clock;
use crate::erasures::{CopyReceipt, Receipt, Shared};
use crate::sync::wire::Report;

const NOTES: &str = "erased/";
/// Bytes of the log that are looked through at once.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Withdrawals that are appended together.
const TOGETHER: usize = 64;

/// Where every log stood, those that are not empty.
type Heads = Vec<(ShardId, Cursor)>;

/// What was erased and withdrawn, by shard.
#[derive(Default)]
pub struct Erasures {
    shards: RwLock<BTreeMap<ShardId, OfShard>>,
    /// Up to where the copy has followed.
    reached: RwLock<HashMap<ShardId, Cursor>>,
}

fn prefix(shard: ShardId) -> String {
    format!("{NOTES}{:03}/", shard.0)
}

fn name(erased: &Erased) -> String {
    format!("{}{:010}-{:020}", prefix(erased.fragment.shard()), erased.epoch, erased.seq)
}

impl Erasures {
    /// Reads what is kept.
    pub async fn open(log: &dyn CentralLog) -> Result<Self, LogError> {
        let erasures = Self::default();
        for shard in ShardId::all() {
            erasures.refresh(log, shard).await?;
        }
        Ok(erasures)
    }

    /// Takes in what another centre over the same store has kept of a shard.
    pub async fn refresh(&self, log: &dyn CentralLog, shard: ShardId) -> Result<(), LogError> {
        let mut kept = Vec::new();
        let mut prefixes = vec![prefix(shard)];
        while let Some(prefix) = prefixes.pop() {
            let notes = log.notes(&prefix).await?;
            if notes.len() >= NOTES_MAX {
                // There are more than one question gives.
                prefixes.extend("0123456789-".chars().map(|next| format!("{prefix}{next}")));
                continue;
            }
            // A note of another version says nothing here.
            kept.extend(notes.iter().filter_map(|(_, bytes)| serde_json::from_slice::<Erased>(bytes).ok()));
        }
        if kept.is_empty() {
            return Ok(());
        }
        // Afterwards, so that all that was withdrawn for them is below.
        let heads = Arc::new(heads(log).await?);
        let mut shards = self.shards.write();
        let of_shard = shards.entry(shard).or_default();
        for erased in kept {
            of_shard.add(Erased { after: Arc::clone(&heads), ..erased });
        }
        Ok(())
    }

    /// Replaces in pushes what comes too late. What it had shared with entities is withdrawn there first.
    pub async fn filter(&self, log: &dyn CentralLog, pushes: &mut [Push]) -> Result<()> {
        let shared = self.replace_late(pushes);
        if !shared.is_empty() {
            self.withdraw(log, &shared).await?;
            // The copies may be among these very pushes.
            self.replace_late(pushes);
        }
        Ok(())
    }

    fn replace_late(&self, pushes: &mut [Push]) -> Shared {
        let (shards, mut shared) = (self.shards.read(), Shared::default());
        for push in pushes {
            let Some(of_shard) = shards.get(&push.shard).filter(|of_shard| !of_shard.is_empty()) else { continue };
            for bytes in &mut push.changes {
                // What cannot be read is refused by whoever reads it next.
                let Ok(Some(taken)) = of_shard.takes(None, bytes) else { continue };
                let Ok(Some(left)) = Change::erased(bytes) else { continue };
                if let (Taken::Erased(erasure), Ok(change)) = (taken, Change::decode(bytes)) {
                    shared.add(erasure, &change);
                }
                *bytes = left.into();
            }
        }
        shared
    }

    /// Takes in the erasures and withdrawals among entries that are about to be followed, durably, and replaces what came late among them.
    pub async fn before(
        &self,
        log: &dyn CentralLog,
        shards: &Arc<Shards>,
        shard: ShardId,
        epoch: u32,
        entries: &[Entry],
    ) -> Result<()> {
        for (at, entry) in entries.iter().enumerate() {
            if !Change::erases(&entry.bytes) && !Change::withdraws(&entry.bytes) {
                continue;
            }
            let known =
                self.shards.read().get(&shard).is_some_and(|of_shard| of_shard.all.contains_key(&(epoch, entry.seq)));
            if known {
                continue;
            }
            let Some(mut erased) = Erased::of(epoch, entry.seq, &Change::decode(&entry.bytes)?) else { continue };
            let kept = log.note(&name(&erased)).await?.and_then(|bytes| serde_json::from_slice::<Erased>(&bytes).ok());
            match kept.filter(|kept| kept.erasure == erased.erasure) {
                // Another centre has done so.
                Some(kept) => erased = kept,
                None => {
                    let shared = shared(shards, &erased, &entries[..at]).await?;
                    self.withdraw(log, &shared).await?;
                    keep(log, &erased).await?;
                }
            }
            // The person's other fragments, and what another centre has withdrawn, stand below.
            erased.after = Arc::new(heads(log).await?);
            let gone = self.shards.write().entry(shard).or_default().add(erased);
            if let Some(gone) = gone {
                log.remove_note(&name(&gone)).await?;
            }
        }
        self.replace(log, shard, entries).await
    }

    /// Withdraws from entities what was shared with them, as far as it is not, and keeps that.
    async fn withdraw(&self, log: &dyn CentralLog, shared: &Shared) -> Result<()> {
        let mut changes = Vec::new();
        {
            let shards = self.shards.read();
            for ((erasure, entity), ids) in shared.iter() {
                let known = shards.get(&entity.shard());
                let new = |id: &&[u8; 16]| !known.is_some_and(|of_shard| of_shard.has_withdrawn(entity, id));
                let ids: Vec<[u8; 16]> = ids.iter().filter(new).copied().collect();
                let of_entity = Change::withdrawals(entity, *erasure, &ids);
                changes.extend(of_entity.into_iter().map(|change| (entity.shard(), change)));
            }
        }
        for some in changes.chunks(TOGETHER) {
            let appended = releases::append(log, some).await?;
            for ((shard, change), at) in some.iter().zip(appended) {
                let Some(erased) = Erased::of(at.epoch, at.seq, change) else { continue };
                keep(log, &erased).await?;
                self.shards.write().entry(*shard).or_default().add(erased);
            }
        }
        Ok(())
    }

    /// Replaces entries that are taken away. What they had shared with entities is withdrawn there first.
    async fn replace(&self, log: &dyn CentralLog, shard: ShardId, entries: &[Entry]) -> Result<()> {
        let (mut replaced, mut shared) = (Vec::new(), Shared::default());
        {
            let shards = self.shards.read();
            let Some(of_shard) = shards.get(&shard).filter(|of_shard| !of_shard.is_empty()) else { return Ok(()) };
            for entry in entries {
                let Some(taken) = of_shard.takes(Some(entry.seq), &entry.bytes)? else { continue };
                let Some(left) = Change::erased(&entry.bytes)? else { continue };
                if let Taken::Erased(erasure) = taken {
                    shared.add(erasure, &Change::decode(&entry.bytes)?);
                }
                replaced.push((entry.seq, left));
            }
        }
        self.withdraw(log, &shared).await?;
        if !replaced.is_empty() {
            log.erase(shard, replaced).await?;
        }
        Ok(())
    }

    /// Does what is not done yet in a shard, of what the centre's copy has come to.
    pub async fn work(&self, centre: &Arc<Centre>, shards: &Arc<Shards>, shard: ShardId) -> Result<()> {
        let reached = shards.cursor(shard);
        let moved = self.reached.read().get(&shard) != Some(&reached);
        if moved {
            self.reached.write().insert(shard, reached);
        }
        let due = self.shards.read().get(&shard).map(|of_shard| of_shard.due(reached.seq)).unwrap_or_default();
        let Some(last) = due.iter().map(|erased| erased.seq).max() else { return Ok(()) };
        let in_log: Vec<Erased> = due.iter().filter(|erased| erased.log_at.is_none()).cloned().collect();
        if !in_log.is_empty() {
            self.clean(&*centre.log, shard).await?;
            self.note(&*centre.log, shard, &in_log, |erased| erased.log_at = Some(clock::now())).await?;
        }
        if centre.log.snapshot(shard).await?.is_some_and(|kept| kept.seq < last) {
            snapshots::make_if_newer(centre, shards, shard).await?;
        }
        centre.log.drop_older_snapshots(shard).await?;
        self.note(&*centre.log, shard, &due, |erased| erased.snapshots_at = Some(clock::now())).await
    }

    /// Replaces in a shard's log what is taken away.
    async fn clean(&self, log: &dyn CentralLog, shard: ShardId) -> Result<()> {
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
            self.replace(log, shard, &entries).await?;
        }
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
                let mut shards = self.shards.write();
                shards.get_mut(&shard).and_then(|of_shard| of_shard.change(one.key(), &change))
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
            let to = (of_shard.epoch, of_shard.kept);
            let unheard = self.shards.read().get(&of_shard.shard).is_some_and(|known| known.unheard(&report.name, to));
            if !unheard {
                continue;
            }
            let new = {
                let mut shards = self.shards.write();
                shards.get_mut(&of_shard.shard).map(|known| known.hear(&report.name, to)).unwrap_or_default()
            };
            let now = clock::now();
            let said = |erased: &mut Erased| {
                erased.edges.insert(report.name.clone(), now);
            };
            self.note(log, of_shard.shard, &new, said).await?;
        }
        Ok(())
    }

    /// How far an erasure is, in every copy; none where nothing is known of it.
    pub fn receipt(&self, erasure: &str, edges: &[Known]) -> Option<Receipt> {
        let all: Vec<Erased> = {
            let shards = self.shards.read();
            let all = shards.values().flat_map(|of_shard| of_shard.all.values());
            all.filter(|erased| erased.erasure == erasure).cloned().collect()
        };
        let asked = || all.iter().filter(|erased| erased.withdraws.is_none());
        let at = asked().map(|erased| erased.at).max()?;
        // Done where all of it is, at the last of the times.
        let every: Vec<&Erased> = all.iter().collect();
        // Not all that belongs to it may have come to this centre's copy yet.
        let whole = {
            let reached = self.reached.read();
            let passed = |(shard, head): &(ShardId, Cursor)| reached.get(shard).is_some_and(|reached| reached >= head);
            every.iter().all(|erased| erased.after.iter().all(passed))
        };
        let copy = |name: &str, done: &dyn Fn(&Erased) -> Option<Timestamp>, of: &[&Erased]| {
            let times: Option<Vec<Timestamp>> = of.iter().map(|erased| done(erased)).collect();
            let at = times.filter(|_| whole).and_then(|times| times.into_iter().max());
            let done = at.is_some() || (whole && of.is_empty());
            CopyReceipt { copy: name.to_owned(), done, at: at.map(|at| at.to_string()) }
        };
        let mut copies = vec![
            copy("(log)", &|erased| erased.log_at, &every),
            copy("(snapshots)", &|erased| erased.snapshots_at, &every),
        ];
        copies.extend(edges.iter().map(|edge| {
            let held: Vec<&Erased> = all.iter().filter(|erased| edge.shards.holds(erased.fragment.shard())).collect();
            let done = |erased: &Erased| erased.edges.get(&edge.name).copied().or_else(|| erased.reported(edge));
            copy(&edge.name, &done, &held)
        }));
        let identifiers = asked().map(|erased| erased.fragment.clone()).collect();
        Some(Receipt::new(erasure.to_owned(), at, identifiers, copies))
    }
}

async fn keep(log: &dyn CentralLog, erased: &Erased) -> Result<()> {
    Ok(log.put_note(&name(erased), serde_json::to_vec(erased)?).await?)
}

async fn heads(log: &dyn CentralLog) -> Result<Heads, LogError> {
    let heads = ShardId::all().zip(log.heads().await?);
    let begun = heads.filter(|(_, head)| head.seq > 0);
    Ok(begun.map(|(shard, head)| (shard, Cursor { epoch: head.epoch, seq: head.seq })).collect())
}

/// What the events before an erasure had shared with entities: those that the copy holds, and those between it and the erasure.
async fn shared(shards: &Arc<Shards>, erased: &Erased, between: &[Entry]) -> Result<Shared> {
    let (mut shared, fragment) = (Shared::default(), erased.fragment.clone());
    let Some(erasure) = erased.takes_everything() else { return Ok(shared) };
    for entry in between.iter().filter(|entry| Change::owner(&entry.bytes) == Some(fragment.as_str())) {
        shared.add(erasure, &Change::decode(&entry.bytes)?);
    }
    let shards = Arc::clone(shards);
    let gathered = move || -> Result<Shared> {
        shards.history(&fragment, |change| shared.add(erasure, &change))?;
        Ok(shared)
    };
    tokio::task::spawn_blocking(gathered).await?
}

#[cfg(test)]
mod tests {
    use selvedge_central::{CentralOptions, RedbCentral};
    use selvedge_core::event::{Event, EventKind};
    use selvedge_core::identity::Identifier;
    use selvedge_core::sync::Origin;

    use super::*;
    use crate::erasures::hex16;

    fn identifier(text: &str) -> Identifier {
        Identifier::stored(text).expect("an identifier")
    }

    /// An event that names a household, as it stands in somebody's log.
    fn event(of: &str, id: &str) -> Arc<[u8]> {
        let event = Event {
            kind: EventKind::Track,
            name: "A".into(),
            message_id: id.into(),
            at: Timestamp(0),
            received_at: Timestamp(50),
            claimed: false,
            payload: r#"{"context":{"entities":{"household":"h1"}}}"#.into(),
        };
        Change::Event { fragment: identifier(of), event }.encode().into()
    }

    fn push(of: &str, ids: &[&str]) -> Push {
        let changes = ids.iter().map(|id| event(of, id)).collect();
        let (shard, origin) = (identifier(of).shard(), Origin(7));
        Push { shard, epoch: 1, origin, predecessor: 0, skips: false, changes }
    }

    fn says_something(push: &Push) -> Vec<bool> {
        push.changes.iter().map(|bytes| Change::said_id(bytes).is_some()).collect()
    }

    async fn withdrawn(log: &dyn CentralLog) -> usize {
        let read = log.read(identifier("household:h1").shard(), 0, READ_BYTES).await.expect("read");
        let Read::Entries { entries, .. } = read else { panic!("trimmed") };
        entries.iter().filter(|entry| Change::withdraws(&entry.bytes)).count()
    }

    #[tokio::test]
    async fn what_comes_late_is_replaced_with_its_copies_whichever_comes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = Arc::new(|_, bytes: &[u8]| Change::digest(bytes).map_err(|error| error.to_string()));
        let log =
            RedbCentral::open(&folder.path().join("log.redb"), &CentralOptions::new("test", digest)).expect("open");
        let erased = Change::Erase { fragment: identifier("user:1"), erasure: [3; 16], at: Timestamp(100) };
        let at = releases::append(&log, &[(identifier("user:1").shard(), erased.clone())]).await.expect("append");
        keep(&log, &Erased::of(at[0].epoch, at[0].seq, &erased).expect("a note")).await.expect("keep");
        let erasures = Erasures::open(&log).await.expect("open");

        // The copies stand before the events; somebody else's events stay.
        let mut pushes = [push("household:h1", &["a", "b", "c"]), push("user:1", &["a", "b"]), push("user:2", &["c"])];
        erasures.filter(&log, &mut pushes).await.expect("filter");
        assert_eq!(pushes.each_ref().map(says_something), [vec![false, false, true], vec![false, false], vec![true]]);
        assert_eq!(withdrawn(&log).await, 1);
        // Sent again, by itself, also after a start: nothing more is said.
        for erasures in [erasures, Erasures::open(&log).await.expect("open")] {
            for of in ["user:1", "household:h1"] {
                let mut again = [push(of, &["a", "b"])];
                erasures.filter(&log, &mut again).await.expect("filter");
                assert_eq!(says_something(&again[0]), [false, false]);
            }
            assert_eq!(withdrawn(&log).await, 1);
            let receipt = erasures.receipt(&hex16(&[3; 16]), &[]).expect("a receipt");
            assert_eq!((receipt.identifiers, receipt.done), (vec![identifier("user:1")], false));
        }
    }

    #[tokio::test]
    async fn what_is_in_the_log_is_replaced_after_its_copies_are_withdrawn() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = Arc::new(|_, bytes: &[u8]| Change::digest(bytes).map_err(|error| error.to_string()));
        let log =
            RedbCentral::open(&folder.path().join("log.redb"), &CentralOptions::new("test", digest)).expect("open");
        let (person, household) = (identifier("user:1"), identifier("household:h1"));
        let decode = |bytes: Arc<[u8]>| Change::decode(&bytes).expect("a change");
        let erased = Change::Erase { fragment: person.clone(), erasure: [3; 16], at: Timestamp(10) };
        let changes = [
            (household.shard(), decode(event("household:h1", "a"))),
            (person.shard(), decode(event("user:1", "a"))),
            (person.shard(), erased.clone()),
            (household.shard(), decode(event("household:h1", "b"))),
        ];
        let at = releases::append(&log, &changes).await.expect("append");
        keep(&log, &Erased::of(at[2].epoch, at[2].seq, &erased).expect("a note")).await.expect("keep");
        let erasures = Erasures::open(&log).await.expect("open");
        erasures.clean(&log, person.shard()).await.expect("clean");
        assert_eq!(withdrawn(&log).await, 1);
        erasures.clean(&log, household.shard()).await.expect("clean");
        for (shard, said) in [(person.shard(), 0), (household.shard(), 1)] {
            let Read::Entries { entries, .. } = log.read(shard, 0, READ_BYTES).await.expect("read") else {
                panic!("trimmed")
            };
            assert_eq!(entries.iter().filter(|entry| Change::said_id(&entry.bytes).is_some()).count(), said);
        }
        assert!(person.shard() != household.shard(), "or the figures above are of one log");
        erasures.clean(&log, person.shard()).await.expect("clean");
        assert_eq!(withdrawn(&log).await, 1, "twice changes nothing");

        // It is done once all logs are followed up to where they stood when it was taken in, and what it withdraws is done.
        let done = |erasures: &Erasures| erasures.receipt(&hex16(&[3; 16]), &[]).expect("a receipt").done;
        let end = |erased: &mut Erased| (erased.log_at, erased.snapshots_at) = (Some(Timestamp(1)), Some(Timestamp(1)));
        for shard in [person.shard(), household.shard()] {
            let due = erasures.shards.read().get(&shard).expect("the shard").due(u64::MAX);
            assert_eq!((due.len(), done(&erasures)), (1, false));
            erasures.note(&log, shard, &due, end).await.expect("note");
        }
        assert!(!done(&erasures), "nothing is followed");
        let heads = heads(&log).await.expect("heads");
        erasures.reached.write().extend(heads);
        assert!(done(&erasures));
    }
}
