//! Aggregates without code: a plugin that its configuration makes.
//!
//! `configure` reads definitions ([`definitions`]), parses their CEL expressions ([`expression`]) and compiles them ([`compile`]) to one
//! [`program`] over the columns that it declares to read ([`reads`]). The program is kept, in the memory that every later instance starts
//! with; [`run`] runs it on an event. Nothing is parsed then, and nothing is allocated but the answer.

mod compile;
mod definitions;
mod expression;
mod fault;
mod operators;
mod program;
mod reads;
mod run;

use std::cell::RefCell;

use selvedge_guest::Plugin;
use selvedge_guest::bindings::{Columns, Contributions, Description, Failure, Fault};

use crate::program::Program;

/// The plugin.
pub struct Aggregates;

std::thread_local! {
    static PROGRAM: RefCell<Program> = RefCell::default();
}

impl Plugin for Aggregates {
    const CONFIGURED: bool = true;

    fn description() -> Description {
        PROGRAM.with_borrow(Program::describe)
    }

    fn configure(config: &str) -> Result<Vec<u8>, Vec<Fault>> {
        definitions::read(config)?.keep().map_err(|detail| vec![fault::whole(detail)])
    }

    fn restore(kept: &[u8]) {
        PROGRAM.replace(Program::restored(kept));
    }

    fn observe(event: &Columns) -> Result<Contributions, Failure> {
        PROGRAM.with_borrow(|program| run::observe(program, event))
    }
}

selvedge_guest::export_plugin!(Aggregates: configure, observe);
