use proptest::prelude::*;

use super::*;
use crate::change::DecidedOffer;
use crate::constraint::OfferTerms;
use crate::time::DAY_MS;

const HOUR_MS: i64 = DAY_MS / 24;
const IDS: [&str; 6] = ["a", "b", "c", "d", "service", "gone"];
const CHANNELS: [&str; 2] = ["web", "email"];

fn cap(counts: Counts, most: u64, window: CapWindow) -> Cap {
    Cap { per: Per::Person, counts, most, window }
}

/// Caps by scope. Offers `a`, `b` are of category 0, `c` of 1; `b` and `c` of campaign 0; `service` is a service message, `gone` in no catalogue.
#[derive(Clone, Debug, Default)]
struct Plan {
    overall: Vec<Cap>,
    channels: [Vec<Cap>; 2],
    categories: [Vec<Cap>; 2],
    campaign: Vec<Cap>,
    own: [Vec<Cap>; 4],
}

const CATEGORIES: [Option<usize>; 5] = [Some(0), Some(0), Some(1), None, Some(0)];
const CAMPAIGNS: [Option<usize>; 5] = [None, Some(0), Some(0), None, None];

impl Plan {
    fn terms(&self) -> Terms<'_> {
        let offer = |index: usize| OfferTerms {
            id: IDS[index],
            category: CATEGORIES[index],
            campaign: CAMPAIGNS[index],
            caps: self.own.get(index).map_or(&[], Vec::as_slice),
            transactional: index == 4,
            ..OfferTerms::default()
        };
        Terms {
            offers: (0..5).map(offer).collect(),
            categories: self.categories.iter().map(Vec::as_slice).collect(),
            campaigns: vec![&self.campaign],
            channels: CHANNELS.into_iter().zip(self.channels.iter().map(Vec::as_slice)).collect(),
            overall: &self.overall,
        }
    }

    fn caps_of(&self, offer: usize, channel: usize) -> Vec<(Scope, Cap)> {
        let mut caps = Vec::new();
        let mut add = |scope: Scope, of: &[Cap]| caps.extend(of.iter().map(|cap| (scope, *cap)));
        add(Scope::Overall, &self.overall);
        add(Scope::Channel(channel), &self.channels[channel]);
        CATEGORIES[offer].iter().for_each(|category| add(Scope::Category(*category), &self.categories[*category]));
        CAMPAIGNS[offer].iter().for_each(|campaign| add(Scope::Campaign(*campaign), &self.campaign));
        add(Scope::Offer(offer), &self.own[offer]);
        caps
    }
}

/// Something that happened: the offer, the channel, what, when.
type Told = (usize, usize, Act, i64);

fn history(told: &[Told]) -> Offers {
    let mut offers = Offers::default();
    for (offer, channel, act, at) in told {
        let (offer, channel, at) = (IDS[*offer].into(), CHANNELS[*channel].into(), Timestamp(*at));
        match act {
            Act::Decided => {
                offers.decide(&DecidedOffer { offer, channel, minute: crate::offers::minute_of(at), count: 1 })
            }
            act => offers.record(&offer, &channel, *act, at, 1),
        }
    }
    offers
}

/// Counts by going through everything that happened.
fn naive(told: &[Told], scope: Scope, cap: &Cap, at: i64, time: &BusinessTime) -> u64 {
    let within = |(offer, channel, act, when): &&Told| {
        let in_scope = match scope {
            Scope::Overall => true,
            Scope::Channel(of) => *channel == of,
            Scope::Offer(of) => *offer == of,
            Scope::Category(of) => CATEGORIES.get(*offer).copied().flatten() == Some(of),
            Scope::Campaign(of) => CAMPAIGNS.get(*offer).copied().flatten() == Some(of),
        };
        // Of a decision only its minute is known.
        let (first, last) = if *act == Act::Decided {
            (when - when.rem_euclid(60_000), when - when.rem_euclid(60_000) + 60_000)
        } else {
            (*when, *when)
        };
        let in_window = match cap.window {
            CapWindow::Lifetime => true,
            CapWindow::Sliding(ms) => last > at - ms,
            CapWindow::Calendar(period) => first >= time.begun(period, Timestamp(at)).0,
        };
        *act == act_of(cap.counts) && *offer != 4 && in_scope && in_window
    };
    told.iter().filter(within).count() as u64
}

