//! What the simulated nodes hold: changes, and the base that they fold to.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use selvedge_core::aggregate::Definitions;
use selvedge_core::change::{Change, DecidedOffer};
use selvedge_core::effects::{Effects, Feedback};
use selvedge_core::event::{Event, EventKind};
use selvedge_core::fragment::{EventRef, Folded, Fragment};
use selvedge_core::identity::{Identifier, ShardId};
use selvedge_core::offers::Act;
use selvedge_core::sync::{Entry, Origin, mix};
use selvedge_core::time::BusinessTime;
use selvedge_core::value::Timestamp;
use selvedge_core::view::Cursor;

/// Shards that are simulated.
pub const SHARDS: usize = 2;
const VISITORS: usize = 3;

/// SplitMix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^ (drawn >> 31)
    }

    pub fn below(&mut self, most: u64) -> u64 {
        self.draw() % most.max(1)
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("a length")
    }

    pub fn between(&mut self, least: i64, most: i64) -> i64 {
        least + i64::try_from(self.below((most - least + 1).unsigned_abs())).expect("a span of time")
    }

    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }
}

/// The simulated shards and their visitors.
pub fn visitors() -> &'static [(ShardId, Vec<Identifier>)] {
    static MADE: OnceLock<Vec<(ShardId, Vec<Identifier>)>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut shards: Vec<(ShardId, Vec<Identifier>)> = Vec::new();
        for number in 0.. {
            let visitor = Identifier::stored(&format!("user:{number}")).expect("an identifier");
            let shard = visitor.shard();
            if let Some((_, visitors)) = shards.iter_mut().find(|(held, _)| *held == shard) {
                if visitors.len() < VISITORS {
                    visitors.push(visitor);
                }
            } else if shards.len() < SHARDS {
                shards.push((shard, vec![visitor]));
            }
            if shards.len() == SHARDS && shards.iter().all(|(_, visitors)| visitors.len() == VISITORS) {
                break;
            }
        }
        shards
    })
}

pub fn shard(place: usize) -> ShardId {
    visitors()[place].0
}

pub fn place(shard: ShardId) -> Option<usize> {
    visitors().iter().position(|(held, _)| *held == shard)
}

fn definitions() -> &'static Definitions {
    static MADE: OnceLock<Definitions> = OnceLock::new();
    MADE.get_or_init(|| Definitions::new(BusinessTime::new("UTC").expect("a zone")))
}

/// What a change is, to whoever checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Event {
        fragment: Identifier,
        id: [u8; 16],
        at: i64,
    },
    /// The offer is named once in the whole run, so that it is decided once.
    Decided {
        fragment: Identifier,
        offer: String,
    },
    /// Nothing can read it.
    Poison,
}

/// A change, as a client sent it.
#[derive(Clone, Debug)]
pub struct Issue {
    pub place: usize,
    pub what: What,
    pub bytes: Arc<[u8]>,
    /// Some edge has promised that it is durable.
    pub acked: bool,
    /// An edge that promised it was set back to a backup without it: nothing is promised any more.
    pub exempt: bool,
    /// Set aside, with a reason, as a dead letter.
    pub dead: bool,
}

impl Issue {
    pub fn event(place: usize, visitor: usize, number: usize, at: i64) -> Self {
        let fragment = visitors()[place].1[visitor].clone();
        let event = Event {
            kind: EventKind::Track,
            name: "Seen".into(),
            message_id: format!("m{number}").into(),
            at: Timestamp(at),
            received_at: Timestamp(at),
            claimed: false,
            payload: "{}".into(),
        };
        let what = What::Event { fragment: fragment.clone(), id: event.id_hash(), at };
        Self::new(place, what, Change::Event { fragment, event }.encode())
    }

    pub fn decided(place: usize, visitor: usize, number: usize) -> Self {
        let fragment = visitors()[place].1[visitor].clone();
        let offer = format!("d{number}");
        let offers = vec![DecidedOffer::on_web(&offer, Timestamp(60_000), 1)];
        let change = Change::Decided { fragment: fragment.clone(), offers, exposures: Vec::new() };
        Self::new(place, What::Decided { fragment, offer }, change.encode())
    }

    pub fn poison(place: usize, number: usize) -> Self {
        Self::new(place, What::Poison, [&[99_u8][..], &number.to_le_bytes()].concat())
    }

    fn new(place: usize, what: What, bytes: Vec<u8>) -> Self {
        Self { place, what, bytes: bytes.into(), acked: false, exempt: false, dead: false }
    }
}

