//! The tables of docs/performance.md, between marks, so that one command brings them up to date.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Puts a text between the marks of a section.
pub fn rewrite(path: &Path, section: &str, text: &str) -> Result<()> {
    let page = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let Some(page) = replaced(&page, section, text) else {
        bail!("{} has no lines `{}` and `{}`", path.display(), opening(section), closing(section));
    };
    fs::write(path, page).with_context(|| format!("write {}", path.display()))
}

fn opening(section: &str) -> String {
    format!("<!-- {section}: written by cargo xtask bench -->")
}

fn closing(section: &str) -> String {
    format!("<!-- end of {section} -->")
}

fn replaced(page: &str, section: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(&opening(section))?;
    let (_, after) = rest.split_once(&closing(section))?;
    Some(format!("{before}{}\n{}\n{}{after}", opening(section), text.trim(), closing(section)))
}

/// A number with its thousands set apart; a dash where there is none.
fn number(value: &Value, decimals: usize) -> String {
    let Some(value) = value.as_f64() else { return "–".into() };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut apart = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !apart.ends_with('-') {
            apart.push(',');
        }
        apart.push(digit);
    }
    fraction.map_or(apart.clone(), |fraction| format!("{apart}.{fraction}"))
}

/// What was measured on, and how.
fn machine(document: &Value) -> String {
    let (machine, workload) = (&document["machine"], &document["workload"]);
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let rustc = text(&machine["rustc"]);
    format!(
        "{}, {}{} cores and {} GB, {}, {}; commit {}; median of {}, {} s each, {} connections.",
        text(&machine["cpu"]),
        if machine["virtual"] == true { "a virtual machine with " } else { "" },
        number(&machine["cores"], 0),
        machine["memory_mib"].as_u64().map_or(0, |mib| mib / 1024),
        text(&machine["kernel"]),
        rustc.split(" (").next().unwrap_or_default(),
        text(&machine["commit"]),
        number(&workload["repetitions"], 0),
        workload["seconds"],
        number(&workload["connections"], 0),
    )
}

const COLUMNS: [(&str, usize); 7] = [
    ("ratio_to_floor_a", 2),
    ("ratio_to_floor_b", 2),
    ("cpu_us_per_request", 1),
    ("p50_us", 0),
    ("p99_us", 0),
    ("server_p50_us", 0),
    ("rss_mib", 0),
];

/// How much of the machine was not the bench's.
fn others<'a>(found: impl Iterator<Item = &'a Value>) -> String {
    let most = found.filter_map(|row| row["others_percent"].as_f64()).fold(0.0, f64::max);
    format!("Others had at most {most:.0}% of the server's core while it was asked.")
}

/// The table of rows.
pub fn rows(document: &Value) -> String {
    let profiles = number(&document["workload"]["profiles"], 0);
    let mut text = format!("{} {profiles} profiles.\n\n", machine(document));
    text += "| row | requests/s | of A | of B | CPU µs | p50 µs | p99 µs | inside µs | MiB |\n|---|---|---|---|---|---|---|---|---|\n";
    let rows: &[Value] = document["rows"].as_array().map_or(&[], Vec::as_slice);
    for row in rows {
        let _ = write!(text, "| `{}` | {} |", row["name"].as_str().unwrap_or_default(), number(&row["rps"], 0));
        for (column, decimals) in COLUMNS {
            let _ = write!(text, " {} |", number(&row[column], decimals));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\n{}", others(rows.iter()));
    for left_out in document["left_out"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "{left_out}");
    }
    text
}

/// The tables of start and memory.
pub fn start(document: &Value) -> String {
    let (start, memory) = (&document["start"], &document["memory"]);
    let mut text = format!(
        "To the first decision, {} profiles on disk:\n\n| after | seconds |\n|---|---|\n",
        number(&start["profiles"], 0)
    );
    for (what, field) in [
        ("an end in good order", "after_stop_s"),
        ("the same, no file in the kernel's memory", "after_stop_uncached_s"),
        ("`kill -9` under load", "after_kill_s"),
    ] {
        let _ = writeln!(text, "| {what} | {} |", number(&start[field], 2));
    }
    let _ = write!(
        text,
        "\nA profile of {} values, {} of them in memory:\n\n| | bytes a profile |\n|---|---|\n",
        number(&memory["values"], 0),
        number(&memory["profiles"], 0)
    );
    for (what, field) in [
        ("resident in memory", "resident_bytes_per_profile"),
        ("of these by the server's own count", "view_bytes_per_profile"),
        ("encoded on disk", "encoded_bytes_per_profile"),
        ("its history on disk, beside that", "history_bytes_per_profile"),
    ] {
        let _ = writeln!(text, "| {what} | {} |", number(&memory[field], 0));
    }
    let _ = writeln!(
        text,
        "\nResident is {} × encoded. Without requests the server takes {} ms of processor time a second and holds {} MiB ({} MiB without a profile).",
        number(&memory["ratio"], 2),
        number(&memory["idle_cpu_ms_per_second"], 1),
        number(&memory["idle_rss_mib"], 0),
        number(&memory["resident_mib_none"], 0)
    );
    text
}

/// What the plot of an axis shows, in a sentence.
fn caption(axis: &str) -> &'static str {
    match axis {
        "profiles" => {
            "More profiles on disk, the same 1,000 visitors in memory: what is not asked for should cost nothing."
        }
        "values" => {
            "Larger profiles, half of their values traits and half aggregates, all of them read by the plugin that scores and ranks."
        }
        "offers" => "More candidates in one call of the ranking, three of them answered.",
        "plugins" => {
            "A chain as in `decide_3_plugins`: every plugin after the first two reads ten aggregates and the score before it, in an instance of its own."
        }
        "cores" => {
            "The server on one core and on more; where it has all of the machine's, the generator takes its share of one of them, which this figure does not give back."
        }
        "payload" => "A longer `context`, which no plugin reads; `of A` is beside a floor that takes the same bytes.",
        _ => "",
    }
}

