//! One replica of a peer: its connection, how much it is doing for us, and whether it may be used.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, body::Body};
use tower::Service as _;

use super::{
    ClientConfig, Outgoing, Target,
    balance::{Candidate, ReplicaId},
    breaker::Breaker,
    channel::Channel,
    layered,
    outlier::{OutlierConfig, Record},
};
use crate::{
    BoxError, Context,
    body::{self, OnEnd, code_in},
    layer::metrics::{Ejections, ReplicaGauges},
};

/// One replica of a peer. Clones are the same.
#[derive(Clone, Debug)]
pub struct Replica {
    inner: Arc<Inner>,
}

/// Whether a replica may be used, as whoever looks after it has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fitness {
    /// Nobody has looked yet, or not since its connection ended. It is used where no fit one is.
    #[default]
    Unproven,
    /// It is well.
    Fit,
    /// It is not well. It is used where no other is: the look may be wrong.
    Ill,
    /// It does something else than the others. It is not used.
    Foreign,
}

struct Inner {
    id: ReplicaId,
    peer: &'static str,
    name: String,
    target: Target,
    channel: Channel,
    /// The connection with the layers of a call, for those who call this replica and no other.
    direct: Outgoing,
    in_flight: AtomicUsize,
    breaker: Breaker,
    record: Record,
    standing: Arc<Standing>,
    /// How many breakers of the peer are open.
    open: Gauge,
    ejections: Ejections,
    gauges: ReplicaGauges,
}

/// What is known of its fitness.
#[derive(Debug)]
struct Standing {
    peer: &'static str,
    name: String,
    fitness: Mutex<Fitness>,
    /// 1 where it is fit.
    gauge: Gauge,
}

impl Standing {
    fn fitness(&self) -> MutexGuard<'_, Fitness> {
        self.fitness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fitness: Fitness) -> Fitness {
        let mut known = self.fitness();
        self.gauge.set(i64::from(fitness == Fitness::Fit));
        std::mem::replace(&mut *known, fitness)
    }

    /// Its connection has ended. Perhaps it was restarted, and whoever answers there now has not begun to serve: until
    /// somebody has looked, others come first.
    fn doubt(&self) {
        let mut fitness = self.fitness();
        if *fitness == Fitness::Fit {
            *fitness = Fitness::Unproven;
            self.gauge.set(0);
            let (peer, replica) = (self.peer, &self.name);
            tracing::info!(
                peer,
                replica,
                "the connection to a replica has ended: others come first until it is looked at"
            );
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Replica")
            .field("peer", &self.peer)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Replica {
    pub(super) fn new(
        context: &Context,
        peer: &'static str,
        target: Target,
        config: &ClientConfig,
    ) -> Result<Self, BoxError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = ReplicaId(NEXT.fetch_add(1, Ordering::Relaxed));
        let name = name(&target, id);
        let gauges = context.calls_made.replica(peer, &name);
        let standing =
            Standing { peer, name: name.clone(), fitness: Mutex::default(), gauge: gauges.fit.clone() };
        let standing = Arc::new(standing);
        let doubted = Arc::clone(&standing);
        let channel = Channel::new(context, peer, target.clone(), config, move || doubted.doubt())?;
        let inner = Inner {
            id,
            peer,
            direct: layered(context, peer, channel.clone()),
            channel,
            in_flight: AtomicUsize::new(0),
            breaker: Breaker::new(config.breaker.clone()),
            record: Record::default(),
            standing,
            open: context.calls_made.breakers_open(peer),
            ejections: context.calls_made.ejections(peer),
            gauges,
            name,
            target,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Names it in this process.
    pub fn id(&self) -> ReplicaId {
        self.inner.id
    }

    /// Its address, for people and metrics.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Calls this replica and no other, and says nothing about its load or its breaker: for looking after it.
    pub fn direct(&self) -> Outgoing {
        self.inner.direct.clone()
    }

    /// Whether it may be used.
    pub fn fitness(&self) -> Fitness {
        *self.inner.standing.fitness()
    }

    /// Says what was found. Answers what was known before.
    pub(super) fn set_fitness(&self, fitness: Fitness) -> Fitness {
        let before = self.inner.standing.set(fitness);
        if fitness == Fitness::Fit && before != Fitness::Fit {
            // It was away, and is back: what its calls came to before says nothing about it now.
            self.inner.answered();
            self.inner.forget();
        }
        before
    }

    pub(super) fn is_at(&self, target: &Target) -> bool {
        self.inner.target.is(target)
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(super) fn record(&self) -> &Record {
        &self.inner.record
    }

    /// Leaves it alone for a while: so large a part of its calls failed.
    pub(super) fn eject(&self, config: &OutlierConfig, failing: f64) {
        let time = humantime::format_duration(self.inner.record.eject(config)).to_string();
        self.inner.ejections.begin();
        let (peer, replica) = (self.inner.peer, self.name());
        tracing::warn!(
            peer,
            replica,
            failing,
            time,
            "a replica fails more often than the others and is left alone"
        );
    }

    /// Ends that where its time is over.
    pub(super) fn may_return(&self) {
        if self.inner.record.returns() {
            self.inner.ejections.end();
            tracing::info!(peer = self.inner.peer, replica = self.name(), "a replica is tried again");
        }
    }

    pub(super) fn candidate(&self) -> Candidate {
        let load = self.inner.in_flight.load(Ordering::Relaxed) + self.inner.breaker.weight();
        Candidate { id: self.inner.id, load }
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        self.inner.in_flight.fetch_add(1, Ordering::Relaxed);
        self.inner.gauges.in_flight.inc();
        let call = Call { probe: self.inner.breaker.sent(), replica: Arc::clone(&self.inner) };
        let response = self.inner.channel.clone().call(request).await?;
        if code_in(response.headers()).is_none() {
            // It took the call; a probe need not wait for the end of a long stream.
            self.inner.answered();
        }
        Ok(body::observe(response, call))
    }
}

fn name(target: &Target, id: ReplicaId) -> String {
    match target {
        Target::Uri(uri) => uri.authority().map(ToString::to_string).unwrap_or_default(),
        Target::Resolved { address, .. } => address.to_string(),
        Target::Pipe(_) => format!("pipe {}", id.0),
    }
}

impl Inner {
    fn answered(&self) {
        if self.breaker.answered() {
            self.open.dec();
            tracing::info!(peer = self.peer, replica = self.name, "a replica answers again");
        }
    }

    /// How its calls ended until now is no reason to leave it alone.
    fn forget(&self) {
        if self.record.forget() {
            self.ejections.end();
            tracing::info!(
                peer = self.peer,
                replica = self.name,
                "a replica is back and no longer left alone"
            );
        }
    }

    fn failed(&self, probe: bool) {
        if self.breaker.failed(probe) {
            self.open.inc();
            tracing::warn!(peer = self.peer, replica = self.name, "a replica only fails and is left alone");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            self.open.dec();
        }
        if self.record.is_ejected() {
            self.ejections.end();
        }
    }
}

/// A call in flight.
struct Call {
    replica: Arc<Inner>,
    /// Whether an open breaker waits for how it ends.
    probe: bool,
}

impl OnEnd for Call {
    fn on_end(self, status: Option<Code>) {
        if let Some(code) = status {
            self.replica.record.count(code);
        }
        match status {
            Some(Code::Unavailable) => self.replica.failed(self.probe),
            Some(_) => self.replica.answered(),
            None => {}
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.replica.gauges.in_flight.dec();
        if self.probe {
            self.replica.breaker.left();
        }
    }
}
