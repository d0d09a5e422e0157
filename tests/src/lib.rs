//! What integration tests and benches share.

use std::path::{Path, PathBuf};

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The bytes of a compiled guest of tests/guests.
///
/// # Panics
/// Where it has not been built.
pub fn test_guest(name: &str) -> Vec<u8> {
    let path = root().join("target/test-guests").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins` first", path.display()))
}
