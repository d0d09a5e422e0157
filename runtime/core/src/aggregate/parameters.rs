//! An aggregate's parameters as its declaration gives them, by name; each must be used.

use super::operator::Order;
use super::window::parse_duration_ms;
use crate::time::DAY_MS;

/// Parameters not read yet.
pub(crate) struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    pub(crate) fn new(parameters: &'a [(String, String)]) -> Self {
        Self(parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())
    }

    /// One that nobody has read.
    pub(crate) fn unread(&self) -> Option<&'a str> {
        self.0.first().map(|(key, _)| *key)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<&'a str> {
        let index = self.0.iter().position(|(key, _)| *key == name)?;
        Some(self.0.remove(index).1)
    }

    pub(crate) fn need(&mut self, name: &str) -> Result<&'a str, String> {
        self.take(name).ok_or_else(|| format!("the parameter {name:?} is missing"))
    }

    pub(crate) fn of(&mut self) -> Result<String, String> {
        self.need("of").map(str::to_owned)
    }

    /// A whole number.
    pub(crate) fn number(&mut self, name: &str, from: u64, to: u64, default: Option<u64>) -> Result<u64, String> {
        let Some(text) = self.take(name) else {
            return default.ok_or_else(|| format!("the parameter {name:?} is missing"));
        };
        text.parse()
            .ok()
            .filter(|number| (from..=to).contains(number))
            .ok_or_else(|| format!("{name} = {text:?} is not a number from {from} to {to}"))
    }

    /// Milliseconds.
    pub(crate) fn duration(&mut self, name: &str, default: Option<&'a str>) -> Result<i64, String> {
        let text = match default {
            Some(default) => self.take(name).unwrap_or(default),
            None => self.need(name)?,
        };
        let what = name.replace('-', " ");
        parse_duration_ms(text)
            .filter(|ms| (60_000..=400 * DAY_MS).contains(ms))
            .ok_or_else(|| format!("the {what} {text:?} is not a duration from 1m to 400d"))
    }

    pub(crate) fn order(&mut self) -> Result<Order, String> {
        self.one_of("by", &[("instant", Order::Instant), ("day", Order::Day)])
    }

    pub(crate) fn sample(&mut self) -> Result<bool, String> {
        self.one_of("estimate", &[("population", false), ("sample", true)])
    }

    /// One of a few words, the first where none is given.
    pub(crate) fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<T, String> {
        let given = self.take(name);
        let word = words.iter().find(|(word, _)| given.is_none_or(|given| given == *word));
        word.map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            format!("{name} = {:?} is unknown; use {}", given.unwrap_or_default(), known.join(" or "))
        })
    }

    /// A quantile's rank in millionths.
    pub(crate) fn q(&mut self) -> Result<u32, String> {
        let text = self.need("q")?;
        let q = crate::value::Decimal::parse(text).ok().and_then(|q| u32::try_from(q.0).ok());
        q.filter(|q| *q <= 1_000_000).ok_or_else(|| format!("q = {text:?} is not a number from 0 to 1, such as 0.95"))
    }
}
