//! The retail plugin: live aggregates of a shop's visitors, what they are likely to do next, and which offer suits them.
//!
//! Events are Segment's e-commerce events. The exact definitions of the aggregates stand in README.md beside this crate.

mod lifetime;
mod orders;
mod ranking;

/// The plugin.
pub struct Retail;

selvedge_guest::export!(Retail: observe, score, rank);
