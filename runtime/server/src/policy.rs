//! The policy of a catalogue: all that the host holds its decisions to, prepared once, and a decision under it.
//!
//! A catalogue of offers and slots alone has none ([`Policy::governs`]), and pays for none of it. Otherwise a person's counts are held from the look at their history until the
//! choice is recorded, so that whoever asks next sees it, under whichever identifier. What was let through by the screen, the experiments and the conditions is
//! ranked; what was ranked is held to caps once more where it is chosen.

mod gates;

use std::sync::Arc;
use std::time::Instant;

use selvedge_core::aggregate::Definitions;
use selvedge_core::catalog::terms::{Content, HoldoutAnswer, Part, Quiet};
use selvedge_core::catalog::{Catalog, Offer};
use selvedge_core::condition::{Conditions, Evaluation};
use selvedge_core::constraint::cap::{Caps, Past};
use selvedge_core::constraint::quiet::{opted_out, quiet_until};
use selvedge_core::constraint::suppression::{ByAggregate, Holdings, Owned, Since};
use selvedge_core::constraint::{OfferTerms, Terms};
use selvedge_core::decision::priority::Factors;
use selvedge_core::decision::screen::{Offered, Person, Shelf};
use selvedge_core::decision::{Contest, Judgement, Left, Level, SlotChoice, Tier, fill};
use selvedge_core::experiment::{CONTROL, Experiment, HOLDOUT, campaign, offer, random_priority, unit};
use selvedge_core::fragment::Fragment;
use selvedge_core::identity::{ENTITIES, HOUSEHOLD, Identifier};
use selvedge_core::offers::{Act, Exposure, Offers};
use selvedge_core::time::{BusinessTime, Moment, TIME_ZONE_TRAIT, Whose};
use selvedge_core::value::Timestamp;
use selvedge_core::view::{Schema, Subject};
use selvedge_plugin_host::{Invocation, Told};

use self::gates::Gates;
use crate::answer::explained;
use crate::budgets::{Budgets, Ledger};
use crate::edge::Edge;
use crate::pipeline::{Ask, Known, note_failure, reference};
use crate::rates::{Counted, Rates};
use crate::records::Stood;

/// The arm of those who are held out, by position.
const HELD: usize = 0;

/// How often it is decided anew where others were faster with what is left of a budget.
const SPENDS_MAX: usize = 8;

/// What a catalogue holds decisions to.
pub struct Policy {
    governs: bool,
    shelf: Shelf,
    holdout: Option<(Experiment, HoldoutAnswer)>,
    control: Option<Experiment>,
    /// By position of the campaign.
    campaigns: Vec<Option<Experiment>>,
    /// By position of the offer.
    variants: Vec<Option<Experiment>>,
    owned: Option<Owned>,
    /// What is asked of every offer.
    pub gates: Gates,
    /// Caps over everyone.
    pub budgets: Budgets,
    /// How likely everyone is to take what names no score.
    pub rates: Option<Rates>,
}

/// What was decided under a policy.
#[derive(Default)]
pub struct Governed {
    /// By position of the request.
    pub choices: Vec<SlotChoice>,
    /// The channel that it was decided for, by position.
    pub channel: usize,
    /// Whether nothing is answered at all, not even what slots fall back to.
    pub silent: bool,
    /// The variants of the chosen offers that have some, by positions.
    pub variants: Vec<(usize, usize)>,
    /// Who left, of which request, and why; where that was asked for.
    pub left: Vec<(usize, usize, Left)>,
    /// How many of these left before anything was ranked.
    pub unranked: usize,
    /// What a ranking said, by position of the request, ascending by offer; where that was asked for.
    pub judged: Vec<Vec<Judgement>>,
    /// What made up priorities, ascending by request and offer, where no plugin ranked; where that was asked for.
    pub factors: Vec<(usize, usize, Factors, Option<Counted>)>,
    /// What the conditions of offers read and what that said, by position of the read, as members of a JSON object; where that was asked for.
    pub inputs: Vec<String>,
    /// What plugins were given and what came of it; where that was asked for.
    pub stages: Vec<Told>,
}

