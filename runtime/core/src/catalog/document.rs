//! The forms of a catalogue document: which keys there are, and what each may hold.
//!
//! Each part is read by itself; whatever names another part stays a name, for [`resolve`](super::resolve). `schema.json` says the same to editors.

use std::cell::RefCell;

use compact_str::CompactString;
use serde_json::value::RawValue;

use super::fault::Faults;
use super::parts::{ContentForm, PART_KEYS, Written, content, span_or_forever};
use super::read::{Object, decimal, name, number, text, whole};
use super::terms::{
    Arbitration, Cap, Counts, DISMISSED_MS, GlobalHoldout, HoldoutAnswer, Part, Quiet, Response, Suppression, Validity,
};
use super::{Feature, TRANSACTIONAL_PURPOSE};
use crate::limits;
use crate::value::Decimal;

pub(super) const ROOT_KEYS: &[&str] = &[
    "$schema",
    "offers",
    "slots",
    "campaigns",
    "audiences",
    "caps",
    "categories",
    "channels",
    "holdout",
    "control",
    "response",
];
pub(super) const OFFER_KEYS: &[&str] = &[
    "id",
    "name",
    "category",
    "tags",
    "value",
    "lever",
    "price",
    "valid",
    "content",
    "channels",
    "features",
    "product_ids",
    "purpose",
    "inventory",
    "propensity",
    "mandatory",
    "transactional",
    "campaign",
    "eligible",
    "audiences",
    "caps",
    "suppress",
    "dismissed_for",
    "variants",
    "enabled",
];
pub(super) const VARIANT_KEYS: &[&str] = &["id", "weight", "content", "channels"];
pub(super) const SLOT_KEYS: &[&str] = &[
    "slot",
    "categories",
    "channel",
    "fallback",
    "ranker",
    "deadline_ms",
    "count",
    "eligible",
    "per_category",
    "arbitration",
    "context_weights",
];
pub(super) const FALLBACK_KEYS: &[&str] = &["content"];
pub(super) const WEIGHT_KEYS: &[&str] = &["when", "factor", "offers", "categories", "tags"];
pub(super) const CAMPAIGN_KEYS: &[&str] = &["id", "name", "valid", "eligible", "caps", "holdout"];
pub(super) const AUDIENCE_KEYS: &[&str] = &["name", "condition"];
pub(super) const CATEGORY_KEYS: &[&str] = &["name", "caps"];
pub(super) const CHANNEL_KEYS: &[&str] = &["channel", "caps", "quiet"];
pub(super) const HOLDOUT_KEYS: &[&str] = &["percent", "salt", "answers"];

pub(super) const RESPONSE_KEYS: &[&str] = &["counts", "prior", "weight"];

const OFFERS_MAX: usize = 100_000;
const SLOTS_MAX: usize = 10_000;
/// Campaigns, audiences, categories, channels, each.
const GROUPS_MAX: usize = 10_000;
/// Tags, products, features, audiences, variants of one offer, each; categories and weights of one slot.
const OF_ONE_MAX: usize = 1_000;
const VARIANTS_MAX: usize = 64;
const WEIGHT_MAX: u64 = 1_000_000;
const DEADLINE_MS_MAX: u64 = 60_000;
const RESPONSE_WEIGHT_MAX: f64 = 1e9;

/// A catalogue as it was written.
#[derive(Default)]
pub(super) struct Document {
    pub(super) offers: Vec<OfferForm>,
    pub(super) slots: Vec<SlotForm>,
    pub(super) campaigns: Vec<CampaignForm>,
    pub(super) audiences: Vec<AudienceForm>,
    pub(super) caps: Vec<Cap>,
    pub(super) categories: Vec<CategoryForm>,
    pub(super) channels: Vec<ChannelForm>,
    pub(super) holdout: Option<GlobalHoldout>,
    pub(super) control: Option<Part>,
    pub(super) response: Option<Response>,
}

pub(super) struct OfferForm {
    pub(super) pointer: String,
    pub(super) id: CompactString,
    pub(super) name: Option<String>,
    pub(super) category: Option<CompactString>,
    pub(super) tags: Vec<CompactString>,
    pub(super) value: Decimal,
    pub(super) lever: Decimal,
    pub(super) price: Option<Decimal>,
    pub(super) valid: Validity,
    pub(super) content: Option<ContentForm>,
    pub(super) features: Vec<(CompactString, Feature)>,
    pub(super) product_ids: Vec<CompactString>,
    pub(super) purpose: Option<CompactString>,
    pub(super) inventory: Option<u64>,
    pub(super) propensity: Option<String>,
    pub(super) mandatory: bool,
    pub(super) transactional: bool,
    pub(super) campaign: Option<CompactString>,
    pub(super) eligible: Option<Written>,
    pub(super) audiences: Vec<CompactString>,
    pub(super) caps: Vec<Cap>,
    pub(super) suppress: Option<Suppression>,
    pub(super) dismissed_for_ms: Option<i64>,
    pub(super) variants: Vec<VariantForm>,
    pub(super) enabled: bool,
}

