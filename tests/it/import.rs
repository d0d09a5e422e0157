//! `selvedge import` as its user meets it.

use std::process::{Command, Output};

use selvedge_tests::TestEdge;
use selvedge_tests::edge::{WRITE, binary};
use serde_json::{Value, json};

const MAP: &str = r#"
    group = "{order}"
    [[events]]
    name = "Order Completed"
    [time]
    column = "when"
    [identity]
    message_id = "{order}"
    user_id = "{who}"
    [properties]
    order_id = "{order}"
    total = { total_of = ["price", "quantity"] }
    [lines]
    product_id = "{sku}"
    price = { number = "price" }
    quantity = { number = "quantity" }
"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new(map: &str, name: &str, rows: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("map.toml"), map).unwrap();
        std::fs::write(files.path(name), rows).unwrap();
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn import(&self, to: &str, name: &str, more: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.current_dir(self.0.path()).arg("import").arg(self.path(name)).arg("--map").arg(self.path("map.toml"));
        command.args(["--to", to, "--key", WRITE, "--json"]).args(more).output().unwrap()
    }
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const ROWS: &str = "order,who,when,sku,price,quantity\n\
    1,ada,2026-01-01T00:00:00Z,a,1.50,2\n\
    2,bob,2026-01-02T00:00:00Z,a,1.50,1\n\
    1,ada,2026-01-01T00:01:00Z,\"b, \"\"blue\"\"\",0.001,3\n\
    3,cat,not a time,a,1,1\n\
    4,dan,2026-01-02T00:00:00Z,a,free,1\n\
    4,dan,2026-01-02T00:00:00Z,b,1,1\n\
    5,,2026-01-02T00:00:00Z,a,1,1\n\
    odd row\n\
    6,eve,2026-01-02T00:00:00Z,a,2,\n\
    7,flo,2026-01-02T00:00:00Z,a,2,1\n\
    7,flo,2026-01-02T00:00:00Z,a,2,1,7\n\
    8,gus,2026-01-02T00:00:00Z,a, 2.50,1\n";

#[test]
fn rows_that_are_not_adjacent_join_and_bad_ones_are_reported() {
    let edge = TestEdge::start();
    let files = Files::new(MAP, "orders.csv", ROWS);
    let report = report(&files.import(&edge.public, "orders.csv", &["--refused", "refused.ndjson"]));
    assert_eq!((&report["rows"], &report["accepted"]), (&json!(12), &json!(3)));
    let refused =
        |reason: &str| (report["refused"][reason]["rows"].clone(), report["refused"][reason]["first_rows"].clone());
    assert_eq!(refused("bad_time"), (json!(1), json!([4])));
    // An order with a bad line, or without its quantity, is refused whole.
    assert_eq!(refused("bad_number"), (json!(3), json!([5, 9])));
    assert_eq!(refused("identifier_missing"), (json!(1), json!([7])));
    assert_eq!(refused("unreadable_row"), (json!(3), json!([8, 10])), "with the order that the row belongs to");
    assert_eq!(edge.profile("user:flo", None), Value::Null);
    assert_eq!(edge.aggregate("user:gus", "retail.revenue"), 2.5);
    let lines = std::fs::read_to_string(files.path("refused.ndjson")).unwrap();
    assert_eq!(lines.lines().count(), 6);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["detail"].is_string()));
    let ada = edge.profile("user:ada", None);
    let value = |name: &str| &ada["aggregates"][name]["value"];
    assert_eq!(
        (value("retail.revenue"), value("retail.lines"), value("retail.orders")),
        (&json!(3.003), &json!(2), &json!(1))
    );
    assert_eq!(value("retail.last_purchase_at"), "2026-01-01T00:00:00Z", "the earliest line counts");
    assert_eq!(value("retail.top_products")[0], json!({"key": "b, \"blue\"", "weight": 3}));
}

#[test]
fn json_lines_are_rows_too() {
    let edge = TestEdge::start();
    let rows = "{\"order\": 1, \"who\": \"ada\", \"when\": \"2026-01-01T00:00:00Z\", \"sku\": \"a\", \"price\": 2.5, \"quantity\": 2}\nnot json\n";
    let files = Files::new(MAP, "orders.ndjson", rows);
    let report = report(&files.import(&edge.public, "orders.ndjson", &[]));
    assert_eq!((&report["accepted"], &report["refused"]["unreadable_row"]["rows"]), (&json!(1), &json!(1)));
    assert_eq!(edge.aggregate("user:ada", "retail.revenue"), 5);
}

