//! A private PostgreSQL for the demo: in a temporary folder, on a free port of the loopback, gone with the demo. Found and started as the tests of the central log do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::shell::output;

/// Its user, and its one database.
const NAME: &str = "postgres";
/// Ports that are tried.
const TRIES: usize = 5;

/// A running server.
pub struct Postgres {
    server: Child,
    /// Goes once the server has ended.
    _folder: Folder,
    port: u16,
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the system's temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Postgres {
    /// Makes a database and serves it.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let folder = Folder(std::env::temp_dir().join(format!("selvedge-demo-pg-{}", std::process::id())));
        let made = fs::DirBuilder::new().mode(0o700).create(&folder.0);
        made.with_context(|| format!("create {}", folder.0.display()))?;
        let data = folder.0.join("data");
        let mut initdb = command(&programs.join("initdb"), &folder.0)?;
        initdb.args(["--auth=trust", "--encoding=UTF8", "--no-sync", "--username", NAME, "--pgdata"]).arg(&data);
        output(&mut initdb)?;
        // The port may be taken between the look and the start.
        for _ in 0..TRIES {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let port = port.context("find a free port")?.port();
            let mut server = command(&programs.join("postgres"), &folder.0)?;
            server.arg("-D").arg(&data).arg("-k").arg(&folder.0).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
            let log = fs::File::create(folder.0.join("server.log")).context("create the server's log")?;
            let mut server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
            let mut ready = Command::new(programs.join("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
            // Asked until it answers or ends.
            while server.try_wait()?.is_none() {
                if ready.status().is_ok_and(|status| status.success()) {
                    return Ok(Self { server, _folder: folder, port });
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let log = fs::read_to_string(folder.0.join("server.log")).unwrap_or_default();
        bail!("PostgreSQL does not start: {log}")
    }

    /// The database's address.
    pub fn url(&self) -> String {
        format!("postgres://{NAME}@127.0.0.1:{}/{NAME}", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, its children too: nobody reads what it would still write down in its folder, which goes after it.
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

/// Where PostgreSQL's programs are: in the path, or where Debian puts them.
fn programs() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("initdb")).find(|program| program.exists());
    if let Some(program) = in_path {
        let program = program.canonicalize().context("the path of initdb")?;
        return program.parent().map(Path::to_owned).context("the folder of initdb");
    }
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql").map_or_else(
        |_| Vec::new(),
        |versions| versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect(),
    );
    folders.retain(|folder| folder.join("initdb").exists());
    folders.sort();
    folders.pop().context("--postgres needs PostgreSQL's programs; on Debian: apt-get install postgresql")
}

/// A program that runs as somebody else where this process is root, which PostgreSQL refuses to be.
fn command(program: &Path, folder: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(folder);
    if id("-u", &[])? == 0 {
        let user = if id("-u", &["postgres"]).is_ok() { "postgres" } else { "nobody" };
        let (uid, gid) = (id("-u", &[user])?, id("-g", &[user])?);
        ensure!(uid != 0, "PostgreSQL does not run as root, and there is no other user to run it as");
        chown(folder, Some(uid), Some(gid)).with_context(|| format!("give {} away", folder.display()))?;
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// The number of a user or of their group; this process's own where nobody is named.
fn id(option: &str, user: &[&str]) -> Result<u32> {
    output(Command::new("id").arg(option).args(user))?.parse().context("the number of a user")
}
