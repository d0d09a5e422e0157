//! The Online Retail data set: its rows as events, made here and not by the importer, and a naive reference of its aggregates that
//! keeps every row. The definitions stand in the data's own README.

use std::collections::BTreeMap;
use std::path::Path;

use flate2::read::GzDecoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// One row, with money in tenths of a penny.
#[derive(Clone, Debug)]
pub struct Row {
    /// The invoice.
    pub invoice: String,
    /// The product.
    pub stock_code: String,
    /// As found.
    pub description: String,
    /// Negative for cancellations.
    pub quantity: i64,
    /// Milliseconds, read as London wall time.
    pub at: i64,
    /// As it stands.
    pub price_text: String,
    /// In tenths of a penny.
    pub price: i64,
    /// Empty where there is none.
    pub customer: String,
    /// As found.
    pub country: String,
}

/// London.
pub fn london() -> TimeZone {
    jiff::tz::TimeZoneDatabase::bundled().get("Europe/London").unwrap()
}

/// All rows of a file. An invoice's rows carry its earliest time.
pub fn rows(path: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let zone = london();
    let mut rows: Vec<Row> = Vec::new();
    for record in reader.records() {
        let record = record.unwrap();
        let field = |index: usize| record[index].to_owned();
        let wall: DateTime = record[4].parse().unwrap();
        rows.push(Row {
            invoice: field(0),
            stock_code: field(1),
            description: field(2),
            quantity: record[3].parse().unwrap(),
            at: zone.to_timestamp(wall).unwrap().as_millisecond(),
            price_text: field(5),
            price: tenths(&record[5]),
            customer: field(6),
            country: field(7),
        });
    }
    let mut earliest: BTreeMap<String, i64> = BTreeMap::new();
    for row in &rows {
        let at = earliest.entry(row.invoice.clone()).or_insert(row.at);
        *at = (*at).min(row.at);
    }
    rows.iter_mut().for_each(|row| row.at = earliest[&row.invoice]);
    rows
}

/// A decimal text in tenths of a penny.
fn tenths(text: &str) -> i64 {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let value: i64 = format!("{whole}{fraction:0<3}").parse().unwrap();
    if negative { -value } else { value }
}

/// RFC 3339 in UTC.
pub fn rfc3339(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).unwrap().to_string()
}

/// One event per invoice.
pub fn events(rows: &[Row]) -> Vec<Value> {
    let mut invoices: Vec<(&str, Vec<&Row>)> = Vec::new();
    let mut position: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        let index = *position.entry(&row.invoice).or_insert(invoices.len());
        if index == invoices.len() {
            invoices.push((&row.invoice, Vec::new()));
        }
        invoices[index].1.push(row);
    }
    invoices.into_iter().map(|(invoice, rows)| event(invoice, &rows)).collect()
}

fn event(invoice: &str, rows: &[&Row]) -> Value {
    let cancelled = invoice.starts_with('C');
    let sign = if cancelled { -1 } else { 1 };
    let product = |row: &&Row| {
        let price: Value = serde_json::from_str(&row.price_text).unwrap();
        json!({"product_id": row.stock_code, "name": row.description, "price": price, "quantity": sign * row.quantity})
    };
    let total: i64 = rows.iter().map(|row| sign * row.quantity * row.price).sum();
    let mut event = json!({
        "type": "track",
        "event": if cancelled { "Order Cancelled" } else { "Order Completed" },
        "messageId": invoice,
        "timestamp": rfc3339(rows[0].at),
        "context": {"traits": {"country": rows[0].country}},
        "properties": {
            "order_id": invoice,
            "currency": "GBP",
            "total": total as f64 / 1000.0,
            "products": rows.iter().map(product).collect::<Vec<_>>(),
        },
    });
    if rows[0].customer.is_empty() {
        event["anonymousId"] = format!("invoice-{invoice}").into();
    } else {
        event["userId"] = rows[0].customer.clone().into();
    }
    event
}