impl Policy {
    /// Prepares what a catalogue holds decisions to.
    pub fn new(catalog: &Catalog, conditions: &Conditions, schema: &Schema, ledger: &Arc<Ledger>) -> Self {
        let terms = terms(catalog);
        let shelf = Shelf::new(&terms, catalog.offers.iter().map(|of| offered(catalog, of)).collect());
        let held_out = |name, part: &Part| Experiment::held_out(name, part);
        let holdout =
            catalog.holdout.as_ref().map(|holdout| (held_out(HOLDOUT.into(), &holdout.part), holdout.answers));
        let campaigns = catalog.campaigns.iter();
        let campaigns = campaigns.map(|of| of.holdout.as_ref().map(|part| held_out(campaign(&of.id), part)));
        let variants = catalog.offers.iter().map(|of| {
            let arms = of.variants.iter().map(|variant| (variant.id.clone(), variant.weight)).collect();
            (!of.variants.is_empty()).then(|| Experiment::new(offer(&of.id), of.id.clone(), arms))
        });
        Self {
            governs: governs(catalog),
            holdout,
            control: catalog.control.as_ref().map(|part| held_out(CONTROL.into(), part)),
            campaigns: campaigns.collect(),
            variants: variants.collect(),
            owned: Owned::find(schema, None, None),
            gates: Gates::new(catalog, conditions),
            budgets: Budgets::new(catalog, &shelf.caps, &terms, schema.definitions.time(), ledger),
            rates: Rates::new(catalog, None),
            shelf,
        }
    }

    /// Whether a decision for somebody is under it: where the catalogue has more than offers and slots, and where somebody has put an offer away.
    pub fn governs(&self, past: &Offers) -> bool {
        self.governs || past.iter().any(|line| line.last_at(Act::Dismissed).or(line.last_at(Act::Owned)).is_some())
    }

    /// Whether anything is counted by household.
    pub fn looks_at_households(&self) -> bool {
        self.shelf.caps.any_per_household()
    }
}

/// The budgets of a catalogue that may come to decide.
pub fn budgets(catalog: &Catalog, definitions: &Definitions, ledger: &Arc<Ledger>) -> Budgets {
    let terms = terms(catalog);
    Budgets::new(catalog, &Caps::new(&terms), &terms, definitions.time(), ledger)
}

/// Whether a catalogue has more than offers of equal terms, and slots.
fn governs(catalog: &Catalog) -> bool {
    let of_offer = |of: &Offer| {
        let own = &of.valid;
        own.from.or(own.until).is_some()
            || !of.enabled
            || of.mandatory
            || of.transactional
            || of.inventory.is_some()
            || of.purpose.is_some()
            || of.propensity.is_some()
            || of.campaign.is_some()
            || of.suppress.is_some()
            || of.lever.to_f64() != 1.0
            || !of.caps.is_empty()
            || !of.variants.is_empty()
            || matches!(of.content, Content::ByChannel(_))
    };
    !catalog.conditions.is_empty()
        || !catalog.caps.is_empty()
        || catalog.holdout.is_some()
        || catalog.control.is_some()
        || catalog.response.is_some()
        || catalog.offers.iter().any(of_offer)
        || catalog.categories.iter().any(|category| !category.caps.is_empty())
        || catalog.channels.iter().any(|channel| !channel.caps.is_empty() || channel.quiet.is_some())
        || catalog.slots.iter().any(|slot| slot.per_category.is_some() || !slot.context_weights.is_empty())
}

fn terms(catalog: &Catalog) -> Terms<'_> {
    let offers = catalog.offers.iter().map(|of| OfferTerms {
        id: &of.id,
        category: of.category_index,
        campaign: of.campaign,
        caps: &of.caps,
        transactional: of.transactional,
        products: &of.product_ids,
        suppress: of.suppress,
        dismissed_ms: of.dismissed_for_ms,
    });
    Terms {
        offers: offers.collect(),
        categories: catalog.categories.iter().map(|category| category.caps.as_slice()).collect(),
        campaigns: catalog.campaigns.iter().map(|campaign| campaign.caps.as_slice()).collect(),
        channels: catalog.channels.iter().map(|channel| (channel.name.as_str(), channel.caps.as_slice())).collect(),
        overall: &catalog.caps,
    }
}

