//! Fragments: what is known of one identifier, and the fold that makes it from changes.
//!
//! The fold is deterministic and reads nothing but its parameters. It does not run plugins: what they contribute to an event arrives
//! as plain [`Effects`].

use serde::{Deserialize, Serialize};

use crate::aggregate::{Applied, Definitions, Exactness, Off, Read, Reading, State};
use crate::change::{DecidedOffer, decided_before};
use crate::consent::{Consent, Decision};
use crate::effects::Effects;
use crate::event::Event;
use crate::identity::Identifier;
use crate::links::{Links, Word};
use crate::mart::{Load, Mart, Part};
use crate::offers::{Exposure, Offers};
use crate::prepared::Memo;
use crate::retracted::Retracted;
use crate::shared::Shared;
use crate::time::Moment;
use crate::traits::{Trait, TraitSources, Traits};
use crate::value::Timestamp;

pub use crate::bounds::Bounds;

/// What is known of one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// The time of the oldest event, of those that were retracted too.
    pub oldest_event_at: Option<Timestamp>,
    /// The time of the newest event, of those that were retracted too.
    pub newest_event_at: Option<Timestamp>,
    /// How many events there were, those that were retracted included.
    pub events: u64,
    /// How many times a plugin failed to observe one.
    pub failures: u64,
    /// What is said of it.
    pub traits: Shared<Traits>,
    /// The states of the active definitions, by position.
    pub states: Shared<Vec<State>>,
    /// What happened with offers.
    pub offers: Offers,
    /// What was allowed.
    pub consent: Consent,
    /// Who is the same person.
    pub links: Links,
    /// Which of its events no longer count.
    pub retracted: Retracted,
    /// What batch systems say.
    pub mart: Shared<Mart>,
    /// The instant of its newest erasure: what was said by then does not count.
    pub erased: Option<Timestamp>,
    /// What is worked out of it already.
    #[serde(skip)]
    pub memo: Memo,
}

/// What folding an event has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub enum Folded {
    /// It counts, and the state is that of all events that do.
    Counted,
    /// It is from before an erasure: nothing has changed.
    Ignored,
    /// It was retracted before it came: it is counted as an event and does nothing else.
    LeftOut,
    /// The state is not that of all events that count: it must be folded again from the history, this event included.
    Refold,
}

/// What the fold needs of an event besides its [`Effects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventRef {
    /// When it happened.
    pub at: Timestamp,
    /// The hash of its id.
    pub id_hash: [u8; 16],
    /// When it was received.
    pub received_at: Timestamp,
}

impl From<&Event> for EventRef {
    fn from(event: &Event) -> Self {
        Self { at: event.at, id_hash: event.id_hash(), received_at: event.received_at }
    }
}

impl Fragment {
    /// A fragment of which nothing is known yet.
    pub fn empty(definitions: &Definitions) -> Self {
        Self { states: definitions.empty_states().into(), ..Self::default() }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.events == 0 && self.offers.is_empty() && self.links.alone() && self.mart.is_empty()
    }

