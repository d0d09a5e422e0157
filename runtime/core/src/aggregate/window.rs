//! Windows: which events a reading counts, by their time.

use std::fmt;

use crate::time::{DAY_MS, Moment};

/// A span of event time that ends at the instant of reading, that instant included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Everything.
    Lifetime,
    /// `(t - w, t]`, w an exact number of milliseconds.
    Sliding(i64),
    /// From midnight of the first of January, business time, that midnight included.
    YearToDate,
    /// From midnight of the first day of the month, business time, that midnight included.
    MonthToDate,
}

/// The text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown window {0:?}; use lifetime, ytd, mtd, or a duration from 1m to 400d such as 90m, 24h or 7d")]
pub struct WindowError(String);

impl Window {
    const MINUTE_MS: i64 = 60_000;

    /// Parses `lifetime`, `ytd`, `mtd`, or a whole number of `m`, `h` or `d`.
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        match text {
            "lifetime" => return Ok(Self::Lifetime),
            "ytd" => return Ok(Self::YearToDate),
            "mtd" => return Ok(Self::MonthToDate),
            _ => {}
        }
        parse_duration_ms(text)
            .filter(|ms| (Self::MINUTE_MS..=400 * DAY_MS).contains(ms))
            .map(Self::Sliding)
            .ok_or_else(|| WindowError(text.to_owned()))
    }

    /// The instant (milliseconds) after which events count; none where all do.
    pub fn opens_after(self, moment: &Moment) -> Option<i64> {
        match self {
            Self::Lifetime => None,
            Self::Sliding(width_ms) => Some(moment.at.0 - width_ms),
            Self::YearToDate => Some(moment.year_start.0 - 1),
            Self::MonthToDate => Some(moment.month_start.0 - 1),
        }
    }

    /// How far back the window may reach at most; 0 for the lifetime, which needs no event times.
    pub fn reach_ms(self) -> i64 {
        match self {
            Self::Lifetime => 0,
            Self::Sliding(width_ms) => width_ms,
            // A day more than the calendar's longest, for changes of the zone's offset.
            Self::YearToDate => 367 * DAY_MS,
            Self::MonthToDate => 32 * DAY_MS,
        }
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

/// The suffix of a reading's name: `7d`, `ytd`.
impl fmt::Display for Window {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lifetime => out.write_str("lifetime"),
            Self::YearToDate => out.write_str("ytd"),
            Self::MonthToDate => out.write_str("mtd"),
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
        for text in ["0m", "401d", "9601h", "7", "7w", "-7d", "", "d", "YTD", "99999999999999999999d"] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
    }
}
