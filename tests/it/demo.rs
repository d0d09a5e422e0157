//! The demo's catalogue, as a shop would have it: everything that decisions have, over HTTP.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use selvedge_tests::cluster::eventually;
use selvedge_tests::edge::{SECRET, TestEdge, TestEdgeBuilder};
use selvedge_tests::{plugins, root};
use serde_json::{Value, json};

/// The demo's edge: the retail plugin, and when each product was bought last.
fn demo() -> (TestEdge, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["retail.wasm", "retail.toml", "aggregates.wasm"] {
        std::fs::copy(plugins().join(file), folder.path().join(file)).unwrap();
    }
    std::fs::copy(root().join("plugins/retail/last-bought.toml"), folder.path().join("aggregates.toml")).unwrap();
    let catalogue = root().join("plugins/retail/catalog.toml");
    let builder = TestEdgeBuilder::default().without_catalog().plugins(folder.path());
    (builder.arguments(&["--catalog", catalogue.to_str().unwrap()]).start(), folder)
}

/// Not an instant of the past.
const NOW: &str = "now";

/// Asks for the offers of the page, explained; `more` goes into the call.
fn page(edge: &TestEdge, visitor: &str, more: Value) -> Value {
    decide(edge, visitor, json!([{"slot": "home-hero"}, {"slot": "home-grid", "count": 4}]), more)
}

/// The same of another slot, as it would be now: nothing is counted.
fn rehearse(edge: &TestEdge, visitor: &str, slot: &str, channel: &str, at: &str) -> Value {
    let mut more = json!({"channel": channel, "dryRun": true});
    if at != NOW {
        more["at"] = at.into();
    }
    decide(edge, visitor, json!([{"slot": slot, "count": 10}]), more)
}

fn decide(edge: &TestEdge, visitor: &str, slots: Value, more: Value) -> Value {
    let mut ask = json!({"visitor": {"userId": visitor}, "slots": slots, "explain": true, "deadlineMs": 10_000});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    edge.post(SECRET, "/v1/decide", &ask.to_string()).ok()
}

/// All that was chosen, the hero first.
fn chosen(answer: &Value) -> Vec<&str> {
    let slots = answer["slots"].as_array().unwrap().iter().filter(|slot| slot["fallback"] == false);
    slots.flat_map(|slot| slot["offers"].as_array().unwrap()).map(|offer| offer["id"].as_str().unwrap()).collect()
}

/// What became of an offer in the first slot of an answer.
fn candidate<'a>(answer: &'a Value, offer: &str) -> &'a Value {
    let candidates = answer["slots"][0]["candidates"].as_array().unwrap();
    candidates.iter().find(|of| of["id"] == offer).unwrap_or_else(|| panic!("no {offer} in {answer}"))
}

fn outcome<'a>(answer: &'a Value, offer: &str) -> &'a str {
    candidate(answer, offer)["outcome"].as_str().unwrap()
}

/// In which parts somebody is, whom nobody knows anything of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parts {
    held_out: bool,
    controlled: bool,
    out_of_campaign: bool,
}

fn parts(edge: &TestEdge, visitor: &str) -> Parts {
    let answer = page(edge, visitor, json!({"dryRun": true}));
    // Where nothing is drawn, a stranger's priorities are the offers' values.
    let controlled = candidate(&answer, "enamel-kettle")["priority"].as_f64().is_some_and(|of| (of - 3.6).abs() > 1e-9);
    Parts {
        held_out: outcome(&answer, "enamel-kettle") == "held-out",
        controlled,
        out_of_campaign: outcome(&answer, "paper-lanterns") == "campaign-held-out",
    }
}

const NONE: Parts = Parts { held_out: false, controlled: false, out_of_campaign: false };

/// The first visitors who are in exactly these parts.
fn who(edge: &TestEdge, wanted: Parts, many: usize) -> Vec<String> {
    let visitors = (0..10_000).map(|number| format!("visitor-{number}"));
    visitors.filter(|visitor| parts(edge, visitor) == wanted).take(many).collect()
}

fn event(visitor: &str, name: &str, properties: Value) -> Value {
    json!({"type": "track", "event": name, "userId": visitor, "properties": properties})
}

/// What happened with an order of one product.
fn order(visitor: &str, what: &str, order: &str, product: &str, category: &str, price: f64) -> Value {
    let products = json!([{"product_id": product, "category": category, "price": price, "quantity": 1}]);
    let mut event = event(visitor, &format!("Order {what}"), json!({"order_id": order, "products": products}));
    event["messageId"] = format!("{what}-{order}").into();
    event
}

