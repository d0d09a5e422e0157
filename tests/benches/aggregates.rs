//! What aggregates cost: one event that updates twenty of them, and a hundred of them read into a plugin's columns. Each with the number of
//! allocations beside it.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use selvedge_core::aggregate::{Contribution, Definition, Definitions};
use selvedge_core::columns::Keys;
use selvedge_core::config::Config;
use selvedge_core::event::{Event, EventKind};
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::lower::VisitorReads;
use selvedge_core::read::Read;
use selvedge_core::time::{BusinessTime, DAY_MS};
use selvedge_core::traits::TraitSources;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_core::view::{NO_ENTITIES, Schema, Subject};
use selvedge_plugin_host::{Component, Engine, EngineConfig, PluginSet};

fn allocations<T>(what: &str, work: impl FnOnce() -> T) {
    let counted = allocation_counter::measure(|| drop(black_box(work())));
    println!("{what}: {} allocations, {} bytes", counted.count_total, counted.bytes_total);
}

const NOW: i64 = 1_767_607_200_000;

fn bought(index: i64) -> Event {
    let at = Timestamp(NOW - (400 - index) * DAY_MS / 2);
    let payload = format!(
        r#"{{"properties":{{"product_id":"P{}","category":"c{}","price":{}.95,"quantity":2}}}}"#,
        index % 37,
        index % 7,
        index % 90
    );
    Event {
        kind: EventKind::Track,
        name: "Product Bought".into(),
        message_id: format!("m-{index}").into(),
        at,
        received_at: at,
        claimed: false,
        payload: payload.into(),
    }
}

