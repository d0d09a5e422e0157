//! Which ids a shard has seen, and at which sequence.

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use selvedge_core::identity::ShardId;

use super::central::DigestOf;
use super::segments::Segments;
use super::{for_entries, store};
use crate::LogError;
use crate::central::LOGS;

pub(super) const IDS: TableDefinition<(u16, [u8; 16]), u64> = TableDefinition::new("ids");
/// By shard: the sequence up to which ids are known.
pub(super) const INDEXED: TableDefinition<u16, u64> = TableDefinition::new("indexed");

pub(super) struct Ids {}

/// The ids within one transaction.
pub(super) struct OpenIds<'t> {
    table: Table<'t, (u16, [u8; 16]), u64>,
}

impl Ids {
    pub fn create(write: &WriteTransaction) -> Result<(), LogError> {
        write.open_table(IDS).map_err(store)?;
        write.open_table(INDEXED).map_err(store)?;
        Ok(())
    }

    pub fn load(database: &Database, segments: &Segments, digest_of: &DigestOf) -> Result<Self, LogError> {
        let ids = Self {};
        let read = database.begin_read().map_err(store)?;
        let indexed = read.open_table(INDEXED).map_err(store)?;
        for shard in 0..LOGS {
            let from = indexed.get(shard).map_err(store)?.map_or(0, |seq| seq.value());
            if from >= segments.heads[usize::from(shard)].1 {
                continue;
            }
            let write = database.begin_write().map_err(store)?;
            let mut open = ids.open(&write)?;
            for_entries(&read, shard, from, |seq, _, _, change| {
                let digest =
                    digest_of(ShardId(shard), change).map_err(|reason| LogError::Entry { shard, seq, reason })?;
                if let Some(id) = digest.id
                    && open.get(shard, &id)?.is_none()
                {
                    open.put(shard, id, seq)?;
                }
                Ok(true)
            })?;
            drop(open);
            ids.settle(&write, segments)?;
            write.commit().map_err(store)?;
        }
        Ok(ids)
    }

    pub fn open<'t>(&self, write: &'t WriteTransaction) -> Result<OpenIds<'t>, LogError> {
        Ok(OpenIds { table: write.open_table(IDS).map_err(store)? })
    }

    pub fn before_commit(&mut self, write: &WriteTransaction, segments: &Segments) -> Result<(), LogError> {
        self.settle(write, segments)
    }

    pub fn settle(&self, write: &WriteTransaction, segments: &Segments) -> Result<(), LogError> {
        let mut indexed = write.open_table(INDEXED).map_err(store)?;
        for (shard, head) in (0..LOGS).zip(&segments.heads) {
            indexed.insert(shard, head.1).map_err(store)?;
        }
        Ok(())
    }
}

impl OpenIds<'_> {
    pub fn get(&self, shard: u16, id: &[u8; 16]) -> Result<Option<u64>, LogError> {
        Ok(self.table.get((shard, *id)).map_err(store)?.map(|seq| seq.value()))
    }

    pub fn put(&mut self, shard: u16, id: [u8; 16], seq: u64) -> Result<(), LogError> {
        self.table.insert((shard, id), seq).map_err(store)?;
        Ok(())
    }
}
