//! Decisions that are sent rather than shown: until when they may be, and whether they still hold at the moment of sending.
//!
//! What was decided is looked at anew under the catalogue of that moment, for the person as they are by then, and as if this decision had not been: it does not
//! stand in its own way. Nothing is chosen again and nothing counted.

use std::sync::Arc;
use std::time::Instant;

use selvedge_core::constraint::quiet::next_quiet;
use selvedge_core::decision::{SlotRequest, Step};
use selvedge_core::fragment::Fragment;
use selvedge_core::receipt::Receipt;
use selvedge_core::time::DAY_MS;
use selvedge_core::value::Timestamp;
use serde::Serialize;

use crate::answer::SlotAnswer;
use crate::auth::Role;
use crate::clock;
use crate::edge::Edge;
use crate::edge::ingest::Ack;
use crate::ids::seed;
use crate::pipeline::{Ask, Known, OnStale, instant};
use crate::policy::{self, Again};
use crate::records::{Record, Stood};

/// Until when a decision of an instant may be sent: a day, less where an offer or its campaign ends before, or where the channel's quiet hours begin.
pub fn valid_until(
    edge: &Edge,
    person: Option<&Fragment>,
    channel: &str,
    at: Timestamp,
    slots: &[SlotAnswer<'_>],
) -> Timestamp {
    let catalog = &edge.catalog;
    let mut until = at.plus_ms(DAY_MS);
    let mut heeds_quiet = false;
    // What a slot falls back to holds whatever happens.
    let chosen = slots.iter().filter(|slot| !slot.fallback).flat_map(|slot| &slot.offers);
    for offer in chosen.filter_map(|offer| Some(&catalog.offers[catalog.offer(offer.id?)?])) {
        let of_campaign = offer.campaign.and_then(|campaign| catalog.campaigns[campaign].valid.until);
        for end in [offer.valid.until, of_campaign].into_iter().flatten() {
            until = until.min(end);
        }
        heeds_quiet |= !offer.transactional;
    }
    let quiet = catalog.channel(channel).and_then(|channel| catalog.channels[channel].quiet.as_ref());
    if let (true, Some(quiet), Some(person)) = (heeds_quiet, quiet, person) {
        let own = policy::own_clock(edge, person, quiet);
        let clock = own.as_ref().unwrap_or(edge.plugins.schema().definitions.time());
        until = until.min(next_quiet(quiet, at, clock));
    }
    until
}

/// Whether what was decided may be sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Confirmed {
    decision_id: String,
    offers: Vec<Verdict>,
}

/// Whether an offer still holds.
#[derive(Serialize)]
struct Verdict {
    id: String,
    valid: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Looks at what was decided once more.
pub fn confirm(edge: &Arc<Edge>, record: &Record, known: &Known, receipt: Receipt<'_>) -> Confirmed {
    let now = clock::now();
    let expired = record.valid_until.is_some_and(|until| until <= now);
    let reasons: Vec<Option<&'static str>> = if expired {
        record.offers.iter().map(|_| Some("expired")).collect()
    } else {
        reasons(edge, record, known, now, receipt)
    };
    let verdict = |(stood, reason): (&Stood, Option<&'static str>)| Verdict {
        id: stood.offer.to_string(),
        valid: reason.is_none(),
        reason,
    };
    let offers = record.offers.iter().zip(reasons).map(verdict).collect();
    Confirmed { decision_id: record.id.to_string(), offers }
}

/// Why each offer of a decision may not be sent any more.
fn reasons(
    edge: &Arc<Edge>,
    record: &Record,
    known: &Known,
    now: Timestamp,
    receipt: Receipt<'_>,
) -> Vec<Option<&'static str>> {
    // Where each stands in the catalogue of now, and by which request.
    let mut slots: Vec<SlotRequest> = Vec::new();
    let mut place = |stood: &Stood| {
        let (slot, offer) = (edge.catalog.slot(&stood.slot)?, edge.catalog.offer(&stood.offer)?);
        let request = slots.iter().position(|request| request.slot == slot).unwrap_or_else(|| {
            slots.push(SlotRequest { slot, count: 0 });
            slots.len() - 1
        });
        slots[request].count += 1;
        Some((request, offer))
    };
    let places: Vec<Option<(usize, usize)>> = record.offers.iter().map(&mut place).collect();
    let held = record.offers.iter().zip(&places).filter(|(stood, _)| !stood.fallback);
    let only: Vec<(usize, usize)> = held.filter_map(|(_, place)| *place).collect();
    let again = Again {
        only: &only,
        counted: record.counted.then_some((record.channel.as_str(), record.at)),
        offers: &record.offers,
    };
    let ask = Ask {
        visitor: record.visitor.clone(),
        slots,
        context: record.context.as_deref(),
        channel: &record.channel,
        events: Vec::new(),
        receipt,
        role: Role::Secret,
        explain: true,
        ack: Ack::Applied,
        at: None,
        dry_run: true,
        max_staleness_ms: None,
        on_stale: OnStale::Serve,
        deadline: None,
        started: Instant::now(),
    };
    let governed =
        policy::decide_again(edge, &ask, known, instant(None, now, &known.fragment), seed(&record.id), &again);
    let reason = |(stood, place): (&Stood, &Option<(usize, usize)>)| {
        let Some((request, offer)) = *place else { return Some("not-in-catalogue") };
        if stood.fallback {
            return edge.switches.is_stopped(offer).then_some("disabled");
        }
        let chosen = governed.choices[request].offers.iter().any(|judged| judged.offer == offer);
        let left = governed.left.iter().find(|(of, which, _)| (*of, *which) == (request, offer));
        match left {
            _ if chosen => None,
            None => Some("not-in-slot"),
            // What stands beside it was settled when it was decided, and a ranking that fails says nothing against it.
            Some((.., why)) if why.step() == Step::Answer || why.code() == "not-ranked" => None,
            Some((.., why)) => Some(why.code()),
        }
    };
    record.offers.iter().zip(&places).map(reason).collect()
}
