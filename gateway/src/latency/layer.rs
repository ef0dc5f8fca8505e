//! From a request's arrival to the trailers of its answer, which tell the caller where the time went.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{Latency, LatencyMetrics, Phase};

/// The trailer, in the syntax of W3C's Server Timing.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Gives each request a [`Latency`], in its extensions, and tells it in the answer's trailers, in the call's span and in
/// histograms.
#[derive(Clone, Debug)]
pub(crate) struct LatencyLayer {
    metrics: LatencyMetrics,
}

/// See [`LatencyLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Timed<S> {
    inner: S,
    metrics: LatencyMetrics,
}

impl LatencyLayer {
    pub(crate) fn new(metrics: LatencyMetrics) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for LatencyLayer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, metrics: self.metrics.clone() }
    }
}

impl<S> Service<http::Request<Body>> for Timed<S>
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

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let latency = Latency::begin();
        request.extensions_mut().insert(latency.clone());
        let mut account = Account { latency, metrics: self.metrics.clone(), told: false };
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if response.headers().contains_key("grpc-status") {
                account.tell(Some(response.headers_mut()));
                return Ok(response);
            }
            Ok(response.map(|inner| weft_runtime::body::boxed(Told { inner, account })))
        })
    }
}

/// An account that is rendered once, also of a call that was dropped.
struct Account {
    latency: Latency,
    metrics: LatencyMetrics,
    told: bool,
}

impl Account {
    fn tell(&mut self, trailers: Option<&mut HeaderMap>) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let spent = self.latency.spent();
        if let Some((trailers, value)) = trailers.zip(HeaderValue::try_from(spent.server_timing()).ok()) {
            trailers.insert(SERVER_TIMING, value);
        }
        if self.latency.was_worked_on() {
            self.metrics.observe(&spent);
            let span = Span::current();
            for phase in Phase::ALL {
                let key = format!("weft.latency.{}_ms", phase.name());
                span.set_attribute(key, spent.of(phase).as_secs_f64() * 1e3);
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.tell(None);
    }
}

/// A body whose trailers tell.
struct Told {
    inner: Body,
    account: Account,
}

impl http_body::Body for Told {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            self.account.tell(Some(trailers));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
