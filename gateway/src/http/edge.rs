//! Between what HTTP callers say and what every layer understands.
//!
//! Outside of all layers, so that each of them (and the pipeline) knows one language only: a call has a name, its time is
//! in `grpc-timeout`, and it ends with a gRPC status, in headers or in trailers. On the way in, the route names the call
//! and `x-request-timeout` becomes `grpc-timeout`; on the way out, the status becomes an HTTP answer in OpenAI's shape or,
//! where an event stream has begun, its last event. Of the trailers, a caller who asks for some (`te: trailers`) gets those
//! that are meant for it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CONTENT_TYPE, TE, TRAILER},
};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use weft_runtime::server::Operation;

use super::{failure, routes, sse};
use crate::latency::SERVER_TIMING;

/// How long a caller waits, in seconds: `2.5`.
pub(super) const TIMEOUT: &str = "x-request-timeout";
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Names the request, in its trace and in the log.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// The layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdgeLayer;

/// The service that it makes.
#[derive(Clone, Debug)]
pub(super) struct Edge<S> {
    inner: S,
}

/// What is wrong with a call before anybody has read it; told by whoever reads it, within all layers.
#[derive(Clone, Debug)]
pub(super) struct Misspoken(pub(super) Status);

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner }
    }
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let operation = routes::operation(request.method(), request.uri().path());
        request.extensions_mut().insert(Operation(operation));
        if let Err(wrong) = spend(&mut request) {
            request.extensions_mut().insert(Misspoken(wrong));
        }
        let trailers = takes_trailers(request.headers());
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(translate(answer.await?, trailers)) })
    }
}

/// Says in gRPC's words how long the caller waits.
fn spend<B>(request: &mut Request<B>) -> Result<(), Status> {
    let Some(value) = request.headers().get(TIMEOUT) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let millis = millis(&text).ok_or_else(|| {
        let rule = format!("is {text:?}; must be a number of seconds above 0, such as 2.5");
        weft_runtime::status::violation(TIMEOUT, &rule)
    })?;
    if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
        request.headers_mut().insert(GRPC_TIMEOUT, value);
    }
    Ok(())
}

/// Whether the caller reads trailers (RFC 9110, 6.5.1).
fn takes_trailers(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// As many milliseconds as `grpc-timeout` can hold; far more than any deadline that is given.
const MOST_MILLIS: u64 = 99_999_999;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded before it is cast")]
fn millis(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok()?;
    let millis = (seconds * 1_000.0).ceil();
    (millis >= 1.0).then_some(if millis < MOST_MILLIS as f64 { millis as u64 } else { MOST_MILLIS })
}

fn translate(mut response: Response<Body>, trailers: bool) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => failure::answer(&status, response.headers()),
        Some(_) => {
            for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
                response.headers_mut().remove(name);
            }
            response
        }
        None => {
            let events = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == sse::CONTENT_TYPE);
            let trailers = trailers && events;
            if trailers {
                response.headers_mut().insert(TRAILER, SERVER_TIMING.into());
            }
            response
                .map(|inner| weft_runtime::body::boxed(Translated { inner: Some(inner), events, trailers }))
        }
    }
}

/// A body whose end is told as its reader understands it.
struct Translated {
    /// `None` once it ended.
    inner: Option<Body>,
    /// Whether the end can be an event.
    events: bool,
    /// Whether its reader takes trailers.
    trailers: bool,
}

impl Translated {
    fn end(&mut self, status: Status, timing: Option<HeaderValue>) -> Option<Result<Frame<Bytes>, Status>> {
        self.inner = None;
        match status.code() {
            Code::Ok => {
                let timing = timing.filter(|_| self.trailers)?;
                Some(Ok(Frame::trailers(HeaderMap::from_iter([(SERVER_TIMING, timing)]))))
            }
            _ if self.events => Some(Ok(Frame::data(sse::event(&failure::shape(&status))))),
            // Half an answer must not look like a whole one: the connection is reset.
            _ => Some(Err(status)),
        }
    }
}

impl http_body::Body for Translated {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    let unsaid = || Status::internal("the answer ended without saying how");
                    let status = Status::from_header_map(&trailers).unwrap_or_else(unsaid);
                    self.end(status, trailers.remove(SERVER_TIMING))
                }
                Err(data) => Some(Ok(data)),
            },
            Some(Err(status)) => self.end(status, None),
            None => {
                self.inner = None;
                None
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |_| SizeHint::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_in_seconds_is_one_in_milliseconds() {
        for (text, expected) in [
            ("2.5", Some(2_500)),
            ("60", Some(60_000)),
            (" 1 ", Some(1_000)),
            ("0.0001", Some(1)),
            ("1e30", Some(MOST_MILLIS)),
            ("inf", Some(MOST_MILLIS)),
            ("0", None),
            ("-1", None),
            ("NaN", None),
            ("30s", None),
            ("", None),
        ] {
            assert_eq!(millis(text), expected, "{text:?}");
        }
    }
}
