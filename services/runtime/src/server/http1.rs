//! What calls on HTTP/1 need beside those on HTTP/2.
//!
//! They run within their connection, one after another, and not as tasks of their own: a call that has to be dropped can
//! only be dropped with its connection. And nobody but the response can tell the caller that the connection is about to
//! end.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{
    HeaderValue, Request, Response, Version,
    header::{CONNECTION, HeaderMap},
};
use tonic::body::Body;
use tower::Service;

use crate::{
    body,
    drain::{Drain, Phase},
    task::Limit,
};

type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Serves the calls of one connection.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    pub(super) inner: S,
    /// When the connection is dropped.
    pub(super) limit: Limit,
    pub(super) drain: Drain,
}

impl<S, B> Service<Request<B>> for Calls<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answer>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // It says something.
        self.limit.lift();
        let is_http1 = request.version() <= Version::HTTP_11;
        let answer = self.inner.call(request);
        if !is_http1 {
            return answer;
        }
        let (limit, drain) = (self.limit.clone(), self.drain.clone());
        Box::pin(async move {
            let mut response = answer.await?;
            say_goodbye(&drain, response.headers_mut());
            // A connection between two calls may be silent for longer than its last call could have taken.
            Ok(body::observe(response, move |_| limit.lift()))
        })
    }
}

/// While a process is still taking calls but about to stop, callers connect anew for the next one: elsewhere.
fn say_goodbye(drain: &Drain, headers: &mut HeaderMap) {
    if drain.phase() >= Phase::Announcing {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
