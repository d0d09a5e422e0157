//! A centre and its edges: what one takes the others have, whoever is killed, and all hold the same.

use selvedge_core::sync::frame::Frame;
use selvedge_tests::cluster::{EDGE_KEY, TestCentre, TestCentreBuilder, caught_up, eventually};
use selvedge_tests::edge::{PUBLISHABLE, SECRET, TestEdge, TestEdgeBuilder, WRITE};
use selvedge_tests::orders as made;
use selvedge_tests::process::{agent, answer};
use serde_json::{Value, json};

/// Users over several shards.
const USERS: u64 = 20;

fn order(id: u64) -> Value {
    made::order(id, USERS)
}

fn orders(ids: std::ops::Range<u64>) -> Vec<Value> {
    ids.map(order).collect()
}

/// Orders and revenue of all users.
fn totals(edge: &TestEdge) -> (u64, f64) {
    made::totals(edge, USERS)
}

fn has_all(edge: &TestEdge, count: u64) {
    eventually("the edge has all orders", || totals(edge).0 >= count);
    assert_eq!(totals(edge), (count, count as f64 * 1.5));
}

#[test]
fn what_one_edge_takes_the_others_have() {
    let centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    assert_eq!(one.batches(&orders(0..100)), (100, 0));
    assert_eq!(two.batches(&orders(100..150)), (50, 0));
    // The same ids through another edge count once; which edge takes them first is a matter of time.
    two.batches(&orders(0..10));
    for edge in [&one, &two] {
        has_all(edge, 150);
    }
    let profile = two.profile("user:u-3", None);
    assert_eq!(profile["meta"]["state"], "live");
    // An identifier that is linked at one edge is one person at the other.
    let link = json!({"type": "identify", "userId": "u-3", "anonymousId": "a-3", "messageId": "link-3", "traits": {"plan": "gold"}});
    one.batch(&[link]);
    eventually("the link arrives", || two.profile("anonymous:a-3", None)["identifiers"][0] == "user:u-3");
    eventually("the trait arrives", || two.profile("anonymous:a-3", None)["traits"]["plan"]["value"] == "gold");
    // Decisions are counted wherever they were made.
    let decided = one.decide(&json!({"visitor": {"userId": "u-3"}, "slots": [{"slot": "home-hero"}]}));
    let offer = decided["slots"][0]["offers"][0]["id"].as_str().unwrap().to_owned();
    eventually("the decision is counted", || two.profile("user:u-3", None)["offers"][&offer]["decided"] == 1);
    caught_up(&centre, &one);
    caught_up(&centre, &two);
    assert_eq!(centre.verified(), 3);
}

#[test]
fn an_edge_that_begins_anew_takes_snapshots_and_what_follows() {
    let centre = TestCentre::start();
    let one = centre.edge("one").start();
    one.batches(&orders(0..200));
    caught_up(&centre, &one);
    centre.snapshot_all();
    one.batches(&orders(200..260));
    caught_up(&centre, &one);
    // What the snapshots hold may go from the log.
    for shard in 0..64 {
        centre.admin_post(&format!("/admin/v1/shards/{shard}/trim"), "").ok();
    }
    let status = centre.status();
    assert!(status["shards"].as_array().unwrap().iter().any(|shard| shard["first"].as_u64().unwrap() > 1));
    let two = centre.edge("two").start();
    eventually("a new edge is ready once it has its shards", || two.get(SECRET, "/readyz").status == 200);
    assert!(totals(&two).0 >= 200, "what the snapshots hold is there");
    has_all(&two, 260);
    caught_up(&centre, &two);
    assert_eq!(centre.verified(), 3);
}

#[test]
fn an_edge_answers_alone_and_hands_over_what_it_took() {
    let mut centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    one.batches(&orders(0..50));
    has_all(&two, 50);
    centre.kill();
    // Both go on alone; each knows its own.
    one.batches(&orders(50..100));
    two.batches(&orders(100..130));
    assert_eq!(totals(&one).0, 100);
    assert_eq!(totals(&two).0, 80);
    let decision = one.decide(&json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}]}));
    assert_eq!(decision["slots"][0]["fallback"], false);
    // One is killed and starts while the centre is away: what it acknowledged is there.
    let one = one.kill_and_restart();
    assert_eq!(totals(&one).0, 100);
    assert_ne!(one.profile("user:u-1", None)["meta"]["state"], "live");
    let stale = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}], "maxStalenessMs": 10, "onStale": "fail"});
    assert_eq!(one.post(WRITE, "/v1/decide", &stale.to_string()).problem(), (412, "too_stale"));
    let centre = centre.restart();
    for edge in [&one, &two] {
        has_all(edge, 130);
        caught_up(&centre, edge);
    }
    eventually("both are live again", || {
        [&one, &two].iter().all(|edge| edge.profile("user:u-1", None)["meta"]["state"] == "live")
    });
    assert_eq!(centre.verified(), 3);
}

