//! What edges are told of everyone: how many of them there are, and what was spent of budgets in the shards that they do not hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use compact_str::CompactString;
use parking_lot::Mutex;
use selvedge_core::identity::ShardId;
use selvedge_core::shard_set::ShardSet;

use super::{AWAY_MS, Centre};
use crate::budgets::{self, Budgets};
use crate::catalogue::document;
use crate::clock;
use crate::policy;
use crate::sync::wire::Everyone;

/// The budgets of the catalogue in force, by its version.
#[derive(Default)]
pub struct InForce(Mutex<Option<(u64, Arc<Budgets>)>>);

/// What an edge of this name is told; none where it is not known, or nothing can be said of it yet.
pub async fn told(centre: &Arc<Centre>, name: &str) -> Result<Option<Everyone>> {
    let since = clock::now().plus_ms(-AWAY_MS);
    let mut edges = centre.edges.all(&*centre.log).await?;
    edges.retain(|edge| edge.seen_at >= since);
    let Some(rank) = edges.iter().position(|edge| edge.name == name) else { return Ok(None) };
    let held = edges[rank].shards;
    let Some(elsewhere) = elsewhere(centre, held).await? else { return Ok(None) };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Some(Everyone { edges: count(edges.len()), rank: count(rank), elsewhere }))
}

/// What was spent in other shards than these; none as long as the centre's copy is not there.
async fn elsewhere(centre: &Arc<Centre>, held: ShardSet) -> Result<Option<BTreeMap<CompactString, u64>>> {
    if held == ShardSet::ALL {
        return Ok(Some(BTreeMap::new()));
    }
    let Some(shards) = centre.copy.shards() else { return Ok(None) };
    centre.catalogue.refresh().await?;
    let (in_force, centre) = (centre.catalogue.in_force(), Arc::clone(centre));
    let spent = tokio::task::spawn_blocking(move || -> Result<Option<BTreeMap<CompactString, u64>>> {
        let known = centre.budgets.0.lock().clone().filter(|(version, _)| *version == in_force.version);
        let budgets = match known {
            Some((_, budgets)) => budgets,
            None => {
                // One that this build cannot read limits nothing that it knows of.
                let Ok(catalog) = document::parse(&in_force.text) else { return Ok(None) };
                let budgets = Arc::new(policy::budgets(&catalog, shards.definitions(), &Arc::default()));
                *centre.budgets.0.lock() = Some((in_force.version, Arc::clone(&budgets)));
                budgets
            }
        };
        let others = ShardId::all().filter(|shard| !held.holds(*shard));
        Ok(Some(budgets::spent_in(&shards, others, &budgets)?))
    });
    spent.await?
}
