//! The batch side, end to end: a mart is loaded, events go on from it, a newer load replaces it, and what happened goes back.

use std::process::{Command, Output};

use selvedge_tests::agent;
use selvedge_tests::cluster::{TestCentre, caught_up, eventually};
use selvedge_tests::edge::{PUBLISHABLE, SECRET, WRITE, binary};
use selvedge_tests::process::answer;
use selvedge_tests::{TestEdge, TestEdgeBuilder};
use serde_json::{Value, json};

const MAP: &str = r#"
    kind = "mart"
    source = "crm"
    block = "orders"
    as_of = "2026-01-05T00:00:00Z"
    id = "user:{customer}"
    [traits]
    segment = "{segment}"
    [aggregates]
    "retail.lines" = { value = "lines" }
    "retail.revenue" = { value = "revenue" }
    "retail.gross_revenue" = { value = "revenue" }
    "retail.first_purchase_at" = { instant = "first", format = "%Y-%m-%d" }
    "retail.last_purchase_amount" = { value = "last_amount", at = "last", format = "%Y-%m-%d" }
"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| std::fs::write(folder.path(name), text).unwrap());
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn import(&self, edge: &TestEdge, name: &str, map: &str, more: &[&str]) -> Output {
        self.import_to(&edge.public, name, map, more)
    }

    fn import_to(&self, url: &str, name: &str, map: &str, more: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.current_dir(self.0.path()).arg("import").arg(self.path(name)).arg("--map").arg(self.path(map));
        command.args(["--to", url, "--key", SECRET, "--json"]).args(more).output().unwrap()
    }

    fn export(&self, edge: &TestEdge, more: &[&str]) -> Output {
        self.export_from(&edge.public, more)
    }

    fn export_from(&self, url: &str, more: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.current_dir(self.0.path()).args(["export", "--from", url, "--key", SECRET]);
        command.args(more).output().unwrap()
    }
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn order(user: &str, id: &str, at: &str, total: f64) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": id, "userId": user, "timestamp": at,
           "properties": {"order_id": id, "total": total, "products": [{"product_id": "kettle", "price": total, "quantity": 1}]}})
}

fn value<'p>(profile: &'p Value, name: &str) -> &'p Value {
    &profile["aggregates"][name]["value"]
}

fn load(edge: &TestEdge, body: &Value) -> Value {
    edge.post(SECRET, "/v1/mart", &body.to_string()).ok()
}

