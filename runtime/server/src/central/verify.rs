//! Comparing copies: a mark goes into every shard's log, and each copy says the hash of what it holds at that very place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use selvedge_core::shard_set::ShardSet;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use super::edges::{KEEP_EVERY, Known};
use super::{Centre, releases};
use crate::clock;
use crate::sync::marks::Marked;

/// The name of the centre's own copy.
pub const CENTRE: &str = "(centre)";
/// Under which notes one centre passes on what copies said to it at another one's mark.
const NOTES: &str = "mark/";
/// Marks that are remembered.
const MARKS_MAX: usize = 16;
/// How long edges are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// An edge that was not heard of for so long is not waited for: longer than a centre that was restarted may not know of those who are there. And where
/// other centres hear of it, which tell so now and then.
const ABSENT_MS: i64 = 30_000;
const ABSENT_ELSEWHERE_MS: i64 = 2 * KEEP_EVERY.as_millis() as i64;
const LOOK: Duration = Duration::from_millis(20);
/// How often it is looked who is still there, and what other centres pass on.
const LOOK_FAR: Duration = Duration::from_millis(250);
/// Notes of marks are removed after so long, should nobody have asked for them.
const KEPT_MS: i64 = 600_000;

/// What copies said at one mark, by shard.
type Said = BTreeMap<String, BTreeMap<ShardId, Marked>>;

/// What copies said, by mark.
#[derive(Default)]
pub struct Marks(Mutex<BTreeMap<u64, Said>>);

impl Marks {
    /// Takes in what a copy says. False where it was not asked for here.
    pub fn note(&self, copy: &str, marked: Marked) -> bool {
        let mut marks = self.0.lock();
        let Some(copies) = marks.get_mut(&marked.mark) else { return false };
        copies.entry(copy.to_owned()).or_default().insert(marked.shard, marked);
        true
    }

    fn begin(&self, mark: u64) {
        let mut marks = self.0.lock();
        marks.insert(mark, BTreeMap::new());
        while marks.len() > MARKS_MAX {
            marks.pop_first();
        }
    }

    fn of(&self, mark: u64) -> Said {
        self.0.lock().get(&mark).cloned().unwrap_or_default()
    }
}

/// What a copy said to a centre that had not asked.
#[derive(Serialize, Deserialize)]
struct PassedOn {
    at: Timestamp,
    copy: String,
    marked: Vec<Marked>,
}

/// Takes in what an edge says at marks. What another centre over the same store has asked for is passed on to it.
pub async fn heard(centre: &Centre, copy: &str, marked: &[Marked]) -> Result<()> {
    let mut others: BTreeMap<u64, Vec<Marked>> = BTreeMap::new();
    for marked in marked {
        if !centre.marks.note(copy, marked.clone()) {
            others.entry(marked.mark).or_default().push(marked.clone());
        }
    }
    if !centre.is_one_of_several() {
        return Ok(());
    }
    for (mark, marked) in others {
        let first = marked.first().map_or(0, |first| first.shard.0);
        let passed_on = PassedOn { at: clock::now(), copy: copy.to_owned(), marked };
        centre.log.put_note(&format!("{NOTES}{mark:016x}/{copy}/{first}"), serde_json::to_vec(&passed_on)?).await?;
    }
    Ok(())
}

/// Takes in what others passed on. Removes what nobody asks for any more.
async fn passed_on(centre: &Centre, mark: u64) -> Result<()> {
    let own = format!("{NOTES}{mark:016x}/");
    let oldest = clock::now().plus_ms(-KEPT_MS);
    for (name, bytes) in centre.log.notes(NOTES).await? {
        let said: Option<PassedOn> = serde_json::from_slice(&bytes).ok();
        match said {
            Some(said) if name.starts_with(&own) => {
                said.marked.into_iter().for_each(|marked| _ = centre.marks.note(&said.copy, marked));
            }
            Some(said) if said.at >= oldest => continue,
            _ => {}
        }
        centre.log.remove_note(&name).await?;
    }
    Ok(())
}

/// What a comparison found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Whether every copy that answered holds the same in every shard, and all that were asked answered.
    pub equal: bool,
    /// One hash over all shards for each copy: equal where all of them are.
    pub copies: Vec<CopyAnswer>,
    /// Where they differ, or cannot be compared.
    pub findings: Vec<Finding>,
}

/// One copy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyAnswer {
    pub name: String,
    pub shards: usize,
    pub fragments: u64,
    pub hash: String,
}

/// Something that is not as it should be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub copy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    pub detail: String,
}

