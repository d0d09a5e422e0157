//! Definitions: one aggregate as a plugin declares it, checked.

use super::operator::Operator;
use super::parameters::Parameters;
use super::window::Window;
use crate::time::{Calendar, Cut, Whose};
use crate::value::Kind;

/// The trait on whose day of the month billing cycles begin, if no other is named.
const BILLING_DAY: &str = "billing_day";

/// One aggregate as a plugin declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The name without the plugin's.
    pub name: String,
    /// How it comes about.
    pub operator: Operator,
    /// In which windows it is read; never empty.
    pub windows: Vec<Window>,
    /// The type of what is contributed; of derived ones that of their value.
    pub kind: Kind,
    /// The unit shown beside it.
    pub unit: Option<String>,
    /// Whose calendar cuts its windows.
    pub whose: Whose,
    /// The trait on whose day of the month its billing cycles begin.
    pub anchor: String,
    /// The `sessions` by which its window `session` is cut.
    pub sessions: Option<String>,
    /// Whether it has a value for each past day.
    pub history: bool,
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("aggregate {name:?}: {detail}")]
pub struct DefinitionError {
    /// The aggregate, as declared.
    pub name: String,
    /// What is wrong and the mend.
    pub detail: String,
}

impl Definition {
    /// Reads a declaration; the fault names the culprit and the mend.
    pub fn parse(
        name: &str,
        operator: &str,
        parameters: &[(String, String)],
        windows: &[String],
        kind: Kind,
        unit: Option<String>,
    ) -> Result<Self, DefinitionError> {
        let fault = |detail: String| DefinitionError { name: name.to_owned(), detail };
        let well_formed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || !name.bytes().all(well_formed) {
            return Err(fault("the name may hold lower-case letters, digits and _".into()));
        }
        let mut left = Parameters::new(parameters);
        let windows = parse_windows(windows).map_err(fault)?;
        let operator = Operator::parse(operator, &mut left, kind).map_err(fault)?;
        let any = |of: fn(Window) -> bool| windows.iter().copied().any(of);
        let whose = if any(Window::by_calendar) {
            left.one_of("time-zone", &[("business", Whose::Business), ("visitor", Whose::Visitor)]).map_err(fault)?
        } else {
            Whose::Business
        };
        let anchor = any(Window::by_billing).then(|| left.take("anchor")).flatten().unwrap_or(BILLING_DAY).to_owned();
        let sessions = any(|window| window == Window::Session).then(|| left.need("sessions").map(str::to_owned));
        let sessions = sessions.transpose().map_err(fault)?;
        let history = left.one_of("history", &[("none", false), ("daily", true)]).map_err(fault)?;
        if history && !operator.single() {
            return Err(fault("only an aggregate of a single value has a daily history".into()));
        }
        if let Some(unknown) = left.unread() {
            let hint = match unknown {
                "time-zone" => "; it belongs to windows of the calendar",
                "anchor" => "; it belongs to billing cycles",
                "sessions" => "; it belongs to the window session",
                _ => "",
            };
            return Err(fault(format!("the operator has no parameter {unknown:?}{hint}")));
        }
        if !operator.kinds().contains(&kind) {
            let kinds: Vec<_> = operator.kinds().iter().map(|kind| kind.name()).collect();
            return Err(fault(format!("the kind is {}; this operator takes {}", kind.name(), kinds.join(" or "))));
        }
        let definition =
            Self { name: name.to_owned(), operator, windows, kind, unit, whose, anchor, sessions, history };
        definition.check_windows().map_err(fault)?;
        Ok(definition)
    }

