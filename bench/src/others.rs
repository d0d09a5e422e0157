//! Other ways to the same decision, measured where their tools are installed: Node with fastify, and a component under `wasmtime serve`.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::data::{self, Person};
use crate::judge::{CODES, NUMBERS};
use crate::load::{Generator, Pace};
use crate::native::{Native, end_of};
use crate::prepare::{House, post};
use crate::process::Server;
use crate::request::{VISITOR, user};
use crate::rows::{Target, decide_body, warming};

/// The least Node that fastify takes.
const NODE_MIN: u32 = 20;
/// The least wasmtime: that of the server under measurement.
const WASMTIME_MIN: u32 = 48;
/// Room for profiles in V8's heap, in MiB: a million of them need a fifth of it.
const NODE_HEAP_MIB: u32 = 8 * 1024;
/// Requests after which JavaScript is compiled.
const UNTIL_COMPILED: u64 = 20_000;
/// Visitors for whom a server must decide as floor B does.
const COMPARED: u32 = 8;
/// How far priorities may differ: exponentials of two libraries do in the last digit.
const TOLERANCE: f64 = 1e-9;

/// What a program says of its version; why there is none.
fn version(program: &str) -> Result<String, String> {
    match Command::new(program).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => Err(format!("`{program} --version` ends with {}", output.status)),
        Err(_) => Err(format!("there is no {program}")),
    }
}

/// The first number of a version, such as 48 of `wasmtime 48.0.1` or 20 of `v20.1`.
fn major(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches(|character: char| !character.is_ascii_digit());
    digits.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a server can be measured here; why not, where that is so.
pub fn is_there(target: Target, house: &House) -> Result<Result<(), String>> {
    match target {
        Target::Node => node_is_there(house),
        Target::Wasmtime => Ok(wasmtime_is_there(house)),
        _ => Ok(Ok(())),
    }
}

/// Fetches what the Node server depends on, into target/bench/node; why it cannot be measured, where that is so.
fn node_is_there(house: &House) -> Result<Result<(), String>> {
    let node = match version("node") {
        Ok(version) => version,
        Err(reason) => return Ok(Err(reason)),
    };
    if major(&node).is_none_or(|major| major < NODE_MIN) {
        return Ok(Err(format!("Node is {node}, and fastify wants {NODE_MIN} or newer")));
    }
    if let Err(reason) = version("npm") {
        return Ok(Err(reason));
    }
    let (from, into) = (house.root.join("bench/node"), house.own.join("node"));
    fs::create_dir_all(&into).with_context(|| format!("create {}", into.display()))?;
    let lock = fs::read(from.join("package-lock.json")).context("read bench/node/package-lock.json")?;
    let installed = into.join("node_modules").exists()
        && fs::read(into.join("package-lock.json")).is_ok_and(|installed| installed == lock);
    for name in ["package.json", "server.mjs"] {
        fs::copy(from.join(name), into.join(name)).with_context(|| format!("copy bench/node/{name}"))?;
    }
    if installed {
        return Ok(Ok(()));
    }
    fs::write(into.join("package-lock.json"), lock).context("write package-lock.json")?;
    eprintln!("Installing fastify in {}.", into.display());
    let npm =
        Command::new("npm").args(["ci", "--no-fund", "--no-audit", "--ignore-scripts"]).current_dir(&into).output();
    let npm = npm.context("start npm")?;
    if npm.status.success() {
        return Ok(Ok(()));
    }
    // Half of it may be there.
    let _ = fs::remove_dir_all(into.join("node_modules"));
    let said = String::from_utf8_lossy(&npm.stderr).lines().last().unwrap_or_default().to_owned();
    Ok(Err(format!("npm could not install fastify: {said}")))
}

/// Starts the Node server on a core, with all profiles in its heap. `answer` is one of the server under measurement.
pub fn node(house: &House, answer: &Path, core: usize) -> Result<Server> {
    let folder = house.own.join("node");
    let (profiles, offers) = (house.run.join("node-profiles.bin"), house.run.join("node-offers.json"));
    write_profiles(&profiles, house.profiles).with_context(|| format!("write {}", profiles.display()))?;
    let end = end_of(&fs::read(answer).context("read the answer")?)?;
    let offer = |index| {
        let (id, category, value) = data::offer(index);
        json!({"id": id, "category": category, "value": value as f64 / 100.0, "content": data::content(index)})
    };
    let known = json!({
        "numbers": NUMBERS, "codes": CODES, "levels": data::LEVEL_NAMES, "end": end,
        "offers": (0..data::OFFERS).map(offer).collect::<Vec<_>>(),
    });
    fs::write(&offers, known.to_string()).with_context(|| format!("write {}", offers.display()))?;
    let mut command = Command::new("node");
    command.arg(format!("--max-old-space-size={NODE_HEAP_MIB}"));
    command.arg(folder.join("server.mjs")).arg(&profiles).arg(&offers).env("NODE_ENV", "production");
    let server = Server::start(&command, &core.to_string(), &house.run.join("node.log"))?;
    fs::remove_file(&profiles).with_context(|| format!("remove {}", profiles.display()))?;
    agrees(server.public, answer).context("Node")?;
    // Until it is compiled as far as it will be.
    Generator::connect(server.public, 16, 1)?.run(&mut warming(house.profiles), Pace::Count(UNTIL_COMPILED))?;
    Ok(server)
}

fn write_profiles(path: &Path, profiles: u32) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for visitor in 0..profiles {
        let person = Person::new(visitor);
        person.all_numbers().iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))?;
        let codes = person.levels.map(|level| u8::try_from(level).unwrap_or(u8::MAX));
        file.write_all(&codes)?;
    }
    Ok(file.flush()?)
}

