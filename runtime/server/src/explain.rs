//! `selvedge explain`: a decision that an edge keeps, for people.

use std::io::Write as _;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::operate::AdminArguments;

/// Which decision, and where.
#[derive(Args, Debug)]
pub struct ExplainArguments {
    /// The decision's id, `decisionId` in its answer.
    id: String,
    /// The admin listener of the edge that made it.
    #[arg(long, env = "SELVEDGE_ADMIN_URL", value_name = "URL", default_value = "http://127.0.0.1:8081")]
    url: String,
    /// The secret key, where the listener is not on a loopback address.
    #[arg(long, env = "SELVEDGE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print the record as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub fn run(arguments: &ExplainArguments) -> Result<()> {
    let id = &arguments.id;
    ensure!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id:?} is no id of a decision");
    let admin = AdminArguments::at(arguments.url.clone(), arguments.key.clone(), arguments.json);
    let record = admin.send("GET", &format!("/admin/v1/decisions/{id}"), &[], "")?.json;
    let text = if admin.wants_json() { format!("{record:#}\n") } else { told(&record) };
    // Whoever has read enough of it may have gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn told(record: &Value) -> String {
    let mut text = format!(
        "decision {} for {} at {}, channel {}\n",
        plain(&record["decisionId"]),
        plain(&record["visitor"]),
        plain(&record["at"]),
        plain(&record["channel"])
    );
    if let Some(until) = record["validUntil"].as_str() {
        text += &format!("may be sent until {until}\n");
    }
    if let Some(version) = record["catalogue"]["version"].as_u64() {
        text += &format!("catalogue version {version} ({})\n", plain(&record["catalogue"]["hash"]));
    }
    for (name, hash) in record["plugins"].as_object().into_iter().flatten() {
        text += &format!("plugin {name} {}\n", plain(hash));
    }
    for slot in list(&record["slots"]) {
        text +=
            &format!("\n{}{}\n", plain(&slot["slot"]), if slot["fallback"] == true { ": its fallback" } else { "" });
        for offer in list(&slot["offers"]) {
            text += &format!("  {:>3}  {}{}\n", plain(&offer["rank"]), plain(&offer["id"]), priority(offer));
        }
        list(&slot["candidates"]).iter().filter(|of| of["outcome"] != "chosen").for_each(|of| text += &left(of));
        list(&slot["candidates"]).iter().filter(|of| of["outcome"] == "chosen").for_each(|of| text += &read(of));
    }
    list(&record["stages"]).iter().for_each(|of| text += &stage(of));
    if record["explained"] != true {
        text += "\nNobody asked why the others were not chosen; \"explain\": true in the call does.\n";
    }
    text
}

/// What a stage of a plugin was given, and what came of it.
fn stage(stage: &Value) -> String {
    let mut text = format!(
        "\n{} of plugin {} {}, {} fuel{}\n",
        plain(&stage["stage"]),
        plain(&stage["plugin"]),
        plain(&stage["version"]),
        stage["fuel"],
        stage["failed"].as_str().map_or(String::new(), |failed| format!(": gave no answer ({failed})")),
    );
    for (name, value) in stage["inputs"].as_object().into_iter().flatten() {
        text += &format!("         {name} = {value}\n");
    }
    for (offer, given) in stage["offers"].as_object().into_iter().flatten() {
        let given: Vec<String> =
            given.as_object().into_iter().flatten().map(|(name, value)| format!("{name} = {value}")).collect();
        text += &format!("         {offer}: {}\n", given.join(", "));
    }
    for (name, value) in stage["scores"].as_object().into_iter().flatten() {
        text += &format!("      →  {name} = {value}\n");
    }
    text
}

/// Why a candidate left.
fn left(candidate: &Value) -> String {
    let step = candidate["step"].as_str().map_or(String::new(), |step| format!(" at {step}"));
    let until = candidate["until"].as_str().map_or(String::new(), |until| format!(" until {until}"));
    format!("    -  {}: {}{step}{until}\n{}", plain(&candidate["id"]), plain(&candidate["outcome"]), read(candidate))
}

/// What a candidate's conditions read and what made up its priority.
fn read(candidate: &Value) -> String {
    let mut text = String::new();
    if let Some(factors) = candidate["factors"].as_object() {
        let numbers = factors.iter().filter(|(_, value)| value.is_number());
        let all: Vec<String> = numbers.map(|(name, value)| format!("{name} {value}")).collect();
        text += &format!("         {}: {}\n", plain(&candidate["id"]), all.join(" × "));
        let response = &factors.get("response").cloned().unwrap_or_default();
        if response.is_object() {
            let of = |name: &str| plain(&response[name]);
            let (taken, shown, prior, weight) = (of("responses"), of("shown"), of("prior"), of("weight"));
            text +=
                &format!("         propensity is ({taken} + {prior} × {weight}) ÷ ({shown} + {weight}), of everyone\n");
        }
    }
    for (name, value) in candidate["inputs"].as_object().into_iter().flatten() {
        text += &format!("         {name} = {value}\n");
    }
    text
}

fn priority(offer: &Value) -> String {
    offer["priority"].as_f64().map_or(String::new(), |priority| format!("  priority {priority}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
