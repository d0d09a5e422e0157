//! What a decision costs as its surroundings grow: profiles, values of a profile, offers, plugins, cores, bytes of a request.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::answer::Check;
use crate::data::{OFFERS, Shelf};
use crate::load::{Generator, Pace};
use crate::measure::{Found, Times, measure};
use crate::prepare::{House, Setup, post, remove};
use crate::process::{Cores, Server, pin};
use crate::request::{VISITOR, user};
use crate::rows::{OFFERED, ROOMY_MIB, decide_body, decisions, warming};
use crate::{machine, page, plots, report};

/// Visitors that come while profiles grow in number: the ones that are in memory.
const HOT: u32 = 1_000;
/// Profiles where something else grows.
const PROFILES: u32 = 10_000;
/// What the names of its servers' folders begin with.
const FOLDER: &str = "scaling-";
const SHELVES: &[Shelf] = &[
    Shelf { slot: "home", prefix: "", offers: OFFERS },
    Shelf { slot: "offers-100", prefix: "hundred-", offers: 100 },
    Shelf { slot: "offers-300", prefix: "more-", offers: 300 },
    Shelf { slot: "offers-1000", prefix: "most-", offers: 1_000 },
];

/// What the bench of scaling can be told.
#[derive(Args)]
pub struct ScalingArguments {
    /// Shorter measurements, each once, and no million profiles.
    #[arg(long)]
    quick: bool,
    /// Only these axes: profiles, values, offers, plugins, cores, payload.
    #[arg(long, value_delimiter = ',', value_name = "AXIS,…")]
    only: Vec<String>,
    /// How often each point is measured [default: 3, with --quick 1].
    #[arg(long)]
    repetitions: Option<usize>,
    /// Connections of the generator.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds of each loop [default: 2, with --quick 0.8].
    #[arg(long)]
    seconds: Option<f64>,
}

/// Something that grows.
struct Axis {
    name: &'static str,
    unit: &'static str,
    /// Whether each point is a multiple of the one before it.
    log: bool,
    /// Visitors that come.
    visitors: u32,
    points: Vec<Point>,
}

/// One place on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    at: u32,
    profiles: u32,
    values: Option<usize>,
    plugins: usize,
    slot: &'static str,
    context: Option<usize>,
    cores: usize,
}

/// What a server is like: profiles, their values, plugins, cores.
type ServerKind = (u32, Option<usize>, usize, usize);
/// What a floor is like: cores, bytes of context.
type FloorKind = (usize, Option<usize>);

const USUAL: Point =
    Point { at: 0, profiles: PROFILES, values: None, plugins: 1, slot: "home", context: None, cores: 1 };

impl Point {
    /// What its server is like; points that are alike in this share one.
    fn server(&self) -> ServerKind {
        (self.profiles, self.values, self.plugins, self.cores)
    }

    /// What its floor is like.
    fn floor(&self) -> FloorKind {
        (self.cores, self.context)
    }

    fn setup(&self) -> Setup {
        Setup { name: "server", plugins: self.plugins, cache_mib: ROOMY_MIB, shelves: SHELVES, policy: false }
    }