fn event(criterion: &mut Criterion) {
    let engine = Engine::new(EngineConfig::default()).expect("an engine");
    let wasm = selvedge_tests::test_guest("twenty");
    let component = Component::load(&engine, "twenty", &wasm, "").expect("a good component");
    let time = BusinessTime::new("Europe/London").expect("a zone");
    let set = PluginSet::resolve(engine, vec![component], time).expect("a good plugin");
    let definitions = &set.schema().definitions;
    let mut fragment = Fragment::empty(definitions);
    let mut failed = |observed| panic!("{observed:?}");
    for index in 0..100 {
        let event = bought(index);
        let effects = set.observe(&event, &mut failed).expect("a good event");
        assert_eq!(effects.contributions.len(), 20);
        let _ = fragment.apply_event(definitions, &EventRef::from(&event), &effects);
    }
    let next = bought(101);
    let effects = set.observe(&next, &mut failed).expect("a good event");
    let reference = EventRef::from(&next);
    criterion.bench_function("event/twenty aggregates, observed in a fresh instance and folded", |bencher| {
        bencher.iter_batched_ref(
            || fragment.clone(),
            |fragment| {
                let effects = set.observe(&next, &mut |observed| panic!("{observed:?}")).expect("a good event");
                fragment.apply_event(definitions, &reference, &effects)
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("event/twenty aggregates, folded alone", |bencher| {
        bencher.iter_batched_ref(
            || fragment.clone(),
            |fragment| fragment.apply_event(definitions, &reference, &effects),
            BatchSize::SmallInput,
        );
    });
    allocations("event/observed", || set.observe(&next, &mut |observed| panic!("{observed:?}")));
    let mut again = fragment.clone();
    allocations("event/folded", || again.apply_event(definitions, &reference, &effects));
}

/// A hundred readings as a decision's plugin wants them: counts and sums in several windows, and single values of the lifetime.
fn hundred() -> (Definitions, Vec<Read>) {
    let windows: Vec<String> =
        ["lifetime", "1h", "24h", "7d", "30d", "90d", "365d", "mtd", "ytd"].map(Into::into).into();
    let lifetime = ["lifetime".to_owned()];
    let mut all = Vec::new();
    let mut define = |name: String, operator: &str, parameters: &[(&str, String)], windows: &[String], kind: Kind| {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        all.push(Definition::parse(&name, operator, &parameters, windows, kind, None).expect("a good definition"));
    };
    for index in 0..4 {
        define(format!("count{index}"), "count", &[], &windows, Kind::Integer);
        define(format!("sum{index}"), "sum", &[], &windows, Kind::Decimal);
    }
    for index in 0..4 {
        for operator in ["min", "max", "mean", "last"] {
            define(format!("{operator}{index}"), operator, &[], &lifetime, Kind::Decimal);
        }
        define(format!("distinct{index}"), "distinct", &[], &lifetime, Kind::Integer);
        define(format!("days{index}"), "distinct-days", &[], &lifetime, Kind::Integer);
        let parameters = [("of", format!("sum{index}")), ("per", format!("count{index}"))];
        define(format!("ratio{index}"), "ratio", &parameters, &lifetime, Kind::Decimal);
    }
    let mut definitions = Definitions::new(BusinessTime::new("Europe/London").expect("a zone"));
    definitions.add("b", &all, None).expect("good definitions");
    let reads = definitions.readings().iter().map(|reading| Read {
        path: format!("agg:{}", reading.name),
        kind: reading.kind,
        choices: Vec::new(),
    });
    let reads = reads.collect();
    (definitions, reads)
}

fn read(criterion: &mut Criterion) {
    let (definitions, reads) = hundred();
    assert_eq!(reads.len(), 100);
    let stored = definitions.empty_states().len() as u16;
    let mut fragment = Fragment::empty(&definitions);
    for index in 0_i64..50 {
        let at = Timestamp(NOW - (50 - index) * 7 * DAY_MS);
        let event = EventRef { at, id_hash: [index as u8; 16], received_at: at };
        let contribution =
            |state| Contribution { state, key: format!("k{}", index % 9).into(), value: index * 1_000_000 };
        let contributions: Vec<_> = (0..stored).map(contribution).collect();
        definitions.apply(&mut fragment.states, &contributions, event.at, &event.id_hash, true);
    }
    let schema = Schema { definitions, scores: Vec::new() };
    let reads = VisitorReads::resolve(&reads, &schema, &Config::default()).expect("good reads");
    let sources = TraitSources::default();
    let moment = fragment.moment(&schema.definitions, &sources, Timestamp(NOW));
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
    criterion.bench_function("read/a hundred aggregates into columns", |bencher| {
        bencher.iter(|| reads.lower(&subject, &schema.definitions, &mut Keys::default()));
    });
    criterion.bench_function("read/the calendars around an instant", |bencher| {
        bencher.iter(|| fragment.moment(&schema.definitions, &sources, Timestamp(NOW)));
    });
    allocations("read/a hundred aggregates", || reads.lower(&subject, &schema.definitions, &mut Keys::default()));
}

/// Prints the bytes of every stored operator, on disk and in memory, after so many events over a year, without windows and with.
fn cost(_: &mut Criterion) {
    const EVENTS: [i64; 3] = [10, 100, 1000];
    type Stored = (&'static str, &'static [(&'static str, &'static str)], Kind);
    let operators: [Stored; 22] = [
        ("count", &[], Kind::Integer),
        ("sum", &[], Kind::Decimal),
        ("mean", &[], Kind::Decimal),
        ("variance", &[], Kind::Decimal),
        ("min", &[], Kind::Decimal),
        ("first", &[], Kind::Decimal),
        ("last-k", &[("count", "10")], Kind::Decimal),
        ("distinct", &[], Kind::Integer),
        ("distinct-days", &[], Kind::Integer),
        ("unique", &[("count", "10")], Kind::Key),
        ("histogram", &[("bounds", "10 20 40 80")], Kind::Decimal),
        ("quantile", &[("q", "0.5")], Kind::Decimal),
        ("sum-by-key", &[], Kind::Decimal),
        ("count-by-key", &[], Kind::Integer),
        ("mean-by-key", &[], Kind::Decimal),
        ("max-by-key", &[], Kind::Decimal),
        ("last-by-key", &[], Kind::Decimal),
        ("quantile-by-key", &[("q", "0.5")], Kind::Decimal),
        ("variance-by-key", &[], Kind::Decimal),
        ("decayed-sum", &[("half-life", "30d")], Kind::Number),
        ("decayed-sum-by-key", &[("half-life", "30d")], Kind::Number),
        ("sessions", &[], Kind::Integer),
    ];
    println!("bytes on disk (in memory) after 10, 100 and 1,000 events over a year, twenty keys");
    for (operator, parameters, kind) in operators {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let mut line = format!("{operator:>20}:");
        for windows in [vec!["lifetime".to_owned()], vec!["lifetime".to_owned(), "30d".to_owned(), "365d".to_owned()]] {
            let Ok(definition) = Definition::parse("a", operator, &parameters, &windows, kind, None) else { continue };
            let mut definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
            definitions.add("c", &[definition], None).expect("a good definition");
            line.push_str(if windows.len() == 1 { " lifetime" } else { "; with 30d and 365d" });
            for events in EVENTS {
                let mut states = definitions.empty_states();
                for index in 0..events {
                    let key = if operator == "decayed-sum" { String::new() } else { format!("K-{}", 100 + index % 20) };
                    let value = (1 + index % 97) * 990_000;
                    let contribution = Contribution { state: 0, key: key.into(), value };
                    let at = Timestamp(NOW - (events - index) * 365 * DAY_MS / events);
                    definitions.apply(&mut states, &[contribution], at, &[index as u8; 16], true);
                }
                let disk = postcard::to_allocvec(&states).expect("encode").len() - 1;
                line.push_str(&format!(" {disk} ({})", states[0].weight() + size_of_val(&states[0])));
            }
        }
        println!("{line}");
    }
}

criterion_group!(benches, cost, event, read);
criterion_main!(benches);
