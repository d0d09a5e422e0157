//! Does nothing: the floor under every plugin's call.

use selvedge_guest::prelude::*;

/// The plugin.
pub struct Noop;

/// One score that is never there.
#[derive(Scores)]
pub struct Nothing {
    nothing: Option<f64>,
}

impl Score for Noop {
    type Visitor = ();
    type Scores = Nothing;

    fn score(_: &()) -> Result<Nothing, Stop> {
        Ok(Nothing { nothing: None })
    }
}

selvedge_guest::export!(Noop: score);