fn offered(catalog: &Catalog, of: &Offer) -> Offered {
    let channels = match &of.content {
        Content::Everywhere(_) => None,
        Content::ByChannel(_) => {
            Some((0..catalog.channels.len()).filter(|channel| of.content.on(*channel).is_some()).collect())
        }
    };
    let tier = match (of.transactional, of.mandatory) {
        (true, _) => Tier::Transactional,
        (false, true) => Tier::Mandatory,
        (false, false) => Tier::Ranked,
    };
    Offered {
        valid: of.valid,
        campaign_valid: of.campaign.map_or_else(Default::default, |campaign| catalog.campaigns[campaign].valid),
        enabled: of.enabled,
        inventory: of.inventory,
        purpose: of.purpose.clone(),
        channels,
        tier,
    }
}

/// What somebody keeps, where there is an aggregate that says it.
struct Keeps<'s>(Option<ByAggregate<'s>>);

impl Holdings for Keeps<'_> {
    fn kept(&self, product: &str) -> Option<Since> {
        self.0.as_ref()?.kept(product)
    }
}

/// Somebody as they are decided for: with what was decided for them a moment ago.
struct Seen {
    fragment: Arc<Fragment>,
    household: Option<(Identifier, Offers)>,
}

/// What was decided before and is looked at once more, as if it had not been.
pub struct Again<'a> {
    /// The offers that alone are looked at, each with the request by which it stood in its slot; by position.
    pub only: &'a [(usize, usize)],
    /// The channel and the instant that they were counted by, if they were.
    pub counted: Option<(&'a str, Timestamp)>,
    /// All that were answered.
    pub offers: &'a [Stood],
}

impl Again<'_> {
    /// A history without what this counted.
    fn leave_out(&self, history: &mut Offers) {
        if let Some((channel, at)) = self.counted {
            let chosen = self.offers.iter().filter(|stood| !stood.fallback);
            chosen.for_each(|stood| history.undecide(&stood.offer, channel, at));
        }
    }
}

/// Decides for somebody, and records it.
pub fn decide(edge: &Edge, ask: &Ask<'_>, known: &Known, instant: Timestamp, seed: u64) -> Governed {
    decide_among(edge, ask, known, (instant, seed), None)
}

/// Decides anew about what was decided before, and records nothing.
pub fn decide_again(
    edge: &Edge,
    ask: &Ask<'_>,
    known: &Known,
    instant: Timestamp,
    seed: u64,
    again: &Again<'_>,
) -> Governed {
    decide_among(edge, ask, known, (instant, seed), Some(again))
}

fn decide_among(
    edge: &Edge,
    ask: &Ask<'_>,
    known: &Known,
    (instant, seed): (Timestamp, u64),
    again: Option<&Again<'_>>,
) -> Governed {
    let (policy, catalog) = (&edge.policy, &edge.catalog);
    let household = policy.looks_at_households().then(|| of_household(edge, &known.fragment)).flatten();
    let mut everyone = known.identifiers.clone();
    everyone.extend(household.clone());
    let mut held = edge.decided.hold(&everyone);
    let of = |identifiers: &[Identifier]| {
        let counts = held.of(identifiers);
        if ask.at.is_some() { counts.up_to(instant) } else { counts }
    };
    let mut seen = Seen { fragment: current(edge, ask, known), household: None };
    let counts = of(&known.identifiers);
    if !counts.is_empty() || again.is_some() {
        let mut with = counts.onto(&seen.fragment.offers);
        again.iter().for_each(|again| again.leave_out(&mut with));
        Arc::make_mut(&mut seen.fragment).offers = with;
    }
    if let Some(household) = household {
        let of_entity = ENTITIES.iter().position(|entity| *entity == HOUSEHOLD);
        let entity = of_entity.and_then(|index| known.entities[index].as_ref());
        let past = entity.map(|entity| entity.offers.clone()).unwrap_or_default();
        let mut past = of(std::slice::from_ref(&household)).onto(&past);
        again.iter().for_each(|again| again.leave_out(&mut past));
        seen.household = Some((household, past));
    }
    let schema = edge.plugins.schema();
    let moment = seen.fragment.moment(&schema.definitions, &edge.trait_sources, instant);
    let channel = catalog.channel(ask.channel).or(ask.slots.first().map(|first| catalog.slots[first.slot].channel));
    let mut deciding = Deciding {
        edge,
        ask,
        known,
        seen: &seen,
        moment: &moment,
        channel: channel.unwrap_or_default(),
        seed,
        only: again.map(|again| again.only),
        exposures: Vec::new(),
    };
    let governed = deciding.within_budgets(again);
    let exposures = deciding.exposures;
    if !ask.dry_run && edge.counts_decisions(&ask.visitor) {
        let offers = governed.choices.iter().flat_map(|choice| &choice.offers);
        let ids = || offers.clone().map(|chosen| catalog.offers[chosen.offer].id.as_str());
        let name = &catalog.channels[governed.channel].name;
        held.record(&ask.visitor, name, instant, ids(), &exposures);
        if let Some((household, _)) = &seen.household {
            held.record(household, name, instant, ids(), &[]);
        }
    }
    governed
}

