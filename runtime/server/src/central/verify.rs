//! Comparing copies: a mark goes into every shard's log, and each copy says the hash of what it holds at that very place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use serde::Serialize;

use super::{Centre, releases};
use crate::clock;
use crate::sync::marks::Marked;

/// The name of the centre's own copy.
pub const CENTRE: &str = "(centre)";
/// Marks that are remembered.
const MARKS_MAX: usize = 16;
/// How long edges are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// An edge that was not heard of for so long is not waited for.
const ABSENT_MS: i64 = 30_000;
const LOOK: Duration = Duration::from_millis(20);

/// What copies said at one mark, by shard.
type Said = BTreeMap<String, BTreeMap<ShardId, Marked>>;

/// What copies said, by mark.
#[derive(Default)]
pub struct Marks(Mutex<BTreeMap<u64, Said>>);

impl Marks {
    /// Takes in what a copy says.
    pub fn note(&self, copy: &str, marked: Marked) {
        let mut marks = self.0.lock();
        // Only what was asked for here: other centres ask for themselves.
        if let Some(copies) = marks.get_mut(&marked.mark) {
            copies.entry(copy.to_owned()).or_default().insert(marked.shard, marked);
        }
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

/// Compares the centre's copy with that of every edge that was heard of lately.
pub async fn compare(centre: &Arc<Centre>) -> Result<Comparison> {
    let mark = getrandom::u64()?;
    centre.marks.begin(mark);
    let since = clock::now().plus_ms(-ABSENT_MS);
    let edges = centre.edges.all(&*centre.log).await?;
    let (asked, absent): (Vec<_>, Vec<_>) = edges.into_iter().partition(|edge| edge.seen_at >= since);
    let changes: Vec<_> = ShardId::all().map(|shard| (shard, Change::Mark(mark))).collect();
    releases::append(&*centre.log, &changes).await?;
    let wanted: Vec<(String, Vec<ShardId>)> = std::iter::once((CENTRE.to_owned(), ShardId::all().collect()))
        .chain(asked.iter().map(|edge| (edge.name.clone(), edge.shards.iter().collect())))
        .collect();
    let began = Instant::now();
    let said = loop {
        let said = centre.marks.of(mark);
        let whole = wanted.iter().all(|(name, shards)| {
            said.get(name).is_some_and(|said| shards.iter().all(|shard| said.contains_key(shard)))
        });
        if whole || began.elapsed() > PATIENCE {
            break said;
        }
        tokio::time::sleep(LOOK).await;
    };
    let mut findings = Vec::new();
    for edge in absent {
        let detail = "it was not heard of for half a minute, and was not asked".to_owned();
        findings.push(Finding { copy: edge.name, shard: None, detail });
    }
    let truth = said.get(CENTRE);
    let mut copies = Vec::new();
    let mut equal = true;
    for (name, shards) in &wanted {
        let own = said.get(name);
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        let mut fragments = 0;
        for shard in shards {
            let (Some(own), Some(truth)) =
                (own.and_then(|own| own.get(shard)), truth.and_then(|truth| truth.get(shard)))
            else {
                equal = false;
                let detail = "it did not get as far as the mark in time".to_owned();
                findings.push(Finding { copy: name.clone(), shard: Some(*shard), detail });
                continue;
            };
            hash.update(own.hash.as_bytes());
            fragments += own.fragments;
            let detail = if (&own.past, own.fragments) != (&truth.past, truth.fragments) {
                format!(
                    "at entry {} its history is another than the centre's: {} fragments, {}, not {}, {}",
                    own.seq, own.fragments, own.past, truth.fragments, truth.past
                )
            } else if !own.settled || !truth.settled || own.layout != truth.layout {
                "its history is the centre's; its states are still computed from it, after a new release: compare again when the backfill has ended".to_owned()
            } else if own.hash != truth.hash {
                format!("at entry {} its states are other than the centre's: {}, not {}", own.seq, own.hash, truth.hash)
            } else {
                continue;
            };
            equal = false;
            findings.push(Finding { copy: name.clone(), shard: Some(*shard), detail });
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
