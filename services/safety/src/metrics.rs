//! What the safety filter counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::verdict::{Direction, Finding};

/// What a finding is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FindingLabels {
    category: String,
    action: &'static str,
    direction: &'static str,
}

/// Which way a text went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabels {
    direction: &'static str,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    outcome: &'static str,
}

/// Which policies are in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VersionLabels {
    version: String,
}

/// All of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Findings by what was done about them.
    pub findings: Family<FindingLabels, Counter>,
    /// Bytes of text that were screened.
    pub text_bytes: Family<DirectionLabels, Counter>,
    /// Bytes that wait for a verdict after a message of a stream.
    pub held_bytes: Histogram,
    /// How long one Screen took.
    pub screen_seconds: Histogram,
    /// ScreenStream calls in progress.
    pub open_streams: Gauge,
    /// Changed policy files, taken or not.
    pub reloads: Family<ReloadLabels, Counter>,
    /// 1 for the policies in force.
    pub version: Family<VersionLabels, Gauge>,
    /// 1 while the file on disk is not what is in force.
    pub is_stale: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all of it.
    pub fn register(metrics: &weft_runtime::metrics::Metrics) -> Self {
        metrics.register(|registry| {
            let ours = Self::new();
            ours.describe(registry);
            ours
        })
    }

    /// Counts what a verdict found.
    pub fn count(&self, findings: &[Finding], direction: Direction) {
        for finding in findings {
            let labels = FindingLabels {
                category: finding.rule.category.clone(),
                action: finding.rule.action.word(),
                direction: direction.word(),
            };
            self.findings.get_or_create(&labels).inc();
        }
    }

    /// Counts text that came in.
    pub fn take(&self, bytes: usize, direction: Direction) {
        self.text_bytes.get_or_create(&DirectionLabels { direction: direction.word() }).inc_by(bytes as u64);
    }

    /// Notes which policies are in force from now on.
    pub fn in_force(&self, version: &str) {
        self.version.clear();
        self.version.get_or_create(&VersionLabels { version: version.to_owned() }).set(1);
    }

    /// Counts a changed file that was taken, or was not.
    pub fn reloaded(&self, is_taken: bool) {
        let outcome = if is_taken { "ok" } else { "failed" };
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
        self.is_stale.set(u64::from(!is_taken));
    }

    fn new() -> Self {
        Self {
            findings: Family::default(),
            text_bytes: Family::default(),
            // 1 B to 16 KiB.
            held_bytes: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            // 10 us to 160 ms.
            screen_seconds: Histogram::new(exponential_buckets(1e-5, 4.0, 8)),
            open_streams: Gauge::default(),
            reloads: Family::default(),
            version: Family::default(),
            is_stale: Gauge::default(),
        }
    }

    fn describe(&self, registry: &mut Registry) {
        let help = "Findings by category, action and direction";
        registry.register("weft_safety_findings", help, self.findings.clone());
        registry.register("weft_safety_text_bytes", "Bytes of text screened", self.text_bytes.clone());
        let help = "Bytes that wait for a verdict after a message of a stream";
        registry.register("weft_safety_held_bytes", help, self.held_bytes.clone());
        registry.register(
            "weft_safety_screen_seconds",
            "How long one Screen took",
            self.screen_seconds.clone(),
        );
        registry.register(
            "weft_safety_open_streams",
            "ScreenStream calls in progress",
            self.open_streams.clone(),
        );
        let help = "Changed policy files, by whether they were taken";
        registry.register("weft_safety_policy_reloads", help, self.reloads.clone());
        let help = "1 for the policies in force; the version is the start of the file's SHA-256";
        registry.register("weft_safety_policy_version", help, self.version.clone());
        let help = "1 while the policy file is not what is in force";
        registry.register("weft_safety_policy_stale", help, self.is_stale.clone());
    }
}
