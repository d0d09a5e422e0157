//! The operator's commands: how a process is, and what a centre is asked to do. They speak with its admin listener.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use selvedge_central::{CONTROL, RedbCentral};
use selvedge_core::identity::SHARDS;
use serde_json::{Value, json};
use ureq::Agent;

use crate::central::admin::CentreStatus;
use crate::config::CentralArguments;
use crate::release::Given;

/// How long the longest of these may take: a comparison waits for every edge, a backup for the disk.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Where a process's admin listener is.
#[derive(Args, Clone, Debug)]
pub struct AdminArguments {
    /// The admin listener of the process.
    #[arg(long, env = "SELVEDGE_ADMIN_URL", value_name = "URL", default_value = "http://127.0.0.1:8091")]
    admin: String,
    /// The secret key, where the listener is not on a loopback address.
    #[arg(long, env = "SELVEDGE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// What a centre can be asked to do.
#[derive(Subcommand, Debug)]
pub enum CentralCommand {
    /// Make a snapshot of every shard, from which edges begin.
    Snapshot(AdminArguments),
    /// Let go of what the newest snapshots hold from the logs.
    Trim(AdminArguments),
    /// Compare what the centre and every edge hold, by hash at one place of each shard's log.
    Verify(AdminArguments),
    /// Make the centre's own copy of the shards anew, from snapshots and logs.
    Rebuild(AdminArguments),
    /// Write a copy of a log on redb to a file, while the centre serves.
    Backup {
        /// A file on the centre's machine that is not there yet.
        to: PathBuf,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Put a backup in the place of a store that is empty or gone. The centre must not run.
    Restore {
        /// The backup.
        from: PathBuf,
        #[command(flatten)]
        central: Box<CentralArguments>,
    },
    /// Check plugins, catalogue and time zone at the centre, and put them into force at every edge. What is not given stays.
    Release {
        /// A folder of plugins: every NAME.wasm in it, each with its NAME.toml. They take the place of all before.
        #[arg(long, value_name = "DIR")]
        plugins: Option<PathBuf>,
        /// The catalogue of offers and slots, a TOML file.
        #[arg(long, value_name = "FILE")]
        catalog: Option<PathBuf>,
        /// The business time zone, an IANA name.
        #[arg(long, value_name = "NAME")]
        time_zone: Option<String>,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Forget an edge that will not come back: nothing waits for it any more.
    Forget {
        /// Its name.
        name: String,
        #[command(flatten)]
        admin: AdminArguments,
    },
}

/// What an admin listener refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// Stable.
    pub code: String,
    detail: String,
}

/// What an admin listener answered, which was no refusal.
pub struct Answered {
    pub status: u16,
    /// The `ETag`.
    pub tag: Option<String>,
    pub text: String,
    /// The same as JSON; null where it is none.
    pub json: Value,
}

impl AdminArguments {
    /// A listener that is not the default one.
    pub fn at(admin: String, key: Option<String>, json: bool) -> Self {
        Self { admin, key, json }
    }

    /// Whether the answer is to be printed as JSON.
    pub fn wants_json(&self) -> bool {
        self.json
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        self.send(method, path, &[("content-type", "application/json")], body).map(|answered| answered.json)
    }

    /// Asks for something; a refusal is an error, with its mend.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answered> {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        let url = format!("{}{path}", self.admin.trim_end_matches('/'));
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_owned())?;
        let answer = Agent::from(config).run(request);
        let mut answer =
            answer.with_context(|| format!("call {url}; is the process running, and is this its admin listener?"))?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.with_context(|| format!("read the answer of {url}"))?;
        let json: Value =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::Null) };
        if answer.status().is_success() {
            return Ok(Answered { status: answer.status().as_u16(), tag, text, json });
        }
        match json["detail"].as_str() {
            Some(detail) => {
                let code = json["code"].as_str().unwrap_or_default().to_owned();
                Err(Refused { code, detail: detail.to_owned() }.into())
            }
            None => bail!("{url} answered {}", answer.status()),
        }
    }

    /// Does something with every shard, with a bar.
    fn each_shard(&self, what: &str, path: &str) -> Result<Value> {
        let bar = ProgressBar::new(u64::from(SHARDS));
        bar.set_style(ProgressStyle::with_template(
            "{prefix} {bar:32} {pos}/{len} shards, {elapsed} elapsed, {eta} left",
        )?);
        bar.set_prefix(what.to_owned());
        let mut answers = Vec::new();
        for shard in 0..SHARDS {
            let answer = self.call("POST", &format!("/admin/v1/shards/{shard}/{path}"), "");
            let mut answer = answer.with_context(|| format!("shard {shard}"))?;
            answer["shard"] = shard.into();
            answers.push(answer);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(answers.into())
    }

    fn say(&self, answer: &Value, text: impl FnOnce() -> String) {
        if self.json { print(&format!("{answer:#}\n")) } else { print(&format!("{}\n", text())) }
    }
}

