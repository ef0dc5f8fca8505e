//! How a peer is called: a lazy connection that heals itself, one span a call, and the deadline's remainder sent on.
//!
//! A call takes its [`Deadline`](crate::Deadline) from the request's extensions (`deadline.spend(&mut request)`).
//!
//! Map: `channel` (the connection and its healing), `connect` (sockets, pipes, TLS), `received` (what a broken answer
//! becomes), `tied` (dropping an answer ends its request), `pool` (several replicas as one), `replica` (one of them),
//! `balance` (which of them gets a call), `breaker` (one that only fails is left alone), `outlier` (so is one that fails
//! more often than the others), `members` and `dns` (who they are).

mod balance;
mod breaker;
mod channel;
mod connect;
mod dns;
mod members;
mod outlier;
mod pool;
mod received;
mod replica;
mod tied;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::Stream;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer as _, Service, ServiceBuilder, util::BoxCloneSyncService};

pub use self::{
    balance::{Balance, Candidate, ReplicaId, Tried, TwoChoices},
    breaker::BreakerConfig,
    members::{Members, Source},
    outlier::OutlierConfig,
    pool::Pool,
    replica::{Fitness, Replica},
};

use self::channel::Channel;
use crate::{
    BoxError, Context,
    config::{FromConfig, Rule, Section, any, between, positive},
    layer::{around, deadline, metrics::ToPeer, trace},
    pipe,
    tls::ClientTls,
};

/// Where a peer listens.
#[derive(Clone, Debug)]
pub enum Target {
    /// `http://host:port` or `https://host:port`.
    Uri(http::Uri),
    /// One of the addresses behind a name, which stays the peer's name: for TLS, and for whoever routes by it.
    Resolved {
        /// `http://name:port` or `https://name:port`.
        origin: http::Uri,
        /// Where to connect.
        address: SocketAddr,
    },
    /// An in-memory connection: the whole mesh in one process.
    Pipe(pipe::Connector),
}

impl Target {
    /// Whether both are the same place.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Uri(one), Self::Uri(another)) => one == another,
            (Self::Resolved { origin: one, address }, Self::Resolved { origin: another, address: same }) => {
                one == another && address == same
            }
            (Self::Pipe(one), Self::Pipe(another)) => one.is(another),
            _ => false,
        }
    }
}

/// How calls to a peer are made.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `address` or `addresses`: where the peer listens, `http://host:port` or `https://host:port`; each of them a
    /// replica.
    pub addresses: Vec<http::Uri>,
    /// `connect_timeout`: how long a call may wait for a connection, names and TLS included.
    pub connect_timeout: Duration,
    /// `keepalive_interval`: how often a connection is pinged.
    pub keepalive_interval: Duration,
    /// `keepalive_timeout`: how long a ping may go unanswered before the peer counts as gone.
    pub keepalive_timeout: Duration,
    /// `max_message_bytes`: the largest message that is read. Stubs pass it to `max_decoding_message_size`.
    pub max_message_bytes: usize,
    /// `resolve_every`: how often the name of the one address is resolved anew, to balance calls over all replicas
    /// behind it. Absent: each address is one place.
    pub resolve_every: Option<Duration>,
    /// `[….breaker]`: when a replica that only fails is left alone.
    pub breaker: BreakerConfig,
    /// `[….outlier]`: when a replica that fails more often than the others is.
    pub outlier: OutlierConfig,
    /// `[….tls]`: must be there where the address is `https`, and only there.
    pub tls: Option<ClientTls>,
}

/// A caller must hear of a peer that is down within a second, so knocking may not take that long.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// Finds a peer that died without a word, such as a machine that lost power.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that cannot answer a ping for this long does not generate either.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// As on the server's side.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            connect_timeout: CONNECT_TIMEOUT,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            max_message_bytes: MAX_MESSAGE_BYTES,
            resolve_every: None,
            breaker: BreakerConfig::default(),
            outlier: OutlierConfig::default(),
            tls: None,
        }
    }
}

