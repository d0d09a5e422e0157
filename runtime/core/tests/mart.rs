//! Loads and events in any order, against a naive reference that has all events and the mart's truth.

use std::collections::BTreeMap;

use proptest::prelude::*;
use selvedge_core::aggregate::{Contribution, Definition, Definitions, Exactness, Off, Value};
use selvedge_core::effects::Effects;
use selvedge_core::fragment::{Bounds, EventRef, Folded, Fragment};
use selvedge_core::mart::{Arriving, Load};
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::{Kind, Timestamp};
use serde_json::value::RawValue;

const HOUR: i64 = 3_600_000;
/// 2026-01-05T00:00:00Z.
const BEGIN: i64 = 1_767_571_200_000;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// (name, operator, kind)
const SPECS: [(&str, &str, Kind); 8] = [
    ("orders", "count", Kind::Integer),
    ("revenue", "sum", Kind::Decimal),
    ("least", "min", Kind::Integer),
    ("most", "max", Kind::Integer),
    ("opened", "first", Kind::Integer),
    ("latest", "last", Kind::Integer),
    ("units", "sum-by-key", Kind::Integer),
    ("skus", "distinct", Kind::Integer),
];

fn definitions() -> Definitions {
    let windows = ["lifetime".to_owned(), "24h".to_owned()];
    let mut all: Vec<_> = SPECS
        .iter()
        .map(|(name, operator, kind)| {
            Definition::parse(name, operator, &[], &windows, *kind, None).expect("a good definition")
        })
        .collect();
    let parameters = [("of".to_owned(), "revenue".to_owned()), ("per".to_owned(), "orders".to_owned())];
    all.push(Definition::parse("average", "ratio", &parameters, &[], Kind::Decimal, None).expect("a good definition"));
    let mut definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
    definitions.add("shop", &all, None).expect("good definitions");
    definitions
}

#[derive(Clone, Debug)]
struct Event {
    at: i64,
    id: u8,
    amount: i64,
    key: usize,
}

impl Event {
    fn fold(&self, definitions: &Definitions, fragment: &mut Fragment) -> Folded {
        let contribution = |(name, key): (&str, &str)| Contribution {
            state: definitions.lifetime_state(&format!("shop.{name}")).expect("a state"),
            key: key.into(),
            value: self.amount,
        };
        let names =
            SPECS.iter().map(|(name, ..)| (*name, if matches!(*name, "units" | "skus") { KEYS[self.key] } else { "" }));
        let effects = Effects { contributions: names.map(contribution).collect(), ..Effects::default() };
        fragment.apply_event(
            definitions,
            &EventRef { at: Timestamp(self.at), id_hash: [self.id; 16], received_at: Timestamp(self.at) },
            &effects,
        )
    }
}

/// What a mart says: of some events that nobody else may know.
#[derive(Clone, Debug)]
struct Told {
    source: usize,
    block: usize,
    as_of: i64,
    gives: Vec<bool>,
    base: i64,
    trait_value: Option<u8>,
}

const SOURCES: [&str; 2] = ["crm", "erp"];
const BLOCKS: [&str; 2] = ["core", "orders"];

