//! What one isolated call of a plugin costs: a fresh store and instance, the call, and the drop, beside the same call on an instance
//! that is reused (which the host never does across requests).

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use selvedge_core::fragment::Fragment;
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::Timestamp;
use selvedge_core::view::{NO_ENTITIES, Subject};
use selvedge_plugin_host::{Component, Engine, EngineConfig, Invocation, PluginSet};

fn plugins(name: &str, config: &str) -> PluginSet {
    let engine = Engine::new(EngineConfig::default()).expect("an engine");
    let component =
        Component::load(&engine, name, &selvedge_tests::test_guest(name), config).expect("a good component");
    PluginSet::resolve(engine, vec![component], BusinessTime::new("UTC").expect("UTC")).expect("a good plugin")
}

fn noop(criterion: &mut Criterion) {
    let set = plugins("noop", "");
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

criterion_group!(benches, noop);
criterion_main!(benches);
