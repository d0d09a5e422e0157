//! Compiled code that outlives the process: a start, and a release that comes back, need not compile what was compiled before.
//!
//! It is kept by wasmtime's own cache, under a hash of the component, the settings of the engine and the version of wasmtime, compressed. What is damaged is compiled
//! anew. Whoever can write to the folder can run code in this process, as with the binary itself.

use std::path::Path;
use std::sync::OnceLock;

use wasmtime::{Cache, CacheConfig};

use crate::error::LoadError;

/// Files that are kept at most, about, and bytes.
const FILES_MAX: u64 = 512;
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One for the whole process, as it has a thread of its own.
static KEPT: OnceLock<Cache> = OnceLock::new();

/// Keeps compiled code in a folder, which is made if need be: that of all engines of this process that are made from now on. A second call changes nothing.
pub fn keep_code(folder: &Path) -> Result<(), LoadError> {
    let fault = |error: wasmtime::Error| LoadError::new("the code cache", format!("{error:#}"));
    if KEPT.get().is_some() {
        return Ok(());
    }
    let folder = std::path::absolute(folder).map_err(|error| fault(error.into()))?;
    let mut config = CacheConfig::new();
    config
        .with_directory(folder)
        .with_file_count_soft_limit(FILES_MAX)
        .with_files_total_size_soft_limit(BYTES_MAX)
        // What is started often is small enough as it is.
        .with_optimized_compression_usage_counter_threshold(u64::MAX);
    let cache = Cache::new(config).map_err(fault)?;
    // Another thread may have been faster.
    let _ = KEPT.set(cache);
    Ok(())
}

/// Where engines look for code.
pub(crate) fn kept() -> Option<Cache> {
    KEPT.get().cloned()
}