/// The plots and the table of scaling.
pub fn scaling(document: &Value) -> String {
    let axes = || document["axes"].as_array().into_iter().flatten();
    let points = axes().flat_map(|axis| axis["points"].as_array().into_iter().flatten());
    let mut text = format!("{} {}\n", machine(document), others(points));
    for axis in axes() {
        let name = axis["name"].as_str().unwrap_or_default();
        let unit = axis["unit"].as_str().unwrap_or_default();
        let points: &[Value] = axis["points"].as_array().map_or(&[], Vec::as_slice);
        let _ = write!(text, "\n### By {unit}\n\n{}", caption(name));
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            let ratio = |of: &str| Some(last[of].as_f64()? / first[of].as_f64()?);
            if let Some((median, cpu)) = ratio("p50_us").zip(ratio("cpu_us_per_request")) {
                let _ = write!(
                    text,
                    " From {} to {}: p50 × {median:.2}, CPU × {cpu:.2}.",
                    number(&first["at"], 0),
                    number(&last["at"], 0)
                );
            }
        }
        let _ = write!(text, "\n\n![Cost of a decision by {unit}](performance/{name}.svg)\n\n");
        let _ = write!(
            text,
            "| {unit} | requests/s | of A | CPU µs | p50 µs | p99 µs | inside µs | MiB |\n|---|---|---|---|---|---|---|---|\n"
        );
        for point in points {
            let _ = write!(text, "| {} | {} |", number(&point["at"], 0), number(&point["rps"], 0));
            for (column, decimals) in COLUMNS.iter().filter(|(column, _)| *column != "ratio_to_floor_b") {
                let _ = write!(text, " {} |", number(&point[*column], *decimals));
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_set_apart() {
        let shown = |value: f64, decimals| number(&json!(value), decimals);
        assert_eq!(shown(1_234_567.0, 0), "1,234,567");
        assert_eq!(shown(999.94, 1), "999.9");
        assert_eq!(shown(-123_456.0, 0), "-123,456");
        assert_eq!(number(&Value::Null, 1), "–");
    }

    #[test]
    fn a_section_is_replaced_and_nothing_else() {
        let page = format!("a\n{}\nold\n{}\nb\n", opening("x"), closing("x"));
        let new = replaced(&page, "x", "new\n").expect("marks");
        assert_eq!(new, format!("a\n{}\nnew\n{}\nb\n", opening("x"), closing("x")));
        // Again, nothing changes.
        assert_eq!(replaced(&new, "x", "new").as_ref(), Some(&new));
        assert_eq!(replaced(&page, "y", "new"), None);
    }

    #[test]
    fn the_text_says_what_the_figures_say() {
        let point = |at: u32, p50: f64| json!({"at": at, "rps": 10_000.0 / p50, "p50_us": p50, "cpu_us_per_request": 2.0 * p50});
        let document = json!({"axes": [{"name": "profiles", "unit": "profiles on disk", "points": [point(1_000, 50.0), point(1_000_000, 55.0)]}]});
        let text = scaling(&document);
        assert!(text.contains("From 1,000 to 1,000,000: p50 × 1.10, CPU × 1.10."), "{text}");
        assert!(text.contains("| 1,000 | 200 | – | 100.0 | 50 | – | – | – |"), "{text}");
        let rows =
            rows(&json!({"rows": [{"name": "decide", "rps": 20_000, "others_percent": 3.0}], "left_out": ["No x."]}));
        assert!(
            rows.contains("| `decide` | 20,000 | – |") && rows.contains("at most 3%") && rows.contains("No x."),
            "{rows}"
        );
    }
}
