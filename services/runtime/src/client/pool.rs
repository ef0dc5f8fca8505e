//! All replicas of a peer, called as one, behind a breaker each.
//!
//! Load is calls whose stream has not ended (DESIGN fact 4), and recent failures weigh like load (fact 6). Who the
//! replicas are comes from a stream that a task reads, whether there are calls or not (fact 5): a replica that left is
//! let go of at once, and a new one is known before it is needed.
//!
//! Ours and not tower's `Balance`, because that one is driven by calls, through a `Buffer` that each call waits for.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use http::{Extensions, Request, Response};
use tokio::{sync::watch, time::timeout};
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    ClientConfig, Members, Outgoing, Target,
    balance::{Balance, Tried},
    layered,
    outlier::Outliers,
    replica::{Fitness, Replica},
};
use crate::{
    BoxError,
    drain::Phase,
    status::{self, reason},
};

/// All replicas of a peer. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    peer: &'static str,
    config: Arc<ClientConfig>,
    context: crate::Context,
    policy: Arc<dyn Balance>,
    outliers: Arc<Outliers>,
    /// `None` until they were discovered for the first time.
    known: Arc<watch::Sender<Option<Known>>>,
}

/// All replicas of one moment.
type Known = Arc<[Replica]>;

impl Pool {
    /// The replicas of `peer` (its name in spans, metrics and errors).
    ///
    /// # Errors
    /// An address or a certificate that is not usable.
    pub fn new(
        context: &crate::Context,
        peer: &'static str,
        members: Members,
        config: &ClientConfig,
        policy: Arc<dyn Balance>,
    ) -> Result<Self, BoxError> {
        let this = Self::empty(context, peer, config, policy);
        match members {
            Members::Fixed(targets) => {
                let replicas = targets.into_iter().map(|target| Replica::new(context, peer, target, config));
                this.publish(replicas.collect::<Result<_, _>>()?);
            }
            members @ (Members::Named { .. } | Members::Followed(_)) => this.follow(members.follow()),
        }
        Ok(this)
    }

    /// Follows `members`; each item is all replicas there are.
    pub(super) fn discovered(
        context: &crate::Context,
        peer: &'static str,
        members: impl Stream<Item = Vec<Target>> + Send + 'static,
        config: &ClientConfig,
        policy: Arc<dyn Balance>,
    ) -> Self {
        let this = Self::empty(context, peer, config, policy);
        this.follow(members);
        this
    }

    fn empty(
        context: &crate::Context,
        peer: &'static str,
        config: &ClientConfig,
        policy: Arc<dyn Balance>,
    ) -> Self {
        let known = Arc::new(watch::Sender::new(None));
        let outliers = Arc::new(Outliers::new(config.outlier.clone()));
        Self { peer, config: Arc::new(config.clone()), context: context.clone(), policy, outliers, known }
    }

    fn follow(&self, members: impl Stream<Item = Vec<Target>> + Send + 'static) {
        let (follower, drain) = (self.clone(), self.context.drain.clone());
        self.context.tasks.spawn_root("discovery", async move {
            let mut members = std::pin::pin!(members);
            loop {
                tokio::select! {
                    members = members.next() => match members {
                        Some(members) => follower.replace(members),
                        None => return,
                    },
                    () = drain.reached(Phase::Stopping) => return,
                }
            }
        });
    }

    /// One connection to all of them, with the layers of a call around it.
    pub fn outgoing(&self) -> Outgoing {
        layered(&self.context, self.peer, Balanced { pool: Arc::new(self.clone()) })
    }

    /// All of them, as far as they are known now.
    pub fn replicas(&self) -> Vec<Replica> {
        self.known.borrow().iter().flat_map(|known| known.iter().cloned()).collect()
    }

    /// Says what was found about a replica. Answers what was known before.
    pub fn set_fitness(&self, replica: &Replica, fitness: Fitness) -> Fitness {
        let before = replica.set_fitness(fitness);
        // It was away, or its connection was, and who is back may be another process, which has nothing yet.
        if fitness == Fitness::Fit && before != Fitness::Fit {
            self.policy.forget(replica.id());
        }
        before
    }

    /// Resolves when others are known than now.
    pub async fn changed(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.known.subscribe().changed().await;
    }

