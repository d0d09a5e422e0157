use selvedge_guest::prelude::*;

#[derive(Reads)]
struct Viewed {
    #[read("event:properties.category")]
    category: Option<Key>,
    #[read("event:properties.price")]
    price: Option<f32>,
    #[read("event:properties.currency")]
    currency: String,
}

fn main() {}
