//! What the experiments have come to: who was exposed to which arm, and who of them converted since.
//!
//! Somebody has converted who accepted an offer after their first exposure (of the campaign that the hold-out is of, of the offer that has the variants, else any), or
//! bought since: anything, by the aggregate `last_purchase_at` of whatever plugin has it; of a campaign or an offer what it sells, by `last_bought_at` by product. So those
//! who are held out convert too, where a plugin knows of purchases.

use std::collections::BTreeMap;
use std::time::Instant;

use compact_str::CompactString;
use selvedge_core::aggregate::{Definitions, Value, Weight};
use selvedge_core::catalog::{Catalog, Offer};
use selvedge_core::constraint::suppression::Owned;
use selvedge_core::experiment::lift::{Arm, Estimate, Z_95, difference, lift};
use selvedge_core::experiment::{CONTROL, HELD, HOLDOUT};
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::ShardId;
use selvedge_core::offers::{Act, Exposure};
use selvedge_core::time::Moment;
use selvedge_core::value::Timestamp;
use selvedge_shard::{ShardError, Shards};
use serde::Serialize;

/// The aggregate of the latest purchase of anything.
const LAST_PURCHASE: &str = "last_purchase_at";
/// Experiments and arms that are told of; what is beyond is not.
const ARMS_MAX: usize = 10_000;

/// What a look at everybody found.
pub struct Found {
    pub experiments: Vec<ExperimentReport>,
    pub persons: u64,
    pub took_ms: u64,
}

/// One experiment.
#[derive(Debug, Serialize)]
pub struct ExperimentReport {
    name: CompactString,
    kind: &'static str,
    /// The campaign or the offer that it is of.
    of: Option<CompactString>,
    /// The arm that the others are compared with.
    baseline: CompactString,
    arms: Vec<ArmReport>,
}

/// One arm.
#[derive(Debug, Serialize)]
struct ArmReport {
    arm: CompactString,
    exposed: u64,
    converted: u64,
    share: Option<EstimateReport>,
    difference: Option<EstimateReport>,
    lift: Option<EstimateReport>,
}

#[derive(Debug, Serialize)]
struct EstimateReport {
    value: f64,
    low: f64,
    high: f64,
}

impl From<Estimate> for EstimateReport {
    fn from(Estimate { value, low, high }: Estimate) -> Self {
        Self { value, low, high }
    }
}

/// What an experiment is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind<'n> {
    Holdout,
    Control,
    Campaign(&'n str),
    Variants(&'n str),
}

impl<'n> Kind<'n> {
    fn of(experiment: &'n str) -> Option<Self> {
        match (experiment, experiment.split_once(':')) {
            (HOLDOUT, _) => Some(Self::Holdout),
            (CONTROL, _) => Some(Self::Control),
            (_, Some(("campaign", id))) => Some(Self::Campaign(id)),
            (_, Some(("offer", id))) => Some(Self::Variants(id)),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Holdout => "holdout",
            Self::Control => "control",
            Self::Campaign(_) => "campaign",
            Self::Variants(_) => "variants",
        }
    }

    fn id(self) -> Option<&'n str> {
        match self {
            Self::Holdout | Self::Control => None,
            Self::Campaign(id) | Self::Variants(id) => Some(id),
        }
    }
}

/// Looks at everybody.
pub fn look(shards: &Shards, held: &[ShardId], catalog: &Catalog, now: Timestamp) -> Result<Found, ShardError> {
    let began = Instant::now();
    let conversions = Conversions::new(shards.definitions(), catalog, now);
    let mut arms: BTreeMap<(CompactString, CompactString), Arm> = BTreeMap::new();
    let mut persons = 0;
    for shard in held {
        let wanted = |fragment: &Fragment| !fragment.offers.exposures().is_empty();
        shards.each_person(*shard, wanted, |person| {
            persons += 1;
            for exposure in person.offers.exposures() {
                let place = (exposure.experiment.clone(), exposure.arm.clone());
                if arms.len() >= ARMS_MAX && !arms.contains_key(&place) {
                    continue;
                }
                let arm = arms.entry(place).or_default();
                arm.exposed += 1;
                arm.converted += u64::from(conversions.has_converted(person, exposure));
            }
        })?;
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Found { experiments: told(arms, catalog), persons, took_ms })
}

/// How a conversion is known.
struct Conversions<'d> {
    definitions: &'d Definitions,
    catalog: &'d Catalog,
    moment: Moment,
    /// By position among the readings.
    last_purchase: Option<usize>,
    bought_at: Option<usize>,
}

