//! The whole bench: servers up, rows measured in turn, results out.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use crate::load::{Generator, Pace};
use crate::measure::{Found, Times, measure};
use crate::prepare::{House, Prepared, Setup, post};
use crate::process::{Cores, Server, pin};
use crate::report::{self, Findings};
use crate::request::{VISITOR, user};
use crate::rows::{
    COLD, POLICY, POLICY_VISITORS, ROWS, Row, TEN, THREE, Target, WARM, decide_body, row_index, warming,
};
use crate::start::{Memory, first_decision, restarts};
use crate::{data, machine, others, page};

/// What the bench can be told.
#[derive(Args)]
pub struct RunArguments {
    /// Shorter measurements, about three minutes in all.
    #[arg(long)]
    quick: bool,
    /// A million profiles instead of a hundred thousand.
    #[arg(long)]
    large: bool,
    /// Only these rows, and the floors.
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    only: Vec<String>,
    /// How often each row is measured.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Connections of the generator.
    #[arg(long, default_value_t = CONNECTIONS)]
    connections: usize,
    /// Seconds of each loop [default: 4, with --quick 0.3].
    #[arg(long)]
    seconds: Option<f64>,
}

/// How a server is loaded while it is profiled.
#[derive(Args)]
pub struct FlameArguments {
    /// The row whose requests are sent.
    #[arg(long, default_value = "decide")]
    row: String,
    /// For how many seconds.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Connections of the generator.
    #[arg(long, default_value_t = CONNECTIONS)]
    connections: usize,
}

/// Profiles, and with --large.
const USUAL: u32 = 100_000;
/// See `USUAL`.
const LARGE: u32 = 1_000_000;
/// Requests after which those who come most are in memory.
const AGAIN: u64 = 200_000;
/// Says who comes.
const SEED: u64 = 7;
/// How long each row is learned from.
const TRAINED: Duration = Duration::from_secs(4);
/// Connections of the generator, where nothing else is said.
const CONNECTIONS: usize = 64;

fn house(profiles: u32) -> Result<House> {
    House::new(profiles, None, "run")
}

/// Servers that are up, by what they are.
struct Servers<'h> {
    house: &'h House,
    cores: Cores,
    prepared: Prepared,
    answer: PathBuf,
    up: Vec<(Target, Server)>,
    /// Of the server that has every profile in memory, looked at before anything is measured.
    memory: Option<Memory>,
}

impl<'h> Servers<'h> {
    /// Starts the server under measurement, and keeps one of its answers for the floors.
    fn begin(house: &'h House, cores: Cores) -> Result<Self> {
        let prepared = house.prepared(WARM, cores)?;
        let answer = house.run.join("answer.json");
        let mut servers = Self { house, cores, prepared, answer, up: Vec::new(), memory: None };
        let server = servers.selvedge(WARM)?;
        let body = decide_body("home", "").replace(&format!("u-{VISITOR}"), &user(1));
        fs::write(&servers.answer, post(&mut TcpStream::connect(server)?, "/v1/decide", &body)?)?;
        Ok(servers)
    }

    fn selvedge(&mut self, setup: Setup) -> Result<std::net::SocketAddr> {
        let data = self.house.copy(setup, &self.prepared.data)?;
        let (server, seconds) = first_decision(self.house, setup, &data, self.cores)?;
        if setup != COLD {
            let began = Instant::now();
            let visitors = if setup == POLICY { POLICY_VISITORS } else { self.house.profiles };
            let warm = || warm(&server, visitors.min(self.house.profiles));
            if setup == WARM {
                self.memory = Some(Memory::fill(&server, self.cores, warm)?);
            } else {
                spread(&server, self.cores, warm)?;
            }
            eprintln!(
                "{}: the first decision after {seconds:.2} s; {} profiles in memory and looked at after {:.1} s.",
                setup.name,
                visitors,
                began.elapsed().as_secs_f64()
            );
        }
        let address = server.public;
        self.up.push((Target::Selvedge(setup), server));
        Ok(address)
    }