    /// Folds an event. Says whether the state must be folded again from its history, in the order of time: where the event takes back another,
    /// which may have been folded, or comes too late for a state that has forgotten its time.
    pub fn apply_event(&mut self, definitions: &Definitions, event: &EventRef, effects: &Effects) -> Folded {
        let EventRef { at, id_hash, received_at } = *event;
        if self.erased_by(received_at) {
            return Folded::Ignored;
        }
        self.events += 1;
        self.oldest_event_at = Some(self.oldest_event_at.map_or(at, |oldest| oldest.min(at)));
        self.newest_event_at = Some(self.newest_event_at.map_or(at, |newest| newest.max(at)));
        // What a retracted event retracts stays retracted: else the order of their arrival would show.
        let takes_back = effects.retracts.is_some_and(|retracts| self.retracted.insert(retracts));
        let mut folded = if takes_back { Folded::Refold } else { Folded::Counted };
        if self.retracted.holds(&id_hash) {
            return folded.max(Folded::LeftOut);
        }
        self.failures += u64::from(effects.failures);
        let trusted = !effects.claimed;
        let applied = if effects.contributions.is_empty() {
            Applied::Well
        } else if self.mart.cuts(at) {
            let when = definitions.when(at, &id_hash, trusted);
            self.mart.apply(definitions, &mut self.states, &effects.contributions, &when)
        } else {
            let before = self.memo.before(&self.states);
            let applied = definitions.apply(&mut self.states, &effects.contributions, at, &id_hash, trusted);
            if let Some(before) = before {
                let changed = effects.contributions.iter().map(|contribution| contribution.state);
                self.memo.follow(&before, &self.states, changed);
            }
            applied
        };
        match applied {
            Applied::Well => {}
            Applied::Failed => self.failures += 1,
            Applied::Late => folded = Folded::Refold,
        }
        for (name, value) in &effects.traits {
            let (source, claimed) = (&effects.source, effects.claimed);
            self.traits.apply(&Trait { name, source, value, at, claimed, id_hash });
        }
        if let Some(feedback) = &effects.feedback {
            feedback.acts().for_each(|act| self.offers.record(&feedback.offer, &feedback.channel, act, at, 1));
        }
        for (purpose, granted) in &effects.consent {
            self.consent.apply(purpose, Decision { granted: *granted, at });
        }
        folded
    }

    /// Whether some of its states wait for the history to be folded.
    pub fn is_backfilling(&self) -> bool {
        self.states.iter().any(|state| matches!(state, State::Backfilling))
    }

    /// Whether what was said at an instant is from before an erasure.
    pub fn erased_by(&self, said_at: Timestamp) -> bool {
        self.erased.is_some_and(|erased| said_at <= erased)
    }

    /// Forgets everything. What was said by this instant and comes later does not count either.
    pub fn erase(&mut self, definitions: &Definitions, at: Timestamp) {
        let erased = self.erased.max(Some(at));
        *self = Self { erased, ..Self::empty(definitions) };
    }

    /// Folds what a batch system says. Says whether the state must be folded again from its history: where events came after a watermark that
    /// is moved.
    pub fn apply_load(&mut self, definitions: &Definitions, load: &Load) -> Folded {
        if self.erased_by(load.as_of) {
            return Folded::Ignored;
        }
        let Some(folded) = self.mart.take(definitions, &mut self.states, load.without_traits(), self.newest_event_at)
        else {
            return Folded::Counted;
        };
        let (source, at, id_hash) = (&load.source, load.as_of, load.hash());
        let words = load.traits.iter().map(|(name, value)| Trait { name, source, value, at, claimed: false, id_hash });
        self.traits.give(&load.block, &load.source, words);
        folded
    }

    /// What a reading says at an instant, and how near that is. What a load gives of the past and the events do not have is missing from windows
    /// that reach back before its watermark.
    pub fn read(&self, definitions: &Definitions, reading: &Reading, moment: &Moment) -> Read {
        let read = definitions.evaluate(reading, &self.states, moment);
        if self.mart.parts().is_empty() || !self.lacks(definitions, reading, moment) {
            return read;
        }
        Read { exactness: read.exactness.and(Exactness::Off(Off::Unknown)), ..read }
    }

    /// Whether a reading lacks what a load says: it takes in time before a watermark at which the events do not add up to what was loaded.
    pub fn lacks(&self, definitions: &Definitions, reading: &Reading, moment: &Moment) -> bool {
        let odd = |state: u16| {
            let of_state = |part: &&Part| definitions.lifetime_state(&part.name) == Some(state);
            self.mart.parts().iter().filter(of_state).filter(|part| !part.agrees()).map(|part| part.as_of).max()
        };
        let reach = definitions.reach(reading, &self.states, moment);
        let lifetime = reach.began.is_none();
        let odds: Vec<Option<Timestamp>> = reach.states.iter().map(|state| odd(*state)).collect();
        if lifetime {
            // One side of a quotient or difference from the load, the other from the events.
            return odds.iter().any(Option::is_some) && odds.iter().any(Option::is_none);
        }
        odds.into_iter().flatten().any(|as_of| reach.began.is_some_and(|began| began < as_of.0))
    }

