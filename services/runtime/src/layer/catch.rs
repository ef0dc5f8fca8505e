//! A panic in a handler is one call's INTERNAL, not the end of its connection or of the process.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{Around, Next};
use crate::{
    body::{boxed, trailers},
    status,
};

/// The layer's state: none.
#[derive(Clone, Debug)]
pub(crate) struct CatchPanics;

impl Around for CatchPanics {
    async fn call(&self, request: Request<Body>, next: Next) -> Response<Body> {
        // Unwind safety: what the handler owned is dropped with it, and nothing of it is used again.
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response.map(|inner| boxed(Caught { inner: Some(inner) })),
            Err(panic) => answer(&*panic).into_http(),
        }
    }
}

fn answer(panic: &(dyn Any + Send)) -> Status {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text");
    status::internal(&format!("a handler panicked: {text}"))
}

struct Caught {
    /// `None` after a panic: what panicked is not polled again.
    inner: Option<Body>,
}

impl http_body::Body for Caught {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx))) {
            Ok(frame) => frame,
            Err(panic) => {
                self.inner = None;
                Poll::Ready(Some(trailers(&answer(&*panic)).map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
