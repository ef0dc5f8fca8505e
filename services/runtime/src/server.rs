//! What a process serves.

use std::convert::Infallible;
use tonic::{body::Body, server::NamedService};
use tower::{Layer, Service, util::BoxCloneSyncService};

/// A whole server's worth of routes.
pub type Routes = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// The services of a process. Health and reflection are added by the process.
#[derive(Debug, Default)]
pub struct Services {}

impl Services {
    /// None yet.
    pub fn new() -> Self { Self {} }
    /// Adds one. Its name is known to health from here on.
    #[must_use]
    pub fn add<S>(self, _service: S) -> Self
    where
        S: Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    { unimplemented!() }
    /// Puts a stack around all that was added, inside the process's own layers (trace, deadline, metrics).
    #[must_use]
    pub fn layer<L>(self, _layer: L) -> Self
    where
        L: Layer<Routes>,
        L::Service: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        <L::Service as Service<http::Request<Body>>>::Future: Send + 'static,
    { unimplemented!() }
}
