//! The starts of an edge: whose numbers the changes in its outbox have.

use super::{Origin, bounds};
use crate::identity::ShardId;
use serde::{Deserialize, Serialize};

/// The starts of one edge of which its outbox may hold changes, oldest first.
///
/// The outbox counts the changes of a shard on over all starts; that is a change's *local* number. Each start is an origin of its own and counts from 1. Kept with the
/// outbox, and written before the first change of a new start is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots(Vec<Boot>);

/// One start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Boot {
    origin: Origin,
    /// By shard: the local number before its first.
    before: Vec<u64>,
}

/// Why the starts of an edge are not what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootsError {
    /// Over [`bounds::BOOTS_MAX`].
    #[error(
        "the outbox holds changes of {} starts, the most there may be; let the edge reach its centre before it is started again",
        bounds::BOOTS_MAX
    )]
    TooMany,
    /// The same random name twice, or that of the centre.
    #[error("origin {0:?} is taken; draw another")]
    Taken(Origin),
    /// The outbox is shorter than it was.
    #[error(
        "shard {shard} of the outbox ends at {local}, before the last start began; it was restored in part: move the whole data directory aside, or restore all of it"
    )]
    Shrunk {
        /// Whose.
        shard: u16,
        /// Its last local number.
        local: u64,
    },
    /// Not what was written.
    #[error("the table of starts is damaged; restore the outbox as a whole")]
    Corrupt,
}

impl Boots {
    /// Begins a start: `last` gives for each shard the last local number that is durable in the outbox, `trimmed` the last that is gone from it. Starts of which nothing is left
    /// are forgotten.
    pub fn begin(
        &mut self,
        origin: Origin,
        last: impl Fn(ShardId) -> u64,
        trimmed: impl Fn(ShardId) -> u64,
    ) -> Result<(), BootsError> {
        if origin == Origin::CENTRE || self.0.iter().any(|boot| boot.origin == origin) {
            return Err(BootsError::Taken(origin));
        }
        let before: Vec<u64> = shards().map(&last).collect();
        if let Some(newest) = self.0.last()
            && let Some(shard) = shards().find(|shard| at(&before, *shard) < at(&newest.before, *shard))
        {
            return Err(BootsError::Shrunk { shard: shard.0, local: at(&before, shard) });
        }
        let mut kept = self.0.clone();
        kept.push(Boot { origin, before });
        self.0.clone_from(&kept);
        self.forget(trimmed);
        if self.0.len() > bounds::BOOTS_MAX {
            kept.pop();
            self.0 = kept;
            return Err(BootsError::TooMany);
        }
        Ok(())
    }

    /// Forgets starts of which the outbox holds nothing any more; never the newest. `trimmed` gives for each shard the last local number that is gone.
    pub fn forget(&mut self, trimmed: impl Fn(ShardId) -> u64) {
        let ends: Vec<Vec<u64>> = self.0.iter().skip(1).map(|boot| boot.before.clone()).collect();
        let mut ends = ends.iter();
        self.0.retain(|boot| {
            let Some(end) = ends.next() else { return true };
            shards().any(|shard| at(end, shard) > at(&boot.before, shard).max(trimmed(shard)))
        });
    }

    /// Whose number a local number is, and which.
    pub fn number(&self, shard: ShardId, local: u64) -> Option<(Origin, u64)> {
        let boot = self.0.iter().rev().find(|boot| at(&boot.before, shard) < local)?;
        Some((boot.origin, local - at(&boot.before, shard)))
    }

    /// The local number of a change of this edge. None where another edge sent it, or a start that was forgotten, or where the outbox does not have it: a data directory that was restored
    /// from a backup lacks what its last start sent afterwards.
    pub fn local(&self, shard: ShardId, origin: Origin, number: u64) -> Option<u64> {
        let place = self.0.iter().position(|boot| boot.origin == origin)?;
        let local = at(&self.0[place].before, shard).checked_add(number).filter(|_| number > 0)?;
        let end = self.0.get(place + 1).map_or(u64::MAX, |next| at(&next.before, shard));
        (local <= end).then_some(local)
    }

    /// The start that is running.
    pub fn newest(&self) -> Option<Origin> {
        self.0.last().map(|boot| boot.origin)
    }

