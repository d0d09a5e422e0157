//! The demo: an edge with the sample plugins and the demo's catalogue, and a small storefront in front of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::plugins::{self, Toolchain};
use crate::shell::{root, run};

/// What the demo can be told.
#[derive(Args)]
pub struct DemoArguments {
    /// The edge's public address.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The edge's admin address.
    #[arg(long, default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
    /// The storefront's address.
    #[arg(long, default_value = "127.0.0.1:8082")]
    shop: SocketAddr,
    /// Where the demo keeps its data [default: target/demo]; a second demo beside the first needs another place.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Forget what was done in the demo before.
    #[arg(long)]
    fresh: bool,
    /// Stop once everything serves.
    #[arg(long)]
    exit_after_ready: bool,
}

/// A process that ends with the demo.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// Builds everything, starts it, and waits until it is interrupted.
pub fn demo(arguments: &DemoArguments) -> Result<()> {
    let root = root();
    plugins::build(Toolchain::Auto)?;
    // With the whole workspace's features, so that no other command builds the dependencies again.
    let build = ["build", "--release", "--locked", "--workspace", "--bin", "selvedge", "--example", "storefront"];
    run(Command::new("cargo").args(build).current_dir(&root))?;

    let shop_at = free(arguments.shop)?;
    let keys = [
        ("SELVEDGE_PUBLISHABLE_KEY", key("pk")?),
        ("SELVEDGE_WRITE_KEY", key("wk")?),
        ("SELVEDGE_SECRET_KEY", key("sk")?),
    ];
    let mut edge = Command::new(root.join("target/release/selvedge"));
    let data = arguments.data.clone().unwrap_or_else(|| root.join("target/demo"));
    let earlier = data.exists();
    if earlier && arguments.fresh {
        std::fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
    }
    // The shop signs tokens for its customers; the edge knows its secret from a file.
    let secret = key("shop")?;
    let config = root.join("target/demo.toml");
    write_private(
        &config,
        &format!("[[identity.tokens]]\nalgorithm = \"HS256\"\naudience = \"shop\"\nsecret = \"{secret}\"\n"),
    )?;
    edge.arg("run").arg("--config").arg(&config).arg("--data").arg(&data);
    edge.args(["--listen", &arguments.listen.to_string(), "--admin", &arguments.admin.to_string()]);
    edge.arg("--plugins")
        .arg(root.join("target/plugins"))
        .arg("--catalog")
        .arg(root.join("plugins/retail/catalog.toml"));
    edge.args(["--cors-origin", &format!("http://{shop_at}")]).envs(keys.clone());
    let (_edge, ready) = start(edge, "the edge")?;
    let address = |ready: &Value, name: &str| ready[name].as_str().unwrap_or_default().to_owned();

    let mut shop = Command::new(root.join("target/release/examples/storefront"));
    shop.args(["--edge", &address(&ready, "public"), "--listen", &shop_at.to_string()]).envs(keys.clone());
    shop.env("SELVEDGE_SHOP_TOKEN_SECRET", &secret);
    let (_shop, shop_ready) = start(shop, "the storefront")?;

    let events = &shop_ready["simulatedEvents"];
    println!(
        "The storefront is at {} ({events} events of simulated visitors are in).",
        address(&shop_ready, "storefront")
    );
    println!("The edge is at {}, its metrics at {}/metrics.", address(&ready, "public"), address(&ready, "admin"));
    if earlier && !arguments.fresh {
        println!("It goes on where the last demo ended ({}); --fresh begins anew.", data.display());
    }
    for (name, key) in &keys {
        println!("export {name}={key}");
    }
    if arguments.exit_after_ready {
        return Ok(());
    }
    println!("Press Ctrl-C to end.");
    let (interrupt, interrupted) = mpsc::channel();
    ctrlc::set_handler(move || _ = interrupt.send(())).context("wait for an interrupt")?;
    interrupted.recv().context("wait for an interrupt")?;
    Ok(())
}

/// Starts a process and waits for its line on standard output.
fn start(mut command: Command, name: &str) -> Result<(Running, Value)> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {name}"))?;
    let stdout = child.stdout.take().with_context(|| format!("read what {name} says"))?;
    let running = Running(child);
    let mut lines = BufReader::new(stdout).lines();
    let Some(Ok(line)) = lines.next() else { bail!("{name} ended before it was ready") };
    let ready: Value = serde_json::from_str(&line).with_context(|| format!("{name} said {line:?}"))?;
    // Whatever else it says goes on to the terminal, so that its pipe never fills.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("{line}")));
    Ok((running, ready))
}

/// An address whose port is known: the page's origin must be, before the edge starts.
fn free(address: SocketAddr) -> Result<SocketAddr> {
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .with_context(|| format!("listen on {address}"))
}

/// A key that nobody guesses, for this run of the demo only.
fn key(prefix: &str) -> Result<String> {
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("read randomness")?;
    Ok(bytes.iter().fold(format!("{prefix}_demo_"), |text, byte| format!("{text}{byte:02x}")))
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("write {}", path.display()))
}
