//! What integration tests and benches share: the real binary as a [`TestEdge`], compiled guests, the shared data sets.
//!
//! A test panics where something is not as it must be: that is its answer, so helpers here panic too.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod cluster;
pub mod edge;
pub mod online_retail;
pub mod orders;
pub mod process;
pub mod tokens;

use std::path::{Path, PathBuf};

pub use cluster::{TestCentre, TestCentreBuilder};
pub use edge::{TestEdge, TestEdgeBuilder};
pub use process::{Answer, agent};

/// The project's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The folder of the compiled plugins.
pub fn plugins() -> PathBuf {
    built("target/plugins")
}

/// The folder of the compiled guests that only tests use.
pub fn test_guests() -> PathBuf {
    built("target/test-guests")
}

/// A folder with one of the compiled plugins, and its configuration as it is shipped.
pub fn only(plugin: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [format!("{plugin}.wasm"), format!("{plugin}.toml")] {
        std::fs::copy(plugins().join(&file), folder.path().join(&file)).unwrap();
    }
    folder
}

/// The catalogue of most tests: a shop with few constraints.
pub fn shop() -> PathBuf {
    root().join("tests/fixtures/shop.toml")
}

/// That shop without what only the retail plugin knows of, as a file in a folder.
pub fn plain_catalog(folder: &std::path::Path) -> PathBuf {
    let shop = std::fs::read_to_string(shop()).unwrap();
    let plain: String =
        shop.lines().filter(|line| !line.starts_with("eligible =")).map(|line| format!("{line}\n")).collect();
    let file = folder.join("plain.toml");
    std::fs::write(&file, plain).unwrap();
    file
}

/// The bytes of a compiled guest that only tests use.
pub fn test_guest(name: &str) -> Vec<u8> {
    std::fs::read(test_guests().join(format!("{name}.wasm"))).unwrap()
}

fn built(folder: &str) -> PathBuf {
    let path = root().join(folder);
    assert!(path.is_dir(), "{} is missing; run `cargo xtask plugins` first", path.display());
    path
}

/// A file of the shared data sets; none where they are not on this machine, and then the test that wants it says so and ends.
/// `SELVEDGE_SHARED_DATA` names their folder where it does not stand beside the project, as in a worktree.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SELVEDGE_SHARED_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("{} is not on this machine; this test needs it and has nothing to check", path.display());
    }
    path.exists().then_some(path)
}

/// A reproducible shuffle; prints its seed.
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    eprintln!("shuffled with seed {seed}");
    let mut state = seed;
    for index in (1..items.len()).rev() {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        items.swap(index, ((mixed ^ (mixed >> 31)) % (index as u64 + 1)) as usize);
    }
}
