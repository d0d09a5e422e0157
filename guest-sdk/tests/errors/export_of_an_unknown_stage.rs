struct Views;

selvedge_guest::export!(Views: trigger);

fn main() {}
