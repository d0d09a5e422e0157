//! The parts that stand in several places of a document: validity, caps, shares, quiet hours, suppression, content.

use compact_str::CompactString;
use serde_json::value::RawValue;

use super::read::{Object, decimal, instant, name, text, whole};
use super::terms::{
    Arbitration, CAP_WINDOW_MS_MAX, Cap, CapWindow, Counts, Part, Per, Quiet, Share, SuppressAfter, Suppression,
    Validity,
};
use crate::aggregate::parse_duration_ms;
use crate::time::{Period, Whose};
use crate::value::Decimal;

pub(super) const VALID_KEYS: &[&str] = &["from", "until"];
pub(super) const CAP_KEYS: &[&str] = &["per", "counts", "most", "window"];
pub(super) const PART_KEYS: &[&str] = &["percent", "salt"];
pub(super) const QUIET_KEYS: &[&str] = &["from", "until", "zone"];
pub(super) const SUPPRESS_KEYS: &[&str] = &["after", "whole_category", "for"];
pub(super) const ARBITRATION_KEYS: &[&str] = &["propensity", "context", "value", "lever"];
pub(super) const CHANNEL_CONTENT_KEYS: &[&str] = &["content"];

/// Caps in one place.
const CAPS_MAX: usize = 32;
/// Beyond any count that is kept.
const COUNT_MAX: u64 = 1_000_000_000_000;
/// A condition, as it was written.
pub(super) struct Written {
    pub(super) pointer: String,
    pub(super) text: String,
}

/// A content, as it was written: by the names of channels, none where it is to show nothing there.
pub(super) enum ContentForm {
    Everywhere(Box<RawValue>),
    ByChannel(Vec<(String, CompactString, Option<Box<RawValue>>)>),
}

impl Object<'_, '_> {
    /// `valid`.
    pub(super) fn valid(&self) -> Validity {
        let Some(object) = self.object("valid", VALID_KEYS) else { return Validity::default() };
        let validity = Validity { from: object.get("from", instant), until: object.get("until", instant) };
        if let Validity { from: Some(from), until: Some(until) } = validity
            && until <= from
        {
            object.fault("until", format!("valid.until is {until}, which is not after valid.from, {from}"));
        }
        validity
    }

    /// `caps`.
    pub(super) fn caps(&self) -> Vec<Cap> {
        self.objects("caps", CAPS_MAX, CAP_KEYS).iter().filter_map(cap).collect()
    }

    /// A condition.
    pub(super) fn condition(&self, key: &str) -> Option<Written> {
        let text = self.get(key, text)?;
        Some(Written { pointer: super::fault::step(&self.pointer, key), text })
    }

    /// A share of all visitors, such as `holdout`; the salt where none is given.
    pub(super) fn part(&self, salt: &str) -> Option<Part> {
        let share = self.need("percent", "give a number from 0 to 100", percent)?;
        Some(Part { share, salt: self.get("salt", name).unwrap_or_else(|| salt.into()) })
    }

    /// `quiet`.
    pub(super) fn quiet(&self) -> Option<Quiet> {
        let object = self.object("quiet", QUIET_KEYS)?;
        let from = object.need("from", "give a time of day such as \"22:00\"", time_of_day);
        let until = object.need("until", "give a time of day such as \"07:00\"", time_of_day);
        let zone = object.choice("zone", &[("business", Whose::Business), ("visitor", Whose::Visitor)]);
        let quiet = Quiet { from: from?, until: until?, whose: zone.unwrap_or(Whose::Business) };
        if quiet.from == quiet.until {
            object.fault("until", "quiet.until is the same as quiet.from, so it is never quiet; leave quiet out");
        }
        Some(quiet)
    }

    /// `suppress`.
    pub(super) fn suppress(&self) -> Option<Suppression> {
        let object = self.object("suppress", SUPPRESS_KEYS)?;
        let after = [("purchase", SuppressAfter::Purchase), ("accepted", SuppressAfter::Accepted)];
        Some(Suppression {
            after: object.choice("after", &after).unwrap_or_default(),
            whole_category: object.flag("whole_category", false),
            for_ms: object.get("for", span_or_forever).flatten(),
        })
    }

    /// `arbitration`.
    pub(super) fn arbitration(&self) -> Arbitration {
        let Some(object) = self.object("arbitration", ARBITRATION_KEYS) else { return Arbitration::default() };
        let on = |key| object.flag(key, true);
        Arbitration { propensity: on("propensity"), context: on("context"), value: on("value"), lever: on("lever") }
    }

