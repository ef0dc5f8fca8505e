//! Several replicas of a peer, called as one: the less loaded of two random ones (P2C), behind a breaker each.
//!
//! Load is calls whose stream has not ended (DESIGN fact 4), and recent failures weigh like load (fact 6). Who the
//! replicas are comes from a stream that a task reads, whether there are calls or not (fact 5): a replica that left is
//! let go of at once, and a new one is known before it is needed.
//!
//! Ours and not tower's `Balance`, because that one is driven by calls, through a `Buffer` that each call waits for.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use http::{Request, Response};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::{ClientConfig, Target, breaker::Breaker, channel::Channel};
use crate::{
    BoxError,
    body::{self, OnEnd, code_in},
    status::{self, reason},
};

/// All replicas of a peer. Clones share them.
#[derive(Clone)]
pub(super) struct Replicas {
    peer: &'static str,
    config: Arc<ClientConfig>,
    /// `None` until they were discovered for the first time.
    known: Arc<watch::Sender<Option<Known>>>,
    draws: Arc<AtomicU64>,
}

/// All replicas of one moment.
type Known = Arc<[Arc<Replica>]>;

struct Replica {
    peer: &'static str,
    target: Target,
    channel: Channel,
    in_flight: AtomicUsize,
    breaker: Breaker,
    /// How many breakers of the peer are open.
    open: Gauge,
}

impl Replicas {
    /// Follows `members`; each item is all replicas there are.
    pub(super) fn discovered(
        context: &crate::Context,
        peer: &'static str,
        members: impl Stream<Item = Vec<Target>> + Send + 'static,
        config: &ClientConfig,
    ) -> Self {
        let this = Self {
            peer,
            config: Arc::new(config.clone()),
            known: Arc::new(watch::Sender::new(None)),
            draws: Arc::default(),
        };
        let follower = this.clone();
        let context = context.clone();
        context.tasks.clone().spawn_root("discovery", async move {
            let mut members = std::pin::pin!(members);
            loop {
                tokio::select! {
                    members = members.next() => match members {
                        Some(members) => follower.replace(&context, members),
                        None => return,
                    },
                    () = context.drain.reached(crate::drain::Phase::Stopping) => return,
                }
            }
        });
        this
    }

    /// Keeps those that stay, with their connections and what is known of them.
    fn replace(&self, context: &crate::Context, members: Vec<Target>) {
        let before = self.known.borrow().clone().unwrap_or_default();
        let kept = |target: &Target| before.iter().find(|replica| replica.target.is(target)).cloned();
        let made = |target: Target| match Replica::new(context, self.peer, target, &self.config) {
            Ok(replica) => Some(Arc::new(replica)),
            Err(error) => {
                tracing::warn!(peer = self.peer, error = status::chain(&*error), "a replica is not usable");
                None
            }
        };
        let now: Arc<[_]> =
            members.into_iter().filter_map(|target| kept(&target).or_else(|| made(target))).collect();
        if now.len() != before.len() {
            tracing::info!(peer = self.peer, before = before.len(), now = now.len(), "replicas changed");
        }
        context.calls_made.replicas(self.peer, now.len());
        self.known.send_replace(Some(now));
    }

    /// The replica to call, once any are known.
    async fn pick(&self) -> Result<Arc<Replica>, Status> {
        let mut known = self.known.subscribe();
        let discovered = timeout(self.config.connect_timeout, known.wait_for(Option::is_some)).await;
        let replicas = match discovered {
            Ok(Ok(replicas)) => replicas.clone().unwrap_or_default(),
            // The sender lives as long as `self`: this is the time-out.
            _ => Arc::default(),
        };
        self.choose(&replicas).ok_or_else(|| {
            let message = format!("no replica of {} is known", self.peer);
            status::unavailable(reason::UNREACHABLE, message, None)
        })
    }

    /// The lighter of two. If every breaker is open, some replica is tried all the same: the breakers may be wrong.
    fn choose(&self, replicas: &[Arc<Replica>]) -> Option<Arc<Replica>> {
        let allowed: Vec<_> = replicas.iter().filter(|replica| replica.breaker.allows()).collect();
        let of: Vec<_> = if allowed.is_empty() { replicas.iter().collect() } else { allowed };
        let (first, second) = two_of(of.len(), self.draws.fetch_add(1, Ordering::Relaxed))?;
        let lighter = if of[second].weight() < of[first].weight() { second } else { first };
        Some(Arc::clone(of[lighter]))
    }
}

/// Two different places below `count` (the same if there is only one), evenly spread over the draws.
fn two_of(count: usize, draw: u64) -> Option<(usize, usize)> {
    // The finisher of splitmix64 (Steele et al., OOPSLA 2014): no lock, and a draw can be repeated in a test.
    let mixed = draw.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let first = (mixed >> 32) as usize % count.max(1);
    let step = match count {
        0 => return None,
        1 => 0,
        more => 1 + (mixed as u32) as usize % (more - 1),
    };
    Some((first, (first + step) % count))
}

impl Service<Request<Body>> for Replicas {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            match this.pick().await {
                Ok(replica) => replica.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

impl Replica {
    fn new(
        context: &crate::Context,
        peer: &'static str,
        target: Target,
        config: &ClientConfig,
    ) -> Result<Self, BoxError> {
        let channel = Channel::new(context, peer, target.clone(), config)?;
        let (in_flight, breaker) = (AtomicUsize::new(0), Breaker::default());
        let open = context.calls_made.breakers_open(peer);
        Ok(Self { peer, target, channel, in_flight, breaker, open })
    }

    fn weight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed) + self.breaker.weight()
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let call = Call { probe: self.breaker.sent(), replica: Arc::clone(&self) };
        let response = self.channel.clone().call(request).await?;
        if code_in(response.headers()).is_none() {
            // It took the call; a probe need not wait for the end of a long stream.
            self.answered();
        }
        Ok(body::observe(response, call))
    }

    fn answered(&self) {
        if self.breaker.answered() {
            self.open.dec();
            tracing::info!(peer = self.peer, replica = ?self.target, "a replica answers again");
        }
    }

    fn failed(&self, probe: bool) {
        if self.breaker.failed(probe) {
            self.open.inc();
            tracing::warn!(peer = self.peer, replica = ?self.target, "a replica only fails and is left alone");
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if self.breaker.is_open() {
            self.open.dec();
        }
    }
}

/// A call in flight.
struct Call {
    replica: Arc<Replica>,
    /// Whether an open breaker waits for how it ends.
    probe: bool,
}

impl OnEnd for Call {
    fn on_end(self, status: Option<Code>) {
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
        if self.probe {
            self.replica.breaker.left();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_different_places_are_drawn_evenly() {
        let mut drawn = [0; 5];
        for draw in 0..10_000 {
            let (first, second) = two_of(5, draw).unwrap();
            assert_ne!(first, second);
            drawn[first] += 1;
            drawn[second] += 1;
        }
        assert!(drawn.iter().all(|count| (3_600..4_400).contains(count)), "{drawn:?}");
        assert_eq!(two_of(1, 7), Some((0, 0)));
        assert_eq!(two_of(0, 7), None);
    }
}
