//! What structured output costs.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use weft_runtime::metrics::Metrics;

type Label = [(&'static str, &'static str); 1];

/// How a caller came to a grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was compiled.
    Compiled,
    /// It was kept from before.
    Cached,
    /// It could not be had: the caller's fault, or no room to compile.
    Refused,
}

/// The metrics of structured output. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConstraintMetrics {
    /// How long a compilation took.
    pub compile: Histogram,
    /// How long a mask took, on the worker that computed it.
    pub mask: Histogram,
    /// How long the engine waited for a mask when it needed it.
    pub wait: Histogram,
    /// Grammars that are kept.
    pub kept: Gauge,
    grammars: Family<Label, Counter>,
}

impl ConstraintMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        metrics.register(Self::registered)
    }

    fn registered(registry: &mut Registry) -> Self {
        // From 0.1 ms, doubling, to 6.6 s.
        let compile = Histogram::new(exponential_buckets(0.000_1, 2.0, 17));
        // From 4 us, doubling, to 0.26 s.
        let step = || Histogram::new(exponential_buckets(0.000_004, 2.0, 17));
        let this =
            Self { compile, mask: step(), wait: step(), kept: Gauge::default(), grammars: Family::default() };
        let mut histogram =
            |name: &str, help: &str, histogram: &Histogram| registry.register(name, help, histogram.clone());
        histogram("weft_grammar_compile_seconds", "How long a grammar took to compile", &this.compile);
        histogram("weft_mask_seconds", "How long a mask took on its worker", &this.mask);
        histogram("weft_mask_wait_seconds", "How long the engine waited for a mask", &this.wait);
        registry.register("weft_grammars_kept", "Compiled grammars that are kept", this.kept.clone());
        registry.register("weft_grammars", "Grammars by how they were had", this.grammars.clone());
        this
    }

    /// Notes how a caller came to a grammar.
    pub(super) fn had(&self, origin: Origin) {
        let word = match origin {
            Origin::Compiled => "compiled",
            Origin::Cached => "cached",
            Origin::Refused => "refused",
        };
        self.grammars.get_or_create(&[("origin", word)]).inc();
    }

    /// How often callers came to a grammar so.
    #[cfg(test)]
    pub(super) fn count_of(&self, word: &'static str) -> u64 {
        self.grammars.get_or_create(&[("origin", word)]).get()
    }
}
