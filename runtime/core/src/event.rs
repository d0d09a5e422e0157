//! Events: the shape in which they arrive (Segment's tracking API), the rules they must keep, and the form in which they are stored.
//!
//! Source of the wire form: Segment HTTP Tracking API. An [`Event`] is what the rest of the house sees: validated, with its time
//! settled, and its payload as one JSON object. Knows nothing of plugins and nothing of who is allowed to send what, except what
//! [`Receipt`] tells it.

use std::borrow::Cow;

use compact_str::CompactString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::identity::Identifier;
use crate::limits;
use crate::links::How;
use crate::receipt::{Receipt, Speaker, Whose};
use crate::value::Timestamp;

/// What a caller did wrong with one event: a stable code, the field, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, for programs: `timestamp_invalid`.
    pub code: &'static str,
    /// The field as a JSON pointer into the event.
    pub pointer: String,
    /// For people: what is wrong and the mend.
    pub detail: String,
}

impl Refusal {
    /// A refusal of the field at `pointer`.
    pub fn new(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), detail: detail.into() }
    }
}

/// The beginning of a text that somebody sent, in quotes: enough to recognise it by, never enough to fill a log.
pub fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// Something the visitor did; it has a name.
    Track,
    /// Traits of the visitor.
    Identify,
    /// A page was seen.
    Page,
    /// A screen of an app was seen.
    Screen,
    /// Another identifier of the visitor.
    Alias,
    /// What the visitor belongs to: an account.
    Group,
}

impl EventKind {
    /// All kinds; the position is the code on disk.
    pub const ALL: [Self; 6] = [Self::Track, Self::Identify, Self::Page, Self::Screen, Self::Alias, Self::Group];

    /// The `type` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Alias => "alias",
            Self::Group => "group",
        }
    }

    /// The kind with this `type`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One validated event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its type.
    pub kind: EventKind,
    /// The `event` of a track, the `name` of a page or screen; empty for the rest.
    pub name: CompactString,
    /// The id by which its retries are recognised, within one identifier.
    pub message_id: CompactString,
    /// When it happened, as settled by [`Receipt::settle_time`].
    pub at: Timestamp,
    /// When it was received.
    pub received_at: Timestamp,
    /// Whether a browser said it: with a token it is known who speaks, not whether it is so.
    pub claimed: bool,
    /// A JSON object with those of `properties`, `traits`, `context`, `userId`, `anonymousId`, `previousId`, `groupId` that came and are not
    /// in the fields above.
    pub payload: Box<str>,
}

/// An event as it arrived, and who it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The fragment that it belongs to.
    pub fragment: Identifier,
    /// The event.
    pub event: Event,
    /// Other identifiers of the same person, and how they were named.
    pub links: Vec<(Identifier, How)>,
    /// What else it is about: the entities that it names, where the caller may say so.
    pub entities: Vec<Identifier>,
}

impl Arrival {
    /// Every identifier of the person that it names.
    pub fn named(&self) -> impl Iterator<Item = &Identifier> {
        std::iter::once(&self.fragment).chain(self.links.iter().map(|(identifier, _)| identifier))
    }
}

/// An event's fields as they arrive; each is checked on its own, so that a fault names its field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    anonymous_id: Option<&'a RawValue>,
    #[serde(borrow)]
    previous_id: Option<&'a RawValue>,
    #[serde(borrow)]
    group_id: Option<&'a RawValue>,
    #[serde(borrow)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    sent_at: Option<&'a RawValue>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
    #[serde(borrow)]
    traits: Option<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
}