    fn check_windows(&self) -> Result<(), String> {
        if self.windows != [Window::Lifetime] && !self.operator.windowed() {
            return Err("this operator is read over the lifetime only; leave the windows out".into());
        }
        match &self.operator {
            Operator::Trend { trend, .. } => {
                if !self.windows.iter().all(|window| matches!(window, Window::Sliding(_))) {
                    return Err("a trend is read in sliding windows only, such as 7d".into());
                }
                let too_far = |window: &&Window| window.reach_ms() * trend.windows() > REACH_MS_MAX;
                if let Some(window) = self.windows.iter().find(too_far) {
                    let windows = trend.windows();
                    return Err(format!(
                        "{windows} windows of {window} reach further back than the 800 days that are kept"
                    ));
                }
            }
            Operator::Sessions { .. } => {
                if let Some(window) =
                    self.windows.iter().find(|window| matches!(window, Window::Session | Window::Last(_)))
                {
                    return Err(format!("sessions are not counted in the window {window}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The window whose values by day may be asked for: the lifetime, or the first.
    pub(crate) fn shown_by_day(&self) -> Option<Window> {
        let lifetime = self.windows.iter().find(|window| **window == Window::Lifetime);
        lifetime.or(self.windows.first()).copied()
    }

    /// The calendar that cuts one of its windows.
    pub(crate) fn calendar(&self, window: Window) -> Option<Calendar> {
        let cut = match window {
            Window::ToDate(period) | Window::Previous(period) => Cut::Period(period),
            Window::BillingCycle | Window::PreviousBillingCycle => Cut::Billing { anchor: self.anchor.clone() },
            Window::Lifetime | Window::Sliding(_) | Window::Session | Window::Last(_) => return None,
        };
        Some(Calendar { whose: self.whose, cut })
    }
}

/// How far back anything may reach.
const REACH_MS_MAX: i64 = crate::activation::RETENTION_MS;

fn parse_windows(texts: &[String]) -> Result<Vec<Window>, String> {
    let mut windows = Vec::with_capacity(texts.len().max(1));
    for text in texts {
        let window = Window::parse(text).map_err(|error| error.to_string())?;
        if windows.contains(&window) {
            return Err(format!("the window {text:?} stands twice"));
        }
        windows.push(window);
    }
    if windows.is_empty() {
        windows.push(Window::Lifetime);
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(operator: &str, parameters: &[(&str, &str)], windows: &[&str], kind: Kind) -> String {
        let parameters: Vec<_> = parameters.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let windows: Vec<_> = windows.iter().map(|window| window.to_string()).collect();
        let error =
            Definition::parse("a", operator, &parameters, &windows, kind, None).expect_err("a faulty definition");
        error.to_string()
    }

    #[test]
    fn a_faulty_definition_names_its_culprit() {
        let holds = |text: String, part: &str| assert!(text.contains("\"a\"") && text.contains(part), "{text}");
        holds(fault("median", &[], &[], Kind::Integer), "unknown operator \"median\"");
        holds(fault("cuont", &[], &[], Kind::Integer), "did you mean \"count\"?");
        holds(fault("distinct-by-key", &[], &[], Kind::Integer), "unknown operator \"distinct-by-key\"");
        holds(fault("sum", &[], &["8w"], Kind::Integer), "unknown window \"8w\"");
        holds(fault("sum", &[], &["7d", "7d"], Kind::Integer), "stands twice");
        holds(fault("sum", &[], &["24h", "1d"], Kind::Integer), "stands twice");
        holds(fault("sum", &[], &[], Kind::Text), "takes integer or decimal");
        holds(fault("decayed-sum", &[("half-life", "1d")], &["7d"], Kind::Number), "over the lifetime only");
        holds(fault("sum", &[("by", "day")], &[], Kind::Integer), "no parameter \"by\"");
        holds(fault("sum", &[("time-zone", "visitor")], &["7d"], Kind::Integer), "belongs to windows of the calendar");
        holds(fault("sum", &[("time-zone", "mine")], &["mtd"], Kind::Integer), "business or visitor");
        holds(fault("sum", &[], &["session"], Kind::Integer), "\"sessions\" is missing");
        holds(
            fault("sessions", &[("sessions", "a")], &["session"], Kind::Integer),
            "not counted in the window session",
        );
        holds(fault("first", &[("by", "week")], &[], Kind::Integer), "instant or day");
        holds(fault("ratio", &[("of", "b")], &[], Kind::Decimal), "\"per\" is missing");
        holds(fault("top", &[("of", "b"), ("count", "0")], &[], Kind::Integer), "1 to 100");
        holds(fault("decayed-sum-by-key", &[("half-life", "soon")], &[], Kind::Number), "not a duration");
        holds(fault("quantile", &[("q", "1.5")], &[], Kind::Integer), "from 0 to 1");
        holds(fault("quantile", &[("q", "NaN")], &[], Kind::Integer), "from 0 to 1");
        holds(fault("histogram", &[("bounds", "5 5")], &[], Kind::Integer), "ascending");
        holds(fault("histogram", &[("bounds", "")], &[], Kind::Decimal), "ascending");
        holds(fault("trend-ratio", &[("of", "b")], &["mtd"], Kind::Number), "sliding windows only");
        holds(fault("trend-ratio", &[("of", "b")], &[], Kind::Number), "sliding windows only");
        holds(fault("trend-deviation", &[("of", "b")], &["365d"], Kind::Number), "800 days");
        holds(fault("sum-by-key", &[("history", "daily")], &[], Kind::Integer), "a single value");
        holds(fault("sum", &[("history", "hourly")], &[], Kind::Integer), "none or daily");
        assert!(Definition::parse("A b", "sum", &[], &[], Kind::Integer, None).is_err());
    }
}
