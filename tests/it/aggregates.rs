//! Aggregates that are defined without code: the standard plugin as the real edge loads it.

use std::path::Path;

use selvedge_plugin_host::{Component, Engine, EngineConfig};
use selvedge_tests::online_retail::{Row, events, rows};
use selvedge_tests::{TestEdge, TestEdgeBuilder, plugins, root, shared_data};
use serde_json::{Value, json};

/// A folder with the plugin and these definitions.
fn defined(definitions: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    add(folder.path(), "aggregates");
    std::fs::write(folder.path().join("aggregates.toml"), definitions).unwrap();
    folder
}

fn add(folder: &Path, plugin: &str) {
    let file = format!("{plugin}.wasm");
    std::fs::copy(plugins().join(&file), folder.join(&file)).unwrap();
}

fn builder(folder: &tempfile::TempDir) -> TestEdgeBuilder {
    TestEdgeBuilder::default().without_catalog().plugins(folder.path())
}

fn example(name: &str) -> String {
    std::fs::read_to_string(root().join("plugins/aggregates/examples").join(name)).unwrap()
}

#[test]
fn definitions_count_from_the_first_event_and_are_folded_anew_when_they_change() {
    let large = "[[aggregate]]\nname = \"large\"\noperator = \"count\"\nevent = \"Order Completed\"\nwhere = \"properties.total >= 100\"\n";
    // As deep as an expression may be: what it counts is not the point, but that the guest's stack bears it.
    let deep = format!(
        "[[aggregate]]\nname = \"deep\"\noperator = \"sum\"\nevent = \"Order Completed\"\nvalue = \"{}\"\n",
        "properties.total > 0 ? -(-1 + ".repeat(7) + &"2 * ".repeat(2) + "1" + &") : 1".repeat(7)
    );
    let large = &format!("{large}{deep}");
    let folder = defined(large);
    let edge = builder(&folder).start();
    let order = |id: &str, total: Value| json!({"type": "track", "event": "Order Completed", "userId": "ada", "messageId": id, "timestamp": "2026-01-05T10:00:00Z", "properties": {"total": total}});
    edge.batch(&[
        order("a", json!(99.99)),
        order("b", json!(100)),
        order("c", json!("250.00")),
        order("d", Value::Null),
    ]);
    assert_eq!(edge.aggregate("user:ada", "aggregates.large"), 2);
    assert_eq!(
        edge.metric("selvedge_plugin_failures_total{plugin=\"aggregates\",stage=\"observe\",kind=\"trapped\"}"),
        None
    );
    assert_eq!(edge.aggregate("user:ada", "aggregates.deep"), -9);
    // A value of another type than the definitions need is refused where it stands.
    let answer = edge.batch(&[order("e", json!(true))]);
    assert_eq!(answer["rejected"][0]["pointer"], "/properties/total");

    let (data, _) = edge.stop();
    std::fs::write(folder.path().join("aggregates.toml"), large.replace("100", "99")).unwrap();
    let edge = builder(&folder).start_in(data);
    edge.backfilled();
    assert_eq!(edge.aggregate("user:ada", "aggregates.large"), 3);
}

#[test]
fn a_definition_that_old_events_do_not_fit_takes_nothing_from_the_others() {
    let count = "[[aggregate]]\nname = \"n\"\noperator = \"count\"\nevent = \"E\"\n";
    let sum = |of: &str| {
        format!("[[aggregate]]\nname = \"{of}\"\noperator = \"sum\"\nevent = \"E\"\nvalue = \"properties.{of}\"\n")
    };
    let folder = defined(count);
    let edge = builder(&folder).start();
    let event = |id: &str, x: Value, y: i64| json!({"type": "track", "event": "E", "userId": "ada", "messageId": id, "timestamp": "2026-01-05T10:00:00Z", "traits": {"seen": id}, "properties": {"x": x, "y": y}});
    edge.batch(&[event("a", json!("abc"), 1), event("b", json!(5), 2)]);
    assert_eq!(edge.aggregate("user:ada", "aggregates.n"), 2);
    let (data, _) = edge.stop();
    std::fs::write(folder.path().join("aggregates.toml"), format!("{count}{}{}", sum("x"), sum("y"))).unwrap();
    let edge = builder(&folder).start_in(data);
    edge.backfilled();
    let values = ["n", "x", "y"].map(|name| edge.aggregate("user:ada", &format!("aggregates.{name}")));
    assert_eq!(values, [json!(2), json!(5), json!(3)]);
    // At the door such an event is refused now.
    assert_eq!(edge.batch(&[event("c", json!("abc"), 4)])["rejected"][0]["pointer"], "/properties/x");
    // What would contribute nothing that counts is refused before.
    for (operator, missing) in [("unique", "key"), ("mean-by-key", "key"), ("mean", "value"), ("quantile", "value")] {
        let text = format!("[[aggregate]]\nname = \"odd\"\noperator = \"{operator}\"\nevent = \"E\"\n");
        let refused = builder(&defined(&text)).fails();
        assert!(refused.contains(&format!("\"odd\" needs a {missing}")), "{operator}: {refused}");
    }
}