/// Writes to standard output; whoever has read enough of it may have gone.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// `selvedge status`.
pub fn status(arguments: &AdminArguments) -> Result<()> {
    let answer = arguments.call("GET", "/admin/v1/status", "")?;
    if arguments.json {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    if answer["role"] == "central" {
        let status: CentreStatus =
            serde_json::from_value(answer).context("the answer is of another version of selvedge")?;
        print(&centre_text(&status));
    } else {
        print(&edge_text(&answer));
    }
    Ok(())
}

fn centre_text(status: &CentreStatus) -> String {
    let mut text = format!("centre {} (selvedge {}), release {}\n", status.cluster, status.version, status.release);
    if let Some(error) = &status.copy_error {
        text += &format!("! the centre's copy of the shards stands still: {error}\n");
    }
    if status.lost_changes > 0 {
        text += &format!("! {} changes of edges were lost: nobody holds them any more\n", status.lost_changes);
    }
    text += "\nshard  epoch        head       first      stable    snapshot        copy\n";
    for shard in &status.shards {
        let name = if shard.shard == CONTROL { "contr".to_owned() } else { shard.shard.0.to_string() };
        let at = |place: Option<u64>| place.map_or("-".to_owned(), |place| place.to_string());
        text += &format!(
            "{name:>5} {:>6} {:>11} {:>11} {:>11} {:>11} {:>11}\n",
            shard.epoch,
            shard.head,
            shard.first,
            shard.stable,
            at(shard.snapshot),
            at(shard.copy)
        );
    }
    text += "\nedge                 seen ago  shards  behind  lag ms  outbox      KiB  release  state\n";
    for edge in &status.edges {
        let ago = (status.now.0 - edge.seen_at.0).max(0) / 1000;
        let Some(report) = &edge.report else {
            text += &format!("{:<20} {ago:>6} s  {}: has not reported\n", edge.name, edge.shards);
            continue;
        };
        let head = |shard: u16| status.shards.get(usize::from(shard)).map_or(0, |shard| shard.head);
        let behind: u64 = report.shards.iter().map(|own| head(own.shard.0).saturating_sub(own.seq)).sum();
        let lag = report.shards.iter().map(|own| own.lag_ms).try_fold(0, |worst: u64, lag| Some(worst.max(lag?)));
        let worst = report.shards.iter().map(|own| own.state.as_str()).max_by_key(|state| crate::sync::rank_of(state));
        text += &format!(
            "{:<20} {ago:>6} s  {:>6}  {behind:>6}  {:>6}  {:>6}  {:>7}  {:>7}  {}\n",
            edge.name,
            report.shards.len(),
            lag.map_or("-".to_owned(), |lag| lag.to_string()),
            report.outbox_changes,
            report.outbox_bytes / 1024,
            report.release,
            worst.unwrap_or("-")
        );
        for error in report.release_error.iter().chain(&report.last_error) {
            text += &format!("  ! {error}\n");
        }
    }
    text
}

fn edge_text(status: &Value) -> String {
    let mut text = format!(
        "{} {} of {}, release {}\noutbox: {} changes, {} KiB; shed: {}\n",
        status["role"].as_str().unwrap_or("edge"),
        status["name"].as_str().unwrap_or("-"),
        status["cluster"].as_str().unwrap_or("-"),
        status["release"],
        status["outboxChanges"],
        status["outboxBytes"].as_u64().unwrap_or(0) / 1024,
        status["shed"]
    );
    for error in ["releaseError", "lastError"] {
        if let Some(error) = status[error].as_str() {
            text += &format!("! {error}\n");
        }
    }
    text += "\nshard  epoch         seq  lag ms  pending  state\n";
    for shard in status["shards"].as_array().into_iter().flatten() {
        let lag = shard["lagMs"].as_u64().map_or("-".to_owned(), |lag| lag.to_string());
        text += &format!(
            "{:>5} {:>6} {:>11} {lag:>7} {:>8}  {}\n",
            shard["shard"].as_u64().unwrap_or(0),
            shard["epoch"].as_u64().unwrap_or(0),
            shard["seq"].as_u64().unwrap_or(0),
            shard["pending"].as_u64().unwrap_or(0),
            shard["state"].as_str().unwrap_or("-")
        );
    }
    text
}

/// `selvedge central COMMAND`.
pub fn central(command: CentralCommand) -> Result<()> {
    match command {
        CentralCommand::Snapshot(admin) => {
            let made = admin.each_shard("snapshot", "snapshot")?;
            admin.say(&made, || format!("{SHARDS} snapshots hold everything up to now"));
        }
        CentralCommand::Trim(admin) => {
            let trimmed = admin.each_shard("trim", "trim")?;
            let left = trimmed.as_array().into_iter().flatten().filter(|shard| shard["first"] == 1).count();
            admin.say(&trimmed, || format!("trimmed; {left} shards keep all of their logs, for want of a snapshot"));
        }
        CentralCommand::Verify(admin) => {
            let found = admin.call("POST", "/admin/v1/verify", "")?;
            admin.say(&found, || verified_text(&found));
            if found["equal"] != true {
                bail!("the copies are not all the same; docs/operations.md says what to do");
            }
        }
        CentralCommand::Rebuild(admin) => {
            let asked = admin.call("POST", "/admin/v1/rebuild", "")?;
            admin.say(&asked, || "the copy is made anew; `selvedge status` shows how far it is".to_owned());
        }
        CentralCommand::Backup { to, admin } => {
            let to = std::path::absolute(&to).with_context(|| format!("{}", to.display()))?;
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_message(format!("writing {}", to.display()));
            let done = admin.call("POST", "/admin/v1/backup", &json!({ "to": to }).to_string())?;
            bar.finish_and_clear();
            admin.say(&done, || format!("{}: {} entries, {} bytes", to.display(), done["entries"], done["bytes"]));
        }
        CentralCommand::Restore { from, central } => restore(&from, *central)?,
        CentralCommand::Release { plugins, catalog, time_zone, admin } => {
            let given = Given::read(plugins.as_deref(), catalog.as_deref(), time_zone)?;
            if given.is_empty() {
                bail!("nothing to release; give --plugins, --catalog or --time-zone");
            }
            let released = admin.call("PUT", "/admin/v1/release", &serde_json::to_string(&given.body()?)?)?;
            admin.say(&released, || {
                format!("release {} is in force; `selvedge status` shows which edges run it", released["seq"])
            });
        }
        CentralCommand::Forget { name, admin } => {
            admin.call("DELETE", &format!("/admin/v1/edges/{name}"), "")?;
            admin.say(&Value::Null, || format!("{name} is forgotten"));
        }
    }
    Ok(())
}

fn verified_text(found: &Value) -> String {
    let mut text = String::new();
    for copy in found["copies"].as_array().into_iter().flatten() {
        text += &format!(
            "{:<20} {:>2} shards  {:>9} fragments  {}\n",
            copy["name"].as_str().unwrap_or("-"),
            copy["shards"],
            copy["fragments"],
            copy["hash"].as_str().unwrap_or("-")
        );
    }
    for finding in found["findings"].as_array().into_iter().flatten() {
        let shard = finding["shard"].as_u64().map_or(String::new(), |shard| format!(", shard {shard}"));
        text += &format!(
            "! {}{shard}: {}\n",
            finding["copy"].as_str().unwrap_or("-"),
            finding["detail"].as_str().unwrap_or("-")
        );
    }
    text += if found["equal"] == true { "all copies hold the same" } else { "the copies differ" };
    text
}

/// Copies a backup into place and begins its epoch.
fn restore(from: &Path, arguments: CentralArguments) -> Result<()> {
    let config = arguments.settle()?;
    let crate::config::Store::Redb(folder) = &config.store else {
        bail!(
            "a backup of redb is restored to --store redb:DIR; for PostgreSQL use pg_restore, then start the centre with --new-epoch"
        );
    };
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let to = folder.join(crate::central::LOG_FILE);
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.set_message(format!("restoring {}", from.display()));
    RedbCentral::restore(from, &to)?;
    bar.finish_and_clear();
    let runtime = crate::app::runtime()?;
    let heads = runtime.block_on(async { anyhow::Ok(crate::central::open_log(&config).await?.heads().await?) })?;
    let entries: u64 = heads.iter().map(|head| head.seq).sum();
    let epoch = heads.first().map_or(0, |head| head.epoch);
    println!(
        "{}: {entries} entries, now in epoch {epoch}; start the centre, and edges send again what they hold",
        to.display()
    );
    Ok(())
}
