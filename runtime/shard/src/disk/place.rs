//! Where a shard's base stands: the rows that move with its data.

use selvedge_core::identity::ShardId;
use selvedge_core::sync::Origin;
use selvedge_core::view::Cursor;

use super::Disk;
use super::batch::Batch;
use crate::ShardError;
use crate::origins::{Applied, Place};

const CURSOR: &[u8] = b"c";
const CHECKSUM: &[u8] = b"k";
const ORIGIN: u8 = b'o';

/// What a write moves besides fragments, all of it in its last batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Move {
    pub(crate) cursor: Cursor,
    /// Of the log up to the cursor; none where nobody asks for it.
    pub(crate) checksum: Option<u64>,
    /// The origins that have moved.
    pub(crate) origins: Vec<(Origin, Applied)>,
    /// Those that are forgotten.
    pub(crate) forgotten: Vec<Origin>,
}

impl Move {
    pub(super) fn add_to(&self, batch: &mut Batch<'_>) -> Result<(), ShardError> {
        let Cursor { epoch, seq } = self.cursor;
        let cursor = postcard::to_allocvec(&(epoch, seq)).map_err(|_| ShardError::Corrupt("cursor".into()))?;
        let mut rows = vec![(CURSOR.to_vec(), Some(cursor))];
        rows.extend(self.checksum.map(|checksum| (CHECKSUM.to_vec(), Some(checksum.to_be_bytes().to_vec()))));
        rows.extend(self.forgotten.iter().map(|origin| (origin_key(*origin), None)));
        rows.extend(self.origins.iter().map(|(origin, applied)| {
            let value = [applied.number.to_be_bytes(), applied.seq.to_be_bytes()].concat();
            (origin_key(*origin), Some(value))
        }));
        batch.whole(rows)
    }
}

impl Disk {
    /// Where a shard's base stands.
    pub(crate) fn place(&self, shard: ShardId) -> Result<Place, ShardError> {
        self.drain_shard(shard)?;
        let corrupt = |what: &str| ShardError::Corrupt(format!("{what} of shard {}", shard.0));
        let tree = self.tree(shard);
        let cursor = match tree.get(CURSOR)? {
            Some(bytes) => {
                let (epoch, seq) = postcard::from_bytes(&bytes).map_err(|_| corrupt("cursor"))?;
                Cursor { epoch, seq }
            }
            None => Cursor { epoch: 1, seq: 0 },
        };
        let checksum = match tree.get(CHECKSUM)? {
            Some(bytes) => u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| corrupt("checksum"))?),
            None => 0,
        };
        let mut place = Place::new(cursor, checksum);
        for row in tree.scan_prefix([ORIGIN]) {
            let (key, value) = row?;
            let origin = key[1..].try_into().map(u64::from_be_bytes).map_err(|_| corrupt("origin"))?;
            let (number, seq) = value
                .split_first_chunk::<8>()
                .and_then(|(number, seq)| Some((u64::from_be_bytes(*number), u64::from_be_bytes(seq.try_into().ok()?))))
                .ok_or_else(|| corrupt("origin"))?;
            place.origins.insert(Origin(origin), Applied { number, seq });
        }
        Ok(place)
    }

    /// Puts these rows as they are: as if the batch that moved them had not been written.
    #[cfg(test)]
    pub(crate) fn put_place(&self, shard: ShardId, place: &Place) {
        let now = self.place(shard).expect("the place");
        let forgotten = now.origins.into_keys().filter(|origin| !place.origins.contains_key(origin));
        let origins = place.origins.iter().map(|(origin, applied)| (*origin, *applied));
        let to = Move {
            cursor: place.cursor,
            checksum: Some(place.checksum),
            origins: origins.collect(),
            forgotten: forgotten.collect(),
        };
        self.write(shard, to, Vec::new()).expect("write");
    }
}

fn origin_key(origin: Origin) -> Vec<u8> {
    [&[ORIGIN][..], &origin.0.to_be_bytes()].concat()
}
