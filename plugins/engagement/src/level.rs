//! Scores: how engaged somebody is, and how far from their habit they are just now.

use selvedge_guest::prelude::*;

use crate::Engagement;

/// What is read of a visitor.
#[derive(Clone, Debug, Default, Reads)]
pub struct Habit {
    #[read("agg:engagement.active_days_30d")]
    active_days: Option<i64>,
    #[read("agg:engagement.visits_30d")]
    visits: Option<i64>,
    #[read("agg:engagement.momentum_7d")]
    momentum: Option<f64>,
    #[read("config:full_days")]
    full_days: Option<f64>,
}

/// Both from 0 to 1.
#[derive(Debug, PartialEq, Scores)]
pub struct Levels {
    level: Option<f64>,
    fading: Option<f64>,
}

/// Active days of thirty from which nobody can be more engaged.
const FULL_DAYS: f64 = 12.0;

impl Score for Engagement {
    type Visitor = Habit;
    type Scores = Levels;

    fn score(habit: &Habit) -> Result<Levels, Stop> {
        let visits = habit.visits.unwrap_or(0);
        let days = habit.active_days.unwrap_or(0) as f64;
        let full = habit.full_days.filter(|full| *full > 0.0).unwrap_or(FULL_DAYS);
        // A visitor without a visit in thirty days is not measured: there is no habit to fall away from.
        let level = (visits > 0).then(|| (days / full).min(1.0));
        let fading = habit.momentum.filter(|_| visits > 0).map(|momentum| (1.0 - momentum).clamp(0.0, 1.0));
        Ok(Levels { level, fading })
    }
}
