//! Changes: the entries of the log, and their bytes.
//!
//! An entry is a kind byte, an envelope, and for an event its compressed payload; the two are separable, so that an erasure can replace
//! the payload and leave the envelope. A kind that this build does not know is an error of its own: it halts the shard, it is never
//! skipped.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::aggregate::Given;
use crate::control::{CatalogPut, OfferSwitch};
use crate::event::{Event, EventKind, id_hash};
use crate::identity::{Identifier, ShardId};
use crate::links::Word;
use crate::mart::Load;
use crate::offers::{DEFAULT_CHANNEL, Exposure};
use crate::payload;
use crate::release::Release;
use crate::value::Timestamp;

/// One entry of a data shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something happened to a visitor.
    Event {
        /// Whose event it is.
        fragment: Identifier,
        /// The event.
        event: Event,
    },
    /// Offers were chosen for a visitor.
    Decided {
        /// Who was to see them.
        fragment: Identifier,
        /// How often each was chosen, by minute.
        offers: Vec<DecidedOffer>,
        /// The experiments that these decisions exposed them to.
        exposures: Vec<Exposure>,
    },
    /// Two identifiers belong together, or no longer. The other's fragment has the same under the same id.
    Link {
        /// Whose half it is.
        fragment: Identifier,
        /// The other one.
        other: Identifier,
        /// What was said.
        word: Word,
    },
    /// A batch system says what it knows as of a watermark. Its payload is apart from its envelope, as that of an event is.
    Mart {
        /// Of whom.
        fragment: Identifier,
        /// What it says.
        load: Load,
    },
    /// What folds from here on.
    Activate(Activation),
    /// A place at which copies are compared: each says the hash of what it holds there. Changes nothing.
    Mark(u64),
    /// What edges run from here on; on the control shard only.
    Release(Release),
    /// Another catalogue takes force; on the control shard only.
    Catalog(CatalogPut),
    /// An offer is stopped, or no longer; on the control shard only.
    Switch(OfferSwitch),
    /// Nothing that was said of an identifier before counts any more, nor what was said before and comes later.
    Erase {
        /// Whose.
        fragment: Identifier,
        /// The erasure's id: the same for all identifiers of the person.
        erasure: [u8; 16],
        /// When it was asked for.
        at: Timestamp,
    },
    /// What an erasure has left of an entry.
    Erased {
        /// Whose it was.
        fragment: Identifier,
        /// What is left.
        remains: Remains,
    },
    /// Events that somebody who was erased had shared with an entity: nothing that they said counts there, whether they are ordered before it or come behind
    /// it.
    Withdraw {
        /// Whose: the entity's.
        fragment: Identifier,
        /// The erasure that it belongs to.
        erasure: [u8; 16],
        /// The hashes of their ids, up to [`WITHDRAWN_MAX`].
        ids: Vec<[u8; 16]>,
    },
}

/// What an erasure leaves of an entry: enough for its place in the log's checksum, and for its id to be known if it comes again. No name, no time, no other identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    /// Of an event: the hash of its id, and under which it counts once in its shard.
    pub ids: Option<([u8; 16], [u8; 16])>,
    /// The digest of its envelope.
    pub envelope: u64,
}

/// How often an offer was chosen for one visitor on one channel within one minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedOffer {
    /// The offer's id.
    pub offer: CompactString,
    /// The channel.
    pub channel: CompactString,
    /// The minute: its first instant.
    pub minute: Timestamp,
    /// How often.
    pub count: u32,
}

impl DecidedOffer {
    /// On the channel of whatever names none.
    pub fn on_web(offer: &str, minute: Timestamp, count: u32) -> Self {
        Self { offer: offer.into(), channel: DEFAULT_CHANNEL.into(), minute, count }
    }
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Written by a newer version.
    #[error("change kind {0} is unknown to this version; upgrade selvedge before opening this data")]
    UnknownKind(u8),
    /// Not what was written.
    #[error("corrupt change")]
    Corrupt,
}

/// Ids that one change withdraws.
pub const WITHDRAWN_MAX: usize = 1_024;

