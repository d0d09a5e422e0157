//! `selvedge catalogue`: the catalogue's admin paths from the command line, and files that are made into documents.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::document::{Form, in_words, parse, to_json};
use super::{feed, rows};
use crate::operate::{AdminArguments, Answered, Refused};

/// Times that a file is merged anew where somebody else changed the catalogue meanwhile.
const TRIES: usize = 5;

/// Who does something, and where.
#[derive(Args, Clone, Debug)]
pub struct Desk {
    #[command(flatten)]
    admin: AdminArguments,
    /// Who does it; it goes into the history.
    #[arg(long, env = "USER", value_name = "NAME", default_value = "")]
    by: String,
}

/// What can be done with a catalogue.
#[derive(Subcommand, Debug)]
pub enum CatalogueCommand {
    /// Print the catalogue in force.
    Get {
        /// The draft instead.
        #[arg(long, conflicts_with = "version")]
        draft: bool,
        /// An older version instead, by its number.
        #[arg(long, value_name = "NUMBER")]
        version: Option<u64>,
        /// As TOML rather than JSON.
        #[arg(long)]
        toml: bool,
        #[command(flatten)]
        desk: Desk,
    },
    /// Put a whole catalogue, a TOML or JSON file, in the place of the one in force.
    Put {
        /// The file.
        file: PathBuf,
        /// Only where this is in force: a hash that `versions` lists [default: whatever is in force now].
        #[arg(long, value_name = "HASH")]
        if_match: Option<String>,
        #[command(flatten)]
        desk: Desk,
    },
    /// Put a whole catalogue as the draft, to be tried by decide calls with `"catalogue": "draft"`.
    Draft {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        desk: Desk,
    },
    /// Put the draft into force, now or at a time.
    Publish {
        /// When, such as 2026-12-01T08:00:00Z.
        #[arg(long, value_name = "RFC3339")]
        at: Option<String>,
        #[command(flatten)]
        desk: Desk,
    },
    /// Take back what is scheduled.
    Cancel(Desk),
    /// Put the version before the one in force into force again; once more goes further back.
    Undo {
        /// The version to bring back, by its number.
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
        #[command(flatten)]
        desk: Desk,
    },
    /// List the versions, newest first, and what is scheduled.
    Versions(Desk),
    /// Stop an offer everywhere at once, whatever the catalogue says.
    Stop {
        /// Its id.
        offer: String,
        #[command(flatten)]
        desk: Desk,
    },
    /// Let a stopped offer be offered again.
    Start {
        /// Its id.
        offer: String,
        #[command(flatten)]
        desk: Desk,
    },
    /// List the offers that are stopped.
    Stopped(Desk),
    /// Count the persons who are in an audience now, at an edge.
    Audience {
        /// Its name.
        name: String,
        /// Look at about so many identifiers rather than at all of them, and say how far off that may be.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
        sample: Option<u64>,
        #[command(flatten)]
        desk: Desk,
    },
    /// Take in a file: a whole catalogue as TOML or JSON, or offers as CSV, which replace those of the same id and are added behind the others.
    Import {
        /// The file. Columns of a CSV are an offer's fields, content.NAME and features.NAME.
        file: PathBuf,
        /// The offers of a CSV are all that there are: others go.
        #[arg(long)]
        replace: bool,
        /// Make it the draft rather than putting it into force.
        #[arg(long)]
        draft: bool,
        #[command(flatten)]
        desk: Desk,
    },
    /// Take in a product feed, a CSV with the columns id or product_id, price and stock: it sets price, inventory and enabled of the offers that it matches.
    Feed {
        /// The file.
        file: PathBuf,
        /// Make it the draft rather than putting it into force.
        #[arg(long)]
        draft: bool,
        #[command(flatten)]
        desk: Desk,
    },
}