impl Told {
    fn load(&self, definitions: &Definitions) -> Load {
        let at = Timestamp(BEGIN - HOUR).to_string();
        let json = |index: usize| match SPECS[index].0 {
            "opened" | "latest" => format!(r#"{{"value": {}, "at": "{at}"}}"#, self.base),
            "units" => format!(r#"[{{"key": "a", "weight": {}}}]"#, self.base),
            "orders" => self.base.abs().to_string(),
            "skus" => r#"["a", "z"]"#.to_owned(),
            _ => self.base.to_string(),
        };
        let raw = |text: String| RawValue::from_string(text).expect("JSON");
        let given: Vec<_> = (0..SPECS.len())
            .filter(|index| self.gives[*index])
            .map(|index| (format!("shop.{}", SPECS[index].0).into(), raw(json(index))))
            .collect();
        let aggregates: Vec<_> = given.iter().map(|(name, value)| (compact(name), &**value)).collect();
        let word = self.trait_value.map(|value| raw(value.to_string()));
        let traits: Vec<_> = word.iter().map(|value| ("tier".into(), &**value)).collect();
        Load::parse(
            definitions,
            &Arriving {
                source: SOURCES[self.source],
                block: BLOCKS[self.block],
                as_of: Timestamp(self.as_of),
                id: "",
                traits: &traits,
                aggregates: &aggregates,
            },
        )
        .expect("a good load")
    }
}

fn compact(name: &compact_str::CompactString) -> compact_str::CompactString {
    name.clone()
}

#[derive(Clone, Debug)]
enum Step {
    Event(Event),
    Load(Told),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = (0..60_i64, any::<u8>(), -50..50_i64, 0..3_usize)
        .prop_map(|(hour, id, amount, key)| Step::Event(Event { at: BEGIN + hour * HOUR, id, amount, key }));
    let gives = proptest::collection::vec(any::<bool>(), SPECS.len());
    let load = (0..2_usize, 0..2_usize, 0..60_i64, gives, -99..99_i64, proptest::option::of(0..9_u8)).prop_map(
        |(source, block, hour, gives, base, trait_value)| {
            Step::Load(Told { source, block, as_of: BEGIN + hour * HOUR, gives, base, trait_value })
        },
    );
    let unique = |steps: Vec<Step>| {
        let mut ids = std::collections::BTreeSet::new();
        let keep = |step: &Step| match step {
            Step::Event(event) => ids.insert(event.id),
            Step::Load(_) => true,
        };
        steps
            .into_iter()
            .filter({
                let mut keep = keep;
                move |step| keep(step)
            })
            .collect()
    };
    proptest::collection::vec(prop_oneof![3 => event, 1 => load], 1..40).prop_map(unique)
}

/// A fold from nothing: loads first, then events by time.
fn afresh(definitions: &Definitions, steps: &[Step]) -> Fragment {
    let mut fragment = Fragment::empty(definitions);
    for step in steps {
        if let Step::Load(told) = step {
            assert_eq!(fragment.apply_load(definitions, &told.load(definitions)), Folded::Counted);
        }
    }
    let mut events: Vec<&Event> =
        steps.iter().filter_map(|step| if let Step::Event(event) = step { Some(event) } else { None }).collect();
    events.sort_by_key(|event| (event.at, event.id));
    events.into_iter().for_each(|event| assert_eq!(event.fold(definitions, &mut fragment), Folded::Counted));
    fragment
}

/// A fold in the order of arrival, with a fold from nothing wherever that is asked for. Gives how often it was.
fn as_it_comes(definitions: &Definitions, steps: &[Step]) -> (Fragment, usize) {
    let (mut fragment, mut again) = (Fragment::empty(definitions), 0);
    for (index, step) in steps.iter().enumerate() {
        let folded = match step {
            Step::Event(event) => event.fold(definitions, &mut fragment),
            Step::Load(told) => fragment.apply_load(definitions, &told.load(definitions)),
        };
        if folded == Folded::Refold {
            fragment = afresh(definitions, &steps[..=index]);
            again += 1;
        }
    }
    (fragment, again)
}

/// Which load gives an aggregate: of each block the newest, of these the newest that has it.
fn giver<'s>(definitions: &Definitions, steps: &'s [Step], spec: usize) -> Option<&'s Told> {
    let mut newest: BTreeMap<(usize, usize), &Told> = BTreeMap::new();
    for step in steps {
        let Step::Load(told) = step else { continue };
        let held = newest.entry((told.source, told.block)).or_insert(told);
        let rank = |told: &Told| (told.as_of, told.load(definitions).hash());
        if rank(told) > rank(held) {
            *held = told;
        }
    }
    let having = newest.into_values().filter(|told| told.gives[spec]);
    having.max_by_key(|told| (told.as_of, told.load(definitions).hash(), SOURCES[told.source], BLOCKS[told.block]))
}

/// The value of an aggregate: of the given base, if any, and events.
fn naive(spec: usize, told: Option<&Told>, events: &[&Event]) -> Value {
    let base = told.map(|told| told.base);
    let amounts = || events.iter().map(|event| event.amount);
    let whole = |value: Option<i64>| value.map_or(Value::Absent, |value| Value::Integer(value.into()));
    let of_place = |place: Option<i64>| {
        let place = place?;
        Some(events.iter().filter(|event| event.at == place).map(|event| event.amount).sum::<i64>())
    };
    match SPECS[spec].0 {
        "orders" => Value::Integer(i128::from(base.unwrap_or(0).abs()) + events.len() as i128),
        "revenue" => Value::Decimal(i128::from(base.unwrap_or(0)) * 1_000_000 + i128::from(amounts().sum::<i64>())),
        "least" => whole(amounts().chain(base).min()),
        "most" => whole(amounts().chain(base).max()),
        "opened" => whole(base.or_else(|| of_place(events.iter().map(|event| event.at).min()))),
        "latest" => whole(of_place(events.iter().map(|event| event.at).max()).or(base)),
        "skus" => {
            let mut keys: std::collections::BTreeSet<&str> = events.iter().map(|event| KEYS[event.key]).collect();
            keys.extend(base.iter().flat_map(|_| ["a", "z"]));
            Value::Integer(keys.len() as i128)
        }
        _ => {
            let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
            sums.extend(base.map(|base| ("a", base)));
            events.iter().for_each(|event| *sums.entry(KEYS[event.key]).or_default() += event.amount);
            let mut sums: Vec<_> = sums.into_iter().map(|(key, sum)| (key.into(), sum)).collect();
            sums.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
            Value::Integers(sums)
        }
    }
}