fn identify(visitor: &str, traits: Value, consent: Value) -> Value {
    json!({"type": "identify", "userId": visitor, "traits": traits, "context": {"consent": consent}})
}

/// An event of a time that is over.
fn at(mut event: Value, time: &str) -> Value {
    event["timestamp"] = time.into();
    event
}

/// An hour of a day that is over.
fn hour(days_ago: i64, hour: u8) -> String {
    let day = (Timestamp::now() - SignedDuration::from_hours(24 * days_ago)).strftime("%F").to_string();
    format!("{day}T{hour:02}:00:00Z")
}

#[test]
fn a_refrigerator_brings_the_water_kit_at_once_and_itself_never_again_until_it_is_returned() {
    let (edge, _folder) = demo();
    let ada = who(&edge, NONE, 1).remove(0);
    let stranger = page(&edge, &ada, json!({}));
    assert_eq!(outcome(&stranger, "fridge"), "outranked");
    assert_eq!(outcome(&stranger, "water-kit"), "not-in-audience");
    let of_fridge = |what: &str| json!({"events": [order(&ada, what, "o-1", "F-100", "appliances", 499.0)]});
    // In the answer to the very call that carries the purchase, and from then on.
    let mut answer = page(&edge, &ada, of_fridge("Completed"));
    for _ in 0..10 {
        assert_eq!(chosen(&answer)[0], "water-kit", "{answer}");
        assert_eq!(outcome(&answer, "fridge"), "suppressed-bought");
        assert!(!chosen(&answer).contains(&"fridge"));
        answer = page(&edge, &ada, json!({}));
    }
    // On every channel.
    let app = rehearse(&edge, &ada, "app-home", "app", NOW);
    assert_eq!((outcome(&app, "water-kit"), outcome(&app, "fridge")), ("chosen", "suppressed-bought"));
    let answer = page(&edge, &ada, of_fridge("Refunded"));
    assert_eq!(outcome(&answer, "water-kit"), "not-in-audience");
    assert_eq!(chosen(&answer)[0], "fridge", "the interest is still there: {answer}");
    let app = rehearse(&edge, &ada, "app-home", "app", NOW);
    assert_eq!((outcome(&app, "water-kit"), outcome(&app, "fridge")), ("not-in-audience", "outranked"));
    // Bought for good, and the kit too: neither.
    let both = json!({"events": [
        order(&ada, "Completed", "o-2", "F-100", "appliances", 499.0),
        order(&ada, "Completed", "o-3", "W-100", "appliances", 39.0),
    ]});
    let answer = page(&edge, &ada, both);
    assert_eq!((outcome(&answer, "water-kit"), outcome(&answer, "fridge")), ("suppressed-bought", "suppressed-bought"));
}

#[test]
fn who_is_held_out_sees_the_fallback_whatever_they_do_but_for_messages_of_service() {
    let (edge, _folder) = demo();
    for eve in who(&edge, Parts { held_out: true, ..NONE }, 2) {
        let answer =
            page(&edge, &eve, json!({"events": [order(&eve, "Completed", &eve, "F-100", "appliances", 499.0)]}));
        for slot in answer["slots"].as_array().unwrap() {
            assert_eq!((&slot["fallback"], &slot["offers"][0]["id"]), (&json!(true), &json!("gift-card")), "{answer}");
        }
        assert_eq!(outcome(&answer, "water-kit"), "held-out");
        // What stands at an earlier step says that first.
        assert_eq!(outcome(&answer, "seed-box"), "out-of-stock");
        assert_eq!(outcome(&answer, "deck-chair"), "campaign-over");
        let stand = order(&eve, "Completed", &format!("{eve}-2"), "22423", "kitchen", 12.75);
        let answer = page(&edge, &eve, json!({"events": [stand]}));
        assert_eq!(chosen(&answer), ["cakestand-notice"]);
        assert_eq!(answer["slots"][1]["fallback"], true, "it is never said twice in an answer: {answer}");
    }
}

