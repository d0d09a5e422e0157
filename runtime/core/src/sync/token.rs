//! Read-your-writes tokens: what a caller takes from the edge that it wrote to and shows to another, which then answers from a view that has those writes, or says that it cannot.
//!
//! As text: URL-safe Base64 of a version byte, the origins, the marks and a checksum. A token is no secret and no proof; whoever makes one up waits in vain.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::wire::{Reader, put, put_fixed};
use super::{Origin, bounds};
use crate::identity::ShardId;
use crate::view::Cursor;

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;

/// What a view must have. At most [`bounds::TOKEN_MARKS_MAX`] marks: one for each shard and origin, and one for each shard's sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token(Vec<Mark>);

/// One thing that a view must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// All changes of an origin up to a number: known where they were accepted, before the centre has ordered them.
    Number {
        /// Whose log.
        shard: ShardId,
        /// The edge that accepted them.
        origin: Origin,
        /// The last of them.
        number: u64,
    },
    /// All entries up to a sequence.
    Seq {
        /// Whose log.
        shard: ShardId,
        /// The last of them.
        cursor: Cursor,
    },
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over [`bounds::TOKEN_CHARS_MAX`].
    #[error("the token is longer than {} characters; send it as it was given", bounds::TOKEN_CHARS_MAX)]
    TooLong,
    /// Damaged or made up.
    #[error("this is no token; send it as it was given, or leave it out")]
    Malformed,
    /// Of a newer build.
    #[error("the token is of version {0}, this edge reads {VERSION}; leave it out, or upgrade selvedge at this edge")]
    Version(u8),
}

impl Token {
    /// Adds a mark. Of one shard and origin, and of one shard's sequence in one epoch, the highest is kept. False, and nothing is added, where there are too many.
    pub fn add(&mut self, mark: Mark) -> bool {
        for held in &mut self.0 {
            match (held, mark) {
                (Mark::Number { shard, origin, number }, Mark::Number { shard: s, origin: o, number: n })
                    if (*shard, *origin) == (s, o) =>
                {
                    *number = n.max(*number);
                    return true;
                }
                (Mark::Seq { shard, cursor }, Mark::Seq { shard: s, cursor: c })
                    if (*shard, cursor.epoch) == (s, c.epoch) =>
                {
                    cursor.seq = cursor.seq.max(c.seq);
                    return true;
                }
                _ => {}
            }
        }
        let fits = self.0.len() < bounds::TOKEN_MARKS_MAX;
        if fits {
            self.0.push(mark);
        }
        fits
    }

