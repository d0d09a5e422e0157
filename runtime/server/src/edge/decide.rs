//! `POST /v1/decide`: the call is read and checked here; [`pipeline::decide`] decides.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, StatusCode};
use selvedge_core::decision::SlotRequest;
use selvedge_core::event::quoted;
use selvedge_core::identity::Identifier;
use selvedge_core::limits;
use selvedge_core::receipt::{Receipt, Speaker};
use selvedge_core::value::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ingest::{Ack, check_count, receipt, utf8};
use super::{Answered, Edge, parse_body, preview, read_body};
use crate::auth::Role;
use crate::clock;
use crate::error::Problem;
use crate::gate::Serving;
use crate::ids::anonymous_id;
use crate::pipeline::{self, Ask, OnStale, WEB};

/// The deadline where the caller gives none.
const DEADLINE_MS: u64 = 50;
/// The longest deadline that a caller may give.
const DEADLINE_MS_MAX: u64 = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object such as {\"visitor\": …, \"slots\": …}")]
struct DecideBody<'a> {
    #[serde(borrow)]
    visitor: Option<Visitor<'a>>,
    #[serde(borrow, default)]
    slots: Vec<SlotBody<'a>>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
    #[serde(default)]
    explain: bool,
    max_staleness_ms: Option<u64>,
    on_stale: Option<OnStale>,
    deadline_ms: Option<u64>,
    ack: Option<Ack>,
    #[serde(borrow)]
    at: Option<Text<'a>>,
    #[serde(default)]
    dry_run: bool,
    #[serde(borrow)]
    identity_token: Option<Text<'a>>,
    /// The catalogue to decide by.
    #[serde(default)]
    catalogue: Which,
}

/// A catalogue to decide by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    /// The one in force.
    #[default]
    Live,
    /// The draft: a preview, which records nothing.
    Draft,
}

/// Whom a decision is for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object such as {\"anonymousId\": \"a-1\"}")]
pub(super) struct Visitor<'a> {
    #[serde(borrow)]
    pub(super) user_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) anonymous_id: Option<Text<'a>>,
}

/// A text as it stands in the body, wherever it may. A `Cow` in an `Option` would be copied.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Visitor<'_> {
    /// Whether nothing says who it is, so that an id is issued.
    fn is_unknown(&self, speaker: &Speaker) -> bool {
        self.user_id.is_none() && self.anonymous_id.is_none() && !matches!(speaker, Speaker::Proven(_))
    }
}

/// A slot that is to be filled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"slot\": \"home-hero\"}")]
pub(super) struct SlotBody<'a> {
    #[serde(borrow)]
    slot: Cow<'a, str>,
    count: Option<usize>,
}

/// `POST /v1/decide`.
pub async fn decide(Serving(edge): Serving, headers: HeaderMap, body: Body) -> Result<Answered, Problem> {
    call(&edge, &headers, body).await
}

