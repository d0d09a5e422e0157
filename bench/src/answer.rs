//! Answers, read no further than they must be.

use anyhow::{Result, bail};

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// HTTP's status.
    pub status: u16,
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

/// Reads the head of an answer; none where it has not all come.
pub fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let status = bytes.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let (Some(status), true) = (status, bytes.starts_with(b"HTTP/1.1 ")) else {
        bail!("an answer begins with {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    };
    let length = bytes[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:").then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    });
    let Some(body) = length else { bail!("an answer does not say how long it is") };
    Ok(Some(Head { status, head: end + 4, body }))
}

/// What is looked for in the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing: a floor.
    Nothing,
    /// So many offers, none of them a fallback.
    Offers(usize),
    /// One event accepted.
    Accepted,
}

/// What the body of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was asked for.
    Good,
    /// A fallback.
    Fallback,
    /// Something else.
    Bad,
}

impl Check {
    /// Judges a body.
    pub fn judge(self, body: &[u8]) -> Verdict {
        let Ok(text) = std::str::from_utf8(body) else { return Verdict::Bad };
        match self {
            Self::Nothing => Verdict::Good,
            Self::Offers(_) if text.contains("\"fallback\":true") => Verdict::Fallback,
            Self::Offers(offers) if text.matches("\"rank\":").count() == offers => Verdict::Good,
            Self::Accepted if text.contains("\"accepted\":1,") => Verdict::Good,
            _ => Verdict::Bad,
        }
    }
}

/// The server's own time for an answer, in microseconds, where it says so.
pub fn elapsed_us(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let rest = &text[text.rfind("\"elapsedUs\":")? + 12..];
    rest[..rest.find(|digit: char| !digit.is_ascii_digit())?].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_they_are_there() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 12\r\ndate: x\r\n\r\nhello";
        assert_eq!(head(&answer[..60]).expect("good so far"), None);
        let read = head(answer).expect("good").expect("whole");
        assert_eq!((read.status, read.body, &answer[read.head..]), (200, 12, b"hello".as_slice()));
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(head(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    #[test]
    fn bodies_are_judged() {
        let offers = br#"{"slots":[{"fallback":false,"offers":[{"rank":1},{"rank":2},{"rank":3}]}],"meta":{"elapsedUs":31,"x":1}}"#;
        assert_eq!(Check::Offers(3).judge(offers), Verdict::Good);
        assert_eq!(Check::Offers(2).judge(offers), Verdict::Bad);
        assert_eq!(Check::Offers(3).judge(br#"{"fallback":true}"#), Verdict::Fallback);
        assert_eq!(Check::Accepted.judge(br#"{"success":true,"accepted":1,"duplicates":0}"#), Verdict::Good);
        assert_eq!(Check::Accepted.judge(br#"{"success":true,"accepted":0,"duplicates":1}"#), Verdict::Bad);
        assert_eq!(elapsed_us(offers), Some(31));
        assert_eq!(elapsed_us(b"{}"), None);
    }
}