fn bytes(fragment: &Fragment) -> Vec<u8> {
    postcard::to_allocvec(fragment).expect("bytes")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_order_gives_the_same_bytes_and_the_best_view(steps in steps(), seed in any::<u64>()) {
        let definitions = definitions();
        let (fragment, _) = as_it_comes(&definitions, &steps);
        let mut shuffled = steps.clone();
        let mut state = seed;
        for index in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(index, (state >> 33) as usize % (index + 1));
        }
        let (other, _) = as_it_comes(&definitions, &shuffled);
        prop_assert_eq!(bytes(&fragment), bytes(&other));
        prop_assert_eq!(&fragment, &afresh(&definitions, &steps));
        let read = postcard::from_bytes::<Fragment>(&bytes(&fragment)).expect("a record");
        prop_assert_eq!(&read, &fragment);

        let events: Vec<&Event> =
            steps.iter().filter_map(|step| if let Step::Event(event) = step { Some(event) } else { None }).collect();
        let now = Timestamp(BEGIN + 60 * HOUR);
        let moment = fragment.moment(&definitions, &TraitSources::default(), now);
        for (spec, (name, ..)) in SPECS.iter().enumerate() {
            let told = giver(&definitions, &steps, spec);
            let after = |event: &&&Event| told.is_none_or(|told| event.at > told.as_of);
            let later: Vec<&Event> = events.iter().filter(after).copied().collect();
            let reading = |name: String| &definitions.readings()[definitions.find(&name).expect("a reading")];
            let read = fragment.read(&definitions, reading(format!("shop.{name}")), &moment);
            prop_assert_eq!(&read.value, &naive(spec, told, &later), "{}", name);
            prop_assert_eq!(read.exactness, Exactness::Exact);
            // A window is of the events alone; where the mart knows other ones within it, it says so.
            let within: Vec<&Event> = events.iter().filter(|event| event.at > now.0 - 24 * HOUR).copied().collect();
            let read = fragment.read(&definitions, reading(format!("shop.{name}_24h")), &moment);
            prop_assert_eq!(&read.value, &naive(spec, None, &within), "{} in the window", name);
            let part = fragment.mart.parts().iter().find(|part| part.name == format!("shop.{name}"));
            prop_assert_eq!(part.map(|part| part.as_of.0), told.map(|told| told.as_of));
            let odd = part.is_some_and(|part| !part.agrees() && part.as_of.0 > now.0 - 24 * HOUR);
            let wanted = if odd { Exactness::Off(Off::Unknown) } else { Exactness::Exact };
            prop_assert_eq!(read.exactness, wanted, "{} in the window", name);
            if let (Some(part), Some(told)) = (part, told) {
                let earlier: Vec<&Event> = events.iter().filter(|event| event.at <= told.as_of).copied().collect();
                let live = definitions.total_value(&part.name, &part.live).expect("a value");
                prop_assert_eq!(live, naive(spec, None, &earlier), "{} before the watermark", name);
            }
        }
    }

    #[test]
    fn persons_of_several_fragments_have_the_best_view_of_each(one in steps(), other in steps()) {
        let definitions = definitions();
        let fold = |steps: &[Step]| as_it_comes(&definitions, steps).0;
        let (here, there) = (fold(&one), fold(&other));
        let mut joined = here.clone();
        joined.join(&definitions, &there);
        let mut turned = there.clone();
        turned.join(&definitions, &here);
        let now = Timestamp(BEGIN + 60 * HOUR);
        let value = |fragment: &Fragment, name: &str| {
            let moment = fragment.moment(&definitions, &TraitSources::default(), now);
            let reading = &definitions.readings()[definitions.find(name).expect("a reading")];
            definitions.evaluate(reading, &fragment.states, &moment).value
        };
        let fixed = |value: Value| match value {
            Value::Integer(value) | Value::Decimal(value) => value,
            other => panic!("{other:?}"),
        };
        for name in ["shop.orders", "shop.revenue"] {
            let sum = fixed(value(&here, name)) + fixed(value(&there, name));
            prop_assert_eq!(fixed(value(&joined, name)), sum);
            prop_assert_eq!(fixed(value(&turned, name)), sum);
        }
        for name in ["shop.least", "shop.most", "shop.units"] {
            prop_assert_eq!(value(&joined, name), value(&turned, name));
        }
        prop_assert_eq!(joined.mart.parts().len(), here.mart.parts().len() + there.mart.parts().len());
        // An event of one of them is never held back by what was loaded of the other.
        let event = Event { at: BEGIN - 5 * HOUR, id: 0, amount: 7, key: 0 };
        let before = fixed(value(&joined, "shop.orders"));
        prop_assert_eq!(event.fold(&definitions, &mut joined), Folded::Counted);
        prop_assert_eq!(fixed(value(&joined, "shop.orders")), before + 1);
    }
}