    fn floor(&mut self, target: Target, name: &str) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(name).arg("--answer").arg(&self.answer).args(["--profiles", &self.house.profiles.to_string()]);
        let log = self.house.run.join(format!("{name}.log"));
        self.up.push((target, Server::start(&command, &self.cores.server.to_string(), &log)?));
        Ok(())
    }

    /// Takes a server out.
    fn take(&mut self, target: Target) -> Result<Server> {
        let place = self.up.iter().position(|(of, _)| *of == target).context("a server is up")?;
        Ok(self.up.swap_remove(place).1)
    }

    /// A server, started if it is not up yet.
    fn get(&mut self, target: Target) -> Result<&Server> {
        if !self.up.iter().any(|(of, _)| *of == target) {
            match target {
                Target::FloorA => self.floor(target, "floor-a")?,
                Target::FloorB => self.floor(target, "floor-b")?,
                Target::Node => {
                    let server = others::node(self.house, &self.answer, self.cores.server)?;
                    self.up.push((target, server));
                }
                Target::Wasmtime => {
                    let server = others::wasmtime(self.house, &self.answer, self.cores.server)?;
                    self.up.push((target, server));
                }
                Target::Selvedge(setup) => drop(self.selvedge(setup)?),
            }
        }
        self.up.iter().find(|(of, _)| *of == target).map(|(_, server)| server).context("a server is up")
    }
}

/// Brings every profile of a server into memory; where there are so many that there may not be room, then again those who come most.
fn warm(server: &Server, profiles: u32) -> Result<()> {
    let mut generator = Generator::connect(server.public, 16, 1)?;
    // The server has its core too meanwhile.
    generator.sleeps = true;
    let mut traffic = warming(profiles);
    generator.run(&mut traffic, Pace::Count(u64::from(profiles)))?;
    if profiles >= LARGE {
        traffic.visitors = ROWS[row_index("decide")?].traffic(profiles, SEED).visitors;
        generator.run(&mut traffic, Pace::Count(AGAIN))?;
    }
    Ok(())
}

/// Lets a server use the generator's core too while something is done, and waits until it is at rest on its own.
pub fn spread(server: &Server, cores: Cores, work: impl FnOnce() -> Result<()>) -> Result<()> {
    pin(server.id(), &format!("{},{}", cores.server, cores.generator))?;
    work()?;
    server.rest()?;
    pin(server.id(), &cores.server.to_string())
}

/// Measures everything.
pub fn run(arguments: &RunArguments) -> Result<()> {
    let began = Instant::now();
    let wanted = arguments.only.iter().map(|name| row_index(name)).collect::<Result<Vec<_>>>()?;
    let cores = Cores::choose()?;
    let house = house(if arguments.large { LARGE } else { USUAL })?;
    let mut left_out = Vec::new();
    let mut measured = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        if !wanted.is_empty() && !row.is_floor() && !wanted.contains(&index) {
            continue;
        }
        let there = match row.target {
            Target::Selvedge(THREE | TEN | POLICY) if arguments.large => {
                Err("a million profiles are kept in memory once only".into())
            }
            target => others::is_there(target, &house)?,
        };
        match there {
            Ok(()) => measured.push(index),
            Err(reason) => left_out.push(format!("`{}` is left out: {reason}.", row.name)),
        }
    }
    // Before this process keeps to one core.
    let machine = machine::describe();
    pin(std::process::id(), &cores.generator.to_string())?;
    let mut servers = Servers::begin(&house, cores)?;
    let (each, warm) = if arguments.quick { (0.3, 0.3) } else { (4.0, 0.5) };
    let each = arguments.seconds.unwrap_or(each);
    let times = Times {
        // Long enough for caches and connections to be what they are under load.
        warm: Duration::from_secs_f64((each / 4.0).max(warm)),
        each: Duration::from_secs_f64(each),
        rest_between: !arguments.quick,
    };
    for index in &measured {
        servers.get(ROWS[*index].target)?;
    }
    eprintln!("Everything is up after {:.0} s.", began.elapsed().as_secs_f64());

    let mut findings = Findings::new();
    for repetition in 0..arguments.repetitions {
        for index in &measured {
            let row = &ROWS[*index];
            let found = repeat(row, servers.get(row.target)?, &house, arguments.connections, cores, times, repetition);
            let found = found.with_context(|| row.name)?;
            eprintln!(
                "{:<20}{:>9.0} requests/s, {:.1} µs CPU, {:.0} µs p50, {:.0} µs p99",
                row.name, found.rps, found.cpu_us_per_request, found.p50_us, found.p99_us
            );
            findings.entry(*index).or_default().push(found);
        }
    }
    let rows = report::rows(&ROWS, &findings);
    report::print(&rows);
    let memory =
        servers.memory.take().context("memory was looked at")?.document(&servers.prepared.storage, house.profiles);
    let warm = servers.take(Target::Selvedge(WARM))?;
    // One at a time, as it would start on a machine of its own.
    servers.up.clear();
    let start = restarts(&house, WARM, cores, warm)?;
    left_out.iter().for_each(|line| println!("{line}"));
    println!("start: {start}\nmemory: {memory}");
    let document = json!({
        "machine": machine,
        "workload": {
            "profiles": house.profiles, "traits": 50, "aggregates": 100, "offers": data::OFFERS, "connections": arguments.connections,
            "repetitions": arguments.repetitions, "seconds": each,
            "answer_bytes": fs::metadata(&servers.answer)?.len(), "request_bytes": ROWS[0].traffic(1, 0).requests[0].1.len(),
        },
        "seconds": began.elapsed().as_secs_f64().round(),
        "rows": rows,
        "start": start,
        "memory": memory,
        "left_out": left_out,
    });
    let path = house.own.join("results.json");
    report::write(&path, &document)?;
    drop(servers);
    house.clean()?;
    if arguments.only.is_empty() {
        let page = house.root.join("docs/performance.md");
        page::rewrite(&page, "rows", &page::rows(&document))?;
        page::rewrite(&page, "start", &page::start(&document))?;
        println!("{} shows it.", page.display());
    }
    println!("Written to {} after {:.0} s.", path.display(), began.elapsed().as_secs_f64());
    Ok(())
}

