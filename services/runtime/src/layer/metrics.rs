//! Counts and durations of calls, by method and by the code with which the stream really ended.

use http::{Request, Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use tokio::time::Instant;
use tonic::{Code, body::Body};

use super::{Around, Next, method};
use crate::{
    body::{self, OnEnd},
    metrics::{CALL_SECONDS, Metrics, Raised},
    status::code_name,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerOutcomeLabels {
    peer: &'static str,
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplicasLabels {
    peer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplicaLabels {
    peer: &'static str,
    replica: String,
}

/// What is told of one replica.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaGauges {
    /// Calls to it that have not ended.
    pub(crate) in_flight: Gauge,
    /// 1 where it was found to be well, else 0.
    pub(crate) fit: Gauge,
}

/// Replicas of a peer that are left alone because they fail more often than the others.
#[derive(Clone, Debug)]
pub(crate) struct Ejections {
    now: Gauge,
    ever: Counter,
}

impl Ejections {
    pub(crate) fn begin(&self) {
        self.now.inc();
        self.ever.inc();
    }

    pub(crate) fn end(&self) {
        self.now.dec();
    }
}

/// Calls that this process serves.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    calls: Family<OutcomeLabels, Counter>,
    seconds: Family<MethodLabels, Histogram, fn() -> Histogram>,
    in_flight: Family<MethodLabels, Gauge>,
}

/// Calls that this process makes, whatever the peer.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    calls: Family<PeerOutcomeLabels, Counter>,
    seconds: Family<PeerLabels, Histogram, fn() -> Histogram>,
    replicas: Family<ReplicasLabels, Gauge>,
    breakers_open: Family<ReplicasLabels, Gauge>,
    ejected: Family<ReplicasLabels, Gauge>,
    ejections: Family<ReplicasLabels, Counter>,
    replica_in_flight: Family<ReplicaLabels, Gauge>,
    replica_fit: Family<ReplicaLabels, Gauge>,
}

/// Calls that this process makes to one peer.
#[derive(Clone, Debug)]
pub(crate) struct ToPeer {
    pub(crate) peer: &'static str,
    pub(crate) metrics: Outgoing,
}

fn seconds() -> Histogram {
    Histogram::new(CALL_SECONDS)
}

impl Incoming {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            in_flight: Family::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "weft_rpc_server_calls",
                "Calls answered, by method and code",
                this.calls.clone(),
            );
            let help = "Seconds from a call's headers to the end of its answer";
            registry.register("weft_rpc_server_call_duration_seconds", help, this.seconds.clone());
            registry.register(
                "weft_rpc_server_calls_in_flight",
                "Calls not yet ended",
                this.in_flight.clone(),
            );
        });
        this
    }
}

impl Around for Incoming {
    async fn call(&self, request: Request<Body>, next: Next) -> Response<Body> {
        let method = method::of(&request);
        let in_flight = Raised::new(self.in_flight.get_or_create_owned(&MethodLabels { method }));
        let (this, started) = (self.clone(), Instant::now());
        let end = Counted::new(move |code| {
            this.calls.get_or_create(&OutcomeLabels { method, code }).inc();
            this.seconds.get_or_create(&MethodLabels { method }).observe(started.elapsed().as_secs_f64());
            drop(in_flight);
        });
        body::observe(next.run(request).await, end)
    }
}

impl Outgoing {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            replicas: Family::default(),
            breakers_open: Family::default(),
            ejected: Family::default(),
            ejections: Family::default(),
            replica_in_flight: Family::default(),
            replica_fit: Family::default(),
        };
        metrics.register(|registry| {
            let help = "Calls made, by peer, method and code";
            registry.register("weft_rpc_client_calls", help, this.calls.clone());
            let help = "Seconds from sending a call to the end of its answer";
            registry.register("weft_rpc_client_call_duration_seconds", help, this.seconds.clone());
            let help = "Replicas that calls to a peer are balanced over";
            registry.register("weft_rpc_client_replicas", help, this.replicas.clone());
            let help = "Replicas of a peer that are left alone because they only fail";
            registry.register("weft_rpc_client_breakers_open", help, this.breakers_open.clone());
            let help = "Replicas of a peer that are left alone because they fail more often than the others";
            registry.register("weft_rpc_client_ejected", help, this.ejected.clone());
            let help = "How often that began";
            registry.register("weft_rpc_client_ejections", help, this.ejections.clone());
            let help = "Calls to a replica that have not ended";
            registry.register("weft_rpc_client_replica_in_flight", help, this.replica_in_flight.clone());
            let help = "Whether a replica was found to be well (1) or not, or not yet (0)";
            registry.register("weft_rpc_client_replica_fit", help, this.replica_fit.clone());
        });
        this
    }

    /// How many replicas of a peer are left alone.
    pub(crate) fn breakers_open(&self, peer: &'static str) -> Gauge {
        self.breakers_open.get_or_create_owned(&ReplicasLabels { peer })
    }

    /// The replicas of a peer that are left alone because the others do better.
    pub(crate) fn ejections(&self, peer: &'static str) -> Ejections {
        let labels = ReplicasLabels { peer };
        Ejections {
            now: self.ejected.get_or_create_owned(&labels),
            ever: self.ejections.get_or_create_owned(&labels),
        }
    }

    /// What is told of a replica.
    pub(crate) fn replica(&self, peer: &'static str, replica: &str) -> ReplicaGauges {
        let labels = ReplicaLabels { peer, replica: replica.to_owned() };
        ReplicaGauges {
            in_flight: self.replica_in_flight.get_or_create_owned(&labels),
            fit: self.replica_fit.get_or_create_owned(&labels),
        }
    }

    /// Nothing is told of this replica any more.
    pub(crate) fn forget_replica(&self, peer: &'static str, replica: &str) {
        let labels = ReplicaLabels { peer, replica: replica.to_owned() };
        self.replica_in_flight.remove(&labels);
        self.replica_fit.remove(&labels);
    }

    /// So many replicas of a peer are known.
    pub(crate) fn replicas(&self, peer: &'static str, count: usize) {
        self.replicas.get_or_create(&ReplicasLabels { peer }).set(count as i64);
    }
}

impl Around for ToPeer {
    async fn call(&self, request: Request<Body>, next: Next) -> Response<Body> {
        let (peer, method) = (self.peer, method::known(request.uri().path()));
        let (metrics, started) = (self.metrics.clone(), Instant::now());
        let end = Counted::new(move |code| {
            metrics.calls.get_or_create(&PeerOutcomeLabels { peer, method, code }).inc();
            let seconds = started.elapsed().as_secs_f64();
            metrics.seconds.get_or_create(&PeerLabels { peer, method }).observe(seconds);
        });
        body::observe(next.run(request).await, end)
    }
}

/// Counts a call once, however it ends: also where the caller leaves before there is a response to observe.
struct Counted<F: FnOnce(&'static str)>(Option<F>);

impl<F: FnOnce(&'static str)> Counted<F> {
    fn new(count: F) -> Self {
        Self(Some(count))
    }

    fn count(&mut self, code: Code) {
        if let Some(count) = self.0.take() {
            count(code_name(code));
        }
    }
}

impl<F: FnOnce(&'static str) + Send + 'static> OnEnd for Counted<F> {
    fn on_end(mut self, status: Option<Code>) {
        self.count(status.unwrap_or(Code::Cancelled));
    }
}

impl<F: FnOnce(&'static str)> Drop for Counted<F> {
    fn drop(&mut self) {
        self.count(Code::Cancelled);
    }
}
