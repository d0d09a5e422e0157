use selvedge_guest::prelude::*;

#[derive(Aggregates)]
struct Interest {
    #[aggregate(windows = "lifetime 7d", halflife = "30d")]
    affinity: DecayedSumByKey,
}

fn main() {}
