//! Erasing a person: nothing of them is left at any edge, in the log or in snapshots, nothing late brings them back, and they may begin anew.

use std::time::{Duration, Instant};

use selvedge_core::change::Change;
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::payload;
use selvedge_core::sync::frame::Frame;
use selvedge_tests::cluster::{EDGE_KEY, TestCentre, TestCentreBuilder, caught_up, eventually};
use selvedge_tests::edge::{SECRET, TestEdge, TestEdgeBuilder, agent};
use serde_json::{Value, json};

const EVA: [&str; 2] = ["user:eva", "anonymous:a-eva"];

fn order(id: &str, user: &str) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": id, "userId": user,
           "properties": {"order_id": id, "total": 2.5, "note": "confidential"}})
}

fn linked(id: &str) -> Value {
    json!({"type": "identify", "userId": "eva", "anonymousId": "a-eva", "messageId": id, "traits": {"plan": "confidential"}})
}

fn gone(edge: &TestEdge) -> bool {
    EVA.iter().all(|id| {
        ["", "?at=2026-01-01T00:00:00Z", "?history=aggregates"]
            .iter()
            .all(|query| edge.get(SECRET, &format!("/v1/profiles/{id}{query}")).status == 404)
    })
}

fn erase(edge: &TestEdge, id: &str) -> Value {
    let answer = edge.delete(SECRET, &format!("/v1/profiles/{id}"));
    assert_eq!(answer.status, 202, "{}", answer.text);
    let body: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(body["receipts"], format!("/v1/erasures/{}", body["id"].as_str().unwrap()));
    body
}

fn receipt(edge: &TestEdge, erased: &Value) -> Value {
    edge.get(SECRET, erased["receipts"].as_str().unwrap()).ok()
}

/// What the centre's log holds of a fragment.
fn in_log(centre: &TestCentre, of: &str) -> Vec<Change> {
    let shard = Identifier::stored(of).unwrap().shard();
    let own = of_shard(centre, shard).into_iter().filter(|change| change.fragment().is_some_and(|f| f.as_str() == of));
    own.collect()
}

fn of_shard(centre: &TestCentre, shard: ShardId) -> Vec<Change> {
    let epoch = centre.status()["shards"][usize::from(shard.0)]["epoch"].as_u64().unwrap();
    let mut changes = Vec::new();
    loop {
        let after = changes.len();
        let bytes = sync_get(centre, &format!("{}/changes?epoch={epoch}&after={after}", shard.0)).unwrap().0;
        let Frame::Changes { entries, .. } = Frame::decode(&bytes).unwrap() else { panic!("not changes") };
        if entries.is_empty() {
            return changes;
        }
        changes.extend(entries.iter().map(|entry| Change::decode(&entry.bytes).unwrap()));
    }
}

/// A body, and the number of the snapshot that it is the manifest of.
fn sync_get(centre: &TestCentre, path: &str) -> Option<(Vec<u8>, String)> {
    let url = format!("{}/sync/v1/shards/{path}", centre.url);
    let mut answer = agent().get(url).header("authorization", format!("Bearer {EDGE_KEY}")).call().unwrap();
    let number = answer.headers().get("x-selvedge-snapshot").map(|number| number.to_str().unwrap().to_owned());
    let body = answer.body_mut().with_config().limit(64 << 20).read_to_vec().unwrap();
    (answer.status() == 200).then(|| (body, number.unwrap_or_default()))
}

/// What is never to be found again.
const SECRET_TEXT: &str = "confidential";

fn tells(bytes: &[u8]) -> bool {
    bytes.windows(SECRET_TEXT.len()).any(|window| window == SECRET_TEXT.as_bytes())
}

/// Events of the log that tell it, of all shards.
fn told_in_log(centre: &TestCentre) -> usize {
    let told = |change: &Change| tells(&change.encode_plain());
    ShardId::all().map(|shard| of_shard(centre, shard).iter().filter(|change| told(change)).count()).sum()
}

