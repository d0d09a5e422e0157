//! The macros that make a crate a plugin.

/// Exports a type as a plugin, with the stages that it serves.
///
/// ```text
/// selvedge_guest::export!(Retail: observe, score, rank);
/// ```
///
/// The plugin's name and version are the crate's. Each named stage needs the trait of that name: [`Observe`](crate::Observe),
/// [`Score`](crate::Score), [`Rank`](crate::Rank).
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($stage:ident),+ $(,)?) => {
        impl $crate::Plugin for $plugin {
            fn description() -> $crate::bindings::Description {
                let mut description = $crate::description::named(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
                $($crate::description::$stage::<$plugin>(&mut description);)+
                description
            }
            $($crate::__stage!($stage);)+
        }

        $crate::export_plugin!($plugin: $($stage),+);
    };
}

/// Exports a type that implements [`Plugin`](crate::Plugin) by itself: the lower-level way, for a plugin that does not know what it reads
/// or defines before it has seen its configuration. The stages are `configure`, `observe`, `score` and `rank`; each needs the
/// trait's method of that name, and `configure` also `CONFIGURED = true` and `restore`.
///
/// ```text
/// selvedge_guest::export_plugin!(Aggregates: configure, observe);
/// ```
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty: $($stage:ident),+ $(,)?) => {
        // Natively there is nobody to export to: tests call the plugin as it is.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::described::exports::selvedge::plugin::plugin::Guest for Exported {
                fn describe() -> $crate::bindings::Description {
                    <$plugin as $crate::Plugin>::description()
                }
            }

            $crate::bindings::described::export_described!(Exported with_types_in $crate::bindings::described);
            $($crate::__export!($stage $plugin, Exported);)+
        };
    };
}

/// A stage of [`Plugin`](crate::Plugin), by way of the author's trait.
#[doc(hidden)]
#[macro_export]
macro_rules! __stage {
    (observe) => {
        fn observe(
            event: &$crate::bindings::Columns,
        ) -> ::core::result::Result<$crate::bindings::Contributions, $crate::bindings::Failure> {
            $crate::stages::observe::<Self>(event)
        }
    };
    (custom) => {
        fn functions(aggregate: u32) -> ::core::option::Option<$crate::custom::Functions> {
            <<Self as $crate::Observe>::Aggregates as $crate::outputs::Aggregates>::functions(aggregate)
        }
    };
    (score) => {
        fn score(
            visitor: &$crate::bindings::Columns,
        ) -> ::core::result::Result<::std::vec::Vec<::core::option::Option<f64>>, $crate::bindings::Failure> {
            $crate::stages::score::<Self>(visitor)
        }
    };
    (rank) => {
        fn rank(
            visitor: &$crate::bindings::Columns,
            offers: &$crate::bindings::Columns,
        ) -> ::core::result::Result<$crate::bindings::Ranking, $crate::bindings::Failure> {
            $crate::stages::rank::<Self>(visitor, offers)
        }
    };
    ($unknown:ident) => {
        ::core::compile_error!(::core::concat!(
            "`",
            ::core::stringify!($unknown),
            "` is no stage of a plugin; name some of observe, custom, score and rank"
        ));
    };
}

/// The export of a stage.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (configure $plugin:ty, $exported:ident) => {
        impl $crate::bindings::configuring::exports::selvedge::plugin::configuration::Guest for $exported {
            fn configure(
                config: ::std::string::String,
            ) -> ::core::result::Result<::std::vec::Vec<u8>, ::std::vec::Vec<$crate::bindings::Fault>> {
                $crate::stages::configure::<$plugin>(&config)
            }

            fn restore(kept: ::std::vec::Vec<u8>) {
                $crate::stages::restore::<$plugin>(&kept);
            }
        }
        $crate::bindings::configuring::export_configuring!($exported with_types_in $crate::bindings::configuring);
    };
    (observe $plugin:ty, $exported:ident) => {
        impl $crate::bindings::aggregating::exports::selvedge::plugin::aggregates::Guest for $exported {
            fn observe(
                event: $crate::bindings::Columns,
            ) -> ::core::result::Result<$crate::bindings::Contributions, $crate::bindings::Failure> {
                <$plugin as $crate::Plugin>::observe(&event)
            }
        }
        $crate::bindings::aggregating::export_aggregating!($exported with_types_in $crate::bindings::aggregating);
    };
    (custom $plugin:ty, $exported:ident) => {
        impl $crate::bindings::customizing::exports::selvedge::plugin::custom_aggregates::Guest for $exported {
            fn init(aggregate: u32) -> ::std::vec::Vec<u8> {
                $crate::stages::functions::<$plugin>(aggregate).map_or_else(|_| ::std::vec::Vec::new(), |own| (own.init)())
            }

            fn update(
                aggregate: u32,
                state: ::std::vec::Vec<u8>,
                key: ::std::string::String,
                value: i64,
            ) -> ::core::result::Result<::std::vec::Vec<u8>, $crate::bindings::Failure> {
                ($crate::stages::functions::<$plugin>(aggregate)?.update)(&state, &key, value)
            }

            fn merge(
                aggregate: u32,
                states: ::std::vec::Vec<::std::vec::Vec<u8>>,
            ) -> ::core::result::Result<::std::vec::Vec<u8>, $crate::bindings::Failure> {
                ($crate::stages::functions::<$plugin>(aggregate)?.merge)(&states)
            }

            fn finish(
                aggregate: u32,
                state: ::std::vec::Vec<u8>,
            ) -> ::core::result::Result<$crate::bindings::CustomValue, $crate::bindings::Failure> {
                ($crate::stages::functions::<$plugin>(aggregate)?.finish)(&state)
            }

            fn samples(aggregate: u32) -> ::std::vec::Vec<$crate::bindings::CustomSample> {
                $crate::stages::functions::<$plugin>(aggregate).map_or_else(|_| ::std::vec::Vec::new(), |own| (own.samples)())
            }
        }
        $crate::bindings::customizing::export_customizing!($exported with_types_in $crate::bindings::customizing);
    };
    (score $plugin:ty, $exported:ident) => {
        impl $crate::bindings::scoring::exports::selvedge::plugin::scores::Guest for $exported {
            fn score(
                visitor: $crate::bindings::Columns,
            ) -> ::core::result::Result<::std::vec::Vec<::core::option::Option<f64>>, $crate::bindings::Failure> {
                <$plugin as $crate::Plugin>::score(&visitor)
            }
        }
        $crate::bindings::scoring::export_scoring!($exported with_types_in $crate::bindings::scoring);
    };
    (rank $plugin:ty, $exported:ident) => {
        impl $crate::bindings::offering::exports::selvedge::plugin::offers::Guest for $exported {
            fn rank(
                visitor: $crate::bindings::Columns,
                offers: $crate::bindings::Columns,
            ) -> ::core::result::Result<$crate::bindings::Ranking, $crate::bindings::Failure> {
                <$plugin as $crate::Plugin>::rank(&visitor, &offers)
            }
        }
        $crate::bindings::offering::export_offering!($exported with_types_in $crate::bindings::offering);
    };
    // Reported by the stage.
    ($unknown:ident $plugin:ty, $exported:ident) => {};
}
