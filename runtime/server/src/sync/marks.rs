//! Following entries, and saying at each mark among them what the copy holds there.

use selvedge_core::change::Change;
use selvedge_core::identity::ShardId;
use selvedge_shard::{Ordered, ShardError, Shards};
use serde::{Deserialize, Serialize};

/// What a copy holds of a shard at a mark in its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marked {
    pub mark: u64,
    pub shard: ShardId,
    pub epoch: u32,
    pub seq: u64,
    /// Of everything, and of what does not depend on plugins; in hexadecimal.
    pub hash: String,
    pub past: String,
    pub fragments: u64,
    /// Names the layout of the states.
    pub layout: String,
    /// Whether nothing waits for its history to be folded.
    pub settled: bool,
}

/// Moves a shard along its log. Blocks on the disk.
pub fn follow(
    shards: &Shards,
    shard: ShardId,
    epoch: u32,
    mut entries: Vec<Ordered>,
) -> Result<Vec<Marked>, ShardError> {
    let mut marked = Vec::new();
    while !entries.is_empty() {
        let mark = entries
            .iter()
            .enumerate()
            .find_map(|(place, ordered)| Change::mark(&ordered.entry.bytes).map(|mark| (place, mark)));
        let Some((place, mark)) = mark else {
            shards.follow(shard, epoch, &entries)?;
            break;
        };
        let rest = entries.split_off(place + 1);
        shards.follow(shard, epoch, &entries)?;
        let held = shards.state_hash(shard)?;
        marked.push(Marked {
            mark,
            shard,
            epoch,
            seq: held.cursor.seq,
            hash: format!("{:032x}", held.hash),
            past: format!("{:032x}", held.past),
            fragments: held.fragments,
            layout: format!("{:016x}", held.layout),
            settled: held.settled,
        });
        entries = rest;
    }
    Ok(marked)
}
