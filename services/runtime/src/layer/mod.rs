//! The layers that every call passes, incoming or outgoing.
//!
//! Each is one file and one async function from a request to a response, `Around` another such function. None of
//! them fails: below a client's layers a lost connection has already become a status, as [`rescue`] does for layers of
//! a service. What must happen at the end of a stream hangs on the body (see [`body`](crate::body)).
//!
//! Map: `trace` (one span a call), `metrics` (counts and durations), `in_flight` (who is still here, and how to end
//! it), `deadline` (the whole stream's), `decode` (messages that are too large or not messages), `catch` (panics),
//! `rescue` (errors of a service's own layers), `method` (names with bounded cardinality).

pub mod rescue;

pub(crate) mod catch;
pub(crate) mod deadline;
pub(crate) mod decode;
pub(crate) mod in_flight;
pub(crate) mod method;
pub(crate) mod metrics;
pub(crate) mod trace;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt as _, util::BoxCloneSyncService};

/// What a layer does around the rest of the stack.
pub(crate) trait Around: Clone + Send + Sync + 'static {
    /// Turns a request into a response, by asking `next` or without.
    fn call(&self, request: Request<Body>, next: Next) -> impl Future<Output = Response<Body>> + Send;
}

/// The rest of the stack.
pub(crate) struct Next(crate::server::Routes);

impl Next {
    pub(crate) async fn run(self, request: Request<Body>) -> Response<Body> {
        match self.0.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Makes a layer of what it does.
pub(crate) fn around<A: Around>(around: A) -> AroundLayer<A> {
    AroundLayer { around }
}

/// The layer.
#[derive(Clone, Debug)]
pub(crate) struct AroundLayer<A> {
    around: A,
}

/// The service that it makes.
#[derive(Clone, Debug)]
pub(crate) struct AroundService<A> {
    around: A,
    /// Shared, or each call would clone all that is below each of its layers, layer by layer.
    inner: Arc<crate::server::Routes>,
}

impl<A, S> Layer<S> for AroundLayer<A>
where
    A: Around,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Service = AroundService<A>;

    fn layer(&self, inner: S) -> Self::Service {
        AroundService { around: self.around.clone(), inner: Arc::new(BoxCloneSyncService::new(inner)) }
    }
}

impl<A: Around> Service<Request<Body>> for AroundService<A> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // What is inside is made ready for each call, by `Next::run`, within the layer's span and deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (around, next) = (self.around.clone(), Next((*self.inner).clone()));
        Box::pin(async move { Ok(around.call(request, next).await) })
    }
}
