//! What admission counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Unit,
};

use super::{config::Admission, refusal::Cause, room::Room};

/// Gauges, counters and times of admission. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct AdmissionMetrics {
    /// Requests between their arrival and their last token.
    pub(super) in_flight: Gauge,
    running: Gauge,
    tokens: Gauge,
    tokens_limit: Gauge,
    waiting: Gauge,
    tenants: Gauge,
    drain: Gauge,
    refusals: Family<CauseLabel, Counter>,
    /// How long requests waited that were let in.
    pub(super) waits: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

impl AdmissionMetrics {
    pub(super) fn new(metrics: &weft_runtime::metrics::Metrics, config: &Admission) -> Self {
        let new = Self {
            in_flight: Gauge::default(),
            running: Gauge::default(),
            tokens: Gauge::default(),
            tokens_limit: Gauge::default(),
            waiting: Gauge::default(),
            tenants: Gauge::default(),
            drain: Gauge::default(),
            refusals: Family::default(),
            waits: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("weft_gateway");
            let mut gauge =
                |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
            gauge("in_flight", "Requests between their arrival and their last token", &new.in_flight);
            gauge("admission_running", "Requests that are worked on", &new.running);
            gauge(
                "admission_tokens",
                "Tokens of prompts and expected answers that are worked on",
                &new.tokens,
            );
            gauge("admission_tokens_limit", "The most of them that there may be now", &new.tokens_limit);
            gauge("admission_waiting", "Requests that wait to be let in", &new.waiting);
            gauge("admission_tenants", "Tenants that share the room", &new.tenants);
            gauge("admission_drain_tokens_per_second", "How fast the room empties", &new.drain);
            for (name, help, bound) in [
                ("in_flight_limit", "admission.max_in_flight", config.max_in_flight),
                ("admission_running_limit", "admission.max_running", config.max_running),
                ("admission_waiting_limit", "admission.max_waiting", config.max_waiting),
            ] {
                let limit: Gauge = Gauge::default();
                limit.set(signed(bound as u64));
                gauge(name, help, &limit);
            }
            registry.register("admission_refusals", "Requests that were not let in", new.refusals.clone());
            let help = "How long requests waited that were let in";
            registry.register_with_unit("admission_wait", help, Unit::Seconds, new.waits.clone());
        });
        new
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, cause: &Cause) {
        self.refusals.get_or_create(&CauseLabel { cause: cause.name() }).inc();
    }

    /// Shows how the room is.
    pub(super) fn show(&self, room: &Room) {
        let used = room.used();
        self.running.set(signed(used.requests));
        self.tokens.set(signed(used.tokens));
        self.tokens_limit.set(signed(room.limit.tokens()));
        self.waiting.set(signed(room.waiting() as u64));
        self.tenants.set(signed(room.tenants() as u64));
        self.drain.set(room.drain.tokens_per_second(used) as i64);
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
