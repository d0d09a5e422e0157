//! What a guest's memory holds after it was called, and what is told of a call.

use selvedge_core::catalog::Catalog;
use selvedge_core::event::Event;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::Namespaces;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::Timestamp;
use selvedge_core::view::NO_ENTITIES;

use super::*;
use crate::component::Component;
use crate::engine::{Engine, EngineConfig};

/// 2026-01-05T10:00:00Z.
const NOON: Timestamp = Timestamp(1_767_607_200_000);
/// Fuel of the retail plugin's stages for what is asked below, within a twentieth.
const SCORE_COSTS: u64 = 5_975;
const RANK_COSTS: u64 = 1_877;
/// Stands in whatever the plugin does not declare to read.
const MARKER: &str = "marker-that-nobody-declared";
const CATALOG: &str = r#"
[[offers]]
id = "kettle"
name = "marker-that-nobody-declared"
category = "kitchen"
value = 31.25
product_ids = ["K-100"]
content = { title = "marker-that-nobody-declared" }

[[offers]]
id = "rose"
category = "garden"
value = 2
content = {}

[[slots]]
slot = "hero"
fallback = "rose"
"#;

fn retail() -> PluginSet {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins/retail");
    let read = |end: &str| std::fs::read(format!("{folder}.{end}")).expect("run `cargo xtask plugins` first");
    let engine = Engine::new(EngineConfig::default()).expect("an engine");
    let config = String::from_utf8(read("toml")).expect("a text");
    let component = Component::load(&engine, "retail", &read("wasm"), &config).expect("a good plugin");
    PluginSet::resolve(engine, vec![component], BusinessTime::new("UTC").expect("UTC")).expect("a good set")
}

fn order() -> Event {
    let text = format!(
        r#"{{"type": "track", "event": "Order Completed", "userId": "ada", "messageId": "m-1", "timestamp": "2026-01-05T10:00:00Z",
            "properties": {{"order_id": "o-1", "total": 40.5, "coupon": "{MARKER}", "products": [
                {{"product_id": "K-100", "name": "{MARKER}", "category": "kitchen", "price": 13.5, "quantity": 3}}]}},
            "context": {{"ip": "{MARKER}", "traits": {{"email": "{MARKER}"}}}}}}"#
    );
    let namespaces = Namespaces::default();
    let receipt = Receipt {
        received_at: NOON,
        sent_at: None,
        speaker: Speaker::Server,
        kind: None,
        user_id: None,
        anonymous_id: None,
        context: None,
        namespaces: &namespaces,
    };
    Event::parse(&text, &receipt, &mut Default::default).expect("a good event").event
}

/// Whether a guest's memory holds some bytes.
fn holds(guest: &Guest<'_>, bytes: &[u8]) -> bool {
    let memory = guest.memory().expect("it is called as a core module");
    memory.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn what_was_not_declared_never_enters_a_guests_memory() {
    let (set, event) = (retail(), order());
    let (plugin, definitions) = (&set.plugins[0], &set.schema.definitions);

    // The event: what it cost is there, what nobody declared is not.
    let (mut keys, time) = (Keys::default(), definitions.time());
    let (columns, _) = plugin.event_reads.lower(&event, time, &mut keys, true).expect("columns");
    let mut guest = Guest::new(&set.engine, plugin).expect("an instance");
    guest.observe(OBSERVE_FUEL, &columns).expect("contributions");
    assert!(holds(&guest, &40_500_000_i64.to_le_bytes()) && !holds(&guest, MARKER.as_bytes()));

    // The visitor and the offers.
    let mut fragment = Fragment::empty(definitions);
    let effects = set.observe(&event, &mut |_| {}).expect("effects");
    assert!(effects.traits.iter().any(|(_, value)| value.contains(MARKER)), "it is known, as a trait");
    let _ = fragment.apply_event(definitions, &EventRef::from(&event), &effects);
    let catalog = Catalog::from_toml(CATALOG).expect("a good catalogue");
    let reads = CatalogReads::resolve(&set, &catalog).expect("good reads");
    let sources = TraitSources::default();
    let moment = fragment.moment(definitions, &sources, NOON);
    let subject = Subject {
        fragment: &fragment,
        entities: &NO_ENTITIES,
        trait_sources: &sources,
        scores: &[],
        context: None,
        channel: MARKER,
        moment: &moment,
        seed: 1,
    };
    let mut invocation = Invocation::new(&set);
    invocation.score(set.score_order(), &subject, &mut |_, error| panic!("{error}"));
    invocation.rank(0, &reads, &[0, 1], None, &subject).expect("a ranking");
    let Slot::Ready(guest) = &invocation.guests[0] else { panic!("no instance") };
    assert!(holds(guest, &31.25_f64.to_le_bytes()) && !holds(guest, MARKER.as_bytes()));
    assert!(invocation.told().is_empty(), "nobody asks");
}

#[test]
fn a_call_tells_what_it_was_given_and_what_it_took() {
    let (set, event) = (retail(), order());
    let definitions = &set.schema.definitions;
    let mut fragment = Fragment::empty(definitions);
    let effects = set.observe(&event, &mut |_| {}).expect("effects");
    let _ = fragment.apply_event(definitions, &EventRef::from(&event), &effects);
    let catalog = Catalog::from_toml(CATALOG).expect("a good catalogue");
    let reads = CatalogReads::resolve(&set, &catalog).expect("good reads");
    let sources = TraitSources::default();
    let moment = fragment.moment(definitions, &sources, NOON);
    let subject = Subject {
        fragment: &fragment,
        entities: &NO_ENTITIES,
        trait_sources: &sources,
        scores: &[],
        context: None,
        channel: "web",
        moment: &moment,
        seed: 1,
    };
    let score = |invocation: &mut Invocation<'_>| {
        invocation.score(set.score_order(), &subject, &mut |_, error| panic!("{error}"))
    };
    // Scores may stand beside the columns by then; they are worked out anew all the same.
    let kept = score(&mut Invocation::new(&set));
    let told = || {
        let mut invocation = Invocation::telling(&set);
        assert_eq!(score(&mut invocation), kept);
        invocation.rank(0, &reads, &[0, 1], None, &subject).expect("a ranking");
        invocation.told()
    };
    let first = told();
    assert_eq!(first, told(), "fuel is the same each time");
    let [score, rank] = first.as_slice() else { panic!("{first:?}") };
    for (stage, fuel, held) in [("score", score.fuel, SCORE_COSTS), ("rank", rank.fuel, RANK_COSTS)] {
        assert!(
            fuel.abs_diff(held) * 20 <= held,
            "{stage} takes {fuel}, {held} is written down; write it down if it is meant"
        );
    }
    assert_eq!((score.stage, score.failed, rank.stage, rank.failed), ("score", None, "rank", None));
    assert!((1..SCORE_FUEL).contains(&score.fuel) && (1..RANK_FUEL).contains(&rank.fuel), "{first:?}");
    assert_eq!(score.scores, kept);
    for part in [r#""agg:retail.gross_revenue":40.5"#, r#""now":"2026-01-05""#, r#""config:alpha":4.414"#] {
        assert!(score.given.contains(part), "{} has no {part}", score.given);
    }
    assert_eq!(rank.given, "{}");
    assert_eq!((rank.offers.0.as_slice(), rank.offers.1.iter().count()), (&[0, 1][..], 2));
    let kettle = rank.offers.1.iter().next().expect("the first");
    assert!(kettle.contains(r#""offer:value":31.25"#), "{kettle}");
    assert!(kettle.contains(r#""agg:retail.units_kept[offer:product_ids]":3"#), "{kettle}");
}