pub(super) struct VariantForm {
    pub(super) pointer: String,
    pub(super) id: CompactString,
    pub(super) weight: u32,
    pub(super) content: Option<ContentForm>,
}

pub(super) enum FallbackForm {
    Offer(CompactString),
    Content(Box<RawValue>),
}

pub(super) struct SlotForm {
    pub(super) pointer: String,
    pub(super) name: CompactString,
    pub(super) categories: Option<Vec<CompactString>>,
    pub(super) channel: CompactString,
    pub(super) fallback: FallbackForm,
    pub(super) ranker: Option<String>,
    pub(super) deadline_ms: Option<u32>,
    pub(super) count: usize,
    pub(super) eligible: Option<Written>,
    pub(super) per_category: Option<usize>,
    pub(super) arbitration: Arbitration,
    pub(super) weights: Vec<WeightForm>,
}

pub(super) struct WeightForm {
    pub(super) pointer: String,
    pub(super) when: Option<Written>,
    pub(super) factor: f64,
    pub(super) offers: Vec<CompactString>,
    pub(super) categories: Vec<CompactString>,
    pub(super) tags: Vec<CompactString>,
}

pub(super) struct CampaignForm {
    pub(super) pointer: String,
    pub(super) id: CompactString,
    pub(super) name: Option<String>,
    pub(super) valid: Validity,
    pub(super) eligible: Option<Written>,
    pub(super) caps: Vec<Cap>,
    pub(super) holdout: Option<Part>,
}

pub(super) struct AudienceForm {
    pub(super) pointer: String,
    pub(super) name: CompactString,
    pub(super) condition: Written,
}

pub(super) struct CategoryForm {
    pub(super) pointer: String,
    pub(super) name: CompactString,
    pub(super) caps: Vec<Cap>,
}

pub(super) struct ChannelForm {
    pub(super) pointer: String,
    pub(super) name: CompactString,
    pub(super) caps: Vec<Cap>,
    pub(super) quiet: Option<Quiet>,
}

impl Document {
    /// Reads a document, as far as it can be read; what is wrong is noted.
    pub(super) fn read(raw: &RawValue, faults: &RefCell<Faults>) -> Self {
        let Some(root) = Object::open(raw, String::new(), "", ROOT_KEYS, faults) else { return Self::default() };
        let holdout = root.object("holdout", HOLDOUT_KEYS);
        let control = root.object("control", PART_KEYS);
        let response = root.object("response", RESPONSE_KEYS);
        Self {
            offers: each(&root, "offers", OFFERS_MAX, OFFER_KEYS, offer),
            slots: each(&root, "slots", SLOTS_MAX, SLOT_KEYS, slot),
            campaigns: each(&root, "campaigns", GROUPS_MAX, CAMPAIGN_KEYS, campaign),
            audiences: each(&root, "audiences", GROUPS_MAX, AUDIENCE_KEYS, audience),
            caps: root.caps(),
            categories: each(&root, "categories", GROUPS_MAX, CATEGORY_KEYS, category),
            channels: each(&root, "channels", GROUPS_MAX, CHANNEL_KEYS, channel),
            holdout: holdout.and_then(|object| global_holdout(&object)),
            control: control.and_then(|object| object.part("control")),
            response: response.map(|object| response_of(&object)),
        }
    }
}

fn each<'a, 'f, T>(
    root: &Object<'a, 'f>,
    key: &str,
    most: usize,
    known: &[&str],
    read: impl Fn(Object<'a, 'f>) -> Option<T>,
) -> Vec<T> {
    root.objects(key, most, known).into_iter().filter_map(read).collect()
}

