//! Does on demand whatever a plugin must not do, and what it may do but seldom does.

use core::sync::atomic::{AtomicU32, Ordering};

use selvedge_guest::prelude::*;

/// The plugin.
pub struct Faulty;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Fault {
    /// Nothing wrong.
    #[choice("none")]
    None,
    /// Returns the failure that says: the input.
    #[choice("reject")]
    Reject,
    /// Returns the failure that says: the plugin.
    #[choice("fail")]
    Fail,
    /// Panics, with a message.
    #[choice("panic")]
    Panic,
    /// Never ends.
    #[choice("loop")]
    Loop,
    /// Allocates without end.
    #[choice("allocate")]
    Allocate,
    /// Recurses without end.
    #[choice("recurse")]
    Recurse,
    /// Answers ten million judgements, for which it has no memory.
    #[choice("flood")]
    Flood,
    /// Answers as many judgements as it has memory and fuel for.
    #[choice("many")]
    Many,
    /// Answers a number that is none.
    #[choice("nan")]
    Nan,
    /// Answers one judgement too few.
    #[choice("short")]
    Short,
    /// Rejects where it was asked the same in this instance before.
    #[choice("remember")]
    Remember,
    /// Logs without end, within its fuel.
    #[choice("chatter")]
    Chatter,
}

/// What is read of an event.
#[derive(Reads)]
pub struct Asked {
    #[read("event:properties.fault")]
    fault: Option<Fault>,
}

/// What is read to score a visitor.
#[derive(Reads)]
pub struct Profile {
    #[read("trait:fault")]
    fault: Option<Fault>,
}

/// What is read to rank offers for a visitor.
#[derive(Reads)]
pub struct Visitor {
    #[read("ctx:fault")]
    fault: Option<Fault>,
    #[read("household.agg:faulty.events")]
    household_events: Option<i64>,
    #[read("account.trait:plan")]
    plan: Option<Plan>,
}

/// What an account may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Plan {
    /// The one that turns everything round.
    #[choice("odd")]
    Odd,
}

/// What is read of an offer.
#[derive(Reads)]
pub struct Offer {
    #[read("offer:value")]
    value: Option<f64>,
}

/// What events add up to.
#[derive(Aggregates)]
pub struct Counted {
    events: Count,
}

/// What is scored.
#[derive(Scores)]
pub struct Scored {
    one: Option<f64>,
}

impl Observe for Faulty {
    const EVENTS: &'static [&'static str] = &["Fault"];
    type Event = Asked;
    type Aggregates = Counted;
    type Skip = Never;

    fn observe(event: &Asked, counted: &Counted) -> Result<(), Stop> {
        commit(event.fault)?;
        if event.fault == Some(Fault::Flood) {
            (0..10_000_000).for_each(|_| counted.events.increment());
        }
        counted.events.increment();
        Ok(())
    }
}

impl Score for Faulty {
    type Visitor = Profile;
    type Scores = Scored;

    fn score(profile: &Profile) -> Result<Scored, Stop> {
        commit(profile.fault)?;
        Ok(Scored { one: Some(if profile.fault == Some(Fault::Nan) { f64::NAN } else { 1.0 }) })
    }
}

impl Rank for Faulty {
    type Visitor = Visitor;
    type Offer = Offer;
    type Reason = Never;

    fn rank(visitor: &Visitor, offers: &[Offer]) -> Result<Vec<Judgement>, Stop> {
        commit(visitor.fault)?;
        let count = match visitor.fault {
            Some(Fault::Flood) => 10_000_000,
            Some(Fault::Many) => 10_000,
            Some(Fault::Short) => offers.len().saturating_sub(1),
            _ => offers.len(),
        };
        let value = |index: usize| offers.get(index).and_then(|offer| offer.value).unwrap_or(0.0);
        // A lively household, or an odd account, sees the offers the other way round.
        let turned = visitor.household_events.is_some_and(|events| events > 1) || visitor.plan.is_some();
        let priority = |index| match visitor.fault {
            Some(Fault::Nan) => f64::NAN,
            _ if turned => -value(index),
            _ => value(index),
        };
        Ok((0..count).map(|index| Judgement::offer(priority(index))).collect())
    }
}

/// How often it was asked to remember.
static REMEMBERED: AtomicU32 = AtomicU32::new(0);

fn commit(fault: Option<Fault>) -> Result<(), Stop> {
    match fault {
        Some(Fault::Remember) => match REMEMBERED.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(()),
            before => Err(Stop::Rejected(format!("asked {before} times before"))),
        },
        Some(Fault::Reject) => Err(Stop::Rejected("as asked".into())),
        Some(Fault::Fail) => Err(Stop::Internal("as asked".into())),
        Some(Fault::Panic) => panic!("as asked"),
        Some(Fault::Loop) => {
            let mut turns = 0_u64;
            loop {
                turns = std::hint::black_box(turns.wrapping_add(1));
            }
        }
        Some(Fault::Allocate) => {
            let mut held = Vec::new();
            loop {
                held.push(std::hint::black_box(Vec::<u8>::with_capacity(64 * 1024)));
            }
        }
        Some(Fault::Recurse) => {
            let depth = recurse(std::hint::black_box(1));
            Err(Stop::Internal(depth.to_string()))
        }
        Some(Fault::Chatter) => {
            (0..1000).for_each(|_| log(Level::Info, "chatter"));
            Ok(())
        }
        _ => Ok(()),
    }
}

#[inline(never)]
#[allow(unconditional_recursion)] // as asked
fn recurse(depth: u64) -> u64 {
    let held = std::hint::black_box([depth; 64]);
    held[0] + recurse(depth + 1) + held[63]
}

selvedge_guest::export!(Faulty: observe, score, rank);
