//! The lane: the two calls that are made most, read from and written to their connection without more HTTP than they need.
//!
//! It takes a request only where it knows all of it: whole, short, HTTP/1.1, and with no header that asks for anything else. At the first other one the connection is
//! hyper's for good, from the beginning of that request on; so all that is written about HTTP, limits and faults stays hyper's and the router's.
//!
//! Most requests of a connection have the head of the one before, but for the length of the body. Such a head is not read again, nor its key looked up.

use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use selvedge_core::event::EventKind;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::entrance::Entrance;
use super::ingest::{self, Ack};
use super::{Answered, JSON, TOKEN_HEADER, decide};
use crate::auth::{API_KEY, Role};
use crate::error::Problem;
use crate::serve::{First, Stop};
use crate::tokens;

/// What a connection's buffer begins with, and what it may grow to: a head and a body that are no longer than most.
const BUFFER_BYTES: usize = 4 * 1024;
const REQUEST_BYTES_MAX: usize = 24 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 32;
/// How long a connection may idle, and may take to send a request before hyper takes it.
const IDLE: Duration = Duration::from_secs(60);
/// How long a client may take to read an answer that does not fit its window.
const WRITE: Duration = Duration::from_secs(60);
/// Room for an answer's head and most bodies.
const ANSWER_BYTES: usize = 1024;
/// Bytes of a body that is copied behind its head; a larger one is sent after it.
const COPIED_MAX: usize = 16 * 1024;

/// The headers that the two calls look at.
const LOOKED_AT: [HeaderName; 4] =
    [header::AUTHORIZATION, API_KEY, TOKEN_HEADER, HeaderName::from_static(tokens::HEADER)];
/// Headers after which a request is not for the lane.
const OTHERS: [HeaderName; 6] =
    [header::ORIGIN, header::CONTENT_ENCODING, header::TRANSFER_ENCODING, header::EXPECT, header::UPGRADE, header::TE];

/// One of the two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Decide,
    Track(Ack),
}

/// A head that was read, for requests that have it again.
#[derive(Debug)]
struct Head {
    call: Call,
    headers: HeaderMap,
    /// Its bytes before and behind the length of the body.
    before: Box<[u8]>,
    behind: Box<[u8]>,
    /// Who calls, once its key has been looked up and is good.
    role: Option<Role>,
}

/// Where the body of a request begins in the buffer, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    body: usize,
    end: usize,
}

/// What the buffer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// A request of the lane, whole; its head is the one that was read last.
    Whole(Place),
    /// Perhaps one, so far.
    Part,
    /// Something else.
    Other,
}

impl Head {
    /// The place of the body of a request that has this head again, whatever its length.
    fn again(&self, bytes: &[u8]) -> Option<Place> {
        let rest = bytes.strip_prefix(&*self.before)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (length, rest) = rest.split_at_checked(digits)?;
        let body = bytes.len() - rest.strip_prefix(&*self.behind)?.len();
        Place::of(body, length)
    }
}

impl Place {
    fn of(body: usize, length: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some(Self { body, end: body.checked_add(digits.parse().ok()?)? })
    }
}

impl First for Entrance {
    async fn take(&self, connection: &mut TcpStream, stop: &Stop) -> Option<Vec<u8>> {
        let mut arriving = Arriving::new();
        let (mut stopped, mut late) = (pin!(stop.telling()), pin!(tokio::time::sleep(IDLE)));
        let mut date = Date::default();
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        let mut head = None;
        loop {
            let place = match begun(arriving.bytes(), &mut head) {
                Begun::Whole(place) => place,
                Begun::Other => return Some(arriving.bytes().to_vec()),
                Begun::Part if arriving.bytes().len() >= REQUEST_BYTES_MAX => return Some(arriving.bytes().to_vec()),
                Begun::Part => {
                    if arriving.bytes().is_empty() {
                        arriving.watched &= !late.is_elapsed();
                        late.as_mut().reset(Instant::now() + IDLE);
                    }
                    let mut looked = false;
                    let read = poll_fn(|context| {
                        let read = arriving.poll_read(connection, context);
                        // Both have this task's waker since they were looked at first: they are looked at again when something woke it.
                        let look = read.is_pending() && (std::mem::replace(&mut looked, true) || !arriving.watched);
                        let ends = look
                            && (stopped.as_mut().poll(context).is_ready() || late.as_mut().poll(context).is_ready());
                        let ends = ends || read.is_pending() && stop.is_told();
                        arriving.watched |= read.is_pending();
                        if ends { Poll::Ready(None) } else { read.map(Some) }
                    });
                    match read.await {
                        Some(Ok(true)) => continue,
                        // It was told to end, was late, broke, or is at its end. One that has begun a request is answered all the same.
                        None if !arriving.bytes().is_empty() => return Some(arriving.bytes().to_vec()),
                        _ => return None,
                    }
                }
            };
            let mut large = None;
            match self.call(head.as_mut()?, arriving.bytes().get(place.body..place.end)?).await {
                Ok(answered) => {
                    write_answer(&mut answer, &answered, &mut date);
                    match answered.json {
                        json if json.len() > COPIED_MAX => large = Some(json),
                        json => answer.extend_from_slice(&json),
                    }
                }
                Err(problem) => {
                    let response = problem.into_response();
                    write_head(&mut answer, &response, &mut date);
                    write_body(&mut answer, &response.into_body().collect().await.ok()?.to_bytes());
                }
            }
            arriving.take(place.end);
            send(connection, &answer).await?;
            if let Some(json) = large {
                send(connection, &json).await?;
            }
            answer.clear();
        }
    }
}

