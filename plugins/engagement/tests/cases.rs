//! The cases beside the plugin: what visitors did, and what must come of it.

use engagement::Engagement;
use selvedge_guest::testing::check_cases;

#[test]
fn every_case_holds() {
    let checked = check_cases::<Engagement>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
    assert!(checked >= 3, "{checked} cases");
}