    /// `content` or `channels`; none where there is neither.
    pub(super) fn content(&self) -> Option<ContentForm> {
        if self.raw("channels").is_none() {
            return self.get("content", content).map(ContentForm::Everywhere);
        }
        if self.raw("content").is_some() {
            self.fault(
                "content",
                "content stands beside channels; keep one: what shows everywhere, or what shows on each",
            );
        }
        let by_name = self.map("channels").into_iter().filter_map(|(channel, raw)| {
            let pointer = super::fault::step(&super::fault::step(&self.pointer, "channels"), &channel);
            if raw.get() == "false" {
                return Some((pointer, channel.into(), None));
            }
            let inner = self.object_at(raw, pointer.clone(), CHANNEL_CONTENT_KEYS)?;
            let content = inner.need("content", "give what shows there, or write false for nothing", content)?;
            Some((pointer, channel.into(), Some(content)))
        });
        Some(ContentForm::ByChannel(by_name.collect()))
    }
}

fn cap(object: &Object<'_, '_>) -> Option<Cap> {
    let per = [("person", Per::Person), ("household", Per::Household), ("everyone", Per::Everyone)];
    let counts = [
        ("decided", Counts::Decided),
        ("shown", Counts::Shown),
        ("clicked", Counts::Clicked),
        ("accepted", Counts::Accepted),
    ];
    let per = object.choice("per", &per).unwrap_or_default();
    let counts = object.choice("counts", &counts).unwrap_or_default();
    let most = object.need("most", "give a whole number from 1 on", |raw| match raw.get() {
        "0" => Err("is 0; a cap is 1 or more (to offer nothing, set enabled to false)".to_owned()),
        _ => whole(raw, 1, COUNT_MAX),
    });
    let window = object.need(
        "window",
        "give a duration such as \"7d\", a period such as \"month\", or \"lifetime\"",
        cap_window,
    );
    Some(Cap { per, counts, most: most?, window: window? })
}

fn cap_window(raw: &RawValue) -> Result<CapWindow, String> {
    let text = text(raw)?;
    let periods = [Period::Day, Period::Week, Period::Month, Period::Year];
    if let Some(period) = periods.into_iter().find(|period| period.name() == text) {
        return Ok(CapWindow::Calendar(period));
    }
    if text == "lifetime" {
        return Ok(CapWindow::Lifetime);
    }
    let span = parse_duration_ms(&text).filter(|ms| (60_000..=CAP_WINDOW_MS_MAX).contains(ms));
    span.map(CapWindow::Sliding).ok_or_else(|| {
        format!("is {text:?}; it is a duration from 1m to 400d such as 90m, 24h or 7d, or day, week, month, year, or lifetime")
    })
}

/// A duration such as `30d`, or `forever`: none.
pub(super) fn span_or_forever(raw: &RawValue) -> Result<Option<i64>, String> {
    let text = text(raw)?;
    match parse_duration_ms(&text) {
        _ if text == "forever" => Ok(None),
        Some(ms) if ms > 0 => Ok(Some(ms)),
        _ => Err(format!("is {text:?}; it is a duration such as 90m, 24h or 30d, or forever")),
    }
}

/// A percent, to four decimals.
fn percent(raw: &RawValue) -> Result<Share, String> {
    let units = decimal(raw)?.0;
    let hundred = 100 * Decimal::SCALE;
    match u32::try_from(units / 100) {
        Ok(share) if (0..=hundred).contains(&units) && units % 100 == 0 => Ok(Share(share)),
        _ if (0..=hundred).contains(&units) => Err(format!("is {}; it has at most four decimals", raw.get())),
        _ => Err(format!("is {}; it is a number from 0 to 100", raw.get())),
    }
}

/// `22:00` as minutes after midnight.
fn time_of_day(raw: &RawValue) -> Result<u16, String> {
    let text = text(raw)?;
    let two = |digits: &str, below: u16| {
        let number = digits.parse::<u16>().ok().filter(|number| *number < below);
        number.filter(|_| digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let parsed = text.split_once(':').and_then(|(hours, minutes)| Some(two(hours, 24)? * 60 + two(minutes, 60)?));
    parsed.ok_or_else(|| format!("is {text:?}; it is a time of day from 00:00 to 23:59"))
}

/// An object that every reader of JSON takes, as it stands.
pub(super) fn content(raw: &RawValue) -> Result<Box<RawValue>, String> {
    if !raw.get().starts_with('{') {
        return Err("is not an object, such as {\"title\": \"…\"}".to_owned());
    }
    // A value that readers choke on (too deep, half a character, a number beyond all numbers) is none.
    match serde_json::from_str::<serde_json::Value>(raw.get()) {
        Ok(_) => Ok(raw.to_owned()),
        Err(error) => Err(format!("is not JSON that every reader takes: {error}")),
    }
}
