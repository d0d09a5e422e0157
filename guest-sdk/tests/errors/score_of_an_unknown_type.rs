use selvedge_guest::prelude::*;

#[derive(Scores)]
struct Retention {
    p_alive: Option<f64>,
    segment: Option<String>,
}

fn main() {}