impl Event {
    /// Reads one event from its JSON text and says whom it is about.
    ///
    /// `fresh_id` supplies the id of an event that brings none; its retries cannot be recognised.
    pub fn parse(
        text: &str,
        receipt: &Receipt<'_>,
        fresh_id: &mut dyn FnMut() -> CompactString,
    ) -> Result<Arrival, Refusal> {
        if text.len() > limits::EVENT_BYTES_MAX {
            return Err(Refusal::new(
                "event_too_large",
                "",
                format!("is {} bytes; an event may have {}", text.len(), limits::EVENT_BYTES_MAX),
            ));
        }
        let wire: Wire<'_> = serde_json::from_str(text).map_err(|error| {
            // The error may repeat what was sent.
            let (line, column) = (error.line(), error.column());
            let detail =
                format!("is not an event object, from line {line} column {column} of it on; send a JSON object");
            Refusal::new("malformed_event", "", detail)
        })?;
        let inherited =
            if wire.context.is_none() { receipt.context.map_or(0, |context| context.get().len()) } else { 0 };
        if text.len() + inherited > limits::EVENT_BYTES_MAX {
            return Err(Refusal::new(
                "event_too_large",
                "/context",
                format!(
                    "has {} bytes with the call's context; an event may have {}",
                    text.len() + inherited,
                    limits::EVENT_BYTES_MAX
                ),
            ));
        }
        let kind = receipt.kind.map_or_else(|| wire.kind(), Ok)?;
        let name = wire.name_of(kind)?;
        let message_id = wire.message_id(fresh_id)?;
        let sent_at = match wire.sent_at {
            Some(raw) => instant(raw, "/sentAt")?,
            None => receipt.sent_at,
        };
        let stated = wire.timestamp.map_or(Ok(None), |raw| instant(raw, "/timestamp"))?;
        let at = receipt.settle_time(stated, sent_at)?;
        let user_id = text_field(wire.user_id, "/userId")?;
        let anonymous_id = text_field(wire.anonymous_id, "/anonymousId")?;
        let mut external = receipt.external_ids(wire.context.or(receipt.context))?;
        let whose = if user_id.is_none() && anonymous_id.is_none() && !receipt.names_someone() && !external.is_empty() {
            Whose { fragment: external.remove(0), link: None, beside: None }
        } else {
            receipt.whose(user_id.as_deref(), anonymous_id.as_deref())?
        };
        let Whose { fragment, link, beside } = whose;
        let mut links: Vec<(Identifier, How)> = Vec::new();
        let how = if kind == EventKind::Identify { How::Identify } else { How::Event };
        let mut add = |identifier: Identifier, how| {
            if identifier != fragment && links.iter().all(|(known, _)| *known != identifier) {
                links.push((identifier, how));
            }
        };
        link.into_iter().for_each(|link| add(link, how));
        external.into_iter().for_each(|identifier| add(identifier, How::ExternalId));
        if kind == EventKind::Alias {
            add(receipt.previous(wire.previous_id, &fragment)?, How::Alias);
        }
        receipt.check_retraction(wire.context.or(receipt.context))?;
        let mut entities = receipt.entities(wire.context.or(receipt.context))?;
        if kind == EventKind::Group {
            let account = receipt.account(wire.group_id)?;
            entities.retain(|entity| *entity != account);
            entities.push(account);
        }
        let payload = wire.payload(receipt, beside)?;
        let claimed = receipt.speaker != Speaker::Server;
        let event = Self { kind, name, message_id, at, received_at: receipt.received_at, claimed, payload };
        Ok(Arrival { fragment, event, links, entities })
    }

    /// The name under which plugins observe it: a track's own, else `$identify`, `$page`, `$screen`.
    pub fn observed_name(&self) -> &str {
        match self.kind {
            EventKind::Track => &self.name,
            EventKind::Identify => "$identify",
            EventKind::Page => "$page",
            EventKind::Screen => "$screen",
            EventKind::Alias => "$alias",
            EventKind::Group => "$group",
        }
    }

    /// The 128-bit hash by which the event's retries are recognised, within one fragment.
    pub fn id_hash(&self) -> [u8; 16] {
        id_hash(&self.message_id)
    }
}

/// The hash of a `messageId`.
pub(crate) fn id_hash(message_id: &str) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(message_id.as_bytes()).to_be_bytes()
}

