//! Export: what happened since a cursor, for the batch cycle of others. Pages of NDJSON, read from the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use selvedge_central::{CentralLog, Read, RedbLog};
use selvedge_core::change::Change;
use selvedge_core::effects::Effects;
use selvedge_core::event::Event;
use selvedge_core::identity::{Identifier, SHARDS, ShardId};
use selvedge_core::links::Word;
use selvedge_shard::Shards;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::runtime::Handle;

use super::ingest::blocking;
use crate::auth::Role;
use crate::error::Problem;
use crate::gate::Serving;

/// Bytes of log entries that one page is made of, about.
const PAGE_BYTES: usize = 256 * 1024;
/// Of which so many from one shard at a time.
const SHARD_BYTES: usize = 64 * 1024;
const FORM: u8 = 1;
/// The namespace of keys that stand for somebody only until they are known.
const ANONYMOUS: &str = "anonymous";
/// The namespace of those who are known.
const USER: &str = "user";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    #[serde(default)]
    since: String,
}

/// How far an export has come: the last entry of each shard that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// A hash of the log's name: another log has other entries.
    log: u64,
    seqs: Vec<u64>,
    /// The shard at which the next page begins.
    next: u16,
}

impl Place {
    fn start(log: u64) -> Self {
        Self { log, seqs: vec![0; usize::from(SHARDS)], next: 0 }
    }

    fn text(&self) -> String {
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&self.log.to_be_bytes());
        bytes.extend_from_slice(&self.next.to_be_bytes());
        for seq in &self.seqs {
            let mut rest = *seq;
            while rest >= 0x80 {
                bytes.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (form, rest) = bytes.split_first()?;
        let (log, rest) = rest.split_first_chunk::<8>()?;
        let (next, rest) = rest.split_first_chunk::<2>()?;
        let mut rest = rest.iter();
        let mut seqs = Vec::with_capacity(usize::from(SHARDS));
        for _ in 0..SHARDS {
            let (mut seq, mut shift) = (0_u64, 0_u32);
            loop {
                let byte = *rest.next()?;
                seq |= u64::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 63)?;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
            }
            seqs.push(seq);
        }
        let next = u16::from_be_bytes(*next);
        let whole = *form == FORM && rest.next().is_none() && next < SHARDS;
        whole.then(|| Self { log: u64::from_be_bytes(*log), seqs, next })
    }
}

/// `GET /v1/export?since=CURSOR`.
pub async fn export(
    Serving(edge): Serving,
    query: Result<Query<ExportQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let answer = async {
        edge.keys.authenticate(&headers, None)?.at_least(Role::Secret)?;
        let since = since(query)?;
        let place = edge.large_bodies.acquire().await.map_err(|error| Problem::storage(&error))?;
        if edge.uplink.is_some() {
            let detail = "this edge follows a centre, which has the whole log; export from the centre";
            return Err(Problem::new(StatusCode::CONFLICT, "export_at_the_centre", detail));
        }
        let text = blocking(&edge, move |edge| page(&*edge.log, &edge.shards, &since)).await?;
        drop(place);
        Ok(ndjson(text))
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// The cursor of a query.
pub fn since(query: Result<Query<ExportQuery>, QueryRejection>) -> Result<String, Problem> {
    query.map(|Query(query)| query.since).map_err(|error| {
        let detail = "the query takes since=CURSOR, the nextCursor of an earlier page";
        Problem::bad_request("query_invalid", format!("{detail}: {}", error.body_text()))
    })
}

/// A page as an answer.
pub fn ndjson(text: String) -> Response {
    let kind = HeaderValue::from_static("application/x-ndjson");
    let private = HeaderValue::from_static("private, no-store");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, private)], text).into_response()
}

/// Entries of a shard: their sequences and bytes.
type Entries = Vec<(u64, Arc<[u8]>)>;

