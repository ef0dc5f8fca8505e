//! A request that ends when nobody waits for its answer.
//!
//! Dropping is cancelling, but hyper goes on sending the request of a call whose answer was dropped for as long as
//! the request's own stream is open, and the peer goes on serving it. So the two are tied together.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use crate::body::boxed;

/// A request body, and the guard whose drop resets its stream.
pub(super) fn tie(inner: Body) -> (Body, DropGuard) {
    let token = CancellationToken::new();
    let untied = Box::pin(token.clone().cancelled_owned());
    (boxed(Tied { inner, untied }), token.drop_guard())
}

struct Tied {
    inner: Body,
    untied: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Tied {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.untied.as_mut().poll(cx).is_ready() {
            let mut status = Status::cancelled("nobody waits for the answer");
            // hyper resets the stream for the reason that it finds in the error's chain.
            status.set_source(Arc::new(h2::Error::from(h2::Reason::CANCEL)));
            return Poll::Ready(Some(Err(status)));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
