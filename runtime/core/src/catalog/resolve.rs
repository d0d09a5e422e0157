//! From a document to a catalogue: names become positions, conditions are parsed, and what does not fit together is found.

use compact_str::CompactString;
use rustc_hash::FxHashMap;

use super::document::{
    AudienceForm, CampaignForm, CategoryForm, ChannelForm, Document, FallbackForm, OfferForm, SlotForm, WeightForm,
};
use super::fault::{CatalogError, Faults, step};
use super::parts::{ContentForm, Written};
use super::terms::{Content, Variant};
use super::{CHANNELS, Campaign, Catalog, Category, Channel, ContextWeight, Fallback, Offer, Slot, checks};
use crate::audience::{self, Audience};
use crate::condition::{Condition, ConditionId, Expression};
use crate::config::nearest;

/// Names that are listed where none is near.
const NAMES_MAX: usize = 10;

/// Resolves a document.
pub(super) fn resolve(document: Document) -> Result<Catalog, CatalogError> {
    let mut resolving = Resolving::default();
    let audiences = resolving.audiences(document.audiences);
    resolving.channels(document.channels);
    resolving.campaigns(document.campaigns);
    resolving.offers(document.offers);
    resolving.categories(document.categories);
    resolving.slots(document.slots);
    resolving.check_references(&audiences);
    let Resolving { mut catalog, mut faults, .. } = resolving;
    catalog.caps = document.caps;
    catalog.holdout = document.holdout;
    catalog.control = document.control;
    catalog.response = document.response;
    if faults.is_empty() {
        checks::check(&catalog, &mut faults);
    }
    faults.or(catalog)
}

/// What of audiences is checked once all of them are known.
type AudiencePlaces = Vec<String>;

#[derive(Default)]
struct Resolving {
    catalog: Catalog,
    faults: Faults,
    conditions: FxHashMap<String, ConditionId>,
    campaigns: FxHashMap<CompactString, usize>,
    audiences: FxHashMap<CompactString, usize>,
    categories: FxHashMap<CompactString, usize>,
}

/// What is offered for a name that nothing has.
fn hint<'k>(name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    if let Some(nearest) = nearest(name, known.clone()) {
        return format!("did you mean {nearest:?}?");
    }
    let listed: Vec<&str> = known.clone().take(NAMES_MAX).collect();
    match (listed.len(), known.count()) {
        (0, _) => "there is none".to_owned(),
        (listed_count, count) if count > listed_count => {
            format!("there are {} and {} more", listed.join(", "), count - listed_count)
        }
        (1, _) => format!("there is {}", listed[0]),
        _ => format!("there are {}", listed.join(", ")),
    }
}

impl Resolving {
    fn twice(&mut self, pointer: &str, key: &str, kind: &str, name: &str, what: &str) {
        self.faults.add(step(pointer, key), format!("{kind} {name:?} stands twice; {what} must be unique"));
    }

    /// Parses a condition, or finds the same text.
    fn condition(&mut self, written: Option<Written>, label: &str) -> Option<ConditionId> {
        let Written { pointer, text } = written?;
        if let Some(known) = self.conditions.get(&text) {
            return Some(*known);
        }
        match Expression::parse(&text) {
            Ok(expression) => {
                let id = ConditionId(self.catalog.conditions.len() as u32);
                self.catalog.conditions.push(Condition {
                    pointer,
                    label: label.to_owned(),
                    expression: expression.into(),
                });
                self.conditions.insert(text, id);
                Some(id)
            }
            Err(detail) => {
                self.faults.add(pointer, format!("{label}: {detail}"));
                None
            }
        }
    }

    fn audiences(&mut self, forms: Vec<AudienceForm>) -> AudiencePlaces {
        let mut places = Vec::with_capacity(forms.len());
        for AudienceForm { pointer, name, condition } in forms {
            let label = format!("audience {name:?}");
            places.push(condition.pointer.clone());
            let condition = self.condition(Some(condition), &label);
            if self.audiences.insert(name.clone(), self.catalog.audiences.len()).is_some() {
                self.twice(&pointer, "name", "audience", &name, "names");
            }
            // One without a condition is a fault already.
            self.catalog.audiences.push(Audience { name, condition: condition.unwrap_or(ConditionId(0)) });
        }
        places
    }

