//! Changing a status on its way, wherever it stands.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

/// Asks `change` about the status that ends a response, in headers, trailers or an error of the body. Where it answers
/// with another, that one takes its place.
pub(crate) fn amend<F>(mut response: Response<Body>, change: F) -> Response<Body>
where
    F: Fn(&Status) -> Option<Status> + Send + 'static,
{
    if let Some(status) = Status::from_header_map(response.headers()) {
        if let Some(instead) = change(&status) {
            write(&instead, response.headers_mut());
        }
        return response;
    }
    response.map(|inner| super::boxed(Amended { inner, change }))
}

struct Amended<F> {
    inner: Body,
    change: F,
}

// The function is never pinned.
impl<F> Unpin for Amended<F> {}

impl<F: Fn(&Status) -> Option<Status>> http_body::Body for Amended<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut()
                    && let Some(instead) =
                        Status::from_header_map(trailers).and_then(|status| (self.change)(&status))
                {
                    write(&instead, trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(status)) => {
                let instead = (self.change)(&status);
                // An error resets the stream; a status that we chose is worth trailers, which the caller can read.
                match instead {
                    Some(instead) => Some(super::until::trailers(&instead).map(Frame::trailers)),
                    None => Some(Err(status)),
                }
            }
            None => None,
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Puts a status in place of the one that the headers carry.
fn write(status: &Status, headers: &mut HeaderMap) {
    for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
        headers.remove(name);
    }
    if status.add_header(headers).is_err() {
        // A message that HTTP cannot carry: the code alone still tells the truth.
        let bare = Status::new(status.code(), "");
        let _ = bare.add_header(headers);
    }
}