#[test]
fn a_token_reads_elsewhere_what_was_written_here() {
    let centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    for id in 0..50 {
        let body = json!({ "batch": [order(id)] }).to_string();
        let answer = one.post(WRITE, "/v1/batch", &body);
        let token = answer.header("x-selvedge-token").unwrap().to_owned();
        let ask = json!({"visitor": {"userId": format!("u-{}", id % USERS)}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000});
        let headers = [("authorization", format!("Bearer {WRITE}")), ("x-selvedge-token", token)];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let decision = two.post_with(&headers, "/v1/decide", ask.to_string().as_bytes()).ok();
        assert_eq!(decision["meta"]["caughtUp"], true, "{decision}");
        let user = two.profile(&format!("user:u-{}", id % USERS), None);
        assert_eq!(user["aggregates"]["retail.orders"]["value"], id / USERS + 1);
    }
    // Links, too.
    let link = json!({"identifiers": ["user:u-1", "anonymous:a-1"]}).to_string();
    let token = one.post(SECRET, "/v1/identities/link", &link).header("x-selvedge-token").unwrap().to_owned();
    let ask = json!({"visitor": {"anonymousId": "a-1"}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000});
    let headers = [("authorization", "Bearer wk_test_0001"), ("x-selvedge-token", token.as_str())];
    assert_eq!(two.post_with(&headers, "/v1/decide", ask.to_string().as_bytes()).ok()["meta"]["caughtUp"], true);
    assert_eq!(two.profile("anonymous:a-1", None)["identifiers"], json!(["user:u-1", "anonymous:a-1"]));
    let wrong = [("authorization", "Bearer wk_test_0001"), ("x-selvedge-token", "nonsense")];
    let ask = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}]}).to_string();
    assert_eq!(two.post_with(&wrong, "/v1/decide", ask.as_bytes()).problem(), (400, "token_invalid"));
}

/// Decides for every user; gives for whom this edge has something to decide by.
fn held(edge: &TestEdge) -> Vec<u64> {
    let holds = |user: &u64| {
        let ask = json!({"visitor": {"userId": format!("u-{user}")}, "slots": [{"slot": "home-hero"}]});
        let decision = edge.decide(&ask);
        let state = decision["meta"]["state"].as_str().unwrap();
        assert!(["live", "not-held"].contains(&state), "{state}");
        assert_eq!(decision["slots"][0]["fallback"], state == "not-held");
        state == "live"
    };
    (0..USERS).filter(holds).collect()
}

#[test]
fn an_edge_may_hold_some_shards() {
    let centre =
        TestCentreBuilder::default().arguments(&["--edge-key", EDGE_KEY, "--edge-key", "ek_half_0001@0-31"]).start();
    let whole = centre.edge("whole").start();
    let half = centre.edge("half").arguments(&["--shards", "0-31"]).start();
    let scoped = TestEdgeBuilder::following(&centre.url, "ek_half_0001", "scoped").start();
    whole.batches(&orders(0..40));
    for edge in [&half, &scoped] {
        caught_up(&centre, edge);
        let held = held(edge);
        assert!(!held.is_empty() && held.len() < USERS as usize, "{held:?}");
        for user in 0..USERS {
            let profile = edge.get(SECRET, &format!("/v1/profiles/user:u-{user}"));
            assert!(if held.contains(&user) {
                profile.status == 200
            } else {
                profile.problem() == (409, "shard_not_held")
            });
        }
    }
    // What it takes for shards that it does not hold goes to the centre.
    half.batches(&orders(40..80));
    has_all(&whole, 80);
    // An edge whose key does not open a shard takes nothing for it, and what it takes is not held up.
    let held = held(&scoped);
    let events: Vec<Value> = orders(80..100);
    let answer = scoped.batch(&events);
    let refused = answer["rejected"].as_array().unwrap();
    assert_eq!((answer["accepted"].as_u64(), refused.len()), (Some(held.len() as u64), events.len() - held.len()));
    assert!(refused.iter().all(|refused| refused["code"] == "shard_not_served"), "{answer}");
    has_all(&whole, 80 + held.len() as u64);
    assert_eq!(centre.verified(), 4);
    // A key opens its shards and no others.
    let too_many = TestEdgeBuilder::following(&centre.url, "ek_half_0001", "greedy").arguments(&["--shards", "0-40"]);
    let too_many = too_many.fails();
    assert!(too_many.contains("shard_out_of_scope"), "{too_many}");
    let half =
        TestEdgeBuilder::following(&centre.url, "ek_half_0001", "zoned").arguments(&["--time-zone", "Asia/Tokyo"]);
    let half = half.fails();
    assert!(half.contains("central release"), "{half}");
    let stranger = TestEdgeBuilder::following(&centre.url, "ek_wrong_001", "stranger").fails();
    assert!(stranger.contains("key_unknown"), "{stranger}");
}

