//! One event that contributes to twenty aggregates of unlike operators: what an event costs.

use selvedge_guest::prelude::*;

/// The plugin.
pub struct Twenty;

/// What is read of the event.
#[derive(Reads)]
pub struct Bought {
    #[read("event:timestamp")]
    at: Option<Instant>,
    #[read("event:properties.product_id")]
    product: Option<Key>,
    #[read("event:properties.category")]
    category: Option<Key>,
    #[read("event:properties.price")]
    price: Option<Decimal>,
    #[read("event:properties.quantity")]
    quantity: Option<i64>,
}

/// All of them.
#[derive(Aggregates)]
pub struct All {
    #[aggregate(windows = "lifetime 1h 24h 7d 30d mtd ytd")]
    orders: Count,
    #[aggregate(windows = "lifetime 7d 30d 90d mtd previous-month ytd")]
    revenue: Sum<Decimal>,
    #[aggregate(windows = "lifetime 7d")]
    units: Sum<i64>,
    #[aggregate(windows = "lifetime 30d")]
    mean_price: Mean<Decimal>,
    price_variance: Variance<Decimal>,
    #[aggregate(windows = "lifetime 30d")]
    lowest: Min<Decimal>,
    #[aggregate(windows = "lifetime 30d")]
    highest: Max<Decimal>,
    first_at: Min<Instant>,
    last_at: Max<Instant>,
    last_price: Last<Decimal>,
    #[aggregate(count = 5)]
    last_prices: LastK<Decimal>,
    #[aggregate(windows = "lifetime 30d")]
    products: Distinct,
    days: DistinctDays,
    #[aggregate(count = 10)]
    recent: Unique,
    #[aggregate(bounds = "5 10 50 100")]
    prices: Histogram<Decimal>,
    #[aggregate(q = "0.9")]
    price_p90: Quantile<Decimal>,
    by_category: SumByKey<Decimal>,
    #[aggregate(windows = "lifetime 30d")]
    counts: CountByKey,
    #[aggregate(half_life = "30d")]
    affinity: DecayedSumByKey,
    visits: Sessions,
}

impl Observe for Twenty {
    const EVENTS: &'static [&'static str] = &["Product Bought"];
    type Event = Bought;
    type Aggregates = All;
    type Skip = Never;

    fn observe(event: &Bought, all: &All) -> Result<(), Stop<Never>> {
        let (Some(at), Some(product), Some(category)) = (event.at, event.product, event.category) else {
            return Ok(());
        };
        let (price, quantity) = (event.price.unwrap_or_default(), event.quantity.unwrap_or(1));
        all.orders.increment();
        all.revenue.add(price);
        all.units.add(quantity);
        all.mean_price.add(price);
        all.price_variance.add(price);
        all.lowest.add(price);
        all.highest.add(price);
        all.first_at.add(at);
        all.last_at.add(at);
        all.last_price.add(price, Some(product));
        all.last_prices.add(price, Some(product));
        all.products.insert(product);
        all.days.mark();
        all.recent.see(product);
        all.prices.add(price);
        all.price_p90.add(price);
        all.by_category.add(category, price);
        all.counts.increment(category);
        all.affinity.add(category, Decimal::ONE);
        all.visits.mark();
        Ok(())
    }
}

selvedge_guest::export!(Twenty: observe);
