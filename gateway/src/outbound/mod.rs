//! THE outbound stack, and one client for each service behind the gateway.
//!
//! Map: `endpoint` (where a service is, and how much it is doing for us), `retry`, `exchange` (a call in both
//! directions, as the pipeline uses it), `tokenizer`, `inference`, `safety` (wire types in and out end here).
//!
//! Rules: field names in errors are translated to those of our own API here, where both are known; a retry stands
//! outside the stack, so that each attempt has its own span and count.

pub(crate) mod endpoint;
pub(crate) mod exchange;
pub(crate) mod inference;
pub(crate) mod retry;
pub(crate) mod safety;
pub(crate) mod tokenizer;

use std::sync::Arc;

use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_types::StatusExt as _;
use tracing::Span;
use weft_runtime::{
    BoxError, Context, Deadline,
    client::{self, ClientConfig, Target},
    status::Violations,
};

use crate::{
    config::Config,
    error::{Failure, Peer},
    metrics::Metrics,
};
use endpoint::Endpoint;
use retry::Retry;

/// Where the services are.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The tokenizer.
    pub tokenizer: Target,
    /// Inference.
    pub inference: Target,
    /// The safety filter.
    pub safety: Target,
}

/// All services behind the gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) tokenizer: tokenizer::Tokenizer,
    pub(crate) inference: inference::Inference,
    pub(crate) safety: safety::Safety,
}

/// How one service is reached.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) endpoint: Endpoint,
    pub(crate) retry: Arc<Retry>,
    /// The largest answer that is taken.
    pub(crate) max_message_bytes: usize,
}

impl Outbound {
    /// Connects lazily: a service that is not there yet is an error of the calls to it, not of this.
    pub(crate) fn new(
        config: &Config,
        context: &Context,
        targets: Targets,
        metrics: &Metrics,
    ) -> Result<Self, BoxError> {
        let route = |peer: Peer, target, client: &ClientConfig| -> Result<Route, BoxError> {
            Ok(Route {
                endpoint: stack(context, peer, target, client, metrics)?,
                retry: Arc::new(Retry::new(config.retry.clone(), metrics.retries(peer))),
                max_message_bytes: client.max_message_bytes,
            })
        };
        Ok(Self {
            tokenizer: tokenizer::Tokenizer::new(route(
                Peer::Tokenizer,
                targets.tokenizer,
                &config.tokenizer,
            )?),
            inference: inference::Inference::new(route(
                Peer::Inference,
                targets.inference,
                &config.inference,
            )?),
            safety: safety::Safety::new(route(Peer::Safety, targets.safety, &config.safety)?),
        })
    }
}

/// What every call to a service passes, outermost first.
fn stack(
    context: &Context,
    peer: Peer,
    target: Target,
    config: &ClientConfig,
    metrics: &Metrics,
) -> Result<Endpoint, BoxError> {
    // Trace, deadline (what is left of it) and a connection that heals itself: the same for every process.
    let connection = client::connect(context, peer.name(), target, config)?;
    // What is on its way to this endpoint, until the last message has come back: what a balancer will compare.
    Ok(Endpoint::new(connection, metrics.upstream_in_flight(peer)))
}

/// A `traceparent` whose sampled flag is off.
const UNTRACED: &str = "00-00000000000000000000000000000001-0000000000000001-00";

/// A request that spends from the caller's deadline.
pub(crate) fn request<T>(message: T, deadline: Option<Deadline>) -> Request<T> {
    let mut request = Request::new(message);
    // A call outside of every span is made for nobody: a trace of it, each second, would hide those of requests.
    if Span::current().is_none() {
        request.metadata_mut().insert("traceparent", MetadataValue::from_static(UNTRACED));
    }
    if let Some(deadline) = deadline {
        deadline.spend(&mut request);
    }
    request
}

/// A failed call. `rename` turns the service's name of a field into ours; fields that it does not know keep theirs.
fn failure(peer: Peer, status: Status, rename: impl Fn(&str) -> Option<String>) -> Failure {
    Failure { peer, status: renamed(&status, rename).unwrap_or(status) }
}

/// The same refusal with other names of fields; `None` if it names none.
pub(crate) fn renamed(status: &Status, rename: impl Fn(&str) -> Option<String>) -> Option<Status> {
    if status.code() != Code::InvalidArgument {
        return None;
    }
    let mut violations = Violations::new();
    for violation in status.get_details_bad_request()?.field_violations {
        let field = rename(&violation.field).unwrap_or(violation.field);
        violations.push(field, violation.description);
    }
    violations.into_result().err()
}
