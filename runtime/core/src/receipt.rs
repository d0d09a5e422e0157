//! Receipts: what is known of the call that an event came with. When it came settles the event's time; who made it settles whom the event may
//! be about.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{Event, EventKind, Refusal, quoted, text_field};
use crate::identity::{ENTITIES, Identifier, NamespaceKind, Namespaces};
use crate::limits;
use crate::value::Timestamp;

/// Who may be named by the events of one call, and what they may say of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A trusted server, or a browser whose site takes its word: events belong to the `userId` where there is one, and whoever is named
    /// with it is the same person.
    Server,
    /// A browser: a `userId` is a claim, kept in the payload, and the event belongs to the `anonymousId`.
    Browser,
    /// A browser with the site's token for this user: events belong to the user, who is the same person as the `anonymousId`.
    Proven(Identifier),
}

/// Whose an event is.
pub(crate) struct Whose<'t> {
    pub(crate) fragment: Identifier,
    pub(crate) link: Option<Identifier>,
    /// What else it named, to be kept in the payload: the JSON field and its value.
    pub(crate) beside: Option<(&'static str, &'t str)>,
}

/// What is known of the call that an event came with.
#[derive(Clone, Debug)]
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
    /// The identifiers that there are.
    pub namespaces: &'a Namespaces,
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

    /// The visitor of the call: the fragment that its events belong to, and another identifier of the same person.
    pub fn visitor(&self) -> Result<(Identifier, Option<Identifier>), Refusal> {
        self.whose(None, None).map(|whose| (whose.fragment, whose.link))
    }

    /// Whether the call itself names somebody.
    pub(crate) fn names_someone(&self) -> bool {
        self.user_id.is_some() || self.anonymous_id.is_some() || matches!(self.speaker, Speaker::Proven(_))
    }

    fn identifier(&self, namespace: &str, value: &str, pointer: &str) -> Result<Identifier, Refusal> {
        self.namespaces
            .identifier(namespace, value)
            .map_err(|error| Refusal::new(error.code(), pointer, error.to_string()))
    }

    /// Whose an event is that names these.
    pub(crate) fn whose<'t>(
        &'t self,
        user_id: Option<&'t str>,
        anonymous_id: Option<&'t str>,
    ) -> Result<Whose<'t>, Refusal> {
        let names_none = user_id.is_none() && anonymous_id.is_none();
        let (user_id, anonymous_id) =
            if names_none { (self.user_id, self.anonymous_id) } else { (user_id, anonymous_id) };
        let user = |value| self.identifier("user", value, "/userId");
        let anonymous = |value| self.identifier("anonymous", value, "/anonymousId");
        match (&self.speaker, user_id, anonymous_id) {
            (Speaker::Proven(proven), claim, other) => {
                if let Some(claim) = claim
                    && user(claim)? != *proven
                {
                    let detail = format!(
                        "is not the user of the token, {}; sign in again, or send that user's events with its own token",
                        proven.value()
                    );
                    return Err(Refusal::new("token_for_another", "/userId", detail));
                }
                let beside = other.map(|value| ("anonymousId", value));
                Ok(Whose { fragment: proven.clone(), link: other.map(anonymous).transpose()?, beside })
            }
            (Speaker::Server, Some(value), other) => {
                let beside = other.map(|value| ("anonymousId", value));
                Ok(Whose { fragment: user(value)?, link: other.map(anonymous).transpose()?, beside })
            }
            (Speaker::Browser, claim, Some(value)) => {
                Ok(Whose { fragment: anonymous(value)?, link: None, beside: claim.map(|value| ("userId", value)) })
            }
            (Speaker::Server, None, Some(value)) => Ok(Whose { fragment: anonymous(value)?, link: None, beside: None }),
            (Speaker::Browser, Some(_), None) => Err(Refusal::new(
                "anonymous_id_missing",
                "/anonymousId",
                "a call with the publishable key speaks for an anonymousId; send it, or the user's token, or use the write key from your server",
            )),
            (_, None, None) => Err(Refusal::new(
                "identifier_missing",
                "/anonymousId",
                "names no visitor; send userId, anonymousId or both",
            )),
        }
    }

    /// The identifier that an `alias` says is the same person's. It names no namespace: it is that of a visitor who was not known.
    pub(crate) fn previous(&self, raw: Option<&RawValue>, fragment: &Identifier) -> Result<Identifier, Refusal> {
        let value = text_field(raw, "/previousId")?.ok_or_else(|| {
            Refusal::new("previous_id_missing", "/previousId", "an alias needs the visitor's previous id")
        })?;
        if self.speaker == Speaker::Browser {
            let detail = "the publishable key alone cannot say who is who; send the user's token, or use the write key from your server";
            return Err(Refusal::new("link_not_allowed", "/previousId", detail));
        }
        if self.namespaces.kind(fragment) != Some(NamespaceKind::User) {
            return Err(Refusal::new(
                "user_id_missing",
                "/userId",
                "an alias needs the userId that the visitor has now",
            ));
        }
        self.identifier("anonymous", &value, "/previousId")
    }

    /// The identifiers of `context.externalIds`, where the caller may say who is who. Source: Segment, "Identity Resolution ExternalIDs".
    pub(crate) fn external_ids(&self, context: Option<&RawValue>) -> Result<Vec<Identifier>, Refusal> {
        let Some(context) = context.filter(|context| context.get().contains("\"externalIds\"")) else {
            return Ok(Vec::new());
        };
        if self.speaker != Speaker::Server {
            return Ok(Vec::new());
        }
        let place = "/context/externalIds";
        let form = "a list of {\"id\": \"…\", \"type\": \"email_sha256\"}";
        let listed: ExternalIds<'_> = serde_json::from_str(context.get())
            .map_err(|_| Refusal::new("wrong_type", place, format!("is not {form}")))?;
        let listed = listed.external_ids.unwrap_or_default();
        if listed.len() > limits::EVENT_IDENTIFIERS_MAX {
            let detail =
                format!("holds {} identifiers; an event names at most {}", listed.len(), limits::EVENT_IDENTIFIERS_MAX);
            return Err(Refusal::new("too_many", place, detail));
        }
        let mut identifiers = Vec::with_capacity(listed.len());
        for (index, entry) in listed.iter().enumerate() {
            // Of companies, not of persons.
            if entry.collection.as_deref().is_some_and(|collection| collection != "users") {
                continue;
            }
            let name = match entry.kind.as_ref() {
                "user_id" => "user",
                "anonymous_id" => "anonymous",
                name => name,
            };
            let known = self.namespaces.get(name).filter(|namespace| namespace.kind != NamespaceKind::Entity);
            if known.is_none() {
                let detail = format!(
                    "{} is no namespace of persons here; declare it in the configuration, under identity.namespaces",
                    quoted(name)
                );
                return Err(Refusal::new("namespace_unknown", format!("{place}/{index}/type"), detail));
            }
            identifiers.push(self.identifier(name, &entry.id, &format!("{place}/{index}/id"))?);
        }
        Ok(identifiers)
    }

    /// The entities of `context.entities`, where the caller may say what somebody belongs to.
    pub(crate) fn entities(&self, context: Option<&RawValue>) -> Result<Vec<Identifier>, Refusal> {
        if self.speaker != Speaker::Server {
            return Ok(Vec::new());
        }
        let place = "/context/entities";
        let named = named_entities(context).map_err(|_| {
            Refusal::new("wrong_type", place, "is not an object of texts, such as {\"household\": \"h1\"}")
        })?;
        if named.len() > limits::EVENT_ENTITIES_MAX {
            let detail =
                format!("names {} entities; an event names at most {}", named.len(), limits::EVENT_ENTITIES_MAX);
            return Err(Refusal::new("too_many", place, detail));
        }
        let identifier = |(name, value): (Cow<'_, str>, Cow<'_, str>)| {
            if !ENTITIES.contains(&name.as_ref()) {
                let detail = format!("{} is no kind of entity; there are {}", quoted(&name), ENTITIES.join(", "));
                return Err(Refusal::new("namespace_unknown", place, detail));
            }
            self.identifier(&name, &value, &format!("{place}/{name}"))
        };
        named.into_iter().map(identifier).collect()
    }

    /// Refuses `context.retracts` of whoever may not take back what others said.
    pub(crate) fn check_retraction(&self, context: Option<&RawValue>) -> Result<(), Refusal> {
        let Some(context) = context.filter(|context| context.get().contains("\"retracts\"")) else { return Ok(()) };
        let names_one = |context: Retraction<'_>| context.retracts.is_some_and(|raw| raw.get() != "null");
        if self.speaker == Speaker::Server || !serde_json::from_str(context.get()).is_ok_and(names_one) {
            return Ok(());
        }
        let detail =
            "a browser cannot take back what was counted; send the retraction with the write key from your server";
        Err(Refusal::new("retraction_not_allowed", "/context/retracts", detail))
    }

    /// The account of a `group` call.
    pub(crate) fn account(&self, group_id: Option<&RawValue>) -> Result<Identifier, Refusal> {
        let value = text_field(group_id, "/groupId")?
            .ok_or_else(|| Refusal::new("group_id_missing", "/groupId", "a group call needs the group's id"))?;
        if self.speaker != Speaker::Server {
            let detail = "a browser cannot say who belongs to what; send the group with the write key from your server";
            return Err(Refusal::new("link_not_allowed", "/groupId", detail));
        }
        self.identifier("account", &value, "/groupId")
    }
}

