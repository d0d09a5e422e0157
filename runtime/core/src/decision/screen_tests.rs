use super::*;
use crate::catalog::terms::{Cap, CapWindow, Counts, Per, Suppression};
use crate::consent::Decision;
use crate::constraint::OfferTerms;
use crate::constraint::suppression::{Reason, Since, Suppressed};
use crate::decision::{Contest, Judgement, Step, fill};
use crate::offers::{Act, Offers};

const HOUR_MS: i64 = 3_600_000;
const CAP: Cap = Cap { per: Per::Person, counts: Counts::Shown, most: 1, window: CapWindow::Sliding(HOUR_MS) };
const IDS: [&str; 3] = ["kettle", "rose", "notice"];

struct Keeps(&'static str);

impl Holdings for Keeps {
    fn kept(&self, product: &str) -> Option<Since> {
        (self.0 == product).then_some(Since::Unknown)
    }
}

/// A kettle with everything, a rose with nothing, a service message.
fn shelf(change: impl Fn(&mut Offered)) -> Shelf {
    let products: Vec<CompactString> = vec!["K1".into()];
    let kettle = OfferTerms {
        id: IDS[0],
        category: Some(0),
        campaign: Some(0),
        caps: &[CAP],
        products: &products,
        suppress: Some(Suppression { after: Default::default(), whole_category: false, for_ms: None }),
        ..OfferTerms::default()
    };
    let rose = OfferTerms { id: IDS[1], ..OfferTerms::default() };
    let notice = OfferTerms { id: IDS[2], transactional: true, ..OfferTerms::default() };
    let terms = Terms {
        offers: vec![kettle, rose, notice],
        categories: vec![&[]],
        campaigns: vec![&[]],
        channels: vec![("web", &[])],
        overall: &[],
    };
    let offered = |tier| Offered { enabled: true, tier, ..Offered::default() };
    let mut offers = vec![offered(Tier::Mandatory), offered(Tier::Ranked), offered(Tier::Transactional)];
    offers.iter_mut().for_each(change);
    Shelf::new(&terms, offers)
}

struct Case {
    past: Offers,
    keeps: &'static str,
    consent: Consent,
    closed: Option<Left>,
    held_out: bool,
    held_out_of: Vec<bool>,
}

impl Case {
    fn new() -> Self {
        let (past, consent) = (Offers::default(), Consent::default());
        Self { past, keeps: "", consent, closed: None, held_out: false, held_out_of: Vec::new() }
    }

    fn allow(mut self, purpose: &str, granted: bool) -> Self {
        self.consent.apply(&purpose.into(), Decision { granted, at: Timestamp(1) });
        self
    }

    /// Why each leaves.
    fn of(&self, shelf: &Shelf) -> [Option<Left>; 3] {
        let time = BusinessTime::new("UTC").expect("UTC");
        let past = Past { person: &self.past, household: &self.past };
        let moment = (Timestamp(10), &time);
        let holdings = Keeps(self.keeps);
        let person = Person {
            past,
            holdings: &holdings,
            consent: &self.consent,
            channel: 0,
            closed: self.closed,
            held_out: self.held_out,
            held_out_of: &self.held_out_of,
        };
        let mut screen = shelf.screen(person, moment, |_| u64::MAX);
        [0, 1, 2].map(|offer| {
            let mut left = screen.admit(offer, false).err();
            left.iter_mut().for_each(|left| shelf.explain(left, past, moment));
            left
        })
    }
}

#[test]
fn an_offer_leaves_at_the_first_step_that_it_fails_and_says_until_when() {
    let plain = shelf(|_| ());
    assert_eq!(Case::new().of(&plain), [None; 3]);
    let of = |change: fn(&mut Offered)| Case::new().of(&shelf(change))[1];
    assert_eq!(of(|offered| offered.enabled = false), Some(Left::Disabled));
    let not_yet = of(|offered| offered.valid.from = Some(Timestamp(11)));
    assert_eq!(not_yet, Some(Left::NotYet { of: Level::Offer, from: Timestamp(11) }));
    assert_eq!(not_yet.and_then(|left| left.until()), Some(Timestamp(11)));
    let over = of(|offered| offered.campaign_valid.until = Some(Timestamp(10)));
    assert_eq!(over.map(|left| (left.code(), left.step())), Some(("campaign-over", Step::Availability)));
    assert_eq!(of(|offered| offered.channels = Some(vec![1, 2])), Some(Left::NoContent));
    assert_eq!(of(|offered| offered.inventory = Some(0)), Some(Left::OutOfStock));
    let ads = |offered: &mut Offered| offered.purpose = Some("ads".into());
    assert_eq!(Case::new().of(&shelf(ads)), [Some(Left::NoConsent), Some(Left::NoConsent), None]);
    assert_eq!(Case::new().allow("ads", true).of(&shelf(ads)), [None; 3]);
    let quiet = Left::Quiet { until: Timestamp(20) };
    assert_eq!(Case { closed: Some(quiet), ..Case::new() }.of(&plain), [Some(quiet), Some(quiet), None]);
    let held = Some(Left::HeldOut);
    assert_eq!(Case { held_out: true, ..Case::new() }.of(&plain), [held, held, None]);
    let of_campaign = Case { held_out_of: vec![true], ..Case::new() }.of(&plain);
    assert_eq!(of_campaign, [Some(Left::CampaignHeldOut), None, None]);
    let bought = Suppressed { reason: Reason::Bought(0), by: 0, until: None };
    assert_eq!(Case { keeps: "K1", ..Case::new() }.of(&plain)[0], Some(Left::Suppressed(bought)));
    let mut shown = Case::new();
    IDS.iter().for_each(|offer| shown.past.record(&(*offer).into(), &"web".into(), Act::Shown, Timestamp(5), 1));
    let until = Some(Timestamp(5 + HOUR_MS));
    assert_eq!(shown.of(&plain), [Some(Left::Capped { rule: RuleId(0), until }), None, None]);
}

#[test]
fn a_service_message_needs_nothing_but_that_its_purpose_is_not_denied() {
    let plain = shelf(|_| ());
    let case = Case { closed: Some(Left::OptedOut), held_out: true, ..Case::new() };
    assert_eq!(case.of(&plain)[2], None);
    assert_eq!(case.allow("service", false).of(&plain)[2], Some(Left::NoConsent));
}

#[test]
fn the_screen_holds_an_answer_to_its_caps() {
    let time = BusinessTime::new("UTC").expect("UTC");
    let overall = [Cap { counts: Counts::Decided, ..CAP }];
    let offers = IDS[..2].iter().map(|id| OfferTerms { id, ..OfferTerms::default() }).collect();
    let terms = Terms { offers, overall: &overall, ..Terms::default() };
    let shelf = Shelf::new(&terms, vec![Offered { enabled: true, ..Offered::default() }; 2]);
    let (nothing, consent) = (Offers::default(), Consent::default());
    let past = Past { person: &nothing, household: &nothing };
    let person =
        Person { past, holdings: &(), consent: &consent, channel: 0, closed: None, held_out: false, held_out_of: &[] };
    let mut screen = shelf.screen(person, (Timestamp(10), &time), |_| 0);
    let ranking = [0, 1].map(|offer| Judgement { offer, priority: offer as f64, eligible: true, reason: None });
    let contest = Contest { candidates: &[0, 1], count: 2, per_category: None, ranking: Some(&ranking) };
    let mut left = Vec::new();
    let answer = fill(&[contest], &mut screen, Some(&mut |_, offer, why: Left| left.push((offer, why.code()))));
    assert_eq!(answer[0].offers.iter().map(|judged| judged.offer).collect::<Vec<_>>(), [1]);
    assert_eq!(left, [(0, "capped")]);
}
