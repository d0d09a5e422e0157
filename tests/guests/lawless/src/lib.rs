//! An operator of its own whose merge depends on the order: what no host may load.

use selvedge_guest::bindings::Kind;
use selvedge_guest::prelude::*;

/// The plugin.
pub struct Lawless;

/// The value that came last to be merged.
pub struct Newest(i64);

impl CustomOperator for Newest {
    const KIND: Kind = Kind::Integer;
    const SAMPLES: &'static [(&'static str, i64)] = &[("", 1), ("", 2), ("", 3)];

    fn init() -> Self {
        Self(0)
    }

    fn update(&mut self, _: &str, value: i64) {
        self.0 = value;
    }

    fn merge(&mut self, other: Self) {
        if other.0 != 0 {
            self.0 = other.0;
        }
    }

    fn finish(&self) -> Finished {
        Finished::Fixed(self.0)
    }

    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self(i64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// One aggregate with it.
#[derive(Aggregates)]
pub struct Held {
    newest: Custom<Newest>,
}

impl Observe for Lawless {
    const EVENTS: &'static [&'static str] = &["$page"];
    type Event = ();
    type Aggregates = Held;
    type Skip = Never;

    fn observe(_: &(), held: &Held) -> Result<(), Stop<Never>> {
        held.newest.add(1, None);
        Ok(())
    }
}

selvedge_guest::export!(Lawless: observe, custom);
