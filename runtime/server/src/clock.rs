//! The clock: the one place where the time is read. Everything below is handed an instant.

use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_core::value::Timestamp;

/// Now.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
