//! A person, not a cookie: linking, unlinking, tokens, and what is refused.

use std::collections::BTreeSet;

use selvedge_tests::edge::{PUBLISHABLE, SECRET, WRITE};
use selvedge_tests::{TestEdge, TestEdgeBuilder, tokens};
use serde_json::{Value, json};

fn viewed(who: Value, id: &str, category: &str) -> Value {
    let mut event = json!({"type": "track", "event": "Product Viewed", "messageId": id, "properties": {"product_id": "x", "category": category}});
    event.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
    event
}

fn identifiers(edge: &TestEdge, identifier: &str) -> Vec<String> {
    let profile = edge.profile(identifier, None);
    profile["identifiers"].as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn link(edge: &TestEdge, one: &str, other: &str) -> selvedge_tests::edge::Answer {
    edge.post(SECRET, "/v1/identities/link", &json!({"identifiers": [one, other]}).to_string())
}

fn affinities(edge: &TestEdge, identifier: &str) -> BTreeSet<String> {
    let keys = edge.aggregate(identifier, "retail.category_affinity");
    keys.as_array().into_iter().flatten().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[test]
fn what_an_unknown_visitor_did_shows_in_the_known_persons_next_decision() {
    let edge = TestEdge::start();
    let slots = json!([{"slot": "home-hero"}]);
    let first = edge.post(PUBLISHABLE, "/v1/decide", &json!({"visitor": {}, "slots": slots}).to_string()).ok();
    let anonymous = first["visitor"]["anonymousId"].as_str().unwrap().to_owned();
    assert_eq!(anonymous.len(), 36, "an id was issued");
    let views: Vec<_> = (0..3).map(|view| viewed(json!({}), &format!("v-{view}"), "toys")).collect();
    let call = json!({"visitor": {"anonymousId": anonymous}, "slots": slots, "events": views, "deadlineMs": 10_000});
    let browsed = edge.post(PUBLISHABLE, "/v1/decide", &call.to_string()).ok();
    assert_eq!(browsed["slots"][0]["offers"][0]["id"], "wooden-train");
    assert_eq!(browsed["visitor"], Value::Null, "issued once");

    edge.batch(&[viewed(json!({"userId": "ada"}), "g-1", "garden")]);
    assert_eq!(affinities(&edge, "user:ada"), set(&["garden"]));
    let login = json!({"type": "identify", "userId": "ada", "anonymousId": anonymous, "messageId": "login"});
    let login = edge.batch(&[login.clone(), login]);
    assert_eq!((&login["accepted"], &login["duplicates"]), (&json!(1), &json!(1)));
    let visitor = format!("anonymous:{anonymous}");
    for identifier in ["user:ada", visitor.as_str()] {
        assert_eq!(identifiers(&edge, identifier), ["user:ada", visitor.as_str()]);
        assert_eq!(affinities(&edge, identifier), set(&["garden", "toys"]));
    }
    let known = edge.decide(&json!({"visitor": {"userId": "ada"}, "slots": slots}));
    assert_eq!(known["slots"][0]["offers"][0]["id"], "wooden-train");
    let profile = edge.profile("user:ada", None);
    assert_eq!(profile["offers"]["wooden-train"]["decided"], 2, "of both identifiers");
    assert_eq!(known["meta"]["version"].as_str().unwrap().split(',').count(), 2);

    // Who is who survives, and is answered with when and how.
    let edge = edge.kill_and_restart();
    assert_eq!(affinities(&edge, "user:ada"), set(&["garden", "toys"]));
    let told = edge.get(SECRET, &format!("/v1/profiles/{visitor}/identities")).ok();
    assert_eq!(told["links"][0]["how"], "identify");
    assert_eq!(told["links"][0]["identifiers"], json!([visitor, "user:ada"]));
    assert_eq!(told["identifiers"][0]["events"], 2);
    edge.batch(&[json!({"type": "page", "userId": "ada", "anonymousId": anonymous})]);
    assert_eq!(edge.metric("selvedge_links_total{outcome=\"made\"}"), Some(0.0), "made once, before the restart");
}

#[test]
fn unlinking_is_exact_and_says_before_what_it_will_change() {
    let edge = TestEdge::start();
    edge.batch(&[
        viewed(json!({"anonymousId": "a-1"}), "1", "toys"),
        viewed(json!({"userId": "ada"}), "2", "garden"),
        viewed(json!({"userId": "ada", "anonymousId": "a-1"}), "3", "kitchen"),
    ]);
    assert_eq!(affinities(&edge, "anonymous:a-1"), set(&["garden", "kitchen", "toys"]));
    let unlink = |body: Value| edge.post(SECRET, "/v1/identities/unlink", &body.to_string());
    let pair = json!(["anonymous:a-1", "user:ada"]);
    let trial = unlink(json!({"identifiers": pair, "dryRun": true})).ok();
    assert_eq!((&trial["unlinked"], &trial["dryRun"]), (&json!(1), &json!(true)));
    assert_eq!(trial["before"]["events"], 3);
    let after: Vec<_> = trial["after"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["identifiers"].clone(), part["events"].clone()))
        .collect();
    assert_eq!(after, [(json!(["user:ada"]), json!(2)), (json!(["anonymous:a-1"]), json!(1))]);
    let toys = &trial["after"][1]["aggregates"]["retail.category_affinity"]["value"];
    assert_eq!((&toys[0]["key"], toys.as_array().unwrap().len()), (&json!("toys"), 1));
    assert_eq!(identifiers(&edge, "user:ada").len(), 2, "a trial changes nothing");

    let done = unlink(json!({"identifiers": pair})).ok();
    // But for the decay of a moment.
    let parts = |answer: &Value| {
        let parts = answer["after"].as_array().unwrap().iter();
        parts.map(|part| (part["identifiers"].clone(), part["events"].clone())).collect::<Vec<_>>()
    };
    assert_eq!((parts(&done), &done["dryRun"]), (parts(&trial), &json!(false)));
    assert_eq!(affinities(&edge, "anonymous:a-1"), set(&["toys"]));
    assert_eq!(affinities(&edge, "user:ada"), set(&["garden", "kitchen"]));
    assert_eq!(unlink(json!({"identifiers": pair})).problem(), (409, "not_linked"));
    // An event from before, that comes late or again, does not undo it; a later one does.
    let early = json!({"timestamp": "2026-01-01T00:00:00Z", "userId": "ada", "anonymousId": "a-1"});
    edge.batch(&[viewed(early, "4", "light"), viewed(json!({"userId": "ada", "anonymousId": "a-1"}), "3", "kitchen")]);
    let edge = edge.kill_and_restart();
    assert_eq!(affinities(&edge, "anonymous:a-1"), set(&["toys"]));
    assert_eq!(link(&edge, "user:ada", "anonymous:a-1").ok()["changed"], true);
    assert_eq!(link(&edge, "anonymous:a-1", "user:ada").ok()["changed"], false);
    assert_eq!(affinities(&edge, "anonymous:a-1"), set(&["garden", "kitchen", "light", "toys"]));
    // An alias that comes again does not undo it either, and one that is refused links nothing.
    let alias = json!({"type": "alias", "userId": "ada", "previousId": "a-2", "messageId": "alias"});
    edge.batch(&[viewed(json!({"anonymousId": "a-2"}), "9", "toys"), alias.clone()]);
    let pair = json!({"identifiers": ["anonymous:a-2", "user:ada"]}).to_string();
    edge.post(SECRET, "/v1/identities/unlink", &pair).ok();
    assert_eq!(edge.batch(&[alias])["duplicates"], 1);
    let old = json!({"type": "alias", "userId": "ada", "previousId": "a-3", "timestamp": "2020-01-01T00:00:00Z"});
    assert_eq!(edge.batch(&[old])["rejected"][0]["code"], "too_old");
    assert_eq!(identifiers(&edge, "user:ada"), ["user:ada", "anonymous:a-1"]);
    // One identifier from all.
    link(&edge, "anonymous:a-1", "device:d").ok();
    let all = json!({"identifier": "anonymous:a-1"}).to_string();
    assert_eq!(edge.post(SECRET, "/v1/identities/unlink", &all).ok()["unlinked"], 2);
    assert_eq!(identifiers(&edge, "user:ada"), ["user:ada"]);
}

#[test]
fn identifiers_are_named_in_many_ways() {
    let edge = TestEdge::start();
    let hash = "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514";
    let external = json!([{"id": hash.to_uppercase(), "type": "email_sha256", "collection": "users", "encoding": "none"}, {"id": "ab 1-2", "type": "loyalty"}]);
    edge.batch(&[
        viewed(json!({"userId": "ada", "context": {"externalIds": external}}), "1", "toys"),
        viewed(json!({"context": {"externalIds": [{"id": "AB12", "type": "loyalty"}]}}), "2", "garden"),
        json!({"type": "alias", "userId": "ada", "previousId": "a-0", "messageId": "3"}),
        viewed(json!({"anonymousId": "a-0"}), "4", "light"),
    ]);
    let all = ["user:ada", "anonymous:a-0", &format!("email_sha256:{hash}"), "loyalty:AB12"];
    assert_eq!(identifiers(&edge, "loyalty:ab-12"), all);
    assert_eq!(affinities(&edge, "anonymous:a-0"), set(&["garden", "light", "toys"]));
    let how: BTreeSet<_> = edge.get(SECRET, "/v1/profiles/user:ada/identities").ok()["links"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["how"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(how, set(&["alias", "externalId"]));
    edge.post(WRITE, "/v1/alias", &json!({"userId": "ada", "previousId": "a-9"}).to_string()).ok();
    assert!(identifiers(&edge, "user:ada").contains(&"anonymous:a-9".to_owned()));
    // The newest word on a purpose holds, whichever identifier it came by.
    let consent = |who: Value, ads: bool, at: &str| {
        let mut event = json!({"type": "page", "timestamp": at, "context": {"consent": {"ads": ads}}});
        event.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
        event
    };
    edge.batch(&[
        consent(json!({"userId": "ada"}), true, "2026-01-01T00:00:00Z"),
        consent(json!({"anonymousId": "a-0"}), false, "2026-01-01T00:00:00Z"),
    ]);
    assert_eq!(
        edge.profile("user:ada", None)["consent"]["ads"]["granted"],
        false,
        "of equal times the one that denies"
    );
    edge.batch(&[consent(json!({"anonymousId": "a-9"}), true, "2026-01-02T00:00:00Z")]);
    assert_eq!(
        edge.profile("user:ada", None)["consent"]["ads"],
        json!({"granted": true, "updatedAt": "2026-01-02T00:00:00Z"})
    );
}

#[test]
fn a_browser_is_somebody_only_with_the_sites_token() {
    let config = tempfile::tempdir().unwrap();
    let path = config.path().join("selvedge.toml");
    std::fs::write(&path, tokens::configuration("shop")).unwrap();
    let edge = TestEdgeBuilder::default().arguments(&["--config", path.to_str().unwrap()]).start();
    edge.batch(&[viewed(json!({"userId": "ada"}), "1", "garden")]);
    let call = |headers: &[(&str, &str)], path: &str, body: Value| {
        let key = format!("Bearer {PUBLISHABLE}");
        edge.post_with(&[&[("authorization", key.as_str())], headers].concat(), path, body.to_string().as_bytes())
    };
    let track = |who: Value, id: &str| viewed(who, id, "toys");
    let both = json!({"userId": "ada", "anonymousId": "a-1"});
    // Without one a user id is a claim.
    call(&[], "/v1/track", track(both.clone(), "2")).ok();
    assert_eq!(identifiers(&edge, "user:ada"), ["user:ada"]);
    assert_eq!(affinities(&edge, "anonymous:a-1"), set(&["toys"]));
    assert_eq!(
        call(&[], "/v1/alias", json!({"userId": "ada", "anonymousId": "a-1", "previousId": "a-0"})).problem(),
        (422, "link_not_allowed")
    );
    // Bad ones are refused, and change nothing.
    let token = |claims: Value| tokens::sign(&claims);
    let soon = tokens::now() + 600;
    let refused = |token: String| {
        let answer = call(&[("selvedge-identity", &token)], "/v1/identify", both.clone());
        let (status, code) = answer.problem();
        (status, code.to_owned())
    };
    assert_eq!(
        refused(token(json!({"sub": "ada", "aud": "shop", "exp": tokens::now() - 120}))),
        (401, "token_expired".into())
    );
    assert_eq!(refused(token(json!({"sub": "ada", "aud": "bank", "exp": soon}))), (401, "token_audience".into()));
    assert_eq!(refused(tokens::unsigned(&json!({"sub": "ada", "aud": "shop", "exp": soon}))).0, 401);
    let of_bob = token(json!({"sub": "bob", "aud": "shop", "exp": soon}));
    assert_eq!(refused(of_bob), (422, "token_for_another".into()));
    assert_eq!(identifiers(&edge, "user:ada"), ["user:ada"]);
    assert_eq!(edge.profile("user:ada", None)["meta"]["version"].as_str().unwrap().split(',').count(), 1);
    // A good one speaks for its user: in the header, in the body of a batch, and of a decide call.
    let of_ada = token(json!({"sub": "ada", "aud": "shop", "exp": soon}));
    let decided = call(
        &[("selvedge-identity", &of_ada)],
        "/v1/decide",
        json!({"visitor": {"anonymousId": "a-1"}, "slots": [{"slot": "home-hero"}], "deadlineMs": 10_000}),
    )
    .ok();
    assert_eq!(decided["slots"][0]["offers"][0]["id"], "copper-watering-can", "Ada's garden");
    let batch = json!({"batch": [{"type": "identify", "anonymousId": "a-1"}], "identityToken": of_ada});
    call(&[], "/v1/batch", batch).ok();
    assert_eq!(identifiers(&edge, "user:ada"), ["user:ada", "anonymous:a-1"]);
    assert_eq!(affinities(&edge, "anonymous:a-1"), set(&["garden", "toys"]));
    // It says who speaks, not what they belong to; and an answer says nothing of the identifiers that one's own is linked to.
    let group = json!({"groupId": "rival", "traits": {"plan": "x"}, "identityToken": of_ada});
    assert_eq!(call(&[], "/v1/group", group).problem(), (422, "link_not_allowed"));
    assert_eq!(decided["meta"]["version"].as_str().unwrap().split(',').count(), 1);
    let hers = json!({"visitor": {"anonymousId": "a-1"}, "slots": [{"slot": "home-hero"}]});
    assert_eq!(call(&[], "/v1/decide", hers).ok()["meta"]["version"].as_str().unwrap().split(',').count(), 1);
    let alone = json!({"visitor": {}, "slots": [{"slot": "home-hero"}], "identityToken": of_ada});
    assert_eq!(call(&[], "/v1/decide", alone).ok()["visitor"], Value::Null, "a user needs no id");
}

#[test]
fn a_site_may_take_its_browsers_word_and_is_told_what_that_means() {
    let edge = TestEdgeBuilder::default().arguments(&["--trust-browsers"]).start();
    edge.post(PUBLISHABLE, "/v1/identify", &json!({"userId": "ada", "anonymousId": "a-1"}).to_string()).ok();
    assert_eq!(identifiers(&edge, "anonymous:a-1"), ["user:ada", "anonymous:a-1"]);
    assert!(edge.stop().1.contains("trust_browsers is on"));
}

#[test]
fn what_would_mix_persons_up_is_refused_and_changes_nothing() {
    let config = tempfile::tempdir().unwrap();
    let path = config.path().join("selvedge.toml");
    std::fs::write(&path, "[identity.limits]\nloyalty = 2\n[identity.namespaces.crm]\nform = \"lower-case\"\n")
        .unwrap();
    let edge = TestEdgeBuilder::default().arguments(&["--config", path.to_str().unwrap()]).start();
    edge.batch(&[
        viewed(json!({"userId": "ada", "anonymousId": "shared"}), "1", "toys"),
        viewed(json!({"userId": "bob"}), "2", "garden"),
    ]);
    let problem = |one: &str, other: &str| {
        let answer = link(&edge, one, other);
        let (status, code) = answer.problem();
        (status, code.to_owned())
    };
    assert_eq!(problem("user:ada", "user:bob"), (409, "two_users".into()));
    assert_eq!(problem("anonymous:shared", "user:bob"), (409, "two_users".into()));
    assert_eq!(problem("user:ada", "user:ada"), (400, "self_link".into()));
    assert_eq!(problem("user:ada", "household:h1"), (400, "not_a_person".into()));
    assert_eq!(problem("user:ada", "user:null"), (400, "identifier_blocked".into()));
    assert_eq!(problem("user:ada", "cookie:1"), (400, "identifier_invalid".into()));
    assert_eq!(problem("user:ada", "email_sha256:ada@example.org"), (400, "identifier_invalid".into()));
    let three = json!({"identifiers": ["user:ada"]}).to_string();
    assert_eq!(edge.post(SECRET, "/v1/identities/link", &three).problem(), (400, "identifiers_invalid"));
    assert_eq!(edge.post(WRITE, "/v1/identities/link", &three).problem(), (403, "key_not_allowed"));
    assert_eq!(edge.get(WRITE, "/v1/profiles/user:ada/identities").problem(), (403, "key_not_allowed"));
    assert_eq!(edge.get(SECRET, "/v1/profiles/user:eve/identities").problem(), (404, "profile_not_found"));
    // The next user of a shared browser: the event counts for them, the browser stays where it was, and it is said.
    let answer = edge.batch(&[viewed(json!({"userId": "bob", "anonymousId": "shared"}), "3", "light")]);
    assert_eq!((&answer["accepted"], &answer["linksRefused"][0]["code"]), (&json!(1), &json!("two_users")));
    assert!(!answer.to_string().contains("ada"), "nobody learns whose the browser is: {answer}");
    assert_eq!(edge.admin_get("/admin/v1/dead-letters").ok()["deadLetters"][0]["code"], "two_users");
    assert!(edge.metric("selvedge_links_total{outcome=\"two_users\"}") >= Some(1.0));
    // Another name for a known user is no alias.
    let rename = json!({"type": "alias", "userId": "bob", "previousId": "ada", "messageId": "4"});
    assert_eq!(edge.batch(&[rename])["rejected"][0]["code"], "two_users");
    assert_eq!(affinities(&edge, "user:bob"), set(&["garden", "light"]));
    assert_eq!(identifiers(&edge, "user:ada"), ["user:ada", "anonymous:shared"]);
    // Limits: of a namespace, and of a profile.
    link(&edge, "user:ada", "loyalty:1").ok();
    link(&edge, "user:ada", "loyalty:2").ok();
    assert_eq!(problem("user:ada", "loyalty:3"), (409, "too_many_identifiers".into()));
    link(&edge, "user:ada", "crm:ABC").ok();
    for device in 0..59 {
        link(&edge, "user:ada", &format!("device:d{device}")).ok();
    }
    assert_eq!(identifiers(&edge, "crm:abc").len(), 64);
    let before = edge.profile("user:ada", None);
    assert_eq!(problem("user:ada", "device:one-more"), (409, "too_many_identifiers".into()));
    let answer = edge.batch(&[viewed(json!({"userId": "ada", "anonymousId": "one-more"}), "5", "toys")]);
    assert_eq!(answer["linksRefused"][0]["code"], "too_many_identifiers");
    assert_eq!(edge.profile("user:ada", None)["identifiers"], before["identifiers"]);
    assert_eq!(edge.profile("device:one-more", None), Value::Null);
}

#[test]
fn what_a_household_or_an_account_does_reaches_those_who_belong_to_it() {
    let (edge, _folder) = crate::faults::faulty();
    let hero = |key: &str, visitor: Value| {
        let call = json!({"visitor": visitor, "slots": [{"slot": "hero"}], "deadlineMs": 10_000});
        edge.post(key, "/v1/decide", &call.to_string()).ok()["slots"][0]["offers"][0]["id"].clone()
    };
    let fault = |id: &str, entities: Value| {
        json!({"type": "track", "event": "Fault", "messageId": id, "userId": "bob", "traits": {"shoe": 42},
               "context": {"entities": entities}, "properties": {"fault": "none"}})
    };
    let household = json!({"household": "h1", "area": "SW1"});
    let sent =
        [fault("1", household.clone()), fault("2", household.clone()), fault("2", household), fault("3", json!({}))];
    let answer = edge.batch(&sent);
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(3), &json!(1)), "of the visitor's events only");
    assert_eq!(edge.aggregate("user:bob", "faulty.events"), 3);
    for entity in ["household:h1", "area:SW1"] {
        let profile = edge.profile(entity, None);
        assert_eq!(profile["aggregates"]["faulty.events"]["value"], 2, "each once");
        assert_eq!(profile["traits"], json!({}), "what is said of the visitor stays with the visitor");
    }
    let live_in = |user: &str| json!({"type": "identify", "userId": user, "traits": {"household": "h1"}});
    edge.batch(&[live_in("ada")]);
    assert_eq!(hero(WRITE, json!({"userId": "ada"})), "two");
    assert_eq!(hero(WRITE, json!({"userId": "eve"})), "one");
    // Whoever merely says that they live there learns nothing of it.
    let claim = json!({"type": "identify", "anonymousId": "a-1", "traits": {"household": "h1"}}).to_string();
    edge.post(PUBLISHABLE, "/v1/identify", &claim).ok();
    assert_eq!(hero(PUBLISHABLE, json!({"anonymousId": "a-1"})), "one");
    let crowd = json!({"type": "track", "event": "Fault", "anonymousId": "a-1", "context": {"entities": {"household": "h1"}}, "properties": {"fault": "none"}});
    edge.post(PUBLISHABLE, "/v1/track", &crowd.to_string()).ok();
    assert_eq!(edge.aggregate("household:h1", "faulty.events"), 2);
    // A group call is about an account; the visitor belongs to it.
    let group = json!({"userId": "eve", "groupId": "acme", "traits": {"plan": "odd"}});
    edge.post(WRITE, "/v1/group", &group.to_string()).ok();
    assert_eq!(edge.profile("account:acme", None)["traits"]["plan"]["value"], "odd");
    let eve = edge.profile("user:eve", None);
    assert_eq!((&eve["traits"]["account"]["value"], &eve["traits"]["plan"]), (&json!("acme"), &Value::Null));
    assert_eq!(hero(WRITE, json!({"userId": "eve"})), "two");
    let edge = edge.kill_and_restart();
    let hero = |visitor: Value| {
        edge.decide(&json!({"visitor": visitor, "slots": [{"slot": "hero"}]}))["slots"][0]["offers"][0]["id"].clone()
    };
    assert_eq!(
        (hero(json!({"userId": "eve"})), hero(json!({"userId": "ada"})), hero(json!({"anonymousId": "a-1"}))),
        (json!("two"), json!("two"), json!("one"))
    );
    // A fold of the histories comes to the same.
    assert_eq!(edge.profile("household:h1", Some("2199-01-01T00:00:00Z"))["aggregates"]["faulty.events"]["value"], 2);
}

#[test]
fn of_sources_that_differ_the_one_that_comes_first_holds() {
    let config = tempfile::tempdir().unwrap();
    let path = config.path().join("selvedge.toml");
    std::fs::write(&path, "[identity.trait_sources]\ncountry = [\"crm\"]\n").unwrap();
    let edge = TestEdgeBuilder::default().arguments(&["--config", path.to_str().unwrap()]).start();
    edge.batch(&[
        json!({"type": "page", "anonymousId": "a-1", "timestamp": "2026-01-01T00:00:00Z", "context": {"source": "crm", "traits": {"country": "France", "tier": "gold"}}}),
        json!({"type": "identify", "userId": "ada", "anonymousId": "a-1", "timestamp": "2026-01-02T00:00:00Z", "traits": {"country": "Spain", "tier": "silver"}}),
    ]);
    let traits = edge.profile("user:ada", None)["traits"].clone();
    assert_eq!((&traits["country"]["value"], &traits["country"]["source"]), (&json!("France"), &json!("crm")));
    assert_eq!(traits["tier"]["value"], "silver", "the latest");
}
