//! Effects: what one event does, read from its payload. The host's own part; what plugins contribute is added by the caller.

use compact_str::CompactString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::aggregate::Contribution;
use crate::consent::PURPOSES_MAX;
use crate::event::{Event, EventKind, Refusal, id_hash, text_field, text_of};
use crate::identity::{HOUSEHOLD, Identifier};
use crate::limits;
use crate::offers::{Act, DEFAULT_CHANNEL};

/// What a visitor did with an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The offer's id.
    pub offer: CompactString,
    /// Where.
    pub channel: CompactString,
    /// What.
    pub act: Act,
    /// Of a dismissal: whether they have it already.
    pub owned: bool,
}

impl Feedback {
    /// Everything that it counts as.
    pub fn acts(&self) -> impl Iterator<Item = Act> + use<> {
        [self.act].into_iter().chain(self.owned.then_some(Act::Owned))
    }
}

/// The reason of a dismissal that suppresses like a purchase.
const ALREADY_BOUGHT: &str = "already_bought";

/// What one event does to its fragment: a pure function of the event and the active plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// What plugins contribute.
    pub contributions: Vec<Contribution>,
    /// How many plugins failed.
    pub failures: u32,
    /// Traits that it sets: name, JSON value.
    pub traits: Vec<(CompactString, Box<str>)>,
    /// Who sets them.
    pub source: CompactString,
    /// Whether they are claims of a browser.
    pub claimed: bool,
    /// Of a group call: the traits of the group.
    pub group_traits: Vec<(CompactString, Box<str>)>,
    /// Feedback on an offer.
    pub feedback: Option<Feedback>,
    /// What it allows and denies.
    pub consent: Vec<(CompactString, bool)>,
    /// The hash of the id of the event that it takes back, within the same fragment.
    pub retracts: Option<[u8; 16]>,
}

/// The parts of a payload that the host itself reads.
#[derive(Deserialize)]
struct HostReads<'a> {
    #[serde(borrow, default)]
    traits: Option<Entries<'a>>,
    #[serde(borrow, default)]
    context: Option<ContextReads<'a>>,
    #[serde(borrow, default)]
    properties: Option<PropertyReads<'a>>,
    #[serde(borrow, default, rename = "groupId")]
    group_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ContextReads<'a> {
    #[serde(borrow, default)]
    traits: Option<Entries<'a>>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    consent: Option<&'a RawValue>,
    #[serde(borrow, default)]
    retracts: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct PropertyReads<'a> {
    #[serde(borrow, default)]
    offer_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    decision_id: Option<&'a RawValue>,
}

type Entries<'a> = std::collections::BTreeMap<CompactString, &'a RawValue>;

impl Effects {
    /// What the host itself reads from an event: traits and feedback. Contributions are added by the caller.
    pub fn of(event: &Event) -> Result<Self, Refusal> {
        let mut effects = Self { claimed: event.claimed, ..Self::default() };
        let act = act_of(event);
        if act.is_none()
            && event.kind != EventKind::Group
            && !event.payload.contains("\"traits\"")
            && !event.payload.contains("\"consent\"")
            && !event.payload.contains("\"retracts\"")
        {
            return Ok(effects);
        }
        let reads: HostReads<'_> = serde_json::from_str(&event.payload).map_err(|_| not_an_object(&event.payload))?;
        if let Some(act) = act {
            effects.feedback = Some(feedback(&event.name, act, reads.properties)?);
        }
        let own = reads.traits.map(|traits| ("/traits", traits));
        let (context, source, consent, retracts) = reads.context.map_or((None, None, None, None), |context| {
            (context.traits, context.source, context.consent, context.retracts)
        });
        // A browser's is refused at the door; one that is in the log all the same takes nothing back.
        // A fold again finds retractions by this word, so they are written as it is.
        let retracts = retracts.filter(|_| event.payload.contains("\"retracts\""));
        effects.retracts = retracts.filter(|_| !event.claimed).map(retracted_id).transpose()?.flatten();
        effects.consent = consent.map(consent_of).transpose()?.unwrap_or_default();
        let given = own.into_iter().chain(context.map(|traits| ("/context/traits", traits)));
        for (pointer, traits) in given {
            for (name, value) in traits {
                check_trait(pointer, &name, value)?;
                // Those of a group call itself are the group's; those of its context are the visitor's.
                let of_group = event.kind == EventKind::Group && pointer == "/traits";
                let traits = if of_group { &mut effects.group_traits } else { &mut effects.traits };
                traits.push((name, value.get().into()));
            }
        }
        if effects.traits.len() + effects.group_traits.len() > limits::TRAITS_MAX {
            return Err(Refusal::new(
                "too_many_traits",
                "/traits",
                format!("a profile holds at most {} traits", limits::TRAITS_MAX),
            ));
        }
        if event.kind == EventKind::Group {
            let group = reads.group_id.map(|group| ("account".into(), group.get().into()));
            effects.traits.extend(group);
        }
        let source = source.and_then(text_of).filter(|source| source.len() <= limits::KEY_BYTES_MAX);
        effects.source = source.map_or_else(|| event.kind.name().into(), |source| CompactString::from(source.as_ref()));
        Ok(effects)
    }
}

