//! The control shard, folded: what edges run, the versions of the catalogue, and which offers are stopped.
//!
//! Owns which version is in force, and what undoing means. Knows nothing of what a catalogue says: its text is a hash here, and travels beside the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::change::Change;
use crate::release::Release;
use crate::value::Timestamp;

/// A version of the catalogue is to take force, where the one that it was made over still is: so of two that were made over the same one, the first in the
/// log's order holds, whoever wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogPut {
    /// SHA-256 of its text.
    pub sha256: [u8; 32],
    /// The place of the version that it was made over; 0 where there was none.
    pub over: u64,
    /// When it was put.
    pub at: Timestamp,
    /// Who put it, as far as they said.
    pub by: String,
    /// How it came to be.
    pub how: How,
    /// The version whose text it brings back, if it does.
    pub of: Option<u64>,
}

/// How a version of the catalogue came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Given at a start.
    Start,
    /// With a release.
    Release,
    /// Put as a whole.
    Put,
    /// A draft that was published.
    Draft,
    /// A draft whose time had come.
    Schedule,
    /// An older one, again.
    Undo,
}

/// An offer is stopped: it is offered nowhere, whatever the catalogue says, until it is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferSwitch {
    /// Its id.
    pub offer: CompactString,
    /// Whether it is stopped from here on.
    pub stopped: bool,
    /// When that was said.
    pub at: Timestamp,
    /// By whom, as far as they said.
    pub by: String,
}

/// Since when an offer is stopped, and who stopped it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// When that was said.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
}

/// A version of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its place in the log: what it is called by.
    pub seq: u64,
    /// What it says.
    pub text: Text,
    /// When it took force; not known of those that older builds released.
    pub at: Option<Timestamp>,
    /// Who put it.
    pub by: String,
    /// How it came to be.
    pub how: How,
    /// The version whose text it brings back, if it does.
    pub of: Option<u64>,
}

/// Where the text of a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// In the entry: of releases that older builds wrote.
    Inline(Arc<str>),
    /// Kept under this hash.
    Blob([u8; 32]),
}

/// What an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, or nothing any more.
    Nothing,
    /// Plugins or the time zone are others.
    Program,
    /// The catalogue is another; plugins and time zone are not.
    Catalog,
    /// An offer is stopped, or no longer.
    Switch,
}

/// The control shard up to some entry.
#[derive(Clone, Debug, Default)]
pub struct Control {
    seq: u64,
    program: Release,
    program_seq: u64,
    versions: Vec<Version>,
    stopped: BTreeMap<CompactString, Stopped>,
}

impl Control {
    /// The last entry that it holds.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Plugins and time zone, without a catalogue.
    pub fn program(&self) -> &Release {
        &self.program
    }

    /// The entry that brought these plugins and this time zone; 0 where none did.
    pub fn program_seq(&self) -> u64 {
        self.program_seq
    }

    /// The entry that brought what runs now, program or catalogue; 0 where nothing runs.
    pub fn release_seq(&self) -> u64 {
        self.program_seq.max(self.version().map_or(0, |version| version.seq))
    }