#[test]
fn an_edge_of_another_log_is_refused() {
    let (centre, other) = (TestCentre::start(), TestCentre::start());
    let edge = centre.edge("one").start();
    edge.batches(&orders(0..20));
    let (data, _) = edge.stop();
    // The same data directory at another centre: it would take one log for another's.
    let arguments =
        ["edge", "--data", &data.path().display().to_string(), "--central", &other.url, "--edge-key", EDGE_KEY];
    let output = selvedge_tests::process::command(&arguments.map(str::to_owned)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("other_cluster"), "{said}");
}

#[test]
fn callers_keys_come_from_the_centre() {
    let centre = TestCentre::start();
    let edge = centre.edge("one").start();
    let ask = json!({"visitor": {"anonymousId": "a-1"}, "slots": [{"slot": "home-hero"}]}).to_string();
    assert_eq!(edge.post(PUBLISHABLE, "/v1/decide", &ask).status, 200);
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:nobody").problem(), (404, "profile_not_found"));
    assert_eq!(edge.post("wk_wrong_0001", "/v1/decide", &ask).problem(), (401, "key_unknown"));
}

/// A folder with one plugin under its name, and a configuration.
fn plugin_folder(name: &str, wasm: &[u8], config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(format!("{name}.wasm")), wasm).unwrap();
    std::fs::write(folder.path().join(format!("{name}.toml")), config).unwrap();
    folder
}

/// Runs `selvedge central COMMAND` against a centre.
fn operate(centre: &TestCentre, arguments: &[&str]) -> (bool, String, String) {
    let mut all = vec!["central".to_owned()];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    all.extend(["--admin".to_owned(), centre.admin.clone()]);
    let output = selvedge_tests::process::command(&all).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_release_takes_the_place_of_another_without_a_failed_request() {
    let retail = selvedge_tests::only("retail");
    let centre = TestCentreBuilder::default().plugins(Some(retail.path())).start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    one.batches(&orders(0..60));
    has_all(&two, 60);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (served, released) = std::thread::scope(|threads| {
        let callers: Vec<_> = [&one, &two]
            .map(|edge| {
                threads.spawn(|| {
                    let mut served = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let user = format!("u-{}", served % USERS);
                        edge.decide(&json!({"visitor": {"userId": user}, "slots": [{"slot": "home-hero"}]}));
                        served += 1;
                    }
                    served
                })
            })
            .into_iter()
            .collect();
        let folder = selvedge_tests::plugins();
        let (done, _, error) = operate(&centre, &["release", "--plugins", &folder.display().to_string()]);
        assert!(done, "{error}");
        let serves = |edge: &TestEdge| {
            let ask = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}]});
            edge.decide(&ask)["meta"]["plugins"]["engagement"].is_string()
        };
        eventually("both edges run the release", || serves(&one) && serves(&two));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let served: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        (served, centre.admin_get("/admin/v1/release").ok())
    });
    assert!(served > 10, "{served}");
    assert_eq!(released["release"]["plugins"].as_array().unwrap().len(), 3);
    // What is new is folded from the history, and nothing was lost on the way.
    for edge in [&one, &two] {
        edge.backfilled();
        has_all(edge, 60);
    }
    one.batches(&orders(60..80));
    has_all(&two, 80);
    assert_eq!(centre.verified(), 3);
    // A bad one is refused at the centre, and nothing changes.
    let bad = plugin_folder("bad", b"no component", "");
    let (done, _, error) = operate(&centre, &["release", "--plugins", &bad.path().display().to_string()]);
    assert!(!done && error.contains("nothing was released"), "{error}");
    assert_eq!(centre.admin_get("/admin/v1/release").ok(), released);
    // A catalogue alone.
    let catalog = tempfile::tempdir().unwrap();
    let file = catalog.path().join("catalog.toml");
    std::fs::write(&file, "[[slots]]\nslot = \"only\"\nfallback = {content = {text = \"hello\"}}\n").unwrap();
    let (done, _, error) = operate(&centre, &["release", "--catalog", &file.display().to_string()]);
    assert!(done, "{error}");
    let ask = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "only"}]}).to_string();
    eventually("the new slot is known", || two.post(WRITE, "/v1/decide", &ask).status == 200);
    // A centre that starts with the settings of before does not undo what was released since.
    let released = centre.admin_get("/admin/v1/release").ok();
    let centre = centre.restart();
    assert_eq!(centre.admin_get("/admin/v1/release").ok(), released);
}

