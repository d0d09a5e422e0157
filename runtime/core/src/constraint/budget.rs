//! Budgets: caps over everyone, kept by many edges that each know a little late what the others spend.
//!
//! Each edge reports what it has spent and is told, in the same exchange, what all together have ([`Word`]). Until the next one it may spend its share of
//! what was left: the rest divided by the number of edges. So as long as no edge has heard that a budget B is spent, and the latest words of n edges are
//! T₁ … Tₙ, no more than B + max(T) − mean(T) is spent in all, whatever each does with its share; and once one has heard it, no share is given any more. The
//! overshoot is at most what was spent between the exchange of the edge that was heard longest ago and the latest one, times (n − 1) ÷ n, and one for
//! each edge where the rest does not divide. One edge never overshoots; edges that exchange every second overshoot by no more than a second's spending; an
//! edge that is cut off by no more than its share of what was left when it was last heard.
//!
//! What counts towards a budget is read from the tally over everyone ([`Budget::spent`]), which each edge has of the shards that it holds.

use compact_str::{CompactString, format_compact};

use super::cap::{Caps, Rule, RuleId, Scope, act_of};
use super::{OfferTerms, Terms};
use crate::catalog::terms::{Cap, CapWindow};
use crate::offers::Act;
use crate::offers::everyone::{Row, Scale, Tally};
use crate::time::{BusinessTime, DAY_MS};
use crate::value::Timestamp;

const MINUTE_MS: i64 = 60_000;

/// What an edge was told of one budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// What all edges together have spent in this window, this one's last report included.
    pub spent: u64,
    /// How many edges there are; 0 counts as 1.
    pub edges: u32,
    /// The place of this one among them, from 0: what does not divide goes to the first.
    pub rank: u32,
}

/// One budget at one edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    word: Word,
    /// What this edge has spent in this window.
    own: u64,
    /// The part of it that is in the word.
    reported: u64,
}

impl Purse {
    /// What this edge has spent: what it reports.
    pub fn own(&self) -> u64 {
        self.own
    }

    /// What may still be spent here of a budget until the next word.
    pub fn left(&self, most: u64) -> u64 {
        let Word { spent, edges, rank } = self.word;
        let (rest, edges) = (most.saturating_sub(spent), u64::from(edges.max(1)));
        let share = rest / edges + u64::from(u64::from(rank) < rest % edges);
        share.saturating_sub(self.own.saturating_sub(self.reported))
    }

    /// Spends.
    pub fn spend(&mut self, count: u64) {
        self.own = self.own.saturating_add(count);
    }

    /// Takes a word in that answers a report of what was spent then.
    pub fn told(&mut self, word: Word, reported: u64) {
        (self.word, self.reported) = (word, reported);
    }
}

/// Sliding windows up to this length are counted by quarters of an hour, longer ones by days.
const QUARTERS_MS_MAX: i64 = 2 * DAY_MS;

/// A budget of a catalogue: a cap over everyone, and what of the tally counts towards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The rule that it is among the caps.
    pub rule: RuleId,
    /// The cap.
    pub cap: Cap,
    /// What it is called wherever it is told of: the same in every catalogue that has it, whatever its limit.
    pub key: CompactString,
    /// The offers that count; none: all.
    offers: Option<Vec<CompactString>>,
    /// Those that never do, ascending.
    except: Vec<CompactString>,
    /// The channel that counts; none: all.
    channel: Option<CompactString>,
}

/// The budgets of a catalogue, in the order of their rules. `name` says what a scope is called.
pub fn budgets(caps: &Caps, terms: &Terms<'_>, name: impl Fn(Scope) -> String) -> Vec<Budget> {
    let ids = |those: &dyn Fn(&OfferTerms<'_>) -> bool| -> Vec<CompactString> {
        let mut ids: Vec<_> = terms.offers.iter().filter(|of| those(of)).map(|of| of.id.into()).collect();
        ids.sort_unstable();
        ids
    };
    let of = |(rule, of): (RuleId, &Rule)| {
        let offers = match of.scope {
            Scope::Offer(offer) => Some(terms.offers.get(offer).map(|of| of.id.into()).into_iter().collect()),
            Scope::Category(category) => Some(ids(&|of| of.category == Some(category) && !of.transactional)),
            Scope::Campaign(campaign) => Some(ids(&|of| of.campaign == Some(campaign) && !of.transactional)),
            Scope::Channel(_) | Scope::Overall => None,
        };
        let channel = match of.scope {
            Scope::Channel(channel) => terms.channels.get(channel).map(|(name, _)| (*name).into()),
            _ => None,
        };
        let (cap, except) = (of.cap, if offers.is_none() { ids(&|of| of.transactional) } else { Vec::new() });
        Budget { rule, cap, key: key(&name(of.scope), &cap), offers, except, channel }
    };
    caps.budgets().map(of).collect()
}

