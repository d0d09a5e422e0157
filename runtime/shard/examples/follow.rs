//! How fast a base follows a centre's log, and how long a snapshot takes to make and to begin from.
//!
//! ```text
//! follow changes FOLDER CHANGES PEOPLE GROUP THREADS    follows so many changes, by calls of GROUP entries
//! follow export  FOLDER CHUNKS                          writes all shards of FOLDER as chunks into CHUNKS
//! follow begin   FOLDER CHUNKS THREADS                  begins in an empty FOLDER from CHUNKS
//! follow hash    FOLDER                                 sums up all shards
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use selvedge_core::activation::{Layout, Part};
use selvedge_core::aggregate::{Contribution, Definition, Definitions};
use selvedge_core::change::Change;
use selvedge_core::effects::Effects;
use selvedge_core::event::{Event, EventKind};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::sync::{Entry, Origin};
use selvedge_core::time::BusinessTime;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_shard::{Observer, Ordered, Shards, SnapshotHead};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Bytes of a chunk before compression.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Counts events and sums their seconds: next to nothing, so that the shard is what is measured.
struct Cheap {
    definitions: Definitions,
    layout: Layout,
}

impl Cheap {
    fn new() -> Outcome<Self> {
        let mut definitions = Definitions::new(BusinessTime::new("UTC")?);
        let define = |name, operator| Definition::parse(name, operator, &[], &[], Kind::Integer, None);
        definitions.add("bench", &[define("events", "count")?, define("seconds", "sum")?], None)?;
        Ok(Self { definitions, layout: Layout { engine: 1, parts: vec![Part { tag: 7, states: 2 }] } })
    }
}

impl Observer for Cheap {
    fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn observe(&self, event: &Event) -> Effects {
        let contribution = |state, value| Contribution { state, key: "".into(), value };
        let contributions = vec![contribution(0, 1), contribution(1, event.at.0 / 1000)];
        Effects { contributions, ..Effects::of(event).unwrap_or_default() }
    }
}

/// Logs of all shards with so many events of so many people in all, each person's spread over the whole.
fn logs(changes: u64, people: u64) -> Outcome<Vec<Vec<Ordered>>> {
    let mut logs: Vec<Vec<Ordered>> = ShardId::all().map(|_| Vec::new()).collect();
    for number in 0..changes {
        let person = if number < people { number } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % people };
        let fragment = Identifier::stored(&format!("user:{person}"))?;
        let at = Timestamp(1_767_225_600_000 + i64::try_from(number)? * 50);
        let payload = format!(
            r#"{{"properties":{{"product_id":"{}","name":"WHITE HANGING HEART T-LIGHT HOLDER","price":2.55,"currency":"GBP"}},"context":{{"page":{{"path":"/products/{}"}},"locale":"en-GB"}}}}"#,
            number % 4000,
            number % 4000
        );
        let event = Event {
            kind: EventKind::Track,
            name: "Product Viewed".into(),
            message_id: format!("m-{number}").as_str().into(),
            at,
            received_at: at,
            claimed: false,
            payload: payload.into(),
        };
        let log = &mut logs[usize::from(fragment.shard().0)];
        let seq = log.len() as u64 + 1;
        let bytes = Change::Event { fragment, event }.encode().into();
        log.push(Ordered { entry: Entry { seq, origin: Origin(1), number: seq, bytes }, own: None });
    }
    Ok(logs)
}

fn open(folder: &Path) -> Outcome<Shards> {
    Ok(Shards::open(folder, "bench", 64 << 20, Arc::new(Cheap::new()?), Arc::default())?)
}

