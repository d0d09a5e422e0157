//! Response rates as decisions read them: of each offer of a catalogue on each channel how often everyone was shown it and took it up.
//!
//! A decision reads one number and waits for nobody. They are brought up about every second: what is in the bases of the shards that are held, and of others what
//! the centre says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use compact_str::CompactString;
use selvedge_core::catalog::Catalog;
use selvedge_core::catalog::terms::Response;
use selvedge_core::decision::priority::smoothed_rate;
use selvedge_core::identity::ShardId;
use selvedge_core::offers::Act;
use selvedge_core::offers::everyone::{Row, Scale};
use selvedge_shard::{ShardError, Shards};

use crate::clock;
use crate::edge::Edge;
use crate::sync::wire::Responses;

/// Pairs of offer and channel that an edge is told of, of shards that it does not hold.
const TOLD_MAX: usize = 20_000;

/// The response rates of a catalogue's offers.
pub struct Rates {
    response: Response,
    channels: usize,
    /// By offer, then by channel: responses in the upper half, how often it was shown in the lower.
    counts: Box<[AtomicU64]>,
    /// What the bases were when they were brought up last, as one number.
    seen: AtomicU64,
}

/// How often something was shown and taken up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub responses: u32,
    pub shown: u32,
}

impl Rates {
    /// Those of a catalogue, if it goes by any; by the counts of another one for what both have.
    pub fn new(catalog: &Catalog, before: Option<(&Catalog, &Self)>) -> Option<Self> {
        let response = catalog.response?;
        let (channels, seen) = (catalog.channels.len(), AtomicU64::new(0));
        let counts = (0..catalog.offers.len() * channels).map(|_| AtomicU64::new(0)).collect();
        let rates = Self { response, channels, counts, seen };
        if let Some((of, before)) = before.filter(|(_, before)| before.response.counts == response.counts) {
            for (offer, known) in catalog.offers.iter().enumerate() {
                let Some(was) = of.offer(&known.id) else { continue };
                for (channel, known) in catalog.channels.iter().enumerate() {
                    let counted = of.channel(&known.name).map(|channel| before.counted(was, channel));
                    rates.set(offer, channel, counted.unwrap_or_default());
                }
            }
        }
        Some(rates)
    }

    /// The propensity of an offer on a channel, and what it is made from.
    #[inline]
    pub fn of(&self, offer: usize, channel: usize) -> (f64, Counted) {
        let counted = self.counted(offer, channel);
        let Response { prior, weight, .. } = self.response;
        (smoothed_rate(counted.responses.into(), counted.shown.into(), prior, weight), counted)
    }

    /// By what it is smoothed.
    pub fn response(&self) -> Response {
        self.response
    }

    fn counted(&self, offer: usize, channel: usize) -> Counted {
        let packed =
            self.counts.get(offer * self.channels + channel).map_or(0, |packed| packed.load(Ordering::Relaxed));
        Counted { responses: (packed >> 32) as u32, shown: packed as u32 }
    }

    fn set(&self, offer: usize, channel: usize, counted: Counted) {
        if let Some(packed) = self.counts.get(offer * self.channels + channel) {
            packed.store(u64::from(counted.responses) << 32 | u64::from(counted.shown), Ordering::Relaxed);
        }
    }
}

/// What of a row counts.
fn responses(row: &Row, response: Response) -> Responses {
    let of = |act| u32::try_from(row.total.of(act)).unwrap_or(u32::MAX);
    (of(response.act()), of(Act::Shown))
}

/// Brings the rates of an edge's catalogue up. Blocks: the first time on the disk.
pub fn renew(edge: &Edge) -> Result<(), ShardError> {
    let Some(rates) = &edge.policy.rates else { return Ok(()) };
    let held: Vec<ShardId> = ShardId::all().filter(|shard| edge.shards.holds(*shard)).collect();
    let peers = edge.uplink.as_ref().and_then(|uplink| uplink.told());
    let exchange = peers.as_ref().filter(|peers| !peers.responses.is_empty()).and_then(|peers| peers.exchange);
    // Nothing has moved since: nothing is to be said.
    let moved: u64 = held.iter().map(|shard| edge.shards.cursor(*shard).seq).fold(1, u64::wrapping_add);
    let moved = moved.wrapping_add(exchange.unwrap_or(0) << 48);
    if rates.seen.load(Ordering::Relaxed) == moved {
        return Ok(());
    }
    let elsewhere = peers.iter().flat_map(|peers| &peers.responses);
    let mut sums = sum(&edge.shards, held.into_iter(), &edge.catalog, rates.response)?;
    for ((offer, channel), (responses, shown)) in elsewhere {
        let place = edge.catalog.offer(offer).zip(edge.catalog.channel(channel));
        if let Some(place) = place {
            let sum = sums.entry(place).or_default();
            *sum = (sum.0.saturating_add(*responses), sum.1.saturating_add(*shown));
        }
    }
    for offer in 0..edge.catalog.offers.len() {
        for channel in 0..rates.channels {
            let (responses, shown) = sums.get(&(offer, channel)).copied().unwrap_or_default();
            rates.set(offer, channel, Counted { responses, shown });
        }
    }
    rates.seen.store(moved, Ordering::Relaxed);
    Ok(())
}

/// An offer and a channel by their names, and what came of them.
pub type Counts = ((CompactString, CompactString), Responses);

/// By offer and channel, as a catalogue has them.
type Sums = BTreeMap<(usize, usize), Responses>;

fn sum(
    shards: &Shards,
    which: impl Iterator<Item = ShardId>,
    catalog: &Catalog,
    response: Response,
) -> Result<Sums, ShardError> {
    let scale = Arc::new(Scale::of_reports(shards.definitions().time().clone()));
    let (now, mut sums) = (clock::now(), Sums::new());
    for shard in which {
        shards.look(shard, &scale, now, |still| {
            for (offer, channel, row) in still.tally.rows() {
                let Some(place) = catalog.offer(offer).zip(catalog.channel(channel)) else { continue };
                let (more, sum) = (responses(row, response), sums.entry(place).or_default());
                *sum = (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1));
            }
        })?;
    }
    Ok(sums)
}

/// What there is of a catalogue's offers in some shards, for those who do not hold them. Blocks: the first time on the disk.
pub fn responses_in(
    shards: &Shards,
    which: impl Iterator<Item = ShardId>,
    catalog: &Catalog,
) -> Result<Vec<Counts>, ShardError> {
    let Some(response) = catalog.response else { return Ok(Vec::new()) };
    let sums = sum(shards, which, catalog, response)?;
    let named = |((offer, channel), counts): ((usize, usize), Responses)| {
        ((catalog.offers[offer].id.clone(), catalog.channels[channel].name.clone()), counts)
    };
    Ok(sums.into_iter().filter(|(_, counts)| *counts != (0, 0)).take(TOLD_MAX).map(named).collect())
}
