//! How much is let in at once: requests, from their arrival until their last token.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use weft_runtime::body::{self, OnEnd};

use crate::{config, error::Error, metrics::Metrics};

/// Lets in as many requests as `admission.max_in_flight` says; the rest is refused at once with `UNAVAILABLE`, since
/// waiting here would only spend the caller's deadline where no queue is fair.
pub(crate) fn layer(config: &config::Admission, metrics: &Metrics) -> AdmissionLayer {
    metrics.in_flight_limit.set(i64::try_from(config.max_in_flight).unwrap_or(i64::MAX));
    AdmissionLayer {
        room: Arc::new(Room { config: config.clone(), taken: AtomicUsize::new(0), metrics: metrics.clone() }),
    }
}

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct AdmissionLayer {
    room: Arc<Room>,
}

/// Has room for a request, or refuses it.
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Room {
    config: config::Admission,
    taken: AtomicUsize,
    metrics: Metrics,
}

/// A place in the room, for as long as it lives: dropping it is leaving.
struct Permit {
    room: Arc<Room>,
}

impl Room {
    fn enter(self: &Arc<Self>) -> Result<Permit, Error> {
        let limit = self.config.max_in_flight;
        let place = |taken: usize| (taken < limit).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, place) {
            Ok(_) => {
                self.metrics.in_flight.inc();
                Ok(Permit { room: Arc::clone(self) })
            }
            Err(in_flight) => {
                self.metrics.refusals.inc();
                Err(Error::Full { in_flight, limit, retry_after: self.config.retry_after })
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::AcqRel);
        self.room.metrics.in_flight.dec();
    }
}

impl OnEnd for Permit {
    fn on_end(self, _: Option<Code>) {}
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, room: Arc::clone(&self.room) }
    }
}

impl<S> Service<http::Request<Body>> for Admission<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.room.enter() {
            Ok(permit) => {
                let response = self.inner.call(request);
                Box::pin(async move { Ok(body::observe(response.await?, permit)) })
            }
            Err(full) => {
                let refusal = Status::from(full).into_http();
                Box::pin(std::future::ready(Ok(refusal)))
            }
        }
    }
}