/// Does it.
pub fn run(command: CatalogueCommand) -> Result<()> {
    match command {
        CatalogueCommand::Get { draft, version, toml, desk } => get(draft, version, toml, &desk),
        CatalogueCommand::Put { file, if_match, desk } => {
            let text = read(&file)?;
            let tag = if_match.map_or_else(|| desk.in_force().map(|(_, tag)| tag), |tag| Ok(quoted(&tag)))?;
            desk.say_published(&desk.put("catalogue", &text, Some(&tag))?)
        }
        CatalogueCommand::Draft { file, desk } => {
            let draft = desk.put("catalogue/draft", &read(&file)?, None)?;
            desk.say(&draft.json, |draft| {
                format!("the draft is {}; `selvedge catalogue publish` puts it into force", short(&draft["hash"]))
            })
        }
        CatalogueCommand::Publish { at, desk } => {
            let body = at.map_or(json!({}), |at| json!({ "at": at }));
            let done = desk.post("catalogue/draft/publish", &body.to_string())?;
            if done.status == 202 {
                return desk.say(&done.json, |scheduled| format!("takes force at {}", plain(&scheduled["at"])));
            }
            desk.say_published(&done)
        }
        CatalogueCommand::Cancel(desk) => {
            let cancelled = desk.send("DELETE", "catalogue/scheduled", &[], "")?;
            desk.say(&cancelled.json, |cancelled| format!("nothing takes force at {}", plain(&cancelled["at"])))
        }
        CatalogueCommand::Undo { to, desk } => {
            let body = to.map_or(json!({}), |to| json!({ "to": to }));
            desk.say_published(&desk.post("catalogue/undo", &body.to_string())?)
        }
        CatalogueCommand::Versions(desk) => versions(&desk),
        CatalogueCommand::Stop { offer, desk } => {
            let stopped = desk.post(&format!("offers/{}/stop", escaped(&offer)), "")?;
            desk.say(&stopped.json, |_| {
                format!("{offer} is stopped everywhere; `selvedge catalogue start` lets it go on")
            })
        }
        CatalogueCommand::Start { offer, desk } => {
            let started = desk.post(&format!("offers/{}/start", escaped(&offer)), "")?;
            desk.say(&started.json, |_| format!("{offer} may be offered again"))
        }
        CatalogueCommand::Stopped(desk) => {
            let stopped = desk.send("GET", "offers/stopped", &[], "")?;
            desk.say(&stopped.json, |stopped| {
                let line = |one: &Value| {
                    format!("{:<40} since {} by {}", plain(&one["offer"]), plain(&one["at"]), plain(&one["by"]))
                };
                let lines: Vec<String> = stopped["stopped"].as_array().into_iter().flatten().map(line).collect();
                if lines.is_empty() { "no offer is stopped".to_owned() } else { lines.join("\n") }
            })
        }
        CatalogueCommand::Audience { name, sample, desk } => {
            let sample = sample.map_or(String::new(), |sample| format!("?sample={sample}"));
            let counted = desk.send("GET", &format!("audiences/{}/count{sample}", escaped(&name)), &[], "")?;
            desk.say(&counted.json, in_audience)
        }
        CatalogueCommand::Import { file, replace, draft, desk } => import(&file, replace, draft, &desk),
        CatalogueCommand::Feed { file, draft, desk } => take_feed(&file, draft, &desk),
    }
}

/// How many are in an audience, in words.
fn in_audience(counted: &Value) -> String {
    let (of, count, persons) = (plain(&counted["audience"]), &counted["count"], &counted["persons"]);
    let share = counted["share"]["value"].as_f64().map_or(String::new(), |share| format!(" ({:.1}%)", 100.0 * share));
    if counted["exact"] == true {
        return format!("{of}: {count} of {persons} persons{share}");
    }
    format!(
        "{of}: about {count} of {persons} persons{share}, between {} and {} with 95% certainty, by {} of {} identifiers",
        counted["low"], counted["high"], counted["looked"], counted["of"]
    )
}

impl Desk {
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answered> {
        let mut headers = headers.to_vec();
        if !self.by.is_empty() && self.by.is_ascii() {
            headers.push((super::http::BY, &self.by));
        }
        self.admin.send(method, &format!("/admin/v1/{path}"), &headers, body)
    }

    fn post(&self, path: &str, body: &str) -> Result<Answered> {
        self.send("POST", path, &[("content-type", "application/json")], body)
    }

    fn put(&self, path: &str, text: &str, tag: Option<&str>) -> Result<Answered> {
        let mut headers = vec![("content-type", Form::of(text).media_type())];
        headers.extend(tag.map(|tag| ("if-match", tag)));
        self.send("PUT", path, &headers, text)
    }

    /// The document in force and its tag.
    fn in_force(&self) -> Result<(Value, String)> {
        let answered = self.send("GET", "catalogue", &[], "")?;
        let tag = answered.tag.context("the catalogue has no ETag; is this an admin listener of this version?")?;
        Ok((answered.json, tag))
    }

    fn say(&self, answer: &Value, text: impl FnOnce(&Value) -> String) -> Result<()> {
        let text = if self.admin.wants_json() { format!("{answer:#}") } else { text(answer) };
        // Whoever has read enough of it may have gone.
        let _ = writeln!(std::io::stdout(), "{text}");
        Ok(())
    }

    fn say_published(&self, answered: &Answered) -> Result<()> {
        self.say(&answered.json, published)
    }

    /// Merges something into the document, which somebody else may change meanwhile.
    fn merge<T>(&self, draft: bool, mut merge: impl FnMut(&mut Value) -> Result<T>) -> Result<(Answered, T)> {
        for left in (0..TRIES).rev() {
            let (mut document, tag) = self.in_force()?;
            let merged = merge(&mut document)?;
            let text = document.to_string();
            if draft {
                return Ok((self.put("catalogue/draft", &text, None)?, merged));
            }
            match self.put("catalogue", &text, Some(&tag)) {
                Ok(answered) => return Ok((answered, merged)),
                Err(error) if left > 0 && is_changed(&error) => {}
                Err(error) => return Err(error),
            }
        }
        bail!("somebody else changes the catalogue all the time; try again")
    }
}

