//! Medians over the repetitions, as a table and as results.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::measure::Found;
use crate::rows::Row;

/// How busy the generator may be, in a hundred, for a row to say something of the server.
const GENERATOR_MAX: f64 = 90.0;

/// What was found, by row, then by repetition.
pub type Findings = BTreeMap<usize, Vec<Found>>;

/// A median; of an even number, the lower one.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The median over repetitions of what a row is beside another one in the same repetition.
fn beside(found: &[Found], other: Option<&Vec<Found>>, of: impl Fn(&Found) -> f64) -> Option<f64> {
    median(found.iter().zip(other?).map(|(one, other)| of(one) / of(other)))
}

/// What was found of one row, beside the floors of the same repetitions.
pub fn row(found: &[Found], floor_a: Option<&Vec<Found>>, floor_b: Option<&Vec<Found>>) -> Map<String, Value> {
    let middle = |of: &dyn Fn(&Found) -> f64| median(found.iter().map(of));
    let mut row = Map::new();
    let mut put = |name: &str, value: Option<f64>, decimals: i32| {
        let scale = 10_f64.powi(decimals);
        row.insert(name.into(), json!(value.map(|value| (value * scale).round() / scale)));
    };
    put("rps", middle(&|found| found.rps), 0);
    put("p50_us", middle(&|found| found.p50_us), 1);
    put("p99_us", middle(&|found| found.p99_us), 1);
    put("p999_us", middle(&|found| found.p999_us), 1);
    put("cpu_us_per_request", middle(&|found| found.cpu_us_per_request), 2);
    put("rss_mib", middle(&|found| found.rss_mib), 1);
    put("ratio_to_floor_a", beside(found, floor_a, |found| found.rps), 3);
    put("ratio_to_floor_b", beside(found, floor_b, |found| found.rps), 3);
    put("cpu_ratio_to_floor_a", beside(found, floor_a, |found| found.cpu_us_per_request), 3);
    put("p99_ratio_to_floor_a", beside(found, floor_a, |found| found.p99_us), 2);
    put("peak_p50_us", middle(&|found| found.peak_p50_us), 1);
    put("peak_p99_us", middle(&|found| found.peak_p99_us), 1);
    put("server_p50_us", median(found.iter().filter_map(|found| found.server_p50_us)), 0);
    put("server_p99_us", median(found.iter().filter_map(|found| found.server_p99_us)), 0);
    put("generator_percent", middle(&|found| found.generator_percent), 0);
    put("others_percent", middle(&|found| found.others_percent), 0);
    put("fallback_percent", middle(&|found| found.fallback_percent), 3);
    row.insert("rps_of_repetitions".into(), found.iter().map(|found| json!(found.rps.round())).collect());
    row
}

/// The rows as results.json has them.
pub fn rows(rows: &[Row], findings: &Findings) -> Vec<Value> {
    let of_floor = |name: &str| findings.get(&rows.iter().position(|row| row.name == name)?);
    let (floor_a, floor_b) = (of_floor("floor_a"), of_floor("floor_b"));
    let named = |(index, found): (&usize, &Vec<Found>)| {
        let mut named = Map::new();
        named.insert("name".into(), rows[*index].name.into());
        named.extend(row(found, floor_a, floor_b));
        Value::Object(named)
    };
    findings.iter().map(named).collect()
}

/// Prints the table.
pub fn print(rows: &[Value]) {
    let columns: [(&str, &str, usize); 12] = [
        ("rps", "requests/s", 0),
        ("ratio_to_floor_a", "of A", 2),
        ("ratio_to_floor_b", "of B", 2),
        ("cpu_us_per_request", "CPU µs", 1),
        ("p50_us", "p50 µs", 0),
        ("p99_us", "p99 µs", 0),
        ("p99_ratio_to_floor_a", "p99 of A", 1),
        ("server_p50_us", "inside", 0),
        ("peak_p50_us", "peak p50", 0),
        ("peak_p99_us", "peak p99", 0),
        ("rss_mib", "MiB", 0),
        ("others_percent", "others %", 0),
    ];
    print!("{:<20}", "");
    columns.iter().for_each(|(_, title, _)| print!("{title:>11}"));
    println!();
    for row in rows {
        print!("{:<20}", row["name"].as_str().unwrap_or_default());
        for (name, _, decimals) in columns {
            match row[name].as_f64() {
                Some(value) => print!("{value:>11.decimals$}"),
                None => print!("{:>11}", "-"),
            }
        }
        println!();
    }
    for row in rows.iter().filter(|row| row["generator_percent"].as_f64() > Some(GENERATOR_MAX)) {
        println!("{} measures the generator, which was busy all the time.", row["name"].as_str().unwrap_or_default());
    }
}

/// Writes results.json.
pub fn write(path: &Path, document: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(document)?;
    fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    #[test]
    fn ratios_are_of_the_same_repetition() {
        let found = |rps: f64| Found { rps, ..Found::default() };
        let decide = ROWS.iter().position(|row| row.name == "decide").expect("a row");
        let findings = BTreeMap::from([
            (0, vec![found(100.0), found(50.0), found(80.0)]),
            (decide, vec![found(50.0), found(30.0), found(10.0)]),
        ]);
        let rows = rows(&ROWS, &findings);
        assert_eq!((rows[1]["name"].as_str(), rows[1]["rps"].as_f64()), (Some("decide"), Some(30.0)));
        assert_eq!(rows[1]["ratio_to_floor_a"].as_f64(), Some(0.5));
        assert!(rows[1]["ratio_to_floor_b"].is_null());
    }
}
