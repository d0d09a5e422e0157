//! Events: the shape in which they arrive (Segment's tracking API), the rules they must keep, and the form in which they are stored.
//!
//! Source of the wire form: Segment HTTP Tracking API. An [`Event`] is what the rest of the house sees: validated, with its time
//! settled, and its payload as one JSON object. Knows nothing of plugins and nothing of who is allowed to send what, except what
//! [`Receipt`] tells it.

use std::borrow::Cow;

use compact_str::CompactString;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::identity::{Identifier, IdentifierError, Namespace};
use crate::limits;
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
}

impl EventKind {
    /// All kinds; the position is the code on disk.
    pub const ALL: [Self; 4] = [Self::Track, Self::Identify, Self::Page, Self::Screen];

    /// The `type` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
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
    /// A JSON object with those of `properties`, `traits`, `context`, `userId`, `anonymousId` that came and are not in the fields above.
    pub payload: Box<str>,
}

/// Who may be named by the events of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A trusted server: events belong to the `userId` where there is one.
    Server,
    /// A browser: a `userId` is a claim, kept in the payload, and the event belongs to the `anonymousId`.
    Browser,
}

/// What is known of the call that an event came with.
#[derive(Clone, Copy, Debug)]
pub struct Receipt<'a> {
    /// When the call arrived.
    pub received_at: Timestamp,
    /// When the client says that it sent the call, by its own clock.
    pub sent_at: Option<Timestamp>,
    /// Who sent it.
    pub speaker: Speaker,
    /// The event's type where the endpoint fixes it.
    pub kind: Option<EventKind>,
    /// The identifiers of the call (the visitor of a decide call), for events that name none.
    pub user_id: Option<&'a str>,
    /// See `user_id`.
    pub anonymous_id: Option<&'a str>,
    /// The batch's `context`, for events that have none.
    pub context: Option<&'a RawValue>,
}

/// An identifier that is named beside the one that an event belongs to: its JSON field and its value.
pub type Beside<'t> = (&'static str, &'t str);

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
    /// Reads one event from its JSON text and says whose it is.
    ///
    /// `fresh_id` supplies the id of an event that brings none; its retries cannot be recognised.
    pub fn parse(
        text: &str,
        receipt: &Receipt<'_>,
        fresh_id: &mut dyn FnMut() -> CompactString,
    ) -> Result<(Identifier, Self), Refusal> {
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
        let (fragment, other) = receipt.whose(user_id.as_deref(), anonymous_id.as_deref())?;
        let payload = wire.payload(receipt, other)?;
        let event = Self { kind, name, message_id, at, received_at: receipt.received_at, payload };
        Ok((fragment, event))
    }

    /// The name under which plugins observe it: a track's own, else `$identify`, `$page`, `$screen`.
    pub fn observed_name(&self) -> &str {
        match self.kind {
            EventKind::Track => &self.name,
            EventKind::Identify => "$identify",
            EventKind::Page => "$page",
            EventKind::Screen => "$screen",
        }
    }

    /// The 128-bit hash by which the event's retries are recognised, within one fragment.
    pub fn id_hash(&self) -> [u8; 16] {
        xxhash_rust::xxh3::xxh3_128(self.message_id.as_bytes()).to_be_bytes()
    }
}

impl Receipt<'_> {
    /// When an event happened: its stated time, corrected for a client clock that is off by more than a minute, never after its
    /// receipt; the receipt where it states none.
    pub fn settle_time(&self, stated: Option<Timestamp>, sent_at: Option<Timestamp>) -> Result<Timestamp, Refusal> {
        let Some(stated) = stated else { return Ok(self.received_at) };
        let skew_ms = sent_at.map_or(0, |sent_at| self.received_at.0 - sent_at.0);
        let corrected = if skew_ms.abs() > limits::CLOCK_SKEW_MS_MIN { stated.plus_ms(skew_ms) } else { stated };
        if corrected.0 - self.received_at.0 > limits::FUTURE_MS_MAX {
            return Err(Refusal::new(
                "timestamp_in_future",
                "/timestamp",
                format!(
                    "{corrected} is more than 24 hours ahead of its receipt at {}; check the clock that set it",
                    self.received_at
                ),
            ));
        }
        Ok(corrected.min(self.received_at))
    }

    /// The fragment that an event belongs to, and the identifier that it names beside.
    pub fn whose<'t>(
        &'t self,
        user_id: Option<&'t str>,
        anonymous_id: Option<&'t str>,
    ) -> Result<(Identifier, Option<Beside<'t>>), Refusal> {
        let names_none = user_id.is_none() && anonymous_id.is_none();
        let (user_id, anonymous_id) =
            if names_none { (self.user_id, self.anonymous_id) } else { (user_id, anonymous_id) };
        let identifier = |namespace, value, pointer: &str| {
            Identifier::new(namespace, value)
                .map_err(|error: IdentifierError| Refusal::new("identifier_invalid", pointer, error.to_string()))
        };
        match (self.speaker, user_id, anonymous_id) {
            (Speaker::Server, Some(user), other) => {
                Ok((identifier(Namespace::User, user, "/userId")?, other.map(|value| ("anonymousId", value))))
            }
            (Speaker::Browser, claim, Some(anonymous)) => {
                Ok((identifier(Namespace::Anonymous, anonymous, "/anonymousId")?, claim.map(|value| ("userId", value))))
            }
            (Speaker::Server, None, Some(anonymous)) => {
                Ok((identifier(Namespace::Anonymous, anonymous, "/anonymousId")?, None))
            }
            (Speaker::Browser, Some(_), None) => Err(Refusal::new(
                "anonymous_id_missing",
                "/anonymousId",
                "a call with the publishable key speaks for an anonymousId; send it, or use the write key from your server",
            )),
            (_, None, None) => Err(Refusal::new(
                "identifier_missing",
                "/anonymousId",
                "names no visitor; send userId, anonymousId or both",
            )),
        }
    }
}