    /// Keeps those that stay, with their connections and what is known of them.
    fn replace(&self, members: Vec<Target>) {
        let before = self.replicas();
        let kept = |target: &Target| before.iter().find(|replica| replica.is_at(target)).cloned();
        let made = |target: Target| match Replica::new(&self.context, self.peer, target, &self.config) {
            Ok(replica) => Some(replica),
            Err(error) => {
                tracing::warn!(peer = self.peer, error = status::chain(&*error), "a replica is not usable");
                None
            }
        };
        let now: Vec<_> =
            members.into_iter().filter_map(|target| kept(&target).or_else(|| made(target))).collect();
        if now.len() != before.len() {
            tracing::info!(peer = self.peer, before = before.len(), now = now.len(), "replicas changed");
        }
        for gone in before.iter().filter(|gone| now.iter().all(|replica| replica.name() != gone.name())) {
            self.context.calls_made.forget_replica(self.peer, gone.name());
        }
        self.publish(now);
    }

    fn publish(&self, now: Vec<Replica>) {
        self.context.calls_made.replicas(self.peer, now.len());
        self.policy.keep(&now.iter().map(Replica::id).collect::<Vec<_>>());
        self.known.send_replace(Some(now.into()));
    }

    /// The replica to call, once any are known.
    async fn pick(&self, call: &Extensions) -> Result<Replica, Status> {
        let replicas = self.known().await;
        let chosen = self.choose(&replicas, call);
        if let (Some(tried), Some(chosen)) = (call.get::<Tried>(), &chosen) {
            tried.note(chosen.id());
        }
        chosen.ok_or_else(|| {
            let message = match replicas.len() {
                0 => format!("no replica of {} is known", self.peer),
                count => format!("none of the {count} replicas of {} does what is expected of it", self.peer),
            };
            status::unavailable(reason::UNREACHABLE, message, None)
        })
    }

    /// All of them, once any are known; none where that takes too long.
    async fn known(&self) -> Known {
        if let Some(known) = &*self.known.borrow() {
            return Arc::clone(known);
        }
        let mut known = self.known.subscribe();
        let discovered = timeout(self.config.connect_timeout, known.wait_for(Option::is_some)).await;
        match discovered {
            Ok(Ok(replicas)) => replicas.clone().unwrap_or_default(),
            // The sender lives as long as `self`: this is the time-out.
            _ => Arc::default(),
        }
    }

    /// One of those that are as good as any.
    fn choose(&self, replicas: &[Replica], call: &Extensions) -> Option<Replica> {
        self.outliers.review(replicas);
        let tried = call.get::<Tried>();
        let open = replicas.iter().filter(|replica| !replica.breaker().allows()).count();
        let heeds_breakers = open as f64 <= self.config.breaker.max_open_share * replicas.len() as f64;
        let usability = |replica: &Replica| usability(replica, tried, heeds_breakers);
        let best = replicas.iter().map(usability).max()?;
        if best == Usability::Never {
            return None;
        }
        let usable: Vec<_> = replicas.iter().filter(|replica| usability(replica) == best).collect();
        // Where a breaker's pause is over, one call finds out whether the replica is well again.
        if let Some(due) = usable.iter().find(|replica| replica.breaker().is_due()) {
            return Some(Replica::clone(due));
        }
        let candidates: Vec<_> = usable.iter().map(|replica| replica.candidate()).collect();
        let chosen = self.policy.choose(call, &candidates);
        usable.get(chosen).or(usable.first()).copied().cloned()
    }
}

/// How good a choice a replica is, best last. If there is nothing better, one that failed is tried all the same: what is
/// known of it may be wrong by now. One that fails now and then is better than one that may not be there at all: while
/// one is ejected and the other is restarted, the first has to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Usability {
    Never,
    Tried,
    Ill,
    Broken,
    Unproven,
    Ejected,
    Fit,
}

fn usability(replica: &Replica, tried: Option<&Tried>, heeds_breakers: bool) -> Usability {
    match replica.fitness() {
        Fitness::Foreign => Usability::Never,
        _ if tried.is_some_and(|tried| tried.has(replica.id())) => Usability::Tried,
        Fitness::Ill => Usability::Ill,
        _ if heeds_breakers && !replica.breaker().allows() => Usability::Broken,
        Fitness::Unproven => Usability::Unproven,
        Fitness::Fit if replica.record().is_ejected() => Usability::Ejected,
        Fitness::Fit => Usability::Fit,
    }
}

/// Calls one of them.
#[derive(Clone)]
struct Balanced {
    pool: Arc<Pool>,
}

impl Service<Request<Body>> for Balanced {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pool = Arc::clone(&self.pool);
        Box::pin(async move {
            match pool.pick(request.extensions()).await {
                Ok(replica) => replica.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}
