//! Budgets as decisions read them: what is left at this edge of caps over everyone, and what it spends. The arithmetic, and how far edges together may go over, stand in
//! `selvedge_core::constraint::budget`.
//!
//! A decision looks at what is left and takes its part in one step ([`Budgets::spend`]); where somebody was faster it decides anew. About every second [`renew`] brings each purse
//! up to what everyone has spent: what is in the bases of the shards that are held, what is pending on them, and what was decided a moment ago, each once; and of other shards
//! what the centre says. Between edges the centre says how many there are; one that does not hear it lives on what it had.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use compact_str::CompactString;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use selvedge_core::catalog::Catalog;
use selvedge_core::catalog::terms::Counts;
use selvedge_core::constraint::Terms;
use selvedge_core::constraint::budget::{Budget, Purse, Word, budgets, scale};
use selvedge_core::constraint::cap::{Caps, RuleId, Scope};
use selvedge_core::identity::{SHARDS, ShardId};
use selvedge_core::offers::Act;
use selvedge_core::offers::everyone::{Scale, Tally};
use selvedge_core::time::BusinessTime;
use selvedge_core::value::Timestamp;
use selvedge_shard::{ShardError, Shards};

use crate::clock;
use crate::edge::Edge;
use crate::policy;
use crate::sync::wire::Responses;

/// The purses of every budget that any catalogue of this process has had, so that a catalogue that takes another's place spends on where that left off.
#[derive(Default)]
pub struct Ledger(Mutex<Purses>);

#[derive(Default)]
struct Purses {
    by_key: HashMap<CompactString, usize>,
    kept: Vec<Kept>,
}

/// One purse.
#[derive(Default)]
struct Kept {
    purse: Purse,
    /// What was spent on visitors of each shard: the purse's own, by where it is known.
    own: Vec<u64>,
    /// Whether there was a word yet. Nothing is spent before.
    heard: bool,
    /// Which exchange with the centre the word came of.
    exchange: Option<u64>,
}

/// The budgets of one catalogue.
#[derive(Default)]
pub struct Budgets {
    ledger: Arc<Ledger>,
    budgets: Vec<Budget>,
    /// By position of the budget, among those in the ledger.
    purses: Vec<usize>,
    by_rule: FxHashMap<RuleId, usize>,
    /// By what time tallies must be kept for them.
    scale: Option<Arc<Scale>>,
}

/// What an edge hears of the others.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// How many edges there are, and the place of this one.
    pub edges: u32,
    pub rank: u32,
    /// Moves with each exchange; none where there is nobody to exchange with.
    pub exchange: Option<u64>,
    /// What was spent in the shards that this edge does not hold.
    pub elsewhere: HashMap<CompactString, u64>,
    /// How often offers were taken up and shown there, by offer and channel.
    pub responses: Vec<((CompactString, CompactString), Responses)>,
}

/// What of some budgets a decision would spend, by position.
pub type Needs = Vec<(usize, u64)>;

/// What a scope is called.
fn name(catalog: &Catalog, scope: Scope) -> String {
    match scope {
        Scope::Offer(at) => format!("offer:{}", catalog.offers[at].id),
        Scope::Category(at) => format!("category:{}", catalog.categories[at].name),
        Scope::Campaign(at) => format!("campaign:{}", catalog.campaigns[at].id),
        Scope::Channel(at) => format!("channel:{}", catalog.channels[at].name),
        Scope::Overall => "all".into(),
    }
}

