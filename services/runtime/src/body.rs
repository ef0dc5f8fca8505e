//! The moment at which a response has really ended.
//!
//! tower frees a permit at response headers, and common layers read `grpc-status` there too; for a stream neither is
//! the end. Admission, load, metrics and a span's status all need the same later moment, so it is found once, here.
//!
//! Map: [`observe`] (when and how it ended), [`until`] (end it with a status of ours), `amend` (change the status on
//! its way), `bounded` (no message larger than allowed), [`boxed`] (as others take it).

mod amend;
mod bounded;
#[cfg(test)]
mod tests;
mod until;

pub use until::until;

pub(crate) use amend::amend;
pub(crate) use bounded::bounded;
pub(crate) use until::trailers;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tonic::{Code, Status, body::Body};

/// Something that wants to know how a response really ended. Dropped without a call to it only together with the
/// body that carries it.
///
/// A plain permit is `impl OnEnd for Permit { fn on_end(self, _: Option<Code>) {} }`: dropping is the behaviour.
pub trait OnEnd: Send + 'static {
    /// `status` is the code in the trailers (or headers), or `None` if the caller went away first.
    fn on_end(self, status: Option<Code>);
}

/// A function is the shortest observer.
impl<F: FnOnce(Option<Code>) + Send + 'static> OnEnd for F {
    fn on_end(self, status: Option<Code>) {
        self(status);
    }
}

/// Wraps a response so that `on_end` is called exactly once: at trailers, at an error, or when the body is dropped.
pub fn observe(response: Response<Body>, on_end: impl OnEnd) -> Response<Body> {
    // A call that fails before its first message has its status in the headers, and no more to come.
    if let Some(code) = code_in(response.headers()) {
        on_end.on_end(Some(code));
        return response;
    }
    let unsaid = code_for(response.status());
    if response.body().is_end_stream() {
        on_end.on_end(Some(unsaid));
        return response;
    }
    response.map(|inner| boxed(Observed { inner, unsaid, on_end: Some(on_end) }))
}

/// A body as every layer takes it. What tonic's own [`Body::new`] puts around each body, to make statuses of its errors, a
/// message would pass once for each layer, and here they are statuses already.
pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = Status> + Send + 'static) -> Body {
    Body::new(UnsyncBoxBody::new(body))
}

/// The code that headers or trailers carry.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// The code of a response that ends without saying one, as the gRPC specification derives it from HTTP's.
fn code_for(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    }
}

struct Observed<E: OnEnd> {
    inner: Body,
    unsaid: Code,
    on_end: Option<E>,
}

impl<E: OnEnd> Observed<E> {
    fn end(&mut self, status: Option<Code>) {
        if let Some(on_end) = self.on_end.take() {
            on_end.on_end(status);
        }
    }
}

// The body is boxed and never pinned structurally, so it may move.
impl<E: OnEnd> Unpin for Observed<E> {}

impl<E: OnEnd> http_body::Body for Observed<E> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let code = code_in(trailers).unwrap_or(self.unsaid);
                    self.end(Some(code));
                }
            }
            Some(Err(status)) => {
                let code = status.code();
                self.end(Some(code));
            }
            None => {
                let code = self.unsaid;
                self.end(Some(code));
            }
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

impl<E: OnEnd> Drop for Observed<E> {
    fn drop(&mut self) {
        self.end(None);
    }
}