/// Pieces of the newest snapshots that tell it, of all shards; and how many pieces there are.
fn told_in_snapshots(centre: &TestCentre) -> (usize, usize) {
    let (mut told, mut all) = (0, 0);
    for shard in 0..64 {
        let Some((manifest, number)) = sync_get(centre, &format!("{shard}/snapshot")) else { continue };
        let Frame::Manifest(manifest) = Frame::decode(&manifest).unwrap() else { panic!("no manifest") };
        for index in 0..manifest.chunks.len() {
            let (chunk, _) = sync_get(centre, &format!("{shard}/snapshots/{number}/chunks/{index}")).unwrap();
            let length = u32::from_be_bytes(chunk[11..15].try_into().unwrap());
            let expanded = zstd::bulk::decompress(&chunk[23..], length as usize).unwrap();
            let mut rest = expanded.as_slice();
            while let Some((kind, piece)) = rest.split_first() {
                // A record, a block of history, ids: as `docs/sync.md` says.
                let tells_it = match *kind {
                    0 => {
                        let ((_, state), left) = postcard::take_from_bytes::<(&str, &[u8])>(piece).unwrap();
                        rest = left;
                        tells(state)
                    }
                    1 => {
                        let ((_, first, block), left) = postcard::take_from_bytes::<(&str, u64, &[u8])>(piece).unwrap();
                        rest = left;
                        let packed = block[0] == 1;
                        let plain = if packed { payload::expand(&block[1..]).unwrap() } else { block[1..].to_vec() };
                        let entries: Vec<(u64, &[u8])> = postcard::from_bytes(&plain).unwrap();
                        assert!(entries[0].0 >= first);
                        entries.iter().any(|(_, bytes)| tells(&Change::decode(bytes).unwrap().encode_plain()))
                    }
                    _ => {
                        let (_, left) = postcard::take_from_bytes::<(&str, Vec<([u8; 16], u64)>)>(piece).unwrap();
                        rest = left;
                        false
                    }
                };
                all += 1;
                told += usize::from(tells_it);
            }
        }
    }
    (told, all)
}

#[test]
fn a_person_is_erased_everywhere_and_may_begin_anew() {
    let mut centre = TestCentre::start();
    let (one, two) = (centre.edge("one").start(), centre.edge("two").start());
    one.batch(&[linked("l-1"), order("o-1", "eva"), order("o-2", "eva"), order("k-1", "karl")]);
    eventually("the other edge has it", || !gone(&two));
    caught_up(&centre, &one);
    centre.snapshot_all();

    // An edge that is away takes an event, and is away when the erasure is ordered.
    centre.kill();
    two.batch(&[order("late", "eva"), order("k-2", "karl")]);
    let (data, _) = two.stop();
    let centre = centre.restart();
    let erased = erase(&one, "anonymous:a-eva");
    assert_eq!(erased["identifiers"], json!(EVA));
    assert!(gone(&one));
    eventually("the centre has replaced it", || {
        let copies = receipt(&one, &erased)["copies"].clone();
        copies.as_array().unwrap().iter().filter(|copy| copy["copy"] != "two").all(|copy| copy["done"] == true)
            && copies.as_array().unwrap().len() == 4
    });
    assert_eq!(receipt(&one, &erased)["done"], false, "one edge is away");
    for of in EVA {
        let left = in_log(&centre, of);
        assert!(left.iter().all(|change| matches!(change, Change::Erase { .. } | Change::Erased { .. })), "{left:?}");
        assert!(left.iter().any(|change| matches!(change, Change::Erased { .. })));
    }

    let two = centre.edge("two").start_in(data);
    eventually("every copy says so", || receipt(&one, &erased)["done"] == true);
    eventually("what the edge took for others arrives", || {
        one.profile("user:karl", None)["aggregates"]["retail.orders"]["value"] == 2
    });
    caught_up(&centre, &one);
    caught_up(&centre, &two);
    assert!(gone(&one) && gone(&two), "what comes late brings nothing back");
    assert_eq!(
        receipt(&two, &erased),
        centre.admin_get(&format!("/admin/v1/erasures/{}", erased["id"].as_str().unwrap())).ok()
    );
    let left = in_log(&centre, "user:eva");
    assert!(left.iter().all(|change| matches!(change, Change::Erase { .. } | Change::Erased { .. })), "{left:?}");
    let exported = agent().get(format!("{}/v1/export", centre.url)).header("authorization", format!("Bearer {SECRET}"));
    let exported = exported.call().unwrap().body_mut().read_to_string().unwrap();
    assert!(exported.contains("k-2") && exported.contains("erasure"), "{exported}");
    assert!(exported.lines().all(|line| line.contains("erasure") || !line.contains("eva")), "{exported}");

    // An edge that begins with the snapshots has nothing either, and all hold the same.
    for shard in 0..64 {
        centre.admin_post(&format!("/admin/v1/shards/{shard}/trim"), "").ok();
    }
    let three = centre.edge("three").start();
    caught_up(&centre, &three);
    assert!(gone(&three));
    assert_eq!(centre.verified(), 4);

    // A known id stays known; a new one begins the profile anew, alone.
    let answer = two.batch(&[order("o-1", "eva"), order("new", "eva")]);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(1)));
    eventually("the new event arrives", || one.get(SECRET, "/v1/profiles/user:eva").status == 200);
    let profile = one.profile("user:eva", None);
    assert_eq!(
        (&profile["identifiers"], &profile["aggregates"]["retail.orders"]["value"]),
        (&json!(["user:eva"]), &json!(1))
    );
    assert!(profile["traits"]["plan"].is_null());
    [&one, &two, &three].iter().for_each(|edge| caught_up(&centre, edge));
    assert_eq!(centre.verified(), 4);
}