    fn channels(&mut self, forms: Vec<ChannelForm>) {
        let channel = |name: &str| Channel {
            name: name.into(),
            purpose: format!("channel:{name}").into(),
            caps: Vec::new(),
            quiet: None,
        };
        self.catalog.channels = CHANNELS.into_iter().map(channel).collect();
        let mut declared: Vec<CompactString> = Vec::new();
        for ChannelForm { pointer, name, caps, quiet } in forms {
            if declared.contains(&name) {
                self.twice(&pointer, "channel", "channel", &name, "names");
            }
            let index = self.catalog.channel(&name).unwrap_or_else(|| {
                self.catalog.channels.push(channel(&name));
                self.catalog.channels.len() - 1
            });
            let resolved = &mut self.catalog.channels[index];
            (resolved.caps, resolved.quiet) = (caps, quiet);
            declared.push(name);
        }
    }

    /// The position of a channel.
    fn channel(&mut self, pointer: impl FnOnce() -> String, label: &str, name: &str) -> Option<usize> {
        let found = self.catalog.channel(name);
        if found.is_none() {
            let hint = hint(name, self.catalog.channels.iter().map(|channel| channel.name.as_str()));
            self.faults.add(
                pointer(),
                format!("{label}: there is no channel {name:?}; {hint} (a new one is declared under channels)"),
            );
        }
        found
    }

    fn campaigns(&mut self, forms: Vec<CampaignForm>) {
        for CampaignForm { pointer, id, name, valid, eligible, caps, holdout } in forms {
            if self.campaigns.insert(id.clone(), self.catalog.campaigns.len()).is_some() {
                self.twice(&pointer, "id", "campaign", &id, "ids");
            }
            let eligible = self.condition(eligible, &format!("campaign {id:?}"));
            let name = name.unwrap_or_else(|| id.to_string());
            self.catalog.campaigns.push(Campaign { id, name, valid, eligible, caps, holdout, offers: Vec::new() });
        }
    }

    fn offers(&mut self, forms: Vec<OfferForm>) {
        self.catalog.offers.reserve(forms.len());
        for form in forms {
            let index = self.catalog.offers.len();
            if self.catalog.offers_by_id.insert(form.id.clone(), index).is_some() {
                self.twice(&form.pointer, "id", "offer", &form.id, "ids");
            }
            let offer = self.offer(form, index);
            self.catalog.offers.push(offer);
        }
    }

    fn offer(&mut self, form: OfferForm, index: usize) -> Offer {
        let (pointer, label) = (form.pointer.as_str(), format!("offer {:?}", form.id));
        let category_index = form.category.as_ref().map(|category| {
            *self.categories.entry(category.clone()).or_insert_with(|| {
                self.catalog.categories.push(Category { name: category.clone(), caps: Vec::new() });
                self.catalog.categories.len() - 1
            })
        });
        let campaign = form.campaign.as_ref().and_then(|campaign| {
            let found = self.campaigns.get(campaign).copied();
            match found {
                Some(found) => self.catalog.campaigns[found].offers.push(index),
                None => {
                    let hint = hint(campaign, self.catalog.campaigns.iter().map(|campaign| campaign.id.as_str()));
                    self.faults
                        .add(step(pointer, "campaign"), format!("{label}: there is no campaign {campaign:?}; {hint}"));
                }
            }
            found
        });
        let mut audiences = Vec::with_capacity(form.audiences.len());
        for (position, audience) in form.audiences.iter().enumerate() {
            let pointer = || format!("{pointer}/audiences/{position}");
            audiences.extend(self.audience(pointer, &label, audience));
        }
        let content = form.content.map_or_else(Content::default, |content| self.content(content, &label));
        let mut variants: Vec<Variant> = Vec::with_capacity(form.variants.len());
        for variant in form.variants {
            if variants.iter().any(|other| other.id == variant.id) {
                self.faults.add(
                    step(&variant.pointer, "id"),
                    format!("{label}: variant {:?} stands twice; ids must be unique", variant.id),
                );
            }
            let content = variant.content.map_or_else(Content::default, |content| self.content(content, &label));
            variants.push(Variant { id: variant.id, weight: variant.weight, content });
        }
        Offer {
            eligible: self.condition(form.eligible, &label),
            name: form.name.unwrap_or_else(|| form.id.to_string()),
            category: form.category,
            category_index,
            tags: form.tags,
            value: form.value,
            lever: form.lever,
            price: form.price,
            valid: form.valid,
            content,
            features: form.features,
            product_ids: form.product_ids,
            purpose: form.purpose,
            inventory: form.inventory,
            propensity: form.propensity,
            mandatory: form.mandatory,
            transactional: form.transactional,
            campaign,
            audiences,
            caps: form.caps,
            suppress: form.suppress,
            dismissed_for_ms: form.dismissed_for_ms,
            variants,
            enabled: form.enabled,
            id: form.id,
        }
    }

