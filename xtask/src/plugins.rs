//! Compiling plugins to components.
//!
//! A guest needs the standard library for wasm32-unknown-unknown. The rustup target is the usual way to it; where rustup cannot fetch one,
//! Debian's own Rust for the web brings the library's source, from which it is built once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::shell::{exists, output, root, run};

const TARGET: &str = "wasm32-unknown-unknown";
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_SOURCES: &str = "/usr/src/rustc-web";

/// How to compile for the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Toolchain {
    /// The rustup target if it is there or can be fetched, else Debian's packages.
    #[default]
    Auto,
    /// The rustup target.
    Rustup,
    /// Debian's rustc-web, cargo-web and rust-web-src.
    Debian,
}

/// Compiles every plugin; returns the folder with the components.
pub fn build(toolchain: Toolchain) -> Result<PathBuf> {
    let toolchain = choose(toolchain)?;
    let root = root();
    let target = root.join("target/guests").join(match toolchain {
        Toolchain::Debian => "debian",
        _ => "rustup",
    });
    let mut cargo = cargo(toolchain)?;
    // The plugins' own .cargo/config.toml sets the guest's stack; cargo finds it from the folder it runs in.
    cargo.args(["build", "--release", "--workspace", "--target", TARGET]).arg("--target-dir").arg(&target);
    run(cargo.current_dir(root.join("plugins")))?;
    let built = target.join(TARGET).join("release");
    let plugins = encode(&root.join("plugins"), &built, &root.join("target/plugins"))?;
    encode(&root.join("tests/guests"), &built, &root.join("target/test-guests"))?;
    eprintln!("{} plugins in {}", plugins.len(), root.join("target/plugins").display());
    Ok(root.join("target/plugins"))
}

/// Compiles a crate that is a workspace of its own, and wraps it as a component. Plugins are built before, so there is a toolchain.
pub fn build_alone(folder: &Path, module: &str, into: &Path) -> Result<()> {
    let toolchain = choose(Toolchain::Auto)?;
    let target = root().join("target/guests/alone");
    let mut cargo = cargo(toolchain)?;
    cargo.args(["build", "--release", "--locked", "--target", TARGET]).arg("--target-dir").arg(&target);
    run(cargo.current_dir(folder))?;
    let built = target.join(TARGET).join("release").join(module);
    let module = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let component = wrap(&module).with_context(|| format!("wrap {} as a component", built.display()))?;
    fs::write(into, component).with_context(|| format!("write {}", into.display()))
}

fn wrap(module: &[u8]) -> Result<Vec<u8>> {
    wit_component::ComponentEncoder::default().validate(true).module(module).and_then(|encoder| encoder.encode())
}

/// Wraps the core module of every crate in a folder as a component, with its configuration beside it.
fn encode(crates: &Path, built: &Path, into: &Path) -> Result<Vec<String>> {
    if into.exists() {
        fs::remove_dir_all(into).with_context(|| format!("empty {}", into.display()))?;
    }
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(crates).with_context(|| format!("list {}", crates.display()))? {
        let folder = entry?.path();
        let Some(name) = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        let module = built.join(format!("{}.wasm", name.replace('-', "_")));
        if !folder.join("Cargo.toml").exists() || !module.exists() {
            continue;
        }
        let module = fs::read(&module).with_context(|| format!("read {}", module.display()))?;
        let component = wrap(&module).with_context(|| format!("wrap {name} as a component"))?;
        fs::write(into.join(format!("{name}.wasm")), component).with_context(|| format!("write {name}.wasm"))?;
        let config = folder.join(format!("{name}.toml"));
        if config.exists() {
            fs::copy(&config, into.join(format!("{name}.toml"))).with_context(|| format!("copy {name}.toml"))?;
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

fn choose(wanted: Toolchain) -> Result<Toolchain> {
    if wanted != Toolchain::Debian {
        if rustup_target_present() {
            return Ok(Toolchain::Rustup);
        }
        if exists("rustup") {
            eprintln!("The target {TARGET} is missing; asking rustup for it.");
            match run(Command::new("rustup").args(["target", "add", TARGET])) {
                Ok(()) if rustup_target_present() => return Ok(Toolchain::Rustup),
                Ok(()) => eprintln!("rustup added the target to another toolchain than the one in use."),
                Err(error) => eprintln!("rustup could not add the target: {error:#}"),
            }
        }
        if wanted == Toolchain::Rustup {
            bail!("The target {TARGET} is missing; run `rustup target add {TARGET}` where the network allows it.");
        }
    }
    install_debian()?;
    Ok(Toolchain::Debian)
}

fn rustup_target_present() -> bool {
    output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))
        .is_ok_and(|folder| fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()))
}

fn install_debian() -> Result<()> {
    let missing = "Plugins cannot be compiled here";
    if !Path::new("/etc/debian_version").exists() {
        bail!("{missing}: the target {TARGET} is missing, and this is not Debian; run `rustup target add {TARGET}`.");
    }
    let installed = |package: &&str| {
        output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]))
            .is_ok_and(|status| status.ends_with("installed"))
    };
    if DEBIAN_PACKAGES.iter().all(installed) && Path::new(DEBIAN_SOURCES).exists() {
        return Ok(());
    }
    if output(Command::new("id").arg("-u"))? != "0" {
        bail!(
            "{missing}: run `rustup target add {TARGET}`, or as root `apt-get install {}`.",
            DEBIAN_PACKAGES.join(" ")
        );
    }
    eprintln!("Installing Debian's Rust for the web: {}.", DEBIAN_PACKAGES.join(", "));
    let apt = |arguments: &[&str]| {
        run(Command::new("apt-get").args(arguments).args(["-qq", "-y"]).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update"])
        .and_then(|()| apt(&[&["install", "--no-install-recommends"], DEBIAN_PACKAGES.as_slice()].concat()))
        .with_context(|| {
            format!("{missing}: neither rustup nor apt-get could fetch what is needed; is there a network?")
        })
}

fn cargo(toolchain: Toolchain) -> Result<Command> {
    if toolchain != Toolchain::Debian {
        return Ok(Command::new("cargo"));
    }
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let linker = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/rust-lld");
    if !linker.exists() {
        bail!("Plugins cannot be linked here: {} is missing.", linker.display());
    }
    let mut cargo = Command::new("/usr/bin/cargo");
    // Debian's compiler is a release that knows -Z build-std only in bootstrap mode.
    cargo
        .args(["-Z", "build-std=std,panic_abort"])
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    Ok(cargo)
}
