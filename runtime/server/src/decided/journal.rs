//! What was decided and is no change yet, as notes beside the log: so that counts may gather for a while, and a crash loses no more than the last second of them.
//!
//! Each shard has *rounds*: counts that gather and become changes together. What a second adds to a round is a block, `decided:SHARD:ROUND:NUMBER`, in the order
//! in which it happened. While a round's counts become changes, by descending identifiers, the mark `decided-left:SHARD` says how far that is; it is written with the
//! changes, all or nothing, as are the last of them and the end of the round's blocks. So what a start finds here is what the log does not have.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use selvedge_central::{Noted, RedbLog};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::offers::Exposure;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Counts, Gathered};

const BLOCKS: &str = "decided:";
const MARKS: &str = "decided-left:";

/// One line of a block.
#[derive(Debug, Serialize, Deserialize)]
enum Line<'a> {
    /// For whom, on which channel, and in which minute the offers are that follow.
    For(&'a str, &'a str, Timestamp),
    /// An offer, and how often.
    Offer(&'a str, u32),
    /// An experiment that they were exposed to.
    Exposed(Exposure),
}

/// How far the counts of a round have become changes: those from this identifier on.
#[derive(Debug, Serialize, Deserialize)]
struct Left<'a>(u64, &'a str);

/// The notes of a shard.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// What was decided since the last block.
    fresh: Vec<u8>,
    /// The round that gathers, and how many blocks it has.
    round: u64,
    blocks: u32,
    /// The same of the round that becomes changes.
    leaving: (u64, u32),
}

impl Journal {
    /// Takes down whom offers are for.
    pub(super) fn of(&mut self, visitor: &Identifier, channel: &str, minute: Timestamp) {
        self.push(&Line::For(visitor.as_str(), channel, minute));
    }

    /// Takes down an offer that was chosen for them.
    pub(super) fn offer(&mut self, offer: &str) {
        self.push(&Line::Offer(offer, 1));
    }

    /// Takes down what they were exposed to.
    pub(super) fn exposed(&mut self, exposure: &Exposure) {
        self.push(&Line::Exposed(exposure.clone()));
    }

    fn push(&mut self, line: &Line<'_>) {
        push(&mut self.fresh, line);
    }

    /// What was taken down since the last block, as a block.
    pub(super) fn block(&mut self, shard: ShardId) -> Option<Noted> {
        if self.fresh.is_empty() {
            return None;
        }
        let name = block_name(shard, self.round, self.blocks);
        self.blocks += 1;
        let room = self.fresh.len();
        Some((name, Some(std::mem::replace(&mut self.fresh, Vec::with_capacity(room)))))
    }

    /// The round that gathered becomes changes, and another one begins. What is in no block of it yet is on its way to the log at once.
    pub(super) fn turn(&mut self) {
        self.leaving = (self.round, self.blocks);
        self.fresh.clear();
        (self.round, self.blocks) = (self.round + 1, 0);
    }

    /// What is to be noted with the changes of those from an identifier on, or with the last ones of the round.
    pub(super) fn left(&self, shard: ShardId, from: Option<&Identifier>) -> Vec<Noted> {
        let (round, blocks) = self.leaving;
        match from {
            _ if blocks == 0 => Vec::new(),
            Some(from) => {
                let mut mark = Vec::new();
                push(&mut mark, &Left(round, from.as_str()));
                vec![(mark_name(shard), Some(mark))]
            }
            None => {
                let gone = (0..blocks).map(|number| (block_name(shard, round, number), None));
                gone.chain([(mark_name(shard), None)]).collect()
            }
        }
    }
}

fn block_name(shard: ShardId, round: u64, number: u32) -> String {
    format!("{BLOCKS}{:02}:{round:016x}:{number:08x}", shard.0)
}

fn mark_name(shard: ShardId) -> String {
    format!("{MARKS}{:02}", shard.0)
}

fn push<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    // Into memory, of a type that has a form: nothing can fail.
    if let Ok(bytes) = postcard::to_extend(value, std::mem::take(out)) {
        *out = bytes;
    }
}

/// What a crash has left, by shard, each as the first block of a round of its own: a crash that follows finds the same.
pub(super) fn recover(log: &RedbLog) -> Result<Vec<(ShardId, Gathered, Journal)>> {
    let mut notes = Vec::new();
    let mut marks: BTreeMap<u16, (u64, Identifier)> = BTreeMap::new();
    for (name, bytes) in log.notes(MARKS)? {
        let Left(round, from) = postcard::from_bytes(&bytes).with_context(|| format!("the note {name}"))?;
        marks.insert(name[MARKS.len()..].parse()?, (round, Identifier::stored(from)?));
        notes.push((name, None));
    }
    let mut found: BTreeMap<u16, (Gathered, u64)> = BTreeMap::new();
    for (name, bytes) in log.notes(BLOCKS)? {
        let place = || format!("the note {name}");
        let mut parts = name[BLOCKS.len()..].split(':');
        let shard: u16 = parts.next().with_context(place)?.parse().with_context(place)?;
        let round = u64::from_str_radix(parts.next().with_context(place)?, 16).with_context(place)?;
        let (gathered, last) = found.entry(shard).or_default();
        *last = round;
        let left = marks.get(&shard).filter(|(of, _)| *of == round).map(|(_, from)| from);
        read(&bytes, left, gathered).with_context(place)?;
        notes.push((name, None));
    }
    let mut recovered = Vec::new();
    for (shard, (gathered, last)) in found {
        let shard = ShardId(shard);
        let mut journal = Journal { round: last + 1, ..Journal::default() };
        write(&gathered, &mut journal);
        notes.extend(journal.block(shard));
        recovered.push((shard, gathered, journal));
    }
    if !notes.is_empty() {
        log.append_and_note(Vec::new(), notes)?;
        log.barrier().wait_blocking()?;
    }
    Ok(recovered)
}

/// Adds what a block says of those whose counts are no changes yet.
fn read(mut bytes: &[u8], left: Option<&Identifier>, gathered: &mut Gathered) -> Result<()> {
    let mut of: Option<(Identifier, &str, Timestamp)> = None;
    while !bytes.is_empty() {
        let line;
        (line, bytes) = postcard::take_from_bytes(bytes)?;
        match (line, &of) {
            (Line::For(visitor, channel, minute), _) => of = Some((Identifier::stored(visitor)?, channel, minute)),
            (_, None) => anyhow::bail!("says for nobody what was decided"),
            (_, Some((visitor, ..))) if left.is_some_and(|left| visitor >= left) => {}
            (Line::Offer(offer, count), Some((visitor, channel, minute))) => {
                gathered.entry(visitor.clone()).or_default().count(channel, *minute, offer, count);
            }
            (Line::Exposed(exposure), Some((visitor, ..))) => {
                gathered.entry(visitor.clone()).or_default().expose(&exposure);
            }
        }
    }
    Ok(())
}

fn write(gathered: &Gathered, journal: &mut Journal) {
    for (visitor, Counts { offers, exposures }) in gathered {
        for decided in offers {
            journal.of(visitor, &decided.channel, decided.minute);
            journal.push(&Line::Offer(&decided.offer, decided.count));
        }
        if !exposures.is_empty() {
            journal.of(visitor, "", Timestamp(0));
            exposures.iter().for_each(|exposure| journal.exposed(exposure));
        }
    }
}
