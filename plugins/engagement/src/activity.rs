//! What a visitor's events add up to.

use selvedge_guest::prelude::*;

use crate::Engagement;
use crate::hours::Hours;

/// The events that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum EventName {
    #[choice("$page")]
    Page,
    #[choice("$screen")]
    Screen,
    #[choice("Page Left")]
    PageLeft,
    #[choice("Product Viewed")]
    ProductViewed,
    #[choice("Product Added")]
    ProductAdded,
    #[choice("Order Completed")]
    OrderCompleted,
}

/// What is read of an event.
#[derive(Clone, Debug, Default, Reads)]
pub struct Activity {
    #[read("event:name")]
    name: Option<EventName>,
    #[read("event:type")]
    kind: Option<Kind>,
    #[read("event:timestamp")]
    at: Option<Instant>,
    #[read("event:properties.path")]
    path: Option<Key>,
    #[read("event:properties.product_id")]
    product: Option<Key>,
    #[read("event:properties.category")]
    category: Option<Key>,
    #[read("event:properties.seconds")]
    seconds: Option<i64>,
}

/// Pages and screens have a name of their own, so they are told by their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Choice)]
pub enum Kind {
    #[choice("page")]
    Page,
    #[choice("screen")]
    Screen,
    #[choice("track")]
    Track,
}

/// What events add up to. README.md defines each.
#[derive(Aggregates)]
pub struct Habits {
    #[aggregate(windows = "lifetime 24h 7d 30d session last-20", sessions = "visits", history = "daily")]
    views: Count,
    #[aggregate(windows = "dtd previous-day wtd previous-week", time_zone = "visitor")]
    own_views: Count,
    #[aggregate(gap = "30m", windows = "lifetime 7d 30d mtd")]
    visits: Sessions,
    #[aggregate(of = "visits")]
    visit_started_at: SessionStartedAt,
    #[aggregate(of = "visits")]
    visit_events: SessionEvents,
    #[aggregate(of = "visits", unit = "s")]
    visit_seconds: SessionSeconds,
    #[aggregate(half_life = "14d")]
    category_affinity: DecayedSumByKey,
    #[aggregate(windows = "lifetime 30d session", sessions = "visits")]
    category_views: CountByKey,
    #[aggregate(of = "category_views", count = 5, windows = "30d")]
    top_categories: Top<i64>,
    #[aggregate(of = "category_views", windows = "30d")]
    favourite_category: MostFrequent,
    #[aggregate(of = "category_views", windows = "lifetime 30d")]
    categories: KeyCount,
    category_last_seen_at: MaxByKey<Instant>,
    #[aggregate(count = 10)]
    recent_products: Unique,
    #[aggregate(count = 5)]
    last_paths: LastK<Key>,
    #[aggregate(windows = "lifetime 30d mtd")]
    active_days: DistinctDays,
    #[aggregate(of = "active_days")]
    day_streak: DayStreak,
    #[aggregate(of = "active_days")]
    longest_day_streak: LongestDayStreak,
    #[aggregate(of = "views", windows = "7d")]
    momentum: TrendRatio,
    #[aggregate(of = "views", windows = "28d", parts = 4)]
    views_slope: TrendSlope,
    #[aggregate(of = "views", windows = "7d", baseline = 8)]
    views_unusual: TrendDeviation,
    #[aggregate(unit = "s", windows = "lifetime 30d")]
    page_seconds: Mean<i64>,
    #[aggregate(q = "0.5", unit = "s")]
    page_seconds_median: Quantile<i64>,
    #[aggregate(of = "page_seconds_median", q = "0.95", unit = "s")]
    page_seconds_p95: QuantileOf<i64>,
    #[aggregate(bounds = "10 30 60 180 600")]
    page_seconds_histogram: Histogram<i64>,
    #[aggregate(windows = "lifetime billing-cycle previous-billing-cycle")]
    orders: Count,
    first_seen_at: Min<Instant>,
    last_seen_at: Max<Instant>,
    #[aggregate(of = "last_seen_at", unit = "h")]
    hours_since_last_seen: HoursSince,
    regularity: Custom<Hours>,
}

impl Observe for Engagement {
    const EVENTS: &'static [&'static str] = <EventName as Choice>::CHOICES;
    type Event = Activity;
    type Aggregates = Habits;
    type Skip = Never;

    fn observe(event: &Activity, habits: &Habits) -> Result<(), Stop<Never>> {
        let left = event.name == Some(EventName::PageLeft);
        if let (true, Some(seconds)) = (left, event.seconds) {
            habits.page_seconds.add(seconds);
            habits.page_seconds_median.add(seconds);
            habits.page_seconds_histogram.add(seconds);
        }
        habits.visits.mark();
        habits.active_days.mark();
        if let Some(at) = event.at {
            habits.first_seen_at.add(at);
            habits.last_seen_at.add(at);
            habits.regularity.add(Hours::of(at), None);
        }
        if left {
            return Ok(());
        }
        let viewed = event.name == Some(EventName::ProductViewed) || event.kind != Some(Kind::Track);
        if viewed {
            habits.views.increment();
            habits.own_views.increment();
        }
        if event.name == Some(EventName::OrderCompleted) {
            habits.orders.increment();
        }
        if let Some(path) = event.path {
            habits.last_paths.add(path, Some(path));
        }
        if let Some(product) = event.product {
            habits.recent_products.see(product);
        }
        if let Some(category) = event.category {
            let weight = if event.name == Some(EventName::ProductAdded) { Decimal(3_000_000) } else { Decimal::ONE };
            habits.category_affinity.add(category, weight);
            if viewed {
                habits.category_views.increment(category);
            }
            if let Some(at) = event.at {
                habits.category_last_seen_at.add(category, at);
            }
        }
        Ok(())
    }
}
