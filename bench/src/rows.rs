//! The rows of the table: which server is asked what.

use anyhow::{Context as _, Result};

use crate::answer::Check;
use crate::data::SHELVES;
use crate::load::Traffic;
use crate::prepare::{KEY, Setup};
use crate::request::Template;
use crate::zipf::Visitors;

/// Memory for profiles in which all of them stay.
pub const ROOMY_MIB: u64 = 16 * 1024;
/// Memory for profiles in which next to none of them stay.
const TIGHT_MIB: u64 = 4;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// HTTP alone.
    FloorA,
    /// HTTP and the decision natively.
    FloorB,
    /// Node with fastify and the decision in JavaScript.
    Node,
    /// `wasmtime serve` with the decision as a component.
    Wasmtime,
    /// Selvedge.
    Selvedge(Setup),
}

/// All profiles in memory, one plugin in a decision.
pub const WARM: Setup = Setup { name: "warm", plugins: 1, cache_mib: ROOMY_MIB, shelves: SHELVES, policy: false };
/// No profile in memory.
pub const COLD: Setup = Setup { name: "cold", plugins: 1, cache_mib: TIGHT_MIB, shelves: SHELVES, policy: false };
/// Three plugins in a decision.
pub const THREE: Setup = Setup { name: "three", plugins: 3, cache_mib: ROOMY_MIB, shelves: SHELVES, policy: false };
/// Ten plugins in a decision.
pub const TEN: Setup = Setup { name: "ten", plugins: 10, cache_mib: ROOMY_MIB, shelves: SHELVES, policy: false };

/// A catalogue that holds decisions to conditions, caps, suppression and diversity.
pub const POLICY: Setup = Setup { name: "policy", policy: true, ..WARM };
/// Its visitors: fewer, so that its server is up soon.
pub const POLICY_VISITORS: u32 = 10_000;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As results.json names it.
    pub name: &'static str,
    /// Who is asked.
    pub target: Target,
    ask: &'static [(u32, Ask)],
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Three offers.
    Decide,
    /// The same, and something was viewed.
    DecideEvent,
    /// Three offers of a thousand.
    DecideWide,
    /// The same, and why.
    ExplainWide,
    /// Something was viewed, durable when it is acknowledged or not.
    Track { durable: bool },
}

/// All rows, in the order in which each repetition takes them: floors first, those that write much last.
pub const ROWS: [Row; 16] = [
    Row { name: "floor_a", target: Target::FloorA, ask: &[(100, Ask::Decide)] },
    Row { name: "floor_b", target: Target::FloorB, ask: &[(100, Ask::Decide)] },
    Row { name: "node_fastify", target: Target::Node, ask: &[(100, Ask::Decide)] },
    Row { name: "wasmtime_serve", target: Target::Wasmtime, ask: &[(100, Ask::Decide)] },
    Row { name: "decide", target: Target::Selvedge(WARM), ask: &[(100, Ask::Decide)] },
    Row { name: "decide_cold", target: Target::Selvedge(COLD), ask: &[(100, Ask::Decide)] },
    Row { name: "decide_1000_offers", target: Target::Selvedge(WARM), ask: &[(100, Ask::DecideWide)] },
    Row { name: "decide_3_plugins", target: Target::Selvedge(THREE), ask: &[(100, Ask::Decide)] },
    Row { name: "decide_10_plugins", target: Target::Selvedge(TEN), ask: &[(100, Ask::Decide)] },
    Row { name: "decide_policy", target: Target::Selvedge(POLICY), ask: &[(100, Ask::Decide)] },
    Row { name: "decide_policy_1000", target: Target::Selvedge(POLICY), ask: &[(100, Ask::DecideWide)] },
    Row { name: "explain_policy_1000", target: Target::Selvedge(POLICY), ask: &[(100, Ask::ExplainWide)] },
    Row { name: "decide_event", target: Target::Selvedge(WARM), ask: &[(100, Ask::DecideEvent)] },
    Row {
        name: "mixed",
        target: Target::Selvedge(WARM),
        ask: &[(80, Ask::Decide), (20, Ask::Track { durable: false })],
    },
    Row { name: "track_applied", target: Target::Selvedge(WARM), ask: &[(100, Ask::Track { durable: false })] },
    Row { name: "track_durable", target: Target::Selvedge(WARM), ask: &[(100, Ask::Track { durable: true })] },
];

impl Row {
    /// Whether this is a floor.
    pub fn is_floor(&self) -> bool {
        matches!(self.target, Target::FloorA | Target::FloorB)
    }

    /// Whether this is a server that leaves nothing to be done behind its answers.
    pub fn is_plain(&self) -> bool {
        !matches!(self.target, Target::Selvedge(_))
    }