/// What is held of one visitor.
#[derive(Clone, Default)]
pub struct Row {
    pub fragment: Fragment,
    /// The ids of its events and the sequence at which each came first.
    pub ids: BTreeMap<[u8; 16], u64>,
}

/// One shard's base.
#[derive(Clone, Default)]
pub struct Base {
    pub cursor: Cursor,
    pub checksum: u64,
    pub applied: BTreeMap<Origin, u64>,
    pub rows: BTreeMap<Identifier, Arc<Row>>,
}

impl Row {
    /// Folds a change. False: it is an event whose id is known.
    pub fn fold(&mut self, change: &Change, seq: u64) -> bool {
        match change {
            Change::Event { event, .. } => {
                if self.ids.contains_key(&event.id_hash()) {
                    return false;
                }
                self.ids.insert(event.id_hash(), seq);
                let shown = Feedback { offer: "kettle".into(), channel: "web".into(), act: Act::Shown, owned: false };
                let effects = Effects {
                    feedback: Some(shown),
                    traits: vec![("last".into(), format!("{:?}", event.message_id).into())],
                    source: "web".into(),
                    ..Effects::default()
                };
                let folded = self.fragment.apply_event(definitions(), &EventRef::from(event), &effects);
                assert_eq!(folded, Folded::Counted);
            }
            Change::Decided { offers, exposures, .. } => self.fragment.apply_decided(offers, exposures),
            Change::Mart { load, .. } => assert_eq!(self.fragment.apply_load(definitions(), load), Folded::Counted),
            Change::Link { .. }
            | Change::Activate(_)
            | Change::Mark(_)
            | Change::Release(_)
            | Change::Catalog(_)
            | Change::Switch(_) => {}
            Change::Erase { .. } | Change::Erased { .. } | Change::Withdraw { .. } => {}
        }
        true
    }

    /// Everything counts once.
    pub fn check(&self) -> Result<(), String> {
        let ids = self.ids.len() as u64;
        let shown: u64 = self.fragment.offers.by_offer().map(|(_, history)| history.shown).sum();
        if self.fragment.events != ids || shown != ids {
            return Err(format!("{} events, {shown} shown, of {ids} ids", self.fragment.events));
        }
        match self.fragment.offers.by_offer().find(|(_, history)| history.decided > 1) {
            Some((offer, _)) => Err(format!("offer {offer} was decided once and counts more often")),
            None => Ok(()),
        }
    }
}

impl Base {
    /// Folds the next entry.
    pub fn apply(&mut self, entry: &Entry) -> Result<Change, String> {
        if entry.seq != self.cursor.seq + 1 {
            return Err(format!("entry {} is applied after {}", entry.seq, self.cursor.seq));
        }
        let digest = Change::digest(&entry.bytes).map_err(|error| error.to_string())?;
        let change = Change::decode(&entry.bytes).map_err(|error| error.to_string())?;
        let fragment = change.fragment().ok_or("no fragment")?.clone();
        let row = self.rows.entry(fragment).or_default();
        Arc::make_mut(row).fold(&change, entry.seq);
        row.check()?;
        self.cursor.seq = entry.seq;
        self.checksum = self.checksum.wrapping_add(mix(entry.seq, digest.envelope));
        let applied = self.applied.entry(entry.origin).or_default();
        *applied = entry.number.max(*applied);
        Ok(change)
    }

    pub fn holds(&self, fragment: &Identifier, id: &[u8; 16]) -> bool {
        self.rows.get(fragment).is_some_and(|row| row.ids.contains_key(id))
    }

    pub fn holds_offer(&self, fragment: &Identifier, offer: &str) -> bool {
        let decided = |row: &Arc<Row>| row.fragment.offers.get(offer).decided > 0;
        self.rows.get(fragment).is_some_and(decided)
    }

    /// Over all that it holds.
    pub fn hash(&self) -> u64 {
        let mut hash = mix(self.cursor.seq, u64::from(self.cursor.epoch)) ^ self.checksum;
        for (fragment, row) in &self.rows {
            let bytes = postcard::to_stdvec(&(fragment.as_str(), &row.fragment, &row.ids)).expect("plain data");
            hash = mix(hash, xxhash_rust::xxh3::xxh3_64(&bytes));
        }
        for (origin, number) in &self.applied {
            hash = mix(hash, mix(origin.0, *number));
        }
        hash
    }
}