fn component(house: &House) -> PathBuf {
    house.own.join("wasi.wasm")
}

fn wasmtime_is_there(house: &House) -> Result<(), String> {
    let wasmtime = version("wasmtime")?;
    if major(&wasmtime).is_none_or(|major| major < WASMTIME_MIN) {
        return Err(format!("it is {wasmtime}, and {WASMTIME_MIN} or newer is wanted"));
    }
    if component(house).exists() {
        Ok(())
    } else {
        Err("its component is not built; cargo xtask bench does that".into())
    }
}

/// Starts the component under `wasmtime serve` on a core, with a fresh instance for every request. `answer` as above.
pub fn wasmtime(house: &House, answer: &Path, core: usize) -> Result<Server> {
    let mut command = Command::new("wasmtime");
    command.args(["serve", "--addr", "127.0.0.1:0", "--max-instance-reuse-count", "1"]).arg(component(house));
    let log = house.run.join("wasmtime.log");
    let server = Server::start_saying(&command, &core.to_string(), &log, "Serving HTTP on http://")?;
    agrees(server.public, answer).context("wasmtime serve")?;
    Ok(server)
}

/// Makes sure that a server decides as floor B does, in answers about as long as this one.
fn agrees(address: SocketAddr, answer: &Path) -> Result<()> {
    let long = usize::try_from(fs::metadata(answer).context("read the answer")?.len())?;
    let native = Native::new(COMPARED, serde_json::value::to_raw_value(&json!({}))?)?;
    let mut stream = TcpStream::connect(address)?;
    for visitor in 0..COMPARED {
        let body = decide_body("home", "").replace(&format!("u-{VISITOR}"), &user(visitor));
        let theirs = post(&mut stream, "/v1/decide", &body)?;
        if theirs.len().abs_diff(long) > long / 20 {
            bail!("it answers {} bytes where the server under measurement answers {long}", theirs.len());
        }
        let theirs: Value = serde_json::from_slice(&theirs)?;
        let ours = native.decide(body.as_bytes()).context("floor B answers")?;
        let ours: Value = serde_json::from_slice(&ours)?;
        if !same_offers(&ours, &theirs) {
            bail!("it decides otherwise than floor B: {theirs} instead of {ours}");
        }
    }
    Ok(())
}

fn same_offers(ours: &Value, theirs: &Value) -> bool {
    let [ours, theirs] = [ours, theirs].map(|answer| answer["slots"][0]["offers"].as_array());
    ours.zip(theirs).is_some_and(|(ours, theirs)| {
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(one, other)| {
                let same = |field: &str| one[field] == other[field];
                let priorities = one["priority"].as_f64().zip(other["priority"].as_f64());
                ["id", "rank", "category", "content", "reasons"].into_iter().all(same)
                    && priorities.is_some_and(|(one, other)| (one - other).abs() < TOLERANCE)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(["v20.20.2", "wasmtime 48.0.1 (abc 2026-01-01)", "none"].map(major), [Some(20), Some(48), None]);
    }

    #[test]
    fn decisions_are_compared_by_their_offers() {
        let offers =
            |id: &str, priority: f64| json!({"slots": [{"offers": [{"id": id, "priority": priority, "rank": 1}]}]});
        assert!(same_offers(&offers("a", 1.0), &offers("a", 1.0 + 1e-12)));
        assert!(!same_offers(&offers("a", 1.0), &offers("a", 1.1)));
        assert!(!same_offers(&offers("a", 1.0), &offers("b", 1.0)));
        assert!(!same_offers(&offers("a", 1.0), &json!({"slots": []})));
    }

    #[test]
    fn a_visitor_takes_as_many_bytes_as_node_reads() {
        let path = std::env::temp_dir().join(format!("selvedge-bench-{}.bin", std::process::id()));
        write_profiles(&path, 3).expect("a file");
        let bytes = fs::read(&path).expect("a file");
        fs::remove_file(&path).expect("a file");
        assert_eq!(bytes.len(), 3 * (8 * NUMBERS + CODES));
        assert_eq!(bytes[..8], Person::new(0).all_numbers()[0].to_le_bytes());
    }
}
