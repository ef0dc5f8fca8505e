//! Messages of bounded size, judged by what their frames announce, before a byte of them is buffered.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};

use crate::status::{self, reason};

/// Ends a body with `RESOURCE_EXHAUSTED` at a message of more than `most` bytes; `setting` names who says so.
pub(crate) fn bounded(inner: Body, most: usize, setting: &'static str) -> Body {
    let frames = Frames { most, header: [0; HEADER], filled: 0, message_left: 0 };
    super::boxed(Bounded { inner, frames, setting })
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
    setting: &'static str,
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
            let (most, setting) = (self.frames.most, self.setting);
            let message = format!("a message has {found} bytes; must be at most {most} ({setting})");
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