/// Does something for every shard, by several threads.
fn all_shards(threads: usize, work: impl Fn(ShardId) -> Outcome<()> + Sync) -> Outcome<Duration> {
    let (next, started) = (AtomicU16::new(0), Instant::now());
    std::thread::scope(|scope| {
        let run = || {
            while let Some(shard) = ShardId::all().nth(usize::from(next.fetch_add(1, Ordering::Relaxed))) {
                work(shard)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
    .map(|()| started.elapsed())
}

fn follow(folder: &Path, changes: u64, people: u64, group: usize, threads: usize) -> Outcome<()> {
    let logs = logs(changes, people)?;
    let shards = open(folder)?;
    // As a stream would come: some of every shard, again and again.
    let longest = logs.iter().map(Vec::len).max().unwrap_or(0);
    let mut took = Duration::ZERO;
    for round in 0..longest.div_ceil(group) {
        took += all_shards(threads, |shard| match logs[usize::from(shard.0)].chunks(group).nth(round) {
            Some(entries) => Ok(shards.follow(shard, 1, entries)?),
            None => Ok(()),
        })?;
    }
    let rate = changes as f64 / took.as_secs_f64();
    println!("followed {changes} changes of {people} people by {group}, {threads} threads: {took:.1?}, {rate:.0}/s");
    let started = Instant::now();
    shards.checkpoint(&[Origin(1)])?;
    println!("checkpoint: {:.1?}; {:?}", started.elapsed(), shards.usage());
    Ok(())
}

fn export(folder: &Path, chunks: &Path) -> Outcome<()> {
    fs::create_dir_all(chunks)?;
    let (shards, started) = (open(folder)?, Instant::now());
    let (mut bytes, mut fragments, mut longest) = (0, 0, Duration::ZERO);
    for shard in ShardId::all() {
        let begun = Instant::now();
        let mut index = 0;
        let head = shards.export(shard, CHUNK_BYTES, &mut |chunk| {
            bytes += chunk.len();
            fs::write(chunks.join(format!("{}-{index}", shard.0)), chunk)
                .map_err(|error| selvedge_shard::ShardError::Outbox(error.to_string()))?;
            index += 1;
            Ok(())
        })?;
        fragments += head.fragments;
        longest = longest.max(begun.elapsed());
        fs::write(chunks.join(format!("{}-head", shard.0)), head.encode())?;
    }
    println!("exported {fragments} fragments, {bytes} bytes: {:.1?}, a shard at most {longest:.1?}", started.elapsed());
    Ok(())
}

fn begin(folder: &Path, chunks: &Path, threads: usize) -> Outcome<()> {
    let (shards, fragments) = (open(folder)?, std::sync::atomic::AtomicU64::new(0));
    let took = all_shards(threads, |shard| {
        let head = SnapshotHead::decode(&fs::read(chunks.join(format!("{}-head", shard.0)))?)?;
        let mut replacement = shards.begin_replacement(shard)?;
        for index in 0..head.chunks {
            replacement.take(&fs::read(chunks.join(format!("{}-{index}", shard.0)))?)?;
        }
        shards.replace(replacement, &head, 0, Vec::new())?;
        fragments.fetch_add(head.fragments, Ordering::Relaxed);
        Ok(())
    })?;
    println!("began from {} fragments, {threads} threads: {took:.1?}", fragments.into_inner());
    Ok(())
}

fn hash(folder: &Path) -> Outcome<()> {
    let (shards, started) = (open(folder)?, Instant::now());
    let hashes = ShardId::all().map(|shard| shards.state_hash(shard)).collect::<Result<Vec<_>, _>>()?;
    let sum = hashes.iter().fold(0_u128, |sum, hash| sum.wrapping_add(hash.hash));
    println!("hash {sum:032x}: {:.1?}", started.elapsed());
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["changes", folder, changes, people, group, threads] => {
            follow(Path::new(folder), changes.parse()?, people.parse()?, group.parse()?, threads.parse()?)?;
        }
        ["export", folder, chunks] => export(Path::new(folder), Path::new(chunks))?,
        ["begin", folder, chunks, threads] => begin(Path::new(folder), Path::new(chunks), threads.parse()?)?,
        ["hash", folder] => hash(Path::new(folder))?,
        _ => return Err("see the head of this file".into()),
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status")
        && let Some(line) = status.lines().find(|line| line.starts_with("VmHWM"))
    {
        println!("{line}");
    }
    Ok(())
}
