//! Experiments: who is held out, who gets the random control, who sees which variant; and what came of it ([`lift`]).
//!
//! An assignment is drawn by a salted hash of the known identifier (`user:…`), else of the anonymous one, so every edge draws alike without asking anybody. The
//! first time that an experiment matters for somebody is stored on their profile ([`Exposure`]); from then on that holds, whatever the hash says once they are known
//! by another identifier or the shares have changed. Where fragments are linked the earliest exposure wins.
//!
//! The hash is XXH3 with 64 bits of the experiment's name, its salt and the identifier, each ended by a zero byte; its value as a fraction of 2⁶⁴ is the draw.

pub mod lift;

use compact_str::CompactString;
use xxhash_rust::xxh3::Xxh3;

use crate::catalog::terms::{Part, Share};
use crate::identity::Identifier;
use crate::offers::{Exposure, Offers};
use crate::value::Timestamp;

/// The experiment that the global hold-out is.
pub const HOLDOUT: &str = "holdout";
/// The experiment that the random control is.
pub const CONTROL: &str = "control";
/// The arm of those who are held out, or in the control.
pub const HELD: &str = "held";
/// The arm of all others.
pub const TREATED: &str = "treated";

/// The experiment that a campaign's hold-out is.
pub fn campaign(id: &str) -> CompactString {
    compact_str::format_compact!("campaign:{id}")
}

/// The experiment that an offer's variants are.
pub fn offer(id: &str) -> CompactString {
    compact_str::format_compact!("offer:{id}")
}

/// The identifier by which somebody is assigned: the user's, else the anonymous one, else the first that there is.
pub fn unit(identifiers: &[Identifier]) -> Option<&Identifier> {
    let of = |namespace: &str| identifiers.iter().find(|identifier| identifier.namespace() == namespace);
    of("user").or_else(|| of("anonymous")).or_else(|| identifiers.first())
}

/// Something with arms of which one is drawn for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Its name.
    pub name: CompactString,
    /// Another salt draws others.
    pub salt: CompactString,
    /// Each with its weight beside the others'; not all 0.
    arms: Vec<(CompactString, u32)>,
    total: u64,
}

/// To which arm somebody is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// By position among the arms.
    pub arm: usize,
    /// Whether this is to be stored once it matters: there is no exposure yet.
    pub first: bool,
}

impl Experiment {
    /// Arms by weight.
    pub fn new(name: CompactString, salt: CompactString, arms: Vec<(CompactString, u32)>) -> Self {
        let total = arms.iter().map(|(_, weight)| u64::from(*weight)).sum();
        Self { name, salt, arms, total }
    }

    /// A part of everybody that is held out; its arms are [`HELD`] and [`TREATED`], in this order.
    pub fn held_out(name: CompactString, part: &Part) -> Self {
        let Share(held) = part.share.min(Share::ALL);
        let arms = vec![(HELD.into(), held), (TREATED.into(), Share::ALL.0 - held)];
        Self::new(name, part.salt.clone(), arms)
    }

    /// The names of the arms.
    pub fn arm(&self, index: usize) -> Option<&CompactString> {
        self.arms.get(index).map(|(arm, _)| arm)
    }

    /// Draws an arm for somebody, whatever they were exposed to.
    pub fn draw(&self, unit: &Identifier) -> usize {
        let mut hash = Xxh3::new();
        for part in [self.name.as_bytes(), self.salt.as_bytes(), unit.as_str().as_bytes()] {
            hash.update(part);
            hash.update(&[0]);
        }
        let draw = (u128::from(hash.digest()) * u128::from(self.total)) >> 64;
        let mut upto = 0_u128;
        let drawn = self.arms.iter().position(|(_, weight)| {
            upto += u128::from(*weight);
            draw < upto
        });
        drawn.unwrap_or(0)
    }

    /// The arm of somebody: the one that they were exposed to first, where there still is one of that name, else the one that is drawn.
    pub fn assign(&self, unit: &Identifier, past: &Offers) -> Assigned {
        let exposed = past.exposure(&self.name);
        let held = exposed.and_then(|exposure| self.arms.iter().position(|(arm, _)| *arm == exposure.arm));
        held.map_or_else(
            || Assigned { arm: self.draw(unit), first: exposed.is_none() },
            |arm| Assigned { arm, first: false },
        )
    }

    /// What is stored of an assignment that mattered at an instant.
    pub fn exposure(&self, arm: usize, at: Timestamp) -> Option<Exposure> {
        Some(Exposure { experiment: self.name.clone(), at, arm: self.arm(arm)?.clone() })
    }
}