/// The same, of a body as it arrives.
pub async fn call<B>(edge: &Arc<Edge>, headers: &HeaderMap, body: B) -> Result<Answered, Problem>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let started = Instant::now();
    let answer = async {
        let role = edge.keys.authenticate(headers, None)?;
        let bytes = read_body(edge, body).await?;
        answer(edge, role, headers, &bytes, started).await
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

/// The same, of a body that has arrived; `role` is the caller's, where it is known.
pub async fn arrived(
    edge: &Arc<Edge>,
    role: Option<Role>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answered, Problem> {
    let started = Instant::now();
    let answer = async {
        let role = role.map_or_else(|| edge.keys.authenticate(headers, None), Ok)?;
        answer(edge, role, headers, body, started).await
    };
    answer.await.inspect_err(|problem: &Problem| edge.metrics.request_failed(problem.code))
}

async fn answer(
    edge: &Arc<Edge>,
    role: Role,
    headers: &HeaderMap,
    bytes: &[u8],
    started: Instant,
) -> Result<Answered, Problem> {
    let body: DecideBody<'_> = parse_body(utf8(bytes)?)?;
    let receipt = receipt(edge, role, headers, body.identity_token.as_deref())?;
    let issued = body.visitor.as_ref().filter(|visitor| visitor.is_unknown(&receipt.speaker));
    let issued = issued.map(|_| anonymous_id()).transpose().map_err(|error| Problem::storage(&error))?;
    let (user_id, anonymous_id) = match &body.visitor {
        Some(visitor) => (visitor.user_id.as_deref(), visitor.anonymous_id.as_deref().or(issued.as_deref())),
        None => (None, None),
    };
    let receipt = Receipt { user_id, anonymous_id, ..receipt };
    let previewing;
    let edge = match body.catalogue {
        Which::Live => edge,
        Which::Draft => {
            role.at_least(Role::Secret)?;
            previewing = preview::of_draft(edge).await?;
            &previewing
        }
    };
    let ask = check(edge, role, &body, receipt, started)?;
    let caught_up = edge.catch_up(headers, ask.deadline).await?;
    let mut decision = pipeline::decide(edge, ask, caught_up).await?;
    decision.preview(body.catalogue == Which::Draft);
    decision.issue(issued.as_deref());
    let mut json = Vec::with_capacity(decision.bytes());
    decision.write(&mut json).map_err(|error| Problem::storage(&error))?;
    Ok(Answered { json, token: edge.token(decision.written()) })
}

fn check<'a>(
    edge: &Edge,
    role: Role,
    body: &'a DecideBody<'_>,
    receipt: Receipt<'a>,
    started: Instant,
) -> Result<Ask<'a>, Problem> {
    let visitor = check_visitor(&receipt, "/visitor")?;
    if body.at.is_some() || body.dry_run {
        role.at_least(Role::Secret)?;
    }
    let dry_run = body.dry_run || body.catalogue == Which::Draft;
    let at = body.at.as_deref().map(|text| check_at(text, dry_run)).transpose()?;
    check_count(body.events.len(), limits::DECIDE_EVENTS_MAX, "/events")?;
    check_context(body.context)?;
    if body.deadline_ms.is_some_and(|ms| ms == 0 || ms > DEADLINE_MS_MAX) {
        return Err(Problem::bad_request("deadline_invalid", "deadlineMs is from 1 to 10000").at("/deadlineMs"));
    }
    let slots = check_slots(edge, &body.slots)?;
    let of_slots = slots.iter().filter_map(|asked| edge.catalog.slots[asked.slot].deadline_ms);
    let deadline_ms = deadline_ms(body.deadline_ms, of_slots, at.is_some());
    Ok(Ask {
        visitor,
        slots,
        context: body.context,
        channel: body.channel.as_deref().unwrap_or(WEB),
        events: body.events.clone(),
        receipt,
        role,
        explain: body.explain,
        ack: body.ack.unwrap_or(Ack::Applied),
        at,
        dry_run,
        max_staleness_ms: body.max_staleness_ms,
        on_stale: body.on_stale.unwrap_or_default(),
        deadline: deadline_ms.map(|ms| started + Duration::from_millis(ms)),
        started,
    })
}

/// How long a decision may take: as long as the call says, else as the most urgent of its slots. A question about the past may take longer than a page can
/// wait, unless the call says how long.
fn deadline_ms(of_call: Option<u64>, of_slots: impl Iterator<Item = u32>, is_past: bool) -> Option<u64> {
    of_call.or_else(|| (!is_past).then(|| of_slots.min().map_or(DEADLINE_MS, u64::from)))
}

/// Whom a call is about; `place` is where it says so.
pub(super) fn check_visitor(receipt: &Receipt<'_>, place: &str) -> Result<Identifier, Problem> {
    let whose = receipt.visitor().map_err(|refusal| {
        if refusal.code == "identifier_missing" {
            let detail = match place {
                "/visitor" => "name the visitor by userId or anonymousId; {\"visitor\": {}} asks for an anonymousId",
                _ => "name the visitor by userId or anonymousId",
            };
            return Problem::bad_request("visitor_missing", detail).at(place);
        }
        Problem::bad_request(refusal.code, refusal.detail).at(format!("{place}{}", refusal.pointer))
    });
    whose.map(|(visitor, _)| visitor)
}