    /// Its server's cores: the first ones.
    fn cores(&self) -> String {
        (0..self.cores).map(|core| core.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// Everything that grows, on a machine of so many cores.
fn axes(quick: bool, machine_cores: usize) -> Vec<Axis> {
    let axis = |name, unit, log, points: &[u32], point: &dyn Fn(u32) -> Point| Axis {
        name,
        unit,
        log,
        visitors: if name == "profiles" { HOT } else { PROFILES },
        points: points.iter().map(|at| Point { at: *at, ..point(*at) }).collect(),
    };
    let count = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    let profiles: &[u32] = if quick { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    let cores: Vec<u32> = [1, 2, 4].into_iter().filter(|cores| count(*cores) <= machine_cores).collect();
    let slot = |at| match at {
        100 => "offers-100",
        300 => "offers-300",
        1_000 => "offers-1000",
        _ => "home",
    };
    vec![
        axis("profiles", "profiles on disk", true, profiles, &|at| Point { profiles: at, ..USUAL }),
        axis("values", "values of a profile", false, &[15, 50, 150, 500], &|at| Point {
            values: Some(count(at)),
            ..USUAL
        }),
        axis("offers", "offers", false, &[20, 100, 300, 1_000], &|at| Point { slot: slot(at), ..USUAL }),
        axis("plugins", "plugins in a decision", false, &[1, 3, 5, 10], &|at| Point { plugins: count(at), ..USUAL }),
        axis("cores", "cores of the server", false, &cores, &|at| Point { cores: count(at), ..USUAL }),
        axis("payload", "KiB of context", false, &[0, 1, 4, 16], &|at| Point {
            context: Some(1_024 * count(at)),
            ..USUAL
        }),
    ]
}

/// Who is measured: a server and what is asked of it, at one or more points.
struct Subject<K> {
    key: K,
    server: Server,
    house: Option<House>,
}

struct Bench<'a> {
    cores: Cores,
    times: Times,
    connections: usize,
    repetitions: usize,
    axis: &'a Axis,
}

impl Bench<'_> {
    /// The server of a point, with its visitors' profiles in memory.
    fn serve(&self, point: &Point) -> Result<Subject<ServerKind>> {
        let house = House::new(point.profiles, point.values, &format!("run/{FOLDER}{}-{}", self.axis.name, point.at))?;
        let prepared = house.prepared(point.setup(), self.cores)?;
        let data = house.copy(point.setup(), &prepared.data)?;
        let server = house.start_on(point.setup(), &data, &point.cores())?;
        let visitors = self.axis.visitors.min(point.profiles);
        let mut generator = Generator::connect(server.public, 16, 1)?;
        generator.sleeps = true;
        generator.run(&mut warming(visitors), Pace::Count(u64::from(visitors)))?;
        server.rest()?;
        Ok(Subject { key: point.server(), server, house: Some(house) })
    }

    /// The floor of a point, which answers as many bytes as this server.
    fn floor(&self, point: &Point, like: &Server) -> Result<Subject<FloorKind>> {
        let run = House::new(0, None, "run")?.run;
        let answer = run.join("answer.json");
        let body = decide_body("home", "").replace(&format!("u-{VISITOR}"), &user(1));
        fs::write(&answer, post(&mut TcpStream::connect(like.public)?, "/v1/decide", &body)?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("floor-a").arg("--answer").arg(&answer);
        let server = Server::start(&command, &point.cores(), &run.join("floor-a.log"))?;
        Ok(Subject { key: point.floor(), server, house: None })
    }

    fn measure(&self, server: &Server, point: &Point, floor: bool, repetition: usize) -> Result<Found> {
        let check = if floor { Check::Nothing } else { Check::Offers(OFFERED) };
        let visitors = self.axis.visitors.min(point.profiles);
        let mut traffic = decisions(point.slot, point.context, visitors, check);
        traffic.visitors.skip(repetition * 100_003);
        let mut generator = Generator::connect(server.public, self.connections, u64::try_from(repetition)?)?;
        generator.sleeps = point.cores > self.cores.generator;
        measure(server, &mut generator, &mut traffic, self.cores, self.times, floor)
    }

    /// All points of the axis in turn, as often as there are repetitions.
    fn run(&self) -> Result<Value> {
        let points = &self.axis.points;
        let mut servers: Vec<Subject<ServerKind>> = Vec::new();
        let mut floors: Vec<Subject<FloorKind>> = Vec::new();
        for point in points {
            if !servers.iter().any(|subject| subject.key == point.server()) {
                servers.push(self.serve(point)?);
            }
            let like = &servers.first().context("a server is up")?.server;
            if !floors.iter().any(|subject| subject.key == point.floor()) {
                floors.push(self.floor(point, like)?);
            }
        }
        let mut found: Vec<Vec<Found>> = points.iter().map(|_| Vec::new()).collect();
        let mut of_floors: Vec<Vec<Found>> = floors.iter().map(|_| Vec::new()).collect();
        for repetition in 0..self.repetitions {
            for (floor, found) in floors.iter().zip(&mut of_floors) {
                let point = points.iter().find(|point| point.floor() == floor.key).context("a floor has a point")?;
                found.push(self.measure(&floor.server, point, true, repetition)?);
            }
            for (point, found) in points.iter().zip(&mut found) {
                let subject = servers.iter().find(|subject| subject.key == point.server());
                let server = &subject.context("a server is up")?.server;
                let new = self
                    .measure(server, point, false, repetition)
                    .with_context(|| format!("{} {}", point.at, self.axis.unit))?;
                eprintln!(
                    "{:>9} {:<24}{:>9.0} requests/s, {:.1} µs CPU, {:.0} µs p50, {:.0} µs p99",
                    point.at, self.axis.unit, new.rps, new.cpu_us_per_request, new.p50_us, new.p99_us
                );
                found.push(new);
            }
        }
        let points = points.iter().zip(&found).map(|(point, found)| {
            let place = floors.iter().position(|subject| subject.key == point.floor());
            let floor = place.map(|place| &of_floors[place]);
            let mut document = Map::new();
            document.insert("at".into(), point.at.into());
            document.insert(
                "floor_a_rps".into(),
                floor.map_or(Value::Null, |floor| report::row(floor, None, None)["rps"].clone()),
            );
            document.extend(report::row(found, floor, None));
            Value::Object(document)
        });
        let points: Vec<Value> = points.collect();
        for Subject { server, house, .. } in servers {
            drop(server);
            if let Some(House { run, .. }) = house {
                fs::remove_dir_all(&run).with_context(|| format!("remove {}", run.display()))?;
            }
        }
        Ok(json!({"name": self.axis.name, "unit": self.axis.unit, "log": self.axis.log, "points": points}))
    }
}

/// Measures every axis, writes scaling.json, and where all of them were measured the plots and the section of docs/performance.md.
pub fn scaling(arguments: &ScalingArguments) -> Result<()> {
    let began = Instant::now();
    let count = std::thread::available_parallelism()?.get();
    let cores = Cores { generator: count - 1, ..Cores::choose()? };
    let axes = axes(arguments.quick, count);
    if let Some(unknown) = arguments.only.iter().find(|name| !axes.iter().any(|axis| axis.name == name.as_str())) {
        let known = axes.iter().map(|axis| axis.name).collect::<Vec<_>>().join(", ");
        bail!("there is no axis {unknown}; there are {known}");
    }
    let House { root, own, run, .. } = House::new(0, None, "run")?;
    // Of a run that was broken off.
    remove(&run, |name| name.starts_with(FOLDER))?;
    let machine = machine::describe();
    pin(std::process::id(), &cores.generator.to_string())?;
    let each = arguments.seconds.unwrap_or(if arguments.quick { 0.8 } else { 2.0 });
    let times = Times {
        warm: Duration::from_secs_f64(each / 4.0),
        each: Duration::from_secs_f64(each),
        rest_between: !arguments.quick,
    };
    let repetitions = arguments.repetitions.unwrap_or(if arguments.quick { 1 } else { 3 });
    let wanted = |axis: &&Axis| arguments.only.is_empty() || arguments.only.iter().any(|name| name == axis.name);
    let mut found = Vec::new();
    for axis in axes.iter().filter(wanted) {
        let bench = Bench { cores, times, connections: arguments.connections, repetitions, axis };
        found.push(bench.run().with_context(|| axis.name)?);
    }
    let document = json!({
        "machine": machine,
        "workload": {"profiles": PROFILES, "visitors_in_memory": HOT, "connections": arguments.connections, "repetitions": repetitions, "seconds": each, "quick": arguments.quick},
        "seconds": began.elapsed().as_secs_f64().round(),
        "axes": found,
    });
    let path = own.join("scaling.json");
    report::write(&path, &document)?;
    println!("Written to {} after {:.0} s.", path.display(), began.elapsed().as_secs_f64());
    if arguments.only.is_empty() {
        publish(&root, &document)?;
    }
    Ok(())
}

fn publish(root: &Path, document: &Value) -> Result<()> {
    let docs = root.join("docs");
    let folder = docs.join("performance");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for axis in document["axes"].as_array().into_iter().flatten() {
        let Some(name) = axis["name"].as_str() else { continue };
        let path = folder.join(format!("{name}.svg"));
        fs::write(&path, plots::draw(axis)?).with_context(|| format!("write {}", path.display()))?;
    }
    let page = docs.join("performance.md");
    page::rewrite(&page, "scaling", &page::scaling(document))?;
    println!("{} shows it.", page.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_they_say() {
        let axes = axes(false, 2);
        assert_eq!(axes.iter().map(|axis| axis.points.len()).collect::<Vec<_>>(), [4, 4, 4, 4, 2, 4]);
        for axis in &axes {
            assert!(axis.points.is_sorted_by_key(|point| point.at));
            assert!(axis.points.iter().all(|point| SHELVES.iter().any(|shelf| shelf.slot == point.slot)));
        }
        for point in &axes[2].points {
            let shelf = SHELVES.iter().find(|shelf| shelf.slot == point.slot).expect("a shelf");
            assert_eq!(u32::try_from(shelf.offers), Ok(point.at));
        }
        assert_eq!(axes[4].points[1].cores(), "0,1");
        assert_eq!(super::axes(true, 8)[0].points.len(), 3);
    }
}