#[test]
fn faulty_definitions_are_refused_at_the_start_with_the_place_of_each_fault() {
    let definitions = r#"
[[aggregate]]
name = "fine"
operator = "count"
event = "Order Completed"

[[aggregate]]
name = "big"
operator = "count"
event = "Order Completed"
wher = "properties.total > 100"
where = "properties.total > > 100"

[[aggregate]]
name = "gifts"
operator = "count"
event = "Order Completed"
where = "properties.items.exists(item, item.gift)"
"#;
    let text = builder(&defined(definitions)).fails();
    for expected in [
        "plugin aggregates: ",
        "aggregates.toml: aggregate[1].wher: unknown key \"wher\"; did you mean \"where\"?",
        "aggregates.toml: aggregate[1].where: of \"big\", at character 20: does not parse: ",
        "aggregates.toml: aggregate[2].where: of \"gifts\", at character ",
        "a macro such as `all()`, `exists()` or `map()` is no condition",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("error:")).count(), 1, "{text}");
    // What only the host knows of names its culprit too.
    let host = |definition: &str| {
        builder(&defined(&format!("[[aggregate]]\nname = \"odd\"\nevent = \"A\"\n{definition}"))).fails()
    };
    let text = host("operator = \"median\"\nvalue = \"properties.a\"\nparameters = { wide = 1 }");
    assert!(text.contains("plugin aggregates: aggregate \"odd\": "), "{text}");
    let text = host("operator = \"count\"\nwindows = \"8w\"");
    assert!(text.contains("plugin aggregates: aggregate \"odd\": ") && text.contains("8w"), "{text}");
    let text = builder(&defined("[[aggregate]\n")).fails();
    assert!(text.contains("plugin aggregates: configuration: "), "{text}");
}

/// Whatever the text is, the host answers with a message of its own: no trap of the guest, no panic.
#[test]
fn no_expression_brings_the_plugin_down() {
    let wasm = std::fs::read(plugins().join("aggregates.wasm")).unwrap();
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let deep = |open: &str, times: usize, close: &str| format!("{}1{}", open.repeat(times), close.repeat(times));
    let mut expressions: Vec<String> = Vec::new();
    // Far past the limit, and around it, where the stack is used up most.
    for times in [3, 4, 7, 8, 9, 16, 17, 24, 180] {
        expressions.extend([
            deep("(1 + (", times, ""),
            deep("-(", times, ""),
            deep("!(", times, ""),
            deep("-", times, " +"),
            deep("[", times, "]"),
            deep("{'a': ", times, "}"),
            deep("[1 + ", times, "]"),
            deep("size(", times, ")"),
            deep("size(1 + -(", times, "))"),
            deep("a.all(b, ", times, ")"),
            deep("a.", times, ""),
            deep("a[", times, "]"),
            deep("x ? y : ", times, ""),
            deep("x ? (y && ", times, ") : z"),
            deep("(properties.a > 0 ? -(1 + ", times, ") : 2)"),
            deep("properties.a == 1 || !(", times, ")"),
        ]);
    }
    expressions.extend([
        format!("{}1", "1 + ".repeat(499)),
        format!("{}(", "1 + ".repeat(499)),
        format!("{}1 == 'a'", "true ? 1 + ".repeat(16)),
        format!("{}true", "true && ".repeat(249)),
        format!("{}properties.b", "properties.a ? true : ".repeat(16)),
        "\u{0} \"".into(),
        "'\\u12'".into(),
        "a.map(b, c.map(d, e.filter(f, g)))".into(),
    ]);
    let mut refused = 0;
    for (part, operator) in [("value", "sum"), ("where", "count"), ("key", "distinct")] {
        // No more at once than faults are told of.
        for expressions in expressions.chunks(30) {
            let definition = |(index, expression): (usize, &String)| {
                format!(
                    "[[aggregate]]\nname = \"a{index}\"\noperator = \"{operator}\"\nevent = \"A\"\n{part} = {}\n",
                    json!(expression)
                )
            };
            let definitions: String = expressions.iter().enumerate().map(definition).collect();
            let error = Component::load(&engine, "aggregates", &wasm, &definitions).err().unwrap();
            for fault in &error.faults {
                assert!(fault.place.ends_with(part) && fault.detail.starts_with("of \"a"), "{fault:?}");
            }
            assert!(!error.faults.is_empty(), "{error}: {expressions:#?}");
            refused += error.faults.len();
        }
    }
    assert!(refused > 300, "{refused} of {}", 3 * expressions.len());
    let definition = format!("aggregate = {}1{}", "[".repeat(60), "]".repeat(60));
    let error = Component::load(&engine, "aggregates", &wasm, &definition).err().unwrap();
    assert!(error.to_string().contains("more than 16 tables and lists stand within each other"), "{error}");
}

