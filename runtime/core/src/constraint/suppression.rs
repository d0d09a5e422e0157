//! Suppression: an offer that has done its work is not made again, on any channel.
//!
//! After a purchase of what it sells, as long as that is kept: a return takes the suppression back. After it was accepted. After somebody put it away, for a
//! time; as one that they have already, like a purchase. Where an offer says so, all of its category.
//!
//! What somebody has bought and still keeps is not this module's to know: it asks [`Holdings`]. [`Owned`] answers from aggregates by key.

use compact_str::CompactString;

use super::{Index, Terms};
use crate::aggregate::{Definitions, State, Weight};
use crate::catalog::terms::{SuppressAfter, Suppression};
use crate::offers::{Act, Offers};
use crate::time::Moment;
use crate::value::Timestamp;
use crate::view::Schema;

/// What somebody has bought and still keeps.
pub trait Holdings {
    /// Whether any of a product is kept; since when at the latest, where that is known.
    fn kept(&self, product: &str) -> Option<Since>;
}

/// Since when something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// It was bought last then.
    At(Timestamp),
    /// Nobody says.
    Unknown,
}

/// Nothing is kept.
impl Holdings for () {
    fn kept(&self, _: &str) -> Option<Since> {
        None
    }
}

/// The aggregates that say what is kept, by position among the readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    kept: usize,
    bought_at: Option<usize>,
}

impl Owned {
    /// The aggregate of units kept by product that is meant where none is named: of whatever plugin has one.
    pub const KEPT: &'static str = "units_kept";
    /// The aggregate of the latest purchase by product, likewise.
    pub const BOUGHT_AT: &'static str = "last_bought_at";

    /// Those with these names; where none are given, those of whatever plugin has them by their usual ones. None where nothing says what is kept.
    pub fn find(schema: &Schema, kept: Option<&str>, bought_at: Option<&str>) -> Option<Self> {
        let readings = schema.definitions.readings();
        let find = |name: Option<&str>, usual: &str| {
            readings.iter().position(|reading| {
                let own = reading.name.split_once('.').is_some_and(|(_, own)| own == usual);
                reading.keyed && name.map_or(own, |name| reading.name == name)
            })
        };
        Some(Self { kept: find(kept, Self::KEPT)?, bought_at: find(bought_at, Self::BOUGHT_AT) })
    }

    /// What somebody keeps, by the states of their aggregates.
    pub fn by<'s>(self, definitions: &'s Definitions, states: &'s [State], moment: &'s Moment) -> ByAggregate<'s> {
        ByAggregate { owned: self, definitions, states, moment }
    }
}

/// What somebody keeps, read from their aggregates. A product whose units are not all gone is kept.
#[derive(Clone, Copy, Debug)]
pub struct ByAggregate<'s> {
    owned: Owned,
    definitions: &'s Definitions,
    states: &'s [State],
    moment: &'s Moment,
}

impl ByAggregate<'_> {
    fn weight(&self, reading: usize, product: &str) -> Option<Weight> {
        let reading = self.definitions.readings().get(reading)?;
        self.definitions.weight(reading, self.states, product, self.moment)
    }
}

impl Holdings for ByAggregate<'_> {
    fn kept(&self, product: &str) -> Option<Since> {
        let kept = match self.weight(self.owned.kept, product)? {
            Weight::Fixed(units) => units > 0,
            Weight::Number(units) => units > 0.0,
        };
        let at = || match self.weight(self.owned.bought_at?, product)? {
            Weight::Fixed(at) => Some(Since::At(Timestamp(at))),
            Weight::Number(_) => None,
        };
        kept.then(|| at().unwrap_or(Since::Unknown))
    }
}

/// Why an offer is suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something that it sells was bought and is kept: by position among its products.
    Bought(usize),
    /// It was accepted.
    Accepted,
    /// They said that they have it already.
    Owned,
    /// It was put away.
    Dismissed,
}

/// That an offer is suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// Why.
    pub reason: Reason,
    /// The offer to which that happened: itself, or another of its category.
    pub by: usize,
    /// Until when, if nothing else happens; none: for ever, or for as long as what was bought is kept.
    pub until: Option<Timestamp>,
}

/// What suppresses the offers of a catalogue, prepared.
#[derive(Clone, Debug, Default)]
pub struct Suppressions {
    /// By offer.
    offers: Vec<Own>,
    /// By category, the offers that suppress all of it.
    whole: Vec<Vec<u32>>,
}

