//! What must hold in a simulated world: at any time, after it has healed, and in the end.

use std::collections::BTreeMap;

use selvedge_core::sync::mix;
use selvedge_core::sync::replica::State;
use selvedge_core::sync::token::Token;
use selvedge_core::view::Cursor;

use super::{DELAY_MS, World, hash};
use crate::edge::{Edge, has};
use crate::model::{Base, SHARDS, What, visitors};
use crate::scenario::Mutation;

impl World {
    /// What must hold at any time.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let mut at: BTreeMap<u64, u64> = BTreeMap::new();
        for place in 0..SHARDS {
            for entry in self.centre.entries(place) {
                at.entry(hash(&entry.bytes)).or_insert(entry.seq);
            }
        }
        let held = self.in_outboxes();
        for (number, issue) in self.issues.iter().enumerate() {
            let change = hash(&issue.bytes);
            let safe = issue.dead || issue.exempt || at.contains_key(&change) || held.contains(&change);
            if issue.acked && !safe {
                return Err(format!("change {number} was acknowledged and is in neither log nor outbox"));
            }
        }
        for edge in &self.edges {
            let log = |number: usize| at.get(&hash(&self.issues[number].bytes)).copied();
            edge.check(&self.issues, log).map_err(|error| format!("edge {}: {error}", edge.index))?;
            for place in 0..SHARDS {
                self.check_lag(edge, place)?;
            }
        }
        self.check_tokens()
    }

    /// An edge holds what the centre had as long ago as its lag says, and as what was said may have been on its way.
    fn check_lag(&self, edge: &Edge, place: usize) -> Result<(), String> {
        let (Some(freshness), Some(base)) = (edge.freshness(self.now, place), edge.base(place)) else { return Ok(()) };
        let Some(lag) = freshness.lag_ms else { return Ok(()) };
        let then = self.now - i64::try_from(lag).expect("short") - DELAY_MS;
        let history = &self.centre.history[place];
        let reached = history.partition_point(|(at, _)| *at <= then);
        let Some((_, had)) = reached.checked_sub(1).and_then(|last| history.get(last)) else { return Ok(()) };
        let blind = self.config.mutation == Some(Mutation::NoEpoch);
        if base.cursor.epoch < had.epoch || base.cursor.epoch == had.epoch && base.cursor.seq < had.seq && !blind {
            return Err(format!(
                "edge {} says a lag of {lag} ms at {:?}; the centre had {had:?}",
                edge.index, base.cursor
            ));
        }
        Ok(())
    }

    fn check_tokens(&mut self) -> Result<(), String> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        for _ in 0..5 {
            let (text, number) = &self.tokens[self.rng.index(self.tokens.len())];
            let edge = &self.edges[self.rng.index(self.edges.len())];
            let token = Token::decode(text).map_err(|error| error.to_string())?;
            let issue = &self.issues[*number];
            let Some(base) = edge.base(issue.place) else { continue };
            let satisfied =
                token.satisfied_by(|_, origin| base.applied.get(&origin).copied().unwrap_or(0), |_| base.cursor);
            if satisfied && !has(base, &issue.what) && !issue.exempt && !issue.dead {
                return Err(format!("edge {} satisfies the token of change {number} without it", edge.index));
            }
            self.report.tokens += u64::from(satisfied);
        }
        Ok(())
    }

    /// All bases are where the log ends, equal, and fresh.
    pub(super) fn agreed(&self) -> bool {
        (0..SHARDS).all(|place| {
            let head = self.centre.head(place);
            let at = Cursor { epoch: head.epoch, seq: head.seq };
            let hash = self.edges[0].base(place).map(Base::hash);
            self.edges.iter().all(|edge| {
                let live = edge.freshness(self.now, place).is_some_and(|freshness| freshness.state == State::Live);
                let there = edge.base(place).is_some_and(|base| base.cursor == at);
                live && there && edge.pushed(place) && edge.base(place).map(Base::hash) == hash
            })
        })
    }

    /// In the end: all bases equal the log replayed from its first entry, and that is what a naive count of the changes comes to.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.report.issued = self.issues.len() as u64;
        self.report.gaps = self.centre.gaps;
        for place in 0..SHARDS {
            let replayed = self.centre.replay(place)?;
            self.report.entries += self.centre.entries(place).len() as u64;
            for edge in &self.edges {
                if edge.base(place).map(Base::hash) != Some(replayed.hash()) {
                    return Err(format!("edge {} differs from the log replayed", edge.index));
                }
            }
            self.check_reference(place, &replayed)?;
        }
        self.report.trace = self.edges.iter().fold(self.report.trace, |trace, edge| mix(trace, edge.digest()));
        Ok(())
    }

    fn check_reference(&self, place: usize, replayed: &Base) -> Result<(), String> {
        for visitor in &visitors()[place].1 {
            let (mut events, mut offers) = (Vec::new(), Vec::new());
            for (number, issue) in self.issues.iter().enumerate().filter(|(_, issue)| issue.place == place) {
                let there = has(replayed, &issue.what);
                let (fragment, promised) = match &issue.what {
                    What::Event { fragment, .. } | What::Decided { fragment, .. } => (fragment, issue.acked),
                    What::Poison if issue.acked && !issue.dead && !issue.exempt => {
                        return Err(format!("change {number} cannot be read and was not set aside"));
                    }
                    What::Poison => continue,
                };
                if promised && !there && !issue.exempt {
                    return Err(format!("change {number} was acknowledged and is lost"));
                }
                if there && fragment == visitor {
                    match &issue.what {
                        What::Event { at, id, .. } => events.push((*at, *id, number)),
                        What::Decided { offer, .. } => offers.push(offer.as_str()),
                        What::Poison => {}
                    }
                }
            }
            let row = replayed.rows.get(visitor).cloned().unwrap_or_default();
            let fragment = &row.fragment;
            let newest = events.iter().max().map(|(at, ..)| *at);
            let last = events.iter().max().map(|(.., number)| format!("\"m{number}\""));
            let held = fragment.traits.get("last", &Default::default()).map(|held| held.value.to_string());
            let decided = fragment.offers.by_offer().map(|(_, history)| history.decided).sum::<u64>();
            if fragment.events != events.len() as u64
                || row.ids.len() != events.len()
                || fragment.newest_event_at.map(|at| at.0) != newest
                || held != last
                || decided != offers.len() as u64
            {
                return Err(format!("{visitor}: the fold differs from a naive count of {} events", events.len()));
            }
        }
        Ok(())
    }
}