#[test]
fn an_edge_may_bring_what_is_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = selvedge_tests::plain_catalog(folder.path());
    let centre = TestCentreBuilder::default().catalog(&catalog).plugins(None).start();
    let one = centre.edge("one").start();
    let ask = json!({"visitor": {"userId": "u-1"}, "slots": [{"slot": "home-hero"}]});
    let runs = |edge: &TestEdge| edge.decide(&ask)["meta"]["plugins"]["retail"].is_string();
    assert!(!runs(&one));
    let retail = selvedge_tests::only("retail");
    let brings = centre.edge("two").plugins(retail.path());
    let two = brings.clone().start();
    assert!(runs(&two), "it begins with what it brought");
    eventually("the others run it too", || runs(&one));
    // What was replaced since is not brought back by whoever starts with it again.
    let (done, _, error) =
        operate(&centre, &["release", "--plugins", &selvedge_tests::plugins().display().to_string()]);
    assert!(done, "{error}");
    let released = centre.admin_get("/admin/v1/release").ok();
    let two = two.restart_as(brings);
    assert_eq!(centre.admin_get("/admin/v1/release").ok(), released);
    assert!(two.decide(&ask)["meta"]["plugins"]["engagement"].is_string());
    let bad = plugin_folder("bad", b"no component", "");
    let refused = centre.edge("bad").plugins(bad.path()).fails();
    assert!(refused.contains("nothing was released"), "{refused}");
}

