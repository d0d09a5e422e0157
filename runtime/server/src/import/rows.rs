//! Rows of a file, one after another, whatever its form.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use csv::{ByteRecord, StringRecord};
use flate2::read::MultiGzDecoder;

use super::map::Format;
use super::plan::Plan;

/// A row: its values in the order of [`Source::columns`].
pub struct Row {
    /// Counted from 1, without the header.
    pub number: u64,
    pub values: StringRecord,
    /// What is odd about it, so that its event must be refused: it has another number of values, or is not UTF-8.
    pub odd: Option<String>,
}

/// A row of which not even its values can be told.
pub struct BadRow {
    pub number: u64,
    pub detail: String,
}

/// A file being read.
pub struct Source {
    reader: Reader,
    columns: Vec<String>,
    read: Arc<AtomicU64>,
    number: u64,
}

enum Reader {
    Csv(Box<csv::Reader<Box<dyn Read>>>),
    Ndjson(Box<dyn BufRead>),
}

/// Counts the bytes of the file that were read, compressed as they are.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

impl Source {
    /// Opens a file. Columns that the map names must be there.
    pub fn open(path: &Path, map: &Plan) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let read = Arc::new(AtomicU64::new(0));
        let raw = BufReader::with_capacity(256 * 1024, Counted { file, read: Arc::clone(&read) });
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (inner, bytes): (&str, Box<dyn Read>) = match name.strip_suffix(".gz") {
            Some(inner) => (inner, Box::new(MultiGzDecoder::new(raw))),
            None => (&name, Box::new(raw)),
        };
        let by_name = || match inner.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Some(Format::Csv),
            Some("ndjson" | "jsonl") => Some(Format::Ndjson),
            _ => None,
        };
        let Some(format) = map.format().or_else(by_name) else {
            bail!("{}: neither .csv nor .ndjson; say format = \"csv\" or \"ndjson\" in the map", path.display());
        };
        let (reader, columns) = match format {
            Format::Csv => {
                let mut reader =
                    csv::ReaderBuilder::new().buffer_capacity(256 * 1024).flexible(true).from_reader(bytes);
                let columns = reader.headers().with_context(|| format!("read the header of {}", path.display()))?;
                let columns: Vec<String> = columns.iter().map(str::to_owned).collect();
                (Reader::Csv(Box::new(reader)), columns)
            }
            Format::Ndjson => {
                let columns = map.columns().into_iter().map(str::to_owned).collect();
                (Reader::Ndjson(Box::new(BufReader::with_capacity(256 * 1024, bytes))), columns)
            }
        };
        if let Some(missing) = map.columns().into_iter().find(|column| !columns.iter().any(|known| known == column)) {
            bail!("{} has no column {missing:?}; it has {}", path.display(), columns.join(", "));
        }
        Ok(Self { reader, columns, read, number: 0 })
    }

    /// The names of the values of a row.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Bytes of the file read so far.
    pub fn position(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The next row. The outer error says that the file cannot be read on: what is left of it is not known.
    pub fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>> {
        self.number += 1;
        let number = self.number;
        let cut = || format!("the file cannot be read on after row {}", number - 1);
        match &mut self.reader {
            Reader::Csv(reader) => {
                let mut record = ByteRecord::new();
                if !reader.read_byte_record(&mut record).with_context(cut)? {
                    return Ok(None);
                }
                let mut odd = (record.len() != self.columns.len())
                    .then(|| format!("has {} values; the header has {}", record.len(), self.columns.len()));
                let values = StringRecord::from_byte_record(record).unwrap_or_else(|error| {
                    odd.get_or_insert_with(|| "is not UTF-8".to_owned());
                    StringRecord::from_byte_record_lossy(error.into_byte_record())
                });
                Ok(Some(Ok(Row { number, values, odd })))
            }
            Reader::Ndjson(reader) => {
                let mut line = Vec::new();
                if reader.read_until(b'\n', &mut line).with_context(cut)? == 0 {
                    return Ok(None);
                }
                let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&line);
                Ok(Some(match object {
                    Ok(object) => {
                        let values = self.columns.iter().map(|column| text_of(object.get(column))).collect();
                        Ok(Row { number, values, odd: None })
                    }
                    Err(error) => Err(BadRow { number, detail: format!("is not a JSON object: {error}") }),
                }))
            }
        }
    }
}

fn text_of(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

impl From<BadRow> for super::assemble::RefusedRows {
    fn from(row: BadRow) -> Self {
        Self { first_row: row.number, rows: 1, reason: "unreadable_row".into(), detail: row.detail }
    }
}
