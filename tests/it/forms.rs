//! A plugin as its core module, as it is called mostly, and as the component that it is: both must answer alike.

use selvedge_core::catalog::Catalog;
use selvedge_core::event::Event;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::Namespaces;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::Timestamp;
use selvedge_core::view::{NO_ENTITIES, Subject};
use selvedge_plugin_host::{CatalogReads, Component, Engine, EngineConfig, Invocation, PluginSet};
use selvedge_tests::{plugins, shop};
use serde_json::json;

/// 2026-01-05T10:00:00Z.
const NOON: Timestamp = Timestamp(1_767_607_200_000);

/// A core module with nothing but a memory, in a section of a component: with it a component is more than one module in its wrapping.
const ANOTHER: [u8; 15] = [1, 13, 0, b'a', b's', b'm', 1, 0, 0, 0, 5, 3, 1, 0, 0];

fn set(name: &str, another: bool) -> PluginSet {
    let mut wasm = std::fs::read(plugins().join(format!("{name}.wasm"))).unwrap();
    if another {
        wasm.extend(ANOTHER);
    }
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let config = std::fs::read_to_string(plugins().join(format!("{name}.toml"))).unwrap_or_default();
    let component = Component::load(&engine, name, &wasm, &config).unwrap();
    assert_eq!(component.is_called_as_module(), !another, "{name}");
    PluginSet::resolve(engine, vec![component], BusinessTime::new("UTC").unwrap()).unwrap()
}

fn order(products: usize) -> String {
    let product = |index| json!({"product_id": format!("p-{}", index % 7), "category": "kitchen", "price": 2.55, "quantity": 1 + index % 3});
    let products: Vec<_> = (0..products).map(product).collect();
    json!({"type": "track", "event": "Order Completed", "userId": "1", "messageId": format!("m-{}", products.len()), "timestamp": "2026-01-05T10:00:00Z",
        "properties": {"order_id": "o", "currency": "GBP", "store": "Leeds", "products": products}})
    .to_string()
}

#[test]
fn a_plugin_answers_alike_in_both_forms() {
    let (module, component) = (set("retail", false), set("retail", true));
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
    let definitions = &module.schema().definitions;
    let mut fragment = Fragment::empty(definitions);
    // None, a few, and so many that the guest must ask for more memory.
    for products in [0, 1, 40, 1_000] {
        let event = Event::parse(&order(products), &receipt, &mut Default::default).unwrap().event;
        let [one, other] = [&module, &component].map(|set| set.observe(&event, &mut |_| {}));
        assert_eq!(one, other, "{products} products");
        let _ = fragment.apply_event(definitions, &EventRef::from(&event), &one.unwrap());
    }
    let catalog = std::fs::read_to_string(shop()).unwrap();
    let catalog = Catalog::from_toml(&catalog).unwrap();
    let moment = definitions.moment(NOON, |_| None);
    let trait_sources = TraitSources::default();
    let blank = Subject {
        fragment: &fragment,
        entities: &NO_ENTITIES,
        trait_sources: &trait_sources,
        scores: &[],
        context: None,
        channel: "web",
        moment: &moment,
        seed: 7,
    };
    let answers = [&module, &component].map(|set| {
        let mut invocation = Invocation::new(set);
        let failed = &mut |_, error| panic!("the call must succeed: {error}");
        let scores = invocation.score(set.score_order(), &blank, failed);
        assert!(scores.iter().flatten().count() > 0);
        let reads = CatalogReads::resolve(set, &catalog).unwrap();
        let candidates: Vec<usize> = (0..catalog.offers.len()).collect();
        let ranked = invocation.rank(0, &reads, &candidates, None, &Subject { scores: &scores, ..blank }).unwrap();
        (scores, ranked)
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_plugin_that_its_configuration_makes_is_called_as_its_module_too() {
    let (module, component) = (set("aggregates", false), set("aggregates", true));
    assert_eq!(module.schema().definitions.readings().len(), component.schema().definitions.readings().len());
}
