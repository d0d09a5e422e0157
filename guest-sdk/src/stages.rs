//! The stages of a plugin: the traits that an author implements, and how a call of the host reaches them.

use crate::bindings::{Columns, Contributions, Description, Failure, Fault, Ranking};
use crate::custom::Functions;
use crate::inputs::{self, Reads};
use crate::log::install_panic_hook;
use crate::outputs::{self, Aggregates, Scores, Stop};
use crate::values::Choice;

/// Turns one event into contributions to aggregates.
pub trait Observe {
    /// The events that it wants to see: names of track events, or `$identify`, `$page`, `$screen`.
    const EVENTS: &'static [&'static str];
    /// What it reads of an event.
    type Event: Reads;
    /// What it contributes to.
    type Aggregates: Aggregates;
    /// Why it may pass over an event; [`Never`](crate::Never) if it does not.
    type Skip: Choice;

    /// Observes one event. The answer depends on the event and the configuration only: the instance is fresh for each.
    fn observe(event: &Self::Event, aggregates: &Self::Aggregates) -> Result<(), Stop<Self::Skip>>;
}

/// Turns a visitor's aggregates into scores.
pub trait Score {
    /// What it reads of a visitor.
    type Visitor: Reads;
    /// What it computes.
    type Scores: Scores;

    /// Scores one visitor.
    fn score(visitor: &Self::Visitor) -> Result<Self::Scores, Stop>;
}

/// Judges offers for a visitor.
pub trait Rank {
    /// What it reads of the visitor.
    type Visitor: Reads;
    /// What it reads of each offer.
    type Offer: Reads;
    /// The reasons that it gives; [`Never`](crate::Never) for none.
    type Reason: Choice;

    /// Judges all candidates: one judgement for each, in their order.
    fn rank(visitor: &Self::Visitor, offers: &[Self::Offer]) -> Result<Vec<outputs::Rank<Self::Reason>>, Stop>;
}

/// A whole plugin as the host sees it. [`export!`](crate::export) implements it for a type that has the stages above; one that knows
/// what it reads only from its configuration implements it by hand, and is exported by [`export_plugin!`](crate::export_plugin).
pub trait Plugin {
    /// Whether it is made by its configuration, which is when the host calls [`configure`](Self::configure) and
    /// [`restore`](Self::restore) before everything else.
    const CONFIGURED: bool = false;

    /// What it says of itself.
    fn description() -> Description;

    /// Reads the configuration, a JSON object, and answers what is to be kept of it; or every fault in it. Its instance is thrown away.
    fn configure(_config: &str) -> Result<Vec<u8>, Vec<Fault>> {
        Ok(Vec::new())
    }

    /// Takes up what [`configure`](Self::configure) answered, usually into a `thread_local`. All later instances are copies of this one,
    /// so the stages find it there, and no call parses anything.
    fn restore(_kept: &[u8]) {}

    /// The stage `aggregates`.
    fn observe(_event: &Columns) -> Result<Contributions, Failure> {
        Err(Failure::Internal("this plugin does not observe".into()))
    }

    /// The functions of an aggregate whose operator is the plugin's own.
    #[doc(hidden)]
    fn functions(_aggregate: u32) -> Option<Functions> {
        None
    }

    /// The stage `scores`.
    fn score(_visitor: &Columns) -> Result<Vec<Option<f64>>, Failure> {
        Err(Failure::Internal("this plugin does not score".into()))
    }

    /// The stage `offers`.
    fn rank(_visitor: &Columns, _offers: &Columns) -> Result<Ranking, Failure> {
        Err(Failure::Internal("this plugin does not rank".into()))
    }
}

/// Reads the configuration.
pub fn configure<P: Plugin>(config: &str) -> Result<Vec<u8>, Vec<Fault>> {
    install_panic_hook();
    P::configure(config)
}

/// Heap that an ordinary call needs.
const CALL_BYTES: usize = 12 * 1024;

/// Takes up what came of the configuration.
pub fn restore<P: Plugin>(kept: &[u8]) {
    install_panic_hook();
    P::restore(kept);
    // Whatever memory the snapshot lacks, every call would have to grow: room for an ordinary call is made once, and given back.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(CALL_BYTES)));
}

/// Decodes, observes, collects.
pub fn observe<P: Observe>(event: &Columns) -> Result<Contributions, Failure> {
    install_panic_hook();
    let event: P::Event = inputs::row(event)?;
    outputs::collect(|| P::observe(&event, &P::Aggregates::handles()))
}

/// The functions of an aggregate, or why there are none.
pub fn functions<P: Plugin>(aggregate: u32) -> Result<Functions, Failure> {
    install_panic_hook();
    P::functions(aggregate)
        .ok_or_else(|| Failure::Internal("this aggregate has no operator of the plugin's own".into()))
}

/// Decodes, scores.
pub fn score<P: Score>(visitor: &Columns) -> Result<Vec<Option<f64>>, Failure> {
    install_panic_hook();
    match P::score(&inputs::row(visitor)?) {
        Ok(scores) => Ok(scores.values()),
        Err(stop) => stop.failure(|never| match never {}),
    }
}

/// Decodes, ranks.
pub fn rank<P: Rank>(visitor: &Columns, offers: &Columns) -> Result<Ranking, Failure> {
    install_panic_hook();
    match P::rank(&inputs::row(visitor)?, &inputs::rows(offers)) {
        Ok(ranks) => Ok(outputs::ranking(&ranks)),
        Err(stop) => stop.failure(|never| match never {}),
    }
}
