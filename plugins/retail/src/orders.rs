//! Events into aggregates.

use selvedge_guest::prelude::*;

use crate::Retail;

/// The events of a shop that say something about its visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum EventName {
    /// A product's page was looked at.
    #[choice("Product Viewed")]
    ProductViewed,
    /// A product was put into the cart.
    #[choice("Product Added")]
    ProductAdded,
    /// An order was paid.
    #[choice("Order Completed")]
    OrderCompleted,
    /// An order, or a part of one, was paid back.
    #[choice("Order Refunded")]
    OrderRefunded,
    /// An order was cancelled.
    #[choice("Order Cancelled")]
    OrderCancelled,
}

/// What is read of an event.
#[derive(Clone, Debug, Default, Reads)]
pub struct ShopEvent {
    #[read("event:name")]
    name: Option<EventName>,
    #[read("event:messageId")]
    message_id: Option<Key>,
    #[read("event:timestamp")]
    at: Option<Instant>,
    #[read("event:properties.order_id")]
    order_id: Option<Key>,
    #[read("event:properties.revenue")]
    revenue: Option<Decimal>,
    #[read("event:properties.total")]
    total: Option<Decimal>,
    #[read("event:properties.currency")]
    currency: Option<Key>,
    #[read("event:properties.store")]
    store: Option<Key>,
    #[read("event:properties.category")]
    category: Option<Key>,
    #[read("event:properties.products[]")]
    products: Vec<Line>,
    #[read("config:currency")]
    own_currency: Option<Key>,
}

/// One line of an order.
#[derive(Clone, Debug, Default, Reads)]
pub struct Line {
    #[read(".product_id")]
    product_id: Option<Key>,
    #[read(".category")]
    category: Option<Key>,
    #[read(".price")]
    price: Option<Decimal>,
    #[read(".quantity")]
    quantity: Option<Decimal>,
}

/// What events add up to. README.md defines each.
#[derive(Aggregates)]
pub struct Totals {
    #[aggregate(history = "daily")]
    orders: Distinct,
    lines: Sum<i64>,
    #[aggregate(windows = "lifetime 1h 24h 7d 30d 90d 365d ytd mtd", unit = "config:currency", history = "daily")]
    revenue: Sum<Decimal>,
    #[aggregate(unit = "config:currency")]
    gross_revenue: Sum<Decimal>,
    first_purchase_at: Min<Instant>,
    last_purchase_at: Max<Instant>,
    #[aggregate(unit = "config:currency")]
    last_purchase_amount: Last<Decimal>,
    units_bought: SumByKey<Decimal>,
    units_returned: SumByKey<Decimal>,
    #[aggregate(of = "units_bought", less = "units_returned")]
    units_kept: Difference<Decimal>,
    #[aggregate(of = "units_bought")]
    distinct_products: KeyCount,
    #[aggregate(of = "units_bought", count = 3)]
    top_products: Top<Decimal>,
    #[aggregate(unit = "config:currency")]
    max_line_amount: Max<Decimal>,
    #[aggregate(of = "gross_revenue", per = "orders", decimals = 5, unit = "config:currency")]
    average_order_value: Ratio,
    #[aggregate(of = "last_purchase_at")]
    days_since_last_purchase: DaysSince,
    #[aggregate(of = "last_purchase_at")]
    calendar_days_since_last_purchase: CalendarDaysSince,
    #[aggregate(half_life = "30d")]
    category_affinity: DecayedSumByKey,
    last_purchase_store: Last<Key>,
    last_store_purchase_at: Max<Instant>,
    purchase_days: DistinctDays,
    #[aggregate(by = "day", unit = "config:currency")]
    first_day_revenue: First<Decimal>,
}

/// Why an event is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Skip {
    /// Amounts in different currencies do not add up.
    #[choice("other-currency")]
    OtherCurrency,
}

