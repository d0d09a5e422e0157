//! Real clients: Segment's SDKs as they are published, and the demo's page in Chromium.
//!
//! `cargo xtask test` installs what they need; without it these tests say what is missing.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use selvedge_tests::edge::{PUBLISHABLE, SECRET, WRITE};
use selvedge_tests::{TestEdge, TestEdgeBuilder, only, root, tokens};
use serde_json::{Value, json};

fn clients() -> PathBuf {
    let folder = root().join("tests/clients");
    assert!(folder.join("node_modules").exists(), "the clients are not installed; run `cargo xtask test --prepare`");
    folder
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn segments_node_sdk_works_unchanged() {
    let edge = TestEdge::start();
    run(Command::new("node").current_dir(clients()).args(["segment-node.mjs", &edge.public, WRITE, "nora"]));
    let profile = edge.profile("user:nora", None);
    assert_eq!(profile["traits"]["tier"]["value"], "gold");
    assert_eq!(profile["aggregates"]["retail.revenue"]["value"], 15.3);
    assert_eq!(edge.metric("selvedge_events_total{outcome=\"accepted\"}"), Some(4.0));
}

#[test]
fn segments_python_sdk_works_unchanged() {
    let edge = TestEdge::start();
    let python = root().join("target/clients-python/bin/python");
    run(Command::new(python).current_dir(clients()).args(["segment_python.py", &edge.public, WRITE, "petra"]));
    let profile = edge.profile("user:petra", None);
    assert_eq!(profile["traits"]["tier"]["value"], "silver");
    assert_eq!(profile["aggregates"]["retail.revenue"]["value"], 25.5);
    assert_eq!(profile["aggregates"]["retail.category_affinity"]["value"][0]["key"], "garden");
}

/// Has the admin page looked at; gives what was seen.
fn look_at_admin(edge: &TestEdge, orders: &Value) -> Value {
    let screenshots = root().join("target/screenshots");
    std::fs::create_dir_all(&screenshots).unwrap();
    let admin = edge.admin.replace("0.0.0.0", "127.0.0.1");
    let mut command = Command::new("node");
    command.current_dir(clients()).arg("admin.mjs").arg(admin).arg(&screenshots).arg(orders.to_string());
    serde_json::from_str(&run(&mut command)).unwrap()
}

#[test]
fn the_admin_page_says_why_an_offer_was_not_shown() {
    let offer = |id: &str, name: &str, value: f64, more: Value| {
        let mut offer = json!({"id": id, "name": name, "value": value, "content": {}});
        offer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        offer
    };
    let markup = "<img src=x onerror=alert(1)>";
    let catalogue = json!({
        "offers": [
            offer("water-kit", "Water connection kit", 6.0, json!({"category": "kitchen", "product_ids": ["W-100"], "suppress": {},
                "eligible": "agg.retail.units_kept[\"F-100\"] > 0"})),
            offer("enamel-kettle", "Enamel kettle, 2 l", 3.6, json!({"category": "kitchen", "product_ids": ["K-100"], "caps": [{"most": 2, "window": "day"}]})),
            offer("herb-planter", "Herb planter", 2.8, json!({"category": "garden", "audiences": ["keen"]})),
            offer("paper-lanterns", markup, 2.6, json!({"category": "light", "eligible": format!("trait.note != {markup:?}")})),
            offer("newsletter", "Newsletter", 1.0, json!({"purpose": "ads"})),
            offer("spring-sale", "Spring sale", 9.0, json!({"valid": {"until": "2026-01-01T00:00:00Z"}})),
        ],
        "audiences": [{"name": "keen", "condition": "score.retail.p_alive > 0.5 && agg.retail.orders > 0"}],
        "slots": [{"slot": "home-hero", "fallback": {"content": {"title": "hello"}}}, {"slot": "letter", "fallback": {"content": {}}, "categories": ["kitchen"]}],
        "holdout": {"percent": 10, "salt": "s"},
    });
    let (folder, plugins) = (tempfile::tempdir().unwrap(), only("retail"));
    let file = folder.path().join("catalogue.json");
    std::fs::write(&file, catalogue.to_string()).unwrap();
    let builder = || {
        let builder = TestEdgeBuilder::default().without_catalog().plugins(plugins.path());
        builder.arguments(&["--catalog", file.to_str().unwrap(), "--decision-records", "all"])
    };
    let edge = builder().start();
    let ask = |user: &str, more: Value| {
        let mut ask =
            json!({"visitor": {"userId": user}, "slots": [{"slot": "home-hero", "count": 2}], "explain": true});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        edge.decide(&ask)
    };
    for user in 0..40 {
        let user = format!("u-{user}");
        let events = match user.len() {
            3 => {
                json!([{"type": "track", "event": "Order Completed", "properties": {"order_id": user, "products": [{"product_id": "F-100", "category": "kitchen", "price": 499, "quantity": 1}]}},
                {"type": "identify", "traits": {"note": markup}}])
            }
            _ => json!([]),
        };
        ask(&user, json!({"events": events}));
        for act in ["Offer Shown", "Offer Clicked", "Offer Accepted"].iter().take(user.len() - 1) {
            let event = json!({"type": "track", "event": act, "properties": {"offer_id": "enamel-kettle"}});
            ask(&user, json!({"events": [event]}));
        }
    }
    let last = ask("u-1", json!({}));
    let decision = last["decisionId"].as_str().unwrap();
    let seen = look_at_admin(&edge, &json!({"decision": decision, "offer": "enamel-kettle"}));
    let errors: Vec<&Value> =
        seen["errors"].as_array().unwrap().iter().filter(|error| !error.as_str().unwrap().contains("404")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(seen["elsewhere"], json!([]), "the page is all there is");
    let text = |view: &str| seen[view].as_str().unwrap();
    for part in ["Enamel kettle, 2 l", "CAP", "Capped", "Held out", "Latest: "] {
        assert!(text("offer").contains(part), "no {part:?} in {}", text("offer"));
    }
    assert!(seen["sampled"].as_str().unwrap().contains("#/decision/"));
    for part in [
        "user:u-1",
        "Slot home-hero",
        "Water connection kit",
        "Not valid any more",
        markup,
        "agg:retail.gross_revenue",
        "fuel",
        "retail.p_alive",
        "sha256:",
    ] {
        assert!(text("decision").contains(part), "no {part:?} in {}", text("decision"));
    }
    assert!(text("audiences").contains("keen") && text("audiences").contains("of 40"), "{}", text("audiences"));
    assert!(!text("audiences").contains("null"), "{}", text("audiences"));
    assert!(seen["unknown"].as_str().unwrap().contains("no decision of this id"));
    assert_eq!(seen["overflow"], 0, "nothing is cut off on a telephone");

    // Where others can reach it, the page asks for the key and keeps it to itself.
    let guarded = builder().admin("0.0.0.0:0").start();
    let seen = look_at_admin(&guarded, &json!({"key": SECRET}));
    assert_eq!(seen["asked"], true);
    assert!(!seen["refused"].as_str().unwrap().is_empty() && !seen["kept"].as_str().unwrap().contains("sk_"), "{seen}");
    assert_eq!(seen["elsewhere"], json!([]));
}

/// Ends with the test.
struct Storefront(Child);

impl Drop for Storefront {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demos_page_shows_other_offers_after_a_purchase() {
    // The page's origin must be known before the edge starts.
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let origin = format!("http://{listen}");
    let config = tempfile::tempdir().unwrap();
    let tokens_in = config.path().join("selvedge.toml");
    std::fs::write(&tokens_in, tokens::configuration("shop")).unwrap();
    let edge = TestEdgeBuilder::default()
        .arguments(&["--cors-origin", &origin, "--config", tokens_in.to_str().unwrap()])
        .start();
    let mut storefront = Command::new(root().join("target/release/examples/storefront"))
        .args([
            "--edge",
            &edge.public,
            "--listen",
            &listen.to_string(),
            "--publishable-key",
            PUBLISHABLE,
            "--write-key",
            WRITE,
            "--secret-key",
            SECRET,
            "--token-secret",
            tokens::SECRET,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .map(Storefront)
        .unwrap();
    let mut line = String::new();
    BufReader::new(storefront.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let screenshots = root().join("target/screenshots");
    std::fs::create_dir_all(&screenshots).unwrap();
    let page = ready["storefront"].as_str().unwrap();
    let seen = run(Command::new("node").current_dir(clients()).arg("storefront.mjs").arg(page).arg(&screenshots));
    let seen: Value = serde_json::from_str(&seen).unwrap();

    assert_eq!(seen["errors"], json!([]));
    let hero = |step: &str| seen["offers"][step]["hero"].as_str().unwrap().to_owned();
    assert_eq!(hero("first"), "regency-cakestand", "by value, for a stranger");
    assert_eq!(hero("browsed"), "wooden-train", "by interest in toys");
    assert_eq!(hero("bought"), "kite", "the train is bought, the interest is not gone");
    assert!(!seen["offers"]["bought"]["grid"].as_array().unwrap().contains(&json!("wooden-train")));
    assert_eq!(hero("returned"), "wooden-train");
    let text = |step: &str, part: &str| seen[step][part].as_str().unwrap().to_owned();
    // Dora likes light: with the toys of this visit the train stands beside the lamp, and apart again the visit has its toys only.
    assert!(
        hero("signedIn") == "reading-lamp"
            && seen["offers"]["signedIn"]["grid"].as_array().unwrap().contains(&json!("wooden-train"))
    );
    assert!(!seen["offers"]["forgotten"]["grid"].as_array().unwrap().contains(&json!("reading-lamp")));
    assert_eq!(seen["returned"]["identifiers"].as_array().unwrap().len(), 1);
    let signed_in = &seen["signedIn"]["identifiers"];
    assert_eq!((signed_in.as_array().unwrap().len(), &signed_in[0]), (2, &json!("user:dora")));
    assert!(
        text("signedIn", "aggregates").contains("affinity to toys")
            && text("signedIn", "aggregates").contains("affinity to light")
    );
    assert_eq!(seen["forgotten"]["identifiers"], seen["returned"]["identifiers"]);
    assert!(
        text("forgotten", "aggregates").contains("affinity to toys")
            && !text("forgotten", "aggregates").contains("affinity to light")
    );
    assert_eq!((hero("forgotten"), hero("returned")), ("wooden-train".into(), "wooden-train".into()));
    assert_eq!(
        (hero("signedOut"), seen["signedOut"]["identifiers"].as_array().unwrap().len()),
        ("regency-cakestand".into(), 1),
        "somebody new"
    );
    let offers = |step: &str| seen["offers"][step].to_string();
    assert_eq!(hero("fridge"), "water-kit", "wanted on the very day");
    assert!(!offers("fridge").contains("\"fridge\""), "{}", offers("fridge"));
    assert!(!offers("fridgeReturned").contains("water-kit"), "{}", offers("fridgeReturned"));
    assert_eq!(hero("simulated"), "herb-planter", "Ben gardens, and has his watering can");
    assert!(
        text("bought", "aggregates").contains("19.95") && text("bought", "aggregates").contains("affinity to toys")
    );
    assert!(text("bought", "scores").contains("p alive"));
    assert!(text("browsed", "why").contains("category-affinity"));
    assert_eq!(seen["secret"], false, "the secret key never reaches the browser");
}