#[test]
fn as_many_are_held_out_as_the_catalogue_says_and_the_page_is_of_different_things() {
    const VISITORS: usize = 1_000;
    let (edge, _folder) = demo();
    let visitors: Vec<Value> = (0..VISITORS).map(|number| json!({"userId": format!("u-{number}")})).collect();
    let slots = json!([{"slot": "home-hero"}, {"slot": "home-grid", "count": 4}]);
    let ask = json!({"visitors": visitors, "slots": slots, "explain": true, "dryRun": true});
    let answer = edge.post(SECRET, "/v1/decide/batch", &ask.to_string());
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), VISITORS, "{}", answer.text);
    let share = |of: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| of(line)).count();
    let held = share(&|line| outcome(line, "enamel-kettle") == "held-out");
    let out_of_campaign = share(&|line| outcome(line, "paper-lanterns") == "campaign-held-out");
    // Five of a hundred, and a fifth of the others: within the interval of 99.9% of draws.
    assert!((28..=72).contains(&held), "{held}");
    assert!((150..=232).contains(&out_of_campaign), "{out_of_campaign}");
    for line in lines.iter().filter(|line| outcome(line, "enamel-kettle") != "held-out") {
        let all = chosen(line);
        assert_eq!(all.len(), 5, "{line}");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 5, "none twice: {line}");
        let mut categories = BTreeMap::new();
        for offer in line["slots"][1]["offers"].as_array().unwrap() {
            *categories.entry(offer["category"].as_str()).or_insert(0) += usize::from(!offer["category"].is_null());
        }
        assert!(categories.values().all(|many| *many <= 2), "{line}");
    }
}

#[test]
fn a_campaign_ends_for_the_day_with_its_cap_and_whom_it_is_kept_from_never_sees_it() {
    let (edge, _folder) = demo();
    let of_campaign = |answer: &Value| {
        chosen(answer).iter().filter(|offer| ["paper-lanterns", "reading-lamp"].contains(offer)).count()
    };
    let ada = who(&edge, NONE, 1).remove(0);
    // Both of it at once, for somebody who likes light; another call's other identifier counts with hers.
    let likes = json!({"events": [event(&ada, "Product Added", json!({"product_id": "x", "category": "light"})),
        {"type": "identify", "anonymousId": "ada-here", "userId": ada, "traits": {}}]});
    let mut seen = of_campaign(&page(&edge, &ada, likes));
    while seen < 12 {
        let slots = json!([{"slot": "home-hero"}, {"slot": "home-grid", "count": 4}]);
        let here = json!({"visitor": {"anonymousId": "ada-here"}, "slots": slots, "deadlineMs": 10_000});
        let more = of_campaign(&edge.post(SECRET, "/v1/decide", &here.to_string()).ok());
        assert!((1..=12 - seen).contains(&more), "{more} after {seen}");
        seen += more;
    }
    let next = page(&edge, &ada, json!({}));
    assert_eq!(of_campaign(&next), 0, "on the very next request: {next}");
    let lamp = candidate(&next, "reading-lamp");
    assert_eq!((&lamp["outcome"], &lamp["step"]), (&json!("capped"), &json!("cap")));
    assert!(lamp["until"].as_str().unwrap().ends_with("T00:00:00Z"), "{lamp}");
    assert!(chosen(&next).contains(&"tea-light-holder"), "which is of no campaign: {next}");

    let bob = who(&edge, Parts { out_of_campaign: true, ..NONE }, 1).remove(0);
    let light = json!({"events": [event(&bob, "Product Added", json!({"product_id": "x", "category": "light"}))]});
    let answer = page(&edge, &bob, light);
    assert_eq!((of_campaign(&answer), outcome(&answer, "reading-lamp")), (0, "campaign-held-out"));
    assert_eq!(chosen(&answer)[0], "tea-light-holder", "{answer}");
}