/// What a view, an addition to the cart and a purchase say about the interest in a category.
const VIEW: Decimal = Decimal(1_000_000);
const ADDITION: Decimal = Decimal(3_000_000);
const PURCHASE: Decimal = Decimal(5_000_000);

impl Observe for Retail {
    const EVENTS: &'static [&'static str] = <EventName as Choice>::CHOICES;
    type Event = ShopEvent;
    type Aggregates = Totals;
    type Skip = Skip;

    fn observe(event: &ShopEvent, totals: &Totals) -> Result<(), Stop<Skip>> {
        let Some(name) = event.name else { return Ok(()) };
        if let (Some(own), Some(currency)) = (event.own_currency, event.currency)
            && own != currency
        {
            return Err(Stop::Skip(Skip::OtherCurrency));
        }
        match name {
            EventName::ProductViewed => interest(totals, event.category, VIEW),
            EventName::ProductAdded => interest(totals, event.category, ADDITION),
            EventName::OrderCompleted => return purchase(event, totals),
            EventName::OrderRefunded | EventName::OrderCancelled => return reversal(event, totals),
        }
        Ok(())
    }
}

fn interest(totals: &Totals, category: Option<Key>, weight: Decimal) {
    if let Some(category) = category {
        totals.category_affinity.add(category, weight);
    }
}

fn purchase(event: &ShopEvent, totals: &Totals) -> Result<(), Stop<Skip>> {
    let amount = event.amount()?;
    totals.revenue.add(amount);
    totals.gross_revenue.add(amount);
    totals.lines.add(event.products.len() as i64);
    totals.purchase_days.mark();
    totals.first_day_revenue.add(amount, None);
    let order = event.order_id.or(event.message_id);
    totals.last_purchase_amount.add(amount, order);
    if let Some(order) = order {
        totals.orders.insert(order);
    }
    if let Some(at) = event.at {
        totals.first_purchase_at.add(at);
        totals.last_purchase_at.add(at);
        if let Some(store) = event.store {
            totals.last_purchase_store.add(store, Some(store));
            totals.last_store_purchase_at.add(at);
        }
    }
    for line in &event.products {
        if let Some(amount) = line.amount()? {
            totals.max_line_amount.add(amount);
        }
        if let Some(product) = line.product_id {
            totals.units_bought.add(product, line.quantity());
        }
        interest(totals, line.category, PURCHASE);
    }
    Ok(())
}

/// A refund or a cancellation carries positive amounts and quantities; it subtracts them.
fn reversal(event: &ShopEvent, totals: &Totals) -> Result<(), Stop<Skip>> {
    totals.revenue.add(event.amount()?.checked_neg().ok_or_else(overflow)?);
    totals.lines.add(event.products.len() as i64);
    for line in &event.products {
        if let Some(product) = line.product_id {
            totals.units_returned.add(product, line.quantity());
        }
    }
    Ok(())
}

impl ShopEvent {
    /// Σ price × quantity over the products, or `revenue`, or `total`, whichever is first present; 0 where none is.
    fn amount(&self) -> Result<Decimal, Stop<Skip>> {
        let mut sum = None;
        for line in &self.products {
            if let Some(amount) = line.amount()? {
                sum = Some(sum.unwrap_or(Decimal::ZERO).checked_add(amount).ok_or_else(overflow)?);
            }
        }
        Ok(sum.or(self.revenue).or(self.total).unwrap_or(Decimal::ZERO))
    }
}

impl Line {
    fn quantity(&self) -> Decimal {
        self.quantity.unwrap_or(Decimal::ONE)
    }

    fn amount(&self) -> Result<Option<Decimal>, Stop<Skip>> {
        let Some(price) = self.price else { return Ok(None) };
        price.checked_mul(self.quantity()).map(Some).ok_or_else(overflow)
    }
}

fn overflow() -> Stop<Skip> {
    Stop::Rejected("an order's amount is beyond 9.2 trillion".into())
}
