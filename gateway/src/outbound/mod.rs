//! THE outbound stack, and one client for each service behind the gateway.
//!
//! Map: `endpoint` (the way to a service, and how much is on it), `retry`, `hedge`, `exchange` (a call in both directions, as
//! the pipeline uses it), `memory` (what such a call has said, for when it goes on elsewhere), `tokenizer`, `inference`,
//! `safety` (wire types in and out end here), `balance` (which replica of inference is asked), `generation` (tokens,
//! whichever replica says them), `voice` (a call that says one answer of it, or all), `readers` (who reads them), `resume`
//! (when a generation goes on elsewhere).
//!
//! Rules: field names in errors are translated to those of our own API here, where both are known; a retry stands
//! outside the stack, so that each attempt has its own span and count.

mod balance;
pub(crate) mod endpoint;
pub(crate) mod exchange;
pub(crate) mod generation;
pub(crate) mod hedge;
pub(crate) mod inference;
pub(crate) mod memory;
pub(crate) mod readers;
mod resume;
pub(crate) mod retry;
pub(crate) mod safety;
pub(crate) mod tokenizer;
mod voice;

use std::sync::Arc;

use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_types::StatusExt as _;
use tracing::Span;
use weft_runtime::{
    BoxError, Context, Deadline,
    client::{Balance, ClientConfig, Members, Pool, Tried, TwoChoices},
    status::Violations,
};

use crate::{
    config::Config,
    error::{Failure, Peer},
    metrics::Metrics,
};
use balance::PrefixAware;
use endpoint::Endpoint;
use hedge::Hedge;
use resume::Resume;
use retry::Retry;

/// Where the services are, each of them once or several times.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The tokenizer.
    pub tokenizer: Members,
    /// Inference.
    pub inference: Members,
    /// The safety filter.
    pub safety: Members,
}

/// All services behind the gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) tokenizer: tokenizer::Tokenizer,
    pub(crate) inference: inference::Inference,
    pub(crate) safety: safety::Safety,
    pools: Pools,
}

/// The replicas of each service.
#[derive(Clone, Debug)]
struct Pools {
    tokenizer: Pool,
    inference: Pool,
    safety: Pool,
}

/// How one service is reached.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) endpoint: Endpoint,
    pub(crate) retry: Arc<Retry>,
    pub(crate) hedge: Arc<Hedge>,
    pub(crate) resume: Arc<Resume>,
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
        let pool = |peer: Peer, members, client: &ClientConfig| {
            Pool::new(context, peer.name(), members, client, policy(peer, config, metrics))
        };
        let pools = Pools {
            tokenizer: pool(Peer::Tokenizer, targets.tokenizer, &config.tokenizer)?,
            inference: pool(Peer::Inference, targets.inference, &config.inference)?,
            safety: pool(Peer::Safety, targets.safety, &config.safety)?,
        };
        let route = |peer: Peer, client: &ClientConfig| Route {
            endpoint: stack(pools.of(peer), peer, metrics),
            retry: Arc::new(Retry::new(config.retry.clone(), metrics.retries(peer))),
            hedge: Arc::new(Hedge::new(config.hedge.clone(), pools.of(peer).clone(), metrics.hedges(peer))),
            resume: Arc::new(Resume::new(
                config.resume.clone(),
                pools.of(peer).clone(),
                metrics.resumptions(peer),
            )),
            max_message_bytes: client.max_message_bytes,
        };
        Ok(Self {
            tokenizer: tokenizer::Tokenizer::new(route(Peer::Tokenizer, &config.tokenizer)),
            inference: inference::Inference::new(
                route(Peer::Inference, &config.inference),
                config.balance.block_tokens,
            ),
            safety: safety::Safety::new(route(Peer::Safety, &config.safety)),
            pools,
        })
    }

    /// The replicas of a service.
    pub(crate) fn pool(&self, peer: Peer) -> &Pool {
        self.pools.of(peer)
    }
}

impl Pools {
    fn of(&self, peer: Peer) -> &Pool {
        match peer {
            Peer::Tokenizer => &self.tokenizer,
            Peer::Inference => &self.inference,
            Peer::Safety => &self.safety,
        }
    }
}

/// How calls to a service are spread over its replicas.
fn policy(peer: Peer, config: &Config, metrics: &Metrics) -> Arc<dyn Balance> {
    match peer {
        Peer::Tokenizer | Peer::Safety => Arc::<TwoChoices>::default(),
        Peer::Inference => Arc::new(PrefixAware::new(config.balance.clone(), &metrics.choices)),
    }
}

/// What every call to a service passes, outermost first.
fn stack(pool: &Pool, peer: Peer, metrics: &Metrics) -> Endpoint {
    // Trace, deadline (what is left of it), the choice of a replica and a connection to it that heals itself.
    let connection = pool.outgoing();
    // What is on its way to the service, until the last message has come back.
    Endpoint::new(connection, metrics.upstream_in_flight(peer))
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

/// The same for one of several attempts, each at another replica where there is one.
fn attempt<T>(message: T, tried: Tried, deadline: Option<Deadline>) -> Request<T> {
    let mut request = request(message, deadline);
    request.extensions_mut().insert(tried);
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
