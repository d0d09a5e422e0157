//! The admin paths of the catalogue, the same at a centre and at an edge that is its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Limited};
use selvedge_core::catalog::SCHEMA;
use selvedge_core::control::{How, Stopped, Version};
use selvedge_core::event::quoted;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{self, DOCUMENT_BYTES_MAX, Form};
use super::draft::{Draft, no_draft};
use super::schedule::{Scheduled, nothing_scheduled};
use super::{Expected, Published, Publisher, Put, no_version};
use crate::central::http::{Asked, At};
use crate::clock;
use crate::edge::ingest::utf8;
use crate::edge::parse_body;
use crate::error::Problem;
use crate::release::hex;

/// The header in which a caller says who changes something; it goes into the history.
pub const BY: &str = "x-selvedge-by";
/// Characters of it at most.
const BY_CHARS_MAX: usize = 100;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a body that is no document.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// Versions that are listed at once, at most and where nobody says how many.
const VERSIONS_MAX: usize = 1_000;
const VERSIONS: usize = 100;

/// The routes, below a prefix.
pub fn routes(prefix: &str) -> Router<Arc<Publisher>> {
    let path = |path: &str| format!("{prefix}{path}");
    Router::new()
        .route(&path("/catalogue"), get(document).put(put))
        .route(&path("/catalogue/schema"), get(schema))
        .route(&path("/catalogue/draft"), get(draft).put(put_draft).delete(drop_draft))
        .route(&path("/catalogue/draft/publish"), post(publish_draft))
        .route(&path("/catalogue/scheduled"), get(scheduled).delete(cancel))
        .route(&path("/catalogue/undo"), post(undo))
        .route(&path("/catalogue/versions"), get(versions))
        .route(&path("/catalogue/versions/{version}"), get(version))
        .route(&path("/offers/stopped"), get(stopped))
        .route(&path("/offers/{id}/stop"), post(stop))
        .route(&path("/offers/{id}/start"), post(start))
}

type Catalogue = State<Arc<Publisher>>;

/// The JSON Schema of the document.
async fn schema() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/schema+json"))], SCHEMA).into_response()
}

/// The catalogue in force.
async fn document(State(publisher): Catalogue, headers: HeaderMap) -> Result<Response, Problem> {
    publisher.refresh().await?;
    let in_force = publisher.in_force();
    shown(&in_force.text, &hex(&in_force.hash), &headers)
}