fn london() -> BusinessTime {
    BusinessTime::new("Europe/London").expect("a zone")
}

fn check(plan: &Plan, told: &[Told], channel: usize, at: i64) {
    let time = london();
    let (caps, index) = (Caps::new(&plan.terms()), Index::new(IDS[..5].iter().copied()));
    let offers = history(told);
    let past = Past { person: &offers, household: &offers };
    let moment = (Timestamp(at), &time);
    let standing = caps.count(&index, past, channel, moment, |_| u64::MAX);
    for offer in 0..4 {
        let reached = |at: i64| {
            plan.caps_of(offer, channel).into_iter().any(|(scope, cap)| naive(told, scope, &cap, at, &time) >= cap.most)
        };
        let verdict = standing.check(offer);
        assert_eq!(verdict.is_err(), reached(at), "offer {offer}: {verdict:?}");
        let Err(rule) = verdict else { continue };
        let Rule { scope, cap, .. } = *caps.rule(rule).expect("a rule");
        assert!(caps.rules_of(offer, channel).any(|of| of == rule));
        assert!(naive(told, scope, &cap, at, &time) >= cap.most);
        match caps.free_at(rule, &index, past, moment) {
            None => assert_eq!(cap.window, CapWindow::Lifetime),
            Some(free) => {
                let later = |at: i64| naive(told, scope, &cap, at, &time) >= cap.most;
                assert!(free.0 > at && later(free.0 - 1) && !later(free.0), "{rule:?} {cap:?} {free}");
            }
        }
    }
    assert_eq!(standing.check(4), Ok(()), "a service message has no caps");
    assert_eq!(caps.rules_of(4, channel).count(), 0);
}

#[test]
fn a_cap_is_free_again_exactly_when_its_first_event_leaves_the_window() {
    let (at, day) = (1_767_607_230_500, DAY_MS);
    for (counts, act, free) in [
        (Counts::Shown, Act::Shown, at + day),
        // At the end of that decision's minute.
        (Counts::Decided, Act::Decided, at - at % 60_000 + 60_000 + day),
    ] {
        let mut plan = Plan::default();
        plan.own[0] = vec![cap(counts, 2, CapWindow::Sliding(day))];
        let told = [(0, 0, act, at), (0, 1, act, at + HOUR_MS)];
        for moment in [at + HOUR_MS, free - 1, free, free + 1] {
            check(&plan, &told, 0, moment);
        }
        let (caps, index, time) = (Caps::new(&plan.terms()), Index::new(IDS[..5].iter().copied()), london());
        let offers = history(&told);
        let past = Past { person: &offers, household: &offers };
        let free_at = caps.free_at(RuleId(0), &index, past, (Timestamp(at + HOUR_MS), &time));
        assert_eq!(free_at, Some(Timestamp(free)));
    }
}

#[test]
fn an_answer_does_not_go_over_a_cap_by_itself() {
    let mut plan = Plan { overall: vec![cap(Counts::Decided, 3, CapWindow::Lifetime)], ..Plan::default() };
    plan.categories[0] = vec![cap(Counts::Decided, 1, CapWindow::Lifetime), cap(Counts::Shown, 1, CapWindow::Lifetime)];
    let (caps, index, time) = (Caps::new(&plan.terms()), Index::new(IDS[..5].iter().copied()), london());
    let nothing = Offers::default();
    let past = Past { person: &nothing, household: &nothing };
    let mut standing = caps.count(&index, past, 0, (Timestamp(0), &time), |_| 0);
    assert_eq!((standing.check(0), standing.check(1)), (Ok(()), Ok(())));
    standing.take(0);
    let rule = standing.check(1).expect_err("one of the category");
    assert_eq!(caps.rule(rule).map(ToString::to_string).as_deref(), Some("at most 1 decided per person ever"));
    standing.take(4);
    standing.take(2);
    assert_eq!(standing.check(3), Ok(()), "a service message consumes nothing");
    standing.take(2);
    assert!(standing.check(3).is_err());
}