/// A log that pages are read from. Blocks.
pub trait Paged {
    /// Its name.
    fn name(&self) -> String;
    /// The last sequence of each data shard.
    fn ends(&self) -> Result<Vec<u64>, Problem>;
    /// Entries after a sequence, up to about so many bytes; at least one, if there is one. Gives the sequence after which they begin: a later one
    /// where nothing is kept of what follows the log's very beginning.
    fn entries(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<(u64, Entries), Problem>;
}

impl Paged for RedbLog {
    fn name(&self) -> String {
        self.id()
    }

    fn ends(&self) -> Result<Vec<u64>, Problem> {
        let heads = self.heads().map_err(|error| Problem::storage(&error))?;
        Ok(heads.into_iter().take(usize::from(SHARDS)).map(|head| head.seq).collect())
    }

    fn entries(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<(u64, Entries), Problem> {
        let entries = self.read(shard, after, bytes_max).map_err(|error| Problem::storage(&error))?;
        Ok((after, entries.into_iter().map(|entry| (entry.seq, entry.bytes.into())).collect()))
    }
}

/// The centre's log, for a thread that may block.
pub struct OfCentre {
    /// The log.
    pub log: Arc<dyn CentralLog>,
    /// What its questions are answered on.
    pub runtime: Handle,
}

impl Paged for OfCentre {
    fn name(&self) -> String {
        self.log.id().to_owned()
    }

    fn ends(&self) -> Result<Vec<u64>, Problem> {
        let heads = self.runtime.block_on(self.log.heads()).map_err(|error| Problem::storage(&error))?;
        Ok(heads.into_iter().take(usize::from(SHARDS)).map(|head| head.seq).collect())
    }

