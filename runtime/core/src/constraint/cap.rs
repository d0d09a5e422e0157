//! Frequency caps: whether an offer has been decided, shown, clicked or accepted often enough.
//!
//! A cap stands at an offer, a category, a campaign, a channel or over everything, and counts one person under all identifiers, their household, or everyone.
//! Prepared at load ([`Caps`]): caps that count the same share a counter. A decision goes once through what happened with the person ([`Caps::count`]), counts
//! each counter there, and then only compares ([`Standing`]): an offer that nothing happened with has no count of its own. What an answer takes in is counted
//! as it is taken.
//!
//! An event leaves a sliding window `(t − w, t]` at its own time plus w; a decision, which is known by its minute, at the end of that minute plus w. Calendar
//! windows begin with the day, week, month or year of the business. What has happened counts, also where another clock says that it is yet to come.
//! Counts are never too low; up to [`EXACT_MAX`](crate::offers::track::EXACT_MAX) they are exact (see [`crate::offers::track`]).

use std::fmt;
use std::ops::Range;

use super::{Index, Terms};
use crate::catalog::terms::{Cap, CapWindow, Counts, Per};
use crate::offers::{Act, History, Offers};
use crate::time::{BusinessTime, Period};
use crate::value::Timestamp;

/// What a cap caps; by position in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum Scope {
    Offer(usize),
    Category(usize),
    Campaign(usize),
    Channel(usize),
    Overall,
}

/// A cap in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it caps.
    pub scope: Scope,
    /// The cap.
    pub cap: Cap,
    counter: u32,
}

/// A rule, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// What several rules count in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counter {
    scope: Scope,
    per: Per,
    act: Act,
    window: u32,
    /// Up to which it is counted: the highest of its rules.
    enough: u32,
}

/// All caps of a catalogue, prepared.
#[derive(Clone, Debug, Default)]
pub struct Caps {
    /// Those of offers behind all others.
    rules: Vec<Rule>,
    counters: Vec<Counter>,
    windows: Vec<CapWindow>,
    /// By offer.
    offers: Vec<OfferCaps>,
    /// The counters and rules that offers have in common, one offer after the other.
    shared_counters: Vec<u32>,
    shared_rules: Vec<u32>,
    /// By channel: its name, and its counters and rules.
    channels: Vec<(String, Range<u32>, Range<u32>)>,
    overall: (Range<u32>, Range<u32>),
    /// Rules from here on are of single offers.
    own_from: u32,
    /// Rules of single offers that count over everyone, with their offers, ascending.
    own_budgets: Vec<(u32, RuleId)>,
    per_household: bool,
}

#[derive(Clone, Debug, Default)]
struct OfferCaps {
    transactional: bool,
    /// Into [`Caps::shared_counters`] and [`Caps::shared_rules`].
    shared_counters: Range<u32>,
    shared_rules: Range<u32>,
    /// Of its own.
    counters: Range<u32>,
    rules: Range<u32>,
}

/// What happens where a cap counts.
pub(super) fn act_of(counts: Counts) -> Act {
    match counts {
        Counts::Decided => Act::Decided,
        Counts::Shown => Act::Shown,
        Counts::Clicked => Act::Clicked,
        Counts::Accepted => Act::Accepted,
    }
}

