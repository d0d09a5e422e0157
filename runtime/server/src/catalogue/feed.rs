//! Product feeds: prices and stocks of products, as rows of a CSV file, put into the offers that sell them.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Number, Value, json};

use super::rows::number;

/// A row of a feed.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    line: u64,
    /// An offer's id, or a product's.
    key: String,
    is_product: bool,
    price: Option<Number>,
    stock: Option<u64>,
}

/// What a feed did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub rows: usize,
    /// Offers that some row is about.
    pub matched: usize,
    /// Those of them that it changed.
    pub changed: usize,
    pub unmatched: Vec<Unmatched>,
}

/// A row that is about no offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmatched {
    pub line: u64,
    pub key: String,
}

/// Reads a file.
pub fn read(file: &Path) -> Result<Vec<Row>> {
    let opened = std::fs::File::open(file).with_context(|| format!("read {}", file.display()))?;
    read_from(opened).with_context(|| file.display().to_string())
}

fn read_from(source: impl Read) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source);
    let columns = reader.headers().context("read the first line")?.clone();
    let place = |name: &str| columns.iter().position(|column| column.trim_start_matches('\u{feff}') == name);
    let (id, product) = (place("id"), place("product_id"));
    let (price, stock) = (place("price"), place("stock"));
    ensure!(id.is_some() || product.is_some(), "the first line has neither a column \"id\" nor \"product_id\"");
    ensure!(price.is_some() || stock.is_some(), "the first line has neither a column \"price\" nor \"stock\"");
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |place: Option<usize>| place.and_then(|place| record.get(place)).filter(|cell| !cell.is_empty());
        let (key, is_product) = match (cell(id), cell(product)) {
            (Some(id), _) => (id, false),
            (None, Some(product)) => (product, true),
            (None, None) => bail!("line {line} names neither an offer nor a product"),
        };
        let price = cell(price).map(|cell| {
            let price = number(cell).filter(|price| price.as_f64().is_some_and(|price| price >= 0.0));
            price.with_context(|| format!("line {line}: the price {cell:?} is not a number such as 19.95"))
        });
        let stock = cell(stock).map(|cell| {
            // Some systems count below nothing what is on order.
            let whole = cell.parse::<i64>().ok().map(|stock| u64::try_from(stock).unwrap_or(0));
            whole.with_context(|| format!("line {line}: the stock {cell:?} is not a whole number"))
        });
        let (price, stock) = (price.transpose()?, stock.transpose()?);
        rows.push(Row { line, key: key.to_owned(), is_product, price, stock });
    }
    Ok(rows)
}

/// What the rows say of one offer.
#[derive(Default)]
struct Said {
    price: Option<Number>,
    stock: Option<u64>,
}

impl Said {
    /// Of several products the lowest price and all of the stock.
    fn add(&mut self, row: &Row) {
        let lower = |known: &Number, other: &Number| other.as_f64() < known.as_f64();
        if let Some(price) = &row.price
            && self.price.as_ref().is_none_or(|known| lower(known, price))
        {
            self.price = Some(price.clone());
        }
        if let Some(stock) = row.stock {
            self.stock = Some(self.stock.unwrap_or(0).saturating_add(stock));
        }
    }
}

/// Puts what a feed says into the offers of a document.
pub fn apply(document: &mut Value, rows: &[Row]) -> Report {
    let mut report = Report { rows: rows.len(), ..Report::default() };
    let mut none = Vec::new();
    let offers = document["offers"].as_array_mut().unwrap_or(&mut none);
    let (mut by_id, mut by_product): (HashMap<&str, usize>, HashMap<&str, Vec<usize>>) = Default::default();
    for (place, offer) in offers.iter().enumerate() {
        by_id.extend(offer["id"].as_str().map(|id| (id, place)));
        for product in offer["product_ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            by_product.entry(product).or_default().push(place);
        }
    }
    let mut said: HashMap<usize, Said> = HashMap::new();
    for row in rows {
        let key = row.key.as_str();
        let places: &[usize] = match by_id.get(key) {
            Some(place) if !row.is_product => std::slice::from_ref(place),
            // A column "id" may well hold the ids of products.
            _ => by_product.get(key).map_or(&[], Vec::as_slice),
        };
        if places.is_empty() {
            report.unmatched.push(Unmatched { line: row.line, key: row.key.clone() });
        }
        places.iter().for_each(|place| said.entry(*place).or_default().add(row));
    }
    report.matched = said.len();
    for (place, said) in said {
        let before = offers[place].clone();
        if let Some(price) = said.price {
            offers[place]["price"] = Value::Number(price);
        }
        if let Some(stock) = said.stock {
            offers[place]["inventory"] = json!(stock);
            offers[place]["enabled"] = json!(stock > 0);
        }
        report.changed += usize::from(offers[place] != before);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_sets_price_and_stock_of_what_sells_its_products() {
        let csv = "product_id,price,stock\nK1,9.50,3\nK2,8,2\nX9,1,1\nR1,,0\n";
        let rows = read_from(csv.as_bytes()).expect("a feed");
        let mut document = json!({"offers": [{"id": "kettle", "product_ids": ["K1", "K2"]}, {"id": "rose", "product_ids": ["R1"], "price": 3},
                                             {"id": "card"}]});
        let report = apply(&mut document, &rows);
        assert_eq!((report.rows, report.matched, report.changed), (4, 2, 2));
        assert_eq!(report.unmatched, [Unmatched { line: 4, key: "X9".into() }]);
        let offers = &document["offers"];
        assert_eq!(
            offers[0],
            json!({"id": "kettle", "product_ids": ["K1", "K2"], "price": 8, "inventory": 5, "enabled": true})
        );
        assert_eq!(
            offers[1],
            json!({"id": "rose", "product_ids": ["R1"], "price": 3, "inventory": 0, "enabled": false})
        );
        assert_eq!(offers[2], json!({"id": "card"}));
        assert_eq!(apply(&mut document, &rows).changed, 0, "the same again changes nothing");
    }

    #[test]
    fn a_row_may_name_the_offer() {
        let rows = read_from("id,stock\ncard,-2\nK1,4\n".as_bytes()).expect("a feed");
        let mut document = json!({"offers": [{"id": "kettle", "product_ids": ["K1"]}, {"id": "card"}]});
        assert!(apply(&mut document, &rows).unmatched.is_empty());
        assert_eq!(
            (&document["offers"][1]["enabled"], &document["offers"][0]["inventory"]),
            (&json!(false), &json!(4))
        );
    }

    #[test]
    fn a_fault_has_its_line() {
        let fault = |csv: &str| format!("{:#}", read_from(csv.as_bytes()).expect_err("a fault"));
        assert!(fault("sku,price\n").contains("neither a column \"id\" nor \"product_id\""));
        assert!(fault("id,size\n").contains("neither a column \"price\" nor \"stock\""));
        assert!(fault("id,price\na,1\nb,-1\n").starts_with("line 3: the price \"-1\""));
        assert!(fault("id,stock\na,some\n").starts_with("line 2: the stock \"some\""));
        assert!(fault("id,product_id,stock\n,,1\n").contains("line 2 names neither"));
    }
}