impl<'a> Wire<'a> {
    fn kind(&self) -> Result<EventKind, Refusal> {
        let name = text_field(self.kind, "/type")?.ok_or_else(|| {
            Refusal::new("type_missing", "/type", "has no type; send track, identify, page or screen")
        })?;
        EventKind::parse(&name).ok_or_else(|| {
            Refusal::new(
                "type_unsupported",
                "/type",
                format!("{} is not supported here; send track, identify, page or screen", quoted(&name)),
            )
        })
    }

    fn name_of(&self, kind: EventKind) -> Result<CompactString, Refusal> {
        let (raw, pointer) = match kind {
            EventKind::Track => (self.event, "/event"),
            EventKind::Page | EventKind::Screen => (self.name, "/name"),
            EventKind::Identify => (None, "/event"),
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
    fn payload(&self, receipt: &Receipt<'_>, other: Option<Beside<'_>>) -> Result<Box<str>, Refusal> {
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
        if let Some((name, value)) = other {
            payload.push(if payload.is_empty() { '{' } else { ',' });
            payload.push_str(&format!("\"{name}\":{}", serde_json::Value::from(value)));
        }
        payload.push_str(if payload.is_empty() { "{}" } else { "}" });
        Ok(payload.into())
    }
}

/// The text of a field; none where it is absent or null.
fn text_field<'a>(raw: Option<&'a RawValue>, pointer: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
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
        }
    }

    fn parse(text: &str) -> Result<(Identifier, Event), Refusal> {
        Event::parse(text, &receipt(), &mut || "fresh".into())
    }

    fn refused(text: &str) -> (&'static str, String) {
        let refusal = parse(text).expect_err("the event must be refused");
        (refusal.code, refusal.pointer)
    }

    #[test]
    fn an_event_keeps_what_it_said() {
        let (fragment, event) = parse(
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
        let browser = Receipt { speaker: Speaker::Browser, ..receipt() };
        let text = r#"{"type":"identify","userId":"42","anonymousId":"a-1"}"#;
        let (fragment, event) = Event::parse(text, &browser, &mut || "fresh".into()).expect("a claim is accepted");
        assert_eq!(fragment.as_str(), "anonymous:a-1");
        assert_eq!(event.payload.as_ref(), r#"{"userId":"42"}"#);
        let alone = r#"{"type":"identify","userId":"42"}"#;
        let refusal = Event::parse(alone, &browser, &mut || "fresh".into()).expect_err("no anonymousId");
        assert_eq!(refusal.code, "anonymous_id_missing");
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

    #[test]
    fn times_are_settled_by_receipt_and_clock_skew() {
        let settle = |stated_ms: i64, sent_ms: Option<i64>| {
            receipt()
                .settle_time(Some(RECEIVED.plus_ms(stated_ms)), sent_ms.map(|ms| RECEIVED.plus_ms(ms)))
                .map(|at| at.0 - RECEIVED.0)
                .map_err(|refusal| refusal.code)
        };
        let (minute, day) = (60_000, 24 * 60 * 60 * 1000);
        assert_eq!(settle(-500 * day, None), Ok(-500 * day), "any age");
        assert_eq!(settle(-5_000, Some(-minute)), Ok(-5_000), "a minute off is left alone");
        assert_eq!(settle(-5_000, Some(-minute - 1)), Ok(0), "more is corrected, and then clamped");
        assert_eq!(settle(10 * minute, Some(11 * minute)), Ok(-minute), "a fast clock is corrected");
        assert_eq!(settle(day, None), Ok(0), "up to a day ahead is the receipt");
        assert_eq!(settle(day + 1, None), Err("timestamp_in_future"));
    }
}