    /// The marks.
    pub fn marks(&self) -> &[Mark] {
        &self.0
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a view has all of it: `number` gives the last number of an origin that it has, `cursor` where a shard's base stands. A sequence of another epoch
    /// cannot be compared and is not satisfied.
    pub fn satisfied_by(&self, number: impl Fn(ShardId, Origin) -> u64, cursor: impl Fn(ShardId) -> Cursor) -> bool {
        self.0.iter().all(|mark| match mark {
            Mark::Number { shard, origin, number: wanted } => number(*shard, *origin) >= *wanted,
            Mark::Seq { shard, cursor: wanted } => {
                let base = cursor(*shard);
                base.epoch == wanted.epoch && base.seq >= wanted.seq
            }
        })
    }

    /// As text.
    pub fn encode(&self) -> String {
        let mut origins: Vec<Origin> = self.0.iter().filter_map(origin).collect();
        origins.sort_unstable();
        origins.dedup();
        let mut out = vec![VERSION];
        put(&mut out, origins.len() as u64);
        for origin in &origins {
            put_fixed(&mut out, origin.0);
        }
        put(&mut out, self.0.len() as u64);
        for mark in &self.0 {
            match mark {
                // The place of its origin, counted from 1; 0 says that a sequence follows.
                Mark::Number { shard, origin, number } => {
                    put(&mut out, origins.binary_search(origin).map_or(0, |place| place as u64 + 1));
                    put(&mut out, u64::from(shard.0));
                    put(&mut out, *number);
                }
                Mark::Seq { shard, cursor } => {
                    put(&mut out, 0);
                    put(&mut out, u64::from(shard.0));
                    put(&mut out, u64::from(cursor.epoch));
                    put(&mut out, cursor.seq);
                }
            }
        }
        let check = check(&out);
        out.extend_from_slice(&check);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads a text.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        if text.len() > bounds::TOKEN_CHARS_MAX {
            return Err(TokenError::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
        match bytes.first() {
            Some(&version) if version > VERSION => return Err(TokenError::Version(version)),
            Some(&VERSION) => {}
            _ => return Err(TokenError::Malformed),
        }
        let split = bytes.len().checked_sub(CHECK_BYTES).ok_or(TokenError::Malformed)?;
        let (said, sum) = bytes.split_at(split);
        if check(said) != sum {
            return Err(TokenError::Malformed);
        }
        read(&mut Reader(said.get(1..).unwrap_or_default())).ok_or(TokenError::Malformed)
    }
}

fn origin(mark: &Mark) -> Option<Origin> {
    match mark {
        Mark::Number { origin, .. } => Some(*origin),
        Mark::Seq { .. } => None,
    }
}

fn check(said: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = xxh3_64(said).to_le_bytes();
    [a, b, c, d]
}

fn read(reader: &mut Reader<'_>) -> Option<Token> {
    let count = reader.count(bounds::TOKEN_MARKS_MAX, 8)?;
    let origins = (0..count).map(|_| reader.fixed().map(Origin)).collect::<Option<Vec<_>>>()?;
    let count = reader.count(bounds::TOKEN_MARKS_MAX, 3)?;
    let mark = |_| {
        let place = usize::try_from(reader.number()?).ok()?;
        let shard = reader.short().filter(|shard| usize::from(*shard) < bounds::SHARDS_MAX).map(ShardId)?;
        Some(match place.checked_sub(1) {
            Some(place) => Mark::Number { shard, origin: *origins.get(place)?, number: reader.number()? },
            None => Mark::Seq { shard, cursor: Cursor { epoch: reader.small()?, seq: reader.number()? } },
        })
    };
    let marks = (0..count).map(mark).collect::<Option<_>>()?;
    reader.end()?;
    Some(Token(marks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark() -> impl Strategy<Value = Mark> {
        let shard = (0..bounds::SHARDS_MAX as u16).prop_map(ShardId);
        (shard, any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>()).prop_map(
            |(shard, origin, number, epoch, seq)| match seq {
                true => Mark::Seq { shard, cursor: Cursor { epoch: epoch % 3, seq: number } },
                false => Mark::Number { shard, origin: Origin(origin % 5 + (1 << 60)), number },
            },
        )
    }

    proptest! {
        #[test]
        fn tokens_survive_and_damage_is_seen(marks in prop::collection::vec(mark(), 0..200), at in any::<usize>(), with in any::<char>()) {
            let mut token = Token::default();
            let fit = marks.iter().filter(|mark| token.add(**mark)).count();
            prop_assert!(fit == marks.len() || token.marks().len() == bounds::TOKEN_MARKS_MAX);
            let text = token.encode();
            prop_assert!(text.len() <= bounds::TOKEN_CHARS_MAX, "{} characters", text.len());
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            let decoded = Token::decode(&text)?;
            prop_assert_eq!(&decoded, &token);
            let mut damaged: Vec<char> = text.chars().collect();
            let at = at % damaged.len();
            damaged[at] = with;
            let damaged: String = damaged.into_iter().collect();
            prop_assert!(damaged == text || Token::decode(&damaged).is_err());
        }
    }

    #[test]
    fn the_highest_of_each_is_asked_for() {
        let (shard, origin) = (ShardId(3), Origin(9));
        let mut token = Token::default();
        assert!(token.is_empty() && token.satisfied_by(|_, _| 0, |_| Cursor::default()));
        assert!(token.add(Mark::Number { shard, origin, number: 5 }));
        assert!(token.add(Mark::Number { shard, origin, number: 4 }));
        assert!(token.add(Mark::Seq { shard, cursor: Cursor { epoch: 2, seq: 7 } }));
        assert_eq!(token.marks().len(), 2);
        let at = |epoch, seq| move |_: ShardId| Cursor { epoch, seq };
        assert!(token.satisfied_by(|_, _| 5, at(2, 7)));
        assert!(!token.satisfied_by(|_, _| 4, at(2, 7)));
        assert!(!token.satisfied_by(|_, _| 5, at(2, 6)));
        assert!(!token.satisfied_by(|_, _| 5, at(3, 9)), "another epoch cannot be compared");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in ["", "A", "AAAA", "not a token", "éé", "AQAA"] {
            assert_eq!(Token::decode(text), Err(TokenError::Malformed), "{text:?}");
        }
        assert_eq!(Token::decode(&"A".repeat(5_000)), Err(TokenError::TooLong));
        assert_eq!(Token::decode(&URL_SAFE_NO_PAD.encode([2, 0, 0])), Err(TokenError::Version(2)));
    }
}
