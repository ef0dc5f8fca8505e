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
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};

use super::{Routes, Stack};
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
    /// Health and reflection, as long as the service starts.
    housekeeping: Routes,
    /// Set once, when the service has started.
    started: Arc<OnceLock<Started>>,
}

#[derive(Debug)]
struct Started {
    services: Routes,
    housekeeping: Routes,
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
        let housekeeping = BoxCloneSyncService::new(housekeeping.routes().prepare());
        Ok(Self { housekeeping, started: Arc::default() })
    }

    /// Lets calls through to the services, and puts their stacks around housekeeping. Later calls of this change nothing.
    pub(crate) fn open(&self, services: Routes, stacks: Vec<Stack>) {
        let housekeeping = stacks.into_iter().fold(self.housekeeping.clone(), |routes, stack| stack(routes));
        let _ = self.started.set(Started { services, housekeeping });
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
        let started = self.started.get();
        if method::is_housekeeping(request.uri().path()) {
            let housekeeping = started.map_or(&self.housekeeping, |started| &started.housekeeping);
            return Box::pin(housekeeping.clone().oneshot(request));
        }
        match started {
            Some(started) => Box::pin(started.services.clone().oneshot(request)),
            None => Box::pin(std::future::ready(Ok(starting().into_http()))),
        }
    }
}

fn starting() -> tonic::Status {
    status::unavailable(reason::STARTING, "the process is still starting", Some(RETRY_AFTER))
}