/// What `context.retracts` names.
fn retracted_id(raw: &RawValue) -> Result<Option<[u8; 16]>, Refusal> {
    let place = "/context/retracts";
    let Some(id) = text_field(Some(raw), place)? else { return Ok(None) };
    if id.is_empty() || id.chars().count() > limits::MESSAGE_ID_CHARS_MAX {
        let most = limits::MESSAGE_ID_CHARS_MAX;
        let detail = format!("is no messageId, which has 1 to {most} characters; send that of the event to take back");
        return Err(Refusal::new("message_id_invalid", place, detail));
    }
    Ok(Some(id_hash(&id)))
}

/// What `context.consent` says.
fn consent_of(raw: &RawValue) -> Result<Vec<(CompactString, bool)>, Refusal> {
    let place = "/context/consent";
    let wrong = |_| Refusal::new("wrong_type", place, "is not an object of purposes, such as {\"ads\": false}");
    let purposes: Option<Entries<'_>> = serde_json::from_str(raw.get()).map_err(wrong)?;
    let purposes = purposes.unwrap_or_default();
    if purposes.len() > PURPOSES_MAX {
        return Err(Refusal::new("too_many", place, format!("a profile has at most {PURPOSES_MAX} purposes")));
    }
    let word = |(purpose, value): (CompactString, &RawValue)| {
        let pointer = || format!("{place}/{}", purpose.replace('~', "~0").replace('/', "~1"));
        if purpose.is_empty() || purpose.len() > limits::KEY_BYTES_MAX {
            return Err(Refusal::new("wrong_type", place, "a purpose's name has 1 to 256 bytes"));
        }
        match value.get() {
            "true" => Ok((purpose, true)),
            "false" => Ok((purpose, false)),
            _ => Err(Refusal::new("wrong_type", pointer(), "is neither true nor false")),
        }
    };
    purposes.into_iter().map(word).collect()
}

/// Which of the traits of a payload is not an object.
fn not_an_object(payload: &str) -> Refusal {
    #[derive(Deserialize)]
    struct Own<'a> {
        #[serde(borrow, default)]
        #[allow(dead_code)] // that it can be read is all
        traits: Option<Entries<'a>>,
    }
    #[derive(Deserialize)]
    struct Beside<'a> {
        #[serde(borrow, default)]
        #[allow(dead_code)] // likewise
        context: Option<ContextReads<'a>>,
    }
    let pointer = match () {
        () if serde_json::from_str::<Own<'_>>(payload).is_err() => "/traits",
        () if serde_json::from_str::<Beside<'_>>(payload).is_err() => "/context/traits",
        () => {
            let detail = "names a field twice, such as offer_id; send each once";
            return Refusal::new("wrong_type", "/properties", detail);
        }
    };
    Refusal::new("wrong_type", pointer, "is not an object; send {\"name\": value, …} or leave it out")
}

impl Effects {
    /// What it does to a fragment: of an event an entity takes what is counted, while what is said of the visitor stays with the visitor. A household
    /// keeps the history of offers too, so that caps can be its.
    pub fn on(self, fragment: &Identifier) -> Self {
        if !fragment.is_entity() {
            return self;
        }
        let Self { contributions, failures, source, claimed, group_traits, retracts, feedback, .. } = self;
        let feedback = feedback.filter(|_| fragment.namespace() == HOUSEHOLD);
        Self { contributions, failures, source, claimed, retracts, feedback, traits: group_traits, ..Self::default() }
    }
}

