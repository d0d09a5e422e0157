//! The domain of Selvedge, pure.
//!
//! `core` does no I/O, so it cannot time out; it reads no clock, no randomness and no environment: time and seed are parameters. It
//! knows nothing of HTTP, sled, redb, moka, tokio or wasmtime. What it owns, from the outside in:
//!
//! - [`event`]: what arrives, validated, by what a [`receipt`] says of its call; [`identity`]: whose it is; [`links`]: who is the same person; [`consent`]: what they allowed;
//!   [`change`]: how it stands in the log.
//! - [`description`] and [`read`]: what a plugin declares; [`lower`]: events, visitors and offers as the [`columns`] that it
//!   declared; [`stage`]: what it may answer.
//! - [`effects`], [`aggregate`], [`traits`], [`retracted`] and [`fragment`]: what events do and add up to, a deterministic fold under an [`activation`]; [`release`] and [`control`]: what edges run; [`view`]: that fold as it is read.
//! - [`offers`]: what happened with offers.
//! - [`mart`]: what batch systems say, and how live events go on from it.
//! - [`catalog`], [`condition`], [`audience`] and [`decision`]: offers, slots, who may be offered what, and the choice among them.
//! - [`sync`]: what edges and the centre say to each other, and what each makes of it.

pub mod activation;
pub mod aggregate;
pub mod audience;
mod bounds;
pub mod catalog;
pub mod change;
pub mod columns;
pub mod condition;
pub mod config;
pub mod consent;
pub mod constraint;
pub mod control;
pub mod decision;
pub mod description;
pub mod effects;
pub mod event;
pub mod experiment;
pub mod fragment;
pub mod identity;
mod json_paths;
pub mod limits;
pub mod links;
pub mod lower;
pub mod mart;
pub mod offers;
pub mod payload;
pub mod prepared;
pub mod read;
pub mod receipt;
pub mod release;
pub mod retracted;
pub mod shard_set;
pub mod shared;
pub mod stage;
pub mod sync;
pub mod time;
pub mod traits;
pub mod value;
pub mod view;