impl<'d> Conversions<'d> {
    fn new(definitions: &'d Definitions, catalog: &'d Catalog, now: Timestamp) -> Self {
        let find = |usual: &str, keyed: bool| {
            let own = |name: &str| name.split_once('.').is_some_and(|(_, own)| own == usual);
            definitions.readings().iter().position(|reading| reading.keyed == keyed && own(&reading.name))
        };
        Self {
            catalog,
            moment: definitions.moment(now, |_| None),
            last_purchase: find(LAST_PURCHASE, false),
            bought_at: find(Owned::BOUGHT_AT, true),
            definitions,
        }
    }

    fn has_converted(&self, person: &Fragment, exposure: &Exposure) -> bool {
        let since = exposure.at;
        match Kind::of(&exposure.experiment) {
            Some(Kind::Campaign(id)) => {
                let campaign = self.catalog.campaigns.iter().find(|campaign| campaign.id == id);
                let offers = campaign.into_iter().flat_map(|campaign| &campaign.offers);
                offers.map(|offer| &self.catalog.offers[*offer]).any(|offer| self.took(person, offer, since))
            }
            Some(Kind::Variants(id)) => match self.catalog.offer(id) {
                Some(offer) => self.took(person, &self.catalog.offers[offer], since),
                None => accepted(person, id, since),
            },
            _ => {
                let any = person.offers.iter().any(|line| line.last_at(Act::Accepted).is_some_and(|at| at >= since));
                any || self.purchased(person, since)
            }
        }
    }

    /// Whether somebody has accepted an offer since, or bought what it sells.
    fn took(&self, person: &Fragment, offer: &Offer, since: Timestamp) -> bool {
        accepted(person, &offer.id, since)
            || offer.product_ids.iter().any(|product| self.bought(person, product, since))
    }

    fn purchased(&self, person: &Fragment, since: Timestamp) -> bool {
        let Some(reading) = self.last_purchase.and_then(|at| self.definitions.readings().get(at)) else { return false };
        match self.definitions.evaluate(reading, &person.states, &self.moment).value {
            Value::Instant(at) => at >= since,
            _ => false,
        }
    }

    fn bought(&self, person: &Fragment, product: &str, since: Timestamp) -> bool {
        let Some(reading) = self.bought_at.and_then(|at| self.definitions.readings().get(at)) else { return false };
        match self.definitions.weight(reading, &person.states, product, &self.moment) {
            Some(Weight::Fixed(at)) => Timestamp(at) >= since,
            _ => false,
        }
    }
}

fn accepted(person: &Fragment, offer: &str, since: Timestamp) -> bool {
    person.offers.of(offer).any(|line| line.last_at(Act::Accepted).is_some_and(|at| at >= since))
}

/// The experiments with their arms, the baseline first.
fn told(arms: BTreeMap<(CompactString, CompactString), Arm>, catalog: &Catalog) -> Vec<ExperimentReport> {
    let mut experiments: BTreeMap<CompactString, Vec<(CompactString, Arm)>> = BTreeMap::new();
    for ((experiment, arm), counts) in arms {
        experiments.entry(experiment).or_default().push((arm, counts));
    }
    let told = experiments.into_iter().filter_map(|(name, mut arms)| {
        let kind = Kind::of(&name)?;
        let baseline = match kind {
            Kind::Variants(id) => {
                let first = catalog.offer(id).and_then(|offer| catalog.offers[offer].variants.first());
                first.map(|variant| variant.id.clone()).or_else(|| arms.first().map(|(arm, _)| arm.clone()))?
            }
            _ => HELD.into(),
        };
        arms.sort_by_key(|(arm, _)| (*arm != baseline, arm.clone()));
        let than = arms.iter().find(|(arm, _)| *arm == baseline).map(|(_, counts)| *counts);
        let arms = arms.into_iter().map(|(arm, counts)| {
            let than = than.filter(|_| arm != baseline);
            ArmReport {
                exposed: counts.exposed,
                converted: counts.converted,
                share: counts.share(Z_95).map(Into::into),
                difference: than.and_then(|than| difference(counts, than, Z_95)).map(Into::into),
                lift: than.and_then(|than| lift(counts, than, Z_95)).map(Into::into),
                arm,
            }
        });
        let (arms, of) = (arms.collect(), kind.id().map(Into::into));
        Some(ExperimentReport { kind: kind.name(), of, baseline, arms, name: name.clone() })
    });
    told.collect()
}