/// The newest version of changes that this build reads. The centre writes nothing newer than every registered edge reads.
pub const CHANGE_VERSION: u16 = 2;

const EVENT: u8 = 1;
const DECIDED: u8 = 2;
const ACTIVATE: u8 = 3;
const LINK: u8 = 4;
const MART: u8 = 5;
const ERASE: u8 = 6;
const MARK: u8 = 7;
const RELEASE: u8 = 8;
const ERASED: u8 = 9;
const WITHDRAW: u8 = 10;
const CATALOG: u8 = 11;
const SWITCH: u8 = 12;
/// Decided offers on other channels than the default one, or with exposures.
const DECIDED_ON: u8 = 13;
/// Beside an event's kind: a browser said it without proof.
const CLAIMED: u8 = 0x80;

/// What the centre needs to know of an entry's bytes, without making anything of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The shard in whose log it belongs; none where any will do.
    pub shard: Option<ShardId>,
    /// Under which it counts once in its shard, whoever sends it: of an event, the hash of its fragment and its `messageId`. What has none is
    /// known by its origin's number only.
    pub id: Option<[u8; 16]>,
    /// The hash of its envelope. An erasure leaves it, though nothing of the envelope itself but the fragment.
    pub envelope: u64,
}

#[derive(Serialize, Deserialize)]
struct EventEnvelope<'a> {
    fragment: &'a str,
    kind: u8,
    name: &'a str,
    message_id: &'a str,
    at: i64,
    received_after: i64,
}

/// Of offers on the default channel only: the form of all, before there were others.
#[derive(Deserialize)]
struct DecidedEnvelope<'a> {
    #[serde(borrow)]
    fragment: &'a str,
    /// Offer, minute, count.
    offers: Vec<(CompactString, Timestamp, u32)>,
}

#[derive(Deserialize)]
struct DecidedOnEnvelope<'a> {
    #[serde(borrow)]
    fragment: &'a str,
    offers: Vec<DecidedOffer>,
    exposures: Vec<Exposure>,
}

#[derive(Serialize, Deserialize)]
struct LinkEnvelope<'a> {
    fragment: &'a str,
    other: &'a str,
    word: Word,
}

#[derive(Serialize, Deserialize)]
struct MartEnvelope<'a> {
    fragment: &'a str,
    source: &'a str,
    block: &'a str,
    as_of: i64,
    id: &'a str,
    hash: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct EraseEnvelope<'a> {
    fragment: &'a str,
    erasure: [u8; 16],
    at: i64,
}

#[derive(Serialize, Deserialize)]
struct ErasedEnvelope<'a> {
    fragment: &'a str,
    remains: Remains,
}

#[derive(Serialize, Deserialize)]
struct WithdrawEnvelope<'a> {
    fragment: &'a str,
    erasure: [u8; 16],
    ids: Vec<[u8; 16]>,
}

/// What a load says: traits and aggregates by name.
type LoadPayload = (Vec<(CompactString, Box<str>)>, Vec<(CompactString, Given)>);

