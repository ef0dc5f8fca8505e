//! Time by phase, over all requests.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Unit,
};

use super::{Phase, Spent};

/// A histogram for each phase. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LatencyMetrics {
    phases: [Histogram; Phase::ALL.len()],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

impl LatencyMetrics {
    pub(crate) fn new(metrics: &weft_runtime::metrics::Metrics) -> Self {
        // From 0.1 ms to about 50 s.
        let new = || Histogram::new(exponential_buckets(0.000_1, 2.0, 20));
        let family = Family::<PhaseLabel, Histogram, _>::new_with_constructor(new as fn() -> Histogram);
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("weft_gateway");
            let help = "What callers were kept waiting by; the phases of a request add up to its whole time";
            registry.register_with_unit("latency", help, Unit::Seconds, family.clone());
        });
        Self {
            phases: Phase::ALL.map(|phase| family.get_or_create_owned(&PhaseLabel { phase: phase.name() })),
        }
    }

    /// Counts a request.
    pub(super) fn observe(&self, spent: &Spent) {
        for (phase, histogram) in Phase::ALL.into_iter().zip(&self.phases) {
            histogram.observe(spent.of(phase).as_secs_f64());
        }
    }
}
