//! Windows: which events a reading counts, by their time.

use std::fmt;

use crate::time::{DAY_MS, Moment, Period};

/// A span of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Everything.
    Lifetime,
    /// `(t - w, t]`, w an exact number of milliseconds.
    Sliding(i64),
    /// From the beginning of the calendar's period around t, that instant included, to t.
    ToDate(Period),
    /// The whole period before that one.
    Previous(Period),
}

/// The text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown window {0:?}; use lifetime, a duration from 1m to 400d such as 90m, 24h or 7d, htd, dtd, wtd, mtd, qtd or ytd, \
     or previous-hour and so on to previous-year"
)]
pub struct WindowError(String);

impl Window {
    const MINUTE_MS: i64 = 60_000;

    /// Parses `lifetime`, a whole number of `m`, `h` or `d`, `mtd` and the like, `previous-month` and the like.
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        if text == "lifetime" {
            return Ok(Self::Lifetime);
        }
        if let Some(period) = Period::ALL.into_iter().find(|period| to_date(*period) == text) {
            return Ok(Self::ToDate(period));
        }
        if let Some(name) = text.strip_prefix("previous-") {
            let period = Period::ALL.into_iter().find(|period| period.name() == name);
            return period.map(Self::Previous).ok_or_else(|| WindowError(text.to_owned()));
        }
        parse_duration_ms(text)
            .filter(|ms| (Self::MINUTE_MS..=400 * DAY_MS).contains(ms))
            .map(Self::Sliding)
            .ok_or_else(|| WindowError(text.to_owned()))
    }

    /// The instant (milliseconds) after which events count, and the one after which they no longer do; none where all do.
    pub fn bounds(self, moment: &Moment) -> Option<(i64, i64)> {
        match self {
            Self::Lifetime => None,
            Self::Sliding(width_ms) => Some((moment.at.0 - width_ms, i64::MAX)),
            Self::ToDate(period) => Some((moment.began(period).this.0 - 1, i64::MAX)),
            Self::Previous(period) => {
                let began = moment.began(period);
                Some((began.previous.0 - 1, began.this.0 - 1))
            }
        }
    }

    /// The period of the calendar that it needs.
    pub fn period(self) -> Option<Period> {
        match self {
            Self::ToDate(period) | Self::Previous(period) => Some(period),
            Self::Lifetime | Self::Sliding(_) => None,
        }
    }

    /// How far back the window may reach at most; 0 for the lifetime, which needs no event times.
    pub fn reach_ms(self) -> i64 {
        match self {
            Self::Lifetime => 0,
            Self::Sliding(width_ms) => width_ms,
            Self::ToDate(period) => period.longest_ms(),
            Self::Previous(period) => 2 * period.longest_ms(),
        }
    }
}

/// `mtd` for the month, and so on.
fn to_date(period: Period) -> &'static str {
    match period {
        Period::Hour => "htd",
        Period::Day => "dtd",
        Period::Week => "wtd",
        Period::Month => "mtd",
        Period::Quarter => "qtd",
        Period::Year => "ytd",
    }
}

/// Milliseconds of a duration written as a whole number of `m`, `h` or `d`.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    let unit_ms = match text.as_bytes().last()? {
        b'm' => 60_000,
        b'h' => 3_600_000,
        b'd' => DAY_MS,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(unit_ms)
}

/// The suffix of a reading's name: `7d`, `ytd`, `previous_month`.
impl fmt::Display for Window {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lifetime => out.write_str("lifetime"),
            Self::ToDate(period) => out.write_str(to_date(*period)),
            Self::Previous(period) => write!(out, "previous_{}", period.name()),
            Self::Sliding(ms) if ms % DAY_MS == 0 && *ms > DAY_MS => write!(out, "{}d", ms / DAY_MS),
            Self::Sliding(ms) if ms % 3_600_000 == 0 => write!(out, "{}h", ms / 3_600_000),
            Self::Sliding(ms) => write!(out, "{}m", ms / Self::MINUTE_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_at_their_limits() {
        assert_eq!(Window::parse("1m"), Ok(Window::Sliding(60_000)));
        assert_eq!(Window::parse("400d"), Ok(Window::Sliding(400 * DAY_MS)));
        for text in [
            "0m",
            "401d",
            "9601h",
            "7",
            "7w",
            "-7d",
            "",
            "d",
            "YTD",
            "xtd",
            "previous-",
            "previous-decade",
            "99999999999999999999d",
        ] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
        assert_eq!(Window::parse("qtd"), Ok(Window::ToDate(Period::Quarter)));
        assert_eq!(Window::parse("previous-week").map(|window| window.to_string()).as_deref(), Ok("previous_week"));
    }
}
