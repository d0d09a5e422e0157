//! The report: what has become of the offers over everyone, and of the experiments.
//!
//! Made when somebody asks: the funnels from the tallies that the shards keep from the first question on, the experiments by a look at every profile. It knows
//! nothing of who asks, nor of decisions under way; it takes nothing that requests wait for.

pub mod command;
mod experiments;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compact_str::CompactString;
use parking_lot::Mutex;
use selvedge_core::catalog::Catalog;
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::offers::everyone::{DAYS, Funnel, Scale, Tally};
use selvedge_core::value::Timestamp;
use selvedge_shard::{ShardError, Shards};
use serde::{Deserialize, Serialize};

use self::experiments::ExperimentReport;
use crate::error::Problem;

/// Days that are told where nobody says how many.
const DAYS_USUAL: u32 = 7;
/// Offers that are told of although the catalogue does not have them.
const GONE_MAX: usize = 1_000;
/// Every look at all profiles: one at a time.
static LOOKING: Mutex<()> = Mutex::new(());

/// What is asked for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    #[serde(default = "days_usual")]
    days: u32,
    #[serde(default = "yes")]
    experiments: bool,
}

fn days_usual() -> u32 {
    DAYS_USUAL
}

fn yes() -> bool {
    true
}

impl ReportQuery {
    /// Refuses what nobody can answer.
    pub fn check(self) -> Result<Self, Problem> {
        if self.days > DAYS {
            let detail = format!("days is {}; the last {DAYS} days are kept", self.days);
            return Err(Problem::bad_request("query_invalid", detail));
        }
        Ok(self)
    }
}

/// What the query takes, for whoever sends another.
pub const QUERY: &str = "the query takes days=N and experiments=true|false";

/// The report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    at: String,
    time_zone: String,
    /// Of how many shards this is, of how many there are.
    shards: usize,
    of: u16,
    total: Funnel,
    offers: Vec<OfferReport>,
    campaigns: Vec<CampaignReport>,
    channels: Vec<ChannelReport>,
    days: Vec<DayReport>,
    experiments: Option<Vec<ExperimentReport>>,
    /// Who was exposed to any experiment.
    persons: Option<u64>,
    scanned_ms: Option<u64>,
}

/// One offer.
#[derive(Debug, Serialize)]
struct OfferReport {
    id: CompactString,
    name: Option<String>,
    campaign: Option<CompactString>,
    /// Whether the catalogue has it.
    known: bool,
    total: Funnel,
    channels: Vec<ChannelReport>,
}

#[derive(Debug, Serialize)]
struct CampaignReport {
    id: CompactString,
    name: String,
    total: Funnel,
}

#[derive(Debug, Serialize)]
struct ChannelReport {
    channel: CompactString,
    total: Funnel,
}

/// One day of one offer on one channel.
#[derive(Debug, Serialize)]
struct DayReport {
    day: String,
    offer: CompactString,
    channel: CompactString,
    #[serde(flatten)]
    funnel: Funnel,
}

/// Makes the report of the shards that are held. Blocks on the disk, and where somebody else has profiles looked at.
pub fn make(shards: &Shards, catalog: &Catalog, query: ReportQuery, now: Timestamp) -> Result<Report, ShardError> {
    let time = shards.definitions().time();
    let scale = Arc::new(Scale::of_reports(time.clone()));
    let held: Vec<ShardId> = ShardId::all().filter(|shard| shards.holds(*shard)).collect();
    let mut tally = Tally::new(Arc::clone(&scale), now);
    for shard in &held {
        shards.look(*shard, &scale, now, |still| tally.merge(still.tally))?;
    }
    let found = if query.experiments {
        let _one = LOOKING.lock();
        Some(experiments::look(shards, &held, catalog, now)?)
    } else {
        None
    };
    let offers = offers(&tally, catalog);
    let mut total = Funnel::default();
    offers.iter().for_each(|offer| total.add(&offer.total));
    let days = days(&tally, &offers, query.days, now);
    Ok(Report {
        at: now.to_string(),
        time_zone: time.name().to_owned(),
        shards: held.len(),
        of: SHARDS,
        total,
        campaigns: campaigns(&offers, catalog),
        channels: channels(&tally),
        offers,
        days,
        persons: found.as_ref().map(|found| found.persons),
        scanned_ms: found.as_ref().map(|found| found.took_ms),
        experiments: found.map(|found| found.experiments),
    })
}

/// Those of the catalogue in its order, then those that it does not have any more.
fn offers(tally: &Tally, catalog: &Catalog) -> Vec<OfferReport> {
    let of = |id: &CompactString| {
        let channels = tally.of(id).map(|(channel, row)| ChannelReport { channel: channel.clone(), total: row.total });
        let channels: Vec<ChannelReport> = channels.filter(|channel| channel.total != Funnel::default()).collect();
        let mut total = Funnel::default();
        channels.iter().for_each(|channel| total.add(&channel.total));
        OfferReport { id: id.clone(), name: None, campaign: None, known: false, total, channels }
    };
    let known = catalog.offers.iter().map(|offer| OfferReport {
        name: Some(offer.name.clone()),
        campaign: offer.campaign.map(|campaign| catalog.campaigns[campaign].id.clone()),
        known: true,
        ..of(&offer.id)
    });
    let told: BTreeSet<&CompactString> = tally.rows().map(|(offer, ..)| offer).collect();
    let gone = told.into_iter().filter(|id| catalog.offer(id).is_none()).map(of);
    known.chain(gone.filter(|offer| !offer.channels.is_empty()).take(GONE_MAX)).collect()
}

fn campaigns(offers: &[OfferReport], catalog: &Catalog) -> Vec<CampaignReport> {
    let of = |campaign: &selvedge_core::catalog::Campaign| {
        let mut total = Funnel::default();
        let own = offers.iter().filter(|offer| offer.campaign.as_ref() == Some(&campaign.id));
        own.for_each(|offer| total.add(&offer.total));
        CampaignReport { id: campaign.id.clone(), name: campaign.name.clone(), total }
    };
    catalog.campaigns.iter().map(of).collect()
}

fn channels(tally: &Tally) -> Vec<ChannelReport> {
    let mut channels: BTreeMap<&CompactString, Funnel> = BTreeMap::new();
    tally.rows().for_each(|(_, channel, row)| channels.entry(channel).or_default().add(&row.total));
    let some = channels.into_iter().filter(|(_, total)| *total != Funnel::default());
    some.map(|(channel, total)| ChannelReport { channel: channel.clone(), total }).collect()
}

/// The newest day first.
fn days(tally: &Tally, offers: &[OfferReport], count: u32, now: Timestamp) -> Vec<DayReport> {
    let time = &tally.scale().time;
    let told: BTreeSet<&CompactString> = offers.iter().map(|offer| &offer.id).collect();
    let after = time.day(now) - i64::from(count);
    let mut days = Vec::new();
    for (offer, channel, row) in tally.rows().filter(|(offer, ..)| told.contains(offer)) {
        for (begin, funnel) in row.days() {
            let day = time.day(*begin);
            if day > after {
                days.push((
                    day,
                    DayReport { day: time.date(day), offer: offer.clone(), channel: channel.clone(), funnel: *funnel },
                ));
            }
        }
    }
    days.sort_by_key(|(day, _)| std::cmp::Reverse(*day));
    days.into_iter().map(|(_, day)| day).collect()
}