#[test]
fn the_first_delivery_is_free_for_newcomers_until_the_months_budget_is_spent() {
    const BUDGET: usize = 200;
    let (edge, _folder) = demo();
    let free = who(&edge, NONE, 3);
    let [ada, bob, eve] = free.as_slice() else { panic!("{free:?}") };
    assert_eq!(chosen(&page(&edge, ada, json!({})))[0], "free-delivery");
    // Whoever has ordered is no newcomer any more.
    let answer = page(&edge, ada, json!({"events": [order(ada, "Completed", "o-1", "K-110", "kitchen", 18.0)]}));
    assert_eq!(outcome(&answer, "free-delivery"), "not-in-audience");
    // A household is new ten times, whoever of it asks.
    edge.batch(&[
        identify(bob, json!({"household": "h-1"}), json!({})),
        identify(eve, json!({"household": "h-1"}), json!({})),
    ]);
    for turn in 0..10 {
        assert_eq!(outcome(&page(&edge, [bob, eve][turn % 2], json!({})), "free-delivery"), "chosen", "{turn}");
    }
    for member in [bob, eve] {
        assert_eq!(outcome(&page(&edge, member, json!({})), "free-delivery"), "capped");
    }
    let accepts = |upto: usize| -> Vec<Value> {
        let accept = |number| {
            let mut event = event(&format!("n-{number}"), "Offer Accepted", json!({"offer_id": "free-delivery"}));
            event["messageId"] = format!("accept-{number}").into();
            event
        };
        (0..upto).map(accept).collect()
    };
    let accepted = || edge.admin_get("/admin/v1/report?experiments=false").ok()["total"]["accepted"].clone();
    edge.batch(&accepts(BUDGET - 1));
    eventually("they are counted", || accepted() == BUDGET - 1);
    let newcomer = who(&edge, NONE, 4).remove(3);
    assert_eq!(outcome(&page(&edge, &newcomer, json!({})), "free-delivery"), "chosen", "one is left");
    edge.batch(&accepts(BUDGET));
    let rehearsed = || page(&edge, &newcomer, json!({"dryRun": true}));
    eventually("the last one closes it", || outcome(&rehearsed(), "free-delivery") == "capped");
    let until = candidate(&rehearsed(), "free-delivery")["until"].clone();
    assert!(until.as_str().unwrap().ends_with("-01T00:00:00Z"), "{until}");
}

#[test]
fn the_words_of_an_offer_stay_with_whoever_has_seen_them() {
    let (edge, _folder) = demo();
    let mut by_variant: BTreeMap<String, usize> = BTreeMap::new();
    for visitor in who(&edge, NONE, 40) {
        let shown = |answer: &Value| {
            let offer = answer["slots"][0]["offers"][0].clone();
            assert_eq!(offer["id"], "free-delivery", "{answer}");
            (offer["variant"].as_str().unwrap().to_owned(), offer["content"]["title"].as_str().unwrap().to_owned())
        };
        // Seen before anybody knew who it was; then known by another identifier.
        let slots = json!([{"slot": "home-hero"}]);
        let nobody = json!({"visitor": {"anonymousId": format!("{visitor}-x")}, "slots": slots, "deadlineMs": 10_000});
        let first = edge.post(SECRET, "/v1/decide", &nobody.to_string()).ok();
        if first["slots"][0]["offers"][0]["id"] != "free-delivery" {
            continue; // held out, or drawn at random, before it was known who it is
        }
        let (variant, title) = shown(&first);
        let login = json!({"type": "identify", "userId": visitor, "anonymousId": format!("{visitor}-x"), "traits": {}});
        edge.batch(&[login]);
        for _ in 0..3 {
            assert_eq!(shown(&page(&edge, &visitor, json!({}))), (variant.clone(), title.clone()));
        }
        assert_eq!(title.starts_with("Welcome!"), variant == "warm", "{title}");
        *by_variant.entry(variant).or_default() += 1;
    }
    assert!(by_variant.len() == 2 && by_variant.values().all(|many| *many >= 8), "{by_variant:?}");
}

