use selvedge_guest::prelude::*;

#[derive(Reads)]
struct Viewed {
    #[read("event:properties.category")]
    category: Option<Key>,
    price: Option<f64>,
}

fn main() {}