fn of_household(edge: &Edge, fragment: &Fragment) -> Option<Identifier> {
    let index = ENTITIES.iter().position(|entity| *entity == HOUSEHOLD)?;
    reference(edge, fragment, index)
}

/// What is known as of now: what was counted before may have become part of it since it was looked at.
fn current(edge: &Edge, ask: &Ask<'_>, known: &Known) -> Arc<Fragment> {
    let rehearsed = ask.dry_run && !ask.events.is_empty();
    let now = if ask.at.is_none() && !rehearsed { edge.shards.cached_profile(&ask.visitor) } else { None };
    Arc::clone(now.as_ref().map_or(&known.fragment, |profile| profile.fragment()))
}

/// The clock that quiet hours go by, where that is the visitor's own and known.
pub fn own_clock(edge: &Edge, person: &Fragment, quiet: &Quiet) -> Option<BusinessTime> {
    match quiet.whose {
        Whose::Business => None,
        Whose::Visitor => {
            let zone = person.traits.text(TIME_ZONE_TRAIT, &edge.trait_sources)?;
            BusinessTime::new(&zone).ok()
        }
    }
}

/// What came of the look at an offer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    Never,
    /// It may be offered.
    Through,
    /// Its campaign's hold-out has the person.
    HeldOut,
    /// It left for another reason.
    Left,
}

impl Looked {
    fn by(admitted: Result<(), Left>) -> Self {
        match admitted {
            Ok(()) => Self::Through,
            Err(Left::CampaignHeldOut) => Self::HeldOut,
            Err(_) => Self::Left,
        }
    }
}

struct Deciding<'d> {
    edge: &'d Edge,
    ask: &'d Ask<'d>,
    known: &'d Known,
    seen: &'d Seen,
    moment: &'d Moment,
    channel: usize,
    seed: u64,
    /// The offers that alone are looked at, with their requests, if not all are.
    only: Option<&'d [(usize, usize)]>,
    /// To be stored.
    exposures: Vec<Exposure>,
}