    /// The position of an audience.
    fn audience(&mut self, pointer: impl FnOnce() -> String, label: &str, name: &str) -> Option<usize> {
        let found = self.audiences.get(name).copied();
        if found.is_none() {
            let hint = hint(name, self.catalog.audiences.iter().map(|audience| audience.name.as_str()));
            self.faults.add(pointer(), format!("{label}: there is no audience {name:?}; {hint}"));
        }
        found
    }

    fn content(&mut self, form: ContentForm, label: &str) -> Content {
        match form {
            ContentForm::Everywhere(content) => Content::Everywhere(content),
            ContentForm::ByChannel(channels) => {
                let mut by_channel = Vec::with_capacity(channels.len());
                for (pointer, name, content) in channels {
                    if let Some(channel) = self.channel(|| pointer, label, &name) {
                        by_channel.push((channel, content));
                    }
                }
                by_channel.sort_by_key(|(channel, _)| *channel);
                Content::ByChannel(by_channel)
            }
        }
    }

    fn categories(&mut self, forms: Vec<CategoryForm>) {
        let mut declared: Vec<CompactString> = Vec::new();
        for CategoryForm { pointer, name, caps } in forms {
            if declared.contains(&name) {
                self.twice(&pointer, "name", "category", &name, "names");
            }
            match self.categories.get(&name) {
                Some(index) => self.catalog.categories[*index].caps = caps,
                None => {
                    let detail = self.no_category(&name);
                    self.faults.add(step(&pointer, "name"), detail);
                }
            }
            declared.push(name);
        }
    }

    fn no_category(&self, name: &str) -> String {
        let hint = hint(name, self.catalog.categories.iter().map(|category| category.name.as_str()));
        format!("no offer has the category {name:?}; {hint}")
    }

    fn slots(&mut self, forms: Vec<SlotForm>) {
        for form in forms {
            let index = self.catalog.slots.len();
            if self.catalog.slots_by_name.insert(form.name.to_string(), index).is_some() {
                self.twice(&form.pointer, "slot", "slot", &form.name, "names");
            }
            if let Some(slot) = self.slot(form) {
                self.catalog.slots.push(slot);
            }
        }
    }

    fn slot(&mut self, form: SlotForm) -> Option<Slot> {
        let (pointer, label) = (form.pointer.as_str(), format!("slot {:?}", form.name));
        for (position, category) in form.categories.iter().flatten().enumerate() {
            if !self.categories.contains_key(category) {
                let detail = format!("{label}: {}", self.no_category(category));
                self.faults.add(format!("{pointer}/categories/{position}"), detail);
            }
        }
        let channel = self.channel(|| step(pointer, "channel"), &label, &form.channel);
        let fallback = match form.fallback {
            FallbackForm::Content(content) => Some(Fallback::Content(content)),
            FallbackForm::Offer(id) => {
                let found = self.catalog.offer(&id);
                if found.is_none() {
                    let hint = hint(&id, self.catalog.offers.iter().map(|offer| offer.id.as_str()));
                    self.faults.add(
                        step(pointer, "fallback"),
                        format!("{label}: the fallback {id:?} is no offer's id; {hint}"),
                    );
                }
                found.map(Fallback::Offer)
            }
        };
        let eligible = self.condition(form.eligible, &label);
        let weights: Vec<ContextWeight> = form.weights.into_iter().map(|weight| self.weight(weight, &label)).collect();
        let channel = channel?;
        let fits = |offer: &Offer| match (&form.categories, &offer.category) {
            (None, _) => true,
            (Some(wanted), Some(category)) => wanted.contains(category),
            (Some(_), None) => false,
        };
        // An offer that says so shows nothing on this channel.
        let silent = |offer: &Offer| matches!(offer.content.said(channel), Some(None));
        let offers = &self.catalog.offers;
        let candidates = (0..offers.len()).filter(|index| fits(&offers[*index]) && !silent(&offers[*index]));
        Some(Slot {
            name: form.name.into(),
            candidates: candidates.collect(),
            channel,
            fallback: fallback?,
            ranker: form.ranker,
            deadline_ms: form.deadline_ms,
            count: form.count,
            eligible,
            per_category: form.per_category,
            arbitration: form.arbitration,
            context_weights: weights,
        })
    }

