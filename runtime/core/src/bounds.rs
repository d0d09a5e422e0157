//! Bounds: whether what comes still fits its fragment, judged at the door.

use std::sync::Arc;

use compact_str::CompactString;

use crate::activation::RETENTION_MS;
use crate::consent::PURPOSES_MAX;
use crate::effects::Effects;
use crate::event::Refusal;
use crate::fragment::Fragment;
use crate::limits;
use crate::mart::{BLOCKS_MAX, Load};
use crate::retracted::RETRACTED_MAX;
use crate::value::Timestamp;

/// Whether events still fit a fragment: its bounds as they stand after those admitted so far.
#[derive(Debug)]
pub struct Bounds {
    fragment: Arc<Fragment>,
    newest_event_at: Option<Timestamp>,
    new_traits: Vec<CompactString>,
    new_trait_bytes: usize,
    new_purposes: Vec<CompactString>,
    new_retracted: Vec<[u8; 16]>,
    new_loads: Vec<Load>,
}

impl Bounds {
    /// Before the first event.
    pub fn of(fragment: &Arc<Fragment>) -> Self {
        Self {
            fragment: Arc::clone(fragment),
            newest_event_at: fragment.newest_event_at,
            new_traits: Vec::new(),
            new_trait_bytes: 0,
            new_purposes: Vec::new(),
            new_retracted: Vec::new(),
            new_loads: Vec::new(),
        }
    }

    /// Takes a load in; false where its block has it already, or a newer one. Refuses what would be more than a profile holds, and other contents
    /// under the name of a load that is there, and what is from before an erasure.
    pub fn admit_load(&mut self, load: &Load) -> Result<bool, Refusal> {
        if let Some(erased) = self.fragment.erased.filter(|erased| load.as_of <= *erased) {
            let detail = format!("the profile was erased at {erased}; send what the source says as of a later instant");
            return Err(Refusal::new("erased", "/asOf", detail));
        }
        let same = |known: &&Load| (&known.source, &known.block) == (&load.source, &load.block);
        let before = self.new_loads.iter().rev().find(same);
        let before = before.or_else(|| self.fragment.mart.load(&load.source, &load.block));
        if let Some(before) = before {
            if (before.as_of, &before.id) == (load.as_of, &load.id) && before.hash() != load.hash() {
                let detail = format!(
                    "{}/{} was loaded as of {} with other contents; send a later asOf, or a load id that sorts after {:?}",
                    load.source,
                    load.block,
                    load.as_of,
                    before.id.as_str()
                );
                return Err(Refusal::new("load_changed", "", detail));
            }
            if before.rank() >= load.rank() {
                return Ok(false);
            }
        } else {
            let known = |new: &&Load| self.fragment.mart.load(&new.source, &new.block).is_none();
            let blocks = self.fragment.mart.loads().len() + self.new_loads.iter().filter(known).count();
            if blocks >= BLOCKS_MAX {
                let detail =
                    format!("the profile has {BLOCKS_MAX} blocks, the most there may be; load fewer, larger ones");
                return Err(Refusal::new("too_many_blocks", "", detail));
            }
        }
        let (words, bytes) = self.fragment.traits.without_block(&load.block, &load.source);
        let new: usize = load.traits.iter().map(|(name, value)| name.len() + value.len()).sum();
        if !load.traits.is_empty()
            && (words + self.new_traits.len() + load.traits.len() > limits::TRAITS_MAX
                || bytes + self.new_trait_bytes + new > limits::TRAITS_BYTES_MAX)
        {
            let detail = format!(
                "the profile would have more than {} traits, or more than {} bytes of them; load fewer",
                limits::TRAITS_MAX,
                limits::TRAITS_BYTES_MAX
            );
            return Err(Refusal::new("too_many_traits", "/traits", detail));
        }
        self.new_trait_bytes += new;
        self.new_loads.push(load.without_traits());
        Ok(true)
    }

    /// Takes an event in, unless it is older than the retention, or brings more traits or retractions than a profile holds.
    pub fn admit(&mut self, at: Timestamp, effects: &Effects) -> Result<(), Refusal> {
        if self.newest_event_at.is_some_and(|newest| newest.0 - at.0 > RETENTION_MS) {
            let detail = format!("{at} is older than the 800 days of history that are kept");
            return Err(Refusal::new("too_old", "/timestamp", detail));
        }
        let takes_back =
            effects.retracts.filter(|id| !self.fragment.retracted.holds(id) && !self.new_retracted.contains(id));
        if takes_back.is_some() && self.fragment.retracted.len() + self.new_retracted.len() >= RETRACTED_MAX {
            let detail = format!(
                "{RETRACTED_MAX} events of the profile are retracted, the most there may be; send a correction as an event of its own"
            );
            return Err(Refusal::new("too_many_retractions", "/context/retracts", detail));
        }
        let known = |name: &CompactString| self.fragment.traits.holds(name, &effects.source, effects.claimed);
        let before = self.new_traits.len();
        for (name, _) in effects.traits.iter().filter(|(name, _)| !known(name)) {
            if !self.new_traits.contains(name) {
                self.new_traits.push(name.clone());
            }
        }
        if self.new_traits.len() > before && self.fragment.traits.len() + self.new_traits.len() > limits::TRAITS_MAX {
            self.new_traits.truncate(before);
            let detail =
                format!("the profile would have more than {} traits; take some back with null", limits::TRAITS_MAX);
            return Err(Refusal::new("too_many_traits", "/traits", detail));
        }
        let purposes = self.new_purposes.len();
        for (purpose, _) in &effects.consent {
            if self.fragment.consent.get(purpose).is_none() && !self.new_purposes.contains(purpose) {
                self.new_purposes.push(purpose.clone());
            }
        }
        if self.new_purposes.len() > purposes && self.fragment.consent.len() + self.new_purposes.len() > PURPOSES_MAX {
            self.new_purposes.truncate(purposes);
            self.new_traits.truncate(before);
            let detail = format!("the profile would have consent for more than {PURPOSES_MAX} purposes");
            return Err(Refusal::new("too_many", "/context/consent", detail));
        }
        if !effects.traits.is_empty() {
            let held = self.fragment.traits.bytes();
            let new: usize = effects.traits.iter().map(|(name, value)| name.len() + value.len()).sum();
            if held + self.new_trait_bytes + new > limits::TRAITS_BYTES_MAX {
                self.new_traits.truncate(before);
                self.new_purposes.truncate(purposes);
                let detail = format!(
                    "the profile's traits would have more than {} bytes; take some back with null",
                    limits::TRAITS_BYTES_MAX
                );
                return Err(Refusal::new("too_many_traits", "/traits", detail));
            }
            self.new_trait_bytes += new;
        }
        self.new_retracted.extend(takes_back);
        self.newest_event_at = self.newest_event_at.max(Some(at));
        Ok(())
    }
}
