//! Requests, rendered once: only the visitor, the message's id and the instant change from one to the next.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Digits of a visitor's number.
const DIGITS: usize = 7;
/// Hexadecimal digits of a message's number.
const MESSAGE: usize = 16;
/// Characters of an instant to the millisecond.
const INSTANT: usize = 24;
/// Where the visitor's number goes in a body.
pub const VISITOR: &str = "{visitor}";
/// Where the message's number goes in a body.
pub const MESSAGE_ID: &str = "{message}";
/// Where the instant goes in a body.
pub const NOW: &str = "{now}";

/// The time as requests write it, worked out once a second but for its milliseconds.
#[derive(Debug)]
pub struct Clock {
    second: u64,
    text: [u8; INSTANT],
}

impl Clock {
    /// Not read yet.
    pub fn new() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }

    fn now(&mut self) -> &[u8; INSTANT] {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now.as_secs() != self.second {
            self.second = now.as_secs();
            let text = i64::try_from(self.second).ok().and_then(|second| Timestamp::from_second(second).ok());
            let text = text.map(|text| text.to_string()).unwrap_or_default();
            if let Some(place) = self.text.get_mut(..19).filter(|_| text.len() == 20) {
                place.copy_from_slice(&text.as_bytes()[..19]);
            }
        }
        write_number(&mut self.text[20..23], u64::from(now.subsec_millis()), 10);
        &self.text
    }
}

/// Writes a number with as many digits as there is room for.
fn write_number(into: &mut [u8], mut number: u64, base: u64) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
    }
}

/// A request but for who it is about.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    visitors: Vec<usize>,
    messages: Vec<usize>,
    instants: Vec<usize>,
}

impl Template {
    /// A POST of a JSON body with a key. `{visitor}`, `{message}` and `{now}` stand for what changes.
    pub fn post(path: &str, key: &str, body: &str) -> Self {
        let marks = [(VISITOR, "V".repeat(DIGITS)), (MESSAGE_ID, "M".repeat(MESSAGE)), (NOW, "N".repeat(INSTANT))];
        let body = marks.iter().fold(body.to_owned(), |body, (mark, room)| body.replace(mark, room));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let text = format!("{head}{body}");
        let [visitors, messages, instants] =
            marks.map(|(_, room)| text.match_indices(&room).map(|(place, _)| place).collect());
        Self { bytes: text.into_bytes(), visitors, messages, instants }
    }

    /// Bytes of a request.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the request of a visitor in place of what was in the buffer.
    pub fn render(&self, visitor: u32, message: u64, clock: &mut Clock, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.bytes);
        for place in &self.visitors {
            write_number(&mut into[*place..*place + DIGITS], u64::from(visitor), 10);
        }
        for place in &self.messages {
            write_number(&mut into[*place..*place + MESSAGE], message, 16);
        }
        for place in &self.instants {
            into[*place..*place + INSTANT].copy_from_slice(clock.now());
        }
    }
}

/// A visitor's user id.
pub fn user(visitor: u32) -> String {
    format!("u-{visitor:07}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_request_is_what_it_says() {
        let template = Template::post(
            "/v1/track",
            "k",
            "{\"userId\":\"u-{visitor}\",\"messageId\":\"{message}\",\"timestamp\":\"{now}\"}",
        );
        let mut bytes = Vec::new();
        template.render(42, 0xab, &mut Clock::new(), &mut bytes);
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let length = body.len();
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(
            (body["userId"].as_str(), body["messageId"].as_str()),
            (Some("u-0000042"), Some("00000000000000ab"))
        );
        let at: Timestamp = body["timestamp"].as_str().expect("an instant").parse().expect("an instant");
        assert!(at.duration_until(Timestamp::now()).as_secs() < 60, "{at}");
        assert!(head.ends_with(&format!("content-length: {length}")), "{head}");
        assert_eq!(template.len(), text.len());
    }
}
