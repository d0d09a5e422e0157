//! A private PostgreSQL for tests: in a temporary folder, on a free port of the loopback, stopped when it is dropped.
//!
//! Needs nothing but the standard library, `tempfile` and PostgreSQL's own programs, so that other test crates can include it by path.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running server.
pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    server: Child,
    port: u16,
}

/// Where PostgreSQL's programs are: in the path, or where Debian puts them.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("initdb")).find(|program| program.exists());
    if let Some(program) = in_path {
        let program = program.canonicalize().expect("the path of initdb");
        return program.parent().expect("a folder").to_owned();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL; run `cargo xtask test --prepare`");
    let mut folders: Vec<_> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    folders.retain(|folder| folder.join("initdb").exists());
    folders.sort();
    folders.pop().expect("initdb; run `cargo xtask test --prepare`")
}

fn number(option: &str, user: &[&str]) -> Option<u32> {
    let output = Command::new("id").arg(option).args(user).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A program that runs as somebody else where this process is root, which PostgreSQL refuses to be.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    if number("-u", &[]) == Some(0) {
        let user = if number("-u", &["postgres"]).is_some() { "postgres" } else { "nobody" };
        let (uid, gid) = (number("-u", &[user]).expect("a user"), number("-g", &[user]).expect("a group"));
        chown(folder, Some(uid), Some(gid)).expect("give the folder away");
        command.uid(uid).gid(gid);
    }
    command
}

impl Postgres {
    /// Starts one. `settings` are put into its configuration, line by line; `files` into its data folder.
    pub fn start_with(settings: &[&str], files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::Builder::new().prefix("selvedge-pg").tempdir().expect("a folder");
        let programs = programs();
        let data = folder.path().join("data");
        let mut initdb = command(&programs.join("initdb"), folder.path());
        initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "--pgdata"]).arg(&data);
        let made = initdb.output().expect("run initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, bytes) in files {
            let path = data.join(name);
            std::fs::write(&path, bytes).expect("write a file");
            let owner = std::fs::metadata(&data).expect("the data folder");
            let owner = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
            chown(&path, Some(owner.0), Some(owner.1)).expect("give the file away");
        }
        // The port may be taken between the look and the start.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
            let mut server = command(&programs.join("postgres"), folder.path());
            server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
            for setting in settings {
                server.args(["-c", setting]);
            }
            let log = std::fs::File::create(folder.path().join("server.log")).expect("a log");
            server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            let mut server = server.spawn().expect("start postgres");
            // Level-triggered: asked until it answers or ends.
            let ready = || {
                let mut ready = Command::new(programs.join("pg_isready"));
                ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status().is_ok_and(|is| is.success())
            };
            loop {
                if ready() {
                    return Self { folder, programs, server, port };
                }
                if server.try_wait().expect("its state").is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        let log = std::fs::read_to_string(folder.path().join("server.log")).unwrap_or_default();
        panic!("postgres does not start: {log}");
    }

    /// Starts one as it is by default.
    pub fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// Makes a database; gives its address.
    pub fn database(&self, name: &str) -> String {
        let port = self.port.to_string();
        let mut createdb = Command::new(self.programs.join("createdb"));
        let made =
            createdb.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", name]).output().expect("run createdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://postgres@127.0.0.1:{port}/{name}")
    }

    /// The port on the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its socket and its log are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Ends its children and itself, without writing down what nobody will read.
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}
