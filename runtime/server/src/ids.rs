//! Ids that this process gives out: unique because each process start draws a random name.

use std::sync::atomic::{AtomicU64, Ordering};

use compact_str::{CompactString, format_compact};

/// Gives out ids.
pub struct Ids {
    boot: u64,
    next: AtomicU64,
}

impl Ids {
    /// Draws the name of this process start.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { boot: getrandom::u64()?, next: AtomicU64::new(1) })
    }

    /// A new id.
    pub fn fresh(&self) -> CompactString {
        format_compact!("{:016x}{:08x}", self.boot, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// An anonymous id for a visitor who has none: random, so that nobody guesses another's. As a UUID (RFC 9562, version 4).
pub fn anonymous_id() -> Result<String, getrandom::Error> {
    let (high, low) = (getrandom::u64()?, getrandom::u64()?);
    let (version, variant) = (high & 0xfff | 0x4000, (low >> 48) & 0x3fff | 0x8000);
    Ok(format!(
        "{:08x}-{:04x}-{version:04x}-{variant:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        low & 0xffff_ffff_ffff
    ))
}

/// A random name, for what lives longer than a process.
pub fn random_name() -> Result<String, getrandom::Error> {
    Ok(format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?))
}

/// The seed of a decision: it follows from the decision's id, so that whoever has the id can decide the same again.
pub fn seed(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}
