//! The stored form of a history: each mark by its distance from the one before, some four bytes.

use compact_str::CompactString;
use serde::de::Error as _;
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::track::{Mark, Width};
use super::{ACTS, Act, Exposure, Held, Line};

/// A mark: how much later than the one before, and how often, with the width in the lowest two bits.
type Stored = (i64, u64);

struct StoredTrack<'m>(&'m [Mark]);

impl Serialize for StoredTrack<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = |index: usize| index.checked_sub(1).map_or(0, |before| self.0[before].at);
        let stored = |(index, mark): (usize, &Mark)| -> Stored {
            (mark.at.wrapping_sub(before(index)), u64::from(mark.count) << 2 | mark.width as u64)
        };
        serializer.collect_seq(self.0.iter().enumerate().map(stored))
    }
}

struct StoredLines<'h>(&'h Held);

impl Serialize for StoredLines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let track = |line: &Line, act: Act| StoredTrack(&self.0.marks[line.range(act)]);
        serializer.collect_seq(
            self.0
                .lines
                .iter()
                .map(|line| (&line.offer, &line.channel, line.totals, Act::ALL.map(|act| track(line, act)))),
        )
    }
}

impl Serialize for Held {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&StoredLines(self))?;
        tuple.serialize_element(&self.exposures)?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Read = (CompactString, CompactString, [u32; ACTS], [Vec<Stored>; ACTS]);
        let (stored, exposures): (Vec<Read>, Vec<Exposure>) = Deserialize::deserialize(deserializer)?;
        let marks = stored.iter().flat_map(|(_, _, _, tracks)| tracks).map(Vec::len).sum();
        let mut held = Self { lines: Vec::with_capacity(stored.len()), marks: Vec::with_capacity(marks), exposures };
        for (offer, channel, totals, tracks) in stored {
            let start = u32::try_from(held.marks.len()).map_err(D::Error::custom)?;
            let mut line = Line { offer, channel, totals, start, ..Line::default() };
            for (len, track) in line.lens.iter_mut().zip(tracks) {
                *len = u16::try_from(track.len()).map_err(D::Error::custom)?;
                let mut at = 0_i64;
                for (later, code) in track {
                    at = at.wrapping_add(later);
                    let count = u32::try_from(code >> 2).map_err(D::Error::custom)?;
                    held.marks.push(Mark { at, count, width: Width::stored(code & 3) });
                }
            }
            held.lines.push(line);
        }
        Ok(held)
    }
}