fn key(scope: &str, cap: &Cap) -> CompactString {
    let counts = act_of(cap.counts).name();
    match cap.window {
        CapWindow::Sliding(ms) => format_compact!("{scope} {counts} {ms}ms"),
        CapWindow::Calendar(period) => format_compact!("{scope} {counts} {}", period.name()),
        CapWindow::Lifetime => format_compact!("{scope} {counts} ever"),
    }
}

/// By what time a tally must be kept for these budgets.
pub fn scale<'b>(budgets: impl Iterator<Item = &'b Budget>, time: BusinessTime) -> Scale {
    let mut scale = Scale::of_reports(time);
    for budget in budgets {
        match budget.cap.window {
            CapWindow::Lifetime => {}
            CapWindow::Calendar(period) => scale.days = scale.days.max(days(period.longest_ms())),
            CapWindow::Sliding(ms) if ms <= QUARTERS_MS_MAX => scale.quarters_ms = scale.quarters_ms.max(ms),
            CapWindow::Sliding(ms) => scale.days = scale.days.max(days(ms)),
        }
    }
    scale
}

/// The days that any part of so many milliseconds may touch.
fn days(ms: i64) -> u32 {
    u32::try_from(ms / DAY_MS + 2).unwrap_or(u32::MAX)
}

impl Budget {
    /// Whether what happened with an offer on a channel counts.
    pub fn counts(&self, offer: &str, channel: &str, act: Act) -> bool {
        act == act_of(self.cap.counts) && self.takes(offer, channel)
    }

    fn takes(&self, offer: &str, channel: &str) -> bool {
        let has = |ids: &[CompactString]| ids.binary_search_by(|id| id.as_str().cmp(offer)).is_ok();
        self.channel.as_ref().is_none_or(|of| of == channel)
            && self.offers.as_ref().is_none_or(|ids| has(ids))
            && !has(&self.except)
    }

    /// Whether what happened at an instant is within the window at another one.
    pub fn is_within(&self, at: Timestamp, now: Timestamp, time: &BusinessTime) -> bool {
        match self.cap.window {
            CapWindow::Lifetime => true,
            CapWindow::Calendar(period) => at >= time.begun(period, now),
            CapWindow::Sliding(ms) => at.plus_ms(MINUTE_MS) > now.plus_ms(-ms),
        }
    }