impl<'a> Wire<'a> {
    fn kind(&self) -> Result<EventKind, Refusal> {
        let name = text_field(self.kind, "/type")?.ok_or_else(|| {
            Refusal::new("type_missing", "/type", "has no type; send track, identify, page, screen, group or alias")
        })?;
        EventKind::parse(&name).ok_or_else(|| {
            Refusal::new(
                "type_unsupported",
                "/type",
                format!("{} is not supported here; send track, identify, page, screen, group or alias", quoted(&name)),
            )
        })
    }

    fn name_of(&self, kind: EventKind) -> Result<CompactString, Refusal> {
        let (raw, pointer) = match kind {
            EventKind::Track => (self.event, "/event"),
            EventKind::Page | EventKind::Screen => (self.name, "/name"),
            EventKind::Identify | EventKind::Alias | EventKind::Group => (None, "/event"),
        };
        let name = text_field(raw, pointer)?.unwrap_or_default();
        if name.trim().is_empty() && kind == EventKind::Track {
            return Err(Refusal::new(
                "event_name_missing",
                "/event",
                "a track call needs the event's name, such as \"Product Viewed\"",
            ));
        }
        if name.len() > limits::EVENT_NAME_BYTES_MAX {
            return Err(Refusal::new("event_name_too_long", pointer, "is longer than 256 bytes; shorten the name"));
        }
        Ok(CompactString::from(name.as_ref()))
    }

    fn message_id(&self, fresh_id: &mut dyn FnMut() -> CompactString) -> Result<CompactString, Refusal> {
        match text_field(self.message_id, "/messageId")? {
            None => Ok(fresh_id()),
            Some(id) if id.is_empty() => Err(Refusal::new(
                "message_id_invalid",
                "/messageId",
                "is empty; send a unique id or leave the field out",
            )),
            Some(id) if id.chars().count() > limits::MESSAGE_ID_CHARS_MAX => {
                Err(Refusal::new("message_id_invalid", "/messageId", "is longer than 100 characters; send a UUID"))
            }
            Some(id) => Ok(CompactString::from(id.as_ref())),
        }
    }

    /// The parts that are kept as they came, joined to one object.
    fn payload(&self, receipt: &Receipt<'_>, other: Option<(&str, &str)>) -> Result<Box<str>, Refusal> {
        let parts =
            [("properties", self.properties), ("traits", self.traits), ("context", self.context.or(receipt.context))];
        let length: usize = parts.iter().filter_map(|(_, raw)| raw.map(|raw| raw.get().len() + 16)).sum();
        let mut payload = String::with_capacity(length + 64);
        for (name, raw) in parts {
            let Some(raw) = raw.filter(|raw| raw.get() != "null") else { continue };
            if !raw.get().starts_with('{') {
                return Err(Refusal::new(
                    "wrong_type",
                    format!("/{name}"),
                    "is not an object; send a JSON object or leave it out",
                ));
            }
            if raw.get() == "{}" {
                continue;
            }
            payload.push(if payload.is_empty() { '{' } else { ',' });
            payload.push('"');
            payload.push_str(name);
            payload.push_str("\":");
            payload.push_str(raw.get());
        }
        let (previous, group) = (self.previous_id.and_then(text_of), self.group_id.and_then(text_of));
        let previous = previous.as_deref().map(|value| ("previousId", value));
        let group = group.as_deref().map(|value| ("groupId", value));
        for (name, value) in other.into_iter().chain(previous).chain(group) {
            payload.push(if payload.is_empty() { '{' } else { ',' });
            payload.push_str(&format!("\"{name}\":{}", serde_json::Value::from(value)));
        }
        payload.push_str(if payload.is_empty() { "{}" } else { "}" });
        Ok(payload.into())
    }
}

/// The text of a field; none where it is absent or null.
pub(crate) fn text_field<'a>(
    raw: Option<&'a RawValue>,
    pointer: &'static str,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    text_of(raw).map(Some).ok_or_else(|| Refusal::new("wrong_type", pointer, "is not a text; send it in quotes"))
}

