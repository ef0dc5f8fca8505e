//! The outer door: requests in flight, from their arrival until their last token.

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

use super::{Admission, lock, refusal::Refusal};
use crate::error::Error;

/// Lets in as many requests as `admission.max_in_flight` says, those that wait at the inner door included; one more is
/// refused before a byte of it is read.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionLayer {
    door: Arc<Door>,
}

/// Has room for a request, or refuses it.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals<S> {
    inner: S,
    door: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    admission: Admission,
    taken: AtomicUsize,
}

/// A place behind the door, for as long as it lives: dropping it is leaving.
struct Place {
    door: Arc<Door>,
}

impl AdmissionLayer {
    pub(super) fn new(admission: Admission) -> Self {
        Self { door: Arc::new(Door { admission, taken: AtomicUsize::new(0) }) }
    }
}

impl Door {
    fn enter(self: &Arc<Self>) -> Result<Place, Refusal> {
        let inner = &self.admission.inner;
        let limit = inner.config.max_in_flight;
        let place = |taken: usize| (taken < limit).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, place).is_ok() {
            inner.metrics.in_flight.inc();
            return Ok(Place { door: Arc::clone(self) });
        }
        let full = lock(&inner.room).full(limit);
        inner.metrics.refused(&full.cause);
        Err(full)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.taken.fetch_sub(1, Ordering::AcqRel);
        self.door.admission.inner.metrics.in_flight.dec();
    }
}

impl OnEnd for Place {
    fn on_end(self, _: Option<Code>) {}
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Arrivals<S>;

    fn layer(&self, inner: S) -> Arrivals<S> {
        Arrivals { inner, door: Arc::clone(&self.door) }
    }
}

impl<S> Service<http::Request<Body>> for Arrivals<S>
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
        match self.door.enter() {
            Ok(place) => {
                let response = self.inner.call(request);
                Box::pin(async move { Ok(body::observe(response.await?, place)) })
            }
            Err(full) => {
                let refusal = Status::from(Error::NoRoom(Box::new(full))).into_http();
                Box::pin(std::future::ready(Ok(refusal)))
            }
        }
    }
}
