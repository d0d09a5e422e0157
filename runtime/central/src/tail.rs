//! The newest entries in memory, for followers at the head, and the heads that they wait for.

use std::collections::VecDeque;

use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Head};
use selvedge_core::view::Cursor;
use tokio::sync::watch;

use crate::central::LOGS;

/// The newest entries of all shards: for each shard the end of its log, without a gap.
pub(crate) struct Tail {
    shards: Vec<VecDeque<Entry>>,
    /// What came, in order: shard and how many entries, so that the oldest go first.
    order: VecDeque<(u16, usize)>,
    bytes: usize,
    bytes_max: usize,
}

/// What an entry takes besides its bytes, about.
const ENTRY_BYTES: usize = 64;

impl Tail {
    pub fn new(bytes_max: usize) -> Self {
        Self { shards: vec![VecDeque::new(); usize::from(LOGS)], order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Takes entries that follow each other. What does not follow the ones before replaces them.
    pub fn take(&mut self, shard: ShardId, entries: Vec<Entry>) {
        let Some((first, held)) = entries.first().zip(self.shards.get_mut(usize::from(shard.0))) else { return };
        if let Some(last) = held.back()
            && first.seq != last.seq + 1
        {
            if first.seq <= last.seq {
                // Older than what is held: another commit was quicker to tell.
                return;
            }
            self.forget(shard);
        }
        let Some(held) = self.shards.get_mut(usize::from(shard.0)) else { return };
        self.bytes += entries.iter().map(size).sum::<usize>();
        self.order.push_back((shard.0, entries.len()));
        held.extend(entries);
        while self.bytes > self.bytes_max
            && let Some((shard, count)) = self.order.pop_front()
        {
            let Some(held) = self.shards.get_mut(usize::from(shard)) else { continue };
            let gone = count.min(held.len());
            self.bytes -= held.drain(..gone).map(|entry| size(&entry)).sum::<usize>();
        }
    }

    /// Drops what is held of a shard: its bytes were changed, or are not to be told any more.
    pub fn forget(&mut self, shard: ShardId) {
        if let Some(held) = self.shards.get_mut(usize::from(shard.0)) {
            self.bytes -= held.drain(..).map(|entry| size(&entry)).sum::<usize>();
            self.order.retain(|(of, _)| *of != shard.0);
        }
    }

    /// The entries after a sequence, if that is within what is held.
    pub fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let held = self.shards.get(usize::from(shard.0))?;
        let from = usize::try_from(after.saturating_add(1).checked_sub(held.front()?.seq)?).ok()?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in held.range(from.min(held.len())..) {
            bytes += entry.bytes.len();
            entries.push(entry.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        Some(entries)
    }
}

fn size(entry: &Entry) -> usize {
    entry.bytes.len() + ENTRY_BYTES
}

/// Whether any of these shards is elsewhere than was seen.
pub(crate) fn moved(heads: &[Head], seen: &[(ShardId, Cursor)]) -> bool {
    seen.iter().any(|(shard, seen)| {
        heads.get(usize::from(shard.0)).is_some_and(|head| head.seq > seen.seq || head.epoch != seen.epoch)
    })
}

/// Waits for that. None where nobody tells any more.
pub(crate) async fn wait_moved(mut heads: watch::Receiver<Vec<Head>>, seen: &[(ShardId, Cursor)]) -> Option<Vec<Head>> {
    let heads = heads.wait_for(|heads| moved(heads, seen)).await.ok()?;
    Some(heads.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_core::sync::Origin;
    use std::sync::Arc;

    fn entries(seqs: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        seqs.map(|seq| Entry { seq, origin: Origin(1), number: seq, bytes: Arc::from([0_u8; 36].as_slice()) }).collect()
    }

    fn seqs(tail: &Tail, after: u64) -> Option<Vec<u64>> {
        tail.read(ShardId(3), after, usize::MAX).map(|entries| entries.iter().map(|entry| entry.seq).collect())
    }

    #[test]
    fn holds_the_end_within_its_bytes() {
        let mut tail = Tail::new(1_000);
        tail.take(ShardId(3), entries(1..=5));
        assert_eq!(seqs(&tail, 0), Some(vec![1, 2, 3, 4, 5]));
        tail.take(ShardId(3), entries(6..=10));
        assert_eq!(seqs(&tail, 7), Some(vec![8, 9, 10]));
        tail.take(ShardId(4), entries(1..=2));
        assert_eq!(seqs(&tail, 4), None, "the oldest went");
        assert_eq!(seqs(&tail, 5), Some(vec![6, 7, 8, 9, 10]));
        assert_eq!(seqs(&tail, 10), Some(vec![]));
        assert_eq!(tail.bytes, 700);
    }

    #[test]
    fn a_gap_drops_what_was_before_it() {
        let mut tail = Tail::new(10_000);
        tail.take(ShardId(3), entries(1..=5));
        tail.take(ShardId(3), entries(8..=9));
        assert_eq!(seqs(&tail, 4), None);
        assert_eq!(seqs(&tail, 7), Some(vec![8, 9]));
        tail.take(ShardId(3), entries(2..=3));
        assert_eq!(seqs(&tail, 7), Some(vec![8, 9]));
        tail.forget(ShardId(3));
        assert_eq!((seqs(&tail, 7), tail.bytes), (None, 0));
    }
}
