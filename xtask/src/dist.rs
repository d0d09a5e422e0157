//! What is shipped: the server with link-time optimisation, by a profile of what runs under load. The load bench is built beside it and alike, floors included.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::plugins::{self, Toolchain};
use crate::shell::{exists, output, root, run};

/// What was learned under load, as the compiler reads it. Made by `--train`; what has changed since is compiled as if nothing were known.
const PROFILE: &str = "runtime/server/dist.profdata";

/// The server, and what loads it.
const PROGRAMS: [&str; 2] = ["selvedge", BENCH];
const BENCH: &str = "selvedge-bench";

/// What `cargo xtask dist` can be told.
#[derive(Args)]
pub struct DistArguments {
    /// Learn anew what runs under load: build an instrumented server, load it with the bench's requests, and keep what was counted.
    #[arg(long)]
    train: bool,
}

/// Builds what is shipped, target/dist/selvedge.
pub fn dist(arguments: &DistArguments) -> Result<()> {
    if arguments.train {
        train()?;
    }
    build().map(|_| ())
}

/// Builds the server and the load bench by the profile that is kept; gives the folder in which they are.
fn build() -> Result<PathBuf> {
    let (target, folder) = (root().join("target"), root().join("target/dist"));
    let built = cargo(&target, &format!("-Cprofile-use={}", root().join(PROFILE).display()))?;
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for name in PROGRAMS {
        // One that runs cannot be written over, but it can be replaced.
        let fresh = folder.join(format!("{name}.new"));
        fs::copy(built.join(name), &fresh).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, folder.join(name)).with_context(|| format!("replace {}", folder.join(name).display()))?;
    }
    Ok(folder)
}

/// The load bench, built together with the binary that it measures.
pub fn load_bench() -> Result<Command> {
    let mut bench = Command::new(build()?.join(BENCH));
    bench.current_dir(root());
    Ok(bench)
}

/// Builds both; gives the folder in which they are. Build scripts and macros, which only run here, are compiled without the flags.
fn cargo(target: &Path, flags: &str) -> Result<PathBuf> {
    let triple = of_rustc("host")?;
    // With the whole workspace's features, so that no other command builds the dependencies again.
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--profile", "dist", "--locked", "--workspace", "--target", &triple]);
    cargo.args(PROGRAMS.iter().flat_map(|name| ["--bin", name])).arg("--target-dir").arg(target);
    run(cargo.env("RUSTFLAGS", flags).current_dir(root()))?;
    Ok(target.join(triple).join("dist"))
}

/// What the compiler says of itself.
fn of_rustc(what: &str) -> Result<String> {
    let version = output(Command::new("rustc").arg("-vV"))?;
    let said = version.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
    said.map(str::to_owned).with_context(|| format!("rustc does not say its {what}"))
}

/// Counts what runs under load, and keeps that.
fn train() -> Result<()> {
    let merge = profdata()?;
    plugins::build(Toolchain::Auto)?;
    let (root, target) = (root(), root().join("target/training"));
    let counts = target.join("counts");
    if counts.exists() {
        fs::remove_dir_all(&counts).with_context(|| format!("remove {}", counts.display()))?;
    }
    // The libraries are bitcode, which the linker compiles then: rustc need not do so too.
    let built = cargo(&target, &format!("-Cprofile-generate={} -Clto=off", counts.display()))?;
    run(Command::new(built.join(BENCH)).arg("train").current_dir(&root))?;
    // Without what never ran, of which nothing is known then: a fault's way is no colder than it was.
    let mut merge = Command::new(merge);
    run(merge.args(["merge", "--sparse", "--output"]).arg(root.join(PROFILE)).arg(&counts))
}

/// The program that reads what was counted: LLVM's, of the version that the compiler has.
fn profdata() -> Result<PathBuf> {
    let version = of_rustc("LLVM version")?;
    let llvm = version.split('.').next().unwrap_or_default();
    let program = format!("llvm-profdata-{llvm}");
    if !exists(&program) {
        let package = format!("llvm-{llvm}");
        if !Path::new("/etc/debian_version").exists() || output(Command::new("id").arg("-u"))? != "0" {
            bail!("{program} is missing; it is in the package {package}, on Debian `apt-get install {package}`");
        }
        let install = ["install", "--no-install-recommends", "-qq", "-y", package.as_str()];
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get").args(install).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    Ok(program.into())
}
