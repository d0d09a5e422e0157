//! The decision of the load bench as a wasi:http component: what floor B does, in a fresh instance for every request.
//!
//! Such an instance has no memory of profiles, and a component has no store at hand: it works the visitor's values out of their number, as
//! floor B did when it filled its memory, which costs less than fetching them from anywhere.

// What floor B has, the very same files.
#[allow(dead_code, reason = "only a part of it is used here")]
#[path = "../../src/data.rs"]
mod data;
#[path = "../../../tests/guests/bench/src/judge.rs"]
mod judge;
#[path = "../../src/offering.rs"]
mod offering;
#[allow(dead_code, reason = "only a part of it is used here")]
#[path = "../../src/zipf.rs"]
mod zipf;

/// What `data.rs` names visitors by.
mod request {
    /// A visitor's user id.
    pub fn user(visitor: u32) -> String {
        format!("u-{visitor:07}")
    }
}

use std::borrow::Cow;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

use data::Person;
use offering::{Candidate, Shown};

/// What stands at the end of an answer of the server under measurement, in length.
const END: &str = r#"{"events":{"accepted":0,"duplicates":0,"rejected":[]},"meta":{"version":"0:1:45","state":"live","lagMs":0,"ack":"applied","elapsedUs":321,"plugins":{"aggregates":"sha256:0000000000000000000000000000000000000000000000000000000000000000","bench":"sha256:0000000000000000000000000000000000000000000000000000000000000000","viewed":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}}"#;
/// The longest request that is read.
const REQUEST_MAX: usize = 1024 * 1024;
/// Bytes that a stream takes at once.
const CHUNK: usize = 4096;

struct Decider;

wasip2::http::proxy::export!(Decider);

impl Guest for Decider {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let answer = read(&request).and_then(|body| decide(&body));
        let headers = Fields::new();
        let body = answer.as_deref().unwrap_or_default();
        for (name, value) in [("content-type", "application/json"), ("content-length", &body.len().to_string())] {
            // Neither is forbidden.
            let _ = headers.append(name, value.as_bytes());
        }
        let response = OutgoingResponse::new(headers);
        if answer.is_none() {
            let _ = response.set_status_code(400);
        }
        let Ok(sink) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = sink.write() {
            for chunk in body.chunks(CHUNK) {
                if stream.blocking_write_and_flush(chunk).is_err() {
                    break;
                }
            }
        }
        // Whoever asked sees that it is too short.
        let _ = OutgoingBody::finish(sink, None);
    }
}

fn read(request: &IncomingRequest) -> Option<Vec<u8>> {
    let body = request.consume().ok()?;
    let stream = body.stream().ok()?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(StreamError::Closed) => return Some(bytes),
            Err(StreamError::LastOperationFailed(_)) => return None,
        }
        if bytes.len() > REQUEST_MAX {
            return None;
        }
    }
}

fn decide(body: &[u8]) -> Option<Vec<u8>> {
    let candidates: [Candidate; data::OFFERS] = std::array::from_fn(|index| {
        let (category, value) = data::worth(index);
        Candidate { category, value: value as f64 / 100.0 }
    });
    let look_up = |user: &str| {
        let person = Person::new(user.strip_prefix("u-")?.parse().ok()?);
        Some((judge::propensity(&person.all_numbers(), &person.levels), person.levels[0]))
    };
    let show = |index| Shown {
        id: Cow::Owned(data::offer(index).0),
        content: Cow::Owned(serde_json::value::to_raw_value(&data::content(index)).unwrap_or_default()),
    };
    offering::decide(body, &candidates, look_up, show, serde_json::from_str(END).ok()?)
}
