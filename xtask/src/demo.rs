//! The demo: an edge with the sample plugins and the demo's catalogue, and a small storefront in front of it. With `--edges`, a centre and several edges.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::demo_edges;
use crate::plugins::{self, Toolchain};
use crate::shell::{root, run};

/// What the demo can be told.
#[derive(Args)]
pub struct DemoArguments {
    /// The edge's public address; of several, the first one's.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The edge's admin address; of several, the first one's.
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub admin: SocketAddr,
    /// The storefront's address.
    #[arg(long, default_value = "127.0.0.1:8082")]
    pub shop: SocketAddr,
    /// Start a centre and so many edges that follow it, the storefront before the first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub edges: Option<u8>,
    /// Keep the centre's log in a private PostgreSQL instead of redb. Begins anew each time.
    #[arg(long, requires = "edges")]
    pub postgres: bool,
    /// The centre's address for edges.
    #[arg(long, default_value = "127.0.0.1:8090", requires = "edges")]
    pub central: SocketAddr,
    /// The centre's admin address.
    #[arg(long, default_value = "127.0.0.1:8091", requires = "edges")]
    pub central_admin: SocketAddr,
    /// Where the demo keeps its data [default: target/demo; with several edges target/demo-edges]; a second demo beside the first needs another place.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Forget what was done in the demo before.
    #[arg(long)]
    pub fresh: bool,
    /// Stop once everything serves.
    #[arg(long)]
    pub exit_after_ready: bool,
}

/// A process that ends with the demo.
pub struct Running(Child);

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
    let setting = Setting::new(&root, shop_at)?;
    if let Some(edges) = arguments.edges {
        return demo_edges::run(arguments, &setting, edges);
    }
    let data = arguments.data.clone().unwrap_or_else(|| root.join("target/demo"));
    let earlier = began_before(&data, arguments.fresh)?;
    let mut edge = setting.edge("run", &data, arguments.listen, arguments.admin);
    setting.release(&mut edge)?;
    let (_edge, ready) = start(edge, "the edge")?;
    let (_shop, shop_ready) = start(setting.storefront(&address(&ready, "public")), "the storefront")?;

    setting.say_storefront(&shop_ready);
    let admin = address(&ready, "admin");
    println!("The edge is at {}, its metrics at {admin}/metrics.", address(&ready, "public"));
    println!("What was decided and why: {admin}/admin/");
    setting.wait(arguments, earlier.then_some(&data))
}

/// What the processes of a demo have in common.
pub struct Setting {
    root: PathBuf,
    /// The keys of callers, as the environment names them.
    pub keys: [(&'static str, String); 3],
    /// The configuration of edges.
    config: PathBuf,
    /// With it the shop signs tokens for its customers.
    secret: String,
    shop_at: SocketAddr,
}

impl Setting {
    fn new(root: &Path, shop_at: SocketAddr) -> Result<Self> {
        let keys = [
            ("SELVEDGE_PUBLISHABLE_KEY", key("pk")?),
            ("SELVEDGE_WRITE_KEY", key("wk")?),
            ("SELVEDGE_SECRET_KEY", key("sk")?),
        ];
        // The shop signs tokens for its customers; the edge knows its secret from a file.
        let secret = key("shop")?;
        let config = root.join("target/demo.toml");
        write_private(
            &config,
            &format!("[[identity.tokens]]\nalgorithm = \"HS256\"\naudience = \"shop\"\nsecret = \"{secret}\"\n"),
        )?;
        Ok(Self { root: root.to_owned(), keys, config, secret, shop_at })
    }

    /// The binary.
    pub fn selvedge(&self) -> Command {
        Command::new(self.root.join("target/release/selvedge"))
    }

    /// An edge in a role, not started yet.
    pub fn edge(&self, role: &str, data: &Path, listen: SocketAddr, admin: SocketAddr) -> Command {
        let mut edge = self.selvedge();
        edge.arg(role).arg("--config").arg(&self.config).arg("--data").arg(data);
        edge.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        edge.args(["--decision-records", "all"]);
        edge.args(["--cors-origin", &format!("http://{}", self.shop_at)]).envs(self.keys.clone());
        edge
    }

    /// Has a process release the sample plugins and the demo's catalogue.
    pub fn release(&self, process: &mut Command) -> Result<()> {
        process.arg("--plugins").arg(self.plugins()?);
        process.arg("--catalog").arg(self.root.join("plugins/retail/catalog.toml"));
        Ok(())
    }

    /// The sample plugins, one of which defines for the demo when each product was bought last.
    fn plugins(&self) -> Result<PathBuf> {
        let (built, folder) = (self.root.join("target/plugins"), self.root.join("target/demo-plugins"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let copy = |from: &Path, name: &OsStr| {
            std::fs::copy(from, folder.join(name)).with_context(|| format!("copy {}", from.display()))
        };
        for entry in std::fs::read_dir(&built).with_context(|| format!("list {}", built.display()))? {
            let file = entry?;
            copy(&file.path(), &file.file_name())?;
        }
        copy(&self.root.join("plugins/retail/last-bought.toml"), OsStr::new("aggregates.toml"))?;
        Ok(folder)
    }

    /// The storefront before an edge, not started yet.
    pub fn storefront(&self, edge: &str) -> Command {
        let mut shop = Command::new(self.root.join("target/release/examples/storefront"));
        shop.args(["--edge", edge, "--listen", &self.shop_at.to_string()]).envs(self.keys.clone());
        shop.env("SELVEDGE_SHOP_TOKEN_SECRET", &self.secret);
        shop
    }

    /// Says where the storefront is.
    pub fn say_storefront(&self, ready: &Value) {
        let events = &ready["simulatedEvents"];
        println!(
            "The storefront is at {} ({events} events of simulated visitors are in).",
            address(ready, "storefront")
        );
    }

    /// Says the keys, and waits until the demo is to end. `earlier` is where it goes on from.
    pub fn wait(&self, arguments: &DemoArguments, earlier: Option<&PathBuf>) -> Result<()> {
        if let Some(data) = earlier {
            println!("It goes on where the last demo ended ({}); --fresh begins anew.", data.display());
        }
        for (name, key) in &self.keys {
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
}

/// Whether a demo goes on from what an earlier one left, which is removed where it is to begin anew.
pub fn began_before(data: &Path, fresh: bool) -> Result<bool> {
    let earlier = data.exists();
    if earlier && fresh {
        std::fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))?;
    }
    Ok(earlier && !fresh)
}

/// An address that a process said it is ready at.
pub fn address(ready: &Value, name: &str) -> String {
    ready[name].as_str().unwrap_or_default().to_owned()
}

/// Starts a process and waits for its line on standard output.
pub fn start(mut command: Command, name: &str) -> Result<(Running, Value)> {
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
pub fn key(prefix: &str) -> Result<String> {
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
