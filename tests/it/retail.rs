//! The Online Retail data: every aggregate of every customer asked for, at every instant, exactly.

use std::collections::BTreeMap;

use selvedge_tests::online_retail::{Row, events, observed, reference, rfc3339, rows};
use selvedge_tests::{TestEdge, TestEdgeBuilder, only, shared_data, shuffle};
use serde_json::{Value, json};

fn london() -> TestEdge {
    TestEdgeBuilder::default().arguments(&["--time-zone", "Europe/London"]).start()
}

/// Checks all 75 records of the expected values.
fn check_expected(edge: &TestEdge, how: &str) {
    let path = shared_data("online-retail/expected-2010-12.json").unwrap();
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let records = expected["expected"].as_array().unwrap();
    assert_eq!(records.len(), 75);
    for record in records {
        let (customer, at) = (record["customer_id"].as_str().unwrap(), record["as_of"].as_str().unwrap());
        let profile = edge.profile(&format!("user:{customer}"), Some(at));
        let observed = observed(&profile);
        for (name, value) in record["values"].as_object().unwrap() {
            assert_eq!(&observed[name], value, "{how}: {name} of {customer} as of {at}");
        }
    }
}

#[test]
fn expected_values_hold_in_any_order_and_however_often_events_come() {
    let Some(path) = shared_data("online-retail/online-retail-2010-12.csv.gz") else { return };
    let mut events = events(&rows(&path));
    assert_eq!(events.len(), 2025);

    let in_order = london();
    assert_eq!(in_order.batches(&events), (2025, 0));
    check_expected(&in_order, "in order");
    assert_eq!(in_order.batches(&events), (0, 2025));
    check_expected(&in_order, "sent again");

    shuffle(&mut events, 20_101_201);
    let shuffled = london();
    let doubled: Vec<Value> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
    assert_eq!(shuffled.batches(&doubled), (2025, 2025));
    check_expected(&shuffled, "shuffled, every event twice");
}

#[test]
fn expected_values_hold_for_persons_of_three_identifiers_that_are_linked_at_the_end() {
    let Some(path) = shared_data("online-retail/online-retail-2010-12.csv.gz") else { return };
    let mut events = events(&rows(&path));
    let device = |customer: &str| json!([{"id": format!("d-{customer}"), "type": "device"}]);
    let mut customers = BTreeMap::new();
    for (index, event) in events.iter_mut().enumerate() {
        let Some(customer) = event["userId"].as_str().map(str::to_owned) else { continue };
        let fields = event.as_object_mut().unwrap();
        match index % 3 {
            0 => {}
            1 => {
                fields.remove("userId");
                fields.insert("anonymousId".into(), format!("a-{customer}").into());
            }
            _ => {
                fields.remove("userId");
                let context = fields.entry("context").or_insert_with(|| json!({}));
                context["externalIds"] = device(&customer);
            }
        }
        *customers.entry(customer).or_insert(0) += 1;
    }
    let edge = london();
    assert_eq!(edge.batches(&events), (2025, 0));
    let orders = |edge: &TestEdge| edge.profile("user:17850", None)["aggregates"]["retail.orders"]["value"].clone();
    let apart = orders(&edge);
    let links: Vec<Value> = customers
        .keys()
        .map(|customer| json!({"type": "identify", "userId": customer, "anonymousId": format!("a-{customer}"), "context": {"externalIds": device(customer)}}))
        .collect();
    edge.batches(&links);
    assert_ne!(orders(&edge), apart);
    check_expected(&edge, "over three identifiers");
    let edge = edge.kill_and_restart();
    check_expected(&edge, "over three identifiers, after a restart");
}

#[test]
fn expected_values_hold_through_import() {
    let Some(path) = shared_data("online-retail/online-retail-2010-12.csv.gz") else { return };
    let edge = london();
    let report = edge.import(&path, "online-retail.toml");
    assert_eq!(
        (&report["rows"], &report["accepted"], &report["refused"]),
        (&42_481.into(), &2_025.into(), &serde_json::json!({}))
    );
    check_expected(&edge, "imported");
    let again = edge.import(&path, "online-retail.toml");
    assert_eq!((&again["accepted"], &again["duplicates"]), (&0.into(), &2_025.into()));
    check_expected(&edge, "imported twice");
}