#[test]
fn audiences_regulars_and_neighbours_are_offered_what_is_theirs() {
    let (edge, _folder) = demo();
    let free = who(&edge, NONE, 3);
    let [rita, nell, lara] = free.as_slice() else { panic!("{free:?}") };
    let bought = |visitor: &str, number: usize, days_ago: i64| {
        at(order(visitor, "Completed", &format!("{visitor}-{number}"), "K-110", "kitchen", 18.0), &hour(days_ago, 10))
    };
    // The card: from the fifth order on, before everything else, and only where that is allowed.
    edge.batch(&(0..4).map(|number| bought(rita, number, 2)).collect::<Vec<_>>());
    let allowed = json!({"events": [identify(rita, json!({}), json!({"loyalty": true}))]});
    assert_eq!(outcome(&page(&edge, rita, allowed), "loyalty-card"), "not-in-audience");
    edge.batch(&[bought(rita, 4, 1)]);
    assert_eq!(chosen(&page(&edge, rita, json!({})))[0], "loyalty-card");
    assert_eq!(edge.profile(&format!("user:{rita}"), None)["audiences"], json!(["regulars"]));
    let denied = json!({"events": [identify(rita, json!({}), json!({"loyalty": false}))]});
    assert_eq!(outcome(&page(&edge, rita, denied), "loyalty-card"), "consent-missing");
    let allowed = json!({"events": [identify(rita, json!({}), json!({"loyalty": true}))]});
    assert_eq!(outcome(&page(&edge, rita, allowed), "loyalty-card"), "chosen");
    let put_away = json!({"events": [event(rita, "Offer Dismissed", json!({"offer_id": "loyalty-card"}))]});
    assert_eq!(outcome(&page(&edge, rita, put_away), "loyalty-card"), "suppressed-dismissed");
    // The workshop: to whom it is not far.
    let home =
        |lat: f64, lon: f64| json!({"events": [identify(nell, json!({"home": {"lat": lat, "lon": lon}}), json!({}))]});
    assert_eq!(outcome(&page(&edge, nell, home(53.48, -2.24)), "candle-workshop"), "not-in-audience", "Manchester");
    assert_ne!(outcome(&page(&edge, nell, home(51.46, -0.3)), "candle-workshop"), "not-in-audience", "Richmond");
    // A tenth off: to those who used to buy and seem to be gone.
    edge.batch(&(0..4).map(|number| bought(lara, number, 100 + 7 * number as i64)).collect::<Vec<_>>());
    edge.batch(&[at(identify(lara, json!({"email": "lara@example.org"}), json!({})), &hour(2, 10))]);
    let (morning, noon) = (hour(1, 11), hour(1, 12));
    let letter = decide(&edge, lara, json!([{"slot": "letter"}]), json!({"channel": "email", "at": morning}));
    assert_eq!(chosen(&letter)[0], "come-back", "{letter}");
    let factors = &candidate(&letter, "come-back")["factors"];
    let alive = letter["stages"][0]["scores"]["retail.p_alive"].as_f64().unwrap();
    assert!(alive < 0.5 && factors["propensity"] == alive, "{factors}, {alive}");
    let second = rehearse(&edge, lara, "call-script", "call-center", &noon);
    assert_eq!(outcome(&second, "come-back"), "capped", "once in thirty days, on whatever channel");
    assert_eq!(
        outcome(&rehearse(&edge, nell, "call-script", "call-center", &noon), "come-back"),
        "campaign-not-eligible"
    );
}

#[test]
fn letters_keep_quiet_at_night_and_to_one_a_week_but_for_messages_of_service() {
    let (edge, _folder) = demo();
    let free = who(&edge, NONE, 1).remove(0);
    let mia = free.as_str();
    let before = hour(4, 9);
    edge.batch(&[
        at(identify(mia, json!({"email": "mia@example.org", "timezone": "Asia/Tokyo"}), json!({})), &before),
        at(order(mia, "Completed", "o-1", "F-100", "appliances", 499.0), &before),
    ]);
    let letter = |at: &str| rehearse(&edge, mia, "letter", "email", at);
    // Nine o'clock in the evening in Tokyo, where she is.
    let night = letter(&hour(3, 12));
    assert_eq!((chosen(&night), outcome(&night, "water-kit")), (vec![], "quiet-period"));
    assert_eq!(night["slots"][0]["offers"][0]["content"]["title"], "Hello again");
    assert_eq!(candidate(&night, "water-kit")["until"], hour(3, 23), "{night}");
    // An hour earlier it is sent, with the content of letters, and the refrigerator shows nothing there.
    let day = json!({"channel": "email", "at": hour(3, 11)});
    let sent = decide(&edge, mia, json!([{"slot": "letter"}]), day);
    let offers = sent["slots"][0]["offers"].as_array().unwrap();
    assert_eq!(offers.len(), 3, "as many as the slot says: {sent}");
    let kit = offers.iter().find(|offer| offer["id"] == "water-kit").unwrap_or_else(|| panic!("{sent}"));
    assert_eq!(kit["content"]["title"], "Your new fridge is thirsty");
    assert_eq!(sent["validUntil"], hour(3, 12), "until it is quiet");
    assert!(!sent["slots"][0]["candidates"].to_string().contains("\"fridge\""), "{sent}");
    let categories: BTreeSet<_> = offers.iter().map(|offer| offer["category"].as_str()).collect();
    assert_eq!(categories.len(), 3, "one of each: {sent}");
    // That was this week's.
    let next = letter(&hour(2, 11));
    assert_eq!((chosen(&next), outcome(&next, "water-kit")), (vec![], "capped"));
    // A message of service goes out at night, beside the letter, and to those who want no letters; unless they deny service.
    edge.batch(&[at(order(mia, "Completed", "o-2", "22423", "kitchen", 12.75), &hour(2, 12))]);
    for when in [hour(2, 13), hour(1, 11)] {
        assert_eq!(chosen(&letter(&when)), ["cakestand-notice"], "{when}");
    }
    let consent = |consent: Value, when: &str| edge.batch(&[at(identify(mia, json!({}), consent), when)]);
    consent(json!({"channel:email": false}), &hour(1, 12));
    let out = letter(&hour(1, 13));
    assert_eq!((chosen(&out), outcome(&out, "water-kit")), (vec!["cakestand-notice"], "channel-opted-out"));
    consent(json!({"service": false}), &hour(1, 14));
    assert_eq!(outcome(&letter(&hour(1, 15)), "cakestand-notice"), "consent-missing");
    // Who has left no address gets no letter at all.
    let nobody = who(&edge, NONE, 2).remove(1);
    assert_eq!(
        outcome(&rehearse(&edge, &nobody, "letter", "email", &hour(1, 11)), "enamel-kettle"),
        "slot-not-eligible"
    );
}

