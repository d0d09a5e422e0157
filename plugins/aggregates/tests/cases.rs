//! The cases beside the plugin: what visitors did, and what must come of it; and the configurations that stand in its folder.

use aggregates::Aggregates;
use selvedge_guest::testing::{Visitor, check_cases};
use serde_json::json;

#[test]
fn every_case_holds() {
    let checked = check_cases::<Aggregates>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
    assert!(checked >= 2, "{checked} cases");
}

#[test]
fn what_is_shipped_is_harmless_and_its_comments_are_good_definitions() {
    let shipped = include_str!("../aggregates.toml");
    let mut visitor = Visitor::<Aggregates>::new(shipped);
    let order = json!({"type": "track", "event": "Order Completed", "properties": {"total": 120, "channel": "web"}});
    assert_eq!(visitor.observe(order.clone()), selvedge_guest::testing::Observed::Ignored);
    let uncommented: String = shipped
        .lines()
        .skip_while(|line| *line != "# [[aggregate]]")
        .map(|line| format!("{}\n", line.trim_start_matches("# ")))
        .collect();
    let mut visitor = Visitor::<Aggregates>::new(&uncommented);
    visitor.observe(order);
    assert_eq!(visitor.aggregate("aggregates.large_orders", "2026-01-01T00:00:00Z"), json!(1));
}

/// The definitions in README.md are what it says they are.
#[test]
fn the_example_of_the_readme_is_good() {
    let readme = include_str!("../README.md");
    let mut examples = 0;
    for example in readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let _ = Visitor::<Aggregates>::new(example);
        examples += 1;
    }
    assert!(examples >= 1, "README.md has an example");
}