    /// The catalogue in force; none where there never was one.
    pub fn version(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// All versions that were ever in force, in order.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The offers that are stopped.
    pub fn stopped(&self) -> &BTreeMap<CompactString, Stopped> {
        &self.stopped
    }

    /// The version that undoing the one in force brings back: the one before it, or, where it brings one back itself, the one before that. So undoing again
    /// goes further back.
    pub fn before(&self) -> Option<&Version> {
        let newest = self.version()?;
        let root = newest.of.unwrap_or(newest.seq);
        let place = self.versions.iter().position(|version| version.seq == root)?;
        self.versions.get(place.checked_sub(1)?)
    }

    /// Takes in the next entry. An entry that it holds already does nothing.
    pub fn apply(&mut self, seq: u64, change: &Change) -> Effect {
        if seq <= self.seq {
            return Effect::Nothing;
        }
        self.seq = seq;
        match change {
            Change::Release(release) => self.release(seq, release),
            Change::Catalog(put) if put.over == self.version().map_or(0, |version| version.seq) => {
                let CatalogPut { sha256, at, by, how, of, .. } = put;
                let (text, at, by) = (Text::Blob(*sha256), Some(*at), by.clone());
                self.versions.push(Version { seq, text, at, by, how: *how, of: *of });
                Effect::Catalog
            }
            Change::Switch(switch) => {
                if switch.stopped {
                    let stopped = Stopped { at: switch.at, by: switch.by.clone() };
                    self.stopped.insert(switch.offer.clone(), stopped);
                } else {
                    self.stopped.remove(&switch.offer);
                }
                Effect::Switch
            }
            _ => Effect::Nothing,
        }
    }

    /// A release of this build has no catalogue: that is an entry of its own behind it. One of an older build brings it along.
    fn release(&mut self, seq: u64, release: &Release) -> Effect {
        let Release { time_zone, plugins, catalog } = release;
        let mut effect = Effect::Nothing;
        let same = self.version().is_some_and(|version| version.text == Text::Inline(catalog.as_str().into()));
        if !catalog.is_empty() && !same {
            let text = Text::Inline(catalog.as_str().into());
            self.versions.push(Version { seq, text, at: None, by: String::new(), how: How::Release, of: None });
            effect = Effect::Catalog;
        }
        if self.program_seq == 0 || (&self.program.time_zone, &self.program.plugins) != (time_zone, plugins) {
            self.program = Release { time_zone: time_zone.clone(), plugins: plugins.clone(), catalog: String::new() };
            self.program_seq = seq;
            effect = Effect::Program;
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(over: u64, text: u8, of: Option<u64>) -> Change {
        let how = if of.is_some() { How::Undo } else { How::Put };
        Change::Catalog(CatalogPut { sha256: [text; 32], over, at: Timestamp(7), by: "ada".into(), how, of })
    }

    fn switch(offer: &str, stopped: bool) -> Change {
        Change::Switch(OfferSwitch { offer: offer.into(), stopped, at: Timestamp(9), by: "ada".into() })
    }

    fn release(zone: &str, catalog: &str) -> Change {
        Change::Release(Release { time_zone: zone.into(), plugins: Vec::new(), catalog: catalog.into() })
    }

    fn fold(changes: &[Change]) -> Control {
        let mut control = Control::default();
        for (seq, change) in (1..).zip(changes) {
            control.apply(seq, change);
        }
        control
    }

    fn texts(control: &Control) -> Vec<u8> {
        let text = |version: &Version| if let Text::Blob(hash) = version.text { hash[0] } else { 0 };
        control.versions().iter().map(text).collect()
    }

    #[test]
    fn of_two_that_were_made_over_one_the_first_holds() {
        let control = fold(&[put(0, 1, None), put(1, 2, None), put(1, 3, None), put(0, 4, None), put(2, 5, None)]);
        assert_eq!(texts(&control), [1, 2, 5]);
        assert_eq!((control.seq(), control.release_seq(), control.program_seq()), (5, 5, 0));
    }

    #[test]
    fn undoing_again_goes_further_back() {
        let mut control = fold(&[put(0, 1, None), put(1, 2, None), put(2, 3, None)]);
        let mut undo = |text: u8, of: u64| {
            let before = control.before().cloned();
            assert_eq!(before.map(|before| (before.seq, before.text)), Some((of, Text::Blob([text; 32]))));
            let (seq, over) = (control.seq() + 1, control.release_seq());
            control.apply(seq, &put(over, text, Some(of)));
        };
        undo(2, 2);
        undo(1, 1);
        assert_eq!(control.before(), None, "there is nothing before the first");
        let over = control.release_seq();
        control.apply(6, &put(over, 9, None));
        assert_eq!(control.before().map(|before| before.seq), Some(5), "what was in force before");
    }

    #[test]
    fn a_release_of_an_older_build_brings_its_catalogue() {
        let control = fold(&[release("UTC", "a"), release("UTC", "a"), release("UTC", "b"), put(3, 1, None)]);
        assert_eq!((control.versions().len(), control.program_seq(), control.release_seq()), (3, 1, 4));
        assert_eq!(control.versions()[1].text, Text::Inline("b".into()));
        let control = fold(&[release("UTC", "a"), put(1, 1, None), release("Asia/Tokyo", "")]);
        assert_eq!((control.versions().len(), control.program_seq(), control.release_seq()), (2, 3, 3));
        assert_eq!(control.program().time_zone, "Asia/Tokyo");
    }

    #[test]
    fn a_stopped_offer_stays_stopped_through_versions() {
        let control = fold(&[put(0, 1, None), switch("kettle", true), switch("rose", true), put(1, 2, None)]);
        assert_eq!(control.stopped().keys().collect::<Vec<_>>(), ["kettle", "rose"]);
        let control = fold(&[switch("kettle", true), switch("kettle", true), switch("kettle", false)]);
        assert!(control.stopped().is_empty());
    }

    proptest! {
        /// Wherever a fold is broken off and taken up again, also with entries that it has seen, it comes to the same.
        #[test]
        fn entries_that_come_again_do_nothing(
            said in proptest::collection::vec((0..3_u8, 0..4_u64, any::<bool>()), 1..20),
            again in 0..20_usize,
        ) {
            let change = |(kind, over, flag): &(u8, u64, bool)| match kind {
                0 => put(*over, u8::try_from(*over).expect("small"), None),
                1 => switch(if *over < 2 { "a" } else { "b" }, *flag),
                _ => release(if *flag { "UTC" } else { "Asia/Tokyo" }, ""),
            };
            let changes: Vec<Change> = said.iter().map(change).collect();
            let once = fold(&changes);
            let mut twice = Control::default();
            let broken_off = again.min(changes.len());
            for (seq, change) in (1..).zip(&changes[..broken_off]).chain((1..).zip(&changes)) {
                twice.apply(seq, change);
            }
            prop_assert_eq!(format!("{once:?}"), format!("{twice:?}"));
        }
    }
}
