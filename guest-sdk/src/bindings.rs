//! The plugin contract as Rust, generated from `wit/`: nothing else lives here.
//!
//! One world for each stage, because a plugin exports only the stages that it serves; they share the types of the first.

#![allow(missing_docs, unreachable_pub, clippy::all, unsafe_op_in_unsafe_fn)]

pub mod imports {
    wit_bindgen::generate!({ path: "../wit", world: "imports" });
}

pub mod described {
    wit_bindgen::generate!({
        path: "../wit",
        world: "described",
        pub_export_macro: true,
        export_macro_name: "export_described",
        default_bindings_module: "selvedge_guest::bindings::described",
        with: { "selvedge:plugin/log@0.1.0": crate::bindings::imports::selvedge::plugin::log },
    });
}

pub mod aggregating {
    wit_bindgen::generate!({
        path: "../wit",
        world: "aggregating",
        pub_export_macro: true,
        export_macro_name: "export_aggregating",
        default_bindings_module: "selvedge_guest::bindings::aggregating",
        with: {
            "selvedge:plugin/log@0.1.0": crate::bindings::imports::selvedge::plugin::log,
            "selvedge:plugin/types@0.1.0": crate::bindings::described::selvedge::plugin::types,
        },
    });
}

pub mod customizing {
    wit_bindgen::generate!({
        path: "../wit",
        world: "customizing",
        pub_export_macro: true,
        export_macro_name: "export_customizing",
        default_bindings_module: "selvedge_guest::bindings::customizing",
        with: {
            "selvedge:plugin/log@0.1.0": crate::bindings::imports::selvedge::plugin::log,
            "selvedge:plugin/types@0.1.0": crate::bindings::described::selvedge::plugin::types,
        },
    });
}

pub mod scoring {
    wit_bindgen::generate!({
        path: "../wit",
        world: "scoring",
        pub_export_macro: true,
        export_macro_name: "export_scoring",
        default_bindings_module: "selvedge_guest::bindings::scoring",
        with: {
            "selvedge:plugin/log@0.1.0": crate::bindings::imports::selvedge::plugin::log,
            "selvedge:plugin/types@0.1.0": crate::bindings::described::selvedge::plugin::types,
        },
    });
}

pub mod offering {
    wit_bindgen::generate!({
        path: "../wit",
        world: "offering",
        pub_export_macro: true,
        export_macro_name: "export_offering",
        default_bindings_module: "selvedge_guest::bindings::offering",
        with: {
            "selvedge:plugin/log@0.1.0": crate::bindings::imports::selvedge::plugin::log,
            "selvedge:plugin/types@0.1.0": crate::bindings::described::selvedge::plugin::types,
        },
    });
}

pub mod configuring {
    wit_bindgen::generate!({
        path: "../wit",
        world: "configuring",
        pub_export_macro: true,
        export_macro_name: "export_configuring",
        default_bindings_module: "selvedge_guest::bindings::configuring",
        with: { "selvedge:plugin/log@0.1.0": crate::bindings::imports::selvedge::plugin::log },
    });
}

pub use aggregating::exports::selvedge::plugin::aggregates::Contributions;
pub use configuring::exports::selvedge::plugin::configuration::Fault;
pub use customizing::exports::selvedge::plugin::custom_aggregates::{Sample as CustomSample, Value as CustomValue};
pub use described::exports::selvedge::plugin::plugin::{Aggregate, Description, Score};
pub use described::selvedge::plugin::types::{Columns, Failure, Kind, Read};
pub use offering::exports::selvedge::plugin::offers::Ranking;
