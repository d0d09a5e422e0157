//! Documents that are taken, and faults with their places.

use super::terms::{CapWindow, Counts, HoldoutAnswer, Per, Share, SuppressAfter};
use super::*;
use crate::time::{Period, Whose};
use crate::value::Timestamp;

/// Three offers of two categories, two slots.
pub(crate) const SAMPLE: &str = r#"
    [[offers]]
    id = "kettle"
    category = "kitchen"
    value = 12.5
    product_ids = ["K1", "K2"]
    content = { title = "A kettle" }
    [[offers]]
    id = "rose"
    name = "A rose"
    category = "garden"
    value = 3
    content = { title = "A rose" }
    [[offers]]
    id = "card"
    content = { title = "A card" }
    [[slots]]
    slot = "hero"
    fallback = "card"
    [[slots]]
    slot = "kitchen-grid"
    categories = ["kitchen"]
    fallback = { content = { title = "Kitchen" } }
"#;

/// Everything that a document may say.
pub(crate) const WHOLE: &str = include_str!("whole.json");

fn whole() -> serde_json::Value {
    serde_json::from_str(WHOLE).expect("JSON")
}

/// The faults of the whole document once something in it is changed.
fn faults(change: impl FnOnce(&mut serde_json::Value)) -> Vec<Fault> {
    let mut document = whole();
    change(&mut document);
    Catalog::from_json(&document.to_string()).map(|_| ()).expect_err("a faulty catalogue").faults
}

/// The only fault once the value at a place is another.
fn fault(pointer: &str, value: serde_json::Value) -> (String, String) {
    let mut faults = faults(|document| set(document, pointer, value));
    assert_eq!(faults.len(), 1, "{faults:?}");
    let Fault { pointer, detail } = faults.remove(0);
    (pointer, detail)
}

fn set(document: &mut serde_json::Value, pointer: &str, value: serde_json::Value) {
    let (above, key) = pointer.rsplit_once('/').expect("a pointer");
    match document.pointer_mut(above).expect("a place") {
        serde_json::Value::Array(list) => match key.parse::<usize>() {
            Ok(index) if index < list.len() => list[index] = value,
            _ => list.push(value),
        },
        above => above[key] = value,
    }
}

fn toml_fault(text: &str) -> String {
    Catalog::from_toml(text).expect_err("a faulty catalogue").to_string()
}

