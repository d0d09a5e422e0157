//! One person's history, split over identifiers that are linked and unlinked: whatever the order, a profile is the fold of exactly the
//! histories that belong to it now.

#![allow(clippy::unwrap_used)] // a test's panic is its answer

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;
use selvedge_core::aggregate::{Contribution, Definition, Definitions};
use selvedge_core::effects::Effects;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::{Identifier, Namespaces};
use selvedge_core::links::{How, Word, resolve};
use selvedge_core::time::BusinessTime;
use selvedge_core::value::{Kind, Timestamp};

const NAMES: [&str; 4] = ["user:1", "anonymous:a", "device:d", "loyalty:L1"];

/// Every stored operator, with windows where it has them.
fn definitions() -> Definitions {
    let mut definitions = Definitions::new(BusinessTime::new("Europe/London").unwrap());
    let define = |name: &str, operator: &str, parameters: &[(&str, &str)], windows: &[&str], kind| {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let windows: Vec<_> = windows.iter().map(|window| (*window).to_owned()).collect();
        Definition::parse(name, operator, &parameters, &windows, kind, None).unwrap()
    };
    let all = [
        define("count", "count", &[], &["lifetime", "1h", "7d", "ytd", "mtd"], Kind::Integer),
        define("sum", "sum", &[], &["lifetime", "90m", "30d"], Kind::Decimal),
        define("min", "min", &[], &[], Kind::Integer),
        define("max", "max", &[], &[], Kind::Integer),
        define("first", "first", &[], &[], Kind::Decimal),
        define("last", "last", &[], &[], Kind::Decimal),
        define("first_day", "first", &[("by", "day")], &[], Kind::Decimal),
        define("last_key", "last", &[], &[], Kind::Key),
        define("distinct", "distinct", &[], &[], Kind::Integer),
        define("days", "distinct-days", &[], &[], Kind::Integer),
        define("by_key", "sum-by-key", &[], &[], Kind::Integer),
        define("decayed", "decayed-sum-by-key", &[("half-life", "3d")], &[], Kind::Number),
        define("average", "ratio", &[("of", "sum"), ("per", "count")], &[], Kind::Decimal),
        define("top", "top", &[("of", "by_key"), ("count", "2")], &[], Kind::Integer),
    ];
    definitions.add("test", &all, None).unwrap();
    definitions
}

/// An event: its id fixes everything else, as a retry's does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Happened {
    id: u8,
    minute: i64,
}

impl Happened {
    fn reference(self) -> EventRef {
        let at = Timestamp(1_290_000_000_000 + self.minute * 60_000);
        EventRef { at, id_hash: [self.id; 16], received_at: at }
    }

    fn effects(self) -> Effects {
        let (key, value) = (["x", "y", "z"][usize::from(self.id) % 3], i64::from(self.id) * 1_000_001 - 20_000_000);
        let contribution = |state: u16| Contribution { state, key: key.into(), value };
        Effects {
            contributions: (0..12).map(contribution).collect(),
            traits: vec![("t".into(), self.id.to_string().into())],
            consent: vec![("ads".into(), self.id.is_multiple_of(2))],
            ..Effects::default()
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Event(usize, Happened),
    Say(usize, usize, i64, bool),
}

fn step(identifiers: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..identifiers, 0_u8..24).prop_map(|(of, id)| {
            Step::Event(of, Happened { id, minute: i64::from(id) * i64::from(id) * 37 % 20_000 })
        }),
        1 => (0..identifiers, 0..identifiers, 0_i64..30, any::<bool>()).prop_map(|(one, other, at, linked)| Step::Say(one, other, at, linked)),
    ]
}

/// A replica: fragments, folded in the order in which changes come; an event's id counts once for an identifier.
#[derive(Default)]
struct Replica {
    fragments: BTreeMap<usize, Fragment>,
    seen: BTreeSet<(usize, u8)>,
}

