//! One Prometheus registry a process, shown on the admin port at `/metrics`. No process-wide statics.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{encoding::text, metrics::gauge::Gauge, registry::Registry};

/// The registry. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Registers metrics. Names start with `weft_`, units are part of the name.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        // A registry is only ever appended to, so what a panicking thread left behind is still whole.
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every metric, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = String::new();
        match text::encode(&mut page, &registry) {
            Ok(()) => page,
            Err(std::fmt::Error) => unreachable!("writing to a String does not fail"),
        }
    }
}

/// A gauge raised while this lives.
pub(crate) struct Raised(Gauge);

impl Raised {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Bounds, in seconds, of histograms of calls: from a health check to the longest answer that is allowed.
pub(crate) const CALL_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];
