//! What a plugin is given: what it declared to read, and nothing besides.

use std::collections::BTreeSet;

use proptest::prelude::*;
use selvedge_core::aggregate::Definitions;
use selvedge_core::columns::{Columns, Keys};
use selvedge_core::config::Config;
use selvedge_core::effects::Effects;
use selvedge_core::event::Event;
use selvedge_core::fragment::{EventRef, Fragment};
use selvedge_core::identity::Namespaces;
use selvedge_core::lower::{EventReads, VisitorReads};
use selvedge_core::read::Read;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::time::BusinessTime;
use selvedge_core::traits::TraitSources;
use selvedge_core::value::{Kind, Timestamp};
use selvedge_core::view::{NO_ENTITIES, Schema, Subject};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_767_607_200_000);

fn schema() -> Schema {
    Schema { definitions: Definitions::new(BusinessTime::new("UTC").expect("UTC")), scores: Vec::new() }
}

/// What somebody says, and nobody else.
fn word(place: &str, index: u8) -> String {
    format!("the-{place}-{index}-said")
}

/// Reads of every second one as a text, of the others as a key.
fn read(path: String, index: u8) -> Read {
    let kind = if index.is_multiple_of(2) { Kind::Text } else { Kind::Key };
    Read { path, kind, choices: Vec::new() }
}

/// Everything that a guest can see of columns, and all that its handles stand for.
fn visible(columns: &Columns, keys: &Keys) -> BTreeSet<String> {
    let handles = (0..).map_while(|handle| keys.get(handle)).map(ToString::to_string);
    columns.texts.iter().filter(|text| !text.is_empty()).cloned().chain(handles).collect()
}

/// What is said, what of it is declared: the words that must be visible.
fn expected(place: &str, said: &BTreeSet<u8>, declared: &BTreeSet<u8>) -> BTreeSet<String> {
    said.intersection(declared).map(|index| word(place, *index)).collect()
}

fn some() -> impl Strategy<Value = BTreeSet<u8>> {
    prop::collection::btree_set(0..12_u8, 0..10)
}

fn receipt(namespaces: &Namespaces) -> Receipt<'_> {
    Receipt {
        received_at: NOW,
        sent_at: None,
        speaker: Speaker::Server,
        kind: None,
        user_id: None,
        anonymous_id: None,
        context: None,
        namespaces,
    }
}

proptest! {
    #[test]
    fn nothing_of_a_visitor_that_was_not_declared_is_given(traits in some(), context in some(), declared in some(), asked in some()) {
        let schema = schema();
        let trait_reads = declared.iter().map(|index| read(format!("trait:t{index}"), *index));
        let context_reads = asked.iter().map(|index| read(format!("ctx:page.c{index}"), *index));
        let reads: Vec<Read> = trait_reads.chain(context_reads).collect();
        let reads = VisitorReads::resolve(&reads, &schema, &Config::default()).expect("good reads");

        let mut fragment = Fragment::empty(&schema.definitions);
        let said = traits.iter().map(|index| (format!("t{index}").into(), json!(word("trait", *index)).to_string().into()));
        let effects = Effects { traits: said.collect(), ..Effects::default() };
        let event = EventRef { at: NOW, id_hash: [1; 16], received_at: NOW };
        let _ = fragment.apply_event(&schema.definitions, &event, &effects);
        let page: serde_json::Map<String, Value> = context.iter().map(|index| (format!("c{index}"), word("context", *index).into())).collect();
        let raw = serde_json::value::to_raw_value(&json!({"page": page, "other": page})).expect("JSON");

        let sources = TraitSources::default();
        let moment = fragment.moment(&schema.definitions, &sources, NOW);
        let subject = Subject {
            fragment: &fragment,
            entities: &NO_ENTITIES,
            trait_sources: &sources,
            scores: &[],
            context: Some(&raw),
            channel: "web",
            moment: &moment,
            seed: 1,
        };
        // The second time by what the first one has left.
        for _ in 0..2 {
            let mut keys = Keys::default();
            let columns = reads.lower(&subject, &schema.definitions, &mut keys);
            let all: BTreeSet<String> = expected("trait", &traits, &declared).union(&expected("context", &context, &asked)).cloned().collect();
            prop_assert_eq!(visible(&columns, &keys), all);
            // And what is told of it is what it is.
            let told: Value = serde_json::from_str(&reads.given(&columns, &keys)).expect("JSON");
            let known = |place: &str, said: &BTreeSet<u8>, index: &u8| if said.contains(index) { json!(word(place, *index)) } else { Value::Null };
            let mut given: serde_json::Map<String, Value> = declared.iter().map(|index| (format!("trait:t{index}"), known("trait", &traits, index))).collect();
            given.extend(asked.iter().map(|index| (format!("ctx:page.c{index}"), known("context", &context, index))));
            prop_assert_eq!(told, Value::Object(given));
        }
    }

    #[test]
    fn nothing_of_an_event_that_was_not_declared_is_given(said in some(), declared in some(), in_lines in some()) {
        let own = declared.iter().map(|index| read(format!("event:properties.p{index}"), *index));
        let of_lines = declared.iter().map(|index| read(format!("event:properties.lines[].l{index}"), *index));
        let reads: Vec<Read> = own.chain(of_lines).collect();
        let time = BusinessTime::new("UTC").expect("UTC");
        let reads = EventReads::resolve(&reads, &Config::default(), &time).expect("good reads");
        let mut properties: serde_json::Map<String, Value> = said.iter().map(|index| (format!("p{index}"), word("event", *index).into())).collect();
        let line: serde_json::Map<String, Value> = in_lines.iter().map(|index| (format!("l{index}"), word("line", *index).into())).collect();
        properties.insert("lines".into(), json!([line]));
        let event = json!({"type": "track", "event": "Seen", "userId": "ada", "messageId": "m-1", "properties": properties,
            "context": {"ip": word("nobody", 1)}});
        let namespaces = Namespaces::default();
        let event = Event::parse(&event.to_string(), &receipt(&namespaces), &mut Default::default).expect("a good event").event;
        let mut keys = Keys::default();
        let (columns, _) = reads.lower(&event, &time, &mut keys, true).expect("columns");
        let all: BTreeSet<String> = expected("event", &said, &declared).union(&expected("line", &in_lines, &declared)).cloned().collect();
        prop_assert_eq!(visible(&columns, &keys), all);
    }
}