#[test]
fn a_document_is_resolved() {
    let catalog = Catalog::from_toml(SAMPLE).expect("a good catalogue");
    assert_eq!(catalog.offers[0].value, Decimal(12_500_000));
    assert_eq!(catalog.offers[2].value, Decimal(1_000_000));
    assert_eq!(catalog.offers[2].name, "card");
    assert_eq!(catalog.slot("kitchen-grid"), Some(1));
    assert_eq!(catalog.slots[0].candidates, [0, 1, 2]);
    assert_eq!(catalog.slots[1].candidates, [0]);
    assert!(matches!(catalog.slots[0].fallback, Fallback::Offer(2)));
    let content = |offer: usize| catalog.offers[offer].content(0, None).map(RawValue::get);
    assert_eq!(content(0), Some(r#"{"title":"A kettle"}"#));
    assert_eq!((catalog.conditions.len(), catalog.channels.len(), catalog.slots[0].count), (0, 4, 1));
}

#[test]
fn toml_and_json_say_the_same() {
    let text = "[[offers]]\nid = \"a\"\nvalue = 1.50\nvalid = { from = 2026-01-05T10:00:00Z }\n\
                content = { at = 2026-01-05, n = 19.0, list = [1, { x = true }] }\n";
    let json = r#"{"offers":[{"id":"a","value":1.5,"valid":{"from":"2026-01-05T10:00:00Z"},"content":{}}]}"#;
    let (toml, json) = (Catalog::parse(text).expect("TOML"), Catalog::parse(json).expect("JSON"));
    assert_eq!((toml.offers[0].value, toml.offers[0].valid), (json.offers[0].value, json.offers[0].valid));
    let content = toml.offers[0].content(0, None).map(RawValue::get);
    assert_eq!(content, Some(r#"{"at":"2026-01-05","list":[1,{"x":true}],"n":19.0}"#));
    // What JSON says is handed on to the letter.
    let kept = r#"{ "price" : 1.10, "b":2,"a":1 }"#;
    let catalog = Catalog::from_json(&format!(r#"{{"offers":[{{"id":"a","content":{kept}}}]}}"#)).expect("JSON");
    assert_eq!(catalog.offers[0].content(0, None).map(RawValue::get), Some(kept));
}

#[test]
fn a_fault_names_its_offer_or_slot() {
    let holds = |text: String, part: &str| assert!(text.contains(part), "{text}");
    holds(
        toml_fault(&SAMPLE.replace("category = \"garden\"", "categry = \"garden\"")),
        "/offers/1/categry: unknown key \"categry\"; did you mean \"category\"?",
    );
    holds(toml_fault(&SAMPLE.replace("\"rose\"", "\"kettle\"")), "/offers/1/id: offer \"kettle\" stands twice");
    holds(
        toml_fault(&SAMPLE.replace("fallback = \"card\"", "fallback = \"crad\"")),
        "/slots/0/fallback: slot \"hero\": the fallback \"crad\" is no offer's id; did you mean \"card\"?",
    );
    holds(
        toml_fault(&SAMPLE.replace("[\"kitchen\"]", "[\"kitchn\"]")),
        "/slots/1/categories/0: slot \"kitchen-grid\": no offer has the category \"kitchn\"; did you mean \"kitchen\"?",
    );
    holds(
        toml_fault(&SAMPLE.replace("value = 3", "value = -3")),
        "/offers/1/value: offer \"rose\": value is negative; leave the offer out instead",
    );
    holds(toml_fault(&SAMPLE.replace("value = 3", "value = nan")), "/offers/1/value: NaN is not a number");
    holds(toml_fault(&SAMPLE.replace("value = 3", "value = \"3\"")), "offer \"rose\": value is not a number");
    holds(toml_fault(&SAMPLE.replace("{ content =", "{ contents =")), "did you mean \"content\"?");
    holds(toml_fault(&SAMPLE.replace("\"card\"\n", "7\n")), "it is an offer's id or");
    holds(toml_fault(&SAMPLE.replace("kitchen-grid", "hero")), "/slots/1/slot: slot \"hero\" stands twice");
    holds(toml_fault("[[offers]]\nid = \"a\""), "/offers/0: offer \"a\": missing field `content`");
    holds(toml_fault("[[offers]\n"), "line 1");
    holds(Catalog::from_json("{\"offers\": [").expect_err("cut off").to_string(), "line 1 column 12");
}

#[test]
fn all_faults_are_told_at_once() {
    let faults = faults(|document| {
        set(document, "/offers/0/value", "much".into());
        set(document, "/offers/1/caps/0/most", 0.into());
        set(document, "/slots/0/cuont", 3.into());
    });
    let places: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(places, ["/offers/0/value", "/offers/1/caps/0/most", "/slots/0/cuont"]);
}

#[test]
fn everything_is_resolved() {
    let catalog = Catalog::from_json(WHOLE).expect("a good catalogue");
    let water = &catalog.offers[catalog.offer("water-kit").expect("an offer")];
    assert_eq!((water.lever, water.price), (Decimal(1_250_000), Some(Decimal(49_900_000))));
    assert_eq!(water.valid.until, Some(Timestamp::parse("2026-07-01T00:00:00Z").expect("an instant")));
    assert_eq!(water.campaign.map(|campaign| catalog.campaigns[campaign].id.as_str()), Some("spring"));
    assert_eq!(water.audiences.iter().map(|of| catalog.audiences[*of].name.as_str()).collect::<Vec<_>>(), ["vip"]);
    assert_eq!(water.features[1], ("margin".into(), Feature::Number(0.35)));
    assert_eq!(water.field("features.colour").flatten().expect("a feature").get(), "\"blue\"");
    assert_eq!(water.list("tags").expect("tags"), ["new", "water"]);
    assert_eq!((water.inventory, water.propensity.as_deref()), (Some(120), Some("retail.p_alive")));
    let windows: Vec<_> = water.caps.iter().map(|cap| (cap.per, cap.counts, cap.most, cap.window)).collect();
    assert_eq!(
        windows,
        [
            (Per::Person, Counts::Shown, 3, CapWindow::Sliding(7 * crate::time::DAY_MS)),
            (Per::Household, Counts::Decided, 10, CapWindow::Calendar(Period::Month)),
            (Per::Everyone, Counts::Accepted, 1_000, CapWindow::Lifetime),
        ]
    );
    let suppress = water.suppress.expect("suppression");
    assert_eq!(
        (suppress.after, suppress.whole_category, suppress.for_ms),
        (SuppressAfter::Purchase, true, Some(365 * crate::time::DAY_MS))
    );
    assert_eq!(water.dismissed_for_ms, Some(14 * crate::time::DAY_MS));
    assert_eq!(water.variants.iter().map(|variant| variant.weight).collect::<Vec<_>>(), [3, 1]);
    let (web, email) = (catalog.channel("web").expect("web"), catalog.channel("email").expect("email"));
    let title = |channel, variant| water.content(channel, variant).map(RawValue::get);
    assert_eq!(title(web, Some(1)), Some(r#"{"title":"Water, filtered"}"#));
    assert_eq!(title(email, Some(1)), Some(r#"{"subject":"Your new fridge is thirsty"}"#));
    let quiet = catalog.channels[email].quiet.expect("quiet hours");
    assert_eq!((quiet.from, quiet.until, quiet.whose), (22 * 60, 7 * 60, Whose::Visitor));
    assert_eq!(catalog.channels[email].purpose, "channel:email");
    let holdout = catalog.holdout.as_ref().expect("a hold-out");
    assert_eq!((holdout.part.share, holdout.answers), (Share(50_000), HoldoutAnswer::Nothing));
    assert_eq!(
        catalog.control.as_ref().map(|control| (control.share, control.salt.as_str())),
        Some((Share(12_500), "control"))
    );
    let response = catalog.response.expect("response rates");
    assert_eq!((response.counts, response.prior, response.weight), (Counts::Accepted, 0.01, 50.0));
    assert_eq!(catalog.campaigns[0].holdout.as_ref().map(|part| part.salt.as_str()), Some("spring"));
    // The offer that says so is no candidate on the channel where it shows nothing.
    let letter = &catalog.slots[catalog.slot("newsletter").expect("a slot")];
    assert!(!letter.candidates.contains(&catalog.offer("fridge").expect("an offer")));
    assert_eq!((letter.count, letter.per_category, letter.deadline_ms), (3, Some(1), Some(200)));
    assert!(!letter.arbitration.context && letter.arbitration.value);
    assert_eq!(catalog.slots[0].context_weights[0].offers, [catalog.offer("water-kit").expect("an offer")]);
    assert_eq!(catalog.categories[0].caps.len(), 1);
    // The same text is one condition, wherever it stands.
    assert_eq!(water.eligible, catalog.campaigns[0].eligible);
}

#[test]
fn what_cannot_be_is_refused_with_place_and_mend() {
    let holds = |(pointer, detail): (String, String), place: &str, part: &str| {
        assert_eq!(pointer, place, "{detail}");
        assert!(detail.contains(part), "{detail}");
    };
    holds(
        fault("/offers/0/caps/0/most", 0.into()),
        "/offers/0/caps/0/most",
        "offer \"water-kit\": most is 0; a cap is 1 or more",
    );
    holds(fault("/offers/0/caps/0/window", "7".into()), "/offers/0/caps/0/window", "it is a duration from 1m to 400d");
    holds(fault("/offers/0/caps/0/per", "visitor".into()), "/offers/0/caps/0/per", "it is one of \"person\"");
    holds(
        fault("/offers/0/valid/until", "2026-01-05T00:00:00Z".into()),
        "/offers/0/valid/until",
        "which is not after valid.from",
    );
    holds(
        fault("/offers/0/campaign", "sprnig".into()),
        "/offers/0/campaign",
        "there is no campaign \"sprnig\"; did you mean \"spring\"?",
    );
    holds(
        fault("/offers/0/audiences/0", "regulers".into()),
        "/offers/0/audiences/0",
        "there is no audience \"regulers\"; did you mean \"regulars\"?",
    );
    holds(fault("/holdout/percent", 101.into()), "/holdout/percent", "percent is 101; it is a number from 0 to 100");
    holds(fault("/holdout/percent", (-1).into()), "/holdout/percent", "from 0 to 100");
    holds(fault("/control/percent", 0.00001.into()), "/control/percent", "at most four decimals");
    holds(fault("/response/prior", 2.into()), "/response/prior", "it is a share from 0 to 1");
    holds(fault("/response/weight", 0.into()), "/response/weight", "it is a number above 0");
    holds(fault("/response/counts", "shown".into()), "/response/counts", "it is one of \"clicked\", \"accepted\"");
    holds(fault("/categories/0/name", "bath".into()), "/categories/0/name", "no offer has the category \"bath\"");
    holds(
        fault("/slots/0/channel", "wbe".into()),
        "/slots/0/channel",
        "there is no channel \"wbe\"; did you mean \"web\"?",
    );
    holds(
        fault("/channels/0/quiet/from", "25:00".into()),
        "/channels/0/quiet/from",
        "a time of day from 00:00 to 23:59",
    );
    holds(fault("/channels/0/quiet/from", "07:00".into()), "/channels/0/quiet/until", "it is never quiet");
    holds(fault("/offers/0/propensity", "retail.p".into()), "/offers/0/propensity", "such as \"score:retail.p_alive\"");
    holds(fault("/offers/0/content", serde_json::json!({})), "/offers/0/content", "stands beside channels; keep one");
    holds(fault("/slots/0/count", 1.5.into()), "/slots/0/count", "is 1.5; it is a whole number from 1 to 100");
    holds(
        fault("/slots/0/context_weights/0/tags/0", "watr".into()),
        "/slots/0/context_weights/0/tags/0",
        "did you mean \"water\"?",
    );
    holds(fault("/offers/0/purpose", 7.into()), "/offers/0/purpose", "purpose is not a text");
    holds(
        fault("/offers/2/purpose", "ads".into()),
        "/offers/2/purpose",
        "a transactional offer needs only \"service\"",
    );
    holds(
        fault("/offers/0/eligible", "trait.a ==".into()),
        "/offers/0/eligible",
        "offer \"water-kit\": at character 11: does not parse",
    );
    holds(
        fault("/offers/0/eligible", "offers.fridg.accepted > 0".into()),
        "/offers/0/eligible",
        "at character 1: there is no offer \"fridg\"; did you mean \"fridge\"?",
    );
    holds(
        fault("/audiences/0/condition", "audience('regulars')".into()),
        "/audiences/0/condition",
        "uses itself: vip → regulars → vip; break the circle",
    );
    holds(
        fault("/offers/0/channels", serde_json::json!({"web": {"content": {}}})),
        "/offers/0/channels",
        "has no content for the channel \"email\" of slot \"newsletter\"; add one, write false",
    );
    holds(
        fault("/offers/1/mandatory", true.into()),
        "/offers/3/mandatory",
        "offers \"fridge\" and \"recall\" are mandatory in slot \"hero\", which has room for one",
    );
}

#[test]
fn mandatory_offers_may_stand_beside_each_other_where_conditions_or_times_tell_them_apart() {
    let mut document = whole();
    set(&mut document, "/offers/1/mandatory", true.into());
    let taken = |document: &serde_json::Value| Catalog::from_json(&document.to_string()).is_ok();
    assert!(!taken(&document));
    for (pointer, value) in [
        ("/slots/0/count", serde_json::json!(2)),
        ("/offers/1/enabled", serde_json::json!(false)),
        ("/offers/1/valid", serde_json::json!({"until": "2026-02-01T00:00:00Z"})),
    ] {
        let mut mended = document.clone();
        set(&mut mended, pointer, value);
        assert!(taken(&mended), "{pointer}");
    }
    // One with a condition may hold beside one without.
    set(&mut document, "/offers/1/eligible", "trait.a == 'x'".into());
    assert!(!taken(&document));
    set(&mut document, "/offers/3/eligible", "trait.a == 'x'".into());
    assert!(!taken(&document));
    set(&mut document, "/offers/3/eligible", "trait.a == 'y'".into());
    assert!(taken(&document));
}

/// The blocks of a language in a page.
fn blocks<'d>(page: &'d str, language: &str) -> impl Iterator<Item = &'d str> {
    let opening = format!("```{language}\n");
    page.split("\n```\n").filter_map(move |part| Some(part.split_once(&opening)?.1))
}

#[test]
fn what_the_pages_show_is_taken() {
    let page = include_str!("../../../../docs/catalog.md");
    let document: String = blocks(page, "toml").map(|block| format!("{block}\n")).collect();
    let catalog = Catalog::from_toml(&document).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((catalog.offers.len(), catalog.slots.len(), catalog.audiences.len()), (7, 3, 2));
    let conditions: Vec<&str> = blocks(page, "cel").flat_map(str::lines).collect();
    assert!(conditions.len() > 5);
    for condition in conditions {
        crate::condition::Expression::parse(condition).unwrap_or_else(|fault| panic!("{condition}: {fault}"));
    }
    let decisions = include_str!("../../../../docs/decisions.md");
    let document: String = blocks(decisions, "toml").map(|block| format!("{block}\n")).collect();
    Catalog::from_toml(&document).unwrap_or_else(|error| panic!("{error}"));
}