impl Entrance {
    async fn call(&self, head: &mut Head, body: &[u8]) -> Result<Answered, Problem> {
        let edge = self.gate.enter().await;
        let Head { call, headers, role, .. } = head;
        if role.is_none() {
            *role = edge.keys.authenticate(headers, None).ok();
        }
        match *call {
            Call::Decide => decide::arrived(&edge, *role, headers, body).await,
            Call::Track(ack) => ingest::arrived(EventKind::Track, &edge, *role, ack, headers, body).await,
        }
    }
}

/// What has arrived of a connection's requests.
struct Arriving {
    buffer: Vec<u8>,
    filled: usize,
    /// Whether the end and the time have been looked at once.
    watched: bool,
}

impl Arriving {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], filled: 0, watched: false }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Reads some; false at the connection's end.
    fn poll_read(&mut self, connection: &mut TcpStream, context: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        if self.filled == self.buffer.len() {
            self.buffer.resize((2 * self.filled).min(REQUEST_BYTES_MAX), 0);
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.filled..]);
        ready!(Pin::new(connection).poll_read(context, &mut room))?;
        let read = room.filled().len();
        self.filled += read;
        Poll::Ready(Ok(read > 0))
    }

    /// Takes a request out.
    fn take(&mut self, end: usize) {
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        // A long one is over.
        if self.filled <= BUFFER_BYTES && self.buffer.len() > BUFFER_BYTES {
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to_fit();
        }
    }
}

/// What the buffer begins with; `head` is the one that was read last.
fn begun(bytes: &[u8], head: &mut Option<Head>) -> Begun {
    if bytes.is_empty() {
        return Begun::Part;
    }
    let place = match head.as_ref().and_then(|head| head.again(bytes)) {
        Some(place) => place,
        None => match read(bytes) {
            Ok((read, place)) => {
                *head = Some(read);
                place
            }
            Err(begun) => return begun,
        },
    };
    match place.end {
        end if end > REQUEST_BYTES_MAX => Begun::Other,
        end if end > bytes.len() => Begun::Part,
        _ => Begun::Whole(place),
    }
}

fn read(bytes: &[u8]) -> Result<(Head, Place), Begun> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(body)) => {
            call(&request).and_then(|call| head(call, &request, bytes, body)).ok_or(Begun::Other)
        }
        Ok(httparse::Status::Partial) => Err(Begun::Part),
        Err(_) => Err(Begun::Other),
    }
}

fn call(request: &httparse::Request<'_, '_>) -> Option<Call> {
    let (path, query) = match request.path?.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path?, None),
    };
    match (request.method?, request.version?, path, query) {
        ("POST", 1, "/v1/decide", None) => Some(Call::Decide),
        ("POST", 1, "/v1/track", query) => Ack::of(query).map(Call::Track),
        _ => None,
    }
}

/// A head with the headers that matter; none where one of them is not for the lane.
fn head(call: Call, request: &httparse::Request<'_, '_>, bytes: &[u8], body: usize) -> Option<(Head, Place)> {
    let (mut headers, mut length) = (HeaderMap::new(), None);
    for header in request.headers.iter() {
        let is = |name: &HeaderName| header.name.eq_ignore_ascii_case(name.as_str());
        if is(&header::CONTENT_LENGTH) {
            if length.replace(header.value).is_some() {
                return None;
            }
        } else if let Some(name) = LOOKED_AT.iter().find(|name| is(name)) {
            headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
        } else if is(&header::CONNECTION) && !header.value.eq_ignore_ascii_case(b"keep-alive") || OTHERS.iter().any(is)
        {
            return None;
        }
    }
    let length = length?;
    let place = Place::of(body, length)?;
    // It is a part of these bytes.
    let at = length.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let (before, behind) = (bytes.get(..at)?.into(), bytes.get(at + length.len()..body)?.into());
    Some((Head { call, headers, before, behind, role: None }, place))
}

/// An answer but for its body.
fn write_answer(answer: &mut Vec<u8>, answered: &Answered, date: &mut Date) {
    answer.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: ");
    answer.extend_from_slice(JSON.as_bytes());
    if let Some(token) = &answered.token {
        write_header(answer, TOKEN_HEADER.as_str(), token.as_bytes());
    }
    write_header(answer, "date", date.now());
    answer.extend_from_slice(b"\r\n");
    write_length(answer, &answered.json);
}

fn write_header(answer: &mut Vec<u8>, name: &str, value: &[u8]) {
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(name.as_bytes());
    answer.extend_from_slice(b": ");
    answer.extend_from_slice(value);
}

/// The end of the head, and a body.
fn write_body(answer: &mut Vec<u8>, body: &[u8]) {
    write_length(answer, body);
    answer.extend_from_slice(body);
}