/// Customers and instants of the full year against a reference that looks at every row: around the new year, month ends, both changes of
/// the clocks, exactly at rows and exactly a window after them.
#[test]
fn the_full_year_agrees_with_a_naive_reference_and_fits_its_bounds() {
    let Some(path) = shared_data("online-retail/online-retail.csv.gz") else { return };
    let retail = only("retail");
    let edge = TestEdgeBuilder::default().arguments(&["--time-zone", "Europe/London"]).plugins(retail.path()).start();
    let report = edge.import(&path, "online-retail.toml");
    assert_eq!(
        (&report["rows"], &report["accepted"], &report["refused"]),
        (&541_909.into(), &25_900.into(), &serde_json::json!({}))
    );
    assert!(report["seconds"].as_f64().unwrap() <= 60.0, "{report}");

    let rows = rows(&path);
    let mut customers: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.customer.is_empty()) {
        customers.entry(&row.customer).or_default().push(row);
    }
    assert_eq!(customers.len(), 4372);
    // The largest, the extreme, those with several countries or cancellations only, and every 150th.
    let mut chosen =
        vec!["14911", "12748", "17841", "12346", "16446", "14646", "15311", "12370", "12417", "12455", "18283"];
    chosen.extend(customers.keys().step_by(150));
    let fixed = [
        "2010-12-31T23:59:59Z",
        "2011-01-01T00:00:00Z",
        "2011-01-31T23:59:59.999Z",
        "2011-03-27T00:59:59Z",
        "2011-03-27T01:00:00Z",
        "2011-03-31T22:59:59Z",
        "2011-03-31T23:00:00Z",
        "2011-10-30T00:30:00Z",
        "2011-10-30T01:00:00Z",
        "2011-12-09T12:50:00Z",
    ];
    let mut checked = 0;
    for customer in chosen {
        let rows = &customers[customer];
        let middle = rows[rows.len() / 2].at;
        let mut instants: Vec<i64> =
            fixed.iter().map(|at| at.parse::<jiff::Timestamp>().unwrap().as_millisecond()).collect();
        instants.extend(
            [0, 3_600_000, 86_400_000, 7 * 86_400_000, 30 * 86_400_000, 90 * 86_400_000].map(|after| middle + after),
        );
        instants.push(middle - 1);
        for at in instants {
            let observed = observed(&edge.profile(&format!("user:{customer}"), Some(&rfc3339(at))));
            let expected = reference(rows, at);
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(&observed[name], value, "{name} of {customer} as of {}", rfc3339(at));
            }
            checked += expected.as_object().unwrap().len();
        }
    }
    eprintln!("{checked} values agree");

    // The state that is held agrees with a fold of the history, at an instant after everything.
    for customer in customers.keys().step_by(40) {
        let now = edge.profile(&format!("user:{customer}"), None);
        let latest = customers[customer].iter().map(|row| row.at).max().unwrap();
        let folded = edge.profile(&format!("user:{customer}"), Some(&rfc3339(latest)));
        for name in ["orders", "lines", "revenue", "top_products", "units_kept", "purchase_days", "first_day_revenue"] {
            let name = format!("retail.{name}");
            assert_eq!(now["aggregates"][&name], folded["aggregates"][&name], "{name} of {customer}");
        }
    }

    let (resident, disk) = (edge.memory_kib("VmHWM") / 1024, edge.disk_bytes() / 1024 / 1024);
    eprintln!("import {} s, at most {resident} MiB resident, {disk} MiB on disk", report["seconds"]);
    let storage = edge.admin_get("/admin/v1/storage").ok();
    let profiles = storage["fragments"].as_u64().unwrap();
    // The customers, and the invoices without one.
    assert_eq!(profiles, 4372 + 3710);
    let each = |name: &str| storage[name].as_u64().unwrap() / profiles;
    let (state, history, ids) = (each("stateBytes"), each("historyBytes"), each("idBytes"));
    eprintln!("a profile: {state} bytes of aggregates, {history} of history, {ids} of ids");
    assert!(state + history + ids <= 6 * 1024, "{storage}");
    assert!(resident <= 200, "{resident} MiB resident");
    assert!(disk <= 100, "{disk} MiB on disk");
}
