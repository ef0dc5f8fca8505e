//! Below here layers may fail; here a failure becomes a gRPC status.
//!
//! An error without a [`Status`](tonic::Status) somewhere in its source chain would reset the stream instead of
//! answering, so this stands around every stack that a service puts around its routes.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt as _};

use crate::{BoxError, status};

/// The layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct RescueLayer;

/// The service that it makes.
#[derive(Clone, Debug)]
pub struct Rescue<S> {
    inner: S,
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Rescue { inner }
    }
}

impl<S> Service<Request<Body>> for Rescue<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Not being ready may be a failure too, so it is waited for where it can be answered.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let answered = inner.oneshot(request).await;
            Ok(answered.unwrap_or_else(|error| status::rescue(error.into()).into_http()))
        })
    }
}