/// What the retail plugin computes by code, `examples/online-retail.toml` computes without: every value, of everybody, in December.
#[test]
fn definitions_give_the_values_of_the_retail_plugin() {
    let Some(path) = shared_data("online-retail/online-retail-2010-12.csv.gz") else { return };
    let folder = defined(&example("online-retail.toml"));
    add(folder.path(), "retail");
    let edge = builder(&folder).arguments(&["--time-zone", "Europe/London"]).start();
    let events = events(&rows(&path));
    assert_eq!(edge.batches(&events), (2025, 0));
    let mut customers: Vec<&str> = events.iter().filter_map(|event| event["userId"].as_str()).collect();
    customers.sort_unstable();
    customers.dedup();
    let mut compared = 0;
    for (index, customer) in customers.iter().enumerate() {
        compared += compare(&edge, customer, None);
        if index % 10 == 0 {
            for at in ["2010-12-05T12:00:00Z", "2010-12-17T09:27:00Z", "2011-01-01T00:00:00Z"] {
                compared += compare(&edge, customer, Some(at));
            }
        }
    }
    eprintln!("{compared} values of {} customers agree", customers.len());
    assert!(compared > 20_000, "{compared}");
}

/// Compares every aggregate of the retail plugin with the one of the same name; gives how many.
fn compare(edge: &TestEdge, customer: &str, at: Option<&str>) -> usize {
    let profile = edge.profile(&format!("user:{customer}"), at);
    let Some(aggregates) = profile["aggregates"].as_object() else { return 0 };
    let retail = aggregates.iter().filter_map(|(name, value)| Some((name.strip_prefix("retail.")?, value)));
    let mut compared = 0;
    for (name, value) in retail {
        let defined = &aggregates[&format!("aggregates.{name}")];
        assert_eq!(
            (&defined["value"], &defined["exact"]),
            (&value["value"], &value["exact"]),
            "{name} of {customer} as of {at:?}"
        );
        compared += 1;
    }
    assert!(compared >= 25, "{profile}");
    compared
}

