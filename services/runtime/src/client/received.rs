//! What a broken connection or a reset stream becomes: a status with a reason.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::DropGuard;
use tonic::{Code, Status};

use crate::status::{self, chain, reason};

/// The body of a peer's answer.
pub(super) struct Received {
    pub(super) inner: Incoming,
    pub(super) peer: &'static str,
    /// Dropped with the body: then the request need not go on either.
    pub(super) _wanted: DropGuard,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let peer = self.peer;
        Poll::Ready(frame.map(|frame| frame.map_err(|error| broken(peer, &error))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The status of a call whose stream was reset or whose connection broke.
///
/// A peer that resets one stream says why, and the gRPC specification says what that means. Everything else happened
/// to the connection, and another may be better.
pub(super) fn broken(peer: &'static str, error: &hyper::Error) -> Status {
    let code = reset_reason(error).map_or(Code::Unavailable, code_of);
    status::with_reason(code, reason::UNREACHABLE, format!("the call to {peer} broke: {}", chain(error)))
}

/// Why the peer reset this one stream, if that is what happened.
fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let cause = error.source()?.downcast_ref::<h2::Error>()?;
    (cause.is_reset() && cause.is_remote()).then(|| cause.reason()).flatten()
}

fn code_of(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// A peer's INTERNAL without details gets them: here it is known whose fault it is.
pub(super) fn attributed(peer: &'static str, status: &Status) -> Option<Status> {
    let bare = status.code() == Code::Internal && status.details().is_empty();
    bare.then(|| status::with_reason(Code::Internal, reason::PEER, format!("{peer}: {}", status.message())))
}
