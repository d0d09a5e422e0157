//! What an edge that follows is sent: entries, heads, and that it must take a snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use selvedge_central::{CentralLog, LogError, Read};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::frame::{Frame, FrameError, fitting};
use selvedge_core::sync::{Head, Refetch};
use selvedge_core::view::Cursor;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::Centre;
use crate::serve::Pieces;

/// How often heads are said where nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Bytes of a shard's log that are read at once, so that shards take turns.
const READ_BYTES: usize = 256 * 1024;
/// How long an edge may take to read a piece.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces that wait for a slow edge.
const PIECES: usize = 4;

/// Begins to feed an edge; ends when the edge goes.
pub fn start(centre: &Arc<Centre>, shards: Vec<(ShardId, Cursor)>, place: OwnedSemaphorePermit) -> Body {
    let (pieces, body) = mpsc::channel(PIECES);
    let centre = Arc::clone(centre);
    tokio::spawn(async move {
        let _place = place;
        let followed =
            shards.into_iter().map(|(shard, cursor)| Followed { shard, cursor, parked: false, said: None }).collect();
        let mut feed = Feed { log: &*centre.log, followed, pieces };
        if let Err(Ended::Failed(error)) = feed.run().await {
            tracing::warn!(error, "an edge is no longer fed; it connects again");
        }
    });
    Body::new(Pieces(body))
}

/// A shard that an edge follows.
struct Followed {
    shard: ShardId,
    /// What was sent.
    cursor: Cursor,
    /// It must take a snapshot first, and then connect again.
    parked: bool,
    /// The head that was said last.
    said: Option<Head>,
}

enum Ended {
    /// The edge has gone.
    Gone,
    Failed(String),
}

impl From<LogError> for Ended {
    fn from(error: LogError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        Self::Failed(error.to_string())
    }
}

struct Feed<'a> {
    log: &'a dyn CentralLog,
    followed: Vec<Followed>,
    pieces: mpsc::Sender<Bytes>,
}

impl Feed<'_> {
    async fn run(&mut self) -> Result<(), Ended> {
        let mut heads = self.log.heads().await?;
        // At first, so that the edge knows the epochs and how far behind it is.
        self.say_heads(&heads, true).await?;
        let mut said = Instant::now();
        loop {
            let behind = self.catch_up(&heads).await?;
            // All of them now and then, also of shards where nothing happens: what is not said grows stale.
            let all = said.elapsed() >= HEARTBEAT;
            if all {
                said = Instant::now();
            }
            self.say_heads(&heads, all).await?;
            if behind {
                heads = self.log.heads().await?;
                continue;
            }
            let seen = self.followed.iter().map(|followed| {
                // What is parked does not wake anybody.
                let at = heads.get(usize::from(followed.shard.0)).filter(|_| followed.parked);
                (followed.shard, at.map_or(followed.cursor, |head| Cursor { epoch: head.epoch, seq: head.seq }))
            });
            let seen: Vec<_> = seen.collect();
            tokio::select! {
                woken = self.log.wait_head(&seen) => heads = woken?,
                () = tokio::time::sleep_until((said + HEARTBEAT).into()) => heads = self.log.heads().await?,
                () = self.pieces.closed() => return Err(Ended::Gone),
            }
        }
    }

    /// Sends of each shard some of what these heads say that there is; whether there is more. Nothing beyond the heads, which are said after it.
    async fn catch_up(&mut self, heads: &[Head]) -> Result<bool, Ended> {
        let mut behind = false;
        for index in 0..self.followed.len() {
            let Followed { shard, cursor, parked, .. } = self.followed[index];
            let Some(head) = heads.get(usize::from(shard.0)) else { continue };
            if parked {
                continue;
            }
            // A base that was never filled is of no epoch yet.
            let fresh = cursor.seq == 0;
            let why = if head.epoch != cursor.epoch && !fresh {
                Some(Refetch::Epoch)
            } else if head.seq < cursor.seq {
                Some(Refetch::Ahead)
            } else if head.first > cursor.seq + 1 {
                Some(Refetch::Trimmed)
            } else {
                None
            };
            if let Some(why) = why {
                self.park(index, head.epoch, why).await?;
                continue;
            }
            if head.seq == cursor.seq {
                continue;
            }
            match self.log.read(shard, cursor.seq, READ_BYTES).await? {
                Read::Trimmed { .. } => self.park(index, head.epoch, Refetch::Trimmed).await?,
                Read::Entries { epoch, .. } if epoch != head.epoch => self.park(index, epoch, Refetch::Epoch).await?,
                Read::Entries { epoch, mut entries } => {
                    let said = entries.partition_point(|entry| entry.seq <= head.seq);
                    entries.truncate(said.min(fitting(&entries)));
                    let Some(last) = entries.last() else {
                        let detail =
                            format!("shard {} ends at {} and has nothing after {}", shard.0, head.seq, cursor.seq);
                        return Err(Ended::Failed(detail));
                    };
                    self.followed[index].cursor = Cursor { epoch, seq: last.seq };
                    behind |= last.seq < head.seq;
                    self.send(&Frame::Changes { shard, epoch, entries }).await?;
                }
            }
        }
        Ok(behind)
    }

    async fn park(&mut self, index: usize, epoch: u32, why: Refetch) -> Result<(), Ended> {
        self.followed[index].parked = true;
        self.send(&Frame::Refetch { shard: self.followed[index].shard, epoch, why }).await
    }

    /// Says where the logs stand: all of them, or those that have moved since it was said.
    async fn say_heads(&mut self, heads: &[Head], all: bool) -> Result<(), Ended> {
        let mut said = Vec::new();
        for followed in &mut self.followed {
            let Some(head) = heads.get(usize::from(followed.shard.0)) else { continue };
            if all || followed.said != Some(*head) {
                followed.said = Some(*head);
                said.push((followed.shard, *head));
            }
        }
        if said.is_empty() { Ok(()) } else { self.send(&Frame::Heads(said)).await }
    }

    async fn send(&self, frame: &Frame) -> Result<(), Ended> {
        // One that does not read any more has gone without a word.
        let sent = tokio::time::timeout(PATIENCE, self.pieces.send(frame.encode()?.into())).await;
        sent.map_err(|_| Ended::Gone)?.map_err(|_| Ended::Gone)
    }
}
