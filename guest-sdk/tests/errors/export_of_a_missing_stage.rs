use selvedge_guest::prelude::*;

struct Views;

impl Observe for Views {
    const EVENTS: &'static [&'static str] = &["Product Viewed"];
    type Event = ();
    type Aggregates = Interest;
    type Skip = Never;

    fn observe(_: &(), interest: &Interest) -> Result<(), Stop> {
        interest.views.increment();
        Ok(())
    }
}

#[derive(Aggregates)]
struct Interest {
    views: Count,
}

selvedge_guest::export!(Views: observe, score);

fn main() {}