impl Change {
    /// The fragment that the change belongs to; none for an activation, which belongs to the whole shard.
    pub fn fragment(&self) -> Option<&Identifier> {
        match self {
            Self::Event { fragment, .. }
            | Self::Decided { fragment, .. }
            | Self::Link { fragment, .. }
            | Self::Mart { fragment, .. }
            | Self::Erase { fragment, .. }
            | Self::Erased { fragment, .. }
            | Self::Withdraw { fragment, .. } => Some(fragment),
            Self::Activate(_) | Self::Mark(_) | Self::Release(_) | Self::Catalog(_) | Self::Switch(_) => None,
        }
    }

    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(payload::compress_into)
    }

    /// The entry's bytes with the payload uncompressed: for what is compressed as a part of something larger.
    pub fn encode_plain(&self) -> Vec<u8> {
        self.encode_with(payload::copy_into)
    }

    /// The bytes of the entry of offers that were decided, and of the experiments that this exposed to.
    pub fn encode_decided(fragment: &Identifier, offers: &[DecidedOffer], exposures: &[Exposure]) -> Vec<u8> {
        // As the envelopes have it, field by field.
        let fragment = fragment.as_str();
        if exposures.is_empty() && offers.iter().all(|decided| decided.channel == DEFAULT_CHANNEL) {
            let decided = offers.iter().map(|decided| (&decided.offer, decided.minute, decided.count));
            append(DECIDED, &(fragment, decided.collect::<Vec<_>>()))
        } else {
            append(DECIDED_ON, &(fragment, offers, exposures))
        }
    }

    fn encode_with(&self, append_payload: fn(&mut Vec<u8>, &[u8])) -> Vec<u8> {
        match self {
            Self::Event { fragment, event } => {
                let envelope = EventEnvelope {
                    fragment: fragment.as_str(),
                    kind: EventKind::ALL.iter().position(|kind| *kind == event.kind).unwrap_or(0) as u8
                        | if event.claimed { CLAIMED } else { 0 },
                    name: &event.name,
                    message_id: &event.message_id,
                    at: event.at.0,
                    received_after: event.received_at.0 - event.at.0,
                };
                let mut out = append(EVENT, &envelope);
                append_payload(&mut out, event.payload.as_bytes());
                out
            }
            Self::Decided { fragment, offers, exposures } => Self::encode_decided(fragment, offers, exposures),
            Self::Link { fragment, other, word } => {
                append(LINK, &LinkEnvelope { fragment: fragment.as_str(), other: other.as_str(), word: *word })
            }
            Self::Mart { fragment, load } => {
                let envelope = MartEnvelope {
                    fragment: fragment.as_str(),
                    source: &load.source,
                    block: &load.block,
                    as_of: load.as_of.0,
                    id: &load.id,
                    hash: load.hash(),
                };
                let mut out = append(MART, &envelope);
                // Encoding plain data to memory cannot fail; were it to, the entry would be refused as corrupt when it is read.
                let payload = postcard::to_allocvec(&(&load.traits, &load.values)).unwrap_or_default();
                append_payload(&mut out, &payload);
                out
            }
            Self::Activate(activation) => append(ACTIVATE, activation),
            Self::Mark(mark) => append(MARK, mark),
            Self::Release(release) => append(RELEASE, release),
            Self::Catalog(put) => append(CATALOG, put),
            Self::Switch(switch) => append(SWITCH, switch),
            Self::Erase { fragment, erasure, at } => {
                append(ERASE, &EraseEnvelope { fragment: fragment.as_str(), erasure: *erasure, at: at.0 })
            }
            Self::Erased { fragment, remains } => {
                append(ERASED, &ErasedEnvelope { fragment: fragment.as_str(), remains: *remains })
            }
            Self::Withdraw { fragment, erasure, ids } => {
                let envelope = WithdrawEnvelope { fragment: fragment.as_str(), erasure: *erasure, ids: ids.clone() };
                append(WITHDRAW, &envelope)
            }
        }
    }

    /// Whether an erasure as of an instant takes it away, though it comes later: an event that was received by then, a link or a load that speaks of no later
    /// time, offers of that minute or an earlier one.
    pub fn is_before(&self, erased: Timestamp) -> bool {
        match self {
            Self::Event { event, .. } => event.received_at <= erased,
            Self::Decided { offers, exposures, .. } => decided_before(offers, exposures, erased),
            Self::Link { word, .. } => word.at <= erased,
            Self::Mart { load, .. } => load.as_of <= erased,
            Self::Activate(_)
            | Self::Mark(_)
            | Self::Release(_)
            | Self::Catalog(_)
            | Self::Switch(_)
            | Self::Erase { .. }
            | Self::Erased { .. }
            | Self::Withdraw { .. } => false,
        }
    }

    /// What an erasure puts in the place of an entry; none of one that says nothing of anybody, or nothing any more. Its digest stays.
    pub fn erased(bytes: &[u8]) -> Result<Option<Vec<u8>>, ChangeError> {
        let change = Self::decode(bytes)?;
        let Digest { id, envelope, .. } = Self::digest(bytes)?;
        let (fragment, id_hash) = match change {
            Self::Event { fragment, event } => (fragment, Some(event.id_hash())),
            Self::Decided { fragment, .. } | Self::Link { fragment, .. } | Self::Mart { fragment, .. } => {
                (fragment, None)
            }
            Self::Activate(_)
            | Self::Mark(_)
            | Self::Release(_)
            | Self::Catalog(_)
            | Self::Switch(_)
            | Self::Erase { .. }
            | Self::Erased { .. }
            | Self::Withdraw { .. } => return Ok(None),
        };
        let remains = Remains { ids: id_hash.zip(id), envelope };
        Ok(Some(Self::Erased { fragment, remains }.encode()))
    }

    /// Whose entry it is, as text. Looks at nothing else; none of one that belongs to the whole shard.
    pub fn owner(bytes: &[u8]) -> Option<&str> {
        let (kind, rest) = bytes.split_first()?;
        // Each of these begins with its fragment.
        let owned = matches!(*kind, EVENT | DECIDED | DECIDED_ON | LINK | MART | ERASE | ERASED | WITHDRAW);
        if owned { postcard::take_from_bytes(rest).ok().map(|(owner, _)| owner) } else { None }
    }

    /// Whether an entry erases, by its kind alone.
    pub fn erases(bytes: &[u8]) -> bool {
        bytes.first() == Some(&ERASE)
    }

    /// Whether an entry withdraws events, by its kind alone.
    pub fn withdraws(bytes: &[u8]) -> bool {
        bytes.first() == Some(&WITHDRAW)
    }

    /// Withdrawals of events from an entity, as many as it takes.
    pub fn withdrawals(fragment: &Identifier, erasure: [u8; 16], ids: &[[u8; 16]]) -> Vec<Self> {
        let part = |ids: &[[u8; 16]]| Self::Withdraw { fragment: fragment.clone(), erasure, ids: ids.to_vec() };
        ids.chunks(WITHDRAWN_MAX).map(part).collect()
    }

    /// The hash of the id of an event that still says something. Its payload is not looked at.
    pub fn said_id(bytes: &[u8]) -> Option<[u8; 16]> {
        let rest = bytes.strip_prefix(&[EVENT])?;
        let (envelope, _) = postcard::take_from_bytes::<EventEnvelope<'_>>(rest).ok()?;
        Some(id_hash(envelope.message_id))
    }

    /// The version of changes that a reader of these bytes needs, by their kind alone.
    pub fn version(bytes: &[u8]) -> Result<u16, ChangeError> {
        match *bytes.first().ok_or(ChangeError::Corrupt)? {
            EVENT | DECIDED | ACTIVATE | LINK | MART | ERASE | MARK | RELEASE | ERASED | WITHDRAW => Ok(1),
            DECIDED_ON => Ok(2),
            // On the control shard only, of which an edge that does not know them asks for no entries.
            CATALOG | SWITCH => Ok(1),
            unknown => Err(ChangeError::UnknownKind(unknown)),
        }
    }

    /// Reads what the centre needs of an entry's bytes. A payload is not looked at.
    pub fn digest(bytes: &[u8]) -> Result<Digest, ChangeError> {
        let (kind, rest) = bytes.split_first().ok_or(ChangeError::Corrupt)?;
        let whole = xxhash_rust::xxh3::xxh3_64(bytes);
        if *kind == EVENT {
            let (envelope, payload) =
                postcard::take_from_bytes::<EventEnvelope<'_>>(rest).map_err(|_| ChangeError::Corrupt)?;
            let fragment = Identifier::stored(envelope.fragment).map_err(|_| ChangeError::Corrupt)?;
            let mut named = Vec::with_capacity(envelope.fragment.len() + 1 + envelope.message_id.len());
            named.extend_from_slice(envelope.fragment.as_bytes());
            named.push(0);
            named.extend_from_slice(envelope.message_id.as_bytes());
            return Ok(Digest {
                shard: Some(fragment.shard()),
                id: Some(xxhash_rust::xxh3::xxh3_128(&named).to_be_bytes()),
                envelope: xxhash_rust::xxh3::xxh3_64(&bytes[..bytes.len() - payload.len()]),
            });
        }
        if *kind == MART {
            let (envelope, payload) =
                postcard::take_from_bytes::<MartEnvelope<'_>>(rest).map_err(|_| ChangeError::Corrupt)?;
            let fragment = Identifier::stored(envelope.fragment).map_err(|_| ChangeError::Corrupt)?;
            return Ok(Digest {
                shard: Some(fragment.shard()),
                id: None,
                envelope: xxhash_rust::xxh3::xxh3_64(&bytes[..bytes.len() - payload.len()]),
            });
        }
        if *kind == ERASED {
            let ErasedEnvelope { fragment, remains } = postcard::from_bytes(rest).map_err(|_| ChangeError::Corrupt)?;
            let fragment = Identifier::stored(fragment).map_err(|_| ChangeError::Corrupt)?;
            let id = remains.ids.map(|(_, id)| id);
            return Ok(Digest { shard: Some(fragment.shard()), id, envelope: remains.envelope });
        }
        let change = Self::decode(bytes)?;
        Ok(Digest { shard: change.fragment().map(Identifier::shard), id: None, envelope: whole })
    }

    /// The mark that an entry is, if it is one. Looks at nothing else.
    pub fn mark(bytes: &[u8]) -> Option<u64> {
        let (kind, rest) = bytes.split_first()?;
        if *kind == MARK { postcard::from_bytes(rest).ok() } else { None }
    }

    /// Reads an entry's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChangeError> {
        let (kind, rest) = bytes.split_first().ok_or(ChangeError::Corrupt)?;
        let corrupt = |_| ChangeError::Corrupt;
        let identifier = |text: &str| Identifier::stored(text).map_err(|_| ChangeError::Corrupt);
        match *kind {
            EVENT => {
                let (envelope, block) = postcard::take_from_bytes::<EventEnvelope<'_>>(rest).map_err(corrupt)?;
                let payload = payload::expand(block).map_err(|_| ChangeError::Corrupt)?;
                let payload = String::from_utf8(payload).map_err(|_| ChangeError::Corrupt)?;
                let event = Event {
                    kind: *EventKind::ALL.get(usize::from(envelope.kind & !CLAIMED)).ok_or(ChangeError::Corrupt)?,
                    name: envelope.name.into(),
                    message_id: envelope.message_id.into(),
                    at: Timestamp(envelope.at),
                    received_at: Timestamp(
                        envelope.at.checked_add(envelope.received_after).ok_or(ChangeError::Corrupt)?,
                    ),
                    claimed: envelope.kind & CLAIMED != 0,
                    payload: payload.into(),
                };
                Ok(Self::Event { fragment: identifier(envelope.fragment)?, event })
            }
            DECIDED => {
                let envelope: DecidedEnvelope<'_> = postcard::from_bytes(rest).map_err(corrupt)?;
                let on_web = |(offer, minute, count): (CompactString, Timestamp, u32)| DecidedOffer {
                    offer,
                    channel: DEFAULT_CHANNEL.into(),
                    minute,
                    count,
                };
                let offers = envelope.offers.into_iter().map(on_web).collect();
                Ok(Self::Decided { fragment: identifier(envelope.fragment)?, offers, exposures: Vec::new() })
            }
            DECIDED_ON => {
                let DecidedOnEnvelope { fragment, offers, exposures } = postcard::from_bytes(rest).map_err(corrupt)?;
                Ok(Self::Decided { fragment: identifier(fragment)?, offers, exposures })
            }
            LINK => {
                let LinkEnvelope { fragment, other, word } = postcard::from_bytes(rest).map_err(corrupt)?;
                Ok(Self::Link { fragment: identifier(fragment)?, other: identifier(other)?, word })
            }
            MART => {
                let (envelope, block) = postcard::take_from_bytes::<MartEnvelope<'_>>(rest).map_err(corrupt)?;
                let payload = payload::expand(block).map_err(|_| ChangeError::Corrupt)?;
                let (source, block, id) = (envelope.source.into(), envelope.block.into(), envelope.id.into());
                let as_of = Timestamp(envelope.as_of);
                if payload.is_empty() {
                    let load = Load::erased(source, block, as_of, id, envelope.hash);
                    return Ok(Self::Mart { fragment: identifier(envelope.fragment)?, load });
                }
                let (traits, values): LoadPayload = postcard::from_bytes(&payload).map_err(corrupt)?;
                let load = Load::new(source, block, as_of, id, traits, values);
                if load.hash() != envelope.hash {
                    return Err(ChangeError::Corrupt);
                }
                Ok(Self::Mart { fragment: identifier(envelope.fragment)?, load })
            }
            ACTIVATE => postcard::from_bytes(rest).map(Self::Activate).map_err(corrupt),
            MARK => postcard::from_bytes(rest).map(Self::Mark).map_err(corrupt),
            RELEASE => postcard::from_bytes(rest).map(Self::Release).map_err(corrupt),
            CATALOG => postcard::from_bytes(rest).map(Self::Catalog).map_err(corrupt),
            SWITCH => postcard::from_bytes(rest).map(Self::Switch).map_err(corrupt),
            ERASE => {
                let EraseEnvelope { fragment, erasure, at } = postcard::from_bytes(rest).map_err(corrupt)?;
                Ok(Self::Erase { fragment: identifier(fragment)?, erasure, at: Timestamp(at) })
            }
            ERASED => {
                let ErasedEnvelope { fragment, remains } = postcard::from_bytes(rest).map_err(corrupt)?;
                Ok(Self::Erased { fragment: identifier(fragment)?, remains })
            }
            WITHDRAW => {
                let WithdrawEnvelope { fragment, erasure, ids } = postcard::from_bytes(rest).map_err(corrupt)?;
                if ids.len() > WITHDRAWN_MAX {
                    return Err(ChangeError::Corrupt);
                }
                Ok(Self::Withdraw { fragment: identifier(fragment)?, erasure, ids })
            }
            unknown => Err(ChangeError::UnknownKind(unknown)),
        }
    }
}