#[test]
fn letters_and_telephone_go_by_the_formula_of_season_rate_value_and_lever() {
    let (edge, _folder) = demo();
    let free = who(&edge, NONE, 1).remove(0);
    edge.batch(&[at(identify(&free, json!({"email": "a@example.org"}), json!({})), "2026-01-01T00:00:00Z")]);
    let factors = |slot: &str, channel: &str, at: &str, offer: &str| {
        candidate(&rehearse(&edge, &free, slot, channel, at), offer)["factors"].clone()
    };
    let prior = json!({"responses": 0, "shown": 0, "prior": 0.02, "weight": 100.0});
    let train =
        |context: f64| json!({"propensity": 0.02, "context": context, "value": 3.0, "lever": 1.2, "response": prior});
    let (winter, spring) = ("2026-11-20T12:00:00Z", "2026-04-01T12:00:00Z");
    assert_eq!(factors("letter", "email", winter, "wooden-train"), train(2.0), "a gift, before Christmas");
    assert_eq!(factors("letter", "email", spring, "wooden-train"), train(1.0));
    assert_eq!(factors("letter", "email", spring, "herb-planter")["context"], 1.5);
    assert_eq!(
        factors("call-script", "call-center", winter, "wooden-train"),
        train(1.0),
        "the season is left out there"
    );
    // Everyone's clicks, each channel's by themselves.
    let mut events = Vec::new();
    for number in 0..100 {
        let of = |act: &str| {
            let mut event = event(&format!("n-{number}"), act, json!({"offer_id": "kite", "channel": "email"}));
            event["messageId"] = format!("{act}-{number}").into();
            event
        };
        events.push(of("Offer Shown"));
        if number < 18 {
            events.push(of("Offer Clicked"));
        }
    }
    edge.batch(&events);
    let now = || rehearse(&edge, &free, "letter", "email", spring);
    eventually("the rate arrives", || candidate(&now(), "kite")["factors"]["propensity"] == 0.1);
    assert_eq!(factors("call-script", "call-center", spring, "kite")["propensity"], 0.02);
    assert_eq!(chosen(&now())[0], "kite", "2.1 × 0.1 is more than 4.2 × 0.02");
}

