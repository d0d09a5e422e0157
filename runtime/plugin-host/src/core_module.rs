//! The core module inside a component, where the component is nothing but that module in its wrapping.
//!
//! What a component adds for the stages of the contract is its canonical ABI, which `canonical.rs` speaks for them. So a component as `wit-component` wraps one module is
//! called without the component around it, which is most of what a fresh instance of it costs. It must be just that: one module with code of its own, that imports at most the log,
//! and texts in UTF-8. All else, such as what a JavaScript engine or an adapter makes, is called as the component that it is.

use std::ops::Range;

use wasmparser::{CanonicalFunction, CanonicalOption, ExternalKind, Parser, Payload, TypeRef};

use crate::component::interface;

/// The export by which the host asks for memory, and what it is to look into.
pub(crate) const REALLOC: &str = "cabi_realloc";
pub(crate) const MEMORY: &str = "memory";
/// What a module does once before it is called; the wrapping of one that has it is more than a wrapping.
const INITIALIZE: &str = "_initialize";

/// The bytes of the one module of a component, where it can be called as it is. What cannot be read is none; compiling the component says why.
pub(crate) fn extract(component: &[u8]) -> Option<&[u8]> {
    let mut modules: Vec<Range<usize>> = Vec::new();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload.ok()? {
            // The wrapping has components inside too, of types only.
            Payload::ModuleSection { .. } | Payload::InstanceSection(_) if depth > 0 => return None,
            Payload::ModuleSection { unchecked_range, .. } => {
                depth += 1;
                modules.push(unchecked_range);
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::ComponentStartSection { .. } => return None,
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    if depth > 0 || !is_plain(&function.ok()?) {
                        return None;
                    }
                }
            }
            Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    let mut own = modules.into_iter().filter_map(|range| component.get(range)).filter(|module| has_memory(module));
    let module = own.next()?;
    (own.next().is_none() && stands_alone(module)?).then_some(module)
}

/// Whether a function crosses the border as `canonical.rs` has it.
fn is_plain(function: &CanonicalFunction) -> bool {
    let plain = |options: &[CanonicalOption]| {
        options.iter().all(|option| {
            matches!(
                option,
                CanonicalOption::UTF8
                    | CanonicalOption::Memory(_)
                    | CanonicalOption::Realloc(_)
                    | CanonicalOption::PostReturn(_)
            )
        })
    };
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => plain(options),
        _ => false,
    }
}

/// Whether a module has a memory of its own; those that the wrapping adds have none.
fn has_memory(module: &[u8]) -> bool {
    let mut payloads = Parser::new(0).parse_all(module).map_while(Result::ok);
    payloads.any(|payload| matches!(payload, Payload::MemorySection(memories) if memories.count() > 0))
}

/// Whether a module imports at most the log, and exports what it takes to be called.
fn stands_alone(module: &[u8]) -> Option<bool> {
    let (mut has_memory, mut has_realloc) = (false, false);
    for payload in Parser::new(0).parse_all(module) {
        match payload.ok()? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.ok()?;
                    let is_log = import.module == interface("log") && import.name == "log";
                    if !is_log || !matches!(import.ty, TypeRef::Func(_)) {
                        return Some(false);
                    }
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    match export.ok()? {
                        export if export.name == INITIALIZE => return Some(false),
                        export if export.name == MEMORY => has_memory = export.kind == ExternalKind::Memory,
                        export if export.name == REALLOC => has_realloc = export.kind == ExternalKind::Func,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(has_memory && has_realloc)
}
