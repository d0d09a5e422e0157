//! The parts that are counted, over a profile of 150 values: fifty traits and a hundred aggregates.

use std::hint::black_box;

use selvedge_core::aggregate::{Contribution, Definition, Definitions};
use selvedge_core::catalog::terms::{Cap, CapWindow, Counts, Per};
use selvedge_core::change::{Change, DecidedOffer};
use selvedge_core::columns::Keys;
use selvedge_core::config::Config;
use selvedge_core::consent::Consent;
use selvedge_core::constraint::cap::Past;
use selvedge_core::constraint::{OfferTerms, Terms};
use selvedge_core::decision::screen::{Offered, Person, Shelf};
use selvedge_core::decision::{Contest, Judgement, fill};
use selvedge_core::effects::Effects;
use selvedge_core::event::Event;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::{Identifier, Namespaces};
use selvedge_core::lower::VisitorReads;
use selvedge_core::offers::{Act, Offers};
use selvedge_core::prepared::Memo;
use selvedge_core::read::Read;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::time::{BusinessTime, DAY_MS};
use selvedge_core::traits::TraitSources;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_core::view::{NO_ENTITIES, Schema, Subject};
use serde_json::json;

/// 2026-01-05T10:00:00Z.
const NOON: Timestamp = Timestamp(1_767_607_200_000);
const TRAITS: usize = 50;
const AGGREGATES: usize = 100;
const OFFERS: usize = 20;

/// What can be counted.
pub const NAMES: &[&str] = &[
    "apply",
    "columns_anew",
    "columns_kept",
    "constraints",
    "decode",
    "encode",
    "encode_event",
    "join",
    "parse_event",
];

/// Runs a part so many times.
pub fn run(name: &str, times: u64) {
    let world = World::new();
    let mut part: Box<dyn FnMut() + '_> = match name {
        "apply" => Box::new(world.apply()),
        "columns_anew" => Box::new(world.columns(true)),
        "columns_kept" => Box::new(world.columns(false)),
        "constraints" => Box::new(constraints()),
        "decode" => {
            let bytes = postcard::to_allocvec(&world.fragment).expect("bytes");
            Box::new(move || drop(black_box(postcard::from_bytes::<Fragment>(black_box(&bytes)))))
        }
        "encode" => Box::new(|| drop(black_box(postcard::to_allocvec(black_box(&world.fragment))))),
        "encode_event" => {
            let change = Change::Event { fragment: identifier(), event: world.event.clone() };
            Box::new(move || drop(black_box(black_box(&change).encode())))
        }
        "join" => Box::new(|| {
            let mut joined = Fragment::clone(&world.fragment);
            joined.join(&world.schema.definitions, black_box(&world.other));
            black_box(joined);
        }),
        "parse_event" => Box::new(|| {
            let event = parse(&world.namespaces, black_box(&world.text));
            drop(black_box((Effects::of(&event), event)));
        }),
        other => panic!("no part is named {other}"),
    };
    (0..times).for_each(|_| part());
}

fn identifier() -> Identifier {
    Identifier::stored("user:u-1").expect("an identifier")
}

/// What the parts work on.
struct World {
    schema: Schema,
    reads: VisitorReads,
    namespaces: Namespaces,
    fragment: Fragment,
    other: Fragment,
    /// An event by itself, as it comes, read, and with its effects.
    text: String,
    event: Event,
    effects: Effects,
}

impl World {
    fn new() -> Self {
        let define = |index: usize| {
            let window = if index < 80 { "lifetime" } else { "30d" };
            Definition::parse(&format!("a{index:02}"), "sum", &[], &[window.into()], Kind::Integer, None)
                .expect("a good definition")
        };
        let all: Vec<Definition> = (0..AGGREGATES).map(define).collect();
        let mut definitions = Definitions::new(BusinessTime::new("Europe/London").expect("a zone"));
        definitions.add("t", &all, None).expect("good definitions");
        let read = |path: String, kind| Read { path, kind, choices: Vec::new() };
        let aggregates =
            definitions.readings().iter().map(|reading| read(format!("agg:{}", reading.name), reading.kind));
        let traits = (0..TRAITS).map(|index| read(format!("trait:t{index:02}"), Kind::Number));
        let reads: Vec<Read> = aggregates.chain(traits).collect();
        let schema = Schema { definitions, scores: Vec::new() };
        let reads = VisitorReads::resolve(&reads, &schema, &Config::default()).expect("good reads");
        let namespaces = Namespaces::default();
        let traits: serde_json::Map<String, serde_json::Value> =
            (0..TRAITS).map(|index| (format!("t{index:02}"), json!(index * 7))).collect();
        let said = json!({"type": "identify", "userId": "u-1", "messageId": "m-1", "traits": traits}).to_string();
        let bought = |id: &str| {
            json!({"type": "track", "event": "Order Completed", "userId": "u-1", "messageId": id, "timestamp": "2026-01-05T09:00:00Z",
                "properties": {"order_id": "o-1", "total": 139.12, "currency": "GBP", "products": [
                    {"product_id": "85123A", "name": "T-LIGHT HOLDER", "price": 2.55, "quantity": 6},
                    {"product_id": "71053", "name": "LANTERN", "price": 3.39, "quantity": 6}]}})
            .to_string()
        };
        let (mut fragment, mut other) = (Fragment::empty(&schema.definitions), Fragment::empty(&schema.definitions));
        let fold = |fragment: &mut Fragment, text: &str| {
            let event = parse(&namespaces, text);
            let effects = effects(&event);
            let _ = fragment.apply_event(&schema.definitions, &EventRef::from(&event), &effects);
        };
        fold(&mut fragment, &said);
        (0..8).for_each(|index| fold(&mut fragment, &bought(&format!("m-2-{index}"))));
        (0..8).for_each(|index| fold(&mut other, &bought(&format!("m-3-{index}"))));
        let text = bought("m-4");
        let event = parse(&namespaces, &text);
        let mut own = effects(&event);
        // Of one event a few aggregates hear.
        own.contributions.truncate(8);
        Self { schema, reads, namespaces, fragment, other, text, event, effects: own }
    }

