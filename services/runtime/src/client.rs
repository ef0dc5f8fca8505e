//! How a peer is called: a lazy connection that heals itself, one span a call, and the deadline's remainder sent on.
//!
//! A call takes its [`Deadline`](crate::Deadline) from the request's extensions (`deadline.spend(&mut request)`).

use crate::{BoxError, Context, config::{FromConfig, Section}, pipe};

/// Where a peer listens.
#[derive(Clone, Debug)]
pub enum Target {
    /// `http://host:port` or `https://host:port`.
    Uri(http::Uri),
    /// An in-memory connection: the whole mesh in one process.
    Pipe(pipe::Connector),
}

/// How calls to a peer are made.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    // address, connect_timeout, keepalive, max_message_bytes, tls: keys read by from_config
}

impl FromConfig for ClientConfig {
    fn from_config(_section: &mut Section<'_>) -> Self { unimplemented!() }
}

/// A connection to a peer with our layers around it. Cheap to clone; `Clone + tonic::client::GrpcService<Body>`.
pub type Outgoing = tower::util::BoxCloneSyncService<http::Request<tonic::body::Body>, http::Response<tonic::body::Body>, BoxError>;

/// Makes a lazy connection to `peer` (its name in spans, metrics and errors).
///
/// # Errors
/// An address or a certificate that is not usable.
pub fn connect(_context: &Context, _peer: &'static str, _target: Target, _config: &ClientConfig) -> Result<Outgoing, BoxError> { unimplemented!() }