#[test]
fn purchases_count_for_the_arm_that_somebody_was_in_when_they_first_were() {
    const VISITORS: usize = 300;
    let (edge, _folder) = demo();
    let visitor = |number: usize| format!("u-{number}");
    let buys = |number: usize, what: &str, product: &str| {
        order(&visitor(number), "Completed", &format!("{what}-{number}"), product, "light", 10.0)
    };
    // A purchase before is none that the offers brought about.
    let earlier: Vec<Value> = (0..VISITORS)
        .filter(|number| number.is_multiple_of(4))
        .map(|number| at(buys(number, "old", "L-310"), &hour(3, 10)))
        .collect();
    edge.batch(&earlier);
    // By experiment and arm: who was exposed.
    let mut exposed: BTreeMap<(String, String), BTreeSet<usize>> = BTreeMap::new();
    for number in 0..VISITORS {
        let user = visitor(number);
        let answer = page(&edge, &user, json!({}));
        let mut put = |experiment: &str, arm: &str| {
            exposed.entry((experiment.to_owned(), arm.to_owned())).or_default().insert(number);
        };
        if outcome(&answer, "enamel-kettle") == "held-out" {
            put("holdout", "held");
            continue;
        }
        put("holdout", "treated");
        let chosen = chosen(&answer);
        let lit = |offer: &str| chosen.contains(&offer);
        let kept_from = |offer: &str| outcome(&answer, offer) == "campaign-held-out";
        if lit("paper-lanterns") || lit("reading-lamp") {
            put("campaign:long-evenings", "treated");
        } else if kept_from("paper-lanterns") || kept_from("reading-lamp") {
            put("campaign:long-evenings", "held");
        }
        let offers = answer["slots"].as_array().unwrap().iter().flat_map(|slot| slot["offers"].as_array().unwrap());
        for offer in offers.filter(|offer| offer["id"] == "free-delivery") {
            put("offer:free-delivery", offer["variant"].as_str().unwrap());
        }
    }
    let of = |experiment: &str, arm: &str| exposed[&(experiment.to_owned(), arm.to_owned())].clone();
    let held = of("holdout", "held");
    assert!(held.len() > 3 && of("campaign:long-evenings", "held").len() > 20, "{exposed:?}");
    // Every third buys something, every fifth what the campaign sells; every seventh takes the free delivery, and of those held out every second buys.
    let something = |number: &usize| number.is_multiple_of(3) || held.contains(number) && number.is_multiple_of(2);
    let lamp = |number: &usize| number.is_multiple_of(5);
    let delivery = |number: &usize| number.is_multiple_of(7) && !held.contains(number);
    let mut events = Vec::new();
    for number in 0..VISITORS {
        if something(&number) {
            events.push(buys(number, "any", "K-120"));
        }
        if lamp(&number) {
            events.push(buys(number, "lamp", "L-310"));
        }
        if delivery(&number) {
            events.push(event(&visitor(number), "Offer Accepted", json!({"offer_id": "free-delivery"})));
        }
    }
    edge.batch(&events);
    // Exactly these, of each arm.
    type Converted<'c> = (&'c str, &'c str, &'c dyn Fn(&usize) -> bool);
    let any = |number: &usize| something(number) || lamp(number) || delivery(number);
    let wanted: [Converted<'_>; 6] = [
        ("holdout", "held", &any),
        ("holdout", "treated", &any),
        ("campaign:long-evenings", "held", &lamp),
        ("campaign:long-evenings", "treated", &lamp),
        ("offer:free-delivery", "plain", &delivery),
        ("offer:free-delivery", "warm", &delivery),
    ];
    let mut told = Value::Null;
    eventually("all exposures are counted", || {
        told = edge.admin_get("/admin/v1/report").ok();
        told["persons"] == VISITORS
    });
    let experiments = told["experiments"].as_array().unwrap();
    for (name, arm, converted) in wanted {
        let of_name = experiments.iter().find(|of| of["name"] == name).unwrap_or_else(|| panic!("no {name}: {told}"));
        let arms = of_name["arms"].as_array().unwrap();
        assert_eq!(arms.len(), 2, "{of_name}");
        let found = arms.iter().find(|of| of["arm"] == arm).unwrap();
        let exposed = of(name, arm);
        let count = exposed.iter().filter(|number| converted(number)).count();
        assert_eq!((&found["exposed"], &found["converted"]), (&json!(exposed.len()), &json!(count)), "{name} {arm}");
        let share = |of: &Value| of["converted"].as_f64().unwrap() / of["exposed"].as_f64().unwrap();
        let (own, base) = (share(found), share(&arms[0]));
        assert!((found["share"]["value"].as_f64().unwrap() - own).abs() < 1e-9, "{found}");
        if found != &arms[0] {
            assert!((found["difference"]["value"].as_f64().unwrap() - (own - base)).abs() < 1e-9, "{found}");
            assert!((found["lift"]["value"].as_f64().unwrap() - (own / base - 1.0)).abs() < 1e-9, "{found}");
        }
    }
    let printed =
        selvedge_tests::process::command(&["report", "--url", &edge.admin].map(str::to_owned)).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    for line in
        ["holdout (against held)", "campaign:long-evenings (against held)", "offer:free-delivery (against plain)"]
    {
        assert!(printed.contains(line), "no {line} in\n{printed}");
    }
}