#[test]
fn what_is_given_is_told_in_the_form_in_which_a_caller_would_write_it() {
    let schema = schema();
    let reads = [
        ("ctx:number", Kind::Number, json!(1.5), json!(1.5)),
        ("ctx:whole", Kind::Integer, json!("7"), json!(7)),
        ("ctx:price", Kind::Decimal, json!("12.750"), json!(12.75)),
        ("ctx:at", Kind::Instant, json!("2026-01-05T11:00:00+01:00"), json!("2026-01-05T10:00:00Z")),
        ("ctx:day", Kind::Day, json!("2026-01-05T10:00:00Z"), json!("2026-01-05")),
        ("ctx:flag", Kind::Flag, json!(true), json!(true)),
        ("ctx:size", Kind::Choice, json!("large"), json!("large")),
        ("ctx:other", Kind::Choice, json!("huge"), Value::Null),
        ("ctx:tags[]", Kind::Key, json!(["a", "b", "a"]), json!(["a", "b", "a"])),
        ("ctx:lines[].text", Kind::Text, json!([{"text": "x\"y"}, {}]), json!(["x\"y", null])),
        ("ctx:nothing", Kind::Text, Value::Null, Value::Null),
    ];
    let declared = reads.iter().map(|(path, kind, ..)| Read {
        path: (*path).to_owned(),
        kind: *kind,
        choices: vec!["small".into(), "large".into()],
    });
    let now = |kind| Read { path: "now".into(), kind, choices: Vec::new() };
    let declared: Vec<Read> = declared.chain([now(Kind::Instant), now(Kind::Day)]).collect();
    let resolved = VisitorReads::resolve(&declared, &schema, &Config::default()).expect("good reads");
    let said = reads.iter().map(|(path, _, said, _)| {
        let name = path.trim_start_matches("ctx:").split(['[', '.']).next().unwrap_or_default();
        (name.to_owned(), said.clone())
    });
    let raw = serde_json::value::to_raw_value(&said.collect::<serde_json::Map<_, _>>()).expect("JSON");
    let (fragment, sources) = (Fragment::empty(&schema.definitions), TraitSources::default());
    let moment = fragment.moment(&schema.definitions, &sources, NOW);
    let subject = Subject {
        fragment: &fragment,
        entities: &NO_ENTITIES,
        trait_sources: &sources,
        scores: &[],
        context: Some(&raw),
        channel: "web",
        moment: &moment,
        seed: 1,
    };
    let mut keys = Keys::default();
    let columns = resolved.lower(&subject, &schema.definitions, &mut keys);
    let told: Value = serde_json::from_str(&resolved.given(&columns, &keys)).expect("JSON");
    for (path, _, _, expected) in &reads {
        assert_eq!(&told[*path], expected, "{path}");
    }
    assert_eq!(
        (&told["now as instant"], &told["now as day"]),
        (&json!("2026-01-05T10:00:00Z"), &json!("2026-01-05")),
        "one path in two forms"
    );
}
