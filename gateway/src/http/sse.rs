//! Server-sent events: `data: {…}`, an empty line, and at the end of an answer `data: [DONE]`.
//!
//! Inside of all layers the stream ends with a gRPC status in its trailers, as every stream of ours does; the
//! [`edge`](super::edge) reads it there.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use http::{HeaderMap, Response, header};
use http_body::Frame;
use serde::Serialize;
use tonic::{Status, body::Body};

/// The content type of event streams.
pub(super) const CONTENT_TYPE: &str = "text/event-stream";
/// What says that an answer is whole.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// One event.
pub(super) fn event(data: &impl Serialize) -> Bytes {
    // Our own words always become JSON; were one not to, an empty event would be no harm.
    let json = serde_json::to_vec(data).unwrap_or_default();
    let mut event = BytesMut::with_capacity(json.len() + 8);
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(&json);
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// An answer that is a stream of events.
pub(super) fn response(events: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Response<Body> {
    let mut response = Response::new(weft_runtime::body::boxed(Events(Some(events.boxed()))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    // nginx would hold the events back until it has a page of them.
    headers.insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    response
}

/// `None` once it ended.
struct Events(Option<BoxStream<'static, Result<Bytes, Status>>>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(events) = self.0.as_mut() else { return Poll::Ready(None) };
        let status = match ready!(events.poll_next_unpin(cx)) {
            Some(Ok(event)) => return Poll::Ready(Some(Ok(Frame::data(event)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.0 = None;
        let mut trailers = HeaderMap::new();
        let said = status.add_header(&mut trailers);
        Poll::Ready(Some(said.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
