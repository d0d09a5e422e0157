//! The shards' observer: plugins, counted.

use std::sync::Arc;

use selvedge_core::activation::Layout;
use selvedge_core::aggregate::Definitions;
use selvedge_core::effects::Effects;
use selvedge_core::event::{Event, Refusal};

use selvedge_plugin_host::PluginSet;
use selvedge_plugin_host::invocation::Observed;
use selvedge_shard::Observer;

use crate::metrics::Metrics;

/// Observes events with the active plugins.
pub struct PluginObserver {
    plugins: Arc<PluginSet>,
    layout: Layout,
    metrics: Arc<Metrics>,
}

impl PluginObserver {
    /// An observer under an activation's layout.
    pub fn new(plugins: Arc<PluginSet>, layout: Layout, metrics: Arc<Metrics>) -> Self {
        Self { plugins, layout, metrics }
    }

    /// What an event does to its fragment, at the door: an event that does not fit what plugins declared is refused.
    pub fn observe_fresh(&self, event: &Event) -> Result<Effects, Refusal> {
        self.plugins.observe(event, &mut |observed| match observed {
            Observed::Skipped { plugin, reason } => {
                let plugin = &self.plugins.plugins()[plugin];
                self.metrics.event_skipped(plugin.name(), &plugin.skips()[reason]);
            }
            Observed::Failed { plugin, error } => {
                let plugin = self.plugins.plugins()[plugin].name();
                tracing::warn!(plugin, event = event.name.as_str(), %error, "a plugin did not observe an event");
                self.metrics.plugin_failed(plugin, "observe", error.kind());
            }
        })
    }
}

impl Observer for PluginObserver {
    fn definitions(&self) -> &Definitions {
        &self.plugins.schema().definitions
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn observe(&self, event: &Event) -> Effects {
        self.plugins.observe_again(event)
    }
}
