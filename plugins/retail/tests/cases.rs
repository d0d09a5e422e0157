//! The cases beside the plugin: what visitors did, and what must come of it.

use retail::Retail;
use selvedge_guest::testing::{Observed, Visitor, check_cases};
use serde_json::json;

#[test]
fn every_case_holds() {
    let checked = check_cases::<Retail>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
    assert!(checked >= 6, "{checked} cases");
}

#[test]
fn an_event_in_another_currency_is_passed_over_and_said() {
    let mut visitor = Visitor::<Retail>::new("currency = \"GBP\"");
    let order = |currency: &str| json!({"type": "track", "event": "Order Completed", "properties": {"total": 1, "currency": currency}});
    assert_eq!(visitor.observe(order("JPY")), Observed::Skipped("other-currency".into()));
    assert!(matches!(visitor.observe(order("GBP")), Observed::Contributed(_)));
}

#[test]
fn money_that_is_none_is_refused_where_it_stands() {
    let mut visitor = Visitor::<Retail>::new("");
    let order = |price: serde_json::Value| json!({"type": "track", "event": "Order Completed", "properties": {"products": [{"price": 1}, {"price": price}]}});
    assert_eq!(visitor.observe(order(json!("free"))), Observed::Refused("/properties/products/1/price".into()));
    assert_eq!(visitor.observe(order(json!(1e13))), Observed::Refused("/properties/products/1/price".into()));
    let failed = visitor.observe(json!({"type": "track", "event": "Order Completed", "properties": {
        "products": [{"price": 9_000_000_000_000_i64, "quantity": 2}]}}));
    assert!(matches!(failed, Observed::Failed(text) if text.contains("9.2 trillion")));
    assert_eq!(visitor.observe(json!({"type": "page"})), Observed::Ignored);
}

#[test]
#[should_panic(expected = "did you mean \"alpha\"")]
fn a_misspelt_key_of_the_configuration_is_named() {
    let _ = Visitor::<Retail>::new("alhpa = 4.4");
}