/// Every window over the full year: around the new year, month ends and both changes of the clocks, by looking at every row.
#[test]
fn every_window_of_the_year_agrees_with_the_rows() {
    let Some(path) = shared_data("online-retail/online-retail.csv.gz") else { return };
    const SLIDING: [(&str, i64); 4] = [("90m", 90), ("36h", 36 * 60), ("14d", 14 * 24 * 60), ("200d", 200 * 24 * 60)];
    const TO_DATE: [&str; 6] = ["htd", "dtd", "wtd", "mtd", "qtd", "ytd"];
    const PERIODS: [&str; 6] = ["hour", "day", "week", "month", "quarter", "year"];
    let windows: Vec<String> = SLIDING
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(TO_DATE.map(str::to_owned))
        .chain(PERIODS.map(|period| format!("previous-{period}")))
        .collect();
    let amount = "properties.products[].price * properties.products[].quantity";
    let cancelled = r#"["Order Refunded", "Order Cancelled"]"#;
    let definitions = format!(
        "[[aggregate]]\nname = \"revenue\"\noperator = \"sum\"\nwindows = {windows:?}\n[[aggregate.from]]\nevent = \"Order Completed\"\n\
         value = \"{amount}\"\n[[aggregate.from]]\nevent = {cancelled}\nvalue = \"-({amount})\"\n\
         [[aggregate]]\nname = \"largest\"\noperator = \"max\"\nwindows = {windows:?}\nevent = \"Order Completed\"\nvalue = \"{amount}\"\n\
         [[aggregate]]\nname = \"products\"\noperator = \"distinct\"\nwindows = {windows:?}\nevent = \"Order Completed\"\n\
         key = \"properties.products[].product_id\"\n"
    );
    let folder = defined(&definitions);
    let edge = builder(&folder).arguments(&["--time-zone", "Europe/London"]).start();
    assert_eq!(edge.import(&path, "online-retail.toml")["accepted"], 25_900);
    let rows = rows(&path);
    // Which hour, day, week, month, quarter and year of the wall clock an instant lies in, counted from wherever.
    let zone = jiff::tz::TimeZone::get("Europe/London").unwrap();
    let numbers = |at: i64| {
        let wall = jiff::Timestamp::from_millisecond(at).unwrap().to_zoned(zone.clone());
        let date = wall.date();
        let days = i64::from((date - jiff::civil::date(1969, 12, 29)).get_days());
        let month = i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
        [at.div_euclid(3_600_000), days, days.div_euclid(7), month, month.div_euclid(3), i64::from(date.year())]
    };
    let mut checked = 0;
    for customer in ["14911", "12748", "17841", "12346", "16446", "15311", "12417", "18283"] {
        let rows: Vec<_> =
            rows.iter().filter(|row| row.customer == customer).map(|row| (row, numbers(row.at))).collect();
        for at in [
            "2010-12-31T23:59:59Z",
            "2011-01-01T00:00:00Z",
            "2011-01-31T23:59:59.999Z",
            "2011-03-27T00:59:59Z",
            "2011-03-28T09:30:00Z",
            "2011-03-31T22:59:59Z",
            "2011-03-31T23:00:00Z",
            "2011-10-31T12:00:00Z",
            "2011-11-01T00:00:00Z",
            "2011-12-09T12:50:00Z",
        ] {
            let profile = edge.profile(&format!("user:{customer}"), Some(at));
            let now = at.parse::<jiff::Timestamp>().unwrap().as_millisecond();
            let here = numbers(now);
            if !rows.iter().any(|(row, _)| row.at <= now) {
                assert_eq!(profile["aggregates"], Value::Null, "{customer} was not there as of {at}");
                continue;
            }
            for (index, window) in windows.iter().enumerate() {
                let inside = |row: &Row, numbers: &[i64; 6]| {
                    row.at <= now
                        && match index.checked_sub(SLIDING.len()) {
                            None => row.at > now - SLIDING[index].1 * 60_000,
                            Some(period) => numbers[period % 6] == here[period % 6] - (period / 6) as i64,
                        }
                };
                let seen: Vec<&Row> =
                    rows.iter().filter(|(row, numbers)| inside(row, numbers)).map(|(row, _)| *row).collect();
                let bought: Vec<&&Row> = seen.iter().filter(|row| !row.invoice.starts_with('C')).collect();
                let products: std::collections::BTreeSet<_> = bought.iter().map(|row| &row.stock_code).collect();
                let read = |name: &str| {
                    // As the window is read: by the largest unit of which it holds more than one.
                    let name = format!("aggregates.{name}_{}", window.replace('-', "_"));
                    let read = &profile["aggregates"][&name];
                    assert_eq!(read["exact"], true, "{name} of {customer} as of {at}: {read}");
                    read["value"].clone()
                };
                let tenths = |value: &Value| value.as_f64().map(|pounds| (pounds * 1000.0).round() as i64);
                let amount = |row: &Row| row.quantity * row.price;
                let place = format!("{window} of {customer} as of {at}");
                let revenue = seen.iter().map(|row| amount(row)).sum::<i64>();
                assert_eq!(tenths(&read("revenue")), Some(revenue), "revenue {place}");
                assert_eq!(tenths(&read("largest")), bought.iter().map(|row| amount(row)).max(), "largest {place}");
                assert_eq!(read("products"), products.len(), "products {place}");
                checked += 3;
            }
        }
    }
    eprintln!("{checked} values agree");
}