    fn weight(&mut self, form: WeightForm, label: &str) -> ContextWeight {
        let WeightForm { pointer, when, factor, offers, categories, tags } = form;
        let mut chosen: Vec<usize> = Vec::new();
        for (position, id) in offers.iter().enumerate() {
            match self.catalog.offer(id) {
                Some(offer) => chosen.push(offer),
                None => {
                    let hint = hint(id, self.catalog.offers.iter().map(|offer| offer.id.as_str()));
                    self.faults.add(
                        format!("{pointer}/offers/{position}"),
                        format!("{label}: there is no offer {id:?}; {hint}"),
                    );
                }
            }
        }
        for (position, category) in categories.iter().enumerate() {
            if !self.categories.contains_key(category) {
                let detail = format!("{label}: {}", self.no_category(category));
                self.faults.add(format!("{pointer}/categories/{position}"), detail);
            }
        }
        let all_tags = self.catalog.offers.iter().flat_map(|offer| &offer.tags);
        let unknown: Vec<usize> =
            (0..tags.len()).filter(|position| !all_tags.clone().any(|tag| *tag == tags[*position])).collect();
        for position in unknown {
            let tag = &tags[position];
            let hint = hint(tag, self.catalog.offers.iter().flat_map(|offer| &offer.tags).map(CompactString::as_str));
            self.faults
                .add(format!("{pointer}/tags/{position}"), format!("{label}: no offer has the tag {tag:?}; {hint}"));
        }
        let everything = offers.is_empty() && categories.is_empty() && tags.is_empty();
        for (index, offer) in self.catalog.offers.iter().enumerate() {
            let by_category = offer.category.as_ref().is_some_and(|category| categories.contains(category));
            if everything || by_category || offer.tags.iter().any(|tag| tags.contains(tag)) {
                chosen.push(index);
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        ContextWeight { when: self.condition(when, label), factor, offers: chosen }
    }

    /// Whether all audiences and offers that conditions name are there, and no audience hangs on itself.
    fn check_references(&mut self, places: &AudiencePlaces) {
        let Self { catalog, faults, audiences, .. } = self;
        for condition in &catalog.conditions {
            let expression = &condition.expression;
            let mut fault = |node: u64, detail: String| {
                let place = expression.place(node);
                faults.add(condition.pointer.clone(), format!("{}: {place}: {detail}", condition.label));
            };
            for (node, name) in expression.audiences() {
                if !audiences.contains_key(name) {
                    let hint = hint(name, catalog.audiences.iter().map(|audience| audience.name.as_str()));
                    fault(node, format!("there is no audience {name:?}; {hint}"));
                }
            }
            for (node, id) in expression.offers() {
                if catalog.offer(id).is_none() {
                    let hint = hint(id, catalog.offers.iter().map(|offer| offer.id.as_str()));
                    fault(node, format!("there is no offer {id:?}; {hint}"));
                }
            }
        }
        if !faults.is_empty() {
            return;
        }
        let used = |audience: &Audience| {
            let condition = &catalog.conditions[audience.condition.index()];
            condition.expression.audiences().into_iter().filter_map(|(_, name)| audiences.get(name).copied()).collect()
        };
        let used: Vec<Vec<usize>> = catalog.audiences.iter().map(used).collect();
        if let Err(fault) = audience::check(&used) {
            let name = |index: &usize| catalog.audiences[*index].name.to_string();
            let chain = fault.chain().iter().map(name).collect::<Vec<_>>();
            faults.add(places[fault.chain()[0]].clone(), format!("audience {:?}: {}", chain[0], fault.detail(&chain)));
        }
    }
}