    /// An event folded into a copy of the profile, as it is under a view that is still read.
    fn apply(&self) -> impl FnMut() + '_ {
        let event = EventRef::from(&self.event);
        move || {
            let mut fragment = Fragment::clone(&self.fragment);
            let _ = fragment.apply_event(&self.schema.definitions, &event, black_box(&self.effects));
            black_box(fragment);
        }
    }

    /// All 150 values as a plugin gets them.
    fn columns(&self, anew: bool) -> impl FnMut() + '_ {
        let sources = TraitSources::default();
        let moment = self.fragment.moment(&self.schema.definitions, &sources, NOON);
        let mut fragment = Fragment::clone(&self.fragment);
        move || {
            if anew {
                fragment.memo = Memo::default();
            }
            let subject = Subject {
                fragment: &fragment,
                entities: &NO_ENTITIES,
                trait_sources: &sources,
                scores: &[],
                context: None,
                channel: "web",
                moment: &moment,
                seed: 0,
            };
            black_box(self.reads.lower(black_box(&subject), &self.schema.definitions, &mut Keys::default()));
        }
    }
}

fn parse(namespaces: &Namespaces, text: &str) -> Event {
    let receipt = Receipt {
        received_at: NOON,
        sent_at: None,
        speaker: Speaker::Server,
        kind: None,
        user_id: None,
        anonymous_id: None,
        context: None,
        namespaces,
    };
    Event::parse(text, &receipt, &mut Default::default).expect("a good event").event
}

/// What an event does, with a contribution to each aggregate.
fn effects(event: &Event) -> Effects {
    let contribution = |state: usize| Contribution {
        state: u16::try_from(state).expect("few states"),
        key: Default::default(),
        value: 7 + state as i64,
    };
    Effects { contributions: (0..AGGREGATES).map(contribution).collect(), ..Effects::of(event).expect("good effects") }
}

/// Twenty offers of which each has ten caps to be looked at, three to be chosen, for a person with a history.
fn constraints() -> impl FnMut() {
    let time = BusinessTime::new("Europe/London").expect("a zone");
    let cap = |counts, most, window| Cap { per: Per::Person, counts, most, window };
    let windows = [CapWindow::Sliding(DAY_MS / 24), CapWindow::Sliding(7 * DAY_MS), CapWindow::Lifetime];
    let own: &'static [Cap] = Box::leak(Box::new(windows.map(|window| cap(Counts::Decided, 500, window))));
    let shared: &'static [Cap] =
        Box::leak(Box::new([cap(Counts::Decided, 2_000, windows[1]), cap(Counts::Shown, 2_000, windows[2])]));
    let ids: &'static [String] = Vec::leak((0..OFFERS).map(|index| format!("offer-{index:02}")).collect());
    let offer = |index: usize| OfferTerms {
        id: &ids[index],
        category: Some(index % 5),
        campaign: Some(index % 2),
        caps: own,
        ..OfferTerms::default()
    };
    let terms = Terms {
        offers: (0..OFFERS).map(offer).collect(),
        categories: vec![shared; 5],
        campaigns: vec![shared; 2],
        channels: vec![("web", shared)],
        overall: shared,
    };
    let shelf = Shelf::new(&terms, vec![Offered { enabled: true, ..Offered::default() }; OFFERS]);
    let mut past = Offers::default();
    for (id, times) in ids.iter().zip(1_i64..) {
        for time in 0..times {
            let minute = Timestamp(NOON.0 - time * 3_700_000);
            let (offer, channel) = (id.into(), "web".into());
            past.record(&offer, &channel, Act::Shown, minute, 1);
            past.decide(&DecidedOffer { offer, channel, minute, count: 1 });
        }
    }
    let candidates: Vec<usize> = (0..OFFERS).collect();
    let judged =
        |offer: &usize| Judgement { offer: *offer, priority: (offer * 7 % 17) as f64, eligible: true, reason: None };
    let ranking: Vec<Judgement> = candidates.iter().map(judged).collect();
    let consent = Consent::default();
    move || {
        let past = Past { person: &past, household: &past };
        let person = Person {
            past,
            holdings: &(),
            consent: &consent,
            channel: 0,
            closed: None,
            held_out: false,
            held_out_of: &[],
        };
        let mut screen = shelf.screen(person, (NOON, &time), |_| u64::MAX);
        assert!(candidates.iter().all(|offer| screen.admit(*offer, false).is_ok()));
        let contest = Contest { candidates: &candidates, count: 3, per_category: Some(1), ranking: Some(&ranking) };
        black_box(fill(&[contest], &mut screen, None));
    }
}
