//! Appending: one transaction for what waits, two round trips for each.
//!
//! The first locks the rows of the shards, lowest first, and reads what they have seen; the lock orders writers of all processes, and the row's
//! epoch fences those that do not know of another one. The second writes and commits. A sequence is only ever given under the lock, and seen by
//! others when it is committed: there are no gaps to see.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::{Client, Object, Pool};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Entry, Origin, Pushed, mix};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_postgres::Error;
use tokio_postgres::types::ToSql;

use super::connect::{client, failure, retried};
use super::{Shared, TIMEOUT, unsigned};
use crate::LogError;
use crate::central::{GAPS, Gap, SealedPush, Standing, judge, refuse, with_gaps};

/// Bytes of one transaction, about.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// How often a transaction is tried that the database wants to be tried again.
const ATTEMPTS: u32 = 8;

type Parameter<'a> = &'a (dyn ToSql + Sync);

/// Pushes of one caller, where the answer goes, and the permit for their bytes.
pub(super) type Request = (Vec<SealedPush>, oneshot::Sender<Result<Vec<Pushed>, LogError>>, OwnedSemaphorePermit);

/// Serves requests until nobody can send any.
pub(super) async fn run(pool: Pool, shared: std::sync::Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let (mut callers, mut waiting, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some((pushes, done, permit)) = next.take() {
            bytes += pushes.iter().flat_map(|sealed| &sealed.push.changes).map(|change| change.len()).sum::<usize>();
            callers.push(pushes);
            waiting.push((done, permit));
            if bytes < GROUP_BYTES_MAX {
                next = requests.try_recv().ok();
            }
        }
        let outcome = tokio::time::timeout(TIMEOUT, commit(&pool, &shared, &callers)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(LogError::Unavailable("no answer in time".into())));
        let mut answers = outcome.map(Vec::into_iter);
        for (pushes, (done, _permit)) in callers.iter().zip(waiting) {
            let answer = match &mut answers {
                Ok(answers) => Ok(answers.take(pushes.len()).collect()),
                Err(error) => Err(error.clone()),
            };
            // Whoever waited may have gone.
            let _ = done.send(answer);
        }
    }
}

/// Commits what the callers push; one answer for each push, in order.
async fn commit(pool: &Pool, shared: &Shared, callers: &[Vec<SealedPush>]) -> Result<Vec<Pushed>, LogError> {
    let mut attempt = 1;
    loop {
        let mut held = Held(Some(client(pool).await?));
        let Some(client) = &held.0 else { return Err(LogError::Closed) };
        match transact(client, callers).await {
            Ok(done) => {
                // Back to the pool: no transaction is open.
                held.0.take();
                shared.committed(done.taken, &done.heads);
                return Ok(done.answers);
            }
            Err(error) => {
                drop(held);
                if !retried(&error) || attempt >= ATTEMPTS {
                    return Err(failure(&error));
                }
                attempt += 1;
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(attempt))).await;
            }
        }
    }
}

/// A connection that is closed when it is dropped, whatever state it is in: the server rolls back what it left open.
struct Held(Option<Client>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.take().map(Object::take);
    }
}

/// What a transaction did.
struct Done {
    answers: Vec<Pushed>,
    taken: BTreeMap<u16, Vec<Entry>>,
    /// Epoch, head and checksum of the shards that moved.
    heads: BTreeMap<u16, (u32, u64, u64)>,
}

const LOCK: &str =
    "SELECT shard, epoch, head, checksum FROM selvedge_shard WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
// One look into the index for each, however few rows the planner believes there are.
const FIND_WATERMARKS: &str = "SELECT (SELECT w.number FROM selvedge_watermark w WHERE w.shard = q.shard AND w.origin = q.origin) \
    FROM UNNEST($1::int4[], $2::int8[]) WITH ORDINALITY AS q(shard, origin, place) ORDER BY q.place";
const FIND_IDS: &str = "SELECT q.place, i.seq FROM UNNEST($1::int4[], $2::bytea[]) WITH ORDINALITY AS q(shard, id, place), \
    LATERAL (SELECT seq FROM selvedge_id i WHERE i.shard = q.shard AND i.id = q.id LIMIT 1) AS i";
const ADD_ENTRIES: &str = "INSERT INTO selvedge_log (shard, seq, origin, number, change) \
    SELECT * FROM UNNEST($1::int4[], $2::int8[], $3::int8[], $4::int8[], $5::bytea[])";
const ADD_IDS: &str =
    "INSERT INTO selvedge_id (shard, id, seq) SELECT * FROM UNNEST($1::int4[], $2::bytea[], $3::int8[])";
const SET_WATERMARKS: &str = "INSERT INTO selvedge_watermark (shard, origin, number) \
    SELECT * FROM UNNEST($1::int4[], $2::int8[], $3::int8[]) \
    ON CONFLICT (shard, origin) DO UPDATE SET number = EXCLUDED.number";
const SET_HEADS: &str = "UPDATE selvedge_shard AS s SET head = q.head, checksum = q.checksum \
    FROM UNNEST($1::int4[], $2::int8[], $3::int8[]) AS q(shard, head, checksum) WHERE s.shard = q.shard";

