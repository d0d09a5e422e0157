//! Everything that CI runs, in one command.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::plugins::{self, Toolchain};
use crate::shell::{exists, output, root, run};

/// What `cargo xtask test` can be told.
#[derive(Args)]
pub struct TestArguments {
    /// Only install what the tests need.
    #[arg(long)]
    prepare: bool,
    /// Build the server with fewer optimisations: it is there in half the time, and the same tests run.
    #[arg(long)]
    lightly: bool,
}

/// What builds the server lightly. Everything else is as it is shipped, wasmtime above all.
const LIGHTLY: [&str; 2] = ["--config", "profile.release.package.selvedge-server.opt-level=1"];

/// Installs what is missing, then checks format and lints, builds guests and host, and runs every test.
pub fn test(arguments: &TestArguments) -> Result<()> {
    let started = Instant::now();
    let step = |name: &str| eprintln!("\n== {name} ({} s)", started.elapsed().as_secs());
    if arguments.prepare {
        return prepare();
    }
    let root = root();
    let cargo = |folder: &Path, arguments: &[&str]| run(Command::new("cargo").args(arguments).current_dir(folder));
    let lightly: &[&str] = if arguments.lightly { &LIGHTLY } else { &[] };
    let host = |arguments: &[&str], last: &[&str]| {
        cargo(&root, &[arguments, &["--release", "--locked", "--workspace"], lightly, last].concat())
    };
    let plugins = root.join("plugins");
    let native = root.join("target/guests/native");
    let native = native.to_string_lossy();

    step("format");
    cargo(&root, &["fmt", "--all", "--check"])?;
    cargo(&plugins, &["fmt", "--all", "--check"])?;
    step("lints, and what the tests need");
    std::thread::scope(|scope| {
        // Mostly waits for others.
        let preparing = scope.spawn(prepare);
        let guests = ["clippy", "--locked", "--workspace", "--all-targets", "--target-dir", &native];
        let warnings = ["--", "-D", "warnings"];
        let linted = cargo(&plugins, &[guests.as_slice(), &warnings].concat())
            .and_then(|()| host(&["clippy", "--all-targets"], &warnings));
        preparing.join().unwrap_or_else(|_| bail!("what prepares the tests panicked"))?;
        linted
    })?;
    step("guests");
    plugins::build(Toolchain::Auto)?;
    step("build");
    // Benches are looked at by the lints alone: each would be linked with wasmtime.
    host(&["build", "--lib", "--bins", "--examples", "--tests"], &[])?;
    step("tests of the guests, natively");
    cargo(&plugins, &["test", "--locked", "--workspace", "--target-dir", &native])?;
    step("tests of the host");
    host(&["test", "--no-fail-fast"], &[])?;
    step("documentation");
    let mut doc = Command::new("cargo");
    doc.args(["doc", "--release", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    run(doc.current_dir(&root))?;
    eprintln!("\nEverything holds ({} s).", started.elapsed().as_secs());
    Ok(())
}

/// Whether PostgreSQL's server is there: in the path, or where Debian puts it, outside of the path.
fn postgres_exists() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    exists("initdb") || versions.into_iter().any(|version| version.path().join("bin/initdb").exists())
}

/// Node with the SDKs and the browser's driver, Python with its SDK, Chromium, PostgreSQL, and valgrind, which counts instructions.
fn prepare() -> Result<()> {
    let clients = root().join("tests/clients");
    let mut missing: Vec<&str> = [
        ("node", "nodejs"),
        ("npm", "npm"),
        ("python3", "python3-venv"),
        ("chromium", "chromium"),
        ("valgrind", "valgrind"),
    ]
    .into_iter()
    .filter(|(program, _)| !exists(program))
    .map(|(_, package)| package)
    .collect();
    if !postgres_exists() {
        missing.push("postgresql");
    }
    if !missing.is_empty() {
        let packages = missing.join(" ");
        if !Path::new("/etc/debian_version").exists() || output(Command::new("id").arg("-u"))? != "0" {
            bail!("The tests need {packages}; install them, on Debian as root with `apt-get install {packages}`.");
        }
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            run(command.args(arguments).args(["-qq", "-y"]).env("DEBIAN_FRONTEND", "noninteractive"))
        };
        apt(&["update"])?;
        apt(&[&["install", "--no-install-recommends"], missing.as_slice()].concat())?;
    }
    let installed = clients.join("node_modules/.package-lock.json");
    let newer = |file: &Path, than: &Path| {
        let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        modified(file) >= modified(than)
    };
    if !newer(&installed, &clients.join("package-lock.json")) {
        run(Command::new("npm").args(["ci", "--no-fund", "--no-audit"]).current_dir(&clients))?;
    }
    let python = root().join("target/clients-python");
    let stamp = python.join("requirements.txt");
    if !newer(&stamp, &clients.join("requirements.txt")) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&python))?;
        let mut pip = Command::new(python.join("bin/python"));
        run(pip
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"])
            .current_dir(&clients))?;
        std::fs::copy(clients.join("requirements.txt"), stamp)?;
    }
    Ok(())
}