/// Refuses a trait that no profile holds.
pub(crate) fn check_trait(pointer: &str, name: &str, value: &RawValue) -> Result<(), Refusal> {
    let place = || format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
    if name.is_empty() || name.len() > limits::KEY_BYTES_MAX {
        return Err(Refusal::new("trait_name_invalid", pointer, "a trait's name has 1 to 256 bytes"));
    }
    if value.get().len() > limits::TRAIT_BYTES_MAX {
        return Err(Refusal::new(
            "trait_too_large",
            place(),
            format!("a trait's value has at most {} bytes", limits::TRAIT_BYTES_MAX),
        ));
    }
    // A value that readers choke on is no value: too deep, half a character, a number beyond all numbers.
    let plain = value.get().bytes().all(|byte| !matches!(byte, b'[' | b'{' | b'\\' | b'e' | b'E'));
    if !plain && serde_json::from_str::<serde_json::Value>(value.get()).is_err() {
        return Err(Refusal::new(
            "trait_invalid",
            place(),
            "is not a value that every reader of JSON takes; send plain text, numbers and lists",
        ));
    }
    Ok(())
}

fn act_of(event: &Event) -> Option<Act> {
    if event.kind != EventKind::Track {
        return None;
    }
    match event.name.strip_prefix("Offer ")? {
        "Shown" => Some(Act::Shown),
        "Clicked" => Some(Act::Clicked),
        "Accepted" => Some(Act::Accepted),
        "Dismissed" => Some(Act::Dismissed),
        _ => None,
    }
}