#[test]
fn an_edge_that_is_its_own_centre_erases_its_log() {
    let edge = TestEdge::start();
    edge.batch(&[linked("l-1"), order("o-1", "eva"), order("k-1", "karl")]);
    let erased = erase(&edge, "user:eva");
    assert!(gone(&edge));
    eventually("the log is clean", || receipt(&edge, &erased)["done"] == true);
    let exported = |edge: &TestEdge| edge.get(SECRET, "/v1/export").text;
    let kept = |edge: &TestEdge| exported(edge).lines().filter(|line| !line.contains("erasure")).collect::<String>();
    assert!(kept(&edge).contains("k-1") && !kept(&edge).contains("eva"));
    assert!(exported(&edge).contains(r#""profile":"user:eva""#), "who keeps a copy is told");
    // Also from the log alone.
    let (data, _) = edge.stop();
    std::fs::remove_dir_all(data.path().join("shards")).unwrap();
    let edge = TestEdgeBuilder::default().start_in(data);
    assert!(gone(&edge) && edge.aggregate("user:karl", "retail.orders") == 1);
    assert_eq!(receipt(&edge, &erased)["done"], true);
    let answer = edge.batch(&[order("o-1", "eva"), order("new", "eva")]);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(1)));
    assert_eq!(edge.aggregate("user:eva", "retail.orders"), 1);
}

#[test]
fn erasing_needs_the_secret_key_and_an_identifier() {
    let edge = TestEdge::start();
    assert_eq!(edge.delete("wk_test_0001", "/v1/profiles/user:eva").status, 403);
    assert_eq!(edge.delete(SECRET, "/v1/profiles/nobody").status, 400);
    // Of whom nothing is known, something may be under way.
    assert_eq!(edge.delete(SECRET, "/v1/profiles/user:nobody").status, 202);
    assert_eq!(edge.get(SECRET, &format!("/v1/erasures/{}", "0".repeat(32))).problem(), (404, "no_such_erasure"));
    assert_eq!(edge.get(SECRET, "/v1/erasures/7").problem(), (400, "erasure_invalid"));
}

/// An order of somebody of the household h1.
fn shared(id: &str, user: &str, note: &str) -> Value {
    let mut order = order(id, user);
    order["properties"]["note"] = note.into();
    order["context"] = json!({"entities": {"household": "h1", "area": "SW1"}});
    order
}

fn grouped(id: &str, user: &str, trait_: &str, value: &str) -> Value {
    json!({"type": "group", "userId": user, "groupId": "acme", "messageId": id, "traits": {trait_: value}})
}

/// What a household, an area and an account have of its members: orders, orders, and two traits.
fn entities(edge: &TestEdge) -> [Value; 4] {
    let account = edge.profile("account:acme", None);
    let orders = |of: &str| edge.aggregate(of, "retail.orders");
    let value = |name: &str| account["traits"][name]["value"].clone();
    [orders("household:h1"), orders("area:SW1"), value("plan"), value("seats")]
}

