//! `selvedge report`: what has become of offers and experiments, for people.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::operate::AdminArguments;

/// What to report, and where.
#[derive(Args, Debug)]
pub struct ReportArguments {
    /// The admin listener of a centre, of an edge, or of `run`. An edge tells of the shards that it holds.
    #[arg(long, env = "SELVEDGE_ADMIN_URL", value_name = "URL", default_value = "http://127.0.0.1:8081")]
    url: String,
    /// The secret key, where the listener is not on a loopback address.
    #[arg(long, env = "SELVEDGE_SECRET_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// How many of the latest days to tell of, up to 32.
    #[arg(long, value_name = "N", default_value_t = 7)]
    days: u32,
    /// Leave the experiments out: they take a look at every profile.
    #[arg(long)]
    no_experiments: bool,
}

/// Prints it.
pub fn run(arguments: &ReportArguments) -> Result<()> {
    let admin = AdminArguments::at(arguments.url.clone(), arguments.key.clone(), arguments.json);
    let (days, experiments) = (arguments.days, !arguments.no_experiments);
    let report = admin.send("GET", &format!("/admin/v1/report?days={days}&experiments={experiments}"), &[], "")?.json;
    let text = if admin.wants_json() { format!("{report:#}\n") } else { told(&report) };
    // Whoever has read enough of it may have gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

const STEPS: [&str; 4] = ["decided", "shown", "clicked", "accepted"];

fn told(report: &Value) -> String {
    let mut text = format!(
        "{} ({}), {} of {} shards\n\n",
        plain(&report["at"]),
        plain(&report["timeZone"]),
        report["shards"],
        report["of"]
    );
    let mut table = Table::new(&["offer", "channel", "decided", "shown", "clicked", "accepted", "clicked/shown"]);
    for offer in list(&report["offers"]) {
        let channels = list(&offer["channels"]);
        for of in channels {
            table.funnel([plain(&offer["id"]), plain(&of["channel"])], &of["total"]);
        }
        if channels.len() != 1 {
            table.funnel([plain(&offer["id"]), "all".into()], &offer["total"]);
        }
    }
    table.funnel(["all".into(), "all".into()], &report["total"]);
    text += &table.print();
    let campaigns = list(&report["campaigns"]);
    if !campaigns.is_empty() {
        let mut table = Table::new(&["campaign", "", "decided", "shown", "clicked", "accepted", "clicked/shown"]);
        campaigns.iter().for_each(|of| table.funnel([plain(&of["id"]), String::new()], &of["total"]));
        text += &format!("\n{}", table.print());
    }
    let days = list(&report["days"]);
    if !days.is_empty() {
        let mut table = Table::new(&["day", "", "decided", "shown", "clicked", "accepted", "clicked/shown"]);
        by_day(days).iter().for_each(|(day, total)| table.funnel([day.clone(), String::new()], total));
        text += &format!("\n{}", table.print());
    }
    for experiment in list(&report["experiments"]) {
        text += &format!("\n{} (against {})\n", plain(&experiment["name"]), plain(&experiment["baseline"]));
        let mut table = Table::new(&["arm", "exposed", "converted", "share", "difference", "lift"]);
        for arm in list(&experiment["arms"]) {
            let estimates = ["share", "difference", "lift"].map(|of| estimate(&arm[of]));
            let [share, difference, lift] = estimates;
            table.row(vec![
                plain(&arm["arm"]),
                number(&arm["exposed"]),
                number(&arm["converted"]),
                share,
                difference,
                lift,
            ]);
        }
        text += &table.print();
    }
    if let Some(persons) = report["persons"].as_u64() {
        text += &format!(
            "\n{persons} persons were exposed to an experiment. Intervals hold 95%; looked at in {} ms.\n",
            report["scannedMs"]
        );
    }
    text
}

/// The days of all offers and channels together, the newest first.
fn by_day(days: &[Value]) -> Vec<(String, Value)> {
    let mut sums: Vec<(String, Value)> = Vec::new();
    for of in days {
        let day = plain(&of["day"]);
        if sums.last().is_none_or(|(last, _)| *last != day) {
            sums.push((day, serde_json::json!({})));
        }
        if let Some((_, sum)) = sums.last_mut() {
            for step in STEPS {
                sum[step] = (sum[step].as_u64().unwrap_or(0) + of[step].as_u64().unwrap_or(0)).into();
            }
        }
    }
    sums
}

/// Columns as wide as what stands in them; numbers to the right, which are all but the first two of a funnel.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|name| (*name).to_owned()).collect()] }
    }

    fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn funnel(&mut self, names: [String; 2], funnel: &Value) {
        let count = |step: &str| funnel[step].as_u64().unwrap_or(0);
        let rate = match count("shown") {
            0 => "-".to_owned(),
            shown => format!("{:.2}%", 100.0 * count("clicked") as f64 / shown as f64),
        };
        let steps = STEPS.iter().map(|step| count(step).to_string());
        self.row(names.into_iter().chain(steps).chain([rate]).collect());
    }

    fn print(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let wide = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(wide).collect();
        let is_number =
            |text: &str| text.starts_with(|first: char| first.is_ascii_digit() || first == '-' || first == '+');
        let right: Vec<bool> = (0..columns)
            .map(|column| column > 0 && self.rows.iter().skip(1).all(|row| is_number(&row[column])))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().enumerate().filter(|(column, _)| widths[*column] > 0).map(|(column, cell)| {
                let width = widths[column];
                if right[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// An estimate in percent, with its interval; a dash where there is none.
fn estimate(of: &Value) -> String {
    let percent = |name: &str| of[name].as_f64().map(|value| 100.0 * value);
    match (percent("value"), percent("low"), percent("high")) {
        (Some(value), Some(low), Some(high)) => format!("{value:.2}% ({low:.2} to {high:.2})"),
        _ => "-".to_owned(),
    }
}

fn number(value: &Value) -> String {
    value.as_u64().unwrap_or(0).to_string()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
