//! Lets a request in, with its caller's identity in its extensions, or answers it.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use weft_runtime::tls::PeerIdentity;

use super::{Auth, credential, identity::Identity};
use crate::error::Error;

/// Puts [`Authenticated`] around a service.
#[derive(Clone, Debug)]
pub(crate) struct AuthLayer {
    auth: Auth,
}

impl AuthLayer {
    pub(super) fn new(auth: Auth) -> Self {
        Self { auth }
    }
}

/// Serves those who may call.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated<S> {
    inner: S,
    auth: Auth,
}

impl Auth {
    /// Lets a request in: says in its extensions whose it is, and takes the secret out of it.
    fn admit(&self, request: &mut http::Request<Body>) -> Result<(), Error> {
        let path = request.uri().path().trim_start_matches('/');
        let identity = if self.is_open(path) {
            Identity::anyone()
        } else {
            let peer = request.extensions().get::<PeerIdentity>();
            let identity = self.authenticate(request.headers(), peer)?;
            self.authorize(&identity, path)?;
            identity
        };
        credential::take_out(request.headers_mut());
        request.extensions_mut().insert(identity);
        Ok(())
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { inner, auth: self.auth.clone() }
    }
}

impl<S> Service<http::Request<Body>> for Authenticated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.auth.admit(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Ok(Status::from(refusal).into_http()))),
        }
    }
}