fn told(source: usize, hour: i64, base: i64, trait_value: Option<u8>) -> Told {
    let as_of = BEGIN + hour * HOUR;
    Told { source, block: 0, as_of, gives: vec![true; SPECS.len()], base, trait_value }
}

#[test]
fn an_idle_profile_is_loaded_without_a_fold() {
    let definitions = definitions();
    let event = Step::Event(Event { at: BEGIN, id: 1, amount: 5, key: 0 });
    let idle = [event.clone(), Step::Load(told(0, 1, 10, None)), Step::Load(told(0, 24, 11, None))];
    assert_eq!(as_it_comes(&definitions, &idle).1, 0);
    let active = [event, Step::Load(told(0, -1, 10, None))];
    assert_eq!(as_it_comes(&definitions, &active).1, 1, "an event came after the watermark");
}

#[test]
fn a_newer_load_takes_back_a_trait_that_it_no_longer_has() {
    let definitions = definitions();
    let steps = [Step::Load(told(0, 0, 1, Some(3))), Step::Load(told(1, 0, 1, Some(5)))];
    let crm = TraitSources::new([("tier".to_owned(), vec!["crm".to_owned()])].into());
    let value =
        |steps: &[Step], sources: &TraitSources| as_it_comes(&definitions, steps).0.traits.text("tier", sources);
    assert_eq!(value(&steps, &crm).as_deref(), Some("3"));
    let later = [steps[0].clone(), steps[1].clone(), Step::Load(told(0, 1, 1, None))];
    assert_eq!(value(&later, &crm).as_deref(), Some("5"), "only the other source has it now");
    let late = [later[2].clone(), later[0].clone()];
    assert_eq!(value(&late, &crm), None, "an older load that comes late changes nothing");
}

#[test]
fn a_quotient_of_both_sides_says_that_it_is_none_of_either() {
    let definitions = definitions();
    let mut only_revenue = told(0, 1, 100, None);
    only_revenue.gives = SPECS.iter().map(|(name, ..)| *name == "revenue").collect();
    let steps = [Step::Event(Event { at: BEGIN, id: 1, amount: 5_000_000, key: 0 }), Step::Load(only_revenue)];
    let fragment = as_it_comes(&definitions, &steps).0;
    let moment = fragment.moment(&definitions, &TraitSources::default(), Timestamp(BEGIN + 2 * HOUR));
    let average = &definitions.readings()[definitions.find("shop.average").expect("a reading")];
    let read = fragment.read(&definitions, average, &moment);
    assert_eq!(read.exactness, Exactness::Off(Off::Unknown));
    // With both sides given, it is exact.
    let both = [steps[0].clone(), Step::Load(told(0, 1, 100, None))];
    let fragment = as_it_comes(&definitions, &both).0;
    let read = fragment.read(&definitions, average, &moment);
    assert_eq!((read.value, read.exactness), (Value::Decimal(1_000_000), Exactness::Exact));
}

#[test]
fn loads_are_judged_at_the_door() {
    let definitions = definitions();
    let fragment = std::sync::Arc::new(as_it_comes(&definitions, &[Step::Load(told(0, 5, 1, None))]).0);
    let mut bounds = Bounds::of(&fragment);
    let mut judge = |told: Told| bounds.admit_load(&told.load(&definitions)).map_err(|refusal| refusal.code);
    assert_eq!(judge(told(0, 5, 1, None)), Ok(false), "the same again");
    assert_eq!(judge(told(0, 4, 2, None)), Ok(false), "an older one");
    assert_eq!(judge(told(0, 5, 2, None)), Err("load_changed"));
    assert_eq!(judge(told(0, 6, 2, None)), Ok(true));
    assert_eq!(judge(told(0, 6, 2, None)), Ok(false), "the same again in one call");
    assert_eq!(judge(told(1, 6, 2, Some(1))), Ok(true));
    let load = |block: &str| Load::new("crm".into(), block.into(), Timestamp(BEGIN), "".into(), Vec::new(), Vec::new());
    let outcomes: Vec<_> = (0..16).map(|index| bounds.admit_load(&load(&format!("b{index}"))).is_ok()).collect();
    assert_eq!(outcomes.iter().filter(|taken| **taken).count(), 14, "sixteen blocks in all");
}