impl Deciding<'_> {
    /// Decides, and takes what that needs of budgets. Where somebody else was faster with what was left, it is decided anew: what is spent is no candidate then.
    fn within_budgets(&mut self, again: Option<&Again<'_>>) -> Governed {
        let (policy, shard) = (&self.edge.policy, self.ask.visitor.shard());
        for _ in 0..SPENDS_MAX {
            let mut left = policy.budgets.left();
            if let Some(again) = again.filter(|again| again.counted.is_some()) {
                self.give_back(again, &mut left);
            }
            let governed = self.decide(&left);
            // What is not counted for want of room is spent all the same.
            if self.ask.dry_run || policy.budgets.is_empty() {
                return governed;
            }
            let chosen = governed.choices.iter().flat_map(|choice| &choice.offers).map(|chosen| chosen.offer);
            if policy.budgets.spend(&policy.budgets.needs(&policy.shelf.caps, chosen, governed.channel), shard) {
                return governed;
            }
            self.exposures.clear();
        }
        // Hardly ever: what is left goes as fast as it is looked at.
        self.decide(&vec![0; policy.budgets.left().len()])
    }

    /// What was spent before on what is looked at once more does not stand in its way.
    fn give_back(&self, again: &Again<'_>, left: &mut [u64]) {
        let (policy, catalog) = (&self.edge.policy, &self.edge.catalog);
        let chosen = again.offers.iter().filter(|stood| !stood.fallback);
        let chosen = chosen.filter_map(|stood| catalog.offer(&stood.offer));
        for (at, count) in policy.budgets.needs(&policy.shelf.caps, chosen, self.channel) {
            left[at] = left[at].saturating_add(count);
        }
    }

    fn decide(&mut self, left: &[u64]) -> Governed {
        let (edge, ask) = (self.edge, self.ask);
        let (policy, catalog) = (&edge.policy, &edge.catalog);
        let own = &self.seen.fragment.offers;
        let holdout = policy.holdout.as_ref().map(|(experiment, answer)| (self.assigned(experiment), *answer));
        let held_out = holdout.is_some_and(|(arm, _)| arm == Some(HELD));
        let in_control =
            policy.control.as_ref().is_some_and(|experiment| !held_out && self.assigned(experiment) == Some(HELD));
        let held_out_of: Vec<bool> = policy.campaigns.iter().map(|of| self.is_held_out(of.as_ref())).collect();

        let definitions = &edge.plugins.schema().definitions;
        let keeps = Keeps(policy.owned.map(|owned| owned.by(definitions, &self.seen.fragment.states, self.moment)));
        let person = Person {
            past: Past { person: own, household: self.seen.household.as_ref().map_or(own, |(_, past)| past) },
            holdings: &keeps,
            consent: &self.seen.fragment.consent,
            channel: self.channel,
            closed: self.closed(),
            held_out,
            held_out_of: &held_out_of,
        };
        let (at, past) = ((self.moment.at, definitions.time()), person.past);
        let mut screen = policy.shelf.screen(person, at, |rule| policy.budgets.of_rule(rule, left));

        // Scores come before whatever reads them.
        let mut invocation =
            if ask.explain { Invocation::telling(&edge.plugins) } else { Invocation::new(&edge.plugins) };
        let needed =
            |plugin: &usize| ask.slots.iter().any(|slot| edge.catalog_reads.scorers(slot.slot).contains(plugin));
        let order: Vec<usize> = edge.plugins.score_order().iter().copied().filter(needed).collect();
        let blank = Subject {
            context: ask.context,
            channel: &catalog.channels[self.channel].name,
            seed: self.seed,
            fragment: &self.seen.fragment,
            ..self.known.subject(edge, self.moment)
        };
        let scores = invocation.score(&order, &blank, &mut |plugin, error| note_failure(edge, plugin, "score", &error));
        let subject = Subject { scores: &scores, ..blank };
        let evaluation = Evaluation::new(&edge.catalog_reads.bound().conditions, definitions, subject);

        // Who may be offered at all, each looked at once.
        let mut governed = Governed { channel: self.channel, ..Governed::default() };
        let mut looked = vec![Looked::Never; catalog.offers.len()];
        let mut contests = Vec::with_capacity(ask.slots.len());
        for (request, slot) in ask.slots.iter().enumerate() {
            let of_slot = &catalog.slots[slot.slot];
            let open = of_slot.eligible.is_none_or(|condition| evaluation.met(condition));
            let mut candidates = Vec::with_capacity(of_slot.candidates.len());
            governed.left.reserve(if ask.explain { of_slot.candidates.len() } else { 0 });
            let asked = |offer: &&usize| self.only.is_none_or(|only| only.contains(&(request, **offer)));
            for offer in of_slot.candidates.iter().filter(asked) {
                let admitted = match looked[*offer] {
                    Looked::Through => Ok(()),
                    // Why, only an explanation asks, and finds out again.
                    Looked::Left | Looked::HeldOut if !ask.explain => continue,
                    _ => screen
                        .admit(*offer, edge.switches.is_stopped(*offer))
                        .and_then(|()| policy.gates.pass(*offer, &evaluation)),
                };
                looked[*offer] = Looked::by(admitted);
                match admitted {
                    Ok(()) if open => candidates.push(*offer),
                    _ if !ask.explain => {}
                    Ok(()) => governed.left.push((request, *offer, Left::Condition(Level::Slot))),
                    Err(why) => governed.left.push((request, *offer, why)),
                }
            }
            contests.push(candidates);
        }

        // Ranking: at random for the control, by a plugin, or by the formula.
        let late = ask.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut by_plugin: Vec<(usize, Option<Vec<Judgement>>)> = Vec::new();
        let mut rankings: Vec<Option<Vec<Judgement>>> = Vec::with_capacity(contests.len());
        for (request, slot) in ask.slots.iter().enumerate() {
            let judge = |offer: usize, priority| Judgement { offer, priority, eligible: true, reason: None };
            rankings.push(match edge.catalog_reads.ranker(slot.slot) {
                _ if late => None,
                _ if in_control => {
                    let judged =
                        contests[request].iter().map(|of| judge(*of, random_priority(self.seed, slot.slot, *of)));
                    Some(judged.collect())
                }
                Some(plugin) => {
                    if !by_plugin.iter().any(|(of, _)| *of == plugin) {
                        let ranked = self.rank(&mut invocation, plugin, &contests, &subject);
                        by_plugin.push((plugin, ranked));
                    }
                    by_plugin.iter().find(|(of, _)| *of == plugin).and_then(|(_, ranked)| ranked.clone())
                }
                None => {
                    let mut judged = Vec::with_capacity(contests[request].len());
                    for of in &contests[request] {
                        let (factors, counted) = factors(edge, (slot.slot, self.channel), *of, &scores, &evaluation);
                        if ask.explain {
                            governed.factors.push((request, *of, factors, counted));
                        }
                        judged.push(judge(*of, factors.priority()));
                    }
                    Some(judged)
                }
            });
        }

        let filled: Vec<Contest<'_>> = ask
            .slots
            .iter()
            .zip(&contests)
            .zip(&rankings)
            .map(|((slot, candidates), ranking)| Contest {
                candidates,
                count: slot.count,
                per_category: catalog.slots[slot.slot].per_category,
                ranking: ranking.as_deref(),
            })
            .collect();
        let mut left = std::mem::take(&mut governed.left);
        governed.unranked = left.len();
        let mut tell = |request: usize, offer: usize, why: Left| left.push((request, offer, why));
        governed.choices = fill(&filled, &mut screen, ask.explain.then_some(&mut tell as &mut dyn FnMut(_, _, _)));
        if ask.explain {
            governed.judged = rankings.iter().map(|ranking| ranking.clone().unwrap_or_default()).collect();
            left.iter_mut().for_each(|(.., why)| policy.shelf.explain(why, past, at));
            governed.left = left;
            governed.inputs = inputs(edge, ask, &evaluation);
            governed.stages = invocation.told();
        }
        governed.silent = held_out && holdout.is_some_and(|(_, answer)| answer == HoldoutAnswer::Nothing);
        self.expose(&mut governed, &looked, held_out);
        governed
    }

    fn rank(
        &self,
        invocation: &mut Invocation<'_>,
        plugin: usize,
        contests: &[Vec<usize>],
        subject: &Subject<'_>,
    ) -> Option<Vec<Judgement>> {
        let edge = self.edge;
        let asked = |request: &usize| edge.catalog_reads.ranker(self.ask.slots[*request].slot) == Some(plugin);
        let of_plugin: Vec<usize> = (0..contests.len()).filter(asked).collect();
        let mut candidates: Vec<usize> = of_plugin.iter().flat_map(|request| &contests[*request]).copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        // As long as nobody left, the columns are those that were made with the catalogue.
        let slot = match of_plugin.as_slice() {
            [only] => Some(self.ask.slots[*only].slot),
            _ => None,
        };
        let slot = slot.filter(|slot| edge.catalog.slots[*slot].candidates == candidates);
        let ranked = invocation.rank(plugin, &edge.catalog_reads, &candidates, slot, subject);
        ranked.inspect_err(|error| note_failure(edge, plugin, "rank", error)).ok()
    }

    /// Why the channel is closed, if it is.
    fn closed(&self) -> Option<Left> {
        let channel = self.edge.catalog.channels.get(self.channel)?;
        if opted_out(&self.seen.fragment.consent, &channel.purpose) {
            return Some(Left::OptedOut);
        }
        let quiet = channel.quiet.as_ref()?;
        let business = self.edge.plugins.schema().definitions.time();
        let own = own_clock(self.edge, &self.seen.fragment, quiet);
        let until = quiet_until(quiet, self.moment.at, own.as_ref().unwrap_or(business))?;
        Some(Left::Quiet { until })
    }

    fn assigned(&self, experiment: &Experiment) -> Option<usize> {
        let unit = unit(&self.known.identifiers).unwrap_or(&self.ask.visitor);
        Some(experiment.assign(unit, &self.seen.fragment.offers).arm)
    }

    fn is_held_out(&self, experiment: Option<&Experiment>) -> bool {
        experiment.is_some_and(|experiment| self.assigned(experiment) == Some(HELD))
    }

    /// Notes the experiments that mattered in this decision and did for the first time, and which variants are shown.
    fn expose(&mut self, governed: &mut Governed, looked: &[Looked], held_out: bool) {
        let policy = &self.edge.policy;
        let chosen: Vec<usize> = governed.choices.iter().flat_map(|choice| &choice.offers).map(|of| of.offer).collect();
        if let Some((holdout, _)) = &policy.holdout {
            self.note(holdout);
        }
        if held_out {
            return;
        }
        if let Some(control) = &policy.control {
            self.note(control);
        }
        for (index, experiment) in policy.campaigns.iter().enumerate() {
            let Some(experiment) = experiment else { continue };
            // It mattered where an offer of it was chosen, or would have been let through.
            let mattered = self.edge.catalog.campaigns[index]
                .offers
                .iter()
                .any(|offer| chosen.contains(offer) || looked[*offer] == Looked::HeldOut);
            if mattered {
                self.note(experiment);
            }
        }
        for offer in chosen {
            if let Some(experiment) = &policy.variants[offer] {
                if let Some(arm) = self.assigned(experiment) {
                    governed.variants.push((offer, arm));
                }
                self.note(experiment);
            }
        }
    }

    fn note(&mut self, experiment: &Experiment) {
        let unit = unit(&self.known.identifiers).unwrap_or(&self.ask.visitor);
        let assigned = experiment.assign(unit, &self.seen.fragment.offers);
        if assigned.first {
            self.exposures.extend(experiment.exposure(assigned.arm, self.moment.at));
        }
    }
}

