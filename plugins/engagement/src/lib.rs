//! The engagement plugin: visits, interests, habits and momentum. Beside its own use a tour of what aggregates can do: sessions and windows
//! cut by them, values by key, lists, quantiles, streaks, trends, the visitor's own calendar, billing cycles, and an operator of its own.
//!
//! README.md defines every aggregate.

mod activity;
mod hours;
mod level;

/// The plugin.
pub struct Engagement;

selvedge_guest::export!(Engagement: observe, custom, score);
