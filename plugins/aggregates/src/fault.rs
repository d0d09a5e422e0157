//! Faults: what does not hold in a definition, and where it stands.

use selvedge_guest::bindings::Fault;

/// A fault at a place such as `aggregate[3].where`.
pub fn at(place: impl Into<String>, detail: impl Into<String>) -> Fault {
    Fault { place: place.into(), detail: detail.into() }
}

/// A fault of the whole configuration.
pub fn whole(detail: impl Into<String>) -> Fault {
    at("", detail)
}

/// The text for something unknown: the nearest known thing, or all of them.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let likeness = |candidate: &str| strsim::jaro_winkler(candidate, name);
    match known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(nearest) if likeness(nearest) > 0.7 => format!("unknown {what} {name:?}; did you mean {nearest:?}?"),
        _ => format!("unknown {what} {name:?}; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_names_the_nearest_or_all() {
        assert_eq!(unknown("key", "wher", &["where", "value"]), "unknown key \"wher\"; did you mean \"where\"?");
        assert_eq!(unknown("key", "zzz", &["where", "value"]), "unknown key \"zzz\"; known are where, value");
    }
}
