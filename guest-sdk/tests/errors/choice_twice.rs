use selvedge_guest::prelude::*;

#[derive(Clone, Copy, Choice)]
enum Reason {
    #[choice("offer-value")]
    Value,
    #[choice("offer-value")]
    Price,
}

fn main() {}
