//! What can be seen of a simulated edge.

use std::sync::Arc;

use selvedge_core::sync::mix;
use selvedge_core::sync::replica::Freshness;

use super::{Edge, Process, has};
use crate::model::{Base, Issue, Row, SHARDS};

impl Edge {
    /// At any time: nothing counts twice in a view, and what was admitted here is seen here, unless the base had to go back behind it.
    pub fn check(&self, issues: &[Issue], log: impl Fn(usize) -> Option<u64>) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        for held in &process.shards {
            let mut rows = held.base.rows.clone();
            for pending in held.pending.iter().filter(|pending| !pending.void) {
                let Some(change) = &pending.change else { continue };
                let Some(fragment) = change.fragment() else { continue };
                let row: &mut Row = Arc::make_mut(rows.entry(fragment.clone()).or_default());
                if !row.fold(change, u64::MAX) {
                    return Err(format!("pending change {} is in the base too", pending.local));
                }
            }
            rows.values().try_for_each(|row| row.check())?;
        }
        for &number in &process.recent {
            let issue = &issues[number];
            let held = &process.shards[issue.place];
            let seen = held.pending.iter().any(|pending| pending.issue == number) || has(&held.base, &issue.what);
            let ahead = log(number).is_some_and(|seq| seq > held.base.cursor.seq);
            if !seen && !ahead && !issue.exempt && !issue.dead {
                return Err(format!("change {number} was admitted here and is not seen here"));
            }
        }
        Ok(())
    }

    pub fn base(&self, place: usize) -> Option<&Base> {
        self.process.as_ref().map(|process| &process.shards[place].base)
    }

    pub fn freshness(&self, now: i64, place: usize) -> Option<Freshness> {
        self.process.as_ref().map(|process| process.shards[place].replica.freshness(now))
    }

    /// All that was admitted is in the log.
    pub fn pushed(&self, place: usize) -> bool {
        let outbox = &self.disk.outbox[place];
        let unanswered = |process: &Process| process.shards[place].forwarder.unanswered();
        outbox.durable == outbox.last && self.process.as_ref().is_some_and(|process| unanswered(process) == 0)
    }

    /// Nothing is left to do.
    pub fn rests(&self) -> bool {
        let Some(process) = &self.process else { return false };
        process.shards.iter().zip(&self.disk.outbox).all(|(held, outbox)| {
            held.pending.is_empty() && held.forwarder.unanswered() == 0 && outbox.entries.is_empty()
        })
    }

    pub fn describe(&self) -> String {
        let Some(process) = &self.process else { return "down".to_owned() };
        let shards = process.shards.iter().zip(&self.disk.outbox).map(|(held, outbox)| {
            format!(
                "base {:?} taken {} pending {} unanswered {} settled {} held {} (trimmed {}, last {}), failures {}",
                held.base.cursor,
                held.replica.after().seq,
                held.pending.len(),
                held.forwarder.unanswered(),
                held.forwarder.settled(),
                outbox.entries.len(),
                outbox.trimmed,
                outbox.last,
                held.forwarder.failures(),
            )
        });
        shards.collect::<Vec<_>>().join("; ")
    }

    pub fn digest(&self) -> u64 {
        let bases = (0..SHARDS).map(|place| self.base(place).map_or(0, Base::hash));
        bases.fold(0, mix)
    }
}
