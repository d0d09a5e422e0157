//! What an author sees who makes a mistake: an error at their own line, that names the choices.
//!
//! The expected texts are the compiler's, of the toolchain that CI runs; after changing it, look at `git diff` after
//! `TRYBUILD=overwrite cargo test --release --workspace -p selvedge-guest --test errors`.

#[test]
fn mistakes_are_reported_at_the_authors_line() {
    trybuild::TestCases::new().compile_fail("tests/errors/*.rs");
}