fn repeat(
    row: &Row,
    server: &Server,
    house: &House,
    connections: usize,
    cores: Cores,
    times: Times,
    repetition: usize,
) -> Result<Found> {
    let seed = u64::try_from(repetition)?;
    let mut generator = Generator::connect(server.public, connections, seed)?;
    let mut traffic = row.traffic(house.profiles, SEED);
    traffic.visitors.skip(repetition * 100_003);
    measure(server, &mut generator, &mut traffic, cores, times, row.is_plain())
}

/// Loads floors and servers, each row in turn, then ends them: for a build that writes down what it runs.
pub fn train() -> Result<()> {
    let cores = Cores::choose()?;
    let house = house(USUAL)?;
    pin(std::process::id(), &cores.generator.to_string())?;
    let mut servers = Servers::begin(&house, cores)?;
    let trained = |row: &&Row| matches!(row.target, Target::FloorA | Target::FloorB | Target::Selvedge(_));
    for row in ROWS.iter().filter(trained) {
        let server = servers.get(row.target)?;
        let mut generator = Generator::connect(server.public, CONNECTIONS, SEED)?;
        let outcome = generator.run(&mut row.traffic(house.profiles, SEED), Pace::Closed(TRAINED))?;
        eprintln!("{:<20}{:>9.0} requests/s", row.name, outcome.requests as f64 / outcome.seconds);
    }
    servers.up.into_iter().try_for_each(|(_, server)| server.stop())?;
    house.clean()
}

/// Loads one server, and says which process it is, so that it can be profiled meanwhile.
pub fn flame(arguments: &FlameArguments) -> Result<()> {
    let cores = Cores::choose()?;
    let house = house(USUAL)?;
    pin(std::process::id(), &cores.generator.to_string())?;
    let row = &ROWS[row_index(&arguments.row)?];
    let mut servers = Servers::begin(&house, cores)?;
    let server = servers.get(row.target)?;
    let mut generator = Generator::connect(server.public, arguments.connections, 1)?;
    let mut traffic = row.traffic(house.profiles, SEED);
    generator.run(&mut traffic, Pace::Closed(Duration::from_secs(1)))?;
    println!("{}", json!({"ready": true, "process": server.id()}));
    let outcome = generator.run(&mut traffic, Pace::Closed(Duration::from_secs_f64(arguments.seconds)))?;
    if outcome.fallbacks > outcome.judged / 1_000 {
        bail!("{} of {} answers are fallbacks", outcome.fallbacks, outcome.judged);
    }
    eprintln!("{:.0} requests/s while it was watched", outcome.requests as f64 / outcome.seconds);
    Ok(())
}