/// Puts a whole catalogue in the place of the one in force.
async fn put(State(publisher): Catalogue, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let expected = expected(&headers)?.ok_or_else(|| {
        let detail = "say which catalogue this one takes the place of: send the ETag that GET /admin/v1/catalogue answers in If-Match";
        Problem::new(StatusCode::PRECONDITION_REQUIRED, "if_match_missing", detail)
    })?;
    let by = by(&headers);
    let text = text(&headers, body).await?;
    published(publisher.publish(Put { text, expected, how: How::Put, by, of: None }).await?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DraftAnswer {
    hash: String,
    at: String,
    by: String,
    /// The version in force when it was put.
    over: u64,
}

impl From<Draft> for DraftAnswer {
    fn from(Draft { hash, at, by, over }: Draft) -> Self {
        Self { hash, at: at.to_string(), by, over }
    }
}

async fn draft(State(publisher): Catalogue, headers: HeaderMap) -> Result<Response, Problem> {
    let draft = publisher.draft().await?.ok_or_else(no_draft)?;
    let text = publisher.kept_text(&draft.hash).await?;
    let mut response = shown(&text, &draft.hash, &headers)?;
    if let Ok(over) = HeaderValue::from_str(&draft.over.to_string()) {
        response.headers_mut().insert("x-selvedge-over", over);
    }
    Ok(response)
}

async fn put_draft(State(publisher): Catalogue, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let (expected, by) = (expected(&headers)?.unwrap_or(Expected::Whatever), by(&headers));
    let text = text(&headers, body).await?;
    let draft = publisher.put_draft(text, &expected, by).await?;
    let tag = draft.hash.clone();
    Ok(under(&tag, Json(DraftAnswer::from(draft)).into_response()))
}

async fn drop_draft(State(publisher): Catalogue) -> Result<StatusCode, Problem> {
    publisher.drop_draft().await.map(|()| StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"at\": \"2026-12-01T08:00:00Z\"}")]
struct PublishBody {
    /// When it is to take force; at once where nothing is said.
    at: Option<String>,
}

/// Puts the draft into force, now or at a time.
async fn publish_draft(State(publisher): Catalogue, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let (expected, by) = (expected(&headers)?.unwrap_or(Expected::Whatever), by(&headers));
    let PublishBody { at } = small(body).await?;
    let parse = |text: &String| {
        Timestamp::parse(text).map_err(|error| {
            Problem::bad_request("timestamp_invalid", format!("{} is {error}", quoted(text))).at("/at")
        })
    };
    match at.as_ref().map(parse).transpose()?.filter(|at| *at > clock::now()) {
        None => published(publisher.publish_draft(expected, by).await?),
        Some(at) => {
            let scheduled = publisher.schedule(at, expected, by).await?;
            Ok((StatusCode::ACCEPTED, Json(ScheduledAnswer::from(scheduled))).into_response())
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScheduledAnswer {
    hash: String,
    at: String,
    said_at: String,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<Scheduled> for ScheduledAnswer {
    fn from(Scheduled { hash, at, said_at, by, error }: Scheduled) -> Self {
        Self { hash, at: at.to_string(), said_at: said_at.to_string(), by, error }
    }
}

async fn scheduled(State(publisher): Catalogue) -> Result<Json<ScheduledAnswer>, Problem> {
    let scheduled = publisher.scheduled().await?.ok_or_else(nothing_scheduled)?;
    Ok(Json(scheduled.into()))
}

async fn cancel(State(publisher): Catalogue) -> Result<Json<ScheduledAnswer>, Problem> {
    publisher.cancel().await.map(|cancelled| Json(cancelled.into()))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"to\": 3}")]
struct UndoBody {
    /// The version to bring back; the one before where nothing is said.
    to: Option<u64>,
}

async fn undo(State(publisher): Catalogue, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let (expected, by) = (expected(&headers)?.unwrap_or(Expected::Whatever), by(&headers));
    let UndoBody { to } = small(body).await?;
    published(publisher.undo(to, expected, by).await?)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    version: u64,
    hash: String,
    /// None of versions of older builds.
    at: Option<String>,
    by: String,
    how: How,
    #[serde(skip_serializing_if = "Option::is_none")]
    brings_back: Option<u64>,
    in_force: bool,
}

impl VersionAnswer {
    fn of(version: &Version, in_force: bool) -> Self {
        let hash = match &version.text {
            selvedge_core::control::Text::Inline(text) => crate::release::hash(text.as_bytes()),
            selvedge_core::control::Text::Blob(hash) => *hash,
        };
        let (at, by) = (version.at.map(|at| at.to_string()), version.by.clone());
        Self { version: version.seq, hash: hex(&hash), at, by, how: version.how, brings_back: version.of, in_force }
    }
}

#[derive(Serialize)]
struct VersionList {
    /// Newest first.
    versions: Vec<VersionAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionsQuery {
    /// How many.
    limit: Option<usize>,
}

async fn versions(
    State(publisher): Catalogue,
    Asked(VersionsQuery { limit }): Asked<VersionsQuery>,
) -> Result<Json<VersionList>, Problem> {
    publisher.refresh().await?;
    let control = publisher.control();
    let newest = control.version().map(|version| version.seq);
    let versions = control.versions().iter().rev().take(limit.unwrap_or(VERSIONS).min(VERSIONS_MAX));
    let versions = versions.map(|version| VersionAnswer::of(version, Some(version.seq) == newest)).collect();
    drop(control);
    Ok(Json(VersionList { versions }))
}

async fn version(State(publisher): Catalogue, At(seq): At<u64>, headers: HeaderMap) -> Result<Response, Problem> {
    publisher.refresh().await?;
    let version = publisher.control().versions().iter().find(|version| version.seq == seq).cloned();
    let version = version.ok_or_else(no_version)?;
    let hash = VersionAnswer::of(&version, false).hash;
    shown(&publisher.text(&version).await?, &hash, &headers)
}

#[derive(Serialize)]
struct Switched<'a> {
    offer: &'a str,
    stopped: bool,
    /// Since when, and by whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

impl<'a> Switched<'a> {
    fn of(offer: &'a str, stopped: Option<Stopped>) -> Self {
        let (at, by) = match &stopped {
            Some(stopped) => (Some(stopped.at.to_string()), Some(stopped.by.clone())),
            None => (None, None),
        };
        Self { offer, stopped: stopped.is_some(), at, by }
    }
}

async fn stop(State(publisher): Catalogue, At(id): At<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let stopped = publisher.switch(&id, true, by(&headers)).await?;
    Ok(Json(Switched::of(&id, stopped)).into_response())
}

async fn start(State(publisher): Catalogue, At(id): At<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let stopped = publisher.switch(&id, false, by(&headers)).await?;
    Ok(Json(Switched::of(&id, stopped)).into_response())
}

/// The offers that are stopped.
async fn stopped(State(publisher): Catalogue) -> Result<Response, Problem> {
    publisher.refresh().await?;
    let stopped: BTreeMap<_, _> = publisher.control().stopped().clone();
    let stopped: Vec<_> = stopped.iter().map(|(offer, stopped)| Switched::of(offer, Some(stopped.clone()))).collect();
    Ok(Json(serde_json::json!({ "stopped": stopped })).into_response())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PublishedAnswer {
    #[serde(flatten)]
    version: Option<VersionAnswer>,
    /// Whether the call changed what is in force.
    changed: bool,
}

fn published(published: Published) -> Result<Response, Problem> {
    let Published { version, in_force, changed } = published;
    let version = version.as_ref().map(|version| VersionAnswer::of(version, version.seq == in_force.version));
    let tag = version.as_ref().map_or_else(|| hex(&in_force.hash), |version| version.hash.clone());
    Ok(under(&tag, Json(PublishedAnswer { version, changed }).into_response()))
}

/// A document in the form that is wanted, or that the caller has it.
pub fn shown(text: &str, tag: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    if matches!(tags(headers, header::IF_NONE_MATCH)?, Some(tags) if tags.iter().any(|known| known == tag || known == "*"))
    {
        return Ok(under(tag, StatusCode::NOT_MODIFIED.into_response()));
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = if accept.contains("toml") { Form::Toml } else { Form::Json };
    let body = match form {
        _ if form == Form::of(text) => Ok(text.to_owned()),
        Form::Toml => document::to_toml(text),
        Form::Json => document::to_json(text).map(|json| json.to_string()),
    };
    // What was taken can be shown, but for JSON that has no form in TOML.
    let body = body.map_err(|faults| {
        let detail = format!("this catalogue has no form in TOML; ask for JSON: {}", document::in_words(&faults));
        Problem::new(StatusCode::NOT_ACCEPTABLE, "form_unavailable", detail)
    })?;
    let mut response = under(tag, Response::new(Body::from(body)));
    let own = response.headers_mut();
    own.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    own.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// An answer under a tag.
fn under(tag: &str, mut response: Response) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

/// What a caller expects to be there; none where it says nothing.
fn expected(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    if let Some(tags) = tags(headers, header::IF_MATCH)? {
        let any = tags.iter().any(|tag| tag == "*");
        return Ok(Some(if any { Expected::Whatever } else { Expected::One(tags) }));
    }
    let none = tags(headers, header::IF_NONE_MATCH)?.filter(|tags| tags.iter().any(|tag| tag == "*"));
    Ok(none.map(|_| Expected::Nothing))
}

/// The tags of a header, bare.
fn tags(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<Vec<String>>, Problem> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        Problem::bad_request("tag_invalid", format!("{name} holds tags in quotes, such as the ETag of an answer"))
    })?;
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    Ok(Some(text.split(',').map(bare).collect()))
}

/// Who changes something, as far as they say.
pub fn by(headers: &HeaderMap) -> String {
    let said = headers.get(BY).and_then(|by| std::str::from_utf8(by.as_bytes()).ok()).unwrap_or_default();
    said.chars().filter(|letter| !letter.is_control()).take(BY_CHARS_MAX).collect()
}

/// A document that was sent.
async fn text(headers: &HeaderMap, body: Body) -> Result<Arc<str>, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let form = match essence.as_str() {
        "application/json" => Some(Form::Json),
        "application/toml" | "text/toml" | "text/x-toml" => Some(Form::Toml),
        "" | "text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded" => None,
        other => {
            let detail = format!("a catalogue comes as application/json or application/toml, not as {}", quoted(other));
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type_unsupported", detail));
        }
    };
    let bytes = whole(body, DOCUMENT_BYTES_MAX).await?;
    let text = utf8(&bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if form == Some(Form::Json) {
        // An empty one, or a list, is not TOML by mistake.
        let document: Result<&serde_json::value::RawValue, _> = serde_json::from_str(text);
        let error = match document {
            Ok(document) if document.get().starts_with('{') => None,
            Ok(_) => Some("it is not an object such as {\"offers\": …}".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = error {
            return Err(Problem::bad_request("malformed_json", format!("the body is not a JSON document: {error}")));
        }
    }
    Ok(text.into())
}

/// A small body as JSON; an empty one says nothing.
async fn small<T: Default + for<'a> Deserialize<'a>>(body: Body) -> Result<T, Problem> {
    let bytes = whole(body, SMALL_BODY_BYTES).await?;
    let text = utf8(&bytes)?;
    if text.trim().is_empty() { Ok(T::default()) } else { parse_body(text) }
}

/// A body, within its bound and in time.
pub async fn whole(body: Body, most: usize) -> Result<Bytes, Problem> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    let whole = whole.map_err(|_| {
        let detail = format!("the body did not arrive within {} seconds; send it again", BODY_TIMEOUT.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
    })?;
    let whole = whole.map_err(|error| {
        let detail = format!("the body could not be read: {error}; it has at most {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    Ok(whole.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expects(name: header::HeaderName, value: &'static str) -> Option<Expected> {
        let headers = [(name, HeaderValue::from_static(value))].into_iter().collect();
        expected(&headers).expect("tags")
    }

    #[test]
    fn what_a_caller_expects_is_read_from_its_headers() {
        let one = |tags: &[&str]| Some(Expected::One(tags.iter().map(|tag| (*tag).to_owned()).collect()));
        assert_eq!(expects(header::IF_MATCH, "\"ab\""), one(&["ab"]));
        assert_eq!(expects(header::IF_MATCH, "W/\"ab\", cd"), one(&["ab", "cd"]));
        assert_eq!(expects(header::IF_MATCH, "*"), Some(Expected::Whatever));
        assert_eq!(expects(header::IF_NONE_MATCH, "*"), Some(Expected::Nothing));
        assert_eq!(expects(header::IF_NONE_MATCH, "\"ab\""), None);
        assert_eq!(expected(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn who_changes_something_is_a_short_line() {
        let headers = [(header::HeaderName::from_static(BY), HeaderValue::from_static("ada@example"))];
        assert_eq!(by(&headers.into_iter().collect()), "ada@example");
        let long = HeaderValue::from_str(&"x".repeat(300)).expect("a header");
        let headers = [(header::HeaderName::from_static(BY), long)];
        assert_eq!(by(&headers.into_iter().collect()).len(), BY_CHARS_MAX);
        assert_eq!(by(&HeaderMap::new()), "");
    }

    #[test]
    fn a_document_is_shown_in_the_form_that_is_wanted() {
        let shows = |accept: &'static str, known: &'static str| {
            let headers = [
                (header::ACCEPT, HeaderValue::from_static(accept)),
                (header::IF_NONE_MATCH, HeaderValue::from_static(known)),
            ];
            let response = shown("[[slots]]\nslot = \"a\"\n", "ab", &headers.into_iter().collect()).expect("an answer");
            let kind = response.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().expect("text").to_owned());
            (response.status().as_u16(), kind)
        };
        assert_eq!(shows("*/*", "\"cd\""), (200, Some("application/json".into())));
        assert_eq!(shows("application/toml", "\"cd\""), (200, Some("application/toml".into())));
        assert_eq!(shows("*/*", "\"ab\""), (304, None));
    }
}
