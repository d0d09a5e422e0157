//! How near a reading is to the truth.

/// Whether a reading's value is what a fold of all its events gives, and if not, how far off it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Exactness {
    /// It is that value.
    Exact,
    /// It may be off.
    Off(Off),
    /// It is not known yet: it is being computed from the history.
    Backfilling,
}

/// How far off a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Off {
    /// By at most so much, in the representation of the value's kind.
    Absolute(i128),
    /// By at most so much, of a floating-point value.
    Number(f64),
    /// By this share of the value as the standard error of an estimate.
    StandardError(f64),
    /// It is the exact value of a window that opens up to so many milliseconds later.
    OpensLate(i64),
    /// By an unknown amount.
    Unknown,
}

impl Exactness {
    /// Exact where nothing is off.
    pub(crate) fn within(absolute: i128) -> Self {
        if absolute == 0 { Self::Exact } else { Self::Off(Off::Absolute(absolute)) }
    }

    /// Of a value for which both others are needed.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Backfilling, _) | (_, Self::Backfilling) => Self::Backfilling,
            (Self::Exact, Self::Exact) => Self::Exact,
            (Self::Exact, off) | (off, Self::Exact) => off,
            (Self::Off(Off::OpensLate(one)), Self::Off(Off::OpensLate(other))) => {
                Self::Off(Off::OpensLate(one.max(other)))
            }
            _ => Self::Off(Off::Unknown),
        }
    }

    /// Whether the value is that of a fold of all events.
    pub fn is_exact(self) -> bool {
        self == Self::Exact
    }
}