impl Replica {
    fn take(&mut self, definitions: &Definitions, ids: &[Identifier], step: &Step) {
        match step {
            Step::Event(of, event) if self.seen.insert((*of, event.id)) => {
                let fragment = self.fragments.entry(*of).or_insert_with(|| Fragment::empty(definitions));
                let _ = fragment.apply_event(definitions, &event.reference(), &event.effects());
            }
            Step::Say(one, other, at, linked) if one != other => {
                let word = Word { at: Timestamp(*at), linked: *linked, id: [*at as u8; 16], how: How::Api };
                for (of, to) in [(one, other), (other, one)] {
                    let fragment = self.fragments.entry(*of).or_insert_with(|| Fragment::empty(definitions));
                    fragment.apply_link(&ids[*to], word);
                }
            }
            _ => {}
        }
    }

    fn members(&self, ids: &[Identifier], root: usize) -> Vec<usize> {
        let group = resolve(&Namespaces::default(), &ids[root], |identifier, visit| {
            let of = ids.iter().position(|id| id == identifier).unwrap();
            let words = self.fragments.get(&of).into_iter().flat_map(|fragment| fragment.links.words());
            words.for_each(|(other, word)| visit(other, word));
            Ok::<_, Infallible>(())
        });
        let group = match group {
            Ok(group) => group,
            Err(never) => match never {},
        };
        group.identifiers.iter().map(|member| ids.iter().position(|id| id == member).unwrap()).collect()
    }
}

/// Who is connected by the newest words, found the slow way.
fn naive_members(steps: &[Step], root: usize) -> BTreeSet<usize> {
    let mut words: BTreeMap<(usize, usize), (i64, bool)> = BTreeMap::new();
    for step in steps {
        if let Step::Say(one, other, at, linked) = step
            && one != other
        {
            let held = words.entry((*one.min(other), *one.max(other))).or_insert((*at, *linked));
            *held = match (*at).cmp(&held.0) {
                std::cmp::Ordering::Greater => (*at, *linked),
                std::cmp::Ordering::Equal => (*at, *linked && held.1),
                std::cmp::Ordering::Less => *held,
            };
        }
    }
    let mut members = BTreeSet::from([root]);
    for _ in NAMES {
        for ((one, other), (_, linked)) in &words {
            if *linked && (members.contains(one) || members.contains(other)) {
                members.extend([*one, *other]);
            }
        }
    }
    members
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50_000, ..ProptestConfig::default() })]

    #[test]
    fn a_profile_is_the_fold_of_exactly_its_histories(
        steps in (2_usize..=4).prop_flat_map(|count| prop::collection::vec(step(count), 0..24)),
        turn in any::<prop::sample::Index>(),
    ) {
        thread_local!(static DEFINITIONS: Definitions = definitions());
        DEFINITIONS.with(|definitions| {
            let ids: Vec<Identifier> = NAMES.iter().map(|name| Namespaces::default().parse(name).unwrap()).collect();
            let (mut here, mut there) = (Replica::default(), Replica::default());
            steps.iter().for_each(|step| here.take(definitions, &ids, step));
            // Another replica: another order, and everything twice.
            let from = if steps.is_empty() { 0 } else { turn.index(steps.len()) };
            steps[from..].iter().chain(&steps[..from]).chain(steps.iter().rev()).for_each(|step| there.take(definitions, &ids, step));
            prop_assert_eq!(&here.fragments, &there.fragments);
            for root in 0..NAMES.len() {
                let members = here.members(&ids, root);
                prop_assert_eq!(members.iter().copied().collect::<BTreeSet<_>>(), naive_members(&steps, root));
                let mut joined = Fragment::empty(definitions);
                let mut naive = Fragment::empty(definitions);
                members.iter().filter_map(|member| here.fragments.get(member)).for_each(|fragment| joined.join(definitions, fragment));
                let mut history: Vec<_> = steps
                    .iter()
                    .filter_map(|step| match step {
                        Step::Event(of, event) if members.contains(of) => Some((event.minute, *of, *event)),
                        _ => None,
                    })
                    .collect();
                history.sort_unstable();
                history.dedup();
                for (_, _, event) in &history {
                    let _ = naive.apply_event(definitions, &event.reference(), &event.effects());
                }
                prop_assert_eq!(&joined, &naive);
                let moment = definitions.moment(Timestamp(1_290_000_000_000 + 20_000 * 60_000), |_| None);
                for reading in definitions.readings() {
                    let value = |fragment: &Fragment| definitions.evaluate(reading, &fragment.states, &moment);
                    prop_assert_eq!(value(&joined), value(&naive), "{}", &reading.name);
                }
            }
            Ok(())
        })?;
    }
}
