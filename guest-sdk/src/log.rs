//! Writing to the host's log, and the hook that makes a panic arrive there.

use std::sync::Once;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in wit/log.wit
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes one line to the host's log; natively, to standard error.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::imports::selvedge::plugin::log;
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::log(level, message);
    }
    #[cfg(not(target_arch = "wasm32"))]
    std::eprintln!("{level:?}: {message}");
}

/// Makes a panic of this instance a line in the host's log, with its message and place, before it becomes a trap.
pub(crate) fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    if cfg!(target_arch = "wasm32") {
        INSTALLED.call_once(|| std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string()))));
    }
}
