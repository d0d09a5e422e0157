//! Quiet hours of a channel, and who has opted out of it.

use crate::catalog::terms::Quiet;
use crate::consent::Consent;
use crate::time::{BusinessTime, DAY_MS};
use crate::value::Timestamp;

/// The purpose that denies a channel: `channel:NAME`.
pub const CHANNEL_PURPOSE: &str = "channel:";

const MINUTES: i64 = DAY_MS / 60_000;

/// Until when a channel is quiet at an instant by a clock; none where it is not. Where a change of the clocks skips the end, it ends with the skip.
pub fn quiet_until(quiet: &Quiet, at: Timestamp, clock: &BusinessTime) -> Option<Timestamp> {
    let (day, minute) = clock.day_and_minute(at);
    let (from, until) = (i64::from(quiet.from), i64::from(quiet.until) % MINUTES);
    let ends = match (from < until, minute >= from, minute < until) {
        (true, true, true) | (false, _, true) => day,
        (false, true, _) => day + 1,
        _ => return None,
    };
    // An hour that there is twice is quiet twice; then the end is the second one.
    let end = clock.at_minute(ends, until);
    Some(if end > at { end } else { Timestamp(end.0.saturating_add(DAY_MS / 24)).max(at) })
}

/// When a channel is quiet next after an instant by a clock: the next time that its quiet hours begin.
pub fn next_quiet(quiet: &Quiet, at: Timestamp, clock: &BusinessTime) -> Timestamp {
    let (day, minute) = clock.day_and_minute(at);
    let from = i64::from(quiet.from) % MINUTES;
    let begins = |day| clock.at_minute(day, from);
    let today = if minute < from { begins(day) } else { begins(day + 1) };
    // Where a change of the clocks has the hour twice.
    if today > at { today } else { begins(day + 1).max(at) }
}

/// Whether somebody has opted out of a channel, by the purpose that denies it ([`CHANNEL_PURPOSE`] and its name).
pub fn opted_out(consent: &Consent, purpose: &str) -> bool {
    consent.get(purpose).is_some_and(|word| !word.granted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consent::Decision;
    use crate::time::Whose;

    fn until(from: u16, until: u16, at: &str) -> Option<String> {
        let clock = BusinessTime::new("Europe/London").expect("a zone");
        let quiet = Quiet { from: from * 60, until: until * 60, whose: Whose::Business };
        quiet_until(&quiet, Timestamp::parse(at).expect("an instant"), &clock).map(|end| end.to_string())
    }

    #[test]
    fn it_is_quiet_from_a_minute_until_another_also_over_midnight() {
        let over = |at| until(22, 7, at);
        assert_eq!(over("2026-01-05T21:59:59Z"), None);
        assert_eq!(over("2026-01-05T22:00:00Z").as_deref(), Some("2026-01-06T07:00:00Z"));
        assert_eq!(over("2026-01-06T06:59:59Z").as_deref(), Some("2026-01-06T07:00:00Z"));
        assert_eq!(over("2026-01-06T07:00:00Z"), None);
        let by_day = |at| until(12, 14, at);
        assert_eq!(by_day("2026-01-05T11:59:00Z"), None);
        assert_eq!(by_day("2026-01-05T12:00:00Z").as_deref(), Some("2026-01-05T14:00:00Z"));
        assert_eq!(by_day("2026-01-05T14:00:00Z"), None);
        // In summer the clocks are an hour ahead.
        assert_eq!(over("2026-07-05T21:30:00Z").as_deref(), Some("2026-07-06T06:00:00Z"));
    }

    #[test]
    fn the_next_quiet_hours_begin_today_or_tomorrow() {
        let clock = BusinessTime::new("Europe/London").expect("a zone");
        let quiet = Quiet { from: 22 * 60, until: 7 * 60, whose: Whose::Business };
        let next = |at| next_quiet(&quiet, Timestamp::parse(at).expect("an instant"), &clock).to_string();
        assert_eq!(next("2026-01-05T21:59:59Z"), "2026-01-05T22:00:00Z");
        assert_eq!(next("2026-01-05T22:00:00Z"), "2026-01-06T22:00:00Z");
        assert_eq!(next("2026-07-05T08:00:00Z"), "2026-07-05T21:00:00Z");
    }

    #[test]
    fn the_end_is_always_later_than_the_instant_also_when_the_clocks_change() {
        for day in ["2026-03-29", "2026-10-25"] {
            for minute in 0..24 * 60 {
                let at = format!("{day}T{:02}:{:02}:00Z", minute / 60, minute % 60);
                let end = until(0, 2, &at).and_then(|end| Timestamp::parse(&end).ok());
                let end = end.or(until(1, 2, &at).and_then(|end| Timestamp::parse(&end).ok()));
                assert!(end.is_none_or(|end| end >= Timestamp::parse(&at).expect("an instant")), "{at}");
            }
        }
    }

    #[test]
    fn a_channel_is_closed_by_a_word_that_denies_it_and_by_nothing_else() {
        let mut consent = Consent::default();
        assert!(!opted_out(&consent, "channel:email"));
        consent.apply(&"channel:email".into(), Decision { granted: true, at: Timestamp(1) });
        assert!(!opted_out(&consent, "channel:email"));
        consent.apply(&"channel:email".into(), Decision { granted: false, at: Timestamp(2) });
        assert!(opted_out(&consent, "channel:email") && !opted_out(&consent, "channel:web"));
    }
}
