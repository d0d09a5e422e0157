//! Trees: each shard has one that serves, and may be given a fresh one in its place.
//!
//! A row of the default tree says which of a shard's trees serves. A fresh one is whole before that row names it, and the old one goes after that row is
//! on disk; so whatever a crash leaves is one whole tree, and others that the next start removes.

use std::sync::Arc;

use selvedge_core::identity::{Identifier, SHARDS, ShardId};

use super::batch::{Batch, seen_key};
use super::{Disk, FRAGMENT, HISTORY, Move};
use crate::ShardError;

/// The tree of a shard that serves.
pub(super) struct Current {
    pub(super) generation: u64,
    pub(super) tree: Arc<sled::Tree>,
}

/// A tree that does not serve yet. One that never will goes when it is dropped.
pub(crate) struct Fresh {
    database: sled::Db,
    shard: ShardId,
    generation: u64,
    tree: Arc<sled::Tree>,
    serves: bool,
}

/// A tree that served.
pub(super) struct Replaced {
    shard: ShardId,
    generation: u64,
    tree: Arc<sled::Tree>,
}

fn name(shard: ShardId, generation: u64) -> String {
    // The first has the name that trees had when there was but one.
    if generation == 0 { format!("shard-{:02}", shard.0) } else { format!("shard-{:02}-{generation}", shard.0) }
}

fn serving_key(shard: ShardId) -> String {
    format!("tree-{:02}", shard.0)
}

/// Opens the trees that serve, and removes others.
pub(super) fn open(database: &sled::Db) -> Result<Vec<Current>, ShardError> {
    let current = ShardId::all().map(|shard| {
        let generation = match database.get(serving_key(shard))? {
            Some(bytes) => {
                let corrupt = |_| ShardError::Corrupt(format!("which tree of shard {} serves", shard.0));
                u64::from_be_bytes(bytes.as_ref().try_into().map_err(corrupt)?)
            }
            None => 0,
        };
        Ok(Current { generation, tree: Arc::new(database.open_tree(name(shard, generation))?) })
    });
    let current = current.collect::<Result<Vec<_>, ShardError>>()?;
    debug_assert_eq!(current.len(), usize::from(SHARDS));
    let serving: Vec<_> = current.iter().map(|current| current.tree.name()).collect();
    for name in database.tree_names() {
        if name.starts_with(b"shard-") && !serving.contains(&name) {
            database.drop_tree(&name)?;
        }
    }
    Ok(current)
}

impl Disk {
    /// The tree of a shard that serves.
    pub(super) fn tree(&self, shard: ShardId) -> Arc<sled::Tree> {
        Arc::clone(&self.trees[usize::from(shard.0)].read().tree)
    }

    /// An empty tree for a shard.
    pub(crate) fn fresh(&self, shard: ShardId) -> Result<Fresh, ShardError> {
        // One after another, so that each gets a name of its own.
        let _one = self.replaced.lock();
        let newest = self.trees[usize::from(shard.0)].read().generation;
        let database = self.database.clone();
        // Others may be under way.
        let mut generation = newest + 1;
        let names = database.tree_names();
        while names.iter().any(|known| *known == name(shard, generation).as_bytes()) {
            generation += 1;
        }
        let tree = Arc::new(database.open_tree(name(shard, generation))?);
        Ok(Fresh { database, shard, generation, tree, serves: false })
    }

    /// Lets a fresh tree serve from now on. What it replaces is kept until [`Self::drop_replaced`].
    pub(crate) fn serve(&self, mut fresh: Fresh) -> Result<(), ShardError> {
        let Fresh { shard, generation, .. } = fresh;
        self.database.insert(serving_key(shard), &generation.to_be_bytes())?;
        fresh.serves = true;
        // What waits belongs to the rows that go.
        let mut behind = self.behind(shard);
        behind.clear();
        let mut current = self.trees[usize::from(shard.0)].write();
        let before = std::mem::replace(&mut *current, Current { generation, tree: Arc::clone(&fresh.tree) });
        self.replaced.lock().push(Replaced { shard, generation: before.generation, tree: before.tree });
        Ok(())
    }

    /// Removes what served, as far as nobody reads it any more. That what serves now is on disk is for the caller to know.
    pub(crate) fn drop_replaced(&self) -> Result<(), ShardError> {
        let mut unread = Vec::new();
        self.replaced.lock().retain_mut(|replaced| {
            let read = Arc::strong_count(&replaced.tree) > 1;
            if !read {
                unread.push(name(replaced.shard, replaced.generation));
            }
            read
        });
        for name in unread {
            self.database.drop_tree(name)?;
        }
        Ok(())
    }

    /// The names of all trees.
    #[cfg(test)]
    pub(crate) fn tree_names(&self) -> Vec<String> {
        self.database.tree_names().iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Forgets everything of a shard that is not served yet.
    pub(crate) fn clear(&self, shard: ShardId) -> Result<(), ShardError> {
        self.drain_shard(shard)?;
        if self.tree(shard).is_empty() {
            return Ok(());
        }
        self.serve(self.fresh(shard)?)?;
        self.sync()?;
        self.drop_replaced()
    }
}

impl Fresh {
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Writes the rows that `fill` puts.
    pub(crate) fn write(
        &self,
        fill: impl FnOnce(&mut dyn FnMut(Row<'_>) -> Result<(), ShardError>) -> Result<(), ShardError>,
    ) -> Result<(), ShardError> {
        let mut batch = Batch::new(&self.tree);
        fill(&mut |row| match row {
            Row::Record(identifier, bytes) => batch.insert_parts(FRAGMENT, identifier, None, bytes).map(drop),
            Row::Block(identifier, seq, bytes) => batch.insert_parts(HISTORY, identifier, Some(seq), bytes).map(drop),
            Row::Id(identifier, id_hash, seq) => {
                batch.insert(seen_key(identifier, &id_hash), seq.to_be_bytes().to_vec())
            }
        })?;
        batch.flush()
    }

    /// Says where it stands.
    pub(crate) fn stand(&self, at: &Move) -> Result<(), ShardError> {
        let mut batch = Batch::new(&self.tree);
        at.add_to(&mut batch)?;
        batch.flush()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.serves
            && let Err(error) = self.database.drop_tree(name(self.shard, self.generation))
        {
            tracing::warn!(%error, shard = self.shard.0, "what was to replace a shard stays on disk until the next start");
        }
    }
}

/// A row to be written as it is.
pub(crate) enum Row<'r> {
    /// A fragment's record.
    Record(&'r Identifier, &'r [u8]),
    /// A block of history, under its first sequence.
    Block(&'r Identifier, u64, &'r [u8]),
    /// An event's id, and its sequence.
    Id(&'r Identifier, [u8; 16], u64),
}