impl Budgets {
    /// Those of a catalogue, with their purses.
    pub fn new(catalog: &Catalog, caps: &Caps, terms: &Terms<'_>, time: &BusinessTime, ledger: &Arc<Ledger>) -> Self {
        let budgets = budgets(caps, terms, |scope| name(catalog, scope));
        if budgets.is_empty() {
            return Self::default();
        }
        let mut purses = ledger.0.lock();
        let Purses { by_key, kept } = &mut *purses;
        let place = |budget: &Budget| {
            *by_key.entry(budget.key.clone()).or_insert_with(|| {
                kept.push(Kept { own: vec![0; usize::from(SHARDS)], ..Kept::default() });
                kept.len() - 1
            })
        };
        Self {
            purses: budgets.iter().map(place).collect(),
            by_rule: budgets.iter().map(|budget| budget.rule).zip(0..).collect(),
            scale: Some(Arc::new(scale(budgets.iter(), time.clone()))),
            ledger: Arc::clone(ledger),
            budgets,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.budgets.is_empty()
    }

    /// What is left of a rule, by what is left of each budget.
    pub fn of_rule(&self, rule: RuleId, left: &[u64]) -> u64 {
        self.by_rule.get(&rule).and_then(|at| left.get(*at)).copied().unwrap_or(u64::MAX)
    }

    /// What it takes of the budgets to choose these offers on a channel; each budget once, ascending.
    pub fn needs(&self, caps: &Caps, offers: impl Iterator<Item = usize>, channel: usize) -> Needs {
        let mut needs = Needs::new();
        if self.is_empty() {
            return needs;
        }
        for offer in offers {
            for rule in caps.rules_of(offer, channel) {
                let Some(at) = self.by_rule.get(&rule) else { continue };
                if self.budgets[*at].cap.counts != Counts::Decided {
                    continue;
                }
                match needs.iter_mut().find(|(of, _)| of == at) {
                    Some((_, count)) => *count += 1,
                    None => needs.push((*at, 1)),
                }
            }
        }
        needs
    }

    /// What is left of each budget here; nothing where there are none.
    pub fn left(&self) -> Vec<u64> {
        if self.is_empty() {
            return Vec::new();
        }
        let purses = self.ledger.0.lock();
        let left = |(budget, purse): (&Budget, &usize)| purses.kept[*purse].left(budget);
        self.budgets.iter().zip(&self.purses).map(left).collect()
    }

    /// Takes what a decision for a visitor of a shard needs, all of it; false where somebody was faster, and nothing is taken. The visitor's counts are held.
    pub fn spend(&self, needs: &Needs, shard: ShardId) -> bool {
        if needs.is_empty() {
            return true;
        }
        let mut purses = self.ledger.0.lock();
        let enough = |(at, count): &(usize, u64)| purses.kept[self.purses[*at]].left(&self.budgets[*at]) >= *count;
        if !needs.iter().all(enough) {
            return false;
        }
        for (at, count) in needs {
            let kept = &mut purses.kept[self.purses[*at]];
            kept.purse.spend(*count);
            if let Some(own) = kept.own.get_mut(usize::from(shard.0)) {
                *own += count;
            }
        }
        true
    }
}

impl Kept {
    fn left(&self, budget: &Budget) -> u64 {
        if self.heard { self.purse.left(budget.cap.most) } else { 0 }
    }
}

/// What was spent of each budget in some shards, for those who do not hold them. Blocks: the first time on the disk.
pub fn spent_in(
    shards: &Shards,
    which: impl Iterator<Item = ShardId>,
    budgets: &Budgets,
) -> Result<BTreeMap<CompactString, u64>, ShardError> {
    let Some(scale) = &budgets.scale else { return Ok(BTreeMap::new()) };
    let now = clock::now();
    let mut sums = Sums::new(budgets, now, &scale.time);
    for shard in which {
        shards.look(shard, scale, now, |still| sums.add_base(still.tally))?;
    }
    Ok(budgets.budgets.iter().map(|budget| budget.key.clone()).zip(sums.spent).collect())
}

/// Brings the purses of a catalogue that decides at an edge, or is about to, up to what everyone has spent. Blocks: the first time on the disk.
pub fn renew(edge: &Edge, budgets: &Budgets) -> Result<(), ShardError> {
    let Some(scale) = &budgets.scale else { return Ok(()) };
    let Some(peers) = peers(edge) else { return Ok(()) };
    // What was left is divided already by what was heard last: divided again it would be spent to the end, whatever others do.
    let is_due = |kept: &Kept| !kept.heard || peers.exchange.is_none() || kept.exchange != peers.exchange;
    let any_due = {
        let purses = budgets.ledger.0.lock();
        budgets.purses.iter().any(|purse| is_due(&purses.kept[*purse]))
    };
    if !any_due {
        return Ok(());
    }
    let now = clock::now();
    let mut sums = Sums::new(budgets, now, &scale.time);
    for shard in ShardId::all().filter(|shard| edge.shards.holds(*shard)) {
        edge.shards.look(shard, scale, now, |still| {
            // Nobody decides for this shard's visitors meanwhile, and nothing that was decided becomes a change.
            let held = edge.decided.hold_shard(shard);
            sums.add_base(still.tally);
            still.pending(|offer, channel, act, at, count| sums.add(offer, channel, act, at, count));
            held.each(|of| sums.add(&of.offer, &of.channel, Act::Decided, of.minute, of.count));
            let purses = budgets.ledger.0.lock();
            for (reported, purse) in sums.reported.iter_mut().zip(&budgets.purses) {
                *reported += purses.kept[*purse].own[usize::from(shard.0)];
            }
        })?;
    }
    let mut purses = budgets.ledger.0.lock();
    for (at, purse) in budgets.purses.iter().enumerate() {
        let kept = &mut purses.kept[*purse];
        if is_due(kept) {
            let elsewhere = peers.elsewhere.get(&budgets.budgets[at].key).copied().unwrap_or(0);
            let word = Word { spent: sums.spent[at] + elsewhere, edges: peers.edges, rank: peers.rank };
            kept.purse.told(word, sums.reported[at]);
            (kept.heard, kept.exchange) = (true, peers.exchange);
        }
    }
    Ok(())
}

/// The same before a catalogue takes the place of another, so that what it limits is known when it decides.
pub async fn prepare(edge: &Arc<Edge>, catalog: &Catalog) {
    let budgets = policy::budgets(catalog, &edge.plugins.schema().definitions, &edge.ledger);
    if budgets.is_empty() {
        return;
    }
    let edge = Arc::clone(edge);
    let renewed = tokio::task::spawn_blocking(move || renew(&edge, &budgets));
    if let Ok(Err(error)) = renewed.await {
        tracing::error!(%error, "what budgets have left is not known; nothing is spent of them for now");
    }
}

/// What is known of the others; none where that is nothing yet, or where what this edge holds of them is not up to date.
fn peers(edge: &Edge) -> Option<Peers> {
    match &edge.uplink {
        None => Some(Peers { edges: 1, ..Peers::default() }),
        Some(uplink) => uplink.peers(),
    }
}

/// What everyone has spent, as it is added up.
struct Sums<'b> {
    budgets: &'b Budgets,
    now: Timestamp,
    time: &'b BusinessTime,
    spent: Vec<u64>,
    /// What of it was spent here.
    reported: Vec<u64>,
}

impl<'b> Sums<'b> {
    fn new(budgets: &'b Budgets, now: Timestamp, time: &'b BusinessTime) -> Self {
        let zeros = vec![0; budgets.budgets.len()];
        Self { budgets, now, time, spent: zeros.clone(), reported: zeros }
    }

    fn add_base(&mut self, tally: &Tally) {
        for (sum, budget) in self.spent.iter_mut().zip(&self.budgets.budgets) {
            *sum += budget.spent(tally, self.now);
        }
    }

    /// What is in no base yet.
    fn add(&mut self, offer: &str, channel: &str, act: Act, at: Timestamp, count: u32) {
        for (sum, budget) in self.spent.iter_mut().zip(&self.budgets.budgets) {
            if budget.counts(offer, channel, act) && budget.is_within(at, self.now, self.time) {
                *sum += u64::from(count);
            }
        }
    }
}
