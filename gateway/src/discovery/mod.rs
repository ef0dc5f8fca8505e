//! Who the replicas of a service are, where Kubernetes knows: `address = "kubernetes://NAMESPACE/SERVICE:PORT"`.
//!
//! Fixed lists and names in DNS are the runtime's; here the EndpointSlices of a Service are watched. DNS tells the same
//! later (its records live for seconds, resolvers keep them) and without the port; a watch tells at once that a pod is
//! about to leave.
//!
//! Map: `service` (the address, and what is wrong with one), `endpoints` (from EndpointSlices to addresses), `watch` (the
//! conversation with the API server), `told` (what is logged, measured and shown of it).
//!
//! Rules: only endpoints that are ready and not about to stop get new calls, and calls that run there end in peace; an API
//! server that is away changes nothing; what a Service names is spread by the same pool as a list.

mod endpoints;
mod service;
mod told;
mod watch;

use std::time::Duration;

use kube::{Client, Config};
use weft_runtime::{
    BoxError, Context,
    client::{ClientConfig, Members, Source},
    config::Section,
};

use self::{told::Metrics, watch::Watch};
use crate::error::Peer;

/// An API server that swallows packets must be known to be away soon enough to be told.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds the replicas of services.
pub(crate) struct Discovery<'a> {
    context: &'a Context,
    metrics: Metrics,
    /// Made for the first service that needs it.
    client: Option<Client>,
}

impl<'a> Discovery<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self { context, metrics: Metrics::new(&context.metrics), client: None }
    }

    /// Who the replicas of a service are.
    ///
    /// # Errors
    /// An address in Kubernetes where nothing says which Kubernetes: neither a kubeconfig nor a pod's own account.
    pub(crate) async fn members(&mut self, peer: Peer, config: &ClientConfig) -> Result<Members, BoxError> {
        let Some(service) = service::of(config)? else { return Ok(config.members()) };
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(client().await.map_err(|why| format!("{service}: {why}"))?).clone(),
        };
        let told = self.metrics.of(peer, self.context);
        Ok(Members::Followed(Source::new(move || {
            Watch::new(client.clone(), service.clone(), told.clone()).follow()
        })))
    }
}

/// A client of the API server that KUBECONFIG, `~/.kube/config` or the pod's own account names, in this order.
async fn client() -> Result<Client, BoxError> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(Client::try_from(config)?)
}

/// Notes what is wrong with the addresses of a service; `key` is theirs in the configuration.
pub(crate) fn check(section: &mut Section<'_>, key: &'static str, config: &ClientConfig) {
    let Some(address) = config.addresses.iter().find(|address| service::is_one(address)) else { return };
    if let Err(rule) = service::of(config) {
        section.problem(key, address, rule);
    }
}