fn offer(mut object: Object<'_, '_>) -> Option<OfferForm> {
    let id = object.need("id", "give a text that stays the same for ever", name)?;
    object.label("offer", &id);
    let variants: Vec<VariantForm> =
        object.objects("variants", VARIANTS_MAX, VARIANT_KEYS).into_iter().filter_map(variant).collect();
    let content = object.content();
    if content.is_none() && object.raw("content").is_none() && variants.is_empty() {
        let detail = "missing field `content`; give what the page shows, or channels with a content for each";
        object.fault_at(object.pointer.clone(), detail);
    }
    let amount = |key: &str, mend: &str| {
        let amount = object.get(key, decimal)?;
        if amount < Decimal(0) {
            object.fault(key, format!("{key} is negative; {mend}"));
        }
        Some(amount)
    };
    let one = Decimal(Decimal::SCALE);
    let transactional = object.flag("transactional", false);
    let purpose = object.get("purpose", name);
    if transactional && let Some(other) = purpose.as_deref().filter(|purpose| *purpose != TRANSACTIONAL_PURPOSE) {
        object.fault(
            "purpose",
            format!(
                "purpose is {other:?}, but a transactional offer needs only {TRANSACTIONAL_PURPOSE:?}; leave it out"
            ),
        );
    }
    let form = OfferForm {
        name: object.get("name", text),
        category: object.get("category", name),
        tags: object.names("tags", OF_ONE_MAX).unwrap_or_default(),
        value: amount("value", "leave the offer out instead").unwrap_or(one),
        lever: amount("lever", "0 puts the offer last").unwrap_or(one),
        price: amount("price", "leave it out where there is none"),
        valid: object.valid(),
        content,
        features: features(&object),
        product_ids: object.names("product_ids", OF_ONE_MAX).unwrap_or_default(),
        purpose,
        inventory: object.get("inventory", |raw| whole(raw, 0, u64::from(u32::MAX))),
        propensity: propensity(&object),
        mandatory: object.flag("mandatory", false),
        transactional,
        campaign: object.get("campaign", name),
        eligible: object.condition("eligible"),
        audiences: object.names("audiences", OF_ONE_MAX).unwrap_or_default(),
        caps: object.caps(),
        suppress: object.suppress(),
        dismissed_for_ms: object.get("dismissed_for", span_or_forever).unwrap_or(Some(DISMISSED_MS)),
        enabled: object.flag("enabled", true),
        variants,
        id,
        pointer: String::new(),
    };
    Some(OfferForm { pointer: object.pointer, ..form })
}

fn features(object: &Object<'_, '_>) -> Vec<(CompactString, Feature)> {
    let mut features = Vec::new();
    for (key, raw) in object.map("features") {
        let feature = match raw.get().as_bytes().first() {
            Some(b'"') => name(raw).map(Feature::Text),
            _ => number(raw).map(Feature::Number),
        };
        match feature {
            Ok(feature) => features.push((CompactString::from(key), feature)),
            Err(detail) => {
                let pointer = super::fault::step(&super::fault::step(&object.pointer, "features"), &key);
                object.fault_at(pointer, format!("feature {key:?} {detail} or text"));
            }
        }
    }
    features.sort_by(|(one, _), (other, _)| one.cmp(other));
    features
}

/// `score:PLUGIN.NAME`, without the source.
fn propensity(object: &Object<'_, '_>) -> Option<String> {
    object.get("propensity", |raw| {
        let text = text(raw)?;
        match text.strip_prefix("score:") {
            Some(score) if !score.is_empty() => Ok(score.to_owned()),
            _ => Err(format!("is {text:?}; it is a score, such as \"score:retail.p_alive\"")),
        }
    })
}

fn variant(object: Object<'_, '_>) -> Option<VariantForm> {
    let id = object.need("id", "give a text that is unique within the offer", name)?;
    let weight = object.get("weight", |raw| match raw.get() {
        "0" => Err("is 0; leave the variant out instead".to_owned()),
        _ => whole(raw, 1, WEIGHT_MAX),
    });
    let content = object.content();
    Some(VariantForm { id, weight: weight.unwrap_or(1) as u32, content, pointer: object.pointer })
}

fn slot(mut object: Object<'_, '_>) -> Option<SlotForm> {
    let slot = object.need("slot", "give the name that decide calls ask for", name)?;
    object.label("slot", &slot);
    let fallback = fallback(&object);
    let at_most = |key: &str, most: u64| object.get(key, |raw| whole(raw, 1, most));
    let weights = object.objects("context_weights", OF_ONE_MAX, WEIGHT_KEYS);
    Some(SlotForm {
        categories: object.names("categories", OF_ONE_MAX),
        channel: object.get("channel", name).unwrap_or_else(|| "web".into()),
        ranker: object.get("ranker", text),
        deadline_ms: at_most("deadline_ms", DEADLINE_MS_MAX).map(|deadline| deadline as u32),
        count: at_most("count", limits::SLOT_COUNT_MAX as u64).map_or(1, |count| count as usize),
        eligible: object.condition("eligible"),
        per_category: at_most("per_category", limits::SLOT_COUNT_MAX as u64).map(|most| most as usize),
        arbitration: object.arbitration(),
        weights: weights.into_iter().filter_map(weight).collect(),
        fallback: fallback?,
        name: slot,
        pointer: object.pointer,
    })
}