/// What makes up the priority of an offer in a slot on a channel, and by what everyone did, where that is part of it.
fn factors(
    edge: &Edge,
    (slot, channel): (usize, usize),
    offer: usize,
    scores: &[Option<f64>],
    evaluation: &Evaluation<'_>,
) -> (Factors, Option<Counted>) {
    let (of_slot, of) = (&edge.catalog.slots[slot], &edge.catalog.offers[offer]);
    let score = edge.catalog_reads.bound().propensity(offer).map(|score| scores.get(score).copied().flatten());
    let weighs = |weight: &&selvedge_core::catalog::ContextWeight| {
        weight.offers.binary_search(&offer).is_ok() && weight.when.is_none_or(|when| evaluation.met(when))
    };
    let rate = edge.policy.rates.as_ref().filter(|_| score.is_none() && of_slot.arbitration.propensity);
    let rate = rate.map(|rates| rates.of(offer, channel));
    let all = Factors {
        // A score that is missing says nothing for the offer; one that names none is as likely as everyone takes it, or as any other.
        propensity: score.map_or(rate.map_or(1.0, |(rate, _)| rate), |score| score.unwrap_or(0.0)),
        context: of_slot.context_weights.iter().filter(weighs).map(|weight| weight.factor).product(),
        value: of.value.to_f64(),
        lever: of.lever.to_f64(),
    };
    (all.within(&of_slot.arbitration), rate.map(|(_, counted)| counted))
}

/// What the conditions of the candidates read, and what that said, by position of the read.
fn inputs(edge: &Edge, ask: &Ask<'_>, evaluation: &Evaluation<'_>) -> Vec<String> {
    let mut told = Vec::new();
    for read in ask.slots.iter().flat_map(|slot| edge.policy.gates.reads_of_slot(slot.slot)) {
        let place = *read as usize;
        if told.len() <= place {
            told.resize(place + 1, String::new());
        }
        if told[place].is_empty() {
            told[place] = explained::input(evaluation.input(*read));
        }
    }
    told
}