/// The edges that are there, as far as is known.
fn present<'e>(centre: &Centre, edges: &'e [Known]) -> impl Iterator<Item = &'e Known> {
    let absent = if centre.is_one_of_several() { ABSENT_ELSEWHERE_MS } else { ABSENT_MS };
    let since = clock::now().plus_ms(-absent);
    edges.iter().filter(move |edge| edge.seen_at >= since)
}

/// Compares the centre's copy with that of every edge that was heard of lately.
pub async fn compare(centre: &Arc<Centre>) -> Result<Comparison> {
    let mark = getrandom::u64()?;
    centre.marks.begin(mark);
    let mut edges = centre.edges.all(&*centre.log).await?;
    let changes: Vec<_> = ShardId::all().map(|shard| (shard, Change::Mark(mark))).collect();
    releases::append(&*centre.log, &changes).await?;
    let asked: Vec<String> = present(centre, &edges).map(|edge| edge.name.clone()).collect();
    let (began, mut looked) = (Instant::now(), Instant::now());
    let said = loop {
        let said = centre.marks.of(mark);
        let has = |name: &str, shards: ShardSet| {
            said.get(name).is_some_and(|said| shards.iter().all(|shard| said.contains_key(&shard)))
        };
        let edges_have = present(centre, &edges).all(|edge| has(&edge.name, edge.shards));
        if (edges_have && has(CENTRE, ShardSet::ALL)) || began.elapsed() > PATIENCE {
            break said;
        }
        tokio::time::sleep(LOOK).await;
        if looked.elapsed() > LOOK_FAR {
            looked = Instant::now();
            edges = centre.edges.all(&*centre.log).await?;
            edges.retain(|edge| asked.contains(&edge.name));
            if centre.is_one_of_several() {
                passed_on(centre, mark).await?;
            }
        }
    };
    let released = centre.release_seq().await?;
    let edges = centre.edges.all(&*centre.log).await?;
    let release = |name: &str| {
        let report = edges.iter().find(|edge| edge.name == name).and_then(|edge| edge.report.as_ref());
        report.map_or(released, |report| report.release)
    };
    let (mut findings, mut equal) = (Vec::new(), true);
    let here: Vec<&Known> = present(centre, &edges).filter(|edge| asked.contains(&edge.name)).collect();
    for edge in edges.iter().filter(|edge| !here.iter().any(|here| here.name == edge.name)) {
        let detail = if asked.contains(&edge.name) {
            equal = false;
            "it went away meanwhile".to_owned()
        } else {
            "it was not heard of lately, and was not asked".to_owned()
        };
        findings.push(Finding { copy: edge.name.clone(), shard: None, detail });
    }
    let wanted: Vec<(String, ShardSet)> = std::iter::once((CENTRE.to_owned(), ShardSet::ALL))
        .chain(here.iter().map(|edge| (edge.name.clone(), edge.shards)))
        .collect();
    let truth = said.get(CENTRE);
    let mut copies = Vec::new();
    for (name, shards) in &wanted {
        let own = said.get(name);
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let mut fragments = 0;
        let mut late = ShardSet::EMPTY;
        for shard in shards.iter() {
            let (Some(own), Some(truth)) =
                (own.and_then(|own| own.get(&shard)), truth.and_then(|truth| truth.get(&shard)))
            else {
                late.insert(shard);
                continue;
            };
            hash.update(own.hash.as_bytes());
            fragments += own.fragments;
            let detail = if (&own.past, own.fragments) != (&truth.past, truth.fragments) {
                format!(
                    "at entry {} its history is another than the centre's: {} fragments, {}, not {}, {}",
                    own.seq, own.fragments, own.past, truth.fragments, truth.past
                )
            } else if release(name) != released {
                format!(
                    "its history is the centre's; its states are of release {}, not {released}: `selvedge status` says why",
                    release(name)
                )
            } else if !own.settled || !truth.settled || own.layout != truth.layout {
                "its history is the centre's; its states are still computed from it, after a new release: compare again when the backfill has ended".to_owned()
            } else if own.hash != truth.hash {
                format!("at entry {} its states are other than the centre's: {}, not {}", own.seq, own.hash, truth.hash)
            } else {
                continue;
            };
            equal = false;
            findings.push(Finding { copy: name.clone(), shard: Some(shard), detail });
        }
        if late != ShardSet::EMPTY {
            equal = false;
            let detail = format!("it did not get as far as the mark in time, in the shards {late}");
            findings.push(Finding { copy: name.clone(), shard: None, detail });
        }
        let answered = own.map_or(0, BTreeMap::len);
        copies.push(CopyAnswer {
            name: name.clone(),
            shards: answered,
            fragments,
            hash: format!("{:016x}", hash.digest()),
        });
    }
    Ok(Comparison { equal, copies, findings })
}
