//! How a peer is called: a lazy connection that heals itself, one span a call, and the deadline's remainder sent on.
//!
//! A call takes its [`Deadline`](crate::Deadline) from the request's extensions (`deadline.spend(&mut request)`).
//!
//! Map: `channel` (the connection and its healing), `connect` (sockets, pipes, TLS), `received` (what a broken answer
//! becomes), `tied` (dropping an answer ends its request), `replicas` (several of them as one), `breaker` (one that
//! only fails is left alone), `dns` (who they are).

mod breaker;
mod channel;
mod connect;
mod dns;
mod received;
mod replicas;
mod tied;

use std::time::Duration;

use futures::Stream;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer as _, Service, ServiceBuilder, util::BoxCloneSyncService};

use self::{channel::Channel, replicas::Replicas};
use crate::{
    BoxError, Context,
    config::{FromConfig, Section, any, between, positive},
    layer::{around, deadline, metrics::ToPeer, trace},
    pipe,
    tls::ClientTls,
};

/// Where a peer listens.
#[derive(Clone, Debug)]
pub enum Target {
    /// `http://host:port` or `https://host:port`.
    Uri(http::Uri),
    /// An in-memory connection: the whole mesh in one process.
    Pipe(pipe::Connector),
}

impl Target {
    /// Whether both are the same place.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Uri(one), Self::Uri(another)) => one == another,
            (Self::Pipe(one), Self::Pipe(another)) => one.is(another),
            _ => false,
        }
    }
}

/// How calls to a peer are made.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `address`: where the peer listens, `http://host:port` or `https://host:port`.
    pub address: http::Uri,
    /// `connect_timeout`: how long a call may wait for a connection, names and TLS included.
    pub connect_timeout: Duration,
    /// `keepalive_interval`: how often a connection is pinged.
    pub keepalive_interval: Duration,
    /// `keepalive_timeout`: how long a ping may go unanswered before the peer counts as gone.
    pub keepalive_timeout: Duration,
    /// `max_message_bytes`: the largest message that is read. Stubs pass it to `max_decoding_message_size`.
    pub max_message_bytes: usize,
    /// `resolve_every`: how often the address's name is resolved anew, to balance calls over all replicas behind it.
    /// Absent: the peer is one place.
    pub resolve_every: Option<Duration>,
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
            address: http::Uri::default(),
            connect_timeout: CONNECT_TIMEOUT,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            max_message_bytes: MAX_MESSAGE_BYTES,
            resolve_every: None,
            tls: None,
        }
    }
}

impl FromConfig for ClientConfig {
    fn from_config(section: &mut Section<'_>) -> Self {
        let config = Self {
            address: section.required("address", any()),
            connect_timeout: section.value("connect_timeout", CONNECT_TIMEOUT, positive()),
            keepalive_interval: section.value("keepalive_interval", KEEPALIVE_INTERVAL, positive()),
            keepalive_timeout: section.value("keepalive_timeout", KEEPALIVE_TIMEOUT, positive()),
            max_message_bytes: section.value("max_message_bytes", MAX_MESSAGE_BYTES, between(1024, 1 << 30)),
            resolve_every: section.optional("resolve_every", positive()),
            tls: section.optional_section("tls"),
        };
        if let (Some(every), Some(_)) = (config.resolve_every, &config.tls) {
            let rule =
                "must not be set beside a [tls]: replicas are called by address, certificates name hosts";
            section.problem("resolve_every", humantime::format_duration(every), rule);
        }
        match (config.address.scheme_str(), &config.tls) {
            (Some("https"), None) => {
                section.problem("address", &config.address, "is https, so must have a [tls] beside it")
            }
            (Some("http"), Some(_)) => {
                section.problem("address", &config.address, "must be https, since there is a [tls]")
            }
            _ => {}
        }
        config
    }
}

impl ClientConfig {
    /// The peer at `address`.
    pub fn target(&self) -> Target {
        Target::Uri(self.address.clone())
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
    match (target, config.resolve_every) {
        (Target::Uri(address), Some(every)) => {
            Ok(connect_discovered(context, peer, dns::members(address, every), config))
        }
        (target, _) => Ok(layered(context, peer, Channel::new(context, peer, target, config)?)),
    }
}

/// Balances calls over the replicas of `peer`. Each item of `members` is all of them; it is read by a task, whether
/// there are calls or not.
pub fn connect_discovered(
    context: &Context,
    peer: &'static str,
    members: impl Stream<Item = Vec<Target>> + Send + 'static,
    config: &ClientConfig,
) -> Outgoing {
    layered(context, peer, Replicas::discovered(context, peer, members, config))
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
