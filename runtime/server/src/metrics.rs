//! Metrics, by name. Every label has few values: none comes from a visitor.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use selvedge_core::sync::Pushed;
use selvedge_shard::Usage;

use crate::sync::wire::Report;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 14] =
    [0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// Handles of all metrics, resolved once.
pub struct Metrics {
    prometheus: PrometheusHandle,
    accepted: Counter,
    duplicates: Counter,
    decided: Counter,
    fell_back: Counter,
    links_made: Counter,
    loads_accepted: Counter,
    loads_unchanged: Counter,
    decide_seconds: Histogram,
    durable_seconds: Histogram,
    views: Gauge,
    view_bytes: Gauge,
    pending_bytes: Gauge,
    disk_bytes: Gauge,
    backfill_left: Gauge,
    backfill_done: Counter,
}

impl Metrics {
    /// Installs the recorder. Once a process.
    pub fn install() -> Result<Self, BuildError> {
        let prometheus = PrometheusBuilder::new().set_buckets(&SECONDS)?.install_recorder()?;
        describe_counter!("selvedge_events_total", "Events by what became of them: accepted or duplicate");
        describe_counter!("selvedge_events_rejected_total", "Events that were refused, by code");
        describe_counter!(
            "selvedge_links_total",
            "Links between identifiers by what became of them: made, or the code of the refusal"
        );
        describe_counter!(
            "selvedge_loads_total",
            "Loads of profiles from marts by what became of them: accepted or unchanged"
        );
        describe_counter!("selvedge_loads_rejected_total", "Loads of profiles that were refused, by code");
        describe_counter!("selvedge_events_skipped_total", "Events that a plugin passed over, by its reason");
        describe_counter!("selvedge_decisions_total", "Slots decided, by outcome: personalised or fallback");
        describe_counter!("selvedge_plugin_failures_total", "Calls of plugins that gave no answer, by stage and kind");
        describe_counter!("selvedge_requests_failed_total", "Requests answered with a problem, by code");
        describe_histogram!("selvedge_decide_seconds", "Time to decide, from the parsed request to the answer");
        describe_histogram!("selvedge_durable_seconds", "Time until events were durable");
        describe_gauge!("selvedge_views", "Profiles in memory");
        describe_gauge!("selvedge_view_bytes", "Memory of these profiles, about");
        describe_gauge!("selvedge_pending_bytes", "Memory of changes that are not in the base yet, about");
        describe_gauge!("selvedge_disk_bytes", "Size of the shards on disk");
        describe_gauge!("selvedge_backfill_fragments_left", "Fragments that wait for their history to be folded");
        describe_counter!("selvedge_backfill_fragments_done_total", "Fragments whose history was folded");
        describe_gauge!("selvedge_sync_connected", "Whether the centre's stream is open: 1 or 0");
        describe_gauge!(
            "selvedge_sync_lag_seconds",
            "How old the oldest shard's base may be; NaN where that is unknown"
        );
        describe_gauge!("selvedge_sync_shards_not_live", "Shards that are behind, being filled, or without a centre");
        describe_gauge!("selvedge_outbox_changes", "Changes that the centre has not answered");
        describe_gauge!("selvedge_outbox_bytes", "Bytes of changes in the outbox");
        describe_counter!("selvedge_outbox_shed_total", "Events refused because the outbox is full");
        describe_counter!(
            "selvedge_centre_changes_total",
            "Changes of edges that were taken, and pushes that were not, by why: behind, refused, epoch"
        );
        describe_gauge!("selvedge_centre_entries", "Entries that the log has ordered");
        describe_gauge!("selvedge_centre_edges", "Edges that are known");
        describe_gauge!("selvedge_centre_edges_away", "Edges that were not heard of for a minute");
        describe_gauge!("selvedge_centre_followers", "Edges that this process feeds");
        describe_gauge!("selvedge_centre_copy_behind", "Entries that the centre's copy has not folded");
        Ok(Self {
            backfill_left: gauge!("selvedge_backfill_fragments_left"),
            backfill_done: counter!("selvedge_backfill_fragments_done_total"),
            accepted: counter!("selvedge_events_total", "outcome" => "accepted"),
            duplicates: counter!("selvedge_events_total", "outcome" => "duplicate"),
            decided: counter!("selvedge_decisions_total", "outcome" => "personalised"),
            links_made: counter!("selvedge_links_total", "outcome" => "made"),
            loads_accepted: counter!("selvedge_loads_total", "outcome" => "accepted"),
            loads_unchanged: counter!("selvedge_loads_total", "outcome" => "unchanged"),
            fell_back: counter!("selvedge_decisions_total", "outcome" => "fallback"),
            decide_seconds: histogram!("selvedge_decide_seconds"),
            durable_seconds: histogram!("selvedge_durable_seconds"),
            views: gauge!("selvedge_views"),
            view_bytes: gauge!("selvedge_view_bytes"),
            pending_bytes: gauge!("selvedge_pending_bytes"),
            disk_bytes: gauge!("selvedge_disk_bytes"),
            prometheus,
        })
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        self.prometheus.render()
    }

    /// Does the housekeeping that is due and takes the gauges.
    pub fn maintain(&self, usage: Usage) {
        self.prometheus.run_upkeep();
        self.views.set(usage.views as f64);
        self.view_bytes.set(usage.view_bytes as f64);
        self.pending_bytes.set(usage.pending_bytes as f64);
        self.disk_bytes.set(usage.disk_bytes as f64);
    }

    /// How an edge stands with its centre. Once a second; of other roles there are no such metrics.
    pub fn follows(&self, connected: bool, report: &Report) {
        let lag = report.shards.iter().map(|shard| shard.lag_ms).try_fold(0, |worst: u64, lag| Some(worst.max(lag?)));
        let not_live = report.shards.iter().filter(|shard| shard.state != "live").count();
        gauge!("selvedge_sync_connected").set(f64::from(u8::from(connected)));
        gauge!("selvedge_sync_lag_seconds").set(lag.map_or(f64::NAN, |lag| lag as f64 / 1000.0));
        gauge!("selvedge_sync_shards_not_live").set(not_live as f64);
        gauge!("selvedge_outbox_changes").set(report.outbox_changes as f64);
        gauge!("selvedge_outbox_bytes").set(report.outbox_bytes as f64);
        counter!("selvedge_outbox_shed_total").absolute(report.shed);
    }

    /// What became of an edge's pushes.
    pub fn pushed(&self, answers: &[Pushed]) {
        for answer in answers {
            let (outcome, count) = match answer {
                Pushed::Taken { seqs } => ("taken", seqs.len()),
                Pushed::Behind { .. } => ("behind", 1),
                Pushed::Refused { .. } => ("refused", 1),
                Pushed::Epoch { .. } => ("epoch", 1),
            };
            counter!("selvedge_centre_changes_total", "outcome" => outcome).increment(count as u64);
        }
    }

    /// How a centre is, by metric.
    pub fn centre(&self, gauges: &[(&'static str, u64)]) {
        gauges.iter().for_each(|(name, value)| gauge!(*name).set(*value as f64));
    }

    /// The histories of fragments were folded; so many wait.
    pub fn backfilled(&self, done: u64, left: u64) {
        self.backfill_done.increment(done);
        self.backfill_left(left);
    }

    /// How many fragments wait for their history.
    pub fn backfill_left(&self, left: u64) {
        self.backfill_left.set(left as f64);
    }

    /// Identifiers were linked.
    pub fn link_made(&self) {
        self.links_made.increment(1);
    }

    /// A link was refused.
    pub fn link_refused(&self, code: &'static str) {
        counter!("selvedge_links_total", "outcome" => code).increment(1);
    }

    /// Events of one call.
    pub fn events(&self, accepted: usize, duplicates: usize) {
        self.accepted.increment(accepted as u64);
        self.duplicates.increment(duplicates as u64);
    }

    /// Loads of one call.
    pub fn loads(&self, accepted: usize, unchanged: usize) {
        self.loads_accepted.increment(accepted as u64);
        self.loads_unchanged.increment(unchanged as u64);
    }

    /// A load that was refused.
    pub fn load_rejected(&self, code: &'static str) {
        counter!("selvedge_loads_rejected_total", "code" => code).increment(1);
    }

    /// An event that was refused.
    pub fn event_rejected(&self, code: &'static str) {
        counter!("selvedge_events_rejected_total", "code" => code).increment(1);
    }

    /// An event that a plugin passed over.
    pub fn event_skipped(&self, plugin: &str, reason: &str) {
        counter!("selvedge_events_skipped_total", "plugin" => plugin.to_owned(), "reason" => reason.to_owned())
            .increment(1);
    }

    /// A call of a plugin that gave no answer.
    pub fn plugin_failed(&self, plugin: &str, stage: &'static str, kind: &'static str) {
        counter!("selvedge_plugin_failures_total", "plugin" => plugin.to_owned(), "stage" => stage, "kind" => kind)
            .increment(1);
    }

    /// A request that was answered with a problem.
    pub fn request_failed(&self, code: &'static str) {
        counter!("selvedge_requests_failed_total", "code" => code).increment(1);
    }

    /// A decision.
    pub fn decision(&self, personalised: usize, fallbacks: usize, took: Duration) {
        self.decided.increment(personalised as u64);
        self.fell_back.increment(fallbacks as u64);
        self.decide_seconds.record(took.as_secs_f64());
    }

    /// Events that became durable.
    pub fn durable(&self, took: Duration) {
        self.durable_seconds.record(took.as_secs_f64());
    }
}
