//! What does not fit together in a catalogue all of whose names are known: contents and channels, mandatory offers and places.

use rustc_hash::FxHashMap;

use super::fault::Faults;
use super::terms::Variant;
use super::{Catalog, Fallback, Offer, Slot};
use crate::condition::ConditionId;
use crate::value::Timestamp;

/// Notes what does not fit.
pub(super) fn check(catalog: &Catalog, faults: &mut Faults) {
    contents(catalog, faults);
    for (index, slot) in catalog.slots.iter().enumerate() {
        mandatory(catalog, index, slot, faults);
    }
}

/// Whoever may stand in a slot shows something on its channel.
fn contents(catalog: &Catalog, faults: &mut Faults) {
    // Told once for an offer and a channel, by the first slot.
    let mut told: Vec<(usize, usize)> = Vec::new();
    for (position, slot) in catalog.slots.iter().enumerate() {
        let channel = &catalog.channels[slot.channel].name;
        if let Fallback::Offer(index) = slot.fallback {
            let offer = &catalog.offers[index];
            if offer.content(slot.channel, None).is_none() {
                let detail = format!(
                    "slot {:?}: the fallback {:?} has no content for the channel {channel:?}; give it one, or the slot another fallback",
                    slot.name, offer.id
                );
                faults.add(format!("/slots/{position}/fallback"), detail);
            }
        }
        for index in &slot.candidates {
            let offer = &catalog.offers[*index];
            let whole = offer.content.on(slot.channel).is_some();
            let fault = |pointer: String, of: String| {
                let detail = format!(
                    "offer {:?}: {of}has no content for the channel {channel:?} of slot {:?}; add one, write false to leave the offer out on \
                     that channel, or name the slot's categories",
                    offer.id, slot.name
                );
                (pointer, detail)
            };
            let own = |variant: &Variant| variant.content.on(slot.channel).is_some();
            let missing = match offer.variants.iter().position(|variant| !own(variant)) {
                _ if whole => None,
                Some(variant) if offer.variants.iter().any(own) => {
                    let of = format!("variant {:?} ", offer.variants[variant].id);
                    Some(fault(format!("/offers/{index}/variants/{variant}"), of))
                }
                None if !offer.variants.is_empty() => None,
                _ => Some(fault(format!("/offers/{index}/channels"), String::new())),
            };
            if let Some((pointer, detail)) = missing
                && !told.contains(&(*index, slot.channel))
            {
                told.push((*index, slot.channel));
                faults.add(pointer, detail);
            }
        }
    }
}

/// What tells two offers apart for a visitor: who may be offered them.
type Condition<'c> = (Option<ConditionId>, &'c [usize], Option<ConditionId>);

/// In no place more mandatory offers may hold at once than it has room for.
///
/// Offers with different conditions are taken to be told apart by them, so one of those counts at most; offers without a condition, and those with the same, hold together.
fn mandatory(catalog: &Catalog, position: usize, slot: &Slot, faults: &mut Faults) {
    let mandatory: Vec<usize> = slot
        .candidates
        .iter()
        .copied()
        .filter(|index| catalog.offers[*index].mandatory && catalog.offers[*index].enabled)
        .collect();
    if mandatory.len() <= slot.count {
        return;
    }
    // Whatever holds together does so from the instant on at which the last of them begins.
    let mut begins: Vec<Timestamp> = mandatory.iter().map(|index| span(catalog, &catalog.offers[*index]).0).collect();
    begins.sort_unstable();
    begins.dedup();
    for at in begins {
        let (mut always, mut by_condition) = (Vec::new(), FxHashMap::<Condition<'_>, Vec<usize>>::default());
        for index in &mandatory {
            let offer = &catalog.offers[*index];
            let (from, until) = span(catalog, offer);
            if !(from <= at && at < until) {
                continue;
            }
            match condition(catalog, offer) {
                (None, [], None) => always.push(*index),
                condition => by_condition.entry(condition).or_default().push(*index),
            }
        }
        let most = by_condition.into_values().max_by_key(|offers| (offers.len(), std::cmp::Reverse(offers[0])));
        let together: Vec<usize> = always.into_iter().chain(most.unwrap_or_default()).collect();
        if together.len() > slot.count {
            let last = together.iter().max().copied().unwrap_or_default();
            let ids: Vec<_> = together.iter().map(|index| format!("{:?}", catalog.offers[*index].id)).collect();
            let room = if slot.count == 1 { "one".to_owned() } else { slot.count.to_string() };
            let detail = format!(
                "offers {} are mandatory in slot {:?}, which has room for {room}; give them validities or conditions that exclude each \
                 other, make only {room} mandatory, or raise /slots/{position}/count",
                ids.join(" and "),
                slot.name,
            );
            faults.add(format!("/offers/{last}/mandatory"), detail);
            return;
        }
    }
}

/// When an offer holds, its campaign's validity included.
fn span(catalog: &Catalog, offer: &Offer) -> (Timestamp, Timestamp) {
    let campaign = offer.campaign.map(|campaign| catalog.campaigns[campaign].valid).unwrap_or_default();
    let from = offer.valid.from.max(campaign.from).unwrap_or(Timestamp(i64::MIN));
    let untils = [offer.valid.until, campaign.until];
    (from, untils.into_iter().flatten().min().unwrap_or(Timestamp(i64::MAX)))
}

fn condition<'c>(catalog: &Catalog, offer: &'c Offer) -> Condition<'c> {
    let campaign = offer.campaign.and_then(|campaign| catalog.campaigns[campaign].eligible);
    (offer.eligible, &offer.audiences, campaign)
}
