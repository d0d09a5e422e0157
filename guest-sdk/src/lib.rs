//! What authors of Selvedge plugins depend on.
//!
//! A plugin is a type with up to three ordinary functions: [`Observe::observe`] turns one event into contributions to aggregates,
//! [`Score::score`] turns a visitor's aggregates into scores, [`Rank::rank`] judges offers. Their inputs are structs that derive
//! [`Reads`](macro@Reads): each field says where its value comes from, and the plugin receives nothing else. [`export!`] makes the crate a
//! component; `testing` (a feature) runs it natively in `cargo test`, with the host's own folding. A plugin that its configuration makes,
//! so that it cannot name its inputs in Rust, implements [`Plugin`] itself and reads [`bindings::Columns`] by position.
//!
//! ```
//! use selvedge_guest::prelude::*;
//!
//! #[derive(Reads)]
//! struct Viewed {
//!     #[read("event:properties.category")]
//!     category: Option<Key>,
//! }
//!
//! #[derive(Aggregates)]
//! struct Interest {
//!     #[aggregate(windows = "lifetime 7d")]
//!     views: Count,
//!     #[aggregate(half_life = "30d")]
//!     affinity: DecayedSumByKey,
//! }
//!
//! struct Views;
//!
//! impl Observe for Views {
//!     const EVENTS: &'static [&'static str] = &["Product Viewed"];
//!     type Event = Viewed;
//!     type Aggregates = Interest;
//!     type Skip = Never;
//!
//!     fn observe(event: &Viewed, interest: &Interest) -> Result<(), Stop> {
//!         interest.views.increment();
//!         if let Some(category) = event.category {
//!             interest.affinity.add(category, Decimal::ONE);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! selvedge_guest::export!(Views: observe);
//! # fn main() {}
//! ```
//!
//! A plugin reads no clock, no randomness and no files: there is nothing to import but the log. Time (`now`) and a seed (`seed`) are
//! values like any other. A panic arrives in the host's log with its message and source line.

// The paths of derived code, so that this crate's own documentation and tests can derive too.
extern crate self as selvedge_guest;

pub mod bindings;
pub mod custom;
pub mod description;
mod export;
pub mod inputs;
mod log;
#[cfg(target_arch = "wasm32")]
mod memory;
pub mod outputs;
pub mod stages;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub mod testing;
mod values;

pub use log::{Level, log};
pub use selvedge_guest_macros::{Aggregates, Choice, Reads, Scores};
pub use stages::{Observe, Plugin, Rank, Score};
pub use values::{Amount, Choice, Day, Decimal, Instant, Key, Never};

/// Everything that a plugin usually needs.
pub mod prelude {
    pub use crate::custom::{CustomOperator, Finished};
    pub use crate::outputs::{
        CalendarDaysSince, Count, CountByKey, Custom, DayStreak, DaysSince, DecayedSum, DecayedSumByKey, Difference,
        Distinct, DistinctDays, First, FirstByKey, FirstK, Histogram, HoursSince, KeyCount, Last, LastByKey, LastK,
        LeastFrequent, LongestDayStreak, Max, MaxByKey, Mean, MeanByKey, Min, MinByKey, MostFrequent, Quantile,
        QuantileByKey, QuantileOf, Rank as Judgement, Ratio, SecondsSince, SessionEvents, SessionSeconds,
        SessionStartedAt, Sessions, StandardDeviation, StandardDeviationByKey, Stop, Sum, SumByKey, Top,
        TrendDeviation, TrendRatio, TrendSlope, Unique, Variance, VarianceByKey,
    };
    pub use crate::{
        Aggregates, Choice, Day, Decimal, Instant, Key, Level, Never, Observe, Rank, Reads, Score, Scores, log,
    };
}