/// A priority for an offer in a slot that depends on nothing but the seed: for the random control, whose best is then any of the eligible ones, each as likely.
pub fn random_priority(seed: u64, slot: usize, offer: usize) -> f64 {
    let mut hash = Xxh3::with_seed(seed);
    hash.update(&(slot as u64).to_le_bytes());
    hash.update(&(offer as u64).to_le_bytes());
    // The upper 53 bits: what a float holds.
    (hash.digest() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifier(text: &str) -> Identifier {
        Identifier::stored(text).expect("an identifier")
    }

    fn held_out(percent: u32, salt: &str) -> Experiment {
        Experiment::held_out(HOLDOUT.into(), &Part { share: Share(percent * 10_000), salt: salt.into() })
    }

    /// Whether a count lies within the interval in which 99.9% of binomial draws do, by the normal approximation: z = 3.2905.
    fn within(count: u64, of: u64, share: f64) -> bool {
        let (mean, deviation) = (of as f64 * share, (of as f64 * share * (1.0 - share)).sqrt());
        (count as f64 - mean).abs() <= 3.2905 * deviation
    }

    #[test]
    fn the_shares_of_a_million_visitors_are_those_that_were_asked_for() {
        const VISITORS: u64 = 1_000_000;
        let experiments = [held_out(10, ""), held_out(10, "again"), held_out(1, ""), held_out(50, "")];
        let variants =
            Experiment::new(offer("kettle"), "".into(), vec![("a".into(), 1), ("b".into(), 2), ("c".into(), 5)]);
        let mut held = [0_u64; 4];
        let mut of_variant = [0_u64; 3];
        let mut both = 0_u64;
        for visitor in 0..VISITORS {
            let unit = identifier(&format!("user:{visitor}"));
            let draws = [0, 1, 2, 3].map(|index: usize| experiments[index].draw(&unit) == 0);
            draws.iter().zip(&mut held).for_each(|(drawn, count)| *count += u64::from(*drawn));
            both += u64::from(draws[0] && draws[1]);
            of_variant[variants.draw(&unit)] += 1;
        }
        for (count, share) in held.into_iter().zip([0.1, 0.1, 0.01, 0.5]) {
            assert!(within(count, VISITORS, share), "{count} of {share}");
        }
        // Salts draw independently.
        assert!(within(both, VISITORS, 0.01), "{both}");
        for (count, weight) in of_variant.into_iter().zip([1.0, 2.0, 5.0]) {
            assert!(within(count, VISITORS, weight / 8.0), "{count} of {weight}");
        }
    }

    #[test]
    fn whoever_was_exposed_stays_where_they_were() {
        let experiment = held_out(50, "");
        for visitor in 0..2_000 {
            let (anonymous, user) =
                (identifier(&format!("anonymous:{visitor}")), identifier(&format!("user:{visitor}")));
            let mut past = Offers::default();
            let first = experiment.assign(unit(std::slice::from_ref(&anonymous)).expect("one"), &past);
            assert!(first.first);
            past.expose(&experiment.exposure(first.arm, Timestamp(5)).expect("an arm"));
            // Known by name, with other shares, with a later exposure of another fragment linked.
            let identifiers = [user.clone(), anonymous];
            assert_eq!(unit(&identifiers), Some(&user));
            for other in [held_out(50, ""), held_out(1, ""), held_out(99, "other")] {
                assert_eq!(other.assign(&user, &past), Assigned { arm: first.arm, first: false });
            }
            let mut linked = Offers::default();
            linked.expose(&experiment.exposure(1 - first.arm, Timestamp(6)).expect("an arm"));
            linked.join(&past);
            assert_eq!(experiment.assign(&user, &linked).arm, first.arm);
        }
    }

    #[test]
    fn an_arm_that_is_gone_is_drawn_anew_and_all_or_nobody_is_held() {
        let variants = |arms: &[(&str, u32)]| {
            Experiment::new("e".into(), "".into(), arms.iter().map(|(arm, weight)| ((*arm).into(), *weight)).collect())
        };
        let (before, after) = (variants(&[("gone", 1)]), variants(&[("a", 0), ("b", 1)]));
        let mut past = Offers::default();
        past.expose(&before.exposure(0, Timestamp(5)).expect("an arm"));
        for visitor in 0..100 {
            let unit = identifier(&format!("user:{visitor}"));
            assert_eq!(after.assign(&unit, &past), Assigned { arm: 1, first: false });
            assert_eq!((held_out(0, "").draw(&unit), held_out(100, "").draw(&unit)), (1, 0));
        }
        assert_eq!(after.exposure(2, Timestamp(5)), None);
    }

    #[test]
    fn the_random_control_gives_every_offer_the_same_chance() {
        let best = |seed: u64| {
            let priority = |offer: &usize| random_priority(seed, 3, *offer);
            (0..4).max_by(|one, other| priority(one).total_cmp(&priority(other))).expect("one")
        };
        let mut counts = [0_u64; 4];
        (0..40_000).for_each(|seed| counts[best(seed)] += 1);
        assert!(counts.iter().all(|count| within(*count, 40_000, 0.25)), "{counts:?}");
        assert_eq!(random_priority(7, 1, 2), random_priority(7, 1, 2));
    }
}