#[derive(Clone, Debug, Default)]
struct Own {
    category: Option<usize>,
    transactional: bool,
    products: Vec<CompactString>,
    rule: Option<Suppression>,
    dismissed_ms: Option<i64>,
}

impl Suppressions {
    /// Prepares those of a catalogue.
    pub fn new(terms: &Terms<'_>) -> Self {
        let own = |offer: &super::OfferTerms<'_>| Own {
            category: offer.category,
            transactional: offer.transactional,
            products: offer.products.to_vec(),
            rule: offer.suppress,
            dismissed_ms: offer.dismissed_ms,
        };
        let offers: Vec<Own> = terms.offers.iter().map(own).collect();
        let mut whole = vec![Vec::new(); terms.categories.len()];
        for (own, index) in offers.iter().zip(0..) {
            if own.rule.is_some_and(|rule| rule.whole_category)
                && let Some(of) = own.category.and_then(|category| whole.get_mut(category))
            {
                of.push(index);
            }
        }
        Self { offers, whole }
    }

    /// What a person's history says, once for a whole decision.
    pub fn of<'s, H: Holdings>(&'s self, index: &Index, past: &Offers, holdings: &'s H, at: Timestamp) -> Told<'s, H> {
        let mut told: Vec<(u32, Feedback)> = Vec::new();
        for line in past.iter() {
            if [Act::Accepted, Act::Dismissed, Act::Owned].iter().all(|act| line.total(*act) == 0) {
                continue;
            }
            let Some(position) = index.position(line.offer()).and_then(|position| u32::try_from(position).ok()) else {
                continue;
            };
            // Lines of one offer stand together.
            if told.last().is_none_or(|(of, _)| *of != position) {
                told.push((position, Feedback::default()));
            }
            if let Some((_, held)) = told.last_mut() {
                held.accepted = held.accepted.max(line.last_at(Act::Accepted));
                held.dismissed = held.dismissed.max(line.last_at(Act::Dismissed));
                held.owned = held.owned.max(line.last_at(Act::Owned));
            }
        }
        told.sort_unstable_by_key(|(of, _)| *of);
        // Nothing to remember where no offer suppresses more than itself.
        let categories = if self.whole.iter().all(Vec::is_empty) { 0 } else { self.whole.len() };
        Told { all: self, told, holdings, at, whole: vec![None; categories] }
    }
}

/// When they said last what about an offer.
#[derive(Clone, Copy, Debug, Default)]
struct Feedback {
    accepted: Option<Timestamp>,
    dismissed: Option<Timestamp>,
    owned: Option<Timestamp>,
}

/// What a person's history and holdings say of the offers.
#[derive(Debug)]
pub struct Told<'s, H> {
    all: &'s Suppressions,
    /// Ascending by offer.
    told: Vec<(u32, Feedback)>,
    holdings: &'s H,
    at: Timestamp,
    /// By category, what suppresses all of it, where that was asked.
    whole: Vec<Option<Option<Suppressed>>>,
}