/// The expected values of a customer as of an instant, under the data's names, by looking at every row.
pub fn reference(rows: &[&Row], at: i64) -> Value {
    let seen: Vec<&Row> = rows.iter().copied().filter(|row| row.at <= at).collect();
    let bought: Vec<&Row> = seen.iter().copied().filter(|row| !row.invoice.starts_with('C')).collect();
    let amount = |row: &&Row| row.quantity * row.price;
    let after = |opens: i64| money(seen.iter().filter(|row| row.at > opens).map(amount).sum());
    let zone = london();
    let now = jiff::Timestamp::from_millisecond(at).unwrap().to_zoned(zone.clone());
    let midnight = |date: jiff::civil::Date| date.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond() - 1;
    let mut orders: Vec<&str> = bought.iter().map(|row| row.invoice.as_str()).collect();
    orders.sort_unstable();
    orders.dedup();
    let gross: i64 = bought.iter().map(amount).sum();
    let last = bought.iter().map(|row| (row.at, row.invoice.as_str())).max();
    let last_amount =
        last.map(|(_, invoice)| bought.iter().filter(|row| row.invoice == invoice).map(amount).sum::<i64>());
    let mut units: BTreeMap<&str, i64> = BTreeMap::new();
    bought.iter().for_each(|row| *units.entry(&row.stock_code).or_default() += row.quantity);
    let mut top: Vec<(&str, i64)> = units.iter().map(|(code, units)| (*code, *units)).collect();
    top.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let day = |millis: i64| {
        let date = jiff::Timestamp::from_millisecond(millis).unwrap().to_zoned(zone.clone()).date();
        date.since((jiff::Unit::Day, jiff::civil::date(1970, 1, 1))).unwrap().get_days()
    };
    const DAY: i64 = 86_400_000;
    json!({
        "line_count": seen.len(),
        "order_count": orders.len(),
        "revenue_lifetime_pence": money(seen.iter().map(amount).sum()),
        "gross_revenue_lifetime_pence": money(gross),
        "first_purchase_at": bought.iter().map(|row| row.at).min().map(rfc3339),
        "last_purchase_at": last.map(|(at, _)| rfc3339(at)),
        "last_purchase_amount_pence": last_amount.map(money),
        "revenue_1h_pence": after(at - DAY / 24),
        "revenue_24h_pence": after(at - DAY),
        "revenue_7d_pence": after(at - 7 * DAY),
        "revenue_30d_pence": after(at - 30 * DAY),
        "revenue_90d_pence": after(at - 90 * DAY),
        "revenue_365d_pence": after(at - 365 * DAY),
        "revenue_ytd_pence": after(midnight(now.date().first_of_year())),
        "revenue_mtd_pence": after(midnight(now.date().first_of_month())),
        "distinct_stock_codes": units.len(),
        "top3_stock_codes": top.iter().take(3).map(|(code, quantity)| json!({"code": code, "quantity": quantity})).collect::<Vec<_>>(),
        "max_line_amount_pence": bought.iter().map(amount).max().map(money),
        "average_order_value_pence": (!orders.is_empty()).then(|| average(gross, orders.len() as i64)),
        "days_since_last_purchase": last.map(|(last, _)| (at - last).div_euclid(DAY)),
        "calendar_days_since_last_purchase": last.map(|(last, _)| day(at) - day(last)),
    })
}

/// Tenths of a penny as pence with three decimals.
fn money(tenths: i64) -> String {
    let sign = if tenths < 0 { "-" } else { "" };
    format!("{sign}{}.{}00", tenths.abs() / 10, tenths.abs() % 10)
}

/// Tenths of a penny divided, in pence, rounded half to even at the third decimal.
fn average(tenths: i64, count: i64) -> String {
    let (numerator, denominator) = (i128::from(tenths) * 100, i128::from(count));
    let (quotient, twice_rest) = (numerator.div_euclid(denominator), 2 * numerator.rem_euclid(denominator));
    let up = twice_rest > denominator || (twice_rest == denominator && quotient % 2 != 0);
    let thousandths = quotient + i128::from(up);
    let sign = if thousandths < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", thousandths.abs() / 1000, thousandths.abs() % 1000)
}

/// A profile's aggregates under the data's names and in its forms.
pub fn observed(profile: &Value) -> Value {
    let value = |name: &str| profile["aggregates"][format!("retail.{name}")]["value"].clone();
    let known = !profile.is_null();
    let number = |name: &str| if known { value(name) } else { json!(0) };
    let pence = |name: &str| match if known { value(name) } else { json!(0) } {
        Value::Null => Value::Null,
        number => pence_text(&number.to_string()).into(),
    };
    let optional_pence = |name: &str| if known { pence(name) } else { Value::Null };
    let top = value("top_products");
    let top: Vec<Value> = top
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| json!({"code": entry["key"], "quantity": entry["weight"]}))
        .collect();
    json!({
        "line_count": number("lines"),
        "order_count": number("orders"),
        "revenue_lifetime_pence": pence("revenue"),
        "gross_revenue_lifetime_pence": pence("gross_revenue"),
        "first_purchase_at": value("first_purchase_at"),
        "last_purchase_at": value("last_purchase_at"),
        "last_purchase_amount_pence": optional_pence("last_purchase_amount"),
        "revenue_1h_pence": pence("revenue_1h"),
        "revenue_24h_pence": pence("revenue_24h"),
        "revenue_7d_pence": pence("revenue_7d"),
        "revenue_30d_pence": pence("revenue_30d"),
        "revenue_90d_pence": pence("revenue_90d"),
        "revenue_365d_pence": pence("revenue_365d"),
        "revenue_ytd_pence": pence("revenue_ytd"),
        "revenue_mtd_pence": pence("revenue_mtd"),
        "distinct_stock_codes": number("distinct_products"),
        "top3_stock_codes": top,
        "max_line_amount_pence": optional_pence("max_line_amount"),
        "average_order_value_pence": optional_pence("average_order_value"),
        "days_since_last_purchase": value("days_since_last_purchase"),
        "calendar_days_since_last_purchase": value("calendar_days_since_last_purchase"),
    })
}

/// Pounds as pence with three decimals, digit by digit: 139.12 is 13912.000.
fn pence_text(pounds: &str) -> String {
    let (sign, digits) = pounds.strip_prefix('-').map_or(("", pounds), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = format!("{fraction:0<5}");
    let pence = format!("{whole}{}", &fraction[..2]);
    let pence = pence.trim_start_matches('0');
    format!("{sign}{}.{}", if pence.is_empty() { "0" } else { pence }, &fraction[2..])
}