async fn transact(client: &Client, callers: &[Vec<SealedPush>]) -> Result<Done, Error> {
    let refusals: Vec<Option<Pushed>> = callers.iter().flatten().map(refuse).collect();
    let pushes: Vec<&SealedPush> = callers.iter().flatten().collect();
    let possible = || pushes.iter().zip(&refusals).filter(|(_, refusal)| refusal.is_none()).map(|(sealed, _)| *sealed);
    let shards: BTreeSet<i32> = possible().map(|sealed| i32::from(sealed.push.shard.0)).collect();
    let shards: Vec<i32> = shards.into_iter().collect();
    let origins: BTreeSet<(u16, u64)> = possible().map(|sealed| (sealed.push.shard.0, sealed.push.origin.0)).collect();
    let (of, origin): (Vec<i32>, Vec<i64>) =
        origins.iter().map(|(shard, origin)| (i32::from(*shard), origin.cast_signed())).unzip();
    let ids: BTreeSet<(u16, [u8; 16])> = possible()
        .flat_map(|sealed| sealed.digests.iter().filter_map(|digest| Some((sealed.push.shard.0, digest.id?))))
        .collect();
    let ids: Vec<(u16, [u8; 16])> = ids.into_iter().collect();
    let (id_of, id): (Vec<i32>, Vec<&[u8]>) = ids.iter().map(|(shard, id)| (i32::from(*shard), id.as_slice())).unzip();

    let lock = client.prepare_cached(LOCK).await?;
    let find_watermarks = client.prepare_cached(FIND_WATERMARKS).await?;
    let find_ids = client.prepare_cached(FIND_IDS).await?;
    // Polled in this order first, so sent in this order, without waiting in between.
    let (for_marks, for_ids): ([Parameter<'_>; 2], [Parameter<'_>; 2]) = ([&of, &origin], [&id_of, &id]);
    let for_lock: [Parameter<'_>; 1] = [&shards];
    let (begun, locked, marks, found) = tokio::join!(
        biased;
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
        client.query(&lock, &for_lock),
        client.query(&find_watermarks, &for_marks),
        client.query(&find_ids, &for_ids),
    );
    begun?;
    let mut standings: BTreeMap<u16, (u32, u64, u64)> = BTreeMap::new();
    for row in locked? {
        let shard = u16::try_from(row.get::<_, i32>(0)).unwrap_or(u16::MAX);
        let epoch = u32::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        standings.insert(shard, (epoch, unsigned(row.get(2)), row.get::<_, i64>(3).cast_unsigned()));
    }
    let mut watermarks: HashMap<(u16, u64), u64> = HashMap::new();
    for (key, row) in origins.iter().zip(marks?) {
        watermarks.insert(*key, row.get::<_, Option<i64>>(0).map_or(0, unsigned));
    }
    let mut seen: HashMap<(u16, [u8; 16]), u64> = HashMap::new();
    for row in found? {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
        if let Some(key) = ids.get(place) {
            seen.insert(*key, unsigned(row.get(1)));
        }
    }

    let mut fold = Fold { standings, watermarks, seen, ..Fold::default() };
    let mut answers = Vec::with_capacity(pushes.len());
    for (sealed, refusal) in pushes.iter().zip(refusals) {
        answers.push(refusal.unwrap_or_else(|| fold.take(sealed)));
    }
    if fold.taken.is_empty() && fold.moved.is_empty() {
        client.batch_execute("ROLLBACK").await?;
        return Ok(Done { answers, taken: BTreeMap::new(), heads: BTreeMap::new() });
    }
    fold.write(client).await?;
    let taken: BTreeMap<u16, Vec<Entry>> = fold.taken;
    let heads = fold.standings.into_iter().filter(|(shard, _)| taken.contains_key(shard)).collect();
    Ok(Done { answers, taken, heads })
}

/// What a group of pushes makes of what was there.
#[derive(Default)]
struct Fold {
    /// Epoch, head and checksum by shard.
    standings: BTreeMap<u16, (u32, u64, u64)>,
    watermarks: HashMap<(u16, u64), u64>,
    seen: HashMap<(u16, [u8; 16]), u64>,
    taken: BTreeMap<u16, Vec<Entry>>,
    new_ids: Vec<(u16, [u8; 16], u64)>,
    moved: BTreeSet<(u16, u64)>,
    gaps: Vec<Gap>,
}

impl Fold {
    fn take(&mut self, sealed: &SealedPush) -> Pushed {
        let push = &sealed.push;
        let (shard, origin) = (push.shard.0, push.origin);
        let counted = origin != Origin::CENTRE;
        let watermark = self.watermarks.get(&(shard, origin.0)).copied().filter(|_| counted).unwrap_or(0);
        let Some((epoch, head, checksum)) = self.standings.get_mut(&shard) else {
            return Pushed::Refused { index: 0, reason: format!("the database has no shard {shard}") };
        };
        if let Some(answer) = judge(sealed, &Standing { epoch: *epoch, head: *head, watermark }) {
            return answer;
        }
        let mut seqs = Vec::with_capacity(push.changes.len());
        for ((change, digest), index) in push.changes.iter().zip(&sealed.digests).zip(1..) {
            if let Some(seq) = digest.id.and_then(|id| self.seen.get(&(shard, id))) {
                seqs.push(*seq);
                continue;
            }
            *head += 1;
            *checksum = checksum.wrapping_add(mix(*head, digest.envelope));
            let number = if counted { push.predecessor + index } else { 0 };
            self.taken.entry(shard).or_default().push(Entry { seq: *head, origin, number, bytes: change.clone() });
            if let Some(id) = digest.id {
                self.seen.insert((shard, id), *head);
                self.new_ids.push((shard, id, *head));
            }
            seqs.push(*head);
        }
        let last = push.predecessor + push.changes.len() as u64;
        if counted && last > watermark {
            if push.predecessor > watermark {
                self.gaps.push(Gap { shard: push.shard, origin, first: watermark + 1, last: push.predecessor });
            }
            self.watermarks.insert((shard, origin.0), last);
            self.moved.insert((shard, origin.0));
        }
        Pushed::Taken { seqs }
    }

    async fn write(&self, client: &Client) -> Result<(), Error> {
        let add_entries = client.prepare_cached(ADD_ENTRIES).await?;
        let add_ids = client.prepare_cached(ADD_IDS).await?;
        let set_watermarks = client.prepare_cached(SET_WATERMARKS).await?;
        let set_heads = client.prepare_cached(SET_HEADS).await?;

        let entries = || self.taken.iter().flat_map(|(shard, entries)| entries.iter().map(|entry| (*shard, entry)));
        let of: Vec<i32> = entries().map(|(shard, _)| i32::from(shard)).collect();
        let seqs: Vec<i64> = entries().map(|(_, entry)| entry.seq.cast_signed()).collect();
        let origins: Vec<i64> = entries().map(|(_, entry)| entry.origin.0.cast_signed()).collect();
        let numbers: Vec<i64> = entries().map(|(_, entry)| entry.number.cast_signed()).collect();
        let changes: Vec<&[u8]> = entries().map(|(_, entry)| entry.bytes.as_ref()).collect();

        let id_of: Vec<i32> = self.new_ids.iter().map(|(shard, ..)| i32::from(*shard)).collect();
        let ids: Vec<&[u8]> = self.new_ids.iter().map(|(_, id, _)| id.as_slice()).collect();
        let id_seqs: Vec<i64> = self.new_ids.iter().map(|(.., seq)| seq.cast_signed()).collect();

        let mark_of: Vec<i32> = self.moved.iter().map(|(shard, _)| i32::from(*shard)).collect();
        let mark_origins: Vec<i64> = self.moved.iter().map(|(_, origin)| origin.cast_signed()).collect();
        let marks: Vec<i64> =
            self.moved.iter().map(|key| self.watermarks.get(key).copied().unwrap_or(0).cast_signed()).collect();

        let moved = || self.standings.iter().filter(|(shard, _)| self.taken.contains_key(shard));
        let shards: Vec<i32> = moved().map(|(shard, _)| i32::from(*shard)).collect();
        let heads: Vec<i64> = moved().map(|(_, (_, head, _))| head.cast_signed()).collect();
        let checksums: Vec<i64> = moved().map(|(_, (.., checksum))| checksum.cast_signed()).collect();

        if !self.gaps.is_empty() {
            note_gaps(client, &self.gaps).await?;
        }
        let for_entries: [Parameter<'_>; 5] = [&of, &seqs, &origins, &numbers, &changes];
        let for_ids: [Parameter<'_>; 3] = [&id_of, &ids, &id_seqs];
        let for_marks: [Parameter<'_>; 3] = [&mark_of, &mark_origins, &marks];
        let for_heads: [Parameter<'_>; 3] = [&shards, &heads, &checksums];
        let written = tokio::join!(
            biased;
            client.execute(&add_entries, &for_entries),
            client.execute(&add_ids, &for_ids),
            client.execute(&set_watermarks, &for_marks),
            client.execute(&set_heads, &for_heads),
            client.batch_execute("COMMIT"),
        );
        // Where one failed, the last rolled back.
        written.0?;
        written.1?;
        written.2?;
        written.3?;
        written.4
    }
}

async fn note_gaps(client: &Client, gaps: &[Gap]) -> Result<(), Error> {
    client.execute("INSERT INTO selvedge_note VALUES ($1, ''::bytea) ON CONFLICT DO NOTHING", &[&GAPS]).await?;
    let row = client.query_one("SELECT value FROM selvedge_note WHERE name = $1 FOR UPDATE", &[&GAPS]).await?;
    let note = with_gaps(Some(row.get(0)), gaps);
    client.execute("UPDATE selvedge_note SET value = $2 WHERE name = $1", &[&GAPS, &note]).await?;
    Ok(())
}

/// A shard as the tables name it.
pub(super) fn column(shard: ShardId) -> i32 {
    i32::from(shard.0)
}