/// Whether an erasure as of an instant takes decided offers and exposures away.
pub fn decided_before(offers: &[DecidedOffer], exposures: &[Exposure], erased: Timestamp) -> bool {
    offers.iter().any(|offer| offer.minute <= erased) || exposures.iter().any(|exposure| exposure.at <= erased)
}

fn append(kind: u8, envelope: &impl Serialize) -> Vec<u8> {
    // Writing plain data to memory cannot fail; were it to, the entry would be refused as corrupt when it is read.
    postcard::to_extend(envelope, vec![kind]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::How;
    use crate::time::BusinessTime;
    use proptest::prelude::*;

    fn event(payload: &str) -> Change {
        Change::Event {
            fragment: Identifier::stored("user:42").expect("an identifier"),
            event: Event {
                kind: EventKind::Page,
                name: "Home".into(),
                message_id: "m-1".into(),
                at: Timestamp(1_291_191_960_000),
                received_at: Timestamp(1_767_607_200_000),
                claimed: payload == "{}",
                payload: payload.into(),
            },
        }
    }

    #[test]
    fn every_kind_survives_its_bytes() {
        let time = BusinessTime::new("Europe/London").expect("a zone");
        let decided = |channel: &str, exposures| Change::Decided {
            fragment: Identifier::stored("anonymous:a").expect("an identifier"),
            offers: vec![DecidedOffer {
                channel: channel.into(),
                ..DecidedOffer::on_web("kettle", Timestamp(60_000), 2)
            }],
            exposures,
        };
        let exposure = Exposure { experiment: "hold-out".into(), at: Timestamp(7), arm: "held".into() };
        let changes = [
            event("{}"),
            event(&format!("{{\"properties\":{{\"name\":\"{}\"}}}}", "long ".repeat(200))),
            decided("web", Vec::new()),
            decided("email", Vec::new()),
            decided("web", vec![exposure]),
            Change::Link {
                fragment: Identifier::stored("user:42").expect("an identifier"),
                other: Identifier::stored("anonymous:a").expect("an identifier"),
                word: Word { at: Timestamp(7), linked: true, id: [3; 16], how: How::Api },
            },
            load(&[("country", "\"France\"")]),
            load(&[]),
            Change::Activate(Activation::new(&time, Vec::new())),
            Change::Mark(u64::MAX),
            Change::Release(Release { time_zone: "UTC".into(), ..Release::default() }),
            Change::Catalog(CatalogPut {
                sha256: [5; 32],
                over: 3,
                at: Timestamp(9),
                by: "ada".into(),
                how: crate::control::How::Undo,
                of: Some(1),
            }),
            Change::Switch(OfferSwitch { offer: "kettle".into(), stopped: true, at: Timestamp(9), by: "ada".into() }),
            Change::Erase {
                fragment: Identifier::stored("user:42").expect("an identifier"),
                erasure: [7; 16],
                at: Timestamp(9),
            },
            Change::Erased {
                fragment: Identifier::stored("user:42").expect("an identifier"),
                remains: Remains { ids: Some(([1; 16], [2; 16])), envelope: u64::MAX },
            },
            Change::Withdraw {
                fragment: Identifier::stored("household:h1").expect("an identifier"),
                erasure: [7; 16],
                ids: vec![[1; 16]; WITHDRAWN_MAX],
            },
        ];
        for change in changes {
            assert_eq!(Change::decode(&change.encode_plain()).as_ref(), Ok(&change));
            assert_eq!(Change::owner(&change.encode()), change.fragment().map(Identifier::as_str));
            assert!(Change::version(&change.encode()).is_ok_and(|version| version <= CHANGE_VERSION));
            assert_eq!(Change::decode(&change.encode()), Ok(change));
        }
    }

    fn load(traits: &[(&str, &str)]) -> Change {
        let traits = traits.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let load = Load::new("crm".into(), "core".into(), Timestamp(9), "".into(), traits, Vec::new());
        Change::Mart { fragment: Identifier::stored("user:42").expect("an identifier"), load }
    }

    #[test]
    fn the_envelope_of_a_load_outlives_its_contents() {
        let whole = load(&[("country", "\"France\"")]);
        let bytes = whole.encode();
        let plain = whole.encode_plain();
        let digest = Change::digest(&bytes).expect("an entry");
        assert_eq!(Change::digest(&plain), Ok(digest), "the payload is not looked at");
        let other = Change::digest(&load(&[("country", "\"Spain\"")]).encode()).expect("an entry");
        assert_ne!(digest.envelope, other.envelope, "but its hash is in the envelope");
        // The payload's form, and nothing.
        let contents = postcard::to_allocvec(&vec![("country", "\"France\"")]).expect("bytes").len() + 1;
        let mut erased = plain[..plain.len() - contents].to_vec();
        assert_eq!(Change::digest(&erased).map(|digest| digest.envelope), Ok(digest.envelope));
        let Ok(Change::Mart { load, .. }) = Change::decode(&erased) else { panic!("an erased load") };
        assert!(load.traits.is_empty() && load.rank().0 == Timestamp(9));
        erased.pop();
        assert_eq!(Change::decode(&erased), Err(ChangeError::Corrupt));
        erased = plain;
        *erased.last_mut().expect("bytes") ^= 1;
        assert_eq!(Change::decode(&erased), Err(ChangeError::Corrupt));
    }

    #[test]
    fn an_erasure_leaves_an_entrys_digest_and_nothing_that_it_said() {
        let identifier = |text: &str| Identifier::stored(text).expect("an identifier");
        let word = Word { at: Timestamp(7), linked: true, id: [3; 16], how: How::Api };
        let offers = vec![DecidedOffer::on_web("secret", Timestamp(60_000), 2)];
        let exposures = vec![Exposure { experiment: "secret".into(), at: Timestamp(7), arm: "secret".into() }];
        let said = [
            event(r#"{"properties":{"name":"secret"}}"#),
            load(&[("secret", "\"secret\"")]),
            Change::Link { fragment: identifier("user:42"), other: identifier("anonymous:secret"), word },
            Change::Decided { fragment: identifier("user:42"), offers: offers.clone(), exposures: Vec::new() },
            Change::Decided { fragment: identifier("user:42"), offers, exposures },
        ];
        for change in said {
            let bytes = change.encode();
            let left = Change::erased(&bytes).expect("an entry").expect("something to erase");
            assert_eq!(Change::digest(&left), Change::digest(&bytes));
            assert_eq!(Change::version(&left), Ok(1));
            for word in ["secret", "Home", "m-1"] {
                assert!(!left.windows(word.len()).any(|window| window == word.as_bytes()), "{word} in {change:?}");
            }
            let read = Change::decode(&left).expect("a change");
            assert_eq!(read.fragment(), change.fragment());
            let Change::Erased { remains, .. } = read else { panic!("erased") };
            let id_hash = if let Change::Event { event, .. } = &change { Some(event.id_hash()) } else { None };
            assert_eq!(remains.ids.map(|(id_hash, _)| id_hash), id_hash);
            assert_eq!(Change::said_id(&bytes), id_hash);
            assert_eq!(Change::said_id(&left), None, "nothing is said any more");
            assert_eq!(Change::erased(&left), Ok(None), "once is enough");
            assert_eq!(Change::erased(&Change::Mark(1).encode()), Ok(None));
        }
    }

    #[test]
    fn a_withdrawal_names_no_more_ids_than_it_may() {
        let of = Identifier::stored("household:h1").expect("an identifier");
        let ids: Vec<[u8; 16]> = (0..2_500_u16).map(|id| [(id % 251) as u8; 16]).collect();
        let parts = Change::withdrawals(&of, [7; 16], &ids);
        let named = |change: &Change| match change {
            Change::Withdraw { ids, .. } => ids.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((parts.len(), parts.iter().flat_map(named).collect::<Vec<_>>()), (3, ids));
        assert!(Change::withdrawals(&of, [7; 16], &[]).is_empty());
        let bytes = parts[0].encode();
        assert!(Change::withdraws(&bytes) && !Change::erases(&bytes));
        assert_eq!(Change::digest(&bytes).map(|digest| (digest.shard, digest.id)), Ok((Some(of.shard()), None)));
        assert_eq!((Change::erased(&bytes), Change::said_id(&bytes)), (Ok(None), None));
        let more = Change::Withdraw { fragment: of, erasure: [7; 16], ids: vec![[1; 16]; WITHDRAWN_MAX + 1] };
        assert_eq!(Change::decode(&more.encode()), Err(ChangeError::Corrupt));
    }

    #[test]
    fn what_was_said_by_the_instant_of_an_erasure_goes() {
        let at = |at: i64| Timestamp(at);
        let received = event("{}");
        assert!(received.is_before(at(1_767_607_200_000)) && !received.is_before(at(1_767_607_199_999)));
        assert!(load(&[]).is_before(at(9)) && !load(&[]).is_before(at(8)));
        let offer = |minute: i64| DecidedOffer::on_web("kettle", Timestamp(minute), 1);
        let offers = [offer(60_000), offer(0)];
        assert!(decided_before(&offers, &[], at(0)) && !decided_before(&offers[..1], &[], at(59_999)));
        let exposure = [Exposure { experiment: "e".into(), at: at(9), arm: "a".into() }];
        assert!(decided_before(&[], &exposure, at(9)) && !decided_before(&[], &exposure, at(8)));
        assert!(!Change::Mark(1).is_before(at(i64::MAX)));
    }

    #[test]
    fn an_unknown_kind_is_not_taken_for_corruption() {
        assert_eq!(Change::decode(&[99, 1, 2]), Err(ChangeError::UnknownKind(99)));
        assert_eq!(Change::decode(&[]), Err(ChangeError::Corrupt));
        assert_eq!(Change::version(&[99, 1, 2]), Err(ChangeError::UnknownKind(99)));
        assert_eq!(Change::version(&[]), Err(ChangeError::Corrupt));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..200, with in any::<u8>(), cut in 0_usize..200) {
            let mut bytes = event(r#"{"properties":{"total":12.5,"order_id":"1","products":[]}}"#).encode();
            let index = at % bytes.len();
            bytes[index] = with;
            bytes.truncate(bytes.len().saturating_sub(cut % 40));
            let _ = Change::decode(&bytes);
        }
    }
}
