//! Offers as rows of a CSV file. A column is a field of an offer, `content.NAME` or `features.NAME`; an empty cell says nothing.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Map, Number, Value};

/// Columns that hold texts.
const TEXTS: [&str; 7] = ["id", "name", "category", "purpose", "propensity", "campaign", "eligible"];
/// Columns that hold numbers.
const NUMBERS: [&str; 4] = ["value", "lever", "price", "inventory"];
/// Columns that hold yes or no.
const FLAGS: [&str; 3] = ["enabled", "mandatory", "transactional"];
/// Columns that hold lists, their items apart by `|`.
const LISTS: [&str; 3] = ["product_ids", "tags", "audiences"];
/// Columns of a validity.
const VALIDITY: [&str; 2] = ["valid.from", "valid.until"];

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub added: usize,
    pub replaced: usize,
    pub removed: usize,
}

/// Reads a file.
pub fn read(file: &Path) -> Result<Vec<Value>> {
    let opened = std::fs::File::open(file).with_context(|| format!("read {}", file.display()))?;
    read_from(opened).with_context(|| file.display().to_string())
}

fn read_from(source: impl Read) -> Result<Vec<Value>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source);
    let columns: Vec<String> = reader.headers().context("read the first line")?.iter().map(str::to_owned).collect();
    let columns: Vec<String> = columns.iter().map(|column| column.trim_start_matches('\u{feff}').to_owned()).collect();
    ensure!(columns.iter().any(|column| column == "id"), "the first line has no column \"id\"");
    if let Some(unknown) = columns.iter().find(|column| !is_known(column)) {
        bail!(
            "the column {unknown:?} is unknown; there are {}, content.NAME and features.NAME",
            [&TEXTS[..], &NUMBERS, &FLAGS, &LISTS, &VALIDITY].concat().join(", ")
        );
    }
    let (mut offers, mut seen) = (Vec::new(), HashMap::new());
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let cells = columns.iter().zip(record.iter()).filter(|(_, cell)| !cell.is_empty());
        let mut offer = Map::new();
        for (column, cell) in cells {
            put(&mut offer, column, cell).with_context(|| format!("line {line}, column {column:?}"))?;
        }
        let Some(id) = offer.get("id").and_then(Value::as_str).map(str::to_owned) else {
            bail!("line {line}: the offer has no id");
        };
        if let Some(before) = seen.insert(id.clone(), line) {
            bail!("line {line}: the offer {id:?} stands in line {before} too; ids must be unique");
        }
        offers.push(Value::Object(offer));
    }
    Ok(offers)
}

fn is_known(column: &str) -> bool {
    let named = |prefix: &str| column.strip_prefix(prefix).is_some_and(|name| !name.is_empty());
    [&TEXTS[..], &NUMBERS, &FLAGS, &LISTS, &VALIDITY].iter().any(|columns| columns.contains(&column))
        || named("content.")
        || named("features.")
        || named("feature.")
}

fn put(offer: &mut Map<String, Value>, column: &str, cell: &str) -> Result<()> {
    let (group, name, value) = if let Some(name) = column.strip_prefix("content.") {
        (Some("content"), name, cell.into())
    } else if let Some(name) = column.strip_prefix("features.").or_else(|| column.strip_prefix("feature.")) {
        (Some("features"), name, number(cell).map_or_else(|| cell.into(), Value::Number))
    } else if let Some(name) = column.strip_prefix("valid.") {
        (Some("valid"), name, cell.into())
    } else if NUMBERS.contains(&column) {
        let number = number(cell).with_context(|| format!("{cell:?} is not a number such as 12.5"))?;
        (None, column, Value::Number(number))
    } else if FLAGS.contains(&column) {
        let flag = match cell.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => true,
            "false" | "no" | "0" => false,
            _ => bail!("{cell:?} is neither true nor false"),
        };
        (None, column, flag.into())
    } else if LISTS.contains(&column) {
        let items: Vec<&str> = cell.split('|').map(str::trim).filter(|item| !item.is_empty()).collect();
        (None, column, items.into())
    } else {
        (None, column, cell.into())
    };
    let fields = match group {
        None => offer,
        Some(group) => {
            let group = offer.entry(group).or_insert_with(|| Value::Object(Map::new()));
            group.as_object_mut().context("stands twice")?
        }
    };
    ensure!(fields.insert(name.to_owned(), value).is_none(), "stands twice");
    Ok(())
}