impl FromConfig for ClientConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self {
            addresses: addresses(section),
            connect_timeout: section.value("connect_timeout", CONNECT_TIMEOUT, positive()),
            keepalive_interval: section.value("keepalive_interval", KEEPALIVE_INTERVAL, positive()),
            keepalive_timeout: section.value("keepalive_timeout", KEEPALIVE_TIMEOUT, positive()),
            max_message_bytes: section.value("max_message_bytes", MAX_MESSAGE_BYTES, between(1024, 1 << 30)),
            resolve_every: section.optional("resolve_every", positive()),
            breaker: section.section("breaker"),
            outlier: section.section("outlier"),
            tls: section.optional_section("tls"),
        };
        if let (Some(every), 2..) = (config.resolve_every, config.addresses.len()) {
            let rule = "must not be set beside several addresses: it resolves the name of one";
            section.problem("resolve_every", humantime::format_duration(every), rule);
        }
        for address in &config.addresses {
            match (address.scheme_str(), &config.tls) {
                (Some("https"), None) => {
                    section.problem("address", address, "is https, so must have a [tls] beside it")
                }
                (Some("http"), Some(_)) => {
                    section.problem("address", address, "must be https, since there is a [tls]")
                }
                _ => {}
            }
        }
        config
    }
}

/// One address, or several.
fn addresses(section: &mut Section<'_>) -> Vec<http::Uri> {
    let distinct = |all: &Vec<http::Uri>, _: &[_]| {
        !all.is_empty() && all.iter().enumerate().all(|(index, one)| !all[..index].contains(one))
    };
    let words = "must have at least one address, and none twice".to_owned();
    match section.optional("addresses", Rule { holds: distinct, bounds: Vec::new(), words }) {
        Some(several) => {
            if let Some(one) = section.optional::<http::Uri>("address", any()) {
                section.problem("address", one, "must not be set beside addresses");
            }
            several
        }
        None => vec![section.required("address", any())],
    }
}

impl ClientConfig {
    /// Who the replicas of the peer are.
    pub fn members(&self) -> Members {
        match (self.resolve_every, self.addresses.as_slice()) {
            (Some(every), [address]) => Members::Named { address: address.clone(), every },
            (_, addresses) => Members::Fixed(addresses.iter().cloned().map(Target::Uri).collect()),
        }
    }
}

/// A connection to a peer with our layers around it. Cheap to clone; `Clone + tonic::client::GrpcService<Body>`.
///
/// It never fails: a peer that cannot be reached, or a connection that breaks, is an answer too, `UNAVAILABLE` with
/// an `ErrorInfo` whose reason is [`UNREACHABLE`](crate::status::reason::UNREACHABLE).
pub type Outgoing =
    BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<tonic::body::Body>, BoxError>;

/// Makes a lazy connection to `peer` (its name in spans, metrics and errors).
///
/// # Errors
/// An address or a certificate that is not usable.
pub fn connect(
    context: &Context,
    peer: &'static str,
    target: Target,
    config: &ClientConfig,
) -> Result<Outgoing, BoxError> {
    Ok(layered(context, peer, Channel::new(context, peer, target, config, || {})?))
}

/// Balances calls over the replicas of `peer`. Each item of `members` is all of them; it is read by a task, whether
/// there are calls or not.
pub fn connect_discovered(
    context: &Context,
    peer: &'static str,
    members: impl Stream<Item = Vec<Target>> + Send + 'static,
    config: &ClientConfig,
) -> Outgoing {
    Pool::discovered(context, peer, members, config, Arc::<TwoChoices>::default()).outgoing()
}

fn layered<S>(context: &Context, peer: &'static str, connection: S) -> Outgoing
where
    S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let stack = ServiceBuilder::new()
        // tonic's stubs take any error; there is none.
        .map_err(|never: std::convert::Infallible| match never {})
        // One span an attempt, in the trace of the call that it is made for.
        .layer(around(trace::Outgoing { peer }))
        // Counts what the caller is told.
        .layer(around(ToPeer { peer, metrics: context.calls_made.clone() }))
        // Sends what is left; knocking counts too.
        .layer(around(deadline::Outgoing))
        .into_inner();
    BoxCloneSyncService::new(stack.layer(connection))
}
