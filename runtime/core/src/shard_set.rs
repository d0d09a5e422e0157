//! Sets of shards, as operators write them: `0-31,40`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::{SHARDS, ShardId};

/// Some of the data shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u64);

/// A text that names no shards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no shards; write numbers from 0 to 63 and ranges of them, such as 0-31,40")]
pub struct ShardSetError(String);

impl ShardSet {
    /// All data shards.
    pub const ALL: Self = Self(u64::MAX);
    /// No shard.
    pub const EMPTY: Self = Self(0);

    /// Adds a shard. One that is no data shard is passed over.
    pub fn insert(&mut self, shard: ShardId) {
        self.0 |= 1_u64.checked_shl(u32::from(shard.0)).unwrap_or(0);
    }

    /// Whether a shard is in it.
    pub fn holds(self, shard: ShardId) -> bool {
        shard.0 < SHARDS && self.0 & (1 << shard.0) != 0
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether everything in it is in another one.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards, ascending.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        ShardId::all().filter(move |shard| self.holds(*shard))
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let known = shards.into_iter().filter(|shard| shard.0 < SHARDS);
        Self(known.fold(0, |set, shard| set | 1 << shard.0))
    }
}

impl FromStr for ShardSet {
    type Err = ShardSetError;

    fn from_str(text: &str) -> Result<Self, ShardSetError> {
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|shard| *shard < SHARDS);
        let mut set = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(ShardSetError(text.to_owned()));
            };
            if first > last {
                return Err(ShardSetError(text.to_owned()));
            }
            (first..=last).for_each(|shard| set |= 1 << shard);
        }
        Ok(Self(set))
    }
}

impl fmt::Display for ShardSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shards = self.iter().map(|shard| shard.0).peekable();
        let mut separator = "";
        while let Some(first) = shards.next() {
            let mut last = first;
            while shards.peek() == Some(&(last + 1)) {
                last += 1;
                shards.next();
            }
            write!(out, "{separator}{first}")?;
            if last > first {
                write!(out, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl Serialize for ShardSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShardSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_survive_as_text() {
        for text in ["0-63", "0-31,40", "5", "0,2,4-6"] {
            let set: ShardSet = text.parse().expect("a set");
            assert_eq!(set.to_string(), text);
        }
        assert_eq!("0-63".parse(), Ok(ShardSet::ALL));
        let some: ShardSet = "3,5".parse().expect("a set");
        assert!(some.holds(ShardId(3)) && !some.holds(ShardId(4)) && !some.holds(ShardId(64)));
        assert!(some.is_within(ShardSet::ALL) && !ShardSet::ALL.is_within(some));
        assert_eq!(some.iter().collect::<ShardSet>(), some);
        assert!(some.and("4".parse().expect("a set")).is_empty());
        for text in ["", "64", "3-1", "a", "1,", "-1"] {
            assert!(text.parse::<ShardSet>().is_err(), "{text}");
        }
    }
}