    /// What is asked, by how many visitors. Visitors come by Zipf's law; where no profile is to be in memory, each once in turn.
    pub fn traffic(&self, profiles: u32, seed: u64) -> Traffic {
        let visitors = if self.target == Target::Selvedge(COLD) { Visitors::everyone } else { Visitors::zipf };
        let check = |ask: Ask| match (self.target, ask) {
            (Target::FloorA, _) => Check::Nothing,
            (_, Ask::Track { .. }) => Check::Accepted,
            _ => Check::Offers(OFFERED),
        };
        let requests = self.ask.iter().map(|(share, ask)| (*share, template(*ask), check(*ask))).collect();
        let profiles = if self.target == Target::Selvedge(POLICY) { profiles.min(POLICY_VISITORS) } else { profiles };
        Traffic { requests, visitors: visitors(profiles, seed) }
    }
}

/// Offers of an answer.
pub const OFFERED: usize = 3;
const VIEWED: &str = r#""event":"Product Viewed","messageId":"{message}","timestamp":"{now}","properties":{"product_id":"p-22423","category":"kitchen","price":12.75,"quantity":1}"#;

/// The body of a decide call. Its deadline is far off, so that a server which is slow shows as slow and not as one that falls back.
pub fn decide_body(slot: &str, more: &str) -> String {
    decide_body_in(r#"{"page":{"path":"/"},"locale":"en-GB"}"#, slot, more)
}

/// The body of a decide call with this context.
fn decide_body_in(context: &str, slot: &str, more: &str) -> String {
    format!(
        r#"{{"visitor":{{"userId":"u-{{visitor}}"}},"slots":[{{"slot":"{slot}","count":{OFFERED}}}],"context":{context},"channel":"web","deadlineMs":10000{more}}}"#
    )
}

/// Decisions of a slot for visitors by Zipf's law, with a context of so many bytes; none: the usual one.
pub fn decisions(slot: &str, context: Option<usize>, visitors: u32, check: Check) -> Traffic {
    let body = match context {
        None => decide_body(slot, ""),
        Some(bytes) => decide_body_in(&context_of(bytes), slot, ""),
    };
    Traffic {
        requests: vec![(100, Template::post("/v1/decide", KEY, &body), check)],
        visitors: Visitors::zipf(visitors, 7),
    }
}

/// A context of so many bytes: what lies in a cart, then a text that fills it up.
fn context_of(bytes: usize) -> String {
    const LINE: &str = r#"{"product_id":"p-22423","quantity":2,"price":12.75},"#;
    let around = r#"{"page":{"path":"/"},"cart":[{}],"note":""}"#.len();
    let Some(room) = bytes.checked_sub(around) else { return "{}".into() };
    let (lines, note) = (LINE.repeat(room / LINE.len()), "x".repeat(room % LINE.len()));
    format!(r#"{{"page":{{"path":"/"}},"cart":[{lines}{{}}],"note":"{note}"}}"#)
}

fn template(ask: Ask) -> Template {
    let decide = |slot: &str, more: &str| Template::post("/v1/decide", KEY, &decide_body(slot, more));
    match ask {
        Ask::Decide => decide("home", ""),
        Ask::DecideWide => decide("wide", ""),
        Ask::ExplainWide => decide("wide", r#","explain":true"#),
        Ask::DecideEvent => decide("home", &format!(r#","events":[{{"type":"track",{VIEWED}}}]"#)),
        Ask::Track { durable } => {
            let path = if durable { "/v1/track?ack=durable" } else { "/v1/track?ack=applied" };
            Template::post(path, KEY, &format!(r#"{{"userId":"u-{{visitor}}",{VIEWED}}}"#))
        }
    }
}

/// What is asked in the row of this name.
pub fn row_traffic(name: &str, profiles: u32) -> Result<Traffic> {
    Ok(ROWS[row_index(name)?].traffic(profiles, 7))
}

/// Which row has this name.
pub fn row_index(name: &str) -> Result<usize> {
    let known = || ROWS.map(|row| row.name).join(", ");
    let place = ROWS.iter().position(|row| row.name == name);
    place.with_context(|| format!("there is no row {name}; there are {}", known()))
}

/// What brings every profile into memory: a decision for each, which is not recorded.
pub fn warming(profiles: u32) -> Traffic {
    let template = Template::post("/v1/decide", KEY, &decide_body("home", r#","dryRun":true"#));
    Traffic { requests: vec![(100, template, Check::Offers(OFFERED))], visitors: Visitors::everyone(profiles, 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_as_long_as_it_is_said_to_be() {
        assert_eq!(context_of(0), "{}");
        for bytes in [64, 1_024, 4_096, 16_384] {
            let context = context_of(bytes);
            assert_eq!(context.len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&context).is_ok(), "{context}");
        }
    }
}
