//! What a visitor looked at, as ten values of a few aggregates: the plugin that observes in the load bench.

use selvedge_guest::prelude::*;

/// The plugin.
pub struct Viewed;

/// What is read of the event.
#[derive(Reads)]
pub struct View {
    #[read("event:properties.price")]
    price: Option<Decimal>,
    #[read("event:properties.quantity")]
    quantity: Option<i64>,
}

/// Five values of a count, three of a sum, two of single prices.
#[derive(Aggregates)]
pub struct Totals {
    #[aggregate(windows = "lifetime 1h 24h 7d 30d")]
    views: Count,
    #[aggregate(windows = "lifetime 7d 30d")]
    units: Sum<i64>,
    highest: Max<Decimal>,
    latest: Last<Decimal>,
}

impl Observe for Viewed {
    const EVENTS: &'static [&'static str] = &["Product Viewed"];
    type Event = View;
    type Aggregates = Totals;
    type Skip = Never;

    fn observe(event: &View, totals: &Totals) -> Result<(), Stop<Never>> {
        totals.views.increment();
        totals.units.add(event.quantity.unwrap_or(1));
        if let Some(price) = event.price {
            totals.highest.add(price);
            totals.latest.add(price, None);
        }
        Ok(())
    }
}

selvedge_guest::export!(Viewed: observe);
