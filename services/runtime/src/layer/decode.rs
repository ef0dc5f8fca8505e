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

use http::{Request, Response};
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
        let request =
            request.map(|inner| body::bounded(inner, self.max_message_bytes, "server.max_message_bytes"));
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
