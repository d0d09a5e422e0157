//! A score over whatever its configuration names: ten aggregates and the score of the plugin before it, or a whole profile. The configuration
//! gives its name too, so that a chain of as many plugins as wanted is made of one component. Alone it also ranks, by its score.

use std::cell::RefCell;

use selvedge_guest::Plugin;
use selvedge_guest::bindings::{Columns, Description, Failure, Fault, Kind, Ranking, Read};
use selvedge_guest::outputs::Scores as _;
use selvedge_guest::prelude::*;

/// The plugin.
pub struct Step;

/// The one score.
#[derive(Scores)]
pub struct Level {
    level: Option<f64>,
}

std::thread_local! {
    /// The name, then the paths that are read: aggregates are whole numbers, traits and scores are numbers.
    static KEPT: RefCell<String> = RefCell::default();
}

/// What the configuration must have.
const WANTED: &str = "name = \"NAME\" and reads = [\"agg:…\", …, \"score:…\"], without line breaks";

fn kept(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let reads = config.get("reads")?.as_array()?;
    let lines = core::iter::once(config.get("name")).chain(reads.iter().map(Some));
    let lines: Option<Vec<&str>> = lines.map(|line| line?.as_str().filter(|line| !line.contains('\n'))).collect();
    Some(lines?.join("\n"))
}

impl Plugin for Step {
    const CONFIGURED: bool = true;

    fn description() -> Description {
        KEPT.with_borrow(|kept| {
            let (name, paths) = kept.split_once('\n').unwrap_or((kept, ""));
            let mut description = selvedge_guest::description::named(name, env!("CARGO_PKG_VERSION"));
            description.scores = Level::declare();
            let kind = |path: &str| if path.starts_with("agg:") { Kind::Integer } else { Kind::Number };
            let read = |path: &str| Read { path: path.into(), kind: kind(path), choices: Vec::new() };
            description.score_reads = paths.lines().map(read).collect();
            description.visitor_reads = vec![read(&format!("score:{name}.level"))];
            description.offer_reads = vec![read("offer:value")];
            description
        })
    }

    fn configure(config: &str) -> Result<Vec<u8>, Vec<Fault>> {
        let fault = || vec![Fault { place: String::new(), detail: format!("this plugin wants {WANTED}") }];
        kept(config).map(String::into_bytes).ok_or_else(fault)
    }

    fn restore(kept: &[u8]) {
        KEPT.replace(String::from_utf8_lossy(kept).into_owned());
    }

    fn score(visitor: &Columns) -> Result<Vec<Option<f64>>, Failure> {
        let sum: f64 = visitor.s64s.iter().map(|value| *value as f64).sum();
        let before: f64 = visitor.f64s.iter().sum();
        Ok(vec![Some(before / 2.0 + sum / (1.0 + sum.abs()))])
    }

    fn rank(visitor: &Columns, offers: &Columns) -> Result<Ranking, Failure> {
        // Without the score there is nothing to rank by, which the bench is to notice.
        let scored = visitor.present.first().is_some_and(|bits| bits & 1 == 1);
        let Some(level) = visitor.f64s.first().filter(|_| scored) else {
            return Err(Failure::Internal("there is no score".into()));
        };
        Ok(Ranking {
            priorities: offers.f64s.iter().map(|value| value * (2.0 + level)).collect(),
            eligible: vec![true; offers.f64s.len()],
            reasons: vec![u32::MAX; offers.f64s.len()],
        })
    }
}

selvedge_guest::export_plugin!(Step: configure, score, rank);
