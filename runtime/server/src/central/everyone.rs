//! What edges are told of everyone: how many of them there are, and what of budgets and response rates is known in the shards that they do not hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use compact_str::CompactString;
use parking_lot::Mutex;
use selvedge_core::catalog::Catalog;
use selvedge_core::identity::ShardId;
use selvedge_core::shard_set::ShardSet;

use super::{AWAY_MS, Centre};
use crate::budgets::{self, Budgets};
use crate::catalogue::document;
use crate::clock;
use crate::policy;
use crate::rates::{self, Counts};
use crate::sync::wire::Everyone;

/// The catalogue in force, by its version, and its budgets.
#[derive(Default)]
pub struct InForce(Mutex<Option<Known>>);

/// A version, and what it has.
type Known = (u64, Arc<(Catalog, Budgets)>);

/// What happened in shards that an edge does not hold: what was spent of budgets, and response rates.
type Elsewhere = (BTreeMap<CompactString, u64>, Vec<Counts>);

/// What an edge of this name is told; none where it is not known, or nothing can be said of it yet.
pub async fn told(centre: &Arc<Centre>, name: &str) -> Result<Option<Everyone>> {
    let since = clock::now().plus_ms(-AWAY_MS);
    let mut edges = centre.edges.all(&*centre.log).await?;
    edges.retain(|edge| edge.seen_at >= since);
    let Some(rank) = edges.iter().position(|edge| edge.name == name) else { return Ok(None) };
    let held = edges[rank].shards;
    let Some((elsewhere, responses)) = elsewhere(centre, held).await? else { return Ok(None) };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Some(Everyone { edges: count(edges.len()), rank: count(rank), elsewhere, responses }))
}

/// What happened in other shards than these; none as long as the centre's copy is not there.
async fn elsewhere(centre: &Arc<Centre>, held: ShardSet) -> Result<Option<Elsewhere>> {
    if held == ShardSet::ALL {
        return Ok(Some(Elsewhere::default()));
    }
    let Some(shards) = centre.copy.shards() else { return Ok(None) };
    centre.catalogue.refresh().await?;
    let (in_force, centre) = (centre.catalogue.in_force(), Arc::clone(centre));
    let spent = tokio::task::spawn_blocking(move || -> Result<Option<Elsewhere>> {
        let known = centre.budgets.0.lock().clone().filter(|(version, _)| *version == in_force.version);
        let known = match known {
            Some((_, known)) => known,
            None => {
                // One that this build cannot read limits nothing that it knows of.
                let Ok(catalog) = document::parse(&in_force.text) else { return Ok(None) };
                let budgets = policy::budgets(&catalog, shards.definitions(), &Arc::default());
                let known = Arc::new((catalog, budgets));
                *centre.budgets.0.lock() = Some((in_force.version, Arc::clone(&known)));
                known
            }
        };
        let (catalog, budgets) = &*known;
        let others = || ShardId::all().filter(|shard| !held.holds(*shard));
        let spent = budgets::spent_in(&shards, others(), budgets)?;
        Ok(Some((spent, rates::responses_in(&shards, others(), catalog)?)))
    });
    spent.await?
}