    /// Folds a link, or that it was taken back.
    pub fn apply_link(&mut self, other: &Identifier, word: Word) {
        if !self.erased_by(word.at) {
            self.links.apply(other, word);
        }
    }

    /// Takes in another fragment of the same person: what a fold of both histories gives. Links, retracted ids and
    /// erasures stay each fragment's own.
    pub fn join(&mut self, definitions: &Definitions, other: &Self) {
        self.oldest_event_at = match (self.oldest_event_at, other.oldest_event_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.newest_event_at = self.newest_event_at.max(other.newest_event_at);
        self.events += other.events;
        self.failures += other.failures;
        self.failures += definitions.join(&mut self.states, &other.states);
        self.traits.join(&other.traits);
        self.offers.join(&other.offers);
        self.consent.join(&other.consent);
        self.mart.join(&other.mart);
    }

    /// Folds decided offers, and the exposures that their decisions were.
    pub fn apply_decided(&mut self, offers: &[DecidedOffer], exposures: &[Exposure]) {
        if self.erased.is_some_and(|erased| decided_before(offers, exposures, erased)) {
            return;
        }
        offers.iter().for_each(|decided| self.offers.decide(decided));
        exposures.iter().for_each(|exposure| self.offers.expose(exposure));
    }

    /// The calendars around an instant as this visitor sees them.
    pub fn moment(&self, definitions: &Definitions, sources: &TraitSources, at: Timestamp) -> Moment {
        definitions.moment(at, |name| self.traits.text(name, sources))
    }

    /// Bytes in memory, about, with what will be worked out of it once a plugin asks; for the cache's budget.
    pub fn weight(&self) -> usize {
        let columns = (self.states.len() + self.traits.len()) * size_of::<f64>();
        let states = self.states.weight(|states| states.iter().map(|state| size_of::<State>() + state.weight()).sum());
        let traits = self.traits.weight(Traits::weight);
        size_of::<Self>()
            + states
            + traits
            + self.offers.weight()
            + self.consent.weight()
            + self.links.weight()
            + self.retracted.weight()
            + self.mart.weight(Mart::weight)
            + self.memo.weight().max(columns)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::activation::RETENTION_MS;
    use crate::effects::tests::event;
    use crate::event::Refusal;
    use crate::limits;
    use crate::retracted::RETRACTED_MAX;
    use crate::time::BusinessTime;

    fn fold(events: &[Event]) -> Fragment {
        let definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        let mut fragment = Fragment::empty(&definitions);
        for event in events {
            let _ = fragment.apply_event(&definitions, &event.into(), &Effects::of(event).expect("a good event"));
        }
        fragment
    }

    #[test]
    fn traits_come_out_the_same_in_any_order() {
        let events = [
            event("", "a", 10, r#"{"traits":{"country":"France","plan":"free"}}"#),
            event("Signed Up", "b", 20, r#"{"context":{"source":"import","traits":{"country":"Spain"}}}"#),
            event("", "c", 20, r#"{"traits":{"country":"Italy"}}"#),
            event("", "d", 5, r#"{"traits":{"country":"Malta","plan":null}}"#),
        ];
        let forwards = fold(&events);
        let mut reversed = events.to_vec();
        reversed.reverse();
        assert_eq!(forwards, fold(&reversed));
        let get = |name| forwards.traits.get(name, &TraitSources::default()).map(|word| word.value.to_string());
        assert_eq!(get("plan").as_deref(), Some("\"free\""));
        assert!(get("country").is_some_and(|country| country != "\"France\""));
        assert_eq!((forwards.oldest_event_at, forwards.newest_event_at), (Some(Timestamp(5)), Some(Timestamp(20))));
    }

    #[test]
    fn feedback_is_counted_and_needs_its_offer() {
        let shown = |id: &str, at: i64| event("Offer Shown", id, at, r#"{"properties":{"offer_id":"kettle"}}"#);
        let fragment = fold(&[shown("a", 7), shown("b", 3), event("Offer Waved", "c", 9, "{}")]);
        let kettle = fragment.offers.get("kettle");
        assert_eq!((kettle.shown, kettle.last_shown_at), (2, Some(Timestamp(7))));
        assert_eq!(fragment.offers.len(), 1);
        let refusal = Effects::of(&event("Offer Shown", "a", 1, "{}")).expect_err("no offer");
        assert_eq!((refusal.code, refusal.pointer.as_str()), ("offer_id_missing", "/properties/offer_id"));
    }

    #[test]
    fn fragments_of_one_person_join_to_the_fold_of_both() {
        let events = [
            event("", "a", 10, r#"{"traits":{"country":"France"},"context":{"consent":{"ads":true}}}"#),
            event("Offer Shown", "b", 20, r#"{"properties":{"offer_id":"kettle"}}"#),
            event(
                "",
                "c",
                20,
                r#"{"traits":{"country":"Italy","plan":"free"},"context":{"consent":{"ads":false,"mail":true}}}"#,
            ),
            event("Offer Shown", "d", 5, r#"{"properties":{"offer_id":"kettle"}}"#),
        ];
        let definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        for split in 0..=events.len() {
            let mut joined = fold(&events[..split]);
            joined.join(&definitions, &fold(&events[split..]));
            assert_eq!(joined, fold(&events), "{split}");
        }
        assert_eq!(fold(&events).consent.get("ads").map(|decision| decision.granted), Some(false));
        let refused = Effects::of(&event("", "a", 1, r#"{"context":{"consent":{"ads":"yes"}}}"#)).expect_err("a text");
        assert_eq!(refused.pointer, "/context/consent/ads");
    }

    #[test]
    fn the_bounds_move_with_what_is_admitted() {
        let fragment = Arc::new(fold(&[event("A", "a", 10, "{}")]));
        let many = |prefix: &str, count: usize| Effects {
            traits: (0..count).map(|index| (format!("{prefix}{index}").into(), "1".into())).collect(),
            ..Effects::default()
        };
        let mut bounds = Bounds::of(&fragment);
        let code = |outcome: Result<(), Refusal>| outcome.map_err(|refusal| refusal.code);
        assert_eq!(code(bounds.admit(Timestamp(20), &many("a", limits::TRAITS_MAX - 1))), Ok(()));
        assert_eq!(code(bounds.admit(Timestamp(20), &many("b", 2))), Err("too_many_traits"));
        assert_eq!(code(bounds.admit(Timestamp(20), &many("a", 9))), Ok(()), "known by now");
        let wide =
            Effects { traits: vec![("a0".into(), "x".repeat(limits::TRAITS_BYTES_MAX).into())], ..Effects::default() };
        assert_eq!(code(bounds.admit(Timestamp(20), &wide)), Err("too_many_traits"));
        assert_eq!(code(bounds.admit(Timestamp(20 + RETENTION_MS), &many("c", 1))), Ok(()));
        assert_eq!(code(bounds.admit(Timestamp(19), &Effects::default())), Err("too_old"));
    }

    #[test]
    fn a_retraction_that_comes_first_keeps_its_event_out_for_good() {
        let definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        let mut fragment = Fragment::empty(&definitions);
        let mut apply = |event: &Event| {
            fragment.apply_event(&definitions, &event.into(), &Effects::of(event).expect("a good event"))
        };
        let takes_back = |id: &str, retracts: &str| {
            event("Undone", id, 20, &format!(r#"{{"context":{{"retracts":"{retracts}","traits":{{"{id}":1}}}}}}"#))
        };
        let said = event("", "said", 10, r#"{"traits":{"country":"France"},"context":{"consent":{"ads":true}}}"#);
        assert_eq!(apply(&takes_back("one", "said")), Folded::Refold);
        assert_eq!(apply(&takes_back("two", "said")), Folded::Counted, "retracted already");
        assert_eq!(apply(&said), Folded::LeftOut);
        // Taking the retraction back takes its own effects back, and nothing else.
        assert_eq!(apply(&takes_back("three", "one")), Folded::Refold);
        assert_eq!(apply(&takes_back("four", "four")), Folded::Refold);
        assert_eq!((fragment.events, fragment.oldest_event_at), (5, Some(Timestamp(10))));
        assert!(fragment.traits.get("country", &TraitSources::default()).is_none());
        assert!(fragment.traits.get("two", &TraitSources::default()).is_some());
        assert!(fragment.traits.get("four", &TraitSources::default()).is_none());
        assert!(fragment.consent.get("ads").is_none());
        assert_eq!(fragment.retracted.len(), 3);
    }

    #[test]
    fn an_erasure_takes_what_came_and_what_comes_late_and_lets_begin_anew() {
        let definitions = Definitions::new(BusinessTime::new("UTC").expect("UTC"));
        let said = |id: &str, at: i64| event("", id, at, r#"{"traits":{"country":"France"}}"#);
        let mut fragment =
            fold(&[said("a", 10), event("Offer Shown", "b", 30, r#"{"properties":{"offer_id":"kettle"}}"#)]);
        fragment.erase(&definitions, Timestamp(20));
        assert!(
            fragment.is_empty() && fragment.traits.is_empty() && fragment.offers.is_empty(),
            "by its place in the log"
        );
        let erased = fragment.clone();
        let mut apply = |event: &Event| {
            fragment.apply_event(&definitions, &event.into(), &Effects::of(event).expect("a good event"))
        };
        assert_eq!(apply(&said("late", 20)), Folded::Ignored);
        assert_eq!(fragment, erased);
        let minute = |minute: i64| [DecidedOffer::on_web("kettle", Timestamp(minute), 1)];
        fragment.apply_decided(&minute(0), &[]);
        let word = |at: i64| Word { at: Timestamp(at), linked: true, id: [0; 16], how: crate::links::How::Api };
        let other = Identifier::stored("anonymous:a").expect("an identifier");
        fragment.apply_link(&other, word(20));
        assert_eq!(fragment, erased);
        // What happened before may be told anew.
        let anew = Event { received_at: Timestamp(21), ..said("anew", 5) };
        assert_eq!(fragment.apply_event(&definitions, &(&anew).into(), &Effects::default()), Folded::Counted);
        fragment.apply_decided(&minute(60_000), &[]);
        fragment.apply_link(&other, word(21));
        assert_eq!((fragment.events, fragment.offers.len(), fragment.links.alone()), (1, 1, false));
        fragment.erase(&definitions, Timestamp(15));
        assert_eq!(fragment, erased, "an erasure never ends before an earlier one");
    }

    #[test]
    fn retractions_are_bounded() {
        let fragment = Arc::new(fold(&[event("A", "a", 10, r#"{"context":{"retracts":"held"}}"#)]));
        let mut bounds = Bounds::of(&fragment);
        let mut admit = |number: u16| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let effects = Effects { retracts: Some(id), ..Effects::default() };
            bounds.admit(Timestamp(20), &effects).map_err(|refusal| (refusal.code, refusal.pointer))
        };
        let last = RETRACTED_MAX as u16 - 1;
        assert!((0..last).all(|number| admit(number).is_ok()));
        assert_eq!(admit(last), Err(("too_many_retractions", "/context/retracts".to_owned())));
        assert_eq!(admit(7), Ok(()), "retracted already");
    }
}
