//! What was decided for the simulated visitors whom nobody looks at, and what they made of it: so that funnels and experiments have something to show.

use anyhow::{Context, Result};
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use crate::Shop;
use crate::simulation::{Dice, OTHERS};

/// So many days ago they came, the first time before most of their purchases.
const DAYS_AGO: [i64; 4] = [40, 20, 7, 1];

/// Decides for them on some days of the past and sends what they did about it; once, since decisions are counted.
pub fn decide(shop: &Shop, write_key: &str, seed: u64) -> Result<()> {
    let call = shop.agent.get(format!("{}/v1/profiles/user:sim-0", shop.edge)).header("authorization", shop.bearer());
    if shop.ask(call.call())["offers"].as_object().is_some_and(|offers| !offers.is_empty()) {
        return Ok(());
    }
    let visitors: Vec<Value> = (0..OTHERS).map(|other| json!({"userId": format!("sim-{other}")})).collect();
    let slots = json!([{"slot": "home-hero"}, {"slot": "home-grid", "count": 4}]);
    let mut dice = Dice(seed);
    for days in DAYS_AGO {
        let at = (Timestamp::now() - (24 * days).hours()).to_string();
        let ask = json!({"visitors": visitors, "slots": slots, "at": at, "explain": true});
        let answer = shop.send(&shop.secret_key, "/v1/decide/batch", &ask)?;
        let mut events = Vec::new();
        for line in answer.lines() {
            let decision: Value = serde_json::from_str(line).context("read a decision")?;
            react(&decision, &at, &mut dice, &mut events);
        }
        for batch in events.chunks(1000) {
            shop.send(write_key, "/v1/batch", &json!({ "batch": batch }))?;
        }
    }
    Ok(())
}

/// They see all of it, follow one offer in twelve, and take a fifth of those.
fn react(decision: &Value, at: &str, dice: &mut Dice, events: &mut Vec<Value>) {
    let slots = decision["slots"].as_array().into_iter().flatten().filter(|slot| slot["fallback"] == false);
    for offer in slots.flat_map(|slot| slot["offers"].as_array().into_iter().flatten()) {
        let acts: &[&str] = match dice.roll(60) {
            0 => &["Shown", "Clicked", "Accepted"],
            1..5 => &["Shown", "Clicked"],
            _ => &["Shown"],
        };
        for act in acts {
            events.push(json!({
                "type": "track", "event": format!("Offer {act}"), "userId": decision["visitor"]["userId"], "timestamp": at,
                "properties": {"offer_id": offer["id"], "decision_id": decision["decisionId"], "channel": "web"},
            }));
        }
    }
}