/// An edge that follows the second centre, if there are two over one store, is away while somebody who shared events with entities is erased at the first.
fn what_was_shared_goes_too(mut centre: TestCentre, second: Option<&TestCentre>) {
    let one = centre.edge("one").start();
    let two = second.unwrap_or(&centre).edge("two").start();
    one.batch(&[linked("l-1"), shared("o-1", "eva", SECRET_TEXT), shared("o-2", "eva", SECRET_TEXT)]);
    one.batch(&[
        grouped("g-1", "eva", "plan", SECRET_TEXT),
        shared("k-1", "karl", "-"),
        grouped("g-2", "karl", "seats", "5"),
    ]);
    let all = [json!(3), json!(3), json!(SECRET_TEXT), json!("5")];
    eventually("the other edge has it", || entities(&two) == all);
    caught_up(&centre, &one);
    caught_up(&centre, &two);
    centre.snapshot_all();
    let (told, pieces) = told_in_snapshots(&centre);
    assert!(told_in_log(&centre) >= 9 && told >= 5 && pieces > told, "{told} of {pieces}: it can be seen where it is");

    // An edge that is away takes events, and is away when the erasure is ordered.
    if second.is_none() {
        centre.kill();
        two.batch(&[shared("late", "eva", SECRET_TEXT), shared("k-2", "karl", "-")]);
    }
    let (data, _) = two.stop();
    if second.is_none() {
        centre = centre.restart();
    }
    let erased = erase(&one, "user:eva");
    assert_eq!(erased["identifiers"], json!(EVA), "nobody else");
    let left = [json!(1), json!(1), Value::Null, json!("5")];
    eventually("entities have forgotten it at the edge", || entities(&one) == left);
    eventually("the centre has replaced it", || {
        let copies = receipt(&one, &erased)["copies"].clone();
        copies.as_array().unwrap().iter().filter(|copy| copy["copy"] != "two").all(|copy| copy["done"] == true)
    });
    assert_eq!((told_in_log(&centre), told_in_snapshots(&centre).0), (0, 0));

    let two = second.unwrap_or(&centre).edge("two").start_in(data);
    if second.is_none() {
        let with_late = [json!(2), json!(2), Value::Null, json!("5")];
        eventually("what the edge took of others arrives", || {
            entities(&one) == with_late && entities(&two) == with_late
        });
        eventually("every copy says so", || receipt(&one, &erased)["done"] == true);
    } else {
        two.batch(&[shared("o-1", "eva", "-"), shared("k-2", "karl", "-")]);
        let known = [json!(2), json!(2), Value::Null, json!("5")];
        eventually("known ids count nothing", || entities(&one) == known && entities(&two) == known);
    }
    caught_up(&centre, &one);
    caught_up(&centre, &two);
    assert_eq!(told_in_log(&centre), 0);
    let household = in_log(&centre, "household:h1");
    let said = household.iter().filter(|change| matches!(change, Change::Event { .. })).count();
    let withdrawn = household.iter().filter(|change| matches!(change, Change::Withdraw { .. })).count();
    assert!(said == 2 && withdrawn >= 1, "{household:?}");
    for edge in [&one, &two] {
        let history = edge.get(SECRET, "/v1/profiles/account:acme?history=traits").text;
        assert!(history.contains("seats") && !tells(history.as_bytes()), "{history}");
    }
    let exported = agent().get(format!("{}/v1/export", centre.url)).header("authorization", format!("Bearer {SECRET}"));
    let exported = exported.call().unwrap().body_mut().read_to_string().unwrap();
    assert!(exported.contains("k-2") && !tells(exported.as_bytes()));
    assert!(exported.contains(r#""profile":"household:h1","type":"withdrawal""#), "who keeps a copy is told");
    if second.is_some() {
        return;
    }
    // An edge that begins with snapshots has the same; what is new counts.
    centre.snapshot_all();
    assert_eq!(told_in_snapshots(&centre).0, 0);
    let three = centre.edge("three").start();
    caught_up(&centre, &three);
    assert_eq!(entities(&three)[0], 2);
    three.batch(&[shared("o-1", "eva", "-"), shared("anew", "eva", "-")]);
    eventually("a new event counts", || entities(&one)[0] == 3);
    [&one, &two, &three].iter().for_each(|edge| caught_up(&centre, edge));
    assert_eq!(centre.verified(), 4);
}

#[test]
fn what_was_shared_with_entities_goes_too_on_redb() {
    what_was_shared_goes_too(TestCentre::start(), None);
}

#[test]
fn what_was_shared_with_entities_goes_too_on_postgresql() {
    let database = crate::postgres::Postgres::start();
    what_was_shared_goes_too(TestCentreBuilder::default().store(&database.database("selvedge")).start(), None);
}

#[test]
fn what_was_shared_with_entities_goes_too_where_several_centres_serve() {
    let database = crate::postgres::Postgres::start();
    let store = database.database("selvedge");
    let first = TestCentreBuilder::default().store(&store).start();
    let second = TestCentreBuilder::default().store(&store).plugins(None).start();
    what_was_shared_goes_too(first, Some(&second));
}

#[test]
fn an_edge_that_is_its_own_centre_withdraws_what_was_shared() {
    let edge = TestEdge::start();
    edge.batch(&[linked("l-1"), shared("o-1", "eva", SECRET_TEXT), shared("k-1", "karl", "-")]);
    edge.batch(&[grouped("g-1", "eva", "plan", SECRET_TEXT), grouped("g-2", "karl", "seats", "5")]);
    assert_eq!(entities(&edge), [json!(2), json!(2), json!(SECRET_TEXT), json!("5")]);
    let erased = erase(&edge, "user:eva");
    eventually("the log is clean", || receipt(&edge, &erased)["done"] == true);
    let left = [json!(1), json!(1), Value::Null, json!("5")];
    assert_eq!(entities(&edge), left);
    let exported = edge.get(SECRET, "/v1/export").text;
    assert!(exported.contains("k-1") && !tells(exported.as_bytes()), "{exported}");
    let history = edge.get(SECRET, "/v1/profiles/account:acme?history=traits,aggregates").text;
    assert!(history.contains("seats") && !tells(history.as_bytes()), "{history}");
    // Also after a crash, and from the log alone; an event that is sent again stays out.
    let edge = edge.kill_and_restart();
    assert_eq!(entities(&edge), left);
    let (data, _) = edge.stop();
    std::fs::remove_dir_all(data.path().join("shards")).unwrap();
    let edge = TestEdgeBuilder::default().start_in(data);
    assert_eq!(entities(&edge), left);
    edge.batch(&[shared("o-1", "eva", "-"), shared("anew", "eva", "-")]);
    assert_eq!(entities(&edge)[0], 2);
}

/// The centre dies at some instants while people are erased who share a household with one who stays.
fn erasures_survive_kills(centre: TestCentre, seed: u64) {
    const PEOPLE: u64 = 24;
    eprintln!("seed {seed}");
    let (mut centre, mut drawn) = (centre, seed);
    let mut below = |most: u64| {
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (drawn >> 33) % most
    };
    let edge = centre.edge("one").start();
    let person = |number: u64| format!("p-{number}");
    let mut events = vec![shared("stays", "karl", "-")];
    for number in 0..PEOPLE {
        events.extend((0..5).map(|at| shared(&format!("o-{number}-{at}"), &person(number), SECRET_TEXT)));
    }
    edge.batches(&events);
    eventually("the household has it all", || edge.aggregate("household:h1", "retail.orders") == 1 + 5 * PEOPLE);
    caught_up(&centre, &edge);
    let mut asked = Vec::new();
    for number in 0..PEOPLE {
        asked.push(erase(&edge, &format!("user:{}", person(number))));
        if number % 3 == 2 {
            let until = Instant::now() + Duration::from_millis(below(120));
            while Instant::now() < until {
                std::thread::yield_now();
            }
            centre.kill_and_restart();
        }
    }
    for erased in &asked {
        eventually("every erasure is done", || {
            let answer = edge.get(SECRET, erased["receipts"].as_str().unwrap());
            answer.status == 200 && answer.ok()["done"] == true
        });
    }
    caught_up(&centre, &edge);
    assert_eq!((told_in_log(&centre), told_in_snapshots(&centre).0), (0, 0));
    for of in ["household:h1", "area:SW1"] {
        assert_eq!(edge.aggregate(of, "retail.orders"), 1);
    }
    let fresh = centre.edge("fresh").start();
    caught_up(&centre, &fresh);
    assert_eq!(centre.verified(), 3);
}

#[test]
fn erasures_survive_kills_of_the_centre_on_redb() {
    erasures_survive_kills(TestCentre::start(), 3);
}

#[test]
fn erasures_survive_kills_of_the_centre_on_postgresql() {
    let database = crate::postgres::Postgres::start();
    erasures_survive_kills(TestCentreBuilder::default().store(&database.database("selvedge")).start(), 5);
}
