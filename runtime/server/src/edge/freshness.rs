//! How fresh an answer is, and whether it has what its caller wrote elsewhere.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::sync::token::{Mark, Token};

use super::Edge;
use crate::error::Problem;
use selvedge_core::effects::Effects;
use selvedge_core::event::{EventKind, Refusal};

/// Where an answer names what was written, and a later call, to whatever edge, what it must have read.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-selvedge-token");
/// How long a call waits at most for what it must have read, where it sets no deadline.
const PATIENCE: Duration = Duration::from_millis(1000);

/// From how many thousandths of the outbox on each class of events is refused.
const SHED_VIEWS: u64 = 700;
const SHED_TRACKS: u64 = 850;
const SHED_TRAITS: u64 = 950;

/// How fresh what was answered is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    pub state: &'static str,
    /// None where this edge has not reached the centre's head since it started.
    pub lag_ms: Option<u64>,
}

impl Freshness {
    /// Whether it is older than a caller accepts.
    pub fn is_over(self, most_ms: u64) -> bool {
        self.lag_ms.is_none_or(|lag| lag > most_ms)
    }
}

impl Edge {
    /// How fresh what is known of these identifiers is. An edge that is its own centre is always live.
    pub fn freshness(&self, identifiers: &[Identifier]) -> Freshness {
        let Some(uplink) = &self.uplink else { return Freshness { state: "live", lag_ms: Some(0) } };
        match uplink.freshness(identifiers) {
            Some(fresh) => Freshness { state: fresh.state.as_str(), lag_ms: fresh.lag_ms },
            None => Freshness { state: "not-held", lag_ms: None },
        }
    }

    /// Whether this edge has a base of an identifier's shard. Where it has not, there is nothing to decide by.
    pub fn holds(&self, identifier: &Identifier) -> bool {
        self.shards.holds(identifier.shard())
    }

    /// Whether an event is refused because the outbox is nearly full of what the centre does not have: views first, traits last, consent never.
    pub fn sheds(&self, kind: EventKind, effects: &Effects) -> bool {
        let Some(uplink) = &self.uplink else { return false };
        let most = match kind {
            _ if !effects.consent.is_empty() => return false,
            EventKind::Page | EventKind::Screen => SHED_VIEWS,
            EventKind::Track => SHED_TRACKS,
            EventKind::Identify | EventKind::Group | EventKind::Alias => SHED_TRAITS,
        };
        let sheds = uplink.pressure() >= most;
        if sheds {
            uplink.note_shed();
        }
        sheds
    }

    /// Why a change of an identifier cannot be taken here, if it cannot: the edge's key does not open its shard.
    pub fn takes(&self, identifier: &Identifier) -> Result<(), Refusal> {
        match &self.uplink {
            Some(uplink) if !uplink.scope.holds(identifier.shard()) => {
                let detail = format!(
                    "{identifier} is of shard {}, which this edge does not serve; send it to another",
                    identifier.shard().0
                );
                Err(Refusal::new("shard_not_served", "", detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether decisions for a visitor are counted: not while as much waits for the centre as may, nor for a shard that this edge takes nothing for.
    pub fn counts_decisions(&self, visitor: &Identifier) -> bool {
        let room =
            self.uplink.as_ref().is_none_or(|uplink| uplink.pressure() < SHED_VIEWS && !self.shards.overloaded());
        room && self.takes(visitor).is_ok()
    }

    /// What a caller shows to another edge in order to read there what was just written here to these shards.
    pub fn token(&self, written: &[ShardId]) -> Option<HeaderValue> {
        let uplink = self.uplink.as_ref()?;
        let mut token = Token::default();
        for shard in written {
            // Whatever was admitted meanwhile is asked for too, which does no harm.
            if let Some((origin, number)) = uplink.number(*shard, self.shards.admitted(*shard)) {
                token.add(Mark::Number { shard: *shard, origin, number });
            }
        }
        if token.is_empty() { None } else { HeaderValue::from_str(&token.encode()).ok() }
    }

    /// Waits until this edge has what a call's token names, up to half of the time until its deadline. Says whether it has; none where there is no token.
    pub async fn catch_up(&self, headers: &HeaderMap, deadline: Option<Instant>) -> Result<Option<bool>, Problem> {
        let Some(text) = headers.get(TOKEN_HEADER) else { return Ok(None) };
        let token = Token::decode(text.to_str().unwrap_or_default()).map_err(|error| {
            Problem::bad_request(
                "token_invalid",
                format!("X-Selvedge-Token: {error}; send it as an answer gave it, or leave it out"),
            )
        })?;
        let Some(uplink) = &self.uplink else { return Ok(Some(true)) };
        let mut moves = uplink.moves();
        let has = || {
            // What this very edge took is in its views.
            let number = |shard, origin| {
                if uplink.is_own(origin) { u64::MAX } else { self.shards.applied(shard, origin) }
            };
            token.satisfied_by(number, |shard| self.shards.cursor(shard))
        };
        let now = Instant::now();
        let patience = deadline.map_or(PATIENCE, |deadline| deadline.saturating_duration_since(now) / 2);
        let until = tokio::time::Instant::from_std(now + patience);
        loop {
            moves.mark_unchanged();
            if has() {
                return Ok(Some(true));
            }
            match tokio::time::timeout_at(until, moves.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(Some(has())),
            }
        }
    }
}