#[test]
fn the_centre_itself_takes_loads_and_gives_what_happened() {
    let mut centre = TestCentre::start();
    let edge = centre.edge("one").start();
    edge.batch(&[order("1", "a", "2026-01-05T00:00:00.001Z", 5.5)]);
    caught_up(&centre, &edge);
    let rows = "customer,segment,lines,revenue,first,last,last_amount\n\
        1,gold,12,1200.50,2019-03-01,2026-01-04,20\n\
        2,,1,40,2025-12-30,2025-12-30,40\n\
        4,silver,many,1,,,\n";
    let files = Files::new(&[("mart.csv", rows), ("mart.toml", MAP)]);
    let loaded = report(&files.import_to(&centre.url, "mart.csv", "mart.toml", &["--reconcile"]));
    assert_eq!((&loaded["accepted"], &loaded["refused"]["wrong_type"]["first_rows"]), (&json!(2), &json!([3])));
    assert_eq!(loaded["reconciliation"]["retail.lines"]["mart"], 13);
    // What it acknowledged it keeps, whenever it is killed.
    let events = "customer,order,total,at\n2,e-1,7.5,2026-01-06T00:00:00Z\n";
    let map = r#"
        [[events]]
        name = "Order Completed"
        [time]
        column = "at"
        [identity]
        message_id = "{order}"
        user_id = "{customer}"
        [properties]
        order_id = "{order}"
        total = { number = "total" }
    "#;
    let events = Files::new(&[("events.csv", events), ("events.toml", map)]);
    report(&events.import_to(&centre.url, "events.csv", "events.toml", &[]));
    centre.kill_and_restart();
    eventually("the edge has both", || {
        let (one, two) = (edge.profile("user:1", None), edge.profile("user:2", None));
        value(&one, "retail.revenue") == &json!(1206) && value(&two, "retail.revenue") == &json!(47.5)
    });
    // The centre reads and exports without an edge.
    let caller = agent();
    let read = |path: &str, key: &str| {
        answer(caller.get(format!("{}{path}", centre.url)).header("authorization", format!("Bearer {key}")).call())
    };
    eventually("the centre's own edge has it too", || {
        value(&read("/v1/profiles/user:2", SECRET).ok(), "retail.revenue") == &json!(47.5)
    });
    assert_eq!(read("/v1/profiles/user:2", PUBLISHABLE).problem(), (403, "key_not_allowed"));
    assert_eq!(read("/v1/profiles/user:2", "nobody_0001").problem(), (401, "key_unknown"));
    let exported = files.export_from(&centre.url, &[]);
    let lines: Vec<Value> =
        String::from_utf8(exported.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&str> = lines.iter().filter_map(|line| line["messageId"].as_str()).collect();
    assert!(ids.contains(&"a") && ids.contains(&"e-1"), "{lines:?}");
    caught_up(&centre, &edge);
    assert_eq!(centre.verified(), 3, "the centre's copy, its own edge, and the other");
}

#[test]
fn events_go_on_from_a_loaded_file_and_a_newer_one_replaces_it() {
    let edge = TestEdge::start();
    edge.batch(&[
        order("1", "a", "2026-01-02T10:00:00Z", 10.0),
        order("1", "b", "2026-01-05T00:00:00Z", 20.0),
        order("1", "c", "2026-01-05T00:00:00.001Z", 5.5),
        order("2", "d", "2025-12-30T10:00:00Z", 40.0),
    ]);
    let rows = "customer,segment,lines,revenue,first,last,last_amount\n\
        1,gold,12,1200.50,2019-03-01,2026-01-04,20\n\
        2,,1,40,2025-12-30,2025-12-30,40\n\
        3,silver,3,99.999,2020-01-01,2021-01-01,33\n\
        4,silver,many,1,,,\n\
        5,silver,1,1,2020-01-01,2026-02-01,1\n";
    let files = Files::new(&[("mart.csv", rows), ("mart.toml", MAP)]);
    let first = report(&files.import(&edge, "mart.csv", "mart.toml", &["--reconcile"]));
    assert_eq!((&first["accepted"], &first["unchanged"], &first["rows"]), (&json!(3), &json!(0), &json!(5)), "{first}");
    assert_eq!(first["refused"]["wrong_type"]["first_rows"], json!([4]));
    assert_eq!(first["refused"]["after_watermark"]["first_rows"], json!([5]));
    // Of three profiles the mart has 16 orders, of which the events have 3.
    let orders = &first["reconciliation"]["retail.lines"];
    assert_eq!(orders, &json!({"profiles": 3, "agree": 1, "mart": 16, "live": 3, "difference": 13}));
    let revenue = &first["reconciliation"]["retail.revenue"];
    assert_eq!(
        (&revenue["mart"], &revenue["live"], &revenue["difference"]),
        (&json!(1340.499), &json!(70), &json!(1270.499))
    );
    assert_eq!(first["reconciliation"]["retail.first_purchase_at"]["mart"], Value::Null);

    let one = edge.profile("user:1", None);
    assert_eq!((value(&one, "retail.lines"), value(&one, "retail.revenue")), (&json!(13), &json!(1206)));
    assert_eq!(value(&one, "retail.first_purchase_at"), "2019-03-01T00:00:00Z");
    assert_eq!(value(&one, "retail.last_purchase_amount"), 5.5, "a later event holds");
    assert_eq!(one["aggregates"]["retail.lines"]["exact"], true);
    let part = json!([{"source": "crm", "block": "orders", "asOf": "2026-01-05T00:00:00Z", "value": 12, "live": 2}]);
    assert_eq!(one["aggregates"]["retail.lines"]["mart"], part);
    let average = &one["aggregates"]["retail.average_order_value"];
    assert_eq!(
        (&average["value"], &average["exact"]),
        (&json!(402), &json!(false)),
        "one side of the quotient is the mart's"
    );
    assert_eq!(
        (&one["traits"]["segment"]["value"], &one["traits"]["segment"]["source"]),
        (&json!("gold"), &json!("crm"))
    );
    assert_eq!(one["loads"], json!([{"source": "crm", "block": "orders", "asOf": "2026-01-05T00:00:00Z"}]));
    // Windows are of the events; where the mart knows of others before its watermark, they say so.
    let year = &one["aggregates"]["retail.revenue_365d"];
    assert_eq!(
        (&year["value"], &year["exact"], &year["error"]),
        (&json!(35.5), &json!(false), &json!({"unknown": true}))
    );
    assert!(year["reason"].as_str().unwrap().contains("watermark"));
    let two = edge.profile("user:2", None);
    assert_eq!(two["aggregates"]["retail.revenue_365d"]["exact"], true, "both sides agree");
    let three = edge.profile("user:3", None);
    assert_eq!((value(&three, "retail.revenue"), &three["identifiers"]), (&json!(99.999), &json!(["user:3"])));

    // What comes late is in the mart; what comes after it counts.
    edge.batch(&[order("1", "late", "2026-01-03T10:00:00Z", 7.0), order("3", "new", "2026-01-06T10:00:00Z", 0.001)]);
    assert_eq!(edge.aggregate("user:1", "retail.lines"), 13);
    assert_eq!(edge.aggregate("user:3", "retail.revenue"), 100);

    // Once more: nothing changes. As of a later watermark: it replaces, and never doubles.
    let again = report(&files.import(&edge, "mart.csv", "mart.toml", &[]));
    assert_eq!((&again["accepted"], &again["unchanged"]), (&json!(0), &json!(3)));
    let later = "customer,segment,lines,revenue,first,last,last_amount\n1,,14,1213,2019-03-01,2026-01-05,5.5\n";
    std::fs::write(files.path("later.csv"), later).unwrap();
    let newer =
        report(&files.import(&edge, "later.csv", "mart.toml", &["--as-of", "2026-01-06T00:00:00Z", "--reconcile"]));
    assert_eq!(newer["reconciliation"]["retail.lines"]["live"], 4);
    let one = edge.profile("user:1", None);
    assert_eq!((value(&one, "retail.lines"), value(&one, "retail.revenue")), (&json!(14), &json!(1213)));
    assert_eq!(one["traits"]["segment"], Value::Null, "a newer load without a trait takes it back");
    edge.batch(&[order("1", "next", "2026-01-06T00:00:01Z", 1.0)]);
    assert_eq!(edge.aggregate("user:1", "retail.lines"), 15);
    let old = report(&files.import(&edge, "mart.csv", "mart.toml", &[]));
    assert_eq!(old["unchanged"], 3, "an older load changes nothing");

    // As of an instant, the load that held then.
    let at = |at: &str| value(&edge.profile("user:1", Some(at)), "retail.lines").clone();
    assert_eq!(at("2026-01-04T23:59:59Z"), 2, "before any load there are the events");
    assert_eq!(at("2026-01-05T00:00:00Z"), 12);
    assert_eq!(at("2026-01-05T12:00:00Z"), 13);
    assert_eq!(at("2026-01-06T00:00:00Z"), 14);
    assert_eq!(at("2026-01-06T00:00:01Z"), 15);

    // And all of it is durable.
    let before = edge.profile("user:1", None);
    let edge = edge.kill_and_restart();
    assert_eq!(edge.profile("user:1", None)["aggregates"], before["aggregates"]);
}

#[test]
fn a_call_says_what_is_wrong_with_which_profile() {
    let edge = TestEdge::start();
    let profiles = json!([
        {"id": "user:1", "aggregates": {"retail.order": 1}},
        {"id": "user:2", "aggregates": {"retail.distinct_products": 7}},
        {"id": "user:3", "aggregates": {"retail.revenue_365d": 7}},
        {"id": "user:4", "aggregates": {"retail.orders": 7.5}},
        {"id": "user:5", "traits": {"plan": "free"}, "more": 1},
        {"id": "user 6", "traits": {"plan": "free"}},
        {"id": "user:7", "traits": {"plan": "free"}},
        {"id": "user:7", "traits": {"plan": "pro"}},
    ]);
    let body = json!({"source": "crm", "block": "core", "asOf": "2026-01-05T00:00:00Z", "profiles": profiles});
    let answer = load(&edge, &body);
    assert_eq!((&answer["success"], &answer["accepted"], &answer["unchanged"]), (&json!(true), &json!(1), &json!(0)));
    let rejected: Vec<(u64, &str, &str)> = answer["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rejected| {
            (
                rejected["index"].as_u64().unwrap(),
                rejected["code"].as_str().unwrap(),
                rejected["pointer"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        rejected[..5],
        [
            (0, "aggregate_unknown", "/aggregates/retail.order"),
            (1, "aggregate_not_mergeable", "/aggregates/retail.distinct_products"),
            (2, "aggregate_not_mergeable", "/aggregates/retail.revenue_365d"),
            (3, "wrong_type", "/aggregates/retail.orders"),
            (4, "wrong_type", ""),
        ]
    );
    assert_eq!((rejected[5].0, rejected[5].2, rejected[6]), (5, "/id", (7, "load_changed", "")));
    assert!(answer["rejected"][0]["detail"].as_str().unwrap().contains("retail.orders"));
    let problem = |key: &str, change: &dyn Fn(&mut Value)| {
        let mut body = body.clone();
        change(&mut body);
        let answer = edge.post(key, "/v1/mart", &body.to_string());
        let (status, code) = answer.problem();
        (status, code.to_owned(), answer.json["pointer"].as_str().unwrap_or_default().to_owned())
    };
    let fault = |code: &str, pointer: &str| (400, code.to_owned(), pointer.to_owned());
    assert_eq!(problem(SECRET, &|body| body["source"] = json!("the crm")), fault("name_invalid", "/source"));
    assert_eq!(problem(SECRET, &|body| body["asOf"] = json!("yesterday")), fault("timestamp_invalid", "/asOf"));
    assert_eq!(
        problem(SECRET, &|body| body["asOf"] = json!("2126-01-05T00:00:00Z")),
        fault("timestamp_in_future", "/asOf")
    );
    assert_eq!(problem(SECRET, &|body| drop(body.as_object_mut().unwrap().remove("block"))).1, "field_missing");
    assert_eq!(problem(WRITE, &|_| {}).0, 403);
    assert_eq!(edge.metric("selvedge_loads_total{outcome=\"accepted\"}"), Some(1.0));
}

#[test]
fn scores_read_the_best_view() {
    let edge = TestEdge::start();
    let body = json!({"source": "crm", "block": "orders", "asOf": "2026-01-05T00:00:00Z", "profiles": [
        {"id": "user:1", "aggregates": {
            "retail.orders": ["o1", "o2", "o3"], "retail.gross_revenue": "90.30",
            "retail.purchase_days": ["2025-10-01", "2025-11-01", "2026-01-04"],
            "retail.first_purchase_at": "2025-10-01T10:00:00Z", "retail.last_purchase_at": "2026-01-04T10:00:00Z",
            "retail.units_bought": [{"key": "kettle", "weight": 2}, {"key": "mug", "weight": "1.5"}],
            "retail.last_purchase_store": {"value": "Leeds", "at": "2026-01-04T10:00:00Z"}}}]});
    assert_eq!(load(&edge, &body)["accepted"], 1);
    let score = |profile: &Value| profile["scores"]["retail.p_alive"]["value"].as_f64();
    let before = edge.profile("user:1", None);
    assert_eq!(
        (value(&before, "retail.orders"), value(&before, "retail.average_order_value")),
        (&json!(3), &json!(30.1))
    );
    assert_eq!(before["aggregates"]["retail.average_order_value"]["exact"], true, "both sides are the mart's");
    assert_eq!(value(&before, "retail.last_purchase_store"), "Leeds");
    assert_eq!(
        value(&before, "retail.top_products"),
        &json!([{"key": "kettle", "weight": 2}, {"key": "mug", "weight": 1.5}])
    );
    let alive = score(&before).expect("a customer whom only the mart knows has a score");
    assert!((0.0..1.0).contains(&alive), "{alive}");
    // An order that both sides know counts once; a new one counts.
    edge.batch(&[order("1", "o3", "2026-01-05T10:00:00Z", 10.0), order("1", "o4", "2026-01-06T10:00:00Z", 9.7)]);
    let after = edge.profile("user:1", None);
    assert_eq!((value(&after, "retail.orders"), value(&after, "retail.gross_revenue")), (&json!(4), &json!(110)));
    assert_eq!(value(&after, "retail.distinct_products"), 2);
    assert!(score(&after).is_some_and(|now| (now - alive).abs() > 0.01), "a score reads what came live, too");
}

#[test]
fn the_declared_order_of_sources_holds_for_loads_too() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("selvedge.toml");
    std::fs::write(&config, "[identity.trait_sources]\ncountry = [\"crm\"]\n").unwrap();
    let edge = TestEdgeBuilder::default().arguments(&["--config", &config.display().to_string()]).start();
    let body = json!({"source": "crm", "block": "core", "asOf": "2026-01-01T00:00:00Z", "profiles": [
        {"id": "user:1", "traits": {"country": "France", "plan": "free"}}]});
    load(&edge, &body);
    edge.batch(&[json!({"type": "identify", "userId": "1", "messageId": "i", "timestamp": "2026-01-02T00:00:00Z",
                        "traits": {"country": "Spain", "plan": "pro"}})]);
    let profile = edge.profile("user:1", None);
    assert_eq!(profile["traits"]["country"]["value"], "France", "the mart comes first");
    assert_eq!(profile["traits"]["plan"]["value"], "pro", "the newest word");
}

#[test]
fn what_happened_goes_back_to_the_mart_and_its_keys_come_back_as_links() {
    let edge = TestEdge::start();
    edge.batch(&[
        json!({"type": "track", "event": "Product Viewed", "messageId": "v1", "anonymousId": "t-1",
               "timestamp": "2026-01-02T00:00:00Z", "properties": {"product_id": "kettle"}}),
        json!({"type": "identify", "messageId": "i1", "userId": "9", "anonymousId": "t-2",
               "timestamp": "2026-01-02T00:00:00Z", "traits": {"country": "France"}}),
        order("9", "o1", "2026-01-03T00:00:00Z", 3.5),
    ]);
    let files = Files::new(&[
        ("keys.csv", "surrogate,temporary\n9001,anonymous:t-1\n9001,nobody\n"),
        ("links.toml", "kind = \"links\"\nidentifiers = [\"user:{surrogate}\", \"{temporary}\"]\n"),
    ]);
    let exported = |more: &[&str]| {
        let output = files.export(&edge, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(files.path("out.ndjson")).unwrap_or_default()
    };
    let lines = |text: &str| text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    let text = exported(&["--to", "out.ndjson"]);
    let all = lines(&text);
    let of = |all: &[Value], kind: &str| all.iter().filter(|line| line["type"] == kind).cloned().collect::<Vec<_>>();
    assert_eq!(of(&all, "event").len(), 3);
    let order = of(&all, "event").into_iter().find(|line| line["messageId"] == "o1").unwrap();
    assert_eq!(
        (&order["profile"], &order["event"], &order["timestamp"]),
        (&json!("user:9"), &json!("Order Completed"), &json!("2026-01-03T00:00:00Z"))
    );
    assert_eq!(order["payload"]["properties"]["total"], 3.5);
    let traits = of(&all, "traits");
    assert_eq!(
        (traits.len(), &traits[0]["profile"], &traits[0]["traits"]),
        (1, &json!("user:9"), &json!({"country": "France"}))
    );
    let links = of(&all, "link");
    assert_eq!(
        (links.len(), &links[0]["identifiers"], &links[0]["linked"]),
        (1, &json!(["anonymous:t-2", "user:9"]), &json!(true))
    );
    let keys = of(&all, "temporaryKey");
    assert_eq!(keys, [json!({"type": "temporaryKey", "id": "anonymous:t-1", "firstSeenAt": "2026-01-02T00:00:00Z"})]);
    assert_eq!((&all.last().unwrap()["type"], &all.last().unwrap()["more"]), (&json!("cursor"), &json!(false)));

    // Cut off in the middle of a line, it goes on without a gap and without a doublet.
    std::fs::write(files.path("out.ndjson"), format!("{text}{{\"type\":\"eve")).unwrap();
    let linked = report(&files.import(&edge, "keys.csv", "links.toml", &[]));
    assert_eq!((&linked["accepted"], &linked["refused"].as_object().unwrap().len()), (&json!(1), &1), "{linked}");
    let again = report(&files.import(&edge, "keys.csv", "links.toml", &["--restart"]));
    assert_eq!(again["unchanged"], 1);
    let on = exported(&["--to", "out.ndjson"]);
    let news = lines(on.strip_prefix(&text).expect("what was there stays"));
    assert_eq!(news.len(), 2, "{news:?}");
    assert_eq!((&news[0]["type"], &news[0]["identifiers"]), (&json!("link"), &json!(["anonymous:t-1", "user:9001"])));
    assert_eq!(edge.profile("anonymous:t-1", None)["identifiers"], json!(["user:9001", "anonymous:t-1"]));

    // Page by page as all at once.
    let cursor = all.last().unwrap()["nextCursor"].as_str().unwrap().to_owned();
    let page = edge.get(SECRET, &format!("/v1/export?since={cursor}"));
    assert_eq!(
        (page.status, page.header("content-type"), page.header("cache-control")),
        (200, Some("application/x-ndjson"), Some("private, no-store"))
    );
    assert_eq!(lines(&page.text)[..1], news[..1]);
    assert_eq!(edge.get(SECRET, "/v1/export?since=nothing").problem(), (400, "cursor_invalid"));
    assert_eq!(edge.get(WRITE, "/v1/export").status, 403);
    let other = TestEdge::start();
    assert_eq!(other.get(SECRET, &format!("/v1/export?since={cursor}")).problem(), (409, "cursor_of_another_log"));
}

#[test]
fn a_long_export_comes_in_pages_and_each_event_once() {
    let edge = TestEdge::start();
    let filler = "x".repeat(2_000);
    let events: Vec<Value> = (0..1_500)
        .map(|index| {
            json!({"type": "track", "event": "Noted", "messageId": format!("m{index}"), "userId": format!("u{}", index % 40),
                   "timestamp": "2026-01-02T00:00:00Z", "properties": {"text": format!("{filler}{}", index * 7_919), "n": index}})
        })
        .collect();
    edge.batches(&events);
    let files = Files::new(&[]);
    let output = files.export(&edge, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut ids: Vec<&str> = lines.iter().filter_map(|line| line["messageId"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), lines.iter().filter(|line| line["type"] == "event").count()), (1_500, 1_500));
}