#[test]
fn a_damaged_file_is_never_taken_for_a_whole_one() {
    let edge = TestEdge::start();
    let files = Files::new(MAP, "orders.csv", ROWS);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, ROWS.as_bytes()).unwrap();
    let whole = packed.finish().unwrap();
    std::fs::write(files.path("cut.csv.gz"), &whole[..whole.len() / 2]).unwrap();
    let output = files.import(&edge.public, "cut.csv.gz", &[]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("cannot be read on"));
    assert_eq!(edge.metric("selvedge_events_total{outcome=\"accepted\"}"), Some(0.0));
    // A line that is no text is a bad line; those behind it are good.
    let line = |who: &str| {
        format!(
            "{{\"order\": \"{who}\", \"who\": \"{who}\", \"when\": \"2026-01-01T00:00:00Z\", \"sku\": \"a\", \"price\": 1, \"quantity\": 1}}\n"
        )
    };
    let rows = [line("ada").into_bytes(), b"{\"order\": \"\xff\"}\n".to_vec(), line("bob").into_bytes()].concat();
    std::fs::write(files.path("rows.ndjson"), rows).unwrap();
    let report = report(&files.import(&edge.public, "rows.ndjson", &[]));
    assert_eq!((&report["accepted"], &report["refused"]["unreadable_row"]["rows"]), (&json!(2), &json!(1)));
}

#[test]
fn an_import_that_was_cut_off_goes_on_where_it_stopped() {
    let mut edge = TestEdge::start();
    let mut rows = String::from("order,who,when,sku,price,quantity\n");
    let padding = "x".repeat(200);
    for order in 0..120_000 {
        rows.push_str(&format!("{order},u-{},2026-01-01T00:00:00Z,{padding},1.50,2\n", order % 50));
    }
    let files = Files::new(MAP, "orders.csv", &rows);
    let state = files.path("state.json");
    let more = ["--concurrency", "1", "--patience", "1", "--state", state.to_str().unwrap()];
    let address = edge.public.clone();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| files.import(&address, "orders.csv", &more));
        // Cut once some of it is durable.
        while edge.metric("selvedge_events_total{outcome=\"accepted\"}").unwrap_or(0.0) < 6_000.0
            && !running.is_finished()
        {
            std::thread::yield_now();
        }
        edge.kill();
        let output = running.join().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("run the same command again"), "{output:?}");
    });
    let edge = edge.kill_and_restart();
    let again = files.import(&edge.public, "orders.csv", &more);
    let report = report(&again);
    let count = |name: &str| report[name].as_u64().unwrap();
    assert!(count("sentBefore") > 0, "{report}");
    assert_eq!(count("sentBefore") + count("accepted") + count("duplicates"), 120_000);
    assert!(!state.exists(), "a finished import leaves nothing");
    let orders: u64 =
        (0..50).map(|user| edge.aggregate(&format!("user:u-{user}"), "retail.orders").as_u64().unwrap()).sum();
    assert_eq!(orders, 120_000);
}

#[test]
fn what_cannot_be_imported_is_said_in_one_line() {
    let edge = TestEdge::start();
    let fault = |map: &str, name: &str, to: &str| {
        let output = Files::new(map, name, ROWS).import(to, name, &[]);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(fault(&MAP.replace("{sku}", "{stock}"), "orders.csv", &edge.public).contains("has no column \"stock\""));
    assert!(fault(&MAP.replace("[lines]", "[line]"), "orders.csv", &edge.public).contains("did you mean \"lines\""));
    assert!(fault(MAP, "orders.xlsx", &edge.public).contains("neither .csv nor .ndjson"));
    assert!(fault(MAP, "orders.csv", "localhost:1").contains("is not a URL"));
    assert!(fault(MAP, "orders.csv", "http://127.0.0.1:1").contains("reach http://127.0.0.1:1"));
    let output = Files::new(MAP, "orders.csv", ROWS);
    let wrong_key = Command::new(binary())
        .args([
            "import",
            output.path("orders.csv").to_str().unwrap(),
            "--map",
            output.path("map.toml").to_str().unwrap(),
        ])
        .args(["--to", &edge.public, "--key", "wk_wrong_001"])
        .current_dir(output.0.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&wrong_key.stderr).contains("key_unknown"));
}