fn indices(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

impl Caps {
    /// Prepares the caps of a catalogue.
    pub fn new(terms: &Terms<'_>) -> Self {
        let mut caps = Self::default();
        let part = |caps: &mut Self, scope: Scope, of: &[Cap]| {
            let begun = (caps.counters.len() as u32, caps.rules.len() as u32);
            of.iter().for_each(|cap| caps.add(scope, *cap, begun.0));
            (begun.0..caps.counters.len() as u32, begun.1..caps.rules.len() as u32)
        };
        caps.overall = part(&mut caps, Scope::Overall, terms.overall);
        for (index, (name, of)) in terms.channels.iter().enumerate() {
            let (counters, rules) = part(&mut caps, Scope::Channel(index), of);
            caps.channels.push(((*name).to_owned(), counters, rules));
        }
        let categories: Vec<_> = terms
            .categories
            .iter()
            .enumerate()
            .map(|(index, of)| part(&mut caps, Scope::Category(index), of))
            .collect();
        let campaigns: Vec<_> =
            terms.campaigns.iter().enumerate().map(|(index, of)| part(&mut caps, Scope::Campaign(index), of)).collect();
        caps.own_from = caps.rules.len() as u32;
        for (index, offer) in terms.offers.iter().enumerate() {
            let mut own = OfferCaps { transactional: offer.transactional, ..OfferCaps::default() };
            if !offer.transactional {
                let category = offer.category.and_then(|category| categories.get(category));
                let campaign = offer.campaign.and_then(|campaign| campaigns.get(campaign));
                let begun = (caps.shared_counters.len() as u32, caps.shared_rules.len() as u32);
                for (counters, rules) in category.into_iter().chain(campaign) {
                    caps.shared_counters.extend(counters.clone());
                    caps.shared_rules.extend(rules.clone());
                }
                own.shared_counters = begun.0..caps.shared_counters.len() as u32;
                own.shared_rules = begun.1..caps.shared_rules.len() as u32;
                (own.counters, own.rules) = part(&mut caps, Scope::Offer(index), offer.caps);
            }
            caps.offers.push(own);
        }
        for (rule, id) in caps.rules.iter().zip(0..).skip(caps.own_from as usize) {
            if let (Per::Everyone, Scope::Offer(offer)) = (rule.cap.per, rule.scope) {
                caps.own_budgets.push((offer as u32, RuleId(id)));
            }
        }
        caps.per_household = caps.counters.iter().any(|counter| counter.per == Per::Household);
        caps
    }

    fn add(&mut self, scope: Scope, cap: Cap, begun: u32) {
        let window = self.windows.iter().position(|window| *window == cap.window).unwrap_or_else(|| {
            self.windows.push(cap.window);
            self.windows.len() - 1
        }) as u32;
        let (act, enough) = (act_of(cap.counts), most(&cap));
        let new = Counter { scope, per: cap.per, act, window, enough };
        let same = |known: &Counter| (known.per, known.act, known.window) == (new.per, new.act, new.window);
        let found = self.counters[begun as usize..].iter().position(same);
        let counter = found.map_or(self.counters.len(), |found| begun as usize + found);
        match self.counters.get_mut(counter) {
            Some(known) => known.enough = known.enough.max(enough),
            None => self.counters.push(new),
        }
        self.rules.push(Rule { scope, cap, counter: counter as u32 });
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any counts over a household.
    pub fn any_per_household(&self) -> bool {
        self.per_household
    }

    /// A rule.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.0 as usize)
    }

    /// The budgets: rules that count over everyone.
    pub fn budgets(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        (0..).map(RuleId).zip(&self.rules).filter(|(_, rule)| rule.cap.per == Per::Everyone)
    }

    /// The rules that an offer is held to on a channel.
    pub fn rules_of(&self, offer: usize, channel: usize) -> impl Iterator<Item = RuleId> + '_ {
        let own = self.offers.get(offer).filter(|own| !own.transactional);
        let common = own.map(|_| self.overall.1.clone()).into_iter();
        let channel = own.and_then(|_| self.channels.get(channel)).map(|(_, _, rules)| rules.clone());
        let shared = own.map_or(&[][..], |own| &self.shared_rules[indices(&own.shared_rules)]);
        let of_offer = own.map(|own| own.rules.clone());
        common.chain(channel).flatten().chain(shared.iter().copied()).chain(of_offer.into_iter().flatten()).map(RuleId)
    }
}

/// At most this many; beyond what is counted there is no limit.
fn most(cap: &Cap) -> u32 {
    u32::try_from(cap.most).unwrap_or(u32::MAX)
}

/// When windows begin at an instant.
#[derive(Clone, Debug)]
struct Begun {
    /// By window: of decisions, of events; none: everything counts.
    bounds: Vec<Option<(Timestamp, Timestamp)>>,
}

impl Begun {
    fn of(windows: &[CapWindow], at: Timestamp, time: &BusinessTime) -> Self {
        let bound = |window: &CapWindow| match window {
            CapWindow::Sliding(ms) => Some((Act::Decided.bound(at, *ms), Act::Shown.bound(at, *ms))),
            CapWindow::Calendar(period) => {
                let begun = time.begun(*period, at);
                Some((begun, begun))
            }
            CapWindow::Lifetime => None,
        };
        Self { bounds: windows.iter().map(bound).collect() }
    }

    #[inline]
    fn count(&self, counter: &Counter, line: &History<'_>, enough: u32) -> u32 {
        match self.bounds.get(counter.window as usize).copied().flatten() {
            None => line.total(counter.act),
            Some((decided, event)) => {
                let bound = if counter.act == Act::Decided { decided } else { event };
                line.count_after(counter.act, bound, enough)
            }
        }
    }
}

/// Whose history a decision is held to.
#[derive(Clone, Copy, Debug)]
pub struct Past<'p> {
    /// The person's, under all identifiers, with what is not in the log yet.
    pub person: &'p Offers,
    /// Their household's, likewise; the person's own where they belong to none.
    pub household: &'p Offers,
}

