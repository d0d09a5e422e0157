//! The plugin contract as Rust, generated from `wit/`: nothing else lives here.

#![allow(missing_docs, unreachable_pub)]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "complete",
    ownership: Borrowing { duplicate_if_necessary: true },
});
