//! Orders of a few users, of one price, and what they must add up to.

use serde_json::{Value, json};

use crate::TestEdge;

/// What each order comes to.
pub const TOTAL: f64 = 1.5;

/// An order of one of so many users, who stand in several shards.
pub fn order(id: u64, users: u64) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": format!("o-{id}"), "userId": format!("u-{}", id % users),
           "timestamp": "2026-01-01T00:00:00Z", "properties": {"order_id": format!("o-{id}"), "total": TOTAL}})
}

/// Orders and revenue of all users, as an edge has them.
pub fn totals(edge: &TestEdge, users: u64) -> (u64, f64) {
    let profiles = (0..users).map(|user| edge.profile(&format!("user:u-{user}"), None));
    profiles.fold((0, 0.0), |(orders, revenue), profile| {
        let value = |name: &str| profile["aggregates"][name]["value"].as_f64().unwrap_or(0.0);
        (orders + value("retail.orders") as u64, revenue + value("retail.revenue"))
    })
}
