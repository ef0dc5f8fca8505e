//! Requests that cannot be read, answered precisely.
//!
//! A message is refused by the length that its frame announces, before a byte of it is buffered: RESOURCE_EXHAUSTED, as
//! every gRPC implementation but tonic (OUT_OF_RANGE) answers it. Bytes that are no message are the caller's mistake,
//! INVALID_ARGUMENT, where tonic says INTERNAL.
//!
//! # Why an INTERNAL without details is the caller's
//! tonic gives a layer nothing but the code and a sentence, and nothing here decides by sentences. But every INTERNAL
//! of ours comes from [`status::answer`], which attaches an `ErrorInfo`, and every one received from a peer has passed
//! our client, which attaches one too. What is left without details was made by tonic while it read the request: a
//! message that does not decode, text that is not UTF-8, a frame with flags that do not exist, a body that ends in
//! the middle of a message.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};

use super::{Around, Next};
use crate::{
    body,
    status::{self, reason},
};

/// Bounds messages and names what cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Readable {
    /// The largest message, in bytes, as it travels.
    pub(crate) max_message_bytes: usize,
}

impl Around for Readable {
    async fn call(&self, request: Request<Body>, next: Next) -> Response<Body> {
        let frames = Frames { most: self.max_message_bytes, header: [0; HEADER], filled: 0, message_left: 0 };
        let request = request.map(|inner| Body::new(Bounded { inner, frames }));
        body::amend(next.run(request).await, undecodable)
    }
}

fn undecodable(status: &Status) -> Option<Status> {
    let of_tonic = status.code() == Code::Internal && status.details().is_empty();
    of_tonic.then(|| {
        let message = format!("the request could not be read: {}", status.message());
        status::with_reason(Code::InvalidArgument, reason::UNDECODABLE, message)
    })
}

/// A gRPC frame's header: one byte of flags, four of length.
const HEADER: usize = 5;

/// Follows the frames in a stream of bytes.
struct Frames {
    most: usize,
    header: [u8; HEADER],
    filled: usize,
    message_left: usize,
}

impl Frames {
    /// Reads on; the length of a message that is too large, where there is one.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), usize> {
        while !data.is_empty() {
            if self.message_left > 0 {
                let taken = self.message_left.min(data.len());
                self.message_left -= taken;
                data.advance(taken);
                continue;
            }
            let taken = (HEADER - self.filled).min(data.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&data[..taken]);
            self.filled += taken;
            data.advance(taken);
            if self.filled == HEADER {
                self.filled = 0;
                let [_flags, length @ ..] = self.header;
                self.message_left = u32::from_be_bytes(length) as usize;
                if self.message_left > self.most {
                    return Err(self.message_left);
                }
            }
        }
        Ok(())
    }
}

struct Bounded {
    inner: Body,
    frames: Frames,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(found) = self.frames.follow(data)
        {
            let most = self.frames.most;
            let message =
                format!("a message has {found} bytes; must be at most {most} (server.max_message_bytes)");
            let refused = status::with_reason(Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE, message);
            return Poll::Ready(Some(Err(refused)));
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