#[test]
fn a_household_counts_together_and_a_budget_is_of_everyone() {
    let mut plan = Plan::default();
    plan.own[0] = vec![Cap { per: Per::Household, ..cap(Counts::Shown, 2, CapWindow::Lifetime) }];
    plan.own[1] = vec![Cap { per: Per::Everyone, ..cap(Counts::Decided, 5, CapWindow::Calendar(Period::Day)) }];
    plan.categories[1] = vec![Cap { per: Per::Everyone, ..cap(Counts::Decided, 1, CapWindow::Lifetime) }];
    let (caps, index, time) = (Caps::new(&plan.terms()), Index::new(IDS[..5].iter().copied()), london());
    assert!(caps.any_per_household() && !caps.is_empty());
    let budgets: Vec<_> = caps.budgets().map(|(id, rule)| (id, rule.scope)).collect();
    assert_eq!(budgets.iter().map(|(_, scope)| *scope).collect::<Vec<_>>(), [Scope::Category(1), Scope::Offer(1)]);
    let (person, household) =
        (history(&[(0, 0, Act::Shown, 1)]), history(&[(0, 0, Act::Shown, 1), (0, 0, Act::Shown, 2)]));
    let standing = |household, left: u64| {
        let past = Past { person: &person, household };
        let standing = caps.count(&index, past, 0, (Timestamp(9), &time), |_| left);
        [0, 1, 2].map(|offer| standing.check(offer).is_ok())
    };
    assert_eq!(standing(&person, 1), [true, true, true]);
    assert_eq!(standing(&household, 0), [false, false, false]);
    let past = Past { person: &person, household: &person };
    let mut one = caps.count(&index, past, 0, (Timestamp(9), &time), |_| 1);
    one.take(2);
    assert!(one.check(2).is_err());
    let free = caps.free_at(budgets[1].0, &index, past, (Timestamp(9), &time));
    assert_eq!(free, Some(Timestamp(DAY_MS - HOUR_MS)), "London was an hour ahead");
    assert_eq!(caps.free_at(budgets[0].0, &index, past, (Timestamp(9), &time)), None);
}

fn caps_of_any_kind() -> impl Strategy<Value = Vec<Cap>> {
    let counts = proptest::sample::select(vec![Counts::Decided, Counts::Shown, Counts::Clicked, Counts::Accepted]);
    let window = proptest::sample::select(vec![
        CapWindow::Sliding(HOUR_MS),
        CapWindow::Sliding(7 * DAY_MS),
        CapWindow::Sliding(30 * DAY_MS),
        CapWindow::Calendar(Period::Day),
        CapWindow::Calendar(Period::Week),
        CapWindow::Calendar(Period::Month),
        CapWindow::Calendar(Period::Year),
        CapWindow::Lifetime,
    ]);
    proptest::collection::vec(
        (counts, 1_u64..=20, window).prop_map(|(counts, most, window)| cap(counts, most, window)),
        0..3,
    )
}

fn plans() -> impl Strategy<Value = Plan> {
    let caps = caps_of_any_kind;
    ((caps(), [caps(), caps()], [caps(), caps()], caps()), [caps(), caps(), caps(), caps()]).prop_map(
        |((overall, channels, categories, campaign), own)| Plan { overall, channels, categories, campaign, own },
    )
}

fn anything() -> impl Strategy<Value = Vec<Told>> {
    let act = proptest::sample::select(vec![Act::Decided, Act::Shown, Act::Clicked, Act::Accepted, Act::Dismissed]);
    // Mostly lately, sometimes long ago, around two changes of the clocks.
    let ago = prop_oneof![0..2 * HOUR_MS, 0..3 * DAY_MS, 0..60 * DAY_MS, 0..380 * DAY_MS];
    proptest::collection::vec((0_usize..6, 0_usize..2, act, ago), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn caps_agree_with_a_count_of_everything(plan in plans(), ago in anything(), channel in 0_usize..2, day in 0_i64..400) {
        // Up to twenty, which are among the marks that are kept exactly.
        let at = 1_767_607_230_500 + day * DAY_MS;
        let told: Vec<Told> = ago.into_iter().map(|(offer, channel, act, ago)| (offer, channel, act, at - ago)).collect();
        check(&plan, &told, channel, at);
    }
}
