//! The core module inside a component, where the component is nothing but that module in its wrapping.
//!
//! What a component adds for the stages of the contract is its canonical ABI, which `canonical.rs` speaks for them. So a component as `wit-component` wraps one module is
//! called without the component around it, which is most of what a fresh instance of it costs. It must be just that: one module with code of its own, that imports at most the log,
//! and texts in UTF-8. All else, such as what a JavaScript engine or an adapter makes, is called as the component that it is.

use std::ops::Range;

use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{
    CanonicalFunction, CanonicalOption, ExportSectionReader, ExternalKind, Operator, Parser, Payload, TypeRef, ValType,
};

use crate::component::interface;

/// The export by which the host asks for memory, and what it is to look into.
pub(crate) const REALLOC: &str = "cabi_realloc";
pub(crate) const MEMORY: &str = "memory";
/// With its number behind it, the name of a global that its module does not export itself.
pub(crate) const GLOBAL: &str = "selvedge:global/";
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

/// The same module with every global that it may change exported, where its memory and these are all that one instance of it can leave otherwise than it found it: its
/// tables and segments stay as they are.
pub(crate) fn restorable(module: &[u8]) -> Option<Vec<u8>> {
    let mut globals = Vec::new();
    let mut rewritten = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        match &payload {
            Payload::MemorySection(memories) if memories.count() != 1 => return None,
            Payload::GlobalSection(section) => {
                for (index, global) in (0..).zip(section.clone()) {
                    let ty = global.ok()?.ty;
                    let is_number =
                        matches!(ty.content_type, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64);
                    if ty.mutable && !is_number {
                        return None;
                    }
                    globals.extend(ty.mutable.then_some(index));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let mut operators = body.get_operators_reader().ok()?;
                while !operators.eof() {
                    if changes_tables_or_segments(&operators.read().ok()?) {
                        return None;
                    }
                }
            }
            _ => {}
        }
        match &payload {
            Payload::ExportSection(section) => drop(rewritten.section(&exports(section, &globals)?)),
            other => {
                if let Some((id, range)) = other.as_section() {
                    rewritten.section(&RawSection { id, data: module.get(range)? });
                }
            }
        }
    }
    Some(rewritten.finish())
}

/// The exports of a module, and some of its globals.
fn exports(section: &ExportSectionReader<'_>, globals: &[u32]) -> Option<ExportSection> {
    let mut exports = ExportSection::new();
    for export in section.clone() {
        let export = export.ok()?;
        let kind = match export.kind {
            ExternalKind::Func => ExportKind::Func,
            ExternalKind::Table => ExportKind::Table,
            ExternalKind::Memory => ExportKind::Memory,
            ExternalKind::Global => ExportKind::Global,
            _ => return None,
        };
        if export.name.starts_with(GLOBAL) {
            return None;
        }
        exports.export(export.name, kind, export.index);
    }
    for (index, global) in globals.iter().enumerate() {
        exports.export(&format!("{GLOBAL}{index}"), ExportKind::Global, *global);
    }
    Some(exports)
}

fn changes_tables_or_segments(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::ElemDrop { .. }
            | Operator::MemoryInit { .. }
            | Operator::DataDrop { .. }
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> Option<Vec<u8>> {
        restorable(&wat::parse_str(text).expect("a module"))
    }

    #[test]
    fn every_global_that_may_change_is_exported() {
        let module = rewritten(
            r#"(module (memory (export "memory") 1) (global i32 (i32.const 1)) (global $a (mut i32) (i32.const 2)) (global $b (mut f64) (f64.const 3))
                 (func (export "f") (result i32) global.get $a) (data (i32.const 8) "as it is"))"#,
        )
        .expect("restorable");
        let mut exported = Vec::new();
        for payload in Parser::new(0).parse_all(&module) {
            if let Payload::ExportSection(section) = payload.expect("a module") {
                exported = section.into_iter().map(|export| export.expect("an export")).collect();
            }
        }
        let exported: Vec<_> = exported.iter().map(|export| (export.name, export.kind, export.index)).collect();
        let (first, second) = (format!("{GLOBAL}0"), format!("{GLOBAL}1"));
        assert_eq!(
            exported,
            [
                ("memory", ExternalKind::Memory, 0),
                ("f", ExternalKind::Func, 0),
                (&first, ExternalKind::Global, 1),
                (&second, ExternalKind::Global, 2)
            ]
        );
    }

    #[test]
    fn a_module_with_more_to_put_back_is_left_alone() {
        for code in [
            "(table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))",
            "(table 1 funcref) (func (drop (table.grow (ref.null func) (i32.const 1))))",
            "(table 1 funcref) (func (table.fill (i32.const 0) (ref.null func) (i32.const 1)))",
            "(table 1 funcref) (func (table.copy (i32.const 0) (i32.const 0) (i32.const 1)))",
            "(table 1 funcref) (elem $e func $f) (func $f (table.init $e (i32.const 0) (i32.const 0) (i32.const 1)))",
            "(elem $e func $f) (func $f (elem.drop $e))",
            "(data $d \"x\") (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1)))",
            "(data $d \"x\") (func (data.drop $d))",
            "(global (mut funcref) (ref.null func))",
            "(export \"selvedge:global/0\" (memory 0))",
        ] {
            let text = format!("(module (memory 1) (export \"memory\" (memory 0)) {code})");
            assert!(rewritten(&text).is_none(), "{text}");
        }
        assert!(rewritten("(module (memory 1) (export \"memory\" (memory 0)) (table 1 funcref))").is_some());
    }
}
