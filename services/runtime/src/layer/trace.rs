//! One span a call, in the caller's trace, from the headers to the end of the stream.
//!
//! Common layers read `grpc-status` from the headers and end the span there: a stream that fails in its trailers is
//! recorded as OK. Here the span lives as long as the body and takes its status from where the call really ended.
//! The parent is set before the span starts; once it has started, it would be refused.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use opentelemetry::{
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::Status as SpanStatus,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{Code, body::Body};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{Around, Next, method};
use crate::{
    body::{self, OnEnd},
    deadline::Deadline,
    server::Operation,
    status::code_name,
    telemetry::fields,
};

/// Spans of calls that this process serves.
#[derive(Clone, Debug)]
pub(crate) struct Incoming;

impl Around for Incoming {
    async fn call(&self, request: Request<Body>, next: Next) -> Response<Body> {
        if method::is_housekeeping(request.uri().path()) {
            return next.run(request).await;
        }
        let span = match request.extensions().get::<Operation>() {
            Some(Operation(name)) => http_span(name),
            None => rpc_span(method::known(request.uri().path())),
        };
        let caller = TraceContextPropagator::new()
            .extract_with_context(&opentelemetry::Context::new(), &Headers(request.headers()));
        // Fails only where no OpenTelemetry layer is installed: then there is no trace to join.
        let _ = span.set_parent(caller);
        follow(span, Watch::Work, is_failure_of_ours, request, next).await
    }
}

fn rpc_span(method: &'static str) -> Span {
    tracing::info_span!(
        target: fields::SPANS,
        parent: None,
        fields::RPC,
        otel.name = method,
        otel.kind = "server",
        { fields::RPC_SYSTEM } = "grpc",
        { fields::RPC_METHOD } = method,
        { fields::RPC_STATUS } = Empty,
        { fields::ERROR_TYPE } = Empty,
        { fields::DEADLINE_MS } = Empty,
    )
}

/// Of a call by plain HTTP, which ends with a code of gRPC's all the same.
fn http_span(operation: &'static str) -> Span {
    let (verb, route) = operation.split_once(' ').unwrap_or((operation, ""));
    tracing::info_span!(
        target: fields::SPANS,
        parent: None,
        fields::HTTP,
        otel.name = operation,
        otel.kind = "server",
        { fields::HTTP_METHOD } = verb,
        { fields::HTTP_ROUTE } = route,
        { fields::RPC_STATUS } = Empty,
        { fields::ERROR_TYPE } = Empty,
        { fields::DEADLINE_MS } = Empty,
    )
}

/// Spans of calls that this process makes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// The name of the peer.
    pub(crate) peer: &'static str,
}

impl Around for Outgoing {
    async fn call(&self, mut request: Request<Body>, next: Next) -> Response<Body> {
        let method = method::known(request.uri().path());
        let span = tracing::info_span!(
            target: fields::SPANS,
            fields::RPC,
            otel.name = method,
            otel.kind = "client",
            { fields::RPC_SYSTEM } = "grpc",
            { fields::RPC_METHOD } = method,
            { fields::RPC_STATUS } = Empty,
            { fields::ERROR_TYPE } = Empty,
            { fields::DEADLINE_MS } = Empty,
            { fields::PEER } = self.peer,
        );
        if let Some(left) = request.extensions().get::<Deadline>().and_then(|deadline| deadline.remaining()) {
            span.record(fields::DEADLINE_MS, millis(left));
        }
        TraceContextPropagator::new().inject_context(&span.context(), &mut HeadersMut(request.headers_mut()));
        follow(span, Watch::End, |code| code != Code::Ok, request, next).await
    }
}

/// Notes on the span of an incoming call how long it may take.
pub(crate) fn record_deadline(deadline: Deadline) {
    if let Some(left) = deadline.remaining() {
        Span::current().record(fields::DEADLINE_MS, millis(left));
    }
}

/// As a span takes it: its numbers are i64, and what is not becomes text.
fn millis(left: std::time::Duration) -> i64 {
    i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
}

/// What happens within a span while an answer flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// The work that makes the answer.
    Work,
    /// Nothing until its end: it is only received, by work that has a span of its own, and entering two for each message
    /// would cost more than it tells.
    End,
}

/// Runs a call in its span and ends the span with the call.
async fn follow(
    span: Span,
    watch: Watch,
    failure: fn(Code) -> bool,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let end = EndSpan { span: Some(span.clone()), failure };
    let response = next.run(request).instrument(span.clone()).await;
    let response = body::observe(response, end);
    response.map(|inner| body::boxed(Spanned { inner: Some(inner), span: Some(span), watch }))
}

/// Codes that mean that the server failed; the others are the caller's doing, and no error of the span that served it.
fn is_failure_of_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Writes the outcome on the span, also where the caller leaves before there is a response.
struct EndSpan {
    span: Option<Span>,
    failure: fn(Code) -> bool,
}

impl EndSpan {
    fn end(&mut self, code: Code) {
        let Some(span) = self.span.take() else { return };
        span.record(fields::RPC_STATUS, code_name(code));
        if (self.failure)(code) {
            span.record(fields::ERROR_TYPE, code_name(code));
            span.set_status(SpanStatus::error(code_name(code)));
        }
    }
}

impl OnEnd for EndSpan {
    fn on_end(mut self, status: Option<Code>) {
        self.end(status.unwrap_or(Code::Cancelled));
    }
}

impl Drop for EndSpan {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Polls, where that is work, and drops a body inside its span. The span closes before the last frame is handed on.
struct Spanned {
    inner: Option<Body>,
    span: Option<Span>,
    watch: Watch,
}

impl Spanned {
    fn close(&mut self) {
        if let Some(span) = self.span.take() {
            span.in_scope(|| drop(self.inner.take()));
        }
    }
}

impl http_body::Body for Spanned {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        let (Some(inner), Some(span)) = (this.inner.as_mut(), this.span.as_ref()) else {
            return Poll::Ready(None);
        };
        let frame = ready!(match this.watch {
            Watch::Work => span.in_scope(|| Pin::new(inner).poll_frame(cx)),
            Watch::End => Pin::new(inner).poll_frame(cx),
        });
        let more = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        if !more {
            this.close();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Drop for Spanned {
    fn drop(&mut self) {
        self.close();
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
