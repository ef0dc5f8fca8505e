//! `grpc.health.v1` over [`Health`].
//!
//! Our own and not `tonic-health`'s reporter, because that one starts the empty name as SERVING, and its watches never
//! end: an open watch is an open stream, and a graceful shutdown waits for it.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use super::Health;
use crate::drain::{Drain, Phase};

/// The names that are served; unknown until the service has started.
pub(crate) type Names = Arc<OnceLock<BTreeSet<&'static str>>>;

/// The health service of a process.
#[derive(Clone, Debug)]
pub(crate) struct HealthRpc {
    pub(crate) health: Health,
    pub(crate) drain: Drain,
    pub(crate) names: Names,
}

impl HealthRpc {
    /// Whether `service` is one of ours. While the process starts every name might be.
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.names.get().is_none_or(|names| names.contains(service))
    }

    fn status(&self, service: &str, serving: bool) -> ServingStatus {
        match (self.knows(service), serving) {
            (false, _) => ServingStatus::ServiceUnknown,
            (true, false) => ServingStatus::NotServing,
            (true, true) => ServingStatus::Serving,
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for HealthRpc {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !self.knows(&service) {
            return Err(Status::not_found(format!("no service `{service}` here")));
        }
        Ok(Response::new(response(self.status(&service, self.health.is_serving()))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The status now and at each change, until the process drains.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let this = self.clone();
        let mut last = None;
        let changes = WatchStream::new(self.health.watch()).filter_map(move |serving| {
            let status = this.status(&service, serving);
            let changed = last.replace(status) != Some(status);
            std::future::ready(changed.then(|| Ok(response(status))))
        });
        let drain = self.drain.clone();
        let draining = async move { drain.reached(Phase::Draining).await };
        Ok(Response::new(Box::pin(changes.take_until(draining))))
    }
}
