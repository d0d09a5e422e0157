//! What a fragment remembers of its columns is what they would be if they were made from nothing.

use proptest::prelude::*;
use selvedge_core::aggregate::{Contribution, Definition, Definitions};
use selvedge_core::columns::{Columns, Keys};
use selvedge_core::config::Config;
use selvedge_core::effects::Effects;
use selvedge_core::fragment::{EventRef, Folded, Fragment};
use selvedge_core::lower::VisitorReads;
use selvedge_core::prepared::Memo;
use selvedge_core::read::Read;
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_core::view::{NO_ENTITIES, Schema, Subject};

const HOUR: i64 = 3600 * 1000;
const NOW: i64 = 490_000 * HOUR;

/// Aggregates of several forms: of all times, in windows that slide, and such as are read anew in each call.
fn schema() -> Schema {
    let define = |name: &str, operator: &str, windows: &[&str], kind: Kind| {
        let windows: Vec<String> = windows.iter().map(|window| (*window).to_owned()).collect();
        Definition::parse(name, operator, &[], &windows, kind, None).expect("a good definition")
    };
    let all = [
        define("count", "count", &["lifetime", "1h", "24h"], Kind::Integer),
        define("sum", "sum", &["lifetime", "24h", "dtd"], Kind::Decimal),
        define("other", "sum", &["lifetime"], Kind::Integer),
        define("highest", "max", &["lifetime"], Kind::Integer),
        define("latest", "last", &["lifetime", "24h"], Kind::Decimal),
        define("kinds", "distinct", &["lifetime"], Kind::Integer),
        define("key", "last", &["lifetime"], Kind::Key),
        define("mean", "mean", &["lifetime"], Kind::Decimal),
    ];
    let mut definitions = Definitions::new(BusinessTime::new("Europe/London").expect("a zone"));
    definitions.add("t", &all, None).expect("good definitions");
    Schema { definitions, scores: Vec::new() }
}

fn reads(schema: &Schema, every: usize) -> VisitorReads {
    let aggregates = schema.definitions.readings().iter().step_by(every).map(|reading| {
        let (path, kind) = (format!("agg:{}", reading.name), reading.kind);
        Read { path, kind, choices: Vec::new() }
    });
    let level = Read { path: "trait:level".into(), kind: Kind::Integer, choices: Vec::new() };
    let reads: Vec<Read> = aggregates.chain([level]).collect();
    VisitorReads::resolve(&reads, schema, &Config::default()).expect("good reads")
}

/// The columns, by what the fragment remembers.
fn columns(reads: &VisitorReads, fragment: &Fragment, schema: &Schema, at: i64) -> Columns {
    let sources = TraitSources::default();
    let moment = fragment.moment(&schema.definitions, &sources, Timestamp(at));
    let subject = Subject {
        fragment,
        entities: &NO_ENTITIES,
        trait_sources: &sources,
        scores: &[],
        context: None,
        channel: "web",
        moment: &moment,
        seed: 1,
    };
    Columns::clone(&reads.lower(&subject, &schema.definitions, &mut Keys::default()))
}

#[derive(Clone, Debug)]
enum Step {
    /// Time goes by, and an event comes: how much later, how long before that it happened, the states that it changes and by what.
    Event { later: i64, before: i64, states: Vec<u16>, value: i64 },
    /// A trait is said.
    Level(i64),
    /// Columns are read, of the first list or of the second, so much later.
    Read { second: bool, later: i64 },
    /// Somebody goes on from a copy.
    Copy,
}

fn step() -> impl Strategy<Value = Step> {
    let event = (0..2 * HOUR, prop_oneof![Just(0), 0..30 * HOUR], prop::collection::vec(0_u16..8, 1..4), -5..50_i64);
    prop_oneof![
        4 => event.prop_map(|(later, before, states, value)| Step::Event { later, before, states, value }),
        1 => (0..9_i64).prop_map(Step::Level),
        5 => (any::<bool>(), 0..3 * HOUR).prop_map(|(second, later)| Step::Read { second, later }),
        1 => Just(Step::Copy),
    ]
}

proptest! {
    #[test]
    fn remembered_columns_are_those_made_from_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let schema = schema();
        let lists = [reads(&schema, 1), reads(&schema, 3)];
        let mut fragment = Fragment::empty(&schema.definitions);
        let (mut now, mut id) = (NOW, 0_u64);
        let mut kept = Vec::new();
        for step in steps {
            let (effects, at) = match step {
                Step::Event { later, before, states, value } => {
                    now += later;
                    let contribution = |state| Contribution { state, key: format!("k{}", value % 3).into(), value };
                    let contributions = states.into_iter().map(contribution).collect();
                    (Effects { contributions, ..Effects::default() }, now - before)
                }
                Step::Level(level) => {
                    let traits = vec![("level".into(), level.to_string().into())];
                    (Effects { traits, ..Effects::default() }, now)
                }
                Step::Read { second, later } => {
                    now += later;
                    let reads = &lists[usize::from(second)];
                    let fresh = Fragment { memo: Memo::default(), ..fragment.clone() };
                    let expected = columns(reads, &fresh, &schema, now);
                    prop_assert_eq!(columns(reads, &fragment, &schema, now), expected.clone());
                    prop_assert_eq!(columns(reads, &fragment, &schema, now), expected, "and once more");
                    continue;
                }
                Step::Copy => {
                    kept.push(fragment.clone());
                    continue;
                }
            };
            id += 1;
            let mut id_hash = [0; 16];
            id_hash[..8].copy_from_slice(&id.to_be_bytes());
            let event = EventRef { at: Timestamp(at), id_hash, received_at: Timestamp(now) };
            prop_assert_eq!(fragment.apply_event(&schema.definitions, &event, &effects), Folded::Counted);
        }
        for copy in kept {
            for reads in &lists {
                let fresh = Fragment { memo: Memo::default(), ..copy.clone() };
                prop_assert_eq!(columns(reads, &copy, &schema, now), columns(reads, &fresh, &schema, now));
            }
        }
    }
}
