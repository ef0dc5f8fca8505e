//! The life itself, on any stream of connections and any reason to stop.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::Stream;
use tokio::time::timeout;

use super::{BoxError, Context, RuntimeConfig, observed};
use crate::{
    Services, Tasks,
    drain::{Drain, Phase},
    failure::Failure,
    health::{
        Condition, Health,
        rpc::{HealthRpc, Names},
    },
    layer::{self, in_flight::InFlight},
    metrics::Metrics,
    server::{
        Door,
        accept::{Acceptor, Connection, ConnectionMetrics, Speaks},
        front::Front,
        stack::{self, Parts},
    },
    tls::ServerIdentity,
};

/// How long connections get to send the trailers of what was cancelled, and tasks to end, once the drain is over.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a drain says what it waits for.
const PROGRESS: Duration = Duration::from_secs(5);

/// What stands behind the listener from the beginning, and behind further doors once they open.
struct Hall {
    front: Front,
    parts: Parts,
    acceptor: Acceptor,
}

/// A process that has not begun to serve.
#[derive(Debug)]
pub struct Process {
    context: Context,
    config: RuntimeConfig,
    in_flight: InFlight,
    names: Names,
    /// Connections and their calls.
    connections: Tasks,
    started: Condition,
    draining: Condition,
}

impl Process {
    /// A process that is not ready and serves nothing yet. Telemetry is the caller's: a process-wide matter.
    pub fn new(service: &'static str, config: RuntimeConfig) -> Self {
        let (metrics, health) = (Metrics::default(), Health::new());
        observed::register(service, &metrics);
        let started = health.condition("start", "still starting");
        let draining = health.condition("drain", "not accepting yet");
        let context = Context {
            service,
            calls_made: layer::metrics::Outgoing::register(&metrics),
            metrics,
            tasks: Tasks::default(),
            health,
            drain: Drain::new(),
            failure: Failure::default(),
            limits: config.server.limits,
        };
        let (in_flight, names, connections) =
            (InFlight::default(), Arc::new(OnceLock::new()), Tasks::default());
        Self { context, config, in_flight, names, connections, started, draining }
    }

    /// What the service lives with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Starts the service, serves it on `incoming` until `stop` resolves or the service reports a failure, and drains.
    ///
    /// Connections are accepted from the beginning; until `start` resolves, health says NOT_SERVING and other calls are
    /// answered `UNAVAILABLE`. Dropping the future ends everything at once, as `kill -9` does.
    ///
    /// # Errors
    /// Those of `start`, the service's own failure, and a drain that had to cancel calls.
    pub async fn run<E, C>(
        self,
        start: impl Future<Output = Result<Services, E>>,
        incoming: impl Stream<Item = io::Result<C>> + Send + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<(), BoxError>
    where
        E: Into<BoxError>,
        C: Connection,
    {
        let _killed = AbortOnDrop([self.connections.clone(), self.context.tasks.clone()]);
        let hall = self.accept(incoming)?;
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            biased;
            // Whoever starts for a minute must not be deaf for one.
            () = &mut stop => return self.end().await,
            services = start => self.open(hall, services.map_err(Into::into)?),
        }
        let failure = tokio::select! {
            biased;
            () = stop => None,
            reason = self.context.failure.reported() => Some(reason),
        };
        self.drain().await;
        let ended = self.end().await;
        failure.map_or(ended, |reason| Err(reason.into()))
    }

    fn accept<C: Connection>(
        &self,
        incoming: impl Stream<Item = io::Result<C>> + Send + 'static,
    ) -> Result<Hall, BoxError> {
        let Context { health, drain, .. } = self.context.clone();
        let front = Front::new(HealthRpc { health, drain: drain.clone(), names: Arc::clone(&self.names) })?;
        let parts = Parts {
            metrics: layer::metrics::Incoming::register(&self.context.metrics),
            in_flight: self.in_flight.clone(),
            drain: drain.clone(),
            limits: self.config.server.limits,
        };
        let tls = self.identity()?;
        let acceptor = Acceptor {
            routes: stack::stack(front.clone(), parts.clone()),
            speaks: Speaks::Grpc,
            config: Arc::new(self.config.server.clone()),
            drain,
            tasks: self.connections.clone(),
            tls,
            metrics: ConnectionMetrics::register(&self.context.metrics),
        };
        self.connections.spawn_root("accept", acceptor.clone().run(incoming));
        self.draining.holds();
        Ok(Hall { front, parts, acceptor })
    }

    /// Who this server is, where TLS is on, from now on as its files say.
    fn identity(&self) -> Result<Option<Arc<ServerIdentity>>, BoxError> {
        let Some(files) = self.config.server.tls.clone() else { return Ok(None) };
        let identity = Arc::new(ServerIdentity::load(files, &self.context.metrics)?);
        let watch = Arc::clone(&identity).watch(self.context.drain.clone());
        self.context.tasks.spawn_root("tls files", watch);
        Ok(Some(identity))
    }

    fn open(&self, hall: Hall, services: Services) {
        let parts = services.into_parts();
        // Set here only, so this cannot fail.
        let _ = self.names.set(parts.names);
        hall.front.open(parts.routes, parts.housekeeping);
        for Door { incoming, routes, edge } in parts.doors {
            let routes = edge(stack::around_all(routes, hall.parts.clone()));
            let acceptor = Acceptor { routes, speaks: Speaks::Http, ..hall.acceptor.clone() };
            self.connections.spawn_root("accept", acceptor.run(incoming.into_stream()));
        }
        self.started.holds();
    }

    /// Announces, closes the listener, and waits for the calls in flight as long as the limit allows.
    async fn drain(&self) {
        self.draining.fails("stopping");
        self.enter(Phase::Announcing);
        tokio::time::sleep(self.config.drain.announce).await;
        self.enter(Phase::Draining);
        let progress = async {
            loop {
                tokio::time::sleep(PROGRESS).await;
                tracing::info!(in_flight = self.in_flight.count(), "waiting for calls to finish");
            }
        };
        tokio::select! {
            biased;
            () = self.in_flight.empty() => {}
            () = tokio::time::sleep(self.config.drain.limit) => {}
            () = progress => {}
        }
    }

    /// Cancels what remains, names it, and waits a moment for its last words.
    async fn end(&self) -> Result<(), BoxError> {
        let (cancelled, remained) = (self.in_flight.count(), self.in_flight.by_method());
        self.draining.fails("stopping");
        self.enter(Phase::Stopping);
        for tasks in [&self.connections, &self.context.tasks] {
            if timeout(LAST_WORDS, tasks.idle()).await.is_err() {
                tracing::warn!(tasks = ?tasks.names(), "tasks did not end and are aborted");
                tasks.abort_all();
            }
        }
        if cancelled == 0 {
            return Ok(());
        }
        let limit = humantime::format_duration(self.config.drain.limit);
        Err(format!("{cancelled} calls were cancelled after the drain limit of {limit}: {remained:?}").into())
    }

    fn enter(&self, phase: Phase) {
        self.context.drain.enter(phase);
        tracing::info!(?phase, in_flight = self.in_flight.count(), "drain");
    }
}

/// Stops what a process has running when its future is dropped.
struct AbortOnDrop([Tasks; 2]);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(Tasks::abort_all);
    }
}
