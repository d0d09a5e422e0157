//! `selvedge export`: what happened since a cursor as NDJSON, page by page, for the batch cycle of others.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use ureq::Agent;

/// Bytes of one page: a bound on what a target may answer.
const PAGE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(120);

/// What `selvedge export` can be told.
#[derive(Args, Clone, Debug)]
pub struct ExportArguments {
    /// The public address of an edge.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    from: String,
    /// The secret key.
    #[arg(long, env = "SELVEDGE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    key: String,
    /// The nextCursor at the end of an earlier export [default: that at the end of the file, else the first entry].
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// Append to this file, from the cursor at its end on [default: standard output].
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Seconds for which a page is asked for again before the export stops.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CursorLine {
    #[serde(rename = "type")]
    kind: String,
    next_cursor: String,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct ProblemDocument {
    code: String,
    detail: String,
}

/// Exports up to the end of the log as it is.
pub fn run(arguments: ExportArguments) -> Result<()> {
    if !arguments.from.starts_with("http://") && !arguments.from.starts_with("https://") {
        bail!("--from {:?} is not a URL such as http://127.0.0.1:8080", arguments.from);
    }
    let agent: Agent = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build().into();
    let (mut out, mut since) = match &arguments.to {
        Some(path) => {
            let (file, found) = go_on(path, arguments.since.is_some())?;
            (Box::new(file) as Box<dyn Write>, arguments.since.clone().or(found))
        }
        None => (Box::new(std::io::stdout().lock()) as Box<dyn Write>, arguments.since.clone()),
    };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("exporting {spinner} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let (mut lines, started) = (0_usize, Instant::now());
    loop {
        let page = ask(&agent, &arguments, since.as_deref().unwrap_or_default())?;
        let last = page.trim_end().rsplit('\n').next().unwrap_or_default();
        let cursor: CursorLine = serde_json::from_str(last).context("the page does not end with a cursor")?;
        anyhow::ensure!(cursor.kind == "cursor", "the page does not end with a cursor");
        // A page is there with its cursor or not at all: what is cut off here is cut away when the export goes on.
        out.write_all(page.as_bytes()).and_then(|()| out.flush()).context("write the page")?;
        lines += page.lines().count() - 1;
        bar.set_message(format!("{lines} lines, {:.0}/s", lines as f64 / started.elapsed().as_secs_f64().max(0.001)));
        bar.tick();
        since = Some(cursor.next_cursor);
        if !cursor.more {
            break;
        }
    }
    bar.finish_and_clear();
    if arguments.to.is_some() {
        eprintln!("{lines} lines; the last line holds the cursor for the next export");
    }
    Ok(())
}

/// Opens a file behind its last cursor; gives that. What stands behind it is a page that was cut off. With a cursor of the caller's own nothing is cut.
fn go_on(path: &Path, given: bool) -> Result<(File, Option<String>)> {
    let name = || path.display().to_string();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("open {}", name()))?;
    let (mut end, mut upto, mut cursor) = (0_u64, 0_u64, None);
    let mut reader = BufReader::new(&mut file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).with_context(|| format!("read {}", name()))?;
        if read == 0 {
            break;
        }
        end += read as u64;
        let whole =
            line.ends_with(b"\n") && line.starts_with(b"{") && line.windows(12).any(|part| part == b"\"nextCursor\"");
        if let Some(found) = whole.then(|| serde_json::from_slice::<CursorLine>(&line).ok()).flatten()
            && found.kind == "cursor"
        {
            (upto, cursor) = (end, Some(found.next_cursor));
        }
    }
    drop(reader);
    if given {
        upto = end;
    } else if cursor.is_none() && end > 0 {
        bail!("{} holds no cursor and is not an export; give another file, or --since", name());
    }
    file.set_len(upto).and_then(|()| file.seek(SeekFrom::End(0))).with_context(|| format!("write {}", name()))?;
    Ok((file, cursor))
}

/// Asks for a page until it comes, within patience.
fn ask(agent: &Agent, arguments: &ExportArguments, since: &str) -> Result<String> {
    let url = format!("{}/v1/export", arguments.from.trim_end_matches('/'));
    let started = Instant::now();
    loop {
        let tired = started.elapsed() >= Duration::from_secs(arguments.patience);
        let asked = agent.get(&url).query("since", since).header("authorization", format!("Bearer {}", arguments.key));
        match asked.call() {
            Ok(mut answer) => {
                let status = answer.status().as_u16();
                let text = answer.body_mut().with_config().limit(PAGE_BYTES_MAX).read_to_string();
                match (status, text) {
                    (200, Ok(text)) => return Ok(text),
                    (200, Err(error)) if tired => return Err(error).context("read the page"),
                    (200, Err(_)) => {}
                    (429 | 503, _) if !tired => {}
                    (_, text) => {
                        let text = text.unwrap_or_default();
                        let problem = serde_json::from_str(&text)
                            .unwrap_or_else(|_| ProblemDocument { code: status.to_string(), detail: text });
                        bail!("{} answered {status} {}: {}", arguments.from, problem.code, problem.detail);
                    }
                }
            }
            Err(error) if tired => return Err(error).with_context(|| format!("reach {}", arguments.from)),
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_was_cut_off_goes_on_behind_its_last_cursor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.ndjson");
        assert_eq!(go_on(&path, false).expect("a new file").1, None);
        let whole = "{\"type\":\"event\"}\n{\"type\":\"cursor\",\"nextCursor\":\"a\",\"more\":true}\n";
        std::fs::write(&path, format!("{whole}{{\"type\":\"event\"}}\n{{\"type\":\"cursor\",\"nextCu")).expect("write");
        let (mut file, cursor) = go_on(&path, false).expect("an export");
        assert_eq!(cursor.as_deref(), Some("a"));
        file.write_all(b"more\n").expect("write");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), format!("{whole}more\n"));
        std::fs::write(&path, "something else\n").expect("write");
        assert!(go_on(&path, false).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "something else\n");
    }
}
