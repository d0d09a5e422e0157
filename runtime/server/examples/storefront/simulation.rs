//! Simulated visitors: the same for the same seed and day, so that a demo that is started again adds nothing.

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

/// A simulated visitor whom the page lets one look at.
pub struct Persona {
    pub id: &'static str,
    pub about: &'static str,
    category: usize,
}

pub const PERSONAS: [Persona; 3] = [
    Persona { id: "ada", about: "Ada, who bakes", category: 0 },
    Persona { id: "ben", about: "Ben, who gardens", category: 1 },
    Persona { id: "cleo", about: "Cleo, who has children", category: 3 },
];

/// The customer as whom one can sign in.
const CUSTOMER: Persona = Persona { id: crate::CUSTOMER, about: "Dora, who likes light", category: 2 };

/// Others, whom nobody looks at; they make the numbers of the operator move.
pub const OTHERS: u64 = 200;

/// A product of the simulated shop: its identifier, name and price.
type Product = (&'static str, &'static str, f64);

const CATEGORIES: [(&str, &[Product]); 4] = [
    ("kitchen", &[("K-100", "Enamel kettle", 24.5), ("K-110", "Linen apron", 18.0), ("K-120", "Cake tins", 9.95)]),
    (
        "garden",
        &[("G-200", "Copper watering can", 29.0), ("G-210", "Herb planter", 15.5), ("G-230", "Bird feeder", 13.25)],
    ),
    (
        "light",
        &[("L-300", "Paper lanterns", 16.0), ("85123A", "Tea-light holder", 2.55), ("L-310", "Reading lamp", 46.0)],
    ),
    ("toys", &[("T-400", "Wooden train", 19.95), ("T-410", "Kite", 11.5)]),
];

/// A small generator with a seed: SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    /// A side, from 0 on.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides.max(1) as u64) as usize
    }
}

/// The last sixty days of every simulated visitor, up to last midnight.
pub fn events(seed: u64, now: Timestamp) -> Vec<Value> {
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let mut events = Vec::new();
    for persona in PERSONAS.iter().chain([&CUSTOMER]) {
        visits(&mut events, persona.id, &mut Dice(seed ^ persona.category as u64), persona.category, 90, today);
    }
    for other in 0..OTHERS {
        let mut dice = Dice(seed.wrapping_mul(31).wrapping_add(other));
        let category = dice.roll(CATEGORIES.len());
        visits(&mut events, &format!("sim-{other}"), &mut dice, category, 60, today);
    }
    events
}

fn visits(
    events: &mut Vec<Value>,
    user: &str,
    dice: &mut Dice,
    favourite: usize,
    loyalty: usize,
    today: jiff::civil::Date,
) {
    for visit in 0..3 + dice.roll(6) {
        let category = if dice.roll(100) < loyalty { favourite } else { dice.roll(CATEGORIES.len()) };
        let (name, products) = CATEGORIES[category];
        let (id, title, price) = products[dice.roll(products.len())];
        let day = today.saturating_sub((1 + dice.roll(60) as i64).days());
        let at = format!("{day}T{:02}:{:02}:00Z", 8 + dice.roll(14), dice.roll(60));
        let mut event = |kind: &str, properties: Value| {
            events.push(json!({
                "type": "track", "event": kind, "userId": user, "timestamp": at,
                "messageId": format!("sim-{day}-{user}-{visit}-{kind}"), "properties": properties,
            }));
        };
        let product = json!({"product_id": id, "name": title, "price": price, "quantity": 1, "category": name});
        event("Product Viewed", product.clone());
        if dice.roll(3) == 0 {
            event("Product Added", product.clone());
            event(
                "Order Completed",
                json!({"order_id": format!("{user}-{visit}"), "currency": "GBP", "products": [product]}),
            );
        }
    }
}