/// The text that a JSON string stands for, borrowed where it holds no escapes; none for any other JSON value.
pub(crate) fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(text).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn instant(raw: &RawValue, pointer: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = text_field(Some(raw), pointer)? else { return Ok(None) };
    Timestamp::parse(&text)
        .map(Some)
        .map_err(|error| Refusal::new("timestamp_invalid", pointer, format!("{} is {error}", quoted(&text))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Namespaces;

    const RECEIVED: Timestamp = Timestamp(1_767_607_200_000); // 2026-01-05T10:00:00Z

    fn receipt() -> Receipt<'static> {
        Receipt {
            received_at: RECEIVED,
            sent_at: None,
            speaker: Speaker::Server,
            kind: None,
            user_id: None,
            anonymous_id: None,
            context: None,
            namespaces: namespaces(),
        }
    }

    fn namespaces() -> &'static Namespaces {
        static NAMESPACES: std::sync::OnceLock<Namespaces> = std::sync::OnceLock::new();
        NAMESPACES.get_or_init(Namespaces::default)
    }

    fn parse(text: &str) -> Result<Arrival, Refusal> {
        parse_by(Speaker::Server, text)
    }

    fn parse_by(speaker: Speaker, text: &str) -> Result<Arrival, Refusal> {
        Event::parse(text, &Receipt { speaker, ..receipt() }, &mut || "fresh".into())
    }

    /// Whose an event is, and who else is the same person.
    fn whose(speaker: Speaker, text: &str) -> Result<String, &'static str> {
        let arrival = parse_by(speaker, text).map_err(|refusal| refusal.code)?;
        Ok(arrival.named().map(Identifier::as_str).collect::<Vec<_>>().join(" "))
    }

    fn refused(text: &str) -> (&'static str, String) {
        let refusal = parse(text).expect_err("the event must be refused");
        (refusal.code, refusal.pointer)
    }

    #[test]
    fn an_event_keeps_what_it_said() {
        let Arrival { fragment, event, .. } = parse(
            r#"{"type":"track","event":"Product Viewed","messageId":"m-1","userId":"42","anonymousId":"a-\"1",
                "timestamp":"2026-01-05T09:59:00Z","properties":{"price":1.10},"integrations":{"All":true}}"#,
        )
        .expect("a good event");
        assert_eq!(fragment.as_str(), "user:42");
        assert_eq!((event.name.as_str(), event.message_id.as_str()), ("Product Viewed", "m-1"));
        assert_eq!(event.at.to_string(), "2026-01-05T09:59:00Z");
        assert_eq!(event.payload.as_ref(), r#"{"properties":{"price":1.10},"anonymousId":"a-\"1"}"#);
    }

    #[test]
    fn a_browser_speaks_for_its_anonymous_id_only() {
        let text = r#"{"type":"identify","userId":"42","anonymousId":"a-1","context":{"externalIds":[{"id":"7","type":"device"}]}}"#;
        let arrival = parse_by(Speaker::Browser, text).expect("a claim is accepted");
        assert_eq!((arrival.fragment.as_str(), arrival.links.len()), ("anonymous:a-1", 0));
        assert!(arrival.event.payload.contains(r#""userId":"42""#));
        assert_eq!(whose(Speaker::Browser, r#"{"type":"identify","userId":"42"}"#), Err("anonymous_id_missing"));
        let alias = r#"{"type":"alias","userId":"42","anonymousId":"a-1","previousId":"a-0"}"#;
        assert_eq!(whose(Speaker::Browser, alias), Err("link_not_allowed"));
    }

    #[test]
    fn whoever_is_named_together_is_one_person_where_the_caller_may_say_so() {
        let both = r#"{"type":"page","userId":"42","anonymousId":"a-1"}"#;
        assert_eq!(whose(Speaker::Server, both).as_deref(), Ok("user:42 anonymous:a-1"));
        let alias = r#"{"type":"alias","userId":"42","previousId":"a-0"}"#;
        assert_eq!(whose(Speaker::Server, alias).as_deref(), Ok("user:42 anonymous:a-0"));
        assert_eq!(whose(Speaker::Server, r#"{"type":"alias","userId":"42"}"#), Err("previous_id_missing"));
        assert_eq!(
            whose(Speaker::Server, r#"{"type":"alias","anonymousId":"a","previousId":"b"}"#),
            Err("user_id_missing")
        );
        let external = |who: &str, ids: &str| format!(r#"{{"type":"page",{who}"context":{{"externalIds":{ids}}}}}"#);
        let ids = r#"[{"id":"X 1","type":"loyalty","collection":"users","encoding":"none"},{"id":"a-2","type":"anonymous_id"},{"id":"co","type":"any","collection":"accounts"}]"#;
        assert_eq!(
            whose(Speaker::Server, &external(r#""userId":"42","#, ids)).as_deref(),
            Ok("user:42 loyalty:X1 anonymous:a-2")
        );
        assert_eq!(whose(Speaker::Server, &external("", ids)).as_deref(), Ok("loyalty:X1 anonymous:a-2"));
        assert_eq!(
            whose(Speaker::Server, &external(r#""userId":"42","#, r#"[{"id":"1","type":"shoe"}]"#)),
            Err("namespace_unknown")
        );
        assert_eq!(
            whose(Speaker::Server, &external(r#""userId":"42","#, r#"[{"id":"0","type":"device"}]"#)),
            Err("identifier_blocked")
        );
        assert_eq!(whose(Speaker::Server, &external(r#""userId":"42","#, r#"{"id":"0"}"#)), Err("wrong_type"));
        let proven = || Speaker::Proven(namespaces().parse("user:42").expect("an identifier"));
        assert_eq!(whose(proven(), both).as_deref(), Ok("user:42 anonymous:a-1"));
        assert_eq!(whose(proven(), r#"{"type":"page"}"#).as_deref(), Ok("user:42"));
        assert_eq!(whose(proven(), r#"{"type":"page","userId":"43"}"#), Err("token_for_another"));
        assert_eq!(whose(Speaker::Server, r#"{"type":"page","userId":"null"}"#), Err("identifier_blocked"));
        assert_eq!(
            whose(Speaker::Server, r#"{"type":"page","userId":"42","anonymousId":"undefined"}"#),
            Err("identifier_blocked")
        );
    }

    #[test]
    fn an_event_may_be_about_entities_too() {
        let entities = |speaker, text: &str| {
            let arrival = parse_by(speaker, text).map_err(|refusal| refusal.code)?;
            Ok(arrival.entities.iter().map(Identifier::to_string).collect::<Vec<_>>().join(" "))
        };
        let named = |entities: &str| {
            format!(r#"{{"type":"page","userId":"42","anonymousId":"a","context":{{"entities":{entities}}}}}"#)
        };
        let both = named(r#"{"household":"h1","area":"SW1"}"#);
        assert_eq!(entities(Speaker::Server, &both).as_deref(), Ok("area:SW1 household:h1"));
        assert_eq!(entities(Speaker::Browser, &both).as_deref(), Ok(""));
        assert_eq!(entities(Speaker::Server, &named(r#"{"galaxy":"1"}"#)), Err("namespace_unknown"));
        assert_eq!(entities(Speaker::Server, &named(r#"{"household":"null"}"#)), Err("identifier_blocked"));
        assert_eq!(entities(Speaker::Server, &named(r#"["h1"]"#)), Err("wrong_type"));
        let group = r#"{"type":"group","userId":"42","groupId":"acme","traits":{"plan":"pro"}}"#;
        // What is stored names the same as what arrived.
        let odd = named(r#"{"household":" \u0068\"1","product":"a:b","account":"acme"}"#);
        let both_ways = group.replace("\"traits\"", r#""context":{"entities":{"account":"acme","area":"x"}},"traits""#);
        let other_account = both_ways.replace("acme\",\"area", "other\",\"area");
        let track = both_ways.replace("group\",", "track\",\"event\":\"A\",");
        for (speaker, text) in [&both, &odd, group, &both_ways, &other_account, &track]
            .map(|text| (Speaker::Server, text))
            .into_iter()
            .chain([(Speaker::Browser, &*both), (Speaker::Server, r#"{"type":"page","userId":"1"}"#)])
        {
            let arrival = parse_by(speaker, text).expect("a good event");
            assert_eq!(arrival.event.entities(), arrival.entities, "{text}");
        }
        let arrival = parse(&other_account).expect("a good event");
        let found: Vec<_> = arrival.entities.iter().map(Identifier::as_str).collect();
        assert_eq!(found, ["account:other", "area:x", "account:acme"]);
        assert_eq!(entities(Speaker::Server, group).as_deref(), Ok("account:acme"));
        assert_eq!(entities(Speaker::Server, r#"{"type":"group","userId":"42"}"#), Err("group_id_missing"));
        assert_eq!(
            entities(Speaker::Browser, r#"{"type":"group","anonymousId":"a","groupId":"acme"}"#),
            Err("link_not_allowed")
        );
    }

    #[test]
    fn only_a_server_takes_back_what_was_counted() {
        let retraction =
            r#"{"type":"track","event":"Undone","userId":"42","anonymousId":"a","context":{"retracts":"m-1"}}"#;
        assert!(whose(Speaker::Server, retraction).is_ok());
        let refusal = parse_by(Speaker::Browser, retraction).expect_err("a browser");
        assert_eq!((refusal.code, refusal.pointer.as_str()), ("retraction_not_allowed", "/context/retracts"));
        let proven = Speaker::Proven(namespaces().parse("user:42").expect("an identifier"));
        assert_eq!(whose(proven, retraction), Err("retraction_not_allowed"));
        assert!(whose(Speaker::Browser, &retraction.replace("\"m-1\"", "null")).is_ok());
    }

    #[test]
    fn a_fault_names_its_field() {
        assert_eq!(refused("[]").0, "malformed_event");
        assert_eq!(refused(r#"{"event":"A","userId":"1"}"#), ("type_missing", "/type".into()));
        assert_eq!(refused(r#"{"type":"buy","userId":"1"}"#), ("type_unsupported", "/type".into()));
        assert_eq!(refused(r#"{"type":"track","userId":"1"}"#), ("event_name_missing", "/event".into()));
        assert_eq!(refused(r#"{"type":"track","event":" ","userId":"1"}"#), ("event_name_missing", "/event".into()));
        assert_eq!(refused(r#"{"type":"track","event":7,"userId":"1"}"#), ("wrong_type", "/event".into()));
        assert_eq!(refused(r#"{"type":"track","event":"A"}"#), ("identifier_missing", "/anonymousId".into()));
        assert_eq!(refused(r#"{"type":"track","event":"A","userId":17850}"#), ("wrong_type", "/userId".into()));
        assert_eq!(refused(r#"{"type":"track","event":"A","userId":" "}"#), ("identifier_invalid", "/userId".into()));
        let timed = |time: &str| format!(r#"{{"type":"page","userId":"1","timestamp":{time}}}"#);
        assert_eq!(refused(&timed("\"yesterday\"")), ("timestamp_invalid", "/timestamp".into()));
        assert_eq!(refused(&timed("1767607200")), ("wrong_type", "/timestamp".into()));
        assert_eq!(refused(r#"{"type":"page","userId":"1","properties":[1]}"#), ("wrong_type", "/properties".into()));
        let named = |length: usize| format!(r#"{{"type":"track","userId":"1","event":"{}"}}"#, "n".repeat(length));
        assert!(parse(&named(256)).is_ok());
        assert_eq!(refused(&named(257)), ("event_name_too_long", "/event".into()));
        let identified =
            |length: usize| format!(r#"{{"type":"page","userId":"1","messageId":"{}"}}"#, "é".repeat(length));
        assert!(parse(&identified(100)).is_ok());
        assert_eq!(refused(&identified(101)), ("message_id_invalid", "/messageId".into()));
        let sized = |length: usize| {
            let frame = r#"{"type":"page","userId":"1","properties":{"a":""}}"#;
            frame.replace("\"\"", &format!("\"{}\"", "x".repeat(length - frame.len())))
        };
        assert!(parse(&sized(limits::EVENT_BYTES_MAX)).is_ok());
        assert_eq!(refused(&sized(limits::EVENT_BYTES_MAX + 1)), ("event_too_large", String::new()));
    }
}
