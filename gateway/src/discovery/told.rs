//! What is logged, measured and shown of a watch.

use std::sync::Arc;

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use weft_runtime::{Context, health::Condition};

use super::service::Service;
use crate::error::Peer;

/// What is measured of all watches.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    stale_since: Family<Label, Gauge>,
    failures: Family<Label, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    service: &'static str,
}

impl Metrics {
    pub(super) fn new(metrics: &weft_runtime::metrics::Metrics) -> Self {
        let new = Self { stale_since: Family::default(), failures: Family::default() };
        metrics.register(|registry| {
            let help = "When what is known of a service's replicas stopped being up to date; 0 while it is";
            let name = "weft_gateway_discovery_stale_since_timestamp_seconds";
            registry.register(name, help, new.stale_since.clone());
            let help = "How often the Kubernetes API server could not be asked who they are";
            registry.register("weft_gateway_discovery_failures", help, new.failures.clone());
        });
        new
    }

    /// What is told of the replicas of one service.
    pub(super) fn of(&self, peer: Peer, context: &Context) -> Told {
        let label = Label { service: peer.name() };
        let name = match peer {
            Peer::Tokenizer => "tokenizer-discovery",
            Peer::Inference => "inference-discovery",
            Peer::Safety => "safety-discovery",
        };
        let stale_since = self.stale_since.get_or_create_owned(&label);
        stale_since.set(now());
        Told {
            peer: peer.name(),
            stale_since,
            failures: self.failures.get_or_create_owned(&label),
            found: Arc::new(context.health.condition(name, "Kubernetes has not answered yet")),
        }
    }
}

/// Tells of one watch. It is stale until it stands.
#[derive(Clone, Debug)]
pub(super) struct Told {
    peer: &'static str,
    stale_since: Gauge,
    failures: Counter,
    /// Whether the replicas were ever known. Once they were, an API server that is away does not make the gateway
    /// unready: everything it needs is there.
    found: Arc<Condition>,
}

impl Told {
    /// What is known is up to date, and will be.
    pub(super) fn fresh(&self, service: &Service) {
        self.found.holds();
        if self.stale_since.set(0) != 0 {
            tracing::info!(peer = self.peer, %service, "the replicas of a service are watched");
        }
    }

    /// What is known may be out of date; `known` says whether anything is.
    pub(super) fn stale(&self, service: &Service, why: &str, known: bool) {
        self.failures.inc();
        if self.stale_since.get() == 0 {
            self.stale_since.set(now());
        }
        if known {
            tracing::warn!(peer = self.peer, %service, why, "the replicas known last are used");
        } else {
            self.found.fails(format!("{service}: {why}"));
            tracing::warn!(peer = self.peer, %service, why, "the replicas of a service are not known");
        }
    }

    /// The Service has endpoints, and none has the port.
    pub(super) fn no_port(&self, service: &Service, ports: &[String]) {
        let (port, ports) = (&service.port, ports.join(", "));
        tracing::warn!(peer = self.peer, %service, %port, ports, "the Service has no such port; it has those");
    }
}

/// Never 0, which means up to date.
fn now() -> i64 {
    Timestamp::now().as_second().max(1)
}
