use selvedge_guest::prelude::*;

#[derive(Reads)]
struct Ordered {
    #[read("event:properties.products")]
    products: Vec<Product>,
}

struct Product;

fn main() {}
