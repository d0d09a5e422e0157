//! What takes several statements besides appending: snapshots, blobs, epochs, erasure.

use std::future::Future;
use std::pin::Pin;

use deadpool_postgres::{Pool, Transaction};
use selvedge_core::identity::ShardId;
use selvedge_core::view::Cursor;

use super::append::column;
use super::connect::{client, failure};
use super::{TIMEOUT, rows, signed, unsigned};
use crate::LogError;
use crate::central::{SnapshotId, SnapshotManifest, check_manifest, next_epoch};

/// Bytes of a blob's row.
const PIECE_BYTES: usize = 1024 * 1024;
/// How often a transaction is tried.
const ATTEMPTS: u32 = 5;

type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, LogError>> + Send + 'a>>;

fn said(error: tokio_postgres::Error) -> LogError {
    failure(&error)
}

/// Runs work that may be done twice in a transaction; tries again where the database does not answer or wants that.
async fn transaction<C: Sync, T: Send>(
    pool: &Pool,
    with: &C,
    work: impl for<'a> Fn(&'a Transaction<'a>, &'a C) -> Work<'a, T> + Send + Sync,
) -> Result<T, LogError> {
    let tried = async {
        let mut attempt = 1;
        loop {
            let once = async {
                let mut client = client(pool).await?;
                let transaction = client.transaction().await.map_err(said)?;
                let done = work(&transaction, with).await?;
                transaction.commit().await.map_err(said)?;
                Ok(done)
            };
            match once.await {
                Err(LogError::Unavailable(_)) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
            tokio::time::sleep(std::time::Duration::from_millis(u64::from(attempt))).await;
        }
    };
    tokio::time::timeout(TIMEOUT, tried).await.map_err(|_| LogError::Unavailable("no answer in time".into()))?
}

pub(super) fn decode(bytes: &[u8]) -> Result<SnapshotManifest, LogError> {
    postcard::from_bytes(bytes).map_err(|_| LogError::Store("a snapshot's manifest is corrupt".into()))
}

fn encode(manifest: &SnapshotManifest) -> Result<Vec<u8>, LogError> {
    postcard::to_stdvec(manifest).map_err(|error| LogError::Store(error.to_string()))
}

pub(super) async fn put_chunk(pool: &Pool, id: SnapshotId, index: u32, bytes: &[u8]) -> Result<(), LogError> {
    let sql = "INSERT INTO selvedge_chunk (shard, number, chunk, bytes) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (shard, number, chunk) DO UPDATE SET bytes = EXCLUDED.bytes";
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    rows(pool, sql, &[&column(id.shard), &id.number.cast_signed(), &index, &bytes]).await.map(drop)
}

pub(super) async fn put_snapshot(pool: &Pool, manifest: &SnapshotManifest) -> Result<(), LogError> {
    let kept = encode(manifest)?;
    transaction(pool, &(manifest, kept), |transaction, (manifest, kept)| {
        let manifest: &SnapshotManifest = manifest;
        Box::pin(async move {
            let shard = column(manifest.id.shard);
            // One at a time for each shard, and none across a change of the epoch.
            let sql = "SELECT epoch, head FROM selvedge_shard WHERE shard = $1 FOR UPDATE";
            let row = transaction.query_one(sql, &[&shard]).await.map_err(said)?;
            let head = Cursor { epoch: u32::try_from(row.get::<_, i64>(0)).unwrap_or(0), seq: unsigned(row.get(1)) };
            let before = snapshots(transaction, shard).await?.into_iter().find(|(age, _)| *age == 0);
            let before = before.map(|(_, manifest)| manifest);
            if before.as_ref() == Some(manifest) {
                // Done by an attempt whose answer was lost.
                return Ok(());
            }
            check_manifest(manifest, head, before.as_ref())?;
            check_chunks(transaction, manifest).await?;
            let put = "INSERT INTO selvedge_snapshot (shard, age, manifest) VALUES ($1, $2, $3) \
                ON CONFLICT (shard, age) DO UPDATE SET manifest = EXCLUDED.manifest";
            transaction.execute(put, &[&shard, &0_i32, kept]).await.map_err(said)?;
            let mut numbers = vec![manifest.id.number.cast_signed()];
            if let Some(before) = before {
                numbers.push(before.id.number.cast_signed());
                transaction.execute(put, &[&shard, &1_i32, &encode(&before)?]).await.map_err(said)?;
            }
            drop_chunks(transaction, shard, &numbers).await
        })
    })
    .await
}

async fn snapshots(transaction: &Transaction<'_>, shard: i32) -> Result<Vec<(i32, SnapshotManifest)>, LogError> {
    let sql = "SELECT age, manifest FROM selvedge_snapshot WHERE shard = $1";
    let rows = transaction.query(sql, &[&shard]).await.map_err(said)?;
    rows.iter().map(|row| Ok((row.get(0), decode(row.get(1))?))).collect()
}

async fn check_chunks(transaction: &Transaction<'_>, manifest: &SnapshotManifest) -> Result<(), LogError> {
    let sql = "SELECT octet_length(bytes) FROM selvedge_chunk WHERE shard = $1 AND number = $2 ORDER BY chunk";
    let rows =
        transaction.query(sql, &[&column(manifest.id.shard), &manifest.id.number.cast_signed()]).await.map_err(said)?;
    let lengths: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let named: Vec<i32> = manifest.chunks.iter().map(|chunk| i32::try_from(chunk.bytes).unwrap_or(-1)).collect();
    if lengths != named {
        return Err(LogError::Snapshot("its chunks are not all there, or have other lengths".into()));
    }
    Ok(())
}

async fn drop_chunks(transaction: &Transaction<'_>, shard: i32, kept: &[i64]) -> Result<(), LogError> {
    let sql = "DELETE FROM selvedge_chunk WHERE shard = $1 AND NOT (number = ANY($2))";
    transaction.execute(sql, &[&shard, &kept]).await.map(drop).map_err(said)
}

pub(super) async fn drop_older(pool: &Pool, shard: ShardId) -> Result<(), LogError> {
    transaction(pool, &column(shard), |transaction, shard| {
        Box::pin(async move {
            let shard = *shard;
            let sql = "SELECT shard FROM selvedge_shard WHERE shard = $1 FOR UPDATE";
            transaction.execute(sql, &[&shard]).await.map_err(said)?;
            let sql = "DELETE FROM selvedge_snapshot WHERE shard = $1 AND age > 0";
            transaction.execute(sql, &[&shard]).await.map_err(said)?;
            let kept = snapshots(transaction, shard).await?;
            let kept: Vec<i64> = kept.iter().map(|(_, manifest)| manifest.id.number.cast_signed()).collect();
            drop_chunks(transaction, shard, &kept).await
        })
    })
    .await
}

pub(super) async fn bump_epoch(pool: &Pool) -> Result<u32, LogError> {
    transaction(pool, &(), |transaction, ()| {
        Box::pin(async move {
            let sql = "SELECT shard, epoch FROM selvedge_shard ORDER BY shard FOR UPDATE";
            let rows = transaction.query(sql, &[]).await.map_err(said)?;
            let before = rows.iter().map(|row| u32::try_from(row.get::<_, i64>(1)).unwrap_or(0)).max().unwrap_or(0);
            let epoch = next_epoch(before);
            let sql = "UPDATE selvedge_shard SET epoch = $1";
            transaction.execute(sql, &[&i64::from(epoch)]).await.map_err(said)?;
            for shard in rows.iter().map(|row| row.get::<_, i32>(0)) {
                for (age, mut manifest) in snapshots(transaction, shard).await? {
                    manifest.epoch = epoch;
                    let sql = "UPDATE selvedge_snapshot SET manifest = $3 WHERE shard = $1 AND age = $2";
                    transaction.execute(sql, &[&shard, &age, &encode(&manifest)?]).await.map_err(said)?;
                }
            }
            Ok(epoch)
        })
    })
    .await
}

pub(super) async fn erase(pool: &Pool, shard: ShardId, replacements: &[(u64, Vec<u8>)]) -> Result<u64, LogError> {
    let seqs: Vec<i64> = replacements.iter().map(|(seq, _)| signed(*seq)).collect();
    let changes: Vec<&[u8]> = replacements.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    transaction(pool, &(column(shard), seqs, changes), |transaction, (shard, seqs, changes)| {
        Box::pin(async move {
            let sql = "UPDATE selvedge_shard SET rewritten = rewritten + 1 WHERE shard = $1";
            transaction.execute(sql, &[shard]).await.map_err(said)?;
            let sql = "UPDATE selvedge_log AS l SET change = q.change \
                FROM UNNEST($2::int8[], $3::bytea[]) AS q(seq, change), selvedge_shard AS s \
                WHERE l.shard = $1 AND l.seq = q.seq AND s.shard = $1 AND l.seq > s.trimmed";
            transaction.execute(sql, &[shard, seqs, changes]).await.map_err(said)
        })
    })
    .await
}

pub(super) async fn put_blob(pool: &Pool, sha256: [u8; 32], bytes: &[u8]) -> Result<(), LogError> {
    transaction(pool, &(sha256, bytes), |transaction, (sha256, bytes)| {
        Box::pin(async move {
            let (sha256, bytes) = (sha256.as_slice(), *bytes);
            transaction.execute("DELETE FROM selvedge_blob WHERE sha256 = $1", &[&sha256]).await.map_err(said)?;
            let sql = "INSERT INTO selvedge_blob (sha256, piece, bytes) VALUES ($1, $2, $3) \
                ON CONFLICT (sha256, piece) DO UPDATE SET bytes = EXCLUDED.bytes";
            let empty = bytes.is_empty().then_some(bytes);
            for (piece, bytes) in (0_i32..).zip(empty.into_iter().chain(bytes.chunks(PIECE_BYTES))) {
                transaction.execute(sql, &[&sha256, &piece, &bytes]).await.map_err(said)?;
            }
            Ok(())
        })
    })
    .await
}

pub(super) async fn set_stable(pool: &Pool, shards: &[i32], up_to: &[i64]) -> Result<(), LogError> {
    transaction(pool, &(shards, up_to), |transaction, (shards, up_to)| {
        Box::pin(async move {
            let sql = "SELECT shard FROM selvedge_shard WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
            transaction.execute(sql, &[shards]).await.map_err(said)?;
            let sql = "UPDATE selvedge_shard AS s SET stable = LEAST(q.seq, s.head) \
                FROM UNNEST($1::int4[], $2::int8[]) AS q(shard, seq) \
                WHERE s.shard = q.shard AND s.stable < LEAST(q.seq, s.head)";
            transaction.execute(sql, &[shards, up_to]).await.map(drop).map_err(said)
        })
    })
    .await
}