pub(super) fn check_context(context: Option<&RawValue>) -> Result<(), Problem> {
    if context.is_some_and(|context| !context.get().starts_with('{')) {
        return Err(Problem::bad_request("wrong_type", "the context is not an object").at("/context"));
    }
    Ok(())
}

pub(super) fn check_at(text: &str, dry_run: bool) -> Result<Timestamp, Problem> {
    let at = Timestamp::parse(text)
        .map_err(|error| Problem::bad_request("timestamp_invalid", format!("{} is {error}", quoted(text))).at("/at"))?;
    if !dry_run && at > clock::now() {
        let detail = "a decision cannot be recorded in the future; add \"dryRun\": true to try one";
        return Err(Problem::bad_request("timestamp_in_future", detail).at("/at"));
    }
    Ok(at)
}

pub(super) fn check_slots(edge: &Edge, slots: &[SlotBody<'_>]) -> Result<Vec<SlotRequest>, Problem> {
    if slots.is_empty() {
        return Err(Problem::bad_request("slots_missing", "name at least one slot, such as {\"slot\": \"home-hero\"}")
            .at("/slots"));
    }
    check_count(slots.len(), limits::SLOTS_MAX, "/slots")?;
    let check = |(index, wanted): (usize, &SlotBody<'_>)| {
        let Some(slot) = edge.catalog.slot(&wanted.slot) else {
            let known: Vec<&str> = edge.catalog.slots.iter().map(|slot| slot.name.as_str()).take(20).collect();
            let detail = if known.is_empty() {
                "there is no catalogue; put one with `selvedge catalogue put FILE`, or start with --catalog FILE"
                    .to_owned()
            } else {
                format!("the catalogue has no slot {}; it has {}", quoted(&wanted.slot), known.join(", "))
            };
            return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_slot", detail).at(format!("/slots/{index}/slot")));
        };
        let count = wanted.count.unwrap_or(edge.catalog.slots[slot].count);
        if count == 0 || count > limits::SLOT_COUNT_MAX {
            let detail = format!("count is from 1 to {}", limits::SLOT_COUNT_MAX);
            return Err(Problem::bad_request("count_invalid", detail).at(format!("/slots/{index}/count")));
        }
        Ok(SlotRequest { slot, count })
    };
    slots.iter().enumerate().map(check).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::{Path, PathBuf};

    use axum::http::{HeaderValue, header};
    use selvedge_central::RedbLog;
    use selvedge_shard::{Observer, Shards};

    use super::*;
    use crate::app::{house, threads};
    use crate::auth::{GivenKeys, Keys};
    use crate::config::EdgeConfig;
    use crate::metrics::Metrics;
    use crate::records::DecisionRecords;
    use crate::release::Bundle;

    /// Allocations that the handler of a decision may make, those of its plugin's instance included; what hyper makes is not.
    const ALLOCATIONS_MAX: u64 = 60;

    /// A catalogue of offers and slots alone.
    fn plain() -> String {
        let offer = |index: usize| {
            let category = ["kitchen", "garden", "toys"][index % 3];
            format!(
                "[[offers]]\nid = \"o-{index}\"\ncategory = \"{category}\"\nvalue = {index}\nproduct_ids = [\"P-{index}\"]\ncontent = {{ title = \"An offer\" }}\n"
            )
        };
        let offers: String = (0..14).map(offer).collect();
        format!("{offers}[[slots]]\nslot = \"home-hero\"\nfallback = \"o-0\"\n")
    }

    /// An edge over the retail plugin and a plain catalogue, without listeners.
    fn edge(data: &Path) -> Arc<Edge> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(PathBuf::from).expect("the root");
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let catalog = data.join("catalog.toml");
        std::fs::write(&catalog, plain()).expect("a file");
        let key = |key: &str| Some(key.to_owned());
        let config = EdgeConfig {
            data: data.to_owned(),
            listen: nowhere,
            admin: nowhere,
            time_zone: None,
            plugins: Some(root.join("target/plugins")),
            catalog: Some(catalog),
            code_cache: data.join("code"),
            keys: GivenKeys { publishable: key("pk_12345"), write: key("wk_12345"), secret: key("sk_12345") },
            cors_origins: Vec::new(),
            cache_bytes: 64 << 20,
            trust_browsers: false,
            decision_records: DecisionRecords::Off,
            namespaces: Default::default(),
            trait_sources: Default::default(),
            tokens: Vec::new(),
        };
        let metrics = Arc::new(Metrics::install().expect("metrics"));
        let bundle = Bundle::read(config.plugins.as_deref(), config.catalog.as_deref(), "UTC");
        let loaded =
            bundle.expect("the plugins; `cargo xtask plugins` builds them").load(threads()).expect("good plugins");
        let log = RedbLog::open(&data.join("log.redb"), "log", Box::new(|_| {}), Box::new(|error| panic!("{error}")));
        let keys = Keys::open(data, config.keys.clone()).expect("keys");
        let log = Arc::new(log.expect("a log"));
        let house = house(&config, keys, Arc::clone(&metrics), log, "cluster".into(), None, None);
        let house = Arc::new(house.expect("a house"));
        let observer = Arc::new(loaded.observer(&metrics));
        let observing = Arc::clone(&observer) as Arc<dyn Observer>;
        let namespaces = Arc::clone(&house.namespaces);
        let shards = Shards::open(&data.join("shards"), "cluster", config.cache_bytes, observing, namespaces);
        let shards = Arc::new(shards.expect("shards"));
        Arc::new(Edge::assemble(house, loaded, observer, shards).expect("an edge"))
    }

    #[test]
    fn the_call_says_how_long_it_may_take_else_its_most_urgent_slot() {
        assert_eq!(deadline_ms(None, [].into_iter(), false), Some(DEADLINE_MS));
        assert_eq!(deadline_ms(None, [200, 7, 90].into_iter(), false), Some(7));
        assert_eq!(deadline_ms(None, [200].into_iter(), false), Some(200), "also where that is longer than usual");
        assert_eq!(deadline_ms(Some(20), [7].into_iter(), false), Some(20));
        assert_eq!(
            (deadline_ms(None, [7].into_iter(), true), deadline_ms(Some(9), [7].into_iter(), true)),
            (None, Some(9))
        );
    }

    #[test]
    fn a_decision_makes_few_allocations() {
        let folder = tempfile::tempdir().expect("a folder");
        let edge = edge(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer wk_12345"));
        let decide = |events: &str| {
            let body = format!(
                r#"{{"visitor":{{"userId":"1"}},"slots":[{{"slot":"home-hero","count":3}}],"context":{{"page":{{"path":"/"}}}},"deadlineMs":10000{events}}}"#
            );
            let call = arrived(&edge, None, &headers, body.as_bytes());
            let (answer, counted) = {
                let mut answer = None;
                let counted = allocation_counter::measure(|| answer = Some(runtime.block_on(call)));
                (answer.expect("an answer").expect("a decision"), counted)
            };
            let answer: serde_json::Value = serde_json::from_slice(&answer.json).expect("JSON");
            assert_eq!(answer["slots"][0]["fallback"], false, "{answer}");
            counted.count_total
        };
        let order = r#","events":[{"type":"track","event":"Order Completed","messageId":"m-1","properties":{"order_id":"1","currency":"GBP","products":[{"product_id":"85123A","price":2.55,"quantity":6}]}}]"#;
        decide(order);
        let counts: Vec<u64> = (0..20).map(|_| decide("")).collect();
        println!("allocations of a decision: {counts:?}");
        let most = counts.iter().skip(2).max().expect("some");
        assert!(*most <= ALLOCATIONS_MAX, "{most} allocations");
    }
}
