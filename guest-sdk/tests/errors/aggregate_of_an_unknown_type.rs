use selvedge_guest::prelude::*;

#[derive(Aggregates)]
struct Interest {
    views: Count,
    total: f64,
}

fn main() {}
