//! Windows: which events a reading counts, by their time or their number.

use std::fmt;

use crate::time::{DAY_MS, Period};

/// A span of events.
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
    /// From the beginning of the billing cycle around t to t.
    BillingCycle,
    /// The whole billing cycle before that one.
    PreviousBillingCycle,
    /// From the beginning of the current session to t; nothing where none is under way.
    Session,
    /// The last events that contributed, at most so many.
    Last(u16),
}

/// The text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown window {0:?}; use lifetime, a duration from 1m to 400d such as 90m, 24h or 7d, htd, dtd, wtd, mtd, qtd or ytd, \
     previous-hour and so on to previous-year, billing-cycle, previous-billing-cycle, session, or last-1 to last-256"
)]
pub struct WindowError(String);

impl Window {
    const MINUTE_MS: i64 = 60_000;
    /// How far back a session may have begun for its values to be exact.
    pub(crate) const SESSION_MS: i64 = 7 * DAY_MS;
    /// Events that a window of the last ones may hold.
    pub const LAST_MAX: u16 = 256;

    /// Parses `lifetime`, a whole number of `m`, `h` or `d`, `mtd` and the like, `previous-month` and the like, and the named ones.
    pub fn parse(text: &str) -> Result<Self, WindowError> {
        let unknown = || WindowError(text.to_owned());
        match text {
            "lifetime" => return Ok(Self::Lifetime),
            "billing-cycle" => return Ok(Self::BillingCycle),
            "previous-billing-cycle" => return Ok(Self::PreviousBillingCycle),
            "session" => return Ok(Self::Session),
            _ => {}
        }
        if let Some(period) = Period::ALL.into_iter().find(|period| to_date(*period) == text) {
            return Ok(Self::ToDate(period));
        }
        if let Some(name) = text.strip_prefix("previous-") {
            return Period::ALL
                .into_iter()
                .find(|period| period.name() == name)
                .map(Self::Previous)
                .ok_or_else(unknown);
        }
        if let Some(count) = text.strip_prefix("last-") {
            let digits = count.bytes().all(|byte| byte.is_ascii_digit());
            let count = count.parse().ok().filter(|count| digits && (1..=Self::LAST_MAX).contains(count));
            return count.map(Self::Last).ok_or_else(unknown);
        }
        parse_duration_ms(text)
            .filter(|ms| (Self::MINUTE_MS..=400 * DAY_MS).contains(ms))
            .map(Self::Sliding)
            .ok_or_else(unknown)
    }

    /// How far back the window may reach at most; 0 where no event times are needed.
    pub fn reach_ms(self) -> i64 {
        match self {
            Self::Lifetime | Self::Last(_) => 0,
            Self::Sliding(width_ms) => width_ms,
            Self::ToDate(period) => period.longest_ms(),
            Self::Previous(period) => 2 * period.longest_ms(),
            Self::BillingCycle => Period::Month.longest_ms(),
            Self::PreviousBillingCycle => 2 * Period::Month.longest_ms(),
            Self::Session => Self::SESSION_MS,
        }
    }

    /// Whether it is cut by a calendar.
    pub fn by_calendar(self) -> bool {
        matches!(self, Self::ToDate(_) | Self::Previous(_)) || self.by_billing()
    }

    /// Whether it is cut by billing cycles.
    pub fn by_billing(self) -> bool {
        matches!(self, Self::BillingCycle | Self::PreviousBillingCycle)
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
            Self::BillingCycle => out.write_str("billing_cycle"),
            Self::PreviousBillingCycle => out.write_str("previous_billing_cycle"),
            Self::Session => out.write_str("session"),
            Self::Last(count) => write!(out, "last_{count}"),
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
            "last-0",
            "last-257",
            "last-+5",
            "last-",
            "99999999999999999999d",
        ] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
        assert_eq!(Window::parse("last-256"), Ok(Window::Last(256)));
        for text in ["billing-cycle", "previous-billing-cycle", "session", "last-10", "90m", "36h", "2d", "mtd"] {
            let name = Window::parse(text).map(|window| window.to_string().replace('_', "-"));
            assert_eq!(name.as_deref(), Ok(text));
        }
        assert_eq!(Window::parse("qtd"), Ok(Window::ToDate(Period::Quarter)));
        assert_eq!(Window::parse("previous-week").map(|window| window.to_string()).as_deref(), Ok("previous_week"));
    }
}
