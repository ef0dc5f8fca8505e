//! A way to a service, and how much is on it.

use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, body::Body};
use tower::Service;
use weft_runtime::{
    BoxError,
    body::{self, OnEnd},
    client::{Outgoing, Replica},
};

/// A connection that knows its load: calls whose last message has not come back. For token streams that is much later
/// than the headers. Cheap to clone; clones share the load.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    connection: Outgoing,
    load: Gauge,
}

impl Endpoint {
    pub(crate) fn new(connection: Outgoing, load: Gauge) -> Self {
        Self { connection, load }
    }

    /// The way to one replica and no other, for looking after it: nobody counts what is on it.
    pub(crate) fn direct(replica: &Replica) -> Self {
        Self::new(replica.direct(), Gauge::default())
    }
}

impl Service<http::Request<Body>> for Endpoint {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connection.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = Call::begin(self.load.clone());
        let response = self.connection.call(request);
        Box::pin(async move { Ok(body::observe(response.await?, call)) })
    }
}

/// A share of the load, for as long as it lives.
struct Call {
    load: Gauge,
}

impl Call {
    fn begin(load: Gauge) -> Self {
        load.inc();
        Self { load }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.load.dec();
    }
}

impl OnEnd for Call {
    fn on_end(self, _: Option<Code>) {}
}