    /// What of a tally counts at an instant. Never too low: a quarter of an hour, or a day, counts as long as any of it may be within.
    pub fn spent(&self, tally: &Tally, now: Timestamp) -> u64 {
        let act = act_of(self.cap.counts);
        let of_row = |row: &Row| match self.cap.window {
            CapWindow::Lifetime => row.total.of(act),
            CapWindow::Calendar(period) => row.days_from(act, tally.scale().time.begun(period, now)),
            CapWindow::Sliding(ms) if ms <= QUARTERS_MS_MAX => row.quarters_after(act, now.plus_ms(-ms)),
            CapWindow::Sliding(ms) => row.days_after(act, now.plus_ms(-ms)),
        };
        match &self.offers {
            Some(ids) => {
                let rows = ids.iter().flat_map(|id| tally.of(id));
                let rows = rows.filter(|(channel, _)| self.channel.as_ref().is_none_or(|of| of == *channel));
                rows.map(|(_, row)| of_row(row)).sum()
            }
            None => {
                let rows = tally.rows().filter(|(offer, channel, _)| self.takes(offer, channel));
                rows.map(|(_, _, row)| of_row(row)).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::terms::{Counts, Per};
    use crate::offers::Offers;
    use crate::time::Period;

    const HOUR_MS: i64 = 3_600_000;

    fn over_everyone(counts: Counts, most: u64, window: CapWindow) -> Cap {
        Cap { per: Per::Everyone, counts, most, window }
    }

    #[test]
    fn a_budget_counts_what_it_stands_at_within_its_window() {
        let own = [
            over_everyone(Counts::Decided, 5, CapWindow::Lifetime),
            over_everyone(Counts::Decided, 5, CapWindow::Sliding(HOUR_MS)),
            over_everyone(Counts::Shown, 5, CapWindow::Calendar(Period::Day)),
            over_everyone(Counts::Decided, 5, CapWindow::Sliding(7 * DAY_MS)),
        ];
        let overall = [over_everyone(Counts::Decided, 9, CapWindow::Lifetime)];
        let of_category = [over_everyone(Counts::Decided, 9, CapWindow::Calendar(Period::Year))];
        let on_web = [over_everyone(Counts::Shown, 9, CapWindow::Lifetime)];
        let kettle = OfferTerms { id: "kettle", category: Some(0), caps: &own, ..OfferTerms::default() };
        let rose = OfferTerms { id: "rose", category: Some(0), ..OfferTerms::default() };
        let notice = OfferTerms { id: "notice", transactional: true, category: Some(0), ..OfferTerms::default() };
        let terms = Terms {
            offers: vec![kettle, rose, notice],
            categories: vec![&of_category],
            channels: vec![("web", &on_web)],
            overall: &overall,
            ..Terms::default()
        };
        let budgets = budgets(&Caps::new(&terms), &terms, |scope| format!("{scope:?}"));
        let keys: Vec<&str> = budgets.iter().map(|budget| budget.key.as_str()).collect();
        assert_eq!(keys[..3], ["Overall decided ever", "Channel(0) shown ever", "Category(0) decided year"]);
        assert_eq!(keys[3..5], ["Offer(0) decided ever", "Offer(0) decided 3600000ms"]);
        let time = BusinessTime::new("Europe/London").expect("a zone");
        let scale = Arc::new(scale(budgets.iter(), time.clone()));
        assert!(scale.days > 365 && scale.quarters_ms == HOUR_MS, "{scale:?}");

        let now = Timestamp(1_000 * DAY_MS + 12 * HOUR_MS);
        let mut offers = Offers::default();
        for (offer, channel, act, ago) in [
            ("kettle", "web", Act::Decided, 0),
            ("kettle", "email", Act::Decided, 2 * HOUR_MS),
            ("kettle", "web", Act::Decided, 3 * DAY_MS),
            ("kettle", "web", Act::Decided, 900 * DAY_MS),
            ("kettle", "web", Act::Shown, HOUR_MS),
            ("kettle", "email", Act::Shown, 14 * HOUR_MS),
            ("rose", "web", Act::Decided, 0),
            ("notice", "web", Act::Decided, 0),
            ("gone", "web", Act::Decided, 0),
        ] {
            offers.record(&offer.into(), &channel.into(), act, now.plus_ms(-ago), 1);
        }
        let mut tally = Tally::new(scale, now);
        tally.change(&Offers::default(), &offers);
        let spent: Vec<u64> = budgets.iter().map(|budget| budget.spent(&tally, now)).collect();
        assert_eq!(spent, [6, 1, 4, 4, 1, 1, 3]);
        // The quarter of an hour in which it was decided counts as a whole.
        let later = |ms: i64| budgets[4].spent(&tally, now.plus_ms(ms));
        assert_eq!((later(HOUR_MS + 14 * MINUTE_MS), later(HOUR_MS + 15 * MINUTE_MS)), (1, 0));
        assert!(budgets[5].is_within(now, now, &time) && !budgets[5].is_within(now.plus_ms(-DAY_MS), now, &time));
        assert!(budgets[4].counts("kettle", "email", Act::Decided) && !budgets[4].counts("rose", "web", Act::Decided));
        assert!(budgets[0].counts("gone", "x", Act::Decided) && !budgets[0].counts("notice", "web", Act::Decided));
    }

    #[test]
    fn one_edge_spends_all_of_it_and_no_more() {
        let mut purse = Purse::default();
        assert_eq!(purse.left(3), 3);
        (0..3).for_each(|_| purse.spend(1));
        assert_eq!((purse.left(3), purse.left(4)), (0, 1));
        purse.told(Word { spent: 3, edges: 1, rank: 0 }, 3);
        assert_eq!((purse.left(3), purse.left(4)), (0, 1));
    }

    proptest! {
        #[test]
        fn the_overshoot_is_within_what_is_said(
            most in 0_u64..200,
            edges in 1_usize..5,
            steps in proptest::collection::vec((0_usize..5, 0_u64..40, any::<bool>()), 0..200),
        ) {
            let word = |spent: u64, rank: usize| Word { spent, edges: edges as u32, rank: rank as u32 };
            let mut purses = vec![Purse::default(); edges];
            (0..edges).for_each(|rank| purses[rank].told(word(0, rank), 0));
            let mut reports = vec![0_u64; edges];
            let mut words = vec![0_u64; edges];
            let mut over = 0.0;
            for (edge, wants, exchanges) in steps {
                let edge = edge % edges;
                let spends = wants.min(purses[edge].left(most));
                purses[edge].spend(spends);
                let spent: u64 = purses.iter().map(Purse::own).sum();
                let latest = words.iter().copied().max().unwrap_or(0);
                if latest <= most {
                    over = words.iter().map(|known| latest - known).sum::<u64>() as f64 / edges as f64;
                }
                prop_assert!(spends == 0 || spent as f64 <= most as f64 + over + edges as f64, "{spent} of {most}, {over}");
                if edges == 1 {
                    prop_assert!(spent <= most);
                }
                if exchanges {
                    reports[edge] = purses[edge].own();
                    words[edge] = reports.iter().sum();
                    let reported = purses[edge].own();
                    purses[edge].told(word(words[edge], edge), reported);
                }
            }
        }
    }
}