fn get(draft: bool, version: Option<u64>, toml: bool, desk: &Desk) -> Result<()> {
    let path = match (draft, version) {
        (true, _) => "catalogue/draft".to_owned(),
        (_, Some(version)) => format!("catalogue/versions/{version}"),
        _ => "catalogue".to_owned(),
    };
    let accept = if toml { "application/toml" } else { "application/json" };
    let answered = desk.send("GET", &path, &[("accept", accept)], "")?;
    let text = if toml { answered.text } else { format!("{:#}\n", answered.json) };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn versions(desk: &Desk) -> Result<()> {
    let mut listed = desk.send("GET", "catalogue/versions", &[], "")?.json;
    let scheduled = desk.send("GET", "catalogue/scheduled", &[], "").ok().map(|scheduled| scheduled.json);
    listed["scheduled"] = scheduled.unwrap_or_default();
    desk.say(&listed, |listed| {
        let mut text = String::from("version  hash          at                        how       by\n");
        for version in listed["versions"].as_array().into_iter().flatten() {
            let back = version["bringsBack"].as_u64().map_or(String::new(), |of| format!(" (version {of} again)"));
            text += &format!(
                "{:>7}  {:<12}  {:<24}  {:<8}  {}{back}{}\n",
                version["version"].as_u64().unwrap_or_default(),
                short(&version["hash"]),
                plain(&version["at"]),
                plain(&version["how"]),
                plain(&version["by"]),
                if version["inForce"] == true { "  <- in force" } else { "" }
            );
        }
        if let Some(at) = listed["scheduled"]["at"].as_str() {
            text += &format!("scheduled: {} takes force at {at}\n", short(&listed["scheduled"]["hash"]));
        }
        if let Some(error) = listed["scheduled"]["error"].as_str() {
            text += &format!("! it did not: {error}\n");
        }
        text.trim_end().to_owned()
    })
}

fn import(file: &Path, replace: bool, draft: bool, desk: &Desk) -> Result<()> {
    if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        let offers = rows::read(file)?;
        let (answered, counted) = desk.merge(draft, |document| Ok(rows::merge(document, &offers, replace)))?;
        return desk.say(&with(answered.json, "offers", json!(counted)), |answer| {
            let counts =
                format!("{} offers added, {} replaced, {} removed", counted.added, counted.replaced, counted.removed);
            format!("{counts}\n{}", if draft { "they are in the draft".to_owned() } else { published(answer) })
        });
    }
    let text = read(file)?;
    if draft {
        let answered = desk.put("catalogue/draft", &text, None)?;
        return desk.say(&answered.json, |draft| format!("the draft is {}", short(&draft["hash"])));
    }
    let (_, tag) = desk.in_force()?;
    desk.say_published(&desk.put("catalogue", &text, Some(&tag))?)
}

fn take_feed(file: &Path, draft: bool, desk: &Desk) -> Result<()> {
    let rows = feed::read(file)?;
    let (answered, report) = desk.merge(draft, |document| Ok(feed::apply(document, &rows)))?;
    desk.say(&with(answered.json, "feed", json!(report)), |answer| {
        let mut text = format!(
            "{} rows, {} offers matched, {} changed; {} rows match no offer\n",
            report.rows,
            report.matched,
            report.changed,
            report.unmatched.len()
        );
        for row in report.unmatched.iter().take(20) {
            text += &format!("  line {}: {}\n", row.line, row.key);
        }
        if report.unmatched.len() > 20 {
            text += &format!("  and {} more; --json lists all\n", report.unmatched.len() - 20);
        }
        text + &if draft { "they are in the draft".to_owned() } else { published(answer) }
    })
}

/// Whether somebody else changed the catalogue meanwhile.
fn is_changed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == "catalogue_changed")
}

/// An answer with one thing more.
fn with(mut answer: Value, name: &str, value: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
    answer
}

fn published(answer: &Value) -> String {
    let version = format!("version {} ({})", answer["version"], short(&answer["hash"]));
    if answer["changed"] == true { format!("{version} is in force") } else { format!("{version} is in force already") }
}

/// A file that holds a catalogue, looked at before it is sent.
fn read(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    if let Err(faults) = to_json(&text).and_then(|_| parse(&text)) {
        bail!("{}: {}", file.display(), in_words(&faults));
    }
    Ok(text)
}

fn quoted(tag: &str) -> String {
    format!("\"{}\"", tag.trim_matches('"'))
}

/// The beginning of a hash, for people.
fn short(hash: &Value) -> String {
    hash.as_str().unwrap_or("-").chars().take(12).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// A segment of a path.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