#[test]
fn an_operator_sees_and_repairs() {
    let centre = TestCentre::start();
    let one = centre.edge("one").start();
    one.batches(&orders(0..100));
    caught_up(&centre, &one);
    let status = |admin: &str| {
        let arguments = ["status", "--admin", admin].map(str::to_owned);
        let output = selvedge_tests::process::command(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    eventually("the edge has reported", || status(&centre.admin).contains("one"));
    assert!(status(&one.admin).contains("edge one"), "{}", status(&one.admin));
    // The same for Prometheus.
    let metric = |text: &str, name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let of_edge = || one.admin_get("/metrics").text;
    eventually("the edge says that it is live", || {
        let text = of_edge();
        let of = |name: &str| metric(&text, name);
        of("selvedge_sync_connected") == Some(1.0)
            && of("selvedge_sync_shards_not_live") == Some(0.0)
            && of("selvedge_outbox_changes") == Some(0.0)
    });
    assert!(metric(&of_edge(), "selvedge_sync_lag_seconds").unwrap() < 60.0);
    let of_centre = centre.admin_get("/metrics").text;
    assert_eq!(metric(&of_centre, r#"selvedge_centre_changes_total{outcome="taken"}"#), Some(100.0), "{of_centre}");
    assert_eq!(metric(&of_centre, "selvedge_centre_entries"), Some(164.0));
    assert_eq!(metric(&of_centre, "selvedge_centre_edges"), Some(1.0));
    // Not for a page that somebody on this machine looks at.
    let page = agent().post(format!("{}/admin/v1/rebuild", centre.admin)).header("origin", "https://evil.example");
    assert_eq!(answer(page.send_empty()).problem(), (403, "foreign_origin"));
    let named = agent().get(format!("{}/admin/v1/status", centre.admin)).header("host", "evil.example:8091");
    assert_eq!(answer(named.call()).problem(), (403, "foreign_host"), "a name that was made to mean this machine");
    let (done, _, error) = operate(&centre, &["snapshot"]);
    assert!(done, "{error}");
    let (done, _, error) = operate(&centre, &["trim"]);
    assert!(done, "{error}");
    // Who exports from the beginning now is told that the log begins later.
    let export = agent().get(format!("{}/v1/export", centre.url)).header("authorization", format!("Bearer {SECRET}"));
    let cursor: Value = serde_json::from_str(answer(export.call()).text.lines().last().unwrap()).unwrap();
    assert_eq!((&cursor["type"], &cursor["missing"]), (&json!("cursor"), &json!(true)));
    let (done, said, error) = operate(&centre, &["verify"]);
    assert!(done && said.contains("all copies hold the same"), "{said}{error}");
    // The centre's copy is made anew from the snapshots, since the logs begin later.
    let (done, _, error) = operate(&centre, &["rebuild"]);
    assert!(done, "{error}");
    assert_eq!(centre.verified(), 2);
}

#[test]
fn a_restored_backup_loses_nothing_that_edges_hold() {
    let centre = TestCentreBuilder::default().arguments(&["--stable", "backup"]).start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    one.batches(&orders(0..60));
    has_all(&two, 60);
    let backups = tempfile::tempdir().unwrap();
    let backup = backups.path().join("log.backup").display().to_string();
    let (done, _, error) = operate(&centre, &["backup", &backup]);
    assert!(done, "{error}");
    // After the backup, through both.
    one.batches(&orders(60..90));
    two.batches(&orders(90..120));
    for edge in [&one, &two] {
        has_all(edge, 120);
        caught_up(&centre, edge);
    }
    // The log is lost and restored; what the backup does not have comes from the edges.
    let log = centre.data().join("log");
    let centre = centre.stopped(|| {
        std::fs::rename(log.join("log.redb"), log.join("lost.redb")).unwrap();
        let store = format!("redb:{}", log.display());
        let arguments = ["central", "restore", backup.as_str(), "--store", &store].map(str::to_owned);
        let output = selvedge_tests::process::command(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    eventually("the log has all again", || {
        let heads = centre.status();
        heads["shards"].as_array().unwrap().iter().all(|shard| shard["epoch"].as_u64().unwrap() > 1)
    });
    for edge in [&one, &two] {
        eventually("the edge has all orders", || totals(edge) == (120, 180.0));
    }
    let three = centre.edge("three").start();
    has_all(&three, 120);
    for edge in [&one, &two, &three] {
        caught_up(&centre, edge);
    }
    assert_eq!(centre.verified(), 4);
}

#[test]
fn damaged_and_foreign_frames_are_refused() {
    let centre = TestCentre::start();
    let post = |path: &str, key: &str, cluster: Option<&str>, body: &[u8]| {
        let mut request = selvedge_tests::agent().post(format!("{}/sync/v1/{path}", centre.url));
        request = request.header("authorization", format!("Bearer {key}"));
        if let Some(cluster) = cluster {
            request = request.header("x-selvedge-cluster", cluster);
        }
        selvedge_tests::process::answer(request.send(body))
    };
    assert_eq!(post("push", "ek_wrong_001", None, b"").problem(), (401, "key_unknown"));
    assert_eq!(post("push", EDGE_KEY, Some("another"), b"").problem(), (403, "other_cluster"));
    assert_eq!(post("push", EDGE_KEY, None, b"not a frame").problem(), (400, "frame_invalid"));
    assert_eq!(post("push", EDGE_KEY, None, &[0; 64]).problem(), (400, "frame_invalid"));
    assert_eq!(post("follow", EDGE_KEY, None, b"\xe5").problem(), (400, "frame_invalid"));
    // One that announces more than a frame may hold, one of a later version, and a right one that does not belong there.
    let announced = [0xe5, 1, 4, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(post("push", EDGE_KEY, None, &announced).problem(), (400, "frame_invalid"));
    let later = post("push", EDGE_KEY, None, &[0xe5, 2, 4, 0]);
    assert!(later.text.contains("upgrade selvedge"), "{}", later.text);
    let follow = Frame::Follow(Vec::new()).encode().unwrap();
    assert_eq!(post("push", EDGE_KEY, None, &follow).problem(), (400, "frame_unexpected"));
    let mut damaged = Frame::Pushes(Vec::new()).encode().unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(post("push", EDGE_KEY, None, &damaged).text.contains("checksum"));
    // The keys of callers open nothing here.
    assert_eq!(post("register", SECRET, None, b"{}").problem(), (401, "key_unknown"));
    let name = json!({"name": "two words", "version": "1", "reads": 1}).to_string();
    assert_eq!(post("register", EDGE_KEY, None, name.as_bytes()).problem(), (400, "name_invalid"));
    assert_eq!(centre.entries(), 64, "an activation for each shard, and nothing else");
}

#[test]
fn several_centres_serve_one_database() {
    let database = crate::postgres::Postgres::start();
    let store = database.database("selvedge");
    let first = TestCentreBuilder::default().store(&store).start();
    let second = TestCentreBuilder::default().store(&store).plugins(None).start();
    let (one, two) = (first.edge("one").start(), second.edge("two").start());
    one.batches(&orders(0..80));
    two.batches(&orders(80..120));
    for edge in [&one, &two] {
        has_all(edge, 120);
        caught_up(&first, edge);
    }
    // Each compares with its own copy; both know both edges.
    eventually("both centres know both edges", || {
        [&first, &second].iter().all(|centre| centre.status()["edges"].as_array().unwrap().len() == 2)
    });
    // Marks that an edge says to one centre are passed on to the one that asked.
    assert_eq!((first.verified(), second.verified()), (3, 3));
    drop(first);
    two.batches(&orders(120..150));
    has_all(&two, 150);
    // One goes on alone; what it takes meanwhile is told when its centre is back.
    one.batches(&orders(150..160));
    assert_eq!(totals(&one).0, 130);
}

#[test]
fn edges_and_centre_may_speak_tls() {
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let centre = TestCentreBuilder::default().arguments(&["--tls-cert", &cert, "--tls-key", &key]).start();
    assert!(centre.url.starts_with("https://"), "{}", centre.url);
    let url = centre.url.replace("127.0.0.1", "localhost");
    let edge = TestEdgeBuilder::following(&url, EDGE_KEY, "one").arguments(&["--central-ca", &cert]).start();
    edge.batches(&orders(0..20));
    eventually("the centre has them", || centre.entries() >= 64 + 20);
    caught_up(&centre, &edge);
}

#[test]
fn a_full_outbox_sheds_by_class_and_keeps_what_it_took() {
    let mut centre = TestCentre::start();
    let edge = centre.edge("one").arguments(&["--outbox-mib", "16"]).start();
    centre.kill();
    // Texts that do not compress.
    let noise = |id: u64, length: usize| -> String {
        let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + u8::try_from(state % 90).unwrap())
        };
        (0..length).map(|_| next()).filter(|c| *c != '"' && *c != '\\').collect()
    };
    let send = |kind: &str, id: u64, length: usize| {
        let event = json!({"type": kind, "event": "Noise", "name": "Noise", "messageId": format!("n-{kind}-{id}"), "userId": format!("n-{id}"),
                           "timestamp": "2026-01-01T00:00:00Z", "properties": {"noise": noise(id, length)}});
        edge.post(WRITE, "/v1/batch", &json!({ "batch": [event] }).to_string())
    };
    let mut taken = 0;
    let full = |kind: &str, taken: &mut u64| {
        for id in 0..400 {
            let answer = send(kind, id + 1000 * u64::from(kind == "track"), 200_000);
            if answer.status == 503 {
                assert_eq!(answer.problem(), (503, "outbox_full"));
                assert!(answer.header("retry-after").is_some());
                return;
            }
            answer.ok();
            *taken += 1;
        }
        panic!("the outbox takes any number of {kind}");
    };
    // Views go first; tracks are taken for longer, traits longer still, consent always.
    full("page", &mut taken);
    full("track", &mut taken);
    assert_eq!(send("page", 9_000, 10).problem(), (503, "outbox_full"));
    let traits =
        json!({"batch": [{"type": "identify", "userId": "n-1", "messageId": "t-1", "traits": {"plan": "gold"}}]});
    assert_eq!(edge.post(WRITE, "/v1/batch", &traits.to_string()).ok()["accepted"], 1);
    let consent = json!({"batch": [{"type": "page", "userId": "n-1", "messageId": "c-1", "context": {"consent": {"ads": false}}}]});
    assert_eq!(edge.post(WRITE, "/v1/batch", &consent.to_string()).ok()["accepted"], 1);
    let shed = edge.admin_get("/admin/v1/status").ok()["shed"].as_u64().unwrap();
    assert!(shed >= 3, "{shed}");
    // What was taken is there after a crash, and at the centre once it is back.
    let edge = edge.kill_and_restart();
    let centre = centre.restart();
    eventually("the centre has it all", || centre.entries() >= 64 + taken + 2);
    caught_up(&centre, &edge);
    eventually("the outbox drains", || {
        edge.admin_get("/admin/v1/status").ok()["outboxBytes"].as_u64().unwrap() < 12 * 1024 * 1024
    });
}