/// How a person stands to all caps at one instant, for offers on one channel.
#[derive(Clone, Debug)]
pub struct Standing<'c> {
    caps: &'c Caps,
    channel: usize,
    /// By rule that is not of a single offer: how many more there may be.
    left: Vec<u32>,
    /// Offers of which a rule of their own is reached, ascending, with the first such rule.
    reached: Vec<(u32, RuleId)>,
    /// Budgets of single offers that are spent, ascending by offer.
    spent: Vec<(u32, RuleId)>,
}

impl Caps {
    /// Counts, once for a whole decision. `budget` says how much is left here of a rule over everyone.
    pub fn count<'c>(
        &'c self,
        index: &Index,
        past: Past<'_>,
        channel: usize,
        (at, time): (Timestamp, &BusinessTime),
        budget: impl Fn(RuleId) -> u64,
    ) -> Standing<'c> {
        let begun = Begun::of(&self.windows, at, time);
        let mut counts = vec![0_u32; self.shared_end()];
        let mut reached = Vec::new();
        self.pass(index, past.person, Per::Person, channel, &begun, &mut counts, &mut reached);
        if self.per_household {
            self.pass(index, past.household, Per::Household, channel, &begun, &mut counts, &mut reached);
            reached.sort_unstable();
        }
        let left = self.rules[..self.own_from as usize].iter().zip(0..).map(|(rule, id)| match rule.cap.per {
            Per::Everyone => u32::try_from(budget(RuleId(id))).unwrap_or(u32::MAX),
            Per::Person | Per::Household => most(&rule.cap).saturating_sub(counts[rule.counter as usize]),
        });
        let left = left.collect();
        let spent = self.own_budgets.iter().filter(|(_, rule)| budget(*rule) == 0).copied().collect();
        Standing { caps: self, channel, left, reached, spent }
    }

    /// The counters before those of single offers.
    fn shared_end(&self) -> usize {
        self.rules.get(self.own_from as usize).map_or(self.counters.len(), |first| first.counter as usize)
    }

    #[allow(clippy::too_many_arguments)] // one place calls it
    fn pass(
        &self,
        index: &Index,
        offers: &Offers,
        per: Per,
        channel: usize,
        begun: &Begun,
        counts: &mut [u32],
        reached: &mut Vec<(u32, RuleId)>,
    ) {
        let add = |counts: &mut [u32], counter: usize, line: &History<'_>| {
            let Some((of, count)) = self.counters.get(counter).zip(counts.get_mut(counter)) else { return };
            if of.per == per && *count < of.enough {
                *count = count.saturating_add(begun.count(of, line, of.enough - *count));
            }
        };
        let on_channel = self.channels.get(channel);
        // The counts of one offer's own counters, over its channels.
        let mut own: Vec<u32> = Vec::new();
        let mut lines = offers.iter().peekable();
        while let Some(line) = lines.next() {
            let position = index.position(line.offer());
            let of_offer = position.and_then(|position| self.offers.get(position));
            if of_offer.is_some_and(|of_offer| of_offer.transactional) {
                continue;
            }
            indices(&self.overall.0).for_each(|counter| add(counts, counter, &line));
            if let Some((_, counters, _)) = on_channel.filter(|(name, ..)| name == line.channel()) {
                indices(counters).for_each(|counter| add(counts, counter, &line));
            }
            let (Some(position), Some(of_offer)) = (position, of_offer) else { continue };
            for counter in &self.shared_counters[indices(&of_offer.shared_counters)] {
                add(counts, *counter as usize, &line);
            }
            if of_offer.counters.is_empty() {
                continue;
            }
            own.resize(of_offer.counters.len(), 0);
            for (counter, count) in self.counters[indices(&of_offer.counters)].iter().zip(&mut own) {
                if counter.per == per && *count < counter.enough {
                    *count = count.saturating_add(begun.count(counter, &line, counter.enough - *count));
                }
            }
            if lines.peek().is_none_or(|next| next.offer() != line.offer()) {
                let full = |rule: &Rule| {
                    rule.cap.per == per && own[(rule.counter - of_offer.counters.start) as usize] >= most(&rule.cap)
                };
                let full = self.rules[indices(&of_offer.rules)].iter().position(full);
                reached.extend(full.map(|rule| (position as u32, RuleId(of_offer.rules.start + rule as u32))));
                own.clear();
            }
        }
        reached.sort_unstable();
    }

    /// When a rule that is reached no longer is, if nothing else happens; none where it stays so, or where only the spending of others can tell.
    pub fn free_at(
        &self,
        id: RuleId,
        index: &Index,
        past: Past<'_>,
        (at, time): (Timestamp, &BusinessTime),
    ) -> Option<Timestamp> {
        let rule = self.rule(id)?;
        let offers = match rule.cap.per {
            Per::Person => past.person,
            Per::Household => past.household,
            Per::Everyone => {
                let CapWindow::Calendar(period) = rule.cap.window else { return None };
                return Some(time.next(period, at));
            }
        };
        match rule.cap.window {
            CapWindow::Lifetime => None,
            CapWindow::Calendar(period) => Some(time.next(period, at)),
            CapWindow::Sliding(ms) => {
                let act = act_of(rule.cap.counts);
                let counts = |line: &History<'_>| self.counts(rule.scope, index, line);
                let mut ends: Vec<_> = offers.iter().filter(counts).flat_map(|line| line.ends(act)).collect();
                ends.sort_unstable_by_key(|(end, _)| std::cmp::Reverse(*end));
                let mut count = 0_u64;
                let last = ends.into_iter().find(|(_, times)| {
                    count += u64::from(*times);
                    count >= rule.cap.most
                });
                last.map(|(end, _)| act.leaves(end, ms))
            }
        }
    }

    /// Whether a scope counts what happened with an offer on a channel.
    fn counts(&self, scope: Scope, index: &Index, line: &History<'_>) -> bool {
        let position = index.position(line.offer());
        let of_offer = position.and_then(|position| self.offers.get(position));
        if of_offer.is_some_and(|of_offer| of_offer.transactional) {
            return false;
        }
        let shares = || {
            let rules = of_offer.map_or(&[][..], |of_offer| &self.shared_rules[indices(&of_offer.shared_rules)]);
            rules.iter().any(|rule| self.rules[*rule as usize].scope == scope)
        };
        match scope {
            Scope::Overall => true,
            Scope::Channel(channel) => self.channels.get(channel).is_some_and(|(name, ..)| name == line.channel()),
            Scope::Offer(offer) => position == Some(offer),
            Scope::Category(_) | Scope::Campaign(_) => shares(),
        }
    }
}

