//! Which service answers: health and reflection always, the rest once the service has started.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{body::Body, service::RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;
use tower::{Service, ServiceExt as _};

use super::Routes;
use crate::{
    BoxError,
    health::rpc::HealthRpc,
    layer::method,
    status::{self, reason},
};

/// When a caller that came too early may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The innermost service of a process.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    housekeeping: tonic::service::Routes,
    /// Set once, when the service has started.
    services: Arc<OnceLock<Routes>>,
}

impl Front {
    /// # Errors
    /// A descriptor set that does not decode.
    pub(crate) fn new(health: HealthRpc) -> Result<Self, BoxError> {
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure();
            method::CONTRACTS
                .iter()
                .fold(builder, |builder, contract| builder.register_encoded_file_descriptor_set(contract))
        };
        let mut housekeeping = RoutesBuilder::default();
        housekeeping.add_service(HealthServer::new(health));
        housekeeping.add_service(reflection().build_v1()?);
        // All that Python's grpcio-reflection speaks, and older grpcurls.
        housekeeping.add_service(reflection().build_v1alpha()?);
        Ok(Self { housekeeping: housekeeping.routes().prepare(), services: Arc::default() })
    }

    /// Lets calls through to the services. Later calls of this change nothing.
    pub(crate) fn open(&self, services: Routes) {
        let _ = self.services.set(services);
    }
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if method::is_housekeeping(request.uri().path()) {
            return Box::pin(self.housekeeping.clone().oneshot(request));
        }
        match self.services.get() {
            Some(services) => Box::pin(services.clone().oneshot(request)),
            None => Box::pin(std::future::ready(Ok(starting().into_http()))),
        }
    }
}

fn starting() -> tonic::Status {
    status::unavailable(reason::STARTING, "the process is still starting", Some(RETRY_AFTER))
}