fn fallback(object: &Object<'_, '_>) -> Option<FallbackForm> {
    const MEND: &str = "it is an offer's id or { content = {…} }";
    let raw = object.need("fallback", MEND, Ok)?;
    if raw.get().starts_with('"') {
        return object.get("fallback", name).map(FallbackForm::Offer);
    }
    if !raw.get().starts_with('{') {
        object.fault("fallback", format!("the fallback is neither text nor object; {MEND}"));
        return None;
    }
    let inner = object.object("fallback", FALLBACK_KEYS)?;
    inner.need("content", MEND, content).map(FallbackForm::Content)
}

fn weight(object: Object<'_, '_>) -> Option<WeightForm> {
    let factor = object.need("factor", "give a number that is not negative", |raw| match number(raw)? {
        factor if factor < 0.0 => Err("is negative; 0 puts an offer last".to_owned()),
        factor => Ok(factor),
    });
    let names = |key| object.names(key, OF_ONE_MAX).unwrap_or_default();
    Some(WeightForm {
        when: object.condition("when"),
        factor: factor?,
        offers: names("offers"),
        categories: names("categories"),
        tags: names("tags"),
        pointer: object.pointer,
    })
}

fn campaign(mut object: Object<'_, '_>) -> Option<CampaignForm> {
    let id = object.need("id", "give the text that offers name as their campaign", name)?;
    object.label("campaign", &id);
    let holdout = object.object("holdout", PART_KEYS);
    Some(CampaignForm {
        name: object.get("name", text),
        valid: object.valid(),
        eligible: object.condition("eligible"),
        caps: object.caps(),
        holdout: holdout.and_then(|holdout| holdout.part(&id)),
        id,
        pointer: object.pointer,
    })
}

fn audience(mut object: Object<'_, '_>) -> Option<AudienceForm> {
    let name = object.need("name", "give the name that offers and conditions use", name)?;
    object.label("audience", &name);
    if object.raw("condition").is_none() {
        object.fault_at(object.pointer.clone(), "condition is missing; give one, such as trait.country == \"GB\"");
    }
    Some(AudienceForm { name, condition: object.condition("condition")?, pointer: object.pointer })
}

fn category(mut object: Object<'_, '_>) -> Option<CategoryForm> {
    let name = object.need("name", "give the category of some offers", name)?;
    object.label("category", &name);
    Some(CategoryForm { name, caps: object.caps(), pointer: object.pointer })
}

fn channel(mut object: Object<'_, '_>) -> Option<ChannelForm> {
    let name = object.need("channel", "give its name, such as email", name)?;
    object.label("channel", &name);
    Some(ChannelForm { name, caps: object.caps(), quiet: object.quiet(), pointer: object.pointer })
}

fn response_of(object: &Object<'_, '_>) -> Response {
    let usual = Response::default();
    let counts = object.choice("counts", &[("clicked", Counts::Clicked), ("accepted", Counts::Accepted)]);
    let prior = object.get("prior", |raw| match number(raw)? {
        prior if (0.0..=1.0).contains(&prior) => Ok(prior),
        _ => Err(format!("is {}; it is a share from 0 to 1, such as 0.02", raw.get())),
    });
    let weight = object.get("weight", |raw| match number(raw)? {
        weight if weight > 0.0 && weight <= RESPONSE_WEIGHT_MAX => Ok(weight),
        _ => Err(format!("is {}; it is a number above 0, up to {RESPONSE_WEIGHT_MAX}", raw.get())),
    });
    let (counts, prior) = (counts.unwrap_or(usual.counts), prior.unwrap_or(usual.prior));
    Response { counts, prior, weight: weight.unwrap_or(usual.weight) }
}

fn global_holdout(object: &Object<'_, '_>) -> Option<GlobalHoldout> {
    let answers = [("fallback", HoldoutAnswer::Fallback), ("nothing", HoldoutAnswer::Nothing)];
    let answers = object.choice("answers", &answers).unwrap_or_default();
    Some(GlobalHoldout { part: object.part("holdout")?, answers })
}
