//! The CDNOW data: the scores of every customer of the sample, against the papers' own formulas, written down here once more.

use std::collections::BTreeMap;

use flate2::read::GzDecoder;
use jiff::civil::Date;
use selvedge_tests::{TestEdgeBuilder, plugins, shared_data};

const R: f64 = 0.243;
const ALPHA: f64 = 4.414;
const A: f64 = 0.793;
const B: f64 = 2.426;
const P: f64 = 6.25;
const Q: f64 = 3.74;
const V: f64 = 15.44;
const HORIZON_DAYS: f64 = 273.0;

/// (x, t_x, T, x·m̄) at the end of the calibration period.
type Summary = (f64, f64, f64, f64);

fn summaries(path: &std::path::Path) -> BTreeMap<String, Summary> {
    let end: Date = "1997-09-30".parse().unwrap();
    let mut days: BTreeMap<String, BTreeMap<Date, f64>> = BTreeMap::new();
    for record in csv::Reader::from_reader(GzDecoder::new(std::fs::File::open(path).unwrap())).records() {
        let record = record.unwrap();
        let (date, amount): (Date, f64) = (record[1].parse().unwrap(), record[3].parse().unwrap());
        if date <= end {
            *days.entry(record[0].to_owned()).or_default().entry(date).or_default() += amount;
        }
    }
    let weeks = |from: Date, to: Date| f64::from(from.until((jiff::Unit::Day, to)).unwrap().get_days()) / 7.0;
    let summary = |days: BTreeMap<Date, f64>| {
        let (first, last) = (*days.keys().next().unwrap(), *days.keys().last().unwrap());
        let repeat: f64 = days.values().skip(1).sum();
        ((days.len() - 1) as f64, weeks(first, last), weeks(first, end), repeat)
    };
    days.into_iter().map(|(customer, days)| (customer, summary(days))).collect()
}

/// 2F1 by its series, as the paper has it.
fn hypergeometric(a: f64, b: f64, c: f64, z: f64) -> f64 {
    let (mut sum, mut term, mut n) = (1.0, 1.0, 0.0);
    while f64::abs(term) > 1e-17 * sum {
        term *= (a + n) * (b + n) / (c + n) / (n + 1.0) * z;
        sum += term;
        n += 1.0;
    }
    sum
}

/// P(alive), E(Y(t)) and the customer's value.
fn scores((x, recency, age, repeat): Summary) -> [f64; 3] {
    let stretch = ((ALPHA + age) / (ALPHA + recency)).powf(R + x);
    let odds = if x > 0.0 { A / (B + x - 1.0) * stretch } else { 0.0 };
    let t = HORIZON_DAYS / 7.0;
    let shrink = ((ALPHA + age) / (ALPHA + age + t)).powf(R + x);
    let series = hypergeometric(R + x, B + x, A + B + x - 1.0, t / (ALPHA + age + t));
    let orders = (A + B + x - 1.0) / (A - 1.0) * (1.0 - shrink * series) / (1.0 + odds);
    [1.0 / (1.0 + odds), orders, orders * P * (V + repeat) / (P * x + Q - 1.0)]
}

#[test]
fn scores_of_the_sample_agree_with_the_papers() {
    let Some(path) = shared_data("cdnow/cdnow-sample.csv.gz") else { return };
    let configured = tempfile::tempdir().unwrap();
    std::fs::copy(plugins().join("retail.wasm"), configured.path().join("retail.wasm")).unwrap();
    let config = std::fs::read_to_string(plugins().join("retail.toml")).unwrap();
    let config = config.replace("horizon_days = 90", "horizon_days = 273");
    std::fs::write(configured.path().join("retail.toml"), config).unwrap();
    let edge = TestEdgeBuilder::default().plugins(configured.path()).start();
    let report = edge.import(&path, "cdnow.toml");
    assert_eq!((&report["rows"], &report["accepted"]), (&6_919.into(), &6_919.into()));

    let summaries = summaries(&path);
    assert_eq!(summaries.len(), 2357);
    for (customer, summary) in summaries {
        let profile = edge.profile(&format!("user:{customer}"), Some("1997-09-30T00:00:00Z"));
        for (name, expected) in ["p_alive", "expected_orders", "clv"].into_iter().zip(scores(summary)) {
            let value = profile["scores"][format!("retail.{name}")]["value"].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() <= 1e-6, "{name} of {customer}: {value} is not {expected}");
        }
    }
    let nobody = edge.profile("user:00000", Some("1997-09-30T00:00:00Z"));
    assert!(nobody.is_null());
}
