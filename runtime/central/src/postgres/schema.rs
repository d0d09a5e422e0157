//! The tables, and how they come about.

use deadpool_postgres::Client;

use super::connect::{failure, sql_state};
use crate::LogError;
use crate::central::LOGS;

/// What this version reads and writes.
const VERSION: i32 = 1;

/// By the version that each leads to, from the one before.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE selvedge_meta (name text PRIMARY KEY, value bytea NOT NULL);
    CREATE TABLE selvedge_shard (
        shard int4 PRIMARY KEY,
        epoch int8 NOT NULL,
        head int8 NOT NULL,
        trimmed int8 NOT NULL,
        stable int8 NOT NULL,
        checksum int8 NOT NULL,
        rewritten int8 NOT NULL
    );
    CREATE TABLE selvedge_log (
        shard int4 NOT NULL,
        seq int8 NOT NULL,
        origin int8 NOT NULL,
        number int8 NOT NULL,
        change bytea NOT NULL,
        PRIMARY KEY (shard, seq)
    );
    CREATE TABLE selvedge_id (shard int4 NOT NULL, id bytea NOT NULL, seq int8 NOT NULL, PRIMARY KEY (shard, id));
    CREATE TABLE selvedge_watermark (
        shard int4 NOT NULL,
        origin int8 NOT NULL,
        number int8 NOT NULL,
        PRIMARY KEY (shard, origin)
    );
    CREATE TABLE selvedge_snapshot (
        shard int4 NOT NULL,
        age int4 NOT NULL,
        manifest bytea NOT NULL,
        PRIMARY KEY (shard, age)
    );
    CREATE TABLE selvedge_chunk (
        shard int4 NOT NULL,
        number int8 NOT NULL,
        chunk int4 NOT NULL,
        bytes bytea NOT NULL,
        PRIMARY KEY (shard, number, chunk)
    );
    CREATE TABLE selvedge_blob (
        sha256 bytea NOT NULL,
        piece int4 NOT NULL,
        bytes bytea NOT NULL,
        PRIMARY KEY (sha256, piece)
    );
    CREATE TABLE selvedge_note (name text PRIMARY KEY, value bytea NOT NULL);
"];

/// How often a migration is tried: several processes may begin at once.
const ATTEMPTS: u32 = 20;

/// Brings the tables to this version and gives the log's id. Several processes may do so at once.
pub(super) async fn prepare(client: &mut Client, fresh_id: &str) -> Result<String, LogError> {
    let mut attempt = 1;
    loop {
        match migrate(client, fresh_id).await {
            Ok(Ok(id)) => return Ok(id),
            Ok(Err(error)) => return Err(error),
            // Someone else makes the same tables at this moment.
            Err(error)
                if attempt < ATTEMPTS
                    && matches!(sql_state(&error), Some("23505" | "42P07" | "40001" | "40P01" | "XX000")) =>
            {
                attempt += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(error) => return Err(failure(&error)),
        }
    }
}

async fn migrate(client: &mut Client, fresh_id: &str) -> Result<Result<String, LogError>, tokio_postgres::Error> {
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS selvedge_schema (one int4 PRIMARY KEY, version int4 NOT NULL);
            INSERT INTO selvedge_schema VALUES (1, 0) ON CONFLICT DO NOTHING",
        )
        .await?;
    let transaction = client.transaction().await?;
    let row = transaction.query_one("SELECT version FROM selvedge_schema WHERE one = 1 FOR UPDATE", &[]).await?;
    let version: i32 = row.get(0);
    let (Ok(from), true) = (usize::try_from(version), version <= VERSION) else {
        let [found, read] = [version, VERSION].map(|version| u32::try_from(version).unwrap_or(0));
        return Ok(Err(LogError::Format("the database".into(), found, read)));
    };
    for migration in &MIGRATIONS[from..] {
        transaction.batch_execute(migration).await?;
    }
    transaction.execute("UPDATE selvedge_schema SET version = $1 WHERE one = 1", &[&VERSION]).await?;
    let shards: Vec<i32> = (0..LOGS).map(i32::from).collect();
    transaction
        .execute(
            "INSERT INTO selvedge_shard SELECT shard, 1, 0, 0, 0, 0, 0 FROM UNNEST($1::int4[]) AS q(shard) \
            ON CONFLICT DO NOTHING",
            &[&shards],
        )
        .await?;
    transaction
        .execute("INSERT INTO selvedge_meta VALUES ('id', $1) ON CONFLICT DO NOTHING", &[&fresh_id.as_bytes()])
        .await?;
    let row = transaction.query_one("SELECT value FROM selvedge_meta WHERE name = 'id'", &[]).await?;
    let id = String::from_utf8_lossy(row.get(0)).into_owned();
    transaction.commit().await?;
    Ok(Ok(id))
}
