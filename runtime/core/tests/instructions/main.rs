//! How many instructions the parts of a decision and of an event take, counted by valgrind and held to what is written down in `counts.toml`.
//!
//! A count hardly varies with the machine, as a time does; so a part that has become dearer by a twentieth fails, and one that has become cheaper has to be written down.
//! `SELVEDGE_COUNT=write cargo test --release --workspace --test instructions` does that; the change is to be looked at before it is committed.
//!
//! Each part runs in a process of its own, some times and then more times: what lies between is the part's.

mod parts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Names the part that a process is to run, and how often: `NAME:TIMES`.
const RUN: &str = "SELVEDGE_COUNTED";
/// `write` writes the counts down instead of comparing them.
const MODE: &str = "SELVEDGE_COUNT";
/// How often a part runs in the one process and in the other.
const TIMES: (u64, u64) = (20, 220);
/// What a count may be off: so many parts of a hundred, and so many instructions, by which a small part varies from build to build.
const TOLERANCE: (u64, u64) = (5, 50);

fn main() -> ExitCode {
    if let Ok(run) = std::env::var(RUN) {
        let (name, times) = run.split_once(':').expect("NAME:TIMES");
        parts::run(name, times.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    // As other tests do: a filter that does not name this one leaves it out, and so does asking for a list.
    let mut arguments = std::env::args().skip(1);
    if arguments
        .any(|argument| argument == "--list" || !argument.starts_with('-') && !"instructions".contains(&argument))
    {
        return ExitCode::SUCCESS;
    }
    let found: BTreeMap<&str, u64> = parts::NAMES.iter().map(|name| (*name, count(name))).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions/counts.toml");
    if std::env::var(MODE).is_ok_and(|mode| mode == "write") {
        let lines: String = found.iter().map(|(name, count)| format!("{name} = {count}\n")).collect();
        let head = "# Instructions of one run of each part; written by SELVEDGE_COUNT=write cargo test --release --workspace --test instructions\n";
        std::fs::write(&path, format!("{head}{lines}")).expect("write the counts");
        return ExitCode::SUCCESS;
    }
    let held: BTreeMap<String, u64> =
        toml::from_str(&std::fs::read_to_string(&path).expect("the counts")).expect("counts");
    let mut good = true;
    for (name, count) in found {
        let held = held.get(name).copied().unwrap_or(0);
        let holds = count.abs_diff(held) <= held * TOLERANCE.0 / 100 + TOLERANCE.1;
        println!("{name}: {count} instructions, {held} written down{}", if holds { "" } else { ": OFF" });
        good &= holds;
    }
    if !good {
        println!(
            "Where that is meant, write the counts down: {MODE}=write cargo test --release --workspace --test instructions"
        );
    }
    ExitCode::from(u8::from(!good))
}

/// Instructions of one run of a part.
fn count(name: &str) -> u64 {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (few, many) = (counted(name, TIMES.0, folder), counted(name, TIMES.1, folder));
    (many - few) / (TIMES.1 - TIMES.0)
}

fn counted(name: &str, times: u64, folder: &Path) -> u64 {
    let out: PathBuf = folder.join(format!("{name}.callgrind"));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(std::env::current_exe().expect("its own path")).env(RUN, format!("{name}:{times}"));
    let ended = valgrind.status().expect("valgrind; `cargo xtask test --prepare` installs it");
    assert!(ended.success(), "{name} under valgrind ended with {ended}");
    let text = std::fs::read_to_string(&out).expect("what valgrind counted");
    let totals = text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    totals.and_then(|totals| totals.trim().parse().ok()).expect("a total")
}
