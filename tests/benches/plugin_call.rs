//! What one isolated call of a plugin costs: a fresh store and instance, the call, and the drop, beside the same call on an instance
//! that is reused (which the host never does across requests). And what an event costs that counts for twenty aggregates which are
//! defined without code (`plugins/aggregates/examples/shop.toml`), from its JSON to its contributions, in a fresh instance.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use selvedge_core::event::Event;
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::Namespaces;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::Timestamp;
use selvedge_core::view::{NO_ENTITIES, Subject};
use selvedge_plugin_host::{Component, Engine, EngineConfig, Invocation, PluginSet};

fn plugins(name: &str, wasm: &[u8], config: &str) -> PluginSet {
    let engine = Engine::new(EngineConfig::default()).expect("an engine");
    let component = Component::load(&engine, name, wasm, config).expect("a good component");
    PluginSet::resolve(engine, vec![component], BusinessTime::new("UTC").expect("UTC")).expect("a good plugin")
}

fn noop(criterion: &mut Criterion) {
    let set = plugins("noop", &selvedge_tests::test_guest("noop"), "");
    let definitions = &set.schema().definitions;
    let fragment = Fragment::empty(definitions);
    let moment = definitions.moment(Timestamp(1_767_607_200_000), |_| None);
    let trait_sources = TraitSources::default();
    let subject = Subject {
        fragment: &fragment,
        entities: &NO_ENTITIES,
        trait_sources: &trait_sources,
        scores: &[],
        context: None,
        channel: "web",
        moment: &moment,
        seed: 1,
    };
    let mut failed = |_, error| panic!("the call must succeed: {error}");
    criterion.bench_function("noop/fresh instance, call, drop", |bencher| {
        bencher.iter(|| Invocation::new(&set).score(set.score_order(), &subject, &mut failed));
    });
    criterion.bench_function("noop/reused instance", |bencher| {
        // The second call of an instance: a guest never frees, so one instance cannot serve a whole bench.
        let used = || {
            let mut invocation = Invocation::new(&set);
            invocation.score(set.score_order(), &subject, &mut |_, error| panic!("the call must succeed: {error}"));
            invocation
        };
        bencher.iter_batched_ref(
            used,
            |again| again.score(set.score_order(), &subject, &mut failed),
            BatchSize::NumIterations(64),
        );
    });
}

/// An order that counts for each of the twenty aggregates.
const ORDER: &str = r#"{"type": "track", "event": "Order Completed", "userId": "17850", "messageId": "m-1",
    "timestamp": "2026-01-05T10:00:00Z", "context": {"app": "shop"},
    "properties": {"order_id": "o-1", "total": 119.9, "tax": 19.14, "discount": 5, "currency": "EUR", "channel": "app",
        "payment": "card", "coupon": "NEW10", "campaign": "spring-26", "gift": true, "products": [
        {"product_id": "22423", "category": "kitchen", "price": 12.75, "quantity": 2},
        {"product_id": "85123A", "category": "decoration", "price": 2.55, "quantity": 6},
        {"product_id": "47566", "category": "party", "price": 79.1, "quantity": 1}]}}"#;

fn aggregates(criterion: &mut Criterion) {
    let plugin = selvedge_tests::root().join("plugins/aggregates/examples/shop.toml");
    let definitions = std::fs::read_to_string(plugin).expect("the example");
    let wasm = std::fs::read(selvedge_tests::plugins().join("aggregates.wasm")).expect("the compiled plugin");
    let set = plugins("aggregates", &wasm, &definitions);
    let namespaces = Namespaces::default();
    let receipt = Receipt {
        received_at: Timestamp(1_767_607_200_000),
        sent_at: None,
        speaker: Speaker::Server,
        kind: None,
        user_id: None,
        anonymous_id: None,
        context: None,
        namespaces: &namespaces,
    };
    let event = Event::parse(ORDER, &receipt, &mut Default::default).expect("a good event").event;
    let mut failed = |observed| panic!("the call must succeed: {observed:?}");
    let effects = set.observe(&event, &mut failed).expect("a good event");
    let mut counted: Vec<u16> = effects.contributions.iter().map(|contribution| contribution.state).collect();
    counted.sort_unstable();
    counted.dedup();
    assert_eq!((counted.len(), effects.contributions.len()), (20, 26), "{effects:?}");
    criterion.bench_function("aggregates/20 of one event, fresh instance", |bencher| {
        bencher.iter(|| set.observe(&event, &mut failed).expect("a good event"));
    });
}

criterion_group!(benches, noop, aggregates);
criterion_main!(benches);