/// What the properties of feedback say.
fn feedback(event: &str, act: Act, properties: Option<PropertyReads<'_>>) -> Result<Feedback, Refusal> {
    let PropertyReads { offer_id, channel, reason, decision_id } = properties.unwrap_or_default();
    let named = |text: &str| !text.is_empty() && text.len() <= limits::KEY_BYTES_MAX;
    let offer = offer_id.and_then(text_of).filter(|id| named(id)).ok_or_else(|| {
        let detail = format!("{event} needs the offer's id as a text");
        Refusal::new("offer_id_missing", "/properties/offer_id", detail)
    })?;
    text_field(decision_id, "/properties/decision_id")?;
    let reason = text_field(reason, "/properties/reason")?;
    let channel = text_field(channel, "/properties/channel")?;
    if channel.as_deref().is_some_and(|channel| !named(channel)) {
        let detail = format!("a channel's name has 1 to {} bytes; leave it out for web", limits::KEY_BYTES_MAX);
        return Err(Refusal::new("channel_invalid", "/properties/channel", detail));
    }
    Ok(Feedback {
        offer: CompactString::from(offer.as_ref()),
        channel: channel.as_deref().unwrap_or(DEFAULT_CHANNEL).into(),
        act,
        owned: act == Act::Dismissed && reason.as_deref() == Some(ALREADY_BOUGHT),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::value::Timestamp;

    /// An identify, or a track of this name.
    pub(crate) fn event(name: &str, id: &str, at: i64, payload: &str) -> Event {
        let kind = if name.is_empty() { EventKind::Identify } else { EventKind::Track };
        Event {
            kind,
            name: name.into(),
            message_id: id.into(),
            at: Timestamp(at),
            received_at: Timestamp(at),
            claimed: false,
            payload: payload.into(),
        }
    }

    #[test]
    fn of_an_event_an_entity_keeps_what_is_counted_and_of_a_group_call_its_traits() {
        let identifier = |text| Identifier::stored(text).expect("an identifier");
        let mut said = event(
            "Offer Shown",
            "a",
            1,
            r#"{"properties":{"offer_id":"kettle"},"context":{"traits":{"shoe":42},"consent":{"ads":true}}}"#,
        );
        let effects = Effects::of(&said).expect("a good event");
        assert_eq!(effects.clone().on(&identifier("user:1")), effects);
        let entity = effects.on(&identifier("household:h1"));
        assert!(entity.traits.is_empty() && entity.consent.is_empty() && entity.feedback.is_some());
        assert_eq!(Effects::of(&said).expect("a good event").on(&identifier("area:8001")).feedback, None);
        said = Event {
            kind: EventKind::Group,
            payload: r#"{"groupId":"acme","traits":{"plan":"pro"},"context":{"traits":{"shoe":42}}}"#.into(),
            ..said
        };
        let effects = Effects::of(&said).expect("a good event");
        assert_eq!(effects.traits, [("shoe".into(), "42".into()), ("account".into(), r#""acme""#.into())]);
        assert_eq!(effects.on(&identifier("account:acme")).traits, [("plan".into(), r#""pro""#.into())]);
    }

    #[test]
    fn a_retraction_names_an_id_of_the_right_form() {
        let retracts =
            |raw: &str| Effects::of(&event("Undone", "a", 1, &format!(r#"{{"context":{{"retracts":{raw}}}}}"#)));
        let id = |length: usize| format!("\"{}\"", "é".repeat(length));
        let whole = retracts(&id(100)).expect("a good event");
        assert_eq!(whole.retracts, Some(id_hash(&"é".repeat(100))));
        assert_eq!(
            whole.on(&Identifier::stored("area:1").expect("an identifier")).retracts,
            Some(id_hash(&"é".repeat(100)))
        );
        assert_eq!(retracts("null").expect("none").retracts, None);
        for (raw, code) in [
            ("7", "wrong_type"),
            ("[\"a\"]", "wrong_type"),
            ("\"\"", "message_id_invalid"),
            (&id(101), "message_id_invalid"),
        ] {
            let refusal = retracts(raw).expect_err("no id");
            assert_eq!((refusal.code, refusal.pointer.as_str()), (code, "/context/retracts"), "{raw}");
        }
        let mut claimed = event("Undone", "a", 1, r#"{"context":{"retracts":"m"}}"#);
        claimed.claimed = true;
        assert_eq!(Effects::of(&claimed).expect("a claim").retracts, None);
    }

    #[test]
    fn traits_have_bounds() {
        let identify = |traits: &str| Effects::of(&event("", "a", 1, &format!(r#"{{"traits":{traits}}}"#)));
        let sized = |length: usize| format!(r#"{{"a/b":"{}"}}"#, "x".repeat(length - 2));
        assert!(identify(&sized(limits::TRAIT_BYTES_MAX)).is_ok());
        assert_eq!(identify("[1]").expect_err("a list").pointer, "/traits");
        let beside = Effects::of(&event("", "a", 1, r#"{"traits":{},"context":{"traits":7}}"#));
        assert_eq!(beside.expect_err("a number").pointer, "/context/traits");
        let refusal = identify(&sized(limits::TRAIT_BYTES_MAX + 1)).expect_err("too large");
        assert_eq!((refusal.code, refusal.pointer.as_str()), ("trait_too_large", "/traits/a~1b"));
        let many = |count: usize| {
            let entries: Vec<_> = (0..count).map(|index| format!("\"t{index}\":1")).collect();
            format!("{{{}}}", entries.join(","))
        };
        for odd in
            [r#"{"a":"\ud800"}"#, r#"{"a":1e999}"#, &format!(r#"{{"a":{}{}}}"#, "[".repeat(500), "]".repeat(500))]
        {
            assert_eq!(identify(odd).expect_err("odd").code, "trait_invalid", "{odd}");
        }
        assert!(identify(r#"{"a":"\u00e9 {}","b":[1,{"c":1e9}]}"#).is_ok());
        assert!(identify(&many(limits::TRAITS_MAX)).is_ok());
        assert_eq!(identify(&many(limits::TRAITS_MAX + 1)).expect_err("too many").code, "too_many_traits");
    }
    #[test]
    fn feedback_says_where_and_why() {
        let of = |name: &str, properties: &str| {
            Effects::of(&event(name, "a", 1, &format!(r#"{{"properties":{{"offer_id":"kettle"{properties}}}}}"#)))
        };
        let feedback = |name, properties| of(name, properties).expect("a good event").feedback.expect("feedback");
        let shown = feedback("Offer Shown", "");
        assert_eq!((shown.offer.as_str(), shown.channel.as_str(), shown.act), ("kettle", "web", Act::Shown));
        let gone = feedback("Offer Dismissed", r#","channel":"email","reason":"already_bought","decision_id":"d-1""#);
        assert_eq!(gone.channel, "email");
        assert_eq!(gone.acts().collect::<Vec<_>>(), [Act::Dismissed, Act::Owned]);
        assert_eq!(feedback("Offer Dismissed", r#","reason":"dull""#).acts().collect::<Vec<_>>(), [Act::Dismissed]);
        assert_eq!(feedback("Offer Clicked", r#","reason":"already_bought""#).acts().count(), 1);
        for (properties, pointer) in [
            (r#","channel":"""#, "/properties/channel"),
            (r#","channel":7"#, "/properties/channel"),
            (r#","reason":[]"#, "/properties/reason"),
            (r#","decision_id":{}"#, "/properties/decision_id"),
        ] {
            assert_eq!(of("Offer Shown", properties).expect_err("odd").pointer, pointer);
        }
    }
}