impl<H: Holdings> Told<'_, H> {
    /// Whether an offer is suppressed. A service message never is.
    pub fn check(&mut self, offer: usize) -> Result<(), Suppressed> {
        let Some(own) = self.all.offers.get(offer).filter(|own| !own.transactional) else { return Ok(()) };
        if let Some(suppressed) = self.converted(offer).or_else(|| self.put_away(offer)) {
            return Err(suppressed);
        }
        let Some(category) =
            own.category.filter(|category| self.all.whole.get(*category).is_some_and(|of| !of.is_empty()))
        else {
            return Ok(());
        };
        let known = self.whole[category];
        let whole = known.unwrap_or_else(|| {
            let mut others = self.all.whole[category].iter().map(|other| *other as usize);
            others.find_map(|other| self.converted(other))
        });
        self.whole[category] = Some(whole);
        whole.map_or(Ok(()), Err)
    }

    /// Whether an offer has done its work, if it says what that is.
    fn converted(&self, offer: usize) -> Option<Suppressed> {
        let own = self.all.offers.get(offer)?;
        let rule = own.rule?;
        let told = self.told(offer);
        let suppressed = |reason, until| Some(Suppressed { reason, by: offer, until });
        // That they have it already counts like a purchase, whatever is bought.
        if let Some(until) = told.owned.and_then(|since| self.lasts(since, rule.for_ms)) {
            return suppressed(Reason::Owned, until);
        }
        if rule.after == SuppressAfter::Accepted {
            let until = told.accepted.and_then(|since| self.lasts(since, rule.for_ms))?;
            return suppressed(Reason::Accepted, until);
        }
        own.products.iter().enumerate().find_map(|(index, product)| {
            let until = match self.holdings.kept(product)? {
                Since::At(since) => self.lasts(since, rule.for_ms)?,
                Since::Unknown => None,
            };
            suppressed(Reason::Bought(index), until)
        })
    }

    /// Whether an offer was put away.
    fn put_away(&self, offer: usize) -> Option<Suppressed> {
        let (own, told) = (self.all.offers.get(offer)?, self.told(offer));
        if own.rule.is_none()
            && let Some(until) = told.owned.and_then(|since| self.lasts(since, None))
        {
            return Some(Suppressed { reason: Reason::Owned, by: offer, until });
        }
        let until = told.dismissed.and_then(|since| self.lasts(since, own.dismissed_ms))?;
        Some(Suppressed { reason: Reason::Dismissed, by: offer, until })
    }

    /// Until when something lasts that began at an instant, where it does still: the inner none for ever.
    #[allow(clippy::option_option)] // over, for ever and until then are three different answers
    fn lasts(&self, since: Timestamp, for_ms: Option<i64>) -> Option<Option<Timestamp>> {
        let Some(for_ms) = for_ms else { return Some(None) };
        let until = since.plus_ms(for_ms);
        (self.at < until).then_some(Some(until))
    }

    fn told(&self, offer: usize) -> Feedback {
        let found = self.told.binary_search_by_key(&offer, |(of, _)| *of as usize);
        found.map_or(Feedback::default(), |found| self.told[found].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Contribution, Definition};
    use crate::constraint::OfferTerms;
    use crate::time::BusinessTime;
    use crate::value::Kind;

    const HOUR_MS: i64 = 3_600_000;

    struct Kept(Vec<(&'static str, Since)>);

    impl Holdings for Kept {
        fn kept(&self, product: &str) -> Option<Since> {
            self.0.iter().find(|(kept, _)| *kept == product).map(|(_, since)| *since)
        }
    }

    /// `car` and `tyres` of one category, of which `car` suppresses all; `paper` for an hour; `course` once accepted; `plain` by nothing but feedback; `notice`
    /// is a service message.
    fn check(past: &[(&str, Act, i64)], kept: &[(&'static str, Since)], at: i64) -> Vec<Option<Suppressed>> {
        let products: [Vec<CompactString>; 6] = [
            vec!["red".into(), "blue".into()],
            vec!["tyre".into()],
            vec!["paper".into()],
            vec![],
            vec!["paper".into()],
            vec!["paper".into()],
        ];
        let rule = |after, whole_category, for_ms| Some(Suppression { after, whole_category, for_ms });
        let rules = [
            rule(SuppressAfter::Purchase, true, None),
            rule(SuppressAfter::Purchase, false, None),
            rule(SuppressAfter::Purchase, false, Some(HOUR_MS)),
            rule(SuppressAfter::Accepted, false, Some(2 * HOUR_MS)),
            None,
            rule(SuppressAfter::Purchase, false, None),
        ];
        let offer = |index: usize| OfferTerms {
            id: IDS[index],
            category: [Some(0), Some(0), Some(1), Some(1), None, None][index],
            products: &products[index],
            suppress: rules[index],
            dismissed_ms: Some(HOUR_MS),
            transactional: index == 5,
            ..OfferTerms::default()
        };
        let terms = Terms { offers: (0..6).map(offer).collect(), categories: vec![&[], &[]], ..Terms::default() };
        let (suppressions, index) = (Suppressions::new(&terms), Index::new(IDS.into_iter()));
        let mut offers = Offers::default();
        for (offer, act, at) in past {
            offers.record(&(*offer).into(), &"web".into(), *act, Timestamp(*at), 1);
        }
        let kept = Kept(kept.to_vec());
        let mut told = suppressions.of(&index, &offers, &kept, Timestamp(at));
        (0..6).map(|offer| told.check(offer).err()).collect()
    }

    const IDS: [&str; 6] = ["car", "tyres", "paper", "course", "plain", "notice"];

    fn some(reason: Reason, by: usize, until: Option<i64>) -> Option<Suppressed> {
        Some(Suppressed { reason, by, until: until.map(Timestamp) })
    }

    #[test]
    fn what_is_kept_suppresses_its_offer_and_where_it_says_so_its_category() {
        assert_eq!(check(&[], &[], 0), [None; 6]);
        let bought = check(&[], &[("blue", Since::Unknown)], 0);
        assert_eq!(bought[..3], [some(Reason::Bought(1), 0, None), some(Reason::Bought(1), 0, None), None]);
        let tyres = check(&[], &[("tyre", Since::At(Timestamp(0)))], i64::MAX);
        assert_eq!(tyres[..2], [None, some(Reason::Bought(0), 1, None)], "for ever");
        let paper = |at| check(&[], &[("paper", Since::At(Timestamp(5)))], at);
        assert_eq!(paper(HOUR_MS + 4)[2..], [some(Reason::Bought(0), 2, Some(HOUR_MS + 5)), None, None, None]);
        assert_eq!(paper(HOUR_MS + 5), [None; 6], "free again exactly then");
        assert_eq!(check(&[], &[("paper", Since::Unknown)], i64::MAX)[2], some(Reason::Bought(0), 2, None));
    }

    #[test]
    fn what_is_kept_follows_returns_and_is_read_from_aggregates() {
        let define = |name: &str, operator: &str, parameters: &[(&str, &str)], kind| {
            let parameters: Vec<_> =
                parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Definition::parse(name, operator, &parameters, &[], kind, None).expect("a good definition")
        };
        let all = [
            define("units_bought", "sum-by-key", &[], Kind::Decimal),
            define("units_returned", "sum-by-key", &[], Kind::Decimal),
            define("units_kept", "difference", &[("of", "units_bought"), ("less", "units_returned")], Kind::Decimal),
            define("last_bought_at", "max-by-key", &[], Kind::Instant),
        ];
        let mut definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        definitions.add("shop", &all, None).expect("good definitions");
        let mut states = definitions.empty_states();
        let mut tell = |state: u16, at: i64, value: i64| {
            let contribution = Contribution { state, key: "kettle".into(), value };
            let _ = definitions.apply(&mut states, &[contribution], Timestamp(at), &[at as u8; 16], true);
            states.clone()
        };
        let moment = definitions.moment(Timestamp(99), |_| None);
        let schema = Schema { definitions: definitions.clone(), scores: Vec::new() };
        let owned = Owned::find(&schema, None, None).expect("something says what is kept");
        let without = Owned { bought_at: None, ..owned };
        assert_eq!(Owned::find(&schema, Some("shop.units_kept"), Some("shop.last_bought_at")), Some(owned));
        assert_eq!(Owned::find(&schema, Some("shop.units"), None), None);
        let kept = |of: Owned, states: &[State], product: &str| of.by(&definitions, states, &moment).kept(product);
        let bought = (tell(0, 7, 2_000_000), tell(2, 7, 7)).1;
        assert_eq!(kept(owned, &bought, "kettle"), Some(Since::At(Timestamp(7))));
        assert_eq!((kept(without, &bought, "kettle"), kept(owned, &bought, "rose")), (Some(Since::Unknown), None));
        assert!(kept(owned, &tell(1, 8, 1_000_000), "kettle").is_some(), "one of two came back");
        assert_eq!(kept(owned, &tell(1, 9, 1_000_000), "kettle"), None);
    }

    #[test]
    fn feedback_suppresses_for_a_time_and_what_they_have_already_like_a_purchase() {
        let put_away = |at| check(&[("plain", Act::Dismissed, 5), ("notice", Act::Dismissed, 5)], &[], at);
        assert_eq!(put_away(HOUR_MS)[4..], [some(Reason::Dismissed, 4, Some(HOUR_MS + 5)), None]);
        assert_eq!(put_away(HOUR_MS + 5), [None; 6]);
        let accepted = |at| check(&[("course", Act::Accepted, 5), ("plain", Act::Accepted, 5)], &[], at)[3];
        assert_eq!((accepted(6), accepted(2 * HOUR_MS + 5)), (some(Reason::Accepted, 3, Some(2 * HOUR_MS + 5)), None));
        let owned = |offer| check(&[(offer, Act::Dismissed, 5), (offer, Act::Owned, 5)], &[], i64::MAX);
        assert_eq!(owned("plain")[4], some(Reason::Owned, 4, None));
        assert_eq!(
            owned("car")[..2],
            [some(Reason::Owned, 0, None), some(Reason::Owned, 0, None)],
            "all of the category"
        );
        let again = check(&[("paper", Act::Owned, 5)], &[], HOUR_MS + 5);
        assert_eq!(again[2], None, "for as long as a purchase would");
    }
}