impl Standing<'_> {
    /// Whether an offer may be chosen once more; else the rule that holds it back. A service message always may.
    #[inline]
    pub fn check(&self, offer: usize) -> Result<(), RuleId> {
        let Some(own) = self.caps.offers.get(offer).filter(|own| !own.transactional) else { return Ok(()) };
        let full = |rule: &u32| self.left.get(*rule as usize) == Some(&0);
        let channel = self.caps.channels.get(self.channel).map(|(_, _, rules)| rules.clone());
        let common = self.caps.overall.1.clone().chain(channel.into_iter().flatten());
        let shared = self.caps.shared_rules[indices(&own.shared_rules)].iter().copied();
        if let Some(rule) = common.chain(shared).find(|rule| full(rule)) {
            return Err(RuleId(rule));
        }
        for of_single in [&self.reached, &self.spent] {
            if let Ok(found) = of_single.binary_search_by_key(&(offer as u32), |(of, _)| *of) {
                return Err(of_single[found].1);
            }
        }
        Ok(())
    }

    /// Counts an offer that was chosen: an answer must not go over a cap by itself.
    pub fn take(&mut self, offer: usize) {
        let Some(own) = self.caps.offers.get(offer).filter(|own| !own.transactional) else { return };
        let channel = self.caps.channels.get(self.channel).map(|(_, _, rules)| rules.clone());
        let common = self.caps.overall.1.clone().chain(channel.into_iter().flatten());
        let shared = self.caps.shared_rules[indices(&own.shared_rules)].iter().copied();
        for rule in common.chain(shared) {
            let decided = self.caps.rules.get(rule as usize).is_some_and(|rule| rule.cap.counts == Counts::Decided);
            if let Some(left) = self.left.get_mut(rule as usize).filter(|_| decided) {
                *left = left.saturating_sub(1);
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cap { per, counts, most, window } = self.cap;
        let counts = match counts {
            Counts::Decided => "decided",
            Counts::Shown => "shown",
            Counts::Clicked => "clicked",
            Counts::Accepted => "accepted",
        };
        let per = match per {
            Per::Person => "person",
            Per::Household => "household",
            Per::Everyone => "everyone",
        };
        write!(out, "at most {most} {counts} per {per}")?;
        match window {
            CapWindow::Sliding(ms) => write!(out, " in {}", crate::aggregate::Window::Sliding(ms)),
            CapWindow::Calendar(period) => write!(out, " in a {}", Period::name(period)),
            CapWindow::Lifetime => write!(out, " ever"),
        }
    }
}

#[cfg(test)]
#[path = "cap_tests.rs"]
mod tests;