    /// All starts, oldest first.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.0.iter().map(|boot| boot.origin)
    }

    /// Of one shard: each start and the local number before its first, oldest first.
    pub(super) fn of(&self, shard: ShardId) -> Vec<(Origin, u64)> {
        self.0.iter().map(|boot| (boot.origin, at(&boot.before, shard))).collect()
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        // Writing plain data to memory cannot fail; were it to, the table would be refused as damaged.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads what was kept.
    pub fn decode(bytes: &[u8]) -> Result<Self, BootsError> {
        let boots = Some(bytes).filter(|bytes| bytes.len() <= bounds::BOOTS_BYTES_MAX);
        let Self(list) = boots.and_then(|bytes| postcard::from_bytes(bytes).ok()).ok_or(BootsError::Corrupt)?;
        let ascending =
            list.windows(2).all(|pair| shards().all(|shard| at(&pair[0].before, shard) <= at(&pair[1].before, shard)));
        if list.len() > bounds::BOOTS_MAX || !ascending {
            return Err(BootsError::Corrupt);
        }
        Ok(Self(list))
    }
}

fn shards() -> impl Iterator<Item = ShardId> {
    ShardId::all().chain([ShardId::CONTROL])
}

fn at(numbers: &[u64], shard: ShardId) -> u64 {
    numbers.get(usize::from(shard.0)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Origin = Origin(11);
    const TWO: Origin = Origin(22);
    const THREE: Origin = Origin(33);
    const SHARD: ShardId = ShardId(7);

    #[test]
    fn numbers_begin_anew_with_each_start() {
        let mut boots = Boots::default();
        boots.begin(ONE, |_| 0, |_| 0).expect("begun");
        assert_eq!(boots.number(SHARD, 1), Some((ONE, 1)));
        boots.begin(TWO, |shard| u64::from(shard == SHARD) * 5, |_| 0).expect("begun");
        assert_eq!((boots.number(SHARD, 5), boots.number(SHARD, 6)), (Some((ONE, 5)), Some((TWO, 1))));
        assert_eq!(boots.number(ShardId(8), 1), Some((TWO, 1)));
        assert_eq!((boots.local(SHARD, ONE, 5), boots.local(SHARD, TWO, 1)), (Some(5), Some(6)));
        // What the directory lacks since it was restored is not taken for what came later.
        assert_eq!((boots.local(SHARD, ONE, 6), boots.local(SHARD, ONE, 0)), (None, None));
        assert_eq!(boots.local(SHARD, THREE, 1), None);
        assert_eq!(Boots::decode(&boots.encode()), Ok(boots));
    }

    #[test]
    fn starts_of_which_nothing_is_left_are_forgotten() {
        let mut boots = Boots::default();
        boots.begin(ONE, |_| 0, |_| 0).expect("begun");
        boots.begin(TWO, |_| 0, |_| 0).expect("begun");
        assert_eq!(boots.origins().collect::<Vec<_>>(), [TWO], "the first sent nothing");
        boots.begin(THREE, |_| 4, |_| 3).expect("begun");
        assert_eq!(boots.origins().collect::<Vec<_>>(), [TWO, THREE]);
        boots.forget(|_| 4);
        assert_eq!((boots.origins().collect::<Vec<_>>(), boots.newest()), (vec![THREE], Some(THREE)));
        assert_eq!(boots.number(SHARD, 5), Some((THREE, 1)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut boots = Boots::default();
        boots.begin(ONE, |_| 3, |_| 0).expect("begun");
        assert_eq!(boots.begin(ONE, |_| 3, |_| 0), Err(BootsError::Taken(ONE)));
        assert_eq!(boots.begin(Origin::CENTRE, |_| 3, |_| 0), Err(BootsError::Taken(Origin::CENTRE)));
        assert_eq!(boots.begin(TWO, |_| 2, |_| 0), Err(BootsError::Shrunk { shard: 0, local: 2 }));
        assert_eq!(Boots::decode(&[9, 9, 9]), Err(BootsError::Corrupt));
        for start in 1..bounds::BOOTS_MAX as u64 {
            boots.begin(Origin(1_000 + start), |_| 3 + start, |_| 0).expect("begun");
        }
        let full = boots.clone();
        assert_eq!(boots.begin(TWO, |_| 9_999, |_| 0), Err(BootsError::TooMany));
        assert_eq!(boots, full);
        assert!(full.encode().len() <= bounds::BOOTS_BYTES_MAX);
        assert_eq!(Boots::decode(&full.encode()), Ok(full));
    }
}