    fn entries(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<(u64, Entries), Problem> {
        let read = self.runtime.block_on(self.log.read(shard, after, bytes_max));
        match read.map_err(|error| Problem::storage(&error))? {
            Read::Entries { entries, .. } => {
                Ok((after, entries.into_iter().map(|entry| (entry.seq, entry.bytes)).collect()))
            }
            // Who begins has missed nothing that he could have had.
            Read::Trimmed { first } if after == 0 && first > 1 => self.entries(shard, first - 1, bytes_max),
            _ => {
                let detail = "the log no longer has what follows this cursor; begin anew without it, and export more often than the log is trimmed";
                Err(Problem::new(StatusCode::CONFLICT, "cursor_too_old", detail))
            }
        }
    }
}

/// The lines after a cursor, the next one at their end. `shards` knows who is linked to whom. Blocks on the disk.
pub fn page(log: &dyn Paged, shards: &Shards, since: &str) -> Result<String, Problem> {
    let name = xxhash_rust::xxh3::xxh3_64(log.name().as_bytes());
    let mut place = if since.is_empty() {
        Place::start(name)
    } else {
        Place::parse(since).ok_or_else(|| {
            let detail = "since is no cursor; send the nextCursor of an earlier page as it is, or none to begin with the first entry";
            Problem::bad_request("cursor_invalid", detail)
        })?
    };
    if place.log != name {
        let detail = "since is a cursor of another log; begin anew without it";
        return Err(Problem::new(StatusCode::CONFLICT, "cursor_of_another_log", detail));
    }
    let heads = log.ends()?;
    if place.seqs.iter().zip(&heads).any(|(seq, head)| seq > head) {
        let detail = "since is ahead of the log, which was restored from an earlier backup; begin anew without it";
        return Err(Problem::new(StatusCode::CONFLICT, "cursor_of_another_log", detail));
    }
    let mut page = Page { shards, lines: String::new(), met: BTreeSet::new() };
    let (mut left, mut missing) = (PAGE_BYTES, false);
    let all: Vec<ShardId> = ShardId::all().collect();
    let first = usize::from(place.next);
    for index in (first..all.len()).chain(0..first) {
        let after = place.seqs[index];
        if after >= heads[index] {
            continue;
        }
        let (from, entries) = log.entries(all[index], after, left.min(SHARD_BYTES))?;
        missing |= from > after;
        place.seqs[index] = from;
        for (seq, bytes) in entries {
            left = left.saturating_sub(bytes.len());
            page.take(&bytes)?;
            place.seqs[index] = seq;
        }
        if left == 0 {
            // One that has more than its part waits until the others had theirs.
            place.next = u16::try_from((index + 1) % all.len()).unwrap_or(0);
            break;
        }
    }
    page.temporary_keys()?;
    let more = place.seqs.iter().zip(&heads).any(|(seq, head)| seq < head);
    let mut cursor = json!({"type": "cursor", "nextCursor": place.text(), "more": more});
    if missing {
        // The log was trimmed before anybody exported it.
        cursor["missing"] = true.into();
    }
    page.line(&cursor);
    Ok(page.lines)
}

/// The lines of one page.
struct Page<'e> {
    shards: &'e Shards,
    lines: String,
    /// Visitors who were not known, of whom there are events.
    met: BTreeSet<Identifier>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    profile: &'a Identifier,
    call: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    event: &'a str,
    message_id: &'a str,
    timestamp: String,
    received_at: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    claimed: bool,
    payload: &'a RawValue,
}

impl Page<'_> {
    fn line(&mut self, line: &impl Serialize) {
        // Plain data to memory: it cannot fail.
        if let Ok(text) = serde_json::to_string(line) {
            self.lines.push_str(&text);
            self.lines.push('\n');
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match Change::decode(bytes).map_err(|error| Problem::storage(&error))? {
            Change::Event { fragment, event } => self.event(&fragment, &event),
            // Both halves stand in the log; one line is enough.
            Change::Link { fragment, other, word } if fragment < other => self.link(&fragment, &other, word),
            Change::Erase { fragment, at, .. } => {
                self.line(&json!({"type": "erasure", "profile": fragment, "at": at.to_string()}));
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, fragment: &Identifier, event: &Event) {
        if let Ok(payload) = serde_json::from_str(&event.payload) {
            self.line(&EventLine {
                kind: "event",
                profile: fragment,
                call: event.kind.name(),
                event: &event.name,
                message_id: &event.message_id,
                timestamp: event.at.to_string(),
                received_at: event.received_at.to_string(),
                claimed: event.claimed,
                payload,
            });
        }
        let effects = Effects::of(event).unwrap_or_default().on(fragment);
        if !effects.traits.is_empty() {
            let raw = |value: &str| serde_json::from_str::<Box<RawValue>>(value).ok();
            let words = effects.traits.iter().filter_map(|(name, value)| Some((name.as_str(), raw(value)?)));
            let traits: std::collections::BTreeMap<_, _> = words.collect();
            let line = json!({
                "type": "traits", "profile": fragment, "source": effects.source, "at": event.at.to_string(),
                "claimed": event.claimed, "traits": traits,
            });
            self.line(&line);
        }
        if fragment.namespace() == ANONYMOUS {
            self.met.insert(fragment.clone());
        }
    }

    fn link(&mut self, one: &Identifier, other: &Identifier, word: Word) {
        let line = json!({
            "type": "link", "identifiers": [one, other], "linked": word.linked, "at": word.at.to_string(), "how": word.how,
        });
        self.line(&line);
    }

    /// Of those who were met, the ones that nobody has linked to a user.
    fn temporary_keys(&mut self) -> Result<(), Problem> {
        for visitor in std::mem::take(&mut self.met) {
            let group = self.shards.group(&visitor)?;
            let user = |member: &Identifier| member.namespace() == USER;
            if group.identifiers.iter().any(user) {
                continue;
            }
            let view = self.shards.load(&visitor)?;
            let first = view.fragment.oldest_event_at.map(|at| at.to_string());
            self.line(&json!({"type": "temporaryKey", "id": visitor, "firstSeenAt": first}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let mut place = Place::start(7);
        place.seqs[3] = u64::MAX >> 1;
        place.seqs[63] = 300;
        place.next = 5;
        assert_eq!(Place::parse(&place.text()), Some(place.clone()));
        assert_eq!(Place::parse(""), None);
        let text = place.text();
        for end in 0..text.len() {
            assert_eq!(Place::parse(&text[..end]), None, "{end}");
        }
        assert_eq!(Place::parse(&format!("{text}AAAA")), None);
    }
}
