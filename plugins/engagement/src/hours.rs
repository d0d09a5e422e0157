//! How regular the hours of somebody's visits are: an operator of the plugin's own.

use selvedge_guest::bindings::Kind;
use selvedge_guest::prelude::*;

const HOURS: usize = 24;
const HOUR_MS: i64 = 3_600_000;

/// Events by hour of the day, UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours([u32; HOURS]);

impl Hours {
    /// The hour of an instant.
    pub fn of(at: Instant) -> i64 {
        at.0.div_euclid(HOUR_MS).rem_euclid(HOURS as i64)
    }
}

impl CustomOperator for Hours {
    const KIND: Kind = Kind::Number;
    const SAMPLES: &'static [(&'static str, i64)] = &[("", 0), ("", 9), ("", 9), ("", 23)];

    fn init() -> Self {
        Self([0; HOURS])
    }

    fn update(&mut self, _: &str, hour: i64) {
        if let Some(count) = usize::try_from(hour).ok().and_then(|hour| self.0.get_mut(hour)) {
            *count = count.saturating_add(1);
        }
    }

    fn merge(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count = count.saturating_add(more));
    }

    /// One less the entropy of the hours in shares of the highest that so many events can have: 1 where all fall into one hour, 0 where
    /// they are spread evenly. Absent for fewer than two events.
    fn finish(&self) -> Finished {
        let total: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        if total < 2 {
            return Finished::Absent;
        }
        let shares = self.0.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total as f64);
        let entropy: f64 = shares.map(|share| -share * libm::log2(share)).sum();
        let highest = libm::log2(total.min(HOURS as u64) as f64);
        Finished::Number((1.0 - entropy / highest).clamp(0.0, 1.0))
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|count| count.to_be_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (counts, rest) = bytes.as_chunks::<4>();
        let counts: Vec<u32> = counts.iter().map(|count| u32::from_be_bytes(*count)).collect();
        if rest.is_empty() { counts.try_into().ok().map(Self) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regularity(hours: &[i64]) -> Finished {
        let mut state = Hours::init();
        hours.iter().for_each(|hour| state.update("", *hour));
        assert_eq!(Hours::decode(&state.encode()), Some(state.clone()));
        state.finish()
    }

    #[test]
    fn one_hour_is_regular_and_all_hours_are_not() {
        assert_eq!(regularity(&[9]), Finished::Absent);
        assert_eq!(regularity(&[9, 9, 9]), Finished::Number(1.0));
        assert_eq!(regularity(&[8, 20]), Finished::Number(0.0));
        assert_eq!(regularity(&(0..24).collect::<Vec<_>>()), Finished::Number(0.0));
        assert_eq!(regularity(&[9, 9, 24, -1]), Finished::Number(1.0), "what is no hour does not count");
        assert_eq!(Hours::decode(&[0; 95]), None);
    }
}