/// A number as it stands.
pub fn number(text: &str) -> Option<Number> {
    serde_json::from_str(text).ok()
}

/// Puts offers into a document: each in the place of the one of its id, the others behind all. What a row does not say of an offer that is there stays.
pub fn merge(document: &mut Value, offers: &[Value], replace: bool) -> Counted {
    let mut counted = Counted::default();
    let Some(fields) = document.as_object_mut() else { return counted };
    let all = fields.entry("offers").or_insert_with(|| Value::Array(Vec::new()));
    let Some(all) = all.as_array_mut() else { return counted };
    let id = |offer: &Value| offer["id"].as_str().unwrap_or_default().to_owned();
    let places: HashMap<String, usize> = all.iter().enumerate().map(|(place, offer)| (id(offer), place)).collect();
    for offer in offers {
        match places.get(&id(offer)) {
            Some(place) => {
                counted.replaced += 1;
                over(&mut all[*place], offer);
            }
            None => {
                counted.added += 1;
                let mut offer = offer.clone();
                if let Some(fields) = offer.as_object_mut()
                    && !fields.contains_key("content")
                {
                    fields.insert("content".into(), Value::Object(Map::new()));
                }
                all.push(offer);
            }
        }
    }
    if replace {
        let said: std::collections::HashSet<String> = offers.iter().map(id).collect();
        let before = all.len();
        all.retain(|offer| said.contains(&id(offer)));
        counted.removed = before - all.len();
    }
    counted
}

/// Lays what one value says over another, field by field.
fn over(under: &mut Value, said: &Value) {
    match (under, said) {
        (Value::Object(under), Value::Object(said)) => {
            for (name, value) in said {
                over(under.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (under, said) => *under = said.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_an_offer() {
        let csv = "id,value,product_ids,enabled,content.title,features.margin,features.brand,valid.from\n\
                   kettle,12.50,K1|K2,yes,\"A kettle, red\",0.4,Acme,2026-12-01T00:00:00Z\nrose,,,,A rose,,,\n";
        let offers = read_from(csv.as_bytes()).expect("offers");
        assert_eq!(
            offers[0],
            json!({"id": "kettle", "value": 12.50, "product_ids": ["K1", "K2"], "enabled": true, "content": {"title": "A kettle, red"},
                   "features": {"margin": 0.4, "brand": "Acme"}, "valid": {"from": "2026-12-01T00:00:00Z"}})
        );
        assert_eq!(offers[1], json!({"id": "rose", "content": {"title": "A rose"}}));
    }

    #[test]
    fn a_fault_has_its_line() {
        let fault = |csv: &str| format!("{:#}", read_from(csv.as_bytes()).expect_err("a fault"));
        assert!(fault("id,prize\n").contains("\"prize\" is unknown"));
        assert!(fault("name\na\n").contains("no column \"id\""));
        assert!(fault("id,value\na,1\nb,dear\n").starts_with("line 3, column \"value\": \"dear\" is not a number"));
        assert!(fault("id\na\na\n").contains("line 3: the offer \"a\" stands in line 2 too"));
        assert!(fault("id,enabled\na,maybe\n").contains("neither true nor false"));
    }

    #[test]
    fn rows_are_laid_over_what_is_there() {
        let mut document = json!({"offers": [{"id": "a", "value": 1, "content": {"title": "A", "text": "x"}}, {"id": "b", "content": {}}], "slots": []});
        let offers = [json!({"id": "c"}), json!({"id": "a", "content": {"title": "AA"}})];
        let counted = merge(&mut document, &offers, false);
        assert_eq!(counted, Counted { added: 1, replaced: 1, removed: 0 });
        assert_eq!(document["offers"][0], json!({"id": "a", "value": 1, "content": {"title": "AA", "text": "x"}}));
        assert_eq!(document["offers"][2], json!({"id": "c", "content": {}}));
        assert_eq!(merge(&mut document, &offers, true).removed, 1);
        assert_eq!(document["offers"].as_array().map(Vec::len), Some(2));
    }
}
