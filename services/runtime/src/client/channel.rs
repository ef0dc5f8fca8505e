//! A connection to a peer that is made when it is needed and made again when it broke.
//!
//! Ours and not tonic's `Channel`, because that one serves one caller after another while it connects: behind a peer
//! that swallows packets each would wait for an attempt of its own. Here all who wait share one attempt, so everybody
//! knows within `connect_timeout`.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::{HeaderValue, Request, Response, Uri, header::USER_AGENT};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    ClientConfig, Target,
    connect::Way,
    received::{Received, attributed, broken},
    tied::tie,
};
use crate::{
    BoxError, body,
    drain::{Drain, Phase},
    flow,
    status::{self, chain, reason},
    task::{CallExecutor, Tasks},
};

type Sender = http2::SendRequest<Body>;
/// Why there is no connection, in words that all who waited share.
type Attempt = Shared<BoxFuture<'static, Result<Sender, Arc<str>>>>;

/// The connection. Clones share it.
#[derive(Clone)]
pub(super) struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    peer: &'static str,
    way: Way,
    user_agent: HeaderValue,
    config: ClientConfig,
    tasks: Tasks,
    drain: Drain,
    /// Told whenever a connection has ended: who is behind the next one may be another process.
    ended: Arc<dyn Fn() + Send + Sync>,
    /// The newest attempt, made or in the making, and its number.
    attempt: Mutex<(u64, Option<Attempt>)>,
}

/// A request that was never sent, because its connection was closing, may be sent on the next one. Twice in a row
/// means that the peer closes whatever it accepts.
const SENDS: usize = 2;

impl Channel {
    /// # Errors
    /// An address that is not usable.
    pub(super) fn new(
        context: &crate::Context,
        peer: &'static str,
        target: Target,
        config: &ClientConfig,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, BoxError> {
        let user_agent = format!("weft-{}/{}", context.service, env!("CARGO_PKG_VERSION"));
        let inner = Inner {
            peer,
            way: Way::to(target, config)?,
            user_agent: HeaderValue::try_from(user_agent)?,
            config: config.clone(),
            tasks: context.tasks.clone(),
            drain: context.drain.clone(),
            ended: Arc::new(ended),
            attempt: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { Ok(inner.send(request).await.unwrap_or_else(Status::into_http)) })
    }
}

impl Inner {
    async fn send(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        self.address(&mut request);
        let (parts, inner) = request.into_parts();
        let (tied, wanted) = tie(inner);
        let mut request = Request::from_parts(parts, tied);
        let mut why = String::new();
        for _ in 1..=SENDS {
            let (number, attempt) = self.attempt();
            let mut sender = attempt.await.map_err(|why| self.unreachable(&why))?;
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.received(response, wanted)),
                Err(error) => error,
            };
            let Some(unsent) = error.take_message() else { return Err(broken(self.peer, error.error())) };
            request = unsent;
            why = format!("it closes its connections: {}", chain(error.error()));
            self.forget(number);
        }
        Err(self.unreachable(&why))
    }

    /// The answer, bounded, with a reason where it breaks.
    fn received(&self, response: Response<Incoming>, wanted: DropGuard) -> Response<Body> {
        let (peer, most) = (self.peer, self.config.max_message_bytes);
        let body = |inner| {
            let received = Received { inner, peer, _wanted: wanted };
            body::bounded(body::boxed(received), most, "max_message_bytes")
        };
        body::amend(response.map(body), move |status| attributed(peer, status))
    }

    /// Says whom a request is for and from whom.
    fn address(&self, request: &mut Request<Body>) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        let origin = self.way.origin.clone().into_parts();
        (parts.scheme, parts.authority) = (origin.scheme, origin.authority);
        // A path, a scheme and an authority always make a URI.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
    }

    /// The attempt that everybody waits for: the newest, unless it has failed or its connection has ended.
    fn attempt(self: &Arc<Self>) -> (u64, Attempt) {
        let mut newest = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, attempt) = &mut *newest;
        if let Some(attempt) = attempt.as_ref().filter(|attempt| is_usable(attempt)) {
            return (*number, attempt.clone());
        }
        *number += 1;
        let this = Arc::clone(self);
        // A task, so that a caller who leaves does not stop it for those who wait on.
        let connecting = self.tasks.spawn_root("connect", async move { this.connect().await });
        let made = async move { connecting.await.unwrap_or_else(|_| Err("the process is stopping".into())) };
        let made = made.boxed().shared();
        *attempt = Some(made.clone());
        (*number, made)
    }

    /// The connection of that attempt is no good any more.
    fn forget(&self, number: u64) {
        let mut newest = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.0 == number {
            newest.1 = None;
        }
    }

    async fn connect(&self) -> Result<Sender, Arc<str>> {
        let limit = self.config.connect_timeout;
        match timeout(limit, self.handshake()).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(chain(&*error).into()),
            Err(_) => Err(format!("no connection within {}", humantime::format_duration(limit)).into()),
        }
    }

    async fn handshake(&self) -> Result<Sender, BoxError> {
        let io = TokioIo::new(self.way.open().await?);
        let mut http2 = http2::Builder::new(CallExecutor(self.tasks.clone()));
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(flow::STREAM_WINDOW)
            .initial_connection_window_size(flow::CONNECTION_WINDOW)
            .keep_alive_interval(self.config.keepalive_interval)
            .keep_alive_timeout(self.config.keepalive_timeout)
            .keep_alive_while_idle(true);
        let (sender, connection) = http2.handshake(io).await?;
        let (peer, drain, tell) = (self.peer, self.drain.clone(), Arc::clone(&self.ended));
        self.tasks.spawn_root("connection", async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::info!(peer, error = chain(&error), "connection ended");
                    }
                    tell();
                }
                () = drain.reached(Phase::Stopping) => {}
            }
        });
        tracing::debug!(peer, "connected");
        Ok(sender)
    }

    fn unreachable(&self, why: &str) -> Status {
        let message = format!("cannot reach {} at {}: {why}", self.peer, self.way.address());
        status::unavailable(reason::UNREACHABLE, message, None)
    }
}

fn is_usable(attempt: &Attempt) -> bool {
    match attempt.peek() {
        None => true,
        Some(Ok(sender)) => !sender.is_closed(),
        Some(Err(_)) => false,
    }
}
