//! The cases beside the plugin: what visitors did, and what must come of it.

use engagement::Engagement;
use selvedge_guest::testing::check_case;

#[test]
fn every_case_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).expect("the cases") {
        let path = entry.expect("a case").path();
        eprintln!("{}", path.display());
        check_case::<Engagement>(&std::fs::read_to_string(&path).expect("a case's text"));
        checked += 1;
    }
    assert!(checked >= 3, "{checked} cases");
}
