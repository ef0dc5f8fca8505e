//! A response that something else may end.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

/// Lets a response run until `ended` resolves, and ends it then with that status in the trailers.
///
/// What made the response is dropped at that moment, so its work stops. Every message races, not only the first.
pub fn until(
    response: Response<Body>,
    ended: impl Future<Output = Status> + Send + 'static,
) -> Response<Body> {
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|inner| super::boxed(Until { inner: Some(inner), ended: Box::pin(ended) }))
}

struct Until {
    /// `None` once it ended.
    inner: Option<Body>,
    ended: BoxFuture<'static, Status>,
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.inner.is_none() {
            return Poll::Ready(None);
        }
        // Asked first: a stream that always has a message ready ends in time too.
        if let Poll::Ready(status) = self.ended.as_mut().poll(cx) {
            self.inner = None;
            return Poll::Ready(Some(trailers(&status).map(Frame::trailers)));
        }
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        let more = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        if !more {
            self.inner = None;
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

/// A status as trailers. One that HTTP cannot carry is an error of the body, which resets the stream.
pub(crate) fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}