/// Entities by the name of their kind, as they were written.
type Named<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

#[derive(Deserialize)]
struct Entities<'a> {
    #[serde(borrow, default)]
    entities: Option<Named<'a>>,
}

/// What `context.entities` names.
fn named_entities(context: Option<&RawValue>) -> Result<Named<'_>, serde_json::Error> {
    let Some(context) = context.filter(|context| context.get().contains("\"entities\"")) else {
        return Ok(Named::new());
    };
    serde_json::from_str::<Entities<'_>>(context.get()).map(|named| named.entities.unwrap_or_default())
}

#[derive(Deserialize)]
struct EntityReads<'a> {
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "groupId")]
    group_id: Option<Cow<'a, str>>,
}

impl Event {
    /// The entities that it named when it was taken, which have a copy of it: those of [`Arrival`](crate::event::Arrival), whatever the settings are now.
    pub fn entities(&self) -> Vec<Identifier> {
        let group = self.kind == EventKind::Group;
        if self.claimed || (!group && !self.payload.contains("\"entities\"")) {
            return Vec::new();
        }
        let Ok(reads) = serde_json::from_str::<EntityReads<'_>>(&self.payload) else { return Vec::new() };
        let stored = |kind: &str, value: &str| Identifier::stored(&format!("{kind}:{}", value.trim())).ok();
        let named = named_entities(reads.context).unwrap_or_default();
        let known = named.iter().filter(|(kind, _)| ENTITIES.contains(&kind.as_ref()));
        let mut entities: Vec<_> = known.filter_map(|(kind, value)| stored(kind, value)).collect();
        if let Some(account) = reads.group_id.filter(|_| group).and_then(|value| stored("account", &value)) {
            entities.retain(|entity| *entity != account);
            entities.push(account);
        }
        entities
    }
}

#[derive(Deserialize)]
struct Retraction<'a> {
    #[serde(borrow, default)]
    retracts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExternalIds<'a> {
    #[serde(borrow, default)]
    external_ids: Option<Vec<ExternalId<'a>>>,
}

#[derive(Deserialize)]
struct ExternalId<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    collection: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVED: Timestamp = Timestamp(1_767_607_200_000); // 2026-01-05T10:00:00Z

    #[test]
    fn times_are_settled_by_receipt_and_clock_skew() {
        let settle = |stated_ms: i64, sent_ms: Option<i64>| {
            let namespaces = Namespaces::default();
            let receipt = Receipt {
                received_at: RECEIVED,
                sent_at: None,
                speaker: Speaker::Server,
                kind: None,
                user_id: None,
                anonymous_id: None,
                context: None,
                namespaces: &namespaces,
            };
            receipt
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