fn write_length(answer: &mut Vec<u8>, body: &[u8]) {
    // Into memory: nothing can fail.
    let _ = write!(answer, "content-length: {}\r\n\r\n", body.len());
}

fn write_head(answer: &mut Vec<u8>, response: &Response<Body>, date: &mut Date) {
    let status = response.status();
    answer.extend_from_slice(b"HTTP/1.1 ");
    answer.extend_from_slice(status.as_str().as_bytes());
    answer.push(b' ');
    answer.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    let headers = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in headers.chain([("date", date.now())]) {
        write_header(answer, name, value);
    }
    answer.extend_from_slice(b"\r\n");
}

/// Sends an answer, which its client reads at once or in time.
async fn send(connection: &mut TcpStream, answer: &[u8]) -> Option<()> {
    let sent = match connection.try_write(answer) {
        Ok(sent) => sent,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(_) => return None,
    };
    match answer.get(sent..) {
        None | Some([]) => Some(()),
        Some(rest) => tokio::time::timeout(WRITE, connection.write_all(rest)).await.ok()?.ok(),
    }
}

/// The second, as answers say it.
#[derive(Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &[u8] {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Begun {
        begun(text.as_bytes(), &mut None)
    }

    const DECIDE: &str =
        "POST /v1/decide HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer wk_1\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn a_whole_request_is_taken_with_the_headers_that_matter() {
        let mut head = None;
        let Begun::Whole(place) = begun(DECIDE.as_bytes(), &mut head) else { panic!("{:?}", of(DECIDE)) };
        let read = head.expect("a head");
        assert_eq!((read.call, read.headers.len()), (Call::Decide, 1));
        assert_eq!(&DECIDE[place.body..place.end], "{}");
        for end in 1..DECIDE.len() {
            assert_eq!(of(&DECIDE[..end]), Begun::Part, "{end}");
        }
        let two = format!("{DECIDE}{DECIDE}");
        assert!(matches!(of(&two), Begun::Whole(place) if place.end == DECIDE.len()));
        let mut head = None;
        let track = DECIDE.replace("/v1/decide", "/v1/track?ack=applied");
        assert!(matches!(begun(track.as_bytes(), &mut head), Begun::Whole(_)));
        assert_eq!(head.map(|head| head.call), Some(Call::Track(Ack::Applied)));
    }

    #[test]
    fn a_head_that_comes_again_is_not_read_again_and_any_other_is() {
        let mut head = None;
        begun(DECIDE.as_bytes(), &mut head);
        let again = |text: &str| head.as_ref().and_then(|head| head.again(text.as_bytes()));
        let place = again(DECIDE).expect("the same");
        assert_eq!(Begun::Whole(place), of(DECIDE));
        let longer = DECIDE.replace("length: 2\r\n\r\n{}", "length: 11\r\n\r\n{\"a\": \"bc\"}");
        assert_eq!(again(&longer).map(|place| &longer[place.body..place.end]), Some("{\"a\": \"bc\"}"));
        for (part, other) in [
            ("wk_1", "wk_2"),
            ("length: 2", "length: "),
            ("length: 2", "length: +2"),
            ("length: 2", "length: 2\r\nOrigin: https://h"),
            ("length: 2", "length: 99999999999999999999"),
            ("decide", "track"),
        ] {
            assert_eq!(again(&DECIDE.replacen(part, other, 1)), None, "{other}");
        }
        for end in 0..DECIDE.len() {
            // Of a head that has not come whole nothing is taken for granted; of a body that has not, its length.
            assert_eq!(again(&DECIDE[..end]).is_some(), end >= place.body, "{end}");
        }
        // Another head takes its place, and its key is another one.
        head.as_mut().expect("a head").role = Some(Role::Secret);
        begun(DECIDE.replace("wk_1", "wk_2").as_bytes(), &mut head);
        assert_eq!(head.expect("a head").role, None);
    }

    #[test]
    fn everything_else_is_left_to_hyper() {
        for (part, other) in [
            ("POST", "PUT"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("/v1/decide", "/v1/decide?a=b"),
            ("/v1/decide", "/v1/track?ack=never"),
            ("/v1/decide", "/v1/batch"),
            ("Host: h", "Origin: https://h"),
            ("Host: h", "Connection: close"),
            ("Host: h", "Connection: keep-alive, upgrade"),
            ("Host: h", "Expect: 100-continue"),
            ("Host: h", "Transfer-Encoding: chunked"),
            ("Host: h", "Content-Encoding: gzip"),
            ("Host: h", "Content-Length: 2"),
            ("content-length: 2", "content-length: +2"),
            ("content-length: 2", "content-length: 30000"),
            ("content-length: 2", "content-length: 99999999999999999999"),
            ("content-length: 2\r\n", ""),
            ("Host: h", "Host : h"),
        ] {
            let text = DECIDE.replacen(part, other, 1);
            assert_eq!(of(&text), Begun::Other, "{text}");
        }
        assert!(matches!(of(&DECIDE.replace("Host: h", "Connection: Keep-Alive")), Begun::Whole(_)));
    }
}
